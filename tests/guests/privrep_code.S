// SPDX-License-Identifier: Apache-2.0
// The string instructions whose interruption is looked at. 32-bit addresses: ..._a32.

#include "tests/guests/priv.h"

	.text
	.macro	string name, insn:vararg
	.balign	16
	.globl	rep_\name
rep_\name:
	\insn
	int	$PROBE_END
	.endm
	string	movsb, rep movsb
	string	movsw, rep movsw
	string	movsl, rep movsl
	string	movsq, rep movsq
	string	stosb, rep stosb
	string	stosw, rep stosw
	string	stosl, rep stosl
	string	stosq, rep stosq
	string	lodsb, rep lodsb
	string	lodsq, rep lodsq
	string	cmpsb, repe cmpsb
	string	cmpsw, repe cmpsw
	string	cmpsl, repe cmpsl
	string	cmpsq, repe cmpsq
	string	cmpsb_ne, repne cmpsb
	string	scasb, repne scasb
	string	scasw, repne scasw
	string	scasl, repne scasl
	string	scasq, repne scasq
	string	scasb_e, repe scasb
	string	movsb_a32, addr32 rep movsb
	string	movsq_a32, addr32 rep movsq
	string	stosb_a32, addr32 rep stosb
	string	scasb_a32, addr32 repne scasb
	string	movsb_once, movsb
	string	stosq_once, stosq
	.balign	16
	.globl	rep_movsb_fs
rep_movsb_fs:
	.byte	0x64
	rep movsb
	int	$PROBE_END

// SPDX-License-Identifier: Apache-2.0
// The accesses whose page faults are looked at: RDX is the address.

#include "tests/guests/priv.h"

	.text
	.balign	16
	.globl	access_read, access_write, access_fetch, access_modify, access_read_8
	.globl	access_write_8, access_push, access_movs, access_fetch_end, access_cmpxchg
	.globl	page_code, page_code_end
access_read:
	movb	(%rdx), %al
	int	$PROBE_END
	.balign	16
access_write:
	movb	%al, (%rdx)
	int	$PROBE_END
	.balign	16
access_fetch: // what is fetched there begins with `int $PROBE_END`
	jmp	*%rdx
	.balign	16
access_modify: // adds nothing, but it is a write
	lock orb $0, (%rdx)
	int	$PROBE_END
	.balign	16
access_cmpxchg: // a write even when they are not equal
	movb	$0x77, %al
	lock cmpxchgb %cl, (%rdx)
	int	$PROBE_END
	.balign	16
access_read_8:
	movq	(%rdx), %rax
	int	$PROBE_END
	.balign	16
access_write_8:
	movq	%rax, (%rdx)
	int	$PROBE_END
	.balign	16
access_push:
	movq	%rdx, %rsp
	pushq	%rax
	int	$PROBE_END
	.balign	16
access_movs: // reads, then writes
	movq	%rdx, %rsi
	movq	%rcx, %rdi
	movsq
	int	$PROBE_END

	// Ten bytes long, to be put across the end of a page: mov $imm64, %rax.
	.balign	16
page_code:
	movabsq	$0x1122334455667788, %rax
	int	$PROBE_END
page_code_end:

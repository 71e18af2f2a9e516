// SPDX-License-Identifier: Apache-2.0
// The priv* guests' way into a probe and out of it, and their descriptors.

#include "tests/guests/priv.h"

	.text
	// void probe_enter(struct frame *f)
	.globl	probe_enter, probe_leave
probe_enter:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, probe_sp
	movq	%rdi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rbp
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rbx
	popq	%rax
	addq	$16, %rsp
	iretq
probe_leave:
	movq	probe_sp, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

	.data
	.balign	16
	.globl	priv_gdt
priv_gdt:
	.quad	0
	.quad	0x00af9b000000ffff // 08 CODE64
	.quad	0x00cf93000000ffff // 10 DATA
	.quad	0x00cf9b000000ffff // 18 CODE32
	.quad	0x00009b000000ffff // 20 CODE16; a probe's code is its base
	.quad	0x000093000000ffff // 28 DATA16
	.quad	0x00cffb000000ffff // 33 USER32
	.quad	0x00cff3000000ffff // 3b USER_DATA
	.quad	0x00affb000000ffff // 43 USER64
	.quad	0x0000fb000000ffff // 4b USER16
	.quad	0, 0               // 50 TSS
	.quad	0, 0               // 60 TSS2
	.quad	0, 0               // 70 LDT
	.quad	0x00af9f000000ffff // 80 CONFORMING
	.quad	0x00cf13000000ffff // 88 DATA_NP
	.quad	0x00af1b000000ffff // 90 CODE_NP
	.quad	0x00cf91000000ffff // 98 READONLY
	.quad	0x00cf99000000ffff // a0 EXECUTE
	.quad	0x0040970000000fff // a8 DOWN, in bytes
	.quad	0x0040f300000000ff // b3 SMALL
	.quad	0x00cf9f000000ffff // b8 CONFORMING32
	.quad	0, 0               // c0 GATE
	.quad	0, 0               // d0 GATE0
	.quad	0x00ef9b000000ffff // e0 L_AND_D
	.quad	0x0000800000000000 // e8 SYSTEM0
	.quad	0x00cff2000000ffff // f0 LIMIT
	.quad	0
	.quad	0, 0               // 100 GATE_NP
	.quad	0, 0               // 110 GATE_DATA
	.quad	0, 0               // 120 TSS_NP
	.quad	0x0040f30000000fff // 133 SMALL_STACK
	.quad	0x00afff000000ffff // 138 USER_CONF
	.quad	0, 0               // 140 GATE_UP
	.quad	0x00cf73000000ffff // 153 USER_NP
priv_gdt_end:
	.if	priv_gdt_end - priv_gdt - SEL_GDT_END
	.error	"the GDT and priv.h do not agree"
	.endif
	.globl	priv_gdt_pointer
priv_gdt_pointer:
	.word	SEL_GDT_END - 1
	.quad	priv_gdt
	.balign	8
	.globl	priv_ldt
priv_ldt:
	.quad	0
	.quad	0x00cff3000000ffff // 0f LDT_DATA
	.quad	0x00affb000000ffff // 17 LDT_CODE

	.bss
	.balign	8
probe_sp:
	.skip	8

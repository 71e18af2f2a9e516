// SPDX-License-Identifier: Apache-2.0
// What only assembly can hold: all general registers at once, and the vector registers.

	.text

// uint64_t registers_hold(const uint64_t pattern[14], uint64_t rounds)
// Load the pattern into every general register but RSP and RDI, and compare them
// `rounds` times. Returns 0, or 1 when one of them changed.
	.globl registers_hold
registers_hold:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushq	%rsi
	movq	0(%rdi), %rax
	movq	8(%rdi), %rbx
	movq	16(%rdi), %rcx
	movq	24(%rdi), %rdx
	movq	32(%rdi), %rsi
	movq	40(%rdi), %rbp
	movq	48(%rdi), %r8
	movq	56(%rdi), %r9
	movq	64(%rdi), %r10
	movq	72(%rdi), %r11
	movq	80(%rdi), %r12
	movq	88(%rdi), %r13
	movq	96(%rdi), %r14
	movq	104(%rdi), %r15
	.macro	check number, register
	cmpq	\number*8(%rdi), \register
	jne	2f
	.endm
1:	check	0, %rax
	check	1, %rbx
	check	2, %rcx
	check	3, %rdx
	check	4, %rsi
	check	5, %rbp
	check	6, %r8
	check	7, %r9
	check	8, %r10
	check	9, %r11
	check	10, %r12
	check	11, %r13
	check	12, %r14
	check	13, %r15
	decq	(%rsp)
	jnz	1b
	xorl	%eax, %eax
	jmp	3f
2:	movl	$1, %eax
3:	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

// void avx_enable(void); void avx_load(const void *sixteen_ymm); void avx_store(void *);
	.globl avx_enable, avx_load, avx_store
avx_enable:
	movq	%cr4, %rax
	orl	$0x40000, %eax
	movq	%rax, %cr4
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	movl	$7, %eax
	xsetbv
	ret
	.macro	ymm_load n
	vmovdqu	\n*32(%rdi), %ymm\n
	.endm
	.macro	ymm_store n
	vmovdqu	%ymm\n, \n*32(%rdi)
	.endm
avx_load:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	ymm_load \n
	.endr
	ret
avx_store:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	ymm_store \n
	.endr
	ret

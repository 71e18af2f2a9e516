// SPDX-License-Identifier: Apache-2.0
/*
 * uint64_t integer_rounds(uint64_t rounds, uint64_t table[512]): arithmetic, a load and a store,
 * a call and a branch that depends on data; twenty instructions a round whichever way it goes.
 */
	.text
	.globl	integer_rounds
	.type	integer_rounds, @function
integer_rounds:
	push	%rbx
	mov	$0x9e3779b97f4a7c15, %rax
	xor	%ebx, %ebx
	xor	%r9d, %r9d
	mov	$1, %r10d
1:	mov	%rax, %rdx
	shr	$7, %rdx
	xor	%rdx, %rax
	mov	%rax, %rcx
	shl	$9, %rcx
	xor	%rcx, %rax
	mov	%eax, %edx
	and	$0xff8, %edx
	add	(%rsi,%rdx), %rbx
	mov	%rbx, (%rsi,%rdx)
	call	2f
	test	$1, %al
	jz	3f
	add	$5, %r9
	jmp	4f
2:	lea	3(%rbx,%rax,2), %r8
	ret
3:	sub	$3, %r9
	nop
4:	imul	%r8, %r10
	dec	%rdi
	jnz	1b
	xor	%r9, %rax
	xor	%r10, %rax
	pop	%rbx
	ret
	.section .note.GNU-stack, "", @progbits

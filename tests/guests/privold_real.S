// SPDX-License-Identifier: Apache-2.0
// Real mode, see privold.h. Copied to REAL_AT, which CS is then.

#include "tests/guests/privold_row.inc"

	.section .rodata.rows_real, "a"
	.balign	8
	.globl	real_rows
real_rows:
	.text

#define AT(label) ((label)-real_begin)

	.set	seen_n, 0
	.macro	see name, wanted
	movl	%eax, REAL_SEEN + 4 * seen_n
	.set	seen_n, seen_n + 1
	row	.rodata.rows_real, \name, \wanted
	.endm
	.macro	expect label
	movw	$AT(\label), AT(resume)
	.endm
	.macro	see_word name, variable, wanted
	movzwl	AT(\variable), %eax
	see	\name, \wanted
	.endm
	.macro	see_trap name, vector, at
	see_word \name, trap_vector, \vector
	see_word \name\()_at, trap_ip, \at
	.endm

	.code16
	.balign	16
	.globl	real_begin, real_end, real_enter_at
	.set	real_enter_at, AT(real_enter)
real_begin:
	.balign	8
stubs:
	.set	v, 0
	.rept	64
	.balign	8
	pushw	$v
	jmp	trap_note
	.set	v, v + 1
	.endr
	.balign	8

trap_note:
	movw	%cs, %bx
	movw	%bx, %ds
	pushfw
	popw	AT(trap_inside)
	popw	AT(trap_vector)
	movw	%sp, AT(trap_sp)
	popw	AT(trap_ip)
	popw	AT(trap_cs)
	popw	AT(trap_flags)
	movw	$(REAL_STACK >> 4), %bx
	movw	%bx, %ss
	movw	$0xf000, %sp
	movw	AT(resume), %bx
	movw	$AT(leave), AT(resume)
	jmp	*%bx

trap_vector:	.word	0
trap_sp:	.word	0
trap_ip:	.word	0
trap_cs:	.word	0
trap_flags:	.word	0
trap_inside:	.word	0
resume:		.word	0
idt:		.word	0x3ff
		.long	REAL_AT + REAL_IVT
idt_short:	.word	0x31 * 4 - 1
		.long	REAL_AT + REAL_IVT

real_enter:
	movw	$OLD_DATA16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movl	%cr0, %eax
	andb	$~1, %al
	movl	%eax, %cr0
	ljmp	$(REAL_AT >> 4), $AT(1f)
1:	movw	%cs, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	$(REAL_STACK >> 4), %ax
	movw	%ax, %ss
	movw	$0xf000, %sp
	lidtl	AT(idt)
	movw	$AT(leave), AT(resume)

	movw	$64, %cx
	movw	$AT(stubs), %ax
	movw	$REAL_IVT, %di
1:	movw	%ax, (%di)
	movw	%cs, 2(%di)
	addw	$4, %di
	addw	$8, %ax
	loop	1b

	expect	1f
	sti
	int	$0x30
0:	hlt
1:	see_trap real_int, 0x30, AT(0b)
	see_word real_int_cs, trap_cs, (REAL_AT>>4)
	see_word real_int_sp, trap_sp, (0xf000-6)
	movzwl	AT(trap_flags), %eax
	andl	$FLAG_IF, %eax
	see	real_int_if, FLAG_IF
	movzwl	AT(trap_inside), %eax
	andl	$FLAG_IF, %eax
	see	real_int_if_inside, 0
	expect	1f
	int3
0:	hlt
1:	see_trap real_int3, 3, AT(0b)
	expect	1f
	movb	$0x7f, %al
	addb	$1, %al
	into
0:	hlt
1:	see_trap real_into, 4, AT(0b)
	expect	1f
	xorw	%cx, %cx
0:	divw	%cx
1:	see_trap real_de, 0, AT(0b)
	expect	1f
0:	ud2
1:	see_trap real_ud, 6, AT(0b)
	movw	$-1, REAL_SEEN + 0x700
	movw	$1, REAL_SEEN + 0x702
	movw	$2, %ax
	expect	1f
0:	bound	%ax, REAL_SEEN + 0x700
1:	see_trap real_bound, 5, AT(0b)
	// No error code is pushed.
	lidtl	AT(idt_short)
	expect	1f
0:	int	$0x31
1:	lidtl	AT(idt)
	see_trap real_beyond, 13, AT(0b)
	see_word real_beyond_sp, trap_sp, (0xf000-6)
	expect	1f
0:	movw	0xffff, %ax
1:	see_trap real_limit, 13, AT(0b)
	expect	1f
	movl	$0x10000, %ebx
0:	movl	(%ebx), %eax
1:	see_trap real_limit_32, 13, AT(0b)

	// A far call and its return; IRET
	lcall	$(REAL_AT >> 4), $AT(3f)
2:	movzwl	%sp, %eax
	see	real_far_sp, 0xf000
	jmp	4f
3:	popw	%cx
	popw	%dx
	movzwl	%cx, %eax
	see	real_far_ip, AT(2b)
	movzwl	%dx, %eax
	see	real_far_cs, (REAL_AT>>4)
	pushw	%dx
	pushw	%cx
	lretw
4:	pushw	$(FLAG_IOPL | FLAG_NT | 3)
	pushw	%cs
	pushw	$AT(1f)
	iretw
1:	pushfw
	popw	%ax
	movzwl	%ax, %eax
	see	real_iret_flags, (FLAG_IOPL|FLAG_NT|3)
	pushw	$2
	popfw

	// A segment register is a base; 32-bit operands and addresses
	movl	$0x600d600d, REAL_SEEN + 0x710
	movw	$((REAL_AT + REAL_SEEN) >> 4), %ax
	movw	%ax, %es
	movl	%es:0x710, %eax
	see	real_segment, 0x600d600d
	movl	$(REAL_SEEN + 0x700), %ebx
	movl	0x10(%ebx), %eax
	see	real_address_32, 0x600d600d

	// Off the end of the segment: there is no octet 0x10000.
	movw	$0x9090, 0xfffe
	expect	1f
	movw	$0xfffe, %ax
	jmp	*%ax
1:	see_word real_end, trap_vector, 13

	// The PIT, by the PICs
	movb	$0x11, %al
	outb	%al, $0x20
	movb	$0x28, %al
	outb	%al, $0x21
	movb	$4, %al
	outb	%al, $0x21
	movb	$1, %al
	outb	%al, $0x21
	movb	$0xfe, %al
	outb	%al, $0x21
	movb	$0x30, %al
	outb	%al, $0x43
	movb	$0xff, %al
	outb	%al, $0x40
	movb	$0, %al
	outb	%al, $0x40
	expect	1f
	sti
	hlt
0:	nop
1:	see_trap real_timer, 0x28, AT(0b)
	movb	$0x20, %al
	outb	%al, $0x20
	movb	$0xff, %al
	outb	%al, $0x21

leave:
	cli
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $old_after_real
real_end:
	.code64

	.section .rodata.rows_real, "a"
	.globl	real_rows_end
real_rows_end:

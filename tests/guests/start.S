// SPDX-License-Identifier: Apache-2.0
// From the PVH entry (32-bit, paging off) and from a SIPI (16-bit) to long mode with
// all below 4 GiB mapped where it is; then guest_main() or guest_ap_main().

#include "tests/guests/guest.h"

#define CR0_PE 0x1
#define CR0_MP 0x2
#define CR0_PG 0x80000000
#define CR4_WANTED 0x620 /* PAE, OSFXSR, OSXMMEXCPT */
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define STACK_SIZE 8192
#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, 18
	.asciz "Xen"
	.long start32

	.text
	.code32
	.globl start32
start32:
	cli
	cld
	movl	%ebx, guest_start_info
	// PML4 -> PDPT -> 4 directories of 512 pages of 2 MiB
	movl	$tables + 4096 + 3, tables
	movl	$tables + 8192 + 3, %eax
	movl	$tables + 4096, %edi
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	addl	$4096, %eax
	addl	$8, %edi
	loop	1b
	movl	$0x83, %eax
	movl	$tables + 8192, %edi
	movl	$2048, %ecx
2:	movl	%eax, (%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	loop	2b

long_mode:
	lgdt	gdt_pointer
	movl	%cr4, %eax
	orl	$CR4_WANTED, %eax
	movl	%eax, %cr4
	movl	$tables, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_LME, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~0x6000000c, %eax // caches on, no emulation, no task switched
	orl	$(CR0_PG | CR0_MP | CR0_PE), %eax
	movl	%eax, %cr0
	ljmp	$CODE64, $start64

	.code64
start64:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	movl	$1, %edi
	lock xaddl %edi, guest_cpus
	leal	1(%rdi), %eax
	imull	$STACK_SIZE, %eax
	leaq	stacks(%rax), %rsp
	lidt	idt_pointer
	testl	%edi, %edi
	jnz	3f
	call	guest_begin
	jmp	4f
3:	call	guest_ap_main
4:	cli
	hlt
	jmp	4b

// ---- where a SIPI starts an AP: copied to TRAMPOLINE --------------------------------

	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	%cs:(trampoline_gdt_pointer - trampoline)
	movl	%cr0, %eax
	orl	$CR0_PE, %eax
	movl	%eax, %cr0
	ljmpl	$CODE32, $(TRAMPOLINE + trampoline32 - trampoline)
	.code32
trampoline32:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$long_mode, %eax
	jmp	*%eax
	.align 4
trampoline_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
trampoline_end:

// ---- interrupts: all vectors come to guest_interrupt(frame) --------------------------
// What the CPU has pushed and where a debugger finds it: a core may be taken here.

	.code64
	.cfi_sections .debug_frame
	.macro	interrupted on_stack
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_def_cfa rsp, \on_stack
	.cfi_offset rip, -40
	.cfi_offset rsp, -16
	.endm
	.macro	push what
	pushq	\what
	.cfi_adjust_cfa_offset 8
	.endm
	.macro	save register
	push	%\register
	.cfi_rel_offset \register, 0
	.endm
	.macro	restore register
	popq	%\register
	.cfi_adjust_cfa_offset -8
	.cfi_restore \register
	.endm

	.macro	stub vector
	.align	16
	.if (\vector != 8) && (\vector < 10 || \vector > 14) && (\vector != 17) && (\vector != 21)
	interrupted 40
	push	$0
	.else
	interrupted 48
	.endif
	push	$\vector
	jmp	interrupt
	.cfi_endproc
	.endm

	.align	16
	.globl stubs
stubs:
	.set	v, 0
	.rept	256
	stub	v
	.set	v, v + 1
	.endr

interrupt:
	interrupted 56
	save	rax
	save	rbx
	save	rcx
	save	rdx
	save	rsi
	save	rdi
	save	rbp
	save	r8
	save	r9
	save	r10
	save	r11
	save	r12
	save	r13
	save	r14
	save	r15
	cld
	movq	%rsp, %rdi
	call	guest_interrupt
	restore	r15
	restore	r14
	restore	r13
	restore	r12
	restore	r11
	restore	r10
	restore	r9
	restore	r8
	restore	rbp
	restore	rdi
	restore	rsi
	restore	rdx
	restore	rcx
	restore	rbx
	restore	rax
	addq	$16, %rsp
	.cfi_adjust_cfa_offset -16
	iretq
	.cfi_endproc

	.data
	.align	8
gdt:
	.quad	0
	.quad	0x00af9b000000ffff // CODE64
	.quad	0x00cf93000000ffff // DATA
	.quad	0x00cf9b000000ffff // CODE32
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.align	8
	.globl idt_pointer
idt_pointer:
	.word	4095
	.quad	guest_idt

	.bss
	.align	4096
tables:
	.skip	6 * 4096
stacks:
	.skip	GUEST_CPUS_MAX * STACK_SIZE

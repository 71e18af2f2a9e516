// SPDX-License-Identifier: Apache-2.0
// 32-bit protected mode, see privold.h.

#include "tests/guests/privold_row.inc"

#define CR0_WP    0x10000
#define CR0_PG    0x80000000
#define CR4_PAE   0x20
#define EFER_LME  0x100
#define MSR_SYSENTER_CS  0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

	.section .rodata.rows, "a"
	.balign	8
	.globl	old_rows
old_rows:
	.text

	.set	seen_n, 0
	.macro	see name, wanted
	movl	%eax, old_seen + 4 * seen_n
	.set	seen_n, seen_n + 1
	row	.rodata.rows, \name, \wanted
	.endm

	// The next trap goes on at \label, in CPL 0 with flat segments and the first stack.
	.macro	expect label
	movl	$\label, old_resume
	.endm
	// Vector and error code as one number, then the address.
	.macro	see_trap name, vector, error, at
	movl	trap_error, %eax
	shll	$8, %eax
	orl	trap_vector, %eax
	see	\name, (\error) << 8 | \vector
	movl	trap_eip, %eax
	see	\name\()_at, \at
	.endm
	.macro	see_at name, variable, wanted
	movl	\variable, %eax
	see	\name, \wanted
	.endm
	// How far below \top the frame begins, without the error code.
	.macro	see_depth name, top, wanted
	movl	$\top, %eax
	subl	trap_frame, %eax
	see	\name, \wanted
	.endm
	// On in privilege 3 at \label, with IF.
	.macro	user label
	pushl	$OLD_USER_DATA
	pushl	$user_top
	pushl	$(FLAG_IF | 2)
	pushl	$OLD_USER32
	pushl	$\label
	iret
	.endm
	.macro	user_data
	movl	$OLD_USER_DATA, %eax
	movl	%eax, %ds
	.endm

// ---- from long mode and back ------------------------------------------------------------

	.globl	old_run
old_run:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, kept_rsp
	movq	%cr3, %rax
	movq	%rax, kept_cr3
	movq	%cr4, %rax
	movq	%rax, kept_cr4
	lgdt	old_gdt_pointer
	pushq	$SEL_CODE32
	pushq	$descend
	lretq
	.code32
descend:
	movl	$SEL_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$stack_top, %esp
	movl	%cr0, %eax
	andl	$~CR0_PG, %eax
	movl	%eax, %cr0
	movl	$MSR_EFER, %ecx
	rdmsr
	andl	$~EFER_LME, %eax
	wrmsr
	movl	%cr4, %eax
	andl	$~CR4_PAE, %eax
	movl	%eax, %cr4
	lidt	old_idt_pointer
	movl	$OLD_TSS_A, %eax
	ltr	%ax
	expect	ascend
	jmp	interrupts

ascend:
	cli
	movl	kept_cr4, %eax
	movl	%eax, %cr4
	movl	kept_cr3, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_LME, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$CR0_PG, %eax
	movl	%eax, %cr0
	ljmp	$SEL_CODE64, $1f
	.code64
1:	movq	kept_rsp, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

// ---- traps -------------------------------------------------------------------------------

	.code32
	.macro	stub vector
	.balign	16
	.if	(\vector != 8) && (\vector < 10 || \vector > 14) && (\vector != 17)
	pushl	$0
	.endif
	pushl	$\vector
	jmp	trap_note
	.endm
	.balign	16
	.globl	old_stubs
old_stubs:
	.set	v, 0
	.rept	72
	stub	v
	.set	v, v + 1
	.endr

	// vector, error, EIP, CS, EFLAGS and, from another privilege, ESP, SS
trap_note:
	pushfl
	popl	%ss:trap_inside
	movw	%ds, %ss:trap_ds
	pushl	%eax
	movl	$SEL_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	4(%esp), %eax
	movl	%eax, trap_vector
	movl	8(%esp), %eax
	movl	%eax, trap_error
	movl	12(%esp), %eax
	movl	%eax, trap_eip
	movl	16(%esp), %eax
	movl	%eax, trap_cs
	movl	20(%esp), %eax
	movl	%eax, trap_flags
	movl	24(%esp), %eax
	movl	%eax, trap_esp
	movl	28(%esp), %eax
	movl	%eax, trap_ss
	movl	%ss, %eax
	movl	%eax, trap_stack_segment
	leal	12(%esp), %eax
	movl	%eax, trap_frame
	popl	%eax
	jmp	resume

	// Of a 16-bit gate: IP, CS, FLAGS
	.globl	old_near16
	.balign	16
old_near16:
	ljmp	$SEL_CODE32, $1f
1:	movl	$SEL_DATA, %eax
	movl	%eax, %ds
	movl	%esp, trap_frame
	movzwl	(%esp), %eax
	movl	%eax, trap_eip
	movzwl	2(%esp), %eax
	movl	%eax, trap_cs
	movzwl	4(%esp), %eax
	movl	%eax, trap_flags
	movl	6(%esp), %eax
	movl	%eax, trap_params
	movl	10(%esp), %eax
	movl	%eax, trap_params + 4
resume:
	movl	$SEL_DATA, %ebx
	movl	%ebx, %ss
	movl	$stack_top, %esp
	movl	old_resume, %ebx
	movl	$ascend, old_resume
	jmp	*%ebx

// ---- interrupts ------------------------------------------------------------------------------

interrupts:
	expect	1f
	sti
	int	$0x40
0:	hlt
1:	see_trap gate_interrupt, 0x40, 0, 0b
	see_at	gate_interrupt_cs, trap_cs, SEL_CODE32
	see_depth gate_interrupt_depth, stack_top, 12
	movl	trap_flags, %eax
	andl	$FLAG_IF, %eax
	see	gate_interrupt_if, FLAG_IF
	movl	trap_inside, %eax
	andl	$FLAG_IF, %eax
	see	gate_interrupt_if_inside, 0
	expect	1f
	sti
	int	$0x43
1:	movl	trap_inside, %eax
	cli
	andl	$FLAG_IF, %eax
	see	gate_trap_if_inside, FLAG_IF
	expect	1f
	int	$0x41
0:	hlt
1:	see_depth gate_16_depth, stack_top, 6
	movl	trap_eip, %eax
	subl	$0b, %eax
	movzwl	%ax, %eax
	see	gate_16_ip, 0
	see_at	gate_16_cs, trap_cs, SEL_CODE32

	expect	1f
	user	0f
0:	int	$0x42
2:	hlt
1:	see_trap user_int, 0x42, 0, 2b
	see_at	user_int_cs, trap_cs, OLD_USER32
	see_at	user_int_esp, trap_esp, user_top
	see_at	user_int_ss, trap_ss, OLD_USER_DATA
	see_at	user_int_inner_ss, trap_stack_segment, SEL_DATA
	see_at	user_int_ds, trap_ds, 0
	see_depth user_int_depth, inner_top, 20
	expect	1f
	user	0f
0:	hlt
1:	see_trap user_hlt, 13, 0, 0b
	see_depth user_hlt_depth, inner_top, 20
	expect	1f
	user	0f
0:	int	$0x40
1:	see_trap user_int_dpl, 13, (0x40*8+2), 0b
	expect	1f
	user	0f
0:	int	$0x60
1:	see_trap user_int_beyond, 13, (0x60*8+2), 0b
	expect	1f
	user	0f
0:	movl	$SEL_DATA, %eax
2:	movl	%eax, %ds
1:	see_trap user_ds, 13, SEL_DATA, 2b

// ---- call gates --------------------------------------------------------------------------------

	expect	1f
	user	0f
0:	pushl	$0x11
	pushl	$0x22
	pushl	$0x33
	lcall	$OLD_GATE, $0
2:	int	$0x42
	.globl	old_gate_target
old_gate_target:
	user_data
	movl	%esp, trap_frame
	see_depth gate_depth, inner_top, 28
	movl	(%esp), %eax
	see	gate_eip, 2b
	movl	4(%esp), %eax
	see	gate_cs, OLD_USER32
	movl	8(%esp), %eax
	see	gate_parameter_1, 0x33
	movl	12(%esp), %eax
	see	gate_parameter_2, 0x22
	movl	16(%esp), %eax
	see	gate_parameter_3, 0x11
	movl	20(%esp), %eax
	see	gate_outer_esp, (user_top-12)
	movl	24(%esp), %eax
	see	gate_outer_ss, OLD_USER_DATA
	movl	%cs, %eax
	see	gate_inner_cs, SEL_CODE32
	movl	$SEL_DATA, %eax
	movl	%eax, %es
	lret	$12
1:	see_trap gate_return, 0x42, 0, (2b+2)
	see_at	gate_return_esp, trap_esp, user_top
	see_at	gate_return_ss, trap_ss, OLD_USER_DATA
	see_at	gate_return_ds, trap_ds, OLD_USER_DATA

	expect	1f
	user	0f
0:	pushw	$0x1111
	pushw	$0x2222
	lcall	$OLD_GATE16, $0
2:	hlt
1:	see_depth gate16_depth, inner_top, 12
	see_at	gate16_cs, trap_cs, OLD_USER32
	see_at	gate16_parameter, trap_flags, 0x2222
	movzwl	trap_params, %eax
	see	gate16_parameter_2, 0x1111
	movl	trap_params + 2, %eax
	subl	$(user_top - 4), %eax
	movzwl	%ax, %eax
	see	gate16_outer_sp, 0
	movl	trap_params + 4, %eax
	movzwl	%ax, %eax
	see	gate16_ss, OLD_USER_DATA

	expect	1f
	user	0f
0:	lcall	$OLD_GATE_1, $0
2:	hlt
	.globl	old_gate_1_target
old_gate_1_target:
	hlt
1:	see_trap ring1_hlt, 13, 0, old_gate_1_target
	see_at	ring1_cs, trap_cs, OLD_CODE_1
	see_at	ring1_ss, trap_ss, OLD_DATA_1
	see_at	ring1_esp, trap_esp, (ring1_top-16)
	see_depth ring1_depth, inner_top, 20

	.macro	bad_stack name, selector, vector, error
	movl	$\selector, old_tss_a + 0x10
	expect	1f
	user	0f
0:	lcall	$OLD_GATE_1, $0
1:	see_trap \name, \vector, \error, 0b
	see_at	\name\()_esp, trap_esp, user_top
	.endm
	bad_stack stack_null, 0, 10, 0
	bad_stack stack_rpl, (OLD_DATA_1&~3), 10, (OLD_DATA_1&~3)
	bad_stack stack_dpl, (SEL_DATA|1), 10, SEL_DATA
	bad_stack stack_code, OLD_CODE_1, 10, (OLD_CODE_1&~3)
	bad_stack stack_beyond, 0x801, 10, 0x800
	bad_stack stack_absent, OLD_DATA_1_NP, 12, (OLD_DATA_1_NP&~3)
	movl	$OLD_DATA_1, old_tss_a + 0x10

// ---- SYSENTER, SYSCALL ---------------------------------------------------------------------------

	.macro	msr number, value
	movl	$\number, %ecx
	movl	$\value, %eax
	xorl	%edx, %edx
	wrmsr
	.endm
	msr	MSR_SYSENTER_CS, 0
	expect	1f
	user	0f
0:	sysenter
1:	see_trap sysenter_null, 13, 0, 0b
	msr	MSR_SYSENTER_CS, SEL_CODE32
	msr	MSR_SYSENTER_ESP, inner_top
	msr	MSR_SYSENTER_EIP, 3f
	expect	1f
	user	0f
0:	sysenter
	hlt
3:	pushfl
	user_data
	popl	%eax
	andl	$FLAG_IF, %eax
	see	sysenter_if, 0
	movl	%cs, %eax
	see	sysenter_cs, SEL_CODE32
	movl	%ss, %eax
	see	sysenter_ss, (SEL_CODE32+8)
	movl	%esp, %eax
	see	sysenter_esp, inner_top
	movl	$0f, %edx
	movl	$(user_top - 64), %ecx
	sysexit
0:	int	$0x42
1:	see_trap sysexit, 0x42, 0, (0b+2)
	see_at	sysexit_cs, trap_cs, (SEL_CODE32+16|3)
	see_at	sysexit_ss, trap_ss, (SEL_CODE32+24|3)
	see_at	sysexit_esp, trap_esp, (user_top-64)
	expect	1f
	user	0f
0:	sysexit
1:	see_trap sysexit_user, 13, 0, 0b

	movl	$MSR_STAR, %ecx
	movl	$3f, %eax
	movl	$((SEL_CODE32 | 3) << 16 | SEL_CODE32), %edx
	wrmsr
	expect	1f
	user	0f
0:	syscall
2:	int	$0x42
3:	pushfl
	user_data
	popl	%eax
	andl	$FLAG_IF, %eax
	see	syscall_if, 0
	movl	%cs, %eax
	see	syscall_cs, SEL_CODE32
	movl	%ss, %eax
	see	syscall_ss, (SEL_CODE32+8)
	movl	%ecx, %eax
	see	syscall_ecx, 2b
	movl	%esp, %eax
	see	syscall_esp, user_top
	sysret
1:	see_trap sysret, 0x42, 0, (2b+2)
	see_at	sysret_cs, trap_cs, (SEL_CODE32|3)
	see_at	sysret_ss, trap_ss, (SEL_CODE32+8|3)
	movl	trap_flags, %eax
	andl	$FLAG_IF, %eax
	see	sysret_if, FLAG_IF

// ---- tasks -----------------------------------------------------------------------------------------

	.macro	see_busy name, selector, wanted
	movzbl	old_gdt + \selector + 5, %eax
	see	\name, \wanted
	.endm
	movl	$0x12345678, %esi
	movl	$0x2345, %ecx
	clts
	ljmp	$OLD_TSS_B, $0
2:	movl	%esi, %eax
	see	task_esi_back, 0x12345678
	movl	%ecx, %eax
	see	task_ecx_back, 0x2345
	str	%eax
	see	task_back_tr, OLD_TSS_A
	see_busy task_back_busy_a, OLD_TSS_A, 0x8b
	see_busy task_back_busy_b, OLD_TSS_B, 0x89
	see_at	task_b_saved, old_tss_b+0x20, 4f
	jmp	nested

	.globl	old_task_b
old_task_b:
	movl	%ebx, %eax
	see	task_ebx, 0xb0b0b0b0
	movl	%esp, %eax
	see	task_esp, task_top
	str	%eax
	see	task_tr, OLD_TSS_B
	movl	%cr0, %eax
	andl	$8, %eax
	see	task_ts, 8
	pushfl
	popl	%eax
	andl	$FLAG_NT, %eax
	see	task_nt, 0
	see_busy task_busy_a, OLD_TSS_A, 0x89
	see_busy task_busy_b, OLD_TSS_B, 0x8b
	see_at	task_a_saved, old_tss_a+0x20, 2b
	see_at	task_a_esp, old_tss_a+0x38, stack_top
	ljmp	$OLD_TSS_A, $0
4:	str	%eax
	see	nested_tr, OLD_TSS_B
	pushfl
	popl	%eax
	andl	$FLAG_NT, %eax
	see	nested_nt, FLAG_NT
	movzwl	old_tss_b, %eax
	see	nested_link, OLD_TSS_A
	see_busy nested_busy_a, OLD_TSS_A, 0x8b
	see_busy nested_busy_b, OLD_TSS_B, 0x8b
	iret
5:	str	%eax
	see	gate_task_tr, OLD_TSS_B
	iret
6:	hlt

nested:
	lcall	$OLD_TSS_B, $0
	str	%eax
	see	nested_back_tr, OLD_TSS_A
	pushfl
	popl	%eax
	andl	$FLAG_NT, %eax
	see	nested_back_nt, 0
	see_busy nested_back_busy_b, OLD_TSS_B, 0x89
	movl	old_tss_b + 0x24, %eax
	andl	$FLAG_NT, %eax
	see	nested_saved_nt, 0
	see_at	nested_saved_eip, old_tss_b+0x20, 5b
	expect	1f
	user	0f
0:	lcall	$OLD_TASK_GATE, $0
	int	$0x42
3:	hlt
1:	see_trap gate_task_back, 0x42, 0, 3b
	see_at	gate_task_back_cs, trap_cs, OLD_USER32
	see_at	gate_task_back_ss, trap_ss, OLD_USER_DATA

	.macro	bad_task name, selector, vector, error
	expect	1f
0:	ljmp	$\selector, $0
1:	see_trap \name, \vector, \error, 0b
	.endm
	bad_task task_busy, OLD_TSS_A, 13, OLD_TSS_A
	bad_task task_absent, OLD_TSS_NP, 11, OLD_TSS_NP
	bad_task task_short, OLD_TSS_SHORT, 10, OLD_TSS_SHORT
	expect	1f
	user	0f
0:	ljmp	$OLD_TSS_B, $0
1:	see_trap task_user, 13, OLD_TSS_B, 0b
	movl	$OLD_TSS_B, old_tss_a // back to a task that is not busy
	expect	1f
	pushl	$(FLAG_NT | 2)
	popfl
0:	iret
1:	pushl	$2
	popfl
	see_trap task_link, 10, OLD_TSS_B, 0b
	movl	$4b, old_tss_b + 0x20
	movl	$0x900, old_tss_b + 0x54 // its DS
	expect	1f
	ljmp	$OLD_TSS_B, $0
1:	see_trap task_ds, 10, 0x900, 4b
	str	%eax
	see	task_ds_tr, OLD_TSS_B

// ---- legacy paging: PAGED is page_there ---------------------------------------------------------

#define PTE_P 1
#define PTE_W 2
#define PTE_U 4
	.macro	paged table
	movl	$\table, %eax
	movl	%eax, %cr3
	movl	%cr0, %eax
	andl	$~CR0_WP, %eax
	orl	$CR0_PG, %eax
	movl	%eax, %cr0
	.endm
	.macro	unpaged
	movl	%cr0, %eax
	andl	$~(CR0_PG | CR0_WP), %eax
	movl	%eax, %cr0
	.endm
	.macro	protect
	movl	%cr0, %eax
	orl	$CR0_WP, %eax
	movl	%eax, %cr0
	.endm
	.macro	page_is flags
	movl	$(page_there + \flags), %eax
	movl	%eax, old_page_table
	movl	%eax, old_page_table_pae
	invlpg	PAGED
	.endm
	// Bits of the entry, accessed and dirty among them.
	.macro	see_entry name, table, wanted
	movl	\table, %eax
	andl	$0xfff, %eax
	see	\name, \wanted
	.endm
	.macro	see_fault name, error, at
	see_trap \name, 14, \error, \at
	movl	%cr2, %eax
	see	\name\()_cr2, PAGED + 4
	.endm

	// The same for both formats.
	.macro	paging_checks kind, table
	movl	$0x600d, page_there + 4
	page_is	PTE_P
	movl	PAGED + 4, %eax
	see	\kind\()_read, 0x600d
	see_entry \kind\()_accessed, \table, 0x21
	movl	$0x600e, PAGED + 4
	movl	page_there + 4, %eax
	see	\kind\()_write_without_wp, 0x600e
	see_entry \kind\()_dirty, \table, 0x61
	protect
	expect	1f
0:	movl	%eax, PAGED + 4
1:	see_fault \kind\()_readonly, 3, 0b
	page_is	0
	expect	1f
0:	movl	PAGED + 4, %eax
1:	see_fault \kind\()_absent, 0, 0b
	page_is	(PTE_P|PTE_W)
	expect	1f
	user	0f
0:	user_data
2:	movl	PAGED + 4, %eax
1:	see_fault \kind\()_supervisor, 5, 2b
	expect	1f
	user	0f
0:	user_data
2:	movl	%eax, PAGED + 4
1:	see_fault \kind\()_supervisor_write, 7, 2b
	page_is	(PTE_P|PTE_U)
	expect	1f
	user	0f
0:	user_data
2:	movl	%eax, PAGED + 4
1:	see_fault \kind\()_user_readonly, 7, 2b
	expect	1f
	user	0f
0:	user_data
	movl	$0, %ebx
	movl	PAGED + 4, %ebx
	int	$0x42
2:
1:	see_trap \kind\()_user_read, 0x42, 0, 2b
	.endm

	movl	%cr4, %eax
	orl	$0x10, %eax // PSE
	movl	%eax, %cr4
	paged	old_directory
	paging_checks two_level, old_page_table
	unpaged
	movl	%cr4, %eax
	orl	$CR4_PAE, %eax
	movl	%eax, %cr4
	paged	old_pointers
	paging_checks pae, old_page_table_pae
	// When the pointers are read is not looked at: with nested paging AMD reads them late.
	unpaged
	movl	%cr4, %eax
	andl	$~(CR4_PAE | 0x10), %eax
	movl	%eax, %cr4

// ---- real mode and back ------------------------------------------------------------------------

	ljmp	$OLD_REAL16, $real_enter_at
	.globl	old_after_real
old_after_real:
	movl	$SEL_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$stack_top, %esp
	lidt	old_idt_pointer
	expect	1f
	int	$0x40
0:	hlt
1:	see_trap after_real, 0x40, 0, 0b
	jmp	ascend

	.section .rodata.rows, "a"
	.globl	old_rows_end
old_rows_end:

// ---- data --------------------------------------------------------------------------------------

	.data
	.balign	8
	.globl	old_gdt
old_gdt: // bases, and what gates lead to, by privold.c
	.quad	0
	.quad	0x00af9b000000ffff // 08 CODE64
	.quad	0x00cf93000000ffff // 10 DATA
	.quad	0x00cf9b000000ffff // 18 CODE32
	.quad	0x00009b040000ffff // 20 REAL16
	.quad	0x000093000000ffff // 28 DATA16
	.quad	0x00cffb000000ffff // 33 USER32
	.quad	0x00cff3000000ffff // 3b USER_DATA
	.quad	0x0000890000000067 // 40 TSS_A
	.quad	0x0000890000000067 // 48 TSS_B
	.quad	0x0000e50000480000 // 53 TASK_GATE
	.quad	0x0000ec0300180000 // 5b GATE
	.quad	0x0000e40200980000 // 63 GATE16
	.quad	0x00cfbb000000ffff // 69 CODE_1
	.quad	0x00cfb3000000ffff // 71 DATA_1
	.quad	0x0000ec0000680000 // 7b GATE_1
	.quad	0x0000090000000067 // 80 TSS_NP
	.quad	0x0000890000000066 // 88 TSS_SHORT
	.quad	0x00cf33000000ffff // 91 DATA_1_NP
	.quad	0x00cf9b000000ffff // 98 CODE_NEAR16
old_gdt_end:
	.if	old_gdt_end - old_gdt - OLD_GDT_END
	.error	"the GDT and privold.h do not agree"
	.endif
old_gdt_pointer:
	.word	OLD_GDT_END - 1
	.quad	old_gdt
	.balign	8
old_idt_pointer:
	.word	72 * 8 - 1
	.long	old_idt
old_resume:
	.long	ascend

	.bss
	.balign	4096
	.globl	old_directory, old_page_table, old_pointers, old_directory_pae, old_page_table_pae
old_directory:
	.skip	4096
old_page_table:
	.skip	4096
old_directory_pae:
	.skip	4096
old_page_table_pae:
	.skip	4096
page_there:
	.skip	4096
old_pointers:
	.skip	32
	.balign	16
	.globl	old_idt, old_tss_a, old_tss_b, old_seen
old_idt:
	.skip	72 * 8
old_tss_a:
	.skip	128
old_tss_b:
	.skip	128
	.globl	old_inner_top, old_ring1_top, old_task_top
	.skip	1024
stack_top:
	.skip	1024
old_inner_top:
inner_top:
	.skip	1024
old_ring1_top:
ring1_top:
	.skip	1024
old_task_top:
task_top:
	.skip	1024
user_top:
kept_rsp:
	.skip	8
kept_cr3:
	.skip	8
kept_cr4:
	.skip	8
	.irp	name, vector, error, eip, cs, flags, esp, ss, ds, inside, frame, stack_segment
trap_\name:
	.skip	4
	.endr
trap_params:
	.skip	8
old_seen:
	.skip	4 * 512

// SPDX-License-Identifier: Apache-2.0
// Exceptions: which, where, with what error code and flags.

#include "tests/guests/priv_check.inc"

#define HIGH 0x8000000000000000 /* not canonical */
#define USER_DATA_0 0x38 /* with an RPL of 0 */
#define CODE64_3 0x0b

	checks_begin

	// ---- #DE -------------------------------------------------------------------------
	check	de_div_zero, MODE_K, 0
	xorl	%ecx, %ecx
1:	divl	%ecx
	done
	check	de_div_memory_user, MODE_U, 0
	movq	$0, (%rbx)
1:	divq	(%rbx)
	done
	check	de_idiv_overflow, MODE_U, 0, ax=0x80000000
	movl	$0x80000000, %eax
	cltd
	movl	$-1, %ecx
1:	idivl	%ecx
	done
	check	de_div_too_large, MODE_K, 0
	movl	$1, %edx
	movl	$1, %ecx
1:	divl	%ecx
	done
	check	de_aam_zero, MODE_U32, 0, ax=0xa0a0
1:	aam	$0
	done

	// ---- #BP, #OF, INT n ---------------------------------------------------------------
	check	bp_kernel, MODE_K, 3
	int3
1:	done
	check	bp_user, MODE_U, 3
	int3
1:	done
	check	bp_long_form, MODE_U, 3
	.byte	0xcd, 3
1:	done
	check	of_into, MODE_U32, 4
	movl	$0x7fffffff, %eax
	addl	$1, %eax
	into
1:	done
	check	of_into_not, MODE_U32, PROBE_END
	xorl	%eax, %eax
	into
	done
	check	of_into_64, MODE_U, 6
1:	.byte	0xce
	done
	check	int_gate_dpl, MODE_U, 13, error=0x32
1:	int	$6
	done
	check	int_gate_dpl_kernel, MODE_K, 6, flout=2
	int	$6
1:	done
	check	int_user_end, MODE_U, PROBE_END
	done
	check	int_absent_gate, MODE_U, 11, error=0x40*8+2, setup=gate_absent
1:	int	$0x40
	done
	check	int_null_target, MODE_U, 13, error=0, setup=gate_null
1:	int	$0x40
	done
	check	int_data_target, MODE_U, 13, error=SEL_DATA, setup=gate_data
1:	int	$0x40
	done
	check	int_absent_target, MODE_U, 11, error=SEL_CODE_NP, setup=gate_code_absent
1:	int	$0x40
	done
	check	int_code32_target, MODE_U, 13, error=SEL_CODE32, setup=gate_code32
1:	int	$0x40
	done
	check	int_beyond_target, MODE_U, 13, error=0x7f8, setup=gate_beyond
1:	int	$0x40
	done
	check	int_bad_type, MODE_U, 13, error=0x40*8+2, setup=gate_type
1:	int	$0x40
	done
	check	int_beyond_idt, MODE_U, 13, error=0x80*8+2, setup=idt_short
1:	int	$0x80
	done
	check	int_user_target, MODE_K, 13, error=0x40, setup=gate_user_code
1:	int	$0x40
	done

	// ---- #UD -----------------------------------------------------------------------------
	check	ud_ud2, MODE_K, 6
1:	ud2
	done
	check	ud_ud2_user, MODE_U, 6
1:	ud2
	done
	.macro	ud name, mode, bytes:vararg
	check	ud_\name, \mode, 6
1:	.byte	\bytes
	nop
	nop
	nop
	nop
	done
	.endm
	ud	push_es, MODE_U, 0x06
	ud	pop_ds, MODE_U, 0x1f
	ud	daa, MODE_U, 0x27
	ud	aas, MODE_U, 0x3f
	ud	pusha, MODE_U, 0x60
	ud	popa, MODE_U, 0x61
	ud	group1_82, MODE_U, 0x82, 0xc0, 0
	ud	far_call, MODE_U, 0x9a, 0, 0, 0, 0, 0, 0
	ud	far_jump, MODE_U, 0xea, 0, 0, 0, 0, 0, 0
	ud	aam_64, MODE_U, 0xd4, 10
	ud	salc_64, MODE_U, 0xd6
	ud	lock_register, MODE_U, 0xf0, 0x01, 0xc0
	ud	lock_mov, MODE_U, 0xf0, 0x89, 0x03
	ud	lock_cmp, MODE_U, 0xf0, 0x39, 0x03
	ud	lock_nop, MODE_U, 0xf0, 0x90
	ud	mov_cs, MODE_U, 0x8e, 0xc8
	ud	mov_seg6, MODE_U, 0x8e, 0xf0
	ud	mov_cr1, MODE_K, 0x0f, 0x20, 0xc8
	ud	mov_cr5, MODE_K, 0x0f, 0x22, 0xe8
	ud	mov_cr9, MODE_K, 0x44, 0x0f, 0x20, 0xc8
	ud	mov_dr8, MODE_K, 0x44, 0x0f, 0x21, 0xc0
	ud	lea_register, MODE_U, 0x8d, 0xc0
	ud	les_64, MODE_U, 0xc4, 0x03, 0, 0
	ud	group3_lgdt_register, MODE_K, 0x0f, 0x01, 0xd7
	ud	bound_64, MODE_U, 0x62, 0x03, 0, 0, 0, 0
	ud	cmpxchg8b_register, MODE_U, 0x0f, 0xc7, 0xc8
	ud	group8_0, MODE_U, 0x0f, 0xba, 0xc0, 0
	ud	group11_1, MODE_U, 0xc7, 0xc8, 0, 0, 0, 0
	ud	inc_group4_7, MODE_U, 0xfe, 0xf8
	ud	group5_7, MODE_U, 0xff, 0xf8
	ud	ud0_32, MODE_U32, 0x0f, 0xff, 0xc0
	check	bound_32, MODE_U32, 5
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	$0, (%ebx)
	movl	$5, 4(%ebx)
	movl	$6, %eax
1:	bound	%eax, (%ebx)
	done
	check	bound_32_inside, MODE_U32, PROBE_END
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	$0, (%ebx)
	movl	$5, 4(%ebx)
	movl	$5, %eax
	bound	%eax, (%ebx)
	done

	// ---- #GP: length, and what only CPL 0 may ---------------------------------------------
	check	gp_too_long, MODE_U, 13
1:	.byte	0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
	done
	check	longest, MODE_U, PROBE_END
	.byte	0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
	done
	.macro	gp name, mode, insn:vararg
	check	gp_\name, \mode, 13
1:	\insn
	done
	.endm
	gp	cli, MODE_U, cli
	gp	sti, MODE_U, sti
	gp	hlt, MODE_U, hlt
	gp	in, MODE_U, inb $0x80, %al
	gp	out, MODE_U, outl %eax, %dx
	gp	insb, MODE_U, insb
	gp	outsb, MODE_U, outsb
	gp	mov_from_cr0, MODE_U, movq %cr0, %rax
	gp	mov_to_cr0, MODE_U, movq %rax, %cr0
	gp	mov_from_cr8, MODE_U, movq %cr8, %rax
	gp	mov_to_cr3, MODE_U, movq %rax, %cr3
	gp	mov_from_dr0, MODE_U, movq %db0, %rax
	gp	mov_to_dr7, MODE_U, movq %rax, %db7
	gp	clts, MODE_U, clts
	gp	lmsw, MODE_U, lmsw %ax
	gp	lgdt, MODE_U, lgdt (%rbx)
	gp	lidt, MODE_U, lidt (%rbx)
	gp	lldt, MODE_U, lldt %ax
	gp	ltr, MODE_U, ltr %ax
	gp	invlpg, MODE_U, invlpg (%rbx)
	gp	invd, MODE_U, invd
	gp	wbinvd, MODE_U, wbinvd
	gp	rdmsr, MODE_U, rdmsr
	gp	wrmsr, MODE_U, wrmsr
	gp	swapgs, MODE_U, swapgs
	gp	sysret, MODE_U, sysretq
	gp	cli_32, MODE_U32, cli
	gp	hlt_32, MODE_U32, hlt
	gp	cli_16, MODE_U16, cli
	check	gp_movaps_unaligned, MODE_U, 13
1:	movaps	1(%rbx), %xmm0
	done
	check	gp_cmpxchg16b_unaligned, MODE_U, 13
1:	lock cmpxchg16b 8(%rbx)
	done
	check	gp_fxsave_unaligned, MODE_U, 13
1:	fxsave	8(%rbx)
	done

	// ---- not canonical: #GP, or #SS by way of RSP and RBP --------------------------------
	check	gp_canonical_load, MODE_U, 13
	movabsq	$HIGH, %rdx
1:	movq	(%rdx), %rax
	done
	check	gp_canonical_store, MODE_K, 13
	movabsq	$HIGH, %rdx
1:	movq	%rax, (%rdx)
	done
	check	ss_canonical_push, MODE_U, 12, sp=UNCHECKED
	movabsq	$HIGH, %rsp
1:	pushq	%rax
	done
	check	ss_canonical_pop, MODE_U, 12, sp=UNCHECKED
	movabsq	$HIGH, %rsp
1:	popq	%rax
	done
	check	ss_canonical_rbp, MODE_U, 12
	movabsq	$HIGH, %rbp
1:	movq	(%rbp), %rax
	done
	check	ss_canonical_rsp_base, MODE_U, 12, sp=UNCHECKED
	movabsq	$HIGH, %rsp
1:	movq	8(%rsp), %rax
	done
	check	gp_canonical_r13, MODE_U, 13
	movabsq	$HIGH, %r13
1:	movq	(%r13), %rax
	done
	check	gp_canonical_jump, MODE_U, 13
	movabsq	$HIGH, %rdx
1:	jmp	*%rdx
	done
	check	gp_canonical_call, MODE_U, 13
	movabsq	$HIGH, %rdx
1:	call	*%rdx
	done
	check	gp_canonical_ret, MODE_U, 13, sp=-8
	movabsq	$HIGH, %rdx
	pushq	%rdx
1:	ret
	done
	check	gp_canonical_string, MODE_U, 13
	movabsq	$HIGH, %rsi
1:	lodsb
	done
	check	invlpg_canonical, MODE_K, PROBE_END
	movabsq	$HIGH, %rdx
	invlpg	(%rdx)
	done

	// ---- #NM, #MF, #XM and what of SSE is off ----------------------------------------------
	check	nm_ts_x87, MODE_U, 7, setup=set_ts
1:	fld1
	done
	check	nm_ts_wait, MODE_U, 7, setup=set_ts
1:	fwait
	done
	check	nm_ts_wait_without_mp, MODE_U, PROBE_END, setup=set_ts_without_mp
	fwait
	done
	check	nm_ts_sse, MODE_U, 7, setup=set_ts
1:	xorps	%xmm0, %xmm0
	done
	check	nm_ts_fxsave, MODE_U, 7, setup=set_ts
1:	fxsave	(%rbx)
	done
	check	nm_em_x87, MODE_U, 7, setup=set_em
1:	fninit
	done
	check	ud_em_sse, MODE_U, 6, setup=set_em
1:	xorps	%xmm0, %xmm0
	done
	check	ud_osfxsr_sse, MODE_U, 6, setup=clear_osfxsr
1:	xorps	%xmm0, %xmm0
	done
	check	ts_and_prefetch, MODE_U, PROBE_END, setup=set_ts
	prefetcht0 (%rbx)
	sfence
	lfence
	done
	check	clts, MODE_K, PROBE_END, ax=0, setup=set_ts
	clts
	movq	%cr0, %rax
	andl	$8, %eax
	done
	check	mf_wait, MODE_U, 16, setup=set_ne
	fninit
	movw	$0x37b, (%rbx)
	fldcw	(%rbx)
	fld1
	fldz
	fdivrp
1:	fwait
	done
	check	mf_next, MODE_U, 16
	fninit
	movw	$0x37b, (%rbx)
	fldcw	(%rbx)
	fld1
	fldz
	fdivrp
	fnstsw	%ax
1:	fld1
	done
	// ZE unmasked: the division has not been done, nothing is popped.
	check	mf_status, MODE_U, PROBE_END, ax=0xb084
	fninit
	movw	$0x37b, (%rbx)
	fldcw	(%rbx)
	fld1
	fldz
	fdivrp
	xorl	%eax, %eax
	fnstsw	%ax
	andl	$0xb8ff, %eax
	done
	check	xm_div, MODE_U, 19
	movl	$0x1d80, (%rbx)
	ldmxcsr	(%rbx)
	movl	$0x3f800000, (%rbx)
	movss	(%rbx), %xmm0
	xorps	%xmm1, %xmm1
1:	divss	%xmm1, %xmm0
	done
	check	xm_without_osxmmexcpt, MODE_U, 6, setup=clear_osxmmexcpt
	movl	$0x1d80, (%rbx)
	ldmxcsr	(%rbx)
	movl	$0x3f800000, (%rbx)
	movss	(%rbx), %xmm0
	xorps	%xmm1, %xmm1
1:	divss	%xmm1, %xmm0
	done
	check	xm_flag, MODE_U, PROBE_END, ax=0x1f84
	movl	$0x1f80, (%rbx)
	ldmxcsr	(%rbx)
	movl	$0x3f800000, (%rbx)
	movss	(%rbx), %xmm0
	xorps	%xmm1, %xmm1
	divss	%xmm1, %xmm0
	stmxcsr	(%rbx)
	movl	(%rbx), %eax
	done
	check	gp_mxcsr, MODE_U, 13
	movl	$0x80000000, (%rbx)
1:	ldmxcsr	(%rbx)
	done

	// ---- #AC: only at CPL 3, with CR0.AM and RFLAGS.AC -------------------------------------
	check	ac_word, MODE_U, 17, fl=FLAG_AC|2, setup=set_am
1:	movw	1(%rbx), %ax
	done
	check	ac_quad, MODE_U, 17, fl=FLAG_AC|2, setup=set_am
1:	movq	%rax, 4(%rbx)
	done
	check	ac_push, MODE_U, 17, fl=FLAG_AC|2, sp=-3, setup=set_am
	leaq	-3(%rsp), %rsp
1:	pushq	%rax
	done
	check	ac_without_am, MODE_U, PROBE_END, fl=FLAG_AC|2
	movw	1(%rbx), %ax
	done
	check	ac_without_flag, MODE_U, PROBE_END, setup=set_am
	movw	1(%rbx), %ax
	done
	check	ac_kernel, MODE_K, PROBE_END, fl=FLAG_AC|2, setup=set_am
	movw	1(%rbx), %ax
	done
	check	ac_aligned, MODE_U, PROBE_END, fl=FLAG_AC|2, setup=set_am
	movq	8(%rbx), %rax
	movb	1(%rbx), %al
	done

	// ---- #DB --------------------------------------------------------------------------------
	check	db_step_user, MODE_U, 1, fl=FLAG_TF|2, dr6=0x4000
	nop
1:	done
	check	db_step_kernel, MODE_K, 1, fl=FLAG_TF|2, dr6=0x4000
	xorl	%eax, %eax
1:	done
	check	db_step_32, MODE_U32, 1, fl=FLAG_TF|2, dr6=0x4000
	nop
1:	done
	check	db_step_jump, MODE_U, 1, fl=FLAG_TF|2, dr6=0x4000
	jmp	2f
	ud2
2:
1:	done
	check	db_step_popf, MODE_U, 1, flout=FLAG_TF|2, dr6=0x4000
	pushfq
	orl	$FLAG_TF, (%rsp)
	popfq
	nop
1:	done
	check	db_step_popf_clears, MODE_K, 1, fl=FLAG_TF|2, flout=2, dr6=0x4000, sp=8, setup=flags_on_stack
	popfq
1:	done
	check	db_step_mov_ss, MODE_K, 1, flout=FLAG_TF|2, dr6=0x4000
	movl	%ss, %eax
	pushfq
	orl	$FLAG_TF, (%rsp)
	popfq
	movl	%eax, %ss
	nop
1:	done
	check	db_step_fault_wins, MODE_U, 6, fl=FLAG_TF|2
1:	ud2
	done
	check	db_step_rep, MODE_U, 1, fl=FLAG_TF|2, dr6=0x4000, flout=FLAG_TF|FLAG_RF|2
1:	rep stosb
	done
	check	db_step_int, MODE_U, PROBE_END, fl=FLAG_TF|2
	done
	check	db_icebp, MODE_U, 1, dr6=0
	.byte	0xf1
1:	done
	check	db_icebp_kernel, MODE_K, 1, dr6=0
	.byte	0xf1
1:	done
	check	db_execute, MODE_U, 1, dr6=1, setup=dr_execute
	nop
	.globl	dr_execute_user
dr_execute_user:
1:	nop
	done
	check	db_execute_kernel, MODE_K, 1, dr6=2, setup=dr_execute_1
	nop
	.globl	dr_execute_kernel
dr_execute_kernel:
1:	nop
	done
	check	db_execute_rf, MODE_U, PROBE_END, fl=FLAG_RF|2, flout=2, setup=dr_execute_2
	.globl	dr_execute_rf
dr_execute_rf:
	nop
	done
	check	db_write, MODE_U, 1, dr6=1, setup=dr_write
	movl	(%rbx), %eax
	movl	%eax, (%rbx)
1:	done
	check	db_write_part, MODE_U, 1, dr6=1, setup=dr_write
	movb	%al, 4(%rbx)
	movb	%al, 3(%rbx)
1:	done
	check	db_write_across, MODE_U, 1, dr6=1, setup=dr_write
	movq	%rax, -7(%rbx)
1:	done
	check	db_read, MODE_U, 1, dr6=8, setup=dr_read
	movl	8(%rbx), %eax
1:	done
	check	db_read_8, MODE_K, 1, dr6=8, setup=dr_read
	movb	15(%rbx), %al
1:	done
	check	db_read_write, MODE_K, 1, dr6=8, setup=dr_read
	movb	%al, 12(%rbx)
1:	done
	check	db_write_and_step, MODE_U, 1, fl=FLAG_TF|2, dr6=0x4001, setup=dr_write
	movl	%eax, (%rbx)
1:	done
	check	db_push, MODE_K, 1, dr6=4, sp=-8, setup=dr_stack
	pushq	%rax
1:	done
	check	db_disabled, MODE_U, PROBE_END, setup=dr_disabled
	movl	%eax, (%rbx)
	done
	check	db_general_detect, MODE_K, 1, dr6=0x2000, flout=FLAG_RF|2, setup=dr_detect
1:	movq	%db0, %rax
	done
	check	dr4_alias, MODE_K, PROBE_END, ax=0xffff0ff0
	.byte	0x0f, 0x21, 0xe0
	done
	check	dr4_de, MODE_K, 6, setup=set_de
1:	.byte	0x0f, 0x21, 0xe0
	done
	check	dr7_high, MODE_K, 13
	movabsq	$0x100000400, %rax
1:	movq	%rax, %db7
	done
	check	dr6_high, MODE_K, 13
	movabsq	$0x100000000, %rax
1:	movq	%rax, %db6
	done
	check	dr7_fixed, MODE_K, PROBE_END, ax=0x400
	xorl	%eax, %eax
	movq	%rax, %db7
	movq	%db7, %rax
	done
	check	dr0_64, MODE_K, PROBE_END, ax=0x123456789abc
	movabsq	$0x123456789abc, %rax
	movq	%rax, %db0
	xorl	%eax, %eax
	movq	%db0, %rax
	done

	// ---- IRETQ ---------------------------------------------------------------------------------
	.macro	iret_frame cs, ss, flags=2, rip=0
	movq	%rsp, %rcx
	pushq	$\ss
	pushq	%rcx
	pushq	$\flags
	pushq	$\cs
	.ifeq	\rip
	leaq	1f(%rip), %rcx
	.else
	movabsq	$\rip, %rcx
	.endif
	pushq	%rcx
	.endm
	.macro	iret_to name, mode, cs, ss, vector=13, error=0, flags=2, rip=0
	check	iret_\name, \mode, \vector, error=\error, sp=-40
	iret_frame \cs, \ss, \flags, \rip
1:	iretq
	done
	.endm
	check	iret_same, MODE_K, PROBE_END
	movq	%rsp, %rcx
	pushq	$SEL_DATA
	pushq	%rcx
	pushq	$2
	pushq	$SEL_CODE64
	pushq	$2f
	iretq
2:	done
	check	iret_rsp, MODE_K, PROBE_END, sp=-5
	leaq	-5(%rsp), %rcx
	pushq	$SEL_DATA
	pushq	%rcx
	pushq	$2
	pushq	$SEL_CODE64
	pushq	$2f
	iretq
2:	done
	check	iret_null_ss, MODE_K, PROBE_END, ss=0
	movq	%rsp, %rcx
	pushq	$0
	pushq	%rcx
	pushq	$2
	pushq	$SEL_CODE64
	pushq	$2f
	iretq
2:	done
	check	iret_user, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$2
	pushq	$SEL_USER64
	pushq	$2f
	iretq
2:	done
	check	iret_user_same, MODE_U, PROBE_END
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$2
	pushq	$SEL_USER64
	pushq	$2f
	iretq
2:	done
	check	iret_user_if, MODE_U, PROBE_END, fl=2, flout=0x40002
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$FLAG_IF|FLAG_IOPL|FLAG_AC|2 // IF and IOPL are not the user's to set
	pushq	$SEL_USER64
	pushq	$2f
	iretq
2:	done
	check	iret_iopl, MODE_K, PROBE_END, flout=FLAG_IOPL|FLAG_IF|2
	movq	%rsp, %rcx
	pushq	$SEL_DATA
	pushq	%rcx
	pushq	$FLAG_IF|FLAG_IOPL|2
	pushq	$SEL_CODE64
	pushq	$2f
	iretq
2:	done
	check	iret_32_form, MODE_K, PROBE_END
	movq	%rsp, %rcx
	subq	$20, %rsp
	movl	$2f, (%rsp)
	movl	$SEL_CODE64, 4(%rsp)
	movl	$2, 8(%rsp)
	movl	%ecx, 12(%rsp)
	movl	$SEL_DATA, 16(%rsp)
	iretl
2:	done
	iret_to	null_cs, MODE_K, 0, SEL_DATA
	iret_to	data_cs, MODE_K, SEL_DATA, SEL_DATA, 13, SEL_DATA
	iret_to	beyond_cs, MODE_K, 0x7f8, SEL_DATA, 13, 0x7f8
	iret_to	absent_cs, MODE_K, SEL_CODE_NP, SEL_DATA, 11, SEL_CODE_NP
	iret_to	system_cs, MODE_K, SEL_TSS, SEL_DATA, 13, SEL_TSS
	iret_to	rpl_cs, MODE_K, CODE64_3, SEL_USER_DATA, 13, SEL_CODE64
	iret_to	l_and_d_cs, MODE_K, SEL_L_AND_D, SEL_DATA, 13, SEL_L_AND_D
	iret_to	user_null_ss, MODE_K, SEL_USER64, 0, 13, 0
	iret_to	user_kernel_ss, MODE_K, SEL_USER64, SEL_DATA, 13, SEL_DATA
	iret_to	user_ss_rpl, MODE_K, SEL_USER64, USER_DATA_0, 13, USER_DATA_0
	iret_to	ss_code, MODE_K, SEL_CODE64, SEL_CODE64, 13, SEL_CODE64
	iret_to	ss_readonly, MODE_K, SEL_CODE64, SEL_READONLY, 13, SEL_READONLY
	iret_to	ss_absent, MODE_K, SEL_CODE64, SEL_DATA_NP, 12, SEL_DATA_NP
	iret_to	ss_beyond, MODE_K, SEL_CODE64, 0x7f8, 13, 0x7f8
	iret_to	kernel_from_user, MODE_U, SEL_CODE64, SEL_DATA, 13, SEL_CODE64
	iret_to	canonical, MODE_K, SEL_CODE64, SEL_DATA, 13, 0, 2, HIGH
	check	iret_nt, MODE_K, 13, fl=FLAG_NT|2, sp=-40
	iret_frame SEL_CODE64, SEL_DATA
1:	iretq
	done
	check	iret_stack_canonical, MODE_K, 12, sp=UNCHECKED, setup=use_ist
	movabsq	$HIGH, %rsp
1:	iretq
	done
	checks_end

	.text
	.globl	probe_end_here, probe_ud_here, probe_gp_here, probe_pf_here, probe_de_here
probe_end_here:
	int	$PROBE_END
probe_ud_here:
	ud2
probe_gp_here:
	movabsq	$HIGH, %rdx
	movq	(%rdx), %rax
probe_pf_here:
	movabsq	$0x10000000000, %rdx
	movq	(%rdx), %rax
probe_de_here:
	xorl	%ecx, %ecx
	divl	%ecx

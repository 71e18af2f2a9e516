// SPDX-License-Identifier: Apache-2.0
// Segments, far transfers, system registers, I/O rights.

#include "tests/guests/priv_check.inc"

#define USER64_0 0x40 /* with an RPL of 0 */
#define CODE64_3 0x0b
#define DATA_3   0x13
#define CONFORMING_3 0x83
#define LDT_BEYOND 0x1f

	checks_begin

	// ---- loads ---------------------------------------------------------------------------
	.macro	load name, mode, register, selector, vector=PROBE_END, error=0, setup=0
	check	load_\name, \mode, \vector, error=\error, setup=\setup
	movl	$\selector, %eax
1:	movl	%eax, %\register
	done
	.endm
	.macro	load_good name, mode, register, selector, setup=0
	check	load_\name, \mode, PROBE_END, ax=\selector, setup=\setup
	movl	$\selector, %eax
	movl	%eax, %\register
	movl	$-1, %eax
	movl	%\register, %eax
	done
	.endm
	load_good ds_null, MODE_U, ds, 0
	load_good ds_null_rpl, MODE_U, ds, 3
	load_good ds_user, MODE_U, ds, SEL_USER_DATA
	load_good ds_rpl0, MODE_U, ds, 0x38
	load_good ds_code, MODE_U, es, SEL_USER32
	load_good ds_code64, MODE_U, es, SEL_USER64
	load_good ds_conforming, MODE_U, ds, CONFORMING_3
	load_good ds_readonly, MODE_K, ds, SEL_READONLY
	load_good fs_ldt, MODE_U, fs, SEL_LDT_DATA, load_ldt
	check	load_ss_null, MODE_K, PROBE_END, ss=0
	xorl	%eax, %eax
	movl	%eax, %ss
	done
	load_good ss_data, MODE_K, ss, SEL_DATA
	load_good gs_small, MODE_U, gs, SEL_SMALL
	load	ds_kernel, MODE_U, ds, SEL_DATA, 13, SEL_DATA
	load	ds_rpl3, MODE_K, ds, DATA_3, 13, SEL_DATA
	load	ds_beyond, MODE_K, ds, 0x7f8, 13, 0x7f8
	load	ds_last_byte, MODE_K, ds, SEL_GDT_END, 13, SEL_GDT_END
	load	ds_absent, MODE_K, ds, SEL_DATA_NP, 11, SEL_DATA_NP
	load	ds_absent_user, MODE_U, gs, SEL_USER_NP, 11, 0x150
	load	ds_execute_only, MODE_K, ds, SEL_EXECUTE, 13, SEL_EXECUTE
	load	ds_system, MODE_K, ds, SEL_TSS, 13, SEL_TSS
	load	ds_system0, MODE_K, es, SEL_SYSTEM0, 13, SEL_SYSTEM0
	load	ds_gate, MODE_K, es, SEL_GATE, 13, SEL_GATE
	load	ds_no_ldt, MODE_U, ds, SEL_LDT_DATA, 13, 0x0c
	load	ds_ldt_beyond, MODE_U, ds, LDT_BEYOND, 13, 0x1c, load_ldt
	load	ss_null_user, MODE_U, ss, 3, 13, 0
	load	ss_rpl, MODE_K, ss, SEL_USER_DATA, 13, 0x38
	load	ss_dpl, MODE_U, ss, DATA_3, 13, SEL_DATA
	load	ss_readonly, MODE_K, ss, SEL_READONLY, 13, SEL_READONLY
	load	ss_code, MODE_K, ss, SEL_CODE64, 13, SEL_CODE64
	load	ss_absent, MODE_K, ss, SEL_DATA_NP, 12, SEL_DATA_NP
	load	ss_beyond, MODE_K, ss, 0x7f8, 13, 0x7f8
	load	ds_32, MODE_U32, ds, SEL_DATA, 13, SEL_DATA
	load	ss_null_32, MODE_U32, ss, 0, 13, 0
	load	ss_null_k32, MODE_K32, ss, 0, 13, 0
	check	load_sets_accessed, MODE_K, PROBE_END, ax=0xf3
	movl	$SEL_LIMIT, %eax
	movl	%eax, %es
	movzbl	priv_gdt + SEL_LIMIT + 5, %eax
	done
	check	load_base, MODE_U, PROBE_END, ax=0x1234
	movl	$0x1234, (%rbx)
	movl	$SEL_SMALL, %eax
	movl	%eax, %fs
	movl	%fs:0, %eax
	done
	check	load_base_no_limit, MODE_U, PROBE_END, ax=0x4321
	movl	$0x4321, 0x200(%rbx)
	movl	$SEL_SMALL, %eax
	movl	%eax, %gs
	movl	%gs:0x200, %eax
	done
	check	load_base_msr, MODE_K, PROBE_END, ax=0
	movl	$SEL_SMALL, %eax
	movl	%eax, %fs
	movl	$MSR_FS, %ecx
	rdmsr
	subq	%rbx, %rax
	done
	check	base_msr_64, MODE_K, PROBE_END, ax=0x77
	movq	$0x77, 8(%rbx)
	movl	$MSR_GS, %ecx
	movabsq	$0x8000000000, %rax // no matter: DS has no base in 64-bit mode
	movl	%ebx, %eax
	xorl	%edx, %edx
	wrmsr
	movq	%gs:8, %rax
	done
	check	base_ds_ignored, MODE_U, PROBE_END, ax=0x55
	movl	$0x55, (%rbx)
	movl	$SEL_SMALL, %eax
	movl	%eax, %ds
	movl	(%rbx), %eax
	done
	check	push_pop_fs, MODE_U, PROBE_END, ax=SEL_USER_DATA
	pushq	$SEL_USER_DATA
	popq	%fs
	pushq	%fs
	popq	%rax
	done
	check	pop_fs_bad, MODE_U, 13, error=SEL_DATA, sp=-8
	pushq	$SEL_DATA
1:	popq	%fs
	done
	check	lfs, MODE_U, PROBE_END, ax=0x99
	movl	$0x99, (%rbx)
	movw	$SEL_USER_DATA, 4(%rbx)
	lfs	(%rbx), %eax
	done
	check	lss_bad, MODE_U, 13, error=SEL_DATA
	movl	$0x99, (%rbx)
	movw	$SEL_DATA, 4(%rbx)
1:	lss	(%rbx), %eax
	done

	// ---- LAR, LSL, VERR, VERW: the value, and ZF in bit 63 -------------------------------------
	.macro	look insn, name, mode, selector, value, setup=0
	check	\insn\()_\name, \mode, PROBE_END, ax=\value, setup=\setup
	movl	$\selector, %ecx
	movl	$0xffff, %eax
	\insn	%ecx, %eax
	setz	%cl
	movzbl	%cl, %ecx
	.ifc	\insn, lar
	andl	$0xfff0ffff, %eax // undefined
	.endif
	shlq	$63, %rcx
	orq	%rcx, %rax
	done
	.endm
#define ZF_AND(v) (0x8000000000000000 + (v))
#define NO_ZF 0xffff
	look	lar, code64, MODE_U, SEL_USER64, ZF_AND(0xa0fb00)
	look	lar, data, MODE_K, SEL_DATA, ZF_AND(0xc09300)
	look	lar, data_user, MODE_U, SEL_DATA, NO_ZF
	look	lar, conforming_user, MODE_U, SEL_CONFORMING, ZF_AND(0xa09f00)
	look	lar, null, MODE_U, 0, NO_ZF
	look	lar, beyond, MODE_K, 0x7f8, NO_ZF
	look	lar, absent, MODE_K, SEL_DATA_NP, ZF_AND(0xc01300)
	look	lar, tss, MODE_K, SEL_TSS, ZF_AND(0x008b00)
	look	lar, ldt, MODE_K, SEL_LDT, ZF_AND(0x008200)
	look	lar, gate, MODE_K, SEL_GATE0, ZF_AND(0x108c00)
	look	lar, system0, MODE_K, SEL_SYSTEM0, NO_ZF
	look	lar, rpl, MODE_K, DATA_3, NO_ZF
	look	lsl, code64, MODE_U, SEL_USER64, ZF_AND(0xffffffff)
	look	lsl, small, MODE_U, SEL_SMALL, ZF_AND(0xff)
	look	lsl, down, MODE_K, SEL_DOWN, ZF_AND(0xfff)
	look	lsl, data16, MODE_K, SEL_DATA16, ZF_AND(0xffff)
	look	lsl, data_user, MODE_U, SEL_DATA, NO_ZF
	look	lsl, tss, MODE_K, SEL_TSS, ZF_AND(8296)
	look	lsl, gate, MODE_K, SEL_GATE, NO_ZF
	look	lsl, null, MODE_K, 0, NO_ZF
	look	lsl, ldt, MODE_K, SEL_LDT, ZF_AND(23)
	.macro	verify insn, name, mode, selector, value
	check	\insn\()_\name, \mode, PROBE_END, ax=\value
	movl	$\selector, %ecx
	xorl	%eax, %eax
	\insn	%cx
	setz	%al
	done
	.endm
	verify	verr, user, MODE_U, SEL_USER_DATA, 1
	verify	verw, user, MODE_U, SEL_USER_DATA, 1
	verify	verr, kernel_user, MODE_U, SEL_DATA, 0
	verify	verr, code, MODE_U, SEL_USER64, 1
	verify	verw, code, MODE_U, SEL_USER64, 0
	verify	verr, execute, MODE_K, SEL_EXECUTE, 0
	verify	verw, readonly, MODE_K, SEL_READONLY, 0
	verify	verr, readonly, MODE_K, SEL_READONLY, 1
	verify	verr, conforming, MODE_U, SEL_CONFORMING, 1
	verify	verr, system, MODE_K, SEL_TSS, 0
	verify	verr, null, MODE_K, 0, 0
	verify	verr, beyond, MODE_K, 0x7f8, 0
	verify	verw, rpl, MODE_K, DATA_3, 0
	check	arpl, MODE_U32, PROBE_END, ax=0x0013
	movl	$0x10, %eax
	movl	$3, %ecx
	arpl	%cx, %ax
	done

	// ---- LDTR, TR, GDTR, IDTR, the machine status word ---------------------------------------------
	.macro	ldtr name, insn, selector, vector=PROBE_END, error=0
	check	\insn\()_\name, MODE_K, \vector, error=\error
	movl	$\selector, %eax
	.ifeq	(\vector) - PROBE_END
	\insn	%ax
	.else
1:	\insn	%ax
	.endif
	done
	.endm
	ldtr	null, lldt, 0
	ldtr	good, lldt, SEL_LDT
	ldtr	ti, lldt, 0x0c, 13, 0x0c
	ldtr	data, lldt, SEL_DATA, 13, SEL_DATA
	ldtr	tss, lldt, SEL_TSS, 13, SEL_TSS
	ldtr	beyond, lldt, 0x7f8, 13, 0x7f8
	ldtr	good, ltr, SEL_TSS2
	ldtr	null, ltr, 0, 13, 0
	ldtr	busy, ltr, SEL_TSS, 13, SEL_TSS
	ldtr	absent, ltr, SEL_TSS_NP, 11, SEL_TSS_NP
	ldtr	ldt, ltr, SEL_LDT, 13, SEL_LDT
	ldtr	data, ltr, SEL_DATA, 13, SEL_DATA
	ldtr	beyond, ltr, 0x7f8, 13, 0x7f8
	check	ltr_makes_busy, MODE_K, PROBE_END, ax=0x8b
	movl	$SEL_TSS2, %eax
	ltr	%ax
	movzbl	priv_gdt + SEL_TSS2 + 5, %eax
	done
	check	str, MODE_U, PROBE_END, ax=SEL_TSS
	movq	$-1, %rax
	str	%rax
	done
	check	sldt, MODE_U, PROBE_END, ax=SEL_LDT, setup=load_ldt
	movq	$-1, %rax
	sldt	%eax
	done
	check	sldt_memory, MODE_U, PROBE_END, ax=0x55550000
	movl	$0x55555555, (%rbx)
	sldt	(%rbx)
	movl	(%rbx), %eax
	done
	check	sgdt, MODE_U, PROBE_END, ax=0x157
	movq	$-1, 8(%rbx)
	sgdt	(%rbx)
	movzwl	(%rbx), %eax
	done
	check	sgdt_base, MODE_U, PROBE_END, ax=0
	movq	$-1, 8(%rbx)
	sgdt	(%rbx)
	movq	2(%rbx), %rax
	subq	$priv_gdt, %rax
	done
	check	sidt, MODE_U, PROBE_END, ax=4095
	sidt	(%rbx)
	movzwl	(%rbx), %eax
	done
	check	smsw, MODE_U, PROBE_END, ax=0x33
	movl	$-1, %eax
	smsw	%ax
	movzwl	%ax, %eax
	done
	check	lmsw_sets_ts, MODE_K, PROBE_END, ax=0x3b
	movl	$9, %eax
	lmsw	%ax
	smsw	%ax
	orw	$2, %ax
	movzwl	%ax, %eax
	done
	check	lmsw_keeps_pe, MODE_K, PROBE_END, ax=1
	xorl	%eax, %eax
	lmsw	%ax
	movq	%cr0, %rax
	andl	$1, %eax
	done
	// ---- far jumps, calls and returns ---------------------------------------------------------------
	.macro	far_pointer selector
	movl	$2f, (%rbx)
	movl	$\selector, 4(%rbx)
	.endm
	.macro	jump name, mode, selector, vector=PROBE_END, error=0, cs=UNCHECKED, setup=0
	check	ljmp_\name, \mode, \vector, error=\error, cs=\cs, setup=\setup
	far_pointer \selector
	.ifeq	(\vector) - PROBE_END
	ljmpl	*(%rbx)
	.else
1:	ljmpl	*(%rbx)
	.endif
2:	done
	.endm
	jump	same, MODE_K, SEL_CODE64
	jump	user, MODE_U, SEL_USER64
	jump	rpl0_user, MODE_U, USER64_0, cs=SEL_USER64
	jump	compat, MODE_K, SEL_CODE32, cs=SEL_CODE32
	jump	compat_user, MODE_U, SEL_USER32, cs=SEL_USER32
	jump	conforming, MODE_K, SEL_CONFORMING, cs=SEL_CONFORMING
	jump	conforming_user, MODE_U, SEL_CONFORMING, cs=CONFORMING_3
	jump	ldt, MODE_U, SEL_LDT_CODE, cs=SEL_LDT_CODE, setup=load_ldt
	jump	null, MODE_K, 0, 13, 0
	jump	null_user, MODE_U, 3, 13, 0
	jump	data, MODE_K, SEL_DATA, 13, SEL_DATA
	jump	absent, MODE_K, SEL_CODE_NP, 11, SEL_CODE_NP
	jump	beyond, MODE_K, 0x7f8, 13, 0x7f8
	jump	to_kernel, MODE_U, SEL_CODE64, 13, SEL_CODE64
	jump	to_user, MODE_K, SEL_USER64, 13, USER64_0
	jump	rpl, MODE_K, CODE64_3, 13, SEL_CODE64
	jump	l_and_d, MODE_K, SEL_L_AND_D, 13, SEL_L_AND_D
	jump	tss, MODE_K, SEL_TSS2, 13, SEL_TSS2
	jump	system0, MODE_K, SEL_SYSTEM0, 13, SEL_SYSTEM0
	jump	conforming_up, MODE_K, SEL_USER_CONF, 13, SEL_USER_CONF
	check	ljmp_32_to_64, MODE_K32, PROBE_END, cs=SEL_CODE64
	ljmp	$SEL_CODE64, $2f
	.code64
2:	movq	%rax, %rax
	done
	check	ljmp_32_to_64_user, MODE_U32, PROBE_END, cs=SEL_USER64, ax=0x1234567890
	ljmp	$SEL_USER64, $2f
	.code64
2:	movabsq	$0x1234567890, %rax
	done
	check	ljmp_32_to_kernel, MODE_U32, 13, error=SEL_CODE64
1:	ljmp	$SEL_CODE64, $2f
	.code64
2:	done
	check	lcall_same, MODE_K, PROBE_END, ax=SEL_CODE64, sp=-8
	far_pointer SEL_CODE64
	lcall	*(%rbx)
2:	movl	4(%rsp), %eax
	done
	check	lcall_pushes, MODE_U, PROBE_END, ax=0, sp=-8
	far_pointer SEL_USER64
	lcall	*(%rbx)
3:
2:	movl	(%rsp), %eax
	subl	$3b, %eax
	done
	check	lcall_lret, MODE_U, PROBE_END, ax=5
	far_pointer SEL_USER64
	movl	$2, %eax
	lcall	*(%rbx)
	addl	$3, %eax
	jmp	4f
2:	lretl
4:	done
	check	lcall_32, MODE_U32, PROBE_END, ax=SEL_USER32, sp=-8
	lcall	$SEL_USER32, $2f
2:	movl	4(%esp), %eax
	done
	check	lcall_conforming_user, MODE_U, PROBE_END, cs=CONFORMING_3, sp=-8
	far_pointer SEL_CONFORMING
	lcall	*(%rbx)
2:	done
	check	lret_user, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$SEL_USER64
	pushq	$2f
	lretq
2:	done
	check	lret_user32, MODE_K, PROBE_END, cs=SEL_USER32, ss=SEL_USER_DATA
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$SEL_USER32
	pushq	$2f
	lretq
	.code32
2:	done
	check	lret_same, MODE_U, PROBE_END
	pushq	$SEL_USER64
	pushq	$2f
	lretq
2:	done
	check	lret_pops, MODE_U, PROBE_END, sp=16
	pushq	$SEL_USER64
	pushq	$2f
	lretq	$16
2:	done
	check	lret_user_pops, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA, sp=8
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$0
	pushq	$SEL_USER64
	pushq	$2f
	lretq	$8
2:	done
	check	lret_inner, MODE_U, 13, error=SEL_CODE64, sp=-16
	pushq	$SEL_CODE64
	pushq	$2f
1:	lretq
2:	done
	check	lret_null, MODE_K, 13, sp=-16
	pushq	$0
	pushq	$2f
1:	lretq
2:	done
	check	lret_absent, MODE_K, 11, error=SEL_CODE_NP, sp=-16
	pushq	$SEL_CODE_NP
	pushq	$2f
1:	lretq
2:	done
	check	lret_user_ss, MODE_K, 13, error=SEL_DATA, sp=-32
	movq	%rsp, %rcx
	pushq	$SEL_DATA
	pushq	%rcx
	pushq	$SEL_USER64
	pushq	$2f
1:	lretq
2:	done
	check	lret_clears_ds, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA, ax=0
	movl	$SEL_DATA, %ecx
	movl	%ecx, %es
	movq	%rsp, %rcx
	pushq	$SEL_USER_DATA
	pushq	%rcx
	pushq	$SEL_USER64
	pushq	$2f
	lretq
2:	movl	%es, %eax
	done

	// ---- call gates ----------------------------------------------------------------------------------
	// The target ends the probe; AX is what it has found on its stack, the caller's RIP.
	.macro	call_gate_code name, mode, selector, vector, error
	check	gate_\name, \mode, \vector, error=\error
	movl	$0, (%rbx)
	movl	$\selector, 4(%rbx)
1:	lcall	*(%rbx)
	done
	.endm
	call_gate_code dpl, MODE_U, SEL_GATE0, 13, SEL_GATE0
	call_gate_code absent, MODE_U, SEL_GATE_NP, 11, SEL_GATE_NP
	call_gate_code to_data, MODE_U, SEL_GATE_DATA, 13, SEL_DATA
	call_gate_code upper_half, MODE_K, 0xc8, 13, 0xc8
	check	gate_jump_up, MODE_U, 13, error=SEL_CODE64
	movl	$SEL_GATE, 4(%rbx)
1:	ljmpl	*(%rbx)
	done
	check	gate_back, MODE_U, PROBE_END, ax=0x77
	movl	$SEL_GATE, 4(%rbx)
	movl	$0x77, %eax
	movl	$1, %edi // the target returns
	lcall	*(%rbx)
	done
	check	gate_back_32, MODE_U32, PROBE_END, ax=0x78
	movl	$0x78, %eax
	movl	$1, %edi
	lcall	$SEL_GATE, $0
	done
	check	gate_same, MODE_K, PROBE_END, ax=0x79
	movl	$SEL_GATE0, 4(%rbx)
	movl	$0x79, %eax
	movl	$1, %edi
	lcall	*(%rbx)
	done
	check	gate_stack_canonical, MODE_U, 12, setup=rsp0_bad
	movl	$SEL_GATE, 4(%rbx)
1:	lcall	*(%rbx)
	done

	// ---- limits and types, which compatibility mode checks --------------------------------------------
	.macro	compat name, vector, insn:vararg
	check	compat_\name, MODE_U32, \vector
	.ifeq	(\vector) - PROBE_END
	\insn
	.else
1:	\insn
	.endif
	done
	.endm
	.macro	small name, vector, insn:vararg
	check	limit_\name, MODE_U32, \vector
	movl	$SEL_SMALL, %eax
	movl	%eax, %es
	.ifeq	(\vector) - PROBE_END
	\insn
	.else
1:	\insn
	.endif
	done
	.endm
	small	last_byte, PROBE_END, movb %es:0xff, %al
	small	last_dword, PROBE_END, movl %es:0xfc, %ecx
	small	byte_beyond, 13, movb %es:0x100, %al
	small	dword_across, 13, movl %es:0xfd, %ecx
	small	write_across, 13, movl %ecx, %es:0xfe
	small	far_beyond, 13, movl %es:0xfffffffc, %ecx
	check	limit_stos, MODE_U32, 13
	movl	$SEL_SMALL, %eax
	movl	%eax, %es
	movl	$0xf8, %edi
	movl	$4, %ecx
	movl	$0x31, %eax
1:	rep stosl
	done
	check	null_ds, MODE_U32, 13
	xorl	%eax, %eax
	movl	%eax, %ds
1:	movl	(%ebx), %eax
	done
	check	null_es_unused, MODE_U32, PROBE_END
	xorl	%eax, %eax
	movl	%eax, %es
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	(%ebx), %eax
	done
	check	write_cs, MODE_U32, 13
1:	movl	%eax, %cs:(%ebx)
	done
	check	read_cs, MODE_U32, PROBE_END, ax=0x66
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	$0x66, (%ebx)
	movl	%cs:(%ebx), %eax
	done
	check	write_readonly, MODE_K32, 13
	movl	$SEL_READONLY, %eax
	movl	%eax, %ds
1:	movl	%eax, (%ebx)
	done
	check	down_below, MODE_K32, 13
	movl	$SEL_DOWN, %eax
	movl	%eax, %es
1:	movb	%es:0xfff, %al
	done
	check	down_above, MODE_K32, PROBE_END
	movl	$SEL_DOWN, %eax
	movl	%eax, %es
	movb	%es:0x1000, %cl
	done
	check	limit_stack, MODE_U32, 12, ss=SEL_SMALL_STACK, sp=UNCHECKED
	movl	$SEL_SMALL_STACK, %eax
	movl	%eax, %ss
	movl	$0x1002, %esp
1:	popl	%eax
	done
	check	base_stack, MODE_U32, PROBE_END, ss=SEL_SMALL_STACK, sp=UNCHECKED, ax=0x1122
	movl	$SEL_SMALL_STACK, %eax
	movl	%eax, %ss
	movl	$0x1000, %esp
	pushl	$0x1122
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	0xffc + priv_stack, %eax
	done
	check	base_data, MODE_U32, PROBE_END, ax=0xab
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	$0xab, 0x10(%ebx)
	movl	$SEL_SMALL, %eax
	movl	%eax, %ds
	movl	0x10, %eax
	done
	check	wrap_32, MODE_U32, PROBE_END, ax=0xcd
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	$0xcd, (%ebx)
	movl	$0x80000000, %ecx
	leal	0x80000000(%ebx), %edx
	movl	(%ecx, %edx), %eax
	done
	check	stack_16, MODE_U16, PROBE_END, sp=-2
	pushw	%ax
	done
	check	compat_16, MODE_U16, PROBE_END, ax=0x1234abcd
	movl	$0x1234abcd, %eax
	done
	check	address_16, MODE_K16, PROBE_END, ax=0x5678
	movw	$SEL_DATA, %ax
	movw	%ax, %ds
	movw	$0x5678, 0x6004
	movl	$0xffff6000, %ebx
	movw	4(%bx), %cx
	movzwl	%cx, %eax
	done
	check	ljmp_16_to_64, MODE_K16, PROBE_END, cs=SEL_CODE64
	ljmpl	$SEL_CODE64, $2f
	.code64
2:	done
	check	ud_16, MODE_U16, 6
1:	ud2
	done

	// ---- I/O rights --------------------------------------------------------------------------------------
	check	io_allowed, MODE_U, PROBE_END, setup=io_80
	outb	%al, $0x80
	done
	check	io_not_next, MODE_U, 13, setup=io_80
1:	outb	%al, $0x81
	done
	check	io_word, MODE_U, 13, setup=io_80
1:	outw	%ax, $0x80
	done
	check	io_word_allowed, MODE_U, PROBE_END, setup=io_80_87
	outw	%ax, $0x80
	done
	check	io_dword_across, MODE_U, 13, setup=io_80_87
	movl	$0x85, %edx
1:	outl	%eax, %dx
	done
	check	io_dword_last, MODE_U, PROBE_END, setup=io_80_87
	movl	$0x84, %edx
	outl	%eax, %dx
	done
	check	io_beyond_map, MODE_U, 13, setup=io_short
	movl	$0x90, %edx
1:	outb	%al, %dx
	done
	check	io_no_map, MODE_U, 13, setup=io_none
1:	outb	%al, $0x80
	done
	check	io_outs, MODE_U, 13, setup=io_80
	movl	$0x81, %edx
1:	rep outsb
	done
	check	io_iopl, MODE_U, PROBE_END, fl=FLAG_IOPL|2
	outb	%al, $0x80
	done
	check	io_iopl2, MODE_U, 13, fl=0x2002
1:	outb	%al, $0x80
	done
	check	io_32, MODE_U32, PROBE_END, setup=io_80
	outb	%al, $0x80
	done

	// ---- flags that CPL and IOPL guard ---------------------------------------------------------------------
	.macro	popf_check name, mode, load, out, in=2
	check	popf_\name, \mode, PROBE_END, fl=\in, flout=\out
	pushq	$\load
	popfq
	done
	.endm
	popf_check user_if, MODE_U, FLAG_IF|2, 2
	popf_check user_keeps_if, MODE_U, 2, FLAG_IF|2, FLAG_IF|2
	popf_check user_iopl, MODE_U, FLAG_IOPL|2, 2
	popf_check user_iopl_if, MODE_U, 2, FLAG_IOPL|2, FLAG_IOPL|FLAG_IF|2
	popf_check user_ac_id_nt, MODE_U, 0x244402, 0x244402
	popf_check kernel_all, MODE_K, 0x247602, 0x247602
	popf_check rf, MODE_K, FLAG_RF|2, 2
	popf_check vm, MODE_K, 0x20002, 2
	check	popf_16, MODE_U, PROBE_END, fl=FLAG_AC|2, flout=FLAG_AC|FLAG_DF|2
	pushw	$FLAG_DF|2
	popfw
	done
	check	popf_32, MODE_U32, PROBE_END, flout=FLAG_AC|FLAG_DF|2
	pushl	$FLAG_AC|FLAG_DF|FLAG_IOPL|FLAG_IF|2
	popfl
	done
	check	pushf, MODE_U, PROBE_END, fl=FLAG_RF|FLAG_IF|FLAG_AC|2, flout=FLAG_IF|FLAG_AC|2, ax=0x40202
	pushfq // RF and VM are not shown
	popq	%rax
	andl	$0xfffff702, %eax
	done
	check	iopl_cli, MODE_U, PROBE_END, fl=FLAG_IOPL|FLAG_IF|2, flout=FLAG_IOPL|2
	cli
	done
	check	iopl_sti, MODE_U, PROBE_END, fl=FLAG_IOPL|2, flout=FLAG_IOPL|FLAG_IF|2
	sti
	done
	check	iopl_cli_32, MODE_U32, PROBE_END, fl=FLAG_IOPL|FLAG_IF|2, flout=FLAG_IOPL|2
	cli
	done
	check	iopl2_cli, MODE_U, 13, fl=0x2002
1:	cli
	done
	checks_end

	// ---- where the call gates lead -----------------------------------------------------------------------------
	.globl	priv_gate_target, priv_gate_conforming, gate_call, gate_call_return
priv_gate_target:
	cmpl	$1, %edi
	je	3f
	movq	(%rsp), %rax
	movq	8(%rsp), %rcx
	movq	16(%rsp), %rdx
	movq	24(%rsp), %rsi
priv_gate_conforming:
	int	$PROBE_END
3:	lretq
	.balign	16
gate_call:
	movl	$0x12345678, (%rbx) // a gate has its own offset
	movl	%esi, 4(%rbx)
	xorl	%edi, %edi
	lcall	*(%rbx)
gate_call_return:
	ud2

// SPDX-License-Identifier: Apache-2.0
// SYSCALL, SYSRET, SWAPGS, MSRs, control registers.

#include "tests/guests/priv_check.inc"

#define HIGH 0x8000000000000000
#define ID_FLAG 0x200000

	checks_begin

	// ---- SYSCALL: the entry ends the probe there, with the user's RIP less the label in AX ----
	check	syscall, MODE_U, PROBE_END, cs=SEL_CODE64, ss=SEL_DATA, setup=syscall_entry_end, ax=0, fl=FLAG_IF|2, flout=2
	movq	$2f, %rdx
	syscall
2:	ud2
	.pushsection .text.entries, "ax"
	.globl	entry_end
entry_end:
	movq	%rcx, %rax
	subq	%rdx, %rax
	int	$PROBE_END
1:	ud2
	.popsection
	check	syscall_flags, MODE_U, PROBE_END, cs=SEL_CODE64, ss=SEL_DATA, setup=syscall_entry_flags, fl=FLAG_IF|FLAG_AC|FLAG_DF|FLAG_NT|2, flout=FLAG_AC|2, ax=FLAG_IF|FLAG_AC|FLAG_DF|FLAG_NT|2
	syscall
	ud2
	.pushsection .text.entries, "ax"
	.globl	entry_flags
entry_flags: // R11 has what RFLAGS were
	movq	%r11, %rax
	andl	$FLAGS_SHOWN|2, %eax
	int	$PROBE_END
1:	ud2
	.popsection
	check	syscall_kernel, MODE_K, PROBE_END, setup=syscall_entry_kernel, ax=0
	movq	$2f, %rdx
	syscall
2:	ud2
	.pushsection .text.entries, "ax"
	.globl	entry_kernel
entry_kernel:
	movq	%rcx, %rax
	subq	%rdx, %rax
	int	$PROBE_END
1:	ud2
	.popsection
	check	syscall_back, MODE_U, PROBE_END, setup=syscall_entry_back, ax=0x55, fl=FLAG_IF|FLAG_AC|2, flout=FLAG_IF|FLAG_AC|2
	movl	$0x55, %eax
	syscall
	done
	check	syscall_back_32, MODE_U, PROBE_END, setup=syscall_entry_back_32, cs=SEL_USER32, ax=0x56
	movl	$0x56, %eax
	syscall
	.code32
	done
	check	syscall_off, MODE_U, 6, setup=sce_off
1:	syscall
	done
	check	sysret_off, MODE_K, 6, setup=sce_off
1:	sysretq
	done
	check	sysret_64, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA, setup=syscall_entry_end, flout=FLAG_IF|FLAG_AC|ID_FLAG|2
	movq	$2f, %rcx
	movl	$FLAG_IF|FLAG_AC|ID_FLAG|2, %r11d
	sysretq
2:	done
	check	sysret_clears_rf_vm, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA, setup=syscall_entry_end, flout=2
	movq	$2f, %rcx
	movl	$0x30002, %r11d
	sysretq
2:	done
	check	sysret_iopl, MODE_K, PROBE_END, cs=SEL_USER64, ss=SEL_USER_DATA, setup=syscall_entry_end, flout=FLAG_IOPL|2
	movq	$2f, %rcx
	movl	$FLAG_IOPL|2, %r11d
	sysretq
2:	done
	check	sysret_32, MODE_K, PROBE_END, cs=SEL_USER32, ss=SEL_USER_DATA, setup=syscall_entry_end
	movq	$2f, %rcx
	movl	$2, %r11d
	sysretl
	.code32
2:	done
	check	syscall_rsp, MODE_U, PROBE_END, cs=SEL_CODE64, ss=SEL_DATA, setup=syscall_entry_rsp, sp=-0x18
	subq	$0x18, %rsp
	syscall
	ud2
	.pushsection .text.entries, "ax"
	.globl	entry_rsp
entry_rsp: // RSP is still the user's
	int	$PROBE_END
1:	ud2
	.popsection

	// ---- SWAPGS and the bases ---------------------------------------------------------------------
	check	swapgs, MODE_K, PROBE_END, ax=0x2222, setup=gs_bases
	swapgs
	movq	%gs:0, %rax
	swapgs
	done
	check	swapgs_twice, MODE_K, PROBE_END, ax=0x1111, setup=gs_bases
	swapgs
	swapgs
	movq	%gs:0, %rax
	done
	check	swapgs_msr, MODE_K, PROBE_END, ax=0x100, setup=gs_bases
	swapgs
	movl	$MSR_GS, %ecx
	rdmsr
	subl	%ebx, %eax
	swapgs
	done
	check	swapgs_32, MODE_K32, 6
1:	.byte	0x0f, 0x01, 0xf8
	done
	check	fs_base_wide, MODE_K, 14, error=0, cr2=0x12345678008
	movl	$MSR_FS, %ecx
	movl	$0x45678000, %eax
	movl	$0x123, %edx
	wrmsr
1:	movq	%fs:8, %rax
	done
	check	fs_base_selector, MODE_K, PROBE_END, ax=0
	movl	$MSR_FS, %ecx
	movl	$0x45678000, %eax
	movl	$0x123, %edx
	wrmsr
	movl	$SEL_DATA, %eax
	movl	%eax, %fs
	rdmsr
	done
	check	gs_address_wraps, MODE_K, PROBE_END, ax=0x3333, setup=gs_negative
	movq	%gs:0x1000, %rax
	done

	// ---- MSRs ------------------------------------------------------------------------------------------
	.macro	msr name, vector, number, low=0, high=0
	check	wrmsr_\name, MODE_K, \vector
	movl	$\number, %ecx
	movl	$\low, %eax
	movl	$\high, %edx
	.ifeq	(\vector) - PROBE_END
	wrmsr
	.else
1:	wrmsr
	.endif
	done
	.endm
	check	rdmsr_unknown, MODE_K, 13
	movl	$0x40001234, %ecx
1:	rdmsr
	done
	msr	unknown, 13, 0x40001234
	msr	fs_canonical, 13, MSR_FS, 0, 0x80000000
	msr	gs_canonical, 13, MSR_GS, 0, 0x00008000
	msr	kernel_gs_canonical, 13, MSR_KERNEL_GS, 0, 0x80000000
	msr	lstar_canonical, 13, MSR_LSTAR, 0, 0x80000000
	msr	cstar_canonical, 13, MSR_CSTAR, 0, 0x80000000
	msr	efer_reserved, 13, MSR_EFER, 0x2, 0
	msr	efer_reserved_high, 13, MSR_EFER, 0xd01, 1
	msr	efer_lme_off, 13, MSR_EFER, 0x801, 0
	check	efer_lma_kept, MODE_K, PROBE_END, ax=0xd01
	movl	$MSR_EFER, %ecx
	movl	$0x901, %eax // LMA is the CPU's
	xorl	%edx, %edx
	wrmsr
	rdmsr
	andl	$0xdff, %eax
	done
	.macro	msr_keeps name, number, low, high=0
	check	msr_keeps_\name, MODE_K, PROBE_END, ax=\low
	movl	$\number, %ecx
	movl	$\low, %eax
	movl	$\high, %edx
	wrmsr
	xorl	%eax, %eax
	movl	$-1, %edx
	rdmsr
	cmpl	$\high, %edx
	je	2f
	movl	$-1, %eax
2:	done
	.endm
	msr_keeps star, MSR_STAR, 0x12345678, 0x00330008
	msr_keeps lstar, MSR_LSTAR, 0x1000, 0xffff8000
	msr_keeps cstar, MSR_CSTAR, 0x2000, 0x7fff
	msr_keeps sfmask, MSR_SFMASK, 0x47700
	msr_keeps sysenter_cs, 0x174, 0x10
	msr_keeps kernel_gs, MSR_KERNEL_GS, 0x3000, 0xffffffff
	msr_keeps pat, 0x277, 0x00070406, 0x00070406
	check	wrmsr_pat_bad, MODE_K, 13
	movl	$0x277, %ecx
	movl	$0x02020202, %eax
	xorl	%edx, %edx
1:	wrmsr
	done
	check	rdmsr_clears_upper, MODE_K, PROBE_END, ax=0
	movq	$-1, %rax
	movq	$-1, %rdx
	movl	$MSR_EFER, %ecx
	rdmsr
	shrq	$32, %rax
	shrq	$32, %rdx
	orq	%rdx, %rax
	done

	// ---- control registers ---------------------------------------------------------------------------------
	.macro	cr name, vector, number, set, clear=0
	check	\name, MODE_K, \vector
	movq	%cr\number, %rax
	movabsq	$\set, %rdx
	orq	%rdx, %rax
	movabsq	$~(\clear), %rdx
	andq	%rdx, %rax
1:	movq	%rax, %cr\number
	done
	.endm
	cr	cr0_high, 13, 0, 0x100000000
	cr	cr0_pg_without_pe, 13, 0, 0, 1
	cr	cr0_nw_without_cd, 13, 0, 0x20000000, 0x40000000
	cr	cr0_pg_off_in_64, 13, 0, 0, 0x80000000
	cr	cr4_pae_off, 13, 4, 0, 0x20
	cr	cr4_reserved_high, 13, 4, 0x100000000
	cr	cr4_reserved_31, 13, 4, 0x80000000
	cr	cr4_reserved_15, 13, 4, 0x8000
	cr	cr8_reserved, 13, 8, 0x10
	check	cr0_et_fixed, MODE_K, PROBE_END, ax=0x10
	movq	%cr0, %rax
	andq	$~0x10, %rax
	movq	%rax, %cr0
	movq	%cr0, %rax
	andl	$0x10, %eax
	done
	check	cr2_64, MODE_K, PROBE_END, ax=0x8123456789abcdef
	movabsq	$0x8123456789abcdef, %rax
	movq	%rax, %cr2
	xorl	%eax, %eax
	movq	%cr2, %rax
	done
	check	cr8_keeps, MODE_K, PROBE_END, ax=0xb
	movl	$0xb, %eax
	movq	%rax, %cr8
	xorl	%eax, %eax
	movq	%cr8, %rax
	xorl	%ecx, %ecx
	movq	%rcx, %cr8
	done
	check	cr0_no_registers, MODE_K, PROBE_END, ax=0x80000011
	// The mod field counts for nothing: always a register.
	.byte	0x0f, 0x20, 0x00 // movq %cr0, %rax
	andl	$0x80000011, %eax
	done
	check	cr0_operand_size, MODE_K, PROBE_END, ax=0
	movq	$-1, %rax
	.byte	0x66, 0x0f, 0x20, 0xc0 // 64 bits wide whatever the prefix
	shrq	$32, %rax
	done
	check	cr3_32, MODE_K32, PROBE_END, ax=1
	movl	%cr3, %eax
	movl	%eax, %cr3
	movl	$1, %eax
	done
	check	rdtsc_tsd, MODE_U, 13, setup=tsd_on
1:	rdtsc
	done
	check	rdtsc_tsd_kernel, MODE_K, PROBE_END, setup=tsd_on, ax=0
	rdtsc
	xorl	%eax, %eax
	done
	check	rdtsc_user, MODE_U, PROBE_END, ax=0
	rdtsc
	shrq	$32, %rax
	done
	check	rdpmc_user, MODE_U, 13
	xorl	%ecx, %ecx
1:	rdpmc
	done
	check	cpuid_user, MODE_U, PROBE_END, ax=0
	movq	$-1, %rax
	xorl	%ecx, %ecx
	cpuid
	movl	$1, %eax
	cpuid
	shrq	$32, %rax
	done
	checks_end

	.text
	.globl	entry_back, entry_back_32
entry_back:
	sysretq
entry_back_32:
	sysretl

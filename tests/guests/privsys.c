// SPDX-License-Identifier: Apache-2.0
/*
 * SYSCALL and SYSRET, SWAPGS, MSRs, control registers; privsys_code.S has the table. SYSENTER
 * and SYSCALL from compatibility mode are left out: each vendor has one of them.
 */
#include "tests/guests/priv.h"

const char guest_name[] = "privsys";

extern const char entry_end[], entry_flags[], entry_rsp[], entry_back[], entry_back_32[],
	entry_kernel[];

void syscall_entry_end(void), syscall_entry_flags(void), syscall_entry_back(void);
void syscall_entry_back_32(void), syscall_entry_rsp(void), sce_off(void), gs_bases(void);
void gs_negative(void), tsd_on(void), syscall_entry_kernel(void);

static void entry_set(const char *at, uint64_t mask)
{
	msr_write(MSR_STAR, (uint64_t)SEL_USER32 << 48 | (uint64_t)SEL_CODE64 << 32);
	msr_write(MSR_LSTAR, (uint64_t)at);
	msr_write(MSR_SFMASK, mask);
}

void syscall_entry_end(void)
{
	entry_set(entry_end, FLAG_IF);
}
void syscall_entry_kernel(void)
{
	entry_set(entry_kernel, FLAG_IF);
}
void syscall_entry_flags(void)
{
	entry_set(entry_flags, FLAG_IF | FLAG_DF | FLAG_NT);
}
void syscall_entry_back(void)
{
	entry_set(entry_back, FLAG_IF | FLAG_AC);
}
void syscall_entry_back_32(void)
{
	entry_set(entry_back_32, FLAG_IF);
}
void syscall_entry_rsp(void)
{
	entry_set(entry_rsp, FLAG_IF);
}
void sce_off(void)
{
	msr_write(MSR_EFER, msr_read(MSR_EFER) & ~EFER_SCE);
}

void gs_bases(void)
{
	*(uint64_t *)priv_scratch = 0x1111;
	*(uint64_t *)(priv_scratch + 0x100) = 0x2222;
	msr_write(MSR_GS, (uint64_t)priv_scratch);
	msr_write(MSR_KERNEL_GS, (uint64_t)priv_scratch + 0x100);
}

/* Base and offset are added modulo 2^64. */
void gs_negative(void)
{
	*(uint64_t *)(priv_scratch + 0x10) = 0x3333;
	msr_write(MSR_GS, (uint64_t)priv_scratch + 0x10 - 0x1000);
}

void tsd_on(void)
{
	cr4_write(cr4_read() | 4);
}

void guest_main(void)
{
	priv_begin();
	priv_run_cases();
	priv_end();
}

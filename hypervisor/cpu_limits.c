// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/cpu_limits.h"

#include <stdarg.h>
#include <stdio.h>

#define TSC_TOLERANCE_PERCENT 1u

/* Of ARCH_CAPABILITIES (Intel SDM vol. 4, Linux msr-index.h) what a guest leaves undone because
 * of it: what the CPU is safe from, and what IBRS, VERW and TSX_CTRL do. Not RSBA and RRSBA,
 * which warn; SKIP_VMENTRY_L1DFLUSH, for hypervisors; nor the control MSRs that KVM never had,
 * whose bits it passed on until Linux 6.0. */
#define B(n) (UINT64_C(1) << (n))
#define ARCH_PROMISES                                                                              \
	(B(0) | B(1) | B(4) |            /* RDCL_NO, IBRS_ALL, SSB_NO */                           \
	 B(5) | B(6) | B(7) | B(8) |     /* MDS_NO, PSCHANGE_MC_NO, TSX_CTRL, TAA_NO */            \
	 B(13) | B(14) | B(15) | B(17) | /* SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, FB_CLEAR */           \
	 B(20) | B(24) | B(26) |         /* BHI_NO, PBRSB_NO, GDS_NO */                            \
	 B(27) | B(28) | B(62))          /* RFDS_NO, RFDS_CLEAR, ITS_NO */

const struct cpu_promise cpu_promises[CPU_PROMISES] = {
	{0x10a, ARCH_PROMISES},
};
_Static_assert(CPU_PROMISES <= VM_CPU_PROMISES_MAX, "all have room");

uint64_t cpu_promise_mask(uint32_t msr)
{
	for (unsigned i = 0; i < CPU_PROMISES; i++)
		if (cpu_promises[i].msr == msr)
			return cpu_promises[i].mask;
	return 0;
}

/* 0: it is not there. */
static uint64_t bits_of(const struct vm_cpu_limits *l, uint32_t msr)
{
	for (unsigned i = 0; i < l->promise_count; i++)
		if (l->promises[i].msr == msr)
			return l->promises[i].bits;
	return 0;
}

uint64_t cpu_promise_lacks(const struct vm_cpu_limits *host, uint32_t msr, uint64_t bits)
{
	return bits & cpu_promise_mask(msr) & ~bits_of(host, msr);
}

bool cpu_tsc_near(uint32_t guest_khz, uint32_t host_khz)
{
	uint32_t apart = host_khz > guest_khz ? host_khz - guest_khz : guest_khz - host_khz;

	return apart <= guest_khz / 100 * TSC_TOLERANCE_PERCENT;
}

bool cpu_tsc_fits(const struct vm_cpu_limits *host, uint32_t guest_khz)
{
	return !guest_khz || guest_khz >= host->tsc_khz || cpu_tsc_near(guest_khz, host->tsc_khz);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void PRINTF(3, 4) lack(vm_cpu_lack_fn *fn, void *ctx, const char *fmt, ...)
{
	char text[VM_CPU_LACK_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fn(ctx, false, text);
}

unsigned vm_cpu_limits_lack(const struct vm_cpu_limits *needed, const struct vm_cpu_limits *there,
			    vm_cpu_lack_fn *fn, void *ctx)
{
	unsigned found = 0;

	if (!cpu_tsc_fits(there, needed->tsc_khz)) {
		lack(fn, ctx, "its TSC runs at %u kHz and cannot be scaled, the guest's at %u",
		     there->tsc_khz, needed->tsc_khz);
		found++;
	}
	for (unsigned i = 0; i < CPU_PROMISES; i++) {
		uint32_t msr = cpu_promises[i].msr;
		uint64_t lacks = cpu_promise_lacks(there, msr, bits_of(needed, msr));

		if (!lacks)
			continue;
		lack(fn, ctx, "it lacks what bits %#llx of MSR %#x promise the guest",
		     (unsigned long long)lacks, msr);
		found++;
	}
	return found;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The rules by which a guest's TSC and what MSRs promised it are held against a host: of a state
 * that has arrived (state_vcpu.c), and before one is made (vm_cpu_limits_lack()). Pure. Private to
 * hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_CPU_LIMITS_H
#define POLLUX_HYPERVISOR_CPU_LIMITS_H

#include "hypervisor/hypervisor.h"

/* An MSR in which a guest reads what its CPU is safe from, or does; mask: these bits. */
struct cpu_promise {
	uint32_t msr;
	uint64_t mask;
};
#define CPU_PROMISES 1u
extern const struct cpu_promise cpu_promises[CPU_PROMISES];

/* 0: it is none of them. */
uint64_t cpu_promise_mask(uint32_t msr);
/* Which bits of such an MSR promise a guest that reads `bits` what the host lacks. */
uint64_t cpu_promise_lacks(const struct vm_cpu_limits *host, uint32_t msr, uint64_t bits);

/* A guest's TSC and a host's that count alike: hosts of one model measure theirs a little
 * differently. */
bool cpu_tsc_near(uint32_t guest_khz, uint32_t host_khz);
/* KVM makes a TSC faster than its CPU's by corrections; slower needs one that scales. */
bool cpu_tsc_fits(const struct vm_cpu_limits *host, uint32_t guest_khz);

#endif

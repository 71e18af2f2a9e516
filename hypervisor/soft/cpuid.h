// SPDX-License-Identifier: Apache-2.0
/*
 * CPU model pollux-base: the least that x86-64 Linux distributions ask for, and what
 * engine soft executes; any engine can offer it. Vendor, family and model are those of
 * an early 64-bit AMD CPU, for system calls are AMD's. A pure function of the machine's
 * size: nothing of the host is in it.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_CPUID_H
#define POLLUX_HYPERVISOR_SOFT_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#define CPUID_PHYSICAL_BITS 40
#define CPUID_LINEAR_BITS   48
#define CPUID_LEAVES_MAX    24

struct cpuid_leaf {
	uint32_t function, index;
	bool indexed; /* `index` matters */
	uint32_t eax, ebx, ecx, edx;
};

/* All leaves of one vCPU; others are zeros. Returns how many. */
unsigned cpuid_base_leaves(unsigned vcpus, unsigned vcpu, struct cpuid_leaf out[CPUID_LEAVES_MAX]);

#endif

// SPDX-License-Identifier: Apache-2.0
/* Page tables: AMD64 Architecture Programmer's Manual, volume 2, chapter 5. */
#ifndef POLLUX_HYPERVISOR_SOFT_WALK_H
#define POLLUX_HYPERVISOR_SOFT_WALK_H

#include "hypervisor/soft/soft.h"

enum walk_access { WALK_READ, WALK_WRITE, WALK_FETCH };

struct walk {
	uint64_t physical; /* of the page */
	bool global, large;
};

/* From a linear to a physical address; sets accessed and dirty bits. Raises #PF, or #GP
 * (#SS) for an address that is not canonical. */
void soft_walk(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, enum walk_access access,
	       bool user, struct walk *out);

#endif

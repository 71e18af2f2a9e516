// SPDX-License-Identifier: Apache-2.0
/* x87, MMX and SSE registers in the layout of FXSAVE. */
#ifndef POLLUX_HYPERVISOR_SOFT_FPU_H
#define POLLUX_HYPERVISOR_SOFT_FPU_H

#include "hypervisor/soft/soft.h"

#define FXSAVE_SIZE    512
#define MXCSR_DEFAULT  0x1f80u
#define MXCSR_WRITABLE 0xffffu

/* The form with REX.W in 64-bit mode. FOP, FIP and FDP are always saved. What the format
 * reserves is 0. */
void soft_fxsave(const struct soft_cpu *cpu, uint8_t image[FXSAVE_SIZE]);
/* -EINVAL: reserved bits of MXCSR; nothing was changed. */
int soft_fxrstor(struct soft_cpu *cpu, const uint8_t image[FXSAVE_SIZE]) MUST_CHECK;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * CPU model pollux-base as states hold it: the same CPUID leaves, MSRs and FPU state under
 * each engine that offers it. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_CPU_MODEL_H
#define POLLUX_HYPERVISOR_CPU_MODEL_H

#include "hypervisor/soft/cpuid.h"
#include "hypervisor/state_image.h"

#define CPU_MODEL_LEAVES 24

/* Fills all but `engine`; `vcpus` and `cpuid`, with room for CPU_MODEL_LEAVES, are given. */
void cpu_model_base(struct state_model *model);
struct kvm_cpuid_entry2 cpu_model_entry(const struct cpuid_leaf *l);
struct cpuid_leaf cpu_model_leaf(const struct kvm_cpuid_entry2 *e);

#endif

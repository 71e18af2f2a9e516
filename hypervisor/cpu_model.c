// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/cpu_model.h"

#include <string.h>

#include "hypervisor/soft/cpuid.h"

_Static_assert(CPU_MODEL_LEAVES >= CPUID_LEAVES_MAX, "all leaves have room");

/* TSC first and its deadline last, see docs/state-format.md. */
static const uint32_t msrs[] = {
	MSR_TSC,    0x174,                              /* SYSENTER: CS, ESP, EIP */
	0x175,      0x176,      0x1a0,                  /* MISC_ENABLE */
	0x277,                                          /* PAT */
	0xc0000081,                                     /* STAR, LSTAR, CSTAR, SFMASK */
	0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, /* KERNEL_GS_BASE */
	0x4b564d00,                                     /* wall clock, system time */
	0x4b564d01, 0x200,                              /* MTRRs */
	0x201,      0x202,      0x203,      0x204,      0x205, 0x206, 0x207,
	0x208,      0x209,      0x20a,      0x20b,      0x20c, 0x20d, 0x20e,
	0x20f,      0x250,      0x258,      0x259,      0x268, 0x269, 0x26a,
	0x26b,      0x26c,      0x26d,      0x26e,      0x26f, 0x2ff, MSR_TSC_DEADLINE,
};
_Static_assert(ARRAY_LEN(msrs) <= STATE_MSRS_MAX, "all MSRs have room");

struct kvm_cpuid_entry2 cpu_model_entry(const struct cpuid_leaf *l)
{
	return (struct kvm_cpuid_entry2){
		.function = l->function,
		.index = l->index,
		.flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = l->eax,
		.ebx = l->ebx,
		.ecx = l->ecx,
		.edx = l->edx,
	};
}

struct cpuid_leaf cpu_model_leaf(const struct kvm_cpuid_entry2 *e)
{
	return (struct cpuid_leaf){
		.function = e->function,
		.index = e->index,
		.indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = e->eax,
		.ebx = e->ebx,
		.ecx = e->ecx,
		.edx = e->edx,
	};
}

void cpu_model_base(struct state_model *model)
{
	struct cpuid_leaf leaves[CPUID_LEAVES_MAX];
	unsigned n = cpuid_base_leaves(model->vcpus, 0, leaves);

	model->leaves_most = CPU_MODEL_LEAVES;
	memset(model->cpuid, 0, sizeof(*model->cpuid));
	model->cpuid->nent = n;
	for (unsigned i = 0; i < n; i++)
		model->cpuid->entries[i] = cpu_model_entry(&leaves[i]);
	state_model_fpu(model);
	model->xsave_size = STATE_XSAVE_LEAST;
	model->msr_count = ARRAY_LEN(msrs);
	memcpy(model->msrs, msrs, sizeof(msrs));
}

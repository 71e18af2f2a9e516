// SPDX-License-Identifier: Apache-2.0
/*
 * The CPU that guests see: the host's features as KVM offers them, less those whose
 * state no section carries, with the topology of one socket of `vcpus` cores.
 * Nothing here depends on which host of one CPU model it is.
 */
#include "hypervisor/engine_kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BIT(n) (UINT32_C(1) << (n))
#define ALL    UINT32_MAX

struct cpuid_mask {
	uint32_t function, index;
	uint32_t eax, ebx, ecx, edx; /* bits taken away */
};

/* What is offered is also what a guest that comes from elsewhere may have: a build that takes away
 * more refuses the guests of older ones that have that bit. */
static const struct cpuid_mask masks[] = {
	/* DTES64, MONITOR, DS-CPL, VMX, SMX, PDCM; DS. MCE and MCA: banks are not carried. */
	{1, 0, 0, 0, BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(15),
	 BIT(7) | BIT(14) | BIT(21)},
	/* SGX, RDT, PT; CET shadow stacks, SGX_LC; arch LBR, IBT, AMX */
	{7, 0, 0, BIT(2) | BIT(12) | BIT(15) | BIT(25), BIT(7) | BIT(30),
	 BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25)},
	/* FRED, LKGS, AMX; CET_SSS */
	{7, 1, BIT(17) | BIT(18) | BIT(21), 0, 0, BIT(8) | BIT(18)},
	{0x0a, 0, ALL, ALL, ALL, ALL}, /* PMU */
	{0x0d, 0, BIT(17) | BIT(18), 0, 0, 0},
	{0x0d, 1, BIT(4), 0, ALL, ALL}, /* XFD; supervisor components of XSAVES */
	{0x12, 0, ALL, ALL, ALL, ALL},  /* SGX */
	{0x14, 0, ALL, ALL, ALL, ALL},  /* PT */
	{0x1c, 0, ALL, ALL, ALL, ALL},  /* arch LBR */
	{0x1d, 0, ALL, ALL, ALL, ALL},  /* AMX */
	{0x1e, 0, ALL, ALL, ALL, ALL},
	{0x23, 0, ALL, ALL, ALL, ALL}, /* PMU */
	/* async page faults, MSI with extended ids, encryption and migration control */
	{0x40000001, 0, BIT(4) | BIT(10) | BIT(14) | BIT(15) | BIT(16) | BIT(17), 0, 0, 0},
	/* SVM, OSVW, IBS, SKINIT, LWP, performance counters, MWAITX */
	{0x80000001, 0, 0, 0,
	 BIT(2) | BIT(9) | BIT(10) | BIT(12) | BIT(15) | BIT(23) | BIT(24) | BIT(27) | BIT(28) |
		 BIT(29),
	 0},
	{0x80000007, 0, 0, 0, 0, BIT(8)},    /* invariant TSC: Linux must prefer kvm-clock */
	{0x8000000a, 0, ALL, ALL, ALL, ALL}, /* SVM */
	{0x8000001b, 0, ALL, ALL, ALL, ALL}, /* IBS */
	{0x8000001f, 0, ALL, ALL, ALL, ALL}, /* SEV */
	{0x80000022, 0, ALL, ALL, ALL, ALL}, /* PMU */
};

const struct kvm_cpuid_entry2 *kvm_cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					      uint32_t index)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

static void cpuid_mask(struct kvm_cpuid2 *cpuid)
{
	for (unsigned i = 0; i < ARRAY_LEN(masks); i++) {
		const struct cpuid_mask *m = &masks[i];
		struct kvm_cpuid_entry2 *e =
			(struct kvm_cpuid_entry2 *)kvm_cpuid_find(cpuid, m->function, m->index);

		if (!e)
			continue;
		e->eax &= ~m->eax;
		e->ebx &= ~m->ebx;
		e->ecx &= ~m->ecx;
		e->edx &= ~m->edx;
	}
}

static unsigned id_bits(unsigned vcpus)
{
	unsigned bits = 0;

	while ((1u << bits) < vcpus)
		bits++;
	return bits;
}

/* ---- topology: one function a leaf --------------------------------------- */

static void leaf_features(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	e->ebx = (e->ebx & 0x0000ffff) | vcpus << 16;
	e->ecx |= BIT(31) | BIT(24); /* hypervisor, TSC deadline */
	e->ecx &= ~BIT(27);          /* OSXSAVE follows CR4: KVM's business */
	e->edx &= ~BIT(28);
	if (vcpus > 1)
		e->edx |= BIT(28);
}

/* Intel: the last level is shared by all, the others by none. */
static void leaf_caches(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	unsigned level = (e->eax >> 5) & 7, sharers = level >= 3 ? vcpus : 1;

	if (!(e->eax & 0x1f))
		return;
	e->eax = (e->eax & 0x00003fff) | (sharers - 1) << 14 | ((1u << id_bits(vcpus)) - 1) << 26;
}

static void leaf_amd_caches(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	unsigned level = (e->eax >> 5) & 7, sharers = level >= 3 ? vcpus : 1;

	if (e->eax & 0x1f)
		e->eax = (e->eax & 0x00003fff) | (sharers - 1) << 14;
}

static void leaf_topology(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	static const uint32_t level_type[] = {0x100, 0x201}; /* thread, core */

	e->eax = e->ebx = e->edx = 0;
	e->ecx = e->index;
	if (e->index >= ARRAY_LEN(level_type))
		return;
	e->eax = e->index ? id_bits(vcpus) : 0;
	e->ebx = e->index ? vcpus : 1;
	e->ecx = level_type[e->index];
}

static void leaf_amd_features(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	e->ecx &= ~BIT(1);
	if (vcpus > 1 && e->ecx & BIT(22)) /* CmpLegacy, on CPUs with AMD's topology leaves */
		e->ecx |= BIT(1);
}

static void leaf_amd_sizes(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	e->ecx = (e->ecx & ~0xf0ffu) | id_bits(vcpus) << 12 | (vcpus - 1);
}

static void leaf_amd_core(struct kvm_cpuid_entry2 *e, unsigned vcpus)
{
	e->eax = e->ebx = e->ecx = 0;
}

static const struct {
	uint32_t function;
	void (*fix)(struct kvm_cpuid_entry2 *e, unsigned vcpus);
} leaves[] = {
	{1, leaf_features},           {4, leaf_caches},
	{0x0b, leaf_topology},        {0x80000001, leaf_amd_features},
	{0x80000008, leaf_amd_sizes}, {0x8000001d, leaf_amd_caches},
	{0x8000001e, leaf_amd_core},
};

static void cpuid_topology(struct kvm_cpuid2 *cpuid, unsigned vcpus)
{
	for (unsigned i = 0; i < cpuid->nent; i++)
		for (unsigned k = 0; k < ARRAY_LEN(leaves); k++)
			if (cpuid->entries[i].function == leaves[k].function)
				leaves[k].fix(&cpuid->entries[i], vcpus);
}

/* KVM offers only subleaf 0 of the topology leaf; leaf 0x1f would contradict it. */
static void cpuid_replace_topology(struct kvm_cpuid2 *cpuid)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function != 0x0b && cpuid->entries[i].function != 0x1f)
			cpuid->entries[kept++] = cpuid->entries[i];
	for (unsigned index = 0; index < 3 && kept < KVM_CPUID_MAX; index++)
		cpuid->entries[kept++] = (struct kvm_cpuid_entry2){
			.function = 0x0b, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
	cpuid->nent = kept;
}

void kvm_cpuid_personalize(struct kvm_cpuid2 *cpuid, unsigned vcpu)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0x00ffffff) | vcpu << 24;
		else if (e->function == 0x0b)
			e->edx = vcpu;
		else if (e->function == 0x8000001e) {
			e->eax = vcpu;
			e->ebx = vcpu;
		}
	}
}

int kvm_cpuid_set(struct engine *en, unsigned vcpu, struct error *e)
{
	int rc;

	kvm_cpuid_personalize(en->model.cpuid, vcpu);
	rc = kvm_try(en->vcpu[vcpu].fd, KVM_SET_CPUID2, en->model.cpuid,
		     "take the CPU's feature list", e);
	kvm_cpuid_personalize(en->model.cpuid, 0);
	return rc;
}

unsigned kvm_cpu_own(const struct engine *en, struct vm_cpu_leaf *out, unsigned most)
{
	return state_cpuid_leaves(en->model.cpuid, out, most);
}

int kvm_cpuid_supported(int kvm, struct kvm_cpuid2 **out, struct error *e)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + (KVM_CPUID_MAX + 3) * sizeof(c->entries[0]));
	int rc;

	if (!c)
		return error_set(e, -ENOMEM, "no memory for the CPU's feature list");
	c->nent = KVM_CPUID_MAX;
	rc = kvm_try(kvm, KVM_GET_SUPPORTED_CPUID, c, "ask for the supported CPU features", e);
	if (rc) {
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

int kvm_cpuid_make(int kvm, unsigned vcpus, struct kvm_cpuid2 **out, struct error *e)
{
	struct kvm_cpuid2 *c;
	int rc = kvm_cpuid_supported(kvm, &c, e);

	if (rc)
		return rc;
	cpuid_mask(c);
	cpuid_replace_topology(c);
	cpuid_topology(c, vcpus);
	kvm_cpuid_personalize(c, 0);
	*out = c;
	return 0;
}

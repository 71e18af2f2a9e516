// SPDX-License-Identifier: Apache-2.0
/* CPU model pollux-base: AMD64 APM volume 3, appendix E; leaf 0xb: Intel SDM; KVM's leaves:
 * Documentation/virt/kvm/x86/cpuid.rst. */
#include "hypervisor/soft/cpuid.h"
#include "hypervisor/soft/machine.h"

#define BIT(n) (UINT32_C(1) << (n))
#define TEXT4(s)                                                                                   \
	((uint32_t)(s)[0] | (uint32_t)(s)[1] << 8 | (uint32_t)(s)[2] << 16 | (uint32_t)(s)[3] << 24)

/* FPU DE PSE TSC MSR PAE CX8 APIC MTRR PGE CMOV PAT MMX FXSR: in leaves 1 and 0x80000001. */
#define FEATURES_BOTH                                                                              \
	(BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(12) |         \
	 BIT(13) | BIT(15) | BIT(16) | BIT(23) | BIT(24))
/* SEP CLFLUSH SSE SSE2 */
#define FEATURES_EDX (FEATURES_BOTH | BIT(11) | BIT(19) | BIT(25) | BIT(26))
/* CX16 X2APIC POPCNT TSC_DEADLINE HYPERVISOR */
#define FEATURES_ECX (BIT(13) | BIT(21) | BIT(23) | BIT(24) | BIT(31))
/* SYSCALL NX PDPE1GB LM */
#define FEATURES_AMD_EDX (FEATURES_BOTH | BIT(11) | BIT(20) | BIT(26) | BIT(29))
#define FEATURES_AMD_ECX BIT(0) /* LAHF and SAHF in 64-bit mode */
/* CLOCKSOURCE NOP_IO_DELAY CLOCKSOURCE2 CLOCKSOURCE_STABLE */
#define FEATURES_KVM (BIT(0) | BIT(1) | BIT(3) | BIT(24))

/* 15, 37, stepping 1: late enough that Linux trusts LAHF in 64-bit mode and likes REP MOVS; from
 * model 65 on it looks for erratum 400 in each idle loop. */
#define FAMILY_MODEL 0x00020f51u
#define HTT          BIT(28)
#define CMP_LEGACY   BIT(1)

static const char name[48] = "Pollux base CPU";

static const struct cpuid_leaf fixed[] = {
	{0, 0, false, 0xb, TEXT4("Auth"), TEXT4("cAMD"), TEXT4("enti")},
	{1, 0, false, FAMILY_MODEL, 8 << 8 /* CLFLUSH: 64 octets */, FEATURES_ECX, FEATURES_EDX},
	{0xb, 0, true, 0, 1, 0x100, 0},
	{0xb, 1, true, 0, 0, 0x201, 0},
	{0xb, 2, true, 0, 0, 2, 0},
	{0x40000000, 0, false, 0x40000001, TEXT4("KVMK"), TEXT4("VMKV"), TEXT4("M\0\0")},
	{0x40000001, 0, false, FEATURES_KVM, 0, 0, 0},
	{0x80000000, 0, false, 0x80000008, TEXT4("Auth"), TEXT4("cAMD"), TEXT4("enti")},
	{0x80000001, 0, false, FAMILY_MODEL, 0, FEATURES_AMD_ECX, FEATURES_AMD_EDX},
	{0x80000002, 0, false, 0, 0, 0, 0},
	{0x80000003, 0, false, 0, 0, 0, 0},
	{0x80000004, 0, false, 0, 0, 0, 0},
	/* L1 64 KiB, 2 ways; L2 512 KiB, 16 ways; lines of 64 octets */
	{0x80000005, 0, false, 0, 0, 0x40020140, 0x40020140},
	{0x80000006, 0, false, 0, 0, 0x02008140, 0},
	/* No invariant TSC: Linux would take it for its clock, in place of kvmclock. But only
	 * kvmclock goes on by the wall where the VM was away, and knows another host's rate. */
	{0x80000007, 0, false, 0, 0, 0, 0},
	{0x80000008, 0, false, CPUID_LINEAR_BITS << 8 | CPUID_PHYSICAL_BITS, 0, 0, 0},
};
_Static_assert(ARRAY_LEN(fixed) <= CPUID_LEAVES_MAX, "all leaves have room");

static unsigned id_bits(unsigned vcpus)
{
	unsigned bits = 0;

	while ((1u << bits) < vcpus)
		bits++;
	return bits;
}

static uint32_t name_at(uint32_t function, unsigned n)
{
	return TEXT4(name + 16 * (function - 0x80000002) + 4 * n);
}

/* One socket of `vcpus` cores, without hyperthreads. */
static void personalize(struct cpuid_leaf *l, unsigned vcpus, unsigned vcpu)
{
	switch (l->function) {
	case 1:
		l->ebx |= vcpu << 24 | vcpus << 16;
		l->edx |= vcpus > 1 ? HTT : 0;
		break;
	case 0xb:
		l->eax = l->index == 1 ? id_bits(vcpus) : 0;
		l->ebx = l->index == 1 ? vcpus : l->ebx;
		l->edx = vcpu;
		break;
	case 0x80000001:
		l->ecx |= vcpus > 1 ? CMP_LEGACY : 0;
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		l->eax = name_at(l->function, 0);
		l->ebx = name_at(l->function, 1);
		l->ecx = name_at(l->function, 2);
		l->edx = name_at(l->function, 3);
		break;
	case 0x80000008:
		l->ecx = id_bits(vcpus) << 12 | (vcpus - 1);
		break;
	default:
		break;
	}
}

unsigned cpuid_base_leaves(unsigned vcpus, unsigned vcpu, struct cpuid_leaf out[CPUID_LEAVES_MAX])
{
	for (unsigned i = 0; i < ARRAY_LEN(fixed); i++) {
		out[i] = fixed[i];
		personalize(&out[i], vcpus, vcpu);
	}
	return ARRAY_LEN(fixed);
}

void soft_cpuid(const struct soft_cpu *cpu, uint32_t leaf, uint32_t index, uint32_t out[4])
{
	const struct engine *en = cpu->engine;

	memset(out, 0, 4 * sizeof(out[0]));
	for (unsigned i = 0; i < en->leaf_count; i++) {
		const struct cpuid_leaf *l = &en->leaves[i];

		if (l->function == leaf && (!l->indexed || l->index == index)) {
			out[0] = l->eax;
			out[1] = l->ebx;
			out[2] = l->ecx;
			out[3] = l->edx;
		}
	}
	if (leaf == 1)
		out[1] = (out[1] & 0x00ffffff) | cpu->index << 24;
	/* The topology leaf names what was asked for, and the vCPU, whatever the index. */
	if (leaf == 0xb)
		out[3] = cpu->index;
	if (leaf == 0xb && index > 2)
		out[2] = index & 0xff;
}

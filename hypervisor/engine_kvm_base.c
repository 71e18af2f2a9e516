// SPDX-License-Identifier: Apache-2.0
/* CPU model pollux-base under KVM. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "kvm"
#include "hypervisor/cpu_model.h"
#include "hypervisor/engine_kvm.h"

#define BIT(n) (UINT32_C(1) << (n))
#define REG(r) offsetof(struct kvm_cpuid_entry2, r)

/* Names of the features that the model may have, by bit. */
static const char *const one_ecx[32] = {[13] = "CMPXCHG16B",
					[21] = "x2APIC",
					[23] = "POPCNT",
					[24] = "TSC-deadline",
					[31] = "hypervisor"};
static const char *const one_edx[32] = {
	[0] = "FPU",  [2] = "DE",       [3] = "PSE",  [4] = "TSC",   [5] = "MSR",  [6] = "PAE",
	[8] = "CX8",  [9] = "APIC",     [11] = "SEP", [12] = "MTRR", [13] = "PGE", [15] = "CMOV",
	[16] = "PAT", [19] = "CLFLUSH", [23] = "MMX", [24] = "FXSR", [25] = "SSE", [26] = "SSE2"};
static const char *const kvm_eax[32] = {
	[0] = "kvmclock", [1] = "no I/O delay", [3] = "kvmclock", [24] = "stable kvmclock"};
static const char *const amd_ecx[32] = {[0] = "LAHF"};
static const char *const amd_edx[32] = {
	[11] = "SYSCALL", [20] = "NX", [26] = "1 GiB pages", [29] = "long mode"};

/* Words of which each set bit promises something; `ours` KVM has whatever it lists, or the
 * machine's size says so (HTT, CmpLegacy). */
static const struct {
	uint32_t function;
	size_t reg;
	uint32_t ours;
	const char *const *names;
} words[] = {
	{1, REG(ecx), BIT(24) | BIT(31), one_ecx}, {1, REG(edx), BIT(28), one_edx},
	{0x40000001, REG(eax), 0, kvm_eax},        {0x80000001, REG(ecx), BIT(1), amd_ecx},
	{0x80000001, REG(edx), 0, amd_edx},
};

static uint32_t word_of(const struct kvm_cpuid2 *cpuid, uint32_t function, size_t reg)
{
	const struct kvm_cpuid_entry2 *leaf = kvm_cpuid_find(cpuid, function, 0);
	uint32_t word = 0;

	if (leaf)
		memcpy(&word, (const char *)leaf + reg, sizeof(word));
	return word;
}

static int feature_refuse(uint32_t function, unsigned bit, const char *name, struct error *e)
{
	return error_set(e, -ENOTSUP,
			 "this host's KVM lacks %s (CPUID leaf %#x, bit %u), which the CPU "
			 "\"pollux-base\" has",
			 name ? name : "a feature", function, bit);
}

static int features_check(const struct kvm_cpuid2 *model, const struct kvm_cpuid2 *host,
			  struct error *e)
{
	for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
		uint32_t missing = word_of(model, words[i].function, words[i].reg) &
				   ~word_of(host, words[i].function, words[i].reg) & ~words[i].ours;
		unsigned bit = missing ? (unsigned)__builtin_ctz(missing) : 0;

		if (missing)
			return feature_refuse(words[i].function, bit, words[i].names[bit], e);
	}
	return 0;
}

/* A KVM that emulates CPUs in software lacks what its emulator does not know. Ordinary
 * guests do not run on it anyway, and ours do without. */
static bool only_for_tests(void)
{
	struct engine_report report = {0};

	kvm_probe(&report);
	return report.usable && !report.real_guests;
}

int kvm_base_make(int kvm, struct state_model *model, struct error *e)
{
	struct error missing = {0};
	struct kvm_cpuid2 *host;
	int rc;

	model->cpuid = calloc(1, sizeof(*model->cpuid) +
					 CPU_MODEL_LEAVES * sizeof(model->cpuid->entries[0]));
	if (!model->cpuid)
		return error_set(e, -ENOMEM, "no memory for the CPU's feature list");
	cpu_model_base(model);
	rc = kvm_cpuid_supported(kvm, &host, e);
	if (rc)
		return rc;
	rc = features_check(model->cpuid, host, &missing);
	free(host);
	if (rc && only_for_tests()) {
		log_warn("%s", missing.text);
		return 0;
	}
	return rc ? error_set(e, rc, "%s", missing.text) : 0;
}

// SPDX-License-Identifier: Apache-2.0
/* Where a guest's CPU can go on: each rule, by a guest and a host that differ in one word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

#define INTEL                                                                                      \
	{                                                                                          \
		0, 0, false,                                                                       \
		{                                                                                  \
			13, 0x756e6547, 0x6c65746e, 0x49656e69                                     \
		}                                                                                  \
	}
#define AMD                                                                                        \
	{                                                                                          \
		0, 0, false,                                                                       \
		{                                                                                  \
			13, 0x68747541, 0x444d4163, 0x69746e65                                     \
		}                                                                                  \
	}
#define BIT(n) (UINT32_C(1) << (n))
#define LEAVES 4
#define TEXT   512

enum { EAX, EBX, ECX, EDX };

static void lack_append(void *ctx, bool feature, const char *text)
{
	char *out = ctx;
	size_t at = strlen(out);

	snprintf(out + at, TEXT - at, "%s%s%s", at ? "; " : "", feature ? "" : "! ", text);
}

static unsigned count_of(const struct vm_cpu_leaf *leaves)
{
	unsigned n = 1;

	while (n < LEAVES && leaves[n].function)
		n++;
	return n;
}

/* `lacks`: all of it. */
static void judge(const struct vm_cpu_leaf *needed, const struct vm_cpu_leaf *there,
		  const char *lacks)
{
	char text[TEXT] = "";
	unsigned n =
		vm_cpu_lacks(needed, count_of(needed), there, count_of(there), lack_append, text);

	if (strcmp(text, lacks) != 0)
		fail_msg("leaf %#x.%u: \"%s\", not \"%s\"", needed[1].function, needed[1].index,
			 text, lacks);
	assert_int_equal(!n, !*lacks);
}

/* One word of one leaf: what both have, what is added to one of them, and what is said if that is
 * the guest. */
struct word_case {
	uint32_t function, index;
	unsigned word;
	uint32_t both, more;
	const char *lacks;
};

static void word_judge(const struct word_case *c, uint32_t needed, uint32_t has, const char *lacks)
{
	struct vm_cpu_leaf guest[LEAVES] = {INTEL, {c->function, c->index, true, {0}}};
	struct vm_cpu_leaf host[LEAVES] = {INTEL, {c->function, c->index, true, {0}}};

	guest[1].words[c->word] = needed;
	host[1].words[c->word] = has;
	judge(guest, host, lacks);
}

static void features(void **state)
{
	static const struct word_case cases[] = {
		{1, 0, ECX, BIT(0), BIT(28), "avx"},
		{1, 0, ECX, 0, BIT(12) | BIT(20), "fma; sse4_2"},
		{1, 0, ECX, 0, BIT(16), "bit 16 of CPUID 0x1.0 ECX"},
		{1, 0, EDX, BIT(26), BIT(25), "sse"},
		{6, 0, EAX, 0, BIT(2), "arat"},
		{7, 0, EBX, BIT(0), BIT(5) | BIT(16), "avx2; avx512f"},
		{7, 0, ECX, 0, BIT(16), "la57"},
		{7, 0, EDX, 0, BIT(29), "arch_capabilities"},
		{7, 1, EAX, 0, BIT(4), "avx_vnni"},
		{7, 1, EDX, 0, BIT(19), "avx10"},
		{7, 2, EDX, 0, BIT(0), "intel_psfd"},
		{0xd, 0, EAX, 7, BIT(9), "pkru"},
		{0xd, 0, EDX, 0, BIT(30), "bit 30 of CPUID 0xd.0 EDX"},
		{0xd, 1, EAX, 1, BIT(3), "xsaves"},
		{0xd, 1, ECX, 0, BIT(11), "bit 11 of CPUID 0xd.1 ECX"},
		{0x24, 0, EBX, 0, BIT(18), "bit 18 of CPUID 0x24.0 EBX"},
		{0x40000001, 0, EAX, BIT(0), BIT(24), "kvmclock_stable"},
		{0x40000001, 0, EDX, 0, BIT(0), "bit 0 of CPUID 0x40000001.0 EDX"},
		{0x80000001, 0, ECX, BIT(0), BIT(5), "abm"},
		{0x80000001, 0, EDX, BIT(29), BIT(26), "pdpe1gb"},
		{0x80000007, 0, EDX, 0, BIT(8), "nonstop_tsc"},
		{0x80000008, 0, EBX, 0, BIT(12), "ibpb"},
		{0x80000021, 0, EAX, 0, BIT(8), "autoibrs"},
		{0x80000021, 0, ECX, 0, BIT(2), "tsa_l1_no"},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		const struct word_case *c = &cases[i];

		word_judge(c, c->both, c->both, "");
		word_judge(c, c->both | c->more, c->both, c->lacks);
		word_judge(c, c->both, c->both | c->more, "");
		word_judge(c, c->both | c->more, c->both | c->more, "");
	}
}

/* Larger there is well, smaller is not. */
static void sizes(void **state)
{
	static const struct word_case cases[] = {
		{1, 0, EBX, 8 << 8, 16 << 8,
		 "! the line that CLFLUSH flushes: 8 there, 16 the guest's"},
		{0xd, 0, ECX, 832, 2696, "! the XSAVE area: 832 there, 2696 the guest's"},
		{0x24, 0, EBX, 1, 2, "! the version of AVX10: 1 there, 2 the guest's"},
		{0x80000008, 0, EAX, 48 << 8 | 39, 48 << 8 | 46,
		 "! a physical address in bits: 39 there, 46 the guest's"},
		{0x80000008, 0, EAX, 48 << 8 | 46, 57 << 8 | 46,
		 "! a linear address in bits: 48 there, 57 the guest's"},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		const struct word_case *c = &cases[i];

		word_judge(c, c->both, c->both, "");
		word_judge(c, c->more, c->both, c->lacks);
		word_judge(c, c->both, c->more, "");
	}
}

/* What describes may differ, to either side: the guest keeps what it was told. */
static void descriptions(void **state)
{
	static const struct word_case cases[] = {
		{1, 0, EAX, 0x806ec, 0xc06f2, ""},
		{1, 0, EBX, 4 << 16 | 1, 8 << 16 | 2, ""},
		{1, 0, ECX, 0, BIT(27), ""}, /* OSXSAVE */
		{1, 0, EDX, 0, BIT(28), ""}, /* HTT */
		{2, 0, EAX, 1, 0xff, ""},
		{4, 3, EBX, 0x3c0003f, 0x1c0003f, ""},
		{5, 0, EDX, 0x11, 0x22, ""},
		{6, 0, EBX, 1, 2, ""},
		{7, 0, EAX, 0, 2, ""},
		{7, 0, EBX, 0, BIT(13) | BIT(6), ""},
		{7, 0, ECX, 0, BIT(4), ""}, /* OSPKE */
		{0xb, 1, EBX, 4, 8, ""},
		{0xd, 0, EBX, 576, 832, ""},
		{0xd, 1, EBX, 576, 832, ""},
		{0x15, 0, EBX, 176, 200, ""},
		{0x16, 0, EAX, 2400, 3000, ""},
		{0x1f, 0, EBX, 1, 2, ""},
		{0x40000000, 0, EAX, 0x40000001, 0x40000010, ""},
		{0x80000000, 0, EAX, 0x80000008, 0x80000021, ""},
		{0x80000001, 0, EAX, 0x20f51, 0xa00f11, ""},
		{0x80000001, 0, ECX, 0, BIT(1), ""}, /* CmpLegacy */
		{0x80000003, 0, EBX, 'a', 'b', ""},
		{0x80000006, 0, ECX, 0x2008140, 0x4008140, ""},
		{0x80000008, 0, EAX, 46, 48 << 16 | 46, ""},
		{0x80000008, 0, ECX, 3, 7, ""},
		{0x8000001d, 1, EAX, 0x121, 0x4121, ""},
		{0x8000001e, 0, EBX, 1, 2, ""},
		{0x80000021, 0, EBX, 1, 2, ""},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		word_judge(&cases[i], cases[i].both, cases[i].more, "");
		word_judge(&cases[i], cases[i].more, cases[i].both, "");
	}
}

/* Of which nothing is known: nothing there, or the same. */
static void unknown_leaves(void **state)
{
	static const struct word_case pmu = {0x0a, 0, EAX, 0, 0, ""};
	static const struct word_case sgx = {0x12, 1, EBX, 0, 0, ""};
	static const struct word_case later = {0x8000002f, 0, EDX, 0, 0, ""};

	word_judge(&pmu, 0, 0, "");
	word_judge(&pmu, 0, 5, "");
	word_judge(&pmu, 5, 5, "");
	word_judge(&pmu, 5, 0, "! CPUID leaf 0xa.0 differs");
	word_judge(&pmu, 5, 7, "! CPUID leaf 0xa.0 differs");
	word_judge(&sgx, 1, 3, "! CPUID leaf 0x12.1 differs");
	word_judge(&later, 1, 2, "! CPUID leaf 0x8000002f.0 differs");
	word_judge(&later, 0, 2, "");
}

static void vendors(void **state)
{
	const struct vm_cpu_leaf intel[LEAVES] = {INTEL, {1, 0, false, {1, 0, BIT(28), 0}}};
	const struct vm_cpu_leaf amd[LEAVES] = {AMD, {1, 0, false, {2, 0, 0, 0}}};
	const struct vm_cpu_leaf strange[LEAVES] = {{0, 0, false, {1, 0x01020304, 0, ~0u}}};
	const struct vm_cpu_leaf none[LEAVES] = {{1, 0, false, {0}}};

	judge(intel, amd,
	      "! it is of another vendor: AuthenticAMD there, GenuineIntel the guest's");
	judge(amd, intel,
	      "! it is of another vendor: GenuineIntel there, AuthenticAMD the guest's");
	judge(strange, intel,
	      "! it is of another vendor: GenuineIntel there, ???????????? the guest's");
	judge(none, intel, "! CPUID leaf 0, of its vendor, is missing");
	judge(intel, none, "! CPUID leaf 0, of its vendor, is missing");
	judge(intel, intel, "");
}

/* A leaf that the other has not is zeros; one without an index is the same for all. */
static void missing_leaves(void **state)
{
	struct vm_cpu_leaf less[LEAVES] = {INTEL}, more[LEAVES] = {INTEL, {7, 0, true, {2, 32}}};
	struct vm_cpu_leaf plain[LEAVES] = {INTEL, {7, 0, false, {0, 32}}};

	judge(less, more, "");
	judge(more, less, "avx2");
	judge(more, plain, "");
	judge(plain, more, "");
	more[1].words[EBX] = 0;
	judge(more, less, "");
}

#define PLACE(index, size, at, kind)                                                               \
	{                                                                                          \
		0xd, index, true,                                                                  \
		{                                                                                  \
			size, at, kind, 0                                                          \
		}                                                                                  \
	}

static void xsave_layout(void **state)
{
	const struct vm_cpu_leaf masks = {0xd, 0, true, {0x207, 832, 2696, 0}};
	const struct vm_cpu_leaf guest[LEAVES] = {INTEL, masks, PLACE(9, 8, 2688, 0)};
	struct vm_cpu_leaf host[LEAVES] = {INTEL, masks, PLACE(9, 8, 2688, 0)};

	judge(guest, host, "");
	host[2].words[EDX] = 5; /* reserved */
	host[2].words[ECX] = 4; /* XFD: AMX only */
	judge(guest, host, "");
	host[2].words[EBX] = 832;
	judge(guest, host, "! XSAVE component 9: 8 octets at 832 there, 8 at 2688 the guest's");
	host[2].words[EBX] = 2688;
	host[2].words[ECX] = 2;
	judge(guest, host, "! XSAVE component 9: 8 octets at 2688 there, 8 at 2688 the guest's");
	host[2].words[ECX] = 0;
	host[2].words[EAX] = 16;
	judge(guest, host, "! XSAVE component 9: 16 octets at 2688 there, 8 at 2688 the guest's");
	/* Whose component the host has not at all: that is said once. */
	host[1].words[EAX] = 7;
	judge(guest, host, "pkru");
	host[2] = (struct vm_cpu_leaf){.function = 0};
	judge(guest, host, "pkru");
	host[1].words[EAX] = 0x207;
	judge(guest, host, "! XSAVE component 9: 0 octets at 0 there, 8 at 2688 the guest's");
}

/* Where a component is that the guest has not does not matter. */
static void xsave_layout_of_others(void **state)
{
	const struct vm_cpu_leaf guest[LEAVES] = {
		INTEL, {0xd, 0, true, {7, 832, 832, 0}}, PLACE(9, 8, 2688, 0), PLACE(70, 1, 2, 3)};
	const struct vm_cpu_leaf host[LEAVES] = {
		INTEL, {0xd, 0, true, {0x2e7, 832, 2696, 0}}, PLACE(9, 8, 832, 0)};

	judge(guest, host, "");
}

/* Taking bits away is always well; each bit that the host has not is named, once. */
static void any_subset(void **state)
{
	unsigned seed = (unsigned)time(NULL);

	print_message("seed %u\n", seed);
	srandom(seed);
	for (unsigned i = 0; i < 2000; i++) {
		uint32_t has = (uint32_t)random() << 1, needed = has & (uint32_t)random();
		uint32_t extra = (uint32_t)random() & ~has & ~(BIT(13) | BIT(6));
		struct vm_cpu_leaf guest[LEAVES] = {AMD, {7, 0, true, {0, needed, 0, 0}}};
		struct vm_cpu_leaf host[LEAVES] = {AMD, {7, 0, true, {9, has, ~0u, ~0u}}};
		char text[TEXT] = "";

		judge(guest, host, "");
		guest[1].words[EBX] |= extra;
		assert_int_equal(vm_cpu_lacks(guest, 2, host, 2, lack_append, text),
				 __builtin_popcount(extra));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features),     cmocka_unit_test(sizes),
		cmocka_unit_test(descriptions), cmocka_unit_test(unknown_leaves),
		cmocka_unit_test(vendors),      cmocka_unit_test(missing_leaves),
		cmocka_unit_test(xsave_layout), cmocka_unit_test(xsave_layout_of_others),
		cmocka_unit_test(any_subset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

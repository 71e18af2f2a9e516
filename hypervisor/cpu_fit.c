// SPDX-License-Identifier: Apache-2.0
/*
 * Can a guest that has seen one CPU go on where another is offered? Its own leaves go with it, so
 * what the host has beyond them stays hidden, and what only describes (names, caches, topology)
 * stays as the guest was told. What promises something must be kept. Each word has a rule: Intel
 * SDM 2A, CPUID; AMD APM 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

#define BIT(n)     (UINT32_C(1) << (n))
#define ALL        UINT32_MAX
#define XSAVE_LEAF 0xdu
#define XSAVE_KIND 3u /* ECX of a component: in XSS, aligned to 64 octets */

enum { EAX, EBX, ECX, EDX };

/* A word without a rule is taken when it is 0 or the host's own. */
enum rule {
	RULE_FREE,
	RULE_FEATURES, /* each bit is a promise */
	RULE_AT_MOST,  /* a size: the host's may be larger */
};

static const struct {
	uint32_t function, index;
	unsigned word;
	enum rule rule;
	uint32_t mask;
	const char *what; /* of RULE_AT_MOST */
} rules[] = {
	{0, 0, EAX, RULE_FREE, ALL, NULL}, /* the last leaf */
	{1, 0, EAX, RULE_FREE, ALL, NULL}, /* family, model, stepping */
	{1, 0, EBX, RULE_AT_MOST, 0xff00, "the line that CLFLUSH flushes"},
	{1, 0, EBX, RULE_FREE, ~UINT32_C(0xff00), NULL}, /* APIC ids, brand */
	{1, 0, ECX, RULE_FEATURES, ~BIT(27), NULL},      /* OSXSAVE follows CR4 */
	{1, 0, EDX, RULE_FEATURES, ~BIT(28), NULL},      /* HTT: there are several vCPUs */
	{6, 0, EAX, RULE_FEATURES, ALL, NULL},
	{6, 0, EBX, RULE_FREE, ALL, NULL},
	{6, 0, ECX, RULE_FEATURES, ALL, NULL},
	{7, 0, EAX, RULE_FREE, ALL, NULL}, /* the last subleaf */
	/* Two bits say what x87 no longer saves: that promises nothing. */
	{7, 0, EBX, RULE_FEATURES, ~(BIT(6) | BIT(13)), NULL},
	{7, 0, ECX, RULE_FEATURES, ~BIT(4), NULL}, /* OSPKE follows CR4 */
	{7, 0, EDX, RULE_FEATURES, ALL, NULL},
	{7, 1, EAX, RULE_FEATURES, ALL, NULL},
	{7, 1, EBX, RULE_FEATURES, ALL, NULL},
	{7, 1, ECX, RULE_FEATURES, ALL, NULL},
	{7, 1, EDX, RULE_FEATURES, ALL, NULL},
	{7, 2, EDX, RULE_FEATURES, ALL, NULL},
	{XSAVE_LEAF, 0, EAX, RULE_FEATURES, ALL, NULL},
	{XSAVE_LEAF, 0, EBX, RULE_FREE, ALL, NULL}, /* follows XCR0 */
	{XSAVE_LEAF, 0, ECX, RULE_AT_MOST, ALL, "the XSAVE area"},
	{XSAVE_LEAF, 0, EDX, RULE_FEATURES, ALL, NULL},
	{XSAVE_LEAF, 1, EAX, RULE_FEATURES, ALL, NULL},
	{XSAVE_LEAF, 1, EBX, RULE_FREE, ALL, NULL}, /* follows XCR0 and XSS */
	{XSAVE_LEAF, 1, ECX, RULE_FEATURES, ALL, NULL},
	{XSAVE_LEAF, 1, EDX, RULE_FEATURES, ALL, NULL},
	{0x24, 0, EAX, RULE_FREE, ALL, NULL},
	{0x24, 0, EBX, RULE_AT_MOST, 0xff, "the version of AVX10"},
	{0x24, 0, EBX, RULE_FEATURES, ~UINT32_C(0xff), NULL},
	{0x40000000, 0, EAX, RULE_FREE, ALL, NULL},
	{0x40000001, 0, EAX, RULE_FEATURES, ALL, NULL},
	{0x40000001, 0, EDX, RULE_FEATURES, ALL, NULL}, /* hints: the host's word, too */
	{0x80000001, 0, EAX, RULE_FREE, ALL, NULL},
	{0x80000001, 0, EBX, RULE_FREE, ALL, NULL},
	{0x80000001, 0, ECX, RULE_FEATURES, ~BIT(1), NULL}, /* CmpLegacy, like HTT */
	{0x80000001, 0, EDX, RULE_FEATURES, ALL, NULL},
	{0x80000007, 0, EBX, RULE_FEATURES, ALL, NULL},
	{0x80000007, 0, EDX, RULE_FEATURES, ALL, NULL},
	{0x80000008, 0, EAX, RULE_AT_MOST, 0xff, "a physical address in bits"},
	{0x80000008, 0, EAX, RULE_AT_MOST, 0xff00, "a linear address in bits"},
	{0x80000008, 0, EAX, RULE_FREE, 0xffff0000, NULL}, /* where firmware may put devices */
	{0x80000008, 0, EBX, RULE_FEATURES, ALL, NULL},
	{0x80000008, 0, ECX, RULE_FREE, ALL, NULL},
	{0x80000021, 0, EAX, RULE_FEATURES, ALL, NULL},
	{0x80000021, 0, EBX, RULE_FREE, ALL, NULL},
	{0x80000021, 0, ECX, RULE_FEATURES, ALL, NULL},
};

/* Caches, TLBs, topology, clock rates, names, hints of what is fast: all of it describes. */
static const uint32_t describing[] = {
	2,          4,          5,          9,          0xb,        0x15,       0x16,
	0x18,       0x1f,       0x80000000, 0x80000002, 0x80000003, 0x80000004, 0x80000005,
	0x80000006, 0x80000019, 0x8000001a, 0x8000001d, 0x8000001e, 0x80000026,
};

struct fit {
	const struct vm_cpu_leaf *there;
	unsigned there_count;
	uint64_t components; /* of XSAVE, that both have */
	vm_cpu_lack_fn *fn;
	void *ctx;
	unsigned found;
};

static void PRINTF(3, 4) lack(struct fit *f, bool feature, const char *fmt, ...)
{
	char text[VM_CPU_LACK_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	f->found++;
	f->fn(f->ctx, feature, text);
}

static const struct vm_cpu_leaf *leaf_find(const struct vm_cpu_leaf *leaves, unsigned count,
					   uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < count; i++)
		if (leaves[i].function == function &&
		    (!leaves[i].indexed || leaves[i].index == index))
			return &leaves[i];
	return NULL;
}

/* ---- words --------------------------------------------------------------------------------- */

static void features_compare(struct fit *f, const struct vm_cpu_leaf *l, unsigned word,
			     uint32_t lacks)
{
	static const char *const words[] = {"EAX", "EBX", "ECX", "EDX"};

	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = vm_cpu_feature(l->function, l->index, word, bit);

		if (!(lacks & BIT(bit)))
			continue;
		if (name)
			lack(f, true, "%s", name);
		else
			lack(f, true, "bit %u of CPUID %#x.%u %s", bit, l->function, l->index,
			     words[word]);
	}
}

static void size_compare(struct fit *f, uint32_t mask, const char *what, uint32_t needed,
			 uint32_t has)
{
	unsigned shift = (unsigned)__builtin_ctz(mask);

	if ((needed & mask) > (has & mask))
		lack(f, false, "%s: %u there, %u the guest's", what, (has & mask) >> shift,
		     (needed & mask) >> shift);
}

static void word_compare(struct fit *f, const struct vm_cpu_leaf *l, unsigned word, uint32_t has)
{
	uint32_t needed = l->words[word], unruled = ALL;

	for (unsigned i = 0; i < ARRAY_LEN(rules); i++) {
		if (rules[i].function != l->function || rules[i].word != word ||
		    rules[i].index != (l->indexed ? l->index : 0))
			continue;
		unruled &= ~rules[i].mask;
		if (rules[i].rule == RULE_FEATURES)
			features_compare(f, l, word, needed & ~has & rules[i].mask);
		if (rules[i].rule == RULE_AT_MOST)
			size_compare(f, rules[i].mask, rules[i].what, needed, has);
	}
	/* Of a word with a rule, the bits without one follow what the guest does. */
	if (unruled == ALL && needed && needed != has)
		lack(f, false, "CPUID leaf %#x.%u differs", l->function, l->index);
}

/* ---- leaves -------------------------------------------------------------------------------- */

/* Guests keep areas in memory, and the state holds one: each component must stay in its place. */
static void component_compare(struct fit *f, const struct vm_cpu_leaf *l,
			      const struct vm_cpu_leaf *has)
{
	static const struct vm_cpu_leaf none;

	if (l->index > 62 || !(f->components >> l->index & 1))
		return;
	has = has ?: &none;
	if (l->words[EAX] != has->words[EAX] || l->words[EBX] != has->words[EBX] ||
	    (l->words[ECX] ^ has->words[ECX]) & XSAVE_KIND)
		lack(f, false, "XSAVE component %u: %u octets at %u there, %u at %u the guest's",
		     l->index, has->words[EAX], has->words[EBX], l->words[EAX], l->words[EBX]);
}

static bool leaf_describes(const struct vm_cpu_leaf *l)
{
	for (unsigned i = 0; i < ARRAY_LEN(describing); i++)
		if (describing[i] == l->function)
			return true;
	return false;
}

static void leaf_compare(struct fit *f, const struct vm_cpu_leaf *l)
{
	const struct vm_cpu_leaf *has = leaf_find(f->there, f->there_count, l->function, l->index);

	if (leaf_describes(l))
		return;
	if (l->function == XSAVE_LEAF && l->index > 1) {
		component_compare(f, l, has);
		return;
	}
	for (unsigned word = 0; word < 4; word++)
		word_compare(f, l, word, has ? has->words[word] : 0);
}

static const char *vendor_of(const struct vm_cpu_leaf *l, char out[13])
{
	const unsigned order[] = {EBX, EDX, ECX};

	for (unsigned i = 0; i < 12; i++) {
		char c = (char)(l->words[order[i / 4]] >> 8 * (i % 4));

		out[i] = c;
		if (c < ' ' || c > '~')
			out[i] = '?';
	}
	out[12] = '\0';
	return out;
}

static bool vendor_compare(struct fit *f, const struct vm_cpu_leaf *needed,
			   const struct vm_cpu_leaf *has)
{
	char ours[13], theirs[13];

	if (!needed || !has) {
		lack(f, false, "CPUID leaf 0, of its vendor, is missing");
		return false;
	}
	if (!memcmp(needed->words + 1, has->words + 1, 3 * sizeof(uint32_t)))
		return true;
	lack(f, false, "it is of another vendor: %s there, %s the guest's", vendor_of(has, theirs),
	     vendor_of(needed, ours));
	return false;
}

static uint64_t components_of(const struct vm_cpu_leaf *leaves, unsigned count)
{
	const struct vm_cpu_leaf *l = leaf_find(leaves, count, XSAVE_LEAF, 0);

	return l ? (uint64_t)l->words[EDX] << 32 | l->words[EAX] : 0;
}

unsigned vm_cpu_lacks(const struct vm_cpu_leaf *needed, unsigned needed_count,
		      const struct vm_cpu_leaf *there, unsigned there_count, vm_cpu_lack_fn *fn,
		      void *ctx)
{
	struct fit f = {.there = there, .there_count = there_count, .fn = fn, .ctx = ctx};

	/* Of another vendor everything else differs, too. */
	if (!vendor_compare(&f, leaf_find(needed, needed_count, 0, 0),
			    leaf_find(there, there_count, 0, 0)))
		return f.found;
	f.components = components_of(needed, needed_count) & components_of(there, there_count);
	for (unsigned i = 0; i < needed_count; i++)
		leaf_compare(&f, &needed[i]);
	return f.found;
}

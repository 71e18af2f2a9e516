// SPDX-License-Identifier: Apache-2.0
/* CPUs as lists of CPUID leaves, as control_leaves() makes them, and control_limits() beside. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/preflight.h"
#include "vm-process/vm-process.h"

enum { AT_FUNCTION, AT_INDEX, AT_INDEXED, AT_WORDS, LEAF_LEN = AT_WORDS + 4 };

static enum vm_cpu cpu_of(const char *name)
{
	if (!strcmp(name, vm_cpu_name(VM_CPU_HOST)))
		return VM_CPU_HOST;
	return strcmp(name, vm_cpu_name(VM_CPU_BASE)) ? VM_CPU_NONE : VM_CPU_BASE;
}

json_t *preflight_cpuid(const char *engine, const char *cpu, unsigned vcpus, struct error *e)
{
	struct vm_cpu_leaf *leaves = calloc(VM_CPU_LEAVES_MAX, sizeof(*leaves));
	json_t *out = NULL;
	int n = -ENOMEM;

	if (leaves)
		n = vm_cpu_leaves(engine, cpu_of(cpu), vcpus, leaves, VM_CPU_LEAVES_MAX, e);
	if (n >= 0) {
		out = control_leaves(leaves, (unsigned)n);
		n = out ? 0 : -ENOMEM;
	}
	free(leaves);
	if (n)
		error_set(e, n, "the CPU's features are not known: %s", strerror(-n));
	return out;
}

static uint32_t number_at(const json_t *leaf, size_t at)
{
	return (uint32_t)json_integer_value(json_array_get(leaf, at));
}

static bool leaf_well(const json_t *leaf)
{
	return json_is_array(leaf) && json_array_size(leaf) == LEAF_LEN;
}

static unsigned leaves_take(const json_t *in, struct vm_cpu_leaf *out)
{
	unsigned n = 0;

	for (size_t i = 0; i < json_array_size(in) && n < VM_CPU_LEAVES_MAX; i++) {
		const json_t *leaf = json_array_get(in, i);

		if (!leaf_well(leaf))
			continue;
		out[n] = (struct vm_cpu_leaf){
			.function = number_at(leaf, AT_FUNCTION),
			.index = number_at(leaf, AT_INDEX),
			.indexed = json_is_true(json_array_get(leaf, AT_INDEXED)),
		};
		for (unsigned word = 0; word < ARRAY_LEN(out->words); word++)
			out[n].words[word] = number_at(leaf, AT_WORDS + word);
		n++;
	}
	return n;
}

struct lacking {
	json_t *features, *others;
};

static void lack_note(void *ctx, bool feature, const char *text)
{
	const struct lacking *l = ctx;

	json_array_append_new(feature ? l->features : l->others, json_text(text));
}

static int lacks_find(const json_t *needed, const json_t *there, struct lacking *l)
{
	struct vm_cpu_leaf *leaves = calloc(2 * (size_t)VM_CPU_LEAVES_MAX, sizeof(*leaves));
	struct vm_cpu_leaf *theirs;
	unsigned n, m;

	if (!leaves)
		return -ENOMEM;
	theirs = leaves + VM_CPU_LEAVES_MAX;
	n = leaves_take(needed, leaves);
	m = leaves_take(there, theirs);
	if (n < json_array_size(needed))
		lack_note(l, false, "what is said of the guest's is damaged");
	(void)vm_cpu_lacks(leaves, n, theirs, m, lack_note, l);
	free(leaves);
	return 0;
}

int preflight_cpu_lacks(const json_t *needed, const json_t *there, json_t *features, json_t *others)
{
	struct lacking l = {.features = features, .others = others};

	return features && others ? lacks_find(needed, there, &l) : -ENOMEM;
}

/* ---- beside CPUID --------------------------------------------------------------------------- */

json_t *preflight_cpu_limits(const char *engine, const char *cpu, struct error *e)
{
	struct vm_cpu_limits limits;
	json_t *out;

	if (vm_cpu_limits(engine, cpu_of(cpu), &limits, e))
		return NULL;
	out = control_limits(&limits);
	if (!out)
		error_set(e, -ENOMEM, "out of memory");
	return out;
}

static bool is_u32(const json_t *o)
{
	json_int_t n = json_integer_value(o);

	return json_is_integer(o) && n >= 0 && n <= UINT32_MAX;
}

static bool promise_well(const json_t *p)
{
	return json_array_size(p) == 2 && is_u32(json_array_get(p, 0)) &&
	       json_is_integer(json_array_get(p, 1));
}

/* A newer build may tell of more than there is room for; those that both know come first. */
static bool limits_take(const json_t *in, struct vm_cpu_limits *out)
{
	const json_t *promises = json_object_get(in, "promises");

	if (!is_u32(json_object_get(in, "tsc_khz")) || !json_is_array(promises))
		return false;
	*out = (struct vm_cpu_limits){
		.tsc_khz = (uint32_t)json_integer_value(json_object_get(in, "tsc_khz"))};
	for (size_t i = 0; i < json_array_size(promises); i++) {
		const json_t *p = json_array_get(promises, i);

		if (!promise_well(p))
			return false;
		if (out->promise_count < VM_CPU_PROMISES_MAX)
			out->promises[out->promise_count++] = (struct vm_cpu_promise){
				.msr = number_at(p, 0),
				.bits = (uint64_t)json_integer_value(json_array_get(p, 1))};
	}
	return true;
}

void preflight_limits_lack(const json_t *needed, const json_t *there, json_t *others)
{
	struct lacking l = {.others = others};
	struct vm_cpu_limits ours, theirs;

	if (!needed || !there)
		return;
	if (limits_take(needed, &ours) && limits_take(there, &theirs))
		(void)vm_cpu_limits_lack(&ours, &theirs, lack_note, &l);
	else
		lack_note(&l, false, "what is said of TSC and MSRs is damaged");
}

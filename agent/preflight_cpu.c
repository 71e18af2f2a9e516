// SPDX-License-Identifier: Apache-2.0
/* CPUs as lists of CPUID leaves: [function, index, indexed, EAX, EBX, ECX, EDX] each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/preflight.h"

enum { AT_FUNCTION, AT_INDEX, AT_INDEXED, AT_WORDS, LEAF_LEN = AT_WORDS + 4 };

static enum vm_cpu cpu_of(const char *name)
{
	if (!strcmp(name, vm_cpu_name(VM_CPU_HOST)))
		return VM_CPU_HOST;
	return strcmp(name, vm_cpu_name(VM_CPU_BASE)) ? VM_CPU_NONE : VM_CPU_BASE;
}

static json_t *leaf_json(const struct vm_cpu_leaf *l)
{
	return json_pack("[I, I, b, I, I, I, I]", (json_int_t)l->function, (json_int_t)l->index,
			 l->indexed, (json_int_t)l->words[0], (json_int_t)l->words[1],
			 (json_int_t)l->words[2], (json_int_t)l->words[3]);
}

json_t *preflight_cpuid(const char *engine, const char *cpu, unsigned vcpus, struct error *e)
{
	struct vm_cpu_leaf *leaves = calloc(VM_CPU_LEAVES_MAX, sizeof(*leaves));
	json_t *out = json_array();
	int n = -ENOMEM;

	if (leaves && out)
		n = vm_cpu_leaves(engine, cpu_of(cpu), vcpus, leaves, VM_CPU_LEAVES_MAX, e);
	for (int i = 0; i < n && i < VM_CPU_LEAVES_MAX; i++)
		json_array_append_new(out, leaf_json(&leaves[i]));
	free(leaves);
	if (n >= 0)
		return out;
	json_decref(out);
	error_set(e, n, "the CPU's features are not known: %s", strerror(-n));
	return NULL;
}

static uint32_t number_at(const json_t *leaf, size_t at)
{
	return (uint32_t)json_integer_value(json_array_get(leaf, at));
}

static bool leaf_well(const json_t *leaf)
{
	return json_is_array(leaf) && json_array_size(leaf) == LEAF_LEN;
}

static bool leaf_is(const json_t *a, const json_t *b)
{
	return number_at(a, AT_FUNCTION) == number_at(b, AT_FUNCTION) &&
	       number_at(a, AT_INDEX) == number_at(b, AT_INDEX);
}

static const json_t *leaf_find(const json_t *leaves, const json_t *like)
{
	for (size_t i = 0; i < json_array_size(leaves); i++)
		if (leaf_well(json_array_get(leaves, i)) &&
		    leaf_is(json_array_get(leaves, i), like))
			return json_array_get(leaves, i);
	return NULL;
}

static void feature_add(json_t *out, uint32_t function, uint32_t index, unsigned word, unsigned bit)
{
	static const char *const words[] = {"EAX", "EBX", "ECX", "EDX"};
	const char *name = vm_cpu_feature(function, index, word, bit);
	char text[64];

	if (name)
		snprintf(text, sizeof(text), "%s", name);
	else
		snprintf(text, sizeof(text), "bit %u of CPUID %#x.%u %s", bit, function, index,
			 words[word]);
	json_array_append_new(out, json_string(text));
}

static void leaf_missing(const json_t *needed, const json_t *there, json_t *out)
{
	uint32_t function = number_at(needed, AT_FUNCTION), index = number_at(needed, AT_INDEX);

	for (unsigned word = 0; word < 4; word++) {
		uint32_t has = there ? number_at(there, AT_WORDS + word) : 0;
		uint32_t lacks = number_at(needed, AT_WORDS + word) & ~has;

		if (!vm_cpu_word_is_features(function, index, word))
			continue;
		for (unsigned bit = 0; bit < 32; bit++)
			if (lacks & UINT32_C(1) << bit)
				feature_add(out, function, index, word, bit);
	}
}

json_t *preflight_features_missing(const json_t *needed, const json_t *there)
{
	json_t *out = json_array();

	for (size_t i = 0; i < json_array_size(needed); i++) {
		const json_t *leaf = json_array_get(needed, i);

		if (leaf_well(leaf))
			leaf_missing(leaf, leaf_find(there, leaf), out);
	}
	return out;
}

void preflight_leaves_differ(const json_t *needed, const json_t *there, char *other, size_t room)
{
	other[0] = 0;
	for (size_t i = 0; i < json_array_size(needed) && !other[0]; i++) {
		const json_t *leaf = json_array_get(needed, i);

		if (!leaf_well(leaf))
			snprintf(other, room, "leaf %zu of what it needs is damaged", i);
		else if (!json_equal(leaf, (json_t *)leaf_find(there, leaf)))
			snprintf(other, room, "CPUID leaf %#x.%u differs",
				 number_at(leaf, AT_FUNCTION), number_at(leaf, AT_INDEX));
	}
	if (!other[0] && json_array_size(needed) != json_array_size(there))
		snprintf(other, room, "this host's CPU has %zu CPUID leaves, the guest's %zu",
			 json_array_size(there), json_array_size(needed));
}

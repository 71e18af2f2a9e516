// SPDX-License-Identifier: Apache-2.0
/* Whether a VM can go on at another host with its CPU: what that lacks of CPUID. */
#include <stdlib.h>

#include "tests/unit/agent/preflight_case.h"

static void cpus(void **state)
{
	json_t *here = json_object_get(offer, "cpuid"), *there = json_object_get(facts, "cpuid");

	json_array_set_new(there, 2, parsed("[7, 0, true, 1, 0, 0, 0]"));
	refused("cpu-features", "that host's CPU lacks avx2");
	json_array_set_new(there, 2, parsed("[7, 0, true, 1, 65569, 0, 0]"));
	judge_all("", true, "");
	json_array_append_new(there, parsed("[22, 0, false, 13, 1, 2, 3]"));
	judge_all("", true, "");
	json_array_set_new(here, 2, parsed("[7, 0, true, 1, 32, 0, 4194304]"));
	refused("cpu-features", "lacks amx_bf16");
	json_array_set_new(here, 2, parsed("[7, 0, true, 1, 65569, 0, 0]"));
	judge_all("", true, "");
	json_array_set_new(here, 0, parsed("[0, 0, false, 14, 1, 2, 3]"));
	judge_all("", true, "");
	json_array_append_new(here, parsed("[20, 1, true, 7, 0, 0, 0]"));
	json_array_append_new(here, parsed("[18, 1, true, 7, 0, 0, 0]"));
	refused("cpu-differs", "one: CPUID leaf 0x14.1 differs; CPUID leaf 0x12.1 differs");
	json_array_set_new(here, 0, parsed("[0, 0, false, 13, 1970169159, 2, 3]"));
	refused("cpu-differs", "another one: it is of another vendor: ");
	json_array_append_new(here, parsed("[22]"));
	refused("cpu-differs", "damaged");
}

/* The sentence of a host that lacks very many says how many it does not name. */
static void features_without_end(void **state)
{
	json_t *verdict;
	const json_t *r;
	char rest[32];
	size_t named = 1, all;

	for (int i = 0; i < 40; i++)
		json_array_append_new(
			json_object_get(offer, "cpuid"),
			json_pack("[i, i, b, i, i, i, i]", i ? 0xd : 1, i, i != 0, -1, -1, -1, -1));
	json_array_append_new(json_object_get(offer, "cpuid"),
			      parsed("[7, 0, true, -1, -1, -1, -1]"));
	json_array_append_new(json_object_get(offer, "cpuid"),
			      parsed("[2147483649, 0, false, -1, -1, -1, -1]"));
	set(facts, "cpuid", parsed("[[0, 0, false, 13, 1, 2, 3]]"));
	verdict = preflight_judge(offer, facts);
	r = reason_of(verdict, "cpu-features");
	assert_non_null(r);
	all = json_array_size(json_object_get(r, "names"));
	for (const char *at = json_text_of(r, "sentence"); (at = strstr(at, ", ")); at++)
		named++;
	assert_true(named < all);
	snprintf(rest, sizeof(rest), " and %zu more", all - named);
	assert_non_null(strstr(json_text_of(r, "sentence"), rest));
	json_decref(verdict);
}

static void each_reason_was_seen(void **state)
{
	static const char *const codes[] = {"cpu-features", "cpu-differs"};

	codes_all_seen(codes, ARRAY_LEN(codes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(cpus),
		T(features_without_end),
		T(each_reason_was_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

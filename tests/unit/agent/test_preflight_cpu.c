// SPDX-License-Identifier: Apache-2.0
/* Whether a VM can go on at another host with its CPU: what that lacks of CPUID, and beside it. */
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

static void limits_set(const char *here, const char *there)
{
	set(offer, "cpu_limits", parsed(here));
	set(facts, "cpu_limits", parsed(there));
}

/* What a guest has beside CPUID, as far as both say it. */
static void limits_of_cpus(void **state)
{
	static const char guest[] = "{\"tsc_khz\": 2000000, \"promises\": [[266, 257]]}",
			  host[] = "{\"tsc_khz\": 2020000, \"promises\": [[266, 259]]}",
			  less[] = "{\"tsc_khz\": 2600000, \"promises\": [[266, 1]]}",
			  any[] = "{\"tsc_khz\": 0, \"promises\": [[1, 1], [266, -1]]}";

	limits_set(guest, host);
	judge_all("", true, "");
	limits_set(guest, any);
	judge_all("", true, "");
	limits_set(guest, "{\"tsc_khz\": 2600000, \"promises\": [[266, 257]]}");
	refused("cpu-differs", "that host's CPU is another one: its TSC runs at 2600000 kHz and "
			       "cannot be scaled, the guest's at 2000000");
	limits_set(guest, "{\"tsc_khz\": 0, \"promises\": []}");
	refused("cpu-differs", "another one: it lacks what bits 0x101 of MSR 0x10a promise");
	limits_set(guest, less);
	refused("cpu-differs", "at 2000000; it lacks what bits 0x100 of MSR 0x10a promise");
	json_array_append_new(json_object_get(offer, "cpuid"), parsed("[20, 1, true, 7, 0, 0, 0]"));
	refused("cpu-differs", "leaf 0x14.1 differs; its TSC runs at 2600000 kHz and cannot be "
			       "scaled, the guest's at 2000000; it lacks what bits 0x100 of MSR");
}

/* Of an older build: not judged, whatever the other one says. */
static void limits_untold(void **state)
{
	limits_set("{\"tsc_khz\": 1, \"promises\": [[266, 257]]}",
		   "{\"tsc_khz\": 2600000, \"promises\": []}");
	refused("cpu-differs", "2600000");
	json_object_del(facts, "cpu_limits");
	judge_all("", true, "");
	set(facts, "cpu_limits", json_deep_copy(json_object_get(offer, "cpu_limits")));
	json_object_del(offer, "cpu_limits");
	judge_all("", true, "");
}

static void limits_damaged(void **state)
{
	static const char whole[] = "{\"tsc_khz\": 5, \"promises\": [[266, 1]]}";
	json_t *damaged = parsed("[null, 7, \"x\", [], {},"
				 " {\"tsc_khz\": 5}, {\"promises\": []},"
				 " {\"tsc_khz\": -1, \"promises\": []},"
				 " {\"tsc_khz\": 4294967296, \"promises\": []},"
				 " {\"tsc_khz\": 5.0, \"promises\": []},"
				 " {\"tsc_khz\": \"5\", \"promises\": []},"
				 " {\"tsc_khz\": 5, \"promises\": {}},"
				 " {\"tsc_khz\": 5, \"promises\": 3},"
				 " {\"tsc_khz\": 5, \"promises\": [266, 1]},"
				 " {\"tsc_khz\": 5, \"promises\": [[266]]},"
				 " {\"tsc_khz\": 5, \"promises\": [[266, 1, 2]]},"
				 " {\"tsc_khz\": 5, \"promises\": [[-1, 1]]},"
				 " {\"tsc_khz\": 5, \"promises\": [[266, 1], [267, \"1\"]]},"
				 " {\"tsc_khz\": 5, \"promises\": [{\"a\": 1, \"b\": 2}]}]");
	json_t *limits;
	size_t i;

	limits_set(whole, whole);
	judge_all("", true, "");
	json_array_foreach(damaged, i, limits)
	{
		limits_set(whole, whole);
		set(offer, "cpu_limits", json_incref(limits));
		refused("cpu-differs", "damaged");
		limits_set(whole, whole);
		set(facts, "cpu_limits", json_incref(limits));
		refused("cpu-differs", "damaged");
	}
	json_decref(damaged);
}

/* A newer build's: those that this one does not know say nothing to it. */
static void limits_without_end(void **state)
{
	json_t *promises = parsed("[[266, 1]]");

	for (int i = 0; i < 100; i++)
		json_array_append_new(promises, json_pack("[i, i]", i, 1));
	limits_set("{\"tsc_khz\": 5, \"promises\": []}",
		   "{\"tsc_khz\": 5, \"promises\": [[266, 1]]}");
	json_object_set_new(json_object_get(offer, "cpu_limits"), "promises", promises);
	judge_all("", true, "");
	set(facts, "cpu_limits", parsed("{\"tsc_khz\": 5, \"promises\": []}"));
	refused("cpu-differs", "bits 0x1 of MSR 0x10a");
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
		T(limits_of_cpus),
		T(limits_untold),
		T(limits_damaged),
		T(limits_without_end),
		T(each_reason_was_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

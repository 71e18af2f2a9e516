// SPDX-License-Identifier: Apache-2.0
/* A VM, a host that can take it, and what is said about the two when something is changed. */
#ifndef POLLUX_TESTS_PREFLIGHT_CASE_H
#define POLLUX_TESTS_PREFLIGHT_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/preflight.h"

#define MIB (1 << 20)

/* A VM, and a host that can take it. */
static const char offer_text[] =
	"{\"vm\": \"demo\", \"identity\": \"aa\", \"term\": 5, \"config\": \"\", \"origin\": \"x\","
	" \"engine\": \"kvm\", \"cpu\": \"host\", \"vcpus\": 2, \"memory\": 1073741824,"
	" \"cpuid\": [[0, 0, false, 13, 1, 2, 3], [1, 0, false, 9, 512, 8192, 7],"
	"             [7, 0, true, 1, 32, 0, 0]],"
	" \"sections\": [{\"id\": 2, \"version\": 1, \"name\": \"vCPU\"}],"
	" \"storage\": \"shared\", \"overwrite\": false, \"assume_same\": false,"
	" \"disks\": [{\"path\": \"/d/a\", \"size\": 4194304, \"readonly\": false,"
	"              \"allocated\": 2097152, \"kind\": \"file\", \"same\": \"m1\"}]}";
static const char facts_text[] =
	"{\"host\": \"hostb\", \"memory_total\": 4294967296, \"memory_available\": 2147483648,"
	" \"cpus\": 4, \"engine\": \"kvm\", \"engine_why\": \"\","
	" \"cpuid\": [[0, 0, false, 13, 1, 2, 3], [1, 0, false, 9, 512, 8192, 7],"
	"             [7, 0, true, 1, 32, 0, 0]],"
	" \"kinds\": [{\"id\": 2, \"oldest\": 1, \"newest\": 2}],"
	" \"disks\": [{\"kind\": \"file\", \"size\": 4194304, \"allocated\": 0, \"same\": \"m1\","
	"              \"folder\": \"/d\", \"folder_writable\": true, \"free\": 1073741824,"
	"              \"filesystem\": 7}],"
	" \"nics\": [{\"tap\": \"t0\", \"tap_possible\": true, \"bridge\": \"br0\","
	"             \"bridge_there\": true}]}";

static json_t *offer, *facts;

static json_t *parsed(const char *text)
{
	json_error_t e;
	json_t *o = json_loads(text, 0, &e);

	if (!o)
		fail_msg("%s: %s", e.text, text);
	return o;
}

static int setup(void **state)
{
	offer = parsed(offer_text);
	facts = parsed(facts_text);
	return 0;
}

static int teardown(void **state)
{
	json_decref(offer);
	json_decref(facts);
	return 0;
}

static inline json_t *item(json_t *o, const char *list)
{
	return json_array_get(json_object_get(o, list), 0);
}

static void set(json_t *o, const char *key, json_t *value)
{
	assert_int_equal(json_object_set_new(o, key, value), 0);
}

/* ---- what is said ------------------------------------------------------------------------ */

static unsigned codes_seen;
static char seen[64][24];

static void code_note(const char *code)
{
	for (unsigned i = 0; i < codes_seen; i++)
		if (!strcmp(seen[i], code))
			return;
	assert_true(codes_seen < ARRAY_LEN(seen));
	snprintf(seen[codes_seen++], sizeof(seen[0]), "%s", code);
}

static const json_t *reason_of(const json_t *verdict, const char *code)
{
	const json_t *reasons = json_object_get(verdict, "reasons");

	for (size_t i = 0; i < json_array_size(reasons); i++)
		if (!strcmp(json_text_of(json_array_get(reasons, i), "code"), code))
			return json_array_get(reasons, i);
	return NULL;
}

/* `codes` are all that speak against it, with a space between; each has its sentence and hint. */
static void judge_all(const char *codes, bool possible, const char *word)
{
	json_t *verdict = preflight_judge(offer, facts);
	json_t *reasons = json_object_get(verdict, "reasons");
	char got[512] = "", words[4096] = "";

	for (size_t i = 0; i < json_array_size(reasons); i++) {
		const json_t *r = json_array_get(reasons, i);

		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", i ? " " : "",
			 json_text_of(r, "code"));
		snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s\n",
			 json_text_of(r, "sentence"));
		assert_true(*json_text_of(r, "hint"));
		code_note(json_text_of(r, "code"));
	}
	if (strcmp(got, codes) != 0 || !strstr(words, word))
		fail_msg("\"%s\" in place of \"%s\", \"%s\":\n%s", got, codes, word, words);
	assert_int_equal(json_is_true(json_object_get(verdict, "possible")), possible);
	json_decref(verdict);
}

static void refused(const char *codes, const char *word)
{
	judge_all(codes, false, word);
}

/* `codes` are all that the tests before have seen. */
static void codes_all_seen(const char *const *codes, unsigned n)
{
	assert_int_equal(codes_seen, n);
	for (unsigned i = 0; i < n; i++)
		code_note(codes[i]);
	assert_int_equal(codes_seen, n);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif

// SPDX-License-Identifier: Apache-2.0
/* `pollux upgrade --all` against a polluxd that is played: what stops one does not stop the others.
 */
#include "tests/unit/cli/played.h"

#define LIST            "GET /v1/vms HTTP"
#define POST(name)      "POST /v1/vms/" name "/upgrade HTTP"
#define LOOK(name)      "GET /v1/vms/" name " HTTP"
#define VM(name, state) "{\"name\": \"" name "\", \"pid\": 5, \"state\": \"" state "\"}"
#define VMS                                                                                        \
	"{\"vms\": [" VM("one", "protected") ", " VM("two", "running") ", " VM(                    \
		"twin", "standby") ", " VM("gone", "serving") ", " VM("three", "running") "]}"
#define OPERATION(name, rest)                                                                      \
	"{\"name\": \"" name "\", \"pid\": 6, \"build\": \"b\", \"operation\": {\"id\": 3, "       \
	"\"what\": \"upgrade\", " rest "}}"
#define RUNNING(name) OPERATION(name, "\"state\": \"running\"")
#define DONE(name)    OPERATION(name, "\"state\": \"done\", \"downtime_ms\": 2.5")
#define FAILED(name)                                                                               \
	OPERATION(name, "\"state\": \"failed\", \"error\": \"the new process died\", "             \
			"\"hint\": \"the VM runs on\"")
#define UNPROTECTED(name)                                                                          \
	"{\"name\": \"" name "\", \"pid\": 6, \"build\": \"b\", \"operation\": {\"id\": 3, "       \
	"\"what\": \"protect\", \"state\": \"failed\", \"error\": \"the standby is full\", "       \
	"\"downtime_ms\": 2.5}}"
#define REFUSED(name) "{\"error\": \"" name " is protected\", \"hint\": \"unprotect it\"}"

static int run(const struct step *script, struct said *said, const char *option)
{
	char *argv[] = {"pollux", "upgrade", "--all", "--socket", path, (char *)option};

	return played(script, said, option ? 6 : 5, argv);
}

static const struct step refused[] = {
	{LIST, 200, .body = VMS},
	{POST("one"), 409, .body = REFUSED("one")},
	{POST("two"), 202, .body = DONE("two")},
	{POST("three"), 202, .body = RUNNING("three")},
	{LOOK("three"), 200, .body = DONE("three")},
	{0},
};

static void test_refused_one(void **state)
{
	struct said said = {0};

	assert_int_equal(run(refused, &said, NULL), EXIT_REFUSED);
	assert_true(says(&said.err, "one is protected") && says(&said.err, "one was not upgraded"));
	assert_true(says(&said.err, "2 upgraded, 1 NOT"));
	assert_true(says(&said.out, "two runs in process 6") && says(&said.out, "three runs in"));
	said_free(&said);
}

static void test_refused_one_json(void **state)
{
	struct said said = {0};
	json_t *o, *upgraded, *not ;

	assert_int_equal(run(refused, &said, "--json"), EXIT_REFUSED);
	o = json_loads((const char *)said.out.data, 0, NULL); /* one object, and no other */
	assert_non_null(o);
	upgraded = json_object_get(o, "upgraded");
	not = json_object_get(o, "not_upgraded");
	assert_int_equal(json_array_size(upgraded), 2);
	assert_string_equal(json_word(json_array_get(upgraded, 0), "name"), "two");
	assert_int_equal(json_array_size(not ), 1);
	assert_string_equal(json_word(json_array_get(not, 0), "name"), "one");
	assert_string_equal(json_word(json_array_get(not, 0), "error"), "one is protected");
	assert_string_equal(json_word(json_array_get(not, 0), "hint"), "unprotect it");
	assert_int_equal(json_number(o, "exit_code"), EXIT_REFUSED);
	assert_string_equal(json_word(o, "error"), "2 upgraded, 1 NOT");
	json_decref(o);
	said_free(&said);
}

/* That one has failed outranks that others were refused, whichever came first. */
static void test_failed_one(void **state)
{
	static const struct step script[] = {
		{LIST, 200, .body = VMS},
		{POST("one"), 409, .body = REFUSED("one")},
		{POST("two"), 202, .body = FAILED("two")},
		{POST("three"), 409, .body = REFUSED("three")},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.err, "the new process died") && says(&said.err, "the VM runs on"));
	assert_true(says(&said.err, "0 upgraded, 3 NOT"));
	said_free(&said);
}

/* It goes on in the new process, and its protection was not made again. */
static void test_not_protected_again(void **state)
{
	static const struct step script[] = {
		{LIST, 200, .body = "{\"vms\": [" VM("one", "protected") "]}"},
		{POST("one"), 202, .body = RUNNING("one")},
		{LOOK("one"), 200, .body = UNPROTECTED("one")},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, "--protect-again"), EXIT_FAILED);
	assert_true(says(&said.err, "the standby is full"));
	assert_true(says(&said.err, "one was upgraded, and is NOT protected"));
	assert_true(says(&said.err, "1 upgraded, 0 NOT") && says(&said.out, "one runs in process"));
	said_free(&said);
}

static void test_all_well(void **state)
{
	static const struct step script[] = {
		{LIST, 200, .body = "{\"vms\": [" VM("two", "running") "]}"},
		{POST("two"), 202, .body = DONE("two")},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_OK);
	assert_true(says(&said.out, "2.50 ms") && !says(&said.err, "NOT"));
	said_free(&said);
}

/* Ctrl-C: nothing further is begun. */
static void test_interrupted(void **state)
{
	static const struct step script[] = {
		{LIST, 200, .body = VMS},
		{POST("one"), 202, .body = RUNNING("one")},
		{LOOK("one"), 200, .interrupt = true, .body = RUNNING("one")},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.err, "polluxd goes on with it"));
	said_free(&said);
}

/* When one was done already, and nobody took it. */
static void test_interrupted_between(void **state)
{
	static const struct step script[] = {
		{LIST, 200, .body = VMS},
		{POST("one"), 202, .body = RUNNING("one")},
		{LOOK("one"), 200, .interrupt = true, .body = DONE("one")},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.out, "one runs in") && says(&said.err, "nothing further is begun"));
	assert_true(says(&said.err, "two was not upgraded"));
	said_free(&said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused_one_json), /* first: what was complained of stays */
		cmocka_unit_test(test_refused_one),
		cmocka_unit_test(test_failed_one),
		cmocka_unit_test(test_all_well),
		cmocka_unit_test(test_not_protected_again),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_interrupted_between), /* last: it stays interrupted */
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

// SPDX-License-Identifier: Apache-2.0
/* `pollux migrate` against a polluxd that is played. */
#include "tests/unit/cli/played.h"

#define RUNNING "{\"id\": 7, \"what\": \"migrate\", \"state\": \"running\"}"
#define LINKING                                                                                    \
	"{\"id\": 7, \"what\": \"migrate\", \"state\": \"running\", \"phase\": \"connecting\"}"
#define DONE "{\"id\": 7, \"what\": \"migrate\", \"state\": \"done\"}"
#define FAILED(n, text)                                                                            \
	"{\"id\": 7, \"what\": \"migrate\", \"state\": \"failed\", \"code\": " #n                  \
	", \"error\": \"" text "\", \"hint\": \"the VM runs on here\"}"
#define CANCELLED FAILED(-125, "it was cancelled")
#define BEGIN     "POST /v1/vms/vm1/migrate HTTP"
#define CANCEL    "POST /v1/vms/vm1/migrate/cancel HTTP"
#define LOOK      "GET /v1/vms/vm1 HTTP"

static int run(const struct step *script, struct said *said, const char *option)
{
	char *argv[] = {"pollux", "migrate", "vm1", "hostb", "--socket", path, (char *)option};

	return played(script, said, option ? 7 : 6, argv);
}

/* ---- tests ---------------------------------------------------------------------------- */

static void test_interrupted(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING},
		{LOOK, 200, .operation = RUNNING, .interrupt = true},
		{CANCEL, 202, .operation = RUNNING},
		{LOOK, 200, .operation = RUNNING},
		{LOOK, 200, .operation = RUNNING},
		{LOOK, 200, .operation = CANCELLED},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.err, "it was cancelled"));
	assert_true(says(&said.err, "the VM runs on here"));
	said_free(&said);
}

/* Before polluxd has answered the request which begins it. */
static void test_interrupted_at_once(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING, .interrupt = true},
		{LOOK, 200, .operation = RUNNING},
		{CANCEL, 202, .operation = RUNNING},
		{LOOK, 200, .operation = CANCELLED},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.err, "it was cancelled"));
	said_free(&said);
}

/* It was handed over meanwhile, before the request came (409) or after (202). */
static void test_interrupted_too_late(void **state)
{
	struct said said = {0};

	for (int i = 0; i < 2; i++) {
		const struct step script[] = {
			{BEGIN, 202, .operation = RUNNING},
			{LOOK, 200, .operation = RUNNING, .interrupt = true},
			{CANCEL, i ? 409 : 202, .operation = i ? NULL : RUNNING},
			{LOOK, 200, .operation = RUNNING},
			{LOOK, 200, .operation = DONE},
			{0},
		};

		assert_int_equal(run(script, &said, NULL), EXIT_OK);
		assert_true(says(&said.out, "vm1 runs on hostb"));
		assert_false(says(&said.err, "runs on here"));
	}
	said_free(&said);
}

static void test_cancel(void **state)
{
	static const struct {
		const char *operation, *out, *err;
		int rc;
	} ends[] = {
		{CANCELLED, "was cancelled: it runs on here", "", EXIT_OK},
		{DONE, "", "too late to cancel: vm1 runs on hostb", EXIT_REFUSED},
		{FAILED(-5, "the standby is lost"), "", "the standby is lost", EXIT_FAILED},
	};
	struct said said = {0};

	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		const struct step script[] = {
			{CANCEL, 202, .operation = RUNNING},
			{LOOK, 200, .operation = RUNNING},
			{LOOK, 200, .operation = ends[i].operation},
			{0},
		};

		assert_int_equal(run(script, &said, "--cancel"), ends[i].rc);
		assert_true(says(&said.out, ends[i].out) && says(&said.err, ends[i].err));
	}
	said_free(&said);
}

/* Of no use without the other one; nothing is asked for. */
static void test_rounds_alone(void **state)
{
	static const struct step script[] = {{0}};
	struct said said = {0};

	assert_int_equal(run(script, &said, "--rounds=2"), EXIT_USAGE);
	assert_true(says(&said.err, "--postcopy"));
	said_free(&said);
}

/* A reader of lines gets all of it, and the last one says how it ended. */
static void test_json_failure(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING},
		{LOOK, 200, .operation = FAILED(-5, "the standby is lost")},
		{0},
	};
	struct said said = {0};
	const char *last;
	json_t *o;

	assert_int_equal(run(script, &said, "--json"), EXIT_FAILED);
	last = strchr((const char *)said.out.data, '\n');
	assert_non_null(last);
	o = json_loads(last, 0, NULL);
	assert_string_equal(json_word(o, "event"), "failed");
	assert_non_null(strstr(json_word(o, "error"), "the standby is lost"));
	assert_string_equal(json_word(o, "hint"), "the VM runs on here");
	json_decref(o);
	said_free(&said);
}

/* A terminal in place of stderr; *slave keeps what was written. */
static int terminal_make(unsigned short columns, int *slave)
{
	struct winsize size = {.ws_row = 25, .ws_col = columns};
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	assert_true(master >= 0 && !grantpt(master) && !unlockpt(master));
	*slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	assert_true(*slave >= 0);
	assert_int_equal(ioctl(master, TIOCSWINSZ, &size), 0);
	return master;
}

/* The longest line on it, each of which takes the place of the one before. */
static size_t longest_line(int master)
{
	char text[4096];
	ssize_t n = read(master, text, sizeof(text) - 1);
	size_t longest = 0;

	assert_true(n > 0);
	text[n] = '\0';
	for (char *at = strstr(text, "\033[K"); at; at = strstr(at, "\033[K")) {
		size_t len = strcspn(at += 3, "\r");

		longest = len > longest ? len : longest;
	}
	return longest;
}

/* What has no room is left out, or cut: a line that wraps would not be replaced by the next. */
static void test_terminal(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = LINKING},
		{LOOK, 200, .operation = LINKING},
		{LOOK, 200, .operation = DONE},
		{0},
	};
	static const struct {
		unsigned short columns;
		size_t longest;
	} terminals[] = {{80, 15}, {8, 7}, {300, 15}};
	struct said said = {0};

	for (size_t i = 0; i < ARRAY_LEN(terminals); i++) {
		int slave, master = terminal_make(terminals[i].columns, &slave);

		terminal = slave;
		assert_int_equal(run(script, &said, NULL), EXIT_OK);
		terminal = -1;
		assert_int_equal(longest_line(master), terminals[i].longest);
		assert_true(says(&said.out, "vm1 runs on hostb: 0.0 s\n"));
		close(slave);
		close(master);
	}
	said_free(&said);
}

#define REASON(severity, what)                                                                     \
	"{\"severity\": \"" severity "\", \"sentence\": \"" what "\", \"hint\": \"do " what "\"}"
#define CHECK(possible, list) ", \"check\": {\"possible\": " possible ", \"reasons\": [" list "]}"
#define REFUSED                                                                                    \
	FAILED(-1, "one; two")                                                                     \
	CHECK("false",                                                                             \
	      REASON("error", "one") ", " REASON("warning", "w") ", " REASON("error", "two"))

static unsigned count(const struct buf *b, const char *text)
{
	const char *at = (const char *)b->data;
	unsigned n = 0;

	for (; (at = strstr(at, text)); at++)
		n++;
	return n;
}

static const char *last_line(const struct buf *b)
{
	const char *at = (const char *)b->data + strlen((const char *)b->data) - 1;

	while (at > (const char *)b->data && at[-1] != '\n')
		at--;
	return at;
}

/* Not the first one, and each with what to do about it. */
static void test_refused(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING},
		{LOOK, 200, .operation = REFUSED},
		{0},
	};
	static const char *const told[] = {"vm1 CANNOT be migrated to hostb",
					   "error: one",
					   "do one",
					   "warning: w",
					   "do w",
					   "error: two",
					   "do two"};
	struct said said = {0};
	json_t *o;

	assert_int_equal(run(script, &said, NULL), EXIT_REFUSED);
	for (size_t i = 0; i < ARRAY_LEN(told); i++)
		assert_int_equal(count(&said.err, told[i]), 1);
	assert_int_equal(run(script, &said, "--json"), EXIT_REFUSED);
	assert_int_equal(count(&said.out, "\"event\":\"check\""), 1);
	o = json_loads(last_line(&said.out), 0, NULL);
	assert_string_equal(json_word(o, "event"), "failed");
	assert_int_equal(json_array_size(json_object_get(o, "reasons")), 3);
	json_decref(o);
	said_free(&said);
}

/* Once, as soon as they are known. */
static void test_warned(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING},
		{LOOK, 200, .operation = RUNNING CHECK("true", REASON("warning", "w"))},
		{LOOK, 200, .operation = RUNNING CHECK("true", REASON("warning", "w"))},
		{LOOK, 200, .operation = DONE CHECK("true", REASON("warning", "w"))},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_OK);
	assert_int_equal(count(&said.err, "warning: w"), 1);
	assert_int_equal(count(&said.err, "do w"), 1);
	assert_int_equal(run(script, &said, "--json"), EXIT_OK);
	assert_int_equal(count(&said.out, "\"event\":\"check\""), 1);
	assert_true(says(&said.out, "\"sentence\":\"w\""));
	said_free(&said);
}

/* By this host, before the other one is asked. */
static void test_refused_here(void **state)
{
	static const struct step one[] = {
		{BEGIN, 409, .reasons = ", \"reasons\": [" REASON("error", "one") "]"},
		{0},
	};
	static const struct step two[] = {
		{BEGIN, 409,
		 .reasons =
			 ", \"reasons\": [" REASON("error", "one") ", " REASON("error", "two") "]"},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(one, &said, NULL), EXIT_REFUSED);
	assert_true(says(&said.err, "it is too late") && !says(&said.err, "error: one"));
	assert_int_equal(run(two, &said, NULL), EXIT_REFUSED);
	assert_true(says(&said.err, "error: two") && says(&said.err, "do two"));
	said_free(&said);
}

/* While something else is done with it: its question is an operation beside that. */
static void test_asked_beside(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, .operation = RUNNING},
		{LOOK, 200,
		 .body = "{\"operation\": {\"id\": 6, \"state\": \"running\"}, "
			 "\"operation_beside\": " RUNNING "}"},
		{LOOK, 200,
		 .body = "{\"operation\": {\"id\": 6, \"state\": \"running\"}, "
			 "\"operation_beside\": {\"id\": 7, \"state\": \"done\" " CHECK(
				 "false",
				 REASON("error", "busy") ", " REASON("error", "full")) "}}"},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, "--check"), EXIT_REFUSED);
	assert_true(says(&said.out, "error: busy") && says(&said.out, "error: full"));
	assert_true(says(&said.out, "CANNOT be migrated"));
	said_free(&said);
}

/* One document, also of a refusal. */
static void test_checked_as_json(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, RUNNING, false, NULL, NULL},
		{LOOK, 200, DONE CHECK("false", REASON("error", "full")), false, NULL, NULL},
		{0},
	};
	char *argv[] = {"pollux", "migrate", "vm1", "hostb", "--socket", path, "--check", "--json"};
	struct said said = {0};
	json_t *answer;

	assert_int_equal(played(script, &said, 8, argv), EXIT_REFUSED);
	answer = json_loads((char *)said.out.data, 0, NULL);
	assert_non_null(answer);
	assert_true(json_is_false(json_object_get(answer, "possible")));
	json_decref(answer);
	said_free(&said);
}

/* Another operation may be under way, beside which it was asked: that is not to be cancelled. */
static void test_check_interrupted(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, RUNNING, false, NULL, NULL},
		{LOOK, 200, RUNNING, true, NULL, NULL},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, "--check"), EXIT_FAILED);
	assert_true(says(&said.err, "interrupted; nothing was begun"));
	said_free(&said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* These first: what was complained of, and that it was told, stays. */
		cmocka_unit_test(test_checked_as_json),
		cmocka_unit_test(test_json_failure),
		cmocka_unit_test(test_check_interrupted),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_interrupted_at_once),
		cmocka_unit_test(test_interrupted_too_late),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_warned),
		cmocka_unit_test(test_refused_here),
		cmocka_unit_test(test_asked_beside),
		cmocka_unit_test(test_rounds_alone),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

// SPDX-License-Identifier: Apache-2.0
/* `pollux rollback`, two operations, against a polluxd that is played. */
#include "tests/unit/cli/played.h"

#define LOOK "GET /v1/vms/vm1 HTTP"
#define STOP(state)                                                                                \
	"{\"name\": \"vm1\", \"operation\": {\"id\": 4, \"what\": \"stop\", "                      \
	"\"state\": \"" state "\"}}"

/* Ctrl-C when the VM was ended for it already, and nobody took it: the other is not begun. */
static void test_interrupted_between(void **state)
{
	static const struct step script[] = {
		{"GET /v1/vms/vm1/snapshots HTTP", 200,
		 .body = "{\"snapshots\": [{\"name\": \"s1\", \"why\": \"\"}]}"},
		{LOOK, 200, .body = "{\"name\": \"vm1\", \"state\": \"running\"}"},
		{"POST /v1/vms/vm1/stop HTTP", 202, .body = STOP("running")},
		{LOOK, 200, .interrupt = true, .body = STOP("done")},
		{0},
	};
	char *argv[] = {"pollux", "rollback", "vm1", "s1", "--socket", path};
	struct said said = {0};

	assert_int_equal(played(script, &said, 6, argv), EXIT_FAILED);
	assert_true(says(&said.err, "interrupted before this was begun"));
	said_free(&said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interrupted_between),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

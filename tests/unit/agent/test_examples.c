// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/agent.h"
#include "base/base.h"

/* The example that is installed must be one that polluxd takes. Run from the top folder. */
static void test_polluxd_conf(void **state)
{
	static struct agent_config c;
	struct error e = {0};

	if (agent_config_load("packaging/examples/polluxd.conf", &c, &e))
		fail_msg("%s", e.text);
	assert_string_equal(c.name, "hosta");
	assert_int_equal(c.peer_count, 1);
	assert_string_equal(c.peers[0].name, "hostb");
	assert_int_equal(c.peers[0].fence.option_count, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_polluxd_conf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* The fence command's end is what counts; each command here is a small script. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/fence.h"

static struct loop *loop;
static char script[64], notes[64];
static struct fence_config config;

struct outcome {
	bool ended, confirmed;
	char text[700];
};

static void done(void *ctx, bool confirmed, const char *text)
{
	struct outcome *o = ctx;

	o->ended = true;
	o->confirmed = confirmed;
	snprintf(o->text, sizeof(o->text), "%s", text);
}

static void script_write(const char *body)
{
	struct error e = {0};
	char text[1024];

	snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", body);
	assert_int_equal(file_replace(script, text, strlen(text), 0700, &e), 0);
}

static struct outcome fence(const char *body)
{
	struct outcome o = {0};
	struct fence_run *run;
	struct error e = {0};

	script_write(body);
	if (fence_start(loop, &config, done, &o, &run, &e))
		fail_msg("%s", e.text);
	while (!o.ended)
		assert_int_equal(loop_step(loop, 1000), 0);
	return o;
}

static int setup(void **state)
{
	snprintf(script, sizeof(script), "/tmp/pollux-fence-%d.sh", (int)getpid());
	snprintf(notes, sizeof(notes), "/tmp/pollux-fence-%d.out", (int)getpid());
	config = (struct fence_config){.timeout_ns = 20 * NS_PER_SEC, .option_count = 2};
	snprintf(config.command, sizeof(config.command), "%s", script);
	snprintf(config.options[0].key, 64, "plug");
	snprintf(config.options[0].value, 64, "host b");
	snprintf(config.options[1].key, 64, "password");
	snprintf(config.options[1].value, 64, "$(id) \"x\" = y");
	return loop_create(&loop);
}

static int teardown(void **state)
{
	fault_disarm_all();
	unlink(script);
	unlink(notes);
	loop_destroy(loop);
	return 0;
}

static void test_confirms(void **state)
{
	assert_true(fence("exit 0").confirmed);
}

/* Options reach the command as lines, and by no shell. */
static void test_options(void **state)
{
	struct buf text = {0};
	struct error e = {0};
	char body[128];

	snprintf(body, sizeof(body), "cat > %s", notes);
	assert_true(fence(body).confirmed);
	assert_int_equal(file_read(notes, 4096, &text, &e), 0);
	buf_put_u8(&text, 0);
	assert_string_equal((char *)text.data,
			    "action=off\nplug=host b\npassword=$(id) \"x\" = y\n");
	buf_free(&text);
}

static void test_ignores_input(void **state)
{
	assert_true(fence("exec 0<&-; exit 0").confirmed);
}

static void test_fails(void **state)
{
	struct outcome o = fence("echo first; echo the plug is unknown >&2; exit 3");

	assert_false(o.confirmed);
	assert_non_null(strstr(o.text, "exit code 3: the plug is unknown"));
}

static void test_killed(void **state)
{
	struct outcome o = fence("kill -TERM $$");

	assert_false(o.confirmed);
	assert_non_null(strstr(o.text, "signal 15"));
}

/* "It is off already" is another exit code: it does not confirm. */
static void test_other_codes(void **state)
{
	assert_false(fence("exit 2").confirmed);
	assert_false(fence("exit 255").confirmed);
}

static void test_hangs(void **state)
{
	struct outcome o;

	config.timeout_ns = 200 * NS_PER_MS;
	o = fence("trap '' TERM; while :; do sleep 1; done");
	assert_false(o.confirmed);
	assert_non_null(strstr(o.text, "did not end"));
}

/* A child that holds the output open does not hold up the answer. */
static void test_leaves_a_child(void **state)
{
	assert_true(fence("sleep 100 & exit 0").confirmed);
}

static void test_writes_without_end(void **state)
{
	struct outcome o;

	config.timeout_ns = 300 * NS_PER_MS;
	o = fence("exec yes");
	assert_false(o.confirmed);
	assert_non_null(strstr(o.text, "did not end"));
}

static void test_much_output(void **state)
{
	struct outcome o = fence("head -c 300000 /dev/zero | tr '\\0' x; echo; echo last; exit 1");

	assert_non_null(strstr(o.text, ": last"));
}

static void test_missing(void **state)
{
	struct outcome o = {0};
	struct fence_run *run;
	struct error e = {0};

	snprintf(config.command, sizeof(config.command), "/nonexistent/fence");
	assert_int_equal(fence_start(loop, &config, done, &o, &run, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/fence"));
	assert_false(o.ended);
}

static void test_cancelled(void **state)
{
	struct outcome o = {0};
	struct fence_run *run;
	struct error e = {0};

	script_write("sleep 100");
	assert_int_equal(fence_start(loop, &config, done, &o, &run, &e), 0);
	fence_cancel(run);
	assert_int_equal(loop_step(loop, 0), 0);
	assert_false(o.ended);
}

static void test_spawn_fault(void **state)
{
	struct outcome o = {0};
	struct fence_run *run;
	struct error e = {0};

	script_write("exit 0");
	fault_arm("fence.spawn", 1, EAGAIN);
	assert_int_equal(fence_start(loop, &config, done, &o, &run, &e), -EAGAIN);
	assert_true(fence("exit 0").confirmed);
}

#define FENCE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FENCE(test_confirms),    FENCE(test_options),        FENCE(test_ignores_input),
		FENCE(test_fails),       FENCE(test_killed),         FENCE(test_other_codes),
		FENCE(test_hangs),       FENCE(test_leaves_a_child), FENCE(test_writes_without_end),
		FENCE(test_much_output), FENCE(test_missing),        FENCE(test_cancelled),
		FENCE(test_spawn_fault),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm-process/vm-process.h"

static int setup(void **state)
{
	int *pair = calloc(2, sizeof *pair);

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	*state = pair;
	return 0;
}

static int teardown(void **state)
{
	int *pair = *state;

	close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	free(pair);
	return 0;
}

static void test_message_and_descriptors(void **state)
{
	int *pair = *state, pipe_fds[2], fds[CONTROL_FDS_MAX];
	json_t *sent = json_pack("{s:s, s:i}", "do", "stats", "id", 7), *got;
	unsigned count;
	char byte;

	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(control_send(pair[0], sent, pipe_fds, 2), 0);
	assert_int_equal(control_receive(pair[1], &got, fds, &count, NULL), 0);
	assert_true(json_equal(sent, got));
	assert_int_equal(count, 2);
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
	for (unsigned i = 0; i < 2; i++) {
		close(pipe_fds[i]);
		close(fds[i]);
	}
	json_decref(sent);
	json_decref(got);
}

static void test_what_is_no_message(void **state)
{
	static const char *const bad[] = {"",    "[]",      "7", "{", "{\"a\":1,\"a\":2}",
					  "{}x", "\xff\xfe"};
	int *pair = *state, fds[CONTROL_FDS_MAX];
	unsigned count;
	json_t *got;

	for (unsigned i = 1; i < ARRAY_LEN(bad); i++) {
		struct error e = {0};

		assert_true(send(pair[0], bad[i], strlen(bad[i]), 0) > 0);
		assert_int_equal(control_receive(pair[1], &got, fds, &count, &e), -EBADMSG);
		assert_null(got);
		assert_true(e.text[0]);
	}
}

static void test_too_long(void **state)
{
	int *pair = *state, fds[CONTROL_FDS_MAX], size = 1 << 20;
	char *text = malloc(CONTROL_MESSAGE_MAX + 1);
	json_t *got, *o = json_object();
	unsigned count;

	memset(text, 'a', CONTROL_MESSAGE_MAX);
	text[CONTROL_MESSAGE_MAX] = 0;
	json_object_set_new(o, "config", json_string(text));
	assert_int_equal(control_send(pair[0], o, NULL, 0), -EMSGSIZE);
	json_decref(o);

	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	text[CONTROL_MESSAGE_MAX] = 'a';
	assert_int_equal(send(pair[0], text, CONTROL_MESSAGE_MAX + 1, 0), CONTROL_MESSAGE_MAX + 1);
	assert_int_equal(control_receive(pair[1], &got, fds, &count, NULL), -EBADMSG);
	free(text);
}

static void test_too_many_descriptors(void **state)
{
	int *pair = *state, fds[CONTROL_FDS_MAX + 1];
	json_t *o = json_object();

	assert_int_equal(control_send(pair[0], o, fds, CONTROL_FDS_MAX + 1), -EINVAL);
	json_decref(o);
}

static void test_closed_and_empty(void **state)
{
	int *pair = *state, fds[CONTROL_FDS_MAX];
	json_t *got, *o = json_object();
	unsigned count;

	assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(control_receive(pair[0], &got, fds, &count, NULL), -EAGAIN);
	close(pair[1]);
	pair[1] = -1;
	assert_int_equal(control_receive(pair[0], &got, fds, &count, NULL), -EPIPE);
	assert_int_equal(control_send(pair[0], o, NULL, 0), -EPIPE);
	json_decref(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_message_and_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_is_no_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_many_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_and_empty, setup, teardown),
	};

	return cmocka_run_group_tests_name("control messages", tests, NULL, NULL);
}

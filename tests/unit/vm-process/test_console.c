// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm-process/process.h"

#define KEPT (64u << 10)

static struct loop *control;
static struct console *console;
static int viewer, theirs;
static char sent[4 * KEPT], got[4 * KEPT];

static int setup(void **state)
{
	struct error e = {0};
	int pair[2];

	assert_int_equal(loop_create(&control), 0);
	assert_int_equal(console_create(control, &console, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	viewer = pair[0];
	theirs = pair[1];
	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (char)('a' + i * i % 23);
	return 0;
}

static int teardown(void **state)
{
	console_destroy(console);
	loop_destroy(control);
	close(viewer);
	return 0;
}

static void turn(void)
{
	for (int i = 0; i < 4; i++)
		assert_int_equal(loop_step(control, 0), 0);
}

/* The guest's output octet by octet, as a serial port makes it. */
static void say(size_t from, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(write(console_vm_fd(console), sent + from + i, 1), 1);
		turn();
	}
}

static size_t hear(void)
{
	size_t n = 0;

	for (int idle = 0; idle < 3;) {
		ssize_t some = read(viewer, got + n, sizeof(got) - n);

		idle = some > 0 ? 0 : idle + 1;
		n += some > 0 ? (size_t)some : 0;
		turn();
	}
	return n;
}

static void a_viewer_that_pauses_misses_nothing_that_is_kept(void **state)
{
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	say(0, KEPT / 2); /* more than a socket takes in single octets */
	assert_int_equal(hear(), KEPT / 2);
	assert_memory_equal(got, sent, KEPT / 2);
	say(KEPT / 2, 100);
	assert_int_equal(hear(), 100);
	assert_memory_equal(got, sent + KEPT / 2, 100);
}

static void a_new_viewer_hears_the_last_of_it(void **state)
{
	say(0, KEPT + 1000);
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	assert_int_equal(hear(), KEPT);
	assert_memory_equal(got, sent + 1000, KEPT);
}

static void a_viewer_types(void **state)
{
	char text[8];

	assert_int_equal(console_attach(console, theirs, theirs), 0);
	assert_int_equal(write(viewer, "ls\n", 3), 3);
	turn();
	assert_int_equal(read(console_vm_fd(console), text, sizeof(text)), 3);
	assert_memory_equal(text, "ls\n", 3);
}

static void who_leaves_is_forgotten(void **state)
{
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	assert_int_equal(shutdown(viewer, SHUT_WR), 0);
	turn();
	assert_int_equal(read(viewer, got, 1), 0);
	say(0, 10);
}

static void the_end_of_the_input_alone_leaves_the_output(void **state)
{
	int input[2];

	assert_int_equal(pipe(input), 0);
	close(input[1]);
	assert_int_equal(console_attach(console, input[0], theirs), 0);
	turn();
	say(0, 10);
	assert_int_equal(hear(), 10);
}

/* What has not been read from the guest yet when all is taken down. */
static void last_words_are_heard(void **state)
{
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	assert_int_equal(write(console_vm_fd(console), sent, 200), 200);
	console_destroy(console);
	console = NULL;
	assert_int_equal(read(viewer, got, sizeof(got)), 200);
	assert_memory_equal(got, sent, 200);
}

/* ---- from process to process ---------------------------------------------------------- */

static void hop(void)
{
	struct console *next;
	struct error e = {0};
	struct buf b = {0};
	int fds[2];

	console_yield(console, NULL, &b, fds);
	assert_int_equal(buf_check(&b), 0);
	assert_int_equal(console_create(control, &next, &e), 0);
	for (unsigned i = 0; i < 2; i++)
		fds[i] = fds[i] < 0 ? -1 : dup(fds[i]);
	assert_int_equal(console_adopt(next, b.data, b.len, fds[0], fds[1]), 0);
	console_destroy(console);
	console = next;
	buf_free(&b);
	turn();
}

static void a_viewer_hops(void **state)
{
	char text[8];

	assert_int_equal(console_attach(console, theirs, theirs), 0);
	for (size_t i = 0; i < 10; i++) {
		say(100 * i, 50);
		assert_int_equal(write(console_vm_fd(console), sent + 100 * i + 50, 50), 50);
		hop(); /* with words that nobody has taken from the guest yet */
	}
	assert_int_equal(hear(), 1000);
	assert_memory_equal(got, sent, 1000);
	assert_int_equal(write(viewer, "ls\n", 3), 3);
	hop();
	hop();
	turn();
	assert_int_equal(read(console_vm_fd(console), text, sizeof(text)), 3);
	assert_memory_equal(text, "ls\n", 3);
	assert_int_equal(shutdown(viewer, SHUT_WR), 0);
	turn();
	assert_int_equal(read(viewer, got, 1), 0);
}

/* Those that waited in a full socket, too. */
static void a_slow_viewer_hops(void **state)
{
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	say(0, KEPT / 2);
	hop();
	say(KEPT / 2, 100);
	assert_int_equal(hear(), KEPT / 2 + 100);
	assert_memory_equal(got, sent, KEPT / 2 + 100);
}

static void the_history_hops(void **state)
{
	say(0, KEPT + 1000);
	hop();
	say(KEPT + 1000, 5);
	hop();
	assert_int_equal(console_attach(console, theirs, theirs), 0);
	assert_int_equal(hear(), KEPT);
	assert_memory_equal(got, sent + 1005, KEPT);
}

static void it_goes_on_after_all(void **state)
{
	struct buf b = {0};
	char text[8];
	int fds[2];

	assert_int_equal(console_attach(console, theirs, theirs), 0);
	say(0, 50);
	console_yield(console, NULL, &b, fds);
	assert_int_equal(write(viewer, "ls\n", 3), 3);
	turn();
	console_unyield(console);
	turn();
	say(50, 50);
	assert_int_equal(hear(), 100);
	assert_memory_equal(got, sent, 100);
	assert_int_equal(read(console_vm_fd(console), text, sizeof(text)), 3);
	buf_free(&b);
}

static void a_damaged_console_is_refused(void **state)
{
	struct console *next;
	struct error e = {0};
	struct buf b = {0};
	int fds[2];

	say(0, 50);
	console_yield(console, NULL, &b, fds);
	assert_int_equal(console_create(control, &next, &e), 0);
	for (size_t n = 0; n < 21; n++)
		assert_int_equal(console_adopt(next, b.data, n, -1, -1), -EBADMSG);
	b.data[8]++; /* more shown than written */
	b.data[0]--;
	assert_int_equal(console_adopt(next, b.data, b.len, -1, -1), -EBADMSG);
	console_destroy(next);
	buf_free(&b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_viewer_that_pauses_misses_nothing_that_is_kept),
		T(a_new_viewer_hears_the_last_of_it),
		T(a_viewer_types),
		T(who_leaves_is_forgotten),
		T(the_end_of_the_input_alone_leaves_the_output),
		T(last_words_are_heard),
		T(a_viewer_hops),
		T(a_slow_viewer_hops),
		T(the_history_hops),
		T(it_goes_on_after_all),
		T(a_damaged_console_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

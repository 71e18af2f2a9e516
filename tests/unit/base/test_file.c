// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static char folder[64], path[96];

static int folder_make(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/pollux-test-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/file", folder);
	return 0;
}

static int folder_remove(void **state)
{
	fault_disarm_all();
	unlink(path);
	return rmdir(folder); /* fails when anything else was left behind */
}

static void file_holds(const char *text, unsigned mode)
{
	struct buf b = {0};
	struct stat st;

	assert_int_equal(file_read(path, 100, &b, NULL), 0);
	assert_int_equal(b.len, strlen(text));
	assert_memory_equal(b.data, text, b.len);
	buf_free(&b);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, mode);
}

static void test_replace_and_read(void **state)
{
	struct error e = {0};

	assert_int_equal(file_replace(path, "one", 3, 0600, &e), 0);
	file_holds("one", 0600);
	assert_int_equal(file_replace(path, "other", 5, 0644, &e), 0);
	file_holds("other", 0644);
	assert_int_equal(file_replace(path, "", 0, 0600, &e), 0);
	file_holds("", 0600);
}

static void test_failed_replace_keeps_the_old(void **state)
{
	static const char *const points[] = {"file.replace.fsync", "file.replace.rename"};

	assert_int_equal(file_replace(path, "old", 3, 0600, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		struct error e = {0};

		fault_arm(points[i], 1, ENOSPC);
		assert_int_equal(file_replace(path, "new", 3, 0600, &e), -ENOSPC);
		assert_non_null(strstr(e.text, path));
		file_holds("old", 0600);
	}
}

static void test_replace_errors(void **state)
{
	char long_path[5000];
	struct error e = {0};

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(file_replace(long_path, "x", 1, 0600, &e), -ENAMETOOLONG);
	e = (struct error){0};
	assert_int_equal(file_replace("/nowhere/at/all", "x", 1, 0600, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nowhere/at/all"));
}

static void test_read_is_bounded_and_appends(void **state)
{
	struct error e = {0};
	struct buf b = {0};

	assert_int_equal(file_replace(path, "0123456789", 10, 0600, NULL), 0);
	buf_put(&b, "head", 4);
	assert_int_equal(file_read(path, 9, &b, &e), -EFBIG);
	assert_int_equal(b.len, 4);
	assert_int_equal(file_read(path, 10, &b, NULL), 0);
	assert_int_equal(b.len, 14);
	assert_memory_equal(b.data, "head0123456789", 14);
	assert_int_equal(file_read("/proc/self/status", 1 << 20, &b, NULL), 0);
	assert_true(b.len > 100);
	buf_free(&b);
}

static void test_read_errors(void **state)
{
	struct error e = {0};
	struct buf b = {0};

	assert_int_equal(file_read("/nowhere", 10, &b, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nowhere"));
	assert_int_equal(file_read("/tmp", 10, &b, NULL), -EISDIR);
	assert_int_equal(b.len, 0);
	buf_free(&b);
}

static void test_read_all_early_end(void **state)
{
	char out[8];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(fd_write_all(fds[1], "abc", 3), 0);
	close(fds[1]);
	assert_int_equal(fd_read_all(fds[0], out, 4), -EPIPE);
	close(fds[0]);
	assert_int_equal(fd_read_all(-1, out, 1), -EBADF);
	assert_int_equal(fd_write_all(-1, out, 1), -EBADF);
}

#define TRANSFER ((size_t)4 << 20)

struct transfer {
	int fd;
	uint8_t *data;
};

static void *transfer_write(void *ctx)
{
	struct transfer *t = ctx;

	return (void *)(intptr_t)fd_write_all(t->fd, t->data, TRANSFER);
}

/* Both ends non-blocking and a pipe much smaller than the data: each side waits many times. */
static void test_non_blocking_transfer(void **state)
{
	uint8_t *in = malloc(TRANSFER), *out = malloc(TRANSFER);
	struct transfer t;
	pthread_t writer;
	void *rc;
	int fds[2];

	assert_non_null(in);
	assert_non_null(out);
	for (size_t i = 0; i < TRANSFER; i++)
		in[i] = (uint8_t)(i * 7 + i / 4096);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	t = (struct transfer){.fd = fds[0], .data = in};
	assert_int_equal(thread_start(&writer, "writer-with-a-long-name", transfer_write, &t), 0);
	assert_int_equal(fd_read_all(fds[1], out, TRANSFER), 0);
	pthread_join(writer, &rc);
	assert_null(rc);
	assert_memory_equal(in, out, TRANSFER);
	close(fds[0]);
	close(fds[1]);
	free(in);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_replace_and_read, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(test_failed_replace_keeps_the_old, folder_make,
						folder_remove),
		cmocka_unit_test_setup_teardown(test_replace_errors, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(test_read_is_bounded_and_appends, folder_make,
						folder_remove),
		cmocka_unit_test(test_read_errors),
		cmocka_unit_test(test_read_all_early_end),
		cmocka_unit_test(test_non_blocking_transfer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

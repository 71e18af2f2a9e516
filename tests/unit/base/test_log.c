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
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define LOG_MODULE "test"

/* stderr goes into a pipe for the length of one test. */
static int saved_stderr, capture;
static char text[8192];

static int capture_start(void **state)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -1;
	fflush(stderr);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	capture = fds[0];
	log_setup("prog", LOG_LEVEL_INFO);
	return 0;
}

static int capture_end(void **state)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(capture);
	unsetenv("JOURNAL_STREAM");
	log_context_vm(NULL);
	log_context_epoch(0);
	return 0;
}

/* What was logged since the last call, without the time of its first line. */
static const char *logged(void)
{
	ssize_t n = read(capture, text, sizeof(text) - 1);
	unsigned h, m, s, us;
	int used = 0;

	if (n < 0)
		return "";
	text[n] = '\0';
	if (sscanf(text, "%2u:%2u:%2u.%6u %n", &h, &m, &s, &us, &used) != 4)
		return text;
	return text + used;
}

static void test_plain_line(void **state)
{
	log_info("hello %d", 5);
	assert_string_equal(logged(), "prog test: hello 5\n");
}

static void test_context_and_error_number(void **state)
{
	log_context_vm("vm1");
	log_context_epoch(17);
	log_error_rc(-ENOENT, "open");
	assert_string_equal(logged(), "prog test vm1 e17: open: No such file or directory\n");
	log_warn_rc(EIO, "write");
	assert_string_equal(logged(), "prog test vm1 e17: write: Input/output error\n");
	log_error_rc(-99999, "odd");
	assert_string_equal(logged(), "prog test vm1 e17: odd: unknown error\n");
}

static void test_levels(void **state)
{
	log_debug("not this");
	assert_string_equal(logged(), "");
	assert_false(log_wants(LOG_LEVEL_DEBUG));
	log_setup("prog", LOG_LEVEL_DEBUG);
	log_debug("but this");
	assert_string_equal(logged(), "prog test: but this\n");
	log_setup("prog", LOG_LEVEL_ERROR);
	log_warn("nor this");
	assert_string_equal(logged(), "");
}

static void test_one_line_whatever_the_text(void **state)
{
	char longer[4000];

	log_info("a\nb\x1b[31mc");
	assert_string_equal(logged(), "prog test: a?b?[31mc\n");
	memset(longer, 'z', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	log_info("%s", longer);
	(void)logged();
	assert_true(strlen(text) <= 1024 && strlen(text) > 1000);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_null(memchr(text, '\n', strlen(text) - 1));
	log_error_rc(-EIO, "%s", longer);
	(void)logged();
	assert_true(strlen(text) <= 1024);
}

static void test_errno_survives(void **state)
{
	/* Until the pipe is full and the line's own write fails. */
	while (write(STDERR_FILENO, text, sizeof(text)) > 0)
		;
	errno = EXDEV;
	log_info("x");
	assert_int_equal(errno, EXDEV);
}

static void test_journal_prefix(void **state)
{
	char stream[64];
	struct stat st;

	setenv("JOURNAL_STREAM", "1:2", 1);
	log_setup("prog", LOG_LEVEL_INFO);
	log_warn("not the journal");
	assert_string_equal(logged(), "prog test: not the journal\n");
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_setup("prog", LOG_LEVEL_INFO);
	log_warn("the journal");
	assert_string_equal(logged(), "<4>prog test: the journal\n");
}

static void *other_thread(void *ctx)
{
	log_info("from a thread");
	return NULL;
}

static void test_context_belongs_to_a_thread(void **state)
{
	pthread_t t;

	log_context_vm("mine");
	assert_int_equal(thread_start(&t, "other", other_thread, NULL), 0);
	pthread_join(t, NULL);
	assert_string_equal(logged(), "prog test: from a thread\n");
}

#define LOG_TEST(name) cmocka_unit_test_setup_teardown(name, capture_start, capture_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOG_TEST(test_plain_line),
		LOG_TEST(test_context_and_error_number),
		LOG_TEST(test_levels),
		LOG_TEST(test_one_line_whatever_the_text),
		LOG_TEST(test_errno_survives),
		LOG_TEST(test_journal_prefix),
		LOG_TEST(test_context_belongs_to_a_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * `pollux migrate` against a polluxd that is played: a child of the test, which answers one
 * request after the other from a script, and interrupts the command where the script says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

struct step {
	const char *request; /* how it begins */
	unsigned status;
	const char *operation; /* of the VM in the answer; NULL: the answer is an error */
	bool interrupt;        /* Ctrl-C, before it is answered */
};

#define RUNNING "{\"id\": 7, \"what\": \"migrate\", \"state\": \"running\"}"
#define DONE    "{\"id\": 7, \"what\": \"migrate\", \"state\": \"done\"}"
#define FAILED(n, text)                                                                            \
	"{\"id\": 7, \"what\": \"migrate\", \"state\": \"failed\", \"code\": " #n                  \
	", \"error\": \"" text "\", \"hint\": \"the VM runs on here\"}"
#define CANCELLED FAILED(-125, "it was cancelled")
#define BEGIN     "POST /v1/vms/vm1/migrate HTTP"
#define CANCEL    "POST /v1/vms/vm1/migrate/cancel HTTP"
#define LOOK      "GET /v1/vms/vm1 HTTP"

static char folder[32], path[64];

/* ---- the server --------------------------------------------------------------------- */

static bool request_whole(const char *text)
{
	const char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "content-length:");

	return end && (!length || strlen(end + 4) >= strtoul(length + 15, NULL, 10));
}

static void answer_send(int fd, const struct step *s)
{
	char body[1024], head[128];

	snprintf(body, sizeof(body),
		 s->operation ? "{\"name\": \"vm1\", \"state\": \"running\", \"peer\": \"hostb\", "
				"\"operation\": %s, \"migration\": {\"elapsed_ms\": 5}}"
			      : "{\"error\": \"it is too late\", \"hint\": \"look\"%s}",
		 s->operation ? s->operation : "");
	snprintf(head, sizeof(head),
		 "HTTP/1.1 %u X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", s->status,
		 strlen(body));
	if (write(fd, head, strlen(head)) < 0 || write(fd, body, strlen(body)) < 0)
		_exit(1);
}

static void step_serve(int listener, const struct step *s)
{
	int fd = accept(listener, NULL, NULL);
	char text[4096] = "";
	size_t got = 0;

	while (!request_whole(text)) {
		ssize_t n = read(fd, text + got, sizeof(text) - 1 - got);

		if (n <= 0)
			_exit(1);
		got += (size_t)n;
		text[got] = '\0';
	}
	if (strncmp(text, s->request, strlen(s->request)) != 0) {
		fprintf(stderr, "wanted %s, not %.60s\n", s->request, text);
		_exit(1);
	}
	if (s->interrupt)
		kill(getppid(), SIGINT);
	answer_send(fd, s);
	close(fd);
}

/* Its exit code is 0 when all of the script was asked for, and nothing else. */
static pid_t server_start(const struct step *script)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pid_t pid;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	unlink(path);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 1), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid) {
		close(listener);
		return pid;
	}
	alarm(60);
	for (; script->request; script++)
		step_serve(listener, script);
	_exit(0);
}

/* ---- the command -------------------------------------------------------------------- */

struct said {
	struct buf out, err;
};

static int redirect(int fd, const char *name)
{
	char file[64];
	int before = dup(fd), now;

	snprintf(file, sizeof(file), "%s/%s", folder, name);
	now = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(before >= 0 && now >= 0);
	dup2(now, fd);
	close(now);
	return before;
}

static void restore(int fd, int before, const char *name, struct buf *out)
{
	struct error e = {0};
	char file[64];

	dup2(before, fd);
	close(before);
	snprintf(file, sizeof(file), "%s/%s", folder, name);
	buf_reset(out);
	assert_int_equal(file_read(file, 1 << 20, out, &e), 0);
	buf_put_u8(out, 0);
}

static int run(const struct step *script, struct said *said, const char *option)
{
	char *argv[] = {"pollux", "migrate", "vm1", "hostb", "--socket", path, (char *)option};
	pid_t server = server_start(script);
	struct invocation v;
	int rc, out, err, status;

	assert_int_equal(invocation_parse(option ? 7 : 6, argv, &v), EXIT_OK);
	fflush(stdout);
	out = redirect(STDOUT_FILENO, "out");
	err = redirect(STDERR_FILENO, "err");
	rc = v.command->run(&v);
	if (rc && invocation_flag(&v, "json"))
		failure_print(rc);
	fflush(stdout);
	restore(STDOUT_FILENO, out, "out", &said->out);
	restore(STDERR_FILENO, err, "err", &said->err);
	assert_int_equal(waitpid(server, &status, 0), server);
	if (status)
		fail_msg("the script was not followed: %s", (char *)said->err.data);
	return rc;
}

static bool says(const struct buf *b, const char *text)
{
	return strstr((const char *)b->data, text);
}

/* ---- tests ---------------------------------------------------------------------------- */

static void test_interrupted(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, RUNNING, false},
		{LOOK, 200, RUNNING, true},
		{CANCEL, 202, RUNNING, false},
		{LOOK, 200, RUNNING, false},
		{LOOK, 200, RUNNING, false},
		{LOOK, 200, CANCELLED, false},
		{0},
	};
	struct said said = {0};

	assert_int_equal(run(script, &said, NULL), EXIT_FAILED);
	assert_true(says(&said.err, "it was cancelled"));
	assert_true(says(&said.err, "the VM runs on here"));
	buf_free(&said.out);
	buf_free(&said.err);
}

/* It was handed over meanwhile, before the request came (409) or after (202). */
static void test_interrupted_too_late(void **state)
{
	struct said said = {0};

	for (int i = 0; i < 2; i++) {
		const struct step script[] = {
			{BEGIN, 202, RUNNING, false},
			{LOOK, 200, RUNNING, true},
			{CANCEL, i ? 409 : 202, i ? NULL : RUNNING, false},
			{LOOK, 200, RUNNING, false},
			{LOOK, 200, DONE, false},
			{0},
		};

		assert_int_equal(run(script, &said, NULL), EXIT_OK);
		assert_true(says(&said.out, "vm1 runs on hostb"));
		assert_false(says(&said.err, "runs on here"));
	}
	buf_free(&said.out);
	buf_free(&said.err);
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
			{CANCEL, 202, RUNNING, false},
			{LOOK, 200, RUNNING, false},
			{LOOK, 200, ends[i].operation, false},
			{0},
		};

		assert_int_equal(run(script, &said, "--cancel"), ends[i].rc);
		assert_true(says(&said.out, ends[i].out) && says(&said.err, ends[i].err));
	}
	buf_free(&said.out);
	buf_free(&said.err);
}

/* A reader of lines gets all of it, and the last one says how it ended. */
static void test_json_failure(void **state)
{
	static const struct step script[] = {
		{BEGIN, 202, RUNNING, false},
		{LOOK, 200, FAILED(-5, "the standby is lost"), false},
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
	buf_free(&said.out);
	buf_free(&said.err);
}

static int folder_make(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/pollux-migrate-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
	return 0;
}

static int folder_remove(void **state)
{
	static const char *const names[] = {"socket", "out", "err"};
	char file[64];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(file, sizeof(file), "%s/%s", folder, names[i]);
		unlink(file);
	}
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json_failure), /* first: what was complained of stays */
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_interrupted_too_late),
		cmocka_unit_test(test_cancel),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

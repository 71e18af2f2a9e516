// SPDX-License-Identifier: Apache-2.0
/*
 * A polluxd that is played: a child of the test, which answers one request after the other from a
 * script, and interrupts the command where the script says so.
 */
#ifndef TEST_PLAYED_H
#define TEST_PLAYED_H

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
#include <sys/ioctl.h>
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
	const char *reasons;   /* of the error */
	const char *body;      /* all of the answer, whatever the others say */
};

static char folder[32], path[64];
static int terminal = -1; /* stderr, if there is one */

/* ---- the server --------------------------------------------------------------------- */

static inline bool request_whole(const char *text)
{
	const char *end = strstr(text, "\r\n\r\n"), *length = strcasestr(text, "content-length:");

	return end && (!length || strlen(end + 4) >= strtoul(length + 15, NULL, 10));
}

static inline void answer_send(int fd, const struct step *s)
{
	char body[2048], head[128];

	snprintf(body, sizeof(body),
		 s->body ? "%s"
		 : s->operation
			 ? "{\"name\": \"vm1\", \"state\": \"running\", \"peer\": \"hostb\", "
			   "\"operation\": %s, \"migration\": {\"elapsed_ms\": 5}}"
			 : "{\"error\": \"it is too late\", \"hint\": \"look\"%s}",
		 s->body        ? s->body
		 : s->operation ? s->operation
		 : s->reasons   ? s->reasons
				: "");
	snprintf(head, sizeof(head),
		 "HTTP/1.1 %u X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", s->status,
		 strlen(body));
	if (write(fd, head, strlen(head)) < 0 || write(fd, body, strlen(body)) < 0)
		_exit(1);
}

static inline void step_serve(int listener, const struct step *s)
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
static inline pid_t server_start(const struct step *script)
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

static inline void said_free(struct said *said)
{
	buf_free(&said->out);
	buf_free(&said->err);
}

static inline int redirect(int fd, const char *name)
{
	char file[64];
	int before = dup(fd), now;

	snprintf(file, sizeof(file), "%s/%s", folder, name);
	now = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(before >= 0 && now >= 0);
	dup2(fd == STDERR_FILENO && terminal >= 0 ? terminal : now, fd);
	close(now);
	return before;
}

static inline void restore(int fd, int before, const char *name, struct buf *out)
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

static inline int played(const struct step *script, struct said *said, int argc, char **argv)
{
	pid_t server = server_start(script);
	struct invocation v;
	int rc, out, err, status;

	assert_int_equal(invocation_parse(argc, argv, &v), EXIT_OK);
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

static inline bool says(const struct buf *b, const char *text)
{
	return strstr((const char *)b->data, text);
}

static inline int folder_make(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/pollux-migrate-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
	return 0;
}

static inline int folder_remove(void **state)
{
	static const char *const names[] = {"socket", "out", "err"};
	char file[64];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(file, sizeof(file), "%s/%s", folder, names[i]);
		unlink(file);
	}
	return rmdir(folder);
}

#endif

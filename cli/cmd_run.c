// SPDX-License-Identifier: Apache-2.0
/* run: a pollux-vm of our own, directed from here; nobody else knows of it. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vm-process/vm-process.h"

#define VM_FILE_MAX (64u * 1024)
#define CONTROL_FD  3
/* What a guest gets to shut down in, as with `pollux stop`. */
#define SHUTDOWN_SECONDS 60u

struct run {
	pid_t pid;
	int control, console;
	json_int_t last_id;
	bool ended, crashed;
	bool replays; /* then an end that was not recorded need not be the guest's fault */
};

/* ---- the process ----------------------------------------------------------------------- */

static int vm_program_find(char *out, size_t size)
{
	static const char *const places[] = {"pollux-vm", "../libexec/pollux/pollux-vm"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *folder;

	if (n < 0)
		return -errno;
	self[n] = '\0';
	folder = dirname(self);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		snprintf(out, size, "%s/%s", folder, places[i]);
		if (!access(out, X_OK))
			return 0;
	}
	return -ENOENT;
}

/* In a process group of its own: a Ctrl-C is for us, who then ask it to end. */
static int process_spawn(const char *program, int control, pid_t *pid)
{
	char *argv[] = {(char *)program, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int rc;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
	rc = posix_spawn_file_actions_adddup2(&actions, control, CONTROL_FD);
	if (!rc)
		rc = posix_spawn(pid, program, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -rc;
}

static int run_open(struct run *r)
{
	char program[PATH_MAX + 64];
	int pair[2], rc;

	rc = vm_program_find(program, sizeof(program));
	if (rc) {
		complain("pollux-vm is not where it should be, beside pollux or in "
			 "../libexec/pollux");
		return EXIT_FAILED;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		complain("cannot make a socket: %s", strerror(errno));
		return EXIT_FAILED;
	}
	rc = process_spawn(program, pair[1], &r->pid);
	close(pair[1]);
	r->control = pair[0];
	if (rc)
		complain("cannot start %s: %s", program, strerror(-rc));
	return rc ? EXIT_FAILED : EXIT_OK;
}

/* ---- asking and hearing -----------------------------------------------------------------------
 */

static int message_receive(struct run *r, json_t **out)
{
	int fds[CONTROL_FDS_MAX], rc;
	unsigned fd_count;
	struct error e = {0};

	rc = control_receive(r->control, out, fds, &fd_count, &e);
	while (!rc && fd_count)
		close(fds[--fd_count]);
	return rc;
}

static void event_hear(struct run *r, const json_t *message)
{
	const char *what = json_word(message, "what");

	if (strcmp(json_word(message, "event"), "vm") != 0)
		return;
	r->crashed |= !strcmp(what, "crash");
	r->ended |= r->crashed || !strcmp(what, "poweroff");
	if (r->crashed)
		complain("%s%s",
			 r->replays ? "" : "the guest crashed: ", json_word(message, "detail"));
}

static int reply_wait(struct run *r, json_int_t id)
{
	json_t *message;
	int rc;

	for (;;) {
		rc = message_receive(r, &message);
		if (rc) {
			complain("the VM process ended before it answered");
			return EXIT_FAILED;
		}
		if (json_object_get(message, "reply") && json_number(message, "reply") == id)
			break;
		event_hear(r, message);
		json_decref(message);
	}
	rc = EXIT_OK;
	if (!json_is_true(json_object_get(message, "ok"))) {
		complain("%s", json_word(message, "error"));
		rc = json_number(message, "code") == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	}
	json_decref(message);
	return rc;
}

static int request_send(struct run *r, json_t *request, const int *fds, unsigned fd_count)
{
	int rc = -ENOMEM;

	if (request && !json_object_set_new(request, "id", json_integer(++r->last_id)))
		rc = control_send(r->control, request, fds, fd_count);
	json_decref(request);
	return rc;
}

static int ask(struct run *r, json_t *request, const int *fds, unsigned fd_count)
{
	int rc = request_send(r, request, fds, fd_count);

	if (rc) {
		complain("the VM process cannot be asked: %s", strerror(-rc));
		return EXIT_FAILED;
	}
	return reply_wait(r, r->last_id);
}

/* ---- from the VM file to the end
 * ------------------------------------------------------------------ */

/* What goes with --deterministic. */
static int deterministic_options(const struct invocation *v, json_t **out)
{
	static const char *const others[] = {"seed", "record", "replay", "hash-every"};
	const char *record = invocation_value(v, "record"), *replay = invocation_value(v, "replay");
	long seed = 0, every = 0;
	int rc;

	*out = NULL;
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		if (!invocation_flag(v, "deterministic") && invocation_value(v, others[i])) {
			complain("--%s needs --deterministic", others[i]);
			return EXIT_USAGE;
		}
	if (!invocation_flag(v, "deterministic"))
		return EXIT_OK;
	if (replay &&
	    (record || invocation_value(v, "seed") || invocation_value(v, "hash-every"))) {
		complain("--replay takes seed and hashes from the file, and records nothing");
		return EXIT_USAGE;
	}
	rc = invocation_number(v, "seed", 0, LONG_MAX, &seed);
	if (!rc)
		rc = invocation_number(v, "hash-every", 1, LONG_MAX, &every);
	if (rc)
		return rc;
	*out = json_pack("{s:I, s:I, s:s*, s:s*}", "seed", (json_int_t)seed, "hash_every",
			 (json_int_t)every, "record", record, "replay", replay);
	if (!*out) {
		complain("the path of a recording must be UTF-8");
		return EXIT_USAGE;
	}
	return EXIT_OK;
}

static int vm_create_from(struct run *r, const char *path, json_t *deterministic)
{
	struct buf text = {0};
	struct error e = {0};
	int pair[2], rc = EXIT_USAGE;

	if (file_read(path, VM_FILE_MAX, &text, &e)) {
		complain("%s", e.text);
		goto out_text;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		complain("cannot make a console: %s", strerror(errno));
		rc = EXIT_FAILED;
		goto out_text;
	}
	r->console = pair[0];
	rc = ask(r,
		 json_pack("{s:s, s:s%, s:s, s:s, s:O*}", "do", "create", "config",
			   (char *)text.data, text.len, "origin", path, "role", "primary",
			   "deterministic", deterministic),
		 &pair[1], 1);
	close(pair[1]);
out_text:
	buf_free(&text);
	return rc;
}

static bool control_heard(void *ctx)
{
	struct run *r = ctx;
	json_t *message;

	if (message_receive(r, &message)) {
		r->ended = true;
		return true;
	}
	event_hear(r, message);
	json_decref(message);
	return r->ended;
}

static bool shutdown_ask(struct run *r, enum console_end end)
{
	if (end == CONSOLE_LEFT)
		remark("asking the guest to shut down; " CONSOLE_ESCAPE_KEY
		       " again ends it at once");
	else
		remark("asking the guest to shut down; the same signal again, or %u s, end it",
		       SHUTDOWN_SECONDS);
	if (end == CONSOLE_SIGNAL)
		alarm(SHUTDOWN_SECONDS);
	return !request_send(r, json_pack("{s:s}", "do", "shutdown"), NULL, 0);
}

/* The escape key, or a signal: first the power button, then the plug. Who sends a signal
 * may not be there to send another: then the alarm pulls it. Another one than the first
 * is no second word: a session that ends sends SIGTERM and SIGHUP at once. */
static void console_serve(struct run *r)
{
	int first = 0, number;
	bool asked = false;
	sigset_t before;

	console_signals_hold(&before);
	while (!r->ended) {
		enum console_end end =
			console_attach(r->console, r->control, control_heard, r, &number);

		if (end == CONSOLE_CLOSED)
			break;
		if (asked && end == CONSOLE_SIGNAL && first && number != first && number != SIGALRM)
			continue;
		if (asked) {
			remark("ending the guest");
			break;
		}
		asked = true;
		first = end == CONSOLE_SIGNAL ? number : 0;
		if (!shutdown_ask(r, end))
			break;
	}
	alarm(0);
	console_signals_release(&before);
}

/* Until the VM process closes its end. */
static void output_rest(const struct run *r)
{
	char data[4096];
	ssize_t n;

	if (r->console < 0)
		return;
	while ((n = read(r->console, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0 && fd_write_all(STDOUT_FILENO, data, (size_t)n))
			return;
}

static int run_close(struct run *r)
{
	int status = 0;

	if (r->control >= 0) {
		(void)!request_send(r, json_pack("{s:s}", "do", "quit"), NULL, 0);
		close(r->control);
	}
	output_rest(r);
	if (r->pid > 0)
		while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR)
			;
	if (r->console >= 0)
		close(r->console);
	if (r->pid > 0 && WIFSIGNALED(status)) {
		complain("the VM process was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
		return EXIT_FAILED;
	}
	return EXIT_OK;
}

int command_run(const struct invocation *v)
{
	struct run r = {.control = -1, .console = -1};
	json_t *deterministic;
	int rc = deterministic_options(v, &deterministic), close_rc;

	if (rc)
		return rc;
	if (invocation_flag(v, "detach") && deterministic) {
		complain("--deterministic is not for polluxd: leave --detach out");
		json_decref(deterministic);
		return EXIT_USAGE;
	}
	if (invocation_flag(v, "detach"))
		return command_start(v);
	signal(SIGPIPE, SIG_IGN);
	r.replays = invocation_value(v, "replay");
	rc = run_open(&r);
	if (!rc)
		rc = vm_create_from(&r, v->arguments[0], deterministic);
	json_decref(deterministic);
	if (!rc && isatty(STDIN_FILENO))
		remark("%s shuts the guest down", CONSOLE_ESCAPE_KEY);
	if (!rc)
		rc = ask(&r, json_pack("{s:s}", "do", "boot"), NULL, 0);
	if (!rc)
		console_serve(&r);
	close_rc = run_close(&r);
	return rc ? rc : r.crashed ? EXIT_FAILED : close_rc;
}

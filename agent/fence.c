// SPDX-License-Identifier: Apache-2.0
#include "agent/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/spawn.h"

#define LOG_MODULE "fence"

/* The end is the death of the command itself; what it left running in its group is
 * killed then. Its output is only kept for the message. */
struct fence_run {
	struct loop *loop;
	char command[256];
	uint64_t timeout_ns;
	pid_t pid;
	int pidfd, output;
	struct loop_watch *exit_watch, *output_watch;
	struct loop_timer *timer;
	bool timed_out;
	char text[400]; /* the end of what it wrote */
	size_t len;
	fence_done_fn *done;
	void *ctx;
};

static void text_keep(struct fence_run *f, const char *data, size_t n)
{
	size_t room = sizeof(f->text) - 1;

	if (n > room) {
		data += n - room;
		n = room;
	}
	if (f->len + n > room) {
		size_t drop = f->len + n - room;

		memmove(f->text, f->text + drop, f->len - drop);
		f->len -= drop;
	}
	memcpy(f->text + f->len, data, n);
	f->len += n;
	f->text[f->len] = '\0';
}

/* At most a few buffers at a time: a command that never stops writing must not hold the loop. */
static bool output_read(struct fence_run *f)
{
	char data[512];

	for (int i = 0; i < 16; i++) {
		ssize_t got = read(f->output, data, sizeof(data));

		if (got > 0)
			text_keep(f, data, (size_t)got);
		else
			return got < 0 && errno == EAGAIN;
	}
	return true;
}

static void output_ready(void *ctx, uint32_t events)
{
	struct fence_run *f = ctx;

	if (output_read(f))
		return;
	loop_unwatch(f->output_watch);
	f->output_watch = NULL;
}

static void run_free(struct fence_run *f)
{
	loop_unwatch(f->exit_watch);
	loop_unwatch(f->output_watch);
	loop_timer_free(f->timer);
	if (f->output >= 0)
		close(f->output);
	if (f->pidfd >= 0)
		close(f->pidfd);
	free(f);
}

static const char *last_line(char *text)
{
	size_t len = strlen(text);
	char *line;

	while (len && strchr("\r\n ", text[len - 1]))
		text[--len] = '\0';
	line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

static bool outcome_describe(struct fence_run *f, const siginfo_t *info, char *out, size_t size)
{
	const char *line = last_line(f->text);

	if (f->timed_out)
		snprintf(out, size, "%s did not end within %llu s and was killed", f->command,
			 (unsigned long long)(f->timeout_ns / NS_PER_SEC));
	else if (info->si_code != CLD_EXITED)
		snprintf(out, size, "%s was killed by signal %d", f->command, info->si_status);
	else if (info->si_status)
		snprintf(out, size, "%s failed with exit code %d%s%s", f->command, info->si_status,
			 *line ? ": " : "", line);
	else
		snprintf(out, size, "%s confirmed", f->command);
	return !f->timed_out && info->si_code == CLD_EXITED && !info->si_status;
}

static void command_ended(void *ctx, uint32_t events)
{
	struct fence_run *f = ctx;
	fence_done_fn *done = f->done;
	void *done_ctx = f->ctx;
	siginfo_t info = {0};
	char text[700];
	bool confirmed;

	if (waitid(P_PIDFD, (id_t)f->pidfd, &info, WEXITED | WNOHANG | WNOWAIT) || !info.si_pid)
		return;
	/* Before it is waited for: then its number may name another group. */
	kill(-f->pid, SIGKILL);
	(void)waitid(P_PIDFD, (id_t)f->pidfd, &(siginfo_t){0}, WEXITED | WNOHANG);
	/* The last line is the one that counts: all that a full pipe still holds. */
	for (int i = 0; i < 16 && output_read(f); i++)
		;
	confirmed = outcome_describe(f, &info, text, sizeof(text));
	run_free(f);
	done(done_ctx, confirmed, text);
}

static void command_late(void *ctx)
{
	struct fence_run *f = ctx;

	f->timed_out = true;
	kill(-f->pid, SIGKILL);
}

/* The options fit into a pipe's buffer (64 KiB), so that writing them never waits. */
static int options_write(int fd, const struct fence_config *c)
{
	struct buf text = {0};
	char line[400];
	int rc;

	buf_put(&text, "action=off\n", 11);
	for (unsigned i = 0; i < c->option_count; i++) {
		int n = snprintf(line, sizeof(line), "%s=%s\n", c->options[i].key,
				 c->options[i].value);

		buf_put(&text, line, (size_t)n);
	}
	rc = buf_check(&text);
	if (!rc && write(fd, text.data, text.len) != (ssize_t)text.len)
		rc = errno ? -errno : -EIO;
	buf_free(&text);
	return rc;
}

static int command_spawn(struct fence_run *f, const struct fence_config *c, int input, int output)
{
	char *const argv[] = {f->command, NULL};
	struct spawn_fd fds[] = {{input, 0}, {output, 1}, {output, 2}};
	int rc;

	rc = fault_point("fence.spawn");
	if (!rc)
		rc = spawn_process(f->command, argv, fds, ARRAY_LEN(fds), &f->pid, &f->pidfd);
	return rc;
}

static int run_watch(struct fence_run *f)
{
	int rc;

	rc = loop_watch(f->loop, f->pidfd, EPOLLIN, command_ended, f, &f->exit_watch);
	if (!rc)
		rc = loop_watch(f->loop, f->output, EPOLLIN, output_ready, f, &f->output_watch);
	if (!rc)
		rc = loop_timer(f->loop, command_late, f, &f->timer);
	if (!rc)
		loop_timer_set(f->timer, clock_ns() + f->timeout_ns);
	return rc;
}

static int run_start(struct fence_run *f, const struct fence_config *c)
{
	int input[2], output[2], rc;

	if (pipe2(input, O_CLOEXEC))
		return -errno;
	rc = pipe2(output, O_CLOEXEC) ? -errno : 0;
	if (rc)
		goto out_input;
	rc = options_write(input[1], c);
	if (!rc)
		rc = command_spawn(f, c, input[0], output[1]);
	close(output[1]);
	f->output = output[0];
	if (!rc && fcntl(f->output, F_SETFL, O_NONBLOCK))
		rc = -errno;
	if (!rc)
		rc = run_watch(f);
out_input:
	close(input[0]);
	close(input[1]);
	return rc;
}

int fence_start(struct loop *l, const struct fence_config *c, fence_done_fn *done, void *ctx,
		struct fence_run **out, struct error *e)
{
	struct fence_run *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return error_set(e, -ENOMEM, "out of memory");
	*f = (struct fence_run){.loop = l,
				.timeout_ns = c->timeout_ns,
				.pidfd = -1,
				.output = -1,
				.done = done,
				.ctx = ctx};
	snprintf(f->command, sizeof(f->command), "%s", c->command);
	rc = run_start(f, c);
	if (rc) {
		fence_cancel(f);
		return error_set(e, rc, "cannot run the fence command %s: %s", c->command,
				 strerror(-rc));
	}
	*out = f;
	return 0;
}

void fence_cancel(struct fence_run *f)
{
	siginfo_t info;

	if (!f)
		return;
	if (f->pid > 0) {
		kill(-f->pid, SIGKILL);
		while (waitid(P_PIDFD, (id_t)f->pidfd, &info, WEXITED) && errno == EINTR)
			;
	}
	run_free(f);
}

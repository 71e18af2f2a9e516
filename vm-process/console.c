// SPDX-License-Identifier: Apache-2.0
/* Between the guest's serial port and whoever looks at it: keeps the last output,
 * and never lets a slow reader hold up the guest. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE   "console"
#define HISTORY_SIZE (64u << 10)

struct console {
	struct loop *control;
	int vm_fd, our_fd;
	struct loop_watch *guest;
	char history[HISTORY_SIZE];
	size_t written; /* in all; the ring holds the last HISTORY_SIZE of it */
	int in, out;    /* -1: nobody looks */
	struct loop_watch *viewer;
};

static void viewer_detach(struct console *c)
{
	if (c->viewer)
		loop_unwatch(c->viewer);
	c->viewer = NULL;
	if (c->in >= 0)
		close(c->in);
	if (c->out >= 0 && c->out != c->in)
		close(c->out);
	c->in = c->out = -1;
}

/* Non-blocking: what a slow viewer cannot take is lost to him, not to the history. */
static void viewer_write(struct console *c, const char *data, size_t n)
{
	while (c->out >= 0 && n) {
		ssize_t done = write(c->out, data, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno != EAGAIN)
			viewer_detach(c);
		if (done <= 0)
			return;
		data += done;
		n -= (size_t)done;
	}
}

static void history_add(struct console *c, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		c->history[c->written++ % HISTORY_SIZE] = data[i];
}

static void on_guest(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	char data[4096];
	ssize_t n;

	(void)events;
	while ((n = read(c->our_fd, data, sizeof data)) > 0) {
		history_add(c, data, (size_t)n);
		viewer_write(c, data, (size_t)n);
	}
}

static void on_viewer(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	char data[512];
	ssize_t n = read(c->in, data, sizeof data);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* An end of input ends the looking only where in and out are one. */
		if (c->in == c->out) {
			viewer_detach(c);
		} else {
			loop_unwatch(c->viewer);
			c->viewer = NULL;
		}
		return;
	}
	/* A guest that does not read its console loses input, as on a real line. */
	n = write(c->our_fd, data, (size_t)n);
	(void)n;
}

int console_create(struct loop *control, struct console **out, struct error *e)
{
	struct console *c = calloc(1, sizeof *c);
	int pair[2], rc;

	if (!c)
		return error_set(e, -ENOMEM, "no memory for the console");
	c->control = control;
	c->in = c->out = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
		rc = error_set(e, -errno, "socketpair for the console: %s", strerror(errno));
		goto out_free;
	}
	c->vm_fd = pair[0];
	c->our_fd = pair[1];
	rc = loop_watch(control, c->our_fd, EPOLLIN, on_guest, c, &c->guest);
	if (rc) {
		error_set(e, rc, "watching the console: %s", strerror(-rc));
		goto out_pair;
	}
	*out = c;
	return 0;

out_pair:
	close(c->vm_fd);
	close(c->our_fd);
out_free:
	free(c);
	return rc;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	on_guest(c, 0);
	viewer_detach(c);
	loop_unwatch(c->guest);
	close(c->our_fd);
	close(c->vm_fd);
	free(c);
}

int console_vm_fd(struct console *c)
{
	return c->vm_fd;
}

static void history_replay(struct console *c)
{
	size_t kept = c->written < HISTORY_SIZE ? c->written : HISTORY_SIZE;
	size_t from = (c->written - kept) % HISTORY_SIZE;
	size_t tail = kept < HISTORY_SIZE - from ? kept : HISTORY_SIZE - from;

	viewer_write(c, c->history + from, tail);
	viewer_write(c, c->history, kept - tail);
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

int console_attach(struct console *c, int in, int out)
{
	int rc;

	viewer_detach(c);
	c->in = in;
	c->out = out;
	rc = set_nonblocking(in);
	if (!rc)
		rc = set_nonblocking(out);
	if (!rc)
		rc = loop_watch(c->control, in, EPOLLIN, on_viewer, c, &c->viewer);
	if (rc == -EPERM) /* a plain file: there is no input to wait for */
		rc = 0;
	if (rc)
		viewer_detach(c);
	else
		history_replay(c);
	return rc;
}

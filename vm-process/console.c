// SPDX-License-Identifier: Apache-2.0
/* Between the guest's serial port and whoever looks at it: keeps the last output,
 * and never lets a slow reader hold up the guest. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE    "console"
#define HISTORY_SIZE  (64u << 10)
#define LAST_WORDS_NS (500 * NS_PER_MS)

struct console {
	struct loop *control;
	int vm_fd, our_fd;
	struct loop_watch *guest;
	char history[HISTORY_SIZE];
	size_t written; /* in all; the ring holds the last HISTORY_SIZE of it */
	size_t shown;   /* of it, the viewer has had or has missed so much */
	int in, out;    /* -1: nobody looks */
	bool one;       /* in and out are the same: its end is the viewer's */
	bool yielded;   /* another process may be at them: they are let alone */
	struct loop_watch *viewer, *room;
};

static void watch_end(struct loop_watch **w)
{
	if (*w)
		loop_unwatch(*w);
	*w = NULL;
}

static void viewer_detach(struct console *c)
{
	watch_end(&c->viewer);
	watch_end(&c->room);
	if (c->in >= 0)
		close(c->in);
	if (c->out >= 0)
		close(c->out);
	c->in = c->out = -1;
}

/* Non-blocking. True: the viewer has all of it, or is gone. */
static bool viewer_write(struct console *c)
{
	while (c->out >= 0 && c->shown != c->written) {
		size_t n = c->written - c->shown, at = c->shown % HISTORY_SIZE;
		ssize_t done;

		done = write(c->out, c->history + at,
			     n < HISTORY_SIZE - at ? n : HISTORY_SIZE - at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return false;
		if (done <= 0)
			viewer_detach(c);
		else
			c->shown += (size_t)done;
	}
	return true;
}

static void viewer_update(struct console *c);

static void on_room(void *ctx, uint32_t events)
{
	(void)events;
	viewer_update(ctx);
}

/* What the history no longer has is lost to a slow viewer. */
static void viewer_update(struct console *c)
{
	if (c->written - c->shown > HISTORY_SIZE)
		c->shown = c->written - HISTORY_SIZE;
	if (viewer_write(c))
		watch_end(&c->room);
	else if (!c->room && loop_watch(c->control, c->out, EPOLLOUT, on_room, c, &c->room))
		c->room = NULL; /* the guest's next output tries again */
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
		viewer_update(c);
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
		if (c->one)
			viewer_detach(c);
		else
			watch_end(&c->viewer);
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

/* The guest's last words, to a viewer that still takes them. */
static void viewer_finish(struct console *c)
{
	uint64_t until = clock_ns() + LAST_WORDS_NS, now;

	while (!viewer_write(c) && (now = clock_ns()) < until) {
		struct pollfd room = {.fd = c->out, .events = POLLOUT};

		if (poll(&room, 1, (int)((until - now) / NS_PER_MS) + 1) < 0 && errno != EINTR)
			return;
	}
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	if (!c->yielded) {
		on_guest(c, 0);
		viewer_finish(c);
	}
	viewer_detach(c);
	watch_end(&c->guest);
	close(c->our_fd);
	close(c->vm_fd);
	free(c);
}

int console_vm_fd(struct console *c)
{
	return c->vm_fd;
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

/* One descriptor for both is doubled: each is watched for a purpose of its own. */
static int viewer_open(struct console *c, int in, int out)
{
	int rc;

	c->one = in == out;
	c->in = in;
	c->out = c->one ? fcntl(in, F_DUPFD_CLOEXEC, 0) : out;
	if (c->out < 0)
		return -errno;
	rc = set_nonblocking(c->in);
	if (!rc)
		rc = set_nonblocking(c->out);
	if (!rc)
		rc = loop_watch(c->control, c->in, EPOLLIN, on_viewer, c, &c->viewer);
	return rc == -EPERM ? 0 : rc; /* a plain file: there is no input to wait for */
}

int console_attach(struct console *c, int in, int out)
{
	int rc;

	viewer_detach(c);
	rc = viewer_open(c, in, out);
	if (rc) {
		viewer_detach(c);
		return rc;
	}
	c->shown = c->written < HISTORY_SIZE ? 0 : c->written - HISTORY_SIZE;
	viewer_update(c);
	return 0;
}

/* ---- from process to process ----------------------------------------------------
 * u64 written, u64 shown, u8 one, u32 length of what was typed and not read, that, and
 * the history. */

/* What the guest has not read stays for it also here: it is written back. */
static void typed_put(struct console *c, struct buf *out)
{
	char data[4096];
	size_t at = out->len;
	ssize_t n;

	buf_put_u32(out, 0);
	while ((n = read(c->vm_fd, data, sizeof data)) > 0)
		buf_put(out, data, (size_t)n);
	if (buf_check(out))
		return;
	n = (ssize_t)(out->len - at - sizeof(uint32_t));
	buf_patch_u32(out, at, (uint32_t)n);
	n = write(c->our_fd, out->data + at + sizeof(uint32_t), (size_t)n);
	(void)n;
}

void console_yield(struct console *c, struct vm *vm, struct buf *out, int fds[2])
{
	size_t before = SIZE_MAX, left = vm ? vm_console_flush(vm) : 0;

	/* The socket is too small for what the guest may have said while we were busy. */
	for (; left && left < before; left = vm_console_flush(vm)) {
		before = left;
		on_guest(c, 0);
	}
	on_guest(c, 0);
	watch_end(&c->guest);
	watch_end(&c->viewer);
	watch_end(&c->room);
	c->yielded = true;
	fds[0] = c->in;
	fds[1] = c->out;
	buf_put_u64(out, c->written);
	buf_put_u64(out, c->shown);
	buf_put_u8(out, c->one);
	typed_put(c, out);
	left = c->written < HISTORY_SIZE ? c->written : HISTORY_SIZE;
	for (size_t i = c->written - left; i < c->written; i++)
		buf_put_u8(out, (uint8_t)c->history[i % HISTORY_SIZE]);
}

static int watches_begin(struct console *c)
{
	int rc = loop_watch(c->control, c->our_fd, EPOLLIN, on_guest, c, &c->guest);

	if (!rc && c->in >= 0)
		rc = loop_watch(c->control, c->in, EPOLLIN, on_viewer, c, &c->viewer);
	viewer_update(c);
	return rc == -EPERM ? 0 : rc;
}

void console_unyield(struct console *c)
{
	int rc;

	c->yielded = false;
	rc = watches_begin(c);
	if (rc)
		log_error_rc(rc, "the console cannot be watched");
}

static int history_take(struct console *c, struct cursor *in)
{
	uint64_t written = cursor_u64(in), shown = cursor_u64(in);
	bool one = cursor_u8(in);
	uint32_t typed_len = cursor_u32(in);
	const uint8_t *typed = cursor_take(in, typed_len);
	size_t kept = in->left;

	if (in->bad || kept > HISTORY_SIZE || kept > written || shown > written)
		return -EBADMSG;
	c->written = written - kept;
	history_add(c, (const char *)cursor_take(in, kept), kept);
	c->shown = shown;
	c->one = one;
	if (typed_len && write(c->our_fd, typed, typed_len) < 0)
		log_warn("what was typed is lost");
	return 0;
}

int console_adopt(struct console *c, const void *data, size_t n, int in, int out)
{
	struct cursor at = cursor_of(data, n);

	viewer_detach(c);
	watch_end(&c->guest);
	c->in = in;
	c->out = out;
	return history_take(c, &at) ? -EBADMSG : watches_begin(c);
}

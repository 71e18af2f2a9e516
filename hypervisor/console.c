// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"

#define LOG_MODULE "console"

#define OUT_MOST   65536u
#define IN_MOST    256u

struct console {
	struct loop *io;
	pthread_mutex_t *lock;
	struct console_front front;
	int in_fd, out_fd;
	bool owns_out;
	struct vm *deterministic; /* what is typed is posted there; NULL: it is not */
	unsigned source;
	bool starved; /* the device had no room: in_fd is not watched */
	/* Rung by any thread: descriptors are watched and left on the loop's thread. */
	int wake_fd;
	struct loop_watch *wake, *in, *out;
	uint8_t buffer[OUT_MOST]; /* a ring: what was not written yet */
	size_t first, count;
};

bool console_on_serial(const struct vm *vm)
{
	return !strstr(vm->config.cmdline, "console=hvc");
}

static void console_wake(struct console *c)
{
	const uint64_t one = 1;

	(void)!write(c->wake_fd, &one, sizeof(one));
}

/* ---- output --------------------------------------------------------------------- */

static bool out_writable(const struct console *c)
{
	struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLOUT | POLLERR | POLLHUP));
}

static void out_drop(struct console *c, size_t n)
{
	c->first = (c->first + n) % OUT_MOST;
	c->count -= n;
}

/* The descriptor may be shared with other programs, so it is not made non-blocking: a
 * pipe or socket that is writable takes so little whole, and a terminal, which may not,
 * has been opened again. */
static void out_flush(struct console *c)
{
	while (c->count && out_writable(c)) {
		size_t n = c->count < 512 ? c->count : 512;
		ssize_t put;

		if (n > OUT_MOST - c->first)
			n = OUT_MOST - c->first;
		put = write(c->out_fd, c->buffer + c->first, n);
		if (put < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		if (put < 0)
			put = (ssize_t)n; /* nobody reads it any more */
		out_drop(c, (size_t)put);
	}
}

/* For the last time. A descriptor that never blocks is asked until it refuses: it takes
 * more than it calls room for. */
static void out_finish(struct console *c)
{
	ssize_t put = 1;

	out_flush(c);
	if (c->out_fd < 0 || !(fcntl(c->out_fd, F_GETFL) & O_NONBLOCK))
		return;
	while (c->count && put > 0) {
		size_t n = OUT_MOST - c->first;

		put = write(c->out_fd, c->buffer + c->first, c->count < n ? c->count : n);
		if (put > 0)
			out_drop(c, (size_t)put);
	}
}

static void out_append(struct console *c, const uint8_t *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		c->buffer[(c->first + c->count) % OUT_MOST] = data[i];
		if (c->count < OUT_MOST)
			c->count++;
		else
			c->first = (c->first + 1) % OUT_MOST;
	}
}

size_t console_flush(struct console *c)
{
	out_flush(c);
	return c->count;
}

void console_write(struct console *c, const void *data, size_t n)
{
	if (c->out_fd < 0)
		return;
	out_append(c, data, n);
	out_flush(c);
	if (c->count)
		console_wake(c);
}

static void out_ready(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	bool left;

	pthread_mutex_lock(c->lock);
	out_flush(c);
	left = c->count;
	pthread_mutex_unlock(c->lock);
	if (!left) {
		loop_unwatch(c->out);
		c->out = NULL;
	}
}

/* ---- input ---------------------------------------------------------------------- */

static void in_leave(struct console *c)
{
	if (c->in)
		loop_unwatch(c->in);
	c->in = NULL;
}

static size_t in_room(struct console *c)
{
	size_t room;

	pthread_mutex_lock(c->lock);
	room = c->deterministic ? deterministic_room(c->deterministic, c->source)
				: c->front.room(c->front.ctx);
	c->starved = !room;
	pthread_mutex_unlock(c->lock);
	return room < IN_MOST ? room : IN_MOST;
}

static void in_post(struct console *c, const uint8_t *data, size_t n)
{
	int rc = deterministic_post(c->deterministic, c->source, data, n);

	if (rc)
		log_warn_rc(rc, "what was typed is lost");
}

/* Between two turns of the guest. */
static size_t in_feed(void *ctx, const uint8_t *data, size_t n)
{
	struct console *c = ctx;
	size_t room;

	pthread_mutex_lock(c->lock);
	room = c->front.room(c->front.ctx);
	if (room > n)
		room = n;
	if (room)
		c->front.input(c->front.ctx, data, room);
	console_pull(c);
	pthread_mutex_unlock(c->lock);
	return room;
}

static void in_ready(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	uint8_t data[IN_MOST];
	size_t room = in_room(c);
	ssize_t n;

	if (!room) {
		in_leave(c); /* console_pull() comes back */
		return;
	}
	n = read(c->in_fd, data, room);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		in_leave(c);
		c->in_fd = -1; /* the end */
		return;
	}
	if (c->deterministic) {
		in_post(c, data, (size_t)n);
		return;
	}
	pthread_mutex_lock(c->lock);
	/* The guest may have reset the device meanwhile, which only makes room. */
	c->front.input(c->front.ctx, data, (size_t)n);
	pthread_mutex_unlock(c->lock);
}

void console_pull(struct console *c)
{
	if (c->starved)
		console_wake(c);
	c->starved = false;
}

/* ---- the loop's side ---------------------------------------------------------------- */

static void console_awake(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	uint64_t count;
	bool left;

	if (read(c->wake_fd, &count, sizeof(count)) < 0)
		return;
	if (!c->in && c->in_fd >= 0 && loop_watch(c->io, c->in_fd, EPOLLIN, in_ready, c, &c->in)) {
		log_info("the console input cannot be watched (a plain file?): there is none");
		c->in_fd = -1;
	}
	pthread_mutex_lock(c->lock);
	left = c->count;
	pthread_mutex_unlock(c->lock);
	/* A plain file cannot be watched, and never fills up either. */
	if (left && !c->out && loop_watch(c->io, c->out_fd, EPOLLOUT, out_ready, c, &c->out))
		c->out = NULL;
}

/* A terminal is opened again, see out_flush(). Another descriptor that is the input too is
 * doubled: epoll watches each for one purpose. */
static int out_open(struct console *c, int fd)
{
	bool terminal = fd >= 0 && isatty(fd);
	char path[32];
	int own = -1;

	c->out_fd = fd;
	if (terminal) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	if (own < 0 && fd >= 0 && fd == c->in_fd) {
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (own < 0)
			return -errno;
	}
	c->owns_out = own >= 0;
	if (c->owns_out)
		c->out_fd = own;
	return 0;
}

int console_open(struct loop *io, pthread_mutex_t *lock, int in_fd, int out_fd,
		 const struct console_front *front, struct console **out, struct error *e)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return error_set(e, -ENOMEM, "console: out of memory");
	c->io = io;
	c->lock = lock;
	c->front = *front;
	c->in_fd = in_fd;
	c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = c->wake_fd < 0 ? -errno : out_open(c, out_fd);
	if (!rc)
		rc = loop_watch(io, c->wake_fd, EPOLLIN, console_awake, c, &c->wake);
	if (rc) {
		console_close(c);
		return error_set(e, rc, "console: %s", strerror(-rc));
	}
	console_wake(c); /* begin to read */
	*out = c;
	return 0;
}

int console_deterministic(struct console *c, struct vm *vm)
{
	c->deterministic = vm;
	if (!deterministic_listens(vm))
		c->in_fd = -1;
	return deterministic_source(vm, in_feed, c, &c->source);
}

void console_close(struct console *c)
{
	in_leave(c);
	if (c->out)
		loop_unwatch(c->out);
	out_finish(c);
	if (c->wake)
		loop_unwatch(c->wake);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	if (c->owns_out)
		close(c->out_fd);
	free(c);
}

// SPDX-License-Identifier: Apache-2.0
#include "agent/acceptor.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOG_MODULE   "accept"
#define PREAMBLE_NS  (2 * NS_PER_SEC)
#define WAITING_MAX  128
#define ACCEPT_ROUND 16

struct caller {
	struct acceptor *acceptor;
	int fd;
	struct loop_watch *watch;
	uint64_t deadline;
	uint8_t preamble[PREAMBLE_SIZE];
	size_t got;
	TAILQ_ENTRY(caller) entry;
};
TAILQ_HEAD(caller_list, caller);

struct acceptor {
	struct loop *loop;
	int fd;
	struct loop_watch *watch;
	struct loop_timer *timer;
	struct caller_list waiting; /* oldest first */
	unsigned count;
	uint64_t refused;
	acceptor_fn *fn;
	void *ctx;
};

static int caller_release(struct caller *c)
{
	struct acceptor *a = c->acceptor;
	int fd = c->fd;

	TAILQ_REMOVE(&a->waiting, c, entry);
	a->count--;
	loop_unwatch(c->watch);
	free(c);
	return fd;
}

static void caller_refuse(struct caller *c, const char *why)
{
	c->acceptor->refused++;
	log_debug("a connection is closed: %s", why);
	close(caller_release(c));
}

static void caller_heard(struct caller *c)
{
	struct acceptor *a = c->acceptor;
	struct error e = {0};
	struct preamble p;

	if (preamble_decode(c->preamble, &p, &e))
		caller_refuse(c, e.text);
	else
		a->fn(a->ctx, &p, caller_release(c));
}

static void caller_ready(void *ctx, uint32_t events)
{
	struct caller *c = ctx;
	ssize_t n = read(c->fd, c->preamble + c->got, sizeof(c->preamble) - c->got);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		caller_refuse(c, "it ended without a preamble");
		return;
	}
	c->got += (size_t)n;
	if (c->got == sizeof(c->preamble))
		caller_heard(c);
}

static void timer_update(struct acceptor *a)
{
	struct caller *oldest = TAILQ_FIRST(&a->waiting);

	loop_timer_set(a->timer, oldest ? oldest->deadline : 0);
}

static void callers_expire(void *ctx)
{
	struct acceptor *a = ctx;
	uint64_t now = clock_ns();
	struct caller *c;

	while ((c = TAILQ_FIRST(&a->waiting)) && c->deadline <= now)
		caller_refuse(c, "it sent no preamble");
	timer_update(a);
}

static int caller_add(struct acceptor *a, int fd)
{
	struct caller *c = calloc(1, sizeof(*c));
	int on = 1, rc;

	if (!c)
		return -ENOMEM;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (a->count == WAITING_MAX)
		caller_refuse(TAILQ_FIRST(&a->waiting), "too many wait");
	*c = (struct caller){.acceptor = a, .fd = fd, .deadline = clock_ns() + PREAMBLE_NS};
	rc = loop_watch(a->loop, fd, EPOLLIN, caller_ready, c, &c->watch);
	if (rc) {
		free(c);
		return rc;
	}
	TAILQ_INSERT_TAIL(&a->waiting, c, entry);
	a->count++;
	return 0;
}

static void listen_ready(void *ctx, uint32_t events)
{
	struct acceptor *a = ctx;

	for (int i = 0; i < ACCEPT_ROUND; i++) {
		int fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		int rc;

		if (fd < 0)
			break;
		rc = caller_add(a, fd);
		if (!rc)
			continue;
		log_warn_rc(rc, "a connection is refused");
		close(fd);
	}
	timer_update(a);
}

int acceptor_create(struct loop *l, const char *address, uint16_t port, acceptor_fn *fn, void *ctx,
		    struct acceptor **out, struct error *e)
{
	struct acceptor *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return error_set(e, -ENOMEM, "out of memory");
	*a = (struct acceptor){.loop = l, .fd = -1, .fn = fn, .ctx = ctx};
	TAILQ_INIT(&a->waiting);
	rc = channel_listen(address, port, &a->fd, e);
	if (rc)
		goto out_acceptor;
	rc = loop_timer(l, callers_expire, a, &a->timer);
	if (!rc)
		rc = loop_watch(l, a->fd, EPOLLIN, listen_ready, a, &a->watch);
	if (rc) {
		error_set(e, rc, "cannot watch the port: %s", strerror(-rc));
		goto out_acceptor;
	}
	*out = a;
	return 0;
out_acceptor:
	acceptor_destroy(a);
	return rc;
}

void acceptor_destroy(struct acceptor *a)
{
	struct caller *c;

	if (!a)
		return;
	while ((c = TAILQ_FIRST(&a->waiting)))
		close(caller_release(c));
	loop_unwatch(a->watch);
	loop_timer_free(a->timer);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}

unsigned acceptor_waiting(const struct acceptor *a)
{
	return a->count;
}

uint64_t acceptor_refused(const struct acceptor *a)
{
	return a->refused;
}

// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/net_port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOG_MODULE "net"

static struct net_port *port_of(struct net_backend *b)
{
	return CONTAINER_OF(b, struct net_port, base);
}

static void port_wake(struct net_port *p)
{
	const uint64_t one = 1;

	(void)!write(p->wake_fd, &one, sizeof(one));
}

static void port_ready(void *ctx, uint32_t events);

/* Watch for what is wanted. For nothing at all a descriptor is left alone: even then
 * a hang-up would be reported, again and again. */
static void port_rewatch(struct net_port *p)
{
	uint32_t events = 0;
	int rc = 0;

	if (p->fd < 0)
		return;
	if (atomic_load(&p->receiving) && !p->broken)
		events |= EPOLLIN;
	if (atomic_load(&p->blocked) && !p->broken)
		events |= EPOLLOUT;
	if (events == p->events)
		return;
	if (!events) {
		loop_unwatch(p->watch);
		p->watch = NULL;
	} else if (p->watch) {
		rc = loop_rewatch(p->watch, events);
	} else {
		rc = loop_watch(p->io, p->fd, events, port_ready, p, &p->watch);
	}
	if (rc)
		log_error_rc(rc, "a network back end cannot be watched");
	p->events = events;
}

void net_port_unblock(struct net_port *p)
{
	if (atomic_exchange(&p->blocked, false) && p->base.front.writable)
		p->base.front.writable(p->base.front.ctx);
}

static void port_ready(void *ctx, uint32_t events)
{
	struct net_port *p = ctx;

	if ((events & EPOLLOUT) && p->ops->output(p))
		net_port_unblock(p);
	if (p->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		p->ops->input(p);
	port_rewatch(p);
}

static void port_awake(void *ctx, uint32_t events)
{
	struct net_port *p = ctx;
	uint64_t count;

	if (read(p->wake_fd, &count, sizeof(count)) < 0)
		return;
	if (p->fd >= 0 && !p->broken && atomic_load(&p->receiving))
		p->ops->input(p);
	if (p->fd < 0 || p->broken)
		net_port_unblock(p); /* nothing will become writable: what waits is dropped */
	port_rewatch(p);
}

int net_port_deliver(struct net_port *p, const void *frame, size_t len)
{
	if (!p->base.front.receive)
		return 0;
	if (!atomic_load(&p->receiving))
		return -EAGAIN;
	return p->base.front.receive(p->base.front.ctx, frame, len);
}

void net_port_block(struct net_port *p)
{
	atomic_store(&p->blocked, true);
	port_wake(p);
}

void net_port_set_receiving(struct net_backend *b, bool on)
{
	atomic_store(&port_of(b)->receiving, on);
	port_wake(port_of(b));
}

void net_port_attach(struct net_port *p, int fd)
{
	p->fd = fd;
	p->events = 0;
	port_rewatch(p);
}

void net_port_detach(struct net_port *p)
{
	if (p->watch)
		loop_unwatch(p->watch);
	p->watch = NULL;
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

void net_port_break(struct net_port *p, const char *why)
{
	log_error("a network back end is of no use any more: %s", why);
	p->broken = true;
	port_wake(p);
}

int net_port_open(struct net_port *p, struct loop *io, const struct net_port_ops *ops,
		  struct error *e)
{
	int rc;

	p->ops = ops;
	p->io = io;
	p->fd = -1;
	atomic_init(&p->receiving, true);
	atomic_init(&p->blocked, false);
	p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = p->wake_fd < 0 ? -errno : loop_watch(io, p->wake_fd, EPOLLIN, port_awake, p, &p->wake);
	if (rc)
		return error_set(e, rc, "network: %s", strerror(-rc));
	return 0;
}

void net_port_close(struct net_port *p)
{
	net_port_detach(p);
	if (p->wake)
		loop_unwatch(p->wake);
	if (p->wake_fd >= 0)
		close(p->wake_fd);
}

/* ---- a NIC that is not connected ---------------------------------------------------- */

static int none_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	return 0;
}

static void none_set_receiving(struct net_backend *b, bool on)
{
}

static void none_destroy(struct net_backend *b)
{
	free(b);
}

static const struct net_backend_ops none_ops = {none_send, none_set_receiving, none_destroy};

static int none_make(const struct nic_config *c, struct loop *io, struct net_backend **out,
		     struct error *e)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return error_set(e, -ENOMEM, "network: out of memory");
	(*out)->ops = &none_ops;
	return 0;
}

static int none_connect(struct net_backend *b, const struct nic_config *c, struct error *e)
{
	return 0;
}

static int none_yield(struct net_backend *b, struct buf *out)
{
	return -1;
}

static int none_adopt(struct net_backend *b, int fd, struct cursor in)
{
	return fd >= 0 ? -EBADMSG : cursor_finish(&in);
}

static const struct net_kind net_none = {none_make, none_connect, none_yield, none_adopt};

/* ---- all kinds ------------------------------------------------------------------------ */

static const struct net_kind *const kinds[] = {
	[NIC_TAP] = &net_tap, [NIC_STREAM] = &net_stream, [NIC_NONE] = &net_none};

int net_backend_make(const struct nic_config *c, struct loop *io, struct net_backend **out,
		     struct error *e)
{
	return kinds[c->kind]->make(c, io, out, e);
}

int net_backend_open(const struct nic_config *c, struct loop *io, struct net_backend **out,
		     struct error *e)
{
	struct net_backend *b;
	int rc = kinds[c->kind]->make(c, io, &b, e);

	if (rc)
		return rc;
	rc = kinds[c->kind]->connect(b, c, e);
	if (rc)
		b->ops->destroy(b);
	else
		*out = b;
	return rc;
}

void net_backend_yield(const struct nic_config *c, struct net_backend *b, int *fd, struct buf *out)
{
	*fd = kinds[c->kind]->yield(b, out);
}

int net_backend_adopt(const struct nic_config *c, struct net_backend *b, int fd, const void *data,
		      size_t n, struct error *e)
{
	int rc = kinds[c->kind]->adopt(b, fd, cursor_of(data, n));

	return rc ? error_set(e, rc, "what was passed on of a network back end is damaged") : 0;
}

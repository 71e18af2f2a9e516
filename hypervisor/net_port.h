// SPDX-License-Identifier: Apache-2.0
/*
 * What network back ends on a descriptor share: waiting, in both directions. A
 * device may call from any thread, but a descriptor is watched by the loop's
 * thread only: an eventfd carries the wish there. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_NET_PORT_H
#define POLLUX_HYPERVISOR_NET_PORT_H

#include <stdatomic.h>

#include "hypervisor/hypervisor.h"

#define NET_FRAME_MOST 65550u

struct net_port;
/* On the loop's thread. */
struct net_port_ops {
	/* Deliver frames with net_port_deliver() until there are none or it gives -EAGAIN. */
	void (*input)(struct net_port *p);
	/* The descriptor is writable. True: send() may be called again. */
	bool (*output)(struct net_port *p);
};

struct net_port {
	struct net_backend base;
	const struct net_port_ops *ops;
	struct loop *io;
	int fd; /* -1: not connected now */
	struct loop_watch *watch;
	uint32_t events;
	int wake_fd;
	struct loop_watch *wake;
	atomic_bool receiving;
	atomic_bool blocked; /* send() gave -EAGAIN */
	bool broken;         /* nothing is to be expected of `fd` any more; loop's thread only */
};

int net_port_open(struct net_port *p, struct loop *io, const struct net_port_ops *ops,
		  struct error *e) MUST_CHECK;
void net_port_close(struct net_port *p); /* also the descriptor */
void net_port_attach(struct net_port *p, int fd);
void net_port_detach(struct net_port *p);
/* `fd` stays open, as a send() may be at it, but nobody waits for it again. */
void net_port_break(struct net_port *p, const char *why);
int net_port_deliver(struct net_port *p, const void *frame, size_t len) MUST_CHECK;
/* From send(): come back when the descriptor is writable. Any thread. */
void net_port_block(struct net_port *p);
/* Loop's thread: whoever waits for that sends again. */
void net_port_unblock(struct net_port *p);
void net_port_set_receiving(struct net_backend *b, bool on);

/* A kind of back end; see net_backend_yield(). */
struct net_kind {
	int (*make)(const struct nic_config *c, struct loop *io, struct net_backend **out,
		    struct error *e);
	int (*connect)(struct net_backend *b, const struct nic_config *c, struct error *e);
	int (*yield)(struct net_backend *b, struct buf *out); /* its descriptor, or -1 */
	/* 0 or -EBADMSG */
	int (*adopt)(struct net_backend *b, int fd, struct cursor in);
};
extern const struct net_kind net_tap, net_stream;

#endif

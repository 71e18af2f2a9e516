// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

#define FRAME_MOST 65550u

struct net_memory {
	struct net_backend backend;
	net_memory_fn *on_frame;
	void *ctx;
	bool receiving;
};

static int net_memory_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct net_memory *n = CONTAINER_OF(b, struct net_memory, backend);
	uint8_t frame[FRAME_MOST];
	size_t len = 0;
	for (int i = 0; i < iov_count; i++) {
		if (iov[i].iov_len > sizeof(frame) - len)
			return -EMSGSIZE;
		memcpy(frame + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return n->on_frame ? n->on_frame(n->ctx, frame, len) : 0;
}

static void net_memory_set_receiving(struct net_backend *b, bool on)
{
	CONTAINER_OF(b, struct net_memory, backend)->receiving = on;
}

static void net_memory_destroy(struct net_backend *b)
{
	free(CONTAINER_OF(b, struct net_memory, backend));
}

static const struct net_backend_ops net_memory_ops = {
	.send = net_memory_send,
	.set_receiving = net_memory_set_receiving,
	.destroy = net_memory_destroy,
};

int net_memory_create(net_memory_fn *on_frame, void *ctx, struct net_backend **out)
{
	struct net_memory *n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->backend.ops = &net_memory_ops;
	n->on_frame = on_frame;
	n->ctx = ctx;
	*out = &n->backend;
	return 0;
}

int net_memory_deliver(struct net_backend *b, const void *frame, size_t len)
{
	struct net_memory *n = CONTAINER_OF(b, struct net_memory, backend);
	if (!n->receiving || !b->front.receive)
		return -EAGAIN;
	return b->front.receive(b->front.ctx, frame, len);
}

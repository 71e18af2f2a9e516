// SPDX-License-Identifier: Apache-2.0
/*
 * A driver that writes what it likes into its rings. Input: size, flags, index, then
 * the memory that holds descriptors, rings and an indirect table, from its start on.
 */
#include <stdlib.h>
#include <string.h>

#include "hypervisor/virtqueue.h"

#define MEMORY (UINT64_C(64) << 10)
#define AVAIL  0x400u
#define USED   0x600u
#define TURNS  64

struct input_head {
	uint8_t size_log, flags;
	uint16_t last_avail;
};

static void chain_use(struct virtqueue *q, const struct chain *c)
{
	static uint8_t bytes[3000];
	static struct iovec iov[VIRTQUEUE_SIZE_MAX];
	static struct segment segments[VIRTQUEUE_SIZE_MAX];

	if (c->out_count + c->in_count > q->size)
		abort();
	chain_read(q, c, c->head, bytes, sizeof(bytes));
	chain_write(q, c, c->head, bytes, c->out_bytes % sizeof(bytes));
	for (int in = 0; in < 2; in++)
		if (chain_iov(q, c, in, 1, UINT64_MAX, iov) !=
		    (int)chain_segments(c, in, 1, UINT64_MAX, segments))
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static struct memory memory = {.fd = -1};
	static struct chain c;
	struct input_head h;
	struct virtqueue q;

	if (n < sizeof(h))
		return 0;
	if (memory.fd < 0 && memory_create(&memory, MEMORY, NULL))
		abort();
	memcpy(&h, data, sizeof(h));
	data += sizeof(h);
	n -= sizeof(h);
	memset(memory.base, 0, MEMORY);
	memcpy(memory.base, data, n < MEMORY ? n : MEMORY);
	q = (struct virtqueue){.memory = &memory,
			       .size = (uint16_t)(1u << h.size_log % 7),
			       .avail = AVAIL,
			       .used = USED,
			       .last_avail = h.last_avail,
			       .event_idx = h.flags & 1,
			       .indirect = h.flags & 2};
	if (virtqueue_map(&q))
		abort();
	for (int i = 0; i < TURNS && virtqueue_pop(&q, &c) > 0; i++) {
		chain_use(&q, &c);
		if (h.flags & 4)
			virtqueue_push(&q, c.head, 1);
		(void)virtqueue_should_signal(&q);
	}
	(void)virtqueue_want_kick(&q);
	return 0;
}

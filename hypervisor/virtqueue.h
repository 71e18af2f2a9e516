// SPDX-License-Identifier: Apache-2.0
/*
 * Split virtqueues, the device's side (virtio 1.2, section 2.7). The rings are
 * guest memory: every value is read once, checked, then used. What cannot be
 * right makes the call return -EBADMSG; the caller breaks the device.
 * Device lock held. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_VIRTQUEUE_H
#define POLLUX_HYPERVISOR_VIRTQUEUE_H

#include <sys/uio.h>

#include "hypervisor/memory.h"

#define VIRTQUEUE_SIZE_MAX 256u

struct virtqueue {
	struct memory *memory;
	/* Set by the driver through the transport, kept over save and load. */
	uint16_t size, vector;
	bool enabled;
	uint64_t desc, avail, used;
	uint16_t last_avail; /* next entry of the available ring to take */
	uint16_t used_index; /* next entry of the used ring to fill */
	/* Follow from the above and the features. */
	bool event_idx, indirect;
	const uint8_t *desc_ring;
	const uint8_t *avail_ring;
	uint8_t *used_ring;
	uint16_t signalled_used; /* used_index at the last decision to interrupt */
	bool signalled_valid;    /* not before the first one: used_event says nothing then */
};

struct segment {
	uint64_t gpa;
	uint32_t len;
};
/* One request of the driver: what the device may read, then what it may write. */
struct chain {
	uint16_t head;
	unsigned out_count, in_count;
	uint64_t out_bytes, in_bytes;
	struct segment segments[VIRTQUEUE_SIZE_MAX]; /* out, then in */
};

/* Check the addresses and sizes and map the rings. 0 or -EINVAL. */
int virtqueue_map(struct virtqueue *q) MUST_CHECK;

/* 1 = `c` holds the next request, 0 = the ring is empty, -EBADMSG = it is broken. */
int virtqueue_pop(struct virtqueue *q, struct chain *c) MUST_CHECK;
/* Undo the last `count` pops: the requests are found again later. */
void virtqueue_unpop(struct virtqueue *q, unsigned count);
/* Read the chain at `head` again: a request in flight when the state was saved. */
int virtqueue_chain(const struct virtqueue *q, uint16_t head, struct chain *c) MUST_CHECK;

/* Give a request back; `written` bytes of its writable part were filled. */
void virtqueue_push(struct virtqueue *q, uint16_t head, uint32_t written);
/* The same in two steps, so that several become visible at once: fill the n-th
 * entry from the current index, then publish `count` of them. */
void virtqueue_fill(struct virtqueue *q, unsigned n, uint16_t head, uint32_t written);
void virtqueue_publish(struct virtqueue *q, unsigned count);

/* Ask the driver for a doorbell at its next request. True: there is one already. */
bool virtqueue_want_kick(struct virtqueue *q);
/* Does the driver want an interrupt for what was pushed since the last call? */
bool virtqueue_should_signal(struct virtqueue *q);

/* Waits until all of the chain's memory is there: a back end may touch it in the kernel, with
 * locks held. False: it never will be, and the request must not be acted on. */
bool chain_fetch(const struct virtqueue *q, const struct chain *c) MUST_CHECK;
/* Bytes of the readable or writable part of a chain, from `offset` on. Both return
 * how many bytes were there. Writing marks the memory. */
size_t chain_read(const struct virtqueue *q, const struct chain *c, uint64_t offset, void *data,
		  size_t len);
size_t chain_write(struct virtqueue *q, const struct chain *c, uint64_t offset, const void *data,
		   size_t len);
/* `len` bytes from `offset` on as an iovec of at most VIRTQUEUE_SIZE_MAX; returns its length. */
int chain_iov(const struct virtqueue *q, const struct chain *c, bool in, uint64_t offset,
	      uint64_t len, struct iovec *iov);
/* The same pieces by guest address: to be marked when someone else has written them. */
unsigned chain_segments(const struct chain *c, bool in, uint64_t offset, uint64_t len,
			struct segment *out);

#endif

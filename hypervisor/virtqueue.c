// SPDX-License-Identifier: Apache-2.0
/*
 * Ordering, with the driver on another CPU (virtio 1.2, 2.7.13 and 2.7.14):
 *
 *   take     acquire load of avail->idx, before the ring entry and descriptors:
 *            pairs with the driver's barrier before it advances idx.
 *   give     used element, then release store of used->idx: the driver that sees
 *            the index sees the element and the data.
 *   signal   used->idx, full barrier, used_event/avail flags: the driver writes
 *            used_event, full barrier, reads used->idx; one of the two notices.
 *   kick     avail_event/used flags, full barrier, avail->idx: the same, reversed.
 *
 * Little-endian in memory, as is the only host that runs this.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "hypervisor/virtqueue.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian");
_Static_assert(sizeof(struct vring_desc) == 16, "descriptor");
_Static_assert(sizeof(struct vring_used_elem) == 8, "used element");

#define DESC_SIZE  sizeof(struct vring_desc)
#define CHAIN_MOST UINT64_C(0xffffffff) /* bytes, virtio 1.2, 2.7.5.2 */

/* ---- ring memory ----------------------------------------------------------
 * available: flags u16, idx u16, ring u16[size], used_event u16
 * used:      flags u16, idx u16, {id u32, len u32}[size], avail_event u16 */

static uint64_t avail_bytes(const struct virtqueue *q)
{
	return 4 + 2 * (uint64_t)q->size + 2;
}
static uint64_t used_bytes(const struct virtqueue *q)
{
	return 4 + 8 * (uint64_t)q->size + 2;
}
static uint16_t avail_load(const struct virtqueue *q, size_t at)
{
	return __atomic_load_n((const uint16_t *)(q->avail_ring + at), __ATOMIC_RELAXED);
}
static uint16_t avail_index(const struct virtqueue *q)
{
	return __atomic_load_n((const uint16_t *)(q->avail_ring + 2), __ATOMIC_ACQUIRE);
}
static uint16_t used_event(const struct virtqueue *q)
{
	return avail_load(q, 4 + 2 * (size_t)q->size);
}
static void used_store(struct virtqueue *q, size_t at, uint16_t v)
{
	__atomic_store_n((uint16_t *)(q->used_ring + at), v, __ATOMIC_RELEASE);
	memory_mark(q->memory, q->used + at, sizeof(v));
}

static bool size_legal(uint16_t size)
{
	return size && size <= VIRTQUEUE_SIZE_MAX && !(size & (size - 1));
}

int virtqueue_map(struct virtqueue *q)
{
	if (!size_legal(q->size) || q->desc % 16 || q->avail % 2 || q->used % 4)
		return -EINVAL;
	q->desc_ring = memory_at(q->memory, q->desc, DESC_SIZE * q->size);
	q->avail_ring = memory_at(q->memory, q->avail, avail_bytes(q));
	q->used_ring = memory_at(q->memory, q->used, used_bytes(q));
	q->signalled_used = q->used_index;
	q->signalled_valid = false;
	return q->desc_ring && q->avail_ring && q->used_ring ? 0 : -EINVAL;
}

/* ---- descriptors ----------------------------------------------------------- */

/* The table that a chain runs through: the queue's own, or an indirect one. */
struct table {
	const uint8_t *at;
	unsigned count;
	bool indirect;
};

static struct vring_desc desc_get(const struct table *t, unsigned i)
{
	struct vring_desc d;

	memcpy(&d, t->at + i * DESC_SIZE, DESC_SIZE);
	return d;
}

static int chain_append(const struct virtqueue *q, struct chain *c, const struct vring_desc *d)
{
	unsigned n = c->out_count + c->in_count;

	if (n >= q->size || !d->len || !memory_at(q->memory, d->addr, d->len))
		return -EBADMSG;
	if (d->flags & VRING_DESC_F_WRITE) {
		c->in_count++;
		c->in_bytes += d->len;
	} else {
		if (c->in_count) /* readable ones come first */
			return -EBADMSG;
		c->out_count++;
		c->out_bytes += d->len;
	}
	c->segments[n] = (struct segment){.gpa = d->addr, .len = d->len};
	return c->out_bytes + c->in_bytes > CHAIN_MOST ? -EBADMSG : 0;
}

static int table_enter(const struct virtqueue *q, const struct vring_desc *d, struct table *t)
{
	if (!q->indirect || t->indirect || (d->flags & VRING_DESC_F_NEXT))
		return -EBADMSG;
	if (!d->len || d->len % DESC_SIZE || d->len / DESC_SIZE > q->size)
		return -EBADMSG;
	t->at = memory_at(q->memory, d->addr, d->len);
	t->count = d->len / DESC_SIZE;
	t->indirect = true;
	return t->at ? 0 : -EBADMSG;
}

/* A loop ends in chain_append(): no chain is longer than the queue. */
int virtqueue_chain(const struct virtqueue *q, uint16_t head, struct chain *c)
{
	struct table t = {.at = q->desc_ring, .count = q->size};
	struct vring_desc d;
	unsigned i = head;
	int rc;

	c->head = head;
	c->out_count = c->in_count = 0;
	c->out_bytes = c->in_bytes = 0;
	for (;;) {
		if (i >= t.count)
			return -EBADMSG;
		d = desc_get(&t, i);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			rc = table_enter(q, &d, &t);
			i = 0;
			if (rc)
				return rc;
			continue;
		}
		rc = chain_append(q, c, &d);
		if (rc || !(d.flags & VRING_DESC_F_NEXT))
			return rc;
		i = d.next;
	}
}

int virtqueue_pop(struct virtqueue *q, struct chain *c)
{
	uint16_t ready = (uint16_t)(avail_index(q) - q->last_avail);
	uint16_t head;
	int rc;

	if (!ready)
		return 0;
	if (ready > q->size)
		return -EBADMSG;
	head = avail_load(q, 4 + 2 * (size_t)(q->last_avail % q->size));
	rc = virtqueue_chain(q, head, c);
	if (rc)
		return rc;
	q->last_avail++;
	return 1;
}

void virtqueue_unpop(struct virtqueue *q, unsigned count)
{
	q->last_avail = (uint16_t)(q->last_avail - count);
}

/* ---- giving back ------------------------------------------------------------ */

void virtqueue_fill(struct virtqueue *q, unsigned n, uint16_t head, uint32_t written)
{
	size_t at = 4 + 8 * (size_t)((q->used_index + n) % q->size);
	struct vring_used_elem elem = {.id = head, .len = written};

	memcpy(q->used_ring + at, &elem, sizeof(elem));
	memory_mark(q->memory, q->used + at, sizeof(elem));
}

void virtqueue_publish(struct virtqueue *q, unsigned count)
{
	q->used_index = (uint16_t)(q->used_index + count);
	used_store(q, 2, q->used_index);
}

void virtqueue_push(struct virtqueue *q, uint16_t head, uint32_t written)
{
	virtqueue_fill(q, 0, head, written);
	virtqueue_publish(q, 1);
}

bool virtqueue_want_kick(struct virtqueue *q)
{
	if (q->event_idx)
		used_store(q, 4 + 8 * (size_t)q->size, q->last_avail);
	/* Orders the store of avail_event before the load of avail->idx. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return avail_index(q) != q->last_avail;
}

bool virtqueue_should_signal(struct virtqueue *q)
{
	uint16_t old = q->signalled_used;
	bool valid = q->signalled_valid;

	if (q->used_index == old)
		return false;
	/* Orders the store of used->idx before the load of used_event or flags. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->signalled_used = q->used_index;
	q->signalled_valid = true;
	if (!q->event_idx)
		return !(avail_load(q, 0) & VRING_AVAIL_F_NO_INTERRUPT);
	return !valid || vring_need_event(used_event(q), q->used_index, old);
}

/* ---- bytes of a chain --------------------------------------------------------- */

/* Visits the pieces of [offset, offset+len) of one side of a chain. */
struct walk {
	const struct segment *at, *end;
	uint64_t skip, left;
};

static struct walk walk_start(const struct chain *c, bool in, uint64_t offset, uint64_t len)
{
	const struct segment *first = c->segments + (in ? c->out_count : 0);

	return (struct walk){.at = first,
			     .end = first + (in ? c->in_count : c->out_count),
			     .skip = offset,
			     .left = len};
}

static bool walk_next(struct walk *w, struct segment *out)
{
	while (w->left && w->at < w->end) {
		const struct segment *s = w->at++;
		if (w->skip >= s->len) {
			w->skip -= s->len;
			continue;
		}
		out->gpa = s->gpa + w->skip;
		out->len = s->len - (uint32_t)w->skip;
		if (out->len > w->left)
			out->len = (uint32_t)w->left;
		w->skip = 0;
		w->left -= out->len;
		return true;
	}
	return false;
}

bool chain_fetch(const struct virtqueue *q, const struct chain *c)
{
	bool here = !memory_is_lost(q->memory);

	for (unsigned i = 0; here && i < c->out_count + c->in_count; i++)
		here = memory_fetch(q->memory, c->segments[i].gpa, c->segments[i].len);
	return here;
}

size_t chain_read(const struct virtqueue *q, const struct chain *c, uint64_t offset, void *data,
		  size_t len)
{
	struct walk w = walk_start(c, false, offset, len);
	struct segment s;
	size_t done = 0;

	while (walk_next(&w, &s)) {
		memcpy((uint8_t *)data + done, memory_at(q->memory, s.gpa, s.len), s.len);
		done += s.len;
	}
	return done;
}

size_t chain_write(struct virtqueue *q, const struct chain *c, uint64_t offset, const void *data,
		   size_t len)
{
	struct walk w = walk_start(c, true, offset, len);
	struct segment s;
	size_t done = 0;

	while (walk_next(&w, &s)) {
		memcpy(memory_at(q->memory, s.gpa, s.len), (const uint8_t *)data + done, s.len);
		memory_mark(q->memory, s.gpa, s.len);
		done += s.len;
	}
	return done;
}

int chain_iov(const struct virtqueue *q, const struct chain *c, bool in, uint64_t offset,
	      uint64_t len, struct iovec *iov)
{
	struct walk w = walk_start(c, in, offset, len);
	struct segment s;
	int n = 0;

	while (walk_next(&w, &s))
		iov[n++] = (struct iovec){memory_at(q->memory, s.gpa, s.len), s.len};
	return n;
}

unsigned chain_segments(const struct chain *c, bool in, uint64_t offset, uint64_t len,
			struct segment *out)
{
	struct walk w = walk_start(c, in, offset, len);
	unsigned n = 0;

	while (walk_next(&w, &out[n]))
		n++;
	return n;
}

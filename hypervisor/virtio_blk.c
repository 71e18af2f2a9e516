// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-blk (virtio 1.2, section 5.2): one queue, many requests in flight.
 *
 * A pause does not drain: the state holds the heads of what is in flight, in the
 * order of submission, and the twin reads those chains again and submits them.
 * The driver has not seen them complete, so their buffers are still the device's,
 * and a read or write done twice is the same as once. Completions that arrive
 * during a pause wait for the device lock.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "hypervisor/virtio.h"

#define SECTOR          512u
#define SEGMENTS_MOST   (VIRTQUEUE_SIZE_MAX - 2) /* beside header and status */
#define RANGE_SECTORS   (1u << 22)               /* of one discard or write-zeroes */
#define RANGE_ALIGNMENT 8u                       /* sectors: a page of the host's file */
#define HEADER_LEN      sizeof(struct virtio_blk_outhdr)
#define RANGE_LEN       sizeof(struct virtio_blk_discard_write_zeroes)
#define STATUS_PENDING  0xff /* no virtio status: done() will come */

_Static_assert(sizeof(struct virtio_blk_outhdr) == 16, "request header");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16, "range");

struct blk_request {
	TAILQ_ENTRY(blk_request) link;
	struct disk_request disk;
	struct blk *blk;
	bool orphan; /* the device was reset meanwhile */
	uint16_t head;
	uint32_t written;    /* for the used ring, when it succeeds */
	uint64_t status_gpa; /* of the status byte */
	unsigned segment_count;
	struct segment *segments; /* what a read fills */
	struct iovec iov[];
};
TAILQ_HEAD(blk_requests, blk_request);

struct blk {
	struct virtio_device virtio;
	struct disk_backend *disk;
	struct virtio_blk_config config;
	unsigned index;
	struct blk_requests in_flight; /* in the order of submission */
	unsigned in_flight_count;
	unsigned orphans; /* a reset ends when they have */
	/* Heads that were in flight when the loaded state was saved; until resume. */
	uint16_t loaded[VIRTQUEUE_SIZE_MAX];
	unsigned loaded_count;
};

static struct blk *blk_of(struct virtio_device *v)
{
	return CONTAINER_OF(v, struct blk, virtio);
}

static struct virtqueue *blk_queue(struct blk *b)
{
	return &b->virtio.regs.queues[0];
}

/* ---- completion ----------------------------------------------------------------- */

static uint8_t status_of(int rc)
{
	if (rc == -EOPNOTSUPP)
		return VIRTIO_BLK_S_UNSUPP;
	return rc ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

static void request_answer(struct blk_request *r, uint8_t status)
{
	struct blk *b = r->blk;
	uint32_t written = status == VIRTIO_BLK_S_OK ? r->written : 1;

	if (!virtio_live(&b->virtio))
		return;
	if (memory_write(&b->virtio.device.vm->memory, r->status_gpa, &status, 1)) {
		virtio_break(&b->virtio, "a status byte outside memory");
		return;
	}
	virtqueue_push(blk_queue(b), r->head, written);
	virtio_signal_queue(&b->virtio, 0);
}

static void request_forget(struct blk_request *r)
{
	struct blk *b = r->blk;
	struct vm *vm = b->virtio.device.vm;

	if (r->orphan) {
		if (!--b->orphans)
			virtio_stopped(&b->virtio);
	} else {
		TAILQ_REMOVE(&b->in_flight, r, link);
		b->in_flight_count--;
	}
	if (!--vm->disk_requests)
		pthread_cond_broadcast(&vm->disks_idle);
	free(r);
}

/* Also an orphan's data has changed memory: it is marked, but no ring is touched. */
static void request_done(struct disk_request *disk, int rc)
{
	struct blk_request *r = CONTAINER_OF(disk, struct blk_request, disk);
	struct vm *vm = r->blk->virtio.device.vm;

	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < r->segment_count; i++)
		memory_mark(&vm->memory, r->segments[i].gpa, r->segments[i].len);
	if (!r->orphan)
		request_answer(r, status_of(rc));
	request_forget(r);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- requests ---------------------------------------------------------------------
 * Each handler returns a status, or STATUS_PENDING when done() will follow. */

static struct blk_request *request_new(struct blk *b, const struct chain *c, unsigned pieces)
{
	struct blk_request *r =
		calloc(1, sizeof(*r) + pieces * (sizeof(r->iov[0]) + sizeof(r->segments[0])));
	const struct segment *last = &c->segments[c->out_count + c->in_count - 1];

	if (!r)
		return NULL;
	r->blk = b;
	r->head = c->head;
	r->written = 1;
	r->status_gpa = last->gpa + last->len - 1;
	r->segments = (struct segment *)&r->iov[pieces];
	r->disk.iov = r->iov;
	r->disk.done = request_done;
	return r;
}

static uint8_t request_submit(struct blk *b, struct blk_request *r)
{
	int rc;

	TAILQ_INSERT_TAIL(&b->in_flight, r, link);
	b->in_flight_count++;
	b->virtio.device.vm->disk_requests++;
	rc = b->disk->ops->submit(b->disk, &r->disk);
	if (!rc)
		return STATUS_PENDING;
	request_forget(r);
	return status_of(rc);
}

static bool range_legal(const struct blk *b, uint64_t sector, uint64_t bytes)
{
	uint64_t sectors = bytes / SECTOR;

	return !(bytes % SECTOR) && sectors && sector <= b->config.capacity &&
	       sectors <= b->config.capacity - sector;
}

/* Without a flush command, what is written must be durable (5.2.6.2). */
static bool writes_durable(const struct blk *b)
{
	return !b->config.wce || !virtio_has(&b->virtio, VIRTIO_BLK_F_FLUSH);
}

static uint8_t start_read(struct blk *b, const struct chain *c, uint64_t sector)
{
	uint64_t len = c->in_bytes - 1;
	struct blk_request *r;

	if (!range_legal(b, sector, len))
		return VIRTIO_BLK_S_IOERR;
	r = request_new(b, c, c->in_count);
	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->disk.op = DISK_READ;
	r->disk.offset = sector * SECTOR;
	r->disk.length = len;
	r->disk.iov_count = chain_iov(blk_queue(b), c, true, 0, len, r->iov);
	r->segment_count = chain_segments(c, true, 0, len, r->segments);
	r->written = (uint32_t)c->in_bytes;
	return request_submit(b, r);
}

static uint8_t start_write(struct blk *b, const struct chain *c, uint64_t sector)
{
	uint64_t len = c->out_bytes - HEADER_LEN;
	struct blk_request *r;

	if (b->disk->readonly || !range_legal(b, sector, len))
		return VIRTIO_BLK_S_IOERR;
	r = request_new(b, c, c->out_count);
	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->disk.op = DISK_WRITE;
	r->disk.offset = sector * SECTOR;
	r->disk.length = len;
	r->disk.durable = writes_durable(b);
	r->disk.iov_count = chain_iov(blk_queue(b), c, false, HEADER_LEN, len, r->iov);
	return request_submit(b, r);
}

static uint8_t start_flush(struct blk *b, const struct chain *c, uint64_t sector)
{
	struct blk_request *r = request_new(b, c, 0);

	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->disk.op = DISK_FLUSH;
	return request_submit(b, r);
}

static uint8_t start_range(struct blk *b, const struct chain *c, enum disk_op op, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range;
	struct blk_request *r;
	uint64_t len;

	if (b->disk->readonly || c->out_bytes != HEADER_LEN + RANGE_LEN)
		return VIRTIO_BLK_S_IOERR;
	chain_read(blk_queue(b), c, HEADER_LEN, &range, sizeof(range));
	if (range.flags & ~flags)
		return VIRTIO_BLK_S_UNSUPP;
	len = (uint64_t)range.num_sectors * SECTOR;
	if (range.num_sectors > RANGE_SECTORS || !range_legal(b, range.sector, len))
		return VIRTIO_BLK_S_IOERR;
	r = request_new(b, c, 0);
	if (!r)
		return VIRTIO_BLK_S_IOERR;
	r->disk.op = op;
	r->disk.offset = range.sector * SECTOR;
	r->disk.length = len;
	r->disk.durable = writes_durable(b);
	return request_submit(b, r);
}

static uint8_t start_discard(struct blk *b, const struct chain *c, uint64_t sector)
{
	return start_range(b, c, DISK_DISCARD, 0);
}

static uint8_t start_write_zeroes(struct blk *b, const struct chain *c, uint64_t sector)
{
	return start_range(b, c, DISK_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
}

static uint8_t answer_id(struct blk *b, const struct chain *c, uint64_t sector)
{
	char id[VIRTIO_BLK_ID_BYTES] = {0};

	if (c->in_bytes < sizeof(id) + 1)
		return VIRTIO_BLK_S_IOERR;
	snprintf(id, sizeof(id), "pollux-%u", b->index);
	chain_write(blk_queue(b), c, 0, id, sizeof(id));
	return VIRTIO_BLK_S_OK;
}

static const struct blk_command {
	uint32_t type;
	uint8_t (*start)(struct blk *b, const struct chain *c, uint64_t sector);
} commands[] = {
	{VIRTIO_BLK_T_IN, start_read},         {VIRTIO_BLK_T_OUT, start_write},
	{VIRTIO_BLK_T_FLUSH, start_flush},     {VIRTIO_BLK_T_GET_ID, answer_id},
	{VIRTIO_BLK_T_DISCARD, start_discard}, {VIRTIO_BLK_T_WRITE_ZEROES, start_write_zeroes},
};

static uint8_t request_start(struct blk *b, const struct chain *c)
{
	struct virtio_blk_outhdr header;

	chain_read(blk_queue(b), c, 0, &header, sizeof(header));
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (commands[i].type == header.type)
			return commands[i].start(b, c, header.sector);
	return VIRTIO_BLK_S_UNSUPP;
}

/* -EBADMSG: the chain is no request. */
static int request_handle(struct virtio_device *v, const struct chain *c)
{
	struct blk *b = blk_of(v);
	uint8_t status;

	if (c->out_bytes < HEADER_LEN || !c->in_bytes || b->in_flight_count >= blk_queue(b)->size)
		return -EBADMSG;
	status = request_start(b, c);
	if (status == STATUS_PENDING)
		return 0;
	chain_write(blk_queue(b), c, c->in_bytes - 1, &status, 1);
	virtqueue_push(blk_queue(b), c->head, (uint32_t)c->in_bytes);
	virtio_signal_queue(&b->virtio, 0);
	return 0;
}

static void blk_kick(struct virtio_device *v, unsigned queue)
{
	if (virtio_serve(v, queue, request_handle))
		virtio_break(v, "a bad request ring");
}

/* ---- life cycle ----------------------------------------------------------------- */

/* After a load: what was in flight on the other side goes first, in its order. */
static void blk_start(struct virtio_device *v)
{
	struct blk *b = blk_of(v);
	unsigned count = b->loaded_count;
	int rc = 0;

	b->loaded_count = 0;
	for (unsigned i = 0; !rc && i < count; i++) {
		rc = virtqueue_chain(blk_queue(b), b->loaded[i], &v->chain);
		if (!rc && !chain_fetch(blk_queue(b), &v->chain))
			return;
		if (!rc)
			rc = request_handle(v, &v->chain);
	}
	if (rc)
		virtio_break(v, "a request in flight that is none");
}

static bool blk_stop(struct virtio_device *v)
{
	struct blk *b = blk_of(v);
	struct blk_request *r;

	while ((r = TAILQ_FIRST(&b->in_flight))) {
		TAILQ_REMOVE(&b->in_flight, r, link);
		r->orphan = true;
		b->orphans++;
	}
	b->in_flight_count = 0;
	b->loaded_count = 0;
	b->config.wce = !b->disk->write_through;
	return !b->orphans;
}

static void blk_save(struct virtio_device *v, struct buf *out)
{
	struct blk *b = blk_of(v);
	struct blk_request *r;

	buf_put_u64(out, b->config.capacity);
	buf_put_u8(out, b->config.wce);
	buf_put_u16(out, (uint16_t)(b->loaded_count + b->in_flight_count));
	for (unsigned i = 0; i < b->loaded_count; i++)
		buf_put_u16(out, b->loaded[i]);
	TAILQ_FOREACH(r, &b->in_flight, link)
	buf_put_u16(out, r->head);
}

/* The requests in flight are those taken and not given back. A broken device does
 * not give back. */
static bool count_legal(const struct virtio_registers *r, unsigned count)
{
	const struct virtqueue *q = &r->queues[0];

	if (count > q->size || (count && !q->enabled))
		return false;
	return (r->status & VIRTIO_CONFIG_S_NEEDS_RESET) ||
	       count == (uint16_t)(q->last_avail - q->used_index);
}

static void blk_load(struct virtio_device *v, struct cursor *in,
		     const struct virtio_registers *next, bool check_only)
{
	const struct virtqueue *q = &next->queues[0];
	struct blk *b = blk_of(v);
	uint16_t heads[VIRTQUEUE_SIZE_MAX];
	uint64_t capacity = cursor_u64(in);
	uint8_t wce = cursor_u8(in);
	unsigned count = cursor_u16(in);

	if (capacity != b->config.capacity || wce > 1 || !count_legal(next, count)) {
		in->bad = true;
		return;
	}
	for (unsigned i = 0; i < count; i++) {
		heads[i] = cursor_u16(in);
		if (heads[i] >= q->size)
			in->bad = true;
	}
	if (check_only || in->bad)
		return;
	(void)blk_stop(v);
	b->config.wce = wce;
	memcpy(b->loaded, heads, count * sizeof(heads[0]));
	b->loaded_count = count;
}

static void blk_config_read(struct virtio_device *v, unsigned at, void *data, unsigned size)
{
	virtio_config_bytes(&blk_of(v)->config, sizeof(blk_of(v)->config), at, data, size);
}

static void blk_config_write(struct virtio_device *v, unsigned at, const void *data, unsigned size)
{
	if (at == offsetof(struct virtio_blk_config, wce) && size == 1 &&
	    virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
		blk_of(v)->config.wce = *(const uint8_t *)data & 1;
}

static void blk_destroy(struct virtio_device *v)
{
	free(blk_of(v));
}

static const struct virtio_ops blk_ops = {
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x01,
	.pci_subclass = 0x80,
	.queues = 1,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.start = blk_start,
	.kick = blk_kick,
	.stop = blk_stop,
	.save = blk_save,
	.load = blk_load,
	.destroy = blk_destroy,
};

const struct device_ops blk_device_ops = {
	.name = "virtio-blk",
	.section = STATE_VIRTIO_BLK,
	.oldest = 1,
	.version = 1,
	.reset = virtio_device_reset,
	.save = virtio_device_save,
	.load = virtio_device_load,
	.resume = virtio_device_resume,
	.destroy = virtio_device_destroy,
};

static void config_fill(struct blk *b)
{
	b->config = (struct virtio_blk_config){
		.capacity = b->disk->size / SECTOR,
		.seg_max = SEGMENTS_MOST,
		.blk_size = SECTOR,
		.wce = !b->disk->write_through,
		.max_discard_sectors = RANGE_SECTORS,
		.max_discard_seg = 1,
		.discard_sector_alignment = RANGE_ALIGNMENT,
		.max_write_zeroes_sectors = RANGE_SECTORS,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
}

int virtio_blk_create(struct vm *vm, unsigned index, struct error *e)
{
	uint64_t features =
		VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
		VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) | VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE) |
		VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) | VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
	struct blk *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return error_set(e, -ENOMEM, "virtio-blk: out of memory");
	b->disk = vm->parts.disks[index];
	b->index = index;
	TAILQ_INIT(&b->in_flight);
	config_fill(b);
	if (b->disk->readonly)
		features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
	rc = virtio_add(vm, &b->virtio, &blk_ops, &blk_device_ops, features, e);
	if (rc)
		free(b);
	return rc;
}

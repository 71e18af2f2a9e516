// SPDX-License-Identifier: Apache-2.0
#include "tests/guests/guest.h"

#define VIRTIO_BLK  2
#define F_FLUSH     (1u << 9)
#define VECTOR      0x50
#define TYPE_READ   0
#define TYPE_WRITE  1
#define TYPE_FLUSH  4
#define BLOCK       4096u
#define SECTORS     (BLOCK / 512)
#define DEPTH_MAX   (VQ_SIZE / 3)
#define BLOCKS_MAX  4096u
#define FLUSH_EVERY 16u
#define UNTOUCHED   0x5a

const char guest_name[] = "blk";

struct request {
	uint32_t type, reserved;
	uint64_t sector;
	uint8_t status;
	uint32_t block;
	uint64_t sequence;
	uint64_t data[BLOCK / 8];
};

static struct vq queue;
static struct request requests[DEPTH_MAX];
static bool busy[DEPTH_MAX], block_busy[BLOCKS_MAX];
static uint64_t written[BLOCKS_MAX]; /* sequence number of the last write completed */
static uint64_t sequence, reads, writes, flushes, chance = 88172645463325252ul;

static void woken(struct frame *f)
{
}

static uint64_t any(uint64_t below)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return chance % below;
}

/* Every eighth word: an emulated CPU is slow. */
static uint64_t word(uint64_t block, uint64_t number, unsigned i)
{
	return (number << 32 | block) * 0x9e3779b97f4a7c15ul + i;
}
static void block_fill(struct request *r)
{
	for (unsigned i = 0; i < BLOCK / 8; i += 8)
		r->data[i] = word(r->block, r->sequence, i);
}
static void block_check(const struct request *r)
{
	for (unsigned i = 0; i < BLOCK / 8 && written[r->block]; i += 8)
		if (r->data[i] != word(r->block, written[r->block], i))
			fail("block %u word %u holds %x, not that of write %u", (uint64_t)r->block,
			     (uint64_t)i, r->data[i], written[r->block]);
}

static void request_send(unsigned slot)
{
	struct request *r = &requests[slot];
	uint16_t head = (uint16_t)(3 * slot), flags = VQ_NEXT;
	bool data = r->type != TYPE_FLUSH;
	if (r->type == TYPE_READ)
		flags |= VQ_WRITE;
	r->status = UNTOUCHED;
	queue.desc[head] =
		(struct vq_desc){(uint64_t)r, 16, VQ_NEXT, (uint16_t)(head + (data ? 1 : 2))};
	queue.desc[head + 1] =
		(struct vq_desc){(uint64_t)r->data, BLOCK, flags, (uint16_t)(head + 2)};
	queue.desc[head + 2] = (struct vq_desc){(uint64_t)&r->status, 1, VQ_WRITE, 0};
	busy[slot] = true;
	vq_offer(&queue, head);
	vq_kick(&queue);
}

static void request_start(unsigned slot, uint64_t blocks)
{
	struct request *r = &requests[slot];
	if (any(FLUSH_EVERY) == 0) {
		r->type = TYPE_FLUSH;
		r->sector = 0;
		flushes++;
		request_send(slot);
		return;
	}
	do
		r->block = (uint32_t)any(blocks);
	while (block_busy[r->block]);
	block_busy[r->block] = true;
	r->sector = (uint64_t)r->block * SECTORS;
	r->type = any(2) ? TYPE_WRITE : TYPE_READ;
	if (r->type == TYPE_WRITE) {
		r->sequence = ++sequence;
		block_fill(r);
	}
	request_send(slot);
}

static void request_finish(unsigned slot)
{
	struct request *r = &requests[slot];
	if (!busy[slot])
		fail("request %u came back twice", (uint64_t)slot);
	if (r->status)
		fail("request type %u block %u has status %u", (uint64_t)r->type,
		     (uint64_t)r->block, (uint64_t)r->status);
	busy[slot] = false;
	if (r->type == TYPE_FLUSH)
		return;
	block_busy[r->block] = false;
	if (r->type == TYPE_WRITE) {
		written[r->block] = r->sequence;
		writes++;
	} else {
		block_check(r);
		reads++;
	}
}

static unsigned requests_reap(void)
{
	unsigned n = 0;
	uint32_t len;
	for (int head = vq_reap(&queue, &len); head >= 0; head = vq_reap(&queue, &len), n++)
		request_finish((unsigned)head / 3);
	return n;
}

static void run(uint64_t blocks, uint64_t depth, uint64_t ops, uint64_t every)
{
	uint64_t started = 0, finished = 0, told = 0;
	while (!ops || finished < ops) {
		for (unsigned slot = 0; slot < depth; slot++)
			if (!busy[slot] && (!ops || started < ops)) {
				request_start(slot, blocks);
				started++;
			}
		unsigned n = requests_reap();
		finished += n;
		if (!n)
			wait_for_interrupt();
		if (finished - told >= every) {
			told = finished;
			report("done %u writes %u reads %u flushes %u", finished, writes, reads,
			       flushes);
		}
	}
}

void guest_main(void)
{
	struct virtio v = {0};
	uint64_t blocks = parameter("blocks", 64), depth = parameter("depth", 8);
	uint64_t ops = parameter("ops", 0), every = parameter("report", 100);
	lapic_enable();
	handler_set(VECTOR, woken);
	if (!virtio_find(&v, VIRTIO_BLK, 0))
		fail("there is no virtio-blk device");
	virtio_start(&v, F_FLUSH);
	virtio_queue(&v, &queue, 0, VECTOR);
	virtio_ready(&v);
	uint64_t capacity = *(volatile uint64_t *)v.config / SECTORS;
	if (blocks > capacity)
		blocks = capacity;
	if (blocks > BLOCKS_MAX)
		blocks = BLOCKS_MAX;
	if (depth > DEPTH_MAX)
		depth = DEPTH_MAX;
	if (blocks < 2 * depth)
		fail("a disk of %u blocks is too small", blocks);
	report("start blocks=%u depth=%u", blocks, depth);
	run(blocks, depth, ops, every);
	report("done writes %u reads %u flushes %u", writes, reads, flushes);
	while (parameter("linger", 0))
		wait_for_interrupt();
}

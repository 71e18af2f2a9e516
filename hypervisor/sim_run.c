// SPDX-License-Identifier: Apache-2.0
/* The fake guest's life once its devices are set up: one action a step, chosen at random. */
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/sim.h"

#define PM1_STATUS       LAYOUT_PM_BASE
#define PM1_ENABLE       (LAYOUT_PM_BASE + 2)
#define PM1_CONTROL      (LAYOUT_PM_BASE + 4)
#define POWER_BUTTON     0x100u
#define SLEEP_ENABLE     0x2000u

#define HOT_PAGES        8u
#define DESCRIPTOR_SIZE  sizeof(struct vring_desc)
#define REQUEST_HEADER   sizeof(struct virtio_blk_outhdr)
#define STATUS_AT        (REQUEST_HEADER + SIM_BLOCK_SIZE)
#define STATUS_UNTOUCHED 0x5a

/* ---- rings, the driver's side --------------------------------------------------- */

static void descriptor_set(struct engine *en, uint64_t page, unsigned at, uint64_t gpa,
			   uint32_t len, uint16_t flags, uint16_t next)
{
	struct vring_desc d = {.addr = gpa, .len = len, .flags = flags, .next = next};
	sim_store(en, page + at * DESCRIPTOR_SIZE, &d, sizeof(d));
}

/* The entry first, then the index that publishes it. */
static void ring_offer(struct engine *en, unsigned device, unsigned queue, uint16_t head)
{
	struct sim_queue *q = &en->guest.devices[device].queues[queue];
	uint64_t avail = sim_queue_page(device, queue) + SIM_AT_AVAIL;
	sim_store(en, avail + 4 + 2 * (q->avail % SIM_QUEUE_SIZE), &head, sizeof(head));
	q->avail++;
	atomic_thread_fence(memory_order_release);
	sim_store(en, avail + 2, &q->avail, sizeof(q->avail));
	en->guest.kicks |= 1u << (2 * device + queue);
}

/* The next request that the device gave back. False: none, or the ring is broken. */
static bool ring_reap(struct engine *en, unsigned device, unsigned queue,
		      struct vring_used_elem *out)
{
	struct sim_queue *q = &en->guest.devices[device].queues[queue];
	uint64_t used = sim_queue_page(device, queue) + SIM_AT_USED;
	uint16_t index;
	sim_load(en, used + 2, &index, sizeof(index));
	if (index == q->used)
		return false;
	atomic_thread_fence(memory_order_acquire);
	sim_load(en, used + 4 + sizeof(*out) * (q->used % SIM_QUEUE_SIZE), out, sizeof(*out));
	q->used++;
	if ((uint16_t)(index - q->used) >= SIM_QUEUE_SIZE || out->id >= SIM_QUEUE_SIZE) {
		sim_fail(&en->guest, SIM_BAD_RING);
		return false;
	}
	return true;
}

/* Give a slot back; false if the device never had it. */
static bool slot_free(struct engine *en, unsigned device, unsigned queue, unsigned slot)
{
	struct sim_queue *q = &en->guest.devices[device].queues[queue];
	if (!(q->busy & (1u << slot))) {
		sim_fail(&en->guest, SIM_BAD_RING);
		return false;
	}
	q->busy &= (uint16_t) ~(1u << slot);
	return true;
}

/* Ring the doorbell of the first queue that wants it, unless the device looks anyway. */
static bool bell_ring(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	unsigned bit = (unsigned)__builtin_ctz(g->kicks), queue = bit % 2;
	const struct sim_device *d = &g->devices[bit / 2];
	uint16_t flags;
	g->kicks &= g->kicks - 1;
	sim_load(en, sim_queue_page(bit / 2, queue) + SIM_AT_USED, &flags, sizeof(flags));
	if (flags & VRING_USED_F_NO_NOTIFY)
		return true;
	return sim_write(a, d->notify + (uint64_t)d->queues[queue].notify * d->notify_multiplier, 2,
			 queue);
}

/* ---- frames -------------------------------------------------------------------------- */

static uint64_t frame_at(unsigned device, unsigned queue, unsigned slot)
{
	return sim_queue_page(device, queue) + SIM_AT_FRAMES + (uint64_t)slot * SIM_FRAME_ROOM;
}

static void frame_await(struct engine *en, unsigned device, unsigned slot)
{
	en->guest.devices[device].queues[SIM_RX].busy |= (uint16_t)(1u << slot);
	descriptor_set(en, sim_queue_page(device, SIM_RX), slot, frame_at(device, SIM_RX, slot),
		       SIM_FRAME_ROOM, VRING_DESC_F_WRITE, 0);
	ring_offer(en, device, SIM_RX, (uint16_t)slot);
}

static void frames_reap(struct engine *en, unsigned device)
{
	struct sim_guest *g = &en->guest;
	struct vring_used_elem used;
	uint8_t frame[SIM_FRAME_ROOM];
	while (ring_reap(en, device, SIM_RX, &used) && slot_free(en, device, SIM_RX, used.id)) {
		if (used.len < SIM_NET_HEADER || used.len > SIM_FRAME_ROOM) {
			sim_fail(g, SIM_BAD_RING);
			return;
		}
		sim_load(en, frame_at(device, SIM_RX, used.id), frame, used.len);
		sim_fold(g, sim_hash_bytes(frame + SIM_NET_HEADER, used.len - SIM_NET_HEADER));
		g->received++;
		frame_await(en, device, used.id);
	}
	while (ring_reap(en, device, SIM_TX, &used) && slot_free(en, device, SIM_TX, used.id))
		;
}

/* Destination, source, type, then what struct sim_frame says, a check, and padding. */
static size_t frame_make(struct sim_guest *g, const struct sim_device *d, uint64_t r, uint8_t *out)
{
	static const uint8_t type[2] = {SIM_ETHERTYPE >> 8, SIM_ETHERTYPE & 0xff};
	uint64_t words[5] = {g->seed, ++g->sent, g->hash, sim_flushed(g), 0};
	words[4] = sim_hash_bytes(words, 32);
	memset(out, 0xff, 6);
	memcpy(out + 6, d->mac, 6);
	memcpy(out + 12, type, 2);
	memcpy(out + 14, words, sizeof(words));
	size_t padding = 8 + r % 64;
	memset(out + 14 + sizeof(words), (int)(r >> 56), padding);
	return 14 + sizeof(words) + padding;
}

static bool frame_send(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	struct sim_device *d = &g->devices[device];
	unsigned slot = (unsigned)__builtin_ctz(~(unsigned)d->queues[SIM_TX].busy);
	if (d->kind != SIM_NET || slot >= SIM_FRAMES)
		return false;
	uint8_t frame[SIM_FRAME_ROOM] = {0};
	size_t len = SIM_NET_HEADER + frame_make(g, d, r, frame + SIM_NET_HEADER);
	sim_store(en, frame_at(device, SIM_TX, slot), frame, len);
	sim_fold(g, g->sent);
	d->queues[SIM_TX].busy |= (uint16_t)(1u << slot);
	descriptor_set(en, sim_queue_page(device, SIM_TX), slot, frame_at(device, SIM_TX, slot),
		       (uint32_t)len, 0, 0);
	ring_offer(en, device, SIM_TX, (uint16_t)slot);
	return bell_ring(en, a);
}

/* ---- blocks ----------------------------------------------------------------------------- */

static uint64_t request_at(unsigned device, unsigned slot)
{
	return sim_queue_page(device, 0) + SIM_AT_REQUESTS + (uint64_t)slot * SIM_REQUEST_SIZE;
}

static uint64_t table_at(unsigned device, unsigned block)
{
	return sim_queue_page(device, 0) + SIM_AT_TABLE + 8ull * block;
}

static void request_offer(struct engine *en, unsigned device, unsigned slot, uint32_t type,
			  uint64_t sector)
{
	uint64_t page = sim_queue_page(device, 0), at = request_at(device, slot);
	uint16_t head = (uint16_t)(3 * slot), data_flags = VRING_DESC_F_NEXT;
	bool flush = type == VIRTIO_BLK_T_FLUSH;
	struct virtio_blk_outhdr header = {.type = type, .sector = sector};
	uint8_t status = STATUS_UNTOUCHED;
	if (type == VIRTIO_BLK_T_IN)
		data_flags |= VRING_DESC_F_WRITE;
	sim_store(en, at, &header, sizeof(header));
	sim_store(en, at + STATUS_AT, &status, 1);
	descriptor_set(en, page, head, at, REQUEST_HEADER, VRING_DESC_F_NEXT,
		       (uint16_t)(head + (flush ? 2 : 1)));
	descriptor_set(en, page, head + 1u, at + REQUEST_HEADER, SIM_BLOCK_SIZE, data_flags,
		       (uint16_t)(head + 2));
	descriptor_set(en, page, head + 2u, at + STATUS_AT, 1, VRING_DESC_F_WRITE, 0);
	en->guest.devices[device].queues[0].busy |= (uint16_t)(1u << slot);
	ring_offer(en, device, 0, head);
}

/* A free slot, or SIM_REQUESTS; also when `block` is in flight already. */
static unsigned request_slot(const struct sim_device *d, unsigned block)
{
	unsigned free = SIM_REQUESTS;
	for (unsigned i = SIM_REQUESTS; i-- > 0;) {
		if (!(d->queues[0].busy & (1u << i)))
			free = i;
		else if (d->requests[i].block == block && d->requests[i].op != SIM_DISK_FLUSH)
			return SIM_REQUESTS;
	}
	return free;
}

/* All writes up to this one have been completed. */
static uint64_t completed_up_to(const struct sim_guest *g, const struct sim_device *d)
{
	uint64_t least = g->disk_sequence + 1;
	for (unsigned i = 0; i < SIM_REQUESTS; i++)
		if (d->queues[0].busy & (1u << i) && d->requests[i].op == SIM_DISK_WRITE &&
		    d->requests[i].sequence < least)
			least = d->requests[i].sequence;
	return least - 1;
}

static bool disk_start(struct engine *en, unsigned device, enum sim_disk_op op, uint64_t r,
		       struct sim_access *a)
{
	static const uint32_t types[SIM_DISK_OPS] = {
		[SIM_DISK_READ] = VIRTIO_BLK_T_IN,
		[SIM_DISK_WRITE] = VIRTIO_BLK_T_OUT,
		[SIM_DISK_FLUSH] = VIRTIO_BLK_T_FLUSH,
	};
	struct sim_guest *g = &en->guest;
	struct sim_device *d = &g->devices[device];
	if (d->kind != SIM_BLK || !sim_blocks(d))
		return false;
	unsigned block = r % sim_blocks(d), slot = request_slot(d, block);
	if (slot == SIM_REQUESTS)
		return false;
	struct sim_request request = {.op = (uint8_t)op, .block = (uint8_t)block};
	uint8_t data[SIM_BLOCK_SIZE] = {0};
	if (op == SIM_DISK_WRITE) {
		request.sequence = ++g->disk_sequence;
		sim_block_fill(g, device, block, request.sequence, data);
	}
	if (op == SIM_DISK_FLUSH)
		request.sequence = completed_up_to(g, d);
	else
		sim_store(en, request_at(device, slot) + REQUEST_HEADER, data, sizeof(data));
	d->requests[slot] = request;
	sim_fold(g, r);
	request_offer(en, device, slot, types[op], op == SIM_DISK_FLUSH ? 0 : block);
	return bell_ring(en, a);
}

static bool disk_read(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	return disk_start(en, device, SIM_DISK_READ, r, a);
}
static bool disk_write(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	return disk_start(en, device, SIM_DISK_WRITE, r, a);
}
static bool disk_flush(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	return disk_start(en, device, SIM_DISK_FLUSH, r, a);
}

static void block_verify(struct engine *en, unsigned device, unsigned slot)
{
	struct sim_guest *g = &en->guest;
	unsigned block = g->devices[device].requests[slot].block;
	uint8_t got[SIM_BLOCK_SIZE], want[SIM_BLOCK_SIZE];
	uint64_t sequence;
	sim_load(en, table_at(device, block), &sequence, sizeof(sequence));
	sim_load(en, request_at(device, slot) + REQUEST_HEADER, got, sizeof(got));
	sim_block_fill(g, device, block, sequence, want);
	if (sequence && memcmp(got, want, sizeof(got)) != 0)
		sim_fail(g, SIM_BAD_BLOCK);
}

static void request_finish(struct engine *en, unsigned device, unsigned slot)
{
	struct sim_guest *g = &en->guest;
	struct sim_device *d = &g->devices[device];
	struct sim_request *r = &d->requests[slot];
	uint8_t status;
	sim_load(en, request_at(device, slot) + STATUS_AT, &status, 1);
	if (status != VIRTIO_BLK_S_OK)
		sim_fail(g, SIM_BAD_STATUS);
	else if (r->op == SIM_DISK_READ)
		block_verify(en, device, slot);
	else if (r->op == SIM_DISK_WRITE)
		sim_store(en, table_at(device, r->block), &r->sequence, sizeof(r->sequence));
	else if (r->sequence > d->flushed)
		d->flushed = r->sequence;
	sim_fold(g, (uint64_t)r->op << 8 | r->block);
	*r = (struct sim_request){0};
}

static void requests_reap(struct engine *en, unsigned device)
{
	struct vring_used_elem used;
	while (ring_reap(en, device, 0, &used)) {
		if (used.id % 3 || used.id / 3 >= SIM_REQUESTS) {
			sim_fail(&en->guest, SIM_BAD_RING);
			return;
		}
		if (!slot_free(en, device, 0, used.id / 3))
			return;
		request_finish(en, device, used.id / 3);
	}
}

/* ---- memory --------------------------------------------------------------------------------- */

static bool scribble(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	uint64_t pages = sim_scribble_pages(en);
	uint64_t page = r % (r >> 62 || pages < HOT_PAGES ? HOT_PAGES : pages) % pages;
	uint64_t gpa = (SIM_SCRIBBLE_PAGE + page) * VM_PAGE_SIZE + (r >> 40) % 512 * 8;
	uint64_t word = sim_random(g) | 1, old;
	sim_load(en, gpa, &old, sizeof(old));
	g->ram_sum += sim_word_sum(gpa, word) - sim_word_sum(gpa, old);
	sim_fold(g, old ^ gpa);
	sim_store(en, gpa, &word, sizeof(word));
	return true;
}

static bool rest(struct engine *en, unsigned device, uint64_t r, struct sim_access *a)
{
	return true;
}

/* ---- one step ----------------------------------------------------------------------------------
 */

typedef bool action_fn(struct engine *en, unsigned device, uint64_t r, struct sim_access *a);
static action_fn *const actions[16] = {
	scribble,   scribble,   scribble,   scribble,   scribble,   scribble,
	frame_send, frame_send, frame_send, frame_send, disk_write, disk_write,
	disk_write, disk_read,  disk_flush, rest,
};

/* Interrupts that tell nothing new must leave no trace: a twin gets them all again. */
static void interrupts_take(struct engine *en)
{
	struct sim_guest *g = &en->guest;
	uint32_t vectors = atomic_exchange(&en->vectors, 0);
	for (unsigned device = 0; device < g->device_count && !g->failure; device++) {
		if (!(vectors >> (2 * device) & 3))
			continue;
		if (g->devices[device].kind == SIM_NET)
			frames_reap(en, device);
		else
			requests_reap(en, device);
	}
}

static bool run_begin(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	for (unsigned device = 0; device < g->device_count; device++)
		for (unsigned slot = 0; g->devices[device].kind == SIM_NET && slot < SIM_FRAMES;
		     slot++)
			frame_await(en, device, slot);
	g->step = 1;
	sim_write(a, PM1_ENABLE, 2, POWER_BUTTON);
	a->port = true;
	return true;
}

bool sim_run(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	if (g->step == 0)
		return run_begin(en, a);
	interrupts_take(en);
	if (g->failure)
		return true;
	if (atomic_load(&en->power)) {
		sim_go(g, SIM_POWER);
		return false;
	}
	if (g->kicks)
		return bell_ring(en, a);
	uint64_t r = sim_random(g);
	action_fn *action = actions[r >> 60];
	unsigned device = g->device_count ? (unsigned)(r >> 48) % g->device_count : 0;
	return action(en, device, r, a) || scribble(en, device, r, a);
}

/* Ask what the interrupt was; if it was the button, confirm it and turn off. */
bool sim_power(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	bool pressed = g->answer & POWER_BUTTON;
	unsigned step = g->step++;
	switch (step) {
	case 0:
		sim_read(a, PM1_STATUS, 2);
		break;
	case 1:
		sim_write(a, PM1_STATUS, 2, pressed ? POWER_BUTTON : 0);
		break;
	case 2:
		if (!pressed) {
			sim_go(g, SIM_RUN);
			g->step = 1;
			return false;
		}
		sim_write(a, PM1_CONTROL, 2, LAYOUT_S5_TYPE << 10 | SLEEP_ENABLE);
		break;
	default:
		g->step = 3; /* off */
		return true;
	}
	a->port = true;
	return true;
}

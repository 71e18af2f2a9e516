// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/sim.h"

static const char *const failures[SIM_FAILURES] = {
	[SIM_BAD_SETUP] = "a device did not answer as virtio demands while it was set up",
	[SIM_BAD_RING] = "a used ring told of what was never offered",
	[SIM_BAD_STATUS] = "a disk request ended with an error",
	[SIM_BAD_BLOCK] = "a block read back differs from what was written",
};

uint64_t sim_flushed(const struct sim_guest *g)
{
	uint64_t least = UINT64_MAX;
	for (unsigned i = 0; i < g->device_count; i++)
		if (g->devices[i].kind == SIM_BLK && g->devices[i].flushed < least)
			least = g->devices[i].flushed;
	return least == UINT64_MAX ? 0 : least;
}

static struct engine *engine_of(struct vm *vm)
{
	return vm->engine_ops == &engine_sim ? vm->engine : NULL;
}

int vm_sim_report(struct vm *vm, struct sim_report *out)
{
	struct engine *en = engine_of(vm);
	if (!en)
		return -EOPNOTSUPP;
	const struct sim_guest *g = &en->guest;
	*out = (struct sim_report){
		.seed = g->seed,
		.steps = g->steps,
		.sent = g->sent,
		.received = g->received,
		.written = g->disk_sequence,
		.flushed = sim_flushed(g),
		.hash = g->hash,
		.running = g->stage == SIM_RUN && g->step,
	};
	return 0;
}

static uint64_t ram_sum(const struct engine *en)
{
	uint64_t first = SIM_SCRIBBLE_PAGE * VM_PAGE_SIZE;
	uint64_t end = first + sim_scribble_pages(en) * VM_PAGE_SIZE, sum = 0;
	for (uint64_t gpa = first; gpa < end; gpa += 8) {
		uint64_t word;
		sim_load(en, gpa, &word, sizeof(word));
		sum += sim_word_sum(gpa, word);
	}
	return sum;
}

int vm_sim_check(struct vm *vm, struct error *e)
{
	struct engine *en = engine_of(vm);
	if (!en)
		return -EOPNOTSUPP;
	const struct sim_guest *g = &en->guest;
	if (g->failure)
		return error_set(e, -EBADMSG, "the guest saw that %s (step %llu)",
				 failures[g->failure], (unsigned long long)g->steps);
	if (ram_sum(en) != g->ram_sum)
		return error_set(e, -EBADMSG,
				 "RAM is not what the guest wrote (step %llu): it is of no one "
				 "moment of its life",
				 (unsigned long long)g->steps);
	return 0;
}

/* The n-th disk in the order of the scan, which is that of the configuration. */
static int disk_device(const struct sim_guest *g, unsigned disk)
{
	for (unsigned i = 0; i < g->device_count; i++)
		if (g->devices[i].kind == SIM_BLK && !disk--)
			return (int)i;
	return -1;
}

static bool block_is(const struct sim_guest *g, unsigned device, unsigned block, uint64_t sequence,
		     const uint8_t *bytes)
{
	uint8_t want[SIM_BLOCK_SIZE];
	sim_block_fill(g, device, block, sequence, want);
	return !memcmp(bytes, want, sizeof(want));
}

static bool block_in_flight(const struct sim_guest *g, unsigned device, unsigned block,
			    const uint8_t *bytes)
{
	const struct sim_device *d = &g->devices[device];
	for (unsigned i = 0; i < SIM_REQUESTS; i++) {
		const struct sim_request *r = &d->requests[i];
		if (r->op == SIM_DISK_WRITE && r->block == block &&
		    block_is(g, device, block, r->sequence, bytes))
			return true;
	}
	return false;
}

int vm_sim_check_disk(struct vm *vm, unsigned disk, const void *bytes, uint64_t size,
		      struct error *e)
{
	struct engine *en = engine_of(vm);
	if (!en)
		return -EOPNOTSUPP;
	const struct sim_guest *g = &en->guest;
	int device = disk_device(g, disk);
	unsigned blocks = device < 0 ? 0 : sim_blocks(&g->devices[device]);
	for (unsigned block = 0; block < blocks; block++) {
		const uint8_t *at = (const uint8_t *)bytes + block * SIM_BLOCK_SIZE;
		uint64_t sequence, found;
		sim_load(en, sim_queue_page((unsigned)device, 0) + SIM_AT_TABLE + 8ull * block,
			 &sequence, sizeof(sequence));
		if ((block + 1ull) * SIM_BLOCK_SIZE > size)
			return error_set(e, -EINVAL, "disk %u is smaller than it was", disk);
		if (!sequence || block_is(g, (unsigned)device, block, sequence, at) ||
		    block_in_flight(g, (unsigned)device, block, at))
			continue;
		memcpy(&found, at + 8, sizeof(found));
		return error_set(e, -EBADMSG,
				 "block %u of disk %u holds write %llu, the guest's last was %llu",
				 block, disk, (unsigned long long)found,
				 (unsigned long long)sequence);
	}
	return 0;
}

bool sim_frame_parse(const void *frame, size_t len, struct sim_frame *out)
{
	const uint8_t *p = frame;
	uint64_t words[5];
	if (len < 14 + sizeof(words) || p[12] != SIM_ETHERTYPE >> 8 ||
	    p[13] != (SIM_ETHERTYPE & 0xff))
		return false;
	memcpy(words, p + 14, sizeof(words));
	if (words[4] != sim_hash_bytes(words, 32))
		return false;
	*out = (struct sim_frame){words[0], words[1], words[2], words[3]};
	return true;
}

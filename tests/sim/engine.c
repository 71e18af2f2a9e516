// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"
#include "tests/sim/sim.h"

/* A guest that is a real vm: its RAM, its machine state, its virtio disk and NIC are the
 * hypervisor's; only the CPU is a seed. */

#define RAM_PAGES  64
#define DISK_PAGES (PAGES_MAX - RAM_PAGES)
#define DISK_BYTES (DISK_PAGES * VM_PAGE_SIZE)
#define STEPS      48

struct engine_guest {
	struct engine_guest *next; /* of this world */
	struct vm *vm;
	struct loop *io;
	struct net_backend *net;
	struct disk_backend *disk;
	uint8_t bytes[DISK_BYTES], clean[DISK_BYTES]; /* clean: as last harvested */
	uint64_t frames[FRAMES_A_STEP];
	unsigned frame_count;
	bool watched;
};

static int frame_sent(void *ctx, const void *frame, size_t len)
{
	struct engine_guest *e = ctx;
	struct sim_frame f;

	if (!sim_frame_parse(frame, len, &f))
		return 0;
	if (e->frame_count == FRAMES_A_STEP)
		return -EAGAIN;
	e->frames[e->frame_count++] = f.hash | 1;
	return 0;
}

static void vm_told(void *ctx, enum vm_event event, const char *detail)
{
}

static int parts_open(struct engine_guest *e)
{
	int rc = loop_create(&e->io);

	if (rc)
		return rc;
	rc = net_memory_create(frame_sent, e, &e->net);
	if (rc)
		return rc;
	return disk_memory_create(e->bytes, DISK_BYTES, &e->disk);
}

struct engine_guest *engine_open(struct world *w)
{
	struct engine_guest *e = calloc(1, sizeof(*e));
	struct vm_config c = {.name = "sim",
			      .memory = RAM_PAGES * VM_PAGE_SIZE,
			      .vcpus = 1,
			      .engine = "sim",
			      .disk_count = 1,
			      .nic_count = 1,
			      .seed = w->seed};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = vm_told};

	if (!e || parts_open(e))
		abort();
	c.nics[0].mac[0] = 2;
	parts.io = e->io;
	parts.nets[0] = e->net;
	parts.disks[0] = e->disk;
	parts.ctx = e;
	e->next = w->engines;
	w->engines = e;
	if (vm_create(&c, &parts, &e->vm, NULL))
		abort();
	return e;
}

bool engine_boot(struct engine_guest *e)
{
	return vm_boot(e->vm, NULL) == 0 && vm_start(e->vm, NULL) == 0;
}

/* The guest itself knows what its RAM and its disk must be. */
bool engine_wake(struct world *w, struct engine_guest *e, struct blob machine)
{
	struct error error = {0};
	bool well = vm_state_load(e->vm, machine.data, machine.len, &error) == 0 &&
		    vm_sim_check(e->vm, &error) == 0 &&
		    vm_sim_check_disk(e->vm, 0, e->bytes, DISK_BYTES, &error) == 0 &&
		    vm_start(e->vm, &error) == 0;

	if (!well)
		trace(w, -1, "the vm says: %s", error.text);
	return well;
}

static void disk_completes(struct world *w, struct engine_guest *e)
{
	unsigned waiting = disk_memory_waiting(e->disk);

	if (waiting && chance_percent(w, 30))
		(void)!disk_memory_complete(e->disk, (unsigned)chance_below(w, waiting));
}

unsigned engine_step(struct world *w, struct engine_guest *e)
{
	uint8_t inbound[60] = {2};

	e->frame_count = 0;
	for (unsigned i = 0; i < STEPS && e->frame_count + 2 < FRAMES_A_STEP; i++) {
		if (vm_step(e->vm, 1))
			violate(w, V_CORE, "the vm does not step");
		disk_completes(w, e);
	}
	if (chance_percent(w, 20))
		(void)!net_memory_deliver(e->net, inbound, sizeof(inbound));
	return e->frame_count;
}

uint64_t engine_frame(const struct engine_guest *e, unsigned nth)
{
	return e->frames[nth];
}

void engine_watch(struct engine_guest *e)
{
	if (!e->watched && vm_log_dirty(e->vm, true))
		abort();
	e->watched = true;
}

static void disk_harvest(struct engine_guest *e, struct page_set *out)
{
	for (unsigned i = 0; i < DISK_PAGES; i++)
		if (memcmp(e->bytes + i * VM_PAGE_SIZE, e->clean + i * VM_PAGE_SIZE, VM_PAGE_SIZE))
			bitmap_set(out->bits, RAM_PAGES + i);
	memcpy(e->clean, e->bytes, DISK_BYTES);
}

void engine_harvest(struct engine_guest *e, struct page_set *out)
{
	if (vm_pause(e->vm) || vm_dirty_harvest(e->vm, out->bits) || vm_resume(e->vm))
		abort();
	disk_harvest(e, out);
}

uint8_t *engine_page(struct engine_guest *e, unsigned page, size_t *len)
{
	*len = VM_PAGE_SIZE;
	if (page < RAM_PAGES)
		return vm_ram(e->vm) + page * VM_PAGE_SIZE;
	return e->bytes + (page - RAM_PAGES) * VM_PAGE_SIZE;
}

struct blob engine_machine(struct world *w, struct engine_guest *e)
{
	struct buf state = {0};
	struct blob kept;
	uint8_t *copy;

	if (vm_pause(e->vm) || vm_state_save(e->vm, &state, NULL) || vm_resume(e->vm))
		abort();
	copy = keep(w, state.len);
	memcpy(copy, state.data, state.len);
	kept = (struct blob){copy, state.len};
	buf_free(&state);
	return kept;
}

void engine_close_all(struct world *w)
{
	for (struct engine_guest *e = w->engines, *next; e; e = next) {
		next = e->next;
		vm_destroy(e->vm);
		e->net->ops->destroy(e->net);
		e->disk->ops->destroy(e->disk);
		loop_destroy(e->io);
		free(e);
	}
	w->engines = NULL;
}

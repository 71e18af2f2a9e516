// SPDX-License-Identifier: Apache-2.0
/* The state decoder, of every device and of engine sim: what is accepted is also
 * loaded and run for a while. Seeds are made here, not kept in files that would grow
 * old: states of a machine at random steps. */
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t room);

#define MEMORY    (UINT64_C(256) << 10)
#define DISK_SIZE (UINT64_C(32) << 10)

static uint8_t bytes[DISK_SIZE];

struct host {
	struct loop *io;
	struct net_backend *net;
	struct disk_backend *disk;
	struct vm *vm;
};

static void host_make(struct host *h)
{
	struct vm_config c = {
		.name = "fuzz",
		.memory = MEMORY,
		.vcpus = 1,
		.engine = "sim",
		.disk_count = 1,
		.nic_count = 1,
		.seed = 1,
	};
	struct error e = {0};
	if (loop_create(&h->io) || net_memory_create(NULL, NULL, &h->net) ||
	    disk_memory_create(bytes, DISK_SIZE, &h->disk))
		abort();
	struct vm_parts parts = {.io = h->io,
				 .nets = {h->net},
				 .disks = {h->disk},
				 .console_in = -1,
				 .console_out = -1};
	if (vm_create(&c, &parts, &h->vm, &e))
		abort();
}

static void host_run(struct host *h, unsigned steps)
{
	for (unsigned i = 0; i < steps; i++) {
		if (vm_step(h->vm, 1))
			return;
		if (i % 3 == 0)
			(void)!disk_memory_complete(h->disk, 0);
	}
}

static void host_end(struct host *h)
{
	vm_destroy(h->vm);
	h->net->ops->destroy(h->net);
	h->disk->ops->destroy(h->disk);
	loop_destroy(h->io);
}

static size_t state_make(uint8_t *data, size_t room, unsigned steps)
{
	struct host h;
	struct buf state = {0};
	struct error e = {0};
	host_make(&h);
	if (vm_boot(h.vm, &e) || vm_start(h.vm, &e))
		abort();
	host_run(&h, steps);
	if (vm_state_save(h.vm, &state, &e))
		abort();
	size_t n = state.len < room ? state.len : room;
	memcpy(data, state.data, n);
	buf_free(&state);
	host_end(&h);
	return n;
}

/* Now and then a good state anew; the header's total follows the size, mostly. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed)
{
	if (n < 16 || seed % 64 == 0)
		n = state_make(data, room, seed / 64 % 2000);
	n = LLVMFuzzerMutate(data, n, room);
	if (n >= 16 && seed % 8)
		memcpy(data + 12, &(uint32_t){(uint32_t)n}, 4);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct host h;
	struct error e = {0};
	host_make(&h);
	int rc = vm_state_check(h.vm, data, n, &e);
	if (rc && !e.text[0])
		abort(); /* a refusal without a reason */
	if (!rc && vm_state_load(h.vm, data, n, &e))
		abort(); /* what was checked must load */
	if (!rc && !vm_start(h.vm, &e))
		host_run(&h, 300);
	host_end(&h);
	return 0;
}

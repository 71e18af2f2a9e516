// SPDX-License-Identifier: Apache-2.0
/* Ports and device memory. Nothing is locked here while the machine's devices are asked:
 * they take the device lock, which comes before the chips' lock. */
#include <unistd.h>

#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/machine.h"

#define MMIO_MOST 8u /* octets of one access */

void soft_port(struct soft_cpu *cpu, uint16_t port, void *data, unsigned size, bool write)
{
	struct engine *en = cpu->engine;
	bool ours;

	soft_chips_enter(en);
	ours = soft_chips_port(en->chips, soft_now(en), port, data, size, write);
	soft_chips_leave(en);
	if (!ours)
		en->params.access(en->params.device_ctx, EXIT_PIO, port, data, size, write);
}

/* True: a doorbell took it. */
static bool bell_ring(struct engine *en, uint64_t gpa, unsigned size)
{
	uint64_t one = 1;
	bool found = false;

	pthread_mutex_lock(&en->bells_lock);
	for (unsigned i = 0; i < en->bell_count && !found; i++) {
		const struct soft_bell *b = &en->bells[i];

		found = b->address == gpa && b->size == size;
		/* A full counter says the same as one more. */
		if (found && write(b->fd, &one, sizeof(one)) < 0)
			break;
	}
	pthread_mutex_unlock(&en->bells_lock);
	return found;
}

static void mmio(struct soft_cpu *cpu, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct engine *en = cpu->engine;
	bool ours;

	soft_chips_enter(en);
	ours = soft_chips_mmio(en->chips, soft_now(en), cpu->index, gpa, data, size, write);
	soft_chips_leave(en);
	if (!ours && !(write && bell_ring(en, gpa, size)))
		en->params.access(en->params.device_ctx, EXIT_MMIO, gpa, data, size, write);
}

/* Longer ones (SSE, FXSAVE) reach devices as KVM splits them. */
void soft_mmio(struct soft_cpu *cpu, uint64_t gpa, void *data, unsigned size, bool write)
{
	for (unsigned at = 0; at < size; at += MMIO_MOST)
		mmio(cpu, gpa + at, (uint8_t *)data + at,
		     size - at < MMIO_MOST ? size - at : MMIO_MOST, write);
}

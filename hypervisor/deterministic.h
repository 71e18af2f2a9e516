// SPDX-License-Identifier: Apache-2.0
/*
 * A run that can be repeated (docs/determinism.md). The engine executes all vCPUs on one
 * thread and counts instructions; time follows from the count. Whatever comes from outside
 * is handed in between two turns of the vCPUs, at a number of turns that is recorded, and
 * what devices do they do on the vCPUs' thread. Private to hypervisor/.
 *
 * A turn ends where a vCPU's slice ends, or it halts: at the same instruction in each run.
 */
#ifndef POLLUX_HYPERVISOR_DETERMINISTIC_H
#define POLLUX_HYPERVISOR_DETERMINISTIC_H

#include "hypervisor/machine.h"

/* 2026-01-01 00:00:00 UTC: when each deterministic machine is turned on. */
#define DETERMINISTIC_WALL_NS (UINT64_C(1767225600) * NS_PER_SEC)

struct deterministic;

/* Where the guest is. */
struct deterministic_at {
	uint64_t instructions; /* of all vCPUs */
	uint64_t now;          /* ns since it was turned on */
};

/* ---- for vm.c and run.c ------------------------------------------------------------ */

int deterministic_create(struct vm *vm, const struct vm_deterministic *c,
			 struct error *e) MUST_CHECK;
/* The vCPUs have stopped; devices are still there. The guest's own end, or ours. A text if
 * it is not the end that was recorded. */
const char *deterministic_end(struct vm *vm);
void deterministic_destroy(struct vm *vm);
/* On the vCPU's thread, after a device was asked, without the device lock: what that has
 * begun is done when this returns. */
void deterministic_settle(struct vm *vm);

/* ---- for the engine, on its thread, nothing locked --------------------------------- */

/* The clock of the devices. */
void deterministic_clock(struct deterministic *d, uint64_t (*now)(const struct engine *en),
			 const struct engine *en);
/* From the seed; the same sequence in each run. */
uint64_t deterministic_draw(struct deterministic *d);
/* Before the first instruction, and when the count that this has returned is reached. */
uint64_t deterministic_epoch(struct deterministic *d, struct deterministic_at at);
/* Between two turns: takes in what has come. */
void deterministic_turn(struct deterministic *d, struct deterministic_at at);
/* No vCPU can go on before `deadline` (UINT64_MAX: never). Returns when time may go on
 * from; *kicked: it may not, deterministic_wake() was called. */
uint64_t deterministic_idle(struct deterministic *d, struct deterministic_at at, uint64_t deadline,
			    bool *kicked);
/* Any thread. */
void deterministic_wake(struct deterministic *d);
/* NULL, or why it cannot go on. */
const char *deterministic_failure(struct deterministic *d);

/* ---- for devices --------------------------------------------------------------------- */

/* Takes `n` bytes, less or none: it is asked again between later turns. */
typedef size_t deterministic_input_fn(void *ctx, const uint8_t *data, size_t n);
/* The order of these calls is the number of the source in a recording. */
int deterministic_source(struct vm *vm, deterministic_input_fn *input, void *ctx,
			 unsigned *source) MUST_CHECK;
/* Is there anything to be had from outside at all? Else nobody needs to listen. */
bool deterministic_listens(const struct vm *vm);
/* How much of what need not come at once may come now. */
size_t deterministic_room(struct vm *vm, unsigned source);
/* The loop's thread: something has come. -EAGAIN: there is too much already. */
int deterministic_post(struct vm *vm, unsigned source, const void *data, size_t n) MUST_CHECK;
/* Device lock held: call fn(ctx) before the guest goes on, with the device lock. */
void deterministic_later(struct vm *vm, loop_fn *fn, void *ctx);
/* The control thread. True: the button is an input, and will be pressed by and by. */
bool deterministic_button(struct vm *vm);
/* acpi_pm.c: device lock not held. */
void acpi_button_press(struct vm *vm);
/* In a machine that is not deterministic: the host's. */
size_t vm_random(struct vm *vm, void *out, size_t n); /* how many there were */
int64_t vm_wall_seconds(struct vm *vm);

/* ---- deterministic_hash.c ---------------------------------------------------------------- */

/* Of all memory, vCPUs, chips and devices. They stand still; device lock not held. */
int machine_hash(struct vm *vm, uint64_t *out) MUST_CHECK;
uint64_t hash_bytes(uint64_t seed, const void *data, size_t n);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The engine without a CPU: one fake guest, a state machine that makes one device
 * access or one change of memory a step. engine_sim.c is the engine, sim_setup.c the
 * guest's boot (PCI scan, virtio set-up), sim_run.c its life, sim_state.c the
 * section STATE_SIM, sim_report.c what tests may ask. Private to hypervisor/.
 *
 * RAM, by pages:  0  unused;  1 + 2d + q  rings and buffers of queue q of device d;
 *                 SIM_SCRIBBLE_PAGE to the end  words at random, never 0.
 * A ring page:    0x000 descriptors  0x100 available  0x180 used
 *   of a disk:    0x300 sequence number of the last write completed, by block;
 *                 0x500 four requests: header, data, status;  of a NIC: 0x800 eight frames
 */
#ifndef POLLUX_HYPERVISOR_SIM_H
#define POLLUX_HYPERVISOR_SIM_H

#include <stdatomic.h>

#include "hypervisor/engine.h"

#define SIM_QUEUE_SIZE    16u
#define SIM_DEVICES_MAX   (VM_NICS_MAX + VM_DISKS_MAX)
#define SIM_SCRIBBLE_PAGE (1 + 2 * SIM_DEVICES_MAX)
#define SIM_MEMORY_LEAST  (UINT64_C(256) << 10)

#define SIM_AT_AVAIL      0x100u
#define SIM_AT_USED       0x180u
#define SIM_AT_TABLE      0x300u
#define SIM_AT_REQUESTS   0x500u
#define SIM_REQUEST_SIZE  0x280u
#define SIM_REQUESTS      4u
#define SIM_AT_FRAMES     0x800u
#define SIM_FRAME_ROOM    0x100u
#define SIM_FRAMES        8u
#define SIM_NET_HEADER    12u
#define SIM_BLOCK_SIZE    512u
#define SIM_BLOCKS        64u

enum sim_kind { SIM_NET = 1, SIM_BLK = 2 }; /* virtio device ids */
enum sim_net_queue { SIM_RX, SIM_TX };
enum sim_disk_op { SIM_DISK_IDLE, SIM_DISK_READ, SIM_DISK_WRITE, SIM_DISK_FLUSH, SIM_DISK_OPS };

struct sim_request {
	uint8_t op, block;
	uint64_t sequence; /* of a write; of a flush: the last write that it covers */
};

struct sim_queue {
	uint16_t notify;      /* queue_notify_off */
	uint16_t avail, used; /* next to fill; next to look at */
	uint16_t busy;        /* one bit a frame or request that the device has */
};

struct sim_device {
	uint8_t slot, kind, msix_cap;
	uint8_t mac[6];
	uint32_t features, notify_multiplier;
	uint64_t bars[6];
	uint64_t common, notify, config, msix; /* guest physical once the BARs are known */
	uint64_t capacity;                     /* sectors */
	uint64_t flushed;
	struct sim_queue queues[2];
	struct sim_request requests[SIM_REQUESTS];
};

enum sim_stage { SIM_SCAN, SIM_CAPABILITIES, SIM_BARS, SIM_SETUP, SIM_RUN, SIM_POWER, SIM_STAGES };

enum sim_failure {
	SIM_WELL,
	SIM_BAD_SETUP,
	SIM_BAD_RING,
	SIM_BAD_STATUS,
	SIM_BAD_BLOCK,
	SIM_FAILURES,
};

/* All that the guest knows beside RAM. */
struct sim_guest {
	uint64_t seed, random, steps, hash;
	uint64_t sent, received, disk_sequence;
	uint64_t ram_sum; /* of all scribbled words */
	uint64_t answer;  /* of the last read */
	uint32_t vectors; /* pending interrupts, one bit a queue */
	uint32_t kicks;   /* doorbells to ring, likewise */
	uint8_t power;    /* the power button's interrupt is high */
	uint8_t failure;
	uint8_t stage, step, slot, device, queue, capability, word;
	uint8_t device_count;
	uint32_t words[5];
	struct sim_device devices[SIM_DEVICES_MAX];
};

struct sim_access {
	bool some; /* false: this step made no access */
	bool write, port;
	uint64_t address;
	unsigned size;
	uint64_t value;
};

struct engine {
	struct sim_guest guest;
	struct memory *memory;
	uint64_t seed;
	uint64_t *dirty; /* written by the guest itself */
	bool logging;
	bool used; /* a guest has lived in this memory */
	/* Set by devices on any thread, taken over by the guest at its next step. */
	_Atomic uint32_t vectors;
	_Atomic bool power, kicked;
};

/* ---- one step ------------------------------------------------------------ */

/* A stage makes an access and returns true, or moves on to another stage or step and
 * returns false, to be called again. */
typedef bool sim_stage_fn(struct engine *en, struct sim_access *a);
sim_stage_fn sim_scan, sim_capabilities, sim_bars, sim_setup, sim_run, sim_power;
void sim_step(struct engine *en, struct sim_access *a);
void sim_fail(struct sim_guest *g, enum sim_failure why);

static inline void sim_go(struct sim_guest *g, enum sim_stage stage)
{
	g->stage = stage;
	g->step = 0;
}
static inline bool sim_read(struct sim_access *a, uint64_t address, unsigned size)
{
	*a = (struct sim_access){.some = true, .address = address, .size = size};
	return true;
}
static inline bool sim_write(struct sim_access *a, uint64_t address, unsigned size, uint64_t value)
{
	*a = (struct sim_access){
		.some = true, .write = true, .address = address, .size = size, .value = value};
	return true;
}

/* ---- guest memory and arithmetic -------------------------------------------- */

/* Guest physical address of a ring page; always RAM. */
static inline uint64_t sim_queue_page(unsigned device, unsigned queue)
{
	return (1 + 2 * (uint64_t)device + queue) * VM_PAGE_SIZE;
}
void sim_store(struct engine *en, uint64_t gpa, const void *data, size_t len);
void sim_load(const struct engine *en, uint64_t gpa, void *out, size_t len);

static inline uint64_t sim_mix(uint64_t v)
{
	v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
	return v ^ (v >> 31);
}
uint64_t sim_random(struct sim_guest *g);
void sim_fold(struct sim_guest *g, uint64_t v);
uint64_t sim_hash_bytes(const void *data, size_t len);
/* What a word of RAM adds to ram_sum; 0 for 0. */
static inline uint64_t sim_word_sum(uint64_t gpa, uint64_t word)
{
	return word ? sim_mix(gpa ^ sim_mix(word)) : 0;
}
/* Pages that the guest scribbles in; they end below the PCI hole. */
uint64_t sim_scribble_pages(const struct engine *en);
uint64_t sim_flushed(const struct sim_guest *g);

/* The bytes of a block after the write of that sequence number. */
void sim_block_fill(const struct sim_guest *g, unsigned device, unsigned block, uint64_t sequence,
		    uint8_t out[SIM_BLOCK_SIZE]);
/* Blocks of a disk that the guest uses. */
unsigned sim_blocks(const struct sim_device *d);

/* ---- STATE_SIM -------------------------------------------------------------- */

void sim_state_put(const struct sim_guest *g, struct buf *out);
/* Changes `out` only when all is right. */
int sim_state_get(const struct state_section *s, struct sim_guest *out, struct error *e) MUST_CHECK;

#endif

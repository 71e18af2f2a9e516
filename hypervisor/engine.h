// SPDX-License-Identifier: Apache-2.0
/*
 * An engine runs vCPUs and emulates what sits beside them (LAPIC, IOAPIC, PIC,
 * PIT, clock). One table of operations each; every operation is mandatory.
 * Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_ENGINE_H
#define POLLUX_HYPERVISOR_ENGINE_H

#include "hypervisor/hypervisor.h"
#include "hypervisor/memory.h"
#include "hypervisor/state.h"

struct engine;
struct deterministic;

enum exit_kind {
	EXIT_INTERRUPTED, /* kicked, or a signal: look for requests, run again. No
			     half-done instruction: an answered read has been finished */
	EXIT_PIO,
	EXIT_MMIO,
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_FAILED,   /* the engine cannot go on; detail says why */
};

/* `data` points into the engine; a read is answered by filling it before the next run. */
struct vcpu_exit {
	enum exit_kind kind;
	bool write;
	uint64_t address; /* port, or guest physical address */
	unsigned size;    /* bytes of one access */
	unsigned count;   /* PIO string instructions: accesses in a row; else 1 */
	uint8_t *data;
	char detail[160];
};

/* How a vCPU enters the kernel. Other vCPUs wait for INIT/SIPI.
 * BOOT_LINUX64: long mode, paging on, CS = CODE64. BOOT_PVH: 32-bit protected mode,
 * paging off, CS = CODE32. DS, ES, SS = DATA (flat) in both; interrupts off. */
enum boot_protocol { BOOT_LINUX64, BOOT_PVH };
enum boot_selector {
	BOOT_SELECTOR_CODE64 = 0x10,
	BOOT_SELECTOR_DATA = 0x18,
	BOOT_SELECTOR_CODE32 = 0x20,
	BOOT_SELECTOR_TSS = 0x28,
};
struct boot_entry {
	enum boot_protocol protocol;
	uint64_t rip;
	uint64_t info;       /* BOOT_LINUX64: zero page (RSI); BOOT_PVH: hvm_start_info (RBX) */
	uint64_t page_table; /* BOOT_LINUX64: CR3, identity-mapped */
	uint64_t gdt;        /* guest physical address of the boot GDT */
	uint16_t gdt_limit;
	uint64_t stack;
};

/* What the guest's CPU is: the host's; or a fixed one, the same under each engine. */
enum cpu_kind { CPU_ANY /* the engine's own choice */, CPU_HOST, CPU_BASE };

struct engine_params {
	unsigned vcpus;
	enum cpu_kind cpu;
	struct memory *memory;
	uint64_t seed;                       /* sim */
	struct deterministic *deterministic; /* soft: run so (deterministic.h); NULL: not */
	void *device_ctx;                    /* the struct vm */
	/* For engines that ask devices in the middle of an instruction, instead of an exit:
	 * EXIT_PIO or EXIT_MMIO. Takes the device lock. On a vCPU's thread. */
	void (*access)(void *device_ctx, enum exit_kind kind, uint64_t address, uint8_t *data,
		       unsigned size, bool write);
};

struct engine_ops {
	const char *name;
	/* sim: driven by vm_step(), needs no vCPU threads; boot_load() loads nothing
	 * and vcpu_boot() gets an entry of zeros. */
	bool stepped;
	void (*probe)(struct engine_report *out);
	int (*create)(const struct engine_params *p, struct engine **out, struct error *e);
	void (*destroy)(struct engine *en);

	int (*vcpu_boot)(struct engine *en, const struct boot_entry *entry,
			 struct error *e); /* vCPU 0 */
	/* All vCPUs and chips to the state that create() left; all vCPUs stand still. */
	int (*vcpus_reset)(struct engine *en, struct error *e);
	/* Run on the vCPU's own thread until something needs the machine. A stepped
	 * engine makes one step of its fake guest. */
	void (*vcpu_run)(struct engine *en, unsigned vcpu, struct vcpu_exit *exit);
	/* Any thread: make vcpu_run() return EXIT_INTERRUPTED, now or at its next call
	 * (after the exits that finish a half-done instruction). */
	void (*vcpu_kick)(struct engine *en, unsigned vcpu);
	/* Sections of vCPUs, chips and clock: ids from STATE_VCPU to below STATE_SERIAL.
	 * All vCPUs stand still. The check changes nothing, looks at every section of
	 * that range and refuses the mandatory ones that it does not know; the load is
	 * only called with a state that passed the check. */
	int (*state_save)(struct engine *en, struct buf *out, struct error *e);
	int (*state_check)(struct engine *en, const struct state_view *state, struct error *e);
	int (*state_load)(struct engine *en, const struct state_view *state, struct error *e);
	/* See vm_cpu_own(). */
	unsigned (*cpu_own)(const struct engine *en, struct vm_cpu_leaf *out, unsigned most);
	/* See vm_cpu_limits_own(): on any thread, also while vCPUs run. */
	void (*cpu_limits)(const struct engine *en, struct vm_cpu_limits *out);
	/* A long one, before this vCPU runs again: KVM_KVMCLOCK_CTRL and the like. On its thread.
	 */
	int (*vcpu_after_pause)(struct engine *en, unsigned vcpu);

	int (*irq_line)(struct engine *en, unsigned gsi, bool level);
	int (*msi)(struct engine *en, uint64_t address, uint32_t data);
	/* A write of `size` bytes at guest physical `address` signals `event_fd`
	 * instead of leaving vcpu_run(). -EOPNOTSUPP: the write arrives as EXIT_MMIO. */
	int (*doorbell)(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on);

	int (*log_dirty)(struct engine *en, bool on);
	int (*dirty_harvest)(struct engine *en, uint64_t *map); /* ORs in; RAM pages */
};

/* By name, or the best usable one for "auto"; NULL with the reason in `e`. */
const struct engine_ops *engine_find(const char *name, struct error *e);

extern const struct engine_ops engine_kvm;
extern const struct engine_ops engine_soft;
extern const struct engine_ops engine_sim;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of a vm: what engines, buses and devices share. Private to hypervisor/.
 *
 * The device lock (vm->lock) guards all device state. It is taken by a vCPU
 * thread that handles an exit, by the loop's thread in a device callback, and by
 * the pauser, who holds it from the end of vm_pause() to vm_resume().
 */
#ifndef POLLUX_HYPERVISOR_MACHINE_H
#define POLLUX_HYPERVISOR_MACHINE_H

#include "hypervisor/engine.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/memory.h"
#include "hypervisor/state.h"

/* ---- buses ----------------------------------------------------------- */

struct bus_ops {
	/* `at` is relative to the range, which holds the whole access of 1, 2, 4 or 8
	 * bytes; any other is split into octets by the bus. Device lock held. */
	void (*read)(void *dev, uint64_t at, void *data, unsigned size);
	void (*write)(void *dev, uint64_t at, const void *data, unsigned size);
};
struct bus_range {
	uint64_t base, size;
	const struct bus_ops *ops;
	void *dev;
};
#define BUS_RANGES_MAX 64
struct bus {
	struct bus_range ranges[BUS_RANGES_MAX]; /* smallest first */
	unsigned count;
};
/* A range may lie wholly inside another: the innermost that holds the access gets
 * it. -EEXIST when two are equal or cross. */
int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops,
	    void *dev) MUST_CHECK;
void bus_remove(struct bus *b, const void *dev, uint64_t base);
/* Nobody there: reads give all ones, writes vanish. */
void bus_access(struct bus *b, uint64_t address, uint8_t *data, unsigned size, bool write);

/* ---- devices --------------------------------------------------------- */

struct console;
struct device;
struct device_ops {
	const char *name;
	uint16_t section;
	uint16_t oldest, version; /* load reads these and all between; save writes the last */
	void (*reset)(struct device *d);
	int (*save)(struct device *d, struct buf *out); /* payload only */
	/* Check all of it, then act. `version` is what it was saved with, and says which fields
	 * there are. `check_only`: change nothing. */
	int (*load)(struct device *d, struct cursor in, uint16_t version, bool check_only,
		    struct error *e);
	void (*resume)(
		struct device *d); /* after load, before vCPUs run: signal queues and interrupts
				      again, submit again what was in flight. Device lock held */
	void (*destroy)(struct device *d);
};
struct device {
	const struct device_ops *ops;
	uint16_t instance;
	struct vm *vm;
};
#define DEVICES_MAX 40

extern const struct device_ops serial_device_ops, rtc_device_ops, acpi_device_ops, pci_device_ops,
	net_device_ops, blk_device_ops, rng_device_ops, console_device_ops;

struct vm {
	struct vm_config config;
	struct vm_parts parts;
	const struct engine_ops *engine_ops;
	struct engine *engine;
	struct memory memory;
	pthread_mutex_t lock;
	struct bus ports, mmio;
	struct device *devices[DEVICES_MAX]; /* save and load order */
	unsigned device_count;
	unsigned disk_requests;    /* submitted, done() not called yet; device lock */
	pthread_cond_t disks_idle; /* there is none any more */
	unsigned disks_claimed;    /* bit i: disk i, by vm_disks_claim() */
	struct pci_bus *pci;
	struct console *consoles[2];         /* serial's, virtio-console's; NULL: not made */
	struct run_state *run;               /* vCPU threads, pause state: run.c */
	struct throttle *throttle;           /* run_throttle.c */
	int uffd;                            /* of lazy.c; -1: not prepared */
	struct vm_lazy *lazy;                /* memory that is to come; NULL: there is none */
	atomic_bool logging;                 /* log-dirty is somebody's */
	struct deterministic *deterministic; /* NULL: it is not; deterministic.h */
	bool torn; /* a load ended halfway: nothing may run until another one succeeds */
	int (*load)(struct vm *vm, struct boot_entry *out, struct error *e);
};

/* What a vm is made of. vm_create() is machine_create() with all devices and
 * boot_load(); tests make smaller ones. */
struct machine_plan {
	const struct engine_ops *engine;
	int (*devices)(struct vm *vm, struct error *e);
	int (*load)(struct vm *vm, struct boot_entry *out, struct error *e);
};
int machine_create(const struct machine_plan *plan, const struct vm_config *c,
		   const struct vm_parts *parts, struct vm **out, struct error *e) MUST_CHECK;
/* All vCPUs parked, device lock not held: power-on state, boot data loaded again. */
int machine_reset(struct vm *vm, struct error *e) MUST_CHECK;

/* No transfer to guest memory is in flight when this returns. Device lock not held. */
void machine_drain(struct vm *vm);

/* run.c */
int run_create(struct vm *vm) MUST_CHECK;
void run_destroy(struct vm *vm); /* ends the threads */
bool run_is_started(const struct vm *vm);
bool run_is_paused(const struct vm *vm);
bool run_still_begin(struct vm *vm);
void run_still_end(struct vm *vm, bool needed);
/* The vCPUs will park for good. Any thread; waits for nothing. */
void run_stop(struct vm *vm);
void run_throttle(struct vm *vm, bool on); /* a request, until taken back */
/* engine_params.access */
void run_access(void *vm, enum exit_kind kind, uint64_t address, uint8_t *data, unsigned size,
		bool write);
void run_loaded(struct vm *vm); /* devices resume before vCPUs run again */

/* run_throttle.c */
int throttle_create(struct vm *vm) MUST_CHECK;
void throttle_destroy(struct vm *vm); /* ends its thread */

/* From here on the vm owns `d` and destroys it, in the reverse order of adding. */
int vm_device_add(struct vm *vm, struct device *d) MUST_CHECK;
/* Device lock held or not; engine calls are thread-safe. */
void vm_irq(struct vm *vm, unsigned gsi, bool level);
void vm_msi(struct vm *vm, uint64_t address, uint32_t data);
/* The guest asked for it (ACPI S5, reset register, keyboard controller). Called on a
 * vCPU thread with the device lock held; takes effect after the lock is dropped. */
void vm_request_poweroff(struct vm *vm);
void vm_request_reset(struct vm *vm);

/* Constructors: make the device, add it to buses and vm. Called by vm_create(). */
int serial_create(struct vm *vm, struct error *e) MUST_CHECK; /* 16550A at 0x3f8, GSI 4 */
int rtc_create(struct vm *vm, struct error *e) MUST_CHECK;    /* MC146818 at 0x70, UIP = 0 */
int acpi_create(struct vm *vm, struct error *e) MUST_CHECK; /* PM1, GPE-less, reset 0xcf9, GSI 9 */
int pci_create(struct vm *vm, struct error *e) MUST_CHECK; /* CF8/CFC and ECAM; 32 slots of bus 0 */
int virtio_net_create(struct vm *vm, unsigned index, struct error *e) MUST_CHECK;
int virtio_blk_create(struct vm *vm, unsigned index, struct error *e) MUST_CHECK;
int virtio_rng_create(struct vm *vm, struct error *e) MUST_CHECK;
int virtio_console_create(struct vm *vm, struct error *e) MUST_CHECK;

/* ---- physical layout (also in the ACPI tables) ------------------------- */
#define LAYOUT_PCI_MMIO_BASE UINT64_C(0xd0000000) /* BARs, up to... */
#define LAYOUT_PCI_MMIO_SIZE UINT64_C(0x10000000)
#define LAYOUT_ECAM_BASE     UINT64_C(0xe0000000) /* 1 MiB: bus 0 */
#define LAYOUT_ECAM_SIZE     UINT64_C(0x100000)
#define LAYOUT_IOAPIC        UINT64_C(0xfec00000)
#define LAYOUT_LAPIC         UINT64_C(0xfee00000)
#define LAYOUT_ACPI_TABLES   UINT64_C(0x000e0000) /* RSDP and tables, reserved in the E820 map */
#define LAYOUT_PM_BASE       0x600u               /* PM1a event 4 bytes, control 2 bytes */
#define LAYOUT_S5_TYPE       5u                   /* SLP_TYP of S5, also in \_S5 of the DSDT */
#define LAYOUT_RESET_PORT    0xcf9u               /* write 6 (bit 2 resets); pci.c owns 0xcf8.. */
#define LAYOUT_RESET_VALUE   0x06u
#define LAYOUT_SERIAL_GSI    4u
#define LAYOUT_ACPI_GSI      9u
#define LAYOUT_PCI_GSI_FIRST 16u /* INTA of slot n: GSI 16 + n % 4 */

/* ---- boot (boot.c, acpi_tables.c) -------------------------------------- */
/* Put kernel, initrd, command line, boot tables and ACPI tables into memory. */
int boot_load(struct vm *vm, struct boot_entry *out, struct error *e) MUST_CHECK;
/* RSDP, XSDT, FADT, FACS, DSDT, MADT, MCFG at LAYOUT_ACPI_TABLES; returns the RSDP address. */
int acpi_tables_write(struct vm *vm, uint64_t *rsdp, struct error *e) MUST_CHECK;

#endif

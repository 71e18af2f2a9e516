// SPDX-License-Identifier: Apache-2.0
/*
 * What the parts of engine soft know of each other: the engine, and one group of
 * functions a source file. Private to hypervisor/soft/ and hypervisor/engine_soft.c.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_MACHINE_H
#define POLLUX_HYPERVISOR_SOFT_MACHINE_H

#include "hypervisor/soft/soft.h"

struct soft_chips;
struct soft_code;

struct engine {
	struct engine_params params;
	struct memory *memory;
	struct soft_cpu *cpu[VM_VCPUS_MAX];
	unsigned vcpus;
	struct soft_code *code; /* block cache, code.c; the baton holder's */

	/* Bits a RAM page. `dirty` is set by the baton holder, before the write, and taken by
	 * a harvest, which holds the baton too. */
	uint64_t *dirty;

	pthread_mutex_t chips_lock; /* around every call of chips.h; a leaf */
	struct soft_chips *chips;
	atomic_ulong undefined; /* #UD raised */
};

/* ---- run.c ---------------------------------------------------------------------------- */

/* Executes until attention or cpu->limit; exceptions are delivered inside. */
void soft_run(struct soft_cpu *cpu);

/* ---- exception.c ------------------------------------------------------------------------ */

enum soft_event { EVENT_EXCEPTION, EVENT_SOFTWARE /* INT n, INT3, INTO */, EVENT_INTERRUPT };
/* Through the IDT of the mode the CPU is in; cpu->rip is what the frame will hold. May
 * raise (the run loop makes #DF of it). `error` counts only where `has_error`. */
void soft_deliver(struct soft_cpu *cpu, enum soft_event kind, unsigned vector, bool has_error,
		  uint32_t error);
/* The run loop after a longjmp: makes #DF or a shutdown of what came on top. False: shutdown. */
bool soft_exception_take(struct soft_cpu *cpu);

/* ---- segment.c: descriptors, far transfers ---------------------------------------------- */

/* mode, ss32, r[SOFT_BASE_*] and the TLB from segments, CPL, CR0, EFER. After any change. */
void soft_mode_update(struct soft_cpu *cpu);

/* ---- control.c: CRs, MSRs ---------------------------------------------------------------- */

void soft_cpu_reset(struct soft_cpu *cpu); /* power on */
void soft_cpu_init(struct soft_cpu *cpu); /* INIT: vCPU 0 starts at the reset vector, others wait */
void soft_cpu_sipi(struct soft_cpu *cpu, unsigned vector);
/* RFLAGS & mask := value & mask, status flags too; looks for interrupts at the block's end. */
void soft_flags_write(struct soft_cpu *cpu, uint32_t value, uint32_t mask);
/* 0, or -EINVAL: #GP. */
int soft_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
int soft_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);
int soft_cr_write(struct soft_cpu *cpu, unsigned cr, uint64_t value);

/* ---- cpuid.c: CPU model pollux-base -------------------------------------------------------- */

void soft_cpuid(const struct soft_cpu *cpu, uint32_t leaf, uint32_t index, uint32_t out[4]);

/* ---- clock.c: TSC and kvmclock ----------------------------------------------------------------
 */

uint64_t soft_tsc_read(struct soft_cpu *cpu);
void soft_tsc_write(struct soft_cpu *cpu, uint64_t value);
/* MSR_KVM_SYSTEM_TIME(_NEW), MSR_KVM_WALL_CLOCK(_NEW): -ENOENT: not one of them. */
int soft_clock_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
int soft_clock_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);

/* ---- access.c: devices
 * ---------------------------------------------------------------------------- */

/* Ports and device memory: the engine's own chips, doorbells, the machine's devices. */
void soft_port(struct soft_cpu *cpu, uint16_t port, void *data, unsigned size, bool write);
void soft_mmio(struct soft_cpu *cpu, uint64_t gpa, void *data, unsigned size, bool write);

/* ---- code.c: decoded blocks
 * ------------------------------------------------------------------------- */

int soft_code_create(struct engine *en, struct soft_code **out);
void soft_code_destroy(struct soft_code *code);
/* The operations for cpu->rip; r[SOFT_PAGE] is set. Decodes if need be; may raise. */
struct soft_op *soft_code_at(struct soft_cpu *cpu);
/* One instruction at cpu->rip, outside of the cache: single steps and the like. */
struct soft_op *soft_code_single(struct soft_cpu *cpu);
bool soft_code_in(const struct engine *en, const uint8_t *host);
/* A store to this RAM page is about to happen, or has happened. */
void soft_code_drop_page(struct engine *en, const uint8_t *host);
void soft_code_drop_all(struct engine *en);
/* access.c: devices tell when they write to this RAM page. */
void soft_code_watch(struct engine *en, const uint8_t *host, bool on);

#endif

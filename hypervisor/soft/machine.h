// SPDX-License-Identifier: Apache-2.0
/*
 * What the parts of engine soft know of each other: the engine, and one group of
 * functions a source file. Private to hypervisor/soft/ and hypervisor/engine_soft.c.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_MACHINE_H
#define POLLUX_HYPERVISOR_SOFT_MACHINE_H

#include "hypervisor/soft/cpuid.h"
#include "hypervisor/soft/soft.h"

struct soft_chips;
struct soft_code;

/* One vCPU executes at a time. Others that want to, wait their turn in order; a vCPU keeps
 * the baton for a slice. Whoever is urgent (a harvest) makes it look up at once. */
struct soft_baton {
	pthread_mutex_t lock;
	pthread_cond_t passed;
	uint64_t next, serving;  /* tickets */
	struct soft_cpu *holder; /* NULL: nobody, or no vCPU */
};

struct soft_clock {
	uint32_t tsc_khz;
	uint64_t wall;    /* MSR_KVM_WALL_CLOCK */
	int64_t kvmclock; /* the guest's paravirtual clock less soft_now() */
	uint64_t lead;    /* state_clock_lead() */
};

/* Deterministic runs. What is not locked is the first vCPU's thread's, or the pauser's. */
struct soft_turns {
	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t kick;
	bool kicked[VM_VCPUS_MAX];
	bool inside; /* `thread` is known */
	pthread_t thread;
	unsigned turn;                 /* whose it is */
	uint64_t slice_end, epoch_end; /* instructions of all vCPUs */
	uint64_t skipped;              /* ns in which nothing was executed */
	bool over;                     /* the turn is */
	bool taken;                    /* and what came since was taken in */
	bool leave;                    /* the guest has asked for what needs a stop */
};

struct soft_bell {
	uint64_t address;
	unsigned size;
	int fd;
};
#define SOFT_BELLS_MAX 64

struct engine {
	struct engine_params params;
	struct memory *memory;
	struct soft_cpu *cpu[VM_VCPUS_MAX];
	unsigned vcpus;
	struct soft_code *code; /* block cache, code.c; the baton holder's */
	struct soft_baton baton;
	struct soft_clock clock;
	struct soft_turns turns;

	/* The first vCPU's CPUID: pollux-base, or that of the state that was loaded. */
	struct cpuid_leaf leaves[CPUID_LEAVES_MAX];
	unsigned leaf_count;

	/* Bits a RAM page. `dirty` is set by the baton holder, before the write, and taken by
	 * a harvest, which holds the baton too. `stale`: code pages that devices wrote. */
	uint64_t *dirty;
	_Atomic uint64_t *stale;

	pthread_mutex_t chips_lock; /* around every call of chips.h; a leaf */
	struct soft_chips *chips;
	pthread_cond_t timer_moved; /* with chips_lock */
	uint64_t timer_at;          /* what the timer thread waits for */
	bool timer_quit, timer_runs;
	pthread_t timer;

	pthread_mutex_t bells_lock; /* a leaf */
	struct soft_bell bells[SOFT_BELLS_MAX];
	unsigned bell_count;

	atomic_ulong undefined;      /* #UD raised */
	uint32_t undefined_seen[32]; /* first octets of those that were logged */
	unsigned undefined_kinds;
};

/* ---- run.c ---------------------------------------------------------------------------- */

enum soft_stop {
	STOP_LOOK, /* attention, or cpu->limit is reached */
	STOP_IDLE, /* halted, or waits for SIPI */
	STOP_SHUTDOWN,
};
/* Exceptions and interrupts are delivered inside. The baton is held. */
enum soft_stop soft_run(struct soft_cpu *cpu);
/* Lets an INIT and a SIPI act that wait for it. The chips' lock is held. */
void soft_attend_init(struct soft_cpu *cpu);

/* ---- exception.c ------------------------------------------------------------------------ */

enum soft_event { EVENT_EXCEPTION, EVENT_SOFTWARE /* INT n, INT3, INTO */, EVENT_INTERRUPT };
/* Through the IDT of the mode the CPU is in; cpu->rip is what the frame will hold. May
 * raise (the run loop makes #DF of it). `error` counts only where `has_error`. */
void soft_deliver(struct soft_cpu *cpu, enum soft_event kind, unsigned vector, bool has_error,
		  uint32_t error);
/* The run loop after a longjmp: makes #DF or a shutdown of what came on top. False: shutdown. */
bool soft_exception_take(struct soft_cpu *cpu);

/* ---- debug.c: DR0-DR7 ------------------------------------------------------------------- */

/* Breakpoints are on: instructions must be executed one by one. */
bool soft_debug_armed(const struct soft_cpu *cpu);
/* Around one instruction: they raise #DB by an instruction breakpoint at cpu->rip, and by
 * data breakpoints and the single step (`trap`: TF was set before it). */
void soft_debug_before(struct soft_cpu *cpu);
void soft_debug_after(struct soft_cpu *cpu, bool trap);
/* The slow paths tell of accesses while armed. */
void soft_debug_data(struct soft_cpu *cpu, uint64_t va, size_t size, bool write);

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
uint64_t soft_cr_read(struct soft_cpu *cpu, unsigned cr);
int soft_cr_write(struct soft_cpu *cpu, unsigned cr, uint64_t value);

/* ---- boot.c, state.c: see struct engine_ops ------------------------------------------------ */

int soft_vcpu_boot(struct engine *en, const struct boot_entry *entry, struct error *e);
int soft_state_save(struct engine *en, struct buf *out, struct error *e);
int soft_state_check(struct engine *en, const struct state_view *state, struct error *e);
int soft_state_load(struct engine *en, const struct state_view *state, struct error *e);
/* The run loop, while cpu->loaded.first: what was left until guest memory is there. */
void soft_loaded_deliver(struct soft_cpu *cpu);

unsigned soft_cpu_own(const struct engine *en, struct vm_cpu_leaf *out, unsigned most);
void soft_cpu_limits(const struct engine *en, struct vm_cpu_limits *out);

/* ---- cpuid.c: CPU model pollux-base -------------------------------------------------------- */

void soft_cpuid(const struct soft_cpu *cpu, uint32_t leaf, uint32_t index, uint32_t out[4]);

/* ---- clock.c: TSC and kvmclock ----------------------------------------------------------------
 */

uint64_t soft_tsc_read(struct soft_cpu *cpu);
void soft_tsc_write(struct soft_cpu *cpu, uint64_t value);
/* When the TSC gets there, in soft_now() time; 0: it is past. */
uint64_t soft_tsc_when(const struct soft_cpu *cpu, uint64_t tsc);
/* The host's own TSC frequency, so that a state fits KVM there and on equal hosts; or
 * SOFT_TSC_KHZ, if nobody tells it. */
uint32_t soft_tsc_khz_host(void);
/* As at power on: all begin at 0. */
void soft_clock_reset(struct engine *en);
uint64_t soft_kvmclock_read(const struct engine *en);
/* Write the guest's clock pages again: the clock was set; or this vCPU's, which is told that it
 * was stopped. The baton is held. */
void soft_clock_publish(struct engine *en);
void soft_clock_stopped(struct soft_cpu *cpu);
/* MSR_KVM_SYSTEM_TIME(_NEW), MSR_KVM_WALL_CLOCK(_NEW): -ENOENT: not one of them. */
int soft_clock_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value);
int soft_clock_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value);

/* ---- baton.c --------------------------------------------------------------------------- */

int soft_baton_create(struct soft_baton *b) MUST_CHECK;
void soft_baton_destroy(struct soft_baton *b);
void soft_baton_take(struct soft_baton *b, struct soft_cpu *cpu); /* NULL: urgent */
void soft_baton_pass(struct soft_baton *b);
bool soft_baton_is_wanted(struct soft_baton *b);

/* ---- timer.c: chips and their time ------------------------------------------------------- */

int soft_timer_start(struct engine *en) MUST_CHECK;
void soft_timer_stop(struct engine *en);
/* Around every call of chips.h; the second one looks for a new deadline. */
void soft_chips_enter(struct engine *en);
void soft_chips_leave(struct engine *en);
/* Time of all the engine's clocks, ns. */
uint64_t soft_now(const struct engine *en);
uint64_t soft_wall_now(const struct engine *en); /* since 1970 */

/* ---- engine.c ------------------------------------------------------------------------------ */

void soft_exit_shutdown(const struct soft_cpu *cpu, struct vcpu_exit *exit);

/* ---- deterministic.c: turns, if params.deterministic is there ------------------------------ */

void soft_turns_create(struct engine *en);
void soft_turns_destroy(struct engine *en);
/* As engine_ops. */
void soft_turns_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit);
void soft_turns_kick(struct engine *en, unsigned vcpu);
/* The vCPU whose turn it is leaves at its block's end. On its thread. */
void soft_turns_look(struct engine *en);
uint64_t soft_virtual_now(const struct engine *en);

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
/* The same as soft_code_at(), by the jump cache. */
struct soft_op *soft_jump_find(struct soft_cpu *cpu);
bool soft_code_in(const struct engine *en, const uint8_t *host);
/* A store to this RAM page is about to happen, or has happened. */
void soft_code_drop_page(struct engine *en, const uint8_t *host);
void soft_code_drop_all(struct engine *en);
/* Of a device's writes: stale.c. Watch this RAM page; drop what has been written. */
void soft_code_watch(struct engine *en, const uint8_t *host, bool on);
void soft_code_drop_stale(struct engine *en);
void soft_stale_note(void *ctx, uint64_t page); /* any thread */

#endif

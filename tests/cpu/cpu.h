// SPDX-License-Identifier: Apache-2.0
/*
 * cpu-diff: instructions run on the processor of this machine and in engine soft, from
 * the same registers and memory, and what they leave is compared.
 *
 * Both sides see the same addresses: a few pages (the arena) and nothing else near
 * them. Code is followed by INT3 up to the end of its page, so that every case ends in
 * an exception: where it ends says how long the instruction was.
 */
#ifndef POLLUX_TESTS_CPU_H
#define POLLUX_TESTS_CPU_H

#include "hypervisor/soft/decode.h"

/* Linear addresses, of pages: read-write, read-write, read-only, none, stack, none. */
#define ARENA      UINT64_C(0x10000000)
#define STACK      (ARENA + 4 * VM_PAGE_SIZE)
#define CODE       (ARENA + UINT64_C(0x100000)) /* two pages, then none */
#define CODE_PAGES 2u
#define CODE_SIZE  (CODE_PAGES * (unsigned)VM_PAGE_SIZE)
#define CODE_MAX   96u

/* What can be written: two pages and the stack; the read-only page never changes. */
#define PAGES_WRITABLE 3u
struct cpu_memory {
	uint8_t page[PAGES_WRITABLE][VM_PAGE_SIZE];
};

struct cpu_registers {
	uint8_t fpu[512] __attribute__((aligned(16))); /* FXSAVE, as far as XMM15 */
	uint64_t r[16], rip, flags, fs, gs;
};
#define FPU_USED 416

struct cpu_case {
	uint64_t number;
	const struct form_group *group;
	enum soft_mode mode; /* MODE_64, or MODE_32 within long mode */
	uint8_t code[CODE_MAX];
	unsigned size;
	uint64_t at; /* where it lies */
	struct cpu_registers in;
	unsigned image;     /* what memory holds before */
	uint32_t undefined; /* flags that no architecture defines */
	bool skip;          /* must not run natively */
	bool pointers;      /* stores those of the x87's last instruction */
};

enum cpu_ending { ENDED, ENDLESS, SYSTEM_CALL, DIED };
struct cpu_result {
	enum cpu_ending ending;
	unsigned vector;
	uint32_t error;
	uint64_t cr2;
	struct cpu_registers out;
	struct cpu_memory memory;
};

/* ---- random numbers: of a case, by seed and number ------------------------------------- */

struct cpu_random {
	uint64_t state;
	enum soft_mode mode; /* of the instructions that are wanted */
};
uint64_t random_next(struct cpu_random *r);
unsigned random_below(struct cpu_random *r, unsigned n);

/* ---- generate.c, forms.c ------------------------------------------------------------------ */

#define IMAGES 16u
extern struct cpu_memory images[IMAGES];
extern uint8_t page_readonly[VM_PAGE_SIZE];
void images_make(uint64_t seed);
void case_make(struct cpu_case *c, uint64_t seed, uint64_t number, const struct form_group *only);
void operands_fill(struct cpu_random *r, void *to, size_t octets);
/* emit() returns the octets of one instruction, or 0: try again. `at`: about where it will lie.
 * NULL: a sequence of the others'. */
struct form_group {
	const char *name;
	unsigned weight;
	unsigned (*emit)(struct cpu_random *r, uint8_t *to, uint64_t at);
};
extern const struct form_group form_groups[];
extern const unsigned form_group_count;
/* By name, or NULL. */
const struct form_group *form_group_find(const char *name);

/* ---- expect.c: what the architecture leaves open ------------------------------------------- */

/* Must not run natively, or depends on the machine (CPUID, RDTSC, segment selectors). */
bool insn_is_excluded(const struct soft_insn *i);
/* Of an extension that CPU model pollux-base has not: it must raise #UD. */
bool insn_is_later(const struct soft_insn *i);
bool insn_is_branch(const struct soft_insn *i);
uint32_t insn_flags_undefined(const struct soft_insn *i);
/* NULL: equal. */
const char *results_differ(const struct cpu_case *c, const struct cpu_result *native,
			   const struct cpu_result *soft);

/* ---- native.c -------------------------------------------------------------------------------- */

#define BATCH 128u
struct cpu_batch {
	unsigned count;
	volatile unsigned at; /* the child's place */
	struct cpu_case cases[BATCH];
	struct cpu_result native[BATCH];
};
struct cpu_batch *batch_create(void);
void native_run(struct cpu_batch *b);

/* ---- model.c --------------------------------------------------------------------------------- */

struct model;
struct model *model_create(void);
void model_destroy(struct model *m);
/* `again`: the code of the run before is still there, decoded. */
void model_run(struct model *m, const struct cpu_case *c, bool again, struct cpu_result *out);

/* ---- report.c -------------------------------------------------------------------------------- */

void case_print(const struct cpu_case *c, const char *what, const char *how_to_repeat);
void results_print(const struct cpu_case *c, const struct cpu_result *native,
		   const struct cpu_result *soft);

/* ---- plants.c -------------------------------------------------------------------------------- */

struct cpu_plant {
	const char *name;
	void (*alter)(struct soft_insn *insn);
};
extern const struct cpu_plant cpu_plants[];
extern const unsigned cpu_plant_count;
/* For what is decoded from now on; NULL: none. */
void plant_choose(const struct cpu_plant *plant);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The model's side: a whole engine with one vCPU, in long mode at CPL 3 with page tables
 * that show it the arena. Every vector's handler is a HLT of its own, so that where it
 * halts says what was raised, and the supervisor's stack says the rest.
 */
#include <stdio.h>
#include <stdlib.h>

#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/fpu.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"
#include "tests/cpu/cpu.h"

/* Guest physical */
enum place {
	PML4 = 0x1000,
	LOW_TABLES = 0x2000,  /* three levels */
	HIGH_TABLES = 0x5000, /* three levels */
	IDT = 0x8000,
	GDT = 0x9000,
	TSS = 0x9800,
	KERNEL_STACK = 0xa000,
	HANDLERS = 0xb000,
	DATA = 0x10000, /* ARENA's three pages, then the stack, then the code */
	STACK_PAGE = DATA + 3 * 0x1000,
	CODE_PAGE = DATA + 4 * 0x1000,
};
#define KERNEL        UINT64_C(0xffffa12345600000) /* IDT to HANDLERS, at their places */
#define PRESENT       1u
#define WRITABLE      2u
#define USER          4u
#define NO_EXEC       (UINT64_C(1) << 63)
#define LIMIT         4000u /* instructions */
#define SELECTOR_DATA 0x2bu

struct model {
	struct error error;
	struct memory memory;
	struct engine *engine;
	struct soft_cpu *cpu;
};

/* ---- tables --------------------------------------------------------------------------------- */

static uint64_t *at64(struct model *m, uint64_t gpa)
{
	return (uint64_t *)(m->memory.base + gpa);
}

static unsigned index_of(uint64_t va, unsigned level)
{
	return va >> (12 + 9 * level) & 511;
}

static void tables_link(struct model *m, uint64_t va, uint64_t tables)
{
	at64(m, PML4)[index_of(va, 3)] = tables | PRESENT | WRITABLE | USER;
	at64(m, tables)[index_of(va, 2)] = (tables + 0x1000) | PRESENT | WRITABLE | USER;
	at64(m, tables + 0x1000)[index_of(va, 1)] = (tables + 0x2000) | PRESENT | WRITABLE | USER;
}

static void page_map(struct model *m, uint64_t va, uint64_t gpa, uint64_t rights)
{
	uint64_t table = va >= KERNEL ? HIGH_TABLES : LOW_TABLES;

	at64(m, table + 0x2000)[index_of(va, 0)] = gpa | rights | PRESENT;
}

static void paging_make(struct model *m)
{
	tables_link(m, ARENA, LOW_TABLES);
	tables_link(m, KERNEL, HIGH_TABLES);
	for (uint64_t gpa = IDT; gpa <= HANDLERS; gpa += VM_PAGE_SIZE)
		page_map(m, KERNEL + gpa, gpa, WRITABLE);
	for (unsigned i = 0; i < 3; i++)
		page_map(m, ARENA + i * VM_PAGE_SIZE, DATA + i * VM_PAGE_SIZE,
			 USER | NO_EXEC | (i < 2 ? WRITABLE : 0));
	page_map(m, STACK, STACK_PAGE, USER | NO_EXEC | WRITABLE);
	for (unsigned i = 0; i < CODE_PAGES; i++)
		page_map(m, CODE + i * VM_PAGE_SIZE, CODE_PAGE + i * VM_PAGE_SIZE, USER);
	memcpy(m->memory.base + DATA + 2 * VM_PAGE_SIZE, page_readonly, VM_PAGE_SIZE);
}

static void vectors_make(struct model *m)
{
	for (uint64_t v = 0; v < 256; v++) {
		uint64_t to = KERNEL + HANDLERS + 16 * v;
		unsigned dpl = v == VEC_BP || v == VEC_OF ? 3 : 0;

		at64(m, IDT)[2 * v] = (to & 0xffff) | 0x10 << 16 |
				      (uint64_t)(0x8e | dpl << 5) << 40 | (to >> 16 & 0xffff) << 48;
		at64(m, IDT)[2 * v + 1] = to >> 32;
	}
	memset(m->memory.base + HANDLERS, 0xf4, VM_PAGE_SIZE);
	at64(m, GDT)[2] = UINT64_C(0x00af9b000000ffff);
	at64(m, GDT)[3] = UINT64_C(0x00cf93000000ffff);
	at64(m, GDT)[4] = UINT64_C(0x00cffb000000ffff);
	at64(m, GDT)[5] = UINT64_C(0x00cff3000000ffff);
	at64(m, GDT)[6] = UINT64_C(0x00affb000000ffff);
	uint64_t stack = KERNEL + KERNEL_STACK + VM_PAGE_SIZE;

	memcpy(m->memory.base + TSS + 4, &stack, sizeof(stack));
	memset(m->memory.base + TSS + 0x66, 0xff, 2); /* no port is allowed */
}

/* ---- registers ----------------------------------------------------------------------------------
 */

static void system_registers_set(struct soft_cpu *cpu)
{
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	cpu->cr3 = PML4;
	cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
	cpu->idt = (struct soft_table){.base = KERNEL + IDT, .limit = 0xfff};
	cpu->gdt = (struct soft_table){.base = KERNEL + GDT, .limit = 0x7f};
	cpu->seg[SEG_TR] = (struct soft_segment){
		.base = KERNEL + TSS, .limit = 0x67, .selector = 0x40, .attr = SEG_PRESENT | 11};
	cpu->seg[SEG_LDT] = (struct soft_segment){.attr = SEG_UNUSABLE};
	soft_tlb_flush(cpu, true);
}

static void segments_set(struct soft_cpu *cpu, const struct cpu_case *c)
{
	static const struct soft_segment data = {
		.limit = UINT32_MAX, .selector = SELECTOR_DATA, .attr = 0xf3 | SEG_DB | SEG_G};
	static const struct soft_segment code[] = {
		[MODE_32] = {.limit = UINT32_MAX, .selector = 0x23, .attr = 0xfb | SEG_DB | SEG_G},
		[MODE_64] = {.limit = UINT32_MAX, .selector = 0x33, .attr = 0xfb | SEG_L | SEG_G},
	};

	cpu->seg[SEG_ES] = cpu->seg[SEG_DS] = cpu->seg[SEG_SS] = data;
	cpu->seg[SEG_FS] = (struct soft_segment){.base = c->in.fs, .attr = SEG_UNUSABLE};
	cpu->seg[SEG_GS] = (struct soft_segment){.base = c->in.gs, .attr = SEG_UNUSABLE};
	cpu->seg[SEG_CS] = code[c->mode];
	cpu->cpl = 3;
}

static void registers_set(struct soft_cpu *cpu, const struct cpu_case *c)
{
	const struct cpu_registers *in = &c->in;

	memcpy(cpu->r, in->r, sizeof(in->r));
	cpu->rip = in->rip;
	cpu->flags = FLAG_ONE;
	soft_flags_write(cpu, (uint32_t)in->flags, UINT32_MAX);
	segments_set(cpu, c);
	if (soft_fxrstor(cpu, in->fpu)) {
		fprintf(stderr, "cpu-diff: MXCSR that cannot be loaded\n");
		exit(2);
	}
	cpu->halted = cpu->shadow = false;
	soft_mode_update(cpu);
}

static bool error_code_has(unsigned vector)
{
	return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

/* From the frame: [error], RIP, CS, RFLAGS, RSP, SS. */
static void frame_take(struct model *m, struct cpu_result *out)
{
	const uint64_t *frame = at64(m, KERNEL_STACK + VM_PAGE_SIZE) - 5;

	out->vector = (unsigned)(m->cpu->rip - 1 - KERNEL - HANDLERS) / 16;
	out->error = error_code_has(out->vector) ? (uint32_t)frame[-1] : 0;
	out->cr2 = m->cpu->cr2;
	memcpy(out->out.r, m->cpu->r, sizeof(out->out.r));
	out->out.rip = frame[0];
	out->out.flags = frame[2];
	out->out.r[SOFT_RSP] = frame[3];
}

/* ---- one run
 * --------------------------------------------------------------------------------------- */

static uint8_t *page_of(struct model *m, unsigned n)
{
	return m->memory.base + (n < 2 ? DATA + n * VM_PAGE_SIZE : STACK_PAGE);
}

static void code_set(struct model *m, const struct cpu_case *c)
{
	uint8_t *code = m->memory.base + CODE_PAGE;

	memset(code, 0xcc, CODE_SIZE);
	memcpy(code + (c->at - CODE), c->code, c->size);
	for (unsigned i = 0; i < CODE_PAGES; i++)
		soft_page_written(m->engine, code + i * VM_PAGE_SIZE);
}

void model_run(struct model *m, const struct cpu_case *c, bool again, struct cpu_result *out)
{
	struct soft_cpu *cpu = m->cpu;

	for (unsigned i = 0; i < PAGES_WRITABLE; i++)
		memcpy(page_of(m, i), images[c->image].page[i], VM_PAGE_SIZE);
	if (!again)
		code_set(m, c);
	if (!again && c->number % 4 == 0)
		soft_tlb_flush(cpu, true);
	registers_set(cpu, c);
	cpu->limit = cpu->icount + LIMIT;
	out->ending = soft_run(cpu) == STOP_IDLE ? ENDED : ENDLESS;
	if (out->ending == ENDED)
		frame_take(m, out);
	soft_fxsave(cpu, out->out.fpu);
	for (unsigned i = 0; i < PAGES_WRITABLE; i++)
		memcpy(out->memory.page[i], page_of(m, i), VM_PAGE_SIZE);
}

static void no_device(void *ctx, enum exit_kind kind, uint64_t address, uint8_t *data,
		      unsigned size, bool write)
{
	if (!write)
		memset(data, 0xff, size);
}

struct model *model_create(void)
{
	struct model *m = calloc(1, sizeof(*m));
	struct engine_params p = {.vcpus = 1, .cpu = CPU_BASE, .access = no_device};

	if (!m || memory_create(&m->memory, UINT64_C(1) << 21, &m->error)) {
		free(m);
		return NULL;
	}
	p.memory = &m->memory;
	if (engine_soft.create(&p, &m->engine, &m->error)) {
		memory_destroy(&m->memory);
		free(m);
		return NULL;
	}
	m->cpu = m->engine->cpu[0];
	paging_make(m);
	vectors_make(m);
	system_registers_set(m->cpu);
	return m;
}

void model_destroy(struct model *m)
{
	engine_soft.destroy(m->engine);
	memory_destroy(&m->memory);
	free(m);
}

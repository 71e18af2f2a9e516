// SPDX-License-Identifier: Apache-2.0
/*
 * Engine soft runs whatever registers, tables and memory it is given. Input: a head that
 * says where the CPU begins and what is changed in its tables, then code and data, from
 * CODE on. Whatever comes of it: no crash, nothing outside of guest memory (there is none
 * before and behind it), and no change of a page that is not in the dirty log.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define PAGES    32u
#define MEMORY   (PAGES * VM_PAGE_SIZE)
#define GUARD    (UINT64_C(1) << 20)
#define LIMIT    400u /* instructions */
#define ROUNDS   2u
#define ACCESSES 1000u /* of devices */

/* Guest physical; page 0 is the interrupt table of real mode. */
enum place {
	PML4 = 0x1000,
	PDPT = 0x2000,
	DIRECTORY = 0x3000,
	TABLE = 0x4000,
	DIRECTORY_32 = 0x5000,
	GDT = 0x6000,
	IDT = 0x7000,
	TSS = 0x8000,
	HANDLER = 0x9000,
	CODE = 0xa000,
	STACK = 0x1f000,
};

enum begin { REAL, PROTECTED_16, PROTECTED_32, PAGING_32, PAE, COMPATIBLE, LONG, BEGINNINGS };

struct head {
	uint8_t begin, cpl, handler, device;
	uint16_t entry; /* from CODE */
	uint16_t attributes[SEG_COUNT];
	uint32_t flags, cr0, cr4, efer, dr7; /* changes of what belongs to `begin` */
	uint8_t r[16];                       /* 16 octets of memory each */
	uint64_t values[4];                  /* RAX, RCX, RDX, RBX */
	struct {
		uint16_t at;
		uint8_t octet;
	} patches[12];
} __attribute__((packed));

struct machine {
	struct memory memory;
	struct engine *engine;
	struct soft_cpu *cpu;
	uint64_t noise; /* what devices say */
	unsigned patience;
};

/* ---- the machine: one for all inputs -----------------------------------------------------------
 */

static void on_access(void *ctx, enum exit_kind kind, uint64_t address, uint8_t *data,
		      unsigned size, bool write)
{
	struct machine *m = ctx;
	uint64_t page = address % PAGES * VM_PAGE_SIZE;

	m->noise = m->noise * 6364136223846793005u + address;
	if (!m->patience || !--m->patience) /* a repeated string of devices is long */
		atomic_fetch_or(&m->cpu->attention, ATTENTION_KICK);
	if (!write)
		memcpy(data, &m->noise, size < 8 ? size : 8);
	else if (memory_write(&m->memory, page + size, data, size)) /* a transfer */
		abort();
}

/* Moves guest memory to where nothing is before or behind it. */
static void memory_isolate(struct memory *m)
{
	uint8_t *room = mmap(NULL, MEMORY + 2 * GUARD, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED ||
	    mmap(room + GUARD, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0) !=
		    room + GUARD ||
	    munmap(m->base, MEMORY))
		abort();
	m->base = room + GUARD;
}

static struct machine *machine_get(void)
{
	static struct machine m;
	struct engine_params p = {.vcpus = 1, .memory = &m.memory, .access = on_access};

	if (m.engine)
		return &m;
	log_setup("fuzz", LOG_LEVEL_ERROR);
	p.device_ctx = &m;
	if (memory_create(&m.memory, MEMORY, NULL))
		abort();
	memory_isolate(&m.memory);
	if (engine_soft.create(&p, &m.engine, NULL) || engine_soft.log_dirty(m.engine, true))
		abort();
	m.cpu = m.engine->cpu[0];
	return &m;
}

/* ---- tables
 * ----------------------------------------------------------------------------------------- */

static void put64(struct machine *m, uint64_t at, uint64_t v)
{
	memcpy(m->memory.base + at, &v, sizeof(v));
}

static void put32(struct machine *m, uint64_t at, uint32_t v)
{
	memcpy(m->memory.base + at, &v, sizeof(v));
}

/* The first 4 MiB are themselves; in long mode also at the top. */
static void paging_make(struct machine *m)
{
	put64(m, PML4, PDPT | 7);
	put64(m, PML4 + 511 * 8, PDPT | 7);
	put64(m, PDPT, DIRECTORY | 7);
	put64(m, PDPT + 511 * 8, DIRECTORY | 7);
	put64(m, DIRECTORY, TABLE | 7);
	put64(m, DIRECTORY + 8, 0x87);
	put32(m, DIRECTORY_32, 0x87);
	put32(m, DIRECTORY_32 + 4, TABLE | 7);
	for (uint64_t n = 0; n < 512; n++)
		put64(m, TABLE + 8 * n, n << 12 | 7);
}

#define SELECTOR(n, dpl) ((uint16_t)((n) << 3 | (dpl)))

/* Rings 0 and 3 with code of each kind, data, task state, a call gate. */
static void descriptors_make(struct machine *m)
{
	static const uint64_t table[] = {
		0,
		0x00009b000000ffff,
		0x000093000000ffff,
		0x00cf9b000000ffff,
		0x00cf93000000ffff,
		0x00af9b000000ffff,
		0x00cffb000000ffff,
		0x00cff3000000ffff,
		0x00affb000000ffff,
		0x00008b0080000067 /* task state, at TSS */,
		0,
		0x0000ec0000289000 /* to HANDLER */,
		0,
	};

	memcpy(m->memory.base + GDT, table, sizeof(table));
	put64(m, TSS + 4, STACK);
	put32(m, TSS + 8, SELECTOR(4, 0));
}

static uint64_t gate(enum begin begin, unsigned vector)
{
	uint64_t code = begin >= COMPATIBLE ? 5 : begin == PROTECTED_16 ? 1 : 3;
	uint64_t at = HANDLER + vector % 4 * 16;

	return at | SELECTOR(code, 0) << 16 | UINT64_C(0xee) << 40;
}

/* HLT, or back to where it came from. */
static void handlers_make(struct machine *m, const struct head *h)
{
	static const uint8_t handlers[][16] = {{0xf4}, {0xcf}, {0x48, 0xcf}, {0x58, 0x48, 0xcf}};
	bool is_long = h->begin % BEGINNINGS >= COMPATIBLE;

	for (unsigned v = 0; v < 256; v++) {
		if (is_long)
			put64(m, IDT + 16 * v, gate(h->begin % BEGINNINGS, v));
		else
			put64(m, IDT + 8 * v, gate(h->begin % BEGINNINGS, v));
		put32(m, 4 * v, HANDLER / 16 << 16 | v % 4 * 16);
	}
	for (unsigned i = 0; i < 4; i++)
		memcpy(m->memory.base + HANDLER + 16 * i, handlers[(h->handler >> 2 * i) & 3], 16);
}

/* ---- registers
 * -------------------------------------------------------------------------------------- */

static const struct {
	uint64_t cr0, cr3, cr4, efer;
	uint8_t code, data;
} beginnings[] = {
	[REAL] = {CR0_ET, 0, 0, 0, 0, 0},
	[PROTECTED_16] = {CR0_ET | CR0_PE, 0, 0, 0, 1, 2},
	[PROTECTED_32] = {CR0_ET | CR0_PE, 0, 0, 0, 3, 4},
	[PAGING_32] = {CR0_ET | CR0_PE | CR0_PG, DIRECTORY_32, CR4_PSE, 0, 3, 4},
	[PAE] = {CR0_ET | CR0_PE | CR0_PG, PDPT, CR4_PAE, EFER_NXE, 3, 4},
	[COMPATIBLE] = {CR0_ET | CR0_PE | CR0_PG | CR0_WP, PML4, CR4_PAE,
			EFER_LME | EFER_LMA | EFER_NXE, 3, 4},
	[LONG] = {CR0_ET | CR0_PE | CR0_PG | CR0_WP, PML4, CR4_PAE | CR4_PGE,
		  EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE, 5, 4},
};

static struct soft_segment segment_make(unsigned entry, unsigned dpl, uint16_t change)
{
	static const uint16_t attributes[] = {0x93,
					      0x9b,
					      0x93,
					      0x9b | SEG_DB | SEG_G,
					      0x93 | SEG_DB | SEG_G,
					      0x9b | SEG_L | SEG_G};
	struct soft_segment s = {.limit = entry < 3 ? 0xffff : UINT32_MAX,
				 .selector = SELECTOR(entry, dpl),
				 .attr = attributes[entry]};

	s.attr = (uint16_t)((s.attr | dpl << SEG_DPL_SHIFT) ^ change);
	if (change)
		s.limit = (uint32_t)change * 0x10001;
	return s;
}

static void segments_set(struct soft_cpu *cpu, const struct head *h)
{
	enum begin b = h->begin % BEGINNINGS;
	unsigned cpl = b == REAL ? 0 : h->cpl & 3;

	for (unsigned i = 0; i <= SEG_GS; i++)
		cpu->seg[i] = segment_make(i == SEG_CS ? beginnings[b].code : beginnings[b].data,
					   cpl, h->attributes[i]);
	cpu->cpl = (uint8_t)cpl;
	cpu->gdt = (struct soft_table){.base = GDT, .limit = 0x67};
	cpu->idt = (struct soft_table){.base = b == REAL ? 0 : IDT, .limit = 0xfff};
	cpu->seg[SEG_TR] = (struct soft_segment){.base = TSS,
						 .limit = 0x67,
						 .selector = SELECTOR(9, 0),
						 .attr = 0x8b ^ (h->attributes[SEG_TR] & SEG_TYPE)};
	cpu->seg[SEG_LDT] = (struct soft_segment){
		.base = GDT, .limit = 0x67, .attr = h->attributes[SEG_LDT] ? 0x82 : SEG_UNUSABLE};
}

static void registers_set(struct soft_cpu *cpu, const struct head *h)
{
	enum begin b = h->begin % BEGINNINGS;

	cpu->cr0 = beginnings[b].cr0 ^ h->cr0;
	cpu->cr3 = beginnings[b].cr3;
	cpu->cr4 = beginnings[b].cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT;
	cpu->cr4 ^= h->cr4;
	cpu->efer = beginnings[b].efer ^ h->efer;
	memcpy(cpu->pdptrs, (uint64_t[]){DIRECTORY | 1, 0, 0, DIRECTORY | 1}, sizeof(cpu->pdptrs));
	segments_set(cpu, h);
	for (unsigned i = 0; i < 16; i++)
		cpu->r[i] = h->r[i] * UINT64_C(16) + (h->r[i] & 1 ? CODE : 0);
	for (unsigned i = 0; i < 4; i++)
		cpu->r[i] ^= h->values[i];
	cpu->r[SOFT_RSP] += STACK - 0x1000;
	cpu->rip = CODE + h->entry % (MEMORY - CODE);
	cpu->flags = FLAG_ONE;
	soft_flags_write(cpu, h->flags, UINT32_MAX & ~(uint32_t)FLAG_VM);
	cpu->dr[7] = h->dr7;
	for (unsigned i = 0; i < 4; i++)
		cpu->dr[i] = cpu->r[4 + i];
	soft_mode_update(cpu);
	soft_tlb_flush(cpu, true);
}

/* ---- one input
 * ----------------------------------------------------------------------------------------- */

static void machine_set(struct machine *m, const struct head *h, const uint8_t *rest, size_t n)
{
	if (engine_soft.vcpus_reset(m->engine, NULL))
		abort();
	memset(m->memory.base, 0xf4, MEMORY); /* HLT */
	paging_make(m);
	descriptors_make(m);
	handlers_make(m, h);
	memcpy(m->memory.base + CODE, rest, n < MEMORY - CODE ? n : MEMORY - CODE);
	for (unsigned i = 0; i < ARRAY_LEN(h->patches); i++)
		m->memory.base[h->patches[i].at] ^= h->patches[i].octet;
	memory_mark(&m->memory, 0, MEMORY);
	registers_set(m->cpu, h);
	m->noise = h->device;
	m->patience = ACCESSES;
	atomic_store(&m->cpu->attention, 0);
}

/* The engine's bits and the devices'. */
static uint64_t dirty_take(struct machine *m)
{
	uint64_t map = 0;

	if (engine_soft.dirty_harvest(m->engine, &map))
		abort();
	memory_harvest(&m->memory, &map);
	return map;
}

static void changes_check(const struct machine *m, const uint8_t *before, uint64_t dirty)
{
	for (unsigned page = 0; page < PAGES; page++)
		if (!(dirty >> page & 1) && memcmp(m->memory.base + page * VM_PAGE_SIZE,
						   before + page * VM_PAGE_SIZE, VM_PAGE_SIZE) != 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static uint8_t before[MEMORY];
	struct machine *m = machine_get();
	struct head h = {0};
	size_t used = n < sizeof(h) ? n : sizeof(h);

	memcpy(&h, data, used);
	machine_set(m, &h, data + used, n - used);
	(void)dirty_take(m);
	for (unsigned round = 0; round < ROUNDS; round++) {
		memcpy(before, m->memory.base, MEMORY);
		m->cpu->limit = m->cpu->icount + LIMIT;
		enum soft_stop stop = soft_run(m->cpu);

		changes_check(m, before, dirty_take(m));
		if (stop != STOP_LOOK)
			break;
	}
	return 0;
}

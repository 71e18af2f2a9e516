// SPDX-License-Identifier: Apache-2.0
/* Engine soft: code that changes under the CPU, by its own hand or a device's, the cache of
 * decoded blocks, and which pages the dirty log names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define PAGES   512u
#define MEMORY  (PAGES * VM_PAGE_SIZE)
#define PAGE(n) ((n)*VM_PAGE_SIZE)

enum page { DIRECTORY = 1, TABLE, CODE = 16, OTHER, THIRD, DATA = 32, STACK = 64 };

struct fixture {
	struct error error;
	struct memory memory;
	struct engine *engine;
	struct soft_cpu *cpu;
	/* What a device writes when port 0x80 is written to. */
	uint64_t transfer_to;
	uint8_t transfer[8];
	size_t transfer_size;
};

static void on_access(void *ctx, enum exit_kind kind, uint64_t address, uint8_t *data,
		      unsigned size, bool write)
{
	struct fixture *f = ctx;

	assert_int_equal(kind, EXIT_PIO);
	assert_int_equal(address, 0x80);
	assert_true(write);
	assert_int_equal(memory_write(&f->memory, f->transfer_to, f->transfer, f->transfer_size),
			 0);
}

/* Protected mode, flat, 32 bits. */
static void cpu_begin(struct soft_cpu *cpu)
{
	const struct soft_segment data = {
		.limit = UINT32_MAX, .selector = 0x18, .attr = 0x93 | SEG_DB | SEG_G};

	cpu->cr0 = CR0_PE | CR0_ET | CR0_WP;
	for (unsigned i = 0; i <= SEG_GS; i++)
		cpu->seg[i] = data;
	cpu->seg[SEG_CS].attr = 0x9b | SEG_DB | SEG_G;
	cpu->cpl = 0;
	soft_mode_update(cpu);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct engine_params p = {.vcpus = 1, .access = on_access, .device_ctx = f};

	assert_non_null(f);
	assert_int_equal(memory_create(&f->memory, MEMORY, &f->error), 0);
	p.memory = &f->memory;
	assert_int_equal(engine_soft.create(&p, &f->engine, &f->error), 0);
	f->cpu = f->engine->cpu[0];
	cpu_begin(f->cpu);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	engine_soft.destroy(f->engine);
	memory_destroy(&f->memory);
	free(f);
	return 0;
}

/* ---- programs -------------------------------------------------------------------------------- */

/* As a loader or a device does. */
static void put(struct fixture *f, uint64_t at, const void *data, size_t n)
{
	assert_int_equal(memory_write(&f->memory, at, data, n), 0);
}
#define PUT(f, at, ...)                                                                            \
	put(f, at, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define LE32(v)        (uint8_t)(v), (uint8_t)((v) >> 8), (uint8_t)((v) >> 16), (uint8_t)((v) >> 24)

#define STORE8(at, v)  0xc6, 0x05, LE32(at), (v)
#define STORE32(at, v) 0xc7, 0x05, LE32(at), LE32(v)
#define LOAD8(at)      0x8a, 0x05, LE32(at)
#define MOV_EAX(v)     0xb8, LE32(v)
#define ADD_EBX_EAX    0x01, 0xc3
#define OUT_80         0xe6, 0x80
#define HLT            0xf4

/* To the HLT; what EAX holds then. */
static uint32_t run(struct fixture *f, uint64_t at)
{
	struct soft_cpu *cpu = f->cpu;

	cpu->halted = false;
	cpu->rip = at;
	cpu->r[SOFT_RSP] = PAGE(STACK + 1);
	cpu->limit = cpu->icount + 1000000;
	assert_int_equal(soft_run(cpu), STOP_IDLE);
	return (uint32_t)cpu->r[SOFT_RAX];
}

/* ---- code that changes itself ------------------------------------------------------------------
 */

static void test_same_block(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE);

	for (uint8_t v = 1; v < 5; v++) {
		PUT(f, at, STORE8(at + 8, v), MOV_EAX(0), HLT);
		assert_int_equal(run(f, at), v);
		assert_int_equal(run(f, at), v);
	}
}

/* It changes the instruction that it is, and what comes before it. */
static void test_itself(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE);

	PUT(f, at, MOV_EAX(1), STORE8(at + 1, 9), HLT);
	assert_int_equal(run(f, at), 1);
	assert_int_equal(run(f, at), 9);
	PUT(f, at, STORE8(at + 6, 3), HLT); /* its own immediate */
	run(f, at);
	assert_int_equal(f->memory.base[at + 6], 3);
}

/* The blocks are linked by then: the jump of 0 octets, and a loop back. */
static void test_next_block(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE);

	PUT(f, at, 0xbb, LE32(0), 0xb9, LE32(100), /* EBX: sum; ECX: rounds */
	    0x88, 0x0d, LE32(at + 19),             /* L: MOV [at + 19], CL */
	    0xeb, 0x00, MOV_EAX(0), ADD_EBX_EAX, 0xe2, 0xef, HLT);
	run(f, at);
	assert_int_equal(f->cpu->r[SOFT_RBX], 5050);
}

static void test_other_page(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), other = PAGE(OTHER);

	PUT(f, other, MOV_EAX(1), 0xc3);
	PUT(f, at, 0xbb, LE32(0), 0xe8, LE32(other - at - 10), ADD_EBX_EAX, STORE8(other + 1, 40),
	    0xe8, LE32(other - at - 24), ADD_EBX_EAX, HLT);
	run(f, at);
	assert_int_equal(f->cpu->r[SOFT_RBX], 41);
	PUT(f, other, MOV_EAX(1), 0xc3);
	run(f, at);
	assert_int_equal(f->cpu->r[SOFT_RBX], 41);
}

/* MOV EAX, imm32 with its last `n` octets in the next page. */
static void test_across_pages(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 1; n < 5; n++) {
		uint32_t at = PAGE(OTHER) - 5 + n, from = PAGE(CODE);

		PUT(f, at, MOV_EAX(0), HLT);
		assert_int_equal(run(f, at), 0);
		for (unsigned i = 1; i < 5; i++) {
			PUT(f, from, STORE8(at + i, (uint8_t)(i + n)), 0xe9, LE32(at - from - 12));
			run(f, from);
		}
		assert_int_equal(run(f, at),
				 (n + 4) << 24 | (n + 3) << 16 | (n + 2) << 8 | (n + 1));
	}
}

/* A block is reached by a link that was made before its page was dropped. */
static void test_links(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), from = PAGE(OTHER);

	PUT(f, at, 0xeb, 0x3e);            /* A, linked to B */
	PUT(f, at + 64, 0xeb, 0x3e);       /* B, to C */
	PUT(f, at + 128, MOV_EAX(1), HLT); /* C */
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(run(f, at), 1);
	PUT(f, from, STORE8(at + 129, 2), 0xe9, LE32(at - from - 12));
	assert_int_equal(run(f, from), 2);
	assert_int_equal(run(f, at), 2);
	PUT(f, from, STORE8(at + 65, 0x7e), 0xe9, LE32(at - from - 12)); /* B goes to D */
	put(f, at + 192, (const uint8_t[]){MOV_EAX(7), HLT}, 6);
	assert_int_equal(run(f, from), 7);
	assert_int_equal(run(f, at), 7);
}

/* ---- code that a device changes -------------------------------------------------------------- */

static void test_device(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE);

	PUT(f, at, 0xeb, 0x3e);
	PUT(f, at + 64, MOV_EAX(1), HLT);
	for (uint8_t v = 1; v < 10; v++) {
		PUT(f, at + 65, v);
		assert_int_equal(run(f, at), v);
		assert_int_equal(run(f, at), v);
	}
}

/* By the program's own order: it finds what was transferred behind its OUT, in the same page
 * and in an instruction that lies in two. */
static void test_device_on_order(void **state)
{
	struct fixture *f = *state;
	const uint32_t places[] = {PAGE(CODE) + 2, PAGE(OTHER) - 3};

	for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
		uint32_t at = places[i] - 2;

		PUT(f, at, OUT_80, MOV_EAX(1), HLT);
		f->transfer_to = at + 5;
		f->transfer_size = 2;
		for (uint8_t v = 1; v < 6; v++) {
			f->transfer[0] = f->transfer[1] = v;
			assert_int_equal(run(f, at), v << 24 | v << 16 | 1);
		}
	}
}

/* ---- the cache --------------------------------------------------------------------------------
 */

/* More code than all of the cache holds: 2048 loads a page are about 130 KiB decoded. */
static void test_cache_full(void **state)
{
	struct fixture *f = *state;
	uint64_t at = PAGE(CODE);
	uint8_t page[VM_PAGE_SIZE];

	for (unsigned i = 0; i < sizeof(page); i += 2)
		memcpy(page + i, (const uint8_t[]){0x8a, 0x06}, 2); /* MOV AL, [ESI] */
	f->cpu->r[SOFT_RSI] = PAGE(DATA);
	for (unsigned round = 0; round < 900; round++) {
		uint8_t v = (uint8_t)(round * 7);

		memcpy(page + sizeof(page) - 4, (const uint8_t[]){0x90, 0xb0, v, HLT}, 4);
		put(f, at, page, sizeof(page));
		assert_int_equal(run(f, at) & 0xff, v);
	}
}

/* ---- the dirty log -----------------------------------------------------------------------------
 */

static void harvest(struct fixture *f, uint64_t *map)
{
	memset(map, 0, PAGES / 8);
	assert_int_equal(engine_soft.dirty_harvest(f->engine, map), 0);
}

/* After a run from `at`: these pages, and no others. */
static void expect_dirty(struct fixture *f, uint64_t at, const unsigned *pages, unsigned n)
{
	uint64_t map[PAGES / 64], expected[PAGES / 64] = {0};

	for (unsigned i = 0; i < n; i++)
		expected[pages[i] / 64] |= UINT64_C(1) << pages[i] % 64;
	harvest(f, map);
	run(f, at);
	harvest(f, map);
	assert_memory_equal(map, expected, sizeof(map));
}
#define EXPECT_DIRTY(f, at, ...)                                                                   \
	expect_dirty(f, at, (const unsigned[]){__VA_ARGS__},                                       \
		     ARRAY_LEN(((const unsigned[]){__VA_ARGS__})))

static void test_dirty(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), data = PAGE(DATA);

	PUT(f, at, LOAD8(data), LOAD8(data + 5000), HLT);
	expect_dirty(f, at, NULL, 0);
	PUT(f, at, STORE8(data + 100, 1), HLT);
	EXPECT_DIRTY(f, at, DATA);
	EXPECT_DIRTY(f, at, DATA); /* again after each harvest */
	PUT(f, at, STORE32(data + 4095, 0x01020304), HLT);
	EXPECT_DIRTY(f, at, DATA, DATA + 1);
	EXPECT_DIRTY(f, at, DATA, DATA + 1);
	PUT(f, at, STORE32(data + 4092, 5), 0x0f, 0xb1, 0x05, LE32(data + 8192), 0x50, HLT);
	EXPECT_DIRTY(f, at, DATA, DATA + 2, STACK); /* CMPXCHG, PUSH */
	PUT(f, at, STORE8(at + 200, 1), STORE8(PAGE(OTHER), 1), HLT);
	EXPECT_DIRTY(f, at, CODE, OTHER);
	PUT(f, at, 0xbf, LE32(data + 4090), 0xb9, LE32(5000), 0xf3, 0xaa, HLT); /* REP STOSB */
	EXPECT_DIRTY(f, at, DATA, DATA + 1, DATA + 2);
}

/* What is read of a page before it is harvested must not hide the writes after it. */
static void test_dirty_across_harvests(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), data = PAGE(DATA);

	PUT(f, at, STORE8(data, 1), LOAD8(data), HLT);
	PUT(f, at + 256, LOAD8(data), HLT);
	EXPECT_DIRTY(f, at, DATA);
	expect_dirty(f, at + 256, NULL, 0);
	EXPECT_DIRTY(f, at, DATA);
}

#define PTE          0x03u /* present, writable */
#define PTE_ACCESSED 0x20u
#define PTE_DIRTY    0x40u

static uint32_t *entry(struct fixture *f, unsigned page)
{
	return (uint32_t *)(void *)(f->memory.base + PAGE(TABLE)) + page;
}

static void paging_begin(struct fixture *f)
{
	PUT(f, PAGE(DIRECTORY), LE32(PAGE(TABLE) | PTE | PTE_ACCESSED));
	for (unsigned i = 0; i < PAGES; i++)
		*entry(f, i) = PAGE(i) | PTE;
	*entry(f, CODE) |= PTE_ACCESSED;
	f->cpu->cr3 = PAGE(DIRECTORY);
	f->cpu->cr0 |= CR0_PG;
	soft_mode_update(f->cpu);
	soft_tlb_flush(f->cpu, true);
}

/* Accessed and dirty bits are writes of the table. */
static void test_dirty_tables(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), data = PAGE(DATA);

	paging_begin(f);
	PUT(f, at, LOAD8(data), HLT);
	EXPECT_DIRTY(f, at, TABLE);
	assert_int_equal(*entry(f, DATA), PAGE(DATA) | PTE | PTE_ACCESSED);
	expect_dirty(f, at, NULL, 0);
	PUT(f, at, STORE8(data, 1), HLT);
	EXPECT_DIRTY(f, at, TABLE, DATA);
	assert_int_equal(*entry(f, DATA), PAGE(DATA) | PTE | PTE_ACCESSED | PTE_DIRTY);
	EXPECT_DIRTY(f, at, DATA);
	soft_tlb_flush(f->cpu, true);
	EXPECT_DIRTY(f, at, DATA);
	assert_int_equal(*entry(f, DATA + 1), PAGE(DATA + 1) | PTE);
}

/* A page of code that is written by another address than it is run from. */
static void test_alias(void **state)
{
	struct fixture *f = *state;
	uint32_t at = PAGE(CODE), from = PAGE(OTHER);

	paging_begin(f);
	*entry(f, THIRD) = PAGE(CODE) | PTE;
	PUT(f, at, MOV_EAX(1), HLT);
	assert_int_equal(run(f, at), 1);
	assert_int_equal(run(f, PAGE(THIRD)), 1);
	PUT(f, from, STORE8(PAGE(THIRD) + 1, 6), 0xe9, LE32(at - from - 12));
	EXPECT_DIRTY(f, from, TABLE, CODE);
	assert_int_equal(f->cpu->r[SOFT_RAX], 6);
	assert_int_equal(run(f, PAGE(THIRD)), 6);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_same_block),
		TEST(test_itself),
		TEST(test_next_block),
		TEST(test_other_page),
		TEST(test_across_pages),
		TEST(test_links),
		TEST(test_device),
		TEST(test_device_on_order),
		TEST(test_cache_full),
		TEST(test_dirty),
		TEST(test_dirty_across_harvests),
		TEST(test_dirty_tables),
		TEST(test_alias),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

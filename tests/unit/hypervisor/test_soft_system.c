// SPDX-License-Identifier: Apache-2.0
/* Engine soft: double faults by class, MSRs and control registers that are refused, the
 * base CPU model, breakpoints. What needs an executing guest is in tests/guests/priv*. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/cpuid.h"
#include "hypervisor/soft/system.h"

#define NON_CANONICAL UINT64_C(0x0000800000000000)

struct fixture {
	struct error error;
	struct memory memory;
	struct engine *engine;
	struct soft_cpu *cpu;
	unsigned sizes[8], accesses; /* of devices */
};

static void on_access(void *ctx, enum exit_kind kind, uint64_t address, uint8_t *data,
		      unsigned size, bool write)
{
	struct fixture *f = ctx;

	assert_true(f->accesses < ARRAY_LEN(f->sizes));
	f->sizes[f->accesses++] = size;
	memset(data, (int)(address & 0xff), write ? 0 : size);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct engine_params p = {.vcpus = 2, .access = on_access, .device_ctx = f};

	assert_non_null(f);
	assert_int_equal(memory_create(&f->memory, UINT64_C(1) << 21, &f->error), 0);
	p.memory = &f->memory;
	assert_int_equal(engine_soft.create(&p, &f->engine, &f->error), 0);
	f->cpu = f->engine->cpu[0];
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

/* ---- exceptions on top of exceptions --------------------------------------------------------- */

enum outcome { SECOND, DOUBLE, SHUTDOWN };

static enum outcome on_top(struct soft_cpu *cpu, enum soft_exception_class first, unsigned second)
{
	cpu->exception.delivering = (uint8_t)first;
	cpu->exception.vector = (uint8_t)second;
	cpu->exception.has_error = false;
	if (!soft_exception_take(cpu))
		return SHUTDOWN;
	assert_int_equal(cpu->exception.delivering, CLASS_NONE);
	if (cpu->exception.vector == second)
		return SECOND;
	assert_int_equal(cpu->exception.vector, VEC_DF);
	assert_true(cpu->exception.has_error);
	return DOUBLE;
}

/* APM volume 2, table 8-5. */
static void test_double_faults(void **state)
{
	static const struct {
		enum soft_exception_class first;
		enum outcome benign, contributory, page;
	} table[] = {
		{CLASS_NONE, SECOND, SECOND, SECOND},
		{CLASS_BENIGN, SECOND, SECOND, SECOND},
		{CLASS_CONTRIBUTORY, SECOND, DOUBLE, SECOND},
		{CLASS_PAGE, SECOND, DOUBLE, DOUBLE},
		{CLASS_DOUBLE, SHUTDOWN, SHUTDOWN, SHUTDOWN},
	};
	static const unsigned contributory[] = {VEC_DE, VEC_TS, VEC_NP, VEC_SS, VEC_GP};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
		assert_int_equal(on_top(f->cpu, table[i].first, VEC_UD), table[i].benign);
		assert_int_equal(on_top(f->cpu, table[i].first, VEC_PF), table[i].page);
		for (unsigned k = 0; k < ARRAY_LEN(contributory); k++)
			assert_int_equal(on_top(f->cpu, table[i].first, contributory[k]),
					 table[i].contributory);
	}
}

/* Selector errors during the delivery of what comes from outside carry EXT; #PF does not. */
static void test_external_bit(void **state)
{
	static const struct {
		unsigned vector;
		uint32_t error;
	} table[] = {{VEC_TS, 0x51}, {VEC_NP, 0x51}, {VEC_SS, 0x51},
		     {VEC_GP, 0x51}, {VEC_PF, 0x50}, {VEC_AC, 0x50}};
	struct fixture *f = *state;
	volatile unsigned i;

	for (i = 0; i < ARRAY_LEN(table); i++) {
		f->cpu->exception.external = true;
		if (!sigsetjmp(f->cpu->leave, 0))
			soft_raise_error(f->cpu, NULL, table[i].vector, 0x50);
		assert_int_equal(f->cpu->exception.error, table[i].error);
		assert_true(soft_exception_take(f->cpu));
	}
	if (!sigsetjmp(f->cpu->leave, 0))
		soft_raise_error(f->cpu, NULL, VEC_GP, 0x50);
	assert_int_equal(f->cpu->exception.error, 0x50);
}

/* ---- MSRs ---------------------------------------------------------------------------------------
 */

static void test_msr_values(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t good, bad;
	} table[] = {
		{0xc0000082, 0xffffffff81000000, NON_CANONICAL},
		{0xc0000083, 0x00007fffffffffff, NON_CANONICAL},
		{0xc0000100, 0xffff800000000000, NON_CANONICAL},
		{0xc0000101, 0xffff888000000000, NON_CANONICAL},
		{0xc0000102, 0x1000, NON_CANONICAL},
		{0x176, 0x1000, NON_CANONICAL},
		{0x277, 0x0407050600070106, 0x0007040600070402},
		{0x250, 0x0606060606060606, 0x0606060606060706},
		{0x2ff, 0xc06, 0x1006},
		{0x200, 0x80000006, 0x80000007},
		{0x201, 0xff80000800, 0xff80000001},
		{0xc0000084, 0x47700, 0x100047700},
	};
	struct fixture *f = *state;
	uint64_t seen;

	for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
		assert_int_equal(soft_msr_write(f->cpu, table[i].msr, table[i].good), 0);
		assert_int_equal(soft_msr_write(f->cpu, table[i].msr, table[i].bad), -EINVAL);
		assert_int_equal(soft_msr_read(f->cpu, table[i].msr, &seen), 0);
		assert_true(seen == table[i].good);
	}
	assert_true(f->cpu->r[SOFT_BASE_FS] == 0xffff800000000000);
}

static void test_msr_unknown(void **state)
{
	static const uint32_t unknown[] = {0x3b, 0x48, 0x179, 0x345, 0xc0000103, 0x4b564d02};
	struct fixture *f = *state;
	uint64_t seen;

	for (unsigned i = 0; i < ARRAY_LEN(unknown); i++) {
		assert_int_equal(soft_msr_read(f->cpu, unknown[i], &seen), -EINVAL);
		assert_int_equal(soft_msr_write(f->cpu, unknown[i], 0), -EINVAL);
	}
	/* Linux turns a flush filter off that nobody has. */
	assert_int_equal(soft_msr_write(f->cpu, 0xc0010015, 0x40), 0);
	assert_int_equal(soft_msr_write(f->cpu, 0xc0010015, 0x80), -EINVAL);
}

/* ---- control registers
 * ---------------------------------------------------------------------------- */

static void test_control_registers(void **state)
{
	struct fixture *f = *state;
	struct soft_cpu *cpu = f->cpu;

	assert_int_equal(soft_cr_write(cpu, 0, CR0_PG), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_NW), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 0, UINT64_C(1) << 32), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 4, UINT64_C(1) << 18), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 8, 16), -EINVAL);
	assert_int_equal(soft_msr_write(cpu, 0xc0000080, UINT64_C(1) << 12), -EINVAL);
	assert_int_equal(soft_msr_write(cpu, 0xc0000080, EFER_LME), 0);
	/* Long mode without PAE */
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE | CR0_PG), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 4, CR4_PAE), 0);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE | CR0_PG), 0);
	assert_true(cpu->efer == (EFER_LME | EFER_LMA));
	assert_int_equal(soft_cr_write(cpu, 4, 0), -EINVAL);
	assert_int_equal(soft_msr_write(cpu, 0xc0000080, 0), -EINVAL);
	assert_int_equal(soft_cr_write(cpu, 3, UINT64_C(1) << 40), -EINVAL);
	cpu->seg[SEG_CS].attr |= SEG_L;
	soft_mode_update(cpu);
	assert_int_equal(cpu->mode, MODE_64);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE), -EINVAL);
	cpu->seg[SEG_CS].attr &= (uint16_t)~SEG_L;
	soft_mode_update(cpu);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE), 0);
	assert_true(cpu->efer == EFER_LME);
}

static void test_page_directory_pointers(void **state)
{
	struct fixture *f = *state;
	struct soft_cpu *cpu = f->cpu;

	assert_int_equal(soft_cr_write(cpu, 4, CR4_PAE), 0);
	soft_physical_write(cpu, 0x1000, 0x2001, 8);
	soft_physical_write(cpu, 0x1018, 0x3003, 8); /* bit 1 is reserved there */
	assert_int_equal(soft_cr_write(cpu, 3, 0x1000), 0);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE | CR0_PG), -EINVAL);
	soft_physical_write(cpu, 0x1018, 0x3001, 8);
	assert_int_equal(soft_cr_write(cpu, 0, CR0_PE | CR0_PG), 0);
	assert_true(cpu->pdptrs[0] == 0x2001 && cpu->pdptrs[3] == 0x3001);
	/* They are kept until CR3 is written. */
	soft_physical_write(cpu, 0x1000, 0x5001, 8);
	assert_true(cpu->pdptrs[0] == 0x2001);
	assert_int_equal(soft_cr_write(cpu, 3, 0x1000), 0);
	assert_true(cpu->pdptrs[0] == 0x5001);
}

static void test_start(void **state)
{
	struct fixture *f = *state;
	struct soft_cpu *other = f->engine->cpu[1];

	assert_true(f->cpu->rip + f->cpu->seg[SEG_CS].base == 0xfffffff0);
	assert_false(f->cpu->wait_sipi);
	assert_true(other->wait_sipi);
	soft_cpu_sipi(other, 0x9a);
	assert_false(other->wait_sipi);
	assert_true(other->rip == 0 && other->seg[SEG_CS].base == 0x9a000);
	assert_int_equal(other->seg[SEG_CS].selector, 0x9a00);
	assert_true(other->r[SOFT_BASE_CS] == 0x9a000);
}

/* ---- CPU model
 * ------------------------------------------------------------------------------------- */

static void test_cpuid(void **state)
{
	struct fixture *f = *state;
	uint32_t out[4];
	char name[49] = "";

	soft_cpuid(f->engine->cpu[1], 1, 0, out);
	assert_int_equal(out[0], 0x20f51);
	assert_int_equal(out[1], 1u << 24 | 2u << 16 | 8u << 8);
	assert_true(out[3] >> 28 & 1);
	assert_int_equal(out[2] & 0x1c001203, 0); /* SSE3, SSSE3, FMA, XSAVE, OSXSAVE, AVX */
	soft_cpuid(f->engine->cpu[1], 0xb, 1, out);
	assert_int_equal(out[0], 1);
	assert_int_equal(out[1], 2);
	assert_int_equal(out[3], 1);
	soft_cpuid(f->cpu, 0xb, 7, out);
	assert_int_equal(out[0] | out[1], 0);
	assert_int_equal(out[2], 7);
	soft_cpuid(f->cpu, 7, 0, out);
	assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
	for (unsigned i = 0; i < 3; i++) {
		soft_cpuid(f->cpu, 0x80000002 + i, 0, out);
		memcpy(name + 16 * i, out, 16);
	}
	assert_string_equal(name, "Pollux base CPU");
}

/* One vCPU has no word of others. */
static void test_cpuid_single(void **state)
{
	struct cpuid_leaf leaves[CPUID_LEAVES_MAX];
	unsigned n = cpuid_base_leaves(1, 0, leaves);

	for (unsigned i = 0; i < n; i++) {
		if (leaves[i].function == 1)
			assert_false(leaves[i].edx >> 28 & 1);
		if (leaves[i].function == 0x80000001)
			assert_false(leaves[i].ecx >> 1 & 1);
		if (leaves[i].function == 0x80000008)
			assert_int_equal(leaves[i].ecx, 0);
	}
}

/* ---- breakpoints
 * ------------------------------------------------------------------------------------- */

static void test_data_breakpoints(void **state)
{
	static const struct {
		uint64_t va;
		size_t size;
		bool write;
		unsigned hits;
	} table[] = {
		{0x1000, 4, true, 1},  {0x1003, 1, true, 1},  {0x1004, 4, true, 0},
		{0xffe, 4, true, 1},   {0xffc, 4, true, 0},   {0x1000, 4, false, 0},
		{0x2007, 1, false, 2}, {0x2000, 16, true, 2}, {0x2008, 8, false, 0},
	};
	struct fixture *f = *state;
	struct soft_cpu *cpu = f->cpu;

	cpu->dr[0] = 0x1000;
	cpu->dr[1] = 0x2000;
	cpu->dr[7] = DR7_ONE | 1 | 4 | UINT64_C(0xd) << 16 | UINT64_C(0xb) << 20;
	for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
		cpu->debug_hits = 0;
		soft_debug_data(cpu, table[i].va, table[i].size, table[i].write);
		assert_int_equal(cpu->debug_hits, table[i].hits);
	}
}

/* ---- memory, code, time -----------------------------------------------------------------------
 */

static void test_device_memory(void **state)
{
	struct fixture *f = *state;
	uint8_t data[21];

	soft_mmio(f->cpu, 0xd0000020, data, sizeof(data), false);
	assert_int_equal(f->accesses, 3);
	assert_int_equal(f->sizes[0], 8);
	assert_int_equal(f->sizes[1], 8);
	assert_int_equal(f->sizes[2], 5);
	for (unsigned i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], 0x20 + i / 8 * 8);
}

/* Also after the arena was full, for pages whose blocks went with it. */
static void test_code_is_watched(void **state)
{
	struct fixture *f = *state;
	struct soft_cpu *cpu = f->cpu;
	unsigned pages = (unsigned)(f->memory.size / VM_PAGE_SIZE);

	memset(f->memory.base, 0x90, f->memory.size);
	cpu->seg[SEG_CS].base = 0;
	cpu->seg[SEG_CS].limit = UINT32_MAX;
	soft_mode_update(cpu);
	for (unsigned i = 0; i < 60000; i++) {
		unsigned page = i % pages;

		cpu->rip = page * VM_PAGE_SIZE + i / pages;
		(void)soft_code_at(cpu);
		assert_true(atomic_load(&f->memory.watched[page / 64]) >> page % 64 & 1);
	}
}

/* The deadline is a value of the TSC, whatever becomes of that. */
static void test_deadline_follows_tsc(void **state)
{
	const uint32_t enable = 0x1ff, deadline_mode = 0x40020;
	const uint64_t deadline = UINT64_C(1) << 60;
	struct fixture *f = *state;
	uint64_t seen;

	soft_mmio(f->cpu, 0xfee000f0, (void *)&enable, 4, true);
	soft_mmio(f->cpu, 0xfee00320, (void *)&deadline_mode, 4, true);
	assert_int_equal(soft_msr_write(f->cpu, 0x6e0, deadline), 0);
	assert_int_equal(soft_msr_write(f->cpu, 0x10, deadline / 2), 0);
	assert_int_equal(soft_msr_read(f->cpu, 0x6e0, &seen), 0);
	assert_int_equal(seen, deadline);
	assert_int_equal(soft_msr_write(f->cpu, 0x10, deadline), 0);
	assert_int_equal(soft_msr_read(f->cpu, 0x6e0, &seen), 0);
	assert_int_equal(seen, 0);
	soft_chips_enter(f->engine);
	assert_int_equal(soft_chips_interrupt_pending(f->engine->chips, 0), 0x20);
	soft_chips_leave(f->engine);
}

/* ---- what waits for its turn -------------------------------------------------------------------
 */

/* An NMI that comes in the shadow of MOV SS is taken behind the next instruction. */
static void test_nmi_in_shadow(void **state)
{
	static const uint8_t code[] = {0x90, 0xeb, 0xfe}; /* NOP; JMP to itself */
	struct fixture *f = *state;
	struct soft_cpu *cpu = f->cpu;

	memcpy(f->memory.base + 0x1000, code, sizeof(code));
	memcpy(f->memory.base + 4 * VEC_NMI, (uint16_t[2]){0x2000, 0}, 4);
	f->memory.base[0x2000] = 0xf4; /* HLT */
	cpu->seg[SEG_CS].selector = 0;
	cpu->seg[SEG_CS].base = 0;
	soft_mode_update(cpu);
	cpu->rip = 0x1000;
	cpu->r[SOFT_RSP] = 0x800;
	cpu->shadow = true;
	cpu->limit = 100;
	assert_int_equal(engine_soft.msi(f->engine, 0xfee00000, 4 << 8 /* NMI */), 0);
	assert_int_equal(soft_run(cpu), STOP_IDLE);
	assert_int_equal(cpu->rip, 0x2001);
	assert_int_equal(f->memory.base[0x7fa], 0x01); /* where it came back to: behind the NOP */
	assert_true(cpu->nmi_masked);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_double_faults),
		TEST(test_external_bit),
		TEST(test_msr_values),
		TEST(test_msr_unknown),
		TEST(test_control_registers),
		TEST(test_page_directory_pointers),
		TEST(test_start),
		TEST(test_cpuid),
		TEST(test_cpuid_single),
		TEST(test_data_breakpoints),
		TEST(test_device_memory),
		TEST(test_code_is_watched),
		TEST(test_deadline_follows_tsc),
		TEST(test_nmi_in_shadow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

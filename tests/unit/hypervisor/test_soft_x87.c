// SPDX-License-Identifier: Apache-2.0
/*
 * x87 instructions of the software CPU against the same octets executed by the host, from
 * random states: values, flags, tags, memory, with exceptions masked and not.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/x87.h"

#define CODE_PAGE UINT64_C(0x400000)
#define DATA_PAGE UINT64_C(0x10000)
#define OPERAND   64u /* where in the page; the rest of it shows what is overwritten */
#define INSN_MAX  8u
#define NO_VECTOR 256u

static struct soft_cpu *cpu;
static uint8_t *data, *native_data, *native_code;

/* ---- random ---------------------------------------------------------------------------- */

static uint64_t seed, state_of_random;

static uint64_t rnd(void)
{
	uint64_t z = state_of_random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static unsigned below(unsigned n)
{
	return (unsigned)(rnd() % n);
}

/* One of the kinds of values that differ in how they are treated. */
static void value_random(uint8_t out[10])
{
	static const uint64_t mantissas[] = {0,
					     UINT64_C(1) << 63,
					     UINT64_C(3) << 62,
					     UINT64_C(0xa000000000000000),
					     1,
					     UINT64_C(0x7fffffffffffffff),
					     UINT64_MAX};
	static const uint16_t exponents[] = {0,      1,      0x3fff, 0x4000, 0x3ffe, 0x403e,
					     0x7fff, 0x7ffe, 0x3c01, 0x43fe, 0x3f81, 0x407e};
	uint64_t mantissa = below(2) ? rnd() | UINT64_C(1) << 63 : mantissas[below(7)];
	uint16_t exponent = below(3)   ? (uint16_t)(0x3fff - 8 + below(16))
			    : below(3) ? exponents[below(12)]
				       : (uint16_t)(rnd() & 0x7fff);

	if (!below(16))
		mantissa = rnd();
	exponent |= (uint16_t)(below(2) << 15);
	memcpy(out, &mantissa, 8);
	memcpy(out + 8, &exponent, 2);
}

static void operand_random(uint8_t *out)
{
	static const uint32_t floats[] = {0,          0x80000000, 0x3f800000, 0x7f800000,
					  0x7f800001, 0x7fc00000, 1,          0x007fffff,
					  0x7f7fffff, 0xbf000000};
	static const uint64_t doubles[] = {0,
					   UINT64_C(1) << 63,
					   UINT64_C(0x3ff0000000000000),
					   UINT64_C(0x7ff0000000000000),
					   UINT64_C(0x7ff0000000000001),
					   1,
					   UINT64_C(0x7fefffffffffffff)};

	for (unsigned i = 0; i < 16; i++)
		out[i] = (uint8_t)rnd();
	switch (below(6)) {
	case 0:
		memcpy(out, &floats[below(10)], 4);
		break;
	case 1:
		memcpy(out, &doubles[below(7)], 8);
		break;
	case 2:
		value_random(out);
		break;
	case 3: /* BCD */
		for (unsigned i = 0; i < 9; i++)
			out[i] = (uint8_t)(below(10) << 4 | below(10));
		break;
	default:
		break;
	}
}

/* No exception is pending: the flags of those that are not masked are clear. */
static void image_random(struct x87_image *image, bool masked)
{
	memset(image, 0, sizeof(*image));
	image->control = (uint32_t)(rnd() & 0x1f3f) | 0x40;
	if (masked)
		image->control |= 0x3f;
	image->status = (uint32_t)(rnd() & 0x7f7f) & ~(~image->control & 0x3f);
	for (unsigned i = 0; i < 8; i++) {
		value_random(image->st[i]);
		if (!below(4))
			image->tags |= 3u << 2 * i;
	}
}

/* ---- both sides --------------------------------------------------------------------------- */

struct registers {
	uint64_t flags, rax;
};
typedef void native_fn(struct x87_image *image, struct registers *r, uint8_t *operand);

static void native_run(const uint8_t *insns, size_t n, struct x87_image *image, struct registers *r)
{
	/* frstor [rdi]; mov rax, [rsi + 8]; push [rsi]; popfq */
	static const uint8_t before[] = {0xdd, 0x27, 0x48, 0x8b, 0x46, 0x08, 0xff, 0x36, 0x9d};
	/* pushfq; pop [rsi]; mov [rsi + 8], rax; fnsave [rdi]; ret */
	static const uint8_t after[] = {0x9c, 0x8f, 0x06, 0x48, 0x89, 0x46, 0x08, 0xdd, 0x37, 0xc3};
	uint8_t *at = native_code;

	memcpy(at, before, sizeof(before));
	memcpy(at + sizeof(before), insns, n);
	memcpy(at + sizeof(before) + n, after, sizeof(after));
	((native_fn *)(uintptr_t)at)(image, r, native_data + OPERAND);
}

static struct soft_op *stop(struct soft_cpu *c, struct soft_op *op)
{
	return NULL;
}

/* The vector that it raised, or NO_VECTOR. */
static unsigned soft_run_insns(const uint8_t *insns, size_t n, enum soft_mode mode)
{
	struct soft_op ops[64];
	struct soft_builder b = {.ops = ops, .room = 64};
	struct soft_insn insn;
	size_t at = 0;

	while (at < n) {
		assert_int_equal(soft_decode(insns + at, n - at, mode, &insn), 0);
		soft_translate(&b, &insn, (uint16_t)at);
		at += insn.length;
	}
	ops[b.count] = (struct soft_op){.run = stop};
	if (sigsetjmp(cpu->leave, 0))
		return cpu->exception.vector;
	for (struct soft_op *op = ops; op;)
		op = op->run(cpu, op);
	return NO_VECTOR;
}

static void soft_set(const struct x87_image *image, const struct registers *r)
{
	memset(&cpu->x87, 0, sizeof(cpu->x87));
	x87_image_take(image, &cpu->x87);
	fl_set(cpu, (uint32_t)r->flags);
	cpu->r[SOFT_RAX] = r->rax;
	cpu->r[SOFT_RDX] = DATA_PAGE + OPERAND;
}

static void fail_at(const uint8_t *insns, size_t n, const char *what)
{
	char text[3 * 4 * INSN_MAX + 1] = "";

	for (size_t i = 0; i < n && i < 4 * INSN_MAX; i++)
		snprintf(text + 3 * i, 4, " %02x", insns[i]);
	fail_msg("seed %llu:%s: %s differs from the host's", (unsigned long long)seed, text, what);
}

static void both_run(const uint8_t *insns, size_t n, bool masked)
{
	struct registers r = {.flags = (rnd() & FLAGS_STATUS) | FLAG_ONE | FLAG_IF, .rax = rnd()};
	struct x87_image image;
	struct soft_x87 want = {0};

	image_random(&image, masked);
	operand_random(data + OPERAND);
	memcpy(native_data, data, VM_PAGE_SIZE);
	soft_set(&image, &r);
	native_run(insns, n, &image, &r);
	assert_int_equal(soft_run_insns(insns, n, MODE_64), NO_VECTOR);
	x87_image_take(&image, &want);
	for (unsigned i = 0; i < 8; i++)
		if (memcmp(&cpu->x87.st[i], &want.st[i], 10) != 0)
			fail_at(insns, n, "a register");
	if (cpu->x87.status != want.status)
		fail_at(insns, n, "the status word");
	if (cpu->x87.control != want.control)
		fail_at(insns, n, "the control word");
	if (cpu->x87.used != want.used)
		fail_at(insns, n, "a tag");
	if (fl_get(cpu) != (r.flags & FLAGS_STATUS))
		fail_at(insns, n, "RFLAGS");
	if (cpu->r[SOFT_RAX] != r.rax)
		fail_at(insns, n, "RAX");
	if (memcmp(data, native_data, VM_PAGE_SIZE) != 0)
		fail_at(insns, n, "memory");
}

/* ---- which there are ---------------------------------------------------------------------------
 */

static bool is_fisttp(unsigned opcode, unsigned reg)
{
	return reg == 1 && (opcode == 0xdb || opcode == 0xdd || opcode == 0xdf);
}

/* Those whose result is not of this state alone: environments hold addresses. */
static bool is_environment(unsigned opcode, unsigned reg)
{
	return (opcode == 0xd9 || opcode == 0xdd) && (reg == 4 || reg == 6);
}

static bool selects(const uint8_t *insn)
{
	struct soft_op ops[8];
	struct soft_insn decoded;
	struct soft_builder b = {.ops = ops, .room = 8, .insn = &decoded};

	assert_int_equal(soft_decode(insn, 3, MODE_64, &decoded), 0);
	return soft_select_x87(&b);
}

static unsigned random_insn(uint8_t out[3], bool sequence)
{
	for (;;) {
		unsigned opcode = 0xd8 + below(8), modrm = below(256), reg = modrm >> 3 & 7;
		bool memory = below(2);

		out[0] = (uint8_t)opcode;
		out[1] = (uint8_t)(memory ? 0x42 | reg << 3 : 0xc0 | modrm);
		out[2] = 0;
		if (!selects(out) || (memory && is_environment(opcode, reg)))
			continue;
		if (sequence && memory && opcode == 0xd9 && reg == 5)
			continue; /* FLDCW: might unmask what is there */
		return memory ? 3 : 2;
	}
}

static sigjmp_buf illegal;

static void on_illegal(int signo)
{
	siglongjmp(illegal, 1);
}

static bool host_executes(const uint8_t *insn)
{
	struct registers r = {.flags = FLAG_ONE | FLAG_IF};
	struct x87_image image = {.control = 0x37f, .tags = 0xffff};

	if (sigsetjmp(illegal, 1)) {
		__asm__ volatile("fninit");
		return false;
	}
	native_run(insn, 3, &image, &r);
	return true;
}

/* ---- tests
 * ---------------------------------------------------------------------------------------- */

static void test_the_hosts_instructions_are_ours(void **state)
{
	struct sigaction ill = {.sa_handler = on_illegal}, old;

	assert_int_equal(sigaction(SIGILL, &ill, &old), 0);
	for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++)
		for (unsigned modrm = 0xc0; modrm < 0x100; modrm++) {
			const uint8_t insn[3] = {(uint8_t)opcode, (uint8_t)modrm, 0x90};

			if (selects(insn) != host_executes(insn))
				fail_msg("%02x %02x is an instruction for one only", opcode, modrm);
		}
	for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++)
		for (unsigned reg = 0; reg < 8; reg++) {
			const uint8_t insn[3] = {(uint8_t)opcode, (uint8_t)(0x42 | reg << 3), 0};

			memset(native_data, 0, VM_PAGE_SIZE);
			native_data[OPERAND] = 0x7f; /* as an environment: all masked */
			native_data[OPERAND + 1] = 3;
			if (selects(insn) != (host_executes(insn) && !is_fisttp(opcode, reg)))
				fail_msg("%02x /%u is an instruction for one only", opcode, reg);
		}
	sigaction(SIGILL, &old, NULL);
}

static void test_single_instructions(void **state)
{
	uint8_t insn[3];

	for (unsigned i = 0; i < 200000; i++)
		both_run(insn, random_insn(insn, false), false);
}

static void test_sequences(void **state)
{
	uint8_t insns[3 * INSN_MAX];

	for (unsigned i = 0; i < 40000; i++) {
		unsigned n = 0;

		for (unsigned k = 0; k < INSN_MAX; k++)
			n += random_insn(insns + n, true);
		both_run(insns, n, true);
	}
}

/* FNSTENV and FNSAVE in both operand sizes: all but the pointers is the host's. */
static void environment_stored(const uint8_t *insn, size_t n, unsigned step, bool registers)
{
	struct registers r = {.flags = FLAG_ONE | FLAG_IF};
	unsigned size = 7 * step + (registers ? 80 : 0);
	struct x87_image image;

	image_random(&image, below(2));
	image.status |= rnd() & 0x3f; /* they do not wait: exceptions may be pending */
	memset(data, 0xaa, VM_PAGE_SIZE);
	memset(native_data, 0xaa, VM_PAGE_SIZE);
	soft_set(&image, &r);
	native_run(insn, n, &image, &r);
	assert_int_equal(soft_run_insns(insn, n, MODE_64), NO_VECTOR);
	for (unsigned k = 0; k < 3; k++)
		if (memcmp(data + OPERAND + k * step, native_data + OPERAND + k * step, step) != 0)
			fail_at(insn, n, "control, status or tags");
	if (memcmp(data + OPERAND + 7 * step, native_data + OPERAND + 7 * step,
		   VM_PAGE_SIZE - OPERAND - 7 * step) != 0)
		fail_at(insn, n, registers ? "the stack" : "what follows");
	if (cpu->x87.control != (uint16_t)image.control ||
	    cpu->x87.status != (uint16_t)image.status)
		fail_at(insn, n, "the state that it leaves");
	assert_int_equal(data[OPERAND + size], 0xaa);
}

static void environment_loaded(const uint8_t *insn, size_t n, unsigned step, bool registers)
{
	struct registers r = {.flags = FLAG_ONE | FLAG_IF};
	struct x87_image image;
	struct soft_x87 want = {0};
	uint16_t words[3] = {(uint16_t)rnd(), (uint16_t)rnd(), (uint16_t)rnd()};

	image_random(&image, true);
	memset(data, 0, VM_PAGE_SIZE);
	for (unsigned k = 0; k < 3; k++)
		memcpy(data + OPERAND + k * step, &words[k], 2);
	for (unsigned k = 0; registers && k < 8; k++)
		value_random(data + OPERAND + 7 * step + 10 * k);
	memcpy(native_data, data, VM_PAGE_SIZE);
	soft_set(&image, &r);
	native_run(insn, n, &image, &r);
	assert_int_equal(soft_run_insns(insn, n, MODE_64), NO_VECTOR);
	x87_image_take(&image, &want);
	if (memcmp(&cpu->x87.st, &want.st, sizeof(want.st)) != 0 || cpu->x87.used != want.used)
		fail_at(insn, n, "the stack");
	if (cpu->x87.control != want.control || cpu->x87.status != want.status)
		fail_at(insn, n, "control or status");
}

static void test_environments(void **state)
{
	/* 66, opcode, ModRM, displacement */
	static const uint8_t stenv[] = {0x66, 0xd9, 0x72, 0}, save[] = {0x66, 0xdd, 0x72, 0},
			     ldenv[] = {0x66, 0xd9, 0x62, 0}, restore[] = {0x66, 0xdd, 0x62, 0};

	for (unsigned i = 0; i < 2000; i++) {
		unsigned skip = i % 2, step = skip ? 4 : 2;

		environment_stored(stenv + skip, 4 - skip, step, false);
		environment_stored(save + skip, 4 - skip, step, true);
		environment_loaded(ldenv + skip, 4 - skip, step, false);
		environment_loaded(restore + skip, 4 - skip, step, true);
	}
}

static void test_pointers_follow_instructions(void **state)
{
	/* fld dword [rdx]; fnstcw [rdx + 8]; fnstenv [rdx + 16] */
	static const uint8_t insns[] = {0xd9, 0x42, 0x00, 0xd9, 0x7a, 0x08, 0xd9, 0x72, 0x10};
	struct registers r = {.flags = FLAG_ONE};
	struct x87_image image = {.control = 0x37f, .tags = 0xffff};
	uint32_t env[7];

	soft_set(&image, &r);
	assert_int_equal(soft_run_insns(insns, sizeof(insns), MODE_64), NO_VECTOR);
	assert_int_equal(cpu->x87.ip, CODE_PAGE);
	assert_int_equal(cpu->x87.dp, DATA_PAGE + OPERAND);
	assert_int_equal(cpu->x87.opcode, 0x142);
	memcpy(env, data + OPERAND + 16, sizeof(env));
	assert_int_equal(env[3], CODE_PAGE);
	assert_int_equal(env[4], 0x142u << 16);
	assert_int_equal(env[5], DATA_PAGE + OPERAND);
}

static void test_traps(void **state)
{
	static const uint8_t fld1[] = {0xd9, 0xe8}, wait[] = {0x9b}, clear[] = {0xdb, 0xe2},
			     locked[] = {0xf0, 0xd9, 0xe8}, fisttp[] = {0xdb, 0x4a, 0x00};
	struct registers r = {.flags = FLAG_ONE};
	struct x87_image image = {.control = 0x340, .status = 0x8084, .tags = 0xffff};

	soft_set(&image, &r); /* a division by zero, not masked */
	assert_int_equal(soft_run_insns(fld1, 2, MODE_64), VEC_MF);
	assert_int_equal(soft_run_insns(wait, 1, MODE_64), VEC_MF);
	assert_int_equal(cpu->x87.used, 0);
	assert_int_equal(soft_run_insns(clear, 2, MODE_64), NO_VECTOR);
	assert_int_equal(soft_run_insns(wait, 1, MODE_64), NO_VECTOR);
	cpu->cr0 = CR0_PE | CR0_TS;
	assert_int_equal(soft_run_insns(fld1, 2, MODE_64), VEC_NM);
	assert_int_equal(soft_run_insns(clear, 2, MODE_64), VEC_NM);
	assert_int_equal(soft_run_insns(wait, 1, MODE_64), NO_VECTOR);
	cpu->cr0 = CR0_PE | CR0_TS | CR0_MP;
	assert_int_equal(soft_run_insns(wait, 1, MODE_64), VEC_NM);
	cpu->cr0 = CR0_PE | CR0_EM;
	assert_int_equal(soft_run_insns(fld1, 2, MODE_64), VEC_NM);
	assert_int_equal(soft_run_insns(wait, 1, MODE_64), NO_VECTOR);
	cpu->cr0 = CR0_PE;
	assert_false(selects(fisttp));
	assert_false(selects(locked));
}

static int setup(void **state)
{
	struct soft_tlb_entry *t;

	cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);
	data = mmap(NULL, 2 * VM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	native_code = mmap(NULL, VM_PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!cpu || data == MAP_FAILED || native_code == MAP_FAILED)
		return -1;
	native_data = data + VM_PAGE_SIZE;
	memset(cpu, 0, sizeof(*cpu));
	cpu->tlb = cpu->tlbs[0];
	cpu->mode = MODE_64;
	cpu->cr0 = CR0_PE;
	cpu->r[SOFT_PAGE] = CODE_PAGE;
	t = soft_tlb_slot(cpu, DATA_PAGE);
	t->read = t->write = DATA_PAGE;
	t->host = data;
	seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)time(NULL);
	state_of_random = seed;
	print_message("seed %llu\n", (unsigned long long)seed);
	return 0;
}

static int teardown(void **state)
{
	free(cpu);
	munmap(data, 2 * VM_PAGE_SIZE);
	munmap(native_code, VM_PAGE_SIZE);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_hosts_instructions_are_ours),
		cmocka_unit_test(test_single_instructions),
		cmocka_unit_test(test_sequences),
		cmocka_unit_test(test_environments),
		cmocka_unit_test(test_pointers_follow_instructions),
		cmocka_unit_test(test_traps),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

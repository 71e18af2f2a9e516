// SPDX-License-Identifier: Apache-2.0
/*
 * MMX, SSE and SSE2 of engine soft against the processor that the test runs on: random
 * instructions of their part of the opcode map, with random operands, registers and
 * control bits. The seed is printed; SOFT_SEED repeats it, SOFT_CASES says how many.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include <cmocka.h>

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/fpu.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define VA        UINT64_C(0x10000)
#define CASES     60000
#define NO_VECTOR 255

/* As the assembly below has it. */
struct side {
	uint8_t fpu[FXSAVE_SIZE] __attribute__((aligned(16)));
	uint64_t r[14];  /* 512: RAX to R13; RSP, RBP and RDI are not an instruction's to change */
	uint64_t flags;  /* 624 */
	const void *run; /* 632 */
	uint8_t *memory;
	unsigned vector;
};
_Static_assert(offsetof(struct side, r) == 512 && offsetof(struct side, flags) == 624, "assembly");

void native_run(struct side *side);
__asm__(".text\n"
	"native_run:\n"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"sub $8, %rsp\n"
	"mov %rdi, %r14\n"
	"fxrstor64 (%r14)\n"
	"mov 512(%r14), %rax; mov 520(%r14), %rcx; mov 528(%r14), %rdx; mov 536(%r14), %rbx\n"
	"mov 560(%r14), %rsi; mov 568(%r14), %rdi; mov 576(%r14), %r8; mov 584(%r14), %r9\n"
	"mov 592(%r14), %r10; mov 600(%r14), %r11; mov 608(%r14), %r12; mov 616(%r14), %r13\n"
	"pushq 624(%r14); popfq\n"
	"call *632(%r14)\n"
	"pushfq; popq 624(%r14)\n"
	"mov %rax, 512(%r14); mov %rcx, 520(%r14); mov %rdx, 528(%r14); mov %rbx, 536(%r14)\n"
	"mov %rsi, 560(%r14); mov %rdi, 568(%r14); mov %r8, 576(%r14); mov %r9, 584(%r14)\n"
	"mov %r10, 592(%r14); mov %r11, 600(%r14); mov %r12, 608(%r14); mov %r13, 616(%r14)\n"
	"fxsave64 (%r14)\n"
	"fninit\n"
	"movl $0x1f80, (%rsp); ldmxcsr (%rsp)\n"
	"add $8, %rsp\n"
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"cld\n"
	"ret\n");

/* ---- random values ---------------------------------------------------------------------- */

static uint64_t state;

static uint64_t number(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned below(unsigned n)
{
	return (unsigned)(number() >> 33) % n;
}

static uint32_t single(void)
{
	static const uint32_t special[] = {
		0,          0x3f800000, 0x40000000, 0x7f800000, 0x7fc00000, 0x7fa00000, 0x00000001,
		0x007fffff, 0x00800000, 0x00800001, 0x7f7fffff, 0x4f000000, 0x4effffff, 0x3f000000,
		0x3effffff, 0x5f000000, 0x33800000, 0x1f800000, 0x20000000, 0x3fc00000, 0x00400000};

	return special[below(sizeof(special) / 4)] ^ (uint32_t)below(2) << 31;
}

static uint64_t twice(void)
{
	static const uint64_t special[] = {
		0,
		0x3ff0000000000000,
		0x4000000000000000,
		0x7ff0000000000000,
		0x7ff8000000000000,
		0x7ff4000000000000,
		1,
		0x000fffffffffffff,
		0x0010000000000000,
		0x0010000000000001,
		0x7fefffffffffffff,
		0x41dfffffffc00000,
		0x41e0000000000000,
		0x43e0000000000000,
		0x3fe0000000000000,
		0x380fffffe0000000,
		0x3690000000000000,
		0x47efffffe0000000,
		0x47efffffffffffff,
		0x1ff0000000000000,
		0x0008000000000000,
	};

	return special[below(sizeof(special) / 8)] ^ (uint64_t)below(2) << 63;
}

static uint64_t operand(unsigned kind)
{
	switch (kind) {
	case 0:
		return number();
	case 1:
		return single() | (uint64_t)single() << 32;
	case 2:
		return twice();
	case 3:
		return below(80);
	default:
		/* close to 1: sums and products that need rounding */
		return (number() & 0x807fffff807fffff) | 0x3f8000003f800000;
	}
}

static void fill(void *to, size_t octets)
{
	uint8_t *p = to;
	unsigned kind = below(5);

	for (size_t n = 0; n < octets; n += 8) {
		uint64_t v = operand(below(8) ? kind : below(5));

		memcpy(p + n, &v, octets - n < 8 ? octets - n : 8);
	}
}

static void word_put(uint8_t *at, uint64_t v, size_t octets)
{
	memcpy(at, &v, octets);
}

static uint32_t word_get(const uint8_t *at, size_t octets)
{
	uint32_t v = 0;

	memcpy(&v, at, octets);
	return v;
}

/* ---- one case ----------------------------------------------------------------------------- */

struct machine {
	struct engine engine;
	struct soft_cpu *cpu;
	uint8_t *memory[2]; /* the guest's and the host's page */
	uint8_t *code;
};

static struct soft_op *stop(struct soft_cpu *cpu, struct soft_op *op)
{
	return NULL;
}

static bool touches_general(uint8_t opcode)
{
	static const uint8_t opcodes[] = {0x2a, 0x2c, 0x2d, 0x50, 0x6e, 0x7e, 0xc4, 0xc5, 0xd7};

	return memchr(opcodes, opcode, sizeof(opcodes));
}

/* Later extensions that the host may have and the guest's CPU has not. */
static bool is_later(uint8_t opcode, uint8_t prefix)
{
	switch (opcode) {
	case 0x12:
		return prefix == 0xf2 || prefix == 0xf3;
	case 0x16:
		return prefix == 0xf3;
	case 0x2b:
		return prefix == 0xf2 || prefix == 0xf3;
	case 0x78:
	case 0x79:
	case 0x7c:
	case 0x7d:
	case 0xd0:
	case 0xf0:
		return true;
	default:
		return false;
	}
}

static uint8_t opcode_random(void)
{
	for (;;) {
		uint8_t o = (uint8_t)below(256);

		if ((o >= 0x10 && o <= 0x17) || (o >= 0x28 && o <= 0x2f) ||
		    (o >= 0x50 && o <= 0x7f) || o == 0xc2 || (o >= 0xc4 && o <= 0xc6) ||
		    (o >= 0xd0 && o <= 0xfe) || o == 0xae)
			return o;
	}
}

static bool has_immediate(uint8_t o)
{
	return (o >= 0x70 && o <= 0x73) || o == 0xc2 || (o >= 0xc4 && o <= 0xc6);
}

/* A memory operand is [RDI + disp8]; RSP, RBP, RDI, R14 and R15 do not change. */
static size_t insn_random(uint8_t *code)
{
	static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2}, general[] = {0, 1, 2, 3, 6};
	uint8_t opcode = opcode_random(), prefix = prefixes[below(4)];
	uint8_t rex = below(2) ? (uint8_t)(0x40 | below(16)) : 0;
	uint8_t reg = (uint8_t)below(8), rm = (uint8_t)below(8);
	bool memory = opcode == 0xae || below(2);
	size_t n = 0;

	if (opcode == 0xae) {
		prefix = 0;
		reg &= 3;
	}
	if (touches_general(opcode)) {
		reg = general[below(5)];
		rm = general[below(5)];
		rex &= rex & 4 && reg > 5 ? 0xfb : 0xff;
		rex &= rex & 1 && rm > 5 ? 0xfe : 0xff;
	}
	if (is_later(opcode, prefix))
		return insn_random(code);
	if (prefix)
		code[n++] = prefix;
	if (rex)
		code[n++] = memory ? rex & 0xfe : rex;
	code[n++] = 0x0f;
	code[n++] = opcode;
	if (opcode != 0x77) {
		code[n++] = (uint8_t)((memory ? 0x47 : 0xc0 | rm) | reg << 3);
		if (memory)
			code[n++] = (uint8_t)(below(2) ? below(8) * 16 : below(128));
	}
	if (has_immediate(opcode))
		code[n++] = (uint8_t)(below(2) ? below(20) : below(256));
	return n;
}

static void side_random(struct side *side)
{
	uint8_t *f = side->fpu;

	memset(side, 0, sizeof(*side));
	for (unsigned n = 0; n < 14; n++)
		fill(&side->r[n], 8);
	side->flags = FLAG_ONE | FLAG_IF | (number() & FLAGS_STATUS);
	fill(f + 160, 256);
	for (unsigned n = 0; n < 8; n++) {
		word_put(f + 32 + 16 * n, number(), 8);
		word_put(f + 40 + 16 * n, number(), 2);
	}
	/* An exception is pending now and then: status IE, control unmasks it. */
	word_put(f, below(16) ? 0x37f : 0x37e, 2);
	word_put(f + 2, number() & (below(8) ? 0x7f40 : 0x7f7f), 2);
	f[4] = (uint8_t)number();
	word_put(f + 24, below(2) ? 0x1f80 | (number() & 0x3f) : number() & 0xffff, 4);
}

/* What a FXRSTOR in the instruction may load. */
static void memory_random(uint8_t *memory)
{
	fill(memory, 1024);
	if (below(2))
		for (unsigned n = 26; n < 1024; n += 16)
			word_put(memory + n, 0, 2);
}

/* ---- the two ways to run it ----------------------------------------------------------------- */

static sigjmp_buf native_left;
static struct side *native_side;

static void native_fault(int number, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;

	native_side->vector = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
	memcpy(native_side->fpu, uc->uc_mcontext.fpregs, FXSAVE_SIZE);
	siglongjmp(native_left, 1);
}

static void native_case(struct side *side)
{
	native_side = side;
	side->vector = NO_VECTOR;
	if (!sigsetjmp(native_left, 1))
		native_run(side);
}

static __attribute__((noinline)) void ops_follow(struct soft_cpu *cpu, struct soft_op *op)
{
	while (op)
		op = op->run(cpu, op);
}

/* The vector of what it raises. */
static unsigned ops_run(struct soft_cpu *cpu, struct soft_op *op)
{
	if (op->run == soft_op_undefined)
		return VEC_UD;
	if (sigsetjmp(cpu->leave, 0))
		return cpu->exception.vector;
	ops_follow(cpu, op);
	return NO_VECTOR;
}

static void soft_case(struct machine *m, struct side *side, const uint8_t *code, size_t n)
{
	struct soft_cpu *cpu = m->cpu;
	struct soft_op ops[8];
	struct soft_builder b = {.ops = ops, .room = 8};
	struct soft_insn insn;

	assert_int_equal(soft_decode(code, n, MODE_64, &insn), 0);
	assert_int_equal(insn.length, n);
	soft_translate(&b, &insn, 0);
	assert_int_equal(soft_fxrstor(cpu, side->fpu), 0);
	memcpy(cpu->r, side->r, sizeof(side->r));
	fl_set(cpu, (uint32_t)side->flags);
	soft_emit(&b, stop);
	side->vector = ops_run(cpu, ops);
	memcpy(side->r, cpu->r, sizeof(side->r));
	side->flags = fl_get(cpu);
	soft_fxsave(cpu, side->fpu);
}

/* ---- what must be equal ------------------------------------------------------------------------
 */

/* With overflow or underflow raised, PE says whether the result would be inexact if the exponent
 * had no bounds, which engine soft does not find out. */
static uint32_t mxcsr_of(const struct side *s)
{
	uint32_t v = word_get(s->fpu + 24, 4);
	bool raised = s->vector == VEC_XM && v & ~(v >> 7) & 0x18;

	return raised ? v & ~0x20u : v;
}

static const char *difference(const struct side *a, const struct side *b)
{
	if (a->vector != b->vector)
		return "exception";
	for (unsigned n = 0; n < 14; n++)
		if (a->r[n] != b->r[n] && n != SOFT_RDI && a->vector == NO_VECTOR)
			return "general register";
	if (((a->flags ^ b->flags) & FLAGS_STATUS) && a->vector == NO_VECTOR)
		return "flags";
	/* Not the pointers, which some processors save only with an exception. */
	if (memcmp(a->fpu, b->fpu, 6))
		return "x87 state";
	if (mxcsr_of(a) != mxcsr_of(b))
		return "MXCSR";
	for (unsigned n = 0; n < 8; n++)
		if (memcmp(a->fpu + 32 + 16 * n, b->fpu + 32 + 16 * n, 10))
			return "x87 or MMX register";
	return memcmp(a->fpu + 160, b->fpu + 160, 256) ? "XMM register" : NULL;
}

/* An image that FXSAVE stored holds the pointers too, and the mask of the host's MXCSR. */
static void pointers_hide(const uint8_t *code, size_t n, const struct side *side, uint8_t *memory)
{
	uint8_t *image;

	if (n < 4 || code[n - 3] != 0xae || (code[n - 2] >> 3 & 7) || side->vector != NO_VECTOR)
		return;
	image = memory + (side->r[SOFT_RDI] & 0xfff) + code[n - 1];
	memset(image + 6, 0, 18);
	memset(image + 28, 0, 4);
	for (unsigned i = 0; i < 8; i++)
		memset(image + 42 + 16 * i, 0, 6);
}

static void dump(const char *what, const struct side *s)
{
	print_message("%s: vector %u status %#x used %#x mxcsr %#x flags %#lx\n", what, s->vector,
		      word_get(s->fpu + 2, 2), s->fpu[4], word_get(s->fpu + 24, 4),
		      s->flags & FLAGS_STATUS);
	for (unsigned n = 0; n < 16; n++)
		print_message(
			"%s%08x%08x%08x%08x", n % 4 ? " " : "\n  ",
			word_get(s->fpu + 172 + 16 * n, 4), word_get(s->fpu + 168 + 16 * n, 4),
			word_get(s->fpu + 164 + 16 * n, 4), word_get(s->fpu + 160 + 16 * n, 4));
	print_message("\n ");
	for (unsigned n = 0; n < 14; n++)
		print_message(" %lx", s->r[n]);
	print_message("\n");
}

static void case_report(const char *what, const uint8_t *code, size_t n, const struct side *sides)
{
	print_message("%s differs:", what);
	for (size_t i = 0; i < n; i++)
		print_message(" %02x", code[i]);
	print_message("\n");
	dump("before", &sides[2]);
	dump("soft", &sides[0]);
	dump("native", &sides[1]);
}

/* AMD's processors have a bit in MXCSR that the model has not: LDMXCSR takes it there. */
static bool is_host_s_mxcsr(const struct side *soft, const struct side *native)
{
	return soft->vector == VEC_GP && word_get(native->fpu + 24, 4) >> 16;
}

/* Two vectors have no difference that the architecture names. */
static bool case_run(struct machine *m)
{
	struct side sides[3];
	uint64_t offset = below(2) ? 0 : 16 * below(8);
	const char *what;
	size_t n;

	n = insn_random(m->code);
	m->code[n] = 0xc3;
	memory_random(m->memory[0]);
	memcpy(m->memory[1], m->memory[0], VM_PAGE_SIZE);
	side_random(&sides[0]);
	/* The summary of pending exceptions is the processor's to compute. */
	assert_int_equal(soft_fxrstor(m->cpu, sides[0].fpu), 0);
	soft_fxsave(m->cpu, sides[0].fpu);
	sides[1] = sides[2] = sides[0];
	sides[0].r[SOFT_RDI] = VA + offset;
	sides[1].r[SOFT_RDI] = (uint64_t)m->memory[1] + offset;
	sides[1].run = m->code;
	soft_case(m, &sides[0], m->code, n);
	native_case(&sides[1]);
	pointers_hide(m->code, n, &sides[0], m->memory[0]);
	pointers_hide(m->code, n, &sides[1], m->memory[1]);
	if (is_host_s_mxcsr(&sides[0], &sides[1]))
		return true;
	what = difference(&sides[0], &sides[1]);
	if (!what && memcmp(m->memory[0], m->memory[1], VM_PAGE_SIZE))
		what = "memory";
	if (what)
		case_report(what, m->code, n, sides);
	return !what;
}

/* ---- set-up
 * --------------------------------------------------------------------------------------- */

static uint8_t *pages(int rights)
{
	uint8_t *p = mmap(NULL, VM_PAGE_SIZE, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void machine_create(struct machine *m)
{
	struct soft_cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);
	struct soft_tlb_entry *t;

	assert_non_null(cpu);
	memset(m, 0, sizeof(*m));
	memset(cpu, 0, sizeof(*cpu));
	m->cpu = cpu;
	m->memory[0] = pages(PROT_READ | PROT_WRITE);
	m->memory[1] = pages(PROT_READ | PROT_WRITE);
	m->code = pages(PROT_READ | PROT_WRITE | PROT_EXEC);
	cpu->engine = &m->engine;
	cpu->mode = MODE_64;
	cpu->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP;
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	cpu->tlb = cpu->tlbs[0];
	t = soft_tlb_slot(cpu, VA);
	t->read = t->write = VA;
	t->host = m->memory[0];
}

static void machine_destroy(struct machine *m)
{
	munmap(m->memory[0], VM_PAGE_SIZE);
	munmap(m->memory[1], VM_PAGE_SIZE);
	munmap(m->code, VM_PAGE_SIZE);
	free(m->cpu);
}

/* ---- tests
 * ------------------------------------------------------------------------------------------ */

static void random_instructions_do_what_the_processor_does(void **unused)
{
	static const int signals[] = {SIGILL, SIGSEGV, SIGFPE, SIGBUS};
	struct sigaction action = {.sa_sigaction = native_fault, .sa_flags = SA_SIGINFO}, old[4];
	const char *seed = getenv("SOFT_SEED"), *cases = getenv("SOFT_CASES");
	unsigned count = cases ? (unsigned)strtoul(cases, NULL, 0) : CASES, failed = 0;
	struct machine m;

	state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * 1000003;
	print_message("SOFT_SEED=%lu\n", state);
	machine_create(&m);
	for (unsigned n = 0; n < 4; n++)
		sigaction(signals[n], &action, &old[n]);
	for (unsigned n = 0; n < count && failed < 5; n++)
		failed += !case_run(&m);
	for (unsigned n = 0; n < 4; n++)
		sigaction(signals[n], &old[n], NULL);
	machine_destroy(&m);
	assert_int_equal(failed, 0);
}

static unsigned vector_of(struct machine *m, const void *code, size_t n)
{
	struct side side;

	side_random(&side);
	word_put(side.fpu, 0x37f, 2);
	word_put(side.fpu + 24, MXCSR_DEFAULT, 4);
	side.r[SOFT_RDI] = VA;
	soft_case(m, &side, code, n);
	return side.vector;
}
#define VECTOR_OF(m, code) vector_of(m, code, sizeof(code) - 1)

#define PADDB_XMM          "\x66\x0f\xfc\xc1"
#define PADDB_MMX          "\x0f\xfc\xc1"
#define FXSAVE             "\x0f\xae\x07"

static void control_registers_decide_who_may(void **unused)
{
	struct machine m;

	state = 1;
	machine_create(&m);
	assert_int_equal(VECTOR_OF(&m, PADDB_XMM), NO_VECTOR);
	m.cpu->cr0 |= CR0_TS;
	assert_int_equal(VECTOR_OF(&m, PADDB_XMM), VEC_NM);
	assert_int_equal(VECTOR_OF(&m, PADDB_MMX), VEC_NM);
	assert_int_equal(VECTOR_OF(&m, FXSAVE), VEC_NM);
	m.cpu->cr4 &= ~CR4_OSFXSR;
	assert_int_equal(VECTOR_OF(&m, PADDB_XMM), VEC_UD);
	m.cpu->cr0 &= ~CR0_TS;
	assert_int_equal(VECTOR_OF(&m, PADDB_XMM), VEC_UD);
	assert_int_equal(VECTOR_OF(&m, PADDB_MMX), NO_VECTOR);
	assert_int_equal(VECTOR_OF(&m, FXSAVE), NO_VECTOR);
	m.cpu->cr0 |= CR0_EM;
	assert_int_equal(VECTOR_OF(&m, PADDB_MMX), VEC_UD);
	assert_int_equal(VECTOR_OF(&m, FXSAVE), VEC_NM);
	machine_destroy(&m);
}

/* 1 / 0 with ZM clear. */
static void exceptions_need_the_guest_s_consent(void **unused)
{
	static const uint8_t divss[] = {0xf3, 0x0f, 0x5e, 0xc1};
	struct machine m;
	struct side side;

	machine_create(&m);
	for (unsigned on = 0; on < 2; on++) {
		memset(&side, 0, sizeof(side));
		word_put(side.fpu + 24, 0x1d80, 4);
		word_put(side.fpu + 160, 0x3f800000, 4);
		m.cpu->cr4 = CR4_OSFXSR | (on ? CR4_OSXMMEXCPT : 0);
		soft_case(&m, &side, divss, sizeof(divss));
		assert_int_equal(side.vector, on ? VEC_XM : VEC_UD);
		assert_int_equal(m.cpu->mxcsr, 0x1d84);
		assert_int_equal(m.cpu->xmm[0].d[0], 0x3f800000);
	}
	machine_destroy(&m);
}

static void an_image_with_reserved_bits_changes_nothing(void **unused)
{
	struct machine m;
	uint8_t image[FXSAVE_SIZE], before[FXSAVE_SIZE], after[FXSAVE_SIZE];

	machine_create(&m);
	soft_fxsave(m.cpu, before);
	memset(image, 0xff, sizeof(image));
	assert_int_not_equal(soft_fxrstor(m.cpu, image), 0);
	soft_fxsave(m.cpu, after);
	assert_memory_equal(before, after, sizeof(before));
	machine_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_instructions_do_what_the_processor_does),
		cmocka_unit_test(control_registers_decide_who_may),
		cmocka_unit_test(exceptions_need_the_guest_s_consent),
		cmocka_unit_test(an_image_with_reserved_bits_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* x87 instructions: AMD64 Architecture Programmer's Manual, volume 5. */
#include "hypervisor/soft/x87.h"

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/mmu.h"

#define EXCEPTIONS  0x3fu
#define NO_STORE    0x1fu /* IE DE ZE OE UE: unmasked, they leave memory alone */
#define OPERAND_MAX 10u

/* In struct soft_op: */
#define OP_FOP(op)     ((uint16_t)((op)->imm >> 16)) /* low 3 bits of the opcode, ModRM */
#define OP_CODE(op)    ((uint8_t)((op)->imm >> 8))   /* opcode */
#define OP_MODRM(op)   ((uint8_t)(op)->imm)
#define OP_SEGMENT(op) ((op)->reg)
#define OP_SIZE(op)    ((op)->aux) /* of the memory operand */

/* ---- gates ---------------------------------------------------------------------------------- */

/* What the unit makes of the flags whatever ES says: an exception here would be the host's. */
static bool must_trap(const struct soft_cpu *cpu)
{
	return cpu->x87.status & ~cpu->x87.control & EXCEPTIONS;
}

/* Those that do not wait: FNINIT, FNCLEX, FNSTCW, FNSTSW, FNSTENV, FNSAVE. */
static struct soft_op *gate_quiet(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		soft_raise(cpu, op, VEC_NM);
	return soft_next(cpu, op);
}

static struct soft_op *gate(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		soft_raise(cpu, op, VEC_NM);
	if (must_trap(cpu))
		soft_raise(cpu, op, VEC_MF);
	return soft_next(cpu, op);
}

static struct soft_op *x87_wait(struct soft_cpu *cpu, struct soft_op *op)
{
	if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		soft_raise(cpu, op, VEC_NM);
	if (must_trap(cpu))
		soft_raise(cpu, op, VEC_MF);
	return soft_next(cpu, op);
}

/* ---- operations; their work is in functions of its own, as locals whose address is known
 * elsewhere would keep the last call from becoming a jump ------------------------------------- */

#define NOINLINE __attribute__((noinline))

static void note_code(struct soft_cpu *cpu, const struct soft_op *op)
{
	cpu->x87.ip = soft_rip(cpu, op);
	cpu->x87.opcode = OP_FOP(op);
}

static void note_data(struct soft_cpu *cpu, const struct soft_op *op, uint64_t va)
{
	uint64_t offset = va - cpu->r[SOFT_BASE_ES + OP_SEGMENT(op)];

	note_code(cpu, op);
	cpu->x87.dp = cpu->mode == MODE_64 ? offset : (uint32_t)offset;
}

NOINLINE static void execute_register(struct soft_cpu *cpu, struct soft_op *op)
{
	struct x87_image image;

	x87_image_make(&cpu->x87, &image);
	x87_execute(&image, x87_code_register(OP_CODE(op), OP_MODRM(op)), NULL);
	x87_image_take(&image, &cpu->x87);
}

static struct soft_op *x87_register(struct soft_cpu *cpu, struct soft_op *op)
{
	execute_register(cpu, op);
	note_code(cpu, op);
	return soft_next(cpu, op);
}

/* FCMOVcc, FCOMI and the like. */
NOINLINE static void execute_flags(struct soft_cpu *cpu, struct soft_op *op)
{
	struct x87_image image;
	uint64_t flags;

	x87_image_make(&cpu->x87, &image);
	flags = x87_execute_flags(&image, x87_code_register(OP_CODE(op), OP_MODRM(op)),
				  FLAG_ONE | FLAG_IF | fl_get(cpu));
	x87_image_take(&image, &cpu->x87);
	fl_set(cpu, (uint32_t)flags & FLAGS_STATUS);
}

static struct soft_op *x87_flags(struct soft_cpu *cpu, struct soft_op *op)
{
	execute_flags(cpu, op);
	note_code(cpu, op);
	return soft_next(cpu, op);
}

NOINLINE static void execute_load(struct soft_cpu *cpu, struct soft_op *op, uint64_t va)
{
	struct x87_image image;
	uint8_t operand[OPERAND_MAX];

	soft_read_bytes(cpu, op, va, operand, OP_SIZE(op));
	x87_image_make(&cpu->x87, &image);
	x87_execute(&image, x87_code_memory(OP_CODE(op), OP_MODRM(op) >> 3), operand);
	x87_image_take(&image, &cpu->x87);
}

static struct soft_op *x87_load(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_ea(cpu, op);

	execute_load(cpu, op, va);
	note_data(cpu, op, va);
	return soft_next(cpu, op);
}

/* The guest's memory first: it may fault, also if an unmasked exception keeps the value from
 * being stored; then nothing must have changed. */
NOINLINE static void execute_store(struct soft_cpu *cpu, struct soft_op *op, uint64_t va)
{
	struct x87_image image;
	uint8_t operand[OPERAND_MAX];

	x87_image_make(&cpu->x87, &image);
	x87_execute(&image, x87_code_memory(OP_CODE(op), OP_MODRM(op) >> 3), operand);
	if (image.status & ~image.control & NO_STORE)
		soft_write_check(cpu, op, va, OP_SIZE(op));
	else
		soft_write_bytes(cpu, op, va, operand, OP_SIZE(op));
	x87_image_take(&image, &cpu->x87);
}

static struct soft_op *x87_store(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_ea(cpu, op);

	execute_store(cpu, op, va);
	note_data(cpu, op, va);
	return soft_next(cpu, op);
}

/* ---- control -----------------------------------------------------------------------------------
 */

static struct soft_op *x87_init(struct soft_cpu *cpu, struct soft_op *op)
{
	execute_register(cpu, op);
	cpu->x87.ip = cpu->x87.dp = cpu->x87.opcode = 0;
	return soft_next(cpu, op);
}

static struct soft_op *x87_clear(struct soft_cpu *cpu, struct soft_op *op)
{
	execute_register(cpu, op);
	return soft_next(cpu, op);
}

/* FNENI, FNDISI and FNSETPM of older coprocessors. */
static struct soft_op *x87_nothing(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_next(cpu, op);
}

static struct soft_op *x87_load_control(struct soft_cpu *cpu, struct soft_op *op)
{
	execute_load(cpu, op, soft_ea(cpu, op));
	return soft_next(cpu, op);
}

static struct soft_op *x87_store_control(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_write16(cpu, op, soft_ea(cpu, op), cpu->x87.control);
	return soft_next(cpu, op);
}

static struct soft_op *x87_store_status(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_write16(cpu, op, soft_ea(cpu, op), cpu->x87.status);
	return soft_next(cpu, op);
}

static struct soft_op *x87_status_ax(struct soft_cpu *cpu, struct soft_op *op)
{
	memcpy(&cpu->r[SOFT_RAX], &cpu->x87.status, 2);
	return soft_next(cpu, op);
}

/* ---- environments
 * -------------------------------------------------------------------------------- */

/* In 16-bit operand size, and in real and virtual-8086 mode, the layouts differ (volume 1,
 * section 6.4.3). Selectors of code and data are not kept: they are stored as 0, and where
 * the layout has linear addresses it gets offsets. */
struct environment {
	uint8_t octets[X87_ENVIRONMENT];
	unsigned size;
};

static void put16(uint8_t *p, uint64_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static bool real_addresses(const struct soft_cpu *cpu)
{
	return !(cpu->cr0 & CR0_PE) || cpu->flags & FLAG_VM;
}

static void environment_make(const struct soft_cpu *cpu, unsigned operand,
			     const struct x87_image *image, struct environment *out)
{
	const struct soft_x87 *x = &cpu->x87;
	unsigned step = operand == 2 ? 2 : 4;
	uint64_t ip = x->ip, dp = x->dp;
	bool real = real_addresses(cpu);
	uint8_t *p = out->octets;

	memset(p, step == 2 ? 0 : 0xff, X87_ENVIRONMENT);
	out->size = 7 * step;
	put16(p, image->control);
	put16(p + step, image->status);
	put16(p + 2 * step, image->tags);
	put16(p + 3 * step, ip);
	put16(p + 5 * step, dp);
	if (step == 2) {
		put16(p + 8, real ? (ip >> 4 & 0xf000) | x->opcode : 0);
		put16(p + 12, real ? dp >> 4 & 0xf000 : 0);
		return;
	}
	put16(p + 14, real ? 0 : ip >> 16);
	put16(p + 16, real ? (ip >> 4 & 0xf000) | x->opcode : 0);
	put16(p + 18, real ? ip >> 20 : x->opcode);
	put16(p + 22, real ? 0 : dp >> 16);
	put16(p + 24, real ? dp >> 4 & 0xf000 : 0);
	put16(p + 26, real ? dp >> 20 : 0xffff);
}

/* Control, status and tags into `image`, the rest into `x`. */
static void environment_take(const struct soft_cpu *cpu, unsigned operand, const uint8_t *p,
			     struct x87_image *image, struct soft_x87 *x)
{
	unsigned step = operand == 2 ? 2 : 4;
	bool real = real_addresses(cpu);

	image->control = get16(p);
	image->status = get16(p + step);
	image->tags = get16(p + 2 * step);
	x->ip = get16(p + 3 * step);
	x->dp = get16(p + 5 * step);
	x->opcode = 0;
	if (step == 2 && real) {
		x->ip |= (uint32_t)(get16(p + 8) & 0xf000) << 4;
		x->dp |= (uint32_t)(get16(p + 12) & 0xf000) << 4;
		x->opcode = get16(p + 8) & 0x7ff;
	} else if (step == 4 && real) {
		x->ip |= (uint32_t)(get16(p + 16) & 0xf000) << 4 | (uint32_t)get16(p + 18) << 20;
		x->dp |= (uint32_t)(get16(p + 24) & 0xf000) << 4 | (uint32_t)get16(p + 26) << 20;
		x->opcode = get16(p + 16) & 0x7ff;
	} else if (step == 4) {
		x->ip |= (uint32_t)get16(p + 14) << 16;
		x->dp |= (uint32_t)get16(p + 22) << 16;
		x->opcode = get16(p + 18) & 0x7ff;
	}
}

/* FNSTENV and, with the registers, FNSAVE: the unit says what is stored and what the state
 * is afterwards. OP_SIZE is the operand size. */
NOINLINE static void store_environment(struct soft_cpu *cpu, struct soft_op *op, bool registers)
{
	struct x87_image image, stored = {0};
	struct environment env = {0};
	uint8_t all[sizeof(stored)];

	x87_image_make(&cpu->x87, &image);
	x87_execute(&image, x87_code_memory(OP_CODE(op), OP_MODRM(op) >> 3), &stored);
	environment_make(cpu, OP_SIZE(op), &stored, &env);
	memcpy(all, env.octets, env.size);
	if (registers)
		memcpy(all + env.size, stored.st, sizeof(stored.st));
	soft_write_bytes(cpu, op, soft_ea(cpu, op), all,
			 env.size + (registers ? sizeof(stored.st) : 0));
	x87_image_take(&image, &cpu->x87);
	if (registers)
		cpu->x87.ip = cpu->x87.dp = cpu->x87.opcode = 0;
}

NOINLINE static void load_environment(struct soft_cpu *cpu, struct soft_op *op, bool registers)
{
	struct x87_image image, loaded = {0};
	unsigned size = OP_SIZE(op) == 2 ? X87_ENVIRONMENT / 2 : X87_ENVIRONMENT;
	uint8_t all[sizeof(loaded)];

	soft_read_bytes(cpu, op, soft_ea(cpu, op), all, size + (registers ? sizeof(loaded.st) : 0));
	x87_image_make(&cpu->x87, &image);
	environment_take(cpu, OP_SIZE(op), all, &loaded, &cpu->x87);
	if (registers)
		memcpy(loaded.st, all + size, sizeof(loaded.st));
	x87_execute(&image, x87_code_memory(OP_CODE(op), OP_MODRM(op) >> 3), &loaded);
	x87_image_take(&image, &cpu->x87);
}

#define ENVIRONMENT(name, work, registers)                                                         \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		work(cpu, op, registers);                                                          \
		return soft_next(cpu, op);                                                         \
	}
ENVIRONMENT(x87_store_env, store_environment, false)
ENVIRONMENT(x87_save, store_environment, true)
ENVIRONMENT(x87_load_env, load_environment, false)
ENVIRONMENT(x87_restore, load_environment, true)

/* ---- selection
 * ------------------------------------------------------------------------------------- */

#define SIZE_ENV 255 /* by the operand size */
struct memory_form {
	soft_fn *run;
	uint8_t size, access;
	bool quiet;
};
#define L(n)                                                                                       \
	{                                                                                          \
		x87_load, n, SOFT_READ, false                                                      \
	}
#define S(n)                                                                                       \
	{                                                                                          \
		x87_store, n, SOFT_WRITE, false                                                    \
	}
/* DB /1, DD /1 and DF /1 are FISTTP, of SSE3. */
static const struct memory_form memory_forms[8][8] = {
	{L(4), L(4), L(4), L(4), L(4), L(4), L(4), L(4)},
	{L(4),
	 {0},
	 S(4),
	 S(4),
	 {x87_load_env, SIZE_ENV, SOFT_READ, false},
	 {x87_load_control, 2, SOFT_READ, false},
	 {x87_store_env, SIZE_ENV, SOFT_WRITE, true},
	 {x87_store_control, 2, SOFT_WRITE, true}},
	{L(4), L(4), L(4), L(4), L(4), L(4), L(4), L(4)},
	{L(4), {0}, S(4), S(4), {0}, L(10), {0}, S(10)},
	{L(8), L(8), L(8), L(8), L(8), L(8), L(8), L(8)},
	{L(8),
	 {0},
	 S(8),
	 S(8),
	 {x87_restore, SIZE_ENV, SOFT_READ, false},
	 {0},
	 {x87_save, SIZE_ENV, SOFT_WRITE, true},
	 {x87_store_status, 2, SOFT_WRITE, true}},
	{L(2), L(2), L(2), L(2), L(2), L(2), L(2), L(2)},
	{L(2), {0}, S(2), S(2), L(10), L(8), S(10), S(8)},
};

/* Bit n: ModRM C0 + n is an instruction. Second encodings that no manual lists are there
 * as the hardware has them (DC D0 FCOM, DD C8 FXCH, DF C0 FFREEP, ...). */
static const uint64_t register_forms[8] = {
	UINT64_C(0xffffffffffffffff), UINT64_C(0xffff7f33ff01ffff), UINT64_C(0x00000200ffffffff),
	UINT64_C(0x00ffff1fffffffff), UINT64_C(0xffffffffffffffff), UINT64_C(0x0000ffffffffffff),
	UINT64_C(0xffffffff02ffffff), UINT64_C(0x00ffff01ffffffff),
};

static soft_fn *register_fn(uint8_t opcode, uint8_t modrm)
{
	bool compares = modrm >= 0xe8 && modrm < 0xf8 && (opcode == 0xdb || opcode == 0xdf);
	bool moves = modrm < 0xe0 && (opcode == 0xda || opcode == 0xdb);

	if (opcode == 0xdf && modrm == 0xe0)
		return x87_status_ax;
	if (opcode == 0xdb && modrm == 0xe3)
		return x87_init;
	if (opcode == 0xdb && modrm == 0xe2)
		return x87_clear;
	if (opcode == 0xdb && (modrm == 0xe0 || modrm == 0xe1 || modrm == 0xe4))
		return x87_nothing;
	return compares || moves ? x87_flags : x87_register;
}

/* The ModRM octet follows the opcode, the first octet that is no prefix. */
static uint8_t modrm_of(const struct soft_insn *i)
{
	unsigned at = 0;

	while (at + 2u < i->length && (i->bytes[at] & 0xf8) != 0xd8)
		at++;
	return i->bytes[at + 1];
}

static void fill(struct soft_op *op, const struct soft_insn *i, uint8_t modrm)
{
	op->imm = (uint32_t)((i->opcode & 7) << 8 | modrm) << 16 | (uint32_t)i->opcode << 8 | modrm;
	op->reg = i->seg;
}

static bool select_memory(struct soft_builder *b, uint8_t modrm)
{
	const struct soft_insn *i = b->insn;
	const struct memory_form *f = &memory_forms[i->opcode & 7][modrm >> 3 & 7];
	bool registers = f->run == x87_save || f->run == x87_restore;
	unsigned step = i->operand == 2 ? 2 : 4, size = f->size;
	struct soft_op *op;

	if (!f->run)
		return false;
	if (size == SIZE_ENV)
		size = 7 * step + (registers ? 80 : 0);
	soft_emit(b, f->quiet ? gate_quiet : gate);
	op = soft_emit_memory(b, f->run, f->access, size);
	fill(op, i, modrm);
	op->aux = f->size == SIZE_ENV ? (uint8_t)step : f->size;
	return true;
}

static bool select_register(struct soft_builder *b, uint8_t modrm)
{
	const struct soft_insn *i = b->insn;
	soft_fn *run = register_fn(i->opcode, modrm);
	bool quiet =
		run == x87_init || run == x87_clear || run == x87_nothing || run == x87_status_ax;

	if (!(register_forms[i->opcode & 7] >> (modrm & 63) & 1))
		return false;
	soft_emit(b, quiet ? gate_quiet : gate);
	fill(soft_emit(b, run), i, modrm);
	return true;
}

bool soft_select_x87(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (i->lock)
		return false;
	if (i->opcode == 0x9b) {
		soft_emit(b, x87_wait);
		return true;
	}
	return i->memory ? select_memory(b, modrm_of(i)) : select_register(b, modrm_of(i));
}

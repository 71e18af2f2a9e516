// SPDX-License-Identifier: Apache-2.0
/* MUL, IMUL, DIV, IDIV. Other flags than CF and OF stay, as on AMD's CPUs. */
#include "hypervisor/soft/integer.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}

typedef unsigned __int128 wide;
typedef __int128 wide_signed;

/* CF and OF: the result needs its upper half. */
INLINE void flags_multiply(struct soft_cpu *cpu, bool large)
{
	cpu->fl_aux = (cpu->fl_aux & ~(FL_CF | FL_PO)) | (uint64_t)large << 63;
}

/* ---- RDX:RAX by RAX; AX for octets --------------------------------------------------------- */

INLINE void pair_put(struct soft_cpu *cpu, uint64_t low, uint64_t high, unsigned size)
{
	reg_put(cpu, REG(SOFT_RAX), low, size);
	reg_put(cpu, size == 1 ? REG(SOFT_RAX) + 1 : REG(SOFT_RDX), high, size);
}
INLINE uint64_t pair_high(const struct soft_cpu *cpu, unsigned size)
{
	return reg_get(cpu, size == 1 ? REG(SOFT_RAX) + 1 : REG(SOFT_RDX), size);
}

INLINE void multiply(struct soft_cpu *cpu, struct soft_op *op, uint64_t b, bool is_signed,
		     unsigned size)
{
	uint64_t a = reg_get(cpu, REG(SOFT_RAX), size), low, high;
	wide r;

	if (is_signed)
		r = (wide)((wide_signed)fl_extend(a, size) * fl_extend(b, size));
	else
		r = (wide)a * b;
	low = cut((uint64_t)r, size);
	high = cut((uint64_t)(r >> 8 * size), size);
	flags_multiply(cpu, high != (is_signed ? cut(signs(low, size), size) : 0));
	pair_put(cpu, low, high, size);
}

/* ---- IMUL of two and three operands --------------------------------------------------------- */

INLINE void multiply_to(struct soft_cpu *cpu, struct soft_op *op, uint64_t a, uint64_t b,
			unsigned size)
{
	int64_t x = fl_extend(a, size), y = fl_extend(b, size), r;
	bool large = __builtin_mul_overflow(x, y, &r);

	flags_multiply(cpu, large || fl_extend((uint64_t)r, size) != r);
	reg_put(cpu, op->reg, (uint64_t)r, size);
}

#define MULTIPLY(size)                                                                             \
	SOFT_FN(mul_r##size, multiply(cpu, op, reg_get(cpu, op->rm, size), false, size))           \
	SOFT_FN(mul_m##size,                                                                       \
		multiply(cpu, op, load(cpu, op, soft_ea(cpu, op), size), false, size))             \
	SOFT_FN(imul_r##size, multiply(cpu, op, reg_get(cpu, op->rm, size), true, size))           \
	SOFT_FN(imul_m##size, multiply(cpu, op, load(cpu, op, soft_ea(cpu, op), size), true, size))
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(4)
MULTIPLY(8)
static soft_fn *const multiply_fns[2][2][4] = {
	{SIZES(mul_r), SIZES(mul_m)},
	{SIZES(imul_r), SIZES(imul_m)},
};

#define MULTIPLY_TO(size)                                                                          \
	SOFT_FN(imul2_r##size, multiply_to(cpu, op, reg_get(cpu, op->reg, size),                   \
					   reg_get(cpu, op->rm, size), size))                      \
	SOFT_FN(imul2_m##size, multiply_to(cpu, op, reg_get(cpu, op->reg, size),                   \
					   load(cpu, op, soft_ea(cpu, op), size), size))           \
	SOFT_FN(imul3_r##size, multiply_to(cpu, op, reg_get(cpu, op->rm, size), op->imm, size))    \
	SOFT_FN(imul3_m##size,                                                                     \
		multiply_to(cpu, op, load(cpu, op, soft_ea(cpu, op), size), op->imm, size))
MULTIPLY_TO(2)
MULTIPLY_TO(4)
MULTIPLY_TO(8)
static soft_fn *const multiply_to_fns[2][2][4] = {
	{{NULL, imul2_r2, imul2_r4, imul2_r8}, {NULL, imul2_m2, imul2_m4, imul2_m8}},
	{{NULL, imul3_r2, imul3_r4, imul3_r8}, {NULL, imul3_m2, imul3_m4, imul3_m8}},
};

static void emit(struct soft_builder *b, soft_fn *const fns[2][4], unsigned size)
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = fns[i->memory][size_index(size)];

	if (i->memory)
		soft_emit_memory(b, fn, SOFT_READ, size);
	else
		soft_emit(b, fn)->rm = reg_at(i, i->rm, size);
}

/* F6, F7 /4, /5; 69, 6B; 0F AF */
bool soft_select_multiply(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (i->map == MAP_0F)
		emit(b, multiply_to_fns[0], i->operand);
	else if (i->opcode < 0x80)
		emit(b, multiply_to_fns[1], i->operand);
	else
		emit(b, multiply_fns[i->reg & 1], size_of(i));
	return true;
}

/* ---- DIV, IDIV ------------------------------------------------------------------------------- */

INLINE void divide(struct soft_cpu *cpu, struct soft_op *op, uint64_t d, unsigned size)
{
	uint64_t low = reg_get(cpu, REG(SOFT_RAX), size), high = pair_high(cpu, size), n;
	wide w;

	/* Covers division by 0 too. */
	if (high >= d)
		soft_raise(cpu, op, VEC_DE);
	if (size < 8 || !high) {
		n = size < 8 ? high << 8 * size % 64 | low : low;
		pair_put(cpu, n / d, n % d, size);
	} else {
		w = (wide)high << 64 | low;
		pair_put(cpu, (uint64_t)(w / d), (uint64_t)(w % d), size);
	}
}

/* By magnitudes; the remainder has the dividend's sign. */
INLINE void divide_signed(struct soft_cpu *cpu, struct soft_op *op, uint64_t divisor, unsigned size)
{
	int64_t d = fl_extend(divisor, size);
	uint64_t low = reg_get(cpu, REG(SOFT_RAX), size), high = pair_high(cpu, size);
	wide n = (wide)(wide_signed)fl_extend(high, size) << 8 * size | low;
	uint64_t size_d = d < 0 ? -(uint64_t)d : (uint64_t)d, q, r, most;
	bool minus = fl_extend(high, size) < 0;

	n = minus ? -n : n;
	if (!d || n >> 8 * size >= size_d)
		soft_raise(cpu, op, VEC_DE);
	if (!(uint64_t)(n >> 64)) {
		q = (uint64_t)n / size_d;
		r = (uint64_t)n % size_d;
	} else {
		q = (uint64_t)(n / size_d);
		r = (uint64_t)(n % size_d);
	}
	most = UINT64_C(1) << (8 * size - 1);
	if (q > most - (minus == (d < 0)))
		soft_raise(cpu, op, VEC_DE);
	pair_put(cpu, minus == (d < 0) ? q : -q, minus ? -r : r, size);
}

#define DIVIDE(size)                                                                               \
	SOFT_FN(div_r##size, divide(cpu, op, reg_get(cpu, op->rm, size), size))                    \
	SOFT_FN(div_m##size, divide(cpu, op, load(cpu, op, soft_ea(cpu, op), size), size))         \
	SOFT_FN(idiv_r##size, divide_signed(cpu, op, reg_get(cpu, op->rm, size), size))            \
	SOFT_FN(idiv_m##size, divide_signed(cpu, op, load(cpu, op, soft_ea(cpu, op), size), size))
DIVIDE(1)
DIVIDE(2)
DIVIDE(4)
DIVIDE(8)
static soft_fn *const divide_fns[2][2][4] = {
	{SIZES(div_r), SIZES(div_m)},
	{SIZES(idiv_r), SIZES(idiv_m)},
};

/* F6, F7 /6, /7 */
bool soft_select_divide(struct soft_builder *b)
{
	emit(b, divide_fns[b->insn->reg & 1], size_of(b->insn));
	return true;
}

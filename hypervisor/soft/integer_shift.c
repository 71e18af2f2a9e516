// SPDX-License-Identifier: Apache-2.0
/*
 * Shifts and rotates. Flags that the manuals leave undefined are what AMD's CPUs make:
 * OF by the rule for a count of 1 whatever the count, AF set by shifts and kept by
 * rotates.
 */
#include "hypervisor/soft/integer.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}

/* In the order of ModRM.reg; 6 is SHL too. */
enum shift {
	SHIFT_ROL,
	SHIFT_ROR,
	SHIFT_RCL,
	SHIFT_RCR,
	SHIFT_SHL,
	SHIFT_SHR,
	SHIFT_SAL,
	SHIFT_SAR
};

INLINE bool bit(uint64_t v, unsigned n)
{
	return v >> n & 1;
}

INLINE void flags_shift(struct soft_cpu *cpu, uint64_t r, bool cf, bool of, unsigned size)
{
	cpu->fl_result = (uint64_t)fl_extend(r, size);
	cpu->fl_aux = (uint64_t)cf << 63 | (uint64_t)(cf != of) << 62 | FL_AF;
}
INLINE void flags_rotate(struct soft_cpu *cpu, bool cf, bool of)
{
	cpu->fl_aux =
		(cpu->fl_aux & ~(FL_CF | FL_PO)) | (uint64_t)cf << 63 | (uint64_t)(cf != of) << 62;
}

/* The counts are masked and not 0. */
INLINE uint64_t shift_left(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	unsigned bits = 8 * size;
	uint64_t r = a << count;
	bool cf = size == 8 ? bit(a, bits - count) : bit(r, bits % 64);

	flags_shift(cpu, r, cf, cf != bit(r, bits - 1), size);
	return r;
}

INLINE uint64_t shift_right(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	uint64_t r = a >> count;

	flags_shift(cpu, r, bit(a, count - 1), bit(r, 8 * size - 2), size);
	return r;
}

INLINE uint64_t shift_sign(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	int64_t s = fl_extend(a, size);
	uint64_t r = (uint64_t)(s >> count);

	flags_shift(cpu, r, bit((uint64_t)(s >> (count - 1)), 0), false, size);
	return r;
}

INLINE uint64_t rotate_left(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	unsigned bits = 8 * size, n = count % bits;
	uint64_t r = n ? a << n | a >> (bits - n) : a;

	flags_rotate(cpu, bit(r, 0), bit(r, 0) != bit(r, bits - 1));
	return r;
}

INLINE uint64_t rotate_right(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	unsigned bits = 8 * size, n = count % bits;
	uint64_t r = n ? a >> n | a << (bits - n) : a;

	flags_rotate(cpu, bit(r, bits - 1), bit(r, bits - 1) != bit(r, bits - 2));
	return r;
}

/* Through the carry: of bits + 1. */
INLINE uint64_t carry_left(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	unsigned bits = 8 * size, n = size < 4 ? count % (bits + 1) : count;
	bool cf = fl_cf(cpu);
	uint64_t r = a;

	if (n) {
		r = a << n | (uint64_t)cf << (n - 1);
		if (n > 1)
			r |= a >> (bits + 1 - n);
		cf = bit(a, bits - n);
	}
	flags_rotate(cpu, cf, cf != bit(r, bits - 1));
	return r;
}

INLINE uint64_t carry_right(struct soft_cpu *cpu, uint64_t a, unsigned count, unsigned size)
{
	unsigned bits = 8 * size, n = size < 4 ? count % (bits + 1) : count;
	bool cf = fl_cf(cpu);
	uint64_t r = a;

	if (n) {
		r = a >> n | (uint64_t)cf << (bits - n);
		if (n > 1)
			r |= a << (bits + 1 - n);
		cf = bit(a, n - 1);
	}
	flags_rotate(cpu, cf, bit(r, bits - 1) != bit(r, bits - 2));
	return r;
}

INLINE uint64_t shift(struct soft_cpu *cpu, enum shift kind, uint64_t a, unsigned count,
		      unsigned size)
{
	if (!count)
		return a;
	switch (kind) {
	case SHIFT_ROL:
		return rotate_left(cpu, a, count, size);
	case SHIFT_ROR:
		return rotate_right(cpu, a, count, size);
	case SHIFT_RCL:
		return carry_left(cpu, a, count, size);
	case SHIFT_RCR:
		return carry_right(cpu, a, count, size);
	case SHIFT_SHR:
		return shift_right(cpu, a, count, size);
	case SHIFT_SAR:
		return shift_sign(cpu, a, count, size);
	default:
		return shift_left(cpu, a, count, size);
	}
}

/* ---- forms: a register or memory, by an immediate (masked already) or by CL --------------- */

INLINE unsigned count_cl(const struct soft_cpu *cpu, unsigned size)
{
	return (unsigned)cpu->r[SOFT_RCX] & (size == 8 ? 63 : 31);
}

INLINE void shift_r(struct soft_cpu *cpu, struct soft_op *op, enum shift kind, unsigned count,
		    unsigned size)
{
	reg_put(cpu, op->rm, shift(cpu, kind, reg_get(cpu, op->rm, size), count, size), size);
}
INLINE void shift_m(struct soft_cpu *cpu, struct soft_op *op, enum shift kind, unsigned count,
		    unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);

	value_put(at, shift(cpu, kind, value_get(at, size), count, size), size);
	soft_rmw_end(cpu, op);
}

#define SHIFT_SIZE(name, kind, size)                                                               \
	SOFT_FN(name##_ri##size, shift_r(cpu, op, kind, (unsigned)op->imm, size))                  \
	SOFT_FN(name##_rc##size, shift_r(cpu, op, kind, count_cl(cpu, size), size))                \
	SOFT_FN(name##_mi##size, shift_m(cpu, op, kind, (unsigned)op->imm, size))                  \
	SOFT_FN(name##_mc##size, shift_m(cpu, op, kind, count_cl(cpu, size), size))
#define SHIFT(name, kind)                                                                          \
	SHIFT_SIZE(name, kind, 1)                                                                  \
	SHIFT_SIZE(name, kind, 2)                                                                  \
	SHIFT_SIZE(name, kind, 4)                                                                  \
	SHIFT_SIZE(name, kind, 8)
SHIFT(rol, SHIFT_ROL)
SHIFT(ror, SHIFT_ROR)
SHIFT(rcl, SHIFT_RCL)
SHIFT(rcr, SHIFT_RCR)
SHIFT(shl, SHIFT_SHL)
SHIFT(shr, SHIFT_SHR)
SHIFT(sar, SHIFT_SAR)

/* [kind][by CL][memory][size] */
#define ROW(name)                                                                                  \
	{                                                                                          \
		{SIZES(name##_ri), SIZES(name##_mi)},                                              \
		{                                                                                  \
			SIZES(name##_rc), SIZES(name##_mc)                                         \
		}                                                                                  \
	}
static soft_fn *const shift_fns[8][2][2][4] = {ROW(rol), ROW(ror), ROW(rcl), ROW(rcr),
					       ROW(shl), ROW(shr), ROW(shl), ROW(sar)};

/* C0, C1, D0-D3 */
bool soft_select_shift(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = size_of(i);
	bool by_cl = i->opcode == 0xd2 || i->opcode == 0xd3;
	soft_fn *fn = shift_fns[i->reg & 7][by_cl][i->memory][size_index(size)];
	struct soft_op *op;

	if (i->memory) {
		op = soft_emit_memory(b, fn, SOFT_RMW, size);
	} else {
		op = soft_emit(b, fn);
		op->rm = reg_at(i, i->rm, size);
	}
	op->imm = i->opcode < 0xd0 ? i->imm & (size == 8 ? 63 : 31) : 1;
	return true;
}

/* ---- SHLD, SHRD ---------------------------------------------------------------------------- */

/* Beyond 16 bits of a 16-bit operand the source comes round again. */
INLINE uint64_t double_left(struct soft_cpu *cpu, uint64_t a, uint64_t b, unsigned count,
			    unsigned size)
{
	unsigned bits = 8 * size;
	uint64_t r;
	bool cf;

	if (!count)
		return a;
	if (count > bits) {
		r = b << (count - bits) | b >> (2 * bits - count);
		cf = false;
	} else {
		r = a << count | b >> (bits - count);
		cf = bit(a, bits - count);
	}
	flags_shift(cpu, r, cf, cf != bit(r, bits - 1), size);
	return r;
}

INLINE uint64_t double_right(struct soft_cpu *cpu, uint64_t a, uint64_t b, unsigned count,
			     unsigned size)
{
	unsigned bits = 8 * size;
	uint64_t r;
	bool cf;

	if (!count)
		return a;
	if (count > bits) {
		r = b >> (count - bits) | b << (2 * bits - count);
		cf = bit(b, count - bits - 1);
	} else {
		r = a >> count | b << (bits - count);
		cf = bit(a, count - 1);
	}
	flags_shift(cpu, r, cf, bit(r, bits - 1) != bit(r, bits - 2), size);
	return r;
}

INLINE uint64_t shift_double(struct soft_cpu *cpu, struct soft_op *op, uint64_t a, bool right,
			     unsigned size)
{
	unsigned count = op->aux ? count_cl(cpu, size) : (unsigned)op->imm;
	uint64_t b = reg_get(cpu, op->reg, size);

	return right ? double_right(cpu, a, b, count, size) : double_left(cpu, a, b, count, size);
}

INLINE void shift_double_r(struct soft_cpu *cpu, struct soft_op *op, bool right, unsigned size)
{
	reg_put(cpu, op->rm, shift_double(cpu, op, reg_get(cpu, op->rm, size), right, size), size);
}
INLINE void shift_double_m(struct soft_cpu *cpu, struct soft_op *op, bool right, unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);

	value_put(at, shift_double(cpu, op, value_get(at, size), right, size), size);
	soft_rmw_end(cpu, op);
}

/* aux: by CL */
#define DOUBLE(size)                                                                               \
	SOFT_FN(shld_r##size, shift_double_r(cpu, op, false, size))                                \
	SOFT_FN(shld_m##size, shift_double_m(cpu, op, false, size))                                \
	SOFT_FN(shrd_r##size, shift_double_r(cpu, op, true, size))                                 \
	SOFT_FN(shrd_m##size, shift_double_m(cpu, op, true, size))
DOUBLE(2)
DOUBLE(4)
DOUBLE(8)
static soft_fn *const double_fns[2][2][4] = {
	{{NULL, shld_r2, shld_r4, shld_r8}, {NULL, shld_m2, shld_m4, shld_m8}},
	{{NULL, shrd_r2, shrd_r4, shrd_r8}, {NULL, shrd_m2, shrd_m4, shrd_m8}},
};

/* 0F A4, A5, AC, AD */
bool soft_select_shift_double(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	bool right = i->opcode & 8;
	soft_fn *fn = double_fns[right][i->memory][size_index(i->operand)];
	struct soft_op *op =
		i->memory ? soft_emit_memory(b, fn, SOFT_RMW, i->operand) : soft_emit(b, fn);

	op->aux = i->opcode & 1;
	op->imm = i->imm & (i->operand == 8 ? 63 : 31);
	return true;
}

// SPDX-License-Identifier: Apache-2.0
/* ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST; INC, DEC, NEG, NOT. */
#include "hypervisor/soft/integer.h"

/* The first eight in the order of their opcodes. */
enum alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALUS };

INLINE uint64_t alu(struct soft_cpu *cpu, enum alu kind, uint64_t a, uint64_t b, unsigned size)
{
	uint64_t carry = kind == ALU_ADC || kind == ALU_SBB ? fl_cf(cpu) : 0;
	uint64_t r;

	switch (kind) {
	case ALU_ADD:
	case ALU_ADC:
		r = a + b + carry;
		fl_add(cpu, a, b, r, size);
		return r;
	case ALU_SUB:
	case ALU_SBB:
	case ALU_CMP:
		r = a - b - carry;
		fl_sub(cpu, a, b, r, size);
		return r;
	default:
		r = kind == ALU_OR ? a | b : kind == ALU_XOR ? a ^ b : a & b;
		fl_logic(cpu, r, size);
		return r;
	}
}

INLINE bool writes(enum alu kind)
{
	return kind != ALU_CMP && kind != ALU_TEST;
}

/* ---- forms: r register, m memory, i immediate; the first is the destination ------------ */

INLINE void alu_rr(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, unsigned size)
{
	uint64_t r = alu(cpu, kind, reg_get(cpu, op->rm, size), reg_get(cpu, op->reg, size), size);

	if (writes(kind))
		reg_put(cpu, op->rm, r, size);
}

INLINE void alu_ri(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, unsigned size)
{
	uint64_t r = alu(cpu, kind, reg_get(cpu, op->rm, size), op->imm, size);

	if (writes(kind))
		reg_put(cpu, op->rm, r, size);
}

INLINE void alu_rm(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, unsigned size)
{
	uint64_t b = load(cpu, op, soft_ea(cpu, op), size);
	uint64_t r = alu(cpu, kind, reg_get(cpu, op->reg, size), b, size);

	if (writes(kind))
		reg_put(cpu, op->reg, r, size);
}

INLINE void alu_memory(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, uint64_t b,
		       unsigned size)
{
	uint64_t va = soft_ea(cpu, op);
	void *at;

	if (!writes(kind)) {
		alu(cpu, kind, load(cpu, op, va, size), b, size);
		return;
	}
	at = soft_rmw_begin(cpu, op, va, size);
	value_put(at, alu(cpu, kind, value_get(at, size), b, size), size);
	soft_rmw_end(cpu, op);
}
INLINE void alu_mr(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, unsigned size)
{
	alu_memory(cpu, op, kind, reg_get(cpu, op->reg, size), size);
}
INLINE void alu_mi(struct soft_cpu *cpu, struct soft_op *op, enum alu kind, unsigned size)
{
	alu_memory(cpu, op, kind, op->imm, size);
}

#define ALU_SIZE(name, kind, size)                                                                 \
	SOFT_FN(name##_rr##size, alu_rr(cpu, op, kind, size))                                      \
	SOFT_FN(name##_ri##size, alu_ri(cpu, op, kind, size))                                      \
	SOFT_FN(name##_rm##size, alu_rm(cpu, op, kind, size))                                      \
	SOFT_FN(name##_mr##size, alu_mr(cpu, op, kind, size))                                      \
	SOFT_FN(name##_mi##size, alu_mi(cpu, op, kind, size))
#define ALU(name, kind)                                                                            \
	ALU_SIZE(name, kind, 1)                                                                    \
	ALU_SIZE(name, kind, 2)                                                                    \
	ALU_SIZE(name, kind, 4)                                                                    \
	ALU_SIZE(name, kind, 8)
ALU(add, ALU_ADD)
ALU(or, ALU_OR)
ALU(adc, ALU_ADC)
ALU(sbb, ALU_SBB)
ALU(and, ALU_AND)
ALU(sub, ALU_SUB)
ALU(xor, ALU_XOR)
ALU(cmp, ALU_CMP)
ALU(test, ALU_TEST)

enum form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORMS };
#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}
#define ALU_ROW(name)                                                                              \
	{                                                                                          \
		SIZES(name##_rr), SIZES(name##_ri), SIZES(name##_rm), SIZES(name##_mr),            \
			SIZES(name##_mi)                                                           \
	}
static soft_fn *const alu_fns[ALUS][FORMS][4] = {
	ALU_ROW(add), ALU_ROW(or),  ALU_ROW(adc), ALU_ROW(sbb),  ALU_ROW(and),
	ALU_ROW(sub), ALU_ROW(xor), ALU_ROW(cmp), ALU_ROW(test),
};

/* XOR of a register with itself. */
SOFT_FN(zero, fl_logic(cpu, 0, 8); reg_put(cpu, op->rm, 0, 8))

static soft_fn *alu_fn(enum alu kind, enum form form, unsigned size)
{
	return alu_fns[kind][form][size_index(size)];
}

static void emit_rm(struct soft_builder *b, enum alu kind, bool to_reg, unsigned size)
{
	const struct soft_insn *i = b->insn;
	uint8_t reg = reg_at(i, i->reg, size), rm = reg_at(i, i->rm, size);
	enum soft_access access = to_reg || !writes(kind) ? SOFT_READ : SOFT_RMW;
	struct soft_op *op;

	if (i->memory) {
		op = soft_emit_memory(b, alu_fn(kind, to_reg ? FORM_RM : FORM_MR, size), access,
				      size);
		op->reg = reg;
		return;
	}
	if (kind == ALU_XOR && reg == rm && size >= 4)
		op = soft_emit(b, zero);
	else
		op = soft_emit(b, alu_fn(kind, FORM_RR, size));
	op->reg = to_reg ? rm : reg;
	op->rm = to_reg ? reg : rm;
}

static void emit_imm(struct soft_builder *b, enum alu kind, unsigned size)
{
	const struct soft_insn *i = b->insn;

	if (i->memory)
		soft_emit_memory(b, alu_fn(kind, FORM_MI, size),
				 writes(kind) ? SOFT_RMW : SOFT_READ, size);
	else
		soft_emit(b, alu_fn(kind, FORM_RI, size))->rm = reg_at(i, i->rm, size);
}

bool soft_select_alu(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = size_of(i);

	if (i->opcode < 0x40) {
		enum alu kind = i->opcode >> 3;

		if ((i->opcode & 7) < 4)
			emit_rm(b, kind, i->opcode & 2, size);
		else
			soft_emit(b, alu_fn(kind, FORM_RI, size))->rm = REG(SOFT_RAX);
	} else if (i->opcode == 0x84 || i->opcode == 0x85) {
		emit_rm(b, ALU_TEST, false, size);
	} else if (i->opcode == 0xa8 || i->opcode == 0xa9) {
		soft_emit(b, alu_fn(ALU_TEST, FORM_RI, size))->rm = REG(SOFT_RAX);
	} else { /* 80-83 */
		emit_imm(b, i->reg & 7, size);
	}
	return true;
}

/* ---- INC, DEC, NEG, NOT ------------------------------------------------------------------ */

enum unary { UNARY_INC, UNARY_DEC, UNARY_NOT, UNARY_NEG, UNARIES };

/* Everything but CF from the carries `now`. */
INLINE void keep_cf(struct soft_cpu *cpu, uint64_t before)
{
	uint64_t now = cpu->fl_aux;

	cpu->fl_aux = (before & FL_CF) | (((before ^ now) >> 1 ^ now) & FL_PO) | (now & FL_AF);
}

INLINE uint64_t unary(struct soft_cpu *cpu, enum unary kind, uint64_t a, unsigned size)
{
	uint64_t before = cpu->fl_aux;

	switch (kind) {
	case UNARY_INC:
		fl_add(cpu, a, 1, a + 1, size);
		keep_cf(cpu, before);
		return a + 1;
	case UNARY_DEC:
		fl_sub(cpu, a, 1, a - 1, size);
		keep_cf(cpu, before);
		return a - 1;
	case UNARY_NEG:
		fl_sub(cpu, 0, a, -a, size);
		return -a;
	default:
		return ~a;
	}
}

INLINE void unary_r(struct soft_cpu *cpu, struct soft_op *op, enum unary kind, unsigned size)
{
	reg_put(cpu, op->rm, unary(cpu, kind, reg_get(cpu, op->rm, size), size), size);
}
INLINE void unary_m(struct soft_cpu *cpu, struct soft_op *op, enum unary kind, unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);

	value_put(at, unary(cpu, kind, value_get(at, size), size), size);
	soft_rmw_end(cpu, op);
}

#define UNARY_SIZE(name, kind, size)                                                               \
	SOFT_FN(name##_r##size, unary_r(cpu, op, kind, size))                                      \
	SOFT_FN(name##_m##size, unary_m(cpu, op, kind, size))
#define UNARY(name, kind)                                                                          \
	UNARY_SIZE(name, kind, 1)                                                                  \
	UNARY_SIZE(name, kind, 2)                                                                  \
	UNARY_SIZE(name, kind, 4)                                                                  \
	UNARY_SIZE(name, kind, 8)
UNARY(inc, UNARY_INC)
UNARY(dec, UNARY_DEC)
UNARY(not, UNARY_NOT)
UNARY(neg, UNARY_NEG)

static soft_fn *const unary_fns[UNARIES][2][4] = {
	{SIZES(inc_r), SIZES(inc_m)},
	{SIZES(dec_r), SIZES(dec_m)},
	{SIZES(not_r), SIZES(not_m)},
	{SIZES(neg_r), SIZES(neg_m)},
};

static void emit_unary(struct soft_builder *b, enum unary kind, unsigned size)
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = unary_fns[kind][i->memory][size_index(size)];

	if (i->memory)
		soft_emit_memory(b, fn, SOFT_RMW, size);
	else
		soft_emit(b, fn)->rm = reg_at(i, i->rm, size);
}

bool soft_select_inc_legacy(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	enum unary kind = i->opcode < 0x48 ? UNARY_INC : UNARY_DEC;

	soft_emit(b, unary_fns[kind][0][size_index(i->operand)])->rm = REG(i->opcode & 7);
	return true;
}

/* F6, F7, FE and FF but for multiplication, division, branches and PUSH. */
bool soft_select_unary(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned n = i->reg & 7;

	if (i->opcode >= 0xfe) {
		if (n > 1)
			return false;
		emit_unary(b, n ? UNARY_DEC : UNARY_INC, size_of(i));
	} else if (n < 2) {
		emit_imm(b, ALU_TEST, size_of(i));
	} else {
		emit_unary(b, n == 2 ? UNARY_NOT : UNARY_NEG, size_of(i));
	}
	return true;
}

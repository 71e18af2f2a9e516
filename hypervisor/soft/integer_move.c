// SPDX-License-Identifier: Apache-2.0
/* MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, LEA, CMOVcc, SETcc, BSWAP, CBW and its like, XLAT. */
#include "hypervisor/soft/integer.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}

INLINE void move_rr(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	reg_put(cpu, op->rm, reg_get(cpu, op->reg, size), size);
}
INLINE void move_ri(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	reg_put(cpu, op->rm, op->imm, size);
}
INLINE void move_rm(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	reg_put(cpu, op->reg, load(cpu, op, soft_ea(cpu, op), size), size);
}
INLINE void move_mr(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	store(cpu, op, soft_ea(cpu, op), reg_get(cpu, op->reg, size), size);
}
INLINE void move_mi(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	store(cpu, op, soft_ea(cpu, op), op->imm, size);
}

#define MOVE(size)                                                                                 \
	SOFT_FN(mov_rr##size, move_rr(cpu, op, size))                                              \
	SOFT_FN(mov_ri##size, move_ri(cpu, op, size))                                              \
	SOFT_FN(mov_rm##size, move_rm(cpu, op, size))                                              \
	SOFT_FN(mov_mr##size, move_mr(cpu, op, size))                                              \
	SOFT_FN(mov_mi##size, move_mi(cpu, op, size))                                              \
	SOFT_FN(lea##size, reg_put(cpu, op->reg, soft_ea(cpu, op), size))
MOVE(1)
MOVE(2)
MOVE(4)
MOVE(8)

static soft_fn *const mov_rr[] = SIZES(mov_rr), *const mov_ri[] = SIZES(mov_ri),
		      *const mov_rm[] = SIZES(mov_rm), *const mov_mr[] = SIZES(mov_mr),
		      *const mov_mi[] = SIZES(mov_mi), *const lea[] = SIZES(lea);

static void emit_load(struct soft_builder *b, unsigned reg, unsigned size)
{
	soft_emit_memory(b, mov_rm[size_index(size)], SOFT_READ, size)->reg =
		reg_at(b->insn, reg, size);
}
static void emit_store(struct soft_builder *b, unsigned reg, unsigned size)
{
	soft_emit_memory(b, mov_mr[size_index(size)], SOFT_WRITE, size)->reg =
		reg_at(b->insn, reg, size);
}

void soft_emit_load(struct soft_builder *b, unsigned size)
{
	soft_emit_memory(b, mov_rm[size_index(size)], SOFT_READ, size)->reg = REG(SOFT_EA);
}

/* 88-8B */
static void emit_move(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = size_of(i);
	uint8_t reg = reg_at(i, i->reg, size), rm = reg_at(i, i->rm, size);
	bool to_reg = i->opcode & 2;
	struct soft_op *op;

	if (i->memory && to_reg) {
		emit_load(b, i->reg, size);
	} else if (i->memory) {
		emit_store(b, i->reg, size);
	} else {
		op = soft_emit(b, mov_rr[size_index(size)]);
		op->reg = to_reg ? rm : reg;
		op->rm = to_reg ? reg : rm;
	}
}

/* C6, C7 */
static bool emit_move_imm(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = size_of(i);

	if (i->reg & 7)
		return false;
	if (i->memory)
		soft_emit_memory(b, mov_mi[size_index(size)], SOFT_WRITE, size);
	else
		soft_emit(b, mov_ri[size_index(size)])->rm = reg_at(i, i->rm, size);
	return true;
}

/* A0-A3: the immediate is an address. */
static void emit_move_absolute(struct soft_builder *b)
{
	const struct soft_insn *whole = b->insn;
	struct soft_insn i = *whole;

	i.memory = true;
	i.base = i.index = REG(SOFT_ZERO);
	i.scale = 0;
	i.disp = (int64_t)i.imm;
	b->insn = &i;
	if (i.opcode & 2)
		emit_store(b, SOFT_RAX, size_of(&i));
	else
		emit_load(b, SOFT_RAX, size_of(&i));
	b->insn = whole;
}

/* ---- CBW, CWDE, CDQE (by operand size); CWD, CDQ, CQO --------------------------------- */

#define WIDEN(size)                                                                                \
	SOFT_FN(widen##size, reg_put(cpu, REG(SOFT_RAX),                                           \
				     (uint64_t)fl_extend(cpu->r[SOFT_RAX], (size) / 2), size))     \
	SOFT_FN(sign##size, reg_put(cpu, REG(SOFT_RDX), signs(cpu->r[SOFT_RAX], size), size))
WIDEN(2)
WIDEN(4)
WIDEN(8)
static soft_fn *const widen[] = {NULL, widen2, widen4, widen8};
static soft_fn *const sign[] = {NULL, sign2, sign4, sign8};

/* rm: segment; aux: octets of an address */
static struct soft_op *xlat(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t offset = cut(cpu->r[SOFT_RBX] + (uint8_t)cpu->r[SOFT_RAX], op->aux);
	uint64_t va = soft_linear(cpu, op, op->rm, offset, 1, false);

	reg_put(cpu, REG(SOFT_RAX), soft_read8(cpu, op, va), 1);
	return soft_next(cpu, op);
}

static void emit_xlat(struct soft_builder *b)
{
	struct soft_op *op = soft_emit(b, xlat);

	op->rm = b->insn->segment >= 0 ? (uint8_t)b->insn->segment : SEG_DS;
	op->aux = b->insn->address;
	op->flags |= op->rm == SEG_SS ? OP_STACK : 0;
}

/* MOVSXD, which without REX.W moves no more than 32 (or 16) bits. */
static void emit_movsxd(struct soft_builder *b);

static bool emit_lea(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (!i->memory)
		return false;
	soft_emit_memory(b, lea[size_index(i->operand)], SOFT_ADDRESS, 0)->reg = REG(i->reg);
	return true;
}

bool soft_select_move(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size;

	switch (i->opcode) {
	case 0x63:
		emit_movsxd(b);
		return true;
	case 0x88 ... 0x8b:
		emit_move(b);
		return true;
	case 0x8d:
		return emit_lea(b);
	case 0x98:
		soft_emit(b, widen[size_index(i->operand)]);
		return true;
	case 0x99:
		soft_emit(b, sign[size_index(i->operand)]);
		return true;
	case 0xa0 ... 0xa3:
		emit_move_absolute(b);
		return true;
	case 0xb0 ... 0xbf:
		size = i->opcode & 8 ? i->operand : 1;
		soft_emit(b, mov_ri[size_index(size)])->rm =
			reg_at(i, (i->opcode & 7) | (i->rex & 1) << 3, size);
		return true;
	case 0xd7:
		emit_xlat(b);
		return true;
	default:
		return emit_move_imm(b);
	}
}

/* ---- MOVZX, MOVSX ----------------------------------------------------------------------- */

#define EXTEND(from, to)                                                                           \
	SOFT_FN(movzx_r##from##to, reg_put(cpu, op->reg, reg_get(cpu, op->rm, from), to))          \
	SOFT_FN(movzx_m##from##to,                                                                 \
		reg_put(cpu, op->reg, load(cpu, op, soft_ea(cpu, op), from), to))                  \
	SOFT_FN(movsx_r##from##to,                                                                 \
		reg_put(cpu, op->reg, (uint64_t)fl_extend(reg_get(cpu, op->rm, from), from), to))  \
	SOFT_FN(movsx_m##from##to,                                                                 \
		reg_put(cpu, op->reg,                                                              \
			(uint64_t)fl_extend(load(cpu, op, soft_ea(cpu, op), from), from), to))
EXTEND(1, 2)
EXTEND(1, 4)
EXTEND(1, 8)
EXTEND(2, 2)
EXTEND(2, 4)
EXTEND(2, 8)
EXTEND(4, 8)

/* By the source's size and the destination's. */
#define EXTEND_TABLE(name)                                                                         \
	{                                                                                          \
		{NULL, name##12, name##14, name##18}, {NULL, name##22, name##24, name##28},        \
		{                                                                                  \
			NULL, NULL, NULL, name##48                                                 \
		}                                                                                  \
	}
static soft_fn *const movzx_r[3][4] = EXTEND_TABLE(movzx_r),
		      *const movzx_m[3][4] = EXTEND_TABLE(movzx_m),
		      *const movsx_r[3][4] = EXTEND_TABLE(movsx_r),
		      *const movsx_m[3][4] = EXTEND_TABLE(movsx_m);

static void emit_extend(struct soft_builder *b, soft_fn *const table_r[3][4],
			soft_fn *const table_m[3][4], unsigned from)
{
	const struct soft_insn *i = b->insn;
	unsigned to = size_index(i->operand);
	struct soft_op *op;

	if (i->memory) {
		op = soft_emit_memory(b, table_m[size_index(from)][to], SOFT_READ, from);
	} else {
		op = soft_emit(b, table_r[size_index(from)][to]);
		op->rm = reg_at(i, i->rm, from);
	}
	op->reg = REG(i->reg);
}

static void emit_movsxd(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op;

	if (i->operand == 8) {
		emit_extend(b, movsx_r, movsx_m, 4);
	} else if (i->memory) {
		emit_load(b, i->reg, i->operand);
	} else {
		op = soft_emit(b, mov_rr[size_index(i->operand)]);
		op->reg = REG(i->rm);
		op->rm = REG(i->reg);
	}
}

/* ---- conditions ------------------------------------------------------------------------- */

/* A false condition still loads, and still clears the upper half of a 32-bit register. */
INLINE void cmov(struct soft_cpu *cpu, struct soft_op *op, uint64_t v, unsigned cc, unsigned size)
{
	reg_put(cpu, op->reg, fl_condition(cpu, cc) ? v : reg_get(cpu, op->reg, size), size);
}

#define CMOV(cc, size)                                                                             \
	SOFT_FN(cmov##cc##_r##size, cmov(cpu, op, reg_get(cpu, op->rm, size), 0x##cc, size))       \
	SOFT_FN(cmov##cc##_m##size,                                                                \
		cmov(cpu, op, load(cpu, op, soft_ea(cpu, op), size), 0x##cc, size))
#define CONDITION(cc)                                                                              \
	CMOV(cc, 2)                                                                                \
	CMOV(cc, 4)                                                                                \
	CMOV(cc, 8)                                                                                \
	SOFT_FN(set##cc##_r, reg_put(cpu, op->rm, fl_condition(cpu, 0x##cc), 1))                   \
	SOFT_FN(set##cc##_m, soft_write8(cpu, op, soft_ea(cpu, op), fl_condition(cpu, 0x##cc)))
CONDITION(0)
CONDITION(1)
CONDITION(2)
CONDITION(3)
CONDITION(4)
CONDITION(5)
CONDITION(6)
CONDITION(7)
CONDITION(8)
CONDITION(9)
CONDITION(a)
CONDITION(b)
CONDITION(c)
CONDITION(d)
CONDITION(e)
CONDITION(f)

/* Registers then memory, by operand size. */
#define CMOV_ROW(cc)                                                                               \
	{                                                                                          \
		{NULL, cmov##cc##_r2, cmov##cc##_r4, cmov##cc##_r8},                               \
		{                                                                                  \
			NULL, cmov##cc##_m2, cmov##cc##_m4, cmov##cc##_m8                          \
		}                                                                                  \
	}
#define SET_ROW(cc)                                                                                \
	{                                                                                          \
		set##cc##_r, set##cc##_m                                                           \
	}
#define ROWS(row)                                                                                  \
	row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7), row(8), row(9), row(a),    \
		row(b), row(c), row(d), row(e), row(f)
static soft_fn *const cmov_fns[16][2][4] = {ROWS(CMOV_ROW)};
static soft_fn *const set_fns[16][2] = {ROWS(SET_ROW)};

static void emit_cmov(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = cmov_fns[i->opcode & 15][i->memory][size_index(i->operand)];

	if (i->memory)
		soft_emit_memory(b, fn, SOFT_READ, i->operand);
	else
		soft_emit(b, fn);
}

static void emit_set(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = set_fns[i->opcode & 15][i->memory];

	if (i->memory)
		soft_emit_memory(b, fn, SOFT_WRITE, 1);
	else
		soft_emit(b, fn)->rm = soft_reg8(i, i->rm);
}

/* ---- BSWAP, MOVNTI ------------------------------------------------------------------------ */

/* Of 16 bits it is not defined; CPUs clear them. */
SOFT_FN(bswap2, reg_put(cpu, op->rm, 0, 2))
SOFT_FN(bswap4, reg_put(cpu, op->rm, __builtin_bswap32((uint32_t)reg_get(cpu, op->rm, 4)), 4))
SOFT_FN(bswap8, reg_put(cpu, op->rm, __builtin_bswap64(reg_get(cpu, op->rm, 8)), 8))
static soft_fn *const bswap[] = {NULL, bswap2, bswap4, bswap8};

bool soft_select_move_0f(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	switch (i->opcode) {
	case 0x40 ... 0x4f:
		emit_cmov(b);
		return true;
	case 0x90 ... 0x9f:
		emit_set(b);
		return true;
	case 0xb6 ... 0xb7:
		emit_extend(b, movzx_r, movzx_m, i->opcode & 1 ? 2 : 1);
		return true;
	case 0xbe ... 0xbf:
		emit_extend(b, movsx_r, movsx_m, i->opcode & 1 ? 2 : 1);
		return true;
	case 0xc8 ... 0xcf:
		soft_emit(b, bswap[size_index(i->operand)])->rm =
			REG((i->opcode & 7) | (i->rex & 1) << 3);
		return true;
	case 0xc3: /* MOVNTI */
		if (!i->memory || i->operand16 || i->rep)
			return false;
		emit_store(b, i->reg, i->operand);
		return true;
	default:
		return false;
	}
}

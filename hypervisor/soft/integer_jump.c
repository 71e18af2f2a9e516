// SPDX-License-Identifier: Apache-2.0
/*
 * Near jumps, calls and returns. A conditional jump that is not taken goes on in its
 * block: operations count the instructions before them, so a block may be left anywhere.
 */
#include "hypervisor/soft/integer.h"

/* A target outside of the segment, or of no canonical address, faults at the jump. */
INLINE void target_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t rip)
{
	bool bad = cpu->mode == MODE_64 ? (uint64_t)((int64_t)(rip << 16) >> 16) != rip
					: rip > cpu->seg[SEG_CS].limit;

	if (UNLIKELY(bad))
		soft_raise_error(cpu, op, VEC_GP, 0);
}

/* aux: octets of the instruction pointer, that is what the sum is cut to */
INLINE uint64_t relative_target(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = cpu->r[SOFT_PAGE] + (uint64_t)(int64_t)op->disp - cpu->r[SOFT_BASE_CS];

	rip = cut(rip, op->aux);
	target_check(cpu, op, rip);
	return rip;
}

static struct soft_op *jump_relative(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_jump_to(cpu, op, relative_target(cpu, op));
}

static struct soft_op *jump_near(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_jump_near(cpu, op);
}

/* rm: REG() that holds the target; aux: its octets */
static struct soft_op *jump_register(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = cut(reg_get(cpu, op->rm, 8), op->aux);

	target_check(cpu, op, rip);
	return soft_jump_to(cpu, op, rip);
}

/* ---- conditional ------------------------------------------------------------------------ */

#define JCC(cc)                                                                                    \
	static struct soft_op *jcc_near##cc(struct soft_cpu *cpu, struct soft_op *op)              \
	{                                                                                          \
		return fl_condition(cpu, 0x##cc) ? soft_jump_near(cpu, op) : soft_next(cpu, op);   \
	}                                                                                          \
	static struct soft_op *jcc##cc(struct soft_cpu *cpu, struct soft_op *op)                   \
	{                                                                                          \
		return fl_condition(cpu, 0x##cc) ? jump_relative(cpu, op) : soft_next(cpu, op);    \
	}
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(a)
JCC(b)
JCC(c)
JCC(d)
JCC(e)
JCC(f)
#define ROWS(row)                                                                                  \
	row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7), row(8), row(9), row(a),    \
		row(b), row(c), row(d), row(e), row(f)
#define ROW(cc)                                                                                    \
	{                                                                                          \
		jcc_near##cc, jcc##cc                                                              \
	}
static soft_fn *const jcc_fns[16][2] = {ROWS(ROW)};

/* E0 LOOPNE, E1 LOOPE, E2 LOOP, E3 JCXZ; imm: opcode; reg: octets of the counter */
static struct soft_op *loop(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t count = reg_get(cpu, REG(SOFT_RCX), 8);
	uint64_t rip;
	bool taken;

	if (op->imm == 0xe3)
		return cut(count, op->reg) ? soft_next(cpu, op) : jump_relative(cpu, op);
	count = cut(count - 1, op->reg);
	taken = count && (op->imm == 0xe2 || fl_zf(cpu) == (op->imm == 0xe1));
	rip = taken ? relative_target(cpu, op) : 0;
	if (op->reg == 2)
		reg_put(cpu, REG(SOFT_RCX), count, 2);
	else
		cpu->r[SOFT_RCX] = count;
	return taken ? soft_jump_to(cpu, op, rip) : soft_next(cpu, op);
}

/* ---- calls and returns ------------------------------------------------------------------ */

INLINE void push64(struct soft_cpu *cpu, struct soft_op *op, uint64_t v)
{
	uint64_t rsp = cpu->r[SOFT_RSP] - 8;

	soft_write64(cpu, op, rsp, v);
	cpu->r[SOFT_RSP] = rsp;
}

static struct soft_op *call_near(struct soft_cpu *cpu, struct soft_op *op)
{
	push64(cpu, op, cpu->r[SOFT_PAGE] + op->off + op->len);
	return soft_jump_near(cpu, op);
}

static struct soft_op *call64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = relative_target(cpu, op);

	push64(cpu, op, cpu->r[SOFT_PAGE] + op->off + op->len);
	return soft_jump_to(cpu, op, rip);
}

static struct soft_op *call_register64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = reg_get(cpu, op->rm, 8);

	target_check(cpu, op, rip);
	push64(cpu, op, cpu->r[SOFT_PAGE] + op->off + op->len);
	return soft_jump_to(cpu, op, rip);
}

static struct soft_op *call_legacy(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = relative_target(cpu, op);

	soft_push(cpu, op, soft_rip_next(cpu, op), op->aux);
	return soft_jump_to(cpu, op, rip);
}

static struct soft_op *call_register_legacy(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rip = cut(reg_get(cpu, op->rm, 8), op->aux);

	target_check(cpu, op, rip);
	soft_push(cpu, op, soft_rip_next(cpu, op), op->aux);
	return soft_jump_to(cpu, op, rip);
}

/* imm: octets to take off beside the address */
static struct soft_op *ret64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rsp = cpu->r[SOFT_RSP];
	uint64_t rip = soft_read64(cpu, op, rsp);

	target_check(cpu, op, rip);
	cpu->r[SOFT_RSP] = rsp + 8 + op->imm;
	return soft_jump_to(cpu, op, rip);
}

static struct soft_op *ret_legacy(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_stack_address(cpu, op, 0, op->aux, false);
	uint64_t rip = op->aux == 2 ? soft_read16(cpu, op, va) : soft_read32(cpu, op, va);

	target_check(cpu, op, rip);
	soft_stack_move(cpu, op->aux + (int64_t)op->imm);
	return soft_jump_to(cpu, op, rip);
}

/* ---- selection ---------------------------------------------------------------------------- */

/* Near branches of 64-bit mode have no other size. */
static uint8_t branch_size(const struct soft_insn *i)
{
	return i->mode == MODE_64 ? 8 : i->operand;
}

/* Of two functions the one that can be linked, where the target is in this page. */
static struct soft_op *emit_relative(struct soft_builder *b, soft_fn *near, soft_fn *other)
{
	const struct soft_insn *i = b->insn;
	int64_t disp = b->off + i->length + (int64_t)i->imm;
	bool in_page = disp >= 0 && disp < VM_PAGE_SIZE && !(b->flags & OP_SINGLE);
	bool whole = i->mode == MODE_64 || (i->mode == MODE_32 && i->operand == 4);
	struct soft_op *op = soft_emit(b, near && in_page && whole ? near : other);

	op->disp = (int32_t)disp;
	op->link = NULL;
	op->aux = branch_size(i);
	return op;
}

bool soft_select_jcc(struct soft_builder *b)
{
	soft_fn *const *fns = jcc_fns[b->insn->opcode & 15];

	emit_relative(b, fns[0], fns[1]);
	return true;
}

static void emit_call(struct soft_builder *b)
{
	bool in64 = b->insn->mode == MODE_64;

	emit_relative(b, in64 ? call_near : NULL, in64 ? call64 : call_legacy)->flags |= OP_STACK;
	b->ends = true;
}

/* FF /2, /4 */
static void emit_indirect(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = branch_size(i);
	bool call = (i->reg & 7) == 2;
	struct soft_op *op;

	if (i->memory)
		soft_emit_load(b, size);
	op = soft_emit(b, !call                ? jump_register
			  : i->mode == MODE_64 ? call_register64
					       : call_register_legacy);
	if (i->memory)
		op->rm = REG(SOFT_EA);
	op->aux = (uint8_t)size;
	op->flags |= call ? OP_STACK : 0;
	b->ends = true;
}

static void emit_return(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op = soft_emit(b, i->mode == MODE_64 ? ret64 : ret_legacy);

	op->aux = branch_size(i);
	op->flags |= OP_STACK;
	b->ends = true;
}

static void emit_loop(struct soft_builder *b)
{
	struct soft_op *op = emit_relative(b, NULL, loop);

	op->imm = b->insn->opcode;
	op->reg = b->insn->address;
}

bool soft_select_jump(struct soft_builder *b)
{
	switch (b->insn->opcode) {
	case 0xc2:
	case 0xc3:
		emit_return(b);
		return true;
	case 0xe0 ... 0xe3:
		emit_loop(b);
		return true;
	case 0xe8:
		emit_call(b);
		return true;
	case 0xe9:
	case 0xeb:
		emit_relative(b, jump_near, jump_relative);
		b->ends = true;
		return true;
	default:
		emit_indirect(b);
		return true;
	}
}

// SPDX-License-Identifier: Apache-2.0
/* XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B; NOP and PAUSE, which are XCHG's opcode. */
#include "hypervisor/soft/integer.h"
#include "hypervisor/soft/machine.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}

INLINE void xchg_r(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	uint64_t a = reg_get(cpu, op->rm, size), b = reg_get(cpu, op->reg, size);

	reg_put(cpu, op->reg, a, size);
	reg_put(cpu, op->rm, b, size);
}
INLINE void xchg_m(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);
	uint64_t v = value_get(at, size);

	value_put(at, reg_get(cpu, op->reg, size), size);
	soft_rmw_end(cpu, op);
	reg_put(cpu, op->reg, v, size);
}

/* The source gets the old value first: XADD of a register with itself doubles it. */
INLINE void xadd_r(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	uint64_t a = reg_get(cpu, op->rm, size), b = reg_get(cpu, op->reg, size);

	fl_add(cpu, a, b, a + b, size);
	reg_put(cpu, op->reg, a, size);
	reg_put(cpu, op->rm, a + b, size);
}
INLINE void xadd_m(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);
	uint64_t a = value_get(at, size), b = reg_get(cpu, op->reg, size);

	value_put(at, a + b, size);
	soft_rmw_end(cpu, op);
	fl_add(cpu, a, b, a + b, size);
	reg_put(cpu, op->reg, a, size);
}

/* Compares the accumulator with `now`; true: equal, the destination gets the source. */
INLINE bool compare(struct soft_cpu *cpu, uint64_t now, unsigned size)
{
	uint64_t a = reg_get(cpu, REG(SOFT_RAX), size);

	fl_sub(cpu, a, now, a - now, size);
	return a == now;
}
INLINE void cmpxchg_r(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	uint64_t now = reg_get(cpu, op->rm, size);

	if (compare(cpu, now, size))
		reg_put(cpu, op->rm, reg_get(cpu, op->reg, size), size);
	else
		reg_put(cpu, REG(SOFT_RAX), now, size);
}
INLINE void cmpxchg_m(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	void *at = soft_rmw_begin(cpu, op, soft_ea(cpu, op), size);
	uint64_t now = value_get(at, size);
	bool equal = compare(cpu, now, size);

	if (equal)
		value_put(at, reg_get(cpu, op->reg, size), size);
	soft_rmw_end(cpu, op);
	if (!equal)
		reg_put(cpu, REG(SOFT_RAX), now, size);
}

#define EXCHANGE(size)                                                                             \
	SOFT_FN(xchg_r##size, xchg_r(cpu, op, size))                                               \
	SOFT_FN(xchg_m##size, xchg_m(cpu, op, size))                                               \
	SOFT_FN(xadd_r##size, xadd_r(cpu, op, size))                                               \
	SOFT_FN(xadd_m##size, xadd_m(cpu, op, size))                                               \
	SOFT_FN(cmpxchg_r##size, cmpxchg_r(cpu, op, size))                                         \
	SOFT_FN(cmpxchg_m##size, cmpxchg_m(cpu, op, size))
EXCHANGE(1)
EXCHANGE(2)
EXCHANGE(4)
EXCHANGE(8)
static soft_fn *const xchg[2][4] = {SIZES(xchg_r), SIZES(xchg_m)};
static soft_fn *const xadd[2][4] = {SIZES(xadd_r), SIZES(xadd_m)};
static soft_fn *const cmpxchg[2][4] = {SIZES(cmpxchg_r), SIZES(cmpxchg_m)};

/* ---- CMPXCHG8B, CMPXCHG16B: halves of 4 or 8 octets -------------------------------------- */

INLINE void cmpxchg_pair(struct soft_cpu *cpu, struct soft_op *op, unsigned half)
{
	uint64_t va = soft_ea(cpu, op), low, high;
	uint8_t *at;
	bool equal;

	if (half == 8 && va & 15)
		soft_raise_error(cpu, op, VEC_GP, 0);
	at = soft_rmw_begin(cpu, op, va, 2 * half);
	low = value_get(at, half);
	high = value_get(at + half, half);
	equal = low == reg_get(cpu, REG(SOFT_RAX), half) &&
		high == reg_get(cpu, REG(SOFT_RDX), half);
	if (equal) {
		value_put(at, reg_get(cpu, REG(SOFT_RBX), half), half);
		value_put(at + half, reg_get(cpu, REG(SOFT_RCX), half), half);
	}
	soft_rmw_end(cpu, op);
	if (!equal) {
		reg_put(cpu, REG(SOFT_RAX), low, half);
		reg_put(cpu, REG(SOFT_RDX), high, half);
	}
	fl_set(cpu, (fl_get(cpu) & ~(uint32_t)FLAG_ZF) | (equal ? FLAG_ZF : 0));
}
SOFT_FN(cmpxchg8b, cmpxchg_pair(cpu, op, 4))
SOFT_FN(cmpxchg16b, cmpxchg_pair(cpu, op, 8))

static bool select_pair(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	bool wide = i->rex & 8;

	if (!i->memory || (i->reg & 7) != 1)
		return false;
	soft_emit_memory(b, wide ? cmpxchg16b : cmpxchg8b, SOFT_RMW, wide ? 16 : 8);
	return true;
}

/* ---- NOP, PAUSE --------------------------------------------------------------------------- */

SOFT_FN(nop, )

/* Who spins waits for another vCPU, perhaps: the slice is over. */
static struct soft_op *pause(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->engine->vcpus > 1)
		cpu->limit = cpu->icount;
	return soft_leave(cpu, op, soft_rip_cut(cpu, soft_rip_next(cpu, op)));
}

/* 90-97 */
static void emit_accumulator(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned n = (i->opcode & 7) | (i->rex & 1) << 3;
	struct soft_op *op;

	if (n == SOFT_RAX) {
		soft_emit(b, i->rep == 0xf3 ? pause : nop);
		b->ends = i->rep == 0xf3;
		return;
	}
	op = soft_emit(b, xchg[0][size_index(i->operand)]);
	op->reg = REG(SOFT_RAX);
	op->rm = REG(n);
}

bool soft_select_exchange(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	soft_fn *const(*fns)[4];
	unsigned size = size_of(i);
	struct soft_op *op;

	if (i->map == MAP_0F && i->opcode == 0xc7)
		return select_pair(b);
	if (i->map == MAP_ONE && i->opcode >= 0x90) {
		emit_accumulator(b);
		return true;
	}
	fns = i->map == MAP_ONE ? xchg : i->opcode < 0xc0 ? cmpxchg : xadd;
	if (i->memory) {
		op = soft_emit_memory(b, fns[1][size_index(size)], SOFT_RMW, size);
	} else {
		op = soft_emit(b, fns[0][size_index(size)]);
		op->rm = reg_at(i, i->rm, size);
	}
	op->reg = reg_at(i, i->reg, size);
	return true;
}

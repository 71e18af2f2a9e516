// SPDX-License-Identifier: Apache-2.0
/* What 64-bit mode has lost: decimal arithmetic, SALC, BOUND. */
#include "hypervisor/soft/integer.h"

/* ZF, SF, PF of AL; CF, AF as given; OF clear. */
static void decimal_flags(struct soft_cpu *cpu, bool cf, bool af)
{
	cpu->fl_result = (uint64_t)fl_extend(cpu->r[SOFT_RAX], 1);
	cpu->fl_aux = (cf ? FL_CF | FL_PO : 0) | (af ? FL_AF : 0);
}
static uint8_t al(const struct soft_cpu *cpu)
{
	return (uint8_t)cpu->r[SOFT_RAX];
}
static void al_put(struct soft_cpu *cpu, unsigned v)
{
	reg_put(cpu, REG(SOFT_RAX), v, 1);
}

static bool low_digit(const struct soft_cpu *cpu)
{
	return (al(cpu) & 15) > 9 || fl_af(cpu);
}

static struct soft_op *daa(struct soft_cpu *cpu, struct soft_op *op)
{
	bool low = low_digit(cpu), high = al(cpu) > 0x99 || fl_cf(cpu);

	al_put(cpu, al(cpu) + (low ? 6u : 0) + (high ? 0x60u : 0));
	decimal_flags(cpu, high, low);
	return soft_next(cpu, op);
}

static struct soft_op *das(struct soft_cpu *cpu, struct soft_op *op)
{
	bool low = low_digit(cpu), high = al(cpu) > 0x99 || fl_cf(cpu);
	bool cf = high || (low && al(cpu) < 6);

	al_put(cpu, al(cpu) - (low ? 6u : 0) - (high ? 0x60u : 0));
	decimal_flags(cpu, cf, low);
	return soft_next(cpu, op);
}

static struct soft_op *aaa(struct soft_cpu *cpu, struct soft_op *op)
{
	bool on = low_digit(cpu);

	if (on)
		reg_put(cpu, REG(SOFT_RAX), cpu->r[SOFT_RAX] + 0x106, 2);
	al_put(cpu, al(cpu) & 15);
	decimal_flags(cpu, on, on);
	return soft_next(cpu, op);
}

static struct soft_op *aas(struct soft_cpu *cpu, struct soft_op *op)
{
	bool on = low_digit(cpu);

	if (on)
		reg_put(cpu, REG(SOFT_RAX), cpu->r[SOFT_RAX] - 0x106, 2);
	al_put(cpu, al(cpu) & 15);
	decimal_flags(cpu, on, on);
	return soft_next(cpu, op);
}

static struct soft_op *aam(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned base = (uint8_t)op->imm, v = al(cpu);

	if (base)
		reg_put(cpu, REG(SOFT_RAX), (v / base) << 8 | v % base, 2);
	else
		soft_raise(cpu, op, VEC_DE);
	decimal_flags(cpu, false, false);
	return soft_next(cpu, op);
}

static struct soft_op *aad(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned high = (unsigned)reg_get(cpu, REG(SOFT_RAX) + 1, 1);

	reg_put(cpu, REG(SOFT_RAX), (al(cpu) + high * (uint8_t)op->imm) & 0xff, 2);
	decimal_flags(cpu, false, false);
	return soft_next(cpu, op);
}

SOFT_FN(salc, al_put(cpu, fl_cf(cpu) ? 0xff : 0))

/* The two bounds lie one after the other. */
INLINE void bound(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	uint64_t va = soft_ea(cpu, op);
	int64_t low = fl_extend(load(cpu, op, va, size), size);
	int64_t high = fl_extend(load(cpu, op, va + size, size), size);
	int64_t v = fl_extend(reg_get(cpu, op->reg, size), size);

	if (v < low || v > high)
		soft_raise(cpu, op, VEC_BR);
}
SOFT_FN(bound2, bound(cpu, op, 2))
SOFT_FN(bound4, bound(cpu, op, 4))

static bool select_bound(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (!i->memory)
		return false;
	soft_emit_memory(b, i->operand == 2 ? bound2 : bound4, SOFT_READ, 2u * i->operand);
	return true;
}

bool soft_select_legacy(struct soft_builder *b)
{
	static soft_fn *const fns[] = {
		[0x27] = daa, [0x2f] = das, [0x37] = aaa,  [0x3f] = aas,
		[0xd4] = aam, [0xd5] = aad, [0xd6] = salc,
	};

	if (b->insn->opcode == 0x62)
		return select_bound(b);
	soft_emit(b, fns[b->insn->opcode]);
	return true;
}

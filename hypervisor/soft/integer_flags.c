// SPDX-License-Identifier: Apache-2.0
/* PUSHF, POPF, LAHF, SAHF, CLC, STC, CMC, CLD, STD. */
#include "hypervisor/soft/integer.h"
#include "hypervisor/soft/machine.h"

SOFT_FN(clc, fl_set_cf(cpu, false))
SOFT_FN(stc, fl_set_cf(cpu, true))
SOFT_FN(cmc, fl_set_cf(cpu, !fl_cf(cpu)))
SOFT_FN(cld, cpu->flags &= ~(uint32_t)FLAG_DF)
SOFT_FN(std, cpu->flags |= FLAG_DF)

#define FLAGS_AH (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF)
SOFT_FN(lahf, reg_put(cpu, REG(SOFT_RAX) + 1, (fl_get(cpu) & FLAGS_AH) | FLAG_ONE, 1))
SOFT_FN(sahf, fl_set(cpu, (fl_get(cpu) & FLAG_OF) |
				  ((uint32_t)reg_get(cpu, REG(SOFT_RAX) + 1, 1) & FLAGS_AH)))

static unsigned iopl(const struct soft_cpu *cpu)
{
	return (cpu->flags & FLAG_IOPL) >> 12;
}

/* In virtual-8086 mode below IOPL 3: true where VME stands in with VIF for IF. */
static bool virtual_if(struct soft_cpu *cpu, struct soft_op *op)
{
	if (!(cpu->flags & FLAG_VM) || iopl(cpu) == 3)
		return false;
	if (!(cpu->cr4 & CR4_VME) || op->aux != 2)
		soft_raise_error(cpu, op, VEC_GP, 0);
	return true;
}

static struct soft_op *pushf(struct soft_cpu *cpu, struct soft_op *op)
{
	uint32_t flags = soft_flags(cpu) & ~(uint32_t)(FLAG_VM | FLAG_RF);

	if (virtual_if(cpu, op)) {
		flags &= ~(uint32_t)FLAG_IF;
		flags |= FLAG_IOPL | (cpu->flags & FLAG_VIF ? FLAG_IF : 0);
	}
	soft_push(cpu, op, flags, op->aux);
	return soft_next(cpu, op);
}

static uint32_t popf_mask(const struct soft_cpu *cpu, unsigned size)
{
	uint32_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;

	if (size > 2)
		mask |= FLAG_AC | FLAG_ID;
	if (cpu->cpl <= iopl(cpu))
		mask |= FLAG_IF;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	return mask;
}

/* VME: IF goes to VIF; what would have to trap faults. */
static struct soft_op *popf_virtual(struct soft_cpu *cpu, struct soft_op *op, uint32_t value)
{
	uint32_t mask = (FLAGS_STATUS | FLAG_DF | FLAG_NT | FLAG_VIF);

	if (value & FLAG_TF || (value & FLAG_IF && cpu->flags & FLAG_VIP))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_stack_move(cpu, op->aux);
	soft_flags_write(cpu, value | (value & FLAG_IF ? FLAG_VIF : 0), mask);
	return soft_leave(cpu, op, soft_rip_cut(cpu, soft_rip_next(cpu, op)));
}

static struct soft_op *popf(struct soft_cpu *cpu, struct soft_op *op)
{
	bool virtual = virtual_if(cpu, op);
	uint64_t va = soft_stack_address(cpu, op, 0, op->aux, false);
	uint32_t value = op->aux == 2   ? soft_read16(cpu, op, va)
			 : op->aux == 4 ? soft_read32(cpu, op, va)
					: (uint32_t)soft_read64(cpu, op, va);
	uint32_t mask = popf_mask(cpu, op->aux), changed = (cpu->flags ^ value) & mask;

	if (virtual)
		return popf_virtual(cpu, op, value);
	soft_stack_move(cpu, op->aux);
	if (!(changed & ~(uint32_t)(FLAGS_STATUS | FLAG_DF))) {
		fl_set(cpu, value);
		cpu->flags ^= changed & FLAG_DF;
		return soft_next(cpu, op);
	}
	soft_flags_write(cpu, value, mask);
	return soft_leave(cpu, op, soft_rip_cut(cpu, soft_rip_next(cpu, op)));
}

static void emit_stack(struct soft_builder *b, soft_fn *run)
{
	struct soft_op *op = soft_emit(b, run);

	op->flags |= OP_STACK;
	op->aux = (uint8_t)soft_push_size(b->insn);
}

bool soft_select_flags(struct soft_builder *b)
{
	static soft_fn *const fns[] = {
		[0x9e] = sahf, [0x9f] = lahf, [0xf5] = cmc, [0xf8] = clc,
		[0xf9] = stc,  [0xfc] = cld,  [0xfd] = std,
	};

	if (b->insn->opcode == 0x9c)
		emit_stack(b, pushf);
	else if (b->insn->opcode == 0x9d)
		emit_stack(b, popf);
	else
		soft_emit(b, fns[b->insn->opcode]);
	return true;
}

// SPDX-License-Identifier: Apache-2.0
/* Hints and fences: 0F 0D, 0F 18 to 0F 1F, and the part of 0F AE that is no state. */
#include "hypervisor/soft/integer.h"

/* One vCPU executes at a time: memory is in order as it is. */
SOFT_FN(nothing, )
/* Faults as a read of an octet does. */
SOFT_FN(clflush, soft_read8(cpu, op, soft_ea(cpu, op)))

static bool select_fence(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned n = i->reg & 7;

	if (i->operand16 || i->rep || n < 5)
		return false;
	if (!i->memory) {
		soft_emit(b, nothing); /* LFENCE, MFENCE, SFENCE */
		return true;
	}
	if (n == 7)
		soft_emit_memory(b, clflush, SOFT_READ, 1);
	return n == 7;
}

bool soft_select_hint(struct soft_builder *b)
{
	if (b->insn->opcode == 0xae)
		return select_fence(b);
	if (b->insn->opcode == 0x0d && !b->insn->memory)
		return false;
	soft_emit(b, nothing);
	return true;
}

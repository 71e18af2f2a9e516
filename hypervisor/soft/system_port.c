// SPDX-License-Identifier: Apache-2.0
/* IN, OUT, INS, OUTS. */
#include "hypervisor/soft/system.h"

#define ROUNDS_MOST 64u /* of a repeated one, before others have their turn */

static void need_port(struct soft_cpu *cpu, struct soft_op *op, uint16_t port, unsigned size)
{
	if (cpu->cpl <= (cpu->flags & FLAG_IOPL) >> 12)
		return;
	if (!soft_task_port_allowed(cpu, op, port, size))
		soft_raise_error(cpu, op, VEC_GP, 0);
}

/* aux: octets; imm: the port, or PORT_DX */
#define PORT_DX UINT64_C(0x10000)

static uint16_t port_of(const struct soft_cpu *cpu, const struct soft_op *op)
{
	return (uint16_t)(op->imm == PORT_DX ? cpu->r[SOFT_RDX] : op->imm);
}

static struct soft_op *op_in(struct soft_cpu *cpu, struct soft_op *op)
{
	uint16_t port = port_of(cpu, op);
	uint32_t value = 0;

	need_port(cpu, op, port, op->aux);
	soft_port(cpu, port, &value, op->aux, false);
	soft_reg_write(cpu, REG(SOFT_RAX), value, op->aux);
	return soft_done(cpu, op);
}

static struct soft_op *op_out(struct soft_cpu *cpu, struct soft_op *op)
{
	uint16_t port = port_of(cpu, op);
	uint32_t value = (uint32_t)cpu->r[SOFT_RAX];

	need_port(cpu, op, port, op->aux);
	soft_port(cpu, port, &value, op->aux, true);
	return soft_done(cpu, op);
}

/* ---- strings: rm is the octets of an address, reg the segment, scale says REP --------------- */

static void step(struct soft_cpu *cpu, struct soft_op *op, enum soft_reg index)
{
	uint64_t by = cpu->flags & FLAG_DF ? -(uint64_t)op->aux : op->aux;

	soft_reg_write(cpu, REG(index), soft_reg_read(cpu, REG(index), op->rm) + by, op->rm);
}

static void ins_round(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_linear(cpu, op, SEG_ES, soft_reg_read(cpu, REG(SOFT_RDI), op->rm),
				  op->aux, true);
	uint32_t value = 0;

	/* Reading a port may change a device: not before it is sure that the value arrives. */
	soft_write_check(cpu, op, va, op->aux);
	soft_port(cpu, (uint16_t)cpu->r[SOFT_RDX], &value, op->aux, false);
	soft_write_bytes(cpu, op, va, &value, op->aux);
	step(cpu, op, SOFT_RDI);
}

static void outs_round(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_linear(cpu, op, op->reg, soft_reg_read(cpu, REG(SOFT_RSI), op->rm),
				  op->aux, false);
	uint32_t value = 0;

	soft_read_bytes(cpu, op, va, &value, op->aux);
	soft_port(cpu, (uint16_t)cpu->r[SOFT_RDX], &value, op->aux, true);
	step(cpu, op, SOFT_RSI);
}

/* After each round all registers are those of an instruction that begins again. */
static struct soft_op *string(struct soft_cpu *cpu, struct soft_op *op,
			      void (*round)(struct soft_cpu *, struct soft_op *))
{
	unsigned most = cpu->flags & FLAG_TF || soft_debug_armed(cpu) ? 1 : ROUNDS_MOST;
	uint64_t left;

	need_port(cpu, op, (uint16_t)cpu->r[SOFT_RDX], op->aux);
	if (!op->scale) {
		round(cpu, op);
		return soft_done(cpu, op);
	}
	left = soft_reg_read(cpu, REG(SOFT_RCX), op->rm);
	for (unsigned n = 0; left && n < most; n++) {
		round(cpu, op);
		soft_reg_write(cpu, REG(SOFT_RCX), --left, op->rm);
	}
	return soft_leave(cpu, op,
			  left ? soft_rip_cut(cpu, soft_rip(cpu, op)) : soft_rip_after(cpu, op));
}

static struct soft_op *op_ins(struct soft_cpu *cpu, struct soft_op *op)
{
	return string(cpu, op, ins_round);
}
static struct soft_op *op_outs(struct soft_cpu *cpu, struct soft_op *op)
{
	return string(cpu, op, outs_round);
}

/* ---- selection --------------------------------------------------------------------------------
 */

static bool select_string(struct soft_builder *b, unsigned size)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op = soft_emit_last(b, i->opcode & 2 ? op_outs : op_ins, size);

	op->rm = i->address;
	op->reg = i->seg;
	op->scale = i->rep ? 1 : 0;
	return true;
}

bool soft_select_port(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = !(i->opcode & 1) ? 1 : i->operand == 2 ? 2 : 4;
	struct soft_op *op;

	if (i->opcode < 0xe0)
		return select_string(b, size);
	op = soft_emit_last(b, i->opcode & 2 ? op_out : op_in, size);
	op->imm = i->opcode & 8 ? PORT_DX : i->imm & 0xff;
	return true;
}

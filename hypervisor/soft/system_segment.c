// SPDX-License-Identifier: Apache-2.0
/* MOV, PUSH and POP of segment registers; LDS, LES, LSS, LFS, LGS. */
#include "hypervisor/soft/system.h"

/* SS: no interrupt and no single-step trap before the stack pointer has been loaded, too. */
static struct soft_op *loaded(struct soft_cpu *cpu, struct soft_op *op, enum soft_seg seg)
{
	if (seg == SEG_SS) {
		cpu->shadow = true;
		cpu->step_off = cpu->flags & FLAG_TF;
	}
	return soft_done(cpu, op);
}

/* rm: the segment register */
static struct soft_op *op_store_memory(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_write16(cpu, op, soft_ea(cpu, op), cpu->seg[op->rm].selector);
	return soft_next(cpu, op);
}
static struct soft_op *op_store(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_reg_write(cpu, op->reg, cpu->seg[op->rm].selector, op->aux);
	return soft_next(cpu, op);
}
static struct soft_op *op_load_memory(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_segment_load(cpu, op, op->rm, soft_read16(cpu, op, soft_ea(cpu, op)));
	return loaded(cpu, op, op->rm);
}
static struct soft_op *op_load(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_segment_load(cpu, op, op->rm, (uint16_t)soft_reg_read(cpu, op->reg, 2));
	return loaded(cpu, op, op->rm);
}

static struct soft_op *op_push(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_stack s = soft_stack_current(cpu);

	soft_stack_push(cpu, op, &s, cpu->seg[op->rm].selector, op->aux);
	cpu->r[SOFT_RSP] = s.sp;
	return soft_next(cpu, op);
}
static struct soft_op *op_pop(struct soft_cpu *cpu, struct soft_op *op)
{
	uint16_t selector = (uint16_t)soft_stack_peek(cpu, op, 0, op->aux);
	struct soft_segment ss = cpu->seg[SEG_SS];

	/* The stack pointer moves by the size of the old stack segment. */
	soft_segment_load(cpu, op, op->rm, selector);
	if (op->rm == SEG_SS && cpu->mode != MODE_64) {
		uint64_t mask = ss.attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
		uint64_t sp = cpu->r[SOFT_RSP];

		cpu->r[SOFT_RSP] = (sp & ~mask) | ((sp + op->aux) & mask);
	} else {
		soft_stack_drop(cpu, op->aux);
	}
	return loaded(cpu, op, op->rm);
}

uint64_t soft_pointer_read(struct soft_cpu *cpu, struct soft_op *op, uint16_t *selector)
{
	uint8_t raw[10];
	uint64_t offset = 0;

	soft_read_bytes(cpu, op, soft_ea(cpu, op), raw, op->aux + 2u);
	memcpy(&offset, raw, op->aux);
	memcpy(selector, raw + op->aux, 2);
	return offset;
}

/* reg: the general register, rm: the segment register, aux: octets of the offset */
static struct soft_op *op_load_pointer(struct soft_cpu *cpu, struct soft_op *op)
{
	uint16_t selector;
	uint64_t offset = soft_pointer_read(cpu, op, &selector);

	soft_segment_load(cpu, op, op->rm, selector);
	soft_reg_write(cpu, op->reg, offset, op->aux);
	return soft_done(cpu, op);
}

/* ---- selection -------------------------------------------------------------------------- */

static bool select_move(struct soft_builder *b, bool load)
{
	const struct soft_insn *i = b->insn;
	unsigned seg = i->reg & 7;
	struct soft_op *op;

	if (seg > SEG_GS || (load && seg == SEG_CS))
		return false;
	if (i->memory) {
		op = soft_emit_memory(b, load ? op_load_memory : op_store_memory,
				      load ? SOFT_READ : SOFT_WRITE, 2);
	} else {
		op = soft_emit(b, load ? op_load : op_store);
		op->reg = op->rm;
		op->aux = i->operand;
	}
	op->rm = (uint8_t)seg;
	b->ends |= load;
	return true;
}

static bool select_stack(struct soft_builder *b, enum soft_seg seg, bool pop)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op;

	if (i->mode == MODE_64 && seg < SEG_FS)
		return false;
	op = soft_emit(b, pop ? op_pop : op_push);
	op->aux = (uint8_t)soft_push_size(i);
	op->rm = (uint8_t)seg;
	op->flags |= OP_STACK;
	b->ends |= pop;
	return true;
}

static bool select_pointer(struct soft_builder *b, enum soft_seg seg)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op;

	if (!i->memory || (i->map == MAP_ONE && i->mode == MODE_64))
		return false;
	op = soft_emit_memory(b, op_load_pointer, SOFT_READ, i->operand + 2u);
	op->rm = (uint8_t)seg;
	op->aux = i->operand;
	b->ends = true;
	return true;
}

static bool select_one(struct soft_builder *b, uint8_t opcode)
{
	switch (opcode) {
	case 0x8c:
	case 0x8e:
		return select_move(b, opcode == 0x8e);
	case 0xc4:
		return select_pointer(b, SEG_ES);
	case 0xc5:
		return select_pointer(b, SEG_DS);
	default: /* 06 07 0e 16 17 1e 1f */
		return select_stack(b, opcode >> 3 & 3, opcode & 1);
	}
}

bool soft_select_segment(struct soft_builder *b)
{
	uint8_t opcode = b->insn->opcode;

	if (b->insn->map == MAP_ONE)
		return select_one(b, opcode);
	switch (opcode) {
	case 0xb2:
		return select_pointer(b, SEG_SS);
	case 0xb4:
		return select_pointer(b, SEG_FS);
	case 0xb5:
		return select_pointer(b, SEG_GS);
	default: /* a0 a1 a8 a9 */
		return select_stack(b, opcode & 8 ? SEG_GS : SEG_FS, opcode & 1);
	}
}

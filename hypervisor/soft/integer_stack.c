// SPDX-License-Identifier: Apache-2.0
/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE. */
#include "hypervisor/soft/integer.h"

/* ---- the stack pointer in any mode ------------------------------------------------------ */

static unsigned pointer_size(const struct soft_cpu *cpu)
{
	return cpu->mode == MODE_64 ? 8 : cpu->ss32 ? 4 : 2;
}

uint64_t soft_stack_address(struct soft_cpu *cpu, struct soft_op *op, int64_t offset, unsigned size,
			    bool write)
{
	uint64_t at = cpu->r[SOFT_RSP] + (uint64_t)offset;

	return soft_linear(cpu, op, SEG_SS, cut(at, pointer_size(cpu)), size, write);
}

static void pointer_set(struct soft_cpu *cpu, unsigned reg, uint64_t v)
{
	switch (pointer_size(cpu)) {
	case 2:
		reg_put(cpu, REG(reg), v, 2);
		break;
	case 4:
		reg_put(cpu, REG(reg), v, 4);
		break;
	default:
		cpu->r[reg] = v;
	}
}

void soft_stack_move(struct soft_cpu *cpu, int64_t offset)
{
	pointer_set(cpu, SOFT_RSP, cpu->r[SOFT_RSP] + (uint64_t)offset);
}

static void stack_store(struct soft_cpu *cpu, struct soft_op *op, int64_t offset, uint64_t v,
			unsigned size)
{
	uint64_t va = soft_stack_address(cpu, op, offset, size, true);

	if (size == 2)
		soft_write16(cpu, op, va, (uint16_t)v);
	else if (size == 4)
		soft_write32(cpu, op, va, (uint32_t)v);
	else
		soft_write64(cpu, op, va, v);
}

static uint64_t stack_load(struct soft_cpu *cpu, struct soft_op *op, int64_t offset, unsigned size)
{
	uint64_t va = soft_stack_address(cpu, op, offset, size, false);

	return size == 2   ? soft_read16(cpu, op, va)
	       : size == 4 ? soft_read32(cpu, op, va)
			   : soft_read64(cpu, op, va);
}

void soft_push(struct soft_cpu *cpu, struct soft_op *op, uint64_t v, unsigned size)
{
	stack_store(cpu, op, -(int64_t)size, v, size);
	soft_stack_move(cpu, -(int64_t)size);
}

static void reg_put_any(struct soft_cpu *cpu, unsigned at, uint64_t v, unsigned size)
{
	if (size == 2)
		reg_put(cpu, at, v, 2);
	else if (size == 4)
		reg_put(cpu, at, v, 4);
	else
		reg_put(cpu, at, v, 8);
}

unsigned soft_push_size(const struct soft_insn *i)
{
	return i->mode == MODE_64 && i->operand != 2 ? 8 : i->operand;
}

/* ---- PUSH, POP ---------------------------------------------------------------------------- */

static struct soft_op *push_reg64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rsp = cpu->r[SOFT_RSP] - 8;

	soft_write64(cpu, op, rsp, reg_get(cpu, op->rm, 8));
	cpu->r[SOFT_RSP] = rsp;
	return soft_next(cpu, op);
}

static struct soft_op *pop_reg64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rsp = cpu->r[SOFT_RSP];
	uint64_t v = soft_read64(cpu, op, rsp);

	cpu->r[SOFT_RSP] = rsp + 8;
	reg_put(cpu, op->rm, v, 8);
	return soft_next(cpu, op);
}

/* aux: octets */
SOFT_FN(push_reg, soft_push(cpu, op, reg_get(cpu, op->rm, 8), op->aux))
SOFT_FN(push_imm, soft_push(cpu, op, op->imm, op->aux))

static struct soft_op *pop_reg(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t v = stack_load(cpu, op, 0, op->aux);

	soft_stack_move(cpu, op->aux);
	reg_put_any(cpu, op->rm, v, op->aux);
	return soft_next(cpu, op);
}

static struct soft_op *emit_stack(struct soft_builder *b, soft_fn *run)
{
	struct soft_op *op = soft_emit(b, run);

	op->flags |= OP_STACK;
	op->aux = (uint8_t)soft_push_size(b->insn);
	return op;
}

/* 50-57, 68, 6A, FF /6 */
bool soft_select_push(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = soft_push_size(i);
	struct soft_op *op;

	if (i->opcode == 0x68 || i->opcode == 0x6a) {
		emit_stack(b, push_imm);
		return true;
	}
	if (i->memory)
		soft_emit_load(b, size);
	op = emit_stack(b, size == 8 ? push_reg64 : push_reg);
	if (i->memory)
		op->rm = REG(SOFT_EA);
	else if (i->opcode == 0xff)
		op->rm = REG(i->rm);
	else
		op->rm = REG((i->opcode & 7) | (i->rex & 1) << 3);
	return true;
}

/* The address counts from the stack pointer after the pop. Two operations, as the two
 * accesses may be in different segments. */
SOFT_FN(pop_check, stack_load(cpu, op, 0, op->aux))
static struct soft_op *pop_memory(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t v = stack_load(cpu, op, 0, op->aux);
	uint64_t va = soft_ea(cpu, op);

	if (op->aux == 2)
		soft_write16(cpu, op, va, (uint16_t)v);
	else if (op->aux == 4)
		soft_write32(cpu, op, va, (uint32_t)v);
	else
		soft_write64(cpu, op, va, v);
	soft_stack_move(cpu, op->aux);
	return soft_next(cpu, op);
}

static void emit_pop_memory(struct soft_builder *b, unsigned size)
{
	const struct soft_insn *whole = b->insn;
	struct soft_insn i = *whole;

	emit_stack(b, pop_check);
	if (i.base == REG(SOFT_RSP))
		i.disp += size;
	b->insn = &i;
	soft_emit_memory(b, pop_memory, SOFT_WRITE, size)->aux = (uint8_t)size;
	b->insn = whole;
}

/* 58-5F, 8F */
bool soft_select_pop(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	unsigned size = soft_push_size(i);
	struct soft_op *op;

	if (i->opcode == 0x8f && i->reg & 7)
		return false;
	if (i->opcode == 0x8f && i->memory) {
		emit_pop_memory(b, size);
		return true;
	}
	op = emit_stack(b, size == 8 ? pop_reg64 : pop_reg);
	op->rm = REG(i->opcode == 0x8f ? i->rm : (i->opcode & 7) | (i->rex & 1) << 3);
	return true;
}

/* ---- PUSHA, POPA ---------------------------------------------------------------------------- */

/* Faults on any octet before it writes one. */
static struct soft_op *pusha(struct soft_cpu *cpu, struct soft_op *op)
{
	int size = op->aux;

	for (int i = 1; i <= 8; i++)
		soft_write_check(
			cpu, op,
			soft_stack_address(cpu, op, -(int64_t)i * size, (unsigned)size, true),
			(size_t)size);
	for (int i = 0; i < 8; i++)
		stack_store(cpu, op, -(int64_t)(i + 1) * size, cpu->r[i], (unsigned)size);
	soft_stack_move(cpu, -(int64_t)8 * size);
	return soft_next(cpu, op);
}

static struct soft_op *popa(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t v[8];
	unsigned size = op->aux;

	for (int i = 0; i < 8; i++)
		v[7 - i] = stack_load(cpu, op, (int64_t)i * size, size);
	soft_stack_move(cpu, (int64_t)8 * size);
	for (unsigned i = 0; i < 8; i++)
		if (i != SOFT_RSP)
			reg_put_any(cpu, REG(i), v[i], size);
	return soft_next(cpu, op);
}

/* ---- ENTER, LEAVE --------------------------------------------------------------------------- */

/* imm: octets to reserve; rm: nesting level */
static struct soft_op *enter(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned size = op->aux, level = op->rm;
	uint64_t frame = cpu->r[SOFT_RSP] - size, from, v;
	int64_t down = -(int64_t)size;

	stack_store(cpu, op, down, cpu->r[SOFT_RBP], size);
	for (unsigned i = 1; i < level; i++) {
		from = cut(cpu->r[SOFT_RBP] - (uint64_t)i * size, pointer_size(cpu));
		from = soft_linear(cpu, op, SEG_SS, from, size, false);
		v = size == 2   ? soft_read16(cpu, op, from)
		    : size == 4 ? soft_read32(cpu, op, from)
				: soft_read64(cpu, op, from);
		down -= size;
		stack_store(cpu, op, down, v, size);
	}
	if (level) {
		down -= size;
		stack_store(cpu, op, down, frame, size);
	}
	down -= (int64_t)op->imm;
	/* The new top must be writable, or the instruction has not happened. */
	soft_write_check(cpu, op, soft_stack_address(cpu, op, down, size, true), size);
	soft_stack_move(cpu, down);
	reg_put_any(cpu, REG(SOFT_RBP), frame, size);
	return soft_next(cpu, op);
}

static struct soft_op *leave64(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t rbp = cpu->r[SOFT_RBP];

	cpu->r[SOFT_RBP] = soft_read64(cpu, op, rbp);
	cpu->r[SOFT_RSP] = rbp + 8;
	return soft_next(cpu, op);
}

static struct soft_op *leave(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t frame = cut(cpu->r[SOFT_RBP], pointer_size(cpu)), v;
	unsigned size = op->aux;
	uint64_t va = soft_linear(cpu, op, SEG_SS, frame, size, false);

	v = size == 2   ? soft_read16(cpu, op, va)
	    : size == 4 ? soft_read32(cpu, op, va)
			: soft_read64(cpu, op, va);
	pointer_set(cpu, SOFT_RSP, frame + size);
	reg_put_any(cpu, REG(SOFT_RBP), v, size);
	return soft_next(cpu, op);
}

/* 60, 61, C8, C9 */
bool soft_select_frame(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	bool in64 = i->mode == MODE_64;

	switch (i->opcode) {
	case 0x60:
	case 0x61:
		if (in64)
			return false;
		emit_stack(b, i->opcode == 0x60 ? pusha : popa);
		return true;
	case 0xc8:
		emit_stack(b, enter)->rm = i->imm2 & 31;
		return true;
	default:
		emit_stack(b, in64 && i->operand != 2 ? leave64 : leave);
		return true;
	}
}

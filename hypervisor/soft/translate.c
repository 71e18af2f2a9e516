// SPDX-License-Identifier: Apache-2.0
/* Emits the operations of one instruction. */
#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/mmu.h"

struct soft_op *soft_emit(struct soft_builder *b, soft_fn *run)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op = &b->ops[b->count++];

	*op = (struct soft_op){
		.run = run,
		.imm = i->imm,
		.base = REG(SOFT_ZERO),
		.index = REG(SOFT_ZERO),
		.seg = REG(SOFT_ZERO),
		.reg = REG(i->reg),
		.rm = REG(i->rm),
		.off = b->off,
		.len = i->length,
		.seq = b->seq,
		.flags = (uint8_t)(b->flags | (b->first ? OP_FIRST : 0)),
	};
	b->first = false;
	return op;
}

uint8_t soft_reg8(const struct soft_insn *insn, unsigned n)
{
	if (!insn->has_rex && n >= 4 && n < 8)
		return (uint8_t)(REG(n - 4) + 1);
	return REG(n);
}

/* ---- memory operands ------------------------------------------------------------------ */

static uint64_t address_cut(const struct soft_cpu *cpu, const struct soft_op *op, uint64_t mask)
{
	const uint8_t *r = (const uint8_t *)cpu->r;
	uint64_t base, index;

	memcpy(&base, r + op->base, 8);
	memcpy(&index, r + op->index, 8);
	return (base + (index << op->scale) + op->imm) & mask;
}

/* aux: access; reg: size; rm: segment */
#define ADDRESS(name, mask)                                                                        \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		uint64_t offset = address_cut(cpu, op, mask);                                      \
                                                                                                   \
		cpu->r[SOFT_EA] = op->aux == SOFT_ADDRESS                                          \
					  ? offset                                                 \
					  : soft_linear(cpu, op, op->rm, offset, op->reg,          \
							op->aux != SOFT_READ);                     \
		return soft_next(cpu, op);                                                         \
	}
ADDRESS(address16, 0xffff)
ADDRESS(address32, 0xffffffff)
ADDRESS(address64, UINT64_MAX)

static soft_fn *address_fn(const struct soft_insn *i)
{
	return i->address == 2 ? address16 : i->address == 4 ? address32 : address64;
}

static void emit_address(struct soft_builder *b, int64_t disp, enum soft_access access,
			 unsigned size)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op = soft_emit(b, address_fn(i));

	op->base = i->base;
	op->index = i->index;
	op->scale = i->scale;
	op->imm = (uint64_t)disp;
	op->aux = (uint8_t)access;
	op->reg = (uint8_t)(size > 255 ? 255 : size);
	op->rm = i->seg;
}

struct soft_op *soft_emit_memory(struct soft_builder *b, soft_fn *run, enum soft_access access,
				 unsigned size)
{
	const struct soft_insn *i = b->insn;
	int64_t disp = i->disp + (i->base == REG(SOFT_PAGE) ? b->off : 0);
	bool plain = i->address == 8 && disp == (int32_t)disp;
	struct soft_op *op;

	if (!plain)
		emit_address(b, disp, access, size);
	op = soft_emit(b, run);
	if (plain) {
		op->base = i->base;
		op->index = i->index;
		op->scale = i->scale;
		op->disp = (int32_t)disp;
		if (access != SOFT_ADDRESS)
			op->seg = REG(SOFT_BASE_ES + i->seg);
	} else {
		op->base = REG(SOFT_EA);
	}
	if (i->seg == SEG_SS)
		op->flags |= OP_STACK;
	return op;
}

/* ---- whose instruction is it? ------------------------------------------------------------- */

static bool is_system_one(const struct soft_insn *i)
{
	static const uint8_t opcodes[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x6c, 0x6d,
					  0x6e, 0x6f, 0x8c, 0x8e, 0x9a, 0xc4, 0xc5, 0xca, 0xcb,
					  0xcc, 0xcd, 0xce, 0xcf, 0xe4, 0xe5, 0xe6, 0xe7, 0xea,
					  0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4, 0xfa, 0xfb};

	if (i->opcode == 0x63)
		return i->mode != MODE_64;
	if (i->opcode == 0xff)
		return (i->reg & 7) == 3 || (i->reg & 7) == 5;
	return memchr(opcodes, i->opcode, sizeof(opcodes));
}

static bool is_system_0f(const struct soft_insn *i)
{
	static const uint8_t opcodes[] = {
		0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30,
		0x31, 0x32, 0x33, 0x34, 0x35, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa, 0xb2, 0xb4, 0xb5};

	return memchr(opcodes, i->opcode, sizeof(opcodes));
}

static bool is_sse(const struct soft_insn *i)
{
	uint8_t o = i->opcode;

	if (o == 0xae)
		return i->memory && (i->reg & 7) < 4;
	if (o == 0xc3)
		return i->operand16 || i->rep;
	return (o >= 0x10 && o <= 0x17) || (o >= 0x28 && o <= 0x2f) || (o >= 0x50 && o <= 0x7f) ||
	       (o >= 0xc2 && o <= 0xc6) || (o >= 0xd0 && o <= 0xfe);
}

static soft_select *select_of(const struct soft_insn *i)
{
	if (i->map == MAP_0F)
		return is_system_0f(i) ? soft_select_system
		       : is_sse(i)     ? soft_select_sse
				       : soft_select_integer;
	if (i->map != MAP_ONE)
		return NULL;
	if ((i->opcode & 0xf8) == 0xd8 || i->opcode == 0x9b)
		return soft_select_x87;
	return is_system_one(i) ? soft_select_system : soft_select_integer;
}

unsigned soft_translate(struct soft_builder *b, const struct soft_insn *insn, uint16_t off)
{
	unsigned before = b->count;
	soft_select *select = select_of(insn);

	b->insn = insn;
	b->off = off;
	b->first = true;
	b->ends = false;
	if (!select || !select(b)) {
		b->count = before;
		b->first = true;
		b->ends = true;
		soft_emit(b, soft_op_undefined);
	}
	return b->count - before;
}

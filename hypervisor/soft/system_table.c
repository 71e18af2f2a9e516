// SPDX-License-Identifier: Apache-2.0
/* Descriptor tables and task register, LMSW and SMSW, looks at descriptors. */
#include "hypervisor/soft/system.h"

/* imm of these operations: 1: the operand is in memory; else in register rm. */
static uint16_t source(struct soft_cpu *cpu, struct soft_op *op)
{
	return op->imm ? soft_read16(cpu, op, soft_ea(cpu, op))
		       : (uint16_t)soft_reg_read(cpu, op->rm, 2);
}

/* To memory always 16 bits, to a register as many as the operand has. */
static struct soft_op *store(struct soft_cpu *cpu, struct soft_op *op, uint64_t value)
{
	if (op->imm)
		soft_write16(cpu, op, soft_ea(cpu, op), (uint16_t)value);
	else
		soft_reg_write(cpu, op->rm, value, op->aux);
	return soft_next(cpu, op);
}

static void need_protected(struct soft_cpu *cpu, struct soft_op *op)
{
	if (!soft_protected(cpu))
		soft_raise(cpu, op, VEC_UD);
}

/* ---- LDT, TR ----------------------------------------------------------------------------- */

static struct soft_op *op_sldt(struct soft_cpu *cpu, struct soft_op *op)
{
	need_protected(cpu, op);
	return store(cpu, op, cpu->seg[SEG_LDT].selector);
}
static struct soft_op *op_str(struct soft_cpu *cpu, struct soft_op *op)
{
	need_protected(cpu, op);
	return store(cpu, op, cpu->seg[SEG_TR].selector);
}

static struct soft_segment system_segment(struct soft_cpu *cpu, struct soft_op *op,
					  struct soft_descriptor *d, uint16_t selector,
					  unsigned types)
{
	struct soft_segment s;

	if (selector & 4)
		soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	soft_descriptor_read(cpu, op, selector, VEC_GP, d);
	if (soft_descriptor_plain(d) || !(types >> soft_descriptor_type(d) & 1))
		soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	if (!soft_descriptor_present(d))
		soft_raise_error(cpu, op, VEC_NP, selector & ~3u);
	s = soft_descriptor_segment(cpu, op, d, selector);
	if (soft_long(cpu)) {
		s.base |= soft_descriptor_upper(cpu, op, d, VEC_GP) << 32;
		if (!soft_canonical(s.base))
			soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	}
	return s;
}

static struct soft_op *op_lldt(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_descriptor d;
	uint16_t selector;

	need_protected(cpu, op);
	soft_need_cpl0(cpu, op);
	selector = source(cpu, op);
	cpu->seg[SEG_LDT] = soft_selector_null(selector)
				    ? soft_segment_null(selector)
				    : system_segment(cpu, op, &d, selector, 1u << TYPE_LDT);
	return soft_next(cpu, op);
}

static struct soft_op *op_ltr(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned types = 1u << TYPE_TSS | (soft_long(cpu) ? 0 : 1u << TYPE_TSS16);
	struct soft_descriptor d;
	struct soft_segment s;
	uint16_t selector;
	uint8_t type;

	need_protected(cpu, op);
	soft_need_cpl0(cpu, op);
	selector = source(cpu, op);
	if (soft_selector_null(selector))
		soft_raise_error(cpu, op, VEC_GP, 0);
	s = system_segment(cpu, op, &d, selector, types);
	s.attr |= 2; /* busy */
	type = (uint8_t)s.attr;
	soft_system_write(cpu, op, d.va + 5, &type, 1);
	cpu->seg[SEG_TR] = s;
	return soft_next(cpu, op);
}

/* ---- GDT, IDT ---------------------------------------------------------------------------- */

static struct soft_op *table_store(struct soft_cpu *cpu, struct soft_op *op,
				   const struct soft_table *t)
{
	uint8_t raw[10];

	memcpy(raw, &t->limit, 2);
	memcpy(raw + 2, &t->base, 8);
	soft_write_bytes(cpu, op, soft_ea(cpu, op), raw, cpu->mode == MODE_64 ? 10 : 6);
	return soft_next(cpu, op);
}
static struct soft_op *op_sgdt(struct soft_cpu *cpu, struct soft_op *op)
{
	return table_store(cpu, op, &cpu->gdt);
}
static struct soft_op *op_sidt(struct soft_cpu *cpu, struct soft_op *op)
{
	return table_store(cpu, op, &cpu->idt);
}

static struct soft_op *table_load(struct soft_cpu *cpu, struct soft_op *op, struct soft_table *t)
{
	uint8_t raw[10] = {0};
	struct soft_table new;

	soft_need_cpl0(cpu, op);
	soft_read_bytes(cpu, op, soft_ea(cpu, op), raw, cpu->mode == MODE_64 ? 10 : 6);
	memcpy(&new.limit, raw, 2);
	memcpy(&new.base, raw + 2, 8);
	if (cpu->mode != MODE_64 && op->aux == 2)
		new.base &= 0xffffff;
	if (!soft_canonical(new.base))
		soft_raise_error(cpu, op, VEC_GP, 0);
	*t = new;
	return soft_next(cpu, op);
}
static struct soft_op *op_lgdt(struct soft_cpu *cpu, struct soft_op *op)
{
	return table_load(cpu, op, &cpu->gdt);
}
static struct soft_op *op_lidt(struct soft_cpu *cpu, struct soft_op *op)
{
	return table_load(cpu, op, &cpu->idt);
}

/* ---- machine status word, INVLPG ----------------------------------------------------------- */

static struct soft_op *op_smsw(struct soft_cpu *cpu, struct soft_op *op)
{
	return store(cpu, op, cpu->cr0);
}

static struct soft_op *op_lmsw(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t value;

	soft_need_cpl0(cpu, op);
	value = source(cpu, op) & 15u;
	/* It can set PE, and not clear it. */
	if (soft_cr_write(cpu, 0, (cpu->cr0 & ~UINT64_C(14)) | value))
		soft_raise_error(cpu, op, VEC_GP, 0);
	return soft_done(cpu, op);
}

static struct soft_op *op_invlpg(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_ea(cpu, op) + cpu->r[SOFT_BASE_ES + op->rm];

	soft_need_cpl0(cpu, op);
	soft_tlb_flush_page(cpu, cpu->mode == MODE_64 ? va : (uint32_t)va);
	return soft_done(cpu, op);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---------------------------------------------------------------
 */

/* What the current privilege may see of a selector; system descriptors by type. */
static bool visible(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector, unsigned types,
		    struct soft_descriptor *d)
{
	unsigned dpl;

	need_protected(cpu, op);
	if (soft_selector_null(selector) || !soft_descriptor_find(cpu, op, selector, d))
		return false;
	if (soft_long(cpu))
		types &= 1u << TYPE_LDT | 1u << TYPE_TSS | 1u << TYPE_TSS_BUSY | 1u << TYPE_CALL;
	if (!soft_descriptor_plain(d) && !(types >> soft_descriptor_type(d) & 1))
		return false;
	dpl = soft_descriptor_dpl(d);
	return soft_descriptor_conforming(d) || (dpl >= cpu->cpl && dpl >= (selector & 3u));
}

#define TYPES_LIMIT                                                                                \
	(1u << TYPE_TSS16 | 1u << TYPE_LDT | 1u << TYPE_TSS16_BUSY | 1u << TYPE_TSS |              \
	 1u << TYPE_TSS_BUSY)
#define TYPES_RIGHTS (TYPES_LIMIT | 1u << TYPE_CALL16 | 1u << TYPE_TASK | 1u << TYPE_CALL)

static struct soft_op *op_lar(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_descriptor d;
	bool good;

	need_protected(cpu, op);
	good = visible(cpu, op, source(cpu, op), TYPES_RIGHTS, &d);
	if (good)
		soft_reg_write(cpu, op->reg, d.high & 0x00f0ff00, op->aux);
	soft_flag_zf(cpu, good);
	return soft_next(cpu, op);
}

static struct soft_op *op_lsl(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_descriptor d;
	bool good;

	need_protected(cpu, op);
	good = visible(cpu, op, source(cpu, op), TYPES_LIMIT, &d);
	if (good)
		soft_reg_write(cpu, op->reg, soft_descriptor_limit(&d), op->aux);
	soft_flag_zf(cpu, good);
	return soft_next(cpu, op);
}

static struct soft_op *op_verr(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_descriptor d;

	need_protected(cpu, op);
	soft_flag_zf(cpu, visible(cpu, op, source(cpu, op), 0, &d) &&
				  (!soft_descriptor_code(&d) || d.high >> 9 & 1));
	return soft_next(cpu, op);
}

static struct soft_op *op_verw(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_descriptor d;

	need_protected(cpu, op);
	soft_flag_zf(cpu, visible(cpu, op, source(cpu, op), 0, &d) && soft_descriptor_writable(&d));
	return soft_next(cpu, op);
}

/* Written only if it changes: it may lie in a page that is only read. */
static struct soft_op *op_arpl(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned rpl = soft_reg_read(cpu, op->reg, 2) & 3u;
	uint64_t va = soft_ea(cpu, op);
	uint16_t value;
	bool raised;

	need_protected(cpu, op);
	value = op->imm ? soft_read16(cpu, op, va) : (uint16_t)soft_reg_read(cpu, op->rm, 2);
	raised = (value & 3u) < rpl;
	value = (uint16_t)((value & ~3u) | rpl);
	if (raised && op->imm)
		soft_write16(cpu, op, va, value);
	else if (raised)
		soft_reg_write(cpu, op->rm, value, 2);
	soft_flag_zf(cpu, raised);
	return soft_next(cpu, op);
}

/* ---- selection
 * ------------------------------------------------------------------------------------- */

static bool emit(struct soft_builder *b, soft_fn *run, enum soft_access access)
{
	const struct soft_insn *i = b->insn;
	struct soft_op *op = i->memory ? soft_emit_memory(b, run, access, 2) : soft_emit(b, run);

	op->aux = i->operand;
	op->imm = i->memory;
	return true;
}

static bool emit_table(struct soft_builder *b, soft_fn *run, enum soft_access access)
{
	const struct soft_insn *i = b->insn;

	if (!i->memory)
		return false;
	soft_emit_memory(b, run, access, i->mode == MODE_64 ? 10 : 6)->aux = i->operand;
	return true;
}

static bool emit_invlpg(struct soft_builder *b)
{
	if (!b->insn->memory)
		return false;
	soft_emit_memory(b, op_invlpg, SOFT_ADDRESS, 1)->rm = b->insn->seg;
	b->ends = true;
	return true;
}

static bool select_group6(struct soft_builder *b)
{
	switch (b->insn->reg & 7) {
	case 0:
		return emit(b, op_sldt, SOFT_WRITE);
	case 1:
		return emit(b, op_str, SOFT_WRITE);
	case 2:
		return emit(b, op_lldt, SOFT_READ);
	case 3:
		return emit(b, op_ltr, SOFT_READ);
	case 4:
		return emit(b, op_verr, SOFT_READ);
	case 5:
		return emit(b, op_verw, SOFT_READ);
	default:
		return false;
	}
}

static bool select_group7(struct soft_builder *b)
{
	switch (b->insn->reg & 7) {
	case 0:
		return emit_table(b, op_sgdt, SOFT_WRITE);
	case 1:
		return emit_table(b, op_sidt, SOFT_WRITE);
	case 2:
		return emit_table(b, op_lgdt, SOFT_READ);
	case 3:
		return emit_table(b, op_lidt, SOFT_READ);
	case 4:
		return emit(b, op_smsw, SOFT_WRITE);
	case 6:
		b->ends = true;
		return emit(b, op_lmsw, SOFT_READ);
	case 7:
		return emit_invlpg(b);
	default:
		return false;
	}
}

bool soft_select_table(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (i->map == MAP_ONE) /* 63 */
		return emit(b, op_arpl, SOFT_RMW);
	switch (i->opcode) {
	case 0x00:
		return select_group6(b);
	case 0x01:
		return select_group7(b);
	case 0x02:
		return emit(b, op_lar, SOFT_READ);
	default: /* 03 */
		return emit(b, op_lsl, SOFT_READ);
	}
}

// SPDX-License-Identifier: Apache-2.0
/* Far CALL, JMP and RET, IRET, software interrupts. */
#include "hypervisor/soft/system.h"

/* ---- CALL and JMP ---------------------------------------------------------------------- */

static struct soft_op *finish(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_leave(cpu, op, cpu->rip);
}

static void return_push(struct soft_cpu *cpu, struct soft_op *op, struct soft_stack *s,
			unsigned size)
{
	soft_stack_push(cpu, op, s, cpu->seg[SEG_CS].selector, size);
	soft_stack_push(cpu, op, s, soft_rip_after(cpu, op), size);
}

static struct soft_op *transfer_real(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				     uint64_t rip, unsigned size, bool call)
{
	struct soft_stack s = soft_stack_current(cpu);

	if (rip > cpu->seg[SEG_CS].limit)
		soft_raise_error(cpu, op, VEC_GP, 0);
	if (call) {
		return_push(cpu, op, &s, size);
		soft_stack_take(cpu, &s);
	}
	cpu->seg[SEG_CS].selector = selector;
	cpu->seg[SEG_CS].base = (uint64_t)selector << 4;
	soft_mode_update(cpu);
	return soft_leave(cpu, op, rip);
}

static struct soft_op *transfer_code(struct soft_cpu *cpu, struct soft_op *op,
				     const struct soft_descriptor *d, uint64_t rip, unsigned size,
				     bool call)
{
	struct soft_target t = soft_target_direct(cpu, op, d, rip);
	struct soft_stack s = soft_stack_current(cpu);

	if (call)
		return_push(cpu, op, &s, size);
	soft_stack_take(cpu, &s);
	soft_target_take(cpu, &t);
	return finish(cpu, op);
}

/* The parameters of a legacy gate go from the old stack to the new one. */
static void parameters_push(struct soft_cpu *cpu, struct soft_op *op, struct soft_stack *s,
			    unsigned count, unsigned size)
{
	while (count--)
		soft_stack_push(cpu, op, s, soft_stack_peek(cpu, op, count, size), size);
}

static struct soft_op *transfer_gate(struct soft_cpu *cpu, struct soft_op *op,
				     const struct soft_descriptor *d, bool call)
{
	bool wide = soft_descriptor_type(d) == TYPE_CALL;
	unsigned size = soft_long(cpu) ? 8 : wide ? 4 : 2;
	uint64_t rip = (d->low & 0xffff) | (wide ? d->high & 0xffff0000 : 0);
	struct soft_stack s = soft_stack_current(cpu);
	struct soft_target t;

	if (!soft_descriptor_present(d))
		soft_raise_error(cpu, op, VEC_NP, d->selector & ~3u);
	if (soft_long(cpu))
		rip |= soft_descriptor_upper(cpu, op, d, VEC_GP) << 32;
	t = soft_target_gate(cpu, op, (uint16_t)(d->low >> 16), rip, !call);
	if (t.cpl < cpu->cpl) {
		s = soft_stack_inner(cpu, op, t.cpl);
		soft_stack_push(cpu, op, &s, cpu->seg[SEG_SS].selector, size);
		soft_stack_push(cpu, op, &s, cpu->r[SOFT_RSP], size);
		if (!soft_long(cpu))
			parameters_push(cpu, op, &s, d->high & 31, size);
	} else if (soft_long(cpu)) {
		s.flat = true;
		s.mask = UINT64_MAX;
	}
	if (call)
		return_push(cpu, op, &s, size);
	soft_stack_take(cpu, &s);
	soft_target_take(cpu, &t);
	return finish(cpu, op);
}

static struct soft_op *transfer_task(struct soft_cpu *cpu, struct soft_op *op,
				     const struct soft_descriptor *d, bool call)
{
	uint16_t selector = d->selector;

	if (soft_descriptor_type(d) == TYPE_TASK) {
		if (!soft_descriptor_present(d))
			soft_raise_error(cpu, op, VEC_NP, selector & ~3u);
		selector = (uint16_t)(d->low >> 16);
	}
	return soft_task_switch(cpu, op, selector, call ? TASK_CALL : TASK_JUMP);
}

static struct soft_op *transfer_system(struct soft_cpu *cpu, struct soft_op *op,
				       const struct soft_descriptor *d, bool call)
{
	unsigned type = soft_descriptor_type(d), dpl = soft_descriptor_dpl(d);
	bool gate = type == TYPE_CALL || (type == TYPE_CALL16 && !soft_long(cpu));
	bool task = !soft_long(cpu) && (type == TYPE_TASK || type == TYPE_TSS);

	if ((!gate && !task) || dpl < cpu->cpl || dpl < (d->selector & 3u))
		soft_raise_error(cpu, op, VEC_GP, d->selector & ~3u);
	return task ? transfer_task(cpu, op, d, call) : transfer_gate(cpu, op, d, call);
}

static struct soft_op *transfer(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				uint64_t rip, unsigned size, bool call)
{
	struct soft_descriptor d;

	if (!soft_protected(cpu))
		return transfer_real(cpu, op, selector, rip, size, call);
	if (soft_selector_null(selector))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_descriptor_read(cpu, op, selector, VEC_GP, &d);
	if (!soft_descriptor_plain(&d))
		return transfer_system(cpu, op, &d, call);
	if (!soft_descriptor_code(&d))
		soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	return transfer_code(cpu, op, &d, rip, size, call);
}

static struct soft_op *far_memory(struct soft_cpu *cpu, struct soft_op *op, bool call)
{
	uint16_t selector;
	uint64_t rip = soft_pointer_read(cpu, op, &selector);

	return transfer(cpu, op, selector, rip, op->aux, call);
}

/* Direct: imm holds the offset, disp the selector. */
static struct soft_op *op_call_far(struct soft_cpu *cpu, struct soft_op *op)
{
	return transfer(cpu, op, (uint16_t)op->disp, op->imm, op->aux, true);
}
static struct soft_op *op_jump_far(struct soft_cpu *cpu, struct soft_op *op)
{
	return transfer(cpu, op, (uint16_t)op->disp, op->imm, op->aux, false);
}
static struct soft_op *op_call_far_memory(struct soft_cpu *cpu, struct soft_op *op)
{
	return far_memory(cpu, op, true);
}
static struct soft_op *op_jump_far_memory(struct soft_cpu *cpu, struct soft_op *op)
{
	return far_memory(cpu, op, false);
}

/* ---- RET and IRET -------------------------------------------------------------------------- */

/* Segments that the outer privilege may not have. */
static void segments_drop(struct soft_cpu *cpu)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
		struct soft_segment *s = &cpu->seg[data[i]];
		bool conforming = (s->attr & (SEG_CODE | SEG_DOWN)) == (SEG_CODE | SEG_DOWN);

		if (!(s->attr & SEG_UNUSABLE) && !conforming && soft_seg_dpl(s) < cpu->cpl)
			*s = soft_segment_null(0);
	}
}

static struct soft_segment return_stack(struct soft_cpu *cpu, struct soft_op *op,
					const struct soft_target *t, uint16_t selector)
{
	if (!soft_selector_null(selector))
		return soft_segment_stack(cpu, op, selector, t->cpl, VEC_GP);
	if (!soft_long(cpu) || !(t->cs.attr & SEG_L) || t->cpl == 3 || (selector & 3u) != t->cpl)
		soft_raise_error(cpu, op, VEC_GP, 0);
	return soft_segment_null(selector);
}

/* CS, RIP, SS and RSP as popped. */
static void return_take(struct soft_cpu *cpu, const struct soft_target *t,
			const struct soft_segment *ss, uint64_t sp)
{
	bool outer = t->cpl > cpu->cpl;

	cpu->seg[SEG_SS] = *ss;
	soft_target_take(cpu, t);
	if (cpu->mode == MODE_64 || cpu->ss32)
		cpu->r[SOFT_RSP] = sp;
	else
		soft_reg_write(cpu, REG(SOFT_RSP), sp, 2);
	if (outer) {
		segments_drop(cpu);
		soft_mode_update(cpu);
	}
}

static struct soft_op *return_real(struct soft_cpu *cpu, struct soft_op *op, unsigned drop)
{
	unsigned size = op->aux;
	uint64_t rip = soft_stack_peek(cpu, op, 0, size);
	uint16_t selector = (uint16_t)soft_stack_peek(cpu, op, 1, size);

	if (rip > cpu->seg[SEG_CS].limit)
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_stack_drop(cpu, drop);
	cpu->seg[SEG_CS].selector = selector;
	cpu->seg[SEG_CS].base = (uint64_t)selector << 4;
	soft_mode_update(cpu);
	return soft_leave(cpu, op, rip);
}

/* The outer stack lies above the parameters. */
static uint64_t peek_above(struct soft_cpu *cpu, struct soft_op *op, unsigned n)
{
	uint64_t offset = cpu->r[SOFT_RSP] + op->imm + (uint64_t)n * op->aux, v = 0;

	if (cpu->mode != MODE_64)
		offset &= cpu->ss32 ? UINT32_MAX : UINT16_MAX;
	soft_read_bytes(cpu, op, soft_linear(cpu, op, SEG_SS, offset, op->aux, false), &v, op->aux);
	return v;
}

static struct soft_op *op_return_far(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned size = op->aux;
	struct soft_segment ss;
	struct soft_target t;
	uint64_t sp;

	if (!soft_protected(cpu))
		return return_real(cpu, op, 2 * size + (unsigned)op->imm);
	t = soft_target_return(cpu, op, (uint16_t)soft_stack_peek(cpu, op, 1, size),
			       soft_stack_peek(cpu, op, 0, size));
	if (t.cpl == cpu->cpl) {
		soft_stack_drop(cpu, 2 * size + (unsigned)op->imm);
		soft_target_take(cpu, &t);
		return finish(cpu, op);
	}
	sp = peek_above(cpu, op, 2);
	ss = return_stack(cpu, op, &t, (uint16_t)peek_above(cpu, op, 3));
	return_take(cpu, &t, &ss, sp);
	soft_stack_drop(cpu, (unsigned)op->imm);
	return finish(cpu, op);
}

static void iret_flags(struct soft_cpu *cpu, uint32_t flags, unsigned size, unsigned cpl)
{
	uint32_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;

	if (size > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (!cpl)
		mask |= FLAG_IOPL;
	if (cpl <= (cpu->flags & FLAG_IOPL) >> 12)
		mask |= FLAG_IF;
	soft_flags_write(cpu, flags, mask);
}

static struct soft_op *op_iret_real(struct soft_cpu *cpu, struct soft_op *op)
{
	uint32_t flags = (uint32_t)soft_stack_peek(cpu, op, 2, op->aux);
	struct soft_op *next = return_real(cpu, op, 3u * op->aux);

	iret_flags(cpu, flags, op->aux, 0);
	cpu->nmi_masked = false;
	return next;
}

static struct soft_op *iret_task(struct soft_cpu *cpu, struct soft_op *op)
{
	uint16_t link;

	if (soft_long(cpu))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_task_read(cpu, op, 0, &link, 2);
	cpu->nmi_masked = false;
	return soft_task_switch(cpu, op, link, TASK_RETURN);
}

static struct soft_op *op_iret(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned size = op->aux, cpl = cpu->cpl;
	struct soft_segment ss = cpu->seg[SEG_SS];
	struct soft_target t;
	uint64_t sp = 0;
	uint32_t flags;
	bool stack;

	if (!soft_protected(cpu))
		return op_iret_real(cpu, op);
	if (cpu->flags & FLAG_NT)
		return iret_task(cpu, op);
	flags = (uint32_t)soft_stack_peek(cpu, op, 2, size);
	if (flags & FLAG_VM && size == 4 && !cpl && !soft_long(cpu))
		soft_raise_error(cpu, op, VEC_GP, 0);
	t = soft_target_return(cpu, op, (uint16_t)soft_stack_peek(cpu, op, 1, size),
			       soft_stack_peek(cpu, op, 0, size));
	stack = t.cpl > cpl || cpu->mode == MODE_64;
	if (stack) {
		sp = soft_stack_peek(cpu, op, 3, size);
		ss = return_stack(cpu, op, &t, (uint16_t)soft_stack_peek(cpu, op, 4, size));
		return_take(cpu, &t, &ss, sp);
	} else {
		soft_stack_drop(cpu, 3 * size);
		soft_target_take(cpu, &t);
	}
	iret_flags(cpu, flags, size, cpl);
	cpu->nmi_masked = false;
	return finish(cpu, op);
}

/* ---- INT n --------------------------------------------------------------------------------------
 */

static struct soft_op *op_int(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_software_interrupt(cpu, op, op->imm & 0xff, EVENT_SOFTWARE);
}
static struct soft_op *op_int3(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_software_interrupt(cpu, op, VEC_BP, EVENT_SOFTWARE);
}
static struct soft_op *op_into(struct soft_cpu *cpu, struct soft_op *op)
{
	if (!fl_of(cpu))
		return soft_done(cpu, op);
	return soft_software_interrupt(cpu, op, VEC_OF, EVENT_SOFTWARE);
}
static struct soft_op *op_icebp(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_software_interrupt(cpu, op, VEC_DB, EVENT_EXCEPTION);
}

/* ---- selection
 * ------------------------------------------------------------------------------------ */

static bool select_direct(struct soft_builder *b, soft_fn *run)
{
	const struct soft_insn *i = b->insn;

	if (i->mode == MODE_64)
		return false;
	soft_emit_last(b, run, i->operand)->disp = (int32_t)i->imm2;
	return true;
}

static bool select_memory(struct soft_builder *b, soft_fn *run)
{
	const struct soft_insn *i = b->insn;

	if (!i->memory)
		return false;
	soft_emit_memory(b, run, SOFT_READ, i->operand + 2u)->aux = i->operand;
	b->ends = true;
	return true;
}

static bool select_legacy(struct soft_builder *b, soft_fn *run)
{
	if (b->insn->mode == MODE_64)
		return false;
	soft_emit_last(b, run, 0);
	return true;
}

bool soft_select_far(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	switch (i->opcode) {
	case 0x9a:
		return select_direct(b, op_call_far);
	case 0xea:
		return select_direct(b, op_jump_far);
	case 0xff:
		return select_memory(b,
				     (i->reg & 7) == 3 ? op_call_far_memory : op_jump_far_memory);
	case 0xca:
	case 0xcb:
		return soft_emit_last(b, op_return_far, i->operand);
	case 0xcc:
		return soft_emit_last(b, op_int3, 0);
	case 0xcd:
		return soft_emit_last(b, op_int, 0);
	case 0xce:
		return select_legacy(b, op_into);
	case 0xf1:
		return soft_emit_last(b, op_icebp, 0);
	case 0xcf:
		return soft_emit_last(b, op_iret, i->operand);
	default:
		return false;
	}
}

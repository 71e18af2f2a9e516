// SPDX-License-Identifier: Apache-2.0
/* Stacks and code segments of transfers that change them: APM volume 2, chapter 4. */
#include "hypervisor/soft/system.h"

/* ---- stacks ------------------------------------------------------------------------------ */

static uint64_t stack_mask(const struct soft_cpu *cpu)
{
	if (cpu->mode == MODE_64)
		return UINT64_MAX;
	return cpu->ss32 ? UINT32_MAX : UINT16_MAX;
}

struct soft_stack soft_stack_current(const struct soft_cpu *cpu)
{
	return (struct soft_stack){
		.ss = cpu->seg[SEG_SS],
		.sp = cpu->r[SOFT_RSP],
		.mask = stack_mask(cpu),
		.cpl = cpu->cpl,
		.flat = cpu->mode == MODE_64,
	};
}

static struct soft_stack inner_long(struct soft_cpu *cpu, struct soft_op *op, unsigned cpl)
{
	struct soft_stack s = {
		.ss = soft_segment_null((uint16_t)cpl),
		.mask = UINT64_MAX,
		.cpl = (uint8_t)cpl,
		.flat = true,
		.inner = true,
	};

	soft_task_read(cpu, op, 4 + 8 * cpl, &s.sp, 8);
	return s;
}

static struct soft_stack inner_legacy(struct soft_cpu *cpu, struct soft_op *op, unsigned cpl)
{
	struct soft_stack s = {.cpl = (uint8_t)cpl, .inner = true};
	bool wide = cpu->seg[SEG_TR].attr & 8;
	uint16_t selector = 0;

	soft_task_read(cpu, op, wide ? 4 + 8 * cpl : 2 + 4 * cpl, &s.sp, wide ? 4 : 2);
	soft_task_read(cpu, op, wide ? 8 + 8 * cpl : 4 + 4 * cpl, &selector, 2);
	if (soft_selector_null(selector))
		soft_raise_error(cpu, op, VEC_TS, 0);
	s.ss = soft_segment_stack(cpu, op, selector, cpl, VEC_TS);
	s.mask = s.ss.attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
	return s;
}

struct soft_stack soft_stack_inner(struct soft_cpu *cpu, struct soft_op *op, unsigned cpl)
{
	return soft_long(cpu) ? inner_long(cpu, op, cpl) : inner_legacy(cpu, op, cpl);
}

/* A new stack segment is not SS yet: its own look at the limit. */
static uint64_t inner_linear(struct soft_cpu *cpu, struct soft_op *op, const struct soft_stack *s,
			     uint64_t sp, unsigned size)
{
	uint64_t last = (sp & s->mask) + size - 1;
	uint64_t top = s->ss.attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
	bool down = s->ss.attr & SEG_DOWN;
	bool good = down ? (sp & s->mask) > s->ss.limit && last <= top : last <= s->ss.limit;

	if (!good)
		soft_raise_error(cpu, op, VEC_SS, s->ss.selector & ~3u);
	return (uint32_t)(s->ss.base + (sp & s->mask));
}

void soft_stack_push(struct soft_cpu *cpu, struct soft_op *op, struct soft_stack *s, uint64_t v,
		     unsigned size)
{
	uint64_t sp = (s->sp - size) & s->mask, va = sp;

	if (s->flat && !soft_canonical(va))
		soft_raise_error(cpu, op, VEC_SS, 0);
	if (!s->flat)
		va = s->inner ? inner_linear(cpu, op, s, sp, size)
			      : soft_linear(cpu, op, SEG_SS, sp, size, true);
	if (s->inner || s->cpl < 3)
		soft_system_write(cpu, op, va, &v, size);
	else
		soft_write_bytes(cpu, op, va, &v, size);
	s->sp = (s->sp & ~s->mask) | sp;
}

void soft_stack_take(struct soft_cpu *cpu, const struct soft_stack *s)
{
	cpu->seg[SEG_SS] = s->ss;
	cpu->r[SOFT_RSP] = s->sp;
}

uint64_t soft_stack_peek(struct soft_cpu *cpu, struct soft_op *op, unsigned n, unsigned size)
{
	uint64_t sp = (cpu->r[SOFT_RSP] + (uint64_t)n * size) & stack_mask(cpu), v = 0;

	op->flags |= OP_STACK;
	soft_read_bytes(cpu, op, soft_linear(cpu, op, SEG_SS, sp, size, false), &v, size);
	return v;
}

void soft_stack_drop(struct soft_cpu *cpu, unsigned octets)
{
	uint64_t mask = stack_mask(cpu), sp = cpu->r[SOFT_RSP];

	cpu->r[SOFT_RSP] = (sp & ~mask) | ((sp + octets) & mask);
}

/* ---- code segments -----------------------------------------------------------------------------
 */

void soft_target_take(struct soft_cpu *cpu, const struct soft_target *t)
{
	cpu->seg[SEG_CS] = t->cs;
	cpu->cpl = t->cpl;
	cpu->rip = t->rip;
	soft_mode_update(cpu);
}

static void code_present(struct soft_cpu *cpu, struct soft_op *op, const struct soft_descriptor *d)
{
	/* L and D together mean nothing. */
	if (soft_long(cpu) && (d->high >> 21 & 3) == 3)
		soft_raise_error(cpu, op, VEC_GP, d->selector & ~3u);
	if (!soft_descriptor_present(d))
		soft_raise_error(cpu, op, VEC_NP, d->selector & ~3u);
}

static struct soft_target target_make(struct soft_cpu *cpu, struct soft_op *op,
				      const struct soft_descriptor *d, uint64_t rip, unsigned cpl)
{
	struct soft_target t = {.rip = rip, .cpl = (uint8_t)cpl};

	code_present(cpu, op, d);
	if (soft_long(cpu) && d->high >> 21 & 1) {
		if (!soft_canonical(rip))
			soft_raise_error(cpu, op, VEC_GP, 0);
	} else {
		t.rip = (uint32_t)rip;
		if (t.rip > soft_descriptor_limit(d))
			soft_raise_error(cpu, op, VEC_GP, 0);
	}
	t.cs = soft_descriptor_segment(cpu, op, d, (uint16_t)((d->selector & ~3u) | cpl));
	return t;
}

struct soft_target soft_target_gate(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				    uint64_t rip, bool jump)
{
	struct soft_descriptor d;
	unsigned dpl, cpl = cpu->cpl;

	if (soft_selector_null(selector))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_descriptor_read(cpu, op, selector, VEC_GP, &d);
	dpl = soft_descriptor_dpl(&d);
	if (!soft_descriptor_code(&d) || dpl > cpl || (soft_long(cpu) && (d.high >> 21 & 3) != 1))
		soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	if (!soft_descriptor_conforming(&d)) {
		if (jump && dpl != cpl)
			soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
		cpl = dpl;
	}
	return target_make(cpu, op, &d, rip, cpl);
}

struct soft_target soft_target_direct(struct soft_cpu *cpu, struct soft_op *op,
				      const struct soft_descriptor *d, uint64_t rip)
{
	unsigned dpl = soft_descriptor_dpl(d), rpl = d->selector & 3u;
	bool good = soft_descriptor_conforming(d) ? dpl <= cpu->cpl
						  : rpl <= cpu->cpl && dpl == cpu->cpl;

	if (!good)
		soft_raise_error(cpu, op, VEC_GP, d->selector & ~3u);
	return target_make(cpu, op, d, rip, cpu->cpl);
}

struct soft_target soft_target_return(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				      uint64_t rip)
{
	struct soft_descriptor d;
	unsigned dpl, rpl = selector & 3u;

	if (soft_selector_null(selector))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_descriptor_read(cpu, op, selector, VEC_GP, &d);
	dpl = soft_descriptor_dpl(&d);
	if (!soft_descriptor_code(&d) || rpl < cpu->cpl ||
	    (soft_descriptor_conforming(&d) ? dpl > rpl : dpl != rpl))
		soft_raise_error(cpu, op, VEC_GP, selector & ~3u);
	return target_make(cpu, op, &d, rip, rpl);
}

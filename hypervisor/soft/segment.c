// SPDX-License-Identifier: Apache-2.0
/* Descriptors and segment registers: AMD64 APM volume 2, chapter 4. */
#include "hypervisor/soft/system.h"

/* ---- descriptors ------------------------------------------------------------------------ */

static bool descriptor_place(const struct soft_cpu *cpu, uint16_t selector, unsigned last,
			     uint64_t *va)
{
	const struct soft_segment *ldt = &cpu->seg[SEG_LDT];
	uint32_t offset = selector & 0xfff8u;
	bool local = selector & 4;

	if (local && ldt->attr & SEG_UNUSABLE)
		return false;
	*va = (local ? ldt->base : cpu->gdt.base) + offset;
	return offset + last <= (local ? ldt->limit : cpu->gdt.limit);
}

bool soft_descriptor_find(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
			  struct soft_descriptor *out)
{
	uint32_t raw[2];

	if (!descriptor_place(cpu, selector, 7, &out->va))
		return false;
	soft_system_read(cpu, op, out->va, raw, sizeof(raw));
	out->selector = selector;
	out->low = raw[0];
	out->high = raw[1];
	return true;
}

void soft_descriptor_read(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
			  unsigned vector, struct soft_descriptor *out)
{
	if (!soft_descriptor_find(cpu, op, selector, out))
		soft_raise_error(cpu, op, vector, selector & ~3u);
}

uint64_t soft_descriptor_upper(struct soft_cpu *cpu, struct soft_op *op,
			       const struct soft_descriptor *d, unsigned vector)
{
	uint64_t va, upper;

	if (!descriptor_place(cpu, d->selector, 15, &va))
		soft_raise_error(cpu, op, vector, d->selector & ~3u);
	soft_system_read(cpu, op, va + 8, &upper, sizeof(upper));
	if (upper >> 40 & 0x1f) /* its type must be 0 */
		soft_raise_error(cpu, op, vector, d->selector & ~3u);
	return upper;
}

uint32_t soft_descriptor_base(const struct soft_descriptor *d)
{
	return d->low >> 16 | (d->high & 0xff) << 16 | (d->high & 0xff000000);
}

uint32_t soft_descriptor_limit(const struct soft_descriptor *d)
{
	uint32_t limit = (d->low & 0xffff) | (d->high & 0xf0000);

	return d->high >> 23 & 1 ? limit << 12 | 0xfff : limit;
}

static uint16_t descriptor_attr(const struct soft_descriptor *d)
{
	return (uint16_t)((d->high >> 8 & 0xff) | (d->high >> 20 & 0xf) << 9);
}

struct soft_segment soft_descriptor_segment(struct soft_cpu *cpu, struct soft_op *op,
					    const struct soft_descriptor *d, uint16_t selector)
{
	struct soft_segment s = {
		.base = soft_descriptor_base(d),
		.limit = soft_descriptor_limit(d),
		.selector = selector,
		.attr = descriptor_attr(d),
	};

	if (soft_descriptor_plain(d) && !(s.attr & SEG_ACCESSED)) {
		uint8_t type;

		s.attr |= SEG_ACCESSED;
		type = (uint8_t)s.attr;
		soft_system_write(cpu, op, d->va + 5, &type, 1);
	}
	return s;
}

struct soft_segment soft_segment_null(uint16_t selector)
{
	return (struct soft_segment){.selector = selector, .attr = SEG_UNUSABLE};
}

/* ---- loads ---------------------------------------------------------------------------------- */

static struct soft_segment segment_real(struct soft_segment s, uint16_t selector)
{
	s.selector = selector;
	s.base = (uint64_t)selector << 4;
	/* The limit stays what it was in protected mode. */
	s.attr &= (uint16_t)~SEG_UNUSABLE;
	s.attr |= SEG_PRESENT | SEG_S | SEG_WRITE | SEG_ACCESSED;
	return s;
}

struct soft_segment soft_segment_stack(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				       unsigned cpl, unsigned vector)
{
	struct soft_descriptor d;

	soft_descriptor_read(cpu, op, selector, vector, &d);
	if ((selector & 3u) != cpl || soft_descriptor_dpl(&d) != cpl ||
	    !soft_descriptor_writable(&d))
		soft_raise_error(cpu, op, vector, selector & ~3u);
	if (!soft_descriptor_present(&d))
		soft_raise_error(cpu, op, VEC_SS, selector & ~3u);
	return soft_descriptor_segment(cpu, op, &d, selector);
}

static struct soft_segment load_stack(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector)
{
	if (!soft_selector_null(selector))
		return soft_segment_stack(cpu, op, selector, cpu->cpl, VEC_GP);
	/* 64-bit mode has no use for SS, but at privilege 3 a null one is refused. */
	if (cpu->mode != MODE_64 || cpu->cpl == 3 || (selector & 3u) != cpu->cpl)
		soft_raise_error(cpu, op, VEC_GP, 0);
	return soft_segment_null(selector);
}

struct soft_segment soft_segment_data(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				      unsigned vector)
{
	struct soft_descriptor d;
	unsigned rpl = selector & 3u;

	if (soft_selector_null(selector))
		return soft_segment_null(selector);
	soft_descriptor_read(cpu, op, selector, vector, &d);
	/* Data, or readable code; privilege does not count for conforming code. */
	if (!soft_descriptor_plain(&d) || (soft_descriptor_code(&d) && !(d.high >> 9 & 1)) ||
	    (!soft_descriptor_conforming(&d) &&
	     (rpl > soft_descriptor_dpl(&d) || cpu->cpl > soft_descriptor_dpl(&d))))
		soft_raise_error(cpu, op, vector, selector & ~3u);
	if (!soft_descriptor_present(&d))
		soft_raise_error(cpu, op, VEC_NP, selector & ~3u);
	return soft_descriptor_segment(cpu, op, &d, selector);
}

void soft_segment_load(struct soft_cpu *cpu, struct soft_op *op, enum soft_seg seg,
		       uint16_t selector)
{
	struct soft_segment s;

	if (!soft_protected(cpu))
		s = segment_real(cpu->seg[seg], selector);
	else if (seg == SEG_SS)
		s = load_stack(cpu, op, selector);
	else
		s = soft_segment_data(cpu, op, selector, VEC_GP);
	cpu->seg[seg] = s;
	soft_mode_update(cpu);
}

void soft_mode_update(struct soft_cpu *cpu)
{
	const struct soft_segment *cs = &cpu->seg[SEG_CS];
	uint64_t base = cpu->r[SOFT_BASE_CS];

	if (soft_long(cpu) && cs->attr & SEG_L)
		cpu->mode = MODE_64;
	else
		cpu->mode = cs->attr & SEG_DB ? MODE_32 : MODE_16;
	cpu->ss32 = cpu->seg[SEG_SS].attr & SEG_DB;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		cpu->r[SOFT_BASE_ES + i] =
			cpu->mode == MODE_64 && i < SEG_FS ? 0 : cpu->seg[i].base;
	/* The jump cache finds by RIP, whose meaning has changed. */
	if (cpu->r[SOFT_BASE_CS] != base)
		cpu->epoch++;
	soft_tlb_select(cpu);
}

// SPDX-License-Identifier: Apache-2.0
/* The task state segment: stacks, the port bitmap, and in legacy mode task switches
 * between 32-bit TSSs (APM volume 2, chapter 12). */
#include "hypervisor/soft/system.h"

enum {
	TSS_LINK = 0,
	TSS_CR3 = 0x1c,
	TSS_EIP = 0x20,
	TSS_LDT = 0x60,
	TSS_BITMAP = 0x66,
	TSS_OCTETS = 0x68,
};

void soft_task_read(struct soft_cpu *cpu, struct soft_op *op, uint32_t at, void *out, unsigned n)
{
	const struct soft_segment *tr = &cpu->seg[SEG_TR];

	if (at + n - 1 > tr->limit)
		soft_raise_error(cpu, op, VEC_TS, tr->selector & ~3u);
	soft_system_read(cpu, op, tr->base + at, out, n);
}

bool soft_task_port_allowed(struct soft_cpu *cpu, struct soft_op *op, uint16_t port, unsigned size)
{
	const struct soft_segment *tr = &cpu->seg[SEG_TR];
	uint16_t base, bits;
	uint32_t at;

	if (!(tr->attr & 8) || tr->limit < TSS_OCTETS - 1)
		return false;
	soft_system_read(cpu, op, tr->base + TSS_BITMAP, &base, 2);
	/* Two octets are always read, so the bitmap has one more than it needs. */
	at = base + port / 8u;
	if (at + 1 > tr->limit)
		return false;
	soft_system_read(cpu, op, tr->base + at, &bits, 2);
	return !(bits >> (port & 7) & ((1u << size) - 1));
}

/* ---- task switch --------------------------------------------------------------------------- */

/* Octets 0x20 to 0x5f of a TSS. */
struct tss_dynamic {
	uint32_t eip, eflags, general[8], segments[6];
};
_Static_assert(sizeof(struct tss_dynamic) == 0x40, "0x20 to 0x5f");

static void descriptor_check(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector, bool back,
			     struct soft_descriptor *d)
{
	unsigned vector = back ? VEC_TS : VEC_GP;
	unsigned type = back ? TYPE_TSS_BUSY : TYPE_TSS;

	if (selector & 4 || soft_selector_null(selector))
		soft_raise_error(cpu, op, vector, selector & ~3u);
	soft_descriptor_read(cpu, op, selector, vector, d);
	if (soft_descriptor_plain(d) || soft_descriptor_type(d) != type)
		soft_raise_error(cpu, op, vector, selector & ~3u);
	if (!soft_descriptor_present(d))
		soft_raise_error(cpu, op, VEC_NP, selector & ~3u);
	if (soft_descriptor_limit(d) < TSS_OCTETS - 1)
		soft_raise_error(cpu, op, VEC_TS, selector & ~3u);
}

static void busy_set(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, bool busy)
{
	uint8_t octet;

	soft_system_read(cpu, op, va + 5, &octet, 1);
	octet = (uint8_t)(busy ? octet | 2 : octet & ~2);
	soft_system_write(cpu, op, va + 5, &octet, 1);
}

static struct tss_dynamic dynamic_of(const struct soft_cpu *cpu, const struct soft_op *op)
{
	struct tss_dynamic t = {
		.eip = (uint32_t)soft_rip_after(cpu, op),
		.eflags = soft_flags(cpu),
	};

	for (unsigned i = 0; i < 8; i++)
		t.general[i] = (uint32_t)cpu->r[i];
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		t.segments[i] = cpu->seg[i].selector;
	return t;
}

static void code_load(struct soft_cpu *cpu, uint16_t selector)
{
	struct soft_descriptor d;
	unsigned rpl = selector & 3u;

	if (soft_selector_null(selector))
		soft_raise_error(cpu, NULL, VEC_TS, 0);
	soft_descriptor_read(cpu, NULL, selector, VEC_TS, &d);
	if (!soft_descriptor_code(&d) ||
	    (soft_descriptor_conforming(&d) ? soft_descriptor_dpl(&d) > rpl
					    : soft_descriptor_dpl(&d) != rpl))
		soft_raise_error(cpu, NULL, VEC_TS, selector & ~3u);
	if (!soft_descriptor_present(&d))
		soft_raise_error(cpu, NULL, VEC_NP, selector & ~3u);
	cpu->seg[SEG_CS] = soft_descriptor_segment(cpu, NULL, &d, selector);
	soft_mode_update(cpu);
	if (cpu->rip > cpu->seg[SEG_CS].limit)
		soft_raise_error(cpu, NULL, VEC_GP, 0);
}

static void local_table_load(struct soft_cpu *cpu, uint16_t selector)
{
	struct soft_descriptor d;

	cpu->seg[SEG_LDT] = soft_segment_null(selector);
	if (soft_selector_null(selector))
		return;
	if (selector & 4)
		soft_raise_error(cpu, NULL, VEC_TS, selector & ~3u);
	soft_descriptor_read(cpu, NULL, selector, VEC_TS, &d);
	if (soft_descriptor_plain(&d) || soft_descriptor_type(&d) != TYPE_LDT ||
	    !soft_descriptor_present(&d))
		soft_raise_error(cpu, NULL, VEC_TS, selector & ~3u);
	cpu->seg[SEG_LDT] = soft_descriptor_segment(cpu, NULL, &d, selector);
}

/* The new task is there; what is wrong with its segments is its own fault. */
static void segments_load(struct soft_cpu *cpu, const struct tss_dynamic *t, uint16_t ldt)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint16_t ss = (uint16_t)t->segments[SEG_SS];

	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		cpu->seg[i] = soft_segment_null((uint16_t)t->segments[i]);
	cpu->cpl = t->segments[SEG_CS] & 3;
	local_table_load(cpu, ldt);
	code_load(cpu, (uint16_t)t->segments[SEG_CS]);
	if (soft_selector_null(ss))
		soft_raise_error(cpu, NULL, VEC_TS, 0);
	cpu->seg[SEG_SS] = soft_segment_stack(cpu, NULL, ss, cpu->cpl, VEC_TS);
	soft_mode_update(cpu); /* a fault from here on is pushed there */
	for (unsigned i = 0; i < ARRAY_LEN(data); i++)
		cpu->seg[data[i]] =
			soft_segment_data(cpu, NULL, (uint16_t)t->segments[data[i]], VEC_TS);
	soft_mode_update(cpu);
}

static void old_leave(struct soft_cpu *cpu, struct soft_op *op, uint64_t new_base,
		      enum soft_task_switch how)
{
	struct soft_segment *tr = &cpu->seg[SEG_TR];
	struct tss_dynamic t = dynamic_of(cpu, op);

	if (how == TASK_RETURN)
		t.eflags &= ~(uint32_t)FLAG_NT;
	soft_system_write(cpu, op, tr->base + TSS_EIP, &t, sizeof(t));
	if (how == TASK_CALL)
		soft_system_write(cpu, op, new_base + TSS_LINK, &tr->selector, 2);
	else
		busy_set(cpu, op, cpu->gdt.base + (tr->selector & 0xfff8u), false);
}

static void registers_load(struct soft_cpu *cpu, const struct tss_dynamic *t, bool nested)
{
	uint32_t all = FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF |
		       FLAG_AC | FLAG_ID;

	for (unsigned i = 0; i < 8; i++)
		cpu->r[i] = t->general[i];
	soft_flags_write(cpu, t->eflags | (nested ? FLAG_NT : 0), all);
}

struct soft_op *soft_task_switch(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				 enum soft_task_switch how)
{
	struct soft_descriptor d;
	struct tss_dynamic t;
	struct soft_op *next;
	uint32_t base, cr3;
	uint16_t ldt;

	descriptor_check(cpu, op, selector, how == TASK_RETURN, &d);
	/* The old task must have a 32-bit TSS as well. */
	if (!(cpu->seg[SEG_TR].attr & 8) || cpu->seg[SEG_TR].limit < TSS_OCTETS - 1)
		soft_raise_error(cpu, op, VEC_TS, cpu->seg[SEG_TR].selector & ~3u);
	base = soft_descriptor_base(&d);
	soft_system_read(cpu, op, base + TSS_EIP, &t, sizeof(t));
	soft_system_read(cpu, op, base + TSS_CR3, &cr3, 4);
	soft_system_read(cpu, op, base + TSS_LDT, &ldt, 2);
	old_leave(cpu, op, base, how);
	if (how != TASK_RETURN)
		busy_set(cpu, op, d.va, true);
	next = soft_leave(cpu, op, t.eip);
	cpu->seg[SEG_TR] = soft_descriptor_segment(cpu, NULL, &d, selector);
	cpu->seg[SEG_TR].attr |= 2;
	cpu->cr0 |= CR0_TS;
	if (cpu->cr0 & CR0_PG && soft_cr_write(cpu, 3, cr3))
		soft_raise_error(cpu, NULL, VEC_TS, selector & ~3u);
	registers_load(cpu, &t, how == TASK_CALL);
	segments_load(cpu, &t, ldt);
	return next;
}

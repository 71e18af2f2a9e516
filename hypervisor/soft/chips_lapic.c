// SPDX-License-Identifier: Apache-2.0
/* A local APIC: registers, priorities, acceptance. Intel SDM volume 3, chapter "Advanced
 * Programmable Interrupt Controller". */
#include "hypervisor/soft/chips_parts.h"

/* Bits of the LVT entries that a guest can set. */
static const uint32_t lvt_bits[] = {
	[LAPIC_LVT_TIMER - LAPIC_LVT_TIMER] = 0x700ff,
	[LAPIC_LVT_THERMAL - LAPIC_LVT_TIMER] = 0x107ff,
	[LAPIC_LVT_PERF - LAPIC_LVT_TIMER] = 0x107ff,
	[LAPIC_LVT_LINT0 - LAPIC_LVT_TIMER] = 0x1a7ff,
	[LAPIC_LVT_LINT1 - LAPIC_LVT_TIMER] = 0x1a7ff,
	[LAPIC_LVT_ERROR - LAPIC_LVT_TIMER] = 0x100ff,
};

/* ---- vectors ----------------------------------------------------------------------- */

static bool vector_test(const uint32_t *set, unsigned vector)
{
	return set[vector / 32] >> (vector % 32) & 1;
}

static void vector_put(uint32_t *set, unsigned vector, bool on)
{
	uint32_t bit = UINT32_C(1) << (vector % 32);

	set[vector / 32] = on ? set[vector / 32] | bit : set[vector / 32] & ~bit;
}

static int vector_highest(const uint32_t *set)
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return 32 * i + 31 - __builtin_clz(set[i]);
	return -1;
}

void lapic_update(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];
	int serving = vector_highest(&l->reg[LAPIC_ISR]);
	int asking = vector_highest(&l->reg[LAPIC_IRR]);
	uint32_t floor = serving < 0 ? 0 : (uint32_t)serving & 0xf0;
	uint32_t tpr = l->reg[LAPIC_TPR] & 0xff;

	l->reg[LAPIC_PPR] = (tpr & 0xf0) >= floor ? tpr : floor;
	l->pending = asking >= 0 && lapic_enabled(l) &&
				     ((uint32_t)asking & 0xf0) > (l->reg[LAPIC_PPR] & 0xf0)
			     ? asking
			     : -1;
	if (l->pending >= 0)
		c->hooks.attention(c->hooks.ctx, vcpu);
}

int lapic_take(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];
	int vector = l->pending;

	if (vector < 0)
		return -1;
	vector_put(&l->reg[LAPIC_IRR], (unsigned)vector, false);
	vector_put(&l->reg[LAPIC_ISR], (unsigned)vector, true);
	lapic_update(c, vcpu);
	return vector;
}

static void eoi_write(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];
	int vector = vector_highest(&l->reg[LAPIC_ISR]);

	if (vector < 0)
		return;
	vector_put(&l->reg[LAPIC_ISR], (unsigned)vector, false);
	lapic_update(c, vcpu);
	if (vector_test(&l->reg[LAPIC_TMR], (unsigned)vector))
		ioapic_eoi(c, (unsigned)vector);
}

/* ---- acceptance ---------------------------------------------------------------------- */

static bool vector_accept(struct soft_chips *c, unsigned vcpu, const struct interrupt *i)
{
	struct lapic *l = &c->lapic[vcpu];

	if (!(l->reg[LAPIC_SVR] & LAPIC_SVR_ENABLE) || (i->level && i->deassert))
		return false;
	if (i->vector < VECTOR_LEAST) {
		lapic_error(c, vcpu, ESR_RECEIVE_VECTOR);
		return false;
	}
	vector_put(&l->reg[LAPIC_TMR], i->vector, i->level);
	vector_put(&l->reg[LAPIC_IRR], i->vector, true);
	lapic_update(c, vcpu);
	return true;
}

bool lapic_accept(struct soft_chips *c, unsigned vcpu, const struct interrupt *i)
{
	struct lapic *l = &c->lapic[vcpu];

	switch (i->delivery) {
	case DELIVER_FIXED:
	case DELIVER_LOWEST:
		return vector_accept(c, vcpu, i);
	case DELIVER_NMI:
		soft_chips_nmi_set(c, vcpu);
		return true;
	case DELIVER_INIT:
		if (i->level && i->deassert)
			return false;
		l->init = true;
		l->sipi = -1;
		break;
	case DELIVER_SIPI:
		l->sipi = i->vector;
		break;
	default: /* there is no SMM; ExtINT is pic_accepted()'s */
		return false;
	}
	c->hooks.attention(c->hooks.ctx, vcpu);
	return true;
}

void lapic_local(struct soft_chips *c, unsigned vcpu, unsigned index)
{
	uint32_t lvt = c->lapic[vcpu].reg[index];
	struct interrupt i = {
		.vector = (uint8_t)lvt, .delivery = lvt >> 8 & 7, .level = lvt & LAPIC_LVT_LEVEL};

	if (lapic_enabled(&c->lapic[vcpu]) && !(lvt & LAPIC_LVT_MASKED))
		(void)lapic_accept(c, vcpu, &i);
}

/* An illegal vector in the error entry itself is not reported through that entry again. */
void lapic_error(struct soft_chips *c, unsigned vcpu, uint32_t bit)
{
	struct lapic *l = &c->lapic[vcpu];
	uint32_t lvt = l->reg[LAPIC_LVT_ERROR];

	l->errors |= bit;
	if (lvt & LAPIC_LVT_MASKED)
		return;
	if ((lvt & LAPIC_LVT_VECTOR) < VECTOR_LEAST)
		l->errors |= ESR_RECEIVE_VECTOR;
	else
		lapic_local(c, vcpu, LAPIC_LVT_ERROR);
}

/* ---- registers ----------------------------------------------------------------------- */

uint32_t lapic_x2_logical(unsigned vcpu)
{
	return vcpu / 16 << 16 | UINT32_C(1) << (vcpu % 16);
}

void lapic_reset(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];
	uint32_t id = l->reg[LAPIC_ID];

	memset(l->reg, 0, sizeof(l->reg));
	l->reg[LAPIC_ID] = id;
	l->reg[LAPIC_VERSION] = LAPIC_VERSION_VALUE;
	l->reg[LAPIC_DFR] = UINT32_MAX;
	l->reg[LAPIC_LDR] = lapic_x2(l) ? lapic_x2_logical(vcpu) : 0;
	l->reg[LAPIC_SVR] = 0xff;
	for (unsigned i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++)
		l->reg[i] = LAPIC_LVT_MASKED;
	if (vcpu == 0) /* as KVM: firmware would have wired it through */
		l->reg[LAPIC_LVT_LINT0] = DELIVER_EXTINT << 8;
	l->errors = 0;
	l->pending = -1;
	timer_stop(l);
	deadline_update(c);
}

static bool register_readable(unsigned index)
{
	return index == LAPIC_ID || index == LAPIC_VERSION || index == LAPIC_TPR ||
	       index == LAPIC_PPR || (index >= LAPIC_LDR && index <= LAPIC_ESR) ||
	       (index >= LAPIC_ICR && index <= LAPIC_TIMER_CURRENT) || index == LAPIC_TIMER_DIVIDE;
}

bool lapic_known(unsigned index)
{
	return register_readable(index) || index == LAPIC_EOI;
}

int lapic_read(const struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index,
	       uint32_t *value)
{
	const struct lapic *l = &c->lapic[vcpu];

	*value = 0;
	if (!register_readable(index))
		return -EINVAL;
	*value = index == LAPIC_TIMER_CURRENT ? timer_count(l, now) : l->reg[index];
	return 0;
}

static void svr_write(struct soft_chips *c, unsigned vcpu, uint32_t value)
{
	struct lapic *l = &c->lapic[vcpu];

	l->reg[LAPIC_SVR] = value & LAPIC_SVR_BITS;
	if (value & LAPIC_SVR_ENABLE)
		return;
	for (unsigned i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++)
		l->reg[i] |= LAPIC_LVT_MASKED;
}

static void lvt_write(struct soft_chips *c, unsigned vcpu, unsigned index, uint32_t value)
{
	struct lapic *l = &c->lapic[vcpu];

	value &= lvt_bits[index - LAPIC_LVT_TIMER];
	if (!(l->reg[LAPIC_SVR] & LAPIC_SVR_ENABLE))
		value |= LAPIC_LVT_MASKED;
	if (index == LAPIC_LVT_TIMER)
		timer_mode_set(c, vcpu, value);
	l->reg[index] = value;
	if (c->pic_output && pic_accepted(c, vcpu))
		c->hooks.attention(c->hooks.ctx, vcpu);
}

/* In xAPIC mode alone the guest gives ids. */
static int id_write(struct lapic *l, unsigned index, uint32_t value)
{
	if (lapic_x2(l))
		return -EINVAL;
	l->reg[index] = index == LAPIC_DFR ? value | 0x0fffffff : value & 0xff000000;
	return 0;
}

static void esr_write(struct lapic *l)
{
	l->reg[LAPIC_ESR] = l->errors;
	l->errors = 0;
}

int lapic_write(struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index, uint32_t value)
{
	struct lapic *l = &c->lapic[vcpu];

	switch (index) {
	case LAPIC_ID:
	case LAPIC_LDR:
	case LAPIC_DFR:
		return id_write(l, index, value);
	case LAPIC_TPR:
		l->reg[index] = value & 0xff;
		lapic_update(c, vcpu);
		return 0;
	case LAPIC_EOI:
		eoi_write(c, vcpu);
		return 0;
	case LAPIC_SVR:
		svr_write(c, vcpu, value);
		return 0;
	case LAPIC_ESR:
		esr_write(l);
		return 0;
	case LAPIC_ICR:
		l->reg[index] = value & 0x000ccfff;
		ipi_send(c, vcpu);
		return 0;
	case LAPIC_ICR_HIGH:
		l->reg[index] = value & 0xff000000;
		return 0;
	case LAPIC_LVT_TIMER ... LAPIC_LVT_ERROR:
		lvt_write(c, vcpu, index, value);
		return 0;
	case LAPIC_TIMER_INITIAL:
		if ((l->reg[LAPIC_LVT_TIMER] & LAPIC_TIMER_MODE) != LAPIC_TIMER_DEADLINE) {
			l->reg[index] = value;
			timer_start(c, now, vcpu);
		}
		return 0;
	case LAPIC_TIMER_DIVIDE:
		timer_divide_set(c, now, vcpu, value);
		return 0;
	default:
		return -EINVAL;
	}
}

// SPDX-License-Identifier: Apache-2.0
/* The LAPIC's timer: one-shot, periodic, TSC deadline. It counts once per ns, divided. */
#include "hypervisor/soft/chips_parts.h"

static uint32_t mode_of(const struct lapic *l)
{
	return l->reg[LAPIC_LVT_TIMER] & LAPIC_TIMER_MODE;
}

/* Encoded in bits 0, 1 and 3: 2, 4, ... 128, 1. */
static unsigned divide_shift(const struct lapic *l)
{
	uint32_t code = l->reg[LAPIC_TIMER_DIVIDE];

	return ((code & 3) + (code >> 1 & 4) + 1) & 7;
}

static uint64_t period_ns(const struct lapic *l)
{
	uint64_t ns = (uint64_t)l->reg[LAPIC_TIMER_INITIAL] << divide_shift(l);

	return mode_of(l) == LAPIC_TIMER_PERIODIC && ns < TIMER_PERIOD_MIN_NS ? TIMER_PERIOD_MIN_NS
									      : ns;
}

/* A timer that runs shows at least 1. A period that was stretched shows no more than
 * the guest asked for. */
uint32_t timer_count(const struct lapic *l, uint64_t now)
{
	uint64_t rest;

	if (mode_of(l) == LAPIC_TIMER_DEADLINE || l->due == NEVER)
		return 0;
	rest = l->due > now ? (l->due - now - 1) >> divide_shift(l) : 0;
	return rest < l->reg[LAPIC_TIMER_INITIAL] ? (uint32_t)rest + 1
						  : l->reg[LAPIC_TIMER_INITIAL];
}

void timer_stop(struct lapic *l)
{
	l->due = NEVER;
	l->tsc_deadline = 0;
}

void timer_start(struct soft_chips *c, uint64_t now, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];

	l->due = l->reg[LAPIC_TIMER_INITIAL] ? now + period_ns(l) : NEVER;
	deadline_update(c);
}

/*
 * After a load. A one-shot timer at 0 may have expired while its interrupt is not yet in IRR
 * (KVM keeps it elsewhere until the vCPU runs): it fires once more, as it does under KVM, for
 * one timer interrupt too many does no harm and one too few may stop a guest.
 */
void timer_resume(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t count)
{
	struct lapic *l = &c->lapic[vcpu];
	uint64_t period = period_ns(l), rest = (uint64_t)count << divide_shift(l);

	if (!rest && mode_of(l) == LAPIC_TIMER_PERIODIC)
		rest = period;
	timer_stop(l);
	if (l->reg[LAPIC_TIMER_INITIAL] && mode_of(l) != LAPIC_TIMER_DEADLINE)
		l->due = now + (rest < period ? rest : period);
	deadline_update(c);
}

/* Changing to or from deadline mode disarms the timer. */
void timer_mode_set(struct soft_chips *c, unsigned vcpu, uint32_t lvt)
{
	struct lapic *l = &c->lapic[vcpu];
	bool deadline = (lvt & LAPIC_TIMER_MODE) == LAPIC_TIMER_DEADLINE;

	if (deadline == (mode_of(l) == LAPIC_TIMER_DEADLINE))
		return;
	l->reg[LAPIC_TIMER_INITIAL] = 0;
	timer_stop(l);
	deadline_update(c);
}

/* A running count goes on from where it is, at the new pace. */
void timer_divide_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t value)
{
	struct lapic *l = &c->lapic[vcpu];
	uint32_t count = timer_count(l, now);

	l->reg[LAPIC_TIMER_DIVIDE] = value & LAPIC_DIVIDE_BITS;
	if (!count)
		return;
	l->due = now + ((uint64_t)count << divide_shift(l));
	deadline_update(c);
}

void timer_deadline_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t tsc)
{
	struct lapic *l = &c->lapic[vcpu];

	if (mode_of(l) != LAPIC_TIMER_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	l->due = tsc ? c->hooks.tsc_to_ns(c->hooks.ctx, vcpu, tsc) : NEVER;
	deadline_update(c);
	if (l->due <= now)
		timer_run(c, now, vcpu);
}

/* Periods that passed unseen make one interrupt; the next is where it would have been. */
void timer_run(struct soft_chips *c, uint64_t now, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];

	if (l->due > now)
		return;
	if (mode_of(l) == LAPIC_TIMER_PERIODIC) {
		uint64_t period = period_ns(l);

		l->due += ((now - l->due) / period + 1) * period;
	} else {
		timer_stop(l);
	}
	deadline_update(c);
	lapic_local(c, vcpu, LAPIC_LVT_TIMER);
}

// SPDX-License-Identifier: Apache-2.0
/* The LAPIC's MSRs: where and how it is on, x2APIC registers, the TSC deadline. */
#include "hypervisor/soft/chips_parts.h"

#define MSR_APIC_BASE     0x1bu
#define MSR_TSC_DEADLINE  0x6e0u
#define MSR_X2APIC        0x800u
#define MSR_X2APIC_LAST   0x8ffu

#define ICR_RESERVED      0xfff32000u
#define APIC_BASE_DEFINED (APIC_BASE_ADDRESS | APIC_BASE_ENABLE | APIC_BASE_X2APIC | APIC_BASE_BSP)

/* ---- IA32_APIC_BASE -------------------------------------------------------------------- */

static bool base_valid(uint64_t value)
{
	return !(value & ~APIC_BASE_DEFINED) &&
	       (value & APIC_BASE_ENABLE || !(value & APIC_BASE_X2APIC));
}

/* Not from off to x2APIC, nor from x2APIC back to xAPIC, at once. */
static bool base_reachable(uint64_t from, uint64_t to)
{
	if (from & APIC_BASE_X2APIC)
		return to & APIC_BASE_X2APIC || !(to & APIC_BASE_ENABLE);
	return from & APIC_BASE_ENABLE || !(to & APIC_BASE_X2APIC);
}

/* A LAPIC that is turned off forgets everything. */
static int base_write(struct soft_chips *c, unsigned vcpu, uint64_t value)
{
	struct lapic *l = &c->lapic[vcpu];
	uint64_t old = l->base;

	if (!base_valid(value) || !base_reachable(old, value))
		return -EINVAL;
	l->base = value;
	if ((old ^ value) & (APIC_BASE_ENABLE | APIC_BASE_X2APIC))
		l->reg[LAPIC_ID] = vcpu << 24;
	if (old & ~value & APIC_BASE_ENABLE)
		lapic_reset(c, vcpu);
	if (~old & value & APIC_BASE_X2APIC)
		l->reg[LAPIC_LDR] = lapic_x2_logical(vcpu);
	if (c->pic_output && pic_accepted(c, vcpu))
		c->hooks.attention(c->hooks.ctx, vcpu);
	return 0;
}

uint64_t soft_chips_apic_base(const struct soft_chips *c, unsigned vcpu)
{
	return c->lapic[vcpu].base;
}

int soft_chips_apic_base_set(struct soft_chips *c, unsigned vcpu, uint64_t value)
{
	struct lapic *l = &c->lapic[vcpu];

	if (!base_valid(value))
		return -EINVAL;
	l->base = value;
	if (lapic_x2(l)) {
		l->reg[LAPIC_ID] = vcpu << 24;
		l->reg[LAPIC_LDR] = lapic_x2_logical(vcpu);
	}
	lapic_update(c, vcpu);
	return 0;
}

/* ---- x2APIC registers ------------------------------------------------------------------ */

static int x2_read(const struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index,
		   uint64_t *value)
{
	const struct lapic *l = &c->lapic[vcpu];
	uint32_t low;
	int rc = lapic_read(c, now, vcpu, index, &low);

	if (rc || index == LAPIC_DFR || index == LAPIC_ICR_HIGH)
		return -EINVAL;
	*value = low;
	if (index == LAPIC_ID)
		*value = vcpu;
	else if (index == LAPIC_ICR)
		*value |= (uint64_t)l->reg[LAPIC_ICR_HIGH] << 32;
	return 0;
}

static int icr_write(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t value)
{
	if (value & ICR_RESERVED)
		return -EINVAL;
	c->lapic[vcpu].reg[LAPIC_ICR_HIGH] = (uint32_t)(value >> 32);
	return lapic_write(c, now, vcpu, LAPIC_ICR, (uint32_t)value);
}

static int self_ipi_write(struct soft_chips *c, unsigned vcpu, uint64_t value)
{
	struct interrupt i = {.vector = (uint8_t)value, .delivery = DELIVER_FIXED};

	if (value > 0xff)
		return -EINVAL;
	if (i.vector < VECTOR_LEAST)
		lapic_error(c, vcpu, ESR_SEND_VECTOR);
	else
		(void)lapic_accept(c, vcpu, &i);
	return 0;
}

static int x2_write(struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index,
		    uint64_t value)
{
	if (index == LAPIC_ICR)
		return icr_write(c, now, vcpu, value);
	if (index == LAPIC_SELF_IPI)
		return self_ipi_write(c, vcpu, value);
	if (value >> 32 || index == LAPIC_ICR_HIGH)
		return -EINVAL;
	if (value && (index == LAPIC_EOI || index == LAPIC_ESR))
		return -EINVAL;
	return lapic_write(c, now, vcpu, index, (uint32_t)value);
}

/* ---- all ----------------------------------------------------------------------------- */

int soft_chips_msr_read(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t msr,
			uint64_t *value)
{
	soft_chips_run(c, now);
	if (msr == MSR_APIC_BASE)
		*value = c->lapic[vcpu].base;
	else if (msr == MSR_TSC_DEADLINE)
		*value = c->lapic[vcpu].tsc_deadline;
	else if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	else if (!lapic_x2(&c->lapic[vcpu]))
		return -EINVAL;
	else
		return x2_read(c, now, vcpu, msr - MSR_X2APIC, value);
	return 0;
}

int soft_chips_msr_write(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t msr,
			 uint64_t value)
{
	soft_chips_run(c, now);
	if (msr == MSR_APIC_BASE)
		return base_write(c, vcpu, value);
	if (msr == MSR_TSC_DEADLINE) {
		timer_deadline_set(c, now, vcpu, value);
		return 0;
	}
	if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	if (!lapic_x2(&c->lapic[vcpu]))
		return -EINVAL;
	return x2_write(c, now, vcpu, msr - MSR_X2APIC, value);
}

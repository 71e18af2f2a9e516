// SPDX-License-Identifier: Apache-2.0
/* The interrupt controllers and timers together: life, the guest's accesses, time. */
#include "hypervisor/soft/chips_parts.h"

#include <stdlib.h>

#define VCPUS_MAX  254 /* 255 is all of them */
#define PAGE_BYTES 0x1000u

/* ---- life ---------------------------------------------------------------------------- */

void soft_chips_reset(struct soft_chips *c)
{
	pic_reset(c);
	ioapic_reset(c);
	pit_reset(c);
	for (unsigned v = 0; v < c->vcpus; v++) {
		struct lapic *l = &c->lapic[v];

		*l = (struct lapic){.base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE, .sipi = -1};
		l->base |= v == 0 ? APIC_BASE_BSP : 0;
		l->reg[LAPIC_ID] = v << 24;
	}
	for (unsigned v = 0; v < c->vcpus; v++)
		lapic_reset(c, v);
}

void soft_chips_cpu_init(struct soft_chips *c, unsigned vcpu)
{
	lapic_reset(c, vcpu);
}

int soft_chips_create(unsigned vcpus, const struct soft_chips_hooks *hooks, struct soft_chips **out)
{
	struct soft_chips *c;

	if (!vcpus || vcpus > VCPUS_MAX)
		return -EINVAL;
	c = calloc(1, sizeof(*c) + vcpus * sizeof(c->lapic[0]));
	if (!c)
		return -ENOMEM;
	c->hooks = *hooks;
	c->vcpus = vcpus;
	soft_chips_reset(c);
	*out = c;
	return 0;
}

void soft_chips_destroy(struct soft_chips *c)
{
	free(c);
}

/* ---- time ---------------------------------------------------------------------------- */

void deadline_update(struct soft_chips *c)
{
	uint64_t least = c->pit.due;

	for (unsigned v = 0; v < c->vcpus; v++)
		if (c->lapic[v].due < least)
			least = c->lapic[v].due;
	c->deadline = least;
}

uint64_t soft_chips_deadline(const struct soft_chips *c)
{
	return c->deadline;
}

void soft_chips_run(struct soft_chips *c, uint64_t now)
{
	if (c->deadline > now)
		return;
	pit_run(c, now);
	for (unsigned v = 0; v < c->vcpus; v++)
		timer_run(c, now, v);
}

/* ---- the guest's accesses --------------------------------------------------------------- */

static bool port_octet(struct soft_chips *c, uint64_t now, uint16_t port, uint8_t *data, bool write)
{
	return pic_port(c, port, data, write) || pit_port(c, now, port, data, write);
}

/* A wider access is one to each port that it covers. */
bool soft_chips_port(struct soft_chips *c, uint64_t now, uint16_t port, void *data, unsigned size,
		     bool write)
{
	uint8_t *octets = data;

	soft_chips_run(c, now);
	if (!size || !port_octet(c, now, port, octets, write))
		return false;
	for (unsigned i = 1; i < size; i++)
		if (!port_octet(c, now, (uint16_t)(port + i), octets + i, write) && !write)
			octets[i] = 0xff;
	return true;
}

/* Registers are 32 bits at multiples of 16; reads may also take a part of one. */
static void lapic_access(struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned offset,
			 void *data, unsigned size, bool write)
{
	unsigned index = offset / 16, at = offset % 16;
	uint32_t value = 0;
	int rc = 0;

	if (!write)
		memset(data, 0, size);
	if (!size || at + size > sizeof(value) || (write && size != sizeof(value)))
		return;
	if (write) {
		memcpy(&value, data, sizeof(value));
		rc = lapic_write(c, now, vcpu, index, value);
	} else {
		rc = lapic_read(c, now, vcpu, index, &value);
		memcpy(data, (uint8_t *)&value + at, size);
	}
	if (rc && !lapic_known(index))
		lapic_error(c, vcpu, ESR_REGISTER);
}

bool soft_chips_mmio(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t gpa, void *data,
		     unsigned size, bool write)
{
	uint64_t base = c->lapic[vcpu].base;
	uint64_t in_lapic = gpa - (base & APIC_BASE_ADDRESS), in_ioapic = gpa - IOAPIC_ADDRESS;

	soft_chips_run(c, now);
	if ((base & APIC_BASE_ENABLE) && !(base & APIC_BASE_X2APIC) && in_lapic < PAGE_BYTES)
		lapic_access(c, now, vcpu, (unsigned)in_lapic, data, size, write);
	else if (in_ioapic < PAGE_BYTES)
		ioapic_access(c, in_ioapic, data, size, write);
	else
		return false;
	return true;
}

uint64_t soft_chips_cr8(const struct soft_chips *c, unsigned vcpu)
{
	return c->lapic[vcpu].reg[LAPIC_TPR] >> 4 & 0xf;
}

void soft_chips_cr8_set(struct soft_chips *c, unsigned vcpu, uint64_t value)
{
	c->lapic[vcpu].reg[LAPIC_TPR] = (uint32_t)(value & 0xf) << 4;
	lapic_update(c, vcpu);
}

/* ---- what a vCPU takes ------------------------------------------------------------------ */

/* The PIC comes first: its interrupts have no place among the LAPIC's priorities. */
int soft_chips_interrupt_pending(const struct soft_chips *c, unsigned vcpu)
{
	if (c->pic_output && pic_accepted(c, vcpu))
		return SOFT_CHIPS_FROM_PIC;
	return c->lapic[vcpu].pending;
}

int soft_chips_interrupt_take(struct soft_chips *c, unsigned vcpu)
{
	if (c->pic_output && pic_accepted(c, vcpu))
		return pic_take(c);
	return lapic_take(c, vcpu);
}

bool soft_chips_nmi_take(struct soft_chips *c, unsigned vcpu)
{
	bool was = c->lapic[vcpu].nmi;

	c->lapic[vcpu].nmi = false;
	return was;
}

void soft_chips_nmi_set(struct soft_chips *c, unsigned vcpu)
{
	c->lapic[vcpu].nmi = true;
	c->hooks.attention(c->hooks.ctx, vcpu);
}

bool soft_chips_init_take(struct soft_chips *c, unsigned vcpu)
{
	bool was = c->lapic[vcpu].init;

	c->lapic[vcpu].init = false;
	return was;
}

int soft_chips_sipi_take(struct soft_chips *c, unsigned vcpu)
{
	int vector = c->lapic[vcpu].sipi;

	c->lapic[vcpu].sipi = -1;
	return vector;
}

/* ---- devices ------------------------------------------------------------------------- */

void soft_chips_irq(struct soft_chips *c, uint64_t now, unsigned gsi, bool level)
{
	if (gsi == 2 || gsi >= KVM_IOAPIC_NUM_PINS)
		return;
	if (gsi < 16)
		pic_pin(c, gsi, level);
	ioapic_pin(c, gsi ? gsi : 2, level);
}

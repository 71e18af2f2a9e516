// SPDX-License-Identifier: Apache-2.0
/* The IOAPIC (82093AA): 24 pins to messages for LAPICs. */
#include "hypervisor/soft/chips_parts.h"

#define VERSION      0x11u
#define WINDOW       0x10
#define REG_ID       0
#define REG_VERSION  1
#define REG_ARB      2
#define REG_ENTRIES  0x10
#define ID_BITS      0xfu
#define ENTRY_STATUS 0x5000u /* delivery status and remote IRR: not the guest's */

void ioapic_reset(struct soft_chips *c)
{
	c->ioapic = (struct kvm_ioapic_state){.base_address = IOAPIC_ADDRESS};
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		c->ioapic.redirtbl[pin].fields.mask = 1;
	c->ioapic_delivered = 0;
}

/* ---- pins ---------------------------------------------------------------------------- */

static void pin_serve(struct soft_chips *c, unsigned pin)
{
	__typeof__(c->ioapic.redirtbl[0]) *entry = &c->ioapic.redirtbl[pin];
	bool level = entry->fields.trig_mode;
	struct interrupt i = {.vector = entry->fields.vector,
			      .delivery = entry->fields.delivery_mode,
			      .level = level,
			      .logical = entry->fields.dest_mode,
			      .destination = entry->fields.dest_id};

	if (entry->fields.mask || (level && entry->fields.remote_irr))
		return;
	if (!level)
		c->ioapic_delivered |= UINT32_C(1) << pin;
	if (interrupt_send(c, &i) > 0 && level)
		entry->fields.remote_irr = 1;
}

/* ioapic.irr is what the pins show. A pin whose edge has been delivered is
 * not saved as waiting, though it may still be high. */
void ioapic_pin(struct soft_chips *c, unsigned pin, bool level)
{
	uint32_t bit = UINT32_C(1) << pin;
	bool rises = !(c->ioapic.irr & bit);

	c->ioapic.irr = level ? c->ioapic.irr | bit : c->ioapic.irr & ~bit;
	if (rises || !level)
		c->ioapic_delivered &= ~bit;
	if (level && (rises || c->ioapic.redirtbl[pin].fields.trig_mode))
		pin_serve(c, pin);
}

void ioapic_eoi(struct soft_chips *c, unsigned vector)
{
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		if (c->ioapic.redirtbl[pin].fields.vector != vector ||
		    !c->ioapic.redirtbl[pin].fields.trig_mode)
			continue;
		c->ioapic.redirtbl[pin].fields.remote_irr = 0;
		if (c->ioapic.irr >> pin & 1)
			pin_serve(c, pin);
	}
}

/* ---- registers ----------------------------------------------------------------------- */

static uint32_t register_read(const struct soft_chips *c)
{
	uint32_t n = c->ioapic.ioregsel, pin = (n - REG_ENTRIES) / 2;

	if (n == REG_VERSION)
		return (KVM_IOAPIC_NUM_PINS - 1) << 16 | VERSION;
	if (n == REG_ID || n == REG_ARB)
		return (c->ioapic.id & ID_BITS) << 24;
	if (n < REG_ENTRIES || pin >= KVM_IOAPIC_NUM_PINS)
		return 0;
	return (uint32_t)(c->ioapic.redirtbl[pin].bits >> (n & 1 ? 32 : 0));
}

/* An edge that came while its pin was masked is lost; a level is not. */
static void entry_write(struct soft_chips *c, unsigned pin, bool high, uint32_t value)
{
	uint64_t old = c->ioapic.redirtbl[pin].bits;
	uint64_t new = high ? (uint64_t)(value & 0xff000000) << 32 | (uint32_t)old
			    : (old & ~(uint64_t)UINT32_MAX) | (old & ENTRY_STATUS) |
				       (value & 0x1ffff & ~ENTRY_STATUS);

	c->ioapic.redirtbl[pin].bits = new;
	if (!c->ioapic.redirtbl[pin].fields.trig_mode)
		c->ioapic.redirtbl[pin].fields.remote_irr = 0;
	else if (c->ioapic.irr >> pin & 1)
		pin_serve(c, pin);
}

static void register_write(struct soft_chips *c, uint32_t value)
{
	uint32_t n = c->ioapic.ioregsel, pin = (n - REG_ENTRIES) / 2;

	if (n == REG_ID)
		c->ioapic.id = value >> 24 & ID_BITS;
	else if (n >= REG_ENTRIES && pin < KVM_IOAPIC_NUM_PINS)
		entry_write(c, pin, n & 1, value);
}

void ioapic_access(struct soft_chips *c, uint64_t offset, void *data, unsigned size, bool write)
{
	uint32_t value = 0;
	unsigned part = size < sizeof(value) ? size : sizeof(value);

	if (write) {
		memcpy(&value, data, part);
		if (offset == 0)
			c->ioapic.ioregsel = value & 0xff;
		else if (offset == WINDOW && size >= sizeof(value))
			register_write(c, value);
		return;
	}
	if (offset == 0)
		value = c->ioapic.ioregsel;
	else if (offset == WINDOW)
		value = register_read(c);
	memset(data, 0, size);
	memcpy(data, &value, part);
}

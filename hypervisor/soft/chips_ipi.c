// SPDX-License-Identifier: Apache-2.0
/* Interrupt messages between the IOAPIC, devices and LAPICs: whom they reach. */
#include "hypervisor/soft/chips_parts.h"

#define BROADCAST      0xffu
#define BROADCAST_WIDE 0xffffffffu

#define ICR_LOGICAL    0x800u
#define ICR_ASSERT     0x4000u
#define ICR_LEVEL      0x8000u
enum shorthand { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };

/* ---- destinations -------------------------------------------------------------------- */

static bool logical_match(const struct lapic *l, uint32_t destination)
{
	uint32_t id = l->reg[LAPIC_LDR];

	if (lapic_x2(l))
		return destination >> 16 == id >> 16 && (destination & id & 0xffff);
	id >>= 24;
	if (destination > 0xff)
		return false;
	if (l->reg[LAPIC_DFR] >> 28 == 0xf) /* flat */
		return destination & id;
	return destination >> 4 == id >> 4 && (destination & id & 0xf);
}

static bool lapic_match(const struct soft_chips *c, unsigned vcpu, const struct interrupt *i)
{
	const struct lapic *l = &c->lapic[vcpu];

	if (!lapic_enabled(l))
		return false;
	if (i->destination == (i->wide ? BROADCAST_WIDE : BROADCAST))
		return true;
	if (i->logical)
		return logical_match(l, i->destination);
	return i->destination == (lapic_x2(l) ? vcpu : l->reg[LAPIC_ID] >> 24);
}

/* The n-th of those addressed that can take a vector; counts them if there are fewer. */
static unsigned lowest_find(const struct soft_chips *c, const struct interrupt *i, unsigned n,
			    unsigned *vcpu)
{
	unsigned found = 0;

	for (unsigned v = 0; v < c->vcpus; v++)
		if (lapic_match(c, v, i) && (c->lapic[v].reg[LAPIC_SVR] & LAPIC_SVR_ENABLE)) {
			*vcpu = v;
			if (found++ == n)
				break;
		}
	return found;
}

/* Lowest priority: the vector chooses, as on newer CPUs; so nothing has to be remembered. */
static int lowest_send(struct soft_chips *c, const struct interrupt *i)
{
	unsigned vcpu = 0, candidates = lowest_find(c, i, UINT32_MAX, &vcpu);

	if (!candidates)
		return -1;
	(void)lowest_find(c, i, i->vector % candidates, &vcpu);
	return lapic_accept(c, vcpu, i);
}

int interrupt_send(struct soft_chips *c, const struct interrupt *i)
{
	int taken = -1;

	if (i->lowest || i->delivery == DELIVER_LOWEST)
		return lowest_send(c, i);
	for (unsigned v = 0; v < c->vcpus; v++)
		if (lapic_match(c, v, i))
			taken = (taken < 0 ? 0 : taken) + lapic_accept(c, v, i);
	return taken;
}

/* ---- senders ------------------------------------------------------------------------- */

static void shorthand_send(struct soft_chips *c, unsigned self, enum shorthand to,
			   const struct interrupt *i)
{
	for (unsigned v = 0; v < c->vcpus; v++)
		if ((v == self ? to != TO_OTHERS : to != TO_SELF) && lapic_enabled(&c->lapic[v]))
			(void)lapic_accept(c, v, i);
}

void ipi_send(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];
	uint32_t icr = l->reg[LAPIC_ICR];
	enum shorthand to = icr >> 18 & 3;
	struct interrupt i = {.vector = (uint8_t)icr,
			      .delivery = icr >> 8 & 7,
			      .level = icr & ICR_LEVEL,
			      .deassert = !(icr & ICR_ASSERT),
			      .logical = icr & ICR_LOGICAL,
			      .wide = lapic_x2(l),
			      .destination = l->reg[LAPIC_ICR_HIGH] >> (lapic_x2(l) ? 0 : 24)};

	if (i.delivery <= DELIVER_LOWEST && i.vector < VECTOR_LEAST)
		lapic_error(c, vcpu, ESR_SEND_VECTOR);
	else if (to == TO_DESTINATION)
		(void)interrupt_send(c, &i);
	else
		shorthand_send(c, vcpu, to, &i);
}

int soft_chips_msi(struct soft_chips *c, uint64_t now, uint64_t address, uint32_t data)
{
	struct interrupt i = {.vector = (uint8_t)data,
			      .delivery = data >> 8 & 7,
			      .level = data >> 15 & 1,
			      .logical = address >> 2 & 1,
			      .lowest = address >> 3 & 1,
			      .destination = address >> 12 & 0xff};

	if (address >> 20 != 0xfee)
		return -EINVAL;
	return interrupt_send(c, &i) < 0 ? -EINVAL : 0;
}

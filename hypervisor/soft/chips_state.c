// SPDX-License-Identifier: Apache-2.0
/* Saving and loading, in the structs of the KVM interface. */
#include "hypervisor/soft/chips_parts.h"

_Static_assert(sizeof(struct kvm_lapic_state) == LAPIC_REGISTERS * 16, "a register each 16 octets");

/* ---- LAPIC --------------------------------------------------------------------------- */

void soft_chips_lapic_save(const struct soft_chips *c, uint64_t now, unsigned vcpu,
			   struct kvm_lapic_state *out)
{
	const struct lapic *l = &c->lapic[vcpu];

	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < LAPIC_REGISTERS; i++) {
		uint32_t value = i == LAPIC_TIMER_CURRENT ? timer_count(l, now) : l->reg[i];

		memcpy(&out->regs[16 * i], &value, sizeof(value));
	}
}

static bool lapic_valid(const uint32_t *reg)
{
	if (reg[LAPIC_TPR] > 0xff || reg[LAPIC_SVR] > 0x1fff ||
	    (reg[LAPIC_TIMER_DIVIDE] & ~LAPIC_DIVIDE_BITS))
		return false;
	for (unsigned i = LAPIC_LVT_TIMER; i <= LAPIC_LVT_ERROR; i++)
		if (reg[i] >> 19)
			return false;
	return true;
}

/* What cannot be other than it is, whatever the image says. */
static void lapic_fix(struct soft_chips *c, unsigned vcpu)
{
	struct lapic *l = &c->lapic[vcpu];

	l->reg[LAPIC_VERSION] = LAPIC_VERSION_VALUE;
	l->reg[LAPIC_SVR] &= LAPIC_SVR_BITS;
	l->reg[LAPIC_IRR] &= ~(uint32_t)0xffff;
	l->reg[LAPIC_ISR] &= ~(uint32_t)0xffff;
	if (!lapic_x2(l))
		return;
	l->reg[LAPIC_ID] = vcpu << 24;
	l->reg[LAPIC_LDR] = lapic_x2_logical(vcpu);
}

int soft_chips_lapic_load(struct soft_chips *c, uint64_t now, unsigned vcpu,
			  const struct kvm_lapic_state *in)
{
	struct lapic *l = &c->lapic[vcpu];
	uint32_t reg[LAPIC_REGISTERS];

	for (unsigned i = 0; i < LAPIC_REGISTERS; i++)
		memcpy(&reg[i], &in->regs[16 * i], sizeof(reg[i]));
	if (!lapic_valid(reg))
		return -EINVAL;
	memcpy(l->reg, reg, sizeof(reg));
	l->reg[LAPIC_TIMER_CURRENT] = 0;
	l->errors = 0;
	lapic_fix(c, vcpu);
	timer_resume(c, now, vcpu, reg[LAPIC_TIMER_CURRENT]);
	lapic_update(c, vcpu);
	return 0;
}

uint64_t soft_chips_tsc_deadline(const struct soft_chips *c, uint64_t now, unsigned vcpu)
{
	return c->lapic[vcpu].tsc_deadline;
}

void soft_chips_tsc_deadline_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t value)
{
	timer_deadline_set(c, now, vcpu, value);
}

/* ---- PICs and IOAPIC --------------------------------------------------------------------- */

void soft_chips_irqchips_save(const struct soft_chips *c, uint64_t now, struct kvm_irqchip out[3])
{
	memset(out, 0, 3 * sizeof(out[0]));
	for (unsigned i = 0; i < 3; i++)
		out[i].chip_id = i;
	out[0].chip.pic = c->pic[PIC_MASTER];
	out[1].chip.pic = c->pic[PIC_SLAVE];
	out[2].chip.ioapic = c->ioapic;
	out[2].chip.ioapic.irr &= ~c->ioapic_delivered;
}

static bool pic_valid(const struct kvm_pic_state *s, uint8_t elcr_mask)
{
	return s->init_state <= 3 && s->priority_add < 8 && !(s->elcr & ~elcr_mask);
}

static bool ioapic_valid(const struct kvm_ioapic_state *s)
{
	return s->base_address == IOAPIC_ADDRESS && s->ioregsel <= 0xff && s->id <= 0xff &&
	       !(s->irr >> KVM_IOAPIC_NUM_PINS);
}

/* Pins that wait act now, as if they had just been raised. */
int soft_chips_irqchips_load(struct soft_chips *c, uint64_t now, const struct kvm_irqchip in[3])
{
	uint8_t masks[] = {c->pic[PIC_MASTER].elcr_mask, c->pic[PIC_SLAVE].elcr_mask};
	uint32_t waiting = in[2].chip.ioapic.irr;

	if (!pic_valid(&in[0].chip.pic, masks[0]) || !pic_valid(&in[1].chip.pic, masks[1]) ||
	    !ioapic_valid(&in[2].chip.ioapic))
		return -EINVAL;
	for (unsigned i = 0; i < 2; i++) {
		c->pic[i] = in[i].chip.pic;
		c->pic[i].elcr_mask = masks[i];
	}
	c->ioapic = in[2].chip.ioapic;
	c->ioapic.irr = 0;
	c->ioapic_delivered = 0;
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (waiting >> pin & 1)
			ioapic_pin(c, pin, true);
	pic_update(c);
	return 0;
}

/* ---- PIT ----------------------------------------------------------------------------- */

void soft_chips_pit_save(const struct soft_chips *c, uint64_t now, struct kvm_pit_state2 *out)
{
	*out = c->pit.state;
	for (unsigned i = 0; i < PIT_CHANNELS; i++)
		out->channels[i].count_load_time = 0;
}

static bool channel_valid(const struct kvm_pit_channel_state *ch)
{
	return ch->count <= PIT_COUNT_MAX && (ch->mode <= 5 || ch->mode == PIT_MODE_UNSET) &&
	       ch->rw_mode <= 3 && ch->read_state <= 4 && ch->write_state <= 4 &&
	       ch->count_latched <= 4 && ch->bcd <= 1 && ch->gate <= 1;
}

int soft_chips_pit_load(struct soft_chips *c, uint64_t now, const struct kvm_pit_state2 *in)
{
	for (unsigned i = 0; i < PIT_CHANNELS; i++)
		if (!channel_valid(&in->channels[i]))
			return -EINVAL;
	if (in->flags & ~(KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON))
		return -EINVAL;
	c->pit.state = *in;
	memset(c->pit.state.reserved, 0, sizeof(c->pit.state.reserved));
	for (unsigned i = 0; i < PIT_CHANNELS; i++) {
		if (!in->channels[i].count)
			c->pit.state.channels[i].count = PIT_COUNT_MAX;
		pit_start(c, now, i);
	}
	return 0;
}

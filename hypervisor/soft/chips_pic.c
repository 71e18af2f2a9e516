// SPDX-License-Identifier: Apache-2.0
/* Two 8259A interrupt controllers, the slave on pin 2 of the master. */
#include "hypervisor/soft/chips_parts.h"

#define ELCR_MASTER  0xf8
#define ELCR_SLAVE   0xde
#define SPURIOUS     7

#define ICW1         0x10
#define ICW1_ICW4    0x01
#define ICW4_AUTO    0x02
#define ICW4_NESTED  0x10
#define OCW3         0x08
#define OCW3_POLL    0x04
#define OCW3_READ    0x02 /* bit 0 holds: read ISR, not IRR */
#define OCW3_SPECIAL 0x40 /* bit 5 holds: special mask */

void pic_reset(struct soft_chips *c)
{
	memset(c->pic, 0, sizeof(c->pic));
	c->pic[PIC_MASTER].elcr_mask = ELCR_MASTER;
	c->pic[PIC_SLAVE].elcr_mask = ELCR_SLAVE;
	c->pic_output = false;
}

/* ---- priorities ---------------------------------------------------------------------- */

/* How far down from the highest priority the first pin of `pins` is; 8 if none is. */
static unsigned priority_first(const struct kvm_pic_state *s, uint8_t pins)
{
	unsigned n = 0;

	while (n < 8 && !(pins >> ((n + s->priority_add) % 8) & 1))
		n++;
	return n;
}

static int pic_pending(const struct kvm_pic_state *s, bool master)
{
	unsigned asking = priority_first(s, s->irr & (uint8_t)~s->imr);
	uint8_t serving = s->isr;

	if (s->special_mask)
		serving &= (uint8_t)~s->imr;
	if (s->special_fully_nested_mode && master)
		serving &= (uint8_t) ~(1u << PIC_CASCADE);
	if (asking >= priority_first(s, serving))
		return -1;
	return (int)(asking + s->priority_add) % 8;
}

static void pin_set(struct kvm_pic_state *s, unsigned pin, bool level)
{
	uint8_t bit = (uint8_t)(1u << pin);

	if (level && ((s->elcr & bit) || !(s->last_irr & bit)))
		s->irr |= bit;
	else if (!level && (s->elcr & bit))
		s->irr &= (uint8_t)~bit;
	s->last_irr = (uint8_t)(level ? s->last_irr | bit : s->last_irr & ~bit);
}

bool pic_accepted(const struct soft_chips *c, unsigned vcpu)
{
	const struct lapic *l = &c->lapic[vcpu];
	uint32_t lvt = l->reg[LAPIC_LVT_LINT0];

	if (!lapic_enabled(l))
		return vcpu == 0;
	return !(lvt & LAPIC_LVT_MASKED) && (lvt >> 8 & 7) == DELIVER_EXTINT;
}

/* The output, after any change: up to whoever takes it. */
void pic_update(struct soft_chips *c)
{
	bool before = c->pic_output;

	if (pic_pending(&c->pic[PIC_SLAVE], false) >= 0) {
		pin_set(&c->pic[PIC_MASTER], PIC_CASCADE, true);
		pin_set(&c->pic[PIC_MASTER], PIC_CASCADE, false);
	}
	c->pic_output = pic_pending(&c->pic[PIC_MASTER], true) >= 0;
	for (unsigned v = 0; c->pic_output && v < c->vcpus; v++) {
		if (pic_accepted(c, v))
			c->hooks.attention(c->hooks.ctx, v);
		else if (!before)
			lapic_local(c, v, LAPIC_LVT_LINT0);
	}
}

void pic_pin(struct soft_chips *c, unsigned irq, bool level)
{
	pin_set(&c->pic[irq / 8], irq % 8, level);
	pic_update(c);
}

/* ---- acknowledge ----------------------------------------------------------------------- */

static void priority_rotate(struct kvm_pic_state *s, unsigned pin)
{
	s->priority_add = (uint8_t)((pin + 1) % 8);
}

static void pin_acknowledge(struct kvm_pic_state *s, unsigned pin)
{
	uint8_t bit = (uint8_t)(1u << pin);

	if (!s->auto_eoi)
		s->isr |= bit;
	else if (s->rotate_on_auto_eoi)
		priority_rotate(s, pin);
	if (!(s->elcr & bit))
		s->irr &= (uint8_t)~bit;
}

static unsigned pic_acknowledge(struct kvm_pic_state *s, bool master)
{
	int pin = pic_pending(s, master);

	if (pin < 0)
		return SPURIOUS;
	pin_acknowledge(s, (unsigned)pin);
	return (unsigned)pin;
}

int pic_take(struct soft_chips *c)
{
	struct kvm_pic_state *master = &c->pic[PIC_MASTER], *slave = &c->pic[PIC_SLAVE];
	unsigned pin = pic_acknowledge(master, true);
	int vector = master->irq_base + (int)pin;

	if (pin == PIC_CASCADE)
		vector = slave->irq_base + (int)pic_acknowledge(slave, false);
	pic_update(c);
	return vector & 0xff;
}

/* ---- ports --------------------------------------------------------------------------- */

static void initialize(struct kvm_pic_state *s, uint8_t icw1)
{
	uint8_t elcr = s->elcr, elcr_mask = s->elcr_mask, level = s->irr & s->elcr;

	*s = (struct kvm_pic_state){.elcr = elcr,
				    .elcr_mask = elcr_mask,
				    .irr = level,
				    .irq_base = s->irq_base,
				    .init_state = 1,
				    .init4 = icw1 & ICW1_ICW4};
}

static void end_of_interrupt(struct kvm_pic_state *s, uint8_t ocw2)
{
	bool rotate = ocw2 & 0x80, specific = ocw2 & 0x40, eoi = ocw2 & 0x20;
	unsigned pin = ocw2 & 7;

	if (!eoi && !specific) {
		s->rotate_on_auto_eoi = rotate;
		return;
	}
	if (eoi && !specific) {
		unsigned n = priority_first(s, s->isr);

		if (n == 8)
			return;
		pin = (n + s->priority_add) % 8;
	}
	if (eoi)
		s->isr &= (uint8_t) ~(1u << pin);
	if (rotate)
		priority_rotate(s, pin);
}

static void command_write(struct kvm_pic_state *s, uint8_t value)
{
	if (value & ICW1) {
		initialize(s, value);
	} else if (value & OCW3) {
		if (value & OCW3_POLL)
			s->poll = 1;
		if (value & OCW3_READ)
			s->read_reg_select = value & 1;
		if (value & OCW3_SPECIAL)
			s->special_mask = value >> 5 & 1;
	} else {
		end_of_interrupt(s, value);
	}
}

static void data_write(struct kvm_pic_state *s, uint8_t value)
{
	switch (s->init_state) {
	case 1:
		s->irq_base = value & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* ICW3: the wiring is what it is */
		s->init_state = s->init4 ? 3 : 0;
		break;
	case 3:
		s->special_fully_nested_mode = !!(value & ICW4_NESTED);
		s->auto_eoi = !!(value & ICW4_AUTO);
		s->init_state = 0;
		break;
	default:
		s->imr = value;
	}
}

/* A poll is an acknowledge by reading. */
static uint8_t poll_read(struct kvm_pic_state *s, bool master)
{
	int pin = pic_pending(s, master);

	s->poll = 0;
	if (pin < 0)
		return 0;
	pin_acknowledge(s, (unsigned)pin);
	return (uint8_t)(0x80 | pin);
}

static uint8_t port_read(struct kvm_pic_state *s, bool master, bool data)
{
	if (s->poll)
		return poll_read(s, master);
	if (data)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

bool pic_port(struct soft_chips *c, uint16_t port, uint8_t *data, bool write)
{
	struct kvm_pic_state *s;

	if (port == 0x4d0 || port == 0x4d1) {
		s = &c->pic[port & 1];
		if (write)
			s->elcr = *data & s->elcr_mask;
		else
			*data = s->elcr;
		return true;
	}
	if ((port & ~0x81u) != 0x20)
		return false;
	s = &c->pic[port >> 7];
	if (!write)
		*data = port_read(s, s == c->pic, port & 1);
	else if (port & 1)
		data_write(s, *data);
	else
		command_write(s, *data);
	pic_update(c);
	return true;
}

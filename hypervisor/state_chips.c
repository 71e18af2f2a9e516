// SPDX-License-Identifier: Apache-2.0
/* Sections STATE_PIC, STATE_IOAPIC, STATE_PIT and STATE_CLOCK (docs/state-format.md). */
#include <errno.h>
#include <string.h>

#include "hypervisor/state_image.h"

#define PIT_MODE_UNSET 0xff
#define CLOCK_HAS_WALL 1u /* flag: the wall clock of the saving host was read as well */

_Static_assert(sizeof(struct kvm_pic_state) == 16, "the PIC section lists 16 octets");

#define CH(name) offsetof(struct kvm_pit_channel_state, name)
static const size_t pit_octets[] = {
	CH(count_latched), CH(status_latched), CH(status), CH(read_state), CH(write_state),
	CH(write_latch),   CH(rw_mode),        CH(mode),   CH(bcd),        CH(gate),
};

/* ---- to octets -------------------------------------------------------------- */

static void pic_put(struct buf *b, const struct chips_image *chips, unsigned i)
{
	size_t at =
		state_section_begin(b, STATE_PIC, (uint16_t)i, STATE_CHIP_VERSION, STATE_MANDATORY);

	buf_put(b, &chips->pic[i].chip.pic, sizeof(struct kvm_pic_state));
	state_section_end(b, at);
}

static void ioapic_put(struct buf *b, const struct kvm_ioapic_state *s)
{
	size_t at = state_section_begin(b, STATE_IOAPIC, 0, STATE_CHIP_VERSION, STATE_MANDATORY);

	buf_put_u64(b, s->base_address);
	buf_put_u32(b, s->ioregsel);
	buf_put_u32(b, s->id);
	buf_put_u32(b, s->irr);
	for (unsigned i = 0; i < STATE_IRQ_PINS; i++)
		buf_put_u64(b, s->redirtbl[i].bits);
	state_section_end(b, at);
}

static void pit_put(struct buf *b, const struct kvm_pit_state2 *s)
{
	size_t at = state_section_begin(b, STATE_PIT, 0, STATE_CHIP_VERSION, STATE_MANDATORY);

	for (unsigned i = 0; i < 3; i++) {
		const struct kvm_pit_channel_state *ch = &s->channels[i];

		buf_put_u32(b, ch->count);
		buf_put_u16(b, ch->latched_count);
		for (unsigned k = 0; k < ARRAY_LEN(pit_octets); k++)
			buf_put_u8(b, *((const uint8_t *)ch + pit_octets[k]));
	}
	buf_put_u32(b, s->flags);
	state_section_end(b, at);
}

static void clock_put(struct buf *b, const struct kvm_clock_data *s)
{
	bool real = s->flags & KVM_CLOCK_REALTIME;
	size_t at = state_section_begin(b, STATE_CLOCK, 0, STATE_CHIP_VERSION, STATE_MANDATORY);

	buf_put_u64(b, s->clock);
	buf_put_u64(b, real ? s->realtime : 0);
	buf_put_u32(b, real ? CLOCK_HAS_WALL : 0);
	state_section_end(b, at);
}

uint64_t state_clock_lead(const struct kvm_clock_data *loaded, uint64_t wall_now)
{
	bool ahead = loaded->flags & KVM_CLOCK_REALTIME && loaded->realtime > wall_now;

	return ahead ? loaded->realtime - wall_now : 0;
}

void state_chips_save(const struct chips_image *chips, struct buf *out)
{
	pic_put(out, chips, 0);
	pic_put(out, chips, 1);
	ioapic_put(out, &chips->ioapic.chip.ioapic);
	pit_put(out, &chips->pit);
	clock_put(out, &chips->clock);
}

/* ---- from octets ---------------------------------------------------------------- */

static bool pic_take(struct cursor *c, unsigned instance, struct chips_image *out)
{
	out->pic[instance].chip_id = instance ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
	cursor_copy(c, &out->pic[instance].chip.pic, sizeof(struct kvm_pic_state));
	return out->pic[instance].chip.pic.init_state <= 3;
}

static bool ioapic_take(struct cursor *c, unsigned instance, struct chips_image *out)
{
	struct kvm_ioapic_state *s = &out->ioapic.chip.ioapic;

	out->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	s->base_address = cursor_u64(c);
	s->ioregsel = cursor_u32(c);
	s->id = cursor_u32(c);
	s->irr = cursor_u32(c);
	for (unsigned i = 0; i < STATE_IRQ_PINS; i++)
		s->redirtbl[i].bits = cursor_u64(c);
	return !(s->irr >> STATE_IRQ_PINS) && s->ioregsel <= 0xff && s->id <= 0xff;
}

static bool pit_channel_good(const struct kvm_pit_channel_state *ch)
{
	return ch->count <= 0x10000 && (ch->mode <= 5 || ch->mode == PIT_MODE_UNSET) &&
	       ch->rw_mode <= 3 && ch->read_state <= 4 && ch->write_state <= 4 && ch->bcd <= 1 &&
	       ch->gate <= 1;
}

static bool pit_take(struct cursor *c, unsigned instance, struct chips_image *out)
{
	bool good = true;

	for (unsigned i = 0; i < 3; i++) {
		struct kvm_pit_channel_state *ch = &out->pit.channels[i];

		ch->count = cursor_u32(c);
		ch->latched_count = cursor_u16(c);
		for (unsigned k = 0; k < ARRAY_LEN(pit_octets); k++)
			*((uint8_t *)ch + pit_octets[k]) = cursor_u8(c);
		good &= pit_channel_good(ch);
	}
	out->pit.flags = cursor_u32(c);
	return good &&
	       !(out->pit.flags & ~(KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON));
}

static bool clock_take(struct cursor *c, unsigned instance, struct chips_image *out)
{
	uint32_t flags;

	out->clock.clock = cursor_u64(c);
	out->clock.realtime = cursor_u64(c);
	flags = cursor_u32(c);
	out->clock.flags = flags & CLOCK_HAS_WALL ? KVM_CLOCK_REALTIME : 0;
	return !(flags & ~CLOCK_HAS_WALL) && out->clock.clock <= INT64_MAX &&
	       out->clock.realtime <= INT64_MAX;
}

static const struct {
	const char *name;
	uint16_t id, instance;
	bool (*take)(struct cursor *c, unsigned instance, struct chips_image *out);
} chip_sections[] = {
	{"PIC", STATE_PIC, 0, pic_take},          {"PIC", STATE_PIC, 1, pic_take},
	{"IOAPIC", STATE_IOAPIC, 0, ioapic_take}, {"PIT", STATE_PIT, 0, pit_take},
	{"clock", STATE_CLOCK, 0, clock_take},
};

int state_chips_open(const struct state_view *v, struct chips_image *out, struct error *e)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < ARRAY_LEN(chip_sections); i++) {
		uint16_t instance = chip_sections[i].instance;
		const struct state_section *s = state_find(v, chip_sections[i].id, instance);
		struct cursor c;
		bool good;

		if (!s || !state_section_read(s))
			return error_set(e, -EBADMSG, "machine state: %s %u: %s",
					 chip_sections[i].name, instance,
					 s ? "unknown version" : "the section is missing");
		c = cursor_of(s->data, s->len);
		good = chip_sections[i].take(&c, instance, out);
		if (cursor_finish(&c))
			return error_set(e, -EBADMSG, "machine state: %s %u: %u octets are wrong",
					 chip_sections[i].name, instance, s->len);
		if (!good)
			return error_set(e, -EBADMSG, "machine state: %s %u: a value is impossible",
					 chip_sections[i].name, instance);
	}
	return 0;
}

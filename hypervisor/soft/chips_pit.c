// SPDX-License-Identifier: Apache-2.0
/* The 8254 interval timer, and port 0x61, which gates its channel 2. */
#include "hypervisor/soft/chips_parts.h"

#define PIT_HZ          1193182u
#define INTERVAL_MIN    239u /* ticks in TIMER_PERIOD_MIN_NS */
#define REFRESH_SHIFT   14   /* ns: as KVM's refresh bit */

#define PORT_COMMAND    0x43
#define PORT_SPEAKER    0x61
#define SPEAKER_CHANNEL 2

/* Which octet comes next; of a word, and its second. Also the access mode of a command. */
enum access { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_WORD, ACCESS_WORD_HIGH };

/* ---- time ---------------------------------------------------------------------------- */

static uint64_t ticks_of(uint64_t ns)
{
	return ns / NS_PER_SEC * PIT_HZ + ns % NS_PER_SEC * PIT_HZ / NS_PER_SEC;
}

/* The first ns at which so many ticks have passed. */
static uint64_t ns_of(uint64_t ticks)
{
	return ticks / PIT_HZ * NS_PER_SEC + (ticks % PIT_HZ * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static uint32_t from_bcd(uint32_t value)
{
	uint32_t out = 0;

	for (int shift = 16; shift >= 0; shift -= 4)
		out = out * 10 + (value >> shift & 0xf);
	return out;
}

static uint32_t to_bcd(uint32_t value)
{
	uint32_t out = 0;

	for (unsigned shift = 0; shift < 16; shift += 4, value /= 10)
		out |= value % 10 << shift;
	return out;
}

static uint32_t period_of(const struct kvm_pit_channel_state *ch)
{
	return ch->bcd ? from_bcd(ch->count) : ch->count;
}

/* Modes 1 and 5 count from the gate's edge on; the others stand while it is low. */
static bool edge_triggered(const struct kvm_pit_channel_state *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

static bool gated(const struct kvm_pit_channel_state *ch)
{
	return !ch->gate && !edge_triggered(ch);
}

static uint64_t elapsed(const struct soft_chips *c, uint64_t now, unsigned channel)
{
	const struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];
	uint64_t start = (uint64_t)ch->count_load_time;

	return gated(ch) ? c->pit.stopped[channel] : ticks_of(now > start ? now - start : 0);
}

/* ---- counting ------------------------------------------------------------------------ */

static uint16_t counter(const struct soft_chips *c, uint64_t now, unsigned channel)
{
	const struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];
	uint64_t ticks = elapsed(c, now, channel);
	uint32_t period = period_of(ch), modulus = ch->bcd ? 10000 : 0x10000, value;

	if (ch->mode == 2)
		value = period - (uint32_t)(ticks % period);
	else if (ch->mode == 3)
		value = period - (uint32_t)(2 * ticks % period);
	else
		value = (period + modulus - (uint32_t)(ticks % modulus)) % modulus;
	return (uint16_t)(ch->bcd ? to_bcd(value % modulus) : value);
}

static bool output(const struct soft_chips *c, uint64_t now, unsigned channel)
{
	const struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];
	uint64_t ticks = elapsed(c, now, channel);
	uint32_t period = period_of(ch);

	if (c->pit.waiting[channel])
		return ch->mode != 0;
	switch (ch->mode) {
	case 2:
		return !ch->gate || ticks % period != period - 1;
	case 3:
		return !ch->gate || ticks % period < (period + 1) / 2;
	case 4:
	case 5:
		return ticks != period;
	default:
		return ticks >= period;
	}
}

/* Channel 0's next interrupt, later than `ticks` after its start. */
static void interrupt_plan(struct soft_chips *c, uint64_t ticks)
{
	const struct kvm_pit_channel_state *ch = &c->pit.state.channels[0];
	uint64_t period = period_of(ch), at = 0;

	if (ch->mode == 2 || ch->mode == 3) {
		if (period < INTERVAL_MIN)
			period = INTERVAL_MIN;
		at = (ticks / period + 1) * period;
	} else if ((ch->mode == 0 || ch->mode == 4) && ticks < period) {
		at = period;
	}
	c->pit.due = at ? (uint64_t)ch->count_load_time + ns_of(at) : NEVER;
	deadline_update(c);
}

void pit_start(struct soft_chips *c, uint64_t now, unsigned channel)
{
	c->pit.state.channels[channel].count_load_time = (int64_t)now;
	c->pit.stopped[channel] = 0;
	c->pit.waiting[channel] = false;
	if (channel == 0)
		interrupt_plan(c, 0);
}

void pit_run(struct soft_chips *c, uint64_t now)
{
	if (c->pit.due > now)
		return;
	interrupt_plan(c, elapsed(c, now, 0));
	soft_chips_irq(c, now, 0, true);
	soft_chips_irq(c, now, 0, false);
}

void pit_reset(struct soft_chips *c)
{
	memset(&c->pit, 0, sizeof(c->pit));
	for (unsigned i = 0; i < PIT_CHANNELS; i++) {
		c->pit.state.channels[i].count = PIT_COUNT_MAX;
		c->pit.state.channels[i].mode = PIT_MODE_UNSET;
		c->pit.state.channels[i].gate = i != SPEAKER_CHANNEL;
	}
	c->pit.due = NEVER;
}

static void gate_set(struct soft_chips *c, uint64_t now, unsigned channel, bool gate)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];
	uint64_t ticks = elapsed(c, now, channel);
	bool before = ch->gate;

	ch->gate = gate;
	if (before == gate)
		return;
	if (!gate)
		c->pit.stopped[channel] = ticks;
	else if (ch->mode == 0 || ch->mode == 4)
		ch->count_load_time = (int64_t)(now - ns_of(ticks));
	else
		pit_start(c, now, channel);
}

/* ---- ports --------------------------------------------------------------------------- */

static void count_write(struct soft_chips *c, uint64_t now, unsigned channel, uint32_t count)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];

	ch->count = count ? count : PIT_COUNT_MAX;
	if (!edge_triggered(ch))
		pit_start(c, now, channel);
}

static void count_latch(struct soft_chips *c, uint64_t now, unsigned channel)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];

	if (ch->count_latched)
		return;
	ch->latched_count = counter(c, now, channel);
	ch->count_latched = ch->rw_mode;
}

static void status_latch(struct soft_chips *c, uint64_t now, unsigned channel)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];

	if (ch->status_latched)
		return;
	ch->status = (uint8_t)(output(c, now, channel) << 7 | c->pit.waiting[channel] << 6 |
			       ch->rw_mode << 4 | (ch->mode & 7) << 1 | ch->bcd);
	ch->status_latched = 1;
}

static void read_back(struct soft_chips *c, uint64_t now, uint8_t value)
{
	for (unsigned i = 0; i < PIT_CHANNELS; i++) {
		if (!(value >> (i + 1) & 1))
			continue;
		if (!(value & 0x20))
			count_latch(c, now, i);
		if (!(value & 0x10))
			status_latch(c, now, i);
	}
}

static void command_write(struct soft_chips *c, uint64_t now, uint8_t value)
{
	unsigned channel = value >> 6, access = value >> 4 & 3, mode = value >> 1 & 7;
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel % PIT_CHANNELS];

	if (channel == PIT_CHANNELS) {
		read_back(c, now, value);
	} else if (access == ACCESS_LATCH) {
		count_latch(c, now, channel);
	} else {
		ch->rw_mode = ch->read_state = ch->write_state = (uint8_t)access;
		ch->mode = (uint8_t)(mode > 5 ? mode - 4 : mode);
		ch->bcd = value & 1;
		c->pit.waiting[channel] = true;
		if (channel == 0) { /* it waits for a count */
			c->pit.due = NEVER;
			deadline_update(c);
		}
	}
}

static void channel_write(struct soft_chips *c, uint64_t now, unsigned channel, uint8_t value)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];

	switch (ch->write_state) {
	case ACCESS_HIGH:
		count_write(c, now, channel, (uint32_t)value << 8);
		break;
	case ACCESS_WORD:
		ch->write_latch = value;
		ch->write_state = ACCESS_WORD_HIGH;
		break;
	case ACCESS_WORD_HIGH:
		ch->write_state = ACCESS_WORD;
		count_write(c, now, channel, ch->write_latch | (uint32_t)value << 8);
		break;
	default:
		count_write(c, now, channel, value);
	}
}

static uint8_t latched_read(struct kvm_pit_channel_state *ch)
{
	uint8_t access = ch->count_latched;

	ch->count_latched = access == ACCESS_WORD ? ACCESS_WORD_HIGH : 0;
	return (uint8_t)(ch->latched_count >>
			 (access == ACCESS_HIGH || access == ACCESS_WORD_HIGH ? 8 : 0));
}

static uint8_t channel_read(struct soft_chips *c, uint64_t now, unsigned channel)
{
	struct kvm_pit_channel_state *ch = &c->pit.state.channels[channel];
	uint8_t access = ch->read_state;

	if (ch->status_latched) {
		ch->status_latched = 0;
		return ch->status;
	}
	if (ch->count_latched)
		return latched_read(ch);
	if (access == ACCESS_WORD || access == ACCESS_WORD_HIGH)
		ch->read_state = access == ACCESS_WORD ? ACCESS_WORD_HIGH : ACCESS_WORD;
	return (uint8_t)(counter(c, now, channel) >>
			 (access == ACCESS_HIGH || access == ACCESS_WORD_HIGH ? 8 : 0));
}

static uint8_t speaker_read(const struct soft_chips *c, uint64_t now)
{
	return (uint8_t)(c->pit.state.channels[SPEAKER_CHANNEL].gate |
			 (c->pit.state.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0) |
			 (now >> REFRESH_SHIFT & 1) << 4 | output(c, now, SPEAKER_CHANNEL) << 5);
}

static void speaker_write(struct soft_chips *c, uint64_t now, uint8_t value)
{
	uint32_t flags = c->pit.state.flags & ~KVM_PIT_FLAGS_SPEAKER_DATA_ON;

	c->pit.state.flags = flags | (value & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	gate_set(c, now, SPEAKER_CHANNEL, value & 1);
}

bool pit_port(struct soft_chips *c, uint64_t now, uint16_t port, uint8_t *data, bool write)
{
	if (port == PORT_SPEAKER && write)
		speaker_write(c, now, *data);
	else if (port == PORT_SPEAKER)
		*data = speaker_read(c, now);
	else if ((port & ~3u) != 0x40)
		return false;
	else if (port == PORT_COMMAND && write)
		command_write(c, now, *data);
	else if (port == PORT_COMMAND)
		*data = 0xff;
	else if (write)
		channel_write(c, now, port & 3u, *data);
	else
		*data = channel_read(c, now, port & 3u);
	return true;
}

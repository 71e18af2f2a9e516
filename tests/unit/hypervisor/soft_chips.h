// SPDX-License-Identifier: Apache-2.0
/* The interrupt controllers and timers of the software engine, by hand: a clock that the test
 * moves, and a TSC that counts thrice per ns. */
#ifndef POLLUX_TESTS_UNIT_SOFT_CHIPS_H
#define POLLUX_TESTS_UNIT_SOFT_CHIPS_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "hypervisor/soft/chips.h"

#define CPUS       4
#define LAPIC_PAGE 0xfee00000u
#define IOAPIC     0xfec00000u
#define US         UINT64_C(1000)
#define MS         (1000 * US)

static struct soft_chips *chips;
static uint64_t now;
static unsigned attention; /* a bit a vCPU */

static inline void attention_set(void *ctx, unsigned vcpu)
{
	attention |= 1u << vcpu;
}
static inline uint64_t tsc_to_ns(void *ctx, unsigned vcpu, uint64_t tsc)
{
	return tsc / 3 <= now ? 0 : (tsc + 2) / 3;
}
static inline int setup(void **state)
{
	const struct soft_chips_hooks hooks = {.attention = attention_set, .tsc_to_ns = tsc_to_ns};

	now = 5 * MS;
	assert_int_equal(soft_chips_create(CPUS, &hooks, &chips), 0);
	attention = 0;
	return 0;
}
static inline int teardown(void **state)
{
	soft_chips_destroy(chips);
	return 0;
}

static inline void out8(uint16_t port, uint8_t value)
{
	assert_true(soft_chips_port(chips, now, port, &value, 1, true));
}
static inline uint8_t in8(uint16_t port)
{
	uint8_t value = 0x55;

	assert_true(soft_chips_port(chips, now, port, &value, 1, false));
	return value;
}
/* LAPIC registers by their offset in the page. */
static inline void wr(unsigned vcpu, unsigned offset, uint32_t value)
{
	assert_true(soft_chips_mmio(chips, now, vcpu, LAPIC_PAGE + offset, &value, 4, true));
}
static inline uint32_t rd(unsigned vcpu, unsigned offset)
{
	uint32_t value = 0x55555555;

	assert_true(soft_chips_mmio(chips, now, vcpu, LAPIC_PAGE + offset, &value, 4, false));
	return value;
}
static inline void io_wr(unsigned index, uint32_t value)
{
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC, &index, 4, true));
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC + 0x10, &value, 4, true));
}
static inline uint32_t io_rd(unsigned index)
{
	uint32_t value = 0x55555555;

	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC, &index, 4, true));
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC + 0x10, &value, 4, false));
	return value;
}
static inline void pin_route(unsigned pin, uint32_t low, unsigned destination)
{
	io_wr(0x11 + 2 * pin, destination << 24);
	io_wr(0x10 + 2 * pin, low);
}
static inline int msr_set(unsigned vcpu, uint32_t msr, uint64_t value)
{
	return soft_chips_msr_write(chips, now, vcpu, msr, value);
}
static inline uint64_t msr_get(unsigned vcpu, uint32_t msr)
{
	uint64_t value = 0;

	assert_int_equal(soft_chips_msr_read(chips, now, vcpu, msr, &value), 0);
	return value;
}
static inline void irq(unsigned gsi, bool level)
{
	soft_chips_irq(chips, now, gsi, level);
}
static inline int pending(unsigned vcpu)
{
	return soft_chips_interrupt_pending(chips, vcpu);
}
static inline int take(unsigned vcpu)
{
	return soft_chips_interrupt_take(chips, vcpu);
}
static inline void pass(uint64_t ns)
{
	now += ns;
	soft_chips_run(chips, now);
}
/* All LAPICs on, their ids flat logical too, the PIC not wired through. */
static inline void lapics_on(void)
{
	for (unsigned v = 0; v < CPUS; v++) {
		wr(v, 0xf0, 0x1ff);
		wr(v, 0xd0, UINT32_C(1) << (24 + v));
	}
	wr(0, 0x350, 0x10000);
	attention = 0;
}
static inline void lapics_x2(void)
{
	for (unsigned v = 0; v < CPUS; v++)
		assert_int_equal(msr_set(v, 0x1b, 0xfee00c00 | (v ? 0 : 0x100)), 0);
}
/* The two PICs at vectors 0x20 and 0x28, nothing masked. */
static inline void pics_on(void)
{
	static const struct {
		uint16_t port;
		uint8_t value;
	} sequence[] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11},
			{0xa1, 0x28}, {0xa1, 2},    {0xa1, 1}, {0x21, 0}, {0xa1, 0}};

	for (unsigned i = 0; i < ARRAY_LEN(sequence); i++)
		out8(sequence[i].port, sequence[i].value);
}

#endif

// SPDX-License-Identifier: Apache-2.0
/* The PICs and the IOAPIC: pins, masks, priorities, ends of interrupts. */
#include "tests/unit/hypervisor/soft_chips.h"

#define LEVEL   0x8000
#define MASKED  0x10000
#define LOGICAL 0x800

static int ready(void **state)
{
	setup(state);
	pics_on();
	attention = 0;
	return 0;
}
static int ready_apic(void **state)
{
	setup(state);
	lapics_on();
	return 0;
}
static void pulse(unsigned gsi)
{
	irq(gsi, true);
	irq(gsi, false);
}

/* ---- PIC ----------------------------------------------------------------------------- */

static void an_edge_interrupts_once(void **state)
{
	irq(4, true);
	assert_int_equal(attention, 1);
	assert_int_equal(pending(0), SOFT_CHIPS_FROM_PIC);
	assert_int_equal(pending(1), -1);
	assert_int_equal(take(0), 0x24);
	assert_int_equal(pending(0), -1);
	irq(4, true); /* still high: no edge */
	out8(0x20, 0x20);
	assert_int_equal(pending(0), -1);
	irq(4, false);
	irq(4, true);
	assert_int_equal(take(0), 0x24);
}

static void lower_numbers_come_first(void **state)
{
	pulse(5);
	pulse(3);
	assert_int_equal(take(0), 0x23);
	assert_int_equal(pending(0), -1); /* 5 waits for the end of 3 */
	pulse(1);
	assert_int_equal(take(0), 0x21);
	out8(0x20, 0x20); /* of 1 */
	assert_int_equal(pending(0), -1);
	out8(0x20, 0x63); /* of 3, by name */
	assert_int_equal(take(0), 0x25);
}

static void masks_hold_back(void **state)
{
	out8(0x21, 0x10);
	assert_int_equal(in8(0x21), 0x10);
	pulse(4);
	assert_int_equal(pending(0), -1);
	assert_int_equal(in8(0x20), 0x10); /* IRR */
	out8(0x21, 0);
	assert_int_equal(take(0), 0x24);
	out8(0x20, 0x0b);
	assert_int_equal(in8(0x20), 0x10); /* ISR */
	out8(0x20, 0x0a);
	assert_int_equal(in8(0x20), 0);
}

static void the_slave_is_on_pin_2(void **state)
{
	pulse(12);
	assert_int_equal(take(0), 0x2c);
	pulse(5);
	assert_int_equal(pending(0), -1); /* 2 is before 5 */
	pulse(1);
	assert_int_equal(take(0), 0x21);
	out8(0x20, 0x20);
	pulse(9); /* of the slave, and before 12; but the master serves its pin 2 */
	assert_int_equal(pending(0), -1);
	out8(0x20, 0x20);
	assert_int_equal(take(0), 0x29);
	out8(0xa0, 0x20);
	out8(0x20, 0x20);
	assert_int_equal(take(0), 0x25);
}

static void special_fully_nested_lets_the_slave_nest(void **state)
{
	out8(0x20, 0x11);
	out8(0x21, 0x20);
	out8(0x21, 4);
	out8(0x21, 0x11);
	out8(0x21, 0);
	pulse(12);
	assert_int_equal(take(0), 0x2c);
	pulse(9);
	assert_int_equal(take(0), 0x29);
}

static void levels_come_again_until_they_fall(void **state)
{
	out8(0x4d0, 0xff);
	out8(0x4d1, 0xff);
	assert_int_equal(in8(0x4d0), 0xf8);
	assert_int_equal(in8(0x4d1), 0xde);
	irq(5, true);
	assert_int_equal(take(0), 0x25);
	out8(0x20, 0x20);
	assert_int_equal(take(0), 0x25);
	irq(5, false);
	out8(0x20, 0x20);
	assert_int_equal(pending(0), -1);
	irq(5, true);
	irq(5, false); /* it fell before anybody looked */
	assert_int_equal(pending(0), -1);
	assert_int_equal(take(0), -1);
}

static void what_is_masked_in_between_is_spurious(void **state)
{
	out8(0xa1, 0xff);
	pulse(12);
	out8(0xa1, 0);
	out8(0xa1, 0xff);
	assert_int_equal(pending(0), SOFT_CHIPS_FROM_PIC); /* the master has latched it */
	assert_int_equal(take(0), 0x2f);
	out8(0x20, 0x0b);
	out8(0xa0, 0x0b);
	assert_int_equal(in8(0x20), 4);
	assert_int_equal(in8(0xa0), 0);
}

static void automatic_end_needs_none(void **state)
{
	out8(0x20, 0x11);
	out8(0x21, 0x20);
	out8(0x21, 4);
	out8(0x21, 3);
	out8(0x21, 0);
	for (unsigned i = 0; i < 3; i++) {
		pulse(4);
		assert_int_equal(take(0), 0x24);
	}
	out8(0x20, 0x80); /* and rotate */
	pulse(4);
	assert_int_equal(take(0), 0x24);
	pulse(4);
	pulse(5);
	assert_int_equal(take(0), 0x25);
}

static void priorities_rotate(void **state)
{
	pulse(3);
	assert_int_equal(take(0), 0x23);
	out8(0x20, 0xa0); /* end, and 3 becomes the last */
	pulse(3);
	pulse(4);
	assert_int_equal(take(0), 0x24);
	out8(0x20, 0x20);
	out8(0x20, 0xc5); /* 5 becomes the last */
	pulse(6);
	assert_int_equal(take(0), 0x26);
	out8(0x20, 0xe6);
	assert_int_equal(take(0), 0x23);
}

static void special_mask_opens_what_is_below(void **state)
{
	pulse(3);
	assert_int_equal(take(0), 0x23);
	out8(0x20, 0x68);
	out8(0x21, 8);
	pulse(5);
	assert_int_equal(take(0), 0x25);
	out8(0x20, 0x48);
	pulse(6);
	assert_int_equal(pending(0), -1);
}

static void a_poll_acknowledges(void **state)
{
	pulse(4);
	out8(0x20, 0x0c);
	assert_int_equal(in8(0x20), 0x84);
	assert_int_equal(pending(0), -1);
	out8(0x20, 0x0c);
	assert_int_equal(in8(0x20), 0);
	out8(0x20, 0x0b);
	assert_int_equal(in8(0x20), 0x10);
}

static void only_a_wired_vcpu_takes_them(void **state)
{
	wr(0, 0x350, MASKED);
	pulse(4);
	assert_int_equal(pending(0), -1);
	wr(1, 0xf0, 0x1ff);
	wr(1, 0x350, 0x700);
	assert_int_equal(pending(1), SOFT_CHIPS_FROM_PIC);
	wr(1, 0x350, MASKED);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00100), 0); /* no LAPIC: straight to vCPU 0 */
	assert_int_equal(take(0), 0x24);
	wr(1, 0x350, 0x400); /* as an NMI */
	pulse(3);
	assert_true(soft_chips_nmi_take(chips, 1));
	assert_int_equal(take(0), 0x23);
}

static void wide_accesses_cover_two_ports(void **state)
{
	uint16_t word = 0xdef8;
	uint32_t far = 0;

	assert_true(soft_chips_port(chips, now, 0x4d0, &word, 2, true));
	assert_int_equal(in8(0x4d1), 0xde);
	assert_true(soft_chips_port(chips, now, 0x4d0, &far, 4, false));
	assert_int_equal(far, 0xffffdef8);
	assert_false(soft_chips_port(chips, now, 0x4d2, &word, 2, false));
	assert_false(soft_chips_port(chips, now, 0x22, &word, 1, false));
	assert_false(soft_chips_port(chips, now, 0xa2, &word, 1, true));
	assert_false(soft_chips_port(chips, now, 0x1f, &word, 2, true));
}

/* ---- IOAPIC -------------------------------------------------------------------------- */

static void registers_of_the_ioapic(void **state)
{
	assert_int_equal(io_rd(1), 0x170011);
	io_wr(0, 0xff000000);
	assert_int_equal(io_rd(0), 0x0f000000);
	assert_int_equal(io_rd(2), 0x0f000000);
	for (unsigned pin = 0; pin < 24; pin++) {
		assert_int_equal(io_rd(0x10 + 2 * pin), MASKED);
		assert_int_equal(io_rd(0x11 + 2 * pin), 0);
	}
	pin_route(3, 0xffffffff, 0xab);
	assert_int_equal(io_rd(0x16), 0x1afff); /* status bits and reserved ones are not ours */
	assert_int_equal(io_rd(0x17), 0xab000000);
	io_wr(0x40, 0xffffffff);
	io_wr(0xff, 0xffffffff);
	assert_int_equal(io_rd(0x40), 0);
	assert_int_equal(io_rd(0xff), 0);
}

static void an_edge_goes_to_its_destination(void **state)
{
	pin_route(9, 0x59, 2);
	irq(9, true);
	assert_int_equal(attention, 4);
	assert_int_equal(take(2), 0x59);
	irq(9, true);
	wr(2, 0xb0, 0);
	assert_int_equal(pending(2), -1);
	pulse(9);
	irq(9, true);
	assert_int_equal(take(2), 0x59);
	pin_route(20, 0x5a | LOGICAL, 0xa);
	pulse(20);
	assert_int_equal(pending(1), 0x5a);
	assert_int_equal(pending(3), 0x5a);
	pulse(24);
	pulse(UINT32_MAX);
}

static void gsi_0_is_pin_2(void **state)
{
	pin_route(0, 0x50, 0);
	pin_route(2, 0x52, 0);
	pulse(0);
	assert_int_equal(take(0), 0x52);
	wr(0, 0xb0, 0);
	pulse(2);
	assert_int_equal(pending(0), -1);
}

static void an_edge_that_nobody_wanted_is_lost(void **state)
{
	pin_route(9, 0x59 | MASKED, 2);
	pulse(9);
	pin_route(9, 0x59, 2);
	assert_int_equal(pending(2), -1);
}

static void a_level_waits_for_its_end(void **state)
{
	pin_route(10, 0x5a | LEVEL, 1);
	irq(10, true);
	assert_int_equal(io_rd(0x24), 0x5a | LEVEL | 0x4000);
	assert_int_equal(take(1), 0x5a);
	irq(10, false);
	irq(10, true); /* remote IRR: it waits */
	assert_int_equal(rd(1, 0x220), 0);
	wr(1, 0xb0, 0);
	assert_int_equal(take(1), 0x5a); /* still high: once more */
	irq(10, false);
	wr(1, 0xb0, 0);
	assert_int_equal(pending(1), -1);
	assert_int_equal(io_rd(0x24), 0x5a | LEVEL);
}

static void a_level_outlives_its_mask(void **state)
{
	pin_route(10, 0x5a | LEVEL | MASKED, 1);
	irq(10, true);
	assert_int_equal(pending(1), -1);
	pin_route(10, 0x5a | LEVEL, 1);
	assert_int_equal(take(1), 0x5a);
	io_wr(0x24, 0x5a | MASKED); /* edge and back: drops remote IRR */
	io_wr(0x24, 0x5a | LEVEL | MASKED);
	assert_int_equal(io_rd(0x24), 0x5a | LEVEL | MASKED);
	io_wr(0x24, 0x5a | LEVEL);
	wr(1, 0xb0, 0);
	assert_int_equal(take(1), 0x5a);
}

static void pins_may_share_a_vector(void **state)
{
	pin_route(10, 0x5a | LEVEL, 1);
	pin_route(11, 0x5a | LEVEL, 1);
	irq(10, true);
	irq(11, true);
	assert_int_equal(take(1), 0x5a);
	irq(10, false);
	wr(1, 0xb0, 0);
	assert_int_equal(take(1), 0x5a); /* for 11 */
	irq(11, false);
	wr(1, 0xb0, 0);
	assert_int_equal(pending(1), -1);
}

static void a_level_to_nobody_is_not_stuck(void **state)
{
	pin_route(10, 0x5a | LEVEL, 9);
	irq(10, true);
	assert_int_equal(io_rd(0x24), 0x5a | LEVEL);
	pin_route(10, 0x5a | LEVEL, 3);
	assert_int_equal(take(3), 0x5a);
}

static void other_delivery_modes(void **state)
{
	pin_route(9, 0x400, 2);
	pulse(9);
	assert_true(soft_chips_nmi_take(chips, 2));
	pin_route(9, 0x500, 2);
	pulse(9);
	assert_true(soft_chips_init_take(chips, 2));
	pin_route(9, 0x15b | LOGICAL, 0xf);
	pulse(9);
	assert_int_equal((pending(0) == 0x5b) + (pending(1) == 0x5b) + (pending(2) == 0x5b) +
				 (pending(3) == 0x5b),
			 1);
	for (unsigned mode = 2; mode < 8; mode++) { /* SMI, reserved, ExtINT: nothing breaks */
		pin_route(9, mode << 8, 1);
		pulse(9);
		assert_int_equal(pending(1) >= 0 && pending(1) != 0x5b, 0);
	}
}

static void narrow_accesses_of_the_ioapic(void **state)
{
	uint8_t octet = 1;
	uint64_t wide = UINT64_MAX;

	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC, &octet, 1, true));
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC + 0x10, &octet, 1, false));
	assert_int_equal(octet, 0x11);
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC + 0x10, &wide, 8, false));
	assert_int_equal(wide, 0x170011);
	assert_true(soft_chips_mmio(chips, now, 0, IOAPIC + 0xff8, &wide, 8, false));
	assert_true(wide == 0);
	assert_false(soft_chips_mmio(chips, now, 0, IOAPIC + 0x1000, &wide, 4, false));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ready, teardown)
#define APIC(name) cmocka_unit_test_setup_teardown(name, ready_apic, teardown)
	const struct CMUnitTest tests[] = {
		TEST(an_edge_interrupts_once),
		TEST(lower_numbers_come_first),
		TEST(masks_hold_back),
		TEST(the_slave_is_on_pin_2),
		TEST(special_fully_nested_lets_the_slave_nest),
		TEST(levels_come_again_until_they_fall),
		TEST(what_is_masked_in_between_is_spurious),
		TEST(automatic_end_needs_none),
		TEST(priorities_rotate),
		TEST(special_mask_opens_what_is_below),
		TEST(a_poll_acknowledges),
		TEST(only_a_wired_vcpu_takes_them),
		TEST(wide_accesses_cover_two_ports),
		APIC(registers_of_the_ioapic),
		APIC(an_edge_goes_to_its_destination),
		APIC(gsi_0_is_pin_2),
		APIC(an_edge_that_nobody_wanted_is_lost),
		APIC(a_level_waits_for_its_end),
		APIC(a_level_outlives_its_mask),
		APIC(pins_may_share_a_vector),
		APIC(a_level_to_nobody_is_not_stuck),
		APIC(other_delivery_modes),
		APIC(narrow_accesses_of_the_ioapic),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* The PIT: modes, latches, read-back, gate; its interrupts by way of the PIC. */
#include "tests/unit/hypervisor/soft_chips.h"

#define HZ 1193182u

static int ready(void **state)
{
	setup(state);
	pics_on();
	return 0;
}
static uint64_t ns_of(uint64_t ticks)
{
	return (ticks * NS_PER_SEC + HZ - 1) / HZ;
}
static void program(unsigned channel, unsigned mode, uint16_t count)
{
	out8(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	out8((uint16_t)(0x40 + channel), (uint8_t)count);
	out8((uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}
static unsigned count_read(unsigned channel)
{
	uint8_t low = in8((uint16_t)(0x40 + channel));

	return low | in8((uint16_t)(0x40 + channel)) << 8;
}
static void tick(uint64_t ticks)
{
	pass(ns_of(ticks));
}
static void acknowledge(void)
{
	assert_int_equal(take(0), 0x20);
	out8(0x20, 0x20);
	assert_int_equal(pending(0), -1);
}
static unsigned speaker_out(void)
{
	return in8(0x61) >> 5 & 1;
}

static void one_interrupt_at_the_end_of_a_count(void **state)
{
	static const uint8_t modes[] = {0, 4};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		program(0, modes[i], 1000);
		assert_int_equal(soft_chips_deadline(chips), now + ns_of(1000));
		tick(999);
		assert_int_equal(pending(0), -1);
		tick(1);
		acknowledge();
		assert_true(soft_chips_deadline(chips) == UINT64_MAX);
		tick(100000);
		assert_int_equal(pending(0), -1);
	}
}

static void periodic_interrupts_do_not_drift(void **state)
{
	static const uint8_t modes[] = {2, 3, 6, 7}; /* bit 2 counts for nothing in these */

	for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
		uint64_t start = now;

		program(0, modes[m], 11932);
		for (unsigned i = 1; i < 40; i++) {
			pass(start + ns_of(UINT64_C(11932) * i) - now + 377 * i);
			acknowledge();
			assert_int_equal(soft_chips_deadline(chips),
					 start + ns_of(UINT64_C(11932) * (i + 1)));
		}
	}
}

static void missed_and_tiny_periods_cost_nothing(void **state)
{
	uint64_t start = now;

	program(0, 2, 1);
	pass(UINT64_C(1000000000000000));
	acknowledge();
	assert_in_range(soft_chips_deadline(chips), now + 1, now + 201 * US);
	program(0, 3, 0); /* 65536 */
	start = now;
	pass(UINT64_C(1000000000000000));
	acknowledge();
	assert_int_equal((soft_chips_deadline(chips) - start) / NS_PER_SEC, 1000000);
}

static void the_ioapic_gets_them_on_pin_2(void **state)
{
	lapics_on();
	pin_route(2, 0x60, 1);
	program(0, 2, 1000);
	tick(1000);
	assert_int_equal(take(1), 0x60);
}

static void a_new_command_stops_the_old_count(void **state)
{
	program(0, 2, 1000);
	out8(0x43, 0x34);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	out8(0x40, 0xe8);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	out8(0x40, 0x03);
	assert_int_equal(soft_chips_deadline(chips), now + ns_of(1000));
	program(0, 1, 1000); /* its gate never rises */
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
}

static void counts_go_down(void **state)
{
	program(0, 0, 1000);
	tick(300);
	assert_int_equal(count_read(0), 700);
	tick(701);
	assert_int_equal(count_read(0), 0xffff);
	program(1, 2, 1000);
	tick(2300);
	assert_int_equal(count_read(1), 700);
	program(1, 3, 1000);
	tick(2300);
	assert_int_equal(count_read(1), 400); /* by two */
}

static void access_modes_take_one_octet_or_two(void **state)
{
	out8(0x43, 0x10); /* low */
	out8(0x40, 200);
	tick(50);
	assert_int_equal(in8(0x40), 150);
	assert_int_equal(in8(0x40), 150);
	out8(0x43, 0x20); /* high */
	out8(0x40, 0x12);
	tick(0x200);
	assert_int_equal(in8(0x40), 0x10);
	assert_int_equal(in8(0x43), 0xff); /* not to be read */
}

static void a_latch_holds_its_value(void **state)
{
	program(0, 0, 50000);
	tick(1000);
	out8(0x43, 0);
	tick(1000);
	out8(0x43, 0); /* a second one is ignored */
	assert_int_equal(count_read(0), 49000);
	assert_int_equal(count_read(0), 48000);
	out8(0x43, 0);
	tick(1000);
	assert_int_equal(in8(0x40), (uint8_t)48000); /* between its octets too */
	tick(1000);
	assert_int_equal(in8(0x40), 48000 >> 8);
}

static void read_back_latches_several(void **state)
{
	program(0, 2, 1000);
	program(2, 0, 5000);
	out8(0x61, 1);
	tick(100);
	out8(0x43, 0xc0 | 0x02 | 0x08); /* count and status of 0 and 2 */
	tick(50);
	assert_int_equal(in8(0x40), 0x80 | 0x34);
	assert_int_equal(count_read(0), 900);
	assert_int_equal(in8(0x42), 0x30);
	assert_int_equal(count_read(2), 4900);
	out8(0x43, 0xe2); /* status alone */
	assert_int_equal(in8(0x40), 0xb4);
	assert_int_equal(count_read(0), 850);
	out8(0x43, 0x34);
	out8(0x43, 0xe2);
	assert_int_equal(in8(0x40), 0xf4); /* no count yet */
}

static void digits_are_decimal_in_bcd(void **state)
{
	out8(0x43, 0x31);
	out8(0x40, 0x00);
	out8(0x40, 0x20);
	assert_int_equal(soft_chips_deadline(chips), now + ns_of(2000));
	tick(1);
	assert_int_equal(count_read(0), 0x1999);
	out8(0x43, 0x35);
	out8(0x40, 0);
	out8(0x40, 0);
	assert_int_equal(soft_chips_deadline(chips), now + ns_of(10000));
	out8(0x43, 0x35);
	out8(0x40, 0xff);
	out8(0x40, 0xff); /* no digits: whatever, but soundly */
	tick(1000);
	(void)count_read(0);
}

static void the_gate_of_channel_2_counts(void **state)
{
	assert_int_equal(in8(0x61) & ~0x10, 0);
	program(2, 0, 1000);
	tick(2000);
	assert_int_equal(in8(0x61) & ~0x10, 0); /* its gate is low */
	out8(0x61, 3);
	tick(600);
	out8(0x61, 0);
	tick(600);
	assert_int_equal(speaker_out(), 0);
	out8(0x61, 1);
	tick(399);
	assert_int_equal(speaker_out(), 0);
	tick(2);
	assert_int_equal(in8(0x61) & ~0x10, 0x21);
	out8(0x61, 3);
	assert_int_equal(in8(0x61) & ~0x10, 0x23);
	out8(0x43, 0xb0); /* the output falls with the command */
	assert_int_equal(speaker_out(), 0);
	assert_int_equal(pending(0), -1);
}

static void outputs_by_mode(void **state)
{
	static const struct {
		uint8_t mode;
		uint16_t at;
		bool out;
	} expected[] = {
		{0, 0, 0},    {0, 999, 0}, {0, 1000, 1}, {0, 1500, 1}, {1, 0, 0},    {1, 999, 0},
		{1, 1001, 1}, {2, 0, 1},   {2, 998, 1},  {2, 999, 0},  {2, 1000, 1}, {3, 0, 1},
		{3, 499, 1},  {3, 500, 0}, {3, 999, 0},  {3, 1000, 1}, {4, 0, 1},    {4, 1000, 0},
		{4, 1001, 1}, {5, 0, 1},   {5, 1000, 0}, {5, 1001, 1},
	};

	for (unsigned i = 0; i < ARRAY_LEN(expected); i++) {
		out8(0x61, 0);
		program(2, expected[i].mode, 1000);
		out8(0x61, 1);
		tick(expected[i].at);
		if (speaker_out() != expected[i].out)
			fail_msg("mode %u after %u ticks", expected[i].mode, expected[i].at);
	}
}

static void a_rising_gate_starts_again(void **state)
{
	static const uint8_t modes[] = {1, 2, 3, 5};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		out8(0x61, 1);
		program(2, modes[i], 1000);
		tick(600);
		out8(0x61, 0);
		tick(10);
		out8(0x61, 1);
		tick(100);
		assert_int_equal(count_read(2), modes[i] == 3 ? 800 : 900);
	}
	program(2, 1, 1000); /* waits for the edge */
	assert_int_equal(speaker_out(), 1);
	out8(0x61, 0);
	assert_int_equal(speaker_out(), 1);
	out8(0x61, 1);
	assert_int_equal(speaker_out(), 0);
}

static void the_refresh_bit_toggles(void **state)
{
	unsigned changes = 0, before = in8(0x61) & 0x10;

	for (unsigned i = 0; i < 1000; i++) {
		pass(US);
		changes += (in8(0x61) & 0x10) != before;
		before = in8(0x61) & 0x10;
	}
	assert_in_range(changes, 55, 65);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ready, teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_interrupt_at_the_end_of_a_count),
		TEST(periodic_interrupts_do_not_drift),
		TEST(missed_and_tiny_periods_cost_nothing),
		TEST(the_ioapic_gets_them_on_pin_2),
		TEST(a_new_command_stops_the_old_count),
		TEST(counts_go_down),
		TEST(access_modes_take_one_octet_or_two),
		TEST(a_latch_holds_its_value),
		TEST(read_back_latches_several),
		TEST(digits_are_decimal_in_bcd),
		TEST(the_gate_of_channel_2_counts),
		TEST(outputs_by_mode),
		TEST(a_rising_gate_starts_again),
		TEST(the_refresh_bit_toggles),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

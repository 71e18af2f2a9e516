// SPDX-License-Identifier: Apache-2.0
#include <time.h>

#include "tests/unit/hypervisor/double.h"

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;

static int setup(void **state)
{
	assert_int_equal(loop_create(&io), 0);
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	vm = double_vm(&parts, "", NULL, NULL);
	return 0;
}
static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

static uint8_t get(struct vm *m, uint8_t at)
{
	vm_out(m, 0x70, 1, at | 0x80); /* with the NMI bit, as drivers do */
	return (uint8_t)vm_in(m, 0x71, 1);
}
static void set(uint8_t at, uint8_t v)
{
	vm_out(vm, 0x70, 1, at);
	vm_out(vm, 0x71, 1, v);
}
static int bcd(uint8_t v)
{
	return (v >> 4) * 10 + (v & 15);
}

/* Seconds since 1970 as the registers say; read until two looks agree. */
static time_t clock_read(struct vm *m)
{
	struct tm t = {0};
	uint8_t second;

	do {
		second = get(m, 0);
		t.tm_sec = bcd(second);
		t.tm_min = bcd(get(m, 2));
		t.tm_hour = bcd(get(m, 4));
		t.tm_mday = bcd(get(m, 7));
		t.tm_mon = bcd(get(m, 8)) - 1;
		t.tm_year = bcd(get(m, 0x32)) * 100 + bcd(get(m, 9)) - 1900;
	} while (get(m, 0) != second);
	return timegm(&t);
}

static void it_shows_the_time_of_the_host(void **state)
{
	time_t before = time(NULL), now = clock_read(vm), after = time(NULL);

	assert_in_range(now, before, after);
	assert_int_equal(get(vm, 0x0a) & 0x80, 0);
	assert_int_equal(get(vm, 0x0b), 0x02);
	assert_int_equal(get(vm, 0x0d), 0x80);
}

static void the_formats_agree(void **state)
{
	uint8_t hour, minute;

	do {
		minute = get(vm, 2);
		hour = (uint8_t)bcd(get(vm, 4));
		set(0x0b, 0x06);
		assert_true(get(vm, 4) == hour || get(vm, 2) != bcd(minute));
		set(0x0b, 0x04); /* 12 hours */
		assert_true((get(vm, 4) & 0x7f) == (hour % 12 ? hour % 12 : 12) ||
			    get(vm, 2) != bcd(minute));
		assert_true(!!(get(vm, 4) & 0x80) == (hour >= 12) || get(vm, 2) != bcd(minute));
		set(0x0b, 0x02);
	} while (get(vm, 2) != minute);
}

static void the_guest_sets_it(void **state)
{
	struct tm t = {.tm_year = 132, .tm_mon = 1, .tm_mday = 29, .tm_hour = 23, .tm_min = 59};

	set(0x0b, 0x82);
	set(0, 0x30);
	set(2, 0x59);
	set(4, 0x23);
	set(7, 0x29);
	set(8, 0x02);
	set(9, 0x32);
	set(0x32, 0x20);
	set(0x0b, 0x02);
	t.tm_sec = 30;
	assert_in_range(clock_read(vm), timegm(&t), timegm(&t) + 20);
}

/* Whatever a guest writes, the clock goes on and has two digits everywhere. */
static void impossible_times_do_no_harm(void **state)
{
	static const uint8_t values[] = {0x00, 0x01, 0x19, 0x99, 0xff};

	for (unsigned i = 0; i < ARRAY_LEN(values); i++)
		for (unsigned k = 0; k < ARRAY_LEN(values); k++) {
			set(0x0b, 0x82);
			set(7, values[k]);
			set(8, values[k]);
			set(9, values[i]);
			set(0x32, values[k]);
			set(0x0b, 0x02);
			assert_in_range(bcd(get(vm, 8)), 1, 12);
			assert_in_range(bcd(get(vm, 9)), 0, 99);
			assert_in_range(bcd(get(vm, 0x32)), 0, 99);
		}
}

static void a_time_beyond_all_years_is_refused(void **state)
{
	struct buf b = {0};
	struct state_view v;

	assert_int_equal(vm_state_save(vm, &b, NULL), 0);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), 0);
	for (unsigned i = 0; i < v.count; i++)
		if (v.sections[i].id == STATE_RTC)
			memset((uint8_t *)v.sections[i].data + 129, 0x7f, 8);
	assert_int_equal(vm_state_check(vm, b.data, b.len, NULL), -EBADMSG);
	buf_free(&b);
}

static void memory_is_kept_and_the_state_moves(void **state)
{
	struct vm_parts other = parts;
	struct vm *t = double_vm(&other, "", NULL, NULL);
	struct buf b = {0};
	struct error e = {0};

	set(0x40, 0xab);
	set(0x0b, 0x82);
	set(9, 0x40);
	set(0x0b, 0x02);
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_state_save(vm, &b, &e), 0);
	assert_int_equal(vm_resume(vm), 0);
	assert_int_equal(vm_state_load(t, b.data, b.len, &e), 0);
	assert_int_equal(get(t, 0x40), 0xab);
	assert_int_equal(get(t, 9), 0x40);
	assert_in_range(clock_read(t), clock_read(vm) - 1, clock_read(vm) + 1);
	vm_destroy(t);
	buf_free(&b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(it_shows_the_time_of_the_host),
		T(the_formats_agree),
		T(the_guest_sets_it),
		T(impossible_times_do_no_harm),
		T(a_time_beyond_all_years_is_refused),
		T(memory_is_kept_and_the_state_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

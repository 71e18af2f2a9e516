// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/machine.h"

struct fake {
	uint8_t bytes[64];
	unsigned reads, writes, last_size;
	uint64_t last_at;
};

static void fake_read(void *dev, uint64_t at, void *data, unsigned size)
{
	struct fake *f = dev;

	f->reads++;
	f->last_at = at;
	f->last_size = size;
	memcpy(data, f->bytes + at, size);
}

static void fake_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct fake *f = dev;

	f->writes++;
	f->last_at = at;
	f->last_size = size;
	memcpy(f->bytes + at, data, size);
}

static const struct bus_ops fake_ops = {fake_read, fake_write};

static uint64_t bus_get(struct bus *b, uint64_t address, unsigned size)
{
	uint8_t data[8] = {0};
	uint64_t v;

	bus_access(b, address, data, size, false);
	memcpy(&v, data, 8);
	return v;
}

static void bus_set(struct bus *b, uint64_t address, uint64_t v, unsigned size)
{
	bus_access(b, address, (uint8_t *)&v, size, true);
}

static void test_access_reaches_the_range(void **state)
{
	struct bus b = {0};
	struct fake f = {0};

	assert_int_equal(bus_add(&b, 0x100, 16, &fake_ops, &f), 0);
	for (unsigned size = 1; size <= 8; size *= 2) {
		bus_set(&b, 0x108, UINT64_C(0x8877665544332211), size);
		assert_int_equal(f.last_size, size);
		assert_int_equal(f.last_at, 8);
		assert_int_equal(bus_get(&b, 0x108, size),
				 UINT64_C(0x8877665544332211) & (~UINT64_C(0) >> (64 - 8 * size)));
	}
}

static void test_nobody_reads_ones_and_swallows_writes(void **state)
{
	struct bus b = {0};

	bus_set(&b, 0x100, 5, 4);
	assert_int_equal(bus_get(&b, 0x100, 4), 0xffffffff);
	assert_int_equal(bus_get(&b, UINT64_MAX, 1), 0xff);
	assert_int_equal(bus_get(&b, UINT64_MAX - 3, 8), UINT64_MAX);
}

static void test_odd_and_straddling_accesses_are_split(void **state)
{
	struct bus b = {0};
	struct fake f = {.bytes = {1, 2, 3, 4}};

	assert_int_equal(bus_add(&b, 0x100, 4, &fake_ops, &f), 0);
	assert_int_equal(bus_get(&b, 0x101, 3), 0x040302);
	assert_int_equal(f.reads, 3);
	assert_int_equal(f.last_size, 1);
	assert_int_equal(bus_get(&b, 0x102, 4), 0xffff0403);
	bus_set(&b, 0xfe, 0x99887766, 4);
	assert_int_equal(f.bytes[0], 0x88);
	assert_int_equal(f.bytes[1], 0x99);
}

/* As port 0xcf9 in the dword at 0xcf8. */
static void test_the_innermost_range_wins(void **state)
{
	struct bus b = {0};
	struct fake outer = {0}, inner = {0};

	assert_int_equal(bus_add(&b, 0xcf9, 1, &fake_ops, &inner), 0);
	assert_int_equal(bus_add(&b, 0xcf8, 4, &fake_ops, &outer), 0);
	bus_set(&b, 0xcf9, 6, 1);
	bus_set(&b, 0xcf8, 7, 4);
	bus_set(&b, 0xcfa, 8, 1);
	assert_int_equal(inner.writes, 1);
	assert_int_equal(outer.writes, 2);
}

static void test_conflicts_are_refused(void **state)
{
	struct bus b = {0};
	struct fake f = {0};

	assert_int_equal(bus_add(&b, 0x100, 16, &fake_ops, &f), 0);
	assert_int_equal(bus_add(&b, 0x100, 16, &fake_ops, &f), -EEXIST);
	assert_int_equal(bus_add(&b, 0x108, 16, &fake_ops, &f), -EEXIST);
	assert_int_equal(bus_add(&b, 0xf8, 16, &fake_ops, &f), -EEXIST);
	assert_int_equal(bus_add(&b, 0x10f, 8, &fake_ops, &f), -EEXIST);
	assert_int_equal(bus_add(&b, 0x110, 0, &fake_ops, &f), -EINVAL);
	assert_int_equal(bus_add(&b, UINT64_MAX - 3, 8, &fake_ops, &f), -EINVAL);
	assert_int_equal(bus_add(&b, 0x110, 16, &fake_ops, &f), 0);
	assert_int_equal(bus_add(&b, 0x80, 256, &fake_ops, &f), 0);
	assert_int_equal(bus_add(&b, UINT64_MAX - 3, 4, &fake_ops, &f), 0);
	assert_int_equal(b.count, 4);
}

static void test_removed_ranges_are_gone(void **state)
{
	struct bus b = {0};
	struct fake f = {0}, g = {0};

	assert_int_equal(bus_add(&b, 0x100, 16, &fake_ops, &f), 0);
	assert_int_equal(bus_add(&b, 0x200, 16, &fake_ops, &f), 0);
	bus_remove(&b, &g, 0x100);
	bus_remove(&b, &f, 0x300);
	assert_int_equal(b.count, 2);
	bus_remove(&b, &f, 0x100);
	assert_int_equal(bus_get(&b, 0x100, 1), 0xff);
	assert_int_equal(bus_get(&b, 0x200, 1), 0);
}

static void test_a_full_bus_says_so(void **state)
{
	struct bus b = {0};
	struct fake f = {0};

	for (unsigned i = 0; i < BUS_RANGES_MAX; i++)
		assert_int_equal(bus_add(&b, i * 16, 16, &fake_ops, &f), 0);
	assert_int_equal(bus_add(&b, 0x10000, 16, &fake_ops, &f), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_access_reaches_the_range),
		cmocka_unit_test(test_nobody_reads_ones_and_swallows_writes),
		cmocka_unit_test(test_odd_and_straddling_accesses_are_split),
		cmocka_unit_test(test_the_innermost_range_wins),
		cmocka_unit_test(test_conflicts_are_refused),
		cmocka_unit_test(test_removed_ranges_are_gone),
		cmocka_unit_test(test_a_full_bus_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

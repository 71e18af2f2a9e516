// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

#define BITS  331
#define WORDS 6

/* The slow way, bit by bit, decides what is right. */
static void map_random(uint64_t *map)
{
	memset(map, 0, WORDS * 8);
	for (long i = random() % 100; i > 0; i--)
		bitmap_set(map, (uint64_t)random() % (WORDS * 64));
}

static void test_set_range(void **state)
{
	for (int round = 0; round < 20000; round++) {
		uint64_t fast[WORDS], slow[WORDS];
		uint64_t first = (uint64_t)random() % BITS;
		uint64_t count = (uint64_t)random() % (BITS - first + 1);

		map_random(fast);
		memcpy(slow, fast, sizeof(slow));
		bitmap_set_range(fast, first, count);
		for (uint64_t i = first; i < first + count; i++)
			bitmap_set(slow, i);
		assert_memory_equal(fast, slow, sizeof(slow));
	}
}

static void test_merge_and_count_stop_at_the_end(void **state)
{
	for (int round = 0; round < 5000; round++) {
		uint64_t into[WORDS], from[WORDS], slow[WORDS];
		uint64_t bits = (uint64_t)random() % (BITS + 1), n = 0;

		map_random(into);
		map_random(from);
		memcpy(slow, into, sizeof(slow));
		for (uint64_t i = 0; i < bits; i++)
			if (bitmap_test(from, i))
				bitmap_set(slow, i);
		bitmap_merge(into, from, bits);
		assert_memory_equal(into, slow, sizeof(slow));
		for (uint64_t i = 0; i < bits; i++)
			n += bitmap_test(into, i);
		assert_int_equal(bitmap_count(into, bits), n);
	}
}

static void test_next_visits_each_bit_once(void **state)
{
	for (int round = 0; round < 5000; round++) {
		uint64_t map[WORDS];
		uint64_t bits = (uint64_t)random() % (BITS + 1), at = 0;

		map_random(map);
		for (uint64_t i = 0; i < bits; i++) {
			if (!bitmap_test(map, i))
				continue;
			assert_int_equal(bitmap_next(map, bits, at), i);
			at = i + 1;
		}
		assert_int_equal(bitmap_next(map, bits, at), bits);
		assert_int_equal(bitmap_next(map, bits, bits + 1), bits);
	}
}

static void test_single_bits(void **state)
{
	uint64_t map[2] = {0, 0};

	bitmap_set(map, 63);
	bitmap_set(map, 64);
	assert_true(map[0] == UINT64_C(1) << 63 && map[1] == 1);
	bitmap_clear(map, 63);
	assert_false(bitmap_test(map, 63));
	assert_true(bitmap_test(map, 64));
	assert_int_equal(bitmap_words(0), 0);
	assert_int_equal(bitmap_words(64), 1);
	assert_int_equal(bitmap_words(65), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_range),
		cmocka_unit_test(test_merge_and_count_stop_at_the_end),
		cmocka_unit_test(test_next_visits_each_bit_once),
		cmocka_unit_test(test_single_bits),
	};
	unsigned seed = (unsigned)time(NULL);

	print_message("seed %u\n", seed);
	srandom(seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

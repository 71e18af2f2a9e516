// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

static void test_integers_are_little_endian(void **state)
{
	static const uint8_t want[] = {1, 3, 2, 7, 6, 5, 4, 8, 7, 6, 5, 4, 3, 2, 1};
	struct buf b = {0};

	buf_put_u8(&b, 1);
	buf_put_u16(&b, 0x0203);
	buf_put_u32(&b, 0x04050607);
	buf_put_u64(&b, 0x0102030405060708);
	assert_int_equal(buf_check(&b), 0);
	assert_int_equal(b.len, sizeof(want));
	assert_memory_equal(b.data, want, sizeof(want));
	buf_free(&b);
	assert_null(b.data);
}

static void test_patch(void **state)
{
	struct buf b = {0};

	buf_put_u32(&b, 0);
	buf_put_u8(&b, 9);
	buf_patch_u32(&b, 0, 0xaabbccdd);
	assert_int_equal(buf_check(&b), 0);
	assert_int_equal(b.data[0], 0xdd);
	buf_patch_u32(&b, 1, 1);
	assert_int_equal(buf_check(&b), 0);
	buf_patch_u32(&b, 2, 1);
	assert_int_equal(buf_check(&b), -ENOMEM);
	buf_free(&b);
}

static void test_failure_sticks_until_reset(void **state)
{
	struct buf b = {0};

	buf_put_u8(&b, 1);
	assert_null(buf_extend(&b, SIZE_MAX));
	assert_null(buf_extend(&b, SIZE_MAX - 16));
	buf_put_u8(&b, 2);
	assert_int_equal(b.len, 1);
	assert_int_equal(buf_check(&b), -ENOMEM);
	buf_reset(&b);
	buf_put_u8(&b, 3);
	assert_int_equal(buf_check(&b), 0);
	assert_int_equal(b.len, 1);
	assert_int_equal(b.data[0], 3);
	buf_free(&b);
}

static void test_empty_puts(void **state)
{
	struct buf b = {0};

	buf_put(&b, NULL, 0);
	assert_int_equal(buf_check(&b), 0);
	assert_int_equal(b.len, 0);
	buf_free(&b);
}

static void test_reading_past_the_end(void **state)
{
	static const uint8_t bytes[] = {1, 2, 3, 4, 5};
	struct cursor c = cursor_of(bytes, sizeof(bytes));

	assert_int_equal(cursor_u32(&c), 0x04030201);
	assert_int_equal(cursor_finish(&c), -EBADMSG);
	assert_int_equal(cursor_u16(&c), 0);
	assert_true(c.bad);
	/* One byte is still there, but what follows a bad read cannot be trusted. */
	assert_int_equal(cursor_u8(&c), 0);
	assert_null(cursor_take(&c, 0));
	assert_int_equal(cursor_finish(&c), -EBADMSG);
}

static void test_copy_past_the_end_gives_zeros(void **state)
{
	static const uint8_t bytes[] = {1, 2};
	static const uint8_t zeros[4];
	uint8_t out[4] = {9, 9, 9, 9};
	struct cursor c = cursor_of(bytes, sizeof(bytes));

	cursor_copy(&c, out, sizeof(out));
	assert_memory_equal(out, zeros, sizeof(out));
	assert_int_equal(cursor_finish(&c), -EBADMSG);
}

static void test_empty_cursor(void **state)
{
	struct cursor c = cursor_of(NULL, 0);

	cursor_copy(&c, NULL, 0);
	assert_int_equal(cursor_finish(&c), 0);
	assert_null(cursor_take(&c, SIZE_MAX));
	assert_int_equal(cursor_finish(&c), -EBADMSG);
}

/* Random items, written and read back; every truncation is noticed. */
static void test_round_trip(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint64_t values[200];
	struct buf b = {0};
	struct cursor c;

	print_message("seed %u\n", seed);
	srandom(seed);
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		values[i] = (uint64_t)random() << 32 | (uint64_t)random();
		if (i % 2)
			buf_put_u64(&b, values[i]);
		else
			buf_put(&b, &(uint8_t){(uint8_t)values[i]}, 1);
	}
	c = cursor_of(b.data, b.len);
	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		assert_int_equal(i % 2 ? cursor_u64(&c) : cursor_u8(&c),
				 i % 2 ? values[i] : (uint8_t)values[i]);
	assert_int_equal(cursor_finish(&c), 0);
	for (size_t n = 0; n < b.len; n++) {
		c = cursor_of(b.data, n);
		for (size_t i = 0; i < ARRAY_LEN(values); i++)
			(void)(i % 2 ? cursor_u64(&c) : cursor_u8(&c));
		assert_int_equal(cursor_finish(&c), -EBADMSG);
	}
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_integers_are_little_endian),
		cmocka_unit_test(test_patch),
		cmocka_unit_test(test_failure_sticks_until_reset),
		cmocka_unit_test(test_empty_puts),
		cmocka_unit_test(test_reading_past_the_end),
		cmocka_unit_test(test_copy_past_the_end_gives_zeros),
		cmocka_unit_test(test_empty_cursor),
		cmocka_unit_test(test_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

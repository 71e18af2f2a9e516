// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/base.h"

static void test_first_error_is_kept(void **state)
{
	struct error e = {0};

	assert_int_equal(error_set(&e, -EIO, "disk %d", 3), -EIO);
	assert_int_equal(error_set(&e, -ENOMEM, "later"), -ENOMEM);
	assert_int_equal(e.code, -EIO);
	assert_string_equal(e.text, "disk 3");
}

static void test_null_is_allowed(void **state)
{
	assert_int_equal(error_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(error_context(NULL, "x"), 0);
}

static void test_context_comes_first(void **state)
{
	struct error e = {0};

	(void)error_set(&e, -ENOENT, "no kernel");
	assert_int_equal(error_context(&e, "vm %s", "demo"), -ENOENT);
	assert_string_equal(e.text, "vm demo: no kernel");
}

static void test_long_texts_are_cut(void **state)
{
	char long_text[1000];
	struct error e = {0};

	memset(long_text, 'a', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	(void)error_set(&e, -EIO, "%s", long_text);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	(void)error_context(&e, "front");
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_memory_equal(e.text, "front: aaa", 10);
	(void)error_context(&e, "%s", long_text);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_error_is_kept),
		cmocka_unit_test(test_null_is_allowed),
		cmocka_unit_test(test_context_comes_first),
		cmocka_unit_test(test_long_texts_are_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

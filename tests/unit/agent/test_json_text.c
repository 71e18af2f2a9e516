// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/json_text.h"

static void expect_joined(const char *list, size_t room, const char *expected)
{
	json_t *texts = json_loads(list, 0, NULL);
	char *out = malloc(room); /* exactly: what is written beyond is seen */

	assert_non_null(texts);
	assert_non_null(out);
	json_texts_join(texts, ", ", out, room);
	assert_string_equal(out, expected);
	free(out);
	json_decref(texts);
}

static void what_fits_is_joined(void **state)
{
	expect_joined("[]", 1, "");
	expect_joined("[\"one\"]", 40, "one");
	expect_joined("[\"one\", \"two\", \"three\"]", 60, "one, two, three");
	expect_joined("[\"one\", 2, \"three\"]", 60, "one, , three");
}

static void what_does_not_fit_is_counted(void **state)
{
	expect_joined("[\"one\", \"two\", \"three\", \"four\"]", 21, "one, two and 2 more");
	expect_joined("[\"one\", \"a long one that has no room\"]", 32, "one and 1 more");
	expect_joined("[\"one that is cut\", \"two\"]", 15, "one and 1 more");
	expect_joined("[\"one that is cut\"]", 8, "one tha");
}

/* Whatever the lengths and the room: never beyond it, and nothing in silence. */
static void nothing_is_lost_in_silence(void **state)
{
	for (size_t room = 48; room < 200; room++)
		for (size_t count = 1; count < 12; count++) {
			json_t *texts = json_array();
			char *out = malloc(room), rest[32];
			size_t shown = 1;

			assert_non_null(out);
			for (size_t i = 0; i < count; i++)
				json_array_append_new(texts, json_string("feature-name"));
			json_texts_join(texts, ", ", out, room);
			assert_true(strlen(out) < room);
			for (const char *at = out; (at = strstr(at, ", ")); at++)
				shown++;
			snprintf(rest, sizeof(rest), " and %zu more", count - shown);
			assert_true(shown == count ? !strstr(out, " and ") : !!strstr(out, rest));
			free(out);
			json_decref(texts);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_fits_is_joined),
		cmocka_unit_test(what_does_not_fit_is_counted),
		cmocka_unit_test(nothing_is_lost_in_silence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/state.h"

/* Three sections: of 5 octets, of 8, of none. */
static void state_make(struct buf *b)
{
	size_t began = state_start(b), at;

	at = state_section_begin(b, STATE_VCPU, 1, 2, STATE_MANDATORY);
	buf_put(b, "hello", 5);
	state_section_end(b, at);
	at = state_section_begin(b, STATE_PIT, 0, 1, 0);
	buf_put_u64(b, 42);
	state_section_end(b, at);
	at = state_section_begin(b, STATE_VCPU, 0, 2, STATE_MANDATORY);
	state_section_end(b, at);
	assert_int_equal(state_finish(b, began), 0);
}

static void test_what_is_written_is_read(void **state)
{
	const struct state_section *s;
	struct buf b = {0};
	struct state_view v;

	state_make(&b);
	assert_int_equal(b.len, 16 + (16 + 8) + (16 + 8) + 16);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), 0);
	assert_int_equal(v.count, 3);
	s = state_find(&v, STATE_VCPU, 1);
	assert_non_null(s);
	assert_int_equal(s->len, 5);
	assert_memory_equal(s->data, "hello", 5);
	assert_int_equal(s->version, 2);
	assert_int_equal(s->flags, STATE_MANDATORY);
	s = state_find(&v, STATE_VCPU, 0);
	assert_int_equal(s->len, 0);
	assert_null(state_find(&v, STATE_VCPU, 2));
	assert_null(state_find(&v, STATE_PIC, 0));
	buf_free(&b);
}

static void test_it_may_stand_behind_other_bytes(void **state)
{
	struct buf b = {0};
	struct state_view v;

	buf_put(&b, "abc", 3);
	state_make(&b);
	assert_int_equal(state_open(b.data + 3, b.len - 3, &v, NULL), 0);
	assert_int_equal(v.count, 3);
	buf_free(&b);
}

static void test_truncation_at_each_octet_is_refused(void **state)
{
	struct buf b = {0};
	struct state_view v;

	state_make(&b);
	for (size_t n = 0; n < b.len; n++) {
		uint8_t *exact = malloc(n + 1);
		struct error e = {0};

		memcpy(exact, b.data, n);
		assert_int_equal(state_open(exact, n, &v, &e), -EBADMSG);
		assert_true(e.text[0]);
		free(exact);
	}
	buf_free(&b);
}

/* Also where the total agrees with what is left. */
static void test_truncation_with_a_right_total_is_refused(void **state)
{
	struct buf b = {0};
	struct state_view v;

	state_make(&b);
	for (size_t n = 16; n < b.len; n++) {
		uint8_t *exact = malloc(n);

		memcpy(exact, b.data, n);
		memcpy(exact + 12, &(uint32_t){(uint32_t)n}, 4);
		assert_int_equal(state_open(exact, n, &v, NULL), -EBADMSG);
		free(exact);
	}
	buf_free(&b);
}

static void test_each_wrong_field_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
		int rc;
		const char *why;
	} cases[] = {
		{0, 'Q', -EBADMSG, "magic"},
		{4, 9, -EPROTONOSUPPORT, "version"},
		{6, 1, -EBADMSG, "reserved"},
		{8, 2, -EBADMSG, "after the last"},
		{8, 4, -EBADMSG, "cut off"},
		{9, 1, -EBADMSG, "at most"},
		{12, 1, -EBADMSG, "says"},
		{16 + 6, 3, -EBADMSG, "reserved"},  /* flags */
		{16 + 8, 200, -EBADMSG, "cut off"}, /* length */
		{16 + 11, 255, -EBADMSG, "cut off"},
		{16 + 12, 1, -EBADMSG, "reserved"},
		{16 + 16 + 5, 1, -EBADMSG, "padding"},
		{64 + 2, 1, -EBADMSG, "twice"}, /* the third becomes instance 1 */
	};
	struct buf b = {0};
	struct state_view v;

	state_make(&b);
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t was = b.data[cases[i].at];
		struct error e = {0};
		int rc;

		b.data[cases[i].at] = cases[i].value;
		rc = state_open(b.data, b.len, &v, &e);
		if (rc != cases[i].rc || !strstr(e.text, cases[i].why))
			fail_msg("case %u: %d %s", i, rc, e.text);
		b.data[cases[i].at] = was;
	}
	assert_int_equal(state_open(b.data, b.len, &v, NULL), 0);
	buf_free(&b);
}

static void test_a_trailing_octet_is_refused(void **state)
{
	struct buf b = {0};
	struct state_view v;

	state_make(&b);
	buf_put_u8(&b, 0);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), -EBADMSG);
	buf_patch_u32(&b, 12, (uint32_t)b.len);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), -EBADMSG);
	buf_free(&b);
}

static void test_too_many_sections_are_refused(void **state)
{
	struct buf b = {0};
	struct state_view v;
	size_t began = state_start(&b);

	for (unsigned i = 0; i <= STATE_SECTIONS_MAX; i++)
		state_section_end(&b, state_section_begin(&b, 99, (uint16_t)i, 1, 0));
	assert_int_equal(state_finish(&b, began), 0);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), -EBADMSG);
	buf_free(&b);
}

static void test_a_failed_buffer_is_reported(void **state)
{
	struct buf b = {0};
	size_t began = state_start(&b), at = state_section_begin(&b, 1, 0, 1, 0);

	b.failed = true;
	state_section_end(&b, at);
	assert_int_equal(state_finish(&b, began), -ENOMEM);
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_read),
		cmocka_unit_test(test_it_may_stand_behind_other_bytes),
		cmocka_unit_test(test_truncation_at_each_octet_is_refused),
		cmocka_unit_test(test_truncation_with_a_right_total_is_refused),
		cmocka_unit_test(test_each_wrong_field_is_refused),
		cmocka_unit_test(test_a_trailing_octet_is_refused),
		cmocka_unit_test(test_too_many_sections_are_refused),
		cmocka_unit_test(test_a_failed_buffer_is_reported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

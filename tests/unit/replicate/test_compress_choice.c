// SPDX-License-Identifier: Apache-2.0
/* Whether to compress: streams as they would be, played window by window. */
#include "replicate/compress_choice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* ns a byte: to encode by either way, to hand over, and of the link; lz4's ratio. */
struct stream {
	double plain, lz4, send, link, ratio;
};

static double takes(const struct stream *s, enum page_compression way)
{
	double encode = way == COMPRESS_NONE ? s->plain : s->lz4;
	double ratio = way == COMPRESS_NONE ? 1 : s->ratio;
	double thread = encode + s->send * ratio, link = s->link * ratio;

	return thread > link ? thread : link;
}

static void window_play(const struct stream *s, struct compress_choice *c, double noise)
{
	double ratio = c->way == COMPRESS_NONE ? 1 : s->ratio;
	double encode = (c->way == COMPRESS_NONE ? s->plain : s->lz4) * noise;
	double common = s->plain < encode ? s->plain : encode;
	double all = takes(s, c->way), thread = encode + s->send * ratio;
	double wait = all > thread ? all - thread : 0;
	struct choice_window w = {.body = CHOICE_WINDOW,
				  .wire = (uint64_t)(ratio * CHOICE_WINDOW),
				  .encode_ns = (uint64_t)(common * CHOICE_WINDOW),
				  .pack_ns = (uint64_t)((encode - common) * CHOICE_WINDOW),
				  .send_ns = (uint64_t)((s->send * ratio + wait) * CHOICE_WINDOW),
				  .wait_ns = (uint64_t)(wait * CHOICE_WINDOW)};

	compress_choice_next(c, &w, true);
}

/* Windows that were not by `way`, of `count`. */
static unsigned play(const struct stream *s, struct compress_choice *c, unsigned count,
		     enum page_compression way)
{
	unsigned others = 0;

	for (unsigned i = 0; i < count; i++) {
		others += c->way != way;
		window_play(s, c, 1);
	}
	return others;
}

static void settles(const struct stream *s, enum page_compression way)
{
	struct compress_choice c;
	unsigned others;

	compress_choice_setup(&c);
	play(s, &c, 4, way);
	assert_int_equal(c.settled, way);
	others = play(s, &c, 1000, way);
	assert_int_equal(c.settled, way);
	/* To try again costs little. */
	assert_in_range(others, 1, 12);
}

static const struct stream fast_link = {.plain = 0.1, .lz4 = 1.0, .send = 0.6, .ratio = 0.5};

static void test_fast_link(void **state)
{
	settles(&fast_link, COMPRESS_NONE); /* 0.7 against 1.3 */
}

static void test_slow_link(void **state)
{
	struct stream s = fast_link;

	s.link = 10; /* 100 MB/s */
	settles(&s, COMPRESS_LZ4);
}

/* With compression the link is not what takes the time: that it would without is remembered. */
static void test_link_between(void **state)
{
	struct stream s = fast_link;

	s.link = 2; /* 2 against 1.3 */
	settles(&s, COMPRESS_LZ4);
}

/* Cheap to pack, and much smaller: worth it on any link. */
static void test_packs_well(void **state)
{
	struct stream s = {.plain = 0.1, .lz4 = 0.3, .send = 1.0, .ratio = 0.1};

	settles(&s, COMPRESS_LZ4);
}

/* What does not get smaller is as dear as without: whichever comes first stays. */
static void test_incompressible(void **state)
{
	struct stream s = {.plain = 0.1, .lz4 = 0.12, .send = 0.6, .ratio = 1.0};
	struct compress_choice c;
	unsigned changes = 0;

	compress_choice_setup(&c);
	for (unsigned i = 0; i < 1000; i++) {
		enum page_compression was = c.settled;

		window_play(&s, &c, 1);
		changes += c.settled != was;
	}
	assert_int_equal(changes, 0);
}

static void test_link_changes(void **state)
{
	struct stream s = fast_link;
	struct compress_choice c;

	compress_choice_setup(&c);
	play(&s, &c, 100, COMPRESS_NONE);
	assert_int_equal(c.settled, COMPRESS_NONE);
	s.link = 10; /* seen at once: it waits now */
	play(&s, &c, 2, COMPRESS_LZ4);
	assert_int_equal(c.settled, COMPRESS_LZ4);
	s.link = 0; /* seen by the next trial */
	play(&s, &c, 2 * 256, COMPRESS_NONE);
	assert_int_equal(c.settled, COMPRESS_NONE);
}

static void test_content_changes(void **state)
{
	struct stream s = {.plain = 0.1, .lz4 = 1.0, .send = 0.6, .link = 4, .ratio = 1.0};
	struct compress_choice c;

	compress_choice_setup(&c);
	play(&s, &c, 100, COMPRESS_NONE);
	s.ratio = 0.3;
	play(&s, &c, 2 * 256, COMPRESS_LZ4);
	assert_int_equal(c.settled, COMPRESS_LZ4);
}

/* Measurements jitter: that alone moves nothing back and forth. */
static void test_noise(void **state)
{
	struct stream s = {.plain = 0.1, .lz4 = 0.45, .send = 0.6, .ratio = 0.4}; /* 0.7, 0.69 */
	unsigned seed = 20261121, changes = 0;
	struct compress_choice c;

	compress_choice_setup(&c);
	for (unsigned i = 0; i < 2000; i++) {
		enum page_compression was = c.settled;

		seed = seed * 1103515245 + 12345;
		window_play(&s, &c, 0.96 + (seed >> 16 & 255) / 255.0 * 0.08);
		changes += c.settled != was;
	}
	assert_in_range(changes, 0, 1);
}

/* Where no time may be spent on it, nothing is tried. */
static void test_not_steady(void **state)
{
	struct choice_window w = {.body = CHOICE_WINDOW,
				  .wire = CHOICE_WINDOW / 2,
				  .encode_ns = 4 << 20,
				  .send_ns = 2 << 20};
	struct compress_choice c;

	compress_choice_setup(&c);
	for (unsigned i = 0; i < 100; i++) {
		compress_choice_next(&c, &w, false);
		assert_int_equal(c.way, COMPRESS_LZ4);
	}
	compress_choice_next(&c, &w, true);
	assert_int_equal(c.way, COMPRESS_NONE);
}

/* Windows of zeros take long to look through for the few bytes that they give: by either way. */
static void test_zeros_come_first(void **state)
{
	struct stream s = {.plain = 0.1, .lz4 = 0.3, .send = 1.0, .ratio = 0.1};
	struct stream zeros = {.plain = 50, .lz4 = 50.2, .send = 1.0, .ratio = 0.1};
	struct compress_choice c;

	compress_choice_setup(&c);
	window_play(&zeros, &c, 1);
	assert_int_equal(c.way, COMPRESS_NONE);
	window_play(&s, &c, 1);
	assert_int_equal(c.settled, COMPRESS_LZ4);
	play(&s, &c, 100, COMPRESS_LZ4);
	assert_int_equal(c.settled, COMPRESS_LZ4);
}

static void test_nothing(void **state)
{
	struct compress_choice c;

	compress_choice_setup(&c);
	compress_choice_next(&c, &(struct choice_window){0}, true);
	compress_choice_next(&c, &(struct choice_window){.body = 1, .wire = 1}, true);
	compress_choice_next(&c, &(struct choice_window){.body = 1, .wire = 1, .wait_ns = 9}, true);
	assert_true(c.way == COMPRESS_NONE || c.way == COMPRESS_LZ4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fast_link),        cmocka_unit_test(test_slow_link),
		cmocka_unit_test(test_link_between),     cmocka_unit_test(test_packs_well),
		cmocka_unit_test(test_incompressible),   cmocka_unit_test(test_link_changes),
		cmocka_unit_test(test_content_changes),  cmocka_unit_test(test_noise),
		cmocka_unit_test(test_not_steady),       cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_zeros_come_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* What a postcopy source sends next, and what a target still waits for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "migrate/page_wants.h"
#include "migrate/push_plan.h"

#define PAGES 200u /* no multiple of 64 */
#define WORDS 4u

static unsigned seed;

static void plan_make(struct push_plan *p, const uint64_t *missing)
{
	assert_int_equal(push_plan_init(p, PAGES), 0);
	push_plan_switch(p, missing);
	push_plan_link(p);
}

/* The list is whole, and the push may begin. */
static void plan_listed(struct push_plan *p, const uint64_t *missing)
{
	struct error e = {0};

	if (push_plan_missing(p, 0, missing, WORDS, &e) || push_plan_go(p, &e))
		fail_msg("%s", e.text);
}

static void all_but(uint64_t *map)
{
	memset(map, 0, WORDS * sizeof(*map));
	bitmap_set_range(map, 0, PAGES);
}

/* ---- order --------------------------------------------------------------------------- */

static void test_nothing_before_go(void **state)
{
	uint64_t map[WORDS], pages[8];
	struct push_plan p;

	all_but(map);
	plan_make(&p, map);
	assert_int_equal(push_plan_take(&p, pages, 8), 0);
	assert_int_equal(push_plan_missing(&p, 0, map, WORDS, NULL), 0);
	assert_int_equal(push_plan_take(&p, pages, 8), 0);
	/* What is waited for does not wait for that. */
	assert_int_equal(push_plan_need(&p, (uint64_t[]){77}, 1, NULL), 0);
	assert_int_equal(push_plan_take_asked(&p, pages, 8), 1);
	assert_int_equal(pages[0], 77);
	assert_int_equal(push_plan_go(&p, NULL), 0);
	assert_int_equal(push_plan_take(&p, pages, 8), 8);
	push_plan_free(&p);
}

/* Behind the page asked for last, to the end, then from the beginning; none twice. */
static void test_locality(void **state)
{
	uint64_t map[WORDS], pages[PAGES], next = 151;
	struct push_plan p;

	all_but(map);
	plan_make(&p, map);
	plan_listed(&p, map);
	assert_int_equal(push_plan_take(&p, pages, 3), 3);
	assert_int_equal(pages[2], 2);
	assert_int_equal(push_plan_need(&p, (uint64_t[]){20, 150}, 2, NULL), 0);
	assert_int_equal(push_plan_take(&p, pages, PAGES), PAGES - 5);
	for (unsigned i = 0; i < PAGES - 5; i++, next++) {
		next = next == PAGES ? 3 : next == 20 ? 21 : next;
		assert_int_equal(pages[i], next);
	}
	assert_int_equal(push_plan_take_asked(&p, pages, 1), 1);
	assert_int_equal(pages[0], 20);
	assert_int_equal(push_plan_take_asked(&p, pages, PAGES), 1);
	assert_int_equal(push_plan_take_asked(&p, pages, PAGES), 0);
	assert_int_equal(p.left + p.count, 0);
	push_plan_free(&p);
}

static void test_asked_again(void **state)
{
	const uint64_t twice[] = {9, 9, 8, 9};
	uint64_t map[WORDS], pages[PAGES];
	struct push_plan p;

	all_but(map);
	plan_make(&p, map);
	plan_listed(&p, map);
	assert_int_equal(push_plan_take(&p, pages, PAGES), PAGES);
	assert_int_equal(push_plan_need(&p, twice, 4, NULL), 0);
	assert_int_equal(push_plan_take_asked(&p, pages, PAGES), 2);
	assert_int_equal(pages[0], 9);
	assert_int_equal(pages[1], 8);
	assert_int_equal(push_plan_take(&p, pages, PAGES), 0);
	push_plan_free(&p);
}

/* ---- what cannot be -------------------------------------------------------------------- */

static void test_bad_lists(void **state)
{
	uint64_t map[WORDS] = {5, 0, 0, 1}, beyond = UINT64_C(1) << (PAGES % 64), one = 1;
	struct push_plan p;

	plan_make(&p, map);
	assert_int_equal(push_plan_missing(&p, 1, map, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 256, map, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, UINT64_MAX - 63, map, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 0, map, 0, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 0, map, WORDS + 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 64, map, WORDS, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 192, &beyond, 1, NULL), -EBADMSG);
	assert_int_equal(p.left, 0);
	assert_int_equal(push_plan_missing(&p, 64, map + 1, 2, NULL), 0);
	assert_int_equal(push_plan_missing(&p, 0, map, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 128, map, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 192, &one, 1, NULL), 0);
	assert_int_equal(push_plan_go(&p, NULL), -EBADMSG); /* pages 0 and 2 */
	push_plan_link(&p);
	plan_listed(&p, map);
	assert_int_equal(push_plan_go(&p, NULL), -EBADMSG);
	assert_int_equal(push_plan_missing(&p, 192, &one, 1, NULL), -EBADMSG);
	assert_int_equal(push_plan_need(&p, (uint64_t[]){0, PAGES}, 2, NULL), -EBADMSG);
	assert_int_equal(push_plan_need(&p, (uint64_t[]){0, 1}, 2, NULL), -EBADMSG);
	assert_int_equal(p.count, 0);
	assert_int_equal(push_plan_all(&p, NULL), -EBADMSG);
	push_plan_free(&p);
}

static void test_a_page_too_much(void **state)
{
	uint64_t map[WORDS] = {5}, more[WORDS] = {7};
	struct push_plan p;
	struct error e = {0};

	plan_make(&p, map);
	assert_int_equal(push_plan_missing(&p, 0, more, WORDS, NULL), 0);
	assert_int_equal(push_plan_go(&p, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "page 1 "));
	push_plan_free(&p);
}

/* ---- both, over links that end at any moment ---------------------------------------------- */

struct trip {
	struct push_plan plan;
	struct page_wants wants;
	uint64_t ways[PAGES]; /* on this link */
	uint64_t asks[PAGES];
};

static void trip_arrive(struct trip *t, const uint64_t *pages, unsigned n, bool lost)
{
	for (unsigned i = 0; i < n; i++) {
		t->ways[pages[i]]++;
		assert_true(t->ways[pages[i]] <= 1 + t->asks[pages[i]]);
		if (!lost)
			page_wants_came(&t->wants, pages[i], 10);
	}
}

static void trip_link(struct trip *t, bool cut)
{
	uint64_t pages[16], turns = cut ? (uint64_t)rand_r(&seed) % 40 : UINT64_MAX;
	unsigned n;

	push_plan_link(&t->plan);
	page_wants_link(&t->wants);
	memset(t->ways, 0, sizeof(t->ways));
	memset(t->asks, 0, sizeof(t->asks));
	assert_int_equal(push_plan_missing(&t->plan, 0, t->wants.missing, WORDS, NULL), 0);
	assert_int_equal(push_plan_go(&t->plan, NULL), 0);
	for (; turns && t->wants.left; turns--) {
		page_wants_fault(&t->wants, (uint64_t)rand_r(&seed) % PAGES, 5);
		n = page_wants_take(&t->wants, pages, 1 + (unsigned)rand_r(&seed) % 3);
		for (unsigned i = 0; i < n; i++)
			t->asks[pages[i]]++;
		assert_int_equal(push_plan_need(&t->plan, pages, n, NULL), 0);
		n = push_plan_take_asked(&t->plan, pages, 2);
		trip_arrive(t, pages, n, turns < 3);
		n = push_plan_take(&t->plan, pages, (unsigned)rand_r(&seed) % 4);
		trip_arrive(t, pages, n, turns < 3);
	}
	assert_int_equal(push_plan_all(&t->plan, NULL) == 0 || t->wants.left, 1);
}

static void test_links_that_end(void **state)
{
	for (unsigned i = 0; i < 300; i++) {
		uint64_t map[WORDS] = {0};
		struct trip t;

		for (unsigned k = 0; k < PAGES; k++)
			if (rand_r(&seed) % 4)
				bitmap_set(map, k);
		map[WORDS - 1] |= ~UINT64_C(0) << PAGES % 64; /* nobody's */
		assert_int_equal(push_plan_init(&t.plan, PAGES), 0);
		assert_int_equal(page_wants_init(&t.wants, PAGES), 0);
		push_plan_switch(&t.plan, map);
		page_wants_start(&t.wants, map);
		for (unsigned k = rand_r(&seed) % 8; k; k--)
			trip_link(&t, true);
		trip_link(&t, false);
		assert_int_equal(t.wants.left, 0);
		assert_int_equal(bitmap_next(t.wants.wanted, PAGES, 0), PAGES);
		assert_int_equal(t.wants.faults + t.wants.pushed, t.wants.total);
		assert_int_equal(t.wants.wait_ns, 5 * t.wants.faults);
		assert_int_equal(t.wants.wait_count, 0);
		assert_int_equal(push_plan_all(&t.plan, NULL), 0);
		push_plan_free(&t.plan);
		page_wants_free(&t.wants);
	}
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void test_waits(void **state)
{
	uint64_t map[WORDS], pages[8];
	struct page_wants w;

	all_but(map);
	bitmap_clear(map, 3);
	assert_int_equal(page_wants_init(&w, PAGES), 0);
	page_wants_start(&w, map);
	page_wants_fault(&w, 3, 100); /* it is there */
	page_wants_fault(&w, 7, 100);
	page_wants_fault(&w, 7, 110);
	page_wants_fault(&w, 9, 120);
	page_wants_came(&w, 9, 150); /* pushed meanwhile */
	assert_int_equal(page_wants_take(&w, pages, 8), 1);
	assert_int_equal(pages[0], 7);
	assert_int_equal(page_wants_take(&w, pages, 8), 0);
	page_wants_link(&w);
	assert_int_equal(page_wants_take(&w, pages, 8), 1);
	assert_int_equal(pages[0], 7);
	page_wants_came(&w, 7, 300);
	page_wants_came(&w, 7, 400);
	page_wants_fault(&w, 7, 500);
	page_wants_came(&w, PAGES, 500);
	page_wants_link(&w);
	assert_int_equal(page_wants_take(&w, pages, 8), 0);
	assert_int_equal(w.left, PAGES - 3);
	assert_int_equal(w.faults, 2);
	assert_int_equal(w.wait_ns, 230);
	assert_int_equal(w.wait_max_ns, 200);
	page_wants_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_before_go),
		cmocka_unit_test(test_locality),
		cmocka_unit_test(test_asked_again),
		cmocka_unit_test(test_bad_lists),
		cmocka_unit_test(test_a_page_too_much),
		cmocka_unit_test(test_links_that_end),
		cmocka_unit_test(test_waits),
	};

	seed = (unsigned)clock_ns();
	print_message("seed %u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

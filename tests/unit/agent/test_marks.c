// SPDX-License-Identifier: Apache-2.0
/* The mark of a file: the same for all who ask within its time, and another one afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "agent/marks.h"

static struct marks *marks;

static int setup(void **state)
{
	return marks_create(&marks);
}

static int teardown(void **state)
{
	marks_destroy(marks);
	return 0;
}

static void mark_at(dev_t dev, ino_t ino, uint64_t now, char out[MARK_LEN + 1])
{
	assert_int_equal(marks_of(marks, dev, ino, now, out), 0);
	assert_int_equal(strlen(out), MARK_LEN);
}

static void test_each_file_has_its_own(void **state)
{
	static const struct {
		dev_t dev;
		ino_t ino;
	} files[] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}};
	char of[ARRAY_LEN(files)][MARK_LEN + 1], again[MARK_LEN + 1];

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		mark_at(files[i].dev, files[i].ino, 5, of[i]);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(of[i], of[k]);
	}
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		mark_at(files[i].dev, files[i].ino, 5, again);
		assert_string_equal(again, of[i]);
	}
}

/* Whoever got it last may wait as long as the first one. */
static void test_kept_while_it_is_asked_for(void **state)
{
	char first[MARK_LEN + 1], next[MARK_LEN + 1];
	uint64_t now = NS_PER_SEC;

	mark_at(1, 1, now, first);
	for (unsigned i = 0; i < 3; i++) {
		now += MARK_KEPT_NS;
		mark_at(1, 1, now, next);
		assert_string_equal(next, first);
	}
	mark_at(1, 1, now - NS_PER_SEC, next); /* this thread was slow */
	assert_string_equal(next, first);
	now += MARK_KEPT_NS;
	mark_at(1, 1, now, next);
	assert_string_equal(next, first);
	mark_at(1, 2, now + MARK_KEPT_NS + 1, next); /* what another file does */
	assert_string_not_equal(next, first);
	mark_at(1, 1, now + MARK_KEPT_NS + 1, next);
	assert_string_not_equal(next, first);
}

#define THREADS 4
#define FILES   64

struct asker {
	pthread_t thread;
	char got[FILES][MARK_LEN + 1];
	int rc;
};

static void *asker_run(void *ctx)
{
	struct asker *a = ctx;

	for (unsigned i = 0; i < FILES && !a->rc; i++)
		a->rc = marks_of(marks, 1, i, 7, a->got[i]);
	return NULL;
}

static void test_threads_agree(void **state)
{
	static struct asker askers[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&askers[i].thread, NULL, asker_run, &askers[i]), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(askers[i].thread, NULL), 0);
		assert_int_equal(askers[i].rc, 0);
	}
	for (unsigned i = 1; i < THREADS; i++)
		assert_memory_equal(askers[i].got, askers[0].got, sizeof(askers[0].got));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_each_file_has_its_own),
		T(test_kept_while_it_is_asked_for),
		T(test_threads_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

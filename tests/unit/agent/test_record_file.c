// SPDX-License-Identifier: Apache-2.0
/* A record through power failures: whatever of a write reached the disk, one of two is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/record_file.h"

#define BLOCK  512u
#define ROUNDS 300u

static char path[64];

static int setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/pollux-record-%d", (int)getpid());
	return 0;
}

static int teardown(void **state)
{
	fault_disarm_all();
	unlink(path);
	return 0;
}

static int store(struct record_file *f, const char *text)
{
	struct error e = {0};
	int rc = record_file_store(f, path, text, strlen(text), &e);

	assert_true(!rc || e.text[0]);
	return rc;
}

/* NULL: none is whole. To be freed. */
static char *read_back(void)
{
	struct error e = {0};
	struct buf b = {0};

	if (record_file_read(path, &b, &e)) {
		assert_true(e.text[0]);
		buf_free(&b);
		return NULL;
	}
	buf_put_u8(&b, 0);
	return (char *)b.data;
}

static void expect(const char *text)
{
	char *got = read_back();

	assert_non_null(got);
	assert_string_equal(got, text);
	free(got);
}

static struct buf file_bytes(void)
{
	struct error e = {0};
	struct buf b = {0};

	assert_int_equal(file_read(path, 1u << 20, &b, &e), 0);
	return b;
}

static void file_set(const uint8_t *data, size_t n)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, n, file), n);
	assert_int_equal(fclose(file), 0);
}

static ino_t file_number(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static void test_slots(void **state)
{
	struct record_file f = {0};
	char text[32];
	ino_t number = 0;

	for (unsigned i = 0; i < 20; i++) {
		snprintf(text, sizeof(text), "{\"term\": %u}", i * 37);
		assert_int_equal(store(&f, text), 0);
		expect(text);
		if (!i)
			number = file_number();
		assert_int_equal(file_number(), number);
	}
}

/* What the disk holds when the power fails: the file of before with a part of the write. */
static void torn_check(struct buf *torn, const struct buf *after, const char *old, const char *new)
{
	char *got;

	file_set(torn->data, torn->len);
	got = read_back();
	assert_non_null(got);
	assert_string_equal(got, memcmp(torn->data, after->data, torn->len) ? old : new);
	free(got);
}

static void test_torn_at_each_octet(void **state)
{
	const char *texts[] = {"{\"term\": 1, \"role\": \"owner\"}",
			       "{\"term\": 2, \"role\": \"released\"}", "{\"term\": 3}",
			       "{\"term\": 4, \"role\": \"a longer one than those before it\"}"};
	struct record_file f = {0};

	assert_int_equal(store(&f, texts[0]), 0);
	for (size_t i = 1; i < ARRAY_LEN(texts); i++) {
		struct buf before = file_bytes(), after;

		assert_int_equal(store(&f, texts[i]), 0);
		after = file_bytes();
		assert_int_equal(before.len, after.len);
		for (size_t at = 0; at < after.len; at++) {
			if (before.data[at] == after.data[at])
				continue;
			before.data[at] = after.data[at];
			torn_check(&before, &after, texts[i - 1], texts[i]);
		}
		file_set(after.data, after.len);
		buf_free(&before);
		buf_free(&after);
	}
}

/* Blocks reach a disk in any order, and one may be garbage. */
static void test_torn_blocks(void **state)
{
	struct timespec now;
	struct record_file f = {0};
	char text[2][3000];
	unsigned seed;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = (unsigned)now.tv_nsec;
	print_message("seed %u\n", seed);
	memset(text, 'x', sizeof(text));
	snprintf(text[0], sizeof(text[0]), "%2999u", 0u);
	assert_int_equal(store(&f, text[0]), 0);
	for (unsigned i = 1; i < ROUNDS; i++) {
		char *new = text[i % 2], *old = text[!(i % 2)];
		struct buf before = file_bytes(), after;
		size_t block;

		snprintf(new, sizeof(text[0]), "%*u", 500 + rand_r(&seed) % 2000, i);
		assert_int_equal(store(&f, new), 0);
		after = file_bytes();
		for (block = 0; block < after.len / BLOCK; block++)
			if (rand_r(&seed) % 2)
				memcpy(before.data + block * BLOCK, after.data + block * BLOCK,
				       BLOCK);
		block = rand_r(&seed) % (after.len / BLOCK);
		if (memcmp(before.data + block * BLOCK, after.data + block * BLOCK, BLOCK))
			memset(before.data + block * BLOCK, rand_r(&seed), BLOCK);
		torn_check(&before, &after, old, new);
		file_set(after.data, after.len);
		buf_free(&before);
		buf_free(&after);
	}
}

/* What it left behind is not known: the other slot must not be risked for the next one. */
static void test_after_a_failure(void **state)
{
	static const char *const points[] = {"record.write", "record.sync"};

	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		struct record_file f = {0};
		char *got;
		ino_t number;

		assert_int_equal(store(&f, "one"), 0);
		assert_int_equal(store(&f, "two"), 0);
		number = file_number();
		fault_arm(points[i], 1, EIO);
		assert_int_equal(store(&f, "three"), -EIO);
		got = read_back();
		assert_true(!strcmp(got, "two") || !strcmp(got, "three"));
		free(got);
		fault_arm("file.replace.rename", 1, EIO);
		assert_int_equal(store(&f, "four"), -EIO);
		assert_int_equal(store(&f, "five"), 0);
		assert_int_not_equal(file_number(), number);
		expect("five");
		assert_int_equal(store(&f, "six"), 0);
		expect("six");
	}
}

static void test_grows(void **state)
{
	static const size_t sizes[] = {1, 4000, 4032, 4033, 8128, 8129, 65536, RECORD_FILE_TEXT};
	struct record_file f = {0};
	char *text = malloc(RECORD_FILE_TEXT + 2);

	memset(text, 'a', RECORD_FILE_TEXT + 1);
	text[RECORD_FILE_TEXT + 1] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		text[sizes[i]] = '\0';
		assert_int_equal(store(&f, text), 0);
		expect(text);
		text[sizes[i]] = 'a';
	}
	assert_int_equal(store(&f, text), -EFBIG);
	text[RECORD_FILE_TEXT] = '\0';
	expect(text);
	free(text);
}

/* Whatever is found in its place is not written into. */
static void test_another_file(void **state)
{
	struct record_file f = {0}, other = {0};

	assert_int_equal(store(&f, "one"), 0);
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(store(&other, "another process"), 0);
	assert_int_equal(store(&f, "two"), 0);
	expect("two");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(store(&f, "three"), 0);
	expect("three");
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(store(&f, "four"), 0);
	expect("four");
}

static void test_of_before(void **state)
{
	struct record_file f = {0};

	file_set((const uint8_t *)"{\"term\": 7}", 11);
	expect("{\"term\": 7}");
	assert_int_equal(store(&f, "{\"term\": 8}"), 0);
	expect("{\"term\": 8}");
}

static void test_damaged(void **state)
{
	struct record_file f = {0};
	struct buf b;
	char *got;

	assert_int_equal(store(&f, "one"), 0);
	b = file_bytes();
	for (size_t n = 0; n < b.len; n += 61) {
		file_set(b.data, n);
		got = read_back();
		assert_true(!got || !strcmp(got, "one"));
		free(got);
	}
	b.data[RECORD_FILE_HEAD] ^= 1;
	file_set(b.data, b.len);
	assert_null(read_back());
	buf_free(&b);
}

#define RECORD(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RECORD(test_slots),       RECORD(test_torn_at_each_octet),
		RECORD(test_torn_blocks), RECORD(test_after_a_failure),
		RECORD(test_grows),       RECORD(test_another_file),
		RECORD(test_of_before),   RECORD(test_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

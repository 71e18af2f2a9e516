// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/memory.h"

#define MIB UINT64_C(0x100000)
#define GIB UINT64_C(0x40000000)

static void memory_make(struct memory *m, uint64_t size)
{
	struct error e = {0};

	if (memory_create(m, size, &e))
		fail_msg("%s", e.text);
}

static void test_small_memory_is_one_region(void **state)
{
	struct memory_region r[2];
	struct memory m;

	memory_make(&m, 4 * MIB);
	assert_int_equal(memory_regions(&m, r), 1);
	assert_int_equal(r[0].gpa, 0);
	assert_int_equal(r[0].size, 4 * MIB);
	assert_ptr_equal(memory_at(&m, 0, 4 * MIB), m.base);
	assert_ptr_equal(memory_at(&m, 4 * MIB - 1, 1), m.base + 4 * MIB - 1);
	assert_null(memory_at(&m, 4 * MIB - 1, 2));
	assert_null(memory_at(&m, 4 * MIB, 1));
	assert_null(memory_at(&m, 1, UINT64_MAX));
	assert_null(memory_at(&m, UINT64_MAX, 1));
	assert_null(memory_at(&m, UINT64_MAX, UINT64_MAX));
	memory_destroy(&m);
}

static void test_large_memory_leaves_out_the_hole(void **state)
{
	struct memory_region r[2];
	struct memory m;
	uint64_t v = 0x1122334455667788, got = 0;

	memory_make(&m, 6 * GIB); /* sparse: only what is touched is there */
	assert_int_equal(memory_regions(&m, r), 2);
	assert_int_equal(r[0].size, 3 * GIB);
	assert_int_equal(r[1].gpa, 4 * GIB);
	assert_int_equal(r[1].offset, 3 * GIB);
	assert_int_equal(r[1].size, 3 * GIB);
	assert_null(memory_at(&m, 3 * GIB, 1));
	assert_null(memory_at(&m, 3 * GIB - 1, 2));
	assert_null(memory_at(&m, 4 * GIB - 1, 2));
	assert_ptr_equal(memory_at(&m, 4 * GIB, 8), m.base + 3 * GIB);
	assert_non_null(memory_at(&m, 7 * GIB - 8, 8));
	assert_null(memory_at(&m, 7 * GIB - 8, 9));
	assert_int_equal(memory_write(&m, 5 * GIB + 4, &v, 8), 0);
	assert_int_equal(memory_read(&m, 5 * GIB + 4, &got, 8), 0);
	assert_int_equal(got, v);
	assert_memory_equal(m.base + 4 * GIB + 4, &v, 8);
	assert_int_equal(memory_write(&m, 3 * GIB + 4, &v, 8), -EFAULT);
	assert_int_equal(memory_read(&m, 3 * GIB + 4, &got, 8), -EFAULT);
	memory_destroy(&m);
}

static void test_wrong_sizes_are_refused(void **state)
{
	static const uint64_t sizes[] = {0, 1, 4096, 4 * MIB + 4096, UINT64_MAX};
	struct error e = {0};
	struct memory m;

	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++)
		assert_int_equal(memory_create(&m, sizes[i], &e), -EINVAL);
	assert_int_not_equal(memory_create(&m, UINT64_C(1) << 62, &e), 0);
}

/* A file that shrank would raise SIGBUS in whoever maps it. */
static void test_the_file_is_sealed(void **state)
{
	struct memory m;

	memory_make(&m, 2 * MIB);
	assert_int_equal(ftruncate(m.fd, 4096), -1);
	assert_int_equal(ftruncate(m.fd, 4 * (off_t)MIB), -1);
	assert_true(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(m.fd, F_GET_SEALS) & F_SEAL_SEAL);
	memory_destroy(&m);
}

/* Two maps of one memory, which lasts as long as either. */
static void test_memory_is_passed_on(void **state)
{
	struct memory m, next;
	struct error e = {0};
	uint32_t v = 7;

	memory_make(&m, 2 * MIB);
	assert_int_equal(memory_open(&next, &(struct memory_want){.size = 2 * MIB, .fd = m.fd}, &e),
			 0);
	assert_int_equal(memory_write(&m, MIB, &v, sizeof(v)), 0);
	memory_destroy(&m);
	v = 0;
	assert_int_equal(memory_read(&next, MIB, &v, sizeof(v)), 0);
	assert_int_equal(v, 7);
	memory_destroy(&next);
}

static void test_foreign_memory_is_refused(void **state)
{
	int plain = memfd_create("plain", MFD_ALLOW_SEALING), file = open("/dev/zero", O_RDWR);
	struct memory m, next;
	struct error e = {0};

	assert_int_equal(ftruncate(plain, 2 * (off_t)MIB), 0);
	assert_int_equal(
		memory_open(&next, &(struct memory_want){.size = 2 * MIB, .fd = plain}, &e),
		-EINVAL);
	assert_int_equal(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(
		memory_open(&next, &(struct memory_want){.size = 2 * MIB, .fd = plain}, &e),
		-EINVAL);
	assert_int_equal(memory_open(&next, &(struct memory_want){.size = 2 * MIB, .fd = file}, &e),
			 -EINVAL);
	memory_make(&m, 2 * MIB);
	e = (struct error){0};
	assert_int_equal(memory_open(&next, &(struct memory_want){.size = 4 * MIB, .fd = m.fd}, &e),
			 -EINVAL);
	assert_non_null(strstr(e.text, "2097152 bytes in place of 4194304"));
	memory_destroy(&m);
	close(plain);
	close(file);
}

static void test_huge_pages_are_had_at_once_or_not_at_all(void **state)
{
	struct memory m;
	struct error e = {0};

	assert_int_equal(memory_open(&m, &(struct memory_want){.size = MIB, .huge = true}, &e),
			 -EINVAL);
	e = (struct error){0};
	assert_int_equal(
		memory_open(&m, &(struct memory_want){.size = UINT64_C(1) << 42, .huge = true}, &e),
		-ENOMEM);
	assert_non_null(strstr(e.text, "2097152 free huge pages"));
}

static void test_marks_cover_the_pages_touched(void **state)
{
	uint64_t map[8] = {0};
	struct memory m;

	memory_make(&m, 2 * MIB);
	memory_mark(&m, 0, 0);
	memory_mark(&m, 4095, 1);
	memory_mark(&m, 2 * 4096 - 1, 2);
	memory_mark(&m, 70 * 4096, 3 * 4096);
	memory_mark(&m, 2 * MIB - 1, 1);
	memory_mark(&m, 2 * MIB - 1, 2); /* not RAM as a whole: nothing was written */
	memory_mark(&m, 5 * MIB, 1);
	memory_harvest(&m, map);
	assert_int_equal(map[0], 7);
	assert_int_equal(map[1], (UINT64_C(7) << 6));
	assert_int_equal(map[7], UINT64_C(1) << 63);
	assert_int_equal(bitmap_count(map, 512), 7);
	memory_harvest(&m, map); /* destructive, and ORs */
	assert_int_equal(bitmap_count(map, 512), 7);
	memset(map, 0, sizeof(map));
	memory_mark(&m, 4096, 1);
	memory_harvest(&m, NULL);
	memory_harvest(&m, map);
	assert_int_equal(bitmap_count(map, 512), 0);
	memory_destroy(&m);
}

#define ROUNDS 3000u

struct writer {
	struct memory *m;
	unsigned first;
	pthread_barrier_t *barrier;
	atomic_uint *writing;
};

/* Each round, each of the writer's own pages gets the round's number. */
static void *writer_run(void *ctx)
{
	struct writer *w = ctx;

	for (uint64_t round = 1; round <= ROUNDS; round++) {
		pthread_barrier_wait(w->barrier);
		for (uint64_t page = w->first; page < w->first + 32; page++) {
			uint64_t *at = memory_at(w->m, page * 4096, 8);

			__atomic_store_n(at, round, __ATOMIC_RELEASE);
			memory_mark(w->m, page * 4096, 8);
		}
		atomic_fetch_sub(w->writing, 1);
	}
	return NULL;
}

static void harvest_copy(struct memory *m, uint64_t *copy)
{
	uint64_t map[8] = {0};

	memory_harvest(m, map);
	for (uint64_t p = bitmap_next(map, 64, 0); p < 64; p = bitmap_next(map, 64, p + 1))
		copy[p] = __atomic_load_n((uint64_t *)(m->base + p * 4096), __ATOMIC_ACQUIRE);
}

/* A lost mark leaves a page of the copy in an earlier round. */
static void test_no_mark_is_lost_to_a_concurrent_harvest(void **state)
{
	pthread_barrier_t barrier;
	uint64_t copy[64] = {0};
	atomic_uint writing = 0;
	struct writer w[2];
	pthread_t t[2];
	struct memory m;

	memory_make(&m, 2 * MIB);
	pthread_barrier_init(&barrier, NULL, 3);
	for (unsigned i = 0; i < 2; i++) {
		w[i] = (struct writer){&m, i * 32, &barrier, &writing};
		assert_int_equal(thread_start(&t[i], "writer", writer_run, &w[i]), 0);
	}
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		atomic_store(&writing, 2);
		pthread_barrier_wait(&barrier);
		while (atomic_load(&writing))
			harvest_copy(&m, copy);
		harvest_copy(&m, copy);
		for (unsigned p = 0; p < 64; p++)
			assert_int_equal(copy[p], round);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	pthread_barrier_destroy(&barrier);
	memory_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_memory_is_one_region),
		cmocka_unit_test(test_large_memory_leaves_out_the_hole),
		cmocka_unit_test(test_wrong_sizes_are_refused),
		cmocka_unit_test(test_the_file_is_sealed),
		cmocka_unit_test(test_memory_is_passed_on),
		cmocka_unit_test(test_foreign_memory_is_refused),
		cmocka_unit_test(test_huge_pages_are_had_at_once_or_not_at_all),
		cmocka_unit_test(test_marks_cover_the_pages_touched),
		cmocka_unit_test(test_no_mark_is_lost_to_a_concurrent_harvest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

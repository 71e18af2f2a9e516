// SPDX-License-Identifier: Apache-2.0
/*
 * Every page of a job arrives, whatever its size, and nothing beyond it is touched. Threads
 * of the test help in the place of vCPUs, which it does not need.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicate/copier.h"

#define RAM_PAGES 6000u
#define GUARD     0xa5

struct memory {
	uint8_t *ram, *to;
	uint64_t *pages;
	uint64_t seed;
	struct loop *io;
	struct vm *vm;
};

static uint64_t random_next(struct memory *m)
{
	m->seed = m->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return m->seed >> 33;
}

static void ram_fill(struct memory *m)
{
	for (uint64_t page = 0; page < RAM_PAGES; page++) {
		uint64_t *words = (uint64_t *)(m->ram + page * VM_PAGE_SIZE);

		words[0] = page;
		words[1 + random_next(m) % 510] = random_next(m);
		words[511] = ~page;
	}
}

static void on_event(void *ctx, enum vm_event event, const char *detail)
{
}

/* One without threads. */
static void vm_make(struct memory *m)
{
	struct vm_config c = {.name = "copier", .memory = 1 << 20, .vcpus = 1, .engine = "sim"};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = on_event};

	assert_int_equal(loop_create(&m->io), 0);
	parts.io = m->io;
	assert_int_equal(vm_create(&c, &parts, &m->vm, NULL), 0);
}

static int setup(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));
	const char *given = getenv("SEED");

	assert_non_null(m);
	m->seed =
		given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 16 | (uint64_t)getpid();
	print_message("SEED=%llu\n", (unsigned long long)m->seed);
	m->ram = aligned_alloc(VM_PAGE_SIZE, (size_t)RAM_PAGES * VM_PAGE_SIZE);
	m->to = aligned_alloc(VM_PAGE_SIZE, (size_t)(RAM_PAGES + 1) * VM_PAGE_SIZE);
	m->pages = calloc(RAM_PAGES, sizeof(*m->pages));
	assert_true(m->ram && m->to && m->pages);
	memset(m->ram, 0, (size_t)RAM_PAGES * VM_PAGE_SIZE);
	ram_fill(m);
	vm_make(m);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct memory *m = *state;

	vm_destroy(m->vm);
	loop_destroy(m->io);
	free(m->ram);
	free(m->to);
	free(m->pages);
	free(m);
	return 0;
}

#define HELPERS 3u

static void *helper_main(void *copier)
{
	copier_help(copier);
	return NULL;
}

static void job_begin(struct memory *m, struct copier *c, uint64_t count)
{
	struct copy_job job = {.to = m->to, .ram = m->ram, .pages = m->pages, .count = count};

	for (uint64_t i = 0; i < count; i++)
		m->pages[i] = random_next(m) % RAM_PAGES;
	memset(m->to, GUARD, (size_t)(count + 1) * VM_PAGE_SIZE);
	copier_start(c, &job);
}

static void job_check(struct memory *m, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		assert_memory_equal(m->to + i * VM_PAGE_SIZE, m->ram + m->pages[i] * VM_PAGE_SIZE,
				    VM_PAGE_SIZE);
	for (unsigned i = 0; i < VM_PAGE_SIZE; i++)
		assert_int_equal(m->to[count * VM_PAGE_SIZE + i], GUARD);
}

static void job_run(struct memory *m, struct copier *c, uint64_t count, unsigned helpers)
{
	pthread_t threads[HELPERS];

	job_begin(m, c, count);
	for (unsigned i = 0; i < helpers; i++)
		assert_int_equal(thread_start(&threads[i], "help", helper_main, c), 0);
	copier_help(c);
	for (unsigned i = 0; i < helpers; i++)
		pthread_join(threads[i], NULL);
	copier_finish(c);
	job_check(m, count);
}

static void pages_arrive(void **state)
{
	static const uint64_t edges[] = {0, 1, 31, 32, 33, 63, 64, 2048, 2049, RAM_PAGES};
	struct memory *m = *state;
	struct copier c = {.vm = m->vm};

	for (size_t i = 0; i < ARRAY_LEN(edges); i++)
		for (unsigned helpers = 0; helpers <= HELPERS; helpers++)
			job_run(m, &c, edges[i], helpers);
	for (unsigned i = 0; i < 100; i++)
		job_run(m, &c, random_next(m) % 1000, random_next(m) % (HELPERS + 1));
}

/* Each job must see the RAM of its own time. */
static void jobs_do_not_mix(void **state)
{
	struct memory *m = *state;
	struct copier c = {.vm = m->vm};

	for (unsigned i = 0; i < 100; i++) {
		ram_fill(m);
		job_run(m, &c, 128 + random_next(m) % 64, HELPERS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pages_arrive, setup, teardown),
		cmocka_unit_test_setup_teardown(jobs_do_not_mix, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* Engine soft with threads on all sides: vCPUs that run and that are halted, harvests, kicks,
 * interrupts, and a device that writes to what they execute. No dirty page and no kick is lost. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/soft/machine.h"

#define VCPUS   4u
#define ROUNDS  20u
#define MEMORY  (UINT64_C(1) << 20)
#define CODE(i) (0x10000u + 0x1000u * (i))

/* Real mode: adds to words all over a segment of its own. The high octet of the step is what
 * the device changes. */
#define STEP_AT 11u
static const uint8_t writer[] = {
	0xb8, 0x00, 0x20,       /* mov ax, 0x2000 + */
	0x8e, 0xd8,             /* mov ds, ax */
	0x66, 0xff, 0x07,       /* again: inc dword [bx] */
	0x81, 0xc3, 0x04, 0x04, /* add bx, 0x0404 */
	0xeb, 0xf7,             /* jmp again */
};
static const uint8_t halter[] = {0xfa, 0xf4, 0xeb, 0xfd}; /* cli; again: hlt; jmp again */

struct fixture {
	struct error error;
	struct memory memory;
	struct engine *engine;
	uint8_t shadow[MEMORY];
	uint64_t map[MEMORY / VM_PAGE_SIZE / 64];
	pthread_barrier_t begin, end;
	atomic_bool quit, wrong;
	struct runner {
		struct fixture *f;
		unsigned vcpu;
		pthread_t thread;
	} runners[VCPUS];
};

static void *runner_main(void *ctx)
{
	struct runner *r = ctx;
	struct vcpu_exit exit;

	for (;;) {
		pthread_barrier_wait(&r->f->begin);
		if (atomic_load(&r->f->quit))
			return NULL;
		engine_soft.vcpu_run(r->f->engine, r->vcpu, &exit);
		if (exit.kind != EXIT_INTERRUPTED)
			atomic_store(&r->f->wrong, true);
		pthread_barrier_wait(&r->f->end);
	}
}

static void code_write(struct fixture *f, unsigned vcpu)
{
	uint64_t at = CODE(vcpu);

	if (vcpu + 1 == VCPUS) {
		assert_int_equal(memory_write(&f->memory, at, halter, sizeof(halter)), 0);
	} else {
		assert_int_equal(memory_write(&f->memory, at, writer, sizeof(writer)), 0);
		assert_int_equal(memory_write(&f->memory, at + 2,
					      &(uint8_t){(uint8_t)(0x20 + 0x10 * vcpu)}, 1),
				 0);
	}
	soft_cpu_sipi(f->engine->cpu[vcpu], (unsigned)(at >> 12));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct engine_params p = {.vcpus = VCPUS};

	assert_non_null(f);
	assert_int_equal(memory_create(&f->memory, MEMORY, &f->error), 0);
	p.memory = &f->memory;
	assert_int_equal(engine_soft.create(&p, &f->engine, &f->error), 0);
	assert_int_equal(pthread_barrier_init(&f->begin, NULL, VCPUS + 1), 0);
	assert_int_equal(pthread_barrier_init(&f->end, NULL, VCPUS + 1), 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct runner *r = &f->runners[i];

		code_write(f, i);
		*r = (struct runner){.f = f, .vcpu = i};
		assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->quit, true);
	pthread_barrier_wait(&f->begin);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_join(f->runners[i].thread, NULL);
	pthread_barrier_destroy(&f->begin);
	pthread_barrier_destroy(&f->end);
	engine_soft.destroy(f->engine);
	memory_destroy(&f->memory);
	free(f);
	return 0;
}

/* Copies what is said to have been written since the last time. */
static unsigned follow(struct fixture *f)
{
	unsigned pages = 0;

	memset(f->map, 0, sizeof(f->map));
	assert_int_equal(engine_soft.dirty_harvest(f->engine, f->map), 0);
	memory_harvest(&f->memory, f->map);
	for (uint64_t p = 0; p < MEMORY / VM_PAGE_SIZE; p++) {
		if (!(f->map[p / 64] >> p % 64 & 1))
			continue;
		memcpy(f->shadow + p * VM_PAGE_SIZE, f->memory.base + p * VM_PAGE_SIZE,
		       VM_PAGE_SIZE);
		pages++;
	}
	return pages;
}

/* From outside, while they run. */
static unsigned disturb(struct fixture *f, unsigned n)
{
	const uint8_t step = (uint8_t)(n % 7 + 1);

	assert_int_equal(memory_write(&f->memory, CODE(n % (VCPUS - 1)) + STEP_AT, &step, 1), 0);
	assert_int_equal(engine_soft.irq_line(f->engine, n % 16, n & 1), 0);
	assert_int_equal(engine_soft.msi(f->engine, 0xfee00000 | n % VCPUS << 12, 0x40), 0);
	return follow(f);
}

static unsigned round_run(struct fixture *f, unsigned round)
{
	unsigned pages = 0;

	pthread_barrier_wait(&f->begin);
	for (unsigned n = 0; n < 5; n++)
		pages += disturb(f, round * 5 + n);
	for (unsigned i = 0; i < VCPUS; i++)
		engine_soft.vcpu_kick(f->engine, i);
	pthread_barrier_wait(&f->end);
	pages += follow(f);
	assert_memory_equal(f->shadow, f->memory.base, MEMORY);
	return pages;
}

/* A vCPU whose thread got no CPU before it was kicked has done nothing in that round. */
static bool all_ran(const struct fixture *f)
{
	for (unsigned i = 0; i + 1 < VCPUS; i++)
		if (f->engine->cpu[i]->icount <= ROUNDS)
			return false;
	return f->engine->cpu[VCPUS - 1]->halted;
}

static void test_nothing_is_lost(void **state)
{
	struct fixture *f = *state;
	unsigned pages = 0, round;

	follow(f);
	for (round = 0; round < ROUNDS || (!all_ran(f) && round < 100 * ROUNDS); round++)
		pages += round_run(f, round);
	assert_false(atomic_load(&f->wrong));
	assert_true(pages > ROUNDS);
	assert_true(all_ran(f));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing_is_lost, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

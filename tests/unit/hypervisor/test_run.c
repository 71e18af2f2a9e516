// SPDX-License-Identifier: Apache-2.0
/* Pausing and resuming under load. */
#include "tests/unit/hypervisor/kvm_guest.h"

#define MEMORY (UINT64_C(16) << 20)
#define ROUNDS 1000u

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void times_print(const char *what, uint64_t *ns, unsigned n)
{
	qsort(ns, n, sizeof(*ns), by_size);
	print_message("%s: median %.1f us, p99 %.1f us, most %.1f us\n", what,
		      (double)ns[n / 2] / 1e3, (double)ns[n * 99 / 100] / 1e3,
		      (double)ns[n - 1] / 1e3);
}

/* While paused nothing moves; after each resume something does, sooner or later. */
static void pause_many(struct guest *g, unsigned vcpus, const char *what)
{
	uint64_t stops[ROUNDS], resumes[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t before[VM_VCPUS_MAX], t0 = clock_ns(), t1;

		assert_int_equal(vm_pause(g->vm), 0);
		stops[i] = clock_ns() - t0;
		assert_false(vm_is_running(g->vm));
		for (unsigned k = 0; k < vcpus; k++)
			before[k] = guest_count(g->vm, COUNT_CPU0 + k);
		if (i % 100 == 0)
			usleep(1000);
		for (unsigned k = 0; k < vcpus; k++)
			assert_int_equal(guest_count(g->vm, COUNT_CPU0 + k), before[k]);
		t1 = clock_ns();
		assert_int_equal(vm_resume(g->vm), 0);
		resumes[i] = clock_ns() - t1;
		if (i % 4) /* else: pause again before they have left */
			usleep(200);
	}
	times_print(what, stops, ROUNDS);
	times_print("  resume", resumes, ROUNDS);
}

struct help {
	atomic_uint calls;
	atomic_bool over;
	atomic_uint late;
};

static void help_count(void *ctx)
{
	struct help *h = ctx;

	usleep(10);
	if (atomic_load(&h->over))
		atomic_fetch_add(&h->late, 1);
	atomic_fetch_add(&h->calls, 1);
}

/* Each vCPU's thread helps once at most, and none after the wait. */
static void test_stopped_vcpus_help(void **state)
{
	struct guest g = {.param = {2}};
	unsigned calls = 0;

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_SMP, 3, MEMORY);
	guest_wait_count(&g, COUNT_ONLINE, 2);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct help h = {0};

		assert_int_equal(vm_pause(g.vm), 0);
		if (i % 8) {
			vm_help_start(g.vm, help_count, &h);
			usleep(i % 50);
			vm_help_wait(g.vm);
		}
		atomic_store(&h.over, true);
		assert_int_equal(vm_resume(g.vm), 0);
		assert_int_equal(atomic_load(&h.late), 0);
		assert_true(atomic_load(&h.calls) <= 3);
		calls += atomic_load(&h.calls);
	}
	print_message("%u pauses, %u calls\n", ROUNDS, calls);
	guest_end(&g);
}

/* All that can fail is done, and nothing runs. */
static void test_prepared_vcpus_wait(void **state)
{
	struct guest g = {.kind = GUEST_SMP, .param = {2}};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 3, MEMORY);
	assert_int_equal(vm_boot(g.vm, &e), 0);
	assert_int_equal(vm_prepare(g.vm, &e), 0);
	usleep(20000);
	assert_false(vm_is_running(g.vm));
	assert_int_equal(guest_count(g.vm, COUNT_CPU0), 0);
	assert_int_equal(vm_prepare(g.vm, &e), 0);
	assert_int_equal(vm_start(g.vm, &e), 0);
	assert_true(vm_is_running(g.vm));
	guest_wait_count(&g, COUNT_ONLINE, 2);
	assert_int_equal(vm_prepare(g.vm, &e), -EBUSY);
	guest_end(&g);
}

static void test_pause_of_computing_vcpus(void **state)
{
	struct guest g = {.param = {2}};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_SMP, 3, MEMORY);
	guest_wait_count(&g, COUNT_ONLINE, 2);
	pause_many(&g, 3, "pause of 3 computing vCPUs");
	for (unsigned k = 0; k < 3; k++)
		guest_wait_count(&g, COUNT_CPU0 + k, guest_count(g.vm, COUNT_CPU0 + k) + 10);
	guest_end(&g);
}

/* An answered read that a pause tore apart would show as a gap in the sequence. */
static void test_pause_amid_port_and_mmio_accesses(void **state)
{
	struct guest g = {0};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_PIO, 1, MEMORY);
	pause_many(&g, 0, "pause of a vCPU at its ports");
	guest_wait_count(&g, COUNT_LOOP, guest_count(g.vm, COUNT_LOOP) + 10);
	assert_int_equal(test_device_complaints(&g), 0);
	guest_end(&g);
}

static void test_pause_of_halted_vcpus(void **state)
{
	struct guest g = {.param = {1}};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_EVENTS, 2, MEMORY); /* the second waits for its SIPI */
	guest_wait_count(&g, COUNT_TIMER, 2);
	pause_many(&g, 0, "pause of halted vCPUs");
	for (unsigned i = 0; i < 3; i++) {
		uint64_t ticks = guest_count(g.vm, COUNT_TIMER);

		guest_wait_count(&g, COUNT_TIMER, ticks + 2);
	}
	assert_int_equal(guest_count(g.vm, COUNT_BAD), 0);
	guest_end(&g);
}

/* Interrupts that come during a pause are there after it. */
static void test_interrupts_during_a_pause_wait(void **state)
{
	struct guest g = {.param = {1}};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_EVENTS, 1, MEMORY);
	guest_wait_count(&g, COUNT_TIMER, 1);
	for (unsigned i = 1; i <= 50; i++) {
		assert_int_equal(vm_pause(g.vm), 0);
		vm_irq(g.vm, TEST_IRQ, true);
		vm_irq(g.vm, TEST_IRQ, false);
		vm_msi(g.vm, MSI_ADDRESS, MSI_VECTOR);
		assert_int_equal(guest_count(g.vm, COUNT_MSI), i - 1);
		assert_int_equal(vm_resume(g.vm), 0);
		guest_wait_count(&g, COUNT_MSI, i);
		guest_wait_count(&g, COUNT_IRQ, i);
	}
	guest_end(&g);
}

struct irq_storm {
	struct guest *g;
	atomic_bool stop;
};

static void *irq_storm_run(void *ctx)
{
	struct irq_storm *s = ctx;

	while (!atomic_load(&s->stop)) {
		vm_irq(s->g->vm, TEST_IRQ, true);
		vm_irq(s->g->vm, TEST_IRQ, false);
		vm_msi(s->g->vm, MSI_ADDRESS, MSI_VECTOR);
		usleep(50);
	}
	return NULL;
}

static void test_interrupts_from_another_thread(void **state)
{
	struct guest g = {.param = {1}};
	struct irq_storm s = {.g = &g};
	pthread_t t;

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_EVENTS, 1, MEMORY);
	assert_int_equal(thread_start(&t, "storm", irq_storm_run, &s), 0);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(vm_pause(g.vm), 0);
		assert_int_equal(vm_resume(g.vm), 0);
	}
	guest_wait_count(&g, COUNT_IRQ, 20);
	guest_wait_count(&g, COUNT_MSI, 20);
	atomic_store(&s.stop, true);
	pthread_join(t, NULL);
	guest_end(&g);
}

static void test_wrong_order_is_refused(void **state)
{
	struct guest g = {.kind = GUEST_PIO};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 1, MEMORY);
	assert_int_equal(vm_resume(g.vm), -EINVAL);
	assert_int_equal(vm_boot(g.vm, &e), 0);
	guest_start(&g);
	assert_int_equal(vm_start(g.vm, &e), -EBUSY);
	assert_int_equal(vm_boot(g.vm, &e), -EBUSY);
	assert_int_equal(vm_step(g.vm, 1), -EOPNOTSUPP);
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(vm_pause(g.vm), -EBUSY);
	guest_end(&g); /* a paused vm can be destroyed */
}

/* Reset and pause at the same time: one after the other, whichever comes first. */
static void test_pause_during_resets(void **state)
{
	struct guest g = {.param = {TEST_PORT + PORT_ASK, ASK_RESET}};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_OUT, 2, MEMORY); /* resets itself again and again */
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(vm_pause(g.vm), 0);
		assert_int_equal(vm_resume(g.vm), 0);
		usleep(200);
	}
	guest_wait_event(&g, VM_EVENT_REBOOT, 10);
	guest_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prepared_vcpus_wait),
		cmocka_unit_test(test_pause_of_computing_vcpus),
		cmocka_unit_test(test_stopped_vcpus_help),
		cmocka_unit_test(test_pause_amid_port_and_mmio_accesses),
		cmocka_unit_test(test_pause_of_halted_vcpus),
		cmocka_unit_test(test_interrupts_during_a_pause_wait),
		cmocka_unit_test(test_interrupts_from_another_thread),
		cmocka_unit_test(test_wrong_order_is_refused),
		cmocka_unit_test(test_pause_during_resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

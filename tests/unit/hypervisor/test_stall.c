// SPDX-License-Identifier: Apache-2.0
/* Guests that stand still for a longer time, for more than one reason, and what is asked of them
 * meanwhile. */
#include "tests/unit/hypervisor/kvm_guest.h"

#define MEMORY        (UINT64_C(16) << 20)
#define CLOCK_PAGE    UINT64_C(0x300000)
#define CLOCK_FLAGS   29u /* of struct pvclock_vcpu_time_info */
#define CLOCK_STOPPED 2u

static void goes_on(struct guest *g)
{
	assert_true(vm_is_running(g->vm));
	guest_wait_count(g, COUNT_LOOP, guest_count(g->vm, COUNT_LOOP) + 10);
}

static void two_boot(struct guest *g)
{
	*g = (struct guest){.param = {1}};
	guest_boot(g, GUEST_SMP, 2, MEMORY);
	guest_wait_count(g, COUNT_ONLINE, 1);
}

/* ---- who stalls it -------------------------------------------------------------------- */

static void test_each_ends_its_own(void **state)
{
	for (unsigned i = 0; guest_engine_next(&i);) {
		uint64_t before;
		struct guest g;

		two_boot(&g);
		vm_stall(g.vm, STALL_ORDER);
		vm_stall_ask(g.vm, STALL_MEMORY);
		vm_stall(g.vm, STALL_MEMORY); /* twice is once */
		before = guest_count(g.vm, COUNT_LOOP);
		vm_unstall(g.vm, STALL_ORDER);
		vm_unstall(g.vm, STALL_OWNERSHIP);
		assert_false(vm_is_running(g.vm));
		usleep(5000);
		assert_int_equal(guest_count(g.vm, COUNT_LOOP), before);
		vm_unstall(g.vm, STALL_MEMORY);
		goes_on(&g);
		guest_end(&g);
	}
}

/* ---- actions ---------------------------------------------------------------------------- */

static unsigned reboots(struct guest *g)
{
	unsigned n;

	pthread_mutex_lock(&g->lock);
	n = g->events[VM_EVENT_REBOOT];
	pthread_mutex_unlock(&g->lock);
	return n;
}

/* Asked for by another thread, while no vCPU is awake to do it. */
static void test_a_reset_of_who_stands_still(void **state)
{
	for (unsigned i = 0; guest_engine_next(&i);) {
		struct guest g;

		two_boot(&g);
		vm_stall(g.vm, STALL_ORDER);
		vm_request_reset(g.vm);
		guest_wait_event(&g, VM_EVENT_REBOOT, 1);
		assert_int_equal(vm_pause(g.vm), 0);
		assert_int_equal(vm_resume(g.vm), 0);
		vm_throttle(g.vm, 99);
		vm_unstall(g.vm, STALL_ORDER);
		goes_on(&g);
		for (unsigned k = 2; k < 5; k++) {
			vm_request_reset(g.vm);
			guest_wait_event(&g, VM_EVENT_REBOOT, k);
			assert_int_equal(vm_pause(g.vm), 0);
			assert_int_equal(vm_resume(g.vm), 0);
		}
		goes_on(&g);
		guest_end(&g);
	}
}

/* In a pause the machine is the pauser's. */
static void test_a_reset_waits_for_a_pause(void **state)
{
	for (unsigned i = 0; guest_engine_next(&i);) {
		struct guest g;

		two_boot(&g);
		assert_int_equal(vm_pause(g.vm), 0);
		vm_request_reset(g.vm);
		usleep(5000);
		assert_int_equal(reboots(&g), 0);
		assert_int_equal(vm_resume(g.vm), 0);
		guest_wait_event(&g, VM_EVENT_REBOOT, 1);
		assert_int_equal(vm_pause(g.vm), 0);
		vm_request_poweroff(g.vm);
		vm_stall_ask(g.vm, STALL_OWNERSHIP);
		assert_int_equal(vm_resume(g.vm), 0);
		guest_wait_event(&g, VM_EVENT_POWEROFF, 1);
		assert_true(vm_has_ended(g.vm));
		guest_end(&g);
	}
}

/* ---- what the guest is told ----------------------------------------------------------------- */

static uint8_t *clock_flags(struct guest *g)
{
	return g->vm->memory.base + CLOCK_PAGE + CLOCK_FLAGS;
}

/* The guest takes note, as a kernel's watchdog does: by x86's rules, not by C's. */
__attribute__((no_sanitize("thread"))) static bool stop_is_told(struct guest *g)
{
	uint8_t flags =
		__atomic_fetch_and(clock_flags(g), (uint8_t)~CLOCK_STOPPED, __ATOMIC_SEQ_CST);

	return flags & CLOCK_STOPPED;
}

static void test_a_long_stall_is_told(void **state)
{
	for (unsigned i = 0; guest_engine_next(&i);) {
		struct guest g = {.param = {CLOCK_PAGE | 1}};

		guest_boot(&g, GUEST_CLOCK, 1, MEMORY);
		guest_wait_count(&g, COUNT_LOOP, 1);
		assert_false(stop_is_told(&g));
		vm_stall(g.vm, STALL_MEMORY);
		usleep(150000);
		vm_stall(g.vm, STALL_ORDER);
		vm_unstall(g.vm, STALL_MEMORY);
		vm_unstall(g.vm, STALL_ORDER);
		while (!stop_is_told(&g))
			usleep(1000);
		goes_on(&g);
		assert_false(stop_is_told(&g));
		assert_int_equal(vm_pause(g.vm), 0);
		usleep(150000);
		assert_int_equal(vm_resume(g.vm), 0);
		while (!stop_is_told(&g))
			usleep(1000);
		guest_end(&g);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_ends_its_own),
		cmocka_unit_test(test_a_reset_of_who_stands_still),
		cmocka_unit_test(test_a_reset_waits_for_a_pause),
		cmocka_unit_test(test_a_long_stall_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

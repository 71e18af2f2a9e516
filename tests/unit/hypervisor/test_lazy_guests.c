// SPDX-License-Identifier: Apache-2.0
/* Guests that go on before their memory is there. */
#include "tests/unit/hypervisor/feeder.h"
#include "tests/unit/hypervisor/kvm_guest.h"

#define MEMORY (UINT64_C(16) << 20)
#define PAGES  (MEMORY / VM_PAGE_SIZE)

static const struct engine_ops *const engines[] = {&engine_soft, &engine_kvm};
static uint8_t ram[MEMORY]; /* what the guest had when it left */
static struct buf state;
static unsigned seed;

static bool engine_take(const struct engine_ops *ops)
{
	guest_engine = ops;
	return ops != &engine_kvm || !guest_no_kvm();
}

static void lazy_needed(struct vm *vm)
{
	struct error e = {0};

	if (!vm_lazy_prepare(vm, &e))
		return;
	print_message("%s\n", e.text);
	vm_destroy(vm);
	skip();
}

/* It runs for a moment, and is saved. */
static void leave(enum guest_kind kind, unsigned vcpus, const uint64_t param[3])
{
	struct guest g = {.param = {param[0], param[1], param[2]}};
	struct error e = {0};

	guest_boot(&g, kind, vcpus, MEMORY);
	guest_wait_count(&g, COUNT_LOOP, 100);
	if (kind == GUEST_SMP)
		guest_wait_count(&g, COUNT_ONLINE, vcpus - 1);
	assert_int_equal(vm_pause(g.vm), 0);
	buf_reset(&state);
	if (vm_state_save(g.vm, &state, &e))
		fail_msg("%s", e.text);
	memcpy(ram, vm_ram(g.vm), MEMORY);
	guest_end(&g);
}

/* Another machine, to which none of it has come. */
static void arrive(struct guest *g, struct feeder *f, enum guest_kind kind, unsigned vcpus)
{
	static uint64_t all[PAGES / 64];
	struct error e = {0};

	g->kind = kind;
	guest_make(g, vcpus, MEMORY);
	lazy_needed(g->vm);
	if (vm_state_load(g->vm, state.data, state.len, &e))
		fail_msg("%s", e.text);
	memset(all, 0xff, sizeof(all));
	f->from = ram;
	f->seed = seed++;
	if (feeder_begin(f, g->vm, all, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_lazy_left(f->lazy), PAGES);
}

static void all_came(struct feeder *f)
{
	feeder_join(f);
	assert_int_equal(f->rc, 0);
	assert_int_equal(vm_lazy_left(f->lazy), 0);
	assert_false(vm_ram_is_whole(f->vm));
	vm_lazy_end(f->lazy);
	assert_true(vm_ram_is_whole(f->vm));
	feeder_free(f);
}

static void go_on(enum guest_kind kind, unsigned vcpus, const uint64_t param[3],
		  void (*check)(struct guest *g))
{
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		struct guest g = {0};
		struct feeder f = {0};

		if (!engine_take(engines[i]))
			continue;
		leave(kind, vcpus, param);
		arrive(&g, &f, kind, vcpus);
		assert_int_equal(feeder_start(&f), 0);
		guest_start(&g);
		check(&g);
		print_message("%s: %lu pages were waited for\n", vm_engine_name(g.vm),
			      feeder_asked(&f));
		all_came(&f);
		check(&g);
		guest_end(&g);
	}
}

/* ---- the same result -------------------------------------------------------------------- */

#define DIRTY_PAGES 1000u

/* What the dirtier has written after so many loops. */
static void dirtier_do(uint64_t *area, uint64_t loops)
{
	const uint64_t by = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t x = by;

	for (uint64_t i = 0; i < loops; i++) {
		x = x * by + 12345;
		area[((x >> 33) % DIRTY_PAGES * VM_PAGE_SIZE + (x & 0xff8)) / 8]++;
	}
}

static void dirtier_check(struct guest *g)
{
	static uint64_t area[DIRTY_PAGES * VM_PAGE_SIZE / 8];
	uint64_t loops = guest_count(g->vm, COUNT_LOOP);
	const void *is = vm_ram(g->vm) + GUEST_DIRTY_AREA;

	guest_wait_count(g, COUNT_LOOP, loops + 2000);
	assert_int_equal(vm_pause(g->vm), 0);
	loops = guest_count(g->vm, COUNT_LOOP);
	memset(area, 0, sizeof(area));
	dirtier_do(area, loops);
	if (memcmp(area, is, sizeof(area))) { /* it has stored, and not counted yet */
		memset(area, 0, sizeof(area));
		dirtier_do(area, loops + 1);
		assert_memory_equal(area, is, sizeof(area));
	}
	assert_int_equal(vm_resume(g->vm), 0);
}

static void test_dirtier(void **state)
{
	const uint64_t param[3] = {GUEST_DIRTY_AREA, DIRTY_PAGES, 0};

	go_on(GUEST_DIRTIER, 1, param, dirtier_check);
}

static void pio_check(struct guest *g)
{
	guest_wait_count(g, COUNT_LOOP, guest_count(g->vm, COUNT_LOOP) + 100);
	assert_int_equal(test_device_complaints(g), 0);
}

static void test_ports(void **state)
{
	go_on(GUEST_PIO, 1, (const uint64_t[3]){0}, pio_check);
}

static void smp_check(struct guest *g)
{
	for (unsigned i = 0; i < 3; i++)
		guest_wait_count(g, COUNT_CPU0 + i, guest_count(g->vm, COUNT_CPU0 + i) + 100);
}

static void test_several_vcpus(void **state)
{
	go_on(GUEST_SMP, 3, (const uint64_t[3]){2}, smp_check);
}

static void events_check(struct guest *g)
{
	guest_wait_count(g, COUNT_TIMER, guest_count(g->vm, COUNT_TIMER) + 3);
	vm_irq(g->vm, TEST_IRQ, true);
	vm_irq(g->vm, TEST_IRQ, false);
	guest_wait_count(g, COUNT_IRQ, 1);
	assert_int_equal(guest_count(g->vm, COUNT_BAD), 0);
	assert_int_equal(guest_count(g->vm, COUNT_XMM_BAD), 0);
}

static void test_interrupts(void **state)
{
	go_on(GUEST_EVENTS, 1, (const uint64_t[3]){0}, events_check);
}

/* Each life loads the boot data again: into memory that comes as well. */
static void test_resets(void **state)
{
	static uint64_t all[PAGES / 64];

	memset(all, 0xff, sizeof(all));
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		struct guest g = {.kind = GUEST_OUT, .param = {TEST_PORT + PORT_ASK, ASK_RESET}};
		struct feeder f = {.from = ram, .seed = seed++};
		struct error e = {0};

		if (!engine_take(engines[i]))
			continue;
		guest_make(&g, 2, MEMORY);
		lazy_needed(g.vm);
		assert_int_equal(vm_boot(g.vm, &e), 0);
		memcpy(ram, vm_ram(g.vm), MEMORY);
		if (feeder_begin(&f, g.vm, all, &e))
			fail_msg("%s", e.text);
		assert_int_equal(feeder_start(&f), 0);
		guest_start(&g);
		guest_wait_event(&g, VM_EVENT_REBOOT, 5);
		all_came(&f);
		guest_wait_event(&g, VM_EVENT_REBOOT, 10);
		guest_end(&g);
	}
}

/* ---- log-dirty: one user at a time ------------------------------------------------------------
 */

static void test_dirty_sample(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		struct guest g = {.param = {GUEST_DIRTY_AREA, 20, 0}};
		uint64_t map[PAGES / 64] = {0}, pages = 0;

		if (!engine_take(engines[i]))
			continue;
		guest_boot(&g, GUEST_DIRTIER, 1, MEMORY);
		for (unsigned tries = 0; tries < 100 && pages < 10; tries++)
			assert_int_equal(vm_dirty_sample(g.vm, 20 * NS_PER_MS, &pages), 0);
		assert_in_range(pages, 10, 25);
		/* Nothing is taken from a session that logs. */
		assert_int_equal(vm_log_dirty(g.vm, true), 0);
		guest_wait_count(&g, COUNT_LOOP, guest_count(g.vm, COUNT_LOOP) + 1000);
		assert_int_equal(vm_pause(g.vm), 0);
		assert_int_equal(vm_dirty_sample(g.vm, 1, &pages), -EBUSY);
		assert_int_equal(vm_log_dirty(g.vm, true), -EBUSY);
		assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
		assert_true(bitmap_count(map, PAGES) >= 20);
		assert_int_equal(vm_resume(g.vm), 0);
		assert_int_equal(vm_log_dirty(g.vm, false), 0);
		guest_end(&g);
	}
}

/* ---- pages that take their time ---------------------------------------------------------------
 */

static void *pause_resume(void *ctx)
{
	struct guest *g = ctx;

	return vm_pause(g->vm) || vm_resume(g->vm) ? g : NULL;
}

/* A pause meets a vCPU that waits for a page: both go on when that has come. */
static void test_pause_and_throttle_meanwhile(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		struct guest g = {0};
		struct feeder f = {0};
		pthread_t pauser;
		void *failed;

		if (!engine_take(engines[i]))
			continue;
		leave(GUEST_SMP, 3, (const uint64_t[3]){2});
		arrive(&g, &f, GUEST_SMP, 3);
		vm_throttle(g.vm, 50);
		guest_start(&g);
		while (!feeder_asked(&f))
			usleep(500);
		vm_stall_ask(g.vm, STALL_MEMORY); /* waits for nobody */
		assert_int_equal(thread_start(&pauser, "pauser", pause_resume, &g), 0);
		usleep(20000);
		vm_unstall(g.vm, STALL_MEMORY);
		assert_int_equal(feeder_start(&f), 0);
		pthread_join(pauser, &failed);
		assert_null(failed);
		smp_check(&g);
		all_came(&f);
		guest_end(&g);
	}
}

/* vCPUs wait for pages that will never come, and so does a pause perhaps. */
static void test_never(void **state)
{
	for (unsigned i = 0; i < 2 * ARRAY_LEN(engines); i++) {
		struct guest g = {0};
		struct feeder f = {.on_fault_only = true};
		bool pausing = i % 2;
		pthread_t pauser;

		if (!engine_take(engines[i / 2]))
			continue;
		leave(GUEST_SMP, 3, (const uint64_t[3]){2});
		arrive(&g, &f, GUEST_SMP, 3);
		guest_start(&g);
		while (!feeder_asked(&f))
			usleep(500);
		if (pausing) {
			assert_int_equal(thread_start(&pauser, "pauser", pause_resume, &g), 0);
			usleep(5000);
			vm_lazy_abandon(f.lazy);
			pthread_join(pauser, NULL);
			assert_int_equal(test_device_complaints(&g), 0);
			assert_int_equal(vm_pause(g.vm), 0);
			assert_false(vm_ram_is_whole(g.vm));
			assert_int_equal(vm_state_save(g.vm, &(struct buf){0}, NULL), -EBADMSG);
		}
		guest_end(&g); /* ends the waiting too */
		feeder_free(&f);
	}
}

static void test_only_what_is_needed(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		struct guest g = {0};
		struct feeder f = {.on_fault_only = true};
		uint64_t left;

		if (!engine_take(engines[i]))
			continue;
		leave(GUEST_SMP, 3, (const uint64_t[3]){2});
		arrive(&g, &f, GUEST_SMP, 3);
		assert_int_equal(feeder_start(&f), 0);
		guest_start(&g);
		smp_check(&g);
		left = vm_lazy_left(f.lazy);
		print_message("%s: %lu of %lu pages were needed\n", vm_engine_name(g.vm),
			      PAGES - left, (uint64_t)PAGES);
		assert_in_range(PAGES - left, 4, 100);
		vm_lazy_abandon(f.lazy);
		feeder_join(&f);
		guest_end(&g);
		feeder_free(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dirtier),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_several_vcpus),
		cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_resets),
		cmocka_unit_test(test_dirty_sample),
		cmocka_unit_test(test_pause_and_throttle_meanwhile),
		cmocka_unit_test(test_never),
		cmocka_unit_test(test_only_what_is_needed),
	};
	int failed;

	seed = (unsigned)clock_ns();
	print_message("seed %u\n", seed);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	buf_free(&state);
	return failed;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Log-dirty against a shadow copy: a page that differs from the copy taken at the last
 * harvest and is not reported would be lost in a failover.
 */
#include "tests/unit/hypervisor/kvm_guest.h"

#include <time.h>

#define MEMORY      (UINT64_C(32) << 20)
#define PAGES       (MEMORY / VM_PAGE_SIZE)
#define AREA_PAGES  2000u
#define HIGH_MEMORY (UINT64_C(6) << 30)

static bool page_differs(struct vm *vm, const uint8_t *shadow, uint64_t page)
{
	return memcmp(vm_ram(vm) + page * VM_PAGE_SIZE, shadow + page * VM_PAGE_SIZE,
		      VM_PAGE_SIZE) != 0;
}

/* Reported pages go into the shadow; then nothing may differ. */
static void shadow_follow(struct vm *vm, uint8_t *shadow, const uint64_t *map, unsigned *reported,
			  unsigned *changed)
{
	for (uint64_t p = bitmap_next(map, PAGES, 0); p < PAGES;
	     p = bitmap_next(map, PAGES, p + 1)) {
		*reported += 1;
		*changed += page_differs(vm, shadow, p);
		memcpy(shadow + p * VM_PAGE_SIZE, vm_ram(vm) + p * VM_PAGE_SIZE, VM_PAGE_SIZE);
	}
	for (uint64_t p = 0; p < PAGES; p++)
		if (page_differs(vm, shadow, p))
			fail_msg("page %llu changed and was not reported", (unsigned long long)p);
}

static void rounds_run(struct guest *g, uint8_t *shadow, unsigned rounds)
{
	unsigned reported = 0, changed = 0;
	uint64_t map[PAGES / 64];

	for (unsigned i = 0; i < rounds; i++) {
		usleep(1000 + (i % 7) * 700);
		assert_int_equal(vm_pause(g->vm), 0);
		if (i % 5 == 0) { /* a device writes as well */
			uint64_t at = MEMORY - (i + 1) * VM_PAGE_SIZE - 8, v = i + 1;

			assert_int_equal(memory_write(&g->vm->memory, at, &v, sizeof(v)), 0);
		}
		memset(map, 0, sizeof(map));
		assert_int_equal(vm_dirty_harvest(g->vm, map), 0);
		shadow_follow(g->vm, shadow, map, &reported, &changed);
		assert_int_equal(vm_resume(g->vm), 0);
	}
	print_message("%u rounds: %u pages reported, %u of them changed\n", rounds, reported,
		      changed);
	assert_true(changed > rounds);
	/* A log that says "everything" is complete as well, and useless. */
	assert_true(reported < changed + changed / 4 + 20 * rounds);
}

static void test_every_change_is_reported(void **state)
{
	struct guest g = {.param = {GUEST_DIRTY_AREA, AREA_PAGES, 100}};
	uint8_t *shadow;

	if (guest_no_kvm())
		skip();
	shadow = malloc(MEMORY);
	assert_non_null(shadow);
	guest_boot(&g, GUEST_DIRTIER, 1, MEMORY);
	guest_wait_count(&g, COUNT_LOOP, 50);
	assert_int_equal(vm_log_dirty(g.vm, true), 0);
	assert_int_equal(vm_pause(g.vm), 0);
	/* What the guest wrote since the log began is reported later, copied now or not. */
	memcpy(shadow, vm_ram(g.vm), MEMORY);
	assert_int_equal(vm_resume(g.vm), 0);
	rounds_run(&g, shadow, 200);
	assert_int_equal(vm_log_dirty(g.vm, false), 0);
	assert_int_equal(vm_dirty_harvest(g.vm, (uint64_t[PAGES / 64]){0}), -EINVAL);
	guest_end(&g);
	free(shadow);
}

/* Copied while the guest runs, after the log began: as a first full copy does. */
static void test_copy_while_running_then_harvest(void **state)
{
	struct guest g = {.param = {GUEST_DIRTY_AREA, AREA_PAGES, 0}};
	uint64_t map[PAGES / 64] = {0};
	unsigned reported = 0, changed = 0;
	uint8_t *shadow;

	if (guest_no_kvm())
		skip();
	shadow = malloc(MEMORY);
	guest_boot(&g, GUEST_DIRTIER, 1, MEMORY);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(vm_log_dirty(g.vm, true), 0);
		for (uint64_t p = 0; p < PAGES; p++) {
			memcpy(shadow + p * VM_PAGE_SIZE, vm_ram(g.vm) + p * VM_PAGE_SIZE,
			       VM_PAGE_SIZE);
			if (p % 1000 == 0)
				assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
		}
		assert_int_equal(vm_pause(g.vm), 0);
		assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
		shadow_follow(g.vm, shadow, map, &reported, &changed);
		memset(map, 0, sizeof(map));
		assert_int_equal(vm_resume(g.vm), 0);
		assert_int_equal(vm_log_dirty(g.vm, false), 0);
	}
	print_message("%u pages reported, %u of them changed since their copy\n", reported,
		      changed);
	assert_true(changed > 0);
	guest_end(&g);
	free(shadow);
}

static void test_an_idle_guest_dirties_nothing(void **state)
{
	struct guest g = {.kind = GUEST_EVENTS};
	uint64_t map[PAGES / 64] = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 1, MEMORY);
	assert_int_equal(vm_log_dirty(g.vm, true), 0);
	assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
	assert_int_equal(bitmap_count(map, PAGES), 0);
	memory_mark(&g.vm->memory, 5 * VM_PAGE_SIZE + 4095, 2);
	assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
	assert_int_equal(bitmap_count(map, PAGES), 2);
	assert_true(bitmap_test(map, 5) && bitmap_test(map, 6));
	guest_end(&g);
}

/* RAM page numbers leave out the hole: guest physical 4 GiB is RAM page 3 GiB / 4 KiB. */
static void test_pages_above_the_hole(void **state)
{
	const uint64_t gpa = (UINT64_C(5) << 30) + 7 * VM_PAGE_SIZE,
		       pages = HIGH_MEMORY / VM_PAGE_SIZE;
	const uint64_t first = (gpa - (UINT64_C(1) << 30)) / VM_PAGE_SIZE;
	struct guest g = {.param = {gpa, 16, 0}};
	uint64_t *map;

	if (guest_no_kvm())
		skip();
	map = calloc(bitmap_words(pages), 8);
	guest_boot(&g, GUEST_DIRTIER, 1, HIGH_MEMORY);
	assert_int_equal(vm_ram_pages(g.vm), pages);
	guest_wait_count(&g, COUNT_LOOP, 200);
	assert_int_equal(vm_log_dirty(g.vm, true), 0);
	guest_wait_count(&g, COUNT_LOOP, guest_count(g.vm, COUNT_LOOP) + 500);
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(vm_dirty_harvest(g.vm, map), 0);
	for (unsigned i = 0; i < 16; i++)
		assert_true(bitmap_test(map, first + i));
	assert_true(bitmap_test(map, GUEST_COUNTERS / VM_PAGE_SIZE));
	for (uint64_t p = bitmap_next(map, pages, 0x40000); p < pages;
	     p = bitmap_next(map, pages, p + 1))
		assert_true(p >= first && p < first + 16);
	assert_ptr_equal(memory_at(&g.vm->memory, gpa, 8), vm_ram(g.vm) + first * VM_PAGE_SIZE);
	assert_int_equal(vm_resume(g.vm), 0);
	guest_end(&g);
	free(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_change_is_reported),
		cmocka_unit_test(test_copy_while_running_then_harvest),
		cmocka_unit_test(test_an_idle_guest_dirties_nothing),
		cmocka_unit_test(test_pages_above_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

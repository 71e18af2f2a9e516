// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/state.h"
#include "tests/unit/hypervisor/feeder.h"

#define MEMORY    (UINT64_C(256) << 10)
#define DISK_SIZE (UINT64_C(32) << 10)
#define PAGES     (MEMORY / VM_PAGE_SIZE)
#define SETUP     2000u /* steps, more than enough */

static uint64_t seed;

/* One simulated host: a vm, a network and a disk. */
struct host {
	struct loop *io;
	struct vm *vm;
	struct net_backend *net;
	struct disk_backend *disk;
	uint8_t bytes[DISK_SIZE];
	uint64_t frames, frame_hash, last_sequence;
	enum vm_event event;
	bool over;
	bool damaged; /* its frames may say anything */
};

static uint64_t random_next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

static int frame_seen(void *ctx, const void *frame, size_t len)
{
	struct host *h = ctx;
	struct sim_frame f;
	if (h->damaged)
		return 0;
	assert_true(sim_frame_parse(frame, len, &f));
	assert_int_equal(f.seed, seed);
	assert_int_equal(f.sequence, h->last_sequence + 1);
	h->last_sequence = f.sequence;
	h->frame_hash = h->frame_hash * 31 + f.hash;
	h->frames++;
	return 0;
}

static void event_seen(void *ctx, enum vm_event event, const char *detail)
{
	struct host *h = ctx;
	h->event = event;
	h->over = true;
}

static void host_make(struct host *h)
{
	struct error e = {0};
	struct vm_config c = {
		.name = "sim",
		.memory = MEMORY,
		.vcpus = 1,
		.engine = "sim",
		.disk_count = 1,
		.nic_count = 1,
		.seed = seed,
	};
	memset(h, 0, sizeof(*h));
	c.nics[0].mac[0] = 2;
	assert_int_equal(loop_create(&h->io), 0);
	assert_int_equal(net_memory_create(frame_seen, h, &h->net), 0);
	assert_int_equal(disk_memory_create(h->bytes, DISK_SIZE, &h->disk), 0);
	struct vm_parts parts = {.io = h->io,
				 .nets = {h->net},
				 .disks = {h->disk},
				 .console_in = -1,
				 .console_out = -1,
				 .on_event = event_seen,
				 .ctx = h};
	int rc = vm_create(&c, &parts, &h->vm, &e);
	if (rc)
		fail_msg("vm_create: %d %s", rc, e.text);
}

static void host_boot(struct host *h)
{
	struct error e = {0};
	host_make(h);
	if (vm_boot(h->vm, &e) || vm_start(h->vm, &e))
		fail_msg("%s", e.text);
}

static void host_end(struct host *h)
{
	vm_destroy(h->vm);
	h->net->ops->destroy(h->net);
	h->disk->ops->destroy(h->disk);
	loop_destroy(h->io);
}

/* Some steps, with completions and inbound frames that depend only on `state`. Frames are offered
 * unasked: a copy looks at its rings at once, the original when the driver rings for it. */
static void host_run(struct host *h, unsigned steps, uint64_t *state)
{
	for (unsigned i = 0; i < steps; i++) {
		uint64_t r = random_next(state);
		assert_int_equal(vm_step(h->vm, 1), 0);
		if (r % 3 == 0 && disk_memory_waiting(h->disk))
			assert_int_equal(
				disk_memory_complete(h->disk, random_next(state) %
								      disk_memory_waiting(h->disk)),
				0);
		if (r % 17 == 0) {
			uint8_t frame[60];
			memset(frame, (int)r, sizeof(frame));
			(void)!h->net->front.receive(h->net->front.ctx, frame, sizeof(frame));
		}
	}
}

static void host_check(struct host *h)
{
	struct error e = {0};
	if (vm_sim_check(h->vm, &e) || vm_sim_check_disk(h->vm, 0, h->bytes, DISK_SIZE, &e))
		fail_msg("seed %llu: %s", (unsigned long long)seed, e.text);
}

static struct sim_report report_of(struct host *h)
{
	struct sim_report r;
	assert_int_equal(vm_sim_report(h->vm, &r), 0);
	return r;
}

/* RAM and state of one into the other, as an epoch would. */
static void host_copy(struct host *to, struct host *from)
{
	struct buf state = {0};
	struct error e = {0};
	assert_int_equal(vm_pause(from->vm), 0);
	assert_int_equal(vm_state_save(from->vm, &state, &e), 0);
	memcpy(vm_ram(to->vm), vm_ram(from->vm), MEMORY);
	memcpy(to->bytes, from->bytes, DISK_SIZE);
	assert_int_equal(vm_resume(from->vm), 0);
	if (vm_state_load(to->vm, state.data, state.len, &e))
		fail_msg("%s", e.text);
	buf_free(&state);
	to->last_sequence = from->last_sequence;
	to->frame_hash = from->frame_hash;
}

static void test_guest_uses_its_devices(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	host_boot(&h);
	host_run(&h, SETUP, &inputs);
	assert_true(report_of(&h).running);
	host_run(&h, 20000, &inputs);
	host_check(&h);
	struct sim_report r = report_of(&h);
	assert_true(r.sent > 100 && r.received > 100 && r.written > 100 && r.flushed > 10);
	assert_int_equal(r.sent, h.frames);
	host_end(&h);
}

static void test_same_seed_same_life(void **state)
{
	struct host a, b;
	uint64_t inputs_a = seed, inputs_b = seed;
	host_boot(&a);
	host_boot(&b);
	host_run(&a, 10000, &inputs_a);
	host_run(&b, 10000, &inputs_b);
	assert_int_equal(report_of(&a).hash, report_of(&b).hash);
	assert_int_equal(a.frame_hash, b.frame_hash);
	assert_memory_equal(vm_ram(a.vm), vm_ram(b.vm), MEMORY);
	assert_memory_equal(a.bytes, b.bytes, DISK_SIZE);
	host_end(&a);
	host_end(&b);
}

/* At any step, set-up included: a copy must go on as the original does. Requests in
 * flight are submitted anew in the copy, so both complete all of them first. */
static void test_twin_goes_on_alike(void **state)
{
	uint64_t chance = seed;
	for (unsigned i = 0; i < 60; i++) {
		struct host a, b;
		uint64_t inputs_a = seed + i, inputs_b;
		host_boot(&a);
		host_run(&a, (unsigned)(random_next(&chance) % 3000), &inputs_a);
		host_make(&b);
		while (disk_memory_complete(a.disk, 0) == 0)
			;
		host_copy(&b, &a);
		inputs_b = inputs_a;
		struct error e = {0};
		assert_int_equal(vm_start(b.vm, &e), 0);
		host_run(&a, 1000, &inputs_a);
		host_run(&b, 1000, &inputs_b);
		assert_int_equal(report_of(&a).hash, report_of(&b).hash);
		assert_int_equal(a.frame_hash, b.frame_hash);
		assert_memory_equal(vm_ram(a.vm), vm_ram(b.vm), MEMORY);
		host_check(&a);
		host_check(&b);
		host_end(&a);
		host_end(&b);
	}
}

static void lazy_pair(uint64_t inputs, unsigned steps)
{
	static uint8_t ram[MEMORY];
	uint64_t all[PAGES / 64] = {UINT64_MAX}, inputs_b;
	struct feeder f = {.from = ram, .seed = (unsigned)inputs};
	struct error e = {0};
	struct host a, b;
	host_boot(&a);
	host_run(&a, steps, &inputs);
	host_make(&b);
	while (disk_memory_complete(a.disk, 0) == 0)
		;
	host_copy(&b, &a);
	memcpy(ram, vm_ram(a.vm), MEMORY);
	inputs_b = inputs;
	if (feeder_begin(&f, b.vm, all, &e) || feeder_start(&f) || vm_start(b.vm, &e))
		fail_msg("%s", e.text);
	host_run(&b, 1000, &inputs_b);
	feeder_join(&f);
	assert_int_equal(vm_lazy_left(f.lazy), 0);
	vm_lazy_end(f.lazy);
	feeder_free(&f);
	host_run(&a, 1000, &inputs);
	assert_int_equal(report_of(&a).hash, report_of(&b).hash);
	assert_int_equal(a.frame_hash, b.frame_hash);
	assert_memory_equal(vm_ram(a.vm), vm_ram(b.vm), MEMORY);
	host_check(&b);
	host_end(&a);
	host_end(&b);
}

/* A copy whose memory comes page by page goes on alike, too. */
static void test_lazy_twin_goes_on_alike(void **state)
{
	uint64_t chance = seed + 2;
	struct error e = {0};
	struct host h;
	int rc;
	host_make(&h);
	rc = vm_lazy_prepare(h.vm, &e);
	host_end(&h);
	if (rc) {
		print_message("%s\n", e.text);
		skip();
	}
	for (unsigned i = 0; i < 20; i++)
		lazy_pair(seed + i, (unsigned)(random_next(&chance) % 3000));
}

/* With requests in flight the two may differ in order, but both must stay right. */
static void test_twin_with_requests_in_flight(void **state)
{
	uint64_t chance = seed + 1;
	for (unsigned i = 0; i < 60; i++) {
		struct host a, b;
		uint64_t inputs = seed + i;
		struct error e = {0};
		host_boot(&a);
		host_run(&a, 500 + (unsigned)(random_next(&chance) % 2000), &inputs);
		host_make(&b);
		host_copy(&b, &a);
		assert_int_equal(vm_start(b.vm, &e), 0);
		host_run(&b, 1000, &inputs);
		host_check(&b);
		assert_true(report_of(&b).written > report_of(&a).written);
		host_end(&a);
		host_end(&b);
	}
}

/* What log-dirty reports must be enough to keep a copy equal. */
static void test_log_dirty_is_complete(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	uint64_t map[PAGES / 64] = {0};
	uint8_t *copy = malloc(MEMORY);
	assert_non_null(copy);
	host_boot(&h);
	host_run(&h, SETUP, &inputs);
	assert_int_equal(vm_log_dirty(h.vm, true), 0);
	memcpy(copy, vm_ram(h.vm), MEMORY);
	for (unsigned epoch = 0; epoch < 100; epoch++) {
		host_run(&h, 100, &inputs);
		memset(map, 0, sizeof(map));
		assert_int_equal(vm_dirty_harvest(h.vm, map), 0);
		for (uint64_t p = bitmap_next(map, PAGES, 0); p < PAGES;
		     p = bitmap_next(map, PAGES, p + 1))
			memcpy(copy + p * VM_PAGE_SIZE, vm_ram(h.vm) + p * VM_PAGE_SIZE,
			       VM_PAGE_SIZE);
		assert_memory_equal(copy, vm_ram(h.vm), MEMORY);
	}
	free(copy);
	host_end(&h);
}

/* The checks can fail: half an epoch in RAM, an old block on the disk. */
static void test_damage_is_seen(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	struct error e = {0};
	uint8_t old[DISK_SIZE];
	host_boot(&h);
	host_run(&h, 5000, &inputs);
	memcpy(old, h.bytes, DISK_SIZE);
	host_run(&h, 5000, &inputs);
	host_check(&h);
	assert_int_equal(vm_sim_check_disk(h.vm, 0, old, DISK_SIZE, &e), -EBADMSG);
	uint64_t *word = (uint64_t *)(vm_ram(h.vm) + MEMORY - VM_PAGE_SIZE);
	while (!*word)
		word++;
	*word ^= 4;
	assert_int_equal(vm_sim_check(h.vm, &e), -EBADMSG);
	*word ^= 4;
	assert_int_equal(vm_sim_check(h.vm, &e), 0);
	host_end(&h);
}

static void test_read_of_a_changed_block_is_seen(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	struct error e = {0};
	host_boot(&h);
	host_run(&h, 5000, &inputs);
	for (unsigned i = 0; i < 64; i++)
		h.bytes[i * 512 + 100] ^= 1;
	host_run(&h, 5000, &inputs);
	assert_int_equal(vm_sim_check(h.vm, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "block"));
	host_end(&h);
}

static void test_power_button(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	host_boot(&h);
	host_run(&h, SETUP, &inputs);
	vm_power_button(h.vm);
	for (unsigned i = 0; i < 100 && !h.over; i++)
		(void)!vm_step(h.vm, 1);
	assert_true(h.over);
	assert_int_equal(h.event, VM_EVENT_POWEROFF);
	assert_int_equal(vm_step(h.vm, 1), -ESHUTDOWN);
	host_end(&h);
}

static void test_crashed_disk(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	uint8_t old[DISK_SIZE];
	host_boot(&h);
	host_run(&h, 5000, &inputs);
	memcpy(old, h.bytes, DISK_SIZE);
	disk_memory_crash(h.disk);
	host_run(&h, 1000, &inputs);
	assert_memory_equal(old, h.bytes, DISK_SIZE);
	host_end(&h);
}

/* Damaged states are refused with a sentence, or at least do no harm. */
static void test_damaged_state(void **state)
{
	struct host a;
	uint64_t inputs = seed, chance = seed;
	struct buf good = {0};
	host_boot(&a);
	host_run(&a, 3000, &inputs);
	assert_int_equal(vm_state_save(a.vm, &good, NULL), 0);
	for (size_t n = 0; n < good.len; n += 7)
		assert_true(vm_state_check(a.vm, good.data, n, NULL) < 0);
	assert_int_equal(vm_state_check(a.vm, good.data, good.len, NULL), 0);
	unsigned refused = 0, tried = 400;
	for (unsigned i = 0; i < tried; i++) {
		struct host b;
		struct error e = {0};
		uint8_t *bad = malloc(good.len);
		memcpy(bad, good.data, good.len);
		bad[random_next(&chance) % good.len] ^= (uint8_t)(1 + random_next(&chance) % 255);
		host_make(&b);
		b.damaged = true;
		memcpy(vm_ram(b.vm), vm_ram(a.vm), MEMORY);
		if (vm_state_load(b.vm, bad, good.len, &e)) {
			assert_true(e.text[0] != 0);
			refused++;
		} else if (vm_start(b.vm, &e) == 0) {
			for (unsigned k = 0; k < 200; k++)
				(void)!vm_step(b.vm, 1);
		}
		free(bad);
		host_end(&b);
	}
	print_message("%u of %u damaged states were refused\n", refused, tried);
	assert_true(refused > 0);
	buf_free(&good);
	host_end(&a);
}

/* The state with one section more, in *out. */
static void section_add(const struct buf *good, uint16_t id, uint16_t flags, struct buf *out)
{
	size_t began, at;
	buf_reset(out);
	began = state_start(out);
	buf_put(out, good->data + 16, good->len - 16);
	at = state_section_begin(out, id, 7, 1, flags);
	buf_put_u64(out, 999);
	state_section_end(out, at);
	assert_int_equal(state_finish(out, began), 0);
}

/* As a later version may add one: an engine's, a device's, or of no kind that exists. */
static void test_unknown_sections(void **state)
{
	static const uint16_t ids[] = {0, STATE_CONFIG, STATE_VCPU, 15, STATE_SERIAL, 999};
	struct host a, b;
	uint64_t inputs = seed;
	struct buf good = {0}, bad = {0};
	host_boot(&a);
	host_run(&a, 3000, &inputs);
	host_make(&b);
	memcpy(vm_ram(b.vm), vm_ram(a.vm), MEMORY);
	memcpy(b.bytes, a.bytes, DISK_SIZE);
	assert_int_equal(vm_state_save(a.vm, &good, NULL), 0);
	for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
		struct error e = {0};
		section_add(&good, ids[i], STATE_MANDATORY, &bad);
		assert_true(vm_state_check(b.vm, bad.data, bad.len, NULL) < 0);
		assert_true(vm_state_load(b.vm, bad.data, bad.len, &e) < 0);
		assert_non_null(strstr(e.text, "section"));
		section_add(&good, ids[i], 0, &bad);
		e = (struct error){0};
		if (vm_state_check(b.vm, bad.data, bad.len, &e))
			fail_msg("section %u: %s", ids[i], e.text);
	}
	assert_int_equal(vm_state_load(b.vm, bad.data, bad.len, NULL), 0);
	assert_int_equal(vm_start(b.vm, NULL), 0);
	b.last_sequence = a.last_sequence;
	host_run(&b, 1000, &inputs);
	host_check(&b);
	buf_free(&good);
	buf_free(&bad);
	host_end(&a);
	host_end(&b);
}

/* One version up or down of each section, devices' like the engine's. */
static void test_unknown_versions(void **state)
{
	struct host h;
	uint64_t inputs = seed;
	struct buf good = {0};
	struct state_view v;
	host_boot(&h);
	host_run(&h, 3000, &inputs);
	assert_int_equal(vm_state_save(h.vm, &good, NULL), 0);
	assert_int_equal(state_open(good.data, good.len, &v, NULL), 0);
	for (unsigned i = 0; i < v.count; i++) {
		uint8_t *version = (uint8_t *)v.sections[i].data - 12;
		for (uint8_t was = *version, k = 0; k < 2; k++) {
			struct error e = {0};
			*version = k ? 0 : (uint8_t)(was + 1);
			assert_true(vm_state_check(h.vm, good.data, good.len, &e) < 0);
			assert_non_null(strstr(e.text, "version"));
			*version = was;
		}
	}
	assert_int_equal(vm_state_check(h.vm, good.data, good.len, NULL), 0);
	buf_free(&good);
	host_end(&h);
}

/* Numbers, not a test: what a hundred thousand schedules may cost. */
static void test_speed_is_told(void **state)
{
	struct host h;
	uint64_t inputs = seed, from = clock_ns();
	for (unsigned i = 0; i < 200; i++) {
		host_boot(&h);
		host_end(&h);
	}
	uint64_t made = clock_ns();
	for (unsigned i = 0; i < 200; i++) {
		host_boot(&h);
		assert_int_equal(vm_step(h.vm, 400), 0);
		assert_true(report_of(&h).running);
		host_end(&h);
	}
	uint64_t set_up = clock_ns();
	host_boot(&h);
	host_run(&h, 200000, &inputs);
	uint64_t ran = clock_ns();
	print_message("create and destroy %llu us; the same with set-up %llu us; %llu ns a step\n",
		      (unsigned long long)((made - from) / 200 / 1000),
		      (unsigned long long)((set_up - made) / 200 / 1000),
		      (unsigned long long)((ran - set_up) / 200000));
	host_end(&h);
}

static void more_memory_than_the_host_has_is_refused(void **state)
{
	struct vm_config c = {
		.name = "huge", .memory = UINT64_C(1) << 46, .vcpus = 1, .engine = "sim"};
	struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct error e = {0};
	struct vm *vm;

	assert_int_equal(vm_create(&c, &parts, &vm, &e), -ENOMEM);
	assert_non_null(strstr(e.text, "67108864 MiB, is more than this host has"));
}

int main(void)
{
	const char *given = getenv("POLLUX_SEED");
	seed = given ? strtoull(given, NULL, 0) : clock_ns();
	print_message("POLLUX_SEED=%llu\n", (unsigned long long)seed);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_uses_its_devices),
		cmocka_unit_test(test_same_seed_same_life),
		cmocka_unit_test(test_twin_goes_on_alike),
		cmocka_unit_test(test_lazy_twin_goes_on_alike),
		cmocka_unit_test(test_twin_with_requests_in_flight),
		cmocka_unit_test(test_log_dirty_is_complete),
		cmocka_unit_test(test_damage_is_seen),
		cmocka_unit_test(test_read_of_a_changed_block_is_seen),
		cmocka_unit_test(test_power_button),
		cmocka_unit_test(test_crashed_disk),
		cmocka_unit_test(test_damaged_state),
		cmocka_unit_test(test_unknown_sections),
		cmocka_unit_test(test_unknown_versions),
		cmocka_unit_test(test_speed_is_told),
		cmocka_unit_test(more_memory_than_the_host_has_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

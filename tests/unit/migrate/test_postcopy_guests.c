// SPDX-License-Identifier: Apache-2.0
/* Guests that run at the target while their memory comes, over links that are cut. */
#include "tests/unit/hypervisor/kvm_guest.h"
#include "tests/unit/migrate/postlink.h"

#define MEMORY (UINT64_C(16) << 20)
#define PAGES  (MEMORY / VM_PAGE_SIZE)

static unsigned seed, cuts_wanted, cuts_made;

static struct vm *prepared(struct vm *vm)
{
	struct error e = {0};

	if (!vm_lazy_prepare(vm, &e))
		return vm;
	print_message("%s\n", e.text);
	vm_destroy(vm);
	skip();
	return NULL;
}

static void state_move(struct vm *from, struct vm *to)
{
	struct buf state = {0};
	struct error e = {0};

	if (vm_state_save(from, &state, &e) || vm_state_load(to, state.data, state.len, &e))
		fail_msg("%s", e.text);
	buf_free(&state);
}

/* The guest has stopped at the source. Half of its pages are missing, or all. */
static void move(struct post *p, bool half)
{
	state_move(p->from, p->to);
	for (uint64_t i = 0; i < vm_ram_pages(p->from); i++)
		if (!half || rand_r(&seed) % 2)
			bitmap_set(p->missing, i);
	post_switch(p);
}

/* False: all had come before that. */
static bool cut_once(struct post *p)
{
	struct error e = {0};
	int rc;

	post_cut(p);
	if (post_wait_any(&p->at_source, POSTCOPY_CUT, POSTCOPY_DONE) == POSTCOPY_DONE)
		return false;
	cuts_made++;
	if (rand_r(&seed) % 2)
		(void)post_wait_any(&p->at_target, POSTCOPY_CUT, POSTCOPY_DONE);
	usleep((unsigned)rand_r(&seed) % 3000);
	rc = postcopy_source_connect(p->source, NULL, POST_SOON, &e);
	if (rc && rc != -EALREADY)
		fail_msg("%s", e.text);
	return !rc &&
	       post_wait_any(&p->at_source, POSTCOPY_RUNNING, POSTCOPY_DONE) == POSTCOPY_RUNNING;
}

/* Cuts what there is and connects again, until all has come. */
static void cut_until_done(struct post *p, unsigned cuts)
{
	struct postcopy_stats s;

	cuts_wanted += cuts;
	postcopy_target_stats(p->target, &s);
	for (uint64_t part = s.left / (cuts + 1); cuts; cuts--) {
		post_wait_left(p, cuts * part);
		if (!cut_once(p))
			break;
	}
	post_wait(&p->at_target, POSTCOPY_DONE);
	post_wait(&p->at_source, POSTCOPY_DONE);
	postcopy_target_stats(p->target, &s);
	print_message("%s: %lu waited for, %lu pushed, %lu links; waits: mean %.0f us, most %.0f "
		      "us\n",
		      vm_engine_name(p->to), s.faults, s.pushed, s.links,
		      (double)s.wait_ns / 1e3 / (double)(s.faults + 1),
		      (double)s.wait_max_ns / 1e3);
}

/* ---- guests of a few instructions, on vCPUs ------------------------------------------------ */

#define DIRTY_PAGES 1000u

/* What the dirtier has written after so many loops. */
static void dirtier_do(uint64_t *area, uint64_t loops)
{
	const uint64_t by = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t x = by;

	memset(area, 0, DIRTY_PAGES * VM_PAGE_SIZE);
	for (uint64_t i = 0; i < loops; i++) {
		x = x * by + 12345;
		area[((x >> 33) % DIRTY_PAGES * VM_PAGE_SIZE + (x & 0xff8)) / 8]++;
	}
}

static void dirtier_check(struct vm *vm)
{
	static uint64_t area[DIRTY_PAGES * VM_PAGE_SIZE / 8];
	const void *is = vm_ram(vm) + GUEST_DIRTY_AREA;
	uint64_t loops;

	assert_int_equal(vm_pause(vm), 0);
	loops = guest_count(vm, COUNT_LOOP);
	dirtier_do(area, loops);
	if (memcmp(area, is, sizeof(area))) { /* it has stored, and not counted yet */
		dirtier_do(area, loops + 1);
		assert_memory_equal(area, is, sizeof(area));
	}
	assert_int_equal(vm_resume(vm), 0);
}

static void smp_check(struct guest *g)
{
	for (unsigned i = 0; i < 3; i++)
		guest_wait_count(g, COUNT_CPU0 + i, guest_count(g->vm, COUNT_CPU0 + i) + 100);
}

static void vcpus_move(const struct engine_ops *engine, enum guest_kind kind, unsigned streams,
		       bool half, unsigned cuts)
{
	struct guest from = {.kind = kind}, to = {.kind = kind};
	unsigned vcpus = kind == GUEST_SMP ? 3 : 1;
	struct post p;

	guest_engine = engine;
	if (kind == GUEST_SMP)
		from.param[0] = 2;
	else
		memcpy(from.param, (uint64_t[]){GUEST_DIRTY_AREA, DIRTY_PAGES, 0},
		       sizeof(from.param));
	guest_make(&to, vcpus, MEMORY);
	prepared(to.vm);
	guest_boot(&from, kind, vcpus, MEMORY);
	post_make(&p, from.vm, to.vm, streams);
	p.config.bytes_per_second = UINT64_C(48) << 20;
	post_sides(&p);
	post_connect(&p);
	guest_wait_count(&from, COUNT_LOOP, 1000);
	if (kind == GUEST_SMP)
		guest_wait_count(&from, COUNT_ONLINE, 2);
	assert_int_equal(vm_pause(from.vm), 0);
	move(&p, half);
	guest_start(&to);
	postcopy_target_go(p.target);
	cut_until_done(&p, cuts);
	guest_wait_count(&to, COUNT_LOOP, guest_count(to.vm, COUNT_LOOP) + 1000);
	if (kind == GUEST_SMP)
		smp_check(&to);
	else
		dirtier_check(to.vm);
	post_end(&p);
	guest_end(&from);
	guest_end(&to);
}

static void engine_moves(const struct engine_ops *engine)
{
	vcpus_move(engine, GUEST_DIRTIER, 1, false, 0);
	vcpus_move(engine, GUEST_DIRTIER, 4, true, 0);
	vcpus_move(engine, GUEST_DIRTIER, 4, false, 3);
	vcpus_move(engine, GUEST_SMP, 2, false, 3);
}

static void test_soft(void **state)
{
	engine_moves(&engine_soft);
}

static void test_kvm(void **state)
{
	if (guest_no_kvm())
		skip();
	engine_moves(&engine_kvm);
}

/* On a busy machine all may have come before a cut, but not before each. */
static void test_some_were_cut(void **state)
{
	print_message("%u of %u cuts\n", cuts_made, cuts_wanted);
	if (!cuts_wanted)
		skip();
	assert_true(cuts_made);
}

/* A link that never comes back: vCPUs that wait end with the target. */
static void test_given_up(void **state)
{
	struct guest from = {.kind = GUEST_SMP, .param = {2}}, to = {.kind = GUEST_SMP};
	struct post p;

	guest_engine = &engine_soft;
	guest_make(&to, 3, MEMORY);
	prepared(to.vm);
	guest_boot(&from, GUEST_SMP, 3, MEMORY);
	guest_wait_count(&from, COUNT_ONLINE, 2);
	post_make(&p, from.vm, to.vm, 2);
	post_sides(&p);
	post_connect(&p);
	assert_int_equal(vm_pause(from.vm), 0);
	move(&p, false);
	post_cut(&p);
	post_wait(&p.at_target, POSTCOPY_CUT);
	guest_start(&to);
	postcopy_target_go(p.target);
	usleep(5000);
	assert_false(vm_is_running(to.vm));
	post_end(&p);
	guest_end(&from);
	guest_end(&to);
}

/* ---- the fake guest, which knows what its memory has to be --------------------------------- */

static void sim_event(void *ctx, enum vm_event event, const char *detail)
{
}

static int sim_frame(void *ctx, const void *frame, size_t len)
{
	return 0;
}

struct sim {
	struct loop *io;
	struct net_backend *net;
	struct vm *vm;
	atomic_bool stop;
	pthread_t thread;
};

static void sim_make(struct sim *s)
{
	struct vm_config c = {.name = "post",
			      .memory = MEMORY / 8,
			      .vcpus = 1,
			      .engine = "sim",
			      .nic_count = 1,
			      .seed = 11};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = sim_event};
	struct error e = {0};

	atomic_store(&s->stop, false);
	c.nics[0].mac[0] = 2;
	assert_int_equal(loop_create(&s->io), 0);
	assert_int_equal(net_memory_create(sim_frame, s, &s->net), 0);
	parts.io = s->io;
	parts.nets[0] = s->net;
	if (vm_create(&c, &parts, &s->vm, &e))
		fail_msg("%s", e.text);
}

static void sim_end(struct sim *s)
{
	vm_destroy(s->vm);
	s->net->ops->destroy(s->net);
	loop_destroy(s->io);
}

static void *sim_main(void *ctx)
{
	struct sim *s = ctx;

	while (!atomic_load(&s->stop)) {
		if (vm_step(s->vm, 16) == -EBUSY)
			usleep(200);
		if (loop_step(s->io, 0))
			abort();
		usleep(50);
	}
	return NULL;
}

static void sim_move(unsigned streams, bool half, unsigned cuts)
{
	struct sim from, to;
	struct error e = {0};
	struct post p;

	sim_make(&to);
	prepared(to.vm);
	sim_make(&from);
	if (vm_boot(from.vm, &e) || vm_start(from.vm, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_step(from.vm, 20000), 0);
	post_make(&p, from.vm, to.vm, streams);
	p.config.bytes_per_second = UINT64_C(8) << 20;
	post_sides(&p);
	post_connect(&p);
	assert_int_equal(vm_pause(from.vm), 0);
	move(&p, half);
	if (vm_start(to.vm, &e))
		fail_msg("%s", e.text);
	assert_int_equal(thread_start(&to.thread, "guest", sim_main, &to), 0);
	postcopy_target_go(p.target);
	cut_until_done(&p, cuts);
	usleep(20000);
	atomic_store(&to.stop, true);
	pthread_join(to.thread, NULL);
	if (vm_sim_check(to.vm, &e))
		fail_msg("%s", e.text);
	post_end(&p);
	sim_end(&from);
	sim_end(&to);
}

static void test_sim(void **state)
{
	sim_move(1, false, 0);
	sim_move(4, true, 0);
	sim_move(1, false, 3);
	sim_move(4, false, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sim),      cmocka_unit_test(test_soft),
		cmocka_unit_test(test_kvm),      cmocka_unit_test(test_some_were_cut),
		cmocka_unit_test(test_given_up),
	};
	const char *given = getenv("POLLUX_SEED");

	seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)clock_ns();
	print_message("seed %u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

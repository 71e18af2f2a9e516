// SPDX-License-Identifier: Apache-2.0
/* Memory that goes over a postcopy link, whatever happens to the link. */
#include <poll.h>

#include "tests/unit/migrate/postlink.h"

#define MEMORY (UINT64_C(8) << 20)
#define PAGES  (MEMORY / VM_PAGE_SIZE)

static unsigned seed;

struct world {
	struct loop *io;
	struct post post;
};

/* Random pages, some of them zero. */
static void ram_fill(struct vm *vm)
{
	uint8_t *ram = vm_ram(vm);

	for (uint64_t i = 0; i < PAGES; i++)
		if (rand_r(&seed) % 4)
			for (unsigned k = 0; k < VM_PAGE_SIZE; k += 64)
				ram[i * VM_PAGE_SIZE + k] = (uint8_t)rand_r(&seed);
}

static void world_make(struct world *w, unsigned streams)
{
	struct vm *from, *to;
	struct error e = {0};

	assert_int_equal(loop_create(&w->io), 0);
	from = post_machine(w->io, MEMORY);
	to = post_machine(w->io, MEMORY);
	if (vm_lazy_prepare(to, &e)) {
		print_message("%s\n", e.text);
		vm_destroy(from);
		vm_destroy(to);
		loop_destroy(w->io);
		skip();
	}
	ram_fill(from);
	post_make(&w->post, from, to, streams);
}

static void world_end(struct world *w)
{
	struct vm *from = w->post.from, *to = w->post.to;

	post_end(&w->post);
	vm_destroy(from);
	vm_destroy(to);
	loop_destroy(w->io);
}

/* `of` in 16 pages are missing. */
static uint64_t missing_fill(struct post *p, unsigned of)
{
	for (uint64_t i = 0; i < PAGES; i++)
		if ((unsigned)rand_r(&seed) % 16 < of)
			bitmap_set(p->missing, i);
	return bitmap_count(p->missing, PAGES);
}

static void all_is_here(struct post *p, uint64_t missing)
{
	struct postcopy_stats source, target;

	post_wait(&p->at_target, POSTCOPY_DONE);
	post_wait(&p->at_source, POSTCOPY_DONE);
	assert_memory_equal(vm_ram(p->to), p->ram, MEMORY);
	postcopy_source_stats(p->source, &source);
	postcopy_target_stats(p->target, &target);
	assert_int_equal(source.missing, missing);
	assert_int_equal(target.missing, missing);
	assert_int_equal(source.left + target.left, 0);
	assert_int_equal(target.faults + target.pushed, missing);
	assert_true(target.wait_max_ns <= target.wait_ns);
	print_message("%lu missing, %lu waited for, %lu pushed, %lu links; waits: mean %.0f us, "
		      "most %.0f us\n",
		      missing, target.faults, target.pushed, target.links,
		      (double)target.wait_ns / 1e3 / (double)(target.faults + 1),
		      (double)target.wait_max_ns / 1e3);
}

static void go_over(unsigned of, unsigned streams, uint64_t bytes_per_second)
{
	struct world w;
	struct post *p = &w.post;
	uint64_t missing;

	world_make(&w, streams);
	p->config.bytes_per_second = bytes_per_second;
	post_sides(p);
	missing = missing_fill(p, of);
	post_connect(p);
	post_wait(&p->at_source, POSTCOPY_READY);
	post_wait(&p->at_target, POSTCOPY_READY);
	post_switch(p);
	post_touch(p, seed);
	postcopy_target_go(p->target);
	all_is_here(p, missing);
	post_touch_end(p);
	world_end(&w);
}

static void test_all_missing(void **state)
{
	go_over(16, 1, 0);
	go_over(16, 4, 0);
	go_over(16, 16, 0);
}

static void test_half_missing(void **state)
{
	go_over(8, 1, 0);
	go_over(8, 4, 0);
	go_over(1, 4, UINT64_C(1) << 20);
}

static void test_none_missing(void **state)
{
	go_over(0, 2, 0);
}

/* Before the push may begin, what is touched comes, and nothing else. */
static void test_only_what_is_touched(void **state)
{
	struct postcopy_stats s;
	struct world w;
	struct post *p = &w.post;

	world_make(&w, 2);
	post_sides(p);
	missing_fill(p, 16);
	post_connect(p);
	post_switch(p);
	for (unsigned i = 0; i < 50; i++) {
		uint64_t at = (i * 37 + 5) * VM_PAGE_SIZE;

		assert_memory_equal(vm_ram(p->to) + at, p->ram + at, VM_PAGE_SIZE);
	}
	post_wait_left(p, PAGES - 50); /* counted after who touched it goes on */
	postcopy_target_stats(p->target, &s);
	assert_int_equal(s.faults, 50);
	assert_int_equal(s.left, PAGES - 50);
	assert_int_equal(s.pushed, 0);
	world_end(&w);
}

/* ---- a link that is cut --------------------------------------------------------------- */

static void connect_again(struct post *p, bool other_session)
{
	struct postcopy_config c = p->config;
	struct error e = {0};
	int rc;

	if (other_session) {
		memset(c.session, rand_r(&seed) % 255 + 1, SESSION_ID_SIZE);
		memset(c.key, rand_r(&seed), SESSION_KEY_SIZE);
		c.term++;
		p->config = c;
		postcopy_target_session(p->target, &c);
	}
	/* A cut that is planned may come in the middle of it. */
	do {
		memset(&e, 0, sizeof(e));
		rc = postcopy_source_connect(p->source, &c, POST_SOON, &e);
	} while (rc && rc != -EALREADY && rc != -EBUSY);
}

/* Waits until all is there, or the link is cut: how often it has been, or 0. */
static unsigned cut_seen(struct post *p)
{
	unsigned cuts;

	pthread_mutex_lock(&p->lock);
	while (p->at_source.state != POSTCOPY_CUT && p->at_source.state != POSTCOPY_DONE)
		pthread_cond_wait(&p->changed, &p->lock);
	cuts = p->at_source.state == POSTCOPY_CUT ? p->at_source.cuts : 0;
	pthread_mutex_unlock(&p->lock);
	return cuts;
}

static void cut_and_recover(unsigned streams, int64_t most_bytes)
{
	struct world w;
	struct post *p = &w.post;
	unsigned n, cuts = 0;
	uint64_t missing;

	world_make(&w, streams);
	p->config.bytes_per_second = UINT64_C(64) << 20;
	post_sides(p);
	missing = missing_fill(p, 16);
	atomic_store(&p->bytes_left, rand_r(&seed) % most_bytes);
	connect_again(p, false);
	post_switch(p);
	post_touch(p, seed);
	postcopy_target_go(p->target);
	while ((n = cut_seen(p))) {
		cuts = n;
		atomic_store(&p->cut_one, rand_r(&seed) % 2);
		atomic_store(&p->bytes_left, cuts < 12 ? rand_r(&seed) % most_bytes : -1);
		connect_again(p, rand_r(&seed) % 3 == 0);
	}
	print_message("%u cuts\n", cuts);
	all_is_here(p, missing);
	post_touch_end(p);
	world_end(&w);
}

static void test_cut_anywhere(void **state)
{
	for (unsigned i = 0; i < 4; i++)
		cut_and_recover(i % 2 ? 4 : 1, INT64_C(1) << (14 + 3 * i));
}

static void test_silence(void **state)
{
	struct world w;
	struct post *p = &w.post;
	uint64_t missing;

	world_make(&w, 2);
	p->config.loss_ns = 400 * NS_PER_MS;
	p->config.bytes_per_second = UINT64_C(2) << 20;
	post_sides(p);
	missing = missing_fill(p, 16);
	post_connect(p);
	post_switch(p);
	postcopy_target_go(p->target);
	atomic_store(&p->silent, true);
	post_touch(p, seed);
	post_wait(&p->at_source, POSTCOPY_CUT);
	post_wait(&p->at_target, POSTCOPY_CUT);
	atomic_store(&p->silent, false);
	post_cut(p);
	connect_again(p, true);
	while (cut_seen(p)) /* on a machine that is busy, silence is soon */
		connect_again(p, false);
	all_is_here(p, missing);
	post_touch_end(p);
	world_end(&w);
}

/* The source knows of the cut first: its new link takes the place of one that seems to live. */
static void test_source_is_cut_off(void **state)
{
	struct world w;
	struct post *p = &w.post;
	uint64_t missing;

	world_make(&w, 2);
	p->config.bytes_per_second = UINT64_C(2) << 20;
	post_sides(p);
	missing = missing_fill(p, 16);
	post_connect(p);
	post_switch(p);
	postcopy_target_go(p->target);
	atomic_store(&p->half_open, true);
	atomic_store(&p->silent, true);
	post_cut_source(p);
	post_wait(&p->at_source, POSTCOPY_CUT);
	usleep(10000);
	atomic_store(&p->silent, false);
	post_connect(p);
	all_is_here(p, missing);
	assert_int_equal(postcopy_source_connect(p->source, NULL, POST_SOON, NULL), -EALREADY);
	world_end(&w);
}

/* ---- an end in the middle ------------------------------------------------------------------ */

static void half_way(struct world *w, unsigned streams)
{
	struct post *p = &w->post;

	world_make(w, streams);
	p->config.bytes_per_second = UINT64_C(4) << 20;
	post_sides(p);
	missing_fill(p, 16);
	post_connect(p);
	post_switch(p);
	post_touch(p, seed);
	postcopy_target_go(p->target);
	usleep((unsigned)rand_r(&seed) % 30000);
}

static void test_source_destroyed(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct world w;
		struct post *p = &w.post;

		half_way(&w, i % 2 ? 4 : 1);
		postcopy_source_destroy(p->source);
		p->source = NULL;
		post_wait(&p->at_target, POSTCOPY_CUT);
		usleep(5000); /* the touchers wait, for what will never come */
		atomic_store(&p->given_up, true);
		atomic_store(&p->touch_stop, true);
		postcopy_target_destroy(p->target);
		p->target = NULL;
		post_touch_end(p);
		world_end(&w);
	}
}

static void test_target_destroyed(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct world w;
		struct post *p = &w.post;
		struct postcopy_target *target;

		half_way(&w, i % 2 ? 4 : 1);
		atomic_store(&p->given_up, true);
		atomic_store(&p->touch_stop, true);
		target = p->target;
		p->target = NULL;
		postcopy_target_destroy(target);
		post_wait(&p->at_source, POSTCOPY_CUT);
		assert_int_not_equal(
			postcopy_source_connect(p->source, NULL, clock_ns() + NS_PER_SEC, NULL), 0);
		post_touch_end(p);
		world_end(&w);
	}
}

/* ---- those who do not fit -------------------------------------------------------------------- */

static void refused(void (*change)(struct postcopy_config *c), int rc, const char *why)
{
	struct postcopy_config other;
	struct error e = {0};
	struct world w;
	struct post *p = &w.post;

	world_make(&w, 2);
	post_sides(p);
	other = p->config;
	change(&other);
	assert_int_equal(postcopy_source_connect(p->source, &other, POST_SOON, &e), rc);
	if (!strstr(e.text, why))
		fail_msg("%s", e.text);
	assert_int_equal(post_now(&p->at_source), POSTCOPY_WAITING);
	if (postcopy_source_connect(p->source, &p->config, POST_SOON, &e))
		fail_msg("%s", e.text);
	post_wait(&p->at_target, POSTCOPY_READY);
	assert_int_equal(postcopy_source_connect(p->source, NULL, POST_SOON, NULL), -EBUSY);
	world_end(&w);
}

static void other_key(struct postcopy_config *c)
{
	c->key[3] ^= 1;
}

static void old_term(struct postcopy_config *c)
{
	c->term--;
}

static void new_term(struct postcopy_config *c)
{
	c->term++;
}

static void more_streams(struct postcopy_config *c)
{
	c->streams++;
}

struct connecting {
	struct post *post;
	int rc;
};

static void *connecting_main(void *ctx)
{
	struct connecting *c = ctx;

	c->rc = postcopy_source_connect(c->post->source, NULL, POST_SOON, NULL);
	return NULL;
}

/* By a target that takes the connection and says nothing; nor is a later one made. */
static void test_connect_given_up(void **state)
{
	struct post post;
	struct connecting c = {.post = &post};
	const struct postcopy_events at = {post_state, &post.at_source};
	struct pollfd p = {.events = POLLIN};
	struct error e = {0};
	struct loop *io;
	pthread_t thread;

	assert_int_equal(loop_create(&io), 0);
	post_setup(&post, post_machine(io, MEMORY), NULL, 2);
	assert_int_equal(postcopy_source_create(post.from, &post.config, &at, &post.source, &e), 0);
	assert_int_equal(thread_start(&thread, "connect", connecting_main, &c), 0);
	p.fd = post.listener;
	assert_int_equal(poll(&p, 1, 60000), 1);
	postcopy_source_close(post.source);
	pthread_join(thread, NULL);
	assert_int_equal(c.rc, -ESHUTDOWN);
	assert_int_equal(postcopy_source_connect(post.source, NULL, POST_SOON, &e), -ESHUTDOWN);
	postcopy_source_destroy(post.source);
	close(post.listener);
	free(post.ram);
	free(post.missing);
	pthread_cond_destroy(&post.changed);
	pthread_mutex_destroy(&post.lock);
	vm_destroy(post.from);
	loop_destroy(io);
}

static void test_refused(void **state)
{
	refused(other_key, -EACCES, "");
	refused(old_term, -ESTALE, "term 6");
	refused(new_term, -EPERM, "term 8");
	refused(more_streams, -EINVAL, "cannot change");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_missing),
		cmocka_unit_test(test_half_missing),
		cmocka_unit_test(test_none_missing),
		cmocka_unit_test(test_only_what_is_touched),
		cmocka_unit_test(test_cut_anywhere),
		cmocka_unit_test(test_silence),
		cmocka_unit_test(test_source_is_cut_off),
		cmocka_unit_test(test_source_destroyed),
		cmocka_unit_test(test_target_destroyed),
		cmocka_unit_test(test_connect_given_up),
		cmocka_unit_test(test_refused),
	};
	const char *given = getenv("POLLUX_SEED");

	seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)clock_ns();
	print_message("seed %u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

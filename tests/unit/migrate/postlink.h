// SPDX-License-Identifier: Apache-2.0
/*
 * Both sides of postcopy in one process, over real TLS, through a relay that can cut the link
 * after a number of bytes, or fall silent. Threads touch the target's memory meanwhile, and
 * compare what they find.
 */
#ifndef POLLUX_TESTS_POSTLINK_H
#define POLLUX_TESTS_POSTLINK_H

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/postcopy.h"

#define POST_SOON       (clock_ns() + 60 * NS_PER_SEC)
#define POST_TOUCHERS   2
#define POST_RELAYS_MAX 1024u

struct post;
struct post_relay {
	struct post *post;
	int from, to;
	bool down; /* from the source to the target */
	pthread_t thread;
};

struct post_side {
	struct post *post;
	enum postcopy_state state;
	unsigned cuts;
	char why[256];
};

struct post_toucher {
	struct post *post;
	unsigned seed;
	pthread_t thread;
};

struct post {
	struct vm *from, *to;
	struct postcopy_config config;
	struct postcopy_source *source;
	struct postcopy_target *target;
	struct post_side at_source, at_target;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int listener;
	pthread_t acceptor;
	struct post_relay relays[POST_RELAYS_MAX];
	unsigned relay_count;
	_Atomic int64_t bytes_left; /* until a cut; less than 0 = none is planned */
	atomic_bool silent, cut_one;
	atomic_bool half_open; /* the target does not hear of the source's end */
	/* What memory has to be. */
	uint8_t *ram;
	uint64_t *missing;
	struct post_toucher touchers[POST_TOUCHERS];
	atomic_bool touch_stop, given_up;
	_Atomic uint64_t wrong; /* pages */
};

/* ---- states ------------------------------------------------------------------------ */

static inline void post_state(void *ctx, enum postcopy_state s, const char *why)
{
	struct post_side *side = ctx;

	pthread_mutex_lock(&side->post->lock);
	side->state = s;
	side->cuts += s == POSTCOPY_CUT;
	snprintf(side->why, sizeof(side->why), "%s", why);
	pthread_cond_broadcast(&side->post->changed);
	pthread_mutex_unlock(&side->post->lock);
}

/* Which of the two it is. */
static inline enum postcopy_state post_wait_any(struct post_side *side, enum postcopy_state a,
						enum postcopy_state b)
{
	enum postcopy_state s;
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	pthread_mutex_lock(&side->post->lock);
	while (side->state != a && side->state != b && !rc)
		rc = pthread_cond_timedwait(&side->post->changed, &side->post->lock, &until);
	s = side->state;
	pthread_mutex_unlock(&side->post->lock);
	if (s == a || s == b)
		return s;
	/* To go on with the next test would leave this one's threads on its stack. */
	fprintf(stderr, "it is %s (%s), neither %s nor %s\n", postcopy_state_name(s), side->why,
		postcopy_state_name(a), postcopy_state_name(b));
	abort();
}

static inline void post_wait(struct post_side *side, enum postcopy_state s)
{
	(void)post_wait_any(side, s, s);
}

static inline enum postcopy_state post_now(struct post_side *side)
{
	enum postcopy_state s;

	pthread_mutex_lock(&side->post->lock);
	s = side->state;
	pthread_mutex_unlock(&side->post->lock);
	return s;
}

static inline void post_wait_left(struct post *p, uint64_t left)
{
	struct postcopy_stats s;

	do {
		postcopy_target_stats(p->target, &s);
	} while (s.left > left && !usleep(500));
}

/* ---- the relay ------------------------------------------------------------------------ */

static inline void post_cut(struct post *p)
{
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->relay_count; i++) {
		shutdown(p->relays[i].from, SHUT_RDWR);
		shutdown(p->relays[i].to, SHUT_RDWR);
	}
	pthread_mutex_unlock(&p->lock);
}

/* Only the source's ends; in silence the target does not hear of it. */
static inline void post_cut_source(struct post *p)
{
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->relay_count; i++)
		shutdown(p->relays[i].down ? p->relays[i].from : p->relays[i].to, SHUT_RDWR);
	pthread_mutex_unlock(&p->lock);
}

/* False: here it is cut. */
static inline bool relay_give(struct post_relay *r, const uint8_t *data, size_t n)
{
	struct post *p = r->post;
	int64_t left = atomic_load(&p->bytes_left);

	if (atomic_load(&p->silent))
		return true;
	if (r->down && left >= 0) {
		left = atomic_fetch_sub(&p->bytes_left, (int64_t)n);
		if (left < (int64_t)n) {
			atomic_store(&p->bytes_left, -1);
			if (left > 0 && fd_write_all(r->to, data, (size_t)left))
				return false;
			if (!atomic_load(&p->cut_one))
				post_cut(p);
			return false;
		}
	}
	return !fd_write_all(r->to, data, n);
}

static inline void *relay_main(void *ctx)
{
	struct post_relay *r = ctx;
	uint8_t data[16384];
	ssize_t n;

	while ((n = read(r->from, data, sizeof(data))) > 0)
		if (!relay_give(r, data, (size_t)n))
			break;
	if (n <= 0 && atomic_load(&r->post->half_open))
		return NULL;
	if (n > 0)
		shutdown(r->from, SHUT_RDWR);
	shutdown(r->to, n > 0 ? SHUT_RDWR : SHUT_WR);
	return NULL;
}

static inline void relay_add(struct post *p, int from, int to, bool down)
{
	struct post_relay *r = &p->relays[p->relay_count];

	if (p->relay_count == POST_RELAYS_MAX)
		abort();
	*r = (struct post_relay){.post = p, .from = dup(from), .to = dup(to), .down = down};
	if (thread_start(&r->thread, "relay", relay_main, r))
		abort();
	p->relay_count++;
}

static inline void *post_accept_main(void *ctx)
{
	struct post *p = ctx;
	uint8_t bytes[PREAMBLE_SIZE];
	struct preamble preamble;
	int fd, ends[2];

	while ((fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		if (fd_read_all(fd, bytes, sizeof(bytes)) ||
		    preamble_decode(bytes, &preamble, NULL) ||
		    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
			abort();
		pthread_mutex_lock(&p->lock);
		relay_add(p, fd, ends[0], true);
		relay_add(p, ends[0], fd, false);
		pthread_mutex_unlock(&p->lock);
		close(fd);
		close(ends[0]);
		if (!p->target)
			close(ends[1]);
		else if (postcopy_target_add_stream(p->target, preamble.stream, ends[1]))
			print_message("stream %u is not taken\n", preamble.stream);
	}
	return NULL;
}

static inline void post_listen(struct post *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(p->listener >= 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(p->listener, 64), 0);
	assert_int_equal(getsockname(p->listener, (struct sockaddr *)&a, &len), 0);
	p->config.port = ntohs(a.sin_port);
	strcpy(p->config.address, "127.0.0.1");
}

/* ---- machines ------------------------------------------------------------------------------ */

static inline void post_event(void *ctx, enum vm_event event, const char *detail)
{
}

static inline struct vm *post_machine(struct loop *io, uint64_t memory)
{
	struct vm_config c = {
		.name = "post", .memory = memory, .vcpus = 1, .engine = "sim", .seed = 3};
	struct vm_parts parts = {
		.io = io, .console_in = -1, .console_out = -1, .on_event = post_event};
	struct error e = {0};
	struct vm *vm;

	if (vm_create(&c, &parts, &vm, &e))
		fail_msg("%s", e.text);
	return vm;
}

/* ---- begin and end ------------------------------------------------------------------------ */

static inline void post_setup(struct post *p, struct vm *from, struct vm *to, unsigned streams)
{
	*p = (struct post){.from = from, .to = to};
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	p->at_source.post = p->at_target.post = p;
	atomic_store(&p->bytes_left, -1);
	postcopy_config_defaults(&p->config);
	p->config.streams = streams;
	p->config.term = 7;
	p->config.heartbeat_ns = 50 * NS_PER_MS;
	p->config.loss_ns = 10 * NS_PER_SEC; /* only where silence is the subject it is short */
	memset(p->config.session, 0x51, SESSION_ID_SIZE);
	memset(p->config.key, 0x52, SESSION_KEY_SIZE);
	post_listen(p);
	if (from) {
		p->missing = calloc(bitmap_words(vm_ram_pages(from)), sizeof(*p->missing));
		p->ram = malloc(vm_ram_pages(from) * VM_PAGE_SIZE);
		assert_true(p->ram && p->missing);
	}
}

static inline void post_make(struct post *p, struct vm *from, struct vm *to, unsigned streams)
{
	post_setup(p, from, to, streams);
}

static inline void post_sides(struct post *p)
{
	const struct postcopy_events source = {post_state, &p->at_source};
	const struct postcopy_events target = {post_state, &p->at_target};
	struct error e = {0};

	if (postcopy_source_create(p->from, &p->config, &source, &p->source, &e) ||
	    postcopy_target_create(p->to, &p->config, &target, &p->target, &e))
		fail_msg("%s", e.text);
	assert_int_equal(thread_start(&p->acceptor, "accept", post_accept_main, p), 0);
}

static inline void post_connect(struct post *p)
{
	struct error e = {0};

	if (postcopy_source_connect(p->source, NULL, POST_SOON, &e))
		fail_msg("%s", e.text);
}

static inline void post_end(struct post *p)
{
	postcopy_source_destroy(p->source);
	shutdown(p->listener, SHUT_RDWR);
	pthread_join(p->acceptor, NULL);
	close(p->listener);
	postcopy_target_destroy(p->target);
	post_cut(p);
	for (unsigned i = 0; i < p->relay_count; i++) {
		pthread_join(p->relays[i].thread, NULL);
		close(p->relays[i].from);
		close(p->relays[i].to);
	}
	free(p->ram);
	free(p->missing);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The source stands still. The target gets what is not missing; the rest of it is garbage. */
static inline void post_switch(struct post *p)
{
	uint64_t pages = vm_ram_pages(p->from);
	struct error e = {0};

	memcpy(p->ram, vm_ram(p->from), pages * VM_PAGE_SIZE);
	memset(vm_ram(p->to), 0xee, pages * VM_PAGE_SIZE);
	for (uint64_t i = 0; i < pages; i++)
		if (!bitmap_test(p->missing, i))
			memcpy(vm_ram(p->to) + i * VM_PAGE_SIZE, p->ram + i * VM_PAGE_SIZE,
			       VM_PAGE_SIZE);
	assert_int_equal(postcopy_source_serve(p->source, p->missing), 0);
	if (postcopy_target_start(p->target, p->missing, &e))
		fail_msg("%s", e.text);
}

static inline void *toucher_main(void *ctx)
{
	struct post_toucher *t = ctx;
	struct post *p = t->post;
	uint64_t pages = vm_ram_pages(p->to);

	while (!atomic_load(&p->touch_stop)) {
		uint64_t at = (uint64_t)rand_r(&t->seed) % pages * VM_PAGE_SIZE;
		bool right = !memcmp(vm_ram(p->to) + at, p->ram + at, VM_PAGE_SIZE);

		if (!right && !atomic_load(&p->given_up))
			atomic_fetch_add(&p->wrong, 1);
		usleep(200);
	}
	return NULL;
}

static inline void post_touch(struct post *p, unsigned seed)
{
	for (unsigned i = 0; i < POST_TOUCHERS; i++) {
		p->touchers[i] = (struct post_toucher){.post = p, .seed = seed + i};
		assert_int_equal(thread_start(&p->touchers[i].thread, "toucher", toucher_main,
					      &p->touchers[i]),
				 0);
	}
}

static inline void post_touch_end(struct post *p)
{
	atomic_store(&p->touch_stop, true);
	for (unsigned i = 0; i < POST_TOUCHERS; i++)
		pthread_join(p->touchers[i].thread, NULL);
	assert_int_equal(atomic_load(&p->wrong), 0);
}

#endif

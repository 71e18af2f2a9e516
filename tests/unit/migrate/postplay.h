// SPDX-License-Identifier: Apache-2.0
/* One side of a postcopy link, of which the test plays the other: record by record. */
#ifndef POLLUX_TESTS_POSTPLAY_H
#define POLLUX_TESTS_POSTPLAY_H

#include "tests/unit/migrate/postlink.h"

#define MEMORY (UINT64_C(1) << 20)
#define PAGES  (MEMORY / VM_PAGE_SIZE)
#define WORDS  (PAGES / 64)

struct world {
	struct loop *io;
	struct post post;
	struct channel *streams[2]; /* the test's ends: control, one push stream */
};

static inline void world_make(struct world *w)
{
	struct error e = {0};
	struct vm *vm;

	memset(w, 0, sizeof(*w));
	assert_int_equal(loop_create(&w->io), 0);
	vm = post_machine(w->io, MEMORY);
	for (uint64_t i = 0; i < PAGES; i++)
		memset(vm_ram(vm) + i * VM_PAGE_SIZE, (int)(i % 251) + 1, VM_PAGE_SIZE);
	if (vm_lazy_prepare(vm, &e)) {
		print_message("%s\n", e.text);
		vm_destroy(vm);
		loop_destroy(w->io);
		skip();
	}
	post_make(&w->post, vm, vm, 1);
}

static inline void streams_close(struct world *w)
{
	for (unsigned i = 0; i < 2; i++) {
		channel_close(w->streams[i]);
		w->streams[i] = NULL;
	}
}

static inline void world_end(struct world *w)
{
	struct post *p = &w->post;
	struct vm *vm = p->from;

	streams_close(w);
	postcopy_source_destroy(p->source);
	postcopy_target_destroy(p->target);
	close(p->listener);
	free(p->ram);
	free(p->missing);
	vm_destroy(vm);
	loop_destroy(w->io);
}

static inline void say(struct world *w, unsigned stream, uint16_t type, const void *data, size_t n)
{
	struct iovec iov = {(void *)data, n};

	assert_int_equal(channel_send(w->streams[stream], type, RECORD_MANDATORY, &iov, n ? 1 : 0,
				      POST_SOON),
			 0);
}

/* The next record that is no heartbeat. */
static inline void hear(struct world *w, unsigned stream, struct record *r)
{
	do {
		assert_int_equal(channel_receive(w->streams[stream], r, POST_SOON), 0);
	} while (r->type == LINK_BEAT);
}

static inline void hear_refusal(struct world *w, const char *why)
{
	struct error e = {0};
	struct record r;

	do {
		hear(w, 0, &r);
	} while (r.type != LINK_REFUSE);
	assert_int_equal(link_refuse_decode(r.payload, r.len, &e), -EPERM);
	if (!strstr(e.text, why))
		fail_msg("\"%s\" is not in \"%s\"", why, e.text);
}

static inline void auth_fill(const struct post *p, unsigned stream, struct channel_auth *a)
{
	*a = (struct channel_auth){.stream = (uint16_t)(POSTCOPY_STREAM + stream)};
	memcpy(a->session, p->config.session, SESSION_ID_SIZE);
	memcpy(a->key, p->config.key, SESSION_KEY_SIZE);
}

/* ---- the test is the source ---------------------------------------------------------------- */

static inline void hello_fill(const struct post *p, unsigned stream, uint64_t number,
			      struct link_hello *h)
{
	*h = (struct link_hello){.stream = (uint16_t)(POSTCOPY_STREAM + stream),
				 .streams = 1,
				 .term = p->config.term,
				 .ram_pages = PAGES,
				 .number = number};
	memcpy(h->session, p->config.session, SESSION_ID_SIZE);
}

static inline void target_dial(struct world *w, unsigned stream)
{
	struct channel_auth auth;
	struct error e = {0};
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(postcopy_target_add_stream(w->post.target,
						    (uint16_t)(POSTCOPY_STREAM + stream), ends[1]),
			 0);
	auth_fill(&w->post, stream, &auth);
	if (channel_connect(ends[0], &auth, POST_SOON, &w->streams[stream], &e))
		fail_msg("%s", e.text);
}

static inline void target_link(struct world *w, uint64_t number)
{
	for (unsigned i = 0; i < 2; i++) {
		struct link_hello h;
		struct buf b = {0};
		struct record r;

		target_dial(w, i);
		hello_fill(&w->post, i, number, &h);
		link_hello_encode(&h, &b);
		say(w, i, LINK_HELLO, b.data, b.len);
		buf_free(&b);
		hear(w, i, &r);
		assert_int_equal(r.type, LINK_OK);
	}
}

static inline void target_create(struct world *w)
{
	struct post *p = &w->post;
	const struct postcopy_events ev = {post_state, &p->at_target};
	struct error e = {0};

	if (postcopy_target_create(p->to, &p->config, &ev, &p->target, &e))
		fail_msg("%s", e.text);
}

static inline void target_make(struct world *w)
{
	world_make(w);
	target_create(w);
}

/* ---- the test is the target ---------------------------------------------------------------- */

static inline void *source_accept_main(void *ctx)
{
	struct world *w = ctx;
	uint8_t bytes[PREAMBLE_SIZE];
	struct record r;

	for (unsigned i = 0; i < 2; i++) {
		int fd = accept4(w->post.listener, NULL, NULL, SOCK_CLOEXEC);
		struct channel_auth auth;

		auth_fill(&w->post, i, &auth);
		if (fd < 0 || fd_read_all(fd, bytes, sizeof(bytes)) ||
		    channel_accept(fd, &auth, POST_SOON, &w->streams[i], NULL) ||
		    channel_receive(w->streams[i], &r, POST_SOON) || r.type != LINK_HELLO ||
		    channel_send(w->streams[i], LINK_OK, RECORD_MANDATORY, NULL, 0, POST_SOON))
			abort();
	}
	return NULL;
}

static inline void source_link(struct world *w)
{
	pthread_t acceptor;

	assert_int_equal(thread_start(&acceptor, "accept", source_accept_main, w), 0);
	post_connect(&w->post);
	pthread_join(acceptor, NULL);
}

static inline void words_say(struct world *w, uint16_t type, const uint64_t *words, size_t n)
{
	struct buf b = {0};

	link_words_encode(words, n, &b);
	say(w, 0, type, b.data, b.len);
	buf_free(&b);
}

#endif

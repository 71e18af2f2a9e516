// SPDX-License-Identifier: Apache-2.0
/* What a side of a postcopy link makes of the other side's records: the test plays that. */
#include <xxhash.h>

#include "tests/unit/migrate/postplay.h"

/* Pages 0, 1, 2 and 70 are missing. */
static void target_start(struct world *w)
{
	struct error e = {0};

	w->post.missing[0] = 7;
	w->post.missing[1] = 1 << 6;
	if (postcopy_target_start(w->post.target, w->post.missing, &e))
		fail_msg("%s", e.text);
}

static void list_hear(struct world *w, uint64_t first, uint64_t second)
{
	uint64_t words[1 + WORDS];
	struct record r;
	size_t n;

	hear(w, 0, &r);
	assert_int_equal(r.type, LINK_MISSING);
	assert_int_equal(link_words_decode(r.payload, r.len, words, &n), 0);
	assert_int_equal(n, 1 + WORDS);
	assert_int_equal(words[0], 0);
	assert_int_equal(words[1], first);
	assert_int_equal(words[2], second);
}

static int record_keep(void *ctx, const struct epoch_emitted *r)
{
	for (int i = 0; i < r->iov_count; i++)
		buf_put(ctx, r->iov[i].iov_base, r->iov[i].iov_len);
	return 0;
}

/* A record of one page; `number` and `of` (its epoch) may be what cannot be. */
static void pages_say(struct world *w, unsigned stream, uint64_t number, uint8_t kind, uint64_t of,
		      uint8_t fill)
{
	uint8_t page[VM_PAGE_SIZE];
	struct epoch_writer *writer;
	struct buf b = {0};
	uint64_t sum;

	memset(page, fill, sizeof(page));
	assert_int_equal(epoch_writer_create(COMPRESS_NONE, record_keep, &b, &writer), 0);
	assert_int_equal(epoch_writer_page(writer, number, page), 0);
	assert_int_equal(epoch_writer_flush(writer), 0);
	epoch_writer_destroy(writer);
	assert_int_equal(b.data[32] & 3, fill ? 1 : 0);
	b.data[32] = (uint8_t)((b.data[32] & ~3) | kind);
	b.data[0] = (uint8_t)of;
	sum = XXH3_64bits(b.data + 32, b.len - 32);
	memcpy(b.data + 24, &sum, sizeof(sum));
	say(w, stream, LINK_PAGES, b.data, b.len);
	buf_free(&b);
}

static bool page_is(struct world *w, uint64_t page, uint8_t fill)
{
	const uint8_t *at = vm_ram(w->post.to) + page * VM_PAGE_SIZE;

	return at[0] == fill && !memcmp(at, at + 1, VM_PAGE_SIZE - 1);
}

/* All of it, and the source does not hear that it was all. */
static void test_target_in_order(void **state)
{
	struct world w;
	struct record r;

	target_make(&w);
	target_link(&w, 1);
	post_wait(&w.post.at_target, POSTCOPY_READY);
	target_start(&w);
	post_wait(&w.post.at_target, POSTCOPY_RUNNING);
	list_hear(&w, 7, 1 << 6);
	postcopy_target_go(w.post.target);
	hear(&w, 0, &r);
	assert_int_equal(r.type, LINK_GO);
	pages_say(&w, 1, 1, 1, 1, 0x31);
	pages_say(&w, 0, 2, 0, 1, 0);
	pages_say(&w, 1, 9, 1, 1, 0x99); /* never missing: passed over */
	post_wait_left(&w.post, 2);
	streams_close(&w);
	post_wait(&w.post.at_target, POSTCOPY_CUT);
	target_link(&w, 2);
	post_wait(&w.post.at_target, POSTCOPY_RUNNING);
	list_hear(&w, 1, 1 << 6);
	hear(&w, 0, &r);
	assert_int_equal(r.type, LINK_GO);
	pages_say(&w, 1, 1, 1, 1, 0x77); /* once more: passed over */
	pages_say(&w, 0, 0, 1, 1, 0x30);
	pages_say(&w, 1, 70, 1, 1, 0x70);
	hear(&w, 0, &r);
	assert_int_equal(r.type, LINK_ALL);
	streams_close(&w);
	post_wait(&w.post.at_target, POSTCOPY_DONE);
	assert_true(page_is(&w, 0, 0x30) && page_is(&w, 1, 0x31) && page_is(&w, 2, 0));
	assert_true(page_is(&w, 70, 0x70) && page_is(&w, 9, 10));
	/* The source asks again, and is told again. */
	target_link(&w, 3);
	do {
		hear(&w, 0, &r);
	} while (r.type != LINK_ALL);
	say(&w, 0, LINK_ALL_OK, NULL, 0);
	assert_int_equal(channel_receive(w.streams[1], &r, POST_SOON), -EPIPE);
	world_end(&w);
}

/* Each ends the link with a word why, and no page of it gets into memory. */
struct bad_page {
	unsigned stream;
	uint64_t number;
	uint8_t kind;
	uint64_t of;
	const char *why;
};
static const struct bad_page bad_pages[] = {
	{0, PAGES, 1, 1, "page"}, {1, PAGES + 12345, 1, 1, "page"}, {1, 1, 2, 1, "pages"},
	{1, 1, 3, 1, "pages"},    {0, 1, 1, 2, "epoch 2"},
};

static void test_target_bad_pages(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(bad_pages); i++) {
		const struct bad_page *b = &bad_pages[i];
		struct postcopy_stats s;
		struct world w;

		target_make(&w);
		target_link(&w, 1);
		post_wait(&w.post.at_target, POSTCOPY_READY);
		target_start(&w);
		pages_say(&w, b->stream, b->number, b->kind, b->of, 0x66);
		hear_refusal(&w, b->why);
		post_wait(&w.post.at_target, POSTCOPY_CUT);
		postcopy_target_stats(w.post.target, &s);
		assert_int_equal(s.left, 4);
		world_end(&w);
	}
}

/* What goes over the control stream, heartbeats too, says nothing of the push streams. */
static void test_target_push_is_stuck(void **state)
{
	const uint64_t left = 0;
	struct postcopy_stats s;
	struct world w;

	world_make(&w);
	w.post.config.stuck_ns = 300 * NS_PER_MS;
	target_create(&w);
	target_link(&w, 1);
	target_start(&w);
	pages_say(&w, 1, 2, 1, 1, 0x77);
	post_wait_left(&w.post, 3); /* before any silence counts */
	postcopy_target_go(w.post.target);
	while (post_now(&w.post.at_target) != POSTCOPY_CUT) {
		struct iovec beat = {(void *)&left, sizeof(left)};

		(void)!channel_send(w.streams[0], LINK_BEAT, 0, &beat, 1, POST_SOON);
		usleep(20000);
	}
	if (!strstr(w.post.at_target.why, "push streams: silence"))
		fail_msg("%s", w.post.at_target.why);
	postcopy_target_stats(w.post.target, &s);
	assert_int_equal(s.left, 3);
	world_end(&w);
}

static void target_refuses(uint16_t type, size_t n, bool start, const char *why)
{
	const uint8_t zeros[64] = {0};
	struct world w;

	target_make(&w);
	target_link(&w, 1);
	post_wait(&w.post.at_target, POSTCOPY_READY);
	if (start)
		target_start(&w);
	say(&w, 0, type, zeros, n);
	hear_refusal(&w, why);
	post_wait(&w.post.at_target, POSTCOPY_CUT);
	world_end(&w);
}

static void test_target_bad_records(void **state)
{
	struct world w;

	target_refuses(LINK_ALL_OK, 0, true, "not said");
	target_refuses(LINK_ALL_OK, 1, true, "octets");
	target_refuses(LINK_NEED, 8, true, "type 37");
	target_refuses(LINK_BEAT, 9, true, "octets");
	target_refuses(LINK_PAGES, 0, true, "octets");
	target_refuses(LINK_PAGES, 64, true, "pages");
	target_refuses(LINK_PAGES, 64, false, "nobody asked");
	target_refuses(999, 3, false, "type 999");
	target_make(&w);
	target_link(&w, 1);
	say(&w, 1, LINK_ALL_OK, NULL, 0); /* a push stream has pages, and nothing else */
	hear_refusal(&w, "type 39");
	world_end(&w);
}

static void hello_refused(void (*change)(struct link_hello *h, struct buf *b), const char *why)
{
	struct error e = {0};
	struct link_hello h;
	struct buf b = {0};
	struct record r;
	struct world w;

	target_make(&w);
	target_link(&w, 5);
	channel_close(w.streams[0]); /* the link stays where it is until then */
	target_dial(&w, 0);
	hello_fill(&w.post, 0, 6, &h);
	change(&h, NULL);
	link_hello_encode(&h, &b);
	change(&h, &b);
	say(&w, 0, LINK_HELLO, b.data, b.len);
	hear(&w, 0, &r);
	assert_int_equal(r.type, LINK_REFUSE);
	assert_int_not_equal(link_refuse_decode(r.payload, r.len, &e), 0);
	if (!strstr(e.text, why))
		fail_msg("\"%s\" is not in \"%s\"", why, e.text);
	buf_free(&b);
	world_end(&w);
}

static void hello_version(struct link_hello *h, struct buf *b)
{
	if (b)
		b->data[0] = 9;
}

static void hello_long(struct link_hello *h, struct buf *b)
{
	if (b)
		buf_put_u8(b, 0);
}

static void hello_reserved(struct link_hello *h, struct buf *b)
{
	if (b)
		b->data[6] = 1;
}

static void hello_old(struct link_hello *h, struct buf *b)
{
	h->number = 5;
}

static void hello_memory(struct link_hello *h, struct buf *b)
{
	h->ram_pages++;
}

static void hello_session(struct link_hello *h, struct buf *b)
{
	h->session[0]++;
}

static void hello_streams(struct link_hello *h, struct buf *b)
{
	h->streams++;
}

static void test_target_bad_hello(void **state)
{
	hello_refused(hello_version, "version 9");
	hello_refused(hello_long, "cannot be");
	hello_refused(hello_reserved, "cannot be");
	hello_refused(hello_old, "later link");
	hello_refused(hello_memory, "pages of memory");
	hello_refused(hello_session, "another session");
	hello_refused(hello_streams, "2 streams");
}

/* ---- the test is the target ---------------------------------------------------------------- */

/* Pages 0, 1, 2 and 70 are missing. */
static void source_make(struct world *w)
{
	struct post *p = &w->post;
	const struct postcopy_events ev = {post_state, &p->at_source};
	struct error e = {0};

	world_make(w);
	if (postcopy_source_create(p->from, &p->config, &ev, &p->source, &e))
		fail_msg("%s", e.text);
	source_link(w);
	p->missing[0] = 7;
	p->missing[1] = 1 << 6;
	assert_int_equal(postcopy_source_serve(p->source, p->missing), 0);
}

struct heard {
	uint64_t map[WORDS];
	unsigned count;
	bool wrong;
};

static int page_hear(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct heard *h = ctx;

	h->wrong |= bitmap_test(h->map, page) || !bytes || bytes[17] != page % 251 + 1;
	bitmap_set(h->map, page);
	h->count++;
	return 0;
}

static void pages_hear(struct world *w, unsigned stream, struct heard *h)
{
	struct record r;

	hear(w, stream, &r);
	assert_int_equal(r.type, LINK_PAGES);
	assert_int_equal(epoch_pages_read(r.payload, r.len, PAGES, page_hear, h, NULL), 0);
	assert_false(h->wrong);
}

static void test_source_in_order(void **state)
{
	const uint64_t list[1 + WORDS] = {0, 7, 1 << 6}, page = 70;
	struct heard asked = {0}, pushed = {0};
	struct world w;
	struct record r;

	source_make(&w);
	words_say(&w, LINK_MISSING, list, 1 + WORDS);
	words_say(&w, LINK_NEED, &page, 1);
	pages_hear(&w, 0, &asked);
	assert_true(asked.count == 1 && bitmap_test(asked.map, 70));
	words_say(&w, LINK_GO, NULL, 0);
	pages_hear(&w, 1, &pushed);
	assert_true(pushed.count == 3 && pushed.map[0] == 7);
	streams_close(&w); /* it has all, and has not said so */
	post_wait(&w.post.at_source, POSTCOPY_CUT);
	source_link(&w);
	say(&w, 0, LINK_ALL, NULL, 0);
	hear(&w, 0, &r);
	assert_int_equal(r.type, LINK_ALL_OK);
	post_wait(&w.post.at_source, POSTCOPY_DONE);
	world_end(&w);
}

/* A target that has just been told to start does not know yet what it misses. */
static void test_source_beats_early(void **state)
{
	const uint64_t list[1 + WORDS] = {0, 7, 1 << 6}, pages[] = {70, 1}, none = 0, left = 3;
	struct postcopy_stats s;
	struct world w;

	source_make(&w);
	for (unsigned i = 0; i < 2; i++) {
		struct heard asked = {0};

		words_say(&w, LINK_BEAT, i ? &left : &none, 1);
		if (!i)
			words_say(&w, LINK_MISSING, list, 1 + WORDS);
		words_say(&w, LINK_NEED, &pages[i], 1);
		pages_hear(&w, 0, &asked);
		postcopy_source_stats(w.post.source, &s);
		assert_int_equal(s.left, i ? 3 : 4);
	}
	world_end(&w);
}

/* What is asked before the guest stands still is answered afterwards. */
static void test_source_asked_early(void **state)
{
	const uint64_t list[1 + WORDS] = {0, 7, 1 << 6}, page = 1;
	struct heard asked = {0};
	struct world w;
	struct post *p = &w.post;
	const struct postcopy_events ev = {post_state, &p->at_source};
	struct error e = {0};
	struct record r;

	world_make(&w);
	if (postcopy_source_create(p->from, &p->config, &ev, &p->source, &e))
		fail_msg("%s", e.text);
	source_link(&w);
	words_say(&w, LINK_MISSING, list, 1 + WORDS);
	words_say(&w, LINK_NEED, &page, 1);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(channel_receive(w.streams[0], &r, POST_SOON), 0);
		assert_int_equal(r.type, LINK_BEAT);
	}
	p->missing[0] = 7;
	p->missing[1] = 1 << 6;
	assert_int_equal(postcopy_source_serve(p->source, p->missing), 0);
	pages_hear(&w, 0, &asked);
	assert_int_equal(asked.map[0], 2);
	world_end(&w);
}

static void source_refuses(uint16_t type, const uint64_t *words, size_t n, const char *why)
{
	const uint64_t list[1 + WORDS] = {0, 7, 1 << 6};
	struct world w;

	source_make(&w);
	if (type != LINK_MISSING)
		words_say(&w, LINK_MISSING, list, 1 + WORDS);
	words_say(&w, type, words, n);
	if (type == LINK_MISSING || type == LINK_GO) {
		words_say(&w, LINK_GO, NULL, 0);
		post_wait(&w.post.at_source, POSTCOPY_CUT);
	}
	hear_refusal(&w, why);
	post_wait(&w.post.at_source, POSTCOPY_CUT);
	if (!strstr(w.post.at_source.why, why))
		fail_msg("%s", w.post.at_source.why);
	world_end(&w);
}

static void test_source_bad_records(void **state)
{
	source_refuses(LINK_MISSING, (uint64_t[]){1, 7}, 2, "from 1");
	source_refuses(LINK_MISSING, (uint64_t[]){PAGES, 7}, 2, "cannot be");
	source_refuses(LINK_MISSING, (uint64_t[]){0, 15, 1 << 6}, 3, "page 3 ");
	source_refuses(LINK_MISSING, (uint64_t[]){0, 7}, 2, "page 70 ");
	source_refuses(LINK_MISSING, (uint64_t[]){0}, 1, "octets");
	source_refuses(LINK_GO, NULL, 0, "whole already");
	source_refuses(LINK_NEED, (uint64_t[]){PAGES}, 1, "not missing");
	source_refuses(LINK_NEED, (uint64_t[]){1, 3}, 2, "page 3 ");
	source_refuses(LINK_NEED, NULL, 0, "octets");
	source_refuses(LINK_ALL, NULL, 0, "never went");
	source_refuses(LINK_ALL_OK, NULL, 0, "type 39");
	source_refuses(LINK_PAGES, (uint64_t[]){1, 2, 3, 4, 5}, 5, "type 17");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_target_in_order),
		cmocka_unit_test(test_target_bad_pages),
		cmocka_unit_test(test_target_push_is_stuck),
		cmocka_unit_test(test_target_bad_records),
		cmocka_unit_test(test_target_bad_hello),
		cmocka_unit_test(test_source_in_order),
		cmocka_unit_test(test_source_beats_early),
		cmocka_unit_test(test_source_asked_early),
		cmocka_unit_test(test_source_bad_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

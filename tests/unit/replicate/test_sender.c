// SPDX-License-Identifier: Apache-2.0
/* What a stream sends while a round of the first copy is on, seen from its other end. */
#include "replicate/sender.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>
#include <lz4.h>
#include <unistd.h>
#include <xxhash.h>

#include "replicate/pages.h"

#define PAGES        4096u /* 16 MiB: far more than a socket holds */
#define RECORDS      48u
#define RECORD       (512u << 10) /* together more than the sender's queue */
#define MEMBER       3u
#define SOON         (clock_ns() + 60 * NS_PER_SEC)

#define SLOW_PACK_US 20000u               /* a batch: far more than to send it, on any machine */
#define SLOW_LINK    (UINT64_C(16) << 20) /* bytes a second: far less than is packed in one */
#define ROUNDS_MAX   30u
#define STAYS        (UINT64_C(32) << 20) /* bytes of pages by one way: more than is spent on a trial */

struct line {
	uint8_t *ram;
	struct channel *ends[2];
	struct sender *sender;
	struct capture round, last;
	pthread_t reader;
	/* What came. */
	struct epoch_sum sum;
	_Atomic uint64_t pages, records;
	uint64_t pages_at_first, pages_at_last; /* before the first record, and before the last */
	bool whole;
	/* Of pages: how the last ones were packed, and how many bytes in a row. */
	_Atomic uint32_t way;
	_Atomic uint64_t in_a_row;
	atomic_bool was_none;
};

/* ---- a CPU that packs slowly ----------------------------------------------------- */

static atomic_bool pack_slowly;
static _Atomic unsigned packs;

/* In place of the library's. */
int LZ4_compress_default(const char *from, char *to, int n, int most)
{
	packs++;
	if (pack_slowly)
		usleep(SLOW_PACK_US);
	return LZ4_compress_fast(from, to, n, most, 1);
}

/* ---- the other end ------------------------------------------------------------- */

static void pages_came(struct line *l, const struct record *r)
{
	struct pages_batch b = {0};

	if (pages_decode(r->payload, r->len, PAGES, 0, 1, &b, NULL))
		abort();
	epoch_sum_pages(&l->sum, b.count, b.hash);
	l->pages += b.count;
	pages_batch_free(&b);
}

static void record_came(struct line *l, const struct record *r)
{
	struct cursor c = cursor_of(r->payload, r->len);
	uint64_t epoch;
	uint16_t id;

	if (member_decode(&c, &epoch, &id) || epoch != 1 || id != MEMBER)
		abort();
	epoch_sum_member(&l->sum, XXH3_64bits(c.at, c.left));
	if (cursor_u64(&c) != l->records) /* in the order in which they were emitted */
		abort();
	l->pages_at_last = l->pages;
	if (!l->records++)
		l->pages_at_first = l->pages;
}

static void *reader_main(void *arg)
{
	struct line *l = arg;
	struct epoch_sum theirs;
	struct record r;
	uint64_t epoch;

	while (!l->whole && !channel_receive(l->ends[1], &r, SOON)) {
		if (r.type == RECORD_PAGES)
			pages_came(l, &r);
		else if (r.type == RECORD_MEMBER)
			record_came(l, &r);
		else if (r.type == RECORD_STATE)
			epoch_sum_state(&l->sum, XXH3_64bits(r.payload + 8, r.len - 8));
		else if (r.type == RECORD_EPOCH_END)
			l->whole = !epoch_end_decode(r.payload, r.len, &epoch, &theirs) &&
				   epoch_sum_equal(&theirs, &l->sum);
	}
	return NULL;
}

/* ---- this end --------------------------------------------------------------------- */

static void on_sent(void *ctx, struct capture *c)
{
}

static void on_failed(void *ctx, int rc)
{
}

static void *accept_main(void *arg)
{
	struct channel_auth auth = {.stream = 1};
	int *fd = arg;
	struct channel *c;

	return channel_accept(*fd, &auth, SOON, &c, NULL) ? NULL : c;
}

static void channels_make(struct line *l)
{
	struct channel_auth auth = {.stream = 1};
	pthread_t accept;
	void *other;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds),
			 0);
	assert_int_equal(thread_start(&accept, "accept", accept_main, &fds[1]), 0);
	assert_int_equal(channel_connect(fds[0], &auth, SOON, &l->ends[0], NULL), 0);
	pthread_join(accept, &other);
	assert_non_null(other);
	l->ends[1] = other;
}

static struct line *line_by(enum page_compression compression, uint64_t bytes_per_second)
{
	struct line *l = calloc(1, sizeof(*l));
	struct sender_config c = {.streams = 1,
				  .compression = compression,
				  .send_ns = 60 * NS_PER_SEC,
				  .bytes_per_second = bytes_per_second,
				  .ram_pages = PAGES,
				  .sent = on_sent,
				  .failed = on_failed};
	uint64_t random = 1;

	assert_non_null(l);
	l->ram = aligned_alloc(VM_PAGE_SIZE, PAGES * VM_PAGE_SIZE);
	l->round.round = calloc(bitmap_words(PAGES), sizeof(uint64_t));
	assert_true(l->ram && l->round.round);
	for (size_t i = 0; i < PAGES * VM_PAGE_SIZE / 8; i++) {
		random = random * UINT64_C(6364136223846793005) + 1;
		memcpy(l->ram + 8 * i, &random, 8);
	}
	memset(l->round.round, 0xff, PAGES / 8);
	l->round.epoch = l->last.epoch = 1;
	buf_put(&l->last.state, "state", 5);
	c.ram = l->ram;
	channels_make(l);
	assert_int_equal(sender_create(&c, &l->sender), 0);
	assert_int_equal(sender_start(l->sender, l->ends), 0);
	return l;
}

static struct line *line_make(uint64_t bytes_per_second)
{
	return line_by(COMPRESS_NONE, bytes_per_second);
}

static void emit(struct line *l, uint64_t number, size_t len)
{
	uint8_t *bytes = calloc(1, len);

	assert_non_null(bytes);
	memcpy(bytes, &number, sizeof(number));
	assert_int_equal(sender_emit(l->sender, MEMBER, &(struct iovec){bytes, len}, 1), 0);
	free(bytes);
}

/* The end of the epoch: everything has come, in an order that both ends agree on. */
static void epoch_finish(struct line *l, uint64_t records)
{
	assert_int_equal(sender_wait(l->sender, &l->round), 0);
	sender_post(l->sender, &l->last);
	sender_go(l->sender, &l->last);
	pthread_join(l->reader, NULL);
	assert_true(l->whole);
	assert_int_equal(l->pages, PAGES);
	assert_int_equal(l->records, records);
}

static void line_end(struct line *l)
{
	sender_kill(l->sender);
	channel_shutdown(l->ends[0]);
	sender_destroy(l->sender);
	channel_close(l->ends[0]);
	channel_close(l->ends[1]);
	capture_free(&l->last);
	free(l->round.round);
	free(l->ram);
	free(l);
}

static void reader_begin(struct line *l)
{
	assert_int_equal(thread_start(&l->reader, "reader", reader_main, l), 0);
}

/* ---- tests ------------------------------------------------------------------------- */

/* Under a limit a round takes long, and the one who emits is a guest that writes its disk. */
static void records_do_not_wait_for_a_slow_round(void **state)
{
	struct line *l = line_make(UINT64_C(2) << 20);
	struct sender_stats s;

	reader_begin(l);
	sender_post(l->sender, &l->round);
	for (uint64_t i = 0; i < RECORDS; i++)
		emit(l, i, RECORD);
	sender_stats(l->sender, &s);
	assert_true(s.round_pages < PAGES);
	sender_limit(l->sender, 0);
	epoch_finish(l, RECORDS);
	line_end(l);
}

/* Without one they take turns with pages. */
static void records_go_between_pages(void **state)
{
	struct line *l = line_make(0);
	struct sender_stats s;

	sender_post(l->sender, &l->round);
	emit(l, 0, RECORD);
	sender_stats(l->sender, &s);
	assert_int_equal(s.queued, RECORD);
	reader_begin(l); /* until now the socket is full */
	epoch_finish(l, 1);
	sender_stats(l->sender, &s);
	assert_int_equal(s.queued, 0);
	assert_true(l->pages_at_last < PAGES);
	line_end(l);
}

static void pages_go_between_records(void **state)
{
	struct line *l = line_make(0);

	sender_post(l->sender, &l->round);
	for (uint64_t i = 0; i < RECORDS / 2; i++)
		emit(l, i, RECORD);
	reader_begin(l);
	for (uint64_t i = RECORDS / 2; i < RECORDS; i++)
		emit(l, i, RECORD);
	epoch_finish(l, RECORDS);
	assert_true(l->pages_at_first < l->pages_at_last);
	line_end(l);
}

/* ---- which way pays ---------------------------------------------------------------- */

static void *ways_main(void *arg)
{
	struct line *l = arg;
	struct record r;

	while (!channel_receive(l->ends[1], &r, SOON)) {
		uint32_t way, body;

		if (r.type != RECORD_PAGES)
			continue;
		memcpy(&way, r.payload + 12, 4);
		memcpy(&body, r.payload + 16, 4);
		l->in_a_row = way == l->way ? l->in_a_row + body : body;
		l->way = way;
		if (way == COMPRESS_NONE)
			l->was_none = true;
	}
	return NULL;
}

static void round_go(struct line *l)
{
	sender_post(l->sender, &l->round);
	assert_int_equal(sender_wait(l->sender, &l->round), 0);
}

/* Rounds, until pages go by that way and by no other. */
static bool way_settles(struct line *l, enum page_compression way)
{
	for (unsigned i = 0; i < ROUNDS_MAX; i++) {
		round_go(l);
		if (l->was_none && l->way == way && l->in_a_row >= STAYS)
			return true;
	}
	return false;
}

/* ...until as many rounds in a row had nothing packed that packing has been given up, and not only
 * passed over for a while, as with pages that it does not make smaller. */
static bool packing_ends(struct line *l)
{
	for (unsigned i = 0, quiet = 0; i < ROUNDS_MAX; i++) {
		unsigned before = packs;

		round_go(l);
		quiet = packs == before ? quiet + 1 : 0;
		if (quiet == 3) /* of 16 batches each; it is passed over for 32 */
			return true;
	}
	return false;
}

static struct line *choosing_line(uint64_t bytes_per_second, bool slow_cpu, size_t random_bytes)
{
	struct line *l = line_by(COMPRESS_AUTO, bytes_per_second);

	for (size_t page = 0; page < PAGES; page++)
		memset(l->ram + page * VM_PAGE_SIZE + random_bytes, 1, VM_PAGE_SIZE - random_bytes);
	pack_slowly = slow_cpu;
	assert_int_equal(thread_start(&l->reader, "ways", ways_main, l), 0);
	return l;
}

static void choosing_end(struct line *l)
{
	sender_kill(l->sender);
	channel_shutdown(l->ends[0]);
	pthread_join(l->reader, NULL);
	pack_slowly = false;
	line_end(l);
}

static void what_does_not_pack_is_sent_as_it_is(void **state)
{
	struct line *l = choosing_line(0, true, VM_PAGE_SIZE);

	assert_true(packing_ends(l));
	choosing_end(l);
}

static void packing_ends_where_sending_takes_less_time(void **state)
{
	struct line *l = choosing_line(0, true, VM_PAGE_SIZE / 4);

	assert_true(way_settles(l, COMPRESS_NONE));
	choosing_end(l);
}

static void packing_goes_on_where_the_link_is_slow(void **state)
{
	struct line *l = choosing_line(SLOW_LINK, false, VM_PAGE_SIZE / 16);

	assert_true(way_settles(l, COMPRESS_LZ4));
	choosing_end(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_do_not_wait_for_a_slow_round),
		cmocka_unit_test(records_go_between_pages),
		cmocka_unit_test(pages_go_between_records),
		cmocka_unit_test(what_does_not_pack_is_sent_as_it_is),
		cmocka_unit_test(packing_ends_where_sending_takes_less_time),
		cmocka_unit_test(packing_goes_on_where_the_link_is_slow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "replicate/sender.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "replicate/compress_choice.h"
#include "replicate/pages.h"
#include "replicate/waits.h"

#define POSTED_MAX     128u        /* more than the largest window */
#define BATCH_NOW      (64u << 10) /* so that the standby works on it meanwhile */
#define QUEUE_MAX      (16u << 20)
#define TURN_MAX       (1u << 20) /* of records, between two batches of a round */
#define RECORD_COST    4096u      /* of one, beside its bytes */
#define MEMBER_LEN_MAX (CHANNEL_RECORD_MAX - MEMBER_HEADER_SIZE)

struct member_record {
	struct member_record *next;
	uint64_t before; /* goes before the capture of this sequence number */
	uint16_t member;
	uint32_t len;
	uint8_t data[];
};

struct stream {
	struct sender *sender;
	unsigned index;
	struct channel *channel;
	struct pages_encoder *encoder;
	pthread_t thread;
	bool started;
	uint64_t next;  /* capture to work on */
	uint64_t begun; /* epoch whose BEGIN was sent */
	struct epoch_sum sum;
	struct buf scratch;
	struct compress_choice choice;
	struct choice_window window; /* so far */
	uint64_t mark;               /* when the encoding of the next batch began */
	uint64_t left;               /* of a round: its pages from here on were not sent */
	_Atomic uint64_t work_ns;    /* of this round */
};

struct sender {
	struct sender_config config;
	pthread_mutex_t lock;
	pthread_cond_t work, room, done, paced;
	bool dead;
	struct capture *posted[POSTED_MAX];
	uint64_t posted_count;
	struct member_record *first, **last;
	size_t queued;    /* bytes */
	uint64_t pace_at; /* when the next batch of a round may go */
	unsigned limits;  /* that there have been */
	struct stream streams[CHANNEL_STREAMS_MAX - 1];
	atomic_bool failure_told;
	atomic_bool cut; /* the round that is on ends early */
	_Atomic uint64_t pages, delta_pages, bytes_raw, round_pages;
};

/* ---- one stream: records ---------------------------------------------------- */

typedef int send_fn(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		    int iov_count, uint64_t deadline);

/* `send`: whether the record may wait for those after it. */
static int stream_send(struct stream *t, send_fn *send, uint16_t type, const struct iovec *iov,
		       int n)
{
	return send(t->channel, type, RECORD_MANDATORY, iov, n,
		    clock_ns() + t->sender->config.send_ns);
}

static int scratch_send(struct stream *t, send_fn *send, uint16_t type)
{
	struct iovec iov = {t->scratch.data, t->scratch.len};
	int rc = buf_check(&t->scratch);

	return rc ? rc : stream_send(t, send, type, &iov, 1);
}

static int epoch_begin(struct stream *t, uint64_t epoch)
{
	if (t->begun == epoch)
		return 0;
	t->begun = epoch;
	t->sum = (struct epoch_sum){0};
	buf_reset(&t->scratch);
	epoch_encode(epoch, &t->scratch);
	return scratch_send(t, channel_send_more, RECORD_EPOCH_BEGIN);
}

static int epoch_end(struct stream *t, uint64_t epoch)
{
	buf_reset(&t->scratch);
	epoch_end_encode(epoch, &t->sum, &t->scratch);
	return scratch_send(t, channel_send, RECORD_EPOCH_END);
}

/* ---- one stream: records of members -------------------------------------------- */

/* The next one that may go; NULL = none. Lock held. */
static struct member_record *record_pop(struct stream *t)
{
	struct sender *s = t->sender;
	struct member_record *m = s->first;

	if (t->index != 0 || !m || m->before > t->next)
		return NULL;
	s->first = m->next;
	if (!s->first)
		s->last = &s->first;
	return m;
}

static int member_send(struct stream *t, const struct member_record *m, uint64_t epoch)
{
	uint8_t header[MEMBER_HEADER_SIZE];
	struct iovec iov[2] = {{header, sizeof(header)}, {(void *)m->data, m->len}};
	int rc = epoch_begin(t, epoch);

	if (rc)
		return rc;
	member_encode(epoch, m->member, header);
	epoch_sum_member(&t->sum, XXH3_64bits(m->data, m->len));
	return stream_send(t, channel_send, RECORD_MEMBER, iov, 2);
}

static void record_done(struct sender *s, struct member_record *m)
{
	pthread_mutex_lock(&s->lock);
	s->queued -= m->len;
	pthread_cond_broadcast(&s->room);
	pthread_mutex_unlock(&s->lock);
	free(m);
}

/* And frees it. */
static int record_send(struct stream *t, struct member_record *m, uint64_t epoch)
{
	int rc = member_send(t, m, epoch);

	record_done(t->sender, m);
	return rc;
}

/* Until the first epoch is whole all is applied as it comes, so that in a round records go
 * before pages or after them. They must not wait for its end, which may be minutes away: a guest
 * that writes a disk waits for room in the queue. Pages and records take turns. */
static int records_turn(struct stream *t, const struct capture *c)
{
	struct member_record *m;
	size_t cost = 0;
	int rc = 0;

	do {
		pthread_mutex_lock(&t->sender->lock);
		m = record_pop(t);
		pthread_mutex_unlock(&t->sender->lock);
		if (!m)
			break;
		cost += RECORD_COST + m->len;
		rc = record_send(t, m, c->epoch);
	} while (!rc && cost < TURN_MAX);
	t->mark = clock_ns();
	return rc;
}

/* ---- one stream: batches of pages ------------------------------------------------ */

struct batch_times {
	uint64_t encoded_at;
	uint64_t paced;   /* the limit held it up so long */
	uint64_t records; /* of that: went into records of members */
	uint64_t waited;  /* for the limit, and for room */
};

/* Batches of a round go at the average rate that is allowed, and records meanwhile. Ends early
 * with the session. */
static int pace(struct stream *t, const struct capture *c, size_t bytes, struct batch_times *times)
{
	struct sender *s = t->sender;
	uint64_t began = clock_ns(), at, limits, since;
	struct member_record *m;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	limits = s->limits;
	at = s->pace_at > began ? s->pace_at : began;
	if (s->config.bytes_per_second)
		s->pace_at =
			at + (uint64_t)((double)bytes * 1e9 / (double)s->config.bytes_per_second);
	while (!rc && !s->dead && !atomic_load(&s->cut) && limits == s->limits &&
	       s->config.bytes_per_second) {
		since = clock_ns();
		m = since < at ? record_pop(t) : NULL;
		if (!m && cond_wait_until(&s->paced, &s->lock, at))
			break;
		if (!m)
			continue;
		pthread_mutex_unlock(&s->lock);
		rc = record_send(t, m, c->epoch);
		times->records += clock_ns() - since;
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	times->paced = clock_ns() - began;
	return rc;
}

/* What each part of a batch took, until it tells which compression takes least. */
static void window_note(struct stream *t, const struct pages_encoded *batch,
			const struct batch_times *times, bool steady)
{
	struct choice_window *w = &t->window;
	uint64_t now = clock_ns();

	w->body += batch->unpacked;
	w->wire += batch->iov[1].iov_len;
	w->pack_ns += batch->pack_ns;
	w->encode_ns += times->encoded_at - t->mark - batch->pack_ns;
	w->send_ns += now - times->encoded_at - times->records;
	w->wait_ns += times->waited;
	atomic_fetch_add_explicit(&t->work_ns, now - t->mark - times->paced, memory_order_relaxed);
	t->mark = now;
	if (t->sender->config.compression != COMPRESS_AUTO || w->body < CHOICE_WINDOW)
		return;
	compress_choice_next(&t->choice, w, steady);
	pages_encoder_use(t->encoder, t->choice.way);
	*w = (struct choice_window){0};
}

/* The sum is of records in the order in which they are sent. */
static int batch_emit(struct stream *t, const struct pages_encoded *batch, bool now,
		      struct batch_times *times)
{
	uint64_t waited = channel_send_waited(t->channel);
	int rc;

	epoch_sum_pages(&t->sum, batch->count, batch->hash);
	atomic_fetch_add(&t->sender->pages, batch->count);
	atomic_fetch_add(&t->sender->delta_pages, batch->deltas);
	rc = stream_send(t, now ? channel_send : channel_send_more, RECORD_PAGES, batch->iov,
			 ARRAY_LEN(batch->iov));
	times->waited = channel_send_waited(t->channel) - waited + times->paced - times->records;
	return rc;
}

/* `last`: no record is sure to follow soon. */
static int batch_send(struct stream *t, const struct capture *c, bool last)
{
	struct pages_encoded batch = {0};
	struct batch_times times = {0};
	int rc;

	if (pages_empty(t->encoder))
		return 0;
	rc = pages_finish(t->encoder, c->epoch, &batch);
	times.encoded_at = clock_ns();
	if (!rc && c->round)
		rc = pace(t, c, batch.iov[1].iov_len, &times);
	if (!rc)
		rc = batch_emit(t, &batch, last || batch.iov[1].iov_len >= BATCH_NOW, &times);
	if (rc)
		return rc;
	/* No trial while a guest stands still for it. */
	window_note(t, &batch, &times, !c->in_place);
	return c->round ? records_turn(t, c) : 0;
}

static int batch_step(struct stream *t, const struct capture *c)
{
	return pages_full(t->encoder) ? batch_send(t, c, false) : 0;
}

static int page_add(struct stream *t, const struct capture *c, uint64_t page, const uint8_t *bytes)
{
	pages_encode(t->encoder, c->epoch, page, bytes, c->remember);
	return batch_step(t, c);
}

static bool stream_has(const struct stream *t, uint64_t page)
{
	return page_stream(page, t->sender->config.streams) == t->index;
}

static int state_send(struct stream *t, const struct capture *c)
{
	uint8_t epoch[8];
	struct iovec iov[2] = {{epoch, 8}, {c->state.data, c->state.len}};

	for (unsigned i = 0; i < 8; i++)
		epoch[i] = (uint8_t)(c->epoch >> (8 * i));
	epoch_sum_state(&t->sum, XXH3_64bits(c->state.data, c->state.len));
	return stream_send(t, channel_send_more, RECORD_STATE, iov, 2);
}

static const uint8_t *capture_page(const struct stream *t, const struct capture *c, uint64_t i)
{
	return c->in_place ? t->sender->config.ram + c->pages[i] * VM_PAGE_SIZE
			   : c->copies + i * VM_PAGE_SIZE;
}

static int missing_send(struct stream *t, const struct capture *c)
{
	size_t words = bitmap_words(t->sender->config.ram_pages), part;
	int rc = 0;

	for (size_t at = 0; at < words && !rc; at += part) {
		part = words - at < MISSING_WORDS_MAX ? words - at : MISSING_WORDS_MAX;
		buf_reset(&t->scratch);
		missing_encode(c->epoch, at * 64, c->missing + at, part, &t->scratch);
		if (!buf_check(&t->scratch))
			epoch_sum_missing(&t->sum,
					  XXH3_64bits(t->scratch.data + 8, t->scratch.len - 8));
		rc = scratch_send(t, channel_send_more, RECORD_MISSING);
	}
	return rc;
}

/* As from a later version: tests arm this where the other side has to refuse it. */
static int later_send(struct stream *t)
{
	if (!fault_point("sender.later"))
		return 0;
	buf_reset(&t->scratch);
	return scratch_send(t, channel_send_more, RECORD_LATER);
}

static int checkpoint_send(struct stream *t, const struct capture *c)
{
	uint64_t mine = 0;
	int rc = 0;

	for (uint64_t i = 0; i < c->count && !rc; i++) {
		if (!stream_has(t, c->pages[i]))
			continue;
		rc = page_add(t, c, c->pages[i], capture_page(t, c, i));
		mine++;
	}
	atomic_fetch_add(&t->sender->bytes_raw, mine * VM_PAGE_SIZE);
	if (!rc)
		rc = batch_send(t, c, false);
	if (!rc && t->index == 0 && c->missing)
		rc = missing_send(t, c);
	if (!rc && t->index == 0)
		rc = later_send(t);
	if (!rc && t->index == 0)
		rc = state_send(t, c);
	return rc ? rc : epoch_end(t, c->epoch);
}

static bool sender_is_dead(struct sender *s)
{
	bool dead;

	pthread_mutex_lock(&s->lock);
	dead = s->dead;
	pthread_mutex_unlock(&s->lock);
	return dead;
}

static int round_page(struct stream *t, const struct capture *c, uint64_t page)
{
	pages_encode_live(t->encoder, c->epoch, page, t->sender->config.ram + page * VM_PAGE_SIZE,
			  c->remember);
	atomic_fetch_add_explicit(&t->sender->bytes_raw, VM_PAGE_SIZE, memory_order_relaxed);
	atomic_fetch_add_explicit(&t->sender->round_pages, 1, memory_order_relaxed);
	return batch_step(t, c);
}

/* Not mandatory: an older standby passes it over. */
static int mark_send(struct stream *t, uint64_t mark)
{
	struct iovec iov;
	int rc;

	buf_reset(&t->scratch);
	epoch_encode(mark, &t->scratch);
	rc = buf_check(&t->scratch);
	iov = (struct iovec){t->scratch.data, t->scratch.len};
	return rc ? rc
		  : channel_send(t->channel, RECORD_ROUND_END, 0, &iov, 1,
				 clock_ns() + t->sender->config.send_ns);
}

static int round_send(struct stream *t, const struct capture *c)
{
	uint64_t bits = t->sender->config.ram_pages, page = bitmap_next(c->round, bits, 0);
	int rc = 0;

	atomic_store(&t->work_ns, 0);
	for (; page < bits && !rc && !atomic_load(&t->sender->cut);
	     page = bitmap_next(c->round, bits, page + 1))
		if (stream_has(t, page))
			rc = round_page(t, c, page);
	t->left = page;
	if (!rc)
		rc = batch_send(t, c, true);
	return rc || !c->mark ? rc : mark_send(t, c->mark);
}

/* ---- one stream: its thread -------------------------------------------------- */

/* The next thing to do, in order: a record, or a capture that may go. False: the end. */
static bool work_take(struct stream *t, struct member_record **record, struct capture **capture)
{
	struct sender *s = t->sender;

	*record = NULL;
	*capture = NULL;
	pthread_mutex_lock(&s->lock);
	while (!s->dead) {
		*record = record_pop(t);
		if (*record)
			break;
		if (t->next < s->posted_count && s->posted[t->next % POSTED_MAX]->go) {
			*capture = s->posted[t->next++ % POSTED_MAX];
			break;
		}
		pthread_cond_wait(&s->work, &s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return *record || *capture;
}

static void capture_done(struct sender *s, struct capture *c)
{
	bool last;

	pthread_mutex_lock(&s->lock);
	last = --c->pending == 0;
	pthread_cond_broadcast(&s->done);
	pthread_mutex_unlock(&s->lock);
	if (last)
		s->config.sent(s->config.ctx, c);
}

static int capture_send(struct stream *t, struct capture *c)
{
	int rc = epoch_begin(t, c->epoch);

	t->mark = clock_ns();
	if (!rc)
		rc = c->round ? round_send(t, c) : checkpoint_send(t, c);
	if (!rc)
		capture_done(t->sender, c);
	return rc;
}

static void *stream_main(void *arg)
{
	struct stream *t = arg;
	struct sender *s = t->sender;
	struct member_record *record;
	struct capture *capture;
	uint64_t ended = 0;
	int rc = 0;

	thread_hasten();
	while (!rc && work_take(t, &record, &capture)) {
		if (record) {
			rc = record_send(t, record, ended + 1);
			continue;
		}
		if (!capture->round)
			ended = capture->epoch;
		rc = capture_send(t, capture);
	}
	if (rc && !sender_is_dead(s) && !atomic_exchange(&s->failure_told, true))
		s->config.failed(s->config.ctx, rc);
	return NULL;
}

/* ---- for the replicator -------------------------------------------------------- */

static int stream_setup(struct sender *s, unsigned i)
{
	struct stream *t = &s->streams[i];

	t->sender = s;
	t->index = i;
	compress_choice_setup(&t->choice);
	return pages_encoder_create(s->config.compression,
				    s->config.delta_bytes / s->config.streams, &t->encoder);
}

int sender_create(const struct sender_config *c, struct sender **out)
{
	struct sender *s = calloc(1, sizeof(*s));
	int rc = 0;

	if (!s)
		return -ENOMEM;
	s->config = *c;
	s->last = &s->first;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->room, NULL);
	pthread_cond_init(&s->done, NULL);
	cond_setup(&s->paced);
	for (unsigned i = 0; i < c->streams && !rc; i++)
		rc = stream_setup(s, i);
	if (rc) {
		sender_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}

int sender_start(struct sender *s, struct channel *const *bulk)
{
	char name[16];
	int rc;

	for (unsigned i = 0; i < s->config.streams; i++) {
		struct stream *t = &s->streams[i];

		t->channel = bulk[i];
		snprintf(name, sizeof(name), "send-%u", (i + 1) % 100);
		rc = thread_start(&t->thread, name, stream_main, t);
		if (rc)
			return rc;
		t->started = true;
	}
	return 0;
}

static struct member_record *record_make(uint16_t member, const struct iovec *iov, int n)
{
	struct member_record *m;
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (len > MEMBER_LEN_MAX)
		return NULL;
	m = malloc(sizeof(*m) + len);
	if (!m)
		return NULL;
	m->next = NULL;
	m->member = member;
	m->len = 0;
	for (int i = 0; i < n; i++) {
		memcpy(m->data + m->len, iov[i].iov_base, iov[i].iov_len);
		m->len += (uint32_t)iov[i].iov_len;
	}
	return m;
}

/* Waiting here holds up a guest that writes faster than the link carries. The wait
 * ends in any case: the stream's thread makes room without any lock of the vm, or
 * its send passes its deadline, or the session ends. */
int sender_emit(struct sender *s, uint16_t member, const struct iovec *iov, int n)
{
	struct member_record *m = record_make(member, iov, n);
	int rc = 0;

	if (!m)
		return -ENOMEM;
	pthread_mutex_lock(&s->lock);
	while (!s->dead && s->queued && s->queued + m->len > QUEUE_MAX)
		pthread_cond_wait(&s->room, &s->lock);
	if (s->dead) {
		free(m);
		rc = -ESHUTDOWN;
	} else {
		m->before = s->posted_count;
		*s->last = m;
		s->last = &m->next;
		s->queued += m->len;
		pthread_cond_broadcast(&s->work);
		pthread_cond_broadcast(&s->paced);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void sender_post(struct sender *s, struct capture *c)
{
	pthread_mutex_lock(&s->lock);
	c->pending = s->config.streams;
	c->go = c->round != NULL;
	if (c->round) {
		atomic_store(&s->round_pages, 0);
		atomic_store(&s->cut, false);
	}
	s->posted[s->posted_count++ % POSTED_MAX] = c;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
}

void sender_go(struct sender *s, struct capture *c)
{
	pthread_mutex_lock(&s->lock);
	c->go = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
}

void sender_cut(struct sender *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->cut, true);
	pthread_cond_broadcast(&s->paced);
	pthread_mutex_unlock(&s->lock);
}

/* Where the first of the streams ended: of a round that was not cut, at its end. */
static uint64_t first_left(const struct sender *s)
{
	uint64_t first = s->config.ram_pages;

	for (unsigned i = 0; i < s->config.streams; i++)
		first = s->streams[i].left < first ? s->streams[i].left : first;
	return first;
}

/* Streams wrote `left` before they were done with it. */
uint64_t sender_left(struct sender *s, const struct capture *c, uint64_t *map)
{
	uint64_t bits = s->config.ram_pages, page = first_left(s), count = 0;

	for (page = bitmap_next(c->round, bits, page); page < bits;
	     page = bitmap_next(c->round, bits, page + 1)) {
		if (page < s->streams[page_stream(page, s->config.streams)].left)
			continue;
		bitmap_set(map, page);
		count++;
	}
	return count;
}

int sender_wait(struct sender *s, const struct capture *c)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	while (c->pending && !s->dead)
		pthread_cond_wait(&s->done, &s->lock);
	rc = c->pending ? -ESHUTDOWN : 0;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void sender_stats(struct sender *s, struct sender_stats *out)
{
	out->pages = atomic_load(&s->pages);
	out->delta_pages = atomic_load(&s->delta_pages);
	out->bytes_raw = atomic_load(&s->bytes_raw);
	out->round_pages = atomic_load(&s->round_pages);
	pthread_mutex_lock(&s->lock);
	out->queued = s->queued;
	pthread_mutex_unlock(&s->lock);
	out->round_work_ns = 0;
	for (unsigned i = 0; i < s->config.streams; i++) {
		uint64_t work = atomic_load(&s->streams[i].work_ns);

		out->round_work_ns = work > out->round_work_ns ? work : out->round_work_ns;
	}
}

void sender_limit(struct sender *s, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&s->lock);
	if (s->config.bytes_per_second != bytes_per_second) {
		s->config.bytes_per_second = bytes_per_second;
		s->pace_at = 0;
		s->limits++;
		pthread_cond_broadcast(&s->paced);
	}
	pthread_mutex_unlock(&s->lock);
}

void sender_kill(struct sender *s)
{
	pthread_mutex_lock(&s->lock);
	s->dead = true;
	pthread_cond_broadcast(&s->work);
	pthread_cond_broadcast(&s->room);
	pthread_cond_broadcast(&s->done);
	pthread_cond_broadcast(&s->paced);
	pthread_mutex_unlock(&s->lock);
}

void sender_destroy(struct sender *s)
{
	if (!s)
		return;
	sender_kill(s);
	for (unsigned i = 0; i < s->config.streams; i++) {
		if (s->streams[i].started)
			pthread_join(s->streams[i].thread, NULL);
		pages_encoder_destroy(s->streams[i].encoder);
		buf_free(&s->streams[i].scratch);
	}
	while (s->first) {
		struct member_record *m = s->first;

		s->first = m->next;
		free(m);
	}
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->room);
	pthread_cond_destroy(&s->done);
	pthread_cond_destroy(&s->paced);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

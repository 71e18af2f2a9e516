// SPDX-License-Identifier: Apache-2.0
/* The records that a standby receives: each is checked wholly before it has an effect. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "replicate/replica.h"

#define LOG_MODULE    "replica"

#define FRESH_RUN_MAX 64

/* ---- control ---------------------------------------------------------------------- */

static int on_heartbeat(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct heartbeat h;

	if (heartbeat_decode(record->payload, record->len, &h))
		return error_set(e, -EBADMSG, "a damaged heartbeat");
	replica_event(s->r, STANDBY_EV_HEARD, 0);
	return 0;
}

static int on_bye(struct replica_stream *s, const struct record *record, struct error *e)
{
	replica_event(s->r, STANDBY_EV_BYE, 0);
	return 0;
}

/* ---- epochs -------------------------------------------------------------------------- */

/* Ask the core. It answers -EPROTO when the session has ended meanwhile: no fault of
 * the record's. */
static int stream_event(struct replica_stream *s, enum standby_event type, uint64_t epoch,
			struct error *e)
{
	int rc = replica_step(s->r, &(struct standby_input){
					    .type = type, .epoch = epoch, .stream = s->index - 1});

	if (rc == -EPROTO)
		return error_set(e, -ESHUTDOWN, "the session has ended");
	if (rc)
		return error_set(e, -EBADMSG, "stream %u: epoch %" PRIu64 " out of order", s->index,
				 epoch);
	return 0;
}

/* What is whole but not committed takes memory: a standby that commits more slowly than
 * epochs arrive stops reading, which the primary notices as late acknowledgements. No
 * stream waits for another one: the epochs that are awaited were ended by all. */
static int backlog_wait(struct replica_stream *s, uint64_t epoch, struct error *e)
{
	struct replica *r = s->r;
	uint64_t most = r->core.config.window;
	bool closed;

	pthread_mutex_lock(&r->lock);
	while (!r->closed && epoch > r->core.committed + most)
		pthread_cond_wait(&r->changed, &r->lock);
	closed = r->closed;
	pthread_mutex_unlock(&r->lock);
	return closed ? error_set(e, -ESHUTDOWN, "the session has ended") : 0;
}

static int on_begin(struct replica_stream *s, const struct record *record, struct error *e)
{
	uint64_t epoch;
	int rc;

	if (epoch_decode(record->payload, record->len, &epoch))
		return error_set(e, -EBADMSG, "a damaged begin of an epoch");
	rc = stream_event(s, STANDBY_EV_BEGIN, epoch, e);
	if (rc)
		return rc;
	s->begun = epoch;
	s->sum = (struct epoch_sum){0};
	return backlog_wait(s, epoch, e);
}

/* Data of this epoch is in order here; is it applied at once? */
static int data_begin(struct replica_stream *s, uint64_t epoch, bool *direct, struct error *e)
{
	int rc = stream_event(s, STANDBY_EV_DATA, epoch, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->r->lock);
	*direct = standby_core_direct(&s->r->core, epoch);
	pthread_mutex_unlock(&s->r->lock);
	return 0;
}

/* Raw pages in a row that the image has never held, for one system call. To write such a page
 * through the image's file costs half of a store to it, whose page fault clears it before. */
struct fresh_run {
	uint64_t first;
	int count;
	struct iovec pages[FRESH_RUN_MAX];
};

static bool run_write(struct replica *r, const struct fresh_run *run)
{
	ssize_t want = (ssize_t)run->count * VM_PAGE_SIZE;

	return !fault_point("replica.write") && pwritev(vm_ram_fd(r->vm), run->pages, run->count,
							(off_t)(run->first * VM_PAGE_SIZE)) == want;
}

static void run_flush(struct replica *r, struct fresh_run *run)
{
	uint8_t *at = vm_ram(r->vm) + run->first * VM_PAGE_SIZE;

	if (run->count && !run_write(r, run))
		for (int i = 0; i < run->count; i++)
			memcpy(at + (size_t)i * VM_PAGE_SIZE, run->pages[i].iov_base, VM_PAGE_SIZE);
	run->count = 0;
}

static void run_add(struct replica *r, struct fresh_run *run, const struct page_item *item)
{
	if (run->count == FRESH_RUN_MAX || item->page != run->first + (uint64_t)run->count)
		run_flush(r, run);
	if (!run->count)
		run->first = item->page;
	run->pages[run->count++] = (struct iovec){(void *)item->data, VM_PAGE_SIZE};
}

/* Before the first epoch is whole. A zero page that was zero all the time need not be written,
 * which would allocate it. */
static void image_apply(struct replica *r, struct fresh_run *run, const struct page_item *item,
			bool fresh)
{
	if (fresh && item->kind == PAGE_RAW) {
		run_add(r, run, item);
	} else if (!fresh) {
		run_flush(r, run); /* it may hold an older version of this page */
		page_apply(vm_ram(r->vm), item);
	}
}

/* No page twice in an epoch, and a delta only on what the image will hold then. */
static int version_check(struct replica *r, const struct page_item *item, uint64_t epoch,
			 bool direct, struct error *e)
{
	uint32_t *version = &r->versions[item->page];

	if (!direct && *version == (uint32_t)epoch)
		return error_set(e, -EBADMSG, "page %" PRIu64 " twice in epoch %" PRIu64,
				 item->page, epoch);
	if (item->kind == PAGE_DELTA && (!*version || *version != item->base))
		return error_set(e, -EBADMSG,
				 "page %" PRIu64 ": a delta on epoch %u, the image has %u",
				 item->page, item->base, *version);
	*version = (uint32_t)epoch;
	return 0;
}

static int batch_check(struct replica *r, const struct pages_batch *b, bool direct, struct error *e)
{
	struct cursor c = cursor_of(b->body.data, b->body.len);
	struct fresh_run run = {0};
	struct page_item item;
	int rc = 0;

	while (!rc && pages_next(&c, &item)) {
		bool fresh = !r->versions[item.page];

		rc = version_check(r, &item, b->epoch, direct, e);
		if (!rc && direct)
			image_apply(r, &run, &item, fresh);
	}
	run_flush(r, &run);
	return rc;
}

static int batch_take(struct replica_stream *s, struct staged_pages *p, struct error *e)
{
	bool direct;
	int rc = data_begin(s, p->batch.epoch, &direct, e);

	if (!rc)
		rc = batch_check(s->r, &p->batch, direct, e);
	if (rc)
		return rc;
	epoch_sum_pages(&s->sum, p->batch.count, p->batch.hash);
	atomic_fetch_add(&s->r->pages, p->batch.count);
	atomic_fetch_add(&s->r->bytes_raw, (uint64_t)p->batch.count * VM_PAGE_SIZE);
	if (direct)
		return 1;
	if (pages_batch_keep(&p->batch))
		return error_set(e, -ENOMEM, "out of memory for staged pages");
	stage_pages(s, p);
	return 0;
}

static int on_pages(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct staged_pages *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return error_set(e, -ENOMEM, "out of memory for staged pages");
	rc = pages_decode(record->payload, record->len, s->r->ram_pages, s->index - 1,
			  s->r->config.streams, &p->batch, e);
	if (!rc)
		rc = batch_take(s, p, e);
	if (!rc)
		return 0;
	pages_batch_free(&p->batch);
	free(p);
	return rc < 0 ? rc : 0;
}

static const struct epoch_member *member_find(const struct replica *r, uint16_t id)
{
	for (unsigned i = 0; i < r->member_count; i++)
		if (r->members[i].id == id)
			return &r->members[i];
	return NULL;
}

static int on_member(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct cursor c = cursor_of(record->payload, record->len);
	const struct epoch_member *m;
	uint64_t epoch;
	uint16_t id;
	bool direct;
	int rc;

	if (member_decode(&c, &epoch, &id))
		return error_set(e, -EBADMSG, "a damaged record of a disk");
	m = member_find(s->r, id);
	if (!m)
		return error_set(e, -EBADMSG, "a record of disk %u, which is not mirrored", id);
	rc = data_begin(s, epoch, &direct, e);
	if (rc)
		return rc;
	rc = m->receive(m->ctx, epoch, direct, c.at, c.left, e);
	if (rc)
		return error_set(e, rc, "disk %u refuses a record: %s", id, strerror(-rc));
	epoch_sum_member(&s->sum, XXH3_64bits(c.at, c.left));
	return 0;
}

/* Once for the first part; the stream's thread alone writes it. */
static int missing_room(struct replica *r, struct error *e)
{
	if (!r->missing)
		r->missing = calloc(bitmap_words(r->ram_pages), sizeof(*r->missing));
	return r->missing ? 0 : error_set(e, -ENOMEM, "out of memory for the missing pages");
}

static int on_missing(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct cursor c = cursor_of(record->payload, record->len);
	uint64_t epoch = cursor_u64(&c);
	bool direct;
	int rc;

	if (!s->r->config.handover)
		return error_set(e, -EBADMSG, "pages are missing, and this is no migration");
	rc = missing_room(s->r, e);
	if (!rc) /* first: from the end of the epoch on the map is not this thread's any more */
		rc = data_begin(s, epoch, &direct, e);
	if (rc)
		return rc;
	if (!direct || missing_decode(&c, s->r->ram_pages, s->r->missing))
		return error_set(e, -EBADMSG, "a damaged map of missing pages");
	epoch_sum_missing(&s->sum, XXH3_64bits(record->payload + 8, record->len - 8));
	return 0;
}

static int on_state(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct cursor c = cursor_of(record->payload, record->len);
	uint64_t epoch = cursor_u64(&c);
	struct buf copy = {0};
	bool direct;
	int rc;

	if (s->sum.states)
		return error_set(e, -EBADMSG, "a second machine state in one epoch");
	rc = data_begin(s, epoch, &direct, e);
	if (!rc)
		rc = vm_state_check(s->r->vm, c.at, c.left, e);
	if (rc)
		return rc;
	buf_put(&copy, c.at, c.left);
	rc = buf_check(&copy);
	if (rc)
		return error_set(e, rc, "out of memory for the machine state");
	epoch_sum_state(&s->sum, XXH3_64bits(c.at, c.left));
	stage_state(s->r, epoch, &copy);
	return 0;
}

static int on_end(struct replica_stream *s, const struct record *record, struct error *e)
{
	struct epoch_sum theirs;
	uint64_t epoch;

	if (epoch_end_decode(record->payload, record->len, &epoch, &theirs))
		return error_set(e, -EBADMSG, "a damaged end of an epoch");
	if (epoch != s->begun || !epoch_sum_equal(&theirs, &s->sum))
		return error_set(e, -EBADMSG,
				 "stream %u: epoch %" PRIu64 " is not what was sent: %" PRIu64
				 " of %" PRIu64 " pages",
				 s->index, epoch, s->sum.pages, theirs.pages);
	if (s->index == 1 && s->sum.states != 1)
		return error_set(e, -EBADMSG, "epoch %" PRIu64 " has no machine state", epoch);
	return stream_event(s, STANDBY_EV_END, epoch, e);
}

/* What it says is needed by nobody: a link that is lost is noticed by its reader. */
static int on_round_end(struct replica_stream *s, const struct record *record, struct error *e)
{
	uint64_t round;
	int rc;

	if (epoch_decode(record->payload, record->len, &round) || round <= s->round)
		return error_set(e, -EBADMSG, "a damaged end of a round");
	rc = replica_round_end(s, round);
	if (rc && rc != -ESHUTDOWN)
		log_warn_rc(rc, "the end of round %" PRIu64 " could not be told", round);
	return 0;
}

/* ---- the table ------------------------------------------------------------------------- */

#define ON_CONTROL 1u
#define ON_FIRST   2u /* the first bulk stream */
#define ON_REST    4u
#define ON_BULK    (ON_FIRST | ON_REST)

static const struct {
	uint16_t type;
	unsigned streams;
	uint32_t least, most;
	int (*handle)(struct replica_stream *s, const struct record *record, struct error *e);
} records[] = {
	{RECORD_HEARTBEAT, ON_CONTROL, 16, 16, on_heartbeat},
	{RECORD_BYE, ON_CONTROL, 0, 0, on_bye},
	{RECORD_EPOCH_BEGIN, ON_BULK, 8, 8, on_begin},
	{RECORD_PAGES, ON_BULK, PAGES_HEADER_SIZE, PAGES_HEADER_SIZE + PAGES_BODY_MAX, on_pages},
	{RECORD_MEMBER, ON_FIRST, MEMBER_HEADER_SIZE, CHANNEL_RECORD_MAX, on_member},
	{RECORD_STATE, ON_FIRST, 8, CHANNEL_RECORD_MAX, on_state},
	{RECORD_MISSING, ON_FIRST, MISSING_HEADER_SIZE, MISSING_HEADER_SIZE + 8 * MISSING_WORDS_MAX,
	 on_missing},
	{RECORD_EPOCH_END, ON_BULK, 48, 48, on_end},
	{RECORD_ROUND_END, ON_BULK, 8, 8, on_round_end},
};

static unsigned stream_place(const struct replica_stream *s)
{
	return s->index == 0 ? ON_CONTROL : s->index == 1 ? ON_FIRST : ON_REST;
}

int replica_record(struct replica_stream *s, const struct record *record, struct error *e)
{
	for (size_t i = 0; i < ARRAY_LEN(records); i++) {
		if (records[i].type != record->type || !(records[i].streams & stream_place(s)))
			continue;
		if (record->len < records[i].least || record->len > records[i].most)
			return error_set(e, -EBADMSG, "a record of type %u with %u bytes",
					 record->type, record->len);
		return records[i].handle(s, record, e);
	}
	if (record->flags & RECORD_MANDATORY)
		return error_set(e, -EBADMSG,
				 "a record of type %u on stream %u, which this program does not "
				 "know there",
				 record->type, s->index);
	return 0;
}

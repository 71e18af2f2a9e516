// SPDX-License-Identifier: Apache-2.0
/* What a postcopy source's threads do with a link. */
#include <errno.h>
#include <string.h>

#include "migrate/postcopy_source.h"

/* Lock held. Becomes a user of the next link that is up; false: the end has come. */
static bool link_await(struct postcopy_source *p)
{
	struct side *s = &p->side;

	while (!s->quit && !side_is_up(s))
		side_wait(s, UINT64_MAX);
	if (s->quit)
		return false;
	s->users++;
	return true;
}

/* ---- pages -------------------------------------------------------------------------- */

int source_emit(void *ctx, const struct epoch_emitted *r)
{
	struct source_stream *t = ctx;
	struct side *s = &t->p->side;
	uint64_t until = t->index ? UINT64_MAX : clock_ns() + s->config.loss_ns;

	return channel_send(s->streams[t->index], LINK_PAGES, RECORD_MANDATORY, r->iov,
			    r->iov_count, until);
}

/* The guest stands still: these are the pages, for good. */
static int pages_send(struct source_stream *t, const uint64_t *pages, unsigned n)
{
	const uint8_t *ram = vm_ram(t->p->side.vm);
	int rc = 0;

	for (unsigned i = 0; !rc && i < n; i++)
		rc = epoch_writer_page(t->writer, pages[i], ram + pages[i] * VM_PAGE_SIZE);
	return rc ? rc : epoch_writer_flush(t->writer);
}

/* ---- what is asked for ------------------------------------------------------------------ */

/* Lock held, dropped meanwhile. */
static int asked_send(struct source_stream *t)
{
	struct postcopy_source *p = t->p;
	uint64_t pages[SOURCE_ASKED_BATCH];
	unsigned n = push_plan_take_asked(&p->plan, pages, SOURCE_ASKED_BATCH);
	int rc;

	p->faults += n;
	pthread_mutex_unlock(&p->side.lock);
	rc = pages_send(t, pages, n);
	pthread_mutex_lock(&p->side.lock);
	return rc;
}

/* Both sides know that the other does. */
static int all_answer(struct postcopy_source *p)
{
	int rc;

	p->side.complete = true;
	rc = side_say(&p->side, LINK_ALL_OK, NULL, 0);
	side_state(&p->side, POSTCOPY_DONE, "");
	side_over(&p->side, "");
	return rc;
}

/* Lock held, dropped meanwhile. Until the link is over. */
static int asked_serve(struct source_stream *t)
{
	struct postcopy_source *p = t->p;
	uint64_t beat = clock_ns(), left;
	int rc = 0;

	while (!rc && !p->side.over) {
		if (p->all) {
			rc = all_answer(p);
		} else if (clock_ns() >= beat) {
			beat = clock_ns() + p->side.config.heartbeat_ns;
			left = p->plan.left + p->plan.count;
			rc = side_say(&p->side, LINK_BEAT, &left, 1);
		} else if (p->plan.count) {
			rc = asked_send(t);
		} else {
			(void)cond_wait_until(&p->side.talk, &p->side.lock, beat);
		}
	}
	return rc;
}

void *source_asked_main(void *ctx)
{
	struct source_stream *t = ctx;
	struct side *s = &t->p->side;
	int rc;

	thread_urge();
	pthread_mutex_lock(&s->lock);
	while (link_await(t->p)) {
		rc = asked_serve(t);
		pthread_mutex_unlock(&s->lock);
		if (rc)
			side_cut(s, rc, "send what is asked for");
		pthread_mutex_lock(&s->lock);
		side_leave(s);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the push ------------------------------------------------------------------------------ */

/* Lock held. Not before the limit allows it, and then it has used up its share. */
static bool push_may(struct postcopy_source *p)
{
	uint64_t now = clock_ns(), rate = p->side.config.bytes_per_second;

	if (!p->plan.go || !p->plan.left) {
		side_wait(&p->side, UINT64_MAX);
		return false;
	}
	if (!rate)
		return true;
	if (p->push_at > now) {
		side_wait(&p->side, p->push_at);
		return false;
	}
	p->push_at =
		now + (uint64_t)((double)SOURCE_PUSH_BATCH * VM_PAGE_SIZE * 1e9 / (double)rate);
	return true;
}

/* Lock held, dropped meanwhile. */
static int push_serve(struct source_stream *t)
{
	struct postcopy_source *p = t->p;
	uint64_t pages[SOURCE_PUSH_BATCH];
	unsigned n;
	int rc = 0;

	while (!rc && !p->side.over) {
		if (!push_may(p))
			continue;
		n = push_plan_take(&p->plan, pages, SOURCE_PUSH_BATCH);
		p->pushed += n;
		pthread_mutex_unlock(&p->side.lock);
		rc = pages_send(t, pages, n);
		pthread_mutex_lock(&p->side.lock);
	}
	return rc;
}

void *source_push_main(void *ctx)
{
	struct source_stream *t = ctx;
	struct side *s = &t->p->side;
	int rc;

	pthread_mutex_lock(&s->lock);
	while (link_await(t->p)) {
		rc = push_serve(t);
		pthread_mutex_unlock(&s->lock);
		if (rc)
			side_cut(s, rc, "push");
		pthread_mutex_lock(&s->lock);
		side_leave(s);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- what the target says ---------------------------------------------------------------------
 */

/* Lock held. The target may be quicker than whoever tells this side of the switch. */
static int serving_await(struct postcopy_source *p)
{
	while (!p->serving && !p->side.over)
		side_wait(&p->side, UINT64_MAX);
	return p->side.over ? -ESHUTDOWN : 0;
}

static int on_missing(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_source *p = (struct postcopy_source *)s;
	uint64_t words[1 + LINK_WORDS_MAX];
	size_t n;
	int rc = link_words_decode(r->payload, r->len, words, &n);

	if (rc)
		return error_set(e, rc, "a list of missing pages is cut");
	pthread_mutex_lock(&s->lock);
	rc = serving_await(p);
	if (!rc)
		rc = push_plan_missing(&p->plan, words[0], words + 1, n - 1, e);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int on_go(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_source *p = (struct postcopy_source *)s;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = serving_await(p);
	if (!rc)
		rc = push_plan_go(&p->plan, e);
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int on_need(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_source *p = (struct postcopy_source *)s;
	uint64_t pages[NEED_MAX];
	size_t n;
	int rc = link_words_decode(r->payload, r->len, pages, &n);

	if (rc)
		return error_set(e, rc, "a list of pages that are asked for is cut");
	pthread_mutex_lock(&s->lock);
	rc = serving_await(p);
	if (!rc)
		rc = push_plan_need(&p->plan, pages, (unsigned)n, e);
	pthread_cond_signal(&s->talk);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int on_all(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_source *p = (struct postcopy_source *)s;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = serving_await(p);
	if (!rc)
		rc = push_plan_all(&p->plan, e);
	if (!rc) {
		p->all = true;
		p->told_left = 0;
	}
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* A target that has not said what it misses may not know it yet: it says that nothing is left. */
static int on_beat(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_source *p = (struct postcopy_source *)s;
	uint64_t left;
	size_t n;
	int rc = link_words_decode(r->payload, r->len, &left, &n);

	pthread_mutex_lock(&s->lock);
	if (!rc && p->serving && p->plan.listed)
		p->told_left = left;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int on_refuse(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	return link_refuse_decode(r->payload, r->len, e);
}

static const struct link_handler control_handlers[] = {
	{LINK_MISSING, 16, 8 + 8 * LINK_WORDS_MAX, on_missing},
	{LINK_GO, 0, 0, on_go},
	{LINK_NEED, 8, 8 * NEED_MAX, on_need},
	{LINK_ALL, 0, 0, on_all},
	{LINK_BEAT, 8, 8, on_beat},
	{LINK_REFUSE, 4, 4 + LINK_REFUSE_TEXT, on_refuse},
};

void *source_control_main(void *ctx)
{
	static const struct link_table table = {control_handlers, ARRAY_LEN(control_handlers)};
	struct postcopy_source *p = ctx;
	struct side *s = &p->side;

	thread_urge();
	pthread_mutex_lock(&s->lock);
	while (link_await(p)) {
		pthread_mutex_unlock(&s->lock);
		side_receive(s, 0, &table);
		pthread_mutex_lock(&s->lock);
		side_leave(s);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

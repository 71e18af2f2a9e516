// SPDX-License-Identifier: Apache-2.0
/* What waits for its epoch to be whole, and how it becomes the image. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "replicate/replica.h"

void stage_pages(struct replica_stream *s, struct staged_pages *p)
{
	p->next = NULL;
	pthread_mutex_lock(&s->r->lock);
	*s->last = p;
	s->last = &p->next;
	pthread_mutex_unlock(&s->r->lock);
}

static struct staged_state *state_slot(struct replica *r, uint64_t epoch)
{
	return &r->states[epoch % ARRAY_LEN(r->states)];
}

void stage_state(struct replica *r, uint64_t epoch, struct buf *bytes)
{
	struct staged_state *s = state_slot(r, epoch);

	pthread_mutex_lock(&r->lock);
	buf_free(&s->bytes);
	s->epoch = epoch;
	s->bytes = *bytes;
	*bytes = (struct buf){0};
	pthread_mutex_unlock(&r->lock);
}

/* The next batch of this epoch, taken out of the list; NULL = there is no more. */
static struct staged_pages *staged_take(struct replica_stream *s, uint64_t epoch)
{
	struct staged_pages *p;

	pthread_mutex_lock(&s->r->lock);
	p = s->first;
	if (p && p->batch.epoch == epoch) {
		s->first = p->next;
		if (!s->first)
			s->last = &s->first;
	} else {
		p = NULL;
	}
	pthread_mutex_unlock(&s->r->lock);
	return p;
}

static void batch_apply(struct replica *r, const struct pages_batch *b)
{
	struct cursor c = cursor_of(b->body.data, b->body.len);
	struct page_item item;

	while (pages_next(&c, &item))
		page_apply(vm_ram(r->vm), &item);
}

static void pages_commit(struct replica *r, uint64_t epoch)
{
	struct staged_pages *p;

	for (unsigned i = 1; i <= r->config.streams; i++) {
		while ((p = staged_take(&r->streams[i], epoch))) {
			batch_apply(r, &p->batch);
			pages_batch_free(&p->batch);
			free(p);
		}
	}
}

static int members_commit(struct replica *r, uint64_t epoch, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; i < r->member_count && !rc; i++)
		rc = r->members[i].commit(r->members[i].ctx, epoch, e);
	return rc;
}

static int state_commit(struct replica *r, uint64_t epoch, struct error *e)
{
	struct staged_state *s = state_slot(r, epoch);
	int rc = 0;

	pthread_mutex_lock(&r->lock);
	if (s->epoch == epoch && s->bytes.data) {
		buf_free(&r->state);
		r->state = s->bytes;
		s->bytes = (struct buf){0};
	} else {
		rc = -EBADMSG;
	}
	pthread_mutex_unlock(&r->lock);
	return rc ? error_set(e, rc, "epoch %" PRIu64 " has no machine state", epoch) : 0;
}

int stage_commit(struct replica *r, uint64_t epoch, struct error *e)
{
	int rc = fault_point("replica.commit");

	if (rc)
		return error_set(e, rc, "commit of epoch %" PRIu64 ": %s", epoch, strerror(-rc));
	rc = state_commit(r, epoch, e);
	if (rc)
		return rc;
	pages_commit(r, epoch);
	return members_commit(r, epoch, e);
}

static struct staged_pages *staged_take_all(struct replica_stream *s)
{
	struct staged_pages *p;

	pthread_mutex_lock(&s->r->lock);
	p = s->first;
	s->first = NULL;
	s->last = &s->first;
	pthread_mutex_unlock(&s->r->lock);
	return p;
}

static void pages_discard(struct replica_stream *s)
{
	struct staged_pages *p = staged_take_all(s), *next;

	for (; p; p = next) {
		next = p->next;
		pages_batch_free(&p->batch);
		free(p);
	}
}

void stage_discard(struct replica *r)
{
	for (unsigned i = 1; i <= r->config.streams; i++)
		pages_discard(&r->streams[i]);
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < ARRAY_LEN(r->states); i++)
		buf_free(&r->states[i].bytes);
	pthread_mutex_unlock(&r->lock);
	for (unsigned i = 0; i < r->member_count; i++)
		r->members[i].discard(r->members[i].ctx);
}

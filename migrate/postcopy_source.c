// SPDX-License-Identifier: Apache-2.0
#include "migrate/postcopy_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- connecting ------------------------------------------------------------------------ */

static int stream_open(const struct side *s, unsigned stream, uint64_t deadline,
		       struct channel **out, struct error *e)
{
	struct channel_auth auth = {.stream = (uint16_t)(POSTCOPY_STREAM + stream)};
	const struct postcopy_config *c = &s->config;
	int rc;

	memcpy(auth.session, c->session, SESSION_ID_SIZE);
	memcpy(auth.key, c->key, SESSION_KEY_SIZE);
	rc = channel_dial_stream(c->address, c->port, &auth, s->over_fd, deadline, out, e);
	explicit_bzero(auth.key, sizeof(auth.key));
	return rc;
}

/* Where a cut, or the end, finds it. */
static int stream_keep(struct side *s, unsigned stream, struct channel *c)
{
	bool over;

	pthread_mutex_lock(&s->lock);
	over = s->over;
	s->streams[stream] = c;
	if (over)
		channel_shutdown(c);
	pthread_mutex_unlock(&s->lock);
	return over ? -ESHUTDOWN : 0;
}

static int hello_send(struct side *s, unsigned stream, uint64_t deadline)
{
	struct link_hello h;
	struct buf b = {0};
	int rc;

	side_hello(s, stream, &h);
	link_hello_encode(&h, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(s->streams[stream], LINK_HELLO, RECORD_MANDATORY,
				  &(struct iovec){b.data, b.len}, 1, deadline);
	buf_free(&b);
	return rc;
}

static int hello_exchange(struct side *s, unsigned stream, uint64_t deadline, struct error *e)
{
	struct record r;
	int rc = hello_send(s, stream, deadline);

	if (!rc)
		rc = channel_receive(s->streams[stream], &r, deadline);
	if (rc)
		return error_set(e, rc, "the target does not welcome stream %u: %s",
				 POSTCOPY_STREAM + stream, strerror(-rc));
	if (r.type == LINK_OK && !r.len)
		return 0;
	if (r.type == LINK_REFUSE)
		return link_refuse_decode(r.payload, r.len, e);
	return error_set(e, -EBADMSG, "the target answers with a record of type %u", r.type);
}

static int streams_connect(struct postcopy_source *p, uint64_t deadline, struct error *e)
{
	struct side *s = &p->side;
	struct channel *c;
	int rc = 0;

	for (unsigned i = 0; !rc && i <= s->config.streams; i++) {
		rc = stream_open(s, i, deadline, &c, e);
		if (!rc) {
			rc = stream_keep(s, i, c);
			if (rc)
				return error_set(e, rc, "the link was given up");
			rc = hello_exchange(s, i, deadline, e);
		}
	}
	return rc;
}

/* Lock held. */
static int connect_begin(struct postcopy_source *p, const struct postcopy_config *c,
			 struct error *e)
{
	struct side *s = &p->side;

	if (s->state == POSTCOPY_DONE)
		return error_set(e, -EALREADY, "the target has all pages already");
	if (s->quit || p->connecting || side_is_up(s))
		return error_set(e, s->quit ? -ESHUTDOWN : -EBUSY, "there is a link already");
	p->connecting = true;
	while (s->users)
		side_wait(s, UINT64_MAX);
	side_clear(s);
	push_plan_link(&p->plan);
	if (c)
		side_session(s, c);
	s->number++;
	if (s->quit) /* meanwhile */
		side_over(s, "");
	return 0;
}

/* Lock held. */
static int connect_end(struct postcopy_source *p, int rc, struct error *e)
{
	struct side *s = &p->side;

	if (!rc && s->over)
		rc = error_set(e, -ESHUTDOWN, "the link was given up");
	p->connecting = false;
	if (rc) {
		side_over(s, "");
		return rc;
	}
	s->up = true;
	s->links++;
	side_state(s, p->serving ? POSTCOPY_RUNNING : POSTCOPY_READY, "");
	return 0;
}

int postcopy_source_connect(struct postcopy_source *p, const struct postcopy_config *c,
			    uint64_t deadline, struct error *e)
{
	struct side *s = &p->side;
	int rc;

	if (c && c->streams != s->config.streams)
		return error_set(e, -EINVAL, "the number of push streams cannot change");
	pthread_mutex_lock(&s->lock);
	rc = connect_begin(p, c, e);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	rc = streams_connect(p, deadline, e);
	pthread_mutex_lock(&s->lock);
	rc = connect_end(p, rc, e);
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* ---- serving ----------------------------------------------------------------------------- */

int postcopy_source_serve(struct postcopy_source *p, const uint64_t *missing)
{
	struct side *s = &p->side;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (p->serving) {
		rc = -EALREADY;
	} else {
		push_plan_switch(&p->plan, missing);
		p->told_left = bitmap_count(missing, p->plan.pages);
		p->serving = true;
		if (side_is_up(s))
			side_state(s, POSTCOPY_RUNNING, "");
		side_changed(s);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void postcopy_source_stats(struct postcopy_source *p, struct postcopy_stats *out)
{
	pthread_mutex_lock(&p->side.lock);
	*out = (struct postcopy_stats){
		.state = p->side.state,
		.missing = bitmap_count(p->plan.missing, p->plan.pages),
		.left = p->told_left,
		.faults = p->faults,
		.pushed = p->pushed,
		.bytes = side_bytes(&p->side),
		.key_updates = side_key_updates(&p->side),
		.links = p->side.links,
	};
	pthread_mutex_unlock(&p->side.lock);
}

/* ---- begin and end ------------------------------------------------------------------------ */

static void vm_untouched(struct side *s, enum postcopy_state state)
{
}

static const struct side_ops source_ops = {.apply = vm_untouched};

static int stream_start(struct postcopy_source *p, unsigned index)
{
	struct source_stream *t = &p->streams[index];
	enum page_compression compression = index ? p->side.config.compression : COMPRESS_NONE;
	char name[16];
	int rc;

	t->p = p;
	t->index = index;
	rc = epoch_writer_create(compression, source_emit, t, &t->writer);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), index ? "push-%u" : "asked", index % 100u);
	rc = thread_start(&t->thread, name, index ? source_push_main : source_asked_main, t);
	t->started = !rc;
	return rc;
}

static int threads_start(struct postcopy_source *p, struct error *e)
{
	int rc = thread_start(&p->control, "control", source_control_main, p);

	p->control_started = !rc;
	for (unsigned i = 0; !rc && i <= p->side.config.streams; i++)
		rc = stream_start(p, i);
	return rc ? error_set(e, rc, "start a thread: %s", strerror(-rc)) : 0;
}

int postcopy_source_create(struct vm *vm, const struct postcopy_config *c,
			   const struct postcopy_events *events, struct postcopy_source **out,
			   struct error *e)
{
	struct postcopy_source *p = calloc(1, sizeof(*p));
	int rc;

	if (!p || push_plan_init(&p->plan, vm_ram_pages(vm))) {
		free(p);
		return error_set(e, -ENOMEM, "postcopy: out of memory");
	}
	rc = side_init(&p->side, vm, c, events, &source_ops, e);
	if (rc) {
		push_plan_free(&p->plan);
		free(p);
		return rc;
	}
	rc = threads_start(p, e);
	if (rc) {
		postcopy_source_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

/* No cut of this link is news to anybody. */
void postcopy_source_close(struct postcopy_source *p)
{
	struct side *s = &p->side;

	pthread_mutex_lock(&s->lock);
	s->quit = s->complete = true;
	side_over(s, "");
	pthread_mutex_unlock(&s->lock);
}

static void source_quit(struct postcopy_source *p)
{
	struct side *s = &p->side;

	postcopy_source_close(p);
	pthread_mutex_lock(&s->lock);
	while (p->connecting)
		side_wait(s, UINT64_MAX);
	pthread_mutex_unlock(&s->lock);
}

void postcopy_source_destroy(struct postcopy_source *p)
{
	if (!p)
		return;
	source_quit(p);
	if (p->control_started)
		pthread_join(p->control, NULL);
	for (unsigned i = 0; i < LINK_STREAMS_MAX; i++) {
		if (p->streams[i].started)
			pthread_join(p->streams[i].thread, NULL);
		epoch_writer_destroy(p->streams[i].writer);
	}
	side_free(&p->side);
	push_plan_free(&p->plan);
	free(p);
}

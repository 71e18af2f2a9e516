// SPDX-License-Identifier: Apache-2.0
/* A stream of a postcopy target, from the accepted socket to its end. */
#include <errno.h>
#include <string.h>

#include "migrate/postcopy_target.h"

#define LOG_MODULE "postcopy"

/* ---- pages ----------------------------------------------------------------------------- */

struct page_put {
	struct postcopy_target *t;
	struct vm_lazy *lazy;
};

static int page_put(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct page_put *p = ctx;
	struct side *s = &p->t->side;
	int rc = vm_lazy_put(p->lazy, page, bytes);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	page_wants_came(&p->t->wants, page, clock_ns());
	if (!p->t->wants.left && !s->complete) {
		s->complete = true;
		side_changed(s);
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int on_pages(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct page_put put = {.t = (struct postcopy_target *)s};

	pthread_mutex_lock(&s->lock);
	put.lazy = put.t->lazy;
	if (stream)
		put.t->pushed_at = clock_ns();
	pthread_mutex_unlock(&s->lock);
	if (!put.lazy)
		return error_set(e, -EBADMSG, "pages that nobody asked for");
	return epoch_pages_read(r->payload, r->len, put.t->wants.pages, page_put, &put, e);
}

/* ---- the control stream ------------------------------------------------------------------ */

static int on_all_ok(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	struct postcopy_target *t = (struct postcopy_target *)s;
	bool said;

	pthread_mutex_lock(&s->lock);
	said = t->all_said;
	t->all_heard = said;
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	return said ? 0 : error_set(e, -EBADMSG, "an answer to what was not said");
}

static int on_beat(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	return 0;
}

static int on_refuse(struct side *s, unsigned stream, const struct record *r, struct error *e)
{
	return link_refuse_decode(r->payload, r->len, e);
}

static const struct link_handler control_handlers[] = {
	{LINK_PAGES, LINK_PAGES_MIN, LINK_PAGES_MOST, on_pages},
	{LINK_ALL_OK, 0, 0, on_all_ok},
	{LINK_BEAT, 8, 8, on_beat},
	{LINK_REFUSE, 4, 4 + LINK_REFUSE_TEXT, on_refuse},
};
static const struct link_handler push_handlers[] = {
	{LINK_PAGES, LINK_PAGES_MIN, LINK_PAGES_MOST, on_pages},
};
static const struct link_table control_table = {control_handlers, ARRAY_LEN(control_handlers)};
static const struct link_table push_table = {push_handlers, ARRAY_LEN(push_handlers)};

/* ---- handshake ------------------------------------------------------------------------------ */

static struct channel *channel_of(struct target_thread *a, struct error *e)
{
	struct side *s = &a->t->side;
	struct channel_auth auth = {.stream = (uint16_t)(POSTCOPY_STREAM + a->stream)};
	struct channel *c = NULL;

	pthread_mutex_lock(&s->lock);
	memcpy(auth.session, s->config.session, SESSION_ID_SIZE);
	memcpy(auth.key, s->config.key, SESSION_KEY_SIZE);
	pthread_mutex_unlock(&s->lock);
	if (channel_accept(a->fd, &auth, clock_ns() + LINK_HANDSHAKE_NS, &c, e))
		c = NULL;
	explicit_bzero(auth.key, sizeof(auth.key));
	return c;
}

static int hello_receive(struct target_thread *a, struct channel *c, uint64_t *number,
			 struct error *e)
{
	struct side *s = &a->t->side;
	struct link_hello ours, theirs;
	struct record r;
	int rc = channel_receive(c, &r, clock_ns() + LINK_HANDSHAKE_NS);

	if (rc)
		return error_set(e, rc, "no word after the handshake: %s", strerror(-rc));
	if (r.type != LINK_HELLO)
		return error_set(e, -EBADMSG, "a link begins with a record of type %u", r.type);
	pthread_mutex_lock(&s->lock);
	side_hello(s, a->stream, &ours);
	pthread_mutex_unlock(&s->lock);
	rc = link_hello_decode(r.payload, r.len, &theirs, e);
	if (!rc)
		rc = link_hello_check(&theirs, &ours, e);
	if (!rc)
		*number = theirs.number;
	return rc;
}

/* ---- a place in the link -----------------------------------------------------------------------
 */

/* Lock held. What was said on the old link counts no more. */
static void link_begin(struct postcopy_target *t, uint64_t number)
{
	side_clear(&t->side);
	page_wants_link(&t->wants);
	t->side.number = number;
	t->welcomed = 0;
	t->listed = t->all_at = 0;
	t->go_said = t->all_said = t->all_heard = false;
}

/* Lock held, dropped meanwhile. The old link is over, whatever this side thought of it. */
static int control_claim(struct postcopy_target *t, uint64_t number, struct error *e)
{
	struct side *s = &t->side;

	while (!s->quit && number > s->number && s->users) {
		if (!s->over)
			side_over(s, "the source has connected anew");
		side_wait(s, UINT64_MAX);
	}
	if (s->quit || number <= s->number)
		return error_set(e, -EALREADY, "there is a later link");
	link_begin(t, number);
	return 0;
}

static int slot_claim(struct target_thread *a, struct channel *c, uint64_t number, struct error *e)
{
	struct side *s = &a->t->side;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (!a->stream)
		rc = control_claim(a->t, number, e);
	else if (s->quit || s->over || number != s->number || !s->streams[0] ||
		 s->streams[a->stream])
		rc = error_set(e, -EALREADY, "it has no place in this link");
	if (!rc) {
		s->streams[a->stream] = c;
		s->users++;
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* The source begins when all have been welcomed, and may do so before this side knows. */
static int stream_welcome(struct target_thread *a)
{
	struct postcopy_target *t = a->t;
	struct side *s = &t->side;
	int rc = channel_send(s->streams[a->stream], LINK_OK, RECORD_MANDATORY, NULL, 0,
			      clock_ns() + LINK_HANDSHAKE_NS);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	if (++t->welcomed == s->config.streams + 1 && !s->over) {
		s->up = true;
		s->links++;
		side_state(s, t->started ? POSTCOPY_RUNNING : POSTCOPY_READY, "");
		side_changed(s);
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void stream_serve(struct target_thread *a)
{
	struct side *s = &a->t->side;
	int rc = stream_welcome(a);

	if (rc)
		side_cut(s, rc, "welcome");
	else
		side_receive(s, a->stream, a->stream ? &push_table : &control_table);
	pthread_mutex_lock(&s->lock);
	side_leave(s);
	pthread_mutex_unlock(&s->lock);
}

static bool stream_accept(struct target_thread *a)
{
	struct error e = {0};
	struct channel *c = channel_of(a, &e);
	uint64_t number = 0;
	int rc = c ? hello_receive(a, c, &number, &e) : e.code;

	if (!rc)
		rc = slot_claim(a, c, number, &e);
	if (!rc)
		return true;
	log_warn("stream %u is refused: %s", POSTCOPY_STREAM + a->stream, e.text);
	if (c)
		link_refuse_send(c, rc == -ESTALE ? LINK_REFUSE_TERM : LINK_REFUSE_OTHER, e.text);
	channel_close(c);
	return false;
}

void *target_stream_main(void *ctx)
{
	struct target_thread *a = ctx;
	struct side *s = &a->t->side;
	bool accepted;

	if (a->stream)
		thread_hasten();
	else
		thread_urge();
	accepted = stream_accept(a);
	pthread_mutex_lock(&s->lock);
	a->t->attempts--;
	pthread_mutex_unlock(&s->lock);
	if (accepted)
		stream_serve(a);
	pthread_mutex_lock(&s->lock);
	a->done = true;
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

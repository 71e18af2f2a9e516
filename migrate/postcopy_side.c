// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migrate/postcopy.h"

#define LOG_MODULE "postcopy"

void postcopy_config_defaults(struct postcopy_config *c)
{
	*c = (struct postcopy_config){
		.streams = 4,
		.compression = COMPRESS_NONE,
		.heartbeat_ns = 100 * NS_PER_MS,
		.loss_ns = NS_PER_SEC,
		.stuck_ns = 8 * NS_PER_SEC,
	};
}

const char *postcopy_state_name(enum postcopy_state s)
{
	static const char *const names[] = {
		[POSTCOPY_WAITING] = "waiting", [POSTCOPY_READY] = "ready",
		[POSTCOPY_RUNNING] = "running", [POSTCOPY_CUT] = "cut",
		[POSTCOPY_DONE] = "done",
	};

	return names[s];
}

/* ---- events ------------------------------------------------------------------------- */

/* A queue that is full loses the last but one: what holds now is always told. */
void side_state(struct side *s, enum postcopy_state state, const char *why)
{
	struct side_report *r;

	if (s->state == state || s->state == POSTCOPY_DONE)
		return;
	s->state = state;
	if (s->report_count == LINK_REPORTS_MAX)
		s->report_count--;
	r = &s->reports[s->report_count++];
	r->state = state;
	snprintf(r->why, sizeof(r->why), "%s", why);
	side_changed(s);
}

static void *reporter_main(void *ctx)
{
	struct side *s = ctx;
	struct side_report r;

	pthread_mutex_lock(&s->lock);
	while (s->report_count || !s->quit) {
		if (!s->report_count) {
			side_wait(s, UINT64_MAX);
			continue;
		}
		r = s->reports[0];
		memmove(s->reports, s->reports + 1, --s->report_count * sizeof(r));
		pthread_mutex_unlock(&s->lock);
		s->ops->apply(s, r.state);
		s->events.state(s->events.ctx, r.state, r.why);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

void side_changed(struct side *s)
{
	pthread_cond_broadcast(&s->changed);
	pthread_cond_signal(&s->talk);
}

void side_wait(struct side *s, uint64_t until)
{
	(void)cond_wait_until(&s->changed, &s->lock, until);
}

/* ---- a link --------------------------------------------------------------------------- */

bool side_is_up(const struct side *s)
{
	return s->up && !s->over;
}

void side_over(struct side *s, const char *why)
{
	bool was_up = side_is_up(s);
	uint64_t one = 1;

	s->over = true;
	if (write(s->over_fd, &one, sizeof(one)) < 0)
		log_error("the end of a link could not be signalled");
	for (unsigned i = 0; i < LINK_STREAMS_MAX; i++)
		if (s->streams[i])
			channel_shutdown(s->streams[i]);
	if (was_up && !s->complete)
		side_state(s, POSTCOPY_CUT, why);
	side_changed(s);
}

uint64_t side_bytes(const struct side *s)
{
	uint64_t n = s->bytes;

	for (unsigned i = 0; i < LINK_STREAMS_MAX; i++)
		if (s->streams[i])
			n += channel_bytes_sent(s->streams[i]) +
			     channel_bytes_received(s->streams[i]);
	return n;
}

uint64_t side_key_updates(const struct side *s)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < LINK_STREAMS_MAX; i++)
		if (s->streams[i])
			n += channel_key_updates(s->streams[i]);
	return n;
}

void side_clear(struct side *s)
{
	uint64_t n;

	s->bytes = side_bytes(s);
	if (s->over && read(s->over_fd, &n, sizeof(n)) < 0)
		log_error("the end of a link is signalled still");
	for (unsigned i = 0; i < LINK_STREAMS_MAX; i++) {
		channel_close(s->streams[i]);
		s->streams[i] = NULL;
	}
	s->up = s->over = false;
}

void side_leave(struct side *s)
{
	s->users--;
	side_changed(s);
}

static void side_cut_why(struct side *s, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (!s->over)
		side_over(s, why);
	pthread_mutex_unlock(&s->lock);
}

void side_cut(struct side *s, int rc, const char *what)
{
	char why[LINK_WHY_MAX];

	if (rc == -EPIPE || rc == -ECONNRESET)
		snprintf(why, sizeof(why), "%s: the other side closed it", what);
	else if (rc == -ETIMEDOUT)
		snprintf(why, sizeof(why), "%s: silence", what);
	else
		snprintf(why, sizeof(why), "%s: %s", what, strerror(-rc));
	side_cut_why(s, why);
}

void link_refuse_send(struct channel *c, enum link_refuse_code code, const char *text)
{
	struct buf b = {0};
	int rc;

	link_refuse_encode(code, text, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(c, LINK_REFUSE, RECORD_MANDATORY, &(struct iovec){b.data, b.len},
				  1, clock_ns() + LINK_REFUSE_NS);
	if (rc)
		log_warn_rc(rc, "the other side could not be told why it is refused");
	buf_free(&b);
}

void side_refuse(struct side *s, const char *text)
{
	log_error("%s", text);
	link_refuse_send(s->streams[0], LINK_REFUSE_LAST, text);
	side_cut_why(s, text);
}

int side_say(struct side *s, enum link_record type, const uint64_t *words, size_t n)
{
	uint16_t flags = type == LINK_BEAT ? 0 : RECORD_MANDATORY;
	struct buf b = {0};
	int rc;

	link_words_encode(words, n, &b);
	pthread_mutex_unlock(&s->lock);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(s->streams[0], type, flags, &(struct iovec){b.data, b.len},
				  n ? 1 : 0, clock_ns() + s->config.loss_ns);
	buf_free(&b);
	pthread_mutex_lock(&s->lock);
	return rc;
}

/* ---- receiving -------------------------------------------------------------------------- */

static int record_handle(struct side *s, unsigned stream, const struct link_table *table,
			 const struct record *r, struct error *e)
{
	for (unsigned i = 0; i < table->count; i++) {
		const struct link_handler *h = &table->handlers[i];

		if (h->type != r->type)
			continue;
		if (r->len < h->least || r->len > h->most)
			return error_set(e, -EBADMSG, "a record of type %u with %u octets", r->type,
					 r->len);
		return h->handle(s, stream, r, e);
	}
	if (r->flags & RECORD_MANDATORY)
		return error_set(e, -EBADMSG, "a record of type %u", r->type);
	return 0;
}

/* Only the control stream of a link that is up is never silent for long. */
static int record_receive(struct side *s, unsigned stream, struct record *r)
{
	uint64_t until = UINT64_MAX;

	pthread_mutex_lock(&s->lock);
	if (!stream)
		until = clock_ns() + (s->up ? s->config.loss_ns : LINK_HANDSHAKE_NS);
	pthread_mutex_unlock(&s->lock);
	return channel_receive(s->streams[stream], r, until);
}

static void receive_failed(struct side *s, unsigned stream, int rc)
{
	char what[48];

	snprintf(what, sizeof(what), "stream %u", POSTCOPY_STREAM + stream);
	if (rc == -EBADMSG || rc == -EMSGSIZE)
		side_refuse(s, "a record that cannot be");
	else
		side_cut(s, rc, what);
}

void side_receive(struct side *s, unsigned stream, const struct link_table *table)
{
	struct error e = {0};
	struct record r;
	int rc;

	for (;;) {
		rc = record_receive(s, stream, &r);
		if (rc)
			break;
		rc = record_handle(s, stream, table, &r, &e);
		if (rc)
			break;
	}
	if (rc == -ESHUTDOWN)
		return;
	if (!e.code)
		receive_failed(s, stream, rc);
	else if (r.type == LINK_REFUSE)
		side_cut_why(s, e.text);
	else
		side_refuse(s, e.text);
}

/* ---- begin and end ----------------------------------------------------------------------- */

int side_config_check(const struct postcopy_config *c, struct error *e)
{
	if (!c->streams || c->streams > POSTCOPY_STREAMS_MAX || !c->heartbeat_ns ||
	    c->loss_ns <= c->heartbeat_ns || !c->stuck_ns || c->compression > COMPRESS_AUTO)
		return error_set(e, -EINVAL, "postcopy: a setting is out of range");
	return 0;
}

void side_hello(const struct side *s, unsigned stream, struct link_hello *h)
{
	*h = (struct link_hello){
		.stream = (uint16_t)(POSTCOPY_STREAM + stream),
		.streams = (uint16_t)s->config.streams,
		.term = s->config.term,
		.ram_pages = vm_ram_pages(s->vm),
		.number = s->number,
	};
	memcpy(h->session, s->config.session, SESSION_ID_SIZE);
}

int side_init(struct side *s, struct vm *vm, const struct postcopy_config *c,
	      const struct postcopy_events *events, const struct side_ops *ops, struct error *e)
{
	int rc = side_config_check(c, e);

	if (rc)
		return rc;
	s->vm = vm;
	s->config = *c;
	s->events = *events;
	s->ops = ops;
	s->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->over_fd < 0)
		return error_set(e, -errno, "postcopy: %s", strerror(errno));
	pthread_mutex_init(&s->lock, NULL);
	cond_setup(&s->changed);
	cond_setup(&s->talk);
	rc = thread_start(&s->reporter, "postcopy", reporter_main, s);
	s->reporting = !rc;
	if (!rc)
		return 0;
	side_free(s);
	return error_set(e, rc, "start a thread: %s", strerror(-rc));
}

/* Threads read the rest, without the lock. */
void side_session(struct side *s, const struct postcopy_config *c)
{
	memcpy(s->config.session, c->session, SESSION_ID_SIZE);
	memcpy(s->config.key, c->key, SESSION_KEY_SIZE);
	memcpy(s->config.address, c->address, sizeof(s->config.address));
	s->config.term = c->term;
	s->config.port = c->port;
}

void side_free(struct side *s)
{
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	if (s->reporting)
		pthread_join(s->reporter, NULL);
	side_clear(s);
	close(s->over_fd);
	pthread_cond_destroy(&s->talk);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	explicit_bzero(s->config.key, sizeof(s->config.key));
}

// SPDX-License-Identifier: Apache-2.0
/* A stream of the standby, from the accepted socket to its end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicate/replica.h"
#include "replicate/waits.h"

#define LOG_MODULE   "replica"
#define HANDSHAKE_NS (6 * NS_PER_SEC)
#define REFUSE_NS    (200 * NS_PER_MS)

/* ---- handshake --------------------------------------------------------------------- */

static void refuse_send(struct channel *c, enum refuse_code code, const char *text)
{
	struct buf b = {0};
	int rc;

	refuse_encode(code, text, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(c, RECORD_REFUSE, RECORD_MANDATORY,
				  &(struct iovec){b.data, b.len}, 1, clock_ns() + REFUSE_NS);
	if (rc)
		log_warn_rc(rc, "the primary could not be told why it is refused");
	buf_free(&b);
}

static void hello_fill(const struct replica *r, unsigned stream, struct hello *h)
{
	*h = (struct hello){
		.version = REPLICATE_VERSION,
		.stream = (uint16_t)stream,
		.streams = (uint16_t)r->config.streams,
		.member_count = (uint16_t)r->member_count,
		.term = r->config.term,
		.ram_pages = r->ram_pages,
		.vcpus = vm_vcpus(r->vm),
		.cpu = vm_cpu(r->vm),
	};
	memcpy(h->session, r->config.session, SESSION_ID_SIZE);
	for (unsigned i = 0; i < r->member_count; i++)
		h->members[i] = (struct hello_member){r->members[i].id, r->members[i].size};
}

static int hello_receive(const struct replica *r, unsigned stream, struct channel *c,
			 uint64_t deadline, struct error *e)
{
	enum refuse_code code = REFUSE_VERSION;
	struct hello ours, theirs;
	struct record record;
	int rc;

	rc = channel_receive(c, &record, deadline);
	if (rc)
		return error_set(e, rc, "hello: %s", strerror(-rc));
	if (record.type != RECORD_HELLO)
		return error_set(e, -EBADMSG, "a record of type %u instead of a hello",
				 record.type);
	hello_fill(r, stream, &ours);
	rc = hello_decode(record.payload, record.len, &theirs, e);
	if (!rc)
		rc = hello_check(&theirs, &ours, &code, e);
	if (rc)
		refuse_send(c, code, e->text);
	return rc;
}

/* Takes the slot of its stream; false when that is taken or the session has ended. */
static bool slot_claim(struct replica_stream *s, struct channel *c)
{
	struct replica *r = s->r;
	bool ok;

	pthread_mutex_lock(&r->lock);
	ok = !s->channel && !r->closed;
	if (ok) {
		s->channel = c;
		s->active = true;
		r->active++;
	}
	pthread_mutex_unlock(&r->lock);
	return ok;
}

static struct channel *stream_accept(const struct stream_attempt *a, struct error *e)
{
	uint64_t deadline = clock_ns() + HANDSHAKE_NS;
	struct channel_auth auth = {.stream = (uint16_t)a->stream};
	struct channel *c;
	int rc;

	memcpy(auth.session, a->r->config.session, SESSION_ID_SIZE);
	memcpy(auth.key, a->r->config.key, SESSION_KEY_SIZE);
	rc = channel_accept(a->fd, &auth, deadline, &c, e);
	explicit_bzero(auth.key, sizeof(auth.key));
	if (rc)
		return NULL;
	if (!hello_receive(a->r, a->stream, c, deadline, e))
		return c;
	channel_close(c);
	return NULL;
}

/* ---- receiving ------------------------------------------------------------------------ */

/* Tell the primary before the link is closed. */
void replica_fail(struct replica *r, enum standby_event type, uint64_t epoch, const char *text)
{
	struct standby_input in = {.type = type, .epoch = epoch};
	struct channel *control;

	log_error("%s", text);
	in.why = replica_why(r, text);
	pthread_mutex_lock(&r->lock);
	r->failing = true;
	control = r->closed ? NULL : r->streams[0].channel;
	pthread_mutex_unlock(&r->lock);
	if (control)
		refuse_send(control, REFUSE_INPUT, text);
	if (replica_step(r, &in))
		log_debug("after the end");
}

static void stream_lost(struct replica_stream *s, int rc)
{
	struct standby_input in = {.type = STANDBY_EV_LINK_LOST};
	char text[128];
	bool failing;

	pthread_mutex_lock(&s->r->lock);
	failing = s->r->failing;
	pthread_mutex_unlock(&s->r->lock);
	if (failing)
		return;
	snprintf(text, sizeof(text), "stream %u of the primary: %s", s->index,
		 rc == -EPIPE ? "closed" : strerror(-rc));
	if (rc == -EPIPE || rc == -ECONNRESET)
		atomic_store(&s->r->peer_closed, true);
	in.why = replica_why(s->r, text);
	if (replica_step(s->r, &in))
		log_debug("after the end");
}

bool replica_peer_closed(struct replica *r)
{
	return atomic_load(&r->peer_closed);
}

static void stream_run(struct replica_stream *s)
{
	struct record record;
	struct error e = {0};
	int rc;

	do {
		rc = channel_receive(s->channel, &record, UINT64_MAX);
		if (rc == -EBADMSG || rc == -EMSGSIZE)
			error_set(&e, rc, "stream %u: a record that cannot be", s->index);
		else if (!rc)
			rc = replica_record(s, &record, &e);
	} while (!rc);
	if (rc == -ESHUTDOWN)
		return;
	if (e.code)
		replica_fail(s->r, STANDBY_EV_BAD_INPUT, 0, e.text);
	else
		stream_lost(s, rc);
}

static int stream_welcome(struct replica_stream *s)
{
	struct replica *r = s->r;
	bool all;
	int rc;

	rc = channel_send(s->channel, RECORD_WELCOME, RECORD_MANDATORY, NULL, 0,
			  clock_ns() + HANDSHAKE_NS);
	if (!rc && s->index == 0) {
		rc = thread_start(&r->heartbeat_thread, "heartbeat", replica_heartbeat_main, r);
		r->heartbeat_started = !rc;
	}
	if (rc)
		return rc;
	pthread_mutex_lock(&r->lock);
	all = ++r->welcomed == r->config.streams + 1;
	pthread_mutex_unlock(&r->lock);
	if (all)
		replica_event(r, STANDBY_EV_CONNECTED, 0);
	return 0;
}

/* The primary begins to send when it has been welcomed on all streams, and this side
 * has fed CONNECTED by then only if the last welcome was counted first: so wait. */
static void connected_wait(struct replica *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->core.state == STANDBY_WAITING && !r->closed)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
}

static void stream_serve(struct replica_stream *s)
{
	int rc = stream_welcome(s);

	if (rc)
		stream_lost(s, rc);
	connected_wait(s->r);
	if (!rc)
		stream_run(s);
}

void *replica_stream_main(void *arg)
{
	struct stream_attempt a = *(struct stream_attempt *)arg;
	struct replica_stream *s = &a.r->streams[a.stream];
	struct replica *r = a.r;
	struct error e = {0};
	struct channel *c;
	bool claimed;

	if (a.stream == 0)
		thread_urge();
	else
		thread_hasten();
	free(arg);
	c = stream_accept(&a, &e);
	claimed = c && slot_claim(s, c);
	if (!claimed) {
		log_warn("stream %u is refused: %s", a.stream, c ? "there is one already" : e.text);
		channel_close(c);
	}
	pthread_mutex_lock(&r->lock);
	r->attempts--;
	if (claimed) {
		pthread_mutex_unlock(&r->lock);
		stream_serve(s);
		pthread_mutex_lock(&r->lock);
		r->active--;
	}
	a.thread->done = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- heartbeat -------------------------------------------------------------------------- */

static int heartbeat_send(struct replica *r)
{
	struct heartbeat h = {.acknowledged = atomic_load(&r->committed)};
	struct buf b = {0};
	int rc;

	h.sealed = atomic_load(&r->whole); /* read second: never less than committed */
	heartbeat_encode(&h, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(r->streams[0].channel, RECORD_HEARTBEAT, 0,
				  &(struct iovec){b.data, b.len}, 1,
				  clock_ns() + r->config.loss_ns);
	buf_free(&b);
	return rc;
}

void *replica_heartbeat_main(void *arg)
{
	struct replica *r = arg;
	uint64_t next = clock_ns();
	int rc = 0;

	thread_urge();
	while (!rc && !readable_within(r->end_fd, next)) {
		rc = heartbeat_send(r);
		next += r->config.heartbeat_ns;
		if (next < clock_ns())
			next = clock_ns();
	}
	if (rc && rc != -ESHUTDOWN)
		stream_lost(&r->streams[0], rc);
	return NULL;
}

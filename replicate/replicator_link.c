// SPDX-License-Identifier: Apache-2.0
/* The primary's connections: how they are made, the control stream and its heartbeat. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replicate/core_util.h"
#include "replicate/replicator.h"
#include "replicate/waits.h"

#define LOG_MODULE "replicator"

/* ---- connecting ------------------------------------------------------------- */

static void hello_fill(const struct replicator *r, unsigned stream, struct hello *h)
{
	*h = (struct hello){
		.version = REPLICATE_VERSION,
		.stream = (uint16_t)stream,
		.streams = (uint16_t)r->config.streams,
		.member_count = (uint16_t)r->member_count,
		.term = r->config.term,
		.ram_pages = vm_ram_pages(r->vm),
		.vcpus = vm_vcpus(r->vm),
		.cpu = vm_cpu(r->vm),
	};
	memcpy(h->session, r->config.session, SESSION_ID_SIZE);
	for (unsigned i = 0; i < r->member_count; i++)
		h->members[i] =
			(struct hello_member){r->members[i].member.id, r->members[i].member.size};
}

static int stream_open(struct replicator *r, unsigned stream, uint64_t deadline,
		       struct channel **out, struct error *e)
{
	struct channel_auth auth = {.stream = (uint16_t)stream};
	int rc;

	memcpy(auth.session, r->config.session, SESSION_ID_SIZE);
	memcpy(auth.key, r->config.key, SESSION_KEY_SIZE);
	rc = channel_dial_stream(r->config.address, r->config.port, &auth, r->end_fd, deadline, out,
				 e);
	explicit_bzero(auth.key, sizeof(auth.key));
	return rc;
}

/* 0 = welcome, 1 = refused, or -errno. */
static int stream_hello(struct replicator *r, unsigned stream, struct channel *c, uint64_t deadline,
			struct refuse *refuse)
{
	struct buf b = {0};
	struct record record;
	struct hello h;
	int rc;

	hello_fill(r, stream, &h);
	hello_encode(&h, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(c, RECORD_HELLO, RECORD_MANDATORY, &(struct iovec){b.data, b.len},
				  1, deadline);
	buf_free(&b);
	if (!rc)
		rc = channel_receive(c, &record, deadline);
	if (rc)
		return rc;
	if (record.type == RECORD_WELCOME && !record.len)
		return 0;
	if (record.type == RECORD_REFUSE && !refuse_decode(record.payload, record.len, refuse))
		return 1;
	return -EBADMSG;
}

/* False when the session was closed meanwhile. */
static bool stream_keep(struct replicator *r, unsigned stream, struct channel *c)
{
	bool kept;

	pthread_mutex_lock(&r->lock);
	kept = !r->closed;
	r->streams[stream] = c;
	if (!kept)
		channel_shutdown(c);
	pthread_mutex_unlock(&r->lock);
	return kept;
}

static bool stream_connect(struct replicator *r, unsigned stream, uint64_t deadline)
{
	struct refuse refuse = {0};
	struct error e = {0};
	struct channel *c;
	int rc;

	rc = stream_open(r, stream, deadline, &c, &e);
	if (rc) {
		replicator_lost(r, rc, e.text);
		return false;
	}
	if (!stream_keep(r, stream, c))
		return false;
	rc = stream_hello(r, stream, c, deadline, &refuse);
	if (rc < 0)
		replicator_lost(r, rc, "the standby does not welcome the session");
	else if (rc)
		replicator_refused(r, &refuse);
	return rc == 0;
}

/* ---- the control stream ------------------------------------------------------- */

static int on_ack(struct replicator *r, const struct record *record)
{
	struct primary_input in = {.type = PRIMARY_EV_ACK};
	struct vm_pause_times times = {0};
	uint64_t pages = 0;
	struct replicate_stats stats;
	const struct capture *c;
	int rc = epoch_decode(record->payload, record->len, &in.epoch);

	if (rc)
		return rc;
	/* Before the core hears of it: then this capture may be filled anew. */
	c = &r->captures[in.epoch % r->capture_count];
	pthread_mutex_lock(&r->lock);
	if (c->epoch == in.epoch) {
		r->ack_delay_last_ns = clock_ns() - c->sealed_at;
		times = c->times;
		pages = c->count;
	}
	pthread_mutex_unlock(&r->lock);
	rc = replicator_step(r, &in);
	if (rc || !r->events.epoch)
		return rc;
	replicator_stats(r, &stats);
	stats.last = times;
	stats.pages_last = pages;
	stats.pause_last_ns = pause_total(&times);
	r->events.epoch(r->events.ctx, &stats);
	return 0;
}

/* A guest that writes to its disk waits for the link with the device lock held, so that the
 * epoch thread can neither pause it nor tick; and as long as no epoch is sealed no answer
 * is late. A standby that lives but takes its data too slowly ends here (I5). The last pause of
 * a migration first waits for the disks of this host, which is no fault of the other one's: it
 * has that much time of its own, and gives up by itself when it is over. */
static void seal_watch(struct replicator *r)
{
	uint64_t most = r->answer_ns + (r->config.handover ? VM_PAUSE_IDLE_NS : 0);
	uint64_t began = atomic_load(&r->seal_began);

	if (began && clock_ns() - began > most)
		replicator_lost(r, -ETIMEDOUT, "no checkpoint, the standby takes data too slowly");
}

static int on_heartbeat(struct replicator *r, const struct record *record)
{
	struct heartbeat h;
	int rc = heartbeat_decode(record->payload, record->len, &h);

	if (!rc)
		rc = replicator_step(r, &(struct primary_input){.type = PRIMARY_EV_HEARD});
	if (!rc)
		seal_watch(r);
	return rc;
}

static int on_round_done(struct replicator *r, const struct record *record)
{
	uint64_t done;
	int rc = epoch_decode(record->payload, record->len, &done);

	if (rc)
		return rc;
	if (done > atomic_load(&r->round_done))
		atomic_store(&r->round_done, done);
	replicator_wake(r);
	return 0;
}

static int on_bye_ack(struct replicator *r, const struct record *record)
{
	replicator_event(r, PRIMARY_EV_BYE_ACKED, 0);
	return 0;
}

static int on_refuse(struct replicator *r, const struct record *record)
{
	struct refuse refuse;
	int rc = refuse_decode(record->payload, record->len, &refuse);

	if (!rc)
		replicator_refused(r, &refuse);
	return rc;
}

static const struct {
	uint16_t type;
	uint32_t least, most;
	int (*handle)(struct replicator *r, const struct record *record);
} control_records[] = {
	{RECORD_ACK, 8, 8, on_ack},
	{RECORD_HEARTBEAT, 16, 16, on_heartbeat},
	{RECORD_BYE_ACK, 0, 0, on_bye_ack},
	{RECORD_ROUND_DONE, 8, 8, on_round_done},
	{RECORD_REFUSE, 4, 4 + REFUSE_TEXT_MAX, on_refuse},
};

static int control_record(struct replicator *r, const struct record *record)
{
	for (size_t i = 0; i < ARRAY_LEN(control_records); i++) {
		if (control_records[i].type != record->type)
			continue;
		if (record->len < control_records[i].least || record->len > control_records[i].most)
			return -EBADMSG;
		return control_records[i].handle(r, record);
	}
	return record->flags & RECORD_MANDATORY ? -EBADMSG : 0;
}

static void *control_main(void *arg)
{
	struct replicator *r = arg;
	struct record record;
	int rc;

	thread_urge();
	log_context_vm("");
	do {
		rc = channel_receive(r->streams[0], &record, UINT64_MAX);
		if (rc) {
			replicator_lost(r, rc, "the standby's control stream");
			break;
		}
		rc = control_record(r, &record);
		if (rc)
			replicator_lost(r, rc, "the standby sent what is not understood");
	} while (!rc);
	return NULL;
}

/* ---- heartbeats ------------------------------------------------------------------ */

static int heartbeat_send(struct replicator *r)
{
	struct heartbeat h = {.acknowledged = atomic_load(&r->acknowledged)};
	struct buf b = {0};
	int rc;

	h.sealed = atomic_load(&r->sealed); /* read second: never less than acknowledged */
	heartbeat_encode(&h, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(r->streams[0], RECORD_HEARTBEAT, 0,
				  &(struct iovec){b.data, b.len}, 1,
				  clock_ns() + r->config.loss_ns);
	buf_free(&b);
	return rc;
}

static void *heartbeat_main(void *arg)
{
	struct replicator *r = arg;
	uint64_t next = clock_ns();
	int rc = 0;

	thread_urge();
	while (!rc && !readable_within(r->end_fd, next)) {
		rc = heartbeat_send(r);
		next += r->config.heartbeat_ns;
		if (next < clock_ns())
			next = clock_ns();
	}
	if (rc)
		replicator_send_failed(r, rc, "send a heartbeat");
	return NULL;
}

/* ---- all together ------------------------------------------------------------------ */

static int threads_start(struct replicator *r)
{
	int rc = sender_start(r->sender, r->streams + 1);

	if (rc)
		return rc;
	rc = thread_start(&r->control_thread, "control", control_main, r);
	r->control_started = !rc;
	if (rc)
		return rc;
	rc = thread_start(&r->heartbeat_thread, "heartbeat", heartbeat_main, r);
	r->heartbeat_started = !rc;
	return rc;
}

void link_connect(struct replicator *r)
{
	uint64_t deadline = clock_ns() + r->answer_ns;
	int rc;

	for (unsigned i = 0; i <= r->config.streams; i++)
		if (!stream_connect(r, i, deadline))
			return;
	/* Before the threads: a heartbeat may be waiting already. */
	if (replicator_step(r, &(struct primary_input){.type = PRIMARY_EV_CONNECTED}))
		return;
	rc = threads_start(r);
	if (rc)
		replicator_lost(r, rc, "start a thread");
}

void link_close(struct replicator *r)
{
	uint64_t one = 1;

	r->closed = true;
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		if (r->streams[i])
			channel_shutdown(r->streams[i]);
	sender_kill(r->sender);
	if (write(r->end_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		log_error("the session's end could not be signalled");
}

void link_join(struct replicator *r)
{
	if (r->control_started)
		pthread_join(r->control_thread, NULL);
	if (r->heartbeat_started)
		pthread_join(r->heartbeat_thread, NULL);
}

void link_bye(struct replicator *r)
{
	int rc = channel_send(r->streams[0], RECORD_BYE, RECORD_MANDATORY, NULL, 0,
			      clock_ns() + core_earlier(r->config.loss_ns, r->bye_ns));

	if (rc)
		replicator_lost(r, rc, "tell the standby of the end");
}

// SPDX-License-Identifier: Apache-2.0
#include "replicate/replica.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "replicate/waits.h"

#define LOG_MODULE "replica"
/* The primary opens an epoch (a disk write) before it has sealed it. */
#define WINDOW_SPARE 1u

/* ---- the core, and what follows from an event ---------------------------------- */

static void report_put(struct replica *r, const struct core_action *a)
{
	if (r->report_count == ARRAY_LEN(r->reports)) { /* no session has so many states */
		log_error("a state was not reported");
		return;
	}
	r->reports[r->report_count++] = *a;
}

/* Lock held. An answer to BYE has to leave first: whoever hears of the end may end this
 * object. */
static void act_now(struct replica *r, const struct core_action *a, bool answer)
{
	if (a->type == STANDBY_COMMIT)
		r->commit = a->epoch;
	else if (a->type == STANDBY_LOAD)
		r->load = true;
	else if (a->type == STANDBY_DISCARD)
		r->discard = true;
	else if (a->type == STANDBY_REPORT && !answer)
		report_put(r, a);
	else if (a->type == STANDBY_CLOSE && !answer)
		replica_close(r);
}

/* In order and each once, whichever thread finds the epoch whole. An acknowledgement
 * covers all epochs before it. */
static void ack_send(struct replica *r, uint64_t epoch)
{
	struct buf b = {0};
	int rc;

	pthread_mutex_lock(&r->ack_lock);
	rc = fault_point("replica.ack");
	if (!rc && epoch > r->ack_sent) {
		r->ack_sent = epoch;
		epoch_encode(epoch, &b);
		rc = buf_check(&b);
		if (!rc)
			rc = channel_send(r->streams[0].channel, RECORD_ACK, RECORD_MANDATORY,
					  &(struct iovec){b.data, b.len}, 1,
					  clock_ns() + r->config.loss_ns);
	}
	pthread_mutex_unlock(&r->ack_lock);
	buf_free(&b);
	if (rc && rc != -ESHUTDOWN)
		log_warn_rc(rc, "epoch %lu could not be acknowledged", (unsigned long)epoch);
}

static int round_told(struct replica *r, uint64_t round)
{
	struct buf b = {0};
	int rc;

	r->round_told = round;
	epoch_encode(round, &b);
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(r->streams[0].channel, RECORD_ROUND_DONE, 0,
				  &(struct iovec){b.data, b.len}, 1,
				  clock_ns() + r->config.loss_ns);
	buf_free(&b);
	return rc;
}

int replica_round_end(struct replica_stream *s, uint64_t round)
{
	struct replica *r = s->r;
	uint64_t least = round;
	int rc = 0;

	pthread_mutex_lock(&r->ack_lock);
	s->round = round;
	for (unsigned i = 1; i <= r->config.streams; i++)
		if (r->streams[i].round < least)
			least = r->streams[i].round;
	if (least > r->round_told)
		rc = round_told(r, least);
	pthread_mutex_unlock(&r->ack_lock);
	return rc;
}

static void bye_ack_send(struct replica *r, const struct core_actions *actions)
{
	int rc = channel_send(r->streams[0].channel, RECORD_BYE_ACK, RECORD_MANDATORY, NULL, 0,
			      clock_ns() + r->config.loss_ns);

	if (rc)
		log_warn_rc(rc, "the end could not be confirmed");
	pthread_mutex_lock(&r->lock);
	replica_close(r);
	for (unsigned i = 0; i < actions->count; i++)
		if (actions->item[i].type == STANDBY_REPORT)
			report_put(r, &actions->item[i]);
	pthread_mutex_unlock(&r->lock);
}

static bool has_action(const struct core_actions *a, int type)
{
	for (unsigned i = 0; i < a->count; i++)
		if (a->item[i].type == type)
			return true;
	return false;
}

int replica_step(struct replica *r, const struct standby_input *in)
{
	struct standby_input fed = *in;
	struct core_actions actions;
	bool answer;
	int rc;

	pthread_mutex_lock(&r->lock);
	fed.now = clock_ns();
	rc = standby_core_event(&r->core, &fed, &actions);
	answer = !rc && has_action(&actions, STANDBY_BYE_ACK);
	for (unsigned i = 0; !rc && i < actions.count; i++)
		act_now(r, &actions.item[i], answer);
	atomic_store(&r->whole, r->core.whole);
	atomic_store(&r->committed, r->core.committed);
	if (!rc && in->type != STANDBY_EV_DATA && in->type != STANDBY_EV_HEARD)
		pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	for (unsigned i = 0; !rc && i < actions.count; i++)
		if (actions.item[i].type == STANDBY_ACK)
			ack_send(r, actions.item[i].epoch);
	if (answer)
		bye_ack_send(r, &actions);
	return rc;
}

void replica_event(struct replica *r, enum standby_event type, uint64_t epoch)
{
	int rc = replica_step(r, &(struct standby_input){.type = type, .epoch = epoch});

	if (rc)
		log_debug("event %s: %s", standby_event_name(type), strerror(-rc));
}

const char *replica_why(struct replica *r, const char *text)
{
	pthread_mutex_lock(&r->lock);
	if (!*r->why)
		snprintf(r->why, sizeof(r->why), "%s", text);
	pthread_mutex_unlock(&r->lock);
	return r->why;
}

void replica_close(struct replica *r)
{
	uint64_t one = 1;

	r->closed = true;
	for (unsigned i = 0; i <= r->config.streams; i++)
		if (r->streams[i].channel)
			channel_shutdown(r->streams[i].channel);
	pthread_cond_broadcast(&r->changed);
	if (write(r->end_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		log_error("the session's end could not be signalled");
}

/* ---- the worker ------------------------------------------------------------------- */

static void do_commit(struct replica *r, uint64_t epoch)
{
	struct error e = {0};

	log_context_epoch(epoch);
	if (stage_commit(r, epoch, &e))
		replica_fail(r, STANDBY_EV_COMMIT_FAILED, epoch, e.text);
	else
		replica_event(r, STANDBY_EV_COMMITTED, epoch);
}

static void do_load(struct replica *r)
{
	struct standby_input in = {.type = STANDBY_EV_LOADED};
	struct error e = {0};

	int rc = fault_point("replica.load");

	if (rc)
		error_set(&e, rc, "load the state: %s", strerror(-rc));
	else
		rc = vm_state_load(r->vm, r->state.data, r->state.len, &e);
	if (rc) {
		log_error("%s", e.text);
		in.type = STANDBY_EV_LOAD_FAILED;
		in.why = replica_why(r, e.text);
	}
	if (replica_step(r, &in))
		log_debug("after the end");
}

/* Whole epochs come first, and nobody may still be adding: then the rest can go. */
static bool discard_due(const struct replica *r)
{
	bool ended = r->core.state == STANDBY_RELEASED || r->core.state == STANDBY_BROKEN;

	return r->discard && !r->active && !r->commit &&
	       (ended || r->core.committed == r->core.whole);
}

/* What to do next; lock held. */
static void (*work_next(struct replica *r, uint64_t *epoch))(struct replica *)
{
	*epoch = r->commit;
	if (r->commit) {
		r->commit = 0;
		return NULL;
	}
	if (discard_due(r)) {
		r->discard = false;
		return stage_discard;
	}
	if (r->load && !r->active && !r->discard) {
		r->load = false;
		return do_load;
	}
	return NULL;
}

void *replica_worker_main(void *arg)
{
	struct replica *r = arg;
	void (*job)(struct replica *);
	uint64_t epoch;

	thread_hasten();
	pthread_mutex_lock(&r->lock);
	for (;;) {
		job = work_next(r, &epoch);
		if (!job && !epoch && r->quit)
			break;
		if (!job && !epoch) {
			pthread_cond_wait(&r->changed, &r->lock);
			continue;
		}
		pthread_mutex_unlock(&r->lock);
		if (epoch)
			do_commit(r, epoch);
		else
			job(r);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- the clock ---------------------------------------------------------------------- */

static bool report_take(struct replica *r, struct core_action *out)
{
	if (!r->report_count)
		return false;
	*out = r->reports[0];
	memmove(r->reports, r->reports + 1, --r->report_count * sizeof(*out));
	return true;
}

void *replica_clock_main(void *arg)
{
	struct replica *r = arg;
	struct core_action report;
	uint64_t deadline;

	thread_hasten();
	pthread_mutex_lock(&r->lock);
	for (;;) {
		if (report_take(r, &report)) {
			pthread_mutex_unlock(&r->lock);
			r->events.state(r->events.ctx, (enum replica_state)report.state,
					report.why ? report.why : "");
			pthread_mutex_lock(&r->lock);
			continue;
		}
		if (r->quit)
			break;
		deadline = standby_core_deadline(&r->core);
		if (deadline <= clock_ns()) {
			pthread_mutex_unlock(&r->lock);
			replica_event(r, STANDBY_EV_TICK, 0);
			pthread_mutex_lock(&r->lock);
			continue;
		}
		(void)cond_wait_until(&r->changed, &r->lock, deadline);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- public -------------------------------------------------------------------------- */

static int replica_setup(struct replica *r, struct error *e)
{
	const struct replicate_config *c = &r->config;
	struct standby_config config = {
		.heartbeat_ns = c->heartbeat_ns,
		.loss_ns = c->loss_ns,
		.streams = c->streams,
		.window = c->window + WINDOW_SPARE,
		.term = c->term,
	};
	int rc;

	if (c->streams >= CHANNEL_STREAMS_MAX || c->window > CORE_WINDOW_MAX ||
	    standby_core_init(&r->core, &config))
		return error_set(e, -EINVAL, "replication: a setting is out of range");
	r->versions = calloc(r->ram_pages, sizeof(*r->versions));
	r->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!r->versions || r->end_fd < 0)
		return error_set(e, -ENOMEM, "replication: out of memory");
	rc = thread_start(&r->worker_thread, "commit", replica_worker_main, r);
	r->worker_started = !rc;
	if (!rc) {
		rc = thread_start(&r->clock_thread, "clock", replica_clock_main, r);
		r->clock_started = !rc;
	}
	return rc ? error_set(e, rc, "start a thread: %s", strerror(-rc)) : 0;
}

int replica_create(struct vm *vm, const struct replicate_config *c,
		   const struct epoch_member *members, unsigned member_count,
		   const struct replica_events *events, struct replica **out, struct error *e)
{
	struct replica *r;
	int rc;

	if (member_count > EPOCH_MEMBERS_MAX)
		return error_set(e, -EINVAL, "replication: %u disks are too many", member_count);
	r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(e, -ENOMEM, "replication: out of memory");
	r->vm = vm;
	r->config = *c;
	r->events = *events;
	r->ram_pages = vm_ram_pages(vm);
	r->member_count = member_count;
	for (unsigned i = 0; i < member_count; i++)
		r->members[i] = members[i];
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++) {
		r->streams[i] = (struct replica_stream){.r = r, .index = i};
		r->streams[i].last = &r->streams[i].first;
	}
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->ack_lock, NULL);
	cond_setup(&r->changed);
	r->end_fd = -1;
	rc = replica_setup(r, e);
	if (rc) {
		replica_destroy(r);
		return rc;
	}
	*out = r;
	return 0;
}

/* Lock held. A thread that is done has nothing left but to return. */
static struct stream_thread *thread_slot(struct replica *r)
{
	for (unsigned i = 0; i < STREAM_THREADS_MAX; i++) {
		struct stream_thread *t = &r->threads[i];

		if (t->used && t->done) {
			pthread_join(t->thread, NULL);
			*t = (struct stream_thread){0};
		}
		if (!t->used)
			return t;
	}
	return NULL;
}

static int attempt_check(const struct replica *r, unsigned stream)
{
	if (r->closed)
		return -ESHUTDOWN;
	if (stream > r->config.streams)
		return -EINVAL;
	if (r->streams[stream].channel)
		return -EALREADY;
	return r->attempts < ATTEMPTS_MAX ? 0 : -EBUSY;
}

/* Lock held. */
static int attempt_start(struct replica *r, unsigned stream, int fd)
{
	struct stream_thread *t = thread_slot(r);
	struct stream_attempt *a;
	char name[16];
	int rc;

	if (!t)
		return -EBUSY;
	a = malloc(sizeof(*a));
	if (!a)
		return -ENOMEM;
	*a = (struct stream_attempt){r, t, stream, fd};
	snprintf(name, sizeof(name), "stream-%u", stream % 100u);
	rc = thread_start(&t->thread, name, replica_stream_main, a);
	if (rc) {
		free(a);
		return rc;
	}
	t->used = true;
	r->attempts++;
	return 0;
}

int replica_add_stream(struct replica *r, uint16_t stream, int fd)
{
	int rc;

	pthread_mutex_lock(&r->lock);
	rc = attempt_check(r, stream);
	if (!rc)
		rc = attempt_start(r, stream, fd);
	pthread_mutex_unlock(&r->lock);
	if (rc)
		close(fd);
	return rc;
}

static int promote_refused(struct replica *r, int rc, struct error *e)
{
	bool broken;

	if (rc == -EAGAIN)
		return error_set(e, rc,
				 "there is no whole epoch yet: the first copy was not finished");
	if (rc == -ESTALE)
		return error_set(e, rc, "the new term is not newer than the session's");
	pthread_mutex_lock(&r->lock);
	broken = r->core.state == STANDBY_BROKEN;
	pthread_mutex_unlock(&r->lock);
	if (rc == -EPERM && broken)
		return error_set(e, rc, "this replica is broken: %s", r->why);
	if (rc == -EPERM)
		return error_set(e, rc, "this replica ended in good order");
	return error_set(e, rc, "the replica has been promoted already");
}

/* To promote closes the session. A source that has handed over, and hears no acknowledgement of
 * the last epoch, would go on. */
static void acknowledge_first(struct replica *r)
{
	uint64_t epoch;

	pthread_mutex_lock(&r->lock);
	epoch = r->core.acknowledged;
	pthread_mutex_unlock(&r->lock);
	ack_send(r, epoch);
}

int replica_promote(struct replica *r, uint64_t new_term, struct error *e)
{
	enum standby_state state;
	int rc;

	if (r->config.handover)
		acknowledge_first(r);
	rc = replica_step(r, &(struct standby_input){.type = STANDBY_EV_PROMOTE, .term = new_term});
	if (rc)
		return promote_refused(r, rc, e);
	pthread_mutex_lock(&r->lock);
	while (r->core.state == STANDBY_PROMOTING)
		pthread_cond_wait(&r->changed, &r->lock);
	state = r->core.state;
	pthread_mutex_unlock(&r->lock);
	if (state != STANDBY_PROMOTED)
		return error_set(e, -EIO, "promotion: %s", r->why);
	return 0;
}

const uint64_t *replica_missing(struct replica *r)
{
	return r->missing;
}

void replica_stats(struct replica *r, struct replicate_stats *out)
{
	*out = (struct replicate_stats){
		.pages = atomic_load(&r->pages),
		.bytes_raw = atomic_load(&r->bytes_raw),
	};
	pthread_mutex_lock(&r->lock);
	out->epoch = r->core.whole;
	out->acknowledged = r->core.committed;
	for (unsigned i = 0; i <= r->config.streams; i++) {
		if (!r->streams[i].channel)
			continue;
		out->bytes_sent += channel_bytes_received(r->streams[i].channel);
		out->key_updates += channel_key_updates(r->streams[i].channel);
	}
	pthread_mutex_unlock(&r->lock);
}

static void threads_end(struct replica *r)
{
	pthread_mutex_lock(&r->lock);
	r->quit = true;
	if (r->end_fd >= 0)
		replica_close(r);
	while (r->attempts || r->active)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	for (unsigned i = 0; i < STREAM_THREADS_MAX; i++)
		if (r->threads[i].used)
			pthread_join(r->threads[i].thread, NULL);
	if (r->heartbeat_started)
		pthread_join(r->heartbeat_thread, NULL);
	if (r->worker_started)
		pthread_join(r->worker_thread, NULL);
	if (r->clock_started)
		pthread_join(r->clock_thread, NULL);
}

void replica_destroy(struct replica *r)
{
	if (!r)
		return;
	threads_end(r);
	stage_discard(r);
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		channel_close(r->streams[i].channel);
	buf_free(&r->state);
	free(r->versions);
	free(r->missing);
	if (r->end_fd >= 0)
		close(r->end_fd);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->ack_lock);
	pthread_mutex_destroy(&r->lock);
	explicit_bzero(r->config.key, sizeof(r->config.key));
	free(r);
}

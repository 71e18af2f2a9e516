// SPDX-License-Identifier: Apache-2.0
#include "replicate/replicator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "replicate/core_util.h"
#include "replicate/waits.h"

#define LOG_MODULE       "replicator"
#define ANSWER_NS_LEAST  (2 * NS_PER_SEC)
#define ANSWER_LOSS_TIME 4u
#define REASON_NS        (100 * NS_PER_MS)
#define CANCEL_NS        (500 * NS_PER_MS)

/* ---- the core, and what follows from an event --------------------------------- */

static struct capture *capture_of(struct replicator *r, uint64_t epoch)
{
	return &r->captures[epoch % r->capture_count];
}

static void act_now(struct replicator *r, const struct core_action *a)
{
	for (unsigned i = 0; i < r->output_count; i++) {
		struct epoch_output *o = &r->outputs[i];

		if (a->type == PRIMARY_RELEASE)
			o->release(o->ctx, a->epoch);
		else if (a->type == PRIMARY_HOLD)
			o->hold(o->ctx, a->epoch);
		else if (a->type == PRIMARY_PASS)
			o->pass(o->ctx);
	}
	if (a->type == PRIMARY_SEND)
		sender_go(r->sender, capture_of(r, a->epoch));
	else if (a->type == PRIMARY_CLOSE)
		link_close(r);
}

/* What takes time, or has to be done by the thread that pauses the vm. */
static bool act_later(const struct core_action *a)
{
	return a->type == PRIMARY_CONNECT || a->type == PRIMARY_COPY || a->type == PRIMARY_SEAL ||
	       a->type == PRIMARY_STALL || a->type == PRIMARY_RESUME ||
	       a->type == PRIMARY_STOP_VCPUS || a->type == PRIMARY_BYE ||
	       a->type == PRIMARY_CLOSE || a->type == PRIMARY_REPORT;
}

static void queue_put(struct replicator *r, const struct core_action *a)
{
	if (r->queue_count == ACTION_QUEUE_MAX) { /* the core has at most a few open at a time */
		log_error("the queue of actions is full: %s is lost", primary_action_name(a->type));
		return;
	}
	r->queue[(r->queue_first + r->queue_count++) % ACTION_QUEUE_MAX] = *a;
}

static bool is_over(enum primary_state s)
{
	return s == PRIMARY_UNPROTECTED || s == PRIMARY_FENCED || s == PRIMARY_LOST ||
	       s == PRIMARY_HANDED;
}

static bool is_ending(enum primary_state s)
{
	return s == PRIMARY_STOPPING || is_over(s);
}

int replicator_step(struct replicator *r, const struct primary_input *in)
{
	struct primary_input fed = *in;
	struct core_actions actions;
	bool wake;
	int rc;

	pthread_mutex_lock(&r->lock);
	fed.now = clock_ns();
	rc = primary_core_event(&r->core, &fed, &actions);
	for (unsigned i = 0; !rc && i < actions.count; i++) {
		act_now(r, &actions.item[i]);
		if (act_later(&actions.item[i]))
			queue_put(r, &actions.item[i]);
	}
	atomic_store(&r->ending, is_ending(r->core.state));
	atomic_store(&r->sealed, r->core.sealed);
	atomic_store(&r->acknowledged, r->core.acknowledged);
	pthread_cond_broadcast(&r->changed);
	wake = r->queue_count || primary_core_deadline(&r->core) < r->sleep_until;
	pthread_mutex_unlock(&r->lock);
	if (wake)
		replicator_wake(r);
	return rc;
}

void replicator_event(struct replicator *r, enum primary_event type, uint64_t epoch)
{
	int rc = replicator_step(r, &(struct primary_input){.type = type, .epoch = epoch});

	if (rc)
		log_debug("event %s of epoch %lu: %s", primary_event_name(type),
			  (unsigned long)epoch, strerror(-rc));
}

/* The first reason stays; the core keeps a pointer to it. */
static const char *why_set(struct replicator *r, const char *text)
{
	pthread_mutex_lock(&r->lock);
	if (!*r->why)
		snprintf(r->why, sizeof(r->why), "%s", text);
	pthread_mutex_unlock(&r->lock);
	return r->why;
}

void replicator_lost(struct replicator *r, int rc, const char *what)
{
	char text[sizeof(r->why)];
	struct primary_input in = {.type = PRIMARY_EV_LINK_LOST};

	if (rc == -ESHUTDOWN) /* it was us */
		return;
	snprintf(text, sizeof(text), "%s: %s", what, strerror(-rc));
	in.why = why_set(r, text);
	if (replicator_step(r, &in))
		log_debug("%s, after the end", text);
}

/* When the standby closes all streams, why it does so (BYE_ACK, REFUSE) may still be on
 * its way on the control stream: that goes first. After BYE there is nothing to send that
 * matters, so the control stream alone decides, or the core's patience (I6). */
void replicator_send_failed(struct replicator *r, int rc, const char *what)
{
	bool stopping;

	if (readable_within(r->end_fd, clock_ns() + REASON_NS))
		return;
	pthread_mutex_lock(&r->lock);
	stopping = r->core.state == PRIMARY_STOPPING;
	pthread_mutex_unlock(&r->lock);
	if (!stopping)
		replicator_lost(r, rc, what);
}

void replicator_refused(struct replicator *r, const struct refuse *refuse)
{
	char text[sizeof(r->why)];
	struct primary_input in = {.type = PRIMARY_EV_REFUSED,
				   .newer_term = refuse->code == REFUSE_TERM};

	snprintf(text, sizeof(text), "the standby refused: %.200s", refuse->text);
	in.why = why_set(r, text);
	if (replicator_step(r, &in))
		log_debug("%s, after the end", text);
}

void replicator_wake(struct replicator *r)
{
	uint64_t one = 1;

	/* Fails only when it is full of wake-ups already. */
	if (write(r->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		return;
}

/* ---- public -------------------------------------------------------------------- */

void replicator_output(struct replicator *r)
{
	atomic_store(&r->output, true);
	replicator_wake(r);
}

void replicator_ownership(struct replicator *r, enum ownership_answer a)
{
	static const enum primary_event events[] = {
		[OWNERSHIP_CONFIRMED] = PRIMARY_EV_OWNED,
		[OWNERSHIP_FORCED] = PRIMARY_EV_OWNED_FORCED,
		[OWNERSHIP_DENIED] = PRIMARY_EV_DISOWNED,
	};

	replicator_event(r, events[a], 0);
}

void replicator_cut(struct replicator *r)
{
	replicator_lost(r, -ECONNABORTED, "the VM's polluxd has ended the session");
}

/* Something has happened, or is due. */
static enum primary_state state_wait(struct replicator *r, uint64_t until)
{
	enum primary_state state;

	pthread_mutex_lock(&r->lock);
	until = core_earlier(until, primary_core_deadline(&r->core));
	if (!is_over(r->core.state))
		cond_wait_until(&r->changed, &r->lock, until);
	state = r->core.state;
	pthread_mutex_unlock(&r->lock);
	return state;
}

/* The epoch thread may be held up by a guest that waits for the link with a device locked: then
 * nobody else looks at the clock. */
static int end_wait(struct replicator *r, uint64_t deadline, enum primary_state *state)
{
	while (*state = state_wait(r, deadline), !is_over(*state)) {
		if (clock_ns() >= deadline)
			return -ETIMEDOUT;
		replicator_event(r, PRIMARY_EV_TICK, 0);
	}
	return 0;
}

int replicator_stop(struct replicator *r, uint64_t deadline, struct error *e)
{
	enum primary_state state;
	int rc;

	replicator_event(r, PRIMARY_EV_STOP, 0);
	rc = end_wait(r, deadline, &state);
	if (state == PRIMARY_UNPROTECTED)
		return 0;
	if (state == PRIMARY_FENCED)
		return error_set(e, -ESTALE, "a newer term owns the vm");
	if (state == PRIMARY_HANDED)
		return error_set(e, -EALREADY, "it is too late: the vm has been handed over");
	if (state == PRIMARY_LOST && r->config.handover)
		return error_set(e, -ENOTCONN,
				 "the target has not confirmed the end; nobody may run what it "
				 "holds, and the vm goes on here when that is stored");
	if (state == PRIMARY_LOST)
		return error_set(e, -ENOTCONN,
				 "the standby is gone and may promote: its host must be fenced, or "
				 "ownership be confirmed, before output leaves");
	return error_set(e, rc, "the standby has not confirmed the end: %s", strerror(-rc));
}

uint64_t bytes_sent(struct replicator *r)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		if (r->streams[i])
			n += channel_bytes_sent(r->streams[i]);
	return n;
}

static uint64_t key_updates(struct replicator *r)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		if (r->streams[i])
			n += channel_key_updates(r->streams[i]);
	return n;
}

const uint64_t *replicator_missing(struct replicator *r)
{
	return capture_of(r, 1)->missing;
}

uint64_t replicator_frozen_at(struct replicator *r)
{
	return atomic_load(&r->frozen_at);
}

void replicator_stats(struct replicator *r, struct replicate_stats *out)
{
	struct sender_stats s;
	uint64_t pages;

	sender_stats(r->sender, &s);
	pages = atomic_load(&r->round_pages);
	pthread_mutex_lock(&r->lock);
	*out = (struct replicate_stats){
		.epoch = r->core.sealed,
		.acknowledged = r->core.acknowledged,
		.pages = s.pages,
		.delta_pages = s.delta_pages,
		.bytes_raw = s.bytes_raw,
		.bytes_sent = bytes_sent(r),
		.key_updates = key_updates(r),
		.sync_done = (s.round_pages < pages ? s.round_pages : pages) * VM_PAGE_SIZE,
		.sync_total = pages * VM_PAGE_SIZE,
		.pause_last_ns = r->pause_last_ns,
		.pause_max_ns = r->pause_max_ns,
		.ack_delay_last_ns = r->ack_delay_last_ns,
		.last = r->times_last,
		.pages_last = r->pages_last,
	};
	pthread_mutex_unlock(&r->lock);
}

/* ---- begin and end ---------------------------------------------------------------- */

static void on_sent(void *ctx, struct capture *c)
{
	struct replicator *r = ctx;

	if (!c->round) {
		replicator_event(r, PRIMARY_EV_SENT, c->epoch);
		return;
	}
	atomic_store(&r->round_sent, true);
	replicator_wake(r);
}

static void on_send_failed(void *ctx, int rc)
{
	replicator_send_failed(ctx, rc, "send to the standby");
}

static uint64_t answer_time(const struct replicate_config *c)
{
	uint64_t t = ANSWER_LOSS_TIME * c->loss_ns;

	return t > ANSWER_NS_LEAST ? t : ANSWER_NS_LEAST;
}

/* A cancelled migration: what the target holds may be run by nobody (docs/ownership.md), so that
 * its answer is a courtesy, and the operator's time is not the target's to take. */
static uint64_t bye_time(const struct replicate_config *c)
{
	return c->handover ? CANCEL_NS : answer_time(c);
}

static int core_setup(struct replicator *r, struct error *e)
{
	const struct replicate_config *c = &r->config;
	struct primary_config config = {
		.mode = c->mode,
		.policy = c->policy,
		.interval_ns = c->interval_ns,
		.heartbeat_ns = c->heartbeat_ns,
		.loss_ns = c->loss_ns,
		.ack_ns = r->answer_ns,
		.bye_ns = r->bye_ns,
		.window = c->window,
		.handover = c->handover,
		.held = c->held,
	};

	if (!c->streams || c->streams >= CHANNEL_STREAMS_MAX || c->compression > COMPRESS_AUTO ||
	    primary_core_init(&r->core, &config))
		return error_set(e, -EINVAL, "replication: a setting is out of range");
	return 0;
}

static int memory_setup(struct replicator *r, struct error *e)
{
	struct sender_config config = {
		.streams = r->config.streams,
		.compression = r->config.compression,
		.delta_bytes = r->config.delta_bytes,
		.send_ns = r->answer_ns,
		.bytes_per_second = r->config.bytes_per_second,
		.ram = vm_ram(r->vm),
		.ram_pages = vm_ram_pages(r->vm),
		.sent = on_sent,
		.failed = on_send_failed,
		.ctx = r,
	};
	size_t words = bitmap_words(config.ram_pages);
	int rc;

	r->capture_count = r->config.window + 1;
	r->captures = calloc(r->capture_count, sizeof(*r->captures));
	r->dirty = calloc(words, sizeof(*r->dirty));
	r->round.round = calloc(words, sizeof(*r->dirty));
	rc = r->captures && r->dirty && r->round.round ? sender_create(&config, &r->sender)
						       : -ENOMEM;
	return rc ? error_set(e, rc, "replication: out of memory") : 0;
}

static int replicator_setup(struct replicator *r, struct error *e)
{
	int rc;

	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0 || r->end_fd < 0)
		return error_set(e, -errno, "replication: %s", strerror(errno));
	rc = core_setup(r, e);
	if (!rc)
		rc = memory_setup(r, e);
	if (rc)
		return rc;
	rc = thread_start(&r->epoch_thread, "epoch", epoch_main, r);
	if (rc)
		return error_set(e, rc, "start a thread: %s", strerror(-rc));
	r->epoch_started = true;
	return 0;
}

int replicator_start(struct vm *vm, const struct replicate_config *c,
		     const struct epoch_member *members, unsigned member_count,
		     const struct epoch_output *outputs, unsigned output_count,
		     const struct replicator_events *events, struct replicator **out,
		     struct error *e)
{
	struct replicator *r;
	int rc;

	if (member_count > EPOCH_MEMBERS_MAX || output_count > EPOCH_OUTPUTS_MAX)
		return error_set(e, -EINVAL, "replication: %u disks and %u nics are too many",
				 member_count, output_count);
	r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(e, -ENOMEM, "replication: out of memory");
	r->vm = r->copier.vm = vm;
	r->config = *c;
	r->answer_ns = answer_time(c);
	r->bye_ns = bye_time(c);
	r->events = *events;
	r->member_count = member_count;
	r->output_count = output_count;
	for (unsigned i = 0; i < member_count; i++)
		r->members[i] = (struct member_link){.r = r, .member = members[i]};
	for (unsigned i = 0; i < output_count; i++)
		r->outputs[i] = outputs[i];
	pthread_mutex_init(&r->lock, NULL);
	cond_setup(&r->changed);
	rc = replicator_setup(r, e);
	if (rc) {
		replicator_destroy(r);
		return rc;
	}
	*out = r; /* before output can be made */
	replicator_event(r, PRIMARY_EV_START, 0);
	return 0;
}

void replicator_destroy(struct replicator *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->quit = true;
	if (r->sender)
		link_close(r);
	pthread_mutex_unlock(&r->lock);
	replicator_wake(r);
	if (r->epoch_started)
		pthread_join(r->epoch_thread, NULL);
	link_join(r);
	sender_destroy(r->sender);
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		channel_close(r->streams[i]);
	for (unsigned i = 0; r->captures && i < r->capture_count; i++)
		capture_free(&r->captures[i]);
	free(r->captures);
	free(r->dirty);
	free(r->round.round);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	if (r->end_fd >= 0)
		close(r->end_fd);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	explicit_bzero(r->config.key, sizeof(r->config.key));
	free(r);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that follows the guest. The source's process makes the link when its precopy asks
 * for it and serves from the handover on; the target's takes the link, and starts the guest
 * on a thread of its own, since a device may need a page before that returns.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE    "postcopy"
#define RECOVER_NS    (5 * NS_PER_SEC)
#define LOSS_LEAST_NS (2 * NS_PER_SEC)
/* A cut link is made again by the source itself, after 0.5, 1, 2 and 4 s. */
#define RELINKS_MAX   4u
#define RELINK_NS     (500 * NS_PER_MS)
#define RELINK_FOR_NS NS_PER_SEC
#define STUCK_LOSSES  4u

/* ---- events ------------------------------------------------------------------- */

struct posted_postcopy {
	struct process *process;
	enum postcopy_state state;
	char why[200];
};

static void state_tell(struct process *p, enum postcopy_state state, const char *why)
{
	json_t *event = json_pack("{s:s, s:s}", "event", "postcopy", "why", why);

	json_object_update_new(event, postcopy_json(p));
	json_object_set_new(event, "state", json_string(postcopy_state_name(state)));
	process_event(p, event);
}

/* False: this is for an operator. Tries count anew when pages have come since. */
static bool relink_later(struct process *p)
{
	struct postcopy_stats s;

	if (!p->serving)
		return false;
	postcopy_source_stats(p->postcopy_source, &s);
	if (s.left < p->relink_left)
		p->relinks = 0;
	p->relink_left = s.left;
	if (p->relinks == RELINKS_MAX)
		return false;
	loop_timer_set(p->relink, clock_ns() + (RELINK_NS << p->relinks++));
	return true;
}

/* With the keys that both sides have. The guest stands still: nothing else is to be done here. */
static void on_relink(void *ctx)
{
	struct process *p = ctx;
	struct error e = {0};
	int rc = fault_point("postcopy.relink");

	if (rc)
		error_set(&e, rc, "told to fail");
	else
		rc = postcopy_source_connect(p->postcopy_source, NULL, clock_ns() + RELINK_FOR_NS,
					     &e);
	if (!rc || rc == -EBUSY || rc == -EALREADY)
		return;
	log_info("no new link yet: %s", e.text);
	if (!relink_later(p))
		state_tell(p, POSTCOPY_CUT, e.text);
}

static void run_state(void *ctx)
{
	struct posted_postcopy *s = ctx;
	struct process *p = s->process;

	if (s->state == POSTCOPY_CUT && relink_later(p))
		log_warn("the link for the guest's memory is cut: %s", s->why);
	else
		state_tell(p, s->state, s->why);
	/* The target's end stays: a source that did not hear of it asks again. */
	if (s->state == POSTCOPY_DONE && p->postcopy_target)
		log_info("all of the guest's memory is here");
	free(s);
}

static void on_state(void *ctx, enum postcopy_state state, const char *why)
{
	struct posted_postcopy *s = calloc(1, sizeof *s);

	if (!s) {
		log_error("no memory to report how the postcopy goes");
		return;
	}
	s->process = ctx;
	s->state = state;
	text_copy(s->why, sizeof s->why, why);
	process_post(s->process, run_state, s);
}

/* ---- both sides ------------------------------------------------------------------ */

static struct postcopy_config config_of(const struct replicate_config *c)
{
	struct postcopy_config out;

	postcopy_config_defaults(&out);
	memcpy(out.session, c->session, sizeof out.session);
	memcpy(out.key, c->key, sizeof out.key);
	memcpy(out.address, c->address, sizeof out.address);
	out.term = c->term;
	out.port = c->port;
	out.streams = c->streams;
	out.compression = c->compression;
	out.bytes_per_second = c->bytes_per_second;
	out.heartbeat_ns = c->heartbeat_ns;
	/* No failover waits for it, and a cut stops the guest until somebody comes. */
	out.loss_ns = c->loss_ns > LOSS_LEAST_NS ? c->loss_ns : LOSS_LEAST_NS;
	out.stuck_ns = STUCK_LOSSES * out.loss_ns;
	return out;
}

json_t *postcopy_json(struct process *p)
{
	struct postcopy_stats s;

	if (p->postcopy_source)
		postcopy_source_stats(p->postcopy_source, &s);
	else if (p->postcopy_target)
		postcopy_target_stats(p->postcopy_target, &s);
	else
		return json_null();
	return json_pack("{s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "side",
			 p->postcopy_source ? "source" : "target", "streams",
			 (int)p->session.streams, "state", postcopy_state_name(s.state), "missing",
			 (json_int_t)s.missing, "left", (json_int_t)s.left, "faults",
			 (json_int_t)s.faults, "pushed", (json_int_t)s.pushed, "bytes",
			 (json_int_t)s.bytes, "links", (json_int_t)s.links, "wait_ns",
			 (json_int_t)s.wait_ns, "wait_max_ns", (json_int_t)s.wait_max_ns,
			 "key_updates", (json_int_t)s.key_updates);
}

/* New keys for a link that was cut. The source connects in the call: its guest stands still
 * and its main thread has nothing else to do. */
int postcopy_recover(struct process *p, const json_t *request, struct error *e)
{
	struct replicate_config c;
	struct postcopy_config config;
	int rc = session_parse(request, &c, e);

	if (rc)
		return rc;
	config = config_of(&c);
	if (p->postcopy_target) {
		postcopy_target_session(p->postcopy_target, &config);
		return 0;
	}
	if (!p->postcopy_source)
		return error_set(e, -EINVAL, "no memory is on its way from or to this process");
	return postcopy_source_connect(p->postcopy_source, &config, clock_ns() + RECOVER_NS, e);
}

/* ---- the source -------------------------------------------------------------------- */

int postcopy_offer(struct process *p, const struct replicate_config *c, struct error *e)
{
	const struct postcopy_events events = {.state = on_state, .ctx = p};
	struct postcopy_config config = config_of(c);

	if (!p->relink && loop_timer(p->control, on_relink, p, &p->relink))
		return error_set(e, -ENOMEM, "no memory");
	p->relinks = 0;
	p->relink_left = UINT64_MAX;
	return postcopy_source_create(p->vm, &config, &events, &p->postcopy_source, e);
}

int postcopy_serve(struct process *p, struct error *e)
{
	const uint64_t *missing = replicator_missing(p->replicator);
	struct postcopy_stats s;
	int rc;

	if (!missing || !p->postcopy_source)
		return 0;
	postcopy_source_stats(p->postcopy_source, &s);
	if (s.state != POSTCOPY_READY)
		return error_set(e, -ENOTCONN, "the link for its memory is cut");
	rc = postcopy_source_serve(p->postcopy_source, missing);
	p->serving = !rc;
	return rc ? error_set(e, rc, "the rest of its memory cannot be served: %s", strerror(-rc))
		  : 0;
}

/* Before the guest goes on here, or the vm is destroyed. */
void postcopy_withdraw(struct process *p)
{
	if (p->precopy)
		precopy_unlink(p->precopy);
	postcopy_source_destroy(p->postcopy_source);
	p->postcopy_source = NULL;
	p->serving = false;
	loop_timer_free(p->relink);
	p->relink = NULL;
}

/* ---- the target ---------------------------------------------------------------------- */

void postcopy_forget(struct process *p)
{
	struct postcopy_target *t;

	pthread_mutex_lock(&p->lock); /* the thread that starts the guest may be about to use it */
	t = p->postcopy_target;
	p->postcopy_target = NULL;
	pthread_mutex_unlock(&p->lock);
	postcopy_target_destroy(t);
}

int postcopy_expect(struct process *p, struct error *e)
{
	const struct postcopy_events events = {.state = on_state, .ctx = p};
	struct postcopy_config config = config_of(&p->session);

	if (!p->lazy_ready)
		return 0; /* a link is refused then, and the source stays with precopy */
	return postcopy_target_create(p->vm, &config, &events, &p->postcopy_target, e);
}

int postcopy_stream(struct process *p, uint16_t stream, int fd, struct error *e)
{
	int rc;

	if (!p->postcopy_target) {
		close(fd);
		return error_set(e, -EOPNOTSUPP, "no memory can come later here");
	}
	rc = postcopy_target_add_stream(p->postcopy_target, stream, fd);
	return rc ? error_set(e, rc, "stream %u was refused: %s", stream, strerror(-rc)) : 0;
}

/* After the state was loaded. */
int postcopy_begin(struct process *p, struct error *e)
{
	const uint64_t *missing = replica_missing(p->replica);

	p->postcopy = missing != NULL;
	if (!missing) {
		postcopy_forget(p);
		return 0;
	}
	if (!p->postcopy_target)
		return error_set(e, -EOPNOTSUPP, "no memory can come later here");
	return postcopy_target_start(p->postcopy_target, missing, e);
}

static void run_started(void *ctx)
{
	struct process *p = ctx;

	if (!p->start_running) /* the process ends */
		return;
	pthread_join(p->start_thread, NULL);
	p->start_running = false;
	if (p->start_rc)
		process_vm_event(p, VM_EVENT_CRASH, "it arrived, and did not start");
}

static void *start_main(void *ctx)
{
	struct process *p = ctx;
	struct error e = {0};

	p->start_rc = vm_start(p->vm, &e);
	if (p->start_rc)
		log_error("%s", e.text);
	pthread_mutex_lock(&p->lock);
	if (!p->start_rc && p->postcopy_target)
		postcopy_target_go(p->postcopy_target);
	pthread_mutex_unlock(&p->lock);
	process_post(p, run_started, p);
	return NULL;
}

int postcopy_start(struct process *p, struct error *e)
{
	/* What can fail does so before it is said to run. */
	int rc = vm_disks_claim(p->vm, VM_DISKS_ALL, e);

	if (rc)
		return rc;
	rc = thread_start(&p->start_thread, "start", start_main, p);
	p->start_running = !rc;
	return rc ? error_set(e, rc, "start a thread: %s", strerror(-rc)) : 0;
}

/* Whoever waits for a page goes on, or is never waited for. */
void postcopy_close(struct process *p)
{
	postcopy_withdraw(p);
	postcopy_forget(p);
	if (p->start_running)
		pthread_join(p->start_thread, NULL);
	p->start_running = false;
}

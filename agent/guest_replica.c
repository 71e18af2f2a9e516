// SPDX-License-Identifier: Apache-2.0
/* The process of a twin: made for a session, promoted or dropped. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/guest.h"

#define LOG_MODULE "guest"
#define SLOW_NS    (120 * NS_PER_SEC)
#define QUICK_NS   (10 * NS_PER_SEC)

static void feed_term(struct guest *g, enum ownership_event type, bool reset)
{
	guest_feed(g, &(struct ownership_input){
			      .type = type, .term = g->session.term, .reset = reset});
}

/* ---- what the process says ----------------------------------------------------------- */

static void said_ready(struct guest *g, const json_t *message, const char *why)
{
	if (g->session.options.handover)
		timeline_add(&g->timeline, "arrived", "what it takes to run here is whole");
	else
		timeline_add(&g->timeline, "protected", "the twin holds a whole epoch");
	feed_term(g, OWN_EV_REPLICA_READY, false);
}

static void said_lost(struct guest *g, const json_t *message, const char *why)
{
	g->lost_ns = clock_ns();
	timeline_add(&g->timeline, "loss detected", "%s: %s",
		     g->session.options.handover ? g->peer : "the primary", why);
	guest_lost_why(g, "the primary", g->session.options.handover, why);
	feed_term(g, OWN_EV_REPLICA_LOST, json_is_true(json_object_get(message, "reset")));
}

static void said_released(struct guest *g, const json_t *message, const char *why)
{
	timeline_add(&g->timeline, "released", "%s ended the session in good order",
		     g->session.options.handover ? g->peer : "the primary");
	guest_replica_drop(g);
	feed_term(g, OWN_EV_REPLICA_GONE, false);
}

static void said_broken(struct guest *g, const json_t *message, const char *why)
{
	log_error("%s: the twin is of no use: %s", g->name, why);
	timeline_add(&g->timeline, "twin broken", "%s", why);
	snprintf(g->refusal, sizeof(g->refusal), "%s", why);
	guest_replica_drop(g);
	feed_term(g, OWN_EV_REPLICA_GONE, false);
}

static const struct {
	const char *state;
	void (*said)(struct guest *g, const json_t *message, const char *why);
} replica_states[] = {
	{"ready", said_ready},
	{"lost", said_lost},
	{"released", said_released},
	{"broken", said_broken},
};

void guest_replica_event(struct guest *g, const json_t *message)
{
	const char *state = json_text_of(message, "state"), *why = json_text_of(message, "why");

	if (strcmp(json_text_of(message, "event"), "state") != 0)
		return;
	snprintf(g->child_state, sizeof(g->child_state), "%s", state);
	snprintf(g->child_why, sizeof(g->child_why), "%s", why);
	for (size_t i = 0; i < ARRAY_LEN(replica_states); i++)
		if (!strcmp(replica_states[i].state, state)) {
			replica_states[i].said(g, message, why);
			return;
		}
}

/* ---- made ------------------------------------------------------------------------------- */

/* The process may hold half a disk and half a memory: nothing in it is worth a good end. */
void guest_replica_drop(struct guest *g)
{
	g->start_owed = 0;
	g->replica_up = g->accept_owed = false;
	if (!g->child || g->child_role != CHILD_REPLICA)
		return;
	g->child_role = CHILD_LEAVING;
	vm_child_kill(g->child);
}

static void replica_failed(struct guest *g, const char *text)
{
	log_error("%s: no twin: %s", g->name, text);
	snprintf(g->refusal, sizeof(g->refusal), "%s", text);
	guest_why(g, "%s", text);
	guest_replica_drop(g);
	feed_term(g, OWN_EV_REPLICA_GONE, false);
}

static void prepared(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	session_key_wipe(&g->session);
	if (rc == -EPIPE || g->child_role != CHILD_REPLICA)
		return;
	if (rc) {
		replica_failed(g, text);
		return;
	}
	g->replica_up = true;
	g->refusal[0] = '\0';
	timeline_add(&g->timeline, "standby", "ready for the copy of %s", g->peer);
	if (g->accept_owed)
		guest_tell(g, WORD_ACCEPT, g->session.term, g->own.config.can_fence);
}

static void created(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE || g->child_role != CHILD_REPLICA)
		return;
	if (rc) {
		replica_failed(g, text);
		return;
	}
	program_take(&g->program, reply);
	guest_child_ask(g, guest_session_request(&g->session, "standby"), QUICK_NS, prepared);
}

/* The offer becomes the session. Only now do VM file and disks of before give way. */
static int offer_adopt(struct guest *g, uint64_t term, struct error *e)
{
	struct offer *o = g->offer;
	int rc;

	session_wipe(&g->session);
	memset(&g->arrival, 0, sizeof(g->arrival));
	g->session.term = term;
	if (!o || o->session.term != term)
		return error_set(e, -ENOENT, "the offer of this session is not known any more");
	rc = guest_disks_prepare(g, o, e);
	if (!rc)
		rc = guest_config_set(g, o->config, o->origin);
	if (rc)
		return error_set(e, rc, "%s", strerror(-rc));
	g->session = o->session;
	session_key_wipe(&o->session);
	guest_policy_set(g, o->session.options.policy);
	g->chain.then = (struct protect_again){.wanted = o->then_to[0], .options = o->then};
	snprintf(g->chain.then.peer, sizeof(g->chain.then.peer), "%s", o->then_to);
	g->chain.standby[0] = '\0';
	g->migration.session = false;
	/* From here on what is on the disks is a copy, also for a polluxd after this one. */
	g->copies = session_disks_copied(&o->session.options);
	return g->own.storing ? 0 : guest_store(g, &g->own.record, e);
}

void guest_replica_create(struct guest *g, uint64_t term)
{
	struct error e = {0};
	int rc;

	if (g->child) {
		g->start_owed = term;
		return;
	}
	rc = offer_adopt(g, term, &e);
	if (!rc)
		rc = guest_child_start(g, CHILD_REPLICA, &e);
	if (rc)
		replica_failed(g, e.text);
	else
		guest_child_ask(g, guest_create_request(g, "standby"), SLOW_NS, created);
}

static void stream_taken(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc)
		log_warn("%s: a stream was refused: %s", g->name, text);
}

void guest_stream(struct guest *g, uint16_t stream, int fd)
{
	json_t *request = json_pack("{s:s, s:i}", "do", "stream", "stream", (int)stream);
	int rc = -ENOTCONN;

	if (g->child && (g->child_role == CHILD_REPLICA || g->late))
		rc = vm_child_ask(g->child, request, &fd, 1, QUICK_NS, stream_taken, g);
	else
		json_decref(request);
	if (rc)
		log_warn_rc(rc, "%s: a stream is refused", g->name);
	close(fd);
}

/* ---- promoted ------------------------------------------------------------------------------ */

/* It may be about to run: that the twin is gone is true when the process has ended. */
static void promotion_failed(struct guest *g, int rc, const char *text)
{
	timeline_add(&g->timeline, "promotion failed", "%s", text);
	guest_operation_fail(g, rc, text, "the twin could not be started: see the log");
	log_error("%s: no promotion: %s", g->name, text);
	guest_why(g, "%s", text);
	vm_child_kill(g->child);
}

static void loaded(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE || g->child_role != CHILD_REPLICA)
		return;
	g->arrival.took.load = clock_ns() - g->arrival.load_ns;
	if (rc) {
		timeline_add(&g->timeline, "loading failed", "%s", text);
		replica_failed(g, text);
	} else {
		feed_term(g, OWN_EV_LOADED, false);
	}
}

void guest_load(struct guest *g, uint64_t term)
{
	g->arrival.load_ns = clock_ns();
	guest_child_ask(g, json_pack("{s:s, s:I}", "do", "load", "term", (json_int_t)term), SLOW_NS,
			loaded);
}

static void running_note(struct guest *g, const json_t *reply, bool handover)
{
	double ms = json_number_value(json_object_get(reply, "ms"));

	if (handover)
		timeline_add(&g->timeline, "running", "arrived from %s, started in %.1f ms",
			     g->peer, ms);
	else
		timeline_add(&g->timeline, "running", "promoted at epoch %lld in %.1f ms",
			     (long long)json_integer_of(reply, "epoch", 0), ms);
}

static void promoted(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	uint64_t session_term = g->session.term;
	bool handover = g->session.options.handover;

	if (rc == -EPIPE)
		return;
	g->starting &= rc == -ETIMEDOUT;
	if (rc) {
		promotion_failed(g, rc, text);
		return;
	}
	g->arrival.took.start = clock_ns() - g->arrival.run_ns;
	g->child_role = CHILD_VM;
	g->replica_up = false;
	g->why[0] = '\0';
	snprintf(g->child_state, sizeof(g->child_state), "unprotected");
	guest_operation_past(g);
	running_note(g, reply, handover);
	if (!handover)
		g->agent->counters.failovers++;
	/* Its memory may be on its way still, by streams of this session. */
	g->complete = g->gone = false;
	g->late = handover && !json_is_false(json_object_get(reply, "postcopy"));
	if (!g->late)
		session_wipe(&g->session);
	else if (json_is_true(json_object_get(reply, "postcopy")))
		snprintf(g->postcopy, sizeof(g->postcopy), "running");
	guest_console_open(g);
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_PROMOTED, .term = session_term});
	if (handover && !strcmp(g->why, "promoted"))
		guest_why(g, "arrived from %s", g->peer);
	if (handover)
		guest_chain_arrived(g, &g->chain.then);
}

void guest_promote(struct guest *g, uint64_t term)
{
	g->arrival.run_ns = clock_ns();
	g->starting = g->session.options.handover && !g->own.promotion_forced;
	guest_child_ask(g, json_pack("{s:s, s:I}", "do", "promote", "term", (json_int_t)term),
			SLOW_NS, promoted);
}

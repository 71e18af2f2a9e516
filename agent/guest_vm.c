// SPDX-License-Identifier: Apache-2.0
/* The process of a VM that runs here: start, session, end, and finding it again. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/guest.h"
#include "agent/ownership_steps.h"

#define LOG_MODULE   "guest"
#define SLOW_NS      (120 * NS_PER_SEC) /* create and boot: memory is filled, kernels are read */
#define START_HINT   "correct the VM file and start it again"
#define QUICK_NS     (10 * NS_PER_SEC)
#define UNPROTECT_NS (30 * NS_PER_SEC)
#define PATIENT_NS   (3600 * NS_PER_SEC) /* questions must not fill the socket of a hung process */
#define ATTACH_TRIES 50
#define HUNG_NS      (5 * NS_PER_SEC)  /* a process that is not busy answers in microseconds */
#define ENDING_NS    (12 * NS_PER_SEC) /* ...one that ends a session, in at most 10 s */

void guest_control_path(const struct guest *g, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/%s.control", g->agent->config.run_dir, g->name);
}

/* ---- what the process says --------------------------------------------------------- */

static void said_protected(struct guest *g, uint64_t term, const char *why)
{
	timeline_add(&g->timeline, "protected", "on %s", g->peer);
	g->agent->counters.protects++;
	if (g->again.owed || g->chain.then.wanted)
		guest_again_note(g);
	guest_operation_check(g);
}

static void said_lost(struct guest *g, uint64_t term, const char *why)
{
	g->lost_ns = clock_ns();
	/* Of a session that was ended here, or whose copy was dropped, it is known why. */
	if ((g->own.dropped_term != term && !g->own.unstorable) || !g->why[0])
		guest_lost_why(g, "the standby", g->migration.session, why);
	timeline_add(&g->timeline, "loss detected", "%s: %s",
		     g->migration.session ? g->peer : "the standby", why);
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_SESSION_LOST,
						.term = term,
						.handover = g->migration.session});
}

/* Why the session of an older term ended is known already: that it has obeyed says less; as
 * does that the session of a guest that is off has ended. Of a migration that was cancelled its
 * operation says it. */
static void said_unprotected(struct guest *g, uint64_t term, const char *why)
{
	bool cancelled = g->migration.session && g->migration.cancelled;
	bool told = cancelled || (term != g->own.record.term && g->why[0]);
	bool news = !g->vm_ended && (g->still || (*why && !told));

	if (news && g->migration.session)
		guest_migration_why(g, "the standby", why);
	else if (news)
		guest_why(g, "%s", why);
	g->still = false;
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_SESSION_OVER, .term = term});
}

static void said_syncing(struct guest *g, uint64_t term, const char *why)
{
	timeline_add(&g->timeline, "syncing", "the first full copy to %s", g->peer);
}

static void said_fenced(struct guest *g, uint64_t term, const char *why)
{
	timeline_add(&g->timeline, "stopped", "%s", why);
}

static void said_freezing(struct guest *g, uint64_t term, const char *why)
{
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_FREEZING, .term = term});
}

static void said_handed(struct guest *g, uint64_t term, const char *why)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);

	if (!g->own.peer_up && p && !g->why[0])
		guest_why(g, "%s could not be told: %s", g->peer, peer_why(p));
	timeline_add(&g->timeline, "handed over", "the last epoch is whole on %s", g->peer);
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_HANDED, .term = term});
}

static const struct {
	const char *state;
	void (*said)(struct guest *g, uint64_t term, const char *why);
} vm_states[] = {
	{"protected", said_protected}, {"lost", said_lost},     {"unprotected", said_unprotected},
	{"syncing", said_syncing},     {"fenced", said_fenced}, {"handed", said_handed},
	{"freezing", said_freezing},
};

static void vm_state_take(struct guest *g, const char *state, uint64_t term, const char *why)
{
	snprintf(g->child_state, sizeof(g->child_state), "%s", state);
	snprintf(g->child_why, sizeof(g->child_why), "%s", why);
	for (size_t i = 0; i < ARRAY_LEN(vm_states); i++)
		if (!strcmp(vm_states[i].state, state))
			vm_states[i].said(g, term, why);
}

static void stats_take(struct guest *g, const json_t *stats)
{
	json_decref(g->stats);
	g->stats = json_deep_copy(stats);
	json_object_del(g->stats, "event");
	json_object_del(g->stats, "sections");
	g->stats_ns = clock_ns();
}

void guest_stats_forget(struct guest *g)
{
	json_decref(g->stats);
	g->stats = NULL;
	g->stats_ns = 0;
	g->stats_past = g->stats_asked;
}

static void progress_take(struct guest *g, const json_t *message)
{
	stats_take(g, message);
	guest_probe(g);
}

static void vm_event_take(struct guest *g, const json_t *message)
{
	const char *what = json_text_of(message, "what"), *detail = json_text_of(message, "detail");

	timeline_add(&g->timeline, what, "the guest%s%s", *detail ? ": " : "", detail);
	if (!strcmp(what, "crash")) {
		log_error("%s: the guest crashed: %s", g->name, detail);
		guest_why(g, "the vm has ended: the guest crashed: %s", detail);
	}
	if (!strcmp(what, "poweroff") || !strcmp(what, "crash"))
		guest_vm_ended(g);
}

static void child_event(void *ctx, const json_t *message)
{
	struct guest *g = ctx;
	const char *event = json_text_of(message, "event");

	if (!strcmp(event, "progress"))
		progress_take(g, message);
	else if (!strcmp(event, "postcopy"))
		guest_postcopy_event(g, message);
	else if (g->child_role == CHILD_REPLICA)
		guest_replica_event(g, message);
	else if (g->child_role != CHILD_VM)
		return;
	else if (!strcmp(event, "image"))
		guest_image_event(g, message);
	else if (!strcmp(event, "vm"))
		vm_event_take(g, message);
	else if (!strcmp(event, "dump"))
		guest_dump_event(g, message);
	else if (!strcmp(event, "measured"))
		guest_forecast_event(g, message);
	else if (!strcmp(event, "rehearse"))
		guest_rehearse(g);
	else if (!strcmp(event, "state")) {
		guest_migration_note(g, message);
		vm_state_take(g, json_text_of(message, "state"),
			      (uint64_t)json_integer_of(message, "term", 0),
			      json_text_of(message, "why"));
	}
}

/* ---- its end ------------------------------------------------------------------------- */

static void vm_gone(struct guest *g, const char *how)
{
	bool expected = g->vm_ended || g->stopping || g->quit_asked;

	timeline_add(&g->timeline, expected ? "stopped" : "vm process died", "%s", how);
	if (!expected) {
		log_error("%s: %s", g->name, how);
		guest_why(g, "the vm has ended: %s", how);
		guest_operation_fail(g, -EIO, how, "see the log of polluxd and pollux-vm");
	}
	if (expected && g->late)
		guest_late_ended(g);
	guest_feed_type(g, OWN_EV_VM_DEAD);
}

static void replica_gone(struct guest *g, const char *how)
{
	log_error("%s: the twin is gone: %s", g->name, how);
	timeline_add(&g->timeline, "twin lost", "%s", how);
	snprintf(g->refusal, sizeof(g->refusal), "%s", how);
	/* It may have run, and been seen: the copy that was left behind must not go on. */
	if (g->starting)
		guest_feed(g, &(struct ownership_input){.type = OWN_EV_PROMOTED,
							.term = g->session.term});
	guest_feed(g, &(struct ownership_input){.type = g->starting ? OWN_EV_VM_DEAD
								    : OWN_EV_REPLICA_GONE,
						.term = g->session.term});
	g->starting = false;
}

static bool successor_attach(struct guest *g);

static void child_exited(void *ctx, bool clean, const char *how)
{
	struct guest *g = ctx;
	enum child_role role = g->child_role;
	uint64_t owed = g->start_owed;

	vm_child_free(g->child);
	g->child = NULL;
	if (guest_upgrade_ended(g) || (role == CHILD_VM && successor_attach(g)))
		return;
	g->child_role = CHILD_NONE;
	g->child_state[0] = g->child_why[0] = '\0';
	g->start_owed = 0;
	guest_stats_forget(g);
	program_forget(&g->program);
	guest_console_close(g);
	guest_dump_end(g);
	guest_again_forget(g);
	guest_image_drop(g);
	if (role == CHILD_VM && g->retiring)
		guest_feed_type(g, OWN_EV_VM_DEAD);
	else if (role == CHILD_VM)
		vm_gone(g, how);
	else if (role == CHILD_REPLICA)
		replica_gone(g, how);
	else if (role == CHILD_SERVING && !g->retiring)
		guest_serving_lost(g, how);
	g->late = g->complete = false;
	g->postcopy[0] = '\0';
	g->vm_ended = g->quit_asked = g->stopping = g->replica_up = g->retiring = false;
	if (owed && g->own.record.term == owed && g->own.state == OWN_ALONE)
		guest_vm_start(g, owed);
	else if (owed && g->own.record.term == owed && g->own.state == OWN_STANDBY)
		guest_replica_create(g, owed);
	guest_operation_check(g);
}

const struct vm_child_events *guest_child_events(struct guest *g, struct vm_child_events *events)
{
	*events = (struct vm_child_events){.event = child_event, .exited = child_exited, .ctx = g};
	return events;
}

/* ---- asking ---------------------------------------------------------------------------- */

void guest_child_ask(struct guest *g, json_t *request, uint64_t timeout_ns, vm_child_reply_fn *fn)
{
	int rc = g->child ? vm_child_ask(g->child, request, NULL, 0, timeout_ns, fn, g) : -EPIPE;

	if (!g->child)
		json_decref(request);
	if (rc)
		log_warn_rc(rc, "%s: the VM process cannot be asked", g->name);
	if (rc && fn)
		fn(g, rc, NULL, strerror(-rc));
}

int guest_child_start(struct guest *g, enum child_role role, struct error *e)
{
	struct vm_child_events events;
	char path[PATH_MAX];
	int rc;

	guest_control_path(g, path);
	rc = vm_child_start(g->agent->loop, g->agent->config.vm_program, path,
			    guest_child_events(g, &events), &g->child, e);
	if (rc)
		return rc;
	g->child_role = role;
	g->vm_ended = g->quit_asked = g->stopping = g->replica_up = g->accept_owed = false;
	g->cut_asked = g->stats_asked = g->stats_past = false;
	return 0;
}

json_t *guest_create_request(const struct guest *g, const char *role)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "do", "create", "config", g->config, "origin",
			 g->origin, "role", role, "lazy", guest_image_lazy(g));
}

json_t *guest_session_request(const struct session *s, const char *what)
{
	char id[2 * SESSION_ID_SIZE + 1], key[2 * SESSION_KEY_SIZE + 1];
	const struct protect_options *p = &s->options;
	const struct {
		const char *name;
		unsigned value;
	} numbers[] = {{"interval_ms", p->interval_ms},
		       {"streams", p->streams},
		       {"window", p->window},
		       {"shared_disks", p->shared_disks},
		       {"heartbeat_ms", s->heartbeat_ms},
		       {"loss_ms", s->loss_ms}};
	json_t *o;

	hex_encode(s->id, sizeof(s->id), id);
	hex_encode(s->key, sizeof(s->key), key);
	o = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s}", "do", what, "session", id, "key", key,
		      "term", (json_int_t)s->term, "mode", p->mode, "policy", p->policy);
	explicit_bzero(key, sizeof(key));
	if (o && p->compression[0])
		json_object_set_new(o, "compression", json_string(p->compression));
	for (size_t i = 0; o && i < ARRAY_LEN(numbers); i++)
		if (numbers[i].value)
			json_object_set_new(o, numbers[i].name, json_integer(numbers[i].value));
	if (o && p->delta_mb)
		json_object_set_new(o, "delta_mb", json_integer(p->delta_mb));
	if (o && p->handover)
		json_object_set_new(o, "handover", json_true());
	if (o && p->storage[0])
		json_object_set_new(o, "storage", json_string(p->storage));
	return o;
}

/* ---- start ------------------------------------------------------------------------------ */

void guest_start_failed(struct guest *g, int code, const char *text, const char *hint)
{
	guest_why(g, "the vm has ended: it did not start: %s", text);
	timeline_add(&g->timeline, "start failed", "%s", text);
	guest_operation_fail(g, code, text, hint);
	g->stopping = true;
	if (g->child) {
		vm_child_kill(g->child);
		return;
	}
	guest_image_drop(g);
	guest_feed_type(g, OWN_EV_VM_DEAD);
}

void guest_vm_booted(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE)
		return; /* its end says more */
	if (rc) {
		guest_start_failed(g, rc, text, START_HINT);
		return;
	}
	g->why[0] = '\0';
	snprintf(g->child_state, sizeof(g->child_state), "unprotected");
	timeline_add(&g->timeline, "running", "started under term %llu, engine %s",
		     (unsigned long long)g->own.record.term, g->program.engine);
	guest_operation_check(g);
}

void program_forget(struct program *p)
{
	json_decref(p->sections);
	p->sections = NULL;
	p->build[0] = '\0';
	p->takes_disks = false;
}

void program_take(struct program *p, const json_t *said)
{
	program_forget(p);
	snprintf(p->engine, sizeof(p->engine), "%s", json_text_of(said, "engine"));
	snprintf(p->build, sizeof(p->build), "%s", json_text_of(said, "build"));
	p->sections = json_deep_copy(json_object_get(said, "sections"));
	p->takes_disks = json_true_of(said, "shared_disks");
}

void program_move(struct program *to, struct program *from)
{
	program_forget(to);
	*to = *from;
	*from = (struct program){0};
}

static void created(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE)
		return;
	if (rc) {
		guest_start_failed(g, rc, text, START_HINT);
		return;
	}
	program_take(&g->program, reply);
	guest_console_open(g);
	if (guest_image_restoring(g))
		guest_image_load(g);
	else
		guest_child_ask(g, json_pack("{s:s}", "do", "boot"), SLOW_NS, guest_vm_booted);
}

void guest_vm_start(struct guest *g, uint64_t term)
{
	struct error e = {0};
	int rc;

	if (g->child) {
		g->start_owed = term;
		return;
	}
	rc = guest_child_start(g, CHILD_VM, &e);
	if (rc)
		guest_start_failed(g, rc, e.text, START_HINT);
	else
		guest_child_ask(g, guest_create_request(g, "primary"), SLOW_NS, created);
}

/* ---- session ------------------------------------------------------------------------------- */

static void session_begun(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	session_key_wipe(&g->session);
	if (!rc || rc == -EPIPE)
		return;
	guest_why(g, "the session with %s could not begin: %s", g->peer, text);
	/* Without an answer it may have begun, and the standby may hold a whole epoch. */
	guest_feed(g, &(struct ownership_input){.type = rc == -ETIMEDOUT ? OWN_EV_SESSION_LOST
									 : OWN_EV_SESSION_OVER,
						.term = g->session.term});
}

void guest_session_start(struct guest *g, uint64_t term)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);
	json_t *request = guest_session_request(&g->session, "protect");

	if (!p || !request || g->session.term != term) {
		json_decref(request);
		session_begun(g, -EINVAL, NULL, "it is not known any more");
		return;
	}
	json_object_set_new(request, "address", json_string(peer_config(p)->address));
	json_object_set_new(request, "port", json_integer(peer_config(p)->port));
	if (g->session.options.handover)
		guest_migration_put(g, request);
	guest_stats_forget(g); /* they are of the session before */
	snprintf(g->child_state, sizeof(g->child_state), "connecting");
	guest_child_ask(g, request, QUICK_NS, session_begun);
}

void guest_session_end(struct guest *g, vm_child_reply_fn *fn)
{
	guest_child_ask(
		g,
		json_pack("{s:s, s:I}", "do", "unprotect", "term", (json_int_t)g->own.record.term),
		UNPROTECT_NS, fn);
}

bool guest_session_ended(struct guest *g, const json_t *reply)
{
	uint64_t term = (uint64_t)json_integer_of(reply, "term", 0);

	if (term != g->own.record.term) {
		log_info("%s: the session of term %llu has ended, and has been replaced", g->name,
			 (unsigned long long)term);
		return false;
	}
	return true;
}

void guest_session_over(struct guest *g)
{
	snprintf(g->child_state, sizeof(g->child_state), "unprotected");
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_SESSION_OVER,
						.term = g->own.record.term});
}

/* The guest may stand still for want of this. */
static void ownership_told(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	char why[sizeof(g->why)];

	if (!rc || rc == -EPIPE)
		return;
	log_error("%s: the VM process cannot obey: %s", g->name, text);
	if (!guest_stands_still(g))
		return;
	snprintf(why, sizeof(why), "%s", g->why);
	guest_why(g, "%s%sit may stand still: %s", why, why[0] ? "; " : "", text);
	g->still = true;
	guest_operation_check(g);
}

void guest_ownership_tell(struct guest *g, const char *answer)
{
	g->still = false;
	g->told_ns = clock_ns();
	guest_child_ask(g, json_pack("{s:s, s:s}", "do", "ownership", "answer", answer), QUICK_NS,
			ownership_told);
}

/* The standby has lost the session and holds a whole twin, which waits for as long as we say
 * that the VM lives here. A process that does not answer is of no use to anyone: its death
 * is certain, and may be told. Without a twin it is left alone, for it may still come round. */
static void cut_answered(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	const struct ownership *o = &g->own;
	bool session = o->state == OWN_PRIMARY || o->state == OWN_FREEZING || ownership_unsaid(o);
	bool twin_waits = session && !o->storing && o->peer_up &&
			  o->dropped_term != o->record.term && !o->unstorable;

	g->cut_asked = false;
	if (rc != -ETIMEDOUT || !twin_waits || g->child_role != CHILD_VM)
		return;
	log_error("%s: the VM process %d hangs, and %s waits with the twin: killing it", g->name,
		  (int)vm_child_pid(g->child), g->peer);
	timeline_add(&g->timeline, "vm process hung", "killed, so that %s may take over", g->peer);
	vm_child_kill(g->child);
}

void guest_session_cut(struct guest *g)
{
	bool ending = g->operation.state == OPERATION_RUNNING &&
		      strcmp(g->operation.what, "protect") != 0;

	if (g->cut_asked)
		return;
	g->cut_asked = true;
	guest_child_ask(g, json_pack("{s:s, s:s}", "do", "ownership", "answer", "lost"),
			ending ? ENDING_NS : HUNG_NS, cut_answered);
}

/* ---- end ------------------------------------------------------------------------------------- */

void guest_vm_kill(struct guest *g)
{
	if (!g->child)
		return;
	g->stopping = true;
	guest_upgrade_kill(g);
	vm_child_kill(g->child);
}

static void quit_answered(void *ctx, int rc, const json_t *reply, const char *text)
{
	if (rc && rc != -EPIPE)
		guest_vm_kill(ctx);
}

void guest_vm_end(struct guest *g)
{
	if (g->quit_asked || !g->child)
		return;
	g->quit_asked = true;
	guest_child_ask(g, json_pack("{s:s}", "do", "quit"), QUICK_NS, quit_answered);
}

/* ---- statistics, and finding it again
 * ------------------------------------------------------------ */

static void stats_answered(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	bool past = g->stats_past;

	g->stats_asked = g->stats_past = false;
	if (!rc && !past)
		stats_take(g, json_object_get(reply, "stats"));
	else if (rc == -ETIMEDOUT)
		guest_why(g, "the VM process does not answer");
}

/* One question at a time: a full socket to a process that hangs would hold the loop. */
void guest_vm_stats(struct guest *g)
{
	if (!g->child || g->stats_asked || clock_ns() - g->stats_ns <= 100 * NS_PER_MS)
		return;
	g->stats_asked = true;
	guest_child_ask(g, json_pack("{s:s}", "do", "stats"), QUICK_NS, stats_answered);
}

/* The process may know of an older session alone: that of the record was offered, and had not
 * begun when its polluxd ended. It never will. */
static void session_found(struct guest *g, const json_t *stats)
{
	uint64_t now = g->own.record.term;
	uint64_t term = (uint64_t)json_integer_of(stats, "term", (json_int_t)now);

	guest_migration_note(g, stats);
	if (term == now && g->migration.session)
		guest_migration_found(g);
	vm_state_take(g, json_text_of(stats, "state"), term, json_text_of(stats, "why"));
	if (term == now || g->own.state != OWN_PRIMARY)
		return;
	guest_why(g, "the session had not begun when polluxd was restarted");
	guest_session_over(g);
}

static json_t *stats_request(void)
{
	return json_pack("{s:s, s:b}", "do", "stats", "sections", true);
}

/* What happened while nobody listened: taken as if it was said now. */
static void attached(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	const json_t *stats = json_object_get(reply, "stats");

	if (rc) {
		log_warn("%s: the VM process does not say how it is: %s", g->name, text);
		guest_why(g, "the VM process does not say how it is: %s", text);
	}
	/* It may come round: what it says then is not to be missed. */
	if (rc == -ETIMEDOUT)
		guest_child_ask(g, stats_request(), PATIENT_NS, attached);
	if (rc)
		return;
	stats_take(g, stats);
	program_take(&g->program, stats);
	/* That save was not decided upon: the VM goes on. */
	if (json_is_true(json_object_get(stats, "saved")) && !g->saved)
		guest_child_ask(g, json_pack("{s:s}", "do", "resume"), QUICK_NS, NULL);
	/* Of an upgrade that another polluxd began; as a rule it has found that out itself. */
	if (json_is_true(json_object_get(stats, "yielded")))
		guest_child_ask(g, json_pack("{s:s}", "do", "unyield"), QUICK_NS, NULL);
	guest_postcopy_found(g, json_object_get(stats, "postcopy"));
	if (g->child_role != CHILD_VM)
		return;
	if (json_is_true(json_object_get(stats, "ended")))
		guest_vm_ended(g);
	session_found(g, stats);
}

/* -ENOENT: there is none for certain. A process that is just ending closes what it has
 * accepted, and is gone a moment later. */
static int child_attach(struct guest *g, const char *path, struct error *e)
{
	struct vm_child_events events;
	int rc = -EPIPE;

	for (int i = 0; i < ATTACH_TRIES && (rc == -EPIPE || rc == -ECONNRESET); i++) {
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 20 * NS_PER_MS}, NULL);
		*e = (struct error){0};
		rc = vm_child_attach(g->agent->loop, path, guest_child_events(g, &events),
				     &g->child, e);
	}
	return rc == -ECONNREFUSED || rc == -ESRCH || rc == -ENAMETOOLONG ? -ENOENT : rc;
}

int guest_vm_attach(struct guest *g, bool *alive, struct error *e)
{
	struct error why = {0};
	char path[PATH_MAX];
	int rc;

	*alive = false;
	guest_control_path(g, path);
	rc = child_attach(g, path, &why);
	if (rc == -ENOENT) {
		log_debug("%s: %s", g->name, why.text);
		unlink(path);
		return 0;
	}
	/* To call it dead would let the standby promote beside it. */
	if (rc)
		return error_set(e, rc,
				 "%s: %s; whether the VM runs is not known, and without knowing "
				 "polluxd must not go on: start it again, or end that process",
				 g->name, why.text);
	*alive = !g->serving;
	g->child_role = g->serving ? CHILD_SERVING : CHILD_VM;
	log_info("%s: found its VM process %d", g->name, (int)vm_child_pid(g->child));
	timeline_add(&g->timeline, "polluxd started", "found the VM process %d",
		     (int)vm_child_pid(g->child));
	guest_console_open(g);
	guest_child_ask(g, stats_request(), QUICK_NS, attached);
	return 0;
}

/* A process that had yielded to another one ends when it learns that this one has the VM. */
static bool successor_attach(struct guest *g)
{
	struct error e = {0};
	bool alive = false;

	if (g->vm_ended || g->stopping || g->quit_asked)
		return false;
	if (guest_vm_attach(g, &alive, &e))
		log_error("%s", e.text);
	return alive;
}

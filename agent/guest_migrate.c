// SPDX-License-Identifier: Apache-2.0
/* Migration from this host, as an operator sees it. What may be done is decided by
 * ownership.h, as for every session; the other host needs nothing of this. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"
#include "agent/preflight.h"

#define LOG_MODULE "migrate"
/* Of a downtime, whatever is sent: pause, state, load, start, and the words between; beside
 * them a record is stored on either host, the target's taken to be like ours. */
#define FIXED_NS     (3 * NS_PER_MS)
#define STORES       2u
#define STREAMS_MOST 16
#define CANCELLED    "it was cancelled"

/* ---- options ---------------------------------------------------------------------- */

static const struct number_option {
	const char *key;
	size_t offset;
	unsigned least, most;
} numbers[] = {
	{"bandwidth_mb", offsetof(struct migrate_options, bandwidth_mb), 1, 1u << 20},
	{"streams", offsetof(struct migrate_options, streams), 1, STREAMS_MOST},
	{"downtime_ms", offsetof(struct migrate_options, downtime_ms), 0, 600000},
	{"most_downtime_ms", offsetof(struct migrate_options, most_downtime_ms), 1, 600000},
	{"most_s", offsetof(struct migrate_options, most_s), 1, 86400},
	{"throttle_max", offsetof(struct migrate_options, throttle_max), 0, 99},
	{"postcopy_after", offsetof(struct migrate_options, postcopy_after), 0, 10000},
	{"rounds_max", offsetof(struct migrate_options, rounds_max), 1, 10000},
};

static const struct word_option {
	const char *key;
	size_t offset, size;
	const char *words[5];
} word_options[] = {
	{"compression",
	 offsetof(struct migrate_options, compression),
	 sizeof(((struct migrate_options *)0)->compression),
	 {"auto", "none", "lz4", "zlib"}},
	{"stuck",
	 offsetof(struct migrate_options, stuck),
	 sizeof(((struct migrate_options *)0)->stuck),
	 {"give-up", "stop", "postcopy"}},
};

static int number_take(const struct number_option *n, const json_t *v, struct migrate_options *out,
		       struct error *e)
{
	json_int_t value = json_integer_value(v);

	if (!json_is_integer(v) || value < n->least || value > n->most)
		return error_set(e, -EINVAL, "\"%s\" must be a whole number from %u to %u", n->key,
				 n->least, n->most);
	*(unsigned *)((char *)out + n->offset) = (unsigned)value;
	return 0;
}

static int word_take(const struct word_option *w, const json_t *v, struct migrate_options *out,
		     struct error *e)
{
	for (const char *const *word = w->words; *word; word++)
		if (json_is_string(v) && !strcmp(*word, json_string_value(v))) {
			snprintf((char *)out + w->offset, w->size, "%s", *word);
			return 0;
		}
	return error_set(e, -EINVAL, "\"%s\" must be one of: %s, %s, %s%s%s", w->key, w->words[0],
			 w->words[1], w->words[2], w->words[3] ? ", " : "",
			 w->words[3] ? w->words[3] : "");
}

static int flag_take(const char *key, const json_t *v, bool *out, struct error *e)
{
	if (!json_is_boolean(v))
		return error_set(e, -EINVAL, "\"%s\" must be true or false", key);
	*out = json_is_true(v);
	return 0;
}

static int option_take(const char *key, const json_t *v, struct migrate_options *out,
		       struct error *e)
{
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		if (!strcmp(key, numbers[i].key))
			return number_take(&numbers[i], v, out, e);
	for (size_t i = 0; i < ARRAY_LEN(word_options); i++)
		if (!strcmp(key, word_options[i].key))
			return word_take(&word_options[i], v, out, e);
	if (!strcmp(key, "with_disks"))
		return flag_take(key, v, &out->with_disks, e);
	if (!strcmp(key, "overwrite"))
		return flag_take(key, v, &out->overwrite, e);
	if (!strcmp(key, "assume_same"))
		return flag_take(key, v, &out->assume_same, e);
	if (!strcmp(key, "check"))
		return flag_take(key, v, &out->check, e);
	if (!strcmp(key, "postcopy_only"))
		return flag_take(key, v, &out->postcopy_only, e);
	return error_set(e, -EINVAL, "unknown key \"%.64s\"", key);
}

int migrate_options_parse(const json_t *o, struct migrate_options *out, struct error *e)
{
	const char *key;
	json_t *v;
	int rc = 0;

	*out = (struct migrate_options){
		.streams = 2, .downtime_ms = 30, .throttle_max = 95, .stuck = "give-up"};
	json_object_foreach((json_t *)o, key, v)
	{
		rc = option_take(key, v, out, e);
		if (rc)
			break;
	}
	if (out->postcopy_only)
		out->postcopy_after = 1;
	return rc;
}

uint64_t guest_migrate_fixed_ns(const struct agent *a)
{
	return FIXED_NS + STORES * a->store_ns;
}

static json_t *wishes_json(const struct agent *a, const struct migrate_options *o,
			   uint64_t link_rate)
{
	json_t *w = json_pack("{s:i, s:i, s:I, s:s}", "downtime_ms", (int)o->downtime_ms,
			      "throttle_max", (int)o->throttle_max, "fixed_us",
			      (json_int_t)(guest_migrate_fixed_ns(a) / NS_PER_US), "stuck",
			      o->postcopy_after ? "postcopy" : o->stuck);

	if (w && o->most_downtime_ms)
		json_object_set_new(w, "most_downtime_ms", json_integer(o->most_downtime_ms));
	if (w && o->bandwidth_mb)
		json_object_set_new(w, "bandwidth_mb", json_integer(o->bandwidth_mb));
	if (w && link_rate)
		json_object_set_new(w, "link_bytes_per_second",
				    json_integer((json_int_t)link_rate));
	if (w && o->most_s)
		json_object_set_new(w, "most_s", json_integer(o->most_s));
	if (w && o->postcopy_after)
		json_object_set_new(w, "postcopy_after", json_integer(o->postcopy_after));
	if (w && o->postcopy_only)
		json_object_set_new(w, "postcopy_only", json_true());
	if (w && o->rounds_max)
		json_object_set_new(w, "rounds_max", json_integer(o->rounds_max));
	return w;
}

/* ---- begin ------------------------------------------------------------------------- */

bool guest_peer_can(const struct peer *p, const char *what)
{
	const json_t *can = json_object_get(peer_hello(p), "can");

	for (size_t i = 0; i < json_array_size(can); i++)
		if (!strcmp(json_string_value(json_array_get(can, i)) ?: "", what))
			return true;
	return false;
}

static int refused_busy(struct guest *g, const char *to, struct error *e, const char **hint)
{
	return guest_busy(g, e, hint);
}

/* A polluxd that is too old would take the offer for one of protection, and fence us for its
 * end. */
static int refused_peer(struct guest *g, const char *to, struct error *e, const char **hint)
{
	int rc = guest_peer_ready(g, to, e, hint);

	if (rc || guest_peer_can(peers_find(g->agent->peers, to), "migrate"))
		return rc;
	return guest_refuse(e, hint, -EPERM, "update the other host first",
			    "the polluxd of %s is too old to take a migration", to);
}

static int refused_place(struct guest *g, const char *to, struct error *e, const char **hint)
{
	if (g->own.state == OWN_PRIMARY && !guest_is_protected(g))
		return guest_refuse(e, hint, -EBUSY, "wait for it, or cancel it",
				    "%s is being copied to %s", g->name, g->peer);
	if ((g->own.state != OWN_ALONE && g->own.state != OWN_PRIMARY) ||
	    g->child_role != CHILD_VM || g->vm_ended)
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    "%s does not run on this host", g->name);
	if (guest_goes_on(g))
		return guest_refuse(e, hint, -EBUSY, "try again in a moment",
				    "the session of %s has just ended", g->name);
	if (guest_stands_still(g))
		return guest_refuse(e, hint, -EPERM,
				    "protect it again, or `pollux failover --force`",
				    "%s stands still, since its session was lost", g->name);
	return 0;
}

static int refused_memory(struct guest *g, const char *to, struct error *e, const char **hint)
{
	if (!g->postcopy[0])
		return 0;
	return guest_refuse(e, hint, -EBUSY, "try again when `pollux status` shows it complete",
			    "a part of the memory of %s is on its way still", g->name);
}

static const struct {
	const char *code; /* unlike those of preflight.c */
	int (*fn)(struct guest *g, const char *to, struct error *e, const char **hint);
} refusals[] = {
	{"busy", refused_busy},
	{"peer", refused_peer},
	{"place", refused_place},
	{"memory-late", refused_memory},
};

int guest_migrate_possible(struct guest *g, const char *to, struct error *e, const char **hint)
{
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(refusals) && !rc; i++)
		rc = refusals[i].fn(g, to, e, hint);
	return rc;
}

json_t *guest_migrate_refusals(struct guest *g, const char *to)
{
	json_t *out = json_array();

	for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
		struct error e = {0};
		const char *hint = "";

		if (refusals[i].fn(g, to, &e, &hint))
			json_array_append_new(out,
					      reason_json(refusals[i].code, false, e.text, hint));
	}
	return out;
}

int guest_migrate_begin(struct guest *g, const char *to, const struct migrate_options *o,
			struct error *e, const char **hint)
{
	struct protect_options p = {.mode = "event",
				    .policy = "continue",
				    .streams = o->streams,
				    .overwrite = o->overwrite,
				    .handover = true};
	int rc = guest_migrate_possible(g, to, e, hint);

	if (rc)
		return rc;
	snprintf(p.storage, sizeof(p.storage), "%s", o->with_disks ? "mirror" : "shared");
	if (o->with_disks)
		p.shared_disks = preflight_shared_disks(g->check.q.result);
	if (strcmp(o->compression, "auto") != 0) /* which is what is done when nothing is said */
		snprintf(p.compression, sizeof(p.compression), "%s", o->compression);
	guest_peer_set(g, to);
	guest_policy_set(g, p.policy);
	rc = guest_session_make(g, &p, e);
	if (rc)
		return rc;
	g->copies = session_disks_copied(&p);
	guest_migration_free(g);
	guest_stats_forget(g);
	g->migration = (struct migration){.wishes = wishes_json(g->agent, o, g->forecast.link_rate),
					  .began_ns = clock_ns()};
	g->why[0] = '\0';
	timeline_add(&g->timeline, "migrate asked", "to %s", to);
	guest_operation_begin(g, "migrate");
	rc = guest_ask_ownership(
		g, &(struct ownership_input){.type = OWN_EV_PROTECT, .handover = true});
	if (rc)
		guest_operation_fail(g, rc, strerror(-rc), NULL);
	guest_operation_check(g);
	return rc ? error_set(e, rc, "%s cannot be migrated now: %s", g->name, strerror(-rc)) : 0;
}

/* ---- cancel ------------------------------------------------------------------------- */

static void cancelled(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc) { /* lost, and so cancelled all the same; or too late: its end will tell */
		log_warn("%s: cancelling the migration: %s", g->name, text);
		return;
	}
	if (!guest_session_ended(g, reply))
		return;
	timeline_add(&g->timeline, "cancelled", "by the operator");
	guest_why(g, "%s", CANCELLED);
	guest_session_over(g);
}

int guest_migrate_cancel(struct guest *g, struct error *e, const char **hint)
{
	bool session = g->own.state == OWN_PRIMARY || g->own.state == OWN_FREEZING;
	bool ours = session && g->session.options.handover;

	if (guest_operation_is(g, "migrate") && !ours && guest_chain_cancel(g))
		return 0;
	if (!ours && session && !g->child_state[0])
		return guest_refuse(e, hint, -EBUSY, "try again in a moment",
				    "the process of %s has not said yet what it does", g->name);
	if (!ours)
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    g->own.state == OWN_HANDED || g->child_role == CHILD_SERVING
					    ? "it is too late: %s has been handed over"
					    : "%s is not being migrated from this host",
				    g->name);
	timeline_add(&g->timeline, "cancel asked", "by the operator");
	g->migration.cancelled = true;
	guest_session_end(g, cancelled);
	return 0;
}

void guest_migration_put(const struct guest *g, json_t *request)
{
	json_t *bandwidth = json_object_get(g->migration.wishes, "bandwidth_mb");

	json_object_set(request, "migrate", g->migration.wishes);
	if (bandwidth)
		json_object_set(request, "bandwidth_mb", bandwidth);
}

/* ---- how it goes ---------------------------------------------------------------------- */

void guest_migration_note(struct guest *g, const json_t *message)
{
	json_int_t frozen = json_integer_of(message, "frozen_ns", 0);
	const json_t *sent = json_object_get(message, "sent");
	struct migration *m = &g->migration;

	m->session = json_is_true(json_object_get(message, "handover"));
	if (json_is_true(json_object_get(message, "postcopy")))
		m->postcopy = true;
	if (json_is_object(sent)) {
		json_decref(m->sent);
		m->sent = json_deep_copy(sent);
	}
	if (frozen <= 0)
		return;
	snprintf(m->end_why, sizeof(m->end_why), "%s", json_text_of(message, "end_why"));
	m->forecast_ns = (uint64_t)json_integer_of(message, "forecast_ns", 0);
	m->fixed_ns = (uint64_t)json_integer_of(message, "fixed_ns", 0);
	m->pause_ns = (uint64_t)json_integer_of(message, "pause_ns", 0);
	m->transfer_ns = (uint64_t)json_integer_of(message, "transfer_ns", 0);
	/* The message may have waited for its turn. */
	m->frozen_ns =
		(uint64_t)json_integer_of(message, "frozen_at_ns", (json_int_t)clock_ns() - frozen);
}

void guest_migration_found(struct guest *g)
{
	enum ownership_state s = g->own.state;

	if (g->operation.state == OPERATION_RUNNING ||
	    (s != OWN_PRIMARY && s != OWN_FREEZING && s != OWN_HANDED))
		return;
	g->session.term = g->own.record.term;
	g->session.options.handover = true;
	if (!g->migration.began_ns)
		g->migration.began_ns = clock_ns();
	guest_operation_begin(g, "migrate");
	timeline_add(&g->timeline, "migrating", "to %s, since before polluxd was started", g->peer);
	log_info("%s: its migration to %s goes on", g->name, g->peer);
}

void guest_migrated(struct guest *g)
{
	struct migration *m = &g->migration;
	uint64_t now = clock_ns();

	m->downtime_ns = m->frozen_ns ? now - m->frozen_ns : 0;
	m->total_ns = m->began_ns ? now - m->began_ns : 0;
	guest_handover_learn(g);
	json_decref(m->last);
	m->last = json_incref(g->stats);
	timeline_add(&g->timeline, "migrated", "to %s, downtime %.1f ms%s%s", g->peer,
		     (double)m->downtime_ns / 1e6, m->end_why[0] ? "; " : "", m->end_why);
	log_info("%s: migrated to %s in %.1f s, downtime %.1f ms", g->name, g->peer,
		 (double)m->total_ns / 1e9, (double)m->downtime_ns / 1e6);
	/* A process that was found, and has not said yet what it holds, may hold some. */
	if (m->postcopy || !g->child_state[0]) {
		guest_serve(g);
		return;
	}
	g->retiring = true;
	guest_vm_kill(g);
}

static void migrate_failed(struct guest *g)
{
	const json_t *why = json_object_get(json_object_get(g->stats, "migration"), "why");
	bool stayed = g->own.state == OWN_ALONE && !guest_stands_still(g) && !g->vm_ended;
	bool cancelled = stayed && g->migration.cancelled;

	if (!g->why[0] && g->vm_ended)
		guest_why(g, "the guest has powered off");
	else if (!g->why[0] && json_is_string(why))
		guest_why(g, "%s", json_string_value(why));
	guest_operation_fail(g, cancelled ? -ECANCELED : -EIO,
			     cancelled   ? CANCELLED
			     : g->why[0] ? g->why
					 : "the session ended",
			     stayed        ? "the VM runs on here"
			     : g->vm_ended ? "the VM is off"
					   : "see `pollux status`");
	/* The operation says it, and the VM runs as it did. */
	if (cancelled && !strcmp(g->why, CANCELLED))
		g->why[0] = '\0';
	guest_chain_undo(g);
}

void guest_migrate_check(struct guest *g)
{
	if (g->check.q.number || guest_chain_check(g))
		return;
	if (g->child_role == CHILD_SERVING || guest_goes_on(g))
		return;
	/* Whatever has come since: it may be back as a twin. */
	if (g->migration.total_ns || g->own.state == OWN_NONE) {
		g->why[0] = '\0';
		guest_operation_done(g);
	} else if (g->own.state != OWN_PRIMARY && g->own.state != OWN_FREEZING &&
		   g->own.state != OWN_HANDED) {
		migrate_failed(g);
	}
}

const char *guest_migrate_phase(const struct guest *g)
{
	static const struct {
		const char *process, *phase;
	} phases[] = {{"syncing", "copying"},
		      {"freezing", "pausing"},
		      {"handed", "handing-over"},
		      {"lost", "ending"}};

	if (g->child_role == CHILD_SERVING)
		return g->check.q.number ? "recovering" : "postcopy";
	if (g->check.q.number)
		return "checking";
	if (g->chain.what != CHAIN_NONE)
		return "unprotecting";
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (!strcmp(g->child_state, phases[i].process))
			return phases[i].phase;
	return g->migration.cancelled ? "ending" : "connecting";
}

/* All that went over the wire, and what made it so much. */
static json_t *sent_json(const struct migration *m)
{
	json_t *o = json_copy(m->sent);
	json_int_t before = json_integer_of(o, "bytes", 0);

	if (!o)
		return NULL;
	json_object_set_new(o, "postcopy_bytes", json_integer((json_int_t)m->postcopy_bytes));
	json_object_set_new(o, "bytes", json_integer(before + (json_int_t)m->postcopy_bytes));
	return o;
}

json_t *guest_migration_json(const struct guest *g)
{
	const struct migration *m = &g->migration;
	bool over = m->total_ns != 0;
	json_t *o;

	if (!m->began_ns)
		return json_null();
	o = json_pack("{s:s, s:I}", "to", g->peer, "elapsed_ms",
		      (json_int_t)((over ? m->total_ns : clock_ns() - m->began_ns) / NS_PER_MS));
	if (o && over)
		json_object_set_new(o, "downtime_ns", json_integer((json_int_t)m->downtime_ns));
	if (o && over)
		json_object_set_new(o, "forecast_ns", json_integer((json_int_t)m->forecast_ns));
	if (o && over)
		json_object_set_new(o, "handover", guest_handover_json(m));
	if (o && over && m->end_why[0])
		json_object_set_new(o, "end_why", json_text(m->end_why));
	if (o && over && m->sent)
		json_object_set_new(o, "sent", sent_json(m));
	if (o && m->last)
		json_object_set(o, "last", m->last);
	if (o && m->wishes)
		json_object_set(o, "limits", m->wishes);
	return o;
}

void guest_migration_free(struct guest *g)
{
	json_decref(g->migration.wishes);
	json_decref(g->migration.last);
	json_decref(g->migration.sent);
	g->migration = (struct migration){0};
}

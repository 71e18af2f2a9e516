// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"

static const char *const plain_states[OWN_STATES] = {
	[OWN_NEW] = "new",
	[OWN_NONE] = "none",
	[OWN_UNSURE] = "unsure",
	[OWN_IDLE] = "stopped",
	[OWN_ALONE] = "running",
	[OWN_PRIMARY] = "offering",
	[OWN_ASKING] = "asking",
	[OWN_RELEASED] = "released",
	[OWN_STANDBY] = "standby",
	[OWN_DECIDING] = "deciding",
	[OWN_PROMOTING] = "promoting",
	[OWN_HANDED] = "handed-over",
	[OWN_FREEZING] = "migrating",
	[OWN_LOADING] = "promoting",
};

static bool child_says(const struct guest *g, const char *state)
{
	return !strcmp(g->child_state, state);
}

const char *guest_state_name(const struct guest *g)
{
	enum ownership_state s = g->own.state;

	if (g->child_role == CHILD_SERVING)
		return strcmp(g->postcopy, "cut") ? "serving" : "memory-held";
	if (guest_memory_missing(g))
		return "memory-missing";

	if (s == OWN_ALONE && g->vm_ended)
		return "stopping";
	if (s == OWN_ALONE && !g->child_state[0])
		return "starting";
	if (guest_goes_on(g))
		return g->session.options.handover || g->migration.session ? "migrating" : "asking";
	if (guest_stands_still(g))
		return "stalled";
	if (s == OWN_ALONE && g->stopping)
		return "stopping";
	if (s == OWN_PRIMARY && g->session.options.handover)
		return "migrating";
	if (s == OWN_STANDBY && g->session.options.handover)
		return "incoming";
	if (s == OWN_PRIMARY && child_says(g, "protected"))
		return "protected";
	if (s == OWN_PRIMARY && (child_says(g, "connecting") || child_says(g, "syncing")))
		return "syncing";
	if (s == OWN_STANDBY && !child_says(g, "ready"))
		return "standby-syncing";
	return plain_states[s];
}

static json_t *operation_json(const struct operation *o)
{
	static const char *const states[] = {"none", "running", "done", "failed"};
	json_t *json = json_pack("{s:I, s:s, s:s}", "id", (json_int_t)o->id, "what",
				 o->what ? o->what : "", "state", states[o->state]);

	if (json && o->downtime_ns)
		json_object_set_new(json, "downtime_ms", json_real((double)o->downtime_ns / 1e6));
	if (json && o->state == OPERATION_FAILED) {
		json_object_set_new(json, "code", json_integer(o->code));
		json_object_set_new(json, "error", json_text(o->error));
		json_object_set_new(json, "hint", json_text(o->hint));
	}
	return json;
}

json_t *guest_beside_json(const struct guest *g)
{
	json_t *json = operation_json(&g->beside.operation);

	if (json && g->beside.q.result && !g->beside.q.number)
		json_object_set(json, "check", g->beside.q.result);
	return json;
}

/* The one of now. */
static json_t *current_json(const struct guest *g)
{
	json_t *json = operation_json(&g->operation);

	if (json && (guest_operation_is(g, "migrate") || guest_operation_is(g, "check")))
		json_object_set_new(json, "phase", json_string(guest_migrate_phase(g)));
	return json;
}

static json_t *options_json(const struct protect_options *p)
{
	return json_pack("{s:s, s:s, s:s, s:i, s:b}", "mode", p->mode, "policy", p->policy,
			 "compression", p->compression, "interval_ms", (int)p->interval_ms,
			 "migration", p->handover);
}

static void details_put(json_t *o, const struct guest *g)
{
	char console[256];

	snprintf(console, sizeof(console), "%s/%s.console", g->agent->config.run_dir, g->name);
	json_object_set_new(o, "why", json_text(g->why));
	json_object_set_new(o, "operation", current_json(g));
	json_object_set_new(o, "operation_before", operation_json(&g->ended));
	if (g->beside.operation.id)
		json_object_set_new(o, "operation_beside", guest_beside_json(g));
	json_object_set_new(o, "timeline", timeline_json(&g->timeline));
	json_object_set_new(o, "console", g->console_fd >= 0 ? json_text(console) : json_null());
	json_object_set_new(o, "dump", guest_dump_json(g));
	json_object_set_new(o, "origin", g->origin ? json_text(g->origin) : json_null());
	json_object_set_new(o, "migration", guest_migration_json(g));
	if (g->check.q.result && !g->check.answered) /* else it lacks the forecast */
		json_object_set(o, "check", g->check.q.result);
	json_object_set_new(o, "unprotected", guest_again_json(g) ?: json_null());
	if (g->postcopy[0])
		json_object_set_new(o, "postcopy", guest_postcopy_json(g));
	if (g->session.term)
		json_object_set_new(o, "session", options_json(&g->session.options));
	if (g->stats) {
		json_object_set_new(o, "stats", json_deep_copy(g->stats));
		json_object_set_new(
			o, "stats_age_ms",
			json_integer((json_int_t)((clock_ns() - g->stats_ns) / NS_PER_MS)));
	}
}

json_t *guest_json(const struct guest *g, bool full)
{
	json_t *o = json_pack(
		"{s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:i, s:s}", "name", g->name, "state",
		guest_state_name(g), "ownership", ownership_state_name(g->own.state), "role",
		ownership_role_name(g->own.record.role), "term", (json_int_t)g->own.record.term,
		"peer", g->peer, "process", g->child_state, "engine", g->program.engine, "build",
		g->program.build, "pid", g->child ? (int)vm_child_pid(g->child) : 0, "host",
		g->agent->config.name);

	if (o && full)
		details_put(o, g);
	return o;
}

// SPDX-License-Identifier: Apache-2.0
#include "agent/guest.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "guest"

struct guest_event {
	struct ownership_input in;
	STAILQ_ENTRY(guest_event) entry;
};

/* The name becomes part of file names. */
bool guest_name_ok(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > VM_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("-_.", *name))
			return false;
	return true;
}

struct guest *guest_find(struct agent *a, const char *name)
{
	struct guest *g;

	LIST_FOREACH(g, &a->guests, entry)
	{
		if (!strcmp(g->name, name))
			return g;
	}
	return NULL;
}

void guest_why(struct guest *g, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(g->why, sizeof(g->why), fmt, args);
	va_end(args);
}

/* ---- actions --------------------------------------------------------------------- */

typedef void action_fn(struct guest *g, const struct ownership_action *a);

static void act_store(struct guest *g, const struct ownership_action *a)
{
	struct error e = {0};
	int rc;

	/* Until an image is loaded whole, nothing has touched the disks. */
	if (!guest_image_restoring(g)) {
		g->disks_term = a->record.term;
		free(g->saved);
		g->saved = NULL;
	}
	rc = guest_store(g, &a->record, &e);
	if (rc) {
		log_error("%s", e.text);
		guest_why(g, "the ownership record could not be stored: %s", e.text);
	}
	guest_feed_type(g, rc ? OWN_EV_STORE_FAILED : OWN_EV_STORED);
}

static void act_tell(struct guest *g, const struct ownership_action *a)
{
	guest_tell(g, a->word, a->term, a->can_fence);
}

static void act_fence(struct guest *g, const struct ownership_action *a)
{
	timeline_add(&g->timeline, "fence asked", "host %s", g->peer);
	host_fence(g->agent, g, g->peer, a->id);
}

void guest_migration_why(struct guest *g, const char *side, const char *why)
{
	const char *at = strstr(why, side);

	if (at)
		guest_why(g, "%.*s%s%s", (int)(at - why), why, g->peer, at + strlen(side));
	else
		guest_why(g, "%s", why);
}

void guest_lost_why(struct guest *g, const char *side, bool migration, const char *why)
{
	if (!migration)
		guest_why(g, "%s is lost: %s", side, why);
	else if (strstr(why, side))
		guest_migration_why(g, side, why);
	else
		guest_why(g, "%s is lost%s%s", g->peer, *why ? ": " : "", why);
}

/* Also one of before polluxd was restarted, as its process says. */
static bool is_migration(const struct guest *g)
{
	return g->session.options.handover || g->migration.session;
}

static void goes_on(struct guest *g)
{
	timeline_add(&g->timeline, "goes on", "the migration has failed");
	log_warn("%s: it goes on here: the migration has failed%s%s", g->name,
		 g->why[0] ? ": " : "", g->why);
}

static void act_confirm(struct guest *g, const struct ownership_action *a)
{
	const char *how = g->own.config.continue_alone
				  ? "runs on UNPROTECTED"
				  : "STANDS STILL until it is protected again or forced";
	char why[sizeof(g->why)];

	g->postcopy[0] = '\0';
	if (is_migration(g)) {
		goes_on(g);
		guest_ownership_tell(g, "confirmed");
		return;
	}
	timeline_add(&g->timeline, "ownership confirmed", "term %llu",
		     (unsigned long long)g->own.record.term);
	guest_ownership_tell(g, "confirmed");
	if (!g->own.config.continue_alone)
		g->told_ns = 0;
	snprintf(why, sizeof(why), "%s", g->why);
	log_warn("%s: it %s: %s", g->name, how, why);
	timeline_add(&g->timeline, "unprotected", "%s", why);
	guest_why(g, "it %s: %s", how, why);
	guest_again_later(g);
}

static void act_confirm_forced(struct guest *g, const struct ownership_action *a)
{
	g->postcopy[0] = '\0';
	if (is_migration(g) && !a->forced)
		goes_on(g);
	else
		timeline_add(&g->timeline, "ownership forced", "by the operator");
	if (a->forced)
		g->why[0] = '\0';
	guest_ownership_tell(g, "forced");
}

static void act_kill_vm(struct guest *g, const struct ownership_action *a)
{
	timeline_add(&g->timeline, "stopped", "another host owns the VM under a newer term");
	guest_vm_kill(g);
}

static void act_retire_vm(struct guest *g, const struct ownership_action *a)
{
	guest_migrated(g);
}

static void act_start_vm(struct guest *g, const struct ownership_action *a)
{
	guest_vm_start(g, a->term);
}

static void act_start_session(struct guest *g, const struct ownership_action *a)
{
	guest_session_start(g, a->term);
}

static void act_end_session(struct guest *g, const struct ownership_action *a)
{
	guest_session_cut(g);
}

static void act_create_replica(struct guest *g, const struct ownership_action *a)
{
	guest_replica_create(g, a->term);
}

static void act_drop_replica(struct guest *g, const struct ownership_action *a)
{
	guest_replica_drop(g);
}

static void act_load(struct guest *g, const struct ownership_action *a)
{
	guest_load(g, a->term);
}

static void act_promote(struct guest *g, const struct ownership_action *a)
{
	timeline_add(&g->timeline, g->session.options.handover ? "starting" : "promoting",
		     "term %llu is stored", (unsigned long long)a->term);
	guest_promote(g, a->term);
}

/* Of a migration it is known better: whose words they were. */
static bool report_is_of_sessions(const struct guest *g, const char *why)
{
	return is_migration(g) && g->why[0] &&
	       (!strcmp(why, "the standby is lost") || !strcmp(why, "the primary is lost"));
}

static void act_report(struct guest *g, const struct ownership_action *a)
{
	log_info("%s: %s under term %llu%s%s", g->name, ownership_state_name(a->state),
		 (unsigned long long)g->own.record.term, a->why ? ": " : "", a->why ? a->why : "");
	/* What is known already may say the same and more. */
	if (a->why && strncmp(g->why, a->why, strlen(a->why)) != 0 &&
	    !report_is_of_sessions(g, a->why))
		guest_why(g, "%s", a->why);
}

static action_fn *const action_fns[OWN_ACTS] = {
	[OWN_STORE] = act_store,
	[OWN_TELL] = act_tell,
	[OWN_FENCE] = act_fence,
	[OWN_CONFIRM] = act_confirm,
	[OWN_CONFIRM_FORCED] = act_confirm_forced,
	[OWN_KILL_VM] = act_kill_vm,
	[OWN_RETIRE_VM] = act_retire_vm,
	[OWN_START_VM] = act_start_vm,
	[OWN_START_SESSION] = act_start_session,
	[OWN_END_SESSION] = act_end_session,
	[OWN_CREATE_REPLICA] = act_create_replica,
	[OWN_DROP_REPLICA] = act_drop_replica,
	[OWN_LOAD] = act_load,
	[OWN_PROMOTE] = act_promote,
	[OWN_REPORT] = act_report,
};

/* ---- events ------------------------------------------------------------------------ */

static int event_apply(struct guest *g, struct ownership_input *in)
{
	struct ownership_actions actions;
	int rc;

	in->now = clock_ns();
	rc = ownership_event(&g->own, in, &actions);
	if (rc)
		return rc;
	for (unsigned i = 0; i < actions.count; i++)
		action_fns[actions.item[i].type](g, &actions.item[i]);
	return 0;
}

static void events_drain(struct guest *g)
{
	struct guest_event *event;
	uint64_t deadline;

	g->feeding = true;
	while ((event = STAILQ_FIRST(&g->events))) {
		STAILQ_REMOVE_HEAD(&g->events, entry);
		if (event_apply(g, &event->in))
			log_debug("%s: %s means nothing while %s", g->name,
				  ownership_event_name(event->in.type),
				  ownership_state_name(g->own.state));
		free(event);
	}
	g->feeding = false;
	deadline = ownership_deadline(&g->own);
	loop_timer_set(g->tick, deadline == UINT64_MAX ? 0 : deadline + 1);
	guest_operation_check(g);
}

void guest_feed(struct guest *g, const struct ownership_input *in)
{
	struct guest_event *event = malloc(sizeof(*event));

	/* What a lost event would leave behind is worse than a restart of polluxd, under
	 * which the VMs go on. */
	if (!event) {
		log_error("out of memory");
		abort();
	}
	event->in = *in;
	STAILQ_INSERT_TAIL(&g->events, event, entry);
	if (!g->feeding)
		events_drain(g);
}

void guest_feed_type(struct guest *g, enum ownership_event type)
{
	guest_feed(g, &(struct ownership_input){.type = type});
}

int guest_ask_ownership(struct guest *g, const struct ownership_input *in)
{
	struct ownership_input asked = *in;
	int rc;

	g->feeding = true;
	rc = event_apply(g, &asked);
	events_drain(g);
	return rc;
}

void guest_fenced(struct guest *g, unsigned id, bool confirmed, const char *text)
{
	timeline_add(&g->timeline, confirmed ? "fenced" : "fence failed", "%s", text);
	if (!confirmed)
		guest_why(g, "%s; %s: repair the fence, or `pollux failover --force`", text,
			  g->own.state == OWN_ASKING ? "output is held" : "the standby waits");
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_FENCED, .id = id, .ok = confirmed});
}

static void tick(void *ctx)
{
	guest_feed_type(ctx, OWN_EV_TICK);
}

/* ---- the other side ------------------------------------------------------------------ */

static uint64_t ask_time(uint64_t loss_ns)
{
	uint64_t ns = loss_ns / 4;

	return ns < 10 * NS_PER_MS ? 10 * NS_PER_MS : ns > 50 * NS_PER_MS ? 50 * NS_PER_MS : ns;
}

static void ownership_configure(struct guest *g)
{
	const struct agent_config *c = &g->agent->config;
	struct peer *p = peers_find(g->agent->peers, g->peer);

	g->own.config.can_fence = p && peer_config(p)->fence.command[0];
	g->own.config.senior = strcmp(c->name, g->peer) < 0;
	g->own.config.ask_ns = ask_time(c->loss_ns);
	if (c->fence_delay_ns)
		g->own.config.fence_delay_ns = c->fence_delay_ns;
}

void guest_peer_set(struct guest *g, const char *peer)
{
	struct peer *p;

	if (strcmp(g->peer, peer) != 0) {
		if (g->own.peer_up)
			guest_feed_type(g, OWN_EV_PEER_DOWN);
		snprintf(g->peer, sizeof(g->peer), "%s", peer);
	}
	ownership_configure(g);
	p = peers_find(g->agent->peers, g->peer);
	if (p && peer_is_up(p) && !g->own.peer_up && g->own.state != OWN_NEW)
		guest_feed_type(g, OWN_EV_PEER_UP);
}

void guest_policy_set(struct guest *g, const char *policy)
{
	g->own.config.continue_alone = strcmp(policy, "stall") != 0;
}

/* ---- life -------------------------------------------------------------------------------- */

int guest_create(struct agent *a, const char *name, struct guest **out, struct error *e)
{
	struct ownership_config config;
	struct guest *g;
	int rc;

	if (!guest_name_ok(name))
		return error_set(e, -EINVAL, "'%.80s' is not a VM's name", name);
	if (a->guest_count >= GUESTS_MAX)
		return error_set(e, -ENOSPC, "this host knows %d VMs already", GUESTS_MAX);
	g = calloc(1, sizeof(*g));
	if (!g)
		return error_set(e, -ENOMEM, "out of memory");
	g->agent = a;
	g->console_fd = g->dump.fd = -1;
	STAILQ_INIT(&g->events);
	snprintf(g->name, sizeof(g->name), "%s", name);
	rc = loop_timer(a->loop, tick, g, &g->tick);
	if (rc) {
		free(g);
		return error_set(e, rc, "cannot make a timer: %s", strerror(-rc));
	}
	ownership_config_defaults(&config);
	ownership_init(&g->own, &config);
	ownership_configure(g);
	LIST_INSERT_HEAD(&a->guests, g, entry);
	a->guest_count++;
	*out = g;
	return 0;
}

void guest_free(struct guest *g)
{
	struct guest_event *event;

	LIST_REMOVE(g, entry);
	g->agent->guest_count--;
	host_fence_forget(g->agent, g);
	while ((event = STAILQ_FIRST(&g->events))) {
		STAILQ_REMOVE_HEAD(&g->events, entry);
		free(event);
	}
	guest_upgrade_free(g);
	vm_child_free(g->child);
	guest_dump_free(g);
	loop_unwatch(g->console_watch);
	if (g->console_fd >= 0)
		close(g->console_fd);
	loop_timer_free(g->tick);
	loop_timer_free(g->stop_timer);
	loop_timer_free(g->again_timer);
	guest_image_drop(g);
	free(g->saved);
	free(g->torn);
	session_wipe(&g->session);
	session_wipe(&g->recovery);
	offer_free(g->offer);
	json_decref(g->stats);
	program_forget(&g->program);
	guest_migration_free(g);
	guest_check_free(g);
	free(g->config);
	free(g->origin);
	free(g);
}

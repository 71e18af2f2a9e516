// SPDX-License-Identifier: Apache-2.0
/* A VM that lost its standby without anyone wanting that is protected again, as it was,
 * once that host's polluxd is back. Each attempt is an operator's protect in every respect;
 * attempts that do not last come at growing intervals, for each is a whole copy. */
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE    "guest"
#define AGAIN_MOST_NS (3600 * NS_PER_SEC)
#define SOON_NS       (100 * NS_PER_MS)
#define LASTED_NS     (600 * NS_PER_SEC)

void guest_again_note(struct guest *g)
{
	struct protect_again *again = &g->again;

	if (!again->wanted || strcmp(again->peer, g->peer) != 0)
		again->wait_ns = g->agent->config.protect_again_ns;
	g->chain.then.wanted = false;
	again->wanted = true;
	again->owed = false;
	again->protected_ns = clock_ns();
	again->options = g->session.options;
	/* That was said of what lay there then. */
	again->options.overwrite = false;
	snprintf(again->peer, sizeof(again->peer), "%s", g->peer);
}

/* A record that says that it is owed would have it made again by a later polluxd. */
void guest_again_forget(struct guest *g)
{
	bool owed = g->again.owed;
	struct error e = {0};

	g->chain.then.wanted = false;
	g->again = (struct protect_again){0};
	if (g->again_timer)
		loop_timer_set(g->again_timer, 0);
	if (owed && !g->own.storing && guest_store(g, &g->own.record, &e))
		log_error("%s", e.text);
}

bool guest_again_will(const struct guest *g)
{
	return g->again.wanted && (g->again.owed || g->agent->config.protect_again_ns);
}

bool guest_again_owed(const struct guest *g, struct protect_again *out)
{
	*out = g->again.owed ? g->again : g->chain.then;
	if (!g->again.owed && g->chain.standby[0])
		snprintf(out->peer, sizeof(out->peer), "%s", g->chain.standby);
	return out->wanted;
}

void guest_again_found(struct guest *g)
{
	if (!g->again.owed)
		return;
	log_warn("%s: it is to be protected on %s, unless it is or goes elsewhere: polluxd was "
		 "restarted meanwhile, and goes on with that",
		 g->name, g->again.peer);
	timeline_add(&g->timeline, "protection owed", "on %s", g->again.peer);
	guest_again_soon(g);
}

static const char *again_text(const struct guest *g, const struct protect_again *again)
{
	if (g->own.state == OWN_HANDED)
		return "where it arrives it will be protected again";
	if (!peers_find(g->agent->peers, again->peer))
		return "it is NOT protected, and cannot be: that host is no peer of this one";
	if (g->session.options.handover && g->own.state != OWN_ALONE)
		return "it is NOT protected while it is migrated; it will be where it arrives, or "
		       "here";
	if (g->own.state == OWN_PRIMARY)
		return "it is NOT protected until the first copy is made";
	if (g->again.wanted && !guest_again_will(g))
		return "it is NOT protected: its standby was lost";
	return "it is NOT protected; it will be when that host can take a copy";
}

json_t *guest_again_json(const struct guest *g)
{
	struct protect_again again;
	bool wanted = guest_again_owed(g, &again);

	if (!wanted && g->again.wanted) {
		again = g->again;
		wanted = true;
	}
	if (!wanted || g->child_role != CHILD_VM || guest_is_protected(g))
		return NULL;
	return json_pack("{s:s, s:s}", "on", again.peer, "text", again_text(g, &again));
}

static bool again_possible(struct guest *g)
{
	struct peer *p = peers_find(g->agent->peers, g->again.peer);

	return g->own.state == OWN_ALONE && !g->own.storing && g->child_role == CHILD_VM &&
	       g->child_state[0] && !guest_goes_on(g) && !g->postcopy[0] && !g->vm_ended &&
	       !g->stopping && g->operation.state != OPERATION_RUNNING && p && peer_is_up(p);
}

/* Also where nothing is protected again by itself: what an operator moves is. */
static uint64_t base_ns(const struct guest *g)
{
	uint64_t base = g->agent->config.protect_again_ns;

	return base ? base : NS_PER_SEC;
}

/* Set anew before it is tried: for then it may fail at any later time. */
static void again_try(void *ctx)
{
	struct guest *g = ctx;
	struct protect_again *again = &g->again;
	bool possible = again_possible(g);
	const char *hint = "";
	struct error e = {0};

	if (!again->wanted ||
	    (g->own.state == OWN_PRIMARY && !g->session.options.handover && !again->owed))
		return;
	if (possible && again->wait_ns * 2 <= AGAIN_MOST_NS)
		again->wait_ns *= 2;
	loop_timer_set(g->again_timer, clock_ns() + (possible ? again->wait_ns : base_ns(g)));
	if (!possible)
		return;
	log_info("%s: protecting it again on %s", g->name, again->peer);
	if (guest_protect(g, again->peer, &again->options, &e, &hint))
		log_warn("%s: it cannot be protected again now: %s", g->name, e.text);
}

void guest_again_soon(struct guest *g)
{
	struct protect_again *again = &g->again;

	again->wait_ns =
		g->agent->config.protect_again_ns ? g->agent->config.protect_again_ns : NS_PER_SEC;
	if (!g->again_timer && loop_timer(g->agent->loop, again_try, g, &g->again_timer))
		return;
	loop_timer_set(g->again_timer, clock_ns() + SOON_NS);
}

void guest_again_later(struct guest *g)
{
	struct protect_again *again = &g->again;
	uint64_t now = clock_ns(), base = g->agent->config.protect_again_ns;

	if (!again->wanted || !base)
		return;
	if (!g->again_timer && loop_timer(g->agent->loop, again_try, g, &g->again_timer))
		return;
	if (now - again->protected_ns > LASTED_NS)
		again->wait_ns = base;
	loop_timer_set(g->again_timer, now + again->wait_ns);
}

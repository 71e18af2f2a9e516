// SPDX-License-Identifier: Apache-2.0
/*
 * A protected VM that is to go elsewhere, or whose twin is, or that is to go on in another process
 * which the twin could not follow: the session ends first, in good
 * order, and what was wanted follows. A VM that was protected when it set out is protected
 * again where it arrives, by its old standby or, if it went there, by the host it left; and
 * here, when it could not leave. Until then it says that it is not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE "chain"

bool guest_is_protected(const struct guest *g)
{
	return g->own.state == OWN_PRIMARY && !g->session.options.handover &&
	       !strcmp(g->child_state, "protected");
}

static void unprotected(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	bool cancelled = g->chain.cancelled;

	g->chain.cancelled = false;
	if (rc == -EPIPE)
		return;
	if (rc) {
		g->chain.what = CHAIN_NONE;
		g->chain.then.wanted = false;
		guest_operation_fail(g, rc, text, "it is protected still; see `pollux status`");
		return;
	}
	if (!guest_session_ended(g, reply))
		return;
	timeline_add(&g->timeline, "unprotected", "%s",
		     g->chain.what == CHAIN_UPGRADE ? "to be upgraded" : "to be moved");
	if (g->chain.then.wanted) /* from here on that says so */
		g->again.wanted = g->again.owed = false;
	guest_session_over(g);
	if (cancelled)
		guest_chain_undo(g);
}

bool guest_chain_cancel(struct guest *g)
{
	if (!g->check.q.number && g->chain.what == CHAIN_NONE)
		return false;
	/* The protection that is ending ends, and is made again. */
	g->chain.cancelled = g->chain.what != CHAIN_NONE;
	guest_answer_came(g);
	guest_operation_fail(g, -ECANCELED, "it was cancelled", "the VM runs on here");
	return true;
}

/* Its standby; also one that is lost, and is to be protected on again. NULL: there is none. */
static const char *standby_of(const struct guest *g)
{
	if (guest_is_protected(g))
		return g->peer;
	return guest_again_will(g) ? g->again.peer : NULL;
}

const char *guest_chain_then_on(const struct guest *g, const char *to)
{
	const char *standby = standby_of(g);

	return standby && !strcmp(to, standby) ? g->agent->config.name : standby;
}

static void then_note(struct guest *g, const char *to)
{
	struct protect_again *then = &g->chain.then;
	const char *standby = standby_of(g);

	if (!standby)
		return;
	*then = (struct protect_again){.wanted = true,
				       .options = guest_is_protected(g) ? g->session.options
									: g->again.options};
	then->options.overwrite = false;
	snprintf(then->peer, sizeof(then->peer), "%s", guest_chain_then_on(g, to));
	snprintf(g->chain.standby, sizeof(g->chain.standby), "%s", standby);
}

static int chain_begin(struct guest *g, enum chain_what what, const char *to, struct error *e,
		       const char **hint)
{
	static const char *const operations[] = {[CHAIN_MIGRATE] = "migrate",
						 [CHAIN_PROTECT] = "protect",
						 [CHAIN_UPGRADE] = "upgrade"};
	int rc = guest_peer_ready(g, to, e, hint);

	/* Should this polluxd not come to it, the next one is to know what was taken away. */
	if (!rc)
		rc = guest_store(g, &g->own.record, e);
	if (rc)
		return rc;
	guest_operation_begin(g, operations[what]);
	g->chain.what = what;
	snprintf(g->chain.to, sizeof(g->chain.to), "%s", to);
	timeline_add(&g->timeline, "unprotect asked", "to %s %s%s", operations[what],
		     what == CHAIN_UPGRADE ? "it, and be made again on " : "it: ", to);
	guest_session_end(g, unprotected);
	return 0;
}

int guest_migrate(struct guest *g, const char *to, const struct migrate_options *o, struct error *e,
		  const char **hint)
{
	int rc = guest_migrate_possible(g, to, e, hint);
	bool refused = rc;

	if (refused && o->check && g->operation.state == OPERATION_RUNNING)
		return guest_beside_begin(g, to, o) ? rc : 0;
	if (refused && !guest_check_can_ask(g, to))
		return rc;
	*hint = "see the log of polluxd";
	rc = guest_check_begin(g, to, o, e);
	if (rc)
		return rc;
	if (!refused) { /* else it may say still how it is to be protected again */
		g->chain = (struct chain){.migrate = *o};
		snprintf(g->chain.to, sizeof(g->chain.to), "%s", to);
	}
	guest_operation_begin(g, o->check ? "check" : "migrate");
	g->check.operation = g->operation.id;
	return 0;
}

/* It stays as protected as it is. */
static int then_forget(struct guest *g, int rc)
{
	if (rc)
		g->chain.then.wanted = false;
	return rc;
}

static int migrate_go(struct guest *g, struct error *e, const char **hint)
{
	char to[AGENT_NAME_MAX + 1];

	snprintf(to, sizeof(to), "%s", g->chain.to);
	g->operation.state = OPERATION_NONE;
	then_note(g, to);
	if (!guest_is_protected(g))
		return then_forget(g, guest_migrate_begin(g, to, &g->chain.migrate, e, hint));
	return then_forget(g, chain_begin(g, CHAIN_MIGRATE, to, e, hint));
}

void guest_migrate_checked(struct guest *g)
{
	uint64_t id = g->operation.id;
	const char *hint = NULL;
	struct error e = {0};
	int rc;

	if (!guest_operation_is(g, "migrate"))
		return;
	rc = migrate_go(g, &e, &hint);
	g->operation.id = id;
	if (!rc)
		return;
	g->operation.state = OPERATION_RUNNING;
	guest_operation_fail(g, rc, e.text, hint);
}

int guest_standby_move(struct guest *g, const char *to, const struct protect_options *o,
		       struct error *e, const char **hint)
{
	g->chain = (struct chain){.protect = *o};
	then_note(g, to);
	return then_forget(g, chain_begin(g, CHAIN_PROTECT, to, e, hint));
}

int guest_chain_upgrade(struct guest *g, struct error *e, const char **hint)
{
	char standby[AGENT_NAME_MAX + 1];

	snprintf(standby, sizeof(standby), "%s", g->peer);
	g->chain = (struct chain){0};
	then_note(g, standby);
	return then_forget(g, chain_begin(g, CHAIN_UPGRADE, standby, e, hint));
}

static int chain_go(struct guest *g, struct error *e, const char **hint)
{
	struct chain *c = &g->chain;
	enum chain_what what = c->what;
	uint64_t id = g->operation.id;
	int rc;

	c->what = CHAIN_NONE;
	g->operation.state = OPERATION_NONE;
	if (what == CHAIN_MIGRATE)
		rc = guest_migrate_begin(g, c->to, &c->migrate, e, hint);
	else if (what == CHAIN_UPGRADE)
		rc = guest_upgrade(g, false, e, hint);
	else
		rc = guest_protect(g, c->to, &c->protect, e, hint);
	g->operation.id = id; /* to whoever waits it is one operation */
	return rc;
}

/* It stays where it is, or its twin does: as it was before. */
void guest_chain_undo(struct guest *g)
{
	struct protect_again *then = &g->chain.then;

	if (!then->wanted || g->own.state != OWN_ALONE || g->child_role != CHILD_VM)
		return;
	g->again = *then;
	g->again.owed = true;
	snprintf(g->again.peer, sizeof(g->again.peer), "%s", g->chain.standby);
	then->wanted = false;
	log_warn("%s: it is NOT protected now; it will be again on %s", g->name, g->again.peer);
	guest_again_soon(g);
}

/* True: the operation goes on with its next step. */
bool guest_chain_check(struct guest *g)
{
	const char *hint = NULL;
	struct error e = {0};
	int rc;

	if (g->chain.what == CHAIN_NONE)
		return false;
	if (g->own.state == OWN_PRIMARY)
		return true;
	if (g->own.state != OWN_ALONE) {
		g->chain.what = CHAIN_NONE;
		return false;
	}
	rc = chain_go(g, &e, &hint);
	if (rc) {
		g->operation.state = OPERATION_RUNNING;
		guest_operation_fail(g, rc, e.text, hint);
		guest_chain_undo(g);
	}
	return true;
}

bool guest_chain_owes(const struct guest *g)
{
	return g->upgrade && g->chain.then.wanted;
}

bool guest_chain_upgraded(struct guest *g)
{
	struct chain *c = &g->chain;
	uint64_t downtime_ns = g->operation.downtime_ns;

	if (!c->then.wanted)
		return false;
	g->operation.what = "protect"; /* if that fails before it begins, the upgrade did not */
	c->what = CHAIN_PROTECT;
	c->protect = c->then.options;
	snprintf(c->to, sizeof(c->to), "%s", c->standby);
	log_warn("%s: it is NOT protected yet; it will be on %s", g->name, c->to);
	(void)guest_chain_check(g);
	g->operation.downtime_ns = downtime_ns;
	return true;
}

/* It has arrived here, and was protected before. */
void guest_chain_arrived(struct guest *g, const struct protect_again *then)
{
	if (!then->wanted)
		return;
	g->again = *then;
	g->again.owed = true;
	g->chain.then.wanted = false;
	log_warn("%s: it is NOT protected yet; it will be on %s", g->name, g->again.peer);
	timeline_add(&g->timeline, "unprotected", "until %s has a copy", g->again.peer);
	guest_why(g, "it has arrived, and will be protected on %s", g->again.peer);
	guest_again_soon(g);
}

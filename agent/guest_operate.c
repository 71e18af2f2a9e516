// SPDX-License-Identifier: Apache-2.0
/* What an operator asks of a VM. Each call checks, begins, and returns; what becomes of
 * it is in g->operation, which guest_operation_check() settles as things happen. */
#include <errno.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE "guest"
#define QUICK_NS   (10 * NS_PER_SEC)
#define GO_ON_NS   QUICK_NS /* then the process has not answered either */

int guest_refuse(struct error *e, const char **hint, int rc, const char *hint_text, const char *fmt,
		 ...)
{
	char text[sizeof(e->text)];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	*hint = hint_text;
	return error_set(e, rc, "%s", text);
}

/* ---- the operation under way ------------------------------------------------------------ */

void guest_operation_begin(struct guest *g, const char *what)
{
	if (g->operation.state == OPERATION_RUNNING)
		guest_operation_fail(g, -ECANCELED, "another operation took its place", NULL);
	/* Who waits for it may not have looked yet. */
	if (g->operation.state != OPERATION_NONE)
		g->ended = g->operation;
	g->chain.what = CHAIN_NONE;
	g->operation = (struct operation){
		.id = ++g->agent->last_operation, .what = what, .state = OPERATION_RUNNING};
	log_info("%s: %s begins", g->name, what);
}

void guest_operation_done(struct guest *g)
{
	g->operation.state = OPERATION_DONE;
	log_info("%s: %s is done", g->name, g->operation.what);
}

void guest_operation_fail(struct guest *g, int code, const char *text, const char *hint)
{
	struct operation *o = &g->operation;

	if (o->state != OPERATION_RUNNING)
		return;
	g->chain.what = CHAIN_NONE;
	o->state = OPERATION_FAILED;
	o->code = code;
	snprintf(o->hint, sizeof(o->hint), "%s", hint ? hint : "");
	snprintf(o->error, sizeof(o->error), "%s", text);
	log_warn("%s: %s failed: %s", g->name, o->what, text);
}

void guest_operation_past(struct guest *g)
{
	if (g->operation.state == OPERATION_NONE || g->operation.state == OPERATION_RUNNING)
		return;
	g->ended = g->operation; /* for whoever waits for it */
	g->operation = (struct operation){0};
}

static void check_start(struct guest *g)
{
	if (g->child_role == CHILD_VM && g->child_state[0])
		guest_operation_done(g);
	else if (!g->child && g->own.state != OWN_ALONE)
		guest_operation_fail(g, -EIO, g->why, "see the log of polluxd");
}

static void check_protect(struct guest *g)
{
	if (guest_chain_check(g))
		return;
	if (g->own.state == OWN_PRIMARY && !strcmp(g->child_state, "protected")) {
		g->why[0] = '\0';
		guest_again_note(g);
		guest_operation_done(g);
	} else if (g->own.state != OWN_PRIMARY) {
		guest_operation_fail(g, -EIO, g->why[0] ? g->why : "the session ended",
				     "the VM runs on, unprotected");
		guest_chain_undo(g);
	}
}

bool guest_stands_still(const struct guest *g)
{
	return g->own.state == OWN_ALONE && g->child_role == CHILD_VM &&
	       (!strcmp(g->child_state, "lost") || !strcmp(g->child_state, "handed"));
}

bool guest_goes_on(const struct guest *g)
{
	return guest_stands_still(g) && !g->still && g->told_ns &&
	       clock_ns() - g->told_ns < GO_ON_NS;
}

/* By policy, or as it could not obey: it waits for a word. */
static bool is_stalled(const struct guest *g)
{
	return guest_stands_still(g) && !guest_goes_on(g);
}

static void check_unprotect(struct guest *g)
{
	if (guest_stands_still(g))
		return;
	if (g->own.state == OWN_ALONE) {
		guest_again_forget(g);
		guest_operation_done(g);
	} else if (g->own.state != OWN_PRIMARY) {
		guest_operation_fail(g, -EIO, g->why, "see `pollux status`");
	}
}

static void check_failover(struct guest *g)
{
	bool stays = g->own.state == OWN_ALONE && g->child_role == CHILD_VM;

	if (guest_stands_still(g) && g->still)
		guest_operation_fail(g, -EIO, g->why, "it is tried again; see `pollux status`");
	else if (stays && !guest_stands_still(g))
		guest_operation_done(g);
	else if (g->own.state == OWN_NONE || g->own.state == OWN_IDLE)
		guest_operation_fail(g, -EIO, g->why, "see the log of polluxd");
	/* In place of a migration that had taken its protection away. */
	if (g->operation.state != OPERATION_RUNNING)
		guest_chain_undo(g);
}

static void check_stop(struct guest *g)
{
	if (!g->child &&
	    (g->own.state == OWN_IDLE || g->own.state == OWN_NONE || g->own.state == OWN_RELEASED))
		guest_operation_done(g);
}

/* A failure of the processes was told when it was found out. */
static void check_upgrade(struct guest *g)
{
	if (guest_chain_check(g) || g->upgrade)
		return;
	if (g->own.state != OWN_ALONE) {
		guest_operation_fail(g, -EIO, g->why[0] ? g->why : "the session ended",
				     "see `pollux status`");
		g->chain.then.wanted = false; /* it was not taken away: g->again says so still */
	} else if (!guest_chain_upgraded(g)) {
		guest_operation_done(g);
	}
}

static const struct {
	const char *what;
	void (*check)(struct guest *g);
} checks[] = {
	{"start", check_start},
	{"protect", check_protect},
	{"unprotect", check_unprotect},
	{"failover", check_failover},
	{"stop", check_stop},
	{"migrate", guest_migrate_check},
	{"dump-core", guest_dump_check},
	{"save", guest_image_check},
	{"restore", check_start},
	{"snapshot", guest_image_check},
	{"rollback", check_start},
	{"upgrade", check_upgrade},
};

void guest_operation_check(struct guest *g)
{
	/* The guest is off, and nobody else may think that it died. */
	if (g->vm_ended && g->own.state == OWN_ALONE && !g->own.storing)
		guest_vm_end(g);
	if (g->operation.state != OPERATION_RUNNING || g->own.storing)
		return;
	for (size_t i = 0; i < ARRAY_LEN(checks); i++)
		if (!strcmp(checks[i].what, g->operation.what)) {
			checks[i].check(g);
			return;
		}
}

bool guest_operation_is(const struct guest *g, const char *what)
{
	return g->operation.state == OPERATION_RUNNING && !strcmp(g->operation.what, what);
}

int guest_busy(const struct guest *g, struct error *e, const char **hint)
{
	if (g->chain.cancelled)
		return guest_refuse(e, hint, -EBUSY, "try again in a moment",
				    "what was cancelled had begun to end the protection of %s, "
				    "which is made again when it has ended",
				    g->name);
	if (g->operation.state == OPERATION_RUNNING)
		return guest_refuse(e, hint, -EBUSY,
				    "wait for it, or look at it with `pollux status`",
				    "'%s' of %s is still under way", g->operation.what, g->name);
	/* What begins now would forget the protection that is owed for it. */
	if (guest_chain_owes(g))
		return guest_refuse(e, hint, -EBUSY, "try again in a moment",
				    "the upgrade of %s has failed, and its protection is to be "
				    "made again first",
				    g->name);
	return 0;
}

/* ---- start ---------------------------------------------------------------------------------- */

int guest_start_refused(struct guest *g, int rc, struct error *e, const char **hint)
{
	if (rc == -EAGAIN)
		return guest_refuse(
			e, hint, rc,
			"wait until the other host can be asked, or use --force if you are "
			"sure that the VM does not run there",
			"%s may have been taken over by %s, which cannot be asked now", g->name,
			g->peer);
	if (rc == -EBUSY)
		return guest_refuse(e, hint, rc, "stop it first",
				    "%s runs here already, or is a standby", g->name);
	return guest_refuse(
		e, hint, rc,
		"start it on the host that owns it; --force takes it over, at the risk that "
		"two copies run",
		"%s does not belong to this host: another host owns it", g->name);
}

int guest_of_config(struct agent *a, const char *text, const char *origin, struct guest **out,
		    struct error *e)
{
	struct vm_config *c;
	int rc = guest_config_parse(text, origin, &c, e);

	if (rc)
		return rc;
	*out = guest_find(a, c->name);
	if (!*out)
		rc = guest_create(a, c->name, out, e);
	if (!rc && (*out)->own.state == OWN_NEW)
		guest_feed_type(*out, OWN_EV_START);
	free(c);
	return rc;
}

/* Only for a VM that this host has never heard of: else it is the one of before. */
int guest_identity_draw(struct guest *g)
{
	uint8_t random[VM_IDENTITY_LEN / 2];

	if (g->own.record.term || g->own.state != OWN_NONE || g->identity[0])
		return 0;
	if (RAND_bytes(random, sizeof(random)) != 1)
		return -EIO;
	hex_encode(random, sizeof(random), g->identity);
	return 0;
}

int guest_start(struct agent *a, const char *config, const char *origin, bool forced,
		struct guest **out, struct error *e, const char **hint)
{
	struct guest *g;
	int rc;

	*hint = "see docs/vm-config.md";
	rc = guest_of_config(a, config, origin, &g, e);
	if (!rc)
		rc = guest_busy(g, e, hint);
	if (rc)
		return rc;
	if (g->child)
		return guest_start_refused(g, -EBUSY, e, hint);
	if (g->torn && !forced)
		return guest_refuse(e, hint, -EPERM,
				    "roll it back once more: `pollux rollback`; --force starts it "
				    "from what its disks are",
				    "the disks of %s are half those of the snapshot '%s'", g->name,
				    g->torn);
	rc = guest_identity_draw(g);
	if (rc)
		return error_set(e, rc, "OpenSSL has no random numbers");
	/* Stored with the new term: the file that a later start of polluxd will know. */
	rc = guest_config_set(g, config, origin);
	if (rc)
		return error_set(e, rc, "out of memory");
	guest_operation_begin(g, "start");
	rc = guest_ask_ownership(g,
				 &(struct ownership_input){.type = OWN_EV_RUN, .forced = forced});
	if (rc) {
		g->operation.state = OPERATION_NONE;
		return guest_start_refused(g, rc, e, hint);
	}
	*out = g;
	return 0;
}

/* ---- protect ----------------------------------------------------------------------------------
 */

int guest_peer_ready(struct guest *g, const char *to, struct error *e, const char **hint)
{
	struct peer *p = peers_find(g->agent->peers, to);

	if (!strcmp(to, g->agent->config.name))
		return guest_refuse(e, hint, -ENOENT, "`pollux list --peers` shows the others",
				    "%.64s is this host", to);
	if (!p)
		return guest_refuse(e, hint, -ENOENT, "`pollux list --peers` shows those that are",
				    "%.64s is not a peer in the configuration of this host", to);
	if (!peer_is_up(p))
		return guest_refuse(
			e, hint, -ENOTCONN,
			"is polluxd running there? do address, port and certificates fit?",
			"%s is not connected: %s", to, peer_why(p));
	return 0;
}

int guest_protect(struct guest *g, const char *to, const struct protect_options *o, struct error *e,
		  const char **hint)
{
	int rc;

	rc = guest_busy(g, e, hint);
	if (!rc)
		rc = guest_peer_ready(g, to, e, hint);
	if (rc)
		return rc;
	if (g->own.state == OWN_PRIMARY && strcmp(to, g->peer) != 0 &&
	    !strcmp(g->child_state, "protected"))
		return guest_standby_move(g, to, o, e, hint);
	if (g->own.state == OWN_PRIMARY)
		return guest_refuse(e, hint, -EALREADY, "unprotect it first",
				    "%s is protected on %s", g->name, g->peer);
	if (g->own.state != OWN_ALONE || g->child_role != CHILD_VM || g->vm_ended)
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    "%s does not run on this host", g->name);
	if (g->postcopy[0])
		return guest_refuse(e, hint, -EBUSY,
				    "try again when `pollux status` shows it complete",
				    "a part of the memory of %s is on its way still", g->name);
	guest_peer_set(g, to);
	guest_policy_set(g, o->policy);
	rc = guest_session_make(g, o, e);
	if (rc)
		return rc;
	g->copies = session_disks_copied(o);
	g->why[0] = '\0';
	timeline_add(&g->timeline, "protect asked", "on %s, mode %s", to, o->mode);
	guest_operation_begin(g, "protect");
	rc = guest_ask_ownership(g, &(struct ownership_input){.type = OWN_EV_PROTECT});
	if (rc)
		guest_operation_fail(g, rc, strerror(-rc), NULL);
	guest_operation_check(g);
	return rc ? error_set(e, rc, "%s cannot be protected now: %s", g->name, strerror(-rc)) : 0;
}

/* ---- upgrade --------------------------------------------------------------------------------
 */

int guest_upgrade(struct guest *g, bool again, struct error *e, const char **hint)
{
	int rc = guest_busy(g, e, hint);

	if (rc)
		return rc;
	if (again && guest_is_protected(g))
		return guest_chain_upgrade(g, e, hint);
	if (g->own.state == OWN_PRIMARY || g->own.state == OWN_ASKING || guest_stands_still(g))
		return guest_refuse(
			e, hint, -EPERM,
			"unprotect it first, and protect it again afterwards; or --protect-again "
			"does both",
			"%s is protected, and its twin follows the old process", g->name);
	if (g->own.state != OWN_ALONE || g->child_role != CHILD_VM || !g->child_state[0] ||
	    g->vm_ended || g->stopping)
		return guest_refuse(
			e, hint, -EPERM,
			g->child_role == CHILD_REPLICA
				? "only a VM that runs is upgraded; a twin is made anew by "
				  "the next protect"
				: "`pollux list` shows what runs",
			"%s does not run on this host", g->name);
	if (g->upgrade)
		return guest_refuse(e, hint, -EBUSY, "try again in a moment",
				    "the last upgrade of %s is not over yet", g->name);
	guest_operation_begin(g, "upgrade");
	rc = guest_upgrade_begin(g, e);
	if (rc)
		g->operation.state = OPERATION_NONE;
	*hint = "is vm_program of polluxd's configuration right?";
	return rc;
}

/* ---- unprotect
 * ----------------------------------------------------------------------------------- */

static void unprotected(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE)
		return;
	if (rc && guest_operation_is(g, "unprotect"))
		guest_operation_fail(g, rc, text, "see `pollux status`");
	if (rc)
		return;
	if (!guest_session_ended(g, reply))
		return;
	g->why[0] = '\0';
	guest_again_forget(g);
	timeline_add(&g->timeline, "unprotected", "by the operator");
	guest_session_over(g);
}

int guest_unprotect(struct guest *g, struct error *e, const char **hint)
{
	if (g->operation.state == OPERATION_RUNNING && strcmp(g->operation.what, "protect") != 0)
		return guest_busy(g, e, hint);
	if (g->own.state == OWN_STANDBY)
		return guest_refuse(e, hint, -EPERM, "unprotect it on the host where it runs",
				    "%s runs on %s; the twin is here", g->name, g->peer);
	if (g->own.state == OWN_ASKING)
		return guest_refuse(
			e, hint, -EPERM,
			"repair the link or the fence, or `pollux failover --force` to go on "
			"alone",
			"the standby of %s is lost, and may take over", g->name);
	if (g->own.state != OWN_PRIMARY && !is_stalled(g) &&
	    !(g->own.state == OWN_ALONE && g->again.wanted))
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    "%s is not protected from this host", g->name);
	guest_operation_begin(g, "unprotect");
	if (g->own.state == OWN_ALONE && !is_stalled(g)) {
		g->why[0] = '\0';
		guest_operation_check(g);
		return 0;
	}
	guest_session_end(g, unprotected);
	return 0;
}

/* ---- failover
 * -------------------------------------------------------------------------------------- */

static int promote_forced(struct guest *g, struct error *e, const char **hint)
{
	bool replica = g->own.state == OWN_STANDBY || g->own.state == OWN_DECIDING;
	int rc;

	timeline_add(&g->timeline, "failover forced", "by the operator");
	guest_operation_begin(g, "failover");
	rc = guest_ask_ownership(
		g, &(struct ownership_input){.type = replica ? OWN_EV_PROMOTE : OWN_EV_GO_ON,
					     .forced = true});
	if (!rc)
		return 0;
	g->operation.state = OPERATION_NONE;
	return guest_refuse(
		e, hint, rc, "`pollux status` says how it is",
		rc == -EAGAIN ? "the twin of %s holds no whole epoch yet: there is nothing to "
				"promote"
			      : "%s cannot be promoted now",
		g->name);
}

int guest_failover(struct guest *g, bool forced, struct error *e, const char **hint)
{
	enum ownership_state s = g->own.state;

	if (forced && guest_stands_still(g)) {
		guest_operation_begin(g, "failover");
		g->why[0] = '\0';
		timeline_add(&g->timeline, "failover forced", "by the operator");
		guest_ownership_tell(g, "forced");
		return 0;
	}
	if (s != OWN_STANDBY && s != OWN_DECIDING && s != OWN_ASKING && s != OWN_HANDED)
		return guest_refuse(e, hint, -EPERM, "run it on the standby's host",
				    "there is no twin of %s on this host that could take over",
				    g->name);
	if (forced)
		return promote_forced(g, e, hint);
	return guest_refuse(
		e, hint, -EPERM,
		"make sure that the VM is dead on the other host, then use --force: if it "
		"still runs there, two copies answer clients and write disks, and what one "
		"of them acknowledged will be lost",
		"%s: no fence has confirmed that %s is off%s%s", g->name, g->peer,
		g->why[0] ? ": " : "", g->why);
}

/* ---- stop
 * -------------------------------------------------------------------------------------------- */

static void stop_late(void *ctx)
{
	struct guest *g = ctx;

	if (guest_operation_is(g, "stop"))
		guest_operation_fail(
			g, -ETIMEDOUT, "the guest has not shut down in time",
			"it may not heed its power button: `pollux stop --force` pulls the "
			"plug");
}

static void shutdown_asked(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc && rc != -EPIPE && guest_operation_is(g, "stop"))
		guest_operation_fail(g, rc, text, "`pollux stop --force` pulls the plug");
}

static void session_over_then_kill(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc == -EPIPE)
		return;
	if (rc) {
		g->stopping = false;
		guest_operation_fail(g, rc, text, "the standby may take over; see `pollux status`");
		return;
	}
	if (guest_session_ended(g, reply))
		guest_session_over(g);
	if (g->own.state == OWN_ALONE)
		guest_vm_kill(g);
}

static int stop_by_force(struct guest *g, struct error *e, const char **hint)
{
	if (g->own.state == OWN_HANDED)
		return guest_refuse(e, hint, -EPERM,
				    "stop it there, or `pollux failover --force` here first",
				    "%s has been handed over to %s", g->name, g->peer);
	if (g->own.state == OWN_ASKING)
		return guest_refuse(
			e, hint, -EPERM,
			"`pollux failover --force` first: this host then goes on alone",
			"the standby of %s is lost, and would take it for dead and take over",
			g->name);
	guest_operation_begin(g, "stop");
	if (g->stop_timer)
		loop_timer_set(g->stop_timer, 0);
	g->stopping = true;
	if (g->own.state == OWN_PRIMARY || g->own.state == OWN_FREEZING)
		guest_session_end(g, session_over_then_kill);
	else
		guest_vm_kill(g);
	return 0;
}

static int stop_timer_set(struct guest *g, unsigned timeout_s)
{
	int rc = 0;

	if (!g->stop_timer)
		rc = loop_timer(g->agent->loop, stop_late, g, &g->stop_timer);
	if (!rc)
		loop_timer_set(g->stop_timer, clock_ns() + timeout_s * NS_PER_SEC);
	return rc;
}

int guest_stop(struct guest *g, bool forced, unsigned timeout_s, struct error *e, const char **hint)
{
	int rc;

	if (!forced && strcmp(g->operation.what ? g->operation.what : "", "stop") != 0) {
		rc = guest_busy(g, e, hint);
		if (rc)
			return rc;
	}
	if (forced && g->child_role == CHILD_SERVING) {
		guest_operation_begin(g, "stop");
		guest_serving_give_up(g);
		return 0;
	}
	if (g->child_role != CHILD_VM)
		return guest_refuse(e, hint, -EPERM,
				    g->child_role == CHILD_REPLICA
					    ? "stop it on the host where it runs"
					    : "`pollux list` shows what runs",
				    "%s does not run on this host", g->name);
	if (forced)
		return stop_by_force(g, e, hint);
	/* The guest cannot heed it now, and must not later, when its memory has come. */
	if (guest_memory_missing(g))
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how much is missing",
				    "%s stands still, for a part of its memory is missing here, "
				    "and the link to %s was cut: `pollux migrate %s --recover` on "
				    "%s goes on; if that is lost, `pollux stop %s --force` here",
				    g->name, g->peer, g->name, g->peer, g->name);
	rc = stop_timer_set(g, timeout_s);
	if (rc)
		return error_set(e, rc, "cannot make a timer: %s", strerror(-rc));
	guest_operation_begin(g, "stop");
	timeline_add(&g->timeline, "stop asked", "power button");
	guest_child_ask(g, json_pack("{s:s}", "do", "shutdown"), QUICK_NS, shutdown_asked);
	return 0;
}

/* ---- the guest turned itself off
 * ------------------------------------------------------------------------ */

/* pollux-vm has ended the session before it says that the guest is off, if it could. */
static void session_after_end(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	const json_t *stats = json_object_get(reply, "stats");
	bool over = !rc && !strcmp(json_text_of(stats, "state"), "unprotected");

	if (rc == -EPIPE)
		return;
	guest_feed(g, &(struct ownership_input){
			      .type = over ? OWN_EV_SESSION_OVER : OWN_EV_SESSION_LOST,
			      .term = (uint64_t)json_integer_of(reply, "term",
								(json_int_t)g->own.record.term)});
}

void guest_vm_ended(struct guest *g)
{
	g->vm_ended = true;
	if (g->stop_timer)
		loop_timer_set(g->stop_timer, 0);
	if (g->own.state == OWN_PRIMARY || g->own.state == OWN_FREEZING)
		guest_child_ask(g,
				json_pack("{s:s, s:I}", "do", "stats", "term",
					  (json_int_t)g->own.record.term),
				QUICK_NS, session_after_end);
	guest_operation_check(g);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>

#include "replicate/core_util.h"

/*
 * Why output never contradicts a failover (I1)
 *
 *   Output made after the seal of epoch n belongs to epoch n + 1 or a later one, as
 *   the outputs are sealed inside the pause. It leaves by RELEASE, which follows ACK
 *   alone, which the standby sends when it holds that epoch whole; or by PASS.
 *   PASS follows one of: no epoch was ever sent whole (`exposed` is false, it is set
 *   before the first SEND), BYE was acknowledged (the replica is RELEASED and refuses
 *   to promote), or ownership was confirmed after the loss. Loss is for good: once
 *   LOST, a late ACK releases nothing.
 *
 *   A handover ends in a pause that nobody but ownership ends: from its seal on the guest
 *   makes no output here. HANDED is left by an answer alone; the link means nothing then.
 */

static const unsigned event_states[PRIMARY_EVENTS] = {
#define LIVE (BIT(PRIMARY_SYNCING) | BIT(PRIMARY_PROTECTED) | BIT(PRIMARY_STOPPING))
#define CLOSED                                                                                     \
	(BIT(PRIMARY_HANDED) | BIT(PRIMARY_LOST) | BIT(PRIMARY_UNPROTECTED) | BIT(PRIMARY_FENCED))
	[PRIMARY_EV_START] = BIT(PRIMARY_IDLE),
	[PRIMARY_EV_CONNECTED] = BIT(PRIMARY_CONNECTING),
	[PRIMARY_EV_REFUSED] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_SYNCED] = LIVE | CLOSED,
	[PRIMARY_EV_OUTPUT] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_SEALED] = LIVE | CLOSED,
	[PRIMARY_EV_SEAL_FAILED] = LIVE | CLOSED,
	[PRIMARY_EV_SENT] = LIVE | CLOSED,
	[PRIMARY_EV_ACK] = LIVE | CLOSED,
	[PRIMARY_EV_HEARD] = LIVE | CLOSED,
	[PRIMARY_EV_LINK_LOST] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_TICK] = BIT(PRIMARY_IDLE) | BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_OWNED] = BIT(PRIMARY_LOST) | BIT(PRIMARY_HANDED),
	[PRIMARY_EV_OWNED_FORCED] = BIT(PRIMARY_LOST) | BIT(PRIMARY_HANDED),
	[PRIMARY_EV_DISOWNED] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_STOP] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_GUEST_ENDED] = BIT(PRIMARY_CONNECTING) | LIVE | CLOSED,
	[PRIMARY_EV_BYE_ACKED] = BIT(PRIMARY_STOPPING),
};

static const unsigned next_states[PRIMARY_STATES] = {
	[PRIMARY_IDLE] = BIT(PRIMARY_CONNECTING),
	[PRIMARY_CONNECTING] = BIT(PRIMARY_SYNCING) | (CLOSED & ~BIT(PRIMARY_HANDED)),
	[PRIMARY_SYNCING] = BIT(PRIMARY_PROTECTED) | BIT(PRIMARY_STOPPING) | CLOSED,
	[PRIMARY_HANDED] = BIT(PRIMARY_UNPROTECTED) | BIT(PRIMARY_FENCED),
	[PRIMARY_PROTECTED] = BIT(PRIMARY_STOPPING) | BIT(PRIMARY_LOST) | BIT(PRIMARY_FENCED),
	[PRIMARY_STOPPING] = CLOSED & ~BIT(PRIMARY_HANDED),
	[PRIMARY_LOST] = BIT(PRIMARY_UNPROTECTED) | BIT(PRIMARY_FENCED),
	[PRIMARY_UNPROTECTED] = BIT(PRIMARY_FENCED),
	[PRIMARY_FENCED] = 0,
};

#define SEAL_FAILURES_MAX     3
#define HANDOVER_FAILURES_MAX 8 /* disks may be slow for a moment */

bool primary_core_allows(enum primary_state state, enum primary_event event)
{
	return event_states[event] & BIT(state);
}

bool primary_core_may_become(enum primary_state from, enum primary_state to)
{
	return next_states[from] & BIT(to);
}

enum replicator_state primary_core_report(const struct primary_core *c)
{
	static const enum replicator_state outside[] = {
		[PRIMARY_IDLE] = REPLICATOR_CONNECTING,
		[PRIMARY_CONNECTING] = REPLICATOR_CONNECTING,
		[PRIMARY_SYNCING] = REPLICATOR_SYNCING,
		[PRIMARY_PROTECTED] = REPLICATOR_PROTECTED,
		[PRIMARY_HANDED] = REPLICATOR_HANDED,
		[PRIMARY_LOST] = REPLICATOR_LOST,
		[PRIMARY_UNPROTECTED] = REPLICATOR_UNPROTECTED,
		[PRIMARY_FENCED] = REPLICATOR_FENCED,
	};

	if (c->state == PRIMARY_STOPPING)
		return c->acknowledged ? REPLICATOR_PROTECTED : REPLICATOR_SYNCING;
	if (c->state == PRIMARY_SYNCING && c->config.handover && c->exposed)
		return REPLICATOR_FREEZING;
	return outside[c->state];
}

static void report(struct primary_core *c, struct core_actions *out, const char *why)
{
	struct core_action *a = core_act(out, PRIMARY_REPORT);

	a->state = (int)primary_core_report(c);
	a->why = why;
}

static void enter(struct primary_core *c, enum primary_state next, struct core_actions *out,
		  const char *why)
{
	assert(primary_core_may_become(c->state, next));
	c->state = next;
	report(c, out, why);
}

static bool state_is_live(enum primary_state s)
{
	return LIVE & BIT(s);
}

/* ---- ends ---------------------------------------------------------------- */

static void resume(struct primary_core *c, struct core_actions *out)
{
	if (c->stalled)
		core_act(out, PRIMARY_RESUME);
	c->stalled = false;
}

static void pass(struct primary_core *c, struct core_actions *out, const char *why)
{
	c->holding = false;
	core_act(out, PRIMARY_PASS);
	resume(c, out);
	enter(c, PRIMARY_UNPROTECTED, out, why);
}

/* The order: first nothing more comes in or leaves, then the guest is stopped, then
 * somebody is asked. */
static void ask(struct primary_core *c, struct core_actions *out, const char *why)
{
	core_act(out, PRIMARY_CLOSE);
	if (!c->holding)
		core_act_epoch(out, PRIMARY_HOLD, c->sealed + 1);
	c->holding = true;
	if (c->config.policy == STANDBY_LOSS_STALL) {
		core_act(out, PRIMARY_STALL);
		c->stalled = true;
	}
	enter(c, PRIMARY_LOST, out, why);
	core_act(out, PRIMARY_ASK)->why = why;
}

static void lose(struct primary_core *c, struct core_actions *out, const char *why)
{
	if (c->stop_why)
		why = c->stop_why;
	if (c->exposed || c->config.held) {
		ask(c, out, why);
		return;
	}
	core_act(out, PRIMARY_CLOSE);
	pass(c, out, why);
}

static void stop(struct primary_core *c, uint64_t now, struct core_actions *out, const char *why)
{
	c->stop = true;
	if (c->state == PRIMARY_CONNECTING) {
		lose(c, out, why);
	} else if (c->state == PRIMARY_LOST && c->owned) {
		pass(c, out, why);
	} else if (c->state == PRIMARY_SYNCING || c->state == PRIMARY_PROTECTED) {
		c->asked_at = now;
		c->state = PRIMARY_STOPPING;
		core_act(out, PRIMARY_BYE);
	}
}

/* ---- epochs ---------------------------------------------------------------- */

static struct policy_view view(const struct primary_core *c)
{
	return (struct policy_view){
		.interval_ns = c->config.interval_ns,
		.opened_at = c->sealed ? c->sealed_at[c->sealed % CORE_WINDOW_MAX] : 0,
		.output = c->output,
		.in_flight = (unsigned)(c->sealed - c->acknowledged),
		.window = c->config.window,
	};
}

/* Epoch 1 is sealed as soon as the copy is done; the next ones wait for its
 * acknowledgement and then for the policy. */
static uint64_t seal_at(const struct primary_core *c)
{
	struct policy_view v = view(c);

	if (c->sealing)
		return POLICY_NEVER;
	if (c->state == PRIMARY_SYNCING)
		return c->synced && c->sealed == 0 ? c->seal_after : POLICY_NEVER;
	if (c->state == PRIMARY_PROTECTED)
		return core_later(policy_seal_at(c->config.mode, &v), c->seal_after);
	return POLICY_NEVER;
}

static void seal_if_due(struct primary_core *c, uint64_t now, struct core_actions *out)
{
	struct core_action *a;

	if (seal_at(c) > now)
		return;
	c->sealing = true;
	c->output = false;
	a = core_act(out, PRIMARY_SEAL);
	a->epoch = c->sealed + 1;
	a->hold = !c->holding;
}

static void heard(struct primary_core *c, uint64_t now)
{
	c->heard_at = now;
	c->indulged = false;
}

/* ---- events ---------------------------------------------------------------- */

typedef int event_fn(struct primary_core *c, const struct primary_input *in,
		     struct core_actions *out);

static int on_start(struct primary_core *c, const struct primary_input *in,
		    struct core_actions *out)
{
	c->asked_at = in->now;
	c->holding = c->stalled = c->config.held;
	if (c->config.held)
		core_act_epoch(out, PRIMARY_HOLD, 1);
	enter(c, PRIMARY_CONNECTING, out, NULL);
	core_act(out, PRIMARY_CONNECT);
	return 0;
}

static int on_connected(struct primary_core *c, const struct primary_input *in,
			struct core_actions *out)
{
	heard(c, in->now);
	enter(c, PRIMARY_SYNCING, out, NULL);
	core_act(out, PRIMARY_COPY);
	return 0;
}

/* A refusal for a newer term means that output may already be somebody else's to
 * make: hold it and ask, also when nothing was ever protected. */
static int on_refused(struct primary_core *c, const struct primary_input *in,
		      struct core_actions *out)
{
	const char *why = in->why ? in->why : "the standby refused the session";

	if (CLOSED & BIT(c->state))
		return 0;
	if (in->newer_term)
		ask(c, out, why);
	else
		lose(c, out, why);
	return 0;
}

static int on_synced(struct primary_core *c, const struct primary_input *in,
		     struct core_actions *out)
{
	c->synced = true;
	seal_if_due(c, in->now, out);
	return 0;
}

static int on_output(struct primary_core *c, const struct primary_input *in,
		     struct core_actions *out)
{
	c->output = true;
	seal_if_due(c, in->now, out);
	return 0;
}

/* A seal can end after the session did. It has sealed (or begun to hold) the outputs
 * and let the vCPUs run, so that the verdict is spoken again. */
static void repeat_verdict(struct primary_core *c, struct core_actions *out)
{
	if (c->state == PRIMARY_UNPROTECTED) {
		core_act(out, PRIMARY_PASS);
		resume(c, out);
	} else if (c->state == PRIMARY_FENCED)
		core_act(out, PRIMARY_STOP_VCPUS);
	else if (c->state == PRIMARY_LOST && c->stalled)
		core_act(out, PRIMARY_STALL);
}

static int on_sealed(struct primary_core *c, const struct primary_input *in,
		     struct core_actions *out)
{
	if (!c->sealing || in->epoch != c->sealed + 1)
		return -EINVAL;
	c->sealing = false;
	c->sealed = in->epoch;
	c->sealed_at[c->sealed % CORE_WINDOW_MAX] = in->now;
	c->seal_failures = 0;
	c->stalled |= c->config.handover;
	if (c->state != PRIMARY_SYNCING && c->state != PRIMARY_PROTECTED) {
		repeat_verdict(c, out);
		return 0;
	}
	c->holding = true;
	c->exposed = true;
	core_act_epoch(out, PRIMARY_SEND, c->sealed);
	if (c->config.handover)
		report(c, out, NULL);
	seal_if_due(c, in->now, out);
	return 0;
}

/* A handover is tried again when whoever decides about rounds says so. */
static int on_seal_failed(struct primary_core *c, const struct primary_input *in,
			  struct core_actions *out)
{
	unsigned most = c->config.handover ? HANDOVER_FAILURES_MAX : SEAL_FAILURES_MAX;

	if (!c->sealing || in->epoch != c->sealed + 1)
		return -EINVAL;
	c->sealing = false;
	c->output = true;
	core_act(out, PRIMARY_MERGE);
	c->seal_after = in->now + c->config.interval_ns;
	c->synced = !c->config.handover;
	if (c->state != PRIMARY_SYNCING && c->state != PRIMARY_PROTECTED) {
		repeat_verdict(c, out);
	} else if (++c->seal_failures >= most) {
		c->stop_why = in->why ? in->why : "no checkpoint can be taken";
		stop(c, in->now, out, c->stop_why);
	}
	return 0;
}

static int on_sent(struct primary_core *c, const struct primary_input *in, struct core_actions *out)
{
	if (in->epoch <= c->sent || in->epoch > c->sealed)
		return -EINVAL;
	c->sent = in->epoch;
	return 0;
}

/* Not after BYE: it was sent, and the standby will not be promoted. */
static void hand_over(struct primary_core *c, struct core_actions *out)
{
	if (c->state == PRIMARY_SYNCING)
		enter(c, PRIMARY_HANDED, out, NULL);
}

static int on_ack(struct primary_core *c, const struct primary_input *in, struct core_actions *out)
{
	if (CLOSED & BIT(c->state))
		return 0;
	if (in->epoch <= c->acknowledged || in->epoch > c->sealed)
		return -EINVAL;
	heard(c, in->now);
	c->acknowledged = in->epoch;
	if (c->config.handover) {
		hand_over(c, out);
		return 0;
	}
	core_act_epoch(out, PRIMARY_RELEASE, in->epoch);
	if (c->state == PRIMARY_SYNCING) {
		resume(c, out);
		enter(c, PRIMARY_PROTECTED, out, NULL);
	}
	seal_if_due(c, in->now, out);
	return 0;
}

static int on_heard(struct primary_core *c, const struct primary_input *in,
		    struct core_actions *out)
{
	heard(c, in->now);
	return 0;
}

static int on_link_lost(struct primary_core *c, const struct primary_input *in,
			struct core_actions *out)
{
	if (!(CLOSED & BIT(c->state)))
		lose(c, out, in->why ? in->why : "the link to the standby is lost");
	return 0;
}

/* When silence, or a missing answer, becomes a loss. */
static uint64_t loss_at(const struct primary_core *c, const char **why)
{
	uint64_t at = UINT64_MAX, answer = UINT64_MAX;

	if (state_is_live(c->state))
		at = c->heard_at + c->config.loss_ns;
	if (c->state == PRIMARY_CONNECTING)
		answer = c->asked_at + c->config.ack_ns;
	else if (c->state == PRIMARY_STOPPING)
		answer = c->asked_at + c->config.bye_ns;
	else if (state_is_live(c->state) && c->acknowledged < c->sealed)
		answer = c->sealed_at[(c->acknowledged + 1) % CORE_WINDOW_MAX] + c->config.ack_ns;
	*why = at <= answer ? "the standby is silent" : "the standby does not answer in time";
	return core_later(core_earlier(at, answer), c->forgive_until);
}

static int on_tick(struct primary_core *c, const struct primary_input *in, struct core_actions *out)
{
	struct core_silence s = {c->config.loss_ns, c->config.heartbeat_ns, &c->seen_at,
				 &c->forgive_until, &c->indulged};
	const char *why;

	if (core_tick_judges(s, in->now) && loss_at(c, &why) <= in->now)
		lose(c, out, why);
	else
		seal_if_due(c, in->now, out);
	return 0;
}

/* The answer may come twice, as whoever gives it may restart in between. The policy is
 * about the loss of a standby: a migration that fails is none. */
static int on_owned(struct primary_core *c, const struct primary_input *in,
		    struct core_actions *out)
{
	bool again = c->owned;

	c->owned = true;
	if (c->state == PRIMARY_HANDED)
		core_act(out, PRIMARY_CLOSE);
	if (c->config.handover || c->config.policy == STANDBY_LOSS_CONTINUE || c->stop)
		pass(c, out, "ownership is confirmed");
	else if (!again)
		report(c, out, "stalled until the standby returns or an operator decides");
	return 0;
}

static int on_owned_forced(struct primary_core *c, const struct primary_input *in,
			   struct core_actions *out)
{
	if (c->state == PRIMARY_HANDED)
		core_act(out, PRIMARY_CLOSE);
	pass(c, out, c->config.handover ? "it goes on here" : "an operator decided");
	return 0;
}

static int on_disowned(struct primary_core *c, const struct primary_input *in,
		       struct core_actions *out)
{
	if (c->state == PRIMARY_FENCED)
		return 0;
	core_act(out, PRIMARY_CLOSE);
	if (!c->holding)
		core_act_epoch(out, PRIMARY_HOLD, c->sealed + 1);
	core_act(out, PRIMARY_STOP_VCPUS);
	c->holding = true;
	enter(c, PRIMARY_FENCED, out, "a newer term owns the vm");
	return 0;
}

static int on_stop(struct primary_core *c, const struct primary_input *in, struct core_actions *out)
{
	if (!c->stop)
		c->stop_why = in->why;
	stop(c, in->now, out, "ended in good order");
	return 0;
}

static int on_bye_acked(struct primary_core *c, const struct primary_input *in,
			struct core_actions *out)
{
	core_act(out, PRIMARY_CLOSE);
	pass(c, out, c->stop_why ? c->stop_why : "ended in good order");
	return 0;
}

static event_fn *const handlers[PRIMARY_EVENTS] = {
	[PRIMARY_EV_START] = on_start,
	[PRIMARY_EV_CONNECTED] = on_connected,
	[PRIMARY_EV_REFUSED] = on_refused,
	[PRIMARY_EV_SYNCED] = on_synced,
	[PRIMARY_EV_OUTPUT] = on_output,
	[PRIMARY_EV_SEALED] = on_sealed,
	[PRIMARY_EV_SEAL_FAILED] = on_seal_failed,
	[PRIMARY_EV_SENT] = on_sent,
	[PRIMARY_EV_ACK] = on_ack,
	[PRIMARY_EV_HEARD] = on_heard,
	[PRIMARY_EV_LINK_LOST] = on_link_lost,
	[PRIMARY_EV_TICK] = on_tick,
	[PRIMARY_EV_OWNED] = on_owned,
	[PRIMARY_EV_OWNED_FORCED] = on_owned_forced,
	[PRIMARY_EV_DISOWNED] = on_disowned,
	[PRIMARY_EV_STOP] = on_stop,
	[PRIMARY_EV_GUEST_ENDED] = on_stop,
	[PRIMARY_EV_BYE_ACKED] = on_bye_acked,
};

int primary_core_init(struct primary_core *c, const struct primary_config *config)
{
	if (config->window < 1 || config->window > CORE_WINDOW_MAX || config->loss_ns == 0 ||
	    config->ack_ns == 0 || config->bye_ns == 0 || config->interval_ns == 0 ||
	    config->heartbeat_ns >= config->loss_ns || config->mode > REPLICATE_EVENT ||
	    config->policy > STANDBY_LOSS_STALL)
		return -EINVAL;
	*c = (struct primary_core){.config = *config};
	return 0;
}

int primary_core_event(struct primary_core *c, const struct primary_input *in,
		       struct core_actions *out)
{
	struct primary_input fair = *in;
	int rc;

	out->count = 0;
	if ((unsigned)in->type >= PRIMARY_EVENTS)
		return -EINVAL;
	if (!primary_core_allows(c->state, in->type))
		return -EPROTO;
	fair.now = core_later(in->now, c->seen_at);
	rc = handlers[in->type](c, &fair, out);
	if (rc == 0)
		c->seen_at = fair.now;
	return rc;
}

uint64_t primary_core_deadline(const struct primary_core *c)
{
	const char *why;

	if (c->state != PRIMARY_CONNECTING && !state_is_live(c->state))
		return UINT64_MAX;
	return core_earlier(core_earlier(loss_at(c, &why), seal_at(c)),
			    c->seen_at + c->config.loss_ns / 4);
}

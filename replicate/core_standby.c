// SPDX-License-Identifier: Apache-2.0
#include <errno.h>

#include "replicate/core_util.h"

/*
 * Why the twin is always one whole epoch (I2)
 *
 *   An epoch is whole when every stream has ended it, and each stream's records were
 *   checked before its END is fed. Streams do not wait for each other, so one may be
 *   an epoch ahead: what it brings is staged under its own number. Only whole epochs
 *   are committed, in order, one at a time; promotion waits for the commit that runs,
 *   commits the other whole ones, and discards the rest.
 *
 * Why a promotion contains every output that has left (I1)
 *
 *   ACK follows whole, and whole epochs are all committed before LOAD. From LOST and
 *   PROMOTING on nothing is acknowledged, so that no output leaves which comes later.
 */

static const unsigned event_states[STANDBY_EVENTS] = {
#define ANY     (BIT(STANDBY_STATES) - 1)
#define OPEN    (BIT(STANDBY_SYNCING) | BIT(STANDBY_READY))
#define WORKING (BIT(STANDBY_READY) | BIT(STANDBY_LOST) | BIT(STANDBY_PROMOTING))
#define ENDED   (BIT(STANDBY_RELEASED) | BIT(STANDBY_BROKEN))
	[STANDBY_EV_CONNECTED] = BIT(STANDBY_WAITING),
	[STANDBY_EV_BEGIN] = OPEN,
	[STANDBY_EV_DATA] = OPEN,
	[STANDBY_EV_END] = OPEN,
	[STANDBY_EV_BYE] = BIT(STANDBY_WAITING) | OPEN,
	[STANDBY_EV_HEARD] = ANY,
	[STANDBY_EV_COMMITTED] = WORKING | ENDED,
	[STANDBY_EV_COMMIT_FAILED] = WORKING | ENDED,
	[STANDBY_EV_BAD_INPUT] = ANY,
	[STANDBY_EV_LINK_LOST] = ANY,
	[STANDBY_EV_TICK] = ANY,
	[STANDBY_EV_PROMOTE] = BIT(STANDBY_READY) | BIT(STANDBY_LOST),
	[STANDBY_EV_LOADED] = BIT(STANDBY_PROMOTING),
	[STANDBY_EV_LOAD_FAILED] = BIT(STANDBY_PROMOTING),
};

static const unsigned next_states[STANDBY_STATES] = {
	[STANDBY_WAITING] = BIT(STANDBY_SYNCING) | BIT(STANDBY_LOST) | ENDED,
	[STANDBY_SYNCING] = BIT(STANDBY_READY) | BIT(STANDBY_LOST) | ENDED,
	[STANDBY_READY] = BIT(STANDBY_LOST) | BIT(STANDBY_PROMOTING) | ENDED,
	[STANDBY_LOST] = BIT(STANDBY_PROMOTING) | BIT(STANDBY_BROKEN),
	[STANDBY_PROMOTING] = BIT(STANDBY_PROMOTED) | BIT(STANDBY_BROKEN),
};

bool standby_core_allows(enum standby_state state, enum standby_event event)
{
	return event_states[event] & BIT(state);
}

bool standby_core_may_become(enum standby_state from, enum standby_state to)
{
	return next_states[from] & BIT(to);
}

bool standby_core_direct(const struct standby_core *c, uint64_t epoch)
{
	return c->whole == 0 && epoch == 1;
}

enum replica_state standby_core_report(const struct standby_core *c)
{
	static const enum replica_state outside[] = {
		[STANDBY_WAITING] = REPLICA_WAITING,   [STANDBY_SYNCING] = REPLICA_SYNCING,
		[STANDBY_READY] = REPLICA_READY,       [STANDBY_LOST] = REPLICA_LOST,
		[STANDBY_PROMOTING] = REPLICA_LOST,    [STANDBY_PROMOTED] = REPLICA_PROMOTED,
		[STANDBY_RELEASED] = REPLICA_RELEASED, [STANDBY_BROKEN] = REPLICA_BROKEN,
	};

	return outside[c->state];
}

static void enter(struct standby_core *c, enum standby_state next, struct core_actions *out,
		  const char *why)
{
	struct core_action *a;

	assert(standby_core_may_become(c->state, next));
	c->state = next;
	a = core_act(out, STANDBY_REPORT);
	a->state = (int)standby_core_report(c);
	a->why = why;
}

/* Close first: what is discarded must not be added to. */
static void close_session(struct standby_core *c, struct core_actions *out)
{
	core_act(out, STANDBY_CLOSE);
	core_act_epoch(out, STANDBY_DISCARD, c->whole);
}

static void lose(struct standby_core *c, struct core_actions *out, const char *why)
{
	close_session(c, out);
	enter(c, STANDBY_LOST, out, why);
}

static void fail(struct standby_core *c, struct core_actions *out, const char *why)
{
	close_session(c, out);
	enter(c, STANDBY_BROKEN, out, why);
}

static void acknowledge(struct standby_core *c, struct core_actions *out)
{
	uint64_t most = core_earlier(c->whole, c->committed + c->config.window);

	if (most <= c->acknowledged || !(OPEN & BIT(c->state)))
		return;
	c->acknowledged = most;
	core_act_epoch(out, STANDBY_ACK, most);
}

static void commit_next(struct standby_core *c, struct core_actions *out)
{
	if (c->committing)
		return;
	if (c->committed < c->whole) {
		c->committing = c->committed + 1;
		core_act_epoch(out, STANDBY_COMMIT, c->committing);
	} else if (c->state == STANDBY_PROMOTING) {
		core_act(out, STANDBY_LOAD);
	}
}

static void heard(struct standby_core *c, uint64_t now)
{
	c->heard_at = now;
	c->indulged = false;
}

/* ---- events ---------------------------------------------------------------- */

typedef int event_fn(struct standby_core *c, const struct standby_input *in,
		     struct core_actions *out);

static int on_connected(struct standby_core *c, const struct standby_input *in,
			struct core_actions *out)
{
	heard(c, in->now);
	enter(c, STANDBY_SYNCING, out, NULL);
	return 0;
}

static int on_begin(struct standby_core *c, const struct standby_input *in,
		    struct core_actions *out)
{
	unsigned s = in->stream;

	if (s >= c->config.streams || c->begun[s] != c->ended[s] || in->epoch != c->ended[s] + 1 ||
	    in->epoch > c->whole + c->config.window)
		return -EINVAL;
	heard(c, in->now);
	c->begun[s] = in->epoch;
	return 0;
}

/* The stream is inside this very epoch. */
static bool stream_is_in(const struct standby_core *c, const struct standby_input *in)
{
	return in->stream < c->config.streams && c->begun[in->stream] == in->epoch &&
	       c->ended[in->stream] + 1 == in->epoch;
}

static int on_data(struct standby_core *c, const struct standby_input *in, struct core_actions *out)
{
	if (!stream_is_in(c, in))
		return -EINVAL;
	heard(c, in->now);
	return 0;
}

static uint64_t ended_by_all(const struct standby_core *c)
{
	uint64_t least = c->ended[0];

	for (unsigned s = 1; s < c->config.streams; s++)
		least = core_earlier(least, c->ended[s]);
	return least;
}

static int on_end(struct standby_core *c, const struct standby_input *in, struct core_actions *out)
{
	if (!stream_is_in(c, in))
		return -EINVAL;
	heard(c, in->now);
	c->ended[in->stream] = in->epoch;
	if (ended_by_all(c) == c->whole)
		return 0;
	c->whole++;
	if (c->state == STANDBY_SYNCING)
		enter(c, STANDBY_READY, out, NULL);
	acknowledge(c, out);
	commit_next(c, out);
	return 0;
}

/* The answer goes out before the link is closed, and after it nothing can promote. */
static int on_bye(struct standby_core *c, const struct standby_input *in, struct core_actions *out)
{
	core_act(out, STANDBY_BYE_ACK);
	close_session(c, out);
	enter(c, STANDBY_RELEASED, out, "the primary ended the session");
	return 0;
}

static int on_heard(struct standby_core *c, const struct standby_input *in,
		    struct core_actions *out)
{
	heard(c, in->now);
	return 0;
}

static int on_committed(struct standby_core *c, const struct standby_input *in,
			struct core_actions *out)
{
	if (c->committing == 0 || in->epoch != c->committing)
		return -EINVAL;
	c->committed = in->epoch;
	c->committing = 0;
	acknowledge(c, out);
	if (!(ENDED & BIT(c->state)))
		commit_next(c, out);
	return 0;
}

static int on_commit_failed(struct standby_core *c, const struct standby_input *in,
			    struct core_actions *out)
{
	if (c->committing == 0 || in->epoch != c->committing)
		return -EINVAL;
	c->committing = 0;
	if (!(ENDED & BIT(c->state)))
		fail(c, out, in->why ? in->why : "an epoch could not be committed");
	return 0;
}

static int on_bad_input(struct standby_core *c, const struct standby_input *in,
			struct core_actions *out)
{
	if ((OPEN | BIT(STANDBY_WAITING)) & BIT(c->state))
		fail(c, out, in->why ? in->why : "the primary sent what is not understood");
	return 0;
}

static int on_link_lost(struct standby_core *c, const struct standby_input *in,
			struct core_actions *out)
{
	if ((OPEN | BIT(STANDBY_WAITING)) & BIT(c->state))
		lose(c, out, in->why ? in->why : "the link to the primary is lost");
	return 0;
}

static uint64_t loss_at(const struct standby_core *c)
{
	return core_later(c->heard_at + c->config.loss_ns, c->forgive_until);
}

static int on_tick(struct standby_core *c, const struct standby_input *in, struct core_actions *out)
{
	struct core_silence s = {c->config.loss_ns, c->config.heartbeat_ns, &c->seen_at,
				 &c->forgive_until, &c->indulged};

	if (core_tick_judges(s, in->now) && (OPEN & BIT(c->state)) && loss_at(c) <= in->now)
		lose(c, out, "the primary is silent");
	return 0;
}

static int on_promote(struct standby_core *c, const struct standby_input *in,
		      struct core_actions *out)
{
	if (c->whole == 0)
		return -EAGAIN;
	if (in->term <= c->config.term)
		return -ESTALE;
	c->new_term = in->term;
	close_session(c, out);
	c->state = STANDBY_PROMOTING;
	commit_next(c, out);
	return 0;
}

static int on_loaded(struct standby_core *c, const struct standby_input *in,
		     struct core_actions *out)
{
	if (c->committed != c->whole)
		return -EINVAL;
	enter(c, STANDBY_PROMOTED, out, NULL);
	return 0;
}

static int on_load_failed(struct standby_core *c, const struct standby_input *in,
			  struct core_actions *out)
{
	fail(c, out, in->why ? in->why : "the image could not be loaded");
	return 0;
}

static event_fn *const handlers[STANDBY_EVENTS] = {
	[STANDBY_EV_CONNECTED] = on_connected,
	[STANDBY_EV_BEGIN] = on_begin,
	[STANDBY_EV_DATA] = on_data,
	[STANDBY_EV_END] = on_end,
	[STANDBY_EV_BYE] = on_bye,
	[STANDBY_EV_HEARD] = on_heard,
	[STANDBY_EV_COMMITTED] = on_committed,
	[STANDBY_EV_COMMIT_FAILED] = on_commit_failed,
	[STANDBY_EV_BAD_INPUT] = on_bad_input,
	[STANDBY_EV_LINK_LOST] = on_link_lost,
	[STANDBY_EV_TICK] = on_tick,
	[STANDBY_EV_PROMOTE] = on_promote,
	[STANDBY_EV_LOADED] = on_loaded,
	[STANDBY_EV_LOAD_FAILED] = on_load_failed,
};

int standby_core_init(struct standby_core *c, const struct standby_config *config)
{
	if (config->streams < 1 || config->streams > CHANNEL_STREAMS_MAX || config->window < 1 ||
	    config->window > CORE_WINDOW_MAX + 1 || config->loss_ns == 0 ||
	    config->heartbeat_ns >= config->loss_ns)
		return -EINVAL;
	*c = (struct standby_core){.config = *config};
	return 0;
}

/* What a promotion is told where the table refuses it. */
static int promote_refusal(enum standby_state s)
{
	if ((BIT(STANDBY_WAITING) | BIT(STANDBY_SYNCING)) & BIT(s))
		return -EAGAIN;
	return (ENDED & BIT(s)) ? -EPERM : -EALREADY;
}

int standby_core_event(struct standby_core *c, const struct standby_input *in,
		       struct core_actions *out)
{
	struct standby_input fair = *in;
	int rc;

	out->count = 0;
	if ((unsigned)in->type >= STANDBY_EVENTS)
		return -EINVAL;
	if (!standby_core_allows(c->state, in->type))
		return in->type == STANDBY_EV_PROMOTE ? promote_refusal(c->state) : -EPROTO;
	fair.now = core_later(in->now, c->seen_at);
	rc = handlers[in->type](c, &fair, out);
	if (rc == 0)
		c->seen_at = fair.now;
	return rc;
}

uint64_t standby_core_deadline(const struct standby_core *c)
{
	if (!(OPEN & BIT(c->state)))
		return UINT64_MAX;
	return core_earlier(loss_at(c), c->seen_at + c->config.loss_ns / 4);
}

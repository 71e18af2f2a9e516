// SPDX-License-Identifier: Apache-2.0
#include "agent/ownership.h"

#include <errno.h>

#include "agent/ownership_steps.h"

#define BIT(n) (1u << (n))

/* Events are facts and come when they come; the table refuses those that only an
 * error in the driver, or an operator's mistake, can bring. */
static const unsigned event_states[OWN_EVENTS] = {
#define STARTED  (BIT(OWN_STATES) - 1 - BIT(OWN_NEW))
#define REPLICAS (BIT(OWN_STANDBY) | BIT(OWN_DECIDING))
	[OWN_EV_START] = BIT(OWN_NEW),    [OWN_EV_STORED] = STARTED,
	[OWN_EV_STORE_FAILED] = STARTED,  [OWN_EV_TICK] = STARTED,
	[OWN_EV_RUN] = STARTED,           [OWN_EV_PROTECT] = BIT(OWN_ALONE),
	[OWN_EV_PROMOTE] = REPLICAS,      [OWN_EV_GO_ON] = BIT(OWN_ASKING) | BIT(OWN_HANDED),
	[OWN_EV_FREEZING] = STARTED,      [OWN_EV_LOADED] = STARTED,
	[OWN_EV_HANDED] = STARTED,        [OWN_EV_SESSION_LOST] = STARTED,
	[OWN_EV_SESSION_OVER] = STARTED,  [OWN_EV_VM_DEAD] = STARTED,
	[OWN_EV_REPLICA_READY] = STARTED, [OWN_EV_REPLICA_LOST] = STARTED,
	[OWN_EV_REPLICA_GONE] = STARTED,  [OWN_EV_PROMOTED] = STARTED,
	[OWN_EV_FENCED] = STARTED,        [OWN_EV_PEER_UP] = STARTED,
	[OWN_EV_PEER_DOWN] = STARTED,     [OWN_EV_WORD] = STARTED,
};

static const unsigned next_states[OWN_STATES] = {
#define YIELD BIT(OWN_NONE)
	[OWN_NEW] = BIT(OWN_NONE) | BIT(OWN_UNSURE) | BIT(OWN_ALONE) | BIT(OWN_PRIMARY) |
		    BIT(OWN_HANDED) | BIT(OWN_RELEASED) | BIT(OWN_STANDBY),
	[OWN_NONE] = YIELD | BIT(OWN_STANDBY) | BIT(OWN_ALONE),
	[OWN_UNSURE] = YIELD | BIT(OWN_IDLE) | BIT(OWN_ALONE),
	[OWN_IDLE] = YIELD | BIT(OWN_ALONE),
	[OWN_ALONE] = YIELD | BIT(OWN_ALONE) | BIT(OWN_IDLE) | BIT(OWN_PRIMARY),
	[OWN_PRIMARY] =
		YIELD | BIT(OWN_ALONE) | BIT(OWN_ASKING) | BIT(OWN_FREEZING) | BIT(OWN_RELEASED),
	[OWN_ASKING] = YIELD | BIT(OWN_ALONE) | BIT(OWN_RELEASED),
	[OWN_FREEZING] = YIELD | BIT(OWN_ALONE) | BIT(OWN_HANDED) | BIT(OWN_RELEASED),
	[OWN_HANDED] = YIELD | BIT(OWN_ALONE) | BIT(OWN_RELEASED),
	[OWN_RELEASED] = YIELD | BIT(OWN_IDLE) | BIT(OWN_ALONE),
	[OWN_STANDBY] = YIELD | BIT(OWN_DECIDING) | BIT(OWN_LOADING) | BIT(OWN_PROMOTING),
	[OWN_DECIDING] = YIELD | BIT(OWN_DECIDING) | BIT(OWN_LOADING) | BIT(OWN_PROMOTING),
	[OWN_LOADING] = YIELD | BIT(OWN_PROMOTING),
	[OWN_PROMOTING] = YIELD | BIT(OWN_ALONE) | BIT(OWN_IDLE),
};

bool ownership_allows(enum ownership_state state, enum ownership_event event)
{
	return event_states[event] & BIT(state);
}

bool ownership_may_become(enum ownership_state from, enum ownership_state to)
{
	return next_states[from] & BIT(to);
}

bool ownership_record_valid(const struct ownership_record *r)
{
	return r->role < ROLE_COUNT && (r->term != 0 || r->role == ROLE_NONE);
}

bool ownership_may_run(const struct ownership *o)
{
	bool running = BIT(o->state) &
		       (BIT(OWN_ALONE) | BIT(OWN_PRIMARY) | BIT(OWN_ASKING) | BIT(OWN_FREEZING));

	return running && o->vm_alive;
}

void ownership_config_defaults(struct ownership_config *c)
{
	*c = (struct ownership_config){
		.continue_alone = true,
		.fence_delay_ns = 2 * NS_PER_SEC,
		.ask_ns = 50 * NS_PER_MS,
		.reset_ns = NS_PER_SEC,
		.retry_ns = 500 * NS_PER_MS,
		.retry_max_ns = 30 * NS_PER_SEC,
		.ready_ns = 150 * NS_PER_SEC,
	};
}

void ownership_init(struct ownership *o, const struct ownership_config *c)
{
	*o = (struct ownership){.config = *c, .standby_can_fence = true, .fence_wait = c->retry_ns};
}

typedef int event_fn(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out);

static int on_fact(struct ownership *o, const struct ownership_input *in,
		   struct ownership_actions *out)
{
	return 0;
}

/* ---- start and stores --------------------------------------------------------- */

/* A vm process that outlived polluxd goes on in the role of the record: with RELEASED it
 * was frozen when that was stored. Whether the other side may have been told is its to say: HANDED,
 * or SESSION_LOST. A replica ends with its polluxd, so that a STANDBY record finds none and is
 * dropped. */
static int on_start(struct ownership *o, const struct ownership_input *in,
		    struct ownership_actions *out)
{
	static const enum ownership_state living[] = {
		[ROLE_NONE] = OWN_NONE,         [ROLE_OWNER] = OWN_ALONE,
		[ROLE_PRIMARY] = OWN_PRIMARY,   [ROLE_STANDBY] = OWN_STANDBY,
		[ROLE_RELEASED] = OWN_RELEASED,
	};
	bool owner = in->record.role == ROLE_OWNER || in->record.role == ROLE_PRIMARY;
	bool frozen = in->record.role == ROLE_RELEASED && in->alive;

	if (!ownership_record_valid(&in->record))
		return -EINVAL;
	o->record = in->record;
	o->vm_alive = in->alive && (owner || frozen);
	o->session_started = o->vm_alive && in->record.role != ROLE_OWNER;
	if (in->alive && !owner && !frozen)
		ownership_act(out, OWN_KILL_VM);
	if (in->record.role == ROLE_OWNER && !in->alive)
		ownership_enter(o, OWN_UNSURE, out, "restarted: the peer is asked first");
	else
		ownership_enter(o, frozen ? OWN_HANDED : living[in->record.role], out, NULL);
	return 0;
}

static int on_stored(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	if (!o->storing)
		return -EPROTO;
	ownership_stored(o, in->now, out);
	return 0;
}

static int on_store_failed(struct ownership *o, const struct ownership_input *in,
			   struct ownership_actions *out)
{
	struct ownership_action *a;

	if (!o->storing)
		return -EPROTO;
	o->storing = o->start = false;
	o->store_at = in->now + o->config.retry_ns;
	/* The guest may stand still already: no time is lost with trying again. */
	if (o->next == OWN_FREEZING) {
		o->unstorable = true;
		o->store_at = o->say_at = in->now;
	}
	a = ownership_act(out, OWN_REPORT);
	a->state = o->state;
	a->why = "the ownership record could not be stored";
	return 0;
}

/* ---- operators ------------------------------------------------------------------ */

static int on_run(struct ownership *o, const struct ownership_input *in,
		  struct ownership_actions *out)
{
	bool fresh = o->state == OWN_NONE && o->record.term == 0;

	if (o->storing || o->vm_alive || o->replica)
		return -EBUSY;
	if (o->state == OWN_UNSURE && !in->forced)
		return -EAGAIN;
	if (o->state != OWN_IDLE && !fresh && !in->forced)
		return -EPERM;
	o->start = true;
	ownership_store(o, ROLE_OWNER,
			o->record.term + (o->state == OWN_IDLE || fresh ? 1 : TERM_FORCED),
			OWN_ALONE, out);
	return 0;
}

static int on_protect(struct ownership *o, const struct ownership_input *in,
		      struct ownership_actions *out)
{
	if (o->storing)
		return -EBUSY;
	o->handover = in->handover;
	ownership_store(o, ROLE_PRIMARY, o->record.term + TERM_SESSION, OWN_PRIMARY, out);
	return 0;
}

static int on_promote(struct ownership *o, const struct ownership_input *in,
		      struct ownership_actions *out)
{
	if (o->storing)
		return -EBUSY;
	if (!o->replica_ready)
		return -EAGAIN;
	o->forced = true;
	return 0;
}

static int on_go_on(struct ownership *o, const struct ownership_input *in,
		    struct ownership_actions *out)
{
	if (o->storing)
		return -EBUSY;
	o->forced = true;
	return 0;
}

/* ---- vm processes ----------------------------------------------------------------- */

static bool of_this_term(const struct ownership *o, const struct ownership_input *in)
{
	return in->term == o->record.term;
}

/* The loss of a session older than what is owned was answered when the newer term was
 * stored; it asks again when polluxd restarted before the answer reached it. */
static int on_session_lost(struct ownership *o, const struct ownership_input *in,
			   struct ownership_actions *out)
{
	bool owner = o->record.role == ROLE_OWNER || o->record.role == ROLE_PRIMARY;

	o->session_lost |= of_this_term(o, in);
	o->handover |= of_this_term(o, in) && in->handover;
	if (owner && o->vm_alive && in->term && in->term < o->record.term)
		ownership_act(out, OWN_CONFIRM);
	return 0;
}

static int on_session_over(struct ownership *o, const struct ownership_input *in,
			   struct ownership_actions *out)
{
	o->session_over |= of_this_term(o, in);
	return 0;
}

/* That a session is handed over tells also a polluxd that was started since, and does not
 * know what the session was for. */
static int on_freezing(struct ownership *o, const struct ownership_input *in,
		       struct ownership_actions *out)
{
	if (o->state == OWN_PRIMARY && of_this_term(o, in))
		o->freezing = o->handover = true;
	return 0;
}

/* After a restart of polluxd the state is that of the record, and waits for this to say so.
 * Of an older session: as with its loss, the answer did not reach it. */
static int on_handed(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	bool owner = o->record.role == ROLE_OWNER || o->record.role == ROLE_PRIMARY;
	bool found = ownership_unsaid(o) && !o->session_lost;
	bool hands = o->state == OWN_PRIMARY || o->state == OWN_FREEZING || found;

	if (found)
		o->say_at = in->now;
	if (hands && of_this_term(o, in))
		o->handed = o->handover = true;
	else if (owner && o->vm_alive && in->term && in->term < o->record.term)
		ownership_act(out, OWN_CONFIRM_FORCED);
	return 0;
}

static int on_vm_dead(struct ownership *o, const struct ownership_input *in,
		      struct ownership_actions *out)
{
	o->vm_alive = false;
	return 0;
}

static int on_replica_ready(struct ownership *o, const struct ownership_input *in,
			    struct ownership_actions *out)
{
	o->replica_ready |= o->replica && of_this_term(o, in);
	return 0;
}

static int on_replica_lost(struct ownership *o, const struct ownership_input *in,
			   struct ownership_actions *out)
{
	if (!o->replica || !of_this_term(o, in))
		return 0;
	o->replica_lost = true;
	o->replica_reset = in->reset;
	return 0;
}

/* A replica that is being promoted still names the term of its session. */
static bool of_promotion(const struct ownership *o, const struct ownership_input *in)
{
	return o->state == OWN_PROMOTING && in->term < o->record.term;
}

static int on_replica_gone(struct ownership *o, const struct ownership_input *in,
			   struct ownership_actions *out)
{
	if (of_this_term(o, in) || of_promotion(o, in))
		o->replica = o->replica_ready = false;
	return 0;
}

static int on_loaded(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	o->loaded |= o->loading && o->replica && of_this_term(o, in);
	return 0;
}

static int on_promoted(struct ownership *o, const struct ownership_input *in,
		       struct ownership_actions *out)
{
	if (!of_promotion(o, in) || !o->replica)
		return 0;
	o->vm_alive = true;
	o->replica = o->replica_ready = o->replica_lost = false;
	return 0;
}

/* ---- fence and peer ------------------------------------------------------------------ */

static int on_fenced(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	if (!o->fencing || in->id != o->fence_id)
		return 0;
	o->fencing = false;
	o->fenced = in->ok;
	o->fence_at = in->now + o->fence_wait;
	o->fence_wait = o->fence_wait * 2 < o->config.retry_max_ns ? o->fence_wait * 2
								   : o->config.retry_max_ns;
	return 0;
}

/* Owners say so at once: whoever holds something older learns that it is stale. (One
 * that is offering a session says it by the offer.) */
static int on_peer_up(struct ownership *o, const struct ownership_input *in,
		      struct ownership_actions *out)
{
	o->peer_up = true;
	o->say_at = in->now;
	if (o->state == OWN_PROMOTING)
		return 0;
	if (o->record.role == ROLE_OWNER || (o->record.role == ROLE_PRIMARY && o->session_started))
		ownership_tell(o, out, WORD_OWN, o->record.term);
	return 0;
}

/* A standby that was giving the peer time to answer gives it no more. */
static int on_peer_down(struct ownership *o, const struct ownership_input *in,
			struct ownership_actions *out)
{
	o->peer_up = false;
	if (o->state == OWN_DECIDING && o->fence_wait == o->config.retry_ns)
		o->fence_at = in->now;
	return 0;
}

/* ---- words ------------------------------------------------------------------------------ */

static uint64_t most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static bool is_owner(const struct ownership *o)
{
	return o->record.role == ROLE_OWNER || o->record.role == ROLE_PRIMARY;
}

/* What this host knows that answers any word about an older or equal term. */
static void answer(struct ownership *o, uint64_t term, struct ownership_actions *out)
{
	if (o->storing || o->state == OWN_PROMOTING || o->state == OWN_FREEZING)
		return;
	if (o->record.role == ROLE_OWNER && o->record.term >= term)
		ownership_tell(o, out, WORD_OWN, o->record.term);
	else if (o->record.role == ROLE_PRIMARY && o->record.term > term)
		ownership_tell(o, out, WORD_OWN, o->record.term);
	else if (o->record.role == ROLE_RELEASED && o->record.term >= term && !ownership_unsaid(o))
		ownership_tell(o, out, WORD_RELEASED, o->record.term);
	else if (o->record.role == ROLE_NONE && o->record.term >= term)
		ownership_tell(o, out, WORD_DROPPED, term);
}

static void hear_ask(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	bool session =
		o->record.role == ROLE_PRIMARY || o->state == OWN_FREEZING || ownership_unsaid(o);

	answer(o, in->term, out);
	if (!session || o->record.term != in->term || !o->vm_alive)
		return;
	ownership_tell(o, out, WORD_ALIVE, in->term);
	if (o->session_started && o->state != OWN_ASKING)
		ownership_act(out, OWN_END_SESSION);
}

static void hear_alive(struct ownership *o, const struct ownership_input *in,
		       struct ownership_actions *out)
{
	if (o->state == OWN_DECIDING && in->term == o->record.term && !o->fencing)
		o->fence_at = most(o->fence_at, in->now + o->config.reset_ns);
}

/* "The vm of term is dead" to one with an older twin: that twin is stale. To the owner of
 * an older term, after an operator's force had made two: the newer one will not return,
 * so that this one may outrank it. To one that gave up an older term: the peer has had the
 * vm since, and waits for this word to be answered. */
static void hear_released(struct ownership *o, const struct ownership_input *in,
			  struct ownership_actions *out)
{
	answer(o, in->term, out);
	if (is_owner(o))
		o->dead_term = most(o->dead_term, in->term);
	else if (o->record.role == ROLE_RELEASED && in->term > o->record.term)
		o->owner_term = most(o->owner_term, in->term);
	else if (o->record.role != ROLE_STANDBY || in->term != o->record.term)
		o->drop_term = most(o->drop_term, in->term);
	else if (o->released_term != in->term) {
		o->released_term = in->term;
		o->released_at = in->now;
	}
}

/* An owner with a newer or equal claim answers, or each would wait for the other. */
static void hear_own(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out)
{
	bool wins = in->term < o->record.term || (in->term == o->record.term && o->config.senior);

	if (in->term > o->record.term)
		o->owner_term = most(o->owner_term, in->term);
	else if (is_owner(o) && wins && o->state != OWN_PROMOTING)
		ownership_tell(o, out, WORD_OWN, o->record.term);
	else if (is_owner(o))
		o->owner_term = most(o->owner_term, in->term);
	else
		answer(o, in->term, out);
}

static void hear_drop(struct ownership *o, const struct ownership_input *in,
		      struct ownership_actions *out)
{
	answer(o, in->term, out);
	if (is_owner(o) && in->term > o->record.term)
		o->owner_term = most(o->owner_term, in->term);
	o->drop_term = most(o->drop_term, in->term);
}

/* Who has no copy under a newer term has none under an older one. What comes next has to
 * be newer than all that was known there. */
static void hear_dropped(struct ownership *o, const struct ownership_input *in,
			 struct ownership_actions *out)
{
	if (in->term < o->record.term)
		return;
	o->dropped_term = o->record.term;
	o->gone_term = most(o->gone_term, in->term);
}

/* A term that this host has outgrown. DROPPED says by how much, when nothing lives here
 * under the newer one, so that the peer can outrank it. */
static void refuse(struct ownership *o, uint64_t term, struct ownership_actions *out)
{
	if (o->record.role == ROLE_NONE && o->record.term >= term)
		ownership_tell(o, out, WORD_DROPPED, o->record.term);
	else
		answer(o, term, out);
	ownership_tell(o, out, WORD_REFUSE, term);
}

static void offer_note(struct ownership *o, const struct ownership_input *in)
{
	if (in->term < o->offer_term)
		return;
	o->offer_term = in->term;
	o->offer_handover = in->handover;
}

/* An offer of a newer term is also a claim: an owner of an older one yields to it. */
static void hear_offer(struct ownership *o, const struct ownership_input *in,
		       struct ownership_actions *out)
{
	bool mine = o->record.role == ROLE_STANDBY && o->record.term == in->term;

	if (o->storing)
		return;
	if (mine && o->replica && !o->replica_lost)
		ownership_tell(o, out, WORD_ACCEPT, in->term);
	else if (in->term <= o->record.term)
		refuse(o, in->term, out);
	else if (is_owner(o))
		o->owner_term = most(o->owner_term, in->term);
	else
		offer_note(o, in);
}

static void hear_accept(struct ownership *o, const struct ownership_input *in,
			struct ownership_actions *out)
{
	if (o->state != OWN_PRIMARY || in->term != o->record.term || o->session_started ||
	    o->storing || !o->vm_alive)
		return;
	o->session_started = true;
	o->standby_can_fence = in->can_fence;
	ownership_act(out, OWN_START_SESSION)->term = in->term;
}

static void hear_refuse(struct ownership *o, const struct ownership_input *in,
			struct ownership_actions *out)
{
	if (o->state == OWN_PRIMARY && in->term == o->record.term && !o->session_started)
		o->session_over = true;
}

typedef void word_fn(struct ownership *o, const struct ownership_input *in,
		     struct ownership_actions *out);
static word_fn *const words[WORD_COUNT] = {
	[WORD_ASK] = hear_ask,     [WORD_ALIVE] = hear_alive,   [WORD_RELEASED] = hear_released,
	[WORD_OWN] = hear_own,     [WORD_DROP] = hear_drop,     [WORD_DROPPED] = hear_dropped,
	[WORD_OFFER] = hear_offer, [WORD_ACCEPT] = hear_accept, [WORD_REFUSE] = hear_refuse,
};

static int on_word(struct ownership *o, const struct ownership_input *in,
		   struct ownership_actions *out)
{
	if ((unsigned)in->word >= WORD_COUNT || in->term == 0)
		return -EINVAL;
	words[in->word](o, in, out);
	return 0;
}

/* ---- the machine --------------------------------------------------------------------------- */

static event_fn *const handlers[OWN_EVENTS] = {
	[OWN_EV_START] = on_start,
	[OWN_EV_STORED] = on_stored,
	[OWN_EV_STORE_FAILED] = on_store_failed,
	[OWN_EV_TICK] = on_fact,
	[OWN_EV_RUN] = on_run,
	[OWN_EV_PROTECT] = on_protect,
	[OWN_EV_PROMOTE] = on_promote,
	[OWN_EV_GO_ON] = on_go_on,
	[OWN_EV_SESSION_LOST] = on_session_lost,
	[OWN_EV_SESSION_OVER] = on_session_over,
	[OWN_EV_FREEZING] = on_freezing,
	[OWN_EV_HANDED] = on_handed,
	[OWN_EV_VM_DEAD] = on_vm_dead,
	[OWN_EV_REPLICA_READY] = on_replica_ready,
	[OWN_EV_REPLICA_LOST] = on_replica_lost,
	[OWN_EV_REPLICA_GONE] = on_replica_gone,
	[OWN_EV_LOADED] = on_loaded,
	[OWN_EV_PROMOTED] = on_promoted,
	[OWN_EV_FENCED] = on_fenced,
	[OWN_EV_PEER_UP] = on_peer_up,
	[OWN_EV_PEER_DOWN] = on_peer_down,
	[OWN_EV_WORD] = on_word,
};

static bool by_operator(enum ownership_event e)
{
	return e == OWN_EV_PROTECT || e == OWN_EV_PROMOTE || e == OWN_EV_GO_ON;
}

int ownership_event(struct ownership *o, const struct ownership_input *in,
		    struct ownership_actions *out)
{
	int rc;

	out->count = 0;
	if ((unsigned)in->type >= OWN_EVENTS)
		return -EINVAL;
	if (!ownership_allows(o->state, in->type))
		return by_operator(in->type) ? -EPERM : -EPROTO;
	rc = handlers[in->type](o, in, out);
	if (rc == 0)
		ownership_pursue(o, in->now, out);
	return rc;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* When a question is to be repeated. */
static uint64_t say_deadline(const struct ownership *o)
{
	bool session = o->state == OWN_PRIMARY || o->state == OWN_FREEZING;
	bool offers = session && (!o->session_started || ownership_session_is_vain(o));
	bool asks = BIT(o->state) & (BIT(OWN_UNSURE) | BIT(OWN_ASKING) | BIT(OWN_HANDED) |
				     BIT(OWN_RELEASED) | BIT(OWN_DECIDING));

	asks &= !ownership_unsaid(o);
	return o->peer_up && (offers || asks) ? o->say_at : UINT64_MAX;
}

static uint64_t fence_deadline(const struct ownership *o)
{
	bool wants = (o->state == OWN_DECIDING && !o->handover) ||
		     (o->state == OWN_ASKING && o->config.continue_alone);

	return wants && o->config.can_fence && !o->fencing ? o->fence_at : UINT64_MAX;
}

static uint64_t wait_deadline(const struct ownership *o)
{
	if (o->state == OWN_PRIMARY && !o->session_started)
		return ownership_offer_end(o);
	if (o->state == OWN_ASKING && !o->standby_can_fence && o->config.continue_alone)
		return o->lost_at + o->config.ask_ns;
	if (o->record.role == ROLE_STANDBY && o->released_term == o->record.term &&
	    !o->replica_ready)
		return o->released_at + o->config.reset_ns;
	if (o->state == OWN_STANDBY && o->loading)
		return o->load_at + o->config.reset_ns;
	return UINT64_MAX;
}

uint64_t ownership_deadline(const struct ownership *o)
{
	if (o->storing || o->state == OWN_NEW)
		return UINT64_MAX;
	if (o->store_at)
		return o->store_at;
	return least(least(say_deadline(o), fence_deadline(o)), wait_deadline(o));
}

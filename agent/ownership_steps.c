// SPDX-License-Identifier: Apache-2.0
#include "agent/ownership_steps.h"

/*
 * Why at most one copy makes output (I3); docs/ownership.md has it in full
 *
 *   The twin of term t can become the vm only on a host whose durable record is
 *   STANDBY t, and only after the primary of t is fenced or has stored RELEASED t.
 *   The primary of t lets output pass without the standby only after that record is
 *   gone for good (DROPPED t), or the twin with its host (fenced), or when nobody but
 *   an operator could promote it (no fence there), or on an operator's word; and only
 *   after it has stored a newer term of its own. Each of the two thus needs a fact
 *   that excludes the other's, and no fact but ALIVE ever ceases to be true.
 *
 *   In a migration (handover) the twin of term t becomes the vm only after the word
 *   RELEASED t: no fence counts. So a primary that has said it to nobody goes on without
 *   asking anybody, when it has stored OWNER t + 1; one that may have said it, and keeps
 *   its frozen copy, goes on only after DROPPED t. It is said only while the record on
 *   disk is RELEASED t for certain: once OWNER t + 1 was tried, also in vain, never.
 */

void ownership_tell(struct ownership *o, struct ownership_actions *out, enum ownership_word word,
		    uint64_t term)
{
	struct ownership_action *a;

	if (!o->peer_up)
		return;
	a = ownership_act(out, OWN_TELL);
	a->word = word;
	a->term = term;
	a->can_fence = o->config.can_fence;
}

void ownership_enter(struct ownership *o, enum ownership_state next, struct ownership_actions *out,
		     const char *why)
{
	struct ownership_action *a = ownership_act(out, OWN_REPORT);

	assert(ownership_may_become(o->state, next));
	o->state = next;
	a->state = next;
	a->why = why;
}

void ownership_store(struct ownership *o, enum ownership_role role, uint64_t term,
		     enum ownership_state next, struct ownership_actions *out)
{
	assert(!o->storing && term >= o->record.term);
	o->pending = (struct ownership_record){.term = term, .role = role};
	o->next = next;
	o->storing = true;
	ownership_act(out, OWN_STORE)->record = o->pending;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Of an owner without a standby: newer than what the peer has said it once knew. */
static uint64_t alone_term(const struct ownership *o)
{
	return later(o->record.term, o->gone_term) + TERM_UNPROTECTED;
}

/* ---- what needs no answer ------------------------------------------------- */

static void say(struct ownership *o, uint64_t now, struct ownership_actions *out,
		enum ownership_word word)
{
	if (!o->peer_up || now < o->say_at)
		return;
	ownership_tell(o, out, word, o->record.term);
	o->say_at = now + o->config.retry_ns;
}

static void fence_if_due(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!o->config.can_fence || o->fencing || now < o->fence_at)
		return;
	o->fencing = true;
	ownership_act(out, OWN_FENCE)->id = ++o->fence_id;
}

static void drop_replica(struct ownership *o, struct ownership_actions *out)
{
	if (o->replica)
		ownership_act(out, OWN_DROP_REPLICA);
	o->replica = o->replica_ready = o->replica_lost = false;
}

/* ---- steps: true when something was begun or the state has changed --------- */

typedef bool step_fn(struct ownership *o, uint64_t now, struct ownership_actions *out);

/* The peer's claim beats ours. Equal terms come from two operators' forces, or from
 * a record that an operator's force outran: a copy that does not run yields. */
static bool peer_owns(const struct ownership *o)
{
	bool owner = o->record.role == ROLE_OWNER || o->record.role == ROLE_PRIMARY;
	bool runs = o->vm_alive || o->state == OWN_PROMOTING;

	if (o->owner_term != o->record.term)
		return o->owner_term > o->record.term;
	return o->owner_term != 0 && owner && !(runs && o->config.senior);
}

static bool step_yield(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!peer_owns(o))
		return false;
	if (o->vm_alive)
		ownership_act(out, o->state == OWN_HANDED ? OWN_RETIRE_VM : OWN_KILL_VM);
	o->vm_alive = false;
	drop_replica(o, out);
	ownership_store(o, ROLE_NONE, o->owner_term, OWN_NONE, out);
	return true;
}

static bool step_none(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (o->offer_term > o->record.term && o->offer_term > o->drop_term)
		ownership_store(o, ROLE_STANDBY, o->offer_term, OWN_STANDBY, out);
	else if (o->drop_term > o->record.term)
		ownership_store(o, ROLE_NONE, o->drop_term, OWN_NONE, out);
	else
		return false;
	return true;
}

/* OWN makes a peer with a newer term say so, and any other one drop what is older. */
static bool step_unsure(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (o->dropped_term == o->record.term) {
		ownership_enter(o, OWN_IDLE, out, "the peer has no newer copy");
		return true;
	}
	say(o, now, out, WORD_OWN);
	return false;
}

static bool step_alone(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!o->vm_alive)
		ownership_enter(o, OWN_IDLE, out, "the vm has ended");
	else if (o->dead_term > o->record.term)
		ownership_store(o, ROLE_OWNER, o->dead_term + 1, OWN_ALONE, out);
	else
		return false;
	return true;
}

/* say_at follows the last time at which it was said. */
uint64_t ownership_offer_end(const struct ownership *o)
{
	return o->peer_up ? o->lost_at + o->config.ready_ns : o->say_at + o->config.retry_max_ns;
}

static bool primary_offers(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	struct ownership_action *a;

	if (now >= ownership_offer_end(o)) {
		a = ownership_act(out, OWN_REPORT);
		a->state = o->state;
		a->why = o->peer_up ? "the other host did not get ready in time"
				    : "the other host was lost before it was ready";
		o->session_over = true;
		return true;
	}
	say(o, now, out, WORD_OFFER);
	return false;
}

/* A migration that cannot succeed, or whose guest would stand still for nobody knows how
 * long, ends here: nothing was said to anyone. A store that failed may be on the disk all
 * the same, so that the decision is for good: session_lost is never unset. */
static bool handover_fails(struct ownership *o, struct ownership_actions *out)
{
	bool hopeless = o->dropped_term == o->record.term || !o->peer_up || o->unstorable;

	if (!o->handover || !(o->session_lost || (o->handed && hopeless)))
		return false;
	o->session_lost = true;
	ownership_store(o, ROLE_OWNER, alone_term(o), OWN_ALONE, out);
	return true;
}

static bool primary_hands_over(struct ownership *o, struct ownership_actions *out)
{
	if (handover_fails(o, out))
		return true;
	if (!(o->freezing || o->handed) || o->unstorable)
		return false;
	ownership_store(o, ROLE_RELEASED, o->record.term, OWN_FREEZING, out);
	return true;
}

/* Also one that will not be handed over: the guest stands still, and its last epoch may be long. */
bool ownership_session_is_vain(const struct ownership *o)
{
	return o->dropped_term == o->record.term || (o->unstorable && !o->handed);
}

static void end_vain_session(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!ownership_session_is_vain(o) || now < o->say_at)
		return;
	ownership_act(out, OWN_END_SESSION);
	o->say_at = now + o->config.retry_ns;
}

static bool step_primary(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	bool dropped = o->dropped_term == o->record.term;

	if (o->session_over || (dropped && !o->session_started)) {
		ownership_store(o, ROLE_OWNER, alone_term(o), OWN_ALONE, out);
		return true;
	}
	if (!o->vm_alive) {
		ownership_store(o, ROLE_RELEASED, o->record.term, OWN_RELEASED, out);
		return true;
	}
	if (primary_hands_over(o, out))
		return true;
	if (o->session_lost) {
		o->lost_at = o->say_at = now;
		o->fence_at = now + o->config.fence_delay_ns;
		ownership_enter(o, OWN_ASKING, out, "the standby is lost");
		return true;
	}
	if (!o->session_started)
		return primary_offers(o, now, out);
	end_vain_session(o, now, out);
	return false;
}

/* The record says RELEASED, which was said to nobody: a session that ends well, or is lost,
 * is over at once. */
static bool step_freezing(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (o->session_over) {
		ownership_store(o, ROLE_OWNER, alone_term(o), OWN_ALONE, out);
		return true;
	}
	if (!o->vm_alive) {
		ownership_store(o, ROLE_RELEASED, o->record.term, OWN_RELEASED, out);
		return true;
	}
	if (handover_fails(o, out))
		return true;
	end_vain_session(o, now, out);
	if (!o->handed)
		return false;
	o->say_at = now;
	ownership_enter(o, OWN_HANDED, out, NULL);
	return true;
}

/* Nobody but an operator could promote: a last chance to hear of one, then go on. (Policy
 * stall gains nothing by it, and would make a good twin stale.) */
static bool standby_cannot_fence(const struct ownership *o, uint64_t now)
{
	return !o->standby_can_fence && o->config.continue_alone &&
	       now >= o->lost_at + o->config.ask_ns;
}

static bool step_asking(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	bool alone = o->dropped_term == o->record.term || o->fenced;

	/* The peer has run a newer copy, by force: what is held here is of the past. */
	if (o->dead_term > o->record.term) {
		o->owner_term = later(o->owner_term, o->dead_term);
		return true;
	}
	if (alone || (o->vm_alive && (o->forced || standby_cannot_fence(o, now)))) {
		ownership_store(o, ROLE_OWNER, alone_term(o), OWN_ALONE, out);
		return true;
	}
	if (!o->vm_alive) {
		ownership_store(o, ROLE_RELEASED, o->record.term, OWN_RELEASED, out);
		return true;
	}
	say(o, now, out, WORD_DROP);
	if (o->config.continue_alone)
		fence_if_due(o, now, out);
	return false;
}

/* The other side may run the vm from here on, also when nothing is heard of it. (A session
 * that ended well while no polluxd listened has no twin any more. One that was lost was never
 * handed over by its process, of which RELEASED waits to hear: nobody was told.) */
static bool step_handed(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	bool untold = o->session_lost && ownership_unsaid(o);
	bool dropped = o->dropped_term == o->record.term || o->session_over || untold;

	if (!o->vm_alive) {
		ownership_enter(o, OWN_RELEASED, out, "the frozen copy has ended");
		return true;
	}
	if (dropped || o->forced) {
		ownership_store(o, ROLE_OWNER,
				dropped ? alone_term(o) : o->record.term + TERM_FORCED, OWN_ALONE,
				out);
		return true;
	}
	if (o->handed)
		say(o, now, out, WORD_RELEASED);
	return false;
}

/* A fence that confirms after the vm died took the twin with its host. */
static bool step_released(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (o->dropped_term == o->record.term || o->fenced) {
		ownership_store(o, ROLE_OWNER, alone_term(o), OWN_IDLE, out);
		return true;
	}
	say(o, now, out, WORD_RELEASED);
	return false;
}

static bool promote(struct ownership *o, uint64_t more, struct ownership_actions *out)
{
	ownership_store(o, ROLE_OWNER, o->record.term + more, OWN_PROMOTING, out);
	return true;
}

/* RELEASED may overtake the news that the replica is whole: that is given a moment. While
 * a fence is under way the primary may be dying of it: its wish to go on alone waits for
 * the fence's result, or both copies would be gone. */
static bool replica_is_unwanted(const struct ownership *o, uint64_t now)
{
	if (!o->replica || (!o->replica_ready && o->replica_lost))
		return true;
	if (o->released_term == o->record.term && !o->replica_ready &&
	    now >= o->released_at + o->config.reset_ns)
		return true;
	return !o->fencing && (o->drop_term >= o->record.term || o->offer_term > o->record.term);
}

static bool replica_yields(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!replica_is_unwanted(o, now))
		return false;
	drop_replica(o, out);
	ownership_store(o, ROLE_NONE, later(o->record.term, o->drop_term), OWN_NONE, out);
	return true;
}

/* In a migration the source keeps its copy until this one has become the owner: whatever
 * can fail, or take long, comes before that. It begins when the twin is whole, and not when it
 * may run: what is loaded is a twin still, and is dropped as one. */
static bool load_begin(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!o->handover || !o->replica_ready || o->loading)
		return false;
	o->loading = true;
	o->load_at = now;
	ownership_act(out, OWN_LOAD)->term = o->record.term + TERM_PROMOTED;
	return true;
}

static bool released(struct ownership *o, struct ownership_actions *out)
{
	if (!o->handover || o->loaded)
		return promote(o, TERM_PROMOTED, out);
	ownership_enter(o, OWN_LOADING, out, NULL);
	return true;
}

static bool step_replica(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (o->forced && o->replica_ready)
		return promote(o, TERM_FORCED, out);
	if (replica_yields(o, now, out))
		return true;
	if (load_begin(o, now, out))
		return true;
	return o->released_term == o->record.term && o->replica_ready && released(o, out);
}

static bool step_loading(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (replica_yields(o, now, out))
		return true;
	return o->loaded && promote(o, TERM_PROMOTED, out);
}

static bool step_standby(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (step_replica(o, now, out))
		return true;
	/* To load it ends the session: from then on nothing else tells of a source that is lost. */
	if (!o->replica_lost && !(o->loading && now >= o->load_at + o->config.reset_ns))
		return false;
	o->lost_at = o->say_at = o->fence_at = now;
	if (o->peer_up)
		o->fence_at += o->replica_reset ? o->config.reset_ns : o->config.ask_ns;
	ownership_enter(o, OWN_DECIDING, out, "the primary is lost");
	return true;
}

static bool step_deciding(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (step_replica(o, now, out))
		return true;
	if (o->fenced)
		return promote(o, TERM_PROMOTED, out);
	say(o, now, out, WORD_ASK);
	if (!o->handover)
		fence_if_due(o, now, out);
	if ((o->handover || !o->config.can_fence) && !o->waiting_told) {
		o->waiting_told = true;
		ownership_enter(o, OWN_DECIDING, out,
				o->handover ? "the source was lost after its last epoch: waiting "
					      "for its word, or an operator's"
					    : "no fence is configured: waiting for the primary or "
					      "an operator");
	}
	return false;
}

/* The owner of a term under which nothing ever ran. When an operator forced it, or in a
 * migration, the old primary may be alive and well, and gets its answer: DROPPED. */
static bool promotion_failed(struct ownership *o, struct ownership_actions *out)
{
	if (o->promotion_forced || o->handover)
		ownership_store(o, ROLE_NONE, o->record.term, OWN_NONE, out);
	else
		ownership_enter(o, OWN_IDLE, out, "the promotion failed");
	return true;
}

static bool step_promoting(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	if (!o->vm_alive)
		return !o->replica && promotion_failed(o, out);
	o->handover = false;
	ownership_enter(o, OWN_ALONE, out, "promoted");
	ownership_tell(o, out, WORD_OWN, o->record.term);
	return true;
}

static bool step_nothing(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	return false;
}

static step_fn *const steps[OWN_STATES] = {
	[OWN_NEW] = step_nothing,         [OWN_NONE] = step_none,
	[OWN_UNSURE] = step_unsure,       [OWN_IDLE] = step_nothing,
	[OWN_ALONE] = step_alone,         [OWN_PRIMARY] = step_primary,
	[OWN_ASKING] = step_asking,       [OWN_RELEASED] = step_released,
	[OWN_STANDBY] = step_standby,     [OWN_DECIDING] = step_deciding,
	[OWN_PROMOTING] = step_promoting, [OWN_HANDED] = step_handed,
	[OWN_FREEZING] = step_freezing,   [OWN_LOADING] = step_loading,
};

void ownership_pursue(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	bool more = o->state != OWN_NEW && now >= o->store_at;

	if (more)
		o->store_at = 0;
	while (more && !o->storing)
		more = step_yield(o, now, out) || steps[o->state](o, now, out);
}

/* ---- after a STORE ------------------------------------------------------------ */

/* Of the session: it goes on while RELEASED is stored. */
static void session_forget(struct ownership *o)
{
	o->session_lost = o->session_over = o->session_started = false;
	o->freezing = o->handed = o->unstorable = false;
}

static void facts_forget(struct ownership *o, uint64_t now)
{
	if (o->next != OWN_FREEZING)
		session_forget(o);
	o->fencing = o->fenced = o->forced = o->start = o->waiting_told = false;
	o->standby_can_fence = true;
	o->say_at = o->lost_at = now;
	o->fence_wait = o->config.retry_ns;
}

/* How it was before. */
struct stored_from {
	enum ownership_state state;
	bool forced, start, handover, session_lost, session_over;
};
typedef void stored_fn(struct ownership *o, struct ownership_actions *out,
		       const struct stored_from *from);

static void stored_none(struct ownership *o, struct ownership_actions *out,
			const struct stored_from *from)
{
	ownership_tell(o, out, WORD_DROPPED, o->record.term);
}

/* The guest goes on here, whatever its policy for the loss of a standby. */
static bool migration_failed(const struct stored_from *from)
{
	return !from->session_over &&
	       (from->state == OWN_HANDED || from->state == OWN_FREEZING ||
		(from->state == OWN_PRIMARY && from->handover && from->session_lost));
}

/* A newer owner that became known meanwhile is obeyed before anything is confirmed. A
 * promotion is told when it has succeeded: hearing of it ends the old copy. */
static void stored_owner(struct ownership *o, struct ownership_actions *out,
			 const struct stored_from *from)
{
	if (peer_owns(o))
		return;
	if (o->state == OWN_PROMOTING) {
		o->promotion_forced = from->forced;
		ownership_act(out, OWN_PROMOTE)->term = o->record.term;
		return;
	}
	if (o->vm_alive && (from->forced || migration_failed(from)))
		ownership_act(out, OWN_CONFIRM_FORCED)->forced = from->forced;
	else if (o->vm_alive && from->state == OWN_ASKING)
		ownership_act(out, OWN_CONFIRM);
	ownership_tell(o, out, WORD_OWN, o->record.term);
}

static void stored_standby(struct ownership *o, struct ownership_actions *out,
			   const struct stored_from *from)
{
	o->replica = true;
	o->handover = o->offer_handover;
	o->replica_ready = o->replica_lost = o->replica_reset = false;
	o->loading = o->loaded = false;
	ownership_act(out, OWN_CREATE_REPLICA)->term = o->record.term;
	ownership_tell(o, out, WORD_ACCEPT, o->record.term);
}

/* PRIMARY and RELEASED are told by their steps, again and again. */
static void stored_quiet(struct ownership *o, struct ownership_actions *out,
			 const struct stored_from *from)
{
}

static stored_fn *const stored_fns[ROLE_COUNT] = {
	[ROLE_NONE] = stored_none,      [ROLE_OWNER] = stored_owner,
	[ROLE_PRIMARY] = stored_quiet,  [ROLE_STANDBY] = stored_standby,
	[ROLE_RELEASED] = stored_quiet,
};

static void start_vm(struct ownership *o, struct ownership_actions *out)
{
	o->vm_alive = true;
	ownership_act(out, OWN_START_VM)->term = o->record.term;
}

void ownership_stored(struct ownership *o, uint64_t now, struct ownership_actions *out)
{
	struct stored_from from = {o->state,    o->forced,       o->start,
				   o->handover, o->session_lost, o->session_over};

	o->storing = false;
	o->record = o->pending;
	facts_forget(o, now);
	if (o->next != OWN_FREEZING && o->next != OWN_PRIMARY && o->next != OWN_PROMOTING)
		o->handover = false;
	ownership_enter(o, o->next, out, NULL);
	stored_fns[o->record.role](o, out, &from);
	if (from.start && o->record.role == ROLE_OWNER && !peer_owns(o))
		start_vm(o, out);
	ownership_pursue(o, now, out);
}

// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "tests/sim/sim.h"

/* The observer outside, who sees outputs leave and copies start, and knows what both
 * hosts hold. It takes part in nothing. */

static bool lives(const struct proc *p)
{
	return p->role == PROC_RUNS && !p->dead_stop;
}

/* As migrations leave it: a copy that stands still may go on, or be of the past. */
static bool is_frozen(const struct proc *p)
{
	return lives(p) && p->frozen;
}

/* The host has stored that it owns (or owned) the vm, under a newer term than that: whatever
 * dies then dies as the owner. */
static bool owns_since(const struct host *h, uint64_t term)
{
	return h->disk.role != ROLE_NONE && h->disk.role != ROLE_STANDBY && h->disk.term > term;
}

/* The past of the copy that goes on. */
static bool goes_on_contains(const struct world *w, int lineage, uint64_t number)
{
	struct guest any = {.lineage = w->current, .outputs = UINT64_MAX};

	return lineage_contains(w, &any, lineage, number);
}

static bool risk_was_taken(const struct world *w)
{
	for (int i = 0; i < w->sessions; i++)
		if (w->session[i].excused || (w->session[i].exempt && w->forced_promotion))
			return true;
	return w->forced_run;
}

/* A vm's frame of one number is always the same frame, or the guest has lived twice. */
static void check_frame(struct world *w, int host, const struct output *o)
{
	uint64_t *seen = &w->frame[o->number % FRAMES_KEPT];

	if (!o->hash || risk_was_taken(w))
		return;
	if (*seen && *seen != o->hash)
		violate(w, V_I1, "I1: %c lets out another frame %llu than the one that was seen",
			'A' + host, (unsigned long long)o->number);
	*seen = o->hash;
}

/* I1, from the other end: what leaves is part of the history that goes on. */
void observe_output(struct world *w, int host, const struct output *o)
{
	struct lineage *l = &w->lineage[o->lineage];

	if (w->now - o->at > w->worst_hold)
		w->worst_hold = w->now - o->at;
	if (!goes_on_contains(w, o->lineage, o->number) && !risk_was_taken(w))
		violate(w, V_I1, "I1: %c lets out output %llu of a past that does not go on",
			'A' + host, (unsigned long long)o->number);
	if (o->number > l->seen)
		l->seen = o->number;
	check_frame(w, host, o);
}

static void check_alone(struct world *w, int host, const char *how)
{
	const struct proc *other = &w->host[!host].proc;

	if (!lives(other) || other->frozen)
		return;
	w->splits++;
	if (!w->forced_promotion && !w->forced_run)
		violate(w, V_I3, "I3: the vm %s on %c while it lives on %c", how, 'A' + host,
			'A' + !host);
}

void observe_start(struct world *w, int host, const char *how)
{
	struct proc *p = &w->host[host].proc;

	trace(w, host, "THE VM %s", how);
	check_alone(w, host, how);
	if (w->vm_ended && p->guest.outputs && !risk_was_taken(w))
		violate(w, V_I6, "I6: the vm %s after it had powered off", how);
	if (p->guest.outputs == 0) {
		memset(w->frame, 0, sizeof(w->frame));
		for (int i = 0; i < w->lineages; i++)
			w->lineage[i].seen = 0;
	}
	w->current = p->guest.lineage;
	w->loss_excused = false;
}

/* I2, at each commit: the twin is what was sealed. */
void observe_commit(struct world *w, int host, uint64_t epoch)
{
	const struct proc *p = &w->host[host].proc;
	const struct session *s = &w->session[p->session];

	if (s->printed[epoch % EPOCHS_KEPT] != epoch ||
	    s->print[epoch % EPOCHS_KEPT] != guest_print(&p->guest, p->guest.machine))
		violate(w, V_I2, "I2: the twin after epoch %llu is not what was sealed",
			(unsigned long long)epoch);
}

/* I1: every output that was seen is in the past of the copy that is promoted. */
static void check_past(struct world *w, const struct proc *p)
{
	for (int i = 0; i < w->lineages; i++) {
		uint64_t seen = w->lineage[i].seen;

		if (seen && !lineage_contains(w, &p->guest, i, seen))
			violate(w, V_I1,
				"I1: output %llu was seen, and the promoted copy (at %llu) "
				"does not know it",
				(unsigned long long)seen, (unsigned long long)p->guest.outputs);
	}
}

/* I7: the copy that was left behind is where its last epoch was, and nobody had cancelled. */
static void check_handover(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc, *source = &w->host[!host].proc;
	const struct session *s = &w->session[p->session];

	bool forced = w->forced_promotion || w->forced_run;

	if (!lives(source) || source->session != p->session || forced)
		return;
	if (source->guest.outputs != p->guest.outputs || source->guest.state != p->guest.state)
		violate(w, V_I7, "I7: the vm has run on at %c, and its last epoch is promoted",
			'A' + !host);
	if (s->cancelled && s->cancelled == w->host[!host].agent.gen)
		violate(w, V_I7, "I7: the migration was cancelled in time, and takes place");
	w->migrations++;
}

/* I3, I1: what goes on again is the only copy, and nothing was seen that it does not know. */
void observe_resume(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc;

	trace(w, host, "THE VM goes on");
	w->taken_back++;
	check_alone(w, host, "goes on");
	if (!risk_was_taken(w) && !w->forced_promotion)
		check_past(w, p);
}

/* I7: the copy at the source ends only when another one has begun to run, or may have: the
 * host that owned it has restarted, and cannot tell. */
void observe_retire(struct world *w, int host)
{
	const struct host *owner = &w->host[!host];
	const struct proc *p = &w->host[host].proc;
	bool restarted =
		owner->agent.own.state == OWN_UNSURE || owner->agent.own.state == OWN_RELEASED;

	w->loss_excused |= restarted && owns_since(owner, w->host[host].proc.term);
	if (w->forced_promotion || risk_was_taken(w))
		return;
	if (!lives(&w->host[!host].proc) && !w->loss_excused && !w->vm_ended)
		violate(w, V_I7, "I7: %c ends its copy, and the vm runs nowhere", 'A' + host);
	/* Only one that did may have made ready to send what the other one lacks. */
	if (p->has_session && (p->primary.state != PRIMARY_HANDED || p->keeps))
		violate(w, V_I7, "I7: the vm runs on, and its process at %c never handed it over",
			'A' + host);
}

/* I7: a whole twin is not given up when it is all that there is. */
void observe_drop(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc;
	bool last = standby_is_whole(p) && w->session[p->session].handover &&
		    !w->session[p->session].abandoned && !lives(&w->host[!host].proc);

	if (last && !owns_since(&w->host[!host], p->term) && !w->loss_excused &&
	    !w->forced_promotion && !risk_was_taken(w))
		violate(w, V_I7, "I7: %c drops its twin, which is the last copy", 'A' + host);
}

void observe_promotion(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc;
	const struct session *s = &w->session[p->session];
	bool risky = s->excused || (s->exempt && w->forced_promotion);

	w->promotions++;
	observe_commit(w, host, p->standby.committed);
	if (s->abandoned && !risky)
		violate(w, V_I6, "I6: the session was over, and its twin is promoted");
	if (s->handover)
		check_handover(w, host);
	if (!risk_was_taken(w))
		check_past(w, p);
}

void observe_pass(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc;

	if (p->session >= 0)
		w->session[p->session].abandoned = true;
}

/* Was this the last copy that could have gone on? Then nothing more is asked of them. */
void observe_death(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc, *other = &w->host[!host].proc;
	bool twin = standby_is_whole(other) && !w->session[other->session].abandoned &&
		    !owns_since(&w->host[host], other->term);
	/* A twin that only does not start is given back; with its polluxd goes who could. */
	bool as_owner = owns_since(&w->host[host], other->term) &&
			(p->role == PROC_RUNS || !w->host[host].agent.gen);
	bool goes_on = lives(other) && !(is_frozen(other) && as_owner);

	bool was_twin = p->role == PROC_REPLICA && p->standby.whole;
	bool was_vm = lives(p) || (p->role == PROC_RUNS && w->forced_promotion);

	if ((was_vm || was_twin) && !twin && !goes_on)
		w->loss_excused = true;
	w->losses += w->loss_excused && !w->vm_ended;
}

/* A twin that is of no more use: released by a primary that then died, failed by itself
 * (then its primary may go on), or failed when it was to become the vm. */
void observe_broken(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc, *other = &w->host[!host].proc;

	if ((p->standby.new_term && !is_frozen(other)) || !lives(other))
		w->loss_excused = true;
}

/* An operator forced a promotion while the vm lived elsewhere, and the promoted copy is
 * already dead when the old one learns of it. */
void observe_kill(struct world *w, int host)
{
	if (w->forced_promotion && !lives(&w->host[!host].proc) &&
	    !standby_is_whole(&w->host[!host].proc))
		w->loss_excused = true;
}

bool observe_no_vm(const struct world *w)
{
	return w->host[0].proc.role != PROC_RUNS && w->host[1].proc.role != PROC_RUNS;
}

static bool vm_is_up(const struct proc *p)
{
	return p->role == PROC_RUNS && !p->stalled && !p->frozen && !p->dead_stop && !p->ended;
}

/* Acknowledgement and BYE are waited for 300 ms each, a store takes up to 64 (and may follow
 * another), ticks and messages a few. */
#define UNTOLD_MOST (800 * NS_PER_MS)

/* I7: a source that has told nobody stands still for a stated time at most, if its own host
 * lets it. */
static void check_standstill(struct world *w, struct host *h)
{
	bool told = (h->agent.own.state == OWN_HANDED && h->agent.own.handed) ||
		    h->agent.own.state == OWN_RELEASED;
	bool able = h->agent.gen && h->frozen_until <= w->now && !h->store_fails &&
		    !h->agent.own.store_at;

	if (!is_frozen(&h->proc) || told || !able)
		h->still_since = 0;
	else if (!h->still_since)
		h->still_since = w->now;
	else if (w->now - h->still_since > UNTOLD_MOST)
		violate(w, V_I7, "I7: the guest stands still at %c, and nobody was told why",
			h == w->host ? 'A' : 'B');
}

void observe_step(struct world *w)
{
	bool up = vm_is_up(&w->host[0].proc) || vm_is_up(&w->host[1].proc);

	for (int i = 0; i < HOSTS; i++)
		check_standstill(w, &w->host[i]);
	if (!w->outage_bound || !w->lineages)
		return;
	if (up)
		w->down_since = 0;
	else if (!w->down_since)
		w->down_since = w->now;
	else if (w->now - w->down_since > w->worst_outage)
		w->worst_outage = w->now - w->down_since;
}

static bool vm_is_well(const struct world *w, const struct proc *p)
{
	bool protected = p->has_session && p->primary.state == PRIMARY_PROTECTED;
	bool waits = p->stalled && p->primary.state == PRIMARY_LOST && p->primary.owned;

	if (w->settings.reprotect)
		return vm_is_up(p) && protected;
	if (lives(p) && waits) /* policy stall, and no operator */
		return true;
	return vm_is_up(p) && (!p->holding || protected);
}

/* One copy runs, as well as the policy wants it; or none, and rightly so. */
bool observe_settled(struct world *w)
{
	if (observe_no_vm(w))
		return w->vm_ended || w->loss_excused || w->lineages == 0;
	return vm_is_well(w, &w->host[0].proc) != vm_is_well(w, &w->host[1].proc) &&
	       (w->host[0].proc.role == PROC_RUNS) != (w->host[1].proc.role == PROC_RUNS);
}

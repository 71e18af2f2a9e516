// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/sim.h"

/* A polluxd: what agent/ does around ownership.h with files, peers and processes. */

#define BEAT_NS       (40 * NS_PER_MS)
#define PEER_LOSS_NS  (150 * NS_PER_MS)
#define REPROTECT_NS  (150 * NS_PER_MS)
#define FENCE_TIMEOUT (500 * NS_PER_MS)

static struct agent *agent_of(struct world *w, int host)
{
	return &w->host[host].agent;
}

static struct event local(struct world *w, int host, enum scope scope, event_fn *fn)
{
	return (struct event){.fn = fn, .scope = scope, .host = host};
}

/* Messages between the processes of one host take a moment and stay in order. */
uint64_t local_delay(struct world *w, int host)
{
	uint64_t at = w->now + chance_between(w, NS_PER_MS / 20, NS_PER_MS);
	uint64_t *last = &w->host[host].local_at;

	if (at <= *last)
		at = *last + 1;
	*last = at;
	return at - w->now;
}

/* ---- from the vm process ---------------------------------------------------------- */

static void on_told(struct world *w, const struct event *ev)
{
	agent_feed(w, ev->host,
		   (struct ownership_input){.type = (enum ownership_event)(ev->b >> 2),
					    .term = ev->a,
					    .handover = ev->b & 2,
					    .reset = ev->b & 1});
	if (ev->b >> 2 == OWN_EV_REPLICA_READY && w->breakage == BREAK_PROMOTE_UNRELEASED)
		agent_feed(w, ev->host,
			   (struct ownership_input){
				   .type = OWN_EV_WORD, .word = WORD_RELEASED, .term = ev->a});
}

void agent_tell(struct world *w, int host, enum ownership_event type, uint64_t term, bool reset)
{
	struct event ev = local(w, host, SCOPE_AGENT, on_told);
	const struct proc *p = &w->host[host].proc;
	uint64_t handover = p->has_session && p->primary.config.handover;

	if (!agent_of(w, host)->gen)
		return;
	ev.a = term;
	ev.b = (uint64_t)type << 2 | handover << 1 | reset;
	world_push(w, local_delay(w, host), ev);
}

/* ---- to the vm process --------------------------------------------------------------- */

static void on_answer(struct world *w, const struct event *ev)
{
	enum primary_event type = ev->a ? PRIMARY_EV_OWNED_FORCED : PRIMARY_EV_OWNED;

	if (w->host[ev->host].proc.role == PROC_RUNS)
		primary_feed(w, ev->host, (struct primary_input){.type = type});
}

static void act_confirm(struct world *w, int host, const struct ownership_action *a)
{
	struct event ev = local(w, host, SCOPE_PROC, on_answer);
	struct proc *p = &w->host[host].proc;

	if (p->session >= 0) {
		w->session[p->session].excused |= a->forced;
		w->session[p->session].exempt |= !agent_of(w, host)->solid;
	}
	ev.a = a->type == OWN_CONFIRM_FORCED;
	world_push(w, local_delay(w, host), ev);
}

static void on_kill(struct world *w, const struct event *ev)
{
	observe_kill(w, ev->host);
	proc_end(w, ev->host, "a newer term owns the vm");
}

static void act_kill_vm(struct world *w, int host, const struct ownership_action *a)
{
	primary_feed(w, host, (struct primary_input){.type = PRIMARY_EV_DISOWNED});
	world_push(w, NS_PER_MS, local(w, host, SCOPE_PROC, on_kill));
}

static void on_retire(struct world *w, const struct event *ev)
{
	proc_end(w, ev->host, "it runs on the other host");
}

static void act_retire_vm(struct world *w, int host, const struct ownership_action *a)
{
	observe_retire(w, host);
	world_push(w, NS_PER_MS, local(w, host, SCOPE_PROC, on_retire));
}

static void act_start_vm(struct world *w, int host, const struct ownership_action *a)
{
	primary_boot(w, host, a->term);
}

static void on_session(struct world *w, const struct event *ev)
{
	struct proc *p = &w->host[ev->host].proc;

	if (p->role == PROC_RUNS && !p->ended && !p->dead_stop)
		primary_session(w, ev->host, ev->a, ev->b);
	else
		agent_tell(w, ev->host, OWN_EV_SESSION_OVER, ev->a, false);
}

static void act_start_session(struct world *w, int host, const struct ownership_action *a)
{
	struct event ev = local(w, host, SCOPE_PROC, on_session);

	ev.a = a->term;
	ev.b = agent_of(w, host)->own.handover;
	world_push(w, local_delay(w, host), ev);
}

static void on_end_session(struct world *w, const struct event *ev)
{
	if (w->host[ev->host].proc.role == PROC_RUNS)
		primary_feed(w, ev->host,
			     (struct primary_input){.type = PRIMARY_EV_LINK_LOST,
						    .why = "the standby has given up the session"});
}

static void act_end_session(struct world *w, int host, const struct ownership_action *a)
{
	world_push(w, local_delay(w, host), local(w, host, SCOPE_PROC, on_end_session));
}

static void act_create_replica(struct world *w, int host, const struct ownership_action *a)
{
	proc_end(w, host, "makes room for a replica");
	standby_create(w, host, a->term);
	if (w->breakage == BREAK_PROMOTE_BY_FENCE)
		agent_of(w, host)->own.handover = false;
}

/* It may run already, and polluxd not have heard so. */
static void act_drop_replica(struct world *w, int host, const struct ownership_action *a)
{
	enum proc_role role = w->host[host].proc.role;

	observe_drop(w, host);
	if (role == PROC_REPLICA || (role == PROC_RUNS && !agent_of(w, host)->own.vm_alive))
		proc_end(w, host, "the replica is dropped");
}

static void on_promote(struct world *w, const struct event *ev)
{
	standby_promote(w, ev->host, ev->a, ev->b);
	if (w->host[ev->host].proc.unowned)
		agent_tell(w, ev->host, OWN_EV_PROMOTED, ev->a - 2, false);
	w->host[ev->host].proc.unowned = false;
}

static void act_promote(struct world *w, int host, const struct ownership_action *a)
{
	struct event ev = local(w, host, SCOPE_PROC, on_promote);

	ev.a = a->term;
	ev.b = a->type == OWN_LOAD;
	world_push(w, local_delay(w, host), ev);
}

/* ---- the record -------------------------------------------------------------------------- */

static void on_written(struct world *w, const struct event *ev)
{
	const struct ownership_record *r = &agent_of(w, ev->host)->storing;
	bool forgotten = w->breakage == BREAK_FORGET_TERM ||
			 (w->breakage == BREAK_TELL_UNSTORED && r->role == ROLE_RELEASED);

	if (!forgotten)
		w->host[ev->host].disk = *r;
}

static void on_stored(struct world *w, const struct event *ev)
{
	agent_feed(w, ev->host,
		   (struct ownership_input){.type = ev->a ? OWN_EV_STORE_FAILED : OWN_EV_STORED});
}

static void note_force(struct world *w, int host, const struct ownership_record *to)
{
	const struct ownership *o = &agent_of(w, host)->own;

	w->forced_promotion |= to->term - o->record.term >= UINT64_C(1) << 32 &&
			       w->host[host].proc.role == PROC_REPLICA;
	w->forced_run |= o->state == OWN_HANDED && o->forced;
}

/* Power can fail between the write and the news of it, and a write that has failed may be
 * on the disk all the same. */
static void act_store(struct world *w, int host, const struct ownership_action *a)
{
	struct agent *g = agent_of(w, host);
	struct event written = local(w, host, SCOPE_AGENT, on_written);
	struct event stored = local(w, host, SCOPE_AGENT, on_stored);
	uint64_t takes = chance_between(w, NS_PER_MS / 2, 4 * NS_PER_MS);

	if (chance_percent(w, 10))
		takes += chance_below(w, 60 * NS_PER_MS);
	note_force(w, host, &a->record);
	g->storing = a->record;
	stored.a = w->host[host].store_fails && chance_percent(w, 40);
	if (!stored.a || chance_percent(w, 40))
		world_push(w, takes, written);
	world_push(w, takes + chance_below(w, NS_PER_MS), stored);
}

/* ---- fences --------------------------------------------------------------------------------- */

static void on_fence_kills(struct world *w, const struct event *ev)
{
	host_crash(w, (int)ev->a, "fenced");
}

static void on_fence_done(struct world *w, const struct event *ev)
{
	trace(w, ev->host, "fence %llu %s", (unsigned long long)ev->a,
	      ev->b ? "confirms" : "fails");
	agent_feed(w, ev->host,
		   (struct ownership_input){
			   .type = OWN_EV_FENCED, .id = (unsigned)ev->a, .ok = ev->b});
}

static const struct {
	bool kills, says;
	uint64_t low, high; /* ms until it kills */
	uint64_t done;      /* ms more until it ends */
} fences[FENCE_MODES] = {
	[FENCE_WORKS] = {true, true, 2, 15, 8},
	[FENCE_SLOW] = {true, true, 100, 450, 40},
	[FENCE_FAILS] = {false, false, 5, 100, 20},
	[FENCE_HANGS] = {false, false, 480, 500, 20},
	[FENCE_KILLS_UNSAID] = {true, false, 10, 400, 100},
};

static void act_fence(struct world *w, int host, const struct ownership_action *a)
{
	enum fence_mode mode = w->host[host].fence;
	struct event kill = local(w, host, SCOPE_WORLD, on_fence_kills);
	struct event done = local(w, host, SCOPE_AGENT, on_fence_done);
	uint64_t after =
		chance_between(w, fences[mode].low * NS_PER_MS, fences[mode].high * NS_PER_MS);

	if (chance_percent(w, 50))
		kill.scope = SCOPE_AGENT; /* the command dies with the host that runs it */
	kill.a = (uint64_t)!host;
	done.a = a->id;
	done.b = fences[mode].says || w->breakage == BREAK_PROMOTE_ON_SILENCE;
	if (w->breakage == BREAK_PROMOTE_ON_SILENCE)
		after = NS_PER_MS;
	else if (fences[mode].kills)
		world_push(w, after, kill);
	world_push(w, after + 1 + chance_below(w, fences[mode].done * NS_PER_MS), done);
}

/* ---- the peer ----------------------------------------------------------------------------------
 */

static void act_tell(struct world *w, int host, const struct ownership_action *a)
{
	struct message m = {
		.kind = MSG_WORD, .word = a->word, .term = a->term, .flag = a->can_fence};

	m.handover = a->word == WORD_OFFER && agent_of(w, host)->own.handover;
	if (a->word == WORD_DROPPED && w->breakage == BREAK_KEEP_DROPPED_UNSAID)
		return;
	net_send(w, agent_of(w, host)->conn, host, STREAM_CONTROL, &m);
}

static void peer_up(struct world *w, int host)
{
	agent_of(w, host)->heard_at = w->now;
	agent_feed(w, host, (struct ownership_input){.type = OWN_EV_PEER_UP});
}

static void peer_lost(struct world *w, int host)
{
	struct agent *g = agent_of(w, host);
	bool was_up = g->own.peer_up;

	net_close(w, g->conn, host);
	g->conn = -1;
	if (was_up)
		agent_feed(w, host, (struct ownership_input){.type = OWN_EV_PEER_DOWN});
}

/* A dials, both send beats. */
static void on_beat(struct world *w, const struct event *ev)
{
	struct agent *g = agent_of(w, ev->host);
	struct message m = {.kind = MSG_HEART};

	world_push(w, BEAT_NS, *ev);
	if (w->breakage == BREAK_RESUME_ON_SILENCE && g->own.state == OWN_HANDED && g->conn < 0)
		agent_feed(w, ev->host,
			   (struct ownership_input){.type = OWN_EV_WORD,
						    .word = WORD_DROPPED,
						    .term = g->own.record.term});
	if (g->conn >= 0 && w->now - g->heard_at > PEER_LOSS_NS)
		peer_lost(w, ev->host);
	if (g->conn >= 0) {
		net_send(w, g->conn, ev->host, STREAM_CONTROL, &m);
	} else if (ev->host == 0) {
		g->conn = net_dial(w, 0, LINK_PEER, -1, 0);
		g->heard_at = w->now;
	}
}

void agent_dialled(struct world *w, int host, const struct message *m)
{
	struct agent *g = agent_of(w, host);
	struct message answer = {.kind = MSG_ANSWER};
	uint64_t gen = g->gen;

	if (g->conn >= 0)
		peer_lost(w, host);
	if (g->gen != gen)
		return;
	g->conn = m->conn;
	w->conn[m->conn].open[host] = true;
	net_send(w, m->conn, host, STREAM_CONTROL, &answer);
	peer_up(w, host);
}

void agent_receive(struct world *w, int host, const struct message *m)
{
	struct agent *g = agent_of(w, host);

	if (m->conn != g->conn)
		return;
	g->heard_at = w->now;
	if (m->kind == MSG_ANSWER)
		peer_up(w, host);
	else if (m->kind == MSG_RESET)
		peer_lost(w, host);
	else if (m->kind == MSG_WORD)
		agent_feed(w, host,
			   (struct ownership_input){.type = OWN_EV_WORD,
						    .word = m->word,
						    .term = m->term,
						    .can_fence = m->flag,
						    .handover = m->handover});
}

/* ---- driving the machine -----------------------------------------------------------------------
 */

static void on_protect(struct world *w, const struct event *ev)
{
	const struct proc *p = &w->host[ev->host].proc;
	struct agent *g = agent_of(w, ev->host);
	struct event again = *ev;

	if (g->own.state != OWN_ALONE)
		return;
	if (g->own.peer_up && !p->ended)
		agent_feed(w, ev->host, (struct ownership_input){.type = OWN_EV_PROTECT});
	else
		world_push(w, REPROTECT_NS, again);
}

static void act_report(struct world *w, int host, const struct ownership_action *a)
{
	trace(w, host, "owner: %s, term %#llx %s%s%s", ownership_state_name(a->state),
	      (unsigned long long)agent_of(w, host)->own.record.term,
	      ownership_role_name(agent_of(w, host)->own.record.role), a->why ? ": " : "",
	      a->why ? a->why : "");
	if (a->state == OWN_HANDED && w->breakage == BREAK_RETIRE_EARLY)
		act_retire_vm(w, host, a);
	if (a->state == OWN_ALONE && w->settings.reprotect)
		world_push(w, REPROTECT_NS, local(w, host, SCOPE_AGENT, on_protect));
}

typedef void act_fn(struct world *w, int host, const struct ownership_action *a);
static act_fn *const acts[OWN_ACTS] = {
	[OWN_STORE] = act_store,
	[OWN_TELL] = act_tell,
	[OWN_FENCE] = act_fence,
	[OWN_CONFIRM] = act_confirm,
	[OWN_CONFIRM_FORCED] = act_confirm,
	[OWN_KILL_VM] = act_kill_vm,
	[OWN_RETIRE_VM] = act_retire_vm,
	[OWN_START_VM] = act_start_vm,
	[OWN_START_SESSION] = act_start_session,
	[OWN_END_SESSION] = act_end_session,
	[OWN_CREATE_REPLICA] = act_create_replica,
	[OWN_DROP_REPLICA] = act_drop_replica,
	[OWN_LOAD] = act_promote,
	[OWN_PROMOTE] = act_promote,
	[OWN_REPORT] = act_report,
};

static void on_tick(struct world *w, const struct event *ev)
{
	struct agent *g = agent_of(w, ev->host);

	if (g->tick_at != ev->a)
		return;
	g->tick_at = 0;
	agent_feed(w, ev->host, (struct ownership_input){.type = OWN_EV_TICK});
}

static void set_tick(struct world *w, int host)
{
	struct agent *g = agent_of(w, host);
	uint64_t at = ownership_deadline(&g->own);
	struct event ev = local(w, host, SCOPE_AGENT, on_tick);

	if (at == UINT64_MAX || (g->tick_at && g->tick_at <= at))
		return;
	at = at > w->now ? at : w->now;
	g->tick_at = ev.a = at + chance_below(w, NS_PER_MS);
	world_push(w, g->tick_at - w->now, ev);
}

static void trace_act(struct world *w, int host, const struct ownership_input *in,
		      const struct ownership_action *a)
{
	if (a->type == OWN_REPORT || !w->trace)
		return;
	trace(w, host, "  %s %s -> %s %s term %#llx", ownership_event_name(in->type),
	      in->type == OWN_EV_WORD ? ownership_word_name(in->word) : "",
	      ownership_act_name(a->type),
	      a->type == OWN_TELL
		      ? ownership_word_name(a->word)
		      : (a->type == OWN_STORE ? ownership_role_name(a->record.role) : ""),
	      (unsigned long long)(a->type == OWN_STORE ? a->record.term : a->term));
}

/* Does going on alone rest on a fact? A fence says that the standby is dead, but not that
 * no operator had forced it to run before. */
static bool rests_on_fact(const struct world *w, const struct ownership *o)
{
	return o->dropped_term == o->record.term || (o->fenced && !w->forced_promotion);
}

void agent_feed(struct world *w, int host, struct ownership_input in)
{
	struct agent *g = agent_of(w, host);
	const struct ownership *o = &g->own;
	uint64_t gen = g->gen;
	struct ownership_actions out;
	bool was_solid = rests_on_fact(w, o);
	int rc;

	if (!gen)
		return;
	in.now = w->now;
	rc = ownership_event(&g->own, &in, &out);
	if (rc) {
		trace(w, host, "ownership refuses %s in %s: %d", ownership_event_name(in.type),
		      ownership_state_name(o->state), rc);
		return;
	}
	if (in.type != OWN_EV_STORED)
		was_solid = rests_on_fact(w, o);
	for (unsigned i = 0; i < out.count; i++) {
		trace_act(w, host, &in, &out.item[i]);
		g->solid = was_solid;
		acts[out.item[i].type](w, host, &out.item[i]);
		if (!host_acts(w, host, gen, SCOPE_AGENT))
			return;
	}
	set_tick(w, host);
}

/* After a restart the vm process says how it stands. */
static void ask_process(struct world *w, int host)
{
	const struct proc *p = &w->host[host].proc;
	const struct ownership *o = &agent_of(w, host)->own;

	if (p->role != PROC_RUNS)
		return;
	if (o->record.role == ROLE_PRIMARY && p->term != o->record.term)
		agent_tell(w, host, OWN_EV_SESSION_OVER, o->record.term, false);
	if (!p->has_session)
		return;
	if ((p->primary.state == PRIMARY_LOST && !p->primary.owned) ||
	    (p->primary.state == PRIMARY_HANDED && p->keeps))
		agent_tell(w, host, OWN_EV_SESSION_LOST, p->term, false);
	else if (p->primary.state == PRIMARY_UNPROTECTED)
		agent_tell(w, host, OWN_EV_SESSION_OVER, p->term, false);
	else if (p->primary.state == PRIMARY_HANDED)
		agent_tell(w, host, OWN_EV_HANDED, p->term, false);
	else if (primary_core_report(&p->primary) == REPLICATOR_FREEZING && w->settings.early)
		agent_tell(w, host, OWN_EV_FREEZING, p->term, false);
}

void agent_start(struct world *w, int host)
{
	struct host *h = &w->host[host];
	struct ownership_config c = {
		.can_fence = h->can_fence,
		.continue_alone = w->settings.policy == STANDBY_LOSS_CONTINUE,
		.senior = host == 0,
		.fence_delay_ns = 200 * NS_PER_MS,
		.ask_ns = 10 * NS_PER_MS,
		.reset_ns = 100 * NS_PER_MS,
		.retry_ns = 50 * NS_PER_MS,
		.retry_max_ns = 800 * NS_PER_MS,
		.ready_ns = 800 * NS_PER_MS,
	};
	struct event beat = local(w, host, SCOPE_AGENT, on_beat);

	if (!h->gen || h->agent.gen)
		return;
	h->agent = (struct agent){.gen = ++w->gens, .conn = -1};
	ownership_init(&h->agent.own, &c);
	agent_feed(w, host,
		   (struct ownership_input){.type = OWN_EV_START,
					    .record = h->disk,
					    .alive = h->proc.role == PROC_RUNS});
	if (!h->agent.gen)
		return;
	if (w->breakage == BREAK_RELEASE_UNSAID)
		h->agent.own.handed = h->agent.own.state == OWN_HANDED;
	ask_process(w, host);
	beat.gen = h->agent.gen;
	world_push(w, chance_below(w, BEAT_NS), beat);
}

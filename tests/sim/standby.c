// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "tests/sim/sim.h"

/* A vm process that holds a twin: what replica.c does with threads and sockets. */

static struct proc *proc_of(struct world *w, int host)
{
	return &w->host[host].proc;
}

bool standby_is_whole(const struct proc *p)
{
	enum standby_state s = p->standby.state;

	return p->role == PROC_REPLICA && p->standby.whole && s != STANDBY_RELEASED &&
	       s != STANDBY_BROKEN;
}

static void on_heart(struct world *w, const struct event *ev)
{
	struct message m = {.kind = MSG_HEART};

	world_push(w, w->settings.heartbeat_ns, *ev);
	net_send(w, proc_of(w, ev->host)->conn, ev->host, STREAM_CONTROL, &m);
}

void standby_create(struct world *w, int host, uint64_t term)
{
	const struct settings *s = &w->settings;
	struct standby_config c = {.heartbeat_ns = s->heartbeat_ns,
				   .loss_ns = s->loss_ns,
				   .streams = BULKS,
				   .window = s->window,
				   .term = term};

	proc_begin(w, host, PROC_REPLICA, term);
	guest_twin(w, &proc_of(w, host)->guest);
	if (standby_core_init(&proc_of(w, host)->standby, &c))
		violate(w, V_CORE, "bad settings");
	world_push(w, NS_PER_MS, (struct event){.fn = on_heart, .scope = SCOPE_PROC, .host = host});
}

/* ---- staging and commit --------------------------------------------------------- */

static struct staged_epoch *stage(struct proc *p, uint64_t epoch)
{
	struct staged_epoch *s = &p->staged[epoch % STAGED_MAX];

	if (s->epoch != epoch)
		memset(s, 0, sizeof(*s));
	s->epoch = epoch;
	return s;
}

static void take_cargo(struct proc *p, const struct message *m)
{
	struct cargo *c = &stage(p, m->epoch)->cargo[m->stream - STREAM_BULK];

	if (!standby_core_direct(&p->standby, m->epoch)) {
		*c = *m->cargo;
		return;
	}
	guest_apply(&p->guest, m->cargo, 0, PAGES_MAX);
	if (m->cargo->has_state) {
		*c = *m->cargo;
		c->count = 0;
	}
}

static uint64_t commit_time(struct world *w)
{
	if (w->settings.commit_fails && chance_percent(w, 3))
		return chance_below(w, 300 * NS_PER_MS);
	return chance_between(w, NS_PER_MS / 20, NS_PER_MS);
}

/* In two steps, so that a crash or a promotion can come between them. */
static void on_commit(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);
	struct staged_epoch *s = &p->staged[ev->a % STAGED_MAX];
	unsigned half = s->cargo[0].count / 2;

	if (ev->b == 0) {
		guest_apply(&p->guest, &s->cargo[1], 0, PAGES_MAX);
		guest_apply(&p->guest, &s->cargo[0], 0, half);
		world_push(w, commit_time(w),
			   (struct event){.fn = on_commit,
					  .scope = SCOPE_PROC,
					  .host = ev->host,
					  .a = ev->a,
					  .b = 1});
		return;
	}
	if (w->settings.commit_fails && chance_percent(w, 1)) {
		standby_feed(
			w, ev->host,
			(struct standby_input){.type = STANDBY_EV_COMMIT_FAILED, .epoch = ev->a});
		return;
	}
	guest_apply(&p->guest, &s->cargo[0], half, PAGES_MAX);
	observe_commit(w, ev->host, ev->a);
	standby_feed(w, ev->host,
		     (struct standby_input){.type = STANDBY_EV_COMMITTED, .epoch = ev->a});
}

static void act_commit(struct world *w, int host, const struct core_action *a)
{
	world_push(
		w, commit_time(w),
		(struct event){.fn = on_commit, .scope = SCOPE_PROC, .host = host, .a = a->epoch});
}

static void act_discard(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	for (unsigned i = 0; i < STAGED_MAX; i++) {
		struct staged_epoch *s = &p->staged[i];

		if (s->epoch <= a->epoch)
			continue;
		if (w->breakage == BREAK_APPLY_HALF)
			for (unsigned bulk = 0; bulk < BULKS; bulk++)
				guest_apply(&p->guest, &s->cargo[bulk], 0, PAGES_MAX);
		memset(s, 0, sizeof(*s));
	}
}

/* ---- the other actions -------------------------------------------------------------- */

static void act_ack(struct world *w, int host, const struct core_action *a)
{
	struct message m = {.kind = MSG_ACK, .epoch = a->epoch};

	if (w->breakage != BREAK_ACK_BEFORE_WHOLE)
		net_send(w, proc_of(w, host)->conn, host, STREAM_CONTROL, &m);
}

static void on_loaded(struct world *w, const struct event *ev)
{
	bool fails = w->settings.commit_fails && chance_percent(w, 5);

	standby_feed(
		w, ev->host,
		(struct standby_input){.type = fails ? STANDBY_EV_LOAD_FAILED : STANDBY_EV_LOADED});
}

static void act_load(struct world *w, int host, const struct core_action *a)
{
	world_push(w, chance_between(w, NS_PER_MS / 5, 3 * NS_PER_MS),
		   (struct event){.fn = on_loaded, .scope = SCOPE_PROC, .host = host});
}

static void act_bye_ack(struct world *w, int host, const struct core_action *a)
{
	struct message m = {.kind = MSG_BYE_ACK};

	net_send(w, proc_of(w, host)->conn, host, STREAM_CONTROL, &m);
}

static void act_close(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	net_close(w, p->conn, host);
	p->conn = -1;
}

static void start(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	observe_promotion(w, host);
	p->unowned = p->loading && !p->loaded;
	agent_tell(w, host, p->unowned ? OWN_EV_LOADED : OWN_EV_PROMOTED, p->term, false);
	primary_take_over(w, host);
}

/* What is loaded has but to start, which hardly ever fails. */
static void loaded_start(struct world *w, int host)
{
	if (w->settings.commit_fails && chance_percent(w, 20))
		proc_end(w, host, "the loaded vm does not start");
	else
		start(w, host);
}

static void act_report(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	trace(w, host, "replica of session %d is %s at epoch %llu%s%s", p->session,
	      standby_state_name(p->standby.state), (unsigned long long)p->standby.whole,
	      a->why ? ": " : "", a->why ? a->why : "");
	if (a->state == REPLICA_READY)
		agent_tell(w, host, OWN_EV_REPLICA_READY, p->term, false);
	else if (a->state == REPLICA_LOST)
		agent_tell(w, host, OWN_EV_REPLICA_LOST, p->term, a->why && strstr(a->why, "link"));
	if (a->state == REPLICA_RELEASED || a->state == REPLICA_BROKEN) {
		observe_broken(w, host);
		proc_end(w, host, "the replica has no more use");
	} else if (a->state == REPLICA_PROMOTED && p->loading &&
		   w->breakage != BREAK_START_UNOWNED) {
		p->loaded = true;
		agent_tell(w, host, OWN_EV_LOADED, p->term, false);
		if (p->start_asked)
			loaded_start(w, host);
	} else if (a->state == REPLICA_PROMOTED) {
		start(w, host);
	}
}

typedef void act_fn(struct world *w, int host, const struct core_action *a);
static act_fn *const acts[STANDBY_ACTIONS] = {
	[STANDBY_ACK] = act_ack,         [STANDBY_COMMIT] = act_commit,
	[STANDBY_DISCARD] = act_discard, [STANDBY_LOAD] = act_load,
	[STANDBY_BYE_ACK] = act_bye_ack, [STANDBY_CLOSE] = act_close,
	[STANDBY_REPORT] = act_report,
};

/* ---- driving the core ------------------------------------------------------------------ */

static void on_tick(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);

	if (p->role != PROC_REPLICA || p->tick_at != ev->a)
		return;
	p->tick_at = 0;
	standby_feed(w, ev->host, (struct standby_input){.type = STANDBY_EV_TICK});
}

static void set_tick(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);
	uint64_t at = standby_core_deadline(&p->standby);

	if (at == UINT64_MAX || (p->tick_at && p->tick_at <= at))
		return;
	at = at > w->now ? at : w->now;
	p->tick_at = at + chance_below(w, NS_PER_MS / 2);
	world_push(
		w, p->tick_at - w->now,
		(struct event){.fn = on_tick, .scope = SCOPE_PROC, .host = host, .a = p->tick_at});
}

/* What the other side caused and is refused breaks the session. */
static void refused(struct world *w, int host, enum standby_event type)
{
	trace(w, host, "standby refuses %s in %s", standby_event_name(type),
	      standby_state_name(proc_of(w, host)->standby.state));
	if (type == STANDBY_EV_PROMOTE)
		proc_end(w, host, "the promotion is refused");
	else if (type == STANDBY_EV_BEGIN || type == STANDBY_EV_END)
		standby_feed(w, host, (struct standby_input){.type = STANDBY_EV_BAD_INPUT});
}

void standby_feed(struct world *w, int host, struct standby_input in)
{
	struct proc *p = proc_of(w, host);
	uint64_t gen = p->gen;
	struct core_actions out;

	if (p->role != PROC_REPLICA)
		return;
	in.now = w->now;
	if (standby_core_event(&p->standby, &in, &out)) {
		refused(w, host, in.type);
		return;
	}
	for (unsigned i = 0; i < out.count; i++) {
		if (!host_acts(w, host, gen, SCOPE_PROC))
			return;
		if (out.item[i].type != STANDBY_REPORT)
			trace(w, host, "  %s -> %s %llu", standby_event_name(in.type),
			      standby_action_name((enum standby_action)out.item[i].type),
			      (unsigned long long)out.item[i].epoch);
		acts[out.item[i].type](w, host, &out.item[i]);
	}
	if (p->gen == gen && p->role == PROC_REPLICA)
		set_tick(w, host);
}

/* polluxd routes a connection to the replica that it is for, or refuses it. */
void standby_dialled(struct world *w, int host, const struct message *m)
{
	struct proc *p = proc_of(w, host);
	struct message answer = {.kind = MSG_ANSWER};
	bool mine = p->role == PROC_REPLICA && p->term == m->term && p->conn < 0 &&
		    p->standby.state == STANDBY_WAITING;

	w->conn[m->conn].open[host] = true;
	if (!mine) {
		answer.kind = MSG_REFUSE;
		answer.flag = w->host[host].agent.own.record.term > m->term;
		net_send(w, m->conn, host, STREAM_CONTROL, &answer);
		w->conn[m->conn].open[host] = false;
		return;
	}
	p->conn = m->conn;
	p->session = w->conn[m->conn].session;
	net_send(w, m->conn, host, STREAM_CONTROL, &answer);
	standby_feed(w, host, (struct standby_input){.type = STANDBY_EV_CONNECTED});
}

static void receive_cargo(struct world *w, int host, const struct message *m)
{
	struct proc *p = proc_of(w, host);
	struct core_actions out;
	struct standby_input in = {.type = STANDBY_EV_DATA,
				   .now = w->now,
				   .epoch = m->epoch,
				   .stream = m->stream - STREAM_BULK};

	if (standby_core_event(&p->standby, &in, &out) == 0)
		take_cargo(p, m);
	else if (p->conn >= 0)
		standby_feed(w, host, (struct standby_input){.type = STANDBY_EV_BAD_INPUT});
}

/* Break: the first stream's end is taken for the whole epoch's. */
static void acknowledge_early(struct world *w, int host, const struct message *m)
{
	struct proc *p = proc_of(w, host);
	struct message ack = {.kind = MSG_ACK, .epoch = m->epoch};
	unsigned other = !(m->stream - STREAM_BULK);

	if (w->breakage == BREAK_ACK_BEFORE_WHOLE && p->standby.ended[other] < m->epoch)
		net_send(w, p->conn, host, STREAM_CONTROL, &ack);
}

void standby_receive(struct world *w, int host, const struct message *m)
{
	static const enum standby_event events[MESSAGE_KINDS] = {
		[MSG_RESET] = STANDBY_EV_LINK_LOST, [MSG_HEART] = STANDBY_EV_HEARD,
		[MSG_BEGIN] = STANDBY_EV_BEGIN,     [MSG_END] = STANDBY_EV_END,
		[MSG_BYE] = STANDBY_EV_BYE,
	};

	if (m->conn != proc_of(w, host)->conn)
		return;
	if (m->kind == MSG_CARGO) {
		receive_cargo(w, host, m);
		return;
	}
	if (m->kind == MSG_END)
		acknowledge_early(w, host, m);
	standby_feed(w, host,
		     (struct standby_input){.type = events[m->kind],
					    .epoch = m->epoch,
					    .stream = m->stream - STREAM_BULK});
}

void standby_promote(struct world *w, int host, uint64_t term, bool load_only)
{
	struct proc *p = proc_of(w, host);

	if (p->role != PROC_REPLICA)
		return;
	if (p->loading && !p->loaded) {
		p->start_asked |= !load_only;
	} else if (!p->loaded) {
		p->loading = load_only;
		standby_feed(w, host,
			     (struct standby_input){.type = STANDBY_EV_PROMOTE, .term = term});
	} else {
		loaded_start(w, host);
	}
}

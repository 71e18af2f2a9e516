// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

/* A vm process that runs the guest: what replicator.c does with threads and sockets. */

static struct proc *proc_of(struct world *w, int host)
{
	return &w->host[host].proc;
}

/* ---- output --------------------------------------------------------------------- */

static void emit_until(struct world *w, int host, uint64_t epoch)
{
	struct proc *p = proc_of(w, host);
	unsigned n = 0;

	while (n < p->held_count && p->held[n].epoch <= epoch)
		observe_output(w, host, &p->held[n++]);
	p->held_count -= n;
	for (unsigned i = 0; i < p->held_count; i++)
		p->held[i] = p->held[i + n];
}

static void hold(struct proc *p, uint64_t open_epoch)
{
	p->holding = true;
	p->open_epoch = open_epoch;
	for (unsigned i = 0; i < p->held_count; i++)
		p->held[i].epoch = open_epoch;
}

static void pass(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	observe_pass(w, host);
	p->holding = false;
	emit_until(w, host, UINT64_MAX);
}

/* ---- the guest's life -------------------------------------------------------------- */

static bool guest_runs(const struct proc *p)
{
	return !p->paused && !p->frozen && !p->stalled && !p->dead_stop && !p->ended &&
	       p->held_count + FRAMES_A_STEP <= HELD_MAX;
}

static void guest_outputs(struct world *w, int host, uint64_t number, uint64_t hash)
{
	struct proc *p = proc_of(w, host);
	struct output o = {.number = number,
			   .lineage = p->guest.lineage,
			   .epoch = p->open_epoch,
			   .hash = hash,
			   .at = w->now};

	if (!p->holding) {
		observe_output(w, host, &o);
		return;
	}
	p->held[p->held_count++] = o;
	if (p->has_session)
		primary_feed(w, host, (struct primary_input){.type = PRIMARY_EV_OUTPUT});
}

static void on_guest(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);
	uint64_t gen = p->gen;
	unsigned made;

	world_push(w, chance_between(w, 2 * NS_PER_MS, 8 * NS_PER_MS), *ev);
	if (!guest_runs(p))
		return;
	made = guest_step(w, &p->guest);
	for (unsigned i = 0; i < made && p->gen == gen; i++)
		guest_outputs(w, ev->host, p->guest.outputs - made + 1 + i,
			      p->guest.engine ? engine_frame(p->guest.engine, i) : 0);
}

static void on_heart(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);
	struct message m = {.kind = MSG_HEART};

	world_push(w, w->settings.heartbeat_ns, *ev);
	net_send(w, p->conn, ev->host, STREAM_CONTROL, &m);
}

static void run(struct world *w, int host)
{
	world_push(w, NS_PER_MS, (struct event){.fn = on_guest, .scope = SCOPE_PROC, .host = host});
	world_push(w, NS_PER_MS, (struct event){.fn = on_heart, .scope = SCOPE_PROC, .host = host});
}

void primary_boot(struct world *w, int host, uint64_t term)
{
	proc_begin(w, host, PROC_RUNS, term);
	guest_boot(w, &proc_of(w, host)->guest);
	observe_start(w, host, "boots");
	run(w, host);
}

void primary_take_over(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	p->role = PROC_RUNS;
	p->has_session = false;
	p->term = p->standby.new_term;
	if (!guest_wake(w, &p->guest))
		violate(w, V_I2, "I2: the promoted vm finds itself damaged");
	observe_start(w, host, "is promoted");
	world_push(w, NS_PER_MS, (struct event){.fn = on_guest, .scope = SCOPE_PROC, .host = host});
}

/* ---- copy, seal, send ------------------------------------------------------------------ */

static void send_cargo(struct world *w, int host, unsigned bulk, uint64_t epoch,
		       const struct cargo *c)
{
	struct message m = {.kind = MSG_CARGO, .epoch = epoch};

	m.cargo = malloc(sizeof(*m.cargo));
	if (!m.cargo)
		abort();
	*m.cargo = *c;
	net_send(w, proc_of(w, host)->conn, host, STREAM_BULK + bulk, &m);
}

static void send_mark(struct world *w, int host, enum message_kind kind, unsigned bulk,
		      uint64_t epoch)
{
	struct message m = {.kind = kind, .epoch = epoch};

	net_send(w, proc_of(w, host)->conn, host, STREAM_BULK + bulk, &m);
}

#define COPY_ROUNDS 3

static void copy_step(struct world *w, int host, uint64_t round, uint64_t session);

/* The first full copy, while the guest runs: what it writes meanwhile is dirty again. */
static void on_copy(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);
	unsigned pages = guest_pages(&p->guest), n = (unsigned)ev->a;
	struct page_set third =
		pages_between(n * pages / COPY_ROUNDS, (n + 1) * pages / COPY_ROUNDS);
	struct cargo c;

	if ((uint64_t)p->session != ev->b || p->primary.state != PRIMARY_SYNCING)
		return;
	for (unsigned bulk = 0; bulk < BULKS; bulk++) {
		guest_pack(w, &p->guest, third, bulk, &c);
		c.has_state = false;
		send_cargo(w, ev->host, bulk, 1, &c);
	}
	if (ev->a + 1 == COPY_ROUNDS) {
		bool gives_up = p->primary.config.handover && chance_percent(w, 4);

		primary_feed(w, ev->host,
			     (struct primary_input){.type = gives_up ? PRIMARY_EV_STOP
								     : PRIMARY_EV_SYNCED});
		return;
	}
	copy_step(w, ev->host, ev->a + 1, ev->b);
}

static void copy_step(struct world *w, int host, uint64_t round, uint64_t session)
{
	world_push(w, chance_between(w, NS_PER_MS, 6 * NS_PER_MS),
		   (struct event){.fn = on_copy,
				  .scope = SCOPE_PROC,
				  .host = host,
				  .a = round,
				  .b = session});
}

static void act_copy(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	guest_watch(&p->guest);
	for (unsigned bulk = 0; bulk < BULKS; bulk++)
		send_mark(w, host, MSG_BEGIN, bulk, 1);
	world_push(w, NS_PER_MS,
		   (struct event){.fn = on_copy,
				  .scope = SCOPE_PROC,
				  .host = host,
				  .b = (uint64_t)p->session});
}

/* The guest runs again. */
static void on_sealed(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);
	bool failed = ev->b & 1;

	if ((uint64_t)p->session != ev->b >> 1)
		return;
	p->paused = false;
	if (!failed && w->breakage == BREAK_RELEASE_EARLY)
		emit_until(w, ev->host, ev->a);
	primary_feed(
		w, ev->host,
		(struct primary_input){.type = failed ? PRIMARY_EV_SEAL_FAILED : PRIMARY_EV_SEALED,
				       .epoch = ev->a});
	if (failed && p->primary.config.handover)
		copy_step(w, ev->host, COPY_ROUNDS - 1, (uint64_t)p->session);
}

static void seal_contents(struct world *w, struct proc *p, uint64_t epoch)
{
	struct sealed_epoch *s = &p->flight[epoch % STAGED_MAX];
	struct session *session = &w->session[p->session];

	s->epoch = epoch;
	for (unsigned bulk = 0; bulk < BULKS; bulk++)
		guest_pack(w, &p->guest, p->harvest, bulk, &s->cargo[bulk]);
	session->printed[epoch % EPOCHS_KEPT] = epoch;
	session->print[epoch % EPOCHS_KEPT] = guest_print(&p->guest, s->cargo[0].machine);
}

static void act_seal(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);
	bool fails = w->settings.seal_fails && chance_percent(w, 15);
	uint64_t pause = chance_between(w, NS_PER_MS / 10, NS_PER_MS);

	if (chance_percent(w, 2))
		pause += chance_below(w, 20 * NS_PER_MS);
	p->paused = true;
	p->harvest = guest_harvest(&p->guest);
	if (!fails) {
		seal_contents(w, p, a->epoch);
		if (a->hold && w->breakage != BREAK_HOLD_LATE)
			hold(p, a->epoch + 1);
		p->open_epoch = a->epoch + 1;
	}
	p->frozen = !fails && p->primary.config.handover && w->breakage != BREAK_RUN_FROZEN;
	world_push(w, pause,
		   (struct event){.fn = on_sealed,
				  .scope = SCOPE_PROC,
				  .host = host,
				  .a = a->epoch,
				  .b = (uint64_t)p->session << 1 | fails});
}

static void on_sent(struct world *w, const struct event *ev)
{
	if ((uint64_t)proc_of(w, ev->host)->session == ev->b)
		primary_feed(w, ev->host,
			     (struct primary_input){.type = PRIMARY_EV_SENT, .epoch = ev->a});
}

static void act_send(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);
	const struct sealed_epoch *s = &p->flight[a->epoch % STAGED_MAX];

	assert(s->epoch == a->epoch);
	for (unsigned bulk = 0; bulk < BULKS; bulk++) {
		if (a->epoch > 1)
			send_mark(w, host, MSG_BEGIN, bulk, a->epoch);
		send_cargo(w, host, bulk, a->epoch, &s->cargo[bulk]);
		send_mark(w, host, MSG_END, bulk, a->epoch);
	}
	world_push(w, NS_PER_MS / 10,
		   (struct event){.fn = on_sent,
				  .scope = SCOPE_PROC,
				  .host = host,
				  .a = a->epoch,
				  .b = (uint64_t)p->session});
}

/* ---- the other actions --------------------------------------------------------------------- */

static void act_connect(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	if (chance_percent(w, 5)) /* a connection that was begun twice */
		net_dial(w, host, LINK_DATA, p->session, p->term);
	p->conn = net_dial(w, host, LINK_DATA, p->session, p->term);
}

static void act_release(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	emit_until(w, host, a->epoch);
	if (w->breakage == BREAK_HOLD_LATE && !p->holding)
		hold(p, p->open_epoch);
}

static void act_hold(struct world *w, int host, const struct core_action *a)
{
	hold(proc_of(w, host), a->epoch);
}

static void act_pass(struct world *w, int host, const struct core_action *a)
{
	pass(w, host);
}

static void resume(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	if (p->frozen)
		observe_resume(w, host);
	p->stalled = p->frozen = false;
}

static void act_ask(struct world *w, int host, const struct core_action *a)
{
	bool handover = proc_of(w, host)->primary.config.handover;

	if (w->breakage == BREAK_PASS_WITHOUT_OWNERSHIP ||
	    (w->breakage == BREAK_RESUME_UNOWNED && handover)) {
		pass(w, host);
		resume(w, host);
	}
	agent_tell(w, host, OWN_EV_SESSION_LOST, proc_of(w, host)->term, false);
}

static void act_stall(struct world *w, int host, const struct core_action *a)
{
	proc_of(w, host)->stalled = true;
}

static void act_resume(struct world *w, int host, const struct core_action *a)
{
	resume(w, host);
}

static void act_stop_vcpus(struct world *w, int host, const struct core_action *a)
{
	proc_of(w, host)->dead_stop = true;
}

static void act_bye(struct world *w, int host, const struct core_action *a)
{
	struct message m = {.kind = MSG_BYE};

	if (w->breakage == BREAK_NO_BYE)
		primary_feed(w, host, (struct primary_input){.type = PRIMARY_EV_BYE_ACKED});
	else
		net_send(w, proc_of(w, host)->conn, host, STREAM_CONTROL, &m);
}

static void act_merge(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	if (w->breakage != BREAK_FORGET_MERGE)
		pages_merge(&p->guest.dirty, p->harvest);
}

static void act_close(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	net_close(w, p->conn, host);
	p->conn = -1;
}

static void on_exit_after_poweroff(struct world *w, const struct event *ev)
{
	proc_end(w, ev->host, "the guest is off");
}

static void power_is_off(struct world *w, int host)
{
	trace(w, host, "power off is complete");
	w->vm_ended = true;
	world_push(w, NS_PER_MS,
		   (struct event){.fn = on_exit_after_poweroff, .scope = SCOPE_PROC, .host = host});
}

/* A link that memory is to follow over may be cut by then, and the session counts as lost. */
static void report_handed(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	p->keeps = chance_percent(w, 5);
	w->handed += !p->keeps;
	trace(w, host, "the process %s", p->keeps ? "keeps the vm" : "hands over");
	agent_tell(w, host, p->keeps ? OWN_EV_SESSION_LOST : OWN_EV_HANDED, p->term, false);
}

static void act_report(struct world *w, int host, const struct core_action *a)
{
	struct proc *p = proc_of(w, host);

	trace(w, host, "session %d is %s%s%s", p->session, primary_state_name(p->primary.state),
	      a->why ? ": " : "", a->why ? a->why : "");
	if (a->state == REPLICATOR_PROTECTED)
		w->protections++;
	if (a->state == REPLICATOR_FREEZING && w->settings.early)
		agent_tell(w, host, OWN_EV_FREEZING, p->term, false);
	if (a->state == REPLICATOR_HANDED)
		report_handed(w, host);
	if (a->state != REPLICATOR_UNPROTECTED)
		return;
	agent_tell(w, host, OWN_EV_SESSION_OVER, p->term, false);
	if (p->ended)
		power_is_off(w, host);
}

typedef void act_fn(struct world *w, int host, const struct core_action *a);
static act_fn *const acts[PRIMARY_ACTIONS] = {
	[PRIMARY_CONNECT] = act_connect,
	[PRIMARY_COPY] = act_copy,
	[PRIMARY_SEAL] = act_seal,
	[PRIMARY_SEND] = act_send,
	[PRIMARY_RELEASE] = act_release,
	[PRIMARY_HOLD] = act_hold,
	[PRIMARY_PASS] = act_pass,
	[PRIMARY_ASK] = act_ask,
	[PRIMARY_STALL] = act_stall,
	[PRIMARY_RESUME] = act_resume,
	[PRIMARY_STOP_VCPUS] = act_stop_vcpus,
	[PRIMARY_BYE] = act_bye,
	[PRIMARY_MERGE] = act_merge,
	[PRIMARY_CLOSE] = act_close,
	[PRIMARY_REPORT] = act_report,
};

/* ---- driving the core ----------------------------------------------------------------------- */

static void on_tick(struct world *w, const struct event *ev)
{
	struct proc *p = proc_of(w, ev->host);

	if (p->role != PROC_RUNS || p->tick_at != ev->a)
		return;
	p->tick_at = 0;
	primary_feed(w, ev->host, (struct primary_input){.type = PRIMARY_EV_TICK});
}

static void set_tick(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);
	uint64_t at = primary_core_deadline(&p->primary);

	if (at == UINT64_MAX || (p->tick_at && p->tick_at <= at))
		return;
	at = at > w->now ? at : w->now;
	p->tick_at = at + chance_below(w, NS_PER_MS / 2);
	world_push(
		w, p->tick_at - w->now,
		(struct event){.fn = on_tick, .scope = SCOPE_PROC, .host = host, .a = p->tick_at});
}

void primary_feed(struct world *w, int host, struct primary_input in)
{
	struct proc *p = proc_of(w, host);
	uint64_t gen = p->gen;
	struct core_actions out;

	if (!p->has_session)
		return;
	in.now = w->now;
	if (primary_core_event(&p->primary, &in, &out)) {
		trace(w, host, "primary refuses %s in %s", primary_event_name(in.type),
		      primary_state_name(p->primary.state));
		return;
	}
	for (unsigned i = 0; i < out.count; i++) {
		if (!host_acts(w, host, gen, SCOPE_PROC))
			return;
		if (out.item[i].type != PRIMARY_REPORT)
			trace(w, host, "  %s -> %s %llu", primary_event_name(in.type),
			      primary_action_name((enum primary_action)out.item[i].type),
			      (unsigned long long)out.item[i].epoch);
		acts[out.item[i].type](w, host, &out.item[i]);
	}
	if (p->gen == gen)
		set_tick(w, host);
}

void primary_session(struct world *w, int host, uint64_t term, bool handover)
{
	struct proc *p = proc_of(w, host);
	const struct settings *s = &w->settings;
	struct primary_config c = {
		.mode = s->mode,
		.policy = handover ? STANDBY_LOSS_CONTINUE : s->policy,
		.interval_ns = s->interval_ns,
		.heartbeat_ns = s->heartbeat_ns,
		.loss_ns = s->loss_ns,
		.ack_ns = s->ack_ns,
		.bye_ns = handover ? s->cancel_ns : s->ack_ns,
		.window = s->window,
		.handover = handover,
		.held = p->has_session && p->primary.state == PRIMARY_LOST,
	};

	if (c.held && !p->primary.owned)
		violate(w, V_CORE, "a new session begins while ownership of the last is open");
	assert(w->sessions < SESSIONS_MAX);
	p->session = w->sessions++;
	w->session[p->session] = (struct session){.term = term, .handover = handover};
	p->term = term;
	p->has_session = true;
	p->tick_at = 0;
	p->paused = p->keeps = false;
	if (primary_core_init(&p->primary, &c))
		violate(w, V_CORE, "bad settings");
	primary_feed(w, host, (struct primary_input){.type = PRIMARY_EV_START});
}

void primary_end_guest(struct world *w, int host)
{
	struct proc *p = proc_of(w, host);

	if (p->role != PROC_RUNS || p->ended || p->dead_stop || p->stalled || p->frozen)
		return;
	if (p->paused && p->primary.config.handover)
		return;
	trace(w, host, "the guest powers itself off");
	p->ended = true;
	if (!p->has_session || p->primary.state == PRIMARY_UNPROTECTED)
		power_is_off(w, host);
	else
		primary_feed(w, host, (struct primary_input){.type = PRIMARY_EV_GUEST_ENDED});
}

static const struct {
	bool known;
	enum primary_event event;
} receipts[MESSAGE_KINDS] = {
	[MSG_ANSWER] = {true, PRIMARY_EV_CONNECTED}, [MSG_RESET] = {true, PRIMARY_EV_LINK_LOST},
	[MSG_REFUSE] = {true, PRIMARY_EV_REFUSED},   [MSG_HEART] = {true, PRIMARY_EV_HEARD},
	[MSG_ACK] = {true, PRIMARY_EV_ACK},          [MSG_BYE_ACK] = {true, PRIMARY_EV_BYE_ACKED},
};

void primary_receive(struct world *w, int host, const struct message *m)
{
	struct proc *p = proc_of(w, host);

	if (m->conn != p->conn || !receipts[m->kind].known)
		return;
	primary_feed(w, host,
		     (struct primary_input){.type = receipts[m->kind].event,
					    .epoch = m->epoch,
					    .newer_term = m->flag});
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/sim.h"

#define FAULTS_BEGIN (20 * NS_PER_MS)
#define FAULTS_SPAN  (1200 * NS_PER_MS)

static void at(struct world *w, uint64_t after, event_fn *fn, uint64_t a, uint64_t b)
{
	world_push(w, after, (struct event){.fn = fn, .scope = SCOPE_WORLD, .a = a, .b = b});
}

static uint64_t some_time(struct world *w)
{
	return FAULTS_BEGIN + chance_below(w, FAULTS_SPAN);
}

/* ---- what can go wrong: a = host or link ------------------------------------------- */

static void on_boot(struct world *w, const struct event *ev)
{
	host_boot(w, (int)ev->a);
	agent_start(w, (int)ev->a);
}

static void on_crash(struct world *w, const struct event *ev)
{
	host_crash(w, (int)ev->a, "somebody pulled the plug");
	if (ev->b)
		at(w, ev->b, on_boot, ev->a, 0);
}

static void plan_crash(struct world *w)
{
	uint64_t back = chance_percent(w, 70) ? chance_below(w, 900 * NS_PER_MS) : 0;

	at(w, some_time(w), on_crash, chance_below(w, HOSTS), back);
}

static void plan_crash_at_step(struct world *w)
{
	struct host *h = &w->host[chance_below(w, HOSTS)];

	h->crash_at_step = 1 + chance_below(w, chance_percent(w, 50) ? 60 : 1200);
}

static void on_kill(struct world *w, const struct event *ev)
{
	if (w->host[ev->a].proc.gen)
		proc_end(w, (int)ev->a, "killed");
}

static void plan_kill(struct world *w)
{
	at(w, some_time(w), on_kill, chance_below(w, HOSTS), 0);
}

static void on_agent_dies(struct world *w, const struct event *ev)
{
	faults_agent_ends(w, (int)ev->a);
}

void faults_agent_ends(struct world *w, int host)
{
	agent_end(w, host);
	at(w, 5 * NS_PER_MS + chance_below(w, 200 * NS_PER_MS), on_boot, (uint64_t)host, 0);
}

static void plan_agent_dies(struct world *w)
{
	at(w, some_time(w), on_agent_dies, chance_below(w, HOSTS), 0);
}

static void on_cut(struct world *w, const struct event *ev)
{
	trace(w, (int)(ev->a & 1), "cut: its %s link %s", ev->a >> 1 ? "peer" : "data",
	      ev->b ? "fails" : "heals");
	net_cut(w, (enum link_id)(ev->a >> 1), (int)(ev->a & 1), ev->b);
}

/* which: bit 0, 1 = from A, B on the data link; bit 2, 3 = on the peer link */
static void plan_cut_of(struct world *w, unsigned which, uint64_t begin)
{
	uint64_t lasts = chance_between(w, NS_PER_MS,
					chance_percent(w, 50) ? 80 * NS_PER_MS : 900 * NS_PER_MS);

	for (unsigned i = 0; i < 4; i++) {
		if (!(which & (1u << i)))
			continue;
		at(w, begin, on_cut, i, 1);
		at(w, begin + lasts, on_cut, i, 0);
	}
}

static void plan_cut(struct world *w)
{
	static const unsigned kinds[] = {15, 15, 3, 12, 1, 2, 5, 10};

	plan_cut_of(w, kinds[chance_below(w, ARRAY_LEN(kinds))], some_time(w));
}

static void on_freeze(struct world *w, const struct event *ev)
{
	host_freeze(w, (int)ev->a, ev->b);
}

static void plan_freeze(struct world *w)
{
	uint64_t most = chance_percent(w, 50) ? 60 * NS_PER_MS : 900 * NS_PER_MS;

	at(w, some_time(w), on_freeze, chance_below(w, HOSTS), 1 + chance_below(w, most));
}

static void on_store_trouble(struct world *w, const struct event *ev)
{
	w->host[ev->a].store_fails = ev->b;
}

static void plan_store_trouble(struct world *w)
{
	uint64_t host = chance_below(w, HOSTS);

	at(w, some_time(w), on_store_trouble, host, 1);
	at(w, FAULTS_BEGIN + FAULTS_SPAN, on_store_trouble, host, 0);
}

/* ---- operators --------------------------------------------------------------------------- */

static void on_unprotect(struct world *w, const struct event *ev)
{
	for (int i = 0; i < HOSTS; i++)
		if (w->host[i].proc.role == PROC_RUNS)
			primary_feed(w, i, (struct primary_input){.type = PRIMARY_EV_STOP});
}

static void plan_unprotect(struct world *w)
{
	at(w, some_time(w), on_unprotect, 0, 0);
}

static void on_poweroff(struct world *w, const struct event *ev)
{
	for (int i = 0; i < HOSTS; i++)
		primary_end_guest(w, i);
}

static void plan_poweroff(struct world *w)
{
	at(w, some_time(w), on_poweroff, 0, 0);
}

static void on_force(struct world *w, const struct event *ev)
{
	struct ownership_input in = {.type = (enum ownership_event)ev->b};

	trace(w, (int)ev->a, "an operator insists: %s", ownership_event_name(in.type));
	agent_feed(w, (int)ev->a, in);
	w->forced++;
}

static void plan_force_promotion(struct world *w)
{
	at(w, some_time(w), on_force, chance_below(w, HOSTS), OWN_EV_PROMOTE);
}

static void plan_go_on(struct world *w)
{
	at(w, some_time(w), on_force, chance_below(w, HOSTS), OWN_EV_GO_ON);
}

/* ---- migrations -------------------------------------------------------------------------- */

static void end_proc(struct world *w, uint64_t host)
{
	at(w, chance_below(w, 60 * NS_PER_MS), on_kill, host, 0);
}

static void end_power_at_step(struct world *w, uint64_t host)
{
	w->host[host].crash_at_step = w->host[host].steps + 1 + chance_below(w, 60);
}

static void end_agent_at_step(struct world *w, uint64_t host)
{
	w->host[host].agent_ends_at_step = w->host[host].steps + 1 + chance_below(w, 50);
}

static void cut_soon(struct world *w, uint64_t host)
{
	static const unsigned kinds[] = {15, 3, 12, 12, 1, 2, 4, 8};

	plan_cut_of(w, kinds[chance_below(w, ARRAY_LEN(kinds))], chance_below(w, 60 * NS_PER_MS));
}

static void stores_fail_soon(struct world *w, uint64_t host)
{
	w->host[host].store_fails = true;
	at(w, chance_between(w, 10, 400) * NS_PER_MS, on_store_trouble, host, 0);
}

static void power_off_soon(struct world *w, uint64_t host)
{
	at(w, chance_below(w, 60 * NS_PER_MS), on_poweroff, 0, 0);
}

static void freeze_soon(struct world *w, uint64_t host)
{
	at(w, chance_below(w, 60 * NS_PER_MS), on_freeze, host,
	   1 + chance_below(w, 300 * NS_PER_MS));
}

typedef void mishap_fn(struct world *w, uint64_t host);
static mishap_fn *const mishaps[] = {
	end_proc,          end_power_at_step, end_power_at_step, end_agent_at_step,
	end_agent_at_step, cut_soon,          cut_soon,          cut_soon,
	stores_fail_soon,  power_off_soon,    freeze_soon,
};

/* In time when polluxd has not told the other side yet that it may have the vm. */
static void on_cancel(struct world *w, const struct event *ev)
{
	struct host *h = &w->host[ev->a];
	const struct proc *p = &h->proc;
	bool in_time = p->role == PROC_RUNS && p->has_session && p->primary.config.handover &&
		       p->primary.state == PRIMARY_SYNCING && !p->primary.acknowledged &&
		       h->agent.gen &&
		       (h->agent.own.state == OWN_PRIMARY || h->agent.own.state == OWN_FREEZING);

	if (!in_time)
		return;
	trace(w, (int)ev->a, "an operator cancels the migration");
	w->session[p->session].cancelled = h->agent.gen;
	w->cancels++;
	primary_feed(w, (int)ev->a, (struct primary_input){.type = PRIMARY_EV_STOP});
}

static void migration_begun(struct world *w, uint64_t host)
{
	trace(w, (int)host, "an operator migrates the vm");
	if (chance_percent(w, 50))
		mishaps[chance_below(w, ARRAY_LEN(mishaps))](w, chance_below(w, HOSTS));
	if (chance_percent(w, 15))
		at(w, chance_below(w, 50 * NS_PER_MS), on_cancel, host, 0);
}

#define TRIES 12

/* From where it runs, when it is alone; a protection is ended first. */
static void on_migrate(struct world *w, const struct event *ev)
{
	for (uint64_t i = 0; i < HOSTS; i++) {
		const struct proc *p = &w->host[i].proc;
		const struct ownership *own = &w->host[i].agent.own;

		if (p->role != PROC_RUNS || p->ended || !w->host[i].agent.gen || !own->peer_up)
			continue;
		if (own->state == OWN_ALONE && !own->storing) {
			agent_feed(
				w, (int)i,
				(struct ownership_input){.type = OWN_EV_PROTECT, .handover = true});
			migration_begun(w, i);
			return;
		}
		if (own->state == OWN_PRIMARY && !p->primary.config.handover && ev->a == TRIES)
			primary_feed(w, (int)i, (struct primary_input){.type = PRIMARY_EV_STOP});
	}
	if (ev->a)
		at(w, 15 * NS_PER_MS, on_migrate, ev->a - 1, 0);
}

static void plan_migrations(struct world *w)
{
	unsigned count = 1 + (unsigned)chance_below(w, 4);

	while (count--)
		at(w, some_time(w), on_migrate, TRIES, 0);
}

/* ---- schedules ----------------------------------------------------------------------------- */

typedef void plan_fn(struct world *w);
static plan_fn *const faults[] = {
	plan_crash,    plan_crash,           plan_crash_at_step, plan_crash_at_step,
	plan_kill,     plan_agent_dies,      plan_cut,           plan_cut,
	plan_cut,      plan_freeze,          plan_store_trouble, plan_unprotect,
	plan_poweroff, plan_force_promotion, plan_go_on,
};

static void plan_settings(struct world *w)
{
	struct settings *s = &w->settings;

	*s = (struct settings){
		.mode = chance_percent(w, 50) ? REPLICATE_EVENT : REPLICATE_INTERVAL,
		.policy = chance_percent(w, 65) ? STANDBY_LOSS_CONTINUE : STANDBY_LOSS_STALL,
		.interval_ns = chance_between(w, 10, 50) * NS_PER_MS,
		.heartbeat_ns = 20 * NS_PER_MS,
		.loss_ns = 80 * NS_PER_MS,
		.ack_ns = 300 * NS_PER_MS,
		.cancel_ns = 20 * NS_PER_MS,
		.window = 1 + (unsigned)chance_below(w, 4),
		.delay_ns = chance_between(w, 100, 1500) * NS_PER_US,
		.jitter_ns = chance_below(w, 40) * NS_PER_MS,
		.seal_fails = chance_percent(w, 10),
		.commit_fails = chance_percent(w, 10),
		.reprotect = chance_percent(w, 70),
		.engine = s->engine,
		.migrate = s->migrate,
		.early = chance_percent(w, 70),
	};
	if (s->migrate)
		s->reprotect = chance_percent(w, 30);
	for (int i = 0; i < HOSTS; i++) {
		w->host[i].can_fence = chance_percent(w, 85);
		w->host[i].fence = chance_percent(w, 60)
					   ? FENCE_WORKS
					   : (enum fence_mode)chance_below(w, FENCE_MODES);
	}
}

static void on_run(struct world *w, const struct event *ev)
{
	agent_feed(w, 0, (struct ownership_input){.type = OWN_EV_RUN});
}

static void on_protect(struct world *w, const struct event *ev)
{
	agent_feed(w, 0, (struct ownership_input){.type = OWN_EV_PROTECT});
}

/* loss 80 + grace 20, ask 10, fence 23, store 64, load and local 10, jitter; when the
 * standby dies the primary's output waits instead of the vm, by fence_delay 200 longer. */
static void on_stated_crash(struct world *w, const struct event *ev)
{
	const struct proc *runs = &w->host[0].proc, *twin = &w->host[1].proc;

	if (runs->role == PROC_RUNS && runs->has_session && twin->role == PROC_REPLICA &&
	    runs->primary.state == PRIMARY_PROTECTED && twin->standby.state == STANDBY_READY) {
		w->outage_bound = ev->a == 0 ? 320 * NS_PER_MS : 40 * NS_PER_MS;
		w->hold_bound = 520 * NS_PER_MS;
	}
	on_crash(w, ev);
}

/* One fault that the design answers within a stated time: it is measured. */
static void plan_stated(struct world *w)
{
	uint64_t victim = chance_below(w, HOSTS), when = 400 * NS_PER_MS + some_time(w);

	w->settings.jitter_ns = 5 * NS_PER_MS;
	w->settings.seal_fails = w->settings.commit_fails = false;
	w->settings.policy = STANDBY_LOSS_CONTINUE;
	w->host[0].can_fence = w->host[1].can_fence = true;
	w->host[0].fence = w->host[1].fence = FENCE_WORKS;
	at(w, when, on_stated_crash, victim, 0);
}

static void plan_faults(struct world *w)
{
	unsigned count = chance_percent(w, 30) ? 1 : 1 + (unsigned)chance_below(w, 5);

	/* Migrations bring mishaps of their own. */
	if (w->settings.migrate)
		count = (unsigned)chance_below(w, 3);
	while (count--)
		faults[chance_below(w, ARRAY_LEN(faults))](w);
}

void faults_plan(struct world *w)
{
	plan_settings(w);
	if (w->settings.migrate)
		plan_migrations(w);
	if (!w->settings.migrate && chance_percent(w, 12))
		plan_stated(w);
	else
		plan_faults(w);
	for (int i = 0; i < HOSTS; i++)
		host_boot(w, i);
	at(w, NS_PER_MS, on_run, 0, 0);
	if (!w->settings.migrate || w->settings.reprotect)
		at(w, (w->settings.reprotect ? 30 : 60) * NS_PER_MS, on_protect, 0, 0);
}

void faults_end(struct world *w)
{
	trace(w, -1, "the faults are over");
	w->quiet = true;
	w->settings.seal_fails = w->settings.commit_fails = false;
	for (unsigned i = 0; i < 4; i++)
		if (w->link[i >> 1].cut[i & 1])
			net_cut(w, (enum link_id)(i >> 1), (int)(i & 1), false);
	for (int i = 0; i < HOSTS; i++) {
		struct host *h = &w->host[i];

		h->fence = FENCE_WORKS;
		h->store_fails = false;
		h->crash_at_step = h->agent_ends_at_step = 0;
		at(w, 1 + chance_below(w, 100 * NS_PER_MS), on_boot, (uint64_t)i, 0);
	}
}

// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "tests/sim/sim.h"

uint64_t host_gen(const struct host *h, enum scope scope)
{
	if (scope == SCOPE_AGENT)
		return h->agent.gen;
	return scope == SCOPE_PROC ? h->proc.gen : h->gen;
}

void proc_begin(struct world *w, int host, enum proc_role role, uint64_t term)
{
	struct proc *p = &w->host[host].proc;

	memset(p, 0, sizeof(*p));
	p->gen = ++w->gens;
	p->role = role;
	p->term = term;
	p->session = p->conn = -1;
}

/* The kernel closes the sockets of a process that has ended. */
void proc_end(struct world *w, int host, const char *why)
{
	struct proc *p = &w->host[host].proc;
	uint64_t term = p->term;
	bool ran = p->role == PROC_RUNS && !p->unowned;

	if (!p->gen)
		return;
	trace(w, host, "vm process ends: %s", why);
	net_close(w, p->conn, host);
	observe_death(w, host);
	p->gen = 0;
	p->role = PROC_NONE;
	agent_tell(w, host, ran ? OWN_EV_VM_DEAD : OWN_EV_REPLICA_GONE, term, false);
}

/* A replica ends with its polluxd; a running vm does not. */
void agent_end(struct world *w, int host)
{
	struct host *h = &w->host[host];

	if (!h->agent.gen)
		return;
	trace(w, host, "polluxd ends");
	net_close(w, h->agent.conn, host);
	h->agent.gen = 0;
	h->agent.conn = -1;
	if (h->proc.role == PROC_REPLICA)
		proc_end(w, host, "its polluxd ended");
}

static void forget_connections(struct world *w, int host)
{
	for (int i = 0; i < w->conns; i++)
		w->conn[i].open[host] = false;
}

static void on_power_back(struct world *w, const struct event *ev)
{
	host_boot(w, (int)ev->a);
}

void host_crash(struct world *w, int host, const char *why)
{
	struct host *h = &w->host[host];

	if (!h->gen)
		return;
	trace(w, host, "POWER FAILS: %s", why);
	forget_connections(w, host);
	h->agent.gen = 0;
	observe_death(w, host);
	h->gen = h->agent.gen = h->proc.gen = 0;
	h->proc.role = PROC_NONE;
	h->agent.conn = -1;
	h->frozen_until = 0;
	h->crash_at_step = 0;
	if (w->quiet)
		world_push(w, 100 * NS_PER_MS,
			   (struct event){.fn = on_power_back, .a = (uint64_t)host});
}

void host_boot(struct world *w, int host)
{
	struct host *h = &w->host[host];

	if (h->gen)
		return;
	trace(w, host, "boots");
	h->gen = ++w->gens;
	agent_start(w, host);
}

void host_freeze(struct world *w, int host, uint64_t ns)
{
	struct host *h = &w->host[host];

	if (!h->gen)
		return;
	trace(w, host, "freezes for %.1f ms", (double)ns / 1e6);
	h->frozen_until = w->now + ns;
}

bool host_acts(struct world *w, int host, uint64_t gen, enum scope scope)
{
	struct host *h = &w->host[host];

	if (host_gen(h, scope) != gen)
		return false;
	if (++h->steps == h->crash_at_step)
		host_crash(w, host, "at this very step");
	if (h->steps == h->agent_ends_at_step)
		faults_agent_ends(w, host);
	return host_gen(h, scope) == gen;
}

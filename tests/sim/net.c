// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

/*
 * Connections as TCP gives them: bytes of one stream arrive in order or not at all,
 * streams do not wait for each other, a cut only delays what is on its way (until the
 * connection is closed), a host that has forgotten a connection answers with a reset,
 * and a host that is off answers nothing.
 */

static void on_arrival(struct world *w, const struct event *ev);

void message_free(struct message *m)
{
	free(m->cargo);
	free(m);
}

static uint64_t travel_time(struct world *w)
{
	uint64_t t = w->settings.delay_ns + chance_below(w, w->settings.delay_ns + 1);

	if (chance_percent(w, 3))
		t += chance_below(w, w->settings.jitter_ns + 1);
	return t;
}

static void dispatch(struct world *w, struct message *m)
{
	struct conn *c = &w->conn[m->conn];
	uint64_t at = w->now + travel_time(w);
	uint64_t *last = &c->last_at[m->from][m->stream];

	if (at <= *last)
		at = *last + 1;
	*last = at;
	world_push(w, at - w->now, (struct event){.fn = on_arrival, .message = m});
}

void net_send(struct world *w, int conn, int from, unsigned stream, const struct message *m)
{
	struct message *copy;

	if (conn < 0 || !w->conn[conn].open[from]) {
		free(m->cargo);
		return;
	}
	copy = malloc(sizeof(*copy));
	if (!copy)
		abort();
	*copy = *m;
	copy->conn = conn;
	copy->from = from;
	copy->stream = stream;
	copy->seq = ++w->conn[conn].sent[from][stream];
	copy->next = NULL;
	dispatch(w, copy);
}

/* A connection that nobody keeps any more cannot be named again. */
int net_dial(struct world *w, int from, enum link_id link, int session, uint64_t term)
{
	struct message m = {.kind = MSG_DIAL, .term = term};
	int conn = w->conns++;

	assert(conn < CONNS_MAX);
	w->conn[conn] = (struct conn){.link = link, .session = session};
	w->conn[conn].open[from] = true;
	net_send(w, conn, from, STREAM_CONTROL, &m);
	return conn;
}

void net_close(struct world *w, int conn, int side)
{
	struct message m = {.kind = MSG_RESET};

	if (conn < 0 || !w->conn[conn].open[side])
		return;
	net_send(w, conn, side, STREAM_CONTROL, &m);
	w->conn[conn].open[side] = false;
}

void net_cut(struct world *w, enum link_id link, int from, bool cut)
{
	struct link *l = &w->link[link];
	struct message **at = &l->waiting;

	l->cut[from] = cut;
	if (cut)
		return;
	while (*at) {
		struct message *m = *at;

		if (m->from != from) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		m->next = NULL;
		dispatch(w, m);
	}
	l->waiting_end = at;
}

static void wait_for_heal(struct link *l, struct message *m)
{
	*l->waiting_end = m;
	l->waiting_end = &m->next;
}

static void reset_unknown(struct world *w, const struct message *m, int to)
{
	struct conn *c = &w->conn[m->conn];
	struct message reset = {.kind = MSG_RESET};

	if (m->kind == MSG_RESET)
		return;
	c->open[to] = true;
	net_send(w, m->conn, to, STREAM_CONTROL, &reset);
	c->open[to] = false;
}

static void hand_over(struct world *w, struct message *m, int to)
{
	struct conn *c = &w->conn[m->conn];
	struct host *h = &w->host[to];

	if (m->kind == MSG_DIAL && h->agent.gen)
		c->link == LINK_PEER ? agent_dialled(w, to, m) : standby_dialled(w, to, m);
	else if (!c->open[to])
		reset_unknown(w, m, to);
	else if (c->link == LINK_PEER)
		agent_receive(w, to, m);
	else if (h->proc.role == PROC_RUNS)
		primary_receive(w, to, m);
	else if (h->proc.role == PROC_REPLICA)
		standby_receive(w, to, m);
}

/* True when the message has gone elsewhere for now. */
static bool held_up(struct world *w, struct message *m, int to)
{
	struct conn *c = &w->conn[m->conn];
	struct link *l = &w->link[c->link];
	struct event again = {.fn = on_arrival, .message = m};

	if (l->cut[m->from]) {
		wait_for_heal(l, m);
		return true;
	}
	if (w->host[to].frozen_until > w->now) {
		world_push(w, w->host[to].frozen_until - w->now, again);
		return true;
	}
	if (m->seq == c->received[m->from][m->stream] + 1)
		return false;
	world_push(w, NS_PER_MS / 4, again); /* an earlier one was held up: keep the order */
	return true;
}

static void on_arrival(struct world *w, const struct event *ev)
{
	struct message *m = ev->message;
	int to = !m->from;

	if (held_up(w, m, to))
		return;
	w->conn[m->conn].received[m->from][m->stream] = m->seq;
	if (w->host[to].gen)
		hand_over(w, m, to);
	message_free(m);
}

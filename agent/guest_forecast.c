// SPDX-License-Identifier: Apache-2.0
/*
 * What a migration's downtime is made of, as measured.
 *
 * What the last pages take is forecast by the VM process. The rest is a chain of hand-overs
 * between four processes, and a record that the target stores. How long a hand-over takes
 * depends on how busy both hosts are; so while the memory is copied, and again when the guest is
 * about to be stopped and the copy leaves them time, a like chain is walked
 *
 *   own process <- echo -> source -- probe -> target <- echo, twice -> its process
 *                          source <- probed --
 *
 * and fixed = work + chain x ratio + stores. Work is the pause itself and what the target needs to
 * load and start; it and the ratio are means of what handovers from here took.
 */
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE   "migrate"
#define ECHO_NS      (2 * NS_PER_SEC)
#define ECHOES_THERE 2u
#define RATIO_FIRST  1.5
#define RATIO_LEAST  0.2
#define RATIO_MOST   10.0
#define WORK_FIRST   (800 * NS_PER_US) /* as measured: docs/performance.md */
#define MEAN_OF      4u                /* running means weigh the newest by one in so many */
#define WALKS        3u                /* of a rehearsal */
#define WALK_SLOW_NS (5 * NS_PER_MS)

static uint64_t mean(uint64_t before, uint64_t now)
{
	return before ? ((MEAN_OF - 1) * before + now) / MEAN_OF : now;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* ---- the probe, source ------------------------------------------------------------- */

static void forecast_tell(struct guest *g, bool rehearsed)
{
	struct migration *m = &g->migration;
	double ratio = g->agent->handover_ratio > 0 ? g->agent->handover_ratio : RATIO_FIRST;
	uint64_t work_ns = g->agent->handover_work_ns ? g->agent->handover_work_ns : WORK_FIRST;
	uint64_t fixed_ns = work_ns + (uint64_t)((double)m->chain_ns * ratio) + g->agent->store_ns +
			    m->peer_store_ns;
	json_t *request = json_pack("{s:s, s:I, s:b}", "do", "forecast", "fixed_us",
				    (json_int_t)(fixed_ns / NS_PER_US), "rehearsed", rehearsed);

	guest_child_ask(g, request, ECHO_NS, NULL);
}

static bool probe_wanted(const struct guest *g)
{
	return g->own.state == OWN_PRIMARY && g->session.options.handover &&
	       g->own.session_started && g->child_role == CHILD_VM;
}

static void probe_echoed(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct peer *p = peers_find(g->agent->peers, g->peer);
	json_t *o;

	if (rc || !p || !probe_wanted(g)) {
		g->migration.probe = 0;
		return;
	}
	o = json_pack("{s:s, s:I, s:s}", "type", "probe", "number", (json_int_t)g->migration.probe,
		      "vm", g->name);
	if (peer_send(p, o))
		g->migration.probe = 0;
}

/* The answer may never come: a target that is busy with another one gives none. */
static bool probe_goes_on(const struct migration *m)
{
	return m->probe && clock_ns() - m->probe_ns < 2 * ECHO_NS;
}

void guest_probe(struct guest *g)
{
	const struct peer *p = peers_find(g->agent->peers, g->peer);

	if (!probe_wanted(g) || probe_goes_on(&g->migration) || !p || !guest_peer_can(p, "probe"))
		return;
	g->migration.probe = ++g->agent->last_probe;
	g->migration.probe_ns = clock_ns();
	guest_child_ask(g, json_pack("{s:s}", "do", "echo"), ECHO_NS, probe_echoed);
}

/* The one that was under way when the rehearsal began is of before, and the first one finds
 * everybody asleep: the others count. One that is slow is worth no more of them. */
static void walked(struct guest *g, uint64_t ns)
{
	struct migration *m = &g->migration;
	unsigned walk = m->walk++;
	bool slow = walk == 1 && ns > WALK_SLOW_NS;

	if (walk > 1 || slow)
		m->walked_ns += ns;
	if (walk < WALKS && !slow) {
		guest_probe(g);
		return;
	}
	m->rehearses = false;
	m->chain_ns = m->walked_ns / (slow ? 1 : WALKS - 1);
	forecast_tell(g, true);
}

static void probe_answered(struct guest *g, const json_t *message)
{
	struct migration *m = &g->migration;
	json_int_t store_ns = json_integer_of(message, "store_ns", 0);
	uint64_t ns = less(clock_ns(), m->probe_ns);

	if (!m->probe || (uint64_t)json_integer_of(message, "number", 0) != m->probe)
		return;
	m->probe = 0;
	m->peer_store_ns =
		store_ns > 0 && store_ns < (json_int_t)NS_PER_SEC ? (uint64_t)store_ns : 0;
	if (!probe_wanted(g))
		return;
	if (m->rehearses) {
		walked(g, ns);
		return;
	}
	m->chain_ns = mean(m->chain_ns, ns);
	forecast_tell(g, false);
}

/* Whatever keeps it from an answer, the pause does not wait for long. */
void guest_rehearse(struct guest *g)
{
	struct migration *m = &g->migration;

	m->rehearses = true;
	m->walk = probe_goes_on(m) ? 0 : 1;
	m->walked_ns = 0;
	guest_probe(g);
}

/* ---- the probe, target --------------------------------------------------------------- */

static void echo_ask(struct guest *g);

static void echo_came(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct peer *p = peers_find(g->agent->peers, g->peer);
	json_t *o;

	if (rc || !p) {
		g->arrival.echoes = 0;
		return;
	}
	if (--g->arrival.echoes) {
		echo_ask(g);
		return;
	}
	o = json_pack("{s:s, s:I, s:s, s:I}", "type", "probed", "number",
		      (json_int_t)g->arrival.probe, "vm", g->name, "store_ns",
		      (json_int_t)g->agent->store_ns);
	if (peer_send(p, o))
		log_debug("%s: a probe is not answered", g->name);
}

static void echo_ask(struct guest *g)
{
	guest_child_ask(g, json_pack("{s:s}", "do", "echo"), ECHO_NS, echo_came);
}

void guest_probe_message(struct agent *a, struct peer *from, const json_t *message)
{
	struct guest *g = guest_find(a, json_text_of(message, "vm"));
	bool asks = !strcmp(json_text_of(message, "type"), "probe");

	if (!g || strcmp(g->peer, peer_config(from)->name) != 0)
		return;
	if (!asks) {
		probe_answered(g, message);
		return;
	}
	if (g->child_role != CHILD_REPLICA || !g->replica_up || g->arrival.echoes)
		return;
	g->arrival.probe = (uint64_t)json_integer_of(message, "number", 0);
	g->arrival.echoes = ECHOES_THERE;
	echo_ask(g);
}

/* ---- what was measured ----------------------------------------------------------------- */

void guest_released_said(struct guest *g)
{
	if (!g->migration.released_ns)
		g->migration.released_ns = clock_ns();
}

void guest_released_heard(struct guest *g)
{
	if (!g->arrival.heard_ns)
		g->arrival.heard_ns = clock_ns();
}

json_t *guest_took_json(const struct guest *g)
{
	struct word_took took = g->arrival.took;

	took.all = clock_ns() - g->arrival.heard_ns;
	took.store = g->store_ns;
	return g->arrival.heard_ns ? word_took_json(&took) : NULL;
}

void guest_took(struct guest *g, const struct word_took *took)
{
	struct migration *m = &g->migration;

	if (!took->all || !m->released_ns || m->took.all)
		return;
	m->took = *took;
	m->took_heard_ns = clock_ns();
}

/* The words are what is left of it, as a multiple of the chain. The record that is stored here is
 * on its way while the last epoch is. */
void guest_handover_learn(struct guest *g)
{
	const struct migration *m = &g->migration;
	uint64_t work_ns = m->pause_ns + m->took.load + m->took.start;
	uint64_t stores_ns = less(g->agent->store_ns, m->transfer_ns) + m->took.store;
	uint64_t others_ns = m->transfer_ns + stores_ns + work_ns;
	double *mean_ratio = &g->agent->handover_ratio, ratio;

	if (!m->chain_ns || !m->took.all || m->postcopy)
		return;
	ratio = (double)less(m->downtime_ns, others_ns) / (double)m->chain_ns;
	ratio = ratio < RATIO_LEAST ? RATIO_LEAST : ratio > RATIO_MOST ? RATIO_MOST : ratio;
	*mean_ratio = *mean_ratio > 0 ? (*mean_ratio * (MEAN_OF - 1) + ratio) / MEAN_OF : ratio;
	g->agent->handover_work_ns = mean(g->agent->handover_work_ns, work_ns);
	log_debug("%s: a handover takes %.2f times the chain of %.2f ms, and %.2f ms of work",
		  g->name, ratio, (double)m->chain_ns / 1e6, (double)work_ns / 1e6);
}

/* In order, and what they have in common with the clock of this host: all but `target`. */
json_t *guest_handover_json(const struct migration *m)
{
	uint64_t held = m->frozen_ns + m->pause_ns + m->transfer_ns;
	uint64_t after = less(m->took_heard_ns, m->released_ns);
	const struct {
		const char *key;
		uint64_t ns;
	} parts[] = {
		{"pause_ns", m->pause_ns},
		{"transfer_ns", m->transfer_ns},
		{"release_ns", less(m->released_ns, held)},
		{"words_ns", less(after, m->took.all)},
		{"target_ns", m->took.all},
		{"target_load_ns", m->took.load},
		{"target_store_ns", m->took.store},
		{"target_start_ns", m->took.start},
		{"chain_ns", m->chain_ns},
	};
	json_t *o = json_object();

	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		json_object_set_new(o, parts[i].key, json_integer((json_int_t)parts[i].ns));
	return o;
}

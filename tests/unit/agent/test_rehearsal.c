// SPDX-License-Identifier: Apache-2.0
/* What a handover will take, as it is rehearsed between two polluxds while a migration goes on. */
#include "tests/unit/agent/migration_flows.h"

/* Its copy has begun, and does not end before that is wanted. */
static struct guest *migrating(const char *vm)
{
	run_alone(vm);
	migrate_held(vm);
	WAIT_FOR(guest_at(0, vm)->own.session_started, vm);
	WAIT_FOR(guest_at(1, vm)->replica_up, vm);
	return guest_at(0, vm);
}

/* One answer that was lost does not end the rehearsals of a handover. */
static void test_probed_again(void **state)
{
	struct guest *g;
	uint64_t last;

	g = migrating("hold-1");
	last = g->agent->last_probe;
	g->migration.probe = last + 1000;
	g->migration.probe_ns = clock_ns();
	guest_probe(g);
	assert_int_equal(g->agent->last_probe, last);
	g->migration.probe_ns -= 5 * NS_PER_SEC;
	guest_probe(g);
	assert_int_equal(g->agent->last_probe, last + 1);
}

/* When the pause is about to come the chain is walked anew, and the process hears of that. */
static void test_rehearsed(void **state)
{
	struct guest *g;
	uint64_t last;

	g = migrating("hold-ask");
	g->migration.chain_ns = NS_PER_SEC;
	last = g->agent->last_probe;
	kill(vm_pid(0, "hold-ask"), SIGWINCH);
	WAIT_STATE(1, "hold-ask", "running");
	assert_true(g->agent->last_probe > last);
	assert_true(g->migration.chain_ns && g->migration.chain_ns != NS_PER_SEC);
	assert_false(g->migration.rehearses);
}

static void probe_answer(struct guest *g, uint64_t number)
{
	json_t *o = json_pack("{s:s, s:I, s:s, s:i}", "type", "probed", "number",
			      (json_int_t)number, "vm", g->name, "store_ns", 1000);

	g->migration.probe = number;
	guest_probe_message(g->agent, peers_at(g->agent->peers, 0), o);
	json_decref(o);
}

/* One that was under way, and the first of its own, do not count. */
static void test_rehearsed_beside_a_probe(void **state)
{
	struct migration *m;
	struct guest *g;

	g = migrating("hold-1");
	m = &g->migration;
	m->chain_ns = 1;
	m->probe = g->agent->last_probe + 1000;
	m->probe_ns = clock_ns();
	guest_rehearse(g);
	assert_int_equal(m->probe, g->agent->last_probe + 1000);
	m->probe_ns -= NS_PER_SEC;
	probe_answer(g, m->probe);
	assert_int_equal(m->walk, 1);
	m->probe_ns = clock_ns() + NS_PER_SEC; /* not slow, whatever runs beside this */
	probe_answer(g, m->probe);
	assert_int_equal(m->walk, 2);
	m->probe_ns = clock_ns() - 40 * NS_PER_MS;
	probe_answer(g, m->probe);
	assert_true(m->rehearses);
	m->probe_ns = clock_ns() - 60 * NS_PER_MS;
	probe_answer(g, m->probe);
	assert_false(m->rehearses);
	assert_in_range(m->chain_ns, 50 * NS_PER_MS, NS_PER_SEC);
}

/* A slow one is the only one. */
static void test_rehearsed_slowly(void **state)
{
	struct migration *m;
	struct guest *g;

	g = migrating("hold-1");
	m = &g->migration;
	guest_rehearse(g);
	assert_true(m->rehearses);
	m->probe_ns = clock_ns() - 3 * NS_PER_SEC;
	probe_answer(g, m->probe);
	assert_false(m->rehearses);
	assert_true(m->chain_ns >= 3 * NS_PER_SEC);
}

/* What the target says it took, and what is left, are learnt each for itself. */
static void test_learnt(void **state)
{
	struct migration m = {.downtime_ns = 20 * NS_PER_MS,
			      .pause_ns = NS_PER_MS,
			      .transfer_ns = 5 * NS_PER_MS,
			      .chain_ns = 2 * NS_PER_MS,
			      .took = {.all = 9 * NS_PER_MS,
				       .load = 2 * NS_PER_MS,
				       .store = 4 * NS_PER_MS,
				       .start = NS_PER_MS}};
	struct guest *g;
	struct agent *a;

	WAIT_FOR(connected(0) && connected(1), "vm1");
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_STATE(0, "vm1", "running");
	g = guest_at(0, "vm1");
	a = g->agent;
	a->store_ns = 8 * NS_PER_MS; /* 3 of them after the transfer */
	g->migration = m;
	guest_handover_learn(g);
	assert_int_equal(a->handover_work_ns, 4 * NS_PER_MS);
	assert_float_equal(a->handover_ratio, 2.0, 0.01); /* (20 - 5 - 3 - 4 - 4) / 2 */
	g->migration.took.start = 5 * NS_PER_MS;
	guest_handover_learn(g);
	assert_int_equal(a->handover_work_ns, 5 * NS_PER_MS);
	assert_float_equal(a->handover_ratio, 1.55, 0.01); /* (3 x 2 + 0.2, the least) / 4 */
	g->migration.postcopy = true;
	g->migration.took.start = NS_PER_SEC;
	guest_handover_learn(g);
	assert_int_equal(a->handover_work_ns, 5 * NS_PER_MS);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_probed_again),
		FLOW(test_rehearsed),
		FLOW(test_rehearsed_beside_a_probe),
		FLOW(test_rehearsed_slowly),
		FLOW(test_learnt),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}

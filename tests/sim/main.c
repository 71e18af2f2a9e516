// SPDX-License-Identifier: Apache-2.0
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define FAULTS_NS (1700 * NS_PER_MS)
#define SETTLE_NS (9 * NS_PER_SEC)

static const char *const breakages[BREAKAGES] = {
	"nothing",          "release-early", "apply-half-epoch",       "promote-on-silence",
	"ack-before-whole", "forget-term",   "pass-without-ownership", "forget-merge",
	"hold-late",        "no-bye",        "promote-unreleased",     "resume-on-silence",
	"tell-unstored",    "retire-early",  "resume-unowned",         "start-unowned",
	"promote-by-fence", "run-frozen",    "keep-dropped-unsaid",    "release-unsaid",
};

const char *breakage_name(enum breakage b)
{
	return breakages[b];
}

static void run_until(struct world *w, uint64_t until, bool settle)
{
	while (!w->violated && world_step(w, until)) {
		observe_step(w);
		if (settle && observe_settled(w))
			return;
	}
	if (w->now < until)
		w->now = until;
}

static void judge(struct world *w)
{
	if (!w->violated && !observe_settled(w))
		violate(w, V_LIVENESS, "liveness: all is well again, and the vm is not");
	if (w->outage_bound && w->worst_outage > w->outage_bound)
		violate(w, V_I5, "I5: out for %.0f ms, %.0f were stated",
			(double)w->worst_outage / 1e6, (double)w->outage_bound / 1e6);
	if (w->hold_bound && w->worst_hold > w->hold_bound)
		violate(w, V_I5, "I5: output waited %.0f ms, %.0f were stated",
			(double)w->worst_hold / 1e6, (double)w->hold_bound / 1e6);
}

struct options {
	uint64_t first, count;
	bool trace, one, engine, migrate;
	enum breakage breakage;
};

/* A while of faults, then none, until all is well; then a while more. */
static void schedule_run(struct world *w, uint64_t seed, const struct options *o)
{
	world_init(w, seed);
	w->trace = o->trace;
	w->breakage = o->breakage;
	w->settings.engine = o->engine;
	w->settings.migrate = o->migrate;
	faults_plan(w);
	run_until(w, w->now + FAULTS_NS, false);
	faults_end(w);
	run_until(w, w->now + 120 * NS_PER_MS, false);
	run_until(w, w->now + SETTLE_NS, true);
	judge(w);
	if (!w->violated)
		run_until(w, w->now + 60 * NS_PER_MS, false);
	world_clear(w);
}

struct totals {
	uint64_t passed, failed, promotions, protections, losses, splits, forced;
	uint64_t migrations, handed, taken_back, cancels;
};

static void add(struct totals *t, const struct world *w)
{
	t->passed += !w->violated;
	t->failed += w->violated != V_NONE;
	t->promotions += w->promotions;
	t->protections += w->protections;
	t->losses += w->losses;
	t->splits += w->splits;
	t->forced += w->forced;
	t->migrations += w->migrations;
	t->handed += w->handed;
	t->taken_back += w->taken_back;
	t->cancels += w->cancels;
}

static void tell_failure(const struct world *w, const struct options *o)
{
	printf("seed %llu: %s\n  replay: sim --seed %llu --trace%s%s%s%s\n",
	       (unsigned long long)w->seed, w->violation, (unsigned long long)w->seed,
	       o->migrate ? " --migrate" : "", o->engine ? " --engine" : "",
	       o->breakage ? " --break " : "", o->breakage ? breakages[o->breakage] : "");
}

#define FAILURES_TOLD 10

static struct totals schedules_run(struct world *w, const struct options *o, uint64_t most_failures)
{
	struct totals t = {0};

	for (uint64_t i = 0; i < o->count && t.failed < most_failures; i++) {
		schedule_run(w, o->first + i, o);
		add(&t, w);
		if (w->violated && most_failures > 1 && t.failed <= FAILURES_TOLD)
			tell_failure(w, o);
	}
	return t;
}

/* Are the checks able to fail? Each planted bug must be caught within the schedules that
 * a normal run has. */
static void breakages_check(struct world *w, const struct options *o, struct totals *t)
{
	for (int b = 1; b < BREAKAGES; b++) {
		struct options broken = *o;
		struct totals caught;

		broken.breakage = (enum breakage)b;
		broken.migrate = b >= BREAK_MIGRATIONS;
		caught = schedules_run(w, &broken, 1);
		if (caught.failed)
			printf("planted %s: caught by seed %llu: %s\n", breakages[b],
			       (unsigned long long)w->seed, w->violation);
		else
			printf("planted %s: NOT CAUGHT in %llu schedules\n", breakages[b],
			       (unsigned long long)o->count);
		t->passed += caught.failed != 0;
		t->failed += caught.failed == 0;
	}
}

static int usage(void)
{
	fputs("usage: sim [--schedules N] [--first-seed S] [--seed S] [--trace] [--engine] "
	      "[--migrate] "
	      "[--break NAME]\n",
	      stderr);
	for (int i = 1; i < BREAKAGES; i++)
		fprintf(stderr, "  --break %s\n", breakages[i]);
	return 2;
}

static int breakage_find(const char *name, enum breakage *out)
{
	for (int i = 0; i < BREAKAGES; i++)
		if (!strcmp(name, breakages[i])) {
			*out = (enum breakage)i;
			return 0;
		}
	return -1;
}

static int options_parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"schedules", required_argument, NULL, 'n'},
		{"first-seed", required_argument, NULL, 'f'},
		{"seed", required_argument, NULL, 's'},
		{"trace", no_argument, NULL, 't'},
		{"engine", no_argument, NULL, 'e'},
		{"migrate", no_argument, NULL, 'm'},
		{"break", required_argument, NULL, 'b'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'n')
			o->count = strtoull(optarg, NULL, 0);
		else if (c == 'f' || c == 's')
			o->first = strtoull(optarg, NULL, 0);
		else if (c == 't')
			o->trace = true;
		else if (c == 'e')
			o->engine = true;
		else if (c == 'm')
			o->migrate = true;
		else if (c != 'b' || breakage_find(optarg, &o->breakage))
			return -1;
		if (c == 's') {
			o->count = 1;
			o->one = true;
		}
	}
	return optind == argc ? 0 : -1;
}

#define ENGINE_SHARE 250 /* one schedule in so many is run once more with a real vm */

static void totals_add(struct totals *t, const struct totals *more)
{
	uint64_t *to = &t->passed;
	const uint64_t *from = &more->passed;

	for (size_t i = 0; i < sizeof(*t) / sizeof(*to); i++)
		to[i] += from[i];
}

/* Without or with migrations, and some with a vm of the engine sim. */
static struct totals kind_run(struct world *w, const struct options *o, bool migrate)
{
	struct options kind = *o;
	struct totals t, more;

	kind.migrate = migrate;
	t = schedules_run(w, &kind, 100);
	kind.engine = true;
	kind.count /= ENGINE_SHARE;
	more = schedules_run(w, &kind, 100);
	totals_add(&t, &more);
	printf("%llu schedules %s migrations, %llu of them with a vm of the engine sim\n",
	       (unsigned long long)(t.passed + t.failed), migrate ? "with" : "without",
	       (unsigned long long)(more.passed + more.failed));
	return t;
}

static struct totals everything(struct world *w, const struct options *o)
{
	struct totals t, more;

	if (o->one || o->breakage || o->engine || o->migrate)
		return schedules_run(w, o, 100);
	t = kind_run(w, o, false);
	more = kind_run(w, o, true);
	totals_add(&t, &more);
	breakages_check(w, o, &t);
	return t;
}

int main(int argc, char **argv)
{
	static struct world w;
	struct options o = {.first = 1, .count = 100000};
	struct totals t;

	if (options_parse(argc, argv, &o))
		return usage();
	w.queue = NULL;
	t = everything(&w, &o);
	printf("%llu promotions, %llu sessions protected, %llu vms lost with their last copy, "
	       "%llu operators' forces, %llu copies side by side by force\n",
	       (unsigned long long)t.promotions, (unsigned long long)t.protections,
	       (unsigned long long)t.losses, (unsigned long long)t.forced,
	       (unsigned long long)t.splits);
	printf("%llu vms handed over, %llu migrated, %llu went on at the source, %llu cancelled\n",
	       (unsigned long long)t.handed, (unsigned long long)t.migrations,
	       (unsigned long long)t.taken_back, (unsigned long long)t.cancels);
	printf("sim: %llu passed, %llu failed\n", (unsigned long long)t.passed,
	       (unsigned long long)t.failed);
	free(w.queue);
	return t.failed != 0;
}

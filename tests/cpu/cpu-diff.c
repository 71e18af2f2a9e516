// SPDX-License-Identifier: Apache-2.0
/*
 * cpu-diff [--cases N] [--seed S] [--only GROUP] [--plants] [--plant NAME] [--replay CASE]
 *
 * Random instructions natively and in engine soft. Prints the seed first and every case
 * that differs; --seed S --replay CASE runs that one again and shows both results. With
 * --plants, each planted bug must be found by no more cases; with --plant the engine has
 * that one.
 */
#include <cpuid.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/cpu/cpu.h"

#define FAILURES_MAX 40u
#define GROUPS_MAX   32u
#define PROGRESS     (UINT64_C(4096) * BATCH)

struct options {
	uint64_t cases, seed, replay;
	bool replays, plants;
	const struct form_group *only;
	const struct cpu_plant *plant;
};

struct run {
	struct options options;
	struct model *model;
	struct cpu_batch *batch;
	struct cpu_result soft[BATCH];
	struct {
		uint64_t compared, failed;
	} groups[GROUPS_MAX];
	uint64_t endless, later, failures;
	uint64_t first; /* case that differed */
};

/* ---- running -------------------------------------------------------------------------------- */

static void case_fail(struct run *run, const struct cpu_case *c, const char *what)
{
	const struct options *o = &run->options;
	char repeat[128];

	snprintf(repeat, sizeof(repeat), "--seed %" PRIu64 "%s%s%s%s", o->seed,
		 o->only ? " --only " : "", o->only ? o->only->name : "",
		 o->plant ? " --plant " : "", o->plant ? o->plant->name : "");
	if (!run->failures++)
		run->first = c->number;
	run->groups[c->group - form_groups].failed++;
	if (!o->plants)
		case_print(c, what, repeat);
}

/* What the host has and the model has not: that it is #UD is all there is to see, or that
 * there is no page for the octets that it would have without that extension. */
static bool case_is_later(const struct cpu_case *c, const struct cpu_result *soft)
{
	bool cut = soft->vector == VEC_PF && soft->error & 0x10;
	uint8_t code[CODE_MAX + INSN_BYTES_MAX] = {0};
	struct soft_insn insn;

	memcpy(code, c->code, c->size);
	return !soft_decode(code, sizeof(code), c->mode, &insn) && insn_is_later(&insn) &&
	       (soft->vector == VEC_UD || (cut && soft->out.rip == c->at));
}

static void case_compare(struct run *run, unsigned n)
{
	const struct cpu_case *c = &run->batch->cases[n];
	const struct cpu_result *native = &run->batch->native[n], *soft = &run->soft[n];
	const char *what;

	run->endless += c->skip;
	if (c->skip)
		return;
	run->groups[c->group - form_groups].compared++;
	what = results_differ(c, native, soft);
	if (what && case_is_later(c, soft))
		run->later++;
	else if (what)
		case_fail(run, c, what);
	if (run->options.replays)
		results_print(c, native, soft);
}

/* Twice: the second time from decoded and linked blocks. */
static void case_model(struct run *run, unsigned n)
{
	static struct cpu_result again;
	struct cpu_case *c = &run->batch->cases[n];
	struct cpu_result *first = &run->soft[n];
	const char *what;

	plant_choose(run->options.plant);
	model_run(run->model, c, false, first);
	c->skip = first->ending != ENDED;
	model_run(run->model, c, true, &again);
	plant_choose(NULL);
	if (c->skip)
		return;
	what = again.ending == ENDED ? results_differ(c, first, &again) : "ending";
	if (what) {
		case_fail(run, c, what);
		printf("  ... from the model's own first run\n");
	}
}

static void batch_run(struct run *run, uint64_t from, unsigned count)
{
	const struct options *o = &run->options;

	run->batch->count = count;
	for (unsigned i = 0; i < count; i++) {
		case_make(&run->batch->cases[i], o->seed, from + i, o->only);
		case_model(run, i);
	}
	native_run(run->batch);
	for (unsigned i = 0; i < count; i++)
		case_compare(run, i);
}

/* Until so many fail. */
static void cases_run(struct run *run, unsigned failures)
{
	const struct options *o = &run->options;

	run->model = model_create();
	if (!run->model) {
		fprintf(stderr, "cpu-diff: the engine cannot be created\n");
		exit(2);
	}
	for (uint64_t n = 0; n < o->cases && run->failures < failures; n += BATCH) {
		batch_run(run, n, o->cases - n < BATCH ? (unsigned)(o->cases - n) : BATCH);
		if ((n + BATCH) % PROGRESS == 0) {
			printf("# %" PRIu64 " cases\n", n + BATCH);
			fflush(stdout);
		}
	}
	if (o->replays)
		batch_run(run, o->replay, 1);
	model_destroy(run->model);
}

/* ---- results ----------------------------------------------------------------------------------
 */

/* What makes of processors do differently is known of AMD's alone (expect.c). */
static bool host_is_known(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx &&
	       d == signature_AMD_edx;
}

static bool group_conclude(const struct run *run, unsigned i)
{
	uint64_t failed = run->groups[i].failed;
	bool known = host_is_known();

	printf("test cpu/%s %s (%" PRIu64 " of %" PRIu64 " cases differ%s)\n", form_groups[i].name,
	       !failed ? "ok"
	       : known ? "FAILED"
		       : "skipped",
	       failed, run->groups[i].compared,
	       known || !failed ? "" : "; only AMD's processors were compared with before");
	return !failed || !known;
}

static bool groups_conclude(const struct run *run)
{
	uint64_t compared = 0;
	bool passed = true;

	for (unsigned i = 0; i < form_group_count; i++) {
		compared += run->groups[i].compared;
		if (run->groups[i].compared)
			passed &= group_conclude(run, i);
	}
	printf("%" PRIu64 " cases of instructions that the model has not, %" PRIu64
	       " without an end\n",
	       run->later, run->endless);
	if (!compared && run->options.cases)
		printf("test cpu/cases FAILED (nothing was compared)\n");
	return passed && (compared || !run->options.cases);
}

static bool plant_find(struct run *run, const struct cpu_plant *plant)
{
	struct run planted = {.options = run->options, .batch = run->batch};
	bool found;

	planted.options.plant = plant;
	cases_run(&planted, 1);
	found = planted.failures;
	if (found)
		printf("test cpu/plant/%s ok (found by case %" PRIu64 ")\n", plant->name,
		       planted.first);
	else
		printf("test cpu/plant/%s FAILED (not found)\n", plant->name);
	fflush(stdout);
	return found;
}

/* ---- command line ------------------------------------------------------------------------------
 */

static bool plant_parse(struct options *o, const char *name)
{
	for (unsigned i = 0; i < cpu_plant_count; i++)
		if (!strcmp(name, cpu_plants[i].name))
			o->plant = &cpu_plants[i];
	return o->plant;
}

static bool option_parse(struct options *o, int c)
{
	switch (c) {
	case 'c':
		o->cases = strtoull(optarg, NULL, 0);
		return true;
	case 's':
		o->seed = strtoull(optarg, NULL, 0);
		return true;
	case 'o':
		o->only = form_group_find(optarg);
		return o->only;
	case 'p':
		return plant_parse(o, optarg);
	case 'P':
		return o->plants = true;
	case 'r':
		o->replay = strtoull(optarg, NULL, 0);
		o->cases = 0;
		return o->replays = true;
	default:
		return false;
	}
}

static bool options_parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {{"cases", required_argument, NULL, 'c'},
					      {"seed", required_argument, NULL, 's'},
					      {"only", required_argument, NULL, 'o'},
					      {"plant", required_argument, NULL, 'p'},
					      {"plants", no_argument, NULL, 'P'},
					      {"replay", required_argument, NULL, 'r'},
					      {0}};

	for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
		if (!option_parse(o, c))
			return false;
	return optind == argc;
}

static int usage(void)
{
	fprintf(stderr, "usage: cpu-diff [--cases N] [--seed S] [--only GROUP] [--plants] "
			"[--plant NAME] [--replay CASE]\n");
	for (unsigned i = 0; i < form_group_count; i++)
		fprintf(stderr, "  --only %s\n", form_groups[i].name);
	for (unsigned i = 0; i < cpu_plant_count; i++)
		fprintf(stderr, "  --plant %s\n", cpu_plants[i].name);
	return 2;
}

int main(int argc, char **argv)
{
	static struct run run;
	bool passed, plants;

	run.options = (struct options){.cases = 200000, .seed = (uint64_t)time(NULL)};
	if (!options_parse(&run.options, argc, argv))
		return usage();
	log_setup("cpu-diff", LOG_LEVEL_ERROR); /* not every instruction that is undefined */
	printf("cpu-diff: seed %" PRIu64 "\n", run.options.seed);
	fflush(stdout);
	images_make(run.options.seed);
	run.batch = batch_create();
	plants = run.options.plants;
	run.options.plants = false;
	cases_run(&run, FAILURES_MAX);
	passed = groups_conclude(&run);
	run.options.plants = plants;
	for (unsigned i = 0; plants && i < cpu_plant_count; i++)
		passed &= plant_find(&run, &cpu_plants[i]);
	return passed ? 0 : 1;
}

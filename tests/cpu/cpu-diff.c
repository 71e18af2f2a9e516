// SPDX-License-Identifier: Apache-2.0
/*
 * cpu-diff [--cases N] [--seed S] [--only GROUP] [--replay CASE]
 *
 * Random instructions natively and in engine soft. Prints the seed first and every case
 * that differs; --seed S --replay CASE runs that one again and shows both results.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/cpu/cpu.h"

#define FAILURES_MAX 40u

struct options {
	uint64_t cases, seed, replay;
	bool replays;
	const char *only;
};

struct run {
	struct options options;
	struct model *model;
	struct cpu_batch *batch;
	struct cpu_result soft[BATCH];
	uint64_t compared, skipped, undefined, failures;
};

/* ---- reports --------------------------------------------------------------------------------- */

static void case_print(const struct run *run, const struct cpu_case *c, const char *what)
{
	printf("case %" PRIu64 " (%s) differs in %s:", c->number, c->group, what);
	for (unsigned i = 0; i < c->size; i++)
		printf(" %02x", c->code[i]);
	printf("  [--seed %" PRIu64 "%s%s --replay %" PRIu64 "]\n", run->options.seed,
	       run->options.only ? " --only " : "", run->options.only ? run->options.only : "",
	       c->number);
}

static void registers_print(const char *side, const struct cpu_registers *s)
{
	uint16_t x87[2];
	uint32_t mxcsr;

	printf("%s: rip %" PRIx64 " flags %" PRIx64 " fs %" PRIx64 " gs %" PRIx64, side, s->rip,
	       s->flags, s->fs, s->gs);
	for (unsigned i = 0; i < 16; i++)
		printf("%s%16" PRIx64, i % 4 ? " " : "\n  ", s->r[i]);
	memcpy(x87, s->fpu, 4);
	memcpy(&mxcsr, s->fpu + 24, 4);
	printf("\n  control %x status %x tags %x mxcsr %x", x87[0], x87[1], s->fpu[4], mxcsr);
	for (unsigned i = 0; i < 24; i++) {
		uint64_t q[2];

		memcpy(q, s->fpu + 32 + 16 * i, 16);
		if (i < 8)
			q[1] &= 0xffff;
		printf("%s%016" PRIx64 "%016" PRIx64, i % 2 ? " " : "\n  ", q[1], q[0]);
	}
	printf("\n");
}

static void result_print(const char *side, const struct cpu_result *r)
{
	printf("%s: vector %u error %x cr2 %" PRIx64 "\n", side, r->vector, r->error, r->cr2);
	registers_print(side, &r->out);
}

static void memory_print(const struct cpu_case *c, const struct cpu_result *a,
			 const struct cpu_result *b)
{
	const uint8_t *x = (const uint8_t *)&a->memory, *y = (const uint8_t *)&b->memory;
	const uint8_t *was = (const uint8_t *)&images[c->image];

	for (size_t i = 0; i < sizeof(a->memory); i++)
		if (x[i] != y[i])
			printf("memory page %zu offset %03zx: was %02x, native %02x, soft %02x\n",
			       i / VM_PAGE_SIZE, i % VM_PAGE_SIZE, was[i], x[i], y[i]);
}

/* ---- running ------------------------------------------------------------------------------------
 */

static void case_compare(struct run *run, unsigned n)
{
	const struct cpu_case *c = &run->batch->cases[n];
	const struct cpu_result *native = &run->batch->native[n], *soft = &run->soft[n];
	struct soft_insn insn;
	const char *what;

	if (c->skip) {
		run->skipped++;
		return;
	}
	run->compared++;
	/* What the host has and the model has not, must be undefined. */
	if (!soft_decode(c->code, c->size, MODE_64, &insn) && insn_is_later(&insn) &&
	    soft->vector == VEC_UD) {
		run->undefined++;
		return;
	}
	what = results_differ(c, native, soft);
	if (what) {
		run->failures++;
		case_print(run, c, what);
	}
	if (run->options.replays) {
		printf("at %" PRIx64 "\n", c->at);
		registers_print("before", &c->in);
		result_print("native", native);
		result_print("soft", soft);
		memory_print(c, native, soft);
	}
}

/* Twice: the second time from decoded and linked blocks. */
static void case_model(struct run *run, unsigned n)
{
	static struct cpu_result again;
	struct cpu_case *c = &run->batch->cases[n];
	struct cpu_result *first = &run->soft[n];
	const char *what;

	model_run(run->model, c, false, first);
	c->skip = first->ending != ENDED;
	model_run(run->model, c, true, &again);
	if (c->skip)
		return;
	what = again.ending == ENDED ? results_differ(c, first, &again) : "ending";
	if (what) {
		run->failures++;
		case_print(run, c, what);
		printf("  ... from the model's own first run\n");
	}
}

static void batch_run(struct run *run, uint64_t from, unsigned count)
{
	run->batch->count = count;
	for (unsigned i = 0; i < count; i++) {
		(void)case_make(&run->batch->cases[i], run->options.seed, from + i,
				run->options.only);
		case_model(run, i);
	}
	native_run(run->batch);
	for (unsigned i = 0; i < count; i++)
		case_compare(run, i);
}

static void all_run(struct run *run)
{
	const struct options *o = &run->options;

	if (o->replays) {
		batch_run(run, o->replay, 1);
		return;
	}
	for (uint64_t n = 0; n < o->cases && run->failures < FAILURES_MAX; n += BATCH)
		batch_run(run, n, o->cases - n < BATCH ? (unsigned)(o->cases - n) : BATCH);
}

/* ---- command line
 * -------------------------------------------------------------------------------- */

static bool options_parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {{"cases", required_argument, NULL, 'c'},
					      {"seed", required_argument, NULL, 's'},
					      {"only", required_argument, NULL, 'o'},
					      {"replay", required_argument, NULL, 'r'},
					      {0}};

	for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		switch (c) {
		case 'c':
			o->cases = strtoull(optarg, NULL, 0);
			break;
		case 's':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			o->only = optarg;
			break;
		case 'r':
			o->replay = strtoull(optarg, NULL, 0);
			o->replays = true;
			break;
		default:
			return false;
		}
	}
	return optind == argc;
}

int main(int argc, char **argv)
{
	static struct run run;
	static struct cpu_case probe;

	run.options = (struct options){.cases = 200000, .seed = (uint64_t)time(NULL)};
	if (!options_parse(&run.options, argc, argv) ||
	    !case_make(&probe, run.options.seed, 0, run.options.only)) {
		fprintf(stderr, "usage: cpu-diff [--cases N] [--seed S] [--only GROUP] "
				"[--replay CASE]\n");
		return 2;
	}
	log_setup("cpu-diff", LOG_LEVEL_ERROR); /* not every instruction that is undefined */
	printf("cpu-diff: seed %" PRIu64 "\n", run.options.seed);
	fflush(stdout);
	images_make(run.options.seed);
	run.batch = batch_create();
	run.model = model_create();
	if (!run.model) {
		fprintf(stderr, "cpu-diff: the engine cannot be created\n");
		return 2;
	}
	all_run(&run);
	model_destroy(run.model);
	printf("%" PRIu64 " cases compared, %" PRIu64 " of them of later extensions, %" PRIu64
	       " without an end; %" PRIu64 " differ\n",
	       run.compared, run.undefined, run.skipped, run.failures);
	return run.failures ? 1 : 0;
}

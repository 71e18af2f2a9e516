// SPDX-License-Identifier: Apache-2.0
/*
 * The pause of a checkpoint and its parts, acknowledge and output delay, checkpoints a
 * second and what all that costs the guest: at several numbers of dirty pages, plain
 * stop-and-copy at a fixed interval beside event mode, each side by side with the same
 * guest unprotected. docs/performance.md says what each column means.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/pair.h"
#include "tests/guests/dirtier.h"

#define MEMORY     (UINT64_C(128) << 20)
#define WARM_UP    5u /* epochs: the first take what the first copy left */
#define LONGEST_NS NS_PER_SEC

struct bench_case {
	const char *table;
	enum replicate_mode mode;
	unsigned pages;    /* that the guest writes over and over */
	uint64_t every_us; /* interval; event mode: between two outputs; 0 = without rest */
	unsigned window;   /* 0 = the default */
	unsigned ms;
};

static const struct bench_case cases[] = {
	{"pause", REPLICATE_INTERVAL, 100, 5000, 0, 2500},
	{"pause", REPLICATE_EVENT, 100, 5000, 0, 2500},
	{"pause", REPLICATE_INTERVAL, 1000, 20000, 0, 5000},
	{"pause", REPLICATE_EVENT, 1000, 20000, 0, 5000},
	{"pause", REPLICATE_INTERVAL, 10000, 150000, 0, 9000},
	{"pause", REPLICATE_EVENT, 10000, 150000, 0, 9000},
	{"sustained", REPLICATE_INTERVAL, 1000, 5000, 0, 3000},
	{"sustained", REPLICATE_INTERVAL, 200, 1000, 0, 3000},
	{"sustained", REPLICATE_INTERVAL, 200, 1000, 4, 3000},
	{"sustained", REPLICATE_EVENT, 200, 0, 0, 3000},
};

static const char *const mode_names[] = {
	[REPLICATE_INTERVAL] = "interval",
	[REPLICATE_EVENT] = "event",
};

struct epoch {
	uint64_t at, epoch, pages, pause, ack, bytes_sent;
	struct vm_pause_times times;
};
#define EPOCHS_MAX 20000u

struct measurement {
	const struct bench_case *c;
	struct epoch *epochs;
	_Atomic uint64_t count;
	struct series outputs;
	uint64_t from, until;    /* of the protected measurement */
	double alone, protected; /* pages a second that the guest wrote */
};

/* ---- the guest's progress: pages written since its start ----------------------------- */

static uint64_t word_of(const uint8_t *ram, uint64_t page)
{
	return __atomic_load_n((const uint64_t *)(ram + dirtier_word(page)), __ATOMIC_RELAXED);
}

static uint64_t progress(struct vm *vm, uint64_t pages)
{
	const uint8_t *ram = vm_ram(vm);
	uint64_t pass = word_of(ram, 0) >> 32, low = 1, high = pages;

	if (!pass)
		return 0;
	while (low < high) { /* the first page that this pass has not reached */
		uint64_t middle = (low + high) / 2;

		if (word_of(ram, middle) >> 32 < pass)
			high = middle;
		else
			low = middle + 1;
	}
	return (pass - 1) * pages + low;
}

static void pages_wait(struct vm *vm, uint64_t pages, uint64_t passes)
{
	while (progress(vm, pages) < pages * passes)
		usleep(1000);
}

static double rate_alone(struct vm *vm, uint64_t pages, unsigned ms)
{
	uint64_t from = progress(vm, pages), at = clock_ns();

	usleep(ms * 1000);
	return (double)(progress(vm, pages) - from) / ((double)(clock_ns() - at) / NS_PER_SEC);
}

/* ---- a case ------------------------------------------------------------------------------ */

static void on_epoch(void *ctx, const struct replicate_stats *s)
{
	struct measurement *m = ctx;
	uint64_t n = atomic_load(&m->count);

	if (n == EPOCHS_MAX)
		return;
	m->epochs[n] = (struct epoch){
		.at = clock_ns(),
		.epoch = s->acknowledged,
		.pages = s->pages_last,
		.pause = s->pause_last_ns,
		.ack = s->ack_delay_last_ns,
		.bytes_sent = s->bytes_sent,
		.times = s->last,
	};
	atomic_store(&m->count, n + 1);
}

static struct pair *case_pair(struct measurement *m, const char *guest)
{
	const struct bench_case *c = m->c;
	struct pair_config config = {
		.kernel = guest, .memory = MEMORY, .vcpus = 1, .epoch = on_epoch, .ctx = m};
	uint64_t every = c->every_us * NS_PER_US;

	replicate_config_defaults(&config.replicate);
	config.replicate.mode = c->mode;
	config.replicate.interval_ns = c->mode == REPLICATE_EVENT ? LONGEST_NS : every;
	if (c->window)
		config.replicate.window = c->window;
	snprintf(config.cmdline, sizeof(config.cmdline), "pages=%u report=1000000000", c->pages);
	return pair_create(&config);
}

/* Protected, for its time: outputs are made as often as in event mode, in both. */
static void case_protected(struct measurement *m, struct pair *p, uint64_t ns)
{
	uint64_t at, began;

	while (atomic_load(&m->count) < WARM_UP)
		(void)pair_output(p);
	m->from = clock_ns();
	began = progress(pair_vm(p), m->c->pages);
	do {
		at = clock_ns();
		series_add(&m->outputs, pair_output(p));
		at += m->c->every_us * NS_PER_US;
		if (at > clock_ns())
			usleep((useconds_t)((at - clock_ns()) / NS_PER_US));
	} while (clock_ns() < m->from + ns);
	m->until = clock_ns();
	m->protected = (double)(progress(pair_vm(p), m->c->pages) - began) /
		       ((double)(m->until - m->from) / NS_PER_SEC);
}

static void case_run(struct measurement *m, const struct bench_options *o)
{
	unsigned ms = (unsigned)(m->c->ms * o->scale);
	struct pair *p = case_pair(m, o->guest);
	double before;

	pages_wait(pair_vm(p), m->c->pages, 2);
	before = rate_alone(pair_vm(p), m->c->pages, ms / 4);
	pair_protect(p);
	case_protected(m, p, (uint64_t)ms * NS_PER_MS);
	pair_unprotect(p);
	m->alone = (before + rate_alone(pair_vm(p), m->c->pages, ms / 4)) / 2;
	pair_destroy(p);
}

/* ---- what is printed ------------------------------------------------------------------------ */

enum column { PAGES, PAUSE, STOP, STATE, HARVEST, COPY, RESUME, ACK, COLUMNS };

static uint64_t column_of(const struct epoch *e, enum column column)
{
	const uint64_t all[COLUMNS] = {
		[PAGES] = e->pages,           [PAUSE] = e->pause,
		[STOP] = e->times.stop,       [STATE] = e->times.state,
		[HARVEST] = e->times.harvest, [COPY] = e->times.copy,
		[RESUME] = e->times.resume,   [ACK] = e->ack,
	};

	return all[column];
}

static bool epoch_counts(const struct measurement *m, const struct epoch *e)
{
	return e->at >= m->from && e->at <= m->until;
}

static void columns_fill(const struct measurement *m, struct series out[COLUMNS])
{
	for (uint64_t i = 0; i < m->count; i++)
		for (enum column k = 0; k < COLUMNS && epoch_counts(m, &m->epochs[i]); k++)
			series_add(&out[k], column_of(&m->epochs[i], k));
}

static void raw_write(const struct measurement *m, FILE *to)
{
	for (uint64_t i = 0; to && i < m->count; i++) {
		const struct epoch *e = &m->epochs[i];

		fprintf(to,
			"{\"bench\":\"%s\",\"mode\":\"%s\",\"pages_wanted\":%u,\"every_us\":%lu,"
			"\"epoch\":%lu,\"counted\":%s,\"pages\":%lu,\"pause_ns\":%lu,\"stop_ns\":%"
			"lu,"
			"\"state_ns\":%lu,\"harvest_ns\":%lu,\"copy_ns\":%lu,\"resume_ns\":%lu,"
			"\"ack_ns\":%lu,\"bytes_sent\":%lu}\n",
			m->c->table, mode_names[m->c->mode], m->c->pages, m->c->every_us, e->epoch,
			epoch_counts(m, e) ? "true" : "false", e->pages, e->pause, e->times.stop,
			e->times.state, e->times.harvest, e->times.copy, e->times.resume, e->ack,
			e->bytes_sent);
	}
	if (to)
		fflush(to);
}

static void heading_print(const char *table)
{
	printf("\n%s (microseconds; medians unless p99 is said)\n", table);
	printf("%-8s %6s %6s %6s | %7s %7s | %6s %6s %7s %7s %6s | %7s %7s | %7s %7s | %7s %6s\n",
	       "mode", "every", "pages", "epochs", "pause", "p99", "stop", "state", "harvest",
	       "copy", "resume", "ack", "p99", "output", "p99", "ckpt/s", "slower");
}

static void row_print(struct measurement *m)
{
	struct series s[COLUMNS] = {0};
	double rate;

	columns_fill(m, s);
	rate = (double)s[PAUSE].count / ((double)(m->until - m->from) / NS_PER_SEC);
	printf("%-8s %6lu %6lu %6zu | %7.0f %7.0f |", mode_names[m->c->mode], m->c->every_us,
	       series_percentile(&s[PAGES], 50), s[PAUSE].count,
	       us(series_percentile(&s[PAUSE], 50)), us(series_percentile(&s[PAUSE], 99)));
	printf(" %6.0f %6.0f %7.0f %7.0f %6.0f |", us(series_percentile(&s[STOP], 50)),
	       us(series_percentile(&s[STATE], 50)), us(series_percentile(&s[HARVEST], 50)),
	       us(series_percentile(&s[COPY], 50)), us(series_percentile(&s[RESUME], 50)));
	printf(" %7.0f %7.0f | %7.0f %7.0f | %7.1f %5.1f%%\n", us(series_percentile(&s[ACK], 50)),
	       us(series_percentile(&s[ACK], 99)), us(series_percentile(&m->outputs, 50)),
	       us(series_percentile(&m->outputs, 99)), rate, 100 * (1 - m->protected / m->alone));
	fflush(stdout);
	for (enum column k = 0; k < COLUMNS; k++)
		series_free(&s[k]);
}

int main(int argc, char **argv)
{
	const char *table = "";
	struct bench_options o;

	bench_options_parse(argc, argv, &o);
	bench_machine();
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct measurement m = {.c = &cases[i]};

		m.epochs = calloc(EPOCHS_MAX, sizeof(*m.epochs));
		if (!m.epochs)
			bench_fail("epochs", "out of memory");
		if (strcmp(table, m.c->table))
			heading_print(table = m.c->table);
		case_run(&m, &o);
		row_print(&m);
		raw_write(&m, o.raw);
		series_free(&m.outputs);
		free(m.epochs);
	}
	return 0;
}

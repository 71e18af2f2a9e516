// SPDX-License-Identifier: Apache-2.0
#include "cli/migrate_facts.h"

#include <string.h>

#include "cli/cli.h"
#include "migrate/migrate.h"

#define WINDOW_NS    (300 * NS_PER_MS) /* less says nothing of a rate */
#define ROUNDS_MOST  200u
#define MOST         1e18 /* a greater number is none */
#define SECONDS_MOST 1e7  /* a longer time is none */

static const struct migrate_facts nothing = {
	.round = FACT_UNKNOWN,
	.throttle = FACT_UNKNOWN,
	.memory_done = FACT_UNKNOWN,
	.memory_total = FACT_UNKNOWN,
	.disk_done = FACT_UNKNOWN,
	.disk_total = FACT_UNKNOWN,
	.postcopy_left = FACT_UNKNOWN,
	.postcopy_total = FACT_UNKNOWN,
	.wire = FACT_UNKNOWN,
	.wire_rate = FACT_UNKNOWN,
	.memory_rate = FACT_UNKNOWN,
	.disk_rate = FACT_UNKNOWN,
	.follow_rate = FACT_UNKNOWN,
	.round_rate = FACT_UNKNOWN,
	.dirty = FACT_UNKNOWN,
	.dirty_rate = FACT_UNKNOWN,
	.forecast_ns = FACT_UNKNOWN,
	.percent = FACT_UNKNOWN,
	.copy_eta_s = FACT_UNKNOWN,
	.eta_s = FACT_UNKNOWN,
};

double fact_number(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	double n = json_is_number(v) ? json_number_value(v) : FACT_UNKNOWN;

	return n >= 0 && n < MOST ? n : FACT_UNKNOWN;
}

uint64_t fact_count(const json_t *o, const char *key)
{
	double n = fact_number(o, key);

	return n > 0 ? (uint64_t)n : 0;
}

double fact_scaled(double n, double by)
{
	return n < 0 || n * by >= MOST ? FACT_UNKNOWN : n * by;
}

static double least(double a, double b)
{
	return a < b ? a : b;
}

/* ---- rates ------------------------------------------------------------------------ */

static void disks_sum(const json_t *stats, double *done, double *total)
{
	const json_t *d;
	size_t i;

	*done = *total = 0;
	json_array_foreach(json_object_get(stats, "disks"), i, d)
	{
		double size = (double)fact_count(d, "to_copy");

		*total += size;
		*done += least((double)fact_count(d, "copied"), size);
	}
}

/* What goes back is of another session; and nothing follows before it is known what. */
static bool seen_is_other(const struct migrate_seen *a, const struct migrate_seen *b)
{
	return (!b->memory && !b->missing) || b->missing != a->missing || b->at_ns < a->at_ns ||
	       b->wire < a->wire || b->memory < a->memory || b->copied < a->copied ||
	       b->followed < a->followed;
}

void migrate_watch_take(struct migrate_watch *w, const json_t *vm)
{
	const json_t *stats = json_object_get(vm, "stats");
	const json_t *replication = json_object_get(stats, "replication");
	const json_t *later = json_object_get(stats, "postcopy");
	uint64_t left = fact_count(later, "left");
	struct migrate_seen now = {.at_ns = fact_count(stats, "at_ns"),
				   .memory = fact_count(replication, "bytes_raw"),
				   .missing = fact_count(later, "missing")};
	double done, total;

	disks_sum(stats, &done, &total);
	now.copied = (uint64_t)done;
	if (now.missing > left)
		now.followed = (now.missing - left) * (uint64_t)FACT_PAGE;
	now.wire = fact_count(replication, "bytes_sent") + fact_count(later, "bytes");
	if (!now.at_ns || (w->count && w->seen[w->count - 1].at_ns == now.at_ns))
		return;
	if (w->count && seen_is_other(&w->seen[w->count - 1], &now))
		w->count = 0;
	if (w->count == WATCH_SAMPLES)
		memmove(w->seen, w->seen + 1, --w->count * sizeof(*w->seen));
	w->seen[w->count++] = now;
}

static void rates_read(const struct migrate_watch *w, const json_t *m, struct migrate_facts *f)
{
	const struct migrate_seen *a = w->seen, *b = a + (w->count ? w->count - 1 : 0);
	double seconds = w->count ? (double)(b->at_ns - a->at_ns) / 1e9 : 0;

	f->round_rate = fact_number(m, "memory_per_second");
	if (seconds * 1e9 >= (double)WINDOW_NS) {
		f->wire_rate = (double)(b->wire - a->wire) / seconds;
		f->memory_rate = (double)(b->memory - a->memory) / seconds;
		f->disk_rate = (double)(b->copied - a->copied) / seconds;
		f->follow_rate = (double)(b->followed - a->followed) / seconds;
	} else if (fact_count(m, "bytes_per_second")) { /* of the last round */
		f->wire_rate = fact_number(m, "bytes_per_second");
		f->memory_rate = f->round_rate;
	}
}

/* ---- how long -------------------------------------------------------------------- */

static double rest_s(double left, double rate)
{
	return left <= 0 ? 0 : rate > 0 ? left / rate : FACT_UNKNOWN;
}

static double longer(double a, double b)
{
	return a < 0 || b < 0 ? FACT_UNKNOWN : a > b ? a : b;
}

static double sum_of(double a, double b)
{
	return a < 0 || b < 0 ? FACT_UNKNOWN : a + b;
}

/* What the last pause leaves for pages; the guest stands still when they fit. */
static double pages_s(const json_t *limits)
{
	double downtime = fact_number(limits, "downtime_ms") / 1e3;
	double fixed = (double)fact_count(limits, "fixed_us") / 1e6;
	double share = downtime / MIGRATE_PAGES_SHARE;

	return downtime - fixed > share ? downtime - fixed : share;
}

/* From the end of this round on. */
static double rounds_s(const struct migrate_facts *f, const json_t *limits, double ram)
{
	double rate = f->round_rate > 0 ? f->round_rate : f->memory_rate, dirty, fits, s = 0;
	double after = fact_number(limits, "postcopy_after");
	bool shrinks = f->dirty_rate < rate - rate / MIGRATE_SHRINKS_BY;

	if (rate <= 0 || f->dirty_rate < 0 || fact_number(limits, "downtime_ms") < 0)
		return FACT_UNKNOWN;
	if (ram <= 0)
		ram = 1e18;
	fits = pages_s(limits) * rate;
	fits = fits > FACT_PAGE ? fits : FACT_PAGE;
	dirty = least(f->dirty_rate * f->memory_total / rate, ram);
	for (unsigned i = 0; i < ROUNDS_MOST && dirty > fits; i++) {
		if (after > 0 && f->round + i >= after)
			break;
		if (!shrinks && after <= 0)
			return FACT_UNKNOWN;
		s += dirty / rate;
		dirty = least(f->dirty_rate * dirty / rate, ram);
	}
	return s + dirty / rate + (double)fact_count(limits, "fixed_us") / 1e6;
}

static void copy_judge(const json_t *vm, struct migrate_facts *f)
{
	const json_t *limits = json_object_get(json_object_get(vm, "migration"), "limits");
	double ram = fact_number(json_object_get(vm, "stats"), "ram_bytes");
	bool disks = f->disk_done < f->disk_total;
	double total = f->memory_total + (disks ? f->disk_total : 0);
	double done = f->memory_done + (disks ? f->disk_done : 0);
	double disk_s = rest_s(f->disk_total - f->disk_done, f->disk_rate);
	double memory_s = rest_s(f->memory_total - f->memory_done, f->memory_rate);

	if (f->memory_total <= 0)
		return;
	f->percent = 100 * done / total;
	f->copy_eta_s = longer(memory_s, disk_s);
	f->eta_s = longer(sum_of(memory_s, rounds_s(f, limits, ram)), disk_s);
}

static void follow_judge(struct migrate_facts *f)
{
	if (f->postcopy_total <= 0 || f->postcopy_left < 0)
		return;
	f->percent = 100 * (1 - least(f->postcopy_left / f->postcopy_total, 1));
	if (!f->cut)
		f->copy_eta_s = f->eta_s = rest_s(f->postcopy_left, f->follow_rate);
}

/* ---- what is known ---------------------------------------------------------------- */

/* An older polluxd says no phase. */
static const char *phase_of(const json_t *vm)
{
	static const struct {
		const char *state, *phase;
	} phases[] = {{"migrating", "copying"},
		      {"handed-over", "handing-over"},
		      {"serving", "postcopy"},
		      {"memory-held", "postcopy"}};
	const char *phase = json_word(json_object_get(vm, "operation"), "phase");

	for (size_t i = 0; !*phase && i < ARRAY_LEN(phases); i++)
		if (!strcmp(json_word(vm, "state"), phases[i].state))
			return phases[i].phase;
	return *phase ? phase : "checking";
}

/* In the first round: as it was measured before. A session counts the same page many times. */
static double dirty_rate_of(const json_t *vm, const json_t *m)
{
	const json_t *f = json_object_get(json_object_get(vm, "check"), "forecast");

	if (fact_number(m, "round") >= 1)
		return fact_scaled(fact_number(m, "dirty_pages_per_second"), FACT_PAGE);
	if (json_is_true(json_object_get(f, "of_session")))
		return FACT_UNKNOWN;
	return fact_scaled(fact_number(f, "dirty_pages_per_second"), FACT_PAGE);
}

static void rounds_read(const json_t *vm, const json_t *m, struct migrate_facts *f)
{
	const json_t *replication = json_object_get(json_object_get(vm, "stats"), "replication");
	double rounds = fact_number(m, "round");

	f->dirty = rounds >= 1 ? fact_number(m, "dirty_pages") : FACT_UNKNOWN;
	f->dirty_rate = dirty_rate_of(vm, m);
	f->throttle = fact_number(m, "throttle");
	if (fact_count(m, "forecast_ns"))
		f->forecast_ns = fact_number(m, "forecast_ns");
	f->round = f->copying ? sum_of(rounds, 1) : rounds;
	if (!f->copying)
		return;
	f->memory_total = fact_number(replication, "sync_total");
	f->memory_done = least(fact_number(replication, "sync_done"), f->memory_total);
}

static void later_read(const json_t *later, struct migrate_facts *f)
{
	if (!fact_count(later, "missing"))
		return;
	f->postcopy_total = fact_scaled(fact_number(later, "missing"), FACT_PAGE);
	f->postcopy_left = fact_scaled(fact_number(later, "left"), FACT_PAGE);
	f->cut = !strcmp(json_word(later, "state"), "cut");
}

static bool is_before(const char *phase)
{
	return !strcmp(phase, "checking") || !strcmp(phase, "unprotecting");
}

void migrate_facts_read(const struct migrate_watch *w, const json_t *vm, struct migrate_facts *f)
{
	const json_t *stats = json_object_get(vm, "stats"),
		     *m = json_object_get(stats, "migration");
	const json_t *replication = json_object_get(stats, "replication");
	const json_t *later = json_object_get(stats, "postcopy");

	*f = nothing;
	f->phase = phase_of(vm);
	f->follows = !strcmp(f->phase, "postcopy") || !strcmp(f->phase, "recovering");
	/* Before it begins stats are of an earlier session. */
	if (is_before(f->phase) || (!json_is_object(m) && !f->follows))
		return;
	f->copying = !strcmp(f->phase, "copying");
	rates_read(w, m, f);
	rounds_read(vm, m, f);
	disks_sum(stats, &f->disk_done, &f->disk_total);
	f->wire = (double)(fact_count(replication, "bytes_sent") + fact_count(later, "bytes"));
	if (f->follows)
		later_read(later, f);
	if (f->copying)
		copy_judge(vm, f);
	else if (f->follows)
		follow_judge(f);
	if (f->eta_s > SECONDS_MOST)
		f->eta_s = FACT_UNKNOWN;
	if (f->copy_eta_s > SECONDS_MOST)
		f->copy_eta_s = FACT_UNKNOWN;
}

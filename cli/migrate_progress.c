// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/migrate_facts.h"

/* ---- the line -------------------------------------------------------------------- */

struct line {
	char *out;
	size_t size, len;
};

static void PRINTF(2, 3) piece_put(struct line *l, const char *fmt, ...)
{
	const char *gap = l->len ? "  " : "";
	char text[96];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (l->len + strlen(gap) + strlen(text) < l->size)
		l->len += (size_t)snprintf(l->out + l->len, l->size - l->len, "%s%s", gap, text);
}

static void time_put(struct line *l, const char *what, double seconds)
{
	unsigned long s = (unsigned long)(seconds + 0.5);

	if (s >= 3600)
		piece_put(l, "%s %lu:%02lu:%02lu", what, s / 3600, s / 60 % 60, s % 60);
	else
		piece_put(l, "%s %lu:%02lu", what, s / 60, s % 60);
}

static void rate_put(struct line *l, const char *what, double rate)
{
	char text[32];

	if (rate < 0)
		return;
	bytes_text((uint64_t)rate, text, sizeof(text));
	piece_put(l, "%s%s/s", what, text);
}

static void downtime_put(struct line *l, double ns)
{
	char text[32];

	if (ns <= 0)
		return;
	nanoseconds_text((uint64_t)ns, text, sizeof(text));
	piece_put(l, "downtime ~%s", text);
}

static void eta_put(struct line *l, const struct migrate_facts *f)
{
	if (f->eta_s >= 0)
		time_put(l, "ETA", f->eta_s);
	else if (f->copy_eta_s >= 1)
		time_put(l, "ETA over", f->copy_eta_s);
}

static void copy_put(struct line *l, const struct migrate_facts *f)
{
	piece_put(l, "round %.0f: %d %%", f->round, (int)f->percent);
	rate_put(l, "", f->wire_rate);
	eta_put(l, f);
	downtime_put(l, f->forecast_ns);
	rate_put(l, "dirty ", f->dirty_rate);
	if (f->disk_total > 0)
		piece_put(l, "disks %d %%", (int)(100 * f->disk_done / f->disk_total));
	if (f->throttle > 0)
		piece_put(l, "throttled %.0f %%", f->throttle);
}

static void follow_put(struct line *l, const struct migrate_facts *f)
{
	char left[32];

	bytes_text((uint64_t)f->postcopy_left, left, sizeof(left));
	piece_put(l, "memory follows: %d %%", (int)f->percent);
	if (f->cut) {
		piece_put(l, "the link is cut");
	} else {
		rate_put(l, "", f->wire_rate);
		eta_put(l, f);
	}
	piece_put(l, "%s left", left);
}

static const char *phase_text(const char *phase)
{
	static const struct {
		const char *phase, *text;
	} texts[] = {
		{"unprotecting", "ending its protection"}, {"pausing", "last pause"},
		{"handing-over", "handing over"},          {"postcopy", "memory follows"},
		{"recovering", "making the link again"},   {"ending", "settling where it runs"}};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (!strcmp(phase, texts[i].phase))
			return texts[i].text;
	return phase;
}

void migrate_line_text(const struct migrate_watch *w, const json_t *vm, double elapsed_s, char *out,
		       size_t size)
{
	struct line l = {.out = out, .size = size};
	struct migrate_facts f;

	migrate_facts_read(w, vm, &f);
	*out = '\0';
	if (f.copying && f.percent >= 0 && f.round >= 0) {
		copy_put(&l, &f);
	} else if (!strcmp(f.phase, "postcopy") && f.percent >= 0) {
		follow_put(&l, &f);
	} else {
		piece_put(&l, "%s, %.0f s", phase_text(f.phase), elapsed_s);
		if (!strcmp(f.phase, "pausing"))
			downtime_put(&l, f.forecast_ns);
	}
}

/* ---- the event -------------------------------------------------------------------- */

static json_t *whole(double n)
{
	return n < 0 ? json_null() : json_integer((json_int_t)n);
}

static json_t *real(double n)
{
	return n < 0 ? json_null() : json_real(n);
}

json_t *migrate_event_json(const struct migrate_watch *w, const json_t *vm)
{
	struct migrate_facts f;

	migrate_facts_read(w, vm, &f);
	return json_pack(
		"{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
		"s:o, s:o, s:o, s:o, s:o}",
		"event", "progress", "phase", f.phase, "state", json_word(vm, "state"), "percent",
		real(f.percent), "round", whole(f.round), "bytes_sent", whole(f.wire),
		"bytes_per_second", whole(f.wire_rate), "memory_done", whole(f.memory_done),
		"memory_total", whole(f.memory_total), "disk_done", whole(f.disk_done),
		"disk_total", whole(f.disk_total), "dirty_pages", whole(f.dirty),
		"dirty_pages_per_second", whole(fact_scaled(f.dirty_rate, 1 / FACT_PAGE)),
		"postcopy_left", whole(f.postcopy_left), "postcopy_total", whole(f.postcopy_total),
		"copy_eta_s", real(f.copy_eta_s), "eta_s", real(f.eta_s), "throttle_percent",
		whole(f.throttle), "forecast_downtime_ns", whole(f.forecast_ns));
}

/* ---- the summary ------------------------------------------------------------------- */

struct totals {
	double bytes, disks, later, rounds, throttle; /* FACT_UNKNOWN: not said */
};

/* An older polluxd gives no more than the last stats. */
static struct totals totals_read(const json_t *migration)
{
	const json_t *sent = json_object_get(migration, "sent");
	const json_t *last = json_object_get(migration, "last");
	const json_t *m = json_object_get(last, "migration");
	struct totals t;

	if (json_is_object(sent))
		return (struct totals){fact_number(sent, "bytes"), fact_number(sent, "disk_bytes"),
				       fact_number(sent, "postcopy_bytes"),
				       fact_number(sent, "rounds"),
				       fact_number(sent, "throttle_most")};
	t = (struct totals){fact_number(json_object_get(last, "replication"), "bytes_sent"),
			    FACT_UNKNOWN, fact_number(json_object_get(last, "postcopy"), "bytes"),
			    fact_number(m, "round"), fact_number(m, "throttle")};
	if (t.bytes >= 0 && t.later > 0)
		t.bytes += t.later;
	return t;
}

static void PRINTF(2, 3) text_put(struct line *l, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(l->out + l->len, l->size - l->len, fmt, args);
	va_end(args);
	if (n > 0)
		l->len = l->len + (size_t)n < l->size ? l->len + (size_t)n : l->size - 1;
}

static void downtime_tell(struct line *l, const json_t *m)
{
	char text[32];

	if (!fact_count(m, "downtime_ns"))
		return;
	nanoseconds_text(fact_count(m, "downtime_ns"), text, sizeof(text));
	text_put(l, ", downtime %s", text);
	if (!fact_count(m, "forecast_ns"))
		return;
	nanoseconds_text(fact_count(m, "forecast_ns"), text, sizeof(text));
	text_put(l, " (forecast %s)", text);
}

static void sent_tell(struct line *l, const struct totals *t)
{
	char text[32];

	if (t->bytes < 0)
		return;
	bytes_text((uint64_t)t->bytes, text, sizeof(text));
	text_put(l, ", %s sent", text);
	if (t->rounds > 0)
		text_put(l, " in %.0f round%s", t->rounds, t->rounds > 1 ? "s" : "");
}

static void part_tell(struct line *l, const char *what, double bytes)
{
	char text[32];

	if (bytes <= 0)
		return;
	bytes_text((uint64_t)bytes, text, sizeof(text));
	text_put(l, "%s %s", what, text);
}

/* It was asked for, and nothing followed, nor was anything in its way. */
static bool postcopy_unneeded(const json_t *m, const struct totals *t)
{
	const json_t *limits = json_object_get(m, "limits");

	return fact_number(limits, "postcopy_after") > 0 &&
	       !json_is_true(json_object_get(limits, "postcopy_only")) && t->later == 0 &&
	       !*json_word(m, "end_why");
}

void migrate_summary_text(const json_t *vm, const char *name, const char *to, char *out,
			  size_t size)
{
	const json_t *m = json_object_get(vm, "migration");
	struct line l = {.out = out, .size = size};
	struct totals t = totals_read(m);
	double elapsed_ms = fact_number(m, "elapsed_ms");

	text_put(&l, "%s runs on %s", name, to);
	if (elapsed_ms >= 0)
		text_put(&l, ": %.1f s", elapsed_ms / 1e3);
	downtime_tell(&l, m);
	sent_tell(&l, &t);
	if (t.disks > 0 || t.later > 0)
		text_put(&l, "\nof that");
	part_tell(&l, " disks", t.disks);
	part_tell(&l,
		  t.disks > 0 ? ", memory that followed the guest"
			      : " memory that followed the guest",
		  t.later);
	if (t.throttle > 0)
		text_put(&l, "\nthe guest was throttled by up to %.0f %%", t.throttle);
	if (*json_word(m, "end_why"))
		text_put(&l, "\n%s", json_word(m, "end_why"));
	if (postcopy_unneeded(m, &t))
		text_put(&l, "\nit converged before postcopy");
	text_put(&l, "\n");
}

// SPDX-License-Identifier: Apache-2.0
/* What `pollux migrate` says of how it goes, from what polluxd says: text for text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/migrate_progress.h"

#define MIB      1048576ll
#define ROOM     256
#define PAGES(n) ((n)*MIB / 4096)

/* A VM that is being copied, as polluxd tells of it. */
struct scene {
	const char *phase, *state;
	unsigned round, throttle;
	long long at_ms, raw, sent, done, total;      /* of stats; MiB */
	long long disk, disk_copied;                  /* MiB; 0 = none */
	long long dirty_rate, wire_rate, memory_rate; /* of the last round; MiB/s */
	long long foreseen;                /* dirty rate before it began; -1 = not known */
	long long forecast_us, after, ram; /* ram: MiB */
	long long missing, left, later;    /* of a postcopy; MiB */
	const char *link;
};

static json_t *stats_of(const struct scene *s)
{
	json_t *o =
		json_pack("{s:I, s:b, s:I, s:{s:i, s:i, s:I, s:I, s:I, s:I, s:I}, "
			  "s:{s:I, s:I, s:I, s:I}, s:[{s:I, s:I, s:b}, {s:I, s:I, s:b}], s:n}",
			  "at_ns", s->at_ms * 1000000, "handover", true, "ram_bytes", s->ram * MIB,
			  "migration", "round", s->round, "throttle", s->throttle, "forecast_ns",
			  s->forecast_us * 1000, "dirty_pages", PAGES(1), "dirty_pages_per_second",
			  PAGES(s->dirty_rate), "bytes_per_second", s->wire_rate * MIB,
			  "memory_per_second", s->memory_rate * MIB, "replication", "bytes_raw",
			  s->raw * MIB, "bytes_sent", s->sent * MIB, "sync_done", s->done * MIB,
			  "sync_total", s->total * MIB, "disks", "to_copy", s->disk * MIB, "copied",
			  s->disk_copied * MIB, "synced", s->disk_copied >= s->disk,
			  /* One that both hosts see, or that is read only. */
			  "to_copy", 0ll, "copied", 0ll, "synced", false, "postcopy");

	assert_non_null(o);
	if (s->missing)
		json_object_set_new(o, "postcopy",
				    json_pack("{s:s, s:s, s:I, s:I, s:I}", "side", "source",
					      "state", s->link, "missing", PAGES(s->missing),
					      "left", PAGES(s->left), "bytes", s->later * MIB));
	return o;
}

static json_t *scene_json(const struct scene *s)
{
	json_t *vm = json_pack(
		"{s:s, s:s, s:{s:s, s:s, s:s}, s:{s:s, s:i, s:{s:i, s:i, s:I}}, s:o, s:{s:{}}}",
		"name", "vm1", "state", s->state, "operation", "what", "migrate", "state",
		"running", "phase", s->phase, "migration", "to", "hostb", "elapsed_ms", 5000,
		"limits", "downtime_ms", 30, "fixed_us", 5000, "postcopy_after", s->after, "stats",
		stats_of(s), "check", "forecast");

	assert_non_null(vm);
	if (s->foreseen >= 0)
		json_object_set_new(json_object_get(json_object_get(vm, "check"), "forecast"),
				    "dirty_pages_per_second", json_integer(PAGES(s->foreseen)));
	return vm;
}

/* 50 MiB/s on the wire, 100 of memory, and 2 s to go of this round. */
static const struct scene first = {.phase = "copying",
				   .state = "migrating",
				   .at_ms = 11000,
				   .raw = 200,
				   .sent = 100,
				   .done = 200,
				   .total = 400,
				   .foreseen = -1,
				   .ram = 512};
static const struct scene third = {.phase = "copying",
				   .state = "migrating",
				   .at_ms = 11000,
				   .raw = 600,
				   .sent = 300,
				   .done = 20,
				   .total = 40,
				   .round = 2,
				   .dirty_rate = 10,
				   .wire_rate = 50,
				   .memory_rate = 100,
				   .forecast_us = 23400,
				   .foreseen = -1,
				   .ram = 512};
static const struct scene follows = {.phase = "postcopy",
				     .state = "serving",
				     .at_ms = 11000,
				     .raw = 400,
				     .sent = 200,
				     .round = 1,
				     .foreseen = -1,
				     .missing = 200,
				     .left = 120,
				     .later = 80,
				     .link = "running"};

static void watch_take(struct migrate_watch *w, const struct scene *s)
{
	json_t *vm = scene_json(s);

	migrate_watch_take(w, vm);
	json_decref(vm);
}

/* How it was a second ago: so much less was done. */
static struct scene earlier(const struct scene *s, long long raw, long long sent, long long disk,
			    long long followed)
{
	struct scene before = *s;

	before.at_ms -= 1000;
	before.raw -= raw;
	before.sent -= sent;
	before.disk_copied -= disk;
	before.left += followed;
	before.later -= followed;
	return before;
}

static void says(const struct migrate_watch *w, const json_t *vm, size_t size, const char *expected)
{
	char text[ROOM] = "?";

	migrate_line_text(w, vm, 3.2, text, size);
	assert_string_equal(text, expected);
}

static void scene_says(const struct scene *before, const struct scene *s, const char *expected)
{
	struct migrate_watch w = {0};
	json_t *vm = scene_json(s);

	if (before)
		watch_take(&w, before);
	migrate_watch_take(&w, vm);
	says(&w, vm, ROOM, expected);
	json_decref(vm);
}

static double event_number(const json_t *e, const char *key)
{
	const json_t *v = json_object_get(e, key);

	if (!v)
		fail_msg("the event has no %s", key);
	return json_is_null(v) ? -1 : json_number_value(v);
}

/* ---- copying --------------------------------------------------------------------------- */

static void test_first_round(void **state)
{
	struct scene s = first, before = earlier(&first, 100, 50, 0, 0);

	/* One look tells no rate. */
	scene_says(NULL, &s, "round 1: 50 %");
	/* What the guest writes was not measured: the round is all that is known. */
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA over 0:02");
	/* 2 s, and rounds of 40 and 4 MiB: 2.4 s. */
	s.foreseen = 10;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA 0:02  dirty 10.0 MiB/s");
	/* 2 s, and rounds of 200, 100... MiB until 2.5 fit the pause: 4 s more. */
	s.foreseen = 50;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA 0:06  dirty 50.0 MiB/s");
}

static void test_no_end(void **state)
{
	struct scene s = first, before = earlier(&first, 100, 50, 0, 0);

	s.foreseen = 80;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA over 0:02  dirty 80.0 MiB/s");
	/* What is left follows the guest after this round: 320 MiB of it... */
	s.after = 1;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA 0:05  dirty 80.0 MiB/s");
	/* ...and never more than there is. */
	s.foreseen = 100000;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA 0:07  dirty 97.7 GiB/s");
	s.foreseen = -1;
	scene_says(&before, &s, "round 1: 50 %  50.0 MiB/s  ETA over 0:02");
	/* The link stands still. */
	before = earlier(&first, 0, 0, 0, 0);
	scene_says(&before, &s, "round 1: 50 %  0 B/s");
}

static void test_later_round(void **state)
{
	struct scene s = third;

	/* Of one look: the last round's rates. 0.2 s, and a round of 4 MiB. */
	scene_says(NULL, &s,
		   "round 3: 50 %  50.0 MiB/s  ETA 0:00  downtime ~23.4 ms  dirty 10.0 MiB/s");
	s.dirty_rate = 90;
	s.throttle = 35;
	s.total = 400;
	scene_says(NULL, &s,
		   "round 3: 5 %  50.0 MiB/s  ETA over 0:04  downtime ~23.4 ms  "
		   "dirty 90.0 MiB/s  throttled 35 %");
	s.total = 0; /* of nothing there is no percentage */
	scene_says(NULL, &s, "copying, 3 s");
}

static void test_disks(void **state)
{
	struct scene s = first, before;

	s.sent = 400;
	s.foreseen = 10;
	s.disk = 4000;
	s.disk_copied = 1000;
	before = earlier(&s, 100, 150, 100, 0);
	/* 1200 of 4400 MiB, and 30 s for the disk at 100 MiB/s. */
	scene_says(&before, &s,
		   "round 1: 27 %  150.0 MiB/s  ETA 0:30  dirty 10.0 MiB/s  disks 25 %");
	/* It stands still: nobody knows. */
	before = earlier(&s, 100, 50, 0, 0);
	scene_says(&before, &s, "round 1: 27 %  50.0 MiB/s  dirty 10.0 MiB/s  disks 25 %");
	/* It is there: the round is what is left. */
	s.disk_copied = s.disk;
	before = earlier(&s, 100, 50, 0, 0);
	scene_says(&before, &s,
		   "round 1: 50 %  50.0 MiB/s  ETA 0:02  dirty 10.0 MiB/s  disks 100 %");
	/* Rounds wait for it. */
	s = third;
	s.done = s.total;
	s.disk = 36000;
	s.disk_copied = 0;
	before = earlier(&s, 0, 10, 10, 0);
	before.disk_copied = 0;
	s.disk_copied = 10;
	scene_says(&before, &s,
		   "round 3: 0 %  10.0 MiB/s  ETA 59:59  downtime ~23.4 ms  dirty 10.0 MiB/s  "
		   "disks 0 %");
}

static void test_long(void **state)
{
	struct scene s = first, before;

	s.sent = 400;
	s.disk = 1 << 20;
	s.disk_copied = 40;
	s.foreseen = 0;
	before = earlier(&s, 100, 150, 40, 0);
	scene_says(&before, &s, "round 1: 0 %  150.0 MiB/s  ETA 7:16:53  dirty 0 B/s  disks 0 %");
	s.disk = 1ll << 36; /* longer than anybody would wait */
	s.disk_copied = 41;
	before = earlier(&s, 100, 150, 1, 0);
	scene_says(&before, &s, "round 1: 0 %  150.0 MiB/s  dirty 0 B/s  disks 0 %");
}

/* ---- the other phases -------------------------------------------------------------------- */

static void test_phases(void **state)
{
	static const struct {
		const char *phase, *state, *text;
	} cases[] = {
		{"checking", "running", "checking, 3 s"},
		{"checking", "protected", "checking, 3 s"},
		{"unprotecting", "protected", "ending its protection, 3 s"},
		{"connecting", "migrating", "connecting, 3 s"},
		{"pausing", "migrating", "last pause, 3 s  downtime ~23.4 ms"},
		{"handing-over", "handed-over", "handing over, 3 s"},
		{"postcopy", "serving", "memory follows, 3 s"},
		{"recovering", "memory-held", "making the link again, 3 s"},
		{"ending", "migrating", "settling where it runs, 3 s"},
		{"dancing", "migrating", "dancing, 3 s"}, /* of a later polluxd */
		{"", "running", "checking, 3 s"},
		{"", "handed-over", "handing over, 3 s"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct scene s = third;

		s.phase = cases[i].phase;
		s.state = cases[i].state;
		scene_says(NULL, &s, cases[i].text);
	}
}

static void test_older_polluxd(void **state)
{
	struct scene s = third, before = earlier(&follows, 0, 0, 0, 40);

	s.phase = "";
	scene_says(NULL, &s,
		   "round 3: 50 %  50.0 MiB/s  ETA 0:00  downtime ~23.4 ms  dirty 10.0 MiB/s");
	s = follows;
	s.phase = before.phase = "";
	scene_says(&before, &s, "memory follows: 40 %  40.0 MiB/s  ETA 0:03  120.0 MiB left");
}

static void test_follows(void **state)
{
	struct scene s = follows, before = earlier(&follows, 0, 0, 0, 40);

	scene_says(&before, &s, "memory follows: 40 %  40.0 MiB/s  ETA 0:03  120.0 MiB left");
	scene_says(NULL, &s, "memory follows: 40 %  120.0 MiB left");
	s.raw = before.raw = 0; /* all of it follows */
	scene_says(&before, &s, "memory follows: 40 %  40.0 MiB/s  ETA 0:03  120.0 MiB left");
	s.left = 0;
	s.later = 200;
	scene_says(&before, &s, "memory follows: 100 %  160.0 MiB/s  ETA 0:00  0 B left");
	s = follows;
	s.link = "cut";
	scene_says(&before, &s, "memory follows: 40 %  the link is cut  120.0 MiB left");
	s.left = 300; /* more than was missing is nonsense, but no reason to say some */
	s.link = "running";
	scene_says(NULL, &s, "memory follows: 0 %  300.0 MiB left");
}

/* ---- a watch ----------------------------------------------------------------------------- */

/* A rate is that of the last seconds: of the last samples that fit. */
static void test_watch_moves(void **state)
{
	struct migrate_watch w = {0};
	struct scene s = first;
	json_t *e, *vm;

	s.sent = 0;
	for (unsigned i = 0; i < 3 * WATCH_SAMPLES; i++) {
		s.at_ms += 200;
		s.sent += i < 2 * WATCH_SAMPLES ? 10 : 20;
		watch_take(&w, &s);
		watch_take(&w, &s); /* the same stats, seen twice */
	}
	assert_int_equal(w.count, WATCH_SAMPLES);
	vm = scene_json(&s);
	e = migrate_event_json(&w, vm);
	assert_true(event_number(e, "bytes_per_second") == 100.0 * MIB);
	json_decref(e);
	json_decref(vm);
}

/* Another session counts from its own beginning, and says nothing of the one before. */
static void test_watch_session(void **state)
{
	struct migrate_watch w = {0};
	struct scene s = third;

	watch_take(&w, &s);
	s = first;
	s.at_ms = 12000;
	watch_take(&w, &s);
	assert_int_equal(w.count, 1);
	s.at_ms = 500; /* another process, with a clock of its own */
	watch_take(&w, &s);
	assert_int_equal(w.count, 1);
}

/* While streams are made, and before the first page is asked for, no time goes into a rate. */
static void test_watch_begins(void **state)
{
	struct migrate_watch w = {0};
	struct scene s = first;

	s.raw = s.sent = 0;
	for (unsigned i = 0; i < 3; i++) {
		s.at_ms += 1000;
		watch_take(&w, &s);
		assert_int_equal(w.count, 1);
	}
	s.raw = s.sent = 10;
	s.at_ms += 1000;
	watch_take(&w, &s);
	assert_int_equal(w.count, 2);
	s.missing = s.left = 100;
	s.link = "running";
	s.at_ms += 1000;
	watch_take(&w, &s);
	assert_int_equal(w.count, 1);
}

/* ---- the width of a terminal ----------------------------------------------------------------- */

static void test_width(void **state)
{
	struct scene s = third, before;
	struct migrate_watch w = {0};
	char text[ROOM], all[ROOM];
	json_t *vm;

	s.disk = 4000;
	s.disk_copied = 1000;
	s.throttle = 20;
	before = earlier(&s, 100, 150, 100, 0);
	watch_take(&w, &before);
	watch_take(&w, &s);
	vm = scene_json(&s);
	says(&w, vm, 101,
	     "round 3: 25 %  150.0 MiB/s  ETA 0:30  downtime ~23.4 ms  dirty 10.0 MiB/s  "
	     "disks 25 %");
	says(&w, vm, 80,
	     "round 3: 25 %  150.0 MiB/s  ETA 0:30  downtime ~23.4 ms  dirty 10.0 MiB/s");
	says(&w, vm, 40, "round 3: 25 %  150.0 MiB/s  ETA 0:30");
	says(&w, vm, 1, "");
	migrate_line_text(&w, vm, 0, all, sizeof(all));
	for (size_t size = 1; size < sizeof(text); size++) {
		memset(text, '#', sizeof(text));
		migrate_line_text(&w, vm, 0, text, size);
		assert_true(strlen(text) < size && strlen(text) <= strlen(all));
	}
	assert_string_equal(text, all);
	json_decref(vm);
}

/* ---- events ---------------------------------------------------------------------------------- */

static const char *const event_numbers[] = {
	"percent",
	"round",
	"bytes_sent",
	"bytes_per_second",
	"memory_done",
	"memory_total",
	"disk_done",
	"disk_total",
	"dirty_pages",
	"postcopy_left",
	"dirty_pages_per_second",
	"postcopy_total",
	"copy_eta_s",
	"eta_s",
	"throttle_percent",
	"forecast_downtime_ns",
};

static json_t *event_of(const struct scene *before, const struct scene *s)
{
	struct migrate_watch w = {0};
	json_t *vm = scene_json(s), *e;

	if (before)
		watch_take(&w, before);
	migrate_watch_take(&w, vm);
	e = migrate_event_json(&w, vm);
	json_decref(vm);
	assert_non_null(e);
	assert_int_equal(json_object_size(e), 3 + ARRAY_LEN(event_numbers));
	for (size_t i = 0; i < ARRAY_LEN(event_numbers); i++)
		(void)event_number(e, event_numbers[i]);
	return e;
}

static void test_event_copying(void **state)
{
	struct scene s = third, before;
	json_t *e;

	s.disk = 4000;
	s.disk_copied = 1000;
	s.throttle = 20;
	before = earlier(&s, 100, 150, 100, 0);
	e = event_of(&before, &s);
	assert_string_equal(json_word(e, "event"), "progress");
	assert_string_equal(json_word(e, "phase"), "copying");
	assert_string_equal(json_word(e, "state"), "migrating");
	assert_true(event_number(e, "round") == 3);
	assert_true((int)event_number(e, "percent") == 25);
	assert_true(event_number(e, "bytes_sent") == 300.0 * MIB);
	assert_true(event_number(e, "bytes_per_second") == 150.0 * MIB);
	assert_true(event_number(e, "memory_done") == 20.0 * MIB);
	assert_true(event_number(e, "memory_total") == 40.0 * MIB);
	assert_true(event_number(e, "disk_done") == 1000.0 * MIB);
	assert_true(event_number(e, "disk_total") == 4000.0 * MIB);
	assert_true(event_number(e, "dirty_pages") == PAGES(1));
	assert_true(event_number(e, "dirty_pages_per_second") == PAGES(10));
	assert_true(event_number(e, "eta_s") == 30);
	assert_true(event_number(e, "copy_eta_s") == 30);
	assert_true(event_number(e, "throttle_percent") == 20);
	assert_true(event_number(e, "forecast_downtime_ns") == 23400000);
	assert_true(event_number(e, "postcopy_left") == -1);
	assert_true(event_number(e, "postcopy_total") == -1);
	json_decref(e);
}

static void test_event_follows(void **state)
{
	struct scene before = earlier(&follows, 0, 0, 0, 40);
	json_t *e = event_of(&before, &follows);

	assert_string_equal(json_word(e, "phase"), "postcopy");
	assert_true(event_number(e, "percent") == 40);
	assert_true(event_number(e, "bytes_sent") == 280.0 * MIB);
	assert_true(event_number(e, "postcopy_left") == 120.0 * MIB);
	assert_true(event_number(e, "postcopy_total") == 200.0 * MIB);
	assert_true(event_number(e, "eta_s") == 3);
	assert_true(event_number(e, "memory_total") == -1);
	json_decref(e);
}

/* Nobody knows when the link is there again. */
static void test_event_cut(void **state)
{
	struct scene before = earlier(&follows, 0, 0, 0, 40), s = follows;
	json_t *e;

	s.link = "cut";
	e = event_of(&before, &s);
	assert_true(event_number(e, "eta_s") == -1 && event_number(e, "copy_eta_s") == -1);
	assert_true(event_number(e, "percent") == 40);
	json_decref(e);
}

static void unknown_event(bool migrated)
{
	struct scene s = first;
	struct migrate_watch w = {0};
	json_t *vm, *e;

	s.phase = "checking";
	s.state = "protected";
	vm = scene_json(&s);
	if (!migrated)
		json_object_set_new(json_object_get(vm, "stats"), "migration", json_null());
	e = migrate_event_json(&w, vm);
	for (size_t i = 0; i < ARRAY_LEN(event_numbers); i++)
		if (event_number(e, event_numbers[i]) >= 0)
			fail_msg("%s cannot be known", event_numbers[i]);
	json_decref(e);
	json_decref(vm);
}

/* Before it begins: what its protection counts is not of it, nor a migration before. */
static void test_event_unknown(void **state)
{
	unknown_event(false);
	unknown_event(true);
}

/* ---- the summary ----------------------------------------------------------------------------- */

static void summary_says(const char *migration, const char *expected)
{
	json_t *m = json_loads(migration, JSON_DECODE_ANY, NULL);
	json_t *vm = json_pack("{s:o}", "migration", m);
	char text[600];

	assert_non_null(vm);
	migrate_summary_text(vm, "vm1", "hostb", text, sizeof(text));
	assert_string_equal(text, expected);
	json_decref(vm);
}

#define DOWNTIME "\"elapsed_ms\": 12300, \"downtime_ns\": 23400000, \"forecast_ns\": 25000000"

static void test_summary(void **state)
{
	summary_says("{" DOWNTIME ", \"sent\": {\"bytes\": 1073741824, \"disk_bytes\": 0, "
		     "\"postcopy_bytes\": 0, \"rounds\": 4, \"throttle_most\": 0}}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 1.0 GiB sent "
		     "in 4 rounds\n");
	summary_says(
		"{" DOWNTIME ", \"sent\": {\"bytes\": 1073741824, \"disk_bytes\": 536870912, "
		"\"postcopy_bytes\": 20971520, \"rounds\": 1, \"throttle_most\": 35}}",
		"vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 1.0 GiB sent "
		"in 1 round\nof that disks 512.0 MiB, memory that followed the guest 20.0 MiB\n"
		"the guest was throttled by up to 35 %\n");
	summary_says("{" DOWNTIME ", \"sent\": {\"bytes\": 1073741824, \"disk_bytes\": 0, "
		     "\"postcopy_bytes\": 20971520, \"rounds\": 1, \"throttle_most\": 0}}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 1.0 GiB sent "
		     "in 1 round\nof that memory that followed the guest 20.0 MiB\n");
	summary_says("{" DOWNTIME ", \"limits\": {\"postcopy_after\": 1}, \"sent\": {\"bytes\": "
		     "1073741824, \"postcopy_bytes\": 0, \"rounds\": 3}}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 1.0 GiB sent "
		     "in 3 rounds\nit converged before postcopy\n");
	summary_says("{" DOWNTIME ", \"end_why\": \"it took long\"}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms)\n"
		     "it took long\n");
}

static void test_summary_lacks(void **state)
{
	/* An older polluxd has the last stats alone. */
	summary_says("{" DOWNTIME ", \"last\": {\"replication\": {\"bytes_sent\": 1048576}, "
		     "\"postcopy\": {\"bytes\": 1048576}, \"migration\": {\"round\": 2}}}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 2.0 MiB sent "
		     "in 2 rounds\nof that memory that followed the guest 1.0 MiB\n");
	summary_says("{" DOWNTIME ", \"last\": {\"replication\": {\"bytes_sent\": 1048576}, "
		     "\"postcopy\": null}}",
		     "vm1 runs on hostb: 12.3 s, downtime 23.4 ms (forecast 25.0 ms), 1.0 MiB "
		     "sent\n");
	summary_says("{\"elapsed_ms\": 5}", "vm1 runs on hostb: 0.0 s\n");
	summary_says("{\"downtime_ns\": 5000000}", "vm1 runs on hostb, downtime 5.0 ms\n");
	summary_says("{}", "vm1 runs on hostb\n");
	summary_says("null", "vm1 runs on hostb\n");
}

/* ---- whatever is missing, or is not what it should be ------------------------------------------
 */

static void all_said(const json_t *vm)
{
	static const struct scene *const scenes[] = {&first, &third, &follows};
	char text[ROOM];

	for (size_t i = 0; i < ARRAY_LEN(scenes); i++) {
		struct scene before = earlier(scenes[i], 10, 10, 0, 10);
		struct migrate_watch w = {0};
		json_t *e;

		watch_take(&w, &before);
		migrate_watch_take(&w, vm);
		migrate_line_text(&w, vm, 1, text, sizeof(text));
		assert_true(*text && !strstr(text, "nan") && !strstr(text, "inf") &&
			    !strstr(text, "-"));
		e = migrate_event_json(&w, vm);
		for (size_t n = 0; n < ARRAY_LEN(event_numbers); n++) {
			const json_t *v = json_object_get(e, event_numbers[n]);

			assert_non_null(v);
			assert_true(json_is_null(v) || json_number_value(v) >= 0);
		}
		assert_true(event_number(e, "percent") <= 100);
		json_decref(e);
		migrate_summary_text(vm, "vm1", "hostb", text, sizeof(text));
		assert_non_null(strstr(text, "vm1 runs on hostb"));
	}
}

/* Each field in turn, at each depth: gone, null, a word, a number below nothing, one beyond all. */
static void fields_spoil(json_t *whole, json_t *o);

static void field_spoil(json_t *whole, json_t *o, const char *key)
{
	json_t *others[] = {NULL,
			    json_null(),
			    json_string("word"),
			    json_integer(-7),
			    json_real(1e300),
			    json_integer(0),
			    json_integer(INT64_MAX)};
	json_t *before = json_incref(json_object_get(o, key));

	fields_spoil(whole, before);
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		if (others[i])
			json_object_set_new(o, key, others[i]);
		else
			json_object_del(o, key);
		all_said(whole);
	}
	json_object_set_new(o, key, before);
}

static void fields_spoil(json_t *whole, json_t *o)
{
	char keys[32][32];
	const char *key;
	size_t n = 0;
	json_t *v;

	for (size_t i = 0; i < json_array_size(o); i++)
		fields_spoil(whole, json_array_get(o, i));
	json_object_foreach(o, key, v)
	{
		assert_true(n < ARRAY_LEN(keys));
		snprintf(keys[n++], sizeof(keys[0]), "%s", key);
	}
	for (size_t i = 0; i < n; i++)
		field_spoil(whole, o, keys[i]);
}

static void test_spoilt(void **state)
{
	static const struct scene *const scenes[] = {&first, &third, &follows};

	for (size_t i = 0; i < ARRAY_LEN(scenes); i++) {
		json_t *vm = scene_json(scenes[i]);

		all_said(vm);
		fields_spoil(vm, vm);
		json_decref(vm);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_round),   cmocka_unit_test(test_no_end),
		cmocka_unit_test(test_later_round),   cmocka_unit_test(test_disks),
		cmocka_unit_test(test_long),          cmocka_unit_test(test_phases),
		cmocka_unit_test(test_older_polluxd), cmocka_unit_test(test_follows),
		cmocka_unit_test(test_watch_moves),   cmocka_unit_test(test_watch_session),
		cmocka_unit_test(test_watch_begins),  cmocka_unit_test(test_width),
		cmocka_unit_test(test_event_copying), cmocka_unit_test(test_event_follows),
		cmocka_unit_test(test_event_unknown), cmocka_unit_test(test_event_cut),
		cmocka_unit_test(test_summary),       cmocka_unit_test(test_summary_lacks),
		cmocka_unit_test(test_spoilt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

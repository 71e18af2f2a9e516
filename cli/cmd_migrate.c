// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static bool checks_only(const struct invocation *v)
{
	return invocation_flag(v, "check") || invocation_flag(v, "dry-run");
}

static int request_fill(const struct invocation *v, json_t *body)
{
	static const struct number_option numbers[] = {
		{"bandwidth", "bandwidth_mb", 1, 1 << 20},
		{"downtime", "downtime_ms", 0, 600000},
		{"streams", "streams", 1, 16},
		{"throttle", "throttle_max", 0, 99},
		{"most-downtime", "most_downtime_ms", 1, 600000},
		{"timeout", "most_s", 1, 86400},
		{0},
	};
	static const char *const words[] = {"compression", "stuck", NULL};
	static const char *const flags[] = {"with-disks", "overwrite", "assume-same", NULL};

	json_object_set_new(body, "to", json_string(v->arguments[1]));
	invocation_words(v, words, body);
	invocation_flags(v, flags, body);
	if (invocation_flag(v, "postcopy")) {
		json_object_set_new(body, "postcopy_after", json_integer(1));
		json_object_set_new(body, "stuck", json_string("postcopy"));
	}
	if (checks_only(v))
		json_object_set_new(body, "check", json_true());
	return invocation_numbers(v, numbers, body);
}

/* ---- how it goes ---------------------------------------------------------------- */

static double percent_of(const json_t *replication)
{
	double done = (double)json_number(replication, "sync_done");
	double total = (double)json_number(replication, "sync_total");

	return total > 0 ? 100.0 * done / total : 0.0;
}

/* A second: of the last round, as the VM process has measured it; until there is one, on the
 * average since the beginning. */
static double rate_of(const json_t *vm, const char *measured, const char *so_far)
{
	const json_t *stats = json_object_get(vm, "stats");
	double rate = (double)json_number(json_object_get(stats, "migration"), measured);
	double done = (double)json_number(json_object_get(stats, "replication"), so_far);
	double ms = (double)json_number(json_object_get(vm, "migration"), "elapsed_ms");

	return rate > 0 ? rate : ms > 0 ? done * 1e3 / ms : 0.0;
}

static double round_left(const json_t *vm)
{
	const json_t *replication = json_object_get(json_object_get(vm, "stats"), "replication");
	double left = (double)(json_number(replication, "sync_total") -
			       json_number(replication, "sync_done"));
	double rate = rate_of(vm, "memory_per_second", "sync_done");

	return rate > 0 && left > 0 ? left / rate : 0.0;
}

static bool migrate_line(const json_t *vm, char *out, size_t size)
{
	const json_t *stats = json_object_get(vm, "stats");
	const json_t *m = json_object_get(stats, "migration");
	const json_t *replication = json_object_get(stats, "replication");
	char rate[32], forecast[32];

	if (!json_is_object(m) || strcmp(json_word(vm, "state"), "migrating") != 0)
		return false;
	bytes_text((uint64_t)rate_of(vm, "bytes_per_second", "bytes_sent"), rate, sizeof(rate));
	nanoseconds_text((uint64_t)json_number(m, "forecast_ns"), forecast, sizeof(forecast));
	snprintf(out, size,
		 "migrating: round %lld, %3.0f %%  %s/s  dirty %lld pages (%lld/s)  forecast "
		 "downtime %s  round ends in %.0f s%s",
		 (long long)json_number(m, "round") + 1, percent_of(replication), rate,
		 (long long)json_number(m, "dirty_pages"),
		 (long long)json_number(m, "dirty_pages_per_second"), forecast, round_left(vm),
		 json_number(m, "throttle") ? "  throttled" : "");
	return true;
}

/* A line each; the last one has the event "done" and the VM, or "failed". */
static void migrate_event(const json_t *vm)
{
	const json_t *stats = json_object_get(vm, "stats");
	const json_t *replication = json_object_get(stats, "replication");
	const json_t *m = json_object_get(stats, "migration");

	event_print(json_pack(
		"{s:s, s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I}", "event", "progress",
		"phase", json_word(vm, "state"), "percent", percent_of(replication), "round",
		json_number(m, "round"), "bytes_sent", json_number(replication, "bytes_sent"),
		"bytes_per_second", (json_int_t)rate_of(vm, "bytes_per_second", "bytes_sent"),
		"dirty_pages", json_number(m, "dirty_pages"), "dirty_pages_per_second",
		json_number(m, "dirty_pages_per_second"), "eta_s", round_left(vm),
		"throttle_percent", json_number(m, "throttle"), "forecast_downtime_ns",
		json_number(m, "forecast_ns")));
}

/* Whether that was in time only the end of the migration tells. */
static int cancel(const struct invocation *v, const char *name)
{
	const struct wait w = {
		.invocation = v, .vm = name, .doing = "cancelling", .interrupted = wait_leave};
	json_t *reply, *vm, *operation;
	int rc = api_vm_call(v, "POST", name, "/migrate/cancel", NULL, &reply);

	if (!rc)
		rc = operation_end(&w, reply, &vm);
	if (rc)
		return rc;
	operation = json_object_get(vm, "operation");
	if (json_number(operation, "code") == -ECANCELED)
		return success_print(v, vm, "the migration of %s was cancelled: it runs on here\n",
				     name);
	rc = operation_judge(operation);
	if (!rc)
		complain("it was too late to cancel: %s runs on %s", name, json_word(vm, "peer"));
	json_decref(vm);
	return rc ? rc : EXIT_REFUSED;
}

/* Ctrl-C: how the operation ends says what came of it. It may have been handed over already. */
static int migrate_interrupted(const struct wait *w)
{
	json_t *reply;
	int rc;

	remark("interrupted; cancelling the migration");
	rc = api_vm_call(w->invocation, "POST", w->vm, "/migrate/cancel", NULL, &reply);
	if (rc == EXIT_NO_AGENT)
		return rc;
	if (rc)
		remark("waiting for its end; Ctrl-C again leaves it to polluxd");
	else
		json_decref(reply);
	return WAIT_ON;
}

static int done_print(json_t *vm)
{
	event_print(json_pack("{s:s, s:o}", "event", "done", "vm", vm));
	return EXIT_OK;
}

static int recover(const struct invocation *v, const struct wait *w)
{
	json_t *reply, *vm = NULL;
	char peer[80];
	int rc = api_vm_call(v, "POST", w->vm, "/migrate/recover", NULL, &reply);

	if (!rc)
		rc = operation_wait(w, reply, &vm);
	if (rc)
		return rc;
	if (invocation_flag(v, "json"))
		return done_print(vm);
	snprintf(peer, sizeof(peer), "%s", json_word(vm, "peer"));
	return success_print(v, vm, "%s has all of its memory on %s\n", w->vm, peer);
}

static int summary_print(const struct invocation *v, const char *vm, json_t *after)
{
	const json_t *m = json_object_get(after, "migration");
	const json_t *replication = json_object_get(json_object_get(m, "last"), "replication");
	char downtime[32], forecast[32], sent[32];

	if (invocation_flag(v, "json"))
		return done_print(after);
	nanoseconds_text((uint64_t)json_number(m, "downtime_ns"), downtime, sizeof(downtime));
	nanoseconds_text((uint64_t)json_number(m, "forecast_ns"), forecast, sizeof(forecast));
	bytes_text((uint64_t)json_number(replication, "bytes_sent"), sent, sizeof(sent));
	return success_print(v, after,
			     "%s runs on %s: %.1f s, downtime %s (forecast %s), %s sent\n", vm,
			     v->arguments[1], (double)json_number(m, "elapsed_ms") / 1e3, downtime,
			     forecast, sent);
}

static void reasons_print(const json_t *result)
{
	const json_t *r;
	size_t i;

	json_array_foreach(json_object_get(result, "reasons"), i, r)
	{
		printf("%s: %s\n", json_word(r, "severity"), json_word(r, "sentence"));
		if (*json_word(r, "hint"))
			printf("         %s\n", json_word(r, "hint"));
	}
}

static void forecast_end_print(const json_t *f)
{
	char total[32], downtime[32];

	nanoseconds_text((uint64_t)json_number(f, "total_ns"), total, sizeof(total));
	nanoseconds_text((uint64_t)json_number(f, "downtime_ns"), downtime, sizeof(downtime));
	if (!strcmp(json_word(f, "end"), "give-up"))
		printf("forecast: it gives up after about %s: %s\n", total, json_word(f, "why"));
	else
		printf("forecast: about %s, downtime %s%s%s\n", total, downtime,
		       *json_word(f, "why") ? "; " : "", json_word(f, "why"));
	if (json_number(f, "throttle"))
		printf("          with the guest throttled by %lld %%\n",
		       (long long)json_number(f, "throttle"));
}

static void forecast_print(const json_t *f)
{
	char rate[32];

	if (!json_is_object(f))
		return;
	if (json_is_true(json_object_get(f, "measured")))
		forecast_end_print(f);
	else
		printf("forecast: not measured: %s\n", json_word(f, "why"));
	if (json_object_get(f, "pages"))
		printf("          %lld pages to send, %lld written a second%s\n",
		       (long long)json_number(f, "pages"),
		       (long long)json_number(f, "dirty_pages_per_second"),
		       json_is_true(json_object_get(f, "of_session"))
			       ? ", by what its protection sends"
			       : "");
	if (json_number(f, "link_bytes_per_second")) {
		bytes_text((uint64_t)json_number(f, "link_bytes_per_second"), rate, sizeof(rate));
		printf("          the link carries %s/s on one stream\n", rate);
	}
}

/* The reasons are the answer, also when there are some. */
static int check_wait(const struct invocation *v, const struct wait *w, json_t *reply)
{
	json_t *vm = NULL, *result;
	bool possible;
	int rc = operation_wait(w, reply, &vm);

	if (rc)
		return rc;
	result = json_object_get(vm, "check");
	possible = json_is_true(json_object_get(result, "possible"));
	if (invocation_flag(v, "json")) {
		rc = json_print(json_incref(result));
	} else {
		reasons_print(result);
		forecast_print(json_object_get(result, "forecast"));
		printf(possible ? "%s can be migrated to %s\n" : "%s CANNOT be migrated to %s\n",
		       w->vm, v->arguments[1]);
	}
	json_decref(vm);
	return rc ? rc : possible ? EXIT_OK : EXIT_REFUSED;
}

static int migrate(const struct invocation *v)
{
	const struct wait w = {
		.invocation = v,
		.vm = v->arguments[0],
		.doing = "migrating",
		.interrupted = migrate_interrupted,
		.line = migrate_line,
		.event = invocation_flag(v, "json") && !checks_only(v) ? migrate_event : NULL};
	json_t *reply, *vm = NULL;
	int rc;

	if (invocation_flag(v, "cancel"))
		return cancel(v, w.vm);
	if (invocation_flag(v, "recover"))
		return recover(v, &w);
	if (v->argument_count < 2) {
		complain("migrate needs a VM and a HOST; see `pollux help migrate`");
		return EXIT_USAGE;
	}
	rc = operation_ask(v, "/migrate", request_fill, &reply);
	if (!rc && invocation_flag(v, "detach"))
		return success_print(v, reply,
				     checks_only(v) ? "whether %s can be migrated is being found "
						      "out: `pollux status --json` will say\n"
						    : "%s is being migrated\n",
				     w.vm);
	if (!rc && checks_only(v))
		return check_wait(v, &w, reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = summary_print(v, w.vm, vm);
	return rc;
}

int command_migrate(const struct invocation *v)
{
	bool events =
		invocation_flag(v, "json") && !invocation_flag(v, "cancel") && !checks_only(v);
	int rc = migrate(v);

	if (rc && events)
		failure_event(rc);
	return rc;
}

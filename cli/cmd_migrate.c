// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/migrate_progress.h"

static bool checks_only(const struct invocation *v)
{
	return invocation_flag(v, "check") || invocation_flag(v, "dry-run");
}

static int postcopy_fill(const struct invocation *v, json_t *body)
{
	long rounds = 1;
	int rc = invocation_number(v, "rounds", 0, 10000, &rounds);

	if (rc || !invocation_flag(v, "postcopy"))
		return rc;
	json_object_set_new(body, "stuck", json_string("postcopy"));
	if (rounds)
		json_object_set_new(body, "postcopy_after", json_integer(rounds));
	else
		json_object_set_new(body, "postcopy_only", json_true());
	return EXIT_OK;
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
	if (checks_only(v))
		json_object_set_new(body, "check", json_true());
	return postcopy_fill(v, body) ?: invocation_numbers(v, numbers, body);
}

/* ---- how it goes ---------------------------------------------------------------- */

struct report {
	struct migrate_watch watch;
	uint64_t began;
};

static bool migrate_line(const struct wait *w, const json_t *vm, char *out, size_t size)
{
	struct report *r = w->ctx;

	/* What goes on is another operation, beside which this one is a check. */
	if (json_object_get(vm, "operation") == json_object_get(vm, "operation_beside"))
		return false;
	migrate_watch_take(&r->watch, vm);
	migrate_line_text(&r->watch, vm, (double)(clock_ns() - r->began) / 1e9, out, size);
	return *out;
}

/* A line each; the last one has the event "done" and the VM, or "failed". */
static void migrate_event(const struct wait *w, const json_t *vm)
{
	struct report *r = w->ctx;

	migrate_watch_take(&r->watch, vm);
	event_print(migrate_event_json(&r->watch, vm));
}

/* Whether that was in time only the end of the migration tells. */
static int cancel(const struct invocation *v, const char *name)
{
	const struct wait w = {
		.invocation = v, .vm = name, .doing = "cancelling", .interrupted = wait_leave};
	json_t *reply, *vm, *operation;
	int rc = operation_begin(v, name, "/migrate/cancel", NULL, &reply);

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

/* A migration of that VM may be under way, which is not ours to cancel. */
static int check_interrupted(const struct wait *w)
{
	complain("interrupted; nothing was begun");
	return EXIT_FAILED;
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
	int rc = operation_begin(v, w->vm, "/migrate/recover", NULL, &reply);

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
	char text[600];

	if (invocation_flag(v, "json"))
		return done_print(after);
	migrate_summary_text(after, vm, v->arguments[1], text, sizeof(text));
	return success_print(v, after, "%s", text);
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

/* What there is to know before it begins: warnings, which stop nothing. Refused, its end tells. */
static bool check_note(const struct wait *w, const json_t *vm)
{
	json_t *result = json_object_get(vm, "check"),
	       *operation = json_object_get(vm, "operation");

	/* The forecast comes after the answer. */
	if (!json_is_object(result) || !strcmp(json_word(operation, "phase"), "checking"))
		return false;
	if (w->event)
		event_print(json_pack("{s:s, s:O}", "event", "check", "check", result));
	else if (json_is_true(json_object_get(result, "possible")))
		reasons_remark(json_object_get(result, "reasons"));
	return true;
}

static bool is_refused(const json_t *vm)
{
	const json_t *operation = json_object_get(vm, "operation");

	return json_is_false(json_object_get(json_object_get(vm, "check"), "possible")) &&
	       json_number(operation, "code") == -EPERM &&
	       !strcmp(json_word(operation, "state"), "failed");
}

/* All that is in the way, not the first. */
static int migrate_wait(const struct wait *w, json_t *reply, json_t **out)
{
	json_t *vm, *reasons;
	int rc = operation_end(w, reply, &vm);

	if (rc)
		return rc;
	if (is_refused(vm)) {
		reasons = json_object_get(json_object_get(vm, "check"), "reasons");
		complain("%s CANNOT be migrated to %s", w->vm, w->invocation->arguments[1]);
		reasons_remark(reasons);
		failure_reasons(reasons);
		rc = EXIT_REFUSED;
	} else {
		rc = operation_judge(json_object_get(vm, "operation"));
	}
	if (rc)
		json_decref(vm);
	else
		*out = vm;
	return rc;
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
		failure_told();
	} else {
		reasons_print(json_object_get(result, "reasons"));
		forecast_print(json_object_get(result, "forecast"));
		printf(possible ? "%s can be migrated to %s\n" : "%s CANNOT be migrated to %s\n",
		       w->vm, v->arguments[1]);
	}
	json_decref(vm);
	return rc ? rc : possible ? EXIT_OK : EXIT_REFUSED;
}

static int migrate(const struct invocation *v)
{
	struct report report = {.began = clock_ns()};
	const struct wait w = {
		.invocation = v,
		.vm = v->arguments[0],
		.doing = "migrating",
		.interrupted = checks_only(v) ? check_interrupted : migrate_interrupted,
		.line = migrate_line,
		.ctx = &report,
		.event = invocation_flag(v, "json") && !checks_only(v) ? migrate_event : NULL,
		.note = checks_only(v) || invocation_flag(v, "recover") ? NULL : check_note};
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
	if (invocation_flag(v, "rounds") && !invocation_flag(v, "postcopy")) {
		complain("--rounds goes with --postcopy; see `pollux help migrate`");
		return EXIT_USAGE;
	}
	rc = operation_ask(v, "/migrate", request_fill, &reply);
	if (!rc && invocation_flag(v, "detach"))
		return success_print(v, reply,
				     checks_only(v)
					     ? "whether %s can be migrated is being found "
					       "out: `pollux status --json` will say\n"
					     : "polluxd has taken up the migration of %s: `pollux "
					       "status` will say what becomes of it\n",
				     w.vm);
	if (!rc && checks_only(v))
		return check_wait(v, &w, reply);
	if (!rc)
		rc = migrate_wait(&w, reply, &vm);
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

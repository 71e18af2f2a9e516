// SPDX-License-Identifier: Apache-2.0
/* snapshot, snapshots, rollback */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"

static json_t *body_of(const struct invocation *v)
{
	return json_pack("{s:s}", "snapshot", v->arguments[1]);
}

static int snapshot_cancel(const struct wait *w)
{
	json_t *reply;
	const struct wait undo = {.invocation = w->invocation,
				  .vm = w->vm,
				  .doing = "cancelling",
				  .interrupted = wait_leave};
	int rc = operation_begin(w->invocation, w->vm, "/image-cancel", NULL, &reply);

	if (!rc)
		rc = operation_wait(&undo, reply, NULL);
	complain(rc ? "interrupted; %s runs on, without that snapshot"
		    : "the snapshot of %s was made already",
		 w->vm);
	return EXIT_FAILED;
}

static int snapshot_delete(const struct invocation *v)
{
	json_t *reply;
	int rc = api_vm_call(v, "POST", v->arguments[0], "/snapshot-delete", body_of(v), &reply);

	if (!rc)
		rc = success_print(v, reply, "snapshot %s of %s is deleted\n", v->arguments[1],
				   v->arguments[0]);
	return rc;
}

int command_snapshot(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "saving",
			       .interrupted = snapshot_cancel};
	json_t *reply, *vm = NULL;
	int rc;

	if (invocation_flag(v, "delete"))
		return snapshot_delete(v);
	rc = operation_begin(v, w.vm, "/snapshot", body_of(v), &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "snapshot %s of %s is made\n", v->arguments[1], w.vm);
	return rc;
}

static int by_time(const void *a, const void *b)
{
	json_int_t x = json_number(*(json_t *const *)a, "saved_ns");
	json_int_t y = json_number(*(json_t *const *)b, "saved_ns");

	return x < y ? -1 : x > y;
}

static void line_print(const json_t *s)
{
	time_t at = (time_t)(json_number(s, "saved_ns") / (json_int_t)NS_PER_SEC);
	char when[32] = "-", bytes[32];
	struct tm tm;

	if (at && localtime_r(&at, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	bytes_text((uint64_t)json_number(s, "bytes"), bytes, sizeof(bytes));
	printf("%-24s %-20s %10s  %s\n", json_word(s, "name"), when, bytes, json_word(s, "why"));
}

int command_snapshots(const struct invocation *v)
{
	json_t *reply, *list, **sorted;
	int rc = api_vm_call(v, "GET", v->arguments[0], "/snapshots", NULL, &reply);
	size_t n;

	if (rc)
		return rc;
	if (invocation_flag(v, "json"))
		return json_print(reply);
	list = json_object_get(reply, "snapshots");
	n = json_array_size(list);
	sorted = calloc(n + 1, sizeof(json_t *));
	for (size_t i = 0; sorted && i < n; i++)
		sorted[i] = json_array_get(list, i);
	if (sorted && n) {
		qsort(sorted, n, sizeof(json_t *), by_time);
		printf("%-24s %-20s %10s\n", "NAME", "MADE", "SIZE");
		for (size_t i = 0; i < n; i++)
			line_print(sorted[i]);
	}
	free(sorted);
	json_decref(reply);
	return EXIT_OK;
}

/* What it has become since is given up, so it need not shut down in good order. */
static int running_end(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "stopping",
			       .interrupted = wait_leave};
	json_t *vm, *reply;
	int rc = api_vm_call(v, "GET", w.vm, "", NULL, &vm);
	bool runs;

	if (rc)
		return rc;
	runs = !strcmp(json_word(vm, "state"), "running");
	json_decref(vm);
	if (!runs)
		return EXIT_OK;
	rc = operation_begin(v, w.vm, "/stop", json_pack("{s:b}", "force", 1), &reply);
	return rc ? rc : operation_wait(&w, reply, NULL);
}

/* Before a VM is ended for its sake. */
static int snapshot_find(const struct invocation *v)
{
	json_t *reply, *s;
	int rc = api_vm_call(v, "GET", v->arguments[0], "/snapshots", NULL, &reply);
	bool found = false;
	size_t i;

	if (rc)
		return rc;
	json_array_foreach(json_object_get(reply, "snapshots"), i, s)
	{
		found |= !strcmp(json_word(s, "name"), v->arguments[1]) && !*json_word(s, "why");
	}
	json_decref(reply);
	if (found)
		return EXIT_OK;
	complain("%s has no snapshot '%s', or a damaged one", v->arguments[0], v->arguments[1]);
	complain("`pollux snapshots %s` lists them", v->arguments[0]);
	return EXIT_REFUSED;
}

int command_rollback(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "restoring",
			       .interrupted = wait_leave};
	json_t *reply, *vm = NULL;
	int rc = snapshot_find(v);

	if (!rc)
		rc = running_end(v);
	if (!rc)
		rc = operation_begin(v, w.vm, "/rollback", body_of(v), &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs as it was at %s\n", w.vm, v->arguments[1]);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static json_t *request(const struct invocation *v)
{
	return invocation_flag(v, "protect-again") ? json_pack("{s:b}", "protect_again", true)
						   : NULL;
}

/* An error with a VM in *out: it was upgraded, but is not protected again. */
static int upgrade(const struct invocation *v, const char *name,
		   int (*interrupted)(const struct wait *w), void *ctx, json_t **out)
{
	const struct wait w = {.invocation = v,
			       .vm = name,
			       .doing = "upgrading",
			       .interrupted = interrupted,
			       .ctx = ctx};
	const json_t *operation;
	json_t *reply, *vm;
	int rc = operation_begin(v, name, "/upgrade", request(v), &reply);

	*out = NULL;
	if (!rc)
		rc = operation_end(&w, reply, &vm);
	if (rc)
		return rc;
	operation = json_object_get(vm, "operation");
	rc = operation_judge(operation);
	if (rc && strcmp(json_word(operation, "what"), "protect") != 0) {
		json_decref(vm);
		return rc;
	}
	if (rc)
		complain("%s was upgraded, and is NOT protected", name);
	*out = vm;
	return rc;
}

static void upgraded_text(const json_t *vm, char *out, size_t size)
{
	const json_t *operation = json_object_get(vm, "operation");

	snprintf(out, size, "%s runs in process %lld, build %s; it stood still for %.2f ms",
		 json_word(vm, "name"), (long long)json_number(vm, "pid"), json_word(vm, "build"),
		 json_number_value(json_object_get(operation, "downtime_ms")));
}

static int upgrade_one(const struct invocation *v, const char *name)
{
	char text[256];
	json_t *vm;
	int rc = upgrade(v, name, wait_leave, NULL, &vm);

	if (rc) {
		json_decref(vm);
		return rc;
	}
	upgraded_text(vm, text, sizeof(text));
	return success_print(v, vm, "%s\n", text);
}

/* Not so a twin, nor what is left of a VM whose memory still follows it. */
static bool runs_here(const json_t *vm)
{
	static const char *const elsewhere[] = {"standby",   "incoming", "deciding",
						"promoting", "serving",  "memory-held"};

	for (size_t i = 0; i < ARRAY_LEN(elsewhere); i++)
		if (!strncmp(json_word(vm, "state"), elsewhere[i], strlen(elsewhere[i])))
			return false;
	return json_number(vm, "pid");
}

/* Of all that run here. */
struct tally {
	json_t *upgraded, *not_upgraded;
	int rc;
	bool interrupted;
};

static int all_interrupted(const struct wait *w)
{
	struct tally *t = w->ctx;

	t->interrupted = true;
	return wait_leave(w);
}

static void upgraded_tell(const struct invocation *v, struct tally *t, json_t *vm)
{
	char text[256];

	upgraded_text(vm, text, sizeof(text));
	if (!invocation_flag(v, "json"))
		puts(text);
	json_array_append_new(t->upgraded, vm);
}

/* One that was tried and failed says more than one that was refused. */
static void failure_note(struct tally *t, const char *name, int rc)
{
	json_t *why = complaint_take();

	remark("%s was not upgraded", name);
	json_object_set_new(why, "name", json_string(name));
	json_array_append_new(t->not_upgraded, why);
	if (t->rc == EXIT_OK || t->rc == EXIT_REFUSED)
		t->rc = rc;
}

/* What stops one does not stop the others; without polluxd, or interrupted, there are none. */
static void upgrade_each(const struct invocation *v, const json_t *vms, struct tally *t)
{
	json_t *vm, *now;
	size_t i;
	int rc;

	json_array_foreach((json_t *)vms, i, vm)
	{
		if (!runs_here(vm))
			continue;
		if (interrupt_came()) { /* when the one before was done already */
			complain("interrupted; nothing further is begun");
			failure_note(t, json_word(vm, "name"), EXIT_FAILED);
			break;
		}
		rc = upgrade(v, json_word(vm, "name"), all_interrupted, t, &now);
		if (now)
			upgraded_tell(v, t, now);
		else
			failure_note(t, json_word(vm, "name"), rc);
		if (now && rc)
			t->rc = EXIT_FAILED;
		if (t->interrupted || rc == EXIT_NO_AGENT)
			break;
	}
}

static int tally_print(const struct invocation *v, const struct tally *t)
{
	size_t failed = json_array_size(t->not_upgraded);
	json_t *o;
	int rc;

	if (t->rc)
		complain("%zu upgraded, %zu NOT", json_array_size(t->upgraded), failed);
	if (!invocation_flag(v, "json"))
		return t->rc;
	o = json_pack("{s:O, s:O}", "upgraded", t->upgraded, "not_upgraded", t->not_upgraded);
	if (t->rc) {
		json_object_update_new(o, complaint_take());
		json_object_set_new(o, "exit_code", json_integer(t->rc));
		failure_told();
	}
	rc = json_print(o);
	return t->rc ? t->rc : rc;
}

static int upgrade_all(const struct invocation *v)
{
	struct tally t;
	json_t *reply;
	int rc = api_call(v, "GET", "/v1/vms", NULL, &reply);

	if (rc)
		return rc;
	t = (struct tally){.upgraded = json_array(), .not_upgraded = json_array()};
	upgrade_each(v, json_object_get(reply, "vms"), &t);
	json_decref(reply);
	rc = tally_print(v, &t);
	json_decref(t.upgraded);
	json_decref(t.not_upgraded);
	return rc;
}

int command_upgrade(const struct invocation *v)
{
	bool all = invocation_flag(v, "all");

	if (all == (v->argument_count > 0)) {
		complain("upgrade needs the name of a VM, or --all; see `pollux help upgrade`");
		return EXIT_USAGE;
	}
	return all ? upgrade_all(v) : upgrade_one(v, v->arguments[0]);
}

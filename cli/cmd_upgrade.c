// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static int upgrade(const struct invocation *v, const char *name, json_t **vm)
{
	const struct wait w = {
		.invocation = v, .vm = name, .doing = "upgrading", .interrupted = wait_leave};
	json_t *reply;
	int rc = api_vm_call(v, "POST", name, "/upgrade", NULL, &reply);

	return rc ? rc : operation_wait(&w, reply, vm);
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
	json_t *vm = NULL;
	int rc = upgrade(v, name, &vm);

	if (rc)
		return rc;
	upgraded_text(vm, text, sizeof(text));
	return success_print(v, vm, "%s\n", text);
}

static bool runs_here(const json_t *vm)
{
	return json_number(vm, "pid") && strncmp(json_word(vm, "state"), "standby", 7) != 0;
}

/* Those that were done before one failed are told of in any case. */
static int upgrade_each(const struct invocation *v, const json_t *vms, json_t *done)
{
	char text[256];
	int rc = EXIT_OK;
	json_t *vm, *now;
	size_t i;

	json_array_foreach((json_t *)vms, i, vm)
	{
		if (!runs_here(vm))
			continue;
		rc = upgrade(v, json_word(vm, "name"), &now);
		if (rc) {
			complain("%s was not upgraded; stopping here, %zu were",
				 json_word(vm, "name"), json_array_size(done));
			break;
		}
		upgraded_text(now, text, sizeof(text));
		if (!invocation_flag(v, "json"))
			puts(text);
		json_array_append_new(done, now);
	}
	return rc;
}

static int upgrade_all(const struct invocation *v)
{
	json_t *reply, *done;
	int rc = api_call(v, "GET", "/v1/vms", NULL, &reply), printed;

	if (rc)
		return rc;
	done = json_array();
	rc = upgrade_each(v, json_object_get(reply, "vms"), done);
	json_decref(reply);
	if (rc || !invocation_flag(v, "json")) {
		json_decref(done);
		return rc;
	}
	printed = json_print(json_pack("{s:o}", "upgraded", done));
	return printed;
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

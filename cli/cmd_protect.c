// SPDX-License-Identifier: Apache-2.0
/* protect, unprotect, failover */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

/* ---- protect -------------------------------------------------------------------- */

static int number_put(const struct invocation *v, const char *option, const char *key, long most,
		      json_t *body)
{
	long n = 0;
	int rc = invocation_number(v, option, 1, most, &n);

	if (!rc && n)
		json_object_set_new(body, key, json_integer(n));
	return rc;
}

static int word_put(const struct invocation *v, const char *option, json_t *body)
{
	const char *value = invocation_value(v, option);

	if (value)
		json_object_set_new(body, option, json_string(value));
	return EXIT_OK;
}

static int request_make(const struct invocation *v, json_t *body)
{
	int rc = EXIT_OK;

	rc = word_put(v, "to", body);
	if (!rc)
		rc = word_put(v, "mode", body);
	if (!rc)
		rc = word_put(v, "policy", body);
	if (!rc)
		rc = word_put(v, "compression", body);
	if (!rc)
		rc = number_put(v, "interval", "interval_ms", 60000, body);
	if (!rc)
		rc = number_put(v, "streams", "streams", 16, body);
	if (!rc)
		rc = number_put(v, "window", "window", 64, body);
	if (!rc)
		rc = number_put(v, "delta-mb", "delta_mb", 1 << 20, body);
	if (invocation_flag(v, "overwrite"))
		json_object_set_new(body, "overwrite", json_true());
	return rc;
}

/* Ctrl-C while the first copy is made: undo what was begun, and say how the VM is left. */
static int protect_cancel(const struct wait *w)
{
	const struct wait undo = {.invocation = w->invocation,
				  .vm = w->vm,
				  .doing = "cancelling",
				  .interrupted = wait_leave};
	json_t *reply;
	int rc;

	complain("interrupted; cancelling the protection");
	rc = api_vm_call(w->invocation, "POST", w->vm, "/unprotect", NULL, &reply);
	if (!rc)
		rc = operation_wait(&undo, reply, NULL);
	if (rc)
		complain("it could not be cancelled; see `pollux status %s`", w->vm);
	else
		complain("%s runs on, unprotected", w->vm);
	return EXIT_FAILED;
}

int command_protect(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "protecting",
			       .interrupted = protect_cancel};
	json_t *body, *reply, *vm = NULL;
	int rc;

	if (!invocation_value(v, "to")) {
		complain("protect needs --to HOST; see `pollux help protect`");
		return EXIT_USAGE;
	}
	body = json_object();
	rc = request_make(v, body);
	if (rc) {
		json_decref(body);
		return rc;
	}
	rc = api_vm_call(v, "POST", w.vm, "/protect", body, &reply);
	if (!rc && invocation_flag(v, "detach"))
		return success_print(v, reply, "%s is being protected\n", w.vm);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s is protected on %s\n", w.vm,
				   invocation_value(v, "to"));
	return rc;
}

/* ---- unprotect, failover ------------------------------------------------------------ */

int command_unprotect(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "unprotecting",
			       .interrupted = wait_leave};
	json_t *reply, *vm = NULL;
	int rc = api_vm_call(v, "POST", w.vm, "/unprotect", NULL, &reply);

	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs on, unprotected\n", w.vm);
	return rc;
}

int command_failover(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "taking over",
			       .interrupted = wait_leave};
	bool force = invocation_flag(v, "force");
	json_t *reply, *vm = NULL;
	int rc;

	if (force)
		remark("taking %s over by force: if it still runs on the other host, two copies "
		       "answer clients, and what one of them acknowledged will be lost",
		       w.vm);
	rc = api_vm_call(v, "POST", w.vm, "/failover", json_pack("{s:b}", "force", force), &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs here\n", w.vm);
	return rc;
}

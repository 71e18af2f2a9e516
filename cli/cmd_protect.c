// SPDX-License-Identifier: Apache-2.0
/* protect, unprotect, failover */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

/* ---- protect -------------------------------------------------------------------- */

static int request_fill(const struct invocation *v, json_t *body)
{
	static const struct number_option numbers[] = {{"interval", "interval_ms", 1, 60000},
						       {"streams", "streams", 1, 16},
						       {"window", "window", 1, 64},
						       {"delta-mb", "delta_mb", 1, 1 << 20},
						       {0}};
	static const char *const words[] = {"to", "mode", "policy", "compression", NULL};
	static const char *const flags[] = {"overwrite", NULL};

	invocation_words(v, words, body);
	invocation_flags(v, flags, body);
	return invocation_numbers(v, numbers, body);
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
	rc = operation_begin(w->invocation, w->vm, "/unprotect", NULL, &reply);
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
	json_t *reply, *vm = NULL;
	int rc;

	if (!invocation_value(v, "to")) {
		complain("protect needs --to HOST; see `pollux help protect`");
		return EXIT_USAGE;
	}
	rc = operation_ask(v, "/protect", request_fill, &reply);
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
	int rc = operation_begin(v, w.vm, "/unprotect", NULL, &reply);

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
	rc = operation_begin(v, w.vm, "/failover", json_pack("{s:b}", "force", force), &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs here\n", w.vm);
	return rc;
}

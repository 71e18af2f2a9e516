// SPDX-License-Identifier: Apache-2.0
/* start and stop */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define VM_FILE_MAX (64u * 1024)

static int vm_file_read(const char *path, json_t **text, char origin[PATH_MAX])
{
	struct buf b = {0};
	struct error e = {0};
	int rc = EXIT_OK;

	if (!realpath(path, origin))
		snprintf(origin, PATH_MAX, "%s", path);
	if (file_read(path, VM_FILE_MAX, &b, &e)) {
		complain("%s", e.text);
		rc = EXIT_USAGE;
	} else {
		*text = json_stringn(b.data ? (char *)b.data : "", b.len);
		if (!*text || strlen(json_string_value(*text)) != b.len) {
			complain("%s is not a text in UTF-8", path);
			json_decref(*text);
			rc = EXIT_USAGE;
		}
	}
	buf_free(&b);
	return rc;
}

int command_start(const struct invocation *v)
{
	struct wait w = {.invocation = v, .doing = "starting", .interrupted = wait_leave};
	char origin[PATH_MAX], name[128];
	json_t *text, *reply, *vm = NULL;
	int rc;

	rc = vm_file_read(v->arguments[0], &text, origin);
	if (rc)
		return rc;
	interrupt_catch();
	rc = api_call(v, "POST", "/v1/vms",
		      json_pack("{s:o, s:s, s:b}", "config", text, "origin", origin, "force",
				invocation_flag(v, "force")),
		      &reply);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "%s", json_word(reply, "name"));
	w.vm = name;
	rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs\n", name);
	return rc;
}

int command_stop(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "stopping",
			       .interrupted = wait_leave};
	long timeout = 60;
	json_t *reply, *vm = NULL;
	int rc;

	rc = invocation_number(v, "timeout", 1, 3600, &timeout);
	if (rc)
		return rc;
	rc = operation_begin(v, w.vm, "/stop",
			     json_pack("{s:b, s:I}", "force", invocation_flag(v, "force"),
				       "timeout_s", (json_int_t)timeout),
			     &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s is stopped\n", w.vm);
	return rc;
}

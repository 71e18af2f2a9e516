// SPDX-License-Identifier: Apache-2.0
/* save and restore */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* polluxd has a working folder of its own. */
static int absolute(const char *path, char out[PATH_MAX])
{
	char here[PATH_MAX];
	int n = -1;

	if (path[0] == '/')
		n = snprintf(out, PATH_MAX, "%s", path);
	else if (getcwd(here, sizeof(here)))
		n = snprintf(out, PATH_MAX, "%s/%s", here, path);
	if (n > 0 && n < PATH_MAX)
		return EXIT_OK;
	complain("the path %s is too long", path);
	return EXIT_USAGE;
}

static int path_put(json_t *body, const char *key, const char *path)
{
	char full[PATH_MAX];
	int rc = path ? absolute(path, full) : EXIT_OK;

	if (!rc && path)
		json_object_set_new(body, key, json_string(full));
	return rc;
}

static int body_make(const struct invocation *v, const char *file, json_t *body)
{
	const char *compression = invocation_value(v, "compression");
	int rc = path_put(body, "file", file);

	if (!rc)
		rc = path_put(body, "key_file", invocation_value(v, "key-file"));
	if (compression)
		json_object_set_new(body, "compression", json_string(compression));
	return rc;
}

static bool progress_line(const struct wait *w, const json_t *vm, char *out, size_t size)
{
	const json_t *image = json_object_get(json_object_get(vm, "stats"), "image");
	uint64_t done = (uint64_t)json_number(image, "pages");
	uint64_t total = (uint64_t)json_number(image, "pages_total");
	char bytes[32];

	if (!image)
		return false;
	bytes_text((uint64_t)json_number(image, "bytes"), bytes, sizeof(bytes));
	snprintf(out, size, "%s: %3.0f %%  %s of the file", json_word(image, "what"),
		 total ? 100.0 * (double)done / (double)total : 0.0, bytes);
	return true;
}

static int cancel(const struct wait *w, const char *left)
{
	const struct wait undo = {.invocation = w->invocation,
				  .vm = w->vm,
				  .doing = "cancelling",
				  .interrupted = wait_leave};
	json_t *reply;
	int rc = operation_begin(w->invocation, w->vm, "/image-cancel", NULL, &reply);

	if (!rc)
		rc = operation_wait(&undo, reply, NULL);
	if (!rc)
		complain("it was done already; see `pollux status %s`", w->vm);
	else
		complain("interrupted; %s %s", w->vm, left);
	return EXIT_FAILED;
}

static int save_cancel(const struct wait *w)
{
	return cancel(w, "runs on, and is not saved");
}

static int restore_cancel(const struct wait *w)
{
	return cancel(w, "does not run; the image is as it was");
}

int command_save(const struct invocation *v)
{
	const struct wait w = {.invocation = v,
			       .vm = v->arguments[0],
			       .doing = "saving",
			       .line = progress_line,
			       .interrupted = save_cancel};
	bool keep = invocation_flag(v, "keep-running");
	json_t *body = json_pack("{s:b, s:b}", "keep_running", keep, "overwrite",
				 invocation_flag(v, "overwrite"));
	json_t *reply, *vm = NULL;
	int rc = body_make(v, v->arguments[1], body);

	if (rc) {
		json_decref(body);
		return rc;
	}
	rc = operation_begin(v, w.vm, "/save", body, &reply);
	if (!rc)
		rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s is saved in %s%s\n", w.vm, v->arguments[1],
				   keep ? ", and runs on" : "; it runs no more");
	return rc;
}

int command_restore(const struct invocation *v)
{
	struct wait w = {.invocation = v,
			 .doing = "restoring",
			 .line = progress_line,
			 .interrupted = restore_cancel};
	json_t *body = json_pack("{s:b, s:b}", "force", invocation_flag(v, "force"), "lazy",
				 invocation_flag(v, "lazy"));
	json_t *reply, *vm = NULL;
	char name[128];
	int rc = body_make(v, v->arguments[0], body);

	if (rc) {
		json_decref(body);
		return rc;
	}
	interrupt_catch();
	rc = api_call(v, "POST", "/v1/restore", body, &reply);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "%s", json_word(reply, "name"));
	w.vm = name;
	rc = operation_wait(&w, reply, &vm);
	if (!rc)
		rc = success_print(v, vm, "%s runs\n", name);
	return rc;
}

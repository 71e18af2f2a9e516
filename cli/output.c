// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* What was complained of first is the error, the next what to do about it. */
static char complaints[2][600];
static json_t *refusals;
static bool told; /* as an event */

static void PRINTF(1, 0) say(const char *fmt, va_list args)
{
	fputs("pollux: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

void complain(const char *fmt, ...)
{
	va_list args;

	for (size_t i = 0; i < ARRAY_LEN(complaints); i++) {
		if (complaints[i][0])
			continue;
		va_start(args, fmt);
		vsnprintf(complaints[i], sizeof(complaints[i]), fmt, args);
		va_end(args);
		break;
	}
	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
}

void remark(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say(fmt, args);
	va_end(args);
}

static void reasons_write(const json_t *reasons, FILE *to, const char *before)
{
	for (size_t i = 0; i < json_array_size(reasons); i++) {
		const json_t *r = json_array_get(reasons, i);

		fprintf(to, "%s%s: %s\n", before, json_word(r, "severity"),
			json_word(r, "sentence"));
		if (*json_word(r, "hint"))
			fprintf(to, "%s         %s\n", before, json_word(r, "hint"));
	}
}

void reasons_remark(const json_t *reasons)
{
	reasons_write(reasons, stderr, "pollux: ");
}

void reasons_print(const json_t *reasons)
{
	reasons_write(reasons, stdout, "");
}

void failure_reasons(json_t *reasons)
{
	json_decref(refusals);
	refusals = json_incref(reasons);
}

static json_t *failure_json(int rc)
{
	return json_pack("{s:o?, s:o?, s:O*, s:i}", "error", json_string(complaints[0]), "hint",
			 json_string(complaints[1]), "reasons", refusals, "exit_code", rc);
}

void failure_print(int rc)
{
	if (!told)
		(void)json_print(failure_json(rc));
}

json_t *complaint_take(void)
{
	json_t *o = json_pack("{s:o?, s:o?}", "error", json_string(complaints[0]), "hint",
			      json_string(complaints[1]));

	memset(complaints, 0, sizeof(complaints));
	return o;
}

void failure_told(void)
{
	told = true;
}

void failure_event(int rc)
{
	json_t *o = failure_json(rc);

	json_object_set_new(o, "event", json_string("failed"));
	event_print(o);
	told = true;
}

void event_print(json_t *event)
{
	json_dumpf(event, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(event);
}

int success_print(const struct invocation *v, json_t *vm, const char *fmt, ...)
{
	va_list args;

	if (invocation_flag(v, "json"))
		return json_print(vm);
	json_decref(vm);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

int json_print(json_t *o)
{
	char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	int rc = EXIT_FAILED;

	if (text && puts(text) >= 0 && !fflush(stdout))
		rc = EXIT_OK;
	free(text);
	json_decref(o);
	return rc;
}

void bytes_text(uint64_t bytes, char *out, size_t size)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	size_t unit = 0;

	for (; n >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
		n /= 1024;
	snprintf(out, size, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

void nanoseconds_text(uint64_t ns, char *out, size_t size)
{
	if (ns < NS_PER_MS)
		snprintf(out, size, "%.2f ms", (double)ns / 1e6);
	else if (ns < 10 * NS_PER_SEC)
		snprintf(out, size, "%.1f ms", (double)ns / 1e6);
	else
		snprintf(out, size, "%.1f s", (double)ns / 1e9);
}

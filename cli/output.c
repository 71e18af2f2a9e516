// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

void complain(const char *fmt, ...)
{
	va_list args;

	fputs("pollux: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
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
	if (ns < 10 * NS_PER_MS)
		snprintf(out, size, "%.0f us", (double)ns / 1e3);
	else if (ns < 10 * NS_PER_SEC)
		snprintf(out, size, "%.1f ms", (double)ns / 1e6);
	else
		snprintf(out, size, "%.1f s", (double)ns / 1e9);
}

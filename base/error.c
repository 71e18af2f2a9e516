// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *e, int code, const char *fmt, ...)
{
	va_list args;

	if (!e || e->code)
		return code;
	e->code = code;
	va_start(args, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, args);
	va_end(args);
	return code;
}

int error_context(struct error *e, const char *fmt, ...)
{
	char old[sizeof(e->text)];
	va_list args;
	int n;

	if (!e)
		return 0;
	memcpy(old, e->text, sizeof(old));
	va_start(args, fmt);
	n = vsnprintf(e->text, sizeof(e->text), fmt, args);
	va_end(args);
	if (n >= 0 && (size_t)n < sizeof(e->text))
		snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %s", old);
	return e->code;
}

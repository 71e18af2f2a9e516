// SPDX-License-Identifier: Apache-2.0
/* What the kernel says of a block device in /sys: a folder of the test's own. */
#ifndef TESTS_AGENT_DEVICE_H
#define TESTS_AGENT_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static inline void device_has(const char *device, const char *file, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", device, file);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

#endif

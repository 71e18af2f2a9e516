// SPDX-License-Identifier: Apache-2.0
/*
 * What releases have sent and saved (tests/protocol/golden): KIND-N/NAME, of version N. A program
 * that is called with `record` makes those of today, which are not made again once they are there.
 */
#ifndef TESTS_UNIT_GOLDEN_H
#define TESTS_UNIT_GOLDEN_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

#define GOLDEN      "tests/protocol/golden"
#define GOLDEN_ROOM 96u
#define GOLDEN_MOST ((size_t)64 << 20)

static inline void golden_needed(void)
{
	if (access(GOLDEN, R_OK)) {
		print_message("skipped: not run in the top folder of the sources\n");
		skip();
	}
}

/* The folder itself is that of the name "". */
static inline const char *golden_path(char path[GOLDEN_ROOM], const char *kind, unsigned n,
				      const char *name)
{
	int len = snprintf(path, GOLDEN_ROOM, GOLDEN "/%s-%u/%s", kind, n, name);

	assert_in_range(len, 1, GOLDEN_ROOM - 1);
	return path;
}

static inline bool golden_exists(const char *kind, unsigned n)
{
	char path[GOLDEN_ROOM];

	return access(golden_path(path, kind, n, ""), R_OK) == 0;
}

/* All that are read are recorded; what was recorded once is read still. */
static inline void golden_each(const char *kind, unsigned oldest, unsigned newest,
			       void (*check)(unsigned version))
{
	golden_needed();
	for (unsigned n = oldest; n <= newest; n++) {
		if (!golden_exists(kind, n))
			fail_msg("no %s of version %u is recorded", kind, n);
		check(n);
	}
	assert_false(golden_exists(kind, oldest - 1) || golden_exists(kind, newest + 1));
}

static inline void golden_read(const char *path, struct buf *out)
{
	struct error e = {0};

	if (file_read(path, GOLDEN_MOST, out, &e))
		fail_msg("%s", e.text);
}

static inline FILE *golden_open(const char *path, const char *mode)
{
	FILE *f = fopen(path, mode);

	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	return f;
}

static inline void golden_folder_make(const char *path)
{
	if (mkdir(path, 0755))
		fail_msg("%s: %s (what was released is not recorded again)", path, strerror(errno));
}

/* `recorder` finds the words after `record`, and then NULL, in *state. */
static inline int golden_run(int argc, char **argv, const struct CMUnitTest *tests, size_t count,
			     CMUnitTestFunction recorder)
{
	const struct CMUnitTest record[] = {
		{.name = "record", .test_func = recorder, .initial_state = argv + 2}};

	if (argc > 1 && !strcmp(argv[1], "record"))
		return cmocka_run_group_tests(record, NULL, NULL);
	return _cmocka_run_group_tests("tests", tests, count, NULL, NULL);
}

#endif

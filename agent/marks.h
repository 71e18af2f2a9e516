// SPDX-License-Identifier: Apache-2.0
/*
 * The marks by which another host knows an image file again: drawn at random, and written into the
 * file. Whoever asks writes one, sends it, and the other host looks for it: one that another
 * question writes before it has looked makes of the same file another one. So the mark of a file
 * stays the same as long as a question with it may wait for its answer. It must not stay for ever:
 * a copy that was made with its attributes has it, too.
 *
 * Calls may come from all threads.
 */
#ifndef POLLUX_AGENT_MARKS_H
#define POLLUX_AGENT_MARKS_H

#include <sys/types.h>

#include "base/base.h"

#define MARK_LEN     32
#define MARK_KEPT_NS (30 * NS_PER_SEC) /* since it was last given out; an answer has 20 s */

struct marks;

int marks_create(struct marks **out) MUST_CHECK;
void marks_destroy(struct marks *m);
/* At `now`, as clock_ns() tells it. */
int marks_of(struct marks *m, dev_t dev, ino_t ino, uint64_t now,
	     char out[MARK_LEN + 1]) MUST_CHECK;

#endif

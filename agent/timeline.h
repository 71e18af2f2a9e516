// SPDX-License-Identifier: Apache-2.0
/* What happened to a guest and when, by both clocks: the demo and drills print it. */
#ifndef POLLUX_AGENT_TIMELINE_H
#define POLLUX_AGENT_TIMELINE_H

#include <jansson.h>

#include "base/base.h"

#define TIMELINE_MAX 64 /* the oldest go first */

struct timeline_event {
	char what[32];
	char detail[160];
	uint64_t real_ns, boot_ns;
};

struct timeline {
	struct timeline_event events[TIMELINE_MAX];
	unsigned first, count;
};

void timeline_add(struct timeline *t, const char *what, const char *fmt, ...) PRINTF(3, 4);
/* [{"what", "detail", "realtime_ns", "boottime_ns"}, ...], oldest first; NULL without memory. */
json_t *timeline_json(const struct timeline *t);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "agent/timeline.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/json_text.h"

static uint64_t realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static struct timeline_event *timeline_slot(struct timeline *t)
{
	if (t->count < TIMELINE_MAX)
		return &t->events[(t->first + t->count++) % TIMELINE_MAX];
	t->first = (t->first + 1) % TIMELINE_MAX;
	return &t->events[(t->first + TIMELINE_MAX - 1) % TIMELINE_MAX];
}

void timeline_add(struct timeline *t, const char *what, const char *fmt, ...)
{
	struct timeline_event *event = timeline_slot(t);
	va_list args;

	*event = (struct timeline_event){.real_ns = realtime_ns(), .boot_ns = clock_ns()};
	snprintf(event->what, sizeof(event->what), "%s", what);
	va_start(args, fmt);
	vsnprintf(event->detail, sizeof(event->detail), fmt, args);
	va_end(args);
}

json_t *timeline_json(const struct timeline *t)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < t->count; i++) {
		const struct timeline_event *e = &t->events[(t->first + i) % TIMELINE_MAX];

		json_array_append_new(list,
				      json_pack("{s:o, s:o, s:I, s:I}", "what", json_text(e->what),
						"detail", json_text(e->detail), "realtime_ns",
						(json_int_t)e->real_ns, "boottime_ns",
						(json_int_t)e->boot_ns));
	}
	return list;
}

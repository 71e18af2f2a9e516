// SPDX-License-Identifier: Apache-2.0
/*
 * How a migration goes, from what polluxd says of the VM (docs/api.md): a line for a terminal, an
 * event for a program, and a summary when it is over. Pure: JSON in, text out. What is not known
 * is left out of the line, and null in the event.
 *
 * Rates are those of the last seconds: a watch keeps what was done by when, as the VM process has
 * counted it. The time until the end is that of the copy that is under way, of memory and disks
 * side by side, and of the rounds that will follow if the guest goes on writing as it does:
 *
 *   a round of T seconds leaves  dirty rate x T  to the next one, until the rest fits the pause
 *
 * When rounds do not shrink there is no such time, unless what is left follows the guest.
 */
#ifndef POLLUX_CLI_MIGRATE_PROGRESS_H
#define POLLUX_CLI_MIGRATE_PROGRESS_H

#include <jansson.h>

#include "base/base.h"

#define WATCH_SAMPLES 16u

struct migrate_watch {
	struct migrate_seen {
		uint64_t at_ns;                /* by the clock of the VM process */
		uint64_t wire, memory, copied; /* bytes: on the wire; of pages; of disks */
		uint64_t missing, followed;    /* pages; of them, bytes that have followed */
	} seen[WATCH_SAMPLES];                 /* oldest first */
	unsigned count;
};
void migrate_watch_take(struct migrate_watch *w, const json_t *vm);

/* Pieces that do not fit are left out, the less important ones first; `elapsed_s` is said where
 * there is nothing to measure. */
void migrate_line_text(const struct migrate_watch *w, const json_t *vm, double elapsed_s, char *out,
		       size_t size);
json_t *migrate_event_json(const struct migrate_watch *w, const json_t *vm);
/* Lines, each with its end. */
void migrate_summary_text(const json_t *vm, const char *name, const char *to, char *out,
			  size_t size);

#endif

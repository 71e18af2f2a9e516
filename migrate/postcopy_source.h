// SPDX-License-Identifier: Apache-2.0
/*
 * A postcopy source's threads, all of which live as long as it does:
 *
 *   control   receives on the control stream, and feeds the plan
 *   asked     sends on it: pages that were asked for, heartbeats, the last word
 *   push      one for each push stream
 *
 * Memory is read without a lock, but only once `serving` is set, which comes after the guest
 * has stopped for good: what the target asks before that waits with the control thread.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_POSTCOPY_SOURCE_H
#define POLLUX_MIGRATE_POSTCOPY_SOURCE_H

#include "migrate/postcopy.h"
#include "migrate/push_plan.h"

#define SOURCE_ASKED_BATCH 16u
#define SOURCE_PUSH_BATCH  32u

struct source_stream {
	struct postcopy_source *p;
	unsigned index; /* 0 = control */
	struct epoch_writer *writer;
	pthread_t thread;
	bool started;
};

struct postcopy_source {
	struct side side; /* first: handlers get this */
	struct push_plan plan;
	bool serving, connecting;
	bool all;         /* the target has all of it */
	uint64_t push_at; /* the next batch may be pushed; by the limit */
	uint64_t faults, pushed, told_left;
	struct source_stream streams[LINK_STREAMS_MAX];
	pthread_t control;
	bool control_started;
};

void *source_control_main(void *ctx); /* the source */
void *source_asked_main(void *ctx);   /* a stream, as push */
void *source_push_main(void *ctx);
epoch_emit_fn source_emit; /* ctx: a stream */

#endif

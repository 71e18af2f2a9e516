// SPDX-License-Identifier: Apache-2.0
/*
 * A postcopy target's threads:
 *
 *   a stream thread each   handshake, then puts what comes where it belongs
 *   asks                   sends on the control stream: what is missing, what is waited for,
 *                          heartbeats; at the end it ends the lazy mapping
 *
 * Memory. `lazy` is set before a thread can hear of a page and forgotten when no user of a
 *         link is left. A page is put without the lock; then, under it, it is no longer
 *         missing in `wants`: that is at most too much, so a page is asked for twice, never
 *         forgotten.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_POSTCOPY_TARGET_H
#define POLLUX_MIGRATE_POSTCOPY_TARGET_H

#include "migrate/page_wants.h"
#include "migrate/postcopy.h"

/* Handshakes at a time: those of a link, and a few of strangers who fail. */
#define TARGET_ATTEMPTS_MAX (LINK_STREAMS_MAX + 8u)
#define TARGET_THREADS_MAX  (2 * LINK_STREAMS_MAX + TARGET_ATTEMPTS_MAX)

struct target_thread {
	struct postcopy_target *t;
	unsigned stream; /* 0 = control */
	int fd;
	pthread_t thread;
	bool used, done;
};

struct postcopy_target {
	struct side side; /* first: handlers get this */
	struct page_wants wants;
	struct vm_lazy *lazy;
	bool started, go, finished;
	bool stalled; /* of the thread of events */
	unsigned welcomed;
	/* Of this link, what was said on it. */
	uint64_t listed; /* pages */
	bool go_said, all_said, all_heard;
	uint64_t all_at;    /* when it was said */
	uint64_t pushed_at; /* a record has come on a push stream; or GO was said */
	struct target_thread threads[TARGET_THREADS_MAX];
	unsigned attempts;
	pthread_t asks;
	bool asks_started;
};

void *target_asks_main(void *ctx);
void *target_stream_main(void *ctx); /* a target_thread */

#endif

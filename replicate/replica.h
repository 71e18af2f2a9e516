// SPDX-License-Identifier: Apache-2.0
/*
 * The standby's side: standby_core with real threads.
 *
 *   a stream thread each   handshake, then receives, checks and stages
 *   worker                 commits, discards, loads: what touches the image once an
 *                          epoch is whole
 *   clock                  ticks, and tells the owner about states
 *   heartbeat              sends on the control stream, and waits for nothing else
 *
 * Locks. `lock` guards the core, the slots and the lists of what is staged; nothing
 *        that waits is done under it. `ack_lock` keeps acknowledgements in order, and comes
 *        before `lock`.
 * Image. A page belongs to one stream (page_stream()), and so does its entry in
 *        `versions`; until epoch 1 is whole that stream's thread writes the page, from
 *        then on only the worker does.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_REPLICA_H
#define POLLUX_REPLICATE_REPLICA_H

#include <stdatomic.h>

#include "replicate/core.h"
#include "replicate/pages.h"
#include "replicate/records.h"

struct staged_pages {
	struct staged_pages *next;
	struct pages_batch batch;
};

struct staged_state {
	uint64_t epoch;
	struct buf bytes;
};

struct replica_stream {
	struct replica *r;
	unsigned index; /* 0 = control */
	struct channel *channel;
	bool active; /* its thread is at work */
	/* Of its thread. */
	uint64_t begun;
	struct epoch_sum sum;
	uint64_t round; /* the last one that has ended; under the replica's ack_lock */
	/* Under the replica's lock, in the order of epochs. */
	struct staged_pages *first, **last;
};

/* Handshakes at a time: those of the session, and a few of strangers who fail. */
#define ATTEMPTS_MAX       (CHANNEL_STREAMS_MAX + 8u)
#define STREAM_THREADS_MAX (CHANNEL_STREAMS_MAX + ATTEMPTS_MAX)

struct stream_thread {
	pthread_t thread;
	bool used, done;
};

struct replica {
	struct vm *vm;
	struct replicate_config config;
	struct epoch_member members[EPOCH_MEMBERS_MAX];
	unsigned member_count;
	struct replica_events events;
	uint64_t ram_pages;
	uint32_t *versions; /* low half of the epoch of the last version received; 0 = none */

	pthread_mutex_t lock, ack_lock;
	pthread_cond_t changed; /* anything under `lock` */
	struct standby_core core;
	struct replica_stream streams[CHANNEL_STREAMS_MAX];
	struct stream_thread threads[STREAM_THREADS_MAX];
	unsigned attempts, active, welcomed; /* threads that shake hands; that receive; slots */
	bool closed, quit;
	bool failing;  /* the primary is being told why: it will close the link, which says nothing
			*/
	char why[512]; /* what the core points to: written once */
	struct staged_state states[CORE_WINDOW_MAX + 2]; /* epoch n: [n % its length] */
	uint64_t *missing; /* pages that come later, bits; by the first bulk stream */
	struct buf state;  /* of the last committed epoch */
	uint64_t commit;   /* for the worker; 0 = none */
	bool load, discard;
	struct core_action reports[16];
	unsigned report_count;

	uint64_t ack_sent, round_told; /* under ack_lock */
	int end_fd;
	_Atomic uint64_t whole, committed; /* for heartbeats */
	_Atomic uint64_t pages, bytes_raw;
	atomic_bool peer_closed; /* the primary's kernel closed a stream */
	pthread_t worker_thread, clock_thread, heartbeat_thread;
	bool worker_started, clock_started, heartbeat_started;
};

/* Feed an event; does what can be done without waiting, or leaves it to a thread. */
int replica_step(struct replica *r, const struct standby_input *in);
void replica_event(struct replica *r, enum standby_event type, uint64_t epoch);
/* The first reason stays; the core keeps a pointer to it. */
const char *replica_why(struct replica *r, const char *text);
/* Something is wrong that the primary has to know: tell it, then feed `type`. */
void replica_fail(struct replica *r, enum standby_event type, uint64_t epoch, const char *text);
/* A stream has ended a round: the primary is told when all have. */
int replica_round_end(struct replica_stream *s, uint64_t round) MUST_CHECK;
void replica_close(struct replica *r); /* lock held; waits for nothing */

void *replica_stream_main(void *arg); /* takes over a struct stream_attempt */
struct stream_attempt {
	struct replica *r;
	struct stream_thread *thread;
	unsigned stream;
	int fd;
};
/* One record of a stream, wholly checked: 0, or `e` says what is wrong with it. */
int replica_record(struct replica_stream *s, const struct record *record,
		   struct error *e) MUST_CHECK;

void *replica_worker_main(void *arg);
void *replica_clock_main(void *arg);
void *replica_heartbeat_main(void *arg);

void stage_pages(struct replica_stream *s, struct staged_pages *p);
void stage_state(struct replica *r, uint64_t epoch, struct buf *bytes); /* takes over */
int stage_commit(struct replica *r, uint64_t epoch, struct error *e) MUST_CHECK;
void stage_discard(struct replica *r); /* everything */

#endif

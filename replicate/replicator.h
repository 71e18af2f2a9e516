// SPDX-License-Identifier: Apache-2.0
/*
 * The primary's side: primary_core with real threads.
 *
 *   epoch thread    the one that pauses and resumes the vm: ticks, connects, copies,
 *                   seals, reports; does the core's actions that may take time
 *   control thread  receives on the control stream
 *   heartbeat       sends on it, and waits for nothing else
 *   senders         a thread for each bulk stream (sender.c)
 *
 * Locks. `lock` guards the core and the queue of actions; outputs are released, held
 *        and passed under it, so that these happen in the core's order. It is not
 *        taken while the vm is paused, and no callback into an agent runs under it.
 *        replicator_output(), which comes with the device lock, takes none.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_REPLICATOR_H
#define POLLUX_REPLICATE_REPLICATOR_H

#include <stdatomic.h>

#include "replicate/core.h"
#include "replicate/records.h"
#include "replicate/sender.h"

#define ACTION_QUEUE_MAX 64u

/* AGAIN: a handover's seal has failed, and what is dirty is decided about anew. */
enum sync_state { SYNC_OFF, SYNC_ROUND, SYNC_REST, SYNC_LINK, SYNC_AGAIN, SYNC_DONE };

struct member_link {
	struct replicator *r;
	struct epoch_member member;
	bool started;
};

struct replicator {
	struct vm *vm;
	struct replicate_config config;
	uint64_t answer_ns; /* for whatever the standby has to answer */
	uint64_t bye_ns;    /* but for BYE */
	struct member_link members[EPOCH_MEMBERS_MAX];
	unsigned member_count;
	struct epoch_output outputs[EPOCH_OUTPUTS_MAX];
	unsigned output_count;
	struct replicator_events events;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* the core's state */
	struct primary_core core;
	struct core_action queue[ACTION_QUEUE_MAX];
	unsigned queue_first, queue_count;
	struct channel *streams[CHANNEL_STREAMS_MAX]; /* 0 = control */
	bool closed, quit;
	char why[512];      /* what REFUSED and LINK_LOST point to: written once */
	char seal_why[560]; /* what SEAL_FAILED points to: the epoch thread's */
	uint64_t pause_last_ns, pause_max_ns, ack_delay_last_ns, pages_last;
	struct vm_pause_times times_last;

	int wake_fd, end_fd;
	uint64_t sleep_until; /* the epoch thread's */
	atomic_bool output, round_sent;
	atomic_bool ending; /* nothing is to be sealed any more */
	atomic_uint members_unsynced;
	atomic_int member_error;
	_Atomic uint64_t sealed, acknowledged; /* for heartbeats */
	_Atomic uint64_t round_done;           /* the last one that the standby has said to have */
	_Atomic uint64_t frozen_at;
	_Atomic uint64_t seal_began; /* 0: the epoch thread is in no checkpoint */

	/* Of the epoch thread. */
	struct sender *sender;
	struct copier copier;
	struct capture *captures, round;
	unsigned capture_count;
	uint64_t *dirty; /* to be sent with the next checkpoint */
	enum sync_state sync;
	unsigned rounds;
	bool members_sent; /* a round was begun after all members had given all they have */
	uint64_t round_count, round_at;
	bool marks_off;               /* the standby does not answer them */
	uint64_t mark_until;          /* the answer is waited for; 0 = not yet */
	bool round_cut;               /* it ends early */
	_Atomic uint64_t round_pages; /* of the current round */
	bool postcopy;                /* the last epoch leaves the dirty pages behind */
	bool logging, frozen;         /* frozen: in the pause that a handover left behind */
	uint64_t copy_began, round_began, round_bytes, round_pages_begun;
	uint64_t seal_first; /* when the first try of a seal began; 0 = not yet */

	pthread_t epoch_thread, control_thread, heartbeat_thread;
	bool epoch_started, control_started, heartbeat_started;
};

/* Feed an event; does what can be done at once, queues the rest for the epoch thread. */
int replicator_step(struct replicator *r, const struct primary_input *in);
void replicator_event(struct replicator *r, enum primary_event type, uint64_t epoch);
/* The session is lost because of `rc` while doing `what`. */
void replicator_lost(struct replicator *r, int rc, const char *what);
/* ... which may be but the standby's answer: waits for that a moment. */
void replicator_send_failed(struct replicator *r, int rc, const char *what);
void replicator_refused(struct replicator *r, const struct refuse *refuse);
void replicator_wake(struct replicator *r);

/* Connect all streams, start their threads; feeds CONNECTED, REFUSED or LINK_LOST. */
void link_connect(struct replicator *r);
void link_close(struct replicator *r); /* lock held; waits for nothing */
void link_join(struct replicator *r);
void link_bye(struct replicator *r);

void *epoch_main(void *arg);
void members_stop(struct replicator *r);
uint64_t bytes_sent(struct replicator *r); /* on the wire, all streams; lock held */

#endif

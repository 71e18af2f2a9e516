// SPDX-License-Identifier: Apache-2.0
/*
 * The epoch protocol without I/O: two plain state machines, one a side. An event
 * goes in, with the time; a short list of actions comes out, to be done in order.
 * No sockets, no threads, no clock, no memory: the replicator and the replica
 * drive these with real ones, tests/sim with simulated ones.
 *
 * Rules for whoever drives a core
 *   - One caller at a time (one lock around event and, where the order matters,
 *     its actions). A time before that of the last event counts as that one.
 *   - Do the actions in the order given. What an action begins (SEAL, SEND,
 *     COMMIT, LOAD) is answered later, or at once, by an event.
 *   - An event that is refused (-EPROTO, or -EINVAL for values that cannot be)
 *     changed nothing. When the other side caused it, feed LINK_LOST next (primary)
 *     or BAD_INPUT (standby).
 *   - Feed what has arrived before you feed a tick, and tick at core_deadline at
 *     the latest. A tick that comes late is not taken for the other side's silence.
 *   - Epochs of a session count from 1. Epoch 1 is the first full copy; output made
 *     before it was sealed has passed, and is part of it.
 *
 * One epoch, seen from both sides (window 2, two streams):
 *   primary  TICK           -> SEAL 7       pause, harvest, copy, netbuf_seal(7), resume
 *            SEALED 7       -> SEND 7       encode, BEGIN 7 .. DATA .. END 7 on each stream
 *            OUTPUT, TICK   -> SEAL 8       while 7 is in flight
 *   standby  END 7, stream 0                not whole yet
 *            END 7, stream 1 -> ACK 7, COMMIT 7
 *   primary  ACK 7          -> RELEASE 7
 *   standby  COMMITTED 7                    the twin is epoch 7
 */
#ifndef POLLUX_REPLICATE_CORE_H
#define POLLUX_REPLICATE_CORE_H

#include "replicate/policy.h"
#include "replicate/replicate.h"

#define CORE_ACTIONS_MAX 12
#define CORE_WINDOW_MAX  64

struct core_action {
	int type;        /* enum primary_action or enum standby_action */
	uint64_t epoch;  /* SEAL, SEND, RELEASE, HOLD; ACK, COMMIT */
	bool hold;       /* SEAL: output passes until now; in this pause, hold(epoch + 1) */
	int state;       /* REPORT: enum replicator_state or enum replica_state */
	const char *why; /* REPORT, ASK: a sentence with static lifetime */
};
struct core_actions {
	unsigned count;
	struct core_action item[CORE_ACTIONS_MAX];
};

/* ---- primary ----------------------------------------------------------- */

enum primary_state {
	PRIMARY_IDLE,
	PRIMARY_CONNECTING,
	PRIMARY_SYNCING,   /* full copy, then epoch 1 until it is acknowledged */
	PRIMARY_PROTECTED, /* output waits for its epoch */
	PRIMARY_STOPPING,  /* BYE is on its way; output waits for the answer */
	PRIMARY_HANDED,    /* handover: epoch 1 is whole over there, the guest stands still here */
	PRIMARY_LOST,      /* for good: the link is closed; output waits for an ownership answer */
	PRIMARY_UNPROTECTED,
	PRIMARY_FENCED,
	PRIMARY_STATES
};

enum primary_event {
	PRIMARY_EV_START,
	PRIMARY_EV_CONNECTED,
	PRIMARY_EV_REFUSED,     /* why; newer_term = because of a newer term */
	PRIMARY_EV_SYNCED,      /* memory and all members are copied, the rest fits a pause */
	PRIMARY_EV_OUTPUT,      /* output is held in the open epoch */
	PRIMARY_EV_SEALED,      /* epoch */
	PRIMARY_EV_SEAL_FAILED, /* epoch, why; the guest runs again, the outputs were not sealed.
				   Handover: SYNCED is fed anew when it may be tried again */
	PRIMARY_EV_SENT,        /* epoch: its last byte was handed to the channel */
	PRIMARY_EV_ACK,         /* epoch */
	PRIMARY_EV_HEARD,       /* heartbeat or any other record */
	PRIMARY_EV_LINK_LOST,   /* why */
	PRIMARY_EV_TICK,
	PRIMARY_EV_OWNED,        /* confirmed: the standby cannot and will not promote */
	PRIMARY_EV_OWNED_FORCED, /* the operator says: go on, whatever the policy */
	PRIMARY_EV_DISOWNED,     /* a newer term exists */
	PRIMARY_EV_STOP,         /* end the session in good order; why, or NULL */
	PRIMARY_EV_GUEST_ENDED,  /* power off: as STOP, and there is no more to seal */
	PRIMARY_EV_BYE_ACKED,
	PRIMARY_EVENTS
};

enum primary_action {
	PRIMARY_CONNECT,
	PRIMARY_COPY,       /* begin the full copy: log-dirty on, members' start() */
	PRIMARY_SEAL,       /* pause, harvest, copy, seal outputs last, resume unless stalled or
			       handed over */
	PRIMARY_SEND,       /* encode and send epoch */
	PRIMARY_RELEASE,    /* outputs of epochs <= epoch leave */
	PRIMARY_HOLD,       /* all that is held, and what comes, belongs to epoch */
	PRIMARY_PASS,       /* everything held leaves, later output passes */
	PRIMARY_ASK,        /* ask the owner of this session who owns the vm; why */
	PRIMARY_STALL,      /* stop vCPUs, for a time */
	PRIMARY_RESUME,     /* undo STALL */
	PRIMARY_STOP_VCPUS, /* for good; what is held never leaves */
	PRIMARY_BYE,        /* tell the standby that this is no failure */
	PRIMARY_MERGE,      /* the failed seal's dirty pages belong to the open epoch again */
	PRIMARY_CLOSE,      /* close the link; stop copying and sending; members' stop() */
	PRIMARY_REPORT,     /* state, why */
	PRIMARY_ACTIONS
};

struct primary_config {
	enum replicate_mode mode;
	enum standby_loss_policy policy;
	uint64_t interval_ns, heartbeat_ns, loss_ns;
	uint64_t ack_ns; /* an epoch (or a connect) unanswered for this long is a loss */
	uint64_t bye_ns; /* and a BYE for this long */
	unsigned window; /* 1..CORE_WINDOW_MAX */
	bool handover;   /* a migration: epoch 1 is the last one, the guest stays in its pause */
	bool held; /* an earlier session left the vm stalled and its output held (policy stall) */
};

struct primary_core {
	struct primary_config config;
	enum primary_state state;
	uint64_t sealed, sent, acknowledged;  /* epochs */
	uint64_t sealed_at[CORE_WINDOW_MAX];  /* of epoch n: [n % CORE_WINDOW_MAX] */
	uint64_t heard_at, seen_at, asked_at; /* asked_at: connect or BYE began */
	uint64_t seal_after;                  /* not before this, after a failure */
	uint64_t forgive_until;               /* a tick came late: judge silence after this */
	bool synced, sealing, output, stalled, holding;
	bool exposed;  /* the standby may hold a whole epoch: it might promote */
	bool stop;     /* a good end was asked for */
	bool owned;    /* ownership is confirmed, policy stall waits */
	bool indulged; /* one late tick in this silence was forgiven */
	unsigned seal_failures;
	const char *stop_why; /* what made it end itself; NULL = nothing */
};

struct primary_input {
	enum primary_event type;
	uint64_t now; /* nanoseconds of a clock that never goes back */
	uint64_t epoch;
	bool newer_term; /* REFUSED */
	const char *why; /* static lifetime; may be NULL */
};

/* -EINVAL: a value is out of range. */
int primary_core_init(struct primary_core *c, const struct primary_config *config) MUST_CHECK;
int primary_core_event(struct primary_core *c, const struct primary_input *in,
		       struct core_actions *out) MUST_CHECK;
uint64_t primary_core_deadline(const struct primary_core *c); /* tick then; UINT64_MAX = never */
enum replicator_state primary_core_report(const struct primary_core *c);
bool primary_core_allows(enum primary_state state, enum primary_event event);
bool primary_core_may_become(enum primary_state from, enum primary_state to);
const char *primary_state_name(enum primary_state s);
const char *primary_event_name(enum primary_event e);
const char *primary_action_name(enum primary_action a);

/* ---- standby ----------------------------------------------------------- */

enum standby_state {
	STANDBY_WAITING,
	STANDBY_SYNCING, /* no whole epoch yet */
	STANDBY_READY,
	STANDBY_LOST,      /* for good: the link is closed, nothing is acknowledged any more */
	STANDBY_PROMOTING, /* likewise; commits what is whole, then loads */
	STANDBY_PROMOTED,
	STANDBY_RELEASED,
	STANDBY_BROKEN,
	STANDBY_STATES
};

enum standby_event {
	STANDBY_EV_CONNECTED, /* all streams of the session are there */
	STANDBY_EV_BEGIN,     /* stream, epoch */
	STANDBY_EV_DATA,      /* stream, epoch: 0 = stage it (standby_core_direct: apply it) */
	STANDBY_EV_END, /* stream, epoch: all of the stream's records were checked and staged */
	STANDBY_EV_BYE,
	STANDBY_EV_HEARD,         /* heartbeat or any other record */
	STANDBY_EV_COMMITTED,     /* epoch */
	STANDBY_EV_COMMIT_FAILED, /* epoch, why */
	STANDBY_EV_BAD_INPUT,     /* why */
	STANDBY_EV_LINK_LOST,     /* why */
	STANDBY_EV_TICK,
	STANDBY_EV_PROMOTE, /* term: -EAGAIN no whole epoch, -ESTALE term not newer, -EPERM */
	STANDBY_EV_LOADED,
	STANDBY_EV_LOAD_FAILED, /* why */
	STANDBY_EVENTS
};

enum standby_action {
	STANDBY_ACK,     /* tell the primary that epoch is whole */
	STANDBY_COMMIT,  /* apply epoch: memory, machine state, members; one at a time */
	STANDBY_DISCARD, /* all that is staged for epochs > epoch */
	STANDBY_LOAD,    /* the vm becomes the image as committed */
	STANDBY_BYE_ACK,
	STANDBY_CLOSE,  /* close all streams */
	STANDBY_REPORT, /* state, why */
	STANDBY_ACTIONS
};

struct standby_config {
	uint64_t heartbeat_ns, loss_ns;
	unsigned streams; /* that carry epochs, 1..CHANNEL_STREAMS_MAX */
	/* Epochs that may be begun beyond the last whole one, and acknowledged beyond the last
	 * committed one: what bounds the memory for staging, when the disk is slow. */
	unsigned window;
	uint64_t term; /* of the session */
};

struct standby_core {
	struct standby_config config;
	enum standby_state state;
	uint64_t begun[CHANNEL_STREAMS_MAX], ended[CHANNEL_STREAMS_MAX]; /* epochs, by stream */
	uint64_t whole, acknowledged, committing, committed; /* committing: 0 = none is running */
	uint64_t heard_at, seen_at, forgive_until;
	uint64_t new_term;
	bool indulged;
};

struct standby_input {
	enum standby_event type;
	uint64_t now, epoch, term;
	unsigned stream;
	const char *why; /* static lifetime; may be NULL */
};

int standby_core_init(struct standby_core *c, const struct standby_config *config) MUST_CHECK;
int standby_core_event(struct standby_core *c, const struct standby_input *in,
		       struct core_actions *out) MUST_CHECK;
uint64_t standby_core_deadline(const struct standby_core *c);
/* Epoch 1 is applied as it comes: until it is whole there is nothing to keep intact. */
bool standby_core_direct(const struct standby_core *c, uint64_t epoch);
enum replica_state standby_core_report(const struct standby_core *c);
bool standby_core_allows(enum standby_state state, enum standby_event event);
bool standby_core_may_become(enum standby_state from, enum standby_state to);
const char *standby_state_name(enum standby_state s);
const char *standby_event_name(enum standby_event e);
const char *standby_action_name(enum standby_action a);

#endif

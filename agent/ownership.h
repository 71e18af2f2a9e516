// SPDX-License-Identifier: Apache-2.0
/*
 * Who may run a vm: terms, fencing, promotion. A plain state machine, one for each
 * vm on each host: an event goes in with the time, actions come out, to be done in
 * order. The argument why at most one copy makes output is docs/ownership.md.
 *
 * Terms     are numbers that only grow. Each protection session has one of its own,
 *           so that "the twin of term t" names one replica, and what a host says about
 *           a term never ceases to be true (but for ALIVE, on which nothing rests).
 *             protect +1, unprotected +1, promoted +2, promoted or run by force +2^32
 *           A promotion thus beats what the old primary may have stored since.
 * Record    what a host knows for good. STORE writes it durably (record_file.h), and
 *           only STORED lets the machine go on: there is never more than one STORE
 *           under way, and nothing that rests on it is done before.
 * Words     between the two hosts' polluxds, on an ordered link. A word that is lost is
 *           said again: everything is repeated until it is answered. Words of a
 *           connection that has ended must not be fed.
 * Migration is a session that is handed over: its last epoch leaves the guest standing
 *           still (HANDED), the primary stores RELEASED and says so, and only that word
 *           lets the other side promote. Until it is said the primary may go on without
 *           asking; from then on it may only when it hears DROPPED. The other side loads
 *           meanwhile, and stores OWNER when nothing is left that could fail.
 * Fencing   FENCE begins the fence command against the peer; its end is FENCED with the
 *           same id. ok = the command has confirmed that the host is off.
 */
#ifndef POLLUX_AGENT_OWNERSHIP_H
#define POLLUX_AGENT_OWNERSHIP_H

#include "base/base.h"

enum ownership_role {
	ROLE_NONE,     /* no copy; nobody with a term below this one may run */
	ROLE_OWNER,    /* owns the vm, alone */
	ROLE_PRIMARY,  /* owns the vm; the peer may hold its twin */
	ROLE_STANDBY,  /* may hold the twin of the peer's vm */
	ROLE_RELEASED, /* the vm of this term is dead here: the peer may promote */
	ROLE_COUNT
};
struct ownership_record {
	uint64_t term;
	enum ownership_role role;
};

enum ownership_state {
	OWN_NEW,       /* before START */
	OWN_NONE,      /* no copy here */
	OWN_UNSURE,    /* was the owner before a restart; asks the peer before it runs again */
	OWN_IDLE,      /* owner; the vm does not run */
	OWN_ALONE,     /* owner; the vm runs */
	OWN_PRIMARY,   /* owner; the vm runs in a session with a standby, or one is offered */
	OWN_ASKING,    /* the session was lost: output is held until ownership is confirmed */
	OWN_FREEZING,  /* migration: RELEASED is stored, and was said to nobody yet */
	OWN_HANDED,    /* migration: gave up; the vm of this term is here, frozen */
	OWN_RELEASED,  /* gave up: the vm of this term is dead */
	OWN_STANDBY,   /* a replica is here */
	OWN_DECIDING,  /* its primary is lost: ask, fence, wait */
	OWN_LOADING,   /* migration: RELEASED was heard, and the replica is not loaded yet */
	OWN_PROMOTING, /* owner; the replica becomes the vm */
	OWN_STATES
};

enum ownership_event {
	OWN_EV_START,        /* record, alive (a vm process of the primary role survived) */
	OWN_EV_STORED,       /* the STORE is durable */
	OWN_EV_STORE_FAILED, /* it is not; it will be asked for again */
	OWN_EV_TICK,
	OWN_EV_RUN,           /* operator; forced. -EBUSY runs already, -EPERM, -EAGAIN unsure */
	OWN_EV_PROTECT,       /* operator: offer a session to the peer; handover: to migrate.
				 -EPERM no vm runs alone */
	OWN_EV_PROMOTE,       /* operator's force. -EPERM no replica, -EAGAIN no whole epoch */
	OWN_EV_GO_ON,         /* operator's force: run without the standby. -EPERM neither
				 asking nor handed */
	OWN_EV_FREEZING,      /* primary: the guest is frozen, its last epoch is on its way. To
				 store RELEASED beside the transfer; may be left out */
	OWN_EV_HANDED,        /* primary: the last epoch is whole over there, the guest is frozen */
	OWN_EV_SESSION_LOST,  /* primary: replicator is LOST; handover: of a migration */
	OWN_EV_SESSION_OVER,  /* primary: replicator is UNPROTECTED of its own */
	OWN_EV_VM_DEAD,       /* the vm process (running copy) has been waited for */
	OWN_EV_REPLICA_READY, /* standby: holds a whole epoch */
	OWN_EV_REPLICA_LOST,  /* standby: the link is gone; reset = the other kernel said so */
	OWN_EV_REPLICA_GONE,  /* standby: released, broken, ended or died: cannot promote */
	OWN_EV_LOADED,        /* standby: LOAD is done */
	OWN_EV_PROMOTED,      /* the replica runs as the vm */
	OWN_EV_FENCED,        /* id, ok */
	OWN_EV_PEER_UP,
	OWN_EV_PEER_DOWN,
	OWN_EV_WORD, /* word, term, can_fence (ACCEPT), handover (OFFER) */
	OWN_EVENTS
};

enum ownership_word {
	WORD_ASK,      /* what do you know of term? */
	WORD_ALIVE,    /* I run the vm of term (only now: nothing rests on it) */
	WORD_RELEASED, /* the vm of term is dead and never comes back */
	WORD_OWN,      /* I own the vm, under term */
	WORD_DROP,     /* drop the twin of term, I want to go on alone */
	WORD_DROPPED,  /* there is no twin of term and never will be */
	WORD_OFFER,    /* be my standby under term */
	WORD_ACCEPT,   /* the replica waits for its streams; can_fence = I have a fence for you */
	WORD_REFUSE,   /* no session under term */
	WORD_COUNT
};

enum ownership_act {
	OWN_STORE,          /* record */
	OWN_TELL,           /* word, term, can_fence; dropped when there is no link */
	OWN_FENCE,          /* id */
	OWN_CONFIRM,        /* primary: tell the replicator OWNERSHIP_CONFIRMED */
	OWN_CONFIRM_FORCED, /* ...OWNERSHIP_FORCED; forced */
	OWN_KILL_VM,        /* a newer term: OWNERSHIP_DENIED, then end the process */
	OWN_RETIRE_VM,      /* it runs on the other host: end the frozen copy when that has all */
	OWN_START_VM,       /* boot it under term */
	OWN_START_SESSION,  /* primary: the standby waits for the streams of term */
	OWN_END_SESSION,    /* primary: tell the replicator that its link is lost */
	OWN_CREATE_REPLICA, /* standby: for term */
	OWN_DROP_REPLICA,   /* standby: end it */
	OWN_LOAD,           /* standby: all of a promotion but the start of the vCPUs */
	OWN_PROMOTE,        /* standby: make it the vm, under term; when loaded: start it */
	OWN_REPORT,         /* state, why */
	OWN_ACTS
};

struct ownership_action {
	enum ownership_act type;
	struct ownership_record record;
	enum ownership_word word;
	uint64_t term;
	bool can_fence;
	bool forced; /* CONFIRM_FORCED: by an operator, and not after a migration that failed */
	unsigned id;
	enum ownership_state state;
	const char *why; /* static lifetime, or NULL */
};
#define OWN_ACTIONS_MAX 16
struct ownership_actions {
	unsigned count;
	struct ownership_action item[OWN_ACTIONS_MAX];
};

struct ownership_config {
	bool can_fence;      /* a fence command for the peer is configured */
	bool continue_alone; /* policy of this vm when its standby is lost: continue, not stall */
	bool senior;         /* decides a tie of two forced terms: this host's name sorts first */
	uint64_t fence_delay_ns; /* a primary fences this much later than a standby would */
	uint64_t ask_ns;   /* a standby gives a silent peer this long to answer before it fences */
	uint64_t reset_ns; /* ...and this long one whose kernel or polluxd is known to live */
	uint64_t retry_ns, retry_max_ns; /* words and fences are repeated, fences with back-off */
	uint64_t ready_ns; /* a peer that is there may need this long to make a replica */
};
void ownership_config_defaults(struct ownership_config *c);

struct ownership {
	struct ownership_config config;
	enum ownership_state state;
	struct ownership_record record;  /* durable */
	struct ownership_record pending; /* being stored, for the state `next` */
	enum ownership_state next;
	bool storing;
	uint64_t store_at; /* not before this, after a failure */

	/* Facts; what follows from them is worked out when no STORE is under way. */
	bool vm_alive, session_lost, session_over, session_started;
	bool replica, replica_ready, replica_lost, replica_reset;
	bool peer_up, standby_can_fence;
	bool promotion_forced;
	bool handover; /* the session of this record is a migration */
	bool freezing, handed, unstorable, offer_handover; /* unstorable: RELEASED was not */
	bool loading, loaded;
	bool start, forced; /* an operator's word, for the state it was given in */
	bool waiting_told;
	uint64_t owner_term; /* the newest that the peer is known to own */
	uint64_t released_term, dropped_term, gone_term, drop_term, offer_term, dead_term;
	uint64_t lost_at, say_at, released_at, load_at, fence_at, fence_wait;
	unsigned fence_id;
	bool fencing, fenced;
};

struct ownership_input {
	enum ownership_event type;
	uint64_t now;
	struct ownership_record record;
	bool alive, forced, reset, ok, can_fence, handover;
	unsigned id;
	enum ownership_word word;
	uint64_t term; /* WORD; SESSION_*, FREEZING, HANDED, REPLICA_*, LOADED, PROMOTED: of the
			  session, others are stale */
};

void ownership_init(struct ownership *o, const struct ownership_config *c);
/* 0; -EPROTO: not in this state; -EINVAL: a value that cannot be; operators' events: see
 * there. What is refused changed nothing. */
int ownership_event(struct ownership *o, const struct ownership_input *in,
		    struct ownership_actions *out) MUST_CHECK;
uint64_t ownership_deadline(const struct ownership *o); /* tick then; UINT64_MAX = never */

/* May the vm process of this host make output? For assertions and status. */
bool ownership_may_run(const struct ownership *o);
bool ownership_allows(enum ownership_state state, enum ownership_event event);
bool ownership_may_become(enum ownership_state from, enum ownership_state to);
bool ownership_record_valid(const struct ownership_record *r);
const char *ownership_state_name(enum ownership_state s);
const char *ownership_role_name(enum ownership_role r);
const char *ownership_word_name(enum ownership_word w);
const char *ownership_event_name(enum ownership_event e);
const char *ownership_act_name(enum ownership_act a);

#endif

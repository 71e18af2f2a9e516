// SPDX-License-Identifier: Apache-2.0
/*
 * The simulation: two hosts, each with a polluxd and a vm process, a network, and an
 * observer outside, all in one thread and all from one seed. The decisions are made by
 * the production cores (replicate/core.h, agent/ownership.h); what is simulated is
 * everything that they are driven by.
 *
 *   world.c     the queue of things to come, time, randomness, the trace
 *   net.c       links, connections, streams: delay, cuts, resets, frozen receivers
 *   guest.c     a guest of a few numbers: pages, a state, numbered outputs
 *   engine.c    a guest that is a vm of the hypervisor's engine sim (--engine)
 *   primary.c   a vm process that runs a guest      -> primary core
 *   standby.c   a vm process that holds a twin      -> standby core
 *   agent.c     a polluxd: record, peer, fences     -> ownership
 *   host.c      power, freezing, processes
 *   faults.c    the schedule: what goes wrong when
 *   observer.c  what must hold
 */
#ifndef POLLUX_TESTS_SIM_H
#define POLLUX_TESTS_SIM_H

#include "agent/ownership.h"
#include "replicate/core.h"

#define HOSTS         2
#define BULKS         2 /* streams that carry epochs */
#define CONNS_MAX     256
#define QUEUE_MAX     8192
#define HELD_MAX      128
#define LINEAGES_MAX  64
#define SESSIONS_MAX  64
#define EPOCHS_KEPT   128
#define GUEST_PAGES   24 /* of the guest that is only a few numbers */
#define PAGES_MAX     72 /* of a vm of the engine sim: 64 of RAM, 8 of disk */
#define FRAMES_KEPT   4096
#define FRAMES_A_STEP 16
#define STAGED_MAX    16

struct world;
struct event;
typedef void event_fn(struct world *w, const struct event *ev);

/* Whose death makes an event void. */
enum scope { SCOPE_WORLD, SCOPE_HOST, SCOPE_AGENT, SCOPE_PROC };

struct event {
	uint64_t at, order;
	event_fn *fn;
	enum scope scope;
	int host;
	uint64_t gen; /* of the host, agent or process */
	uint64_t a, b;
	struct message *message;
};

/* ---- guest ---------------------------------------------------------------- */

/* A guest's past: outputs 1..base are its parent's, later ones its own. */
struct lineage {
	int parent;
	uint64_t base;
	uint64_t seen; /* newest output of its own that has left a host */
};

struct blob {
	const uint8_t *data;
	size_t len;
};
struct page_set {
	uint64_t bits[2];
};

struct guest {
	uint64_t page[GUEST_PAGES]; /* the last quarter is its disk */
	struct page_set dirty;
	uint64_t state, outputs;
	int lineage;
	struct engine_guest *engine; /* a vm of the hypervisor's engine sim, or NULL */
	struct blob machine;         /* of a twin: the vm's state as committed */
};

struct page_copy {
	uint8_t page;
	union {
		uint64_t word;
		const uint8_t *bytes; /* a vm's page, kept until the schedule ends */
	};
};
/* What one stream carries of one epoch. */
struct cargo {
	unsigned count;
	struct page_copy item[PAGES_MAX];
	bool has_state;
	uint64_t state, outputs;
	struct blob machine; /* a vm's state */
	int lineage;
};

/* ---- network ---------------------------------------------------------------- */

enum link_id { LINK_DATA, LINK_PEER, LINKS };
enum { STREAM_CONTROL, STREAM_BULK, STREAMS = STREAM_BULK + BULKS };

enum message_kind {
	MSG_DIAL,   /* a connection begins */
	MSG_ANSWER, /* it was accepted */
	MSG_RESET,  /* it is closed */
	MSG_REFUSE,
	MSG_HEART,
	MSG_BEGIN,
	MSG_CARGO,
	MSG_END,
	MSG_ACK,
	MSG_BYE,
	MSG_BYE_ACK,
	MSG_WORD,
	MESSAGE_KINDS
};
struct message {
	enum message_kind kind;
	int conn, from;
	unsigned stream;
	uint64_t seq, epoch, term;
	enum ownership_word word;
	bool flag;     /* REFUSE: newer term; WORD: can fence */
	bool handover; /* WORD: offer of a migration */
	struct cargo *cargo;
	struct message *next; /* waiting for a link to heal */
};

struct conn {
	enum link_id link;
	bool open[HOSTS];
	int session;
	uint64_t last_at[HOSTS][STREAMS], sent[HOSTS][STREAMS], received[HOSTS][STREAMS];
};
struct link {
	bool cut[HOSTS]; /* what this host sends does not arrive */
	struct message *waiting, **waiting_end;
};

/* ---- hosts -------------------------------------------------------------------- */

enum fence_mode {
	FENCE_WORKS,
	FENCE_SLOW,
	FENCE_FAILS,
	FENCE_HANGS,
	FENCE_KILLS_UNSAID,
	FENCE_MODES
};

struct output {
	uint64_t epoch, number, at, hash; /* hash: of a vm's frame, or 0 */
	int lineage;
};

enum proc_role { PROC_NONE, PROC_RUNS, PROC_REPLICA };

struct sealed_epoch {
	uint64_t epoch;
	struct cargo cargo[BULKS];
};

struct staged_epoch {
	uint64_t epoch;
	struct cargo cargo[BULKS];
};

struct proc {
	uint64_t gen; /* 0 = there is none */
	enum proc_role role;
	uint64_t term;
	int session, conn;
	struct guest guest; /* the vm, or the twin */
	uint64_t tick_at;
	/* runs */
	struct primary_core primary;
	bool has_session; /* primary is driven */
	bool stalled, dead_stop, paused, holding, ended;
	bool frozen; /* a migration's last pause */
	bool keeps;  /* ...that it cannot hand over: its link for late memory is cut */
	uint64_t open_epoch;
	struct output held[HELD_MAX];
	unsigned held_count;
	struct page_set harvest; /* of the seal in progress */
	struct sealed_epoch flight[STAGED_MAX];
	/* replica */
	struct standby_core standby;
	struct staged_epoch staged[STAGED_MAX];
	uint64_t committing;
	unsigned commit_step;
	bool loading, loaded; /* a migration's promotion: all but the start */
	bool start_asked;     /* while it loads */
	bool unowned;         /* runs, as a planted bug, before polluxd says so */
};

struct agent {
	uint64_t gen;
	struct ownership own;
	struct ownership_record storing;
	int conn; /* to the peer, or -1 */
	uint64_t heard_at, tick_at;
	bool solid; /* the pass that is being stored rests on a fact, not on an exemption */
};

struct host {
	uint64_t gen; /* 0 = off */
	uint64_t frozen_until;
	struct ownership_record disk; /* what survives */
	struct agent agent;
	struct proc proc;
	enum fence_mode fence;
	bool can_fence, store_fails;
	uint64_t still_since; /* its guest stands still, and nobody was told */
	uint64_t local_at;    /* what its processes tell each other stays in order */
	/* Actions done; power fails, or polluxd ends, at that one. */
	uint64_t steps, crash_at_step, agent_ends_at_step;
};

/* ---- the world ------------------------------------------------------------------ */

enum breakage {
	BREAK_NOTHING,
	BREAK_RELEASE_EARLY,
	BREAK_APPLY_HALF,
	BREAK_PROMOTE_ON_SILENCE,
	BREAK_ACK_BEFORE_WHOLE,
	BREAK_FORGET_TERM,
	BREAK_PASS_WITHOUT_OWNERSHIP,
	BREAK_FORGET_MERGE,
	BREAK_HOLD_LATE,
	BREAK_NO_BYE,
	BREAK_MIGRATIONS, /* from here on: of migrations */
	BREAK_PROMOTE_UNRELEASED = BREAK_MIGRATIONS,
	BREAK_RESUME_ON_SILENCE,
	BREAK_TELL_UNSTORED,
	BREAK_RETIRE_EARLY,
	BREAK_RESUME_UNOWNED,
	BREAK_START_UNOWNED,
	BREAK_PROMOTE_BY_FENCE,
	BREAK_RUN_FROZEN,
	BREAK_KEEP_DROPPED_UNSAID,
	BREAK_RELEASE_UNSAID,
	BREAKAGES
};
const char *breakage_name(enum breakage b);

struct session {
	uint64_t term;
	bool abandoned; /* its primary has let output pass without it */
	bool excused;   /* ...on an operator's word */
	bool exempt;    /* ...because the standby has no fence */
	bool handover;
	uint64_t cancelled; /* by an operator, told to this polluxd; or 0 */
	uint64_t print[EPOCHS_KEPT], printed[EPOCHS_KEPT]; /* fingerprint, of which epoch */
};

struct settings {
	enum replicate_mode mode;
	enum standby_loss_policy policy;
	uint64_t interval_ns, heartbeat_ns, loss_ns, ack_ns, cancel_ns;
	unsigned window;
	uint64_t delay_ns, jitter_ns;
	bool seal_fails, commit_fails, reprotect, engine;
	bool migrate, early; /* operators migrate; RELEASED is stored beside the transfer */
};

enum violation_kind { V_NONE, V_I1, V_I2, V_I3, V_I5, V_I6, V_I7, V_LIVENESS, V_CORE, VIOLATIONS };

struct world {
	uint64_t seed, random, now, orders, gens;
	struct event *queue;
	unsigned queued;
	bool trace;
	enum breakage breakage;
	struct settings settings;
	struct link link[LINKS];
	struct conn conn[CONNS_MAX];
	int conns;
	struct host host[HOSTS];
	struct session session[SESSIONS_MAX];
	int sessions;
	struct keepsake *kept;
	struct engine_guest *engines;
	uint64_t frame[FRAMES_KEPT]; /* hash of the frame of this number that was seen */
	struct lineage lineage[LINEAGES_MAX];
	int lineages, current; /* current: the lineage that goes on */
	/* observer */
	enum violation_kind violated;
	char violation[200];
	bool forced_promotion, forced_run; /* an operator took the risk */
	bool vm_ended;                     /* powered off in good order, and said so */
	bool loss_excused;                 /* no copy was left that could have gone on */
	bool quiet;                        /* no more faults: all must become well */
	uint64_t down_since, worst_outage, worst_hold;
	uint64_t outage_bound, hold_bound; /* 0 = this schedule states none */
	unsigned promotions, forced, splits, protections, losses, boots;
	unsigned migrations, handed, taken_back, cancels;
};

/* world.c */
void world_init(struct world *w, uint64_t seed);
uint64_t chance_u64(struct world *w);
uint64_t chance_below(struct world *w, uint64_t n);
uint64_t chance_between(struct world *w, uint64_t low, uint64_t high);
bool chance_percent(struct world *w, unsigned percent);
/* To happen `after` nanoseconds from now, unless what `scope` names has ended by then. */
void world_push(struct world *w, uint64_t after, struct event ev);
bool world_step(struct world *w, uint64_t until);
void world_clear(struct world *w);
void trace(struct world *w, int host, const char *fmt, ...) PRINTF(3, 4);
bool violate(struct world *w, enum violation_kind kind, const char *fmt, ...) PRINTF(3, 4);

/* net.c */
int net_dial(struct world *w, int from, enum link_id link, int session, uint64_t term);
void net_send(struct world *w, int conn, int from, unsigned stream, const struct message *m);
void net_close(struct world *w, int conn, int side);
void net_cut(struct world *w, enum link_id link, int from, bool cut);
void message_free(struct message *m);

/* guest.c */
void guest_boot(struct world *w, struct guest *g);
void guest_twin(struct world *w, struct guest *g);     /* an empty one, to be filled */
bool guest_wake(struct world *w, struct guest *g);     /* a filled twin becomes a guest */
unsigned guest_step(struct world *w, struct guest *g); /* how many outputs it has made */
void guest_watch(struct guest *g);                     /* log-dirty, from none on */
struct page_set guest_harvest(struct guest *g);
unsigned guest_pages(const struct guest *g);
struct page_set pages_between(unsigned from, unsigned to);
void pages_merge(struct page_set *into, struct page_set from);
void guest_pack(struct world *w, const struct guest *g, struct page_set pages, unsigned stream,
		struct cargo *c);
void guest_apply(struct guest *g, const struct cargo *c, unsigned from, unsigned to);
uint64_t guest_print(const struct guest *g, struct blob machine);
uint64_t engine_frame(const struct engine_guest *e, unsigned nth); /* of the last step */
int lineage_branch(struct world *w, const struct guest *g);
bool lineage_contains(const struct world *w, const struct guest *g, int lineage, uint64_t number);

/* engine.c: the same for a vm of the engine sim */
struct engine_guest *engine_open(struct world *w);
bool engine_boot(struct engine_guest *e);
bool engine_wake(struct world *w, struct engine_guest *e, struct blob machine);
unsigned engine_step(struct world *w, struct engine_guest *e);
void engine_watch(struct engine_guest *e);
void engine_harvest(struct engine_guest *e, struct page_set *out);
uint8_t *engine_page(struct engine_guest *e, unsigned page, size_t *len);
struct blob engine_machine(struct world *w, struct engine_guest *e);
void engine_close_all(struct world *w);
void *keep(struct world *w, size_t n); /* memory until the schedule ends */

/* primary.c */
void primary_boot(struct world *w, int host, uint64_t term);
void primary_take_over(struct world *w, int host); /* a promoted twin begins to run */
void primary_session(struct world *w, int host, uint64_t term, bool handover);
void primary_feed(struct world *w, int host, struct primary_input in);
void primary_receive(struct world *w, int host, const struct message *m);
void primary_end_guest(struct world *w, int host);

/* standby.c */
void standby_create(struct world *w, int host, uint64_t term);
void standby_feed(struct world *w, int host, struct standby_input in);
void standby_receive(struct world *w, int host, const struct message *m);
void standby_dialled(struct world *w, int host, const struct message *m);
bool standby_is_whole(const struct proc *p);
void standby_promote(struct world *w, int host, uint64_t term, bool load_only);

/* agent.c */
void agent_start(struct world *w, int host);
void agent_feed(struct world *w, int host, struct ownership_input in);
void agent_receive(struct world *w, int host, const struct message *m);
void agent_dialled(struct world *w, int host, const struct message *m);
/* From the host's vm process, a moment later. */
void agent_tell(struct world *w, int host, enum ownership_event type, uint64_t term, bool reset);
uint64_t local_delay(struct world *w, int host);

/* host.c */
void host_boot(struct world *w, int host);
void host_crash(struct world *w, int host, const char *why);
void host_freeze(struct world *w, int host, uint64_t ns);
void proc_begin(struct world *w, int host, enum proc_role role, uint64_t term);
void proc_end(struct world *w, int host, const char *why);
void agent_end(struct world *w, int host);
/* Before each action of a core: power may fail here. False: it did. */
bool host_acts(struct world *w, int host, uint64_t gen, enum scope scope);
uint64_t host_gen(const struct host *h, enum scope scope);

/* faults.c */
void faults_plan(struct world *w);
void faults_agent_ends(struct world *w, int host); /* and is started again later */
void faults_end(struct world *w); /* heal all; operators help; from here all must become well */

/* observer.c */
void observe_output(struct world *w, int host, const struct output *o);
void observe_start(struct world *w, int host, const char *how);
void observe_commit(struct world *w, int host, uint64_t epoch);
void observe_promotion(struct world *w, int host);
void observe_death(struct world *w, int host);
void observe_kill(struct world *w, int host);
void observe_broken(struct world *w, int host);
void observe_pass(struct world *w, int host);
void observe_step(struct world *w);
void observe_resume(struct world *w, int host); /* of a copy that was frozen */
void observe_retire(struct world *w, int host);
void observe_drop(struct world *w, int host);
bool observe_settled(struct world *w);
bool observe_no_vm(const struct world *w);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A VM as polluxd knows it, in whatever role it has on this host. What may be done
 * with it is decided by ownership.h; here the decisions are carried out: records
 * stored, words sent, VM processes started, promoted and ended.
 *
 * Every event goes through guest_feed(), which keeps a queue: what an action causes
 * at once (a write that fails, a process that does not start) is an event behind
 * the actions of the event before it.
 */
#ifndef POLLUX_AGENT_GUEST_H
#define POLLUX_AGENT_GUEST_H

#include <jansson.h>
#include <limits.h>
#include <sys/queue.h>

#include "agent/host.h"
#include "agent/json_text.h"
#include "agent/ownership.h"
#include "agent/peer_message.h"
#include "agent/record_file.h"
#include "agent/timeline.h"
#include "agent/vm_child.h"
#include "channel/channel.h"
#include "hypervisor/hypervisor.h"

#define GUEST_CONFIG_MAX (64u * 1024) /* text of a VM file */

enum operation_state { OPERATION_NONE, OPERATION_RUNNING, OPERATION_DONE, OPERATION_FAILED };
struct operation {
	uint64_t id;
	const char *what; /* static */
	enum operation_state state;
	int code;
	char error[512];
	char hint[512];       /* "": none */
	uint64_t downtime_ns; /* of an upgrade that is done */
};

/* How it was protected, for a standby that is lost and comes back. */
struct protect_again {
	bool wanted;
	bool owed; /* it was taken away to move the VM, or its twin: stored until it is back */
	char peer[AGENT_NAME_MAX + 1];
	struct protect_options options;
	uint64_t wait_ns, protected_ns;
};

/* A migration from this host, the last or the one under way. */
struct migration {
	json_t *wishes;                 /* as "migrate" in vm-process.h */
	json_t *last;                   /* what the process said last of how it goes */
	json_t *sent;                   /* as in vm-process.h: before it was handed over */
	uint64_t postcopy_bytes;        /* and since, on the wire */
	bool session;                   /* the process says that its session is one */
	uint64_t began_ns, frozen_ns;   /* clock_ns(); 0 = not yet */
	bool postcopy, served;          /* pages were left behind; and have all been sent */
	bool cancelled;                 /* by an operator; in time if it fails */
	uint64_t downtime_ns, total_ns; /* when it has succeeded */
	uint64_t forecast_ns, fixed_ns; /* of the downtime, when it was decided; not of pages */
	/* guest_forecast.c */
	uint64_t probe, probe_ns; /* the one under way, 0 = none; since when */
	uint64_t chain_ns, peer_store_ns;
	bool rehearses;     /* the pause waits for this: */
	unsigned walk;      /* its number, from 1; 0: the probe under way is an older one */
	uint64_t walked_ns; /* of those that count */
	uint64_t pause_ns, transfer_ns, released_ns, took_heard_ns; /* until sealed; whole there */
	struct word_took took;
	char end_why[160]; /* as in vm-process.h; "": as was wished for */
};
/* What an operator may choose for one. */
struct migrate_options {
	bool with_disks, overwrite, assume_same, check, postcopy_only;
	unsigned bandwidth_mb, streams, downtime_ms, most_downtime_ms, most_s, throttle_max,
		rounds_max, postcopy_after;
	char compression[16], stuck[16];
};

/* What is measured before a migration, to tell how it will go: guest_measure.c. */
struct forecast {
	struct migrate_options options;
	char to[AGENT_NAME_MAX + 1];
	struct burst_key burst; /* drawn for this one */
	bool vm_waits, link_waits;
	json_t *vm; /* what the process has measured; NULL: vm_why */
	uint64_t link_rate, disk_bytes;
	char vm_why[192], link_why[192]; /* why not */
};

/* A core of the VM: guest_dump.c. */
struct guest_dump {
	bool paging, live;
	int fd; /* the socket that is listened on, then that of the client; -1: neither */
	struct loop_watch *watch;
	struct loop_timer *timer;
	bool listening, begun; /* begun: the VM process was asked, and has not told the end */
	bool over;             /* the one under way, and how: */
	int code;
	char error[512];
	json_t *result; /* of the last one that was written; or NULL */
};

/* What the other host is asked before a migration. */
struct question {
	uint64_t number; /* of the one that waits for its answer; 0 = none */
	char to[AGENT_NAME_MAX + 1];
	struct loop_timer *timer;
	json_t *copied;   /* the offer that was asked about, if disks are to be copied */
	json_t *refusals; /* of this host: [reason]; or NULL */
	json_t *result;   /* the last answer, and those */
};

/* What a VM process says of the program that it is. */
struct program {
	char engine[16], build[64];
	json_t *sections; /* of state, that it writes; NULL: it does not say */
	bool takes_disks; /* it knows a session of which some disks are not copied */
};

struct guest_image; /* guest_image.c */

/* An operation that begins with the end of a protection. */
enum chain_what { CHAIN_NONE, CHAIN_MIGRATE, CHAIN_PROTECT, CHAIN_UPGRADE };
struct chain {
	enum chain_what what; /* is still to come */
	char to[AGENT_NAME_MAX + 1], standby[AGENT_NAME_MAX + 1];
	struct migrate_options migrate;
	struct protect_options protect;
	struct protect_again then; /* how it shall be protected when it has arrived, or else
				      again on `standby` */
	bool cancelled;            /* while its protection was ending */
};

enum child_role { CHILD_NONE, CHILD_VM, CHILD_REPLICA, CHILD_SERVING, CHILD_LEAVING };

struct upgrade;
struct guest_event;
STAILQ_HEAD(guest_event_list, guest_event);

struct guest {
	struct agent *agent;
	LIST_ENTRY(guest) entry;
	char name[VM_NAME_MAX + 1];
	char peer[AGENT_NAME_MAX + 1];      /* the other host, "" = none yet */
	char identity[VM_IDENTITY_LEN + 1]; /* drawn at its first start; "" = not known */
	char *config, *origin;              /* the VM file; NULL: only terms are known */
	unsigned copies; /* bit i: disk i here is a copy of an earlier session: may be written over
			  */
	struct record_file record_file;
	struct ownership own;
	struct guest_event_list events;
	bool feeding;
	struct loop_timer *tick;
	char why[256]; /* of the last ownership report, or what went wrong */

	struct session session; /* primary: own; standby: that of the twin */
	struct offer *offer;    /* standby: the newest that the peer has made, or NULL */
	char refusal[512];      /* standby: why the last session could not be had */

	struct vm_child *child;
	enum child_role child_role;
	char child_state[24], child_why[256];    /* as the process reported */
	struct program program;                  /* the process's */
	struct upgrade *upgrade;                 /* under way, or NULL */
	bool quit_asked, cut_asked, stats_asked; /* not yet answered */
	bool stats_past;                         /* what was asked is of a session that is over */
	bool still;                              /* it was told to go on, and could not yet */
	uint64_t told_ns;    /* when it was told to; 0 = what it was told lets it wait */
	bool vm_ended;       /* the guest has powered off or crashed; the process is still there */
	bool replica_up;     /* the replica waits for its streams */
	bool starting;       /* a loaded twin was told to run, and has not answered */
	bool accept_owed;    /* ...and the peer is to be told then */
	uint64_t start_owed; /* a process for this term, when the last one is gone */
	uint64_t lost_ns;    /* when the loss under way was detected, 0 = none */
	json_t *stats;       /* the last that the process said */
	uint64_t stats_ns;
	struct loop_timer *stop_timer, *again_timer;
	struct protect_again again;
	bool stopping;
	bool retiring; /* it runs elsewhere, this copy ends */
	bool serving;  /* ...when it has sent what is missing of its memory there; stored */
	unsigned postcopy_streams; /* as the process says */
	bool late;                 /* the session's streams come to a VM that runs here already */
	bool complete;             /* ...and all of its memory has come */
	bool gone;                 /* such a VM is off, or was stopped */
	struct session recovery;   /* of a link that was cut, until the process has its keys */
	char postcopy[16];         /* how its process says that goes; "" = all memory is here */
	struct migration migration;
	struct {
		uint64_t probe;           /* that is being answered */
		unsigned echoes;          /* that are missing for that */
		uint64_t heard_ns;        /* when RELEASED was heard first */
		uint64_t load_ns, run_ns; /* when the process was asked to */
		struct word_took took;
	} arrival;         /* a migration to this host */
	uint64_t store_ns; /* that its last store took */
	struct chain chain;
	struct {
		struct question q;
		uint64_t operation; /* that it is for */
		bool answered;      /* and only what is measured is still to come */
	} check;
	struct {
		struct question q;
		struct operation operation; /* a check */
	} beside;                           /* asked while another operation is under way */
	struct describe *describes;         /* of both: guest_check.c */
	struct forecast forecast;
	struct guest_image *image; /* a save or restore that is under way */
	char *torn;                /* the snapshot of which its disks may be half; NULL: none */
	char *saved;               /* the file in which it is; NULL: it is not */
	uint64_t disks_term;       /* the term under which its disks were last written */
	int console_fd;
	struct loop_watch *console_watch;

	struct guest_dump dump;

	struct operation operation, ended; /* ended: the one before it */
	struct timeline timeline;
};

/* ---- guest.c ------------------------------------------------------------ */
bool guest_name_ok(const char *name);
struct guest *guest_find(struct agent *a, const char *name);
int guest_create(struct agent *a, const char *name, struct guest **out, struct error *e) MUST_CHECK;
void guest_free(struct guest *g);
/* Anything that is not an operator's word: an event that the state refuses is logged. */
void guest_feed(struct guest *g, const struct ownership_input *in);
void guest_feed_type(struct guest *g, enum ownership_event type);
/* An operator's word: 0 or what ownership_event() says. */
int guest_ask_ownership(struct guest *g, const struct ownership_input *in) MUST_CHECK;
void guest_fenced(struct guest *g, unsigned id, bool confirmed, const char *text);
/* Another host is the other side now; only when no session is under way. */
void guest_peer_set(struct guest *g, const char *peer);
void guest_policy_set(struct guest *g, const char *policy);
void guest_why(struct guest *g, const char *fmt, ...) PRINTF(2, 3);
/* `side` is what a session calls the other one: "the standby", "the primary". Of a migration its
 * host is named in place of that. */
void guest_migration_why(struct guest *g, const char *side, const char *why);
void guest_lost_why(struct guest *g, const char *side, bool migration, const char *why);

/* ---- guest_store.c --------------------------------------------------------- */
int guest_store(struct guest *g, const struct ownership_record *record, struct error *e) MUST_CHECK;
/* Make a guest of each record in state_dir. One that cannot be read fails all: a term
 * must not be forgotten. */
int guests_load(struct agent *a, struct error *e) MUST_CHECK;
int guest_record_parse(const char *text, size_t n, struct guest *g, struct ownership_record *record,
		       struct error *e) MUST_CHECK;
int guest_config_set(struct guest *g, const char *text, const char *origin) MUST_CHECK;
/* A VM file; the caller frees `out`, NULL after an error. On any thread. */
int guest_config_parse(const char *text, const char *origin, struct vm_config **out,
		       struct error *e) MUST_CHECK;

/* ---- guest_vm.c: its process --------------------------------------------------- */
void guest_vm_start(struct guest *g, uint64_t term);
/* fn(): of "boot" or "go"; and what ends a start that has failed. */
void guest_vm_booted(void *ctx, int rc, const json_t *reply, const char *text);
void guest_start_failed(struct guest *g, int code, const char *text, const char *hint);
void guest_vm_kill(struct guest *g);
void guest_vm_end(struct guest *g); /* the guest is off: end the process in good order */
void guest_session_start(struct guest *g, uint64_t term);
void guest_ownership_tell(struct guest *g, const char *answer);
/* End the session in good order. Also before one has begun: then there is nothing to end. */
void guest_session_end(struct guest *g, vm_child_reply_fn *fn);
/* In fn: it has ended. False: the answer is so late that ownership has a newer term. */
bool guest_session_ended(struct guest *g, const json_t *reply);
void guest_session_over(struct guest *g); /* so that ownership hears of it */
/* Count the session as lost, for the standby does; a process that hangs is killed. */
void guest_session_cut(struct guest *g);
/* Find a process of an earlier polluxd. An error: there may be one. */
int guest_vm_attach(struct guest *g, bool *alive, struct error *e) MUST_CHECK;
void program_take(struct program *p, const json_t *said); /* in place of what it was */
void program_move(struct program *to, struct program *from);
/* But for the engine, which is told also of a VM that is off. */
void program_forget(struct program *p);
void guest_vm_stats(struct guest *g); /* ask; g->stats follows */
void guest_stats_forget(struct guest *g);
/* There is none: while the last one is leaving, set start_owed. */
int guest_child_start(struct guest *g, enum child_role role, struct error *e) MUST_CHECK;
/* fn hears also when not even asking was possible. */
void guest_child_ask(struct guest *g, json_t *request, uint64_t timeout_ns, vm_child_reply_fn *fn);
json_t *guest_create_request(const struct guest *g, const char *role);
json_t *guest_session_request(const struct session *s, const char *what);

/* ---- guest_migrate.c ------------------------------------------------------------------- */
int migrate_options_parse(const json_t *o, struct migrate_options *out, struct error *e) MUST_CHECK;
int guest_migrate_begin(struct guest *g, const char *to, const struct migrate_options *o,
			struct error *e, const char **hint) MUST_CHECK;
/* Whether it may be asked for at all. */
int guest_migrate_possible(struct guest *g, const char *to, struct error *e,
			   const char **hint) MUST_CHECK;
/* All that speaks against that on this host: the reasons of an answer (preflight.h). */
json_t *guest_migrate_refusals(struct guest *g, const char *to);
int guest_migrate_cancel(struct guest *g, struct error *e, const char **hint) MUST_CHECK;
/* Into the request for the session. */
void guest_migration_put(const struct guest *g, json_t *request);
/* What the process says of its state, before it is acted upon. */
void guest_migration_note(struct guest *g, const json_t *message);
/* The session was begun by an earlier polluxd: its end is that of an operation here. */
void guest_migration_found(struct guest *g);
void guest_migrated(struct guest *g);      /* the other host owns it */
void guest_migrate_check(struct guest *g); /* has the operation ended? */
json_t *guest_migration_json(const struct guest *g);
const char *guest_migrate_phase(const struct guest *g); /* while it is checked, or under way */
void guest_migration_free(struct guest *g);
/* Of its downtime, whatever is sent. */
uint64_t guest_migrate_fixed_ns(const struct agent *a);

/* Its hello says that it understands that. */
bool guest_peer_can(const struct peer *p, const char *what);

/* ---- guest_forecast.c: what a downtime is made of --------------------------------------- */
void guest_probe(struct guest *g);    /* a migration goes on: now and then */
void guest_rehearse(struct guest *g); /* and its pause is about to come */
void guest_probe_message(struct agent *a, struct peer *from, const json_t *message);
void guest_released_said(struct guest *g);
void guest_released_heard(struct guest *g);
json_t *guest_took_json(const struct guest *g); /* NULL: it did not arrive by RELEASED */
void guest_took(struct guest *g, const struct word_took *took);
void guest_handover_learn(struct guest *g);
json_t *guest_handover_json(const struct migration *m);

/* ---- guest_image.c: saved images ------------------------------------------------------- */
struct save_options {
	const char *file, *key_file; /* key_file NULL: in the clear */
	const char *compression;     /* NULL: a default */
	bool keep, overwrite;
	bool snapshot; /* `file` is in a folder that takes the disks, and ends in .partial */
};
int guest_save(struct guest *g, const struct save_options *o, struct error *e,
	       const char **hint) MUST_CHECK;
struct restore_options {
	const char *file, *key_file;
	bool forced, lazy; /* lazy: it runs before its memory is read */
	bool snapshot;     /* its disks are put back from the folder of the file */
};
int guest_restore(struct agent *a, const struct restore_options *o, struct guest **out,
		  struct error *e, const char **hint) MUST_CHECK;
int guest_image_cancel(struct guest *g, struct error *e, const char **hint) MUST_CHECK;
void guest_image_event(struct guest *g, const json_t *message);
bool guest_image_restoring(const struct guest *g);
bool guest_image_lazy(const struct guest *g); /* ...and lazily */
void guest_image_load(struct guest *g);       /* instead of a boot */
void guest_image_check(struct guest *g);
/* The process has ended: whatever was not done never will be. */
void guest_image_drop(struct guest *g);
/* polluxd was restarted after a save was decided, and before all of it was done. */
void guest_image_finish(struct guest *g);
const struct vm_child_events *guest_child_events(struct guest *g, struct vm_child_events *out);
void guest_control_path(const struct guest *g, char out[PATH_MAX]);

/* ---- guest_upgrade.c: another VM process takes the VM over ------------------------------- */
int guest_upgrade_begin(struct guest *g, struct error *e) MUST_CHECK;
/* g->child has ended. True: it was not the VM any more, or g->child is another one now. */
bool guest_upgrade_ended(struct guest *g);
void guest_upgrade_kill(struct guest *g); /* the VM is to end, whichever process has it */
void guest_upgrade_free(struct guest *g);

/* ---- guest_chain.c: what begins with the end of a protection ------------------------------ */
bool guest_is_protected(const struct guest *g);
/* Where it shall be protected when it has arrived on `to`; NULL: nowhere. */
const char *guest_chain_then_on(const struct guest *g, const char *to);
int guest_migrate(struct guest *g, const char *to, const struct migrate_options *o, struct error *e,
		  const char **hint) MUST_CHECK;
/* It is protected; by another host than until now. */
int guest_standby_move(struct guest *g, const char *to, const struct protect_options *o,
		       struct error *e, const char **hint) MUST_CHECK;
int guest_chain_upgrade(struct guest *g, struct error *e, const char **hint) MUST_CHECK;
/* The upgrade is done. True: the operation goes on with the protection that was taken away. */
bool guest_chain_upgraded(struct guest *g);
/* An upgrade with a protection to be made again is under way, or has failed and is not over. */
bool guest_chain_owes(const struct guest *g);
void guest_migrate_checked(struct guest *g); /* nothing is in its way */
/* Before the migration itself has begun: true, and it never will. */
bool guest_chain_cancel(struct guest *g);
bool guest_chain_check(struct guest *g);
void guest_chain_undo(struct guest *g);
void guest_chain_arrived(struct guest *g, const struct protect_again *then);

/* ---- guest_check.c: what is in the way -------------------------------------------------- */
/* The other host can be asked, also when this one refuses. */
bool guest_check_can_ask(const struct guest *g, const char *to);
bool guest_check_reaches(const struct guest *g, const char *to); /* were nothing else under way */
/* Its question, under that number, as soon as it is known what it needs. */
int guest_describe(struct guest *g, const char *to, const struct migrate_options *o,
		   uint64_t number) MUST_CHECK;
/* The reasons of this host come first, and one is enough; none: nothing. */
void guest_refusals_join(json_t *refusals, json_t *result);
/* An answer without a result: why. */
void guest_answer_lacks(const json_t *message, char *out, size_t room);
json_t *guest_unanswered_json(const char *text, const char *hint); /* in place of an answer */
void guest_question_wait(struct question *q);                      /* for its answer, for a while */
void guest_question_free(struct question *q);
/* An answer about an offer in which disks are to be copied, or NULL: what neither end can do. */
void guest_answer_join(const struct guest *g, const struct peer *from, const json_t *copied,
		       json_t *result);
int guest_check_begin(struct guest *g, const char *to, const struct migrate_options *o,
		      struct error *e) MUST_CHECK;
/* The operation under way waits for the other host, for a while; and no more. */
void guest_answer_wait(struct guest *g);
void guest_answer_came(struct guest *g);
void guest_check_peer_up(struct guest *g, struct peer *p);
void guest_check_message(struct agent *a, struct peer *from, const json_t *message);
void guest_check_free(struct guest *g);

/* The answer has come, or will not. */
void guest_check_go_on(struct guest *g);
bool guest_check_is(const struct guest *g, uint64_t number);

/* ---- guest_beside.c: the same beside another operation ---------------------------------- */
int guest_beside_begin(struct guest *g, const char *to, const struct migrate_options *o) MUST_CHECK;
bool guest_beside_is(const struct guest *g, uint64_t number);
void guest_beside_answer(struct guest *g, const struct peer *from, const json_t *message);
void guest_beside_unanswered(struct guest *g, const char *text);
json_t *guest_beside_json(const struct guest *g); /* guest_json.c */

/* ---- guest_measure.c: how long it will take ---------------------------------------------- */
void guest_forecast_begin(struct guest *g, const char *to, const struct migrate_options *o);
/* What the other host needs to know for it; a new object. */
json_t *guest_forecast_burst(struct guest *g);
/* The other host is ready, or why not: "" when it has not said. */
void guest_forecast_link(struct guest *g, bool possible, const char *why);
void guest_forecast_event(struct guest *g, const json_t *message);
bool guest_forecast_waits(const struct guest *g);
json_t *guest_forecast_json(const struct guest *g);
json_t *guest_forecast_warning(const struct guest *g, const json_t *forecast); /* or NULL */
void guest_forecast_free(struct guest *g);

/* ---- guest_postcopy.c: memory that follows ---------------------------------------------- */
void guest_serve(struct guest *g); /* the process has something to send still */
void guest_postcopy_event(struct guest *g, const json_t *message);
void guest_postcopy_found(struct guest *g, const json_t *stats);
/* Which pages are where, and what to do about it. */
json_t *guest_postcopy_json(const struct guest *g);
/* The link was cut: it stands still here until its memory comes. */
bool guest_memory_missing(const struct guest *g);
/* It has ended here in good order: what is still held of its memory is of no use any more. */
void guest_late_ended(struct guest *g);
void guest_serving_lost(struct guest *g, const char *how);
/* An operator gives up what it serves. */
void guest_serving_give_up(struct guest *g);
void guest_recover_message(struct agent *a, struct peer *from, const json_t *message);
int guest_recover_send(struct guest *g) MUST_CHECK; /* its keys, to the target */
int guest_migrate_recover(struct guest *g, struct error *e, const char **hint) MUST_CHECK;

/* ---- guest_snapshot.c --------------------------------------------------------------------- */
int guest_snapshot(struct guest *g, const char *name, struct error *e,
		   const char **hint) MUST_CHECK;
int guest_rollback(struct guest *g, const char *name, struct error *e,
		   const char **hint) MUST_CHECK;
int guest_snapshot_delete(struct guest *g, const char *name, struct error *e,
			  const char **hint) MUST_CHECK;
json_t *guest_snapshots_json(const struct guest *g);
void snapshot_remove(const char *folder);
int snapshot_name(const char *partial) MUST_CHECK; /* from NAME.partial to NAME */

/* ---- guest_again.c: protection that was lost is made anew -------------------------------- */
void guest_again_note(struct guest *g);       /* it is protected */
void guest_again_later(struct guest *g);      /* it lost that */
void guest_again_soon(struct guest *g);       /* it had to give that up for a while */
void guest_again_forget(struct guest *g);     /* and nobody wants it */
bool guest_again_will(const struct guest *g); /* it is tried when it can be */
/* It is not protected, and polluxd is to change that: on which host, if it stays on this one. */
bool guest_again_owed(const struct guest *g, struct protect_again *out);
void guest_again_found(struct guest *g);         /* ...by an earlier polluxd */
json_t *guest_again_json(const struct guest *g); /* NULL: it is protected, or nobody wants it */

/* ---- guest_console.c: run_dir/NAME.console hands each who connects to the VM process ---- */
void guest_console_open(struct guest *g);
void guest_console_close(struct guest *g);
/* Who connects waits until it is `on` again. */
void guest_console_serve(struct guest *g, bool on);

/* ---- guest_dump.c: a core of the VM -------------------------------------------------------- */
int guest_dump_core(struct guest *g, bool paging, bool live, struct error *e,
		    const char **hint) MUST_CHECK;
void guest_dump_check(struct guest *g);
void guest_dump_event(struct guest *g, const json_t *message);
void guest_dump_end(struct guest *g); /* the process is gone */
void guest_dump_free(struct guest *g);
json_t *guest_dump_json(const struct guest *g);

/* ---- guest_replica.c: the process of a standby ------------------------------------------- */
void guest_replica_create(struct guest *g, uint64_t term);
void guest_replica_drop(struct guest *g);
void guest_load(struct guest *g, uint64_t term);
void guest_promote(struct guest *g, uint64_t term);
void guest_replica_event(struct guest *g, const json_t *message);
void guest_stream(struct guest *g, uint16_t stream, int fd); /* takes over fd */

/* ---- guest_disks.c ---------------------------------------------------------------- */
/* The VM file's disks as they are on this host. */
int guest_disks_describe(const struct guest *g, struct offer *out, struct error *e) MUST_CHECK;
/* Standby: see that each disk is there with that size; make what is missing. */
int guest_disks_prepare(const struct guest *g, const struct offer *o, struct error *e) MUST_CHECK;

/* ---- guest_words.c: with the other polluxd ------------------------------------------ */
void guest_tell(struct guest *g, enum ownership_word word, uint64_t term, bool can_fence);
void guest_message(struct agent *a, struct peer *from, const json_t *message);
/* Choose id and key for the session of the next term. */
int guest_session_make(struct guest *g, const struct protect_options *o,
		       struct error *e) MUST_CHECK;

/* ---- guest_operate.c: what an operator asks ------------------------------------------- */
void guest_operation_begin(struct guest *g, const char *what);
void guest_operation_done(struct guest *g);
/* One that has ended is no news of a VM that runs anew. */
void guest_operation_past(struct guest *g);
bool guest_operation_is(const struct guest *g, const char *what); /* and it runs */
/* Nobody else can have the VM any more, and its process has not said yet that it goes on;
 * which it was told a moment ago, and does unless it cannot. */
bool guest_stands_still(const struct guest *g);
bool guest_goes_on(const struct guest *g);
/* 0, or why no other operation can begin now; whether the peer is there. */
int guest_busy(const struct guest *g, struct error *e, const char **hint) MUST_CHECK;
int guest_peer_ready(struct guest *g, const char *to, struct error *e,
		     const char **hint) MUST_CHECK;
/* Set error and hint; `rc` again. */
int guest_refuse(struct error *e, const char **hint, int rc, const char *hint_text, const char *fmt,
		 ...) PRINTF(5, 6);
int guest_of_config(struct agent *a, const char *text, const char *origin, struct guest **out,
		    struct error *e) MUST_CHECK;
int guest_identity_draw(struct guest *g) MUST_CHECK;
int guest_start_refused(struct guest *g, int rc, struct error *e, const char **hint) MUST_CHECK;
/* 0: begun, see g->operation. -errno with the reason in `e` and perhaps a hint. */
int guest_start(struct agent *a, const char *config, const char *origin, bool forced,
		struct guest **out, struct error *e, const char **hint) MUST_CHECK;
int guest_protect(struct guest *g, const char *to, const struct protect_options *o, struct error *e,
		  const char **hint) MUST_CHECK;
int guest_unprotect(struct guest *g, struct error *e, const char **hint) MUST_CHECK;
int guest_failover(struct guest *g, bool forced, struct error *e, const char **hint) MUST_CHECK;
/* again: also one that is protected, which it is not until that is made again. */
int guest_upgrade(struct guest *g, bool again, struct error *e, const char **hint) MUST_CHECK;
int guest_stop(struct guest *g, bool forced, unsigned timeout_s, struct error *e,
	       const char **hint) MUST_CHECK;
/* Look whether what happened ends the operation under way. */
void guest_operation_check(struct guest *g);
void guest_operation_fail(struct guest *g, int code, const char *text, const char *hint);
/* The guest itself is off (clean = power off). */
void guest_vm_ended(struct guest *g);

/* ---- guest_json.c --------------------------------------------------------------------- */
const char *guest_state_name(const struct guest *g);
json_t *guest_json(const struct guest *g, bool full);

#endif

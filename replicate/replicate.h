// SPDX-License-Identifier: Apache-2.0
/*
 * replicate/: checkpoints of a running vm to a hot standby, epoch by epoch.
 *
 *   primary  pause -> state -> harvest -> copy -> resume -> encode -> send
 *   standby  stage -> verify -> acknowledge -> commit
 *   primary  on acknowledge: the epoch's output leaves (netbuf_release)
 *
 * When an epoch ends is a policy, a pure function of statistics (policy.h):
 * interval (Remus, NSDI 2008) or event (Kemari, 2008: when the guest makes output).
 * What happens next is decided by the sans-I/O core (core.h), which the simulation
 * drives through crashes and partitions; this header is the same core with real
 * threads, sockets and a real vm.
 *
 * Who owns the vm is not decided here. On loss of the other side the owner of
 * this object is asked, and answers: see ownership in agent/.
 */
#ifndef POLLUX_REPLICATE_H
#define POLLUX_REPLICATE_H

#include "channel/channel.h"
#include "hypervisor/hypervisor.h"

enum replicate_mode { REPLICATE_INTERVAL, REPLICATE_EVENT };
enum standby_loss_policy { STANDBY_LOSS_CONTINUE, STANDBY_LOSS_STALL };
/* AUTO: none or lz4, as each stream finds that it takes less time (compress_choice.h). */
enum page_compression { COMPRESS_NONE, COMPRESS_LZ4, COMPRESS_ZLIB, COMPRESS_AUTO };

/* A migration's precopy: what comes after a round of the first copy is decided by whoever
 * migrates, from the numbers of that round. */
struct replicate_round {
	unsigned round;      /* that has been sent, from 1 */
	uint64_t pages, ns;  /* it had, and took */
	uint64_t bytes;      /* on the wire since it began, disks included */
	uint64_t dirty;      /* pages that were written since, and wait to be sent */
	uint64_t elapsed_ns; /* since the first round began */
	bool members_synced; /* disks are copied, and what they gave has been sent */
	bool members_copied; /* they are, but it may not: after one more round it has */
	uint64_t paced_ns;   /* of `ns`: what streams waited for a limit of bandwidth alone */
	uint64_t queued; /* bytes that disks have given and that were not sent yet: they go first */
};
enum replicate_next {
	NEXT_ROUND,    /* send what is dirty */
	NEXT_WAIT,     /* nothing until disks are copied, then ask again */
	NEXT_LINK,     /* nothing: what comes next waits, for a link say, so ask again very soon */
	NEXT_COUNT,    /* nothing: ask again at once, with what is dirty by now */
	NEXT_SEAL,     /* the last epoch; only when members_synced */
	NEXT_POSTCOPY, /* the same, without the pages that are dirty: the other side is told
			  which they are, and gets them afterwards, by other means */
	NEXT_STOP,     /* give up, in good order */
};

struct replicate_config {
	enum replicate_mode mode;
	enum standby_loss_policy policy;
	enum page_compression compression;
	uint64_t interval_ns;  /* interval mode: an epoch's length; event mode: the longest one */
	uint64_t heartbeat_ns; /* one is sent this often, from a thread of its own */
	uint64_t loss_ns;      /* silence for this long is a loss */
	unsigned streams;      /* bulk streams, 1..16 */
	unsigned window;       /* epochs sealed but not acknowledged, at most */
	uint64_t delta_bytes;  /* memory for the last version sent of pages; 0 = no XOR delta */
	uint64_t bytes_per_second; /* of the first copy, memory and disks together; 0 = no limit.
				    * What the guest writes to its disks meanwhile comes on top */
	bool handover; /* a migration: epoch 1 is the last, and leaves the guest standing still */
	/* With handover: what the guest's disk requests may keep it in that pause. If it takes
	 * longer the guest goes on, one more round is made and next() asked again; what had been
	 * NEXT_POSTCOPY stays so. 0 = VM_PAUSE_IDLE_NS. */
	uint64_t idle_ns;
	/* With handover: a round that is on after so long of copying ends early, and next() is
	 * asked; what it has not sent is dirty again. A last epoch that cannot be sealed within
	 * 2 s of then, or of its first try if that was later, ends the session. 0 = no limit. */
	uint64_t most_ns;
	bool copy_none; /* with handover: rounds have no pages, all of them stay dirty */
	/* With handover: on the epoch thread, no lock held. */
	enum replicate_next (*next)(void *ctx, const struct replicate_round *round);
	void *next_ctx;
	bool held;     /* an earlier session ended LOST, without an ownership answer: its output is
			  held still, and only an epoch of this session may let it go */
	uint64_t term; /* ownership term of this session */
	uint8_t session[SESSION_ID_SIZE];
	uint8_t key[SESSION_KEY_SIZE];
	char address[256]; /* primary: where the standby's polluxd listens */
	uint16_t port;
};
void replicate_config_defaults(struct replicate_config *c);
/* Of that limit, what memory may take while members of so many bytes in all are copied beside it,
 * and what one of them may: by size, but for memory an eighth at the least, since its rounds
 * have to keep up with the guest. When they are copied the limit is memory's alone. With
 * `copy_none` no memory goes beside them: members have all of it, which memory 0 says. */
uint64_t bandwidth_of_memory(uint64_t limit, uint64_t memory, uint64_t members);
uint64_t bandwidth_of_member(uint64_t limit, uint64_t memory, uint64_t members, uint64_t size);

/* Something with records of its own in each epoch (a disk). Nothing here knows which. */
struct epoch_member {
	uint16_t id;   /* 1..; the same on both sides */
	uint64_t size; /* of what it mirrors, in bytes; must be equal on both sides */
	void *ctx;
	/* primary */
	int (*start)(void *ctx, int (*emit)(void *emit_ctx, const struct iovec *iov, int n),
		     void *emit_ctx, void (*on_synced)(void *emit_ctx, int rc));
	void (*stop)(void *ctx);
	/* standby; direct = no whole epoch exists yet, apply at once. Records are received on
	 * one thread while another one commits earlier epochs; discard comes when neither runs. */
	int (*receive)(void *ctx, uint64_t epoch, bool direct, const uint8_t *payload, size_t len,
		       struct error *e);
	int (*commit)(void *ctx, uint64_t epoch, struct error *e);
	void (*discard)(void *ctx);
};
#define EPOCH_MEMBERS_MAX 16

/* Outbound output that waits for epochs (a NIC's netbuf). Primary only. */
struct epoch_output {
	void *ctx;
	void (*hold)(void *ctx, uint64_t open_epoch);
	void (*pass)(void *ctx);
	void (*seal)(void *ctx, uint64_t epoch);
	void (*release)(void *ctx, uint64_t acknowledged_epoch);
};
#define EPOCH_OUTPUTS_MAX 8

struct replicate_stats {
	uint64_t epoch;                        /* last sealed (primary), last whole (standby) */
	uint64_t acknowledged;                 /* last acknowledged / committed */
	uint64_t pages, bytes_raw, bytes_sent; /* since the session began */
	uint64_t delta_pages;                  /* of them, on the primary: sent as a difference */
	uint64_t key_updates;                  /* of all streams, either side's */
	uint64_t sync_done, sync_total;        /* memory, this round of the first copy: bytes */
	uint64_t pause_last_ns, pause_max_ns, ack_delay_last_ns;
	struct vm_pause_times last;
	uint64_t pages_last;
};

/* ---- primary ----------------------------------------------------------- */

enum replicator_state {
	REPLICATOR_CONNECTING,
	REPLICATOR_SYNCING, /* first full copy; the vm is not protected yet */
	REPLICATOR_PROTECTED,
	REPLICATOR_FREEZING, /* migration: the guest stands still, its last epoch is on its way */
	REPLICATOR_HANDED,   /* migration: the other side holds all, the guest stands still, and
				ownership is asked for */
	REPLICATOR_LOST, /* the standby is silent or gone: output is held, ownership asked for */
	REPLICATOR_UNPROTECTED, /* ended; output passes; the vm runs */
	REPLICATOR_FENCED,      /* somebody owns a newer term: vCPUs are stopped for good */
};

struct replicator;
struct replicator_events {
	/* From the replicator's threads; do not call back into it from here. */
	void (*state)(void *ctx, enum replicator_state s, const char *why);
	/* At each acknowledgement, for bench and trace; may be NULL. The pause, its parts
	 * and pages_last are those of the epoch that was acknowledged. */
	void (*epoch)(void *ctx, const struct replicate_stats *s);
	void *ctx;
};

/* Connects and begins the first copy, on threads of its own. The vm runs or is about to. */
int replicator_start(struct vm *vm, const struct replicate_config *c,
		     const struct epoch_member *members, unsigned member_count,
		     const struct epoch_output *outputs, unsigned output_count,
		     const struct replicator_events *events, struct replicator **out,
		     struct error *e) MUST_CHECK;
/* Any thread, device lock held or not: the guest has made output (event mode). */
void replicator_output(struct replicator *r);

/* The answer to REPLICATOR_LOST and REPLICATOR_HANDED. */
enum ownership_answer {
	OWNERSHIP_CONFIRMED, /* the standby cannot and will not promote: go on by policy */
	OWNERSHIP_FORCED,    /* an operator says: go on, whatever the policy */
	OWNERSHIP_DENIED,    /* a newer term exists: stop for good */
};
void replicator_ownership(struct replicator *r, enum ownership_answer a);
/* The owner knows that the standby is gone (its host said so): the session is lost now. */
void replicator_cut(struct replicator *r);
/* End in good order: tells the standby (I6), waits until it has confirmed or is gone,
 * releases output. Then only replicator_destroy() is left. */
int replicator_stop(struct replicator *r, uint64_t deadline, struct error *e) MUST_CHECK;
/* After REPLICATOR_HANDED: the pages that the other side lacks (vm_ram_pages() bits), NULL =
 * none. Until replicator_destroy(). */
const uint64_t *replicator_missing(struct replicator *r);
/* clock_ns() of the pause that a handover left behind. */
uint64_t replicator_frozen_at(struct replicator *r);
void replicator_stats(struct replicator *r, struct replicate_stats *out);
/* After a loss without a verdict output stays held, and a vm that was stalled stays so: a
 * next session that begins as `held` goes on from there. */
void replicator_destroy(struct replicator *r);

/* ---- standby ----------------------------------------------------------- */

enum replica_state {
	REPLICA_WAITING,  /* for connections */
	REPLICA_SYNCING,  /* no whole epoch yet: cannot be promoted */
	REPLICA_READY,    /* holds a whole epoch */
	REPLICA_LOST,     /* the primary is silent or gone */
	REPLICA_RELEASED, /* the primary ended in good order: must not promote */
	REPLICA_BROKEN,   /* bad input or a failed commit: must not promote */
	REPLICA_PROMOTED,
};

struct replica;
struct replica_events {
	void (*state)(void *ctx, enum replica_state s, const char *why);
	void *ctx;
};
/* The vm is fresh, its memory all zero: what is zero on the primary is not sent. */
int replica_create(struct vm *vm, const struct replicate_config *c,
		   const struct epoch_member *members, unsigned member_count,
		   const struct replica_events *events, struct replica **out,
		   struct error *e) MUST_CHECK;
/* An accepted socket for `stream` of this session (preamble read); taken over. */
int replica_add_stream(struct replica *r, uint16_t stream, int fd) MUST_CHECK;
/* End the session and make the vm the last whole epoch, under a term newer than the
 * session's: commits what is whole, discards the rest, loads the state. The caller
 * then calls vm_start() and vm_announce(). -EAGAIN: there is no whole epoch. */
int replica_promote(struct replica *r, uint64_t new_term, struct error *e) MUST_CHECK;
void replica_stats(struct replica *r, struct replicate_stats *out);
/* The pages that are still to come, after a promotion; NULL = none. Until replica_destroy(). */
const uint64_t *replica_missing(struct replica *r);
/* After REPLICA_LOST: the primary's kernel closed the connection, so that its host lives
 * though the process that held the vm may not. False: it just fell silent. */
bool replica_peer_closed(struct replica *r);
void replica_destroy(struct replica *r);

/* ---- an epoch as one stream of records, where no session carries it (migrate/) ----
 * EPOCH_BEGIN, PAGES..., STATE, EPOCH_END of docs/protocol.md, all of epoch 1, without deltas. */

enum epoch_record {
	EPOCH_RECORD_BEGIN = 16,
	EPOCH_RECORD_PAGES = 17,
	EPOCH_RECORD_STATE = 19,
	EPOCH_RECORD_END = 20,
};

/* Set the bits of pages that may be other than zero: those that are no holes of the memfd. */
void epoch_pages_touched(const struct vm *vm, uint64_t *map);

/* What it takes to send the vm's pages, seen from at most `most` of them while it runs. */
struct pages_sample {
	uint64_t touched;        /* that may be other than zero */
	unsigned looked, filled; /* of them: looked at; not zero */
	uint64_t bytes, ns;      /* the filled ones on the wire; to look and to encode */
};
int pages_sample(const struct vm *vm, enum page_compression compression, unsigned most,
		 struct pages_sample *out) MUST_CHECK;

struct epoch_writer;
struct epoch_emitted {
	enum epoch_record type;
	const struct iovec *iov; /* the payload */
	int iov_count;
	const uint64_t *pages; /* PAGES: which, in the order of the record */
	unsigned page_count;
};
/* 0 or -errno, which is returned by the call that made the record. */
typedef int epoch_emit_fn(void *ctx, const struct epoch_emitted *r);
int epoch_writer_create(enum page_compression compression, epoch_emit_fn *emit, void *ctx,
			struct epoch_writer **out) MUST_CHECK;
int epoch_writer_begin(struct epoch_writer *w) MUST_CHECK;
/* The guest may be writing the page meanwhile; then it has to be given once more. */
int epoch_writer_page(struct epoch_writer *w, uint64_t page, const uint8_t *bytes) MUST_CHECK;
int epoch_writer_flush(struct epoch_writer *w) MUST_CHECK; /* what was given so far, as a record */
int epoch_writer_finish(struct epoch_writer *w, const void *state, size_t n) MUST_CHECK;
void epoch_writer_destroy(struct epoch_writer *w);

/* `bytes` NULL: all zero. What it returns ends the reading unless 0. */
typedef int epoch_page_fn(void *ctx, uint64_t page, const uint8_t *bytes);
/* One PAGES record, checked before the first page is handed out. */
int epoch_pages_read(const uint8_t *payload, size_t len, uint64_t ram_pages, epoch_page_fn *fn,
		     void *ctx, struct error *e) MUST_CHECK;

/* All records of the epoch in order: their order, and the sum at the end, are checked too. */
struct epoch_reader;
int epoch_reader_create(uint64_t ram_pages, epoch_page_fn *fn, void *ctx,
			struct epoch_reader **out) MUST_CHECK;
int epoch_reader_take(struct epoch_reader *r, uint16_t type, const uint8_t *payload, size_t len,
		      struct error *e) MUST_CHECK;
bool epoch_reader_whole(const struct epoch_reader *r); /* EPOCH_END has come, and agrees */
/* Of a STATE record: the machine state in it. */
int epoch_state_read(const uint8_t *payload, size_t len, const uint8_t **state, size_t *n,
		     struct error *e) MUST_CHECK;
void epoch_reader_destroy(struct epoch_reader *r);

#endif

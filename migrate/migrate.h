// SPDX-License-Identifier: Apache-2.0
/*
 * migrate/: a vm goes elsewhere: to another host, or into a file and out of it again, with
 * the records by which replicate/ sends it to a standby.
 *
 * A migration is a replication whose last epoch hands over ownership: memory is copied in
 * rounds while the guest runs (precopy), the guest stops, what is left follows with the
 * machine's state, and from then on only ownership (agent/ownership.h) decides where it
 * goes on. replicate/ has the epochs; here is what decides about them.
 *
 * Precopy and its convergence follow Clark et al., "Live Migration of Virtual Machines"
 * (NSDI 2005); throttling is what the field calls auto-converge.
 */
#ifndef POLLUX_MIGRATE_H
#define POLLUX_MIGRATE_H

#include <stdatomic.h>

#include "replicate/replicate.h"

/* ---- live migration, source side ----------------------------------------------- */

/* What to do with a guest that writes faster than the link carries, once throttling has
 * come to its end. */
enum migrate_stuck {
	STUCK_GIVE_UP, /* the vm stays at the source */
	STUCK_STOP,    /* stop it if that is within `most_downtime_ns`, else give up */
	STUCK_POSTCOPY,
};

struct migrate_config {
	uint64_t downtime_ns;      /* stop the guest when the forecast is within this */
	uint64_t most_downtime_ns; /* STUCK_STOP */
	uint64_t fixed_ns;     /* part of the downtime that no page causes: pause, state, commit */
	uint64_t most_ns;      /* precopy takes at most this long, then it counts as stuck; 0 = no
				  limit */
	unsigned throttle_max; /* percent, 0 = the guest is never throttled, at most 99 */
	unsigned rounds_max;
	unsigned postcopy_after; /* rounds, then the rest follows the guest; 0 = only when stuck */
	bool postcopy_only;      /* nothing goes before the guest; with postcopy_after 1 */
	enum migrate_stuck stuck;
	uint64_t link_bytes_per_second; /* as measured before; 0 = not known */
};
void migrate_config_defaults(struct migrate_config *c);
/* One part in so many: by which a round shrinks at least that is worth another one; of the limit
 * of a pause that is for pages, whatever the rest of it takes. */
#define MIGRATE_SHRINKS_BY  4u
#define MIGRATE_PAGES_SHARE 4u
/* What the guest's disks may take of the last pause, before the guest goes on and it is tried
 * again: the downtime that is allowed, in any case 100 ms, at most VM_PAUSE_IDLE_NS. Pure. */
uint64_t migrate_idle_ns(const struct migrate_config *c);

/* How a precopy goes; any thread may ask. */
struct migrate_progress {
	unsigned round, throttle;
	uint64_t forecast_ns;       /* downtime, if the guest was stopped now; 0 = not known */
	uint64_t fixed_ns;          /* of that, what no page causes */
	uint64_t dirty, dirty_rate; /* pages; pages a second */
	uint64_t memory_rate;       /* bytes of memory a second */
	uint64_t rate;              /* bytes a second on the wire */
	uint64_t elapsed_ns;
	bool gave_up;
	const char *why; /* gave_up, which policy was applied, or that the pause is longer than
			  * wished for; static; NULL = none */
};

/* Decides for a replicator: set config.next and next_ctx to these. Outlives it. */
struct precopy;
struct postcopy_source;
/* `later` is linked when pages are to be left for it; NULL: none are. It may go before this after
 * precopy_unlink(), which waits for nothing that the other host has to say. */
int precopy_create(struct vm *vm, const struct migrate_config *c, struct postcopy_source *later,
		   struct precopy **out) MUST_CHECK;
void precopy_unlink(struct precopy *p);
enum replicate_next precopy_next(void *precopy, const struct replicate_round *round);
void precopy_progress(struct precopy *p, struct migrate_progress *out);
/* What the fixed part of the downtime is known to be by now; any thread. `rehearsed`: it answers
 * what precopy_rehearsal() asked for. */
void precopy_fixed(struct precopy *p, uint64_t ns, bool rehearsed);
/* Before it begins: what to call, once, when the pause is about to come, on the thread that
 * decides. The pause waits a moment for the answer. */
void precopy_rehearsal(struct precopy *p, void (*fn)(void *ctx), void *ctx);
void precopy_destroy(struct precopy *p); /* the guest at full speed again */

/* Before it begins: how it will go, by the same decisions, from what was measured. Pure. */
#define MIGRATE_SAMPLES 3
struct migrate_measured {
	uint64_t ram_pages, pages; /* all; those that are not zero, and are to be sent */
	struct migrate_sample {
		uint64_t ns, pages;     /* so many pages were written within that time */
	} dirty[MIGRATE_SAMPLES];       /* each longer than the one before; ns 0: there is none */
	uint64_t encode_ns, wire_bytes; /* of a page that is not zero, on one stream */
	uint64_t bytes_per_second;      /* that the link carries */
	uint64_t bytes_per_second_allowed; /* before the last epoch; 0 = no limit */
	uint64_t disk_bytes;               /* that are to be copied as well */
	unsigned streams;
};
enum migrate_end { END_PRECOPY, END_PAUSE, END_POSTCOPY, END_GIVE_UP };
enum migrate_late { LATE_NOT, LATE_MEMORY, LATE_DISKS };
struct migrate_forecast {
	enum migrate_end end;           /* END_PAUSE: a longer one than wished for */
	uint64_t total_ns, downtime_ns; /* END_GIVE_UP: the downtime that was too long */
	enum migrate_late late;         /* END_GIVE_UP: what most_ns was too short for */
	unsigned rounds, throttle;      /* percent, at the end */
	const char *why;                /* it does not converge, or NULL; static */
};
void migrate_foresee(const struct migrate_config *c, const struct migrate_measured *m,
		     struct migrate_forecast *out);

/* ---- postcopy --------------------------------------------------------------------
 * The guest goes on at the target before all of its memory is there. The source, where it
 * stands still for good, keeps what is missing and sends it over a link of its own (section
 * "Postcopy" of docs/protocol.md): what the guest waits for at once and on a stream of its
 * own, the rest over the push streams, first what lies behind the page asked for last.
 *
 * A link that is cut ends nothing: the target asks its vCPUs to stop, and the source may
 * connect again, as often as it takes. Until POSTCOPY_DONE each side holds a part of the
 * guest that is nowhere else. The target may be DONE before the source has heard so: as
 * long as it is there, it says so again to a source that connects once more.
 *
 *   source  create, connect  (the guest runs)   serve  (it stands still)          DONE, destroy
 *   target  create, streams, start  (vm_lazy_begin())  vm_start(), go  (it runs)  DONE, destroy
 *
 * Threads. Any may call; events come on one thread, in order, no lock held: do not destroy
 *          from there. */

#define POSTCOPY_STREAM      CHANNEL_LATER_FIRST /* control; the push streams follow it */
#define POSTCOPY_STREAMS_MAX (CHANNEL_STREAMS_MAX - 1)

struct postcopy_config {
	uint8_t session[SESSION_ID_SIZE];
	uint8_t key[SESSION_KEY_SIZE];
	uint64_t term;
	char address[256]; /* source: where the target's polluxd listens */
	uint16_t port;
	unsigned streams; /* that push: 1..POSTCOPY_STREAMS_MAX; the same on both sides, for good */
	enum page_compression compression; /* source, of what is pushed */
	uint64_t bytes_per_second;         /* source, of memory that is pushed; 0 = no limit */
	uint64_t heartbeat_ns, loss_ns;    /* silence for loss_ns cuts the link */
	uint64_t stuck_ns; /* target: and so does this long without a page on any push stream */
};
void postcopy_config_defaults(struct postcopy_config *c);

enum postcopy_state {
	POSTCOPY_WAITING, /* for the first link */
	POSTCOPY_READY,   /* linked; the guest runs at the source */
	POSTCOPY_RUNNING, /* linked, and pages are on their way */
	POSTCOPY_CUT,     /* no link: connect again. Once the target has started: its vCPUs stop */
	POSTCOPY_DONE,    /* nothing is missing any more; only destroy is left */
};
const char *postcopy_state_name(enum postcopy_state s);
struct postcopy_events {
	void (*state)(void *ctx, enum postcopy_state s, const char *why); /* why: "" = none */
	void *ctx;
};

struct postcopy_stats {
	enum postcopy_state state;
	uint64_t missing, left; /* pages at the switch; now (source: when the target last said) */
	uint64_t faults;        /* pages that were waited for; source: that were asked for */
	uint64_t pushed;        /* pages that came (source: went) without being asked for */
	uint64_t bytes;         /* on the wire, of all links */
	uint64_t key_updates;   /* of the present link, either side's */
	uint64_t links;         /* that were complete */
	uint64_t wait_ns, wait_max_ns; /* target: what faults waited, in all and at most */
};

/* The vm outlives it. */
struct postcopy_source;
int postcopy_source_create(struct vm *vm, const struct postcopy_config *c,
			   const struct postcopy_events *events, struct postcopy_source **out,
			   struct error *e) MUST_CHECK;
/* Make a link, before the switch or after a cut; `c` NULL: as before, else another session,
 * key, term or address. Waits until the target has welcomed all streams. -EBUSY: there is a
 * link. -EPERM, -ESTALE (a term that is over): the target refused;
 * e says why. -EALREADY: it has all. */
int postcopy_source_connect(struct postcopy_source *p, const struct postcopy_config *c,
			    uint64_t deadline, struct error *e) MUST_CHECK;
/* From here on, and until postcopy_source_destroy(), nothing writes the vm's memory: it is read
 * with no lock. `missing` (vm_ram_pages() bits) is what the target was told that it misses. */
int postcopy_source_serve(struct postcopy_source *p, const uint64_t *missing) MUST_CHECK;
void postcopy_source_stats(struct postcopy_source *p, struct postcopy_stats *out);
/* There is no link any more: a connect that is under way on another thread ends with
 * -ESHUTDOWN, and so does each that comes. */
void postcopy_source_close(struct postcopy_source *p);
/* A connect that is under way on another thread ends with -ESHUTDOWN, and is waited for. */
void postcopy_source_destroy(struct postcopy_source *p);

/* After vm_lazy_prepare(). The vm is destroyed after it. */
struct postcopy_target;
int postcopy_target_create(struct vm *vm, const struct postcopy_config *c,
			   const struct postcopy_events *events, struct postcopy_target **out,
			   struct error *e) MUST_CHECK;
/* An accepted socket for `stream` (POSTCOPY_STREAM...; preamble read); taken over. A control
 * stream that proves to have the key begins a new link, in place of an old one. */
int postcopy_target_add_stream(struct postcopy_target *t, uint16_t stream, int fd) MUST_CHECK;
/* Session, key and term of links to come. */
void postcopy_target_session(struct postcopy_target *t, const struct postcopy_config *c);
/* vm_lazy_begin(): after the state was loaded, before vm_start(). From here on what is touched
 * is asked for. After a failure the vm can only be destroyed. */
int postcopy_target_start(struct postcopy_target *t, const uint64_t *missing,
			  struct error *e) MUST_CHECK;
/* After vm_start(): the rest may come too. */
void postcopy_target_go(struct postcopy_target *t);
void postcopy_target_stats(struct postcopy_target *t, struct postcopy_stats *out);
/* With pages missing this is the guest's end: vm_lazy_abandon(). */
void postcopy_target_destroy(struct postcopy_target *t);

/* ---- saved images: docs/image-format.md ------------------------------------------
 * Memory, machine state and VM file of a vm that stood still; not its disks. Whoever
 * restores it must see that the disks are what they were then. With a key the file is
 * encrypted, and whoever has not got the key can neither read it nor change it unseen.
 *
 * Threads. A writer and an image belong to one thread at a time; an image_progress may be
 *          read, and its `cancel` set, from any. */

#define IMAGE_KEY_SIZE   32
#define IMAGE_CONFIG_MAX (64u * 1024)

struct image_key {
	uint8_t bytes[IMAGE_KEY_SIZE];
};
/* A file of 32 octets, or of 64 hexadecimal digits. */
int image_key_read(const char *path, struct image_key *out, struct error *e) MUST_CHECK;

struct image_disk {
	char path[256];
	uint64_t size;
	bool readonly;
	bool copied; /* a copy of that time lies beside the image */
};

/* What an image says of itself. */
struct image_info {
	char name[VM_NAME_MAX + 1], identity[33], engine[16], software[64];
	char *config, *origin; /* the VM file and where it was read */
	uint64_t ram_pages, term, saved_ns /* since 1970 */;
	uint32_t vcpus;
	enum vm_cpu cpu;
	struct image_disk disks[VM_DISKS_MAX];
	unsigned disk_count;
	bool encrypted;
};
void image_info_free(struct image_info *i); /* what it points to */

struct image_progress {
	_Atomic uint64_t pages, pages_total;
	_Atomic uint64_t bytes; /* of the file */
	atomic_bool cancel;     /* ends it with -ECANCELED, within a part of a second */
};

/* Write the vm to an empty file, and sync that. Pauses the vm on the calling thread: on success
 * it is paused still, after an error (-ENOSPC, -ECANCELED...) it runs on and the file is of no
 * use. `info` needs all but ram_pages, vcpus, cpu, engine, software, saved_ns and encrypted. */
struct image_save_options {
	const struct image_info *info;
	const struct image_key *key; /* NULL: in the clear */
	enum page_compression compression;
	bool live; /* most of it before the pause; else the file is smaller */
	int (*paused)(void *ctx, struct error *e); /* called in the pause; or NULL */
	void *ctx;
	struct image_progress *progress;
};
int image_save(struct vm *vm, int fd, const struct image_save_options *o,
	       struct error *e) MUST_CHECK;

/* Open and check all but the memory: head, machine state, index. The fd stays the caller's and
 * must outlive the image. -ENOKEY: it is encrypted, and there is no key; -EKEYREJECTED: another
 * key, or it is in the clear; -EPROTONOSUPPORT: of a later version; -EBADMSG: damaged or cut. */
struct image;
int image_open(int fd, const struct image_key *key, struct image **out, struct error *e) MUST_CHECK;
void image_close(struct image *i);
const struct image_info *image_about(const struct image *i);
/* Load all of it into a fresh vm of that configuration; then vm_start(). After an error the
 * vm can only be destroyed. */
int image_load(struct image *i, struct vm *vm, struct image_progress *p,
	       struct error *e) MUST_CHECK;
/* The same, but the vm starts before its memory is there: state first, then pages as the guest
 * touches them, and the others one after the other. `fd` is that of the image. Before it a
 * sandbox must have left vm_lazy_prepare() its chance.
 *   image_lazy_begin()  loads the state; then vm_start() on another thread
 *   image_lazy_run()    reads all pages; while the file cannot be read it tries again, and
 *                       whoever needs a page waits. -EBADMSG, -ECANCELED: the guest has ended
 *                       (vm_lazy_abandon())
 *   image_lazy_end()    frees; before anything that waits for the vm's threads */
struct image_lazy;
int image_lazy_begin(struct vm *vm, int fd, const struct image_key *key, struct image_progress *p,
		     struct image_lazy **out, struct error *e) MUST_CHECK;
int image_lazy_run(struct image_lazy *l, struct error *e) MUST_CHECK;
void image_lazy_end(struct image_lazy *l);
/* Read and check all of it, without a vm. */
int image_verify(struct image *i, struct image_progress *p, struct error *e) MUST_CHECK;

#endif

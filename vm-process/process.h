// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of pollux-vm. Private to vm-process/.
 *
 * Threads. The main thread runs the control loop: requests, events to the
 * director, decisions. A second one runs the loop of the devices, so that a slow
 * request never delays the guest. vCPU and replication threads belong to the
 * folders below; what they report is posted to the control loop.
 */
#ifndef POLLUX_VM_PROCESS_PRIVATE_H
#define POLLUX_VM_PROCESS_PRIVATE_H

#include <jansson.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/base.h"
#include "disk-mirror/disk-mirror.h"
#include "hypervisor/hypervisor.h"
#include "migrate/migrate.h"
#include "netbuf/netbuf.h"
#include "replicate/replicate.h"
#include "vm-process/vm-process.h"

enum process_role { ROLE_NONE, ROLE_PRIMARY, ROLE_STANDBY };

struct process;

/* A NIC: the wire, and the buffer that holds its output back. */
struct process_nic {
	struct net_backend *wire;
	struct netbuf *netbuf;
	struct process *process;
};

/* A disk: the file, the mirror's source on top, and its target beside it. */
struct process_disk {
	struct disk_backend *file;
	struct mirror_source *source;
	struct mirror_target *target; /* standby only, until promotion */
	int target_fd;
	struct process *process;
};

struct console;
struct dump;
struct image_job;
struct measure;

struct process {
	struct loop *control, *io;
	pthread_t io_thread;
	bool io_running;
	pthread_mutex_t hold_lock; /* guards the next two */
	pthread_cond_t hold_change;
	bool io_hold, io_held; /* the device loop is to stand still; it does */

	int listen_fd, director_fd, signal_fd; /* -1: none */
	struct loop_watch *listen_watch, *director_watch, *signal_watch;
	const char *control_path;
	dev_t control_dev; /* the socket that was bound there is this one */
	ino_t control_ino;

	enum process_role role;
	struct vm_config config;
	struct vm *vm;
	bool vm_started, vm_ended, paused;
	bool successor; /* created on the memory of a process that has not given it up yet */
	bool yielded;   /* this is that process, and stands still */
	int ram_fd;     /* in a create of a successor; 0: none */
	char own_path[108], next_path[108];
	struct process_nic nics[VM_NICS_MAX];
	struct process_disk disks[VM_DISKS_MAX];
	struct console *console;
	struct dump *dump;       /* a core that is being written, or NULL */
	struct measure *measure; /* under way, or NULL */

	struct replicate_config session;
	struct precopy *precopy; /* the session is a migration from here; or NULL */
	unsigned disks_shared;   /* ...and disk i is in one place for both hosts: bit i */
	struct postcopy_source *postcopy_source;
	struct postcopy_target *postcopy_target;
	bool serving;              /* the source: memory is read, and must not change */
	struct loop_timer *relink; /* of a link that is cut; of the source */
	unsigned relinks;          /* tries, since pages came last */
	uint64_t relink_left;
	bool lazy_asked; /* a lazy restore is to follow */
	bool lazy_ready; /* memory may come later */
	bool postcopy;   /* standby, loaded: it will */
	pthread_t start_thread;
	bool start_running;
	int start_rc;
	struct epoch_member members[EPOCH_MEMBERS_MAX];
	unsigned member_count;
	/* `lock` guards the pointer for the NICs' threads; only the main thread changes it. */
	pthread_mutex_t lock;
	struct replicator *replicator;
	uint64_t sessions; /* of this primary; it and `session` change only between replicators */
	struct replica *replica;
	uint64_t loaded_term; /* standby: all of a promotion is done but the start; or 0 */
	enum replicator_state replicator_state;
	enum replica_state replica_state;
	char state_why[256];
	char not_handed[160]; /* why the last epoch was not, in this session */

	struct image_job *image; /* a save or a restore that is under way */
	bool image_loaded;       /* a restore is done: vCPUs may start */
	bool image_saved;        /* a save is done, and the vm paused until it is ended */

	struct loop_timer *announce;
	unsigned announced;     /* 0: not begun, or all done */
	pthread_t flush_thread; /* after a promotion: the twin's disks to stable storage */
	bool flush_running;
	struct loop_timer *progress;
	struct loop_timer *claim;           /* the disks are to be claimed again... */
	enum ownership_answer claim_answer; /* ...and then the guest goes on */
	bool quitting;
};

/* A request and its reply, with their descriptors. */
struct request {
	const json_t *body;
	int fds[CONTROL_FDS_MAX]; /* a handler that keeps one sets it to -1 */
	unsigned fd_count;
	json_t *reply;
	int reply_fds[CONTROL_FDS_MAX]; /* stay the process's, but for reply_fds[0]... */
	unsigned reply_fd_count;
	bool reply_fd_close; /* ...which is closed when it was sent */
};
int request_fd(struct request *q, unsigned i); /* takes it over; -1: there is none */

/* ---- parts.c: back ends and the vm --------------------------------------- */
/* `deterministic` may be NULL; it is looked at in the call only. */
int parts_open(struct process *p, int console_in, int console_out,
	       const struct vm_deterministic *deterministic, struct error *e) MUST_CHECK;
/* Run the device loop: its watches were set by parts_open(), before it has a thread. */
int parts_run(struct process *p, struct error *e) MUST_CHECK;
/* The device loop stands still between two callbacks, with its thread kept. */
int parts_hold(struct process *p) MUST_CHECK;
void parts_release(struct process *p);
void parts_close(struct process *p);

/* ---- primary.c, standby.c ------------------------------------------------- */
int session_parse(const json_t *request, struct replicate_config *out, struct error *e) MUST_CHECK;
int primary_protect(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
int primary_unprotect(struct process *p, struct error *e) MUST_CHECK;
int primary_ownership(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
void primary_output(struct process *p); /* any thread */
/* How long the guest has stood still for a migration, and what was forecast; else 0. */
void primary_handed_put(struct process *p, json_t *o);
void primary_claim_again(void *p); /* of the timer */
void primary_close(struct process *p);

int standby_prepare(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
int standby_stream(struct process *p, const json_t *request, int fd, struct error *e) MUST_CHECK;
int standby_load(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
int standby_promote(struct process *p, const json_t *request, json_t *reply,
		    struct error *e) MUST_CHECK;
void standby_close(struct process *p);
void members_fill(struct process *p, const json_t *request);
bool member_of(const struct process *p, const struct process_disk *d); /* of a session of now */
uint64_t members_bytes(const struct process *p); /* that they have given to it */

/* ---- migrate.c ------------------------------------------------------------ */
int migrate_parse(const json_t *o, struct migrate_config *out, struct error *e) MUST_CHECK;
json_t *migrate_json(struct process *p);
uint64_t migrate_delta_bytes(const struct process *p);
int migrate_forecast(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
void migrate_handed_put(struct process *p, json_t *event);

/* ---- image.c: saved images ------------------------------------------------ */
/* `fd` is taken over, and `folder`, that of a snapshot, or -1. */
int image_save_begin(struct process *p, const json_t *request, int fd, int folder,
		     struct error *e) MUST_CHECK;
int image_restore_begin(struct process *p, const json_t *request, int fd, int folder,
			struct error *e) MUST_CHECK;
int image_go(struct process *p, struct error *e) MUST_CHECK;
void image_cancel(struct process *p);
/* Of a snapshot's folder: disk-N.img for each writable disk. */
int image_disks_copy(struct process *p, int folder, const atomic_bool *cancel,
		     struct error *e) MUST_CHECK;
int image_disks_put_back(struct process *p, int folder, const atomic_bool *cancel,
			 struct error *e) MUST_CHECK;
json_t *image_json(const struct process *p); /* progress, or NULL */
void image_end(struct process *p);           /* cancel, and wait */

/* ---- upgrade.c: to another process of this host, by its memory ---------------- */
int upgrade_hold(struct process *p, struct error *e) MUST_CHECK; /* a new successor */
int upgrade_lend(struct process *p, struct request *q, struct error *e) MUST_CHECK;
int upgrade_yield(struct process *p, struct request *q, struct error *e) MUST_CHECK;
int upgrade_unyield(struct process *p, struct request *q, struct error *e) MUST_CHECK;
int upgrade_adopt(struct process *p, struct request *q, struct error *e) MUST_CHECK;
/* Whoever asked for the yield is gone. -EALREADY: the successor has the vm. */
int upgrade_orphaned(struct process *p) MUST_CHECK;

/* ---- postcopy.c ----------------------------------------------------------- */
int postcopy_offer(struct process *p, const struct replicate_config *c, struct error *e) MUST_CHECK;
/* From the handover on. False: it cannot be, and the guest had better go on here. */
int postcopy_serve(struct process *p, struct error *e) MUST_CHECK;
void postcopy_withdraw(struct process *p);
int postcopy_expect(struct process *p, struct error *e) MUST_CHECK;
int postcopy_stream(struct process *p, uint16_t stream, int fd, struct error *e) MUST_CHECK;
int postcopy_begin(struct process *p, struct error *e) MUST_CHECK;
int postcopy_start(struct process *p, struct error *e) MUST_CHECK;
int postcopy_recover(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
void postcopy_forget(struct process *p); /* what the vm once came with */
json_t *postcopy_json(struct process *p);
void postcopy_close(struct process *p);

/* ---- stats.c ------------------------------------------------------------- */
json_t *stats_json(struct process *p);
/* The guest's CPU: "cpuid" and "cpu_limits". */
void cpu_put(const struct vm *vm, json_t *out);
const char *replicator_state_name(enum replicator_state s);
const char *replica_state_name(enum replica_state s);

/* ---- process.c: life, requests, events to the director --------------------- */
/* Until told to end. director_fd may be -1, control_path NULL. */
int process_run(int director_fd, const char *control_path, struct error *e) MUST_CHECK;
/* Main thread; takes over `event`. Without a director the event is only logged. */
void process_event(struct process *p, json_t *event);
/* Any thread: run on the main thread. Never lost but for lack of memory, which is logged. */
void process_post(struct process *p, loop_fn *fn, void *ctx);
/* -EBUSY: the vm may not be waited for (postcopy). */
int process_whole(const struct process *p, struct error *e) MUST_CHECK;
/* For an event: JSON takes no character that was cut in two, so ASCII alone is kept. */
void text_copy(char *to, size_t room, const char *from);
/* A number of hexadecimal digits: `n` octets. */
int hex_parse(const json_t *request, const char *key, uint8_t *out, size_t n,
	      struct error *e) MUST_CHECK;
int compression_parse(const json_t *request, int *out, struct error *e) MUST_CHECK;
const char *compression_name(enum page_compression c);
/* Tell switches where the guest is now. */
void process_announce(struct process *p);
/* Is it this process that is found at the control path? */
bool process_is_found(const struct process *p);
/* From the main thread only. */
void process_vm_event(struct process *p, enum vm_event event, const char *detail);
void process_vm_tell(struct process *p, enum vm_event event, const char *detail);

/* ---- console.c ------------------------------------------------------------- */
int console_create(struct loop *control, struct console **out, struct error *e) MUST_CHECK;
void console_destroy(struct console *c);
int console_vm_fd(struct console *c); /* for vm_parts, both directions */
/* Replay what was kept, then connect; the fds are taken over. in may equal out. */
int console_attach(struct console *c, int in, int out) MUST_CHECK;
/* From process to process, while the vm stands still and its loop is held: `vm` may be NULL.
 * The viewer's descriptors (-1: none) stay this one's, unwatched until console_unyield(). */
void console_yield(struct console *c, struct vm *vm, struct buf *out, int fds[2]);
void console_unyield(struct console *c);
/* Takes over the descriptors, also when it fails. */
int console_adopt(struct console *c, const void *data, size_t n, int in, int out) MUST_CHECK;

/* ---- dump.c: a core file, written by a thread of its own ---------------------- */
/* Takes over `fd`. Its end is an event. */
int dump_begin(struct process *p, const json_t *request, int fd, struct error *e) MUST_CHECK;
/* The guest has crashed, and cores of such guests are wanted: its end is told when there is one.
 * False: there will be none. */
bool dump_crash(struct process *p, const char *detail);
void dump_cancel(struct process *p); /* its end follows; without one nothing happens */
void dump_close(struct process *p);  /* cancel, and wait */
json_t *dump_json(const struct process *p);

/* ---- measure.c: how fast the guest writes, and what its pages take ---------------- */
int measure_begin(struct process *p, const json_t *request, struct error *e) MUST_CHECK;
/* Give it up, for at most a part of a second; its event says so. Log-dirty is off then. */
void measure_end(struct process *p);

/* ---- sandbox.c --------------------------------------------------------------- */
/* Of all rights it keeps one: heartbeats may be urgent (thread_urge()). */
int sandbox_enter(struct error *e) MUST_CHECK;

#endif

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
	enum migrate_stuck stuck;
};
void migrate_config_defaults(struct migrate_config *c);

/* How a precopy goes; any thread may ask. */
struct migrate_progress {
	unsigned round, throttle;
	uint64_t forecast_ns;       /* downtime, if the guest was stopped now; 0 = not known */
	uint64_t dirty, dirty_rate; /* pages; pages a second */
	uint64_t rate;              /* bytes a second on the wire */
	uint64_t elapsed_ns;
	bool gave_up;
	const char *why; /* gave_up, or which policy was applied; static; NULL = none */
};

/* Decides for a replicator: set config.next and next_ctx to these. Outlives it. */
struct precopy;
int precopy_create(struct vm *vm, const struct migrate_config *c, struct precopy **out) MUST_CHECK;
enum replicate_next precopy_next(void *precopy, const struct replicate_round *round);
void precopy_progress(struct precopy *p, struct migrate_progress *out);
void precopy_destroy(struct precopy *p); /* the guest at full speed again */

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
 * key; -EPROTONOSUPPORT: of a later version; -EBADMSG: damaged or cut. */
struct image;
int image_open(int fd, const struct image_key *key, struct image **out, struct error *e) MUST_CHECK;
void image_close(struct image *i);
const struct image_info *image_about(const struct image *i);
/* Load all of it into a fresh vm of that configuration; then vm_start(). After an error the
 * vm can only be destroyed. */
int image_load(struct image *i, struct vm *vm, struct image_progress *p,
	       struct error *e) MUST_CHECK;
/* Read and check all of it, without a vm. */
int image_verify(struct image *i, struct image_progress *p, struct error *e) MUST_CHECK;

#endif

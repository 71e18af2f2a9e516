// SPDX-License-Identifier: Apache-2.0
/*
 * disk-mirror/: the standby's disk follows the primary's in whole epochs.
 *
 * Source (primary): a disk back end on top of another one. Each write is also
 * emitted, in the order in which the guest issued it, into the open epoch. The
 * whole disk is first copied in the background: a chunk is read and emitted while
 * writes to that chunk wait, so that in the emitted order the last word on each
 * sector is always the newest; no dirty map, no second pass.
 *
 * Target (standby): before the first whole epoch, records are applied as they
 * come (there is nothing to keep); from then on they are staged and applied at
 * commit, or discarded at failover (invariants I2, I4).
 *
 * Record payload (docs/protocol.md): u16 disk, u8 op (1 write, 2 zeroes/discard),
 * u8 zero, u32 bytes, u64 offset, then the bytes of a write.
 */
#ifndef POLLUX_DISK_MIRROR_H
#define POLLUX_DISK_MIRROR_H

#include "hypervisor/hypervisor.h"

/* ---- source ------------------------------------------------------------ */

struct mirror_source;
/* Ship one record in order; may wait for a slow link. Comes from the guest's threads and,
 * for the first copy, from another one at the same time. An error means that the session has
 * ended: the mirror then stops emitting, and the guest's own write goes on. */
typedef int mirror_emit_fn(void *ctx, const struct iovec *iov, int iov_count);

struct mirror_progress {
	uint64_t done, total; /* bytes of the initial copy */
	bool synced;
	uint64_t emitted_bytes, emitted_records;
};

int mirror_source_create(struct disk_backend *below, uint16_t disk, struct loop *io,
			 struct mirror_source **out) MUST_CHECK;
void mirror_source_destroy(struct mirror_source *m);
struct disk_backend *mirror_source_backend(struct mirror_source *m);
/* Begin a session: from now on writes are emitted, and the background copy runs on
 * a thread of its own, at most `bytes_per_second` (0 = no limit). */
int mirror_source_start(struct mirror_source *m, mirror_emit_fn *emit, void *ctx,
			uint64_t bytes_per_second, void (*on_synced)(void *ctx, int rc)) MUST_CHECK;
/* No emit call is running or comes after this. One that waits must have been made
 * to fail first: stop waits for it. */
void mirror_source_stop(struct mirror_source *m);
/* Any thread, waits for nothing. */
void mirror_source_progress(struct mirror_source *m, struct mirror_progress *out);

/* ---- target ------------------------------------------------------------ */

struct mirror_target;

/* `fd` stays the caller's. */
int mirror_target_create(int fd, uint64_t size, uint16_t disk,
			 struct mirror_target **out) MUST_CHECK;
void mirror_target_destroy(struct mirror_target *m);
/* Records are received on one thread; another one may commit earlier epochs meanwhile.
 * Check a record wholly, then stage it for `epoch`, or apply it when `direct`. */
int mirror_target_receive(struct mirror_target *m, uint64_t epoch, bool direct,
			  const uint8_t *payload, size_t len, struct error *e) MUST_CHECK;
int mirror_target_commit(struct mirror_target *m, uint64_t epoch, struct error *e) MUST_CHECK;
void mirror_target_discard(struct mirror_target *m); /* everything staged */
int mirror_target_flush(struct mirror_target *m, struct error *e) MUST_CHECK;
/* Any thread; the rest belongs to the one that serves the standby. */
uint64_t mirror_target_staged_bytes(const struct mirror_target *m);

#endif

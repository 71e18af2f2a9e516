// SPDX-License-Identifier: Apache-2.0
/*
 * netbuf/: outbound frames wait until the epoch that they depend on is safe on
 * the standby (output commit, Remus section 3.2; invariant I1).
 *
 * A netbuf is a network back end on top of another one. While it is not holding
 * it passes frames through. While it is holding, each frame, whatever its
 * protocol, belongs to the epoch that is open; netbuf_seal() closes that epoch,
 * and netbuf_release() lets go everything up to an acknowledged one. It is
 * bounded: when it is full the guest's NIC stops (net_backend -EAGAIN), nothing
 * is dropped.
 *
 * Threads. send() comes with the device lock; seal with the vm paused; release
 *          and hold from any thread. A frame is never sent before release()
 *          of its epoch was called, and frames never overtake each other.
 */
#ifndef POLLUX_NETBUF_H
#define POLLUX_NETBUF_H

#include "hypervisor/hypervisor.h"

struct netbuf;

struct netbuf_config {
	uint64_t most_bytes; /* of frames held; 0 = 16 MiB */
	/* A frame has come to be held in an epoch that held none: event mode asks for
	 * a checkpoint. Device lock held: only wake somebody. May be NULL. */
	void (*on_output)(void *ctx);
	/* Audit, one call a release: frames [first, last] (counted from 1 since creation)
	 * needed `epoch`, and `acknowledged` is what the standby had then. May be NULL. */
	void (*on_release)(void *ctx, uint64_t first, uint64_t last, uint64_t epoch,
			   uint64_t acknowledged);
	void *ctx;
};

struct netbuf_stats {
	uint64_t held_frames, held_bytes, frames_in, frames_released, frames_passed;
	uint64_t stops;                        /* times the guest had to wait */
	uint64_t delay_total_ns, delay_max_ns; /* of released frames, held until sent */
};

int netbuf_create(struct net_backend *below, struct loop *io, const struct netbuf_config *c,
		  struct netbuf **out) MUST_CHECK;
void netbuf_destroy(struct netbuf *n); /* frames still held are dropped: they never happened */
struct net_backend *netbuf_backend(struct netbuf *n);

/* Start holding: frames from now on belong to `open_epoch`. */
void netbuf_hold(struct netbuf *n, uint64_t open_epoch);
/* Stop holding: what is held leaves now, later frames pass through. Only for an
 * owner that is confirmed to run without a standby. */
void netbuf_pass(struct netbuf *n);
void netbuf_seal(struct netbuf *n, uint64_t epoch); /* the open epoch is now epoch + 1 */
void netbuf_release(struct netbuf *n, uint64_t acknowledged_epoch);
void netbuf_stats(struct netbuf *n, struct netbuf_stats *out);

#endif

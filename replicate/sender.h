// SPDX-License-Identifier: Apache-2.0
/*
 * The primary's bulk streams: a thread each, which encodes and sends.
 *
 * Order. Captures are posted in the order of epochs and every stream works through
 * them in that order. Members' records all go by the first stream: those emitted
 * before a checkpoint was posted are sent before its END, the later ones after it. Those
 * that are emitted while a round is on go between its pages.
 * A checkpoint is posted while the guest stands still, which makes that the epoch's
 * border; sending waits for sender_go(), when the guest runs again.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_SENDER_H
#define POLLUX_REPLICATE_SENDER_H

#include "replicate/capture.h"
#include "replicate/records.h"

struct sender;
struct sender_config {
	unsigned streams;
	enum page_compression compression;
	uint64_t delta_bytes;
	uint64_t bytes_per_second; /* of rounds, on all streams together; 0 = no limit */
	uint64_t send_ns; /* a record that is not taken within this time ends the session */
	const uint8_t *ram;
	uint64_t ram_pages;
	/* From a sender's thread, without its lock. */
	void (*sent)(void *ctx, struct capture *c);
	void (*failed)(void *ctx, int rc);
	void *ctx;
};
struct sender_stats {
	uint64_t pages, bytes_raw; /* sent */
	uint64_t delta_pages;      /* of them, as what had changed in them */
	uint64_t round_pages;      /* of the current round of the first copy: sent */
	uint64_t round_work_ns;    /* of a round that is over: of the stream that took longest,
				      without what it waited for a limit */
	uint64_t queued;           /* bytes of members that wait to be sent */
};

int sender_create(const struct sender_config *c, struct sender **out) MUST_CHECK;
/* Begin: `bulk` are the streams' channels, which stay the caller's. */
int sender_start(struct sender *s, struct channel *const *bulk) MUST_CHECK;
/* Waits for room; -ESHUTDOWN once the session has ended. */
int sender_emit(struct sender *s, uint16_t member, const struct iovec *iov, int n) MUST_CHECK;
void sender_post(struct sender *s, struct capture *c); /* cannot fail */
void sender_go(struct sender *s, struct capture *c);
/* Wait until all streams are done with it: 0, or -ESHUTDOWN. */
int sender_wait(struct sender *s, const struct capture *c) MUST_CHECK;
/* The round that is on, if one is, ends with the pages that are encoded by now. */
void sender_cut(struct sender *s);
/* After a round: set what was not sent of it; how many. */
uint64_t sender_left(struct sender *s, const struct capture *c, uint64_t *map);
/* Another limit, from now on. */
void sender_limit(struct sender *s, uint64_t bytes_per_second);
void sender_stats(struct sender *s, struct sender_stats *out);
void sender_kill(struct sender *s);    /* end all waits; the channels are shut down elsewhere */
void sender_destroy(struct sender *s); /* kills, joins, frees */

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Whether to compress, by what it gains: pure, of what a stream's thread has seen in windows of
 * some megabytes. The thread encodes and sends in turn, while the link carries what it has handed
 * over before; so a byte of body takes the longer of
 *
 *   encode + pack(way) + send x ratio(way)   of the thread: `send` is encryption and copies
 *   link x ratio(way)                        of the link, or what else lets the stream wait
 *
 * and the way that takes less is chosen. What the link takes shows only while the stream waits for
 * it; when it does not, the link is known to be no slower than what went over it. What the
 * other way would take is known from windows in which it was tried: the first two, and now and
 * then again, ever more seldom while that changes nothing.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_COMPRESS_CHOICE_H
#define POLLUX_REPLICATE_COMPRESS_CHOICE_H

#include "replicate/replicate.h"

#define CHOICE_WINDOW (4u << 20) /* bytes of body */

struct choice_window {
	uint64_t body, wire;         /* bytes: before, and as sent */
	uint64_t encode_ns, pack_ns; /* pack_ns: to compress, and not in encode_ns */
	uint64_t send_ns, wait_ns;   /* wait_ns: of it, for room and for a limit of bandwidth */
};

struct compress_choice {
	enum page_compression way; /* of the next window: NONE or LZ4 */
	enum page_compression settled;
	struct choice_way {
		bool known;
		double pack, ratio; /* ns a byte of body; wire for body */
	} ways[2];
	double encode;           /* ns a byte of body, by either way */
	double send, link;       /* ns a byte on the wire; link 0: not known */
	unsigned left, patience; /* windows until the other way is tried again */
};

void compress_choice_setup(struct compress_choice *c);
/* A window of c->way has passed; `steady`: the next one may be spent on a trial. */
void compress_choice_next(struct compress_choice *c, const struct choice_window *w, bool steady);
/* Nanoseconds that a byte of body takes; for tests and logs. */
double compress_choice_cost(const struct compress_choice *c, enum page_compression way);

#endif

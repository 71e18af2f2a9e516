// SPDX-License-Identifier: Apache-2.0
/*
 * What one epoch, or one round of the first copy, has to send. A checkpoint's pages
 * are copied here while the guest stands still; its memory is kept and used again,
 * and touched beforehand, so that the pause meets no page fault of ours.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_CAPTURE_H
#define POLLUX_REPLICATE_CAPTURE_H

#include "replicate/copier.h"
#include "replicate/replicate.h"

struct capture {
	uint64_t epoch;
	uint64_t count; /* pages */
	/* A checkpoint: copies, in the order of `pages`; or none, when the guest stands still
	 * until they are sent (handover): then the pages are read where they are. */
	uint64_t *pages;
	uint8_t *copies;
	bool in_place;
	uint64_t room; /* pages that fit */
	struct buf state;
	uint64_t *missing; /* pages that are told of instead; bits; NULL = none */
	/* A round of the first copy: bits to be sent from RAM as it is. */
	uint64_t *round; /* NULL: a checkpoint */
	uint64_t mark;   /* of a round: the standby is to say when it has it; 0 = not */
	bool remember;   /* keep the pages as bases for deltas */
	/* The senders' (sender.c), under their lock. */
	bool go;
	unsigned pending;
	/* For statistics. */
	uint64_t sealed_at;
	struct vm_pause_times times;
};

static inline uint64_t pause_total(const struct vm_pause_times *t)
{
	return t->stop + t->state + t->harvest + t->copy + t->resume;
}

void capture_free(struct capture *c);
/* Make room, outside the pause. */
int capture_reserve(struct capture *c, uint64_t pages) MUST_CHECK;
/* Begin to copy the pages that are set in `map`; in the pause. After success the caller
 * has to call copier_finish(), whatever else fails. */
int capture_begin(struct capture *c, struct copier *copier, const uint8_t *ram, const uint64_t *map,
		  uint64_t bits) MUST_CHECK;
/* The same without copies. */
int capture_list(struct capture *c, const uint64_t *map, uint64_t bits) MUST_CHECK;
/* No pages, but which ones are missing. */
int capture_missing(struct capture *c, const uint64_t *map, uint64_t bits) MUST_CHECK;
/* Copy a page that the guest may be writing: torn is fine, it is dirty again then. */
void capture_live_page(uint8_t *to, const uint8_t *from);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What a postcopy target misses, and who waits for it: a pure part, without clock and I/O.
 *
 * A page is missing until it came, by whatever stream. One that a vCPU touched is wanted until
 * then; on each link it is asked for once. Time is told to it, for the figures alone.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_PAGE_WANTS_H
#define POLLUX_MIGRATE_PAGE_WANTS_H

#include "base/base.h"

#define PAGE_WAITS_MAX 64u /* that are timed at once: a vm has fewer threads */

struct page_wants {
	uint64_t pages;
	uint64_t *missing, *wanted; /* wanted: within missing */
	uint64_t *queue;            /* of this link: all that were wanted, in order... */
	uint64_t asked, queued;     /* ...how many have been asked for; all */
	uint64_t total, left;
	uint64_t faults, pushed, wait_ns, wait_max_ns;
	struct {
		uint64_t page, since;
	} waits[PAGE_WAITS_MAX];
	unsigned wait_count;
};

int page_wants_init(struct page_wants *w, uint64_t pages) MUST_CHECK;
void page_wants_free(struct page_wants *w);
void page_wants_start(struct page_wants *w, const uint64_t *missing);
void page_wants_fault(struct page_wants *w, uint64_t page, uint64_t now);
void page_wants_came(struct page_wants *w, uint64_t page, uint64_t now);
void page_wants_link(struct page_wants *w); /* a new link: all that is wanted is to be asked for */
/* How many pages were taken, to be asked for now. */
unsigned page_wants_take(struct page_wants *w, uint64_t *pages, unsigned most);

#endif

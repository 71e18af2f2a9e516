// SPDX-License-Identifier: Apache-2.0
/*
 * What a postcopy source sends next: a pure part, without clock and I/O.
 *
 *   asked   pages that the target waits for, in the order in which it asked
 *   todo    the others that it misses and that have not gone over this link
 *
 * A page leaves `todo` when it is taken for either reason, so it goes once over a link unless
 * it is asked for again: then what went before may be stuck behind much else, or it crossed.
 * The push goes on behind the page asked for last, since what lies there is likely to be
 * wanted soon, and wraps.
 *
 * What was sent ever is kept through all links, and so is what was missing at the switch.
 * With both the list that a target begins a link with can be checked.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_PUSH_PLAN_H
#define POLLUX_MIGRATE_PUSH_PLAN_H

#include "base/base.h"

struct push_plan {
	uint64_t pages;
	uint64_t *missing, *sent; /* at the switch; ever */
	/* Of this link. */
	uint64_t *todo, *asked;
	uint64_t *queue; /* a ring of the pages in `asked`: none is in it twice */
	uint64_t first, count;
	uint64_t cursor, left; /* of `todo`; how many are in it */
	uint64_t listed;       /* MISSING has come for the pages below this */
	bool go;
};

int push_plan_init(struct push_plan *p, uint64_t pages) MUST_CHECK;
void push_plan_free(struct push_plan *p);
/* The switch: what the target was told. */
void push_plan_switch(struct push_plan *p, const uint64_t *missing);
void push_plan_link(struct push_plan *p); /* a new link: nothing has been said or sent on it */
/* Each checks all of its input before it acts; -EBADMSG, and e says what is wrong. */
int push_plan_missing(struct push_plan *p, uint64_t first, const uint64_t *words, uint64_t n,
		      struct error *e) MUST_CHECK;
int push_plan_go(struct push_plan *p, struct error *e) MUST_CHECK;
int push_plan_need(struct push_plan *p, const uint64_t *pages, unsigned n,
		   struct error *e) MUST_CHECK;
/* The target has all: is that possible? */
int push_plan_all(const struct push_plan *p, struct error *e) MUST_CHECK;
/* How many pages were taken; 0 = there is nothing to do. */
unsigned push_plan_take_asked(struct push_plan *p, uint64_t *pages, unsigned most);
unsigned push_plan_take(struct push_plan *p, uint64_t *pages, unsigned most);

#endif

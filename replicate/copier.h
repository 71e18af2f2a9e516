// SPDX-License-Identifier: Apache-2.0
/*
 * Copies a checkpoint's pages with more than one CPU: while the guest stands still its
 * CPUs have nothing else to do. The caller starts it, does what it has to do beside it,
 * then takes its share and waits for the rest.
 *
 * Threads. Helpers sleep between two jobs. One that comes late finds no job or nothing
 *          left of it; copier_finish() waits only for those that have begun.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_COPIER_H
#define POLLUX_REPLICATE_COPIER_H

#include "replicate/replicate.h"

struct copy_job {
	uint8_t *to; /* page i of it ... */
	const uint8_t *ram;
	const uint64_t *pages; /* ... is RAM page pages[i] */
	uint64_t count;
};

struct copier;
/* With a thread for each CPU but one, a few at most; none on one CPU. */
int copier_create(struct copier **out) MUST_CHECK;
void copier_destroy(struct copier *c);
void copier_start(struct copier *c, const struct copy_job *job);
void copier_finish(struct copier *c); /* all is copied */

#endif

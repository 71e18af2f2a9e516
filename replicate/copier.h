// SPDX-License-Identifier: Apache-2.0
/*
 * Copies a checkpoint's pages with more than one CPU: while the guest stands still, the
 * threads of its vCPUs have nothing else to do, and are awake. The caller starts a copy,
 * does what it has to do beside it, then takes its share and waits for the rest.
 *
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

struct copier {
	struct vm *vm; /* paused; its threads help */
	struct copy_job job;
	void (*copy)(uint8_t *to, const uint8_t *from);
	_Atomic uint64_t next; /* page that nobody has taken */
};
void copier_start(struct copier *c, const struct copy_job *job);
void copier_finish(struct copier *c); /* all is copied */
void copier_help(void *copier);       /* take pieces of the job until none is left */

#endif

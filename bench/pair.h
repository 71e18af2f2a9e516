// SPDX-License-Identifier: Apache-2.0
/*
 * A guest and its twin: the guest runs here, the twin is held by a second process, and
 * between them is loopback TCP with TLS, as between two hosts. One guest may be
 * protected once.
 *
 * Output. The guest makes none; pair_output() stands for it: it is made in the epoch
 *         that is open, and is out when that epoch is released.
 */
#ifndef POLLUX_BENCH_PAIR_H
#define POLLUX_BENCH_PAIR_H

#include "bench/measure.h"
#include "replicate/replicate.h"

struct pair_config {
	const char *engine; /* NULL: kvm */
	const char *kernel;
	char cmdline[200];
	uint64_t memory;
	unsigned vcpus;
	struct replicate_config replicate; /* the session's key, address and term are filled in */
	/* Once for each acknowledgement, on a thread of the replicator's. */
	void (*epoch)(void *ctx, const struct replicate_stats *s);
	void *ctx;
};

/* What the twin was when the session had ended: known after pair_unprotect(). */
struct pair_twin {
	uint64_t hash; /* of all memory */
	uint64_t cpu_ns;
};

struct pair;
/* The caller has no other threads. The guest runs when it returns; exits on failure. */
struct pair *pair_create(const struct pair_config *c);
void pair_protect(struct pair *p);    /* returns when the guest is protected */
uint64_t pair_output(struct pair *p); /* nanoseconds until it was out */
void pair_unprotect(struct pair *p);
struct vm *pair_vm(struct pair *p);
const struct pair_twin *pair_twin(const struct pair *p);
uint64_t pair_ram_hash(const struct vm *vm); /* nobody writes meanwhile */
void pair_destroy(struct pair *p);

#endif

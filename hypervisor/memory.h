// SPDX-License-Identifier: Apache-2.0
/*
 * Guest memory: one memfd, mapped once; RAM below the PCI hole at guest physical
 * 0, the rest from 4 GiB on. Whatever the VMM itself writes goes through here,
 * because no engine sees it: memory_mark() is the one call that logs it.
 * Mark after the write: a page marked first could be copied before it changes.
 * Bits are set whether or not anyone logs, by one atomic OR: then a write is either
 * before a harvest's exchange of that word (and seen by the copy that follows it)
 * or reported by the next one. A flag "logging" would need a fence on each side.
 * Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_MEMORY_H
#define POLLUX_HYPERVISOR_MEMORY_H

#include <stdatomic.h>

#include "base/base.h"

#define MEMORY_HOLE_START UINT64_C(0xc0000000)  /* RAM below this address... */
#define MEMORY_HIGH_START UINT64_C(0x100000000) /* ...and from this one on */

typedef void memory_watch_fn(void *ctx, uint64_t page); /* any thread, after the write */

/* Some pages may come later (lazy.c), or never: then what was read from one is nothing to
 * act on, and nothing may leave the machine. */
enum memory_presence { MEMORY_WHOLE, MEMORY_LAZY, MEMORY_LOST };

struct memory {
	int fd;
	_Atomic enum memory_presence presence;
	uint8_t *base;
	uint64_t size;
	_Atomic uint64_t *dirty; /* one bit a RAM page; set by memory_mark(), always */
	/* An engine that keeps what it decoded from a page is told of the VMM's writes to it. */
	_Atomic uint64_t *watched; /* NULL: nobody is */
	memory_watch_fn *on_watched;
	void *watch_ctx;
};

struct memory_region {
	uint64_t gpa, offset, size; /* offset in the memfd */
};

int memory_create(struct memory *m, uint64_t size, struct error *e) MUST_CHECK;
struct memory_want {
	uint64_t size;
	int fd;    /* > 0: the memfd of another one, which stays the caller's */
	bool huge; /* of huge pages from the host's pool, all of them at once */
};
int memory_open(struct memory *m, const struct memory_want *w, struct error *e) MUST_CHECK;
void memory_destroy(struct memory *m);
unsigned memory_regions(const struct memory *m, struct memory_region out[2]);

/* The bytes at [gpa, gpa+len), or NULL unless all of them are RAM. */
void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len);
void memory_mark(struct memory *m, uint64_t gpa, uint64_t len);
static inline bool memory_is_lost(const struct memory *m)
{
	return atomic_load_explicit(&m->presence, memory_order_acquire) == MEMORY_LOST;
}
/* Waits until all of [gpa, gpa+len), which is RAM, is there. False: it never will be. */
bool memory_fetch(const struct memory *m, uint64_t gpa, uint64_t len) MUST_CHECK;
int memory_read(const struct memory *m, uint64_t gpa, void *out, size_t len) MUST_CHECK;
int memory_write(struct memory *m, uint64_t gpa, const void *data, size_t len) MUST_CHECK;
/* Calls fn when a page is marked that is watched. One watcher. */
int memory_watch_begin(struct memory *m, memory_watch_fn *fn, void *ctx) MUST_CHECK;
void memory_watch_end(struct memory *m);
void memory_watch(struct memory *m, uint64_t page, bool on);
/* Move the logged bits into `map` (OR) and forget them; `map` may be NULL. */
void memory_harvest(struct memory *m, uint64_t *map);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The file of a recorded run (docs/determinism.md): a magic, then frames, each with its
 * length, kind and a checksum over that, its payload and its place in the file; the last
 * one is RECORD_END. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_RECORD_H
#define POLLUX_HYPERVISOR_RECORD_H

#include "base/base.h"

enum record_kind {
	RECORD_START = 1, /* u64 seed, u64 hash_every, u32 vcpus, u64 memory */
	RECORD_INPUT,     /* u64 turn, u64 now, u32 source; the rest: data */
	RECORD_DISK,      /* u32 disk, u32 op, u64 offset, u64 length, u32 rc; what was read */
	RECORD_EPOCH,     /* u64 epoch, u64 instructions, u64 hash */
	RECORD_END,       /* u64 turn, u64 now, u64 hash */
};

struct record;
struct record_frame {
	enum record_kind kind;
	struct cursor body;
};

/* A file that holds something already is refused (-EEXIST). */
int record_create(const char *path, struct record **out, struct error *e) MUST_CHECK;
/* Instead of record_close(): removes the file that record_create() has made. */
void record_discard(struct record *r, const char *path);
/* Reads the file once, to its end: what is damaged or cut off is refused (-EBADMSG). */
int record_open(const char *path, struct record **out, struct error *e) MUST_CHECK;
void record_close(struct record *r);
/* To the file; 0 or -errno, and then always. `body` is emptied. */
int record_put(struct record *r, enum record_kind kind, struct buf *body) MUST_CHECK;
int record_flush(struct record *r) MUST_CHECK;
/* The next frame; it stays the next one until record_next(). NULL: the file has failed. */
const struct record_frame *record_peek(struct record *r);
void record_next(struct record *r);

#endif

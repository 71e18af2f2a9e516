// SPDX-License-Identifier: Apache-2.0
/* An image that is open: all but its memory. Private to migrate/. */
#ifndef POLLUX_MIGRATE_IMAGE_READER_H
#define POLLUX_MIGRATE_IMAGE_READER_H

#include "migrate/image.h"

struct image {
	struct image_in *in;
	struct image_info info;
	struct image_tail tail;
	struct index_run *runs;
	uint64_t run_count;
	struct buf state, payload; /* payload: of the record that was read last */
};

/* The record at *at, which then is that of the next. */
int image_record_get(struct image *i, uint64_t *at, struct record *out, struct error *e) MUST_CHECK;
/* The next that this program knows, before `end`; type 0: there is none. */
int image_known_get(struct image *i, uint64_t *at, uint64_t end, struct record *out,
		    struct error *e) MUST_CHECK;
/* Is the vm of the kind that it was? */
int image_fits(const struct image *i, const struct vm *vm, struct error *e) MUST_CHECK;

#endif

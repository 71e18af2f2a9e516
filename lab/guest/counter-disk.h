// SPDX-License-Identifier: Apache-2.0
// What counter-server keeps on its disk, in blocks of 4 KiB (little-endian, as x86 has it):
// block 0 is the header, block 1 + COUNTER % slots the record of that counter. A whole block a
// record, so that a write needs no read before it.
#ifndef LAB_COUNTER_DISK_H
#define LAB_COUNTER_DISK_H

#include <stddef.h>
#include <stdint.h>

#define COUNTER_BLOCK        4096
#define COUNTER_HEADER_MAGIC UINT64_C(0x3164726f43785031)
#define COUNTER_RECORD_MAGIC UINT64_C(0x3164726f43785032)
#define COUNTER_CHECKED      offsetof(struct counter_record, checksum)

struct counter_header {
	uint64_t magic, slots, reserved, checksum;
};

struct counter_record {
	uint64_t magic, counter, request, checksum;
};

union counter_block {
	struct counter_header header;
	struct counter_record record;
	uint8_t bytes[COUNTER_BLOCK];
};

_Static_assert(sizeof(union counter_block) == COUNTER_BLOCK, "one record, one block");
_Static_assert(offsetof(struct counter_header, checksum) == COUNTER_CHECKED, "same place in both");

// FNV-1a.
static inline uint64_t counter_checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static inline int counter_header_valid(const union counter_block *b)
{
	return b->header.magic == COUNTER_HEADER_MAGIC && b->header.slots >= 1 &&
	       b->header.slots < UINT64_C(1) << 40 &&
	       b->header.checksum == counter_checksum(b, COUNTER_CHECKED);
}

static inline int counter_record_valid(const union counter_block *b)
{
	return b->record.magic == COUNTER_RECORD_MAGIC && b->record.counter &&
	       b->record.checksum == counter_checksum(b, COUNTER_CHECKED);
}

#endif

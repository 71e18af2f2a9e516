// SPDX-License-Identifier: Apache-2.0
/* A PAGES record: whatever the bytes, it is refused or changes pages that exist. The
 * checksum is put right first, or no input would get past it. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "replicate/pages.h"

#define PAGES 64u

static void checksum_repair(uint8_t *record, size_t size)
{
	XXH64_hash_t hash;

	if (size < PAGES_HEADER_SIZE || record[12] != COMPRESS_NONE)
		return;
	hash = XXH3_64bits(record + PAGES_HEADER_SIZE, size - PAGES_HEADER_SIZE);
	memcpy(record + 24, &hash, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t ram[PAGES * VM_PAGE_SIZE];
	uint8_t *record = malloc(size ? size : 1);
	struct pages_batch batch;
	struct page_item item;
	uint32_t count = 0;

	if (!record)
		return 0;
	memcpy(record, data, size);
	checksum_repair(record, size);
	if (!pages_decode(record, size, PAGES, 0, 1, &batch, NULL)) {
		struct cursor c = cursor_of(batch.body.data, batch.body.len);

		for (; pages_next(&c, &item); count++)
			page_apply(ram, &item);
		if (count != batch.count || c.left)
			abort();
		pages_batch_free(&batch);
	}
	free(record);
	return 0;
}

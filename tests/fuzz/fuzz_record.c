// SPDX-License-Identifier: Apache-2.0
/* The record framing of a stream: whatever the bytes, it stops or makes progress. */
#include <stdlib.h>

#include "channel/channel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct preamble p;
	struct record r;
	int64_t n;

	if (size >= PREAMBLE_SIZE && !preamble_decode(data, &p, NULL)) {
		uint8_t again[PREAMBLE_SIZE];

		preamble_encode(&p, again);
		if (__builtin_memcmp(again, data, PREAMBLE_SIZE) != 0)
			abort();
	}
	while ((n = record_decode(data, size, &r)) > 0) {
		if ((size_t)n > size || r.payload + r.len > data + size)
			abort();
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

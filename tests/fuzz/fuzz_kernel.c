// SPDX-License-Identifier: Apache-2.0
/* The kernel loader's parser: whatever it accepts must lie inside of the image. */
#include <stdlib.h>

#include "hypervisor/boot.h"

static void inside(uint64_t offset, uint64_t size, size_t n)
{
	if (offset > n || size > n - offset)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct kernel_image k;
	struct error e = {0};
	if (kernel_image_parse(data, n, &k, &e)) {
		if (!e.text[0])
			abort();
		return 0;
	}
	inside(k.header_offset, k.header_size, n);
	inside(k.payload_offset, k.payload_size, n);
	for (unsigned i = 0; i < k.segment_count; i++) {
		inside(k.segments[i].offset, k.segments[i].file_size, n);
		if (k.segments[i].gpa < BOOT_LOW_END ||
		    k.segments[i].gpa + k.segments[i].memory_size > MEMORY_HOLE_START)
			abort();
	}
	return 0;
}

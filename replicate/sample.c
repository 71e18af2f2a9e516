// SPDX-License-Identifier: Apache-2.0
/* Some pages, encoded to see what that takes, and thrown away. */
#include <errno.h>
#include <stdlib.h>

#include "replicate/capture.h"
#include "replicate/pages.h"

#define EPOCH 1u

static int batch_drop(struct pages_encoder *encoder, struct pages_sample *out)
{
	struct pages_encoded batch = {0};
	int rc = pages_finish(encoder, EPOCH, &batch);

	if (!rc)
		out->bytes += RECORD_HEADER_SIZE + batch.iov[0].iov_len + batch.iov[1].iov_len;
	return rc;
}

static int page_look(struct pages_encoder *encoder, const uint8_t *bytes, uint64_t page,
		     struct pages_sample *out)
{
	uint8_t copy[VM_PAGE_SIZE] __attribute__((aligned(64)));

	capture_live_page(copy, bytes);
	out->looked++;
	if (page_is_zero(copy))
		return 0;
	out->filled++;
	pages_encode(encoder, EPOCH, page, copy, false);
	return pages_full(encoder) ? batch_drop(encoder, out) : 0;
}

/* Every nth of those that were touched. */
static int pages_look(const struct vm *vm, struct pages_encoder *encoder, const uint64_t *map,
		      unsigned most, struct pages_sample *out)
{
	uint64_t bits = vm_ram_pages(vm), step = out->touched / most + 1, n = 0;
	const uint8_t *ram = vm_ram(vm);
	int rc = 0;

	for (uint64_t page = bitmap_next(map, bits, 0); page < bits && !rc;
	     page = bitmap_next(map, bits, page + 1))
		if (n++ % step == 0)
			rc = page_look(encoder, ram + page * VM_PAGE_SIZE, page, out);
	return !rc && !pages_empty(encoder) ? batch_drop(encoder, out) : rc;
}

int pages_sample(const struct vm *vm, enum page_compression compression, unsigned most,
		 struct pages_sample *out)
{
	uint64_t *map = calloc(bitmap_words(vm_ram_pages(vm)), sizeof(*map));
	struct pages_encoder *encoder = NULL;
	uint64_t began;
	int rc = map ? pages_encoder_create(compression, 0, &encoder) : -ENOMEM;

	*out = (struct pages_sample){0};
	if (rc)
		goto out_map;
	epoch_pages_touched(vm, map);
	out->touched = bitmap_count(map, vm_ram_pages(vm));
	began = clock_ns();
	rc = pages_look(vm, encoder, map, most, out);
	out->ns = clock_ns() - began;
	pages_encoder_destroy(encoder);
out_map:
	free(map);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/* A saved image without encryption: whatever the bytes, it is refused or read. The checksums of
 * its frame are put right first, or no input would get past them. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "migrate/image_reader.h"

static void store(uint8_t *at, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load(const uint8_t *at)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

static void sums_repair(uint8_t *file, size_t size)
{
	uint8_t *row = file + IMAGE_HEADER_SIZE, *tail = file + size - TAIL_SIZE;
	uint64_t n, head, state, at;

	if (size < IMAGE_HEADER_SIZE + TAIL_RECORD_SIZE)
		return;
	store(file + 56, XXH3_64bits(file, 56));
	n = size - IMAGE_HEADER_SIZE - TAIL_RECORD_SIZE;
	head = load(tail);
	state = load(tail + 8);
	at = load(tail + 24);
	if (head <= n)
		store(tail + 48, XXH3_64bits(row, head));
	if (at <= n && state <= at)
		store(tail + 56, XXH3_64bits(row + state, at - state));
	store(tail + 64, XXH3_64bits(tail, 64));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_progress progress = {0};
	uint8_t *file = malloc(size ? size : 1);
	struct image *image;
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (!file || fd < 0)
		abort();
	memcpy(file, data, size);
	if (size && data[0] != 0xff)
		sums_repair(file, size);
	if (fd_write_all(fd, file, size))
		abort();
	if (!image_open(fd, NULL, &image, NULL)) {
		/* What it says of itself may be more than the fuzzer has memory for. */
		if (image_about(image)->ram_pages < 1 << 20)
			(void)!image_verify(image, &progress, NULL);
		image_close(image);
	}
	free(file);
	close(fd);
	return 0;
}

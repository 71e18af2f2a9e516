// SPDX-License-Identifier: Apache-2.0
#include "replicate/capture.h"

#include <emmintrin.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t copies_bytes(uint64_t pages)
{
	return (size_t)pages * VM_PAGE_SIZE;
}

void capture_free(struct capture *c)
{
	if (c->copies)
		munmap(c->copies, copies_bytes(c->room));
	free(c->pages);
	buf_free(&c->state);
	free(c->missing);
	*c = (struct capture){0};
}

int capture_reserve(struct capture *c, uint64_t pages)
{
	uint64_t *list;
	uint8_t *copies;

	if (pages <= c->room)
		return 0;
	list = malloc(pages * sizeof(*list));
	copies = mmap(NULL, copies_bytes(pages), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!list || copies == MAP_FAILED) {
		free(list);
		if (copies != MAP_FAILED)
			munmap(copies, copies_bytes(pages));
		return -ENOMEM;
	}
	if (c->copies)
		munmap(c->copies, copies_bytes(c->room));
	free(c->pages);
	c->pages = list;
	c->copies = copies;
	c->room = pages;
	return 0;
}

static uint64_t pages_list(uint64_t *list, const uint64_t *map, uint64_t bits)
{
	uint64_t n = 0;

	for (size_t i = 0; i < bitmap_words(bits); i++)
		for (uint64_t word = map[i]; word; word &= word - 1)
			list[n++] = 64 * i + (unsigned)__builtin_ctzll(word);
	return n;
}

int capture_list(struct capture *c, const uint64_t *map, uint64_t bits)
{
	uint64_t *list = malloc(bitmap_count(map, bits) * sizeof(*list) + 1);

	if (!list)
		return -ENOMEM;
	free(c->pages);
	if (c->copies)
		munmap(c->copies, copies_bytes(c->room));
	c->copies = NULL;
	c->room = 0;
	c->pages = list;
	c->count = pages_list(list, map, bits);
	c->in_place = true;
	return 0;
}

int capture_missing(struct capture *c, const uint64_t *map, uint64_t bits)
{
	size_t bytes = bitmap_words(bits) * sizeof(*map);

	free(c->missing);
	c->missing = malloc(bytes);
	if (!c->missing)
		return -ENOMEM;
	memcpy(c->missing, map, bytes);
	c->count = 0;
	c->in_place = true;
	return 0;
}

int capture_begin(struct capture *c, struct copier *copier, const uint8_t *ram, const uint64_t *map,
		  uint64_t bits)
{
	struct copy_job job = {.ram = ram};
	int rc = capture_reserve(c, bitmap_count(map, bits));

	if (rc)
		return rc;
	c->in_place = false;
	job.count = c->count = pages_list(c->pages, map, bits);
	job.to = c->copies;
	job.pages = c->pages;
	copier_start(copier, &job);
	return 0;
}

/* The guest stores at the same time, and no order is needed. A race by intent, so that a guest
 * that is a thread of ours (engine sim) is not accused of it. */
__attribute__((no_sanitize("thread"))) void capture_live_page(uint8_t *to, const uint8_t *from)
{
	const __m128i *source = (const __m128i *)from;
	__m128i *target = (__m128i *)to;

	for (unsigned i = 0; i < VM_PAGE_SIZE / sizeof(*source); i++)
		_mm_storeu_si128(target + i, _mm_load_si128(source + i));
}

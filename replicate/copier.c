// SPDX-License-Identifier: Apache-2.0
#include "replicate/copier.h"

#include <emmintrin.h>
#include <stdatomic.h>
#include <string.h>

#define CHUNK_PAGES    32u
#define STREAM_PAGES   2048u /* more do not stay in a cache until they are encoded */
#define PREFETCH_AHEAD 4u

/* ---- a page ------------------------------------------------------------------- */

static void copy_cached(uint8_t *to, const uint8_t *from)
{
	memcpy(to, from, VM_PAGE_SIZE);
}

/* Past the caches: the destination is not read first, and what is cached stays so. */
static void copy_streamed(uint8_t *to, const uint8_t *from)
{
	const __m128i *source = (const __m128i *)from;
	__m128i *target = (__m128i *)to;

	for (unsigned i = 0; i < VM_PAGE_SIZE / sizeof(*source); i++)
		_mm_stream_si128(target + i, _mm_load_si128(source + i));
}

/* Scattered pages are cold: what is slow is the start of each, so ask for it early. */
static void prefetch_page(const uint8_t *page)
{
	for (unsigned at = 0; at < 512; at += 64)
		__builtin_prefetch(page + at);
}

/* ---- a job --------------------------------------------------------------------- */

static void chunk_copy(const struct copier *c, uint64_t first)
{
	const struct copy_job *j = &c->job;
	uint64_t last = j->count - first < CHUNK_PAGES ? j->count : first + CHUNK_PAGES;

	for (uint64_t i = first; i < last; i++) {
		if (i + PREFETCH_AHEAD < last)
			prefetch_page(j->ram + j->pages[i + PREFETCH_AHEAD] * VM_PAGE_SIZE);
		c->copy(j->to + i * VM_PAGE_SIZE, j->ram + j->pages[i] * VM_PAGE_SIZE);
	}
}

void copier_help(void *copier)
{
	struct copier *c = copier;
	uint64_t first;

	while ((first = atomic_fetch_add(&c->next, CHUNK_PAGES)) < c->job.count)
		chunk_copy(c, first);
	_mm_sfence(); /* streamed stores, before whatever says that they are done */
}

void copier_start(struct copier *c, const struct copy_job *job)
{
	c->job = *job;
	c->copy = job->count > STREAM_PAGES ? copy_streamed : copy_cached;
	atomic_store(&c->next, 0);
	vm_help_start(c->vm, copier_help, c);
}

void copier_finish(struct copier *c)
{
	copier_help(c);
	vm_help_wait(c->vm);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "replicate/pages.h"

#define BLOCK_WORDS 8u /* one cache line is compared at a time */
#define CACHE_WAYS  4u

typedef uint64_t word_vector __attribute__((vector_size(64), aligned(1), may_alias));

struct delta_cache {
	uint64_t sets;
	struct delta_entry *entries; /* sets * CACHE_WAYS */
	uint8_t *bytes;
	size_t mapped;
};

static uint64_t load_word(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return v;
}

static inline uint64_t vector_or(const word_vector *v)
{
	return (*v)[0] | (*v)[1] | (*v)[2] | (*v)[3] | (*v)[4] | (*v)[5] | (*v)[6] | (*v)[7];
}

struct run {
	uint8_t *out;
	size_t used, count_at; /* of the open run */
	unsigned end;          /* word after the last run */
};

static void put_u16(uint8_t *at, unsigned v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

static unsigned get_u16(const uint8_t *at)
{
	return (unsigned)at[0] | (unsigned)at[1] << 8;
}

/* False when there is no room. */
static bool run_add(struct run *r, unsigned word, uint64_t changed)
{
	if (word != r->end || !r->used) {
		if (r->used + 12 > PAGE_DELTA_RUNS_MAX)
			return false;
		put_u16(r->out + r->used, word - r->end);
		r->count_at = r->used + 2;
		put_u16(r->out + r->count_at, 0);
		r->used += 4;
	}
	if (r->used + 8 > PAGE_DELTA_RUNS_MAX)
		return false;
	memcpy(r->out + r->used, &changed, 8);
	r->used += 8;
	r->end = word + 1;
	put_u16(r->out + r->count_at, get_u16(r->out + r->count_at) + 1);
	return true;
}

int page_delta(const uint8_t *base, const uint8_t *now, uint8_t out[PAGE_DELTA_RUNS_MAX])
{
	const word_vector *a = (const word_vector *)base, *b = (const word_vector *)now;
	struct run r = {.out = out};

	for (unsigned block = 0; block < PAGE_WORDS / BLOCK_WORDS; block++) {
		word_vector changed = a[block] ^ b[block];

		if (!vector_or(&changed))
			continue;
		for (unsigned i = 0; i < BLOCK_WORDS; i++)
			if (changed[i] && !run_add(&r, block * BLOCK_WORDS + i, changed[i]))
				return -1;
	}
	return (int)r.used;
}

bool page_delta_check(const uint8_t *runs, size_t n)
{
	unsigned word = 0;

	while (n >= 4) {
		unsigned skip = get_u16(runs), count = get_u16(runs + 2);

		runs += 4;
		n -= 4;
		if (!count || skip > PAGE_WORDS - word || count > PAGE_WORDS - word - skip ||
		    n < 8 * (size_t)count)
			return false;
		word += skip + count;
		runs += 8 * (size_t)count;
		n -= 8 * (size_t)count;
	}
	return n == 0 && word > 0;
}

void page_delta_apply(uint8_t *page, const uint8_t *runs, size_t n)
{
	const uint8_t *end = runs + n;

	while (runs < end) {
		unsigned count = get_u16(runs + 2);

		page += 8 * get_u16(runs);
		runs += 4;
		for (unsigned i = 0; i < count; i++, page += 8, runs += 8) {
			uint64_t v = load_word(page) ^ load_word(runs);

			memcpy(page, &v, 8);
		}
	}
}

/* ---- the last versions sent ------------------------------------------------ */

int delta_cache_create(uint64_t bytes, struct delta_cache **out)
{
	struct delta_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->sets = bytes / ((uint64_t)CACHE_WAYS * VM_PAGE_SIZE);
	*out = c;
	if (!c->sets)
		return 0;
	c->mapped = (size_t)c->sets * CACHE_WAYS * VM_PAGE_SIZE;
	c->entries = calloc(c->sets * CACHE_WAYS, sizeof(*c->entries));
	c->bytes = mmap(NULL, c->mapped, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->bytes == MAP_FAILED)
		c->bytes = NULL;
	if (c->entries && c->bytes)
		return 0;
	delta_cache_destroy(c);
	return -ENOMEM;
}

void delta_cache_destroy(struct delta_cache *c)
{
	if (!c)
		return;
	if (c->bytes)
		munmap(c->bytes, c->mapped);
	free(c->entries);
	free(c);
}

static struct delta_entry *set_of(struct delta_cache *c, uint64_t page)
{
	/* Fibonacci hashing: neighbours, and pages a power of two apart, fall apart. */
	uint64_t h = (page * UINT64_C(0x9e3779b97f4a7c15)) >> 20;

	return c->entries + h % c->sets * CACHE_WAYS;
}

struct delta_entry *delta_cache_find(struct delta_cache *c, uint64_t page)
{
	struct delta_entry *e;

	if (!c->sets)
		return NULL;
	e = set_of(c, page);
	for (unsigned i = 0; i < CACHE_WAYS; i++)
		if (e[i].page == page + 1)
			return e + i;
	return NULL;
}

struct delta_entry *delta_cache_claim(struct delta_cache *c, uint64_t page)
{
	struct delta_entry *set, *oldest;

	if (!c->sets)
		return NULL;
	set = oldest = set_of(c, page);
	for (unsigned i = 1; i < CACHE_WAYS; i++)
		if (set[i].epoch < oldest->epoch)
			oldest = set + i;
	oldest->page = page + 1;
	return oldest;
}

uint8_t *delta_cache_bytes(struct delta_cache *c, const struct delta_entry *e)
{
	return c->bytes + (size_t)(e - c->entries) * VM_PAGE_SIZE;
}

// SPDX-License-Identifier: Apache-2.0
/* What one thread of a sender encodes, hashed and packed, without the sending. */
#include <stdlib.h>
#include <string.h>

#include "bench/measure.h"
#include "replicate/pages.h"

#define PAGES    2000u /* 8 MB: more than the caches nearest to a CPU hold */
#define ROUND_NS (300 * NS_PER_MS)

enum content { ZERO, RAW, DELTA_WORD, DELTA_EIGHTH, DELTA_ALL };

struct row {
	const char *name;
	enum content content;
	enum page_compression compression;
};
static const struct row rows[] = {
	{"zero pages", ZERO, COMPRESS_NONE},
	{"raw, no compression", RAW, COMPRESS_NONE},
	{"raw, lz4 (random: does not pack)", RAW, COMPRESS_LZ4},
	{"delta, one word of 512 changed", DELTA_WORD, COMPRESS_NONE},
	{"delta, one word of 512, lz4", DELTA_WORD, COMPRESS_LZ4},
	{"delta, one word of 512, zlib", DELTA_WORD, COMPRESS_ZLIB},
	{"delta, 64 words in 8 places", DELTA_EIGHTH, COMPRESS_NONE},
	{"delta, all words (goes raw)", DELTA_ALL, COMPRESS_NONE},
};

static uint64_t random_next(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void page_fill(uint64_t *page, unsigned first, unsigned words)
{
	for (unsigned i = 0; i < words; i++)
		page[first + i] = random_next();
}

static void page_change(uint64_t *page, unsigned n, enum content content)
{
	if (content == DELTA_WORD)
		page_fill(page, n % PAGE_WORDS, 1);
	for (unsigned i = 0; i < 8 && content == DELTA_EIGHTH; i++)
		page_fill(page, 64 * i + n % 56, 8);
	if (content == DELTA_ALL)
		page_fill(page, 0, PAGE_WORDS);
}

struct encoded {
	struct pages_encoder *encoder;
	uint64_t epoch, bytes;
};

static void batch_end(struct encoded *e)
{
	struct pages_encoded out = {0};

	if (pages_empty(e->encoder))
		return;
	if (pages_finish(e->encoder, e->epoch, &out))
		bench_fail("encode", "no batch");
	e->bytes += out.iov[0].iov_len + out.iov[1].iov_len;
}

static void round_encode(struct encoded *e, const uint8_t *pages, bool remember)
{
	e->epoch++;
	for (unsigned i = 0; i < PAGES; i++) {
		pages_encode(e->encoder, e->epoch, i, pages + (size_t)i * VM_PAGE_SIZE, remember);
		if (pages_full(e->encoder))
			batch_end(e);
	}
	batch_end(e);
}

static void row_measure(const struct row *r, uint8_t *pages, FILE *raw)
{
	bool delta = r->content >= DELTA_WORD;
	struct encoded e = {.epoch = 0};
	uint64_t spent = 0, rounds = 0, at;
	double rate, size;

	if (pages_encoder_create(r->compression, delta ? 2 * PAGES * VM_PAGE_SIZE : 0, &e.encoder))
		bench_fail("encoder", "out of memory");
	memset(pages, 0, (size_t)PAGES * VM_PAGE_SIZE);
	if (r->content != ZERO)
		page_fill((uint64_t *)pages, 0, PAGES * PAGE_WORDS);
	round_encode(&e, pages, delta);
	e.bytes = 0;
	for (; spent < ROUND_NS; rounds++) {
		for (unsigned i = 0; i < PAGES; i++)
			page_change((uint64_t *)pages + (size_t)i * PAGE_WORDS, i, r->content);
		at = clock_ns();
		round_encode(&e, pages, delta);
		spent += clock_ns() - at;
	}
	rate = (double)rounds * PAGES * VM_PAGE_SIZE / (double)spent;
	size = (double)e.bytes / (double)(rounds * PAGES);
	printf("%-38s %10.2f %12.1f\n", r->name, rate, size);
	if (raw)
		fprintf(raw,
			"{\"bench\":\"encode\",\"what\":\"%s\",\"gb_s\":%.3f,\"bytes\":%.1f}\n",
			r->name, rate, size);
	pages_encoder_destroy(e.encoder);
}

int main(int argc, char **argv)
{
	uint8_t *pages = aligned_alloc(VM_PAGE_SIZE, (size_t)PAGES * VM_PAGE_SIZE);
	struct bench_options o;

	bench_options_parse(argc, argv, &o);
	if (!pages)
		bench_fail("pages", "out of memory");
	printf("\nencode (one thread, hash included, without encryption)\n");
	printf("%-38s %10s %12s\n", "what", "GB/s", "bytes a page");
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		row_measure(&rows[i], pages, o.raw);
	free(pages);
	return 0;
}

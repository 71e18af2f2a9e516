// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <xxh_x86dispatch.h> /* the same hash, with what this CPU has */
#include <zlib.h>

#include "replicate/capture.h"
#include "replicate/pages.h"

/* A batch that packing does not make at least an eighth smaller goes as it is, and
 * after such a one the next few are not even tried. */
#define PACK_WORTH(n)  ((n) - (n) / 8)
#define PACK_REST_MAX  32u
#define PACK_BYTES_MIN 256u

struct pages_encoder {
	enum page_compression way;
	struct delta_cache *cache;
	z_stream deflate;
	bool deflate_ready;
	unsigned rest, next_rest; /* batches not to be tried */
	uint32_t count, deltas;
	size_t used, packed_cap;
	uint8_t *body, *packed;
	uint8_t stable[VM_PAGE_SIZE]; /* of a page that may change */
};

static int pack_setup(struct pages_encoder *p)
{
	size_t lz4 = (size_t)LZ4_compressBound((int)PAGES_BODY_MAX);
	size_t zlib = compressBound(PAGES_BODY_MAX);

	p->packed_cap = lz4 > zlib ? lz4 : zlib;
	p->body = malloc(PAGES_BODY_MAX);
	p->packed = malloc(p->packed_cap);
	if (!p->body || !p->packed)
		return -ENOMEM;
	if (p->way != COMPRESS_ZLIB)
		return 0;
	if (deflateInit(&p->deflate, Z_BEST_SPEED) != Z_OK)
		return -ENOMEM;
	p->deflate_ready = true;
	return 0;
}

int pages_encoder_create(enum page_compression compression, uint64_t delta_bytes,
			 struct pages_encoder **out)
{
	struct pages_encoder *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return -ENOMEM;
	p->way = compression == COMPRESS_AUTO ? COMPRESS_LZ4 : compression;
	rc = delta_cache_create(delta_bytes, &p->cache);
	if (!rc)
		rc = pack_setup(p);
	if (rc) {
		pages_encoder_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

void pages_encoder_destroy(struct pages_encoder *p)
{
	if (!p)
		return;
	if (p->deflate_ready)
		deflateEnd(&p->deflate);
	delta_cache_destroy(p->cache);
	free(p->body);
	free(p->packed);
	free(p);
}

void pages_encoder_use(struct pages_encoder *p, enum page_compression way)
{
	p->way = way;
}

static void store(uint8_t *at, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint8_t *item_begin(struct pages_encoder *p, uint64_t page, enum page_kind kind)
{
	uint8_t *at = p->body + p->used;

	store(at, page << 2 | kind, 8);
	p->used += 8;
	p->count++;
	return at + 8;
}

static void put_raw(struct pages_encoder *p, uint64_t page, const uint8_t *bytes)
{
	memcpy(item_begin(p, page, PAGE_RAW), bytes, VM_PAGE_SIZE);
	p->used += VM_PAGE_SIZE;
}

static void put_delta(struct pages_encoder *p, uint64_t page, uint64_t base, const uint8_t *runs,
		      size_t n)
{
	uint8_t *at = item_begin(p, page, PAGE_DELTA);

	store(at, base, 4);
	store(at + 4, n, 2);
	store(at + 6, 0, 2);
	memcpy(at + PAGE_DELTA_HEADER, runs, n);
	p->used += PAGE_DELTA_HEADER + n;
	p->deltas++;
}

static void encode_known(struct pages_encoder *p, struct delta_entry *known, uint64_t epoch,
			 uint64_t page, const uint8_t *bytes)
{
	uint8_t *base = delta_cache_bytes(p->cache, known);
	uint8_t runs[PAGE_DELTA_RUNS_MAX];
	int n = page_delta(base, bytes, runs);

	if (!n)
		return;
	if (n < 0) {
		put_raw(p, page, bytes);
		memcpy(base, bytes, VM_PAGE_SIZE);
	} else {
		put_delta(p, page, known->epoch, runs, (size_t)n);
		page_delta_apply(base, runs, (size_t)n);
	}
	known->epoch = epoch;
}

void pages_encode(struct pages_encoder *p, uint64_t epoch, uint64_t page, const uint8_t *bytes,
		  bool remember)
{
	struct delta_entry *known = delta_cache_find(p->cache, page);

	if (page_is_zero(bytes)) {
		if (known)
			known->page = known->epoch = 0;
		item_begin(p, page, PAGE_ZERO);
		return;
	}
	if (known) {
		encode_known(p, known, epoch, page, bytes);
		return;
	}
	put_raw(p, page, bytes);
	known = remember ? delta_cache_claim(p->cache, page) : NULL;
	if (known) {
		known->epoch = epoch;
		memcpy(delta_cache_bytes(p->cache, known), bytes, VM_PAGE_SIZE);
	}
}

/* Copied to where it would lie as a raw page: most are, and need no second copy then. */
void pages_encode_live(struct pages_encoder *p, uint64_t epoch, uint64_t page, const uint8_t *bytes,
		       bool remember)
{
	uint8_t *at = p->body + p->used + 8;

	if (remember || delta_cache_find(p->cache, page)) {
		capture_live_page(p->stable, bytes);
		pages_encode(p, epoch, page, p->stable, remember);
		return;
	}
	capture_live_page(at, bytes);
	if (page_is_zero(at)) {
		item_begin(p, page, PAGE_ZERO);
	} else {
		item_begin(p, page, PAGE_RAW);
		p->used += VM_PAGE_SIZE;
	}
}

bool pages_full(const struct pages_encoder *p)
{
	return p->count == PAGES_BATCH_MAX;
}

bool pages_empty(const struct pages_encoder *p)
{
	return p->count == 0;
}

static size_t pack_none(struct pages_encoder *p, size_t most)
{
	return 0;
}

static size_t pack_lz4(struct pages_encoder *p, size_t most)
{
	int n = LZ4_compress_default((const char *)p->body, (char *)p->packed, (int)p->used,
				     (int)most);

	return n > 0 ? (size_t)n : 0;
}

static size_t pack_zlib(struct pages_encoder *p, size_t most)
{
	z_stream *z = &p->deflate;

	if (deflateReset(z) != Z_OK)
		return 0;
	z->next_in = p->body;
	z->avail_in = (uInt)p->used;
	z->next_out = p->packed;
	z->avail_out = (uInt)most;
	return deflate(z, Z_FINISH) == Z_STREAM_END ? most - z->avail_out : 0;
}

/* Bytes of the packed body, 0 = it does not help. */
static size_t pack(struct pages_encoder *p)
{
	static size_t (*const packers[])(struct pages_encoder *, size_t) = {
		[COMPRESS_NONE] = pack_none,
		[COMPRESS_LZ4] = pack_lz4,
		[COMPRESS_ZLIB] = pack_zlib,
	};
	size_t n;

	if (p->used < PACK_BYTES_MIN)
		return 0;
	if (p->rest) {
		p->rest--;
		return 0;
	}
	n = packers[p->way](p, PACK_WORTH(p->used));
	p->next_rest = n ? 0 : p->next_rest * 2 + 1;
	if (p->next_rest > PACK_REST_MAX)
		p->next_rest = PACK_REST_MAX;
	p->rest = p->next_rest;
	return n;
}

int pages_finish(struct pages_encoder *p, uint64_t epoch, struct pages_encoded *out)
{
	uint64_t began = clock_ns();
	size_t packed = pack(p);
	uint8_t *h = out->header;

	out->pack_ns = clock_ns() - began;
	out->unpacked = (uint32_t)p->used;
	out->hash = XXH3_64bits(p->body, p->used);
	out->count = p->count;
	out->deltas = p->deltas;
	store(h, epoch, 8);
	store(h + 8, p->count, 4);
	store(h + 12, packed ? p->way : COMPRESS_NONE, 4);
	store(h + 16, p->used, 4);
	store(h + 20, 0, 4);
	store(h + 24, out->hash, 8);
	out->iov[0] = (struct iovec){h, PAGES_HEADER_SIZE};
	out->iov[1] = packed ? (struct iovec){p->packed, packed} : (struct iovec){p->body, p->used};
	p->used = 0;
	p->count = p->deltas = 0;
	return out->count ? 0 : -EINVAL;
}

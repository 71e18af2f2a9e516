// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <inttypes.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <xxh_x86dispatch.h> /* the same hash, with what this CPU has */
#include <zlib.h>

#include "replicate/pages.h"

struct pages_header {
	uint64_t epoch, hash;
	uint32_t count, body_len;
	uint8_t compression;
};

static int header_check(const struct pages_header *h, uint32_t zeros, size_t packed,
			struct error *e)
{
	if (zeros)
		return error_set(e, -EBADMSG, "pages: reserved bytes are not zero");
	if (!h->count || h->count > PAGES_BATCH_MAX)
		return error_set(e, -EBADMSG, "pages: a batch of %u", h->count);
	if (h->body_len < 8 * h->count || h->body_len > PAGES_BODY_MAX)
		return error_set(e, -EBADMSG, "pages: a body of %u bytes for %u pages", h->body_len,
				 h->count);
	if (h->compression > COMPRESS_ZLIB)
		return error_set(e, -EBADMSG, "pages: unknown compression %u", h->compression);
	if (h->compression == COMPRESS_NONE ? packed != h->body_len : packed >= h->body_len)
		return error_set(e, -EBADMSG, "pages: %zu bytes for a body of %u", packed,
				 h->body_len);
	return 0;
}

static int header_read(struct cursor *c, struct pages_header *h, struct error *e)
{
	uint8_t padding[3];
	uint32_t zeros;

	h->epoch = cursor_u64(c);
	h->count = cursor_u32(c);
	h->compression = cursor_u8(c);
	cursor_copy(c, padding, sizeof(padding));
	h->body_len = cursor_u32(c);
	zeros = cursor_u32(c) | padding[0] | padding[1] | padding[2];
	h->hash = cursor_u64(c);
	if (c->bad)
		return error_set(e, -EBADMSG, "pages: the record is too short");
	return header_check(h, zeros, c->left, e);
}

static bool unpack_lz4(const uint8_t *from, size_t n, uint8_t *to, size_t want)
{
	return LZ4_decompress_safe((const char *)from, (char *)to, (int)n, (int)want) == (int)want;
}

static bool unpack_zlib(const uint8_t *from, size_t n, uint8_t *to, size_t want)
{
	uLongf got = want;
	uLong used = n;

	return uncompress2(to, &got, from, &used) == Z_OK && got == want && used == n;
}

static int body_unpack(const struct cursor *c, const struct pages_header *h, struct pages_batch *b,
		       struct error *e)
{
	static bool (*const unpackers[])(const uint8_t *, size_t, uint8_t *, size_t) = {
		[COMPRESS_LZ4] = unpack_lz4,
		[COMPRESS_ZLIB] = unpack_zlib,
	};
	uint8_t *to = malloc(h->body_len); /* no more: it may be staged for a while */

	if (!to)
		return error_set(e, -ENOMEM, "pages: out of memory");
	b->body = (struct buf){.data = to, .len = h->body_len, .cap = h->body_len};
	if (!unpackers[h->compression](c->at, c->left, to, h->body_len))
		return error_set(e, -EBADMSG, "pages: the packed body is damaged");
	return 0;
}

static int body_take(const struct cursor *c, const struct pages_header *h, struct pages_batch *b,
		     struct error *e)
{
	int rc = 0;

	if (h->compression == COMPRESS_NONE) {
		b->body = (struct buf){.data = (uint8_t *)c->at, .len = h->body_len};
		b->borrowed = true;
	} else {
		rc = body_unpack(c, h, b, e);
	}
	if (!rc && XXH3_64bits(b->body.data, b->body.len) != h->hash)
		rc = error_set(e, -EBADMSG, "pages: the checksum is wrong");
	return rc;
}

static void item_delta(struct cursor *c, struct page_item *out, bool *padded)
{
	out->base = cursor_u32(c);
	out->len = cursor_u16(c);
	*padded = cursor_u16(c) != 0;
	out->data = cursor_take(c, out->len);
}

/* False when it is not there whole. */
static bool item_read(struct cursor *c, struct page_item *out, bool *padded)
{
	uint64_t word = cursor_u64(c);

	*out = (struct page_item){.page = word >> 2, .kind = (enum page_kind)(word & 3)};
	*padded = false;
	if (out->kind == PAGE_RAW) {
		out->len = VM_PAGE_SIZE;
		out->data = cursor_take(c, VM_PAGE_SIZE);
	} else if (out->kind == PAGE_DELTA) {
		item_delta(c, out, padded);
	}
	return !c->bad;
}

static int item_check(const struct page_item *i, bool padded, uint64_t ram_pages, unsigned stream,
		      unsigned streams, struct error *e)
{
	if (i->page >= ram_pages)
		return error_set(e, -EBADMSG, "pages: page %" PRIu64 " of %" PRIu64, i->page,
				 ram_pages);
	if (page_stream(i->page, streams) != stream)
		return error_set(e, -EBADMSG, "pages: page %" PRIu64 " on a wrong stream", i->page);
	if (i->kind > PAGE_DELTA)
		return error_set(e, -EBADMSG, "pages: page %" PRIu64 " of unknown kind", i->page);
	if (i->kind == PAGE_DELTA &&
	    (padded || i->len > PAGE_DELTA_RUNS_MAX || !page_delta_check(i->data, i->len)))
		return error_set(e, -EBADMSG, "pages: page %" PRIu64 " has a damaged delta",
				 i->page);
	return 0;
}

static int body_check(const struct pages_batch *b, uint64_t ram_pages, unsigned stream,
		      unsigned streams, struct error *e)
{
	struct cursor c = cursor_of(b->body.data, b->body.len);
	struct page_item item;
	bool padded;
	int rc;

	for (uint32_t i = 0; i < b->count; i++) {
		if (!item_read(&c, &item, &padded))
			return error_set(e, -EBADMSG, "pages: the body is too short");
		rc = item_check(&item, padded, ram_pages, stream, streams, e);
		if (rc)
			return rc;
	}
	if (cursor_finish(&c))
		return error_set(e, -EBADMSG, "pages: %zu bytes too many", c.left);
	return 0;
}

int pages_decode(const uint8_t *payload, size_t len, uint64_t ram_pages, unsigned stream,
		 unsigned streams, struct pages_batch *out, struct error *e)
{
	struct cursor c = cursor_of(payload, len);
	struct pages_batch b = {0};
	struct pages_header h;
	int rc;

	rc = header_read(&c, &h, e);
	if (rc)
		return rc;
	b.epoch = h.epoch;
	b.hash = h.hash;
	b.count = h.count;
	rc = body_take(&c, &h, &b, e);
	if (!rc)
		rc = body_check(&b, ram_pages, stream, streams, e);
	if (rc) {
		pages_batch_free(&b);
		return rc;
	}
	*out = b;
	return 0;
}

int pages_batch_keep(struct pages_batch *b)
{
	uint8_t *own;

	if (!b->borrowed)
		return 0;
	own = malloc(b->body.len); /* as much as is needed: it may be staged for a while */
	if (!own)
		return -ENOMEM;
	memcpy(own, b->body.data, b->body.len);
	b->body.data = own;
	b->body.cap = b->body.len;
	b->borrowed = false;
	return 0;
}

void pages_batch_free(struct pages_batch *b)
{
	if (!b->borrowed)
		buf_free(&b->body);
	b->body = (struct buf){0};
	b->borrowed = false;
}

bool pages_next(struct cursor *c, struct page_item *out)
{
	bool padded;

	return c->left && item_read(c, out, &padded);
}

void page_apply(uint8_t *ram, const struct page_item *item)
{
	uint8_t *page = ram + item->page * VM_PAGE_SIZE;

	if (item->kind == PAGE_ZERO)
		memset(page, 0, VM_PAGE_SIZE);
	else if (item->kind == PAGE_RAW)
		memcpy(page, item->data, VM_PAGE_SIZE);
	else
		page_delta_apply(page, item->data, item->len);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Pages on the wire: the payload of a PAGES record (docs/protocol.md).
 *
 *   header  u64 epoch  u32 pages  u8 compression  u8[3] zero  u32 body bytes, unpacked
 *           u32 zero  u64 xxh3-64 of the unpacked body
 *   body    a page each: u64 RAM page << 2 | kind, then
 *             zero    nothing
 *             raw     4096 bytes
 *             delta   u32 epoch of the base (its low half)  u16 bytes of runs  u16 zero
 *                     runs: u16 words to skip  u16 words  then that many words, each XORed
 *                     with the base's
 *
 * The base of a delta is the last version of that page that was sent; when the epoch
 * is committed, the standby's image holds exactly that. Each page always goes by the
 * same stream (page_stream()), so its versions never overtake each other, and each
 * stream can keep the last versions sent without asking the others.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_PAGES_H
#define POLLUX_REPLICATE_PAGES_H

#include "replicate/replicate.h"

#define PAGES_BATCH_MAX      256u
#define PAGES_HEADER_SIZE    32u
#define PAGES_ITEM_MAX       (8u + VM_PAGE_SIZE)
#define PAGES_BODY_MAX       (PAGES_BATCH_MAX * PAGES_ITEM_MAX)
#define PAGE_WORDS           (VM_PAGE_SIZE / 8)
#define PAGE_DELTA_HEADER    8u
#define PAGE_DELTA_RUNS_MAX  3072u /* longer ones go raw */
#define PAGE_NUMBER_MAX      (UINT64_C(1) << 52)
#define PAGES_A_STREAM_GROUP 16u

enum page_kind { PAGE_ZERO, PAGE_RAW, PAGE_DELTA };

static inline unsigned page_stream(uint64_t page, unsigned streams)
{
	return (unsigned)(page / PAGES_A_STREAM_GROUP % streams);
}

/* ---- delta -------------------------------------------------------------- */

/* The runs that make `now` out of `base`; bytes written, 0 = they are equal, -1 = more
 * than PAGE_DELTA_RUNS_MAX. */
int page_delta(const uint8_t *base, const uint8_t *now, uint8_t out[PAGE_DELTA_RUNS_MAX]);
bool page_delta_check(const uint8_t *runs, size_t n);
void page_delta_apply(uint8_t *page, const uint8_t *runs, size_t n); /* checked runs */

/* The last versions sent: bounded, four places for each page to be in. */
struct delta_cache;
struct delta_entry {
	uint64_t page; /* + 1; 0 = free */
	uint64_t epoch;
};
int delta_cache_create(uint64_t bytes, struct delta_cache **out) MUST_CHECK; /* 0: holds nothing */
void delta_cache_destroy(struct delta_cache *c);
struct delta_entry *delta_cache_find(struct delta_cache *c, uint64_t page);
/* A place for `page`, the oldest of the four is given up; NULL = holds nothing. */
struct delta_entry *delta_cache_claim(struct delta_cache *c, uint64_t page);
uint8_t *delta_cache_bytes(struct delta_cache *c, const struct delta_entry *e);

/* ---- encode -------------------------------------------------------------- */

struct pages_encoder;
struct pages_encoded {
	uint8_t header[PAGES_HEADER_SIZE];
	struct iovec iov[2];      /* header and body; valid until the next add */
	uint64_t hash, pack_ns;   /* pack_ns: spent on compression */
	uint32_t count, unpacked; /* bytes of the body before it */
	uint32_t deltas;          /* of the pages */
};
/* COMPRESS_AUTO: by lz4 until pages_encoder_use() says otherwise. */
int pages_encoder_create(enum page_compression compression, uint64_t delta_bytes,
			 struct pages_encoder **out) MUST_CHECK;
void pages_encoder_destroy(struct pages_encoder *p);
void pages_encoder_use(struct pages_encoder *p, enum page_compression way); /* NONE or LZ4 */
/* Add a page. One that equals the last version sent takes no room. `remember`: keep
 * it as a base. */
void pages_encode(struct pages_encoder *p, uint64_t epoch, uint64_t page, const uint8_t *bytes,
		  bool remember);
/* The same for a page that the guest may be writing. */
void pages_encode_live(struct pages_encoder *p, uint64_t epoch, uint64_t page, const uint8_t *bytes,
		       bool remember);
bool pages_full(const struct pages_encoder *p);
bool pages_empty(const struct pages_encoder *p);
int pages_finish(struct pages_encoder *p, uint64_t epoch, struct pages_encoded *out) MUST_CHECK;

/* ---- decode --------------------------------------------------------------- */

struct pages_batch {
	uint64_t epoch, hash;
	uint32_t count;
	struct buf body; /* unpacked */
	bool borrowed;   /* ...and still in the payload */
};
struct page_item {
	uint64_t page;
	enum page_kind kind;
	uint32_t base; /* delta: low half of its epoch */
	const uint8_t *data;
	uint32_t len;
};
/* Check everything that can be checked without an image. `stream` counts from 0. A body that
 * was not packed is not copied: the batch is valid for as long as the payload, or kept. */
int pages_decode(const uint8_t *payload, size_t len, uint64_t ram_pages, unsigned stream,
		 unsigned streams, struct pages_batch *out, struct error *e) MUST_CHECK;
int pages_batch_keep(struct pages_batch *b) MUST_CHECK;
void pages_batch_free(struct pages_batch *b);
/* Of a checked body: the next item, false at the end. */
bool pages_next(struct cursor *c, struct page_item *out);
void page_apply(uint8_t *ram, const struct page_item *item);

#endif

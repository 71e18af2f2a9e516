// SPDX-License-Identifier: Apache-2.0
/* An epoch as one stream of records, for whoever carries them elsewhere than in a session. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "replicate/capture.h"
#include "replicate/pages.h"
#include "replicate/records.h"

#define THE_EPOCH UINT64_C(1)

_Static_assert((int)EPOCH_RECORD_BEGIN == RECORD_EPOCH_BEGIN &&
		       (int)EPOCH_RECORD_PAGES == RECORD_PAGES &&
		       (int)EPOCH_RECORD_STATE == RECORD_STATE &&
		       (int)EPOCH_RECORD_END == RECORD_EPOCH_END,
	       "the types of docs/protocol.md");

/* To read a page that nobody has ever touched would allocate it. What is touched from now on
 * is logged, by whoever copies a guest that runs. */
void epoch_pages_touched(const struct vm *vm, uint64_t *map)
{
	uint64_t pages = vm_ram_pages(vm);
	off_t end = (off_t)(pages * VM_PAGE_SIZE), data = 0, hole;
	int fd = vm_ram_fd(vm);

	while (data < end && (data = lseek(fd, data, SEEK_DATA)) >= 0) {
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole <= data)
			break;
		bitmap_set_range(map, (uint64_t)data / VM_PAGE_SIZE,
				 (uint64_t)(hole - data + VM_PAGE_SIZE - 1) / VM_PAGE_SIZE);
		data = hole;
	}
	if (data < end && errno != ENXIO) /* no such thing as a hole there */
		bitmap_set_range(map, 0, pages);
}

/* ---- write ------------------------------------------------------------------- */

struct epoch_writer {
	struct pages_encoder *encoder;
	struct epoch_sum sum;
	epoch_emit_fn *emit;
	void *ctx;
	uint64_t pages[PAGES_BATCH_MAX];
	unsigned count;
};

int epoch_writer_create(enum page_compression compression, epoch_emit_fn *emit, void *ctx,
			struct epoch_writer **out)
{
	struct epoch_writer *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return -ENOMEM;
	w->emit = emit;
	w->ctx = ctx;
	rc = pages_encoder_create(compression, 0, &w->encoder);
	if (rc) {
		free(w);
		return rc;
	}
	*out = w;
	return 0;
}

void epoch_writer_destroy(struct epoch_writer *w)
{
	if (!w)
		return;
	pages_encoder_destroy(w->encoder);
	free(w);
}

static int buf_emit(struct epoch_writer *w, enum epoch_record type, struct buf *b)
{
	struct iovec iov = {b->data, b->len};
	int rc = buf_check(b);

	if (!rc)
		rc = w->emit(w->ctx,
			     &(struct epoch_emitted){.type = type, .iov = &iov, .iov_count = 1});
	buf_free(b);
	return rc;
}

int epoch_writer_begin(struct epoch_writer *w)
{
	struct buf b = {0};

	epoch_encode(THE_EPOCH, &b);
	return buf_emit(w, EPOCH_RECORD_BEGIN, &b);
}

int epoch_writer_flush(struct epoch_writer *w)
{
	struct epoch_emitted r = {.type = EPOCH_RECORD_PAGES, .iov_count = 2, .pages = w->pages};
	struct pages_encoded encoded;
	int rc;

	if (!w->count)
		return 0;
	rc = pages_finish(w->encoder, THE_EPOCH, &encoded);
	if (rc)
		return rc;
	epoch_sum_pages(&w->sum, encoded.count, encoded.hash);
	r.iov = encoded.iov;
	r.page_count = w->count;
	w->count = 0;
	return w->emit(w->ctx, &r);
}

int epoch_writer_page(struct epoch_writer *w, uint64_t page, const uint8_t *bytes)
{
	uint8_t copy[VM_PAGE_SIZE] __attribute__((aligned(64)));

	capture_live_page(copy, bytes);
	pages_encode(w->encoder, THE_EPOCH, page, copy, false);
	w->pages[w->count++] = page;
	return w->count == PAGES_BATCH_MAX ? epoch_writer_flush(w) : 0;
}

static int state_emit(struct epoch_writer *w, const void *state, size_t n)
{
	uint8_t epoch[8] = {THE_EPOCH};
	struct iovec iov[] = {{epoch, sizeof(epoch)}, {(void *)state, n}};

	epoch_sum_state(&w->sum, XXH3_64bits(state, n));
	return w->emit(w->ctx, &(struct epoch_emitted){
				       .type = EPOCH_RECORD_STATE, .iov = iov, .iov_count = 2});
}

int epoch_writer_finish(struct epoch_writer *w, const void *state, size_t n)
{
	struct buf b = {0};
	int rc = epoch_writer_flush(w);

	if (!rc)
		rc = state_emit(w, state, n);
	if (rc)
		return rc;
	epoch_end_encode(THE_EPOCH, &w->sum, &b);
	return buf_emit(w, EPOCH_RECORD_END, &b);
}

/* ---- read ---------------------------------------------------------------------- */

enum reader_place { PLACE_BEGIN, PLACE_PAGES, PLACE_END, PLACE_OVER };

struct epoch_reader {
	uint64_t ram_pages;
	epoch_page_fn *fn;
	void *ctx;
	struct epoch_sum sum;
	enum reader_place place;
};

/* Before anything is handed out: nothing here keeps what a delta would be applied to. */
static int kinds_check(const struct pages_batch *b, struct error *e)
{
	struct cursor c = cursor_of(b->body.data, b->body.len);
	struct page_item item;

	while (pages_next(&c, &item))
		if (item.kind == PAGE_DELTA)
			return error_set(e, -EBADMSG, "pages: page %" PRIu64 " is a delta",
					 item.page);
	return 0;
}

static int batch_give(const struct pages_batch *b, epoch_page_fn *fn, void *ctx)
{
	struct cursor c = cursor_of(b->body.data, b->body.len);
	struct page_item item;
	int rc = 0;

	while (!rc && pages_next(&c, &item))
		rc = fn(ctx, item.page, item.kind == PAGE_RAW ? item.data : NULL);
	return rc;
}

static int pages_take(const uint8_t *payload, size_t len, uint64_t ram_pages, epoch_page_fn *fn,
		      void *ctx, struct epoch_sum *sum, struct error *e)
{
	struct pages_batch b;
	int rc = pages_decode(payload, len, ram_pages, 0, 1, &b, e);

	if (rc)
		return rc;
	if (b.epoch != THE_EPOCH)
		rc = error_set(e, -EBADMSG, "pages: of epoch %" PRIu64, b.epoch);
	if (!rc)
		rc = kinds_check(&b, e);
	if (!rc)
		epoch_sum_pages(sum, b.count, b.hash);
	if (!rc)
		rc = batch_give(&b, fn, ctx);
	pages_batch_free(&b);
	return rc;
}

int epoch_pages_read(const uint8_t *payload, size_t len, uint64_t ram_pages, epoch_page_fn *fn,
		     void *ctx, struct error *e)
{
	struct epoch_sum sum = {0};

	return pages_take(payload, len, ram_pages, fn, ctx, &sum, e);
}

int epoch_state_read(const uint8_t *payload, size_t len, const uint8_t **state, size_t *n,
		     struct error *e)
{
	struct cursor c = cursor_of(payload, len);
	uint64_t epoch = cursor_u64(&c);

	if (c.bad || epoch != THE_EPOCH)
		return error_set(e, -EBADMSG, "machine state: the record is damaged");
	*n = c.left;
	*state = cursor_take(&c, c.left);
	return 0;
}

int epoch_reader_create(uint64_t ram_pages, epoch_page_fn *fn, void *ctx, struct epoch_reader **out)
{
	struct epoch_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	*r = (struct epoch_reader){.ram_pages = ram_pages, .fn = fn, .ctx = ctx};
	*out = r;
	return 0;
}

void epoch_reader_destroy(struct epoch_reader *r)
{
	free(r);
}

bool epoch_reader_whole(const struct epoch_reader *r)
{
	return r->place == PLACE_OVER;
}

static int begin_take(struct epoch_reader *r, const uint8_t *payload, size_t len, struct error *e)
{
	uint64_t epoch;

	if (epoch_decode(payload, len, &epoch) || epoch != THE_EPOCH)
		return error_set(e, -EBADMSG, "the record that begins the epoch is damaged");
	r->place = PLACE_PAGES;
	return 0;
}

static int state_take(struct epoch_reader *r, const uint8_t *payload, size_t len, struct error *e)
{
	const uint8_t *state;
	size_t n;
	int rc = epoch_state_read(payload, len, &state, &n, e);

	if (rc)
		return rc;
	epoch_sum_state(&r->sum, XXH3_64bits(state, n));
	r->place = PLACE_END;
	return 0;
}

static int end_take(struct epoch_reader *r, const uint8_t *payload, size_t len, struct error *e)
{
	struct epoch_sum sum;
	uint64_t epoch;

	if (epoch_end_decode(payload, len, &epoch, &sum) || epoch != THE_EPOCH)
		return error_set(e, -EBADMSG, "the record that ends the epoch is damaged");
	if (!epoch_sum_equal(&sum, &r->sum))
		return error_set(e, -EBADMSG,
				 "the sum over all records is wrong: %" PRIu64 " of %" PRIu64
				 " pages came, or others than were written",
				 r->sum.pages, sum.pages);
	r->place = PLACE_OVER;
	return 0;
}

int epoch_reader_take(struct epoch_reader *r, uint16_t type, const uint8_t *payload, size_t len,
		      struct error *e)
{
	if (type == EPOCH_RECORD_BEGIN && r->place == PLACE_BEGIN)
		return begin_take(r, payload, len, e);
	if (type == EPOCH_RECORD_PAGES && r->place == PLACE_PAGES)
		return pages_take(payload, len, r->ram_pages, r->fn, r->ctx, &r->sum, e);
	if (type == EPOCH_RECORD_STATE && r->place == PLACE_PAGES)
		return state_take(r, payload, len, e);
	if (type == EPOCH_RECORD_END && r->place == PLACE_END)
		return end_take(r, payload, len, e);
	return error_set(e, -EBADMSG, "a record of type %u in the wrong place", type);
}

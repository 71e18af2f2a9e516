// SPDX-License-Identifier: Apache-2.0
/* From a vm to an image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "migrate/image.h"

#define LOG_MODULE  "image"
#define ROUNDS_MAX  8u
#define ROUND_SMALL 2048u /* pages that are as well written in the pause */

struct save {
	struct vm *vm;
	const struct image_save_options *o;
	struct image_info info; /* texts are the caller's */
	struct image_out *out;
	struct epoch_writer *epoch;
	XXH3_state_t *hash; /* of the head, then of what follows the pages */
	bool hashing;
	uint64_t *where; /* of each page: the PAGES record of its last version, + 1; 0 = none */
	uint64_t *map;   /* to be written */
	uint64_t pages;
	struct image_tail tail;
};

/* ---- records ------------------------------------------------------------------ */

static int part_put(struct save *s, const void *data, size_t n)
{
	if (s->hashing && XXH3_64bits_update(s->hash, data, n) != XXH_OK)
		return -EINVAL;
	return image_out_write(s->out, data, n);
}

static int record_put(struct save *s, uint16_t type, const struct iovec *iov, int n)
{
	uint8_t header[RECORD_HEADER_SIZE] = {(uint8_t)type, (uint8_t)(type >> 8),
					      RECORD_MANDATORY};
	size_t len = 0;
	int rc;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (len > CHANNEL_RECORD_MAX)
		return -EMSGSIZE;
	for (unsigned i = 0; i < 4; i++)
		header[4 + i] = (uint8_t)(len >> (8 * i));
	rc = part_put(s, header, sizeof(header));
	for (int i = 0; !rc && i < n; i++)
		rc = part_put(s, iov[i].iov_base, iov[i].iov_len);
	return rc;
}

static int buf_record_put(struct save *s, uint16_t type, struct buf *b)
{
	struct iovec iov = {b->data, b->len};
	int rc = buf_check(b);

	if (!rc)
		rc = record_put(s, type, &iov, 1);
	buf_free(b);
	return rc;
}

static int pages_note(struct save *s, const struct epoch_emitted *r)
{
	struct image_progress *p = s->o->progress;

	for (unsigned i = 0; i < r->page_count; i++)
		s->where[r->pages[i]] = image_out_offset(s->out) + 1;
	atomic_fetch_add(&p->pages, r->page_count);
	atomic_store(&p->bytes, image_out_bytes(s->out));
	return atomic_load(&p->cancel) ? -ECANCELED : 0;
}

/* The head is over where the epoch begins; what follows the pages begins with the state. */
static int on_record(void *ctx, const struct epoch_emitted *r)
{
	struct save *s = ctx;
	int rc;

	if (r->type == EPOCH_RECORD_BEGIN) {
		s->tail.head = image_out_offset(s->out);
		s->tail.head_hash = XXH3_64bits_digest(s->hash);
		s->hashing = false;
	} else if (r->type == EPOCH_RECORD_STATE) {
		s->tail.state = image_out_offset(s->out);
		s->hashing = XXH3_64bits_reset(s->hash) == XXH_OK;
	} else if (r->type == EPOCH_RECORD_PAGES) {
		rc = pages_note(s, r);
		if (rc)
			return rc;
	}
	return record_put(s, (uint16_t)r->type, r->iov, r->iov_count);
}

/* ---- head and end --------------------------------------------------------------- */

static int head_put(struct save *s)
{
	struct buf b = {0};
	int rc;

	s->hashing = XXH3_64bits_reset(s->hash) == XXH_OK;
	image_info_encode(&s->info, &b);
	rc = buf_record_put(s, IMAGE_RECORD_IMAGE, &b);
	for (unsigned i = 0; !rc && i < s->info.disk_count; i++) {
		image_disk_encode(i, &s->info.disks[i], &b);
		rc = buf_record_put(s, IMAGE_RECORD_DISK, &b);
	}
	return rc ? rc : epoch_writer_begin(s->epoch);
}

/* Pages from `from` on whose last version is in the same record. */
static uint64_t run_end(const struct save *s, uint64_t from)
{
	uint64_t to = from + 1;

	while (to < s->pages && s->where[to] == s->where[from])
		to++;
	return to;
}

static int index_flush(struct save *s, struct buf *b, uint32_t *runs)
{
	if (!*runs)
		return 0;
	buf_patch_u32(b, 0, *runs);
	s->tail.runs += *runs;
	*runs = 0;
	return buf_record_put(s, IMAGE_RECORD_INDEX, b);
}

static int index_put(struct save *s)
{
	struct buf b = {0};
	uint32_t runs = 0;
	int rc = 0;

	s->tail.index = image_out_offset(s->out);
	for (uint64_t page = 0, end; !rc && page < s->pages; page = end) {
		end = run_end(s, page);
		if (!s->where[page])
			continue;
		if (!runs)
			buf_put_u64(&b, 0);
		buf_put_u64(&b, page);
		buf_put_u64(&b, end - page);
		buf_put_u64(&b, s->where[page] - 1);
		s->tail.pages += end - page;
		if (++runs == INDEX_RUNS_MAX)
			rc = index_flush(s, &b, &runs);
	}
	if (!rc)
		rc = index_flush(s, &b, &runs);
	buf_free(&b);
	return rc;
}

static int tail_put(struct save *s)
{
	struct buf b = {0};

	s->tail.tail = image_out_offset(s->out);
	s->tail.rest_hash = XXH3_64bits_digest(s->hash);
	s->hashing = false;
	image_tail_encode(&s->tail, &b);
	return buf_record_put(s, IMAGE_RECORD_TAIL, &b);
}

/* ---- memory ----------------------------------------------------------------------- */

static int pages_put(struct save *s)
{
	const uint8_t *ram = vm_ram(s->vm);
	uint64_t page = bitmap_next(s->map, s->pages, 0);
	int rc = 0;

	atomic_fetch_add(&s->o->progress->pages_total, bitmap_count(s->map, s->pages));
	for (; !rc && page < s->pages; page = bitmap_next(s->map, s->pages, page + 1))
		rc = epoch_writer_page(s->epoch, page, ram + page * VM_PAGE_SIZE);
	memset(s->map, 0, bitmap_words(s->pages) * sizeof(*s->map));
	return rc ? rc : epoch_writer_flush(s->epoch);
}

static int rounds_put(struct save *s)
{
	uint64_t before = UINT64_MAX, now = bitmap_count(s->map, s->pages);
	int rc = 0;

	for (unsigned i = 0; !rc && i < ROUNDS_MAX && (i == 0 || now > ROUND_SMALL); i++) {
		if (now > before - before / 4)
			break;
		before = now;
		rc = pages_put(s);
		if (!rc)
			rc = vm_dirty_harvest(s->vm, s->map);
		now = bitmap_count(s->map, s->pages);
	}
	return rc;
}

static int state_put(struct save *s, struct error *e)
{
	struct buf state = {0};
	int rc = vm_state_save(s->vm, &state, e);

	if (!rc)
		rc = epoch_writer_finish(s->epoch, state.data, state.len);
	buf_free(&state);
	return rc;
}

static int rest_put(struct save *s, struct error *e)
{
	int rc = 0;

	if (s->o->live)
		rc = vm_dirty_harvest(s->vm, s->map);
	else
		epoch_pages_touched(s->vm, s->map);
	if (!rc && s->o->paused)
		rc = s->o->paused(s->o->ctx, e);
	if (!rc)
		rc = pages_put(s);
	if (!rc)
		rc = state_put(s, e);
	if (!rc)
		rc = index_put(s);
	if (!rc)
		rc = tail_put(s);
	if (!rc)
		rc = image_out_finish(s->out);
	atomic_store(&s->o->progress->bytes, image_out_bytes(s->out));
	return rc;
}

static int paused_put(struct save *s, struct error *e)
{
	int rc = vm_pause(s->vm), rc_resume;

	if (rc)
		return error_set(e, rc, "cannot pause the vm: %s", strerror(-rc));
	rc = rest_put(s, e);
	if (!rc)
		return 0;
	rc_resume = vm_resume(s->vm);
	if (rc_resume)
		log_error_rc(rc_resume, "the vm cannot go on");
	return rc;
}

static int live_put(struct save *s, struct error *e)
{
	int rc = vm_log_dirty(s->vm, true), rc_off;

	if (rc)
		return rc;
	epoch_pages_touched(s->vm, s->map);
	rc = rounds_put(s);
	if (!rc)
		rc = paused_put(s, e);
	rc_off = vm_log_dirty(s->vm, false);
	if (rc_off)
		log_warn_rc(rc_off, "log-dirty stays on");
	return rc;
}

/* ---- all ------------------------------------------------------------------------------ */

static void info_fill(struct save *s)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	s->info = *s->o->info;
	s->info.ram_pages = s->pages;
	s->info.vcpus = vm_vcpus(s->vm);
	s->info.cpu = vm_cpu(s->vm);
	s->info.saved_ns = (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
	strncpy(s->info.engine, vm_engine_name(s->vm), sizeof(s->info.engine) - 1);
	strncpy(s->info.software, version_text, sizeof(s->info.software) - 1);
}

static void save_close(struct save *s)
{
	epoch_writer_destroy(s->epoch);
	image_out_destroy(s->out);
	XXH3_freeState(s->hash);
	free(s->where);
	free(s->map);
}

static int save_open(struct save *s, int fd, struct error *e)
{
	int rc;

	s->pages = vm_ram_pages(s->vm);
	s->where = calloc(s->pages, sizeof(*s->where));
	s->map = calloc(bitmap_words(s->pages), sizeof(*s->map));
	s->hash = XXH3_createState();
	if (!s->where || !s->map || !s->hash)
		return -ENOMEM;
	info_fill(s);
	rc = epoch_writer_create(s->o->compression, on_record, s, &s->epoch);
	if (!rc)
		rc = image_out_create(fd, s->o->key, &s->out, e);
	return rc;
}

int image_save(struct vm *vm, int fd, const struct image_save_options *o, struct error *e)
{
	struct save s = {.vm = vm, .o = o};
	int rc = save_open(&s, fd, e);

	if (!rc)
		rc = head_put(&s);
	if (!rc)
		rc = o->live ? live_put(&s, e) : paused_put(&s, e);
	save_close(&s);
	if (rc == -ECANCELED)
		return error_set(e, rc, "cancelled");
	return rc ? error_set(e, rc, "cannot write the image: %s", strerror(-rc)) : 0;
}

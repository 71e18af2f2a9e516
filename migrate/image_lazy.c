// SPDX-License-Identifier: Apache-2.0
/*
 * A vm that runs before its memory is read. Two readers of one file: one brings what the guest
 * waits for, on the thread that tells of it; the other brings everything in the order of the
 * file, and checks it as an ordinary restore does. Progress is what is there, whoever brought it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migrate/image_reader.h"

#define LOG_MODULE "image"
#define RETRY_NS   NS_PER_SEC
#define CANCEL_NS  (20 * NS_PER_MS)

struct image_lazy {
	struct vm *vm;
	struct vm_lazy *lazy;
	struct image *all, *wanted;
	pthread_mutex_t begun; /* held until `lazy` is set */
	struct image_progress *progress;
	uint64_t record; /* of `all`: that which is being read */
	bool troubled;
};

/* The record that holds the last version of a page; 0: none. */
static uint64_t index_find(const struct image *i, uint64_t page)
{
	uint64_t low = 0, high = i->run_count;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		const struct index_run *r = &i->runs[middle];

		if (page < r->first)
			high = middle;
		else if (page >= r->first + r->count)
			low = middle + 1;
		else
			return r->offset;
	}
	return 0;
}

/* ---- what the guest waits for ---------------------------------------------------- */

struct batch {
	struct image_lazy *l;
	const struct image *image;
	uint64_t record;
};

static int page_bring(void *ctx, uint64_t page, const uint8_t *bytes)
{
	const struct batch *b = ctx;
	int rc;

	if (index_find(b->image, page) != b->record)
		return 0;
	rc = vm_lazy_put(b->l->lazy, page, bytes);
	atomic_store(&b->l->progress->pages, b->l->all->tail.pages - vm_lazy_left(b->l->lazy));
	return rc;
}

static int batch_bring(struct image_lazy *l, uint64_t at, struct error *e)
{
	struct batch b = {.l = l, .image = l->wanted, .record = at};
	struct record r;
	int rc = image_record_get(l->wanted, &at, &r, e);

	if (!rc && r.type != EPOCH_RECORD_PAGES)
		rc = error_set(e, -EBADMSG, "the image is damaged: its index is wrong");
	if (rc)
		return rc;
	return epoch_pages_read(r.payload, r.len, l->wanted->info.ram_pages, page_bring, &b, e);
}

/* What goes wrong here the other reader meets too, and deals with it. */
static void on_fault(void *ctx, uint64_t page)
{
	struct image_lazy *l = ctx;
	struct error e = {0};
	uint64_t at;
	int rc;

	pthread_mutex_lock(&l->begun);
	pthread_mutex_unlock(&l->begun);
	at = index_find(l->wanted, page);
	if (!at)
		return;
	rc = batch_bring(l, at, &e);
	if (rc && rc != -ECANCELED)
		log_warn("page %" PRIu64 ", which the guest waits for: %s", page, e.text);
}

/* ---- begin and end ------------------------------------------------------------------ */

static int missing_begin(struct image_lazy *l, struct error *e)
{
	const struct vm_lazy_events events = {.fault = on_fault, .ctx = l};
	uint64_t *missing = calloc(bitmap_words(vm_ram_pages(l->vm)), sizeof(*missing));
	int rc;

	if (!missing)
		return error_set(e, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < l->all->run_count; i++)
		bitmap_set_range(missing, l->all->runs[i].first, l->all->runs[i].count);
	pthread_mutex_lock(&l->begun);
	rc = vm_lazy_begin(l->vm, missing, &events, &l->lazy, e);
	pthread_mutex_unlock(&l->begun);
	free(missing);
	return rc;
}

static int lazy_open(struct image_lazy *l, int fd, const struct image_key *key, struct error *e)
{
	int rc = image_open(fd, key, &l->all, e);

	if (!rc)
		rc = image_open(fd, key, &l->wanted, e);
	if (!rc)
		rc = image_fits(l->all, l->vm, e);
	if (!rc)
		rc = vm_state_load(l->vm, l->all->state.data, l->all->state.len, e);
	if (rc)
		return rc;
	atomic_store(&l->progress->pages_total, l->all->tail.pages);
	return missing_begin(l, e);
}

int image_lazy_begin(struct vm *vm, int fd, const struct image_key *key, struct image_progress *p,
		     struct image_lazy **out, struct error *e)
{
	struct image_lazy *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return error_set(e, -ENOMEM, "out of memory");
	l->vm = vm;
	l->progress = p;
	pthread_mutex_init(&l->begun, NULL);
	rc = lazy_open(l, fd, key, e);
	if (rc)
		image_lazy_end(l);
	else
		*out = l;
	return rc;
}

void image_lazy_end(struct image_lazy *l)
{
	if (!l)
		return;
	if (l->lazy)
		vm_lazy_end(l->lazy);
	image_close(l->all);
	image_close(l->wanted);
	pthread_mutex_destroy(&l->begun);
	free(l);
}

/* ---- all of it, in order --------------------------------------------------------------- */

static int on_page(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct image_lazy *l = ctx;
	struct batch b = {.l = l, .image = l->all, .record = l->record};

	return page_bring(&b, page, bytes);
}

static int cancelled(const struct image_lazy *l, struct error *e)
{
	return atomic_load(&l->progress->cancel) ? error_set(e, -ECANCELED, "cancelled") : 0;
}

/* A file server may come back; what is damaged stays so. */
static int wait_for_retry(struct image_lazy *l, const struct error *why, struct error *e)
{
	uint64_t until = clock_ns() + RETRY_NS;
	int rc = 0;

	if (!l->troubled)
		log_error("%s; whoever needs that memory waits, and it is tried again", why->text);
	l->troubled = true;
	while (!rc && clock_ns() < until) {
		nanosleep(&(struct timespec){.tv_nsec = CANCEL_NS}, NULL);
		rc = cancelled(l, e);
	}
	return rc;
}

static bool is_final(int rc)
{
	return rc == -EBADMSG || rc == -EPROTONOSUPPORT || rc == -ENOMEM;
}

/* The fault holds up this reader alone, each time for RETRY_NS. */
static int ahead_get(struct image_lazy *l, uint64_t *at, struct record *r, struct error *e)
{
	int rc = fault_point("image.ahead");

	if (rc)
		return error_set(e, rc, "cannot read ahead: %s", strerror(-rc));
	return image_known_get(l->all, at, l->all->tail.index, r, e);
}

static int next_get(struct image_lazy *l, uint64_t *at, struct record *r, struct error *e)
{
	for (;;) {
		uint64_t next = *at;
		struct error why = {0};
		int rc = ahead_get(l, &next, r, &why);

		if (!rc) {
			l->record = next - r->len - RECORD_HEADER_SIZE;
			*at = next;
			if (l->troubled)
				log_info("the image can be read again");
			l->troubled = false;
			return 0;
		}
		if (is_final(rc))
			return error_set(e, rc, "%s", why.text);
		rc = wait_for_retry(l, &why, e);
		if (rc)
			return rc;
	}
}

static int records_read(struct image_lazy *l, struct epoch_reader *reader, struct error *e)
{
	uint64_t at = l->all->tail.head;
	struct record r;
	int rc = 0;

	while (!rc && at < l->all->tail.index) {
		rc = next_get(l, &at, &r, e);
		if (!rc)
			rc = cancelled(l, e);
		if (!rc && r.type)
			rc = epoch_reader_take(reader, r.type, r.payload, r.len, e);
		atomic_store(&l->progress->bytes, at);
	}
	if (!rc && (!epoch_reader_whole(reader) || vm_lazy_left(l->lazy)))
		rc = error_set(e, -EBADMSG, "its memory is not whole");
	return rc;
}

int image_lazy_run(struct image_lazy *l, struct error *e)
{
	struct epoch_reader *reader;
	int rc = epoch_reader_create(l->all->info.ram_pages, on_page, l, &reader);

	if (!rc) {
		rc = records_read(l, reader, e);
		epoch_reader_destroy(reader);
	}
	if (!rc) { /* both readers have told of it, in any order */
		atomic_store(&l->progress->pages, l->all->tail.pages);
		return 0;
	}
	error_set(e, rc, "%s", strerror(-rc));
	error_context(e, "the memory of the image cannot be had, and the guest has ended");
	vm_lazy_abandon(l->lazy);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "disk-mirror/disk-mirror.h"
#include "disk-mirror/wire.h"

#define LOG_MODULE  "mirror"
#define CHUNK_SIZE  (UINT64_C(256) << 10)
#define CHUNK_ALIGN 4096

struct range {
	uint64_t from, to;
};

/* One write of the guest, from submit to done. */
struct mirror_write {
	struct disk_request below; /* what the back end below works on */
	struct disk_request *guest;
	struct mirror_source *source;
	struct mirror_write *next;
	struct range range;
};

struct emitter {
	mirror_emit_fn *emit; /* NULL: no session */
	void *ctx;
};

/*
 * Order. A write is emitted and then handed below under `lock`, so records appear
 * in the order of submission. Two writes that overlap are never in flight
 * together, nor is a write while the copy thread has its chunk: the later one is
 * parked. So the last record on a sector is what the sector holds, on both sides.
 * The copy thread emits its chunk without `lock`: it waits for the link most of the
 * time, and the rest of the disk is the guest's meanwhile.
 * Lock order: device lock, then `lock`.
 */
struct mirror_source {
	struct disk_backend backend;
	struct disk_backend *below;
	uint16_t disk;
	pthread_mutex_t lock;
	pthread_cond_t quiet; /* a write has ended, or `stopping` was set */
	struct mirror_write *in_flight, *parked, **parked_last;
	struct range copying; /* from == to: none */

	struct emitter out;
	void (*on_synced)(void *ctx, int rc);
	uint64_t bytes_per_second;
	bool copy_running, stopping;
	pthread_t copy_thread;
	/* Asked for by threads that must not wait for the link. */
	_Atomic uint64_t copied, emitted_bytes, emitted_records;
	atomic_bool synced;
};

static struct mirror_source *source_of(struct disk_backend *b)
{
	return CONTAINER_OF(b, struct mirror_source, backend);
}

static bool range_overlaps(struct range a, struct range b)
{
	return a.from < b.to && b.from < a.to;
}

static bool list_overlaps(const struct mirror_write *list, const struct mirror_write *end,
			  struct range r)
{
	for (; list && list != end; list = list->next)
		if (range_overlaps(list->range, r))
			return true;
	return false;
}

/* ---- emitting: m->out with `lock` held, or a copy of it ------------------- */

static void emit_record(struct mirror_source *m, struct emitter *out, enum mirror_op op,
			uint64_t offset, uint32_t length, struct iovec *iov, int iov_count)
{
	uint8_t header[MIRROR_HEADER_SIZE] = {0};

	header[0] = (uint8_t)m->disk;
	header[1] = (uint8_t)(m->disk >> 8);
	header[2] = (uint8_t)op;
	for (unsigned i = 0; i < 4; i++)
		header[4 + i] = (uint8_t)(length >> (8 * i));
	for (unsigned i = 0; i < 8; i++)
		header[8 + i] = (uint8_t)(offset >> (8 * i));
	iov[0] = (struct iovec){header, sizeof header}; /* the caller left room */
	if (out->emit(out->ctx, iov, iov_count)) {
		out->emit = NULL; /* the session has ended; its owner knows why */
		return;
	}
	m->emitted_records++;
	m->emitted_bytes += op == MIRROR_WRITE ? length : 0;
}

static void emit_zeroes(struct mirror_source *m, struct emitter *out, uint64_t offset,
			uint64_t length)
{
	struct iovec iov[1];

	while (length && out->emit) {
		uint32_t part = length < (1u << 30) ? (uint32_t)length : 1u << 30;

		emit_record(m, out, MIRROR_ZEROES, offset, part, iov, 1);
		offset += part;
		length -= part;
	}
}

/* As many records as the limits on bytes and pieces ask for. */
static void emit_write(struct mirror_source *m, struct emitter *out, uint64_t offset,
		       const struct iovec *data, int data_count)
{
	struct iovec iov[1 + MIRROR_PIECES_MAX];
	size_t used = 0; /* of data[0] */

	while (data_count > 0 && out->emit) {
		uint32_t length = 0;
		int pieces = 0;

		while (data_count > 0 && pieces < MIRROR_PIECES_MAX && length < MIRROR_WRITE_MAX) {
			size_t piece = data->iov_len - used;

			if (piece > MIRROR_WRITE_MAX - length)
				piece = MIRROR_WRITE_MAX - length;
			iov[++pieces] = (struct iovec){(uint8_t *)data->iov_base + used, piece};
			length += (uint32_t)piece;
			used += piece;
			if (used == data->iov_len) {
				data++;
				data_count--;
				used = 0;
			}
		}
		emit_record(m, out, MIRROR_WRITE, offset, length, iov, 1 + pieces);
		offset += length;
	}
}

static void request_emit(struct mirror_source *m, const struct disk_request *r)
{
	if (r->op == DISK_WRITE)
		emit_write(m, &m->out, r->offset, r->iov, r->iov_count);
	else
		emit_zeroes(m, &m->out, r->offset, r->length);
}

/* ---- writes of the guest ------------------------------------------------ */

static void write_done(struct disk_request *below, int rc);

/* `lock` held. */
static int write_begin(struct mirror_source *m, struct mirror_write *w)
{
	int rc;

	request_emit(m, w->guest);
	w->next = m->in_flight;
	m->in_flight = w;
	rc = m->below->ops->submit(m->below, &w->below);
	if (rc)
		m->in_flight = w->next;
	return rc;
}

/* Begin parked writes whose way is free, oldest first; one that still waits also
 * holds back later ones that overlap it. Those that the back end refused come
 * back as a list, to be ended without the lock. `lock` held. */
static struct mirror_write *parked_begin(struct mirror_source *m)
{
	struct mirror_write *refused = NULL, **at = &m->parked;

	while (*at) {
		struct mirror_write *w = *at;

		if (range_overlaps(m->copying, w->range) ||
		    list_overlaps(m->in_flight, NULL, w->range) ||
		    list_overlaps(m->parked, w, w->range)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (write_begin(m, w)) {
			w->next = refused;
			refused = w;
		}
	}
	m->parked_last = at;
	return refused;
}

static void refused_end(struct mirror_write *refused)
{
	while (refused) {
		struct mirror_write *w = refused;

		refused = w->next;
		w->guest->done(w->guest, -EIO);
		free(w);
	}
}

static void write_done(struct disk_request *below, int rc)
{
	struct mirror_write *w = CONTAINER_OF(below, struct mirror_write, below), **at, *refused;
	struct mirror_source *m = w->source;
	struct disk_request *guest = w->guest;

	pthread_mutex_lock(&m->lock);
	for (at = &m->in_flight; *at != w; at = &(*at)->next)
		;
	*at = w->next;
	refused = parked_begin(m);
	pthread_cond_broadcast(&m->quiet);
	pthread_mutex_unlock(&m->lock);
	free(w);
	guest->done(guest, rc);
	refused_end(refused);
}

static int write_submit(struct mirror_source *m, struct disk_request *r)
{
	struct mirror_write *w = calloc(1, sizeof *w);
	int rc = 0;

	if (!w)
		return -ENOMEM;
	w->below = *r;
	w->below.done = write_done;
	w->guest = r;
	w->source = m;
	w->range = (struct range){r->offset, r->offset + r->length};
	pthread_mutex_lock(&m->lock);
	if (range_overlaps(m->copying, w->range) || list_overlaps(m->in_flight, NULL, w->range) ||
	    list_overlaps(m->parked, NULL, w->range)) {
		*m->parked_last = w;
		m->parked_last = &w->next;
	} else {
		rc = write_begin(m, w);
	}
	pthread_mutex_unlock(&m->lock);
	if (rc)
		free(w);
	return rc;
}

static int source_submit(struct disk_backend *b, struct disk_request *r)
{
	struct mirror_source *m = source_of(b);
	int rc;

	if (r->op != DISK_READ && r->op != DISK_FLUSH)
		return write_submit(m, r);
	pthread_mutex_lock(&m->lock); /* only for one call at a time into the back end */
	rc = m->below->ops->submit(m->below, r);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static void source_drain(struct disk_backend *b)
{
	struct mirror_source *m = source_of(b);
	bool idle;

	/* Parked writes begin when those below end. Look first and drain then: what was
	 * idle before the drain has ended after it. */
	do {
		pthread_mutex_lock(&m->lock);
		idle = !m->in_flight && !m->parked;
		pthread_mutex_unlock(&m->lock);
		m->below->ops->drain(m->below);
	} while (!idle);
}

static int source_claim(struct disk_backend *b, struct error *e)
{
	struct disk_backend *below = source_of(b)->below;

	return below->ops->claim(below, e);
}

static int source_yield(struct disk_backend *b, struct error *e)
{
	struct disk_backend *below = source_of(b)->below;

	return below->ops->yield(below, e);
}

static void source_destroy(struct disk_backend *b)
{
	mirror_source_destroy(source_of(b));
}

static const struct disk_backend_ops source_ops = {
	.submit = source_submit,
	.drain = source_drain,
	.claim = source_claim,
	.yield = source_yield,
	.destroy = source_destroy,
};

/* ---- the first copy ------------------------------------------------------ */

static bool all_zero(const uint8_t *data, size_t n)
{
	return data[0] == 0 && memcmp(data, data + 1, n - 1) == 0;
}

/* Keep writes away from the chunk until chunk_give(). */
static struct emitter chunk_take(struct mirror_source *m, uint64_t from, uint64_t to)
{
	struct emitter out;

	pthread_mutex_lock(&m->lock);
	m->copying = (struct range){from, to};
	while (!m->stopping && list_overlaps(m->in_flight, NULL, m->copying))
		pthread_cond_wait(&m->quiet, &m->lock);
	out = m->out;
	pthread_mutex_unlock(&m->lock);
	return out;
}

/* 0, or -ECANCELED: the session is over. */
static int chunk_give(struct mirror_source *m, const struct emitter *out)
{
	struct mirror_write *refused;
	int rc;

	pthread_mutex_lock(&m->lock);
	if (!out->emit)
		m->out.emit = NULL;
	rc = m->stopping || !m->out.emit ? -ECANCELED : 0;
	m->copying = (struct range){0, 0};
	refused = parked_begin(m);
	pthread_mutex_unlock(&m->lock);
	refused_end(refused);
	return rc;
}

static int chunk_copy(struct mirror_source *m, uint8_t *chunk, uint64_t from, uint64_t to)
{
	struct iovec iov = {chunk, to - from};
	struct emitter out = chunk_take(m, from, to);
	int rc = fault_point("mirror.copy"), rc_end;
	ssize_t got = pread(m->below->fd, chunk, to - from, (off_t)from);

	if (!rc && got != (ssize_t)(to - from))
		rc = got < 0 ? -errno : -EIO;
	if (!rc && all_zero(chunk, to - from))
		emit_zeroes(m, &out, from, to - from);
	else if (!rc)
		emit_write(m, &out, from, &iov, 1);
	rc_end = chunk_give(m, &out);
	if (!rc && !rc_end)
		m->copied = to;
	return rc ? rc : rc_end;
}

/* Keep the average rate; wakes early when stopped. */
static void copy_pace(struct mirror_source *m, uint64_t began, uint64_t done)
{
	uint64_t due = began + (uint64_t)((double)done / (double)m->bytes_per_second * 1e9);
	uint64_t now = clock_ns();
	struct timespec ts;

	if (due <= now)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	due = due - now + (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
	ts = (struct timespec){(time_t)(due / NS_PER_SEC), (long)(due % NS_PER_SEC)};
	pthread_mutex_lock(&m->lock);
	while (!m->stopping && !pthread_cond_clockwait(&m->quiet, &m->lock, CLOCK_MONOTONIC, &ts))
		;
	pthread_mutex_unlock(&m->lock);
}

static void *copy_main(void *ctx)
{
	struct mirror_source *m = ctx;
	uint64_t size = m->below->size, began = clock_ns();
	uint8_t *chunk = aligned_alloc(CHUNK_ALIGN, CHUNK_SIZE);
	int rc = chunk ? 0 : -ENOMEM;

	for (uint64_t from = 0; !rc && from < size; from += CHUNK_SIZE) {
		rc = chunk_copy(m, chunk, from,
				from + CHUNK_SIZE < size ? from + CHUNK_SIZE : size);
		if (!rc && m->bytes_per_second)
			copy_pace(m, began, from + CHUNK_SIZE);
	}
	free(chunk);
	m->synced = !rc;
	if (rc != -ECANCELED)
		m->on_synced(m->out.ctx, rc);
	return NULL;
}

/* ---- public ----------------------------------------------------------------- */

int mirror_source_create(struct disk_backend *below, uint16_t disk, struct loop *io,
			 struct mirror_source **out)
{
	struct mirror_source *m = calloc(1, sizeof *m);

	(void)io;
	if (!m)
		return -ENOMEM;
	m->backend = *below;
	m->backend.ops = &source_ops;
	m->below = below;
	m->disk = disk;
	m->parked_last = &m->parked;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->quiet, NULL);
	*out = m;
	return 0;
}

void mirror_source_destroy(struct mirror_source *m)
{
	if (!m)
		return;
	mirror_source_stop(m);
	source_drain(&m->backend);
	pthread_cond_destroy(&m->quiet);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

struct disk_backend *mirror_source_backend(struct mirror_source *m)
{
	return &m->backend;
}

int mirror_source_start(struct mirror_source *m, mirror_emit_fn *emit, void *ctx,
			uint64_t bytes_per_second, void (*on_synced)(void *ctx, int rc))
{
	int rc;

	if (m->copy_running)
		return -EBUSY;
	if (m->below->fd < 0)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&m->lock);
	m->out = (struct emitter){emit, ctx};
	m->on_synced = on_synced;
	m->bytes_per_second = bytes_per_second;
	m->stopping = false;
	m->copied = m->emitted_bytes = m->emitted_records = 0;
	m->synced = false;
	pthread_mutex_unlock(&m->lock);
	rc = thread_start(&m->copy_thread, "disk-copy", copy_main, m);
	m->copy_running = !rc;
	if (rc)
		mirror_source_stop(m);
	return rc;
}

void mirror_source_stop(struct mirror_source *m)
{
	pthread_mutex_lock(&m->lock);
	m->out.emit = NULL;
	m->stopping = true;
	pthread_cond_broadcast(&m->quiet);
	pthread_mutex_unlock(&m->lock);
	if (m->copy_running)
		pthread_join(m->copy_thread, NULL);
	m->copy_running = false;
}

void mirror_source_progress(struct mirror_source *m, struct mirror_progress *out)
{
	*out = (struct mirror_progress){.done = m->copied,
					.total = m->below->size,
					.synced = m->synced,
					.emitted_bytes = m->emitted_bytes,
					.emitted_records = m->emitted_records};
}

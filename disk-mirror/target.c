// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk-mirror/disk-mirror.h"
#include "disk-mirror/wire.h"

#define LOG_MODULE "mirror"

struct staged {
	struct staged *next;
	uint64_t epoch;
	enum mirror_op op;
	uint64_t offset;
	uint32_t length;
	uint8_t data[];
};

/* Staged records in the order of arrival, which is the order of epochs. Records arrive
 * at the end while a commit works on the first: `lock` is for the list only. */
struct mirror_target {
	int fd;
	uint64_t size;
	uint16_t disk;
	pthread_mutex_t lock;
	struct staged *first, **last;
	_Atomic uint64_t staged_bytes; /* read by any thread */
};

int mirror_target_create(int fd, uint64_t size, uint16_t disk, struct mirror_target **out)
{
	struct mirror_target *m = calloc(1, sizeof *m);

	if (!m)
		return -ENOMEM;
	m->fd = fd;
	m->size = size;
	m->disk = disk;
	m->last = &m->first;
	pthread_mutex_init(&m->lock, NULL);
	*out = m;
	return 0;
}

void mirror_target_destroy(struct mirror_target *m)
{
	if (!m)
		return;
	mirror_target_discard(m);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* ---- writing to the disk ------------------------------------------------- */

static int write_at(int fd, const uint8_t *data, uint64_t length, uint64_t offset)
{
	while (length) {
		ssize_t n = fault_point("mirror.write");

		if (!n)
			n = pwrite(fd, data, length, (off_t)offset);
		else
			errno = (int)-n;
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		data += n;
		offset += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}

static int zero_at(int fd, uint64_t length, uint64_t offset)
{
	static const uint8_t zeroes[64 << 10];
	int rc = 0;

	if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		       (off_t)length))
		return 0;
	while (length && !rc) {
		uint64_t part = length < sizeof zeroes ? length : sizeof zeroes;

		rc = write_at(fd, zeroes, part, offset);
		offset += part;
		length -= part;
	}
	return rc;
}

static int apply(struct mirror_target *m, enum mirror_op op, uint64_t offset, uint32_t length,
		 const uint8_t *data, struct error *e)
{
	int rc = op == MIRROR_WRITE ? write_at(m->fd, data, length, offset)
				    : zero_at(m->fd, length, offset);

	if (rc)
		return error_set(e, rc,
				 "disk %u of the standby: writing %" PRIu32 " bytes at %" PRIu64
				 " failed: %s",
				 m->disk, length, offset, strerror(-rc));
	return 0;
}

/* ---- records ------------------------------------------------------------- */

struct record_fields {
	enum mirror_op op;
	uint64_t offset;
	uint32_t length;
	const uint8_t *data;
};

static int record_check(const struct mirror_target *m, const uint8_t *payload, size_t len,
			struct record_fields *out, struct error *e)
{
	struct cursor c = cursor_of(payload, len);
	uint16_t disk = cursor_u16(&c);
	uint8_t op = cursor_u8(&c);
	uint8_t zero = cursor_u8(&c);

	out->length = cursor_u32(&c);
	out->offset = cursor_u64(&c);
	out->op = op;
	out->data = op == MIRROR_WRITE ? cursor_take(&c, out->length) : NULL;
	if (cursor_finish(&c) || zero || (op != MIRROR_WRITE && op != MIRROR_ZEROES))
		return error_set(e, -EBADMSG, "disk record of %zu bytes is malformed", len);
	if (disk != m->disk)
		return error_set(e, -EBADMSG, "disk record for disk %u reached disk %u", disk,
				 m->disk);
	if (!out->length || out->offset > m->size || out->length > m->size - out->offset)
		return error_set(e, -EBADMSG,
				 "disk record of %" PRIu32 " bytes at %" PRIu64
				 " lies outside disk %u of %" PRIu64 " bytes",
				 out->length, out->offset, m->disk, m->size);
	return 0;
}

static int stage(struct mirror_target *m, uint64_t epoch, const struct record_fields *f,
		 struct error *e)
{
	size_t bytes = f->op == MIRROR_WRITE ? f->length : 0;
	struct staged *s = malloc(sizeof *s + bytes);

	if (!s)
		return error_set(e, -ENOMEM, "no memory to stage %zu bytes of disk %u", bytes,
				 m->disk);
	*s = (struct staged){NULL, epoch, f->op, f->offset, f->length};
	if (bytes)
		memcpy(s->data, f->data, bytes);
	pthread_mutex_lock(&m->lock);
	*m->last = s;
	m->last = &s->next;
	pthread_mutex_unlock(&m->lock);
	m->staged_bytes += sizeof *s + bytes;
	return 0;
}

int mirror_target_receive(struct mirror_target *m, uint64_t epoch, bool direct,
			  const uint8_t *payload, size_t len, struct error *e)
{
	struct record_fields f;
	int rc = record_check(m, payload, len, &f, e);

	if (rc)
		return rc;
	if (direct)
		return apply(m, f.op, f.offset, f.length, f.data, e);
	return stage(m, epoch, &f, e);
}

static struct staged *staged_first(struct mirror_target *m)
{
	struct staged *s;

	pthread_mutex_lock(&m->lock);
	s = m->first;
	pthread_mutex_unlock(&m->lock);
	return s;
}

static void staged_drop_first(struct mirror_target *m)
{
	struct staged *s;

	pthread_mutex_lock(&m->lock);
	s = m->first;
	m->first = s->next;
	if (!m->first)
		m->last = &m->first;
	pthread_mutex_unlock(&m->lock);
	m->staged_bytes -= sizeof *s + (s->op == MIRROR_WRITE ? s->length : 0);
	free(s);
}

int mirror_target_commit(struct mirror_target *m, uint64_t epoch, struct error *e)
{
	struct staged *s;

	while ((s = staged_first(m)) && s->epoch <= epoch) {
		int rc = apply(m, s->op, s->offset, s->length, s->data, e);

		if (rc)
			return rc;
		staged_drop_first(m);
	}
	return 0;
}

void mirror_target_discard(struct mirror_target *m)
{
	while (staged_first(m))
		staged_drop_first(m);
}

int mirror_target_flush(struct mirror_target *m, struct error *e)
{
	if (fdatasync(m->fd))
		return error_set(e, -errno, "disk %u of the standby: fdatasync failed: %s", m->disk,
				 strerror(errno));
	return 0;
}

uint64_t mirror_target_staged_bytes(const struct mirror_target *m)
{
	return m->staged_bytes;
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/record.h"

#define LOG_MODULE "record"
#define FRAME_MOST (64u << 20)
#define HEAD_LEN   5u /* u32 length of the payload, u8 kind */
#define SUM_LEN    8u

/* The last octet is the version. */
static const char magic[8] = "PLXREC\0\1";

struct record {
	FILE *file;
	uint64_t frames; /* written, or read */
	int failed;
	struct buf bytes; /* of the frame that is the next one */
	struct record_frame frame;
	bool peeked;
};

/* What a guest was sent and has read is not for everybody. */
static int record_make(const char *path, int flags, const char *mode, struct record **out,
		       struct error *e)
{
	struct record *r = calloc(1, sizeof(*r));
	int fd;

	if (!r)
		return error_set(e, -ENOMEM, "no memory for a recording");
	fd = open(path, flags | O_CLOEXEC, 0600);
	r->file = fd < 0 ? NULL : fdopen(fd, mode);
	if (!r->file) {
		int rc = error_set(e, -errno, "cannot open the recording %s: %s", path,
				   strerror(errno));

		if (fd >= 0)
			close(fd);
		free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void record_close(struct record *r)
{
	if (!r)
		return;
	(void)fclose(r->file);
	buf_free(&r->bytes);
	free(r);
}

/* ---- writing ------------------------------------------------------------------------- */

int record_create(const char *path, struct record **out, struct error *e)
{
	struct stat had;
	int rc = record_make(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, "w", out, e);

	if (rc)
		return rc;
	if (fstat(fileno((*out)->file), &had) || !S_ISREG(had.st_mode) || had.st_size)
		rc = error_set(e, -EEXIST,
			       "%s is there already: remove it, or record to another file", path);
	else if (fwrite(magic, sizeof(magic), 1, (*out)->file) != 1)
		rc = error_set(e, -errno, "cannot write the recording %s: %s", path,
			       strerror(errno));
	if (rc) {
		record_close(*out);
		*out = NULL;
	}
	return rc;
}

void record_discard(struct record *r, const char *path)
{
	if (unlink(path))
		log_warn("cannot remove the recording %s: %s", path, strerror(errno));
	record_close(r);
}

static int frame_write(struct record *r, enum record_kind kind, const struct buf *body)
{
	struct buf *b = &r->bytes;
	int rc = buf_check(body);

	if (!rc && body->len > FRAME_MOST)
		rc = -E2BIG;
	buf_reset(b);
	buf_put_u32(b, (uint32_t)body->len);
	buf_put_u8(b, (uint8_t)kind);
	buf_put(b, body->data, body->len);
	buf_put_u64(b, hash_bytes(r->frames++, b->data, b->len));
	if (!rc)
		rc = buf_check(b);
	if (!rc && fwrite(b->data, b->len, 1, r->file) != 1)
		rc = errno ? -errno : -EIO;
	return rc;
}

int record_put(struct record *r, enum record_kind kind, struct buf *body)
{
	if (!r->failed)
		r->failed = frame_write(r, kind, body);
	buf_reset(body);
	return r->failed;
}

int record_flush(struct record *r)
{
	if (!r->failed && fflush(r->file))
		r->failed = -errno;
	return r->failed;
}

/* ---- reading --------------------------------------------------------------------------- */

static int frame_read(struct record *r)
{
	struct buf *b = &r->bytes;
	uint8_t *at;
	struct cursor c;
	uint32_t len;

	buf_reset(b);
	at = buf_extend(b, HEAD_LEN);
	if (!at || fread(at, HEAD_LEN, 1, r->file) != 1)
		return -EBADMSG;
	c = cursor_of(b->data, b->len);
	len = cursor_u32(&c);
	r->frame.kind = cursor_u8(&c);
	if (len > FRAME_MOST)
		return -EBADMSG;
	at = buf_extend(b, len + SUM_LEN);
	if (!at)
		return -ENOMEM;
	if (fread(at, len + SUM_LEN, 1, r->file) != 1)
		return -EBADMSG;
	c = cursor_of(b->data + HEAD_LEN + len, SUM_LEN);
	if (cursor_u64(&c) != hash_bytes(r->frames++, b->data, HEAD_LEN + len))
		return -EBADMSG;
	r->frame.body = cursor_of(b->data + HEAD_LEN, len);
	return 0;
}

const struct record_frame *record_peek(struct record *r)
{
	if (!r->peeked && !r->failed)
		r->failed = frame_read(r);
	r->peeked = true;
	return r->failed ? NULL : &r->frame;
}

void record_next(struct record *r)
{
	r->peeked = false;
}

/* All frames, to an end behind which there is nothing. */
static int file_check(struct record *r)
{
	const struct record_frame *f;
	uint64_t frames = 0;

	do {
		f = record_peek(r);
		if (!f || (f->kind == RECORD_START) != !frames++)
			return r->failed ? r->failed : -EBADMSG;
		record_next(r);
	} while (f->kind != RECORD_END);
	return fgetc(r->file) == EOF ? 0 : -EBADMSG;
}

int record_open(const char *path, struct record **out, struct error *e)
{
	char found[sizeof(magic)];
	struct record *r;
	int rc = record_make(path, O_RDONLY, "r", &r, e);

	if (rc)
		return rc;
	if (fread(found, sizeof(found), 1, r->file) != 1 || memcmp(found, magic, sizeof(magic)))
		rc = error_set(e, -EBADMSG, "%s is no recording that this program reads", path);
	if (!rc && file_check(r))
		rc = error_set(e, -EBADMSG,
			       "the recording %s is damaged or cut off after %llu frames", path,
			       (unsigned long long)(r->frames ? r->frames - 1 : 0));
	if (rc) {
		record_close(r);
		return rc;
	}
	rewind(r->file);
	(void)!fread(found, sizeof(found), 1, r->file);
	r->frames = 0;
	*out = r;
	return 0;
}

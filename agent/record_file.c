// SPDX-License-Identifier: Apache-2.0
#include "agent/record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define SLOT_ALIGN   ((size_t)4096)
#define FILE_MODE    0600
#define HEAD_FORMAT  "pollux-record 1 %016" PRIx64 " %08zx %016" PRIx64
#define HEAD_SCANNED "pollux-record 1 %16" SCNx64 " %8zx %16" SCNx64
#define FILE_MOST    (2 * slot_size_for(RECORD_FILE_TEXT))

/* Room to grow by a half before a new file is needed. */
static size_t slot_size_for(size_t n)
{
	return (RECORD_FILE_HEAD + n + n / 2 + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
}

/* One line, padded with blanks. */
static void head_make(uint64_t sequence, const char *text, size_t n, char out[RECORD_FILE_HEAD])
{
	char line[RECORD_FILE_HEAD];
	int len = snprintf(line, sizeof(line), HEAD_FORMAT, sequence, n,
			   XXH3_64bits_withSeed(text, n, sequence));

	memset(out, ' ', RECORD_FILE_HEAD);
	memcpy(out, line, (size_t)len);
	out[RECORD_FILE_HEAD - 1] = '\n';
}

/* ---- reading ---------------------------------------------------------------------- */

struct slot {
	const char *text;
	size_t n;
	uint64_t sequence;
};

/* The line is as head_make() makes it, and the text is what it says. */
static bool slot_read(const uint8_t *data, size_t size, struct slot *out)
{
	char line[RECORD_FILE_HEAD + 1] = "", again[RECORD_FILE_HEAD];
	uint64_t hash;

	if (size < RECORD_FILE_HEAD)
		return false;
	memcpy(line, data, RECORD_FILE_HEAD);
	if (sscanf(line, HEAD_SCANNED, &out->sequence, &out->n, &hash) != 3 ||
	    out->n > size - RECORD_FILE_HEAD)
		return false;
	out->text = (const char *)data + RECORD_FILE_HEAD;
	head_make(out->sequence, out->text, out->n, again);
	return !memcmp(again, line, sizeof(again));
}

static bool newest_find(const struct buf *file, struct slot *out)
{
	size_t half = file->len / 2;
	struct slot a, b;
	bool first = slot_read(file->data, half, &a);
	bool second = slot_read(file->data + half, half, &b);

	if (first || second)
		*out = !second || (first && a.sequence > b.sequence) ? a : b;
	return first || second;
}

int record_file_read(const char *path, struct buf *out, struct error *e)
{
	struct buf file = {0};
	struct slot newest;
	int rc = file_read(path, FILE_MOST, &file, e);

	if (!rc && newest_find(&file, &newest))
		buf_put(out, newest.text, newest.n);
	else if (!rc && file.len && file.data[0] == '{')
		buf_put(out, file.data, file.len);
	else if (!rc)
		rc = error_set(e, -EBADMSG, "neither of the two records in %s is whole", path);
	buf_free(&file);
	if (!rc && buf_check(out))
		rc = error_set(e, -ENOMEM, "out of memory");
	return rc;
}

/* ---- storing ---------------------------------------------------------------------- */

static int file_make(struct record_file *f, const char *path, const char *text, size_t n,
		     struct error *e)
{
	size_t slot_size = slot_size_for(n);
	char *file = malloc(2 * slot_size);
	int rc;

	if (!file)
		return error_set(e, -ENOMEM, "out of memory");
	memset(file, '\n', 2 * slot_size);
	*f = (struct record_file){.sequence = f->sequence + 1, .slot_size = slot_size};
	head_make(f->sequence, text, n, file);
	memcpy(file + RECORD_FILE_HEAD, text, n);
	rc = file_replace(path, file, 2 * slot_size, FILE_MODE, e);
	if (!rc)
		memcpy(f->head, file, RECORD_FILE_HEAD);
	free(file);
	return rc;
}

/* Nobody has put another file in its place. */
static bool file_is_ours(const struct record_file *f, int fd)
{
	char head[RECORD_FILE_HEAD];

	return lseek(fd, 0, SEEK_END) == (off_t)(2 * f->slot_size) &&
	       pread(fd, head, sizeof(head), (off_t)(f->newest * f->slot_size)) ==
		       (ssize_t)sizeof(head) &&
	       !memcmp(head, f->head, sizeof(head));
}

static int slot_write(int fd, const struct buf *slot, off_t at)
{
	ssize_t put = 0;
	int rc = fault_point("record.write");

	if (!rc)
		put = pwrite(fd, slot->data, slot->len, at);
	if (put < 0)
		rc = -errno;
	else if (!rc && (size_t)put != slot->len)
		rc = -EIO;
	if (!rc)
		rc = fault_point("record.sync");
	if (!rc && fdatasync(fd))
		rc = -errno;
	return rc;
}

static int slot_store(struct record_file *f, int fd, const char *text, size_t n)
{
	struct record_file next = {
		.sequence = f->sequence + 1, .slot_size = f->slot_size, .newest = !f->newest};
	struct buf slot = {0};
	int rc;

	head_make(next.sequence, text, n, next.head);
	buf_put(&slot, next.head, RECORD_FILE_HEAD);
	buf_put(&slot, text, n);
	rc = buf_check(&slot);
	if (!rc) {
		/* Until it is known to be on the disk, it is not known what is there. */
		f->head[0] = '\0';
		f->sequence = next.sequence;
		rc = slot_write(fd, &slot, (off_t)(next.newest * next.slot_size));
	}
	if (!rc)
		*f = next;
	buf_free(&slot);
	return rc;
}

int record_file_store(struct record_file *f, const char *path, const char *text, size_t n,
		      struct error *e)
{
	int fd = -1, rc;

	if (n > RECORD_FILE_TEXT)
		return error_set(e, -EFBIG, "the record is larger than %u bytes", RECORD_FILE_TEXT);
	if (f->head[0] && RECORD_FILE_HEAD + n <= f->slot_size)
		fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || !file_is_ours(f, fd)) {
		if (fd >= 0)
			close(fd);
		return file_make(f, path, text, n, e);
	}
	rc = slot_store(f, fd, text, n);
	if (close(fd) && !rc)
		rc = -errno;
	return rc ? error_set(e, rc, "cannot write %s: %s", path, strerror(-rc)) : 0;
}

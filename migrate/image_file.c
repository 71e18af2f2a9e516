// SPDX-License-Identifier: Apache-2.0
/* A file as a string of octets, sealed in chunks or not. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/image.h"

#define SYNC_EVERY (32u << 20)

/* ---- out ---------------------------------------------------------------------- */

struct image_out {
	int fd;
	struct crypt *crypt; /* NULL: in the clear */
	uint8_t *chunk;
	size_t used;
	uint64_t chunks, offset, bytes, synced;
};

static int crypt_begin(const struct image_key *key, struct image_header *h, struct crypt **out)
{
	int rc = crypt_salt(h->salt);

	if (!rc)
		rc = crypt_create(key, h->salt, h->check, out);
	h->flags |= IMAGE_ENCRYPTED;
	h->chunk = IMAGE_CHUNK;
	return rc;
}

static int header_write(struct image_out *o, const struct image_header *h)
{
	uint8_t bytes[IMAGE_HEADER_SIZE];

	image_header_encode(h, bytes);
	o->bytes = sizeof(bytes);
	if (o->crypt) {
		int rc = crypt_header_set(o->crypt, bytes, sizeof(bytes));

		if (rc)
			return rc;
	}
	return fd_write_all(o->fd, bytes, sizeof(bytes));
}

int image_out_create(int fd, const struct image_key *key, struct image_out **out, struct error *e)
{
	struct image_out *o = calloc(1, sizeof(*o));
	struct image_header h = {0};
	int rc = -ENOMEM;

	if (!o)
		return error_set(e, rc, "out of memory");
	o->fd = fd;
	o->chunk = malloc(IMAGE_CHUNK + CRYPT_TAG_SIZE);
	if (o->chunk)
		rc = key ? crypt_begin(key, &h, &o->crypt) : 0;
	if (!rc)
		rc = header_write(o, &h);
	if (rc) {
		image_out_destroy(o);
		return error_set(e, rc, "cannot begin the image: %s", strerror(-rc));
	}
	*out = o;
	return 0;
}

void image_out_destroy(struct image_out *o)
{
	if (!o)
		return;
	crypt_destroy(o->crypt);
	free(o->chunk);
	free(o);
}

uint64_t image_out_offset(const struct image_out *o)
{
	return o->offset;
}

uint64_t image_out_bytes(const struct image_out *o)
{
	return o->bytes;
}

/* Synced bit by bit: else the last sync would take long, and nothing could cancel it. */
static int chunk_put(struct image_out *o, bool last)
{
	size_t n = o->used;
	int rc = fault_point("image.write");

	if (!rc && o->crypt) {
		rc = crypt_seal(o->crypt, o->chunks, last, o->chunk, n);
		n += CRYPT_TAG_SIZE;
	}
	if (!rc)
		rc = fd_write_all(o->fd, o->chunk, n);
	if (rc)
		return rc;
	o->chunks++;
	o->used = 0;
	o->bytes += n;
	if (o->bytes - o->synced < SYNC_EVERY)
		return 0;
	o->synced = o->bytes;
	return fdatasync(o->fd) ? -errno : 0;
}

/* A full chunk waits until more comes: only then it is not the last. */
int image_out_write(struct image_out *o, const void *data, size_t n)
{
	const uint8_t *from = data;

	o->offset += n;
	while (n) {
		size_t room = IMAGE_CHUNK - o->used, part = n < room ? n : room;

		if (!room) {
			int rc = chunk_put(o, false);

			if (rc)
				return rc;
			continue;
		}
		memcpy(o->chunk + o->used, from, part);
		o->used += part;
		from += part;
		n -= part;
	}
	return 0;
}

int image_out_finish(struct image_out *o)
{
	int rc = chunk_put(o, true);

	if (!rc)
		rc = fault_point("image.sync");
	if (!rc && fsync(o->fd))
		rc = -errno;
	return rc;
}

/* ---- in ----------------------------------------------------------------------------- */

struct image_in {
	int fd;
	struct crypt *crypt;
	size_t chunk_size, seal_size;
	uint64_t size, chunks;
	uint8_t *chunk;  /* the one that was read last */
	uint64_t cached; /* its number + 1; 0: none */
};

static int read_at(int fd, uint64_t at, uint8_t *out, size_t n)
{
	while (n) {
		ssize_t got = pread(fd, out, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -EBADMSG; /* it has shrunk */
		out += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

static int key_accept(struct image_in *i, const struct image_key *key, const struct image_header *h,
		      const uint8_t *bytes, struct error *e)
{
	uint8_t check[CRYPT_CHECK_SIZE];
	int rc;

	if (!key)
		return error_set(e, -ENOKEY, "the image is encrypted: give its key (--key-file)");
	rc = crypt_create(key, h->salt, check, &i->crypt);
	if (!rc)
		rc = crypt_header_set(i->crypt, bytes, IMAGE_HEADER_SIZE);
	if (rc)
		return error_set(e, rc, "cannot use the key: %s", strerror(-rc));
	if (memcmp(check, h->check, sizeof(check)) != 0)
		return error_set(e, -EKEYREJECTED,
				 "the key is not the one that the image was encrypted with");
	i->seal_size = CRYPT_TAG_SIZE;
	i->chunk_size = h->chunk;
	return 0;
}

/* How much there is, from the size of the file. */
static int size_up(struct image_in *i, uint64_t body, struct error *e)
{
	uint64_t sealed = i->chunk_size + i->seal_size, last;

	i->chunks = (body + sealed - 1) / sealed;
	last = i->chunks ? body - (i->chunks - 1) * sealed : 0;
	if (last <= i->seal_size)
		return error_set(e, -EBADMSG, "the image is cut short");
	i->size = body - i->chunks * i->seal_size;
	return 0;
}

static int in_open(struct image_in *i, const struct image_key *key, struct error *e)
{
	uint8_t bytes[IMAGE_HEADER_SIZE];
	struct image_header h;
	struct stat st;
	int rc;

	if (fstat(i->fd, &st))
		return error_set(e, -errno, "cannot look at the image: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(bytes))
		return error_set(e, -EBADMSG, "this is no image of a VM");
	rc = read_at(i->fd, 0, bytes, sizeof(bytes));
	if (rc)
		return error_set(e, rc, "cannot read the image: %s", strerror(-rc));
	rc = image_header_decode(bytes, &h, e);
	if (rc)
		return rc;
	i->chunk_size = IMAGE_CHUNK;
	/* Whoever gives a key wants to know that nobody without it has made this. */
	if (key && !(h.flags & IMAGE_ENCRYPTED))
		return error_set(e, -EKEYREJECTED,
				 "a key was given, and this image is not encrypted");
	if (h.flags & IMAGE_ENCRYPTED)
		rc = key_accept(i, key, &h, bytes, e);
	if (rc)
		return rc;
	i->chunk = malloc(i->chunk_size + i->seal_size);
	if (!i->chunk)
		return error_set(e, -ENOMEM, "out of memory");
	return size_up(i, (uint64_t)st.st_size - sizeof(bytes), e);
}

int image_in_open(int fd, const struct image_key *key, struct image_in **out, struct error *e)
{
	struct image_in *i = calloc(1, sizeof(*i));
	int rc;

	if (!i)
		return error_set(e, -ENOMEM, "out of memory");
	i->fd = fd;
	rc = in_open(i, key, e);
	if (rc)
		image_in_close(i);
	else
		*out = i;
	return rc;
}

void image_in_close(struct image_in *i)
{
	if (!i)
		return;
	crypt_destroy(i->crypt);
	free(i->chunk);
	free(i);
}

uint64_t image_in_size(const struct image_in *i)
{
	return i->size;
}

bool image_in_encrypted(const struct image_in *i)
{
	return i->crypt;
}

static size_t chunk_len(const struct image_in *i, uint64_t chunk)
{
	bool last = chunk + 1 == i->chunks;

	return last ? (size_t)(i->size - chunk * i->chunk_size) : i->chunk_size;
}

static int chunk_get(struct image_in *i, uint64_t chunk, struct error *e)
{
	uint64_t at = IMAGE_HEADER_SIZE + chunk * (i->chunk_size + i->seal_size);
	size_t n = chunk_len(i, chunk);
	int rc;

	if (i->cached == chunk + 1)
		return 0;
	i->cached = 0;
	rc = fault_point("image.read");
	if (!rc)
		rc = read_at(i->fd, at, i->chunk, n + i->seal_size);
	if (rc)
		return error_set(e, rc, "cannot read the image at %" PRIu64 ": %s", at,
				 strerror(-rc));
	if (i->crypt)
		rc = crypt_open(i->crypt, chunk, chunk + 1 == i->chunks, i->chunk, n);
	if (rc)
		return error_set(e, rc,
				 "the image is damaged, cut or was tampered with: chunk %" PRIu64
				 " of %" PRIu64 " is not what was written",
				 chunk, i->chunks);
	i->cached = chunk + 1;
	return 0;
}

int image_in_read(struct image_in *i, uint64_t offset, void *out, size_t n, struct error *e)
{
	uint8_t *to = out;

	if (offset > i->size || n > i->size - offset)
		return error_set(e, -EBADMSG, "the image is cut short, or damaged");
	while (n) {
		uint64_t chunk = offset / i->chunk_size, at = offset % i->chunk_size;
		size_t part = i->chunk_size - at;
		int rc = chunk_get(i, chunk, e);

		if (rc)
			return rc;
		if (part > n)
			part = n;
		memcpy(to, i->chunk + at, part);
		to += part;
		offset += part;
		n -= part;
	}
	return 0;
}

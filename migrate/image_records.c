// SPDX-License-Identifier: Apache-2.0
/* The header of an image and those records of it that are not replicate/'s. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "migrate/image.h"

static const uint8_t magic[8] = {'P', 'L', 'X', 'I', 'M', 'G', '\r', '\n'};

/* ---- header ------------------------------------------------------------------- */

static void store(uint8_t *at, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

void image_header_encode(const struct image_header *h, uint8_t out[IMAGE_HEADER_SIZE])
{
	memset(out, 0, IMAGE_HEADER_SIZE);
	memcpy(out, magic, sizeof(magic));
	store(out + 8, IMAGE_VERSION, 2);
	store(out + 10, h->flags, 2);
	store(out + 12, h->chunk, 4);
	memcpy(out + 16, h->salt, sizeof(h->salt));
	memcpy(out + 32, h->check, sizeof(h->check));
	store(out + 56, XXH3_64bits(out, 56), 8);
}

static bool chunk_ok(const struct image_header *h)
{
	if (!(h->flags & IMAGE_ENCRYPTED))
		return h->chunk == 0;
	return h->chunk >= IMAGE_CHUNK_MIN && h->chunk <= IMAGE_CHUNK_MAX &&
	       !(h->chunk & (h->chunk - 1));
}

int image_header_decode(const uint8_t in[IMAGE_HEADER_SIZE], struct image_header *out,
			struct error *e)
{
	struct cursor c = cursor_of(in, IMAGE_HEADER_SIZE);
	struct image_header h = {0};
	uint64_t zero, hash;
	uint16_t version;

	if (memcmp(cursor_take(&c, sizeof(magic)), magic, sizeof(magic)) != 0)
		return error_set(e, -EBADMSG, "this is no image of a VM");
	version = cursor_u16(&c);
	h.flags = cursor_u16(&c);
	h.chunk = cursor_u32(&c);
	cursor_copy(&c, h.salt, sizeof(h.salt));
	cursor_copy(&c, h.check, sizeof(h.check));
	zero = cursor_u64(&c);
	hash = cursor_u64(&c);
	if (hash != XXH3_64bits(in, 56))
		return error_set(e, -EBADMSG, "the image is damaged: the header's checksum");
	if (!version_within(version, IMAGE_OLDEST, IMAGE_VERSION) || h.flags & ~IMAGE_ENCRYPTED)
		return error_set(e, -EPROTONOSUPPORT,
				 "the image is of version %u with flags %#x: this program reads "
				 "versions %u to %u",
				 version, h.flags, IMAGE_OLDEST, IMAGE_VERSION);
	if (zero || !chunk_ok(&h))
		return error_set(e, -EBADMSG, "the image is damaged: its header");
	*out = h;
	return 0;
}

/* ---- IMAGE --------------------------------------------------------------------- */

static void text_put(struct buf *out, const char *text)
{
	buf_put_u32(out, (uint32_t)strlen(text));
	buf_put(out, text, strlen(text));
}

void image_info_encode(const struct image_info *i, struct buf *out)
{
	buf_put_u64(out, i->ram_pages);
	buf_put_u64(out, i->term);
	buf_put_u64(out, i->saved_ns);
	buf_put_u32(out, i->vcpus);
	buf_put_u32(out, i->cpu);
	buf_put_u32(out, i->disk_count);
	buf_put_u32(out, 0);
	text_put(out, i->name);
	text_put(out, i->identity);
	text_put(out, i->engine);
	text_put(out, i->software);
	text_put(out, i->origin);
	text_put(out, i->config);
}

/* Of at most `most` octets, none of them 0. */
static const uint8_t *text_take(struct cursor *c, size_t most, size_t *n)
{
	const uint8_t *text;

	*n = cursor_u32(c);
	text = *n <= most ? cursor_take(c, *n) : NULL;
	if (!text || memchr(text, 0, *n))
		c->bad = true;
	return c->bad ? NULL : text;
}

static void text_read(struct cursor *c, char *out, size_t size)
{
	size_t n;
	const uint8_t *text = text_take(c, size - 1, &n);

	if (text) {
		memcpy(out, text, n);
		out[n] = '\0';
	}
}

static char *text_copy(struct cursor *c, size_t most)
{
	size_t n;
	const uint8_t *text = text_take(c, most, &n);

	return text ? strndup((const char *)text, n) : NULL;
}

static bool identity_ok(const char *identity)
{
	size_t n = strlen(identity);

	return !n || (n == 32 && strspn(identity, "0123456789abcdef") == n);
}

void image_info_free(struct image_info *i)
{
	free(i->config);
	free(i->origin);
	i->config = i->origin = NULL;
}

static int info_check(const struct image_info *i, struct error *e)
{
	if (!i->ram_pages || i->ram_pages > UINT64_MAX / VM_PAGE_SIZE || !i->vcpus ||
	    i->vcpus > VM_VCPUS_MAX || i->disk_count > VM_DISKS_MAX || !i->name[0] ||
	    !identity_ok(i->identity))
		return error_set(e, -EBADMSG, "the image is damaged: its description of the VM");
	return 0;
}

int image_info_decode(const uint8_t *data, size_t n, struct image_info *out, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	struct image_info i = {0};
	uint32_t cpu, zero;
	int rc;

	i.ram_pages = cursor_u64(&c);
	i.term = cursor_u64(&c);
	i.saved_ns = cursor_u64(&c);
	i.vcpus = cursor_u32(&c);
	cpu = cursor_u32(&c);
	i.disk_count = cursor_u32(&c);
	zero = cursor_u32(&c);
	text_read(&c, i.name, sizeof(i.name));
	text_read(&c, i.identity, sizeof(i.identity));
	text_read(&c, i.engine, sizeof(i.engine));
	text_read(&c, i.software, sizeof(i.software));
	i.origin = text_copy(&c, 4096);
	i.config = text_copy(&c, IMAGE_CONFIG_MAX);
	i.cpu = (enum vm_cpu)cpu;
	if (cursor_finish(&c) || zero || cpu > VM_CPU_BASE || !i.origin || !i.config)
		rc = error_set(e, -EBADMSG, "the image is damaged: its description of the VM");
	else
		rc = info_check(&i, e);
	if (rc) {
		image_info_free(&i);
		return rc;
	}
	i.disk_count = 0;
	*out = i;
	return 0;
}

/* ---- DISK ------------------------------------------------------------------------ */

#define DISK_READONLY 1u
#define DISK_COPIED   2u

void image_disk_encode(unsigned number, const struct image_disk *d, struct buf *out)
{
	buf_put_u16(out, (uint16_t)number);
	buf_put_u16(out, (d->readonly ? DISK_READONLY : 0u) | (d->copied ? DISK_COPIED : 0u));
	buf_put_u64(out, d->size);
	text_put(out, d->path);
}

int image_disk_decode(const uint8_t *data, size_t n, struct image_info *i, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	uint16_t number = cursor_u16(&c), flags = cursor_u16(&c);
	struct image_disk d = {.size = cursor_u64(&c),
			       .readonly = flags & DISK_READONLY,
			       .copied = flags & DISK_COPIED};

	text_read(&c, d.path, sizeof(d.path));
	if (cursor_finish(&c) || flags & ~(DISK_READONLY | DISK_COPIED) ||
	    number != i->disk_count || number >= VM_DISKS_MAX || !d.path[0])
		return error_set(e, -EBADMSG, "the image is damaged: its description of a disk");
	i->disks[i->disk_count++] = d;
	return 0;
}

/* ---- TAIL -------------------------------------------------------------------------- */

void image_tail_encode(const struct image_tail *t, struct buf *out)
{
	size_t began = out->len;

	buf_put_u64(out, t->head);
	buf_put_u64(out, t->state);
	buf_put_u64(out, t->index);
	buf_put_u64(out, t->tail);
	buf_put_u64(out, t->runs);
	buf_put_u64(out, t->pages);
	buf_put_u64(out, t->head_hash);
	buf_put_u64(out, t->rest_hash);
	if (!out->failed)
		buf_put_u64(out, XXH3_64bits(out->data + began, out->len - began));
}

int image_tail_decode(const uint8_t *data, size_t n, uint64_t at, struct image_tail *out,
		      struct error *e)
{
	struct cursor c = cursor_of(data, n);
	struct image_tail t;
	uint64_t hash;

	t.head = cursor_u64(&c);
	t.state = cursor_u64(&c);
	t.index = cursor_u64(&c);
	t.tail = cursor_u64(&c);
	t.runs = cursor_u64(&c);
	t.pages = cursor_u64(&c);
	t.head_hash = cursor_u64(&c);
	t.rest_hash = cursor_u64(&c);
	hash = cursor_u64(&c);
	if (cursor_finish(&c) || hash != XXH3_64bits(data, TAIL_SIZE - 8))
		return error_set(e, -EBADMSG, "the image is cut short, or its end is damaged");
	if (t.tail != at || t.head > t.state || t.state > t.index || t.index > t.tail ||
	    t.runs > (t.tail - t.index) / INDEX_RUN_SIZE)
		return error_set(e, -EBADMSG, "the image is damaged: its last record");
	*out = t;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/state.h"

#include <errno.h>
#include <string.h>

#define STATE_MAGIC         0x53584c50u /* "PLXS" */
#define STATE_HEADER_SIZE   16u
#define SECTION_HEADER_SIZE 16u
#define SECTION_LENGTH_AT   8u
#define SECTION_ALIGN       8u

static size_t section_padding(size_t len)
{
	return -len % SECTION_ALIGN;
}

size_t state_start(struct buf *b)
{
	size_t began = b->len;

	buf_put_u32(b, STATE_MAGIC);
	buf_put_u16(b, STATE_VERSION);
	buf_put_u16(b, 0);
	buf_put_u32(b, 0); /* sections and total: state_finish() */
	buf_put_u32(b, 0);
	return began;
}

size_t state_section_begin(struct buf *b, uint16_t id, uint16_t instance, uint16_t version,
			   uint16_t flags)
{
	size_t began = b->len;

	buf_put_u16(b, id);
	buf_put_u16(b, instance);
	buf_put_u16(b, version);
	buf_put_u16(b, flags);
	buf_put_u32(b, 0); /* length: state_section_end() */
	buf_put_u32(b, 0);
	return began;
}

void state_section_end(struct buf *b, size_t began)
{
	static const uint8_t zeros[SECTION_ALIGN];
	size_t len;

	if (b->failed)
		return;
	len = b->len - began - SECTION_HEADER_SIZE;
	if (len > UINT32_MAX - SECTION_ALIGN) {
		b->failed = true;
		return;
	}
	buf_patch_u32(b, began + SECTION_LENGTH_AT, (uint32_t)len);
	buf_put(b, zeros, section_padding(len));
}

static unsigned sections_count(const uint8_t *at, size_t left)
{
	unsigned count = 0;

	while (left >= SECTION_HEADER_SIZE) {
		struct cursor c = cursor_of(at + SECTION_LENGTH_AT, 4);
		size_t len = cursor_u32(&c), whole;

		whole = SECTION_HEADER_SIZE + len + section_padding(len);
		at += whole;
		left -= whole;
		count++;
	}
	return count;
}

int state_finish(struct buf *b, size_t began)
{
	size_t total;

	if (b->failed)
		return -ENOMEM;
	total = b->len - began;
	if (total > UINT32_MAX)
		return -E2BIG;
	buf_patch_u32(
		b, began + 8,
		sections_count(b->data + began + STATE_HEADER_SIZE, total - STATE_HEADER_SIZE));
	buf_patch_u32(b, began + 12, (uint32_t)total);
	return buf_check(b);
}

static int header_check(struct cursor *c, size_t n, unsigned *sections, struct error *e)
{
	uint32_t magic = cursor_u32(c);
	uint16_t version = cursor_u16(c), zero = cursor_u16(c);
	uint32_t count = cursor_u32(c), total = cursor_u32(c);

	if (c->bad)
		return error_set(e, -EBADMSG, "machine state: %zu bytes are no header", n);
	if (magic != STATE_MAGIC)
		return error_set(e, -EBADMSG, "machine state: wrong magic %#x", magic);
	if (!version_within(version, STATE_OLDEST, STATE_VERSION))
		return error_set(e, -EPROTONOSUPPORT,
				 "machine state: format version %u, this program reads %u to %u",
				 version, STATE_OLDEST, STATE_VERSION);
	if (zero)
		return error_set(e, -EBADMSG, "machine state: reserved header field is not zero");
	if (total != n)
		return error_set(e, -EBADMSG, "machine state: says %u bytes, has %zu", total, n);
	if (count > STATE_SECTIONS_MAX)
		return error_set(e, -EBADMSG, "machine state: %u sections, at most %u", count,
				 STATE_SECTIONS_MAX);
	*sections = count;
	return 0;
}

static int padding_check(struct cursor *c, size_t len)
{
	size_t n = section_padding(len);
	const uint8_t *pad = cursor_take(c, n);

	for (size_t i = 0; pad && i < n; i++)
		if (pad[i])
			return -EBADMSG;
	return 0;
}

static int section_parse(struct cursor *c, struct state_view *v, struct error *e)
{
	struct state_section *s = &v->sections[v->count];
	uint32_t zero;

	s->id = cursor_u16(c);
	s->instance = cursor_u16(c);
	s->version = cursor_u16(c);
	s->flags = cursor_u16(c);
	s->len = cursor_u32(c);
	zero = cursor_u32(c);
	s->data = cursor_take(c, s->len);
	if (c->bad)
		return error_set(e, -EBADMSG, "machine state: section %u of %u bytes is cut off",
				 s->id, s->len);
	if (zero || s->flags & ~STATE_MANDATORY)
		return error_set(e, -EBADMSG, "machine state: section %u: reserved bits are set",
				 s->id);
	if (state_find(v, s->id, s->instance))
		return error_set(e, -EBADMSG, "machine state: section %u, %u comes twice", s->id,
				 s->instance);
	if (padding_check(c, s->len) || c->bad)
		return error_set(e, -EBADMSG, "machine state: section %u: wrong padding", s->id);
	v->count++;
	return 0;
}

int state_open(const void *data, size_t n, struct state_view *out, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	unsigned sections = 0;
	int rc;

	out->count = 0;
	rc = header_check(&c, n, &sections, e);
	for (unsigned i = 0; !rc && i < sections; i++)
		rc = section_parse(&c, out, e);
	if (rc)
		return rc;
	if (cursor_finish(&c))
		return error_set(e, -EBADMSG, "machine state: %zu bytes after the last section",
				 c.left);
	return 0;
}

const struct state_section *state_find(const struct state_view *v, uint16_t id, uint16_t instance)
{
	for (unsigned i = 0; i < v->count; i++)
		if (v->sections[i].id == id && v->sections[i].instance == instance)
			return &v->sections[i];
	return NULL;
}

// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 256

void buf_free(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}

int buf_check(const struct buf *b)
{
	return b->failed ? -ENOMEM : 0;
}

static bool buf_reserve(struct buf *b, size_t n)
{
	size_t need, cap;
	uint8_t *data;

	if (__builtin_add_overflow(b->len, n, &need))
		return false;
	if (need <= b->cap && b->data)
		return true;
	cap = b->cap ? b->cap : FIRST_CAPACITY;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			cap = need;
	data = realloc(b->data, cap);
	if (!data)
		return false;
	b->data = data;
	b->cap = cap;
	return true;
}

uint8_t *buf_extend(struct buf *b, size_t n)
{
	uint8_t *at;

	if (b->failed)
		return NULL;
	if (!buf_reserve(b, n)) {
		b->failed = true;
		return NULL;
	}
	at = b->data + b->len;
	b->len += n;
	return at;
}

void buf_put(struct buf *b, const void *data, size_t n)
{
	uint8_t *at = buf_extend(b, n);

	if (at && n)
		memcpy(at, data, n);
}

static void store_le(uint8_t *at, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load_le(const uint8_t *at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

static void put_le(struct buf *b, uint64_t v, unsigned bytes)
{
	uint8_t *at = buf_extend(b, bytes);

	if (at)
		store_le(at, v, bytes);
}

void buf_put_u8(struct buf *b, uint8_t v)
{
	put_le(b, v, 1);
}

void buf_put_u16(struct buf *b, uint16_t v)
{
	put_le(b, v, 2);
}

void buf_put_u32(struct buf *b, uint32_t v)
{
	put_le(b, v, 4);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
	put_le(b, v, 8);
}

void buf_patch_u32(struct buf *b, size_t at, uint32_t v)
{
	if (b->failed)
		return;
	if (b->len < 4 || at > b->len - 4) {
		b->failed = true;
		return;
	}
	store_le(b->data + at, v, 4);
}

struct cursor cursor_of(const void *data, size_t n)
{
	return (struct cursor){.at = data, .left = n};
}

const uint8_t *cursor_take(struct cursor *c, size_t n)
{
	const uint8_t *at = c->at;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->at = n ? at + n : at;
	c->left -= n;
	return at;
}

static uint64_t take_le(struct cursor *c, unsigned bytes)
{
	const uint8_t *at = cursor_take(c, bytes);

	return at ? load_le(at, bytes) : 0;
}

uint8_t cursor_u8(struct cursor *c)
{
	return (uint8_t)take_le(c, 1);
}

uint16_t cursor_u16(struct cursor *c)
{
	return (uint16_t)take_le(c, 2);
}

uint32_t cursor_u32(struct cursor *c)
{
	return (uint32_t)take_le(c, 4);
}

uint64_t cursor_u64(struct cursor *c)
{
	return take_le(c, 8);
}

void cursor_copy(struct cursor *c, void *out, size_t n)
{
	const uint8_t *at = cursor_take(c, n);

	if (!n)
		return;
	if (at)
		memcpy(out, at, n);
	else
		memset(out, 0, n);
}

int cursor_finish(const struct cursor *c)
{
	return c->bad || c->left ? -EBADMSG : 0;
}

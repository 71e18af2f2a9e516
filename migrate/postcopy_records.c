// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "migrate/postcopy.h"

/* ---- LINK ------------------------------------------------------------------------ */

void link_hello_encode(const struct link_hello *h, struct buf *out)
{
	buf_put_u16(out, LINK_VERSION);
	buf_put_u16(out, h->stream);
	buf_put_u16(out, h->streams);
	buf_put_u16(out, 0);
	buf_put_u64(out, h->term);
	buf_put_u64(out, h->ram_pages);
	buf_put_u64(out, h->number);
	buf_put(out, h->session, sizeof(h->session));
}

int link_hello_decode(const uint8_t *data, size_t n, struct link_hello *out, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	struct link_hello h = {0};
	uint16_t version = cursor_u16(&c), zero;

	if (!c.bad && !version_within(version, LINK_OLDEST, LINK_VERSION))
		return error_set(e, -EPROTONOSUPPORT,
				 "the source speaks version %u of postcopy, this side reads %u to "
				 "%u",
				 version, LINK_OLDEST, LINK_VERSION);
	h.stream = cursor_u16(&c);
	h.streams = cursor_u16(&c);
	zero = cursor_u16(&c);
	h.term = cursor_u64(&c);
	h.ram_pages = cursor_u64(&c);
	h.number = cursor_u64(&c);
	cursor_copy(&c, h.session, sizeof(h.session));
	if (cursor_finish(&c) || zero || !h.number)
		return error_set(e, -EBADMSG, "a postcopy link begins with what cannot be");
	*out = h;
	return 0;
}

int link_hello_check(const struct link_hello *theirs, const struct link_hello *ours,
		     struct error *e)
{
	if (memcmp(theirs->session, ours->session, sizeof(ours->session)) != 0 ||
	    theirs->stream != ours->stream)
		return error_set(e, -EINVAL, "a postcopy link of another session or stream");
	if (theirs->term != ours->term)
		return error_set(e, theirs->term < ours->term ? -ESTALE : -EINVAL,
				 "the source has memory of term %" PRIu64
				 ", the target waits for that of term %" PRIu64,
				 theirs->term, ours->term);
	if (theirs->streams != ours->streams)
		return error_set(e, -EINVAL,
				 "the source pushes over %u streams, the target waits for %u",
				 theirs->streams, ours->streams);
	if (theirs->ram_pages != ours->ram_pages)
		return error_set(e, -EINVAL,
				 "the vm has %" PRIu64 " pages of memory at the source, %" PRIu64
				 " at the target",
				 theirs->ram_pages, ours->ram_pages);
	return 0;
}

/* ---- REFUSE ------------------------------------------------------------------------- */

void link_refuse_encode(enum link_refuse_code code, const char *text, struct buf *out)
{
	buf_put_u32(out, (uint32_t)code);
	buf_put(out, text, strnlen(text, LINK_REFUSE_TEXT));
}

int link_refuse_decode(const uint8_t *data, size_t n, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	uint32_t code = cursor_u32(&c);
	char text[LINK_REFUSE_TEXT + 1] = "";
	size_t len = c.left;

	if (c.bad || len > LINK_REFUSE_TEXT || code < LINK_REFUSE_OTHER || code > LINK_REFUSE_LAST)
		return error_set(e, -EBADMSG, "a refusal that cannot be");
	cursor_copy(&c, text, len);
	for (size_t i = 0; i < len; i++) /* it goes into logs */
		if ((unsigned char)text[i] < ' ' || (unsigned char)text[i] > '~')
			text[i] = '?';
	return error_set(e, code == LINK_REFUSE_TERM ? -ESTALE : -EPERM,
			 "the other side refused: %s", text);
}

/* ---- lists -------------------------------------------------------------------------- */

void link_words_encode(const uint64_t *words, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++)
		buf_put_u64(out, words[i]);
}

int link_words_decode(const uint8_t *data, size_t n, uint64_t *words, size_t *count)
{
	struct cursor c = cursor_of(data, n);

	if (n % sizeof(*words))
		return -EBADMSG;
	*count = n / sizeof(*words);
	for (size_t i = 0; i < *count; i++)
		words[i] = cursor_u64(&c);
	return cursor_finish(&c);
}

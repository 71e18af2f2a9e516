// SPDX-License-Identifier: Apache-2.0
#include "channel/channel.h"

#include <errno.h>
#include <string.h>

#define PREAMBLE_OLDEST  1u
#define PREAMBLE_VERSION 1u

static const uint8_t magic[8] = {'P', 'O', 'L', 'L', 'U', 'X', '\r', '\n'};

static void put_u16(uint8_t *at, uint16_t v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

void preamble_encode(const struct preamble *p, uint8_t out[PREAMBLE_SIZE])
{
	memset(out, 0, PREAMBLE_SIZE);
	memcpy(out, magic, sizeof(magic));
	put_u16(out + 8, PREAMBLE_VERSION);
	put_u16(out + 10, (uint16_t)p->kind);
	put_u16(out + 12, p->stream);
	memcpy(out + 16, p->session, SESSION_ID_SIZE);
}

static bool stream_valid(uint16_t stream)
{
	return stream < CHANNEL_STREAMS_MAX || stream == CHANNEL_BURST ||
	       (stream >= CHANNEL_LATER_FIRST &&
		stream < CHANNEL_LATER_FIRST + CHANNEL_STREAMS_MAX);
}

static int preamble_check(const struct preamble *p, uint16_t kind, struct error *e)
{
	static const uint8_t none[SESSION_ID_SIZE];
	bool session = memcmp(p->session, none, sizeof(none)) != 0;

	if (kind == PREAMBLE_PEER && !session && !p->stream)
		return 0;
	if (kind == PREAMBLE_DATA && session && stream_valid(p->stream))
		return 0;
	return error_set(e, -EBADMSG, "preamble of kind %u with stream %u %s a session", kind,
			 p->stream, session ? "and" : "without");
}

int preamble_decode(const uint8_t in[PREAMBLE_SIZE], struct preamble *out, struct error *e)
{
	struct cursor c = cursor_of(in + sizeof(magic), PREAMBLE_SIZE - sizeof(magic));
	struct preamble p = {0};
	uint16_t version, kind, zero;
	int rc;

	if (memcmp(in, magic, sizeof(magic)) != 0)
		return error_set(e, -EBADMSG, "not a Pollux connection");
	version = cursor_u16(&c);
	kind = cursor_u16(&c);
	p.kind = kind;
	p.stream = cursor_u16(&c);
	zero = cursor_u16(&c);
	cursor_copy(&c, p.session, sizeof(p.session));
	if (!version_within(version, PREAMBLE_OLDEST, PREAMBLE_VERSION))
		return error_set(e, -EPROTONOSUPPORT,
				 "the other side speaks preamble version %u, this one reads %u "
				 "to %u",
				 version, PREAMBLE_OLDEST, PREAMBLE_VERSION);
	if (zero)
		return error_set(e, -EPROTONOSUPPORT, "a preamble of a later version");
	rc = preamble_check(&p, kind, e);
	if (rc)
		return rc;
	*out = p;
	return 0;
}

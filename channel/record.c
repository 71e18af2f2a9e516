// SPDX-License-Identifier: Apache-2.0
#include "channel/channel.h"

#include <errno.h>

int64_t record_decode(const uint8_t *data, size_t n, struct record *out)
{
	struct cursor c = cursor_of(data, n);
	struct record r = {0};

	if (n < RECORD_HEADER_SIZE)
		return 0;
	r.type = cursor_u16(&c);
	r.flags = cursor_u16(&c);
	r.len = cursor_u32(&c);
	if (!r.type || r.flags & ~RECORD_MANDATORY)
		return -EBADMSG;
	if (r.len > CHANNEL_RECORD_MAX)
		return -EMSGSIZE;
	if (c.left < r.len)
		return 0;
	r.payload = c.at;
	*out = r;
	return RECORD_HEADER_SIZE + (int64_t)r.len;
}

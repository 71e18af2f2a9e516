// SPDX-License-Identifier: Apache-2.0
/* Records in a file, as they come out of TLS. */
#ifndef TESTS_CHANNEL_RECORD_FILE_H
#define TESTS_CHANNEL_RECORD_FILE_H

#include <stdio.h>
#include <string.h>

#include "channel/channel.h"

static inline void record_write(FILE *f, const struct record *r)
{
	uint8_t header[RECORD_HEADER_SIZE] = {(uint8_t)r->type, (uint8_t)(r->type >> 8),
					      (uint8_t)r->flags, (uint8_t)(r->flags >> 8)};

	memcpy(header + 4, &r->len, 4);
	fwrite(header, 1, sizeof(header), f);
	fwrite(r->payload, 1, r->len, f);
}

#endif

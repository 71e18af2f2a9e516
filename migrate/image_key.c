// SPDX-License-Identifier: Apache-2.0
/* A key in a file. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "migrate/migrate.h"

#define KEY_FILE_MAX 4096

static int digit(uint8_t c)
{
	return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

static bool hex_read(const uint8_t *text, size_t n, struct image_key *out)
{
	while (n && isspace(text[n - 1]))
		n--;
	if (n != 2 * (size_t)IMAGE_KEY_SIZE)
		return false;
	for (size_t i = 0; i < IMAGE_KEY_SIZE; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out->bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

int image_key_read(const char *path, struct image_key *out, struct error *e)
{
	struct buf b = {0};
	int rc = file_read(path, KEY_FILE_MAX, &b, e);

	if (rc)
		error_context(e, "the key");
	else if (b.len == IMAGE_KEY_SIZE)
		memcpy(out->bytes, b.data, IMAGE_KEY_SIZE);
	else if (!hex_read(b.data, b.len, out))
		rc = error_set(e, -EINVAL,
			       "%s is no key: 32 octets, or 64 hexadecimal digits, as `openssl "
			       "rand -hex 32` makes them",
			       path);
	if (b.data)
		explicit_bzero(b.data, b.len);
	buf_free(&b);
	return rc;
}

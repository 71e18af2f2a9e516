// SPDX-License-Identifier: Apache-2.0
#include "agent/json_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *json_text(const char *text)
{
	json_t *string = json_string(text);
	char *copy;

	if (string)
		return string;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *at = copy; *at; at++)
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	string = json_string(copy);
	free(copy);
	return string;
}

const char *json_text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

json_int_t json_integer_of(const json_t *object, const char *key, json_int_t otherwise)
{
	const json_t *v = json_object_get(object, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

uint64_t json_count_of(const json_t *object, const char *key)
{
	json_int_t n = json_integer_of(object, key, 0);

	return n > 0 ? (uint64_t)n : 0;
}

bool json_true_of(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

static size_t rest_put(char *out, size_t room, size_t count)
{
	return (size_t)snprintf(out, room, " and %zu more", count);
}

/* A first one that is too long is cut: something is said. */
void json_texts_join(const json_t *texts, const char *between, char *out, size_t room)
{
	size_t count = json_array_size(texts), used = 0;
	bool cut = false;
	char more[40];

	out[0] = '\0';
	for (size_t i = 0; i < count; i++) {
		const char *text = json_string_value(json_array_get(texts, i)) ?: "";
		size_t rest = i + 1 < count ? rest_put(more, sizeof(more), count - i - 1) : 0;
		size_t most = room - used > rest ? room - used - rest : 1;
		size_t len = strlen(i ? between : "") + strlen(text);

		if (i && (cut || len >= most)) {
			rest_put(out + used, room - used, count - i);
			return;
		}
		cut = len >= most;
		most = cut ? most : len + 1;
		snprintf(out + used, most, "%s%s", i ? between : "", text);
		used += most - 1;
	}
}

void hex_encode(const uint8_t *data, size_t n, char *out)
{
	out[0] = '\0';
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", data[i]);
}

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

int hex_decode(const char *text, uint8_t *out, size_t n)
{
	if (strlen(text) != 2 * n)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		out[i] = (uint8_t)(high * 16 + low);
	}
	return 0;
}

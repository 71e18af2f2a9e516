// SPDX-License-Identifier: Apache-2.0
/* Small helpers around jansson. */
#ifndef POLLUX_AGENT_JSON_TEXT_H
#define POLLUX_AGENT_JSON_TEXT_H

#include <jansson.h>

#include "base/base.h"

/* A JSON string of any bytes: what is not UTF-8 becomes '?'. */
json_t *json_text(const char *text);
/* The string of a key, or "" where there is none. Borrowed. */
const char *json_text_of(const json_t *object, const char *key);
/* The integer of a key, or `otherwise`. */
json_int_t json_integer_of(const json_t *object, const char *key, json_int_t otherwise);
/* 0 where there is none, or a negative one; and false. */
uint64_t json_count_of(const json_t *object, const char *key);
bool json_true_of(const json_t *object, const char *key);
/* Strings, as many as fit; what does not is counted: "a, b and 3 more". */
void json_texts_join(const json_t *texts, const char *between, char *out, size_t room);
void hex_encode(const uint8_t *data, size_t n, char *out);           /* 2n+1 bytes */
int hex_decode(const char *text, uint8_t *out, size_t n) MUST_CHECK; /* exactly n bytes */

#endif

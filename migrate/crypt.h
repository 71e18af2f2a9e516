// SPDX-License-Identifier: Apache-2.0
/*
 * Chunks of an encrypted image: AES-256-GCM (NIST SP 800-38D), with a key for each file
 * from HKDF-SHA256 (RFC 5869). The nonce is the number of the chunk and whether it is the
 * last, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO 2015): chunks can be
 * opened singly, and neither be exchanged, left out nor added. The file's header is
 * authenticated with each of them. Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_CRYPT_H
#define POLLUX_MIGRATE_CRYPT_H

#include "migrate/migrate.h"

#define CRYPT_TAG_SIZE   16u
#define CRYPT_SALT_SIZE  16u
#define CRYPT_CHECK_SIZE 16u

struct crypt;
int crypt_salt(uint8_t out[CRYPT_SALT_SIZE]) MUST_CHECK;
/* `check` tells this key from others, and nothing else about it. */
int crypt_create(const struct image_key *key, const uint8_t salt[CRYPT_SALT_SIZE],
		 uint8_t check[CRYPT_CHECK_SIZE], struct crypt **out) MUST_CHECK;
void crypt_destroy(struct crypt *c);
/* Copied; before the first chunk. */
int crypt_header_set(struct crypt *c, const void *header, size_t n) MUST_CHECK;
/* In place; the tag stands behind the data. */
int crypt_seal(struct crypt *c, uint64_t chunk, bool last, uint8_t *data, size_t n) MUST_CHECK;
/* -EBADMSG: not what was sealed. */
int crypt_open(struct crypt *c, uint64_t chunk, bool last, uint8_t *data, size_t n) MUST_CHECK;

#endif

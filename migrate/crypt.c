// SPDX-License-Identifier: Apache-2.0
#include "migrate/crypt.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_SIZE 12u
#define HEADER_MAX 64u

struct crypt {
	EVP_CIPHER_CTX *seal, *open; /* keyed once; each chunk sets its nonce */
	uint8_t header[HEADER_MAX];
	size_t header_len;
};

int crypt_salt(uint8_t out[CRYPT_SALT_SIZE])
{
	return RAND_bytes(out, CRYPT_SALT_SIZE) == 1 ? 0 : -EIO;
}

static int derive(const struct image_key *key, const uint8_t *salt, uint8_t *out, size_t n)
{
	static const unsigned char info[] = "pollux image 1";
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
	bool ok = c && EVP_PKEY_derive_init(c) == 1 &&
		  EVP_PKEY_CTX_set_hkdf_md(c, EVP_sha256()) == 1 &&
		  EVP_PKEY_CTX_set1_hkdf_salt(c, salt, CRYPT_SALT_SIZE) == 1 &&
		  EVP_PKEY_CTX_set1_hkdf_key(c, key->bytes, IMAGE_KEY_SIZE) == 1 &&
		  EVP_PKEY_CTX_add1_hkdf_info(c, info, sizeof(info) - 1) == 1 &&
		  EVP_PKEY_derive(c, out, &n) == 1;

	EVP_PKEY_CTX_free(c);
	return ok ? 0 : -EIO;
}

int crypt_create(const struct image_key *key, const uint8_t salt[CRYPT_SALT_SIZE],
		 uint8_t check[CRYPT_CHECK_SIZE], struct crypt **out)
{
	struct crypt *c = calloc(1, sizeof(*c));
	uint8_t derived[32 + CRYPT_CHECK_SIZE];
	int rc;

	if (!c)
		return -ENOMEM;
	c->seal = EVP_CIPHER_CTX_new();
	c->open = EVP_CIPHER_CTX_new();
	rc = c->seal && c->open ? derive(key, salt, derived, sizeof(derived)) : -ENOMEM;
	if (!rc && (EVP_EncryptInit_ex(c->seal, EVP_aes_256_gcm(), NULL, derived, NULL) != 1 ||
		    EVP_DecryptInit_ex(c->open, EVP_aes_256_gcm(), NULL, derived, NULL) != 1))
		rc = -EIO;
	if (!rc)
		memcpy(check, derived + 32, CRYPT_CHECK_SIZE);
	explicit_bzero(derived, sizeof(derived));
	if (rc)
		crypt_destroy(c);
	else
		*out = c;
	return rc;
}

void crypt_destroy(struct crypt *c)
{
	if (!c)
		return;
	EVP_CIPHER_CTX_free(c->seal);
	EVP_CIPHER_CTX_free(c->open);
	free(c);
}

int crypt_header_set(struct crypt *c, const void *header, size_t n)
{
	if (n > HEADER_MAX)
		return -EINVAL;
	memcpy(c->header, header, n);
	c->header_len = n;
	return 0;
}

static void nonce_make(uint64_t chunk, bool last, uint8_t out[NONCE_SIZE])
{
	memset(out, 0, NONCE_SIZE);
	for (unsigned i = 0; i < 8; i++)
		out[i] = (uint8_t)(chunk >> (8 * i));
	out[8] = last;
}

int crypt_seal(struct crypt *c, uint64_t chunk, bool last, uint8_t *data, size_t n)
{
	uint8_t nonce[NONCE_SIZE];
	int out = 0;

	nonce_make(chunk, last, nonce);
	if (EVP_EncryptInit_ex(c->seal, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(c->seal, NULL, &out, c->header, (int)c->header_len) != 1 ||
	    EVP_EncryptUpdate(c->seal, data, &out, data, (int)n) != 1 || (size_t)out != n ||
	    EVP_EncryptFinal_ex(c->seal, data + n, &out) != 1 ||
	    EVP_CIPHER_CTX_ctrl(c->seal, EVP_CTRL_GCM_GET_TAG, CRYPT_TAG_SIZE, data + n) != 1)
		return -EIO;
	return 0;
}

int crypt_open(struct crypt *c, uint64_t chunk, bool last, uint8_t *data, size_t n)
{
	uint8_t nonce[NONCE_SIZE];
	int out = 0;

	nonce_make(chunk, last, nonce);
	if (EVP_DecryptInit_ex(c->open, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(c->open, NULL, &out, c->header, (int)c->header_len) != 1 ||
	    EVP_DecryptUpdate(c->open, data, &out, data, (int)n) != 1 || (size_t)out != n ||
	    EVP_CIPHER_CTX_ctrl(c->open, EVP_CTRL_GCM_SET_TAG, CRYPT_TAG_SIZE, data + n) != 1)
		return -EIO;
	return EVP_DecryptFinal_ex(c->open, data + n, &out) == 1 ? 0 : -EBADMSG;
}

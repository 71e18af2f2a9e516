// SPDX-License-Identifier: Apache-2.0
#include "channel/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel/tls.h"

#define SERIAL_BITS   127
#define CLOCK_SKEW    3600L /* seconds by which two hosts' clocks may differ */
#define SECONDS_A_DAY 86400L
#define DAYS_MAX      36500u

struct extension {
	int nid;
	const char *value;
};

static const struct extension ca_extensions[] = {
	{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
	{NID_key_usage, "critical,keyCertSign,cRLSign"},
	{NID_subject_key_identifier, "hash"},
};

static const struct {
	const char *role, *usage;
} roles[] = {
	{"peer", "serverAuth,clientAuth"},
	{"operator", "clientAuth"},
	{"viewer", "clientAuth"},
};

static const char *role_usage(const char *role)
{
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		if (strcmp(role, roles[i].role) == 0)
			return roles[i].usage;
	return NULL;
}

/* It becomes a file name and part of an extension: only harmless characters. */
static int name_check(const char *name, struct error *e)
{
	size_t n =
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");

	if (!n || n > TLS_NAME_MAX || name[n] || name[0] == '.' || name[0] == '-')
		return error_set(e, -EINVAL,
				 "'%s' is no host name: letters, digits, '-', '.' and '_', at most "
				 "%d of them",
				 name, TLS_NAME_MAX);
	return 0;
}

static bool extension_add(X509 *cert, X509 *issuer, const struct extension *x)
{
	X509_EXTENSION *made;
	X509V3_CTX ctx;
	bool ok;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	made = X509V3_EXT_conf_nid(NULL, &ctx, x->nid, x->value);
	ok = made && X509_add_ext(cert, made, -1);
	X509_EXTENSION_free(made);
	return ok;
}

static bool serial_set(X509 *cert)
{
	BIGNUM *n = BN_new();
	bool ok = n && BN_rand(n, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
		  BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));

	BN_free(n);
	return ok;
}

static bool subject_set(X509 *cert, const char *name)
{
	return X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8,
					  (const unsigned char *)name, -1, -1, 0);
}

/* `issuer` NULL: signed by itself. */
static X509 *cert_make(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
		       long from, long to, const struct extension *x, size_t count)
{
	X509 *cert = X509_new();
	X509 *by = issuer ? issuer : cert;
	bool ok = cert && X509_set_version(cert, X509_VERSION_3) && serial_set(cert) &&
		  X509_gmtime_adj(X509_getm_notBefore(cert), from) &&
		  X509_gmtime_adj(X509_getm_notAfter(cert), to) && subject_set(cert, name) &&
		  X509_set_issuer_name(cert, X509_get_subject_name(by)) &&
		  X509_set_pubkey(cert, key);

	for (size_t i = 0; i < count && ok; i++)
		ok = extension_add(cert, by, &x[i]);
	if (ok && X509_sign(cert, issuer_key ? issuer_key : key, EVP_sha256()))
		return cert;
	X509_free(cert);
	return NULL;
}

static int pem_text(X509 *cert, EVP_PKEY *key, struct buf *out)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text;
	long n = 0;
	int ok;

	ok = bio && (cert ? PEM_write_bio_X509(bio, cert)
			  : PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL));
	if (ok) {
		n = BIO_get_mem_data(bio, &text);
		buf_put(out, text, (size_t)n);
	}
	BIO_free(bio);
	return ok ? buf_check(out) : -ENOMEM;
}

/* Never overwrites: a lost key is worse than a refused command. */
static int file_make(const char *path, const struct buf *text, mode_t mode, struct error *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	int rc;

	if (fd < 0) {
		rc = -errno;
		return error_set(e, rc, "create %s: %s", path, strerror(-rc));
	}
	rc = fd_write_all(fd, text->data, text->len);
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	if (close(fd) < 0 && !rc)
		rc = -errno;
	if (rc) {
		unlink(path);
		return error_set(e, rc, "write %s: %s", path, strerror(-rc));
	}
	return 0;
}

static int path_of(char out[PATH_MAX], const char *dir, const char *name, const char *suffix,
		   struct error *e)
{
	if (snprintf(out, PATH_MAX, "%s/%s.%s", dir, name, suffix) >= PATH_MAX)
		return error_set(e, -ENAMETOOLONG, "'%s' is too long a path", dir);
	return 0;
}

static int pair_write(const char *dir, const char *name, X509 *cert, EVP_PKEY *key, struct error *e)
{
	char cert_path[PATH_MAX], key_path[PATH_MAX];
	struct buf cert_text = {0}, key_text = {0};
	int rc;

	rc = path_of(cert_path, dir, name, "crt", e);
	if (!rc)
		rc = path_of(key_path, dir, name, "key", e);
	if (rc)
		return rc;
	rc = pem_text(cert, NULL, &cert_text);
	if (!rc)
		rc = pem_text(NULL, key, &key_text);
	if (rc) {
		rc = error_set(e, rc, "encode the certificate of %s", name);
		goto out;
	}
	rc = file_make(key_path, &key_text, 0600, e);
	if (rc)
		goto out;
	rc = file_make(cert_path, &cert_text, 0644, e);
	if (rc)
		unlink(key_path);
out:
	if (key_text.data)
		OPENSSL_cleanse(key_text.data, key_text.cap);
	buf_free(&key_text);
	buf_free(&cert_text);
	return rc;
}

static int days_check(unsigned days, struct error *e)
{
	if (days && days <= DAYS_MAX)
		return 0;
	return error_set(e, -EINVAL, "a certificate is valid for 1 to %u days, not %u", DAYS_MAX,
			 days);
}

int pki_create_ca(const char *dir, const char *name, unsigned days, struct error *e)
{
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	int rc;

	rc = name_check(name, e);
	if (!rc)
		rc = days_check(days, e);
	if (rc)
		return rc;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
		rc = -errno;
		return error_set(e, rc, "create folder %s: %s", dir, strerror(-rc));
	}
	key = EVP_EC_gen("P-256");
	if (key)
		cert = cert_make(name, key, NULL, NULL, -CLOCK_SKEW, SECONDS_A_DAY * (long)days,
				 ca_extensions, ARRAY_LEN(ca_extensions));
	rc = cert ? pair_write(dir, "ca", cert, key, e)
		  : error_set(e, -EIO, "OpenSSL cannot make the CA '%s'", name);
	X509_free(cert);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return rc;
}

static int ca_load(const char *dir, X509 **cert, EVP_PKEY **key, struct error *e)
{
	char path[PATH_MAX];
	BIO *bio;
	int rc;

	rc = path_of(path, dir, "ca", "crt", e);
	if (rc)
		return rc;
	bio = BIO_new_file(path, "r");
	*cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!*cert)
		return error_set(e, -ENOENT,
				 "%s: no CA certificate; "
				 "make it with 'pollux pki init-ca'",
				 path);
	rc = path_of(path, dir, "ca", "key", e);
	if (rc)
		return rc;
	bio = BIO_new_file(path, "r");
	*key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!*key)
		return error_set(e, -ENOENT, "%s: no CA key; issue certificates where the CA is",
				 path);
	return 0;
}

static X509 *leaf_make(const char *name, const char *role, EVP_PKEY *key, X509 *ca,
		       EVP_PKEY *ca_key, long from, long to)
{
	char names[TLS_NAME_MAX + 64];
	const struct extension extensions[] = {
		{NID_basic_constraints, "critical,CA:FALSE"},
		{NID_key_usage, "critical,digitalSignature"},
		{NID_ext_key_usage, role_usage(role)},
		{NID_subject_key_identifier, "hash"},
		{NID_authority_key_identifier, "keyid:always"},
		{NID_subject_alt_name, names},
	};

	snprintf(names, sizeof(names), "DNS:%s,URI:" TLS_ROLE_URI "%s", name, role);
	return cert_make(name, key, ca, ca_key, from, to, extensions, ARRAY_LEN(extensions));
}

int pki_issue_between(const char *dir, const char *name, const char *role, long from, long to,
		      struct error *e)
{
	EVP_PKEY *key = NULL, *ca_key = NULL;
	X509 *cert = NULL, *ca = NULL;
	int rc;

	rc = ca_load(dir, &ca, &ca_key, e);
	if (rc)
		goto out;
	key = EVP_EC_gen("P-256");
	if (key)
		cert = leaf_make(name, role, key, ca, ca_key, from, to);
	rc = cert ? pair_write(dir, name, cert, key, e)
		  : error_set(e, -EIO, "OpenSSL cannot make the certificate of '%s'", name);
out:
	X509_free(cert);
	X509_free(ca);
	EVP_PKEY_free(key);
	EVP_PKEY_free(ca_key);
	ERR_clear_error();
	return rc;
}

int pki_issue(const char *dir, const char *name, const char *role, unsigned days, struct error *e)
{
	int rc;

	rc = name_check(name, e);
	if (!rc)
		rc = days_check(days, e);
	if (rc)
		return rc;
	if (strcmp(name, "ca") == 0)
		return error_set(e, -EINVAL, "'ca' is the name of the CA's own files");
	if (!role_usage(role))
		return error_set(e, -EINVAL, "unknown role '%s': peer, operator or viewer", role);
	return pki_issue_between(dir, name, role, -CLOCK_SKEW, SECONDS_A_DAY * (long)days, e);
}

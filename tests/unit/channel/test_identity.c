// SPDX-License-Identifier: Apache-2.0
/* Who may connect to whom: certificates, names, roles, keys, TLS versions. */
#include "tests/unit/channel/pair.h"

#include <stdio.h>
#include <sys/stat.h>

static char folder[64], other[80];

static const struct {
	const char *name, *role;
} certificates[] = {{"hosta", "peer"}, {"hostb", "peer"}, {"alice", "operator"}};

static int folder_make(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/pollux-test-pki.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(other, sizeof(other), "%s/other", folder);
	assert_int_equal(pki_create_ca(folder, "test CA", 30, NULL), -EINVAL);
	assert_int_equal(pki_create_ca(folder, "test-ca", 30, NULL), 0);
	assert_int_equal(pki_create_ca(other, "test-ca", 30, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(certificates); i++)
		assert_int_equal(
			pki_issue(folder, certificates[i].name, certificates[i].role, 30, NULL), 0);
	assert_int_equal(pki_issue(other, "hosta", "peer", 30, NULL), 0);
	assert_int_equal(pki_issue_between(folder, "late", "peer", -7200, -60, NULL), 0);
	assert_int_equal(pki_issue_between(folder, "early", "peer", 3600, 7200, NULL), 0);
	return 0;
}

static int folder_remove(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

struct files {
	char ca[128], cert[128], key[128];
};

static struct files files_of(const char *dir, const char *name, const char *key_of)
{
	struct files f;

	snprintf(f.ca, sizeof(f.ca), "%s/ca.crt", dir);
	snprintf(f.cert, sizeof(f.cert), "%s/%s.crt", dir, name);
	snprintf(f.key, sizeof(f.key), "%s/%s.key", dir, key_of);
	return f;
}

static struct channel_identity *identity(const char *dir, const char *name)
{
	struct files f = files_of(dir, name, name);
	struct channel_identity *id;
	struct error e = {0};

	if (channel_identity_load(f.ca, f.cert, f.key, &id, &e))
		fail_msg("%s", e.text);
	return id;
}

/* `first` is what the client's first receive gives when its handshake succeeded: in
 * TLS 1.3 the server judges the client's certificate after the client has finished. */
static void meet(struct channel_identity *client, const char *expect,
		 struct channel_identity *server, int client_rc, int server_rc, int first)
{
	struct pair_side a = {.auth = {.identity = client, .expect_peer = expect}};
	struct pair_side b = {.auth = {.identity = server}};
	struct record r;

	pair_handshake(&a, &b);
	assert_int_equal(a.rc, client_rc);
	assert_int_equal(b.rc, server_rc);
	if (a.rc)
		assert_true(*a.error.text);
	if (b.rc)
		assert_true(*b.error.text);
	if (!a.rc && b.rc)
		assert_int_equal(channel_receive(a.channel, &r, SOON), first);
	if (!a.rc && !b.rc) {
		assert_string_equal(channel_peer_name(a.channel), expect);
		assert_string_equal(channel_peer_role(a.channel), "peer");
	}
	pair_close(&a, &b);
}

static void good_peers(void **state)
{
	struct channel_identity *a = identity(folder, "hosta"), *b = identity(folder, "hostb");
	struct pair_side x = {.auth = {.identity = a, .expect_peer = "hostb"}};
	struct pair_side y = {.auth = {.identity = b}};

	meet(a, "hostb", b, 0, 0, 0);
	pair_handshake(&x, &y);
	assert_string_equal(channel_peer_name(y.channel), "hosta");
	assert_string_equal(channel_peer_role(y.channel), "peer");
	assert_string_equal(SSL_get_version(x.channel->ssl), "TLSv1.3");
	pair_close(&x, &y);
	channel_identity_free(a);
	channel_identity_free(b);
}

static void wrong_name(void **state)
{
	struct channel_identity *a = identity(folder, "hosta"), *b = identity(folder, "hostb");

	meet(a, "hosta", b, -EACCES, -EACCES, 0);
	meet(a, "", b, -EINVAL, -ECONNRESET, 0);
	channel_identity_free(a);
	channel_identity_free(b);
}

static void wrong_role(void **state)
{
	struct channel_identity *a = identity(folder, "hosta"), *c = identity(folder, "alice");
	struct pair_side x = {.auth = {.identity = c, .expect_peer = "hosta"}};
	struct pair_side y = {.auth = {.identity = a}};

	/* An operator cannot pose as a host... */
	meet(a, "alice", c, -EACCES, -EACCES, 0);
	/* ...and is told apart when it calls. */
	pair_handshake(&x, &y);
	assert_int_equal(y.rc, 0);
	assert_string_equal(channel_peer_role(y.channel), "operator");
	pair_close(&x, &y);
	channel_identity_free(a);
	channel_identity_free(c);
}

static void wrong_ca(void **state)
{
	struct channel_identity *a = identity(other, "hosta"), *b = identity(folder, "hostb");

	meet(a, "hostb", b, -EACCES, -EACCES, 0);
	channel_identity_free(a);
	channel_identity_free(b);
}

static void not_valid_now(void **state)
{
	static const char *const names[] = {"late", "early"};
	struct channel_identity *b = identity(folder, "hostb");

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct channel_identity *a = identity(folder, names[i]);

		meet(b, names[i], a, -EACCES, -EACCES, 0);
		meet(a, "hostb", b, 0, -EACCES, -EACCES);
		channel_identity_free(a);
	}
	channel_identity_free(b);
}

static void key_and_certificate_must_match(void **state)
{
	struct files f = files_of(folder, "hosta", "hostb");
	struct channel_identity *id;
	struct error e = {0};

	assert_int_equal(channel_identity_load(f.ca, f.cert, f.key, &id, &e), -EINVAL);
	assert_non_null(strstr(e.text, "hostb.key"));
}

static int reload(struct channel_identity *id, const char *dir, const char *name,
		  const char *key_of)
{
	struct files f = files_of(dir, name, key_of);
	struct error e = {0};
	int rc;

	rc = channel_identity_reload(id, f.ca, f.cert, f.key, &e);
	assert_int_equal(rc != 0, e.text[0] != 0);
	return rc;
}

static void record_passes(struct channel *from, struct channel *to)
{
	struct iovec iov = {.iov_base = "said", .iov_len = 4};
	struct record r;

	assert_int_equal(channel_send(from, 9, 0, &iov, 1, SOON), 0);
	assert_int_equal(channel_receive(to, &r, SOON), 0);
	assert_int_equal(r.type, 9);
}

/* What is under way goes on; what begins is judged by the files as they are; and files that are no
 * good change nothing. */
static void certificates_are_replaced(void **state)
{
	struct channel_identity *a = identity(folder, "hosta"), *b = identity(folder, "hostb");
	struct pair_side x = {.auth = {.identity = a, .expect_peer = "hostb"}};
	struct pair_side y = {.auth = {.identity = b}};

	pair_handshake(&x, &y);
	assert_int_equal(reload(a, other, "hosta", "hosta"), 0);
	meet(a, "hostb", b, -EACCES, -EACCES, 0);
	record_passes(x.channel, y.channel);
	assert_int_equal(reload(a, folder, "hosta", "hostb"), -EINVAL);
	assert_int_equal(reload(a, folder, "none", "none"), -EINVAL);
	meet(a, "hostb", b, -EACCES, -EACCES, 0);
	assert_int_equal(reload(a, folder, "hosta", "hosta"), 0);
	meet(a, "hostb", b, 0, 0, 0);
	channel_identity_free(a);
	channel_identity_free(b);
	record_passes(y.channel, x.channel);
	pair_close(&x, &y);
}

static void *reload_often(void *ctx)
{
	for (int i = 0; i < 20; i++)
		assert_int_equal(reload(ctx, folder, "hosta", "hosta"), 0);
	return NULL;
}

static void handshakes_while_they_are_replaced(void **state)
{
	struct channel_identity *a = identity(folder, "hosta"), *b = identity(folder, "hostb");
	pthread_t thread;

	assert_int_equal(thread_start(&thread, "reload", reload_often, a), 0);
	for (int i = 0; i < 5; i++) {
		meet(a, "hostb", b, 0, 0, 0);
		meet(b, "hosta", a, 0, 0, 0);
	}
	pthread_join(thread, NULL);
	channel_identity_free(a);
	channel_identity_free(b);
}

static void psk_must_match(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct pair_side a = {.auth = pair_psk()}, b = {.auth = pair_psk()};

		if (i == 0)
			a.auth.key[31] ^= 1;
		if (i == 1)
			a.auth.session[0] ^= 1;
		if (i == 2)
			a.auth.stream++;
		pair_handshake(&a, &b);
		assert_int_equal(a.rc, -EACCES);
		assert_int_not_equal(b.rc, 0);
	}
}

static void psk_and_certificates_do_not_mix(void **state)
{
	struct channel_identity *id = identity(folder, "hosta");
	struct pair_side a = {.auth = pair_psk()}, b = {.auth = {.identity = id}};
	struct pair_side c = {.auth = {.identity = id, .expect_peer = "hosta"}};
	struct pair_side d = {.auth = pair_psk()};

	pair_handshake(&a, &b);
	assert_true(a.rc < 0 && b.rc < 0);
	pair_handshake(&c, &d);
	assert_true(c.rc < 0 && d.rc < 0);
	channel_identity_free(id);
}

struct stranger {
	int fd;
	int max_version;
	bool plain, done;
};

/* Somebody who speaks something else. */
static void *stranger_run(void *arg)
{
	struct stranger *s = arg;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);

	if (s->plain) {
		s->done = write(s->fd, "GET / HTTP/1.0\r\n\r\n", 18) == 18;
	} else {
		SSL_set_max_proto_version(ssl, s->max_version);
		SSL_set_fd(ssl, s->fd);
		s->done = SSL_connect(ssl) == 1;
	}
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(s->fd);
	return NULL;
}

static void strangers(void **state)
{
	struct stranger s[] = {{.max_version = TLS1_2_VERSION}, {.plain = true}};
	struct channel_identity *id = identity(folder, "hosta");

	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		struct pair_side b = {.auth = {.identity = id}};
		pthread_t t;
		int fds[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
		s[i].fd = fds[0];
		b.fd = fds[1];
		assert_int_equal(thread_start(&t, "stranger", stranger_run, &s[i]), 0);
		pair_accept(&b);
		pthread_join(t, NULL);
		assert_true(b.rc < 0);
		assert_true(s[i].done == s[i].plain);
	}
	channel_identity_free(id);
}

static void silence_ends_at_the_deadline(void **state)
{
	struct channel_auth auth = pair_psk();
	struct channel *c;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(channel_accept(fds[0], &auth, clock_ns() + 5 * NS_PER_MS, &c, NULL),
			 -ETIMEDOUT);
	close(fds[1]);
}

static void files_and_refusals(void **state)
{
	struct error e = {0};
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/hosta.key", folder);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	snprintf(path, sizeof(path), "%s/ca.key", folder);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(pki_issue(folder, "hosta", "peer", 30, &e), -EEXIST);
	assert_non_null(strstr(e.text, "hosta.key"));
	assert_int_equal(pki_create_ca(folder, "again", 30, NULL), -EEXIST);
	assert_int_equal(pki_issue(folder, "x/../y", "peer", 30, NULL), -EINVAL);
	assert_int_equal(pki_issue(folder, "a,DNS:b", "peer", 30, NULL), -EINVAL);
	assert_int_equal(pki_issue(folder, "ca", "peer", 30, NULL), -EINVAL);
	assert_int_equal(pki_issue(folder, "bob", "king", 30, NULL), -EINVAL);
	assert_int_equal(pki_issue(folder, "bob", "viewer", 0, NULL), -EINVAL);
	assert_int_equal(pki_issue("/nonexistent", "bob", "viewer", 1, NULL), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_peers),
		cmocka_unit_test(wrong_name),
		cmocka_unit_test(wrong_role),
		cmocka_unit_test(wrong_ca),
		cmocka_unit_test(not_valid_now),
		cmocka_unit_test(key_and_certificate_must_match),
		cmocka_unit_test(certificates_are_replaced),
		cmocka_unit_test(handshakes_while_they_are_replaced),
		cmocka_unit_test(psk_must_match),
		cmocka_unit_test(psk_and_certificates_do_not_mix),
		cmocka_unit_test(strangers),
		cmocka_unit_test(silence_ends_at_the_deadline),
		cmocka_unit_test(files_and_refusals),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

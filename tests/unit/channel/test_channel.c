// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/channel/pair.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

static void records_both_ways(void **state)
{
	struct pair_side a, b;
	struct record r;
	struct iovec v[3] = {{"one ", 4}, {"", 0}, {"two", 3}};

	pair_open(&a, &b);
	assert_int_equal(channel_send(a.channel, 5, RECORD_MANDATORY, v, 3, SOON), 0);
	assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
	assert_int_equal(r.type, 5);
	assert_int_equal(r.flags, RECORD_MANDATORY);
	assert_int_equal(r.len, 7);
	assert_memory_equal(r.payload, "one two", 7);
	assert_int_equal(channel_send(b.channel, 6, 0, NULL, 0, SOON), 0);
	assert_int_equal(channel_receive(a.channel, &r, SOON), 0);
	assert_int_equal(r.type, 6);
	assert_int_equal(r.len, 0);
	assert_true(channel_bytes_sent(a.channel) > 7);
	pair_close(&a, &b);
}

/* Records that may wait leave together with the next, in order, whatever their sizes. */
static void records_that_wait(void **state)
{
	static const size_t sizes[] = {0, 1, 8, 5000, TLS_RECORD_MAX - 1, 3 * TLS_RECORD_MAX, 7};
	static uint8_t data[3 * TLS_RECORD_MAX];
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	memset(data, 0x5a, sizeof(data));
	for (uint16_t i = 0; i < ARRAY_LEN(sizes); i++)
		assert_int_equal(channel_send_more(a.channel, i + 1, 0,
						   &(struct iovec){data, sizes[i]}, 1, SOON),
				 0);
	assert_int_equal(channel_receive(b.channel, &r, 0), -EAGAIN);
	assert_int_equal(channel_send(a.channel, 100, 0, NULL, 0, SOON), 0);
	for (uint16_t i = 0; i < ARRAY_LEN(sizes); i++) {
		assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
		assert_int_equal(r.type, i + 1);
		assert_int_equal(r.len, sizes[i]);
		assert_memory_equal(r.payload, data, r.len);
	}
	assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
	assert_int_equal(r.type, 100);
	pair_close(&a, &b);
}

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 2654435761u >> 13);
}

struct sender {
	struct channel *c;
	uint16_t type;
	size_t records, most;
	unsigned seed;
	int rc;
};

/* Records of random lengths in random pieces; the length is the seed of the content. */
static void *sender_run(void *arg)
{
	struct sender *s = arg;
	uint8_t *data = malloc(s->most);

	s->rc = data ? 0 : -ENOMEM;
	for (size_t i = 0; i < s->most && data; i++)
		data[i] = pattern(i);
	for (size_t i = 0; i < s->records && !s->rc; i++) {
		size_t n = (size_t)rand_r(&s->seed) % s->most;
		size_t cut = n ? (size_t)rand_r(&s->seed) % n : 0;
		struct iovec v[2] = {{data, cut}, {data + cut, n - cut}};

		s->rc = channel_send(s->c, s->type, 0, v, 2, SOON);
	}
	free(data);
	return NULL;
}

static void record_verify(const struct record *r)
{
	for (size_t i = 0; i < r->len; i++)
		if (r->payload[i] != pattern(i))
			fail_msg("byte %zu of %u is wrong", i, r->len);
}

static void receive_all(struct channel *c, size_t records)
{
	struct record r;

	for (size_t i = 0; i < records; i++) {
		assert_int_equal(channel_receive(c, &r, SOON), 0);
		record_verify(&r);
	}
}

static void many_senders_at_once(void **state)
{
	struct sender s[4];
	struct pair_side a, b;
	pthread_t t[4];

	pair_open(&a, &b);
	/* So often that it happens in the middle of everything. */
	a.channel->tls_records_per_key = 100;
	b.channel->tls_records_per_key = 70;
	for (unsigned i = 0; i < 4; i++) {
		s[i] = (struct sender){.c = i == 3 ? b.channel : a.channel,
				       .type = (uint16_t)(i + 1),
				       .records = 60,
				       .most = 100000,
				       .seed = i};
		assert_int_equal(thread_start(&t[i], "sender", sender_run, &s[i]), 0);
	}
	receive_all(b.channel, 180);
	receive_all(a.channel, 60);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(s[i].rc, 0);
	}
	pair_close(&a, &b);
}

/* In the midst of records, in both directions at once; each side sees its own and the other's. */
static void keys_are_renewed(void **state)
{
	struct sender s[2];
	struct pair_side a, b;
	pthread_t t[2];

	pair_open(&a, &b);
	a.channel->tls_records_per_key = 1;
	b.channel->tls_records_per_key = 7;
	for (unsigned i = 0; i < 2; i++) {
		s[i] = (struct sender){.c = i ? b.channel : a.channel,
				       .type = 1,
				       .records = 100,
				       .most = 100000,
				       .seed = i + 40};
		assert_int_equal(thread_start(&t[i], "sender", sender_run, &s[i]), 0);
	}
	receive_all(b.channel, 100);
	receive_all(a.channel, 100);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(s[i].rc, 0);
	}
	assert_true(channel_key_updates(a.channel) > 100);
	assert_int_equal(channel_key_updates(a.channel), channel_key_updates(b.channel));
	pair_close(&a, &b);
}

static void keys_are_renewed_when_told(void **state)
{
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	fault_arm("channel.key", 2, EIO);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(send_bytes(a.channel, 1, "x", 1), 0);
		assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
		assert_int_equal(channel_key_updates(a.channel), i > 0);
		assert_int_equal(channel_key_updates(b.channel), i > 0);
	}
	pair_close(&a, &b);
}

/* Also when it is asked for while OpenSSL waits for room for a record: then with the next one. */
static void keys_are_renewed_on_a_full_wire(void **state)
{
	struct sender s = {.type = 1, .records = 20, .most = 4 << 20, .seed = 5};
	struct pair_side a, b;
	pthread_t t;

	pair_open(&a, &b);
	s.c = a.channel;
	for (unsigned i = 0; i < 16; i++)
		fault_arm("channel.key", 14 + i, EIO);
	assert_int_equal(thread_start(&t, "sender", sender_run, &s), 0);
	receive_all(b.channel, 20);
	pthread_join(t, NULL);
	assert_int_equal(s.rc, 0);
	assert_true(channel_key_updates(b.channel) >= 14);
	fault_disarm_all();
	pair_close(&a, &b);
}

static void largest_record(void **state)
{
	struct sender s = {.type = 1, .records = 1};
	uint8_t *data = test_malloc(CHANNEL_RECORD_MAX + 1);
	struct iovec v = {data, CHANNEL_RECORD_MAX + 1};
	struct pair_side a, b;
	struct record r;
	pthread_t t;

	pair_open(&a, &b);
	memset(data, 0x77, CHANNEL_RECORD_MAX + 1);
	assert_int_equal(channel_send(a.channel, 1, 0, &v, 1, SOON), -EMSGSIZE);
	test_free(data);
	s.c = a.channel;
	s.most = CHANNEL_RECORD_MAX;
	s.seed = 4;
	assert_int_equal(thread_start(&t, "sender", sender_run, &s), 0);
	assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
	record_verify(&r);
	pthread_join(t, NULL);
	pair_close(&a, &b);
}

static void receive_deadline(void **state)
{
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	assert_int_equal(channel_receive(b.channel, &r, 0), -EAGAIN);
	assert_int_equal(channel_receive(b.channel, &r, clock_ns() + NS_PER_MS), -ETIMEDOUT);
	/* Nothing was lost by it. */
	assert_int_equal(send_bytes(a.channel, 9, "x", 1), 0);
	assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
	assert_int_equal(r.type, 9);
	pair_close(&a, &b);
}

static void send_deadline_ends_the_channel(void **state)
{
	uint8_t *data = test_calloc(1, CHANNEL_RECORD_MAX);
	struct iovec v = {data, CHANNEL_RECORD_MAX};
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	/* Nobody reads, and the socket holds less than this. */
	assert_int_equal(channel_send(a.channel, 1, 0, &v, 1, clock_ns() + 20 * NS_PER_MS),
			 -ETIMEDOUT);
	assert_int_equal(send_bytes(a.channel, 1, "x", 1), -ETIMEDOUT);
	channel_close(a.channel);
	/* The cut record is no good end. */
	assert_int_equal(channel_receive(b.channel, &r, SOON), -ECONNRESET);
	assert_int_equal(channel_receive(b.channel, &r, SOON), -ECONNRESET);
	channel_close(b.channel);
	test_free(data);
}

struct waiter {
	struct channel *c;
	int rc;
};

static void *waiter_receive(void *arg)
{
	struct waiter *w = arg;
	struct record r;

	w->rc = channel_receive(w->c, &r, UINT64_MAX);
	return NULL;
}

static void *waiter_send(void *arg)
{
	struct waiter *w = arg;
	static uint8_t data[1 << 20];

	do {
		w->rc = send_bytes(w->c, 1, data, sizeof(data));
	} while (!w->rc);
	return NULL;
}

static void shutdown_wakes_everyone(void **state)
{
	struct pair_side a, b;
	struct waiter w[3];
	struct record r;
	pthread_t t[3];

	pair_open(&a, &b);
	for (unsigned i = 0; i < 3; i++) {
		w[i].c = a.channel;
		assert_int_equal(
			thread_start(&t[i], "wait", i ? waiter_send : waiter_receive, &w[i]), 0);
	}
	usleep(20000);
	channel_shutdown(a.channel);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].rc, -ESHUTDOWN);
	}
	assert_int_equal(send_bytes(a.channel, 1, "", 0), -ESHUTDOWN);
	assert_int_equal(channel_receive(a.channel, &r, SOON), -ESHUTDOWN);
	pair_close(&a, &b);
}

static void good_end_after_shutdown(void **state)
{
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	channel_shutdown(a.channel);
	channel_close(a.channel);
	assert_int_equal(channel_receive(b.channel, &r, SOON), -EPIPE);
	channel_close(b.channel);
}

static void cut_without_goodbye(void **state)
{
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	shutdown(channel_fd(a.channel), SHUT_RDWR);
	assert_int_equal(channel_receive(b.channel, &r, SOON), -ECONNRESET);
	pair_close(&a, &b);
}

static void half_closed_can_still_answer(void **state)
{
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	pthread_mutex_lock(&a.channel->lock);
	assert_int_equal(SSL_shutdown(a.channel->ssl), 0);
	assert_int_equal(wire_flush(a.channel), 0);
	pthread_mutex_unlock(&a.channel->lock);
	assert_int_equal(channel_receive(b.channel, &r, SOON), -EPIPE);
	assert_int_equal(send_bytes(b.channel, 4, "late", 4), 0);
	assert_int_equal(channel_receive(a.channel, &r, SOON), 0);
	assert_int_equal(r.type, 4);
	pair_close(&a, &b);
}

static void raw_send(struct channel *c, const void *data, size_t n)
{
	size_t done;

	pthread_mutex_lock(&c->lock);
	assert_int_equal(SSL_write_ex(c->ssl, data, n, &done), 1);
	assert_int_equal(done, n);
	assert_int_equal(wire_flush(c), 0);
	pthread_mutex_unlock(&c->lock);
}

static void bad_records_are_refused(void **state)
{
	static const struct {
		uint8_t bytes[8];
		int rc;
	} bad[] = {
		{{0, 0, 0, 0, 0, 0, 0, 0}, -EBADMSG},
		{{1, 0, 0x10, 0, 0, 0, 0, 0}, -EBADMSG},
		{{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, -EMSGSIZE},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct pair_side a, b;
		struct record r;

		pair_open(&a, &b);
		raw_send(a.channel, bad[i].bytes, 8);
		assert_int_equal(channel_receive(b.channel, &r, SOON), bad[i].rc);
		assert_int_equal(channel_receive(b.channel, &r, SOON), bad[i].rc);
		pair_close(&a, &b);
	}
}

static void record_cut_by_a_good_end(void **state)
{
	static const uint8_t bytes[] = {1, 0, 0, 0, 9, 0, 0, 0, 'x'};
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	raw_send(a.channel, bytes, sizeof(bytes));
	channel_close(a.channel);
	assert_int_equal(channel_receive(b.channel, &r, SOON), -ECONNRESET);
	channel_close(b.channel);
}

static void damaged_ciphertext(void **state)
{
	uint8_t junk[40] = {0x17, 3, 3, 0, 35};
	struct pair_side a, b;
	struct record r;

	pair_open(&a, &b);
	assert_int_equal(send(channel_fd(a.channel), junk, sizeof(junk), 0), sizeof(junk));
	assert_int_equal(channel_receive(b.channel, &r, SOON), -EPROTO);
	pair_close(&a, &b);
}

/* ---- over TCP: what a wire tap sees --------------------------------------- */

struct tap {
	int from, to;
	struct buf seen;
};

static void *tap_run(void *arg)
{
	struct tap *t = arg;
	uint8_t data[65536];
	ssize_t n;

	while ((n = read(t->from, data, sizeof(data))) > 0) {
		buf_put(&t->seen, data, (size_t)n);
		if (fd_write_all(t->to, data, (size_t)n))
			break;
	}
	shutdown(t->to, SHUT_WR);
	return NULL;
}

static uint16_t port_of(int fd)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof(a);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	return (uint16_t)(((uint8_t *)&a)[2] << 8 | ((uint8_t *)&a)[3]);
}

/* client -> TCP -> tap -> socketpair -> server */
static void no_plaintext_on_the_wire(void **state)
{
	static const char secret[] = "the guest's own secret bytes";
	struct preamble p = {.kind = PREAMBLE_DATA, .stream = 3}, q;
	struct pair_side a = {.auth = pair_psk()}, b = {.auth = pair_psk()};
	uint8_t first[PREAMBLE_SIZE];
	struct tap there = {0}, back = {0};
	int listener, accepted, fds[2];
	struct record r;
	pthread_t t[3];

	memcpy(p.session, a.auth.session, sizeof(p.session));
	assert_int_equal(channel_listen("127.0.0.1", 0, &listener, NULL), 0);
	assert_int_equal(channel_dial("127.0.0.1", port_of(listener), &p, SOON, &a.fd, NULL), 0);
	do {
		accepted = accept(listener, NULL, NULL);
	} while (accepted < 0 && errno == EAGAIN);
	assert_true(accepted >= 0);
	assert_int_equal(fd_read_all(accepted, first, sizeof(first)), 0);
	assert_int_equal(preamble_decode(first, &q, NULL), 0);
	assert_memory_equal(q.session, p.session, sizeof(q.session));

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	b.fd = fds[0];
	there = (struct tap){.from = accepted, .to = fds[1]};
	back = (struct tap){.from = fds[1], .to = accepted};
	assert_int_equal(thread_start(&t[0], "there", tap_run, &there), 0);
	assert_int_equal(thread_start(&t[1], "back", tap_run, &back), 0);
	assert_int_equal(thread_start(&t[2], "accept", pair_accept, &b), 0);
	assert_int_equal(channel_connect(a.fd, &a.auth, SOON, &a.channel, NULL), 0);
	pthread_join(t[2], NULL);
	assert_int_equal(b.rc, 0);

	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(send_bytes(a.channel, 1, secret, sizeof(secret)), 0);
		assert_int_equal(channel_receive(b.channel, &r, SOON), 0);
		assert_memory_equal(r.payload, secret, sizeof(secret));
	}
	channel_close(a.channel);
	channel_close(b.channel);
	shutdown(accepted, SHUT_RDWR);
	shutdown(fds[1], SHUT_RDWR);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	assert_true(there.seen.len > 20 * sizeof(secret));
	assert_null(memmem(there.seen.data, there.seen.len, secret, 8));
	assert_null(memmem(there.seen.data, there.seen.len, a.auth.key, SESSION_KEY_SIZE));
	buf_free(&there.seen);
	buf_free(&back.seen);
	close(accepted);
	close(fds[1]);
	close(listener);
}

static void dial_where_nobody_listens(void **state)
{
	struct preamble p = {.kind = PREAMBLE_PEER};
	struct error e = {0};
	int listener, fd;
	uint16_t port;

	assert_int_equal(channel_listen("127.0.0.1", 0, &listener, NULL), 0);
	port = port_of(listener);
	close(listener);
	assert_int_equal(channel_dial("127.0.0.1", port, &p, SOON, &fd, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.text, "127.0.0.1"));
	assert_true(channel_dial("no such host", 1, &p, SOON, &fd, NULL) < 0);
}

/* ---- a dial that is given up ------------------------------------------------------------- */

struct mute {
	pthread_t thread;
	int listener, stop_fd;
};

static void stop_set(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* Takes the connection and its preamble, and says no more. */
static void *mute_main(void *ctx)
{
	struct mute *m = ctx;
	struct pollfd p = {.fd = m->listener, .events = POLLIN};
	uint8_t preamble[PREAMBLE_SIZE];
	int fd;

	assert_int_equal(poll(&p, 1, -1), 1);
	fd = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fd_read_all(fd, preamble, sizeof(preamble)), 0);
	stop_set(m->stop_fd);
	while (read(fd, preamble, sizeof(preamble)) > 0)
		;
	close(fd);
	return NULL;
}

static void a_handshake_is_given_up(void **state)
{
	struct channel_auth auth = pair_psk();
	struct mute m = {.stop_fd = eventfd(0, EFD_CLOEXEC)};
	struct channel *c;
	struct error e = {0};

	assert_int_equal(channel_listen("127.0.0.1", 0, &m.listener, NULL), 0);
	assert_int_equal(thread_start(&m.thread, "mute", mute_main, &m), 0);
	assert_int_equal(channel_dial_stream("127.0.0.1", port_of(m.listener), &auth, m.stop_fd,
					     SOON, &c, &e),
			 -ESHUTDOWN);
	pthread_join(m.thread, NULL);
	close(m.listener);
	close(m.stop_fd);
}

/* So many wait to be accepted that no connection is made any more. */
static int listener_full(int fds[8])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof(a);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	assert_int_equal(listen(fd, 0), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	for (unsigned i = 0; i < 8; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(fds[i], (struct sockaddr *)&a, n);
	}
	return fd;
}

static void a_dial_is_given_up(void **state)
{
	struct channel_auth auth = pair_psk();
	int fds[8], listener = listener_full(fds), stop_fd = eventfd(0, EFD_CLOEXEC);
	uint16_t port = port_of(listener);
	struct channel *c;
	struct error e = {0};

	assert_int_equal(channel_dial_stream("127.0.0.1", port, &auth, stop_fd,
					     clock_ns() + 20 * NS_PER_MS, &c, &e),
			 -ETIMEDOUT);
	stop_set(stop_fd);
	assert_int_equal(channel_dial_stream("127.0.0.1", port, &auth, stop_fd, SOON, &c, &e),
			 -ESHUTDOWN);
	for (unsigned i = 0; i < 8; i++)
		close(fds[i]);
	close(listener);
	close(stop_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_both_ways),
		cmocka_unit_test(records_that_wait),
		cmocka_unit_test(many_senders_at_once),
		cmocka_unit_test(keys_are_renewed),
		cmocka_unit_test(keys_are_renewed_when_told),
		cmocka_unit_test(keys_are_renewed_on_a_full_wire),
		cmocka_unit_test(largest_record),
		cmocka_unit_test(receive_deadline),
		cmocka_unit_test(send_deadline_ends_the_channel),
		cmocka_unit_test(shutdown_wakes_everyone),
		cmocka_unit_test(good_end_after_shutdown),
		cmocka_unit_test(cut_without_goodbye),
		cmocka_unit_test(half_closed_can_still_answer),
		cmocka_unit_test(bad_records_are_refused),
		cmocka_unit_test(record_cut_by_a_good_end),
		cmocka_unit_test(damaged_ciphertext),
		cmocka_unit_test(no_plaintext_on_the_wire),
		cmocka_unit_test(dial_where_nobody_listens),
		cmocka_unit_test(a_handshake_is_given_up),
		cmocka_unit_test(a_dial_is_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

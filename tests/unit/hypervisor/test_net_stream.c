// SPDX-License-Identifier: Apache-2.0
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

static struct loop *io;
static struct net_backend *net;
static struct nic_config config;
static int listener, peer;

static unsigned received, writables;
static int answer; /* of receive() */
static size_t last_len;
static uint8_t last[65600];

static int receive(void *ctx, const void *frame, size_t len)
{
	if (answer) {
		net->ops->set_receiving(net, false);
		return answer;
	}
	received++;
	last_len = len;
	memcpy(last, frame, len);
	return 0;
}
static void writable(void *ctx)
{
	writables++;
}

static void steps(int n)
{
	while (n--)
		assert_int_equal(loop_step(io, 1), 0);
}

static void peer_accept(void)
{
	for (int i = 0; i < 500; i++) {
		peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		if (peer >= 0)
			return;
		steps(5);
	}
	fail_msg("nobody connects");
}

static void listener_open(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	strcpy(a.sun_path, config.socket);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 4), 0);
}

static int setup(void **state)
{
	struct error e = {0};

	received = writables = 0;
	answer = 0;
	assert_int_equal(loop_create(&io), 0);
	config = (struct nic_config){.kind = NIC_STREAM};
	snprintf(config.socket, sizeof(config.socket), "/tmp/pollux-stream-%d", getpid());
	unlink(config.socket);
	listener_open();
	if (net_backend_open(&config, io, &net, &e))
		fail_msg("%s", e.text);
	net->front = (struct net_front){receive, writable, NULL};
	peer_accept();
	return 0;
}
static int teardown(void **state)
{
	net->ops->destroy(net);
	loop_destroy(io);
	if (peer >= 0)
		close(peer);
	close(listener);
	unlink(config.socket);
	return 0;
}

static int send_bytes(const void *data, size_t n)
{
	struct iovec iov[2] = {{(void *)data, n / 2}, {(uint8_t *)data + n / 2, n - n / 2}};

	return net->ops->send(net, iov, 2);
}

static void put_frame(uint32_t len, uint8_t c)
{
	uint32_t prefix = htobe32(len);
	uint8_t bytes[70000];

	memset(bytes, c, len);
	assert_int_equal(write(peer, &prefix, 4), 4);
	assert_int_equal(write(peer, bytes, len), len);
}

static void frames_go_both_ways(void **state)
{
	uint8_t in[100];

	assert_int_equal(send_bytes("0123456789", 10), 0);
	assert_int_equal(read(peer, in, sizeof(in)), 14);
	assert_memory_equal(in,
			    "\0\0\0\x0a"
			    "0123456789",
			    14);
	put_frame(60, 'x');
	put_frame(61, 'y');
	steps(3);
	assert_int_equal(received, 2);
	assert_int_equal(last_len, 61);
	assert_int_equal(last[60], 'y');
}

static void a_frame_may_come_in_pieces(void **state)
{
	uint8_t bytes[] = {0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 1, 'd'};

	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(write(peer, bytes + i, 1), 1);
		steps(2);
	}
	assert_int_equal(received, 2);
	assert_int_equal(last[0], 'd');
}

static void frames_wait_for_the_guest(void **state)
{
	answer = -EAGAIN;
	for (unsigned i = 0; i < 5; i++)
		put_frame(60 + i, (uint8_t)i);
	steps(3);
	assert_int_equal(received, 0);
	answer = 0;
	steps(3);
	assert_int_equal(received, 0);
	net->ops->set_receiving(net, true);
	steps(5);
	assert_int_equal(received, 5);
	assert_int_equal(last_len, 64);
}

/* The other end does not read: frames are refused, none is torn, and all that were
 * taken arrive. */
static void a_slow_reader_stops_the_sender(void **state)
{
	static uint8_t frame[60000], in[64 * 60004];
	size_t got = 0;
	unsigned taken = 0;
	ssize_t n;

	while (!send_bytes(frame, sizeof(frame)) && taken < 64)
		frame[0] = (uint8_t)++taken;
	assert_in_range(taken, 1, 60);
	assert_int_equal(send_bytes(frame, sizeof(frame)), -EAGAIN);
	steps(3);
	assert_int_equal(writables, 0);
	for (unsigned i = 0; i < 1000 && got < taken * 60004u; i++) {
		n = read(peer, in + got, sizeof(in) - got);
		got += n > 0 ? (size_t)n : 0;
		steps(1);
	}
	assert_int_equal(got, taken * 60004u);
	steps(3);
	assert_true(writables > 0);
	for (unsigned i = 0; i < taken; i++) {
		assert_memory_equal(in + i * 60004u, "\0\0\xea\x60", 4);
		assert_int_equal(in[i * 60004u + 4], i);
	}
	assert_int_equal(send_bytes(frame, sizeof(frame)), 0);
}

static void it_connects_again(void **state)
{
	uint8_t in[8];

	assert_int_equal(write(peer, "\0\0", 2), 2); /* half a prefix, which is forgotten */
	close(peer);
	steps(3);
	assert_int_equal(send_bytes("x", 1), -ENOTCONN);
	peer_accept();
	assert_int_equal(send_bytes("abcd", 4), 0);
	assert_int_equal(read(peer, in, 8), 8);
	put_frame(60, 'n');
	steps(3);
	assert_int_equal(received, 1);
}

static void an_impossible_length_ends_the_connection(void **state)
{
	uint8_t c;

	assert_int_equal(write(peer, "\xff\xff\xff\xff", 4), 4);
	steps(3);
	assert_int_equal(read(peer, &c, 1), 0);
	close(peer);
	peer_accept();
	assert_int_equal(write(peer, "\0\0\0\0", 4), 4);
	steps(3);
	assert_int_equal(read(peer, &c, 1), 0);
}

static void it_waits_for_a_switch_that_comes_later(void **state)
{
	struct net_backend *late;
	struct error e = {0};

	close(listener);
	unlink(config.socket);
	assert_int_equal(net_backend_open(&config, io, &late, &e), 0);
	steps(3);
	close(peer);
	listener_open();
	peer_accept();
	late->ops->destroy(late);
}

/* ---- from process to process ---------------------------------------------------------- */

/* Another back end goes on in place of `net`, as if in another process. */
static void hop(void)
{
	struct net_backend *next;
	struct error e = {0};
	struct buf half = {0};
	int fd;

	net_backend_yield(&config, net, &fd, &half);
	assert_int_equal(buf_check(&half), 0);
	assert_int_equal(net_backend_make(&config, io, &next, &e), 0);
	next->front = (struct net_front){receive, writable, NULL};
	if (net_backend_adopt(&config, next, fd < 0 ? -1 : dup(fd), half.data, half.len, &e))
		fail_msg("%s", e.text);
	net->ops->destroy(net);
	net = next;
	buf_free(&half);
}

static void a_frame_hops_in_the_midst_of_coming(void **state)
{
	uint8_t bytes[] = {0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 1, 'd'};

	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(write(peer, bytes + i, 1), 1);
		steps(2);
		hop();
	}
	steps(2);
	assert_int_equal(received, 2);
	assert_int_equal(last[0], 'd');
}

static void frames_that_wait_for_the_guest_hop(void **state)
{
	answer = -EAGAIN;
	for (unsigned i = 0; i < 5; i++)
		put_frame(60 + i, (uint8_t)i);
	steps(3);
	answer = 0;
	hop();
	steps(5);
	assert_int_equal(received, 5);
	assert_int_equal(last_len, 64);
}

static void a_frame_hops_in_the_midst_of_leaving(void **state)
{
	static uint8_t frame[60000], in[64 * 60004];
	unsigned taken = 0;
	size_t got = 0;

	while (!send_bytes(frame, sizeof(frame)) && taken < 64)
		frame[0] = (uint8_t)++taken;
	for (unsigned i = 0; i < 3000 && got < taken * 60004u; i++) {
		ssize_t n = read(peer, in + got, 7000);

		got += n > 0 ? (size_t)n : 0;
		if (i % 3 == 0)
			hop();
		steps(1);
	}
	assert_int_equal(got, taken * 60004u);
	for (unsigned i = 0; i < taken; i++) {
		assert_memory_equal(in + i * 60004u, "\0\0\xea\x60", 4);
		assert_int_equal(in[i * 60004u + 4], i);
	}
	assert_int_equal(send_bytes(frame, sizeof(frame)), 0);
}

static void what_is_not_connected_connects_after_the_hop(void **state)
{
	uint8_t in[8];

	close(peer);
	steps(3);
	hop();
	peer_accept();
	assert_int_equal(send_bytes("abcd", 4), 0);
	assert_int_equal(read(peer, in, 8), 8);
}

static void damage_is_refused(void **state)
{
	static uint8_t bytes[400000] = {0xff, 0xff, 0xff};
	static const size_t sizes[] = {0, 3, 4, 100, 65540, sizeof(bytes)};
	struct net_backend *next;
	struct error e = {0};

	assert_int_equal(net_backend_make(&config, io, &next, &e), 0);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		assert_int_equal(net_backend_adopt(&config, next, peer, bytes, sizes[i], &e),
				 -EBADMSG);
	bytes[0] = bytes[1] = bytes[2] = 0; /* nothing to be sent, and too much received */
	assert_int_equal(net_backend_adopt(&config, next, peer, bytes, sizeof(bytes), &e),
			 -EBADMSG);
	next->ops->destroy(next);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(frames_go_both_ways),
		T(a_frame_may_come_in_pieces),
		T(frames_wait_for_the_guest),
		T(a_slow_reader_stops_the_sender),
		T(it_connects_again),
		T(an_impossible_length_ends_the_connection),
		T(it_waits_for_a_switch_that_comes_later),
		T(a_frame_hops_in_the_midst_of_coming),
		T(frames_that_wait_for_the_guest_hop),
		T(a_frame_hops_in_the_midst_of_leaving),
		T(what_is_not_connected_connects_after_the_hop),
		T(damage_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "netbuf/netbuf.h"

/* A back end that remembers what left, and can be full. */
struct wire {
	struct net_backend backend;
	uint32_t sent[4096];
	_Atomic unsigned count;
	bool full;
	bool receiving;
};

static int wire_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct wire *w = CONTAINER_OF(b, struct wire, backend);

	if (w->full)
		return -EAGAIN;
	assert_int_equal(iov_count, 1);
	assert_true(iov[0].iov_len >= 4);
	memcpy(&w->sent[w->count], iov[0].iov_base, 4);
	w->count++;
	return 0;
}

static void wire_set_receiving(struct net_backend *b, bool on)
{
	CONTAINER_OF(b, struct wire, backend)->receiving = on;
}

static void wire_destroy(struct net_backend *b)
{
	(void)b;
}

static const struct net_backend_ops wire_ops = {wire_send, wire_set_receiving, wire_destroy};

struct bench {
	struct wire wire;
	struct loop *loop;
	struct netbuf *netbuf;
	struct net_backend *nic;
	unsigned outputs, writables, received;
	uint64_t release_first, release_last, release_epoch, release_acknowledged;
};

static void on_output(void *ctx)
{
	((struct bench *)ctx)->outputs++;
}

static void on_release(void *ctx, uint64_t first, uint64_t last, uint64_t epoch, uint64_t acked)
{
	struct bench *b = ctx;

	b->release_first = first;
	b->release_last = last;
	b->release_epoch = epoch;
	b->release_acknowledged = acked;
}

static void on_writable(void *ctx)
{
	((struct bench *)ctx)->writables++;
}

static int on_receive(void *ctx, const void *frame, size_t len)
{
	(void)frame;
	(void)len;
	((struct bench *)ctx)->received++;
	return -EAGAIN;
}

static int setup_sized(void **state, uint64_t most)
{
	struct bench *b = calloc(1, sizeof *b);
	struct netbuf_config c = {
		.most_bytes = most, .on_output = on_output, .on_release = on_release, .ctx = b};

	b->wire.backend.ops = &wire_ops;
	assert_int_equal(loop_create(&b->loop), 0);
	assert_int_equal(netbuf_create(&b->wire.backend, b->loop, &c, &b->netbuf), 0);
	b->nic = netbuf_backend(b->netbuf);
	b->nic->front = (struct net_front){on_receive, on_writable, b};
	*state = b;
	return 0;
}

static int setup(void **state)
{
	return setup_sized(state, 0);
}

static int setup_small(void **state)
{
	return setup_sized(state, 256);
}

static int teardown(void **state)
{
	struct bench *b = *state;

	netbuf_destroy(b->netbuf);
	loop_destroy(b->loop);
	free(b);
	return 0;
}

/* Two pieces, to see them joined. */
static int frame_send(struct bench *b, uint32_t number)
{
	uint8_t rest[60] = {0};
	struct iovec iov[2] = {{&number, sizeof number}, {rest, sizeof rest}};

	return b->nic->ops->send(b->nic, iov, 2);
}

static void test_passes_before_holding(void **state)
{
	struct bench *b = *state;
	uint8_t frame[64] = {7};
	struct iovec iov = {frame, sizeof frame};

	assert_int_equal(b->nic->ops->send(b->nic, &iov, 1), 0);
	assert_int_equal(b->wire.count, 1);
	assert_int_equal(b->outputs, 0);
}

static void test_holds_until_released(void **state)
{
	struct bench *b = *state;

	netbuf_hold(b->netbuf, 5);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(frame_send(b, i), 0);
	assert_int_equal(b->outputs, 1);
	netbuf_seal(b->netbuf, 5);
	assert_int_equal(frame_send(b, 3), 0);
	assert_int_equal(b->outputs, 2);
	assert_int_equal(b->wire.count, 0);

	netbuf_release(b->netbuf, 4);
	assert_int_equal(b->wire.count, 0);
	netbuf_release(b->netbuf, 5);
	assert_int_equal(b->wire.count, 3);
	assert_int_equal(b->release_first, 1);
	assert_int_equal(b->release_last, 3);
	assert_int_equal(b->release_epoch, 5);
	netbuf_release(b->netbuf, 6); /* still open: nobody can have acknowledged it */
	assert_int_equal(b->wire.count, 3);
	netbuf_seal(b->netbuf, 6);
	netbuf_release(b->netbuf, 6);
	assert_int_equal(b->wire.count, 4);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(b->wire.sent[i], i);
}

static void test_pass_lets_everything_go(void **state)
{
	struct bench *b = *state;

	netbuf_hold(b->netbuf, 1);
	assert_int_equal(frame_send(b, 0), 0);
	netbuf_seal(b->netbuf, 1);
	assert_int_equal(frame_send(b, 1), 0);
	netbuf_pass(b->netbuf);
	assert_int_equal(b->wire.count, 2);
}

static void test_new_session_keeps_what_was_held(void **state)
{
	struct bench *b = *state;

	netbuf_hold(b->netbuf, 1);
	assert_int_equal(frame_send(b, 0), 0);
	netbuf_seal(b->netbuf, 1);
	netbuf_hold(b->netbuf, 1); /* the link came back: a new session counts from 1 again */
	assert_int_equal(frame_send(b, 1), 0);
	netbuf_release(b->netbuf, 1);
	assert_int_equal(b->wire.count, 0);
	netbuf_seal(b->netbuf, 1);
	netbuf_release(b->netbuf, 1);
	assert_int_equal(b->wire.count, 2);
}

static void test_full_stops_the_guest(void **state)
{
	struct bench *b = *state;
	struct netbuf_stats stats;

	netbuf_hold(b->netbuf, 1);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(frame_send(b, i), 0);
	assert_int_equal(frame_send(b, 4), -EAGAIN);
	assert_int_equal(loop_step(b->loop, 0), 0);
	assert_int_equal(b->writables, 0);
	netbuf_seal(b->netbuf, 1);
	netbuf_release(b->netbuf, 1);
	assert_int_equal(b->wire.count, 4);
	assert_int_equal(loop_step(b->loop, 100), 0);
	assert_int_equal(b->writables, 1);
	assert_int_equal(frame_send(b, 4), 0);
	netbuf_stats(b->netbuf, &stats);
	assert_int_equal(stats.stops, 1);
	assert_int_equal(stats.held_frames, 1);
	assert_int_equal(stats.frames_in, 5);
}

static void test_full_below_keeps_order(void **state)
{
	struct bench *b = *state;

	netbuf_hold(b->netbuf, 1);
	assert_int_equal(frame_send(b, 0), 0);
	netbuf_seal(b->netbuf, 1);
	b->wire.full = true;
	netbuf_release(b->netbuf, 1);
	netbuf_pass(b->netbuf);
	assert_int_equal(frame_send(b, 1), 0); /* behind the one that waits */
	assert_int_equal(b->wire.count, 0);
	b->wire.full = false;
	b->wire.backend.front.writable(b->wire.backend.front.ctx);
	assert_int_equal(b->wire.count, 2);
	assert_int_equal(b->wire.sent[0], 0);
	assert_int_equal(b->wire.sent[1], 1);
}

static void test_inbound_passes_both_answers(void **state)
{
	struct bench *b = *state;

	assert_int_equal(b->wire.backend.front.receive(b->wire.backend.front.ctx, "x", 1), -EAGAIN);
	assert_int_equal(b->received, 1);
	b->nic->ops->set_receiving(b->nic, true);
	assert_true(b->wire.receiving);
}

struct releaser {
	struct bench *b;
	_Atomic uint64_t sealed;
	_Atomic bool stop;
};

static void *release_thread(void *ctx)
{
	struct releaser *r = ctx;

	while (!r->stop)
		netbuf_release(r->b->netbuf, r->sealed);
	return NULL;
}

static void test_order_under_concurrent_release(void **state)
{
	struct bench *b = *state;
	struct releaser r = {.b = b};
	unsigned seed = (unsigned)time(NULL);
	uint64_t epoch = 1;
	pthread_t t;

	print_message("seed %u\n", seed);
	netbuf_hold(b->netbuf, epoch);
	assert_int_equal(thread_start(&t, "release", release_thread, &r), 0);
	for (uint32_t i = 0; i < 4096; i++) {
		assert_int_equal(frame_send(b, i), 0);
		if (rand_r(&seed) % 8 == 0) {
			assert_true(b->wire.count <= i); /* the open epoch has not left */
			netbuf_seal(b->netbuf, epoch);
			r.sealed = epoch++;
		}
	}
	netbuf_seal(b->netbuf, epoch);
	netbuf_release(b->netbuf, epoch);
	r.stop = true;
	pthread_join(t, NULL);
	assert_int_equal(b->wire.count, 4096);
	for (uint32_t i = 0; i < 4096; i++)
		assert_int_equal(b->wire.sent[i], i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_passes_before_holding, setup, teardown),
		cmocka_unit_test_setup_teardown(test_holds_until_released, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pass_lets_everything_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_new_session_keeps_what_was_held, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_full_stops_the_guest, setup_small, teardown),
		cmocka_unit_test_setup_teardown(test_full_below_keeps_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_inbound_passes_both_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order_under_concurrent_release, setup,
						teardown),
	};

	return cmocka_run_group_tests_name("netbuf", tests, NULL, NULL);
}

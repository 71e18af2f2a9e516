// SPDX-License-Identifier: Apache-2.0
/* In a network namespace of its own, so that nothing outside can see it. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

#define PROTOCOL 0x88b5 /* for local experiments */

static struct loop *io;
static struct net_backend *net;
static int raw = -1;
static bool isolated;
static unsigned received;
static int answer;
static uint8_t last[2000];

static int receive(void *ctx, const void *frame, size_t len)
{
	const uint8_t *f = frame;

	if (len < 14 || f[12] != PROTOCOL >> 8 || f[13] != (PROTOCOL & 0xff))
		return 0; /* the kernel's own chatter */
	if (answer) {
		net->ops->set_receiving(net, false);
		return answer;
	}
	received++;
	memcpy(last, frame, len < sizeof(last) ? len : sizeof(last));
	return 0;
}
static void writable(void *ctx)
{
}

static int setup(void **state)
{
	struct nic_config c = {.kind = NIC_TAP, .tap = "ptap0"};
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL)};
	struct error e = {0};

	received = 0;
	answer = 0;
	net = NULL;
	assert_int_equal(loop_create(&io), 0);
	if (!isolated && unshare(CLONE_NEWNET)) {
		print_message("no network namespace: %s\n", strerror(errno));
		return 0;
	}
	isolated = true;
	if (net_backend_open(&c, io, &net, &e)) {
		print_message("no tap interface: %s\n", e.text);
		net = NULL;
		return 0;
	}
	net->front = (struct net_front){receive, writable, NULL};
	raw = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(PROTOCOL));
	a.sll_ifindex = (int)if_nametoindex("ptap0");
	assert_true(raw >= 0);
	assert_int_equal(bind(raw, (struct sockaddr *)&a, sizeof(a)), 0);
	return 0;
}
static int teardown(void **state)
{
	if (raw >= 0)
		close(raw);
	raw = -1;
	if (net)
		net->ops->destroy(net);
	loop_destroy(io);
	return 0;
}

static void steps(int n)
{
	while (n--)
		assert_int_equal(loop_step(io, 1), 0);
}

/* Until so many frames have come, or never will. */
static void steps_until(unsigned n)
{
	for (unsigned i = 0; received < n && i < 5000; i++)
		steps(1);
	assert_int_equal(received, n);
}

static void frame_make(uint8_t frame[60], uint8_t c)
{
	memset(frame, c, 60);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x52\x54\x00\x00\x00\x01", 6);
	frame[12] = PROTOCOL >> 8;
	frame[13] = PROTOCOL & 0xff;
}

static void frames_go_both_ways(void **state)
{
	uint8_t frame[60], in[100];
	struct iovec iov[2] = {{frame, 14}, {frame + 14, 46}};

	if (!net)
		skip();
	frame_make(frame, 'o');
	assert_int_equal(net->ops->send(net, iov, 2), 0);
	assert_int_equal(poll(&(struct pollfd){.fd = raw, .events = POLLIN}, 1, 10000), 1);
	assert_int_equal(read(raw, in, sizeof(in)), 60);
	assert_memory_equal(in, frame, 60);
	frame_make(frame, 'i');
	assert_int_equal(write(raw, frame, 60), 60);
	steps_until(1);
	assert_memory_equal(last, frame, 60);
}

static void frames_wait_for_the_guest(void **state)
{
	uint8_t frame[60];

	if (!net)
		skip();
	answer = -EAGAIN;
	for (uint8_t i = 0; i < 3; i++) {
		frame_make(frame, i);
		assert_int_equal(write(raw, frame, 60), 60);
	}
	steps(5);
	answer = 0;
	steps(5);
	assert_int_equal(received, 0);
	net->ops->set_receiving(net, true);
	steps_until(3);
	assert_int_equal(last[14], 2);
}

static void a_bridge_that_is_not_there_is_an_error(void **state)
{
	struct nic_config c = {.kind = NIC_TAP, .tap = "ptap1", .bridge = "nobridge"};
	struct net_backend *other;
	struct error e = {0};

	if (!net)
		skip();
	assert_int_not_equal(net_backend_open(&c, io, &other, &e), 0);
	assert_non_null(strstr(e.text, "nobridge"));
	assert_int_equal(if_nametoindex("ptap1"), 0);
	strcpy(c.tap, "ptap0"); /* in use */
	c.bridge[0] = 0;
	e = (struct error){0};
	assert_int_equal(net_backend_open(&c, io, &other, &e), -EBUSY);
	assert_non_null(strstr(e.text, "ptap0"));
}

/* It can be open but once: the descriptor itself goes to the other process. */
static void it_hops_with_the_frame_that_waits(void **state)
{
	struct nic_config c = {.kind = NIC_TAP, .tap = "ptap0"};
	struct net_backend *next;
	struct error e = {0};
	struct buf half = {0};
	uint8_t frame[60];
	int fd;

	if (!net)
		skip();
	answer = -EAGAIN;
	for (uint8_t i = 0; i < 3; i++) {
		frame_make(frame, i);
		assert_int_equal(write(raw, frame, 60), 60);
	}
	steps(5);
	answer = 0;
	net_backend_yield(&c, net, &fd, &half);
	assert_int_equal(half.len, 60);
	assert_int_equal(net_backend_make(&c, io, &next, &e), 0);
	next->front = (struct net_front){receive, writable, NULL};
	assert_int_equal(net_backend_adopt(&c, next, -1, half.data, half.len, &e), -EBADMSG);
	assert_int_equal(net_backend_adopt(&c, next, dup(fd), half.data, half.len, &e), 0);
	net->ops->destroy(net);
	net = next;
	steps_until(3);
	assert_int_equal(last[14], 2);
	buf_free(&half);
}

static void interface_delete(const char *name)
{
	char command[64];

	snprintf(command, sizeof(command), "ip link delete %s", name);
	assert_int_equal(system(command), 0);
}

static void ring(void *ctx)
{
	*(bool *)ctx = true;
}

/* An interface that an administrator deletes is the end of a cable: the loop goes on
 * to sleep, rather than be told of it again and again. */
static void a_deleted_interface_leaves_the_loop_alone(void **state)
{
	uint8_t frame[60];
	struct iovec iov = {frame, sizeof(frame)};
	struct loop_timer *timer;
	bool rang = false;
	unsigned rounds = 0;
	int rc;

	if (!net)
		skip();
	interface_delete("ptap0");
	steps(10);
	assert_int_equal(loop_timer(io, ring, &rang, &timer), 0);
	loop_timer_set(timer, clock_ns() + 100 * NS_PER_MS);
	do
		assert_int_equal(loop_step(io, 1000), 0);
	while (++rounds && !rang);
	loop_timer_free(timer);
	assert_in_range(rounds, 1, 20);
	frame_make(frame, 'd');
	rc = net->ops->send(net, &iov, 1);
	assert_true(rc && rc != -EAGAIN);
	net->ops->set_receiving(net, false);
	net->ops->set_receiving(net, true);
	steps(3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(frames_go_both_ways),
		T(frames_wait_for_the_guest),
		T(a_bridge_that_is_not_there_is_an_error),
		T(it_hops_with_the_frame_that_waits),
		T(a_deleted_interface_leaves_the_loop_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

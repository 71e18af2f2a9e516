// SPDX-License-Identifier: Apache-2.0
#include <linux/virtio_net.h>

#include "tests/unit/hypervisor/driver.h"

#define HEADER 12u

static struct loop *io;
static struct vm_parts parts;
static struct net_double net;
static struct vm *vm;
static struct driver d;

static int setup_with(bool bells)
{
	double_with_bells = bells;
	assert_int_equal(loop_create(&io), 0);
	net = (struct net_double){.base.ops = &net_double_ops};
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	vm = double_vm(&parts, "", &net.base, NULL);
	return 0;
}
static int setup(void **state)
{
	return setup_with(false);
}
static int setup_bells(void **state)
{
	return setup_with(true);
}
static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

static int receive(const void *frame, size_t len)
{
	return net.base.front.receive(net.base.front.ctx, frame, len);
}

/* A header and a frame of `len` bytes `c` in guest memory. */
static uint64_t frame_put(size_t len, uint8_t c)
{
	uint64_t gpa = driver_alloc(&d, HEADER + len, 1);

	memset(driver_at(&d, gpa, HEADER), 0, HEADER);
	memset(driver_at(&d, gpa + HEADER, len), c, len);
	return gpa;
}

static void send_frame(size_t len, uint8_t c)
{
	driver_add(&d, 1, &(struct piece){frame_put(len, c), (uint32_t)(HEADER + len)}, 1, 0);
	driver_kick(&d, 1);
	double_loop_run(io);
}

static void configuration_tells_address_and_link(void **state)
{
	driver_find(&d, vm, VIRTIO_ID_NET);
	assert_int_equal(vm_peek(vm, d.device, 4), 0x12005452);
	assert_int_equal(vm_peek(vm, d.device + 4, 2), 0x5634);
	assert_int_equal(vm_peek(vm, d.device + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(vm_peek(vm, d.device + 0xff8, 8), 0);
	assert_true(driver_offered(&d) & FEATURE(VIRTIO_NET_F_MAC));
	assert_true(driver_offered(&d) & FEATURE(VIRTIO_F_VERSION_1));
	assert_false(driver_offered(&d) & FEATURE(VIRTIO_NET_F_CSUM));
}

static void frames_leave_without_header(void **state)
{
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	send_frame(60, 'a');
	assert_int_equal(net.sent, 1);
	assert_int_equal(net.last_len, 60);
	assert_int_equal(net.last[0], 'a');
	assert_int_equal(net.last[59], 'a');
	assert_true(driver_take(&d, 1, &head, &len));
	assert_int_equal(len, 0);
	assert_int_equal(driver_msis(&d, 2), 1);
	assert_false(driver_take(&d, 1, &head, &len));
}

static void split_and_indirect_frames_are_joined(void **state)
{
	uint64_t a;
	struct piece p[4];

	driver_start(&d, vm, VIRTIO_ID_NET, FEATURE(VIRTIO_RING_F_INDIRECT_DESC), 2, 8);
	a = frame_put(100, 'x');
	p[0] = (struct piece){a, 5}; /* the header itself is split */
	p[1] = (struct piece){a + 5, 20};
	p[2] = (struct piece){a + 25, 1};
	p[3] = (struct piece){a + 26, 86};
	driver_add(&d, 1, p, 4, 0);
	driver_add_indirect(&d, 1, p, 4, 0);
	driver_kick(&d, 1);
	assert_int_equal(net.sent, 2);
	assert_int_equal(net.last_len, 100);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(net.last[i], 'x');
}

static void a_full_back_end_stops_the_ring(void **state)
{
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	net.full = true;
	send_frame(60, 'a');
	send_frame(61, 'b');
	assert_false(driver_take(&d, 1, &head, &len));
	net.full = false;
	send_frame(62, 'c'); /* until it says so, it is not asked again */
	assert_int_equal(net.sent, 0);
	net.base.front.writable(net.base.front.ctx);
	assert_int_equal(net.sent, 3);
	assert_int_equal(net.last_len, 62);
	for (unsigned i = 0; i < 3; i++)
		assert_true(driver_take(&d, 1, &head, &len));
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void short_frames_are_dropped_and_given_back(void **state)
{
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	send_frame(13, 'a');
	assert_int_equal(net.sent, 0);
	assert_true(driver_take(&d, 1, &head, &len));
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static uint64_t buffer_give(uint32_t len)
{
	uint64_t gpa = driver_alloc(&d, len, 1);

	driver_add(&d, 0, &(struct piece){gpa, len}, 0, 1);
	return gpa;
}

static void frames_arrive_behind_a_header_and_are_marked(void **state)
{
	uint8_t frame[80];
	uint64_t gpa;
	uint16_t head;
	uint32_t len;

	memset(frame, 'r', sizeof(frame));
	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	assert_true(net.receiving);
	driver_alloc(&d, 8192, 4096);
	gpa = buffer_give(2000);
	driver_kick(&d, 0);
	memory_harvest(&vm->memory, NULL);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, HEADER + 80);
	assert_memory_equal(driver_at(&d, gpa + HEADER, 80), frame, 80);
	assert_int_equal(*ring16(&d, gpa + 10), 1);
	assert_int_equal(driver_msis(&d, 1), 1);
	assert_true(page_marked(vm, gpa));
	assert_true(page_marked(vm, d.queues[0].used));
	assert_false(page_marked(vm, gpa - 4096));
}

static void without_buffers_receiving_stops(void **state)
{
	uint8_t frame[80] = {0};
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	assert_int_equal(receive(frame, sizeof(frame)), -EAGAIN);
	assert_false(net.receiving);
	assert_int_equal(receive(frame, sizeof(frame)), -EAGAIN);
	buffer_give(2000);
	driver_kick(&d, 0);
	assert_true(net.receiving);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
	assert_true(driver_take(&d, 0, &head, &len));
}

static void with_event_idx_the_missing_buffer_rings(void **state)
{
	uint8_t frame[80] = {0};

	driver_start(&d, vm, VIRTIO_ID_NET,
		     FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_NET_F_MRG_RXBUF), 2, 8);
	buffer_give(40);
	driver_kick(&d, 0);
	assert_int_equal(receive(frame, sizeof(frame)), -EAGAIN); /* one is not enough */
	assert_int_equal(driver_avail_event(&d, 0), 1);           /* the second buffer rings */
	buffer_give(40);
	driver_kick(&d, 0);
	assert_true(net.receiving);
	assert_int_equal(receive(frame, sizeof(frame)), -EAGAIN);
	assert_int_equal(driver_avail_event(&d, 0), 2);
	buffer_give(40);
	driver_kick(&d, 0);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
}

static void merged_buffers_carry_one_frame(void **state)
{
	uint8_t frame[150];
	uint64_t gpa[3];
	uint16_t head;
	uint32_t len;

	for (unsigned i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)i;
	driver_start(&d, vm, VIRTIO_ID_NET, FEATURE(VIRTIO_NET_F_MRG_RXBUF), 2, 8);
	for (unsigned i = 0; i < 3; i++)
		gpa[i] = buffer_give(64);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
	assert_int_equal(*ring16(&d, gpa[0] + 10), 3);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 64);
	assert_memory_equal(driver_at(&d, gpa[0] + HEADER, 52), frame, 52);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 64);
	assert_memory_equal(driver_at(&d, gpa[1], 64), frame + 52, 64);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 34);
	assert_memory_equal(driver_at(&d, gpa[2], 34), frame + 116, 34);
	assert_int_equal(driver_msis(&d, 1), 1);
}

static void a_frame_that_fits_no_buffer_is_dropped(void **state)
{
	uint8_t frame[150] = {0};
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	buffer_give(64);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
	assert_false(driver_take(&d, 0, &head, &len));
	assert_int_equal(receive(frame, 50), 0);
	assert_true(driver_take(&d, 0, &head, &len)); /* the buffer was not used up */
}

static void frames_before_the_driver_are_dropped(void **state)
{
	uint8_t frame[80] = {0};

	assert_int_equal(receive(frame, sizeof(frame)), 0);
	driver_find(&d, vm, VIRTIO_ID_NET);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
}

static void interrupts_come_when_asked_for(void **state)
{
	driver_start(&d, vm, VIRTIO_ID_NET, FEATURE(VIRTIO_RING_F_EVENT_IDX), 2, 8);
	send_frame(60, 'a'); /* the first always */
	assert_int_equal(driver_msis(&d, 2), 1);
	driver_used_event(&d, 1, 3);
	send_frame(60, 'a');
	send_frame(60, 'a');
	assert_int_equal(driver_msis(&d, 2), 1);
	send_frame(60, 'a'); /* used index 3 -> 4 */
	assert_int_equal(driver_msis(&d, 2), 2);
	send_frame(60, 'a');
	assert_int_equal(driver_msis(&d, 2), 2);
}

static void interrupts_can_be_turned_off_by_a_flag(void **state)
{
	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	*ring16(&d, d.queues[1].avail) = VRING_AVAIL_F_NO_INTERRUPT;
	send_frame(60, 'a');
	assert_int_equal(driver_msis(&d, 2), 0);
	*ring16(&d, d.queues[1].avail) = 0;
	send_frame(60, 'a');
	assert_int_equal(driver_msis(&d, 2), 1);
}

static void a_large_batch_is_finished(void **state)
{
	uint64_t gpa;
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 256);
	gpa = frame_put(60, 'b');
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 256; i++)
			driver_add(&d, 1, &(struct piece){gpa, 72}, 1, 0);
		driver_kick(&d, 1);
		double_loop_run(io);
		assert_int_equal(net.sent, 256 * (round + 1));
		while (driver_take(&d, 1, &head, &len))
			;
	}
}

static void announcements_go_out_and_to_the_guest(void **state)
{
	static const uint8_t rarp[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
	uint64_t command = 0, ack;
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET,
		     FEATURE(VIRTIO_NET_F_STATUS) | FEATURE(VIRTIO_NET_F_CTRL_VQ) |
			     FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE),
		     3, 8);
	vm_announce(vm);
	assert_int_equal(net.last_len, 60);
	assert_memory_equal(net.last, "\xff\xff\xff\xff\xff\xff\x52\x54\x00\x12\x34\x56", 12);
	assert_memory_equal(net.last + 12, rarp, sizeof(rarp));
	assert_memory_equal(net.last + 22, "\x52\x54\x00\x12\x34\x56", 6);
	assert_memory_equal(net.last + 32, "\x52\x54\x00\x12\x34\x56", 6);
	assert_int_equal(driver_msis(&d, 0), 1);
	assert_int_equal(vm_peek(vm, d.device + 6, 2),
			 VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);

	command = driver_alloc(&d, 2, 1);
	ack = driver_alloc(&d, 1, 1);
	memcpy(driver_at(&d, command, 2), "\x03\x00", 2);
	*(uint8_t *)driver_at(&d, ack, 1) = 0xee;
	driver_add(&d, 2, (struct piece[]){{command, 2}, {ack, 1}}, 1, 1);
	driver_kick(&d, 2);
	assert_true(driver_take(&d, 2, &head, &len));
	assert_int_equal(*(uint8_t *)driver_at(&d, ack, 1), VIRTIO_NET_OK);
	assert_int_equal(vm_peek(vm, d.device + 6, 2), VIRTIO_NET_S_LINK_UP);

	memcpy(driver_at(&d, command, 2), "\x01\x00", 2); /* an unknown command */
	driver_add(&d, 2, (struct piece[]){{command, 2}, {ack, 1}}, 1, 1);
	driver_kick(&d, 2);
	assert_int_equal(*(uint8_t *)driver_at(&d, ack, 1), VIRTIO_NET_ERR);
}

/* Bring the state and memory of `vm` into a second machine, as a standby does. */
static struct vm *twin_make(struct net_double *back)
{
	struct vm_parts other = parts;
	struct buf b = {0};
	struct error e = {0};
	struct vm *t;

	*back = (struct net_double){.base.ops = &net_double_ops};
	assert_int_equal(vm_pause(vm), 0);
	if (vm_state_save(vm, &b, &e))
		fail_msg("%s", e.text);
	t = double_vm(&other, "", &back->base, NULL);
	memcpy(vm_ram(t), vm_ram(vm), DOUBLE_MEMORY);
	if (vm_state_load(t, b.data, b.len, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_resume(vm), 0);
	buf_free(&b);
	return t;
}

static void a_twin_keeps_still_until_it_is_started(void **state)
{
	uint8_t frame[80] = {0};
	struct net_double back;
	struct error e = {0};
	struct vm *t;
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	buffer_give(2000);
	net.full = true;
	send_frame(60, 'a'); /* kept in the ring */
	t = twin_make(&back);
	d.vm = t;
	assert_int_equal(back.base.front.receive(back.base.front.ctx, frame, sizeof(frame)), 0);
	back.base.front.writable(back.base.front.ctx);
	assert_false(driver_take(&d, 0, &head, &len));
	assert_int_equal(back.sent, 0);
	assert_memory_equal(vm_ram(t), vm_ram(vm), DOUBLE_MEMORY);

	assert_int_equal(vm_start(t, &e), 0);
	assert_int_equal(back.sent, 1);
	assert_true(back.receiving);
	assert_true(driver_take(&d, 1, &head, &len));
	assert_true(driver_msis(&d, 0) && driver_msis(&d, 1) && driver_msis(&d, 2));
	assert_int_equal(back.base.front.receive(back.base.front.ctx, frame, sizeof(frame)), 0);
	assert_true(driver_take(&d, 0, &head, &len));
	vm_destroy(t);
}

static void a_reset_forgets_the_rings(void **state)
{
	uint8_t frame[80] = {0};
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	buffer_give(2000);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(driver_status(&d), 0);
	assert_int_equal(receive(frame, sizeof(frame)), 0);
	assert_false(driver_take(&d, 0, &head, &len));
	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 16);
	send_frame(60, 'z');
	assert_int_equal(net.last[0], 'z');
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(configuration_tells_address_and_link),
		T(frames_leave_without_header),
		cmocka_unit_test_setup_teardown(frames_leave_without_header, setup_bells, teardown),
		T(split_and_indirect_frames_are_joined),
		T(a_full_back_end_stops_the_ring),
		cmocka_unit_test_setup_teardown(a_full_back_end_stops_the_ring, setup_bells,
						teardown),
		T(short_frames_are_dropped_and_given_back),
		T(frames_arrive_behind_a_header_and_are_marked),
		T(without_buffers_receiving_stops),
		T(with_event_idx_the_missing_buffer_rings),
		T(merged_buffers_carry_one_frame),
		T(a_frame_that_fits_no_buffer_is_dropped),
		T(frames_before_the_driver_are_dropped),
		T(interrupts_come_when_asked_for),
		T(interrupts_can_be_turned_off_by_a_flag),
		T(a_large_batch_is_finished),
		T(announcements_go_out_and_to_the_guest),
		T(a_twin_keeps_still_until_it_is_started),
		T(a_reset_forgets_the_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

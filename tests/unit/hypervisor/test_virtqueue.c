// SPDX-License-Identifier: Apache-2.0
/* Rings without a device: what is taken, what is refused, and rubbish from a seed. */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "hypervisor/virtqueue.h"

#define MEMORY (UINT64_C(1) << 20)
#define DESC   0x1000u
#define AVAIL  0x2000u
#define USED   0x3000u
#define TABLE  0x4000u
#define DATA   0x8000u

static struct memory memory;
static struct virtqueue q;
static struct chain c;

static int setup(void **state)
{
	struct error e;

	assert_int_equal(memory_create(&memory, MEMORY, &e), 0);
	q = (struct virtqueue){.memory = &memory,
			       .size = 8,
			       .desc = DESC,
			       .avail = AVAIL,
			       .used = USED,
			       .indirect = true};
	assert_int_equal(virtqueue_map(&q), 0);
	return 0;
}

static int teardown(void **state)
{
	memory_destroy(&memory);
	return 0;
}

static void put(uint64_t table, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next)
{
	struct vring_desc d = {.addr = addr, .len = len, .flags = flags, .next = next};

	memcpy(memory_at(&memory, table + 16 * i, 16), &d, 16);
}

static uint16_t *at16(uint64_t gpa)
{
	return memory_at(&memory, gpa, 2);
}

static void avail(uint16_t head)
{
	uint16_t *index = at16(AVAIL + 2);

	*at16(AVAIL + 4 + 2u * (*index % q.size)) = head;
	(*index)++;
}

/* Make `head` available; what does the device say? */
static int offer(uint16_t head)
{
	avail(head);
	return virtqueue_pop(&q, &c);
}

static void places_are_checked(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		int rc;
	} cases[] = {
		{8, DESC, AVAIL, USED, 0},
		{256, DESC, AVAIL, USED, 0},
		{0, DESC, AVAIL, USED, -EINVAL},
		{7, DESC, AVAIL, USED, -EINVAL},
		{512, DESC, AVAIL, USED, -EINVAL},
		{8, DESC + 8, AVAIL, USED, -EINVAL},
		{8, DESC, AVAIL + 1, USED, -EINVAL},
		{8, DESC, AVAIL, USED + 2, -EINVAL},
		{8, MEMORY, AVAIL, USED, -EINVAL},
		{8, MEMORY - 112, AVAIL, USED, -EINVAL},
		{8, MEMORY - 128, AVAIL, USED, 0},
		{8, DESC, MEMORY - 20, USED, -EINVAL},
		{8, DESC, MEMORY - 22, USED, 0},
		{8, DESC, AVAIL, MEMORY - 68, -EINVAL},
		{8, DESC, AVAIL, UINT64_MAX - 3, -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		q.size = cases[i].size;
		q.desc = cases[i].desc;
		q.avail = cases[i].avail;
		q.used = cases[i].used;
		if (virtqueue_map(&q) != cases[i].rc)
			fail_msg("case %zu", i);
	}
}

static void a_chain_is_taken_in_order(void **state)
{
	struct iovec iov[8];
	struct segment s[8];
	char text[8] = {0};

	memcpy(memory_at(&memory, DATA, 8), "abcdefgh", 8);
	put(DESC, 3, DATA, 3, VRING_DESC_F_NEXT, 5);
	put(DESC, 5, DATA + 3, 4, VRING_DESC_F_NEXT, 0);
	put(DESC, 0, DATA + 100, 10, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	put(DESC, 1, DATA + 200, 20, VRING_DESC_F_WRITE, 77);
	assert_int_equal(virtqueue_pop(&q, &c), 0);
	assert_int_equal(offer(3), 1);
	assert_int_equal(c.head, 3);
	assert_int_equal(c.out_count, 2);
	assert_int_equal(c.in_count, 2);
	assert_int_equal(c.out_bytes, 7);
	assert_int_equal(c.in_bytes, 30);
	assert_int_equal(chain_read(&q, &c, 2, text, 8), 5);
	assert_string_equal(text, "cdefg");
	assert_int_equal(chain_write(&q, &c, 8, "XYZ", 3), 3);
	assert_memory_equal(memory_at(&memory, DATA + 108, 2), "XY", 2);
	assert_memory_equal(memory_at(&memory, DATA + 200, 1), "Z", 1);
	assert_int_equal(chain_write(&q, &c, 29, "12", 2), 1);
	assert_int_equal(chain_iov(&q, &c, true, 10, 5, iov), 1);
	assert_ptr_equal(iov[0].iov_base, memory_at(&memory, DATA + 200, 1));
	assert_int_equal(iov[0].iov_len, 5);
	assert_int_equal(chain_segments(&c, true, 0, 30, s), 2);
	assert_int_equal(s[1].gpa, DATA + 200);
	assert_int_equal(virtqueue_pop(&q, &c), 0);
	virtqueue_unpop(&q, 1);
	assert_int_equal(virtqueue_pop(&q, &c), 1);
	virtqueue_push(&q, 3, 30);
	assert_int_equal(*at16(USED + 2), 1);
	assert_int_equal(*at16(USED + 4), 3);
	assert_int_equal(*at16(USED + 8), 30);
}

static void an_indirect_table_may_follow_direct_ones(void **state)
{
	put(DESC, 0, DATA, 16, VRING_DESC_F_NEXT, 1);
	put(DESC, 1, TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA + 16, 1, VRING_DESC_F_NEXT, 1);
	put(TABLE, 1, DATA + 17, 1, VRING_DESC_F_WRITE, 0);
	assert_int_equal(offer(0), 1);
	assert_int_equal(c.out_bytes, 17);
	assert_int_equal(c.in_bytes, 1);
}

/* Each fills descriptor 0 and what hangs on it. */
static void loop_to_itself(void)
{
	put(DESC, 0, DATA, 1, VRING_DESC_F_NEXT, 0);
}
static void loop_of_two(void)
{
	put(DESC, 0, DATA, 1, VRING_DESC_F_NEXT, 1);
	put(DESC, 1, DATA, 1, VRING_DESC_F_NEXT, 0);
}
static void next_outside(void)
{
	put(DESC, 0, DATA, 1, VRING_DESC_F_NEXT, 8);
}
static void zero_length(void)
{
	put(DESC, 0, DATA, 0, 0, 0);
}
static void data_outside(void)
{
	put(DESC, 0, MEMORY, 1, 0, 0);
}
static void data_across_the_end(void)
{
	put(DESC, 0, MEMORY - 10, 11, VRING_DESC_F_WRITE, 0);
}
static void data_wraps(void)
{
	put(DESC, 0, UINT64_MAX - 1, 0xffffffff, 0, 0);
}
static void data_in_the_hole(void)
{
	put(DESC, 0, MEMORY_HOLE_START, 16, 0, 0);
}
static void readable_after_writable(void)
{
	put(DESC, 0, DATA, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	put(DESC, 1, DATA, 1, 0, 0);
}
static void table_within_a_table(void)
{
	put(DESC, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
}
static void table_and_next(void)
{
	put(DESC, 0, TABLE, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	put(TABLE, 0, DATA, 1, 0, 0);
}
static void table_of_a_half(void)
{
	put(DESC, 0, TABLE, 24, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA, 1, 0, 0);
}
static void table_of_nothing(void)
{
	put(DESC, 0, TABLE, 0, VRING_DESC_F_INDIRECT, 0);
}
static void table_too_long(void)
{
	put(DESC, 0, TABLE, 16 * 9, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA, 1, 0, 0);
}
static void table_outside(void)
{
	put(DESC, 0, MEMORY - 16, 32, VRING_DESC_F_INDIRECT, 0);
}
static void table_next_outside(void)
{
	put(DESC, 0, TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA, 1, VRING_DESC_F_NEXT, 2);
}
static void table_loop(void)
{
	put(DESC, 0, TABLE, 32, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA, 1, VRING_DESC_F_NEXT, 1);
	put(TABLE, 1, DATA, 1, VRING_DESC_F_NEXT, 0);
}

static void hostile_chains_are_refused(void **state)
{
	static void (*const makers[])(void) = {
		loop_to_itself,       loop_of_two,      next_outside,
		zero_length,          data_outside,     data_across_the_end,
		data_wraps,           data_in_the_hole, readable_after_writable,
		table_within_a_table, table_and_next,   table_of_a_half,
		table_of_nothing,     table_too_long,   table_outside,
		table_next_outside,   table_loop,
	};

	for (size_t i = 0; i < ARRAY_LEN(makers); i++) {
		memset(memory.base, 0, MEMORY);
		q.last_avail = 0;
		makers[i]();
		if (offer(0) != -EBADMSG)
			fail_msg("case %zu was taken", i);
		assert_int_equal(q.last_avail, 0);
	}
}

static void indirect_needs_the_feature(void **state)
{
	put(DESC, 0, TABLE, 16, VRING_DESC_F_INDIRECT, 0);
	put(TABLE, 0, DATA, 1, 0, 0);
	q.indirect = false;
	assert_int_equal(offer(0), -EBADMSG);
}

static void heads_and_indices_are_checked(void **state)
{
	put(DESC, 0, DATA, 1, 0, 0);
	assert_int_equal(offer(8), -EBADMSG);
	q.last_avail = 1;
	*at16(AVAIL + 2) = 10; /* nine requests in a ring of eight */
	assert_int_equal(virtqueue_pop(&q, &c), -EBADMSG);
	*at16(AVAIL + 2) = 0; /* backwards */
	assert_int_equal(virtqueue_pop(&q, &c), -EBADMSG);
	*at16(AVAIL + 2) = 9;
	assert_int_equal(virtqueue_pop(&q, &c), 1);
}

static void a_long_chain_ends_at_the_queue_size(void **state)
{
	for (uint16_t i = 0; i < 8; i++)
		put(DESC, i, DATA + i, 1, i < 7 ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
	assert_int_equal(offer(0), 1);
	assert_int_equal(c.out_count, 8);
}

static void indices_wrap(void **state)
{
	q.last_avail = q.used_index = 65534;
	*at16(AVAIL + 2) = 65534;
	put(DESC, 0, DATA, 1, 0, 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(offer(0), 1);
		virtqueue_push(&q, 0, 0);
	}
	assert_int_equal(q.used_index, 3);
	assert_int_equal(*at16(USED + 2), 3);
}

static void event_idx_decides_over_interrupts(void **state)
{
	q.event_idx = true;
	assert_false(virtqueue_should_signal(&q)); /* nothing was pushed */
	*at16(AVAIL + 4 + 16) = 7;
	virtqueue_push(&q, 0, 0);
	assert_true(virtqueue_should_signal(&q)); /* the first after a start or a load */
	assert_false(virtqueue_should_signal(&q));
	*at16(AVAIL + 4 + 16) = 2;
	virtqueue_push(&q, 0, 0);
	assert_false(virtqueue_should_signal(&q));
	virtqueue_push(&q, 0, 0);
	assert_true(virtqueue_should_signal(&q));
	assert_int_equal(virtqueue_map(&q), 0);
	virtqueue_push(&q, 0, 0);
	assert_true(virtqueue_should_signal(&q));
}

static void a_kick_is_asked_for_once(void **state)
{
	q.event_idx = true;
	put(DESC, 0, DATA, 1, 0, 0);
	assert_false(virtqueue_want_kick(&q));
	assert_int_equal(*at16(USED + 4 + 64), 0);
	assert_int_equal(offer(0), 1);
	assert_int_equal(*at16(USED + 4 + 64), 0);
	avail(0);
	assert_true(virtqueue_want_kick(&q)); /* one came meanwhile */
	assert_int_equal(*at16(USED + 4 + 64), 1);
}

static void what_is_written_is_marked(void **state)
{
	put(DESC, 0, 0x9000 - 2, 4, VRING_DESC_F_WRITE, 0);
	assert_int_equal(offer(0), 1);
	memory_harvest(&memory, NULL);
	chain_write(&q, &c, 0, "abcd", 4);
	assert_int_equal(memory.dirty[0], 1u << 8 | 1u << 9);
	virtqueue_push(&q, 0, 4);
	assert_int_equal(memory.dirty[0], 1u << 8 | 1u << 9 | 1u << 3);
}

/* Rings full of small random numbers, which hit the limits more often than large ones. */
static void rubbish_fill(unsigned round)
{
	for (uint64_t at = DESC; at < DESC + 128; at += 16)
		put(at, 0, (uint64_t)rand() % (round % 2 ? MEMORY : 2 * MEMORY),
		    (uint32_t)rand() % 64 * (rand() % 9 ? 16 : 70000), (uint16_t)(rand() % 8),
		    (uint16_t)(rand() % 10));
	for (unsigned i = 0; i < 4; i++)
		put(TABLE, i, (uint64_t)rand() % MEMORY, (uint32_t)rand() % 64,
		    (uint16_t)(rand() % 4), (uint16_t)(rand() % 5));
	if (rand() % 2)
		put(DESC, 0, TABLE, 64, VRING_DESC_F_INDIRECT, 0);
	*at16(AVAIL + 2) = (uint16_t)(q.last_avail + rand() % 10);
	for (unsigned i = 0; i < 8; i++)
		*at16(AVAIL + 4 + 2 * i) = (uint16_t)(rand() % 9);
}

static void rubbish_is_survived(void **state)
{
	unsigned seed = (unsigned)time(NULL), taken = 0, refused = 0;
	static uint8_t bytes[4096];
	struct iovec iov[VIRTQUEUE_SIZE_MAX];

	print_message("seed %u\n", seed);
	srand(seed);
	for (unsigned round = 0; round < 100000; round++) {
		int rc;
		rubbish_fill(round);
		while ((rc = virtqueue_pop(&q, &c)) > 0) {
			taken++;
			assert_true(c.out_count + c.in_count <= 8);
			chain_read(&q, &c, (uint64_t)rand() % 100, bytes, sizeof(bytes));
			chain_iov(&q, &c, rand() % 2, (uint64_t)rand() % 100, 1 << 20, iov);
			/* Not into the rings themselves: the rubbish shall stay as it is. */
			virtqueue_push(&q, c.head, 0);
		}
		refused += rc < 0;
		q.last_avail = q.used_index = (uint16_t)rand();
	}
	assert_true(taken > 1000 && refused > 1000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(places_are_checked),
		T(a_chain_is_taken_in_order),
		T(an_indirect_table_may_follow_direct_ones),
		T(hostile_chains_are_refused),
		T(indirect_needs_the_feature),
		T(heads_and_indices_are_checked),
		T(a_long_chain_ends_at_the_queue_size),
		T(indices_wrap),
		T(event_idx_decides_over_interrupts),
		T(a_kick_is_asked_for_once),
		T(what_is_written_is_marked),
		T(rubbish_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* Pages to bytes and back: whatever the guest writes, the twin gets it; damage is seen. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicate/pages.h"

#define PAGES 600u

static uint64_t seed;

static uint64_t random_next(void)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return seed >> 31;
}

struct pair {
	uint8_t *from, *to; /* PAGES each */
	struct pages_encoder *encoder;
	uint32_t versions[PAGES];
	uint64_t batches, deltas, zeros, raws, bytes;
};

static void pair_make(struct pair *p, enum page_compression compression, uint64_t delta)
{
	memset(p, 0, sizeof(*p));
	p->from = aligned_alloc(VM_PAGE_SIZE, PAGES * VM_PAGE_SIZE);
	p->to = aligned_alloc(VM_PAGE_SIZE, PAGES * VM_PAGE_SIZE);
	assert_true(p->from && p->to);
	memset(p->from, 0, PAGES * VM_PAGE_SIZE);
	memset(p->to, 0xee, PAGES * VM_PAGE_SIZE);
	assert_int_equal(pages_encoder_create(compression, delta, &p->encoder), 0);
}

static void pair_end(struct pair *p)
{
	pages_encoder_destroy(p->encoder);
	free(p->from);
	free(p->to);
}

static void flatten(const struct pages_encoded *b, uint8_t *out, size_t *len)
{
	memcpy(out, b->iov[0].iov_base, b->iov[0].iov_len);
	memcpy(out + b->iov[0].iov_len, b->iov[1].iov_base, b->iov[1].iov_len);
	*len = b->iov[0].iov_len + b->iov[1].iov_len;
}

static void item_take(struct pair *p, const struct page_item *item, uint64_t epoch)
{
	if (item->kind == PAGE_DELTA)
		assert_int_equal(item->base, p->versions[item->page]);
	p->versions[item->page] = (uint32_t)epoch;
	p->deltas += item->kind == PAGE_DELTA;
	p->zeros += item->kind == PAGE_ZERO;
	p->raws += item->kind == PAGE_RAW;
	page_apply(p->to, item);
}

static void batch_move(struct pair *p, uint64_t epoch)
{
	static uint8_t bytes[PAGES_HEADER_SIZE + PAGES_BODY_MAX];
	struct pages_encoded encoded = {0};
	struct pages_batch batch;
	struct page_item item;
	struct error e = {0};
	struct cursor c;
	uint64_t told;
	size_t len;

	if (pages_empty(p->encoder))
		return;
	assert_int_equal(pages_finish(p->encoder, epoch, &encoded), 0);
	flatten(&encoded, bytes, &len);
	p->batches++;
	p->bytes += len;
	told = p->deltas + encoded.deltas;
	if (pages_decode(bytes, len, PAGES, 0, 1, &batch, &e))
		fail_msg("%s", e.text);
	assert_int_equal(batch.epoch, epoch);
	assert_int_equal(batch.hash, encoded.hash);
	if (random_next() % 2) {
		assert_int_equal(pages_batch_keep(&batch), 0);
		memset(bytes, 0x55, len);
	}
	c = cursor_of(batch.body.data, batch.body.len);
	for (uint32_t i = 0; i < batch.count; i++) {
		assert_true(pages_next(&c, &item));
		item_take(p, &item, epoch);
	}
	assert_false(pages_next(&c, &item));
	assert_int_equal(p->deltas, told);
	pages_batch_free(&batch);
}

static void page_scribble(uint8_t *page)
{
	unsigned words = (unsigned)(random_next() % 40);

	switch (random_next() % 6) {
	case 0:
		memset(page, 0, VM_PAGE_SIZE);
		break;
	case 1:
		for (unsigned i = 0; i < VM_PAGE_SIZE; i++)
			page[i] = (uint8_t)random_next();
		break;
	case 2:
		memset(page, (int)random_next(), VM_PAGE_SIZE);
		break;
	default:
		for (unsigned i = 0; i < words; i++)
			page[random_next() % VM_PAGE_SIZE] = (uint8_t)random_next();
	}
}

static void epoch_move(struct pair *p, uint64_t epoch, unsigned pages)
{
	static uint8_t done[PAGES];

	memset(done, 0, sizeof(done));
	for (unsigned i = 0; i < pages; i++) {
		uint64_t page = epoch == 1 ? i : random_next() % PAGES;

		if (done[page]++)
			continue;
		page_scribble(p->from + page * VM_PAGE_SIZE);
		if (random_next() % 2)
			pages_encode(p->encoder, epoch, page, p->from + page * VM_PAGE_SIZE,
				     epoch > 1);
		else
			pages_encode_live(p->encoder, epoch, page, p->from + page * VM_PAGE_SIZE,
					  random_next() % 2);
		if (pages_full(p->encoder))
			batch_move(p, epoch);
	}
	batch_move(p, epoch);
	assert_memory_equal(p->from, p->to, PAGES * VM_PAGE_SIZE);
}

static void round_trips(void **state)
{
	static const uint64_t deltas[] = {0, 4 * VM_PAGE_SIZE, 100 * VM_PAGE_SIZE, 64u << 20};

	for (unsigned i = 0; i < 12; i++) {
		struct pair p;

		pair_make(&p, (enum page_compression)(i % 3), deltas[i / 3]);
		epoch_move(&p, 1, PAGES);
		for (uint64_t epoch = 2; epoch < 60; epoch++)
			epoch_move(&p, epoch, (unsigned)(random_next() % PAGES));
		assert_true(p.zeros && p.raws);
		assert_true(deltas[i / 3] < 64u << 20 || p.deltas > 0);
		assert_true(deltas[i / 3] || !p.deltas);
		pair_end(&p);
	}
}

static void unchanged_pages_cost_nothing(void **state)
{
	struct pair p;

	pair_make(&p, COMPRESS_NONE, 64u << 20);
	p.from[5] = 1;
	pages_encode(p.encoder, 2, 0, p.from, true);
	batch_move(&p, 2);
	pages_encode(p.encoder, 3, 0, p.from, true);
	assert_true(pages_empty(p.encoder));
	p.from[5] = 2;
	pages_encode(p.encoder, 4, 0, p.from, true);
	batch_move(&p, 4);
	assert_int_equal(p.deltas, 1);
	assert_memory_equal(p.from, p.to, VM_PAGE_SIZE);
	pair_end(&p);
}

static void delta_edges(void **state)
{
	static uint8_t a[VM_PAGE_SIZE] __attribute__((aligned(64)));
	static uint8_t b[VM_PAGE_SIZE] __attribute__((aligned(64)));
	uint8_t runs[PAGE_DELTA_RUNS_MAX];
	int n;

	assert_int_equal(page_delta(a, b, runs), 0);
	b[0] = b[VM_PAGE_SIZE - 1] = 1;
	n = page_delta(a, b, runs);
	assert_int_equal(n, 24);
	assert_true(page_delta_check(runs, 24));
	page_delta_apply(a, runs, 24);
	assert_memory_equal(a, b, VM_PAGE_SIZE);
	memset(b, 0x55, VM_PAGE_SIZE);
	assert_int_equal(page_delta(a, b, runs), -1);
	/* 511 words skipped, one changed; then one too far. */
	memcpy(runs, "\xff\x01\x01\x00\0\0\0\0\0\0\0\1", 12);
	assert_true(page_delta_check(runs, 12));
	memcpy(runs, "\x00\x02\x01\x00", 4);
	assert_false(page_delta_check(runs, 12));
	memcpy(runs, "\x00\x00\x00\x00", 4);
	assert_false(page_delta_check(runs, 4));
	assert_false(page_delta_check(runs, 3));
	assert_false(page_delta_check(runs, 0));
}

/* Every bit of a record matters: a flipped one is refused, or means the same. */
static void damage_is_seen(void **state)
{
	for (unsigned kind = 0; kind < 3; kind++) {
		static uint8_t bytes[PAGES_HEADER_SIZE + PAGES_BODY_MAX];
		struct pages_encoded encoded = {0};
		struct pages_batch batch;
		struct pair p;
		size_t len;

		pair_make(&p, (enum page_compression)kind, 0);
		for (unsigned i = 0; i < 8; i++) {
			memset(p.from + i * VM_PAGE_SIZE, 1 + (int)i, VM_PAGE_SIZE);
			pages_encode(p.encoder, 1, i, p.from + i * VM_PAGE_SIZE, false);
		}
		assert_int_equal(pages_finish(p.encoder, 1, &encoded), 0);
		flatten(&encoded, bytes, &len);
		for (size_t n = 0; n < len; n += 1 + n / 64)
			assert_int_equal(pages_decode(bytes, n, PAGES, 0, 1, &batch, NULL),
					 -EBADMSG);
		for (unsigned i = 0; i < 2000; i++) {
			size_t at = 8 + random_next() % (len - 8); /* the epoch is the core's */
			uint8_t bit = (uint8_t)(1u << random_next() % 8);

			bytes[at] ^= bit;
			if (!pages_decode(bytes, len, PAGES, 0, 1, &batch, NULL)) {
				assert_int_equal(batch.hash, encoded.hash);
				pages_batch_free(&batch);
			}
			bytes[at] ^= bit;
		}
		assert_int_equal(pages_decode(bytes, len, 7, 0, 1, &batch, NULL), -EBADMSG);
		assert_int_equal(pages_decode(bytes, len, PAGES, 1, 2, &batch, NULL), -EBADMSG);
		pair_end(&p);
	}
}

static double seconds(void)
{
	return (double)clock_ns() / 1e9;
}

/* Not a test of speed: prints what one thread does. */
static void speed_is_told(void **state)
{
	static const char *const names[] = {"zero", "raw", "delta of 8 words", "raw, lz4"};
	const unsigned rounds = 40;

	for (unsigned kind = 0; kind < 4; kind++) {
		struct pair p;
		double began, took;
		struct pages_encoded encoded = {0};

		pair_make(&p, kind == 3 ? COMPRESS_LZ4 : COMPRESS_NONE, kind == 2 ? 64u << 20 : 0);
		for (size_t i = 0; kind && i < PAGES * VM_PAGE_SIZE; i++)
			p.from[i] = kind == 3 && i % 16 > 4 ? (uint8_t)(i >> 12)
							    : (uint8_t)random_next();
		took = 0;
		for (unsigned round = 0; round < rounds; round++) {
			for (unsigned i = 0; kind == 2 && i < PAGES * 8; i++)
				p.from[(size_t)i * 512 + round] ^= (uint8_t)(1 + random_next());
			began = seconds();
			for (unsigned i = 0; i < PAGES; i++) {
				pages_encode(p.encoder, round + 2, i,
					     p.from + (size_t)i * VM_PAGE_SIZE, kind == 2);
				if (pages_full(p.encoder) || i == PAGES - 1)
					assert_int_equal(
						pages_finish(p.encoder, round + 2, &encoded), 0);
			}
			if (round || kind != 2)
				took += seconds() - began;
		}
		print_message("encode, %s: %.2f GB/s\n", names[kind],
			      (double)(rounds - (kind == 2)) * PAGES * VM_PAGE_SIZE / took / 1e9);
		pair_end(&p);
	}
}

int main(void)
{
	const char *given = getenv("SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trips),   cmocka_unit_test(unchanged_pages_cost_nothing),
		cmocka_unit_test(delta_edges),   cmocka_unit_test(damage_is_seen),
		cmocka_unit_test(speed_is_told),
	};

	seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 16 | (uint64_t)getpid();
	print_message("SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

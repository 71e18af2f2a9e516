// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "channel/channel.h"

static void whole_record(void **state)
{
	static const uint8_t bytes[] = {0x34, 0x12, 1, 0, 3, 0, 0, 0, 'a', 'b', 'c', 'd'};
	struct record r;

	assert_int_equal(record_decode(bytes, sizeof(bytes), &r), 11);
	assert_int_equal(r.type, 0x1234);
	assert_int_equal(r.flags, RECORD_MANDATORY);
	assert_int_equal(r.len, 3);
	assert_memory_equal(r.payload, "abc", 3);
}

static void truncated_needs_more(void **state)
{
	static const uint8_t bytes[] = {1, 0, 0, 0, 3, 0, 0, 0, 'a', 'b', 'c'};
	struct record r;

	for (size_t n = 0; n < sizeof(bytes); n++)
		assert_int_equal(record_decode(bytes, n, &r), 0);
}

static void bad_headers(void **state)
{
	static const uint8_t no_type[] = {0, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t bad_flag[] = {1, 0, 2, 0, 0, 0, 0, 0};
	static const uint8_t too_long[] = {1, 0, 0, 0, 1, 0, 0x80, 0};
	struct record r;

	assert_int_equal(record_decode(no_type, 8, &r), -EBADMSG);
	assert_int_equal(record_decode(bad_flag, 8, &r), -EBADMSG);
	assert_int_equal(record_decode(too_long, 8, &r), -EMSGSIZE);
}

static void preamble_round_trip(void **state)
{
	struct preamble p = {.kind = PREAMBLE_DATA, .stream = 16}, q;
	uint8_t bytes[PREAMBLE_SIZE];

	memset(p.session, 0x5a, sizeof(p.session));
	preamble_encode(&p, bytes);
	assert_int_equal(preamble_decode(bytes, &q, NULL), 0);
	assert_int_equal(q.kind, p.kind);
	assert_int_equal(q.stream, p.stream);
	assert_memory_equal(q.session, p.session, sizeof(p.session));
}

static void preamble_refuses(void **state)
{
	struct preamble p = {.kind = PREAMBLE_PEER}, q;
	uint8_t good[PREAMBLE_SIZE], bad[PREAMBLE_SIZE];
	struct error e = {0};

	preamble_encode(&p, good);
	assert_int_equal(preamble_decode(good, &q, NULL), 0);
	/* Every byte of a peer preamble matters. */
	for (size_t i = 0; i < PREAMBLE_SIZE; i++) {
		memcpy(bad, good, sizeof(bad));
		bad[i] ^= 0x40;
		assert_true(preamble_decode(bad, &q, &e) < 0);
	}
	p.kind = PREAMBLE_DATA;
	preamble_encode(&p, bad);
	assert_int_equal(preamble_decode(bad, &q, NULL), -EBADMSG);
	p.session[3] = 1;
	for (p.stream = 0; p.stream < 100; p.stream++) {
		bool one = p.stream <= 16 || (p.stream >= 32 && p.stream <= 48) || p.stream == 64;

		preamble_encode(&p, bad);
		assert_int_equal(preamble_decode(bad, &q, NULL), one ? 0 : -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_record),     cmocka_unit_test(truncated_needs_more),
		cmocka_unit_test(bad_headers),      cmocka_unit_test(preamble_round_trip),
		cmocka_unit_test(preamble_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

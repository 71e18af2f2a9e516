// SPDX-License-Identifier: Apache-2.0
/* What a standby makes of good and bad records; the primary is played by the test. */
#include <stdio.h>

#include "tests/unit/replicate/primary.h"

static bool filled(struct fake *f, uint64_t page, uint8_t fill)
{
	const uint8_t *at = vm_ram(f->vm) + page * VM_PAGE_SIZE;

	return at[0] == fill && memcmp(at, at + 1, VM_PAGE_SIZE - 1) == 0;
}

static void wait_committed(struct fake *f, uint64_t epoch)
{
	struct replicate_stats s;

	do {
		replica_stats(f->replica, &s);
	} while (s.acknowledged < epoch && !usleep(100));
}

static void epochs_one_after_the_other(void **state)
{
	struct fake f;

	fake_make(&f);
	fake_connect(&f);
	assert_int_equal(replica_promote(f.replica, 4, NULL), -EAGAIN);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	wait_committed(&f, 1);
	assert_int_equal(f.direct, 1);
	fake_epoch(&f, 2, 0x22);
	assert_int_equal(fake_ack(&f), 2);
	wait_committed(&f, 2);
	assert_int_equal(f.committed, 2);
	assert_int_equal(f.direct, 1);
	assert_true(filled(&f, 0, 0x22) && filled(&f, 16, 0x22));
	fake_end(&f);
}

/* Staged pages are not in the image before their epoch is whole, and never if it is not. */
static void half_an_epoch_never_shows(void **state)
{
	struct fake f;

	fake_make(&f);
	fake_connect(&f);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	fake_begin(&f, 1, 2);
	fake_page(&f, 1, 2, 0, 0x22);
	fake_member(&f, 2, "disk");
	fake_machine(&f, 2);
	fake_finish(&f, 1, 2);
	fake_begin(&f, 2, 2);
	fake_page(&f, 2, 2, 16, 0x22); /* and no end */
	channel_close(f.streams[1]);
	f.streams[1] = NULL;
	fake_wait(&f, REPLICA_LOST);
	assert_int_equal(replica_promote(f.replica, 3, NULL), -ESTALE);
	assert_int_equal(replica_promote(f.replica, 4, NULL), 0);
	assert_true(filled(&f, 0, 0x11) && filled(&f, 16, 0x11));
	assert_int_equal(f.committed, 1);
	assert_true(f.discards > 0);
	assert_int_equal(replica_promote(f.replica, 5, NULL), -EALREADY);
	fake_end(&f);
}

/* While a commit hangs, epochs are taken and acknowledged up to a bound; then the streams
 * are not read any more. */
static void slow_commit_holds_the_streams(void **state)
{
	struct replicate_stats s;
	struct fake f;
	uint64_t most;

	fake_make(&f);
	most = f.config.window + 1;
	fake_connect(&f);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	wait_committed(&f, 1);
	fake_commits_wait(&f, true);
	for (uint64_t epoch = 2; epoch <= 1 + most; epoch++) {
		fake_epoch(&f, epoch, (uint8_t)epoch);
		assert_int_equal(fake_ack(&f), epoch);
	}
	fake_epoch(&f, 2 + most, 0x77);
	usleep(20000);
	replica_stats(f.replica, &s);
	assert_int_equal(s.epoch, 1 + most);
	assert_int_equal(s.acknowledged, 1);
	fake_commits_wait(&f, false);
	assert_int_equal(fake_ack(&f), 2 + most);
	wait_committed(&f, 2 + most);
	assert_true(filled(&f, 0, 0x77));
	fake_end(&f);
}

static void bye_forbids_promotion(void **state)
{
	struct record r;
	struct fake f;

	fake_make(&f);
	fake_connect(&f);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	assert_int_equal(fake_send(&f, 0, RECORD_BYE, NULL, 0), 0);
	do {
		assert_int_equal(channel_receive(f.streams[0], &r, FAKE_SOON), 0);
	} while (r.type == RECORD_HEARTBEAT);
	assert_int_equal(r.type, RECORD_BYE_ACK);
	assert_int_equal(channel_receive(f.streams[0], &r, FAKE_SOON), -EPIPE);
	fake_wait(&f, REPLICA_RELEASED);
	assert_int_equal(replica_promote(f.replica, 4, NULL), -EPERM);
	fake_end(&f);
}

/* ---- records that must break the session --------------------------------------------- */

static void unknown_record(struct fake *f)
{
	assert_int_equal(fake_send(f, 1, 99, "x", 1), 0);
}

static void record_on_wrong_stream(struct fake *f)
{
	fake_begin(f, 0, 2);
}

static void state_on_second_stream(struct fake *f)
{
	fake_begin(f, 2, 2);
	assert_int_equal(fake_send(f, 2, RECORD_STATE, "12345678", 8), 0);
}

static void short_begin(struct fake *f)
{
	assert_int_equal(fake_send(f, 1, RECORD_EPOCH_BEGIN, "1234567", 7), 0);
}

static void long_begin(struct fake *f)
{
	assert_int_equal(fake_send(f, 1, RECORD_EPOCH_BEGIN, "123456789", 9), 0);
}

static void skipped_epoch(struct fake *f)
{
	fake_begin(f, 1, 3);
}

static void old_epoch(struct fake *f)
{
	fake_begin(f, 1, 1);
}

static void begin_twice(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_begin(f, 1, 2);
}

static void page_before_begin(struct fake *f)
{
	fake_page(f, 1, 2, 0, 1);
}

static void page_of_other_epoch(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_page(f, 1, 3, 0, 1);
}

static void page_twice(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_page(f, 1, 2, 0, 1);
	fake_page(f, 1, 2, 0, 2);
}

static void page_out_of_range(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_page(f, 1, 2, FAKE_PAGES + 32, 1);
}

static void page_of_other_stream(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_page(f, 1, 2, 16, 1);
}

static void delta_on_wrong_base(struct fake *f)
{
	static const uint8_t body[] = {2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 12, 0,
				       0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1,  1};
	struct buf b = {0};

	fake_begin(f, 1, 2);
	buf_put_u64(&b, 2);
	buf_put_u32(&b, 1);
	buf_put_u32(&b, COMPRESS_NONE);
	buf_put_u32(&b, sizeof(body));
	buf_put_u32(&b, 0);
	buf_put_u64(&b, XXH3_64bits(body, sizeof(body)));
	buf_put(&b, body, sizeof(body));
	fake_send_buf(f, 1, RECORD_PAGES, &b);
}

static void end_without_begin(struct fake *f)
{
	fake_finish(f, 1, 2);
}

static void end_with_wrong_count(struct fake *f)
{
	fake_begin(f, 2, 2);
	fake_page(f, 2, 2, 16, 1);
	f->sums[2].pages++;
	fake_finish(f, 2, 2);
}

static void end_with_wrong_chain(struct fake *f)
{
	fake_begin(f, 2, 2);
	fake_page(f, 2, 2, 16, 1);
	f->sums[2].chain ^= 1;
	fake_finish(f, 2, 2);
}

static void end_without_machine(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_finish(f, 1, 2);
}

static void machine_twice(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_machine(f, 2);
	fake_machine(f, 2);
}

static void damaged_machine(struct fake *f)
{
	fake_begin(f, 1, 2);
	f->state.data[f->state.len / 2] ^= 0x80;
	f->state.data[9] ^= 1;
	fake_machine(f, 2);
}

static void unknown_member(struct fake *f)
{
	uint8_t header[MEMBER_HEADER_SIZE];

	fake_begin(f, 1, 2);
	member_encode(2, 7, header);
	assert_int_equal(fake_send(f, 1, RECORD_MEMBER, header, sizeof(header)), 0);
}

static void member_refuses(struct fake *f)
{
	f->member_refuses = true;
	fake_begin(f, 1, 2);
	fake_member(f, 2, "x");
}

static void damaged_heartbeat(struct fake *f)
{
	uint8_t bytes[16] = {1, [8] = 2}; /* more acknowledged than sealed */

	assert_int_equal(fake_send(f, 0, RECORD_HEARTBEAT, bytes, sizeof(bytes)), 0);
}

static void second_hello(struct fake *f)
{
	struct hello h = fake_hello(f, 1);
	struct buf b = {0};

	hello_encode(&h, &b);
	fake_send_buf(f, 1, RECORD_HELLO, &b);
}

static const struct {
	const char *name;
	void (*send)(struct fake *f);
} bad[] = {
#define BAD(f)                                                                                     \
	{                                                                                          \
#f, f                                                                              \
	}
	BAD(unknown_record),
	BAD(record_on_wrong_stream),
	BAD(state_on_second_stream),
	BAD(short_begin),
	BAD(long_begin),
	BAD(skipped_epoch),
	BAD(old_epoch),
	BAD(begin_twice),
	BAD(page_before_begin),
	BAD(page_of_other_epoch),
	BAD(page_twice),
	BAD(page_out_of_range),
	BAD(page_of_other_stream),
	BAD(delta_on_wrong_base),
	BAD(end_without_begin),
	BAD(end_with_wrong_count),
	BAD(end_with_wrong_chain),
	BAD(end_without_machine),
	BAD(machine_twice),
	BAD(damaged_machine),
	BAD(unknown_member),
	BAD(member_refuses),
	BAD(damaged_heartbeat),
	BAD(second_hello),
};

/* The primary is told why, before the link is closed. */
static void refusal_is_sent(struct fake *f, const char *name)
{
	struct refuse refuse;
	struct record r;

	do {
		if (channel_receive(f->streams[0], &r, FAKE_SOON))
			fail_msg("%s: no refusal", name);
	} while (r.type == RECORD_HEARTBEAT || r.type == RECORD_ACK);
	assert_int_equal(r.type, RECORD_REFUSE);
	assert_int_equal(refuse_decode(r.payload, r.len, &refuse), 0);
	assert_int_equal(refuse.code, REFUSE_INPUT);
	assert_true(*refuse.text);
}

static void bad_records_break_the_session(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct fake f;

		fake_make(&f);
		fake_connect(&f);
		fake_epoch(&f, 1, 0x11);
		assert_int_equal(fake_ack(&f), 1);
		wait_committed(&f, 1);
		bad[i].send(&f);
		refusal_is_sent(&f, bad[i].name);
		fake_wait(&f, REPLICA_BROKEN);
		assert_int_equal(replica_promote(f.replica, 4, NULL), -EPERM);
		assert_true(filled(&f, 0, 0x11) && filled(&f, 16, 0x11));
		fake_end(&f);
	}
}

/* ---- pages that come later ------------------------------------------------------------------ */

/* Page 2 is missing, and epoch 1 whole. */
static void handover_make(struct fake *f)
{
	fake_make_as(f, true);
	fake_connect(f);
	for (unsigned s = 1; s <= 2; s++) {
		fake_begin(f, s, 1);
		fake_page(f, s, 1, s == 1 ? 0 : 16, 0x11);
		if (s == 1) {
			fake_missing(f, 1, 0, 4);
			fake_machine(f, 1);
		}
		fake_finish(f, s, 1);
	}
	assert_int_equal(fake_ack(f), 1);
	wait_committed(f, 1);
}

/* What is not a heartbeat. */
static uint16_t next_type(struct fake *f)
{
	struct record r;

	do {
		if (channel_receive(f->streams[0], &r, FAKE_SOON))
			return 0;
	} while (r.type == RECORD_HEARTBEAT);
	return r.type;
}

/* Each stream's thread has done with the epoch when it tells of the round behind it. */
static void round_follows(struct fake *f)
{
	for (unsigned s = 1; s <= 2; s++) {
		struct buf b = {0};

		epoch_encode(1, &b);
		fake_send_buf(f, s, RECORD_ROUND_END, &b);
	}
	assert_int_equal(next_type(f), RECORD_ROUND_DONE);
}

/* A source that does not hear that all is there goes on, though the target could have. The thread
 * that was to say so may be late: here it does not say it at all. */
static void the_last_epoch_is_acknowledged_before_the_session_ends(void **state)
{
	struct fake f;

	fake_make_as(&f, true);
	fake_connect(&f);
	fault_arm("replica.ack", 1, EIO);
	fake_epoch(&f, 1, 0x11);
	round_follows(&f);
	fake_wait(&f, REPLICA_READY);
	assert_int_equal(replica_promote(f.replica, 4, NULL), 0);
	assert_int_equal(next_type(&f), RECORD_ACK);
	assert_int_equal(next_type(&f), 0);
	fake_end(&f);
}

static void missing_late(struct fake *f)
{
	fake_missing(f, 1, 0, 2);
}

static void missing_of_a_second_epoch(struct fake *f)
{
	fake_begin(f, 1, 2);
	fake_missing(f, 2, 0, 2);
}

/* What is whole at the end of its epoch is what the guest goes on with. */
static void missing_pages_are_those_of_the_whole_epoch(void **state)
{
	static void (*const sends[])(struct fake * f) = {missing_late, missing_of_a_second_epoch};

	for (size_t i = 0; i < ARRAY_LEN(sends); i++) {
		struct fake f;

		handover_make(&f);
		assert_int_equal(replica_missing(f.replica)[0], 4);
		sends[i](&f);
		refusal_is_sent(&f, "missing");
		fake_wait(&f, REPLICA_BROKEN);
		assert_int_equal(replica_missing(f.replica)[0], 4);
		fake_end(&f);
	}
}

static void missing_beyond_the_end(struct fake *f)
{
	fake_missing(f, 1, FAKE_PAGES, 1);
}

static void missing_from_amid_a_word(struct fake *f)
{
	fake_missing(f, 1, 1, 1);
}

static void missing_nothing(struct fake *f)
{
	struct buf b = {0};

	missing_encode(1, 0, NULL, 0, &b);
	fake_send_buf(f, 1, RECORD_MISSING, &b);
}

static void missing_pages_that_cannot_be(void **state)
{
	static void (*const sends[])(struct fake * f) = {missing_beyond_the_end,
							 missing_from_amid_a_word, missing_nothing};

	for (size_t i = 0; i < ARRAY_LEN(sends); i++) {
		struct fake f;

		fake_make_as(&f, true);
		fake_connect(&f);
		fake_begin(&f, 1, 1);
		sends[i](&f);
		refusal_is_sent(&f, "missing");
		fake_wait(&f, REPLICA_BROKEN);
		fake_end(&f);
	}
}

static void unknown_optional_records_are_skipped(void **state)
{
	struct fake f;

	fake_make(&f);
	fake_connect(&f);
	for (unsigned i = 0; i <= 2; i++)
		assert_int_equal(channel_send(f.streams[i], 1000, 0, NULL, 0, FAKE_SOON), 0);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	fake_end(&f);
}

/* ---- hello -------------------------------------------------------------------------------- */

static void refused_hello(void (*change)(struct hello *h), enum refuse_code code)
{
	struct refuse refuse;
	struct hello h;
	struct fake f;

	fake_make(&f);
	fake_dial(&f, 0);
	h = fake_hello(&f, 0);
	change(&h);
	assert_int_equal(fake_greet(&f, 0, &h, &refuse), RECORD_REFUSE);
	assert_int_equal(refuse.code, code);
	/* The session's own primary is still welcome. */
	channel_close(f.streams[0]);
	f.streams[0] = NULL;
	fake_connect(&f);
	fake_end(&f);
}

static void change_version(struct hello *h)
{
	h->version++;
}

static void change_term_back(struct hello *h)
{
	h->term--;
}

static void change_term_on(struct hello *h)
{
	h->term++;
}

static void change_memory(struct hello *h)
{
	h->ram_pages++;
}

static void change_vcpus(struct hello *h)
{
	h->vcpus++;
}

static void change_cpu(struct hello *h)
{
	h->cpu = VM_CPU_HOST;
}

static void change_streams(struct hello *h)
{
	h->streams++;
}

static void change_member_id(struct hello *h)
{
	h->members[0].id++;
}

static void change_member_size(struct hello *h)
{
	h->members[0].size++;
}

static void change_member_count(struct hello *h)
{
	h->member_count = 0;
}

static void change_session(struct hello *h)
{
	h->session[3]++;
}

static void hellos_that_do_not_fit(void **state)
{
	refused_hello(change_version, REFUSE_VERSION);
	refused_hello(change_term_back, REFUSE_TERM);
	refused_hello(change_term_on, REFUSE_OTHER);
	refused_hello(change_memory, REFUSE_MACHINE);
	refused_hello(change_vcpus, REFUSE_MACHINE);
	refused_hello(change_cpu, REFUSE_MACHINE);
	refused_hello(change_streams, REFUSE_MACHINE);
	refused_hello(change_member_id, REFUSE_MACHINE);
	refused_hello(change_member_size, REFUSE_MACHINE);
	refused_hello(change_member_count, REFUSE_MACHINE);
	refused_hello(change_session, REFUSE_OTHER);
}

/* Somebody without the key can neither take a stream's place nor end the session. */
static void strangers_change_nothing(void **state)
{
	struct channel_auth auth = {0};
	struct fake f;

	fake_make(&f);
	for (unsigned i = 0; i < 5; i++) {
		struct channel *c;
		int fds[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
		assert_int_equal(replica_add_stream(f.replica, 0, fds[1]), 0);
		if (i % 2)
			assert_true(channel_connect(fds[0], &auth, FAKE_SOON, &c, NULL) < 0);
		else
			close(fds[0]);
	}
	assert_int_equal(replica_add_stream(f.replica, 3, dup(0)), -EINVAL);
	fake_connect(&f);
	assert_int_equal(replica_add_stream(f.replica, 0, dup(0)), -EALREADY);
	fake_epoch(&f, 1, 0x11);
	assert_int_equal(fake_ack(&f), 1);
	fake_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(epochs_one_after_the_other),
		cmocka_unit_test(half_an_epoch_never_shows),
		cmocka_unit_test(slow_commit_holds_the_streams),
		cmocka_unit_test(bye_forbids_promotion),
		cmocka_unit_test(bad_records_break_the_session),
		cmocka_unit_test(the_last_epoch_is_acknowledged_before_the_session_ends),
		cmocka_unit_test(missing_pages_are_those_of_the_whole_epoch),
		cmocka_unit_test(missing_pages_that_cannot_be),
		cmocka_unit_test(unknown_optional_records_are_skipped),
		cmocka_unit_test(hellos_that_do_not_fit),
		cmocka_unit_test(strangers_change_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

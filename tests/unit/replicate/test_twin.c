// SPDX-License-Identifier: Apache-2.0
/* A whole session over real sockets: protect, fail over, end in good order, refuse. */
#include "tests/unit/replicate/twin.h"

#include <time.h>

#define MEMORY (UINT64_C(1) << 20)

static uint64_t seed_of_run(void)
{
	const char *given = getenv("SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 16 | getpid();

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static uint64_t random_next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

/* A wait for progress, not a time limit: a hang is ended by whoever runs the tests. */
static void wait_acknowledged(struct twin *t, uint64_t epochs)
{
	while (twin_acknowledged(t) < epochs) {
		assert_int_equal(twin_wait_primary(t, BIT_OF(REPLICATOR_PROTECTED) |
							      BIT_OF(REPLICATOR_LOST)),
				 REPLICATOR_PROTECTED);
		usleep(1000);
	}
}

static struct twin *twin_protected(const struct replicate_config *c, bool disk, uint64_t epochs)
{
	struct twin *t = twin_make(c, c, disk, MEMORY, 11);

	twin_protect(t);
	assert_int_equal(twin_wait_primary(t, BIT_OF(REPLICATOR_PROTECTED) |
						      BIT_OF(REPLICATOR_UNPROTECTED) |
						      BIT_OF(REPLICATOR_LOST)),
			 REPLICATOR_PROTECTED);
	wait_acknowledged(t, epochs);
	return t;
}

static void stop_is_no_failure(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_protected(&c, true, 10);
	struct error e = {0};

	assert_int_equal(replicator_stop(t->replicator, TWIN_SOON, &e), 0);
	twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
	assert_int_equal(twin_wait_standby(t, BIT_OF(REPLICA_RELEASED) | BIT_OF(REPLICA_LOST)),
			 REPLICA_RELEASED);
	assert_int_equal(replica_promote(t->replica, 8, &e), -EPERM);
	twin_guest_end(t);
	assert_int_equal(vm_sim_check(t->primary.vm, &e), 0);
	twin_end(t);
}

static void cut_and_promote(struct twin *t)
{
	struct error e = {0};

	atomic_store(&t->bytes_left, 0);
	assert_int_equal(twin_wait_standby(t, BIT_OF(REPLICA_LOST) | BIT_OF(REPLICA_BROKEN)),
			 REPLICA_LOST);
	assert_int_equal(replica_promote(t->replica, 7, &e), -ESTALE);
	if (replica_promote(t->replica, 8, &e))
		fail_msg("%s", e.text);
	assert_int_equal(twin_wait_primary(t, BIT_OF(REPLICATOR_LOST)), REPLICATOR_LOST);
	twin_guest_end(t);
	twin_check_promoted(t);
	if (t->disk)
		twin_check_disk(t);
	twin_check_alive(t);
}

static void failover(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_protected(&c, true, 30);

	cut_and_promote(t);
	twin_end(t);
}

static void settings_of_all_kinds(void **state)
{
	static const struct {
		unsigned streams, window;
		enum page_compression compression;
		uint64_t delta;
	} kinds[] = {
		{1, 1, COMPRESS_NONE, 0},       {1, 4, COMPRESS_ZLIB, 1 << 20},
		{3, 2, COMPRESS_LZ4, 64 << 10}, {5, 8, COMPRESS_NONE, 4 << 20},
		{2, 2, COMPRESS_AUTO, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct replicate_config c = twin_config();
		struct twin *t;

		c.streams = kinds[i].streams;
		c.window = kinds[i].window;
		c.compression = kinds[i].compression;
		c.delta_bytes = kinds[i].delta;
		t = twin_protected(&c, false, 40);
		cut_and_promote(t);
		twin_end(t);
	}
}

/* Each frame waits for a checkpoint of its own; the longest interval never ends one. */
static void event_mode_follows_output(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t;

	c.mode = REPLICATE_EVENT;
	c.interval_ns = 3600 * NS_PER_SEC;
	t = twin_protected(&c, true, 60);
	assert_true(atomic_load(&t->primary.last_frame) > 0);
	cut_and_promote(t);
	twin_end(t);
}

/* The standby is lost for good under policy stall: the guest stands still, its output is
 * held, until a second session has a whole epoch of it. */
static void stalled_until_protected_again(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t, *again;
	uint64_t left;

	c.policy = STANDBY_LOSS_STALL;
	t = twin_protected(&c, false, 5);
	atomic_store(&t->bytes_left, 0);
	twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
	replicator_ownership(t->replicator, OWNERSHIP_CONFIRMED);
	replicator_destroy(atomic_exchange(&t->replicator, NULL));
	left = atomic_load(&t->primary.last_frame);
	assert_false(vm_is_running(t->primary.vm));

	/* The second session's standby is that of another pair of hosts. */
	again = twin_make(&c, &c, false, MEMORY, 11);
	t->config.held = true;
	t->config.port = again->config.port;
	t->sealed = 0;
	twin_protect(t);
	assert_int_equal(
		twin_wait_primary(t, BIT_OF(REPLICATOR_PROTECTED) | BIT_OF(REPLICATOR_UNPROTECTED)),
		REPLICATOR_PROTECTED);
	while (atomic_load(&t->primary.last_frame) < left + 20)
		usleep(1000);
	assert_int_equal(replicator_stop(t->replicator, TWIN_SOON, NULL), 0);
	twin_end(t);
	twin_end(again);
}

/* After a number of bytes that hits any moment: the first copy, the middle of a
 * checkpoint, an acknowledgement. */
static void cut_anywhere(void **state)
{
	uint64_t seed = seed_of_run();
	unsigned promoted = 0, early = 0;

	for (unsigned i = 0; i < 30; i++) {
		struct replicate_config c = twin_config();
		struct error e = {0};
		struct twin *t;
		int rc;

		c.streams = 1 + (unsigned)random_next(&seed) % 3;
		c.window = 1 + (unsigned)random_next(&seed) % 3;
		c.policy = random_next(&seed) % 2 ? STANDBY_LOSS_STALL : STANDBY_LOSS_CONTINUE;
		t = twin_make(&c, &c, random_next(&seed) % 2, MEMORY, random_next(&seed));
		t->bytes_left = (int64_t)(random_next(&seed) % (i % 2 ? 400000 : 4000000));
		twin_protect(t);
		twin_wait_primary(t, BIT_OF(REPLICATOR_LOST) | BIT_OF(REPLICATOR_UNPROTECTED));
		atomic_store(&t->bytes_left, 0);
		rc = replica_promote(t->replica, 8, &e);
		twin_guest_end(t);
		if (!rc) {
			twin_check_promoted(t);
			if (t->disk)
				twin_check_disk(t);
			twin_check_alive(t);
			promoted++;
		} else {
			assert_int_equal(rc, -EAGAIN);
			early++;
		}
		twin_end(t);
	}
	print_message("%u promoted, %u cut before the first epoch was whole\n", promoted, early);
	assert_true(promoted > 0);
}

static void silence_is_a_loss(void **state)
{
	struct replicate_config c = twin_config();
	struct error e = {0};
	struct twin *t;

	c.loss_ns = 2 * NS_PER_SEC;
	c.heartbeat_ns = 30 * NS_PER_MS;
	t = twin_protected(&c, false, 5);
	atomic_store(&t->silent, true);
	atomic_store(&t->bytes_left, 0);
	twin_wait_standby(t, BIT_OF(REPLICA_LOST));
	twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
	assert_int_equal(replica_promote(t->replica, 8, &e), 0);
	twin_guest_end(t);
	twin_check_promoted(t);
	twin_end(t);
}

static void ownership_decides(void **state)
{
	static const struct {
		enum standby_loss_policy policy;
		enum ownership_answer answer;
		enum replicator_state then;
	} cases[] = {
		{STANDBY_LOSS_CONTINUE, OWNERSHIP_CONFIRMED, REPLICATOR_UNPROTECTED},
		{STANDBY_LOSS_STALL, OWNERSHIP_FORCED, REPLICATOR_UNPROTECTED},
		{STANDBY_LOSS_STALL, OWNERSHIP_DENIED, REPLICATOR_FENCED},
		{STANDBY_LOSS_CONTINUE, OWNERSHIP_DENIED, REPLICATOR_FENCED},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct replicate_config c = twin_config();
		struct twin *t;
		uint64_t left;

		c.policy = cases[i].policy;
		t = twin_protected(&c, true, 5);
		atomic_store(&t->bytes_left, 0);
		twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
		left = atomic_load(&t->primary.last_frame);
		usleep(20000);
		assert_int_equal(atomic_load(&t->primary.last_frame), left);
		replicator_ownership(t->replicator, cases[i].answer);
		assert_int_equal(twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED) |
							      BIT_OF(REPLICATOR_FENCED)),
				 cases[i].then);
		if (cases[i].then == REPLICATOR_UNPROTECTED) {
			while (atomic_load(&t->primary.last_frame) < left + 50)
				usleep(1000);
		} else {
			usleep(20000);
			assert_int_equal(atomic_load(&t->primary.last_frame), left);
		}
		twin_end(t);
	}
}

/* Its memory may be served to the new owner still: devices must not go on either. */
static void what_was_handed_over_stands_still_for_good(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t;

	c.handover = true;
	t = twin_make(&c, &c, false, MEMORY, 3);
	twin_protect(t);
	assert_int_equal(twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED) | BIT_OF(REPLICATOR_LOST)),
			 REPLICATOR_HANDED);
	assert_int_equal(vm_pause(t->primary.vm), -EBUSY);
	replicator_ownership(t->replicator, OWNERSHIP_DENIED);
	twin_wait_primary(t, BIT_OF(REPLICATOR_FENCED));
	assert_int_equal(vm_pause(t->primary.vm), -EBUSY);
	assert_int_equal(replica_promote(t->replica, 9, NULL), 0);
	twin_guest_end(t);
	twin_check_promoted(t);
	twin_end(t);
}

/* Whoever ends a session that is being made does not wait for the other side's answer, for which
 * it has 40 s here. */
static void stopped_while_connecting(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_make(&c, &c, false, MEMORY, 3);
	struct pollfd p = {.events = POLLIN};
	uint64_t began;

	assert_int_equal(channel_listen("127.0.0.1", 0, &p.fd, NULL), 0);
	t->config.port = twin_port(p.fd);
	twin_protect(t);
	assert_int_equal(poll(&p, 1, 60000), 1);
	began = clock_ns();
	assert_int_equal(replicator_stop(t->replicator, TWIN_SOON, NULL), 0);
	twin_end(t);
	assert_true(clock_ns() - began < 20 * NS_PER_SEC);
	close(p.fd);
}

/* Most pages hold something. */
static void guest_fills_its_memory(struct twin *t)
{
	struct sim_report report;

	do {
		usleep(1000);
		assert_int_equal(vm_pause(t->primary.vm), 0);
		assert_int_equal(vm_sim_report(t->primary.vm, &report), 0);
		assert_int_equal(vm_resume(t->primary.vm), 0);
	} while (report.steps < 5 * vm_ram_pages(t->primary.vm));
}

/* Not when the round is over, which may be minutes later. */
static void failed_disk_ends_a_slow_round(void **state)
{
	struct replicate_config c = twin_config();
	struct replicate_stats s;
	struct twin *t;

	c.streams = 1;
	c.bytes_per_second = 1;
	c.compression = COMPRESS_NONE;
	t = twin_make(&c, &c, true, 8 * MEMORY, 3);
	guest_fills_its_memory(t);
	fault_arm("mirror.copy", 1, EIO);
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_PROTECTED) | BIT_OF(REPLICATOR_UNPROTECTED));
	assert_int_equal(t->primary_state, REPLICATOR_UNPROTECTED);
	assert_non_null(strstr(t->primary_why, "copy of a disk"));
	replicator_stats(t->replicator, &s);
	assert_true(s.sync_done < s.sync_total);
	twin_end(t);
}

static void refused(const struct replicate_config *standby, const char *because)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_make(&c, standby, false, MEMORY, 3);

	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED) | BIT_OF(REPLICATOR_LOST));
	if (!strstr(t->primary_why, because))
		fail_msg("'%s' does not say '%s'", t->primary_why, because);
	twin_end(t);
}

static void refusals_say_why(void **state)
{
	struct replicate_config c;

	c = twin_config();
	c.term = 8;
	refused(&c, "term 7 is over");
	c = twin_config();
	c.term = 6;
	refused(&c, "waits for term 6");
	c = twin_config();
	c.streams = 3;
	refused(&c, "2 streams, the standby 3");
	c = twin_config();
	c.key[0] ^= 1;
	refused(&c, "TLS handshake");
}

static void failed_commit_breaks_the_twin(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_protected(&c, true, 5);
	struct error e = {0};

	fault_arm("replica.commit", 1, EIO);
	assert_int_equal(twin_wait_standby(t, BIT_OF(REPLICA_BROKEN) | BIT_OF(REPLICA_LOST)),
			 REPLICA_BROKEN);
	twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
	assert_int_equal(replica_promote(t->replica, 8, &e), -EPERM);
	assert_non_null(strstr(e.text, strerror(EIO)));
	fault_disarm_all();
	twin_end(t);
}

static void failed_seal_is_tried_again(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_protected(&c, false, 5);

	fault_arm("replicator.seal", 1, EIO);
	wait_acknowledged(t, twin_acknowledged(t) + 10);
	cut_and_promote(t);
	twin_end(t);
}

/* Then its mapping is written. */
static void image_file_refuses_pages(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t;

	fault_arm("replica.write", 1, EIO);
	t = twin_protected(&c, false, 5);
	assert_int_equal(fault_point("replica.write"), 0); /* it was met */
	cut_and_promote(t);
	twin_end(t);
}

/* Without the record of one write the twin's disk is no epoch any more. */
static void lost_write_ends_the_session(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t = twin_protected(&c, true, 5);

	fault_arm("replicator.emit", 1, ENOMEM);
	twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
	fault_disarm_all();
	cut_and_promote(t);
	twin_end(t);
}

/* The epoch thread is stuck, the other side lives: then others have to end it (I5). */
static void endless_seal_ends_the_session(void **state)
{
	struct replicate_config c = twin_config();
	struct twin *t;

	c.loss_ns = 2 * NS_PER_SEC;
	c.heartbeat_ns = 30 * NS_PER_MS;
	t = twin_protected(&c, true, 5);
	atomic_store(&t->seal_waits, true);
	assert_int_equal(twin_wait_standby(t, BIT_OF(REPLICA_LOST) | BIT_OF(REPLICA_BROKEN)),
			 REPLICA_LOST);
	atomic_store(&t->seal_waits, false);
	cut_and_promote(t);
	twin_end(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stop_is_no_failure),
		cmocka_unit_test(failover),
		cmocka_unit_test(settings_of_all_kinds),
		cmocka_unit_test(event_mode_follows_output),
		cmocka_unit_test(stalled_until_protected_again),
		cmocka_unit_test(cut_anywhere),
		cmocka_unit_test(silence_is_a_loss),
		cmocka_unit_test(ownership_decides),
		cmocka_unit_test(what_was_handed_over_stands_still_for_good),
		cmocka_unit_test(stopped_while_connecting),
		cmocka_unit_test(failed_disk_ends_a_slow_round),
		cmocka_unit_test(refusals_say_why),
		cmocka_unit_test(failed_commit_breaks_the_twin),
		cmocka_unit_test(failed_seal_is_tried_again),
		cmocka_unit_test(image_file_refuses_pages),
		cmocka_unit_test(lost_write_ends_the_session),
		cmocka_unit_test(endless_seal_ends_the_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* A session that is a migration, over real sockets: its rounds, its last epoch, and a cancel. */
#include "tests/unit/replicate/twin.h"

#define MEMORY (UINT64_C(1) << 20)

typedef enum replicate_next next_fn(void *ctx, const struct replicate_round *round);

static struct replicate_config handing_over(next_fn *next, void *ctx)
{
	struct replicate_config c = twin_config();

	c.handover = true;
	c.next = next;
	c.next_ctx = ctx;
	return c;
}

/* ---- a migration that is cancelled, while the target does not answer ------------- */

#define CANCELS 3u

struct cancel {
	struct twin *t;
	bool deaf,
		seals; /* deaf: it beats, but hears nothing; seals: the last epoch is under way */
	atomic_bool ready;
};

static enum replicate_next cancel_next(void *ctx, const struct replicate_round *round)
{
	struct cancel *c = ctx;

	if (!atomic_load(&c->t->replicator))
		return NEXT_ROUND;
	if (c->deaf)
		atomic_store(&c->t->deaf, true);
	else if (!atomic_exchange(&c->t->silent, true))
		atomic_store(&c->t->bytes_left, 0);
	atomic_store(&c->ready, true);
	return c->seals ? NEXT_SEAL : NEXT_WAIT;
}

static struct twin *cancel_begin(struct cancel *k)
{
	struct replicate_config c = handing_over(cancel_next, k);

	c.loss_ns = 60 * NS_PER_SEC; /* 240 s to answer */
	k->t = twin_make(&c, &c, false, MEMORY, 3);
	return k->t;
}

/* Returns how long it took. */
static uint64_t cancel_check(struct cancel *k)
{
	struct twin *t = k->t;
	struct error e = {0};
	uint64_t began, took, left;
	int rc;

	if (k->seals)
		twin_wait_primary(t, BIT_OF(REPLICATOR_FREEZING));
	while (!atomic_load(&k->ready))
		usleep(1000);
	began = clock_ns();
	rc = replicator_stop(t->replicator, TWIN_SOON, &e);
	took = clock_ns() - began;
	assert_int_equal(rc, k->seals ? -ENOTCONN : 0);
	left = atomic_load(&t->primary.last_frame);
	if (k->seals) { /* it stands still until it is stored that it goes on */
		twin_wait_primary(t, BIT_OF(REPLICATOR_LOST));
		replicator_ownership(t->replicator, OWNERSHIP_FORCED);
	}
	twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
	while (atomic_load(&t->primary.last_frame) < left + 20)
		usleep(1000);
	return took;
}

/* Whichever of several took longer than a second was the machine's fault, if one did not: what a
 * cancel waits for it always waits for. */
static void cancel_is_quick(const uint64_t took[CANCELS])
{
	unsigned late = 0;

	for (unsigned i = 0; i < CANCELS; i++)
		late += took[i] >= NS_PER_SEC;
	assert_true(late < CANCELS);
}

static void cancel_is_not_the_targets_to_delay(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t took[CANCELS];

		for (unsigned n = 0; n < CANCELS; n++) {
			struct cancel k = {.deaf = i & 1, .seals = i & 2};
			struct twin *t = cancel_begin(&k);

			twin_protect(t);
			took[n] = cancel_check(&k);
			twin_end(t);
		}
		cancel_is_quick(took);
	}
}

static uint64_t cancel_without_epoch_thread(void)
{
	struct cancel k = {.deaf = true, .seals = true};
	struct twin *t = cancel_begin(&k);
	uint64_t began, took;

	atomic_store(&t->seal_waits, true);
	twin_protect(t);
	while (!atomic_load(&k.ready))
		usleep(1000);
	began = clock_ns();
	assert_int_equal(replicator_stop(t->replicator, TWIN_SOON, NULL), 0);
	took = clock_ns() - began;
	atomic_store(&t->seal_waits, false);
	twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
	twin_end(t);
	return took;
}

/* Nor that of whatever holds up the epoch thread. */
static void cancel_does_not_wait_for_the_epoch_thread(void **state)
{
	uint64_t took[CANCELS];

	for (unsigned i = 0; i < CANCELS; i++)
		took[i] = cancel_without_epoch_thread();
	cancel_is_quick(took);
}

/* ---- a cancel while the last epoch is taken --------------------------------------- */

static struct {
	const struct disk_backend_ops *ops; /* of the disk */
	atomic_bool waits, held;            /* shall be; is */
} drain;

/* Called in the pause. */
static void drain_held(struct disk_backend *b)
{
	drain.ops->drain(b);
	if (!atomic_load(&drain.waits))
		return;
	atomic_store(&drain.held, true);
	while (atomic_load(&drain.waits))
		usleep(1000);
}

static enum replicate_next seal_synced(void *ctx, const struct replicate_round *round)
{
	if (!round->members_synced)
		return NEXT_ROUND;
	atomic_store(&drain.waits, true);
	return *(const enum replicate_next *)ctx;
}

/* Nothing is sealed any more, and the guest goes on without the target's answer. */
static void a_cancel_counts_until_the_border_is_drawn(void **state)
{
	static const enum replicate_next ways[] = {NEXT_SEAL, NEXT_POSTCOPY};

	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct replicate_config c = handing_over(seal_synced, (void *)&ways[i]);
		struct disk_backend_ops ops;
		struct twin *t;
		uint64_t left;

		t = twin_make(&c, &c, true, MEMORY, 3);
		drain.ops = t->primary.disk->ops;
		ops = *drain.ops;
		ops.drain = drain_held;
		atomic_store(&drain.held, false);
		assert_int_equal(vm_pause(t->primary.vm), 0);
		t->primary.disk->ops = &ops;
		assert_int_equal(vm_resume(t->primary.vm), 0);
		twin_protect(t);
		while (!atomic_load(&drain.held))
			usleep(1000);
		assert_int_equal(replicator_stop(t->replicator, clock_ns(), NULL), -ETIMEDOUT);
		left = atomic_load(&t->primary.last_frame);
		atomic_store(&drain.waits, false);
		twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
		assert_int_equal(t->sealed, 0);
		while (atomic_load(&t->primary.last_frame) < left + 20)
			usleep(1000);
		twin_end(t);
	}
}

/* ---- rounds of a migration ------------------------------------------------------- */

struct rounds {
	unsigned asked;
	struct replicate_round first;
	uint64_t pages; /* of all */
};

static enum replicate_next first_keep(void *ctx, const struct replicate_round *round)
{
	struct rounds *k = ctx;

	if (!k->asked++)
		k->first = *round;
	k->pages += round->pages;
	if (!round->members_copied)
		return NEXT_WAIT;
	return round->members_synced ? NEXT_SEAL : NEXT_ROUND;
}

/* Only pages that the guest has written are there to be copied. */
static void guest_writes(struct twin *t, uint64_t bytes)
{
	struct stat ram = {0};

	while ((uint64_t)ram.st_blocks * 512 < bytes) {
		usleep(1000);
		assert_int_equal(fstat(vm_ram_fd(t->primary.vm), &ram), 0);
	}
}

static void all_arrived(struct twin *t)
{
	uint64_t size = vm_ram_pages(t->primary.vm) * VM_PAGE_SIZE;

	twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED));
	assert_memory_equal(vm_ram(t->primary.vm), vm_ram(t->standby.vm), size);
	twin_end(t);
}

/* At a page a second this one would take long: what it has not sent is dirty still. */
static void round_ends_in_time(void **state)
{
	struct rounds k = {0};
	struct replicate_config c = handing_over(first_keep, &k);
	struct twin *t;

	c.bytes_per_second = VM_PAGE_SIZE;
	c.most_ns = 2 * NS_PER_SEC;
	t = twin_make(&c, &c, false, 8 * MEMORY, 3);
	guest_writes(t, 4 * MEMORY);
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED));
	assert_int_equal(k.asked, 1);
	assert_true(k.first.elapsed_ns >= c.most_ns);
	assert_true(k.first.pages && k.first.dirty > k.first.pages);
	all_arrived(t);
}

static enum replicate_next seal_noted(void *ctx, const struct replicate_round *round)
{
	atomic_store((atomic_bool *)ctx, true);
	return NEXT_SEAL;
}

/* On a link that was too slow for the first round, and takes none of it for so long. */
static struct twin *hand_over_slowly(atomic_bool *asked, unsigned seconds)
{
	struct replicate_config c = handing_over(seal_noted, asked);
	struct twin *t;

	atomic_store(asked, false);
	c.bytes_per_second = VM_PAGE_SIZE;
	c.most_ns = 100 * NS_PER_MS;
	c.loss_ns = 60 * NS_PER_SEC;
	t = twin_make(&c, &c, false, 8 * MEMORY, 3);
	guest_writes(t, 4 * MEMORY);
	t->copy_is_slow = true;
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_SYNCING));
	sleep(seconds);
	assert_false(atomic_load(asked));
	return t;
}

/* The guest is not stopped behind what lies on the way. */
static void a_round_that_was_cut_is_waited_for(void **state)
{
	atomic_bool asked;
	struct twin *t = hand_over_slowly(&asked, 4);

	atomic_store(&t->slow, false);
	all_arrived(t);
	assert_true(asked);
}

static void that_wait_is_no_cancels_delay(void **state)
{
	uint64_t began, took[CANCELS];

	for (unsigned i = 0; i < CANCELS; i++) {
		atomic_bool asked;
		struct twin *t = hand_over_slowly(&asked, 1);

		began = clock_ns();
		assert_int_equal(replicator_stop(t->replicator, TWIN_SOON, NULL), 0);
		took[i] = clock_ns() - began;
		twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
		assert_false(asked);
		twin_end(t);
	}
	cancel_is_quick(took);
}

/* None is copied while the guest runs; disks are. */
static void nothing_is_copied_first(void **state)
{
	for (int disk = 0; disk < 2; disk++) {
		struct rounds k = {0};
		struct replicate_config c = handing_over(first_keep, &k);
		struct twin *t;

		c.copy_none = true;
		t = twin_make(&c, &c, disk, MEMORY, 3);
		guest_writes(t, MEMORY / 2);
		twin_protect(t);
		twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED));
		assert_int_equal(k.pages, 0);
		assert_true(k.first.dirty);
		all_arrived(t);
	}
}

#define WAIT_FRAMES 2000u

struct waiting {
	struct twin *t;
	unsigned asked;
	uint64_t dirty[3], frames;
};

/* The first round leaves few pages: the guest writes others while the second answer is waited for.
 */
static enum replicate_next count_after_wait(void *ctx, const struct replicate_round *round)
{
	struct waiting *k = ctx;

	if (k->asked < ARRAY_LEN(k->dirty))
		k->dirty[k->asked++] = round->dirty;
	if (k->asked == 1) {
		k->frames = atomic_load(&k->t->primary.last_frame);
		while (atomic_load(&k->t->primary.last_frame) < k->frames + WAIT_FRAMES)
			usleep(1000);
		return NEXT_LINK;
	}
	return k->asked == 2 ? NEXT_COUNT : NEXT_SEAL;
}

static void what_comes_while_it_waits_is_counted(void **state)
{
	struct waiting k = {0};
	struct replicate_config c = handing_over(count_after_wait, &k);
	struct twin *t;

	t = k.t = twin_make(&c, &c, false, 32 * MEMORY, 3);
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED));
	assert_int_equal(k.asked, 3);
	assert_int_equal(k.dirty[1], k.dirty[0]);
	assert_true(k.dirty[2] > k.dirty[0]);
	all_arrived(t);
}

static enum replicate_next seal_at_once(void *ctx, const struct replicate_round *round)
{
	(*(unsigned *)ctx)++;
	return round->members_synced ? NEXT_SEAL : NEXT_ROUND;
}

static enum replicate_next always(void *ctx, const struct replicate_round *round)
{
	return *(const enum replicate_next *)ctx;
}

/* Until it has ended one way or the other. */
static void hand_over(struct twin **t, unsigned *asked)
{
	struct replicate_config c = handing_over(seal_at_once, asked);

	*t = twin_make(&c, &c, false, MEMORY, 3);
	twin_protect(*t);
	twin_wait_primary(*t, BIT_OF(REPLICATOR_HANDED) | BIT_OF(REPLICATOR_LOST) |
				      BIT_OF(REPLICATOR_UNPROTECTED));
}

/* The pause may be too long by now, or the guest have written much: it is decided anew. */
static void failed_handover_is_decided_about_again(void **state)
{
	unsigned asked = 0;
	struct twin *t;

	fault_arm("replicator.seal", 1, EIO);
	fault_arm("replicator.seal", 2, EIO);
	hand_over(&t, &asked);
	assert_int_equal(t->primary_state, REPLICATOR_HANDED);
	assert_int_equal(asked, 3);
	twin_end(t);
}

/* What only a later version knows is refused before the other side could run the guest. That is
 * told where it is; there it goes on as soon as its polluxd has heard who owns it. */
static void handover_of_a_later_version_is_refused(void **state)
{
	static const struct {
		const char *fault, *why;
	} cases[] = {{"state.later", "section 999"}, {"sender.later", "type 999"}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct replicate_config c = twin_config();
		struct twin *t;
		uint64_t left;

		c.handover = true;
		t = twin_make(&c, &c, true, MEMORY, 3);
		fault_arm(cases[i].fault, 1, EPROTO);
		twin_protect(t);
		assert_int_equal(
			twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED) | BIT_OF(REPLICATOR_LOST)),
			REPLICATOR_LOST);
		if (!strstr(t->primary_why, cases[i].why))
			fail_msg("%s: %s", cases[i].fault, t->primary_why);
		twin_wait_standby(t, BIT_OF(REPLICA_BROKEN));
		replicator_ownership(t->replicator, OWNERSHIP_CONFIRMED);
		twin_wait_primary(t, BIT_OF(REPLICATOR_UNPROTECTED));
		assert_int_equal(replica_promote(t->replica, 9, NULL), -EPERM);
		assert_true(vm_is_running(t->primary.vm));
		left = atomic_load(&t->primary.last_frame);
		while (atomic_load(&t->primary.last_frame) < left + 50)
			usleep(1000);
		twin_end(t);
	}
}

static void handover_that_cannot_be_sealed_says_why(void **state)
{
	unsigned asked = 0;
	struct twin *t;

	for (unsigned i = 1; i <= 8; i++)
		fault_arm("replicator.seal", i, EDQUOT);
	hand_over(&t, &asked);
	fault_disarm_all();
	assert_int_equal(t->primary_state, REPLICATOR_UNPROTECTED);
	assert_non_null(strstr(t->primary_why, strerror(EDQUOT)));
	assert_true(vm_is_running(t->primary.vm));
	twin_end(t);
}

static const enum replicate_next seal_ways[] = {NEXT_SEAL, NEXT_POSTCOPY};

#define LATE_TRIES 3u
#define LATE_NS    (1500 * NS_PER_MS) /* of the 2 s in which a failed seal has another try */

/* There are 1 ms to copy it all. */
static struct twin *hand_over_late(const enum replicate_next *way)
{
	struct replicate_config c = handing_over(always, (void *)way);
	struct twin *t;

	c.most_ns = NS_PER_MS;
	t = twin_make(&c, &c, false, MEMORY, 3);
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED) | BIT_OF(REPLICATOR_UNPROTECTED));
	return t;
}

/* A machine that stood still meanwhile may have left no time for it. */
static struct twin *hand_over_on_second_try(const enum replicate_next *way)
{
	for (unsigned tries = 1;; tries++) {
		uint64_t began = clock_ns();
		struct twin *t;

		fault_arm("replicator.seal", 1, ETIMEDOUT);
		t = hand_over_late(way);
		if (t->primary_state == REPLICATOR_HANDED || tries == LATE_TRIES ||
		    clock_ns() - began < LATE_NS)
			return t;
		twin_end(t);
	}
}

/* What is done because time is over is not given up for one disk that is slow for a moment. */
static void handover_that_is_late_has_another_try(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(seal_ways); i++) {
		struct twin *t = hand_over_on_second_try(&seal_ways[i]);

		assert_int_equal(t->primary_state, REPLICATOR_HANDED);
		twin_end(t);
	}
}

/* The time that copying has is over, and the moment that a seal has beyond that: no other pause is
 * tried, with or without what is dirty. */
static void handover_is_not_sealed_for_ever(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(seal_ways); i++) {
		struct twin *t;

		for (unsigned n = 1; n <= 8; n++)
			fault_arm("replicator.seal", n, EDQUOT);
		t = hand_over_late(&seal_ways[i]);
		assert_int_equal(t->primary_state, REPLICATOR_UNPROTECTED);
		assert_int_not_equal(fault_point("replicator.seal"), 0); /* not all were tried */
		fault_disarm_all();
		assert_non_null(strstr(t->primary_why, strerror(EDQUOT)));
		assert_true(vm_is_running(t->primary.vm));
		twin_end(t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cancel_is_not_the_targets_to_delay),
		cmocka_unit_test(cancel_does_not_wait_for_the_epoch_thread),
		cmocka_unit_test(a_cancel_counts_until_the_border_is_drawn),
		cmocka_unit_test(round_ends_in_time),
		cmocka_unit_test(a_round_that_was_cut_is_waited_for),
		cmocka_unit_test(that_wait_is_no_cancels_delay),
		cmocka_unit_test(nothing_is_copied_first),
		cmocka_unit_test(what_comes_while_it_waits_is_counted),
		cmocka_unit_test(failed_handover_is_decided_about_again),
		cmocka_unit_test(handover_of_a_later_version_is_refused),
		cmocka_unit_test(handover_that_cannot_be_sealed_says_why),
		cmocka_unit_test(handover_that_is_late_has_another_try),
		cmocka_unit_test(handover_is_not_sealed_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

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
	struct replicate_config c = twin_config();

	c.handover = true;
	c.loss_ns = 60 * NS_PER_SEC; /* 240 s to answer */
	c.next = cancel_next;
	c.next_ctx = k;
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
		struct replicate_config c = twin_config();
		struct disk_backend_ops ops;
		struct twin *t;
		uint64_t left;

		c.handover = true;
		c.next = seal_synced;
		c.next_ctx = (void *)&ways[i];
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
	struct replicate_config c = twin_config();
	struct rounds k = {0};
	struct twin *t;

	c.handover = true;
	c.next = first_keep;
	c.next_ctx = &k;
	c.bytes_per_second = VM_PAGE_SIZE;
	c.most_ns = 200 * NS_PER_MS;
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
	struct replicate_config c = twin_config();
	struct twin *t;

	atomic_store(asked, false);
	c.handover = true;
	c.next = seal_noted;
	c.next_ctx = asked;
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
		struct replicate_config c = twin_config();
		struct rounds k = {0};
		struct twin *t;

		c.handover = true;
		c.next = first_keep;
		c.next_ctx = &k;
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
		while (atomic_load(&k->t->primary.last_frame) < k->frames + 50)
			usleep(1000);
		return NEXT_LINK;
	}
	return k->asked == 2 ? NEXT_COUNT : NEXT_SEAL;
}

static void what_comes_while_it_waits_is_counted(void **state)
{
	struct replicate_config c = twin_config();
	struct waiting k = {0};
	struct twin *t;

	c.handover = true;
	c.next = count_after_wait;
	c.next_ctx = &k;
	t = k.t = twin_make(&c, &c, false, 8 * MEMORY, 3);
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
	struct replicate_config c = twin_config();

	c.handover = true;
	c.next = seal_at_once;
	c.next_ctx = asked;
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

/* There are 1 ms to copy it all. */
static struct twin *hand_over_late(const enum replicate_next *way)
{
	struct replicate_config c = twin_config();
	struct twin *t;

	c.handover = true;
	c.next = always;
	c.next_ctx = (void *)way;
	c.most_ns = NS_PER_MS;
	t = twin_make(&c, &c, false, MEMORY, 3);
	twin_protect(t);
	twin_wait_primary(t, BIT_OF(REPLICATOR_HANDED) | BIT_OF(REPLICATOR_UNPROTECTED));
	return t;
}

/* What is done because time is over is not given up for one disk that is slow for a moment. */
static void handover_that_is_late_has_another_try(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(seal_ways); i++) {
		struct twin *t;

		fault_arm("replicator.seal", 1, ETIMEDOUT);
		t = hand_over_late(&seal_ways[i]);
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

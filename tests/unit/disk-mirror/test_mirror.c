// SPDX-License-Identifier: Apache-2.0
/* Source and target together: random writes over an asynchronous disk, cut into epochs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "disk-mirror/disk-mirror.h"

#define DISK_SIZE (1u << 20)
#define EPOCHS    12

/* ---- a disk that finishes requests late and out of order, on a thread ---- */

struct slow_disk {
	struct disk_backend backend;
	pthread_mutex_t lock;
	pthread_cond_t change;
	struct disk_request *queue[64];
	unsigned queued, busy;
	bool stop;
	pthread_t thread;
	unsigned seed;
	bool overlap_seen;
};

static bool requests_overlap(const struct disk_request *a, const struct disk_request *b)
{
	return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

static int slow_submit(struct disk_backend *b, struct disk_request *r)
{
	struct slow_disk *d = CONTAINER_OF(b, struct slow_disk, backend);

	pthread_mutex_lock(&d->lock);
	assert_true(d->queued < 64);
	for (unsigned i = 0; i < d->queued; i++)
		d->overlap_seen |= requests_overlap(d->queue[i], r);
	d->queue[d->queued++] = r;
	pthread_cond_broadcast(&d->change);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static void perform(struct slow_disk *d, struct disk_request *r)
{
	uint64_t at = r->offset;

	if (r->op == DISK_WRITE) {
		for (int i = 0; i < r->iov_count; i++) {
			assert_int_equal(pwrite(d->backend.fd, r->iov[i].iov_base,
						r->iov[i].iov_len, (off_t)at),
					 r->iov[i].iov_len);
			at += r->iov[i].iov_len;
		}
	} else {
		void *zeroes = calloc(1, r->length);

		assert_int_equal(pwrite(d->backend.fd, zeroes, r->length, (off_t)at), r->length);
		free(zeroes);
	}
}

static void *slow_main(void *ctx)
{
	struct slow_disk *d = ctx;

	pthread_mutex_lock(&d->lock);
	for (;;) {
		struct disk_request *r;
		unsigned pick;

		while (!d->queued && !d->stop)
			pthread_cond_wait(&d->change, &d->lock);
		if (!d->queued)
			break;
		pick = (unsigned)rand_r(&d->seed) % d->queued;
		r = d->queue[pick];
		d->busy++;
		pthread_mutex_unlock(&d->lock);
		perform(d, r);
		pthread_mutex_lock(&d->lock);
		for (pick = 0; d->queue[pick] != r; pick++)
			;
		d->queue[pick] = d->queue[--d->queued];
		pthread_mutex_unlock(&d->lock);
		r->done(r, 0);
		pthread_mutex_lock(&d->lock);
		d->busy--;
		pthread_cond_broadcast(&d->change);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

static void slow_drain(struct disk_backend *b)
{
	struct slow_disk *d = CONTAINER_OF(b, struct slow_disk, backend);

	pthread_mutex_lock(&d->lock);
	while (d->queued || d->busy)
		pthread_cond_wait(&d->change, &d->lock);
	pthread_mutex_unlock(&d->lock);
}

static int slow_claim(struct disk_backend *b, struct error *e)
{
	return 0;
}

static void slow_destroy(struct disk_backend *b)
{
	(void)b;
}

static const struct disk_backend_ops slow_ops = {.submit = slow_submit,
						 .drain = slow_drain,
						 .claim = slow_claim,
						 .yield = slow_claim,
						 .destroy = slow_destroy};

/* ---- the bench --------------------------------------------------------------- */

struct bench {
	struct slow_disk disk;
	struct mirror_source *source;
	struct mirror_target *target;
	int target_fd;
	unsigned seed;
	pthread_mutex_t lock;
	uint64_t open_epoch;
	bool direct, synced, cut;
	unsigned records;
};

static int emit(void *ctx, const struct iovec *iov, int iov_count)
{
	struct bench *b = ctx;
	struct buf payload = {0};
	struct error e = {0};

	pthread_mutex_lock(&b->lock);
	if (b->cut) {
		pthread_mutex_unlock(&b->lock);
		return -EPIPE;
	}
	for (int i = 0; i < iov_count; i++)
		buf_put(&payload, iov[i].iov_base, iov[i].iov_len);
	assert_int_equal(mirror_target_receive(b->target, b->open_epoch, b->direct, payload.data,
					       payload.len, &e),
			 0);
	b->records++;
	buf_free(&payload);
	pthread_mutex_unlock(&b->lock);
	return 0;
}

static void on_synced(void *ctx, int rc)
{
	struct bench *b = ctx;

	assert_int_equal(rc, 0);
	pthread_mutex_lock(&b->lock);
	b->synced = true;
	pthread_mutex_unlock(&b->lock);
}

static void on_synced_any(void *ctx, int rc)
{
	(void)ctx;
	assert_int_equal(rc, 0);
}

static int disk_file(unsigned *seed)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	uint8_t *data = malloc(DISK_SIZE);

	for (unsigned i = 0; i < DISK_SIZE; i++)
		data[i] = i % (64 << 10) < (32 << 10) ? (uint8_t)rand_r(seed) : 0;
	assert_int_equal(pwrite(fd, data, DISK_SIZE, 0), DISK_SIZE);
	free(data);
	return fd;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof *b);

	b->seed = (unsigned)time(NULL) ^ (unsigned)getpid();
	print_message("seed %u\n", b->seed);
	pthread_mutex_init(&b->lock, NULL);
	pthread_mutex_init(&b->disk.lock, NULL);
	pthread_cond_init(&b->disk.change, NULL);
	b->disk.seed = b->seed;
	b->disk.backend = (struct disk_backend){
		.ops = &slow_ops, .size = DISK_SIZE, .fd = disk_file(&b->seed)};
	assert_int_equal(thread_start(&b->disk.thread, "slow-disk", slow_main, &b->disk), 0);
	b->target_fd = memfd_create("target", MFD_CLOEXEC);
	assert_int_equal(ftruncate(b->target_fd, DISK_SIZE), 0);
	assert_int_equal(mirror_target_create(b->target_fd, DISK_SIZE, 3, &b->target), 0);
	assert_int_equal(mirror_source_create(&b->disk.backend, 3, NULL, &b->source), 0);
	b->open_epoch = 1;
	b->direct = true;
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	mirror_source_destroy(b->source);
	pthread_mutex_lock(&b->disk.lock);
	b->disk.stop = true;
	pthread_cond_broadcast(&b->disk.change);
	pthread_mutex_unlock(&b->disk.lock);
	pthread_join(b->disk.thread, NULL);
	mirror_target_destroy(b->target);
	close(b->disk.backend.fd);
	close(b->target_fd);
	free(b);
	return 0;
}

struct guest_write {
	struct disk_request r;
	struct iovec iov[3];
	struct bench *b;
	uint8_t data[];
};

static void guest_done(struct disk_request *r, int rc)
{
	assert_int_equal(rc, 0);
	free(CONTAINER_OF(r, struct guest_write, r));
}

/* Few places, so that writes often overlap. */
static void guest_write(struct bench *b)
{
	uint64_t length = 512u * (1 + (unsigned)rand_r(&b->seed) % 40);
	uint64_t offset = 512u * ((unsigned)rand_r(&b->seed) % ((DISK_SIZE - length) / 512 + 1));
	struct guest_write *w = calloc(1, sizeof *w + length);
	struct disk_backend *disk = mirror_source_backend(b->source);

	for (uint64_t i = 0; i < length; i += 8)
		w->data[i] = (uint8_t)rand_r(&b->seed);
	w->iov[0] = (struct iovec){w->data, 100};
	w->iov[1] = (struct iovec){w->data + 100, length - 200};
	w->iov[2] = (struct iovec){w->data + length - 100, 100};
	w->r = (struct disk_request){.op = rand_r(&b->seed) % 4 ? DISK_WRITE : DISK_DISCARD,
				     .offset = offset,
				     .length = length,
				     .iov = w->iov,
				     .iov_count = 3,
				     .done = guest_done};
	assert_int_equal(disk->ops->submit(disk, &w->r), 0);
	for (;;) { /* the test's disk has a short queue */
		bool full;

		pthread_mutex_lock(&b->disk.lock);
		full = b->disk.queued > 24;
		pthread_mutex_unlock(&b->disk.lock);
		if (!full)
			break;
		usleep(50);
	}
}

static void *image(int fd)
{
	void *data = malloc(DISK_SIZE);

	assert_int_equal(pread(fd, data, DISK_SIZE, 0), DISK_SIZE);
	return data;
}

static void sync_under_load(struct bench *b)
{
	bool synced = false;

	assert_int_equal(mirror_source_start(b->source, emit, b, 0, on_synced), 0);
	for (unsigned i = 0; !synced || i < 200; i++) {
		guest_write(b);
		pthread_mutex_lock(&b->lock);
		synced = b->synced;
		pthread_mutex_unlock(&b->lock);
	}
}

static void drain(struct bench *b)
{
	struct disk_backend *disk = mirror_source_backend(b->source);

	disk->ops->drain(disk);
}

static void assert_equal_disks(struct bench *b)
{
	uint8_t *ours = image(b->disk.backend.fd), *theirs = image(b->target_fd);

	assert_memory_equal(ours, theirs, DISK_SIZE);
	free(ours);
	free(theirs);
}

static void test_first_copy_under_load(void **state)
{
	struct bench *b = *state;
	struct mirror_progress p;

	sync_under_load(b);
	drain(b);
	assert_equal_disks(b);
	assert_false(b->disk.overlap_seen);
	mirror_source_progress(b->source, &p);
	assert_true(p.synced);
	assert_int_equal(p.done, p.total);
}

static void test_epochs_are_whole(void **state)
{
	struct bench *b = *state;
	void *sealed[EPOCHS + 1] = {0};
	struct error e;

	sync_under_load(b);
	drain(b);
	b->direct = false;
	for (unsigned epoch = 1; epoch <= EPOCHS; epoch++) {
		for (unsigned i = 0; i < 50; i++)
			guest_write(b);
		drain(b);
		sealed[epoch] = image(b->disk.backend.fd);
		b->open_epoch = epoch + 1;
	}
	for (unsigned epoch = 1; epoch <= EPOCHS; epoch++) {
		void *now;

		assert_true(mirror_target_staged_bytes(b->target) > 0);
		assert_int_equal(mirror_target_commit(b->target, epoch, &e), 0);
		now = image(b->target_fd);
		assert_memory_equal(now, sealed[epoch], DISK_SIZE);
		free(now);
		free(sealed[epoch]);
	}
	assert_int_equal(mirror_target_staged_bytes(b->target), 0);
	assert_int_equal(mirror_target_flush(b->target, &e), 0);
}

static void test_discard_keeps_the_last_epoch(void **state)
{
	struct bench *b = *state;
	void *before, *after;
	struct error e;

	sync_under_load(b);
	drain(b);
	b->direct = false;
	before = image(b->target_fd);
	for (unsigned i = 0; i < 50; i++)
		guest_write(b);
	drain(b);
	mirror_target_discard(b->target);
	assert_int_equal(mirror_target_commit(b->target, UINT64_MAX, &e), 0);
	after = image(b->target_fd);
	assert_memory_equal(before, after, DISK_SIZE);
	free(before);
	free(after);
}

static void test_session_end_leaves_the_guest_alone(void **state)
{
	struct bench *b = *state;

	pthread_mutex_lock(&b->lock);
	b->cut = true;
	pthread_mutex_unlock(&b->lock);
	assert_int_equal(mirror_source_start(b->source, emit, b, 0, on_synced), 0);
	for (unsigned i = 0; i < 100; i++)
		guest_write(b);
	mirror_source_stop(b->source);
	drain(b);
	assert_int_equal(b->records, 0);

	/* ... and a new session begins from the start. */
	b->cut = false;
	sync_under_load(b);
	drain(b);
	assert_equal_disks(b);
}

static void test_stop_in_the_middle(void **state)
{
	struct bench *b = *state;

	for (unsigned i = 0; i < 20; i++) {
		/* 16 KiB/s: the copy of 1 MiB would last a minute */
		assert_int_equal(mirror_source_start(b->source, emit, b, 16 << 10, on_synced), 0);
		guest_write(b);
		mirror_source_stop(b->source);
	}
	drain(b);
	assert_false(b->synced);
}

/* ---- a link that is stuck with a piece of the first copy ---- */

struct stuck {
	pthread_mutex_t lock;
	pthread_cond_t change;
	pthread_t guest;
	bool copy_waits, guest_passed, timed_out;
};

static int stuck_emit(void *ctx, const struct iovec *iov, int iov_count)
{
	struct stuck *s = ctx;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&s->lock);
	if (pthread_equal(pthread_self(), s->guest))
		s->guest_passed = true;
	else
		s->copy_waits = true;
	pthread_cond_broadcast(&s->change);
	while (!s->guest_passed && !s->timed_out)
		s->timed_out = pthread_cond_timedwait(&s->change, &s->lock, &until) != 0;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void test_a_slow_copy_holds_up_its_chunk_only(void **state)
{
	struct stuck s = {.guest = pthread_self()};
	struct bench *b = *state;
	struct disk_backend *disk = mirror_source_backend(b->source);
	struct mirror_progress p;
	struct guest_write *w = calloc(1, sizeof *w + 512);

	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.change, NULL);
	assert_int_equal(mirror_source_start(b->source, stuck_emit, &s, 0, on_synced_any), 0);
	pthread_mutex_lock(&s.lock);
	while (!s.copy_waits)
		pthread_cond_wait(&s.change, &s.lock);
	pthread_mutex_unlock(&s.lock);
	mirror_source_progress(b->source, &p);
	w->iov[0] = (struct iovec){w->data, 512};
	w->r = (struct disk_request){.op = DISK_WRITE,
				     .offset = DISK_SIZE - 512,
				     .length = 512,
				     .iov = w->iov,
				     .iov_count = 1,
				     .done = guest_done};
	assert_int_equal(disk->ops->submit(disk, &w->r), 0);
	drain(b);
	mirror_source_stop(b->source);
	assert_true(s.guest_passed);
	assert_false(s.timed_out);
	pthread_cond_destroy(&s.change);
	pthread_mutex_destroy(&s.lock);
}

static void put_record(struct buf *out, uint16_t disk, uint8_t op, uint32_t length, uint64_t offset,
		       size_t data)
{
	buf_reset(out);
	buf_put_u16(out, disk);
	buf_put_u8(out, op);
	buf_put_u8(out, 0);
	buf_put_u32(out, length);
	buf_put_u64(out, offset);
	memset(buf_extend(out, data), 0xee, data);
}

static void test_bad_records_are_refused(void **state)
{
	static const struct {
		uint16_t disk;
		uint8_t op;
		uint32_t length;
		uint64_t offset;
		size_t data;
	} bad[] = {
		{4, 1, 512, 0, 512},
		{3, 0, 512, 0, 512},
		{3, 3, 512, 0, 512},
		{3, 1, 512, 0, 511},
		{3, 1, 512, 0, 513},
		{3, 1, 0, 0, 0},
		{3, 1, 512, DISK_SIZE - 511, 512},
		{3, 1, 512, UINT64_MAX - 10, 512},
		{3, 2, 512, DISK_SIZE, 0},
		{3, 2, UINT32_MAX, 0, 0},
		{3, 2, 512, 0, 1},
	};
	struct bench *b = *state;
	struct buf record = {0};
	struct error e;

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		e = (struct error){0};
		put_record(&record, bad[i].disk, bad[i].op, bad[i].length, bad[i].offset,
			   bad[i].data);
		assert_int_equal(
			mirror_target_receive(b->target, 1, i % 2, record.data, record.len, &e),
			-EBADMSG);
		assert_true(strlen(e.text) > 10);
	}
	put_record(&record, 3, 1, 512, 0, 512);
	for (size_t n = 0; n < record.len; n++)
		assert_int_equal(mirror_target_receive(b->target, 1, false, record.data, n, NULL),
				 -EBADMSG);
	assert_int_equal(mirror_target_staged_bytes(b->target), 0);
	buf_free(&record);
}

static void test_failed_commit_says_so(void **state)
{
	struct bench *b = *state;
	struct buf record = {0};
	struct error e = {0};

	put_record(&record, 3, 1, 512, 0, 512);
	assert_int_equal(mirror_target_receive(b->target, 1, false, record.data, record.len, &e),
			 0);
	fault_arm("mirror.write", 1, ENOSPC);
	assert_int_equal(mirror_target_commit(b->target, 1, &e), -ENOSPC);
	assert_non_null(strstr(e.text, "disk 3"));
	/* Nothing was lost: it can be tried again. */
	assert_int_equal(mirror_target_commit(b->target, 1, &e), 0);
	assert_int_equal(mirror_target_staged_bytes(b->target), 0);
	buf_free(&record);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_first_copy_under_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_epochs_are_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(test_discard_keeps_the_last_epoch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_session_end_leaves_the_guest_alone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_stop_in_the_middle, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_slow_copy_holds_up_its_chunk_only, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_bad_records_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failed_commit_says_so, setup, teardown),
	};

	return cmocka_run_group_tests_name("disk-mirror", tests, NULL, NULL);
}

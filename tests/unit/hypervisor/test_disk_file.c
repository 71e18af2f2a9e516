// SPDX-License-Identifier: Apache-2.0
/* The back end alone; test_virtio_blk.c has its data path. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

static struct loop *io;
static char folder[64], image[80]; /* only these are ever removed */
static struct disk_config config;
static struct error e;

static int setup(void **state)
{
	assert_int_equal(loop_create(&io), 0);
	snprintf(folder, sizeof(folder), "/tmp/pollux-disk-XXXXXX");
	assert_non_null(mkdtemp(folder));
	config = (struct disk_config){0};
	snprintf(image, sizeof(image), "%s/d", folder);
	strcpy(config.path, image);
	e = (struct error){0};
	return 0;
}
static int teardown(void **state)
{
	unlink(image);
	rmdir(folder);
	loop_destroy(io);
	return 0;
}

static struct disk_backend *must_open(void)
{
	struct disk_backend *b = NULL;

	if (disk_backend_open(&config, io, &b, &e))
		fail_msg("%s", e.text);
	return b;
}

static void must_fail(int rc, const char *word)
{
	struct disk_backend *b;

	e = (struct error){0};
	assert_int_equal(disk_backend_open(&config, io, &b, &e), rc);
	if (!strstr(e.text, word) || !strstr(e.text, config.path))
		fail_msg("'%s' does not say '%s'", e.text, word);
}

static void file_make(off_t size)
{
	int fd = open(config.path, O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

struct waiter {
	struct disk_request request;
	int done, rc;
};
static void waiter_done(struct disk_request *r, int rc)
{
	struct waiter *w = CONTAINER_OF(r, struct waiter, request);

	w->done++;
	w->rc = rc;
}
static int run(struct disk_backend *b, enum disk_op op, uint64_t at, void *data, size_t len)
{
	struct iovec iov = {data, len};
	struct waiter w = {.request = {.op = op,
				       .offset = at,
				       .length = len,
				       .iov = &iov,
				       .iov_count = data ? 1 : 0,
				       .durable = true,
				       .done = waiter_done}};
	int rc = b->ops->submit(b, &w.request);

	if (rc)
		return rc;
	while (!w.done)
		assert_int_equal(loop_step(io, 100), 0);
	assert_int_equal(w.done, 1);
	return w.rc;
}

static void what_cannot_be_opened_says_why(void **state)
{
	must_fail(-ENOENT, "No such file");
	file_make(0);
	must_fail(-EINVAL, "512");
	file_make(1000);
	must_fail(-EINVAL, "1000");
	unlink(image);
	strcpy(config.path, folder);
	must_fail(-EISDIR, "directory");
	config.readonly = true;
	must_fail(-EINVAL, "neither");
	strcpy(config.path, "/dev/null");
	must_fail(-EINVAL, "neither");
}

static void an_image_is_made_once(void **state)
{
	struct disk_backend *b;
	uint8_t data[512], back[512];
	struct stat st;

	memset(data, 'k', sizeof(data));
	config.create_size = 1 << 20;
	b = must_open();
	assert_int_equal(b->size, 1 << 20);
	assert_int_equal(run(b, DISK_WRITE, 512, data, 512), 0);
	b->ops->destroy(b);
	assert_int_equal(stat(config.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	config.create_size = 2 << 20;
	b = must_open(); /* as it was */
	assert_int_equal(b->size, 1 << 20);
	assert_int_equal(run(b, DISK_READ, 512, back, 512), 0);
	assert_memory_equal(data, back, 512);
	b->ops->destroy(b);
}

static void the_limits_are_kept(void **state)
{
	static uint8_t data[1024];
	struct disk_backend *b;

	file_make(4096);
	b = must_open();
	assert_int_equal(run(b, DISK_READ, 3584, data, 512), 0);
	assert_int_equal(run(b, DISK_READ, 3584, data, 1024), -EINVAL);
	assert_int_equal(run(b, DISK_WRITE, UINT64_MAX - 511, data, 512), -EINVAL);
	b->ops->destroy(b);
	config.readonly = true;
	b = must_open();
	assert_true(b->readonly);
	assert_int_equal(run(b, DISK_WRITE, 0, data, 512), -EROFS);
	assert_int_equal(run(b, DISK_DISCARD, 0, NULL, 512), -EROFS);
	assert_int_equal(run(b, DISK_FLUSH, 0, NULL, 0), 0);
	b->ops->destroy(b);
}

static void a_file_that_shrank_is_an_error(void **state)
{
	static uint8_t data[4096];
	struct disk_backend *b;

	file_make(8192);
	b = must_open();
	assert_int_equal(truncate(config.path, 4096), 0);
	assert_int_equal(run(b, DISK_READ, 4096, data, 4096), -EIO);
	assert_int_equal(run(b, DISK_READ, 2048, data, 4096), -EIO);
	b->ops->destroy(b);
}

static void drain_and_destroy_wait(void **state)
{
	enum { MANY = 300, LEN = 16384 };
	static struct waiter w[MANY];
	static struct iovec iov;
	struct disk_backend *b;
	unsigned done = 0;

	config.create_size = 8 << 20;
	b = must_open();
	iov = (struct iovec){aligned_alloc(4096, LEN), LEN};
	memset(iov.iov_base, 'm', LEN);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < MANY; i++) {
			w[i] = (struct waiter){.request = {.op = DISK_WRITE,
							   .offset = i * (uint64_t)LEN,
							   .length = LEN,
							   .iov = &iov,
							   .iov_count = 1,
							   .done = waiter_done}};
			assert_int_equal(b->ops->submit(b, &w[i].request), 0);
		}
		if (round)
			b->ops->destroy(b);
		else
			b->ops->drain(b);
		for (unsigned i = 0; i < MANY; i++) {
			assert_int_equal(w[i].done, 1);
			assert_int_equal(w[i].rc, 0);
			done++;
		}
	}
	assert_int_equal(done, 2 * MANY);
	free(iov.iov_base);
}

enum { BURST = 16, BURST_LEN = 4 << 20 };

struct burst {
	struct disk_backend *disk;
	struct iovec iov;
	struct waiter w[BURST];
};

static void *burst_submit(void *arg)
{
	struct burst *b = arg;

	memset(b->w, 0, sizeof(b->w));
	for (unsigned i = 0; i < BURST; i++) {
		b->w[i].request = (struct disk_request){.op = DISK_WRITE,
							.offset = i * (uint64_t)BURST_LEN,
							.length = BURST_LEN,
							.iov = &b->iov,
							.iov_count = 1,
							.done = waiter_done};
		if (b->disk->ops->submit(b->disk, &b->w[i].request))
			b->w[i].rc = -1;
	}
	return NULL;
}

static void burst_check(const struct burst *b)
{
	for (unsigned i = 0; i < BURST; i++) {
		assert_int_equal(b->w[i].done, 1);
		assert_int_equal(b->w[i].rc, 0);
	}
}

struct two_bursts {
	struct burst first, last;
};

/* The thread that stays: what it has begun holds up what the other one has. */
static void *bursts_submit(void *arg)
{
	struct two_bursts *two = arg;
	pthread_t ends;

	burst_submit(&two->first);
	assert_int_equal(thread_start(&ends, "ends", burst_submit, &two->last), 0);
	pthread_join(ends, NULL);
	two->first.disk->ops->drain(two->first.disk);
	return NULL;
}

/* The kernel gives up what waits there, begun by a thread that ends, as that of a mirror's
 * first copy does. Writes to one file wait for each other (tmpfs, on kernels that have it so),
 * but for those of threads that used another ring before: so both threads are new. */
static void a_thread_that_ends_takes_no_request_along(void **state)
{
	struct iovec iov = {aligned_alloc(4096, BURST_LEN), BURST_LEN};
	int fd = memfd_create("disk", MFD_CLOEXEC);
	static struct two_bursts two;
	struct disk_backend *disk;
	pthread_t stays;

	assert_int_equal(ftruncate(fd, BURST * BURST_LEN), 0);
	snprintf(config.path, sizeof(config.path), "/proc/self/fd/%d", fd);
	disk = must_open();
	memset(iov.iov_base, 'b', BURST_LEN);
	two.first = two.last = (struct burst){.disk = disk, .iov = iov};
	assert_int_equal(thread_start(&stays, "stays", bursts_submit, &two), 0);
	pthread_join(stays, NULL);
	burst_check(&two.first);
	burst_check(&two.last);
	disk->ops->destroy(disk);
	close(fd);
	free(iov.iov_base);
}

/* A file system without holes, in a mount namespace of our own. */
static void zeros_are_written_where_holes_cannot_be(void **state)
{
	enum { SIZE = 1 << 20 };
	static uint8_t data[SIZE];
	struct disk_backend *b;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", folder, "ramfs", 0, NULL)) {
		print_message("no mount of our own: %s\n", strerror(errno));
		skip();
	}
	file_make(SIZE);
	b = must_open();
	memset(data, 'z', SIZE);
	assert_int_equal(run(b, DISK_WRITE, 0, data, SIZE), 0);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(run(b, DISK_DISCARD, 512 + round * 1024, NULL, 512), 0);
		assert_int_equal(run(b, DISK_WRITE_ZEROES, 65536, NULL, SIZE - 65536 - 512), 0);
	}
	assert_int_equal(run(b, DISK_READ, 0, data, SIZE), 0);
	for (unsigned i = 0; i < SIZE; i++) {
		bool hole = (i >= 512 && i < 1024) || (i >= 1536 && i < 2048) ||
			    (i >= 65536 && i < SIZE - 512);
		if (data[i] != (hole ? 0 : 'z'))
			fail_msg("byte %u is %02x", i, data[i]);
	}
	b->ops->destroy(b);
	unlink(image);
	assert_int_equal(umount(folder), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_cannot_be_opened_says_why),
		T(an_image_is_made_once),
		T(the_limits_are_kept),
		T(a_file_that_shrank_is_an_error),
		T(drain_and_destroy_wait),
		T(a_thread_that_ends_takes_no_request_along),
		T(zeros_are_written_where_holes_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

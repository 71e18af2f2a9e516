// SPDX-License-Identifier: Apache-2.0
/* Copies of a snapshot's disks, there and back. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm-process/process.h"

#define DISKS 2u
#define SIZE  (UINT64_C(3) << 20)

struct fixture {
	struct process *p;
	struct disk_backend files[DISKS];
	char path[32];
	int folder;
};

static const char *const copies[DISKS] = {"disk-0.img", "disk-1.img"};

static void disk_fill(const struct fixture *f, unsigned i, int octet)
{
	uint8_t *bytes = malloc(SIZE);

	assert_non_null(bytes);
	memset(bytes, octet, SIZE);
	assert_int_equal(pwrite(f->files[i].fd, bytes, SIZE, 0), SIZE);
	free(bytes);
}

static bool disk_holds(const struct fixture *f, unsigned i, int octet)
{
	uint8_t *bytes = malloc(SIZE);
	bool ok;

	assert_non_null(bytes);
	assert_int_equal(pread(f->files[i].fd, bytes, SIZE, 0), SIZE);
	ok = bytes[0] == octet && !memcmp(bytes, bytes + 1, SIZE - 1);
	free(bytes);
	return ok;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->p = calloc(1, sizeof(*f->p));
	assert_non_null(f->p);
	strcpy(f->path, "/tmp/disks-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->folder = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->p->config.disk_count = DISKS;
	for (unsigned i = 0; i < DISKS; i++) {
		f->files[i].fd = memfd_create("disk", MFD_CLOEXEC);
		f->files[i].size = SIZE;
		f->p->disks[i].file = &f->files[i];
		disk_fill(f, i, 1);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < DISKS; i++) {
		close(f->files[i].fd);
		unlinkat(f->folder, copies[i], 0);
	}
	close(f->folder);
	rmdir(f->path);
	free(f->p);
	free(f);
	return 0;
}

/* Both are copied, and written to after that. */
static void snapshot(struct fixture *f)
{
	atomic_bool cancel = false;
	struct error e = {0};

	if (image_disks_copy(f->p, f->folder, &cancel, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < DISKS; i++)
		disk_fill(f, i, 2);
}

static void copy_resize(struct fixture *f, unsigned i, uint64_t size)
{
	int fd = openat(f->folder, copies[i], O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void test_there_and_back(void **state)
{
	struct fixture *f = *state;
	atomic_bool cancel = false;
	struct error e = {0};

	snapshot(f);
	if (image_disks_put_back(f->p, f->folder, &cancel, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < DISKS; i++)
		assert_true(disk_holds(f, i, 1));
}

/* Then no disk is written, of however many. */
static void test_a_copy_of_another_size(void **state)
{
	static const uint64_t sizes[] = {0, 4096, SIZE - 1, SIZE + 1, 2 * SIZE};
	struct fixture *f = *state;
	atomic_bool cancel = false;
	struct error e = {0};

	snapshot(f);
	for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
		copy_resize(f, 1, sizes[k]);
		assert_int_equal(image_disks_put_back(f->p, f->folder, &cancel, &e), -EBADMSG);
		assert_non_null(strstr(e.text, "disk 1"));
		for (unsigned i = 0; i < DISKS; i++)
			assert_true(disk_holds(f, i, 2));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_copy_of_another_size, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

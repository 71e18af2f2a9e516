// SPDX-License-Identifier: Apache-2.0
/* A fake guest (engine sim) without devices, to be saved and restored; files in memory. */
#ifndef POLLUX_TESTS_MIGRATE_MACHINE_H
#define POLLUX_TESTS_MIGRATE_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migrate/image_reader.h"

#define MACHINE_CONFIG "name = \"saved\"; memory = \"1M\"; engine = \"sim\";\n"

struct machine {
	struct loop *io;
	struct vm *vm;
};

static inline void machine_event(void *ctx, enum vm_event event, const char *detail)
{
}

static inline void machine_make(struct machine *m, uint64_t memory, bool started)
{
	struct vm_config c = {
		.name = "saved", .memory = memory, .vcpus = 1, .engine = "sim", .seed = 77};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = machine_event};
	struct error e = {0};

	assert_int_equal(loop_create(&m->io), 0);
	parts.io = m->io;
	if (vm_create(&c, &parts, &m->vm, &e))
		fail_msg("%s", e.text);
	if (started && (vm_boot(m->vm, &e) || vm_start(m->vm, &e)))
		fail_msg("%s", e.text);
}

static inline void machine_end(struct machine *m)
{
	vm_destroy(m->vm);
	loop_destroy(m->io);
}

static inline int file_make(void)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static inline int file_of(const void *data, size_t n)
{
	int fd = file_make();

	assert_int_equal(fd_write_all(fd, data, n), 0);
	return fd;
}

static inline void file_take(int fd, struct buf *out)
{
	size_t n = (size_t)lseek(fd, 0, SEEK_END);

	assert_non_null(buf_extend(out, n));
	assert_int_equal(pread(fd, out->data, n, 0), n);
}

static inline const struct image_info *machine_info(void)
{
	static char config[] = MACHINE_CONFIG, origin[] = "/etc/saved.cfg";
	static const struct image_info info = {
		.name = "saved",
		.identity = "0123456789abcdef0123456789abcdef",
		.config = config,
		.origin = origin,
		.term = 9,
		.disks = {{.path = "/srv/saved.img", .size = 1 << 20},
			  {.path = "/srv/other.img", .size = 512, .readonly = true}},
		.disk_count = 2,
	};

	return &info;
}

/* Into a new file; the vm runs on. */
static inline int machine_save(struct machine *m, const struct image_key *key,
			       enum page_compression compression)
{
	struct image_progress progress = {0};
	const struct image_save_options o = {.info = machine_info(),
					     .key = key,
					     .compression = compression,
					     .progress = &progress};
	struct error e = {0};
	int fd = file_make();

	if (image_save(m->vm, fd, &o, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_resume(m->vm), 0);
	return fd;
}

/* Read all of it; the first error. */
static inline int file_verify(int fd, const struct image_key *key, struct error *e)
{
	struct image_progress progress = {0};
	struct image *image;
	int rc = image_open(fd, key, &image, e);

	if (rc)
		return rc;
	rc = image_verify(image, &progress, e);
	image_close(image);
	return rc;
}

#endif

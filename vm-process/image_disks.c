// SPDX-License-Identifier: Apache-2.0
/* Copies of a snapshot's disks: by reference where the file system can, else octet by octet. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "image"
#define PART       (1u << 20)
#define ALIGN      4096u /* disks may be open with O_DIRECT */

static int part_write(int fd, const uint8_t *data, size_t n, off_t at)
{
	while (n) {
		ssize_t put = pwrite(fd, data, n, at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		data += put;
		at += put;
		n -= (size_t)put;
	}
	return 0;
}

/* One part, which may end with the file. */
static int part_copy(int from, int to, off_t at, off_t end, uint8_t *buffer)
{
	size_t want = end - at < (off_t)PART ? (size_t)(end - at) : PART;
	size_t room = (want + ALIGN - 1) / ALIGN * ALIGN;
	ssize_t got = pread(from, buffer, room, at);

	if (got < 0)
		return -errno;
	if ((size_t)got < want)
		return -EIO;
	return part_write(to, buffer, want, at);
}

static int data_copy(int from, int to, off_t at, off_t end, uint8_t *buffer,
		     const atomic_bool *cancel)
{
	int rc = 0;

	at -= at % ALIGN;
	for (; !rc && at < end; at += PART)
		rc = atomic_load(cancel) ? -ECANCELED : part_copy(from, to, at, end, buffer);
	return rc;
}

/* Where `from` has no data `to` becomes zero. */
static int hole_make(int to, off_t at, off_t end)
{
	if (at >= end || !fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, end - at))
		return 0;
	return fallocate(to, FALLOC_FL_ZERO_RANGE, at, end - at) ? -errno : 0;
}

static int octets_copy(int from, int to, off_t size, const atomic_bool *cancel)
{
	uint8_t *buffer = aligned_alloc(ALIGN, PART);
	off_t at = 0;
	int rc = buffer ? 0 : -ENOMEM;

	while (!rc && at < size) {
		off_t data = lseek(from, at, SEEK_DATA), hole;

		if (data < 0)
			data = errno == ENXIO ? size : at;
		hole = data < size ? lseek(from, data, SEEK_HOLE) : size;
		if (hole < 0 || hole > size)
			hole = size;
		rc = hole_make(to, at, data);
		if (!rc)
			rc = data_copy(from, to, data, hole, buffer, cancel);
		at = hole;
	}
	free(buffer);
	return rc;
}

static int disk_copy(int from, int to, uint64_t size, const atomic_bool *cancel)
{
	int rc = fault_point("image.disk");

	if (!rc && ioctl(to, FICLONE, from))
		rc = octets_copy(from, to, (off_t)size, cancel);
	if (!rc && fsync(to))
		rc = -errno;
	return rc;
}

static bool is_copied(const struct process *p, unsigned i)
{
	return !p->disks[i].file->readonly && p->disks[i].file->fd >= 0;
}

typedef int disk_fn(const struct disk_backend *d, int copy, const atomic_bool *cancel);

/* `fn` for each disk and its copy in the folder. */
static int disks_each(struct process *p, int folder, int flags, disk_fn *fn, const char *what,
		      const atomic_bool *cancel, struct error *e)
{
	char name[32];
	int rc = 0;

	for (unsigned i = 0; !rc && i < p->config.disk_count; i++) {
		int fd;

		if (!is_copied(p, i))
			continue;
		snprintf(name, sizeof(name), "disk-%u.img", i);
		fd = openat(folder, name, flags | O_CLOEXEC, 0600);
		rc = fd < 0 ? -errno : fn(p->disks[i].file, fd, cancel);
		if (fd >= 0)
			close(fd);
		if (rc)
			error_set(e, rc, "cannot %s disk %u: %s", what, i,
				  rc == -EBADMSG ? "the copy has another size" : strerror(-rc));
	}
	return rc;
}

static int disk_keep(const struct disk_backend *d, int copy, const atomic_bool *cancel)
{
	return ftruncate(copy, (off_t)d->size) ? -errno : disk_copy(d->fd, copy, d->size, cancel);
}

/* A copy that was cut short or made longer is not what was kept. */
static int disk_check(const struct disk_backend *d, int copy, const atomic_bool *cancel)
{
	struct stat st;

	if (fstat(copy, &st))
		return -errno;
	return S_ISREG(st.st_mode) && (uint64_t)st.st_size == d->size ? 0 : -EBADMSG;
}

static int disk_put_back(const struct disk_backend *d, int copy, const atomic_bool *cancel)
{
	return disk_copy(copy, d->fd, d->size, cancel);
}

int image_disks_copy(struct process *p, int folder, const atomic_bool *cancel, struct error *e)
{
	return disks_each(p, folder, O_RDWR | O_CREAT | O_EXCL, disk_keep, "copy", cancel, e);
}

int image_disks_put_back(struct process *p, int folder, const atomic_bool *cancel, struct error *e)
{
	int rc = disks_each(p, folder, O_RDONLY, disk_check, "put back", cancel, e);

	if (rc)
		return rc;
	return disks_each(p, folder, O_RDONLY, disk_put_back, "put back", cancel, e);
}

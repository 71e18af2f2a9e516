// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_CHUNK ((size_t)64 * 1024)

/* Go on after an interruption, and wait where a non-blocking descriptor would not. */
static int transfer_retry(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	if (errno == EINTR)
		return 0;
	if (errno != EAGAIN)
		return -errno;
	return poll(&p, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

int fd_read_all(int fd, void *data, size_t n)
{
	uint8_t *at = data;

	while (n) {
		ssize_t got = read(fd, at, n);
		int rc;

		if (!got)
			return -EPIPE;
		if (got < 0) {
			rc = transfer_retry(fd, POLLIN);
			if (rc)
				return rc;
			continue;
		}
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

int fd_write_all(int fd, const void *data, size_t n)
{
	const uint8_t *at = data;

	while (n) {
		ssize_t put = write(fd, at, n);
		int rc;

		if (put < 0) {
			rc = transfer_retry(fd, POLLOUT);
			if (rc)
				return rc;
			continue;
		}
		at += put;
		n -= (size_t)put;
	}
	return 0;
}

/* Sizes are not asked for: files in /proc and /sys say 0. */
static int read_to_end(int fd, size_t most, struct buf *out)
{
	size_t total = 0;

	for (;;) {
		size_t room = most - total < READ_CHUNK ? most - total + 1 : READ_CHUNK;
		uint8_t *at = buf_extend(out, room);
		ssize_t got;

		if (!at)
			return -ENOMEM;
		got = read(fd, at, room);
		out->len -= room - (got > 0 ? (size_t)got : 0);
		if (!got)
			return 0;
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0)
			total += (size_t)got;
		if (total > most)
			return -EFBIG;
	}
}

int file_read(const char *path, size_t most, struct buf *out, struct error *e)
{
	size_t before = out->len;
	int fd, rc;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(e, -errno, "cannot open %s: %s", path, strerror(errno));
	rc = read_to_end(fd, most, out);
	close(fd);
	if (!rc)
		return 0;
	out->len = before;
	if (rc == -EFBIG)
		return error_set(e, rc, "%s is larger than the %zu bytes allowed", path, most);
	return error_set(e, rc, "cannot read %s: %s", path, strerror(-rc));
}

static int folder_sync(const char *path)
{
	char copy[PATH_MAX];
	int fd, rc;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

static int file_fill(int fd, const void *data, size_t n, unsigned mode)
{
	int rc;

	if (fchmod(fd, mode))
		return -errno;
	rc = fd_write_all(fd, data, n);
	if (!rc)
		rc = fault_point("file.replace.fsync");
	if (!rc && fsync(fd))
		rc = -errno;
	return rc;
}

int file_replace(const char *path, const void *data, size_t n, unsigned mode, struct error *e)
{
	char temporary[PATH_MAX];
	int fd, rc;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path) >= sizeof(temporary))
		return error_set(e, -ENAMETOOLONG, "the path %.64s... is too long", path);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return error_set(e, -errno, "cannot create %s: %s", temporary, strerror(errno));
	rc = file_fill(fd, data, n, mode);
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc)
		rc = fault_point("file.replace.rename");
	if (!rc && rename(temporary, path))
		rc = -errno;
	if (rc) {
		unlink(temporary);
		return error_set(e, rc, "cannot write %s: %s", path, strerror(-rc));
	}
	rc = folder_sync(path);
	if (rc)
		return error_set(e, rc, "cannot make %s durable: %s", path, strerror(-rc));
	return 0;
}

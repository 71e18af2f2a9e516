// SPDX-License-Identifier: Apache-2.0
/* What a disk is on this host, and the mark by which another host knows it again. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/preflight.h"

#define MARK_NAME "user.pollux.same"

int preflight_mark_write(const char *path, const char *mark)
{
	return setxattr(path, MARK_NAME, mark, strlen(mark), 0) ? -errno : 0;
}

int preflight_mark_read(const char *path, char out[PREFLIGHT_MARK_LEN + 1])
{
	ssize_t n = getxattr(path, MARK_NAME, out, PREFLIGHT_MARK_LEN);

	out[n < 0 ? 0 : n] = 0;
	return n < 0 ? -errno : 0;
}

/* The name that the device itself has, the same on each host that sees it. */
static void wwid_put(const struct stat *st, json_t *out)
{
	static const char *const files[] = {"wwid", "device/wwid", "serial", "dm/uuid"};
	char path[96], text[128];

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		FILE *f;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(st->st_rdev),
			 minor(st->st_rdev), files[i]);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(text, sizeof(text), f))
			text[strcspn(text, "\n")] = 0;
		else
			text[0] = 0;
		fclose(f);
		if (text[0]) {
			json_object_set_new(out, "wwid", json_text(text));
			return;
		}
	}
}

static void block_put(const char *path, const struct stat *st, json_t *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint64_t size = 0;

	if (fd >= 0 && ioctl(fd, BLKGETSIZE64, &size))
		size = 0;
	if (fd >= 0)
		close(fd);
	json_object_set_new(out, "size", json_integer((json_int_t)size));
	json_object_set_new(out, "allocated", json_integer((json_int_t)size));
	wwid_put(st, out);
}

static void file_put(const struct stat *st, json_t *out)
{
	json_object_set_new(out, "size", json_integer((json_int_t)st->st_size));
	json_object_set_new(out, "allocated", json_integer((json_int_t)st->st_blocks * 512));
}

json_t *preflight_disk(const char *path)
{
	json_t *out = json_object();
	const char *kind = "other";
	struct stat st;

	if (stat(path, &st)) {
		kind = errno == ENOENT ? "none" : "other";
	} else if (S_ISREG(st.st_mode)) {
		kind = "file";
		file_put(&st, out);
	} else if (S_ISBLK(st.st_mode)) {
		kind = "block";
		block_put(path, &st, out);
	}
	json_object_set_new(out, "kind", json_string(kind));
	return out;
}

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

int preflight_mark_read(const char *path, char out[MARK_LEN + 1])
{
	ssize_t n = getxattr(path, MARK_NAME, out, MARK_LEN);

	out[n < 0 ? 0 : n] = 0;
	return n < 0 ? -errno : 0;
}

/* A line, "" if there is none. */
static void line_read(const char *path, char *out, int room)
{
	FILE *f = fopen(path, "re");

	if (!f || !fgets(out, room, f))
		out[0] = 0;
	out[strcspn(out, "\n")] = 0;
	if (f)
		fclose(f);
}

/* What is assigned by IEEE's registry, or is random. Not so "naa.3" (SPC-4: locally assigned),
 * "t10." and "nvme." (a vendor, a model, a serial number), nor "LVM-" and "CRYPT-", which are
 * copied when a disk is. Multipath writes 3 for "naa." and 2 for "eui.". */
static bool name_is_unique(const char *name)
{
	static const char *const beginnings[] = {"naa.2",   "naa.5",      "naa.6",      "eui.",
						 "uuid.",   "mpath-32",   "mpath-35",   "mpath-36",
						 "mpath-2", "mpath-eui.", "mpath-uuid."};

	for (size_t i = 0; i < ARRAY_LEN(beginnings); i++)
		if (!strncmp(name, beginnings[i], strlen(beginnings[i])))
			return true;
	return false;
}

/* The name that the device itself has, the same on each host that sees it. */
void preflight_name_put(const char *device, json_t *out)
{
	static const char *const files[] = {"wwid", "device/wwid", "serial", "dm/uuid"};
	char path[160], text[128];

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", device, files[i]);
		line_read(path, text, sizeof(text));
		if (!text[0])
			continue;
		json_object_set_new(out, "wwid", json_text(text));
		json_object_set_new(
			out, "unique",
			json_boolean(strcmp(files[i], "serial") != 0 && name_is_unique(text)));
		return;
	}
}

static void block_put(const char *path, const struct stat *st, json_t *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char device[64];
	uint64_t size = 0;

	if (fd >= 0 && ioctl(fd, BLKGETSIZE64, &size))
		size = 0;
	if (fd >= 0)
		close(fd);
	json_object_set_new(out, "size", json_integer((json_int_t)size));
	json_object_set_new(out, "allocated", json_integer((json_int_t)size));
	snprintf(device, sizeof(device), "/sys/dev/block/%u:%u", major(st->st_rdev),
		 minor(st->st_rdev));
	preflight_name_put(device, out);
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

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
#define NAME_ROOM 128

int preflight_mark_write(const char *path, const char *mark)
{
	return setxattr(path, MARK_NAME, mark, strlen(mark), 0) ? -errno : 0;
}

/* To open the file is what makes NFS ask its server again: an older mark may be in its cache. */
int preflight_mark_read(const char *path, char out[MARK_LEN + 1])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
	ssize_t n = fd < 0 ? -1 : fgetxattr(fd, MARK_NAME, out, MARK_LEN);

	rc = n < 0 ? -errno : 0;
	out[n < 0 ? 0 : n] = 0;
	if (fd >= 0)
		close(fd);
	return rc;
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

/* Of what kind a name is; a serial number is of none. */
static const char *name_kind(const char *name)
{
	static const char *const kinds[] = {"naa.",  "eui.", "uuid.",  "t10.",
					    "nvme.", "LVM-", "CRYPT-", "mpath-"};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (!strncmp(name, kinds[i], strlen(kinds[i])))
			return kinds[i];
	return "";
}

/* As the device says it of itself, where multipath says it too. Not so "mpath-1": that has other
 * spaces than "t10." has. */
static void name_plain(const char *name, char *out, size_t room)
{
	static const char *const kinds[][2] = {{"mpath-3", "naa."},
					       {"mpath-2", "eui."},
					       {"mpath-eui.", "eui."},
					       {"mpath-uuid.", "uuid."},
					       {"mpath-nvme.", "nvme."}};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		size_t n = strlen(kinds[i][0]);

		if (!strncmp(name, kinds[i][0], n)) {
			snprintf(out, room, "%s%s", kinds[i][1], name + n);
			return;
		}
	}
	snprintf(out, room, "%s", name);
}

enum names_relation preflight_names_relate(const char *ours, const char *theirs)
{
	char a[NAME_ROOM], b[NAME_ROOM];

	name_plain(ours, a, sizeof(a));
	name_plain(theirs, b, sizeof(b));
	if (!strcmp(a, b))
		return NAMES_SAME;
	return strcmp(name_kind(a), name_kind(b)) ? NAMES_UNLIKE : NAMES_DIFFER;
}

/* The name that the device itself has, the same on each host that sees it. */
void preflight_name_put(const char *device, json_t *out)
{
	static const char *const files[] = {"wwid", "device/wwid", "serial", "dm/uuid"};
	char path[160], text[NAME_ROOM];

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

// SPDX-License-Identifier: Apache-2.0
/*
 * Snapshots: an image and copies of the writable disks of the same moment, in a folder of
 * state_dir/snapshots/VM. It is made as NAME.partial and gets its name when all of it is there
 * and synced, so that a folder without that ending is whole.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/guest.h"
#include "migrate/migrate.h"

#define LOG_MODULE "snapshot"
#define PARTIAL    ".partial"

static void folder_of(const struct guest *g, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/snapshots/%s", g->agent->config.state_dir, g->name);
}

static bool is_partial(const char *name)
{
	size_t n = strlen(name), end = strlen(PARTIAL);

	return n > end && !strcmp(name + n - end, PARTIAL);
}

static int name_check(const struct guest *g, const char *name, struct error *e, const char **hint)
{
	if (guest_name_ok(name) && !is_partial(name))
		return 0;
	return guest_refuse(e, hint, -EINVAL, "letters, digits, '-', '_' and '.', at most 63",
			    "'%.80s' cannot be the name of a snapshot of %s", name, g->name);
}

static int folder_make(const char *path)
{
	return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

static int folder_sync(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

/* It holds files only. */
void snapshot_remove(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	if (rmdir(folder))
		log_warn_rc(errno, "%s cannot be removed", folder);
}

int snapshot_name(const char *partial)
{
	char final[PATH_MAX], *slash;
	int rc = folder_sync(partial);

	if (!rc)
		rc = fault_point("snapshot.rename");
	if (rc)
		return rc;
	snprintf(final, sizeof(final), "%.*s", (int)(strlen(partial) - strlen(PARTIAL)), partial);
	if (rename(partial, final))
		return -errno;
	slash = strrchr(final, '/');
	*slash = '\0';
	return folder_sync(final);
}

static int folder_prepare(struct guest *g, const char *name, char out[PATH_MAX], struct error *e)
{
	char path[PATH_MAX];
	int rc;

	snprintf(path, sizeof(path), "%s/snapshots", g->agent->config.state_dir);
	rc = folder_make(path);
	folder_of(g, path);
	if (!rc)
		rc = folder_make(path);
	if (snprintf(out, PATH_MAX, "%s/%s" PARTIAL, path, name) >= PATH_MAX)
		rc = -ENAMETOOLONG;
	if (!rc) {
		snapshot_remove(out); /* what a crash has left */
		rc = folder_make(out);
	}
	return rc ? error_set(e, rc, "cannot make %s: %s", out, strerror(-rc)) : 0;
}

int guest_snapshot(struct guest *g, const char *name, struct error *e, const char **hint)
{
	struct save_options o = {.keep = true, .snapshot = true};
	char folder[PATH_MAX], file[PATH_MAX];
	int rc = name_check(g, name, e, hint);

	if (!rc)
		rc = guest_busy(g, e, hint);
	if (rc)
		return rc;
	folder_of(g, folder);
	if (snprintf(file, sizeof(file), "%s/%s", folder, name) >= (int)sizeof(file))
		return error_set(e, -ENAMETOOLONG, "the path is too long");
	if (!access(file, F_OK))
		return guest_refuse(e, hint, -EEXIST, "choose another name, or delete it",
				    "%s has a snapshot '%s' already", g->name, name);
	rc = folder_prepare(g, name, folder, e);
	if (rc)
		return rc;
	if (snprintf(file, sizeof(file), "%s/image", folder) >= (int)sizeof(file))
		rc = error_set(e, -ENAMETOOLONG, "the path is too long");
	o.file = file;
	if (!rc)
		rc = guest_save(g, &o, e, hint);
	if (rc)
		snapshot_remove(folder);
	return rc;
}

static int path_of(struct guest *g, const char *name, char out[PATH_MAX], struct error *e,
		   const char **hint)
{
	char folder[PATH_MAX];
	int rc = name_check(g, name, e, hint);

	if (rc)
		return rc;
	folder_of(g, folder);
	if (snprintf(out, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX || access(out, F_OK))
		return guest_refuse(e, hint, -ENOENT, "`pollux snapshots` lists them",
				    "%s has no snapshot '%s'", g->name, name);
	return 0;
}

int guest_rollback(struct guest *g, const char *name, struct error *e, const char **hint)
{
	char folder[PATH_MAX], file[PATH_MAX];
	const struct restore_options o = {.file = file, .snapshot = true};
	struct guest *same;
	int rc = path_of(g, name, folder, e, hint);

	if (rc)
		return rc;
	if (g->own.state == OWN_PRIMARY || g->own.state == OWN_ASKING || g->again.wanted)
		return guest_refuse(e, hint, -EPERM, "`pollux unprotect` it first",
				    "%s is protected: its twin would not follow", g->name);
	if (snprintf(file, sizeof(file), "%s/image", folder) >= (int)sizeof(file))
		return error_set(e, -ENAMETOOLONG, "the path is too long");
	return guest_restore(g->agent, &o, &same, e, hint);
}

/* Away with the name first: what is left of it is never taken for a snapshot. */
int guest_snapshot_delete(struct guest *g, const char *name, struct error *e, const char **hint)
{
	char folder[PATH_MAX], gone[PATH_MAX + 16];
	int rc = path_of(g, name, folder, e, hint);

	if (!rc)
		rc = guest_busy(g, e, hint);
	if (rc)
		return rc;
	if (g->torn && !strcmp(g->torn, name))
		return guest_refuse(e, hint, -EPERM, "`pollux rollback` once more, first",
				    "the disks of %s are half those of '%s'", g->name, name);
	snprintf(gone, sizeof(gone), "%s" PARTIAL, folder);
	snapshot_remove(gone);
	if (rename(folder, gone))
		return error_set(e, -errno, "cannot delete %s: %s", folder, strerror(errno));
	snapshot_remove(gone);
	return 0;
}

/* ---- the list ---------------------------------------------------------------------------- */

static uint64_t bytes_of(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	uint64_t sum = 0;
	struct stat st;

	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		if (!fstatat(dirfd(dir), entry->d_name, &st, 0) && S_ISREG(st.st_mode))
			sum += (uint64_t)st.st_blocks * 512;
	closedir(dir);
	return sum;
}

static json_t *snapshot_json(const char *folder, const char *name)
{
	char file[PATH_MAX];
	struct image *image;
	struct error e = {0};
	json_t *o = json_pack("{s:s, s:I}", "name", name, "bytes", (json_int_t)bytes_of(folder));
	int fd = -1, rc = -ENAMETOOLONG;

	if (snprintf(file, sizeof(file), "%s/image", folder) < (int)sizeof(file))
		fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		rc = image_open(fd, NULL, &image, &e);
	if (o && rc)
		json_object_set_new(o, "why", json_text(fd < 0 ? "its image is gone" : e.text));
	if (!rc) {
		const struct image_info *i = image_about(image);

		json_object_set_new(o, "saved_ns", json_integer((json_int_t)i->saved_ns));
		json_object_set_new(o, "memory",
				    json_integer((json_int_t)(i->ram_pages * VM_PAGE_SIZE)));
		json_object_set_new(o, "disks", json_integer(i->disk_count));
		image_close(image);
	}
	if (fd >= 0)
		close(fd);
	return o;
}

json_t *guest_snapshots_json(const struct guest *g)
{
	char folder[PATH_MAX], path[PATH_MAX];
	json_t *list = json_array();
	struct dirent *entry;
	DIR *dir;

	folder_of(g, folder);
	dir = opendir(folder);
	while (dir && (entry = readdir(dir)))
		if (guest_name_ok(entry->d_name) && !is_partial(entry->d_name) &&
		    snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) <
			    (int)sizeof(path))
			json_array_append_new(list, snapshot_json(path, entry->d_name));
	if (dir)
		closedir(dir);
	return json_pack("{s:s, s:o}", "name", g->name, "snapshots", list);
}

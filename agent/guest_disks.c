// SPDX-License-Identifier: Apache-2.0
/* The disks of a VM as files on this host. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/preflight.h"

#define LOG_MODULE "disks"

static int disk_size(const char *path, uint64_t *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st))
		rc = -errno;
	else if (S_ISBLK(st.st_mode))
		rc = ioctl(fd, BLKGETSIZE64, out) ? -errno : 0;
	else if (S_ISREG(st.st_mode))
		*out = (uint64_t)st.st_size;
	else
		rc = -ENOTBLK;
	close(fd);
	return rc;
}

/* "" where it has none that only this one device has. */
static void unique_name(const char *path, char *out, size_t room)
{
	json_t *d = preflight_disk(path);
	bool unique = json_is_true(json_object_get(d, "unique"));

	snprintf(out, room, "%s", unique ? json_text_of(d, "wwid") : "");
	json_decref(d);
}

static bool is_the_primarys(const struct offered_disk *d)
{
	char ours[sizeof(d->wwid)];

	unique_name(d->path, ours, sizeof(ours));
	return *ours && *d->wwid && preflight_names_relate(ours, d->wwid) == NAMES_SAME;
}

int guest_disks_describe(const struct guest *g, struct offer *out, struct error *e)
{
	struct vm_config *c = NULL;
	int rc = guest_config_parse(g->config, g->origin, &c, e);

	if (rc)
		return rc;
	out->disk_count = c->disk_count;
	for (unsigned i = 0; !rc && i < c->disk_count; i++) {
		struct offered_disk *d = &out->disks[i];

		snprintf(d->path, sizeof(d->path), "%s", c->disks[i].path);
		d->readonly = c->disks[i].readonly;
		unique_name(d->path, d->wwid, sizeof(d->wwid));
		rc = disk_size(d->path, &d->size);
		if (rc)
			error_set(e, rc, "the disk %s: %s", d->path, strerror(-rc));
	}
	free(c);
	return rc;
}

static int disk_make(const struct offered_disk *d, struct error *e)
{
	int fd = open(d->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc;

	if (fd < 0)
		return error_set(e, -errno, "cannot make the disk %s: %s", d->path,
				 strerror(errno));
	rc = ftruncate(fd, (off_t)d->size) ? -errno : 0;
	close(fd);
	if (rc) {
		unlink(d->path);
		return error_set(e, rc, "cannot make the disk %s of %llu bytes: %s", d->path,
				 (unsigned long long)d->size, strerror(-rc));
	}
	log_info("made the disk %s, %llu bytes", d->path, (unsigned long long)d->size);
	return 0;
}

static int disk_prepare(const struct guest *g, const struct offer *o, unsigned i, struct error *e)
{
	const struct protect_options *p = &o->session.options;
	const struct offered_disk *d = &o->disks[i];
	bool shared = session_disks_shared(p) >> i & 1;
	bool foreign = !p->overwrite && !(g->copies >> i & 1);
	uint64_t size = 0;
	int rc = disk_size(d->path, &size);

	if (rc == -ENOENT && !d->readonly && !shared)
		return disk_make(d, e);
	if (rc)
		return error_set(e, rc, "the disk %s on this host: %s", d->path, strerror(-rc));
	if (size != d->size)
		return error_set(e, -EINVAL,
				 "the disk %s has %llu bytes on this host and %llu on the primary",
				 d->path, (unsigned long long)size, (unsigned long long)d->size);
	/* A file is saved by its lock, which a device that two hosts see does not have. */
	if (!d->readonly && !shared && is_the_primarys(d))
		return error_set(e, -EEXIST,
				 "the disk %s is the same one on both hosts (%s): a copy would be "
				 "written over the guest's own data",
				 d->path, d->wwid);
	if (!d->readonly && !shared && foreign)
		return error_set(e, -EEXIST,
				 "the disk %s is there already, and is no earlier copy of this VM: "
				 "protect with --overwrite if what is on it may go",
				 d->path);
	return 0;
}

static int disks_agree(const struct vm_config *c, const struct offer *o, struct error *e)
{
	bool agree = c->disk_count == o->disk_count;

	for (unsigned i = 0; agree && i < c->disk_count; i++)
		agree = !strcmp(c->disks[i].path, o->disks[i].path) &&
			c->disks[i].readonly == o->disks[i].readonly;
	return agree ? 0 : error_set(e, -EBADMSG, "the offered disks are not those of the VM file");
}

int guest_disks_prepare(const struct guest *g, const struct offer *o, struct error *e)
{
	struct vm_config *c = NULL;
	int rc = guest_config_parse(o->config, o->origin, &c, e);

	if (rc)
		return rc;
	if (strcmp(c->name, g->name) != 0)
		rc = error_set(e, -EBADMSG, "the VM file that was offered is that of '%s'",
			       c->name);
	if (!rc)
		rc = disks_agree(c, o, e);
	for (unsigned i = 0; !rc && i < o->disk_count; i++)
		rc = disk_prepare(g, o, i, e);
	free(c);
	return rc;
}

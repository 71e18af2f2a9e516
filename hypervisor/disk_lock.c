// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/disk_lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_MODULE "disk"
#define DEAD_NS    (3 * NS_PER_SEC)
#define LOOK_NS    (10 * NS_PER_MS)

/* ---- who holds it: fcntl() does not tell of open files, /proc/PID/fdinfo does ------------ */

static bool descriptor_locks(long pid, const char *fd)
{
	char path[64], line[256];
	bool locks = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%.16s", pid, fd);
	f = fopen(path, "re");
	while (f && !locks && fgets(line, sizeof(line), f))
		locks = !strncmp(line, "lock:", 5);
	if (f)
		fclose(f);
	return locks;
}

static bool process_locks(long pid, const struct stat *image)
{
	char path[64];
	bool locks = false;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
	fds = opendir(path);
	for (struct dirent *d; fds && !locks && (d = readdir(fds));) {
		struct stat st;

		locks = isdigit((unsigned char)d->d_name[0]) &&
			!fstatat(dirfd(fds), d->d_name, &st, 0) && st.st_dev == image->st_dev &&
			st.st_ino == image->st_ino && descriptor_locks(pid, d->d_name);
	}
	if (fds)
		closedir(fds);
	return locks;
}

/* 0: nobody whom this process may look at. */
static long holder_find(int fd)
{
	DIR *processes = opendir("/proc");
	struct stat image;
	long found = 0;

	for (struct dirent *d; processes && !found && (d = readdir(processes));) {
		long pid = strtol(d->d_name, NULL, 10);

		if (pid > 0 && !fstat(fd, &image) && process_locks(pid, &image))
			found = pid;
	}
	if (processes)
		closedir(processes);
	return found;
}

static void process_name(long pid, char *out, size_t room)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	f = fopen(path, "re");
	if (!f || !fgets(out, (int)room, f))
		snprintf(out, room, "?");
	out[strcspn(out, "\n")] = 0;
	if (f)
		fclose(f);
}

static int busy(int fd, bool readonly, const char *path, struct error *e)
{
	const char *use = readonly ? "written" : "used";
	long pid = holder_find(fd);
	char name[32];

	if (pid == getpid())
		return error_set(e, -EBUSY, "the disk %s is one of this VM's disks already", path);
	if (!pid)
		return error_set(e, -EBUSY, "the disk %s is %s by another process or host", path,
				 use);
	process_name(pid, name, sizeof(name));
	return error_set(e, -EBUSY, "the disk %s is %s by process %ld (%s)", path, use, pid, name);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static int lock_try(int fd, bool readonly)
{
	struct flock all = {.l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(fd, F_OFD_SETLK, &all))
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

/* The kernel keeps the lock of a process that has died until it is done with what that process
 * had begun; nobody can be found who holds it, as where another host does. */
static int lock_await(int fd, bool readonly)
{
	const struct timespec moment = {0, LOOK_NS};
	uint64_t until = clock_ns() + DEAD_NS;
	int rc;

	do {
		(void)nanosleep(&moment, NULL);
		rc = lock_try(fd, readonly);
	} while (rc == -EAGAIN && clock_ns() < until);
	return rc;
}

int disk_lock(int fd, bool readonly, const char *path, struct error *e)
{
	int rc = fault_point("disk.lock");

	if (!rc)
		rc = lock_try(fd, readonly);
	if (rc == -EAGAIN && !holder_find(fd))
		rc = lock_await(fd, readonly);
	if (rc == -EAGAIN)
		return busy(fd, readonly, path, e);
	return rc ? error_set(e, rc, "the disk %s cannot be locked: %s", path, strerror(-rc)) : 0;
}

void disk_unlock(int fd)
{
	struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &all))
		log_warn_rc(-errno, "a disk stays locked");
}

// SPDX-License-Identifier: Apache-2.0
#include "agent/spawn.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int attributes_set(posix_spawnattr_t *attr)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	return -posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						       POSIX_SPAWN_SETSIGDEF);
}

static int actions_set(posix_spawn_file_actions_t *actions, const struct spawn_fd *fds,
		       size_t fd_count)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < fd_count; i++)
		rc = -posix_spawn_file_actions_adddup2(actions, fds[i].from, fds[i].to);
	return rc;
}

/* Nobody else waits for this child, so its number cannot have been used again. */
static int pidfd_of_child(pid_t pid, int *pidfd)
{
	int rc = 0;

	*pidfd = pidfd_open(pid, 0);
	if (*pidfd < 0) {
		rc = -errno;
		kill(-pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return rc;
}

int spawn_process(const char *path, char *const argv[], const struct spawn_fd *fds, size_t fd_count,
		  pid_t *pid, int *pidfd)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pid_t child = 0;
	int rc;

	rc = -posix_spawn_file_actions_init(&actions);
	if (rc)
		return rc;
	rc = -posix_spawnattr_init(&attr);
	if (rc)
		goto out_actions;
	rc = attributes_set(&attr);
	if (!rc)
		rc = actions_set(&actions, fds, fd_count);
	if (!rc)
		rc = -posix_spawn(&child, path, &actions, &attr, argv, environ);
	if (!rc)
		rc = pidfd_of_child(child, pidfd);
	if (!rc)
		*pid = child;
	posix_spawnattr_destroy(&attr);
out_actions:
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

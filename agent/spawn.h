// SPDX-License-Identifier: Apache-2.0
/* Start a program in a session and process group of its own. */
#ifndef POLLUX_AGENT_SPAWN_H
#define POLLUX_AGENT_SPAWN_H

#include <sys/types.h>

#include "base/base.h"

struct spawn_fd {
	int from, to;
};
/* Other descriptors are expected to be close-on-exec; signals start as by default. */
int spawn_process(const char *path, char *const argv[], const struct spawn_fd *fds, size_t fd_count,
		  pid_t *pid, int *pidfd) MUST_CHECK;

#endif

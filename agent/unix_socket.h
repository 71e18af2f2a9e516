// SPDX-License-Identifier: Apache-2.0
#ifndef POLLUX_AGENT_UNIX_SOCKET_H
#define POLLUX_AGENT_UNIX_SOCKET_H

#include "base/base.h"

/* A listening, non-blocking socket of mode 0660 in place of what an earlier process left
 * there. -EADDRINUSE: somebody is listening. */
int unix_socket_listen(const char *path, int type, int *fd, struct error *e) MUST_CHECK;

#endif

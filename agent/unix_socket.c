// SPDX-License-Identifier: Apache-2.0
#include "agent/unix_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

static bool somebody_listens(const struct sockaddr_un *address, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool listens;

	if (fd < 0)
		return false;
	listens =
		!connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno == EAGAIN;
	close(fd);
	return listens;
}

/* The mode is right from the first moment: bind() makes the file under the umask. */
static int socket_bind(int fd, const struct sockaddr_un *address)
{
	mode_t before = umask(0117);
	int rc = bind(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;

	umask(before);
	if (!rc && listen(fd, BACKLOG))
		rc = -errno;
	return rc;
}

int unix_socket_listen(const char *path, int type, int *out, struct error *e)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "the socket's path %s is longer than %zu bytes",
				 path, sizeof(address.sun_path) - 1);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (somebody_listens(&address, type))
		return error_set(e, -EADDRINUSE, "%s: another process is listening there", path);
	unlink(path);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(e, -errno, "cannot make a socket: %s", strerror(errno));
	rc = socket_bind(fd, &address);
	if (rc) {
		close(fd);
		return error_set(e, rc, "cannot listen on %s: %s", path, strerror(-rc));
	}
	*out = fd;
	return 0;
}

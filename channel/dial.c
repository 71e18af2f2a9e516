// SPDX-License-Identifier: Apache-2.0
#include "channel/channel.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64

static int resolve(const char *address, uint16_t port, int flags, struct addrinfo **out,
		   struct error *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
	char service[8];
	int rc;

	snprintf(service, sizeof(service), "%u", port);
	rc = getaddrinfo(address, service, &hints, out);
	if (rc)
		return error_set(e, -EADDRNOTAVAIL, "address '%s': %s", address ? address : "any",
				 gai_strerror(rc));
	return 0;
}

static int listen_on(const struct addrinfo *a, int *fd)
{
	int on = 1, off = 0, rc;
	int s = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s < 0)
		return -errno;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->ai_family == AF_INET6)
		setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(s, a->ai_addr, a->ai_addrlen) < 0 || listen(s, LISTEN_BACKLOG) < 0) {
		rc = -errno;
		close(s);
		return rc;
	}
	*fd = s;
	return 0;
}

int channel_listen(const char *address, uint16_t port, int *fd, struct error *e)
{
	bool any = !address || !*address;
	struct addrinfo *list;
	int rc;

	rc = resolve(any ? "::" : address, port, AI_PASSIVE, &list, e);
	if (rc)
		return rc;
	rc = listen_on(list, fd);
	freeaddrinfo(list);
	if (rc == -EAFNOSUPPORT && any) {
		rc = resolve("0.0.0.0", port, AI_PASSIVE, &list, e);
		if (rc)
			return rc;
		rc = listen_on(list, fd);
		freeaddrinfo(list);
	}
	if (rc)
		return error_set(e, rc, "listen on %s port %u: %s", any ? "any address" : address,
				 port, strerror(-rc));
	return 0;
}

static int wait_writable(int fd, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	uint64_t now = clock_ns();
	uint64_t left = deadline > now ? deadline - now : 0;
	struct timespec t = {.tv_sec = (time_t)(left / NS_PER_SEC % INT32_MAX),
			     .tv_nsec = (long)(left % NS_PER_SEC)};
	int n = ppoll(&p, 1, &t, NULL);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return n ? 0 : -ETIMEDOUT;
}

static int socket_status(int fd)
{
	int status = 0;
	socklen_t len = sizeof(status);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &status, &len) < 0)
		return -errno;
	return -status;
}

static int connect_to(const struct addrinfo *a, uint64_t deadline, int *fd)
{
	int on = 1, rc;
	int s = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s < 0)
		return -errno;
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	rc = connect(s, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
	if (rc == -EINPROGRESS) {
		rc = wait_writable(s, deadline);
		if (!rc)
			rc = socket_status(s);
	}
	if (rc) {
		close(s);
		return rc;
	}
	*fd = s;
	return 0;
}

static int send_all(int fd, const uint8_t *data, size_t n, uint64_t deadline)
{
	while (n) {
		ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
		int rc = 0;

		if (sent >= 0) {
			data += sent;
			n -= (size_t)sent;
		} else if (errno == EAGAIN) {
			rc = wait_writable(fd, deadline);
		} else if (errno != EINTR) {
			rc = -errno;
		}
		if (rc)
			return rc;
	}
	return 0;
}

int channel_dial(const char *address, uint16_t port, const struct preamble *p, uint64_t deadline,
		 int *fd, struct error *e)
{
	uint8_t bytes[PREAMBLE_SIZE];
	struct addrinfo *list;
	int s = -1, rc;

	rc = resolve(address, port, 0, &list, e);
	if (rc)
		return rc;
	rc = -EADDRNOTAVAIL;
	for (const struct addrinfo *a = list; a && rc; a = a->ai_next)
		rc = connect_to(a, deadline, &s);
	freeaddrinfo(list);
	if (rc)
		return error_set(e, rc, "connect to %s port %u: %s", address, port, strerror(-rc));
	preamble_encode(p, bytes);
	rc = send_all(s, bytes, sizeof(bytes), deadline);
	if (rc) {
		close(s);
		return error_set(e, rc, "send preamble to %s port %u: %s", address, port,
				 strerror(-rc));
	}
	*fd = s;
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
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

#include "channel/tls.h"

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

/* A connection that is being made, until when, and what ends it before: -1 = nothing. */
struct dial {
	int fd, stop_fd;
	uint64_t deadline;
};

static int wait_writable(const struct dial *d)
{
	struct pollfd p[2] = {{.fd = d->fd, .events = POLLOUT},
			      {.fd = d->stop_fd, .events = POLLIN}};
	uint64_t now = clock_ns();
	uint64_t left = d->deadline > now ? d->deadline - now : 0;
	struct timespec t = {.tv_sec = (time_t)(left / NS_PER_SEC % INT32_MAX),
			     .tv_nsec = (long)(left % NS_PER_SEC)};
	int n = ppoll(p, ARRAY_LEN(p), &t, NULL);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[1].revents)
		return -ESHUTDOWN;
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

static int connect_to(const struct addrinfo *a, struct dial *d)
{
	int on = 1, rc;

	d->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->fd < 0)
		return -errno;
	setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	rc = connect(d->fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
	if (rc == -EINPROGRESS) {
		rc = wait_writable(d);
		if (!rc)
			rc = socket_status(d->fd);
	}
	if (rc)
		close(d->fd);
	return rc;
}

static int send_all(const struct dial *d, const uint8_t *data, size_t n)
{
	while (n) {
		ssize_t sent = send(d->fd, data, n, MSG_NOSIGNAL);
		int rc = 0;

		if (sent >= 0) {
			data += sent;
			n -= (size_t)sent;
		} else if (errno == EAGAIN) {
			rc = wait_writable(d);
		} else if (errno != EINTR) {
			rc = -errno;
		}
		if (rc)
			return rc;
	}
	return 0;
}

static int dial(const char *address, uint16_t port, const struct preamble *p, struct dial *d,
		struct error *e)
{
	uint8_t bytes[PREAMBLE_SIZE];
	struct addrinfo *list;
	int rc;

	rc = resolve(address, port, 0, &list, e);
	if (rc)
		return rc;
	rc = -EADDRNOTAVAIL;
	for (const struct addrinfo *a = list; a && rc && rc != -ESHUTDOWN; a = a->ai_next)
		rc = connect_to(a, d);
	freeaddrinfo(list);
	if (rc)
		return error_set(e, rc, "connect to %s port %u: %s", address, port, strerror(-rc));
	preamble_encode(p, bytes);
	rc = send_all(d, bytes, sizeof(bytes));
	if (!rc)
		return 0;
	close(d->fd);
	return error_set(e, rc, "send preamble to %s port %u: %s", address, port, strerror(-rc));
}

int channel_dial(const char *address, uint16_t port, const struct preamble *p, uint64_t deadline,
		 int *fd, struct error *e)
{
	struct dial d = {.stop_fd = -1, .deadline = deadline};
	int rc = dial(address, port, p, &d, e);

	if (!rc)
		*fd = d.fd;
	return rc;
}

int channel_dial_stream(const char *address, uint16_t port, const struct channel_auth *a,
			int stop_fd, uint64_t deadline, struct channel **out, struct error *e)
{
	struct preamble p = {.kind = PREAMBLE_DATA, .stream = a->stream};
	struct dial d = {.stop_fd = stop_fd, .deadline = deadline};
	int rc;

	memcpy(p.session, a->session, SESSION_ID_SIZE);
	rc = dial(address, port, &p, &d, e);
	return rc ? rc : handshake_run(d.fd, a, false, stop_fd, deadline, out, e);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The record calls of channel/ without TLS, for one program of the bench alone: linked before
 * channel/, it takes the place of channel.c, and the rest of the path is the product's own. So the
 * same path can be timed with and without encryption.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel/channel.h"

#define READ_SIZE (256u << 10)
#define IOV_MOST  8

struct channel {
	int fd;
	pthread_mutex_t turn;
	atomic_bool stopped;
	uint8_t *data; /* bytes [start, end) came and are not consumed */
	size_t room, start, end, consumed;
	uint8_t few[4096]; /* of records that wait for one more */
	size_t few_used;
	_Atomic uint64_t sent, received;
};

static int channel_make(int fd, struct channel **out)
{
	struct channel *c = calloc(1, sizeof(*c));
	int on = 1;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	pthread_mutex_init(&c->turn, NULL);
	c->fd = fd;
	*out = c;
	return 0;
}

int channel_connect(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		    struct error *e)
{
	return channel_make(fd, out);
}

int channel_accept(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		   struct error *e)
{
	return channel_make(fd, out);
}

/* channel/tls.h has it beside another struct channel. */
int handshake_run(int fd, const struct channel_auth *a, bool server, int stop_fd, uint64_t deadline,
		  struct channel **out, struct error *e);
int handshake_run(int fd, const struct channel_auth *a, bool server, int stop_fd, uint64_t deadline,
		  struct channel **out, struct error *e)
{
	return channel_make(fd, out);
}

uint64_t channel_bytes_sent(const struct channel *c)
{
	return atomic_load(&c->sent);
}

/* Sockets that wait for themselves: how long is not known. */
uint64_t channel_send_waited(const struct channel *c)
{
	return 0;
}

uint64_t channel_bytes_received(const struct channel *c)
{
	return atomic_load(&c->received);
}

uint64_t channel_key_updates(const struct channel *c)
{
	return 0;
}

/* ---- sending ------------------------------------------------------------------- */

static int iov_send(struct channel *c, struct iovec *iov, int n)
{
	while (n) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
		ssize_t done = sendmsg(c->fd, &m, MSG_NOSIGNAL);

		if (done < 0)
			return atomic_load(&c->stopped) ? -ESHUTDOWN : -errno;
		atomic_fetch_add(&c->sent, (uint64_t)done);
		while (n && (size_t)done >= iov->iov_len) {
			done -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

static size_t iov_total(const struct iovec *iov, int n)
{
	size_t total = 0;

	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

static void iov_gather(struct channel *c, const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++) {
		memcpy(c->few + c->few_used, iov[i].iov_base, iov[i].iov_len);
		c->few_used += iov[i].iov_len;
	}
}

static int record_send(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		       int n, bool more)
{
	size_t total = iov_total(iov, n);
	uint8_t header[RECORD_HEADER_SIZE] = {(uint8_t)type, (uint8_t)(type >> 8), (uint8_t)flags};
	struct iovec all[IOV_MOST + 2] = {{c->few, 0}, {header, sizeof(header)}};
	int rc;

	if (n > IOV_MOST)
		return -EINVAL;
	for (unsigned i = 0; i < 4; i++)
		header[4 + i] = (uint8_t)(total >> (8 * i));
	pthread_mutex_lock(&c->turn);
	if (more && c->few_used + sizeof(header) + total <= sizeof(c->few)) {
		iov_gather(c, all + 1, 1);
		iov_gather(c, iov, n);
		pthread_mutex_unlock(&c->turn);
		return 0;
	}
	memcpy(all + 2, iov, (size_t)n * sizeof(*iov));
	all[0].iov_len = c->few_used;
	c->few_used = 0;
	rc = iov_send(c, all, n + 2);
	pthread_mutex_unlock(&c->turn);
	return rc;
}

int channel_send(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		 int iov_count, uint64_t deadline)
{
	return record_send(c, type, flags, iov, iov_count, false);
}

int channel_send_more(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		      int iov_count, uint64_t deadline)
{
	return record_send(c, type, flags, iov, iov_count, true);
}

/* ---- receiving ------------------------------------------------------------------- */

static int room_make(struct channel *c)
{
	size_t have = c->end - c->start, need = READ_SIZE + RECORD_HEADER_SIZE;
	uint8_t *data;

	if (have >= RECORD_HEADER_SIZE) {
		struct cursor at = cursor_of(c->data + c->start + 4, 4);

		need += cursor_u32(&at);
	}
	if (c->room - c->start >= need)
		return 0;
	data = malloc(need);
	if (!data)
		return -ENOMEM;
	if (have)
		memcpy(data, c->data + c->start, have);
	free(c->data);
	c->data = data;
	c->room = need;
	c->start = 0;
	c->end = have;
	return 0;
}

static int bytes_receive(struct channel *c, uint64_t deadline)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	uint64_t now = clock_ns();
	struct timespec t = {.tv_sec = 1};
	ssize_t n;

	if (deadline <= now)
		return deadline ? -ETIMEDOUT : -EAGAIN;
	if (deadline - now < NS_PER_SEC)
		t = (struct timespec){.tv_nsec = (long)(deadline - now)};
	if (deadline != UINT64_MAX && ppoll(&p, 1, &t, NULL) <= 0)
		return 0;
	n = recv(c->fd, c->data + c->end, c->room - c->end, 0);
	if (n <= 0)
		return atomic_load(&c->stopped) ? -ESHUTDOWN : n ? -errno : -EPIPE;
	c->end += (size_t)n;
	atomic_fetch_add(&c->received, (uint64_t)n);
	return 0;
}

int channel_receive(struct channel *c, struct record *out, uint64_t deadline)
{
	int64_t n;
	int rc;

	for (;;) {
		if (atomic_load(&c->stopped))
			return -ESHUTDOWN;
		c->start += c->consumed;
		c->consumed = 0;
		if (c->start == c->end)
			c->start = c->end = 0;
		rc = room_make(c);
		if (rc)
			return rc;
		n = record_decode(c->data + c->start, c->end - c->start, out);
		if (n) {
			c->consumed = n > 0 ? (size_t)n : 0;
			return n > 0 ? 0 : (int)n;
		}
		rc = bytes_receive(c, deadline);
		if (rc)
			return rc;
	}
}

void channel_shutdown(struct channel *c)
{
	atomic_store(&c->stopped, true);
	shutdown(c->fd, SHUT_RDWR);
}

void channel_close(struct channel *c)
{
	if (!c)
		return;
	close(c->fd);
	pthread_mutex_destroy(&c->turn);
	free(c->data);
	free(c);
}

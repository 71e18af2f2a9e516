// SPDX-License-Identifier: Apache-2.0
/*
 * Frames over a unix stream socket, each behind its length (big-endian u32): for
 * switches in user space. It connects, and connects again when the other end went
 * away; meanwhile the cable is out and frames are dropped.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hypervisor/net_port.h"

#define LOG_MODULE "net"

#define PREFIX     4u
#define IOV_MOST   260
#define RETRY_NS   (200 * NS_PER_MS)
#define IN_LEN     (4 * (PREFIX + NET_FRAME_MOST))

struct stream {
	struct net_port port;
	struct loop_timer *retry;
	char path[108];
	bool complained;
	/* send() runs on any thread: the descriptor and what was not sent of a frame. */
	pthread_mutex_t lock;
	int fd;
	size_t out_at, out_len;
	uint8_t out[PREFIX + NET_FRAME_MOST];
	/* Loop's thread only. */
	size_t in_at, in_len;
	uint8_t in[IN_LEN];
};

static struct stream *stream_of(struct net_backend *b)
{
	return CONTAINER_OF(b, struct stream, port.base);
}
static struct stream *stream_of_port(struct net_port *p)
{
	return CONTAINER_OF(p, struct stream, port);
}

/* ---- connection --------------------------------------------------------------------- */

static void stream_set_fd(struct stream *s, int fd)
{
	pthread_mutex_lock(&s->lock);
	s->fd = fd;
	s->out_at = s->out_len = 0;
	pthread_mutex_unlock(&s->lock);
}

static void stream_lose(struct stream *s, const char *why)
{
	log_warn("the connection to %s ended: %s", s->path, why);
	stream_set_fd(s, -1);
	net_port_detach(&s->port);
	s->in_at = s->in_len = 0;
	loop_timer_set(s->retry, clock_ns() + RETRY_NS);
	/* Nothing will become writable: what waits is sent, and dropped. */
	net_port_unblock(&s->port);
}

static int stream_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return -errno;
	memcpy(a.sun_path, path, strnlen(path, sizeof(a.sun_path) - 1));
	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static void stream_try(void *ctx)
{
	struct stream *s = ctx;
	int fd = stream_connect(s->path);

	if (fd < 0) {
		if (!s->complained)
			log_warn_rc(fd, "no connection to %s yet; trying on", s->path);
		s->complained = true;
		loop_timer_set(s->retry, clock_ns() + RETRY_NS);
		return;
	}
	s->complained = false;
	stream_set_fd(s, fd);
	net_port_attach(&s->port, fd);
}

/* ---- out ------------------------------------------------------------------------------ */

/* s->lock held. Frames are sent whole: what the socket did not take is kept. */
static void out_keep(struct stream *s, const struct iovec *iov, int count, size_t sent)
{
	s->out_at = s->out_len = 0;
	for (int i = 0; i < count; i++) {
		size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
		sent -= skip;
		memcpy(s->out + s->out_len, (uint8_t *)iov[i].iov_base + skip,
		       iov[i].iov_len - skip);
		s->out_len += iov[i].iov_len - skip;
	}
}

/* 1: taken, but a rest has to wait. */
static int frame_send(struct stream *s, struct iovec *iov, int count, size_t len)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
	ssize_t n;

	if (s->fd < 0)
		return -ENOTCONN;
	if (s->out_len)
		return -EAGAIN;
	n = sendmsg(s->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	if ((size_t)n < len)
		out_keep(s, iov, count, (size_t)n);
	return (size_t)n < len;
}

static int stream_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct stream *s = stream_of(b);
	struct iovec all[IOV_MOST];
	uint32_t prefix;
	size_t len = 0;
	int rc;

	if (iov_count >= IOV_MOST)
		return -EMSGSIZE;
	for (int i = 0; i < iov_count; i++)
		len += iov[i].iov_len;
	if (len > NET_FRAME_MOST)
		return -EMSGSIZE;
	prefix = htobe32((uint32_t)len);
	all[0] = (struct iovec){&prefix, PREFIX};
	memcpy(all + 1, iov, (size_t)iov_count * sizeof(*iov));
	pthread_mutex_lock(&s->lock);
	rc = frame_send(s, all, iov_count + 1, PREFIX + len);
	pthread_mutex_unlock(&s->lock);
	if (rc == 1 || rc == -EAGAIN)
		net_port_block(&s->port);
	return rc < 0 ? rc : 0;
}

static bool stream_output(struct net_port *p)
{
	struct stream *s = stream_of_port(p);
	bool empty;
	ssize_t n;

	pthread_mutex_lock(&s->lock);
	if (s->out_len) {
		n = send(s->fd, s->out + s->out_at, s->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			s->out_at += (size_t)n;
			s->out_len -= (size_t)n;
		}
	}
	empty = !s->out_len;
	pthread_mutex_unlock(&s->lock);
	return empty; /* a broken connection is seen by reading */
}

/* ---- in --------------------------------------------------------------------------------- */

/* Deliver what is there whole. 0, -EAGAIN (the guest has no room), -EPROTO. */
static int in_deliver(struct stream *s)
{
	while (s->in_len >= PREFIX) {
		uint32_t len;
		memcpy(&len, s->in + s->in_at, PREFIX);
		len = be32toh(len);
		if (!len || len > NET_FRAME_MOST)
			return -EPROTO;
		if (s->in_len < PREFIX + len)
			return 0;
		if (net_port_deliver(&s->port, s->in + s->in_at + PREFIX, len) == -EAGAIN)
			return -EAGAIN;
		s->in_at += PREFIX + len;
		s->in_len -= PREFIX + len;
	}
	return 0;
}

static ssize_t in_read(struct stream *s)
{
	ssize_t n;

	memmove(s->in, s->in + s->in_at, s->in_len);
	s->in_at = 0;
	n = recv(s->port.fd, s->in + s->in_len, IN_LEN - s->in_len, MSG_DONTWAIT);
	if (n > 0)
		s->in_len += (size_t)n;
	return n < 0 ? -errno : n;
}

static void stream_input(struct net_port *p)
{
	struct stream *s = stream_of_port(p);
	int rc = in_deliver(s);
	ssize_t n;

	if (!rc) {
		n = in_read(s);
		if (!n || (n < 0 && n != -EAGAIN && n != -EINTR)) {
			stream_lose(s, n ? strerror((int)-n) : "closed by the other side");
			return;
		}
		rc = in_deliver(s);
	}
	if (rc == -EPROTO)
		stream_lose(s, "a frame with an impossible length");
}

/* ---- opening ------------------------------------------------------------------------------ */

static void stream_destroy(struct net_backend *b)
{
	struct stream *s = stream_of(b);

	net_port_close(&s->port);
	if (s->retry)
		loop_timer_free(s->retry);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct net_backend_ops stream_ops = {stream_send, net_port_set_receiving,
						  stream_destroy};
static const struct net_port_ops stream_port_ops = {stream_input, stream_output};

static int stream_make(const struct nic_config *c, struct loop *io, struct net_backend **out,
		       struct error *e)
{
	struct stream *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return error_set(e, -ENOMEM, "network: out of memory");
	s->port.base.ops = &stream_ops;
	s->fd = -1;
	memcpy(s->path, c->socket, sizeof(s->path) - 1);
	pthread_mutex_init(&s->lock, NULL);
	rc = net_port_open(&s->port, io, &stream_port_ops, e);
	if (!rc) {
		rc = loop_timer(io, stream_try, s, &s->retry);
		if (rc)
			error_set(e, rc, "network: %s", strerror(-rc));
	}
	if (rc)
		stream_destroy(&s->port.base);
	else
		*out = &s->port.base;
	return rc;
}

static int stream_open(struct net_backend *b, const struct nic_config *c, struct error *e)
{
	stream_try(stream_of(b));
	return 0;
}

/* ---- from process to process ---------------------------------------------------------------- */

static int stream_yield(struct net_backend *b, struct buf *out)
{
	struct stream *s = stream_of(b);

	buf_put_u32(out, (uint32_t)s->out_len);
	buf_put(out, s->out + s->out_at, s->out_len);
	buf_put(out, s->in + s->in_at, s->in_len);
	return s->fd;
}

static int stream_adopt(struct net_backend *b, int fd, struct cursor in)
{
	struct stream *s = stream_of(b);
	uint32_t out_len = cursor_u32(&in);

	if (in.bad || out_len > sizeof(s->out) || out_len > in.left ||
	    in.left - out_len > sizeof(s->in))
		return -EBADMSG;
	cursor_copy(&in, s->out, out_len);
	s->in_len = in.left;
	cursor_copy(&in, s->in, in.left);
	if (fd < 0) {
		s->in_len = 0;
		stream_try(s);
		return 0;
	}
	s->fd = fd;
	s->out_len = out_len;
	net_port_attach(&s->port, fd);
	if (out_len)
		net_port_block(&s->port);
	net_port_set_receiving(b, true); /* whole frames may be here already */
	return 0;
}

const struct net_kind net_stream = {stream_make, stream_open, stream_yield, stream_adopt};

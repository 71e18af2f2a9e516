// SPDX-License-Identifier: Apache-2.0
#include "channel/tls.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define WIRE_BUFFER_SIZE (256u * 1024)

static BIO_METHOD *wire_method;
static pthread_once_t wire_once = PTHREAD_ONCE_INIT;

static size_t buffer_len(const struct wire_buffer *b)
{
	return b->end - b->start;
}

static void buffer_compact(struct wire_buffer *b)
{
	memmove(b->data, b->data + b->start, buffer_len(b));
	b->end -= b->start;
	b->start = 0;
}

static int wire_bio_write(BIO *bio, const char *data, int n)
{
	struct channel *c = BIO_get_data(bio);
	struct wire_buffer *b = &c->cipher_out;

	BIO_clear_retry_flags(bio);
	if (n <= 0)
		return 0;
	if (b->cap - b->end < (size_t)n)
		buffer_compact(b);
	if (b->cap - b->end < (size_t)n) {
		BIO_set_retry_write(bio);
		return -1;
	}
	memcpy(b->data + b->end, data, (size_t)n);
	b->end += (size_t)n;
	return n;
}

static int wire_bio_read(BIO *bio, char *out, int most)
{
	struct channel *c = BIO_get_data(bio);
	struct wire_buffer *b = &c->cipher_in;
	size_t n = buffer_len(b);

	BIO_clear_retry_flags(bio);
	if (most <= 0)
		return 0;
	if (!n) {
		if (!c->eof)
			BIO_set_retry_read(bio);
		return c->eof ? 0 : -1;
	}
	if (n > (size_t)most)
		n = (size_t)most;
	memcpy(out, b->data + b->start, n);
	b->start += n;
	return (int)n;
}

static long wire_bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	struct channel *c = BIO_get_data(bio);

	if (cmd == BIO_CTRL_FLUSH)
		return 1;
	if (cmd == BIO_CTRL_EOF)
		return c->eof && !buffer_len(&c->cipher_in);
	return 0;
}

static void wire_method_make(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "pollux wire");

	if (!m)
		return;
	BIO_meth_set_write(m, wire_bio_write);
	BIO_meth_set_read(m, wire_bio_read);
	BIO_meth_set_ctrl(m, wire_bio_ctrl);
	wire_method = m;
}

static int buffer_make(struct wire_buffer *b)
{
	b->data = malloc(WIRE_BUFFER_SIZE);
	b->cap = b->data ? WIRE_BUFFER_SIZE : 0;
	return b->data ? 0 : -ENOMEM;
}

int wire_attach(struct channel *c)
{
	BIO *bio;

	pthread_once(&wire_once, wire_method_make);
	if (!wire_method || buffer_make(&c->cipher_in) || buffer_make(&c->cipher_out))
		return -ENOMEM;
	bio = BIO_new(wire_method);
	if (!bio)
		return -ENOMEM;
	BIO_set_data(bio, c);
	BIO_set_init(bio, 1);
	SSL_set_bio(c->ssl, bio, bio);
	return 0;
}

void wire_detach(struct channel *c)
{
	free(c->cipher_in.data);
	free(c->cipher_out.data);
}

int wire_flush(struct channel *c)
{
	struct wire_buffer *b = &c->cipher_out;

	while (buffer_len(b)) {
		ssize_t n =
			send(c->fd, b->data + b->start, buffer_len(b), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EPIPE ? -ECONNRESET : -errno;
		b->start += (size_t)n;
		atomic_fetch_add_explicit(&c->bytes_sent, (uint64_t)n, memory_order_relaxed);
	}
	b->start = b->end = 0;
	return 0;
}

int wire_fill(struct channel *c)
{
	struct wire_buffer *b = &c->cipher_in;
	ssize_t n;

	buffer_compact(b);
	do {
		n = recv(c->fd, b->data + b->end, b->cap - b->end, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (!n)
		c->eof = true;
	b->end += (size_t)n;
	atomic_fetch_add_explicit(&c->bytes_received, (uint64_t)n, memory_order_relaxed);
	return 0;
}

static int time_left(uint64_t deadline, struct timespec *t)
{
	uint64_t now = clock_ns();

	if (now >= deadline)
		return -ETIMEDOUT;
	t->tv_sec = (time_t)((deadline - now) / NS_PER_SEC % INT32_MAX);
	t->tv_nsec = (long)((deadline - now) % NS_PER_SEC);
	return 0;
}

int wire_wait(struct channel *c, short events, uint64_t deadline)
{
	struct pollfd p[3] = {{.fd = c->fd, .events = events},
			      {.fd = c->wake_fd, .events = POLLIN},
			      {.fd = c->stop_fd, .events = POLLIN}};
	struct timespec t;
	int rc = time_left(deadline, &t);

	if (atomic_load(&c->stopped))
		return -ESHUTDOWN;
	if (rc)
		return rc;
	if (ppoll(p, ARRAY_LEN(p), &t, NULL) < 0)
		return errno == EINTR ? 0 : -errno;
	return p[1].revents || p[2].revents ? -ESHUTDOWN : 0;
}

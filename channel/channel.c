// SPDX-License-Identifier: Apache-2.0
#include "channel/channel.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "channel/tls.h"

int channel_connect(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		    struct error *e)
{
	return handshake_run(fd, a, false, -1, deadline, out, e);
}

int channel_accept(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		   struct error *e)
{
	return handshake_run(fd, a, true, -1, deadline, out, e);
}

const char *channel_peer_name(const struct channel *c)
{
	return c->peer_name;
}

const char *channel_peer_role(const struct channel *c)
{
	return c->peer_role;
}

int channel_fd(const struct channel *c)
{
	return c->fd;
}

uint64_t channel_bytes_sent(const struct channel *c)
{
	return atomic_load_explicit(&c->bytes_sent, memory_order_relaxed);
}

uint64_t channel_bytes_received(const struct channel *c)
{
	return atomic_load_explicit(&c->bytes_received, memory_order_relaxed);
}

uint64_t channel_key_updates(const struct channel *c)
{
	return atomic_load_explicit(&c->key_updates, memory_order_relaxed);
}

uint64_t channel_send_waited(const struct channel *c)
{
	return atomic_load_explicit(&c->send_waited, memory_order_relaxed);
}

/* ---- sending ------------------------------------------------------------- */

/* A condition variable knows CLOCK_MONOTONIC only; the deadline counts suspended time too. */
static void turn_deadline(uint64_t deadline, struct timespec *t)
{
	uint64_t now = clock_ns();
	uint64_t left = deadline > now ? deadline - now : 0;

	clock_gettime(CLOCK_MONOTONIC, t);
	t->tv_sec += (time_t)(left / NS_PER_SEC % INT32_MAX);
	t->tv_nsec += (long)(left % NS_PER_SEC);
	if (t->tv_nsec >= (long)NS_PER_SEC) {
		t->tv_nsec -= (long)NS_PER_SEC;
		t->tv_sec++;
	}
}

static int turn_take(struct channel *c, uint64_t deadline)
{
	struct timespec until;
	int rc = 0;

	turn_deadline(deadline, &until);
	pthread_mutex_lock(&c->lock);
	while (c->sending && !atomic_load(&c->stopped) && !rc)
		rc = -pthread_cond_timedwait(&c->turn, &c->lock, &until);
	if (atomic_load(&c->stopped))
		rc = -ESHUTDOWN;
	else if (c->send_error)
		rc = c->send_error;
	if (!rc)
		c->sending = true;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

static void turn_give(struct channel *c, int rc)
{
	pthread_mutex_lock(&c->lock);
	if (rc && !c->send_error)
		c->send_error = rc;
	c->sending = false;
	pthread_cond_signal(&c->turn);
	pthread_mutex_unlock(&c->lock);
}

/* New keys before the old ones are worn out. Lock held. */
static int key_renew(struct channel *c)
{
	if (c->unsent || (c->tls_records < c->tls_records_per_key && !fault_point("channel.key")))
		return 0;
	if (!SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED))
		return -EPROTO;
	c->tls_records = 0;
	return 0;
}

/* Encrypt up to one TLS record. Returns bytes taken, 0 = the wire must drain first, or -errno. */
static ssize_t encrypt_some(struct channel *c, const uint8_t *data, size_t n)
{
	size_t taken = 0;
	int rc, why;

	rc = key_renew(c);
	if (rc)
		return rc;
	ERR_clear_error();
	if (SSL_write_ex(c->ssl, data, n, &taken)) {
		c->tls_records++;
		c->unsent = false;
		return (ssize_t)taken;
	}
	why = SSL_get_error(c->ssl, 0);
	c->unsent = why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ;
	if (c->unsent)
		return 0;
	return tls_errno();
}

static int room_wait(struct channel *c, uint64_t deadline)
{
	uint64_t began = clock_ns();
	int rc = wire_wait(c, POLLOUT, deadline);

	atomic_fetch_add_explicit(&c->send_waited, clock_ns() - began, memory_order_relaxed);
	return rc;
}

static int drain(struct channel *c, uint64_t deadline)
{
	int rc;

	for (;;) {
		pthread_mutex_lock(&c->lock);
		rc = wire_flush(c);
		pthread_mutex_unlock(&c->lock);
		if (rc != -EAGAIN)
			return rc;
		rc = room_wait(c, deadline);
		if (rc)
			return rc;
	}
}

static int encrypt_all(struct channel *c, const uint8_t *data, size_t n, uint64_t deadline)
{
	if (c->tap)
		c->tap(c->tap_ctx, data, n);
	while (n) {
		ssize_t taken;
		int rc = 0;

		pthread_mutex_lock(&c->lock);
		taken = encrypt_some(c, data, n);
		pthread_mutex_unlock(&c->lock);
		if (taken < 0)
			return (int)taken;
		if (!taken)
			rc = drain(c, deadline);
		if (rc)
			return rc;
		data += taken;
		n -= (size_t)taken;
	}
	return 0;
}

/* The bytes of a record, collected into full TLS records. */
struct gather {
	struct channel *c;
	size_t used; /* of c->chunk */
	uint64_t deadline;
};

static int gather_flush(struct gather *g)
{
	int rc = encrypt_all(g->c, g->c->chunk, g->used, g->deadline);

	g->used = 0;
	return rc;
}

static int gather_add(struct gather *g, const uint8_t *data, size_t n)
{
	int rc;

	while (n) {
		size_t part = TLS_RECORD_MAX - g->used;
		size_t whole = g->used ? 0 : n - n % TLS_RECORD_MAX;

		if (whole) {
			rc = encrypt_all(g->c, data, whole, g->deadline);
			if (rc)
				return rc;
			data += whole;
			n -= whole;
			continue;
		}
		if (part > n)
			part = n;
		memcpy(g->c->chunk + g->used, data, part);
		g->used += part;
		data += part;
		n -= part;
		if (g->used == TLS_RECORD_MAX && (rc = gather_flush(g)))
			return rc;
	}
	return 0;
}

static int record_put(struct channel *c, const uint8_t header[RECORD_HEADER_SIZE],
		      const struct iovec *iov, int iov_count, bool more, uint64_t deadline)
{
	struct gather g = {.c = c, .used = c->chunk_used, .deadline = deadline};
	int rc;

	rc = gather_add(&g, header, RECORD_HEADER_SIZE);
	for (int i = 0; i < iov_count && !rc; i++)
		rc = gather_add(&g, iov[i].iov_base, iov[i].iov_len);
	if (!rc && !more)
		rc = gather_flush(&g);
	c->chunk_used = g.used;
	return rc || more ? rc : drain(c, deadline);
}

static int64_t iov_total(const struct iovec *iov, int iov_count)
{
	size_t total = 0;

	for (int i = 0; i < iov_count; i++)
		if (__builtin_add_overflow(total, iov[i].iov_len, &total) ||
		    total > CHANNEL_RECORD_MAX)
			return -EMSGSIZE;
	return (int64_t)total;
}

static int record_send(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		       int iov_count, bool more, uint64_t deadline)
{
	uint8_t header[RECORD_HEADER_SIZE];
	int64_t total = iov_total(iov, iov_count);
	int rc;

	if (!type || flags & ~RECORD_MANDATORY)
		return -EINVAL;
	if (total < 0)
		return (int)total;
	for (unsigned i = 0; i < 2; i++) {
		header[i] = (uint8_t)(type >> (8 * i));
		header[2 + i] = (uint8_t)(flags >> (8 * i));
	}
	for (unsigned i = 0; i < 4; i++)
		header[4 + i] = (uint8_t)(total >> (8 * i));
	rc = turn_take(c, deadline);
	if (rc)
		return rc;
	rc = record_put(c, header, iov, iov_count, more, deadline);
	turn_give(c, rc);
	return rc;
}

int channel_send(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		 int iov_count, uint64_t deadline)
{
	return record_send(c, type, flags, iov, iov_count, false, deadline);
}

int channel_send_more(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		      int iov_count, uint64_t deadline)
{
	return record_send(c, type, flags, iov, iov_count, true, deadline);
}

/* ---- receiving ----------------------------------------------------------- */

/* Room for the whole record that has begun, and one TLS record at least. */
static int plain_reserve(struct wire_buffer *b)
{
	size_t have = b->end - b->start, need = RECORD_HEADER_SIZE + TLS_RECORD_MAX;
	uint8_t *data;

	if (have >= RECORD_HEADER_SIZE) {
		struct cursor c = cursor_of(b->data + b->start + 4, 4);

		need += cursor_u32(&c);
	}
	if (b->cap - b->start >= need)
		return 0;
	if (b->cap >= need) {
		memmove(b->data, b->data + b->start, have);
	} else {
		data = malloc(need);
		if (!data)
			return -ENOMEM;
		if (have)
			memcpy(data, b->data + b->start, have);
		free(b->data);
		b->data = data;
		b->cap = need;
	}
	b->start = 0;
	b->end = have;
	return 0;
}

static int receive_failed(struct channel *c, int why)
{
	if (why != SSL_ERROR_ZERO_RETURN)
		return tls_errno();
	return c->plain.end > c->plain.start ? -ECONNRESET : -EPIPE;
}

/* Decrypt what is there; then ask the socket once. 0 = progress, -EAGAIN = nothing. */
static int plain_fill(struct channel *c)
{
	struct wire_buffer *b = &c->plain;
	size_t n = 0;
	int rc, why;

	rc = plain_reserve(b);
	if (rc)
		return rc;
	pthread_mutex_lock(&c->lock);
	ERR_clear_error();
	if (SSL_read_ex(c->ssl, b->data + b->end, b->cap - b->end, &n)) {
		b->end += n;
	} else {
		why = SSL_get_error(c->ssl, 0);
		rc = why == SSL_ERROR_WANT_READ ? wire_fill(c) : receive_failed(c, why);
	}
	pthread_mutex_unlock(&c->lock);
	return rc;
}

/* 0 = `out` is a whole record, -EAGAIN = more bytes are needed. */
static int plain_record(struct channel *c, struct record *out)
{
	struct wire_buffer *b = &c->plain;
	int64_t n;

	b->start += c->consumed;
	c->consumed = 0;
	if (b->start == b->end) {
		b->start = b->end = 0;
		return -EAGAIN; /* there may be no buffer yet */
	}
	n = record_decode(b->data + b->start, b->end - b->start, out);
	if (n <= 0)
		return n ? (int)n : -EAGAIN;
	c->consumed = (size_t)n;
	return 0;
}

static int receive_step(struct channel *c, struct record *out)
{
	int rc = plain_record(c, out);

	if (rc == -EAGAIN && !c->receive_error) {
		rc = plain_fill(c);
		if (!rc)
			return -EINPROGRESS;
	} else if (rc == -EAGAIN) {
		rc = c->receive_error;
	}
	if (rc && rc != -EAGAIN)
		c->receive_error = rc;
	return rc;
}

int channel_receive(struct channel *c, struct record *out, uint64_t deadline)
{
	int rc;

	for (;;) {
		if (atomic_load(&c->stopped))
			return -ESHUTDOWN;
		rc = receive_step(c, out);
		if (rc == -EINPROGRESS)
			continue;
		if (rc != -EAGAIN || !deadline)
			return rc;
		rc = wire_wait(c, POLLIN, deadline);
		if (rc)
			return rc;
	}
}

/* ---- the end ------------------------------------------------------------- */

/* Lock held. A record that was cut short must not look like a good end. */
static void say_goodbye(struct channel *c)
{
	if (c->goodbye || c->sending)
		return;
	c->goodbye = true;
	ERR_clear_error();
	if (c->established && !c->send_error && (SSL_shutdown(c->ssl) < 0 || wire_flush(c)))
		ERR_clear_error();
}

void channel_shutdown(struct channel *c)
{
	uint64_t one = 1;

	pthread_mutex_lock(&c->lock);
	atomic_store(&c->stopped, true);
	say_goodbye(c);
	shutdown(c->fd, SHUT_WR);
	pthread_cond_broadcast(&c->turn);
	pthread_mutex_unlock(&c->lock);
	/* Never read again, so it wakes every present and later wait. Cannot fill up. */
	if (write(c->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		return;
}

void channel_close(struct channel *c)
{
	if (!c)
		return;
	say_goodbye(c);
	SSL_free(c->ssl);
	wire_detach(c);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	close(c->fd);
	pthread_cond_destroy(&c->turn);
	pthread_mutex_destroy(&c->lock);
	OPENSSL_cleanse(c->psk_key, sizeof(c->psk_key));
	free(c->plain.data);
	free(c->chunk);
	free(c);
}

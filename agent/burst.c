// SPDX-License-Identifier: Apache-2.0
#include "agent/burst.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIAL_NS      (2 * NS_PER_SEC)
#define SEND_NS      (400 * NS_PER_MS)
#define ALL_NS       (4 * NS_PER_SEC)
#define BLOCKS_LEAST 16u
#define UNSENT_MAX   BURST_BLOCK /* so that a slow link is not left with seconds of work */

enum burst_record { RECORD_BLOCK = 48, RECORD_DONE = 49, RECORD_RATE = 50 };

/* A connection grows faster for a while: the second half tells. */
void burst_judge(const struct burst_mark *marks, unsigned count, struct burst_result *out)
{
	const struct burst_mark *first = marks, *last;

	*out = (struct burst_result){0};
	if (!count)
		return;
	last = marks + count - 1;
	out->bytes = last->bytes;
	out->ns = last->ns - first->ns;
	while (first < last && 2 * first->bytes < last->bytes)
		first++;
	if (first < last && last->ns > first->ns)
		out->bytes_per_second = (uint64_t)((double)(last->bytes - first->bytes) * 1e9 /
						   (double)(last->ns - first->ns));
}

static void auth_make(const struct burst_key *k, struct channel_auth *out)
{
	*out = (struct channel_auth){.stream = CHANNEL_BURST};
	memcpy(out->session, k->session, sizeof(out->session));
	memcpy(out->key, k->key, sizeof(out->key));
}

/* ---- who receives ------------------------------------------------------------------ */

/* As for a target, whose pages are fresh: to allocate them is a part of what it takes. */
static int block_store(int fd, const struct record *r, struct burst_mark *marks, unsigned *count)
{
	uint64_t before = *count ? marks[*count - 1].bytes : 0;

	if (!r->len || r->len > BURST_BLOCK || before + r->len > BURST_BYTES_MAX ||
	    *count == BURST_MARKS_MAX)
		return -EBADMSG;
	if (pwrite(fd, r->payload, r->len, (off_t)before) != (ssize_t)r->len)
		return -ENOMEM;
	marks[(*count)++] = (struct burst_mark){clock_ns(), before + r->len};
	return 0;
}

static int blocks_receive(struct channel *c, int fd, uint64_t deadline, struct burst_mark *marks,
			  unsigned *count)
{
	struct record r;
	int rc;

	*count = 0;
	for (;;) {
		rc = channel_receive(c, &r, deadline);
		if (rc)
			return rc;
		if (r.type == RECORD_DONE)
			return r.len ? -EBADMSG : 0;
		if (r.type != RECORD_BLOCK)
			return -EBADMSG;
		rc = block_store(fd, &r, marks, count);
		if (rc)
			return rc;
	}
}

static int rate_send(struct channel *c, const struct burst_result *result, uint64_t deadline)
{
	struct buf b = {0};
	struct iovec iov;
	int rc;

	buf_put_u64(&b, result->bytes);
	buf_put_u64(&b, result->ns);
	buf_put_u64(&b, result->bytes_per_second);
	iov = (struct iovec){b.data, b.len};
	rc = buf_check(&b);
	if (!rc)
		rc = channel_send(c, RECORD_RATE, RECORD_MANDATORY, &iov, 1, deadline);
	buf_free(&b);
	return rc;
}

int burst_receive(int fd, const struct burst_key *k, struct error *e)
{
	struct burst_mark marks[BURST_MARKS_MAX];
	uint64_t deadline = clock_ns() + ALL_NS;
	struct burst_result result = {0};
	struct channel_auth auth;
	struct channel *c;
	unsigned count = 0;
	int memory, rc;

	rc = fault_point("burst.receive");
	if (rc) {
		close(fd);
		return error_set(e, rc, "a burst was cut: %s", strerror(-rc));
	}
	auth_make(k, &auth);
	rc = channel_accept(fd, &auth, deadline, &c, e);
	explicit_bzero(&auth, sizeof(auth));
	if (rc)
		return rc;
	memory = memfd_create("burst", MFD_CLOEXEC);
	rc = memory < 0 ? -errno : blocks_receive(c, memory, deadline, marks, &count);
	if (!rc) {
		burst_judge(marks, count, &result);
		rc = rate_send(c, &result, deadline);
	}
	if (memory >= 0)
		close(memory);
	channel_close(c);
	return rc ? error_set(e, rc, "a burst was cut: %s", strerror(-rc)) : 0;
}

/* ---- who sends ----------------------------------------------------------------------- */

static int blocks_send(struct channel *c, uint64_t most, uint64_t deadline)
{
	uint64_t began = clock_ns(), sent = 0, size = most / BLOCKS_LEAST + 1;
	void *block = calloc(1, BURST_BLOCK);
	int rc = block ? 0 : -ENOMEM;

	if (size > BURST_BLOCK)
		size = BURST_BLOCK;
	while (!rc && sent < most && clock_ns() - began < SEND_NS) {
		uint64_t n = most - sent < size ? most - sent : size;
		struct iovec iov = {block, n};

		rc = channel_send(c, RECORD_BLOCK, RECORD_MANDATORY, &iov, 1, deadline);
		sent += n;
	}
	free(block);
	return rc ? rc : channel_send(c, RECORD_DONE, RECORD_MANDATORY, NULL, 0, deadline);
}

static int rate_receive(struct channel *c, uint64_t deadline, struct burst_result *out)
{
	struct cursor cursor;
	struct record r;
	int rc = channel_receive(c, &r, deadline);

	if (rc)
		return rc;
	if (r.type != RECORD_RATE || r.len != 24)
		return -EBADMSG;
	cursor = cursor_of(r.payload, r.len);
	out->bytes = cursor_u64(&cursor);
	out->ns = cursor_u64(&cursor);
	out->bytes_per_second = cursor_u64(&cursor);
	return 0;
}

static int burst_dial(const char *address, uint16_t port, const struct burst_key *k,
		      uint64_t deadline, struct channel **out, struct error *e)
{
	struct preamble p = {.kind = PREAMBLE_DATA, .stream = CHANNEL_BURST};
	int unsent = (int)UNSENT_MAX, fd, rc;
	struct channel_auth auth;

	memcpy(p.session, k->session, sizeof(p.session));
	rc = channel_dial(address, port, &p, clock_ns() + DIAL_NS, &fd, e);
	if (rc)
		return rc;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	auth_make(k, &auth);
	rc = channel_connect(fd, &auth, deadline, out, e);
	explicit_bzero(&auth, sizeof(auth));
	return rc;
}

int burst_send(const char *address, uint16_t port, const struct burst_key *k, uint64_t most,
	       struct burst_result *out, struct error *e)
{
	uint64_t deadline = clock_ns() + ALL_NS;
	struct channel *c;
	int rc = burst_dial(address, port, k, deadline, &c, e);

	if (rc)
		return rc;
	rc = blocks_send(c, most < BURST_BYTES_MAX ? most : BURST_BYTES_MAX, deadline);
	if (!rc)
		rc = rate_receive(c, deadline, out);
	channel_close(c);
	return rc ? error_set(e, rc, "%s", strerror(-rc)) : 0;
}

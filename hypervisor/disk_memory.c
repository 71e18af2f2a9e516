// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

struct disk_memory {
	struct disk_backend backend;
	uint8_t *bytes;
	bool crashed;
	struct disk_request **waiting; /* oldest first */
	unsigned count, room;
};

static struct disk_memory *memory_of(const struct disk_backend *b)
{
	return (struct disk_memory *)CONTAINER_OF(b, struct disk_memory, backend);
}

static int disk_memory_submit(struct disk_backend *b, struct disk_request *r)
{
	struct disk_memory *m = memory_of(b);
	if (r->offset > b->size || r->length > b->size - r->offset)
		return -EINVAL;
	if (b->readonly && r->op != DISK_READ && r->op != DISK_FLUSH)
		return -EROFS;
	if (m->count == m->room) {
		unsigned room = m->room ? 2 * m->room : 8;
		void *more = realloc(m->waiting, room * sizeof(struct disk_request *));
		if (!more)
			return -ENOMEM;
		m->waiting = more;
		m->room = room;
	}
	m->waiting[m->count++] = r;
	return 0;
}

static void bytes_move(uint8_t *at, const struct disk_request *r)
{
	for (int i = 0; i < r->iov_count; i++) {
		size_t len = r->iov[i].iov_len;
		if (r->op == DISK_READ)
			memcpy(r->iov[i].iov_base, at, len);
		else
			memcpy(at, r->iov[i].iov_base, len);
		at += len;
	}
}

static void request_carry_out(struct disk_memory *m, const struct disk_request *r)
{
	uint8_t *at = m->bytes + r->offset;
	if (r->op == DISK_READ || r->op == DISK_WRITE)
		bytes_move(at, r);
	else if (r->op == DISK_WRITE_ZEROES || r->op == DISK_DISCARD)
		memset(at, 0, r->length);
}

int disk_memory_complete(struct disk_backend *b, unsigned pick)
{
	struct disk_memory *m = memory_of(b);
	if (pick >= m->count)
		return -ENOENT;
	struct disk_request *r = m->waiting[pick];
	m->count--;
	memmove(&m->waiting[pick], &m->waiting[pick + 1],
		(m->count - pick) * sizeof(struct disk_request *));
	if (!m->crashed)
		request_carry_out(m, r);
	r->done(r, m->crashed ? -EIO : 0);
	return 0;
}

unsigned disk_memory_waiting(const struct disk_backend *b)
{
	return memory_of(b)->count;
}

void disk_memory_crash(struct disk_backend *b)
{
	memory_of(b)->crashed = true;
}

static void disk_memory_drain(struct disk_backend *b)
{
	while (disk_memory_complete(b, 0) == 0)
		;
}

static int disk_memory_claim(struct disk_backend *b, struct error *e)
{
	return 0;
}

static int disk_memory_yield(struct disk_backend *b, struct error *e)
{
	return 0;
}

static void disk_memory_destroy(struct disk_backend *b)
{
	disk_memory_drain(b);
	free(memory_of(b)->waiting);
	free(memory_of(b));
}

static const struct disk_backend_ops disk_memory_ops = {
	.submit = disk_memory_submit,
	.drain = disk_memory_drain,
	.claim = disk_memory_claim,
	.yield = disk_memory_yield,
	.destroy = disk_memory_destroy,
};

int disk_memory_create(void *bytes, uint64_t size, struct disk_backend **out)
{
	struct disk_memory *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->backend = (struct disk_backend){.ops = &disk_memory_ops, .size = size, .fd = -1};
	m->bytes = bytes;
	*out = &m->backend;
	return 0;
}

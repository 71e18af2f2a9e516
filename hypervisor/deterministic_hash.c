// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"

#define MULTIPLIER UINT64_C(0x9e3779b97f4a7c15)
#define LANES      4u

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * MULTIPLIER;
	return h << 29 | h >> 35;
}

/* Lanes, so that one multiplication does not wait for the other. Not against forgery. */
uint64_t hash_bytes(uint64_t seed, const void *data, size_t n)
{
	const uint8_t *at = data;
	uint64_t lane[LANES] = {seed, ~seed, seed + MULTIPLIER, n}, v, h;
	size_t left = n;

	for (; left >= sizeof(lane); left -= sizeof(lane))
		for (unsigned i = 0; i < LANES; i++, at += sizeof(v)) {
			memcpy(&v, at, sizeof(v));
			lane[i] = mix(lane[i], v);
		}
	h = mix(mix(lane[0], lane[1]), mix(lane[2], lane[3]));
	for (; left; left--)
		h = mix(h, *at++);
	return mix(h, h >> 31);
}

static bool is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, VM_PAGE_SIZE - 1);
}

/* A sum over the pages that hold anything: so holes in the file need no look. */
static uint64_t range_hash(const struct memory *m, uint64_t from, uint64_t to)
{
	uint64_t sum = 0;

	for (uint64_t at = from; at < to; at += VM_PAGE_SIZE)
		if (!is_zero(m->base + at))
			sum += hash_bytes(at, m->base + at, VM_PAGE_SIZE);
	return sum;
}

static uint64_t memory_hash(const struct memory *m)
{
	uint64_t sum = 0;
	off_t at = 0, end;

	while ((at = lseek(m->fd, at, SEEK_DATA)) >= 0 && (uint64_t)at < m->size) {
		end = lseek(m->fd, at, SEEK_HOLE);
		if (end < at)
			end = (off_t)m->size;
		sum += range_hash(m, (uint64_t)at & ~(uint64_t)(VM_PAGE_SIZE - 1), (uint64_t)end);
		at = end;
	}
	return sum;
}

int machine_hash(struct vm *vm, uint64_t *out)
{
	struct buf state = {0};
	struct error e = {0};
	int rc;

	pthread_mutex_lock(&vm->lock);
	rc = vm->engine_ops->state_save(vm->engine, &state, &e);
	for (unsigned i = 0; !rc && i < vm->device_count; i++)
		rc = vm->devices[i]->ops->save(vm->devices[i], &state);
	if (!rc)
		rc = buf_check(&state);
	if (!rc)
		*out = hash_bytes(memory_hash(&vm->memory), state.data, state.len);
	pthread_mutex_unlock(&vm->lock);
	buf_free(&state);
	return rc;
}

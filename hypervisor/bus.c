// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "hypervisor/machine.h"

static bool range_holds(const struct bus_range *r, uint64_t address, uint64_t size)
{
	return address >= r->base && address - r->base < r->size &&
	       size <= r->size - (address - r->base);
}

static bool ranges_overlap(const struct bus_range *a, const struct bus_range *b)
{
	return a->base <= b->base ? b->base - a->base < a->size : a->base - b->base < b->size;
}

/* One may hold another (port 0xcf9 lies in the dword at 0xcf8); they may not cross. */
static bool ranges_conflict(const struct bus_range *a, const struct bus_range *b)
{
	if (!ranges_overlap(a, b))
		return false;
	if (a->size == b->size)
		return true;
	return a->size > b->size ? !range_holds(a, b->base, b->size)
				 : !range_holds(b, a->base, a->size);
}

int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev)
{
	struct bus_range range = {.base = base, .size = size, .ops = ops, .dev = dev};
	unsigned at = 0;

	if (!size || base + (size - 1) < base)
		return -EINVAL;
	for (unsigned i = 0; i < b->count; i++)
		if (ranges_conflict(&b->ranges[i], &range))
			return -EEXIST;
	if (b->count == BUS_RANGES_MAX)
		return -ENOSPC;
	/* Smallest first, so that the first that holds an access is the innermost. */
	while (at < b->count && b->ranges[at].size <= size)
		at++;
	memmove(&b->ranges[at + 1], &b->ranges[at], (b->count - at) * sizeof(range));
	b->ranges[at] = range;
	b->count++;
	return 0;
}

void bus_remove(struct bus *b, const void *dev, uint64_t base)
{
	for (unsigned i = 0; i < b->count; i++) {
		if (b->ranges[i].dev != dev || b->ranges[i].base != base)
			continue;
		b->count--;
		memmove(&b->ranges[i], &b->ranges[i + 1], (b->count - i) * sizeof(b->ranges[0]));
		return;
	}
}

static const struct bus_range *bus_find(const struct bus *b, uint64_t address, unsigned size)
{
	for (unsigned i = 0; i < b->count; i++)
		if (range_holds(&b->ranges[i], address, size))
			return &b->ranges[i];
	return NULL;
}

static bool size_is_natural(unsigned size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

void bus_access(struct bus *b, uint64_t address, uint8_t *data, unsigned size, bool write)
{
	const struct bus_range *r = size_is_natural(size) ? bus_find(b, address, size) : NULL;

	if (r && write)
		r->ops->write(r->dev, address - r->base, data, size);
	else if (r)
		r->ops->read(r->dev, address - r->base, data, size);
	else if (size > 1) /* an odd size, or across a border: octet by octet */
		for (unsigned i = 0; i < size; i++)
			bus_access(b, address + i, data + i, 1, write);
	else if (!write)
		*data = 0xff;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A miniature virtio-pci driver: finds a device through ECAM, walks its
 * capabilities, negotiates, sets up MSI-X and queues, as a real one does, with
 * bus accesses and guest memory only.
 */
#ifndef POLLUX_TESTS_DRIVER_H
#define POLLUX_TESTS_DRIVER_H

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "tests/unit/hypervisor/double.h"

#define DRIVER_QUEUES   3u
#define DRIVER_SIZE_MAX 256u
#define DRIVER_MSI      UINT64_C(0xfee00000)
#define FEATURE(n)      (UINT64_C(1) << (n))

struct driver_queue {
	uint16_t size;
	uint64_t desc, avail, used, bell;
	uint16_t avail_index, used_seen, signalled;
	bool busy[DRIVER_SIZE_MAX];
};
struct driver {
	struct vm *vm;
	unsigned slot;
	uint64_t config, common, isr, device, notify; /* guest addresses */
	uint32_t multiplier;
	unsigned msix; /* capability */
	uint64_t table;
	uint64_t features;
	uint64_t free; /* next guest address to hand out */
	struct driver_queue queues[DRIVER_QUEUES];
};
struct piece {
	uint64_t gpa;
	uint32_t len;
};

/* ---- finding it ------------------------------------------------------------------ */

static inline uint64_t driver_config(unsigned slot, unsigned at)
{
	return LAYOUT_ECAM_BASE + ((uint64_t)slot << 15) + at;
}

static inline void driver_capability(struct driver *d, unsigned cap, uint64_t bar)
{
	unsigned type = (unsigned)vm_peek(d->vm, d->config + cap + 3, 1);
	uint64_t at = bar + vm_peek(d->vm, d->config + cap + 8, 4);

	if (type == VIRTIO_PCI_CAP_COMMON_CFG)
		d->common = at;
	if (type == VIRTIO_PCI_CAP_ISR_CFG)
		d->isr = at;
	if (type == VIRTIO_PCI_CAP_DEVICE_CFG)
		d->device = at;
	if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
		d->notify = at;
		d->multiplier = (uint32_t)vm_peek(d->vm, d->config + cap + 16, 4);
	}
}

static inline void driver_find(struct driver *d, struct vm *vm, unsigned id)
{
	uint64_t bar;
	unsigned cap;

	memset(d, 0, sizeof(*d));
	d->vm = vm;
	d->free = 0x10000;
	for (d->slot = 0; d->slot < 32; d->slot++) {
		d->config = driver_config(d->slot, 0);
		if (vm_peek(vm, d->config, 4) == (0x1af4 | (uint64_t)(0x1040 + id) << 16))
			break;
	}
	assert_in_range(d->slot, 1, 31);
	vm_poke(vm, d->config + PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	bar = vm_peek(vm, d->config + PCI_BASE_ADDRESS_0, 4);
	for (cap = (unsigned)vm_peek(vm, d->config + PCI_CAPABILITY_LIST, 1); cap;
	     cap = (unsigned)vm_peek(vm, d->config + cap + 1, 1)) {
		unsigned kind = (unsigned)vm_peek(vm, d->config + cap, 1);
		if (kind == PCI_CAP_ID_VNDR)
			driver_capability(d, cap, bar);
		if (kind == PCI_CAP_ID_MSIX) {
			d->msix = cap;
			d->table = bar + (vm_peek(vm, d->config + cap + 4, 4) & ~7u);
		}
	}
	assert_true(d->common && d->isr && d->device && d->notify && d->msix);
}

/* ---- setting it up ------------------------------------------------------------------ */

static inline uint64_t common_get(struct driver *d, unsigned at, unsigned size)
{
	return vm_peek(d->vm, d->common + at, size);
}
static inline void common_set(struct driver *d, unsigned at, unsigned size, uint64_t v)
{
	vm_poke(d->vm, d->common + at, size, v);
}
static inline uint8_t driver_status(struct driver *d)
{
	return (uint8_t)common_get(d, VIRTIO_PCI_COMMON_STATUS, 1);
}
static inline void driver_set_status(struct driver *d, uint8_t bits)
{
	common_set(d, VIRTIO_PCI_COMMON_STATUS, 1, driver_status(d) | bits);
}
static inline uint64_t driver_offered(struct driver *d)
{
	uint64_t low, high;

	common_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	low = common_get(d, VIRTIO_PCI_COMMON_DF, 4);
	common_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	high = common_get(d, VIRTIO_PCI_COMMON_DF, 4);
	return low | high << 32;
}
static inline bool driver_negotiate(struct driver *d, uint64_t features)
{
	driver_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set_status(d, VIRTIO_CONFIG_S_DRIVER);
	common_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	common_set(d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)features);
	common_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	common_set(d, VIRTIO_PCI_COMMON_GF, 4, features >> 32);
	driver_set_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	d->features = features;
	return driver_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

/* Vector n sends data slot << 8 | n. */
static inline void driver_msix_on(struct driver *d, unsigned vectors)
{
	for (unsigned i = 0; i < vectors; i++) {
		vm_poke(d->vm, d->table + 16 * i, 4, DRIVER_MSI);
		vm_poke(d->vm, d->table + 16 * i + 4, 4, 0);
		vm_poke(d->vm, d->table + 16 * i + 8, 4, d->slot << 8 | i);
		vm_poke(d->vm, d->table + 16 * i + 12, 4, 0);
	}
	vm_poke(d->vm, d->config + d->msix + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	common_set(d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
}

static inline uint64_t driver_alloc(struct driver *d, uint64_t len, uint64_t align)
{
	uint64_t at = (d->free + align - 1) & ~(align - 1);

	d->free = at + len;
	assert_true(d->free <= DOUBLE_MEMORY);
	return at;
}

static inline void driver_queue_on(struct driver *d, unsigned i, uint16_t size)
{
	struct driver_queue *q = &d->queues[i];

	*q = (struct driver_queue){.size = size};
	q->desc = driver_alloc(d, 16u * size, 4096);
	q->avail = driver_alloc(d, 6u + 2u * size, 2);
	q->used = driver_alloc(d, 6u + 8u * size, 4);
	memset(memory_at(&d->vm->memory, q->desc, d->free - q->desc), 0, d->free - q->desc);
	common_set(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
	assert_int_not_equal(common_get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	common_set(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	common_set(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, i + 1);
	common_set(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)q->desc);
	common_set(d, VIRTIO_PCI_COMMON_Q_DESCHI, 4, q->desc >> 32);
	common_set(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)q->avail);
	common_set(d, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, q->avail >> 32);
	common_set(d, VIRTIO_PCI_COMMON_Q_USEDLO, 4, (uint32_t)q->used);
	common_set(d, VIRTIO_PCI_COMMON_Q_USEDHI, 4, q->used >> 32);
	q->bell = d->notify + d->multiplier * common_get(d, VIRTIO_PCI_COMMON_Q_NOFF, 2);
	common_set(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

/* Everything, with `features` and `queues` queues of `size`. */
static inline void driver_start(struct driver *d, struct vm *vm, unsigned id, uint64_t features,
				unsigned queues, uint16_t size)
{
	driver_find(d, vm, id);
	assert_true(driver_negotiate(d, features | FEATURE(VIRTIO_F_VERSION_1)));
	driver_msix_on(d, queues + 1);
	for (unsigned i = 0; i < queues; i++)
		driver_queue_on(d, i, size);
	driver_set_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
}

/* ---- using it ----------------------------------------------------------------------------- */

static inline uint16_t *ring16(struct driver *d, uint64_t gpa)
{
	return memory_at(&d->vm->memory, gpa, 2);
}
static inline void *driver_at(struct driver *d, uint64_t gpa, uint64_t len)
{
	void *p = memory_at(&d->vm->memory, gpa, len);

	assert_non_null(p);
	return p;
}
static inline void desc_put(struct driver *d, uint64_t table, unsigned i, struct piece p,
			    uint16_t flags, uint16_t next)
{
	struct vring_desc v = {.addr = p.gpa, .len = p.len, .flags = flags, .next = next};

	memcpy(driver_at(d, table + 16u * i, 16), &v, 16);
}
static inline uint16_t desc_free(struct driver_queue *q)
{
	for (uint16_t i = 0; i < q->size; i++)
		if (!q->busy[i]) {
			q->busy[i] = true;
			return i;
		}
	fail_msg("the queue is full");
	return 0;
}
static inline void driver_publish(struct driver *d, unsigned queue, uint16_t head)
{
	struct driver_queue *q = &d->queues[queue];

	*ring16(d, q->avail + 4 + 2u * (q->avail_index % q->size)) = head;
	q->avail_index++;
	__atomic_store_n(ring16(d, q->avail + 2), q->avail_index, __ATOMIC_SEQ_CST);
}

/* Put pieces (readable first) in the ring; returns the head. Rings no bell. */
static inline uint16_t driver_add(struct driver *d, unsigned queue, const struct piece *p,
				  unsigned out, unsigned in)
{
	struct driver_queue *q = &d->queues[queue];
	uint16_t head = desc_free(q), at = head;

	for (unsigned i = 0; i < out + in; i++) {
		uint16_t flags = i >= out ? VRING_DESC_F_WRITE : 0;
		bool last = i + 1 == out + in;
		uint16_t next = last ? 0 : desc_free(q);
		desc_put(d, q->desc, at, p[i], flags | (last ? 0 : VRING_DESC_F_NEXT), next);
		at = next;
	}
	driver_publish(d, queue, head);
	return head;
}

static inline uint16_t driver_add_indirect(struct driver *d, unsigned queue, const struct piece *p,
					   unsigned out, unsigned in)
{
	struct driver_queue *q = &d->queues[queue];
	uint64_t table = driver_alloc(d, 16u * (out + in), 16);
	uint16_t head = desc_free(q);

	for (unsigned i = 0; i < out + in; i++)
		desc_put(d, table, i, p[i],
			 (i >= out ? VRING_DESC_F_WRITE : 0) |
				 (i + 1 < out + in ? VRING_DESC_F_NEXT : 0),
			 (uint16_t)(i + 1));
	desc_put(d, q->desc, head, (struct piece){table, 16u * (out + in)}, VRING_DESC_F_INDIRECT,
		 0);
	driver_publish(d, queue, head);
	return head;
}

/* Through the engine's eventfd if it has one there, else by MMIO. */
static inline void driver_kick(struct driver *d, unsigned queue)
{
	const struct engine *en = d->vm->engine;
	uint64_t one = 1;

	for (unsigned i = 0; i < DOUBLE_BELLS; i++)
		if (en->bells[i].address == d->queues[queue].bell) {
			assert_int_equal(write(en->bells[i].fd, &one, 8), 8);
			return;
		}
	vm_poke(d->vm, d->queues[queue].bell, 2, queue);
}

/* The next request that came back; false: none. */
static inline bool driver_take(struct driver *d, unsigned queue, uint16_t *head, uint32_t *len)
{
	struct driver_queue *q = &d->queues[queue];
	uint16_t used = __atomic_load_n(ring16(d, q->used + 2), __ATOMIC_SEQ_CST);
	struct vring_used_elem e;
	struct vring_desc v;
	uint16_t at;

	if (used == q->used_seen)
		return false;
	memcpy(&e, driver_at(d, q->used + 4 + 8u * (q->used_seen % q->size), 8), 8);
	q->used_seen++;
	assert_true(e.id < q->size && q->busy[e.id]);
	at = (uint16_t)e.id;
	do {
		memcpy(&v, driver_at(d, q->desc + 16u * at, 16), 16);
		q->busy[at] = false;
		at = v.next;
	} while (v.flags & VRING_DESC_F_NEXT);
	*head = (uint16_t)e.id;
	*len = e.len;
	return true;
}

/* With EVENT_IDX: interrupt when the used index passes `index`. */
static inline void driver_used_event(struct driver *d, unsigned queue, uint16_t index)
{
	struct driver_queue *q = &d->queues[queue];

	__atomic_store_n(ring16(d, q->avail + 4 + 2u * q->size), index, __ATOMIC_SEQ_CST);
}
static inline uint16_t driver_avail_event(struct driver *d, unsigned queue)
{
	struct driver_queue *q = &d->queues[queue];

	return __atomic_load_n(ring16(d, q->used + 4 + 8u * q->size), __ATOMIC_SEQ_CST);
}
/* How often a vector of this device was signalled (of the last messages). */
static inline unsigned driver_msis(const struct driver *d, unsigned vector)
{
	const struct engine *en = d->vm->engine;
	unsigned n = 0;

	for (unsigned i = 0; i < DOUBLE_MSIS && i < en->msi_count; i++)
		n += en->msis[i].data == (d->slot << 8 | vector);
	return n;
}
static inline bool page_marked(struct vm *vm, uint64_t gpa)
{
	return atomic_load(&vm->memory.dirty[gpa / 4096 / 64]) >> (gpa / 4096 % 64) & 1;
}

#endif

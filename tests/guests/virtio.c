// SPDX-License-Identifier: Apache-2.0
/* The driver's side of virtio 1.2 over PCI, as little of it as the guests need. */
#include "tests/guests/guest.h"

#define ECAM           0xe0000000ul
#define PCI_CAPS       0x34
#define CAP_VENDOR     0x09
#define CAP_MSIX       0x11
#define CFG_COMMON     1
#define CFG_NOTIFY     2
#define CFG_DEVICE     4
#define VIRTIO_VENDOR  0x1af4
#define MSI_ADDRESS    0xfee00000u
#define STATUS_DRIVER  3
#define STATUS_FEATURE 0xb
#define STATUS_READY   0xf
#define F_VERSION_1    1u /* of the high 32 */

static volatile uint8_t *config_at(unsigned slot, unsigned at)
{
	return (volatile uint8_t *)(ECAM + ((uint64_t)slot << 15) + at);
}
static uint32_t config32(unsigned slot, unsigned at)
{
	return *(volatile uint32_t *)config_at(slot, at);
}

static volatile uint8_t *bar_at(unsigned slot, unsigned bar, uint32_t offset)
{
	uint64_t base = config32(slot, 0x10 + 4 * bar);
	if ((base & 6) == 4)
		base |= (uint64_t)config32(slot, 0x14 + 4 * bar) << 32;
	return (volatile uint8_t *)((base & ~0xful) + offset);
}

static void capability(struct virtio *v, unsigned at)
{
	uint32_t head = config32(v->slot, at), where = config32(v->slot, at + 4);
	if ((head & 0xff) == CAP_MSIX) {
		v->msix = bar_at(v->slot, where & 7, where & ~7u);
		*(volatile uint16_t *)config_at(v->slot, at + 2) = 0x8000;
		return;
	}
	if ((head & 0xff) != CAP_VENDOR)
		return;
	uint32_t offset = config32(v->slot, at + 8);
	unsigned kind = head >> 24;
	if (kind == CFG_COMMON)
		v->common = bar_at(v->slot, where & 0xff, offset);
	if (kind == CFG_DEVICE)
		v->config = bar_at(v->slot, where & 0xff, offset);
	if (kind == CFG_NOTIFY) {
		v->notify = bar_at(v->slot, where & 0xff, offset);
		v->notify_multiplier = config32(v->slot, at + 16);
	}
}

bool virtio_find(struct virtio *v, unsigned kind, unsigned nth)
{
	uint32_t id = (0x1040 + kind) << 16 | VIRTIO_VENDOR;
	for (v->slot = 0; v->slot < 32; v->slot++)
		if (config32(v->slot, 0) == id && !nth--)
			break;
	if (v->slot == 32)
		return false;
	*(volatile uint16_t *)config_at(v->slot, 4) = 0x406;
	for (unsigned at = *config_at(v->slot, PCI_CAPS); at; at = *config_at(v->slot, at + 1))
		capability(v, at);
	if (!v->common || !v->notify || !v->config || !v->msix)
		fail("virtio device in slot %u lacks a capability", (uint64_t)v->slot);
	return true;
}

static volatile uint8_t *status(struct virtio *v)
{
	return v->common + 20;
}
static void common32(struct virtio *v, unsigned at, uint32_t x)
{
	*(volatile uint32_t *)(v->common + at) = x;
}
static void common16(struct virtio *v, unsigned at, uint16_t x)
{
	*(volatile uint16_t *)(v->common + at) = x;
}
static void common64(struct virtio *v, unsigned at, const volatile void *p)
{
	common32(v, at, (uint32_t)(uint64_t)p);
	common32(v, at + 4, (uint32_t)((uint64_t)p >> 32));
}

void virtio_start(struct virtio *v, uint32_t features)
{
	*status(v) = 0;
	while (*status(v))
		pause();
	*status(v) = STATUS_DRIVER;
	common32(v, 0, 0);
	features &= *(volatile uint32_t *)(v->common + 4);
	common32(v, 8, 0);
	common32(v, 12, features);
	common32(v, 8, 1);
	common32(v, 12, F_VERSION_1);
	*status(v) = STATUS_FEATURE;
	if (*status(v) != STATUS_FEATURE)
		fail("virtio features are refused");
	common16(v, 16, 0xffff);
}

void virtio_queue(struct virtio *v, struct vq *q, unsigned number, unsigned vector)
{
	volatile uint32_t *entry = (volatile uint32_t *)(v->msix + 16 * number);
	entry[0] = MSI_ADDRESS | lapic_id() << 12;
	entry[1] = 0;
	entry[2] = vector;
	entry[3] = 0;
	common16(v, 22, (uint16_t)number);
	common16(v, 24, VQ_SIZE);
	common16(v, 26, (uint16_t)number);
	common64(v, 32, q->desc);
	common64(v, 40, &q->avail);
	common64(v, 48, &q->used);
	q->number = (uint16_t)number;
	q->bell = (volatile uint16_t *)(v->notify + *(volatile uint16_t *)(v->common + 30) *
							    v->notify_multiplier);
	common16(v, 28, 1);
}

void virtio_ready(struct virtio *v)
{
	*status(v) = STATUS_READY;
}

void vq_offer(struct vq *q, uint16_t head)
{
	q->avail.ring[q->avail.index % VQ_SIZE] = head;
	__atomic_store_n(&q->avail.index, (uint16_t)(q->avail.index + 1), __ATOMIC_RELEASE);
}

/* The index must be seen before the flag is looked at: a full barrier. */
void vq_kick(struct vq *q)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&q->used.flags, __ATOMIC_RELAXED) & 1))
		*q->bell = q->number;
}

int vq_reap(struct vq *q, uint32_t *len)
{
	if (__atomic_load_n(&q->used.index, __ATOMIC_ACQUIRE) == q->seen)
		return -1;
	unsigned at = q->seen++ % VQ_SIZE;
	*len = q->used.ring[at].len;
	if (q->used.ring[at].id >= VQ_SIZE)
		fail("used ring: id %u", (uint64_t)q->used.ring[at].id);
	return (int)q->used.ring[at].id;
}

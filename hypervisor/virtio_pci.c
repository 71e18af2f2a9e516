// SPDX-License-Identifier: Apache-2.0
/*
 * virtio over PCI (virtio 1.2, section 4.1), modern interface only. BAR 0:
 *
 *   0x0000 common configuration   0x1000 ISR   0x2000 device configuration
 *   0x3000 doorbells, 4 bytes each   0x4000 MSI-X table   0x5000 PBA
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/virtio.h"

#define LOG_MODULE        "virtio"

#define AT_COMMON         0x0000u
#define AT_ISR            0x1000u
#define AT_DEVICE         0x2000u
#define AT_NOTIFY         0x3000u
#define AT_MSIX           0x4000u
#define AT_PBA            0x5000u
#define BAR_SIZE          0x8000u
#define AREA_SIZE         0x1000u
#define COMMON_LEN        0x38u
#define BELL_SIZE         4u /* notify_off_multiplier */

#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_DEVICE_VIRTIO 0x1040 /* + virtio id */

/* ---- common configuration ----------------------------------------------------
 * One entry a field; 64-bit fields are two, as drivers access them (4.1.3.1). */

static struct virtqueue *selected(struct virtio_device *v)
{
	return v->regs.queue_select < v->ops->queues ? &v->regs.queues[v->regs.queue_select] : NULL;
}

/* Queues are set up while they are disabled, and never while a reset lasts. */
static struct virtqueue *selected_idle(struct virtio_device *v)
{
	struct virtqueue *q = selected(v);

	return q && !q->enabled && !v->resetting ? q : NULL;
}

static uint32_t half_get(uint64_t whole, unsigned half)
{
	return half > 1 ? 0 : (uint32_t)(whole >> (32 * half));
}
static void half_set(uint64_t *whole, unsigned half, uint32_t v)
{
	uint64_t mask = UINT64_C(0xffffffff) << (32 * half);

	*whole = (*whole & ~mask) | (uint64_t)v << (32 * half);
}

static uint32_t offered_select_get(struct virtio_device *v, unsigned half)
{
	return v->regs.offered_select;
}
static void offered_select_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	v->regs.offered_select = x;
}
static uint32_t offered_get(struct virtio_device *v, unsigned half)
{
	return half_get(v->offered, v->regs.offered_select);
}
static uint32_t accepted_select_get(struct virtio_device *v, unsigned half)
{
	return v->regs.accepted_select;
}
static void accepted_select_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	v->regs.accepted_select = x;
}
static uint32_t accepted_get(struct virtio_device *v, unsigned half)
{
	return half_get(v->regs.accepted, v->regs.accepted_select);
}
static void accepted_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (v->regs.accepted_select < 2 && !(v->regs.status & VIRTIO_CONFIG_S_FEATURES_OK))
		half_set(&v->regs.accepted, v->regs.accepted_select, x);
}
static uint16_t vector_legal(const struct virtio_device *v, uint32_t x)
{
	return x < v->pci.msix_count ? (uint16_t)x : PCI_NO_VECTOR;
}
static uint32_t config_vector_get(struct virtio_device *v, unsigned half)
{
	return v->regs.config_vector;
}
static void config_vector_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	v->regs.config_vector = vector_legal(v, x);
}
static uint32_t queues_get(struct virtio_device *v, unsigned half)
{
	return v->ops->queues;
}
static uint32_t status_get(struct virtio_device *v, unsigned half)
{
	return v->regs.status;
}
static void status_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	virtio_status_write(v, (uint8_t)x);
}
static uint32_t generation_get(struct virtio_device *v, unsigned half)
{
	return v->regs.generation;
}
static uint32_t queue_select_get(struct virtio_device *v, unsigned half)
{
	return v->regs.queue_select;
}
static void queue_select_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	v->regs.queue_select = (uint16_t)x;
}
static uint32_t queue_size_get(struct virtio_device *v, unsigned half)
{
	return selected(v) ? selected(v)->size : 0;
}
static void queue_size_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected_idle(v) && x <= VIRTQUEUE_SIZE_MAX)
		selected(v)->size = (uint16_t)x;
}
static uint32_t queue_vector_get(struct virtio_device *v, unsigned half)
{
	return selected(v) ? selected(v)->vector : PCI_NO_VECTOR;
}
static void queue_vector_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected(v))
		selected(v)->vector = vector_legal(v, x);
}
static uint32_t queue_enable_get(struct virtio_device *v, unsigned half)
{
	return selected(v) && selected(v)->enabled;
}
static void queue_enable_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected_idle(v) && x == 1 && (v->regs.status & VIRTIO_CONFIG_S_FEATURES_OK))
		virtio_queue_enable(v, selected(v));
}
static uint32_t bell_get(struct virtio_device *v, unsigned half)
{
	return v->regs.queue_select;
}
static uint32_t desc_get(struct virtio_device *v, unsigned half)
{
	return selected(v) ? half_get(selected(v)->desc, half) : 0;
}
static void desc_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected_idle(v))
		half_set(&selected(v)->desc, half, x);
}
static uint32_t avail_get(struct virtio_device *v, unsigned half)
{
	return selected(v) ? half_get(selected(v)->avail, half) : 0;
}
static void avail_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected_idle(v))
		half_set(&selected(v)->avail, half, x);
}
static uint32_t used_get(struct virtio_device *v, unsigned half)
{
	return selected(v) ? half_get(selected(v)->used, half) : 0;
}
static void used_set(struct virtio_device *v, unsigned half, uint32_t x)
{
	if (selected_idle(v))
		half_set(&selected(v)->used, half, x);
}
static void read_only(struct virtio_device *v, unsigned half, uint32_t x)
{
}

struct field {
	uint8_t at, size, half;
	uint32_t (*get)(struct virtio_device *v, unsigned half);
	void (*set)(struct virtio_device *v, unsigned half, uint32_t x);
};
static const struct field common_fields[] = {
	{VIRTIO_PCI_COMMON_DFSELECT, 4, 0, offered_select_get, offered_select_set},
	{VIRTIO_PCI_COMMON_DF, 4, 0, offered_get, read_only},
	{VIRTIO_PCI_COMMON_GFSELECT, 4, 0, accepted_select_get, accepted_select_set},
	{VIRTIO_PCI_COMMON_GF, 4, 0, accepted_get, accepted_set},
	{VIRTIO_PCI_COMMON_MSIX, 2, 0, config_vector_get, config_vector_set},
	{VIRTIO_PCI_COMMON_NUMQ, 2, 0, queues_get, read_only},
	{VIRTIO_PCI_COMMON_STATUS, 1, 0, status_get, status_set},
	{VIRTIO_PCI_COMMON_CFGGENERATION, 1, 0, generation_get, read_only},
	{VIRTIO_PCI_COMMON_Q_SELECT, 2, 0, queue_select_get, queue_select_set},
	{VIRTIO_PCI_COMMON_Q_SIZE, 2, 0, queue_size_get, queue_size_set},
	{VIRTIO_PCI_COMMON_Q_MSIX, 2, 0, queue_vector_get, queue_vector_set},
	{VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0, queue_enable_get, queue_enable_set},
	{VIRTIO_PCI_COMMON_Q_NOFF, 2, 0, bell_get, read_only},
	{VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0, desc_get, desc_set},
	{VIRTIO_PCI_COMMON_Q_DESCHI, 4, 1, desc_get, desc_set},
	{VIRTIO_PCI_COMMON_Q_AVAILLO, 4, 0, avail_get, avail_set},
	{VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 1, avail_get, avail_set},
	{VIRTIO_PCI_COMMON_Q_USEDLO, 4, 0, used_get, used_set},
	{VIRTIO_PCI_COMMON_Q_USEDHI, 4, 1, used_get, used_set},
};

static const struct field *common_field(uint64_t at, unsigned size)
{
	for (size_t i = 0; i < ARRAY_LEN(common_fields); i++)
		if (common_fields[i].at == at && common_fields[i].size == size)
			return &common_fields[i];
	return NULL;
}

static void common_read(struct virtio_device *v, uint64_t at, uint8_t *data, unsigned size)
{
	const struct field *f = common_field(at, size);
	uint32_t x = f ? f->get(v, f->half) : 0;

	if (size == 8) {
		common_read(v, at, data, 4);
		common_read(v, at + 4, data + 4, 4);
		return;
	}
	memcpy(data, &x, size);
}

static void common_write(struct virtio_device *v, uint64_t at, const uint8_t *data, unsigned size)
{
	const struct field *f = common_field(at, size);
	uint32_t x = 0;

	if (size == 8) {
		common_write(v, at, data, 4);
		common_write(v, at + 4, data + 4, 4);
	} else if (f) {
		memcpy(&x, data, size);
		f->set(v, f->half, x);
	}
}

/* ---- the other areas ------------------------------------------------------------ */

static void isr_read(struct virtio_device *v, uint64_t at, uint8_t *data, unsigned size)
{
	memset(data, 0, size);
	if (at)
		return;
	data[0] = v->regs.isr;
	v->regs.isr = 0;
	pci_intx(&v->pci, false);
}

static void isr_write(struct virtio_device *v, uint64_t at, const uint8_t *data, unsigned size)
{
}

static void device_read(struct virtio_device *v, uint64_t at, uint8_t *data, unsigned size)
{
	v->ops->config_read(v, (unsigned)at, data, size);
}

static void device_write(struct virtio_device *v, uint64_t at, const uint8_t *data, unsigned size)
{
	v->ops->config_write(v, (unsigned)at, data, size);
}

static void notify_read(struct virtio_device *v, uint64_t at, uint8_t *data, unsigned size)
{
	memset(data, 0, size);
}

static void notify_write(struct virtio_device *v, uint64_t at, const uint8_t *data, unsigned size)
{
	virtio_kick(v, (unsigned)(at / BELL_SIZE));
}

static const struct area {
	void (*read)(struct virtio_device *v, uint64_t at, uint8_t *data, unsigned size);
	void (*write)(struct virtio_device *v, uint64_t at, const uint8_t *data, unsigned size);
} areas[] = {
	[AT_COMMON / AREA_SIZE] = {common_read, common_write},
	[AT_ISR / AREA_SIZE] = {isr_read, isr_write},
	[AT_DEVICE / AREA_SIZE] = {device_read, device_write},
	[AT_NOTIFY / AREA_SIZE] = {notify_read, notify_write},
};

static struct virtio_device *virtio_of_pci(struct pci_function *f)
{
	return CONTAINER_OF(f, struct virtio_device, pci);
}

static void bar_read(struct pci_function *f, uint64_t at, void *data, unsigned size)
{
	memset(data, 0, size);
	if (at / AREA_SIZE < ARRAY_LEN(areas))
		areas[at / AREA_SIZE].read(virtio_of_pci(f), at % AREA_SIZE, data, size);
}

static void bar_write(struct pci_function *f, uint64_t at, const void *data, unsigned size)
{
	if (at / AREA_SIZE < ARRAY_LEN(areas))
		areas[at / AREA_SIZE].write(virtio_of_pci(f), at % AREA_SIZE, data, size);
}

/* ---- the window: BAR 0 through configuration space (4.1.4.9) ----------------------- */

#define WINDOW_DATA offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)
#define CAP_BAR     offsetof(struct virtio_pci_cap, bar)
#define CAP_OFFSET  offsetof(struct virtio_pci_cap, offset)
#define CAP_LENGTH  offsetof(struct virtio_pci_cap, length)

static void window_access(struct pci_function *f, unsigned at, unsigned size, bool write)
{
	unsigned window = virtio_of_pci(f)->window;
	const uint8_t *cap = f->config + window;
	uint32_t offset = pci_get32(cap, CAP_OFFSET), length = pci_get32(cap, CAP_LENGTH);

	if (at >= window + WINDOW_DATA + 4 || at + size <= window + WINDOW_DATA)
		return;
	if (cap[CAP_BAR] || (length != 1 && length != 2 && length != 4) || offset % length ||
	    offset > BAR_SIZE - length)
		return;
	pci_bar_access(f, offset, f->config + window + WINDOW_DATA, length, write);
}

static void config_read(struct pci_function *f, unsigned at, unsigned size)
{
	window_access(f, at, size, false);
}

static void config_written(struct pci_function *f, unsigned at, unsigned size)
{
	window_access(f, at, size, true);
}

static const struct pci_function_ops pci_ops = {bar_read, bar_write, config_read, config_written};

/* ---- doorbells ----------------------------------------------------------------------- */

static void doorbell_rang(void *ctx, uint32_t events)
{
	struct doorbell *b = ctx;
	struct vm *vm = b->v->device.vm;
	uint64_t count;

	if (read(b->fd, &count, sizeof(count)) < 0)
		return; /* nothing rang */
	pthread_mutex_lock(&vm->lock);
	virtio_kick(b->v, b->queue);
	pthread_mutex_unlock(&vm->lock);
}

static void doorbell_answer(void *ctx)
{
	struct doorbell *b = ctx;

	virtio_kick(b->v, b->queue);
}

void virtio_doorbell_ring(struct virtio_device *v, unsigned queue)
{
	const uint64_t one = 1;

	if (v->device.vm->deterministic) {
		deterministic_later(v->device.vm, doorbell_answer, &v->doorbells[queue]);
		return;
	}
	/* It can only fail when it has been rung 2^64 times already. */
	(void)!write(v->doorbells[queue].fd, &one, sizeof(one));
}

static uint64_t doorbell_address(const struct doorbell *b)
{
	return b->v->pci.bar_address + AT_NOTIFY + b->queue * BELL_SIZE;
}

static int doorbell_add(struct virtio_device *v, unsigned queue, struct error *e)
{
	struct doorbell *b = &v->doorbells[queue];
	struct vm *vm = v->device.vm;
	int rc;

	*b = (struct doorbell){.v = v, .queue = queue};
	b->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (b->fd < 0)
		return error_set(e, -errno, "virtio: cannot make an eventfd: %s", strerror(errno));
	rc = loop_watch(vm->parts.io, b->fd, EPOLLIN, doorbell_rang, b, &b->watch);
	if (rc)
		return error_set(e, rc, "virtio: cannot watch a doorbell: %s", strerror(-rc));
	rc = vm->engine_ops->doorbell(vm->engine, doorbell_address(b), 2, b->fd, true);
	b->in_engine = !rc;
	if (rc && rc != -EOPNOTSUPP) /* then it arrives as an access to memory */
		log_warn_rc(rc, "no doorbell for slot %u queue %u", v->pci.slot, queue);
	return 0;
}

static void doorbell_remove(struct doorbell *b)
{
	struct vm *vm;

	if (!b->v)
		return;
	vm = b->v->device.vm;
	if (b->in_engine)
		(void)!vm->engine_ops->doorbell(vm->engine, doorbell_address(b), 2, b->fd, false);
	if (b->watch)
		loop_unwatch(b->watch);
	if (b->fd >= 0)
		close(b->fd);
	b->v = NULL;
}

/* ---- making it -------------------------------------------------------------------------- */

static unsigned area_capability(struct pci_function *f, uint8_t type, uint32_t at, uint32_t len,
				unsigned size)
{
	unsigned cap = pci_capability_add(f, PCI_CAP_ID_VNDR, size);

	f->config[cap + offsetof(struct virtio_pci_cap, cap_len)] = (uint8_t)size;
	f->config[cap + offsetof(struct virtio_pci_cap, cfg_type)] = type;
	pci_set32(f->config, cap + CAP_OFFSET, at);
	pci_set32(f->config, cap + CAP_LENGTH, len);
	return cap;
}

static void capabilities_add(struct virtio_device *v)
{
	struct pci_function *f = &v->pci;
	const unsigned plain = sizeof(struct virtio_pci_cap);
	unsigned cap;

	area_capability(f, VIRTIO_PCI_CAP_COMMON_CFG, AT_COMMON, COMMON_LEN, plain);
	area_capability(f, VIRTIO_PCI_CAP_ISR_CFG, AT_ISR, 1, plain);
	area_capability(f, VIRTIO_PCI_CAP_DEVICE_CFG, AT_DEVICE, AREA_SIZE, plain);
	cap = area_capability(f, VIRTIO_PCI_CAP_NOTIFY_CFG, AT_NOTIFY, v->ops->queues * BELL_SIZE,
			      sizeof(struct virtio_pci_notify_cap));
	pci_set32(f->config, cap + offsetof(struct virtio_pci_notify_cap, notify_off_multiplier),
		  BELL_SIZE);
	cap = area_capability(f, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, sizeof(struct virtio_pci_cfg_cap));
	f->writable[cap + CAP_BAR] = 0xff;
	memset(f->writable + cap + CAP_OFFSET, 0xff, WINDOW_DATA + 4 - CAP_OFFSET);
	v->window = cap;
	pci_msix_add(f, v->ops->queues + 1, AT_MSIX, AT_PBA);
}

int virtio_pci_add(struct vm *vm, struct virtio_device *v, struct error *e)
{
	const struct pci_identity id = {
		.vendor = PCI_VENDOR_VIRTIO,
		.device = PCI_DEVICE_VIRTIO + v->ops->id,
		.subsystem = 0x40 + v->ops->id,
		.revision = 1,
		.class_code = v->ops->pci_class,
		.subclass = v->ops->pci_subclass,
	};
	int rc;

	rc = pci_function_add(vm, &v->pci, &id, &pci_ops, e);
	if (rc)
		return rc;
	v->pci.config[PCI_INTERRUPT_PIN] = 1;
	capabilities_add(v);
	rc = pci_bar_add(&v->pci, BAR_SIZE, e);
	for (unsigned i = 0; !rc && i < v->ops->queues; i++)
		rc = doorbell_add(v, i, e);
	if (rc)
		virtio_pci_remove(v);
	return rc;
}

void virtio_pci_remove(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->ops->queues; i++)
		doorbell_remove(&v->doorbells[i]);
	pci_function_remove(&v->pci);
}

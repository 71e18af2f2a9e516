// SPDX-License-Identifier: Apache-2.0
/* What all virtio devices share: life cycle, negotiation, interrupts, state. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/virtio.h"

#define LOG_MODULE "virtio"
#define SERVE_MOST 256u

bool virtio_live(const struct virtio_device *v)
{
	return (v->regs.status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       !(v->regs.status & VIRTIO_CONFIG_S_NEEDS_RESET) && !v->resetting && !v->parked &&
	       !memory_is_lost(&v->device.vm->memory);
}

void virtio_config_bytes(const void *config, size_t len, unsigned at, void *data, unsigned size)
{
	memset(data, 0, size);
	if (at < len)
		memcpy(data, (const uint8_t *)config + at, size < len - at ? size : len - at);
}

/* ---- interrupts ------------------------------------------------------------ */

#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

void virtio_interrupt(struct virtio_device *v, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&v->pci)) {
		pci_msix_notify(&v->pci, vector);
		return;
	}
	v->regs.isr |= isr;
	pci_intx(&v->pci, true);
}

void virtio_signal_queue(struct virtio_device *v, unsigned queue)
{
	struct virtqueue *q = &v->regs.queues[queue];

	if (virtqueue_should_signal(q))
		virtio_interrupt(v, q->vector, ISR_QUEUE);
}

void virtio_signal_config(struct virtio_device *v)
{
	v->regs.generation++;
	if (v->regs.status & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_interrupt(v, v->regs.config_vector, ISR_CONFIG);
}

void virtio_break(struct virtio_device *v, const char *why)
{
	if (v->regs.status & VIRTIO_CONFIG_S_NEEDS_RESET || memory_is_lost(&v->device.vm->memory))
		return;
	if (!v->complained)
		log_error("%s in slot %u: %s; it stays still until the guest resets it",
			  v->device.ops->name, v->pci.slot, why);
	v->complained = true;
	v->regs.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_signal_config(v);
}

/* ---- requests -------------------------------------------------------------- */

/* 1: one is taken. 0: there is none, or it will never be whole. */
static int serve_one(struct virtio_device *v, struct virtqueue *q, virtio_request_fn *handle)
{
	int rc = virtqueue_pop(q, &v->chain);

	if (rc <= 0)
		return rc;
	if (!chain_fetch(q, &v->chain))
		return 0;
	rc = handle(v, &v->chain);
	if (rc)
		virtqueue_unpop(q, 1);
	return rc ? rc : 1;
}

int virtio_serve(struct virtio_device *v, unsigned queue, virtio_request_fn *handle)
{
	struct virtqueue *q = &v->regs.queues[queue];
	unsigned n = 0;
	int rc;

	do {
		rc = serve_one(v, q, handle);
		if (!rc && !virtqueue_want_kick(q))
			break;
	} while (rc >= 0 && ++n < SERVE_MOST);
	virtio_signal_queue(v, queue);
	if (rc < 0)
		return rc;
	if (n == SERVE_MOST)
		virtio_doorbell_ring(v, queue);
	return 0;
}

/* ---- life cycle ------------------------------------------------------------- */

static void registers_clear(struct virtio_device *v, struct virtio_registers *r)
{
	*r = (struct virtio_registers){.config_vector = PCI_NO_VECTOR};
	for (unsigned i = 0; i < v->ops->queues; i++)
		r->queues[i] = (struct virtqueue){.memory = &v->device.vm->memory,
						  .size = VIRTQUEUE_SIZE_MAX,
						  .vector = PCI_NO_VECTOR};
}

void virtio_stopped(struct virtio_device *v)
{
	if (!v->resetting)
		return;
	v->resetting = false;
	registers_clear(v, &v->regs);
	pci_intx(&v->pci, false);
}

static void virtio_reset(struct virtio_device *v)
{
	if (v->resetting)
		return;
	v->resetting = true;
	if (v->ops->stop(v))
		virtio_stopped(v);
}

void virtio_device_reset(struct device *d)
{
	struct virtio_device *v = virtio_of(d);

	v->parked = false;
	virtio_reset(v);
	pci_function_reset(&v->pci);
}

static void virtio_start(struct virtio_device *v)
{
	v->ops->start(v);
	for (unsigned i = 0; i < v->ops->queues; i++)
		virtio_kick(v, i);
}

static bool features_legal(const struct virtio_device *v, uint64_t accepted)
{
	return !(accepted & ~v->offered) && (accepted & VIRTIO_FEATURE(VIRTIO_F_VERSION_1));
}

void virtio_status_write(struct virtio_device *v, uint8_t status)
{
	uint8_t set = status & (uint8_t)~v->regs.status;

	if (!status) {
		virtio_reset(v);
		return;
	}
	if (v->resetting)
		return;
	if ((set & VIRTIO_CONFIG_S_FEATURES_OK) && !features_legal(v, v->regs.accepted))
		set &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((v->regs.status | set) & VIRTIO_CONFIG_S_FEATURES_OK))
		set &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	set &= (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET;
	v->regs.status |= set;
	if (set & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_start(v);
}

static int queue_map(struct virtqueue *q, uint64_t accepted)
{
	q->event_idx = accepted & VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX);
	q->indirect = accepted & VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
	return virtqueue_map(q);
}

void virtio_queue_enable(struct virtio_device *v, struct virtqueue *q)
{
	if (queue_map(q, v->regs.accepted))
		virtio_break(v, "the driver put a queue where it cannot be");
	else
		q->enabled = true;
}

void virtio_kick(struct virtio_device *v, unsigned queue)
{
	if (virtio_live(v) && queue < v->ops->queues && v->regs.queues[queue].enabled)
		v->ops->kick(v, queue);
}

int virtio_add(struct vm *vm, struct virtio_device *v, const struct virtio_ops *ops,
	       const struct device_ops *device_ops, uint64_t features, struct error *e)
{
	int rc;

	v->device = (struct device){.ops = device_ops, .vm = vm};
	v->ops = ops;
	v->offered = features | VIRTIO_FEATURES_COMMON;
	rc = virtio_pci_add(vm, v, e);
	if (rc)
		return rc;
	v->device.instance = v->pci.slot;
	registers_clear(v, &v->regs);
	pci_function_reset(&v->pci);
	rc = vm_device_add(vm, &v->device);
	if (rc) {
		virtio_pci_remove(v);
		return error_set(e, rc, "%s: too many devices", device_ops->name);
	}
	return 0;
}

void virtio_device_destroy(struct device *d)
{
	struct virtio_device *v = virtio_of(d);

	virtio_pci_remove(v);
	v->ops->destroy(v);
}

/* A driver that waits for an interrupt which was lost on the way would wait for
 * ever: all are sent again. One too many is harmless. */
void virtio_device_resume(struct device *d)
{
	struct virtio_device *v = virtio_of(d);

	v->parked = false;
	pci_function_resume(&v->pci);
	if (!(v->regs.status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	virtio_interrupt(v, v->regs.config_vector, ISR_CONFIG);
	for (unsigned i = 0; i < v->ops->queues; i++)
		if (v->regs.queues[i].enabled)
			virtio_interrupt(v, v->regs.queues[i].vector, ISR_QUEUE);
	if (virtio_live(v))
		virtio_start(v);
}

/* ---- state ------------------------------------------------------------------- */

static void queue_save(const struct virtqueue *q, struct buf *out)
{
	buf_put_u16(out, q->size);
	buf_put_u16(out, q->vector);
	buf_put_u8(out, q->enabled);
	buf_put_u64(out, q->desc);
	buf_put_u64(out, q->avail);
	buf_put_u64(out, q->used);
	buf_put_u16(out, q->last_avail);
	buf_put_u16(out, q->used_index);
}

static void queue_load(struct virtqueue *q, uint64_t accepted, struct cursor *in)
{
	uint8_t enabled;

	q->size = cursor_u16(in);
	q->vector = cursor_u16(in);
	enabled = cursor_u8(in);
	q->enabled = enabled;
	q->desc = cursor_u64(in);
	q->avail = cursor_u64(in);
	q->used = cursor_u64(in);
	q->last_avail = cursor_u16(in);
	q->used_index = cursor_u16(in);
	if (enabled > 1 || q->size > VIRTQUEUE_SIZE_MAX || (enabled && queue_map(q, accepted)))
		in->bad = true;
}

static void registers_save(const struct virtio_device *v, const struct virtio_registers *r,
			   struct buf *out)
{
	buf_put_u64(out, r->accepted);
	buf_put_u32(out, r->offered_select);
	buf_put_u32(out, r->accepted_select);
	buf_put_u16(out, r->queue_select);
	buf_put_u16(out, r->config_vector);
	buf_put_u8(out, r->status);
	buf_put_u8(out, r->isr);
	buf_put_u8(out, r->generation);
	buf_put_u8(out, (uint8_t)v->ops->queues);
	for (unsigned i = 0; i < v->ops->queues; i++)
		queue_save(&r->queues[i], out);
}

static void registers_load(const struct virtio_device *v, struct virtio_registers *r,
			   struct cursor *in)
{
	r->accepted = cursor_u64(in);
	r->offered_select = cursor_u32(in);
	r->accepted_select = cursor_u32(in);
	r->queue_select = cursor_u16(in);
	r->config_vector = cursor_u16(in);
	r->status = cursor_u8(in);
	r->isr = cursor_u8(in);
	r->generation = cursor_u8(in);
	if (cursor_u8(in) != v->ops->queues)
		in->bad = true;
	for (unsigned i = 0; i < v->ops->queues; i++)
		queue_load(&r->queues[i], r->accepted, in);
	if ((r->status & VIRTIO_CONFIG_S_FEATURES_OK) && !features_legal(v, r->accepted))
		in->bad = true;
	if ((r->status & VIRTIO_CONFIG_S_DRIVER_OK) && !(r->status & VIRTIO_CONFIG_S_FEATURES_OK))
		in->bad = true;
}

int virtio_device_save(struct device *d, struct buf *out)
{
	struct virtio_device *v = virtio_of(d);
	struct virtio_registers r = v->regs;

	/* Nothing is in flight on the twin: there the reset has ended. */
	if (v->resetting)
		registers_clear(v, &r);
	registers_save(v, &r, out);
	pci_function_save(&v->pci, out);
	v->ops->save(v, out);
	return buf_check(out);
}

static int virtio_load_pass(struct virtio_device *v, struct cursor in, bool check_only)
{
	struct virtio_registers next;

	registers_clear(v, &next);
	registers_load(v, &next, &in);
	pci_function_load(&v->pci, &in, check_only);
	v->ops->load(v, &in, &next, check_only);
	if (cursor_finish(&in))
		return -EBADMSG;
	if (!check_only)
		v->regs = next;
	return 0;
}

int virtio_device_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		       struct error *e)
{
	struct virtio_device *v = virtio_of(d);
	int rc = virtio_load_pass(v, in, true);

	if (!rc && !check_only) {
		v->parked = true;
		v->resetting = false;
		rc = virtio_load_pass(v, in, false);
	}
	if (rc)
		return error_set(e, rc, "state: the %s section of slot %u is damaged", d->ops->name,
				 v->pci.slot);
	return 0;
}

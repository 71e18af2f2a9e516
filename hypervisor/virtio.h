// SPDX-License-Identifier: Apache-2.0
/*
 * A virtio 1.x device: what all kinds have in common (virtio.c) and its PCI
 * transport (virtio_pci.c). A kind is one table of operations.
 *
 *   parked   A state was loaded and the guest does not run yet: this is a twin.
 *            Nothing touches its rings, whatever the back ends say, until
 *            device_ops.resume().
 *   reset    The driver writes 0 to device_status and polls until it reads 0
 *            (virtio 1.2, 4.1.4.3.2). While a transfer to guest memory is in
 *            flight the old status goes on to be read: so nobody waits with the
 *            device lock held, and no memory is written that the driver has back.
 *
 * Device lock held, unless a comment says otherwise. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_VIRTIO_H
#define POLLUX_HYPERVISOR_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "hypervisor/pci.h"
#include "hypervisor/virtqueue.h"

#define VIRTIO_QUEUES_MAX 4u
#define VIRTIO_FEATURE(n) (UINT64_C(1) << (n))
/* What every device of ours offers. */
#define VIRTIO_FEATURES_COMMON                                                                     \
	(VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) |            \
	 VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC))

struct virtio_device;
struct virtio_registers;
struct virtio_ops {
	uint16_t id; /* VIRTIO_ID_* */
	uint8_t pci_class, pci_subclass;
	unsigned queues;
	void (*config_read)(struct virtio_device *v, unsigned at, void *data, unsigned size);
	void (*config_write)(struct virtio_device *v, unsigned at, const void *data, unsigned size);
	/* The driver is ready, or a loaded device goes on; queues are kicked afterwards. */
	void (*start)(struct virtio_device *v);
	void (*kick)(struct virtio_device *v, unsigned queue);
	/* Forget all requests. False: transfers are in flight still; virtio_stopped() later. */
	bool (*stop)(struct virtio_device *v);
	void (*save)(struct virtio_device *v, struct buf *out);
	/* Sets in->bad; `next` are the registers as they will be. Acts only if
	 * !check_only, when all has been checked already. */
	void (*load)(struct virtio_device *v, struct cursor *in,
		     const struct virtio_registers *next, bool check_only);
	void (*destroy)(struct virtio_device *v); /* nothing is in flight; frees */
};

struct doorbell {
	struct virtio_device *v;
	struct loop_watch *watch;
	unsigned queue;
	int fd;
	bool in_engine;
};

/* What the driver has set up; all zero but sizes and vectors after a reset. */
struct virtio_registers {
	uint64_t accepted; /* features */
	uint32_t offered_select, accepted_select;
	uint16_t queue_select, config_vector;
	uint8_t status, isr, generation;
	struct virtqueue queues[VIRTIO_QUEUES_MAX];
};

struct virtio_device {
	struct device device;
	struct pci_function pci;
	const struct virtio_ops *ops;
	uint64_t offered; /* features */
	struct virtio_registers regs;
	bool resetting, parked;
	bool complained; /* a broken ring was logged: once in a device's life */
	unsigned window; /* the VIRTIO_PCI_CAP_PCI_CFG capability */
	struct doorbell doorbells[VIRTIO_QUEUES_MAX];
	struct chain chain; /* for the request at hand: too big for the stack */
};

/* ---- for the kinds -------------------------------------------------------- */

/* Adds a zeroed device to bus and vm. On failure the caller frees the memory. */
int virtio_add(struct vm *vm, struct virtio_device *v, const struct virtio_ops *ops,
	       const struct device_ops *device_ops, uint64_t features, struct error *e) MUST_CHECK;
/* config_read() of a kind whose configuration is `len` bytes at `config`; zeros behind. */
void virtio_config_bytes(const void *config, size_t len, unsigned at, void *data, unsigned size);
/* The rings may be used. */
bool virtio_live(const struct virtio_device *v);
static inline bool virtio_has(const struct virtio_device *v, unsigned feature)
{
	return v->regs.accepted & VIRTIO_FEATURE(feature);
}
/* The driver broke the rules: DEVICE_NEEDS_RESET. */
void virtio_break(struct virtio_device *v, const char *why);
void virtio_signal_queue(struct virtio_device *v, unsigned queue);
void virtio_signal_config(struct virtio_device *v);
/* Come back to this queue soon, on the loop's thread. */
void virtio_doorbell_ring(struct virtio_device *v, unsigned queue);
/* One request of the driver, as it stands in virtio.chain. 0: it is taken, and given back
 * now or later. Else it stays in the ring and the call below ends. */
typedef int virtio_request_fn(struct virtio_device *v, const struct chain *c);
/* Goes through the requests that wait, and signals. 0, what the function gave, or -EBADMSG.
 * A guest that fills the ring as fast as it is emptied must not hold the device lock for
 * ever: after many of them the doorbell is rung again. */
int virtio_serve(struct virtio_device *v, unsigned queue, virtio_request_fn *handle) MUST_CHECK;
/* The last transfer that outlived stop() has ended. */
void virtio_stopped(struct virtio_device *v);
static inline struct virtio_device *virtio_of(struct device *d)
{
	return CONTAINER_OF(d, struct virtio_device, device);
}
/* The `device_ops` of every kind. */
void virtio_device_reset(struct device *d);
int virtio_device_save(struct device *d, struct buf *out);
int virtio_device_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		       struct error *e);
void virtio_device_resume(struct device *d);
void virtio_device_destroy(struct device *d);

/* ---- between virtio.c and virtio_pci.c -------------------------------------- */

void virtio_status_write(struct virtio_device *v, uint8_t status);
void virtio_queue_enable(struct virtio_device *v, struct virtqueue *q);
void virtio_kick(struct virtio_device *v, unsigned queue);
void virtio_interrupt(struct virtio_device *v, uint16_t vector, uint8_t isr);
int virtio_pci_add(struct vm *vm, struct virtio_device *v, struct error *e) MUST_CHECK;
void virtio_pci_remove(struct virtio_device *v);

#endif

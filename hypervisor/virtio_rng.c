// SPDX-License-Identifier: Apache-2.0
/* virtio-rng (virtio 1.2, section 5.4): the host's random bytes, or those of a seed. */
#include <errno.h>
#include <stdlib.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/virtio.h"

#define BYTES_MOST 256u /* of one request: getrandom() gives so many at once */

struct rng {
	struct virtio_device virtio;
};

static struct rng *rng_of(struct virtio_device *v)
{
	return CONTAINER_OF(v, struct rng, virtio);
}

static uint32_t rng_fill(struct vm *vm, struct virtqueue *q, const struct chain *c)
{
	uint8_t bytes[BYTES_MOST];
	size_t want = c->in_bytes < sizeof(bytes) ? (size_t)c->in_bytes : sizeof(bytes);

	return (uint32_t)chain_write(q, c, 0, bytes, vm_random(vm, bytes, want));
}

static int rng_one(struct virtio_device *v, const struct chain *c)
{
	struct virtqueue *q = &v->regs.queues[0];

	virtqueue_push(q, c->head, rng_fill(v->device.vm, q, c));
	return 0;
}

static void rng_kick(struct virtio_device *v, unsigned queue)
{
	if (virtio_serve(v, queue, rng_one))
		virtio_break(v, "a bad request ring");
}

static void rng_config_read(struct virtio_device *v, unsigned at, void *data, unsigned size)
{
	virtio_config_bytes(NULL, 0, at, data, size);
}

static void rng_config_write(struct virtio_device *v, unsigned at, const void *data, unsigned size)
{
}

static void rng_start(struct virtio_device *v)
{
}

static bool rng_stop(struct virtio_device *v)
{
	return true;
}

static void rng_save(struct virtio_device *v, struct buf *out)
{
}

static void rng_load(struct virtio_device *v, struct cursor *in,
		     const struct virtio_registers *next, bool check_only)
{
}

static void rng_destroy(struct virtio_device *v)
{
	free(rng_of(v));
}

static const struct virtio_ops rng_ops = {
	.id = VIRTIO_ID_RNG,
	.pci_class = 0xff,
	.pci_subclass = 0,
	.queues = 1,
	.config_read = rng_config_read,
	.config_write = rng_config_write,
	.start = rng_start,
	.kick = rng_kick,
	.stop = rng_stop,
	.save = rng_save,
	.load = rng_load,
	.destroy = rng_destroy,
};

const struct device_ops rng_device_ops = {
	.name = "virtio-rng",
	.section = STATE_VIRTIO_RNG,
	.oldest = 1,
	.version = 1,
	.reset = virtio_device_reset,
	.save = virtio_device_save,
	.load = virtio_device_load,
	.resume = virtio_device_resume,
	.destroy = virtio_device_destroy,
};

int virtio_rng_create(struct vm *vm, struct error *e)
{
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return error_set(e, -ENOMEM, "virtio-rng: out of memory");
	rc = virtio_add(vm, &r->virtio, &rng_ops, &rng_device_ops, 0, e);
	if (rc)
		free(r);
	return rc;
}

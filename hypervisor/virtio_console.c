// SPDX-License-Identifier: Apache-2.0
/* virtio-console (virtio 1.2, section 5.3) with its one port. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/console.h"
#include "hypervisor/virtio.h"

enum { QUEUE_RX, QUEUE_TX, QUEUES };

#define PIECE   512u
#define TX_MOST 65536u /* of one request */

struct port {
	struct virtio_device virtio;
	struct console *console;
};

static struct port *port_of(struct virtio_device *v)
{
	return CONTAINER_OF(v, struct port, virtio);
}

/* ---- output ----------------------------------------------------------------------- */

/* What is beyond TX_MOST is dropped: no driver writes so much at once, and a chain may
 * name 4 GiB, with the device lock held. */
static int tx_one(struct virtio_device *v, const struct chain *c)
{
	struct virtqueue *q = &v->regs.queues[QUEUE_TX];
	uint8_t piece[PIECE];
	size_t n;

	for (uint64_t at = 0; at < c->out_bytes && at < TX_MOST; at += n) {
		n = chain_read(q, c, at, piece, sizeof(piece));
		console_write(port_of(v)->console, piece, n);
	}
	virtqueue_push(q, c->head, 0);
	return 0;
}

/* ---- input ------------------------------------------------------------------------ */

static size_t console_room(void *ctx)
{
	struct port *p = ctx;
	struct virtio_device *v = &p->virtio;
	struct virtqueue *q = &v->regs.queues[QUEUE_RX];
	int rc;

	if (!virtio_live(v) || !q->enabled)
		return 0;
	do {
		rc = virtqueue_pop(q, &v->chain);
	} while (!rc && virtqueue_want_kick(q));
	if (rc > 0)
		virtqueue_unpop(q, 1);
	return rc > 0 ? (size_t)v->chain.in_bytes : 0;
}

static void console_input(void *ctx, const uint8_t *data, size_t n)
{
	struct port *p = ctx;
	struct virtio_device *v = &p->virtio;
	struct virtqueue *q = &v->regs.queues[QUEUE_RX];
	size_t at = 0;

	/* Between room() and now the guest may have changed the ring or reset the device. */
	while (at < n && console_room(p) && virtqueue_pop(q, &v->chain) > 0) {
		size_t put = chain_write(q, &v->chain, 0, data + at, n - at);
		virtqueue_push(q, v->chain.head, (uint32_t)put);
		at += put;
	}
	if (at)
		virtio_signal_queue(v, QUEUE_RX);
}

/* ---- the device ---------------------------------------------------------------------- */

static void port_kick(struct virtio_device *v, unsigned queue)
{
	if (queue == QUEUE_RX)
		console_pull(port_of(v)->console);
	else if (virtio_serve(v, queue, tx_one))
		virtio_break(v, "a bad transmit ring");
}

static void port_config_read(struct virtio_device *v, unsigned at, void *data, unsigned size)
{
	const struct virtio_console_config none = {0}; /* no feature, no field */

	virtio_config_bytes(&none, sizeof(none), at, data, size);
}

static void port_config_write(struct virtio_device *v, unsigned at, const void *data, unsigned size)
{
}

static void port_start(struct virtio_device *v)
{
}

static bool port_stop(struct virtio_device *v)
{
	return true;
}

static void port_save(struct virtio_device *v, struct buf *out)
{
}

static void port_load(struct virtio_device *v, struct cursor *in,
		      const struct virtio_registers *next, bool check_only)
{
}

static void port_destroy(struct virtio_device *v)
{
	v->device.vm->consoles[1] = NULL;
	if (port_of(v)->console)
		console_close(port_of(v)->console);
	free(port_of(v));
}

static const struct virtio_ops port_ops = {
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x07,
	.pci_subclass = 0x80,
	.queues = QUEUES,
	.config_read = port_config_read,
	.config_write = port_config_write,
	.start = port_start,
	.kick = port_kick,
	.stop = port_stop,
	.save = port_save,
	.load = port_load,
	.destroy = port_destroy,
};

const struct device_ops console_device_ops = {
	.name = "virtio-console",
	.section = STATE_VIRTIO_CONSOLE,
	.oldest = 1,
	.version = 1,
	.reset = virtio_device_reset,
	.save = virtio_device_save,
	.load = virtio_device_load,
	.resume = virtio_device_resume,
	.destroy = virtio_device_destroy,
};

int virtio_console_create(struct vm *vm, struct error *e)
{
	struct port *p = calloc(1, sizeof(*p));
	const struct console_front front = {console_room, console_input, p};
	int in_fd = console_on_serial(vm) ? -1 : vm->parts.console_in;
	int rc;

	if (!p)
		return error_set(e, -ENOMEM, "virtio-console: out of memory");
	p->virtio.device.vm = vm;
	rc = console_open(vm->parts.io, &vm->lock, in_fd, vm->parts.console_out, &front,
			  &p->console, e);
	if (!rc && vm->deterministic)
		rc = console_deterministic(p->console, vm);
	if (!rc)
		rc = virtio_add(vm, &p->virtio, &port_ops, &console_device_ops, 0, e);
	if (rc)
		port_destroy(&p->virtio);
	else
		vm->consoles[1] = p->console;
	return rc;
}

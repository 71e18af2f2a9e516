// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-net (virtio 1.2, section 5.1) without offloads. Back-pressure both ways:
 * a frame that the back end cannot take stays in the transmit ring, a frame that
 * the guest has no buffers for stays in the back end. So a saved state needs no
 * frames: what was not taken is found in the rings again.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/virtio.h"

#define LOG_MODULE "virtio-net"

enum { QUEUE_RX, QUEUE_TX, QUEUE_CONTROL, QUEUES };

#define HEADER_LEN     sizeof(struct virtio_net_hdr_v1)
#define FRAME_LEAST    14u
#define FRAME_MOST     65550u
#define RX_CHAINS      64u /* buffers that one frame may be spread over */
#define CONTROL_LEN    2u  /* class, command */
#define ETHERTYPE_RARP 0x8035u

_Static_assert(sizeof(struct virtio_net_hdr_v1) == 12, "header");

struct net {
	struct virtio_device virtio;
	struct net_backend *backend;
	struct virtio_net_config config;
	bool tx_full;    /* send() gave -EAGAIN; until writable() */
	bool rx_stopped; /* the guest had no buffers; until it gives some */
	uint64_t tx_dropped;
	struct iovec iov[VIRTQUEUE_SIZE_MAX];
};

static struct net *net_of(struct virtio_device *v)
{
	return CONTAINER_OF(v, struct net, virtio);
}

/* ---- transmit ------------------------------------------------------------------ */

/* -EAGAIN: the back end is full. -EBADMSG: no frame. */
static int frame_send(struct net *n, const struct chain *c)
{
	struct virtqueue *q = &n->virtio.regs.queues[QUEUE_TX];
	uint64_t len = c->out_bytes - HEADER_LEN;
	int count, rc;

	if (c->out_bytes < HEADER_LEN)
		return -EBADMSG;
	if (len < FRAME_LEAST || len > FRAME_MOST) {
		n->tx_dropped++;
		return 0;
	}
	count = chain_iov(q, c, false, HEADER_LEN, len, n->iov);
	rc = n->backend->ops->send(n->backend, n->iov, count);
	if (rc && rc != -EAGAIN) {
		n->tx_dropped++;
		rc = 0;
	}
	return rc;
}

static int tx_one(struct virtio_device *v, const struct chain *c)
{
	int rc = frame_send(net_of(v), c);

	if (!rc)
		virtqueue_push(&v->regs.queues[QUEUE_TX], c->head, 0);
	return rc;
}

static void tx_run(struct net *n)
{
	int rc = n->tx_full ? 0 : virtio_serve(&n->virtio, QUEUE_TX, tx_one);

	if (rc == -EAGAIN)
		n->tx_full = true;
	else if (rc)
		virtio_break(&n->virtio, "a bad transmit ring");
}

static void net_writable(void *ctx)
{
	struct net *n = ctx;
	struct vm *vm = n->virtio.device.vm;

	pthread_mutex_lock(&vm->lock);
	n->tx_full = false;
	virtio_kick(&n->virtio, QUEUE_TX);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- receive ------------------------------------------------------------------- */

/* The buffers that one frame was spread over: given back together, or not at all. */
struct rx_frame {
	const uint8_t *data;
	size_t len, at;
	unsigned count;
	uint16_t head[RX_CHAINS];
	uint32_t used[RX_CHAINS];
};

static struct virtqueue *rx_queue(struct net *n)
{
	return &n->virtio.regs.queues[QUEUE_RX];
}

/* Fill the buffer in virtio.chain: header first, if it is the frame's first. */
static int rx_fill(struct net *n, struct rx_frame *f)
{
	struct virtio_net_hdr_v1 header = {.num_buffers = 1};
	struct chain *c = &n->virtio.chain;
	size_t skip = f->count ? 0 : HEADER_LEN, copied;

	if (c->in_bytes < HEADER_LEN)
		return -EBADMSG;
	if (skip)
		chain_write(rx_queue(n), c, 0, &header, HEADER_LEN);
	copied = chain_write(rx_queue(n), c, skip, f->data + f->at, f->len - f->at);
	f->at += copied;
	f->head[f->count] = c->head;
	f->used[f->count++] = (uint32_t)(skip + copied);
	return 0;
}

/* Take buffers until the frame is in them. 0, -EAGAIN (too few), -EMSGSIZE, -EBADMSG. */
static int rx_gather(struct net *n, struct rx_frame *f)
{
	unsigned most = virtio_has(&n->virtio, VIRTIO_NET_F_MRG_RXBUF) ? RX_CHAINS : 1;
	int rc;

	while (f->at < f->len) {
		if (f->count == most)
			return -EMSGSIZE;
		rc = virtqueue_pop(rx_queue(n), &n->virtio.chain);
		/* Asked while all known buffers count as taken: the next one rings. */
		if (!rc && virtqueue_want_kick(rx_queue(n)))
			continue;
		if (rc <= 0)
			return rc ? rc : -EAGAIN;
		rc = rx_fill(n, f);
		if (rc)
			return rc;
	}
	return 0;
}

/* The header of a frame in several buffers says how many: known only now. */
static int rx_count_patch(struct net *n, const struct rx_frame *f)
{
	uint16_t count = (uint16_t)f->count;
	int rc;

	if (count == 1)
		return 0;
	rc = virtqueue_chain(rx_queue(n), f->head[0], &n->virtio.chain);
	if (!rc)
		chain_write(rx_queue(n), &n->virtio.chain,
			    offsetof(struct virtio_net_hdr_v1, num_buffers), &count, sizeof(count));
	return rc;
}

static int rx_deliver(struct net *n, struct rx_frame *f)
{
	uint16_t first = rx_queue(n)->last_avail;
	int rc = rx_gather(n, f);

	if (!rc)
		rc = rx_count_patch(n, f);
	if (rc) {
		rx_queue(n)->last_avail = first;
		return rc;
	}
	for (unsigned i = 0; i < f->count; i++)
		virtqueue_fill(rx_queue(n), i, f->head[i], f->used[i]);
	virtqueue_publish(rx_queue(n), f->count);
	virtio_signal_queue(&n->virtio, QUEUE_RX);
	return 0;
}

static bool rx_wanted(const struct net *n, size_t len)
{
	return virtio_live(&n->virtio) && n->virtio.regs.queues[QUEUE_RX].enabled &&
	       len >= FRAME_LEAST && len <= FRAME_MOST;
}

static int net_receive(void *ctx, const void *frame, size_t len)
{
	struct net *n = ctx;
	struct vm *vm = n->virtio.device.vm;
	struct rx_frame f = {.data = frame, .len = len};
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	if (rx_wanted(n, len))
		rc = rx_deliver(n, &f);
	if (rc == -EBADMSG)
		virtio_break(&n->virtio, "a bad receive ring");
	if (rc == -EAGAIN) {
		n->rx_stopped = true;
		n->backend->ops->set_receiving(n->backend, false);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc == -EAGAIN ? rc : 0;
}

static void rx_run(struct net *n)
{
	if (!n->rx_stopped)
		return;
	n->rx_stopped = false;
	n->backend->ops->set_receiving(n->backend, true);
}

/* ---- control -------------------------------------------------------------------- */

static uint8_t control_execute(struct net *n, const struct chain *c)
{
	uint8_t command[CONTROL_LEN];

	if (chain_read(&n->virtio.regs.queues[QUEUE_CONTROL], c, 0, command, CONTROL_LEN) !=
		    CONTROL_LEN ||
	    command[0] != VIRTIO_NET_CTRL_ANNOUNCE || command[1] != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
		return VIRTIO_NET_ERR;
	n->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	return VIRTIO_NET_OK;
}

static int control_one(struct virtio_device *v, const struct chain *c)
{
	struct virtqueue *q = &v->regs.queues[QUEUE_CONTROL];
	uint8_t ack = control_execute(net_of(v), c);

	virtqueue_push(q, c->head, (uint32_t)chain_write(q, c, 0, &ack, sizeof(ack)));
	return 0;
}

static void control_run(struct net *n)
{
	if (virtio_serve(&n->virtio, QUEUE_CONTROL, control_one))
		virtio_break(&n->virtio, "a bad control ring");
}

/* ---- announcements ------------------------------------------------------------------
 * RARP (RFC 903), "who am I": any bridge or switch on the way learns the address. */

static void rarp_make(const uint8_t mac[6], uint8_t frame[60])
{
	static const uint8_t head[] = {0, 1, 8, 0, 6, 4, 0, 3}; /* Ethernet, IPv4, request */

	memset(frame, 0, 60);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	frame[12] = ETHERTYPE_RARP >> 8;
	frame[13] = ETHERTYPE_RARP & 0xff;
	memcpy(frame + 14, head, sizeof(head));
	memcpy(frame + 22, mac, 6); /* sender */
	memcpy(frame + 32, mac, 6); /* target */
}

static void net_announce(struct net *n)
{
	uint8_t frame[60];
	struct iovec iov = {frame, sizeof(frame)};
	int rc;

	rarp_make(n->config.mac, frame);
	rc = n->backend->ops->send(n->backend, &iov, 1);
	if (rc)
		log_warn_rc(rc, "the address of slot %u was not announced", n->virtio.pci.slot);
	if (!virtio_live(&n->virtio) || !virtio_has(&n->virtio, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return;
	n->config.status |= VIRTIO_NET_S_ANNOUNCE;
	virtio_signal_config(&n->virtio);
}

/* ---- the device ---------------------------------------------------------------------- */

static void net_kick(struct virtio_device *v, unsigned queue)
{
	static void (*const run[QUEUES])(struct net * n) = {
		[QUEUE_RX] = rx_run, [QUEUE_TX] = tx_run, [QUEUE_CONTROL] = control_run};

	run[queue](net_of(v));
}

static void net_start(struct virtio_device *v)
{
	struct net *n = net_of(v);

	n->rx_stopped = true; /* whatever it was: the kick that follows turns it on */
	n->tx_full = false;
}

/* Frames that come while nobody listens are read and dropped. */
static bool net_stop(struct virtio_device *v)
{
	struct net *n = net_of(v);

	n->config.status = VIRTIO_NET_S_LINK_UP;
	n->tx_full = false;
	rx_run(n);
	return true;
}

static void net_save(struct virtio_device *v, struct buf *out)
{
	buf_put(out, net_of(v)->config.mac, sizeof(net_of(v)->config.mac));
	buf_put_u16(out, net_of(v)->config.status);
}

static void net_load(struct virtio_device *v, struct cursor *in,
		     const struct virtio_registers *next, bool check_only)
{
	struct net *n = net_of(v);
	uint8_t mac[6] = {0};
	uint16_t status;

	cursor_copy(in, mac, sizeof(mac));
	status = cursor_u16(in);
	if (memcmp(mac, n->config.mac, sizeof(mac)) ||
	    status & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE))
		in->bad = true;
	if (!check_only && !in->bad)
		n->config.status = status;
}

static void net_config_read(struct virtio_device *v, unsigned at, void *data, unsigned size)
{
	virtio_config_bytes(&net_of(v)->config, sizeof(net_of(v)->config), at, data, size);
}

static void net_config_write(struct virtio_device *v, unsigned at, const void *data, unsigned size)
{
}

static void net_destroy(struct virtio_device *v)
{
	struct net *n = net_of(v);

	if (n->tx_dropped)
		log_info("slot %u: %llu frames of the guest were dropped", v->pci.slot,
			 (unsigned long long)n->tx_dropped);
	n->backend->front = (struct net_front){0};
	free(n);
}

static const struct virtio_ops net_ops = {
	.id = VIRTIO_ID_NET,
	.pci_class = 0x02,
	.pci_subclass = 0x00,
	.queues = QUEUES,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.start = net_start,
	.kick = net_kick,
	.stop = net_stop,
	.save = net_save,
	.load = net_load,
	.destroy = net_destroy,
};

const struct device_ops net_device_ops = {
	.name = "virtio-net",
	.section = STATE_VIRTIO_NET,
	.oldest = 1,
	.version = 1,
	.reset = virtio_device_reset,
	.save = virtio_device_save,
	.load = virtio_device_load,
	.resume = virtio_device_resume,
	.destroy = virtio_device_destroy,
};

void vm_announce(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i]->ops == &net_device_ops)
			net_announce(net_of(virtio_of(vm->devices[i])));
	pthread_mutex_unlock(&vm->lock);
}

int virtio_net_create(struct vm *vm, unsigned index, struct error *e)
{
	const uint64_t features =
		VIRTIO_FEATURE(VIRTIO_NET_F_MAC) | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS) |
		VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) |
		VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE);
	struct net *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return error_set(e, -ENOMEM, "virtio-net: out of memory");
	n->backend = vm->parts.nets[index];
	memcpy(n->config.mac, vm->config.nics[index].mac, sizeof(n->config.mac));
	n->config.status = VIRTIO_NET_S_LINK_UP;
	rc = virtio_add(vm, &n->virtio, &net_ops, &net_device_ops, features, e);
	if (rc) {
		free(n);
		return rc;
	}
	n->backend->front = (struct net_front){net_receive, net_writable, n};
	return 0;
}

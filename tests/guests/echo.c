// SPDX-License-Identifier: Apache-2.0
#include "tests/guests/guest.h"

#define VIRTIO_NET 1
#define F_MAC      (1u << 5)
#define RX_VECTOR  0x50
#define TX_VECTOR  0x51
#define HEADER     12u
#define BUFFER     2048u
#define TYPE_IP    0x0800
#define TYPE_ARP   0x0806
#define TYPE_RAW   0x88b5
#define PROTO_ICMP 1
#define PROTO_UDP  17

const char guest_name[] = "echo";

static struct vq rx, tx;
static uint8_t rx_buffers[VQ_SIZE][BUFFER], tx_buffers[VQ_SIZE][BUFFER];
static uint64_t tx_busy; /* one bit a buffer */
static uint8_t mac[6];
static uint32_t address;
static uint64_t count, hash;

static void woken(struct frame *f)
{
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}
static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}
static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}
static void put64(uint8_t *p, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static void swap(uint8_t *a, uint8_t *b, size_t n)
{
	for (; n; n--, a++, b++) {
		uint8_t x = *a;
		*a = *b;
		*b = x;
	}
}

/* ---- answers: change the request in place; the answer's length, 0 = none --------------- */

static size_t answer_arp(uint8_t *f, size_t n)
{
	if (n < 42 || get16(f + 20) != 1 || get32(f + 38) != address)
		return 0;
	put16(f + 20, 2);
	swap(f + 22, f + 32, 10);
	memcpy(f + 22, mac, 6);
	return 42;
}

/* An ICMP checksum knows the type: 8 becomes 0. */
static void icmp_turn(uint8_t *icmp)
{
	uint32_t sum = get16(icmp + 2) + 0x0800u;
	icmp[0] = 0;
	put16(icmp + 2, (uint16_t)(sum + (sum >> 16)));
}

/* Swapping addresses and ports leaves the sums as they are. */
static size_t answer_ip(uint8_t *f, size_t n)
{
	size_t head = (f[14] & 15) * 4u;
	if (n < 14 + head + 8 || f[14] >> 4 != 4 || get32(f + 30) != address)
		return 0;
	uint8_t *payload = f + 14 + head;
	if (f[23] == PROTO_ICMP && payload[0] == 8)
		icmp_turn(payload);
	else if (f[23] == PROTO_UDP)
		swap(payload, payload + 2, 2);
	else
		return 0;
	swap(f + 26, f + 30, 4);
	return n;
}

/* type, count, hash of all payloads so far, the request's own payload */
static size_t answer_raw(uint8_t *f, size_t n)
{
	if (n + 16 > BUFFER - HEADER)
		return 0;
	for (size_t i = 14; i < n; i++)
		hash = (hash ^ f[i]) * 0x100000001b3ul;
	for (size_t i = n; i-- > 14;)
		f[i + 16] = f[i];
	put64(f + 14, count);
	put64(f + 22, hash);
	return n + 16;
}

static size_t answer(uint8_t *f, size_t n)
{
	if (n < 14)
		return 0;
	uint16_t type = get16(f + 12);
	count++;
	size_t len = type == TYPE_ARP             ? answer_arp(f, n)
		     : type == TYPE_IP && n >= 34 ? answer_ip(f, n)
		     : type == TYPE_RAW           ? answer_raw(f, n)
						  : 0;
	memcpy(f, f + 6, 6);
	memcpy(f + 6, mac, 6);
	return len;
}

/* ---- queues -------------------------------------------------------------------------------- */

static void rx_offer(unsigned i)
{
	rx.desc[i] = (struct vq_desc){(uint64_t)rx_buffers[i], BUFFER, VQ_WRITE, 0};
	vq_offer(&rx, (uint16_t)i);
}

static void tx_reap(void)
{
	uint32_t len;
	for (int i = vq_reap(&tx, &len); i >= 0; i = vq_reap(&tx, &len)) {
		if (!(tx_busy >> i & 1))
			fail("frame %u came back twice", (uint64_t)i);
		tx_busy &= ~(1ul << i);
	}
}

static void tx_send(const uint8_t *frame, size_t n)
{
	for (tx_reap(); !~tx_busy; tx_reap())
		wait_for_interrupt();
	unsigned i = (unsigned)__builtin_ctzl(~tx_busy);
	tx_busy |= 1ul << i;
	memset(tx_buffers[i], 0, HEADER);
	memcpy(tx_buffers[i] + HEADER, frame, n);
	tx.desc[i] = (struct vq_desc){(uint64_t)tx_buffers[i], (uint32_t)(HEADER + n), 0, 0};
	vq_offer(&tx, (uint16_t)i);
	vq_kick(&tx);
}

static bool frames_handle(void)
{
	uint32_t len;
	bool any = false;
	for (int i = vq_reap(&rx, &len); i >= 0; i = vq_reap(&rx, &len)) {
		any = true;
		if (len < HEADER || len > BUFFER)
			fail("a frame of %u bytes", (uint64_t)len);
		size_t n = answer(rx_buffers[i] + HEADER, len - HEADER);
		if (n)
			tx_send(rx_buffers[i] + HEADER, n);
		rx_offer((unsigned)i);
	}
	if (any)
		vq_kick(&rx);
	return any;
}

void guest_main(void)
{
	struct virtio v = {0};
	uint64_t frames = parameter("frames", 0);
	address = (uint32_t)parameter("ip", 0x0a000002);
	lapic_enable();
	handler_set(RX_VECTOR, woken);
	handler_set(TX_VECTOR, woken);
	if (!virtio_find(&v, VIRTIO_NET, 0))
		fail("there is no virtio-net device");
	virtio_start(&v, F_MAC);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = v.config[i];
	virtio_queue(&v, &rx, 0, RX_VECTOR);
	virtio_queue(&v, &tx, 1, TX_VECTOR);
	virtio_ready(&v);
	for (unsigned i = 0; i < VQ_SIZE; i++)
		rx_offer(i);
	vq_kick(&rx);
	report("start mac=%x:%x:%x:%x:%x:%x", (uint64_t)mac[0], (uint64_t)mac[1], (uint64_t)mac[2],
	       (uint64_t)mac[3], (uint64_t)mac[4], (uint64_t)mac[5]);
	while (!frames || count < frames)
		if (!frames_handle())
			wait_for_interrupt();
	for (tx_reap(); tx_busy; tx_reap())
		wait_for_interrupt();
}

// SPDX-License-Identifier: Apache-2.0
/* How the fake guest finds its devices and sets them up: virtio 1.2, 3.1.1 and 4.1. */
#include <linux/virtio_pci.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/sim.h"

#define PCI_SLOT_COUNT   32u
#define PCI_ADDRESS_PORT 0xcf8u
#define PCI_DATA_PORT    0xcfcu
#define PCI_COMMAND      0x04u
#define PCI_BAR0         0x10u
#define PCI_BAR_COUNT    6u
#define PCI_CAP_POINTER  0x34u
#define PCI_CAP_VENDOR   0x09u
#define PCI_CAP_MSIX     0x11u
#define PCI_CAPS_FROM    0x40u
#define COMMAND_SET      0x406u /* memory, bus master, no INTx */
#define MSIX_ENABLE      0x8000u
#define VIRTIO_VENDOR    0x1af4u
#define VIRTIO_DEVICE    0x1040u
#define NO_VECTOR        0xffffu

#define NET_F_MAC        (1u << 5)
#define BLK_F_FLUSH      (1u << 9)

static struct sim_device *current(struct sim_guest *g)
{
	return &g->devices[g->device];
}

static uint64_t ecam(unsigned slot, unsigned at)
{
	return LAYOUT_ECAM_BASE + ((uint64_t)slot << 15) + at;
}

static bool port_access(struct sim_access *a, uint16_t port, bool write, uint32_t value)
{
	*a = (struct sim_access){.some = true,
				 .port = true,
				 .write = write,
				 .address = port,
				 .size = 4,
				 .value = value};
	return true;
}

/* ---- the scan: even slots by ECAM, odd ones by CF8/CFC ----------------------- */

static void device_found(struct sim_guest *g, uint32_t id)
{
	unsigned kind = (id >> 16) - VIRTIO_DEVICE;
	bool known = (id & 0xffff) == VIRTIO_VENDOR && (kind == SIM_NET || kind == SIM_BLK);
	if (!known || g->device_count == SIM_DEVICES_MAX) {
		g->slot++;
		return;
	}
	g->device = g->device_count++;
	*current(g) = (struct sim_device){.slot = g->slot, .kind = (uint8_t)kind};
	sim_go(g, SIM_CAPABILITIES);
}

bool sim_scan(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	switch (g->step) {
	case 0:
		if (g->slot == PCI_SLOT_COUNT) {
			sim_go(g, SIM_RUN);
			return false;
		}
		if (g->slot % 2) {
			g->step = 1;
			return port_access(a, PCI_ADDRESS_PORT, true,
					   0x80000000u | (uint32_t)g->slot << 11);
		}
		g->step = 2;
		return sim_read(a, ecam(g->slot, 0), 4);
	case 1:
		g->step = 2;
		return port_access(a, PCI_DATA_PORT, false, 0);
	default:
		g->step = 0;
		device_found(g, (uint32_t)g->answer);
		return false;
	}
}

/* ---- capabilities --------------------------------------------------------------- */

/* Offsets for now; sim_bars() adds the BAR's address. */
static void virtio_area(struct sim_device *d, const uint32_t *words)
{
	uint64_t place = words[2] | (uint64_t)(words[1] & 0xff) << 32;
	switch (words[0] >> 24) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		d->common = place;
		break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		d->notify = place;
		d->notify_multiplier = words[4];
		break;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		d->config = place;
		break;
	}
}

static void capability_read(struct sim_guest *g)
{
	struct sim_device *d = current(g);
	uint8_t id = (uint8_t)g->words[0];
	if (id == PCI_CAP_VENDOR)
		virtio_area(d, g->words);
	if (id == PCI_CAP_MSIX) {
		d->msix_cap = g->capability;
		d->msix = (g->words[1] & ~7u) | (uint64_t)(g->words[1] & 7) << 32;
	}
}

bool sim_capabilities(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	if (g->step == 0) {
		g->step = 1;
		return sim_read(a, ecam(current(g)->slot, PCI_CAP_POINTER), 1);
	}
	if (g->step == 1) {
		g->capability = g->answer & 0xfc;
		g->word = 0;
	} else {
		g->words[g->word++] = (uint32_t)g->answer;
	}
	/* The list goes upwards in our devices; so it cannot be without end. */
	if (g->word == ARRAY_LEN(g->words)) {
		uint8_t next = (g->words[0] >> 8) & 0xfc;
		capability_read(g);
		g->capability = next > g->capability ? next : 0;
		g->word = 0;
	}
	if (g->capability < PCI_CAPS_FROM) {
		sim_go(g, SIM_BARS);
		return false;
	}
	g->step = 2;
	return sim_read(a, ecam(current(g)->slot, (g->capability + g->word * 4u) & 0xfc), 4);
}

/* ---- BARs: firmware has placed them; their size is asked for all the same ----------- */

static uint64_t bar_place(const struct sim_device *d, uint64_t place)
{
	unsigned bar = (place >> 32) % PCI_BAR_COUNT;
	uint64_t base = d->bars[bar] & ~0xfull;
	if ((d->bars[bar] & 6) == 4 && bar + 1 < PCI_BAR_COUNT)
		base |= d->bars[bar + 1] << 32;
	return base + (uint32_t)place;
}

static void areas_resolve(struct sim_device *d)
{
	d->common = bar_place(d, d->common);
	d->notify = bar_place(d, d->notify);
	d->config = bar_place(d, d->config);
	d->msix = bar_place(d, d->msix);
}

bool sim_bars(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	struct sim_device *d = current(g);
	unsigned step = g->step++;
	if (step > 0 && step <= PCI_BAR_COUNT)
		d->bars[step - 1] = (uint32_t)g->answer;
	if (step < PCI_BAR_COUNT)
		return sim_read(a, ecam(d->slot, PCI_BAR0 + 4 * step), 4);
	switch (step - PCI_BAR_COUNT) {
	case 0:
		return sim_write(a, ecam(d->slot, PCI_BAR0), 4, 0xffffffff);
	case 1:
		return sim_read(a, ecam(d->slot, PCI_BAR0), 4);
	case 2:
		return sim_write(a, ecam(d->slot, PCI_BAR0), 4, d->bars[0]);
	case 3:
		areas_resolve(d);
		return sim_write(a, ecam(d->slot, PCI_COMMAND), 2, COMMAND_SET);
	default:
		sim_go(g, SIM_SETUP);
		return false;
	}
}

/* ---- virtio: one access a line ------------------------------------------------------- */

static uint64_t at_common(const struct sim_guest *g)
{
	return g->devices[g->device].common;
}
static uint64_t at_config(const struct sim_guest *g)
{
	return g->devices[g->device].config;
}
static uint64_t at_pci(const struct sim_guest *g)
{
	return ecam(g->devices[g->device].slot, g->devices[g->device].msix_cap);
}
static uint64_t at_msix(const struct sim_guest *g)
{
	return g->devices[g->device].msix + 16u * g->queue;
}

static uint64_t give_features(const struct sim_guest *g)
{
	const struct sim_device *d = &g->devices[g->device];
	return d->features & (d->kind == SIM_NET ? NET_F_MAC : BLK_F_FLUSH);
}
static uint64_t give_queue(const struct sim_guest *g)
{
	return g->queue;
}
static uint64_t give_vector_data(const struct sim_guest *g)
{
	return 2u * g->device + g->queue;
}
static uint64_t give_descriptors(const struct sim_guest *g)
{
	return sim_queue_page(g->device, g->queue);
}
static uint64_t give_available(const struct sim_guest *g)
{
	return sim_queue_page(g->device, g->queue) + SIM_AT_AVAIL;
}
static uint64_t give_used(const struct sim_guest *g)
{
	return sim_queue_page(g->device, g->queue) + SIM_AT_USED;
}

static bool take_any(struct sim_guest *g, uint64_t v)
{
	return true;
}
static bool take_zero(struct sim_guest *g, uint64_t v)
{
	return v == 0;
}
static bool take_features(struct sim_guest *g, uint64_t v)
{
	current(g)->features = (uint32_t)v;
	return true;
}
static bool take_version_1(struct sim_guest *g, uint64_t v)
{
	return v & 1;
}
static bool take_features_ok(struct sim_guest *g, uint64_t v)
{
	return v == 0xb;
}
static bool take_queue_size(struct sim_guest *g, uint64_t v)
{
	return v >= SIM_QUEUE_SIZE;
}
static bool take_vector(struct sim_guest *g, uint64_t v)
{
	return v == g->queue;
}
static bool take_notify(struct sim_guest *g, uint64_t v)
{
	current(g)->queues[g->queue].notify = (uint16_t)v;
	return true;
}
/* Both kinds start with 8 bytes that matter: a disk's capacity, a NIC's address. */
static bool take_config_low(struct sim_guest *g, uint64_t v)
{
	current(g)->capacity = v;
	memcpy(current(g)->mac, &v, 4);
	return true;
}
static bool take_config_high(struct sim_guest *g, uint64_t v)
{
	current(g)->capacity |= v << 32;
	memcpy(current(g)->mac + 4, &v, 2);
	return true;
}

struct setup_op {
	uint64_t (*area)(const struct sim_guest *g);
	uint8_t at, size;
	uint32_t value;                                /* a write of this... */
	uint64_t (*give)(const struct sim_guest *g);   /* ...or of this... */
	bool (*take)(struct sim_guest *g, uint64_t v); /* ...or a read, false = wrong */
};

#define C(field) offsetof(struct virtio_pci_common_cfg, field)
static const struct setup_op setup_ops[] = {
	{at_common, C(device_status), 1, .value = 0},
	{at_common, C(device_status), 1, .take = take_zero},
	{at_common, C(device_status), 1, .value = 1},
	{at_common, C(device_status), 1, .value = 3},
	{at_common, C(device_feature_select), 4, .value = 0},
	{at_common, C(device_feature), 4, .take = take_features},
	{at_common, C(device_feature_select), 4, .value = 1},
	{at_common, C(device_feature), 4, .take = take_version_1},
	{at_common, C(guest_feature_select), 4, .value = 0},
	{at_common, C(guest_feature), 4, .give = give_features},
	{at_common, C(guest_feature_select), 4, .value = 1},
	{at_common, C(guest_feature), 4, .value = 1},
	{at_common, C(device_status), 1, .value = 0xb},
	{at_common, C(device_status), 1, .take = take_features_ok},
	{at_common, C(config_generation), 1, .take = take_any},
	{at_config, 0, 4, .take = take_config_low},
	{at_config, 4, 4, .take = take_config_high},
	{at_common, C(msix_config), 2, .value = NO_VECTOR},
	{at_pci, 2, 2, .value = MSIX_ENABLE},
};
static const struct setup_op queue_ops[] = {
	{at_common, C(queue_select), 2, .give = give_queue},
	{at_common, C(queue_size), 2, .take = take_queue_size},
	{at_common, C(queue_size), 2, .value = SIM_QUEUE_SIZE},
	{at_msix, 0, 4, .value = (uint32_t)LAYOUT_LAPIC},
	{at_msix, 4, 4, .value = 0},
	{at_msix, 8, 4, .give = give_vector_data},
	{at_msix, 12, 4, .value = 0},
	{at_common, C(queue_msix_vector), 2, .give = give_queue},
	{at_common, C(queue_msix_vector), 2, .take = take_vector},
	{at_common, C(queue_desc_lo), 4, .give = give_descriptors},
	{at_common, C(queue_desc_hi), 4, .value = 0},
	{at_common, C(queue_avail_lo), 4, .give = give_available},
	{at_common, C(queue_avail_hi), 4, .value = 0},
	{at_common, C(queue_used_lo), 4, .give = give_used},
	{at_common, C(queue_used_hi), 4, .value = 0},
	{at_common, C(queue_notify_off), 2, .take = take_notify},
	{at_common, C(queue_enable), 2, .value = 1},
};
#undef C
static const struct setup_op last_op = {
	at_common, offsetof(struct virtio_pci_common_cfg, device_status), 1, .value = 0xf};

/* Steps count through the device's lines, each queue's lines, and the last one. */
static const struct setup_op *setup_op(struct sim_guest *g, unsigned step)
{
	unsigned queues = current(g)->kind == SIM_NET ? 2 : 1;
	if (step < ARRAY_LEN(setup_ops))
		return &setup_ops[step];
	step -= ARRAY_LEN(setup_ops);
	g->queue = (uint8_t)(step / ARRAY_LEN(queue_ops));
	if (g->queue < queues)
		return &queue_ops[step % ARRAY_LEN(queue_ops)];
	g->queue = 0;
	return step == queues * ARRAY_LEN(queue_ops) ? &last_op : NULL;
}

bool sim_setup(struct engine *en, struct sim_access *a)
{
	struct sim_guest *g = &en->guest;
	if (g->step) {
		const struct setup_op *before = setup_op(g, g->step - 1u);
		if (before && before->take && !before->take(g, g->answer)) {
			sim_fail(g, SIM_BAD_SETUP);
			return false;
		}
	}
	const struct setup_op *op = setup_op(g, g->step);
	if (!op) {
		g->slot++;
		sim_go(g, SIM_SCAN);
		return false;
	}
	g->step++;
	uint64_t address = op->area(g) + op->at;
	if (op->take)
		return sim_read(a, address, op->size);
	return sim_write(a, address, op->size, op->give ? op->give(g) : op->value);
}

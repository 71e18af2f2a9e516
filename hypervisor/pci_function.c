// SPDX-License-Identifier: Apache-2.0
/* One PCI function: its configuration space, BAR 0, and its state. */
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "hypervisor/pci.h"

#define COMMAND_BITS (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

unsigned pci_gsi(const struct pci_function *f)
{
	return LAYOUT_PCI_GSI_FIRST + f->slot % 4;
}

static bool ranges_touch(unsigned at, unsigned size, unsigned from, unsigned len)
{
	return at < from + len && from < at + size;
}

static uint32_t bar_register(const struct pci_function *f)
{
	if (!f->bar_size)
		return 0;
	return f->bar_sizing ? ~(f->bar_size - 1) : (uint32_t)f->bar_address;
}

void pci_config_read(struct pci_function *f, unsigned at, void *data, unsigned size)
{
	if (at + size > PCI_CONFIG_SIZE) {
		memset(data, 0, size); /* no extended capabilities */
		return;
	}
	pci_set32(f->config, PCI_BASE_ADDRESS_0, bar_register(f));
	if (f->ops)
		f->ops->config_read(f, at, size);
	memcpy(data, f->config + at, size);
}

static void msix_control_written(struct pci_function *f)
{
	if (!pci_msix_enabled(f))
		return;
	for (unsigned i = 0; i < f->msix_count; i++)
		if (f->msix_pending & (1u << i))
			pci_msix_notify(f, i);
}

void pci_config_write(struct pci_function *f, unsigned at, const void *data, unsigned size)
{
	const uint8_t *from = data;

	if (at + size > PCI_CONFIG_SIZE)
		return;
	for (unsigned i = 0; i < size; i++) {
		uint8_t can = f->writable[at + i];
		f->config[at + i] = (uint8_t)((f->config[at + i] & ~can) | (from[i] & can));
	}
	if (at == PCI_BASE_ADDRESS_0 && size == 4)
		f->bar_sizing = pci_get32(from, 0) == UINT32_MAX;
	if (ranges_touch(at, size, PCI_COMMAND, 2))
		pci_intx(f, f->intx);
	if (f->msix_cap && ranges_touch(at, size, f->msix_cap + PCI_MSIX_FLAGS, 2))
		msix_control_written(f);
	if (f->ops)
		f->ops->config_written(f, at, size);
}

void pci_config_identify(struct pci_function *f, const struct pci_identity *id)
{
	uint8_t *c = f->config;

	pci_set16(c, PCI_VENDOR_ID, id->vendor);
	pci_set16(c, PCI_DEVICE_ID, id->device);
	pci_set16(c, PCI_SUBSYSTEM_VENDOR_ID, id->vendor);
	pci_set16(c, PCI_SUBSYSTEM_ID, id->subsystem);
	c[PCI_REVISION_ID] = id->revision;
	c[PCI_CLASS_DEVICE] = id->subclass;
	c[PCI_CLASS_DEVICE + 1] = id->class_code;
	pci_set16(f->writable, PCI_COMMAND, COMMAND_BITS);
	f->writable[PCI_INTERRUPT_LINE] = 0xff;
	f->writable[PCI_CACHE_LINE_SIZE] = 0xff;
}

static bool bar_decodes(const struct pci_function *f)
{
	return pci_get16(f->config, PCI_COMMAND) & PCI_COMMAND_MEMORY;
}

void pci_bar_access(struct pci_function *f, uint64_t at, void *data, unsigned size, bool write)
{
	if (pci_msix_access(f, at, data, size, write))
		return;
	if (write)
		f->ops->bar_write(f, at, data, size);
	else
		f->ops->bar_read(f, at, data, size);
}

static void bar_read(void *dev, uint64_t at, void *data, unsigned size)
{
	if (bar_decodes(dev))
		pci_bar_access(dev, at, data, size, false);
	else
		memset(data, 0xff, size);
}

static void bar_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	uint8_t copy[8];

	if (!bar_decodes(dev) || size > sizeof(copy))
		return;
	memcpy(copy, data, size);
	pci_bar_access(dev, at, copy, size, true);
}

static const struct bus_ops bar_bus_ops = {bar_read, bar_write};

/* Each slot has its own part of the window: an address depends on the slot only,
 * so that both ends of a replication agree on it. */
int pci_bar_add(struct pci_function *f, uint32_t size, struct error *e)
{
	uint64_t share = LAYOUT_PCI_MMIO_SIZE / PCI_SLOTS;
	int rc;

	if (size > share || (size & (size - 1)))
		return error_set(e, -EINVAL, "pci: a BAR of %u bytes is impossible", size);
	f->bar_size = size;
	f->bar_address = LAYOUT_PCI_MMIO_BASE + f->slot * share;
	rc = bus_add(&f->vm->mmio, f->bar_address, size, &bar_bus_ops, f);
	if (rc)
		return error_set(e, rc, "pci: no room on the memory bus for slot %u", f->slot);
	return 0;
}

unsigned pci_capability_add(struct pci_function *f, uint8_t id, unsigned size)
{
	unsigned at = f->caps_end ? f->caps_end : 0x40;
	unsigned link = f->last_cap ? f->last_cap + 1 : PCI_CAPABILITY_LIST;

	f->config[link] = (uint8_t)at;
	f->config[at] = id;
	f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->last_cap = at;
	f->caps_end = (at + size + 3) & ~3u;
	return at;
}

void pci_function_reset(struct pci_function *f)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if (f->writable[i])
			f->config[i] &= (uint8_t)~f->writable[i];
	f->bar_sizing = false;
	f->msix_pending = 0;
	for (unsigned i = 0; i < f->msix_count; i++)
		f->msix[i] = (struct msix_entry){.masked = true};
	/* Memory decoding as firmware leaves it: direct boot has none to turn it on. */
	if (f->bar_size)
		f->config[PCI_COMMAND] = PCI_COMMAND_MEMORY;
	if (f->config[PCI_INTERRUPT_PIN])
		f->config[PCI_INTERRUPT_LINE] = (uint8_t)pci_gsi(f);
	pci_intx(f, false);
}

void pci_function_resume(struct pci_function *f)
{
	pci_intx(f, f->intx);
	msix_control_written(f);
}

/* What the guest can change, and nothing else: the rest follows from the configuration. */
void pci_function_save(const struct pci_function *f, struct buf *out)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if (f->writable[i])
			buf_put_u8(out, f->config[i] & f->writable[i]);
	buf_put_u8(out, f->bar_sizing);
	buf_put_u8(out, f->intx);
	buf_put_u32(out, f->msix_pending);
	buf_put_u32(out, f->msix_count);
	for (unsigned i = 0; i < f->msix_count; i++) {
		buf_put_u64(out, f->msix[i].address);
		buf_put_u32(out, f->msix[i].data);
		buf_put_u8(out, f->msix[i].masked);
	}
}

static bool load_flag(struct cursor *in)
{
	uint8_t v = cursor_u8(in);

	if (v > 1)
		in->bad = true;
	return v;
}

void pci_function_load(struct pci_function *f, struct cursor *in, bool check_only)
{
	struct pci_function n = *f;

	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
		uint8_t v;
		if (!f->writable[i])
			continue;
		v = cursor_u8(in);
		if (v & ~f->writable[i])
			in->bad = true;
		n.config[i] = (uint8_t)((n.config[i] & ~f->writable[i]) | v);
	}
	n.bar_sizing = load_flag(in);
	n.intx = load_flag(in);
	n.msix_pending = cursor_u32(in);
	if (cursor_u32(in) != f->msix_count || (uint64_t)n.msix_pending >> f->msix_count)
		in->bad = true;
	for (unsigned i = 0; i < f->msix_count; i++) {
		n.msix[i].address = cursor_u64(in);
		n.msix[i].data = cursor_u32(in);
		n.msix[i].masked = load_flag(in);
	}
	if (!check_only && !in->bad)
		*f = n;
}

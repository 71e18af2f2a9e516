// SPDX-License-Identifier: Apache-2.0
/*
 * The bus: the two ways to configuration space, and the INTx lines. The reset
 * control register (0xcf9) lies inside the four bytes of CONFIG_ADDRESS, so it
 * lives here: a byte at 0xcf9 is the one, a dword at 0xcf8 the other.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/pci.h"

#define CONFIG_PORT   0xcf8u
#define CONFIG_ENABLE UINT32_C(0x80000000)
#define RESET_CPU     4u /* a write with this bit set resets */

struct pci_bus {
	struct device device;
	struct pci_function *slots[PCI_SLOTS];
	struct pci_function bridge;
	uint32_t address;
	uint8_t reset_control;
};

/* ---- configuration space ---------------------------------------------- */

static struct pci_function *bus_function(const struct pci_bus *b, unsigned devfn)
{
	return devfn % 8 ? NULL : b->slots[devfn / 8 % PCI_SLOTS];
}

static void config_access(struct pci_bus *b, unsigned devfn, unsigned at, void *data, unsigned size,
			  bool write)
{
	struct pci_function *f = bus_function(b, devfn);

	if (f && write)
		pci_config_write(f, at, data, size);
	else if (f)
		pci_config_read(f, at, data, size);
	else if (!write)
		memset(data, 0xff, size);
}

static void ecam_read(void *dev, uint64_t at, void *data, unsigned size)
{
	if (size > 4) {
		memset(data, 0xff, size);
		return;
	}
	config_access(dev, (unsigned)(at >> 12), at & 0xfff, data, size, false);
}

static void ecam_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	uint8_t copy[4];

	if (size > sizeof(copy))
		return;
	memcpy(copy, data, size);
	config_access(dev, (unsigned)(at >> 12), at & 0xfff, copy, size, true);
}

/* CONFIG_DATA at 0xcfc..0xcff; -1 in *devfn when nothing is addressed. */
static bool data_target(const struct pci_bus *b, uint64_t port_at, unsigned *devfn, unsigned *at)
{
	*devfn = b->address >> 8 & 0xff;
	*at = (b->address & 0xfc) + (unsigned)(port_at - 4);
	return (b->address & CONFIG_ENABLE) && !(b->address >> 16 & 0xff);
}

static void ports_read(void *dev, uint64_t at, void *data, unsigned size)
{
	struct pci_bus *b = dev;
	unsigned devfn, where;

	memset(data, 0xff, size);
	if (at == 0 && size == 4)
		pci_set32(data, 0, b->address);
	else if (at == LAYOUT_RESET_PORT - CONFIG_PORT && size == 1)
		*(uint8_t *)data = b->reset_control;
	else if (at >= 4 && size <= 4 && data_target(b, at, &devfn, &where))
		config_access(b, devfn, where, data, size, false);
}

static void reset_control_write(struct pci_bus *b, uint8_t v)
{
	b->reset_control = v & 0x0e & ~RESET_CPU;
	if (v & RESET_CPU)
		vm_request_reset(b->device.vm);
}

static void ports_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct pci_bus *b = dev;
	unsigned devfn, where;
	uint8_t copy[4];

	if (size > sizeof(copy))
		return;
	memcpy(copy, data, size);
	if (at == 0 && size == 4)
		b->address = pci_get32(copy, 0) & 0x80fffffc;
	else if (at == LAYOUT_RESET_PORT - CONFIG_PORT && size == 1)
		reset_control_write(b, copy[0]);
	else if (at >= 4 && data_target(b, at, &devfn, &where))
		config_access(b, devfn, where, copy, size, true);
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};
static const struct bus_ops port_ops = {ports_read, ports_write};

/* ---- INTx -------------------------------------------------------------- */

static bool drives_line(const struct pci_function *f)
{
	return f->intx && !(pci_get16(f->config, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
}

void pci_intx(struct pci_function *f, bool level)
{
	const struct pci_bus *b = f->vm->pci;
	bool line = false;

	f->intx = level;
	if (level)
		f->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		f->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	for (unsigned i = f->slot % 4; i < PCI_SLOTS; i += 4)
		line |= b->slots[i] && drives_line(b->slots[i]);
	vm_irq(f->vm, pci_gsi(f), line);
}

/* ---- functions ---------------------------------------------------------- */

static int bus_free_slot(const struct pci_bus *b)
{
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (!b->slots[i])
			return (int)i;
	return -ENOSPC;
}

int pci_function_add(struct vm *vm, struct pci_function *f, const struct pci_identity *id,
		     const struct pci_function_ops *ops, struct error *e)
{
	int slot = bus_free_slot(vm->pci);

	if (slot < 0)
		return error_set(e, slot, "pci: all %u slots are taken", PCI_SLOTS);
	f->vm = vm;
	f->ops = ops;
	f->slot = (uint8_t)slot;
	pci_config_identify(f, id);
	vm->pci->slots[slot] = f;
	return 0;
}

void pci_function_remove(struct pci_function *f)
{
	if (!f->vm)
		return;
	if (f->bar_size)
		bus_remove(&f->vm->mmio, f, f->bar_address);
	if (f->vm->pci) /* the bus may be destroyed first */
		f->vm->pci->slots[f->slot] = NULL;
}

/* ---- the device ---------------------------------------------------------- */

static struct pci_bus *bus_of(struct device *d)
{
	return CONTAINER_OF(d, struct pci_bus, device);
}

static void bus_reset(struct device *d)
{
	bus_of(d)->address = 0;
	bus_of(d)->reset_control = 0;
	pci_function_reset(&bus_of(d)->bridge);
}

static int bus_save(struct device *d, struct buf *out)
{
	buf_put_u32(out, bus_of(d)->address);
	buf_put_u8(out, bus_of(d)->reset_control);
	pci_function_save(&bus_of(d)->bridge, out);
	return buf_check(out);
}

static int bus_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		    struct error *e)
{
	struct pci_bus *b = bus_of(d);
	uint32_t address = cursor_u32(&in);
	uint8_t reset_control = cursor_u8(&in);
	struct cursor bridge = in;

	pci_function_load(&b->bridge, &in, true);
	if (cursor_finish(&in))
		return error_set(e, -EBADMSG, "state: the PCI bus section is damaged");
	if (check_only)
		return 0;
	b->address = address & 0x80fffffc;
	b->reset_control = reset_control & 0x0a;
	pci_function_load(&b->bridge, &bridge, false);
	return 0;
}

static void bus_resume(struct device *d)
{
}

static void bus_destroy(struct device *d)
{
	struct pci_bus *b = bus_of(d);

	bus_remove(&d->vm->ports, b, CONFIG_PORT);
	bus_remove(&d->vm->mmio, b, LAYOUT_ECAM_BASE);
	d->vm->pci = NULL;
	free(b);
}

const struct device_ops pci_device_ops = {
	.name = "pci",
	.section = STATE_PCI,
	.oldest = 1,
	.version = 1,
	.reset = bus_reset,
	.save = bus_save,
	.load = bus_load,
	.resume = bus_resume,
	.destroy = bus_destroy,
};

static const struct pci_identity bridge_identity = {
	.vendor = 0x1b36, /* the generic PCIe host bridge, which needs no driver */
	.device = 0x0008,
	.subsystem = 0x1100,
	.class_code = 0x06, /* host bridge */
};

int pci_create(struct vm *vm, struct error *e)
{
	struct pci_bus *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return error_set(e, -ENOMEM, "pci: out of memory");
	b->device = (struct device){.ops = &pci_device_ops, .vm = vm};
	vm->pci = b;
	rc = bus_add(&vm->ports, CONFIG_PORT, 8, &port_ops, b);
	if (rc)
		goto out_free;
	rc = bus_add(&vm->mmio, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE, &ecam_ops, b);
	if (rc)
		goto out_ports;
	rc = pci_function_add(vm, &b->bridge, &bridge_identity, NULL, e);
	if (rc)
		goto out_ecam;
	rc = vm_device_add(vm, &b->device);
	if (rc)
		goto out_ecam;
	return 0;
out_ecam:
	bus_remove(&vm->mmio, b, LAYOUT_ECAM_BASE);
out_ports:
	bus_remove(&vm->ports, b, CONFIG_PORT);
out_free:
	vm->pci = NULL;
	free(b);
	return error_set(e, rc, "pci: cannot make the bus");
}

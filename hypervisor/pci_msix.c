// SPDX-License-Identifier: Apache-2.0
/* MSI-X: PCI Local Bus Specification 3.0, section 6.8.2. */
#include <linux/pci_regs.h>
#include <string.h>

#include "hypervisor/pci.h"

#define ENTRY_SIZE 16u

static uint16_t msix_control(const struct pci_function *f)
{
	return f->msix_cap ? pci_get16(f->config, f->msix_cap + PCI_MSIX_FLAGS) : 0;
}

bool pci_msix_enabled(const struct pci_function *f)
{
	return msix_control(f) & PCI_MSIX_FLAGS_ENABLE;
}

void pci_msix_add(struct pci_function *f, unsigned count, uint32_t table_at, uint32_t pba_at)
{
	unsigned at = pci_capability_add(f, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);

	pci_set16(f->config, at + PCI_MSIX_FLAGS, (uint16_t)(count - 1));
	pci_set32(f->config, at + PCI_MSIX_TABLE, table_at);
	pci_set32(f->config, at + PCI_MSIX_PBA, pba_at);
	pci_set16(f->writable, at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	f->msix_cap = at;
	f->msix_count = count;
	f->msix_table_at = table_at;
	f->msix_pba_at = pba_at;
	for (unsigned i = 0; i < count; i++)
		f->msix[i].masked = true;
}

void pci_msix_notify(struct pci_function *f, unsigned vector)
{
	uint16_t control = msix_control(f);
	const struct msix_entry *m;

	if (!(control & PCI_MSIX_FLAGS_ENABLE) || vector >= f->msix_count)
		return;
	m = &f->msix[vector];
	if (m->masked || (control & PCI_MSIX_FLAGS_MASKALL)) {
		f->msix_pending |= 1u << vector;
		return;
	}
	f->msix_pending &= ~(1u << vector);
	vm_msi(f->vm, m->address, m->data);
}

static void entry_bytes(const struct msix_entry *m, uint8_t out[ENTRY_SIZE])
{
	pci_set32(out, 0, (uint32_t)m->address);
	pci_set32(out, 4, (uint32_t)(m->address >> 32));
	pci_set32(out, 8, m->data);
	pci_set32(out, 12, m->masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0);
}

static void table_access(struct pci_function *f, uint32_t at, void *data, unsigned size, bool write)
{
	struct msix_entry *m = &f->msix[at / ENTRY_SIZE];
	uint8_t bytes[ENTRY_SIZE];
	unsigned within = at % ENTRY_SIZE;

	entry_bytes(m, bytes);
	if (!write) {
		memcpy(data, bytes + within, size);
		return;
	}
	memcpy(bytes + within, data, size);
	m->address = pci_get32(bytes, 0) | (uint64_t)pci_get32(bytes, 4) << 32;
	m->data = pci_get32(bytes, 8);
	m->masked = pci_get32(bytes, 12) & PCI_MSIX_ENTRY_CTRL_MASKBIT;
	if (f->msix_pending & (1u << (at / ENTRY_SIZE)))
		pci_msix_notify(f, at / ENTRY_SIZE);
}

static void pba_read(const struct pci_function *f, uint32_t at, void *data, unsigned size)
{
	uint8_t bytes[8] = {0};

	pci_set32(bytes, 0, f->msix_pending);
	memcpy(data, bytes + at, size);
}

/* Only aligned accesses of 4 or 8 bytes are defined; others read as zero. */
bool pci_msix_access(struct pci_function *f, uint64_t at, void *data, unsigned size, bool write)
{
	bool table = f->msix_cap && at >= f->msix_table_at &&
		     at < f->msix_table_at + f->msix_count * ENTRY_SIZE;
	bool pba = f->msix_cap && at >= f->msix_pba_at && at < f->msix_pba_at + 8;

	if (!table && !pba)
		return false;
	if ((size != 4 && size != 8) || at % size) {
		if (!write)
			memset(data, 0, size);
	} else if (table) {
		table_access(f, (uint32_t)at - f->msix_table_at, data, size, write);
	} else if (!write) {
		pba_read(f, (uint32_t)at - f->msix_pba_at, data, size);
	}
	return true;
}

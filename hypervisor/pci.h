// SPDX-License-Identifier: Apache-2.0
/*
 * PCI bus 0: configuration space (CF8/CFC and ECAM), memory BARs, MSI-X, INTx.
 * A BAR decodes at the address given to it at creation, always: sizing is
 * answered as the specification wants, but a move is refused by reading back the
 * old address, as firmware-fixed resources are. Private to hypervisor/.
 *
 * All functions: device lock held.
 */
#ifndef POLLUX_HYPERVISOR_PCI_H
#define POLLUX_HYPERVISOR_PCI_H

#include "hypervisor/machine.h"

#define PCI_SLOTS       32u
#define PCI_CONFIG_SIZE 256u
#define PCI_MSIX_MAX    32u
#define PCI_NO_VECTOR   0xffffu

struct pci_function;
struct pci_function_ops {
	/* `at` is relative to BAR 0. 1, 2, 4 or 8 bytes. */
	void (*bar_read)(struct pci_function *f, uint64_t at, void *data, unsigned size);
	void (*bar_write)(struct pci_function *f, uint64_t at, const void *data, unsigned size);
	/* Before a read and after a write of configuration space, for registers with effects. */
	void (*config_read)(struct pci_function *f, unsigned at, unsigned size);
	void (*config_written)(struct pci_function *f, unsigned at, unsigned size);
};

struct msix_entry {
	uint64_t address;
	uint32_t data;
	bool masked;
};

struct pci_function {
	struct vm *vm;
	const struct pci_function_ops *ops; /* NULL: a function without BARs */
	uint8_t slot;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that the guest can change */
	unsigned caps_end;                 /* where the next capability goes */
	unsigned last_cap;

	uint64_t bar_address;
	uint32_t bar_size; /* power of two; 0 = none */
	bool bar_sizing;   /* all ones were written: a read gives the size */

	unsigned msix_cap; /* offset in config; 0 = none */
	unsigned msix_count;
	uint32_t msix_table_at, msix_pba_at; /* in BAR 0 */
	struct msix_entry msix[PCI_MSIX_MAX];
	uint32_t msix_pending; /* the PBA */

	bool intx; /* level that the function drives */
};

struct pci_identity {
	uint16_t vendor, device, subsystem;
	uint8_t class_code, subclass, revision;
};

void pci_config_identify(struct pci_function *f, const struct pci_identity *id);
/* Puts `f` in the next free slot. */
int pci_function_add(struct vm *vm, struct pci_function *f, const struct pci_identity *id,
		     const struct pci_function_ops *ops, struct error *e) MUST_CHECK;
void pci_function_remove(struct pci_function *f);
int pci_bar_add(struct pci_function *f, uint32_t size, struct error *e) MUST_CHECK;
/* Appends a capability (its id and next pointer included in `size`); returns its offset. */
unsigned pci_capability_add(struct pci_function *f, uint8_t id, unsigned size);
void pci_msix_add(struct pci_function *f, unsigned count, uint32_t table_at, uint32_t pba_at);

bool pci_msix_enabled(const struct pci_function *f);
/* Sends the message, or makes it pending while it is masked. */
void pci_msix_notify(struct pci_function *f, unsigned vector);
/* Drive INTA. The line is shared by the slots n, n+4, ... */
void pci_intx(struct pci_function *f, bool level);
unsigned pci_gsi(const struct pci_function *f);
/* Handle BAR accesses that hit the MSI-X table or the PBA; false: they do not. */
bool pci_msix_access(struct pci_function *f, uint64_t at, void *data, unsigned size, bool write);
/* BAR 0, whatever the command register says. */
void pci_bar_access(struct pci_function *f, uint64_t at, void *data, unsigned size, bool write);
/* After a load and before the guest runs: lines and unmasked pending messages. */
void pci_function_resume(struct pci_function *f);
void pci_function_reset(struct pci_function *f);

void pci_config_read(struct pci_function *f, unsigned at, void *data, unsigned size);
void pci_config_write(struct pci_function *f, unsigned at, const void *data, unsigned size);

void pci_function_save(const struct pci_function *f, struct buf *out);
/* Sets in->bad when the bytes are not a state of this function. */
void pci_function_load(struct pci_function *f, struct cursor *in, bool check_only);

static inline void pci_set16(uint8_t *config, unsigned at, uint16_t v)
{
	config[at] = (uint8_t)v;
	config[at + 1] = (uint8_t)(v >> 8);
}
static inline void pci_set32(uint8_t *config, unsigned at, uint32_t v)
{
	pci_set16(config, at, (uint16_t)v);
	pci_set16(config, at + 2, (uint16_t)(v >> 16));
}
static inline uint16_t pci_get16(const uint8_t *config, unsigned at)
{
	return (uint16_t)(config[at] | config[at + 1] << 8);
}
static inline uint32_t pci_get32(const uint8_t *config, unsigned at)
{
	return pci_get16(config, at) | (uint32_t)pci_get16(config, at + 2) << 16;
}

#endif

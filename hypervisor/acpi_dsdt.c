// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/acpi_aml.h"
#include "hypervisor/acpi_tables.h"
#include "hypervisor/machine.h"

#define PCI_SLOTS         32u
#define PCI_PINS          4u
#define PCI_GSIS          4u
#define PCI_CONFIG_PORT   0xcf8u
#define PCI_ANY_FUNCTION  0xffffu
#define RTC_PORT          0x70u
#define RTC_IRQ           8u
#define SERIAL_PORT       0x3f8u
#define SERIAL_PORT_COUNT 8u

/* Package () { address, pin, 0, gsi }: the 0 says that the number is a GSI. */
static void route(struct buf *b, unsigned slot, unsigned pin)
{
	size_t mark;
	aml_package_begin(b, 4, &mark);
	aml_integer(b, slot << 16 | PCI_ANY_FUNCTION);
	aml_integer(b, pin);
	aml_integer(b, 0);
	aml_integer(b, LAYOUT_PCI_GSI_FIRST + (slot + pin) % PCI_GSIS);
	aml_end(b, mark);
}

static void pci_routes(struct buf *b)
{
	size_t mark;
	aml_name(b, "_PRT");
	aml_package_begin(b, PCI_SLOTS * PCI_PINS, &mark);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		for (unsigned pin = 0; pin < PCI_PINS; pin++)
			route(b, slot, pin);
	aml_end(b, mark);
}

static void pci_resources(struct buf *b)
{
	struct aml_resources r;
	aml_resources_begin(b, "_CRS", &r);
	aml_resource_bus_range(b, 0, 0);
	aml_resource_ports(b, PCI_CONFIG_PORT, 8);
	aml_resource_port_window(b, 0, PCI_CONFIG_PORT - 1);
	aml_resource_port_window(b, PCI_CONFIG_PORT + 8, UINT16_MAX);
	aml_resource_memory_window(b, (uint32_t)LAYOUT_PCI_MMIO_BASE,
				   (uint32_t)(LAYOUT_PCI_MMIO_BASE + LAYOUT_PCI_MMIO_SIZE - 1));
	aml_resources_end(b, &r);
}

static void pci_bridge(struct buf *b)
{
	size_t mark;
	aml_device_begin(b, "PCI0", &mark);
	aml_name_eisa_id(b, "_HID", "PNP0A03");
	aml_name_integer(b, "_UID", 0);
	aml_name_integer(b, "_BBN", 0);
	aml_name_integer(b, "_SEG", 0);
	pci_resources(b);
	pci_routes(b);
	aml_end(b, mark);
}

/* Memory-mapped configuration space is used only where firmware also claims it. */
static void motherboard(struct buf *b)
{
	size_t mark;
	struct aml_resources r;
	aml_device_begin(b, "MBRD", &mark);
	aml_name_eisa_id(b, "_HID", "PNP0C02");
	aml_name_integer(b, "_UID", 0);
	aml_resources_begin(b, "_CRS", &r);
	aml_resource_fixed_memory(b, (uint32_t)LAYOUT_ECAM_BASE, (uint32_t)LAYOUT_ECAM_SIZE);
	aml_resources_end(b, &r);
	aml_end(b, mark);
}

struct legacy_device {
	const char *name, *id;
	uint16_t port;
	uint8_t port_count;
	unsigned irq;
};
static const struct legacy_device legacy_devices[] = {
	{"COM1", "PNP0501", SERIAL_PORT, SERIAL_PORT_COUNT, LAYOUT_SERIAL_GSI},
	{"RTC0", "PNP0B00", RTC_PORT, 2, RTC_IRQ},
};

static void legacy_device(struct buf *b, const struct legacy_device *d)
{
	size_t mark;
	struct aml_resources r;
	aml_device_begin(b, d->name, &mark);
	aml_name_eisa_id(b, "_HID", d->id);
	aml_name_integer(b, "_UID", 1);
	aml_resources_begin(b, "_CRS", &r);
	aml_resource_ports(b, d->port, d->port_count);
	aml_resource_irq(b, d->irq);
	aml_resources_end(b, &r);
	aml_end(b, mark);
}

static void sleep_states(struct buf *b)
{
	size_t mark;
	aml_name(b, "\\_S5_");
	aml_package_begin(b, 4, &mark);
	aml_integer(b, LAYOUT_S5_TYPE);
	aml_integer(b, 0);
	aml_integer(b, 0);
	aml_integer(b, 0);
	aml_end(b, mark);
}

void acpi_dsdt_build(struct buf *out)
{
	size_t mark, start = acpi_table_begin(out, "DSDT", 2);
	sleep_states(out);
	aml_scope_begin(out, "\\_SB_", &mark);
	pci_bridge(out);
	motherboard(out);
	for (unsigned i = 0; i < ARRAY_LEN(legacy_devices); i++)
		legacy_device(out, &legacy_devices[i]);
	aml_end(out, mark);
	acpi_table_end(out, start);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * AML, written byte by byte into a buf (ACPI 6.4, chapter 20). What has a length
 * is written between aml_*_begin() and aml_end(). Names are given as they are
 * encoded: segments of four characters, a leading backslash for the root.
 * Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_ACPI_AML_H
#define POLLUX_HYPERVISOR_ACPI_AML_H

#include "base/base.h"

void aml_scope_begin(struct buf *b, const char *name, size_t *mark);
void aml_device_begin(struct buf *b, const char *name, size_t *mark);
void aml_package_begin(struct buf *b, unsigned elements, size_t *mark);
void aml_end(struct buf *b, size_t mark);

/* Name (name, ...): what is written next is the value. */
void aml_name(struct buf *b, const char *name);
void aml_name_integer(struct buf *b, const char *name, uint64_t value);
/* "PNP0A03": as a compressed EISA identifier. */
void aml_name_eisa_id(struct buf *b, const char *name, const char *id);
void aml_integer(struct buf *b, uint64_t value);

/* Resource templates: Name (_CRS, ResourceTemplate () { ... }). */
struct aml_resources {
	size_t package, size_at, start;
};
void aml_resources_begin(struct buf *b, const char *name, struct aml_resources *r);
void aml_resources_end(struct buf *b, const struct aml_resources *r);
void aml_resource_irq(struct buf *b, unsigned irq);
void aml_resource_ports(struct buf *b, uint16_t base, uint8_t count);
void aml_resource_fixed_memory(struct buf *b, uint32_t base, uint32_t size);
void aml_resource_bus_range(struct buf *b, uint16_t first, uint16_t last);
void aml_resource_port_window(struct buf *b, uint16_t first, uint16_t last);
void aml_resource_memory_window(struct buf *b, uint32_t first, uint32_t last);

#endif

// SPDX-License-Identifier: Apache-2.0
/* The ACPI tables as bytes, for acpi_tables_write() and its test. Private to hypervisor/. */
#ifndef POLLUX_HYPERVISOR_ACPI_TABLES_H
#define POLLUX_HYPERVISOR_ACPI_TABLES_H

#include "base/base.h"

/* All tables, as they lie from LAYOUT_ACPI_TABLES on; the RSDP comes first. */
int acpi_tables_build(unsigned vcpus, struct buf *out) MUST_CHECK;
/* The definition block: devices, interrupt routing, S5. */
void acpi_dsdt_build(struct buf *out);
/* A table's header; its length and checksum come with acpi_table_end(). */
size_t acpi_table_begin(struct buf *b, const char signature[4], uint8_t revision);
void acpi_table_end(struct buf *b, size_t start);

#endif

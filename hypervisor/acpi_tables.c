// SPDX-License-Identifier: Apache-2.0
/* ACPI 6.4, chapter 5. Fields are written in the order of the specification's tables. */
#include "hypervisor/acpi_tables.h"

#include <string.h>

#include "hypervisor/machine.h"

#define OEM_ID              "POLLUX"
#define OEM_TABLE_ID        "POLLUXVM"
#define CREATOR_ID          "PLLX"

#define TABLE_LENGTH_AT     4u
#define TABLE_CHECKSUM_AT   9u
#define RSDP_SIZE           36u
#define RSDP_V1_SIZE        20u
#define FACS_SIZE           64u

#define FADT_WBINVD         (1u << 0)
#define FADT_PROC_C1        (1u << 2)
#define FADT_NO_SLEEP_KEY   (1u << 5)
#define FADT_NO_RTC_WAKE    (1u << 6)
#define FADT_RESET_REG      (1u << 10)
#define FADT_LEGACY         (1u << 0) /* ISA devices: the serial port */
#define FADT_NO_VGA         (1u << 2)
#define RTC_CENTURY         0x32u

#define SPACE_IO            1u
#define MADT_8259           1u
#define MADT_ENABLED        1u
#define MADT_ACTIVE_HIGH    0x1u
#define MADT_LEVEL          0xcu
#define MADT_ALL_PROCESSORS 0xffu

static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;
	while (n--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static void zeros(struct buf *b, size_t n)
{
	while (n--)
		buf_put_u8(b, 0);
}

size_t acpi_table_begin(struct buf *b, const char signature[4], uint8_t revision)
{
	while (b->len % 16)
		buf_put_u8(b, 0);
	size_t start = b->len;
	buf_put(b, signature, 4);
	buf_put_u32(b, 0);
	buf_put_u8(b, revision);
	buf_put_u8(b, 0);
	buf_put(b, OEM_ID, 6);
	buf_put(b, OEM_TABLE_ID, 8);
	buf_put_u32(b, 1);
	buf_put(b, CREATOR_ID, 4);
	buf_put_u32(b, 1);
	return start;
}

void acpi_table_end(struct buf *b, size_t start)
{
	if (b->failed)
		return;
	buf_patch_u32(b, start + TABLE_LENGTH_AT, (uint32_t)(b->len - start));
	b->data[start + TABLE_CHECKSUM_AT] = checksum(b->data + start, b->len - start);
}

/* Generic address structure; an address of 0 with width 0 means "not there". */
static void io_register(struct buf *b, uint16_t port, unsigned bytes)
{
	buf_put_u8(b, SPACE_IO);
	buf_put_u8(b, (uint8_t)(bytes * 8));
	buf_put_u8(b, 0);
	buf_put_u8(b, (uint8_t)(bytes > 2 ? 2 : bytes)); /* access by byte or word */
	buf_put_u64(b, port);
}

static size_t facs_build(struct buf *b)
{
	while (b->len % 64)
		buf_put_u8(b, 0);
	size_t start = b->len;
	buf_put(b, "FACS", 4);
	buf_put_u32(b, FACS_SIZE);
	zeros(b, 24);
	buf_put_u8(b, 2); /* version */
	zeros(b, FACS_SIZE - 33);
	return start;
}

/* Fixed hardware blocks as 32-bit ports and lengths: no PM1b, PM2, timer or GPEs. */
static void fadt_blocks(struct buf *b)
{
	buf_put_u32(b, LAYOUT_PM_BASE);
	buf_put_u32(b, 0);
	buf_put_u32(b, LAYOUT_PM_BASE + 4);
	zeros(b, 20);
	buf_put_u8(b, 4); /* PM1 event */
	buf_put_u8(b, 2); /* PM1 control */
	zeros(b, 6);
	buf_put_u16(b, 0xffff); /* no C2 */
	buf_put_u16(b, 0xffff); /* no C3 */
	zeros(b, 8);
	buf_put_u8(b, RTC_CENTURY);
}

static size_t fadt_build(struct buf *b, uint32_t facs, uint32_t dsdt)
{
	size_t start = acpi_table_begin(b, "FACP", 6);
	buf_put_u32(b, facs);
	buf_put_u32(b, dsdt);
	buf_put_u8(b, 0);
	buf_put_u8(b, 0); /* preferred profile: unspecified */
	buf_put_u16(b, LAYOUT_ACPI_GSI);
	buf_put_u32(b, 0); /* SMI command port: always in ACPI mode */
	zeros(b, 4);
	fadt_blocks(b);
	buf_put_u16(b, FADT_LEGACY | FADT_NO_VGA);
	buf_put_u8(b, 0);
	buf_put_u32(b, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_KEY | FADT_NO_RTC_WAKE |
			       FADT_RESET_REG);
	io_register(b, LAYOUT_RESET_PORT, 1);
	buf_put_u8(b, LAYOUT_RESET_VALUE);
	buf_put_u16(b, 0);
	buf_put_u8(b, 4);  /* minor version */
	buf_put_u64(b, 0); /* FACS and DSDT are given as 32 bits above */
	buf_put_u64(b, dsdt);
	io_register(b, LAYOUT_PM_BASE, 4);
	zeros(b, 12);
	io_register(b, LAYOUT_PM_BASE + 4, 2);
	zeros(b, 12 * 7);
	buf_put(b, OEM_TABLE_ID, 8); /* hypervisor vendor */
	acpi_table_end(b, start);
	return start;
}

static void madt_lapic(struct buf *b, unsigned cpu)
{
	buf_put_u8(b, 0);
	buf_put_u8(b, 8);
	buf_put_u8(b, (uint8_t)cpu); /* processor */
	buf_put_u8(b, (uint8_t)cpu); /* APIC id */
	buf_put_u32(b, MADT_ENABLED);
}

static void madt_ioapic(struct buf *b)
{
	buf_put_u8(b, 1);
	buf_put_u8(b, 12);
	buf_put_u8(b, 0); /* id */
	buf_put_u8(b, 0);
	buf_put_u32(b, (uint32_t)LAYOUT_IOAPIC);
	buf_put_u32(b, 0); /* its first GSI */
}

static void madt_override(struct buf *b, unsigned irq, unsigned gsi, uint16_t flags)
{
	buf_put_u8(b, 2);
	buf_put_u8(b, 10);
	buf_put_u8(b, 0);
	buf_put_u8(b, (uint8_t)irq);
	buf_put_u32(b, gsi);
	buf_put_u16(b, flags);
}

static void madt_nmi(struct buf *b)
{
	buf_put_u8(b, 4);
	buf_put_u8(b, 6);
	buf_put_u8(b, MADT_ALL_PROCESSORS);
	buf_put_u16(b, 0);
	buf_put_u8(b, 1); /* LINT1 */
}

static size_t madt_build(struct buf *b, unsigned vcpus)
{
	size_t start = acpi_table_begin(b, "APIC", 5);
	buf_put_u32(b, (uint32_t)LAYOUT_LAPIC);
	buf_put_u32(b, MADT_8259);
	for (unsigned i = 0; i < vcpus; i++)
		madt_lapic(b, i);
	madt_ioapic(b);
	madt_override(b, 0, 2, 0);
	madt_override(b, LAYOUT_ACPI_GSI, LAYOUT_ACPI_GSI, MADT_ACTIVE_HIGH | MADT_LEVEL);
	madt_nmi(b);
	acpi_table_end(b, start);
	return start;
}

static size_t mcfg_build(struct buf *b)
{
	size_t start = acpi_table_begin(b, "MCFG", 1);
	zeros(b, 8);
	buf_put_u64(b, LAYOUT_ECAM_BASE);
	buf_put_u16(b, 0); /* segment */
	buf_put_u8(b, 0);  /* first bus */
	buf_put_u8(b, 0);  /* last bus */
	zeros(b, 4);
	acpi_table_end(b, start);
	return start;
}

static size_t xsdt_build(struct buf *b, const size_t *tables, unsigned count)
{
	size_t start = acpi_table_begin(b, "XSDT", 1);
	for (unsigned i = 0; i < count; i++)
		buf_put_u64(b, LAYOUT_ACPI_TABLES + tables[i]);
	acpi_table_end(b, start);
	return start;
}

static void rsdp_fill(uint8_t *p, uint64_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2; /* revision */
	p[20] = RSDP_SIZE;
	for (unsigned i = 0; i < 8; i++)
		p[24 + i] = (uint8_t)(xsdt >> (8 * i));
	p[8] = checksum(p, RSDP_V1_SIZE);
	p[32] = checksum(p, RSDP_SIZE);
}

int acpi_tables_build(unsigned vcpus, struct buf *out)
{
	size_t tables[3];
	zeros(out, RSDP_SIZE);
	size_t facs = facs_build(out);
	size_t dsdt = (out->len + 15) / 16 * 16;
	acpi_dsdt_build(out);
	tables[0] = fadt_build(out, (uint32_t)(LAYOUT_ACPI_TABLES + facs),
			       (uint32_t)(LAYOUT_ACPI_TABLES + dsdt));
	tables[1] = madt_build(out, vcpus);
	tables[2] = mcfg_build(out);
	size_t xsdt = xsdt_build(out, tables, ARRAY_LEN(tables));
	int rc = buf_check(out);
	if (!rc)
		rsdp_fill(out->data, LAYOUT_ACPI_TABLES + xsdt);
	return rc;
}

int acpi_tables_write(struct vm *vm, uint64_t *rsdp, struct error *e)
{
	struct buf tables = {0};
	int rc = acpi_tables_build(vm->config.vcpus, &tables);
	if (!rc)
		rc = memory_write(&vm->memory, LAYOUT_ACPI_TABLES, tables.data, tables.len);
	buf_free(&tables);
	if (rc)
		return error_set(e, rc, "cannot write the ACPI tables into guest memory");
	*rsdp = LAYOUT_ACPI_TABLES;
	return 0;
}

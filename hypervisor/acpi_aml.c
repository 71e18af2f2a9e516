// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/acpi_aml.h"

#include <string.h>

enum aml_op {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_EXT = 0x5b,
	AML_EXT_DEVICE = 0x82,
};

/* A package length of three bytes always: it is known only at the end. The first
 * byte holds the number of bytes that follow and the lowest four bits. */
#define LENGTH_BYTES 3u

static size_t length_begin(struct buf *b)
{
	size_t mark = b->len;
	buf_put(b, "\0\0\0", LENGTH_BYTES);
	return mark;
}

void aml_end(struct buf *b, size_t mark)
{
	if (b->failed)
		return;
	size_t length = b->len - mark;
	b->data[mark] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (length & 0xf));
	b->data[mark + 1] = (uint8_t)(length >> 4);
	b->data[mark + 2] = (uint8_t)(length >> 12);
}

static void name_put(struct buf *b, const char *name)
{
	buf_put(b, name, strlen(name));
}

void aml_scope_begin(struct buf *b, const char *name, size_t *mark)
{
	buf_put_u8(b, AML_SCOPE);
	*mark = length_begin(b);
	name_put(b, name);
}

void aml_device_begin(struct buf *b, const char *name, size_t *mark)
{
	buf_put_u8(b, AML_EXT);
	buf_put_u8(b, AML_EXT_DEVICE);
	*mark = length_begin(b);
	name_put(b, name);
}

void aml_package_begin(struct buf *b, unsigned elements, size_t *mark)
{
	buf_put_u8(b, AML_PACKAGE);
	*mark = length_begin(b);
	buf_put_u8(b, (uint8_t)elements);
}

void aml_name(struct buf *b, const char *name)
{
	buf_put_u8(b, AML_NAME);
	name_put(b, name);
}

void aml_integer(struct buf *b, uint64_t value)
{
	if (value <= 1) {
		buf_put_u8(b, value ? AML_ONE : AML_ZERO);
	} else if (value <= UINT8_MAX) {
		buf_put_u8(b, AML_BYTE);
		buf_put_u8(b, (uint8_t)value);
	} else if (value <= UINT16_MAX) {
		buf_put_u8(b, AML_WORD);
		buf_put_u16(b, (uint16_t)value);
	} else if (value <= UINT32_MAX) {
		buf_put_u8(b, AML_DWORD);
		buf_put_u32(b, (uint32_t)value);
	} else {
		buf_put_u8(b, AML_QWORD);
		buf_put_u64(b, value);
	}
}

void aml_name_integer(struct buf *b, const char *name, uint64_t value)
{
	aml_name(b, name);
	aml_integer(b, value);
}

static unsigned hex_digit(char c)
{
	return c >= 'A' ? (unsigned)(c - 'A') + 10 : (unsigned)(c - '0');
}

/* Three letters of five bits, four hexadecimal digits, most significant first. */
void aml_name_eisa_id(struct buf *b, const char *name, const char *id)
{
	uint32_t v = 0;
	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | ((uint32_t)id[i] - 0x40);
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	aml_name_integer(b, name, __builtin_bswap32(v));
}

void aml_resources_begin(struct buf *b, const char *name, struct aml_resources *r)
{
	aml_name(b, name);
	buf_put_u8(b, AML_BUFFER);
	r->package = length_begin(b);
	buf_put_u8(b, AML_DWORD);
	r->size_at = b->len;
	buf_put_u32(b, 0);
	r->start = b->len;
}

void aml_resources_end(struct buf *b, const struct aml_resources *r)
{
	buf_put_u8(b, 0x79); /* end tag, checksum not used */
	buf_put_u8(b, 0);
	if (!b->failed)
		buf_patch_u32(b, r->size_at, (uint32_t)(b->len - r->start));
	aml_end(b, r->package);
}

void aml_resource_irq(struct buf *b, unsigned irq)
{
	buf_put_u8(b, 0x22); /* without flags: edge, active high */
	buf_put_u16(b, (uint16_t)(1u << irq));
}

void aml_resource_ports(struct buf *b, uint16_t base, uint8_t count)
{
	buf_put_u8(b, 0x47);
	buf_put_u8(b, 1); /* decodes 16 bits */
	buf_put_u16(b, base);
	buf_put_u16(b, base);
	buf_put_u8(b, 1); /* alignment */
	buf_put_u8(b, count);
}

void aml_resource_fixed_memory(struct buf *b, uint32_t base, uint32_t size)
{
	buf_put_u8(b, 0x86);
	buf_put_u16(b, 9);
	buf_put_u8(b, 1); /* writable */
	buf_put_u32(b, base);
	buf_put_u32(b, size);
}

enum window_kind { WINDOW_MEMORY, WINDOW_PORTS, WINDOW_BUS };
#define WINDOW_FIXED    0x0cu /* both ends fixed, decoded here and passed on */
#define PORTS_WHOLE     0x03u
#define MEMORY_WRITABLE 0x01u

static void window_word(struct buf *b, enum window_kind kind, uint8_t flags, uint16_t first,
			uint16_t last)
{
	buf_put_u8(b, 0x88);
	buf_put_u16(b, 13);
	buf_put_u8(b, (uint8_t)kind);
	buf_put_u8(b, WINDOW_FIXED);
	buf_put_u8(b, flags);
	buf_put_u16(b, 0); /* granularity */
	buf_put_u16(b, first);
	buf_put_u16(b, last);
	buf_put_u16(b, 0); /* translation */
	buf_put_u16(b, (uint16_t)(last - first + 1));
}

void aml_resource_bus_range(struct buf *b, uint16_t first, uint16_t last)
{
	window_word(b, WINDOW_BUS, 0, first, last);
}

void aml_resource_port_window(struct buf *b, uint16_t first, uint16_t last)
{
	window_word(b, WINDOW_PORTS, PORTS_WHOLE, first, last);
}

void aml_resource_memory_window(struct buf *b, uint32_t first, uint32_t last)
{
	buf_put_u8(b, 0x87);
	buf_put_u16(b, 23);
	buf_put_u8(b, WINDOW_MEMORY);
	buf_put_u8(b, WINDOW_FIXED);
	buf_put_u8(b, MEMORY_WRITABLE);
	buf_put_u32(b, 0); /* granularity */
	buf_put_u32(b, first);
	buf_put_u32(b, last);
	buf_put_u32(b, 0); /* translation */
	buf_put_u32(b, last - first + 1);
}

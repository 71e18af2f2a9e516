// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "hypervisor/boot.h"

/* Offsets in the image's first sectors and, from HEADER_START on, in the zero page
 * too: "The Real-Mode Kernel Header" of the boot protocol. */
#define HEADER_START         0x1f1u
#define HEADER_SECTORS       0x1f1u
#define HEADER_SYSSIZE       0x1f4u
#define HEADER_BOOT_FLAG     0x1feu
#define HEADER_JUMP_LENGTH   0x201u
#define HEADER_JUMP_END      0x202u
#define HEADER_VERSION       0x206u
#define HEADER_LOADER        0x210u
#define HEADER_LOADFLAGS     0x211u
#define HEADER_INITRD        0x218u
#define HEADER_INITRD_SIZE   0x21cu
#define HEADER_CMDLINE       0x228u
#define HEADER_INITRD_MAX    0x22cu
#define HEADER_ALIGNMENT     0x230u
#define HEADER_RELOCATABLE   0x234u
#define HEADER_XLOADFLAGS    0x236u
#define HEADER_CMDLINE_MAX   0x238u
#define HEADER_PREFERRED     0x258u
#define HEADER_INIT_SIZE     0x260u
#define HEADER_LEAST_END     0x264u
#define HEADER_MOST_END      0x290u /* where the zero page has other fields */

#define ZERO_PAGE_RSDP       0x070u
#define ZERO_PAGE_MAP_COUNT  0x1e8u
#define ZERO_PAGE_MAP        0x2d0u
#define ZERO_PAGE_MAP_STRIDE 20u

#define BOOT_FLAG            0xaa55u
#define VERSION_LEAST        0x020cu
#define XLOAD_KERNEL_64      0x1u
#define LOADED_HIGH          0x1u
#define LOADER_UNDEFINED     0xffu
#define SECTOR               512u
#define ENTRY_64             0x200u /* from the start of the protected-mode kernel */

static uint64_t field(const uint8_t *p, unsigned at, unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[at + i] << (8 * i);
	return v;
}

static void field_set(uint8_t *p, unsigned at, unsigned bytes, uint64_t v)
{
	for (unsigned i = 0; i < bytes; i++)
		p[at + i] = (uint8_t)(v >> (8 * i));
}

static int bad(struct error *e, const char *what)
{
	return error_set(e, -EINVAL, "this bzImage cannot be used: %s", what);
}

static int signature_check(const uint8_t *p, size_t n, struct error *e)
{
	if (n < HEADER_JUMP_END + 4 || field(p, HEADER_BOOT_FLAG, 2) != BOOT_FLAG ||
	    memcmp(p + HEADER_JUMP_END, "HdrS", 4) != 0)
		return error_set(e, -EINVAL,
				 "neither a Linux bzImage (no HdrS signature) nor an ELF file");
	if (n < HEADER_LEAST_END)
		return bad(e, "it ends inside the setup header");
	if (field(p, HEADER_VERSION, 2) < VERSION_LEAST)
		return error_set(e, -EINVAL,
				 "this bzImage cannot be used: boot protocol %llu.%02llu is too "
				 "old, 2.12 (Linux 3.8) is the least",
				 (unsigned long long)field(p, HEADER_VERSION + 1, 1),
				 (unsigned long long)field(p, HEADER_VERSION, 1));
	if (!(field(p, HEADER_XLOADFLAGS, 2) & XLOAD_KERNEL_64))
		return bad(e, "it has no 64-bit entry point (xloadflags)");
	return 0;
}

/* The header's end is told by the jump over it. */
static int header_check(const uint8_t *p, struct kernel_image *out, struct error *e)
{
	uint64_t end = HEADER_JUMP_END + field(p, HEADER_JUMP_LENGTH, 1);
	if (end < HEADER_LEAST_END)
		return bad(e, "its setup header is shorter than its version says");
	if (end > HEADER_MOST_END)
		end = HEADER_MOST_END;
	out->header_offset = HEADER_START;
	out->header_size = end - HEADER_START;
	return 0;
}

static int payload_check(const uint8_t *p, size_t n, struct kernel_image *out, struct error *e)
{
	uint64_t sectors = field(p, HEADER_SECTORS, 1);
	uint64_t start = ((sectors ? sectors : 4) + 1) * SECTOR;
	uint64_t size = field(p, HEADER_SYSSIZE, 4) * 16;
	if (out->header_offset + out->header_size > n || start >= n)
		return bad(e, "it ends inside the real-mode part (setup_sects)");
	/* syssize is rounded up to 16 bytes; what follows it is a signature. */
	if (size >= 16 && size - 15 > n - start)
		return error_set(e, -EINVAL,
				 "this bzImage is cut short: its header tells of %llu bytes after "
				 "the first %llu (syssize), there are %llu",
				 (unsigned long long)size, (unsigned long long)start,
				 (unsigned long long)(n - start));
	if (size > n - start)
		size = n - start;
	if (size <= ENTRY_64)
		return bad(e, "its protected-mode kernel is empty (syssize)");
	out->payload_offset = start;
	out->payload_size = size;
	return 0;
}

static int placement_check(const uint8_t *p, struct kernel_image *out, struct error *e)
{
	out->preferred_address = field(p, HEADER_PREFERRED, 8);
	out->alignment = field(p, HEADER_ALIGNMENT, 4);
	out->init_size = field(p, HEADER_INIT_SIZE, 4);
	out->relocatable = field(p, HEADER_RELOCATABLE, 1) != 0;
	out->initrd_limit = field(p, HEADER_INITRD_MAX, 4) + 1;
	out->cmdline_max = field(p, HEADER_CMDLINE_MAX, 4);
	if (out->cmdline_max > BOOT_CMDLINE_MAX - 1)
		out->cmdline_max = BOOT_CMDLINE_MAX - 1;
	if (out->alignment < VM_PAGE_SIZE || out->alignment > (1u << 30) ||
	    (out->alignment & (out->alignment - 1)))
		return bad(e, "kernel_alignment is no power of two of at least a page");
	if (out->init_size < out->payload_size)
		return bad(e, "init_size is smaller than the kernel itself");
	if (out->preferred_address < BOOT_LOW_END || out->preferred_address >= MEMORY_HOLE_START ||
	    out->preferred_address % VM_PAGE_SIZE)
		return bad(e, "pref_address is outside of low memory or not on a page");
	return 0;
}

int bzimage_parse(const void *data, size_t n, struct kernel_image *out, struct error *e)
{
	const uint8_t *p = data;
	memset(out, 0, sizeof(*out));
	out->protocol = BOOT_LINUX64;
	int rc = signature_check(p, n, e);
	if (!rc)
		rc = header_check(p, out, e);
	if (!rc)
		rc = payload_check(p, n, out, e);
	if (!rc)
		rc = placement_check(p, out, e);
	return rc;
}

/* A small VM may have no room at the preferred address; a relocatable kernel then
 * takes the first aligned one. */
int bzimage_place(struct boot_plan *p, struct error *e)
{
	const struct kernel_image *k = p->kernel;
	uint64_t lowest = (BOOT_LOW_END + k->alignment - 1) / k->alignment * k->alignment;
	p->kernel_start = k->preferred_address;
	if (!memory_at(p->memory, p->kernel_start, k->init_size) && k->relocatable)
		p->kernel_start = lowest;
	if (!memory_at(p->memory, p->kernel_start, k->init_size))
		return error_set(e, -ENOMEM,
				 "it needs %llu MiB from address %#llx on to start: give the VM "
				 "more memory",
				 (unsigned long long)(k->init_size >> 20) + 1,
				 (unsigned long long)p->kernel_start);
	p->kernel_end = p->kernel_start + k->init_size;
	return 0;
}

static void zero_page_map(const struct boot_plan *p, uint8_t *zero_page)
{
	struct boot_range map[BOOT_RANGES_MAX];
	unsigned count = boot_memory_map(p->memory, map);
	for (unsigned i = 0; i < count; i++) {
		uint8_t *entry = zero_page + ZERO_PAGE_MAP + i * ZERO_PAGE_MAP_STRIDE;
		field_set(entry, 0, 8, map[i].start);
		field_set(entry, 8, 8, map[i].size);
		field_set(entry, 16, 4, map[i].kind);
	}
	zero_page[ZERO_PAGE_MAP_COUNT] = (uint8_t)count;
}

static int zero_page_write(const struct boot_plan *p)
{
	const struct kernel_image *k = p->kernel;
	uint8_t zero_page[VM_PAGE_SIZE] = {0};
	memcpy(zero_page + HEADER_START, p->image + k->header_offset, k->header_size);
	zero_page[HEADER_LOADER] = LOADER_UNDEFINED;
	zero_page[HEADER_LOADFLAGS] |= LOADED_HIGH;
	field_set(zero_page, HEADER_INITRD, 4, p->initrd);
	field_set(zero_page, HEADER_INITRD_SIZE, 4, p->initrd_size);
	field_set(zero_page, HEADER_CMDLINE, 4, BOOT_CMDLINE);
	field_set(zero_page, ZERO_PAGE_RSDP, 8, p->rsdp);
	zero_page_map(p, zero_page);
	return memory_write(p->memory, BOOT_INFO, zero_page, sizeof(zero_page));
}

int bzimage_write(const struct boot_plan *p, struct boot_entry *out, struct error *e)
{
	const struct kernel_image *k = p->kernel;
	int rc = memory_write(p->memory, p->kernel_start, p->image + k->payload_offset,
			      k->payload_size);
	if (!rc)
		rc = zero_page_write(p);
	if (rc)
		return error_set(e, rc, "cannot write the kernel into guest memory");
	out->rip = p->kernel_start + ENTRY_64;
	return 0;
}

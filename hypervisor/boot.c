// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/machine.h"

/* The boot GDT: the selectors are those that the Linux boot protocol asks for,
 * and engines load the same values into the hidden parts of the registers. */
static const uint64_t boot_gdt[] = {
	[BOOT_SELECTOR_CODE64 / 8] = UINT64_C(0x00af9b000000ffff),
	[BOOT_SELECTOR_DATA / 8] = UINT64_C(0x00cf93000000ffff),
	[BOOT_SELECTOR_CODE32 / 8] = UINT64_C(0x00cf9b000000ffff),
	[BOOT_SELECTOR_TSS / 8] = UINT64_C(0x00008b0000000067),
	[BOOT_SELECTOR_TSS / 8 + 1] = 0, /* its upper half in long mode */
};

#define PAGE_PRESENT_WRITABLE UINT64_C(0x3)
#define PAGE_LARGE            UINT64_C(0x80)
#define LARGE_PAGE_SIZE       UINT64_C(0x200000)
#define IDENTITY_DIRECTORIES  4u /* of 1 GiB each: all that lies below 4 GiB */

int kernel_image_parse(const void *data, size_t n, struct kernel_image *out, struct error *e)
{
	memset(out, 0, sizeof(*out));
	if (n >= 4 && !memcmp(data, "\177ELF", 4))
		return elf_parse(data, n, out, e);
	return bzimage_parse(data, n, out, e);
}

static void range_add(struct boot_range *out, unsigned *n, uint64_t start, uint64_t end,
		      enum boot_range_kind kind)
{
	if (start < end)
		out[(*n)++] = (struct boot_range){start, end - start, kind};
}

unsigned boot_memory_map(const struct memory *m, struct boot_range out[BOOT_RANGES_MAX])
{
	struct memory_region regions[2];
	unsigned count = memory_regions(m, regions), n = 0;
	uint64_t low = regions[0].size;
	range_add(out, &n, 0, 0x9fc00, BOOT_RANGE_RAM);
	range_add(out, &n, 0x9fc00, 0xa0000, BOOT_RANGE_RESERVED);
	range_add(out, &n, LAYOUT_ACPI_TABLES, BOOT_LOW_END, BOOT_RANGE_RESERVED);
	range_add(out, &n, BOOT_LOW_END, low, BOOT_RANGE_RAM);
	range_add(out, &n, LAYOUT_ECAM_BASE, LAYOUT_ECAM_BASE + LAYOUT_ECAM_SIZE,
		  BOOT_RANGE_RESERVED);
	if (count > 1)
		range_add(out, &n, regions[1].gpa, regions[1].gpa + regions[1].size,
			  BOOT_RANGE_RAM);
	return n;
}

static int gdt_write(struct memory *m)
{
	return memory_write(m, BOOT_GDT, boot_gdt, sizeof(boot_gdt));
}

static int page_tables_write(struct memory *m)
{
	uint64_t len = (2 + IDENTITY_DIRECTORIES) * VM_PAGE_SIZE;
	uint64_t *table = memory_at(m, BOOT_PAGE_TABLES, len);
	if (!table)
		return -EFAULT;
	memset(table, 0, len);
	uint64_t *pointers = table + 512, *directory = table + 1024;
	table[0] = (BOOT_PAGE_TABLES + VM_PAGE_SIZE) | PAGE_PRESENT_WRITABLE;
	for (unsigned i = 0; i < IDENTITY_DIRECTORIES; i++)
		pointers[i] = (BOOT_PAGE_TABLES + (2 + i) * VM_PAGE_SIZE) | PAGE_PRESENT_WRITABLE;
	for (unsigned i = 0; i < IDENTITY_DIRECTORIES * 512; i++)
		directory[i] = i * LARGE_PAGE_SIZE | PAGE_LARGE | PAGE_PRESENT_WRITABLE;
	memory_mark(m, BOOT_PAGE_TABLES, len);
	return 0;
}

static int cmdline_write(const struct boot_plan *p, struct error *e)
{
	size_t len = strlen(p->cmdline);
	if (len > p->kernel->cmdline_max)
		return error_set(e, -EINVAL,
				 "the command line has %zu characters; this kernel takes %llu", len,
				 (unsigned long long)p->kernel->cmdline_max);
	return memory_write(p->memory, BOOT_CMDLINE, p->cmdline, len + 1);
}

/* The highest page-aligned place of `size` bytes in [start, end); 0: there is none. */
static uint64_t place_below(uint64_t start, uint64_t end, uint64_t size)
{
	uint64_t at = end > size ? (end - size) / VM_PAGE_SIZE * VM_PAGE_SIZE : 0;
	return at >= start ? at : 0;
}

/* As high as the kernel allows: it keeps clear of wherever the kernel unpacks to. In a
 * small VM, what lies below the kernel is the larger part. */
static int initrd_place(struct boot_plan *p, uint64_t size, struct error *e)
{
	struct memory_region regions[2];
	(void)memory_regions(p->memory, regions);
	uint64_t limit = regions[0].size;
	if (limit > p->kernel->initrd_limit)
		limit = p->kernel->initrd_limit;
	uint64_t low = p->kernel_start < limit ? p->kernel_start : limit;
	p->initrd = place_below(p->kernel_end, limit, size);
	if (!p->initrd)
		p->initrd = place_below(BOOT_LOW_END, low, size);
	if (!p->initrd)
		return error_set(e, -ENOMEM,
				 "%llu bytes of initrd fit neither below the kernel (%#llx) nor "
				 "between its end (%#llx) and %#llx: give the VM more memory",
				 (unsigned long long)size, (unsigned long long)p->kernel_start,
				 (unsigned long long)p->kernel_end, (unsigned long long)limit);
	p->initrd_size = size;
	return 0;
}

/* Straight into guest memory: initrds are large. */
static int initrd_load(struct boot_plan *p, const char *path, struct error *e)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(e, -errno, "cannot open the initrd %s: %s", path, strerror(errno));
	int rc = fstat(fd, &st) ? -errno : 0;
	if (!rc && (!S_ISREG(st.st_mode) || !st.st_size))
		rc = error_set(e, -EINVAL, "the initrd %s is empty or no regular file", path);
	if (rc)
		goto out_fd;
	rc = initrd_place(p, (uint64_t)st.st_size, e);
	if (rc)
		goto out_fd;
	rc = fd_read_all(fd, memory_at(p->memory, p->initrd, p->initrd_size), p->initrd_size);
	memory_mark(p->memory, p->initrd, p->initrd_size);
	if (rc)
		rc = error_set(e, rc, "cannot read the initrd %s: %s", path, strerror(-rc));
out_fd:
	close(fd);
	return rc;
}

struct protocol_ops {
	int (*place)(struct boot_plan *p, struct error *e);
	int (*write)(const struct boot_plan *p, struct boot_entry *out, struct error *e);
};
static const struct protocol_ops protocols[] = {
	[BOOT_LINUX64] = {bzimage_place, bzimage_write},
	[BOOT_PVH] = {elf_place, elf_write},
};

static int plan_carry_out(struct vm *vm, struct boot_plan *p, struct boot_entry *out,
			  struct error *e)
{
	const struct protocol_ops *protocol = &protocols[p->kernel->protocol];
	int rc = protocol->place(p, e);
	if (!rc && vm->config.initrd[0])
		rc = initrd_load(p, vm->config.initrd, e);
	if (!rc)
		rc = acpi_tables_write(vm, &p->rsdp, e);
	if (!rc)
		rc = gdt_write(p->memory);
	if (!rc)
		rc = page_tables_write(p->memory);
	if (!rc)
		rc = cmdline_write(p, e);
	if (!rc)
		rc = protocol->write(p, out, e);
	return rc;
}

static void entry_fill(struct boot_entry *out, const struct kernel_image *kernel)
{
	out->protocol = kernel->protocol;
	out->info = BOOT_INFO;
	out->page_table = BOOT_PAGE_TABLES;
	out->gdt = BOOT_GDT;
	out->gdt_limit = sizeof(boot_gdt) - 1;
	out->stack = BOOT_STACK;
}

int boot_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	struct buf image = {0};
	struct kernel_image kernel;
	memset(out, 0, sizeof(*out));
	if (vm->engine_ops->stepped)
		return 0; /* no CPU, no kernel */
	if (!vm->config.kernel[0])
		return error_set(e, -EINVAL, "no kernel is configured (kernel = \"...\")");
	int rc = file_read(vm->config.kernel, BOOT_IMAGE_MAX, &image, e);
	if (rc)
		goto out_image;
	rc = kernel_image_parse(image.data, image.len, &kernel, e);
	if (rc)
		goto out_context;
	struct boot_plan plan = {
		.memory = &vm->memory,
		.image = image.data,
		.kernel = &kernel,
		.cmdline = vm->config.cmdline,
	};
	entry_fill(out, &kernel);
	rc = plan_carry_out(vm, &plan, out, e);
out_context:
	if (rc) {
		rc = error_set(e, rc, "cannot write into guest memory");
		(void)error_context(e, "kernel %s", vm->config.kernel);
	}
out_image:
	buf_free(&image);
	return rc;
}

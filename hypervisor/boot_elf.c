// SPDX-License-Identifier: Apache-2.0
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "hypervisor/boot.h"

#define NOTE_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY, owner "Xen" */

#define START_MAGIC       0x336ec578u
#define START_VERSION     1u
/* hvm_start_info, its one module and its memory map share the page at BOOT_INFO. */
#define START_MODULES (BOOT_INFO + 0x100)
#define START_MEMMAP  (BOOT_INFO + 0x200)

struct start_info {
	uint32_t magic, version, flags, module_count;
	uint64_t modules, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info version 1");

struct start_module {
	uint64_t address, size, cmdline, reserved;
};
_Static_assert(sizeof(struct start_module) == 32, "hvm_modlist_entry");

struct start_range {
	uint64_t address, size;
	uint32_t kind, reserved;
};
_Static_assert(sizeof(struct start_range) == 24, "hvm_memmap_table_entry");

static int bad(struct error *e, const char *what)
{
	return error_set(e, -EINVAL, "this ELF file cannot be used as a kernel: %s", what);
}

static bool inside(uint64_t offset, uint64_t size, uint64_t n)
{
	return offset <= n && size <= n - offset;
}

static int header_check(const uint8_t *p, size_t n, Elf64_Ehdr *eh, struct error *e)
{
	if (n < sizeof(*eh))
		return bad(e, "it ends inside the ELF header");
	memcpy(eh, p, sizeof(*eh));
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64)
		return bad(e, "it is not made for x86-64");
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return bad(e, "it is no executable (e_type)");
	if (!eh->e_phnum || eh->e_phentsize != sizeof(Elf64_Phdr))
		return bad(e, "it has no program headers (e_phnum, e_phentsize)");
	if (!inside(eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr), n))
		return bad(e, "its program headers lie outside of the file (e_phoff)");
	return 0;
}

static int segment_add(const Elf64_Phdr *ph, size_t n, struct kernel_image *out, struct error *e)
{
	if (!ph->p_memsz)
		return 0;
	if (out->segment_count == KERNEL_SEGMENTS_MAX)
		return bad(e, "it has too many segments");
	if (!inside(ph->p_offset, ph->p_filesz, n))
		return bad(e, "a segment lies outside of the file (p_offset, p_filesz)");
	if (ph->p_filesz > ph->p_memsz)
		return bad(e, "a segment is larger in the file than in memory (p_memsz)");
	if (ph->p_paddr < BOOT_LOW_END || !inside(ph->p_paddr, ph->p_memsz, MEMORY_HOLE_START))
		return bad(e, "a segment's physical address is not between 1 MiB and 3 GiB "
			      "(p_paddr)");
	for (unsigned i = 0; i < out->segment_count; i++) {
		const struct kernel_segment *s = &out->segments[i];
		if (ph->p_paddr < s->gpa + s->memory_size && s->gpa < ph->p_paddr + ph->p_memsz)
			return bad(e, "two segments overlap in memory (p_paddr)");
	}
	out->segments[out->segment_count++] =
		(struct kernel_segment){ph->p_offset, ph->p_filesz, ph->p_paddr, ph->p_memsz};
	return 0;
}

/* The entry address in one note, if it is Xen's: 4 bytes, or 8 in old kernels. */
static void note_read(uint32_t kind, const uint8_t *name, uint32_t name_size, const uint8_t *desc,
		      uint32_t desc_size, struct kernel_image *out)
{
	if (kind != NOTE_PHYS32_ENTRY || name_size != 4 || memcmp(name, "Xen", 4) != 0)
		return;
	if (desc_size == 4 || desc_size == 8) {
		struct cursor c = cursor_of(desc, desc_size);
		out->entry = desc_size == 4 ? cursor_u32(&c) : cursor_u64(&c);
	}
}

/* Names and descriptors are padded to 4 bytes, but to 8 in a segment aligned so. */
static int notes_read(const uint8_t *p, const Elf64_Phdr *ph, size_t n, struct kernel_image *out,
		      struct error *e)
{
	if (!inside(ph->p_offset, ph->p_filesz, n))
		return bad(e, "its notes lie outside of the file (PT_NOTE)");
	uint64_t align = ph->p_align == 8 ? 8 : 4;
	struct cursor c = cursor_of(p + ph->p_offset, ph->p_filesz);
	while (c.left >= 12) {
		uint32_t name_size = cursor_u32(&c), desc_size = cursor_u32(&c);
		uint32_t kind = cursor_u32(&c);
		uint64_t name_room = (name_size + 3ull) & ~3ull;
		uint64_t desc_start = (12 + name_room + align - 1) / align * align - 12;
		uint64_t total = (desc_start + desc_size + align - 1) / align * align;
		if (desc_start + desc_size > c.left)
			return bad(e, "a note is larger than its segment (PT_NOTE)");
		note_read(kind, c.at, name_size, c.at + desc_start, desc_size, out);
		(void)cursor_take(&c, total < c.left ? total : c.left);
	}
	return 0;
}

static int entry_check(const struct kernel_image *k, struct error *e)
{
	if (!k->segment_count)
		return bad(e, "it has nothing to load (PT_LOAD)");
	for (unsigned i = 0; i < k->segment_count; i++)
		if (k->entry >= k->segments[i].gpa &&
		    k->entry - k->segments[i].gpa < k->segments[i].file_size)
			return 0;
	return bad(e, "its PVH entry point lies outside of its segments");
}

/* Two rounds, notes first: of a program that is no kernel it is the missing note
 * that should be named, not where its segments lie. */
static int headers_read(const uint8_t *p, const Elf64_Ehdr *eh, size_t n, uint32_t type,
			struct kernel_image *out, struct error *e)
{
	int rc = 0;
	for (unsigned i = 0; !rc && i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		memcpy(&ph, p + eh->e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type != type)
			continue;
		rc = type == PT_LOAD ? segment_add(&ph, n, out, e) : notes_read(p, &ph, n, out, e);
	}
	return rc;
}

int elf_parse(const void *data, size_t n, struct kernel_image *out, struct error *e)
{
	Elf64_Ehdr eh;
	const uint8_t *p = data;
	memset(out, 0, sizeof(*out));
	out->protocol = BOOT_PVH;
	out->initrd_limit = MEMORY_HOLE_START;
	out->cmdline_max = BOOT_CMDLINE_MAX - 1;
	int rc = header_check(p, n, &eh, e);
	if (!rc)
		rc = headers_read(p, &eh, n, PT_NOTE, out, e);
	if (!rc && !out->entry)
		rc = bad(e, "it has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY; "
			    "Linux: CONFIG_PVH)");
	if (!rc)
		rc = headers_read(p, &eh, n, PT_LOAD, out, e);
	return rc ? rc : entry_check(out, e);
}

int elf_place(struct boot_plan *p, struct error *e)
{
	const struct kernel_image *k = p->kernel;
	p->kernel_start = UINT64_MAX;
	for (unsigned i = 0; i < k->segment_count; i++) {
		const struct kernel_segment *s = &k->segments[i];
		if (!memory_at(p->memory, s->gpa, s->memory_size))
			return error_set(e, -ENOMEM,
					 "it needs memory up to %#llx: give the VM more memory",
					 (unsigned long long)(s->gpa + s->memory_size));
		if (s->gpa < p->kernel_start)
			p->kernel_start = s->gpa;
		if (s->gpa + s->memory_size > p->kernel_end)
			p->kernel_end = s->gpa + s->memory_size;
	}
	return 0;
}

static int segment_write(const struct boot_plan *p, const struct kernel_segment *s)
{
	uint8_t *to = memory_at(p->memory, s->gpa, s->memory_size);
	if (!to)
		return -EFAULT;
	memcpy(to, p->image + s->offset, s->file_size);
	memset(to + s->file_size, 0, s->memory_size - s->file_size);
	memory_mark(p->memory, s->gpa, s->memory_size);
	return 0;
}

static int memmap_write(const struct boot_plan *p, uint32_t *count)
{
	struct boot_range map[BOOT_RANGES_MAX];
	struct start_range ranges[BOOT_RANGES_MAX] = {0};
	*count = boot_memory_map(p->memory, map);
	for (unsigned i = 0; i < *count; i++)
		ranges[i] = (struct start_range){map[i].start, map[i].size, map[i].kind, 0};
	return memory_write(p->memory, START_MEMMAP, ranges, *count * sizeof(ranges[0]));
}

static int start_info_write(const struct boot_plan *p)
{
	struct start_module module = {.address = p->initrd, .size = p->initrd_size};
	struct start_info info = {
		.magic = START_MAGIC,
		.version = START_VERSION,
		.module_count = p->initrd_size ? 1 : 0,
		.modules = p->initrd_size ? START_MODULES : 0,
		.cmdline = BOOT_CMDLINE,
		.rsdp = p->rsdp,
		.memmap = START_MEMMAP,
	};
	int rc = memmap_write(p, &info.memmap_entries);
	if (!rc)
		rc = memory_write(p->memory, START_MODULES, &module, sizeof(module));
	if (!rc)
		rc = memory_write(p->memory, BOOT_INFO, &info, sizeof(info));
	return rc;
}

int elf_write(const struct boot_plan *p, struct boot_entry *out, struct error *e)
{
	const struct kernel_image *k = p->kernel;
	int rc = 0;
	for (unsigned i = 0; !rc && i < k->segment_count; i++)
		rc = segment_write(p, &k->segments[i]);
	if (!rc)
		rc = start_info_write(p);
	if (rc)
		return error_set(e, rc, "cannot write the kernel into guest memory");
	out->rip = k->entry;
	return 0;
}

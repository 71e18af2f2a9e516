// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include "hypervisor/core_dump.h"

/* More program headers than fit into 16 bits are counted by a section header (ELF, e_phnum). */
static bool counts_elsewhere(size_t headers)
{
	return headers >= PN_XNUM;
}

size_t core_header_size(size_t segments)
{
	size_t headers = segments + 1;

	return sizeof(Elf64_Ehdr) + headers * sizeof(Elf64_Phdr) +
	       (counts_elsewhere(headers) ? sizeof(Elf64_Shdr) : 0);
}

static void elf_header_put(struct buf *b, size_t headers)
{
	static const uint8_t ident[EI_NIDENT] = {ELFMAG0,    ELFMAG1,     ELFMAG2,   ELFMAG3,
						 ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
	bool elsewhere = counts_elsewhere(headers);

	buf_put(b, ident, sizeof(ident));
	buf_put_u16(b, ET_CORE);
	buf_put_u16(b, EM_X86_64);
	buf_put_u32(b, EV_CURRENT);
	buf_put_u64(b, 0);
	buf_put_u64(b, sizeof(Elf64_Ehdr));
	buf_put_u64(b, elsewhere ? sizeof(Elf64_Ehdr) + headers * sizeof(Elf64_Phdr) : 0);
	buf_put_u32(b, 0);
	buf_put_u16(b, sizeof(Elf64_Ehdr));
	buf_put_u16(b, sizeof(Elf64_Phdr));
	buf_put_u16(b, elsewhere ? PN_XNUM : (uint16_t)headers);
	buf_put_u16(b, elsewhere ? sizeof(Elf64_Shdr) : 0);
	buf_put_u16(b, elsewhere ? 1 : 0);
	buf_put_u16(b, SHN_UNDEF);
}

/* No alignment is claimed, as by Linux's own dumps: the crash utility takes a file of aligned
 * segments for a netdump, which is another format. */
static void program_header_put(struct buf *b, uint32_t type, uint64_t offset,
			       const struct core_segment *s)
{
	buf_put_u32(b, type);
	buf_put_u32(b, type == PT_LOAD ? PF_R | PF_W | PF_X : 0);
	buf_put_u64(b, offset);
	buf_put_u64(b, s->vaddr);
	buf_put_u64(b, s->paddr);
	buf_put_u64(b, s->size);
	buf_put_u64(b, type == PT_LOAD ? s->size : 0);
	buf_put_u64(b, 0);
}

static void counting_section_put(struct buf *b, size_t headers)
{
	static const uint8_t zero[sizeof(Elf64_Shdr)];
	size_t at = offsetof(Elf64_Shdr, sh_info);

	buf_put(b, zero, at);
	buf_put_u32(b, (uint32_t)headers);
	buf_put(b, zero, sizeof(zero) - at - sizeof(Elf64_Word));
}

void core_header_put(const struct core_segments *s, size_t notes_size, uint64_t data_at,
		     struct buf *out)
{
	const struct core_segment notes = {.size = notes_size};

	elf_header_put(out, s->count + 1);
	program_header_put(out, PT_NOTE, core_header_size(s->count), &notes);
	for (size_t i = 0; i < s->count; i++)
		program_header_put(out, PT_LOAD, data_at + s->item[i].offset, &s->item[i]);
	if (counts_elsewhere(s->count + 1))
		counting_section_put(out, s->count + 1);
}

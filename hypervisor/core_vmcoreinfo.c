// SPDX-License-Identifier: Apache-2.0
/*
 * VMCOREINFO (Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst): an ELF note of lines
 * "KEY=value" that a kernel with kexec keeps at the beginning of a page, for whoever finds its
 * memory. Other pages may hold one as well: of a kernel that ran before a reset, or a forged one.
 * So it must say of the kernel's text what the page tables say too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/core_dump.h"

#define NOTE_NAME       "VMCOREINFO"
#define NOTE_HEAD       (12 + sizeof(NOTE_NAME) + 1) /* the name is padded to 12 */
#define TEXT_MAX        UINT64_C(8192)
#define KERNEL_MAP      UINT64_C(0xffffffff80000000)
#define PTI_USER_TABLES UINT64_C(0x1000) /* of CR3: those of user mode lie behind the kernel's */

/* Of most pages this is all that is read; the guest may write there meanwhile, and a page that is
 * written to is no such note. */
__attribute__((no_sanitize("thread"))) static bool page_begins_note(const uint8_t *page)
{
	static const uint8_t head[NOTE_HEAD] = {
		[0] = sizeof(NOTE_NAME), [12] = 'V', 'M', 'C', 'O', 'R', 'E', 'I', 'N', 'F', 'O'};
	static const unsigned size_at = 4, size_end = 8;

	for (unsigned i = 0; i < NOTE_HEAD; i++)
		if ((i < size_at || i >= size_end) && page[i] != head[i])
			return false;
	return true;
}

static bool text_is_plain(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
			return false;
	return n && text[n - 1] == '\n';
}

/* The text of a note at `ram_offset`, or NULL. */
static const char *note_text(const struct memory *m, uint64_t ram_offset, size_t *n)
{
	static const char begins[] = "OSRELEASE=";
	struct cursor c = cursor_of(m->base + ram_offset, m->size - ram_offset);
	const char *text;
	uint32_t size;

	if (!page_begins_note(m->base + ram_offset) || !cursor_take(&c, 4))
		return NULL;
	size = cursor_u32(&c);
	if (size < sizeof(begins) || size > TEXT_MAX || !cursor_take(&c, NOTE_HEAD - 8))
		return NULL;
	text = (const char *)cursor_take(&c, size);
	*n = size;
	if (!text || memcmp(text, begins, sizeof(begins) - 1) != 0 || !text_is_plain(text, size))
		return NULL;
	return text;
}

/* "KEY=number\n" at the beginning of a line; the text ends with a line. */
static bool number_find(const char *text, size_t n, const char *key, int base, uint64_t *out)
{
	size_t len = strlen(key);
	char number[32];

	for (const char *line = text, *end; line < text + n; line = end + 1) {
		end = memchr(line, '\n', (size_t)(text + n - line));
		if (!end)
			return false;
		if ((size_t)(end - line) <= len || memcmp(line, key, len) != 0)
			continue;
		/* A copy: the guest may be writing there. */
		snprintf(number, sizeof(number), "%.*s", (int)(end - line - (ptrdiff_t)len),
			 line + len);
		*out = base == 16 ? strtoull(number, NULL, base)
				  : (uint64_t)strtoll(number, NULL, base);
		return true;
	}
	return false;
}

static bool maps_to(const struct memory *m, const struct core_vcpu *v, uint64_t vaddr,
		    uint64_t paddr)
{
	struct vcpu_image kernel = {.sregs = v->image.sregs};
	uint64_t found;

	if (core_paging_translate(m, &kernel, vaddr, &found) && found == paddr)
		return true;
	if (!(kernel.sregs.cr3 & PTI_USER_TABLES))
		return false;
	kernel.sregs.cr3 &= ~PTI_USER_TABLES;
	return core_paging_translate(m, &kernel, vaddr, &found) && found == paddr;
}

bool core_vmcoreinfo_find(const struct memory *m, uint64_t ram_offset,
			  const struct core_vcpu *vcpus, unsigned count, const char **text,
			  size_t *n)
{
	uint64_t kernel, base;

	*text = note_text(m, ram_offset, n);
	if (!*text || !number_find(*text, *n, "SYMBOL(_stext)=", 16, &kernel) ||
	    !number_find(*text, *n, "NUMBER(phys_base)=", 10, &base) || kernel < KERNEL_MAP)
		return false;
	for (unsigned i = 0; i < count; i++)
		if (maps_to(m, &vcpus[i], kernel, kernel - KERNEL_MAP + base))
			return true;
	return false;
}

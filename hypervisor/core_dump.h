// SPDX-License-Identifier: Apache-2.0
/*
 * A guest's memory and registers as an ELF core file (docs/core-dump.md):
 *
 *   ELF header, program headers (and one section header where there are more of those than the
 *   ELF header can count), notes, and from `data_at` on RAM as its memfd has it.
 *
 * Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_CORE_DUMP_H
#define POLLUX_HYPERVISOR_CORE_DUMP_H

#include "hypervisor/memory.h"
#include "hypervisor/state_image.h"

struct core_vcpu {
	struct vcpu_image image;
	const uint8_t *xsave; /* XSAVE area, standard format */
	uint32_t xsave_size;
	uint32_t xsave_used; /* of it, what the components that XCR0 names need */
};

/* RAM at `offset` of its file, as seen at `vaddr`. */
struct core_segment {
	uint64_t vaddr, paddr, offset, size;
};
struct core_segments {
	struct core_segment *item;
	size_t count, room;
};
#define CORE_SEGMENTS_MAX (256u * 1024)

/* ---- core_paging.c: what page tables say ------------------------------------------ */

/* Joins it with the last one where the two are neighbours in all respects. Clips it to RAM. */
int core_segments_add(const struct memory *m, struct core_segments *s, uint64_t vaddr,
		      uint64_t paddr, uint64_t size) MUST_CHECK;
void core_segments_free(struct core_segments *s);
/* The vCPU whose page tables show most: the first in kernel mode, or vCPU 0. */
unsigned core_paging_choose(const struct core_vcpu *vcpus, unsigned count);
/* All that its page tables map to RAM. They are the guest's: -ELOOP when there is no end to them,
 * and go_on(ctx) is asked now and then; false: -ECANCELED. */
typedef bool core_go_on_fn(void *ctx);
int core_paging_walk(const struct memory *m, const struct vcpu_image *vcpu,
		     struct core_segments *out, core_go_on_fn *go_on, void *ctx,
		     struct error *e) MUST_CHECK;
/* False: nothing is mapped there. */
bool core_paging_translate(const struct memory *m, const struct vcpu_image *vcpu, uint64_t vaddr,
			   uint64_t *paddr);

/* ---- core_notes.c ------------------------------------------------------------------ */

void core_notes_put(const struct core_vcpu *vcpus, unsigned count, struct buf *out);
void core_note_put(struct buf *out, const char *name, uint32_t type, const void *desc, size_t n);

/* ---- core_elf.c ---------------------------------------------------------------------- */

/* Where notes begin, for so many segments. */
size_t core_header_size(size_t segments);
/* That which comes before the notes. */
void core_header_put(const struct core_segments *s, size_t notes_size, uint64_t data_at,
		     struct buf *out);

/* ---- core_vmcoreinfo.c ----------------------------------------------------------------- */

/* Whether Linux's note about itself begins at this page, and if so how long it is. Such a note
 * is believed when the page tables of a vCPU map the kernel where it says. */
bool core_vmcoreinfo_find(const struct memory *m, uint64_t ram_offset,
			  const struct core_vcpu *vcpus, unsigned count, const char **text,
			  size_t *n);

#endif

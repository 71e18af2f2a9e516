// SPDX-License-Identifier: Apache-2.0
/*
 * The guest's page tables in long mode: 4 or 5 levels, pages of 4 KiB, 2 MiB and 1 GiB
 * (Intel SDM 3, 4.5; AMD APM 2, 5.3). They are the guest's, so anything may stand in them.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/core_dump.h"
#include "hypervisor/hypervisor.h"

#define CR0_PG       (UINT64_C(1) << 31)
#define CR4_LA57     (UINT64_C(1) << 12)
#define EFER_LMA     (UINT64_C(1) << 10)
#define ENTRIES      512u
#define ENTRY_THERE  UINT64_C(1)
#define ENTRY_LARGE  UINT64_C(0x80)
#define ENTRY_TARGET UINT64_C(0x000ffffffffff000)
#define LEVELS       4u
#define LEVEL_LARGE  3u /* the highest that has large pages: 1 GiB */
/* About a second. Tables that are used once each map 2 TiB with these, in the smallest pages. */
#define TABLES_MOST (UINT64_C(1) << 20)

struct walk {
	const struct memory *m;
	struct core_segments *out;
	unsigned levels;
	uint64_t tables; /* that may still be looked at */
	core_go_on_fn *go_on;
	void *ctx;
};

/* ---- segments -------------------------------------------------------------------------- */

void core_segments_free(struct core_segments *s)
{
	free(s->item);
	*s = (struct core_segments){0};
}

static int segment_append(struct core_segments *s, const struct core_segment *new)
{
	struct core_segment *last = s->count ? &s->item[s->count - 1] : NULL;

	if (last && last->vaddr + last->size == new->vaddr &&
	    last->paddr + last->size == new->paddr && last->offset + last->size == new->offset) {
		last->size += new->size;
		return 0;
	}
	if (s->count == CORE_SEGMENTS_MAX)
		return -E2BIG;
	if (s->count == s->room) {
		size_t room = s->room ? 2 * s->room : 64;
		void *more = realloc(s->item, room * sizeof(*s->item));

		if (!more)
			return -ENOMEM;
		s->item = more;
		s->room = room;
	}
	s->item[s->count++] = *new;
	return 0;
}

int core_segments_add(const struct memory *m, struct core_segments *s, uint64_t vaddr,
		      uint64_t paddr, uint64_t size)
{
	struct memory_region regions[2];
	unsigned count = memory_regions(m, regions);
	int rc = 0;

	for (unsigned i = 0; !rc && i < count; i++) {
		const struct memory_region *r = &regions[i];
		uint64_t from = paddr > r->gpa ? paddr : r->gpa;
		uint64_t to = paddr + size < r->gpa + r->size ? paddr + size : r->gpa + r->size;

		if (from < to)
			rc = segment_append(
				s, &(struct core_segment){.vaddr = vaddr + (from - paddr),
							  .paddr = from,
							  .offset = r->offset + (from - r->gpa),
							  .size = to - from});
	}
	return rc;
}

/* ---- page tables ------------------------------------------------------------------------- */

static uint64_t entry_read(const uint8_t *table, unsigned index)
{
	uint64_t entry;

	memcpy(&entry, table + (size_t)index * 8, sizeof(entry));
	return le64toh(entry);
}

static unsigned level_shift(unsigned level)
{
	return 12 + 9 * (level - 1);
}

static bool entry_is_page(uint64_t entry, unsigned level)
{
	return level == 1 || (level <= LEVEL_LARGE && entry & ENTRY_LARGE);
}

static uint64_t page_address(uint64_t entry, unsigned level)
{
	return entry & ENTRY_TARGET & ~((UINT64_C(1) << level_shift(level)) - 1);
}

static unsigned levels_of(const struct vcpu_image *v)
{
	return v->sregs.cr4 & CR4_LA57 ? LEVELS + 1 : LEVELS;
}

static bool is_long_mode(const struct vcpu_image *v)
{
	return v->sregs.cr0 & CR0_PG && v->sregs.efer & EFER_LMA;
}

/* An address is that of the lower or of the upper half: its highest bit goes on upwards. */
static uint64_t canonical(uint64_t vaddr, unsigned levels)
{
	unsigned spare = 64 - level_shift(levels + 1);

	return (uint64_t)((int64_t)(vaddr << spare) >> spare);
}

/* At most 5 deep. Tables outside of RAM have nothing in them. */
static int table_walk(struct walk *w, uint64_t address, unsigned level, uint64_t vaddr)
{
	const uint8_t *table = memory_at(w->m, address & ENTRY_TARGET, VM_PAGE_SIZE);
	int rc = 0;

	if (!table)
		return 0;
	if (!w->tables--)
		return -ELOOP;
	if (level > 1 && !w->go_on(w->ctx))
		return -ECANCELED;
	for (unsigned i = 0; !rc && i < ENTRIES; i++) {
		uint64_t entry = entry_read(table, i);
		uint64_t at = canonical(vaddr | (uint64_t)i << level_shift(level), w->levels);

		if (!(entry & ENTRY_THERE))
			continue;
		if (entry_is_page(entry, level))
			rc = core_segments_add(w->m, w->out, at, page_address(entry, level),
					       UINT64_C(1) << level_shift(level));
		else
			rc = table_walk(w, entry, level - 1, at);
	}
	return rc;
}

static int walk_judge(int rc, struct error *e)
{
	if (rc == -ENOMEM)
		return error_set(e, rc, "no memory for the segments of a core file");
	if (rc == -ECANCELED)
		return error_set(e, rc, "the core dump was cancelled");
	if (rc == -ELOOP)
		return error_set(e, rc,
				 "the guest's page tables go round in circles, or are more "
				 "than make sense: dump it without paging");
	return rc ? error_set(e, rc,
			      "the guest's page tables map more pieces than a core file can have "
			      "(%u): dump it without paging",
			      CORE_SEGMENTS_MAX)
		  : 0;
}

int core_paging_walk(const struct memory *m, const struct vcpu_image *vcpu,
		     struct core_segments *out, core_go_on_fn *go_on, void *ctx, struct error *e)
{
	struct walk w = {.m = m, .out = out, .go_on = go_on, .ctx = ctx};

	/* Tables that are used once each could fill RAM; some map themselves as well. */
	w.tables = 4 * (m->size / VM_PAGE_SIZE);
	if (w.tables > TABLES_MOST)
		w.tables = TABLES_MOST;
	if (!is_long_mode(vcpu))
		return error_set(e, -ENODATA,
				 "the guest is not in 64-bit mode with paging on: there are no "
				 "virtual addresses; dump it without paging");
	w.levels = levels_of(vcpu);
	return walk_judge(table_walk(&w, vcpu->sregs.cr3, w.levels, 0), e);
}

bool core_paging_translate(const struct memory *m, const struct vcpu_image *vcpu, uint64_t vaddr,
			   uint64_t *paddr)
{
	uint64_t entry = vcpu->sregs.cr3;

	if (!is_long_mode(vcpu))
		return false;
	for (unsigned level = levels_of(vcpu); level; level--) {
		const uint8_t *table = memory_at(m, entry & ENTRY_TARGET, VM_PAGE_SIZE);
		uint64_t mask = (UINT64_C(1) << level_shift(level)) - 1;

		if (!table)
			return false;
		entry = entry_read(table, vaddr >> level_shift(level) & (ENTRIES - 1));
		if (!(entry & ENTRY_THERE))
			return false;
		if (!entry_is_page(entry, level))
			continue;
		*paddr = page_address(entry, level) | (vaddr & mask);
		return true;
	}
	return false;
}

/* In user mode a kernel may have taken itself out of the page tables (Linux: page table
 * isolation), and a vCPU that was never started has none. */
unsigned core_paging_choose(const struct core_vcpu *vcpus, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (is_long_mode(&vcpus[i].image) && !(vcpus[i].image.sregs.cs.selector & 3))
			return i;
	return 0;
}

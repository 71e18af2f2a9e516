// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/soft/walk.h"

#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define PTE_P         UINT64_C(1)
#define PTE_W         UINT64_C(2)
#define PTE_U         UINT64_C(4)
#define PTE_A         UINT64_C(0x20)
#define PTE_D         UINT64_C(0x40)
#define PTE_PS        UINT64_C(0x80)
#define PTE_G         UINT64_C(0x100)
#define PTE_NX        (UINT64_C(1) << 63)
#define PTE_PAT       UINT64_C(0x1000) /* of a large page: not reserved */

#define PHYSICAL_BITS 40
#define FRAME         (((UINT64_C(1) << PHYSICAL_BITS) - 1) & SOFT_PAGE_MASK)
#define FRAME_ABOVE   (((UINT64_C(1) << 52) - 1) & ~((UINT64_C(1) << PHYSICAL_BITS) - 1))

#define PF_P          1u
#define PF_W          2u
#define PF_U          4u
#define PF_R          8u
#define PF_I          16u

struct level {
	uint8_t shift; /* of the index */
	uint8_t bits;
	bool large;        /* an entry may be a page */
	uint64_t reserved; /* besides the frame bits above PHYSICAL_BITS */
};
struct shape {
	unsigned levels, entry; /* octets of one */
	struct level level[4];
};

static const struct shape shape_long = {
	4, 8, {{39, 9, false, PTE_PS}, {30, 9, true, 0}, {21, 9, true, 0}, {12, 9, false, 0}}};
static const struct shape shape_pae = {2, 8, {{21, 9, true, 0}, {12, 9, false, 0}}};
static const struct shape shape_legacy = {2, 4, {{22, 10, true, 0}, {12, 10, false, 0}}};

/* What a walk has gathered on its way down. */
struct path {
	const struct shape *shape;
	uint64_t table;
	uint64_t rights; /* PTE_W and PTE_U: of all levels; PTE_NX: of any */
};

static noreturn void fault(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, uint32_t error,
			   enum walk_access access, bool user)
{
	if (access == WALK_WRITE)
		error |= PF_W;
	if (user)
		error |= PF_U;
	if (access == WALK_FETCH && cpu->efer & EFER_NXE && cpu->cr4 & CR4_PAE)
		error |= PF_I;
	cpu->cr2 = va;
	soft_raise_error(cpu, op, VEC_PF, error);
}

static void canonical(struct soft_cpu *cpu, struct soft_op *op, uint64_t va)
{
	if ((uint64_t)((int64_t)(va << 16) >> 16) != va)
		soft_raise_error(cpu, op, op && op->flags & OP_STACK ? VEC_SS : VEC_GP, 0);
}

static bool path_begin(struct soft_cpu *cpu, uint64_t va, struct path *p)
{
	p->rights = PTE_W | PTE_U;
	if (cpu->efer & EFER_LMA) {
		p->shape = &shape_long;
		p->table = cpu->cr3 & FRAME;
		return true;
	}
	if (cpu->cr4 & CR4_PAE) {
		uint64_t pointer = cpu->pdptrs[va >> 30 & 3];

		p->shape = &shape_pae;
		p->table = pointer & FRAME;
		return pointer & PTE_P;
	}
	p->shape = &shape_legacy;
	p->table = cpu->cr3 & 0xfffff000;
	return true;
}

static uint64_t entry_at(const struct path *p, unsigned n, uint64_t va)
{
	const struct level *l = &p->shape->level[n];

	return p->table + (va >> l->shift & ((1u << l->bits) - 1)) * p->shape->entry;
}

static bool entry_is_large(const struct soft_cpu *cpu, const struct path *p, unsigned n,
			   uint64_t entry)
{
	if (!p->shape->level[n].large || !(entry & PTE_PS))
		return false;
	return p->shape->entry == 8 || cpu->cr4 & CR4_PSE;
}

static bool entry_is_bad(const struct soft_cpu *cpu, const struct path *p, unsigned n,
			 uint64_t entry, bool large)
{
	const struct level *l = &p->shape->level[n];
	uint64_t reserved = l->reserved | FRAME_ABOVE;

	if (p->shape->entry == 4) /* without PSE-36 the frame bits of a 4 MiB page end at 31 */
		return large && entry & 0x3fe000;
	if (!(cpu->efer & EFER_NXE))
		reserved |= PTE_NX;
	if (p->shape == &shape_pae)
		reserved |= UINT64_C(0x7ff) << 52;
	if (p->shape == &shape_pae && cpu->efer & EFER_NXE)
		reserved &= ~PTE_NX;
	if (large)
		reserved |= ((UINT64_C(1) << l->shift) - 1) & SOFT_PAGE_MASK & ~PTE_PAT;
	return entry & reserved;
}

static bool allowed(const struct soft_cpu *cpu, uint64_t rights, enum walk_access access, bool user)
{
	if (user && !(rights & PTE_U))
		return false;
	if (access == WALK_FETCH)
		return !(rights & PTE_NX);
	if (access == WALK_WRITE && !(rights & PTE_W))
		return !user && !(cpu->cr0 & CR0_WP);
	return true;
}

static void entry_set(struct soft_cpu *cpu, const struct path *p, uint64_t at, uint64_t entry,
		      uint64_t bits)
{
	if ((entry & bits) != bits)
		soft_physical_write(cpu, at, entry | bits, p->shape->entry);
}

/* Upper levels get their accessed bit only when the whole walk is allowed, as CPUs may. */
static void walk_finish(struct soft_cpu *cpu, const struct path *p, const uint64_t *at,
			const uint64_t *entries, unsigned last, enum walk_access access)
{
	for (unsigned n = 0; n < last; n++)
		entry_set(cpu, p, at[n], entries[n], PTE_A);
	entry_set(cpu, p, at[last], entries[last], PTE_A | (access == WALK_WRITE ? PTE_D : 0));
}

static uint64_t page_of(const struct path *p, unsigned n, uint64_t entry, uint64_t va)
{
	uint64_t mask = (UINT64_C(1) << p->shape->level[n].shift) - 1;

	return ((entry & FRAME & ~mask) | (va & mask)) & SOFT_PAGE_MASK;
}

static void walk_paged(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
		       enum walk_access access, bool user, struct walk *out)
{
	uint64_t at[4], entries[4], entry;
	struct path p;
	bool large;

	if (!path_begin(cpu, va, &p))
		fault(cpu, op, va, 0, access, user);
	for (unsigned n = 0;; n++) {
		at[n] = entry_at(&p, n, va);
		entries[n] = entry = soft_physical_read(cpu, at[n], p.shape->entry);
		if (!(entry & PTE_P))
			fault(cpu, op, va, 0, access, user);
		large = entry_is_large(cpu, &p, n, entry);
		if (entry_is_bad(cpu, &p, n, entry, large))
			fault(cpu, op, va, PF_P | PF_R, access, user);
		p.rights = (p.rights & entry & (PTE_W | PTE_U)) | ((p.rights | entry) & PTE_NX);
		if (!large && n + 1 < p.shape->levels) {
			p.table = entry & FRAME;
			continue;
		}
		if (!allowed(cpu, p.rights, access, user))
			fault(cpu, op, va, PF_P, access, user);
		walk_finish(cpu, &p, at, entries, n, access);
		out->physical = page_of(&p, n, entry, va);
		out->global = entry & PTE_G && cpu->cr4 & CR4_PGE;
		out->large = large;
		return;
	}
}

void soft_walk(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, enum walk_access access,
	       bool user, struct walk *out)
{
	if (cpu->efer & EFER_LMA)
		canonical(cpu, op, va);
	else
		va &= UINT32_MAX;
	if (cpu->cr0 & CR0_PG)
		walk_paged(cpu, op, va, access, user, out);
	else
		*out = (struct walk){.physical = va & SOFT_PAGE_MASK};
}

/* Absent memory reads as ones. */
uint64_t soft_physical_read(struct soft_cpu *cpu, uint64_t gpa, unsigned size)
{
	const void *host = memory_at(cpu->engine->memory, gpa, size);
	uint64_t v = 0;

	if (!host)
		return size == 8 ? UINT64_MAX : UINT32_MAX;
	soft_copy(&v, host, size);
	return v;
}

void soft_physical_write(struct soft_cpu *cpu, uint64_t gpa, uint64_t value, unsigned size)
{
	uint8_t *host = memory_at(cpu->engine->memory, gpa, size);

	if (!host)
		return;
	soft_page_written(cpu->engine, host);
	soft_copy(host, &value, size);
}

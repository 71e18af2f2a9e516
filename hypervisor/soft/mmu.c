// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/soft/mmu.h"

#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/walk.h"

/* An address whose slot is another one: never within a page of an address of this slot. */
static uint64_t tlb_never(unsigned slot)
{
	return (uint64_t)(slot ^ 1) << 12;
}

static struct soft_tlb_entry *tlb_of(struct soft_cpu *cpu, uint64_t va, bool user)
{
	return &cpu->tlbs[user][va >> 12 & (SOFT_TLB_SIZE - 1)];
}

/* ---- filling ------------------------------------------------------------------------------ */

static void tlb_forget(struct soft_tlb_entry *t, unsigned slot)
{
	t->read = t->write = t->fetch = tlb_never(slot);
}

static unsigned half_of(uint64_t va)
{
	return va >> 63;
}

#define LARGE_MOST (UINT64_C(1) << 30) /* octets of a large page */

static void large_note(struct soft_cpu *cpu, uint64_t va)
{
	uint64_t first = va & ~(LARGE_MOST - 1), last = va | (LARGE_MOST - 1);

	if (first < cpu->large[half_of(va)].first)
		cpu->large[half_of(va)].first = first;
	if (last > cpu->large[half_of(va)].last)
		cpu->large[half_of(va)].last = last;
}

static void large_forget(struct soft_cpu *cpu)
{
	for (unsigned half = 0; half < ARRAY_LEN(cpu->large); half++) {
		cpu->large[half].first = UINT64_MAX;
		cpu->large[half].last = 0;
	}
}

void soft_tlb_create(struct soft_cpu *cpu)
{
	for (unsigned n = 0; n < ARRAY_LEN(cpu->tlbs); n++)
		for (unsigned i = 0; i < SOFT_TLB_SIZE; i++)
			tlb_forget(&cpu->tlbs[n][i], i);
	large_forget(cpu);
}

static void page_mark(struct engine *en, const uint8_t *host)
{
	uint64_t page = (uint64_t)(host - en->memory->base) / VM_PAGE_SIZE;

	en->dirty[page / 64] |= UINT64_C(1) << page % 64;
}

/* A write is about to happen: log it, and drop what was decoded from there. */
void soft_page_written(struct engine *en, const uint8_t *host)
{
	page_mark(en, host);
	if (soft_code_in(en, host))
		soft_code_drop_page(en, host);
}

/* The entry that translates va for this access, filled if need be; host is NULL for
 * what is not RAM (only `physical` holds then, and no tag is set). */
static struct soft_tlb_entry *tlb_fill(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
				       enum walk_access access, bool user)
{
	struct soft_tlb_entry *t = tlb_of(cpu, va, user);
	uint64_t page = va & SOFT_PAGE_MASK;
	struct walk w;

	/* A write may drop the block that executes: see soft_code_drop_page(). */
	if (op)
		cpu->op = op;
	soft_walk(cpu, op, va, access, user, &w);
	if (t->physical >> 1 != w.physical >> 1 ||
	    (t->read != page && t->write != page && t->fetch != page))
		tlb_forget(t, (va >> 12) & (SOFT_TLB_SIZE - 1));
	if (w.large)
		large_note(cpu, va);
	t->physical = w.physical | w.global;
	t->host = memory_at(cpu->engine->memory, w.physical, VM_PAGE_SIZE);
	if (!t->host)
		return t;
	if (access == WALK_READ)
		t->read = page;
	if (access == WALK_FETCH)
		t->fetch = page;
	if (access == WALK_WRITE) {
		soft_page_written(cpu->engine, t->host);
		t->read = t->write = page;
	}
	return t;
}

static struct soft_tlb_entry *tlb_reach(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
					enum walk_access access, bool user)
{
	struct soft_tlb_entry *t = tlb_of(cpu, va, user);
	uint64_t tag = access == WALK_READ ? t->read : access == WALK_WRITE ? t->write : t->fetch;

	return tag == (va & SOFT_PAGE_MASK) ? t : tlb_fill(cpu, op, va, access, user);
}

/* ---- the slow way ------------------------------------------------------------------------------
 */

/* Within one page. */
static void piece_read(struct soft_cpu *cpu, const struct soft_tlb_entry *t, uint64_t va, void *out,
		       size_t n)
{
	uint64_t in = va & ~SOFT_PAGE_MASK;

	if (t->host)
		soft_copy(out, t->host + in, n);
	else
		soft_mmio(cpu, (t->physical & SOFT_PAGE_MASK) + in, out, (unsigned)n, false);
}

static void piece_write(struct soft_cpu *cpu, const struct soft_tlb_entry *t, uint64_t va,
			const void *data, size_t n)
{
	uint64_t in = va & ~SOFT_PAGE_MASK;

	if (t->host)
		soft_copy(t->host + in, data, n);
	else
		soft_mmio(cpu, (t->physical & SOFT_PAGE_MASK) + in, (void *)data, (unsigned)n,
			  true);
}

static size_t page_rest(uint64_t va)
{
	return VM_PAGE_SIZE - (va & ~SOFT_PAGE_MASK);
}

static bool is_user(const struct soft_cpu *cpu)
{
	return cpu->cpl == 3;
}

/* Intel SDM volume 3, table "Alignment Requirements by Data Type". */
static unsigned alignment_of(size_t n)
{
	switch (n) {
	case 2:
	case 4:
	case 8:
		return (unsigned)n;
	case 6: /* far pointer */
		return 4;
	case 10: /* x87 extended */
		return 8;
	default:
		return 1;
	}
}

static bool alignment_matters(const struct soft_cpu *cpu)
{
	return is_user(cpu) && cpu->cr0 & CR0_AM && cpu->flags & FLAG_AC;
}

/* After page faults, before anything is read or written. */
static void access_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, size_t n)
{
	if (alignment_matters(cpu) && va & (alignment_of(n) - 1))
		soft_raise_error(cpu, op, VEC_AC, 0);
}

#define GAP (UINT64_C(1) << 47) /* addresses that are not canonical begin */

/* Of an access that reaches into the gap nothing else matters. */
static void gap_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, size_t n,
		      enum walk_access access, bool user)
{
	if (n > page_rest(va) && va + page_rest(va) == GAP && cpu->efer & EFER_LMA)
		tlb_reach(cpu, op, GAP, access, user);
}

/* Both pages are reached before anything happens in one of them. The second may take
 * the first one's slot only if they are SOFT_TLB_SIZE pages apart, which they are not. */
static void span(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, void *data, size_t n,
		 enum walk_access access, bool user)
{
	size_t first = n < page_rest(va) ? n : page_rest(va);
	struct soft_tlb_entry *a, *b;

	gap_check(cpu, op, va, n, access, user);
	a = b = tlb_reach(cpu, op, va, access, user);
	if (first < n)
		b = tlb_reach(cpu, op, va + first, access, user);
	if (user)
		access_check(cpu, op, va, n);
	if (soft_debug_armed(cpu))
		soft_debug_data(cpu, va, n, access == WALK_WRITE);
	if (access == WALK_WRITE) {
		piece_write(cpu, a, va, data, first);
		if (first < n)
			piece_write(cpu, b, va + first, (uint8_t *)data + first, n - first);
	} else {
		piece_read(cpu, a, va, data, first);
		if (first < n)
			piece_read(cpu, b, va + first, (uint8_t *)data + first, n - first);
	}
}

uint64_t soft_read_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, unsigned size)
{
	uint64_t v = 0;

	span(cpu, op, va, &v, size, WALK_READ, is_user(cpu));
	return v;
}

void soft_write_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, uint64_t value,
		     unsigned size)
{
	span(cpu, op, va, &value, size, WALK_WRITE, is_user(cpu));
}

void soft_read_bytes(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, void *out, size_t n)
{
	span(cpu, op, va, out, n, WALK_READ, is_user(cpu));
}

void soft_write_bytes(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, const void *data,
		      size_t n)
{
	span(cpu, op, va, (void *)data, n, WALK_WRITE, is_user(cpu));
}

void soft_system_read(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, void *out, size_t n)
{
	span(cpu, op, va, out, n, WALK_READ, false);
}

void soft_system_write(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, const void *data,
		       size_t n)
{
	span(cpu, op, va, (void *)data, n, WALK_WRITE, false);
}

void soft_write_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, size_t n)
{
	gap_check(cpu, op, va, n, WALK_WRITE, is_user(cpu));
	tlb_reach(cpu, op, va, WALK_WRITE, is_user(cpu));
	if (n > page_rest(va))
		tlb_reach(cpu, op, va + page_rest(va), WALK_WRITE, is_user(cpu));
	access_check(cpu, op, va, n);
}

/* ---- read, modify, write --------------------------------------------------------------------- */

void *soft_rmw_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, unsigned size)
{
	struct soft_tlb_entry *t;

	soft_write_check(cpu, op, va, size);
	t = tlb_reach(cpu, op, va, WALK_WRITE, is_user(cpu));
	if (t->host && size <= page_rest(va) && !soft_debug_armed(cpu))
		return t->host + (va & ~SOFT_PAGE_MASK);
	span(cpu, op, va, cpu->bounce, size, WALK_READ, is_user(cpu));
	cpu->bounced = true;
	cpu->bounce_at = va;
	cpu->bounce_size = (uint8_t)size;
	return cpu->bounce;
}

void soft_rmw_flush(struct soft_cpu *cpu, struct soft_op *op)
{
	cpu->bounced = false;
	span(cpu, op, cpu->bounce_at, cpu->bounce, cpu->bounce_size, WALK_WRITE, is_user(cpu));
}

/* ---- runs of octets, fetches --------------------------------------------------------------------
 */

const uint8_t *soft_run_read(struct soft_cpu *cpu, uint64_t va, size_t *most)
{
	const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);

	*most = page_rest(va);
	return t->read == (va & SOFT_PAGE_MASK) ? t->host + (va & ~SOFT_PAGE_MASK) : NULL;
}

uint8_t *soft_run_write(struct soft_cpu *cpu, uint64_t va, size_t *most)
{
	const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);

	*most = page_rest(va);
	return t->write == (va & SOFT_PAGE_MASK) ? t->host + (va & ~SOFT_PAGE_MASK) : NULL;
}

uint64_t soft_fetch_translate(struct soft_cpu *cpu, uint64_t va, const uint8_t **host)
{
	struct soft_tlb_entry *t = tlb_reach(cpu, NULL, va, WALK_FETCH, is_user(cpu));

	*host = t->host;
	return (t->physical & SOFT_PAGE_MASK) + (va & ~SOFT_PAGE_MASK);
}

/* ---- flushing
 * -------------------------------------------------------------------------------------- */

/* Jump caches hold translated addresses; what they hold is of one privilege and mode. */
static void jumps_forget(struct soft_cpu *cpu)
{
	cpu->epoch++;
	cpu->generation = cpu->epoch << 3 | (uint64_t)is_user(cpu) << 2 | cpu->mode;
}

void soft_tlb_flush(struct soft_cpu *cpu, bool global_too)
{
	for (unsigned user = 0; user < 2; user++)
		for (unsigned i = 0; i < SOFT_TLB_SIZE; i++)
			if (global_too || !(cpu->tlbs[user][i].physical & 1))
				tlb_forget(&cpu->tlbs[user][i], i);
	if (global_too)
		large_forget(cpu);
	jumps_forget(cpu);
}

/* A large page is in the TLB in small pieces, and all of them go. */
void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t va)
{
	if (va >= cpu->large[half_of(va)].first && va <= cpu->large[half_of(va)].last) {
		soft_tlb_flush(cpu, true);
		return;
	}
	for (unsigned user = 0; user < 2; user++)
		tlb_forget(tlb_of(cpu, va, user), va >> 12 & (SOFT_TLB_SIZE - 1));
	jumps_forget(cpu);
}

void soft_tlb_select(struct soft_cpu *cpu)
{
	bool slow = soft_debug_armed(cpu) || alignment_matters(cpu);

	cpu->tlb = cpu->tlbs[slow ? 2 : is_user(cpu)];
	cpu->generation = cpu->epoch << 3 | (uint64_t)is_user(cpu) << 2 | cpu->mode;
}

static void write_tags_drop(struct engine *en, const uint8_t *host)
{
	for (unsigned c = 0; c < en->vcpus; c++)
		for (unsigned user = 0; user < 2; user++)
			for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
				struct soft_tlb_entry *t = &en->cpu[c]->tlbs[user][i];

				if (!host || t->host == host)
					t->write = tlb_never(i);
			}
}

void soft_tlb_protect(struct engine *en)
{
	write_tags_drop(en, NULL);
}

void soft_tlb_protect_page(struct engine *en, const uint8_t *host)
{
	write_tags_drop(en, host);
}

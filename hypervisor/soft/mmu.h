// SPDX-License-Identifier: Apache-2.0
/*
 * Memory as instructions see it. The fast path is a look into the software TLB; the slow
 * ones (mmu.c, mmu_walk.c) walk page tables, raise page faults, split accesses that
 * cross a page, talk to devices, log dirty pages and notice writes to decoded code: a
 * page has a write tag only while it is marked in the dirty bitmap and holds no decoded
 * code.
 *
 * `va` is a linear address (soft_ea()). An access that faults does not return. Values of
 * 1, 2, 4, 8 octets, unsigned. All accesses are of the current privilege, but for
 * soft_system_*: descriptor tables, task state, interrupt frames.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_MMU_H
#define POLLUX_HYPERVISOR_SOFT_MMU_H

#include "hypervisor/soft/soft.h"

/* To or from guest memory; `to` may overlap what is above it. The thread sanitizer would see
 * memmove() itself, and a device at the same place: which is the guest's affair (see the
 * Makefile). */
static inline void soft_copy(void *to, const void *from, size_t n)
{
#ifdef __SANITIZE_THREAD__
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
	memmove(to, from, n);
#endif
}
static inline void soft_fill(void *to, uint8_t octet, size_t n)
{
#ifdef __SANITIZE_THREAD__
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(octet) : "memory");
#else
	memset(to, octet, n);
#endif
}

static inline struct soft_tlb_entry *soft_tlb_slot(const struct soft_cpu *cpu, uint64_t va)
{
	return &cpu->tlb[va >> 12 & (SOFT_TLB_SIZE - 1)];
}

uint64_t soft_read_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, unsigned size);
void soft_write_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, uint64_t value,
		     unsigned size);

/* The tag cannot be within a page of an address of another slot, so one unsigned
 * comparison says that all octets are in the tagged page. */
#define SOFT_ACCESS(bits)                                                                          \
	static inline uint##bits##_t soft_read##bits(struct soft_cpu *cpu, struct soft_op *op,     \
						     uint64_t va)                                  \
	{                                                                                          \
		const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);                           \
		uint64_t in = va - t->read;                                                        \
		uint##bits##_t v;                                                                  \
                                                                                                   \
		if (UNLIKELY(in > VM_PAGE_SIZE - sizeof(v)))                                       \
			return (uint##bits##_t)soft_read_slow(cpu, op, va, sizeof(v));             \
		memcpy(&v, t->host + in, sizeof(v));                                               \
		return v;                                                                          \
	}                                                                                          \
	static inline void soft_write##bits(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, \
					    uint##bits##_t v)                                      \
	{                                                                                          \
		const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);                           \
		uint64_t in = va - t->write;                                                       \
                                                                                                   \
		if (UNLIKELY(in > VM_PAGE_SIZE - sizeof(v)))                                       \
			soft_write_slow(cpu, op, va, v, sizeof(v));                                \
		else                                                                               \
			memcpy(t->host + in, &v, sizeof(v));                                       \
	}
SOFT_ACCESS(8)
SOFT_ACCESS(16)
SOFT_ACCESS(32)
SOFT_ACCESS(64)

/* Any length up to 512 octets (XMM, FXSAVE, x87). A fault is raised before anything is
 * written. */
void soft_read_bytes(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, void *out, size_t n);
void soft_write_bytes(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, const void *data,
		      size_t n);

/* Read, modify, write: the place to work on, which is guest memory itself or
 * cpu->bounce; soft_rmw_end() must follow (a bounced value is written back). Faults as a
 * write does. */
void *soft_rmw_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, unsigned size);
void soft_rmw_flush(struct soft_cpu *cpu, struct soft_op *op);
static inline void *soft_rmw_begin(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
				   unsigned size)
{
	const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);
	uint64_t in = va - t->write;

	return LIKELY(in <= VM_PAGE_SIZE - size) ? t->host + in : soft_rmw_slow(cpu, op, va, size);
}
static inline void soft_rmw_end(struct soft_cpu *cpu, struct soft_op *op)
{
	if (UNLIKELY(cpu->bounced))
		soft_rmw_flush(cpu, op);
}
/* Raise now what a write there would raise; nothing is written. */
void soft_write_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, size_t n);

/* At supervisor privilege, whatever CPL is. */
void soft_system_read(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, void *out, size_t n);
void soft_system_write(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, const void *data,
		       size_t n);

/* For REP strings: host memory of the run of octets that begins at va, at most to the
 * page's end; NULL when it needs the slow way (MMIO, not in the TLB yet). Never faults. */
const uint8_t *soft_run_read(struct soft_cpu *cpu, uint64_t va, size_t *most);
uint8_t *soft_run_write(struct soft_cpu *cpu, uint64_t va, size_t *most);

/* From an offset in a segment to a linear address. In legacy modes it checks limit and
 * type (#GP, or #SS for SS; `write`: also for read-modify-write), in 64-bit mode it adds
 * the base of FS and GS. */
uint64_t soft_linear(struct soft_cpu *cpu, struct soft_op *op, enum soft_seg seg, uint64_t offset,
		     unsigned size, bool write);

/* Code: physical address of `va` to fetch from, which faults as a fetch does; `host` is
 * its page, NULL when that is not RAM. */
uint64_t soft_fetch_translate(struct soft_cpu *cpu, uint64_t va, const uint8_t **host);

/* What CR0, CR3, CR4, EFER, INVLPG and CPL do. Before the first of them: soft_tlb_create(). */
void soft_tlb_create(struct soft_cpu *cpu);
void soft_tlb_flush(struct soft_cpu *cpu, bool global_too);
void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t va);
/* After a change of what it depends on: CPL, mode, alignment checks, breakpoints. */
void soft_tlb_select(struct soft_cpu *cpu);
/* All write tags, of all vCPUs: after a harvest. The caller holds the baton. */
void soft_tlb_protect(struct engine *en);
/* Write tags of one RAM page, of all vCPUs: it holds code now. */
void soft_tlb_protect_page(struct engine *en, const uint8_t *host);

/* The baton holder is about to write to this RAM page by another way than a write tag. */
void soft_page_written(struct engine *en, const uint8_t *host);

/* Physical access without a TLB: page walks, devices. */
uint64_t soft_physical_read(struct soft_cpu *cpu, uint64_t gpa, unsigned size);
void soft_physical_write(struct soft_cpu *cpu, uint64_t gpa, uint64_t value, unsigned size);

#endif

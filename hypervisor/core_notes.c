// SPDX-License-Identifier: Apache-2.0
/*
 * Notes of a core file: for each vCPU what Linux writes of a thread (NT_PRSTATUS, NT_FPREGSET,
 * NT_X86_XSTATE), then for each vCPU a note named QEMU, in which the crash utility and others
 * look for what a thread has not: control registers, descriptor tables. Octet by octet in
 * docs/core-dump.md.
 */
#include <elf.h>

#include "hypervisor/core_dump.h"

#define MSR_KERNEL_GS_BASE 0xc0000102u
#define QEMU_NOTE_VERSION  1u
#define QEMU_NOTE_SIZE     440u
#define PRSTATUS_SIZE      336u
#define XSAVE_XCR0_AT      464u /* where debuggers look for XCR0: unused by the CPU */

static size_t note_padding(size_t n)
{
	return -n % 4;
}

static void zeros_put(struct buf *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_put_u8(b, 0);
}

static void note_head_put(struct buf *b, const char *name, uint32_t type, size_t n)
{
	size_t name_size = 0;

	while (name[name_size++])
		;
	buf_put_u32(b, (uint32_t)name_size);
	buf_put_u32(b, (uint32_t)n);
	buf_put_u32(b, type);
	buf_put(b, name, name_size);
	zeros_put(b, note_padding(name_size));
}

void core_note_put(struct buf *b, const char *name, uint32_t type, const void *desc, size_t n)
{
	note_head_put(b, name, type, n);
	buf_put(b, desc, n);
	zeros_put(b, note_padding(n));
}

/* ---- a thread, as Linux has it ------------------------------------------------------- */

/* struct user_regs_struct of x86-64 */
static void user_regs_put(struct buf *b, const struct vcpu_image *v)
{
	const struct kvm_regs *r = &v->regs;
	const struct kvm_sregs2 *s = &v->sregs;
	const uint64_t words[] = {
		r->r15,         r->r14,         r->r13,         r->r12,
		r->rbp,         r->rbx,         r->r11,         r->r10,
		r->r9,          r->r8,          r->rax,         r->rcx,
		r->rdx,         r->rsi,         r->rdi,         UINT64_MAX, /* no system call */
		r->rip,         s->cs.selector, r->rflags,      r->rsp,
		s->ss.selector, s->fs.base,     s->gs.base,     s->ds.selector,
		s->es.selector, s->fs.selector, s->gs.selector,
	};

	for (unsigned i = 0; i < ARRAY_LEN(words); i++)
		buf_put_u64(b, words[i]);
}

/* struct elf_prstatus of x86-64: a thread that no signal has ended */
static void prstatus_put(struct buf *b, unsigned vcpu, const struct vcpu_image *v)
{
	note_head_put(b, "CORE", NT_PRSTATUS, PRSTATUS_SIZE);
	zeros_put(b, 32);
	buf_put_u32(b, vcpu + 1);
	zeros_put(b, 76);
	user_regs_put(b, v);
	buf_put_u32(b, 1); /* FPU state follows */
	zeros_put(b, 4);
}

static void xstate_put(struct buf *b, const struct core_vcpu *v)
{
	size_t after = XSAVE_XCR0_AT + 8;

	note_head_put(b, "LINUX", NT_X86_XSTATE, v->xsave_used);
	buf_put(b, v->xsave, XSAVE_XCR0_AT);
	buf_put_u64(b, v->image.xcrs.xcrs[0].value);
	buf_put(b, v->xsave + after, v->xsave_used - after);
	zeros_put(b, note_padding(v->xsave_used));
}

static void thread_put(struct buf *b, unsigned vcpu, const struct core_vcpu *v)
{
	prstatus_put(b, vcpu, &v->image);
	if (v->xsave_size < STATE_XSAVE_LEAST)
		return;
	core_note_put(b, "CORE", NT_PRFPREG, v->xsave, STATE_XSAVE_LEGACY);
	if (v->xsave_used > STATE_XSAVE_LEAST)
		xstate_put(b, v);
}

/* ---- the vCPU itself -------------------------------------------------------------------- */

/* The attributes as the second half of a descriptor has them. */
static uint32_t segment_flags(const struct kvm_segment *s)
{
	return (uint32_t)(s->type & 15) << 8 | (uint32_t)(s->s & 1) << 12 |
	       (uint32_t)(s->dpl & 3) << 13 | (uint32_t)(s->present & 1) << 15 |
	       (uint32_t)(s->avl & 1) << 20 | (uint32_t)(s->l & 1) << 21 |
	       (uint32_t)(s->db & 1) << 22 | (uint32_t)(s->g & 1) << 23;
}

static void qemu_segment_put(struct buf *b, uint32_t selector, uint32_t limit, uint32_t flags,
			     uint64_t base)
{
	buf_put_u32(b, selector);
	buf_put_u32(b, limit);
	buf_put_u32(b, flags);
	buf_put_u32(b, 0);
	buf_put_u64(b, base);
}

static void qemu_segments_put(struct buf *b, const struct kvm_sregs2 *s)
{
	const struct kvm_segment *const segments[] = {&s->cs, &s->ds, &s->es,  &s->fs,
						      &s->gs, &s->ss, &s->ldt, &s->tr};

	for (unsigned i = 0; i < ARRAY_LEN(segments); i++)
		qemu_segment_put(b, segments[i]->selector, segments[i]->limit,
				 segment_flags(segments[i]), segments[i]->base);
	qemu_segment_put(b, 0, s->gdt.limit, 0, s->gdt.base);
	qemu_segment_put(b, 0, s->idt.limit, 0, s->idt.base);
}

static void qemu_regs_put(struct buf *b, const struct kvm_regs *r)
{
	const uint64_t words[] = {r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi,
				  r->rsp, r->rbp, r->r8,  r->r9,  r->r10, r->r11,
				  r->r12, r->r13, r->r14, r->r15, r->rip, r->rflags};

	for (unsigned i = 0; i < ARRAY_LEN(words); i++)
		buf_put_u64(b, words[i]);
}

static uint64_t msr_of(const struct vcpu_image *v, uint32_t index)
{
	for (unsigned i = 0; i < v->msrs.head.nmsrs; i++)
		if (v->msrs.entries[i].index == index)
			return v->msrs.entries[i].data;
	return 0;
}

static void qemu_note_put(struct buf *b, const struct vcpu_image *v)
{
	const struct kvm_sregs2 *s = &v->sregs;
	const uint64_t control[] = {s->cr0, 0 /* CR1 */, s->cr2, s->cr3, s->cr4};

	note_head_put(b, "QEMU", 0, QEMU_NOTE_SIZE);
	buf_put_u32(b, QEMU_NOTE_VERSION);
	buf_put_u32(b, QEMU_NOTE_SIZE);
	qemu_regs_put(b, &v->regs);
	qemu_segments_put(b, s);
	for (unsigned i = 0; i < ARRAY_LEN(control); i++)
		buf_put_u64(b, control[i]);
	buf_put_u64(b, msr_of(v, MSR_KERNEL_GS_BASE));
}

void core_notes_put(const struct core_vcpu *vcpus, unsigned count, struct buf *out)
{
	for (unsigned i = 0; i < count; i++)
		thread_put(out, i, &vcpus[i]);
	for (unsigned i = 0; i < count; i++)
		qemu_note_put(out, &vcpus[i].image);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What the privileged and segment instructions share: descriptors, stacks, the groups
 * of operations that soft_select_system() chooses from. Private to hypervisor/soft/.
 *
 * Not there: virtual-8086 mode (IRET to it is #GP), tasks of 16-bit TSSs and task gates
 * in an IDT (#GP), SMM.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_SYSTEM_H
#define POLLUX_HYPERVISOR_SOFT_SYSTEM_H

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

/* Types of system descriptors. */
enum soft_system_type {
	TYPE_TSS16 = 1,
	TYPE_LDT = 2,
	TYPE_TSS16_BUSY = 3,
	TYPE_CALL16 = 4,
	TYPE_TASK = 5,
	TYPE_INTERRUPT16 = 6,
	TYPE_TRAP16 = 7,
	TYPE_TSS = 9,
	TYPE_TSS_BUSY = 11,
	TYPE_CALL = 12,
	TYPE_INTERRUPT = 14,
	TYPE_TRAP = 15,
};

static inline bool soft_long(const struct soft_cpu *cpu)
{
	return cpu->efer & EFER_LMA;
}
static inline bool soft_protected(const struct soft_cpu *cpu)
{
	return cpu->cr0 & CR0_PE;
}
static inline bool soft_canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}
static inline uint64_t soft_mask(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (UINT64_C(1) << 8 * size) - 1;
}
static inline unsigned soft_seg_dpl(const struct soft_segment *s)
{
	return s->attr >> SEG_DPL_SHIFT & 3;
}
static inline uint64_t soft_reg_read(const struct soft_cpu *cpu, uint8_t reg, unsigned size)
{
	uint64_t v;

	memcpy(&v, (const uint8_t *)cpu->r + reg, 8);
	return v & soft_mask(size);
}
/* 4 octets clear the upper half, 1 and 2 leave the rest. */
static inline void soft_reg_write(struct soft_cpu *cpu, uint8_t reg, uint64_t v, unsigned size)
{
	memcpy((uint8_t *)cpu->r + reg, &v, size == 4 ? 8 : size);
}
/* The instruction after `op`, cut to what the mode's instruction pointer holds. */
static inline uint64_t soft_rip_after(const struct soft_cpu *cpu, const struct soft_op *op)
{
	return soft_rip_cut(cpu, soft_rip_next(cpu, op));
}
/* Ends the block: the instruction may have changed what later ones go by. */
static inline struct soft_op *soft_done(struct soft_cpu *cpu, struct soft_op *op)
{
	return soft_leave(cpu, op, soft_rip_after(cpu, op));
}
static inline void soft_flag_zf(struct soft_cpu *cpu, bool on)
{
	fl_set(cpu, (fl_get(cpu) & ~(uint32_t)FLAG_ZF) | (on ? FLAG_ZF : 0));
}
/* #GP(0) but at privilege 0. */
static inline void soft_need_cpl0(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cpl)
		soft_raise_error(cpu, op, VEC_GP, 0);
}

/* ---- exception.c ------------------------------------------------------------------------- */

/* INT n, INT3, INTO (EVENT_SOFTWARE), and ICEBP (EVENT_EXCEPTION: no look at the gate's DPL);
 * goes on in the handler. */
struct soft_op *soft_software_interrupt(struct soft_cpu *cpu, struct soft_op *op, unsigned vector,
					enum soft_event kind);

/* ---- segment.c ------------------------------------------------------------------------- */

struct soft_descriptor {
	uint16_t selector;
	uint64_t va;
	uint32_t low, high;
};

static inline bool soft_selector_null(uint16_t selector)
{
	return !(selector & ~3u);
}
static inline unsigned soft_descriptor_type(const struct soft_descriptor *d)
{
	return d->high >> 8 & 15;
}
static inline unsigned soft_descriptor_dpl(const struct soft_descriptor *d)
{
	return d->high >> 13 & 3;
}
static inline bool soft_descriptor_present(const struct soft_descriptor *d)
{
	return d->high >> 15 & 1;
}
/* S: code or data */
static inline bool soft_descriptor_plain(const struct soft_descriptor *d)
{
	return d->high >> 12 & 1;
}
static inline bool soft_descriptor_code(const struct soft_descriptor *d)
{
	return (d->high >> 11 & 3) == 3;
}
static inline bool soft_descriptor_writable(const struct soft_descriptor *d)
{
	return (d->high & 0x1a00) == 0x1200;
}
/* Readable data or code that privilege counts for: not conforming code. */
static inline bool soft_descriptor_conforming(const struct soft_descriptor *d)
{
	return (d->high & 0x1c00) == 0x1c00;
}

/* False: beyond its table's limit (the null selector is the caller's to look for). */
bool soft_descriptor_find(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
			  struct soft_descriptor *out);
/* Raises `vector` with the selector. */
void soft_descriptor_read(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
			  unsigned vector, struct soft_descriptor *out);
/* Octets 8-15 of a system descriptor in long mode. */
uint64_t soft_descriptor_upper(struct soft_cpu *cpu, struct soft_op *op,
			       const struct soft_descriptor *d, unsigned vector);
/* Sets the accessed bit in memory, too. */
struct soft_segment soft_descriptor_segment(struct soft_cpu *cpu, struct soft_op *op,
					    const struct soft_descriptor *d, uint16_t selector);
uint32_t soft_descriptor_limit(const struct soft_descriptor *d);
uint32_t soft_descriptor_base(const struct soft_descriptor *d);
struct soft_segment soft_segment_null(uint16_t selector);

/* A data or stack segment register, as MOV does. Not CS. */
void soft_segment_load(struct soft_cpu *cpu, struct soft_op *op, enum soft_seg seg,
		       uint16_t selector);
/* A data segment for the current privilege; `vector`: #GP, or #TS of a task switch. */
struct soft_segment soft_segment_data(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				      unsigned vector);
/* A stack segment for privilege `cpl` by the rules of a change of privilege: #TS by an
 * inner stack, #GP by a return. Null selectors are the caller's. */
struct soft_segment soft_segment_stack(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				       unsigned cpl, unsigned vector);

/* ---- far.c ------------------------------------------------------------------------------- */

/* The new CS and RIP, and what the privilege becomes; nothing has been changed. */
struct soft_target {
	struct soft_segment cs;
	uint64_t rip;
	uint8_t cpl;
};
void soft_target_take(struct soft_cpu *cpu, const struct soft_target *t);
/* Code segment of a gate: #GP, #NP with its selector. */
struct soft_target soft_target_gate(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				    uint64_t rip, bool jump);
/* Of a direct far transfer, and of RET and IRET. */
struct soft_target soft_target_direct(struct soft_cpu *cpu, struct soft_op *op,
				      const struct soft_descriptor *d, uint64_t rip);
struct soft_target soft_target_return(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				      uint64_t rip);

/* A stack that is written before it becomes the CPU's. */
struct soft_stack {
	struct soft_segment ss;
	uint64_t sp, mask;
	uint8_t cpl;
	bool flat;  /* 64-bit: no base, no limit */
	bool inner; /* SS and privilege change: written at supervisor privilege */
};
struct soft_stack soft_stack_current(const struct soft_cpu *cpu);
/* From the task state: RSP or SS:ESP of privilege `cpl`. */
struct soft_stack soft_stack_inner(struct soft_cpu *cpu, struct soft_op *op, unsigned cpl);
void soft_stack_push(struct soft_cpu *cpu, struct soft_op *op, struct soft_stack *s, uint64_t v,
		     unsigned size);
void soft_stack_take(struct soft_cpu *cpu, const struct soft_stack *s);
/* The `n`th value of `size` octets above the CPU's stack pointer. */
uint64_t soft_stack_peek(struct soft_cpu *cpu, struct soft_op *op, unsigned n, unsigned size);
void soft_stack_drop(struct soft_cpu *cpu, unsigned octets);

/* ---- task.c ------------------------------------------------------------------------------- */

enum soft_task_switch { TASK_JUMP, TASK_CALL, TASK_RETURN };
/* Legacy mode, 32-bit TSSs. */
struct soft_op *soft_task_switch(struct soft_cpu *cpu, struct soft_op *op, uint16_t selector,
				 enum soft_task_switch how);
/* The TSS's octets [at, at + n): #TS(TR) beyond its limit. */
void soft_task_read(struct soft_cpu *cpu, struct soft_op *op, uint32_t at, void *out, unsigned n);
/* May the current privilege access these ports? */
bool soft_task_port_allowed(struct soft_cpu *cpu, struct soft_op *op, uint16_t port, unsigned size);

/* ---- system_msr.c --------------------------------------------------------------------------- */

void soft_msr_reset(struct soft_cpu *cpu); /* but TSC, LAPIC and clock */

/* ---- debug.c: see also machine.h ------------------------------------------------------------ */

#define DR6_GD   (UINT64_C(1) << 13) /* BD */
#define DR6_BS   (UINT64_C(1) << 14)
#define DR6_ONES UINT64_C(0xffff0ff0)
#define DR7_GD   (UINT64_C(1) << 13)
#define DR7_ONE  UINT64_C(0x400)

uint64_t soft_dr_read(struct soft_cpu *cpu, struct soft_op *op, unsigned n);
void soft_dr_write(struct soft_cpu *cpu, struct soft_op *op, unsigned n, uint64_t value);

/* ---- the groups of soft_select_system() ------------------------------------------------------ */

/* The operand of far CALL and JMP, LDS and the like; returns the offset of op->aux octets. */
uint64_t soft_pointer_read(struct soft_cpu *cpu, struct soft_op *op, uint16_t *selector);

soft_select soft_select_segment; /* system_segment.c: MOV, PUSH, POP of Sreg, LDS... */
soft_select soft_select_table;   /* system_table.c: 0F 00, 0F 01, LAR, LSL, ARPL */
soft_select soft_select_far;     /* far.c, system_far.c: CALL, JMP, RET, IRET, INT n */
soft_select soft_select_port;    /* system_port.c: IN, OUT, INS, OUTS */
soft_select soft_select_call;    /* system_call.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS */

/* Marks the end of the block and the operand's size, for functions that use op->aux so. */
struct soft_op *soft_emit_last(struct soft_builder *b, soft_fn *run, unsigned size);
#endif

// SPDX-License-Identifier: Apache-2.0
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS; hypercalls. As AMD has them. */
#include "hypervisor/soft/system.h"

static struct soft_segment flat(uint16_t selector, unsigned attr)
{
	return (struct soft_segment){
		.limit = UINT32_MAX,
		.selector = selector,
		.attr = (uint16_t)(attr | SEG_PRESENT | SEG_S | SEG_G | SEG_ACCESSED | SEG_WRITE),
	};
}

/* Flat segments of a privilege, whatever the tables hold. */
static void segments_flat(struct soft_cpu *cpu, unsigned cs, unsigned ss, unsigned cpl, bool wide)
{
	unsigned dpl = cpl << SEG_DPL_SHIFT;

	cpu->seg[SEG_CS] = flat((uint16_t)cs, SEG_CODE | (wide ? SEG_L : SEG_DB) | dpl);
	cpu->seg[SEG_SS] = flat((uint16_t)ss, SEG_DB | dpl);
	cpu->cpl = (uint8_t)cpl;
	soft_mode_update(cpu);
}

static struct soft_op *op_syscall(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t next = soft_rip_after(cpu, op), to = (uint32_t)cpu->star;
	unsigned selector = cpu->star >> 32 & 0xfffc;
	bool trap = cpu->flags & FLAG_TF;

	if (!(cpu->efer & EFER_SCE))
		soft_raise(cpu, op, VEC_UD);
	if (soft_long(cpu)) {
		to = cpu->mode == MODE_64 ? cpu->lstar : cpu->cstar;
		cpu->r[SOFT_RCX] = next;
		cpu->r[11] = soft_flags(cpu) & ~(uint32_t)FLAG_RF;
		soft_flags_write(cpu, 0, (uint32_t)cpu->sfmask | FLAG_RF);
	} else {
		cpu->r[SOFT_RCX] = (uint32_t)next;
		cpu->flags &= ~(uint32_t)(FLAG_IF | FLAG_VM | FLAG_RF);
	}
	segments_flat(cpu, selector, selector + 8, 0, soft_long(cpu));
	cpu->step_off = trap && !(cpu->flags & FLAG_TF);
	return soft_leave(cpu, op, to);
}

static struct soft_op *op_sysret(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned selector = cpu->star >> 48 & 0xfffc;
	uint64_t to = cpu->r[SOFT_RCX];

	if (!(cpu->efer & EFER_SCE))
		soft_raise(cpu, op, VEC_UD);
	if (!soft_protected(cpu))
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_need_cpl0(cpu, op);
	if (soft_long(cpu))
		soft_flags_write(cpu, (uint32_t)cpu->r[11],
				 FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT |
					 FLAG_RF | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID);
	else
		soft_flags_write(cpu, FLAG_IF, FLAG_IF);
	if (op->aux == 8)
		segments_flat(cpu, (selector + 16) | 3, (selector + 8) | 3, 3, true);
	else
		segments_flat(cpu, selector | 3, (selector + 8) | 3, 3, false);
	return soft_leave(cpu, op, op->aux == 8 ? to : (uint32_t)to);
}

static struct soft_op *op_sysenter(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned selector = cpu->sysenter_cs & 0xfffc;

	if (soft_long(cpu))
		soft_raise(cpu, op, VEC_UD);
	if (!soft_protected(cpu) || !selector)
		soft_raise_error(cpu, op, VEC_GP, 0);
	cpu->flags &= ~(uint32_t)(FLAG_IF | FLAG_VM | FLAG_RF);
	cpu->r[SOFT_RSP] = (uint32_t)cpu->sysenter_esp;
	segments_flat(cpu, selector, selector + 8, 0, false);
	return soft_leave(cpu, op, (uint32_t)cpu->sysenter_eip);
}

static struct soft_op *op_sysexit(struct soft_cpu *cpu, struct soft_op *op)
{
	unsigned selector = cpu->sysenter_cs & 0xfffc;

	if (soft_long(cpu))
		soft_raise(cpu, op, VEC_UD);
	if (!soft_protected(cpu) || !selector)
		soft_raise_error(cpu, op, VEC_GP, 0);
	soft_need_cpl0(cpu, op);
	cpu->r[SOFT_RSP] = (uint32_t)cpu->r[SOFT_RCX];
	segments_flat(cpu, (selector + 16) | 3, (selector + 24) | 3, 3, false);
	return soft_leave(cpu, op, (uint32_t)cpu->r[SOFT_RDX]);
}

static struct soft_op *op_swapgs(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t base = cpu->seg[SEG_GS].base;

	soft_need_cpl0(cpu, op);
	cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
	cpu->r[SOFT_BASE_GS] = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	return soft_next(cpu, op);
}

/* No hypercall is offered; the answers are those of Linux's KVM. */
static struct soft_op *op_hypercall(struct soft_cpu *cpu, struct soft_op *op)
{
	int64_t answer = cpu->cpl ? -1 /* KVM_EPERM */ : -1000 /* KVM_ENOSYS */;

	cpu->r[SOFT_RAX] = cpu->mode == MODE_64 ? (uint64_t)answer : (uint32_t)answer;
	return soft_next(cpu, op);
}

/* 0F 01 with a register operand that is an opcode of its own. */
static bool select_01(struct soft_builder *b)
{
	switch (b->insn->bytes[b->insn->length - 1]) {
	case 0xc1:
	case 0xd9:
		return soft_emit(b, op_hypercall);
	case 0xf8:
		return b->insn->mode == MODE_64 && soft_emit(b, op_swapgs);
	default:
		return false;
	}
}

bool soft_select_call(struct soft_builder *b)
{
	switch (b->insn->opcode) {
	case 0x01:
		return select_01(b);
	case 0x05:
		return soft_emit_last(b, op_syscall, 0);
	case 0x07:
		return soft_emit_last(b, op_sysret, b->insn->operand);
	case 0x34:
		return soft_emit_last(b, op_sysenter, 0);
	default: /* 35 */
		return soft_emit_last(b, op_sysexit, 0);
	}
}

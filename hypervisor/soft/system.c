// SPDX-License-Identifier: Apache-2.0
/* Privileged instructions that fit in no other file, and who has which. */
#include "hypervisor/soft/system.h"

struct soft_op *soft_emit_last(struct soft_builder *b, soft_fn *run, unsigned size)
{
	struct soft_op *op = soft_emit(b, run);

	op->aux = (uint8_t)size;
	b->ends = true;
	return op;
}

/* ---- interrupt flag, HLT -------------------------------------------------------------------- */

static void need_iopl(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cpl > (cpu->flags & FLAG_IOPL) >> 12)
		soft_raise_error(cpu, op, VEC_GP, 0);
}

static struct soft_op *op_cli(struct soft_cpu *cpu, struct soft_op *op)
{
	need_iopl(cpu, op);
	cpu->flags &= ~(uint32_t)FLAG_IF;
	return soft_next(cpu, op);
}

/* Where no interrupt waits the block goes on: one that comes later is not taken before the
 * block's end, and so not before the next instruction, if there is one. */
static struct soft_op *op_sti(struct soft_cpu *cpu, struct soft_op *op)
{
	need_iopl(cpu, op);
	if (cpu->flags & FLAG_IF)
		return soft_next(cpu, op);
	cpu->flags |= FLAG_IF;
	if (!cpu->chips_look && !soft_must_look(cpu) && op[1].flags & OP_FIRST)
		return soft_next(cpu, op);
	cpu->shadow = true;
	return soft_done(cpu, op);
}

static struct soft_op *op_hlt(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_need_cpl0(cpu, op);
	cpu->halted = true;
	return soft_done(cpu, op);
}

/* ---- control and debug registers ----------------------------------------------------------------
 */

static struct soft_op *op_cr_read(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t value;

	soft_need_cpl0(cpu, op);
	value = soft_cr_read(cpu, (unsigned)op->imm);
	soft_reg_write(cpu, op->rm, value, op->aux);
	return soft_next(cpu, op);
}

static struct soft_op *op_cr_write(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t next = soft_rip_after(cpu, op);

	soft_need_cpl0(cpu, op);
	if (soft_cr_write(cpu, (unsigned)op->imm, soft_reg_read(cpu, op->rm, op->aux)))
		soft_raise_error(cpu, op, VEC_GP, 0);
	return soft_leave(cpu, op, next);
}

static struct soft_op *op_dr_read(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_reg_write(cpu, op->rm, soft_dr_read(cpu, op, (unsigned)op->imm), op->aux);
	return soft_next(cpu, op);
}
static struct soft_op *op_dr_write(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_dr_write(cpu, op, (unsigned)op->imm, soft_reg_read(cpu, op->rm, op->aux));
	return soft_done(cpu, op);
}

static struct soft_op *op_clts(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_need_cpl0(cpu, op);
	cpu->cr0 &= ~CR0_TS;
	return soft_next(cpu, op);
}

/* ---- MSRs, TSC, CPUID
 * --------------------------------------------------------------------------------- */

static uint64_t edx_eax(const struct soft_cpu *cpu)
{
	return (uint32_t)cpu->r[SOFT_RAX] | cpu->r[SOFT_RDX] << 32;
}
static void edx_eax_set(struct soft_cpu *cpu, uint64_t value)
{
	cpu->r[SOFT_RAX] = (uint32_t)value;
	cpu->r[SOFT_RDX] = value >> 32;
}

static struct soft_op *op_rdmsr(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t value;

	soft_need_cpl0(cpu, op);
	if (soft_msr_read(cpu, (uint32_t)cpu->r[SOFT_RCX], &value))
		soft_raise_error(cpu, op, VEC_GP, 0);
	edx_eax_set(cpu, value);
	return soft_next(cpu, op);
}

static struct soft_op *op_wrmsr(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_need_cpl0(cpu, op);
	if (soft_msr_write(cpu, (uint32_t)cpu->r[SOFT_RCX], edx_eax(cpu)))
		soft_raise_error(cpu, op, VEC_GP, 0);
	return soft_done(cpu, op);
}

static struct soft_op *op_rdtsc(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cr4 & CR4_TSD && cpu->cpl)
		soft_raise_error(cpu, op, VEC_GP, 0);
	edx_eax_set(cpu, soft_tsc_read(cpu));
	return soft_next(cpu, op);
}

/* There are no performance counters: every number is beyond them. */
static struct soft_op *op_rdpmc(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_raise_error(cpu, op, VEC_GP, 0);
}

static struct soft_op *op_cpuid(struct soft_cpu *cpu, struct soft_op *op)
{
	uint32_t out[4];

	soft_cpuid(cpu, (uint32_t)cpu->r[SOFT_RAX], (uint32_t)cpu->r[SOFT_RCX], out);
	cpu->r[SOFT_RAX] = out[0];
	cpu->r[SOFT_RBX] = out[1];
	cpu->r[SOFT_RCX] = out[2];
	cpu->r[SOFT_RDX] = out[3];
	return soft_next(cpu, op);
}

/* INVD, WBINVD: caches are not modelled. */
static struct soft_op *op_cache(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_need_cpl0(cpu, op);
	return soft_next(cpu, op);
}

/* ---- selection
 * -------------------------------------------------------------------------------------------- */

static bool select_move(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	bool write = i->opcode & 2, debug = i->opcode & 1;
	soft_fn *run = debug ? write ? op_dr_write : op_dr_read : write ? op_cr_write : op_cr_read;
	struct soft_op *op;

	if (debug ? i->reg > 7 : i->reg != 0 && i->reg != 8 && (i->reg < 2 || i->reg > 4))
		return false;
	op = soft_emit(b, run);
	op->imm = i->reg;
	op->aux = i->mode == MODE_64 ? 8 : 4;
	b->ends |= write;
	return true;
}

static bool select_one(struct soft_builder *b, uint8_t opcode)
{
	switch (opcode) {
	case 0xf4:
		return soft_emit_last(b, op_hlt, 0);
	case 0xfa:
		return soft_emit(b, op_cli);
	case 0xfb:
		return soft_emit(b, op_sti);
	case 0x63:
		return soft_select_table(b);
	case 0x06:
	case 0x07:
	case 0x0e:
	case 0x16:
	case 0x17:
	case 0x1e:
	case 0x1f:
	case 0x8c:
	case 0x8e:
	case 0xc4:
	case 0xc5:
		return soft_select_segment(b);
	case 0x9a:
	case 0xea:
	case 0xff:
	case 0xca:
	case 0xcb:
	case 0xcc:
	case 0xcd:
	case 0xce:
	case 0xcf:
	case 0xf1:
		return soft_select_far(b);
	default: /* 6c-6f e4-e7 ec-ef */
		return soft_select_port(b);
	}
}

static bool select_0f(struct soft_builder *b, uint8_t opcode)
{
	switch (opcode) {
	case 0x01: /* a register operand: SMSW and LMSW, or an opcode of its own */
		return (b->insn->memory || (b->insn->reg & 7) == 4 || (b->insn->reg & 7) == 6)
			       ? soft_select_table(b)
			       : soft_select_call(b);
	case 0x00:
	case 0x02:
	case 0x03:
		return soft_select_table(b);
	case 0x05:
	case 0x07:
	case 0x34:
	case 0x35:
		return soft_select_call(b);
	case 0x06:
		return soft_emit(b, op_clts);
	case 0x08:
	case 0x09:
		return soft_emit(b, op_cache);
	case 0x20:
	case 0x21:
	case 0x22:
	case 0x23:
		return select_move(b);
	case 0x30:
		return soft_emit_last(b, op_wrmsr, 0);
	case 0x31:
		return soft_emit(b, op_rdtsc);
	case 0x32:
		return soft_emit(b, op_rdmsr);
	case 0x33:
		return soft_emit_last(b, op_rdpmc, 0);
	case 0xa2:
		return soft_emit(b, op_cpuid);
	case 0xa0:
	case 0xa1:
	case 0xa8:
	case 0xa9:
	case 0xb2:
	case 0xb4:
	case 0xb5:
		return soft_select_segment(b);
	default: /* aa: RSM */
		return false;
	}
}

bool soft_select_system(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	if (i->lock)
		return false;
	return i->map == MAP_ONE ? select_one(b, i->opcode) : select_0f(b, i->opcode);
}

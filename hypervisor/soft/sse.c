// SPDX-License-Identifier: Apache-2.0
/* Selects operations for MMX, SSE and SSE2 instructions, and what all of them share. */
#include "hypervisor/soft/sse.h"

/* ---- faults ------------------------------------------------------------------------- */

noreturn void sse_trap(struct soft_cpu *cpu, struct soft_op *op)
{
	bool undefined = cpu->cr0 & CR0_EM || !(cpu->cr4 & CR4_OSFXSR);

	soft_raise(cpu, op, undefined ? VEC_UD : VEC_NM);
}

noreturn void mmx_trap(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_raise(cpu, op, cpu->cr0 & CR0_EM ? VEC_UD : cpu->cr0 & CR0_TS ? VEC_NM : VEC_MF);
}

struct soft_op *sse_gate(struct soft_cpu *cpu, struct soft_op *op)
{
	sse_check(cpu, op);
	return soft_next(cpu, op);
}

struct soft_op *mmx_gate(struct soft_cpu *cpu, struct soft_op *op)
{
	mmx_check(cpu, op);
	return soft_next(cpu, op);
}

noreturn void sse_misaligned(struct soft_cpu *cpu, struct soft_op *op)
{
	soft_raise_error(cpu, op, VEC_GP, 0);
}

__attribute__((noinline)) __m128i sse_read_slow(struct soft_cpu *cpu, struct soft_op *op,
						uint64_t va)
{
	soft_xmm v;

	soft_read_bytes(cpu, op, va, &v, sizeof(v));
	return _mm_load_si128((const __m128i *)&v);
}

__attribute__((noinline)) void sse_write_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
					      __m128i v)
{
	soft_xmm bytes;

	_mm_store_si128((__m128i *)&bytes, v);
	soft_write_bytes(cpu, op, va, &bytes, sizeof(bytes));
}

/* ---- selection ---------------------------------------------------------------------- */

static enum sse_prefix prefix_of(const struct soft_insn *i)
{
	if (i->rep)
		return i->rep == 0xf3 ? PF3 : PF2;
	return i->operand16 ? P66 : NP;
}

static bool line_matches(const struct sse_line *line, const struct soft_insn *i,
			 enum sse_prefix prefix)
{
	return line->opcode == i->opcode && line->prefix == prefix &&
	       (!line->digit || line->digit == (i->reg & 7) + 1) &&
	       (line->w == W_ANY || line->w == (i->rex & 8 ? W1 : W0));
}

static const struct sse_line *line_of(const struct soft_insn *i)
{
	static const struct sse_lines *const all[] = {
		&sse_lines_move,    &sse_lines_int,   &sse_lines_float,
		&sse_lines_convert, &sse_lines_state, &sse_lines_mmx,
	};
	enum sse_prefix prefix = prefix_of(i);

	for (unsigned t = 0; t < sizeof(all) / sizeof(all[0]); t++)
		for (unsigned n = 0; n < all[t]->count; n++)
			if (line_matches(&all[t]->line[n], i, prefix))
				return &all[t]->line[n];
	return NULL;
}

/* MASKMOVQ and MASKMOVDQU have a memory operand, DS:rDI, that ModRM does not name. */
static bool store_by_mask(const struct soft_insn *i)
{
	return i->opcode == 0xf7;
}

static struct soft_op *emit_memory(struct soft_builder *b, const struct sse_line *line)
{
	/* Where an address operation comes first, its faults must not come first. */
	if (b->insn->address != 8)
		soft_emit(b, line->gate);
	return soft_emit_memory(b, line->mem, line->access, line->size);
}

static struct soft_op *emit_by_mask(struct soft_builder *b, const struct sse_line *line)
{
	const struct soft_insn *real = b->insn;
	struct soft_insn copy = *real;
	struct soft_op *op;

	copy.memory = true;
	copy.base = REG(SOFT_RDI);
	copy.index = REG(SOFT_ZERO);
	b->insn = &copy;
	op = emit_memory(b, line);
	b->insn = real;
	return op;
}

bool soft_select_sse(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	const struct sse_line *line = line_of(i);
	struct soft_op *op;

	if (!line || i->lock)
		return false;
	if (store_by_mask(i) ? i->memory : !(i->memory ? line->mem : line->reg))
		return false;
	if (i->memory)
		op = emit_memory(b, line);
	else if (store_by_mask(i))
		op = emit_by_mask(b, line);
	else
		op = soft_emit(b, line->reg);
	op->reg = i->reg;
	op->rm = i->rm;
	return true;
}

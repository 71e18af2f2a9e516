// SPDX-License-Identifier: Apache-2.0
/*
 * MOVS, STOS, LODS, SCAS, CMPS. A repeated one runs in chunks: after one, the vCPU leaves
 * with RIP at the same instruction and RCX, RSI, RDI as far as they have come, as it does
 * when an element faults. In 64-bit mode MOVS and STOS upwards work on runs of host memory.
 */
#include "hypervisor/soft/integer.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		name##1, name##2, name##4, name##8                                                 \
	}
#define CHUNK 4096u /* elements */

enum string { STRING_MOVS, STRING_CMPS, STRING_STOS, STRING_LODS, STRING_SCAS };

/* op->aux: 0, 0xf2, 0xf3; reg: octets of an address; rm: segment of the source */
INLINE uint64_t pointer(const struct soft_cpu *cpu, const struct soft_op *op, unsigned reg)
{
	return cut(cpu->r[reg], op->reg);
}
static void pointer_put(struct soft_cpu *cpu, const struct soft_op *op, unsigned reg, uint64_t v)
{
	if (op->reg == 2)
		reg_put(cpu, REG(reg), v, 2);
	else
		cpu->r[reg] = cut(v, op->reg);
}
static void advance(struct soft_cpu *cpu, const struct soft_op *op, unsigned reg, uint64_t by)
{
	bool down = cpu->flags & FLAG_DF;

	pointer_put(cpu, op, reg, cpu->r[reg] + (down ? -by : by));
}

INLINE uint64_t linear(struct soft_cpu *cpu, struct soft_op *op, unsigned seg, unsigned reg,
		       unsigned size, bool write)
{
	uint64_t offset = pointer(cpu, op, reg);

	if (cpu->mode == MODE_64)
		return cpu->r[SOFT_BASE_ES + seg] + offset;
	return soft_linear(cpu, op, seg, offset, size, write);
}
INLINE uint64_t source(struct soft_cpu *cpu, struct soft_op *op, unsigned size)
{
	return linear(cpu, op, op->rm, SOFT_RSI, size, false);
}
INLINE uint64_t destination(struct soft_cpu *cpu, struct soft_op *op, unsigned size, bool write)
{
	return linear(cpu, op, SEG_ES, SOFT_RDI, size, write);
}

/* ---- one element ------------------------------------------------------------------------ */

INLINE void element(struct soft_cpu *cpu, struct soft_op *op, enum string kind, unsigned size)
{
	uint64_t a, b;

	switch (kind) {
	case STRING_MOVS:
		a = load(cpu, op, source(cpu, op, size), size);
		store(cpu, op, destination(cpu, op, size, true), a, size);
		break;
	case STRING_STOS:
		a = reg_get(cpu, REG(SOFT_RAX), size);
		store(cpu, op, destination(cpu, op, size, true), a, size);
		break;
	case STRING_LODS:
		reg_put(cpu, REG(SOFT_RAX), load(cpu, op, source(cpu, op, size), size), size);
		break;
	case STRING_SCAS:
		a = reg_get(cpu, REG(SOFT_RAX), size);
		b = load(cpu, op, destination(cpu, op, size, false), size);
		fl_sub(cpu, a, b, a - b, size);
		break;
	default:
		a = load(cpu, op, source(cpu, op, size), size);
		b = load(cpu, op, destination(cpu, op, size, false), size);
		fl_sub(cpu, a, b, a - b, size);
	}
	if (kind == STRING_MOVS || kind == STRING_LODS || kind == STRING_CMPS)
		advance(cpu, op, SOFT_RSI, size);
	if (kind != STRING_LODS)
		advance(cpu, op, SOFT_RDI, size);
}

/* ---- runs of host memory ------------------------------------------------------------------ */

static bool runs_possible(const struct soft_cpu *cpu, const struct soft_op *op)
{
	return cpu->mode == MODE_64 && op->reg == 8 && !(cpu->flags & FLAG_DF);
}

/* Element by element upwards, which repeats a pattern where the two overlap. */
INLINE void run_copy(uint8_t *to, const uint8_t *from, size_t n, unsigned size)
{
	size_t bytes = n * size;

	if (to <= from || to >= from + bytes) {
		soft_copy(to, from, bytes);
		return;
	}
	for (size_t i = 0; i < bytes; i += size)
		value_put(to + i, value_get(from + i, size), size);
}

INLINE void run_fill(uint8_t *to, uint64_t v, size_t n, unsigned size)
{
	if (size == 1 || !v) {
		soft_fill(to, (uint8_t)v, n * size);
		return;
	}
	for (size_t i = 0; i < n; i++)
		value_put(to + i * size, v, size);
}

/* How many of `count` elements it has done. */
INLINE uint64_t run(struct soft_cpu *cpu, struct soft_op *op, enum string kind, uint64_t count,
		    unsigned size)
{
	size_t most = 0, most_from = SIZE_MAX;
	const uint8_t *from = NULL;
	uint8_t *to = soft_run_write(cpu, destination(cpu, op, size, true), &most);
	uint64_t n;

	if (kind == STRING_MOVS)
		from = soft_run_read(cpu, source(cpu, op, size), &most_from);
	if (!to || (kind == STRING_MOVS && !from))
		return 0;
	most = (most < most_from ? most : most_from) / size;
	n = most < count ? most : count;
	if (kind == STRING_MOVS) {
		run_copy(to, from, n, size);
		cpu->r[SOFT_RSI] += n * size;
	} else {
		run_fill(to, reg_get(cpu, REG(SOFT_RAX), size), n, size);
	}
	cpu->r[SOFT_RDI] += n * size;
	return n;
}

/* ---- REP ------------------------------------------------------------------------------------ */

INLINE bool finds(enum string kind)
{
	return kind == STRING_SCAS || kind == STRING_CMPS;
}

INLINE struct soft_op *repeat(struct soft_cpu *cpu, struct soft_op *op, enum string kind,
			      unsigned size)
{
	uint64_t count = pointer(cpu, op, SOFT_RCX), n;
	/* A single step, and a look for a data breakpoint, is behind each element. */
	uint64_t left = cpu->flags & FLAG_TF || cpu->dr[7] & 0xff ? 1 : CHUNK;
	bool runs = (kind == STRING_MOVS || kind == STRING_STOS) && runs_possible(cpu, op);

	while (count && left) {
		n = runs ? run(cpu, op, kind, count < left ? count : left, size) : 0;
		if (!n) {
			element(cpu, op, kind, size);
			n = 1;
		}
		count -= n;
		left -= n;
		pointer_put(cpu, op, SOFT_RCX, count);
		if (finds(kind) && fl_zf(cpu) != (op->aux == 0xf3))
			return soft_next(cpu, op);
	}
	if (!count)
		return soft_next(cpu, op);
	return soft_leave(cpu, op, soft_rip_cut(cpu, soft_rip(cpu, op)));
}

#define STRING(name, kind, size)                                                                   \
	SOFT_FN(name##size, element(cpu, op, kind, size))                                          \
	static struct soft_op *rep_##name##size(struct soft_cpu *cpu, struct soft_op *op)          \
	{                                                                                          \
		return repeat(cpu, op, kind, size);                                                \
	}
#define STRINGS(name, kind)                                                                        \
	STRING(name, kind, 1)                                                                      \
	STRING(name, kind, 2)                                                                      \
	STRING(name, kind, 4)                                                                      \
	STRING(name, kind, 8)
STRINGS(movs, STRING_MOVS)
STRINGS(cmps, STRING_CMPS)
STRINGS(stos, STRING_STOS)
STRINGS(lods, STRING_LODS)
STRINGS(scas, STRING_SCAS)

/* By bits 1-3 of the opcode: A4 is 2. */
#define ROW(name)                                                                                  \
	{                                                                                          \
		SIZES(name), SIZES(rep_##name)                                                     \
	}
static soft_fn *const string_fns[8][2][4] = {
	[2] = ROW(movs), [3] = ROW(cmps), [5] = ROW(stos), [6] = ROW(lods), [7] = ROW(scas),
};

bool soft_select_string(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = string_fns[i->opcode >> 1 & 7][i->rep != 0][size_index(size_of(i))];
	struct soft_op *op = soft_emit(b, fn);

	op->aux = i->rep;
	op->reg = i->address;
	op->rm = i->segment >= 0 ? (uint8_t)i->segment : SEG_DS;
	op->flags |= op->rm == SEG_SS ? OP_STACK : 0;
	return true;
}

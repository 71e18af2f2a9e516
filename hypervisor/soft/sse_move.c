// SPDX-License-Identifier: Apache-2.0
/* Moves of XMM registers, whole or in parts. */
#include "hypervisor/soft/sse.h"

#define OP(name) static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)

/* Halves: low of a, low of b and so on; scalars replace the lowest element of a. */
static inline __m128i low_low(__m128i a, __m128i b)
{
	return _mm_unpacklo_epi64(a, b);
}
static inline __m128i low_of_second(__m128i a, __m128i b)
{
	return (__m128i)_mm_move_sd((__m128d)a, (__m128d)b);
}
static inline __m128i single_of_second(__m128i a, __m128i b)
{
	return (__m128i)_mm_move_ss((__m128)a, (__m128)b);
}

/* ---- between registers -------------------------------------------------------------- */

/* reg := f(reg, rm); `back`: the other way round, as the store opcodes have it. */
#define BETWEEN(name, to, from, value)                                                             \
	OP(name)                                                                                   \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->to), s = xmm_get(cpu, op->from);                      \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		(void)d;                                                                           \
		xmm_set(cpu, op->to, value);                                                       \
		return soft_next(cpu, op);                                                         \
	}
BETWEEN(move, reg, rm, s)
BETWEEN(move_back, rm, reg, s)
BETWEEN(move_ss, reg, rm, single_of_second(d, s))
BETWEEN(move_ss_back, rm, reg, single_of_second(d, s))
BETWEEN(move_sd, reg, rm, low_of_second(d, s))
BETWEEN(move_sd_back, rm, reg, low_of_second(d, s))
BETWEEN(movhlps, reg, rm, _mm_unpackhi_epi64(s, d))
BETWEEN(movlhps, reg, rm, low_low(d, s))
BETWEEN(move_low, reg, rm, _mm_move_epi64(s))
BETWEEN(move_low_back, rm, reg, _mm_move_epi64(s))

/* ---- from and to memory ------------------------------------------------------------- */

#define LOAD(name, value)                                                                          \
	OP(name)                                                                                   \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, value);                                                      \
		return soft_next(cpu, op);                                                         \
	}
LOAD(load, sse_read(cpu, op))
LOAD(load_any, sse_read_any(cpu, op))
LOAD(load_32, sse_read_low32(cpu, op))
LOAD(load_64, sse_read_low64(cpu, op))

/* A fault must come before the register changes. */
#define LOAD_PART(name, merge)                                                                     \
	OP(name)                                                                                   \
	{                                                                                          \
		__m128i s;                                                                         \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = sse_read_low64(cpu, op);                                                       \
		xmm_set(cpu, op->reg, merge(xmm_get(cpu, op->reg), s));                            \
		return soft_next(cpu, op);                                                         \
	}
LOAD_PART(load_low, low_of_second)
LOAD_PART(load_high, low_low)

#define STORE(name, statement)                                                                     \
	OP(name)                                                                                   \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		statement;                                                                         \
		return soft_next(cpu, op);                                                         \
	}
STORE(store, sse_write(cpu, op, xmm_get(cpu, op->reg)))
STORE(store_any, sse_write_any(cpu, op, xmm_get(cpu, op->reg)))
STORE(store_32, soft_write32(cpu, op, soft_ea(cpu, op), cpu->xmm[op->reg].d[0]))
STORE(store_low, soft_write64(cpu, op, soft_ea(cpu, op), cpu->xmm[op->reg].q[0]))
STORE(store_high, soft_write64(cpu, op, soft_ea(cpu, op), cpu->xmm[op->reg].q[1]))

/* ---- from and to general registers -------------------------------------------------- */

#define TO_XMM(name, value)                                                                        \
	OP(name)                                                                                   \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, value);                                                      \
		return soft_next(cpu, op);                                                         \
	}
TO_XMM(movd_in, low32((uint32_t)cpu->r[op->rm]))
TO_XMM(movq_in, low64(cpu->r[op->rm]))

#define TO_GENERAL(name, to, value)                                                                \
	OP(name)                                                                                   \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		cpu->r[op->to] = (value);                                                          \
		return soft_next(cpu, op);                                                         \
	}
TO_GENERAL(movd_out, rm, cpu->xmm[op->reg].d[0])
TO_GENERAL(movq_out, rm, cpu->xmm[op->reg].q[0])
TO_GENERAL(movmskps, reg, (unsigned)_mm_movemask_ps((__m128)xmm_get(cpu, op->rm)))
TO_GENERAL(movmskpd, reg, (unsigned)_mm_movemask_pd((__m128d)xmm_get(cpu, op->rm)))
TO_GENERAL(pmovmskb, reg, (unsigned)_mm_movemask_epi8(xmm_get(cpu, op->rm)))
TO_GENERAL(pextrw, reg, cpu->xmm[op->rm].w[op->imm & 7])

OP(pinsrw)
{
	sse_check(cpu, op);
	cpu->xmm[op->reg].w[op->imm & 7] = (uint16_t)cpu->r[op->rm];
	return soft_next(cpu, op);
}

OP(pinsrw_mem)
{
	sse_check(cpu, op);
	cpu->xmm[op->reg].w[op->imm & 7] = soft_read16(cpu, op, soft_ea(cpu, op));
	return soft_next(cpu, op);
}

/* ---- with MMX registers ------------------------------------------------------------- */

OP(movq2dq)
{
	sse_check(cpu, op);
	mmx_check(cpu, op);
	mmx_enter(cpu);
	xmm_set(cpu, op->reg, low64(mmx_get(cpu, op->rm)));
	return soft_next(cpu, op);
}

OP(movdq2q)
{
	sse_check(cpu, op);
	mmx_check(cpu, op);
	mmx_enter(cpu);
	mmx_set(cpu, op->reg, cpu->xmm[op->rm].q[0]);
	return soft_next(cpu, op);
}

/* ---- by mask ------------------------------------------------------------------------ */

OP(maskmovdqu)
{
	uint64_t va = soft_ea(cpu, op);
	unsigned mask;

	sse_check(cpu, op);
	mask = (unsigned)_mm_movemask_epi8(xmm_get(cpu, op->rm));
	if (mask)
		sse_mask_check(cpu, op, va, mask);
	for (unsigned n = 0; mask >> n; n++)
		if (mask >> n & 1)
			soft_write8(cpu, op, va + n, cpu->xmm[op->reg].b[n]);
	return soft_next(cpu, op);
}

/* ---- the list ----------------------------------------------------------------------- */

#define LINE(op, pre, r, m, octets, how, width)                                                    \
	{                                                                                          \
		.opcode = (op), .prefix = (pre), .reg = (r), .mem = (m), .size = (octets),         \
		.access = (how), .w = (width), .gate = sse_gate                                    \
	}
#define IN(op, pre, r, m, octets)    LINE(op, pre, r, m, octets, SOFT_READ, W_ANY)
#define OUT(op, pre, r, m, octets)   LINE(op, pre, r, m, octets, SOFT_WRITE, W_ANY)
#define GENERAL(op, r, m, octets, w) LINE(op, P66, r, m, octets, SOFT_READ, w)

static const struct sse_line lines[] = {
	IN(0x10, NP, move, load_any, 16),
	IN(0x10, P66, move, load_any, 16),
	IN(0x10, PF3, move_ss, load_32, 4),
	IN(0x10, PF2, move_sd, load_64, 8),
	OUT(0x11, NP, move_back, store_any, 16),
	OUT(0x11, P66, move_back, store_any, 16),
	OUT(0x11, PF3, move_ss_back, store_32, 4),
	OUT(0x11, PF2, move_sd_back, store_low, 8),
	IN(0x12, NP, movhlps, load_low, 8),
	IN(0x12, P66, NULL, load_low, 8),
	OUT(0x13, NP, NULL, store_low, 8),
	OUT(0x13, P66, NULL, store_low, 8),
	IN(0x16, NP, movlhps, load_high, 8),
	IN(0x16, P66, NULL, load_high, 8),
	OUT(0x17, NP, NULL, store_high, 8),
	OUT(0x17, P66, NULL, store_high, 8),
	IN(0x28, NP, move, load, 16),
	IN(0x28, P66, move, load, 16),
	OUT(0x29, NP, move_back, store, 16),
	OUT(0x29, P66, move_back, store, 16),
	OUT(0x2b, NP, NULL, store, 16),
	OUT(0x2b, P66, NULL, store, 16),
	IN(0x50, NP, movmskps, NULL, 0),
	IN(0x50, P66, movmskpd, NULL, 0),
	GENERAL(0x6e, movd_in, load_32, 4, W0),
	GENERAL(0x6e, movq_in, load_64, 8, W1),
	IN(0x6f, P66, move, load, 16),
	IN(0x6f, PF3, move, load_any, 16),
	LINE(0x7e, P66, movd_out, store_32, 4, SOFT_WRITE, W0),
	LINE(0x7e, P66, movq_out, store_low, 8, SOFT_WRITE, W1),
	IN(0x7e, PF3, move_low, load_64, 8),
	OUT(0x7f, P66, move_back, store, 16),
	OUT(0x7f, PF3, move_back, store_any, 16),
	IN(0xc4, P66, pinsrw, pinsrw_mem, 2),
	IN(0xc5, P66, pextrw, NULL, 0),
	OUT(0xd6, P66, move_low_back, store_low, 8),
	IN(0xd6, PF3, movq2dq, NULL, 0),
	IN(0xd6, PF2, movdq2q, NULL, 0),
	IN(0xd7, P66, pmovmskb, NULL, 0),
	OUT(0xe7, P66, NULL, store, 16),
	OUT(0xf7, P66, NULL, maskmovdqu, 16),
};
const struct sse_lines sse_lines_move = SSE_LINES(lines);

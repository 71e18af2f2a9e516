// SPDX-License-Identifier: Apache-2.0
/*
 * MMX, on the low halves of XMM registers: most instructions do there what they do to MMX
 * registers, so the host's x87 state is never touched.
 */
#include "hypervisor/soft/sse.h"

#define OP(name) static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)

/* ---- two operands ------------------------------------------------------------------- */

/* X(opcode, name, of, bits of the operand in memory) where `of` says how the XMM
 * instruction makes the MMX result. */
#define TWO_OPERANDS(X)                                                                            \
	X(0x60, punpcklbw, same, 32)                                                               \
	X(0x61, punpcklwd, same, 32)                                                               \
	X(0x62, punpckldq, same, 32)                                                               \
	X(0x63, packsswb, packed, 64)                                                              \
	X(0x64, pcmpgtb, same, 64)                                                                 \
	X(0x65, pcmpgtw, same, 64)                                                                 \
	X(0x66, pcmpgtd, same, 64)                                                                 \
	X(0x67, packuswb, packed, 64)                                                              \
	X(0x68, punpckhbw, high, 64)                                                               \
	X(0x69, punpckhwd, high, 64)                                                               \
	X(0x6a, punpckhdq, high, 64)                                                               \
	X(0x6b, packssdw, packed, 64)                                                              \
	X(0x74, pcmpeqb, same, 64)                                                                 \
	X(0x75, pcmpeqw, same, 64)                                                                 \
	X(0x76, pcmpeqd, same, 64)                                                                 \
	X(0xd1, psrlw, same, 64)                                                                   \
	X(0xd2, psrld, same, 64)                                                                   \
	X(0xd3, psrlq, same, 64)                                                                   \
	X(0xd4, paddq, same, 64)                                                                   \
	X(0xd5, pmullw, same, 64)                                                                  \
	X(0xd8, psubusb, same, 64)                                                                 \
	X(0xd9, psubusw, same, 64)                                                                 \
	X(0xda, pminub, same, 64)                                                                  \
	X(0xdb, pand, same, 64)                                                                    \
	X(0xdc, paddusb, same, 64)                                                                 \
	X(0xdd, paddusw, same, 64)                                                                 \
	X(0xde, pmaxub, same, 64)                                                                  \
	X(0xdf, pandn, same, 64)                                                                   \
	X(0xe0, pavgb, same, 64)                                                                   \
	X(0xe1, psraw, same, 64)                                                                   \
	X(0xe2, psrad, same, 64)                                                                   \
	X(0xe3, pavgw, same, 64)                                                                   \
	X(0xe4, pmulhuw, same, 64)                                                                 \
	X(0xe5, pmulhw, same, 64)                                                                  \
	X(0xe8, psubsb, same, 64)                                                                  \
	X(0xe9, psubsw, same, 64)                                                                  \
	X(0xea, pminsw, same, 64)                                                                  \
	X(0xeb, por, same, 64)                                                                     \
	X(0xec, paddsb, same, 64)                                                                  \
	X(0xed, paddsw, same, 64)                                                                  \
	X(0xee, pmaxsw, same, 64)                                                                  \
	X(0xef, pxor, same, 64)                                                                    \
	X(0xf1, psllw, same, 64)                                                                   \
	X(0xf2, pslld, same, 64)                                                                   \
	X(0xf3, psllq, same, 64)                                                                   \
	X(0xf4, pmuludq, same, 64)                                                                 \
	X(0xf5, pmaddwd, same, 64)                                                                 \
	X(0xf6, psadbw, same, 64)                                                                  \
	X(0xf8, psubb, same, 64)                                                                   \
	X(0xf9, psubw, same, 64)                                                                   \
	X(0xfa, psubd, same, 64)                                                                   \
	X(0xfb, psubq, same, 64)                                                                   \
	X(0xfc, paddb, same, 64)                                                                   \
	X(0xfd, paddw, same, 64)                                                                   \
	X(0xfe, paddd, same, 64)

static inline uint64_t same(xmm_fn *f, uint64_t d, uint64_t s)
{
	return low64_of(f(low64(d), low64(s)));
}

/* The destination's elements become the lower half of the result, the source's the upper one. */
static inline uint64_t packed(xmm_fn *f, uint64_t d, uint64_t s)
{
	__m128i both = _mm_set_epi64x((long long)s, (long long)d);

	return low64_of(f(both, both));
}

/* Of what is interleaved, the upper half: with nothing below it, it is alone. */
static inline uint64_t high(xmm_fn *f, uint64_t d, uint64_t s)
{
	return low64_of(f(_mm_set_epi64x((long long)(d >> 32), 0),
			  _mm_set_epi64x((long long)(s >> 32), 0)));
}

#define MMX_READ_64 soft_read64
#define MMX_READ_32 soft_read32

#define FUNCTIONS(opcode, name, of, bits)                                                          \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		__asm__(#name " %1, %0" : "+x"(d) : "x"(s));                                       \
		return d;                                                                          \
	}                                                                                          \
	OP(name)                                                                                   \
	{                                                                                          \
		mmx_check(cpu, op);                                                                \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->reg,                                                              \
			of(name##_xmm, mmx_get(cpu, op->reg), mmx_get(cpu, op->rm)));              \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	OP(name##_mem)                                                                             \
	{                                                                                          \
		uint64_t s;                                                                        \
                                                                                                   \
		mmx_check(cpu, op);                                                                \
		s = MMX_READ_##bits(cpu, op, soft_ea(cpu, op));                                    \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->reg, of(name##_xmm, mmx_get(cpu, op->reg), s));                   \
		return soft_next(cpu, op);                                                         \
	}
TWO_OPERANDS(FUNCTIONS)

/* ---- by an immediate ---------------------------------------------------------------- */

/* X(opcode, digit, name): shifts of rm */
#define SHIFTS(X)                                                                                  \
	X(0x71, 2, psrlw)                                                                          \
	X(0x71, 4, psraw)                                                                          \
	X(0x71, 6, psllw)                                                                          \
	X(0x72, 2, psrld)                                                                          \
	X(0x72, 4, psrad)                                                                          \
	X(0x72, 6, pslld)                                                                          \
	X(0x73, 2, psrlq)                                                                          \
	X(0x73, 6, psllq)

#define SHIFT_FUNCTION(opcode, digit, name)                                                        \
	OP(name##_imm)                                                                             \
	{                                                                                          \
		mmx_check(cpu, op);                                                                \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->rm, same(name##_xmm, mmx_get(cpu, op->rm), op->imm & 0xff));      \
		return soft_next(cpu, op);                                                         \
	}
SHIFTS(SHIFT_FUNCTION)

/* ---- moves -------------------------------------------------------------------------- */

/* `s` is read, which may fault, before anything changes. */
#define TO_MMX(name, value)                                                                        \
	OP(name)                                                                                   \
	{                                                                                          \
		uint64_t s;                                                                        \
                                                                                                   \
		mmx_check(cpu, op);                                                                \
		s = (value);                                                                       \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->reg, s);                                                          \
		return soft_next(cpu, op);                                                         \
	}
TO_MMX(movd_in, (uint32_t)cpu->r[op->rm])
TO_MMX(movq_in, cpu->r[op->rm])
TO_MMX(load_32, soft_read32(cpu, op, soft_ea(cpu, op)))
TO_MMX(load, soft_read64(cpu, op, soft_ea(cpu, op)))
TO_MMX(move, mmx_get(cpu, op->rm))
TO_MMX(pshufw, sse_words(mmx_get(cpu, op->rm), (unsigned)op->imm))
TO_MMX(pshufw_mem, sse_words(soft_read64(cpu, op, soft_ea(cpu, op)), (unsigned)op->imm))

static inline uint64_t word_replaced(uint64_t q, unsigned n, uint16_t v)
{
	unsigned shift = 16 * (n & 3);

	return (q & ~(UINT64_C(0xffff) << shift)) | (uint64_t)v << shift;
}
TO_MMX(pinsrw, word_replaced(mmx_get(cpu, op->reg), (unsigned)op->imm, (uint16_t)cpu->r[op->rm]))
TO_MMX(pinsrw_mem, word_replaced(mmx_get(cpu, op->reg), (unsigned)op->imm,
				 soft_read16(cpu, op, soft_ea(cpu, op))))

#define FROM_MMX(name, statement)                                                                  \
	OP(name)                                                                                   \
	{                                                                                          \
		mmx_check(cpu, op);                                                                \
		statement;                                                                         \
		mmx_enter(cpu);                                                                    \
		return soft_next(cpu, op);                                                         \
	}
FROM_MMX(movd_out, cpu->r[op->rm] = (uint32_t)mmx_get(cpu, op->reg))
FROM_MMX(movq_out, cpu->r[op->rm] = mmx_get(cpu, op->reg))
FROM_MMX(store_32, soft_write32(cpu, op, soft_ea(cpu, op), (uint32_t)mmx_get(cpu, op->reg)))
FROM_MMX(store, soft_write64(cpu, op, soft_ea(cpu, op), mmx_get(cpu, op->reg)))
FROM_MMX(move_back, mmx_set(cpu, op->rm, mmx_get(cpu, op->reg)))
FROM_MMX(pextrw, cpu->r[op->reg] = mmx_get(cpu, op->rm) >> 16 * (op->imm & 3) & 0xffff)
FROM_MMX(pmovmskb,
	 cpu->r[op->reg] = (unsigned)_mm_movemask_epi8(low64(mmx_get(cpu, op->rm))) & 0xff)

OP(maskmovq)
{
	uint64_t va = soft_ea(cpu, op), v = mmx_get(cpu, op->reg);
	unsigned mask = (unsigned)_mm_movemask_epi8(low64(mmx_get(cpu, op->rm))) & 0xff;

	mmx_check(cpu, op);
	if (mask)
		sse_mask_check(cpu, op, va, mask);
	for (unsigned n = 0; mask >> n; n++)
		if (mask >> n & 1)
			soft_write8(cpu, op, va + n, (uint8_t)(v >> 8 * n));
	mmx_enter(cpu);
	return soft_next(cpu, op);
}

OP(emms)
{
	mmx_check(cpu, op);
	mmx_enter(cpu);
	cpu->x87.used = 0;
	return soft_next(cpu, op);
}

/* ---- conversions: MMX instructions also where they raise #XM --------------------------- */

#define HOST(name)                                                                                 \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		__asm__ volatile(#name " %1, %0" : "+x"(d) : "x"(s));                              \
		return d;                                                                          \
	}
HOST(cvtdq2ps)
HOST(cvtdq2pd)
HOST(cvtps2dq)
HOST(cvttps2dq)
HOST(cvtpd2dq)
HOST(cvttpd2dq)

/* Numbers that are not there are 0, and are converted without a flag. */
static inline __m128i cvtpi2ps_xmm(__m128i d, __m128i s)
{
	return (__m128i)_mm_move_sd((__m128d)d, (__m128d)cvtdq2ps_xmm(d, s));
}

/* X(opcode, prefix, name, function, value from memory) */
#define TO_FLOAT(X)                                                                                \
	X(0x2a, NP, cvtpi2ps, cvtpi2ps_xmm)                                                        \
	X(0x2a, P66, cvtpi2pd, cvtdq2pd_xmm)

#define TO_FLOAT_FUNCTIONS(opcode, prefix, name, function)                                         \
	OP(name)                                                                                   \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = low64(mmx_get(cpu, op->rm));                \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		mmx_check(cpu, op);                                                                \
		mmx_enter(cpu);                                                                    \
		xmm_set(cpu, op->reg, sse_float(cpu, op, function, d, s));                         \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	OP(name##_mem)                                                                             \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s;                                              \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = sse_read_low64(cpu, op);                                                       \
		xmm_set(cpu, op->reg, sse_float(cpu, op, function, d, s));                         \
		return soft_next(cpu, op);                                                         \
	}
TO_FLOAT(TO_FLOAT_FUNCTIONS)

/* X(opcode, prefix, name, function, bits of the operand in memory) */
#define FROM_FLOAT(X)                                                                              \
	X(0x2c, NP, cvttps2pi, cvttps2dq_xmm, 64)                                                  \
	X(0x2c, P66, cvttpd2pi, cvttpd2dq_xmm, 128)                                                \
	X(0x2d, NP, cvtps2pi, cvtps2dq_xmm, 64)                                                    \
	X(0x2d, P66, cvtpd2pi, cvtpd2dq_xmm, 128)

#define VALUE_64(v)  _mm_move_epi64(v)
#define VALUE_128(v) (v)
#define FROM_FLOAT_FUNCTIONS(opcode, prefix, name, function, bits)                                 \
	OP(name)                                                                                   \
	{                                                                                          \
		__m128i s = VALUE_##bits(xmm_get(cpu, op->rm));                                    \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		mmx_check(cpu, op);                                                                \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->reg, low64_of(sse_float(cpu, op, function, s, s)));               \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	OP(name##_mem)                                                                             \
	{                                                                                          \
		__m128i s;                                                                         \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		mmx_check(cpu, op);                                                                \
		s = SSE_READ_##bits(cpu, op);                                                      \
		mmx_enter(cpu);                                                                    \
		mmx_set(cpu, op->reg, low64_of(sse_float(cpu, op, function, s, s)));               \
		return soft_next(cpu, op);                                                         \
	}
FROM_FLOAT(FROM_FLOAT_FUNCTIONS)

static struct soft_op *both_gate(struct soft_cpu *cpu, struct soft_op *op)
{
	sse_check(cpu, op);
	mmx_check(cpu, op);
	return soft_next(cpu, op);
}

/* ---- the list ----------------------------------------------------------------------- */

#define LINE(op, pre, r, m, octets, how, width, check)                                             \
	{                                                                                          \
		.opcode = (op), .prefix = (pre), .reg = (r), .mem = (m), .size = (octets),         \
		.access = (how), .w = (width), .gate = (check)                                     \
	}
#define LINE_TWO(op, name, of, bits)                                                               \
	LINE(op, NP, name, name##_mem, (bits) / 8, SOFT_READ, W_ANY, mmx_gate),
#define LINE_SHIFT(op, n, name)                                                                    \
	{.opcode = (op), .digit = (n) + 1, .reg = name##_imm, .gate = mmx_gate},
#define LINE_TO_FLOAT(op, pre, name, function)                                                     \
	LINE(op, pre, name, name##_mem, 8, SOFT_READ, W_ANY, sse_gate),
#define LINE_FROM_FLOAT(op, pre, name, function, bits)                                             \
	LINE(op, pre, name, name##_mem, (bits) / 8, SOFT_READ, W_ANY, both_gate),
#define IN(op, r, m, octets, w)  LINE(op, NP, r, m, octets, SOFT_READ, w, mmx_gate)
#define OUT(op, r, m, octets, w) LINE(op, NP, r, m, octets, SOFT_WRITE, w, mmx_gate)

static const struct sse_line lines[] = {
	TWO_OPERANDS(LINE_TWO) SHIFTS(LINE_SHIFT) TO_FLOAT(LINE_TO_FLOAT)
		FROM_FLOAT(LINE_FROM_FLOAT) IN(0x6e, movd_in, load_32, 4, W0),
	IN(0x6e, movq_in, load, 8, W1),
	IN(0x6f, move, load, 8, W_ANY),
	IN(0x70, pshufw, pshufw_mem, 8, W_ANY),
	IN(0x77, emms, NULL, 0, W_ANY),
	OUT(0x7e, movd_out, store_32, 4, W0),
	OUT(0x7e, movq_out, store, 8, W1),
	OUT(0x7f, move_back, store, 8, W_ANY),
	IN(0xc4, pinsrw, pinsrw_mem, 2, W_ANY),
	IN(0xc5, pextrw, NULL, 0, W_ANY),
	IN(0xd7, pmovmskb, NULL, 0, W_ANY),
	OUT(0xe7, NULL, store, 8, W_ANY),
	OUT(0xf7, NULL, maskmovq, 8, W_ANY),
};
const struct sse_lines sse_lines_mmx = SSE_LINES(lines);

// SPDX-License-Identifier: Apache-2.0
/* Integer operations on XMM registers, and the bitwise ones that are named after numbers. */
#include "hypervisor/soft/sse.h"

/* X(opcode, prefix, name): XMM register, XMM register or aligned memory. */
#define TWO_OPERANDS(X)                                                                            \
	X(0x14, NP, unpcklps)                                                                      \
	X(0x14, P66, unpcklpd)                                                                     \
	X(0x15, NP, unpckhps)                                                                      \
	X(0x15, P66, unpckhpd)                                                                     \
	X(0x54, NP, andps)                                                                         \
	X(0x54, P66, andpd)                                                                        \
	X(0x55, NP, andnps)                                                                        \
	X(0x55, P66, andnpd)                                                                       \
	X(0x56, NP, orps)                                                                          \
	X(0x56, P66, orpd)                                                                         \
	X(0x57, NP, xorps)                                                                         \
	X(0x57, P66, xorpd)                                                                        \
	X(0x60, P66, punpcklbw)                                                                    \
	X(0x61, P66, punpcklwd)                                                                    \
	X(0x62, P66, punpckldq)                                                                    \
	X(0x63, P66, packsswb)                                                                     \
	X(0x64, P66, pcmpgtb)                                                                      \
	X(0x65, P66, pcmpgtw)                                                                      \
	X(0x66, P66, pcmpgtd)                                                                      \
	X(0x67, P66, packuswb)                                                                     \
	X(0x68, P66, punpckhbw)                                                                    \
	X(0x69, P66, punpckhwd)                                                                    \
	X(0x6a, P66, punpckhdq)                                                                    \
	X(0x6b, P66, packssdw)                                                                     \
	X(0x6c, P66, punpcklqdq)                                                                   \
	X(0x6d, P66, punpckhqdq)                                                                   \
	X(0x74, P66, pcmpeqb)                                                                      \
	X(0x75, P66, pcmpeqw)                                                                      \
	X(0x76, P66, pcmpeqd)                                                                      \
	X(0xd1, P66, psrlw)                                                                        \
	X(0xd2, P66, psrld)                                                                        \
	X(0xd3, P66, psrlq)                                                                        \
	X(0xd4, P66, paddq)                                                                        \
	X(0xd5, P66, pmullw)                                                                       \
	X(0xd8, P66, psubusb)                                                                      \
	X(0xd9, P66, psubusw)                                                                      \
	X(0xda, P66, pminub)                                                                       \
	X(0xdb, P66, pand)                                                                         \
	X(0xdc, P66, paddusb)                                                                      \
	X(0xdd, P66, paddusw)                                                                      \
	X(0xde, P66, pmaxub)                                                                       \
	X(0xdf, P66, pandn)                                                                        \
	X(0xe0, P66, pavgb)                                                                        \
	X(0xe1, P66, psraw)                                                                        \
	X(0xe2, P66, psrad)                                                                        \
	X(0xe3, P66, pavgw)                                                                        \
	X(0xe4, P66, pmulhuw)                                                                      \
	X(0xe5, P66, pmulhw)                                                                       \
	X(0xe8, P66, psubsb)                                                                       \
	X(0xe9, P66, psubsw)                                                                       \
	X(0xea, P66, pminsw)                                                                       \
	X(0xeb, P66, por)                                                                          \
	X(0xec, P66, paddsb)                                                                       \
	X(0xed, P66, paddsw)                                                                       \
	X(0xee, P66, pmaxsw)                                                                       \
	X(0xef, P66, pxor)                                                                         \
	X(0xf1, P66, psllw)                                                                        \
	X(0xf2, P66, pslld)                                                                        \
	X(0xf3, P66, psllq)                                                                        \
	X(0xf4, P66, pmuludq)                                                                      \
	X(0xf5, P66, pmaddwd)                                                                      \
	X(0xf6, P66, psadbw)                                                                       \
	X(0xf8, P66, psubb)                                                                        \
	X(0xf9, P66, psubw)                                                                        \
	X(0xfa, P66, psubd)                                                                        \
	X(0xfb, P66, psubq)                                                                        \
	X(0xfc, P66, paddb)                                                                        \
	X(0xfd, P66, paddw)                                                                        \
	X(0xfe, P66, paddd)

#define FUNCTIONS(opcode, prefix, name)                                                            \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		__asm__(#name " %1, %0" : "+x"(d) : "x"(s));                                       \
		return d;                                                                          \
	}                                                                                          \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, name##_xmm(xmm_get(cpu, op->reg), xmm_get(cpu, op->rm)));    \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *name##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i s;                                                                         \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = sse_read(cpu, op);                                                             \
		xmm_set(cpu, op->reg, name##_xmm(xmm_get(cpu, op->reg), s));                       \
		return soft_next(cpu, op);                                                         \
	}
TWO_OPERANDS(FUNCTIONS)

/* ---- shifts by an immediate: of rm -------------------------------------------------- */

static inline __m128i psrldq_xmm(__m128i d, __m128i s)
{
	unsigned n = low32_of(s);

	return n > 15 ? _mm_setzero_si128() : (__m128i)((unsigned __int128)d >> 8 * n);
}

static inline __m128i pslldq_xmm(__m128i d, __m128i s)
{
	unsigned n = low32_of(s);

	return n > 15 ? _mm_setzero_si128() : (__m128i)((unsigned __int128)d << 8 * n);
}

/* X(opcode, digit, name) */
#define SHIFTS(X)                                                                                  \
	X(0x71, 2, psrlw)                                                                          \
	X(0x71, 4, psraw)                                                                          \
	X(0x71, 6, psllw)                                                                          \
	X(0x72, 2, psrld)                                                                          \
	X(0x72, 4, psrad)                                                                          \
	X(0x72, 6, pslld)                                                                          \
	X(0x73, 2, psrlq)                                                                          \
	X(0x73, 3, psrldq)                                                                         \
	X(0x73, 6, psllq)                                                                          \
	X(0x73, 7, pslldq)

#define SHIFT_FUNCTION(opcode, digit, name)                                                        \
	static struct soft_op *name##_imm(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->rm, name##_xmm(xmm_get(cpu, op->rm), low64(op->imm & 0xff)));     \
		return soft_next(cpu, op);                                                         \
	}
SHIFTS(SHIFT_FUNCTION)

/* ---- shuffles: by fields of the immediate ------------------------------------------- */

static inline int dword(__m128i v, unsigned n)
{
	return (int)(uint32_t)((unsigned __int128)v >> 32 * (n & 3));
}

static inline __m128i pshufd_xmm(__m128i d, __m128i s, unsigned imm)
{
	(void)d;
	return _mm_set_epi32(dword(s, imm >> 6), dword(s, imm >> 4), dword(s, imm >> 2),
			     dword(s, imm));
}

static inline __m128i pshuflw_xmm(__m128i d, __m128i s, unsigned imm)
{
	(void)d;
	return (__m128i)_mm_move_sd((__m128d)s, (__m128d)low64(sse_words(low64_of(s), imm)));
}

static inline __m128i pshufhw_xmm(__m128i d, __m128i s, unsigned imm)
{
	uint64_t high = low64_of(_mm_unpackhi_epi64(s, s));

	(void)d;
	return _mm_unpacklo_epi64(s, low64(sse_words(high, imm)));
}

static inline __m128i shufps_xmm(__m128i d, __m128i s, unsigned imm)
{
	return _mm_set_epi32(dword(s, imm >> 6), dword(s, imm >> 4), dword(d, imm >> 2),
			     dword(d, imm));
}

static inline __m128i shufpd_xmm(__m128i d, __m128i s, unsigned imm)
{
	__m128i low = imm & 1 ? _mm_unpackhi_epi64(d, d) : d;

	return _mm_unpacklo_epi64(low, imm & 2 ? _mm_unpackhi_epi64(s, s) : s);
}

/* X(opcode, prefix, name) */
#define SHUFFLES(X)                                                                                \
	X(0x70, P66, pshufd)                                                                       \
	X(0x70, PF3, pshufhw)                                                                      \
	X(0x70, PF2, pshuflw)                                                                      \
	X(0xc6, NP, shufps)                                                                        \
	X(0xc6, P66, shufpd)

#define SHUFFLE_FUNCTIONS(opcode, prefix, name)                                                    \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = xmm_get(cpu, op->rm);                       \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, name##_xmm(d, s, (unsigned)op->imm));                        \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *name##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s;                                              \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = sse_read(cpu, op);                                                             \
		xmm_set(cpu, op->reg, name##_xmm(d, s, (unsigned)op->imm));                        \
		return soft_next(cpu, op);                                                         \
	}
SHUFFLES(SHUFFLE_FUNCTIONS)

/* ---- the list ----------------------------------------------------------------------- */

#define LINE(op, pre, name)                                                                        \
	{.opcode = (op),                                                                           \
	 .prefix = (pre),                                                                          \
	 .reg = (name),                                                                            \
	 .mem = name##_mem,                                                                        \
	 .size = 16,                                                                               \
	 .gate = sse_gate},
#define SHIFT_LINE(op, n, name)                                                                    \
	{.opcode = (op), .prefix = P66, .digit = (n) + 1, .reg = name##_imm, .gate = sse_gate},

static const struct sse_line lines[] = {TWO_OPERANDS(LINE) SHUFFLES(LINE) SHIFTS(SHIFT_LINE)};
const struct sse_lines sse_lines_int = SSE_LINES(lines);

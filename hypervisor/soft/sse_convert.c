// SPDX-License-Identifier: Apache-2.0
/* Between floating point and general registers: conversions and comparisons that set flags. */
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/sse.h"

/* ---- from general registers --------------------------------------------------------- */

/* X(opcode, prefix, name, bits, w) */
#define FROM_GENERAL(X)                                                                            \
	X(0x2a, PF3, cvtsi2ssl, 32, W0)                                                            \
	X(0x2a, PF3, cvtsi2ssq, 64, W1)                                                            \
	X(0x2a, PF2, cvtsi2sdl, 32, W0)                                                            \
	X(0x2a, PF2, cvtsi2sdq, 64, W1)

#define FROM_GENERAL_FUNCTIONS(opcode, prefix, name, bits, w)                                      \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		__asm__ volatile(#name " %1, %0" : "+x"(d) : "r"((uint##bits##_t)low64_of(s)));    \
		return d;                                                                          \
	}                                                                                          \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = low64(cpu->r[op->rm]);                      \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, sse_float(cpu, op, name##_xmm, d, s));                       \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *name##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s;                                              \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = SSE_READ_##bits(cpu, op);                                                      \
		xmm_set(cpu, op->reg, sse_float(cpu, op, name##_xmm, d, s));                       \
		return soft_next(cpu, op);                                                         \
	}
FROM_GENERAL(FROM_GENERAL_FUNCTIONS)

/* ---- to general registers ----------------------------------------------------------- */

/* X(opcode, prefix, name, bits of the value, of the integer, w). Without the suffix gcc 12 takes
 * the functions of both sizes for one and the same. */
#define TO_GENERAL(X)                                                                              \
	X(0x2c, PF3, cvttss2sil, 32, 32, W0)                                                       \
	X(0x2c, PF3, cvttss2siq, 32, 64, W1)                                                       \
	X(0x2c, PF2, cvttsd2sil, 64, 32, W0)                                                       \
	X(0x2c, PF2, cvttsd2siq, 64, 64, W1)                                                       \
	X(0x2d, PF3, cvtss2sil, 32, 32, W0)                                                        \
	X(0x2d, PF3, cvtss2siq, 32, 64, W1)                                                        \
	X(0x2d, PF2, cvtsd2sil, 64, 32, W0)                                                        \
	X(0x2d, PF2, cvtsd2siq, 64, 64, W1)

#define TO_GENERAL_FUNCTIONS(opcode, prefix, name, bits, integer, w)                               \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		uint##integer##_t v;                                                               \
                                                                                                   \
		(void)d;                                                                           \
		__asm__ volatile(#name " %1, %0" : "=r"(v) : "x"(s));                              \
		return low64(v);                                                                   \
	}                                                                                          \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i s = xmm_get(cpu, op->rm);                                                  \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		cpu->r[op->reg] = low64_of(sse_float(cpu, op, name##_xmm, s, s));                  \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *name##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i s;                                                                         \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = SSE_READ_##bits(cpu, op);                                                      \
		cpu->r[op->reg] = low64_of(sse_float(cpu, op, name##_xmm, s, s));                  \
		return soft_next(cpu, op);                                                         \
	}
TO_GENERAL(TO_GENERAL_FUNCTIONS)

/* ---- comparisons -------------------------------------------------------------------- */

/* X(opcode, prefix, name, bits) */
#define COMPARISONS(X)                                                                             \
	X(0x2e, NP, ucomiss, 32)                                                                   \
	X(0x2e, P66, ucomisd, 64)                                                                  \
	X(0x2f, NP, comiss, 32)                                                                    \
	X(0x2f, P66, comisd, 64)

#define COMPARISON_FUNCTIONS(opcode, prefix, name, bits)                                           \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		bool zf, pf, cf;                                                                   \
                                                                                                   \
		__asm__ volatile(#name " %4, %3"                                                   \
				 : "=@ccz"(zf), "=@ccp"(pf), "=@ccc"(cf)                           \
				 : "x"(d), "x"(s));                                                \
		return low32((zf ? FLAG_ZF : 0) | (pf ? FLAG_PF : 0) | (cf ? FLAG_CF : 0));        \
	}                                                                                          \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = xmm_get(cpu, op->rm);                       \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		fl_set(cpu, low32_of(sse_float(cpu, op, name##_xmm, d, s)));                       \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *name##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s;                                              \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = SSE_READ_##bits(cpu, op);                                                      \
		fl_set(cpu, low32_of(sse_float(cpu, op, name##_xmm, d, s)));                       \
		return soft_next(cpu, op);                                                         \
	}
COMPARISONS(COMPARISON_FUNCTIONS)

#define LINE(op, pre, name, bits, width)                                                           \
	{.opcode = (op),                                                                           \
	 .prefix = (pre),                                                                          \
	 .reg = (name),                                                                            \
	 .mem = name##_mem,                                                                        \
	 .size = (bits) / 8,                                                                       \
	 .w = (width),                                                                             \
	 .gate = sse_gate},
#define LINE_TO_GENERAL(op, pre, name, bits, integer, w) LINE(op, pre, name, bits, w)
#define LINE_COMPARISON(op, pre, name, bits)             LINE(op, pre, name, bits, W_ANY)

static const struct sse_line lines[] = {FROM_GENERAL(LINE) TO_GENERAL(LINE_TO_GENERAL)
						COMPARISONS(LINE_COMPARISON)};
const struct sse_lines sse_lines_convert = SSE_LINES(lines);

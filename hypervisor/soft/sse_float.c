// SPDX-License-Identifier: Apache-2.0
/*
 * Arithmetic on floating point values, under the guest's MXCSR.
 *
 * The host computes with all exceptions masked. What a guest that unmasked some would see
 * follows from the flags: Intel SDM volume 1, section 11.5. One thing does not: PE beside an
 * overflow or underflow that is raised, which is set here whether or not the result would be
 * exact if its exponent had no bounds.
 */
#include "hypervisor/soft/sse.h"

#define MXCSR_IE  1u
#define MXCSR_DE  2u
#define MXCSR_ZE  4u
#define MXCSR_UE  16u
#define MXCSR_FTZ 0x8000u
/* Found before anything is computed: then there is no result to overflow. */
#define MXCSR_BEFORE (MXCSR_IE | MXCSR_DE | MXCSR_ZE)

static inline void mxcsr_write(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

/* Nothing in between may compute with the host's floating point. */
static __m128i run_under(struct soft_cpu *cpu, uint32_t mxcsr, xmm_fn *f, __m128i d, __m128i s,
			 unsigned *flags)
{
	uint32_t host = mxcsr_read(cpu);
	__m128i r;

	mxcsr_write(mxcsr);
	r = f(d, s);
	*flags = mxcsr_read(cpu) & MXCSR_FLAGS;
	mxcsr_write(host & ~MXCSR_FLAGS);
	return r;
}

__attribute__((noinline)) __m128i sse_float_slow(struct soft_cpu *cpu, struct soft_op *op,
						 xmm_fn *f, __m128i d, __m128i s)
{
	unsigned unmasked = ~cpu->mxcsr >> 7 & MXCSR_FLAGS, flags, tiny = 0;
	uint32_t control = (cpu->mxcsr & ~MXCSR_FLAGS) | MXCSR_DEFAULT;
	__m128i r;

	/* Unmasked, underflow is any tiny result, also an exact one; to flush tiny results
	 * shows them. FTZ itself acts on masked underflow only. */
	if (unmasked & MXCSR_UE) {
		run_under(cpu, control | MXCSR_FTZ, f, d, s, &tiny);
		control &= ~MXCSR_FTZ;
	}
	r = run_under(cpu, control, f, d, s, &flags);
	flags |= tiny & MXCSR_UE;
	if (flags & unmasked & MXCSR_BEFORE)
		flags &= MXCSR_BEFORE;
	cpu->mxcsr |= flags;
	if (flags & unmasked)
		soft_raise(cpu, op, cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
	return r;
}

/* X(opcode, prefix, name, bits of the operand in memory) */
#define ARITHMETIC(X)                                                                              \
	X(0x51, NP, sqrtps, 128)                                                                   \
	X(0x51, P66, sqrtpd, 128)                                                                  \
	X(0x51, PF3, sqrtss, 32)                                                                   \
	X(0x51, PF2, sqrtsd, 64)                                                                   \
	X(0x52, NP, rsqrtps, 128)                                                                  \
	X(0x52, PF3, rsqrtss, 32)                                                                  \
	X(0x53, NP, rcpps, 128)                                                                    \
	X(0x53, PF3, rcpss, 32)                                                                    \
	X(0x58, NP, addps, 128)                                                                    \
	X(0x58, P66, addpd, 128)                                                                   \
	X(0x58, PF3, addss, 32)                                                                    \
	X(0x58, PF2, addsd, 64)                                                                    \
	X(0x59, NP, mulps, 128)                                                                    \
	X(0x59, P66, mulpd, 128)                                                                   \
	X(0x59, PF3, mulss, 32)                                                                    \
	X(0x59, PF2, mulsd, 64)                                                                    \
	X(0x5c, NP, subps, 128)                                                                    \
	X(0x5c, P66, subpd, 128)                                                                   \
	X(0x5c, PF3, subss, 32)                                                                    \
	X(0x5c, PF2, subsd, 64)                                                                    \
	X(0x5d, NP, minps, 128)                                                                    \
	X(0x5d, P66, minpd, 128)                                                                   \
	X(0x5d, PF3, minss, 32)                                                                    \
	X(0x5d, PF2, minsd, 64)                                                                    \
	X(0x5e, NP, divps, 128)                                                                    \
	X(0x5e, P66, divpd, 128)                                                                   \
	X(0x5e, PF3, divss, 32)                                                                    \
	X(0x5e, PF2, divsd, 64)                                                                    \
	X(0x5f, NP, maxps, 128)                                                                    \
	X(0x5f, P66, maxpd, 128)                                                                   \
	X(0x5f, PF3, maxss, 32)                                                                    \
	X(0x5f, PF2, maxsd, 64)                                                                    \
	X(0x5a, NP, cvtps2pd, 64)                                                                  \
	X(0x5a, P66, cvtpd2ps, 128)                                                                \
	X(0x5a, PF3, cvtss2sd, 32)                                                                 \
	X(0x5a, PF2, cvtsd2ss, 64)                                                                 \
	X(0x5b, NP, cvtdq2ps, 128)                                                                 \
	X(0x5b, P66, cvtps2dq, 128)                                                                \
	X(0x5b, PF3, cvttps2dq, 128)                                                               \
	X(0xe6, PF3, cvtdq2pd, 64)                                                                 \
	X(0xe6, P66, cvttpd2dq, 128)                                                               \
	X(0xe6, PF2, cvtpd2dq, 128)

#define FUNCTIONS(opcode, prefix, name, bits)                                                      \
	static inline __m128i name##_xmm(__m128i d, __m128i s)                                     \
	{                                                                                          \
		__asm__ volatile(#name " %1, %0" : "+x"(d) : "x"(s));                              \
		return d;                                                                          \
	}                                                                                          \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = xmm_get(cpu, op->rm);                       \
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
ARITHMETIC(FUNCTIONS)

/* ---- comparisons that make masks: by the low three bits of the immediate ------------ */

#define PREDICATE(predicate, type)                                                                 \
	static __m128i cmp##predicate##type(__m128i d, __m128i s)                                  \
	{                                                                                          \
		__asm__ volatile("cmp" #predicate #type " %1, %0" : "+x"(d) : "x"(s));             \
		return d;                                                                          \
	}
#define PREDICATES(type)                                                                           \
	PREDICATE(eq, type)                                                                        \
	PREDICATE(lt, type)                                                                        \
	PREDICATE(le, type)                                                                        \
	PREDICATE(unord, type)                                                                     \
	PREDICATE(neq, type)                                                                       \
	PREDICATE(nlt, type)                                                                       \
	PREDICATE(nle, type)                                                                       \
	PREDICATE(ord, type)                                                                       \
	static xmm_fn *const cmp_##type[8] = {                                                     \
		cmpeq##type,  cmplt##type,  cmple##type,  cmpunord##type,                          \
		cmpneq##type, cmpnlt##type, cmpnle##type, cmpord##type,                            \
	};

/* X(opcode, prefix, name, bits) */
#define COMPARISONS(X)                                                                             \
	X(0xc2, NP, ps, 128)                                                                       \
	X(0xc2, P66, pd, 128)                                                                      \
	X(0xc2, PF3, ss, 32)                                                                       \
	X(0xc2, PF2, sd, 64)

#define COMPARISON_FUNCTIONS(opcode, prefix, type, bits)                                           \
	PREDICATES(type)                                                                           \
	static struct soft_op *type(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s = xmm_get(cpu, op->rm);                       \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		xmm_set(cpu, op->reg, sse_float(cpu, op, cmp_##type[op->imm & 7], d, s));          \
		return soft_next(cpu, op);                                                         \
	}                                                                                          \
	static struct soft_op *type##_mem(struct soft_cpu *cpu, struct soft_op *op)                \
	{                                                                                          \
		__m128i d = xmm_get(cpu, op->reg), s;                                              \
                                                                                                   \
		sse_check(cpu, op);                                                                \
		s = SSE_READ_##bits(cpu, op);                                                      \
		xmm_set(cpu, op->reg, sse_float(cpu, op, cmp_##type[op->imm & 7], d, s));          \
		return soft_next(cpu, op);                                                         \
	}
COMPARISONS(COMPARISON_FUNCTIONS)

#define LINE(op, pre, name, bits)                                                                  \
	{.opcode = (op),                                                                           \
	 .prefix = (pre),                                                                          \
	 .reg = (name),                                                                            \
	 .mem = name##_mem,                                                                        \
	 .size = (bits) / 8,                                                                       \
	 .gate = sse_gate},

static const struct sse_line lines[] = {ARITHMETIC(LINE) COMPARISONS(LINE)};
const struct sse_lines sse_lines_float = SSE_LINES(lines);

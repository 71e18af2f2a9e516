// SPDX-License-Identifier: Apache-2.0
/*
 * MMX, SSE and SSE2. The host has each of these instructions, so an operation runs the very
 * instruction on the guest's operands: the lists in sse_*.c and mmx.c have one line for
 * each. Private to these files.
 *
 * Operations pass vectors by value: a local variable whose address is known elsewhere
 * would keep their last call from becoming a jump (see SOFT_CALL).
 *
 * In struct soft_op, reg and rm are numbers of registers, not REG().
 */
#ifndef POLLUX_HYPERVISOR_SOFT_SSE_H
#define POLLUX_HYPERVISOR_SOFT_SSE_H

#include <emmintrin.h>

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/fpu.h"
#include "hypervisor/soft/mmu.h"

/* Mandatory prefix: F2 and F3 count before 66. */
enum sse_prefix { NP, P66, PF3, PF2 };
enum sse_w { W_ANY, W0, W1 };

struct sse_line {
	soft_fn *reg, *mem; /* NULL: there is no such form */
	soft_fn *gate;      /* the check that the instruction begins with */
	uint8_t opcode, prefix, w;
	uint8_t digit;  /* ModRM.reg + 1; 0: any */
	uint16_t size;  /* of the memory operand */
	uint8_t access; /* enum soft_access */
};
struct sse_lines {
	const struct sse_line *line;
	unsigned count;
};
extern const struct sse_lines sse_lines_move, sse_lines_int, sse_lines_float, sse_lines_convert,
	sse_lines_state, sse_lines_mmx;
#define SSE_LINES(array)                                                                           \
	{                                                                                          \
		array, sizeof(array) / sizeof((array)[0])                                          \
	}

/* ---- what every instruction checks first -------------------------------------------- */

noreturn void sse_trap(struct soft_cpu *cpu, struct soft_op *op);
noreturn void mmx_trap(struct soft_cpu *cpu, struct soft_op *op);
soft_fn sse_gate, mmx_gate, fxsave_gate;

static inline void sse_check(struct soft_cpu *cpu, struct soft_op *op)
{
	if (UNLIKELY((cpu->cr0 & (CR0_EM | CR0_TS)) | (~cpu->cr4 & CR4_OSFXSR)))
		sse_trap(cpu, op);
}

#define X87_ES  0x80
#define X87_TOP 0x3800

static inline void mmx_check(struct soft_cpu *cpu, struct soft_op *op)
{
	if (UNLIKELY((cpu->cr0 & (CR0_EM | CR0_TS)) | (cpu->x87.status & X87_ES)))
		mmx_trap(cpu, op);
}

/* ---- registers ---------------------------------------------------------------------- */

static inline __m128i xmm_get(const struct soft_cpu *cpu, unsigned n)
{
	return _mm_load_si128((const __m128i *)&cpu->xmm[n]);
}
static inline void xmm_set(struct soft_cpu *cpu, unsigned n, __m128i v)
{
	_mm_store_si128((__m128i *)&cpu->xmm[n], v);
}
static inline __m128i low64(uint64_t v)
{
	return _mm_cvtsi64_si128((long long)v);
}
static inline __m128i low32(uint32_t v)
{
	return _mm_cvtsi32_si128((int)v);
}
static inline uint64_t low64_of(__m128i v)
{
	return (uint64_t)_mm_cvtsi128_si64(v);
}
static inline uint32_t low32_of(__m128i v)
{
	return (uint32_t)_mm_cvtsi128_si32(v);
}

/* Four words of a quadword, each chosen by two bits of the immediate. */
static inline uint64_t sse_words(uint64_t q, unsigned imm)
{
	uint64_t r = 0;

	for (unsigned n = 0; n < 4; n++)
		r |= (q >> 16 * (imm >> 2 * n & 3) & 0xffff) << 16 * n;
	return r;
}

/* An MMX instruction makes all x87 registers valid; called once nothing can fault. The number of an
 * MMX register is that of an x87 register's place; REX does not extend it. */
static inline void mmx_enter(struct soft_cpu *cpu)
{
	cpu->x87.status &= (uint16_t)~X87_TOP;
	cpu->x87.used = 0xff;
}
static inline uint64_t mmx_get(const struct soft_cpu *cpu, unsigned n)
{
	return cpu->x87.st[n & 7].mantissa;
}
static inline void mmx_set(struct soft_cpu *cpu, unsigned n, uint64_t v)
{
	cpu->x87.st[n & 7].mantissa = v;
	cpu->x87.st[n & 7].exponent = 0xffff;
}

/* ---- memory ------------------------------------------------------------------------- */

__m128i sse_read_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va);
void sse_write_slow(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, __m128i v);
noreturn void sse_misaligned(struct soft_cpu *cpu, struct soft_op *op);

static inline __m128i sse_read_any(struct soft_cpu *cpu, struct soft_op *op)
{
	uint64_t va = soft_ea(cpu, op);
	const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);
	uint64_t in = va - t->read;

	if (UNLIKELY(in > VM_PAGE_SIZE - 16))
		return sse_read_slow(cpu, op, va);
	return _mm_loadu_si128((const __m128i_u *)(t->host + in));
}
static inline __m128i sse_read(struct soft_cpu *cpu, struct soft_op *op)
{
	if (UNLIKELY(soft_ea(cpu, op) & 15))
		sse_misaligned(cpu, op);
	return sse_read_any(cpu, op);
}
static inline __m128i sse_read_low64(struct soft_cpu *cpu, struct soft_op *op)
{
	return low64(soft_read64(cpu, op, soft_ea(cpu, op)));
}
static inline __m128i sse_read_low32(struct soft_cpu *cpu, struct soft_op *op)
{
	return low32(soft_read32(cpu, op, soft_ea(cpu, op)));
}
static inline void sse_write_any(struct soft_cpu *cpu, struct soft_op *op, __m128i v)
{
	uint64_t va = soft_ea(cpu, op);
	const struct soft_tlb_entry *t = soft_tlb_slot(cpu, va);
	uint64_t in = va - t->write;

	if (UNLIKELY(in > VM_PAGE_SIZE - 16))
		sse_write_slow(cpu, op, va, v);
	else
		_mm_storeu_si128((__m128i_u *)(t->host + in), v);
}
static inline void sse_write(struct soft_cpu *cpu, struct soft_op *op, __m128i v)
{
	if (UNLIKELY(soft_ea(cpu, op) & 15))
		sse_misaligned(cpu, op);
	sse_write_any(cpu, op, v);
}

/* Of octets that are not stored nothing is asked, but for those between two that are. */
static inline void sse_mask_check(struct soft_cpu *cpu, struct soft_op *op, uint64_t va,
				  unsigned mask)
{
	unsigned first = (unsigned)__builtin_ctz(mask), last = 31 - (unsigned)__builtin_clz(mask);

	soft_write_check(cpu, op, va + first, last - first + 1);
}

/* The readers by the size of the operand in bits. */
#define SSE_READ_128 sse_read
#define SSE_READ_64  sse_read_low64
#define SSE_READ_32  sse_read_low32

/* ---- floating point (sse_float.c) --------------------------------------------------- */

typedef __m128i xmm_fn(__m128i d, __m128i s);

#define MXCSR_FLAGS 0x3fu

/* By way of a register that is free once the operand has been read: a local variable would
 * do to clang what the comment above says. */
static inline uint32_t mxcsr_read(struct soft_cpu *cpu)
{
	__asm__ volatile("stmxcsr %0" : "+m"(cpu->r[SOFT_EA]));
	return (uint32_t)cpu->r[SOFT_EA];
}

/* Runs `f` under the guest's MXCSR, adds to its flags, raises what is not masked. */
__m128i sse_float_slow(struct soft_cpu *cpu, struct soft_op *op, xmm_fn *f, __m128i d, __m128i s);

/* The same; where the guest's control bits are the host's, which is what nearly all
 * programs have, and `f` left no flag (or an operation before it, on the host) that the guest does
 * not have yet, there is nothing to switch. */
static inline __m128i sse_float(struct soft_cpu *cpu, struct soft_op *op, xmm_fn *f, __m128i d,
				__m128i s)
{
	if (LIKELY((cpu->mxcsr & ~MXCSR_FLAGS) == MXCSR_DEFAULT)) {
		__m128i r = f(d, s);

		if (LIKELY((mxcsr_read(cpu) & ~(cpu->mxcsr & MXCSR_FLAGS)) == MXCSR_DEFAULT))
			return r;
	}
	return sse_float_slow(cpu, op, f, d, s);
}

#endif

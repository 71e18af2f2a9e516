// SPDX-License-Identifier: Apache-2.0
/*
 * What the integer*.c files share: access to registers, memory operands and the stack.
 * Operations are written once, as inline functions of a constant size, and stamped out
 * for each size by macros.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_INTEGER_H
#define POLLUX_HYPERVISOR_SOFT_INTEGER_H

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/mmu.h"

#define INLINE static inline __attribute__((always_inline))

/* An operation's function around what it does before the next one. */
#define SOFT_FN(name, what)                                                                        \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		what;                                                                              \
		return soft_next(cpu, op);                                                         \
	}

/* Index of a size in a table of functions for 1, 2, 4, 8 octets. */
static inline unsigned size_index(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}
/* Operand size of an opcode whose lowest bit says: not octets. */
static inline unsigned size_of(const struct soft_insn *i)
{
	return i->opcode & 1 ? i->operand : 1;
}
/* REG() of register `n` as an operand of `size` octets. */
static inline uint8_t reg_at(const struct soft_insn *i, unsigned n, unsigned size)
{
	return size == 1 ? soft_reg8(i, n) : REG(n);
}

/* ---- registers ---------------------------------------------------------------------- */

INLINE uint64_t value_get(const void *at, unsigned size)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (size) {
	case 1:
		return *(const uint8_t *)at;
	case 2:
		memcpy(&v16, at, 2);
		return v16;
	case 4:
		memcpy(&v32, at, 4);
		return v32;
	default:
		memcpy(&v64, at, 8);
		return v64;
	}
}

INLINE void value_put(void *at, uint64_t v, unsigned size)
{
	uint16_t v16 = (uint16_t)v;
	uint32_t v32 = (uint32_t)v;

	switch (size) {
	case 1:
		*(uint8_t *)at = (uint8_t)v;
		break;
	case 2:
		memcpy(at, &v16, 2);
		break;
	case 4:
		memcpy(at, &v32, 4);
		break;
	default:
		memcpy(at, &v, 8);
	}
}

/* `at`: REG(n). A 32-bit result clears the upper half. */
INLINE uint64_t reg_get(const struct soft_cpu *cpu, unsigned at, unsigned size)
{
	return value_get((const uint8_t *)cpu->r + at, size);
}
INLINE void reg_put(struct soft_cpu *cpu, unsigned at, uint64_t v, unsigned size)
{
	if (size == 4)
		value_put((uint8_t *)cpu->r + at, (uint32_t)v, 8);
	else
		value_put((uint8_t *)cpu->r + at, v, size);
}

/* The low `size` octets of v; what register `n` holds of v's size. */
INLINE uint64_t cut(uint64_t v, unsigned size)
{
	return size == 8 ? v : v & ((UINT64_C(1) << 8 * size % 64) - 1);
}

/* The sign of v in all bits. */
INLINE uint64_t signs(uint64_t v, unsigned size)
{
	return fl_extend(v, size) < 0 ? UINT64_MAX : 0;
}

/* ---- memory ---------------------------------------------------------------------------- */

INLINE uint64_t load(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, unsigned size)
{
	switch (size) {
	case 1:
		return soft_read8(cpu, op, va);
	case 2:
		return soft_read16(cpu, op, va);
	case 4:
		return soft_read32(cpu, op, va);
	default:
		return soft_read64(cpu, op, va);
	}
}

INLINE void store(struct soft_cpu *cpu, struct soft_op *op, uint64_t va, uint64_t v, unsigned size)
{
	switch (size) {
	case 1:
		soft_write8(cpu, op, va, (uint8_t)v);
		break;
	case 2:
		soft_write16(cpu, op, va, (uint16_t)v);
		break;
	case 4:
		soft_write32(cpu, op, va, (uint32_t)v);
		break;
	default:
		soft_write64(cpu, op, va, v);
	}
}

/* ---- the stack, in any mode (integer_stack.c) ----------------------------------------- */

/* Linear address of `size` octets at `offset` from the stack pointer. */
uint64_t soft_stack_address(struct soft_cpu *cpu, struct soft_op *op, int64_t offset, unsigned size,
			    bool write);
void soft_stack_move(struct soft_cpu *cpu, int64_t offset);
void soft_push(struct soft_cpu *cpu, struct soft_op *op, uint64_t v, unsigned size);

/* Loads the memory operand to register SOFT_EA for an operation that follows. */
void soft_emit_load(struct soft_builder *b, unsigned size);

/* ---- the groups of instructions -------------------------------------------------------- */

soft_select soft_select_alu, soft_select_unary, soft_select_inc_legacy; /* integer_alu.c */
soft_select soft_select_move, soft_select_move_0f;                      /* integer_move.c */
soft_select soft_select_exchange;                                       /* integer_exchange.c */
soft_select soft_select_push, soft_select_pop, soft_select_frame;       /* integer_stack.c */
soft_select soft_select_flags;                                          /* integer_flags.c */
soft_select soft_select_jump, soft_select_jcc;                          /* integer_jump.c */
soft_select soft_select_shift, soft_select_shift_double;                /* integer_shift.c */
soft_select soft_select_bits;                                           /* integer_bits.c */
soft_select soft_select_multiply, soft_select_divide;                   /* integer_multiply.c */
soft_select soft_select_string;                                         /* integer_string.c */
soft_select soft_select_legacy;                                         /* integer_legacy.c */
soft_select soft_select_hint;                                           /* integer_hint.c */

#endif

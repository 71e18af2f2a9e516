// SPDX-License-Identifier: Apache-2.0
/*
 * Status flags, computed when somebody asks. An instruction leaves two words:
 *   fl_result  its result, sign-extended to 64 bits: ZF, SF, PF
 *   fl_aux     bit 63 CF; bit 62: OF is CF xor this; bit 3 AF; for values that no
 *              result has (POPF): bit 61 turns SF round, bits 8-15 are xored into
 *              the octet that PF is taken from
 * Bits 63, 62 and 3 are those of the vector of carries (borrows) out of each bit, shifted
 * so that the carry out of the operand's highest bit comes to bit 63.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_FLAGS_H
#define POLLUX_HYPERVISOR_SOFT_FLAGS_H

#include "hypervisor/soft/soft.h"

#define FL_CF (UINT64_C(1) << 63)
#define FL_PO (UINT64_C(1) << 62)
#define FL_SD (UINT64_C(1) << 61)
#define FL_AF (UINT64_C(1) << 3)

static inline uint64_t fl_carries(uint64_t vector, unsigned size)
{
	return (vector << (64 - 8 * size) & (FL_CF | FL_PO)) | (vector & FL_AF);
}

/* `size` in octets; a, b, r as computed in that size (higher bits do not matter). */
static inline int64_t fl_extend(uint64_t v, unsigned size)
{
	switch (size) {
	case 1:
		return (int8_t)v;
	case 2:
		return (int16_t)v;
	case 4:
		return (int32_t)v;
	default:
		return (int64_t)v;
	}
}

static inline void fl_add(struct soft_cpu *cpu, uint64_t a, uint64_t b, uint64_t r, unsigned size)
{
	cpu->fl_result = (uint64_t)fl_extend(r, size);
	cpu->fl_aux = fl_carries((a & b) | ((a | b) & ~r), size);
}
static inline void fl_sub(struct soft_cpu *cpu, uint64_t a, uint64_t b, uint64_t r, unsigned size)
{
	cpu->fl_result = (uint64_t)fl_extend(r, size);
	cpu->fl_aux = fl_carries((~a & b) | ((~a | b) & r), size);
}
static inline void fl_logic(struct soft_cpu *cpu, uint64_t r, unsigned size)
{
	cpu->fl_result = (uint64_t)fl_extend(r, size);
	cpu->fl_aux = 0;
}

static inline bool fl_cf(const struct soft_cpu *cpu)
{
	return cpu->fl_aux >> 63;
}
static inline bool fl_zf(const struct soft_cpu *cpu)
{
	return !cpu->fl_result;
}
static inline bool fl_sf(const struct soft_cpu *cpu)
{
	return (cpu->fl_result ^ cpu->fl_aux << 2) >> 63;
}
static inline bool fl_of(const struct soft_cpu *cpu)
{
	return (cpu->fl_aux ^ cpu->fl_aux << 1) >> 63;
}
static inline bool fl_af(const struct soft_cpu *cpu)
{
	return cpu->fl_aux >> 3 & 1;
}
static inline bool fl_pf(const struct soft_cpu *cpu)
{
	return !__builtin_parity((cpu->fl_result ^ cpu->fl_aux >> 8) & 0xff);
}

/* Leave the others as they are. */
static inline void fl_set_cf(struct soft_cpu *cpu, bool on)
{
	bool of = fl_of(cpu);

	cpu->fl_aux &= ~(FL_CF | FL_PO);
	cpu->fl_aux |= (on ? FL_CF : 0) | (on != of ? FL_PO : 0);
}
static inline void fl_set_of(struct soft_cpu *cpu, bool on)
{
	cpu->fl_aux &= ~FL_PO;
	cpu->fl_aux |= fl_cf(cpu) != on ? FL_PO : 0;
}

/* All six, from RFLAGS bits. */
static inline void fl_set(struct soft_cpu *cpu, uint32_t flags)
{
	bool zf = flags & FLAG_ZF, sf = flags & FLAG_SF, cf = flags & FLAG_CF, of = flags & FLAG_OF;

	/* 0 has even parity and no sign, 1 odd and no sign */
	cpu->fl_result = zf ? 0 : 1;
	cpu->fl_aux = (cf ? FL_CF : 0) | (cf != of ? FL_PO : 0) | (sf ? FL_SD : 0) |
		      (flags & FLAG_AF ? FL_AF : 0) |
		      (!(flags & FLAG_PF) == zf ? UINT64_C(1) << 8 : 0);
}
static inline uint32_t fl_get(const struct soft_cpu *cpu)
{
	return (fl_cf(cpu) ? FLAG_CF : 0) | (fl_pf(cpu) ? FLAG_PF : 0) |
	       (fl_af(cpu) ? FLAG_AF : 0) | (fl_zf(cpu) ? FLAG_ZF : 0) |
	       (fl_sf(cpu) ? FLAG_SF : 0) | (fl_of(cpu) ? FLAG_OF : 0);
}

/* The whole register. */
static inline uint32_t soft_flags(const struct soft_cpu *cpu)
{
	return cpu->flags | fl_get(cpu);
}

/* The conditions of Jcc, SETcc, CMOVcc by their number in the opcode. */
static inline bool fl_condition(const struct soft_cpu *cpu, unsigned cc)
{
	bool is;

	switch (cc >> 1) {
	case 0:
		is = fl_of(cpu);
		break;
	case 1:
		is = fl_cf(cpu);
		break;
	case 2:
		is = fl_zf(cpu);
		break;
	case 3:
		is = fl_cf(cpu) || fl_zf(cpu);
		break;
	case 4:
		is = fl_sf(cpu);
		break;
	case 5:
		is = fl_pf(cpu);
		break;
	case 6:
		is = fl_sf(cpu) != fl_of(cpu);
		break;
	default:
		is = fl_zf(cpu) || fl_sf(cpu) != fl_of(cpu);
	}
	return is != (cc & 1);
}

#endif

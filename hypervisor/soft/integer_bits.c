// SPDX-License-Identifier: Apache-2.0
/* BT, BTS, BTR, BTC, BSF, BSR, POPCNT. Flags beside those defined stay, as on AMD's CPUs. */
#include "hypervisor/soft/integer.h"

#define SIZES(name)                                                                                \
	{                                                                                          \
		NULL, name##2, name##4, name##8                                                    \
	}

/* ---- BT and its like ---------------------------------------------------------------------- */

enum bits { BITS_TEST, BITS_SET, BITS_RESET, BITS_TURN };

INLINE uint64_t bits(struct soft_cpu *cpu, enum bits kind, uint64_t v, uint64_t n, unsigned size)
{
	uint64_t mask = UINT64_C(1) << (n & (8 * size - 1));

	fl_set_cf(cpu, v & mask);
	return kind == BITS_SET ? v | mask : kind == BITS_RESET ? v & ~mask : v ^ mask;
}

INLINE void bits_r(struct soft_cpu *cpu, struct soft_op *op, enum bits kind, uint64_t n,
		   unsigned size)
{
	uint64_t r = bits(cpu, kind, reg_get(cpu, op->rm, size), n, size);

	if (kind != BITS_TEST)
		reg_put(cpu, op->rm, r, size);
}

INLINE void bits_at(struct soft_cpu *cpu, struct soft_op *op, enum bits kind, uint64_t va,
		    uint64_t n, unsigned size)
{
	void *at;

	if (kind == BITS_TEST) {
		bits(cpu, kind, load(cpu, op, va, size), n, size);
		return;
	}
	at = soft_rmw_begin(cpu, op, va, size);
	value_put(at, bits(cpu, kind, value_get(at, size), n, size), size);
	soft_rmw_end(cpu, op);
}

/* The register's bit number is signed and reaches beyond the operand. The memory operand is
 * an offset here. aux: segment; rm: octets of an address */
INLINE void bits_far(struct soft_cpu *cpu, struct soft_op *op, enum bits kind, unsigned size)
{
	int64_t n = fl_extend(reg_get(cpu, op->reg, size), size);
	uint64_t away = (uint64_t)(n >> __builtin_ctz(8 * size)) * size;
	uint64_t offset = cut(soft_ea(cpu, op) + away, op->rm);
	uint64_t va = soft_linear(cpu, op, op->aux, offset, size, kind != BITS_TEST);

	bits_at(cpu, op, kind, va, (uint64_t)n, size);
}

#define BITS_SIZE(name, kind, size)                                                                \
	SOFT_FN(name##_rr##size, bits_r(cpu, op, kind, reg_get(cpu, op->reg, size), size))         \
	SOFT_FN(name##_ri##size, bits_r(cpu, op, kind, op->imm, size))                             \
	SOFT_FN(name##_mr##size, bits_far(cpu, op, kind, size))                                    \
	SOFT_FN(name##_mi##size, bits_at(cpu, op, kind, soft_ea(cpu, op), op->imm, size))
#define BITS(name, kind)                                                                           \
	BITS_SIZE(name, kind, 2)                                                                   \
	BITS_SIZE(name, kind, 4)                                                                   \
	BITS_SIZE(name, kind, 8)
BITS(bt, BITS_TEST)
BITS(bts, BITS_SET)
BITS(btr, BITS_RESET)
BITS(btc, BITS_TURN)

enum form { FORM_RR, FORM_RI, FORM_MR, FORM_MI };
#define ROW(name)                                                                                  \
	{                                                                                          \
		SIZES(name##_rr), SIZES(name##_ri), SIZES(name##_mr), SIZES(name##_mi)             \
	}
static soft_fn *const bits_fns[4][4][4] = {ROW(bt), ROW(bts), ROW(btr), ROW(btc)};

static void emit_bits(struct soft_builder *b, enum bits kind, bool imm)
{
	const struct soft_insn *i = b->insn;
	enum form form = (i->memory ? FORM_MR : FORM_RR) + imm;
	soft_fn *fn = bits_fns[kind][form][size_index(i->operand)];
	enum soft_access access = kind == BITS_TEST ? SOFT_READ : SOFT_RMW;
	struct soft_op *op;

	if (!i->memory) {
		soft_emit(b, fn);
	} else if (imm) {
		soft_emit_memory(b, fn, access, i->operand);
	} else {
		op = soft_emit_memory(b, fn, SOFT_ADDRESS, 0);
		op->aux = i->seg;
		op->rm = i->address;
	}
}

/* ---- BSF, BSR, POPCNT --------------------------------------------------------------------- */

INLINE void set_zf(struct soft_cpu *cpu, bool on)
{
	fl_set(cpu, (fl_get(cpu) & ~(uint32_t)FLAG_ZF) | (on ? FLAG_ZF : 0));
}

/* Of 0: the destination stays. */
INLINE void scan(struct soft_cpu *cpu, struct soft_op *op, uint64_t v, bool reverse, unsigned size)
{
	set_zf(cpu, !v);
	if (v)
		reg_put(cpu, op->reg,
			(unsigned)(reverse ? 63 - __builtin_clzll(v) : __builtin_ctzll(v)), size);
}

INLINE void popcnt(struct soft_cpu *cpu, struct soft_op *op, uint64_t v, unsigned size)
{
	unsigned n = (unsigned)__builtin_popcountll(v);

	fl_set(cpu, v ? 0 : FLAG_ZF);
	reg_put(cpu, op->reg, n, size);
}

#define SCAN(size)                                                                                 \
	SOFT_FN(bsf_r##size, scan(cpu, op, reg_get(cpu, op->rm, size), false, size))               \
	SOFT_FN(bsf_m##size, scan(cpu, op, load(cpu, op, soft_ea(cpu, op), size), false, size))    \
	SOFT_FN(bsr_r##size, scan(cpu, op, reg_get(cpu, op->rm, size), true, size))                \
	SOFT_FN(bsr_m##size, scan(cpu, op, load(cpu, op, soft_ea(cpu, op), size), true, size))     \
	SOFT_FN(popcnt_r##size, popcnt(cpu, op, reg_get(cpu, op->rm, size), size))                 \
	SOFT_FN(popcnt_m##size, popcnt(cpu, op, load(cpu, op, soft_ea(cpu, op), size), size))
SCAN(2)
SCAN(4)
SCAN(8)
static soft_fn *const bsf[2][4] = {SIZES(bsf_r), SIZES(bsf_m)};
static soft_fn *const bsr[2][4] = {SIZES(bsr_r), SIZES(bsr_m)};
static soft_fn *const popcnts[2][4] = {SIZES(popcnt_r), SIZES(popcnt_m)};

static void emit_scan(struct soft_builder *b, soft_fn *const fns[2][4])
{
	const struct soft_insn *i = b->insn;
	soft_fn *fn = fns[i->memory][size_index(i->operand)];

	if (i->memory)
		soft_emit_memory(b, fn, SOFT_READ, i->operand);
	else
		soft_emit(b, fn);
}

/* TZCNT and LZCNT are BSF and BSR with a prefix: so they are on CPUs without them. */
bool soft_select_bits(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;

	switch (i->opcode) {
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		emit_bits(b, i->opcode >> 3 & 3, false);
		return true;
	case 0xba:
		if ((i->reg & 7) < 4)
			return false;
		emit_bits(b, i->reg & 3, true);
		return true;
	case 0xb8:
		if (i->rep != 0xf3)
			return false;
		emit_scan(b, popcnts);
		return true;
	default:
		emit_scan(b, i->opcode == 0xbc ? bsf : bsr);
		return true;
	}
}

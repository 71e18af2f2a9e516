// SPDX-License-Identifier: Apache-2.0
/*
 * From bytes to operations. decode.c reads prefixes, opcode, ModRM, SIB,
 * displacement and immediates of any instruction into a struct soft_insn; then one of
 * the soft_select functions, chosen by opcode, emits its operations.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_DECODE_H
#define POLLUX_HYPERVISOR_SOFT_DECODE_H

#include "hypervisor/soft/soft.h"

#define INSN_BYTES_MAX 15

enum soft_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

struct soft_insn {
	uint8_t bytes[INSN_BYTES_MAX];
	uint8_t length;
	uint8_t mode; /* enum soft_mode */
	uint8_t map, opcode;
	bool lock, operand16 /* prefix 66 is there */, has_rex;
	uint8_t rep;            /* 0, 0xf2 or 0xf3: the last of them */
	uint8_t rex;            /* W R X B in bits 3-0 */
	uint8_t operand;        /* octets: 2, 4 or 8 by mode, REX.W and 66 */
	uint8_t address;        /* octets: 2, 4 or 8 by mode and 67 */
	int8_t segment;         /* enum soft_seg of an override, or -1 */
	bool has_modrm, memory; /* memory: mod is not 3 */
	uint8_t reg, rm;        /* with REX.R, REX.B */
	/* Memory operand: REG(n). RIP-relative: base is SOFT_PAGE, disp counts from
	 * the first octet of the instruction. */
	uint8_t base, index, scale, seg; /* seg: enum soft_seg, default or overridden */
	int64_t disp;
	uint64_t imm;  /* sign-extended from its size; far pointers: offset */
	uint32_t imm2; /* far pointers: selector; ENTER: level */
	uint8_t imm_size;
};

/* Where operations are emitted. */
struct soft_builder {
	struct soft_op *ops;
	unsigned count, room;
	const struct soft_insn *insn;
	uint16_t off;
	uint8_t seq, flags;
	bool first;
	bool ends; /* the instruction ends its block: set by whoever selects it */
};

/* Appends an operation: offsets, flags, `imm` and, of the memory operand, base, index,
 * scale, seg and disp are filled in. reg and rm: REG() of the insn's as 64-bit registers. */
struct soft_op *soft_emit(struct soft_builder *b, soft_fn *run);
/* The same for an operation with a memory operand of `size` octets. Where one addition
 * does not say it all (address size override, segment limits), an address operation
 * comes before it. */
enum soft_access { SOFT_READ, SOFT_WRITE, SOFT_RMW, SOFT_ADDRESS /* LEA, INVLPG: no access */ };
struct soft_op *soft_emit_memory(struct soft_builder *b, soft_fn *run, enum soft_access access,
				 unsigned size);
/* Octets of a push, pop, call or return: 8 in 64-bit mode but for a prefix. */
unsigned soft_push_size(const struct soft_insn *insn);
/* REG() offset of an octet register: AH, CH, DH, BH without REX. */
uint8_t soft_reg8(const struct soft_insn *insn, unsigned n);

/* Emit the operations of b->insn, or return false: #UD. They refuse what the
 * architecture refuses (LOCK where it is not allowed, registers where memory must be). */
typedef bool soft_select(struct soft_builder *b);
soft_select soft_select_integer; /* integer*.c: moves, arithmetic, strings, jumps, stack */
soft_select soft_select_system;  /* system*.c: privileged and segment instructions, I/O */
soft_select soft_select_sse;     /* sse*.c: MMX, SSE, SSE2, FXSAVE, FXRSTOR, MXCSR */
soft_select soft_select_x87;     /* x87*.c: D8-DF, 9B */

/* Reads one instruction from `n` octets (n may be less than its length: -EAGAIN).
 * -EINVAL: longer than 15 octets (#GP). Unknown opcodes get the length of what was read
 * and are for the select functions to refuse. */
int soft_decode(const uint8_t *bytes, size_t n, enum soft_mode mode, struct soft_insn *out);
/* The operations of one instruction that lies at `off` in its page; #UD makes one that
 * raises it. Returns how many. */
unsigned soft_translate(struct soft_builder *b, const struct soft_insn *insn, uint16_t off);

#endif

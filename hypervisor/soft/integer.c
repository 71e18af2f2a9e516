// SPDX-License-Identifier: Apache-2.0
/* The integer instructions by opcode: AMD64 Architecture Programmer's Manual, volume 3,
 * appendix A. What is left out raises #UD. */
#include "hypervisor/soft/integer.h"

/* F6, F7 */
static bool select_f6(struct soft_builder *b)
{
	switch (b->insn->reg & 7) {
	case 4:
	case 5:
		return soft_select_multiply(b);
	case 6:
	case 7:
		return soft_select_divide(b);
	default:
		return soft_select_unary(b);
	}
}

static bool select_ff(struct soft_builder *b)
{
	switch (b->insn->reg & 7) {
	case 2:
	case 4:
		return soft_select_jump(b);
	case 6:
		return soft_select_push(b);
	default:
		return soft_select_unary(b);
	}
}

static bool is_alu(uint8_t opcode)
{
	return opcode < 0x40 && (opcode & 7) < 6;
}

/* Opcodes that 64-bit mode does not have. */
static bool is_legacy(uint8_t opcode)
{
	switch (opcode) {
	case 0x27: /* DAA */
	case 0x2f: /* DAS */
	case 0x37: /* AAA */
	case 0x3f: /* AAS */
	case 0x40 ... 0x4f:
	case 0x60 ... 0x62:
	case 0x82:
	case 0xd4: /* AAM */
	case 0xd5: /* AAD */
	case 0xd6: /* SALC */
		return true;
	default:
		return false;
	}
}

static soft_select *select_low(uint8_t opcode)
{
	switch (opcode) {
	case 0x27:
	case 0x2f:
	case 0x37:
	case 0x3f:
	case 0x62:
		return soft_select_legacy;
	case 0x40 ... 0x4f:
		return soft_select_inc_legacy;
	case 0x50 ... 0x57:
	case 0x68:
	case 0x6a:
		return soft_select_push;
	case 0x58 ... 0x5f:
		return soft_select_pop;
	case 0x60 ... 0x61:
		return soft_select_frame;
	case 0x63:
		return soft_select_move;
	case 0x69:
	case 0x6b:
		return soft_select_multiply;
	case 0x70 ... 0x7f:
		return soft_select_jcc;
	default:
		return is_alu(opcode) ? soft_select_alu : NULL;
	}
}

static soft_select *select_middle(uint8_t opcode)
{
	switch (opcode) {
	case 0x80 ... 0x85:
	case 0xa8 ... 0xa9:
		return soft_select_alu;
	case 0x86 ... 0x87:
	case 0x90 ... 0x97:
		return soft_select_exchange;
	case 0x88 ... 0x8b:
	case 0x8d:
	case 0x98 ... 0x99:
	case 0xa0 ... 0xa3:
	case 0xb0 ... 0xbf:
		return soft_select_move;
	case 0x8f:
		return soft_select_pop;
	case 0x9c ... 0x9f:
		return soft_select_flags;
	case 0xa4 ... 0xa7:
	case 0xaa ... 0xaf:
		return soft_select_string;
	default:
		return NULL;
	}
}

static soft_select *select_high(uint8_t opcode)
{
	switch (opcode) {
	case 0xc0 ... 0xc1:
	case 0xd0 ... 0xd3:
		return soft_select_shift;
	case 0xc2 ... 0xc3:
	case 0xe0 ... 0xe3:
	case 0xe8 ... 0xe9:
	case 0xeb:
		return soft_select_jump;
	case 0xc6 ... 0xc7:
	case 0xd7:
		return soft_select_move;
	case 0xc8 ... 0xc9:
		return soft_select_frame;
	case 0xd4 ... 0xd6:
		return soft_select_legacy;
	case 0xf5:
	case 0xf8 ... 0xf9:
	case 0xfc ... 0xfd:
		return soft_select_flags;
	case 0xf6 ... 0xf7:
		return select_f6;
	case 0xfe:
		return soft_select_unary;
	case 0xff:
		return select_ff;
	default:
		return NULL;
	}
}

static soft_select *select_0f(uint8_t opcode)
{
	switch (opcode) {
	case 0x0d:
	case 0x18 ... 0x1f:
	case 0xae:
		return soft_select_hint;
	case 0x40 ... 0x4f:
	case 0x90 ... 0x9f:
	case 0xb6 ... 0xb7:
	case 0xbe ... 0xbf:
	case 0xc3:
	case 0xc8 ... 0xcf:
		return soft_select_move_0f;
	case 0x80 ... 0x8f:
		return soft_select_jcc;
	case 0xa4 ... 0xa5:
	case 0xac ... 0xad:
		return soft_select_shift_double;
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xb8:
	case 0xba ... 0xbd:
		return soft_select_bits;
	case 0xaf:
		return soft_select_multiply;
	case 0xb0 ... 0xb1:
	case 0xc0 ... 0xc1:
	case 0xc7:
		return soft_select_exchange;
	default:
		return NULL;
	}
}

/* ---- LOCK: read-modify-write of memory alone ---------------------------------------------- */

static bool lock_one(const struct soft_insn *i)
{
	unsigned n = i->reg & 7;

	if (i->opcode < 0x38)
		return (i->opcode & 7) < 2;
	if (i->opcode >= 0x80 && i->opcode <= 0x83)
		return n != 7;
	if (i->opcode >= 0xfe)
		return n < 2;
	if (i->opcode >= 0xf6)
		return n == 2 || n == 3;
	return i->opcode == 0x86 || i->opcode == 0x87;
}

static bool lock_0f(const struct soft_insn *i)
{
	switch (i->opcode) {
	case 0xab:
	case 0xb0 ... 0xb1:
	case 0xb3:
	case 0xbb:
	case 0xc0 ... 0xc1:
		return true;
	case 0xba:
		return (i->reg & 7) >= 5;
	case 0xc7:
		return (i->reg & 7) == 1;
	default:
		return false;
	}
}

bool soft_select_integer(struct soft_builder *b)
{
	const struct soft_insn *i = b->insn;
	soft_select *select;

	if (i->map == MAP_ONE) {
		if (i->mode == MODE_64 && is_legacy(i->opcode))
			return false;
		select = i->opcode < 0x80   ? select_low(i->opcode)
			 : i->opcode < 0xc0 ? select_middle(i->opcode)
					    : select_high(i->opcode);
	} else {
		select = select_0f(i->opcode);
	}
	if (i->lock && !(i->memory && (i->map == MAP_ONE ? lock_one(i) : lock_0f(i))))
		return false;
	return select && select(b);
}

// SPDX-License-Identifier: Apache-2.0
/* Reads instructions: AMD64 Architecture Programmer's Manual, volume 3, chapter 1 and
 * appendix A. */
#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/mmu.h"

#include <errno.h>

/* What follows an opcode. */
enum form {
	MODRM = 1,
	IMM8 = 2, /* sign-extended */
	IMM16 = 4,
	IMMZ = 8,   /* 16 bits, or 32 by operand size */
	IMMV = 16,  /* as large as the operand */
	NEAR = 32,  /* as IMMZ, but 32 bits in 64-bit mode whatever the prefix */
	MOFFS = 64, /* an address */
	FAR = 128,  /* offset and selector */
};

#define X4(v)  v, v, v, v
#define X8(v)  X4(v), X4(v)
#define X16(v) X8(v), X8(v)
#define ALU    X4(MODRM), IMM8, IMMZ, 0, 0
static const uint8_t forms_one[256] = {
	/* 00 */ ALU,
	ALU,
	ALU,
	ALU,
	ALU,
	ALU,
	ALU,
	ALU,
	/* 40 */ X16(0),
	X16(0),
	/* 60 */ 0,
	0,
	MODRM,
	MODRM,
	X4(0),
	IMMZ,
	MODRM | IMMZ,
	IMM8,
	MODRM | IMM8,
	X4(0),
	/* 70 */ X16(IMM8),
	/* 80 */ MODRM | IMM8,
	MODRM | IMMZ,
	MODRM | IMM8,
	MODRM | IMM8,
	X4(MODRM),
	X8(MODRM),
	/* 90 */ X8(0),
	0,
	0,
	FAR,
	0,
	X4(0),
	/* a0 */ X4(MOFFS),
	X4(0),
	IMM8,
	IMMZ,
	0,
	0,
	X4(0),
	/* b0 */ X8(IMM8),
	X8(IMMV),
	/* c0 */ MODRM | IMM8,
	MODRM | IMM8,
	IMM16,
	0,
	MODRM,
	MODRM,
	MODRM | IMM8,
	MODRM | IMMZ,
	/* c8 */ IMM16 | IMM8,
	0,
	IMM16,
	0,
	0,
	IMM8,
	0,
	0,
	/* d0 */ X4(MODRM),
	IMM8,
	IMM8,
	0,
	0,
	X8(MODRM),
	/* e0 */ X8(IMM8),
	NEAR,
	NEAR,
	FAR,
	IMM8,
	X4(0),
	/* f0 */ X4(0),
	0,
	0,
	MODRM,
	MODRM,
	X4(0),
	0,
	0,
	MODRM,
	MODRM,
};
static const uint8_t forms_0f[256] = {
	/* 00 */ X4(MODRM),
	X4(0),
	X4(0),
	0,
	MODRM,
	0,
	MODRM | IMM8,
	/* 10 */ X16(MODRM),
	/* 20 */ X4(MODRM),
	X4(0),
	X8(MODRM),
	/* 30 */ X16(0),
	/* 40 */ X16(MODRM),
	X16(MODRM),
	X16(MODRM),
	/* 70 */ X4(MODRM | IMM8),
	MODRM,
	MODRM,
	MODRM,
	0,
	X8(MODRM),
	/* 80 */ X16(NEAR),
	X16(MODRM),
	/* a0 */ 0,
	0,
	0,
	MODRM,
	MODRM | IMM8,
	MODRM,
	0,
	0,
	/* a8 */ 0,
	0,
	0,
	MODRM,
	MODRM | IMM8,
	X4(MODRM) /* to af and b0 */,
	/* b1 */ MODRM,
	X8(MODRM),
	MODRM | IMM8,
	X4(MODRM),
	MODRM,
	/* c0 */ MODRM,
	MODRM,
	MODRM | IMM8,
	MODRM,
	X4(MODRM | IMM8) /* c7: no */,
	X8(0),
	/* d0 */ X16(MODRM),
	X16(MODRM),
	X16(MODRM),
};

struct reader {
	const uint8_t *bytes;
	size_t n, at;
	int rc;
};

/* Octets past the end read as 0: the first one that is missing decides. */
static uint8_t octet(struct reader *r)
{
	if (r->at >= INSN_BYTES_MAX && !r->rc)
		r->rc = -EINVAL;
	if (r->at >= r->n && !r->rc)
		r->rc = -EAGAIN;
	if (r->rc)
		return 0;
	return r->bytes[r->at++];
}

static uint64_t octets(struct reader *r, unsigned count)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < count; i++)
		v |= (uint64_t)octet(r) << 8 * i;
	return v;
}

static int64_t octets_signed(struct reader *r, unsigned count)
{
	uint64_t v = octets(r, count);
	unsigned shift = 64 - 8 * count;

	return (int64_t)(v << shift) >> shift;
}

/* ---- prefixes, opcode --------------------------------------------------------------- */

static bool prefix_segment(struct soft_insn *i, uint8_t b)
{
	int seg;

	switch (b) {
	case 0x26:
		seg = SEG_ES;
		break;
	case 0x2e:
		seg = SEG_CS;
		break;
	case 0x36:
		seg = SEG_SS;
		break;
	case 0x3e:
		seg = SEG_DS;
		break;
	case 0x64:
		seg = SEG_FS;
		break;
	case 0x65:
		seg = SEG_GS;
		break;
	default:
		return false;
	}
	if (i->mode != MODE_64 || seg >= SEG_FS)
		i->segment = (int8_t)seg;
	return true;
}

static bool prefix(struct soft_insn *i, uint8_t b, bool *address)
{
	switch (b) {
	case 0x66:
		i->operand16 = true;
		return true;
	case 0x67:
		*address = true;
		return true;
	case 0xf0:
		i->lock = true;
		return true;
	case 0xf2:
	case 0xf3:
		i->rep = b;
		return true;
	default:
		return prefix_segment(i, b);
	}
}

static void sizes(struct soft_insn *i, bool address)
{
	if (i->mode == MODE_64) {
		i->operand = i->rex & 8 ? 8 : i->operand16 ? 2 : 4;
		i->address = address ? 4 : 8;
	} else {
		i->operand = (i->mode == MODE_32) != i->operand16 ? 4 : 2;
		i->address = (i->mode == MODE_32) != address ? 4 : 2;
	}
}

static void head(struct soft_insn *i, struct reader *r)
{
	bool address = false;
	uint8_t b;

	for (b = octet(r); !r->rc; b = octet(r)) {
		if (prefix(i, b, &address)) {
			i->has_rex = false;
			i->rex = 0; /* only the last octet before the opcode counts */
		} else if (i->mode == MODE_64 && (b & 0xf0) == 0x40) {
			i->has_rex = true;
			i->rex = b & 15;
		} else {
			break;
		}
	}
	sizes(i, address);
	if (b == 0x0f) {
		i->map = MAP_0F;
		b = octet(r);
		if (b == 0x38 || b == 0x3a) {
			i->map = b == 0x38 ? MAP_0F38 : MAP_0F3A;
			b = octet(r);
		}
	}
	i->opcode = b;
}

/* ---- ModRM ---------------------------------------------------------------------------- */

static void memory16(struct soft_insn *i, struct reader *r, unsigned mod)
{
	static const uint8_t bases[8] = {SOFT_RBX, SOFT_RBX, SOFT_RBP, SOFT_RBP,
					 SOFT_RSI, SOFT_RDI, SOFT_RBP, SOFT_RBX};
	static const uint8_t indexes[8] = {SOFT_RSI,  SOFT_RDI,  SOFT_RSI,  SOFT_RDI,
					   SOFT_ZERO, SOFT_ZERO, SOFT_ZERO, SOFT_ZERO};
	unsigned rm = i->rm & 7;

	i->base = REG(bases[rm]);
	i->index = REG(indexes[rm]);
	if (!mod && rm == 6) {
		i->base = REG(SOFT_ZERO);
		i->disp = octets_signed(r, 2);
	} else if (mod) {
		i->disp = octets_signed(r, mod == 1 ? 1 : 2);
	}
	i->seg = i->base == REG(SOFT_RBP) ? SEG_SS : SEG_DS;
}

/* Returns the number of the base register, or -1: none, 32 bits of displacement. */
static int sib(struct soft_insn *i, struct reader *r, unsigned mod)
{
	uint8_t b = octet(r);
	unsigned index = (b >> 3 & 7) | (i->rex & 2) << 2, base = (b & 7) | (i->rex & 1) << 3;

	i->scale = b >> 6;
	i->index = REG(index == SOFT_RSP ? SOFT_ZERO : index);
	return !mod && (base & 7) == 5 ? -1 : (int)base;
}

static void memory32(struct soft_insn *i, struct reader *r, unsigned mod)
{
	int base = i->rm;
	bool relative = false;

	i->index = REG(SOFT_ZERO);
	if ((base & 7) == 4) {
		base = sib(i, r, mod);
	} else if (!mod && (base & 7) == 5) {
		base = -1;
		relative = i->mode == MODE_64;
	}
	i->base = base < 0 ? REG(relative ? SOFT_PAGE : SOFT_ZERO) : REG(base);
	if (base < 0 || mod == 2)
		i->disp = octets_signed(r, 4);
	else if (mod == 1)
		i->disp = octets_signed(r, 1);
	i->seg = base == SOFT_RSP || base == SOFT_RBP ? SEG_SS : SEG_DS;
}

static void modrm(struct soft_insn *i, struct reader *r)
{
	uint8_t b = octet(r);
	unsigned mod = b >> 6;

	i->has_modrm = true;
	i->reg = (uint8_t)((b >> 3 & 7) | (i->rex & 4) << 1);
	i->rm = (uint8_t)((b & 7) | (i->rex & 1) << 3);
	/* MOV of control and debug registers takes any mod for a register. */
	if (mod == 3 || (i->map == MAP_0F && i->opcode >= 0x20 && i->opcode <= 0x23))
		return;
	i->memory = true;
	if (i->address == 2)
		memory16(i, r, mod);
	else
		memory32(i, r, mod);
}

/* ---- immediates -------------------------------------------------------------------------- */

static unsigned form_of(const struct soft_insn *i)
{
	switch (i->map) {
	case MAP_ONE:
		/* TEST is the only one of its group with an immediate. */
		if ((i->opcode & 0xfe) == 0xf6 && i->has_modrm && (i->reg & 7) < 2)
			return i->opcode & 1 ? IMMZ : IMM8;
		return forms_one[i->opcode];
	case MAP_0F:
		if (i->opcode == 0xc7)
			return MODRM;
		return forms_0f[i->opcode];
	case MAP_0F38:
		return MODRM;
	default:
		return MODRM | IMM8;
	}
}

static void immediate(struct soft_insn *i, struct reader *r, unsigned size)
{
	i->imm = (uint64_t)octets_signed(r, size);
	i->imm_size = (uint8_t)size;
}

static void immediates(struct soft_insn *i, struct reader *r, unsigned form)
{
	unsigned z = i->operand == 2 ? 2 : 4;

	if (form & (IMM16 | FAR)) {
		immediate(i, r, form & FAR ? z : 2);
		i->imm &= z == 2 || !(form & FAR) ? 0xffff : 0xffffffff;
	}
	if (form & FAR)
		i->imm2 = (uint32_t)octets(r, 2);
	else if (form & IMM16 && form & IMM8)
		i->imm2 = octet(r);
	else if (form & IMM8)
		immediate(i, r, 1);
	if (form & IMMZ)
		immediate(i, r, z);
	if (form & NEAR)
		immediate(i, r, i->mode == MODE_64 ? 4 : z);
	if (form & IMMV)
		immediate(i, r, i->operand);
	if (form & MOFFS) {
		i->imm = octets(r, i->address);
		i->seg = SEG_DS;
	}
}

int soft_decode(const uint8_t *bytes, size_t n, enum soft_mode mode, struct soft_insn *out)
{
	struct reader r = {.bytes = bytes, .n = n};

	*out = (struct soft_insn){.mode = (uint8_t)mode, .segment = -1, .seg = SEG_DS};
	head(out, &r);
	if (form_of(out) & MODRM)
		modrm(out, &r);
	immediates(out, &r, form_of(out));
	if (r.rc)
		return r.rc;
	out->length = (uint8_t)r.at;
	soft_copy(out->bytes, bytes, r.at);
	if (out->segment >= 0)
		out->seg = (uint8_t)out->segment;
	/* RIP is that of the next instruction. */
	if (out->base == REG(SOFT_PAGE))
		out->disp += out->length;
	return 0;
}

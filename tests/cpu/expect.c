// SPDX-License-Identifier: Apache-2.0
/* What the architecture leaves open, what the model has not, and when two results are
 * equal. */
#include "tests/cpu/cpu.h"

/* ---- instructions ------------------------------------------------------------------------- */

static bool one_of(uint8_t opcode, const char *list, size_t n)
{
	return memchr(list, opcode, n);
}
#define ONE_OF(opcode, list) one_of(opcode, list, sizeof(list) - 1)

static bool branch_is_short(const struct soft_insn *i)
{
	return i->mode == MODE_64 && i->operand == 2 && insn_is_branch(i);
}

/* Segment loads and far transfers need the host's descriptors; INT and system calls ask
 * its kernel; POPF may set TF and AC. Near branches of 16 bits, and what REP makes of LOOPcc,
 * are not the same with all vendors. */
static bool one_is_excluded(const struct soft_insn *i)
{
	if (branch_is_short(i))
		return true;
	if (i->mode == MODE_64 && i->opcode == 0x63) /* MOVSXD */
		return i->operand == 2 && i->memory;
	if (i->mode == MODE_32 && ONE_OF(i->opcode, "\x07\x17\x1f\x9a\xea"))
		return true;
	if (i->mode == MODE_32 && i->memory && (i->opcode == 0xc4 || i->opcode == 0xc5))
		return true;
	/* ARPL to what cannot be written: whether that is said although nothing changes. */
	if (i->mode == MODE_32 && i->memory && i->opcode == 0x63)
		return i->seg == SEG_CS;
	if (i->opcode == 0xe0 || i->opcode == 0xe1)
		return i->rep;
	if (i->opcode == 0xff)
		return (i->reg & 7) == 3 || (i->reg & 7) == 5;
	return ONE_OF(i->opcode, "\x8c\x8e\x9d\xca\xcb\xcd\xcf\xf1");
}

static bool map_0f_is_excluded(const struct soft_insn *i)
{
	if (branch_is_short(i))
		return true;
	/* LOCK makes MOV CR8 of MOV CR0 with some vendors. */
	if (i->opcode == 0x20 || i->opcode == 0x22)
		return i->lock;
	/* F3: TZCNT and LZCNT of later processors */
	if (i->opcode == 0xbc || i->opcode == 0xbd)
		return i->rep == 0xf3;
	/* of 16 bits: the result is undefined (BSWAP; SHLD and SHRD by more than 16) */
	if ((i->opcode & 0xf8) == 0xc8 || ONE_OF(i->opcode, "\xa4\xa5\xac\xad"))
		return i->operand == 2;
	if (i->opcode == 0xae) /* FXSAVE, FXRSTOR: what they leave out differs */
		return i->memory && (i->reg & 7) < 2;
	return ONE_OF(i->opcode, "\x00\x01\x02\x03\x05\x07\x31\x33\x34\x35"
				 "\xa1\xa2\xa9\xb2\xb4\xb5");
}

bool insn_is_excluded(const struct soft_insn *i)
{
	if (i->map == MAP_ONE)
		return one_is_excluded(i);
	return i->map == MAP_0F && map_0f_is_excluded(i);
}

/* FISTTP; VEX, EVEX, XOP. */
static bool one_is_later(const struct soft_insn *i)
{
	if (i->opcode == 0xdb || i->opcode == 0xdd || i->opcode == 0xdf)
		return i->memory && (i->reg & 7) == 1;
	if (i->opcode == 0x8f)
		return i->reg & 7;
	return ONE_OF(i->opcode, "\xc4\xc5\x62") && !(i->mode == MODE_32 && i->memory);
}

static bool group_ae_is_later(const struct soft_insn *i)
{
	unsigned reg = i->reg & 7;

	if (i->memory)
		return (reg >= 4 && reg < 7) || (i->rep && reg < 4) ||
		       (reg == 7 && (i->rep || i->operand16));
	return reg < 5 || i->rep || i->operand16;
}

static bool map_0f_is_later(const struct soft_insn *i)
{
	switch (i->opcode) {
	case 0x12: /* MOVSLDUP, MOVDDUP */
	case 0x2b: /* MOVNTSS, MOVNTSD */
		return i->rep;
	case 0x16: /* MOVSHDUP */
		return i->rep == 0xf3;
	case 0x78: /* EXTRQ, INSERTQ */
	case 0x79:
	case 0x7c: /* HADDPS */
	case 0x7d:
	case 0xd0: /* ADDSUBPS */
	case 0xf0: /* LDDQU */
		return true;
	case 0xae:
		return group_ae_is_later(i);
	case 0xc7:
		return (i->reg & 7) != 1;
	default:
		return false;
	}
}

bool insn_is_later(const struct soft_insn *i)
{
	switch (i->map) {
	case MAP_ONE:
		return one_is_later(i);
	case MAP_0F:
		return map_0f_is_later(i);
	default:
		return true;
	}
}

bool insn_is_branch(const struct soft_insn *i)
{
	uint8_t o = i->opcode;

	if (i->map == MAP_0F)
		return (o & 0xf0) == 0x80;
	return i->map == MAP_ONE &&
	       ((o & 0xf0) == 0x70 || (o >= 0xe0 && o <= 0xe3) || (o >= 0xe8 && o <= 0xeb) ||
		o == 0xc2 || o == 0xc3 || (o == 0xff && (i->reg & 6) >= 2));
}

/* ---- flags ------------------------------------------------------------------------------------
 */

#define UNDEFINED_MULTIPLY (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF)
#define UNDEFINED_BITS     (FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF)

/* Shifts by 1 and shifts of large operands say more, but the count is not known here. */
static uint32_t undefined_shift(const struct soft_insn *i)
{
	bool by_one = (i->opcode & 0xfe) == 0xd0;
	bool small = i->operand == 2 || !(i->opcode & 1);

	if ((i->reg & 7) < 4)
		return by_one ? 0 : FLAG_OF;
	return by_one ? FLAG_AF : FLAG_OF | FLAG_AF | (small ? FLAG_CF : 0);
}

static uint32_t undefined_decimal(uint8_t o)
{
	if (o == 0xd4 || o == 0xd5)
		return FLAG_OF | FLAG_AF | FLAG_CF;
	if (o == 0x37 || o == 0x3f)
		return FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF;
	return o == 0x27 || o == 0x2f ? FLAG_OF : 0;
}

static uint32_t undefined_one(const struct soft_insn *i)
{
	uint8_t o = i->opcode;
	unsigned reg = i->reg & 7;
	uint32_t undefined;

	if (o < 0x40 && (o & 7) < 6) /* OR, AND, XOR */
		return ONE_OF(o >> 3, "\1\4\6") ? FLAG_AF : 0;
	if (o >= 0x80 && o <= 0x83)
		return ONE_OF(reg, "\1\4\6") ? FLAG_AF : 0;
	if (ONE_OF(o, "\x84\x85\xa8\xa9"))
		return FLAG_AF;
	if (i->mode == MODE_32 && (undefined = undefined_decimal(o)) != 0)
		return undefined;
	if (o == 0x69 || o == 0x6b)
		return UNDEFINED_MULTIPLY;
	if (ONE_OF(o, "\xc0\xc1\xd0\xd1\xd2\xd3"))
		return undefined_shift(i);
	if ((o & 0xfe) == 0xf6)
		return reg < 2   ? FLAG_AF
		       : reg < 4 ? 0
		       : reg < 6 ? UNDEFINED_MULTIPLY
				 : FLAGS_STATUS;
	return 0;
}

uint32_t insn_flags_undefined(const struct soft_insn *i)
{
	uint8_t o = i->opcode;

	if (i->map == MAP_ONE)
		return undefined_one(i);
	if (i->map != MAP_0F)
		return 0;
	if (o == 0xa3 || o == 0xab || o == 0xb3 || o == 0xbb || o == 0xba)
		return UNDEFINED_BITS;
	if (o == 0xaf)
		return UNDEFINED_MULTIPLY;
	if (o == 0xbc || o == 0xbd)
		return FLAGS_STATUS & ~FLAG_ZF;
	return ONE_OF(o, "\xa4\xa5\xac\xad") ? FLAG_OF | FLAG_AF : 0;
}

/* ---- results ------------------------------------------------------------------------------------
 */

static uint32_t word(const uint8_t *at, size_t octets)
{
	uint32_t v = 0;

	memcpy(&v, at, octets);
	return v;
}

/* With overflow or underflow raised, PE says whether the result would be inexact if the
 * exponent had no bounds, which engine soft does not find out. */
static uint32_t mxcsr_of(const struct cpu_result *s)
{
	uint32_t v = word(s->out.fpu + 24, 4);

	return s->vector == VEC_XM && v & ~(v >> 7) & 0x18 ? v & ~0x20u : v;
}

/* Not the pointers, which some processors save only with an exception. */
static const char *fpu_differs(const struct cpu_result *a, const struct cpu_result *b)
{
	if (memcmp(a->out.fpu, b->out.fpu, 5))
		return "x87 control, status or tags";
	for (unsigned n = 0; n < 8; n++)
		if (memcmp(a->out.fpu + 32 + 16 * n, b->out.fpu + 32 + 16 * n, 10))
			return "x87 or MMX register";
	if (mxcsr_of(a) != mxcsr_of(b))
		return "MXCSR";
	return memcmp(a->out.fpu + 160, b->out.fpu + 160, 256) ? "XMM register" : NULL;
}

/* Linux hides what is in its own half. */
static uint32_t error_shown(const struct cpu_result *r)
{
	bool kernel = r->vector == VEC_PF && r->cr2 >= UINT64_C(0x7ffffffff000);

	return kernel ? r->error | 1 : r->error;
}

static bool fault_at_fetch(const struct cpu_result *r)
{
	return r->vector == VEC_PF && r->error & 0x10;
}

/* Some processors see that an opcode is undefined before they need its last octets, and
 * how many those are, if too many, depends on what they take it for. */
static bool undefined_either_way(const struct cpu_result *a, const struct cpu_result *b)
{
	return (a->vector == VEC_UD && fault_at_fetch(b)) ||
	       (b->vector == VEC_UD && fault_at_fetch(a));
}

static bool too_long(const struct cpu_case *c, const struct cpu_result *native,
		     const struct cpu_result *soft)
{
	uint64_t at = soft->out.rip - c->at;
	struct soft_insn i;

	if (soft->vector != VEC_GP || at >= c->size ||
	    !soft_decode(c->code + at, c->size - (unsigned)at, c->mode, &i))
		return false;
	while (at < c->size && ONE_OF(c->code[at], "\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3"))
		at++;
	return native->vector == VEC_UD || (at < c->size && ONE_OF(c->code[at], "\xc4\xc5\x62"));
}

static bool of_memory(const struct cpu_result *r)
{
	return r->vector == VEC_SS || r->vector == VEC_GP || r->vector == VEC_PF;
}

/* The x87's environment, and operands of 10 octets. */
static bool is_large(const struct soft_insn *i)
{
	return i->memory && ONE_OF(i->opcode, "\xd9\xdb\xdd\xdf");
}

/* CMPS has two operands, CALL an operand and the stack: if both fault, none is the first.
 * Nor is it said what comes first of a segment's end and an alignment, nor whether an
 * operand of several parts is refused for its end. */
#define SEGMENT_END (UINT64_C(1) << 32)
static bool other_reason(const struct soft_insn *i, const struct cpu_result *a,
			 const struct cpu_result *b)
{
	bool two = (i->opcode & 0xfe) == 0xa6 || (i->opcode == 0xff && (i->reg & 7) == 2);

	if (!of_memory(a) || !of_memory(b))
		return false;
	if (i->map == MAP_ONE && (two || is_large(i)))
		return true;
	if (i->mode == MODE_64)
		return false;
	if (a->vector == VEC_PF || b->vector == VEC_PF)
		return (a->vector == VEC_PF ? a : b)->cr2 >= SEGMENT_END - VM_PAGE_SIZE;
	return i->map == MAP_0F;
}

/* A store under a mask may fault by any octet of its operand, or not, as the processor likes;
 * then it also is not defined whether the x87 unit has been prepared for MMX. */
static bool masked_store(const struct soft_insn *i, const struct cpu_result *native)
{
	return i->map == MAP_0F && i->opcode == 0xf7 && of_memory(native);
}

/* PUSHA and POPA go as far as they come. */
static bool is_partial(const struct soft_insn *last, const struct cpu_result *native)
{
	return last->map == MAP_ONE && (last->opcode & 0xfe) == 0x60 && of_memory(native);
}

static struct soft_insn insn_at(const struct cpu_case *c, uint64_t rip)
{
	uint64_t at = rip - c->at;
	struct soft_insn i = {0};

	if (at < c->size)
		(void)soft_decode(c->code + at, c->size - (unsigned)at, c->mode, &i);
	return i;
}

static const char *fault_differs(const struct soft_insn *i, const struct cpu_result *a,
				 const struct cpu_result *b)
{
	if (a->out.rip != b->out.rip)
		return a->vector == b->vector ? "RIP" : "vector";
	if (other_reason(i, a, b))
		return NULL;
	if (a->vector != b->vector)
		return "vector";
	if (error_shown(a) != error_shown(b))
		return "error code";
	return a->vector == VEC_PF && a->cr2 != b->cr2 ? "CR2" : NULL;
}

/* LDMXCSR of a bit that the host's MXCSR has and the model's has not */
static bool mxcsr_of_host(const struct cpu_result *native, const struct cpu_result *soft)
{
	return soft->vector == VEC_GP && word(native->out.fpu + 24, 4) >> 16;
}

#define POINTERS 16u
static bool memory_differs(const struct cpu_case *c, const struct cpu_result *a,
			   const struct cpu_result *b)
{
	const uint8_t *x = (const uint8_t *)&a->memory, *y = (const uint8_t *)&b->memory;
	unsigned n = 0;

	if (!memcmp(x, y, sizeof(a->memory)))
		return false;
	for (size_t i = 0; i < sizeof(a->memory); i++)
		n += x[i] != y[i];
	return !c->pointers || n > POINTERS;
}

const char *results_differ(const struct cpu_case *c, const struct cpu_result *native,
			   const struct cpu_result *soft)
{
	uint32_t flags = (FLAGS_STATUS | FLAG_DF) & ~c->undefined;
	struct soft_insn last = insn_at(c, native->out.rip);
	const char *what;

	if (native->ending != ENDED)
		return native->ending == DIED ? "native run died" : "system call";
	if (undefined_either_way(native, soft) || too_long(c, native, soft) ||
	    mxcsr_of_host(native, soft) || masked_store(&last, native))
		return NULL;
	what = fault_differs(&last, native, soft);
	if (what || is_partial(&last, native))
		return what;
	if (memcmp(native->out.r, soft->out.r, sizeof(soft->out.r)))
		return "general register";
	if ((native->out.flags ^ soft->out.flags) & flags)
		return "flags";
	if (memory_differs(c, native, soft))
		return "memory";
	return fpu_differs(native, soft);
}

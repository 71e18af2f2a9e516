// SPDX-License-Identifier: Apache-2.0
/* The instruction forms of CPU model pollux-base, by group. */
#include "tests/cpu/cpu.h"

#define ANY (-1)

struct form {
	uint8_t prefix, map, opcode;
	int reg, memory;
};

static uint8_t pick(struct cpu_random *r, const char *list, size_t n)
{
	return (uint8_t)list[random_below(r, (unsigned)n)];
}
#define PICK(r, list) pick(r, list, sizeof(list) - 1)

/* ---- operands ------------------------------------------------------------------------------ */

static void put32(uint8_t *to, uint64_t v)
{
	uint32_t w = (uint32_t)v;

	memcpy(to, &w, sizeof(w));
}

static uint64_t data_address(struct cpu_random *r)
{
	return ARENA + random_below(r, 3 * (unsigned)VM_PAGE_SIZE);
}

/* ModRM, SIB and displacement of a memory operand; sets REX.X and REX.B. */
static unsigned memory_emit(struct cpu_random *r, uint8_t *to, uint64_t at, unsigned reg,
			    uint8_t *rex)
{
	/* those that mostly hold pointers: see registers_make() */
	unsigned base = random_below(r, 4) ? PICK(r, "\3\6\7\5\x9\xe") : random_below(r, 16);
	unsigned mod = random_below(r, 8) ? random_below(r, 2) : 2, kind = random_below(r, 8);
	unsigned n = 0;

	*rex &= 0xfc;
	if (kind == 0) { /* relative to RIP; without 64-bit mode, absolute */
		to[n++] = (uint8_t)(5 | reg << 3);
		put32(to + n, data_address(r) - (r->mode == MODE_64 ? at + 8 : 0));
		return n + 4;
	}
	*rex |= base >> 3;
	if (kind < 5 && (base & 7) != 4) {
		if ((base & 7) == 5 && !mod)
			mod = 1;
		to[n++] = (uint8_t)(mod << 6 | reg << 3 | (base & 7));
	} else {
		unsigned index = random_below(r, 2) ? 4 : random_below(r, 16);

		*rex |= index >> 3 << 1;
		to[n++] = (uint8_t)(mod << 6 | reg << 3 | 4);
		to[n++] = (uint8_t)(random_below(r, 4) << 6 | (index & 7) << 3 | (base & 7));
		if (!mod && (base & 7) == 5) {
			put32(to + n, data_address(r));
			return n + 4;
		}
	}
	if (mod == 2)
		put32(to + n, (uint64_t)random_below(r, 1024) - 512);
	else if (mod == 1)
		to[n] = (uint8_t)(random_next(r) & (random_below(r, 2) ? 0xf0 : 0xff));
	return n + (mod == 2 ? 4 : mod);
}

static unsigned modrm_emit(struct cpu_random *r, uint8_t *to, uint64_t at, const struct form *f,
			   uint8_t *rex)
{
	unsigned reg = f->reg == ANY ? random_below(r, 8) : (unsigned)f->reg;
	bool memory = f->memory == ANY ? random_below(r, 2) != 0 : f->memory != 0;

	if (memory)
		return memory_emit(r, to, at, reg, rex);
	to[0] = (uint8_t)(0xc0 | reg << 3 | random_below(r, 8));
	return 1;
}

/* ---- one instruction
 * ----------------------------------------------------------------------------- */

static unsigned prefixes_emit(struct cpu_random *r, uint8_t *to, uint8_t prefix)
{
	unsigned n = 0;

	if (prefix)
		to[n++] = prefix;
	if (!random_below(r, 24))
		to[n++] = 0x67;
	if (!random_below(r, 16))
		to[n++] = PICK(r, "\x64\x65\x2e\x36\x3e\x26");
	if (!random_below(r, 48))
		to[n++] = 0xf0;
	if (!random_below(r, 48))
		to[n++] = PICK(r, "\x66\xf2\xf3");
	return n;
}

/* Immediates are whatever the decoder takes for one: if it is wrong, the processor runs
 * into other octets. */
static unsigned form_emit(struct cpu_random *r, uint8_t *to, uint64_t at, const struct form *f)
{
	uint8_t rex = (uint8_t)(random_below(r, 2) ? 0x40 | random_below(r, 16) : 0x40);
	unsigned n = prefixes_emit(r, to, f->prefix), rex_at = n++;
	struct soft_insn insn;

	if (f->map)
		to[n++] = 0x0f;
	to[n++] = f->opcode;
	n += modrm_emit(r, to + n, at, f, &rex);
	to[rex_at] = rex;
	for (unsigned i = 0; i < 8; i++)
		to[n + i] = (uint8_t)(random_below(r, 2) ? random_next(r) : random_below(r, 40));
	if (r->mode != MODE_64 || (rex == 0x40 && random_below(r, 4))) {
		memmove(to + rex_at, to + rex_at + 1, n + 8 - rex_at);
		n--;
	}
	return soft_decode(to, n + 8, r->mode, &insn) || insn_is_excluded(&insn) ? 0 : insn.length;
}

static uint8_t size_prefix(struct cpu_random *r)
{
	return random_below(r, 4) ? 0 : 0x66;
}

/* ---- groups
 * ------------------------------------------------------------------------------------------ */

static unsigned emit_alu(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .reg = ANY, .memory = ANY};

	if (random_below(r, 2))
		f.opcode = (uint8_t)(random_below(r, 8) << 3 | random_below(r, 6));
	else if (r->mode == MODE_32 && random_below(r, 2))
		f.opcode = PICK(r, "\x27\x2f\x37\x3f\x40\x43\x48\x4c\x62\xd4\xd5");
	else
		f.opcode = PICK(r, "\x80\x81\x83\x84\x85\xa8\xa9\xfe\xff\xf6\xf7\x63\x98\x99\x9e"
				   "\x9f\xf5\xf8\xf9\xfc\xd7");
	if (f.opcode >= 0xfe)
		f.reg = (int)random_below(r, 2);
	return form_emit(r, to, at, &f);
}

static unsigned emit_move(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .reg = ANY, .memory = ANY};

	switch (random_below(r, 4)) {
	case 0:
		f.opcode = (uint8_t)(0xb0 | random_below(r, 16));
		break;
	case 1:
		f.map = 1;
		f.opcode = (uint8_t)(random_below(r, 2) ? 0x40 | random_below(r, 16)
							: PICK(r, "\xb6\xb7\xbe\xbf\xc3\xc8\xc9\xcf"
								  "\x1f\x18\x0d"));
		break;
	default:
		f.opcode = PICK(r, "\x86\x87\x88\x89\x8a\x8b\x8d\xc6\xc7\x90\x91\x97\x63\xa0\xa1"
				   "\xa2\xa3");
		f.reg = f.opcode == 0xc6 || f.opcode == 0xc7 ? 0 : ANY;
	}
	return form_emit(r, to, at, &f);
}

static unsigned emit_shift(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .reg = ANY, .memory = ANY};

	f.map = !random_below(r, 4);
	f.opcode = f.map ? PICK(r, "\xa4\xa5\xac\xad") : PICK(r, "\xc0\xc1\xd0\xd1\xd2\xd3");
	return form_emit(r, to, at, &f);
}

static unsigned emit_multiply(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .reg = ANY, .memory = ANY};

	f.map = !random_below(r, 4);
	f.opcode = f.map ? 0xaf : PICK(r, "\x69\x6b\xf6\xf7\xf6\xf7");
	if ((f.opcode & 0xfe) == 0xf6)
		f.reg = 4 + (int)random_below(r, 4);
	return form_emit(r, to, at, &f);
}

static unsigned emit_bits(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .map = 1, .reg = ANY, .memory = ANY};

	f.opcode = PICK(r, "\xa3\xab\xb3\xbb\xba\xba\xbc\xbd\xb8");
	if (f.opcode == 0xba)
		f.reg = 4 + (int)random_below(r, 4);
	if (f.opcode == 0xb8)
		f.prefix = 0xf3;
	return form_emit(r, to, at, &f);
}

static unsigned emit_exchange(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .map = 1, .reg = ANY, .memory = 1};

	f.opcode = PICK(r, "\xb0\xb1\xc0\xc1\xc7\xae\xae");
	if (f.opcode == 0xc7)
		f.reg = 1;
	else if (f.opcode == 0xae) /* fences, CLFLUSH */
		f = (struct form){0, 1, 0xae, 5 + (int)random_below(r, 3), 0};
	else if (random_below(r, 3)) {
		to[0] = 0xf0;
		unsigned n = form_emit(r, to + 1, at + 1, &f);

		return n ? n + 1 : 0;
	}
	return form_emit(r, to, at, &f);
}

static unsigned emit_string(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.reg = ANY};

	f.prefix = random_below(r, 3) ? (uint8_t)(0xf2 | random_below(r, 2)) : 0;
	f.opcode = PICK(r, "\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf");
	if (!random_below(r, 4)) {
		to[0] = 0x66;
		unsigned n = form_emit(r, to + 1, at + 1, &f);

		return n ? n + 1 : 0;
	}
	return form_emit(r, to, at, &f);
}

/* PUSH of what POPF may take: not AC; what a signal.s return leaves alone. */
static unsigned emit_popf(struct cpu_random *r, uint8_t *to)
{
	uint64_t mask =
		~(uint64_t)(FLAG_AC | FLAG_NT | FLAG_ID | (random_below(r, 8) ? FLAG_TF : 0));

	to[0] = 0x68;
	put32(to + 1, random_next(r) & mask);
	to[5] = 0x9d;
	return 6;
}

static unsigned emit_stack(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = size_prefix(r), .reg = ANY, .memory = ANY};

	switch (random_below(r, 6)) {
	case 5:
		return emit_popf(r, to);
	case 0:
	case 1:
		f.opcode = (uint8_t)(0x50 | random_below(r, 16));
		break;
	case 2:
		f.opcode = 0xff;
		f.reg = 6;
		break;
	case 3:
		f.opcode = 0x8f;
		f.reg = 0;
		break;
	default:
		f.opcode = r->mode == MODE_64 ? PICK(r, "\x68\x6a\xc8\xc9\x9c")
					      : PICK(r, "\x68\x6a\xc8\xc9\x9c\x60\x61\x06\x1e");
	}
	return form_emit(r, to, at, &f);
}

static unsigned emit_jump(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.reg = ANY, .memory = ANY};
	unsigned n;

	switch (random_below(r, 6)) {
	case 0:
		f.opcode = (uint8_t)(0x70 | random_below(r, 16));
		break;
	case 1:
		f.map = 1;
		f.opcode = (uint8_t)(0x80 | random_below(r, 16));
		break;
	case 2:
		f.opcode = 0xff;
		f.reg = random_below(r, 2) ? 2 : 4;
		break;
	case 3:
		f.map = 1;
		f.opcode = (uint8_t)(0x90 | random_below(r, 16));
		break;
	default:
		f.opcode = PICK(r, "\xe0\xe1\xe2\xe3\xe8\xe9\xeb\xc3\xc2");
	}
	n = form_emit(r, to, at, &f);
	if (n >= 5 && to[n - 5] == f.opcode && f.opcode != 0xff) /* a distance of 32 bits */
		put32(to + n - 4, (uint64_t)random_below(r, 12000) - 6000);
	return n;
}

static unsigned emit_sse(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.prefix = PICK(r, "\0\x66\xf2\xf3"), .map = 1, .reg = ANY, .memory = ANY};

	do
		f.opcode = (uint8_t)random_next(r);
	while (!((f.opcode >= 0x10 && f.opcode <= 0x17) || (f.opcode >= 0x28 && f.opcode <= 0x2f) ||
		 (f.opcode >= 0x50 && f.opcode <= 0x7f) || f.opcode == 0xc2 ||
		 (f.opcode >= 0xc4 && f.opcode <= 0xc6) || (f.opcode >= 0xd0 && f.opcode <= 0xfe) ||
		 f.opcode == 0xae));
	if (f.opcode == 0xae) /* LDMXCSR, STMXCSR */
		f = (struct form){0, 1, 0xae, 2 + (int)random_below(r, 2), 1};
	return form_emit(r, to, at, &f);
}

static unsigned emit_x87(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.reg = ANY, .memory = ANY};

	f.opcode = (uint8_t)(random_below(r, 32) ? 0xd8 | random_below(r, 8) : 0x9b);
	return form_emit(r, to, at, &f);
}

/* What CPL 3 must not do, and what nobody can. */
static unsigned emit_fault(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct form f = {.reg = ANY, .memory = ANY};

	f.map = random_below(r, 2);
	f.opcode = f.map ? PICK(r, "\x06\x08\x09\x0b\x20\x21\x22\x23\x30\x32\x04\x0a\xb9\xff\x36")
			 : PICK(r, "\xcc\xf4\xfa\xfb\xe4\xe5\xe6\xe7\xec\xed\xee\xef\x6c\x6d\x6e"
				   "\x6f\x06\x0e\x27\x37\x60\x61\xce\xd4\xd5\xd6\xea\x9a\x82");
	return form_emit(r, to, at, &f);
}

static unsigned emit_random(struct cpu_random *r, uint8_t *to, uint64_t at)
{
	struct soft_insn insn;
	int rc;

	for (unsigned i = 0; i < INSN_BYTES_MAX + 1; i++)
		to[i] = (uint8_t)random_next(r);
	if (random_below(r, 2))
		to[random_below(r, 3)] = 0x0f;
	if (!random_below(r, 64))
		memset(to, PICK(r, "\x36\x2e\xf2\x67"), 10 + random_below(r, 6));
	rc = soft_decode(to, INSN_BYTES_MAX, r->mode, &insn);
	if (rc)
		return INSN_BYTES_MAX + 1;
	return insn_is_excluded(&insn) ? 0 : insn.length;
}

const struct form_group form_groups[] = {
	{"alu", 12, emit_alu},       {"move", 8, emit_move},         {"shift", 6, emit_shift},
	{"bits", 4, emit_bits},      {"multiply", 5, emit_multiply}, {"exchange", 4, emit_exchange},
	{"string", 6, emit_string},  {"stack", 5, emit_stack},       {"jump", 6, emit_jump},
	{"sse", 16, emit_sse},       {"x87", 10, emit_x87},          {"fault", 3, emit_fault},
	{"random", 15, emit_random}, {"sequence", 34, NULL},
};
const unsigned form_group_count = ARRAY_LEN(form_groups);

const struct form_group *form_group_find(const char *name)
{
	for (unsigned i = 0; i < form_group_count; i++)
		if (!strcmp(name, form_groups[i].name))
			return &form_groups[i];
	return NULL;
}

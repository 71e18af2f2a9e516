// SPDX-License-Identifier: Apache-2.0
/* Cases: which instructions, upon which registers and memory. All of it follows from the
 * seed and the case's number. */
#include "tests/cpu/cpu.h"

struct cpu_memory images[IMAGES];
uint8_t page_readonly[VM_PAGE_SIZE];

/* splitmix64 */
uint64_t random_next(struct cpu_random *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

unsigned random_below(struct cpu_random *r, unsigned n)
{
	return (unsigned)((random_next(r) >> 32) % n);
}

/* ---- operands ------------------------------------------------------------------------------- */

static uint32_t single(struct cpu_random *r)
{
	static const uint32_t special[] = {
		0,          0x3f800000, 0x40000000, 0x7f800000, 0x7fc00000, 0x7fa00000, 0x00000001,
		0x007fffff, 0x00800000, 0x00800001, 0x7f7fffff, 0x4f000000, 0x4effffff, 0x3f000000,
		0x3effffff, 0x5f000000, 0x33800000, 0x1f800000, 0x20000000, 0x3fc00000, 0x00400000};

	return special[random_below(r, ARRAY_LEN(special))] ^ random_below(r, 2) << 31;
}

static uint64_t twice(struct cpu_random *r)
{
	static const uint64_t special[] = {0,
					   0x3ff0000000000000,
					   0x4000000000000000,
					   0x7ff0000000000000,
					   0x7ff8000000000000,
					   0x7ff4000000000000,
					   1,
					   0x000fffffffffffff,
					   0x0010000000000000,
					   0x7fefffffffffffff,
					   0x41dfffffffc00000,
					   0x41e0000000000000,
					   0x43e0000000000000,
					   0x3fe0000000000000,
					   0x380fffffe0000000,
					   0x47efffffe0000000,
					   0x1ff0000000000000,
					   0x0008000000000000};

	return special[random_below(r, ARRAY_LEN(special))] ^ (uint64_t)random_below(r, 2) << 63;
}

static uint64_t code_address(struct cpu_random *r)
{
	return CODE + random_below(r, CODE_SIZE);
}

static uint64_t operand(struct cpu_random *r, unsigned kind)
{
	switch (kind) {
	case 0:
		return random_next(r);
	case 1:
		return single(r) | (uint64_t)single(r) << 32;
	case 2:
		return twice(r);
	case 3:
		return random_below(r, 80);
	case 4: /* close to 1: sums and products that need rounding */
		return (random_next(r) & 0x807fffff807fffff) | 0x3f8000003f800000;
	case 5:
		return UINT64_C(1) << random_below(r, 64);
	case 6:
		return (uint64_t)(int64_t)(int8_t)random_next(r);
	default:
		return code_address(r);
	}
}

void operands_fill(struct cpu_random *r, void *to, size_t octets)
{
	uint8_t *p = to;
	unsigned kind = random_below(r, 8);

	for (size_t n = 0; n < octets; n += 8) {
		uint64_t v = operand(r, random_below(r, 4) ? kind : random_below(r, 8));

		memcpy(p + n, &v, octets - n < 8 ? octets - n : 8);
	}
}

void images_make(uint64_t seed)
{
	struct cpu_random r = {.state = seed ^ UINT64_C(0x6d656d6f7279)};

	for (unsigned i = 0; i < IMAGES; i++)
		for (unsigned at = 0; at < sizeof(images[i]); at += 64)
			operands_fill(&r, (uint8_t *)&images[i] + at, 64);
	for (unsigned at = 0; at < sizeof(page_readonly); at += 64)
		operands_fill(&r, page_readonly + at, 64);
}

/* ---- registers --------------------------------------------------------------------------------
 */

static uint64_t pointer(struct cpu_random *r)
{
	static const uint64_t rare[] = {0x1ff0, 0x0ff0, 0x2ff0, 0x4ff0, 0, 0x3000};
	uint64_t offset = random_below(r, 2 * (unsigned)VM_PAGE_SIZE);

	if (!random_below(r, 12))
		return random_below(r, 8) ? ARENA + rare[random_below(r, 6)] + random_below(r, 16)
					  : random_next(r);
	if (!random_below(r, 16))
		offset += VM_PAGE_SIZE;
	return ARENA + (random_below(r, 6) ? offset & ~UINT64_C(15) : offset);
}

static uint64_t stack_pointer(struct cpu_random *r)
{
	uint64_t at = STACK + 8 * random_below(r, (unsigned)VM_PAGE_SIZE / 8);

	return random_below(r, 32) ? at : at + random_below(r, 8);
}

static void registers_make(struct cpu_random *r, struct cpu_registers *in)
{
	static const uint16_t pointers = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 14;

	for (unsigned n = 0; n < 16; n++)
		in->r[n] = random_below(r, 8) < (pointers >> n & 1 ? 7 : 1)
				   ? pointer(r)
				   : operand(r, random_below(r, 8));
	in->r[SOFT_RSP] = random_below(r, 32) ? stack_pointer(r) : pointer(r);
	if (random_below(r, 2))
		in->r[SOFT_RCX] = random_below(r, 40);
	if (!random_below(r, 4)) /* so that a division does not overflow */
		in->r[SOFT_RDX] =
			random_below(r, 2) ? 0 : (uint64_t)((int64_t)in->r[SOFT_RAX] >> 63);
	if (r->mode == MODE_32)
		for (unsigned n = 0; n < 8; n++)
			in->r[n] = (uint32_t)in->r[n];
	in->flags = FLAG_ONE | FLAG_IF | (random_next(r) & FLAGS_STATUS);
	in->flags |= random_below(r, 4) ? 0 : FLAG_DF;
	in->fs = random_below(r, 2) || r->mode != MODE_64 ? 0 : 16 * random_below(r, 16);
	in->gs = random_below(r, 2) || r->mode != MODE_64 ? 0 : random_below(r, 4096);
}

static void fpu_make(struct cpu_random *r, struct cpu_registers *in)
{
	uint8_t *f = in->fpu;
	uint16_t control = (uint16_t)(0x37f | (random_next(r) & 0xc00)), status;
	uint32_t mxcsr = 0x1f80 | (random_next(r) & 0x603f);

	if (!random_below(r, 4))
		control = (uint16_t)(0x40 | (random_next(r) & 0xf3f));
	if (!random_below(r, 4))
		mxcsr = random_next(r) & 0xffff;
	status = (uint16_t)(random_next(r) & (random_below(r, 8) ? 0x7f40 : 0x7f7f));
	/* The summary of exceptions that are not masked */
	if (status & ~control & 0x3f)
		status |= 0x8080;
	memset(f, 0, sizeof(in->fpu));
	memcpy(f, &control, 2);
	memcpy(f + 2, &status, 2);
	f[4] = (uint8_t)(random_below(r, 2) ? random_next(r) : random_below(r, 2) ? 0xff : 0);
	memcpy(f + 24, &mxcsr, 4);
	for (unsigned n = 0; n < 8; n++) {
		uint64_t m = operand(r, random_below(r, 8));
		uint16_t e = (uint16_t)random_next(r);

		if (random_below(r, 4)) { /* a number near 1 */
			m |= UINT64_C(1) << 63;
			e = (uint16_t)((e & 0x8000) | (0x3fff - 32 + random_below(r, 64)));
		} else if (!random_below(r, 3)) {
			e |= 0x7fff;
		}
		memcpy(f + 32 + 16 * n, &m, 8);
		memcpy(f + 40 + 16 * n, &e, 2);
	}
	for (unsigned n = 0; n < 16; n++)
		operands_fill(r, f + 160 + 16 * n, 16);
}

/* ---- code
 * ----------------------------------------------------------------------------------------- */

static const struct form_group *group_choose(struct cpu_random *r, bool sequences)
{
	unsigned total = 0, at;

	for (unsigned i = 0; i < form_group_count; i++)
		total += form_groups[i].emit || sequences ? form_groups[i].weight : 0;
	at = random_below(r, total);
	for (const struct form_group *g = form_groups;; g++) {
		if (!g->emit && !sequences)
			continue;
		if (at < g->weight)
			return g;
		at -= g->weight;
	}
}

/* In the middle of a page, across its end, or before one where there is no code. */
static uint64_t place_choose(struct cpu_random *r, unsigned size)
{
	switch (random_below(r, 12)) {
	case 0:
		return CODE + VM_PAGE_SIZE - random_below(r, size + 1);
	case 1:
		return CODE + CODE_SIZE - size +
		       (random_below(r, 2) ? 0 : 1) * random_below(r, size);
	default:
		return CODE + random_below(r, CODE_SIZE - CODE_MAX);
	}
}

static void code_place(struct cpu_random *r, struct cpu_case *c)
{
	c->at = place_choose(r, c->size);
	if (c->at + c->size > CODE + CODE_SIZE)
		c->size = (unsigned)(CODE + CODE_SIZE - c->at);
	c->in.rip = c->at;
}

static bool stores_pointers(const struct soft_insn *i)
{
	return i->map == MAP_ONE && (i->opcode == 0xd9 || i->opcode == 0xdd) && i->memory &&
	       (i->reg & 7) == 6;
}

static void single_make(struct cpu_random *r, struct cpu_case *c)
{
	struct soft_insn insn;

	do
		c->size = c->group->emit(r, c->code, CODE + VM_PAGE_SIZE);
	while (!c->size);
	c->undefined = 0;
	if (soft_decode(c->code, c->size, c->mode, &insn))
		return;
	c->undefined = insn_flags_undefined(&insn);
	c->pointers = stores_pointers(&insn);
}

/* Flags that are left undefined must not be looked at: the next instruction sets all. */
static bool fits_sequence(const struct soft_insn *i)
{
	bool looks = i->map == MAP_ONE && memchr("\x9f\x9c\x27\x2f\x37\x3f", i->opcode, 6);

	return !looks && !stores_pointers(i) && !insn_is_branch(i) && !insn_is_later(i);
}

static unsigned step_emit(struct cpu_random *r, struct cpu_case *c)
{
	static const uint8_t redefine[] = {0x04, 0x00}; /* ADD AL, 0 */
	struct soft_insn insn;
	uint8_t bytes[32];
	uint32_t undefined;
	unsigned n = group_choose(r, false)->emit(r, bytes, CODE + VM_PAGE_SIZE);

	if (!n || n > INSN_BYTES_MAX || soft_decode(bytes, n, c->mode, &insn) ||
	    !fits_sequence(&insn) || c->size + n + 8 > CODE_MAX)
		return 0;
	undefined = insn_flags_undefined(&insn);
	c->undefined |= undefined;
	if (undefined & ~(uint32_t)FLAG_AF) {
		memcpy(bytes + n, redefine, sizeof(redefine));
		n += (unsigned)sizeof(redefine);
	}
	memcpy(c->code + c->size, bytes, n);
	c->size += n;
	return n;
}

/* Two to eight instructions; a jump may skip one, a loop may repeat all. */
static void sequence_make(struct cpu_random *r, struct cpu_case *c)
{
	unsigned steps = 2 + random_below(r, 7);

	c->size = 0;
	c->undefined = 0;
	for (unsigned i = 0; i < steps && c->size + 40 < CODE_MAX;) {
		unsigned jump = c->size, n;

		if (!random_below(r, 5)) {
			c->code[c->size++] = (uint8_t)(0x70 | random_below(r, 16));
			c->code[c->size++] = 0;
		}
		do
			n = step_emit(r, c);
		while (!n);
		if (c->size - n != jump)
			c->code[jump + 1] = (uint8_t)n;
		i++;
	}
	if (!random_below(r, 3)) { /* LOOP to the first */
		c->code[c->size++] = 0xe2;
		c->code[c->size] = (uint8_t) - (int)(c->size + 1);
		c->size++;
		c->in.r[SOFT_RCX] = 1 + random_below(r, 4);
	}
}

/* A branch may land between two instructions: nothing there may be excluded. */
static bool code_is_allowed(const struct cpu_case *c)
{
	uint8_t code[CODE_MAX + INSN_BYTES_MAX];
	struct soft_insn insn;
	bool branches = false;

	memset(code, 0xcc, sizeof(code));
	memcpy(code, c->code, c->size);
	if (!soft_decode(code, INSN_BYTES_MAX, c->mode, &insn))
		branches = insn_is_branch(&insn);
	for (unsigned at = 1; branches && at < c->size; at++)
		if (!soft_decode(code + at, INSN_BYTES_MAX, c->mode, &insn) &&
		    (insn_is_excluded(&insn) || insn_is_later(&insn)))
			return false;
	return true;
}

void case_make(struct cpu_case *c, uint64_t seed, uint64_t number, const struct form_group *only)
{
	struct cpu_random mix = {.state = number}, r = {.state = seed ^ random_next(&mix)};

	c->mode = r.mode = random_below(&r, 5) ? MODE_64 : MODE_32;
	c->number = number;
	c->skip = c->pointers = false;
	registers_make(&r, &c->in);
	fpu_make(&r, &c->in);
	c->image = random_below(&r, IMAGES);
	c->group = only ? only : group_choose(&r, true);
	do
		if (c->group->emit)
			single_make(&r, c);
		else
			sequence_make(&r, c);
	while (!code_is_allowed(c));
	code_place(&r, c);
}

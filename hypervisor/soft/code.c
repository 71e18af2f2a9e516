// SPDX-License-Identifier: Apache-2.0
/*
 * Decoded blocks. All of them lie in one arena, one after the other; dropping a page only
 * takes its blocks out of the hash table, and a full arena drops everything. Links go from
 * block to block of one page only: they die together.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "hypervisor/soft/decode.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define ARENA_SIZE      (UINT64_C(96) << 20)
#define HASH_SIZE       (1u << 16)
#define BLOCK_INSNS_MAX 64
#define INSN_OPS_MAX    8
#define BLOCK_OPS_MAX   (BLOCK_INSNS_MAX * 2 + INSN_OPS_MAX)
#define SINGLES         256

struct block {
	uint64_t key; /* physical address, mode in the high bits */
	struct block *hash_next, *page_next;
	uint32_t count, page; /* operations; RAM page */
};

/* An instruction decoded outside of blocks, because it crosses a page: its bytes are
 * compared each time. */
struct single {
	uint8_t bytes[INSN_BYTES_MAX], length, mode;
	uint16_t off;
	struct soft_op ops[INSN_OPS_MAX + 1];
};

struct soft_code {
	uint8_t *arena;
	size_t used;
	struct block **pages; /* blocks of each RAM page */
	struct block *hash[HASH_SIZE];
	struct single singles[SINGLES];
};

#define OPS_AT     64 /* from the head of a block to its first operation */
#define BLOCK_ROOM (OPS_AT + BLOCK_OPS_MAX * sizeof(struct soft_op))
_Static_assert(sizeof(struct block) <= OPS_AT, "room for the head");

static struct soft_op *first_of(struct block *b)
{
	return (struct soft_op *)((uint8_t *)b + OPS_AT);
}

int soft_code_create(struct engine *en, struct soft_code **out)
{
	struct soft_code *code = calloc(1, sizeof(*code));
	void *arena;

	if (!code)
		return -ENOMEM;
	code->pages = calloc(en->memory->size / VM_PAGE_SIZE, sizeof(struct block *));
	arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!code->pages || arena == MAP_FAILED) {
		free(code->pages);
		free(code);
		return -ENOMEM;
	}
	(void)madvise(arena, ARENA_SIZE, MADV_HUGEPAGE);
	code->arena = arena;
	*out = code;
	return 0;
}

void soft_code_destroy(struct soft_code *code)
{
	if (!code)
		return;
	munmap(code->arena, ARENA_SIZE);
	free(code->pages);
	free(code);
}

/* ---- finding and dropping ---------------------------------------------------------------- */

static uint64_t key_of(uint64_t physical, unsigned mode)
{
	return physical | (uint64_t)mode << 60;
}

static unsigned hash_of(uint64_t key)
{
	return (unsigned)((key ^ key >> 12 ^ key >> 44) & (HASH_SIZE - 1));
}

static struct block *block_find(const struct soft_code *code, uint64_t key)
{
	struct block *b = code->hash[hash_of(key)];

	while (b && b->key != key)
		b = b->hash_next;
	return b;
}

static uint64_t ram_page(const struct engine *en, const uint8_t *host)
{
	return (uint64_t)(host - en->memory->base) / VM_PAGE_SIZE;
}

bool soft_code_in(const struct engine *en, const uint8_t *host)
{
	return en->code->pages[ram_page(en, host)];
}

static void jumps_drop(struct engine *en)
{
	for (unsigned i = 0; i < en->vcpus; i++) {
		en->cpu[i]->epoch++;
		soft_tlb_select(en->cpu[i]);
	}
}

static void block_unhash(struct soft_code *code, struct block *b)
{
	struct block **at = &code->hash[hash_of(b->key)];

	while (*at != b)
		at = &(*at)->hash_next;
	*at = b->hash_next;
}

/* RIP of an octet of the current page, or behind it. Longer than IP in 16-bit code: who runs
 * off the end of its segment is to be caught, and not to begin anew. */
static uint64_t rip_in_page(const struct soft_cpu *cpu, int64_t off)
{
	uint64_t rip = cpu->r[SOFT_PAGE] + (uint64_t)off - cpu->r[SOFT_BASE_CS];

	return cpu->mode == MODE_64 ? rip : (uint32_t)rip;
}

/* Goes on behind an instruction whose block has been dropped under it. */
static struct soft_op *op_dropped(struct soft_cpu *cpu, struct soft_op *op)
{
	cpu->icount += op->seq;
	cpu->rip = rip_in_page(cpu, op->off);
	return NULL;
}

/* Nobody enters the block again, by whatever link. It may be what executes: then the
 * instructions after this one are stale, too. */
static void block_stop(struct block *b, const struct soft_op *running)
{
	struct soft_op *op = first_of(b), *end = op + b->count;

	op->run = op_dropped;
	if (running < op || running >= end)
		return;
	for (op += running - op; op < end; op++)
		if (op->seq != running->seq)
			op->run = op_dropped;
}

void soft_code_drop_page(struct engine *en, const uint8_t *host)
{
	struct soft_code *code = en->code;
	struct block **head = &code->pages[ram_page(en, host)];

	for (struct block *b = *head; b; b = b->page_next) {
		block_unhash(code, b);
		for (unsigned i = 0; i < en->vcpus; i++)
			block_stop(b, en->cpu[i]->op);
	}
	*head = NULL;
	soft_code_watch(en, host, false);
	jumps_drop(en);
}

void soft_code_drop_all(struct engine *en)
{
	struct soft_code *code = en->code;
	uint64_t pages = en->memory->size / VM_PAGE_SIZE;

	/* Whoever loads a state has none, and must not touch tables of the size of the guest's
	 * memory. */
	for (uint64_t p = 0; code->used && p < pages; p++)
		if (code->pages[p]) {
			soft_code_watch(en, en->memory->base + p * VM_PAGE_SIZE, false);
			code->pages[p] = NULL;
		}
	if (code->used)
		memset(code->hash, 0, sizeof(code->hash));
	code->used = 0;
	jumps_drop(en);
}

/* ---- decoding -------------------------------------------------------------------------------- */

static struct soft_op *op_continue(struct soft_cpu *cpu, struct soft_op *op)
{
	return op->disp < (int)VM_PAGE_SIZE && !(op->flags & OP_SINGLE)
		       ? soft_jump_near(cpu, op)
		       : soft_jump_to(cpu, op, rip_in_page(cpu, op->disp));
}

/* Where the last instruction does not leave, the next one follows: in another block. */
static void block_close(struct soft_builder *b, uint16_t next, uint8_t seq)
{
	struct soft_op *op = &b->ops[b->count++];

	*op = (struct soft_op){
		.run = op_continue,
		.disp = next,
		.off = next,
		.seq = (uint8_t)(seq - 1),
		.flags = b->flags,
	};
}

/* As many instructions of the page as make a block. Returns how many. */
static unsigned block_decode(struct soft_builder *b, const uint8_t *page, unsigned off,
			     enum soft_mode mode)
{
	struct soft_insn insn;
	unsigned n = 0;

	while (n < BLOCK_INSNS_MAX && off < VM_PAGE_SIZE && b->count + INSN_OPS_MAX < b->room) {
		int rc = soft_decode(page + off, VM_PAGE_SIZE - off, mode, &insn);

		if (rc)
			break; /* crosses the page, or is too long: on its own */
		b->seq = (uint8_t)n++;
		soft_translate(b, &insn, (uint16_t)off);
		off += insn.length;
		if (b->ends)
			return n;
	}
	if (n)
		block_close(b, (uint16_t)off, (uint8_t)n);
	return n;
}

static struct block *block_make(struct engine *en, const uint8_t *page, uint64_t physical,
				unsigned mode)
{
	struct soft_code *code = en->code;
	struct block *b;
	struct soft_builder builder = {.room = BLOCK_OPS_MAX};

	b = (struct block *)(code->arena + code->used);
	builder.ops = first_of(b);
	if (!block_decode(&builder, page, physical & ~SOFT_PAGE_MASK, mode))
		return NULL;
	*b = (struct block){
		.key = key_of(physical, mode),
		.count = builder.count,
		.page = (uint32_t)ram_page(en, page),
	};
	code->used += OPS_AT + (builder.count * sizeof(struct soft_op) + 63) / 64 * 64;
	return b;
}

/* Before the page is read: a device that writes to it meanwhile is noticed. A full arena is
 * emptied here, as that takes the guards from all pages. */
static void page_guard(struct engine *en, const uint8_t *page)
{
	if (en->code->used + BLOCK_ROOM > ARENA_SIZE)
		soft_code_drop_all(en);
	if (soft_code_in(en, page))
		return;
	soft_tlb_protect_page(en, page);
	soft_code_watch(en, page, true);
}

static void block_enter(struct soft_code *code, struct block *b)
{
	struct block **hash = &code->hash[hash_of(b->key)], **list = &code->pages[b->page];

	b->hash_next = *hash;
	*hash = b;
	b->page_next = *list;
	*list = b;
}

/* Jumps have looked at the limit; running across the end of a page or a block has not. */
static void limit_check(struct soft_cpu *cpu)
{
	if (cpu->mode != MODE_64 && cpu->rip > cpu->seg[SEG_CS].limit)
		soft_raise_error(cpu, NULL, VEC_GP, 0);
}

static uint64_t linear_rip(const struct soft_cpu *cpu)
{
	uint64_t va = cpu->rip + cpu->r[SOFT_BASE_CS];

	return cpu->mode == MODE_64 ? va : va & UINT32_MAX;
}

struct soft_op *soft_code_at(struct soft_cpu *cpu)
{
	struct engine *en = cpu->engine;
	uint64_t va = linear_rip(cpu), physical;
	const uint8_t *page;
	struct block *b;

	limit_check(cpu);
	physical = soft_fetch_translate(cpu, va, &page);
	if (!page)
		return soft_code_single(cpu);
	b = block_find(en->code, key_of(physical, cpu->mode));
	if (!b) {
		page_guard(en, page);
		b = block_make(en, page, physical, cpu->mode);
		if (!b)
			return soft_code_single(cpu);
		block_enter(en->code, b);
	}
	cpu->r[SOFT_PAGE] = va & SOFT_PAGE_MASK;
	return first_of(b);
}

/* ---- instructions on their own ------------------------------------------------------------------
 */

/* Octets at va; those of the second page only if the first ones do not suffice. */
static int single_fetch(struct soft_cpu *cpu, uint64_t va, struct soft_insn *insn)
{
	uint8_t bytes[INSN_BYTES_MAX];
	size_t have = VM_PAGE_SIZE - (va & ~SOFT_PAGE_MASK);
	const uint8_t *page;
	int rc;

	if (have > sizeof(bytes))
		have = sizeof(bytes);
	soft_fetch_translate(cpu, va, &page);
	if (!page)
		return -EINVAL;
	soft_copy(bytes, page + (va & ~SOFT_PAGE_MASK), have);
	rc = soft_decode(bytes, have, cpu->mode, insn);
	if (rc != -EAGAIN)
		return rc;
	soft_fetch_translate(cpu, va + have, &page);
	if (!page)
		return -EINVAL;
	soft_copy(bytes + have, page, sizeof(bytes) - have);
	return soft_decode(bytes, sizeof(bytes), cpu->mode, insn);
}

static bool single_is(const struct single *s, const struct soft_insn *insn, uint64_t va)
{
	return s->length == insn->length && s->mode == insn->mode &&
	       s->off == (va & ~SOFT_PAGE_MASK) && !memcmp(s->bytes, insn->bytes, s->length);
}

static void single_make(struct single *s, const struct soft_insn *insn, uint16_t off)
{
	struct soft_builder b = {.ops = s->ops, .room = INSN_OPS_MAX, .flags = OP_SINGLE};

	soft_translate(&b, insn, off);
	if (!b.ends)
		block_close(&b, (uint16_t)(off + insn->length), 1);
	s->length = insn->length;
	s->mode = insn->mode;
	s->off = off;
	memcpy(s->bytes, insn->bytes, insn->length);
}

struct soft_op *soft_code_single(struct soft_cpu *cpu)
{
	uint64_t va = linear_rip(cpu);
	struct single *s = &cpu->engine->code->singles[(va ^ va >> 12) % SINGLES];
	struct soft_insn insn;

	limit_check(cpu);
	/* Too long, or code that is not in RAM. */
	if (single_fetch(cpu, va, &insn))
		soft_raise_error(cpu, NULL, VEC_GP, 0);
	if (!single_is(s, &insn, va))
		single_make(s, &insn, (uint16_t)(va & ~SOFT_PAGE_MASK));
	cpu->r[SOFT_PAGE] = va & SOFT_PAGE_MASK;
	return s->ops;
}

/* ---- jumps
 * ----------------------------------------------------------------------------------------- */

struct soft_op *soft_jump_find(struct soft_cpu *cpu)
{
	uint64_t rip = cpu->rip;
	struct soft_jump *j = &cpu->jumps[(rip ^ rip >> 12) & (SOFT_JUMP_SIZE - 1)];
	struct soft_op *to;

	if (LIKELY(j->rip == rip && j->generation == cpu->generation)) {
		cpu->r[SOFT_PAGE] = linear_rip(cpu) & SOFT_PAGE_MASK;
		return j->first;
	}
	to = soft_code_at(cpu);
	if (!(to->flags & OP_SINGLE))
		*j = (struct soft_jump){.rip = rip, .generation = cpu->generation, .first = to};
	return to;
}

struct soft_op *soft_jump_to(struct soft_cpu *cpu, struct soft_op *op, uint64_t rip)
{
	struct soft_op *to;

	cpu->icount += op->seq + 1u;
	cpu->rip = rip;
	if (UNLIKELY(soft_must_look(cpu)))
		return NULL;
	to = soft_jump_find(cpu);
	return SOFT_CALL(cpu, to);
}

static struct block *block_of(struct soft_op *op)
{
	while (op->seq || !(op->flags & OP_FIRST))
		op--;
	return (struct block *)((uint8_t *)op - OPS_AT);
}

struct soft_op *soft_jump_near_slow(struct soft_cpu *cpu, struct soft_op *op)
{
	size_t used = cpu->engine->code->used;
	struct soft_op *to;

	cpu->rip = rip_in_page(cpu, op->disp);
	if (soft_must_look(cpu))
		return NULL;
	to = soft_code_at(cpu);
	/* The arena may have been emptied, or the linear page may have come to mean another
	 * physical one: then the two blocks have nothing to do with each other. */
	if (cpu->engine->code->used >= used && !(to->flags & OP_SINGLE) &&
	    block_of(op)->page == block_of(to)->page)
		op->link = to;
	return SOFT_CALL(cpu, to);
}

struct soft_op *soft_leave(struct soft_cpu *cpu, struct soft_op *op, uint64_t rip)
{
	cpu->icount += op->seq + 1u;
	cpu->rip = rip;
	return NULL;
}

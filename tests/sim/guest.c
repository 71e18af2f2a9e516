// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <string.h>

#include "tests/sim/sim.h"

static int lineage_new(struct world *w, int parent, uint64_t base)
{
	assert(w->lineages < LINEAGES_MAX);
	w->lineage[w->lineages] = (struct lineage){.parent = parent, .base = base};
	return w->lineages++;
}

void guest_twin(struct world *w, struct guest *g)
{
	*g = (struct guest){.lineage = -1};
	if (w->settings.engine)
		g->engine = engine_open(w);
}

void guest_boot(struct world *w, struct guest *g)
{
	guest_twin(w, g);
	g->lineage = lineage_new(w, -1, 0);
	if (g->engine && !engine_boot(g->engine))
		violate(w, V_CORE, "the vm does not boot");
	g->state = chance_u64(w);
	for (int i = 0; i < GUEST_PAGES; i++)
		g->page[i] = chance_u64(w);
}

bool guest_wake(struct world *w, struct guest *g)
{
	g->lineage = lineage_branch(w, g);
	g->dirty = (struct page_set){0};
	return !g->engine || engine_wake(w, g->engine, g->machine);
}

int lineage_branch(struct world *w, const struct guest *g)
{
	return lineage_new(w, g->lineage, g->outputs);
}

/* Does g's past contain output `number` as made by `lineage`? */
bool lineage_contains(const struct world *w, const struct guest *g, int lineage, uint64_t number)
{
	int at = g->lineage;

	if (number > g->outputs)
		return false;
	while (at >= 0 && number <= w->lineage[at].base)
		at = w->lineage[at].parent;
	return at == lineage;
}

/* ---- sets of pages ------------------------------------------------------------- */

struct page_set pages_between(unsigned from, unsigned to)
{
	struct page_set s = {0};

	bitmap_set_range(s.bits, from, to - from);
	return s;
}

void pages_merge(struct page_set *into, struct page_set from)
{
	bitmap_merge(into->bits, from.bits, 128);
}

unsigned guest_pages(const struct guest *g)
{
	return g->engine ? PAGES_MAX : GUEST_PAGES;
}

void guest_watch(struct guest *g)
{
	if (g->engine)
		engine_watch(g->engine);
	guest_harvest(g);
}

/* What a failed seal gave back is in g->dirty, also for a vm. */
struct page_set guest_harvest(struct guest *g)
{
	struct page_set dirty = g->dirty;

	if (g->engine)
		engine_harvest(g->engine, &dirty);
	g->dirty = (struct page_set){0};
	return dirty;
}

/* ---- life --------------------------------------------------------------------------- */

static unsigned engine_life(struct world *w, struct guest *g)
{
	unsigned made = engine_step(w, g->engine);

	g->outputs += made;
	return made;
}

unsigned guest_step(struct world *w, struct guest *g)
{
	unsigned writes = 1 + (unsigned)chance_below(w, 3);

	if (g->engine)
		return engine_life(w, g);
	g->state = g->state * UINT64_C(6364136223846793005) + chance_u64(w);
	while (writes--) {
		unsigned page = (unsigned)chance_below(w, GUEST_PAGES);

		g->page[page] = chance_u64(w);
		bitmap_set(g->dirty.bits, page);
	}
	if (!chance_percent(w, 40))
		return 0;
	g->outputs++;
	return 1;
}

/* ---- epochs --------------------------------------------------------------------------- */

static struct page_copy page_copied(struct world *w, const struct guest *g, unsigned page)
{
	struct page_copy c = {.page = (uint8_t)page};
	size_t len;
	uint8_t *from, *kept;

	if (!g->engine) {
		c.word = g->page[page];
		return c;
	}
	from = engine_page(g->engine, page, &len);
	kept = keep(w, len);
	memcpy(kept, from, len);
	c.bytes = kept;
	return c;
}

/* The pages of one stream: odd ones and even ones. The state travels with stream 0. */
void guest_pack(struct world *w, const struct guest *g, struct page_set pages, unsigned stream,
		struct cargo *c)
{
	c->count = 0;
	for (unsigned i = stream; i < guest_pages(g); i += BULKS)
		if (bitmap_test(pages.bits, i))
			c->item[c->count++] = page_copied(w, g, i);
	c->has_state = stream == 0;
	c->state = g->state;
	c->outputs = g->outputs;
	c->lineage = g->lineage;
	c->machine = (struct blob){0};
	if (g->engine && c->has_state)
		c->machine = engine_machine(w, g->engine);
}

static void page_apply(struct guest *g, const struct page_copy *c)
{
	size_t len;
	uint8_t *to;

	if (!g->engine) {
		g->page[c->page] = c->word;
		return;
	}
	to = engine_page(g->engine, c->page, &len);
	memcpy(to, c->bytes, len);
}

void guest_apply(struct guest *g, const struct cargo *c, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to && i < c->count; i++)
		page_apply(g, &c->item[i]);
	if (!c->has_state || to < c->count)
		return;
	g->state = c->state;
	g->outputs = c->outputs;
	g->lineage = c->lineage;
	g->machine = c->machine;
}

static uint64_t fold(uint64_t h, const uint8_t *data, size_t n)
{
	uint64_t word;

	for (; n >= 8; data += 8, n -= 8) {
		memcpy(&word, data, 8);
		h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15) + (h >> 29);
	}
	for (; n; n--)
		h = (h ^ *data++) * UINT64_C(0x100000001b3);
	return h;
}

/* Of a running guest `machine` is its state at this moment, of a twin what it has. */
uint64_t guest_print(const struct guest *g, struct blob machine)
{
	uint64_t h = g->state ^ (g->outputs * 31) ^ ((uint64_t)g->lineage << 48);

	if (!g->engine)
		return fold(h, (const uint8_t *)g->page, sizeof(g->page));
	for (unsigned i = 0; i < PAGES_MAX; i++) {
		size_t len;
		const uint8_t *page = engine_page(g->engine, i, &len);

		h = fold(h, page, len);
	}
	return fold(h, machine.data, machine.len);
}

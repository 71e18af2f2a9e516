// SPDX-License-Identifier: Apache-2.0
#include <assert.h>

#include "tests/sim/sim.h"

static int lineage_new(struct world *w, int parent, uint64_t base)
{
	assert(w->lineages < LINEAGES_MAX);
	w->lineage[w->lineages] = (struct lineage){.parent = parent, .base = base};
	return w->lineages++;
}

void guest_boot(struct world *w, struct guest *g)
{
	*g = (struct guest){.state = chance_u64(w), .lineage = lineage_new(w, -1, 0)};
	for (int i = 0; i < GUEST_PAGES; i++)
		g->page[i] = chance_u64(w);
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

bool guest_step(struct world *w, struct guest *g)
{
	unsigned writes = 1 + (unsigned)chance_below(w, 3);

	g->state = g->state * UINT64_C(6364136223846793005) + chance_u64(w);
	while (writes--) {
		unsigned page = (unsigned)chance_below(w, GUEST_PAGES);

		g->page[page] = chance_u64(w);
		g->dirty |= 1u << page;
	}
	if (!chance_percent(w, 40))
		return false;
	g->outputs++;
	return true;
}

uint32_t guest_harvest(struct guest *g)
{
	uint32_t dirty = g->dirty;

	g->dirty = 0;
	return dirty;
}

/* The pages of one stream: odd ones and even ones. The state travels with stream 0. */
void guest_pack(const struct guest *g, uint32_t pages, unsigned stream, struct cargo *c)
{
	c->count = 0;
	for (unsigned i = stream; i < GUEST_PAGES; i += BULKS)
		if (pages & (1u << i))
			c->item[c->count++] = (struct page_copy){(uint8_t)i, g->page[i]};
	c->has_state = stream == 0;
	c->state = g->state;
	c->outputs = g->outputs;
	c->lineage = g->lineage;
}

void guest_apply(struct guest *g, const struct cargo *c, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to && i < c->count; i++)
		g->page[c->item[i].page] = c->item[i].value;
	if (!c->has_state || to < c->count)
		return;
	g->state = c->state;
	g->outputs = c->outputs;
	g->lineage = c->lineage;
}

uint64_t guest_print(const struct guest *g)
{
	uint64_t h = g->state ^ (g->outputs * 31) ^ ((uint64_t)g->lineage << 48);

	for (int i = 0; i < GUEST_PAGES; i++)
		h = (h ^ g->page[i]) * UINT64_C(0x100000001b3) + (h >> 29);
	return h;
}

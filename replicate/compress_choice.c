// SPDX-License-Identifier: Apache-2.0
#include "replicate/compress_choice.h"

#define WAITS      0.1 /* a share of the time that says that the link is what takes it */
#define GAIN       0.9 /* of what the present way costs: the other must be below, to take its place */
#define TRY_FIRST  16u
#define TRY_SELDOM 256u

void compress_choice_setup(struct compress_choice *c)
{
	*c = (struct compress_choice){
		.way = COMPRESS_LZ4, .settled = COMPRESS_LZ4, .left = 1, .patience = TRY_FIRST};
}

static enum page_compression other(enum page_compression way)
{
	return way == COMPRESS_NONE ? COMPRESS_LZ4 : COMPRESS_NONE;
}

double compress_choice_cost(const struct compress_choice *c, enum page_compression way)
{
	const struct choice_way *w = &c->ways[way];
	double thread = c->encode + w->pack + c->send * w->ratio, link = c->link * w->ratio;

	return thread > link ? thread : link;
}

/* Waiting shows what the link takes. Without it the link takes no more than all of it did. */
static void link_learn(struct compress_choice *c, const struct choice_window *w)
{
	double all = (double)(w->encode_ns + w->pack_ns + w->send_ns), seen = all / (double)w->wire;

	if ((double)w->wait_ns >= WAITS * all)
		c->link = seen;
	else if (c->link > seen)
		c->link = seen;
}

static void window_learn(struct compress_choice *c, const struct choice_window *w)
{
	uint64_t wait = w->wait_ns < w->send_ns ? w->wait_ns : w->send_ns;

	c->ways[c->way] = (struct choice_way){.known = true,
					      .pack = (double)w->pack_ns / (double)w->body,
					      .ratio = (double)w->wire / (double)w->body};
	c->encode = (double)w->encode_ns / (double)w->body;
	c->send = (double)(w->send_ns - wait) / (double)w->wire;
	link_learn(c, w);
}

static void settle(struct compress_choice *c)
{
	enum page_compression to = other(c->settled);

	if (!c->ways[to].known || !c->ways[c->settled].known)
		return;
	if (compress_choice_cost(c, to) >= GAIN * compress_choice_cost(c, c->settled))
		return;
	c->settled = to;
	c->patience = TRY_FIRST;
	c->left = c->patience;
}

/* After a trial the settled way goes on, and the next trial comes later. */
static void next_choose(struct compress_choice *c, bool steady)
{
	bool tried = c->way != c->settled;

	c->way = c->settled;
	if (tried) {
		c->left = c->patience;
		c->patience = c->patience < TRY_SELDOM ? 2 * c->patience : TRY_SELDOM;
		return;
	}
	if (c->left)
		c->left--;
	if (!c->left && steady)
		c->way = other(c->settled);
}

void compress_choice_next(struct compress_choice *c, const struct choice_window *w, bool steady)
{
	enum page_compression was = c->settled;

	if (!w->body || !w->wire)
		return;
	window_learn(c, w);
	settle(c);
	if (c->settled != was)
		c->way = c->settled;
	else
		next_choose(c, steady);
}

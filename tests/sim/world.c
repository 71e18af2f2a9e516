// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

/* ---- randomness: splitmix64, so that a seed of any shape is a good one ------- */

uint64_t chance_u64(struct world *w)
{
	uint64_t z = (w->random += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t chance_below(struct world *w, uint64_t n)
{
	return n ? chance_u64(w) % n : 0;
}

uint64_t chance_between(struct world *w, uint64_t low, uint64_t high)
{
	return low + chance_below(w, high - low + 1);
}

bool chance_percent(struct world *w, unsigned percent)
{
	return chance_below(w, 100) < percent;
}

/* ---- trace and verdict ---------------------------------------------------------- */

void trace(struct world *w, int host, const char *fmt, ...)
{
	va_list ap;

	if (!w->trace)
		return;
	printf("%10.3f ms  %s  ", (double)w->now / 1e6, host < 0 ? "-" : host ? "B" : "A");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

bool violate(struct world *w, enum violation_kind kind, const char *fmt, ...)
{
	va_list ap;

	if (w->violated)
		return false;
	w->violated = kind;
	va_start(ap, fmt);
	vsnprintf(w->violation, sizeof(w->violation), fmt, ap);
	va_end(ap);
	trace(w, -1, "VIOLATION %s", w->violation);
	return false;
}

/* ---- the queue: a binary heap by time, then by order of scheduling ---------------- */

static bool sooner(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void sift_up(struct world *w, unsigned i)
{
	struct event moving = w->queue[i];

	while (i && sooner(&moving, &w->queue[(i - 1) / 2])) {
		w->queue[i] = w->queue[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	w->queue[i] = moving;
}

static void sift_down(struct world *w, unsigned i)
{
	struct event moving = w->queue[i];

	for (unsigned child = 2 * i + 1; child < w->queued; child = 2 * i + 1) {
		if (child + 1 < w->queued && sooner(&w->queue[child + 1], &w->queue[child]))
			child++;
		if (!sooner(&w->queue[child], &moving))
			break;
		w->queue[i] = w->queue[child];
		i = child;
	}
	w->queue[i] = moving;
}

static void push(struct world *w, const struct event *ev)
{
	assert(w->queued < QUEUE_MAX);
	w->queue[w->queued] = *ev;
	w->queue[w->queued].order = ++w->orders;
	sift_up(w, w->queued++);
}

void world_push(struct world *w, uint64_t after, struct event ev)
{
	ev.at = w->now + after;
	if (ev.scope != SCOPE_WORLD)
		ev.gen = host_gen(&w->host[ev.host], ev.scope);
	push(w, &ev);
}

static struct event pop(struct world *w)
{
	struct event first = w->queue[0];

	w->queue[0] = w->queue[--w->queued];
	if (w->queued)
		sift_down(w, 0);
	return first;
}

/* A host that is frozen is late: what happens on it happens when it thaws. */
static bool postponed(struct world *w, const struct event *ev)
{
	struct event later = *ev;

	if (ev->scope == SCOPE_WORLD || w->host[ev->host].frozen_until <= ev->at)
		return false;
	later.at = w->host[ev->host].frozen_until;
	push(w, &later);
	return true;
}

bool world_step(struct world *w, uint64_t until)
{
	struct event ev;

	if (!w->queued || w->queue[0].at > until)
		return false;
	ev = pop(w);
	if (ev.scope != SCOPE_WORLD && ev.gen != host_gen(&w->host[ev.host], ev.scope))
		return true;
	if (postponed(w, &ev))
		return true;
	w->now = ev.at;
	ev.fn(w, &ev);
	return true;
}

void world_init(struct world *w, uint64_t seed)
{
	struct event *queue = w->queue;

	memset(w, 0, sizeof(*w));
	w->queue = queue ? queue : calloc(QUEUE_MAX, sizeof(*queue));
	if (!w->queue)
		abort();
	w->seed = w->random = seed;
	w->now = NS_PER_SEC;
	w->current = -1;
	for (int i = 0; i < LINKS; i++)
		w->link[i].waiting_end = &w->link[i].waiting;
}

struct keepsake {
	struct keepsake *next;
	uint64_t data[];
};

void *keep(struct world *w, size_t n)
{
	struct keepsake *k = malloc(sizeof(*k) + n);

	if (!k)
		abort();
	k->next = w->kept;
	w->kept = k;
	return k->data;
}

static void keepsakes_free(struct world *w)
{
	for (struct keepsake *k = w->kept, *next; k; k = next) {
		next = k->next;
		free(k);
	}
	w->kept = NULL;
}

void world_clear(struct world *w)
{
	for (unsigned i = 0; i < w->queued; i++)
		if (w->queue[i].message)
			message_free(w->queue[i].message);
	w->queued = 0;
	engine_close_all(w);
	keepsakes_free(w);
	for (int i = 0; i < LINKS; i++) {
		for (struct message *m = w->link[i].waiting, *next; m; m = next) {
			next = m->next;
			message_free(m);
		}
		w->link[i].waiting = NULL;
		w->link[i].waiting_end = &w->link[i].waiting;
	}
}

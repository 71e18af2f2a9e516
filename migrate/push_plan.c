// SPDX-License-Identifier: Apache-2.0
#include "migrate/push_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int push_plan_init(struct push_plan *p, uint64_t pages)
{
	size_t words = bitmap_words(pages);

	*p = (struct push_plan){.pages = pages};
	p->missing = calloc(words, sizeof(*p->missing));
	p->sent = calloc(words, sizeof(*p->sent));
	p->todo = calloc(words, sizeof(*p->todo));
	p->asked = calloc(words, sizeof(*p->asked));
	p->queue = calloc(pages, sizeof(*p->queue));
	if (p->missing && p->sent && p->todo && p->asked && p->queue)
		return 0;
	push_plan_free(p);
	return -ENOMEM;
}

void push_plan_free(struct push_plan *p)
{
	free(p->missing);
	free(p->sent);
	free(p->todo);
	free(p->asked);
	free(p->queue);
	*p = (struct push_plan){0};
}

void push_plan_switch(struct push_plan *p, const uint64_t *missing)
{
	memcpy(p->missing, missing, bitmap_words(p->pages) * sizeof(*missing));
	if (p->pages % 64) /* what lies beyond is not the caller's */
		p->missing[p->pages / 64] &= ~(~UINT64_C(0) << p->pages % 64);
}

void push_plan_link(struct push_plan *p)
{
	size_t size = bitmap_words(p->pages) * sizeof(*p->todo);

	memset(p->todo, 0, size);
	memset(p->asked, 0, size);
	p->first = p->count = p->cursor = p->left = p->listed = 0;
	p->go = false;
}

/* ---- what the target says ------------------------------------------------------------ */

/* Bits beyond the end of RAM? There are no words beyond it. */
static bool words_overrun(const struct push_plan *p, uint64_t first, const uint64_t *words,
			  uint64_t n)
{
	uint64_t end = first + 64 * n;

	return end > p->pages && words[n - 1] >> (64 - (end - p->pages));
}

int push_plan_missing(struct push_plan *p, uint64_t first, const uint64_t *words, uint64_t n,
		      struct error *e)
{
	if (p->go)
		return error_set(e, -EBADMSG, "missing pages after the list was said to be whole");
	if (first % 64 || first < p->listed || first >= p->pages || !n ||
	    n > bitmap_words(p->pages) - first / 64)
		return error_set(e, -EBADMSG, "missing pages from %" PRIu64 " cannot be", first);
	if (words_overrun(p, first, words, n))
		return error_set(e, -EBADMSG, "missing pages beyond the end of memory");
	for (uint64_t i = 0; i < n; i++) {
		p->todo[first / 64 + i] = words[i] & ~p->asked[first / 64 + i];
		p->left += (uint64_t)__builtin_popcountll(p->todo[first / 64 + i]);
	}
	p->listed = first + 64 * n;
	return 0;
}

/* Pages of `todo` | `asked` that were not missing, or pages that must be in it and are not. */
static uint64_t list_fault(const struct push_plan *p)
{
	for (size_t i = 0; i < bitmap_words(p->pages); i++) {
		uint64_t said = p->todo[i] | p->asked[i];
		uint64_t wrong = (said & ~p->missing[i]) | (p->missing[i] & ~p->sent[i] & ~said);

		if (wrong)
			return i * 64 + (uint64_t)__builtin_ctzll(wrong);
	}
	return p->pages;
}

int push_plan_go(struct push_plan *p, struct error *e)
{
	uint64_t page = list_fault(p);

	if (p->go)
		return error_set(e, -EBADMSG, "the list of missing pages was whole already");
	if (page < p->pages)
		return error_set(e, -EBADMSG,
				 "page %" PRIu64 " is missing for one side and not for the other",
				 page);
	p->go = true;
	return 0;
}

int push_plan_all(const struct push_plan *p, struct error *e)
{
	for (size_t i = 0; i < bitmap_words(p->pages); i++)
		if (p->missing[i] & ~p->sent[i])
			return error_set(e, -EBADMSG, "pages are said to be there that never went");
	return 0;
}

static void page_ask(struct push_plan *p, uint64_t page)
{
	if (bitmap_test(p->todo, page)) {
		bitmap_clear(p->todo, page);
		p->left--;
	}
	p->cursor = page + 1;
	if (bitmap_test(p->asked, page))
		return;
	bitmap_set(p->asked, page);
	p->queue[(p->first + p->count++) % p->pages] = page;
}

int push_plan_need(struct push_plan *p, const uint64_t *pages, unsigned n, struct error *e)
{
	for (unsigned i = 0; i < n; i++)
		if (pages[i] >= p->pages || !bitmap_test(p->missing, pages[i]))
			return error_set(e, -EBADMSG,
					 "page %" PRIu64 " is asked for, which was not missing",
					 pages[i]);
	for (unsigned i = 0; i < n; i++)
		page_ask(p, pages[i]);
	return 0;
}

/* ---- what is next ----------------------------------------------------------------------- */

unsigned push_plan_take_asked(struct push_plan *p, uint64_t *pages, unsigned most)
{
	unsigned n = 0;

	while (n < most && p->count) {
		uint64_t page = p->queue[p->first];

		p->first = (p->first + 1) % p->pages;
		p->count--;
		bitmap_clear(p->asked, page);
		bitmap_set(p->sent, page);
		pages[n++] = page;
	}
	return n;
}

unsigned push_plan_take(struct push_plan *p, uint64_t *pages, unsigned most)
{
	unsigned n = 0;

	while (p->go && p->left && n < most) {
		uint64_t page = bitmap_next(p->todo, p->pages, p->cursor);

		if (page == p->pages) {
			p->cursor = 0;
			continue;
		}
		bitmap_clear(p->todo, page);
		bitmap_set(p->sent, page);
		p->left--;
		p->cursor = page + 1;
		pages[n++] = page;
	}
	return n;
}

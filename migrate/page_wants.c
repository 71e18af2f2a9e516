// SPDX-License-Identifier: Apache-2.0
#include "migrate/page_wants.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int page_wants_init(struct page_wants *w, uint64_t pages)
{
	size_t words = bitmap_words(pages);

	*w = (struct page_wants){.pages = pages};
	w->missing = calloc(words, sizeof(*w->missing));
	w->wanted = calloc(words, sizeof(*w->wanted));
	w->queue = calloc(pages, sizeof(*w->queue));
	if (w->missing && w->wanted && w->queue)
		return 0;
	page_wants_free(w);
	return -ENOMEM;
}

void page_wants_free(struct page_wants *w)
{
	free(w->missing);
	free(w->wanted);
	free(w->queue);
	*w = (struct page_wants){0};
}

void page_wants_start(struct page_wants *w, const uint64_t *missing)
{
	memcpy(w->missing, missing, bitmap_words(w->pages) * sizeof(*missing));
	if (w->pages % 64) /* what lies beyond is not the caller's */
		w->missing[w->pages / 64] &= ~(~UINT64_C(0) << w->pages % 64);
	w->total = w->left = bitmap_count(missing, w->pages);
}

/* It may have come between the fault and this call. */
void page_wants_fault(struct page_wants *w, uint64_t page, uint64_t now)
{
	if (page >= w->pages || !bitmap_test(w->missing, page) || bitmap_test(w->wanted, page))
		return;
	bitmap_set(w->wanted, page);
	w->queue[w->queued++] = page;
	w->faults++;
	if (w->wait_count == PAGE_WAITS_MAX)
		return;
	w->waits[w->wait_count].page = page;
	w->waits[w->wait_count++].since = now;
}

static void wait_end(struct page_wants *w, uint64_t page, uint64_t now)
{
	unsigned i = 0;

	while (i < w->wait_count && w->waits[i].page != page)
		i++;
	if (i == w->wait_count)
		return;
	now -= w->waits[i].since;
	w->waits[i] = w->waits[--w->wait_count];
	w->wait_ns += now;
	if (now > w->wait_max_ns)
		w->wait_max_ns = now;
}

void page_wants_came(struct page_wants *w, uint64_t page, uint64_t now)
{
	if (page >= w->pages || !bitmap_test(w->missing, page))
		return;
	bitmap_clear(w->missing, page);
	w->left--;
	if (!bitmap_test(w->wanted, page)) {
		w->pushed++;
		return;
	}
	bitmap_clear(w->wanted, page);
	wait_end(w, page, now);
}

void page_wants_link(struct page_wants *w)
{
	uint64_t page = bitmap_next(w->wanted, w->pages, 0);

	w->asked = w->queued = 0;
	for (; page < w->pages; page = bitmap_next(w->wanted, w->pages, page + 1))
		w->queue[w->queued++] = page;
}

unsigned page_wants_take(struct page_wants *w, uint64_t *pages, unsigned most)
{
	unsigned n = 0;

	while (n < most && w->asked < w->queued) {
		uint64_t page = w->queue[w->asked++];

		if (bitmap_test(w->wanted, page)) /* else it came meanwhile */
			pages[n++] = page;
	}
	return n;
}

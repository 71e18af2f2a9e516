// SPDX-License-Identifier: Apache-2.0
/* What a postcopy target may say to a source, and how its links begin. */
#include <stdlib.h>
#include <string.h>

#include "migrate/postcopy.h"
#include "migrate/push_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define PAGES 500u
#define WORDS 8u
#define TAKE  40u

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void decoders(const uint8_t *data, size_t n)
{
	struct link_hello h, again;
	struct error e = {0};
	struct buf b = {0};

	check(link_refuse_decode(data, n, &e) < 0 && *e.text);
	if (link_hello_decode(data, n, &h, NULL))
		return;
	link_hello_encode(&h, &b);
	check(b.len == n && !memcmp(b.data, data, n));
	check(!link_hello_decode(b.data, b.len, &again, NULL) &&
	      !link_hello_check(&h, &again, NULL));
	buf_free(&b);
}

/* Whatever was said, only pages that were missing leave, and what is to be done adds up. */
static void pages_check(const struct push_plan *p, const uint64_t *pages, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		check(pages[i] < PAGES && bitmap_test(p->sent, pages[i]));
	for (unsigned i = 0; p->go && i < n; i++)
		check(bitmap_test(p->missing, pages[i]));
	check(p->left == bitmap_count(p->todo, PAGES));
	check(p->count == bitmap_count(p->asked, PAGES));
}

static void say(struct push_plan *p, struct cursor *c)
{
	uint8_t what = cursor_u8(c), n = cursor_u8(c) % (2 * WORDS);
	uint64_t words[2 * WORDS], pages[TAKE];
	unsigned taken = 0;

	for (unsigned i = 0; i < n; i++)
		words[i] = what % 8 == 2 ? cursor_u16(c) : cursor_u64(c);
	if (what % 8 == 0)
		push_plan_link(p);
	else if (what % 8 == 1)
		(void)!push_plan_missing(p, cursor_u8(c) * 64u, words, n, NULL);
	else if (what % 8 == 2)
		(void)!push_plan_need(p, words, n, NULL);
	else if (what % 8 == 3)
		(void)!push_plan_go(p, NULL);
	else if (what % 8 == 4 && !push_plan_all(p, NULL))
		for (unsigned i = 0; i < PAGES; i++)
			check(bitmap_test(p->sent, i) || !bitmap_test(p->missing, i));
	else if (what % 8 == 5)
		taken = push_plan_take_asked(p, pages, what / 8);
	else
		taken = push_plan_take(p, pages, what / 8);
	pages_check(p, pages, taken);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct cursor c = cursor_of(data, n);
	uint64_t missing[WORDS];
	struct push_plan p;

	decoders(data, n);
	for (unsigned i = 0; i < WORDS; i++)
		missing[i] = cursor_u64(&c);
	if (c.bad || push_plan_init(&p, PAGES))
		return 0;
	push_plan_switch(&p, missing);
	while (c.left && !c.bad)
		say(&p, &c);
	push_plan_free(&p);
	return 0;
}

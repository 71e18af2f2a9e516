// SPDX-License-Identifier: Apache-2.0
/*
 * migrant: something to move. Fills `fill` MiB with random words, then writes one word in each of
 * `pages` of these pages over and over, `rate` pages a second (0 = as fast as can be), and checks
 * what the pass before left; pages=0: it sleeps. A line each `report` passes.
 */
#include "tests/guests/guest.h"

#define FIRST       0x800000ul
#define PAGE        4096ul
#define TICK_NS     5000000u
#define TICKS_A_SEC 200u
#define TIMER       0x40

const char guest_name[] = "migrant";

static volatile uint64_t ticks;

static void tick(struct frame *f)
{
	ticks++;
}

static void memory_fill(uint64_t bytes)
{
	uint64_t v = 88172645463325252ul;
	for (uint64_t *at = (uint64_t *)FIRST, *end = at + bytes / 8; at < end; at++) {
		v ^= v << 13;
		v ^= v >> 7;
		*at = v ^= v << 17;
	}
}

static volatile uint64_t *word_of(uint64_t page)
{
	return (volatile uint64_t *)(FIRST + page * PAGE);
}

static void pages_write(uint64_t from, uint64_t to, uint64_t pass)
{
	for (uint64_t page = from; page < to; page++) {
		volatile uint64_t *at = word_of(page);
		if (pass > 1 && *at != ((pass - 1) << 32 | page))
			fail("page %u pass %u holds %x", page, pass, *at);
		*at = pass << 32 | page;
	}
}

static void pass_run(uint64_t pages, uint64_t rate, uint64_t pass)
{
	uint64_t batch = rate ? rate / TICKS_A_SEC + 1 : pages;
	for (uint64_t page = 0; page < pages; page += batch) {
		pages_write(page, page + batch < pages ? page + batch : pages, pass);
		if (rate)
			wait_for_interrupt();
	}
}

void guest_main(void)
{
	uint64_t pages = parameter("pages", 0), rate = parameter("rate", 0);
	uint64_t fill = parameter("fill", 0), every = parameter("report", 100);
	memory_fill(fill << 20);
	report("filled %u", fill);
	lapic_enable();
	handler_set(TIMER, tick);
	if (rate)
		lapic_timer(TIMER, TICK_NS, true);
	if (!pages)
		for (;;)
			wait_for_interrupt();
	for (uint64_t pass = 1;; pass++) {
		pass_run(pages, rate, pass);
		if (pass % every == 0)
			report("pass %u", pass);
	}
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/guests/guest.h"

#define FIRST_PAGE  0x800000ul
#define PAGE        4096ul
#define TICK_NS     5000000u
#define TICKS_A_SEC 200u
#define TIMER       0x40

const char guest_name[] = "dirtier";

static volatile uint64_t ticks;

static void tick(struct frame *f)
{
	ticks++;
}

/* The word moves through the page, so that no two pages look alike. */
static volatile uint64_t *word_of(uint64_t page)
{
	return (volatile uint64_t *)(FIRST_PAGE + page * PAGE + page * 8 % PAGE);
}

static void mismatch(uint64_t page, uint64_t pass) __attribute__((noreturn, cold));
static void mismatch(uint64_t page, uint64_t pass)
{
	fail("page %u pass %u holds %x", page, pass, *word_of(page));
}

/* Few instructions a page: an emulated CPU makes two million a second. */
static void pages_write(uint64_t from, uint64_t to, uint64_t pass)
{
	uint64_t want = (pass - 1) << 32 | from, word = pass << 32 | from;
	for (uint64_t page = from; page < to;) {
		volatile uint64_t *at = word_of(page);
		uint64_t end = (page / (PAGE / 8) + 1) * (PAGE / 8); /* there the word wraps */
		for (end = end < to ? end : to; page < end; page++) {
			if (*at != want++)
				mismatch(page, pass);
			*at = word++;
			at += PAGE / 8 + 1;
		}
	}
}

/* Zero is what memory holds before; so passes count from 1. */
static void pass_run(uint64_t pages, uint64_t rate, uint64_t pass)
{
	uint64_t batch = rate ? rate / TICKS_A_SEC + 1 : pages;
	for (uint64_t page = 0; page < pages; page += batch) {
		pages_write(page, page + batch < pages ? page + batch : pages, pass);
		if (rate)
			wait_for_interrupt();
	}
}

static void first_pass(uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		*word_of(page) = 1ul << 32 | page;
}

void guest_main(void)
{
	uint64_t pages = parameter("pages", 1000), rate = parameter("rate", 0);
	uint64_t passes = parameter("passes", 0), every = parameter("report", 100);
	report("start pages=%u rate=%u", pages, rate);
	lapic_enable();
	handler_set(TIMER, tick);
	if (rate)
		lapic_timer(TIMER, TICK_NS, true);
	first_pass(pages);
	for (uint64_t pass = 2; !passes || pass <= passes; pass++) {
		pass_run(pages, rate, pass);
		if (pass % every == 0)
			report("pass %u ticks %u", pass, ticks);
	}
}

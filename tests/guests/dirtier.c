// SPDX-License-Identifier: Apache-2.0
#include "tests/guests/dirtier.h"
#include "tests/guests/guest.h"

#define PAGE        DIRTIER_PAGE
#define TICK_NS     5000000u
#define TICKS_A_SEC 200u
#define TIMER       0x40

const char guest_name[] = "dirtier";

static volatile uint64_t ticks;

static void tick(struct frame *f)
{
	ticks++;
}

static volatile uint64_t *word_of(uint64_t page)
{
	return (volatile uint64_t *)dirtier_word(page);
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

/* ---- other contents: only written, not checked ---- */

static uint64_t random_word = 1;

static void words_random(uint64_t *at, unsigned n)
{
	uint64_t v = random_word;
	for (uint64_t *end = at + n; at < end; at++)
		*at = v = v * 6364136223846793005ul + 1442695040888963407ul;
	random_word = v;
}

static uint64_t *page_at(uint64_t page)
{
	return (uint64_t *)(DIRTIER_FIRST_PAGE + page * PAGE);
}

static void write_partly(uint64_t page)
{
	for (unsigned place = 0; place < 8; place++)
		words_random(page_at(page) + 64 * place + page % 56, 8);
}

static void write_random(uint64_t page)
{
	words_random(page_at(page), PAGE / 8);
}

static void write_zero(uint64_t page)
{
	*(volatile uint64_t *)page_at(page) = 0;
}

static void (*const writers[])(uint64_t page) = {
	[DIRTIER_PARTLY] = write_partly,
	[DIRTIER_RANDOM] = write_random,
	[DIRTIER_ZERO] = write_zero,
};

static void contents_write(uint64_t pages, enum dirtier_content content)
{
	for (uint64_t page = 0; page < pages && content == DIRTIER_PARTLY; page++)
		write_random(page);
	for (;;)
		for (uint64_t page = 0; page < pages; page++)
			writers[content](page);
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

static void triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none;
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

void guest_main(void)
{
	uint64_t pages = parameter("pages", 1000), rate = parameter("rate", 0);
	uint64_t passes = parameter("passes", 0), every = parameter("report", 100);
	uint64_t content = parameter("content", DIRTIER_WORD);
	report("start pages=%u rate=%u", pages, rate);
	if (content > DIRTIER_ZERO)
		fail("content %u", content);
	if (content != DIRTIER_WORD)
		contents_write(pages, (enum dirtier_content)content);
	lapic_enable();
	handler_set(TIMER, tick);
	if (rate)
		lapic_timer(TIMER, TICK_NS, true);
	first_pass(pages + parameter("fill", 0));
	for (uint64_t pass = 2; !passes || pass <= passes; pass++) {
		pass_run(pages, rate, pass);
		if (pass % every == 0)
			report("pass %u ticks %u", pass, ticks);
	}
	if (parameter("crash", 0))
		triple_fault();
}

// SPDX-License-Identifier: Apache-2.0
/* Where the dirtier writes, for those who read its memory from outside. */
#ifndef POLLUX_TESTS_DIRTIER_H
#define POLLUX_TESTS_DIRTIER_H

#include <stdint.h>

#define DIRTIER_FIRST_PAGE 0x800000ul
#define DIRTIER_PAGE       4096ul

/* The word of a page, as an address: pass << 32 | page. It moves through the page, so
 * that no two pages look alike. */
static inline uint64_t dirtier_word(uint64_t page)
{
	return DIRTIER_FIRST_PAGE + page * DIRTIER_PAGE + page * 8 % DIRTIER_PAGE;
}

/* Parameter `content`: what a pass leaves in a page. */
enum dirtier_content {
	DIRTIER_WORD,   /* the word, the rest stays zero; what it left is checked */
	DIRTIER_PARTLY, /* 64 new words in 8 places of a page of random words */
	DIRTIER_RANDOM, /* 512 new random words */
	DIRTIER_ZERO,   /* zeros, written again */
};

#endif

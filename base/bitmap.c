// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

/* Bits `lo`..`hi` (both included) of one word. */
static uint64_t word_mask(unsigned lo, unsigned hi)
{
	return (~UINT64_C(0) << lo) & (~UINT64_C(0) >> (63 - hi));
}

/* Bits past the end of a map are not the caller's: the last word is masked. */
static uint64_t last_mask(uint64_t bits)
{
	return word_mask(0, (unsigned)((bits - 1) % 64));
}

void bitmap_set_range(uint64_t *map, uint64_t first, uint64_t count)
{
	uint64_t last, from, to;

	if (!count)
		return;
	last = first + count - 1;
	from = first / 64;
	to = last / 64;
	if (from == to) {
		map[from] |= word_mask(first % 64, last % 64);
		return;
	}
	map[from] |= word_mask(first % 64, 63);
	for (uint64_t w = from + 1; w < to; w++)
		map[w] = ~UINT64_C(0);
	map[to] |= word_mask(0, last % 64);
}

void bitmap_merge(uint64_t *into, const uint64_t *from, uint64_t bits)
{
	size_t words = bitmap_words(bits);

	if (!words)
		return;
	for (size_t w = 0; w + 1 < words; w++)
		into[w] |= from[w];
	into[words - 1] |= from[words - 1] & last_mask(bits);
}

uint64_t bitmap_count(const uint64_t *map, uint64_t bits)
{
	size_t words = bitmap_words(bits);
	uint64_t n = 0;

	if (!words)
		return 0;
	for (size_t w = 0; w + 1 < words; w++)
		n += (uint64_t)__builtin_popcountll(map[w]);
	return n + (uint64_t)__builtin_popcountll(map[words - 1] & last_mask(bits));
}

uint64_t bitmap_next(const uint64_t *map, uint64_t bits, uint64_t from)
{
	size_t words = bitmap_words(bits);
	uint64_t word, bit;

	if (from >= bits)
		return bits;
	word = map[from / 64] & word_mask(from % 64, 63);
	for (size_t w = from / 64;; word = map[w]) {
		if (word) {
			bit = w * 64 + (uint64_t)__builtin_ctzll(word);
			return bit < bits ? bit : bits;
		}
		if (++w == words)
			return bits;
	}
}

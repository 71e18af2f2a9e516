// SPDX-License-Identifier: Apache-2.0
/*
 * Devices write to guest memory on their own threads, also to pages whose code has been
 * decoded. memory_mark() tells after the write; the page is noted here, and every vCPU
 * looks up before its next block. A guest learns of a completed transfer from memory that
 * the device writes later still, so it does not run what is there before it has looked.
 */
#include "hypervisor/soft/machine.h"

static uint64_t page_number(const struct engine *en, const uint8_t *host)
{
	return (uint64_t)(host - en->memory->base) / VM_PAGE_SIZE;
}

void soft_code_watch(struct engine *en, const uint8_t *host, bool on)
{
	memory_watch(en->memory, page_number(en, host), on);
}

/* Any thread. */
void soft_stale_note(void *ctx, uint64_t page)
{
	struct engine *en = ctx;

	atomic_fetch_or(&en->stale[page / 64], UINT64_C(1) << page % 64);
	for (unsigned i = 0; i < en->vcpus; i++)
		atomic_fetch_or(&en->cpu[i]->attention, ATTENTION_STALE);
}

void soft_code_drop_stale(struct engine *en)
{
	size_t words = bitmap_words(en->memory->size / VM_PAGE_SIZE);

	for (size_t w = 0; w < words; w++) {
		uint64_t bits;

		if (!atomic_load_explicit(&en->stale[w], memory_order_relaxed))
			continue;
		for (bits = atomic_exchange(&en->stale[w], 0); bits; bits &= bits - 1)
			soft_code_drop_page(en, en->memory->base +
							(w * 64 + (unsigned)__builtin_ctzll(bits)) *
								VM_PAGE_SIZE);
	}
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Log-dirty with KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies the bitmap and
 * protects nothing, CLEAR protects the pages that it is told. A page that is written
 * between the two was written before CLEAR returns, hence before the copy that
 * follows the harvest.
 *
 * With KVM_DIRTY_LOG_INITIALLY_SET all pages begin dirty and unprotected; switching
 * on clears them once, so that the first harvest reports what was written since.
 */
#include "hypervisor/engine_kvm.h"

#include <errno.h>
#include <string.h>

#define CLEAR_PAGES_MOST UINT64_C(0x10000) /* mmu_lock is held for one call's pages */
#define CLEAR_GAP_WORDS  512u              /* looking at these costs less than one more call */

static uint64_t region_pages(const struct memory_region *r)
{
	return r->size / VM_PAGE_SIZE;
}

static int region_set(struct engine *en, unsigned slot, const struct memory_region *r, bool logging)
{
	struct kvm_userspace_memory_region u = {
		.slot = slot,
		.flags = logging ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = r->gpa,
		.memory_size = r->size,
		.userspace_addr = (uint64_t)(uintptr_t)(en->memory->base + r->offset),
	};

	return kvm_call(en->vm, KVM_SET_USER_MEMORY_REGION, &u);
}

int kvm_regions_set(struct engine *en, bool logging)
{
	struct memory_region regions[2];
	unsigned count = memory_regions(en->memory, regions);
	int rc = 0;

	for (unsigned i = 0; !rc && i < count; i++)
		rc = region_set(en, i, &regions[i], logging);
	return rc;
}

/* Words [first, last) of a region's bitmap. */
static int words_clear(struct engine *en, unsigned slot, uint64_t first, uint64_t last)
{
	const uint64_t most = CLEAR_PAGES_MOST / 64;
	int rc = 0;

	for (; !rc && first < last; first += most) {
		uint64_t n = last - first < most ? last - first : most;
		struct kvm_clear_dirty_log clear = {.slot = slot,
						    .num_pages = (uint32_t)(n * 64),
						    .first_page = first * 64,
						    .dirty_bitmap = en->log_bitmap + first};

		rc = kvm_call(en->vm, KVM_CLEAR_DIRTY_LOG, &clear);
	}
	return rc;
}

static int region_clear_all(struct engine *en, unsigned slot, const struct memory_region *r)
{
	uint64_t words = bitmap_words(region_pages(r));

	memset(en->log_bitmap, 0xff, words * sizeof(uint64_t));
	return words_clear(en, slot, 0, words);
}

int kvm_log_dirty(struct engine *en, bool on)
{
	struct memory_region regions[2];
	unsigned count = memory_regions(en->memory, regions);
	int rc;

	if (on == en->logging)
		return 0;
	rc = kvm_regions_set(en, on);
	if (on && en->log_features & KVM_DIRTY_LOG_INITIALLY_SET)
		for (unsigned i = 0; !rc && i < count; i++)
			rc = region_clear_all(en, i, &regions[i]);
	if (rc && on && kvm_regions_set(en, false))
		en->logging = true; /* half on: a later call can still turn it off */
	if (!rc)
		en->logging = on;
	return rc;
}

/* The next run of words that have bits, small gaps included. */
static bool run_next(const uint64_t *map, uint64_t words, uint64_t *first, uint64_t *last)
{
	uint64_t at = *last, gap = 0;

	while (at < words && !map[at])
		at++;
	if (at == words)
		return false;
	*first = at;
	for (; at < words && gap < CLEAR_GAP_WORDS; at++) {
		gap = map[at] ? 0 : gap + 1;
		if (!gap)
			*last = at + 1;
	}
	return true;
}

static int region_harvest(struct engine *en, unsigned slot, const struct memory_region *r,
			  uint64_t *map)
{
	uint64_t words = bitmap_words(region_pages(r)), first = 0, last = 0;
	uint64_t *into = map + r->offset / VM_PAGE_SIZE / 64;
	struct kvm_dirty_log get = {.slot = slot, .dirty_bitmap = en->log_bitmap};
	int rc = kvm_call(en->vm, KVM_GET_DIRTY_LOG, &get);

	while (!rc && run_next(en->log_bitmap, words, &first, &last)) {
		for (uint64_t i = first; i < last; i++)
			into[i] |= en->log_bitmap[i];
		rc = words_clear(en, slot, first, last);
	}
	return rc;
}

int kvm_dirty_harvest(struct engine *en, uint64_t *map)
{
	struct memory_region regions[2];
	unsigned count = memory_regions(en->memory, regions);
	int rc = 0;

	if (!en->logging)
		return -EINVAL;
	for (unsigned i = 0; !rc && i < count; i++)
		rc = region_harvest(en, i, &regions[i], map);
	return rc;
}

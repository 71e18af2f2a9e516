// SPDX-License-Identifier: Apache-2.0
/* A guest's page tables and VMCOREINFO, read for a core file: whatever stands in them, the walk
 * ends, and what it finds is RAM. */
#include <stdlib.h>
#include <string.h>

#include "hypervisor/core_dump.h"

#define RAM_SIZE  UINT64_C(0x10000)
#define PAGE      UINT64_C(4096)
#define LONG_CR0  UINT64_C(0x80000001)
#define LONG_EFER UINT64_C(0x400)

static void segments_check(const struct core_segments *s)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct core_segment *g = &s->item[i];

		if (!g->size || g->offset > RAM_SIZE || g->size > RAM_SIZE - g->offset ||
		    g->paddr != g->offset)
			abort();
	}
}

static bool goes_on(void *ctx)
{
	return true;
}

static void note_check(const struct memory *m, const struct core_vcpu *v)
{
	const char *text;
	size_t n;

	for (uint64_t at = 0; at < RAM_SIZE; at += PAGE)
		if (core_vmcoreinfo_find(m, at, v, 1, &text, &n) &&
		    ((const uint8_t *)text < m->base || !n ||
		     (size_t)(m->base + RAM_SIZE - (const uint8_t *)text) < n))
			abort();
}

/* CR3, CR4, where the rest goes, the rest. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cursor c = cursor_of(data, size);
	struct memory m = {.fd = -1, .size = RAM_SIZE};
	struct core_vcpu v = {0};
	struct core_segments s = {0};
	size_t at;

	v.image.sregs.cr0 = LONG_CR0;
	v.image.sregs.efer = LONG_EFER;
	v.image.sregs.cr3 = cursor_u16(&c);
	v.image.sregs.cr4 = cursor_u16(&c);
	at = cursor_u16(&c);
	m.base = calloc(1, RAM_SIZE);
	if (!m.base)
		return 0;
	for (; c.left && !c.bad; at++)
		m.base[at % RAM_SIZE] = cursor_u8(&c);
	if (!core_paging_walk(&m, &v.image, &s, goes_on, NULL, NULL))
		segments_check(&s);
	core_segments_free(&s);
	note_check(&m, &v);
	free(m.base);
	return 0;
}

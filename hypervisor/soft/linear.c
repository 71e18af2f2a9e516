// SPDX-License-Identifier: Apache-2.0
/* Segmentation of data accesses: AMD64 APM volume 2, section 4.5. */
#include "hypervisor/soft/mmu.h"

static bool limit_holds(const struct soft_segment *s, uint64_t first, uint64_t last)
{
	if (last > UINT32_MAX)
		return false;
	if ((s->attr & (SEG_CODE | SEG_DOWN)) != SEG_DOWN)
		return last <= s->limit;
	return first > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : UINT16_MAX);
}

static bool type_allows(const struct soft_segment *s, bool write)
{
	if (s->attr & SEG_CODE)
		return !write && s->attr & SEG_WRITE; /* of code: readable */
	return !write || s->attr & SEG_WRITE;
}

uint64_t soft_linear(struct soft_cpu *cpu, struct soft_op *op, enum soft_seg seg, uint64_t offset,
		     unsigned size, bool write)
{
	const struct soft_segment *s = &cpu->seg[seg];

	if (cpu->mode == MODE_64)
		return offset + cpu->r[SOFT_BASE_ES + seg];
	if (cpu->cr0 & CR0_PE && (s->attr & SEG_UNUSABLE || !type_allows(s, write)))
		soft_raise_error(cpu, op, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
	if (!limit_holds(s, offset, offset + size - 1))
		soft_raise_error(cpu, op, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
	return (uint32_t)(s->base + offset);
}

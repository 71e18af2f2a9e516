// SPDX-License-Identifier: Apache-2.0
/* Breakpoints and the single step: AMD64 APM volume 2, chapter 13. */
#include "hypervisor/soft/system.h"

enum breakpoint_kind { BREAK_EXECUTE, BREAK_WRITE, BREAK_PORT, BREAK_ACCESS };

static bool enabled(const struct soft_cpu *cpu, unsigned n)
{
	return cpu->dr[7] >> 2 * n & 3;
}
static enum breakpoint_kind kind_of(const struct soft_cpu *cpu, unsigned n)
{
	return cpu->dr[7] >> (16 + 4 * n) & 3;
}
static unsigned size_of(const struct soft_cpu *cpu, unsigned n)
{
	static const uint8_t sizes[] = {1, 2, 8, 4};

	return sizes[cpu->dr[7] >> (18 + 4 * n) & 3];
}

bool soft_debug_armed(const struct soft_cpu *cpu)
{
	return cpu->dr[7] & 0xff;
}

void soft_debug_before(struct soft_cpu *cpu)
{
	uint64_t va = cpu->rip + cpu->r[SOFT_BASE_CS], hits = 0;

	cpu->debug_hits = 0;
	cpu->step_off = false;
	cpu->step_rip = cpu->rip;
	for (unsigned n = 0; n < 4; n++)
		if (enabled(cpu, n) && kind_of(cpu, n) == BREAK_EXECUTE && cpu->dr[n] == va)
			hits |= 1u << n;
	if (!hits)
		return;
	cpu->dr[6] |= hits;
	soft_raise(cpu, NULL, VEC_DB);
}

void soft_debug_after(struct soft_cpu *cpu, bool trap)
{
	uint64_t hits = cpu->debug_hits | (trap && !cpu->step_off ? DR6_BS : 0);

	cpu->debug_hits = 0;
	cpu->step_off = false;
	if (!hits)
		return;
	cpu->dr[6] |= hits;
	/* Between two rounds of a repeated instruction it must not hit its own breakpoint. */
	if (cpu->rip == cpu->step_rip)
		cpu->flags |= FLAG_RF;
	soft_raise(cpu, NULL, VEC_DB);
}

void soft_debug_data(struct soft_cpu *cpu, uint64_t va, size_t size, bool write)
{
	for (unsigned n = 0; n < 4; n++) {
		enum breakpoint_kind kind = kind_of(cpu, n);
		uint64_t mask = size_of(cpu, n) - 1u;

		if (!enabled(cpu, n) || (kind != BREAK_ACCESS && (kind != BREAK_WRITE || !write)))
			continue;
		if (va <= (cpu->dr[n] | mask) && va + size - 1 >= (cpu->dr[n] & ~mask))
			cpu->debug_hits |= (uint8_t)(1u << n);
	}
}

/* ---- MOV of debug registers ------------------------------------------------------------- */

static unsigned register_of(struct soft_cpu *cpu, struct soft_op *op, unsigned n)
{
	if (n == 4 || n == 5) {
		if (cpu->cr4 & CR4_DE)
			soft_raise(cpu, op, VEC_UD);
		n += 2;
	}
	soft_need_cpl0(cpu, op);
	if (cpu->dr[7] & DR7_GD) {
		cpu->dr[6] |= DR6_GD;
		cpu->flags |= FLAG_RF; /* a fault, of the kind that pushes it */
		soft_raise(cpu, op, VEC_DB);
	}
	return n;
}

uint64_t soft_dr_read(struct soft_cpu *cpu, struct soft_op *op, unsigned n)
{
	return cpu->dr[register_of(cpu, op, n)];
}

void soft_dr_write(struct soft_cpu *cpu, struct soft_op *op, unsigned n, uint64_t value)
{
	n = register_of(cpu, op, n);
	if (n >= 6 && value >> 32)
		soft_raise_error(cpu, op, VEC_GP, 0);
	if (n == 6)
		value = (value & 0xe00f) | DR6_ONES;
	else if (n == 7)
		value = (value & 0xffff2bff) | DR7_ONE;
	cpu->dr[n] = value;
	if (n == 7)
		soft_tlb_select(cpu);
}

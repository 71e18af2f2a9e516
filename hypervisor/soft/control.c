// SPDX-License-Identifier: Apache-2.0
/* Control registers, RFLAGS, and what reset, INIT and SIPI leave. */
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/cpuid.h"
#include "hypervisor/soft/system.h"

#include <errno.h>

#define CR0_DEFINED                                                                                \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR4_OFFERED (CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT)

/* ---- RFLAGS ------------------------------------------------------------------------------ */

void soft_flags_write(struct soft_cpu *cpu, uint32_t value, uint32_t mask)
{
	if (mask & FLAGS_STATUS)
		fl_set(cpu, (fl_get(cpu) & ~mask) | (value & mask));
	mask &= ~(uint32_t)FLAGS_STATUS;
	cpu->flags = (cpu->flags & ~mask) | (value & mask) | FLAG_ONE;
	if (mask & FLAG_AC)
		soft_tlb_select(cpu);
	if (cpu->flags & (FLAG_TF | FLAG_RF) || (cpu->flags & FLAG_IF && cpu->chips_look))
		atomic_fetch_or_explicit(&cpu->attention, ATTENTION_LOOK, memory_order_relaxed);
}

/* ---- control registers ---------------------------------------------------------------------- */

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LME);
}

/* The four page directory pointers of legacy PAE paging are read when CR3 is written. */
static int pdptrs_load(struct soft_cpu *cpu, uint64_t cr3)
{
	uint64_t reserved = ~((UINT64_C(1) << CPUID_PHYSICAL_BITS) - 1) | 0x1e6, p[4];

	for (unsigned i = 0; i < 4; i++) {
		p[i] = soft_physical_read(cpu, (cr3 & 0xffffffe0) + 8 * i, 8);
		if (p[i] & 1 && p[i] & reserved)
			return -EINVAL;
	}
	memcpy(cpu->pdptrs, p, sizeof(p));
	return 0;
}

static int paging_check(const struct soft_cpu *cpu, uint64_t cr0)
{
	if (cr0 & CR0_PG) {
		bool enter = !(cpu->cr0 & CR0_PG) && cpu->efer & EFER_LME;

		if (!(cr0 & CR0_PE) ||
		    (enter && (!(cpu->cr4 & CR4_PAE) || cpu->seg[SEG_CS].attr & SEG_L)))
			return -EINVAL;
		return 0;
	}
	return cpu->mode == MODE_64 ? -EINVAL : 0;
}

static int cr0_write(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed;
	int rc;

	if (value >> 32 || (value & CR0_NW && !(value & CR0_CD)))
		return -EINVAL;
	value = (value & CR0_DEFINED) | CR0_ET;
	changed = value ^ cpu->cr0;
	rc = paging_check(cpu, value);
	if (!rc && changed & (CR0_PG | CR0_CD | CR0_NW) && pae_paging(value, cpu->cr4, cpu->efer))
		rc = pdptrs_load(cpu, cpu->cr3);
	if (rc)
		return rc;
	cpu->cr0 = value;
	cpu->efer &= ~EFER_LMA;
	if (value & CR0_PG && cpu->efer & EFER_LME)
		cpu->efer |= EFER_LMA;
	if (changed & CR0_PE)
		cpu->cpl = 0;
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		soft_tlb_flush(cpu, true);
	soft_mode_update(cpu);
	return 0;
}

static int cr3_write(struct soft_cpu *cpu, uint64_t value)
{
	int rc = 0;

	if (soft_long(cpu) && value >> CPUID_PHYSICAL_BITS)
		return -EINVAL;
	if (!soft_long(cpu))
		value = (uint32_t)value;
	if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer))
		rc = pdptrs_load(cpu, value);
	if (rc)
		return rc;
	cpu->cr3 = value;
	soft_tlb_flush(cpu, false);
	return 0;
}

static int cr4_write(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = value ^ cpu->cr4;
	int rc = 0;

	if (value & ~CR4_OFFERED || (soft_long(cpu) && !(value & CR4_PAE)))
		return -EINVAL;
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE) && pae_paging(cpu->cr0, value, cpu->efer))
		rc = pdptrs_load(cpu, cpu->cr3);
	if (rc)
		return rc;
	cpu->cr4 = value;
	if (changed & (CR4_PAE | CR4_PGE | CR4_PSE))
		soft_tlb_flush(cpu, true);
	return 0;
}

static int cr8_write(struct soft_cpu *cpu, uint64_t value)
{
	if (value & ~UINT64_C(15))
		return -EINVAL;
	soft_chips_enter(cpu->engine);
	soft_chips_cr8_set(cpu->engine->chips, cpu->index, value);
	soft_chips_leave(cpu->engine);
	return 0;
}

int soft_cr_write(struct soft_cpu *cpu, unsigned cr, uint64_t value)
{
	switch (cr) {
	case 0:
		return cr0_write(cpu, value);
	case 2:
		cpu->cr2 = value;
		return 0;
	case 3:
		return cr3_write(cpu, value);
	case 4:
		return cr4_write(cpu, value);
	case 8:
		return cr8_write(cpu, value);
	default:
		return -EINVAL;
	}
}

uint64_t soft_cr_read(struct soft_cpu *cpu, unsigned cr)
{
	uint64_t value;

	switch (cr) {
	case 0:
		return cpu->cr0;
	case 2:
		return cpu->cr2;
	case 3:
		return cpu->cr3;
	case 4:
		return cpu->cr4;
	default:
		soft_chips_enter(cpu->engine);
		value = soft_chips_cr8(cpu->engine->chips, cpu->index);
		soft_chips_leave(cpu->engine);
		return value;
	}
}

/* ---- reset, INIT, SIPI
 * --------------------------------------------------------------------------- */

static void segments_reset(struct soft_cpu *cpu)
{
	static const uint16_t attr[SEG_COUNT] = {
		[SEG_ES] = 0x93, [SEG_CS] = 0x9b, [SEG_SS] = 0x93, [SEG_DS] = 0x93,
		[SEG_FS] = 0x93, [SEG_GS] = 0x93, [SEG_TR] = 0x8b, [SEG_LDT] = 0x82,
	};

	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = (struct soft_segment){.limit = 0xffff, .attr = attr[i]};
	cpu->seg[SEG_CS].selector = 0xf000;
	cpu->seg[SEG_CS].base = 0xffff0000;
	cpu->gdt = (struct soft_table){.limit = 0xffff};
	cpu->idt = cpu->gdt;
}

/* AMD64 APM volume 2, table 14-1: what INIT sets, too. */
static void registers_reset(struct soft_cpu *cpu)
{
	uint32_t out[4];

	memset(cpu->r, 0, sizeof(cpu->r));
	soft_cpuid(cpu, 1, 0, out);
	cpu->r[SOFT_RDX] = out[0];
	cpu->rip = 0xfff0;
	cpu->flags = FLAG_ONE;
	fl_set(cpu, 0);
	segments_reset(cpu);
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr[6] = DR6_ONES;
	cpu->dr[7] = DR7_ONE;
	memset(cpu->pdptrs, 0, sizeof(cpu->pdptrs));
	memset(&cpu->exception, 0, sizeof(cpu->exception));
	cpu->cpl = 0;
	cpu->shadow = cpu->halted = cpu->nmi_masked = cpu->bounced = cpu->step_off = false;
	cpu->debug_hits = 0;
	cpu->wait_sipi = cpu->index != 0;
	soft_mode_update(cpu);
	soft_tlb_flush(cpu, true);
}

void soft_cpu_init(struct soft_cpu *cpu)
{
	cpu->cr0 = (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	registers_reset(cpu);
}

void soft_cpu_reset(struct soft_cpu *cpu)
{
	soft_tlb_create(cpu);
	cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
	registers_reset(cpu);
	memset(cpu->xmm, 0, sizeof(cpu->xmm));
	cpu->mxcsr = 0x1f80;
	memset(&cpu->x87, 0, sizeof(cpu->x87));
	cpu->x87.control = 0x37f; /* as FNINIT leaves it, and KVM a new vCPU */
	soft_msr_reset(cpu);
}

void soft_cpu_sipi(struct soft_cpu *cpu, unsigned vector)
{
	cpu->seg[SEG_CS].selector = (uint16_t)(vector << 8);
	cpu->seg[SEG_CS].base = (uint64_t)vector << 12;
	cpu->rip = 0;
	cpu->wait_sipi = false;
	cpu->halted = false;
	soft_mode_update(cpu);
}

// SPDX-License-Identifier: Apache-2.0
/* Model-specific registers. Those of AMD that hold nothing here answer as under KVM. */
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/system.h"

#include <errno.h>

enum msr {
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_UCODE_WRITE = 0x79,
	MSR_UCODE_REV = 0x8b,
	MSR_MTRR_CAP = 0xfe,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_MTRR_VARIABLE = 0x200,
	MSR_MTRR_FIXED_64K = 0x250,
	MSR_MTRR_FIXED_16K = 0x258,
	MSR_MTRR_FIXED_4K = 0x268,
	MSR_PAT = 0x277,
	MSR_MTRR_DEFAULT = 0x2ff,
	MSR_EFER = 0xc0000080,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SFMASK,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_K8_SYSCFG = 0xc0010010,
	MSR_K7_HWCR = 0xc0010015,
	MSR_NB_CFG = 0xc001001f,
	MSR_PATCH_LOADER = 0xc0010020,
	MSR_INT_PENDING = 0xc0010055,
	MSR_MMIO_CONF_BASE = 0xc0010058,
	MSR_TSEG_ADDRESS = 0xc0010112,
	MSR_TSEG_MASK = 0xc0010113,
	MSR_HSAVE = 0xc0010117,
	MSR_DC_CFG = 0xc0011022,
	MSR_BU_CFG2 = 0xc001102a,
	MSR_EX_CFG = 0xc001102c,
};

#define MTRR_VARIABLES    8u
#define MTRR_CAP          (UINT64_C(1) << 10 | UINT64_C(1) << 8 | MTRR_VARIABLES)
#define MTRR_FIXED        11u /* in soft_cpu.mtrr: these, then base and mask of each variable one */
#define PAT_RESET         UINT64_C(0x0007040600070406)
#define MISC_ENABLE_RESET UINT64_C(0x1800) /* no BTS, no PEBS */
#define EFER_OFFERED      (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

/* Flush filter, ignored emulation, TLB cache: as KVM, forgotten. */
#define HWCR_IGNORED UINT64_C(0x148)

void soft_msr_reset(struct soft_cpu *cpu)
{
	cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = cpu->kernel_gs_base = 0;
	cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = cpu->tsc_aux = 0;
	cpu->mtrr_default = 0;
	memset(cpu->mtrr, 0, sizeof(cpu->mtrr));
	cpu->pat = PAT_RESET;
	cpu->misc_enable = MISC_ENABLE_RESET;
}

/* ---- registers that are plain memory ------------------------------------------------------- */

/* Index into soft_cpu.mtrr, or -1. */
static int mtrr_index(uint32_t msr)
{
	if (msr >= MSR_MTRR_VARIABLE && msr < MSR_MTRR_VARIABLE + 2 * MTRR_VARIABLES)
		return (int)(MTRR_FIXED + msr - MSR_MTRR_VARIABLE);
	if (msr == MSR_MTRR_FIXED_64K)
		return 0;
	if (msr == MSR_MTRR_FIXED_16K || msr == MSR_MTRR_FIXED_16K + 1)
		return (int)(1 + msr - MSR_MTRR_FIXED_16K);
	if (msr >= MSR_MTRR_FIXED_4K && msr < MSR_MTRR_FIXED_4K + 8)
		return (int)(3 + msr - MSR_MTRR_FIXED_4K);
	return -1;
}

static uint64_t *plain(struct soft_cpu *cpu, uint32_t msr)
{
	int mtrr = mtrr_index(msr);

	if (mtrr >= 0)
		return &cpu->mtrr[mtrr];
	switch (msr) {
	case MSR_SYSENTER_CS:
		return &cpu->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &cpu->sysenter_eip;
	case MSR_MISC_ENABLE:
		return &cpu->misc_enable;
	case MSR_PAT:
		return &cpu->pat;
	case MSR_MTRR_DEFAULT:
		return &cpu->mtrr_default;
	case MSR_EFER:
		return &cpu->efer;
	case MSR_STAR:
		return &cpu->star;
	case MSR_LSTAR:
		return &cpu->lstar;
	case MSR_CSTAR:
		return &cpu->cstar;
	case MSR_SFMASK:
		return &cpu->sfmask;
	case MSR_FS_BASE:
		return &cpu->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &cpu->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &cpu->kernel_gs_base;
	default:
		return NULL;
	}
}

/* ---- legality ----------------------------------------------------------------------------------
 */

static bool memory_type(uint64_t type)
{
	return type < 7 && type != 2 && type != 3;
}

static bool types_legal(uint64_t value, bool pat)
{
	for (unsigned i = 0; i < 8; i++, value >>= 8)
		if (!memory_type(value & 0xff) && !(pat && (value & 0xff) == 7))
			return false;
	return true;
}

/* UC- (7) is of the PAT alone; MTRRs know 0, 1, 4, 5, 6. */
static bool mtrr_legal(uint32_t msr, uint64_t value)
{
	int index = mtrr_index(msr);

	if (index < (int)MTRR_FIXED)
		return types_legal(value, false);
	if (value >> 40)
		return false;
	return msr & 1 ? !(value & 0x7ff) : memory_type(value & 0xff) && !(value & 0xf00);
}

static bool legal(uint32_t msr, uint64_t value)
{
	if (mtrr_index(msr) >= 0)
		return mtrr_legal(msr, value);
	switch (msr) {
	case MSR_PAT:
		return types_legal(value, true);
	case MSR_MTRR_DEFAULT:
		return !(value & ~UINT64_C(0xcff)) && memory_type(value & 0xff);
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return soft_canonical(value);
	case MSR_SFMASK:
		return !(value >> 32);
	default:
		return true;
	}
}

static int efer_write(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = (value ^ cpu->efer) & ~EFER_LMA;

	if (value & ~EFER_OFFERED || (changed & EFER_LME && cpu->cr0 & CR0_PG))
		return -EINVAL;
	cpu->efer = (value & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	if (changed & EFER_NXE)
		soft_tlb_flush(cpu, true);
	return 0;
}

/* ---- those that hold nothing
 * ------------------------------------------------------------------------ */

static bool reads_zero(uint32_t msr)
{
	static const uint32_t list[] = {
		MSR_PLATFORM_ID, MSR_UCODE_REV,      MSR_K8_SYSCFG,    MSR_K7_HWCR,   MSR_NB_CFG,
		MSR_INT_PENDING, MSR_MMIO_CONF_BASE, MSR_TSEG_ADDRESS, MSR_TSEG_MASK, MSR_HSAVE,
		MSR_DC_CFG,      MSR_BU_CFG2,        MSR_EX_CFG,
	};

	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		if (list[i] == msr)
			return true;
	return false;
}

static bool write_ignored(uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_UCODE_WRITE:
	case MSR_UCODE_REV:
	case MSR_NB_CFG:
	case MSR_PATCH_LOADER:
	case MSR_HSAVE:
	case MSR_DC_CFG:
	case MSR_BU_CFG2:
	case MSR_EX_CFG:
		return true;
	case MSR_K7_HWCR:
		return !(value & ~HWCR_IGNORED);
	case MSR_MMIO_CONF_BASE:
		return !value;
	default:
		return false;
	}
}

/* ---- reading and writing
 * ----------------------------------------------------------------------------- */

int soft_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
	const uint64_t *at = plain(cpu, msr);
	int rc;

	if (at || reads_zero(msr) || msr == MSR_MTRR_CAP) {
		*value = at ? *at : msr == MSR_MTRR_CAP ? MTRR_CAP : 0;
		return 0;
	}
	if (msr == MSR_TSC) {
		*value = soft_tsc_read(cpu);
		return 0;
	}
	rc = soft_clock_msr_read(cpu, msr, value);
	if (rc != -ENOENT)
		return rc;
	soft_chips_enter(cpu->engine);
	rc = soft_chips_msr_read(cpu->engine->chips, soft_now(cpu->engine), cpu->index, msr, value);
	soft_chips_leave(cpu->engine);
	return rc ? -EINVAL : 0;
}

static int other_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
	int rc = soft_clock_msr_write(cpu, msr, value);

	if (rc != -ENOENT)
		return rc;
	soft_chips_enter(cpu->engine);
	rc = soft_chips_msr_write(cpu->engine->chips, soft_now(cpu->engine), cpu->index, msr,
				  value);
	soft_chips_leave(cpu->engine);
	return rc ? -EINVAL : 0;
}

/* A deadline that waits is a value of the TSC: it is another moment now. */
static void tsc_write(struct soft_cpu *cpu, uint64_t value)
{
	struct soft_chips *chips = cpu->engine->chips;
	uint64_t now = soft_now(cpu->engine), deadline;

	soft_chips_enter(cpu->engine);
	soft_chips_run(chips, now);
	soft_tsc_write(cpu, value);
	deadline = soft_chips_tsc_deadline(chips, now, cpu->index);
	soft_chips_tsc_deadline_set(chips, now, cpu->index, deadline);
	soft_chips_leave(cpu->engine);
}

int soft_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t *at = plain(cpu, msr);

	if (!legal(msr, value))
		return -EINVAL;
	if (msr == MSR_EFER)
		return efer_write(cpu, value);
	if (msr == MSR_TSC) {
		tsc_write(cpu, value);
		return 0;
	}
	if (!at)
		return write_ignored(msr, value) ? 0 : other_write(cpu, msr, value);
	*at = value;
	if (msr == MSR_FS_BASE || msr == MSR_GS_BASE)
		soft_mode_update(cpu);
	return 0;
}

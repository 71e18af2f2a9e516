// SPDX-License-Identifier: Apache-2.0
/* The entry state of the boot processor, as the boot protocols demand. */
#include "hypervisor/soft/machine.h"

#define ATTR_CODE       (SEG_PRESENT | SEG_S | SEG_CODE | SEG_WRITE | SEG_ACCESSED | SEG_G)
#define ATTR_DATA       (SEG_PRESENT | SEG_S | SEG_WRITE | SEG_ACCESSED | SEG_G | SEG_DB)
#define ATTR_TSS        (SEG_PRESENT | 11) /* busy */

#define MTRR_ENABLED_WB UINT64_C(0x806)

static void segments_set(struct soft_cpu *cpu, const struct boot_entry *entry)
{
	bool wide = entry->protocol == BOOT_LINUX64;
	struct soft_segment data = {
		.limit = UINT32_MAX, .selector = BOOT_SELECTOR_DATA, .attr = ATTR_DATA};

	for (unsigned i = 0; i <= SEG_GS; i++)
		cpu->seg[i] = data;
	cpu->seg[SEG_CS] = (struct soft_segment){
		.limit = UINT32_MAX,
		.selector = wide ? BOOT_SELECTOR_CODE64 : BOOT_SELECTOR_CODE32,
		.attr = (uint16_t)(ATTR_CODE | (wide ? SEG_L : SEG_DB)),
	};
	cpu->seg[SEG_TR] = (struct soft_segment){
		.limit = 0x67, .selector = BOOT_SELECTOR_TSS, .attr = ATTR_TSS};
	cpu->gdt = (struct soft_table){.base = entry->gdt, .limit = entry->gdt_limit};
	cpu->idt = (struct soft_table){0};
}

static void controls_set(struct soft_cpu *cpu, const struct boot_entry *entry)
{
	bool wide = entry->protocol == BOOT_LINUX64;

	cpu->cr0 = CR0_PE | CR0_ET | (wide ? CR0_NE | CR0_PG : 0);
	cpu->cr3 = wide ? entry->page_table : 0;
	cpu->cr4 = wide ? CR4_PAE : 0;
	cpu->efer = wide ? EFER_LME | EFER_LMA : 0;
	cpu->cpl = 0;
}

int soft_vcpu_boot(struct engine *en, const struct boot_entry *entry, struct error *e)
{
	struct soft_cpu *cpu = en->cpu[0];

	segments_set(cpu, entry);
	controls_set(cpu, entry);
	memset(cpu->r, 0, 16 * sizeof(cpu->r[0]));
	cpu->r[SOFT_RSP] = entry->stack;
	cpu->r[entry->protocol == BOOT_LINUX64 ? SOFT_RSI : SOFT_RBX] = entry->info;
	cpu->rip = entry->rip;
	soft_flags_write(cpu, FLAG_ONE, UINT32_MAX);
	/* Firmware would do this; a kernel that finds MTRRs off does without PAT as well. */
	for (unsigned i = 0; i < en->vcpus; i++)
		en->cpu[i]->mtrr_default = MTRR_ENABLED_WB;
	soft_code_drop_all(en);
	soft_mode_update(cpu);
	return 0;
}

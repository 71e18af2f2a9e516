// SPDX-License-Identifier: Apache-2.0
/* The entry state of the boot processor, as the boot protocols demand. */
#include "hypervisor/engine_kvm.h"

#define CR0_PE            UINT64_C(0x1)
#define CR0_ET            UINT64_C(0x10)
#define CR0_NE            UINT64_C(0x20)
#define CR0_PG            UINT64_C(0x80000000)
#define CR4_PAE           UINT64_C(0x20)
#define EFER_LME          UINT64_C(0x100)
#define EFER_LMA          UINT64_C(0x400)
#define FLAGS_ONE         UINT64_C(0x2) /* the bit that is always set */
#define TYPE_CODE         11            /* execute, read, accessed */
#define TYPE_DATA         3             /* read, write, accessed */
#define TYPE_TSS          11            /* busy */
#define FLAT_LIMIT        UINT32_C(0xffffffff)

#define MTRR_DEFAULT_TYPE 0x2ffu
#define MTRR_ENABLED_WB   UINT64_C(0x806)

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){.limit = FLAT_LIMIT,
				    .selector = selector,
				    .type = type,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1};
}

static void sregs_common(struct kvm_sregs *s, const struct boot_entry *entry)
{
	struct kvm_segment data = flat_segment(BOOT_SELECTOR_DATA, TYPE_DATA);

	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){
		.limit = 0x67, .selector = BOOT_SELECTOR_TSS, .type = TYPE_TSS, .present = 1};
	s->gdt = (struct kvm_dtable){.base = entry->gdt, .limit = entry->gdt_limit};
	s->idt = (struct kvm_dtable){0};
}

static void sregs_linux64(struct kvm_sregs *s, const struct boot_entry *entry)
{
	s->cs = flat_segment(BOOT_SELECTOR_CODE64, TYPE_CODE);
	s->cs.db = 0;
	s->cs.l = 1;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	s->cr3 = entry->page_table;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

static void sregs_pvh(struct kvm_sregs *s, const struct boot_entry *entry)
{
	s->cs = flat_segment(BOOT_SELECTOR_CODE32, TYPE_CODE);
	s->cr0 = CR0_PE | CR0_ET;
	s->cr3 = s->cr4 = 0;
	s->efer = 0;
}

static void regs_linux64(struct kvm_regs *r, const struct boot_entry *entry)
{
	r->rsi = entry->info;
}

static void regs_pvh(struct kvm_regs *r, const struct boot_entry *entry)
{
	r->rbx = entry->info;
}

static const struct {
	void (*sregs)(struct kvm_sregs *s, const struct boot_entry *entry);
	void (*regs)(struct kvm_regs *r, const struct boot_entry *entry);
} protocols[] = {
	[BOOT_LINUX64] = {sregs_linux64, regs_linux64},
	[BOOT_PVH] = {sregs_pvh, regs_pvh},
};

/* Firmware would do this; a kernel that finds MTRRs off does without PAT as well. */
static int mtrr_enable(struct engine *en, unsigned vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head = {.nmsrs = 1},
		 .entry = {.index = MTRR_DEFAULT_TYPE, .data = MTRR_ENABLED_WB}};
	int rc = kvm_call(en->vcpu[vcpu].fd, KVM_SET_MSRS, &one);

	return rc < 0 ? rc : 0;
}

int kvm_vcpu_boot(struct engine *en, const struct boot_entry *entry, struct error *e)
{
	struct kvm_regs regs = {.rip = entry->rip, .rsp = entry->stack, .rflags = FLAGS_ONE};
	struct kvm_sregs sregs;
	int rc = kvm_try(en->vcpu[0].fd, KVM_GET_SREGS, &sregs, "read the vCPU's registers", e);

	if (rc)
		return rc;
	sregs_common(&sregs, entry);
	protocols[entry->protocol].sregs(&sregs, entry);
	protocols[entry->protocol].regs(&regs, entry);
	rc = kvm_try(en->vcpu[0].fd, KVM_SET_SREGS, &sregs, "set the vCPU's entry state", e);
	if (!rc)
		rc = kvm_try(en->vcpu[0].fd, KVM_SET_REGS, &regs, "set the vCPU's entry point", e);
	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = mtrr_enable(en, i);
	return rc;
}

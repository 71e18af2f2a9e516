// SPDX-License-Identifier: Apache-2.0
/* Registers of one vCPU. */
#include <errno.h>

#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/flags.h"
#include "hypervisor/soft/fpu.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/state.h"

/* ---- general registers ----------------------------------------------------------------- */

#define FIELD(name) offsetof(struct kvm_regs, name)
static const size_t regs_order[16] = {
	FIELD(rax), FIELD(rcx), FIELD(rdx), FIELD(rbx), FIELD(rsp), FIELD(rbp),
	FIELD(rsi), FIELD(rdi), FIELD(r8),  FIELD(r9),  FIELD(r10), FIELD(r11),
	FIELD(r12), FIELD(r13), FIELD(r14), FIELD(r15),
};

static void regs_make(const struct soft_cpu *cpu, struct kvm_regs *out)
{
	for (unsigned i = 0; i < 16; i++)
		memcpy((char *)out + regs_order[i], &cpu->r[i], sizeof(cpu->r[i]));
	out->rip = cpu->rip;
	out->rflags = soft_flags(cpu);
}

static void regs_take(struct soft_cpu *cpu, const struct kvm_regs *in)
{
	for (unsigned i = 0; i < 16; i++)
		memcpy(&cpu->r[i], (const char *)in + regs_order[i], sizeof(cpu->r[i]));
	cpu->rip = in->rip;
	cpu->flags = ((uint32_t)in->rflags & ~(uint32_t)FLAGS_STATUS) | FLAG_ONE;
	fl_set(cpu, (uint32_t)in->rflags);
}

/* ---- segments, control and debug registers ------------------------------------------------ */

static struct kvm_segment segment_make(const struct soft_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & SEG_TYPE,
		.s = s->attr / SEG_S & 1,
		.dpl = s->attr >> SEG_DPL_SHIFT & 3,
		.present = s->attr / SEG_PRESENT & 1,
		.unusable = s->attr / SEG_UNUSABLE & 1,
		.avl = s->attr / SEG_AVL & 1,
		.l = s->attr / SEG_L & 1,
		.db = s->attr / SEG_DB & 1,
		.g = s->attr / SEG_G & 1,
	};
}

static struct soft_segment segment_take(const struct kvm_segment *k)
{
	return (struct soft_segment){
		.base = k->base,
		.limit = k->limit,
		.selector = k->selector,
		.attr = (uint16_t)(k->type | k->s * SEG_S | k->dpl << SEG_DPL_SHIFT |
				   k->present * SEG_PRESENT | k->unusable * SEG_UNUSABLE |
				   k->avl * SEG_AVL | k->l * SEG_L | k->db * SEG_DB | k->g * SEG_G),
	};
}

#define SREGS(name) offsetof(struct kvm_sregs2, name)
static const size_t segment_order[SEG_COUNT] = {
	[SEG_ES] = SREGS(es), [SEG_CS] = SREGS(cs), [SEG_SS] = SREGS(ss), [SEG_DS] = SREGS(ds),
	[SEG_FS] = SREGS(fs), [SEG_GS] = SREGS(gs), [SEG_TR] = SREGS(tr), [SEG_LDT] = SREGS(ldt),
};

static bool pdptrs_hold(const struct soft_cpu *cpu)
{
	return cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !(cpu->efer & EFER_LMA);
}

static void sregs_make(struct soft_cpu *cpu, struct kvm_sregs2 *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < SEG_COUNT; i++)
		*(struct kvm_segment *)((char *)out + segment_order[i]) =
			segment_make(&cpu->seg[i]);
	/* Engines read the privilege from here. */
	out->ss.dpl = cpu->cpl;
	out->gdt = (struct kvm_dtable){.base = cpu->gdt.base, .limit = cpu->gdt.limit};
	out->idt = (struct kvm_dtable){.base = cpu->idt.base, .limit = cpu->idt.limit};
	out->cr0 = cpu->cr0;
	out->cr2 = cpu->cr2;
	out->cr3 = cpu->cr3;
	out->cr4 = cpu->cr4;
	out->cr8 = soft_chips_cr8(cpu->engine->chips, cpu->index);
	out->efer = cpu->efer;
	out->apic_base = soft_chips_apic_base(cpu->engine->chips, cpu->index);
	if (pdptrs_hold(cpu)) {
		out->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		memcpy(out->pdptrs, cpu->pdptrs, sizeof(cpu->pdptrs));
	}
}

static void sregs_take(struct soft_cpu *cpu, const struct kvm_sregs2 *in, bool vm86)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = segment_take(
			(const struct kvm_segment *)((const char *)in + segment_order[i]));
	cpu->gdt = (struct soft_table){.base = in->gdt.base, .limit = in->gdt.limit};
	cpu->idt = (struct soft_table){.base = in->idt.base, .limit = in->idt.limit};
	cpu->cr0 = in->cr0;
	cpu->cr2 = in->cr2;
	cpu->cr3 = in->cr3;
	cpu->cr4 = in->cr4;
	cpu->efer = in->efer;
	cpu->cpl = vm86 ? 3 : cpu->cr0 & CR0_PE ? in->ss.dpl : 0;
	memcpy(cpu->pdptrs, in->pdptrs, sizeof(cpu->pdptrs));
}

static void debug_make(const struct soft_cpu *cpu, struct kvm_debugregs *out)
{
	memset(out, 0, sizeof(*out));
	memcpy(out->db, cpu->dr, sizeof(out->db));
	out->dr6 = cpu->dr[6];
	out->dr7 = cpu->dr[7];
}

static void debug_take(struct soft_cpu *cpu, const struct kvm_debugregs *in)
{
	memcpy(cpu->dr, in->db, sizeof(in->db));
	cpu->dr[6] = in->dr6;
	cpu->dr[7] = in->dr7;
}

/* ---- FPU ---------------------------------------------------------------------------------- */

#define XSAVE_X87 1u
#define XSAVE_SSE 2u
#define AT_MXCSR  24
#define AT_XMM    160

static void fpu_make(const struct soft_cpu *cpu, uint8_t *area)
{
	memset(area, 0, STATE_XSAVE_LEAST);
	soft_fxsave(cpu, area);
	area[STATE_XSAVE_LEGACY] = XSAVE_X87 | XSAVE_SSE;
}

/* A component that the header does not name is as after a reset; MXCSR holds always. */
static int fpu_take(struct soft_cpu *cpu, const uint8_t *area)
{
	uint8_t legacy[FXSAVE_SIZE];

	memcpy(legacy, area, sizeof(legacy));
	if (!(area[STATE_XSAVE_LEGACY] & XSAVE_X87)) {
		memset(legacy, 0, AT_MXCSR);
		memset(legacy + AT_MXCSR + 8, 0, AT_XMM - AT_MXCSR - 8);
		legacy[0] = 0x7f;
		legacy[1] = 0x03;
	}
	if (!(area[STATE_XSAVE_LEGACY] & XSAVE_SSE))
		memset(legacy + AT_XMM, 0, sizeof(legacy) - AT_XMM);
	return soft_fxrstor(cpu, legacy);
}

/* ---- all --------------------------------------------------------------------------------------
 */

static uint32_t run_state(const struct soft_cpu *cpu)
{
	if (cpu->wait_sipi)
		return KVM_MP_STATE_INIT_RECEIVED;
	return cpu->halted ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
}

void soft_image_make(struct soft_cpu *cpu, const struct state_model *model,
		     struct vcpu_image *image)
{
	struct engine *en = cpu->engine;

	soft_image_make_events(cpu, image);
	image->mp_state.mp_state = run_state(cpu);
	image->tsc_khz = en->clock.tsc_khz;
	regs_make(cpu, &image->regs);
	sregs_make(cpu, &image->sregs);
	debug_make(cpu, &image->debugregs);
	image->xcrs = (struct kvm_xcrs){.nr_xcrs = 1};
	image->xcrs.xcrs[0].value = model->xcr0;
	fpu_make(cpu, image->xsave);
	soft_chips_lapic_save(en->chips, soft_now(en), cpu->index, &image->lapic);
	soft_image_make_msrs(cpu, model, image);
}

static int bad(struct error *e, const struct soft_cpu *cpu, const char *what)
{
	return error_set(e, -EBADMSG, "machine state: vCPU %u: %s has impossible values",
			 cpu->index, what);
}

/* The LAPIC before the MSRs: a deadline is kept only while its timer is in that mode. */
int soft_image_take(struct soft_cpu *cpu, const struct vcpu_image *image, struct error *e)
{
	struct engine *en = cpu->engine;
	uint32_t run = image->mp_state.mp_state;
	int rc;

	regs_take(cpu, &image->regs);
	sregs_take(cpu, &image->sregs, cpu->flags & FLAG_VM);
	debug_take(cpu, &image->debugregs);
	cpu->halted = run == KVM_MP_STATE_HALTED;
	cpu->wait_sipi = run == KVM_MP_STATE_UNINITIALIZED || run == KVM_MP_STATE_INIT_RECEIVED ||
			 run == KVM_MP_STATE_SIPI_RECEIVED;
	if (fpu_take(cpu, image->xsave))
		return bad(e, cpu, "the FPU");
	if (soft_chips_apic_base_set(en->chips, cpu->index, image->sregs.apic_base))
		return bad(e, cpu, "the LAPIC's base");
	if (soft_chips_lapic_load(en->chips, soft_now(en), cpu->index, &image->lapic))
		return bad(e, cpu, "the LAPIC");
	rc = soft_image_take_msrs(cpu, image, e);
	if (rc)
		return rc;
	soft_image_take_events(cpu, image);
	if (run == KVM_MP_STATE_SIPI_RECEIVED)
		soft_cpu_sipi(cpu, image->events.sipi_vector);
	soft_mode_update(cpu);
	soft_tlb_flush(cpu, true);
	return 0;
}

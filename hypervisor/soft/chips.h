// SPDX-License-Identifier: Apache-2.0
/*
 * The interrupt controllers and timers of the software engine: two 8259 PICs, an IOAPIC,
 * a PIT, and a local APIC for each vCPU. A state machine without threads, locks or clocks:
 * the caller makes one call at a time and says what time it is.
 *
 * `now` is in ns and never goes back; its zero is the caller's choice. A LAPIC timer counts
 * once per ns, before its divider, as under KVM.
 *
 * Sources: Intel SDM volume 3, "Advanced Programmable Interrupt Controller"; the data sheets
 * of the 8259A, the 82093AA and the 8254.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_CHIPS_H
#define POLLUX_HYPERVISOR_SOFT_CHIPS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

#define SOFT_CHIPS_FROM_PIC 256 /* of soft_chips_interrupt_pending() */

struct soft_chips;

struct soft_chips_hooks {
	void *ctx;
	/* This vCPU may have an interrupt, NMI, INIT or SIPI to look at. Comes from inside
	 * other calls: it may set a flag, and call nothing here. */
	void (*attention)(void *ctx, unsigned vcpu);
	/* When the guest's TSC reaches this value; 0 if it has. */
	uint64_t (*tsc_to_ns)(void *ctx, unsigned vcpu, uint64_t tsc);
};

/* 1 to 254 vCPUs; -EINVAL, -ENOMEM. */
int soft_chips_create(unsigned vcpus, const struct soft_chips_hooks *hooks,
		      struct soft_chips **out) MUST_CHECK;
void soft_chips_destroy(struct soft_chips *c);
/* All of it, as at power on. */
void soft_chips_reset(struct soft_chips *c);
/* INIT of one vCPU: its LAPIC but for its id and APIC_BASE. */
void soft_chips_cpu_init(struct soft_chips *c, unsigned vcpu);

/*
 * Guest accesses. Ports and memory: false means that there is nothing of ours. MSRs: -ENOENT
 * means the same, -EINVAL is a general protection fault.
 */
bool soft_chips_port(struct soft_chips *c, uint64_t now, uint16_t port, void *data, unsigned size,
		     bool write) MUST_CHECK;
bool soft_chips_mmio(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t gpa, void *data,
		     unsigned size, bool write) MUST_CHECK;
int soft_chips_msr_read(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t msr,
			uint64_t *value) MUST_CHECK;
int soft_chips_msr_write(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t msr,
			 uint64_t value) MUST_CHECK;
uint64_t soft_chips_cr8(const struct soft_chips *c, unsigned vcpu);
void soft_chips_cr8_set(struct soft_chips *c, unsigned vcpu, uint64_t value);

/*
 * What a vCPU is to take. Pending: the vector, SOFT_CHIPS_FROM_PIC, or -1; changes nothing.
 * Take acknowledges it, and gives the vector, perhaps a spurious one, or -1.
 */
int soft_chips_interrupt_pending(const struct soft_chips *c, unsigned vcpu);
int soft_chips_interrupt_take(struct soft_chips *c, unsigned vcpu);
bool soft_chips_nmi_take(struct soft_chips *c, unsigned vcpu);
void soft_chips_nmi_set(struct soft_chips *c, unsigned vcpu);
bool soft_chips_init_take(struct soft_chips *c, unsigned vcpu);
int soft_chips_sipi_take(struct soft_chips *c, unsigned vcpu); /* its vector, or -1 */

/* Devices. GSI n is pin n of the IOAPIC and, below 16, of the PICs; but GSI 0 is the IOAPIC's
 * pin 2, and GSI 2 is nothing. An MSI that reaches nobody is -EINVAL. */
void soft_chips_irq(struct soft_chips *c, uint64_t now, unsigned gsi, bool level);
int soft_chips_msi(struct soft_chips *c, uint64_t now, uint64_t address, uint32_t data);

/* When the next timer is due, UINT64_MAX if none; and let all act that are due. */
uint64_t soft_chips_deadline(const struct soft_chips *c);
void soft_chips_run(struct soft_chips *c, uint64_t now);

/*
 * State, in the structs of the KVM interface. The loads check their values and change nothing
 * when they return -EINVAL. Order per vCPU: APIC_BASE, LAPIC, TSC deadline; then, after
 * all vCPUs, the interrupt controllers ([0] master PIC, [1] slave, [2] IOAPIC) and the PIT.
 */
uint64_t soft_chips_apic_base(const struct soft_chips *c, unsigned vcpu);
int soft_chips_apic_base_set(struct soft_chips *c, unsigned vcpu, uint64_t value) MUST_CHECK;
void soft_chips_lapic_save(const struct soft_chips *c, uint64_t now, unsigned vcpu,
			   struct kvm_lapic_state *out);
int soft_chips_lapic_load(struct soft_chips *c, uint64_t now, unsigned vcpu,
			  const struct kvm_lapic_state *in) MUST_CHECK;
uint64_t soft_chips_tsc_deadline(const struct soft_chips *c, uint64_t now, unsigned vcpu);
void soft_chips_tsc_deadline_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t value);
void soft_chips_irqchips_save(const struct soft_chips *c, uint64_t now, struct kvm_irqchip out[3]);
int soft_chips_irqchips_load(struct soft_chips *c, uint64_t now,
			     const struct kvm_irqchip in[3]) MUST_CHECK;
void soft_chips_pit_save(const struct soft_chips *c, uint64_t now, struct kvm_pit_state2 *out);
int soft_chips_pit_load(struct soft_chips *c, uint64_t now,
			const struct kvm_pit_state2 *in) MUST_CHECK;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of the interrupt controllers and timers. Private to hypervisor/soft/chips*.c.
 *
 * Registers are kept in the structs of the KVM interface where there is one, so that saving
 * is copying. How an interrupt goes:
 *
 *   soft_chips_irq() -> pic_pin()    -> c->pic_output -> LINT0 of a LAPIC
 *                    -> ioapic_pin() -> interrupt_send() -> lapic_accept()
 *   soft_chips_msi(), ICR            -> interrupt_send() -> lapic_accept()
 *   timers, LINT0, errors            -> lapic_local() -> lapic_accept()
 */
#ifndef POLLUX_HYPERVISOR_SOFT_CHIPS_PARTS_H
#define POLLUX_HYPERVISOR_SOFT_CHIPS_PARTS_H

#include <errno.h>
#include <string.h>

#include "hypervisor/soft/chips.h"

#define NEVER               UINT64_MAX
#define TIMER_PERIOD_MIN_NS (200 * NS_PER_US) /* as KVM: a guest cannot ask for a storm */

/* ---- LAPIC ------------------------------------------------------------------------- */

/* Register n is at offset 16 * n of the page, and is MSR 0x800 + n. */
enum lapic_register {
	LAPIC_ID = 0x02,
	LAPIC_VERSION = 0x03,
	LAPIC_TPR = 0x08,
	LAPIC_PPR = 0x0a,
	LAPIC_EOI = 0x0b,
	LAPIC_LDR = 0x0d,
	LAPIC_DFR = 0x0e,
	LAPIC_SVR = 0x0f,
	LAPIC_ISR = 0x10,
	LAPIC_TMR = 0x18,
	LAPIC_IRR = 0x20,
	LAPIC_ESR = 0x28,
	LAPIC_ICR = 0x30,
	LAPIC_ICR_HIGH = 0x31,
	LAPIC_LVT_TIMER = 0x32,
	LAPIC_LVT_THERMAL = 0x33,
	LAPIC_LVT_PERF = 0x34,
	LAPIC_LVT_LINT0 = 0x35,
	LAPIC_LVT_LINT1 = 0x36,
	LAPIC_LVT_ERROR = 0x37,
	LAPIC_TIMER_INITIAL = 0x38,
	LAPIC_TIMER_CURRENT = 0x39,
	LAPIC_TIMER_DIVIDE = 0x3e,
	LAPIC_SELF_IPI = 0x3f,
	LAPIC_REGISTERS = 0x40
};

#define APIC_BASE_BSP        0x100u
#define APIC_BASE_X2APIC     0x400u
#define APIC_BASE_ENABLE     0x800u
#define APIC_BASE_DEFAULT    0xfee00000u
#define APIC_BASE_ADDRESS    UINT64_C(0x000ffffffffff000)

#define LAPIC_VERSION_VALUE  0x50014u /* 6 LVT entries */
#define LAPIC_SVR_ENABLE     0x100u
#define LAPIC_SVR_BITS       0x3ffu
#define LAPIC_LVT_MASKED     0x10000u
#define LAPIC_LVT_LEVEL      0x8000u
#define LAPIC_LVT_VECTOR     0xffu
#define LAPIC_TIMER_MODE     0x60000u
#define LAPIC_TIMER_PERIODIC 0x20000u
#define LAPIC_TIMER_DEADLINE 0x40000u
#define LAPIC_DIVIDE_BITS    0xbu

#define ESR_SEND_VECTOR      0x20u
#define ESR_RECEIVE_VECTOR   0x40u
#define ESR_REGISTER         0x80u

#define VECTOR_LEAST         16u

/* Delivery modes, of LVTs, ICR, IOAPIC entries and MSIs. */
enum delivery {
	DELIVER_FIXED = 0,
	DELIVER_LOWEST = 1,
	DELIVER_SMI = 2,
	DELIVER_NMI = 4,
	DELIVER_INIT = 5,
	DELIVER_SIPI = 6,
	DELIVER_EXTINT = 7
};

struct lapic {
	uint32_t reg[LAPIC_REGISTERS]; /* the id as in xAPIC mode, in bits 24-31 */
	uint64_t base;                 /* IA32_APIC_BASE */
	uint64_t due;                  /* when the timer fires; NEVER: it does not run */
	uint64_t tsc_deadline;
	int pending;     /* vector to be taken now, or -1; follows IRR, ISR and TPR */
	uint32_t errors; /* found since the guest last wrote ESR */
	bool nmi, init;
	int sipi; /* vector, or -1 */
};

/* ---- all of it ----------------------------------------------------------------------- */

#define PIC_MASTER     0
#define PIC_SLAVE      1
#define PIC_CASCADE    2
#define IOAPIC_ADDRESS 0xfec00000u
#define PIT_CHANNELS   3
#define PIT_MODE_UNSET 0xff
#define PIT_COUNT_MAX  0x10000u

struct pit {
	struct kvm_pit_state2 state;    /* count_load_time: in the time base of `now` */
	uint64_t stopped[PIT_CHANNELS]; /* ticks counted when the gate fell */
	bool waiting[PIT_CHANNELS];     /* for a count or, in modes 1 and 5, the gate's edge */
	uint64_t due;                   /* of channel 0's interrupt */
};

struct soft_chips {
	struct soft_chips_hooks hooks;
	uint64_t deadline; /* least `due` */
	struct kvm_pic_state pic[2];
	bool pic_output;
	struct kvm_ioapic_state ioapic;
	uint32_t ioapic_delivered; /* pins of ioapic.irr whose edge went on its way */
	struct pit pit;
	unsigned vcpus;
	struct lapic lapic[];
};

struct interrupt {
	uint8_t vector;
	uint8_t delivery; /* enum delivery */
	bool level;       /* trigger mode */
	bool deassert;
	bool logical;
	bool lowest; /* one of those addressed, whatever the delivery mode */
	bool wide;   /* the destination has 32 bits, not 8 */
	uint32_t destination;
};

/* chips.c: after a `due` changed. */
void deadline_update(struct soft_chips *c);

/* chips_lapic.c */
void lapic_reset(struct soft_chips *c, unsigned vcpu); /* all but id, base and what is latched */
static inline bool lapic_enabled(const struct lapic *l)
{
	return l->base & APIC_BASE_ENABLE;
}
static inline bool lapic_x2(const struct lapic *l)
{
	return l->base & APIC_BASE_X2APIC;
}
uint32_t lapic_x2_logical(unsigned vcpu);
bool lapic_known(unsigned index); /* there is such a register in xAPIC mode */
/* 0; -EINVAL: no such register, or not to be read or written. */
int lapic_read(const struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index,
	       uint32_t *value) MUST_CHECK;
int lapic_write(struct soft_chips *c, uint64_t now, unsigned vcpu, unsigned index,
		uint32_t value) MUST_CHECK;
void lapic_error(struct soft_chips *c, unsigned vcpu, uint32_t bit);
/* PPR and `pending` from IRR, ISR and TPR. */
void lapic_update(struct soft_chips *c, unsigned vcpu);
/* Whether it took the interrupt. */
bool lapic_accept(struct soft_chips *c, unsigned vcpu, const struct interrupt *i);
/* What the LVT entry `index` says. */
void lapic_local(struct soft_chips *c, unsigned vcpu, unsigned index);
int lapic_take(struct soft_chips *c, unsigned vcpu);

/* chips_timer.c: the LAPIC's */
uint32_t timer_count(const struct lapic *l, uint64_t now);
void timer_stop(struct lapic *l);
void timer_start(struct soft_chips *c, uint64_t now, unsigned vcpu);
void timer_resume(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t count);
void timer_mode_set(struct soft_chips *c, unsigned vcpu, uint32_t lvt);
void timer_divide_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint32_t value);
void timer_deadline_set(struct soft_chips *c, uint64_t now, unsigned vcpu, uint64_t tsc);
void timer_run(struct soft_chips *c, uint64_t now, unsigned vcpu);

/* chips_ipi.c: how many took it; -1 if nobody is addressed */
int interrupt_send(struct soft_chips *c, const struct interrupt *i);
void ipi_send(struct soft_chips *c, unsigned vcpu);

/* chips_ioapic.c */
void ioapic_reset(struct soft_chips *c);
void ioapic_pin(struct soft_chips *c, unsigned pin, bool level);
void ioapic_eoi(struct soft_chips *c, unsigned vector);
void ioapic_access(struct soft_chips *c, uint64_t offset, void *data, unsigned size, bool write);

/* chips_pic.c */
void pic_reset(struct soft_chips *c);
void pic_pin(struct soft_chips *c, unsigned irq, bool level);
void pic_update(struct soft_chips *c);
int pic_take(struct soft_chips *c);
bool pic_accepted(const struct soft_chips *c, unsigned vcpu); /* whose interrupts it takes */
bool pic_port(struct soft_chips *c, uint16_t port, uint8_t *data, bool write);

/* chips_pit.c */
void pit_reset(struct soft_chips *c);
/* Channel 0's next interrupt is planned too. */
void pit_start(struct soft_chips *c, uint64_t now, unsigned channel);
void pit_run(struct soft_chips *c, uint64_t now);
bool pit_port(struct soft_chips *c, uint64_t now, uint16_t port, uint8_t *data, bool write);

#endif

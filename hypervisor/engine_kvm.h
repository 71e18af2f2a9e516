// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of the KVM engine (Linux Documentation/virt/kvm/api.rst). Private to
 * engine_kvm*.c.
 *
 * The kick signal (vcpu_signal()) belongs to this engine in the whole process. Its
 * handler is empty and restarts system calls: what stops a vCPU is that KVM_RUN, and
 * nothing else, never restarts.
 */
#ifndef POLLUX_HYPERVISOR_ENGINE_KVM_H
#define POLLUX_HYPERVISOR_ENGINE_KVM_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "hypervisor/engine.h"

#define KVM_MSRS_MAX         256
#define KVM_CPUID_MAX        200
#define KVM_IRQ_PINS         24
#define KVM_XSAVE_LEGACY     512 /* FXSAVE area, then 64 octets of header */
#define KVM_XSAVE_LEAST      576
#define KVM_TSC_DEADLINE_MSR 0x6e0u

struct kvm_vcpu {
	int fd;
	struct kvm_run *run;
	_Atomic pid_t tid; /* its thread; 0 before its first run */
	atomic_bool inside;
	uint32_t tsc_khz; /* changes by kvm_vcpu_set() only; 0 = not asked yet */
};

/* Everything that KVM knows of one vCPU. */
struct kvm_image {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	uint32_t tsc_khz;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[KVM_MSRS_MAX];
	} msrs;
	uint8_t *xsave; /* engine->xsave_size octets */
};

struct kvm_chips {
	struct kvm_irqchip pic[2], ioapic;
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

struct engine {
	int kvm, vm;
	unsigned vcpus;
	struct memory *memory;
	struct kvm_vcpu vcpu[VM_VCPUS_MAX];
	size_t run_size;

	struct kvm_cpuid2 *cpuid; /* vCPU 0's; others differ in their APIC id */
	uint32_t msrs[KVM_MSRS_MAX];
	unsigned msr_count;
	bool xsave2;
	size_t xsave_size; /* what KVM reads and writes */
	size_t xsave_used; /* what the offered features need: this goes into the state */
	uint64_t xcr0;     /* components offered */
	uint32_t clock_flags;

	struct kvm_image image; /* scratch; state calls are made by one thread at a time */
	struct buf power_on;    /* state as created, for vcpus_reset() */

	unsigned log_features; /* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	bool logging;
	uint64_t *log_bitmap; /* of the region at work; large enough for all of RAM */
};

/* ioctl that gives 0 or more, or -errno. */
int kvm_call(int fd, unsigned long request, void *arg);
/* The same, with a sentence. */
int kvm_try(int fd, unsigned long request, void *arg, const char *what, struct error *e) MUST_CHECK;

/* engine_kvm_probe.c */
void kvm_probe(struct engine_report *out);
int kvm_requirements_check(int kvm, struct error *e) MUST_CHECK;

/* engine_kvm_cpuid.c: what every vCPU is offered: the host's features less those
 * whose state cannot be carried. */
int kvm_cpuid_make(int kvm, unsigned vcpus, struct kvm_cpuid2 **out, struct error *e) MUST_CHECK;
/* `cpuid` with the APIC ids of one vCPU. */
void kvm_cpuid_personalize(struct kvm_cpuid2 *cpuid, unsigned vcpu);
const struct kvm_cpuid_entry2 *kvm_cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					      uint32_t index);

/* engine_kvm_msr.c: which MSRs are guest state, in the order in which to load them. */
int kvm_msrs_choose(struct engine *en, struct error *e) MUST_CHECK;
bool kvm_msr_known(const struct engine *en, uint32_t index);
int kvm_msrs_get(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;
int kvm_msrs_set(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;

/* engine_kvm_run.c */
int vcpu_signal(void);
int kvm_signal_setup(struct error *e) MUST_CHECK;
void kvm_vcpu_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit);
void kvm_vcpu_kick(struct engine *en, unsigned vcpu);

/* engine_kvm_boot.c */
int kvm_vcpu_boot(struct engine *en, const struct boot_entry *entry, struct error *e);

/* engine_kvm_vcpu.c: between KVM and engine->image */
int kvm_vcpu_get(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;
int kvm_vcpu_set(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;

/* engine_kvm_codec.c: between engine->image, chips and octets (docs/state-format.md) */
void kvm_vcpu_encode(const struct engine *en, struct buf *out);
/* Checks all of it; fills `image`, whose xsave may be NULL: then it is checked only. */
int kvm_vcpu_decode(const struct engine *en, const struct state_section *s, struct kvm_image *image,
		    struct error *e) MUST_CHECK;
void kvm_cpuid_encode(const struct kvm_cpuid2 *cpuid, struct buf *out);
int kvm_cpuid_compare(const struct kvm_cpuid2 *own, const struct state_section *s,
		      struct error *e) MUST_CHECK;

/* engine_kvm_chips.c */
int kvm_chips_save(struct engine *en, struct buf *out, struct error *e) MUST_CHECK;
int kvm_chips_decode(const struct state_view *v, struct kvm_chips *out, struct error *e) MUST_CHECK;
int kvm_chips_load(struct engine *en, struct kvm_chips *chips, struct error *e) MUST_CHECK;

/* engine_kvm_state.c */
int kvm_state_save(struct engine *en, struct buf *out, struct error *e);
int kvm_state_check(struct engine *en, const struct state_view *state, struct error *e);
int kvm_state_load(struct engine *en, const struct state_view *state, struct error *e);
int kvm_vcpus_reset(struct engine *en, struct error *e);
int kvm_after_pause(struct engine *en);

/* engine_kvm_irq.c */
int kvm_irq_line(struct engine *en, unsigned gsi, bool level);
int kvm_msi(struct engine *en, uint64_t address, uint32_t data);
int kvm_doorbell(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on);

/* engine_kvm_dirty.c */
int kvm_regions_set(struct engine *en, bool logging) MUST_CHECK;
int kvm_log_dirty(struct engine *en, bool on);
int kvm_dirty_harvest(struct engine *en, uint64_t *map);

#endif

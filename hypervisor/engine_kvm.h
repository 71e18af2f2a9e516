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
#include "hypervisor/state_image.h"

#define KVM_CPUID_MAX 200

struct kvm_vcpu {
	int fd;
	struct kvm_run *run;
	_Atomic pid_t tid; /* its thread; 0 before its first run */
	atomic_bool inside;
	uint32_t tsc_khz; /* changes by kvm_vcpu_set() only; 0 = not asked yet */
};

struct engine {
	int kvm, vm;
	struct memory *memory;
	struct kvm_vcpu vcpu[VM_VCPUS_MAX];
	size_t run_size;

	struct state_model model;
	struct vm_cpu_limits own; /* the guest's: a vCPU that runs cannot be asked */
	bool base;                /* CPU model pollux-base, not the host's */
	bool xsave2;
	uint32_t clock_flags;
	uint64_t clock_lead; /* state_clock_lead() */

	struct vcpu_image image; /* scratch; state calls are made by one thread at a time */
	struct buf power_on;     /* state as created, for vcpus_reset() */

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
/* Gives them to a vCPU, which has not run yet. */
int kvm_cpuid_set(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;
unsigned kvm_cpu_own(const struct engine *en, struct vm_cpu_leaf *out, unsigned most);
/* What KVM can offer on this host; to be freed. */
int kvm_cpuid_supported(int kvm, struct kvm_cpuid2 **out, struct error *e) MUST_CHECK;
const struct kvm_cpuid_entry2 *kvm_cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					      uint32_t index);

/* engine_kvm_base.c: CPU model pollux-base, if this host can offer all of it. */
int kvm_base_make(int kvm, struct state_model *model, struct error *e) MUST_CHECK;

/* engine_kvm_msr.c: which MSRs are guest state, in the order in which to load them. */
int kvm_msrs_choose(struct engine *en, struct error *e) MUST_CHECK;
int kvm_msrs_get(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;
int kvm_msrs_set(struct engine *en, unsigned vcpu, struct error *e) MUST_CHECK;

/* engine_kvm_limits.c: what this host's CPU promises in MSRs, as /dev/kvm says and as a vCPU begins
 * with; and the TSC if it cannot be scaled. For guests with the host's CPU: pollux-base has neither
 * such MSRs nor a rate that it insists on. */
void kvm_limits_find(int kvm, int vcpu, struct vm_cpu_limits *out);
/* The same without a VM: by one that ends with it. */
int kvm_limits_probe(int kvm, struct vm_cpu_limits *out, struct error *e) MUST_CHECK;
/* Asks vCPU 0 what its guest has of that, while it stands still. */
void kvm_limits_note(struct engine *en);
void kvm_cpu_limits(const struct engine *en, struct vm_cpu_limits *out);
/* From the image: the vCPU keeps those that it has. A guest cannot write them. */
void kvm_promises_drop(struct engine *en);

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

/* engine_kvm_chips.c */
int kvm_chips_save(struct engine *en, struct buf *out, struct error *e) MUST_CHECK;
int kvm_chips_load(struct engine *en, struct chips_image *chips, struct error *e) MUST_CHECK;

/* engine_kvm_state.c */
int kvm_state_save(struct engine *en, struct buf *out, struct error *e);
int kvm_state_check(struct engine *en, const struct state_view *state, struct error *e);
int kvm_state_load(struct engine *en, const struct state_view *state, struct error *e);
int kvm_power_on_keep(struct engine *en, struct error *e) MUST_CHECK;
int kvm_vcpus_reset(struct engine *en, struct error *e);
int kvm_vcpu_after_pause(struct engine *en, unsigned vcpu);

/* engine_kvm_irq.c */
int kvm_irq_line(struct engine *en, unsigned gsi, bool level);
int kvm_msi(struct engine *en, uint64_t address, uint32_t data);
int kvm_doorbell(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on);

/* engine_kvm_dirty.c */
int kvm_regions_set(struct engine *en, bool logging) MUST_CHECK;
int kvm_log_dirty(struct engine *en, bool on);
int kvm_dirty_harvest(struct engine *en, uint64_t *map);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * vCPUs and chips between octets (docs/state-format.md) and the structs of the KVM
 * interface, which all engines that run real guests use for it. Pure functions. Private to
 * hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_STATE_IMAGE_H
#define POLLUX_HYPERVISOR_STATE_IMAGE_H

#include <linux/kvm.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/state.h"

#define STATE_MSRS_MAX     256
#define STATE_IRQ_PINS     24
#define STATE_XSAVE_LEGACY 512 /* FXSAVE area, then 64 octets of header */
#define STATE_XSAVE_LEAST  576
#define STATE_CPUID_MOST   256u

#define MSR_TSC            0x10u
#define MSR_TSC_DEADLINE   0x6e0u

/* What all states of one machine have in common. */
struct state_model {
	const char *engine; /* its name, for messages */
	unsigned vcpus;
	struct kvm_cpuid2 *offered;  /* by this host, to vCPU 0; others differ in their APIC id */
	unsigned leaves_most;        /* that it has room for */
	struct kvm_cpuid2 *cpuid;    /* the guest's: as offered, or as its state says */
	uint64_t xcr0;               /* components that the guest has */
	size_t xsave_used;           /* what these need: this goes into the state */
	size_t xsave_size;           /* octets of vcpu_image.xsave */
	struct vm_cpu_limits limits; /* of this host */
	unsigned msr_count;
	uint32_t msrs[STATE_MSRS_MAX]; /* guest state, in the order in which to load them */
};

struct vcpu_image {
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
		struct kvm_msr_entry entries[STATE_MSRS_MAX];
	} msrs;
	uint8_t *xsave; /* model->xsave_size octets */
};

struct chips_image {
	struct kvm_irqchip pic[2], ioapic;
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

bool state_msr_known(const struct state_model *model, uint32_t index);

/* state_image.c: whole sections. */
void state_cpuid_save(const struct state_model *model, struct buf *out);
void state_vcpu_save(const struct state_model *model, unsigned vcpu, const struct vcpu_image *image,
		     struct buf *out);
/* Everything that an engine must find and may find: see engine_ops.state_check. */
int state_image_check(const struct state_model *model, const struct state_view *v,
		      struct error *e) MUST_CHECK;
int state_vcpu_open(const struct state_model *model, const struct state_view *v, unsigned vcpu,
		    struct vcpu_image *image, struct error *e) MUST_CHECK;

/* state_vcpu.c: their contents. */
void state_vcpu_encode(const struct state_model *model, const struct vcpu_image *image,
		       struct buf *out);
/* Checks all of it; fills `image`, whose xsave may be NULL: then it is checked only. */
int state_vcpu_decode(const struct state_model *model, const struct state_section *s,
		      struct vcpu_image *image, struct error *e) MUST_CHECK;
/* To look at, by whoever has no machine to compare it with: `xsave` points into the section. */
int state_vcpu_view(const struct state_section *s, struct vcpu_image *image, const uint8_t **xsave,
		    uint32_t *xsave_size, struct error *e) MUST_CHECK;

/* state_cpuid.c */
void state_cpuid_encode(const struct kvm_cpuid2 *cpuid, struct buf *out);
/* The guest's CPU, if this machine can be it; to be freed. */
int state_cpuid_open(const struct state_model *model, const struct state_view *v,
		     struct kvm_cpuid2 **out, struct error *e) MUST_CHECK;
bool state_cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);
/* What `cpuid` says of the FPU. */
void state_model_fpu(struct state_model *model);
/* How many there are; `most` are written. */
unsigned state_cpuid_leaves(const struct kvm_cpuid2 *cpuid, struct vm_cpu_leaf *out, unsigned most);

/* state_chips.c */
/* By how many ns the wall that a loaded clock follows is ahead of `wall_now`, this host's. What is
 * saved here counts that in. Else a guest that goes to and fro would gain the difference between
 * two hosts each time it comes to the one that is ahead. */
uint64_t state_clock_lead(const struct kvm_clock_data *loaded, uint64_t wall_now);
void state_chips_save(const struct chips_image *chips, struct buf *out);
int state_chips_open(const struct state_view *v, struct chips_image *out,
		     struct error *e) MUST_CHECK;

#endif

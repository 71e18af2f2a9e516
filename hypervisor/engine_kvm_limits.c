// SPDX-License-Identifier: Apache-2.0
/* What MSRs promise, and the rate of the TSC: of this host, and of the guest. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/cpu_limits.h"
#include "hypervisor/engine_kvm.h"

static bool msr_read(int fd, uint32_t index, uint64_t *bits)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head = {.nmsrs = 1}, .entry = {.index = index}};

	if (kvm_call(fd, KVM_GET_MSRS, &one) != 1)
		return false;
	*bits |= one.entry.data;
	return true;
}

static void promise_add(struct vm_cpu_limits *l, uint32_t msr, uint64_t bits)
{
	l->promises[l->promise_count++] = (struct vm_cpu_promise){.msr = msr, .bits = bits};
}

static uint32_t khz_of(int vcpu)
{
	int khz = kvm_call(vcpu, KVM_GET_TSC_KHZ, NULL);

	return khz > 0 ? (uint32_t)khz : 0;
}

void kvm_limits_find(int kvm, int vcpu, struct vm_cpu_limits *out)
{
	bool scales = kvm_call(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_CONTROL) > 0;

	*out = (struct vm_cpu_limits){.tsc_khz = scales ? 0 : khz_of(vcpu)};
	for (unsigned i = 0; i < CPU_PROMISES; i++) {
		uint32_t msr = cpu_promises[i].msr;
		uint64_t bits = 0;
		bool host = msr_read(kvm, msr, &bits), own = msr_read(vcpu, msr, &bits);

		if (host || own)
			promise_add(out, msr, bits);
	}
}

/* Tests arm this for a host that no guest comes to. */
static void faster_plant(struct vm_cpu_limits *l)
{
	if (fault_point("kvm.faster"))
		l->tsc_khz = UINT32_MAX;
}

int kvm_limits_probe(int kvm, struct vm_cpu_limits *out, struct error *e)
{
	int vcpu, vm = kvm_call(kvm, KVM_CREATE_VM, NULL);

	if (vm < 0)
		return error_set(e, vm, "KVM cannot make a VM: %s", strerror(-vm));
	vcpu = kvm_call(vm, KVM_CREATE_VCPU, NULL);
	if (vcpu < 0) {
		error_set(e, vcpu, "KVM cannot make a vCPU: %s", strerror(-vcpu));
	} else {
		kvm_limits_find(kvm, vcpu, out);
		faster_plant(out);
		close(vcpu);
	}
	close(vm);
	return vcpu < 0 ? vcpu : 0;
}

void kvm_limits_note(struct engine *en)
{
	en->own = (struct vm_cpu_limits){0};
	if (en->base)
		return;
	en->own.tsc_khz = khz_of(en->vcpu[0].fd);
	for (unsigned i = 0; i < CPU_PROMISES; i++) {
		uint32_t msr = cpu_promises[i].msr;
		uint64_t bits = 0;

		if (state_msr_known(&en->model, msr) && msr_read(en->vcpu[0].fd, msr, &bits))
			promise_add(&en->own, msr, bits);
	}
}

void kvm_cpu_limits(const struct engine *en, struct vm_cpu_limits *out)
{
	*out = en->own;
}

void kvm_promises_drop(struct engine *en)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < en->image.msrs.head.nmsrs; i++)
		if (!cpu_promise_mask(en->image.msrs.entries[i].index))
			en->image.msrs.entries[kept++] = en->image.msrs.entries[i];
	en->image.msrs.head.nmsrs = kept;
}

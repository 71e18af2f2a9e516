// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/engine_kvm.h"

int kvm_state_save(struct engine *en, struct buf *out, struct error *e)
{
	int rc = 0;

	state_cpuid_save(&en->model, out);
	for (unsigned i = 0; !rc && i < en->model.vcpus; i++) {
		rc = kvm_vcpu_get(en, i, e);
		if (!rc)
			state_vcpu_save(&en->model, i, &en->image, out);
	}
	return rc ? rc : kvm_chips_save(en, out, e);
}

int kvm_state_check(struct engine *en, const struct state_view *state, struct error *e)
{
	return state_image_check(&en->model, state, e);
}

static int vcpu_load(struct engine *en, const struct state_view *v, unsigned vcpu, struct error *e)
{
	int rc = state_vcpu_open(&en->model, v, vcpu, &en->image, e);

	return rc ? rc : kvm_vcpu_set(en, vcpu, e);
}

int kvm_power_on_keep(struct engine *en, struct error *e)
{
	size_t began;
	int rc;

	buf_reset(&en->power_on);
	began = state_start(&en->power_on);
	rc = kvm_state_save(en, &en->power_on, e);
	if (rc)
		return rc;
	rc = state_finish(&en->power_on, began);
	return rc ? error_set(e, rc, "no memory for the power-on state") : 0;
}

/* What the guest's CPU has promised, and the rate of its TSC, are no part of a power-on: it may
 * have brought them from a host that has less. */
static int vcpu_power_on(struct engine *en, const struct state_view *v, unsigned vcpu,
			 struct error *e)
{
	int rc = state_vcpu_open(&en->model, v, vcpu, &en->image, e);

	if (rc)
		return rc;
	kvm_promises_drop(en);
	en->image.tsc_khz = 0;
	return kvm_vcpu_set(en, vcpu, e);
}

typedef int vcpu_load_fn(struct engine *en, const struct state_view *v, unsigned vcpu,
			 struct error *e);

static int power_on_load(struct engine *en, vcpu_load_fn *load, struct error *e)
{
	struct chips_image chips;
	struct state_view v;
	int rc = state_open(en->power_on.data, en->power_on.len, &v, e);

	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = load(en, &v, i, e);
	if (!rc)
		rc = state_chips_open(&v, &chips, e);
	if (rc)
		return rc;
	chips.clock.flags = 0; /* a new start, not a time that was missed */
	return kvm_chips_load(en, &chips, e);
}

int kvm_vcpus_reset(struct engine *en, struct error *e)
{
	return power_on_load(en, vcpu_power_on, e);
}

/* Which MSRs are state, and what a power-on looks like, follow the CPU. */
static int cpu_become(struct engine *en, struct kvm_cpuid2 *cpuid, struct error *e)
{
	int rc = power_on_load(en, vcpu_load, e);

	if (en->model.cpuid != en->model.offered)
		free(en->model.cpuid);
	en->model.cpuid = cpuid;
	state_model_fpu(&en->model);
	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = kvm_cpuid_set(en, i, e);
	if (!rc)
		rc = kvm_msrs_choose(en, e);
	if (!rc)
		rc = kvm_power_on_keep(en, e);
	if (rc)
		cpuid->nent = 0; /* which the vCPUs have is not known: it equals none */
	return rc;
}

/* The guest keeps the CPU that it has, where this host offers more. KVM wants to know before
 * the first run, and a state is loaded before it. */
static int cpu_take(struct engine *en, const struct state_view *state, struct error *e)
{
	struct kvm_cpuid2 *cpuid;
	int rc = state_cpuid_open(&en->model, state, &cpuid, e);

	if (rc)
		return rc;
	if (!state_cpuid_equal(cpuid, en->model.cpuid))
		return cpu_become(en, cpuid, e);
	free(cpuid);
	return 0;
}

int kvm_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	struct chips_image chips;
	int rc = state_chips_open(state, &chips, e);

	if (!rc)
		rc = cpu_take(en, state, e);

	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = vcpu_load(en, state, i, e);
	kvm_limits_note(en);
	return rc ? rc : kvm_chips_load(en, &chips, e);
}

/* Tells a guest that its watchdogs saw a pause. -EINVAL: it has not set up kvmclock. */
int kvm_vcpu_after_pause(struct engine *en, unsigned vcpu)
{
	int rc = kvm_call(en->vcpu[vcpu].fd, KVM_KVMCLOCK_CTRL, NULL);

	return rc == -EINVAL ? 0 : rc;
}

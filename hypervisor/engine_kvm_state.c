// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
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

int kvm_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	struct chips_image chips;
	int rc = state_chips_open(state, &chips, e);

	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = vcpu_load(en, state, i, e);
	return rc ? rc : kvm_chips_load(en, &chips, e);
}

int kvm_vcpus_reset(struct engine *en, struct error *e)
{
	struct chips_image chips;
	struct state_view v;
	int rc = state_open(en->power_on.data, en->power_on.len, &v, e);

	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = vcpu_load(en, &v, i, e);
	if (!rc)
		rc = state_chips_open(&v, &chips, e);
	if (rc)
		return rc;
	chips.clock.flags = 0; /* a new start, not a time that was missed */
	return kvm_chips_load(en, &chips, e);
}

/* Tells a guest that its watchdogs saw a pause. -EINVAL: it has not set up kvmclock. */
int kvm_vcpu_after_pause(struct engine *en, unsigned vcpu)
{
	int rc = kvm_call(en->vcpu[vcpu].fd, KVM_KVMCLOCK_CTRL, NULL);

	return rc == -EINVAL ? 0 : rc;
}

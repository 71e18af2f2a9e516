// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "hypervisor/engine_kvm.h"

#define VCPU_VERSION  1
#define CPUID_VERSION 1

static void cpuid_save(struct engine *en, struct buf *out)
{
	size_t at = state_section_begin(out, STATE_CPUID, 0, CPUID_VERSION, STATE_MANDATORY);

	kvm_cpuid_encode(en->cpuid, out);
	state_section_end(out, at);
}

int kvm_state_save(struct engine *en, struct buf *out, struct error *e)
{
	int rc = 0;

	cpuid_save(en, out);
	for (unsigned i = 0; !rc && i < en->vcpus; i++) {
		size_t at = state_section_begin(out, STATE_VCPU, (uint16_t)i, VCPU_VERSION,
						STATE_MANDATORY);

		rc = kvm_vcpu_get(en, i, e);
		if (!rc)
			kvm_vcpu_encode(en, out);
		state_section_end(out, at);
	}
	return rc ? rc : kvm_chips_save(en, out, e);
}

/* ---- check ------------------------------------------------------------------ */

static const struct {
	uint16_t id;
	uint16_t instances; /* 0: one a vCPU */
} known[] = {
	{STATE_CPUID, 1},  {STATE_VCPU, 0}, {STATE_PIC, 2},
	{STATE_IOAPIC, 1}, {STATE_PIT, 1},  {STATE_CLOCK, 1},
};

static bool section_known(const struct engine *en, const struct state_section *s)
{
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		if (s->id == known[i].id)
			return s->instance < (known[i].instances ? known[i].instances : en->vcpus);
	return false;
}

static int sections_check(const struct engine *en, const struct state_view *v, struct error *e)
{
	for (unsigned i = 0; i < v->count; i++) {
		const struct state_section *s = &v->sections[i];

		if (s->id < STATE_VCPU || s->id >= STATE_SERIAL)
			continue;
		if (s->flags & STATE_MANDATORY && !section_known(en, s))
			return error_set(e, -EBADMSG,
					 "machine state: engine kvm does not know section %u, %u "
					 "(made by another engine or a newer program)",
					 s->id, s->instance);
	}
	return 0;
}

static int cpuid_check(const struct engine *en, const struct state_view *v, struct error *e)
{
	const struct state_section *s = state_find(v, STATE_CPUID, 0);

	if (!s || s->version != CPUID_VERSION)
		return error_set(e, -EBADMSG, "machine state: CPUID: %s",
				 s ? "unknown version" : "the section is missing");
	return kvm_cpuid_compare(en->cpuid, s, e);
}

static const struct state_section *vcpu_section(const struct state_view *v, unsigned vcpu,
						struct error *e)
{
	const struct state_section *s = state_find(v, STATE_VCPU, (uint16_t)vcpu);

	if (s && s->version == VCPU_VERSION)
		return s;
	error_set(e, -EBADMSG, "machine state: vCPU %u: %s", vcpu,
		  s ? "unknown version" : "the section is missing");
	return NULL;
}

int kvm_state_check(struct engine *en, const struct state_view *state, struct error *e)
{
	struct kvm_image image = {.xsave = NULL};
	struct kvm_chips chips;
	int rc = sections_check(en, state, e);

	if (!rc)
		rc = cpuid_check(en, state, e);
	for (unsigned i = 0; !rc && i < en->vcpus; i++) {
		const struct state_section *s = vcpu_section(state, i, e);

		rc = s ? kvm_vcpu_decode(en, s, &image, e) : -EBADMSG;
	}
	return rc ? rc : kvm_chips_decode(state, &chips, e);
}

/* ---- load ---------------------------------------------------------------------- */

static int vcpu_load(struct engine *en, const struct state_view *v, unsigned vcpu, struct error *e)
{
	const struct state_section *s = vcpu_section(v, vcpu, e);
	int rc = s ? kvm_vcpu_decode(en, s, &en->image, e) : -EBADMSG;

	return rc ? rc : kvm_vcpu_set(en, vcpu, e);
}

int kvm_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	struct kvm_chips chips;
	int rc = kvm_chips_decode(state, &chips, e);

	for (unsigned i = 0; !rc && i < en->vcpus; i++)
		rc = vcpu_load(en, state, i, e);
	return rc ? rc : kvm_chips_load(en, &chips, e);
}

int kvm_vcpus_reset(struct engine *en, struct error *e)
{
	struct kvm_chips chips;
	struct state_view v;
	int rc = state_open(en->power_on.data, en->power_on.len, &v, e);

	for (unsigned i = 0; !rc && i < en->vcpus; i++)
		rc = vcpu_load(en, &v, i, e);
	if (!rc)
		rc = kvm_chips_decode(&v, &chips, e);
	if (rc)
		return rc;
	chips.clock.flags = 0; /* a new start, not a time that was missed */
	return kvm_chips_load(en, &chips, e);
}

/* Tells a guest that its watchdogs saw a pause. -EINVAL: it has not set up kvmclock. */
int kvm_after_pause(struct engine *en)
{
	int first = 0;

	for (unsigned i = 0; i < en->vcpus; i++) {
		int rc = kvm_call(en->vcpu[i].fd, KVM_KVMCLOCK_CTRL, NULL);

		if (rc < 0 && rc != -EINVAL && !first)
			first = rc;
	}
	return first;
}

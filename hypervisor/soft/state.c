// SPDX-License-Identifier: Apache-2.0
/*
 * Saving and loading the machine: the sections of docs/state-format.md, with CPU model
 * pollux-base. Guest memory is neither read nor written here, as it may come later: events
 * that wait, and the clock's page, are left to the first run.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/cpu_model.h"
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/state.h"

struct cpuid_room {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[CPU_MODEL_LEAVES];
};

struct model {
	struct state_model state;
	struct cpuid_room offered, guest;
};

static void leaves_give(const struct engine *en, struct kvm_cpuid2 *out)
{
	out->nent = en->leaf_count;
	for (unsigned i = 0; i < en->leaf_count; i++)
		out->entries[i] = cpu_model_entry(&en->leaves[i]);
}

static void model_make(const struct engine *en, struct model *m)
{
	memset(m, 0, sizeof(*m));
	m->state.engine = "soft";
	m->state.vcpus = en->vcpus;
	m->state.cpuid = m->state.offered = (struct kvm_cpuid2 *)&m->offered;
	cpu_model_base(&m->state);
	m->state.cpuid = (struct kvm_cpuid2 *)&m->guest;
	leaves_give(en, m->state.cpuid);
}

unsigned soft_cpu_own(const struct engine *en, struct vm_cpu_leaf *out, unsigned most)
{
	struct model m;

	model_make(en, &m);
	return state_cpuid_leaves(m.state.cpuid, out, most);
}

/* pollux-base has none: any rate will do, and no such MSR is in its states. */
void soft_cpu_limits(const struct engine *en, struct vm_cpu_limits *out)
{
	(void)en;
	*out = (struct vm_cpu_limits){0};
}

/* The guest keeps the CPU that it has, where this engine offers more. */
static int cpu_take(struct engine *en, const struct state_view *v, struct error *e)
{
	struct kvm_cpuid2 *cpuid;
	struct model m;
	int rc;

	model_make(en, &m);
	rc = state_cpuid_open(&m.state, v, &cpuid, e);
	if (rc)
		return rc;
	en->leaf_count = cpuid->nent;
	for (unsigned i = 0; i < cpuid->nent; i++)
		en->leaves[i] = cpu_model_leaf(&cpuid->entries[i]);
	free(cpuid);
	return 0;
}

/* ---- clock ------------------------------------------------------------------------------ */

static void clock_make(const struct engine *en, struct kvm_clock_data *out)
{
	*out = (struct kvm_clock_data){
		.clock = soft_kvmclock_read(en),
		.realtime = soft_wall_now(en) + en->clock.lead,
		.flags = KVM_CLOCK_REALTIME,
	};
}

/* Set forward by what has passed on the wall, never back. */
static void clock_take(struct engine *en, const struct kvm_clock_data *in)
{
	uint64_t now = soft_wall_now(en), clock = in->clock;

	if (in->flags & KVM_CLOCK_REALTIME && now > in->realtime)
		clock += now - in->realtime;
	en->clock.kvmclock = (int64_t)(clock - soft_now(en));
	en->clock.lead = state_clock_lead(in, now);
}

/* TSCs that are within a second of each other were meant to be equal: the moments at
 * which the vCPUs were saved and loaded are not the same. Deadlines are values of theirs. */
static void tscs_join(struct engine *en)
{
	uint64_t second = en->clock.tsc_khz * UINT64_C(1000), now = soft_now(en);

	for (unsigned i = 1; i < en->vcpus; i++) {
		if (en->cpu[i]->tsc_offset - en->cpu[0]->tsc_offset + second >= 2 * second)
			continue;
		en->cpu[i]->tsc_offset = en->cpu[0]->tsc_offset;
		soft_chips_tsc_deadline_set(en->chips, now, i,
					    soft_chips_tsc_deadline(en->chips, now, i));
	}
}

/* ---- the three operations -------------------------------------------------------------------- */

static void chips_make(struct engine *en, struct chips_image *out)
{
	struct kvm_irqchip chips[3];

	soft_chips_irqchips_save(en->chips, soft_now(en), chips);
	out->pic[0] = chips[0];
	out->pic[1] = chips[1];
	out->ioapic = chips[2];
	soft_chips_pit_save(en->chips, soft_now(en), &out->pit);
	clock_make(en, &out->clock);
}

int soft_state_save(struct engine *en, struct buf *out, struct error *e)
{
	uint8_t fpu[STATE_XSAVE_LEAST];
	struct vcpu_image image = {.xsave = fpu};
	struct chips_image chips = {0};
	struct model m;

	model_make(en, &m);
	state_cpuid_save(&m.state, out);
	soft_chips_enter(en);
	for (unsigned i = 0; i < en->vcpus; i++) {
		soft_image_make(en->cpu[i], &m.state, &image);
		state_vcpu_save(&m.state, i, &image, out);
	}
	chips_make(en, &chips);
	soft_chips_leave(en);
	state_chips_save(&chips, out);
	return 0;
}

int soft_state_check(struct engine *en, const struct state_view *state, struct error *e)
{
	struct model m;

	model_make(en, &m);
	return state_image_check(&m.state, state, e);
}

/* After the LAPICs: pins that wait act when the IOAPIC is loaded. */
static int chips_take(struct engine *en, const struct chips_image *in, struct error *e)
{
	const struct kvm_irqchip chips[3] = {in->pic[0], in->pic[1], in->ioapic};

	if (soft_chips_irqchips_load(en->chips, soft_now(en), chips))
		return error_set(e, -EBADMSG,
				 "machine state: interrupt controllers: impossible values");
	if (soft_chips_pit_load(en->chips, soft_now(en), &in->pit))
		return error_set(e, -EBADMSG, "machine state: PIT: impossible values");
	return 0;
}

static int vcpus_take(struct engine *en, const struct state_view *v, struct error *e)
{
	uint8_t fpu[STATE_XSAVE_LEAST];
	struct vcpu_image image = {.xsave = fpu};
	struct model m;
	int rc = 0;

	model_make(en, &m);
	for (unsigned i = 0; !rc && i < en->vcpus; i++) {
		rc = state_vcpu_open(&m.state, v, i, &image, e);
		/* Any frequency will do: the guest keeps the one that it has measured. */
		if (!rc && !i && image.tsc_khz)
			en->clock.tsc_khz = image.tsc_khz;
		if (!rc)
			rc = soft_image_take(en->cpu[i], &image, e);
	}
	return rc;
}

int soft_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	struct chips_image chips;
	int rc = state_chips_open(state, &chips, e);

	if (rc)
		return rc;
	soft_chips_enter(en);
	rc = cpu_take(en, state, e);
	if (!rc)
		rc = vcpus_take(en, state, e);
	if (!rc)
		rc = chips_take(en, &chips, e);
	clock_take(en, &chips.clock);
	tscs_join(en);
	soft_chips_leave(en);
	soft_code_drop_all(en);
	return rc;
}

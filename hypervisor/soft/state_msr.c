// SPDX-License-Identifier: Apache-2.0
/* MSRs in a state: those of model pollux-base. */
#include <errno.h>

#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/state.h"

#define MSR_WALL_CLOCK  0x4b564d00u
#define MSR_SYSTEM_TIME 0x4b564d01u

/* Those of clocks, which must not act as when the guest writes them. */
static uint64_t *clock_msr(struct soft_cpu *cpu, uint32_t index)
{
	if (index == MSR_WALL_CLOCK)
		return &cpu->engine->clock.wall;
	return index == MSR_SYSTEM_TIME ? &cpu->kvmclock_time : NULL;
}

static uint64_t msr_read(struct soft_cpu *cpu, uint32_t index)
{
	struct engine *en = cpu->engine;
	uint64_t value = 0, *clock = clock_msr(cpu, index);

	if (clock)
		return *clock;
	if (index == MSR_TSC)
		return soft_tsc_read(cpu);
	if (index == MSR_TSC_DEADLINE)
		return soft_chips_tsc_deadline(en->chips, soft_now(en), cpu->index);
	(void)soft_msr_read(cpu, index, &value); /* all of the model are there */
	return value;
}

static int msr_write(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	struct engine *en = cpu->engine;
	uint64_t *clock = clock_msr(cpu, index);

	if (clock)
		*clock = value;
	else if (index == MSR_TSC)
		soft_tsc_write(cpu, value);
	else if (index == MSR_TSC_DEADLINE)
		soft_chips_tsc_deadline_set(en->chips, soft_now(en), cpu->index, value);
	else
		return soft_msr_write(cpu, index, value);
	return 0;
}

void soft_image_make_msrs(struct soft_cpu *cpu, const struct state_model *model,
			  struct vcpu_image *image)
{
	image->msrs.head.nmsrs = model->msr_count;
	for (unsigned i = 0; i < model->msr_count; i++)
		image->msrs.entries[i] = (struct kvm_msr_entry){
			.index = model->msrs[i], .data = msr_read(cpu, model->msrs[i])};
}

int soft_image_take_msrs(struct soft_cpu *cpu, const struct vcpu_image *image, struct error *e)
{
	for (unsigned i = 0; i < image->msrs.head.nmsrs; i++) {
		const struct kvm_msr_entry *m = &image->msrs.entries[i];

		if (msr_write(cpu, m->index, m->data))
			return error_set(e, -EBADMSG,
					 "machine state: vCPU %u: %#llx is no value of MSR %#x",
					 cpu->index, (unsigned long long)m->data, m->index);
	}
	return 0;
}

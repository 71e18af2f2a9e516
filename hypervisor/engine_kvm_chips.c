// SPDX-License-Identifier: Apache-2.0
/* PICs, IOAPIC, PIT and clock. */
#include <errno.h>
#include <string.h>

#include "hypervisor/engine_kvm.h"

static int chip_get(struct engine *en, unsigned id, struct kvm_irqchip *chip, struct error *e)
{
	*chip = (struct kvm_irqchip){.chip_id = id};
	return kvm_try(en->vm, KVM_GET_IRQCHIP, chip, "read an interrupt controller", e);
}

int kvm_chips_save(struct engine *en, struct buf *out, struct error *e)
{
	struct chips_image chips = {0};
	int rc = chip_get(en, KVM_IRQCHIP_PIC_MASTER, &chips.pic[0], e);

	if (!rc)
		rc = chip_get(en, KVM_IRQCHIP_PIC_SLAVE, &chips.pic[1], e);
	if (!rc)
		rc = chip_get(en, KVM_IRQCHIP_IOAPIC, &chips.ioapic, e);
	if (!rc)
		rc = kvm_try(en->vm, KVM_GET_PIT2, &chips.pit, "read the PIT", e);
	if (!rc)
		rc = kvm_try(en->vm, KVM_GET_CLOCK, &chips.clock, "read the guest's clock", e);
	if (rc)
		return rc;
	chips.clock.realtime += en->clock_lead;
	state_chips_save(&chips, out);
	return 0;
}

static uint64_t wall_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

/* After the LAPICs: setting the IOAPIC delivers what waits in its pins. The clock
 * goes on by the time that passed on the wall since it was saved. */
int kvm_chips_load(struct engine *en, struct chips_image *chips, struct error *e)
{
	struct kvm_irqchip *order[] = {&chips->pic[0], &chips->pic[1], &chips->ioapic};
	int rc = 0;

	for (unsigned i = 0; !rc && i < ARRAY_LEN(order); i++)
		rc = kvm_try(en->vm, KVM_SET_IRQCHIP, order[i], "set an interrupt controller", e);
	if (!rc)
		rc = kvm_try(en->vm, KVM_SET_PIT2, &chips->pit, "set the PIT", e);
	chips->clock.flags &= en->clock_flags;
	en->clock_lead = state_clock_lead(&chips->clock, wall_now());
	if (!rc)
		rc = kvm_try(en->vm, KVM_SET_CLOCK, &chips->clock, "set the guest's clock", e);
	return rc;
}

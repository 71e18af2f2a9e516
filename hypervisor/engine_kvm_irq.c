// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/engine_kvm.h"

#include <errno.h>

int kvm_irq_line(struct engine *en, unsigned gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return kvm_call(en->vm, KVM_IRQ_LINE, &line);
}

int kvm_msi(struct engine *en, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = (uint32_t)address,
			      .address_hi = (uint32_t)(address >> 32),
			      .data = data};
	int rc = kvm_call(en->vm, KVM_SIGNAL_MSI, &msi);

	/* 1, 0 or -1 (which comes as EPERM): whether a LAPIC took it is the guest's business. */
	return rc < 0 && rc != -EPERM ? rc : 0;
}

int kvm_doorbell(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on)
{
	struct kvm_ioeventfd bell = {.addr = address,
				     .len = size,
				     .fd = event_fd,
				     .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

	return kvm_call(en->vm, KVM_IOEVENTFD, &bell);
}

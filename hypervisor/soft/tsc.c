// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hypervisor/soft/machine.h"

#define HYPERVISOR_LEAF    0x40000000u
#define HYPERVISOR_TIMINGS 0x40000010u
#define HYPERVISOR_BIT     (1u << 31)

/* Intel SDM: leaf 0x15 has the crystal's frequency and the ratio. */
static uint32_t khz_by_crystal(void)
{
	uint32_t a = 0, b = 0, c = 0, d = 0;

	if (!__get_cpuid(0x15, &a, &b, &c, &d) || !a || !b || !c)
		return 0;
	return (uint32_t)((uint64_t)c * b / a / 1000);
}

/* The leaf that most hypervisors have. */
static uint32_t khz_by_hypervisor(void)
{
	uint32_t a = 0, b = 0, c = 0, d = 0;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & HYPERVISOR_BIT))
		return 0;
	__cpuid(HYPERVISOR_LEAF, a, b, c, d);
	if (a < HYPERVISOR_TIMINGS)
		return 0;
	__cpuid(HYPERVISOR_TIMINGS, a, b, c, d);
	return a;
}

static uint32_t khz_of_vm(int vm)
{
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), khz;

	if (vcpu < 0)
		return 0;
	khz = ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
	close(vcpu);
	return khz > 0 ? (uint32_t)khz : 0;
}

static uint32_t khz_by_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;
	uint32_t khz;

	if (kvm < 0)
		return 0;
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	khz = vm < 0 ? 0 : khz_of_vm(vm);
	if (vm >= 0)
		close(vm);
	close(kvm);
	return khz;
}

uint32_t soft_tsc_khz_host(void)
{
	uint32_t khz = khz_by_kvm();

	if (!khz)
		khz = khz_by_crystal();
	if (!khz)
		khz = khz_by_hypervisor();
	return khz ? khz : SOFT_TSC_KHZ;
}

void soft_clock_reset(struct engine *en)
{
	en->clock.wall = 0;
	en->clock.kvmclock = -(int64_t)soft_now(en);
	for (unsigned i = 0; i < en->vcpus; i++) {
		soft_tsc_write(en->cpu[i], 0);
		en->cpu[i]->kvmclock_time = 0;
		en->cpu[i]->loaded.first = en->cpu[i]->loaded.waiting = false;
	}
	for (unsigned i = 1; i < en->vcpus; i++)
		en->cpu[i]->tsc_offset = en->cpu[0]->tsc_offset;
}

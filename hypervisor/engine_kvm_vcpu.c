// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU's state between KVM and engine->image.
 *
 * Order. KVM_GET_MP_STATE lets KVM act upon a pending INIT or SIPI, which changes
 * registers: it comes first. KVM_GET_VCPU_EVENTS delivers what a pending exception
 * carries into CR2 and DR6 (a page fault that KVM found while a kick was on its way):
 * it comes before these are read. KVM_SET_VCPU_EVENTS comes last, because setting
 * registers drops pending exceptions. The LAPIC is set before the MSRs, because the
 * TSC deadline is only kept while the LAPIC timer is in that mode.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "kvm"
#include "hypervisor/cpu_limits.h"
#include "hypervisor/engine_kvm.h"

typedef int vcpu_step(struct engine *en, unsigned vcpu, struct error *e);

static int vcpu_ioctl(struct engine *en, unsigned vcpu, unsigned long request, void *arg,
		      const char *what, struct error *e)
{
	int rc = kvm_call(en->vcpu[vcpu].fd, request, arg);

	return rc < 0 ? error_set(e, rc, "vCPU %u: KVM refuses %s: %s", vcpu, what, strerror(-rc))
		      : 0;
}

#define STEP(name, request, field)                                                                 \
	static int name(struct engine *en, unsigned vcpu, struct error *e)                         \
	{                                                                                          \
		return vcpu_ioctl(en, vcpu, request, field, #request, e);                          \
	}

STEP(mp_state_get, KVM_GET_MP_STATE, &en->image.mp_state)
STEP(regs_get, KVM_GET_REGS, &en->image.regs)
STEP(sregs_get, KVM_GET_SREGS2, &en->image.sregs)
STEP(xsave2_get, KVM_GET_XSAVE2, en->image.xsave)
STEP(xsave1_get, KVM_GET_XSAVE, en->image.xsave)
STEP(xcrs_get, KVM_GET_XCRS, &en->image.xcrs)
STEP(debugregs_get, KVM_GET_DEBUGREGS, &en->image.debugregs)
STEP(lapic_get, KVM_GET_LAPIC, &en->image.lapic)
STEP(events_get, KVM_GET_VCPU_EVENTS, &en->image.events)

STEP(mp_state_set, KVM_SET_MP_STATE, &en->image.mp_state)
STEP(regs_set, KVM_SET_REGS, &en->image.regs)
STEP(sregs_set, KVM_SET_SREGS2, &en->image.sregs)
STEP(xsave_set, KVM_SET_XSAVE, en->image.xsave)
STEP(debugregs_set, KVM_SET_DEBUGREGS, &en->image.debugregs)
STEP(lapic_set, KVM_SET_LAPIC, &en->image.lapic)
STEP(events_set, KVM_SET_VCPU_EVENTS, &en->image.events)

static int xsave_get(struct engine *en, unsigned vcpu, struct error *e)
{
	return en->xsave2 ? xsave2_get(en, vcpu, e) : xsave1_get(en, vcpu, e);
}

static int xcrs_set(struct engine *en, unsigned vcpu, struct error *e)
{
	if (!en->image.xcrs.nr_xcrs)
		return 0;
	return vcpu_ioctl(en, vcpu, KVM_SET_XCRS, &en->image.xcrs, "KVM_SET_XCRS", e);
}

static uint32_t tsc_khz_of(struct engine *en, unsigned vcpu)
{
	struct kvm_vcpu *v = &en->vcpu[vcpu];

	if (!v->tsc_khz) {
		int khz = kvm_call(v->fd, KVM_GET_TSC_KHZ, NULL);

		v->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	}
	return v->tsc_khz;
}

static int tsc_khz_get(struct engine *en, unsigned vcpu, struct error *e)
{
	en->image.tsc_khz = tsc_khz_of(en, vcpu);
	return 0;
}

/* Where the CPU cannot scale, a guest on kvm-clock does not mind a small difference. A guest that
 * may move between engines has to bear a large one: KVM tells kvm-clock the new frequency. */
static int tsc_khz_set(struct engine *en, unsigned vcpu, struct error *e)
{
	uint32_t want = en->image.tsc_khz, own = tsc_khz_of(en, vcpu);

	if (!want || !own || own == want)
		return 0;
	if (kvm_call(en->vcpu[vcpu].fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)want) >= 0) {
		en->vcpu[vcpu].tsc_khz = 0;
		return 0;
	}
	if (cpu_tsc_near(want, own))
		return 0;
	if (en->base) {
		log_warn("vcpu %u: the guest's TSC ran at %u kHz, here it runs at %u, as this CPU "
			 "cannot scale it: only kvm-clock is right",
			 vcpu, want, own);
		return 0;
	}
	return error_set(e, -EINVAL,
			 "vCPU %u: the guest's TSC runs at %u kHz, this host's at %u, and this CPU "
			 "cannot scale it",
			 vcpu, want, own);
}

static vcpu_step *const get_order[] = {
	mp_state_get, events_get,    regs_get,  sregs_get,    xsave_get,
	xcrs_get,     debugregs_get, lapic_get, kvm_msrs_get, tsc_khz_get,
};
static vcpu_step *const set_order[] = {
	tsc_khz_set, mp_state_set,  regs_set,  sregs_set,    xsave_set,
	xcrs_set,    debugregs_set, lapic_set, kvm_msrs_set, events_set,
};

int kvm_vcpu_get(struct engine *en, unsigned vcpu, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < ARRAY_LEN(get_order); i++)
		rc = get_order[i](en, vcpu, e);
	return rc;
}

int kvm_vcpu_set(struct engine *en, unsigned vcpu, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < ARRAY_LEN(set_order); i++)
		rc = set_order[i](en, vcpu, e);
	return rc;
}

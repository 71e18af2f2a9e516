// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/engine_kvm.h"

#define TSC_FAR (UINT64_C(1) << 40) /* minutes */

/* On KVM's list, yet not the state of our guests: features that their CPUID does not
 * offer, and second names of other MSRs. */
static const struct {
	uint32_t first, last;
} foreign[] = {
	{0x11, 0x12}, /* first kvmclock, the same registers as 0x4b564d00 */
	{0x3a, 0x3a}, /* FEATURE_CONTROL: VMX, SGX */
	{0xc1, 0xc8}, /* PMU from here... */
	{0x186, 0x18d},
	{0x1db, 0x1de}, /* last branches */
	{0x309, 0x30c},
	{0x345, 0x345},
	{0x38d, 0x390},
	{0x3f1, 0x3f2},
	{0x480, 0x493}, /* VMX */
	{0x4c1, 0x4c8},
	{0x1400, 0x17ff},         /* RTIT, arch LBR */
	{0x40000000, 0x400001ff}, /* Hyper-V */
	{0x4b564d02, 0x4b564d02}, /* async page faults */
	{0x4b564d06, 0x4b564d08},
	{0xc0000300, 0xc0000303},
	{0xc0010000, 0xc0010007},
	{0xc0010117, 0xc0010117}, /* nested SVM */
	{0xc0010140, 0xc0010141}, /* OSVW */
	{0xc0010200, 0xc001020b},
};

/* Guest state that KVM does not list, or not each KVM: MTRRs; DEBUGCTL (bus locks, branches). */
static const uint32_t unlisted[] = {
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209,
	0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268,
	0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff, 0x1d9,
};

static bool msr_foreign(uint32_t index)
{
	for (unsigned i = 0; i < ARRAY_LEN(foreign); i++)
		if (index >= foreign[i].first && index <= foreign[i].last)
			return true;
	return false;
}

/* Readable, and takes back what it gave. */
static bool msr_usable(const struct engine *en, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head = {.nmsrs = 1}, .entry = {.index = index}};

	return kvm_call(en->vcpu[0].fd, KVM_GET_MSRS, &one) == 1 &&
	       kvm_call(en->vcpu[0].fd, KVM_SET_MSRS, &one) == 1;
}

/* False: there is no room, and state would be lost. */
static bool msr_add(struct engine *en, uint32_t index)
{
	if (state_msr_known(&en->model, index) || !msr_usable(en, index))
		return true;
	if (en->model.msr_count == STATE_MSRS_MAX)
		return false;
	en->model.msrs[en->model.msr_count++] = index;
	return true;
}

static int msrs_listed(struct engine *en, uint32_t *list, unsigned most, unsigned *count,
		       struct error *e)
{
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + most * sizeof(l->indices[0]));
	int rc;

	if (!l)
		return error_set(e, -ENOMEM, "no memory for the list of MSRs");
	l->nmsrs = most;
	rc = kvm_try(en->kvm, KVM_GET_MSR_INDEX_LIST, l, "ask for the list of MSRs", e);
	if (!rc) {
		*count = l->nmsrs;
		memcpy(list, l->indices, l->nmsrs * sizeof(*list));
	}
	free(l);
	return rc;
}

/* The list is given. */
static int msrs_base_check(const struct engine *en, struct error *e)
{
	for (unsigned i = 0; i < en->model.msr_count; i++)
		if (!msr_usable(en, en->model.msrs[i]))
			return error_set(e, -ENOTSUP,
					 "this host's KVM cannot carry MSR %#x, which the CPU "
					 "\"pollux-base\" has",
					 en->model.msrs[i]);
	return 0;
}

/* TSC first and its deadline last: a deadline is armed against the TSC of its time. */
int kvm_msrs_choose(struct engine *en, struct error *e)
{
	uint32_t list[2 * STATE_MSRS_MAX];
	unsigned count = 0;
	bool good;
	int rc;

	if (en->base)
		return msrs_base_check(en, e);
	en->model.msr_count = 0;
	rc = msrs_listed(en, list, ARRAY_LEN(list), &count, e);
	if (rc)
		return rc;
	good = msr_add(en, MSR_TSC);
	for (unsigned i = 0; i < count; i++)
		if (list[i] != MSR_TSC_DEADLINE && !msr_foreign(list[i]))
			good &= msr_add(en, list[i]);
	for (unsigned i = 0; i < ARRAY_LEN(unlisted); i++)
		good &= msr_add(en, unlisted[i]);
	good &= msr_add(en, MSR_TSC_DEADLINE);
	return good ? 0
		    : error_set(e, -E2BIG, "this host's KVM has more than %u MSRs of guests",
				STATE_MSRS_MAX);
}

int kvm_msrs_get(struct engine *en, unsigned vcpu, struct error *e)
{
	int got;

	en->image.msrs.head.nmsrs = en->model.msr_count;
	for (unsigned i = 0; i < en->model.msr_count; i++)
		en->image.msrs.entries[i] = (struct kvm_msr_entry){.index = en->model.msrs[i]};
	got = kvm_call(en->vcpu[vcpu].fd, KVM_GET_MSRS, &en->image.msrs);
	if (got < 0)
		return error_set(e, got, "vCPU %u: cannot read the MSRs: %s", vcpu, strerror(-got));
	if ((unsigned)got < en->model.msr_count)
		return error_set(e, -EIO, "vCPU %u: cannot read MSR %#x", vcpu,
				 en->model.msrs[got]);
	return 0;
}

/* Linux before 6.8 takes a TSC that is within a second of the last one written, or of
 * the vCPU's creation, for an attempt to make vCPUs equal, and uses the older one: a
 * guest younger than a second, or a twin as old as its guest, would see its TSC jump.
 * So vCPU 0 is moved far away first. The others come close to it, and become equal. */
static int tsc_detach(struct engine *en, unsigned vcpu)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} far = {.head.nmsrs = 1, .entry.index = MSR_TSC};

	for (unsigned i = 0; i < en->image.msrs.head.nmsrs; i++)
		if (en->image.msrs.entries[i].index == MSR_TSC)
			far.entry.data = en->image.msrs.entries[i].data + TSC_FAR;
	return vcpu ? 1 : kvm_call(en->vcpu[vcpu].fd, KVM_SET_MSRS, &far);
}

int kvm_msrs_set(struct engine *en, unsigned vcpu, struct error *e)
{
	unsigned count = en->image.msrs.head.nmsrs;
	int set = tsc_detach(en, vcpu);

	if (set >= 0)
		set = kvm_call(en->vcpu[vcpu].fd, KVM_SET_MSRS, &en->image.msrs);
	if (set < 0)
		return error_set(e, set, "vCPU %u: cannot write the MSRs: %s", vcpu,
				 strerror(-set));
	if ((unsigned)set < count)
		return error_set(e, -EIO, "vCPU %u: this host does not take %#llx in MSR %#x", vcpu,
				 (unsigned long long)en->image.msrs.entries[set].data,
				 en->image.msrs.entries[set].index);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What /dev/kvm is worth. Some machines offer the whole KVM API over a CPU that is
 * emulated instruction by instruction: test guests run there, kernels do not in any
 * useful time. A short loop in a throwaway VM tells.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/engine_kvm.h"

#define LOOP_FIRST      20000u
#define LOOP_GROWTH     10u
#define LOOP_MOST       2000000u
#define LOOP_LONG_NS    (20 * NS_PER_MS)   /* long enough to say something */
#define LOOP_TRIES      3u                 /* a slow one may be a host that stood still */
#define REAL_PER_SECOND UINT64_C(20000000) /* emulated: 2-5 million; QEMU TCG: 100 and more */

static const struct {
	int capability;
	const char *name;
} required[] = {
	{KVM_CAP_IRQCHIP, "IRQCHIP"},
	{KVM_CAP_PIT2, "PIT2"},
	{KVM_CAP_USER_MEMORY, "USER_MEMORY"},
	{KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"},
	{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "MANUAL_DIRTY_LOG_PROTECT2"},
	{KVM_CAP_MP_STATE, "MP_STATE"},
	{KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
	{KVM_CAP_DEBUGREGS, "DEBUGREGS"},
	{KVM_CAP_XSAVE, "XSAVE"},
	{KVM_CAP_XCRS, "XCRS"},
	{KVM_CAP_SREGS2, "SREGS2"},
	{KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
	{KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ"},
	{KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER"},
	{KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI"},
	{KVM_CAP_IOEVENTFD, "IOEVENTFD"},
};

int kvm_requirements_check(int kvm, struct error *e)
{
	int version = kvm_call(kvm, KVM_GET_API_VERSION, NULL);

	if (version != KVM_API_VERSION)
		return error_set(e, -ENOSYS, "/dev/kvm speaks API version %d, not %d", version,
				 KVM_API_VERSION);
	for (unsigned i = 0; i < ARRAY_LEN(required); i++)
		if (kvm_call(kvm, KVM_CHECK_EXTENSION, (void *)(long)required[i].capability) <= 0)
			return error_set(e, -ENOSYS,
					 "this kernel's KVM lacks KVM_CAP_%s (Linux 5.14 has it)",
					 required[i].name);
	return 0;
}

/* 1: dec ecx; jnz 1b; out 0x10, al -- in real mode */
static const uint8_t loop_code[] = {0x66, 0x49, 0x75, 0xfc, 0xe6, 0x10};

static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static int loop_prepare(int vcpu, uint32_t count)
{
	struct kvm_regs regs = {.rflags = 2, .rcx = count};
	struct kvm_sregs sregs;
	int rc = kvm_call(vcpu, KVM_GET_SREGS, &sregs);

	if (rc)
		return rc;
	sregs.cs.base = sregs.cs.selector = 0;
	rc = kvm_call(vcpu, KVM_SET_SREGS, &sregs);
	return rc ? rc : kvm_call(vcpu, KVM_SET_REGS, &regs);
}

static int loop_once(int vcpu, const struct kvm_run *run, uint32_t count, uint64_t *ns)
{
	int rc = loop_prepare(vcpu, count);
	uint64_t began = thread_ns();

	while (!rc && (rc = kvm_call(vcpu, KVM_RUN, NULL)) == -EINTR)
		rc = 0;
	*ns = thread_ns() - began + 1;
	if (!rc && run->exit_reason != KVM_EXIT_IO)
		rc = -EIO;
	return rc;
}

/* Longer and longer, so that entering the guest counts for little: instructions a second, of
 * the best run. One that took long without getting far is repeated. */
static int loop_speed(int vcpu, const struct kvm_run *run, uint64_t *speed)
{
	uint32_t n = LOOP_FIRST;
	uint64_t ns, now, best = 0;
	int rc = 0;

	for (unsigned slow = 0; !rc && n <= LOOP_MOST && slow < LOOP_TRIES;) {
		rc = loop_once(vcpu, run, n, &ns);
		now = 2 * (uint64_t)n * NS_PER_SEC / ns;
		best = now > best ? now : best;
		if (ns < LOOP_LONG_NS)
			n *= LOOP_GROWTH;
		else
			slow = best < REAL_PER_SECOND ? slow + 1 : LOOP_TRIES;
	}
	*speed = best;
	return rc;
}

static int loop_in_vcpu(int kvm, int vcpu, uint64_t *speed)
{
	int size = kvm_call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), rc;
	void *run;

	if (size < 0)
		return size;
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	rc = loop_speed(vcpu, run, speed);
	munmap(run, (size_t)size);
	return rc;
}

static int loop_in_vm(int kvm, int vm, void *page, uint64_t *speed)
{
	struct kvm_userspace_memory_region region = {.memory_size = VM_PAGE_SIZE,
						     .userspace_addr = (uint64_t)(uintptr_t)page};
	int vcpu, rc;

	(void)kvm_call(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul);
	rc = kvm_call(vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (rc)
		return rc;
	vcpu = kvm_call(vm, KVM_CREATE_VCPU, NULL);
	if (vcpu < 0)
		return vcpu;
	rc = loop_in_vcpu(kvm, vcpu, speed);
	close(vcpu);
	return rc;
}

static int loop_measure(int kvm, uint64_t *speed)
{
	int vm = kvm_call(kvm, KVM_CREATE_VM, NULL), rc;
	void *page;

	if (vm < 0)
		return vm;
	page = mmap(NULL, VM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		rc = -errno;
		goto out_vm;
	}
	memcpy(page, loop_code, sizeof(loop_code));
	rc = loop_in_vm(kvm, vm, page, speed);
	munmap(page, VM_PAGE_SIZE);
out_vm:
	close(vm);
	return rc;
}

static void report_speed(struct engine_report *out, uint64_t speed)
{
	out->usable = true;
	out->real_guests = speed >= REAL_PER_SECOND;
	snprintf(out->why, sizeof(out->why),
		 out->real_guests
			 ? "KVM runs %.0f million instructions a second in a test loop"
			 : "KVM here emulates each instruction (%.1f million a second in a "
			   "test loop): test guests run, a kernel would take hours",
		 (double)speed / 1e6);
}

void kvm_probe(struct engine_report *out)
{
	struct error e = {0};
	uint64_t speed = 0;
	int kvm, rc;

	*out = (struct engine_report){.name = "kvm"};
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		snprintf(out->why, sizeof(out->why), "cannot open /dev/kvm: %s", strerror(errno));
		return;
	}
	rc = kvm_requirements_check(kvm, &e);
	if (rc) {
		snprintf(out->why, sizeof(out->why), "%.190s", e.text);
		goto out_kvm;
	}
	rc = loop_measure(kvm, &speed);
	if (rc)
		snprintf(out->why, sizeof(out->why),
			 "KVM cannot run a loop of two instructions: %s", strerror(-rc));
	else
		report_speed(out, speed);
out_kvm:
	close(kvm);
}

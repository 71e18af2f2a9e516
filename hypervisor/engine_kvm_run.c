// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hypervisor/engine_kvm.h"

int vcpu_signal(void)
{
	return SIGRTMIN + 1;
}

static void signal_ignore(int number)
{
}

int kvm_signal_setup(struct error *e)
{
	struct sigaction action = {.sa_handler = signal_ignore, .sa_flags = SA_RESTART};

	if (sigaction(vcpu_signal(), &action, NULL))
		return error_set(e, -errno, "cannot take over the signal that stops a vCPU: %s",
				 strerror(errno));
	return 0;
}

/* A kick must not be lost, whenever it comes. The kicker sets immediate_exit, then
 * looks whether the vCPU is inside KVM_RUN and signals it if so. The vCPU says that
 * it is inside, then enters, and KVM looks at immediate_exit. Both orders are
 * sequentially consistent, so one of the two sees the other:
 *   - the kicker sees `inside`: the signal is pending when KVM looks, or interrupts it;
 *   - it does not: its immediate_exit is visible to the KVM_RUN that follows.
 * The flag is taken back only by the vCPU, after an interrupted run and before its
 * caller looks at the requests that the kick was about. */
void kvm_vcpu_kick(struct engine *en, unsigned vcpu)
{
	struct kvm_vcpu *v = &en->vcpu[vcpu];

	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&v->inside))
		tgkill(getpid(), atomic_load(&v->tid), vcpu_signal());
}

static void thread_prepare(struct kvm_vcpu *v)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, vcpu_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	atomic_store(&v->tid, gettid());
}

static void exit_failed(struct vcpu_exit *exit, const char *what, uint64_t detail)
{
	exit->kind = EXIT_FAILED;
	snprintf(exit->detail, sizeof(exit->detail), "%s (%#llx)", what,
		 (unsigned long long)detail);
}

static void exit_pio(struct kvm_run *run, struct vcpu_exit *exit)
{
	exit->kind = EXIT_PIO;
	exit->write = run->io.direction == KVM_EXIT_IO_OUT;
	exit->address = run->io.port;
	exit->size = run->io.size;
	exit->count = run->io.count;
	exit->data = (uint8_t *)run + run->io.data_offset;
}

static void exit_mmio(struct kvm_run *run, struct vcpu_exit *exit)
{
	exit->kind = EXIT_MMIO;
	exit->write = run->mmio.is_write;
	exit->address = run->mmio.phys_addr;
	exit->size = run->mmio.len;
	exit->count = 1;
	exit->data = run->mmio.data;
}

static void exit_internal_error(struct kvm_run *run, struct vcpu_exit *exit)
{
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		exit_failed(exit, "KVM met an instruction that it cannot emulate",
			    run->internal.ndata > 1 ? run->internal.data[1] : 0);
	else
		exit_failed(exit, "KVM reports an internal error", run->internal.suberror);
}

static void exit_translate(struct kvm_run *run, struct vcpu_exit *exit)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_pio(run, exit);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(run, exit);
		break;
	case KVM_EXIT_INTR:
		exit->kind = EXIT_INTERRUPTED;
		break;
	case KVM_EXIT_SHUTDOWN:
		exit->kind = EXIT_SHUTDOWN;
		snprintf(exit->detail, sizeof(exit->detail), "triple fault");
		break;
	case KVM_EXIT_FAIL_ENTRY:
		exit_failed(exit, "the CPU refused to enter the guest",
			    run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		exit_internal_error(run, exit);
		break;
	default:
		exit_failed(exit, "KVM left the guest for an unknown reason", run->exit_reason);
	}
}

void kvm_vcpu_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	struct kvm_vcpu *v = &en->vcpu[vcpu];
	int rc;

	if (!atomic_load_explicit(&v->tid, memory_order_relaxed))
		thread_prepare(v);
	atomic_store(&v->inside, true);
	rc = kvm_call(v->fd, KVM_RUN, NULL);
	atomic_store(&v->inside, false);
	exit->detail[0] = 0;
	if (rc >= 0) {
		exit_translate(v->run, exit);
	} else if (rc == -EINTR || rc == -EAGAIN) {
		/* KVM finishes a half-done instruction before it looks at signals. */
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		exit->kind = EXIT_INTERRUPTED;
	} else {
		exit_failed(exit, "KVM_RUN failed", (uint64_t)-rc);
	}
}

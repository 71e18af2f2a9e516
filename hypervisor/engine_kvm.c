// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/engine_kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Three pages that Intel CPUs need for real mode, in the PCI hole, as one may choose. */
#define TSS_ADDRESS          0xfffbd000ul
#define IDENTITY_MAP_ADDRESS UINT64_C(0xfffbc000)

/* Whole words of log-dirty bitmaps in each region, and whole huge pages. */
#define KVM_MEMORY_ALIGN UINT64_C(0x200000)

int kvm_call(int fd, unsigned long request, void *arg)
{
	int rc = ioctl(fd, request, arg);

	return rc < 0 ? -errno : rc;
}

int kvm_try(int fd, unsigned long request, void *arg, const char *what, struct error *e)
{
	int rc = kvm_call(fd, request, arg);

	return rc < 0 ? error_set(e, rc, "KVM cannot %s: %s", what, strerror(-rc)) : 0;
}

static int kvm_open(struct engine *en, struct error *e)
{
	en->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (en->kvm < 0)
		return error_set(e, -errno, "cannot open /dev/kvm: %s", strerror(errno));
	return kvm_requirements_check(en->kvm, e);
}

/* GSI n is pin n of the IOAPIC and, below 16, of the PICs; but the PIT's IRQ 0 is
 * pin 2, as the MADT says and as PCs are wired. */
static unsigned routes_make(struct kvm_irq_routing_entry *out)
{
	unsigned n = 0;

	for (unsigned gsi = 0; gsi < STATE_IRQ_PINS; gsi++) {
		unsigned chip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;

		if (gsi == 2)
			continue;
		if (gsi < 16)
			out[n++] = (struct kvm_irq_routing_entry){
				.gsi = gsi,
				.type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = {.irqchip = chip, .pin = gsi % 8}};
		out[n++] = (struct kvm_irq_routing_entry){
			.gsi = gsi,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi ? gsi : 2}};
	}
	return n;
}

static int routes_set(struct engine *en, struct error *e)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[2 * STATE_IRQ_PINS];
	} routes = {0};

	routes.head.nr = routes_make(routes.entries);
	return kvm_try(en->vm, KVM_SET_GSI_ROUTING, &routes, "route interrupts", e);
}

static int chips_create(struct engine *en, struct error *e)
{
	/* The dummy speaker port gates channel 2, by which kernels measure their TSC. */
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	uint64_t identity = IDENTITY_MAP_ADDRESS;
	int rc = kvm_try(en->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity, "place its page table", e);

	if (!rc)
		rc = kvm_try(en->vm, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS, "place its TSS", e);
	if (!rc)
		rc = kvm_try(en->vm, KVM_CREATE_IRQCHIP, NULL, "make interrupt controllers", e);
	if (!rc)
		rc = routes_set(en, e);
	if (!rc)
		rc = kvm_try(en->vm, KVM_CREATE_PIT2, &pit, "make a PIT", e);
	return rc;
}

static int log_setup_features(struct engine *en, struct error *e)
{
	int offered = kvm_call(en->vm, KVM_CHECK_EXTENSION,
			       (void *)(long)KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};

	en->log_features = (unsigned)offered &
			   (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	cap.args[0] = en->log_features;
	return kvm_try(en->vm, KVM_ENABLE_CAP, &cap, "let us protect pages ourselves", e);
}

static int vm_setup(struct engine *en, struct error *e)
{
	int rc;

	en->vm = kvm_call(en->kvm, KVM_CREATE_VM, NULL);
	if (en->vm < 0)
		return error_set(e, en->vm, "KVM cannot make a VM: %s", strerror(-en->vm));
	rc = chips_create(en, e);
	if (!rc)
		rc = log_setup_features(en, e);
	if (rc)
		return rc;
	rc = kvm_regions_set(en, false);
	if (rc)
		return error_set(e, rc, "KVM does not take the guest's memory: %s", strerror(-rc));
	en->log_bitmap = calloc(bitmap_words(en->memory->size / VM_PAGE_SIZE), sizeof(uint64_t));
	en->clock_flags = (uint32_t)kvm_call(en->vm, KVM_CHECK_EXTENSION,
					     (void *)(long)KVM_CAP_ADJUST_CLOCK) &
			  KVM_CLOCK_REALTIME;
	return en->log_bitmap ? 0 : error_set(e, -ENOMEM, "no memory for the log-dirty bitmap");
}

static int vcpu_setup(struct engine *en, unsigned i, struct error *e)
{
	struct kvm_vcpu *v = &en->vcpu[i];
	void *run;

	v->fd = kvm_call(en->vm, KVM_CREATE_VCPU, (void *)(uintptr_t)i);
	if (v->fd < 0)
		return error_set(e, v->fd, "KVM cannot make vCPU %u: %s", i, strerror(-v->fd));
	run = mmap(NULL, en->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return error_set(e, -errno, "cannot map vCPU %u: %s", i, strerror(errno));
	v->run = run;
	return kvm_cpuid_set(en, i, e);
}

static int vcpus_setup(struct engine *en, struct error *e)
{
	int size = kvm_call(en->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), rc = 0;

	if (size < 0)
		return error_set(e, size, "KVM does not say how large a vCPU is");
	en->run_size = (size_t)size;
	for (unsigned i = 0; !rc && i < en->model.vcpus; i++)
		rc = vcpu_setup(en, i, e);
	return rc;
}

/* Sizes of the FPU state: what KVM copies, and what the offered features use. */
static int xsave_setup(struct engine *en, struct error *e)
{
	int size = kvm_call(en->vm, KVM_CHECK_EXTENSION, (void *)(long)KVM_CAP_XSAVE2);

	en->xsave2 = size > 0;
	en->model.xsave_size =
		size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
	state_model_fpu(&en->model);
	if (en->model.xsave_used > en->model.xsave_size)
		return error_set(e, -EINVAL, "KVM carries %zu octets of FPU state, the CPU has %zu",
				 en->model.xsave_size, en->model.xsave_used);
	en->image.xsave = calloc(1, en->model.xsave_size);
	return en->image.xsave ? 0 : error_set(e, -ENOMEM, "no memory for the FPU state");
}

static int model_setup(struct engine *en, struct error *e)
{
	int rc = en->base ? kvm_base_make(en->kvm, &en->model, e)
			  : kvm_cpuid_make(en->kvm, en->model.vcpus, &en->model.cpuid, e);

	en->model.offered = en->model.cpuid;
	en->model.leaves_most = STATE_CPUID_MOST;
	return rc;
}

static void kvm_engine_destroy(struct engine *en)
{
	for (unsigned i = 0; i < en->model.vcpus; i++) {
		if (en->vcpu[i].run)
			munmap(en->vcpu[i].run, en->run_size);
		if (en->vcpu[i].fd >= 0)
			close(en->vcpu[i].fd);
	}
	if (en->vm >= 0)
		close(en->vm);
	if (en->kvm >= 0)
		close(en->kvm);
	buf_free(&en->power_on);
	free(en->log_bitmap);
	free(en->image.xsave);
	if (en->model.cpuid != en->model.offered)
		free(en->model.cpuid);
	free(en->model.offered);
	free(en);
}

static int kvm_engine_create(const struct engine_params *p, struct engine **out, struct error *e)
{
	struct engine *en = calloc(1, sizeof(*en));
	int rc;

	if (!en)
		return error_set(e, -ENOMEM, "no memory for the KVM engine");
	if (p->memory->size % KVM_MEMORY_ALIGN) {
		free(en);
		return error_set(e, -EINVAL, "engine kvm needs a multiple of 2 MiB of memory");
	}
	en->kvm = en->vm = -1;
	en->model.engine = "kvm";
	en->model.vcpus = p->vcpus;
	en->base = p->cpu == CPU_BASE;
	en->memory = p->memory;
	for (unsigned i = 0; i < VM_VCPUS_MAX; i++)
		en->vcpu[i].fd = -1;
	rc = kvm_signal_setup(e);
	if (!rc)
		rc = kvm_open(en, e);
	if (!rc)
		rc = vm_setup(en, e);
	if (!rc)
		rc = model_setup(en, e);
	if (!rc)
		rc = vcpus_setup(en, e);
	if (!rc)
		rc = xsave_setup(en, e);
	if (!rc && !en->base)
		kvm_limits_find(en->kvm, en->vcpu[0].fd, &en->model.limits);
	if (!rc)
		rc = kvm_msrs_choose(en, e);
	if (!rc)
		rc = kvm_power_on_keep(en, e);
	if (rc) {
		kvm_engine_destroy(en);
		return rc;
	}
	kvm_limits_note(en);
	*out = en;
	return 0;
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.stepped = false,
	.probe = kvm_probe,
	.create = kvm_engine_create,
	.destroy = kvm_engine_destroy,
	.vcpu_boot = kvm_vcpu_boot,
	.vcpus_reset = kvm_vcpus_reset,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.state_save = kvm_state_save,
	.state_check = kvm_state_check,
	.state_load = kvm_state_load,
	.vcpu_after_pause = kvm_vcpu_after_pause,
	.cpu_own = kvm_cpu_own,
	.cpu_limits = kvm_cpu_limits,
	.irq_line = kvm_irq_line,
	.msi = kvm_msi,
	.doorbell = kvm_doorbell,
	.log_dirty = kvm_log_dirty,
	.dirty_harvest = kvm_dirty_harvest,
};

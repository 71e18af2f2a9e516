// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/console.h"
#include "hypervisor/deterministic.h"

#define LOG_MODULE "vm"

/* ---- devices ------------------------------------------------------------------ */

int vm_device_add(struct vm *vm, struct device *d)
{
	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i]->ops->section == d->ops->section &&
		    vm->devices[i]->instance == d->instance)
			return -EEXIST;
	if (vm->device_count == DEVICES_MAX)
		return -ENOSPC;
	d->vm = vm;
	vm->devices[vm->device_count++] = d;
	return 0;
}

void vm_irq(struct vm *vm, unsigned gsi, bool level)
{
	int rc = vm->engine_ops->irq_line(vm->engine, gsi, level);

	if (rc)
		log_error_rc(rc, "GSI %u cannot be %s", gsi, level ? "raised" : "lowered");
}

void vm_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	int rc = vm->engine_ops->msi(vm->engine, address, data);

	if (rc)
		log_error_rc(rc, "an MSI to %#llx is lost", (unsigned long long)address);
}

/* ---- disks --------------------------------------------------------------------- */

int vm_disks_claim(struct vm *vm, unsigned disks, struct error *e)
{
	unsigned before = vm->disks_claimed;
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.disk_count; i++) {
		if (!(disks >> i & 1))
			continue;
		rc = vm->parts.disks[i]->ops->claim(vm->parts.disks[i], e);
		if (!rc)
			vm->disks_claimed |= 1u << i;
	}
	if (rc && vm_disks_yield(vm, vm->disks_claimed & ~before, NULL))
		log_warn("a disk stays claimed");
	return rc;
}

int vm_disks_yield(struct vm *vm, unsigned disks, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.disk_count; i++) {
		if (!(disks >> i & 1))
			continue;
		rc = vm->parts.disks[i]->ops->yield(vm->parts.disks[i], e);
		if (!rc)
			vm->disks_claimed &= ~(1u << i);
	}
	return rc;
}

/* ---- creation ----------------------------------------------------------------- */

static void event_ignore(void *ctx, enum vm_event event, const char *detail)
{
}

static int config_check(const struct vm_config *c, struct error *e)
{
	if (!c->vcpus || c->vcpus > VM_VCPUS_MAX)
		return error_set(e, -EINVAL, "a vm has 1 to %u vCPUs, not %u", VM_VCPUS_MAX,
				 c->vcpus);
	if (c->disk_count > VM_DISKS_MAX || c->nic_count > VM_NICS_MAX)
		return error_set(e, -EINVAL, "a vm has at most %u disks and %u NICs", VM_DISKS_MAX,
				 VM_NICS_MAX);
	return 0;
}

static enum cpu_kind cpu_kind(const struct vm_config *c)
{
	if (!c->cpu[0])
		return CPU_ANY;
	return strcmp(c->cpu, "host") ? CPU_BASE : CPU_HOST;
}

static int engine_start(struct vm *vm, struct error *e)
{
	struct engine_params params = {.vcpus = vm->config.vcpus,
				       .cpu = cpu_kind(&vm->config),
				       .memory = &vm->memory,
				       .seed = vm->config.seed,
				       .deterministic = vm->deterministic,
				       .device_ctx = vm,
				       .access = run_access};

	return vm->engine_ops->create(&params, &vm->engine, e);
}

int machine_create(const struct machine_plan *plan, const struct vm_config *c,
		   const struct vm_parts *parts, struct vm **out, struct error *e)
{
	struct vm *vm;
	int rc = config_check(c, e);

	if (rc)
		return rc;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(e, -ENOMEM, "no memory for a vm");
	vm->config = *c;
	vm->parts = *parts;
	if (!vm->parts.on_event)
		vm->parts.on_event = event_ignore;
	vm->engine_ops = plan->engine;
	vm->load = plan->load;
	vm->memory.fd = -1;
	vm->uffd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	cond_setup(&vm->disks_idle);
	rc = run_create(vm);
	if (!rc)
		rc = memory_open(&vm->memory,
				 &(struct memory_want){.size = c->memory,
						       .fd = parts->ram_fd,
						       .huge = c->hugepages},
				 e);
	if (!rc && parts->deterministic)
		rc = deterministic_create(vm, parts->deterministic, e);
	if (!rc)
		rc = engine_start(vm, e);
	if (!rc)
		rc = plan->devices(vm, e);
	if (rc) {
		error_set(e, rc, "cannot make the vm: %s", strerror(-rc));
		vm_destroy(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

void machine_drain(struct vm *vm)
{
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		if (vm->parts.disks[i])
			vm->parts.disks[i]->ops->drain(vm->parts.disks[i]);
}

/* A failure that was there before has been told. */
static void end_deterministic(struct vm *vm)
{
	const char *failure;

	if (!vm->deterministic || deterministic_failure(vm->deterministic))
		return;
	failure = deterministic_end(vm);
	if (failure)
		log_error("%s", failure);
}

void vm_destroy(struct vm *vm)
{
	if (vm->run && run_is_paused(vm))
		pthread_mutex_unlock(&vm->lock);
	if (vm->lazy)
		vm_lazy_end(vm->lazy);
	run_destroy(vm);
	end_deterministic(vm);
	machine_drain(vm);
	while (vm->device_count) {
		struct device *d = vm->devices[--vm->device_count];

		d->ops->destroy(d);
	}
	if (vm->engine)
		vm->engine_ops->destroy(vm->engine);
	deterministic_destroy(vm);
	if (vm->memory.base)
		memory_destroy(&vm->memory);
	if (vm->uffd >= 0)
		close(vm->uffd);
	pthread_cond_destroy(&vm->disks_idle);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* ---- boot and reset ---------------------------------------------------------------- */

/* Device lock held: the loader's tables read what devices there are. */
static int machine_boot(struct vm *vm, struct error *e)
{
	struct boot_entry entry = {0};
	int rc = vm->load(vm, &entry, e);

	return rc ? rc : vm->engine_ops->vcpu_boot(vm->engine, &entry, e);
}

int vm_boot(struct vm *vm, struct error *e)
{
	int rc;

	if (run_is_started(vm))
		return error_set(e, -EBUSY, "the vm runs already");
	if (vm->torn)
		return error_set(e, -EBADMSG, "the vm holds half of a state");
	pthread_mutex_lock(&vm->lock);
	rc = machine_boot(vm, e);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

/* Devices first: they ask for no more transfers. Then those in flight end, and only
 * then is memory written. */
int machine_reset(struct vm *vm, struct error *e)
{
	int rc;

	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->device_count; i++)
		vm->devices[i]->ops->reset(vm->devices[i]);
	pthread_mutex_unlock(&vm->lock);
	machine_drain(vm);
	pthread_mutex_lock(&vm->lock);
	rc = vm->engine_ops->vcpus_reset(vm->engine, e);
	if (!rc)
		rc = machine_boot(vm, e);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

/* ---- what is in it -------------------------------------------------------------------- */

const char *vm_engine_name(const struct vm *vm)
{
	return vm->engine_ops->name;
}

enum vm_cpu vm_cpu(const struct vm *vm)
{
	enum cpu_kind kind = cpu_kind(&vm->config);

	if (vm->engine_ops->stepped)
		return VM_CPU_NONE;
	if (kind == CPU_ANY)
		kind = vm->engine_ops == &engine_soft ? CPU_BASE : CPU_HOST;
	return kind == CPU_BASE ? VM_CPU_BASE : VM_CPU_HOST;
}

const char *vm_cpu_name(enum vm_cpu cpu)
{
	return cpu == VM_CPU_NONE ? "none" : cpu == VM_CPU_HOST ? "host" : "pollux-base";
}

unsigned vm_cpu_own(const struct vm *vm, struct vm_cpu_leaf *out, unsigned most)
{
	return vm->engine_ops->cpu_own(vm->engine, out, most);
}

void vm_cpu_limits_own(const struct vm *vm, struct vm_cpu_limits *out)
{
	vm->engine_ops->cpu_limits(vm->engine, out);
}

unsigned vm_vcpus(const struct vm *vm)
{
	return vm->config.vcpus;
}

uint8_t *vm_ram(const struct vm *vm)
{
	return vm->memory.base;
}

uint64_t vm_ram_pages(const struct vm *vm)
{
	return vm->memory.size / VM_PAGE_SIZE;
}

int vm_ram_fd(const struct vm *vm)
{
	return vm->memory.fd;
}

size_t vm_console_flush(struct vm *vm)
{
	size_t left = 0;

	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < ARRAY_LEN(vm->consoles); i++)
		if (vm->consoles[i])
			left += console_flush(vm->consoles[i]);
	pthread_mutex_unlock(&vm->lock);
	return left;
}

bool vm_ram_is_whole(const struct vm *vm)
{
	return atomic_load(&vm->memory.presence) == MEMORY_WHOLE;
}

/* ---- log-dirty ----------------------------------------------------------------------------- */

static int log_dirty_set(struct vm *vm, bool on)
{
	bool still = run_still_begin(vm);
	int rc = vm->engine_ops->log_dirty(vm->engine, on);

	run_still_end(vm, still);
	if (!rc && on)
		memory_harvest(&vm->memory, NULL);
	return rc;
}

int vm_log_dirty(struct vm *vm, bool on)
{
	int rc;

	if (on && (atomic_load(&vm->memory.presence) != MEMORY_WHOLE ||
		   atomic_exchange(&vm->logging, true)))
		return -EBUSY;
	rc = log_dirty_set(vm, on);
	if (on ? rc : !rc)
		atomic_store(&vm->logging, false);
	return rc;
}

bool vm_is_logging_dirty(const struct vm *vm)
{
	return atomic_load(&vm->logging);
}

static int dirty_count(struct vm *vm, uint64_t *map, uint64_t *pages)
{
	int rc = vm_dirty_harvest(vm, map);

	if (!rc)
		*pages = bitmap_count(map, vm_ram_pages(vm));
	return rc;
}

int vm_dirty_sample(struct vm *vm, uint64_t ns, uint64_t *pages)
{
	struct timespec t = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};
	uint64_t *map = calloc(bitmap_words(vm_ram_pages(vm)), sizeof(*map));
	int rc, rc_off;

	if (!map)
		return -ENOMEM;
	rc = vm_log_dirty(vm, true);
	if (!rc) {
		(void)nanosleep(&t, NULL);
		rc = dirty_count(vm, map, pages);
		rc_off = vm_log_dirty(vm, false);
		rc = rc ? rc : rc_off;
	}
	free(map);
	return rc;
}

int vm_dirty_harvest(struct vm *vm, uint64_t *map)
{
	bool still = run_still_begin(vm);
	int rc = vm->engine_ops->dirty_harvest(vm->engine, map);

	run_still_end(vm, still);
	if (!rc)
		memory_harvest(&vm->memory, map);
	return rc;
}

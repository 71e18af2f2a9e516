// SPDX-License-Identifier: Apache-2.0
/* The machine with everything in it. The order of creation is the order of PCI slots. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/machine.h"

static int (*const platform[])(struct vm *vm, struct error *e) = {serial_create, rtc_create,
								  acpi_create, pci_create};

static int (*const extras[])(struct vm *vm, struct error *e) = {virtio_rng_create,
								virtio_console_create};

static int devices_create(struct vm *vm, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < ARRAY_LEN(platform); i++)
		rc = platform[i](vm, e);
	for (unsigned i = 0; !rc && i < vm->config.nic_count; i++)
		rc = virtio_net_create(vm, i, e);
	for (unsigned i = 0; !rc && i < vm->config.disk_count; i++)
		rc = virtio_blk_create(vm, i, e);
	for (unsigned i = 0; !rc && i < ARRAY_LEN(extras); i++)
		rc = extras[i](vm, e);
	return rc;
}

/* Guest memory is made as it is touched: without this, a guest that can never have what it
 * was promised would begin, and end with the host. */
static int memory_fits(const struct vm_config *c, struct error *e)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	if (c->memory <= host)
		return 0;
	return error_set(e, -ENOMEM,
			 "the vm's memory, %llu MiB, is more than this host has, %llu MiB",
			 (unsigned long long)(c->memory >> 20), (unsigned long long)(host >> 20));
}

int vm_create(const struct vm_config *c, const struct vm_parts *parts, struct vm **out,
	      struct error *e)
{
	struct machine_plan plan = {.devices = devices_create, .load = boot_load};
	struct error why = {0};
	const char *name = c->engine;

	if (parts->deterministic && !strcmp(name, "auto"))
		name = "soft";
	if (parts->deterministic && strcmp(name, "soft"))
		return error_set(e, -EINVAL,
				 "a deterministic run needs engine \"soft\" (or \"auto\"), not "
				 "\"%s\"",
				 name);
	plan.engine = engine_find(name, &why);
	if (!plan.engine)
		return error_set(e, why.code, "%s", why.text);
	if (memory_fits(c, e))
		return -ENOMEM;
	return machine_create(&plan, c, parts, out, e);
}

// SPDX-License-Identifier: Apache-2.0
/* The kinds of sections of a machine state: all that exist. */
#include "hypervisor/machine.h"

/* The oldest version that is read, and the one that is written. */
static const struct vm_state_kind fixed[] = {
	{STATE_CONFIG, 1, STATE_CONFIG_VERSION, "configuration"},
	{STATE_VCPU, 1, STATE_VCPU_VERSION, "vCPU"},
	{STATE_PIC, 1, STATE_CHIP_VERSION, "PIC"},
	{STATE_IOAPIC, 1, STATE_CHIP_VERSION, "IOAPIC"},
	{STATE_PIT, 1, STATE_CHIP_VERSION, "PIT"},
	{STATE_CLOCK, 1, STATE_CHIP_VERSION, "clock"},
	{STATE_SIM, 1, STATE_SIM_VERSION, "fake guest"},
	{STATE_CPUID, 1, STATE_CPUID_VERSION, "CPUID"},
};

static const struct device_ops *const devices[] = {
	&serial_device_ops, &rtc_device_ops, &acpi_device_ops, &pci_device_ops,
	&net_device_ops,    &blk_device_ops, &rng_device_ops,  &console_device_ops,
};

bool state_section_read(const struct state_section *s)
{
	for (unsigned i = 0; i < ARRAY_LEN(fixed); i++)
		if (fixed[i].id == s->id)
			return version_within(s->version, fixed[i].oldest, fixed[i].newest);
	return false;
}

static struct vm_state_kind kind_of(unsigned i)
{
	const struct device_ops *d;

	if (i < ARRAY_LEN(fixed))
		return fixed[i];
	d = devices[i - ARRAY_LEN(fixed)];
	return (struct vm_state_kind){d->section, d->oldest, d->version, d->name};
}

unsigned vm_state_kinds(struct vm_state_kind *out, unsigned most)
{
	unsigned n = 0;

	for (; n < ARRAY_LEN(fixed) + ARRAY_LEN(devices) && n < most; n++)
		out[n] = kind_of(n);
	return n;
}

int vm_state_sections(const void *data, size_t n, struct vm_state_section *out, unsigned most,
		      struct error *e)
{
	struct state_view v;
	int rc = state_open(data, n, &v, e);

	if (rc)
		return rc;
	for (unsigned i = 0; i < v.count && i < most; i++)
		out[i] = (struct vm_state_section){v.sections[i].id, v.sections[i].instance,
						   v.sections[i].version,
						   v.sections[i].flags & STATE_MANDATORY};
	return (int)v.count;
}

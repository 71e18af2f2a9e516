// SPDX-License-Identifier: Apache-2.0
/*
 * ACPI fixed hardware (ACPI 6.5, section 4.8): PM1a event and control blocks, the
 * power button and its SCI, S5. And the one thing that is left of the keyboard
 * controller: command 0xfe at port 0x64 pulls the reset line.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/deterministic.h"

#define PORTS        6u
#define AT_STATUS    0u
#define AT_ENABLE    2u
#define AT_CONTROL   4u
#define POWER_BUTTON (1u << 8) /* in status and enable */
/* Timer, global lock, power and sleep button, RTC: a guest reads back what it enabled,
 * though but for the power button none of them ever comes. */
#define ENABLE_MASK    0x0721u
#define STATUS_WAKE    (1u << 15)
#define SCI_ENABLED    1u /* in control; there is no other mode, so always on */
#define SLEEP_SHIFT    10u
#define SLEEP_MASK     (7u << SLEEP_SHIFT)
#define SLEEP_ENABLE   (1u << 13)

#define KEYBOARD_PORT  0x64u
#define KEYBOARD_RESET 0xfeu

struct acpi {
	struct device device;
	uint16_t status, enable, control;
};

static struct acpi *acpi_of(struct device *d)
{
	return CONTAINER_OF(d, struct acpi, device);
}

static void sci_update(struct acpi *a)
{
	vm_irq(a->device.vm, LAYOUT_ACPI_GSI, a->status & a->enable & POWER_BUTTON);
}

/* ---- PM1a --------------------------------------------------------------------------- */

static void control_write(struct acpi *a, uint16_t v)
{
	a->control = (v & SLEEP_MASK) | SCI_ENABLED;
	if ((v & SLEEP_ENABLE) && (v & SLEEP_MASK) >> SLEEP_SHIFT == LAYOUT_S5_TYPE)
		vm_request_poweroff(a->device.vm);
}

static void registers_get(const struct acpi *a, uint8_t bytes[PORTS])
{
	memcpy(bytes + AT_STATUS, &a->status, 2);
	memcpy(bytes + AT_ENABLE, &a->enable, 2);
	memcpy(bytes + AT_CONTROL, &a->control, 2);
}

static void pm_read(void *dev, uint64_t at, void *data, unsigned size)
{
	uint8_t bytes[PORTS];

	registers_get(dev, bytes);
	memset(data, 0xff, size);
	memcpy(data, bytes + at, size < PORTS - at ? size : PORTS - at);
}

/* A byte that is not written keeps its value; in the status that means writing zero. */
static void pm_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct acpi *a = dev;
	uint8_t bytes[PORTS];
	uint16_t status, control;

	registers_get(a, bytes);
	memset(bytes + AT_STATUS, 0, 2);
	if (size > PORTS - at)
		size = (unsigned)(PORTS - at);
	memcpy(bytes + at, data, size);
	memcpy(&status, bytes + AT_STATUS, 2);
	memcpy(&a->enable, bytes + AT_ENABLE, 2);
	memcpy(&control, bytes + AT_CONTROL, 2);
	a->enable &= ENABLE_MASK;
	a->status &= (uint16_t)~status; /* write one to clear */
	sci_update(a);
	if (at + size > AT_CONTROL)
		control_write(a, control);
}

static const struct bus_ops pm_ops = {pm_read, pm_write};

/* ---- keyboard controller --------------------------------------------------------------- */

static void keyboard_read(void *dev, uint64_t at, void *data, unsigned size)
{
	memset(data, 0, size); /* ready for a command */
}

static void keyboard_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct acpi *a = dev;

	if (*(const uint8_t *)data == KEYBOARD_RESET)
		vm_request_reset(a->device.vm);
}

static const struct bus_ops keyboard_ops = {keyboard_read, keyboard_write};

/* ---- the device ---------------------------------------------------------------------------- */

static void acpi_reset(struct device *d)
{
	struct acpi *a = acpi_of(d);

	a->status = a->enable = 0;
	a->control = SCI_ENABLED;
	sci_update(a);
}

static int acpi_save(struct device *d, struct buf *out)
{
	const struct acpi *a = acpi_of(d);

	buf_put_u16(out, a->status);
	buf_put_u16(out, a->enable);
	buf_put_u16(out, a->control);
	return buf_check(out);
}

static int acpi_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		     struct error *e)
{
	struct acpi *a = acpi_of(d);
	uint16_t status = cursor_u16(&in), enable = cursor_u16(&in), control = cursor_u16(&in);

	if (cursor_finish(&in) || (status & ~(POWER_BUTTON | STATUS_WAKE)) ||
	    (enable & ~ENABLE_MASK) || (control & ~(SLEEP_MASK | SCI_ENABLED)))
		return error_set(e, -EBADMSG, "state: the ACPI section is damaged");
	if (check_only)
		return 0;
	a->status = status;
	a->enable = enable;
	a->control = control;
	return 0;
}

static void acpi_resume(struct device *d)
{
	sci_update(acpi_of(d));
}

static void acpi_destroy(struct device *d)
{
	bus_remove(&d->vm->ports, acpi_of(d), LAYOUT_PM_BASE);
	bus_remove(&d->vm->ports, acpi_of(d), KEYBOARD_PORT);
	free(acpi_of(d));
}

const struct device_ops acpi_device_ops = {
	.name = "acpi",
	.section = STATE_ACPI,
	.oldest = 1,
	.version = 1,
	.reset = acpi_reset,
	.save = acpi_save,
	.load = acpi_load,
	.resume = acpi_resume,
	.destroy = acpi_destroy,
};

void vm_power_button(struct vm *vm)
{
	if (!deterministic_button(vm))
		acpi_button_press(vm);
}

void acpi_button_press(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->device_count; i++) {
		if (vm->devices[i]->ops != &acpi_device_ops)
			continue;
		acpi_of(vm->devices[i])->status |= POWER_BUTTON;
		sci_update(acpi_of(vm->devices[i]));
	}
	pthread_mutex_unlock(&vm->lock);
}

int acpi_create(struct vm *vm, struct error *e)
{
	struct acpi *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return error_set(e, -ENOMEM, "acpi: out of memory");
	a->device = (struct device){.ops = &acpi_device_ops, .vm = vm};
	a->control = SCI_ENABLED;
	rc = bus_add(&vm->ports, LAYOUT_PM_BASE, PORTS, &pm_ops, a);
	if (!rc)
		rc = bus_add(&vm->ports, KEYBOARD_PORT, 1, &keyboard_ops, a);
	if (!rc)
		rc = vm_device_add(vm, &a->device);
	if (rc) {
		acpi_destroy(&a->device);
		return error_set(e, rc, "acpi: cannot make the device");
	}
	return 0;
}

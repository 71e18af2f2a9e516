// SPDX-License-Identifier: Apache-2.0
/*
 * The machine's state: STATE_CONFIG, the engine's sections, then one a device. All is
 * checked, with what each device and the engine know, before the first of them acts.
 */
#include <errno.h>
#include <string.h>

#include "hypervisor/machine.h"

/* Stands still already while paused: then the caller holds the device lock. */
static bool machine_hold(struct vm *vm)
{
	if (run_is_paused(vm))
		return false;
	pthread_mutex_lock(&vm->lock);
	return true;
}

static void machine_release(struct vm *vm, bool held)
{
	if (held)
		pthread_mutex_unlock(&vm->lock);
}

static bool machine_moves(const struct vm *vm)
{
	return !vm->engine_ops->stepped && run_is_started(vm) && !run_is_paused(vm);
}

/* ---- save ---------------------------------------------------------------------- */

static void config_save(struct vm *vm, struct buf *out)
{
	size_t at =
		state_section_begin(out, STATE_CONFIG, 0, STATE_CONFIG_VERSION, STATE_MANDATORY);

	buf_put_u64(out, vm->memory.size);
	buf_put_u32(out, vm->config.vcpus);
	buf_put_u32(out, vm->device_count);
	state_section_end(out, at);
}

static int device_save(struct device *d, struct buf *out, struct error *e)
{
	size_t at = state_section_begin(out, d->ops->section, d->instance, d->ops->version,
					STATE_MANDATORY);
	int rc = d->ops->save(d, out);

	state_section_end(out, at);
	return rc ? error_set(e, rc, "cannot save %s %u: %s", d->ops->name, d->instance,
			      strerror(-rc))
		  : 0;
}

/* As from a later version: tests arm this where the state is saved for one that has to refuse it.
 */
static void later_save(struct buf *out)
{
	if (fault_point("state.later"))
		state_section_end(out,
				  state_section_begin(out, STATE_LATER, 0, 1, STATE_MANDATORY));
}

static int machine_save(struct vm *vm, struct buf *out, struct error *e)
{
	size_t began = state_start(out);
	int rc;

	config_save(vm, out);
	rc = vm->engine_ops->state_save(vm->engine, out, e);
	for (unsigned i = 0; !rc && i < vm->device_count; i++)
		rc = device_save(vm->devices[i], out, e);
	if (rc)
		return rc;
	later_save(out);
	rc = state_finish(out, began);
	return rc ? error_set(e, rc, "no memory for the machine's state") : 0;
}

int vm_state_save(struct vm *vm, struct buf *out, struct error *e)
{
	bool held;
	int rc;

	if (machine_moves(vm))
		return error_set(e, -EBUSY, "the state of a running vm cannot be saved");
	if (memory_is_lost(&vm->memory))
		return error_set(e, -EBADMSG, "some of the vm's memory never came");
	if (atomic_load(&vm->memory.presence) != MEMORY_WHOLE)
		return error_set(e, -EBUSY, "some of the vm's memory is still to come");
	held = machine_hold(vm);
	rc = machine_save(vm, out, e);
	machine_release(vm, held);
	return rc;
}

/* ---- check ----------------------------------------------------------------------- */

static int config_compare(struct vm *vm, const struct state_view *v, struct error *e)
{
	const struct state_section *s = state_find(v, STATE_CONFIG, 0);
	struct cursor c = s ? cursor_of(s->data, s->len) : (struct cursor){0};
	uint64_t memory = cursor_u64(&c);
	uint32_t vcpus = cursor_u32(&c), devices = cursor_u32(&c);

	if (!s || !state_section_read(s) || cursor_finish(&c))
		return error_set(e, -EBADMSG,
				 "machine state: the configuration section is missing, of another "
				 "version or damaged");
	if (memory != vm->memory.size || vcpus != vm->config.vcpus || devices != vm->device_count)
		return error_set(e, -EBADMSG,
				 "machine state: it is of a machine with %llu bytes of memory, %u "
				 "vCPUs and %u devices; this one has %llu, %u and %u",
				 (unsigned long long)memory, vcpus, devices,
				 (unsigned long long)vm->memory.size, vm->config.vcpus,
				 vm->device_count);
	return 0;
}

static const struct device *device_find(const struct vm *vm, const struct state_section *s)
{
	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i]->ops->section == s->id &&
		    vm->devices[i]->instance == s->instance)
			return vm->devices[i];
	return NULL;
}

/* Sections from STATE_SERIAL on are devices'; those below the engine looks at. */
static int sections_check(const struct vm *vm, const struct state_view *v, struct error *e)
{
	for (unsigned i = 0; i < v->count; i++) {
		const struct state_section *s = &v->sections[i];
		bool expected = s->id < STATE_SERIAL ? s->id != 0 : device_find(vm, s) != NULL;

		if (s->id == STATE_CONFIG && s->instance)
			expected = false;
		if (!expected && s->flags & STATE_MANDATORY)
			return error_set(e, -EBADMSG,
					 "machine state: this machine has no device for section "
					 "%u, %u (made by a newer program, or for another machine)",
					 s->id, s->instance);
	}
	return 0;
}

static int device_load(struct device *d, const struct state_view *v, bool check_only,
		       struct error *e)
{
	const struct state_section *s = state_find(v, d->ops->section, d->instance);
	int rc;

	if (!s)
		return error_set(e, -EBADMSG, "machine state: the section of %s %u is missing",
				 d->ops->name, d->instance);
	if (!version_within(s->version, d->ops->oldest, d->ops->version))
		return error_set(e, -EPROTONOSUPPORT,
				 "machine state: %s %u: version %u, this program reads %u to %u",
				 d->ops->name, d->instance, s->version, d->ops->oldest,
				 d->ops->version);
	rc = d->ops->load(d, cursor_of(s->data, s->len), s->version, check_only, e);
	/* For a device that leaves no sentence; the first one stays. */
	return rc ? error_set(e, rc, "machine state: the section of %s %u is damaged", d->ops->name,
			      d->instance)
		  : 0;
}

static int machine_check(struct vm *vm, const struct state_view *v, struct error *e)
{
	int rc = config_compare(vm, v, e);

	if (!rc)
		rc = sections_check(vm, v, e);
	if (!rc)
		rc = vm->engine_ops->state_check(vm->engine, v, e);
	for (unsigned i = 0; !rc && i < vm->device_count; i++)
		rc = device_load(vm->devices[i], v, true, e);
	return rc;
}

int vm_state_check(struct vm *vm, const void *data, size_t n, struct error *e)
{
	struct state_view v;
	int rc = state_open(data, n, &v, e);
	bool held;

	if (rc)
		return rc;
	held = machine_hold(vm);
	rc = machine_check(vm, &v, e);
	machine_release(vm, held);
	return rc;
}

/* ---- load ----------------------------------------------------------------------------- */

static int machine_load(struct vm *vm, const struct state_view *v, struct error *e)
{
	int rc;

	vm->torn = true;
	rc = vm->engine_ops->state_load(vm->engine, v, e);
	for (unsigned i = 0; !rc && i < vm->device_count; i++)
		rc = device_load(vm->devices[i], v, false, e);
	if (rc)
		return rc;
	vm->torn = false;
	run_loaded(vm);
	return 0;
}

int vm_state_load(struct vm *vm, const void *data, size_t n, struct error *e)
{
	struct state_view v;
	int rc = state_open(data, n, &v, e);
	bool held;

	if (rc)
		return rc;
	if (machine_moves(vm))
		return error_set(e, -EBUSY, "a running vm cannot be given a state");
	held = machine_hold(vm);
	rc = machine_check(vm, &v, e);
	if (!rc)
		rc = machine_load(vm, &v, e);
	machine_release(vm, held);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>

#include "hypervisor/state_image.h"

void state_cpuid_save(const struct state_model *model, struct buf *out)
{
	size_t at = state_section_begin(out, STATE_CPUID, 0, STATE_CPUID_VERSION, STATE_MANDATORY);

	state_cpuid_encode(model->cpuid, out);
	state_section_end(out, at);
}

void state_vcpu_save(const struct state_model *model, unsigned vcpu, const struct vcpu_image *image,
		     struct buf *out)
{
	size_t at = state_section_begin(out, STATE_VCPU, (uint16_t)vcpu, STATE_VCPU_VERSION,
					STATE_MANDATORY);

	state_vcpu_encode(model, image, out);
	state_section_end(out, at);
}

/* ---- check ------------------------------------------------------------------ */

static const struct {
	uint16_t id;
	uint16_t instances; /* 0: one a vCPU */
} known[] = {
	{STATE_CPUID, 1},  {STATE_VCPU, 0}, {STATE_PIC, 2},
	{STATE_IOAPIC, 1}, {STATE_PIT, 1},  {STATE_CLOCK, 1},
};

static bool section_known(const struct state_model *model, const struct state_section *s)
{
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		if (s->id == known[i].id)
			return s->instance <
			       (known[i].instances ? known[i].instances : model->vcpus);
	return false;
}

static int sections_check(const struct state_model *model, const struct state_view *v,
			  struct error *e)
{
	for (unsigned i = 0; i < v->count; i++) {
		const struct state_section *s = &v->sections[i];

		if (s->id < STATE_VCPU || s->id >= STATE_SERIAL)
			continue;
		if (s->flags & STATE_MANDATORY && !section_known(model, s))
			return error_set(e, -EBADMSG,
					 "machine state: engine %s does not know section %u, %u "
					 "(made by another engine or a newer program)",
					 model->engine, s->id, s->instance);
	}
	return 0;
}

static const struct state_section *vcpu_section(const struct state_view *v, unsigned vcpu,
						struct error *e)
{
	const struct state_section *s = state_find(v, STATE_VCPU, (uint16_t)vcpu);

	if (s && state_section_read(s))
		return s;
	error_set(e, -EBADMSG, "machine state: vCPU %u: %s", vcpu,
		  s ? "unknown version" : "the section is missing");
	return NULL;
}

int state_vcpu_open(const struct state_model *model, const struct state_view *v, unsigned vcpu,
		    struct vcpu_image *image, struct error *e)
{
	const struct state_section *s = vcpu_section(v, vcpu, e);

	return s ? state_vcpu_decode(model, s, image, e) : -EBADMSG;
}

static int vcpus_check(const struct state_model *guest, const struct state_view *v, struct error *e)
{
	struct vcpu_image image = {.xsave = NULL};
	int rc = 0;

	if (guest->xsave_used > guest->xsave_size)
		return error_set(e, -EBADMSG,
				 "machine state: the guest's FPU state has %zu octets, engine %s "
				 "carries %zu",
				 guest->xsave_used, guest->engine, guest->xsave_size);
	for (unsigned i = 0; !rc && i < guest->vcpus; i++)
		rc = state_vcpu_open(guest, v, i, &image, e);
	return rc;
}

/* The rest is measured by the CPU that the guest has, not by all that this host has. */
int state_image_check(const struct state_model *model, const struct state_view *v, struct error *e)
{
	struct state_model guest = *model;
	struct chips_image chips;
	int rc = sections_check(model, v, e);

	if (!rc)
		rc = state_cpuid_open(model, v, &guest.cpuid, e);
	if (rc)
		return rc;
	state_model_fpu(&guest);
	rc = vcpus_check(&guest, v, e);
	free(guest.cpuid);
	return rc ? rc : state_chips_open(v, &chips, e);
}

// SPDX-License-Identifier: Apache-2.0
/* Section STATE_CPUID: the guest's CPU goes with the guest. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/state_image.h"

#define XSAVE_LEAF 0xdu
#define FLAGS_ALL                                                                                  \
	(KVM_CPUID_FLAG_SIGNIFCANT_INDEX | KVM_CPUID_FLAG_STATEFUL_FUNC |                          \
	 KVM_CPUID_FLAG_STATE_READ_NEXT)
#define NAMES_MAX 160 /* of one error's text */

static void entry_put(struct buf *b, const struct kvm_cpuid_entry2 *e)
{
	const uint32_t words[] = {e->function, e->index, e->flags, e->eax, e->ebx, e->ecx, e->edx};

	for (unsigned i = 0; i < ARRAY_LEN(words); i++)
		buf_put_u32(b, words[i]);
}

void state_cpuid_encode(const struct kvm_cpuid2 *cpuid, struct buf *out)
{
	buf_put_u32(out, cpuid->nent);
	for (unsigned i = 0; i < cpuid->nent; i++)
		entry_put(out, &cpuid->entries[i]);
}

static struct kvm_cpuid_entry2 entry_take(struct cursor *c)
{
	struct kvm_cpuid_entry2 e = {.function = cursor_u32(c)};

	e.index = cursor_u32(c);
	e.flags = cursor_u32(c);
	e.eax = cursor_u32(c);
	e.ebx = cursor_u32(c);
	e.ecx = cursor_u32(c);
	e.edx = cursor_u32(c);
	return e;
}

static int section_decode(const struct state_section *s, unsigned most, struct kvm_cpuid2 *out,
			  struct error *e)
{
	struct cursor c = cursor_of(s->data, s->len);
	uint32_t count = cursor_u32(&c), flags = 0;

	for (uint32_t i = 0; !c.bad && i < count && i < most; i++) {
		out->entries[i] = entry_take(&c);
		flags |= out->entries[i].flags;
	}
	out->nent = count;
	if (count > most || cursor_finish(&c) || flags & ~(uint32_t)FLAGS_ALL)
		return error_set(e, -EBADMSG,
				 "machine state: CPUID: %u leaves, with flags %#x, in %u octets",
				 count, flags, s->len);
	return 0;
}

static struct vm_cpu_leaf leaf_of(const struct kvm_cpuid_entry2 *e)
{
	return (struct vm_cpu_leaf){.function = e->function,
				    .index = e->index,
				    .indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
				    .words = {e->eax, e->ebx, e->ecx, e->edx}};
}

unsigned state_cpuid_leaves(const struct kvm_cpuid2 *cpuid, struct vm_cpu_leaf *out, unsigned most)
{
	for (unsigned i = 0; i < cpuid->nent && i < most; i++)
		out[i] = leaf_of(&cpuid->entries[i]);
	return cpuid->nent;
}

bool state_cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	bool equal = a->nent == b->nent;

	for (unsigned i = 0; equal && i < a->nent; i++) {
		const struct vm_cpu_leaf x = leaf_of(&a->entries[i]);
		const struct vm_cpu_leaf y = leaf_of(&b->entries[i]);

		equal = x.function == y.function && x.index == y.index && x.indexed == y.indexed &&
			!memcmp(x.words, y.words, sizeof(x.words));
	}
	return equal;
}

/* ---- against what this host offers -------------------------------------------------------- */

struct lacking {
	char names[NAMES_MAX], other[VM_CPU_LACK_MAX];
	unsigned unnamed;
};

static void lack_note(void *ctx, bool feature, const char *text)
{
	struct lacking *l = ctx;
	size_t at = strlen(l->names);

	if (!feature && !l->other[0])
		snprintf(l->other, sizeof(l->other), "%s", text);
	else if (feature && at + strlen(text) + 3 < sizeof(l->names))
		snprintf(l->names + at, sizeof(l->names) - at, "%s%s", at ? ", " : "", text);
	else
		l->unnamed++;
}

static int lacking_refuse(const struct lacking *l, struct error *e)
{
	char more[32] = "";

	if (l->unnamed)
		snprintf(more, sizeof(more), " and %u more", l->unnamed);
	if (l->names[0])
		return error_set(e, -EBADMSG, "machine state: this host's CPU lacks %s%s%s%s",
				 l->names, more, l->other[0] ? "; " : "", l->other);
	return error_set(e, -EBADMSG, "machine state: this host's CPU is another one: %s%s",
			 l->other, more);
}

static int fit_check(const struct kvm_cpuid2 *needed, const struct kvm_cpuid2 *offered,
		     struct error *e)
{
	unsigned ours = needed->nent, theirs = offered->nent;
	struct vm_cpu_leaf *leaves = calloc((size_t)ours + theirs + 1, sizeof(*leaves));
	struct lacking l = {.unnamed = 0};
	unsigned n;

	if (!leaves)
		return error_set(e, -ENOMEM, "no memory for the guest's CPU");
	(void)state_cpuid_leaves(needed, leaves, ours);
	(void)state_cpuid_leaves(offered, leaves + ours, theirs);
	n = vm_cpu_lacks(leaves, ours, leaves + ours, theirs, lack_note, &l);
	free(leaves);
	return n ? lacking_refuse(&l, e) : 0;
}

static int section_open(const struct state_model *model, const struct state_section *s,
			struct kvm_cpuid2 *guest, struct error *e)
{
	int rc = section_decode(s, model->leaves_most, guest, e);

	/* So it is in each epoch of a replica. */
	if (rc || state_cpuid_equal(guest, model->cpuid))
		return rc;
	return fit_check(guest, model->offered, e);
}

int state_cpuid_open(const struct state_model *model, const struct state_view *v,
		     struct kvm_cpuid2 **out, struct error *e)
{
	const struct state_section *s = state_find(v, STATE_CPUID, 0);
	struct kvm_cpuid2 *guest;
	int rc;

	if (!s || !state_section_read(s))
		return error_set(e, -EBADMSG, "machine state: CPUID: %s",
				 s ? "unknown version" : "the section is missing");
	guest = calloc(1, sizeof(*guest) + model->leaves_most * sizeof(guest->entries[0]));
	if (!guest)
		return error_set(e, -ENOMEM, "no memory for the guest's CPU");
	rc = section_open(model, s, guest, e);
	if (rc) {
		free(guest);
		return rc;
	}
	*out = guest;
	return 0;
}

void state_model_fpu(struct state_model *model)
{
	model->xcr0 = 1;
	model->xsave_used = STATE_XSAVE_LEAST;
	for (unsigned i = 0; i < model->cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &model->cpuid->entries[i];

		if (e->function != XSAVE_LEAF || e->index)
			continue;
		model->xcr0 = (uint64_t)e->edx << 32 | e->eax;
		if (e->ecx > model->xsave_used)
			model->xsave_used = e->ecx;
	}
}

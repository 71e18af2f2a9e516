// SPDX-License-Identifier: Apache-2.0
/*
 * Section STATE_VCPU, octet by octet as docs/state-format.md says.
 */
#include <errno.h>
#include <string.h>

#include "hypervisor/cpu_limits.h"
#include "hypervisor/state_image.h"

/* ---- general registers: one table for both directions ---------------------- */

#define REG(name) offsetof(struct kvm_regs, name)
static const size_t reg_order[] = {
	REG(rax), REG(rbx), REG(rcx), REG(rdx), REG(rsi), REG(rdi), REG(rsp), REG(rbp), REG(r8),
	REG(r9),  REG(r10), REG(r11), REG(r12), REG(r13), REG(r14), REG(r15), REG(rip), REG(rflags),
};

static void regs_put(struct buf *b, const struct kvm_regs *r)
{
	for (unsigned i = 0; i < ARRAY_LEN(reg_order); i++)
		buf_put_u64(b, *(const __u64 *)((const char *)r + reg_order[i]));
}

static void regs_take(struct cursor *c, struct kvm_regs *r)
{
	for (unsigned i = 0; i < ARRAY_LEN(reg_order); i++)
		*(__u64 *)((char *)r + reg_order[i]) = cursor_u64(c);
}

/* ---- segments and control registers ------------------------------------------ */

#define SEG(name) offsetof(struct kvm_sregs2, name)
static const size_t segment_order[] = {SEG(cs), SEG(ds), SEG(es), SEG(fs),
				       SEG(gs), SEG(ss), SEG(tr), SEG(ldt)};
static const size_t control_order[] = {SEG(cr0), SEG(cr2),  SEG(cr3),       SEG(cr4),
				       SEG(cr8), SEG(efer), SEG(apic_base), SEG(flags)};

#define SEGMENT_ATTRIBUTES 0x1fffu

static uint16_t segment_attributes(const struct kvm_segment *s)
{
	return (uint16_t)((s->type & 15) | (s->s & 1) << 4 | (s->dpl & 3) << 5 |
			  (s->present & 1) << 7 | (s->unusable & 1) << 8 | (s->avl & 1) << 9 |
			  (s->l & 1) << 10 | (s->db & 1) << 11 | (s->g & 1) << 12);
}

static void segment_put(struct buf *b, const struct kvm_segment *s)
{
	buf_put_u64(b, s->base);
	buf_put_u32(b, s->limit);
	buf_put_u16(b, s->selector);
	buf_put_u16(b, segment_attributes(s));
}

static bool segment_take(struct cursor *c, struct kvm_segment *s)
{
	uint16_t a;

	s->base = cursor_u64(c);
	s->limit = cursor_u32(c);
	s->selector = cursor_u16(c);
	a = cursor_u16(c);
	s->type = a & 15;
	s->s = a >> 4 & 1;
	s->dpl = a >> 5 & 3;
	s->present = a >> 7 & 1;
	s->unusable = a >> 8 & 1;
	s->avl = a >> 9 & 1;
	s->l = a >> 10 & 1;
	s->db = a >> 11 & 1;
	s->g = a >> 12 & 1;
	s->padding = 0;
	return !(a & ~SEGMENT_ATTRIBUTES);
}

static void sregs_put(struct buf *b, const struct kvm_sregs2 *s)
{
	const struct kvm_dtable *tables[] = {&s->gdt, &s->idt};

	for (unsigned i = 0; i < ARRAY_LEN(segment_order); i++)
		segment_put(b, (const struct kvm_segment *)((const char *)s + segment_order[i]));
	for (unsigned i = 0; i < ARRAY_LEN(tables); i++) {
		buf_put_u64(b, tables[i]->base);
		buf_put_u16(b, tables[i]->limit);
	}
	for (unsigned i = 0; i < ARRAY_LEN(control_order); i++)
		buf_put_u64(b, *(const __u64 *)((const char *)s + control_order[i]));
	for (unsigned i = 0; i < 4; i++)
		buf_put_u64(b, s->pdptrs[i]);
}

static bool sregs_take(struct cursor *c, struct kvm_sregs2 *s)
{
	struct kvm_dtable *tables[] = {&s->gdt, &s->idt};
	bool good = true;

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < ARRAY_LEN(segment_order); i++)
		good &= segment_take(c, (struct kvm_segment *)((char *)s + segment_order[i]));
	for (unsigned i = 0; i < ARRAY_LEN(tables); i++) {
		tables[i]->base = cursor_u64(c);
		tables[i]->limit = cursor_u16(c);
	}
	for (unsigned i = 0; i < ARRAY_LEN(control_order); i++)
		*(__u64 *)((char *)s + control_order[i]) = cursor_u64(c);
	for (unsigned i = 0; i < 4; i++)
		s->pdptrs[i] = cursor_u64(c);
	return good;
}

/* ---- debug registers, events --------------------------------------------------- */

static void debugregs_put(struct buf *b, const struct kvm_debugregs *d)
{
	for (unsigned i = 0; i < 4; i++)
		buf_put_u64(b, d->db[i]);
	buf_put_u64(b, d->dr6);
	buf_put_u64(b, d->dr7);
}

static void debugregs_take(struct cursor *c, struct kvm_debugregs *d)
{
	memset(d, 0, sizeof(*d));
	for (unsigned i = 0; i < 4; i++)
		d->db[i] = cursor_u64(c);
	d->dr6 = cursor_u64(c);
	d->dr7 = cursor_u64(c);
}

#define EV(name) offsetof(struct kvm_vcpu_events, name)
static const size_t event_octets[] = {
	EV(exception.injected), EV(exception.nr),       EV(exception.has_error_code),
	EV(exception.pending),  EV(interrupt.injected), EV(interrupt.nr),
	EV(interrupt.soft),     EV(interrupt.shadow),   EV(nmi.injected),
	EV(nmi.pending),        EV(nmi.masked),         EV(smi.smm),
	EV(smi.pending),        EV(smi.smm_inside_nmi), EV(smi.latched_init),
};
/* What KVM is told to take from the struct; sipi_vector is always taken from here. */
#define EVENT_VALID                                                                                \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                       \
	 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM)

static void events_put(struct buf *b, const struct kvm_vcpu_events *v)
{
	for (unsigned i = 0; i < ARRAY_LEN(event_octets); i++)
		buf_put_u8(b, *((const uint8_t *)v + event_octets[i]));
	buf_put_u8(b, 0);
	buf_put_u32(b, v->exception.error_code);
	buf_put_u32(b, v->sipi_vector);
}

static bool events_take(struct cursor *c, struct kvm_vcpu_events *v)
{
	uint8_t zero;

	memset(v, 0, sizeof(*v));
	for (unsigned i = 0; i < ARRAY_LEN(event_octets); i++)
		*((uint8_t *)v + event_octets[i]) = cursor_u8(c);
	zero = cursor_u8(c);
	v->exception.error_code = cursor_u32(c);
	v->sipi_vector = cursor_u32(c);
	v->flags = EVENT_VALID;
	return !zero && v->exception.nr < 32 && v->sipi_vector < 256;
}

/* ---- the whole vCPU -------------------------------------------------------------- */

void state_vcpu_encode(const struct state_model *model, const struct vcpu_image *m, struct buf *out)
{
	buf_put_u32(out, m->mp_state.mp_state);
	buf_put_u32(out, m->tsc_khz);
	regs_put(out, &m->regs);
	sregs_put(out, &m->sregs);
	debugregs_put(out, &m->debugregs);
	buf_put_u64(out, m->xcrs.nr_xcrs ? m->xcrs.xcrs[0].value : 0);
	events_put(out, &m->events);
	buf_put(out, m->lapic.regs, sizeof(m->lapic.regs));
	buf_put_u32(out, m->msrs.head.nmsrs);
	buf_put_u32(out, (uint32_t)model->xsave_used);
	for (unsigned i = 0; i < m->msrs.head.nmsrs; i++) {
		buf_put_u32(out, m->msrs.entries[i].index);
		buf_put_u64(out, m->msrs.entries[i].data);
	}
	buf_put(out, m->xsave, model->xsave_used);
}

static int bad(struct error *e, unsigned vcpu, const char *what, uint64_t value)
{
	return error_set(e, -EBADMSG, "machine state: vCPU %u: %s (%#llx)", vcpu, what,
			 (unsigned long long)value);
}

static int xcr0_check(const struct state_model *model, unsigned vcpu, struct kvm_xcrs *x,
		      struct error *e)
{
	uint64_t value = x->xcrs[0].value;

	if (value & ~model->xcr0 || (value && !(value & 1)))
		return bad(e, vcpu, "XCR0 has components that this CPU does not offer", value);
	x->nr_xcrs = value ? 1 : 0;
	return 0;
}

bool state_msr_known(const struct state_model *model, uint32_t index)
{
	for (unsigned i = 0; i < model->msr_count; i++)
		if (model->msrs[i] == index)
			return true;
	return false;
}

/* Promises of the host's CPU that a guest has read in an MSR. */
static int msr_promises_check(const struct state_model *model, unsigned vcpu, uint32_t index,
			      uint64_t data, struct error *e)
{
	uint64_t lacks = cpu_promise_lacks(&model->limits, index, data);

	return lacks ? error_set(e, -EBADMSG,
				 "machine state: vCPU %u: this host lacks what bits %#llx of MSR "
				 "%#x promise the guest",
				 vcpu, (unsigned long long)lacks, index)
		     : 0;
}

/* One that holds what it came with, and that a guest cannot have changed, tells of the host that
 * it comes from, not of the guest: 0, as a newer kernel lists more, or one of these. */
static bool msr_says_nothing(uint32_t index, uint64_t data)
{
	static const struct {
		uint32_t index;
		uint64_t reset;
	} resets[] = {
		{0x9e, 0x30000},                 /* SMBASE: there is no SMM here */
		{0xc0000104, UINT64_C(1) << 32}, /* TSC_RATIO, of SVM, which no guest has */
	};

	for (unsigned i = 0; i < ARRAY_LEN(resets); i++)
		if (index == resets[i].index && data == resets[i].reset)
			return true;
	return !data;
}

static int msrs_take(const struct state_model *model, unsigned vcpu, struct cursor *c,
		     uint32_t count, struct vcpu_image *m, struct error *e)
{
	unsigned n = 0;
	int rc = 0;

	for (unsigned i = 0; !rc && i < count; i++) {
		uint32_t index = cursor_u32(c);
		uint64_t data = cursor_u64(c);
		bool known = state_msr_known(model, index);

		if (c->bad)
			break; /* reported with the total */
		if (!known && !msr_says_nothing(index, data))
			return bad(e, vcpu, "an MSR that this host does not know", index);
		if (known)
			m->msrs.entries[n++] = (struct kvm_msr_entry){.index = index, .data = data};
		rc = msr_promises_check(model, vcpu, index, data, e);
	}
	m->msrs.head.nmsrs = n;
	return rc;
}

static int xsave_check(const struct state_model *model, unsigned vcpu, const uint8_t *area,
		       struct error *e)
{
	struct cursor header = cursor_of(area + STATE_XSAVE_LEGACY, 64);
	struct cursor mxcsr = cursor_of(area + 24, 4);
	uint64_t present = cursor_u64(&header), compact = cursor_u64(&header);
	uint32_t control = cursor_u32(&mxcsr);

	if (present & ~(model->xcr0 | 3))
		return bad(e, vcpu, "FPU components that this CPU does not offer", present);
	if (compact)
		return bad(e, vcpu, "FPU state in compacted form", compact);
	if (control & 0xffff0000)
		return bad(e, vcpu, "reserved bits of MXCSR are set", control);
	return 0;
}

static int xsave_take(const struct state_model *model, unsigned vcpu, struct cursor *c,
		      uint32_t size, struct vcpu_image *m, struct error *e)
{
	const uint8_t *area = cursor_take(c, size);
	int rc;

	if (size != model->xsave_used)
		return bad(e, vcpu, "FPU state has the size of another CPU's", size);
	if (!area)
		return 0; /* the cursor is bad: reported with the total */
	rc = xsave_check(model, vcpu, area, e);
	if (rc || !m->xsave)
		return rc;
	memset(m->xsave, 0, model->xsave_size);
	memcpy(m->xsave, area, size);
	return 0;
}

/* What has the same size in all of them, and what is to be believed of it. */
static int fixed_take(struct cursor *c, const struct state_section *s, struct vcpu_image *m,
		      uint32_t *msr_count, uint32_t *xsave_size, struct error *e)
{
	unsigned vcpu = s->instance;
	bool good;

	m->mp_state.mp_state = cursor_u32(c);
	m->tsc_khz = cursor_u32(c);
	regs_take(c, &m->regs);
	good = sregs_take(c, &m->sregs);
	debugregs_take(c, &m->debugregs);
	m->xcrs = (struct kvm_xcrs){0};
	m->xcrs.xcrs[0].value = cursor_u64(c);
	good &= events_take(c, &m->events);
	cursor_copy(c, m->lapic.regs, sizeof(m->lapic.regs));
	*msr_count = cursor_u32(c);
	*xsave_size = cursor_u32(c);
	if (c->bad)
		return bad(e, vcpu, "the section is cut off", s->len);
	if (!good || m->sregs.flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return bad(e, vcpu, "reserved bits of segments, events or flags are set", 0);
	if (m->mp_state.mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return bad(e, vcpu, "unknown run state", m->mp_state.mp_state);
	if (*msr_count > STATE_MSRS_MAX)
		return bad(e, vcpu, "too many MSRs", *msr_count);
	return 0;
}

static int tsc_check(const struct state_model *model, unsigned vcpu, uint32_t want, struct error *e)
{
	if (cpu_tsc_fits(&model->limits, want))
		return 0;
	return error_set(e, -EBADMSG,
			 "machine state: vCPU %u: the guest's TSC runs at %u kHz, this host's at "
			 "%u, and this CPU cannot scale it",
			 vcpu, want, model->limits.tsc_khz);
}

int state_vcpu_decode(const struct state_model *model, const struct state_section *s,
		      struct vcpu_image *m, struct error *e)
{
	struct cursor c = cursor_of(s->data, s->len);
	uint32_t msr_count, xsave_size;
	int rc = fixed_take(&c, s, m, &msr_count, &xsave_size, e);

	if (!rc)
		rc = tsc_check(model, s->instance, m->tsc_khz, e);
	if (!rc)
		rc = xcr0_check(model, s->instance, &m->xcrs, e);
	if (!rc)
		rc = msrs_take(model, s->instance, &c, msr_count, m, e);
	if (!rc)
		rc = xsave_take(model, s->instance, &c, xsave_size, m, e);
	if (!rc && cursor_finish(&c))
		rc = bad(e, s->instance, "the section has a wrong length", s->len);
	return rc;
}

int state_vcpu_view(const struct state_section *s, struct vcpu_image *m, const uint8_t **xsave,
		    uint32_t *xsave_size, struct error *e)
{
	struct cursor c = cursor_of(s->data, s->len);
	uint32_t msr_count;
	int rc = fixed_take(&c, s, m, &msr_count, xsave_size, e);

	if (rc)
		return rc;
	m->msrs.head.nmsrs = msr_count;
	for (unsigned i = 0; i < msr_count; i++) {
		m->msrs.entries[i].index = cursor_u32(&c);
		m->msrs.entries[i].data = cursor_u64(&c);
	}
	*xsave = cursor_take(&c, *xsave_size);
	return cursor_finish(&c) ? bad(e, s->instance, "the section has a wrong length", s->len)
				 : 0;
}

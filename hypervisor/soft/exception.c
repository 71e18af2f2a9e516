// SPDX-License-Identifier: Apache-2.0
/* Exceptions and interrupts: AMD64 APM volume 2, chapter 8. */
#define LOG_MODULE "soft"
#include "hypervisor/soft/system.h"

#include <stdio.h>

/* Error codes: the event came from outside the program; it names an IDT entry. */
#define ERROR_EXT 1u
#define ERROR_IDT 2u

/* ---- raising ------------------------------------------------------------------------------ */

noreturn static void leave(struct soft_cpu *cpu, struct soft_op *op)
{
	cpu->op = op;
	siglongjmp(cpu->leave, 1);
}

void soft_raise(struct soft_cpu *cpu, struct soft_op *op, unsigned vector)
{
	cpu->exception.pending = true;
	cpu->exception.has_error = false;
	cpu->exception.vector = (uint8_t)vector;
	cpu->exception.error = 0;
	leave(cpu, op);
}

void soft_raise_error(struct soft_cpu *cpu, struct soft_op *op, unsigned vector, uint32_t error)
{
	bool selector = vector >= VEC_TS && vector <= VEC_GP;

	cpu->exception.pending = true;
	cpu->exception.has_error = true;
	cpu->exception.vector = (uint8_t)vector;
	cpu->exception.error = error | (selector && cpu->exception.external ? ERROR_EXT : 0);
	leave(cpu, op);
}

/* Of what is being delivered when another one comes (APM volume 2, table 8-5). */
static enum soft_exception_class class_of(unsigned vector)
{
	switch (vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
		return CLASS_CONTRIBUTORY;
	case VEC_PF:
		return CLASS_PAGE;
	case VEC_DF:
		return CLASS_DOUBLE;
	default:
		return CLASS_BENIGN;
	}
}

bool soft_exception_take(struct soft_cpu *cpu)
{
	enum soft_exception_class first = cpu->exception.delivering;
	enum soft_exception_class second = class_of(cpu->exception.vector);

	cpu->exception.delivering = CLASS_NONE;
	cpu->exception.external = false;
	if (first == CLASS_DOUBLE)
		return false;
	if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
	    (first == CLASS_PAGE && (second == CLASS_CONTRIBUTORY || second == CLASS_PAGE))) {
		cpu->exception.vector = VEC_DF;
		cpu->exception.has_error = true;
		cpu->exception.error = 0;
	}
	return true;
}

/* ---- delivery -------------------------------------------------------------------------------- */

struct event {
	enum soft_event kind;
	unsigned vector;
	bool has_error;
	uint32_t error;
	uint64_t rip; /* what the frame will hold */
	struct soft_op *op;
};

struct gate {
	unsigned type, ist;
	uint16_t selector;
	uint64_t rip;
};

noreturn static void gate_fault(struct soft_cpu *cpu, const struct event *e, unsigned vector)
{
	soft_raise_error(cpu, e->op, vector, e->vector * 8 | ERROR_IDT);
}

/* Faults push RF, so that an instruction breakpoint does not hit again on return. */
static uint32_t flags_pushed(const struct soft_cpu *cpu, const struct event *e)
{
	bool fault = e->kind == EVENT_EXCEPTION && e->vector != VEC_DB && e->vector != VEC_BP &&
		     e->vector != VEC_OF && e->vector != VEC_NMI;

	return soft_flags(cpu) | (fault ? FLAG_RF : 0);
}

static void deliver_real(struct soft_cpu *cpu, const struct event *e)
{
	struct soft_stack s = soft_stack_current(cpu);
	uint16_t entry[2]; /* IP, CS */

	if (e->vector * 4 + 3 > cpu->idt.limit)
		gate_fault(cpu, e, VEC_GP);
	soft_system_read(cpu, e->op, cpu->idt.base + e->vector * 4, entry, sizeof(entry));
	soft_stack_push(cpu, e->op, &s, soft_flags(cpu), 2);
	soft_stack_push(cpu, e->op, &s, cpu->seg[SEG_CS].selector, 2);
	soft_stack_push(cpu, e->op, &s, e->rip, 2);
	soft_stack_take(cpu, &s);
	cpu->flags &= ~(uint32_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
	cpu->seg[SEG_CS].selector = entry[1];
	cpu->seg[SEG_CS].base = (uint64_t)entry[1] << 4;
	cpu->rip = entry[0];
}

static struct gate gate_read(struct soft_cpu *cpu, const struct event *e)
{
	unsigned size = soft_long(cpu) ? 16 : 8;
	uint32_t raw[4] = {0};
	struct gate g;

	if (e->vector * size + size - 1 > cpu->idt.limit)
		gate_fault(cpu, e, VEC_GP);
	soft_system_read(cpu, e->op, cpu->idt.base + (uint64_t)e->vector * size, raw, size);
	g.type = raw[1] >> 8 & 0x1f;
	g.ist = soft_long(cpu) ? raw[1] & 7 : 0;
	g.selector = (uint16_t)(raw[0] >> 16);
	g.rip = (raw[0] & 0xffff) | (raw[1] & 0xffff0000) | (uint64_t)raw[2] << 32;
	if (g.type == TYPE_INTERRUPT16 || g.type == TYPE_TRAP16)
		g.rip &= 0xffff;
	if (g.type != TYPE_INTERRUPT && g.type != TYPE_TRAP &&
	    (soft_long(cpu) || (g.type != TYPE_INTERRUPT16 && g.type != TYPE_TRAP16)))
		gate_fault(cpu, e, VEC_GP);
	if (e->kind == EVENT_SOFTWARE && (raw[1] >> 13 & 3) < cpu->cpl)
		gate_fault(cpu, e, VEC_GP);
	if (!(raw[1] >> 15 & 1))
		gate_fault(cpu, e, VEC_NP);
	return g;
}

static struct soft_stack stack_for(struct soft_cpu *cpu, const struct event *e,
				   const struct gate *g, unsigned cpl)
{
	struct soft_stack s;

	if (g->ist) {
		s = soft_stack_current(cpu);
		s.inner = true;
		s.flat = true;
		s.mask = UINT64_MAX;
		s.cpl = (uint8_t)cpl;
		if (cpl < cpu->cpl)
			s.ss = soft_segment_null((uint16_t)cpl);
		soft_task_read(cpu, e->op, 28 + 8 * g->ist, &s.sp, 8);
	} else if (cpl < cpu->cpl) {
		s = soft_stack_inner(cpu, e->op, cpl);
	} else {
		s = soft_stack_current(cpu);
		if (soft_long(cpu)) {
			s.flat = true;
			s.mask = UINT64_MAX;
		}
	}
	if (soft_long(cpu))
		s.sp &= ~UINT64_C(15);
	return s;
}

static void frame_push(struct soft_cpu *cpu, const struct event *e, struct soft_stack *s,
		       unsigned size)
{
	if (soft_long(cpu) || s->cpl < cpu->cpl) {
		soft_stack_push(cpu, e->op, s, cpu->seg[SEG_SS].selector, size);
		soft_stack_push(cpu, e->op, s, cpu->r[SOFT_RSP], size);
	}
	soft_stack_push(cpu, e->op, s, flags_pushed(cpu, e), size);
	soft_stack_push(cpu, e->op, s, cpu->seg[SEG_CS].selector, size);
	soft_stack_push(cpu, e->op, s, e->rip, size);
	if (e->has_error)
		soft_stack_push(cpu, e->op, s, e->error, size);
}

static void deliver_protected(struct soft_cpu *cpu, const struct event *e)
{
	struct gate g = gate_read(cpu, e);
	struct soft_target t = soft_target_gate(cpu, e->op, g.selector, g.rip, false);
	struct soft_stack s = stack_for(cpu, e, &g, t.cpl);
	unsigned size = soft_long(cpu) ? 8 : g.type & 8 ? 4 : 2;

	frame_push(cpu, e, &s, size);
	soft_stack_take(cpu, &s);
	soft_target_take(cpu, &t);
	cpu->flags &= ~(uint32_t)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (!(g.type & 1))
		cpu->flags &= ~(uint32_t)FLAG_IF;
}

static void deliver(struct soft_cpu *cpu, const struct event *e)
{
	bool exception = e->kind == EVENT_EXCEPTION;

	cpu->exception.delivering = exception ? class_of(e->vector) : CLASS_BENIGN;
	cpu->exception.external = e->kind != EVENT_SOFTWARE;
	if (soft_protected(cpu))
		deliver_protected(cpu, e);
	else
		deliver_real(cpu, e);
	cpu->exception.delivering = CLASS_NONE;
	cpu->exception.external = false;
	cpu->exception.pending = false;
	if (exception && e->vector == VEC_DB)
		cpu->dr[7] &= ~DR7_GD;
	soft_mode_update(cpu);
}

void soft_deliver(struct soft_cpu *cpu, enum soft_event kind, unsigned vector, bool has_error,
		  uint32_t error)
{
	struct event e = {
		.kind = kind,
		.vector = vector,
		.has_error = has_error && soft_protected(cpu),
		.error = error,
		.rip = cpu->rip,
	};

	deliver(cpu, &e);
}

struct soft_op *soft_software_interrupt(struct soft_cpu *cpu, struct soft_op *op, unsigned vector,
					enum soft_event kind)
{
	struct event e = {
		.kind = kind,
		.vector = vector,
		.rip = soft_rip_after(cpu, op),
		.op = op,
	};

	cpu->step_off = cpu->flags & FLAG_TF;
	deliver(cpu, &e);
	return soft_leave(cpu, op, cpu->rip);
}

/* ---- #UD ----------------------------------------------------------------------------------------
 */

/* The first octets of the instruction that are in its page, as far as they are at hand. */
static unsigned bytes_of(const struct soft_cpu *cpu, const struct soft_op *op, uint8_t *out)
{
	uint64_t va = cpu->r[SOFT_PAGE];
	const struct soft_tlb_entry *t = &cpu->tlbs[cpu->cpl == 3][va >> 12 & (SOFT_TLB_SIZE - 1)];
	unsigned n = op->len;

	if (t->fetch != va || !t->host)
		return 0;
	if (n > VM_PAGE_SIZE - op->off)
		n = (unsigned)VM_PAGE_SIZE - op->off;
	soft_copy(out, t->host + op->off, n);
	return n;
}

static bool first_of_its_kind(struct engine *en, uint32_t key)
{
	for (unsigned i = 0; i < en->undefined_kinds; i++)
		if (en->undefined_seen[i] == key)
			return false;
	if (en->undefined_kinds == ARRAY_LEN(en->undefined_seen))
		return false;
	en->undefined_seen[en->undefined_kinds++] = key;
	return true;
}

static void undefined_log(struct soft_cpu *cpu, const struct soft_op *op)
{
	uint8_t bytes[INSN_BYTES_MAX];
	unsigned n = bytes_of(cpu, op, bytes);
	char text[3 * INSN_BYTES_MAX + 1] = "";
	uint32_t key = 0;

	for (unsigned i = 0; i < n; i++) {
		snprintf(text + 3 * i, 4, " %02x", bytes[i]);
		if (i < 4)
			key = key << 8 | bytes[i];
	}
	if (first_of_its_kind(cpu->engine, key))
		log_info("vcpu %u at 0x%llx, privilege %u: undefined instruction%s", cpu->index,
			 (unsigned long long)soft_rip(cpu, op), cpu->cpl, text);
}

struct soft_op *soft_op_undefined(struct soft_cpu *cpu, struct soft_op *op)
{
	atomic_fetch_add_explicit(&cpu->engine->undefined, 1, memory_order_relaxed);
	undefined_log(cpu, op);
	soft_raise(cpu, op, VEC_UD);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Events between two instructions. This engine delivers whole exceptions and interrupts
 * before it stops, so it saves none of them; KVM may have been stopped half way, and what
 * it had taken from the interrupt controllers, or found, is delivered before the first
 * instruction.
 */
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/state.h"

void soft_image_make_events(struct soft_cpu *cpu, struct vcpu_image *image)
{
	struct kvm_vcpu_events *v = &image->events;

	memset(v, 0, sizeof(*v));
	soft_attend_init(cpu);
	v->interrupt.shadow = cpu->shadow ? KVM_X86_SHADOW_INT_STI : 0;
	v->nmi.masked = cpu->nmi_masked;
	if (soft_chips_nmi_take(cpu->engine->chips, cpu->index)) {
		v->nmi.pending = 1;
		soft_chips_nmi_set(cpu->engine->chips, cpu->index);
	}
	if (cpu->loaded.waiting) {
		v->exception.injected = cpu->loaded.kind == EVENT_EXCEPTION;
		v->exception.nr = v->exception.injected ? cpu->loaded.vector : 0;
		v->exception.has_error_code = cpu->loaded.has_error;
		v->exception.error_code = cpu->loaded.error;
		v->nmi.injected = !v->exception.injected && cpu->loaded.vector == VEC_NMI;
		v->interrupt.injected = !v->exception.injected && !v->nmi.injected;
		v->interrupt.nr = v->interrupt.injected ? cpu->loaded.vector : 0;
	}
}

/* INT n, INT3 and INTO that were under way are executed again. */
static bool is_by_instruction(const struct kvm_vcpu_events *v)
{
	if (v->exception.injected || v->exception.pending)
		return v->exception.nr == VEC_BP || v->exception.nr == VEC_OF;
	return v->interrupt.injected && v->interrupt.soft;
}

static void deliver_first(struct soft_cpu *cpu, const struct kvm_vcpu_events *v)
{
	bool exception = v->exception.injected || v->exception.pending;

	cpu->loaded.waiting = exception || v->interrupt.injected || v->nmi.injected;
	cpu->loaded.kind = exception ? EVENT_EXCEPTION : EVENT_INTERRUPT;
	cpu->loaded.vector = exception               ? v->exception.nr
			     : v->interrupt.injected ? v->interrupt.nr
						     : VEC_NMI;
	cpu->loaded.has_error = exception && v->exception.has_error_code;
	cpu->loaded.error = cpu->loaded.has_error ? v->exception.error_code : 0;
	if (is_by_instruction(v))
		cpu->loaded.waiting = false;
}

void soft_image_take_events(struct soft_cpu *cpu, const struct vcpu_image *image)
{
	struct engine *en = cpu->engine;
	const struct kvm_vcpu_events *v = &image->events;

	memset(&cpu->exception, 0, sizeof(cpu->exception));
	deliver_first(cpu, v);
	cpu->shadow = v->interrupt.shadow;
	cpu->nmi_masked = v->nmi.masked;
	cpu->bounced = false;
	cpu->debug_hits = 0;
	(void)soft_chips_init_take(en->chips, cpu->index);
	(void)soft_chips_sipi_take(en->chips, cpu->index);
	(void)soft_chips_nmi_take(en->chips, cpu->index);
	if (v->nmi.pending)
		soft_chips_nmi_set(en->chips, cpu->index);
	cpu->chips_look = true;
	cpu->loaded.first = true;
	atomic_fetch_or(&cpu->attention, ATTENTION_LOOK);
}

void soft_loaded_deliver(struct soft_cpu *cpu)
{
	bool waiting = cpu->loaded.waiting;

	cpu->loaded.first = cpu->loaded.waiting = false;
	soft_clock_publish(cpu->engine);
	if (!waiting)
		return;
	cpu->op = NULL;
	cpu->halted = false;
	soft_deliver(cpu, cpu->loaded.kind, cpu->loaded.vector, cpu->loaded.has_error,
		     cpu->loaded.error);
}

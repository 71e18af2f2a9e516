// SPDX-License-Identifier: Apache-2.0
/*
 * The run loop: from block to block, with exceptions, interrupts, INIT and SIPI between
 * two instructions, and one instruction at a time where something must happen behind
 * each: an interrupt shadow with an interrupt waiting, single steps, breakpoints.
 */
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/machine.h"

/* ---- events between instructions ---------------------------------------------------- */

/* What this loop sees to itself; the rest is its caller's. */
#define ATTENTION_INSIDE (ATTENTION_CHIPS | ATTENTION_STALE | ATTENTION_LOOK)

static bool flags_armed(const struct soft_cpu *cpu)
{
	return cpu->flags & (FLAG_TF | FLAG_RF) || soft_debug_armed(cpu);
}

void soft_attend_init(struct soft_cpu *cpu)
{
	struct soft_chips *chips = cpu->engine->chips;
	int vector;

	if (soft_chips_init_take(chips, cpu->index)) {
		soft_chips_cpu_init(chips, cpu->index);
		soft_cpu_init(cpu);
	}
	vector = soft_chips_sipi_take(chips, cpu->index);
	if (vector >= 0 && cpu->wait_sipi)
		soft_cpu_sipi(cpu, (unsigned)vector);
}

/* What is to be delivered now: a vector, or -1. */
static int interrupt_choose(struct soft_cpu *cpu, bool *nmi)
{
	struct soft_chips *chips = cpu->engine->chips;

	*nmi = !cpu->nmi_masked && !cpu->shadow && soft_chips_nmi_take(chips, cpu->index);
	if (*nmi)
		return VEC_NMI;
	if (soft_chips_interrupt_pending(chips, cpu->index) < 0) {
		/* An NMI may wait for its turn. */
		cpu->chips_look = cpu->nmi_masked || cpu->shadow;
		return -1;
	}
	if (!(cpu->flags & FLAG_IF) || cpu->shadow)
		return -1;
	return soft_chips_interrupt_take(chips, cpu->index);
}

/* False: the vCPU does not run (INIT has stopped it). */
static bool chips_attend(struct soft_cpu *cpu)
{
	struct engine *en = cpu->engine;
	int vector = -1;
	bool nmi = false;

	soft_chips_enter(en);
	soft_attend_init(cpu);
	if (!cpu->wait_sipi)
		vector = interrupt_choose(cpu, &nmi);
	soft_chips_leave(en);
	if (vector < 0)
		return !cpu->wait_sipi;
	cpu->halted = false;
	cpu->nmi_masked |= nmi;
	soft_deliver(cpu, EVENT_INTERRUPT, (unsigned)vector, false, 0);
	return true;
}

/* Before the next instruction. */
static bool events_attend(struct soft_cpu *cpu)
{
	unsigned attention = 0;

	if (UNLIKELY(cpu->loaded.first))
		soft_loaded_deliver(cpu);
	/* What is taken back is what was seen: a bit set meanwhile stays. */
	if (atomic_load_explicit(&cpu->attention, memory_order_relaxed))
		attention = atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_INSIDE);
	if (attention & ATTENTION_STALE)
		soft_code_drop_stale(cpu->engine);
	if (attention & ATTENTION_CHIPS)
		cpu->chips_look = true;
	return cpu->chips_look ? chips_attend(cpu) : !cpu->wait_sipi;
}

/* ---- instructions ------------------------------------------------------------------------ */

/* Exactly one instruction, or one round of a repeated one. */
static void one_run(struct soft_cpu *cpu)
{
	bool trap = cpu->flags & FLAG_TF;
	uint64_t limit = cpu->limit;
	struct soft_op *op;

	if (!(cpu->flags & FLAG_RF))
		soft_debug_before(cpu);
	op = soft_code_single(cpu);
	cpu->flags &= ~(uint32_t)FLAG_RF;
	cpu->limit = cpu->icount + 1;
	while (op)
		op = op->run(cpu, op);
	cpu->limit = limit;
	cpu->op = NULL;
	soft_debug_after(cpu, trap);
}

static void blocks_run(struct soft_cpu *cpu)
{
	struct soft_op *op = soft_jump_find(cpu);

	while (op)
		op = op->run(cpu, op);
	cpu->op = NULL;
}

static void step_or_run(struct soft_cpu *cpu)
{
	bool shadow = cpu->shadow;

	cpu->shadow = false;
	if ((shadow && cpu->chips_look) || flags_armed(cpu))
		one_run(cpu);
	else
		blocks_run(cpu);
}

/* An exception has left the operation cpu->op, or none. False: shutdown. */
static bool exception_begin(struct soft_cpu *cpu)
{
	cpu->bounced = false;
	cpu->shadow = false;
	if (cpu->op) {
		cpu->rip = soft_rip_cut(cpu, soft_rip(cpu, cpu->op));
		cpu->icount += cpu->op->seq;
	}
	/* Counted as an instruction: who raises nothing but exceptions comes to the limit, too. */
	cpu->icount++;
	cpu->op = NULL;
	if (!soft_exception_take(cpu))
		return false;
	soft_deliver(cpu, EVENT_EXCEPTION, cpu->exception.vector, cpu->exception.has_error,
		     cpu->exception.error);
	return true;
}

enum soft_stop soft_run(struct soft_cpu *cpu)
{
	/* limit is changed while one instruction runs; an exception must not keep that. */
	volatile uint64_t limit = cpu->limit;

	if (sigsetjmp(cpu->leave, 0)) {
		cpu->limit = limit;
		if (!exception_begin(cpu))
			return STOP_SHUTDOWN;
	}
	while (events_attend(cpu)) {
		if (cpu->halted)
			return STOP_IDLE;
		if (soft_must_look(cpu))
			return STOP_LOOK;
		step_or_run(cpu);
	}
	return STOP_IDLE;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * All vCPUs on the first one's thread, in turn, for as many instructions as the seed says.
 * Whatever makes a vCPU leave its blocks comes from the guest itself, or is a count of
 * instructions that was known before: who wants something from outside waits for the end
 * of a turn. So blocks begin and end at the same instructions in each run, and what counts
 * is the first block end at or after a count, also where counts lie within blocks.
 */
#include <stdio.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/machine.h"

#define NS_PER_INSTRUCTION 5u
#define SLICE_LEAST        UINT64_C(8192)  /* instructions */
#define SLICE_MORE         UINT64_C(32768) /* at random */

/* ---- virtual time ------------------------------------------------------------------------ */

static uint64_t instructions(const struct engine *en)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < en->vcpus; i++)
		sum += en->cpu[i]->icount;
	return sum;
}

uint64_t soft_virtual_now(const struct engine *en)
{
	return instructions(en) * NS_PER_INSTRUCTION + en->turns.skipped;
}

static struct deterministic_at here(const struct engine *en)
{
	return (struct deterministic_at){instructions(en), soft_virtual_now(en)};
}

/* A deadline has moved: within this slice perhaps. The chips' lock is held. */
void soft_turns_look(struct engine *en)
{
	atomic_fetch_or(&en->cpu[en->turns.turn]->attention, ATTENTION_BATON);
}

/* The next deadline; what was due has been fired. */
static uint64_t timers_run(struct engine *en)
{
	uint64_t deadline, now = soft_virtual_now(en);

	pthread_mutex_lock(&en->chips_lock);
	while ((deadline = soft_chips_deadline(en->chips)) <= now)
		soft_chips_run(en->chips, now);
	en->timer_at = deadline;
	pthread_mutex_unlock(&en->chips_lock);
	return deadline;
}

/* ---- kicks --------------------------------------------------------------------------------- */

/* By a device, from inside an instruction: then at its end. */
void soft_turns_kick(struct engine *en, unsigned vcpu)
{
	struct soft_turns *t = &en->turns;

	pthread_mutex_lock(&t->lock);
	t->kicked[vcpu] = true;
	if (t->inside && pthread_equal(t->thread, pthread_self())) {
		t->leave = true;
		soft_turns_look(en);
	}
	pthread_cond_broadcast(&t->kick);
	pthread_mutex_unlock(&t->lock);
	deterministic_wake(en->params.deterministic);
}

static bool kick_take(struct engine *en, unsigned vcpu, bool wait)
{
	struct soft_turns *t = &en->turns;
	bool kicked;

	pthread_mutex_lock(&t->lock);
	while (wait && !t->kicked[vcpu])
		pthread_cond_wait(&t->kick, &t->lock);
	kicked = t->kicked[vcpu];
	t->kicked[vcpu] = false;
	pthread_mutex_unlock(&t->lock);
	return kicked;
}

/* ---- turns ----------------------------------------------------------------------------------- */

static bool cpu_ready(const struct soft_cpu *cpu)
{
	return (!cpu->halted && !cpu->wait_sipi) || atomic_load(&cpu->attention) & ATTENTION_CHIPS;
}

/* False: nobody can go on. */
static bool turn_pass(struct engine *en)
{
	struct soft_turns *t = &en->turns;

	for (unsigned i = 1; i <= en->vcpus; i++) {
		unsigned n = (t->turn + i) % en->vcpus;

		if (!cpu_ready(en->cpu[n]))
			continue;
		t->turn = n;
		t->slice_end = instructions(en) + SLICE_LEAST +
			       deterministic_draw(en->params.deterministic) % SLICE_MORE;
		t->over = false;
		return true;
	}
	return false;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Until the slice is over, an epoch ends, a timer is due, or a device wants it to leave. */
static enum soft_stop turn_run(struct engine *en, uint64_t deadline)
{
	struct soft_turns *t = &en->turns;
	struct soft_cpu *cpu = en->cpu[t->turn];
	uint64_t count = instructions(en), now = soft_virtual_now(en), limit;
	enum soft_stop stop;

	limit = least(t->slice_end, t->epoch_end) - count;
	limit = least(limit, (deadline - now - 1) / NS_PER_INSTRUCTION + 1);
	limit += cpu->icount;
	/* As nobody: a harvest waits, and asks for no attention. */
	soft_baton_take(&en->baton, NULL);
	cpu->limit = limit;
	stop = soft_run(cpu);
	soft_baton_pass(&en->baton);
	atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_BATON);
	/* PAUSE cuts the limit short. */
	t->over = stop != STOP_LOOK || cpu->limit < limit || instructions(en) >= t->slice_end;
	return stop;
}

/* Time goes on to what happens next. */
static void idle(struct engine *en, uint64_t deadline)
{
	struct deterministic_at at = here(en);
	bool kicked = false;
	uint64_t until = deterministic_idle(en->params.deterministic, at, deadline, &kicked);

	en->turns.skipped += until - at.now;
	en->turns.taken = kicked; /* then nothing has come, and it waits on */
}

/* Between two turns; or at once, when the guest itself has brought it about. */
static bool leave_take(struct engine *en)
{
	return (en->turns.over || en->turns.leave) && kick_take(en, 0, false);
}

/* One step of the machine; false: it cannot go on. */
static bool step(struct engine *en, struct vcpu_exit *exit)
{
	struct soft_turns *t = &en->turns;
	struct deterministic *d = en->params.deterministic;
	uint64_t deadline = timers_run(en);

	if (instructions(en) >= t->epoch_end)
		t->epoch_end = deterministic_epoch(d, here(en));
	if (deterministic_failure(d)) {
		exit->kind = EXIT_FAILED;
		snprintf(exit->detail, sizeof(exit->detail), "%s", deterministic_failure(d));
		return false;
	}
	if (t->over && !t->taken) {
		deterministic_turn(d, here(en));
		t->taken = true;
		return true;
	}
	if (t->over && !turn_pass(en)) {
		idle(en, deadline);
		return true;
	}
	t->taken = false;
	if (turn_run(en, deadline) == STOP_SHUTDOWN) {
		soft_exit_shutdown(en->cpu[t->turn], exit);
		return false;
	}
	return true;
}

void soft_turns_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	struct soft_turns *t = &en->turns;

	exit->detail[0] = 0;
	exit->kind = EXIT_INTERRUPTED;
	if (vcpu) {
		(void)kick_take(en, vcpu, true);
		return;
	}
	pthread_mutex_lock(&t->lock);
	t->thread = pthread_self();
	t->inside = true;
	pthread_mutex_unlock(&t->lock);
	while (!leave_take(en) && step(en, exit))
		;
	t->leave = false;
}

void soft_turns_create(struct engine *en)
{
	struct soft_turns *t = &en->turns;

	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->kick, NULL);
	t->over = true;
	t->turn = en->params.vcpus - 1;
	en->timer_at = UINT64_MAX;
}

void soft_turns_destroy(struct engine *en)
{
	pthread_cond_destroy(&en->turns.kick);
	pthread_mutex_destroy(&en->turns.lock);
}

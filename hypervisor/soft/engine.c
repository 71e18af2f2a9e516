// SPDX-License-Identifier: Apache-2.0
/* Engine soft: its operations table. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define LOG_MODULE "soft"

#define SLICE      UINT64_C(200000) /* instructions: 1-2 ms */

/* ---- running -------------------------------------------------------------------------- */

static void attention_set(struct soft_cpu *cpu, unsigned what)
{
	atomic_fetch_or(&cpu->attention, what);
	pthread_mutex_lock(&cpu->sleep_lock);
	pthread_cond_signal(&cpu->wake);
	pthread_mutex_unlock(&cpu->sleep_lock);
}

static void attention_chips(void *ctx, unsigned vcpu)
{
	struct engine *en = ctx;

	attention_set(en->cpu[vcpu], ATTENTION_CHIPS);
}

/* Halted: until anything asks for attention. The baton is not held. */
static void cpu_sleep(struct soft_cpu *cpu)
{
	pthread_mutex_lock(&cpu->sleep_lock);
	while (!atomic_load(&cpu->attention))
		pthread_cond_wait(&cpu->wake, &cpu->sleep_lock);
	pthread_mutex_unlock(&cpu->sleep_lock);
}

static enum soft_stop slice_run(struct soft_cpu *cpu)
{
	struct engine *en = cpu->engine;
	enum soft_stop stop;

	soft_baton_take(&en->baton, cpu);
	do {
		cpu->limit = cpu->icount + SLICE;
		stop = soft_run(cpu);
		atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_BATON);
	} while (stop == STOP_LOOK && !(atomic_load(&cpu->attention) & ATTENTION_KICK) &&
		 !soft_baton_is_wanted(&en->baton));
	soft_baton_pass(&en->baton);
	return stop;
}

void soft_exit_shutdown(const struct soft_cpu *cpu, struct vcpu_exit *exit)
{
	exit->kind = EXIT_SHUTDOWN;
	snprintf(exit->detail, sizeof(exit->detail), "triple fault at 0x%llx",
		 (unsigned long long)cpu->rip);
}

static void soft_vcpu_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	struct soft_cpu *cpu = en->cpu[vcpu];

	if (en->params.deterministic) {
		soft_turns_run(en, vcpu, exit);
		return;
	}
	exit->detail[0] = 0;
	exit->kind = EXIT_INTERRUPTED;
	while (!(atomic_fetch_and(&cpu->attention, ~(unsigned)ATTENTION_KICK) & ATTENTION_KICK)) {
		switch (slice_run(cpu)) {
		case STOP_LOOK:
			break;
		case STOP_IDLE:
			cpu_sleep(cpu);
			break;
		case STOP_SHUTDOWN:
			soft_exit_shutdown(cpu, exit);
			return;
		}
	}
}

static void soft_vcpu_kick(struct engine *en, unsigned vcpu)
{
	if (en->params.deterministic)
		soft_turns_kick(en, vcpu);
	else
		attention_set(en->cpu[vcpu], ATTENTION_KICK);
}

/* ---- interrupts, doorbells ---------------------------------------------------------------- */

static int soft_irq_line(struct engine *en, unsigned gsi, bool level)
{
	soft_chips_enter(en);
	soft_chips_irq(en->chips, soft_now(en), gsi, level);
	soft_chips_leave(en);
	return 0;
}

/* Whether a LAPIC took it is the guest's business. */
static int soft_msi(struct engine *en, uint64_t address, uint32_t data)
{
	soft_chips_enter(en);
	(void)soft_chips_msi(en->chips, soft_now(en), address, data);
	soft_chips_leave(en);
	return 0;
}

static int bell_find(const struct engine *en, const struct soft_bell *bell)
{
	for (unsigned i = 0; i < en->bell_count; i++)
		if (en->bells[i].address == bell->address && en->bells[i].size == bell->size)
			return (int)i;
	return -ENOENT;
}

static int bell_change(struct engine *en, const struct soft_bell *bell, bool on)
{
	int at = bell_find(en, bell);

	if (!on && at >= 0)
		en->bells[at] = en->bells[--en->bell_count];
	if (!on)
		return at < 0 ? at : 0;
	if (at >= 0)
		return -EEXIST;
	if (en->bell_count == SOFT_BELLS_MAX)
		return -EOPNOTSUPP;
	en->bells[en->bell_count++] = *bell;
	return 0;
}

static int soft_doorbell(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on)
{
	const struct soft_bell bell = {.address = address, .size = size, .fd = event_fd};
	int rc;

	/* A bell is heard on another thread. */
	if (en->params.deterministic)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&en->bells_lock);
	rc = bell_change(en, &bell, on);
	pthread_mutex_unlock(&en->bells_lock);
	return rc;
}

/* ---- log-dirty ----------------------------------------------------------------------------- */

/* Bits are set whether or not somebody logs: a write tag costs as much either way. */
static int soft_dirty_harvest(struct engine *en, uint64_t *map)
{
	size_t words = bitmap_words(en->memory->size / VM_PAGE_SIZE);

	soft_baton_take(&en->baton, NULL);
	for (size_t i = 0; i < words; i++) {
		if (map)
			map[i] |= en->dirty[i];
		en->dirty[i] = 0;
	}
	soft_tlb_protect(en);
	soft_baton_pass(&en->baton);
	return 0;
}

static int soft_log_dirty(struct engine *en, bool on)
{
	return on ? soft_dirty_harvest(en, NULL) : 0;
}

/* ---- state ----------------------------------------------------------------------------------- */

static int soft_vcpu_after_pause(struct engine *en, unsigned vcpu)
{
	if (en->params.deterministic) /* virtual time has stood still */
		return 0;
	soft_baton_take(&en->baton, NULL);
	soft_clock_stopped(en->cpu[vcpu]);
	soft_baton_pass(&en->baton);
	return 0;
}

static int soft_vcpus_reset(struct engine *en, struct error *e)
{
	soft_chips_enter(en);
	soft_chips_reset(en->chips);
	soft_chips_leave(en);
	soft_code_drop_all(en);
	for (unsigned i = 0; i < en->vcpus; i++)
		soft_cpu_reset(en->cpu[i]);
	soft_clock_reset(en);
	return 0;
}

/* ---- creation -----------------------------------------------------------------------------------
 */

static struct soft_cpu *cpu_create(struct engine *en, unsigned index)
{
	struct soft_cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

	if (!cpu)
		return NULL;
	memset(cpu, 0, sizeof(*cpu));
	cpu->engine = en;
	cpu->index = index;
	if (pthread_mutex_init(&cpu->sleep_lock, NULL)) {
		free(cpu);
		return NULL;
	}
	if (pthread_cond_init(&cpu->wake, NULL)) {
		pthread_mutex_destroy(&cpu->sleep_lock);
		free(cpu);
		return NULL;
	}
	return cpu;
}

static void cpu_destroy(struct soft_cpu *cpu)
{
	pthread_cond_destroy(&cpu->wake);
	pthread_mutex_destroy(&cpu->sleep_lock);
	free(cpu);
}

static int cpus_create(struct engine *en, unsigned count)
{
	for (; en->vcpus < count; en->vcpus++) {
		en->cpu[en->vcpus] = cpu_create(en, en->vcpus);
		if (!en->cpu[en->vcpus])
			return -ENOMEM;
	}
	return 0;
}

static uint64_t chips_tsc_to_ns(void *ctx, unsigned vcpu, uint64_t tsc)
{
	struct engine *en = ctx;

	return soft_tsc_when(en->cpu[vcpu], tsc);
}

static int parts_create(struct engine *en, unsigned vcpus)
{
	const struct soft_chips_hooks hooks = {
		.ctx = en,
		.attention = attention_chips,
		.tsc_to_ns = chips_tsc_to_ns,
	};
	size_t words = bitmap_words(en->memory->size / VM_PAGE_SIZE);
	int rc = cpus_create(en, vcpus);

	if (rc)
		return rc;
	en->dirty = calloc(words, sizeof(*en->dirty));
	en->stale = calloc(words, sizeof(*en->stale));
	if (!en->dirty || !en->stale)
		return -ENOMEM;
	rc = soft_code_create(en, &en->code);
	if (!rc)
		rc = memory_watch_begin(en->memory, soft_stale_note, en);
	if (!rc)
		rc = soft_chips_create(vcpus, &hooks, &en->chips);
	if (rc || en->params.deterministic)
		return rc;
	rc = soft_timer_start(en);
	if (!rc)
		en->timer_runs = true;
	return rc;
}

static void soft_destroy(struct engine *en)
{
	unsigned long undefined = atomic_load(&en->undefined);

	if (undefined)
		log_info("%lu undefined instructions in all", undefined);
	if (en->timer_runs)
		soft_timer_stop(en);
	memory_watch_end(en->memory);
	soft_chips_destroy(en->chips);
	soft_code_destroy(en->code);
	for (unsigned i = 0; i < en->vcpus; i++)
		cpu_destroy(en->cpu[i]);
	free(en->stale);
	free(en->dirty);
	pthread_mutex_destroy(&en->bells_lock);
	pthread_mutex_destroy(&en->chips_lock);
	soft_turns_destroy(en);
	soft_baton_destroy(&en->baton);
	free(en);
}

static int locks_create(struct engine *en)
{
	int rc = soft_baton_create(&en->baton);

	if (rc)
		return rc;
	pthread_mutex_init(&en->chips_lock, NULL);
	pthread_mutex_init(&en->bells_lock, NULL);
	return 0;
}

static int soft_create(const struct engine_params *p, struct engine **out, struct error *e)
{
	struct engine *en;
	int rc;

	if (p->cpu == CPU_HOST)
		return error_set(e, -ENOTSUP,
				 "engine soft has the CPU \"pollux-base\"; \"host\" needs KVM");
	en = calloc(1, sizeof(*en));
	if (!en || locks_create(en)) {
		free(en);
		return error_set(e, -ENOMEM, "no memory for the software CPU");
	}
	en->params = *p;
	en->memory = p->memory;
	en->clock.tsc_khz = p->deterministic ? SOFT_TSC_KHZ : soft_tsc_khz_host();
	en->leaf_count = cpuid_base_leaves(p->vcpus, 0, en->leaves);
	soft_turns_create(en);
	rc = parts_create(en, p->vcpus);
	if (!rc)
		rc = soft_vcpus_reset(en, e);
	if (rc) {
		soft_destroy(en);
		return error_set(e, rc, "cannot make the software CPU: %s", strerror(-rc));
	}
	if (p->deterministic)
		deterministic_clock(p->deterministic, soft_virtual_now, en);
	*out = en;
	return 0;
}

static void soft_probe(struct engine_report *out)
{
	*out = (struct engine_report){.name = "soft", .usable = true, .real_guests = true};
	snprintf(out->why, sizeof(out->why),
		 "a CPU in software, which any machine has: some hundred million instructions a "
		 "second");
}

const struct engine_ops engine_soft = {
	.name = "soft",
	.stepped = false,
	.probe = soft_probe,
	.create = soft_create,
	.destroy = soft_destroy,
	.vcpu_boot = soft_vcpu_boot,
	.vcpus_reset = soft_vcpus_reset,
	.vcpu_run = soft_vcpu_run,
	.vcpu_kick = soft_vcpu_kick,
	.state_save = soft_state_save,
	.state_check = soft_state_check,
	.state_load = soft_state_load,
	.cpu_own = soft_cpu_own,
	.cpu_limits = soft_cpu_limits,
	.vcpu_after_pause = soft_vcpu_after_pause,
	.irq_line = soft_irq_line,
	.msi = soft_msi,
	.doorbell = soft_doorbell,
	.log_dirty = soft_log_dirty,
	.dirty_harvest = soft_dirty_harvest,
};

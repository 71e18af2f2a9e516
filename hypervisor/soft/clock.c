// SPDX-License-Identifier: Apache-2.0
/*
 * The guest's clocks: the TSC, and kvmclock as KVM serves it (Linux
 * Documentation/virt/kvm/x86/msr.rst, cpuid.rst). Both run by soft_now(), so a page that
 * was written once stays right.
 */
#include <errno.h>

#include "hypervisor/soft/machine.h"
#include "hypervisor/soft/mmu.h"

#define MSR_WALL_CLOCK_OLD  0x11u
#define MSR_SYSTEM_TIME_OLD 0x12u
#define MSR_WALL_CLOCK      0x4b564d00u
#define MSR_SYSTEM_TIME     0x4b564d01u

#define TIME_ENABLED        UINT64_C(1)
#define TIME_STABLE         1u /* flags: the same on all vCPUs */
#define TIME_STOPPED        2u /* the guest was stopped by its host */

struct time_page {
	uint32_t version, pad;
	uint64_t tsc, system;
	uint32_t multiplier;
	int8_t shift;
	uint8_t flags, pad2[2];
};
_Static_assert(sizeof(struct time_page) == 32, "as the guest knows it");

struct wall_page {
	uint32_t version, seconds, nanoseconds;
};

static uint64_t scale(uint64_t v, uint64_t by, uint64_t per)
{
	return (uint64_t)((unsigned __int128)v * by / per);
}

/* ---- TSC ---------------------------------------------------------------------------------- */

static uint64_t tsc_base(const struct soft_cpu *cpu)
{
	return scale(soft_now(cpu->engine), cpu->engine->clock.tsc_khz, NS_PER_MS);
}

uint64_t soft_tsc_read(struct soft_cpu *cpu)
{
	return tsc_base(cpu) + cpu->tsc_offset;
}

void soft_tsc_write(struct soft_cpu *cpu, uint64_t value)
{
	cpu->tsc_offset = value - tsc_base(cpu);
}

uint64_t soft_tsc_when(const struct soft_cpu *cpu, uint64_t tsc)
{
	uint64_t base = tsc - cpu->tsc_offset, now = tsc_base(cpu);

	if (tsc <= now + cpu->tsc_offset)
		return 0;
	if (base - now > INT64_MAX)
		return UINT64_MAX; /* never, as good as */
	return scale(base, NS_PER_MS, cpu->engine->clock.tsc_khz) + 1;
}

/* ---- kvmclock ---------------------------------------------------------------------------------
 */

uint64_t soft_kvmclock_read(const struct engine *en)
{
	return soft_now(en) + (uint64_t)en->clock.kvmclock;
}

/* ns = (tsc << shift) * multiplier >> 32 */
static void rate_set(struct time_page *p, uint32_t tsc_khz)
{
	uint64_t khz = tsc_khz;

	p->shift = 0;
	while (khz > 2 * NS_PER_MS) {
		khz >>= 1;
		p->shift--;
	}
	while (khz <= NS_PER_MS) {
		khz <<= 1;
		p->shift++;
	}
	/* What the shift rounded away is put back: the rate of tsc_khz scaled exactly. */
	p->multiplier =
		p->shift < 0 ? (uint32_t)scale((uint64_t)NS_PER_MS << 32, 1u << -p->shift, tsc_khz)
			     : (uint32_t)scale((uint64_t)NS_PER_MS << 32, 1,
					       (uint64_t)tsc_khz << p->shift);
}

static void page_write(struct engine *en, uint64_t gpa, const void *data, size_t n)
{
	uint8_t *host = memory_at(en->memory, gpa, n);

	if (!host)
		return;
	soft_page_written(en, host);
	soft_page_written(en, host + n - 1);
	memcpy(host, data, n);
}

static void time_publish(struct soft_cpu *cpu, bool stopped)
{
	uint64_t gpa = cpu->kvmclock_time & ~TIME_ENABLED;
	struct time_page p;

	if (!(cpu->kvmclock_time & TIME_ENABLED) ||
	    memory_read(cpu->engine->memory, gpa, &p, sizeof(p)))
		return;
	p.version = (p.version | 1) + 1;
	p.pad = 0;
	p.tsc = soft_tsc_read(cpu);
	p.system = soft_kvmclock_read(cpu->engine);
	/* What the guest has not yet taken note of stays. */
	p.flags = (uint8_t)(TIME_STABLE | (stopped ? TIME_STOPPED : p.flags & TIME_STOPPED));
	memset(p.pad2, 0, sizeof(p.pad2));
	rate_set(&p, cpu->engine->clock.tsc_khz);
	page_write(cpu->engine, gpa, &p, sizeof(p));
}

void soft_clock_publish(struct engine *en)
{
	for (unsigned i = 0; i < en->vcpus; i++)
		time_publish(en->cpu[i], false);
}

void soft_clock_stopped(struct soft_cpu *cpu)
{
	time_publish(cpu, true);
}

static void wall_publish(struct engine *en, uint64_t gpa)
{
	struct wall_page p;
	uint64_t ns;

	if (memory_read(en->memory, gpa, &p, sizeof(p)))
		return;
	ns = soft_wall_now(en) - soft_kvmclock_read(en);
	p.version = (p.version | 1) + 1;
	p.seconds = (uint32_t)(ns / NS_PER_SEC);
	p.nanoseconds = (uint32_t)(ns % NS_PER_SEC);
	page_write(en, gpa, &p, sizeof(p));
}

int soft_clock_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_OLD:
		*value = cpu->engine->clock.wall;
		return 0;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_OLD:
		*value = cpu->kvmclock_time;
		return 0;
	default:
		return -ENOENT;
	}
}

int soft_clock_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_OLD:
		cpu->engine->clock.wall = value;
		wall_publish(cpu->engine, value);
		return 0;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_OLD:
		cpu->kvmclock_time = value;
		time_publish(cpu, false);
		return 0;
	default:
		return -ENOENT;
	}
}

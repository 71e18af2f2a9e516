// SPDX-License-Identifier: Apache-2.0
/*
 * Every vCPU holds patterns in all its registers and counts its timer's interrupts;
 * whatever is lost when the machine is saved and loaded elsewhere shows. Each source
 * of interrupts is a chain, in which an event causes the next one: a lost event ends
 * it. LAPIC timer: one-shot, armed by its handler. IPI: passed around the vCPUs.
 */
#include "tests/guests/guest.h"

#define TIMER_VECTOR 0x40
#define PIT_VECTOR   0x41
#define IPI_VECTOR   0x42
#define TIMER_NS     2000000u
#define PIT_GSI      2
#define PIT_RATE     100
#define ROUNDS       20 /* of the register check, between two looks at the rest */
#define MEASURED     50 /* ticks after which we know how many turns a tick has */
#define FX_SIZE      512
#define FX_REGISTERS 32 /* ST0..7, XMM0..15 */
#define FX_END       416

const char guest_name[] = "selfcheck";

uint64_t registers_hold(const uint64_t *pattern, uint64_t rounds);
void avx_enable(void);
void avx_load(const void *ymm);
void avx_store(void *ymm);

struct cpu {
	volatile uint64_t ticks;
	volatile uint32_t ipis, token; /* token: an IPI came and is to be passed on */
	uint64_t turns, turns_most, turns_since, ticks_seen, last_tsc;
	uint64_t pattern[14], msr_pattern[16];
	uint8_t fx[FX_SIZE] __attribute__((aligned(64)));
	uint8_t got[FX_SIZE] __attribute__((aligned(64)));
	uint8_t ymm[512], ymm_got[512];
};

static struct cpu cpus[GUEST_CPUS_MAX];
static volatile uint64_t pit_ticks;
static unsigned cpu_count;
static bool avx, task_priority;
static uint64_t ticks_wanted;

static struct cpu *self(void)
{
	return &cpus[lapic_id()];
}

static void timer_tick(struct frame *f)
{
	self()->ticks++;
	lapic_timer(TIMER_VECTOR, TIMER_NS, false);
}
static void pit_tick(struct frame *f)
{
	pit_ticks++;
}
static void ipi_came(struct frame *f)
{
	self()->ipis++;
	self()->token = 1;
}

/* ---- patterns ------------------------------------------------------------------------ */

static uint64_t pattern(unsigned cpu, unsigned i)
{
	uint64_t v = (cpu * 1000ul + i + 1) * 0x9e3779b97f4a7c15ul;
	return v ^ v >> 29;
}

struct msr {
	uint32_t number;
	uint64_t mask; /* bits that every processor keeps */
};
static const struct msr msrs[] = {
	{0xc0000100, 0x7ffffffff000}, /* FS base */
	{0xc0000101, 0x7ffffffff000}, /* GS base */
	{0xc0000102, 0x7ffffffff000}, /* kernel GS base */
	{0xc0000082, 0x7ffffffff000}, /* LSTAR */
	{0xc0000081, 0x7ffffffff000}, /* STAR */
	{0xc0000084, 0xffffffff},     /* SFMASK */
	{0x174, 0xffff},              /* SYSENTER CS, ESP, EIP */
	{0x175, 0xffffffff},
	{0x176, 0xffffffff},
};

static uint64_t msr_pattern(unsigned cpu, unsigned i)
{
	return pattern(cpu, 100 + i) & msrs[i].mask;
}

static void debug_set(unsigned cpu)
{
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr1; mov %2, %%dr2; mov %3, %%dr3"
			 :
			 : "r"(pattern(cpu, 50) & 0x7ffffffff000ul),
			   "r"(pattern(cpu, 51) & 0x7ffffffff000ul),
			   "r"(pattern(cpu, 52) & 0x7ffffffff000ul),
			   "r"(pattern(cpu, 53) & 0x7ffffffff000ul));
}
static void debug_check(unsigned cpu)
{
	uint64_t d[4];
	__asm__ volatile("mov %%dr0, %0; mov %%dr1, %1; mov %%dr2, %2; mov %%dr3, %3"
			 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]));
	for (unsigned i = 0; i < 4; i++)
		if (d[i] != (pattern(cpu, 50 + i) & 0x7ffffffff000ul))
			fail("cpu %u: DR%u is %x", (uint64_t)cpu, (uint64_t)i, d[i]);
}

static void control_set(unsigned cpu)
{
	__asm__ volatile("mov %0, %%cr2" : : "r"(pattern(cpu, 60)));
	if (task_priority)
		__asm__ volatile("mov %0, %%cr8" : : "r"((uint64_t)cpu % 2));
}
static void control_check(unsigned cpu)
{
	uint64_t cr2, cr8 = cpu % 2;
	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	if (task_priority)
		__asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
	if (cr2 != pattern(cpu, 60) || cr8 != cpu % 2)
		fail("cpu %u: CR2 is %x, CR8 is %x", (uint64_t)cpu, cr2, cr8);
}

/* Control words with unusual rounding, eight numbers, sixteen XMM registers. */
static void fx_set(struct cpu *c, unsigned cpu)
{
	uint16_t control = 0x0f7f;
	uint32_t mxcsr = 0x5f80;
	for (unsigned i = FX_REGISTERS; i < FX_END; i++)
		c->fx[i] = (uint8_t)pattern(cpu, 200 + i);
	for (unsigned st = 0; st < 8; st++) {
		c->fx[FX_REGISTERS + 16 * st + 7] |= 0x80; /* normal numbers */
		c->fx[FX_REGISTERS + 16 * st + 9] = 0x40;
		memset(c->fx + FX_REGISTERS + 16 * st + 10, 0, 6);
	}
	memcpy(c->fx, &control, 2);
	c->fx[4] = 0xff; /* all eight are in use */
	memcpy(c->fx + 24, &mxcsr, 4);
	__asm__ volatile("fxrstor64 %0" : : "m"(c->fx));
}
static void fx_check(struct cpu *c, unsigned cpu)
{
	__asm__ volatile("fxsave64 %0" : "=m"(c->got));
	if (memcmp(c->fx, c->got, 5) != 0 || memcmp(c->fx + 24, c->got + 24, 4) != 0)
		fail("cpu %u: FPU or SSE control word", (uint64_t)cpu);
	for (unsigned i = FX_REGISTERS; i < FX_END; i++)
		if (c->fx[i] != c->got[i])
			fail("cpu %u: byte %u of the FPU and SSE registers is %x, was %x",
			     (uint64_t)cpu, (uint64_t)i, (uint64_t)c->got[i], (uint64_t)c->fx[i]);
}

/* XSAVE and AVX */
static bool avx_offered(void)
{
	uint32_t a = 1, b, c = 0, d, wanted = 1u << 26 | 1u << 28;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return (c & wanted) == wanted;
}

static void avx_set(struct cpu *c, unsigned cpu)
{
	avx_enable();
	for (unsigned i = 0; i < sizeof(c->ymm); i++) /* the lower halves are the XMM registers */
		c->ymm[i] = i % 32 < 16 ? c->fx[160 + i / 32 * 16 + i % 32]
					: (uint8_t)pattern(cpu, 700 + i);
	avx_load(c->ymm);
}
static void avx_check(struct cpu *c, unsigned cpu)
{
	avx_store(c->ymm_got);
	if (memcmp(c->ymm, c->ymm_got, sizeof(c->ymm)) != 0)
		fail("cpu %u: AVX registers", (uint64_t)cpu);
}

static void patterns_set(struct cpu *c, unsigned cpu)
{
	for (unsigned i = 0; i < ARRAY_LEN(c->pattern); i++)
		c->pattern[i] = pattern(cpu, i);
	for (unsigned i = 0; i < ARRAY_LEN(msrs); i++) {
		c->msr_pattern[i] = msr_pattern(cpu, i);
		msr_write(msrs[i].number, c->msr_pattern[i]);
	}
	debug_set(cpu);
	control_set(cpu);
	fx_set(c, cpu);
	if (avx)
		avx_set(c, cpu);
}

static void patterns_check(struct cpu *c, unsigned cpu)
{
	if (registers_hold(c->pattern, ROUNDS))
		fail("cpu %u: a general register changed", (uint64_t)cpu);
	for (unsigned i = 0; i < ARRAY_LEN(msrs); i++)
		if (msr_read(msrs[i].number) != c->msr_pattern[i])
			fail("cpu %u: MSR %x is %x, was %x", (uint64_t)cpu,
			     (uint64_t)msrs[i].number, msr_read(msrs[i].number), c->msr_pattern[i]);
	debug_check(cpu);
	control_check(cpu);
	fx_check(c, cpu);
	if (avx)
		avx_check(c, cpu);
}

/* ---- chains ------------------------------------------------------------------------------- */

static void tsc_check(struct cpu *c, unsigned cpu)
{
	uint64_t now = tsc();
	if (now < c->last_tsc)
		fail("cpu %u: the TSC went back from %x to %x", (uint64_t)cpu, c->last_tsc, now);
	c->last_tsc = now;
}

/* Counted in turns of this loop, not in time: a machine that stood still has made none. */
static void timer_check(struct cpu *c, unsigned cpu)
{
	c->turns++;
	if (c->ticks != c->ticks_seen) {
		if (c->ticks < MEASURED && c->turns_since > c->turns_most)
			c->turns_most = c->turns_since;
		c->ticks_seen = c->ticks;
		c->turns_since = 0;
	} else if (++c->turns_since > 1000 * c->turns_most + 10000) {
		fail("cpu %u: no timer interrupt after tick %u", (uint64_t)cpu, c->ticks);
	}
}

static void token_pass(struct cpu *c, unsigned cpu)
{
	if (!c->token)
		return;
	c->token = 0;
	interrupts_off(); /* both halves of the command register */
	ipi((cpu + 1) % cpu_count, IPI_VECTOR);
	interrupts_on();
}

static void cpu_turn(struct cpu *c, unsigned cpu)
{
	patterns_check(c, cpu);
	tsc_check(c, cpu);
	timer_check(c, cpu);
	token_pass(c, cpu);
	if (c->turns % 4 == 0) {
		interrupts_off();
		wait_for_interrupt();
		interrupts_on();
	}
}

static void cpu_begin(struct cpu *c, unsigned cpu)
{
	lapic_enable();
	patterns_set(c, cpu);
	lapic_timer(TIMER_VECTOR, TIMER_NS, false);
	interrupts_on();
}

void guest_ap_main(unsigned number)
{
	unsigned cpu = lapic_id();
	cpu_begin(&cpus[cpu], cpu);
	for (;;)
		cpu_turn(&cpus[cpu], cpu);
}

/* ---- vCPU 0 -----------------------------------------------------------------------------------
 */

struct watch {
	const char *what;
	uint64_t seen, since; /* since which tick of ours it stands still */
	uint64_t patience;    /* ticks */
};

static void watch(struct watch *w, uint64_t now)
{
	if (w->seen != now) {
		w->seen = now;
		w->since = cpus[0].ticks;
	} else if (cpus[0].ticks - w->since > w->patience) {
		fail("the %s stand still at %u", w->what, now);
	}
}

static bool all_done(void)
{
	for (unsigned i = 0; i < cpu_count; i++)
		if (cpus[i].ticks < (i ? ticks_wanted / 10 : ticks_wanted))
			return false;
	return true;
}

static void watch_all(void)
{
	static struct watch pit = {"PIT interrupts", .patience = 1000};
	static struct watch ring = {"IPIs", .patience = 5000};
	static struct watch others[GUEST_CPUS_MAX];
	watch(&pit, pit_ticks);
	watch(&ring, cpus[0].ipis);
	for (unsigned i = 1; i < cpu_count; i++) {
		others[i].what = "timer ticks of another vCPU";
		others[i].patience = 5000;
		watch(&others[i], cpus[i].ticks);
	}
}

void guest_main(void)
{
	uint64_t every = parameter("report", 100), told = 0;
	cpu_count = (unsigned)parameter("cpus", 1);
	ticks_wanted = parameter("ticks", 0);
	avx = parameter("avx", 0) && avx_offered();
	task_priority = parameter("cr8", 1);
	handler_set(TIMER_VECTOR, timer_tick);
	handler_set(PIT_VECTOR, pit_tick);
	handler_set(IPI_VECTOR, ipi_came);
	lapic_enable();
	if (!cpus_start(cpu_count))
		fail("only %u vCPUs have started", (uint64_t)guest_cpus);
	ioapic_route(PIT_GSI, PIT_VECTOR);
	pit_start(PIT_RATE);
	report("start cpus=%u avx=%u", (uint64_t)cpu_count, (uint64_t)avx);
	cpus[0].token = 1;
	cpu_begin(&cpus[0], 0);
	while (!ticks_wanted || !all_done()) {
		cpu_turn(&cpus[0], 0);
		watch_all();
		if (cpus[0].ticks - told >= every) {
			told = cpus[0].ticks;
			report("tick %u pit %u ipi %u turns %u", told, pit_ticks,
			       (uint64_t)cpus[0].ipis, cpus[0].turns);
		}
	}
	interrupts_off();
}

// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>

#include "tests/guests/guest.h"

#define SERIAL         0x3f8
#define SERIAL_LSR     (SERIAL + 5)
#define SERIAL_EMPTY   0x20
#define PM1_CONTROL    0x604
#define S5             (5 << 10 | 0x2000)
#define LAPIC          0xfee00000ul
#define IOAPIC         0xfec00000ul
#define LAPIC_ID       0x20
#define LAPIC_EOI      0xb0
#define LAPIC_SPURIOUS 0xf0
#define LAPIC_ICR      0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_TIMER    0x320
#define LAPIC_COUNT    0x380
#define LAPIC_DIVIDE   0x3e0
#define DIVIDE_BY_1    0xb
#define TIMER_PERIODIC 0x20000
#define TIMER_MASKED   0x10000
#define ICR_INIT       0x4500
#define ICR_STARTUP    0x4600
#define ICR_FIXED      0x4000
#define PIT_HZ         1193182u
#define EXCEPTIONS     32

struct idt_gate {
	uint16_t low, selector;
	uint8_t stack, flags;
	uint16_t middle;
	uint32_t high, zero;
};
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, cmdline;
};

uint32_t guest_start_info = 1; /* not in .bss: written before anything is cleared */
volatile uint32_t guest_cpus;
struct idt_gate guest_idt[256] __attribute__((aligned(16)));
static handler_fn *handlers[256];
extern const char stubs[][16], trampoline[], trampoline_end[];
void guest_begin(void);
void guest_interrupt(struct frame *f);

void *memset(void *to, int c, size_t n)
{
	void *p = to;
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *p = to;
	__asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *p = a, *q = b;
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

/* ---- output --------------------------------------------------------------------- */

static void put(char c)
{
	while (!(in8(SERIAL_LSR) & SERIAL_EMPTY))
		pause();
	out8(SERIAL, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base)
{
	char text[20];
	unsigned n = 0;
	do {
		text[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n)
		put(text[--n]);
}

static void put_string(const char *s)
{
	while (*s)
		put(*s++);
}

static void vsay(const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == 's')
			put_string(va_arg(args, const char *));
		else
			put_number(va_arg(args, uint64_t), *fmt == 'x' ? 16 : 10);
	}
}

void say(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vsay(fmt, args);
	va_end(args);
}

void report(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	say("%s: ", guest_name);
	vsay(fmt, args);
	say("\n");
	va_end(args);
}

static void __attribute__((noreturn)) halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

void fail(const char *fmt, ...)
{
	static volatile uint32_t once;
	va_list args;
	interrupts_off();
	if (__atomic_exchange_n(&once, 1, __ATOMIC_ACQ_REL))
		halt(); /* another vCPU is saying why, and turns off */
	va_start(args, fmt);
	say("\n%s: FAIL ", guest_name);
	vsay(fmt, args);
	say("\n");
	va_end(args);
	power_off();
}

void power_off(void)
{
	out16(PM1_CONTROL, S5);
	halt();
}

/* ---- parameters ------------------------------------------------------------------- */

static uint64_t number_parse(const char *s)
{
	uint64_t v = 0;
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (uint64_t)(*s - '0');
	return v;
}

uint64_t parameter(const char *key, uint64_t otherwise)
{
	const struct start_info *info = (void *)(uintptr_t)guest_start_info;
	const char *s = (const char *)info->cmdline;
	while (s && *s) {
		size_t n = 0;
		while (key[n] && s[n] == key[n])
			n++;
		if (!key[n] && s[n] == '=')
			return number_parse(s + n + 1);
		while (*s && *s != ' ')
			s++;
		while (*s == ' ')
			s++;
	}
	return otherwise;
}

/* ---- interrupts -------------------------------------------------------------------- */

static volatile uint32_t *lapic(unsigned at)
{
	return (volatile uint32_t *)(LAPIC + at);
}

void guest_interrupt(struct frame *f)
{
	if (f->vector < EXCEPTIONS && !handlers[f->vector])
		fail("exception %u error %x at %x", f->vector, f->error, f->rip);
	if (handlers[f->vector])
		handlers[f->vector](f);
	if (f->vector >= EXCEPTIONS)
		*lapic(LAPIC_EOI) = 0;
}

void handler_set(unsigned vector, handler_fn *fn)
{
	handlers[vector] = fn;
}

static void idt_fill(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint64_t at = (uint64_t)stubs[i];
		guest_idt[i] = (struct idt_gate){
			(uint16_t)at, 8, 0, 0x8e, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0};
	}
}

void guest_begin(void)
{
	idt_fill();
	out8(0x21, 0xff); /* the old interrupt controllers say nothing */
	out8(0xa1, 0xff);
	guest_main();
	report("ok");
	power_off();
}

void lapic_enable(void)
{
	*lapic(LAPIC_SPURIOUS) = 0x1ff;
	*lapic(LAPIC_DIVIDE) = DIVIDE_BY_1;
}

unsigned lapic_id(void)
{
	return *lapic(LAPIC_ID) >> 24;
}

void lapic_timer(unsigned vector, uint32_t ns, bool periodic)
{
	*lapic(LAPIC_TIMER) = ns ? vector | (periodic ? TIMER_PERIODIC : 0) : TIMER_MASKED;
	*lapic(LAPIC_COUNT) = ns;
}

static void icr(unsigned cpu, uint32_t what)
{
	*lapic(LAPIC_ICR_HIGH) = cpu << 24;
	*lapic(LAPIC_ICR) = what;
}

void ipi(unsigned cpu, unsigned vector)
{
	icr(cpu, ICR_FIXED | vector);
}

static void wait_cycles(uint64_t cycles)
{
	uint64_t from = tsc();
	while (tsc() - from < cycles)
		pause();
}

bool cpus_start(unsigned cpus)
{
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	for (unsigned cpu = 1; cpu < cpus; cpu++) {
		uint32_t before = guest_cpus;
		icr(cpu, ICR_INIT);
		wait_cycles(10000000);
		icr(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
		for (unsigned i = 0; i < 1000 && guest_cpus == before; i++)
			wait_cycles(3000000);
	}
	return guest_cpus == cpus;
}

static void ioapic_write(unsigned at, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC = at;
	*(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

void ioapic_route(unsigned gsi, unsigned vector)
{
	ioapic_write(0x11 + 2 * gsi, lapic_id() << 24);
	ioapic_write(0x10 + 2 * gsi, vector);
}

void pit_start(unsigned hz)
{
	unsigned divisor = PIT_HZ / hz;
	out8(0x43, 0x34); /* channel 0, both bytes, rate generator */
	out8(0x40, (uint8_t)divisor);
	out8(0x40, (uint8_t)(divisor >> 8));
}

void __attribute__((weak)) guest_ap_main(unsigned cpu)
{
}

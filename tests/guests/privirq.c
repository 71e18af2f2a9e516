// SPDX-License-Identifier: Apache-2.0
/*
 * Interrupts: masking, shadows, priorities, NMI, HLT, the controllers and timers, x2APIC, IPIs
 * to a second vCPU. Nothing is timed: timers are counted only.
 */
#include "tests/guests/priv.h"

const char guest_name[] = "privirq";

#define LAPIC_BASE     0xfee00000ul
#define LAPIC_ID       0x20
#define LAPIC_TPR      0x80
#define LAPIC_PPR      0xa0
#define LAPIC_ISR      0x100
#define LAPIC_IRR      0x200
#define LAPIC_ICR      0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIME 0x320
#define LAPIC_LVT0     0x350
#define LAPIC_COUNT    0x380
#define LAPIC_CURRENT  0x390
#define LVT_MASKED     0x10000
#define LVT_DEADLINE   0x40000
#define LVT_EXTINT     0x700
#define ICR_ASSERT     0x4000
#define ICR_SELF       0x40000
#define ICR_ALL        0x80000
#define ICR_OTHERS     0xc0000
#define ICR_NMI        0x400
#define MSR_APIC_BASE  0x1b
#define MSR_DEADLINE   0x6e0
#define BASE_X2        0x400
#define BASE_ON        0x800
#define X2_MSR(at)     (0x800 + (at) / 16)
#define X2_SELF_IPI    0x83f
#define X2_EOI         0x80b
#define CPUID_X2APIC   (1u << 21)
#define CPUID_DEADLINE (1u << 24)
#define PATIENCE       3000000u

static volatile uint32_t *lapic(unsigned at)
{
	return (volatile uint32_t *)(LAPIC_BASE + at);
}

static void self(unsigned vector)
{
	*lapic(LAPIC_ICR) = ICR_SELF | ICR_ASSERT | vector;
}

/* ---- what has come ---------------------------------------------------------------------- */

static volatile uint64_t order, came; /* the last eight vectors, a byte each; how many */
static volatile uint64_t came_rip;

static void note(struct frame *f)
{
	order = order << 8 | f->vector;
	came++;
	came_rip = f->rip;
}

static void forget(void)
{
	order = came = came_rip = 0;
}

static void open_window(void)
{
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

static bool wait_came(uint64_t n)
{
	for (unsigned i = 0; i < PATIENCE && came < n; i++)
		__asm__ volatile("sti; pause; nop; cli" : : : "memory");
	return came >= n;
}

/* ---- masking and shadows ------------------------------------------------------------------- */

static void check_masking(void)
{
	forget();
	self(0x41);
	for (unsigned i = 0; i < 1000; i++)
		pause();
	priv_expect("masked_by_if", came, 0);
	priv_expect("pending_irr", *lapic(LAPIC_IRR + 0x20) & 2, 2);
	open_window();
	priv_expect("after_sti", order, 0x41);
	priv_expect("irr_empty", *lapic(LAPIC_IRR + 0x20), 0);
	forget();
	self(0x42);
	self(0x42);
	self(0x42);
	open_window();
	open_window();
	priv_expect("pending_once", came, 1);
}

/* Where an interrupt that has been pending comes: at which of the instructions. */
#define WHERE(name, wanted, code)                                                                  \
	do {                                                                                       \
		uint64_t begin;                                                                    \
		forget();                                                                          \
		self(0x41);                                                                        \
		__asm__ volatile("leaq 1f(%%rip), %0; 1: " code                                    \
				 : "=&r"(begin)                                                    \
				 :                                                                 \
				 : "memory", "rax", "rcx", "cc");                                  \
		priv_expect(name, came ? came_rip - begin : 0xff, wanted);                         \
		open_window();                                                                     \
	} while (0)

static void check_shadows(void)
{
	WHERE("sti_nop", 2, "sti; nop; nop; nop; cli");
	WHERE("sti_cli", 0xff, "sti; cli; nop; nop");
	WHERE("sti_sti", 2, "sti; sti; nop; cli"); /* the second has no shadow */
	WHERE("popf", 10, "pushfq; orl $0x200, (%%rsp); nop; popfq; nop; cli");
	WHERE("sti_hlt", 2, "sti; hlt; cli");
	/* The interrupt is taken right behind what unmasks it, and inside what unmasks it no more.
	 */
	cr8_write(15);
	forget();
	self(0x41);
	open_window();
	priv_expect("cr8_masks", came, 0);
	cr8_write(0);
	open_window();
	priv_expect("cr8_unmasks", came, 1);
}

/* IRETQ that sets IF has no shadow: the interrupt comes before the first instruction. */
static void check_iret(void)
{
	uint64_t begin;
	forget();
	self(0x41);
	__asm__ volatile("movq %%rsp, %%rcx; movq %%ss, %%rax; pushq %%rax; pushq %%rcx\n"
			 "pushfq; orq $0x200, (%%rsp); movq %%cs, %%rax; pushq %%rax\n"
			 "leaq 1f(%%rip), %0; pushq %0; iretq\n"
			 "1: nop; nop; cli"
			 : "=&r"(begin)
			 :
			 : "memory", "rax", "rcx", "cc");
	priv_expect("iret_sets_if", came_rip - begin, 0);
}

/* With interrupts open an IPI to oneself comes soon; at which instruction is not defined. */
static void check_self_ipi(void)
{
	forget();
	interrupts_on();
	self(0x41);
	for (unsigned i = 0; i < PATIENCE && !came; i++)
		pause();
	interrupts_off();
	priv_expect("self_ipi_soon", came, 1);
}

/* ---- priorities --------------------------------------------------------------------------------
 */

static volatile uint64_t seen_inside, seen_class, seen_ppr, seen_isr;

/* 0x41's: within it a higher class is served at once, the same class afterwards. */
static void on_low(struct frame *f)
{
	note(f);
	seen_ppr = *lapic(LAPIC_PPR);
	seen_isr = *lapic(LAPIC_ISR + 0x20);
	uint64_t before = came;
	self(0x45);
	self(0x61);
	for (unsigned i = 0; i < 100 && came == before; i++)
		open_window();
	seen_inside = came - before;
	seen_class = order & 0xff;
}

static void check_priorities(void)
{
	forget();
	self(0x41);
	self(0x71);
	self(0x61);
	self(0x62);
	self(0x51);
	open_window();
	wait_came(5);
	priv_expect("order", order, 0x7162615141);
	handler_set(0x41, on_low);
	forget();
	self(0x41);
	open_window();
	wait_came(3);
	priv_expect("nested", order, 0x416145);
	priv_expect("nested_inside", seen_inside, 1);
	priv_expect("nested_class", seen_class, 0x61);
	priv_expect("ppr_inside", seen_ppr, 0x40);
	priv_expect("isr_inside", seen_isr, 2);
	handler_set(0x41, note);
}

static void check_task_priority(void)
{
	cr8_write(5);
	priv_expect("tpr_of_cr8", *lapic(LAPIC_TPR), 0x50);
	*lapic(LAPIC_TPR) = 0x37;
	priv_expect("cr8_of_tpr", cr8_read(), 3);
	/* With a virtual TPR (AMD) the sub-class, the low four bits, is lost. */
	priv_expect("ppr_of_tpr", *lapic(LAPIC_PPR) & 0xf0, 0x30);
	cr8_write(5);
	forget();
	self(0x51);
	self(0x5f);
	self(0x61);
	open_window();
	open_window();
	priv_expect("tpr_holds", order, 0x61);
	cr8_write(4);
	wait_came(3);
	priv_expect("tpr_lets", order, 0x615f51);
	cr8_write(15);
	self(0xf1);
	open_window();
	priv_expect("tpr_15", came, 3);
	cr8_write(0);
	wait_came(4);
	priv_expect("tpr_0", order & 0xff, 0xf1);
}

/* ---- NMI ---------------------------------------------------------------------------------------
 */

static volatile uint64_t nmis, nmi_depth, nmi_deepest, nmi_again;

static void nmi_send(void)
{
	*lapic(LAPIC_ICR_HIGH) = *lapic(LAPIC_ID) & 0xff000000;
	*lapic(LAPIC_ICR) = ICR_ASSERT | ICR_NMI;
}

static void on_nmi(struct frame *f)
{
	nmi_depth++;
	if (nmi_depth > nmi_deepest)
		nmi_deepest = nmi_depth;
	if (nmi_again) {
		nmi_again--;
		nmi_send();
		for (unsigned i = 0; i < 1000; i++)
			pause();
	}
	nmis++;
	nmi_depth--;
}

static bool wait_nmis(uint64_t n)
{
	for (unsigned i = 0; i < PATIENCE && nmis < n; i++)
		pause();
	return nmis == n;
}

static void check_nmi(void)
{
	handler_set(2, on_nmi);
	nmi_send();
	wait_nmis(1);
	priv_expect("nmi_with_if_clear", nmis, 1);
	nmis = 0;
	nmi_again = 1;
	nmi_send();
	wait_nmis(2);
	priv_expect("nmi_blocked_then_comes", nmis, 2);
	priv_expect("nmi_depth", nmi_deepest, 1);
	nmis = 0;
	cr8_write(15);
	nmi_send();
	wait_nmis(1);
	cr8_write(0);
	priv_expect("nmi_over_tpr", nmis, 1);
}

/* ---- HLT and timers
 * ------------------------------------------------------------------------------- */

#define TIMER 0x52

static void check_timer(void)
{
	forget();
	lapic_timer(TIMER, 200000, false);
	while (!came)
		wait_for_interrupt();
	priv_expect("hlt_one_shot", came, 1);
	for (unsigned i = 0; i < 300000; i++)
		__asm__ volatile("sti; nop; cli");
	priv_expect("one_shot_once", came, 1);
	priv_expect("one_shot_count", *lapic(LAPIC_CURRENT), 0);
	forget();
	lapic_timer(TIMER, 200000, true);
	while (came < 5)
		wait_for_interrupt();
	lapic_timer(TIMER, 0, false);
	say("%s: periodic", guest_name);
	priv_verdict(came >= 5, "count");
	open_window(); /* for one that came just before the end */
	forget();
	*lapic(LAPIC_LVT_TIME) = LVT_MASKED | TIMER;
	*lapic(LAPIC_COUNT) = 100000;
	for (unsigned i = 0; i < PATIENCE && *lapic(LAPIC_CURRENT); i++)
		__asm__ volatile("sti; nop; cli");
	say("%s: masked_timer came=%x left=%x", guest_name, came, (uint64_t)*lapic(LAPIC_CURRENT));
	priv_verdict(!came && !*lapic(LAPIC_CURRENT), "count");
	forget();
	*lapic(LAPIC_LVT_TIME) = TIMER;
	*lapic(LAPIC_COUNT) = 0xffffffff; /* four seconds: it is running, and is stopped */
	bool running = *lapic(LAPIC_CURRENT) != 0;
	*lapic(LAPIC_COUNT) = 0;
	say("%s: stopped_timer left=%x", guest_name, (uint64_t)*lapic(LAPIC_CURRENT));
	priv_verdict(running && !*lapic(LAPIC_CURRENT) && !came, "count");
}

static uint32_t cpuid_1_ecx(void)
{
	uint32_t a = 1, b, c = 0, d;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c;
}

static void check_deadline(void)
{
	if (!(cpuid_1_ecx() & CPUID_DEADLINE)) {
		report("deadline is not offered");
		return;
	}
	open_window(); /* KVM may have put off what came while the timer was masked */
	forget();
	*lapic(LAPIC_LVT_TIME) = LVT_DEADLINE | TIMER;
	msr_write(MSR_DEADLINE, tsc() + 1000000);
	while (!came)
		wait_for_interrupt();
	priv_expect("deadline", came, 1);
	priv_expect("deadline_fired", msr_read(MSR_DEADLINE), 0);
	msr_write(MSR_DEADLINE, 1); /* long past */
	wait_came(2);
	priv_expect("deadline_past", came, 2);
	msr_write(MSR_DEADLINE, tsc() + 1000000000000);
	say("%s: deadline_armed", guest_name);
	priv_verdict(msr_read(MSR_DEADLINE) != 0, "value");
	msr_write(MSR_DEADLINE, 0);
	priv_expect("deadline_disarmed", msr_read(MSR_DEADLINE), 0);
	msr_write(MSR_DEADLINE, tsc() + 1000000000000);
	*lapic(LAPIC_LVT_TIME) = TIMER; /* another mode disarms */
	priv_expect("deadline_mode", msr_read(MSR_DEADLINE), 0);
	*lapic(LAPIC_COUNT) = 0;
}

/* ---- PIT, by the IOAPIC and by the old controller
 * ----------------------------------------------------- */

static void on_pic(struct frame *f)
{
	note(f);
	out8(0x20, 0x20);
}

static void pic_start(unsigned base, uint8_t mask)
{
	out8(0x20, 0x11);
	out8(0x21, (uint8_t)base);
	out8(0x21, 4);
	out8(0x21, 1);
	out8(0xa0, 0x11);
	out8(0xa1, (uint8_t)(base + 8));
	out8(0xa1, 2);
	out8(0xa1, 1);
	out8(0x21, mask);
	out8(0xa1, 0xff);
}

static void ioapic_mask(unsigned gsi)
{
	*(volatile uint32_t *)0xfec00000 = 0x10 + 2 * gsi;
	*(volatile uint32_t *)0xfec00010 = LVT_MASKED;
}

static void check_pit(void)
{
	forget();
	ioapic_route(2, 0x58);
	pit_start(1000);
	while (came < 3)
		wait_for_interrupt();
	say("%s: pit_ioapic vector=%x", guest_name, order & 0xff);
	priv_verdict((order & 0xff) == 0x58, "vector");
	ioapic_mask(2);
	open_window();
	open_window();
	forget();
	for (unsigned i = 0; i < 100000; i++)
		__asm__ volatile("sti; nop; cli");
	priv_expect("pit_ioapic_masked", came, 0);
	handler_set(0x70, on_pic);
	pic_start(0x70, 0xfe);
	*lapic(LAPIC_LVT0) = LVT_EXTINT;
	forget();
	while (came < 3)
		wait_for_interrupt();
	say("%s: pit_pic vector=%x isr=%x", guest_name, order & 0xff,
	    (uint64_t)*lapic(LAPIC_ISR + 0x30));
	priv_verdict((order & 0xff) == 0x70, "vector");
	out8(0x21, 0xff);
	*lapic(LAPIC_LVT0) = LVT_MASKED;
	open_window();
	forget();
	for (unsigned i = 0; i < 100000; i++)
		__asm__ volatile("sti; nop; cli");
	priv_expect("pit_pic_masked", came, 0);
	out8(0x20, 0x0a);
	priv_expect("pic_mask_reads", in8(0x21), 0xff);
	out8(0x43, 0x30); /* no more */
	out8(0x40, 0);
	out8(0x40, 0);
}

/* ---- a second vCPU
 * -------------------------------------------------------------------------------------- */

static volatile uint32_t other_came, other_order;

static void on_other(struct frame *f)
{
	if (lapic_id() == 0) {
		note(f);
		return;
	}
	other_order = other_order << 8 | (uint32_t)f->vector;
	__atomic_fetch_add(&other_came, 1, __ATOMIC_SEQ_CST);
}

void guest_ap_main(unsigned cpu)
{
	lapic_enable();
	other_came = 0;
	guest_cpus = 3; /* it listens */
	for (;;)
		wait_for_interrupt();
}

static bool wait_other(uint32_t n)
{
	for (unsigned i = 0; i < PATIENCE && other_came < n; i++)
		pause();
	return other_came == n;
}

static void check_other(void)
{
	if (!cpus_start(2)) {
		for (unsigned i = 0; i < PATIENCE && guest_cpus != 3; i++)
			pause();
	}
	for (unsigned i = 0; i < PATIENCE && guest_cpus != 3; i++)
		pause();
	priv_expect("second_cpu", guest_cpus, 3);
	for (unsigned v = 0x81; v < 0x88; v++)
		handler_set(v, on_other);
	ipi(1, 0x81);
	wait_other(1);
	priv_expect("ipi_other", other_order, 0x81);
	*lapic(LAPIC_ICR) = ICR_OTHERS | ICR_ASSERT | 0x82;
	wait_other(2);
	priv_expect("ipi_all_but_self", other_order, 0x8182);
	forget();
	*lapic(LAPIC_ICR) = ICR_ALL | ICR_ASSERT | 0x83;
	wait_other(3);
	wait_came(1);
	priv_expect("ipi_all", other_order, 0x818283);
	priv_expect("ipi_all_self", order, 0x83);
	*lapic(0xd0) = 0x01000000; /* logical, flat: this one is bit 0; the other has none */
	*lapic(LAPIC_ICR_HIGH) = 0x01000000;
	*lapic(LAPIC_ICR) = ICR_ASSERT | 0x800 | 0x84;
	wait_came(2);
	priv_expect("ipi_logical", order, 0x8384);
	priv_expect("ipi_logical_other", other_came, 3);
	ipi(9, 0x85); /* nobody */
	priv_expect("ipi_nobody", other_came, 3);
}

/* ---- x2APIC
 * ------------------------------------------------------------------------------------------------
 */

static void note_x2(struct frame *f)
{
	note(f);
	msr_write(X2_EOI, 0);
}

static volatile uint64_t refused; /* #GP that an MSR access gave */

static bool on_gp(struct frame *f)
{
	if (f->vector != 13)
		return false;
	refused++;
	f->rip += 2; /* both RDMSR and WRMSR */
	return true;
}

static void x2_refuses(const char *name, uint32_t msr, uint64_t value, bool write)
{
	refused = 0;
	priv_filter = on_gp;
	if (write)
		msr_write(msr, value);
	else
		msr_read(msr);
	priv_filter = NULL;
	priv_expect(name, refused, 1);
}

static void check_x2apic(void)
{
	if (!(cpuid_1_ecx() & CPUID_X2APIC)) {
		report("x2apic is not offered");
		return;
	}
	uint64_t base = msr_read(MSR_APIC_BASE);
	say("%s: apic_base %x", guest_name, base);
	priv_verdict(base == (LAPIC_BASE | BASE_ON | 0x100), "value");
	x2_refuses("x2_msr_when_off", X2_MSR(LAPIC_ID), 0, false);
	x2_refuses("x2_without_on", MSR_APIC_BASE, (base & ~(uint64_t)BASE_ON) | BASE_X2, true);
	x2_refuses("apic_base_reserved", MSR_APIC_BASE, base | 1, true);
	msr_write(MSR_APIC_BASE, base | BASE_X2);
	priv_expect("x2_id", msr_read(X2_MSR(LAPIC_ID)), 0);
	priv_expect("x2_ldr", msr_read(X2_MSR(0xd0)), 1);
	handler_set(0x41, note_x2);
	handler_set(0x61, note_x2);
	forget();
	msr_write(X2_SELF_IPI, 0x41);
	priv_expect("x2_irr", msr_read(X2_MSR(LAPIC_IRR + 0x20)), 2);
	open_window();
	priv_expect("x2_self_ipi", order, 0x41);
	msr_write(X2_MSR(LAPIC_ICR), ICR_SELF | ICR_ASSERT | 0x61);
	wait_came(2);
	priv_expect("x2_icr", order, 0x4161);
	msr_write(X2_MSR(LAPIC_ICR), (uint64_t)1 << 32 | ICR_ASSERT | 0x86);
	wait_other(4);
	priv_expect("x2_icr_other", other_order & 0xff, 0x86);
	cr8_write(6);
	priv_expect("x2_tpr", msr_read(X2_MSR(LAPIC_TPR)), 0x60);
	cr8_write(0);
	x2_refuses("x2_eoi_not_zero", X2_EOI, 1, true);
	x2_refuses("x2_eoi_read", X2_EOI, 0, false);
	x2_refuses("x2_id_write", X2_MSR(LAPIC_ID), 0, true);
	x2_refuses("x2_unknown", 0x8ff, 0, false);
	x2_refuses("x2_to_xapic", MSR_APIC_BASE, base, true);
	msr_write(MSR_APIC_BASE, base & ~(uint64_t)BASE_ON);
	msr_write(MSR_APIC_BASE, base);
	priv_expect("x2_and_back", msr_read(MSR_APIC_BASE), base);
}

void guest_main(void)
{
	priv_begin();
	lapic_enable();
	for (unsigned v = 0x41; v < 0x100; v++)
		handler_set(v, note);
	check_masking();
	check_shadows();
	check_iret();
	check_self_ipi();
	check_priorities();
	check_task_priority();
	check_nmi();
	check_timer();
	check_deadline();
	check_pit();
	check_other();
	check_x2apic();
	priv_end();
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/guests/priv.h"

#include <stdarg.h>

#define PAGE_USER  4ul
#define PAGE_FRAME 0xffffffffff000ul
#define DR6_SHOWN  0xe00fu /* B0-3, BD, BS, BT: the rest is fixed, or newer than some CPUs */
#define DR6_CLEAR  0xffff0ff0ul
#define GATE_TYPE  0xc

struct trap trap;
bool (*volatile priv_filter)(struct frame *f);
struct priv_tss priv_tss __attribute__((aligned(4096)));
uint8_t priv_scratch[8192] __attribute__((aligned(4096)));
uint8_t priv_stack[PRIV_STACK_SIZE] __attribute__((aligned(4096)));
uint8_t priv_trap_stack[PRIV_STACK_SIZE] __attribute__((aligned(4096)));
uint8_t priv_ist_stack[2][PRIV_STACK_SIZE] __attribute__((aligned(4096)));

static uint8_t gdt_kept[SEL_GDT_END];
static struct idt_gate idt_kept[256];
static uint64_t cr0_kept, cr4_kept, efer_kept;
static bool probing;
static unsigned lines, bad;

extern const char priv_gdt_pointer[], priv_ldt[], probe_leave[];
extern const char idt_pointer[], priv_gate_target[] __attribute__((weak));
extern const char priv_gate_conforming[] __attribute__((weak));
extern const struct priv_case priv_cases[] __attribute__((weak));
extern const struct priv_case priv_cases_end[] __attribute__((weak));
void probe_enter(struct frame *f);

/* ---- output ------------------------------------------------------------------------ */

void priv_expect(const char *name, uint64_t seen, uint64_t wanted)
{
	say("%s: %s %x", guest_name, name, seen);
	priv_verdict(seen == wanted, "value");
}

void priv_verdict(bool good, const char *what)
{
	lines++;
	bad += !good;
	say(good ? "\n" : " BAD %s\n", what);
}

void priv_end(void)
{
	report("%u checks", (uint64_t)lines);
	if (parameter("linger", 0))
		for (;;)
			__asm__ volatile("cli; hlt");
	if (bad)
		fail("%u checks are bad", (uint64_t)bad);
}

/* ---- traps -------------------------------------------------------------------------- */

static void segments_flat(void)
{
	__asm__ volatile("movl %0, %%ds; movl %0, %%es; movl %1, %%fs; movl %1, %%gs"
			 :
			 : "r"(SEL_DATA), "r"(0));
}

static void trap_keep(const struct frame *f)
{
	trap.frame = *f;
	trap.cr2 = cr2_read();
	trap.stack = (uint64_t)(&f->ss + 1);
	__asm__ volatile("pushfq; popq %0" : "=r"(trap.flags_inside));
	__asm__ volatile("movq %%dr6, %0" : "=r"(trap.dr6));
	__asm__ volatile("movw %%ds, %0" : "=m"(trap.ds));
	__asm__ volatile("movw %%es, %0" : "=m"(trap.es));
	__asm__ volatile("movw %%ss, %0" : "=m"(trap.ss));
}

static void on_trap(struct frame *f)
{
	if (priv_filter && priv_filter(f))
		return;
	if (!probing)
		fail("trap %u error %x at %x cr2 %x", f->vector, f->error, f->rip, cr2_read());
	trap_keep(f);
	probing = false;
	segments_flat();
	f->rip = (uint64_t)probe_leave;
	f->cs = SEL_CODE64;
	f->ss = SEL_DATA;
	f->rflags = 2;
	f->rsp = (uint64_t)priv_stack + PRIV_STACK_SIZE;
}

void probe(struct frame *f)
{
	probing = true;
	probe_enter(f);
}

/* ---- descriptors ---------------------------------------------------------------------- */

static void system_descriptor(unsigned selector, uint64_t base, uint64_t limit, unsigned type)
{
	uint64_t *d = &priv_gdt[selector / 8];
	d[0] = (limit & 0xffff) | (base & 0xffffff) << 16 | (uint64_t)type << 40 |
	       (limit >> 16 & 0xf) << 48 | (base >> 24 & 0xff) << 56;
	d[1] = base >> 32;
}

static void call_gate(unsigned at, uint64_t target, unsigned selector, unsigned flags)
{
	uint64_t *d = &priv_gdt[at / 8];
	d[0] = (target & 0xffff) | (uint64_t)selector << 16 | (uint64_t)(flags | GATE_TYPE) << 40 |
	       (target >> 16 & 0xffff) << 48;
	d[1] = target >> 32;
}

static void base_set(unsigned selector, uint64_t base)
{
	priv_gdt[selector / 8] |= (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
}

static void gdt_fill(void)
{
	uint64_t target = (uint64_t)priv_gate_target;
	system_descriptor(SEL_TSS, (uint64_t)&priv_tss, sizeof(priv_tss) - 1, 0x89);
	system_descriptor(SEL_TSS2, (uint64_t)&priv_tss, sizeof(priv_tss) - 1, 0x89);
	system_descriptor(SEL_TSS_NP, (uint64_t)&priv_tss, sizeof(priv_tss) - 1, 0x09);
	system_descriptor(SEL_LDT, (uint64_t)priv_ldt, 3 * 8 - 1, 0x82);
	call_gate(SEL_GATE, target, SEL_CODE64, 0xe0);
	call_gate(SEL_GATE0, target, SEL_CODE64, 0x80);
	call_gate(SEL_GATE_NP, target, SEL_CODE64, 0x60);
	call_gate(SEL_GATE_DATA, target, SEL_DATA, 0xe0);
	call_gate(SEL_GATE_UP, (uint64_t)priv_gate_conforming, SEL_CONFORMING, 0xe0);
	base_set(SEL_SMALL, (uint64_t)priv_scratch);
	base_set(SEL_SMALL_STACK, (uint64_t)priv_stack);
}

static void tss_fill(void)
{
	memset(&priv_tss, 0, offsetof(struct priv_tss, bits));
	priv_tss.rsp[0] = (uint64_t)priv_trap_stack + PRIV_STACK_SIZE;
	priv_tss.ist[0] = (uint64_t)priv_ist_stack[0] + PRIV_STACK_SIZE;
	priv_tss.ist[1] = (uint64_t)priv_ist_stack[1] + PRIV_STACK_SIZE;
	priv_tss.iomap = offsetof(struct priv_tss, bits);
	memset(priv_tss.bits, 0xff, sizeof(priv_tss.bits));
}

static void tables_load(void)
{
	uint32_t zero = 0;
	priv_gdt[SEL_TSS / 8] &= ~(2ul << 40); /* not busy */
	__asm__ volatile("lgdt %0" : : "m"(*priv_gdt_pointer));
	__asm__ volatile("lidt %0" : : "m"(*idt_pointer));
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
	__asm__ volatile("lldt %w0" : : "r"(zero));
}

static void user_everywhere(void)
{
	uint64_t *pml4 = (uint64_t *)cr3_read();
	uint64_t *pdpt = (uint64_t *)(pml4[0] & PAGE_FRAME);
	pml4[0] |= PAGE_USER;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t *pd = (uint64_t *)(pdpt[i] & PAGE_FRAME);
		pdpt[i] |= PAGE_USER;
		for (unsigned k = 0; k < 512; k++)
			pd[k] |= PAGE_USER;
	}
	cr3_write(cr3_read());
}

void priv_begin(void)
{
	user_everywhere();
	gdt_fill();
	tss_fill();
	for (unsigned v = 0; v < 32; v++)
		handler_set(v, on_trap);
	guest_idt[PROBE_END].flags |= 0x60;
	guest_idt[3].flags |= 0x60;
	guest_idt[4].flags |= 0x60;
	cr0_kept = cr0_read() | CR0_NE;
	cr4_kept = cr4_read();
	efer_kept = msr_read(MSR_EFER) | EFER_NXE | EFER_SCE;
	tables_load();
	memcpy(gdt_kept, priv_gdt, sizeof(gdt_kept));
	memcpy(idt_kept, guest_idt, sizeof(idt_kept));
	priv_restore();
}

static void debug_clear(void)
{
	__asm__ volatile("movq %0, %%dr7; movq %1, %%dr6" : : "r"(0x400ul), "r"(DR6_CLEAR));
}

void priv_restore(void)
{
	priv_filter = NULL;
	debug_clear();
	cr0_write(cr0_kept);
	if (cr4_read() != cr4_kept)
		cr4_write(cr4_kept);
	if (msr_read(MSR_EFER) != efer_kept)
		msr_write(MSR_EFER, efer_kept);
	__asm__ volatile("fninit");
	memcpy(priv_gdt, gdt_kept, sizeof(gdt_kept));
	memcpy(guest_idt, idt_kept, sizeof(idt_kept));
	tss_fill();
	tables_load();
	segments_flat();
}

/* ---- the table of checks ------------------------------------------------------------------ */

static const struct {
	uint16_t cs, ss;
} modes[] = {
	[MODE_K] = {SEL_CODE64, SEL_DATA},   [MODE_U] = {SEL_USER64, SEL_USER_DATA},
	[MODE_K32] = {SEL_CODE32, SEL_DATA}, [MODE_U32] = {SEL_USER32, SEL_USER_DATA},
	[MODE_K16] = {SEL_CODE16, SEL_DATA}, [MODE_U16] = {SEL_USER16, SEL_USER_DATA},
};

struct frame priv_frame(unsigned mode, uint64_t code)
{
	return (struct frame){.rax = 0xa0a0,
			      .rbx = (uint64_t)priv_scratch,
			      .rcx = 0xc0,
			      .rdx = 0xd0d0,
			      .rsi = (uint64_t)priv_scratch + 2048,
			      .rdi = (uint64_t)priv_scratch + 1024,
			      .rbp = (uint64_t)priv_stack + 1024,
			      .rip = code,
			      .cs = modes[mode].cs,
			      .ss = modes[mode].ss,
			      .rflags = 2,
			      .rsp = (uint64_t)priv_stack + PRIV_STACK_SIZE / 2};
}

static bool is_fault(uint64_t vector)
{
	return 0xb7ce1 >> vector & 1; /* 0 5 6 7 10-14 16 17 19 */
}

static const char *case_compare(const struct priv_case *c, const struct frame *f)
{
	uint32_t flags = c->flags_out;
	if (flags == UNCHECKED)
		flags = c->flags | (is_fault(c->vector) ? FLAG_RF : 0);
	if (trap.frame.vector != c->vector)
		return "vector";
	if (trap.frame.error != c->error)
		return "error";
	if (trap.frame.rip != c->at)
		return "rip";
	if (trap.frame.cs != (c->cs == UNCHECKED ? f->cs : c->cs))
		return "cs";
	if (trap.frame.ss != (c->ss == UNCHECKED ? f->ss : c->ss))
		return "ss";
	if (c->sp != UNCHECKED && trap.frame.rsp - f->rsp != (uint64_t)c->sp)
		return "sp";
	if ((trap.frame.rflags ^ flags) & FLAGS_SHOWN & ~(uint64_t)FLAG_RF)
		return "flags";
	if (c->ax != UNCHECKED && trap.frame.rax != c->ax)
		return "ax";
	if (c->cr2 != UNCHECKED && trap.cr2 != c->cr2)
		return "cr2";
	if (c->dr6 != UNCHECKED && (trap.dr6 & DR6_SHOWN) != c->dr6)
		return "dr6";
	return (trap.frame.rflags ^ flags) & FLAG_RF ? "rf" : NULL;
}

static void signed_say(const char *what, uint64_t v)
{
	bool minus = v >> 63;
	say(minus ? " %s=-%x" : " %s=+%x", what, minus ? -v : v);
}

static void case_run(const struct priv_case *c)
{
	struct frame f = priv_frame(c->mode, c->code), before;
	uint64_t base = 0;
	f.rflags = c->flags;
	if (c->mode >= MODE_K16) { /* IP is small */
		base = c->code & ~0xful;
		base_set(SEL_CODE16, base);
		base_set(SEL_USER16, base);
		f.rip -= base;
	}
	if (c->setup)
		c->setup();
	before = f;
	probe(&f);
	if (trap.frame.cs == SEL_CODE16 || trap.frame.cs == SEL_USER16)
		trap.frame.rip += base;
	const struct frame *t = &trap.frame;
	const char *what = case_compare(c, &before);
	say("%s: %s v=%x e=%x", guest_name, c->name, t->vector, t->error);
	signed_say("at", t->rip - c->code);
	signed_say("sp", t->rsp - before.rsp);
	say(" cs=%x ss=%x fl=%x ax=%x rf=%x", t->cs, t->ss,
	    t->rflags & FLAGS_SHOWN & ~(uint64_t)FLAG_RF, t->rax, t->rflags >> 16 & 1);
	if (t->vector == 14)
		say(" cr2=%x", trap.cr2);
	if (t->vector == 1)
		say(" dr6=%x", trap.dr6 & DR6_SHOWN);
	priv_verdict(!what, what);
	priv_restore();
}

void priv_run_cases(void)
{
	for (const struct priv_case *c = priv_cases; c < priv_cases_end; c++)
		case_run(c);
}

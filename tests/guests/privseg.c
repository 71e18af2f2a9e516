// SPDX-License-Identifier: Apache-2.0
/* Segments, far transfers, call gates, I/O rights; privseg_code.S has the table. */
#include "tests/guests/priv.h"

const char guest_name[] = "privseg";

extern const char gate_call[], gate_call_return[];

void load_ldt(void), rsp0_bad(void), io_80(void), io_80_87(void), io_short(void), io_none(void);

void load_ldt(void)
{
	__asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
}

void rsp0_bad(void)
{
	priv_tss.rsp[0] = 1ul << 63;
	guest_idt[12].stack = 1;
	guest_idt[13].stack = 1;
}

void io_80(void)
{
	priv_tss.bits[0x80 / 8] = 0xfe;
}

void io_80_87(void)
{
	priv_tss.bits[0x80 / 8] = 0;
}

/* The map ends with the byte after the one of port 0x87. */
void io_short(void)
{
	uint64_t limit = offsetof(struct priv_tss, bits) + 0x90 / 8;
	memset(priv_tss.bits, 0, sizeof(priv_tss.bits) - 1);
	priv_gdt[SEL_TSS / 8] = (priv_gdt[SEL_TSS / 8] & ~0xf00000000fffful) | limit;
	priv_gdt[SEL_TSS / 8] &= ~(2ul << 40);
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void io_none(void)
{
	priv_tss.iomap = sizeof(priv_tss);
	memset(priv_tss.bits, 0, sizeof(priv_tss.bits) - 1);
}

/* A call through a gate: the stack it runs on and what is there. */
static void gate_run(const char *name, unsigned mode, unsigned selector, uint64_t cs, bool inner)
{
	struct frame f = priv_frame(mode, (uint64_t)gate_call), before;
	f.rsi = selector;
	before = f;
	probe(&f);
	uint64_t top = inner ? (uint64_t)priv_trap_stack + PRIV_STACK_SIZE : before.rsp;
	const struct frame *t = &trap.frame;
	say("%s: %s v=%x cs=%x ss=%x below=%x back=%x from_cs=%x", guest_name, name, t->vector,
	    t->cs, t->ss, top - t->rsp, t->rax - (uint64_t)gate_call, t->rcx);
	if (inner)
		say(" sp=%x from_ss=%x", t->rdx - before.rsp, t->rsi);
	priv_verdict(t->vector == PROBE_END && t->cs == cs && t->ss == (inner ? 0 : before.ss) &&
			     top - t->rsp == (inner ? 32 : 16) &&
			     t->rax == (uint64_t)gate_call_return && t->rcx == before.cs &&
			     (!inner || (t->rdx == before.rsp && t->rsi == before.ss)),
		     "gate");
	priv_restore();
}

void guest_main(void)
{
	priv_begin();
	priv_run_cases();
	gate_run("gate_user", MODE_U, SEL_GATE, SEL_CODE64, true);
	gate_run("gate_kernel", MODE_K, SEL_GATE, SEL_CODE64, false);
	gate_run("gate_kernel_dpl0", MODE_K, SEL_GATE0, SEL_CODE64, false);
	priv_end();
}

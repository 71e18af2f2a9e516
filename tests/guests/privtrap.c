// SPDX-License-Identifier: Apache-2.0
/* Exceptions, gates, stacks, double faults; privtrap_code.S has the table. */
#include "tests/guests/priv.h"

const char guest_name[] = "privtrap";

extern const char idt_pointer[], dr_execute_user[], dr_execute_kernel[], dr_execute_rf[];

/* ---- set-ups of the table ------------------------------------------------------------ */

static void gate_set(unsigned v, unsigned selector, unsigned flags)
{
	guest_idt[v].selector = (uint16_t)selector;
	guest_idt[v].flags = (uint8_t)flags;
}

void gate_absent(void), gate_null(void), gate_data(void), gate_code_absent(void);
void gate_code32(void), gate_beyond(void), gate_type(void), gate_user_code(void);
void idt_short(void), set_ts(void), set_ts_without_mp(void), set_em(void), clear_osfxsr(void);
void set_ne(void), clear_osxmmexcpt(void), set_am(void), set_de(void), use_ist(void);
void dr_execute(void), dr_execute_1(void), dr_execute_2(void), dr_write(void), dr_read(void);
void dr_stack(void), dr_disabled(void), dr_detect(void), flags_on_stack(void);

void gate_absent(void)
{
	gate_set(0x40, SEL_CODE64, 0x6e);
}
void gate_null(void)
{
	gate_set(0x40, 0, 0xee);
}
void gate_data(void)
{
	gate_set(0x40, SEL_DATA, 0xee);
}
void gate_code_absent(void)
{
	gate_set(0x40, SEL_CODE_NP, 0xee);
}
void gate_code32(void)
{
	gate_set(0x40, SEL_CODE32, 0xee);
}
void gate_beyond(void)
{
	gate_set(0x40, 0x7f8, 0xee);
}
void gate_type(void)
{
	gate_set(0x40, SEL_CODE64, 0xe5);
}
void gate_user_code(void)
{
	gate_set(0x40, SEL_USER64, 0xee);
}

void idt_short(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) p = {0x80 * 16 + 14, (uint64_t)guest_idt};
	__asm__ volatile("lidt %0" : : "m"(p));
}

void set_ts(void)
{
	cr0_write(cr0_read() | CR0_TS | CR0_MP);
}
void set_ts_without_mp(void)
{
	cr0_write((cr0_read() | CR0_TS) & ~CR0_MP);
}
void set_em(void)
{
	cr0_write(cr0_read() | CR0_EM);
}
void set_ne(void)
{
	cr0_write(cr0_read() | CR0_NE);
}
void set_am(void)
{
	cr0_write(cr0_read() | CR0_AM);
}
void clear_osfxsr(void)
{
	cr4_write(cr4_read() & ~0x200ul);
}
void clear_osxmmexcpt(void)
{
	cr4_write(cr4_read() & ~0x400ul);
}
void set_de(void)
{
	cr4_write(cr4_read() | 8);
}
/* RSP0 or RSP is bad: whatever comes of it is told on a good stack. */
void use_ist(void)
{
	guest_idt[8].stack = 2;
	guest_idt[12].stack = 1;
	guest_idt[13].stack = 1;
	guest_idt[14].stack = 1;
}

void flags_on_stack(void)
{
	*(uint64_t *)(priv_stack + PRIV_STACK_SIZE / 2) = 2;
}

#define DR_SET(n, at) __asm__ volatile("movq %0, %%dr" #n : : "r"(at))
#define DR7_WRITE(n)  (1ul << (16 + 4 * (n)))
#define DR7_ACCESS(n) (3ul << (16 + 4 * (n)))
#define DR7_LEN4(n)   (3ul << (18 + 4 * (n)))
#define DR7_LEN8(n)   (2ul << (18 + 4 * (n)))
#define DR7_ON(n)     (2ul << (2 * (n)))

static void dr7_set(uint64_t v)
{
	DR_SET(7, v | 0x400);
}

void dr_execute(void)
{
	DR_SET(0, dr_execute_user);
	dr7_set(DR7_ON(0));
}
void dr_execute_1(void)
{
	DR_SET(1, dr_execute_kernel);
	dr7_set(DR7_ON(1));
}
void dr_execute_2(void)
{
	DR_SET(2, dr_execute_rf);
	dr7_set(DR7_ON(2));
}
void dr_write(void)
{
	DR_SET(0, priv_scratch);
	dr7_set(DR7_ON(0) | DR7_WRITE(0) | DR7_LEN4(0));
}
void dr_read(void)
{
	DR_SET(3, priv_scratch + 8);
	dr7_set(DR7_ON(3) | DR7_ACCESS(3) | DR7_LEN8(3));
}
void dr_stack(void)
{
	DR_SET(2, priv_stack + PRIV_STACK_SIZE / 2 - 8);
	dr7_set(DR7_ON(2) | DR7_WRITE(2) | DR7_LEN8(2));
}
void dr_disabled(void)
{
	DR_SET(0, priv_scratch);
	dr7_set(DR7_WRITE(0) | DR7_LEN4(0));
}
void dr_detect(void)
{
	dr7_set(1 << 13);
}

/* ---- gates and stacks -------------------------------------------------------------------- */

extern const char probe_end_here[], probe_ud_here[];

/* Where the frame of a trap was pushed: the name of a stack and the distance from its top. */
static void trap_place(const char *name, uint64_t top)
{
	say("%s: %s v=%x e=%x if=%x tf=%x nt=%x below=%x", guest_name, name, trap.frame.vector,
	    trap.frame.error, trap.flags_inside >> 9 & 1, trap.flags_inside >> 8 & 1,
	    trap.flags_inside >> 14 & 1, top - trap.stack);
}

static void run_from(unsigned mode, const char *code, uint64_t flags, uint64_t rsp)
{
	struct frame f = priv_frame(mode, (uint64_t)code);
	f.rflags = flags;
	if (rsp)
		f.rsp = rsp;
	probe(&f);
}

static void check_gates(void)
{
	uint64_t rsp0 = (uint64_t)priv_trap_stack + PRIV_STACK_SIZE;
	run_from(MODE_U, probe_end_here, FLAG_IF | 2, 0);
	trap_place("interrupt_gate", rsp0);
	priv_verdict(!(trap.flags_inside & FLAG_IF) && trap.stack == rsp0 &&
			     trap.frame.rflags & FLAG_IF,
		     "if");
	guest_idt[PROBE_END].flags |= 1;
	run_from(MODE_U, probe_end_here, FLAG_IF | 2, 0);
	trap_place("trap_gate", rsp0);
	priv_verdict(trap.flags_inside & FLAG_IF && trap.stack == rsp0, "if");
	run_from(MODE_U, probe_end_here, FLAG_TF | FLAG_NT | 2, 0);
	trap_place("trap_gate_clears", rsp0);
	priv_verdict(!(trap.flags_inside & (FLAG_TF | FLAG_NT)) && trap.frame.rflags & FLAG_NT,
		     "flags");
	priv_restore();
}

/* On the stack that was, the CPU aligns down to 16; on a new one too. */
static void check_alignment(void)
{
	uint64_t top = (uint64_t)priv_stack + PRIV_STACK_SIZE / 2;
	for (unsigned i = 0; i < 16; i += 3) {
		run_from(MODE_K, probe_end_here, 2, top - i);
		trap_place("align_same", top);
		priv_verdict(trap.stack == ((top - i) & ~15ul) && trap.frame.rsp == top - i,
			     "stack");
	}
	run_from(MODE_K, probe_ud_here, 2, top - 9);
	trap_place("align_fault", top);
	priv_verdict(trap.stack == ((top - 9) & ~15ul), "stack");
	priv_tss.rsp[0] -= 8;
	top = (uint64_t)priv_trap_stack + PRIV_STACK_SIZE;
	run_from(MODE_U, probe_end_here, 2, 0);
	trap_place("align_rsp0", top);
	priv_verdict(trap.stack == top - 16, "stack");
	priv_restore();
}

static void check_ist(void)
{
	uint64_t top1 = (uint64_t)priv_ist_stack[0] + PRIV_STACK_SIZE;
	uint64_t top2 = (uint64_t)priv_ist_stack[1] + PRIV_STACK_SIZE;
	guest_idt[PROBE_END].stack = 1;
	guest_idt[6].stack = 2;
	run_from(MODE_K, probe_end_here, 2, 0);
	trap_place("ist1_kernel", top1);
	priv_verdict(trap.stack == top1, "stack");
	run_from(MODE_U, probe_end_here, 2, 0);
	trap_place("ist1_user", top1);
	priv_verdict(trap.stack == top1, "stack");
	run_from(MODE_U, probe_ud_here, 2, 0);
	trap_place("ist2_fault", top2);
	priv_verdict(trap.stack == top2, "stack");
	priv_tss.ist[0] -= 5;
	run_from(MODE_K, probe_end_here, 2, 0);
	trap_place("ist1_aligned", top1);
	priv_verdict(trap.stack == top1 - 16, "stack");
	priv_restore();
}

/* The SS that a privilege change leaves is null with the new CPL as RPL. IRETQ to CPL 3 had
 * emptied DS, as CPL 3 may not have it. */
static void check_null_ss(void)
{
	run_from(MODE_U, probe_end_here, 2, 0);
	say("%s: handler_ss ss=%x ds=%x", guest_name, (uint64_t)trap.ss, (uint64_t)trap.ds);
	priv_verdict(trap.ss == 0 && trap.ds == 0, "segment");
	run_from(MODE_K, probe_end_here, 2, 0);
	say("%s: handler_ss_same ss=%x", guest_name, (uint64_t)trap.ss);
	priv_verdict(trap.ss == SEL_DATA, "ss");
}

/* ---- faults while a fault is delivered ------------------------------------------------------ */

/* EXT, bit 0 of the error code: Intel sets it after an exception, AMD for what is external to
 * the processor. It is left out. */
static void second_fault(const char *name, const char *code, unsigned mode, unsigned vector,
			 uint64_t error)
{
	run_from(mode, code, 2, 0);
	say("%s: %s v=%x e=%x", guest_name, name, trap.frame.vector, trap.frame.error & ~1ul);
	/* What #DF saves as RIP is undefined. */
	if (trap.frame.vector != 8)
		say(" at=%x", trap.frame.rip - (uint64_t)code);
	priv_verdict(trap.frame.vector == vector && (trap.frame.error & ~1ul) == error,
		     "vector or error");
	priv_restore();
}

extern const char probe_gp_here[], probe_pf_here[], probe_de_here[];

static void check_second_faults(void)
{
	gate_set(6, SEL_CODE64, 0x0e); /* #UD is benign: what follows is served alone */
	second_fault("ud_then_np", probe_ud_here, MODE_K, 11, 6 * 8 + 2);
	gate_set(6, SEL_DATA, 0x8e);
	second_fault("ud_then_gp", probe_ud_here, MODE_K, 13, SEL_DATA);
	gate_set(6, 0, 0x8e);
	second_fault("ud_then_gp_null", probe_ud_here, MODE_U, 13, 0);
	gate_set(13, SEL_CODE64, 0x0e); /* contributory after contributory */
	second_fault("gp_then_np", probe_gp_here, MODE_U, 8, 0);
	gate_set(0, SEL_CODE64, 0x0e);
	second_fault("de_then_np", probe_de_here, MODE_K, 8, 0);
	gate_set(14, SEL_CODE64, 0x0e);
	second_fault("pf_then_np", probe_pf_here, MODE_K, 8, 0);
	gate_set(6, SEL_CODE64, 0x0e);
	gate_set(11, SEL_CODE64, 0x0e); /* #NP's own gate is absent: #NP twice */
	second_fault("ud_then_np_then_np", probe_ud_here, MODE_K, 8, 0);
	priv_tss.rsp[0] = 1ul << 63; /* no stack to push to */
	use_ist();
	second_fault("ud_then_ss", probe_ud_here, MODE_U, 12, 0);
	priv_tss.rsp[0] = 1ul << 40; /* not mapped */
	use_ist();
	second_fault("ud_then_pf", probe_ud_here, MODE_U, 14, 2);
	priv_tss.rsp[0] = 1ul << 40;
	use_ist();
	guest_idt[14].stack = 0;
	second_fault("pf_then_pf", probe_pf_here, MODE_U, 8, 0);
	priv_tss.rsp[0] = 1ul << 40;
	use_ist();
	guest_idt[13].stack = 0;
	second_fault("gp_then_pf", probe_gp_here, MODE_U, 14, 2);
}

void guest_main(void)
{
	priv_begin();
	priv_run_cases();
	check_gates();
	check_alignment();
	check_ist();
	check_null_ss();
	check_second_faults();
	priv_end();
}

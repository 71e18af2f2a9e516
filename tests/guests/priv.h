// SPDX-License-Identifier: Apache-2.0
/*
 * What the priv* guests share: they check privileged behaviour against the manuals (AMD64
 * APM volume 2, Intel SDM volume 3), one line a check with the values that were seen, so that
 * two engines can be compared by diff:
 *
 *   "<guest>: <check> v=<vector> e=<error> at=+<rip> ..."   and, if wrong, " BAD <what>"
 *
 * All values are hexadecimal. With linger=1 the guest stays on after "<guest>: <n> checks", so
 * that nothing of what it has printed is lost; else the last line is "<guest>: ok", or "<guest>:
 * FAIL" with the number of bad checks. Where AMD and Intel differ, or the manuals leave a value
 * open, it is left out of the line; the comment beside such a check says so.
 *
 * A probe runs a piece of code at some privilege and in some mode, with all registers given,
 * until it traps; `int $PROBE_END` is how it ends without a fault.
 */
#ifndef POLLUX_TESTS_PRIV_H
#define POLLUX_TESTS_PRIV_H

#define PROBE_END 31 /* a vector that nothing else raises, without an error code */

/* The GDT. The order of the user's three is what SYSRET wants; CODE64 and DATA are start.S's. */
#define SEL_CODE64       0x08
#define SEL_DATA         0x10
#define SEL_CODE32       0x18
#define SEL_CODE16       0x20
#define SEL_DATA16       0x28
#define SEL_USER32       0x33
#define SEL_USER_DATA    0x3b
#define SEL_USER64       0x43
#define SEL_USER16       0x4b
#define SEL_TSS          0x50 /* 16 bytes */
#define SEL_TSS2         0x60 /* 16 bytes, available */
#define SEL_LDT          0x70 /* 16 bytes */
#define SEL_CONFORMING   0x80 /* 64-bit code */
#define SEL_DATA_NP      0x88
#define SEL_CODE_NP      0x90
#define SEL_READONLY     0x98
#define SEL_EXECUTE      0xa0 /* 32-bit code that cannot be read */
#define SEL_DOWN         0xa8 /* expand-down data above 0xfff */
#define SEL_SMALL        0xb3 /* 256 bytes of user data at priv_scratch */
#define SEL_CONFORMING32 0xb8
#define SEL_GATE         0xc0  /* call gate for all, 16 bytes */
#define SEL_GATE0        0xd0  /* call gate for CPL 0, 16 bytes */
#define SEL_L_AND_D      0xe0  /* code with L and D: reserved */
#define SEL_SYSTEM0      0xe8  /* a system descriptor of type 0 */
#define SEL_LIMIT        0xf0  /* 4 GiB limit in bytes of pages, accessed bit clear */
#define SEL_GATE_NP      0x100 /* call gate, not present, 16 bytes */
#define SEL_GATE_DATA    0x110 /* call gate to a data segment, 16 bytes */
#define SEL_TSS_NP       0x120 /* 16 bytes */
#define SEL_SMALL_STACK  0x133 /* 32-bit stack of 4 KiB at priv_stack for CPL 3 */
#define SEL_USER_CONF    0x138 /* conforming 64-bit code of DPL 3 */
#define SEL_GATE_UP      0x140 /* call gate of DPL 3 to conforming code, 16 bytes */
#define SEL_USER_NP      0x153 /* data of DPL 3, not present */
#define SEL_GDT_END      0x158
/* The LDT */
#define SEL_LDT_DATA    0x0f
#define SEL_LDT_CODE    0x17 /* 64-bit, DPL 3 */

#define PRIV_STACK_SIZE 4096

/* Modes of a probe */
#define MODE_K        0 /* CPL 0, 64-bit */
#define MODE_U        1 /* CPL 3, 64-bit */
#define MODE_K32      2
#define MODE_U32      3
#define MODE_K16      4
#define MODE_U16      5

#define FLAGS_SHOWN   0x3f7700 /* not the arithmetic ones */
#define FLAG_TF       0x100
#define FLAG_IF       0x200
#define FLAG_DF       0x400
#define FLAG_IOPL     0x3000
#define FLAG_NT       0x4000
#define FLAG_RF       0x10000
#define FLAG_AC       0x40000

#define UNCHECKED     0x5a5a5a5a

#define MSR_EFER      0xc0000080
#define MSR_STAR      0xc0000081
#define MSR_LSTAR     0xc0000082
#define MSR_CSTAR     0xc0000083
#define MSR_SFMASK    0xc0000084
#define MSR_FS        0xc0000100
#define MSR_GS        0xc0000101
#define MSR_KERNEL_GS 0xc0000102

#ifndef __ASSEMBLER__

#include "tests/guests/guest.h"

struct priv_case {
	const char *name;
	uint64_t code, at;
	void (*setup)(void);
	uint64_t error, ax;
	int64_t sp;
	uint64_t cr2;
	uint32_t mode, vector, cs, ss, flags, flags_out, dr6, zero;
};

/* What the last trap left. */
struct trap {
	struct frame frame;
	uint64_t cr2, dr6;
	uint64_t stack;        /* from where down the CPU pushed */
	uint64_t flags_inside; /* the handler's own */
	uint16_t ds, es, ss;
};
extern struct trap trap;

struct priv_tss {
	uint32_t reserved0;
	uint64_t rsp[3], reserved1, ist[7], reserved2;
	uint16_t reserved3, iomap;
	uint8_t bits[8192 + 1];
} __attribute__((packed));
extern struct priv_tss priv_tss;
extern uint64_t priv_gdt[];
extern struct idt_gate {
	uint16_t low, selector;
	uint8_t stack, flags;
	uint16_t middle;
	uint32_t high, zero;
} guest_idt[256];

extern uint8_t priv_scratch[8192], priv_stack[PRIV_STACK_SIZE], priv_trap_stack[PRIV_STACK_SIZE],
	priv_ist_stack[2][PRIV_STACK_SIZE];
extern uint64_t priv_pml4[512];

/* Own GDT, TSS, handlers; all memory below 4 GiB is the user's too. */
void priv_begin(void);
/* CR0, CR4, debug registers, GDT, IDT, TSS, FPU, segments as priv_begin() left them. */
void priv_restore(void);
/* A frame to start with: registers with known values, the mode's segments and stack. */
struct frame priv_frame(unsigned mode, uint64_t code);
/* Runs it until it traps. */
void probe(struct frame *f);
/* All of the table that is linked in. */
void priv_run_cases(void);

/* One line: "<guest>: " name, then values; then the verdict. */
void priv_line(const char *fmt, ...);
/* Ends the line: BAD if `good` is false. */
void priv_verdict(bool good, const char *what);
void priv_expect(const char *name, uint64_t seen, uint64_t wanted);
void priv_end(void);

/* An exception that shall not end the probe is handled here; true if it is. */
extern bool (*volatile priv_filter)(struct frame *f);

#define CR_READ(n)                                                                                 \
	static inline uint64_t cr##n##_read(void)                                                  \
	{                                                                                          \
		uint64_t v;                                                                        \
		__asm__ volatile("movq %%cr" #n ", %0" : "=r"(v) : : "memory");                    \
		return v;                                                                          \
	}                                                                                          \
	static inline void cr##n##_write(uint64_t v)                                               \
	{                                                                                          \
		__asm__ volatile("movq %0, %%cr" #n : : "r"(v) : "memory");                        \
	}
CR_READ(0)
CR_READ(2)
CR_READ(3)
CR_READ(4)
CR_READ(8)

static inline void invlpg(uint64_t at)
{
	__asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
}

#define CR0_MP   0x2ul
#define CR0_EM   0x4ul
#define CR0_TS   0x8ul
#define CR0_NE   0x20ul
#define CR0_WP   0x10000ul
#define CR0_AM   0x40000ul
#define CR4_PGE  0x80ul
#define EFER_SCE 1ul
#define EFER_NXE 0x800ul

#endif
#endif

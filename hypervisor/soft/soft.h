// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of engine soft: an x86-64 CPU in software. Private to hypervisor/soft/
 * and hypervisor/engine_soft.c. Sources: AMD64 Architecture Programmer's Manual,
 * Intel SDM.
 *
 * The way of one instruction. Its bytes are decoded once (decode.h) into operations
 * (struct soft_op), collected in blocks that end where control may leave and that never
 * cross a page. A block is found by the physical address of its first byte, and
 * executed by calling each operation's function. A store to a page that holds decoded
 * code drops that page's blocks.
 *
 * Threads. One vCPU executes at a time: the one that holds the baton (engine_soft.c).
 * It is handed on between two blocks only, so every instruction is atomic to the other
 * vCPUs and memory is sequentially consistent; LOCK costs nothing. Devices run beside
 * it on their own threads, as on a real machine. Fields are the baton holder's unless
 * they are atomic.
 *
 * Exceptions. soft_raise() leaves the operation by longjmp() to the run loop, which
 * delivers the exception at the instruction of cpu->op: an operation must change no
 * register before its last access that can fault. No lock is held across it.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_H
#define POLLUX_HYPERVISOR_SOFT_H

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdnoreturn.h>
#include <string.h>

#include "hypervisor/engine.h"

#define SOFT_PAGE_MASK (~(uint64_t)(VM_PAGE_SIZE - 1))
#define SOFT_TSC_KHZ   1000000u /* one count a nanosecond */

#define LIKELY(x)      __builtin_expect(!!(x), 1)
#define UNLIKELY(x)    __builtin_expect(!!(x), 0)

struct soft_cpu;
struct soft_op;

/* ---- registers ------------------------------------------------------------------ */

/* Indexes into soft_cpu.r. Operations name a register by the offset of its first octet
 * in r[], REG(n): so AH is REG(SOFT_RAX) + 1. */
enum soft_reg {
	SOFT_RAX,
	SOFT_RCX,
	SOFT_RDX,
	SOFT_RBX,
	SOFT_RSP,
	SOFT_RBP,
	SOFT_RSI,
	SOFT_RDI, /* R8 to R15 follow */
	SOFT_R15 = 15,
	SOFT_ZERO,    /* always 0 */
	SOFT_PAGE,    /* linear address of the page that the current block is in */
	SOFT_EA,      /* what an address operation left for the one that follows it */
	SOFT_BASE_ES, /* segment bases as addressing needs them, in the order of enum soft_seg: */
	SOFT_BASE_CS, /* in 64-bit mode 0 but for FS and GS */
	SOFT_BASE_SS,
	SOFT_BASE_DS,
	SOFT_BASE_FS,
	SOFT_BASE_GS,
	SOFT_REGS,
};
#define REG(n) ((uint8_t)((n)*8))

enum soft_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_TR, SEG_LDT, SEG_COUNT };

/* Attributes as in docs/state-format.md (and octets 5-6 of a descriptor). */
enum soft_seg_attr {
	SEG_TYPE = 0xf,
	SEG_ACCESSED = 1,
	SEG_WRITE = 2, /* data: writable; code: readable */
	SEG_DOWN = 4,  /* data: expand-down; code: conforming */
	SEG_CODE = 8,
	SEG_S = 1 << 4,
	SEG_DPL_SHIFT = 5,
	SEG_PRESENT = 1 << 7,
	SEG_UNUSABLE = 1 << 8,
	SEG_AVL = 1 << 9,
	SEG_L = 1 << 10,
	SEG_DB = 1 << 11,
	SEG_G = 1 << 12,
};
struct soft_segment {
	uint64_t base;
	uint32_t limit; /* in octets, G applied */
	uint16_t selector, attr;
};
struct soft_table {
	uint64_t base;
	uint16_t limit;
};

enum soft_flag {
	FLAG_CF = 1,
	FLAG_ONE = 2,
	FLAG_PF = 4,
	FLAG_AF = 0x10,
	FLAG_ZF = 0x40,
	FLAG_SF = 0x80,
	FLAG_TF = 0x100,
	FLAG_IF = 0x200,
	FLAG_DF = 0x400,
	FLAG_OF = 0x800,
	FLAG_IOPL = 0x3000,
	FLAG_NT = 0x4000,
	FLAG_RF = 0x10000,
	FLAG_VM = 0x20000,
	FLAG_AC = 0x40000,
	FLAG_VIF = 0x80000,
	FLAG_VIP = 0x100000,
	FLAG_ID = 0x200000,
	FLAGS_STATUS = 0x8d5,
};

#define CR0_PE         (UINT64_C(1) << 0)
#define CR0_MP         (UINT64_C(1) << 1)
#define CR0_EM         (UINT64_C(1) << 2)
#define CR0_TS         (UINT64_C(1) << 3)
#define CR0_ET         (UINT64_C(1) << 4)
#define CR0_NE         (UINT64_C(1) << 5)
#define CR0_WP         (UINT64_C(1) << 16)
#define CR0_AM         (UINT64_C(1) << 18)
#define CR0_NW         (UINT64_C(1) << 29)
#define CR0_CD         (UINT64_C(1) << 30)
#define CR0_PG         (UINT64_C(1) << 31)

#define CR4_VME        (UINT64_C(1) << 0)
#define CR4_PVI        (UINT64_C(1) << 1)
#define CR4_TSD        (UINT64_C(1) << 2)
#define CR4_DE         (UINT64_C(1) << 3)
#define CR4_PSE        (UINT64_C(1) << 4)
#define CR4_PAE        (UINT64_C(1) << 5)
#define CR4_MCE        (UINT64_C(1) << 6)
#define CR4_PGE        (UINT64_C(1) << 7)
#define CR4_PCE        (UINT64_C(1) << 8)
#define CR4_OSFXSR     (UINT64_C(1) << 9)
#define CR4_OSXMMEXCPT (UINT64_C(1) << 10)

#define EFER_SCE       (UINT64_C(1) << 0)
#define EFER_LME       (UINT64_C(1) << 8)
#define EFER_LMA       (UINT64_C(1) << 10)
#define EFER_NXE       (UINT64_C(1) << 11)

enum soft_vector {
	VEC_DE = 0,
	VEC_DB = 1,
	VEC_NMI = 2,
	VEC_BP = 3,
	VEC_OF = 4,
	VEC_BR = 5,
	VEC_UD = 6,
	VEC_NM = 7,
	VEC_DF = 8,
	VEC_TS = 10,
	VEC_NP = 11,
	VEC_SS = 12,
	VEC_GP = 13,
	VEC_PF = 14,
	VEC_MF = 16,
	VEC_AC = 17,
	VEC_MC = 18,
	VEC_XM = 19,
};

/* What makes a double fault of two exceptions, and a shutdown of three. */
enum soft_exception_class {
	CLASS_NONE,
	CLASS_BENIGN,
	CLASS_CONTRIBUTORY,
	CLASS_PAGE,
	CLASS_DOUBLE,
};

enum soft_mode { MODE_16, MODE_32, MODE_64 }; /* default sizes of CS; MODE_64: CS.L */

typedef union {
	uint8_t b[16];
	uint16_t w[8];
	uint32_t d[4];
	uint64_t q[2];
} __attribute__((aligned(16))) soft_xmm;

/* Registers in their physical places (not counted from TOP); MMX is in the mantissas. */
struct soft_x87 {
	union {
		long double value;
		struct {
			uint64_t mantissa;
			uint16_t exponent; /* and sign */
		};
	} st[8];
	uint16_t control, status; /* status holds TOP */
	uint8_t used;             /* bit n: physical register n is not empty */
	uint16_t opcode;
	uint64_t ip, dp; /* last instruction, its operand */
};

/* ---- operations ------------------------------------------------------------------- */

/* Executes one operation; the value is what the run loop calls next, NULL: look again
 * (cpu->rip has been set). Ends in soft_next() or in one of the soft_jump_*(). */
typedef struct soft_op *soft_fn(struct soft_cpu *cpu, struct soft_op *op);

enum soft_op_flag {
	OP_STACK = 1,  /* its memory operand is in the stack segment: #SS, not #GP */
	OP_FIRST = 2,  /* first operation of its instruction */
	OP_SINGLE = 4, /* decoded from outside the block cache: never link to or from it */
};

struct soft_op {
	soft_fn *run;
	union {
		uint64_t imm;         /* immediate, sign-extended to 64 bits */
		struct soft_op *link; /* jumps within a page: the target, once it is known */
	};
	/* Memory operand: r[base] + (r[index] << scale) + r[seg] + disp. Direct jumps:
	 * disp is the target's distance from the page. */
	int32_t disp;
	uint8_t base, index, seg; /* REG(n) */
	uint8_t scale;
	uint8_t reg, rm; /* REG(n), or XMM or x87 numbers */
	uint16_t off;    /* of the instruction in its page */
	uint8_t len;     /* of the instruction; off + len may pass the page's end */
	uint8_t seq;     /* instructions before this one in the block */
	uint8_t aux;     /* the function's own */
	uint8_t flags;   /* enum soft_op_flag */
};
_Static_assert(sizeof(struct soft_op) == 32, "two operations a cache line");

/* ---- one vCPU ------------------------------------------------------------------------ */

#define SOFT_TLB_BITS  10
#define SOFT_TLB_SIZE  (1u << SOFT_TLB_BITS)
#define SOFT_JUMP_SIZE 4096u

/* Tags are the linear address of the page, or soft_tlb_never(slot). */
struct soft_tlb_entry {
	uint64_t read, write, fetch;
	uint8_t *host;     /* of the page's first octet; not for MMIO */
	uint64_t physical; /* of the page; bit 0: a global page */
};
struct soft_jump {
	uint64_t rip;
	uint64_t generation;
	struct soft_op *first;
};

/* Why a vCPU should look up at the end of a block. */
enum soft_attention {
	ATTENTION_KICK = 1,  /* leave vcpu_run() */
	ATTENTION_CHIPS = 2, /* an interrupt, NMI, INIT or SIPI may be there */
	ATTENTION_STALE = 4, /* a device wrote to pages that hold decoded code */
	ATTENTION_BATON = 8, /* another thread waits for the baton */
	ATTENTION_LOOK = 16, /* the vCPU's own: flags or modes changed, look before going on */
};

struct soft_cpu {
	uint64_t r[SOFT_REGS];
	/* Lazy status flags, see flags.h. */
	uint64_t fl_result, fl_aux;
	struct soft_tlb_entry *tlb; /* that of the current privilege, or the empty one */
	uint64_t icount, limit;     /* instructions done; leave the blocks at this many */
	atomic_uint attention;
	uint32_t flags;      /* RFLAGS but the status flags; FLAG_ONE is set */
	struct soft_op *op;  /* valid in slow paths: what executes; NULL outside of blocks */
	uint64_t rip;        /* valid outside of blocks */
	uint64_t generation; /* of `jumps`: epoch, privilege and mode */
	uint64_t epoch;      /* of the TLB */
	/* From the first to the last address of what the TLB has of large pages, in either half
	 * of the address space. */
	struct {
		uint64_t first, last;
	} large[2];
	uint8_t cpl;
	uint8_t mode; /* enum soft_mode */
	bool ss32;    /* stack operations of MODE_16 and MODE_32 use ESP */
	bool shadow;  /* no interrupt before the next instruction (STI, MOV SS) */
	bool halted, wait_sipi, nmi_masked;
	bool chips_look; /* the chips may have something for this vCPU */
	bool bounced;    /* see soft_rmw_begin() */
	uint64_t bounce_at;
	uint8_t bounce_size, bounce[16];

	struct engine *engine;
	unsigned index;
	pthread_mutex_t sleep_lock; /* a leaf: wakes a halted vCPU */
	pthread_cond_t wake;
	uint64_t tsc_offset;
	uint64_t kvmclock_time; /* MSR_KVM_SYSTEM_TIME */
	struct soft_segment seg[SEG_COUNT];
	struct soft_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, dr[8];
	uint64_t pdptrs[4];
	/* MSRs; those of the LAPIC are in chips.h, the clock's in clock.h */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp,
		sysenter_eip, pat, misc_enable, tsc_aux, mtrr_default, mtrr[27];
	struct {
		bool pending, has_error;
		bool external; /* what is being delivered comes from outside the program */
		uint8_t vector;
		uint8_t delivering; /* enum soft_exception_class, of what this came on top of */
		uint32_t error;
	} exception; /* being delivered: a second one makes #DF, a third a shutdown */
	struct {
		bool first;   /* a state was loaded, and nothing has run since */
		bool waiting; /* then deliver this first */
		bool has_error;
		uint8_t kind, vector; /* enum soft_event */
		uint32_t error;
	} loaded;
	uint8_t debug_hits; /* DR6 bits of data breakpoints that this instruction met */
	bool step_off;      /* this instruction takes no single-step trap behind it */
	uint64_t step_rip;  /* where it is */

	soft_xmm xmm[16];
	uint32_t mxcsr;
	struct soft_x87 x87;

	sigjmp_buf leave; /* soft_raise() */
	/* Supervisor, user; the third one is always empty: with it every access is a slow one. */
	struct soft_tlb_entry tlbs[3][SOFT_TLB_SIZE];
	struct soft_jump jumps[SOFT_JUMP_SIZE];
};

/* ---- operations' ends -------------------------------------------------------------- */

/* With optimisation each function ends in a jump to the next; sanitizers keep a frame
 * for it, so there the run loop calls it. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define SOFT_CALL(cpu, op) (op)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SOFT_CALL(cpu, op) (op)
#endif
#endif
#ifndef SOFT_CALL
#define SOFT_CALL(cpu, op) (op)->run(cpu, op)
#endif

#define soft_next(cpu, op) SOFT_CALL(cpu, (op) + 1)

/* RIP of the op's instruction, and of the one after it (not cut to 16 or 32 bits). */
static inline uint64_t soft_rip(const struct soft_cpu *cpu, const struct soft_op *op)
{
	return cpu->r[SOFT_PAGE] + op->off - cpu->r[SOFT_BASE_CS];
}
static inline uint64_t soft_rip_next(const struct soft_cpu *cpu, const struct soft_op *op)
{
	return soft_rip(cpu, op) + op->len;
}

/* An instruction pointer as long as the mode's is. */
static inline uint64_t soft_rip_cut(const struct soft_cpu *cpu, uint64_t rip)
{
	return cpu->mode == MODE_64 ? rip : cpu->mode == MODE_32 ? (uint32_t)rip : (uint16_t)rip;
}

/* Ends of a block. The jump counts the block's instructions. `rip` is what the register
 * will hold (already cut to the operand's size); CS.base is added inside. */
struct soft_op *soft_jump_to(struct soft_cpu *cpu, struct soft_op *op, uint64_t rip);
/* To page + disp, of the same page and mode: fast once linked. */
struct soft_op *soft_jump_near_slow(struct soft_cpu *cpu, struct soft_op *op);
/* Leave to the run loop: rip as given; modes, flags or privileges may have changed. */
struct soft_op *soft_leave(struct soft_cpu *cpu, struct soft_op *op, uint64_t rip);

static inline bool soft_must_look(const struct soft_cpu *cpu)
{
	return cpu->icount >= cpu->limit ||
	       atomic_load_explicit(&cpu->attention, memory_order_relaxed);
}

static inline struct soft_op *soft_jump_near(struct soft_cpu *cpu, struct soft_op *op)
{
	struct soft_op *to = op->link;

	cpu->icount += op->seq + 1u;
	if (UNLIKELY(!to || soft_must_look(cpu)))
		return soft_jump_near_slow(cpu, op);
	return SOFT_CALL(cpu, to);
}

/* ---- exceptions (exception.c) -------------------------------------------------------- */

/* `op` NULL: between two blocks, at cpu->rip (a fetch that faults). The run loop finds the
 * instruction's rip, and counts what came before it in its block. */
noreturn void soft_raise(struct soft_cpu *cpu, struct soft_op *op, unsigned vector);
noreturn void soft_raise_error(struct soft_cpu *cpu, struct soft_op *op, unsigned vector,
			       uint32_t error);
/* An operation that decodes to nothing: #UD, counted and logged by its bytes. */
soft_fn soft_op_undefined;

static inline uint64_t soft_ea(const struct soft_cpu *cpu, const struct soft_op *op)
{
	const uint8_t *r = (const uint8_t *)cpu->r;
	uint64_t base, index, seg;

	memcpy(&base, r + op->base, 8);
	memcpy(&index, r + op->index, 8);
	memcpy(&seg, r + op->seg, 8);
	return base + (index << op->scale) + seg + (uint64_t)(int64_t)op->disp;
}

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Repeated string instructions that end in the middle: by a page fault, a single step, a
 * breakpoint, an interrupt. The registers must say how far it has come, and memory agree.
 */
#include "tests/guests/priv.h"

const char guest_name[] = "privrep";

#define P        1ul
#define W        2ul
#define U        4ul
#define PAGE     0x1000ul

#define FROM     0x8000000000ul /* PML4 entry 1: pages 0 and 1 are there, 2 is not */
#define TO       0x8000010000ul /* pages 16 and 17 are there, 15 and 18 are not */
#define TO_MORE  0x8000020000ul /* the same as TO, and a page more */
#define FROM_RAM 0x800000ul
#define TO_RAM   0x810000ul
#define LOW_FROM 0x800000ul /* the same memory, for 32-bit addresses */
#define BIG_FROM 0x900000ul /* twice BIG_LEN */
#define BIG_TO   0xb00000ul
#define BIG_LEN  0x100000ul

typedef uint64_t table[512] __attribute__((aligned(4096)));
static table pdpt, pd, pt;

#define STRING(x) extern const char rep_##x[];
STRING(movsb)
STRING(movsw)
STRING(movsl)
STRING(movsq)
STRING(stosb)
STRING(stosw)
STRING(stosl)
STRING(stosq)
STRING(lodsb)
STRING(lodsq)
STRING(cmpsb)
STRING(cmpsw)
STRING(cmpsl)
STRING(cmpsq)
STRING(cmpsb_ne)
STRING(scasb)
STRING(scasw)
STRING(scasl)
STRING(scasq)
STRING(scasb_e)
STRING(movsb_a32)
STRING(movsq_a32)
STRING(stosb_a32)
STRING(scasb_a32)
STRING(movsb_once)
STRING(stosq_once)
STRING(movsb_fs)

static void map_fill(void)
{
	uint64_t *pml4 = (uint64_t *)cr3_read();
	pml4[1] = (uint64_t)pdpt | P | W | U;
	pdpt[0] = (uint64_t)pd | P | W | U;
	pd[0] = (uint64_t)pt | P | W | U;
	for (unsigned i = 0; i < 3; i++)
		pt[32 + i] = (TO_RAM + i * PAGE) | P | W | U;
	for (unsigned i = 0; i < 2; i++) {
		pt[i] = (FROM_RAM + i * PAGE) | P | W | U;
		pt[16 + i] = (TO_RAM + i * PAGE) | P | W | U;
	}
	cr3_write(cr3_read());
}

static void memory_fill(void)
{
	for (uint64_t i = 0; i < 2 * PAGE; i++) {
		((uint8_t *)FROM_RAM)[i] = (uint8_t)(i * 7 + (i >> 8));
		((uint8_t *)TO_RAM)[i] = (uint8_t)(i * 7 + (i >> 8));
	}
}

static uint64_t hash(uint64_t at, uint64_t n)
{
	uint64_t h = 14695981039346656037ul;
	for (uint64_t i = 0; i < n; i++)
		h = (h ^ *(uint8_t *)(at + i)) * 1099511628211ul;
	return h;
}

struct rep {
	const char *name, *code;
	uint64_t from, to, count, ax;
	bool down;
	/* expected */
	uint64_t vector, cr2, error, moved_from, moved_to, left;
};

static void rep_say(const struct rep *r, const struct frame *t)
{
	say("%s: %s v=%x e=%x at=%x from=%x to=%x left=%x cr2=%x zf=%x fl=%x", guest_name, r->name,
	    t->vector, t->error, t->rip - (uint64_t)r->code, t->rsi, t->rdi, t->rcx,
	    t->vector == 14 ? trap.cr2 : 0, t->rflags >> 6 & 1,
	    t->rflags & FLAGS_SHOWN & ~(uint64_t)FLAG_RF);
	say(" ax=%x mem=%x", t->rax, hash(TO_RAM, 2 * PAGE));
}

static void rep_run(const struct rep *r)
{
	struct frame f = priv_frame(MODE_U, (uint64_t)r->code);
	const struct frame *t = &trap.frame;
	memory_fill();
	f.rsi = r->from;
	f.rdi = r->to;
	f.rcx = r->count;
	f.rax = r->ax;
	f.rflags = r->down ? FLAG_DF | 2 : 2;
	probe(&f);
	rep_say(r, t);
	uint64_t from = r->down ? r->from - t->rsi : t->rsi - r->from;
	uint64_t to = r->down ? r->to - t->rdi : t->rdi - r->to;
	priv_verdict(t->vector == r->vector && from == r->moved_from && to == r->moved_to &&
			     t->rcx == r->left &&
			     (r->vector != 14 ||
			      (trap.cr2 == r->cr2 && t->error == r->error && t->rip == f.rip)),
		     "string");
}

#define END  PROBE_END
#define LAST (2 * PAGE)

static const struct rep faults[] = {
	/* The source ends; the destination ends. */
	{"movsb_from", rep_movsb, FROM + LAST - 10, TO, 100, 0, 0, 14, FROM + LAST, 4, 10, 10, 90},
	{"movsb_to", rep_movsb, FROM, TO + LAST - 10, 100, 0, 0, 14, TO + LAST, 6, 10, 10, 90},
	{"movsw_from", rep_movsw, FROM + LAST - 9, TO, 100, 0, 0, 14, FROM + LAST, 4, 8, 8, 96},
	{"movsl_to", rep_movsl, FROM, TO + LAST - 10, 100, 0, 0, 14, TO + LAST, 6, 8, 8, 98},
	{"movsq_from", rep_movsq, FROM + LAST - 20, TO, 100, 0, 0, 14, FROM + LAST, 4, 16, 16, 98},
	{"movsq_to", rep_movsq, FROM, TO + LAST - 20, 100, 0, 0, 14, TO + LAST, 6, 16, 16, 98},
	{"movsq_both", rep_movsq, FROM + LAST - 16, TO + LAST - 16, 9, 0, 0, 14, FROM + LAST, 4, 16,
	 16, 7},
	{"movsb_across", rep_movsb, FROM + PAGE - 5, TO + PAGE - 50, 100, 0, 0, END, 0, 0, 100, 100,
	 0},
	{"movsb_at_once", rep_movsb, FROM + LAST, TO, 5, 0, 0, 14, FROM + LAST, 4, 0, 0, 5},
	{"movsb_none", rep_movsb, FROM + LAST, TO + LAST, 0, 0, 0, END, 0, 0, 0, 0, 0},
	{"movsb_down_to", rep_movsb, FROM + LAST - 1, TO + 9, 100, 0, 1, 14, TO - 1, 6, 10, 10, 90},
	{"movsq_down_to", rep_movsq, FROM + LAST - 8, TO + 12, 100, 0, 1, 14, TO - 4, 6, 16, 16,
	 98},
	{"movsw_down", rep_movsw, FROM + 0x1800, TO + 0x1800, 0x700, 0, 1, END, 0, 0, 0xe00, 0xe00,
	 0},
	{"stosb_to", rep_stosb, 0, TO + LAST - 10, 100, 0x5a, 0, 14, TO + LAST, 6, 0, 10, 90},
	{"stosw_to", rep_stosw, 0, TO + LAST - 11, 100, 0x5a5b, 0, 14, TO + LAST, 6, 0, 10, 95},
	{"stosl_to", rep_stosl, 0, TO + LAST - 10, 100, 0x5a5b5c, 0, 14, TO + LAST, 6, 0, 8, 98},
	{"stosq_to", rep_stosq, 0, TO + LAST - 20, 100, ~0x5aul, 0, 14, TO + LAST, 6, 0, 16, 98},
	{"stosq_aligned", rep_stosq, 0, TO + LAST - 64, 100, 0x77, 0, 14, TO + LAST, 6, 0, 64, 92},
	{"stosq_down", rep_stosq, 0, TO + 36, 100, 0x78, 1, 14, TO - 4, 6, 0, 40, 95},
	{"stosq_page", rep_stosq, 0, TO, 512, 0x79, 0, END, 0, 0, 0, PAGE, 0},
	{"lodsb_from", rep_lodsb, FROM + LAST - 10, 0, 100, 0, 0, 14, FROM + LAST, 4, 10, 0, 90},
	{"lodsq_from", rep_lodsq, FROM + LAST - 20, 0, 100, 0, 0, 14, FROM + LAST, 4, 16, 0, 98},
	{"cmpsb_from", rep_cmpsb, FROM + LAST - 10, TO_MORE + LAST - 10, 100, 0, 0, 14, FROM + LAST,
	 4, 10, 10, 90},
	{"cmpsw_from", rep_cmpsw, FROM + LAST - 10, TO_MORE + LAST - 10, 100, 0, 0, 14, FROM + LAST,
	 4, 10, 10, 95},
	{"cmpsl_from", rep_cmpsl, FROM + LAST - 12, TO_MORE + LAST - 12, 100, 0, 0, 14, FROM + LAST,
	 4, 12, 12, 97},
	{"cmpsq_from", rep_cmpsq, FROM + LAST - 20, TO_MORE + LAST - 20, 100, 0, 0, 14, FROM + LAST,
	 4, 16, 16, 98},
	{"cmpsb_equal", rep_cmpsb, FROM + 5, TO + 5, 100, 0, 0, END, 0, 0, 100, 100, 0},
	{"cmpsb_differ", rep_cmpsb, FROM + 0xf0, TO + 0xf1, 100, 0, 0, END, 0, 0, 1, 1, 99},
	{"cmpsb_ne", rep_cmpsb_ne, FROM + 5, TO + 6, 40, 0, 0, END, 0, 0, 40, 40, 0},
	{"cmpsb_ne_first", rep_cmpsb_ne, FROM + 5, TO + 5, 40, 0, 0, END, 0, 0, 1, 1, 39},
	{"scasb_to", rep_scasb, 0, TO + LAST - 10, 100, 0x00, 0, 14, TO + LAST, 4, 0, 10, 90},
	{"scasw_to", rep_scasw, 0, TO + LAST - 10, 100, 0x00, 0, 14, TO + LAST, 4, 0, 10, 95},
	{"scasl_to", rep_scasl, 0, TO + LAST - 12, 100, 0x00, 0, 14, TO + LAST, 4, 0, 12, 97},
	{"scasq_to", rep_scasq, 0, TO + LAST - 20, 100, 0x00, 0, 14, TO + LAST, 4, 0, 16, 98},
	{"scasb_found", rep_scasb, 0, TO, 100, 14, 0, END, 0, 0, 0, 3, 97},
	{"scasb_e", rep_scasb_e, 0, TO, 100, 0, 0, END, 0, 0, 0, 2, 98},
	{"scasb_down", rep_scasb, 0, TO + 4, 100, 0xff, 1, 14, TO - 1, 4, 0, 5, 95},
	{"movsb_once", rep_movsb_once, FROM + LAST, TO, 7, 0, 0, 14, FROM + LAST, 4, 0, 0, 7},
	{"stosq_once", rep_stosq_once, 0, TO + LAST - 4, 7, 0, 0, 14, TO + LAST, 6, 0, 0, 7},
	/* Overlapping: byte by byte, a pattern runs through; downwards it does not. */
	{"overlap_1", rep_movsb, TO, TO + 1, 300, 0, 0, END, 0, 0, 300, 300, 0},
	{"overlap_3", rep_movsb, TO, TO + 3, 300, 0, 0, END, 0, 0, 300, 300, 0},
	{"overlap_w", rep_movsw, TO, TO + 1, 150, 0, 0, END, 0, 0, 300, 300, 0},
	{"overlap_q", rep_movsq, TO, TO + 4, 50, 0, 0, END, 0, 0, 400, 400, 0},
	{"overlap_q_9", rep_movsq, TO, TO + 9, 50, 0, 0, END, 0, 0, 400, 400, 0},
	{"overlap_back", rep_movsb, TO + 1, TO, 300, 0, 0, END, 0, 0, 300, 300, 0},
	{"overlap_down", rep_movsb, TO + 300, TO + 303, 300, 0, 1, END, 0, 0, 300, 300, 0},
	{"overlap_down_q", rep_movsq, TO + 400, TO + 396, 50, 0, 1, END, 0, 0, 400, 400, 0},
	{"overlap_page", rep_movsb, TO + PAGE - 9, TO + PAGE - 4, 40, 0, 0, END, 0, 0, 40, 40, 0},
	/* 32-bit addresses: counters and indices are ECX, ESI and EDI, and come back zero-extended.
	 */
	{"a32_movsb", rep_movsb_a32, LOW_FROM, TO_RAM, 33, 0, 0, END, 0, 0, 33, 33, 0},
	{"a32_movsq", rep_movsq_a32, LOW_FROM, TO_RAM, 33, 0, 0, END, 0, 0, 264, 264, 0},
	{"a32_stosb", rep_stosb_a32, 0, TO_RAM, 33, 0x42, 0, END, 0, 0, 0, 33, 0},
	{"a32_scasb", rep_scasb_a32, 0, TO_RAM, 33, 14, 0, END, 0, 0, 0, 3, 30},
};

static void check_faults(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(faults); i++)
		rep_run(&faults[i]);
}

/* The upper halves of registers count for nothing with 32-bit addresses. */
static void check_upper_halves(void)
{
	struct rep r = {.name = "a32_upper", .code = rep_movsb_a32};
	struct frame f = priv_frame(MODE_U, (uint64_t)r.code);
	memory_fill();
	f.rsi = LOW_FROM | 0xabcd00000000;
	f.rdi = TO_RAM | 0x123400000000;
	f.rcx = 12 | 0x700000000;
	probe(&f);
	rep_say(&r, &trap.frame);
	priv_verdict(trap.frame.rcx == 0 && trap.frame.rsi == LOW_FROM + 12 &&
			     trap.frame.rdi == TO_RAM + 12,
		     "registers");
}

static void check_segment(void)
{
	struct rep r = {.name = "movsb_fs", .code = rep_movsb_fs};
	struct frame f = priv_frame(MODE_U, (uint64_t)r.code);
	memory_fill();
	msr_write(MSR_FS, 0x100);
	f.rsi = FROM;
	f.rdi = TO;
	f.rcx = 20;
	probe(&f);
	rep_say(&r, &trap.frame);
	priv_verdict(trap.frame.rcx == 0 && *(uint8_t *)TO_RAM == *(uint8_t *)(FROM_RAM + 0x100),
		     "base");
}

/* ---- one iteration a trap ------------------------------------------------------------------ */

static volatile unsigned steps;
static volatile uint64_t step_code, step_hash;

static bool on_step(struct frame *f)
{
	if (f->vector != 1)
		return false;
	step_hash =
		(step_hash ^ f->rcx ^ f->rdi << 16 ^ (f->rip - step_code) << 48) * 1099511628211ul;
	return ++steps < 1000;
}

static void check_steps(void)
{
	struct frame f = priv_frame(MODE_U, (uint64_t)rep_stosb);
	memory_fill();
	step_code = f.rip;
	steps = 0;
	step_hash = 0;
	priv_filter = on_step;
	f.rdi = TO;
	f.rcx = 5;
	f.rflags = FLAG_TF | 2;
	probe(&f);
	say("%s: steps %x left=%x at=%x hash=%x", guest_name, (uint64_t)steps, trap.frame.rcx,
	    trap.frame.rip - step_code, step_hash);
	priv_verdict(steps == 5 && trap.frame.vector == PROBE_END, "steps");
	priv_restore();
}

/* A data breakpoint in the middle: after the iteration that touches it. (Intel's fast strings may
 * tell later.) */
static void check_breakpoint(void)
{
	struct rep r = {.name = "breakpoint", .code = rep_movsb};
	struct frame f = priv_frame(MODE_U, (uint64_t)r.code);
	memory_fill();
	__asm__ volatile("movq %0, %%dr0; movq %1, %%dr7" : : "r"(TO + 20), "r"(0x10402ul));
	f.rsi = FROM;
	f.rdi = TO;
	f.rcx = 50;
	probe(&f);
	rep_say(&r, &trap.frame);
	priv_verdict(trap.frame.vector == 1 && trap.frame.rcx == 29 && trap.frame.rip == f.rip,
		     "breakpoint");
	priv_restore();
}

/* ---- interrupts -------------------------------------------------------------------------------
 */

#define TIMER 0x40

static volatile unsigned inside, odd;
static uint64_t first_left, last_left;
static uint64_t big_from, big_word; /* other ones in each try */

static void on_timer(struct frame *f)
{
	if (f->rip != (uint64_t)rep_movsb && f->rip != (uint64_t)rep_stosq)
		return;
	/* How far it has come is the same in all registers. */
	uint64_t size = f->rip == (uint64_t)rep_movsb ? 1 : 8, n = BIG_LEN / size - f->rcx;
	inside += f->rcx < first_left;
	odd += f->rcx > last_left || f->rdi != BIG_TO + n * size ||
	       (size == 1 && f->rsi != big_from + n);
	last_left = f->rcx;
}

static bool big_written(const char *code)
{
	uint64_t wrong = 0;

	if (code == rep_movsb)
		return memcmp((void *)big_from, (void *)BIG_TO, BIG_LEN) == 0;
	for (uint64_t i = 0; i < BIG_LEN; i += 8)
		wrong |= *(uint64_t *)(BIG_TO + i) ^ big_word;
	return !wrong;
}

/* The timer runs on from one try to the next, and little else is done between them: on a busy
 * machine it is late by more than a try takes. */
static void interrupted(const char *name, const char *code, uint64_t count)
{
	bool written = true;

	inside = odd = 0;
	first_left = count;
	lapic_timer(TIMER, 300000, true);
	for (unsigned i = 0; i < 100000 && inside < 3; i++) {
		struct frame f = priv_frame(MODE_U, (uint64_t)code);
		unsigned before = inside;
		last_left = count;
		big_from = BIG_FROM + i % 2 * BIG_LEN;
		big_word = 0x1122334455667788 * (i + 1);
		f.rsi = big_from;
		f.rdi = BIG_TO;
		f.rcx = count;
		f.rax = big_word;
		f.rflags = FLAG_IF | 2;
		probe(&f);
		odd += trap.frame.rcx != 0 || trap.frame.rdi != BIG_TO + BIG_LEN;
		if (inside != before)
			written &= big_written(code);
	}
	lapic_timer(TIMER, 0, false);
	say("%s: %s interrupted=%s odd=%x", guest_name, name, inside ? "yes" : "no", (uint64_t)odd);
	priv_verdict(inside && !odd && written, "interrupts");
}

static void check_interrupts(void)
{
	lapic_enable();
	handler_set(TIMER, on_timer);
	for (uint64_t i = 0; i < 2 * BIG_LEN; i += 8)
		*(uint64_t *)(BIG_FROM + i) = i * 0x9e3779b97f4a7c15;
	interrupted("timer_movsb", rep_movsb, BIG_LEN);
	interrupted("timer_stosq", rep_stosq, BIG_LEN / 8);
}

void guest_main(void)
{
	priv_begin();
	map_fill();
	check_faults();
	check_upper_halves();
	check_segment();
	check_steps();
	check_breakpoint();
	check_interrupts();
	priv_end();
}

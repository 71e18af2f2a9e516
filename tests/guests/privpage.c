// SPDX-License-Identifier: Apache-2.0
/* Paging: permissions at all levels, error codes, CR2, accessed and dirty bits, the TLB, code. */
#include "tests/guests/priv.h"

const char guest_name[] = "privpage";

#define P         1ul
#define W         2ul
#define U         4ul
#define A         0x20ul
#define D         0x40ul
#define PS        0x80ul
#define G         0x100ul
#define NX        (1ul << 63)
#define RSV       (1ul << 51) /* above any physical address width that engines here have */

#define ERR_P     1ul
#define ERR_W     2ul
#define ERR_U     4ul
#define ERR_RSVD  8ul
#define ERR_FETCH 16ul

#define TEST      0x8000000000ul /* PML4 entry 1, and all other indices 0 */
#define TEST_2M   (TEST + 0x200000)
#define TEST_1G   (TEST + 0x40000000)
#define PAGE      0x1000ul
#define TARGET    0x800000ul /* physical: 2 MiB that nothing else uses */

typedef uint64_t table[512] __attribute__((aligned(4096)));
static table pdpt, pd, pt;

extern const char access_read[], access_write[], access_fetch[], access_modify[], access_read_8[],
	access_write_8[], access_push[], access_movs[], access_cmpxchg[], page_code[],
	page_code_end[];

static uint64_t *levels[5]; /* the entry that maps TEST in each; 1 is the page table */

static void map_fill(void)
{
	uint64_t *pml4 = (uint64_t *)cr3_read();
	memset(pdpt, 0, sizeof(pdpt));
	memset(pd, 0, sizeof(pd));
	memset(pt, 0, sizeof(pt));
	pml4[1] = (uint64_t)pdpt | P | W | U;
	pdpt[0] = (uint64_t)pd | P | W | U;
	pdpt[1] = P | W | U | PS; /* 1 GiB from 0 */
	pd[0] = (uint64_t)pt | P | W | U;
	pd[1] = TARGET | P | W | U | PS;
	for (unsigned i = 0; i < 16; i++)
		pt[i] = (TARGET + i * PAGE) | P | W | U;
	levels[4] = &pml4[1];
	levels[3] = &pdpt[0];
	levels[2] = &pd[0];
	levels[1] = &pt[0];
	cr3_write(cr3_read());
}

static bool write_protect; /* CR0.WP */

static void target_fill(void)
{
	uint8_t *p = (uint8_t *)TARGET;
	p[0] = 0xcd; /* int $PROBE_END */
	p[1] = PROBE_END;
}

/* Runs an access to `at`; returns the error code of its page fault, or a value above all error
 * codes: NONE, or ODD for what should not be. */
#define NONE 0x100ul
#define ODD  0x200ul
static uint64_t access_run(const char *code, unsigned mode, uint64_t at, uint64_t cx)
{
	struct frame f = priv_frame(mode, (uint64_t)code);
	f.rdx = at;
	f.rcx = cx;
	cr0_write(write_protect ? cr0_read() | CR0_WP : cr0_read() & ~CR0_WP);
	probe(&f);
	if (trap.frame.vector == PROBE_END)
		return NONE;
	return trap.frame.vector == 14 ? trap.frame.error : ODD;
}

/* ---- permissions ---------------------------------------------------------------------------- */

/* What the manuals say: entries' bits are combined over the levels. */
static uint64_t error_expected(const char *code, unsigned mode)
{
	uint64_t all = P | W | U, any = 0, e = 0;
	bool user = mode == MODE_U, write = code == access_write, fetch = code == access_fetch;
	for (unsigned i = 4; i; i--) {
		if (!(*levels[i] & P)) {
			all &= ~P;
			break; /* bits of the levels below do not count */
		}
		any |= *levels[i];
		all &= *levels[i];
		if (*levels[i] & RSV)
			break;
		if (i > 1 && i < 4 && *levels[i] & PS)
			break;
	}
	e = (user ? ERR_U : 0) | (write ? ERR_W : 0) | (fetch ? ERR_FETCH : 0);
	if (any & RSV && all & P)
		return e | ERR_P | ERR_RSVD;
	if (!(all & P))
		return e;
	if ((user && !(all & U)) || (fetch && any & NX) ||
	    (write && !(all & W) && (user || write_protect)))
		return e | ERR_P;
	return NONE;
}

static bool accessed_right(uint64_t wanted)
{
	bool good = true;
	for (unsigned i = 4; i; i--)
		good = good && !!(*levels[i] & A) == (wanted >> i & 1);
	return good;
}

static void bits_clear(void)
{
	for (unsigned i = 4; i; i--)
		*levels[i] &= ~(i == 1 ? A | D : A);
	cr3_write(cr3_read());
}

/* One line: reads, writes and fetches of CPL 0 and 3; "-" when there is no fault. */
static void permissions(const char *what, unsigned level)
{
	static const struct {
		const char *name;
		unsigned mode;
	} who[] = {{"k", MODE_K}, {"u", MODE_U}};
	const char *const codes[] = {access_read, access_write, access_fetch};
	const char *const names[] = {"r", "w", "x"};
	bool good = true;
	say("%s: %s level=%x wp=%x", guest_name, what, (uint64_t)level, (uint64_t)write_protect);
	for (unsigned i = 0; i < 6; i++) {
		bits_clear();
		target_fill();
		uint64_t wanted = error_expected(codes[i % 3], who[i / 3].mode);
		uint64_t seen = access_run(codes[i % 3], who[i / 3].mode, TEST, 0);
		say(" %s%s=", who[i / 3].name, names[i % 3]);
		if (seen == NONE)
			say("-");
		else
			say("%x", seen);
		good = good && seen == wanted && (seen == NONE || trap.cr2 == TEST) &&
		       (seen != NONE || accessed_right(0x1e)) &&
		       !!(*levels[1] & D) == (seen == NONE && codes[i % 3] == access_write);
		if (seen != NONE && seen != ODD && codes[i % 3] != access_fetch)
			good = good && trap.frame.rip == (uint64_t)codes[i % 3];
		if (seen != NONE && codes[i % 3] == access_fetch)
			good = good && trap.frame.rip == TEST;
	}
	say(" cr2=%x", trap.cr2);
	priv_verdict(good, "fault");
}

static void check_permissions(void)
{
	static const struct {
		const char *name;
		uint64_t clear, set;
	} kinds[] = {{"absent", P, 0},        {"readonly", W, 0},          {"supervisor", U, 0},
		     {"nx", 0, NX},           {"reserved", 0, RSV},        {"none", P | W | U, 0},
		     {"kernel_ro", W | U, 0}, {"user_nx_ro", W, NX},       {"kernel_nx", U, NX},
		     {"absent_rsv", P, RSV},  {"reserved_ro", W, RSV | NX}};
	for (unsigned wp = 0; wp < 2; wp++) {
		write_protect = wp;
		map_fill();
		permissions("all_allowed", 0);
		for (unsigned level = 4; level; level--)
			for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
				map_fill();
				*levels[level] = (*levels[level] & ~kinds[k].clear) | kinds[k].set;
				permissions(kinds[k].name, level);
			}
	}
}

/* Bits that are reserved beside those above the width: NX without EFER.NXE, PS in the PML4,
 * the low address bits of large pages. */
static void reserved_one(const char *name, unsigned level, uint64_t set)
{
	map_fill();
	*levels[level] |= set;
	cr3_write(cr3_read());
	uint64_t e = access_run(access_read, MODE_U, TEST, 0);
	say("%s: %s level=%x e=%x cr2=%x", guest_name, name, (uint64_t)level, e, trap.cr2);
	priv_verdict(e == (ERR_P | ERR_U | ERR_RSVD), "error");
}

static void check_reserved(void)
{
	reserved_one("ps_pml4", 4, PS);
	reserved_one("low_bits_1g", 3, PS | 1ul << 20);
	reserved_one("low_bits_2m", 2, PS | 1ul << 13);
	msr_write(MSR_EFER, msr_read(MSR_EFER) & ~EFER_NXE);
	for (unsigned level = 4; level; level--)
		reserved_one("nx_without_nxe", level, NX);
	map_fill();
	*levels[1] &= ~U;
	cr3_write(cr3_read());
	/* Without NXE the error code does not tell fetches. */
	uint64_t e = access_run(access_fetch, MODE_U, TEST, 0);
	priv_expect("fetch_without_nxe", e, ERR_P | ERR_U);
	priv_restore();
}

/* ---- large pages ------------------------------------------------------------------------------
 */

/* Whether a translation that ends in a fault leaves accessed bits is the CPU's to choose; a dirty
 * bit it must not set. */
static void large(const char *name, uint64_t at, uint64_t *entry, uint64_t keep)
{
	uint8_t *p = (uint8_t *)TARGET + PAGE + 5;
	*p = 0x5c;
	*entry = (*entry & ~(A | D)) | U | W;
	invlpg(at);
	uint64_t e = access_run(access_read, MODE_U, at, 0);
	say("%s: %s read=%x e=%x bits=%x", guest_name, name, trap.frame.rax & 0xff, e,
	    *entry & (A | D));
	priv_verdict(e == NONE && (trap.frame.rax & 0xff) == 0x5c && (*entry & (A | D)) == A,
		     "read");
	e = access_run(access_write, MODE_U, at, 0);
	say("%s: %s write=%x e=%x bits=%x", guest_name, name, (uint64_t)*p, e, *entry & (A | D));
	priv_verdict(e == NONE && *p == 0xa0 && (*entry & (A | D)) == (A | D), "write");
	static const struct {
		uint64_t clear, set, error;
	} k[] = {{W, 0, ERR_P | ERR_W | ERR_U},
		 {U, 0, ERR_P | ERR_W | ERR_U},
		 {P, 0, ERR_W | ERR_U},
		 {0, RSV, ERR_P | ERR_W | ERR_U | ERR_RSVD}};
	for (unsigned i = 0; i < ARRAY_LEN(k); i++) {
		*entry = (keep & ~k[i].clear) | k[i].set;
		invlpg(at);
		e = access_run(access_write, MODE_U, at, 0);
		say("%s: %s fault=%x cr2=%x dirty=%x", guest_name, name, e, trap.cr2,
		    *entry >> 6 & 1);
		priv_verdict(e == k[i].error && trap.cr2 == at && !(*entry & D), "fault");
	}
	*entry = keep | NX;
	invlpg(at);
	e = access_run(access_fetch, MODE_U, at, 0);
	say("%s: %s fetch=%x cr2=%x", guest_name, name, e, trap.cr2);
	priv_verdict(e == (ERR_P | ERR_U | ERR_FETCH) && trap.cr2 == at, "fetch");
}

static void check_large(void)
{
	map_fill();
	large("page_2m", TEST_2M + PAGE + 5, &pd[1], pd[1]);
	map_fill();
	large("page_1g", TEST_1G + TARGET + PAGE + 5, &pdpt[1], pdpt[1]);
}

/* ---- accessed and dirty -------------------------------------------------------------------------
 */

static void bits_say(const char *name, uint64_t wanted)
{
	uint64_t seen = 0;
	for (unsigned i = 4; i; i--)
		seen = seen << 4 | (*levels[i] & (i == 1 ? A | D : A)) >> 5;
	priv_expect(name, seen, wanted);
}

static void bits_after(const char *name, const char *code, unsigned mode, uint64_t wanted)
{
	map_fill();
	access_run(code, mode, TEST, TEST + 8);
	bits_say(name, wanted);
}

static void check_bits(void)
{
	write_protect = true;
	bits_after("bits_read", access_read, MODE_U, 0x1111);
	bits_after("bits_write", access_write, MODE_U, 0x1113);
	bits_after("bits_fetch", access_fetch, MODE_U, 0x1111);
	bits_after("bits_modify", access_modify, MODE_U, 0x1113);
	bits_after("bits_cmpxchg", access_cmpxchg, MODE_K, 0x1113);
	bits_after("bits_movs", access_movs, MODE_U, 0x1113);
	bits_after("bits_read_kernel", access_read, MODE_K, 0x1111);
	map_fill(); /* first read, then write: the TLB's entry must not hide that */
	access_run(access_read, MODE_U, TEST, 0);
	access_run(access_write, MODE_U, TEST, 0);
	bits_say("bits_read_write", 0x1113);
	pt[0] &= ~D; /* dirty in the TLB: the bit is not set again until it is flushed */
	invlpg(TEST);
	access_run(access_read, MODE_U, TEST, 0);
	bits_say("bits_cleared_read", 0x1111);
	access_run(access_write, MODE_U, TEST, 0);
	bits_say("bits_cleared_write", 0x1113);
	map_fill();
	pt[0] &= ~A;
	pd[0] |= A;
	access_run(access_write_8, MODE_U, TEST + PAGE - 3, 0);
	say("%s: bits_across %x %x", guest_name, pt[0] >> 5 & 3, pt[1] >> 5 & 3);
	priv_verdict((pt[0] >> 5 & 3) == 3 && (pt[1] >> 5 & 3) == 3, "bits");
	map_fill(); /* the faulting write leaves the dirty bit alone */
	pt[0] &= ~W;
	cr3_write(cr3_read());
	access_run(access_write, MODE_U, TEST, 0);
	priv_expect("bits_fault_dirty", pt[0] >> 6 & 1, 0);
	map_fill();
	pt[0] &= ~U;
	cr3_write(cr3_read());
	access_run(access_read, MODE_U, TEST, 0);
	priv_expect("bits_fault_dirty_user", pt[0] >> 6 & 1, 0);
	write_protect = false; /* CPL 0 writes to a read-only page: dirty */
	map_fill();
	pt[0] &= ~W;
	cr3_write(cr3_read());
	access_run(access_write, MODE_K, TEST, 0);
	bits_say("bits_write_without_wp", 0x1113);
}

/* ---- across two pages
 * ---------------------------------------------------------------------------- */

static void across(const char *name, const char *code, unsigned mode, uint64_t bits1,
		   uint64_t wanted, uint64_t cr2)
{
	map_fill();
	target_fill();
	memset((uint8_t *)TARGET + PAGE - 8, 0x33, 16);
	pt[1] = bits1;
	cr3_write(cr3_read());
	uint64_t e = access_run(code, mode, TEST + PAGE - 3, TEST + 64);
	uint64_t left = *(uint64_t *)(TARGET + PAGE - 8);
	say("%s: %s e=%x cr2=%x left=%x", guest_name, name, e, trap.cr2, left);
	priv_verdict(e == wanted && trap.cr2 == cr2 && left == 0x3333333333333333, "fault");
}

static void check_across(void)
{
	uint64_t second = TEST + PAGE, frame = TARGET + PAGE;
	write_protect = true;
	across("across_read", access_read_8, MODE_U, 0, ERR_U, second);
	across("across_write", access_write_8, MODE_U, 0, ERR_U | ERR_W, second);
	across("across_write_ro", access_write_8, MODE_U, frame | P | U, ERR_P | ERR_U | ERR_W,
	       second);
	across("across_write_kernel", access_write_8, MODE_K, frame | P, ERR_P | ERR_W, second);
	across("across_read_user", access_read_8, MODE_U, frame | P | W, ERR_P | ERR_U, second);
	across("across_rsvd", access_read_8, MODE_U, frame | P | U | RSV, ERR_P | ERR_U | ERR_RSVD,
	       second);
	across("across_movs", access_movs, MODE_U, 0, ERR_U, second);
	map_fill(); /* both fault: the first page is told */
	pt[0] = pt[1] = 0;
	cr3_write(cr3_read());
	uint64_t e = access_run(access_read_8, MODE_U, TEST + PAGE - 3, 0);
	say("%s: across_both e=%x cr2=%x", guest_name, e, trap.cr2);
	priv_verdict(e == ERR_U && trap.cr2 == TEST + PAGE - 3, "fault");
	map_fill();
	pt[0] = 0;
	cr3_write(cr3_read());
	e = access_run(access_push, MODE_U, TEST + 4, 0);
	say("%s: across_push e=%x cr2=%x rsp=%x", guest_name, e, trap.cr2, trap.frame.rsp);
	/* PML4 entry 0's last page, below TEST, is not mapped either. */
	priv_verdict(e == (ERR_U | ERR_W) && trap.cr2 == TEST - 4 && trap.frame.rsp == TEST + 4,
		     "push");
}

/* ---- code ---------------------------------------------------------------------------------------
 */

static void code_across(const char *name, unsigned before, uint64_t bits1, uint64_t wanted)
{
	map_fill();
	memcpy((uint8_t *)TARGET + PAGE - before, page_code, (size_t)(page_code_end - page_code));
	pt[1] = bits1;
	cr3_write(cr3_read());
	struct frame f = priv_frame(MODE_U, TEST + PAGE - before);
	probe(&f);
	say("%s: %s before=%x v=%x e=%x at=%x ax=%x cr2=%x", guest_name, name, (uint64_t)before,
	    trap.frame.vector, trap.frame.error, trap.frame.rip - (TEST + PAGE - before),
	    trap.frame.rax, wanted == NONE ? 0 : trap.cr2);
	if (wanted == NONE)
		priv_verdict(trap.frame.vector == PROBE_END &&
				     trap.frame.rax == 0x1122334455667788 &&
				     trap.frame.rip == TEST + PAGE - before + 12,
			     "code");
	else
		priv_verdict(trap.frame.vector == 14 && trap.frame.error == wanted &&
				     trap.cr2 == TEST + PAGE &&
				     trap.frame.rip == TEST + PAGE - before + (before > 9 ? 10 : 0),
			     "fault");
}

static void check_code_across(void)
{
	uint64_t frame = TARGET + PAGE;
	for (unsigned before = 1; before < 12; before += 3)
		code_across("code_across", before, frame | P | U, NONE);
	code_across("code_across_absent", 1, 0, ERR_U | ERR_FETCH);
	code_across("code_across_absent", 9, 0, ERR_U | ERR_FETCH);
	code_across("code_across_absent", 10, 0, ERR_U | ERR_FETCH);
	code_across("code_across_absent", 11, 0, ERR_U | ERR_FETCH);
	code_across("code_across_nx", 4, frame | P | U | NX, ERR_P | ERR_U | ERR_FETCH);
	code_across("code_across_kernel", 4, frame | P, ERR_P | ERR_U | ERR_FETCH);
	/* The second page is elsewhere in memory. */
	map_fill();
	memcpy((uint8_t *)TARGET + PAGE - 5, page_code, 5);
	memcpy((uint8_t *)TARGET + 7 * PAGE, page_code + 5, 7);
	memset((uint8_t *)TARGET + PAGE, 0x90, 16);
	pt[1] = (TARGET + 7 * PAGE) | P | U;
	cr3_write(cr3_read());
	struct frame f = priv_frame(MODE_U, TEST + PAGE - 5);
	probe(&f);
	priv_expect("code_across_elsewhere", trap.frame.rax, 0x1122334455667788);
	((uint8_t *)TARGET)[7 * PAGE] ^= 0xff; /* and changes, byte for byte */
	f = priv_frame(MODE_U, TEST + PAGE - 5);
	probe(&f);
	priv_expect("code_across_changed", trap.frame.rax, 0x11223344aa667788);
}

/* movl $VALUE, %eax; int $PROBE_END at `p`. */
static void code_put(volatile uint8_t *p, uint8_t value)
{
	static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xcd, PROBE_END};
	for (unsigned i = 0; i < sizeof(code); i++)
		p[i] = code[i];
	p[1] = value;
}

static uint64_t code_value(uint64_t at)
{
	struct frame f = priv_frame(MODE_U, at);
	probe(&f);
	return trap.frame.vector == PROBE_END ? trap.frame.rax : ~0ul;
}

static void check_code_changes(void)
{
	volatile uint8_t *there = (volatile uint8_t *)TARGET;
	map_fill();
	code_put(there, 1);
	priv_expect("code_first", code_value(TEST), 1);
	there[1] = 2; /* by the identity mapping */
	priv_expect("code_written_elsewhere", code_value(TEST), 2);
	*(volatile uint8_t *)(TEST + 1) = 3;
	priv_expect("code_written_here", code_value(TEST), 3);
	*(volatile uint8_t *)(TEST_2M + 1) = 4;
	priv_expect("code_written_2m", code_value(TEST), 4);
	pt[3] = TARGET | P | U;
	priv_expect("code_second_mapping", code_value(TEST + 3 * PAGE), 4);
	*(volatile uint8_t *)(TEST + 1) = 5;
	priv_expect("code_second_mapping_changed", code_value(TEST + 3 * PAGE), 5);
	code_put(there + PAGE, 6);
	pt[0] = (TARGET + PAGE) | P | U | W;
	invlpg(TEST);
	priv_expect("code_remapped", code_value(TEST), 6);
	pt[0] = TARGET | P | U | W;
	cr3_write(cr3_read());
	priv_expect("code_mapped_back", code_value(TEST), 5);
	memset((void *)TARGET, 0x90, 16); /* by rep stos, over the whole */
	code_put(there + 4, 7);
	priv_expect("code_filled", code_value(TEST), 7);
	uint8_t kept[8];
	code_put(there + 2 * PAGE, 8);
	memcpy(kept, (void *)(TARGET + 2 * PAGE), 7);
	memcpy((void *)TARGET, kept, 7);
	priv_expect("code_copied", code_value(TEST), 8);
}

/* Code that changes what comes next, in its own block: seen at once. */
static void check_code_changes_itself(void)
{
	static const uint8_t code[] = {
		0xc6, 0x05,      0x01, 0, 0, 0, 0x42, /* movb $0x42, 1(%rip) */
		0xb8, 0,         0,    0, 0,          /* movl $0, %eax: its first byte of data */
		0xcd, PROBE_END,
	};
	map_fill();
	memcpy((void *)TARGET, code, sizeof(code));
	priv_expect("code_changes_itself", code_value(TEST), 0x42);
	static const uint8_t loop[] = {
		0x31, 0xc0,                              /* xorl %eax, %eax */
		0xb9, 3,         0,    0,    0,          /* movl $3, %ecx */
		0x83, 0xc0,      0x01,                   /* 7: addl $1, %eax */
		0xfe, 0x05,      0xf9, 0xff, 0xff, 0xff, /* incb -7(%rip): that 1 */
		0xff, 0xc9,                              /* decl %ecx */
		0x75, 0xf3,                              /* jnz 7 */
		0xcd, PROBE_END,
	};
	memcpy((void *)TARGET, loop, sizeof(loop));
	priv_expect("code_changes_loop", code_value(TEST), 1 + 2 + 3);
}

/* ---- the TLB
 * ------------------------------------------------------------------------------------- */

static uint64_t peek(uint64_t at)
{
	return *(volatile uint8_t *)at;
}

static void check_tlb(void)
{
	map_fill();
	*(volatile uint8_t *)TARGET = 0x10;
	*(volatile uint8_t *)(TARGET + PAGE) = 0x11;
	priv_expect("tlb_before", peek(TEST), 0x10);
	pt[0] = (TARGET + PAGE) | P | W | U;
	invlpg(TEST + 0x123);
	priv_expect("tlb_invlpg", peek(TEST), 0x11);
	pt[0] = TARGET | P | W | U;
	cr3_write(cr3_read());
	priv_expect("tlb_cr3", peek(TEST), 0x10);
	*(volatile uint8_t *)(TARGET + 0x200000) = 0x12;
	*(volatile uint8_t *)(TARGET + 0x205000) = 0x13;
	(void)peek(TEST_2M);
	(void)peek(TEST_2M + 0x5000);
	pd[1] = (TARGET + 0x200000) | P | W | U | PS;
	invlpg(TEST_2M + 0x12345); /* all of a large page goes, however it is kept */
	priv_expect("tlb_invlpg_2m", peek(TEST_2M), 0x12);
	priv_expect("tlb_invlpg_2m_all", peek(TEST_2M + 0x5000), 0x13);
	pt[0] = 0; /* what is not present is not kept: no flush is needed to map it */
	invlpg(TEST);
	access_run(access_read, MODE_U, TEST, 0);
	pt[0] = TARGET | P | W | U;
	priv_expect("tlb_absent_to_present", peek(TEST), 0x10);
	pt[0] = TARGET | P | U; /* more rights: a fault looks again */
	invlpg(TEST);
	write_protect = true;
	priv_expect("tlb_readonly", access_run(access_write, MODE_U, TEST, 0),
		    ERR_P | ERR_U | ERR_W);
	pt[0] = TARGET | P | U | W;
	invlpg(TEST);
	priv_expect("tlb_writable", access_run(access_write, MODE_U, TEST, 0), NONE);
}

/* A global page that is in the TLB outlives CR3's change, but not a change of CR4.PGE. Whether
 * it was in the TLB at that moment is not defined, so what is seen after CR3 is not told. */
static void check_global(void)
{
	map_fill();
	cr4_write(cr4_read() | CR4_PGE);
	pt[0] |= G;
	*(volatile uint8_t *)TARGET = 0x20;
	*(volatile uint8_t *)(TARGET + PAGE) = 0x21;
	priv_expect("global_before", peek(TEST), 0x20);
	pt[0] = (TARGET + PAGE) | P | W | U | G;
	cr3_write(cr3_read());
	uint64_t seen = peek(TEST);
	say("%s: global_cr3", guest_name);
	priv_verdict(seen == 0x20 || seen == 0x21, "value");
	cr4_write(cr4_read() & ~CR4_PGE);
	priv_expect("global_pge_off", peek(TEST), 0x21);
	pt[0] = TARGET | P | W | U | G;
	cr4_write(cr4_read() | CR4_PGE);
	priv_expect("global_pge_on", peek(TEST), 0x20);
	pt[0] = (TARGET + PAGE) | P | W | U | G;
	invlpg(TEST);
	priv_expect("global_invlpg", peek(TEST), 0x21);
	pt[0] = TARGET | P | W | U;
	invlpg(TEST);
	cr3_write(cr3_read());
	priv_expect("global_no_more", peek(TEST), 0x20);
	priv_restore();
}

/* ---- other tables
 * -------------------------------------------------------------------------------- */

static table other;

/* A second PML4: the same address is another page after CR3 has changed. */
static void check_other_tables(void)
{
	static table other_pdpt, other_pd, other_pt;
	uint64_t cr3 = cr3_read();
	map_fill();
	*(volatile uint8_t *)TARGET = 0x30;
	*(volatile uint8_t *)(TARGET + PAGE) = 0x31;
	memcpy(other, (void *)cr3, sizeof(other));
	other[1] = (uint64_t)other_pdpt | P | W | U;
	other_pdpt[0] = (uint64_t)other_pd | P | W | U;
	other_pd[0] = (uint64_t)other_pt | P | W | U;
	other_pt[0] = (TARGET + PAGE) | P | W | U;
	uint64_t a = peek(TEST);
	cr3_write((uint64_t)other);
	uint64_t b = peek(TEST);
	cr3_write(cr3 | 0x18); /* PWT and PCD are kept and change nothing */
	uint64_t c = peek(TEST), back = cr3_read();
	cr3_write(cr3);
	say("%s: cr3_switch %x %x %x flags=%x", guest_name, a, b, c, back & 0xfff);
	priv_verdict(a == 0x30 && b == 0x31 && c == 0x30 && (back & 0xfff) == 0x18, "value");
	/* The tables map themselves: an entry written by that mapping counts. */
	pt[5] = (uint64_t)pt | P | W;
	volatile uint64_t *mapped = (uint64_t *)(TEST + 5 * PAGE);
	mapped[0] = (TARGET + PAGE) | P | W | U;
	invlpg(TEST);
	priv_expect("self_mapped", peek(TEST), 0x31);
	say("%s: self_mapped_bits %x", guest_name, pt[5] >> 5 & 3);
	priv_verdict((pt[5] >> 5 & 3) == 3, "bits");
}

/* The sign-extended half, and the last page of the low one. */
static void check_halves(void)
{
	uint64_t *pml4 = (uint64_t *)cr3_read();
	map_fill();
	*(volatile uint8_t *)(TARGET + 3) = 0x44;
	pml4[511] = pml4[256] = pml4[1];
	priv_expect("high_half", peek(0xffffff8000000003), 0x44);
	priv_expect("high_half_first", peek(0xffff800000000003), 0x44);
	pml4[255] = pml4[1];
	pdpt[511] = pdpt[0];
	pd[511] = pd[0];
	pt[511] = TARGET | P | W | U;
	cr3_write(cr3_read());
	priv_expect("low_half_last", peek(0x7ffffffff003), 0x44);
	uint64_t e = access_run(access_read_8, MODE_U, 0x7ffffffffffd, 0);
	say("%s: across_canonical e=%x v=%x", guest_name, e, trap.frame.vector);
	priv_verdict(trap.frame.vector == 13 && trap.frame.error == 0, "vector");
	pml4[511] = pml4[256] = pml4[255] = 0;
	cr3_write(cr3_read());
}

void guest_main(void)
{
	priv_begin();
	target_fill();
	check_permissions();
	check_reserved();
	check_large();
	check_bits();
	check_across();
	check_code_across();
	check_code_changes();
	check_code_changes_itself();
	check_tlb();
	check_global();
	check_other_tables();
	check_halves();
	priv_end();
}

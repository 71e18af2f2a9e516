// SPDX-License-Identifier: Apache-2.0
/* The descriptors and tables of privold.h's code; prints what it saw. */
#include "tests/guests/privold.h"

const char guest_name[] = "privold";

struct row {
	const char *name;
	uint32_t wanted, zero;
};
extern const struct row old_rows[], old_rows_end[], real_rows[], real_rows_end[];
extern uint32_t old_seen[512];

extern uint64_t old_gdt[], old_idt[72];
extern uint32_t old_tss_a[26], old_tss_b[26];
extern uint32_t old_directory[1024], old_page_table[1024];
extern uint64_t old_pointers[4], old_directory_pae[512], old_page_table_pae[512];
extern const char old_stubs[], old_near16[], old_gate_target[], old_gate_1_target[], old_task_b[];
extern const char old_inner_top[], old_ring1_top[], old_task_top[];
extern const char real_begin[], real_end[];
void old_run(void);

static uint32_t address(const void *p)
{
	return (uint32_t)(uint64_t)p;
}

static void base_set(unsigned selector, const void *base)
{
	uint64_t at = address(base);
	old_gdt[selector / 8] |= (at & 0xffffff) << 16 | (at >> 24) << 56;
}

static void gate_set(uint64_t *gate, uint32_t target)
{
	*gate |= (target & 0xffff) | (uint64_t)(target >> 16) << 48;
}

/* Interrupt gates; 0x41 is a 16-bit one, 0x42 for all, 0x43 a trap gate. */
static void idt_fill(void)
{
	for (unsigned v = 0; v < 72; v++) {
		old_idt[v] = (uint64_t)SEL_CODE32 << 16 | 0x8eul << 40;
		gate_set(&old_idt[v], address(old_stubs) + 16 * v);
	}
	old_idt[0x41] = (uint64_t)OLD_CODE_NEAR16 << 16 | 0x86ul << 40;
	old_idt[0x42] |= 0x60ul << 40;
	old_idt[0x43] |= 1ul << 40;
}

static void gdt_fill(void)
{
	base_set(OLD_TSS_A, old_tss_a);
	base_set(OLD_TSS_B, old_tss_b);
	base_set(OLD_TSS_NP, old_tss_b);
	base_set(OLD_TSS_SHORT, old_tss_b);
	base_set(OLD_CODE_NEAR16, old_near16);
	gate_set(&old_gdt[OLD_GATE / 8], address(old_gate_target));
	gate_set(&old_gdt[OLD_GATE_1 / 8], address(old_gate_1_target));
}

static void tss_fill(void)
{
	old_tss_a[1] = address(old_inner_top);
	old_tss_a[2] = SEL_DATA;
	old_tss_a[3] = address(old_ring1_top);
	old_tss_a[4] = OLD_DATA_1;
	old_tss_b[1] = address(old_inner_top);
	old_tss_b[2] = SEL_DATA;
	old_tss_b[8] = address(old_task_b);
	old_tss_b[9] = 2;
	old_tss_b[13] = 0xb0b0b0b0;
	old_tss_b[14] = address(old_task_top);
	for (unsigned seg = 18; seg < 24; seg++)
		old_tss_b[seg] = SEL_DATA;
	old_tss_b[19] = SEL_CODE32;
	old_tss_a[25] = old_tss_b[25] = 0x68 << 16; /* no bitmap of ports */
}

/* All that the guest is in by large pages; PAGED by small ones. */
static void paging_fill(void)
{
	for (uint32_t i = 0; i < 16; i++)
		old_directory[i] = i << 22 | 0x87;
	old_directory[PAGED >> 22] = address(old_page_table) | 7;
	for (uint32_t i = 0; i < 32; i++)
		old_directory_pae[i] = i << 21 | 0x87;
	old_directory_pae[PAGED >> 21] = address(old_page_table_pae) | 7;
	old_pointers[0] = address(old_directory_pae) | 1;
}

static void rows_show(const struct row *from, const struct row *to, const uint32_t *seen)
{
	for (; from < to; from++)
		priv_expect(from->name, *seen++, from->wanted);
}

void guest_main(void)
{
	uint32_t *real_seen = (uint32_t *)(REAL_AT + REAL_SEEN);
	priv_begin();
	idt_fill();
	gdt_fill();
	tss_fill();
	paging_fill();
	memcpy((void *)REAL_AT, real_begin, (size_t)(real_end - real_begin));
	*(uint16_t *)REAL_STACK = 0x3fcd; /* INT 3F, for whom the segment's end does not stop */
	for (unsigned i = 0; i < 448; i++)
		old_seen[i] = real_seen[i] = UNSEEN;
	old_run();
	priv_restore();
	rows_show(old_rows, old_rows_end, old_seen);
	rows_show(real_rows, real_rows_end, real_seen);
	priv_end();
}

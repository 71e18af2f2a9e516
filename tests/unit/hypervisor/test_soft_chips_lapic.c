// SPDX-License-Identifier: Apache-2.0
/* LAPICs: priorities, registers, modes, IPIs, messages. */
#include "tests/unit/hypervisor/soft_chips.h"

#define ICR      0x300
#define ICR_HIGH 0x310
#define ESR      0x280
#define ASSERT   0x4000
#define LEVEL    0x8000
#define LOGICAL  0x800
#define SELF     0x40000
#define ALL      0x80000
#define OTHERS   0xc0000

static int ready(void **state)
{
	setup(state);
	lapics_on();
	return 0;
}
static int ready_x2(void **state)
{
	ready(state);
	lapics_x2();
	return 0;
}
static void ipi(unsigned from, uint32_t icr, unsigned to)
{
	wr(from, ICR_HIGH, to << 24);
	wr(from, ICR, icr);
}
static void eoi(unsigned vcpu)
{
	wr(vcpu, 0xb0, 0);
}
/* Bits of the vCPUs that have this vector waiting; they are taken and ended. */
static unsigned receivers(int vector)
{
	unsigned set = 0;

	for (unsigned v = 0; v < CPUS; v++) {
		if (pending(v) < 0)
			continue;
		assert_int_equal(take(v), vector);
		eoi(v);
		assert_int_equal(pending(v), -1);
		set |= 1u << v;
	}
	return set;
}

static void power_on_is_as_the_manual_says(void **state)
{
	soft_chips_reset(chips);
	for (unsigned v = 0; v < CPUS; v++) {
		assert_int_equal(rd(v, 0x20), v << 24);
		assert_int_equal(rd(v, 0x30), 0x50014);
		assert_int_equal(rd(v, 0xe0), UINT32_MAX);
		assert_int_equal(rd(v, 0xf0), 0xff);
		assert_int_equal(rd(v, 0x320), 0x10000);
		assert_int_equal(rd(v, 0x350), v ? 0x10000 : 0x700);
		assert_int_equal(msr_get(v, 0x1b), 0xfee00800 | (v ? 0 : 0x100));
		assert_int_equal(pending(v), -1);
		assert_int_equal(take(v), -1);
		assert_false(soft_chips_nmi_take(chips, v));
		assert_false(soft_chips_init_take(chips, v));
		assert_int_equal(soft_chips_sipi_take(chips, v), -1);
	}
}

static void higher_classes_interrupt_lower_ones(void **state)
{
	ipi(0, 0x51 | ASSERT, 1);
	assert_int_equal(attention, 2);
	assert_int_equal(take(1), 0x51);
	ipi(0, 0x5f | ASSERT, 1); /* same class */
	assert_int_equal(pending(1), -1);
	assert_int_equal(rd(1, 0xa0), 0x50);
	ipi(0, 0x61 | ASSERT, 1);
	ipi(0, 0x71 | ASSERT, 1);
	assert_int_equal(take(1), 0x71);
	assert_int_equal(take(1), -1);
	eoi(1); /* of 0x71 */
	assert_int_equal(take(1), 0x61);
	eoi(1);
	assert_int_equal(pending(1), -1); /* 0x51 still in service */
	eoi(1);
	assert_int_equal(take(1), 0x5f);
	eoi(1);
	eoi(1); /* of nothing */
	assert_int_equal(rd(1, 0xa0), 0);
}

static void the_task_priority_holds_back(void **state)
{
	wr(1, 0x80, 0x57);
	ipi(0, 0x5f | ASSERT, 1);
	assert_int_equal(pending(1), -1);
	assert_int_equal(rd(1, 0xa0), 0x57);
	assert_int_equal(soft_chips_cr8(chips, 1), 5);
	attention = 0;
	soft_chips_cr8_set(chips, 1, 4);
	assert_int_equal(attention, 2);
	assert_int_equal(rd(1, 0x80), 0x40);
	assert_int_equal(pending(1), 0x5f);
	soft_chips_cr8_set(chips, 1, 0xf);
	assert_int_equal(take(1), -1);
	soft_chips_cr8_set(chips, 1, 0);
	assert_int_equal(take(1), 0x5f);
}

static void ipis_go_where_they_are_sent(void **state)
{
	ipi(0, 0x40 | ASSERT, 2);
	assert_int_equal(receivers(0x40), 4);
	ipi(1, 0x40 | ASSERT, 0xff);
	assert_int_equal(receivers(0x40), 0xf);
	ipi(1, 0x40 | ASSERT, 9);
	assert_int_equal(receivers(0x40), 0);
	ipi(1, 0x40 | ASSERT | SELF, 3);
	assert_int_equal(receivers(0x40), 2);
	ipi(1, 0x40 | ASSERT | ALL, 3);
	assert_int_equal(receivers(0x40), 0xf);
	ipi(1, 0x40 | ASSERT | OTHERS, 3);
	assert_int_equal(receivers(0x40), 0xd);
	ipi(1, 0x40 | ASSERT | LOGICAL, 0x6);
	assert_int_equal(receivers(0x40), 6);
	ipi(1, 0x40 | LEVEL, 2); /* level, de-assert: nothing */
	assert_int_equal(receivers(0x40), 0);
	assert_int_equal(rd(1, ICR_HIGH), 2u << 24);
	assert_int_equal(rd(1, ICR), 0x40 | LEVEL);
}

static void clusters_are_addressed_by_nibbles(void **state)
{
	for (unsigned v = 0; v < CPUS; v++) {
		wr(v, 0xe0, 0);
		wr(v, 0xd0, (v / 2 << 4 | 1u << (v % 2)) << 24);
		assert_int_equal(rd(v, 0xe0), 0x0fffffff);
	}
	ipi(0, 0x40 | ASSERT | LOGICAL, 0x13);
	assert_int_equal(receivers(0x40), 0xc);
	ipi(0, 0x40 | ASSERT | LOGICAL, 0x02);
	assert_int_equal(receivers(0x40), 2);
	ipi(0, 0x40 | ASSERT | LOGICAL, 0x23);
	assert_int_equal(receivers(0x40), 0);
}

static void lowest_priority_is_one_of_them(void **state)
{
	unsigned seen = 0;

	for (unsigned vector = 0x40; vector < 0x50; vector++) {
		unsigned set;

		ipi(0, vector | 0x100 | ASSERT | LOGICAL, 0xe);
		set = receivers((int)vector);
		assert_int_equal(__builtin_popcount(set), 1);
		assert_int_equal(set & ~0xeu, 0);
		seen |= set;
	}
	assert_int_equal(seen, 0xe);
	wr(1, 0xf0, 0xff); /* off: not a candidate */
	for (unsigned vector = 0x40; vector < 0x50; vector++) {
		ipi(0, vector | 0x100 | ASSERT | LOGICAL, 0x6);
		assert_int_equal(receivers((int)vector), 4);
	}
}

static void init_and_startup_are_latched(void **state)
{
	ipi(0, 0x699 | ASSERT, 2);
	ipi(0, 0x500 | ASSERT | LEVEL, 2); /* INIT drops a start-up that came before */
	assert_int_equal(attention, 4);
	ipi(0, 0x500 | LEVEL, 2); /* de-assert: nothing */
	assert_int_equal(soft_chips_sipi_take(chips, 2), -1);
	assert_true(soft_chips_init_take(chips, 2));
	assert_false(soft_chips_init_take(chips, 2));
	ipi(0, 0x69a | ASSERT, 2);
	assert_int_equal(soft_chips_sipi_take(chips, 2), 0x9a);
	assert_int_equal(soft_chips_sipi_take(chips, 2), -1);
	ipi(0, 0x400 | ASSERT | OTHERS, 0);
	for (unsigned v = 0; v < CPUS; v++)
		assert_int_equal(soft_chips_nmi_take(chips, v), v != 0);
	assert_false(soft_chips_nmi_take(chips, 1));
	assert_int_equal(receivers(0), 0);
}

static void init_keeps_id_and_base(void **state)
{
	wr(2, 0x20, 7u << 24);
	wr(2, 0x80, 0x30);
	ipi(0, 0x40 | ASSERT, 7);
	soft_chips_cpu_init(chips, 2);
	assert_int_equal(rd(2, 0x20), 7u << 24);
	assert_int_equal(rd(2, 0x80), 0);
	assert_int_equal(rd(2, 0xf0), 0xff);
	assert_int_equal(pending(2), -1);
	assert_int_equal(rd(2, 0x220), 0);
	assert_int_equal(msr_get(2, 0x1b), 0xfee00800);
}

static void software_disable_masks_and_refuses(void **state)
{
	wr(1, 0x320, 0x40);
	ipi(0, 0x41 | ASSERT, 1);
	wr(1, 0xf0, 0xff);
	assert_int_equal(rd(1, 0x320), 0x10040);
	wr(1, 0x320, 0x40);
	assert_int_equal(rd(1, 0x320), 0x10040);
	ipi(0, 0x42 | ASSERT, 1);
	assert_int_equal(receivers(0x41), 2); /* what waited stays, what came later does not */
	ipi(0, 0x400 | ASSERT, 1);
	assert_true(soft_chips_nmi_take(chips, 1));
}

static void errors_are_latched_by_a_write(void **state)
{
	wr(0, 0x370, 0xfe);
	ipi(0, 0x0f | ASSERT, 1);
	assert_int_equal(pending(0), 0xfe);
	assert_int_equal(rd(0, ESR), 0);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0x20);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0);
	(void)soft_chips_msi(chips, now, 0xfee02000, 0x05);
	wr(2, ESR, 0);
	assert_int_equal(rd(2, ESR), 0x40);
	(void)rd(0, 0x40);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0x80);
	wr(0, 0x370, 0x03); /* an error that cannot be told must not tell itself for ever */
	ipi(0, 0x0f | ASSERT, 1);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0x60);
}

static void messages_reach_by_physical_and_logical_id(void **state)
{
	assert_int_equal(soft_chips_msi(chips, now, 0xfee03000, 0x40), 0);
	assert_int_equal(receivers(0x40), 8);
	assert_int_equal(soft_chips_msi(chips, now, 0xfee05004, 0x40), 0);
	assert_int_equal(receivers(0x40), 5);
	assert_int_equal(soft_chips_msi(chips, now, 0xfee0f00c, 0x140), 0);
	assert_int_equal(__builtin_popcount(receivers(0x40)), 1);
	assert_int_equal(soft_chips_msi(chips, now, 0xfee0f00c, 0x40), 0); /* the hint alone */
	assert_int_equal(__builtin_popcount(receivers(0x40)), 1);
	assert_int_equal(soft_chips_msi(chips, now, 0xfeeff000, 0x40), 0);
	assert_int_equal(receivers(0x40), 0xf);
	assert_int_equal(soft_chips_msi(chips, now, 0xfee02000, 0x400), 0);
	assert_true(soft_chips_nmi_take(chips, 2));
	assert_int_equal(soft_chips_msi(chips, now, 0xfee02000, 0x500), 0);
	assert_true(soft_chips_init_take(chips, 2));
	assert_int_equal(soft_chips_msi(chips, now, 0xfee09000, 0x40), -EINVAL);
	assert_int_equal(soft_chips_msi(chips, now, 0xfed03000, 0x40), -EINVAL);
	assert_int_equal(soft_chips_msi(chips, now, UINT64_C(0x1fee03000), 0x40), -EINVAL);
	assert_int_equal(receivers(0), 0);
}

static void the_base_moves_and_modes_change_in_order(void **state)
{
	uint32_t word;

	assert_int_equal(msr_set(1, 0x1b, 0xfee00400), -EINVAL); /* x2 without on */
	assert_int_equal(msr_set(1, 0x1b, 0xfee00801), -EINVAL); /* reserved */
	assert_int_equal(msr_set(1, 0x1b, 0xfed00800), 0);
	assert_false(soft_chips_mmio(chips, now, 1, LAPIC_PAGE, &word, 4, false));
	assert_true(soft_chips_mmio(chips, now, 1, 0xfed00030, &word, 4, false));
	assert_int_equal(word, 0x50014);
	assert_int_equal(rd(0, 0x30), 0x50014); /* others stay where they are */
	assert_int_equal(msr_set(1, 0x1b, 0xfee00800), 0);
	assert_int_equal(msr_set(1, 0x1b, 0xfee00c00), 0);
	assert_false(soft_chips_mmio(chips, now, 1, LAPIC_PAGE, &word, 4, false));
	assert_int_equal(msr_set(1, 0x1b, 0xfee00800), -EINVAL); /* x2 to x */
	assert_int_equal(msr_set(1, 0x1b, 0xfee00000), 0);
	assert_false(soft_chips_mmio(chips, now, 1, LAPIC_PAGE, &word, 4, false));
	ipi(0, 0x40 | ASSERT, 1);
	assert_int_equal(pending(1), -1);
	assert_int_equal(msr_set(1, 0x1b, 0xfee00c00), -EINVAL); /* off to x2 */
	assert_int_equal(msr_set(1, 0x1b, 0xfee00800), 0);
	assert_int_equal(rd(1, 0xf0), 0xff); /* it has forgotten all */
}

static void odd_accesses_do_nothing(void **state)
{
	uint64_t wide = UINT64_MAX;

	assert_true(soft_chips_mmio(chips, now, 1, LAPIC_PAGE + 0x80, &wide, 8, true));
	assert_true(soft_chips_mmio(chips, now, 1, LAPIC_PAGE + 0x84, &wide, 4, true));
	assert_int_equal(rd(1, 0x80), 0);
	wr(1, 0x80, 0x20);
	wide = 0;
	assert_true(soft_chips_mmio(chips, now, 1, LAPIC_PAGE + 0x80, &wide, 1, false));
	assert_int_equal(wide, 0x20);
	assert_true(soft_chips_mmio(chips, now, 1, LAPIC_PAGE + 0xffc, &wide, 8, false));
	assert_true(wide == 0);
	wr(1, 0xff0, 1);
	assert_false(soft_chips_mmio(chips, now, 1, LAPIC_PAGE + 0x1000, &wide, 4, false));
	assert_false(soft_chips_mmio(chips, now, 1, LAPIC_PAGE - 4, &wide, 4, false));
}

/* ---- x2APIC -------------------------------------------------------------------------- */

static unsigned receivers_x2(int vector)
{
	unsigned set = 0;

	for (unsigned v = 0; v < CPUS; v++) {
		if (pending(v) < 0)
			continue;
		assert_int_equal(take(v), vector);
		assert_int_equal(msr_set(v, 0x80b, 0), 0);
		set |= 1u << v;
	}
	return set;
}

static void x2_registers_are_msrs(void **state)
{
	uint64_t value;

	assert_int_equal(msr_get(2, 0x802), 2);
	assert_int_equal(msr_get(2, 0x803), 0x50014);
	assert_int_equal(msr_get(2, 0x80d), 4);
	assert_int_equal(msr_set(2, 0x808, 0x30), 0);
	assert_int_equal(msr_get(2, 0x80a), 0x30);
	assert_int_equal(soft_chips_cr8(chips, 2), 3);
	for (uint32_t msr = 0x840; msr < 0x900; msr++)
		assert_int_equal(soft_chips_msr_read(chips, now, 2, msr, &value), -EINVAL);
	static const uint32_t no_read[] = {0x800, 0x80b, 0x80e, 0x82f, 0x831, 0x83f};
	static const uint32_t no_write[] = {0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810,
					    0x820, 0x82f, 0x831, 0x839, 0x8ff};
	for (unsigned i = 0; i < ARRAY_LEN(no_read); i++)
		assert_int_equal(soft_chips_msr_read(chips, now, 2, no_read[i], &value), -EINVAL);
	for (unsigned i = 0; i < ARRAY_LEN(no_write); i++)
		assert_int_equal(msr_set(2, no_write[i], 0), -EINVAL);
	assert_int_equal(msr_set(2, 0x80b, 1), -EINVAL);
	assert_int_equal(msr_set(2, 0x828, 1), -EINVAL);
	assert_int_equal(msr_set(2, 0x808, UINT64_C(1) << 32), -EINVAL);
	assert_int_equal(msr_set(2, 0x830, 0x2040), -EINVAL);
	assert_int_equal(msr_set(2, 0x7ff, 0), -ENOENT);
	assert_int_equal(soft_chips_msr_read(chips, now, 2, 0x900, &value), -ENOENT);
	assert_int_equal(soft_chips_msr_read(chips, now, 2, 0x10, &value), -ENOENT);
}

static void x2_ipis_have_wide_destinations(void **state)
{
	assert_int_equal(msr_set(1, 0x830, UINT64_C(3) << 32 | 0x40), 0);
	assert_int_equal(receivers_x2(0x40), 8);
	assert_int_equal(msr_get(1, 0x830), UINT64_C(3) << 32 | 0x40);
	assert_int_equal(msr_set(1, 0x830, UINT64_C(0xffffffff) << 32 | 0x40), 0);
	assert_int_equal(receivers_x2(0x40), 0xf);
	assert_int_equal(msr_set(1, 0x830, UINT64_C(0xff) << 32 | 0x40), 0); /* one that is not */
	assert_int_equal(receivers_x2(0x40), 0);
	assert_int_equal(msr_set(1, 0x830, UINT64_C(0xa) << 32 | 0x40 | LOGICAL), 0);
	assert_int_equal(receivers_x2(0x40), 0xa);
	assert_int_equal(msr_set(1, 0x830, UINT64_C(0x1000a) << 32 | 0x40 | LOGICAL), 0);
	assert_int_equal(receivers_x2(0x40), 0);
	assert_int_equal(msr_set(1, 0x830, 0x40 | OTHERS), 0);
	assert_int_equal(receivers_x2(0x40), 0xd);
	assert_int_equal(msr_set(1, 0x83f, 0x41), 0);
	assert_int_equal(receivers_x2(0x41), 2);
	assert_int_equal(msr_set(1, 0x83f, 0x141), -EINVAL);
	assert_int_equal(soft_chips_msi(chips, now, 0xfeeff000, 0x42), 0);
	assert_int_equal(receivers_x2(0x42), 0xf);
	assert_int_equal(soft_chips_msi(chips, now, 0xfee06004, 0x42), 0);
	assert_int_equal(receivers_x2(0x42), 6);
}

static void x2_registers_fault_in_xapic_mode(void **state)
{
	uint64_t value;

	assert_int_equal(soft_chips_msr_read(chips, now, 0, 0x802, &value), -EINVAL);
	assert_int_equal(msr_set(0, 0x80b, 0), -EINVAL);
}

static void vcpus_are_1_to_254(void **state)
{
	const struct soft_chips_hooks hooks = {.attention = attention_set, .tsc_to_ns = tsc_to_ns};
	struct soft_chips *big;

	assert_int_equal(soft_chips_create(0, &hooks, &big), -EINVAL);
	assert_int_equal(soft_chips_create(255, &hooks, &big), -EINVAL);
	assert_int_equal(soft_chips_create(254, &hooks, &big), 0);
	soft_chips_destroy(big);
}

int main(void)
{
#define TEST(name)    cmocka_unit_test_setup_teardown(name, ready, teardown)
#define TEST_X2(name) cmocka_unit_test_setup_teardown(name, ready_x2, teardown)
	const struct CMUnitTest tests[] = {
		TEST(power_on_is_as_the_manual_says),
		TEST(higher_classes_interrupt_lower_ones),
		TEST(the_task_priority_holds_back),
		TEST(ipis_go_where_they_are_sent),
		TEST(clusters_are_addressed_by_nibbles),
		TEST(lowest_priority_is_one_of_them),
		TEST(init_and_startup_are_latched),
		TEST(init_keeps_id_and_base),
		TEST(software_disable_masks_and_refuses),
		TEST(errors_are_latched_by_a_write),
		TEST(messages_reach_by_physical_and_logical_id),
		TEST(the_base_moves_and_modes_change_in_order),
		TEST(odd_accesses_do_nothing),
		TEST_X2(x2_registers_are_msrs),
		TEST_X2(x2_ipis_have_wide_destinations),
		TEST(x2_registers_fault_in_xapic_mode),
		TEST(vcpus_are_1_to_254),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* Saving in the middle of things and going on elsewhere; states and accesses at random. */
#include <stdio.h>
#include <time.h>

#include "tests/unit/hypervisor/soft_chips.h"

struct image {
	uint64_t base[CPUS], deadline[CPUS];
	struct kvm_lapic_state lapic[CPUS];
	struct kvm_irqchip irqchip[3];
	struct kvm_pit_state2 pit;
};

static void save(struct image *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned v = 0; v < CPUS; v++) {
		out->base[v] = soft_chips_apic_base(chips, v);
		soft_chips_lapic_save(chips, now, v, &out->lapic[v]);
		out->deadline[v] = soft_chips_tsc_deadline(chips, now, v);
	}
	soft_chips_irqchips_save(chips, now, out->irqchip);
	soft_chips_pit_save(chips, now, &out->pit);
}
static int load(const struct image *in)
{
	int rc = 0;

	for (unsigned v = 0; !rc && v < CPUS; v++) {
		rc = soft_chips_apic_base_set(chips, v, in->base[v]);
		if (!rc)
			rc = soft_chips_lapic_load(chips, now, v, &in->lapic[v]);
		if (!rc)
			soft_chips_tsc_deadline_set(chips, now, v, in->deadline[v]);
	}
	if (!rc)
		rc = soft_chips_irqchips_load(chips, now, in->irqchip);
	return rc ? rc : soft_chips_pit_load(chips, now, &in->pit);
}
/* On fresh chips, which save the same again. */
static void move(void)
{
	struct image before, after;

	save(&before);
	teardown(NULL);
	uint64_t then = now;
	setup(NULL);
	now = then;
	assert_int_equal(load(&before), 0);
	save(&after);
	assert_memory_equal(&before, &after, sizeof(before));
}
static uint32_t saved(const struct image *m, unsigned vcpu, unsigned offset)
{
	uint32_t value;

	memcpy(&value, &m->lapic[vcpu].regs[offset], sizeof(value));
	return value;
}
static void saved_set(struct image *m, unsigned vcpu, unsigned offset, uint32_t value)
{
	memcpy(&m->lapic[vcpu].regs[offset], &value, sizeof(value));
}

static void power_on_moves(void **state)
{
	move();
	assert_int_equal(pending(0), -1);
}

static void interrupts_in_service_and_waiting_move(void **state)
{
	lapics_on();
	pin_route(10, 0x8051, 1);
	irq(10, true);
	assert_int_equal(take(1), 0x51);
	wr(0, 0x310, 1u << 24);
	wr(0, 0x300, 0x4062);
	wr(0, 0x300, 0x4041);
	wr(1, 0x80, 0x3f);
	move();
	assert_int_equal(attention & 2, 2);
	assert_int_equal(take(1), 0x62);
	wr(1, 0xb0, 0);
	wr(1, 0xb0, 0); /* of 0x51: its pin is still high */
	assert_int_equal(take(1), 0x51);
	irq(10, false);
	wr(1, 0xb0, 0);
	assert_int_equal(take(1), 0x41);
}

static void an_edge_that_was_delivered_is_not_delivered_again(void **state)
{
	lapics_on();
	pin_route(9, 0x59, 2);
	irq(9, true);
	assert_int_equal(take(2), 0x59);
	wr(2, 0xb0, 0);
	move();
	assert_int_equal(pending(2), -1);
}

static void timers_move_with_what_is_left(void **state)
{
	lapics_on();
	wr(0, 0x3e0, 3);
	wr(0, 0x320, 0x20041);
	wr(0, 0x380, 100000);
	pass(16 * 250000 + 16 * 500);
	assert_int_equal(take(0), 0x41);
	wr(0, 0xb0, 0);
	wr(1, 0x320, 0x42);
	wr(1, 0x380, 5000);
	wr(2, 0x320, 0x40043);
	assert_int_equal(msr_set(2, 0x6e0, 3 * (now + 7000)), 0);
	move();
	assert_int_equal(rd(0, 0x390), 49500);
	pass(7000);
	assert_int_equal(take(2), 0x43);
	assert_int_equal(msr_get(2, 0x6e0), 0);
	pass(3000);
	assert_int_equal(take(1), 0x42);
	pass(16 * 49500 - 10000);
	assert_int_equal(take(0), 0x41);
	assert_int_equal(soft_chips_deadline(chips), now + 1600000);
}

static void x2apic_mode_moves(void **state)
{
	struct image m;

	lapics_on();
	lapics_x2();
	assert_int_equal(msr_set(1, 0x830, UINT64_C(3) << 32 | 0x40), 0);
	save(&m);
	for (unsigned v = 0; v < CPUS; v++) {
		assert_int_equal(saved(&m, v, 0x20), v << 24);
		assert_int_equal(saved(&m, v, 0xd0), 1u << v);
	}
	assert_int_equal(saved(&m, 1, 0x300), 0x40);
	assert_int_equal(saved(&m, 1, 0x310), 3);
	move();
	assert_int_equal(take(3), 0x40);
	assert_int_equal(msr_get(3, 0x802), 3);
}

/* KVM may have seen it expire without having set IRR. */
static void a_one_shot_timer_at_0_fires_once_more(void **state)
{
	struct image m;

	lapics_on();
	wr(0, 0x320, 0x41);
	save(&m);
	saved_set(&m, 0, 0x380, 1000);
	assert_int_equal(load(&m), 0);
	soft_chips_run(chips, now);
	assert_int_equal(take(0), 0x41);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
}

static void pic_and_pit_move(void **state)
{
	pics_on();
	out8(0x4d0, 0x20);
	irq(5, true);
	irq(12, true);
	assert_int_equal(take(0), 0x2c);
	out8(0x43, 0x34);
	out8(0x40, 0xe8);
	out8(0x40, 3);
	out8(0x61, 3);
	out8(0x43, 0); /* latched, and half read */
	(void)in8(0x40);
	out8(0x20, 0x11); /* in the middle of initialization */
	out8(0x21, 0x20);
	move();
	out8(0x21, 4);
	out8(0x21, 1);
	out8(0x21, 0xde);
	assert_int_equal(in8(0x61) & 3, 3);
	assert_int_equal(in8(0x40), 3);
	assert_int_equal(take(0), 0x25);
	out8(0x20, 0x20);
	pass(2 * MS);
	irq(5, false);
	assert_int_equal(take(0), 0x20);
}

/* ---- what is refused ------------------------------------------------------------------- */

static void refused_values_change_nothing(void **state)
{
	struct image good, m, after;

	lapics_on();
	pics_on();
	save(&good);
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		m = good;                                                                          \
		change;                                                                            \
		assert_int_equal(load(&m), -EINVAL);                                               \
		save(&after);                                                                      \
		assert_memory_equal(&good, &after, sizeof(good));                                  \
	} while (0)
	REFUSED(m.base[0] = 0xfee00400);
	REFUSED(m.base[0] = 0xfee00802);
	REFUSED(m.base[0] = UINT64_MAX);
	REFUSED(saved_set(&m, 1, 0x80, 0x100));
	REFUSED(saved_set(&m, 1, 0xf0, 0x2000));
	REFUSED(saved_set(&m, 1, 0x3e0, 4));
	REFUSED(saved_set(&m, 1, 0x350, 0x80000));
	REFUSED(m.irqchip[0].chip.pic.init_state = 4);
	REFUSED(m.irqchip[1].chip.pic.priority_add = 8);
	REFUSED(m.irqchip[1].chip.pic.elcr = 1);
	REFUSED(m.irqchip[2].chip.ioapic.base_address = 0);
	REFUSED(m.irqchip[2].chip.ioapic.ioregsel = 0x100);
	REFUSED(m.irqchip[2].chip.ioapic.irr = 0x1000000);
	REFUSED(m.pit.channels[0].count = 0x10001);
	REFUSED(m.pit.channels[1].mode = 6);
	REFUSED(m.pit.channels[2].rw_mode = 4);
	REFUSED(m.pit.channels[2].write_state = 5);
	REFUSED(m.pit.channels[2].gate = 2);
	REFUSED(m.pit.flags = 4);
}

/* ---- at random ----------------------------------------------------------------------- */

static uint64_t seed;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}
static void octets_draw(void *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)at)[i] = (uint8_t)(draw() >> 24);
}
static void access_draw(void)
{
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
					 0x40, 0x41, 0x42, 0x43, 0x61};
	static const uint8_t sizes[] = {1, 2, 4, 4, 4, 8};
	uint64_t value = draw() >> draw() % 64, what = draw() % 9;
	unsigned vcpu = draw() % CPUS, size = sizes[draw() % sizeof(sizes)];
	bool write = draw() % 4;
	int rc = 0;

	if (what == 0)
		rc = soft_chips_port(chips, now, ports[draw() % ARRAY_LEN(ports)], &value, size,
				     write);
	else if (what <= 2)
		rc = soft_chips_mmio(chips, now, vcpu,
				     LAPIC_PAGE + draw() % 0x40 * 16 +
					     (draw() % 8 ? 0 : draw() % 16),
				     &value, size, write);
	else if (what == 3)
		rc = soft_chips_mmio(chips, now, vcpu, IOAPIC + draw() % 2 * 16, &value, size,
				     write);
	else if (what == 4 && write)
		rc = msr_set(vcpu, 0x800 + draw() % 0x40, value);
	else if (what == 4)
		rc = soft_chips_msr_read(chips, now, vcpu, 0x800 + draw() % 0x40, &value);
	else if (what == 5 && draw() % 64 == 0)
		rc = msr_set(vcpu, 0x1b, 0xfee00000 | (draw() & 0xd00));
	else if (what == 5)
		rc = msr_set(vcpu, 0x6e0, draw() % 2 ? value : 3 * (now + value % MS));
	else if (what == 6)
		irq((unsigned)draw() % 26, draw() & 1);
	else if (what == 7)
		rc = soft_chips_msi(chips, now, 0xfee00000 | (value & 0xfffff),
				    (uint32_t)draw() & 0xcfff);
	else
		soft_chips_cr8_set(chips, vcpu, value);
	assert_true(rc >= -EINVAL && rc <= 1);
}
/* What always holds, whatever a guest did. */
static void look(void)
{
	for (unsigned v = 0; v < CPUS; v++) {
		int before = pending(v), vector = draw() % 2 ? take(v) : before;

		assert_in_range(before + 1, 0, SOFT_CHIPS_FROM_PIC + 1);
		assert_true(before < 0 || before == SOFT_CHIPS_FROM_PIC || before == vector);
		assert_true(before >= 0 || vector < 0);
		(void)soft_chips_nmi_take(chips, v);
		(void)soft_chips_init_take(chips, v);
		assert_true(soft_chips_sipi_take(chips, v) <= 0xff);
	}
	assert_true(soft_chips_deadline(chips) > now);
}
/* Two images may differ in what loading alone starts: timers, and pins that then deliver. */
static void any_guest_leaves_a_state_that_loads(void **state)
{
	struct image m;

	for (unsigned i = 0; i < 60000; i++) {
		access_draw();
		if (draw() % 4 == 0) {
			pass(draw() >> (20 + draw() % 44));
			look();
		}
		if (draw() % 256)
			continue;
		save(&m);
		assert_int_equal(load(&m), 0);
		if (draw() % 4 == 0)
			soft_chips_cpu_init(chips, draw() % CPUS);
		if (now > UINT64_C(1) << 60)
			now = 0, soft_chips_reset(chips);
	}
}

static void any_image_is_refused_or_sound(void **state)
{
	struct image good, m;

	save(&good);
	for (unsigned i = 0; i < 4000; i++) {
		m = good;
		for (unsigned n = draw() % 8; n; n--)
			octets_draw((uint8_t *)&m + draw() % (sizeof(m) - 4), 1 + draw() % 4);
		if (draw() % 4 == 0)
			octets_draw(&m.irqchip[2].chip.ioapic.redirtbl,
				    sizeof(m.irqchip[2].chip.ioapic.redirtbl));
		if (load(&m))
			continue;
		for (unsigned k = 0; k < 16; k++) {
			access_draw();
			pass(draw() % (10 * MS));
			look();
		}
		soft_chips_reset(chips);
	}
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(power_on_moves),
		TEST(interrupts_in_service_and_waiting_move),
		TEST(an_edge_that_was_delivered_is_not_delivered_again),
		TEST(timers_move_with_what_is_left),
		TEST(x2apic_mode_moves),
		TEST(a_one_shot_timer_at_0_fires_once_more),
		TEST(pic_and_pit_move),
		TEST(refused_values_change_nothing),
		TEST(any_guest_leaves_a_state_that_loads),
		TEST(any_image_is_refused_or_sound),
	};
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
	printf("seed %#llx\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* Side by side with KVM's own chips, which no guest drives here: the same state loaded, the
 * same pins and messages, the same state saved. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/hypervisor/soft_chips.h"

#define PPR          0xa0
#define CPUID_LEAVES 200
#define ROUTES       40 /* 16 of the PICs, 24 of the IOAPIC */

static struct {
	int kvm, vm, vcpu[CPUS];
} real = {.kvm = -1, .vm = -1};

struct image {
	uint64_t base[CPUS];
	struct kvm_lapic_state lapic[CPUS];
	struct kvm_irqchip irqchip[3];
	struct kvm_pit_state2 pit;
};

static uint64_t seed;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

/* ---- KVM ----------------------------------------------------------------------------- */

static void routes_set(void)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[ROUTES];
	} r = {0};

	for (unsigned gsi = 0; gsi < 24; gsi++) {
		struct kvm_irq_routing_entry e = {.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP};

		if (gsi == 2)
			continue;
		e.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e.u.irqchip.pin = gsi ? gsi : 2;
		r.entries[r.head.nr++] = e;
		e.u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e.u.irqchip.pin = gsi % 8;
		if (gsi < 16)
			r.entries[r.head.nr++] = e;
	}
	assert_int_equal(ioctl(real.vm, KVM_SET_GSI_ROUTING, &r), 0);
}
/* With what the host offers: x2APIC mode has to be in it. */
static void cpuid_set(int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_LEAVES];
	} cpuid = {.head.nent = CPUID_LEAVES};

	assert_int_equal(ioctl(real.kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (unsigned i = 0; i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function == 1)
			cpuid.entries[i].ecx |= 1u << 21;
	assert_int_equal(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), 0);
}
static int kvm_teardown(void **state)
{
	for (unsigned v = 0; real.vm >= 0 && v < CPUS; v++)
		close(real.vcpu[v]);
	if (real.vm >= 0)
		close(real.vm);
	if (real.kvm >= 0)
		close(real.kvm);
	real.vm = real.kvm = -1;
	return teardown(state);
}
static int kvm_setup(void **state)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	setup(state);
	real.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (real.kvm < 0)
		return 0;
	real.vm = ioctl(real.kvm, KVM_CREATE_VM, 0);
	assert_true(real.vm >= 0);
	assert_int_equal(ioctl(real.vm, KVM_SET_TSS_ADDR, 0xfffbd000), 0);
	assert_int_equal(ioctl(real.vm, KVM_CREATE_IRQCHIP), 0);
	routes_set();
	assert_int_equal(ioctl(real.vm, KVM_CREATE_PIT2, &pit), 0);
	for (unsigned v = 0; v < CPUS; v++) {
		real.vcpu[v] = ioctl(real.vm, KVM_CREATE_VCPU, v);
		assert_true(real.vcpu[v] >= 0);
		cpuid_set(real.vcpu[v]);
	}
	return 0;
}
static void need_kvm(void)
{
	if (real.kvm >= 0)
		return;
	print_message("SKIPPED: no /dev/kvm here\n");
	skip();
}

/* ---- both ---------------------------------------------------------------------------- */

static void soft_save(struct image *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned v = 0; v < CPUS; v++) {
		out->base[v] = soft_chips_apic_base(chips, v);
		soft_chips_lapic_save(chips, now, v, &out->lapic[v]);
	}
	soft_chips_irqchips_save(chips, now, out->irqchip);
	soft_chips_pit_save(chips, now, &out->pit);
}
static void soft_load(const struct image *in)
{
	for (unsigned v = 0; v < CPUS; v++) {
		assert_int_equal(soft_chips_apic_base_set(chips, v, in->base[v]), 0);
		assert_int_equal(soft_chips_lapic_load(chips, now, v, &in->lapic[v]), 0);
	}
	assert_int_equal(soft_chips_irqchips_load(chips, now, in->irqchip), 0);
	assert_int_equal(soft_chips_pit_load(chips, now, &in->pit), 0);
}
static void kvm_save(struct image *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned v = 0; v < CPUS; v++) {
		struct kvm_sregs sregs;

		assert_int_equal(ioctl(real.vcpu[v], KVM_GET_SREGS, &sregs), 0);
		out->base[v] = sregs.apic_base;
		assert_int_equal(ioctl(real.vcpu[v], KVM_GET_LAPIC, &out->lapic[v]), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		out->irqchip[i].chip_id = i;
		assert_int_equal(ioctl(real.vm, KVM_GET_IRQCHIP, &out->irqchip[i]), 0);
	}
	assert_int_equal(ioctl(real.vm, KVM_GET_PIT2, &out->pit), 0);
	for (unsigned i = 0; i < 3; i++)
		out->pit.channels[i].count_load_time = 0;
}
static void kvm_load(const struct image *in)
{
	struct image m = *in;

	for (unsigned v = 0; v < CPUS; v++) {
		struct kvm_sregs sregs;

		assert_int_equal(ioctl(real.vcpu[v], KVM_GET_SREGS, &sregs), 0);
		sregs.apic_base = m.base[v];
		assert_int_equal(ioctl(real.vcpu[v], KVM_SET_SREGS, &sregs), 0);
		assert_int_equal(ioctl(real.vcpu[v], KVM_SET_LAPIC, &m.lapic[v]), 0);
	}
	/* The slave first: a master looks at once at the slave that is there. */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ioctl(real.vm, KVM_SET_IRQCHIP, &m.irqchip[(i + 1) % 3]), 0);
	assert_int_equal(ioctl(real.vm, KVM_SET_PIT2, &m.pit), 0);
}

static void octets_compare(const char *what, unsigned which, const void *soft, const void *kvm,
			   size_t n)
{
	const uint8_t *a = soft, *b = kvm;

	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i])
			fail_msg("%s %u differs at %#zx: soft %#x, KVM %#x", what, which, i, a[i],
				 b[i]);
}
static void both_save_the_same(void)
{
	struct image soft, kvm;

	soft_save(&soft);
	kvm_save(&kvm);
	for (unsigned v = 0; v < CPUS; v++) {
		assert_true(soft.base[v] == kvm.base[v]);
		/* PPR follows from TPR and ISR: KVM works it out when the vCPU runs. */
		memcpy(&kvm.lapic[v].regs[PPR], &soft.lapic[v].regs[PPR], sizeof(uint32_t));
		octets_compare("LAPIC", v, &soft.lapic[v], &kvm.lapic[v], sizeof(soft.lapic[v]));
	}
	for (unsigned i = 0; i < 2; i++)
		octets_compare("PIC", i, &soft.irqchip[i].chip.pic, &kvm.irqchip[i].chip.pic,
			       sizeof(soft.irqchip[i].chip.pic));
	octets_compare("IOAPIC", 0, &soft.irqchip[2].chip.ioapic, &kvm.irqchip[2].chip.ioapic,
		       sizeof(soft.irqchip[2].chip.ioapic));
	octets_compare("PIT", 0, &soft.pit, &kvm.pit, sizeof(soft.pit));
}

/* ---- states -------------------------------------------------------------------------- */

static void reg_put(struct image *m, unsigned vcpu, unsigned offset, uint32_t value)
{
	memcpy(&m->lapic[vcpu].regs[offset], &value, sizeof(value));
}
static unsigned vector_draw(void)
{
	return 16 + (unsigned)draw() % 240;
}
static void lapic_draw(struct image *m, unsigned v, bool x2)
{
	m->base[v] = 0xfee00800 | (x2 ? 0x400 : 0) | (v ? 0 : 0x100);
	reg_put(m, v, 0x20, v << 24);
	reg_put(m, v, 0x30, 0x50014);
	reg_put(m, v, 0x80, (uint32_t)draw() & 0xff);
	reg_put(m, v, 0xd0, x2 ? 1u << v : UINT32_C(1) << (24 + v));
	reg_put(m, v, 0xe0, UINT32_MAX);
	reg_put(m, v, 0xf0, draw() % 8 ? 0x1ff : 0xff);
	for (unsigned i = 0; i < 3; i++) {
		unsigned bank = 1 + (unsigned)draw() % 7;

		reg_put(m, v, 0x100 + bank * 16, 1u << draw() % 32);
		reg_put(m, v, 0x180 + bank * 16, 1u << draw() % 32);
		reg_put(m, v, 0x200 + bank * 16, 1u << draw() % 32);
	}
	for (unsigned offset = 0x320; offset <= 0x370; offset += 16)
		reg_put(m, v, offset, 0x10000 | vector_draw());
	if (draw() % 2)
		reg_put(m, v, 0x350, 0x700);
	reg_put(m, v, 0x3e0, (uint32_t)draw() & 0xb);
}
static void pic_draw(struct kvm_pic_state *s, unsigned which)
{
	s->elcr_mask = which ? 0xde : 0xf8;
	s->elcr = (uint8_t)draw() & s->elcr_mask;
	s->imr = (uint8_t)draw();
	s->isr = draw() % 2 ? 0 : (uint8_t)(1u << draw() % 8);
	s->priority_add = draw() % 2 ? 0 : draw() % 8;
	s->irq_base = which ? 0x28 : 0x20;
	s->read_reg_select = draw() & 1;
	s->special_mask = 0; /* KVM has none */
	s->auto_eoi = draw() & 1;
	s->special_fully_nested_mode = draw() % 4 == 0;
	s->init4 = 1;
}
static void ioapic_draw(struct kvm_ioapic_state *s)
{
	s->base_address = IOAPIC;
	s->ioregsel = (uint8_t)draw();
	s->id = draw() & 0xf;
	for (unsigned pin = 0; pin < 24; pin++) {
		s->redirtbl[pin].fields.vector = (uint8_t)vector_draw();
		s->redirtbl[pin].fields.trig_mode = draw() & 1;
		s->redirtbl[pin].fields.mask = draw() % 4 == 0;
		s->redirtbl[pin].fields.dest_mode = draw() & 1;
		s->redirtbl[pin].fields.polarity = draw() & 1;
		s->redirtbl[pin].fields.dest_id =
			s->redirtbl[pin].fields.dest_mode ? 1 + draw() % 15 : draw() % CPUS;
	}
}
/* Channel 0 in a mode that makes no interrupts by itself. */
static void pit_draw(struct kvm_pit_state2 *s)
{
	for (unsigned i = 0; i < 3; i++) {
		struct kvm_pit_channel_state *ch = &s->channels[i];

		ch->count = (uint32_t)draw() % 0x10001;
		ch->mode = i ? draw() % 6 : 5;
		ch->rw_mode = ch->read_state = ch->write_state = 1 + draw() % 3;
		ch->count_latched = draw() & 1 ? ch->rw_mode : 0;
		ch->latched_count = (uint16_t)draw();
		ch->write_latch = (uint8_t)draw();
		ch->gate = i == 2 ? draw() & 1 : 1;
	}
	s->flags = draw() & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
}
static void image_draw(struct image *m)
{
	bool x2 = draw() & 1;

	memset(m, 0, sizeof(*m));
	for (unsigned v = 0; v < CPUS; v++)
		lapic_draw(m, v, x2);
	for (unsigned i = 0; i < 3; i++)
		m->irqchip[i].chip_id = i;
	pic_draw(&m->irqchip[0].chip.pic, 0);
	pic_draw(&m->irqchip[1].chip.pic, 1);
	ioapic_draw(&m->irqchip[2].chip.ioapic);
	pit_draw(&m->pit);
}

/* ---- events -------------------------------------------------------------------------- */

/* A line that is raised twice would still wait, to KVM, after its edge was delivered. */
static uint32_t lines;

static void line_flip(unsigned gsi, bool soft_only)
{
	struct kvm_irq_level line = {.irq = gsi, .level = !(lines >> gsi & 1)};

	if (gsi == 2)
		return;
	lines ^= 1u << gsi;
	irq(gsi, line.level);
	if (!soft_only)
		assert_int_equal(ioctl(real.vm, KVM_IRQ_LINE, &line), 0);
}
/* They are no part of the state. */
static void lines_fall(void)
{
	for (unsigned gsi = 0; gsi < 24; gsi++)
		if (lines >> gsi & 1)
			line_flip(gsi, false);
}
/* Fixed, to one or to several. */
static void message_event(void)
{
	bool logical = draw() & 1;
	uint32_t to = logical ? 1 + (uint32_t)draw() % 15 : (uint32_t)draw() % CPUS;
	struct kvm_msi msi = {.address_lo = 0xfee00000 | to << 12 | (logical ? 4 : 0),
			      .data = vector_draw() | (draw() % 4 ? 0 : 0x8000)};

	assert_true(ioctl(real.vm, KVM_SIGNAL_MSI, &msi) >= 0);
	assert_int_equal(soft_chips_msi(chips, now, msi.address_lo, msi.data), 0);
}

/* ---- tests --------------------------------------------------------------------------- */

static void power_on_is_the_same(void **state)
{
	need_kvm();
	both_save_the_same();
}

static void loaded_states_are_saved_the_same(void **state)
{
	struct image m;

	need_kvm();
	for (unsigned i = 0; i < 40; i++) {
		image_draw(&m);
		soft_load(&m);
		kvm_load(&m);
		both_save_the_same();
	}
}

static void pins_and_messages_do_the_same(void **state)
{
	struct image m;

	need_kvm();
	for (unsigned i = 0; i < 40; i++) {
		image_draw(&m);
		soft_load(&m);
		kvm_load(&m);
		for (unsigned k = 0; k < 40; k++) {
			if (draw() % 3)
				line_flip((unsigned)draw() % 24, false);
			else
				message_event();
			both_save_the_same();
		}
		lines_fall();
	}
}

static void each_takes_what_the_other_saved(void **state)
{
	struct image m;

	need_kvm();
	for (unsigned i = 0; i < 20; i++) {
		image_draw(&m);
		soft_load(&m);
		for (unsigned k = 0; k < 20; k++)
			line_flip((unsigned)draw() % 24, true);
		soft_save(&m);
		lines = 0;
		kvm_load(&m);
		soft_chips_reset(chips);
		soft_load(&m);
		both_save_the_same();
		kvm_save(&m);
		soft_chips_reset(chips);
		soft_load(&m);
		both_save_the_same();
	}
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, kvm_setup, kvm_teardown)
	const struct CMUnitTest tests[] = {
		TEST(power_on_is_the_same),
		TEST(loaded_states_are_saved_the_same),
		TEST(pins_and_messages_do_the_same),
		TEST(each_takes_what_the_other_saved),
	};
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
	printf("seed %#llx\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/hypervisor/driver.h"

static struct loop *io;
static struct vm_parts parts;
static struct net_double net;
static struct vm *vm;

static int setup(void **state)
{
	assert_int_equal(loop_create(&io), 0);
	net = (struct net_double){.base.ops = &net_double_ops};
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	vm = double_vm(&parts, "", &net.base, NULL);
	return 0;
}

static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

static uint32_t cf8_read(unsigned slot, unsigned at, unsigned size)
{
	vm_out(vm, 0xcf8, 4, 0x80000000u | slot << 11 | (at & 0xfc));
	return (uint32_t)vm_in(vm, (uint16_t)(0xcfc + at % 4), size);
}

static void both_ways_show_the_same(void **state)
{
	for (unsigned slot = 0; slot < 32; slot++)
		for (unsigned at = 0; at < 256; at += 4)
			assert_int_equal(cf8_read(slot, at, 4),
					 vm_peek(vm, driver_config(slot, at), 4));
	assert_int_equal(cf8_read(1, 2, 2), 0x1041);
	assert_int_equal(cf8_read(1, 0, 1), 0xf4);
	assert_int_equal(cf8_read(0, 8, 4) >> 16, 0x0600);
	assert_int_equal(vm_peek(vm, driver_config(1, 0x100), 4), 0); /* no extended ones */
	assert_int_equal(vm_peek(vm, driver_config(31, 0), 4), 0xffffffff);
	assert_int_equal(vm_peek(vm, driver_config(1, 0) + 0x1000, 4), 0xffffffff); /* function 1 */
}

static void address_port_needs_a_dword(void **state)
{
	vm_out(vm, 0xcf8, 4, 0x80000800);
	vm_out(vm, 0xcf8, 1, 0);
	assert_int_equal(vm_in(vm, 0xcf8, 4), 0x80000800);
	vm_out(vm, 0xcf8, 4, 0x00000800); /* not enabled */
	assert_int_equal(vm_in(vm, 0xcfc, 4), 0xffffffff);
	vm_out(vm, 0xcf8, 4, 0x80010800); /* bus 1 */
	assert_int_equal(vm_in(vm, 0xcfc, 4), 0xffffffff);
}

static void a_bar_tells_its_size_and_stays(void **state)
{
	uint64_t bar = driver_config(1, PCI_BASE_ADDRESS_0);
	uint32_t address = (uint32_t)vm_peek(vm, bar, 4);

	assert_in_range(address, LAYOUT_PCI_MMIO_BASE, LAYOUT_PCI_MMIO_BASE + LAYOUT_PCI_MMIO_SIZE);
	vm_poke(vm, bar, 4, 0xffffffff);
	assert_int_equal(vm_peek(vm, bar, 4), 0xffff8000);
	vm_poke(vm, bar, 4, address);
	assert_int_equal(vm_peek(vm, bar, 4), address);
	vm_poke(vm, bar, 4, 0xd8000000);
	assert_int_equal(vm_peek(vm, bar, 4), address);
	for (unsigned other = 4; other < 24; other += 4) {
		vm_poke(vm, bar + other, 4, 0xffffffff);
		assert_int_equal(vm_peek(vm, bar + other, 4), 0);
	}
	vm_poke(vm, driver_config(1, PCI_ROM_ADDRESS), 4, 0xfffff800);
	assert_int_equal(vm_peek(vm, driver_config(1, PCI_ROM_ADDRESS), 4), 0);
}

static void a_bar_decodes_only_when_told(void **state)
{
	uint32_t bar = (uint32_t)vm_peek(vm, driver_config(1, PCI_BASE_ADDRESS_0), 4);

	vm_poke(vm, driver_config(1, PCI_COMMAND), 2, 0);
	assert_int_equal(vm_peek(vm, bar + VIRTIO_PCI_COMMON_NUMQ, 2), 0xffff);
	vm_poke(vm, driver_config(1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	assert_int_equal(vm_peek(vm, bar + VIRTIO_PCI_COMMON_NUMQ, 2), 3);
}

static void identity_cannot_be_written(void **state)
{
	uint8_t before[256], after[256];

	for (unsigned i = 0; i < 256; i++)
		before[i] = (uint8_t)cf8_read(2, i, 1);
	for (unsigned i = 0; i < 64; i += 4)
		if (i != PCI_COMMAND && i != PCI_INTERRUPT_LINE && i != PCI_CACHE_LINE_SIZE)
			vm_poke(vm, driver_config(2, i), 4, i == PCI_BASE_ADDRESS_0 ? 0 : ~0u);
	for (unsigned i = 0; i < 256; i++)
		after[i] = (uint8_t)cf8_read(2, i, 1);
	assert_memory_equal(before, after, 256);
}

static void masked_messages_wait(void **state)
{
	struct driver d;
	uint64_t pba;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 8);
	pba = (d.table & ~UINT64_C(0x7fff)) + vm_peek(vm, d.config + d.msix + 8, 4);
	vm_poke(vm, d.table + 2 * 16 + 12, 4, 1); /* the transmit queue's vector */
	driver_add(&d, 1, &(struct piece){driver_alloc(&d, 100, 1), 100}, 1, 0);
	driver_kick(&d, 1);
	assert_int_equal(driver_msis(&d, 2), 0);
	assert_int_equal(vm_peek(vm, pba, 8), 4);
	vm_poke(vm, pba, 8, 0); /* read only */
	assert_int_equal(vm_peek(vm, pba, 4), 4);
	vm_poke(vm, d.table + 2 * 16 + 12, 4, 0);
	assert_int_equal(driver_msis(&d, 2), 1);
	assert_int_equal(vm_peek(vm, pba, 8), 0);

	vm_poke(vm, d.config + d.msix + PCI_MSIX_FLAGS, 2,
		PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	driver_add(&d, 1, &(struct piece){driver_alloc(&d, 100, 1), 100}, 1, 0);
	driver_kick(&d, 1);
	assert_int_equal(driver_msis(&d, 2), 1);
	vm_poke(vm, d.config + d.msix + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(driver_msis(&d, 2), 2);
}

static void the_message_table_reads_back(void **state)
{
	struct driver d;

	driver_find(&d, vm, VIRTIO_ID_NET);
	assert_int_equal(vm_peek(vm, d.table + 12, 4), 1); /* masked at first */
	vm_poke(vm, d.table + 16, 8, UINT64_C(0x1122334455667788));
	vm_poke(vm, d.table + 24, 8, UINT64_C(0xfffffffe0000cafe));
	assert_int_equal(vm_peek(vm, d.table + 16, 4), 0x55667788);
	assert_int_equal(vm_peek(vm, d.table + 20, 4), 0x11223344);
	assert_int_equal(vm_peek(vm, d.table + 24, 4), 0xcafe);
	assert_int_equal(vm_peek(vm, d.table + 28, 4), 0);
	vm_poke(vm, d.table + 17, 1, 0xff); /* not an access that is defined */
	assert_int_equal(vm_peek(vm, d.table + 16, 4), 0x55667788);
}

/* Slots 1 and 5 would share GSI 17; here the NIC (1) has it alone, so the level is its own. */
static void without_messages_the_line_is_used(void **state)
{
	struct driver d;
	unsigned gsi;

	driver_find(&d, vm, VIRTIO_ID_NET);
	gsi = 16 + d.slot % 4;
	assert_int_equal(vm_peek(vm, d.config + PCI_INTERRUPT_PIN, 1), 1);
	assert_int_equal(vm_peek(vm, d.config + PCI_INTERRUPT_LINE, 1), gsi);
	assert_true(driver_negotiate(&d, FEATURE(VIRTIO_F_VERSION_1)));
	driver_queue_on(&d, 0, 8);
	driver_queue_on(&d, 1, 8);
	driver_set_status(&d, VIRTIO_CONFIG_S_DRIVER_OK);
	assert_false(vm->engine->level[gsi]);
	driver_add(&d, 1, &(struct piece){driver_alloc(&d, 100, 1), 100}, 1, 0);
	driver_kick(&d, 1);
	assert_true(vm->engine->level[gsi]);
	assert_true(vm_peek(vm, d.config + PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	vm_poke(vm, d.config + PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	assert_false(vm->engine->level[gsi]);
	vm_poke(vm, d.config + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_true(vm->engine->level[gsi]);
	assert_int_equal(vm_peek(vm, d.isr, 1), 1);
	assert_false(vm->engine->level[gsi]);
	assert_int_equal(vm_peek(vm, d.isr, 1), 0);
	assert_int_equal(vm->engine->msi_count, 0);
}

static unsigned window_of(struct driver *d)
{
	unsigned cap;

	for (cap = (unsigned)vm_peek(vm, d->config + PCI_CAPABILITY_LIST, 1); cap;
	     cap = (unsigned)vm_peek(vm, d->config + cap + 1, 1))
		if (vm_peek(vm, d->config + cap, 1) == PCI_CAP_ID_VNDR &&
		    vm_peek(vm, d->config + cap + 3, 1) == VIRTIO_PCI_CAP_PCI_CFG)
			return cap;
	fail();
	return 0;
}

static void the_window_reaches_the_bar(void **state)
{
	struct driver d;
	unsigned w;

	driver_find(&d, vm, VIRTIO_ID_NET);
	w = window_of(&d);
	vm_poke(vm, d.config + w + 8, 4, VIRTIO_PCI_COMMON_NUMQ);
	vm_poke(vm, d.config + w + 12, 4, 2);
	assert_int_equal(vm_peek(vm, d.config + w + 16, 4) & 0xffff, 3);
	vm_poke(vm, d.config + w + 8, 4, VIRTIO_PCI_COMMON_STATUS);
	vm_poke(vm, d.config + w + 12, 4, 1);
	vm_poke(vm, d.config + w + 16, 4, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(driver_status(&d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vm_poke(vm, d.config + w + 8, 4, 0xfffffffc); /* outside: nothing happens */
	vm_poke(vm, d.config + w + 12, 4, 4);
	vm_poke(vm, d.config + w + 16, 4, 0);
	vm_poke(vm, d.config + w + 12, 4, 3);
	(void)vm_peek(vm, d.config + w + 16, 4);
}

static unsigned reboots;
static void on_event(void *ctx, enum vm_event event, const char *detail)
{
	reboots += event == VM_EVENT_REBOOT;
}

static void the_reset_port_resets(void **state)
{
	struct error e;

	reboots = 0;
	vm->parts.on_event = on_event;
	assert_int_equal(vm_start(vm, &e), 0);
	vm_out(vm, 0xcf9, 1, 2);
	assert_int_equal(vm_in(vm, 0xcf9, 1), 2);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(reboots, 0);
	vm_out(vm, 0xcf9, 1, 6);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(reboots, 1);
	vm_out(vm, 0x64, 1, 0xfe);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(reboots, 2);
	assert_int_equal(vm->engine->resets, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_ways_show_the_same, setup, teardown),
		cmocka_unit_test_setup_teardown(address_port_needs_a_dword, setup, teardown),
		cmocka_unit_test_setup_teardown(a_bar_tells_its_size_and_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(a_bar_decodes_only_when_told, setup, teardown),
		cmocka_unit_test_setup_teardown(identity_cannot_be_written, setup, teardown),
		cmocka_unit_test_setup_teardown(masked_messages_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(the_message_table_reads_back, setup, teardown),
		cmocka_unit_test_setup_teardown(without_messages_the_line_is_used, setup, teardown),
		cmocka_unit_test_setup_teardown(the_window_reaches_the_bar, setup, teardown),
		cmocka_unit_test_setup_teardown(the_reset_port_resets, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

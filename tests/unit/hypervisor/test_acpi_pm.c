// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/hypervisor/double.h"

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;
static unsigned poweroffs, reboots;

static void on_event(void *ctx, enum vm_event event, const char *detail)
{
	poweroffs += event == VM_EVENT_POWEROFF;
	reboots += event == VM_EVENT_REBOOT;
}

static int setup(void **state)
{
	struct error e;

	poweroffs = reboots = 0;
	assert_int_equal(loop_create(&io), 0);
	parts = (struct vm_parts){
		.io = io, .console_in = -1, .console_out = -1, .on_event = on_event};
	vm = double_vm(&parts, "", NULL, NULL);
	assert_int_equal(vm_start(vm, &e), 0);
	return 0;
}
static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

static void the_button_needs_to_be_enabled(void **state)
{
	vm_power_button(vm);
	assert_false(vm->engine->level[9]);
	assert_int_equal(vm_in(vm, 0x600, 2), 0x100);
	vm_out(vm, 0x602, 2, 0x80a0); /* what is not there reads back, or not */
	assert_int_equal(vm_in(vm, 0x602, 2), 0x20);
	vm_out(vm, 0x602, 2, 0x100);
	assert_true(vm->engine->level[9]);
	assert_int_equal(vm_in(vm, 0x600, 4), 0x01000100);
	vm_out(vm, 0x600, 2, 0x001); /* another bit clears nothing */
	assert_true(vm->engine->level[9]);
	vm_out(vm, 0x600, 2, 0x100);
	assert_false(vm->engine->level[9]);
	assert_int_equal(vm_in(vm, 0x600, 2), 0);
	vm_power_button(vm);
	assert_true(vm->engine->level[9]);
	vm_out(vm, 0x601, 1, 0x01); /* as a byte */
	assert_false(vm->engine->level[9]);
	assert_int_equal(vm_in(vm, 0x602, 2), 0x100);
}

static void sleep_type_5_turns_it_off(void **state)
{
	assert_int_equal(vm_in(vm, 0x604, 2) & 1, 1);
	vm_out(vm, 0x604, 2, LAYOUT_S5_TYPE << 10);
	assert_int_equal(vm_step(vm, 1), 0);
	vm_out(vm, 0x604, 2, 3 << 10 | 1 << 13);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(poweroffs, 0);
	vm_out(vm, 0x604, 2, LAYOUT_S5_TYPE << 10 | 1 << 13);
	(void)!vm_step(vm, 1);
	assert_int_equal(poweroffs, 1);
}

static void the_keyboard_controller_resets(void **state)
{
	assert_int_equal(vm_in(vm, 0x64, 1), 0);
	vm_out(vm, 0x64, 1, 0xd1);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(reboots, 0);
	vm_power_button(vm);
	vm_out(vm, 0x64, 1, 0xfe);
	assert_int_equal(vm_step(vm, 1), 0);
	assert_int_equal(reboots, 1);
	assert_int_equal(vm_in(vm, 0x600, 2), 0);
}

static void a_pressed_button_moves(void **state)
{
	struct vm_parts other = parts;
	struct vm *t = double_vm(&other, "", NULL, NULL);
	struct buf b = {0};
	struct error e = {0};

	vm_out(vm, 0x602, 2, 0x100);
	vm_power_button(vm);
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_state_save(vm, &b, &e), 0);
	assert_int_equal(vm_resume(vm), 0);
	assert_int_equal(vm_state_load(t, b.data, b.len, &e), 0);
	assert_false(t->engine->level[9]);
	assert_int_equal(vm_start(t, &e), 0);
	assert_true(t->engine->level[9]);
	vm_destroy(t);
	buf_free(&b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_button_needs_to_be_enabled),
		T(sleep_type_5_turns_it_off),
		T(the_keyboard_controller_resets),
		T(a_pressed_button_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

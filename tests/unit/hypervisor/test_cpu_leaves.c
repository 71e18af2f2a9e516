// SPDX-License-Identifier: Apache-2.0
/* What is said of a CPU without a VM is what a VM's state then says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/state.h"
#include "tests/unit/engines.h"

static struct vm_cpu_leaf leaves[VM_CPU_LEAVES_MAX];

static int leaves_of(const char *engine, enum vm_cpu cpu, unsigned vcpus)
{
	struct error e = {0};
	int n = vm_cpu_leaves(engine, cpu, vcpus, leaves, VM_CPU_LEAVES_MAX, &e);

	if (n < 0)
		fail_msg("%s", e.text);
	assert_true(n < VM_CPU_LEAVES_MAX);
	return n;
}

/* The section CPUID of docs/state-format.md. */
static void section_compare(const struct state_section *s, int count)
{
	struct cursor c = cursor_of(s->data, s->len);

	assert_int_equal(cursor_u32(&c), count);
	for (int i = 0; i < count; i++) {
		assert_int_equal(cursor_u32(&c), leaves[i].function);
		assert_int_equal(cursor_u32(&c), leaves[i].index);
		assert_int_equal(cursor_u32(&c) & 1, leaves[i].indexed);
		for (unsigned word = 0; word < 4; word++)
			assert_int_equal(cursor_u32(&c), leaves[i].words[word]);
	}
	assert_int_equal(cursor_finish(&c), 0);
}

static void state_compare(const char *engine, const char *cpu, unsigned vcpus)
{
	struct vm_config c = {.name = "leaves", .memory = 2 << 20, .vcpus = vcpus};
	struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct buf state = {0};
	struct state_view v;
	struct error e = {0};
	struct vm *vm;

	snprintf(c.engine, sizeof(c.engine), "%s", engine);
	snprintf(c.cpu, sizeof(c.cpu), "%s", cpu);
	assert_int_equal(loop_create(&parts.io), 0);
	if (vm_create(&c, &parts, &vm, &e) || vm_state_save(vm, &state, &e))
		fail_msg("%s", e.text);
	assert_int_equal(state_open(state.data, state.len, &v, NULL), 0);
	section_compare(state_find(&v, STATE_CPUID, 0), leaves_of(engine, vm_cpu(vm), vcpus));
	section_compare(state_find(&v, STATE_CPUID, 0),
			(int)vm_cpu_own(vm, leaves, VM_CPU_LEAVES_MAX));
	vm_destroy(vm);
	loop_destroy(parts.io);
	buf_free(&state);
}

static void engine_soft_says_what_it_has(void **state)
{
	struct error e = {0};

	state_compare("soft", "pollux-base", 1);
	state_compare("soft", "pollux-base", 5);
	assert_int_equal(vm_cpu_leaves("soft", VM_CPU_HOST, 1, leaves, 1, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "has no CPU \"host\""));
}

static void kvm_says_what_it_has(void **state)
{
	if (!kvm_is_usable()) {
		print_message("KVM cannot be used here\n");
		skip();
	}
	state_compare("kvm", "host", 1);
	state_compare("kvm", "host", 4);
	state_compare("kvm", "pollux-base", 2);
}

static void a_fake_guest_needs_none(void **state)
{
	assert_int_equal(leaves_of("sim", VM_CPU_NONE, 1), 0);
}

static void features_have_names(void **state)
{
	assert_string_equal(vm_cpu_feature(7, 0, 1, 5), "avx2");
	assert_string_equal(vm_cpu_feature(1, 0, 2, 28), "avx");
	assert_string_equal(vm_cpu_feature(1, 0, 2, 24), "tsc_deadline_timer");
	assert_string_equal(vm_cpu_feature(1, 0, 2, 31), "hypervisor");
	assert_string_equal(vm_cpu_feature(1, 0, 3, 26), "sse2");
	assert_string_equal(vm_cpu_feature(7, 0, 1, 31), "avx512vl");
	assert_string_equal(vm_cpu_feature(0x80000001, 0, 3, 29), "lm");
	assert_null(vm_cpu_feature(1, 0, 2, 10 + 6));
	assert_null(vm_cpu_feature(0, 0, 0, 0));
	assert_string_equal(vm_cpu_feature(0xd, 0, 0, 9), "pkru");
	assert_null(vm_cpu_feature(7, 1, 0, 31));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(engine_soft_says_what_it_has),
		cmocka_unit_test(kvm_says_what_it_has),
		cmocka_unit_test(a_fake_guest_needs_none),
		cmocka_unit_test(features_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* The KVM engine with guests of a few instructions, on whatever KVM there is. */
#include "tests/unit/hypervisor/kvm_guest.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "hypervisor/engine_kvm.h"

#define MEMORY (UINT64_C(16) << 20)

static void test_probe_gives_a_reason(void **state)
{
	struct engine_report r = {0};

	engine_kvm.probe(&r);
	print_message("kvm: usable %d, real guests %d: %s\n", r.usable, r.real_guests, r.why);
	assert_string_equal(r.name, "kvm");
	assert_true(strlen(r.why) > 10);
	assert_true(r.usable || !r.real_guests);
	assert_int_equal(r.usable, !guest_no_kvm());
}

/* A read that were lost or made twice would show as a gap in the sequence. */
static void test_port_and_mmio_reads_come_in_order(void **state)
{
	struct guest g = {0};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_PIO, 1, MEMORY);
	guest_wait_count(&g, COUNT_LOOP, 500);
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(guest_count(g.vm, COUNT_BAD), 0);
	assert_int_equal(g.device->bad, 0);
	assert_int_equal(g.device->mismatched, 0);
	assert_true(g.device->sequence >= 1000);
	assert_int_equal(vm_resume(g.vm), 0);
	guest_end(&g);
}

static void test_irq_line_msi_and_timers_arrive(void **state)
{
	for (uint64_t halts = 0; halts < 2; halts++) {
		struct guest g = {.param = {halts}};

		if (guest_no_kvm())
			skip();
		guest_boot(&g, GUEST_EVENTS, 1, MEMORY);
		guest_wait_count(&g, COUNT_PIT, 5);
		guest_wait_count(&g, COUNT_TIMER, 5);
		for (unsigned i = 1; i <= 20; i++) {
			vm_irq(g.vm, TEST_IRQ, true);
			vm_irq(g.vm, TEST_IRQ, false);
			vm_msi(g.vm, MSI_ADDRESS, MSI_VECTOR);
			guest_wait_count(&g, COUNT_IRQ, i);
			guest_wait_count(&g, COUNT_MSI, i);
		}
		assert_int_equal(guest_count(g.vm, COUNT_IRQ), 20);
		assert_int_equal(guest_count(g.vm, COUNT_MSI), 20);
		assert_int_equal(guest_count(g.vm, COUNT_BAD), 0);
		assert_int_equal(guest_count(g.vm, COUNT_XMM_BAD), 0);
		guest_end(&g);
	}
}

static int payloads_enable(struct engine *en, bool on)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {on}};

	return kvm_call(en->vm, KVM_ENABLE_CAP, &cap);
}

/* A kick may come between a page fault that KVM found and its delivery to the guest. Older
 * kernels give its address only with the events, newer ones (6.18) with the registers too. */
static void test_a_pending_fault_keeps_its_address(void **state)
{
	const uint64_t where = 0x123456000;
	struct kvm_vcpu_events events = {0};
	struct guest g = {0};
	struct buf b = {0};
	struct state_view v;
	struct cursor c;
	struct engine *en;

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_PIO, 1, MEMORY);
	assert_int_equal(vm_pause(g.vm), 0);
	en = g.vm->engine;
	assert_int_equal(payloads_enable(en, true), 0);
	assert_int_equal(kvm_call(en->vcpu[0].fd, KVM_GET_VCPU_EVENTS, &events), 0);
	events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = 1;
	events.exception.nr = 14;
	events.exception.has_error_code = 1;
	events.exception_has_payload = 1;
	events.exception_payload = where;
	assert_int_equal(kvm_call(en->vcpu[0].fd, KVM_SET_VCPU_EVENTS, &events), 0);
	assert_int_equal(payloads_enable(en, false), 0);
	assert_int_equal(vm_state_save(g.vm, &b, NULL), 0);
	assert_int_equal(state_open(b.data, b.len, &v, NULL), 0);
	c = cursor_of(state_find(&v, STATE_VCPU, 0)->data + 308, 8); /* CR2 */
	assert_int_equal(cursor_u64(&c), where);
	buf_free(&b);
	guest_end(&g);
}

static void test_doorbell_signals_and_can_be_taken_off(void **state)
{
	struct guest g = {.kind = GUEST_BELL};
	struct error e = {0};
	uint64_t rung = 0, again;
	int fd;

	if (guest_no_kvm())
		skip();
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	guest_make(&g, 1, MEMORY);
	assert_int_equal(engine_kvm.doorbell(g.vm->engine, TEST_DOORBELL, 2, fd, true), 0);
	assert_int_equal(vm_boot(g.vm, &e), 0);
	guest_start(&g);
	guest_wait_count(&g, COUNT_LOOP, 100);
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(read(fd, &rung, 8), 8);
	assert_true(rung >= 100);
	assert_int_equal(engine_kvm.doorbell(g.vm->engine, TEST_DOORBELL, 2, fd, false), 0);
	again = guest_count(g.vm, COUNT_LOOP);
	assert_int_equal(vm_resume(g.vm), 0);
	guest_wait_count(&g, COUNT_LOOP, again + 100);
	assert_int_equal(read(fd, &rung, 8), -1);
	close(fd);
	guest_end(&g);
}

static void test_all_vcpus_run(void **state)
{
	struct guest g = {.param = {3}};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_SMP, 4, MEMORY);
	for (unsigned i = 0; i < 4; i++)
		guest_wait_count(&g, COUNT_CPU0 + i, 1000);
	assert_int_equal(guest_count(g.vm, COUNT_ONLINE), 3);
	guest_end(&g);
}

static void test_triple_fault_is_a_crash(void **state)
{
	struct guest g = {0};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_FAULT, 2, MEMORY);
	guest_wait_event(&g, VM_EVENT_CRASH, 1);
	assert_non_null(strstr(g.detail, "triple fault"));
	assert_false(vm_is_running(g.vm));
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(vm_resume(g.vm), 0);
	assert_false(vm_is_running(g.vm));
	guest_end(&g);
}

static void test_poweroff_stops_all_vcpus(void **state)
{
	struct guest g = {.param = {TEST_PORT + PORT_ASK, ASK_POWEROFF}};
	uint64_t count;

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_OUT, 2, MEMORY);
	guest_wait_event(&g, VM_EVENT_POWEROFF, 1);
	count = guest_count(g.vm, COUNT_LOOP);
	usleep(20000);
	assert_int_equal(guest_count(g.vm, COUNT_LOOP), count);
	assert_false(vm_is_running(g.vm));
	assert_int_equal(g.events[VM_EVENT_CRASH] + g.events[VM_EVENT_REBOOT], 0);
	guest_end(&g);
}

static void test_reset_boots_again(void **state)
{
	struct guest g = {.kind = GUEST_RESET};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 2, MEMORY);
	g.device->sequence = 77;
	assert_int_equal(vm_boot(g.vm, &e), 0);
	guest_start(&g);
	guest_wait_event(&g, VM_EVENT_REBOOT, 1);
	guest_wait_count(&g, COUNT_LOOP, 100);
	assert_int_equal(g.device->sequence, 0);
	assert_true(vm_is_running(g.vm));
	assert_int_equal(g.events[VM_EVENT_CRASH] + g.events[VM_EVENT_POWEROFF], 0);
	guest_end(&g);
}

static uint64_t msr_read(struct guest *g, unsigned vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = {.head = {.nmsrs = 1}, .entry = {.index = index}};

	assert_int_equal(kvm_call(g->vm->engine->vcpu[vcpu].fd, KVM_GET_MSRS, &one), 1);
	return one.entry.data;
}

/* A kernel takes MTRRs that differ between vCPUs, or are off, for broken firmware. */
static void test_boot_leaves_mtrrs_as_firmware_would(void **state)
{
	struct guest g = {.kind = GUEST_PIO};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 2, MEMORY);
	assert_int_equal(vm_boot(g.vm, &e), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(msr_read(&g, i, 0x2ff), 0x806);
	guest_end(&g);
}

/* What both hosts of a pair must agree on, and what no section carries. */
static void test_cpuid_is_of_one_socket_and_offers_nothing_uncarried(void **state)
{
	const struct kvm_cpuid_entry2 *leaf;
	struct kvm_cpuid2 *c;
	struct guest g = {0};

	if (guest_no_kvm())
		skip();
	guest_make(&g, 6, MEMORY);
	c = g.vm->engine->model.cpuid;
	leaf = kvm_cpuid_find(c, 1, 0);
	assert_int_equal(leaf->ebx >> 24, 0);
	assert_int_equal(leaf->ebx >> 16 & 0xff, 6);
	assert_int_equal(leaf->ecx >> 31, 1);                 /* hypervisor */
	assert_int_equal(leaf->ecx >> 24 & 1, 1);             /* TSC deadline */
	assert_int_equal(leaf->ecx & (1u << 5 | 1u << 3), 0); /* VMX, MONITOR */
	assert_int_equal(leaf->edx >> 28 & 1, 1);
	leaf = kvm_cpuid_find(c, 0x0b, 1);
	assert_int_equal(leaf->eax, 3);
	assert_int_equal(leaf->ebx, 6);
	leaf = kvm_cpuid_find(c, 0x80000001, 0);
	assert_int_equal(leaf->ecx & 1u << 2, 0); /* SVM */
	leaf = kvm_cpuid_find(c, 0x40000001, 0);
	assert_int_equal(leaf->eax & 1u << 4, 0); /* asynchronous page faults */
	kvm_cpuid_personalize(c, 5);
	assert_int_equal(kvm_cpuid_find(c, 1, 0)->ebx >> 24, 5);
	assert_int_equal(kvm_cpuid_find(c, 0x0b, 1)->edx, 5);
	kvm_cpuid_personalize(c, 0);
	guest_end(&g);
}

static void test_wrong_machines_are_refused(void **state)
{
	struct guest g = {0};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	assert_int_equal(guest_try(&g, 0, MEMORY, &e), -EINVAL);
	assert_int_equal(guest_try(&g, VM_VCPUS_MAX + 1, MEMORY, &e), -EINVAL);
	assert_int_equal(guest_try(&g, 1, MEMORY + 65536, &e), -EINVAL);
	assert_int_equal(guest_try(&g, 1, 0, &e), -EINVAL);
	guest_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe_gives_a_reason),
		cmocka_unit_test(test_port_and_mmio_reads_come_in_order),
		cmocka_unit_test(test_irq_line_msi_and_timers_arrive),
		cmocka_unit_test(test_a_pending_fault_keeps_its_address),
		cmocka_unit_test(test_doorbell_signals_and_can_be_taken_off),
		cmocka_unit_test(test_all_vcpus_run),
		cmocka_unit_test(test_triple_fault_is_a_crash),
		cmocka_unit_test(test_poweroff_stops_all_vcpus),
		cmocka_unit_test(test_reset_boots_again),
		cmocka_unit_test(test_boot_leaves_mtrrs_as_firmware_would),
		cmocka_unit_test(test_cpuid_is_of_one_socket_and_offers_nothing_uncarried),
		cmocka_unit_test(test_wrong_machines_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

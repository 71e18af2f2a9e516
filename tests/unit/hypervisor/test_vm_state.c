// SPDX-License-Identifier: Apache-2.0
/*
 * The whole machine as bytes: moved into another process, where it goes on; and each
 * kind of damage refused. The other process is this program again ("--twin").
 */
#include "tests/unit/hypervisor/kvm_guest.h"
#include "tests/unit/hypervisor/state_edit.h"

#include <sys/wait.h>
#include <time.h>

#define MEMORY (UINT64_C(16) << 20)
#define MOVES  20u

/* Where things are in a vCPU's section (docs/state-format.md). */
#define VCPU_RIP          (8 + 16 * 8)
#define VCPU_XCR0         444u
#define VCPU_EVENTS       452u
#define VCPU_LAPIC        476u
#define VCPU_MSR_COUNT    (VCPU_LAPIC + 1024)
#define VCPU_MSRS         (VCPU_MSR_COUNT + 8)
#define LAPIC_PPR         0xa0u
#define LAPIC_IRR         0x200u
#define LAPIC_TMCCT       0x390u
#define FXSAVE_MXCSR_MASK 28u
#define FXSAVE_SOFTWARE   464u
#define MSR_TSC           0x10u

/* Where a guest moves to, and what it runs on from the beginning. */
enum route { KVM_TO_KVM, KVM_TO_SOFT, SOFT_TO_KVM, SOFT_TO_SOFT };

struct message {
	uint32_t kind, vcpus, route;
	uint64_t state_size;
};

static void error_fail(const char *what, int rc, const struct error *e)
{
	if (rc)
		fail_msg("%s: %d %s", what, rc, e->text);
}

static void route_take(enum route r, bool twin)
{
	bool soft = twin ? r == KVM_TO_SOFT || r == SOFT_TO_SOFT
			 : r == SOFT_TO_KVM || r == SOFT_TO_SOFT;

	guest_engine = soft ? &engine_soft : &engine_kvm;
	guest_cpu = r == KVM_TO_KVM ? "" : "pollux-base";
}

/* ---- the twin ------------------------------------------------------------------ */

#define TWIN_CHECK(cond)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "twin, line %d: %s\n", __LINE__, #cond);                   \
			_exit(2);                                                                  \
		}                                                                                  \
	} while (0)

/* Between engines also: interrupts of timers that were due on loading (KVM keeps those
 * elsewhere until it runs), the mask of MXCSR, what is left to software in the FXSAVE area,
 * and whether a component that is as after a reset is said to be so. */
static void engine_hide(uint8_t *section, size_t fpu)
{
	if (section[0] == 1) /* waits for INIT, or for the SIPI after it */
		section[0] = 2;
	if (!section[VCPU_EVENTS + 4]) /* the number of an interrupt that is over */
		section[VCPU_EVENTS + 5] = section[VCPU_EVENTS + 6] = 0;
	memset(section + VCPU_LAPIC + LAPIC_IRR, 0, 0x80);
	memset(section + fpu + FXSAVE_MXCSR_MASK, 0, 4);
	memset(section + fpu + FXSAVE_SOFTWARE, 0, 48 + 8);
}

/* What runs on differs by then, time; and what hardware derives lazily: PPR. */
static void time_hide(uint8_t *section, size_t len, bool engines)
{
	struct cursor c = cursor_of(section + VCPU_MSR_COUNT, 4);
	uint32_t count = cursor_u32(&c);

	TWIN_CHECK(VCPU_MSRS + count * 12 <= len);
	if (engines)
		engine_hide(section, VCPU_MSRS + count * 12);
	memset(section + VCPU_LAPIC + LAPIC_TMCCT, 0, 4);
	memset(section + VCPU_LAPIC + LAPIC_PPR, 0, 4);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = section + VCPU_MSRS + i * 12;
		uint32_t index;

		memcpy(&index, at, 4);
		if (index == MSR_TSC)
			memset(at + 4, 0, 8);
	}
}

/* What was loaded is what would be saved. */
static void twin_compare(struct vm *vm, uint8_t *state, size_t size, bool engines)
{
	struct state_view was, is;
	struct buf again = {0};

	TWIN_CHECK(!vm_state_save(vm, &again, NULL));
	TWIN_CHECK(!state_open(state, size, &was, NULL));
	TWIN_CHECK(!state_open(again.data, again.len, &is, NULL));
	TWIN_CHECK(was.count == is.count);
	for (unsigned i = 0; i < was.count; i++) {
		const struct state_section *a = &was.sections[i], *b = &is.sections[i];

		TWIN_CHECK(a->id == b->id && a->instance == b->instance && a->len == b->len);
		if (a->id == STATE_CLOCK)
			continue;
		if (a->id == STATE_VCPU) {
			time_hide((uint8_t *)(uintptr_t)a->data, a->len, engines);
			time_hide((uint8_t *)(uintptr_t)b->data, b->len, engines);
		}
		for (unsigned k = 0; k < a->len; k++)
			if (a->data[k] != b->data[k]) {
				fprintf(stderr, "section %u, %u differs at octet %u: %x, now %x\n",
					a->id, a->instance, k, a->data[k], b->data[k]);
				_exit(2);
			}
	}
	buf_free(&again);
}

static void twin_wait(struct guest *g, enum guest_counter c, uint64_t at_least)
{
	for (unsigned i = 0; guest_count(g->vm, c) < at_least && i < 20000; i++)
		usleep(500);
	if (guest_count(g->vm, c) < at_least) {
		fprintf(stderr, "twin: counter %d stays at %llu, below %llu\n", c,
			(unsigned long long)guest_count(g->vm, c), (unsigned long long)at_least);
		_exit(2);
	}
}

static void twin_goes_on(struct guest *g, enum guest_kind kind, unsigned vcpus,
			 const uint64_t *before)
{
	if (kind == GUEST_EVENTS) {
		/* Those that were pending when it was saved, no more and no fewer. */
		twin_wait(g, COUNT_IRQ, before[COUNT_IRQ] + 1);
		twin_wait(g, COUNT_MSI, before[COUNT_MSI] + 1);
		twin_wait(g, COUNT_TIMER, before[COUNT_TIMER] + 3);
		twin_wait(g, COUNT_PIT, before[COUNT_PIT] + 3);
		TWIN_CHECK(guest_count(g->vm, COUNT_IRQ) == before[COUNT_IRQ] + 1);
		TWIN_CHECK(guest_count(g->vm, COUNT_MSI) == before[COUNT_MSI] + 1);
		vm_irq(g->vm, TEST_IRQ, true);
		vm_irq(g->vm, TEST_IRQ, false);
		twin_wait(g, COUNT_IRQ, before[COUNT_IRQ] + 2);
		TWIN_CHECK(guest_count(g->vm, COUNT_XMM_BAD) == 0);
	}
	if (kind == GUEST_SMP)
		for (unsigned k = 0; k < vcpus; k++)
			twin_wait(g, COUNT_CPU0 + k, before[COUNT_CPU0 + k] + 10);
	twin_wait(g, COUNT_LOOP, before[COUNT_LOOP] + 20);
	TWIN_CHECK(guest_count(g->vm, COUNT_BAD) == 0);
	TWIN_CHECK(test_device_complaints(g) == 0);
	TWIN_CHECK(g->device->resumed == 1);
}

static int twin_main(void)
{
	struct guest g = {0};
	struct message m;
	struct error e = {0};
	uint64_t before[64];
	uint8_t *state;

	TWIN_CHECK(!fd_read_all(0, &m, sizeof(m)));
	state = malloc(m.state_size);
	TWIN_CHECK(state && !fd_read_all(0, state, m.state_size));
	route_take((enum route)m.route, true);
	TWIN_CHECK(!guest_try(&g, m.vcpus, MEMORY, &e));
	TWIN_CHECK(!fd_read_all(0, vm_ram(g.vm), MEMORY));
	memcpy(before, guest_counters(g.vm), sizeof(before));
	if (vm_state_check(g.vm, state, m.state_size, &e) ||
	    vm_state_load(g.vm, state, m.state_size, &e)) {
		fprintf(stderr, "twin: %s\n", e.text);
		return 2;
	}
	twin_compare(g.vm, state, m.state_size, m.route != KVM_TO_KVM);
	TWIN_CHECK(g.device->resumed == 0);
	TWIN_CHECK(!vm_start(g.vm, &e));
	twin_goes_on(&g, (enum guest_kind)m.kind, m.vcpus, before);
	guest_end(&g);
	free(state);
	return 0;
}

/* ---- moving ------------------------------------------------------------------------ */

static void twin_run(struct guest *g, unsigned vcpus, enum route route, const struct buf *state)
{
	struct message m = {
		.kind = g->kind, .vcpus = vcpus, .route = route, .state_size = state->len};
	int pipes[2], status = 0;
	pid_t pid;

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(pipes[0], 0);
		execl("/proc/self/exe", "twin", "--twin", (char *)NULL);
		_exit(3);
	}
	close(pipes[0]);
	assert_int_equal(fd_write_all(pipes[1], &m, sizeof(m)), 0);
	assert_int_equal(fd_write_all(pipes[1], state->data, state->len), 0);
	assert_int_equal(fd_write_all(pipes[1], vm_ram(g->vm), MEMORY), 0);
	close(pipes[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void move_on(enum route route, enum guest_kind kind, unsigned vcpus, uint64_t param)
{
	struct guest g = {.param = {param, 100}};
	struct buf state = {0};
	struct error e = {0};

	route_take(route, false);
	if (kind == GUEST_DIRTIER)
		g.param[0] = GUEST_DIRTY_AREA;
	guest_boot(&g, kind, vcpus, MEMORY);
	guest_wait_count(&g, COUNT_LOOP, 20);
	for (unsigned i = 0; i < MOVES; i++) {
		usleep(i * 300);
		assert_int_equal(vm_pause(g.vm), 0);
		if (kind == GUEST_EVENTS) {
			vm_irq(g.vm, TEST_IRQ, true);
			vm_irq(g.vm, TEST_IRQ, false);
			vm_msi(g.vm, MSI_ADDRESS, MSI_VECTOR);
		}
		buf_reset(&state);
		error_fail("save", vm_state_save(g.vm, &state, &e), &e);
		twin_run(&g, vcpus, route, &state);
		assert_int_equal(vm_resume(g.vm), 0);
		if (kind == GUEST_EVENTS) { /* taken here too: the source goes on as well */
			guest_wait_count(&g, COUNT_IRQ, i + 1);
			guest_wait_count(&g, COUNT_MSI, i + 1);
		}
	}
	print_message("%u vCPUs: %zu octets of state\n", vcpus, state.len);
	buf_free(&state);
	guest_end(&g);
	route_take(KVM_TO_KVM, false);
}

static void move_many(enum guest_kind kind, unsigned vcpus, uint64_t param)
{
	move_on(KVM_TO_KVM, kind, vcpus, param);
}

static void move_to_and_fro(enum guest_kind kind, unsigned vcpus, uint64_t param)
{
	move_on(SOFT_TO_SOFT, kind, vcpus, param);
	if (guest_no_kvm())
		return;
	move_on(SOFT_TO_KVM, kind, vcpus, param);
	move_on(KVM_TO_SOFT, kind, vcpus, param);
}

static void test_change_of_engine_with_interrupts_timers_and_fpu(void **state)
{
	move_to_and_fro(GUEST_EVENTS, 1, 0);
	move_to_and_fro(GUEST_EVENTS, 2, 1);
}

static void test_change_of_engine_amid_port_and_mmio_accesses(void **state)
{
	move_to_and_fro(GUEST_PIO, 1, 0);
}

static void test_change_of_engine_of_many_vcpus(void **state)
{
	move_to_and_fro(GUEST_SMP, 4, 3);
}

static void test_move_with_interrupts_timers_and_fpu(void **state)
{
	if (guest_no_kvm())
		skip();
	move_many(GUEST_EVENTS, 1, 0);
	move_many(GUEST_EVENTS, 2, 1);
}

static void test_move_amid_port_and_mmio_accesses(void **state)
{
	if (guest_no_kvm())
		skip();
	move_many(GUEST_PIO, 1, 0);
}

static void test_move_of_many_vcpus(void **state)
{
	if (guest_no_kvm())
		skip();
	move_many(GUEST_SMP, 4, 3);
}

static void test_move_of_a_dirtier(void **state)
{
	if (guest_no_kvm())
		skip();
	move_many(GUEST_DIRTIER, 1, 0);
}

/* ---- damage -------------------------------------------------------------------------- */

struct damaged {
	struct guest g;
	struct buf good;
};

static void damaged_make(struct damaged *d, unsigned vcpus)
{
	struct error e = {0};

	d->g.kind = GUEST_PIO;
	guest_make(&d->g, vcpus, MEMORY);
	error_fail("boot", vm_boot(d->g.vm, &e), &e);
	error_fail("save", vm_state_save(d->g.vm, &d->good, &e), &e);
	error_fail("check", vm_state_check(d->g.vm, d->good.data, d->good.len, &e), &e);
}

static void damaged_free(struct damaged *d)
{
	struct error e = {0};

	error_fail("load after all", vm_state_load(d->g.vm, d->good.data, d->good.len, &e), &e);
	buf_free(&d->good);
	guest_end(&d->g);
}

static void damage_refused(struct damaged *d, const void *data, size_t n, const char *why)
{
	struct error e = {0};
	int rc = vm_state_check(d->g.vm, data, n, &e);

	if (!rc || (why && !strstr(e.text, why)))
		fail_msg("expected a refusal about %s, got %d: %s", why ? why : "something", rc,
			 e.text);
	assert_int_not_equal(vm_state_load(d->g.vm, data, n, NULL), 0);
}

static void test_truncation_at_each_octet_is_refused(void **state)
{
	struct damaged d = {0};

	if (guest_no_kvm())
		skip();
	damaged_make(&d, 1);
	for (size_t n = 0; n < d.good.len; n++) {
		uint8_t *exact = malloc(n + 1); /* so that reading past the end is seen */

		memcpy(exact, d.good.data, n);
		damage_refused(&d, exact, n, NULL);
		free(exact);
	}
	damaged_free(&d);
}

/* Refused or harmless: never a crash, and the machine takes a good state afterwards. */
static void test_random_damage_never_harms(void **state)
{
	unsigned seed = (unsigned)time(NULL), refused = 0, failed = 0, taken = 0;
	struct damaged d = {0};
	uint8_t *bad;

	if (guest_no_kvm())
		skip();
	print_message("seed %u\n", seed);
	srandom(seed);
	damaged_make(&d, 2);
	bad = malloc(d.good.len);
	for (unsigned i = 0; i < 3000; i++) {
		memcpy(bad, d.good.data, d.good.len);
		for (unsigned k = 0; k <= i % 3; k++)
			bad[(size_t)random() % d.good.len] ^= (uint8_t)(1u << random() % 8);
		if (vm_state_check(d.g.vm, bad, d.good.len, NULL))
			refused++;
		else if (vm_state_load(d.g.vm, bad, d.good.len, NULL))
			failed++;
		else
			taken++;
	}
	print_message("%u refused, %u failed to load, %u taken\n", refused, failed, taken);
	assert_true(refused > 0);
	free(bad);
	damaged_free(&d);
}

static void edit_shorten(struct buf *b)
{
	b->len -= 1;
}

static void edit_lengthen(struct buf *b)
{
	buf_put_u8(b, 0);
}

static void edit_memory(struct buf *b)
{
	b->data[2] ^= 1;
}

static void edit_cpuid(struct buf *b)
{
	b->data[4 + 16] ^= 1; /* the first leaf's EBX */
}

static void edit_cpuid_count(struct buf *b)
{
	b->data[0] += 1;
}

static void edit_xcr0(struct buf *b)
{
	b->data[VCPU_XCR0 + 7] |= 0x40;
}

static void edit_msr_index(struct buf *b)
{
	b->data[VCPU_MSRS + 3] = 0x77;
}

static void edit_msr_count(struct buf *b)
{
	b->data[VCPU_MSR_COUNT + 1] = 0xff;
}

static void edit_run_state(struct buf *b)
{
	b->data[0] = 9;
}

static void edit_mxcsr(struct buf *b)
{
	struct cursor c = cursor_of(b->data + VCPU_MSR_COUNT, 4);

	b->data[VCPU_MSRS + cursor_u32(&c) * 12 + 27] = 0x80;
}

static void edit_xsave_header(struct buf *b)
{
	struct cursor c = cursor_of(b->data + VCPU_MSR_COUNT, 4);

	b->data[VCPU_MSRS + cursor_u32(&c) * 12 + 512 + 7] = 0x40;
}

static void edit_ioapic_irr(struct buf *b)
{
	b->data[8 + 8 + 3] = 1;
}

static void edit_pit_mode(struct buf *b)
{
	b->data[4 + 2 + 7] = 9;
}

static void edit_to_version_1(struct buf *b)
{
	b->data[0] = 77;
	b->len = 4;
}

static void test_each_field_is_refused_by_name(void **state)
{
	static const struct {
		uint16_t id;
		edit_fn *edit;
		const char *why;
	} cases[] = {
		{STATE_CONFIG, NULL, "configuration"},
		{STATE_CONFIG, edit_shorten, "configuration"},
		{STATE_CONFIG, edit_memory, "bytes of memory"},
		{STATE_CPUID, NULL, "CPUID"},
		{STATE_CPUID, edit_cpuid, "another vendor"},
		{STATE_CPUID, edit_cpuid_count, "CPUID: "},
		{STATE_VCPU, NULL, "vCPU 0: the section is missing"},
		{STATE_VCPU, edit_shorten, "vCPU 0"},
		{STATE_VCPU, edit_lengthen, "wrong length"},
		{STATE_VCPU, edit_xcr0, "XCR0"},
		{STATE_VCPU, edit_msr_index, "MSR"},
		{STATE_VCPU, edit_msr_count, "too many MSRs"},
		{STATE_VCPU, edit_run_state, "run state"},
		{STATE_VCPU, edit_mxcsr, "MXCSR"},
		{STATE_VCPU, edit_xsave_header, "FPU components"},
		{STATE_PIC, NULL, "PIC 0: the section is missing"},
		{STATE_IOAPIC, edit_shorten, "IOAPIC"},
		{STATE_IOAPIC, edit_ioapic_irr, "IOAPIC"},
		{STATE_PIT, edit_pit_mode, "PIT"},
		{STATE_CLOCK, edit_lengthen, "clock"},
		{TEST_SECTION, NULL, "test 0 is missing"},
		{TEST_SECTION, edit_shorten, "test device"},
	};
	struct damaged d = {0};
	struct buf bad = {0};

	if (guest_no_kvm())
		skip();
	damaged_make(&d, 1);
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		state_edit(&d.good, cases[i].id, 0, cases[i].edit, &bad);
		damage_refused(&d, bad.data, bad.len, cases[i].why);
	}
	buf_free(&bad);
	damaged_free(&d);
}

/* Something more at the end: refused if mandatory, skipped if not. */
static void unknown_section(struct damaged *d, struct buf *out, uint16_t id, uint16_t flags)
{
	size_t began, at;

	buf_reset(out);
	began = state_start(out);
	buf_put(out, d->good.data + 16, d->good.len - 16);
	at = state_section_begin(out, id, 0, 1, flags);
	state_section_end(out, at);
	assert_int_equal(state_finish(out, began), 0);
}

static void test_unknown_sections(void **state)
{
	static const uint16_t ids[] = {0, STATE_SIM, 15, STATE_SERIAL, 999};
	struct damaged d = {0};
	struct buf bad = {0};
	struct error e = {0};

	if (guest_no_kvm())
		skip();
	damaged_make(&d, 1);
	for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
		unknown_section(&d, &bad, ids[i], STATE_MANDATORY);
		damage_refused(&d, bad.data, bad.len, "section");
		unknown_section(&d, &bad, ids[i], 0);
		error_fail("optional", vm_state_check(d.g.vm, bad.data, bad.len, &e), &e);
		error_fail("optional", vm_state_load(d.g.vm, bad.data, bad.len, &e), &e);
	}
	buf_free(&bad);
	damaged_free(&d);
}

/* Each section says its version, devices' like engines': an unknown one is not read. */
static void test_unknown_versions_are_refused(void **state)
{
	struct damaged d = {0};
	struct state_view v;

	if (guest_no_kvm())
		skip();
	damaged_make(&d, 1);
	v = view_of(&d.good);
	for (unsigned i = 0; i < v.count; i++) {
		uint8_t *version = (uint8_t *)v.sections[i].data - 12;

		for (uint8_t was = *version, i = 0; i < 2; i++) {
			*version = i ? 0 : (uint8_t)(was + 1);
			damage_refused(&d, d.good.data, d.good.len, "version");
			*version = was;
		}
	}
	damaged_free(&d);
}

#define HOUR_NS (3600 * NS_PER_SEC)

static const uint8_t *clock_section(const struct buf *state)
{
	struct state_view v = view_of(state);

	return state_find(&v, STATE_CLOCK, 0)->data;
}

static uint64_t clock_of(const struct buf *state)
{
	uint64_t ns;

	memcpy(&ns, clock_section(state), sizeof(ns));
	return ns;
}

static void clock_move(struct buf *b, int64_t by)
{
	uint64_t wall;

	memcpy(&wall, b->data + 8, sizeof(wall));
	wall += (uint64_t)by;
	memcpy(b->data + 8, &wall, sizeof(wall));
}

static void edit_clock_ahead(struct buf *b)
{
	clock_move(b, (int64_t)HOUR_NS);
}

static void edit_clock_behind(struct buf *b)
{
	clock_move(b, -(int64_t)HOUR_NS);
}

static void clock_hop(struct damaged *d, struct buf *state, edit_fn *edit)
{
	struct error e = {0};
	struct buf next = {0};

	state_edit(state, STATE_CLOCK, 0, edit, &next);
	error_fail("load", vm_state_load(d->g.vm, next.data, next.len, &e), &e);
	buf_reset(state);
	error_fail("save", vm_state_save(d->g.vm, state, &e), &e);
	buf_free(&next);
}

/* To and fro between this host and one whose clock is an hour ahead, and is played by what a state
 * says: to go there is to find it an hour older. The guest gains that hour once. */
static void test_hosts_that_disagree_about_the_time(void **state)
{
	for (unsigned i = 0; guest_engine_next(&i);) {
		struct damaged d = {0};
		struct buf s = {0};
		uint64_t began;

		damaged_make(&d, 1);
		buf_put(&s, d.good.data, d.good.len);
		began = clock_of(&s);
		/* KVM tells the wall only where the host's own clock is its TSC. */
		for (unsigned moves = 0; moves < 3 && clock_section(&s)[16]; moves++) {
			clock_hop(&d, &s, edit_clock_behind);
			assert_true(clock_of(&s) - began >= HOUR_NS);
			clock_hop(&d, &s, edit_clock_ahead);
			assert_true(clock_of(&s) - began < HOUR_NS + HOUR_NS / 2);
		}
		buf_free(&s);
		damaged_free(&d);
	}
}

/* What an older release saved: the device is told which version it gets. */
static void test_older_versions_of_a_device_are_read(void **state)
{
	struct damaged d = {0};
	struct buf old = {0};
	struct error e = {0};
	struct state_view v;
	uint8_t *section;

	if (guest_no_kvm())
		skip();
	damaged_make(&d, 1);
	state_edit(&d.good, TEST_SECTION, 0, edit_to_version_1, &old);
	damage_refused(&d, old.data, old.len, "test device: damaged");
	v = view_of(&old);
	section = (uint8_t *)state_find(&v, TEST_SECTION, 0)->data;
	section[-12] = 1;
	error_fail("check", vm_state_check(d.g.vm, old.data, old.len, &e), &e);
	error_fail("load", vm_state_load(d.g.vm, old.data, old.len, &e), &e);
	assert_int_equal(d.g.device->sequence, 77);
	assert_int_equal(d.g.device->echo, 0);
	buf_free(&old);
	damaged_free(&d);
}

static void test_another_number_of_vcpus_is_refused(void **state)
{
	struct damaged one = {0}, two = {0};

	if (guest_no_kvm())
		skip();
	damaged_make(&one, 1);
	damaged_make(&two, 2);
	damage_refused(&one, two.good.data, two.good.len, "vCPUs");
	damage_refused(&two, one.good.data, one.good.len, "vCPUs");
	damaged_free(&one);
	damaged_free(&two);
}

static void test_a_running_vm_is_refused(void **state)
{
	struct guest g = {0};
	struct buf b = {0};

	if (guest_no_kvm())
		skip();
	guest_boot(&g, GUEST_PIO, 1, MEMORY);
	assert_int_equal(vm_state_save(g.vm, &b, NULL), -EBUSY);
	assert_int_equal(vm_pause(g.vm), 0);
	assert_int_equal(vm_state_save(g.vm, &b, NULL), 0);
	assert_int_equal(vm_resume(g.vm), 0);
	assert_int_equal(vm_state_load(g.vm, b.data, b.len, NULL), -EBUSY);
	buf_free(&b);
	guest_end(&g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_move_with_interrupts_timers_and_fpu),
		cmocka_unit_test(test_move_amid_port_and_mmio_accesses),
		cmocka_unit_test(test_move_of_many_vcpus),
		cmocka_unit_test(test_move_of_a_dirtier),
		cmocka_unit_test(test_change_of_engine_with_interrupts_timers_and_fpu),
		cmocka_unit_test(test_change_of_engine_amid_port_and_mmio_accesses),
		cmocka_unit_test(test_change_of_engine_of_many_vcpus),
		cmocka_unit_test(test_truncation_at_each_octet_is_refused),
		cmocka_unit_test(test_random_damage_never_harms),
		cmocka_unit_test(test_each_field_is_refused_by_name),
		cmocka_unit_test(test_unknown_sections),
		cmocka_unit_test(test_unknown_versions_are_refused),
		cmocka_unit_test(test_hosts_that_disagree_about_the_time),
		cmocka_unit_test(test_older_versions_of_a_device_are_read),
		cmocka_unit_test(test_another_number_of_vcpus_is_refused),
		cmocka_unit_test(test_a_running_vm_is_refused),
	};

	if (argc > 1 && !strcmp(argv[1], "--twin"))
		return twin_main();
	if (argc > 1) /* test_vm_state [PATTERN]: only those tests */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

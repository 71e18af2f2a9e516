// SPDX-License-Identifier: Apache-2.0
/*
 * A guest keeps its CPU where the host has more: the state of a machine, as one of a lesser host
 * would be, is loaded; the guest goes on, sees that CPU, reboots with it, and is saved with it.
 */
#include "tests/unit/hypervisor/kvm_guest.h"
#include "tests/unit/hypervisor/state_edit.h"

#include "hypervisor/cpu_model.h"
#include "hypervisor/engine_kvm.h"

#define MEMORY  (UINT64_C(16) << 20)
#define X2APIC  (UINT32_C(1) << 21)
#define FEATURE 1u /* its leaf */
/* Where things are in a section (docs/state-format.md). */
#define VCPU_TSC_KHZ   4u
#define VCPU_MSR_COUNT 1500u
#define VCPU_MSRS      1508u
#define LEAF_OCTETS    28u

static void no_error(int rc, const struct error *e)
{
	if (rc)
		fail_msg("%d %s", rc, e->text);
}

static uint32_t number_at(const struct buf *b, size_t at)
{
	struct cursor c = cursor_of(b->data + at, 4);

	return cursor_u32(&c);
}

static void number_set(struct buf *b, size_t at, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		b->data[at + i] = (uint8_t)(value >> 8 * i);
}

/* Where word `word` of a leaf is in section CPUID; 0: there is none. */
static size_t word_find(const struct buf *b, uint32_t function, unsigned word)
{
	uint32_t count = number_at(b, 0);

	for (size_t i = 0; i < count; i++)
		if (number_at(b, 4 + i * LEAF_OCTETS) == function)
			return 4 + i * LEAF_OCTETS + 12 + 4 * word;
	return 0;
}

/* An older CPU, of another model: with less, and a shorter name. */
static void cpuid_lessen(struct buf *b)
{
	size_t at = word_find(b, FEATURE, 2);

	assert_true(number_at(b, at) & X2APIC);
	number_set(b, at, number_at(b, at) & ~X2APIC);
	number_set(b, word_find(b, 1, 0), 0x20f42);
	number_set(b, word_find(b, 0x80000002, 0), 0x656e6f4e);
	number_set(b, word_find(b, 0x80000008, 0), 48 << 8 | 36);
}

static void cpuid_more(struct buf *b)
{
	number_set(b, word_find(b, FEATURE, 2), ~UINT32_C(0));
}

static void cpuid_wider(struct buf *b)
{
	number_set(b, word_find(b, 0x80000008, 0), 48 << 8 | 63);
}

static void cpuid_more_and_wider(struct buf *b)
{
	cpuid_more(b);
	cpuid_wider(b);
}

/* Two sizes. */
static void cpuid_wider_twice(struct buf *b)
{
	number_set(b, word_find(b, 0x80000008, 0), 63 << 8 | 63);
}

static void cpuid_of_another_vendor(struct buf *b)
{
	number_set(b, word_find(b, 0, 1), 0x74736554);
}

static void cpuid_flags(struct buf *b)
{
	number_set(b, 4 + 8, 8);
}

static void cpuid_endless(struct buf *b)
{
	uint32_t count = number_at(b, 0);

	for (; count <= STATE_CPUID_MOST; count++)
		for (unsigned i = 0; i < LEAF_OCTETS; i++)
			buf_put_u8(b, 0);
	number_set(b, 0, count);
}

static const struct vm_cpu_leaf *own_leaf(const struct vm *vm, uint32_t function)
{
	static struct vm_cpu_leaf leaves[VM_CPU_LEAVES_MAX];
	unsigned n = vm_cpu_own(vm, leaves, VM_CPU_LEAVES_MAX);

	for (unsigned i = 0; i < n; i++)
		if (leaves[i].function == function)
			return &leaves[i];
	fail_msg("no leaf %#x", function);
	return NULL;
}

static void sections_equal(const struct buf *a, const struct buf *b, uint16_t id)
{
	struct state_view va = view_of(a), vb = view_of(b);
	const struct state_section *x = state_find(&va, id, 0), *y = state_find(&vb, id, 0);

	assert_int_equal(x->len, y->len);
	assert_memory_equal(x->data, y->data, x->len);
}

/* ---- moving ------------------------------------------------------------------------------- */

static void guest_prepare(struct guest *g)
{
	*g = (struct guest){.kind = GUEST_CPUID, .param = {FEATURE, 0, 0}};
	guest_make(g, 2, MEMORY);
}

static void guest_freeze(struct guest *g, struct buf *state)
{
	struct error e = {0};

	assert_int_equal(vm_pause(g->vm), 0);
	buf_reset(state);
	no_error(vm_state_save(g->vm, state, &e), &e);
}

static void guest_take(struct guest *g, const struct guest *from, const struct buf *state)
{
	struct error e = {0};

	guest_prepare(g);
	no_error(vm_state_check(g->vm, state->data, state->len, &e), &e);
	memcpy(vm_ram(g->vm), vm_ram(from->vm), MEMORY);
	no_error(vm_state_load(g->vm, state->data, state->len, &e), &e);
	guest_start(g);
}

/* What the guest itself reads, from now on. */
static uint32_t feature_read(struct guest *g)
{
	guest_wait_count(g, COUNT_LOOP, guest_count(g->vm, COUNT_LOOP) + 20);
	return (uint32_t)guest_count(g->vm, COUNT_PARAM2);
}

static void guest_reboot(struct guest *g)
{
	vm_request_reset(g->vm);
	guest_wait_event(g, VM_EVENT_REBOOT, 1);
}

static void cpu_is_kept(const char *cpu)
{
	struct buf full = {0}, less = {0}, again = {0};
	struct guest g, twin, third;
	uint32_t has;

	guest_cpu = cpu;
	g = (struct guest){.param = {FEATURE, 0, 0}};
	guest_boot(&g, GUEST_CPUID, 2, MEMORY);
	has = feature_read(&g);
	assert_true(has & X2APIC);
	guest_freeze(&g, &full);
	state_edit(&full, STATE_CPUID, EACH_INSTANCE, cpuid_lessen, &less);

	guest_take(&twin, &g, &less);
	assert_int_equal(feature_read(&twin), has & ~X2APIC);
	assert_int_equal(own_leaf(twin.vm, 1)->words[0], 0x20f42);
	assert_int_equal(own_leaf(twin.vm, 0x80000008)->words[0] & 0xff, 36);
	guest_reboot(&twin);
	assert_int_equal(feature_read(&twin), has & ~X2APIC);
	guest_freeze(&twin, &again);
	sections_equal(&less, &again, STATE_CPUID);

	/* And from there on; and what came with all is not less for that. */
	guest_take(&third, &twin, &again);
	assert_int_equal(feature_read(&third), has & ~X2APIC);
	guest_end(&third);
	guest_take(&third, &g, &full);
	assert_int_equal(feature_read(&third), has);
	guest_end(&third);

	guest_end(&twin);
	guest_end(&g);
	buf_free(&full);
	buf_free(&less);
	buf_free(&again);
}

static void soft_keeps_the_cpu(void **state)
{
	guest_engine = &engine_soft;
	cpu_is_kept("");
}

static void kvm_keeps_the_cpu(void **state)
{
	if (guest_no_kvm())
		skip();
	guest_engine = &engine_kvm;
	cpu_is_kept("");
	cpu_is_kept("pollux-base");
}

/* ---- what its CPU promised ----------------------------------------------------------------- */

static const uint32_t promises[] = {0x10a};
static unsigned promises_lessened;

static void vcpu_lessen(struct buf *b)
{
	uint32_t khz = number_at(b, VCPU_TSC_KHZ);

	/* Of a faster one: that goes also where it cannot be scaled. */
	number_set(b, VCPU_TSC_KHZ, khz + khz / 8);
	for (uint32_t i = 0; i < number_at(b, VCPU_MSR_COUNT); i++)
		for (unsigned k = 0; k < ARRAY_LEN(promises); k++) {
			size_t at = VCPU_MSRS + i * 12ul;

			if (number_at(b, at) != promises[k])
				continue;
			promises_lessened += number_at(b, at + 4) != 0;
			number_set(b, at + 4, 0);
		}
}

/* Where its value is in section VCPU; 0: it is not there. */
static size_t msr_find(const struct buf *b, uint32_t index)
{
	for (uint32_t i = 0; i < number_at(b, VCPU_MSR_COUNT); i++)
		if (number_at(b, VCPU_MSRS + i * 12ul) == index)
			return VCPU_MSRS + i * 12ul + 4;
	return 0;
}

static uint64_t vcpu_msr(const struct buf *state, unsigned vcpu, uint32_t index)
{
	struct state_view v = view_of(state);
	const struct state_section *s = state_find(&v, STATE_VCPU, vcpu);
	const struct buf b = {.data = (uint8_t *)s->data, .len = s->len};
	size_t at = msr_find(&b, index);

	return at ? number_at(&b, at) : 0;
}

static uint32_t vcpu_khz(const struct buf *state, unsigned vcpu)
{
	struct state_view v = view_of(state);
	const struct state_section *s = state_find(&v, STATE_VCPU, vcpu);
	const struct buf b = {.data = (uint8_t *)s->data, .len = s->len};

	return number_at(&b, VCPU_TSC_KHZ);
}

static void promises_equal(const struct buf *a, const struct buf *b)
{
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(vcpu_khz(a, i), vcpu_khz(b, i));
		for (unsigned k = 0; k < ARRAY_LEN(promises); k++)
			assert_int_equal(vcpu_msr(a, i, promises[k]), vcpu_msr(b, i, promises[k]));
	}
}

static void promises_are_dropped(void **state)
{
	static struct engine en;
	static const uint32_t list[] = {0x10, 0x10a, 0x174, 0xc0011029, 0x6e0};
	static const uint32_t left[] = {0x10, 0x174, 0xc0011029, 0x6e0};

	en.image.msrs.head.nmsrs = ARRAY_LEN(list);
	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		en.image.msrs.entries[i] =
			(struct kvm_msr_entry){.index = list[i], .data = list[i] + 1};
	kvm_promises_drop(&en);
	assert_int_equal(en.image.msrs.head.nmsrs, ARRAY_LEN(left));
	for (unsigned i = 0; i < ARRAY_LEN(left); i++) {
		assert_int_equal(en.image.msrs.entries[i].index, left[i]);
		assert_int_equal(en.image.msrs.entries[i].data, left[i] + 1);
	}
}

static void lack_refuse(void *ctx, bool feature, const char *text)
{
	fail_msg("%s", text);
}

/* What its process says of it while it runs is what its state says, wherever it has come from; and
 * this host offers that. */
static void limits_told(const struct guest *g, const struct buf *state)
{
	struct vm_cpu_limits own, here;
	struct error e = {0};

	vm_cpu_limits_own(g->vm, &own);
	assert_int_equal(own.tsc_khz, vcpu_khz(state, 0));
	for (unsigned k = 0; k < ARRAY_LEN(promises); k++)
		assert_int_equal(k < own.promise_count ? own.promises[k].bits : 0,
				 vcpu_msr(state, 0, promises[k]));
	no_error(vm_cpu_limits("kvm", VM_CPU_HOST, &here, &e), &e);
	assert_int_equal(vm_cpu_limits_lack(&own, &here, lack_refuse, NULL), 0);
}

/* A reboot does not give it what this host has and the one from which it came has not. */
static void kvm_keeps_what_was_promised(void **state)
{
	struct buf full = {0}, less = {0}, again = {0};
	struct guest g, twin;

	if (guest_no_kvm())
		skip();
	guest_engine = &engine_kvm;
	guest_cpu = "";
	g = (struct guest){.param = {FEATURE, 0, 0}};
	guest_boot(&g, GUEST_CPUID, 2, MEMORY);
	feature_read(&g);
	guest_freeze(&g, &full);
	limits_told(&g, &full);
	state_edit(&full, STATE_VCPU, EACH_INSTANCE, vcpu_lessen, &less);
	guest_take(&twin, &g, &less);
	limits_told(&twin, &less);
	guest_reboot(&twin);
	feature_read(&twin);
	limits_told(&twin, &less);
	guest_freeze(&twin, &again);
	print_message("  %u promises were less, and the TSC %u kHz for %u\n", promises_lessened,
		      vcpu_khz(&less, 0), vcpu_khz(&full, 0));
	promises_equal(&less, &again);
	guest_end(&twin);
	guest_end(&g);
	buf_free(&full);
	buf_free(&less);
	buf_free(&again);
}

/* ---- debug control -------------------------------------------------------------------------- */

#define DEBUGCTL     0x1d9u
#define BTF          2u
#define BUS_LOCKS    4u
#define HAS_BUS_LOCK (UINT32_C(1) << 24) /* CPUID 7.0 ECX */

static uint32_t debug_control;

static void debug_control_set(struct buf *b)
{
	size_t at = msr_find(b, DEBUGCTL);

	assert_int_not_equal(at, 0);
	number_set(b, at, debug_control);
}

/* Each KVM takes BTF, but some do not keep it. */
static void kvm_keeps_debug_control(void **state)
{
	struct buf full = {0}, set = {0}, again = {0};
	struct guest g, twin;
	bool bus_locks;
	uint64_t got;

	if (guest_no_kvm())
		skip();
	guest_engine = &engine_kvm;
	guest_cpu = "";
	g = (struct guest){.param = {FEATURE, 0, 0}};
	guest_boot(&g, GUEST_CPUID, 2, MEMORY);
	bus_locks = own_leaf(g.vm, 7)->words[2] & HAS_BUS_LOCK;
	guest_freeze(&g, &full);
	debug_control = bus_locks ? BUS_LOCKS : BTF;
	state_edit(&full, STATE_VCPU, EACH_INSTANCE, debug_control_set, &set);
	guest_take(&twin, &g, &set);
	feature_read(&twin);
	guest_freeze(&twin, &again);
	got = vcpu_msr(&again, 0, DEBUGCTL);
	print_message("  DEBUGCTL %#x, and then %#llx\n", debug_control, (unsigned long long)got);
	if (got || bus_locks)
		assert_int_equal(got, debug_control);
	assert_int_equal(vm_resume(twin.vm), 0);
	guest_reboot(&twin);
	feature_read(&twin);
	guest_freeze(&twin, &again);
	assert_int_equal(vcpu_msr(&again, 0, DEBUGCTL), 0);
	guest_end(&twin);
	guest_end(&g);
	buf_free(&full);
	buf_free(&set);
	buf_free(&again);
}

/* One machine may be given one after the other, until it runs: less than before, and more. */
static void one_after_the_other(void **state)
{
	struct buf full = {0}, less = {0};
	struct error e = {0};
	struct guest g;

	guest_engine = &engine_soft;
	guest_cpu = "";
	guest_prepare(&g);
	no_error(vm_boot(g.vm, &e), &e);
	no_error(vm_state_save(g.vm, &full, &e), &e);
	state_edit(&full, STATE_CPUID, EACH_INSTANCE, cpuid_lessen, &less);
	for (unsigned i = 0; i < 4; i++) {
		const struct buf *b = i & 1 ? &full : &less;

		no_error(vm_state_load(g.vm, b->data, b->len, &e), &e);
		assert_int_equal(!(own_leaf(g.vm, FEATURE)->words[2] & X2APIC), !(i & 1));
	}
	guest_end(&g);
	buf_free(&full);
	buf_free(&less);
}

/* ---- what is refused ---------------------------------------------------------------------- */

static void refused(const struct guest *g, const struct buf *bad, const char *why)
{
	struct error e = {0};

	if (!vm_state_check(g->vm, bad->data, bad->len, &e) || !strstr(e.text, why))
		fail_msg("not a refusal about %s: %s", why, e.text);
	assert_int_not_equal(vm_state_load(g->vm, bad->data, bad->len, NULL), 0);
}

static void refusals(void)
{
	static const struct {
		edit_fn *edit;
		const char *why;
	} cases[] = {
		{cpuid_more, "this host's CPU lacks "},
		{cpuid_wider, "a physical address in bits: "},
		{cpuid_more_and_wider, " more; a physical address in bits: "},
		{cpuid_wider_twice, "63 the guest's and 1 more"},
		{cpuid_of_another_vendor, "another vendor: "},
		{cpuid_flags, "with flags 0x"},
		{cpuid_endless, "257 leaves"},
	};
	struct buf full = {0}, bad = {0};
	struct error e = {0};
	struct guest g;

	guest_prepare(&g);
	no_error(vm_boot(g.vm, &e), &e);
	no_error(vm_state_save(g.vm, &full, &e), &e);
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		state_edit(&full, STATE_CPUID, EACH_INSTANCE, cases[i].edit, &bad);
		refused(&g, &bad, cases[i].why);
	}
	no_error(vm_state_load(g.vm, full.data, full.len, &e), &e);
	guest_end(&g);
	buf_free(&full);
	buf_free(&bad);
}

static void more_than_there_is_is_refused(void **state)
{
	guest_cpu = "";
	guest_engine = &engine_soft;
	refusals();
	if (guest_no_kvm())
		skip();
	guest_engine = &engine_kvm;
	refusals();
}

/* ---- MSRs, TSC ---------------------------------------------------------------------------- */

static uint32_t msr_index;
static uint64_t msr_value;

static void msr_append(struct buf *b)
{
	uint32_t count = number_at(b, VCPU_MSR_COUNT);
	size_t at = VCPU_MSRS + count * 12ul;
	struct buf out = {0};

	buf_put(&out, b->data, at);
	buf_put_u32(&out, msr_index);
	buf_put_u64(&out, msr_value);
	buf_put(&out, b->data + at, b->len - at);
	number_set(&out, VCPU_MSR_COUNT, count + 1);
	buf_free(b);
	*b = out;
}

static void tsc_slower(struct buf *b)
{
	number_set(b, VCPU_TSC_KHZ, 900000);
}

static void tsc_faster(struct buf *b)
{
	number_set(b, VCPU_TSC_KHZ, 1200000);
}

static void tsc_close(struct buf *b)
{
	number_set(b, VCPU_TSC_KHZ, 995000);
}

/* A state, against a model with or without those limits. */
static void model_judge(const struct state_model *model, const struct buf *state, const char *why)
{
	struct state_view v = view_of(state);
	struct error e = {0};
	int rc = state_image_check(model, &v, &e);

	if (!rc != !*why || !strstr(e.text, why))
		fail_msg("\"%s\" was expected, and came %d \"%s\"", why, rc, e.text);
}

static void msr_judge(const struct state_model *model, const struct buf *state, uint32_t index,
		      uint64_t value, const char *why)
{
	struct buf edited = {0};

	msr_index = index;
	msr_value = value;
	state_edit(state, STATE_VCPU, EACH_INSTANCE, msr_append, &edited);
	model_judge(model, &edited, why);
	buf_free(&edited);
}

#define ARCH_BIT(n) (UINT64_C(1) << (n))

static void msrs_judge(struct state_model *model, const struct buf *state)
{
	/* Warnings; for a hypervisor; control MSRs. */
	static const unsigned no_promises[] = {2, 19, 3, 9, 10, 11, 12, 18, 21, 23, 25};

	msr_judge(model, state, 0x7777, 1, "an MSR that this host does not know (0x7777)");
	msr_judge(model, state, 0x7777, 0, "");
	msr_judge(model, state, 0x9e, 0x30000, "");
	msr_judge(model, state, 0x9e, 0xa0000, "an MSR that this host does not know (0x9e)");
	msr_judge(model, state, 0xc0000104, UINT64_C(1) << 32, "");
	msr_judge(model, state, 0xc0000104, 3, "an MSR that this host does not know (0xc0000104)");
	msr_judge(model, state, 0x10a, 5, "an MSR that this host does not know");
	model->msrs[model->msr_count++] = 0x10a;
	model->limits.promises[0] = (struct vm_cpu_promise){.msr = 0x10a, .bits = 3};
	model->limits.promise_count = 1;
	msr_judge(model, state, 0x10a, 3, "");
	msr_judge(model, state, 0x10a, 1, "");
	for (unsigned i = 0; i < ARRAY_LEN(no_promises); i++)
		msr_judge(model, state, 0x10a, ARCH_BIT(no_promises[i]) | 1, "");
	msr_judge(model, state, 0x10a, 0x108 | 1, "lacks what bits 0x100 of MSR 0x10a promise");
	msr_judge(model, state, 0x10a, ARCH_BIT(62) | ARCH_BIT(24) | 3,
		  "lacks what bits 0x4000000001000000 of MSR 0x10a promise");
}

static void tsc_judge(struct state_model *model, const struct buf *state)
{
	struct buf edited = {0};

	state_edit(state, STATE_VCPU, EACH_INSTANCE, tsc_slower, &edited);
	model_judge(model, &edited, "");
	model->limits.tsc_khz = 1000000;
	model_judge(model, &edited, "900000 kHz, this host's at 1000000");
	state_edit(state, STATE_VCPU, EACH_INSTANCE, tsc_close, &edited);
	model_judge(model, &edited, "");
	state_edit(state, STATE_VCPU, EACH_INSTANCE, tsc_faster, &edited);
	model_judge(model, &edited, "");
	buf_free(&edited);
}

static void limits_of_a_host(void **state)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPU_MODEL_LEAVES];
	} cpuid;
	struct state_model model = {
		.engine = "soft", .vcpus = 2, .cpuid = &cpuid.head, .offered = &cpuid.head};
	struct buf full = {0};
	struct error e = {0};
	struct guest g;

	cpu_model_base(&model);
	guest_engine = &engine_soft;
	guest_cpu = "";
	guest_prepare(&g);
	no_error(vm_boot(g.vm, &e), &e);
	no_error(vm_state_save(g.vm, &full, &e), &e);
	msrs_judge(&model, &full);
	tsc_judge(&model, &full);
	guest_end(&g);
	buf_free(&full);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(soft_keeps_the_cpu),
		cmocka_unit_test(kvm_keeps_the_cpu),
		cmocka_unit_test(promises_are_dropped),
		cmocka_unit_test(kvm_keeps_what_was_promised),
		cmocka_unit_test(kvm_keeps_debug_control),
		cmocka_unit_test(one_after_the_other),
		cmocka_unit_test(more_than_there_is_is_refused),
		cmocka_unit_test(limits_of_a_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

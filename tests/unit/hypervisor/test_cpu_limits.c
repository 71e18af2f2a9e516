// SPDX-License-Identifier: Apache-2.0
/* What a guest's TSC and its MSRs ask of a host: each rule; and what is said of both by a VM, and
 * by a host without one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/cpu_limits.h"
#include "tests/unit/engines.h"

#define ARCH   0x10au
#define BIT(n) (UINT64_C(1) << (n))
#define TEXT   512

static void lack_append(void *ctx, bool feature, const char *text)
{
	char *out = ctx;
	size_t at = strlen(out);

	assert_false(feature);
	assert_true(strlen(text) + 1 < VM_CPU_LACK_MAX); /* and not cut off */
	snprintf(out + at, TEXT - at, "%s%s", at ? "; " : "", text);
}

/* `lacks`: all of it. */
static void judge(const struct vm_cpu_limits *guest, const struct vm_cpu_limits *host,
		  const char *lacks)
{
	char text[TEXT] = "";
	unsigned n = vm_cpu_limits_lack(guest, host, lack_append, text);

	if (strcmp(text, lacks) != 0)
		fail_msg("\"%s\", not \"%s\"", text, lacks);
	assert_int_equal(!n, !*lacks);
}

static void a_tsc_may_be_faster_or_near(void **state)
{
	static const struct {
		uint32_t guest, host;
		const char *lacks;
	} cases[] = {
		{0, 0, ""},
		{2000000, 0, ""}, /* it scales */
		{0, 2000000, ""}, /* not known */
		{2000000, 2000000, ""},
		{3000000, 2000000, ""},
		{2000000, 2020000, ""},
		{2000000, 2020001,
		 "its TSC runs at 2020001 kHz and cannot be scaled, the guest's at 2000000"},
		{1, UINT32_MAX,
		 "its TSC runs at 4294967295 kHz and cannot be scaled, the guest's at 1"},
		{UINT32_MAX, 1, ""},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
		judge(&(struct vm_cpu_limits){.tsc_khz = cases[i].guest},
		      &(struct vm_cpu_limits){.tsc_khz = cases[i].host}, cases[i].lacks);
	assert_true(cpu_tsc_near(2000000, 1980000));
	assert_false(cpu_tsc_near(2000000, 1979999));
}

static struct vm_cpu_limits promising(uint32_t msr, uint64_t bits)
{
	return (struct vm_cpu_limits){.promise_count = 1, .promises = {{.msr = msr, .bits = bits}}};
}

static void promise_judge(uint64_t guest, uint64_t host, const char *lacks)
{
	const struct vm_cpu_limits needed = promising(ARCH, guest), there = promising(ARCH, host);

	judge(&needed, &there, lacks);
}

static void promises_are_kept(void **state)
{
	/* Warnings; for a hypervisor; control MSRs. */
	static const unsigned no_promises[] = {2, 19, 3, 9, 10, 11, 12, 18, 21, 23, 25};
	static const unsigned kept[] = {0,  1,  4,  5,  6,  7,  8,  13, 14,
					15, 17, 20, 24, 26, 27, 28, 62};
	char text[TEXT];

	promise_judge(0, 0, "");
	promise_judge(BIT(0) | BIT(8), ~UINT64_C(0), "");
	promise_judge(BIT(0) | BIT(8) | BIT(24), BIT(0) | BIT(1),
		      "it lacks what bits 0x1000100 of MSR 0x10a promise the guest");
	for (unsigned i = 0; i < ARRAY_LEN(no_promises); i++)
		promise_judge(BIT(no_promises[i]), 0, "");
	for (unsigned i = 0; i < ARRAY_LEN(kept); i++) {
		snprintf(text, sizeof(text),
			 "it lacks what bits %#llx of MSR 0x10a promise the guest",
			 (unsigned long long)BIT(kept[i]));
		promise_judge(BIT(kept[i]), ~BIT(kept[i]), text);
	}
}

static void an_msr_that_is_not_there(void **state)
{
	const struct vm_cpu_limits none = {0}, arch = promising(ARCH, 1),
				   unruled = promising(0x7777, ~UINT64_C(0));
	const struct vm_cpu_limits both = {
		.tsc_khz = 5,
		.promise_count = 2,
		.promises = {{.msr = 0x7777, .bits = 1}, {.msr = ARCH, .bits = 2}}};
	const struct vm_cpu_limits host = {.tsc_khz = 6};

	judge(&arch, &none, "it lacks what bits 0x1 of MSR 0x10a promise the guest");
	judge(&arch, &unruled, "it lacks what bits 0x1 of MSR 0x10a promise the guest");
	judge(&none, &arch, "");
	judge(&unruled, &none, "");
	judge(&both, &host,
	      "its TSC runs at 6 kHz and cannot be scaled, the guest's at 5; "
	      "it lacks what bits 0x2 of MSR 0x10a promise the guest");
}

/* ---- real ones ------------------------------------------------------------------------------ */

static struct vm_cpu_limits host_limits(const char *engine, enum vm_cpu cpu)
{
	struct vm_cpu_limits out;
	struct error e = {0};

	if (vm_cpu_limits(engine, cpu, &out, &e))
		fail_msg("%s", e.text);
	return out;
}

/* Of a VM that has just been made. */
static struct vm_cpu_limits vm_limits(const char *engine, const char *cpu)
{
	struct vm_config c = {.name = "limits", .memory = 2 << 20, .vcpus = 2};
	struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct vm_cpu_limits out;
	struct error e = {0};
	struct vm *vm;

	snprintf(c.engine, sizeof(c.engine), "%s", engine);
	snprintf(c.cpu, sizeof(c.cpu), "%s", cpu);
	assert_int_equal(loop_create(&parts.io), 0);
	if (vm_create(&c, &parts, &vm, &e))
		fail_msg("%s", e.text);
	memset(&out, 0xff, sizeof(out));
	vm_cpu_limits_own(vm, &out);
	vm_destroy(vm);
	loop_destroy(parts.io);
	return out;
}

static void has_none(const struct vm_cpu_limits *l)
{
	assert_int_equal(l->tsc_khz, 0);
	assert_int_equal(l->promise_count, 0);
}

static void others_have_none(void **state)
{
	static const struct {
		const char *engine, *name;
		enum vm_cpu cpu;
	} cases[] = {{"sim", "", VM_CPU_NONE}, {"soft", "pollux-base", VM_CPU_BASE}};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct vm_cpu_limits here = host_limits(cases[i].engine, cases[i].cpu);
		struct vm_cpu_limits own = vm_limits(cases[i].engine, cases[i].name);

		has_none(&here);
		has_none(&own);
	}
}

static void kvm_satisfies_its_own(void **state)
{
	struct vm_cpu_limits here, own;

	if (!kvm_is_usable()) {
		print_message("KVM cannot be used here\n");
		skip();
	}
	here = host_limits("kvm", VM_CPU_HOST);
	own = vm_limits("kvm", "host");
	print_message("  the guest's TSC %u kHz, the host's %u, promises %u of %u: %#llx\n",
		      own.tsc_khz, here.tsc_khz, own.promise_count, here.promise_count,
		      own.promise_count ? (unsigned long long)own.promises[0].bits : 0);
	assert_true(own.promise_count <= here.promise_count);
	judge(&own, &here, "");
	if (here.tsc_khz) {
		assert_true(cpu_tsc_near(own.tsc_khz, here.tsc_khz));
		own.tsc_khz = here.tsc_khz / 2;
		assert_int_equal(vm_cpu_limits_lack(&own, &here, lack_append, (char[TEXT]){0}), 1);
	}
	here = host_limits("kvm", VM_CPU_BASE);
	own = vm_limits("kvm", "pollux-base");
	has_none(&here);
	has_none(&own);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tsc_may_be_faster_or_near), cmocka_unit_test(promises_are_kept),
		cmocka_unit_test(an_msr_that_is_not_there),    cmocka_unit_test(others_have_none),
		cmocka_unit_test(kvm_satisfies_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

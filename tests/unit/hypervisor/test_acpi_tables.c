// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/acpi_tables.h"
#include "hypervisor/machine.h"

#define FADT_LENGTH 276u

struct tables {
	struct buf bytes;
	const uint8_t *xsdt, *fadt, *madt, *mcfg, *dsdt, *facs;
};

static uint64_t number(const uint8_t *p, unsigned at, unsigned bytes)
{
	uint64_t v = 0;
	memcpy(&v, p + at, bytes);
	return v;
}

static const uint8_t *table_at(const struct tables *t, uint64_t gpa, const char *signature)
{
	assert_true(gpa >= LAYOUT_ACPI_TABLES);
	uint64_t at = gpa - LAYOUT_ACPI_TABLES;
	assert_true(at + 36 <= t->bytes.len);
	const uint8_t *p = t->bytes.data + at;
	assert_memory_equal(p, signature, 4);
	assert_true(at + number(p, 4, 4) <= t->bytes.len);
	return p;
}

static unsigned sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;
	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* The way a kernel finds them: RSDP, XSDT, then the rest. */
static void tables_open(struct tables *t, unsigned vcpus)
{
	memset(t, 0, sizeof(*t));
	assert_int_equal(acpi_tables_build(vcpus, &t->bytes), 0);
	const uint8_t *rsdp = t->bytes.data;
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	t->xsdt = table_at(t, number(rsdp, 24, 8), "XSDT");
	t->fadt = table_at(t, number(t->xsdt, 36, 8), "FACP");
	t->madt = table_at(t, number(t->xsdt, 44, 8), "APIC");
	t->mcfg = table_at(t, number(t->xsdt, 52, 8), "MCFG");
	t->facs = table_at(t, number(t->fadt, 36, 4), "FACS");
	t->dsdt = table_at(t, number(t->fadt, 40, 4), "DSDT");
	assert_int_equal(number(t->fadt, 140, 8), number(t->fadt, 40, 4));
}

static void tables_close(struct tables *t)
{
	buf_free(&t->bytes);
}

static void test_checksums(void **state)
{
	struct tables t;
	tables_open(&t, VM_VCPUS_MAX);
	assert_int_equal(sum(t.bytes.data, 20), 0);
	assert_int_equal(sum(t.bytes.data, 36), 0);
	const uint8_t *summed[] = {t.xsdt, t.fadt, t.madt, t.mcfg, t.dsdt};
	for (unsigned i = 0; i < ARRAY_LEN(summed); i++)
		assert_int_equal(sum(summed[i], number(summed[i], 4, 4)), 0);
	assert_int_equal((t.facs - t.bytes.data) % 64, 0);
	assert_true(t.bytes.len <= 0x100000 - LAYOUT_ACPI_TABLES);
	tables_close(&t);
}

static void test_fadt_names_the_ports(void **state)
{
	struct tables t;
	tables_open(&t, 1);
	assert_int_equal(number(t.fadt, 4, 4), FADT_LENGTH);
	assert_int_equal(number(t.fadt, 46, 2), LAYOUT_ACPI_GSI);
	assert_int_equal(number(t.fadt, 56, 4), LAYOUT_PM_BASE);
	assert_int_equal(number(t.fadt, 64, 4), LAYOUT_PM_BASE + 4);
	assert_int_equal(t.fadt[88], 4);
	assert_int_equal(t.fadt[89], 2);
	assert_int_equal(number(t.fadt, 116 + 4, 8), LAYOUT_RESET_PORT);
	assert_int_equal(t.fadt[128], LAYOUT_RESET_VALUE);
	assert_int_equal(number(t.fadt, 148 + 4, 8), LAYOUT_PM_BASE);
	assert_int_equal(number(t.fadt, 172 + 4, 8), LAYOUT_PM_BASE + 4);
	tables_close(&t);
}

static void test_madt_lists_every_vcpu(void **state)
{
	for (unsigned vcpus = 1; vcpus <= VM_VCPUS_MAX; vcpus++) {
		struct tables t;
		unsigned lapics = 0, overrides = 0;
		tables_open(&t, vcpus);
		const uint8_t *end = t.madt + number(t.madt, 4, 4);
		for (const uint8_t *p = t.madt + 44; p < end; p += p[1]) {
			assert_true(p[1] >= 2 && p[1] <= end - p);
			lapics += p[0] == 0;
			overrides += p[0] == 2;
		}
		assert_int_equal(lapics, vcpus);
		assert_int_equal(overrides, 2);
		tables_close(&t);
	}
}

static void write_table(const char *path, const uint8_t *table)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(table, number(table, 4, 4), 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

/* iasl must read every table without complaint; the DSDT's source must also compile. */
static void test_iasl_accepts_all(void **state)
{
	if (system("command -v iasl >/dev/null 2>&1") != 0) {
		print_message("test_iasl_accepts_all: iasl (package acpica-tools) is missing\n");
		skip();
	}
	char folder[] = "/tmp/pollux-acpi-XXXXXX", path[64], command[512];
	assert_non_null(mkdtemp(folder));
	struct tables t;
	tables_open(&t, 2);
	const struct {
		const char *name;
		const uint8_t *table;
	} files[] = {{"facp", t.fadt},
		     {"apic", t.madt},
		     {"mcfg", t.mcfg},
		     {"facs", t.facs},
		     {"dsdt", t.dsdt}};
	for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, files[i].name);
		write_table(path, files[i].table);
		snprintf(command, sizeof(command),
			 "cd %s && iasl -d %s >log 2>&1 && ! grep -iE 'error|warning|invalid' log",
			 folder, files[i].name);
		int rc = system(command);
		if (rc)
			print_message("iasl refuses %s/%s\n", folder, files[i].name);
		assert_int_equal(rc, 0);
	}
	snprintf(command, sizeof(command),
		 "cd %s && iasl -oa dsdt.dsl >log 2>&1 && grep -q ' 0 Errors, 0 Warnings' log || "
		 "{ cat log; exit 1; }",
		 folder);
	assert_int_equal(system(command), 0);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
	tables_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_checksums),
		cmocka_unit_test(test_fadt_names_the_ports),
		cmocka_unit_test(test_madt_lists_every_vcpu),
		cmocka_unit_test(test_iasl_accepts_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

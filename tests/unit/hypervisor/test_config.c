// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

#define LEAST "name = \"a\";\nmemory = \"64M\";\nkernel = \"/k\";\n"

static void parse_good(const char *text, struct vm_config *c)
{
	struct error e = {0};
	int rc = vm_config_parse(text, "vm.cfg", c, &e);

	if (rc)
		fail_msg("%s: %d %s", text, rc, e.text);
}

static void test_the_least_has_defaults(void **state)
{
	struct vm_config c;

	parse_good(LEAST, &c);
	assert_string_equal(c.name, "a");
	assert_string_equal(c.engine, "auto");
	assert_string_equal(c.kernel, "/k");
	assert_string_equal(c.cmdline, "");
	assert_int_equal(c.memory, 64 << 20);
	assert_int_equal(c.vcpus, 1);
	assert_int_equal(c.disk_count + c.nic_count, 0);
}

/* The example that is installed. Run from the top folder. */
static void test_the_example_is_taken(void **state)
{
	struct vm_config c;
	struct buf text = {0};
	struct error e = {0};

	if (file_read("packaging/examples/web1.cfg", 1 << 16, &text, &e))
		fail_msg("%s", e.text);
	buf_put_u8(&text, 0);
	parse_good((const char *)text.data, &c);
	assert_int_equal(c.disk_count, 2);
	assert_int_equal(c.nic_count, 1);
	buf_free(&text);
}

static void test_every_key_is_taken(void **state)
{
	struct vm_config c;

	parse_good("name = \"web-1.x_y\"; memory = \"2G\"; vcpus = 16; engine = \"kvm\";\n"
		   "kernel = \"/k\"; initrd = \"/i\"; cmdline = \"console=ttyS0 a=\\\"b\\\"\"; "
		   "seed = 7L; crash_cores = \"/cores\";\n"
		   "disks = ( { path = \"/d0\"; }, { path = \"/d1\"; readonly = true; },\n"
		   "          { path = \"/d2\"; cache = \"writethrough\"; size = \"64K\"; } );\n"
		   "nics = ( { tap = \"t0\"; bridge = \"br0\"; mac = \"52:54:00:Ab:cD:eF\"; },\n"
		   "         { socket = \"/s\"; }, { } );\n",
		   &c);
	assert_string_equal(c.name, "web-1.x_y");
	assert_int_equal(c.memory, UINT64_C(2) << 30);
	assert_int_equal(c.vcpus, 16);
	assert_int_equal(c.seed, 7);
	assert_string_equal(c.initrd, "/i");
	assert_string_equal(c.crash_cores, "/cores");
	assert_string_equal(c.cmdline, "console=ttyS0 a=\"b\"");
	assert_int_equal(c.disk_count, 3);
	assert_false(c.disks[0].readonly || c.disks[0].write_through || c.disks[0].create_size);
	assert_true(c.disks[1].readonly);
	assert_true(c.disks[2].write_through);
	assert_int_equal(c.disks[2].create_size, 65536);
	assert_int_equal(c.nic_count, 3);
	assert_int_equal(c.nics[0].kind, NIC_TAP);
	assert_memory_equal(c.nics[0].mac, ((uint8_t[]){0x52, 0x54, 0, 0xab, 0xcd, 0xef}), 6);
	assert_string_equal(c.nics[0].bridge, "br0");
	assert_int_equal(c.nics[1].kind, NIC_STREAM);
	assert_string_equal(c.nics[1].socket, "/s");
	assert_int_equal(c.nics[2].kind, NIC_NONE);
}

/* The same on both hosts, not the same for two NICs. */
static void test_default_addresses_come_from_the_name(void **state)
{
	struct vm_config a, b, c;

	parse_good(LEAST "nics = ( {}, {} );", &a);
	parse_good(LEAST "nics = ( {}, {} );", &b);
	parse_good("name = \"b\"; memory = \"64M\"; kernel = \"/k\"; nics = ( {} );", &c);
	assert_memory_equal(a.nics[0].mac, b.nics[0].mac, 6);
	assert_memory_not_equal(a.nics[0].mac, a.nics[1].mac, 6);
	assert_memory_not_equal(a.nics[0].mac, c.nics[0].mac, 6);
	assert_int_equal(a.nics[0].mac[0], 0x52);
}

static void test_the_sim_engine_needs_no_kernel(void **state)
{
	struct vm_config c;

	parse_good("name = \"s\"; memory = \"256K\"; engine = \"sim\"; seed = 3;", &c);
	assert_int_equal(c.memory, 256 << 10);
}

static void test_the_cpu_may_be_named(void **state)
{
	struct vm_config c;

	parse_good("name = \"s\"; memory = \"64M\"; kernel = \"/k\";", &c);
	assert_string_equal(c.cpu, "");
	parse_good("name = \"s\"; memory = \"64M\"; kernel = \"/k\"; cpu = \"pollux-base\";", &c);
	assert_string_equal(c.cpu, "pollux-base");
	parse_good("name = \"s\"; memory = \"64M\"; kernel = \"/k\"; cpu = \"host\";", &c);
	assert_string_equal(c.cpu, "host");
}

static void test_mistakes_are_told_with_their_line(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"", "lacks name"},
		{"name = \"a\";\nmemory = \"64M\";\n", "lacks kernel"},
		{"name = \"a\";\nkernel = \"/k\";\n", "lacks memory"},
		{LEAST "memroy = 1;", "vm.cfg:4: there is no key \"memroy\""},
		{LEAST "vcpus = 0;", "vm.cfg:4: vcpus is 0; it must be 1 to 16"},
		{LEAST "vcpus = 17;", "vm.cfg:4: vcpus"},
		{LEAST "vcpus = \"2\";", "vm.cfg:4: vcpus must be a whole number"},
		{LEAST "vcpus = 2.5;", "whole number"},
		{LEAST "vcpus = 2;\nvcpus = 3;", "vm.cfg:5"},
		{LEAST "seed = -1;", "seed"},
		{LEAST "engine = \"xen\";", "vm.cfg:4: engine must be"},
		{LEAST "cpu = \"486\";", "vm.cfg:4: cpu must be"},
		{LEAST "engine = \"soft\";\ncpu = \"host\";", "vm.cfg:5: engine soft has"},
		{"name = \"a\"; memory = \"64M\"; engine = \"sim\"; cpu = \"host\";", "no CPU"},
		{"name = \"a\"; memory = \"64M\"; engine = \"sim\"; hugepages = true;",
		 "no huge pages"},
		{LEAST "cmdline = \"a\\nb\";", "control character"},
		{LEAST "initrd = \"\";", "initrd is empty"},
		{"name = \"a/b\"; memory = \"64M\"; kernel = \"/k\";", "name \"a/b\""},
		{"name = \".a\"; memory = \"64M\"; kernel = \"/k\";", "name \".a\""},
		{"name = \"a\"; memory = 64; kernel = \"/k\";", "memory must be a size"},
		{"name = \"a\"; memory = \"64\"; kernel = \"/k\";", "memory must be a size"},
		{"name = \"a\"; memory = \"-64M\"; kernel = \"/k\";", "memory must be a size"},
		{"name = \"a\"; memory = \"64MB\"; kernel = \"/k\";", "memory must be a size"},
		{"name = \"a\"; memory = \"64m\"; kernel = \"/k\";", "memory must be a size"},
		{"name = \"a\"; memory = \"99999999999999999999M\"; kernel = \"/k\";", "size"},
		{"name = \"a\"; memory = \"18446744073709551615T\"; kernel = \"/k\";", "size"},
		{"name = \"a\"; memory = \"3M\"; kernel = \"/k\";", "in steps of 2048K"},
		{"name = \"a\"; memory = \"5T\"; kernel = \"/k\";", "memory must be"},
		{"name = \"a\"; memory = \"100K\"; engine = \"sim\";", "in steps of 64K"},
		{LEAST "disks = { path = \"/d\"; };", "vm.cfg:4: disks must be a list"},
		{LEAST "disks = ( \"/d\" );", "each of disks must be a group"},
		{LEAST "disks = (\n{ readonly = true; } );", "a disk lacks path"},
		{LEAST "disks = (\n{ path = \"/d\";\nsnapshot = 1; } );",
		 "vm.cfg:6: there is no key"},
		{LEAST "disks = ( { path = \"/d\"; readonly = 1; } );", "true or false"},
		{LEAST "disks = ( { path = \"/d\"; cache = \"none\"; } );", "writethrough"},
		{LEAST "disks = ( { path = \"/d\"; size = \"0M\"; } );", "size must be"},
		{LEAST "nics = ( { tap = \"t\"; socket = \"/s\"; } );", "either a tap or a socket"},
		{LEAST "nics = ( { bridge = \"b\"; } );", "needs a tap"},
		{LEAST "nics = ( { tap = \"sixteen-letters-\"; } );", "longer than 15"},
		{LEAST "nics = ( { mac = \"52:54:00:12:34\"; } );", "six octets"},
		{LEAST "nics = ( { mac = \"52-54-00-12-34-56\"; } );", "six octets"},
		{LEAST "nics = ( { mac = \"52:54:00:12:34:5g\"; } );", "six octets"},
		{LEAST "nics = ( { mac = \"01:54:00:12:34:56\"; } );", "single host"},
		{LEAST "nics = ( { mac = \"00:00:00:00:00:00\"; } );", "single host"},
		{LEAST
		 "nics = ( { mac = \"52:54:00:12:34:56\"; }, { mac = \"52:54:00:12:34:56\"; } );",
		 "the same mac"},
		{LEAST "disks = ( { path = \"/d\"; readonly = true; }, { path = \"/d\"; } );",
		 "the same path"},
		{LEAST "nics = ( {},{},{},{},{},{},{},{},{} );", "nics has 9 entries"},
		{LEAST "@include \"/etc/passwd\"\n", "vm.cfg:4: @include"},
		{LEAST "vcpus = ;", "vm.cfg:4: syntax error"},
		{LEAST "# fine\nvcpus = {", "vm.cfg:5"},
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct vm_config c = {.vcpus = 99};
		struct error e = {0};
		int rc = vm_config_parse(cases[i].text, "vm.cfg", &c, &e);

		if (rc != -EINVAL || !strstr(e.text, cases[i].why) ||
		    strncmp(e.text, "vm.cfg:", 7) != 0)
			fail_msg("%s: expected \"%s\", got %d \"%s\"", cases[i].text, cases[i].why,
				 rc, e.text);
		assert_int_equal(c.vcpus, 99); /* nothing half-read */
	}
}

static void test_long_values_are_refused(void **state)
{
	static const struct {
		const char *key;
		size_t most;
	} cases[] = {{"kernel", 255}, {"initrd", 255}, {"cmdline", 1023}, {"name", 63}};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
		for (unsigned over = 0; over < 2; over++) {
			struct vm_config c;
			struct error e = {0};
			char text[4096], value[2048];

			memset(value, 'x', sizeof(value));
			value[cases[i].most + over] = 0;
			snprintf(text, sizeof(text), "memory = \"64M\";%s%s%s = \"%s\";",
				 strcmp(cases[i].key, "name") ? "name = \"a\";" : "",
				 strcmp(cases[i].key, "kernel") ? "kernel = \"/k\";" : "",
				 cases[i].key, value);
			assert_int_equal(vm_config_parse(text, "vm.cfg", &c, &e),
					 over ? -EINVAL : 0);
		}
}

/* Each prefix of a good file is either good or refused, never a crash. */
static void test_truncation(void **state)
{
	const char *whole =
		LEAST "vcpus = 2; disks = ( { path = \"/d\"; } );\nnics = ( { tap = \"t\"; } );";

	for (size_t n = 0; n <= strlen(whole); n++) {
		char *text = strndup(whole, n);
		struct vm_config c;
		struct error e = {0};
		int rc = vm_config_parse(text, "vm.cfg", &c, &e);

		assert_true(rc == 0 || (rc == -EINVAL && e.text[0]));
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_least_has_defaults),
		cmocka_unit_test(test_the_example_is_taken),
		cmocka_unit_test(test_every_key_is_taken),
		cmocka_unit_test(test_default_addresses_come_from_the_name),
		cmocka_unit_test(test_the_sim_engine_needs_no_kernel),
		cmocka_unit_test(test_the_cpu_may_be_named),
		cmocka_unit_test(test_mistakes_are_told_with_their_line),
		cmocka_unit_test(test_long_values_are_refused),
		cmocka_unit_test(test_truncation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

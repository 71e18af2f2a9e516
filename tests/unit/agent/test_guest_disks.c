// SPDX-License-Identifier: Apache-2.0
/* What a standby makes of the disks that are offered to it. Block devices, and the names that they
 * have, are made here: a node of a loop device, only looked at, and a /sys of the test's own. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/guest.h"
#include "tests/unit/agent/device.h"

#define LOOP_MAJOR 7
#define LOOP_MINOR 0

static char folder[32], path[64];
static struct guest guest;
static struct offer *o;
static struct error e;

static int setup(void **state)
{
	char config[256];

	strcpy(folder, "/tmp/pollux-disks-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/d", folder);
	guest = (struct guest){.name = "demo", .origin = (char *)"/x"};
	snprintf(config, sizeof(config),
		 "name = \"demo\"; memory = \"16M\"; engine = \"sim\"; kernel = \"/k\"; "
		 "disks = ( { path = \"%s\"; } );",
		 path);
	guest.config = strdup(config);
	o = calloc(1, sizeof(*o));
	assert_true(guest.config && o);
	o->config = strdup(config);
	o->origin = strdup("/x");
	snprintf(o->session.options.storage, sizeof(o->session.options.storage), "mirror");
	return 0;
}

static int teardown(void **state)
{
	char command[64];

	offer_free(o);
	free(guest.config);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static void described(void)
{
	if (guest_disks_describe(&guest, o, &e))
		fail_msg("%s", e.text);
	assert_int_equal(o->disk_count, 1);
}

static void taken(void)
{
	if (guest_disks_prepare(&guest, o, &e))
		fail_msg("%s", e.text);
}

static void refused(const char *word)
{
	e = (struct error){0};
	assert_int_equal(guest_disks_prepare(&guest, o, &e), -EEXIST);
	if (!strstr(e.text, word))
		fail_msg("%s", e.text);
}

static void a_file(void **state)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 1 << 20), 0);
	fclose(f);
	described();
	assert_string_equal(o->disks[0].wwid, "");
	assert_int_equal(o->disks[0].size, 1 << 20);
	refused("--overwrite");
	o->session.options.overwrite = true;
	taken();
	o->session.options.overwrite = false;
	guest.copies = 1;
	taken();
	assert_int_equal(unlink(path), 0);
	taken(); /* it is made */
	assert_int_equal(access(path, R_OK | W_OK), 0);
}

/* ---- block devices ------------------------------------------------------------------------- */

static char device[64];

/* False: that is not possible here. Of this process alone. */
static bool devices_are_ours(void)
{
	FILE *f;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/sys/dev/block", "tmpfs", 0, NULL) ||
	    mknod(path, S_IFBLK | 0600, makedev(LOOP_MAJOR, LOOP_MINOR)))
		return false;
	snprintf(device, sizeof(device), "/sys/dev/block/%u:%u", LOOP_MAJOR, LOOP_MINOR);
	if (mkdir(device, 0700))
		return false;
	f = fopen(path, "re");
	if (f)
		fclose(f);
	return f;
}

/* The same one is refused, whatever the operator and this host's record say; unless it is not
 * copied. */
static void the_primarys_own_device(void **state)
{
	if (!devices_are_ours()) {
		print_message("there can be no block device here\n");
		skip();
	}
	device_has(device, "serial", "overlayblk\n");
	described();
	assert_string_equal(o->disks[0].wwid, ""); /* which says nothing */
	o->session.options.overwrite = true;
	taken();
	device_has(device, "wwid", "eui.0025385b71b00001\n");
	taken(); /* the primary has not said what it has */
	described();
	assert_string_equal(o->disks[0].wwid, "eui.0025385b71b00001");
	refused("is the same one on both hosts");
	guest.copies = 1;
	refused("is the same one on both hosts");
	o->session.options.shared_disks = 1;
	taken();
	o->session.options.shared_disks = 0;
	device_has(device, "wwid", "eui.0025385b71b00002\n");
	taken();
	o->session.options.overwrite = false;
	taken();
	guest.copies = 0;
	refused("--overwrite");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(a_file), T(the_primarys_own_device)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

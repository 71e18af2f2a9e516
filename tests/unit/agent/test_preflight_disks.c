// SPDX-License-Identifier: Apache-2.0
/* Whether a VM can go on at another host with its disks: which are handed over, which copied, and
 * which must not be. */
#include <stdlib.h>
#include <sys/stat.h>

#include "tests/unit/agent/device.h"
#include "tests/unit/agent/preflight_case.h"

/* NULL: a host that is older, and does not say whether the name is unique. */
static void named(json_t *disk, const char *name, json_t *unique)
{
	set(disk, "kind", json_string("block"));
	set(disk, "wwid", json_string(name));
	json_object_del(disk, "unique");
	if (unique)
		set(disk, "unique", unique);
}

static void shared_disks(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	json_object_del(there, "same");
	refused("disk-unproven", "/d/a is the same one there cannot be proven");
	set(offer, "assume_same", json_true());
	judge_all("", true, "");
	set(there, "same", json_string("m2"));
	refused("disk-other", "another one of the same name");
	set(there, "size", json_integer(100));
	refused("disk-size", "4194304 bytes here and 100 there");
	set(there, "kind", json_string("block"));
	refused("disk-kind", "is a file here and a block there");
	set(there, "why", json_string("Permission denied"));
	refused("disk-access", "Permission denied");
	set(there, "kind", json_string("none"));
	refused("disk-missing", "the disk /d/a is not there");
	json_object_del(there, "why");
	set(there, "size", json_integer(4194304));
	named(here, "naa.1", json_true());
	named(there, "naa.1", json_true());
	judge_all("", true, "");
	named(there, "naa.2", json_true());
	refused("disk-other", "another one");
}

/* One host may see it through multipath, which writes its name in another way. */
static void shared_by_multipath(void **state)
{
	static const struct {
		const char *ours, *theirs;
		bool unique;
		const char *code, *copy_code; /* of handing it over, of a copy over it */
	} cases[] = {
		{"naa.6001", "mpath-36001", true, "", "disk-same"},
		{"mpath-36001", "naa.6001", true, "", "disk-same"},
		{"eui.0025", "mpath-20025", true, "", "disk-same"},
		{"uuid.1-2", "mpath-uuid.1-2", true, "", "disk-same"},
		{"naa.6001", "mpath-36002", true, "disk-other", "disk-foreign"},
		{"naa.6001", "eui.0025", true, "disk-unproven", "disk-untold"},
		{"naa.3001", "mpath-33001", false, "disk-unproven", "disk-untold"},
		{"t10.ATA  D  1", "mpath-1ATA_D_1", false, "disk-unproven", "disk-untold"},
	};
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		named(here, cases[i].ours, json_boolean(cases[i].unique));
		named(there, cases[i].theirs, json_boolean(cases[i].unique));
		set(offer, "storage", json_string("shared"));
		judge_all(cases[i].code, !*cases[i].code, "");
		set(offer, "storage", json_string("mirror"));
		judge_all(cases[i].copy_code, false, "");
	}
}

/* An image that is only read may be asked about by two hosts at once: each marks it. */
static void shared_image_of_two(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(there, "same", json_string("m2"));
	refused("disk-other", "another one of the same name");
	set(here, "readonly", json_true());
	refused("disk-unproven", "cannot be proven");
	set(offer, "assume_same", json_true());
	judge_all("", true, "");
	set(offer, "storage",
	    json_string("mirror")); /* nothing is written for it: it needs no room */
	set(there, "allocated", json_integer(0));
	set(there, "free", json_integer(0));
	judge_all("", true, "");
}

/* A serial number is no proof; an older host, which does not say what it has, is believed. */
static void shared_by_serial_number(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	named(here, "QM00001", json_false());
	named(there, "QM00001", json_false());
	refused("disk-unproven", "one that others may have too");
	set(offer, "assume_same", json_true());
	judge_all("", true, "");
	named(there, "QM00002", json_false());
	refused("disk-other", "another one");
	named(there, "naa.1", json_true()); /* the same disk may have a name of each kind */
	judge_all("", true, "");
	set(offer, "assume_same", json_false());
	refused("disk-unproven", "cannot be proven");
	named(there, "QM00001", json_false());
	named(here, "QM00001", NULL);
	judge_all("", true, "");
	named(here, "QM00002", NULL);
	refused("disk-other", "another one");
}

static void copied_disks(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(offer, "storage", json_string("mirror"));
	set(there, "same", json_string("m2"));
	refused("disk-foreign", "is no earlier copy of this VM");
	json_object_del(there, "same");
	set(there, "unmarked", json_true());
	refused("disk-foreign", "is no earlier copy of this VM");
	set(offer, "overwrite", json_true());
	judge_all("", true, "");
	set(offer, "overwrite", json_false());
	set(facts, "guest", json_pack("{s:s, s:i}", "standing", "none", "copies", 1));
	judge_all("", true, "");
	set(there, "why", json_string("Permission denied"));
	set(there, "size", json_integer(512));
	refused("disk-access disk-size", "has 4194304 bytes here and 512 there");
	set(there, "kind", json_string("other"));
	refused("disk-kind", "neither a file nor a block device");
	set(there, "kind", json_string("none"));
	judge_all("", true, "");
	set(there, "free", json_integer(MIB));
	refused("disk-space", "the disks in /d need 2 MiB there, free are 1");
	set(there, "allocated", json_integer(MIB));
	judge_all("", true, "");
	set(there, "folder_writable", json_false());
	refused("disk-access", "the folder /d cannot be written");
	set(here, "readonly", json_true());
	refused("disk-missing", "only read");
}

/* The guest's own disk is never written over: not with --overwrite, nor as an earlier copy. */
static void copied_over_itself(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(offer, "storage", json_string("mirror"));
	for (unsigned i = 0; i < 2; i++) {
		refused("disk-same", "is the same one on both hosts");
		set(offer, "overwrite", json_true());
		refused("disk-same", "is the same one on both hosts");
		set(facts, "guest", json_pack("{s:s, s:i}", "standing", "none", "copies", 1));
		refused("disk-same", "is the same one on both hosts");
		set(offer, "overwrite", json_false());
		json_object_del(facts, "guest");
		named(here, "naa.1", json_true());
		named(there, "naa.1", json_true());
	}
	set(here, "readonly", json_true()); /* it is not copied */
	judge_all("", true, "");
}

/* Without a name, or a mark, it may be: that is said, and is the operator's to decide. */
static void copied_over_what_may_be_itself(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(offer, "storage", json_string("mirror"));
	json_object_del(there, "same");
	refused("disk-untold", "whether it is the same one cannot be told");
	json_object_del(here, "same");
	set(there, "unmarked", json_true());
	refused("disk-untold", "whether it is the same one cannot be told");
	set(here, "kind", json_string("block"));
	named(there, "naa.1", json_true());
	refused("disk-untold", "whether it is the same one cannot be told");
	set(offer, "overwrite", json_true());
	judge_all("", true, "");
	set(offer, "overwrite", json_false());
	named(here, "naa.2", json_true());
	refused("disk-foreign", "is no earlier copy of this VM");
}

static void handed_over(unsigned disks)
{
	json_t *verdict = preflight_judge(offer, facts);

	assert_int_equal(preflight_shared_disks(verdict), disks);
	json_decref(verdict);
}

/* Two disks to be copied: /d/a is the same one on both hosts, /d/b is not there yet. */
static void disk_of_each_kind(void)
{
	json_t *b = json_deep_copy(item(offer, "disks")), *t = json_deep_copy(item(facts, "disks"));

	set(offer, "storage", json_string("mirror"));
	set(offer, "per_disk", json_true());
	set(b, "path", json_string("/d/b"));
	set(b, "same", json_string("m3"));
	json_object_del(t, "same");
	set(t, "kind", json_string("none"));
	json_array_append_new(json_object_get(offer, "disks"), b);
	json_array_append_new(json_object_get(facts, "disks"), t);
}

static void each_disk_as_it_is(void **state)
{
	json_t *a, *b;

	disk_of_each_kind();
	a = item(facts, "disks");
	b = json_array_get(json_object_get(facts, "disks"), 1);
	judge_all("", true, "");
	handed_over(1);
	set(a, "free", json_integer(MIB)); /* that is nothing to it */
	judge_all("", true, "");
	set(b, "free", json_integer(MIB));
	refused("disk-space", "the disks in /d need 2 MiB there");
	set(b, "kind", json_string("file"));
	set(b, "free", json_integer(3 * MIB));
	set(b, "same", json_string("m4"));
	refused("disk-foreign", "/d/b is there already");
	set(offer, "overwrite", json_true());
	judge_all("", true, "");
	handed_over(1);
	set(a, "why", json_string("Permission denied"));
	refused("disk-access", "/d/a cannot be opened there");
	json_object_del(a, "why");
	set(a, "size", json_integer(512));
	refused("disk-size", "/d/a has 4194304 bytes here and 512 there");
	set(offer, "storage", json_string("shared")); /* nothing is to be copied */
	refused("disk-size disk-other", "/d/b there is another one");
	handed_over(0);
}

/* A disk that cannot be told is what the operator says; not so one that was copied there. */
static void each_disk_as_is_said(void **state)
{
	json_t *there;

	disk_of_each_kind();
	there = item(facts, "disks");
	json_object_del(there, "same");
	refused("disk-untold", "/d/a is there already");
	handed_over(0);
	set(offer, "assume_same", json_true());
	judge_all("", true, "");
	handed_over(1);
	set(facts, "guest", json_pack("{s:s, s:i}", "standing", "none", "copies", 2));
	handed_over(1);
	set(facts, "guest", json_pack("{s:s, s:i}", "standing", "none", "copies", 1));
	handed_over(0);
	judge_all("", true, "");
	json_object_del(facts, "guest");
	set(there, "unmarked", json_true()); /* so it is another one, whatever is said */
	refused("disk-foreign", "/d/a is there already");
	handed_over(0);
	set(item(offer, "disks"), "readonly", json_true());
	set(there, "same", json_string("m1"));
	judge_all("", true, "");
	handed_over(0);
}

/* With the same name on both: handed over if it is unique, and else as is said. */
static void each_disk_by_its_name(void **state)
{
	json_t *here, *there;

	disk_of_each_kind();
	here = item(offer, "disks");
	there = item(facts, "disks");
	named(here, "naa.1", json_true());
	named(there, "naa.1", json_true());
	handed_over(1);
	named(here, "naa.1", NULL); /* what it is to one host it is to the other */
	judge_all("", true, "");
	handed_over(1);
	named(there, "QM00001", json_false());
	for (unsigned older = 0; older < 2; older++) {
		named(here, "QM00001", older ? NULL : json_false());
		refused("disk-untold", "one that others may have too");
		handed_over(0);
		set(offer, "overwrite", json_true());
		judge_all("", true, "");
		handed_over(0);
		set(offer, "overwrite", json_false());
		set(offer, "assume_same", json_true());
		judge_all("", true, "");
		handed_over(1);
		set(offer, "assume_same", json_false());
	}
	named(here, "naa.1", json_true());
	set(offer, "overwrite", json_true());
	judge_all("", true, "");
	handed_over(0);
}

/* What the source makes of the answer of a target that hands over by any name. */
static void older_target_takes_any_name(void **state)
{
	const struct disks_heeded all = {.target = true, .process = true};
	json_t *verdict;
	bool unique = true;

	disk_of_each_kind();
	for (unsigned round = 0; round < 2; round++, unique = false) {
		const char *name = unique ? "naa.1" : "QM00001";

		named(item(offer, "disks"), name, json_boolean(unique));
		named(item(facts, "disks"), name, NULL);
		verdict = json_pack("{s:b, s:[], s:i, s:O}", "possible", 1, "reasons",
				    "shared_disks", 1, "host", facts);
		preflight_answer_judge(NULL, all, verdict);
		assert_true(json_is_true(json_object_get(verdict, "possible")));
		preflight_answer_judge(offer, all, verdict);
		assert_int_equal(json_is_true(json_object_get(verdict, "possible")), unique);
		assert_int_equal(!reason_of(verdict, "disk-untold"), unique);
		json_object_set_new(verdict, "possible", json_true());
		json_object_set_new(verdict, "shared_disks", json_integer(0)); /* it is copied */
		preflight_answer_judge(offer, all, verdict);
		assert_true(json_is_true(json_object_get(verdict, "possible")));
		json_decref(verdict);
	}
}

/* What the source makes of the answer of an older target, which would copy all. */
static void older_target(void **state)
{
	const struct disks_heeded old = {.process = true};
	json_t *verdict;

	disk_of_each_kind();
	verdict = preflight_judge(offer, facts);
	assert_true(json_is_true(json_object_get(verdict, "possible")));
	preflight_answer_judge(NULL, old, verdict); /* none is copied */
	assert_true(json_is_true(json_object_get(verdict, "possible")));
	preflight_answer_judge(offer, old, verdict);
	assert_false(json_is_true(json_object_get(verdict, "possible")));
	assert_int_equal(json_array_size(json_object_get(verdict, "reasons")), 1);
	assert_non_null(strstr(json_text_of(reason_of(verdict, "disk-same"), "sentence"), "/d/a"));
	json_decref(verdict);
	verdict = parsed("{\"possible\": true}"); /* that knows of no disks is none */
	preflight_answer_judge(offer, old, verdict);
	assert_true(json_is_true(json_object_get(verdict, "possible")));
	json_decref(verdict);
}

/* A process that would copy all is not in the way of a copy of all. */
static void older_process(void **state)
{
	const struct disks_heeded old = {.target = true};
	json_t *verdict = parsed("{\"possible\": true, \"reasons\": [], \"shared_disks\": 0}");

	preflight_answer_judge(NULL, old, verdict);
	assert_true(json_is_true(json_object_get(verdict, "possible")));
	set(verdict, "shared_disks", json_integer(1));
	preflight_answer_judge(NULL, old, verdict);
	assert_false(json_is_true(json_object_get(verdict, "possible")));
	assert_non_null(strstr(json_text_of(reason_of(verdict, "process"), "hint"), "upgrade"));
	json_decref(verdict);
}

/* Two of 2 MiB where 3 are free, and one elsewhere. */
static void disks_share_a_file_system(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(offer, "storage", json_string("mirror"));
	set(there, "kind", json_string("none"));
	set(there, "free", json_integer(3 * MIB));
	json_array_append_new(json_object_get(offer, "disks"), json_deep_copy(here));
	json_array_append_new(json_object_get(facts, "disks"), json_deep_copy(there));
	refused("disk-space", "need 4 MiB there, free are 3");
	set(json_array_get(json_object_get(facts, "disks"), 1), "filesystem", json_integer(8));
	judge_all("", true, "");
	json_array_remove(json_object_get(facts, "disks"), 1);
	refused("disks", "2 disks here, and 1");
}

/* ---- names ------------------------------------------------------------------------------- */

static char device[32];

static void device_is(const char *name, bool unique)
{
	json_t *d = json_object();

	preflight_name_put(device, d);
	if (strcmp(json_text_of(d, "wwid"), name) != 0 ||
	    json_is_true(json_object_get(d, "unique")) != unique)
		fail_msg("\"%s\", not \"%s\"", json_text_of(d, "wwid"), name);
	assert_int_equal(json_object_size(d), *name ? 2 : 0);
	json_decref(d);
}

/* The best that it has; what is not assigned, or drawn, for it alone is not unique. */
static void names_of_devices(void **state)
{
	static const struct {
		const char *file, *name;
		bool unique;
	} cases[] = {
		{"dm/uuid", "LVM-abcdef", false},
		{"dm/uuid", "CRYPT-LUKS2-ab-cd", false},
		{"dm/uuid", "mpath-0QEMU_QEMU_HARDDISK_QM00001", false},
		{"dm/uuid", "mpath-3333333330000007d0", false},
		{"dm/uuid", "mpath-36001405abcdef", true},
		{"dm/uuid", "mpath-uuid.12", true},
		{"serial", "overlayblk", false},
		{"serial", "naa.6001405abcdef", false}, /* by whom? */
		{"device/wwid", "t10.ATA     QEMU HARDDISK   QM00001", false},
		{"device/wwid", "naa.333333330000007d0", false},
		{"device/wwid", "naa.5000c500a1b2c3d4", true},
		{"device/wwid", "naa.6001405abcdef", true},
		{"wwid", "", false}, /* the one before is taken */
		{"wwid", "nvme.8086-51-51-00000001", false},
		{"wwid", "eui.0025385b71b00001", true},
		{"wwid", "uuid.0b4d8c2e-4d3a-4f5c-9d5e-0123456789ab", true},
	};
	char path[64], command[64];

	strcpy(device, "/tmp/pollux-device-XXXXXX");
	assert_non_null(mkdtemp(device));
	snprintf(path, sizeof(path), "%s/dm", device);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/device", device);
	assert_int_equal(mkdir(path, 0700), 0);
	device_is("", false);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char line[96];

		snprintf(line, sizeof(line), "%s\n", cases[i].name);
		device_has(device, cases[i].file, line);
		if (*cases[i].name)
			device_is(cases[i].name, cases[i].unique);
		else
			device_is(cases[i - 1].name, cases[i - 1].unique);
	}
	snprintf(command, sizeof(command), "rm -rf %s", device);
	assert_int_equal(system(command), 0);
}

static void each_reason_was_seen(void **state)
{
	static const char *const codes[] = {"disk-missing", "disk-kind",  "disk-size",
					    "disk-access",  "disk-other", "disk-unproven",
					    "disk-foreign", "disk-space", "disks",
					    "disk-same",    "disk-untold"};

	codes_all_seen(codes, ARRAY_LEN(codes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(shared_disks),
		T(copied_disks),
		T(copied_over_itself),
		T(copied_over_what_may_be_itself),
		T(each_disk_as_it_is),
		T(each_disk_as_is_said),
		T(older_target),
		T(older_process),
		T(disks_share_a_file_system),
		T(shared_by_serial_number),
		T(shared_by_multipath),
		T(shared_image_of_two),
		T(each_disk_by_its_name),
		T(older_target_takes_any_name),
		T(names_of_devices),
		T(each_reason_was_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

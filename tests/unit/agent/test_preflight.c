// SPDX-License-Identifier: Apache-2.0
/* Whether a VM can go on at another host: each reason that speaks against it, all of them at
 * once, and what is found on a real host. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/preflight.h"

#define MIB (1 << 20)

/* A VM, and a host that can take it. */
static const char offer_text[] =
	"{\"vm\": \"demo\", \"identity\": \"aa\", \"term\": 5, \"config\": \"\", \"origin\": \"x\","
	" \"engine\": \"kvm\", \"cpu\": \"host\", \"vcpus\": 2, \"memory\": 1073741824,"
	" \"cpuid\": [[0, 0, false, 13, 1, 2, 3], [1, 0, false, 9, 512, 8192, 7],"
	"             [7, 0, true, 1, 32, 0, 0]],"
	" \"sections\": [{\"id\": 2, \"version\": 1, \"name\": \"vCPU\"}],"
	" \"storage\": \"shared\", \"overwrite\": false, \"assume_same\": false,"
	" \"disks\": [{\"path\": \"/d/a\", \"size\": 4194304, \"readonly\": false,"
	"              \"allocated\": 2097152, \"kind\": \"file\", \"same\": \"m1\"}]}";
static const char facts_text[] =
	"{\"host\": \"hostb\", \"memory_total\": 4294967296, \"memory_available\": 2147483648,"
	" \"cpus\": 4, \"engine\": \"kvm\", \"engine_why\": \"\","
	" \"cpuid\": [[0, 0, false, 13, 1, 2, 3], [1, 0, false, 9, 512, 8192, 7],"
	"             [7, 0, true, 1, 32, 0, 0]],"
	" \"kinds\": [{\"id\": 2, \"oldest\": 1, \"newest\": 2}],"
	" \"disks\": [{\"kind\": \"file\", \"size\": 4194304, \"allocated\": 0, \"same\": \"m1\","
	"              \"folder\": \"/d\", \"folder_writable\": true, \"free\": 1073741824,"
	"              \"filesystem\": 7}],"
	" \"nics\": [{\"tap\": \"t0\", \"tap_possible\": true, \"bridge\": \"br0\","
	"             \"bridge_there\": true}]}";

static json_t *offer, *facts;

static json_t *parsed(const char *text)
{
	json_error_t e;
	json_t *o = json_loads(text, 0, &e);

	if (!o)
		fail_msg("%s: %s", e.text, text);
	return o;
}

static int setup(void **state)
{
	offer = parsed(offer_text);
	facts = parsed(facts_text);
	return 0;
}

static int teardown(void **state)
{
	json_decref(offer);
	json_decref(facts);
	return 0;
}

static json_t *item(json_t *o, const char *list)
{
	return json_array_get(json_object_get(o, list), 0);
}

static void set(json_t *o, const char *key, json_t *value)
{
	assert_int_equal(json_object_set_new(o, key, value), 0);
}

/* ---- what is said ------------------------------------------------------------------------ */

static unsigned codes_seen;
static char seen[64][24];

static void code_note(const char *code)
{
	for (unsigned i = 0; i < codes_seen; i++)
		if (!strcmp(seen[i], code))
			return;
	assert_true(codes_seen < ARRAY_LEN(seen));
	snprintf(seen[codes_seen++], sizeof(seen[0]), "%s", code);
}

static const json_t *reason_of(const json_t *verdict, const char *code)
{
	const json_t *reasons = json_object_get(verdict, "reasons");

	for (size_t i = 0; i < json_array_size(reasons); i++)
		if (!strcmp(json_text_of(json_array_get(reasons, i), "code"), code))
			return json_array_get(reasons, i);
	return NULL;
}

/* `codes` are all that speak against it, with a space between; each has its sentence and hint. */
static void judge_all(const char *codes, bool possible, const char *word)
{
	json_t *verdict = preflight_judge(offer, facts);
	json_t *reasons = json_object_get(verdict, "reasons");
	char got[512] = "", words[4096] = "";

	for (size_t i = 0; i < json_array_size(reasons); i++) {
		const json_t *r = json_array_get(reasons, i);

		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", i ? " " : "",
			 json_text_of(r, "code"));
		snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s\n",
			 json_text_of(r, "sentence"));
		assert_true(*json_text_of(r, "hint"));
		code_note(json_text_of(r, "code"));
	}
	if (strcmp(got, codes) != 0 || !strstr(words, word))
		fail_msg("\"%s\" in place of \"%s\", \"%s\":\n%s", got, codes, word, words);
	assert_int_equal(json_is_true(json_object_get(verdict, "possible")), possible);
	json_decref(verdict);
}

static void refused(const char *codes, const char *word)
{
	judge_all(codes, false, word);
}

static void a_host_like_this_one_takes_it(void **state)
{
	judge_all("", true, "");
}

static void who_has_it(void **state)
{
	json_t *g = json_pack("{s:s, s:i, s:s, s:b}", "identity", "aa", "term", 4, "standing",
			      "none", "copy", false);

	set(facts, "guest", g);
	judge_all("", true, "");
	set(g, "term", json_integer(9));
	refused("term", "newer term of demo: 9, not 5");
	set(g, "term", json_integer(5));
	set(g, "standing", json_string("runs"));
	refused("runs", "a copy of demo runs there");
	set(g, "standing", json_string("owned"));
	refused("owned", "owner");
	set(g, "standing", json_string("twin"));
	judge_all("twin", true, "twin");
	set(g, "identity", json_string("bb"));
	refused("name", "another VM is called demo");
}

static void what_was_protected_is_so_again(void **state)
{
	json_t *there = json_pack("{s:b, s:b}", "known", true, "connected", true);

	set(offer, "protect_on", json_string("hostc"));
	set(offer, "protected", json_true());
	judge_all("", true, ""); /* a host of an older version says nothing */
	set(facts, "standby", there);
	judge_all("", true, "");
	set(there, "connected", json_false());
	judge_all("standby-down", true, "not connected with hostc");
	set(there, "known", json_false());
	refused("standby", "does not know hostc as a peer");
	set(offer, "protected", json_false());
	judge_all("standby-down", true, "hostc");
}

static void files_that_only_a_reboot_needs_are_warnings(void **state)
{
	set(facts, "kernel_lacking", json_pack("{s:s, s:s}", "path", "/k", "why", "no such file"));
	judge_all("kernel", true, "the kernel /k cannot be read there: no such file");
	set(facts, "initrd_lacking", json_pack("{s:s, s:s}", "path", "/i", "why", "no such file"));
	judge_all("kernel initrd", true, "the initrd /i");
}

static void a_vm_file_that_is_not_understood(void **state)
{
	set(facts, "config_why", json_string("x:3: unknown key \"later\""));
	set(facts, "disks", json_array());
	refused("config", "unknown key");
}

static void engines(void **state)
{
	json_object_del(facts, "engine");
	set(facts, "engine_lacking", json_string("kvm"));
	set(facts, "engine_why", json_string("there is no /dev/kvm"));
	refused("engine", "engine kvm cannot be used there: there is no /dev/kvm");
	set(facts, "engine", json_string("sim"));
	refused("engine", "would take sim");
	set(facts, "engine", json_string("soft"));
	set(facts, "cpuid_why", json_string("engine soft has no CPU \"host\""));
	refused("cpu", "has no CPU \"host\"");
	set(offer, "cpu", json_string("none"));
	refused("engine", "would take soft");
	set(facts, "engine", json_string("sim"));
	set(offer, "cpuid", json_array());
	set(facts, "cpuid", json_array());
	json_object_del(facts, "cpuid_why");
	judge_all("", true, "");
}

static void cpus(void **state)
{
	json_t *here = json_object_get(offer, "cpuid"), *there = json_object_get(facts, "cpuid");

	json_array_set_new(there, 2, parsed("[7, 0, true, 1, 0, 0, 0]"));
	refused("cpu-features", "that host's CPU lacks avx2");
	json_array_remove(there, 2);
	refused("cpu-features", "lacks avx2");
	json_array_append_new(there, parsed("[7, 0, true, 1, 65569, 0, 0]"));
	refused("cpu-differs", "also has fsgsbase, avx512f");
	json_array_set_new(here, 2, parsed("[7, 0, true, 1, 32, 0, 4194304]"));
	refused("cpu-features cpu-differs", "lacks amx_bf16");
	json_array_set_new(here, 2, parsed("[7, 0, true, 1, 65569, 0, 0]"));
	judge_all("", true, "");
	json_array_set_new(here, 0, parsed("[0, 0, false, 14, 1, 2, 3]"));
	refused("cpu-differs", "leaf 0.0 differs");
	json_array_set_new(here, 0, parsed("[0, 0, false, 13, 1, 2, 3]"));
	json_array_append_new(there, parsed("[22, 0, false, 13, 1, 2, 3]"));
	refused("cpu-differs", "has 4 CPUID leaves, the guest's 3");
	json_array_append_new(here, parsed("[22]"));
	refused("cpu-differs", "damaged");
}

static void sizes(void **state)
{
	set(facts, "memory_available", json_integer(1000 * (json_int_t)MIB));
	refused("memory-free", "1024 MiB of memory, free there are 1000");
	set(facts, "memory_total", json_integer(1023 * (json_int_t)MIB));
	refused("memory-total", "that host 1023");
	set(facts, "memory_total", json_integer(2048 * (json_int_t)MIB));
	set(facts, "memory_available", json_integer(1024 * (json_int_t)MIB));
	set(facts, "cpus", json_integer(1));
	judge_all("cpus-few", true, "2 vCPUs, that host 1 CPUs");
	set(offer, "hugepages", json_true());
	set(facts, "memory_available", json_integer(0));
	set(facts, "hugepages_free", json_integer(1022 * (json_int_t)MIB));
	refused("hugepages cpus-few", "1024 MiB of memory in huge pages, free there are 1022");
	set(facts, "hugepages_free", json_integer(1024 * (json_int_t)MIB));
	judge_all("cpus-few", true, "2 vCPUs, that host 1 CPUs");
}

/* An error where it is asked for, a warning where it is the last resort. */
static void memory_that_cannot_follow(void **state)
{
	static const char *const asked[] = {"asked", "if-stuck"};

	for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
		set(offer, "postcopy", json_string(asked[i]));
		judge_all("", true, ""); /* nor does a host of an older version say a word */
		set(facts, "postcopy_why", json_string("no userfaultfd"));
		judge_all("postcopy", i, "not possible there: no userfaultfd");
		json_object_del(facts, "postcopy_why");
		set(offer, "hugepages", json_true());
		set(facts, "hugepages_free", json_integer(1024 * (json_int_t)MIB));
		judge_all("postcopy", i, "huge pages");
		json_object_del(offer, "hugepages");
	}
	json_object_del(offer, "postcopy");
	set(facts, "postcopy_why", json_string("no userfaultfd"));
	judge_all("", true, "");
}

/* What a twin of the VM holds is free when the VM comes; what another VM's holds is not. */
static void memory_of_its_twin(void **state)
{
	json_t *g = json_pack("{s:s, s:i, s:s, s:b}", "identity", "aa", "term", 5, "standing",
			      "twin", "copy", true);

	set(facts, "guest", g);
	set(facts, "memory_available", json_integer(100 * (json_int_t)MIB));
	set(facts, "memory_held", json_integer(923 * (json_int_t)MIB));
	refused("twin memory-free", "1024 MiB of memory, free there are 1023");
	set(facts, "memory_held", json_integer(924 * (json_int_t)MIB));
	judge_all("twin", true, "");
	set(g, "standing", json_string("none"));
	refused("memory-free", "free there are 100");
	set(g, "standing", json_string("twin"));
	set(g, "identity", json_string("bb"));
	refused("name memory-free", "free there are 100");
}

static void versions_of_sections(void **state)
{
	json_t *s = item(offer, "sections"), *k = item(facts, "kinds");

	set(s, "version", json_integer(2));
	judge_all("", true, "");
	set(s, "version", json_integer(3));
	refused("state", "\"vCPU\" has version 3, that host reads 1 to 2");
	set(k, "newest", json_integer(5));
	set(k, "oldest", json_integer(4));
	refused("state", "reads 4 to 5");
	set(s, "id", json_integer(77));
	refused("state", "does not know the state of \"vCPU\"");
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
	set(there, "kind", json_string("block"));
	set(there, "size", json_integer(4194304));
	set(here, "kind", json_string("block"));
	set(here, "wwid", json_string("naa.1"));
	set(there, "wwid", json_string("naa.1"));
	judge_all("", true, "");
	set(there, "wwid", json_string("naa.2"));
	refused("disk-other", "another one");
}

static void copied_disks(void **state)
{
	json_t *here = item(offer, "disks"), *there = item(facts, "disks");

	set(offer, "storage", json_string("mirror"));
	refused("disk-foreign", "is no earlier copy of this VM");
	set(offer, "overwrite", json_true());
	judge_all("", true, "");
	set(offer, "overwrite", json_false());
	set(facts, "guest", json_pack("{s:s, s:b}", "standing", "none", "copy", true));
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

static void networks(void **state)
{
	json_t *n = item(facts, "nics");

	set(n, "bridge_there", json_false());
	refused("bridge", "no bridge br0");
	set(n, "tap_possible", json_false());
	refused("tap bridge", "the tap t0");
	set(facts, "nics", parsed("[{\"socket\": \"/s\", \"socket_there\": false}]"));
	refused("socket", "no socket /s");
}

static void all_reasons_at_once(void **state)
{
	set(facts, "guest", json_pack("{s:i, s:s}", "term", 8, "standing", "runs"));
	set(facts, "memory_available", json_integer(0));
	set(facts, "cpus", json_integer(1));
	set(facts, "cpuid", json_array());
	set(item(facts, "nics"), "bridge_there", json_false());
	set(item(facts, "disks"), "kind", json_string("none"));
	set(item(facts, "kinds"), "id", json_integer(3));
	refused("term runs cpu-features memory-free cpus-few state disk-missing bridge",
		"that host's CPU lacks");
}

/* Whatever a peer sends. */
static void nonsense_is_no_harm(void **state)
{
	static const char *const texts[] = {
		"{}", "{\"disks\": 3, \"cpuid\": [3, [], [1,2,3,4,5,6,\"x\"]], \"sections\": [[]]}",
		"{\"disks\": [[]], \"vm\": 3, \"memory\": -1, \"term\": \"x\", \"cpu\": \"host\"}"};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
			json_t *a = parsed(texts[i]), *b = parsed(texts[k]);
			json_t *verdict = preflight_judge(a, b);

			assert_non_null(verdict);
			json_decref(verdict);
			json_decref(a);
			json_decref(b);
		}
}

static void each_reason_was_seen(void **state)
{
	static const char *const codes[] = {
		"config",       "kernel",      "initrd",        "engine",       "cpu",
		"cpu-features", "cpu-differs", "cpus-few",      "memory-total", "memory-free",
		"hugepages",    "state",       "disk-missing",  "disk-kind",    "disk-size",
		"disk-access",  "disk-other",  "disk-unproven", "disk-foreign", "disk-space",
		"disks",        "tap",         "bridge",        "socket",       "name",
		"term",         "runs",        "owned",         "twin",         "standby",
		"standby-down", "postcopy"};

	assert_int_equal(codes_seen, ARRAY_LEN(codes));
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		code_note(codes[i]);
	assert_int_equal(codes_seen, ARRAY_LEN(codes));
}

/* ---- a real host ---------------------------------------------------------------------------- */

struct real {
	char folder[64], config[1024];
	struct agent agent;
	struct guest guest;
	struct preflight_options options;
};

static void real_make(struct real *r, const char *engine, const char *more)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->folder, sizeof(r->folder), "/var/tmp/pollux-preflight-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	snprintf(r->config, sizeof(r->config),
		 "name = \"demo\"; memory = \"16M\"; vcpus = 1; engine = \"%s\"; %s"
		 "disks = ( { path = \"%s/disk\"; } );%s",
		 engine, strcmp(engine, "sim") ? "kernel = \"/proc/self/exe\";" : "", r->folder,
		 more);
	LIST_INIT(&r->agent.guests);
	snprintf(r->agent.config.name, sizeof(r->agent.config.name), "here");
	snprintf(r->guest.name, sizeof(r->guest.name), "demo");
	snprintf(r->guest.engine, sizeof(r->guest.engine), "%s", engine);
	r->guest.config = r->config;
	r->guest.origin = r->folder;
	r->guest.own.record.term = 3;
}

static void real_disk(const struct real *r, off_t size)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "%s/disk", r->folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(pwrite(fd, r->folder, 64, 0), 64);
	close(fd);
}

static void real_end(const struct real *r)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", r->folder);
	assert_int_equal(system(command), 0);
}

static json_t *real_offer(const struct real *r)
{
	struct error e = {0};
	json_t *about = preflight_about(&r->guest);
	json_t *o = preflight_describe(about, &r->options, &e);

	json_decref(about);
	if (!o)
		fail_msg("%s", e.text);
	return o;
}

static void real_check(struct real *r, const json_t *o, const char *code)
{
	json_t *standing = preflight_standing(&r->agent, o);
	json_t *verdict = preflight_check(standing, o);
	char *text = json_dumps(verdict, JSON_INDENT(1));

	json_decref(standing);
	assert_non_null(verdict);
	if (*code ? !reason_of(verdict, code) : !json_is_true(json_object_get(verdict, "possible")))
		fail_msg("not \"%s\": %s", code, text);
	free(text);
	json_decref(verdict);
}

static bool marks_possible(const struct real *r)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/disk", r->folder);
	return preflight_mark_write(path, "x") == 0;
}

static void this_host_takes_its_own(void **state)
{
	static const char *const engines[] = {"sim", "soft"};

	for (size_t i = 0; i < ARRAY_LEN(engines); i++) {
		struct real r;
		json_t *o;

		real_make(&r, engines[i], "");
		real_disk(&r, 2 * MIB);
		r.options.assume_same = !marks_possible(&r);
		o = real_offer(&r);
		real_check(&r, o, "");
		if (!r.options.assume_same) { /* somebody else has copied it over */
			assert_true(marks_possible(&r));
			real_check(&r, o, "disk-other");
		}
		real_disk(&r, MIB);
		real_check(&r, o, "disk-size");
		real_end(&r);
		json_decref(o);
	}
}

static void what_is_found_of_disks(void **state)
{
	struct real r;
	json_t *o;

	real_make(&r, "sim", "");
	real_disk(&r, 2 * MIB);
	r.options.with_disks = true;
	o = real_offer(&r);
	assert_int_equal(json_integer_of(item(o, "disks"), "size", 0), 2 * MIB);
	assert_in_range(json_integer_of(item(o, "disks"), "allocated", 0), 512, MIB);
	real_check(&r, o, "disk-foreign");
	set(item(o, "disks"), "allocated", json_integer(INT64_MAX));
	real_check(&r, o, "disk-space");
	real_end(&r);
	real_check(&r, o, "disk-access"); /* the folder is gone too */
	set(o, "storage", json_string("shared"));
	real_check(&r, o, "disk-missing");
	json_decref(o);
}

static void what_is_found_of_nics(void **state)
{
	struct real r;
	json_t *o;

	real_make(&r, "sim",
		  "nics = ( { tap = \"pxpretap\"; bridge = \"pxprebr\"; },"
		  " { socket = \"/nowhere/socket\"; } );");
	real_disk(&r, MIB);
	o = real_offer(&r);
	real_check(&r, o, "bridge");
	real_check(&r, o, "socket");
	if (!unshare(CLONE_NEWNET | CLONE_NEWNS) &&
	    !system("mount -t sysfs none /sys 2>/dev/null && "
		    "ip link add pxprebr type bridge 2>/dev/null")) {
		json_t *standing = preflight_standing(&r.agent, o);
		json_t *found = preflight_facts(standing, o);

		json_decref(standing);
		assert_true(json_is_true(json_object_get(item(found, "nics"), "bridge_there")));
		json_decref(found);
	} else {
		print_message("no bridge can be made here\n");
	}
	real_end(&r);
	json_decref(o);
}

static void what_is_found_of_memory(void **state)
{
	json_t *standing = json_pack("{s:s, s:i}", "host", "here", "pid", (int)getpid());
	int fd = memfd_create("guest-ram", MFD_CLOEXEC);
	json_t *needs = json_object(), *found;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 64 * MIB), 0);
	assert_int_equal(posix_fallocate(fd, MIB, 3 * MIB), 0);
	found = preflight_facts(standing, needs);
	assert_int_equal(json_integer_of(found, "memory_held", -1), 3 * MIB);
	assert_null(json_object_get(found, "pid"));
	json_decref(found);
	close(fd);
	json_decref(standing);
	json_decref(needs);
}

static void what_is_found_of_userfaultfd(void **state)
{
	struct error e = {0};
	struct real r;
	json_t *o;

	real_make(&r, "sim", "");
	real_disk(&r, MIB);
	r.options.assume_same = true;
	r.options.postcopy = "asked";
	o = real_offer(&r);
	fault_arm("lazy.open", 1, EPERM);
	real_check(&r, o, "postcopy");
	real_check(&r, o, vm_lazy_probe(&e) ? "postcopy" : "");
	json_decref(o);
	r.options.postcopy = NULL;
	o = real_offer(&r);
	fault_arm("lazy.open", 1, EPERM);
	real_check(&r, o, "");
	fault_disarm_all();
	json_decref(o);
	real_end(&r);
	real_make(&r, "soft", "hugepages = true;");
	r.options.postcopy = "asked";
	o = real_offer(&r);
	real_check(&r, o, "postcopy");
	real_end(&r);
	json_decref(o);
}

static void what_is_found_of_owners(void **state)
{
	static const struct {
		enum ownership_state state;
		const char *code;
	} cases[] = {{OWN_ALONE, "runs"},   {OWN_PRIMARY, "runs"}, {OWN_IDLE, "owned"},
		     {OWN_STANDBY, "twin"}, {OWN_HANDED, "owned"}, {OWN_NONE, ""}};
	struct guest other = {.name = "demo", .identity = "cc"};
	struct real r;
	json_t *o;

	real_make(&r, "sim", "");
	real_disk(&r, MIB);
	r.options.assume_same = true;
	o = real_offer(&r);
	LIST_INSERT_HEAD(&r.agent.guests, &other, entry);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		other.own.state = cases[i].state;
		real_check(&r, o, cases[i].code);
	}
	other.own.record.term = 4;
	real_check(&r, o, "term");
	set(o, "identity", json_string("dd"));
	real_check(&r, o, "name");
	real_end(&r);
	json_decref(o);
}

static void what_is_found_of_machines(void **state)
{
	struct real r;
	json_t *o;

	real_make(&r, "soft", "");
	real_disk(&r, MIB);
	r.options.assume_same = true;
	o = real_offer(&r);
	assert_string_equal(json_text_of(o, "cpu"), "pollux-base");
	assert_true(json_array_size(json_object_get(o, "cpuid")) > 3);
	set(o, "memory", json_integer(INT64_C(1) << 46));
	real_check(&r, o, "memory-total");
	set(o, "cpu", json_string("host"));
	real_check(&r, o, "cpu");
	set(o, "config", json_string("name = \"demo\"; later = 1;"));
	real_check(&r, o, "config");
	set(o, "config",
	    json_string("name=\"demo\"; memory=\"16M\"; engine=\"soft\"; kernel=\"/no/kernel\";"));
	real_check(&r, o, "kernel");
	real_end(&r);
	json_decref(o);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_host_like_this_one_takes_it),
		T(who_has_it),
		T(what_was_protected_is_so_again),
		T(files_that_only_a_reboot_needs_are_warnings),
		T(a_vm_file_that_is_not_understood),
		T(engines),
		T(cpus),
		T(sizes),
		T(memory_that_cannot_follow),
		T(memory_of_its_twin),
		T(versions_of_sections),
		T(shared_disks),
		T(copied_disks),
		T(disks_share_a_file_system),
		T(networks),
		T(all_reasons_at_once),
		T(each_reason_was_seen),
		T(nonsense_is_no_harm),
		T(this_host_takes_its_own),
		T(what_is_found_of_disks),
		T(what_is_found_of_memory),
		T(what_is_found_of_userfaultfd),
		T(what_is_found_of_owners),
		T(what_is_found_of_machines),
		T(what_is_found_of_nics),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

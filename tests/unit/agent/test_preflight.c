// SPDX-License-Identifier: Apache-2.0
/* Whether a VM can go on at another host: each reason that speaks against it, all of them at
 * once, and what is found on a real host. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/agent/preflight_case.h"
#include "tests/unit/engines.h"

static void a_host_like_this_one_takes_it(void **state)
{
	judge_all("", true, "");
}

static void who_has_it(void **state)
{
	json_t *g = json_pack("{s:s, s:i, s:s, s:i}", "identity", "aa", "term", 4, "standing",
			      "none", "copies", 0);

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
	json_t *g = json_pack("{s:s, s:i, s:s, s:i}", "identity", "aa", "term", 5, "standing",
			      "twin", "copies", 255);

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
	set(facts, "cpuid", parsed("[[0, 0, false, 13, 1, 2, 3]]"));
	set(item(facts, "nics"), "bridge_there", json_false());
	set(item(facts, "disks"), "kind", json_string("none"));
	set(item(facts, "kinds"), "id", json_integer(3));
	refused("term runs cpu-features cpu-differs memory-free cpus-few state disk-missing bridge",
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
		"config",       "kernel",       "initrd",   "engine",       "cpu",
		"cpu-features", "cpu-differs",  "cpus-few", "memory-total", "memory-free",
		"hugepages",    "state",        "tap",      "bridge",       "socket",
		"name",         "term",         "runs",     "owned",        "twin",
		"standby",      "standby-down", "postcopy", "disk-missing"};

	codes_all_seen(codes, ARRAY_LEN(codes));
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
	assert_int_equal(marks_create(&r->options.marks), 0);
	snprintf(r->agent.config.name, sizeof(r->agent.config.name), "here");
	snprintf(r->guest.name, sizeof(r->guest.name), "demo");
	snprintf(r->guest.program.engine, sizeof(r->guest.program.engine), "%s", engine);
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

	marks_destroy(r->options.marks);
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

/* Two questions at once, of one VM or two that read the same file: neither spoils the other. */
static void a_file_is_asked_about_twice(void **state)
{
	json_t *first, *second;
	struct real r;

	real_make(&r, "sim", "");
	real_disk(&r, MIB);
	r.options.assume_same = !marks_possible(&r);
	first = real_offer(&r);
	second = real_offer(&r);
	real_check(&r, first, "");
	real_check(&r, second, "");
	real_end(&r);
	json_decref(first);
	json_decref(second);
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
	if (json_object_get(item(o, "disks"), "same")) {
		real_check(&r, o, ""); /* as it is this host's own */
		json_object_del(o, "per_disk");
		real_check(&r, o, "disk-same");
		set(item(o, "disks"), "same", json_string("another one"));
		real_check(&r, o, "disk-foreign");
	} else {
		real_check(&r, o, "disk-untold");
	}
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

/* Its process may be of an older build than this program, or of a newer one. */
static void what_its_process_writes_is_told(void **state)
{
	struct real r;
	json_t *o;

	real_make(&r, "sim", "");
	real_disk(&r, MIB);
	r.options.assume_same = true;
	o = real_offer(&r);
	assert_true(json_array_size(json_object_get(o, "sections")) > 3);
	json_decref(o);
	r.guest.program.sections = parsed("[{\"id\": 2, \"version\": 99, \"name\": \"vCPU\"}]");
	o = real_offer(&r);
	assert_true(json_equal(json_object_get(o, "sections"), r.guest.program.sections));
	real_check(&r, o, "state");
	json_decref(o);
	json_decref(r.guest.program.sections);
	real_end(&r);
}

/* What the guest has, if that is known; not what this host would give to a new one. */
static void real_cpu(const struct real *r)
{
	json_t *about = preflight_about(&r->guest), *o;
	struct error e = {0};

	json_object_set_new(about, "cpuid", parsed("[[0, 0, false, 13, 1, 2, 3]]"));
	o = preflight_describe(about, &r->options, &e);
	assert_true(json_equal(json_object_get(o, "cpuid"), json_object_get(about, "cpuid")));
	json_decref(about);
	json_decref(o);
}

static json_t *real_limits(struct real *r, const json_t *limits)
{
	json_t *about = preflight_about(&r->guest), *o;
	struct error e = {0};

	json_object_set(about, "cpu_limits", (json_t *)limits);
	o = preflight_describe(about, &r->options, &e);
	if (!o)
		fail_msg("%s", e.text);
	assert_true(json_equal(json_object_get(o, "cpu_limits"), limits));
	json_decref(about);
	return o;
}

/* What this host offers, a guest that has it takes; and one that was promised all there is does
 * not, as no CPU has all of it. */
static void what_is_found_of_limits(void **state)
{
	struct error e = {0};
	struct real r;
	json_t *limits, *o;

	if (!kvm_is_usable()) {
		print_message("KVM cannot be used here\n");
		skip();
	}
	real_make(&r, "kvm", "");
	real_disk(&r, MIB);
	r.options.assume_same = true;
	limits = preflight_cpu_limits("kvm", "host", &e);
	if (!limits)
		fail_msg("%s", e.text);
	o = real_limits(&r, limits);
	real_check(&r, o, "");
	set(o, "cpu_limits", parsed("{\"tsc_khz\": 0, \"promises\": [[266, -1]]}"));
	real_check(&r, o, "cpu-differs");
	json_object_del(o, "cpu_limits");
	real_check(&r, o, "");
	real_end(&r);
	json_decref(limits);
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
	real_cpu(&r);
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
	const struct CMUnitTest tests[] = {
		T(a_host_like_this_one_takes_it),
		T(who_has_it),
		T(what_was_protected_is_so_again),
		T(files_that_only_a_reboot_needs_are_warnings),
		T(a_vm_file_that_is_not_understood),
		T(engines),
		T(sizes),
		T(memory_that_cannot_follow),
		T(memory_of_its_twin),
		T(versions_of_sections),
		T(networks),
		T(all_reasons_at_once),
		T(each_reason_was_seen),
		T(nonsense_is_no_harm),
		T(this_host_takes_its_own),
		T(a_file_is_asked_about_twice),
		T(what_is_found_of_disks),
		T(what_is_found_of_memory),
		T(what_is_found_of_userfaultfd),
		T(what_is_found_of_owners),
		T(what_is_found_of_limits),
		T(what_is_found_of_machines),
		T(what_its_process_writes_is_told),
		T(what_is_found_of_nics),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* What a VM needs against what a host has: all that is in the way. Pure. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/preflight_judge.h"

#define TEXT_MAX 512

static const struct {
	const char *code;
	bool warning;
	const char *hint;
	const char *override;
} reasons[REASONS] = {
	[REASON_CONFIG] = {"config", false, "the same version of Pollux on both hosts reads it",
			   NULL},
	[REASON_KERNEL] = {"kernel", true, "the VM goes on without it, but cannot reboot: copy it",
			   NULL},
	[REASON_INITRD] = {"initrd", true, "the VM goes on without it, but cannot reboot: copy it",
			   NULL},
	[REASON_ENGINE] = {"engine", false, "see `pollux version` on that host", NULL},
	[REASON_CPU] = {"cpu", false,
			"start the VM with cpu = \"pollux-base\", which can go anywhere", NULL},
	[REASON_CPU_FEATURES] = {"cpu-features", false,
				 "start the VM with cpu = \"pollux-base\", or on the host that has "
				 "least",
				 NULL},
	[REASON_CPU_DIFFERS] = {"cpu-differs", false,
				"start the VM with cpu = \"pollux-base\", or take a host of the "
				"same kind",
				NULL},
	[REASON_CPUS_FEW] = {"cpus-few", true, "its vCPUs will wait for each other", NULL},
	[REASON_MEMORY_TOTAL] = {"memory-total", false, "take a larger host", NULL},
	[REASON_MEMORY_FREE] = {"memory-free", false, "end or move something there first", NULL},
	[REASON_HUGEPAGES] = {"hugepages", false, "raise vm.nr_hugepages there", NULL},
	[REASON_POSTCOPY] =
		{"postcopy", false,
		 "migrate it without --postcopy: it copies until a pause is short enough", NULL},
	[REASON_POSTCOPY_STUCK] =
		{"postcopy", true,
		 "should the guest write too fast, the migration is given up: see "
		 "--stuck stop",
		 NULL},
	[REASON_STATE] = {"state", false, "update Pollux on that host first", NULL},
	[REASON_DISK_MISSING] = {"disk-missing", false,
				 "mount the storage there, or copy the disks: --with-disks", NULL},
	[REASON_DISK_KIND] = {"disk-kind", false, "see what is at that path there", NULL},
	[REASON_DISK_SIZE] = {"disk-size", false, "it is another disk, or an old copy", NULL},
	[REASON_DISK_ACCESS] = {"disk-access", false, "see its owner and mode there", NULL},
	[REASON_DISK_OTHER] = {"disk-other", false,
			       "copy the disks: --with-disks, or mount the same storage", NULL},
	[REASON_DISK_UNPROVEN] = {"disk-unproven", false,
				  "if you know that it is the same: --assume-same", "assume-same"},
	[REASON_DISK_SAME] = {"disk-same", false,
			      "update Pollux on both hosts: then it is handed over, not copied",
			      NULL},
	[REASON_DISK_UNTOLD] = {"disk-untold", false,
				"if it is the same: --assume-same; if it is another, and what is "
				"on it may go: --overwrite",
				NULL},
	[REASON_DISK_FOREIGN] = {"disk-foreign", false, "if what is on it may go: --overwrite",
				 "overwrite"},
	[REASON_DISK_SPACE] = {"disk-space", false, "make room there", NULL},
	[REASON_DISKS] = {"disks", false, "the same version of Pollux on both hosts sees them",
			  NULL},
	[REASON_PROCESS] = {"process", false, "`pollux upgrade` has it go on in a new process",
			    NULL},
	[REASON_TAP] = {"tap", false, "polluxd there needs /dev/net/tun and CAP_NET_ADMIN", NULL},
	[REASON_BRIDGE] = {"bridge", false, "make it there: `ip link add NAME type bridge`", NULL},
	[REASON_SOCKET] = {"socket", false, "start what listens on it there", NULL},
	[REASON_NAME] = {"name", false, "two VMs cannot have one name: rename one", NULL},
	[REASON_TERM] = {"term", false, "see `pollux status` on both hosts", NULL},
	[REASON_RUNS] = {"runs", false, "see `pollux status` on both hosts", NULL},
	[REASON_OWNED] = {"owned", false, "see `pollux status` on both hosts", NULL},
	[REASON_TWIN] = {"twin", true,
			 "it is not protected until it is there, and has a twin again", NULL},
	[REASON_STANDBY] = {"standby", false,
			    "add it to `peers` of that host, or unprotect the VM first", NULL},
	[REASON_STANDBY_DOWN] = {"standby-down", true, "see `pollux list --peers` on that host",
				 NULL},
};

json_t *reason_json(const char *code, bool warning, const char *sentence, const char *hint)
{
	return json_pack("{s:s, s:s, s:o, s:s}", "code", code, "severity",
			 warning ? "warning" : "error", "sentence", json_text(sentence), "hint",
			 hint);
}

json_t *verdict_add(struct verdict *v, enum reason r, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;
	json_t *o;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	o = reason_json(reasons[r].code, reasons[r].warning, text, reasons[r].hint);
	if (o && reasons[r].override)
		json_object_set_new(o, "override", json_string(reasons[r].override));
	json_array_append_new(v->found, o);
	v->possible = v->possible && reasons[r].warning;
	return o;
}

static unsigned long long mib(uint64_t bytes)
{
	return bytes >> 20;
}

/* ---- the machine ------------------------------------------------------------------------- */

static void lacking_check(struct verdict *v, const char *key, const char *what, enum reason r)
{
	const json_t *lacking = json_object_get(v->has, key);

	if (lacking)
		verdict_add(v, r, "the %s %s cannot be read there: %s", what,
			    json_text_of(lacking, "path"), json_text_of(lacking, "why"));
}

static void config_check(struct verdict *v)
{
	const char *why = json_text_of(v->has, "config_why");

	if (*why)
		verdict_add(v, REASON_CONFIG, "the VM file cannot be read there: %s", why);
	lacking_check(v, "kernel_lacking", "kernel", REASON_KERNEL);
	lacking_check(v, "initrd_lacking", "initrd", REASON_INITRD);
}

/* All of them are in "names"; in the sentence, as many as one reads. */
static void features_add(struct verdict *v, enum reason r, json_t *names, const char *fmt)
{
	char text[TEXT_MAX - 64];
	json_t *reason;

	if (json_array_size(names)) {
		json_texts_join(names, ", ", text, sizeof(text));
		reason = verdict_add(v, r, fmt, text);
		json_object_set(reason, "names", names);
	}
	json_decref(names);
}

/* What it has beyond that, the guest does not see. */
static void features_check(struct verdict *v)
{
	json_t *features = json_array(), *others = json_array();
	int rc = preflight_cpu_lacks(json_object_get(v->needs, "cpuid"),
				     json_object_get(v->has, "cpuid"), features, others);
	char text[TEXT_MAX - 64];

	if (rc)
		verdict_add(v, REASON_CPU, "the CPUs cannot be compared: %s", strerror(-rc));
	preflight_limits_lack(json_object_get(v->needs, "cpu_limits"),
			      json_object_get(v->has, "cpu_limits"), others);
	features_add(v, REASON_CPU_FEATURES, features, "that host's CPU lacks %s");
	json_texts_join(others, "; ", text, sizeof(text));
	if (json_array_size(others))
		verdict_add(v, REASON_CPU_DIFFERS, "that host's CPU is another one: %s", text);
	json_decref(others);
}

static void engine_check(struct verdict *v)
{
	const char *cpu = json_text_of(v->needs, "cpu"), *engine = json_text_of(v->has, "engine");
	bool sim = !strcmp(cpu, vm_cpu_name(VM_CPU_NONE));

	if (*json_text_of(v->has, "config_why"))
		return;
	if (!*engine)
		verdict_add(v, REASON_ENGINE, "engine %s cannot be used there: %s",
			    json_text_of(v->has, "engine_lacking"),
			    json_text_of(v->has, "engine_why"));
	else if (sim != !strcmp(engine, "sim"))
		verdict_add(v, REASON_ENGINE,
			    "the VM runs on engine %s, and that host would take %s",
			    json_text_of(v->needs, "engine"), engine);
	else if (*json_text_of(v->has, "cpuid_why"))
		verdict_add(v, REASON_CPU, "the CPU \"%s\" cannot be had there: %s", cpu,
			    json_text_of(v->has, "cpuid_why"));
	else if (!sim)
		features_check(v);
}

/* The twin gives way before the VM comes, and its memory is free then. */
static uint64_t twin_held(const struct verdict *v)
{
	const json_t *g = json_object_get(v->has, "guest");
	bool twin = !strcmp(json_text_of(g, "standing"), "twin") &&
		    !strcmp(json_text_of(g, "identity"), json_text_of(v->needs, "identity"));

	return twin ? json_count_of(v->has, "memory_held") : 0;
}

static void size_check(struct verdict *v)
{
	uint64_t needed = json_count_of(v->needs, "memory"),
		 total = json_count_of(v->has, "memory_total");
	uint64_t vcpus = json_count_of(v->needs, "vcpus"), cpus = json_count_of(v->has, "cpus");
	uint64_t free = json_count_of(v->has, "memory_available") + twin_held(v);
	uint64_t huge_free = json_count_of(v->has, "hugepages_free") + twin_held(v);
	bool huge = json_true_of(v->needs, "hugepages");

	if (needed > total)
		verdict_add(v, REASON_MEMORY_TOTAL, "the VM has %llu MiB of memory, that host %llu",
			    mib(needed), mib(total));
	else if (huge && needed > huge_free)
		verdict_add(v, REASON_HUGEPAGES,
			    "the VM has %llu MiB of memory in huge pages, free there are %llu",
			    mib(needed), mib(huge_free));
	else if (!huge && needed > free)
		verdict_add(v, REASON_MEMORY_FREE,
			    "the VM has %llu MiB of memory, free there are %llu", mib(needed),
			    mib(free));
	if (vcpus > cpus)
		verdict_add(v, REASON_CPUS_FEW, "the VM has %llu vCPUs, that host %llu CPUs",
			    (unsigned long long)vcpus, (unsigned long long)cpus);
}

static void postcopy_check(struct verdict *v)
{
	const char *asked = json_text_of(v->needs, "postcopy"),
		   *why = json_text_of(v->has, "postcopy_why");

	if (json_true_of(v->needs, "hugepages"))
		why = "memory in huge pages cannot come later";
	if (*asked && *why)
		verdict_add(v, strcmp(asked, "asked") ? REASON_POSTCOPY_STUCK : REASON_POSTCOPY,
			    "postcopy is not possible there: %s", why);
}

static const json_t *kind_find(const json_t *kinds, uint64_t id)
{
	for (size_t i = 0; i < json_array_size(kinds); i++)
		if (json_count_of(json_array_get(kinds, i), "id") == id)
			return json_array_get(kinds, i);
	return NULL;
}

static void sections_check(struct verdict *v)
{
	const json_t *sections = json_object_get(v->needs, "sections");

	for (size_t i = 0; i < json_array_size(sections); i++) {
		const json_t *s = json_array_get(sections, i);
		const json_t *k =
			kind_find(json_object_get(v->has, "kinds"), json_count_of(s, "id"));
		unsigned version = (unsigned)json_count_of(s, "version");

		if (!k)
			verdict_add(v, REASON_STATE, "that host does not know the state of \"%s\"",
				    json_text_of(s, "name"));
		else if (version < json_count_of(k, "oldest") ||
			 version > json_count_of(k, "newest"))
			verdict_add(v, REASON_STATE,
				    "the state of \"%s\" has version %u, that host reads %u to %u",
				    json_text_of(s, "name"), version,
				    (unsigned)json_count_of(k, "oldest"),
				    (unsigned)json_count_of(k, "newest"));
	}
}

/* ---- network and ownership ------------------------------------------------------------------ */

static void nics_check(struct verdict *v)
{
	const json_t *nics = json_object_get(v->has, "nics");

	for (size_t i = 0; i < json_array_size(nics); i++) {
		const json_t *n = json_array_get(nics, i);

		if (*json_text_of(n, "tap") && !json_true_of(n, "tap_possible"))
			verdict_add(v, REASON_TAP, "the tap %s cannot be had there",
				    json_text_of(n, "tap"));
		if (*json_text_of(n, "bridge") && !json_true_of(n, "bridge_there"))
			verdict_add(v, REASON_BRIDGE, "there is no bridge %s there",
				    json_text_of(n, "bridge"));
		if (*json_text_of(n, "socket") && !json_true_of(n, "socket_there"))
			verdict_add(v, REASON_SOCKET, "there is no socket %s there",
				    json_text_of(n, "socket"));
	}
}

static void owner_check(struct verdict *v)
{
	const json_t *g = json_object_get(v->has, "guest");
	const char *ours = json_text_of(v->needs, "identity"),
		   *theirs = json_text_of(g, "identity");
	const char *name = json_text_of(v->needs, "vm"), *standing = json_text_of(g, "standing");

	if (*ours && *theirs && strcmp(ours, theirs) != 0) {
		verdict_add(v, REASON_NAME, "another VM is called %s there", name);
		return;
	}
	if (json_count_of(g, "term") > json_count_of(v->needs, "term"))
		verdict_add(v, REASON_TERM, "that host knows a newer term of %s: %llu, not %llu",
			    name, (unsigned long long)json_count_of(g, "term"),
			    (unsigned long long)json_count_of(v->needs, "term"));
	if (!strcmp(standing, "runs"))
		verdict_add(v, REASON_RUNS, "a copy of %s runs there", name);
	if (!strcmp(standing, "owned"))
		verdict_add(v, REASON_OWNED, "that host takes itself for the owner of %s", name);
	if (!strcmp(standing, "twin"))
		verdict_add(v, REASON_TWIN, "that host holds the twin of %s, which gives way",
			    name);
}

/* What is protected now is to be so where it arrives. */
static void standby_check(struct verdict *v)
{
	const json_t *there = json_object_get(v->has, "standby");
	const char *name = json_text_of(v->needs, "protect_on");

	if (!*name || !there)
		return;
	if (json_true_of(v->needs, "protected") && !json_true_of(there, "known"))
		verdict_add(v, REASON_STANDBY,
			    "it is to be protected on %s again, and that host does not know %s as "
			    "a peer",
			    name, name);
	else if (!json_true_of(there, "connected"))
		verdict_add(
			v, REASON_STANDBY_DOWN,
			"it is to be protected on %s, and that host is not connected with %s now",
			name, name);
}

static void (*const checks[])(struct verdict *v) = {
	owner_check,    config_check,        engine_check, size_check,    postcopy_check,
	sections_check, verdict_disks_check, nics_check,   standby_check,
};

/* The facts that a person would ask for; the long lists have been looked at. */
static json_t *host_json(const json_t *facts)
{
	json_t *out = json_copy((json_t *)facts);

	json_object_del(out, "cpuid");
	json_object_del(out, "cpu_limits");
	json_object_del(out, "kinds");
	return out;
}

json_t *preflight_judge(const json_t *offer, const json_t *facts)
{
	struct verdict v = {.needs = offer, .has = facts, .found = json_array(), .possible = true};

	for (size_t i = 0; i < ARRAY_LEN(checks); i++)
		checks[i](&v);
	return json_pack("{s:b, s:o, s:i, s:o}", "possible", v.possible, "reasons", v.found,
			 "shared_disks", (int)v.shared_disks, "host", host_json(facts));
}

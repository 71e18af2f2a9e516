// SPDX-License-Identifier: Apache-2.0
/* What a VM needs against what a host has: all that is in the way. Pure. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/preflight.h"

#define TEXT_MAX 512

enum reason {
	REASON_CONFIG,
	REASON_KERNEL,
	REASON_INITRD,
	REASON_ENGINE,
	REASON_CPU,
	REASON_CPU_FEATURES,
	REASON_CPU_DIFFERS,
	REASON_CPUS_FEW,
	REASON_MEMORY_TOTAL,
	REASON_MEMORY_FREE,
	REASON_HUGEPAGES,
	REASON_POSTCOPY,
	REASON_POSTCOPY_STUCK,
	REASON_STATE,
	REASON_DISK_MISSING,
	REASON_DISK_KIND,
	REASON_DISK_SIZE,
	REASON_DISK_ACCESS,
	REASON_DISK_OTHER,
	REASON_DISK_UNPROVEN,
	REASON_DISK_FOREIGN,
	REASON_DISK_SPACE,
	REASON_DISKS,
	REASON_TAP,
	REASON_BRIDGE,
	REASON_SOCKET,
	REASON_NAME,
	REASON_TERM,
	REASON_RUNS,
	REASON_OWNED,
	REASON_TWIN,
	REASON_STANDBY,
	REASON_STANDBY_DOWN,
	REASONS
};

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
				 "start the VM with cpu = \"pollux-base\", or take a host of the "
				 "same kind",
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
	[REASON_DISK_FOREIGN] = {"disk-foreign", false, "if what is on it may go: --overwrite",
				 "overwrite"},
	[REASON_DISK_SPACE] = {"disk-space", false, "make room there", NULL},
	[REASON_DISKS] = {"disks", false, "the same version of Pollux on both hosts sees them",
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

struct verdict {
	const json_t *needs, *has;
	json_t *found;
	bool possible;
};

static void PRINTF(3, 4) add(struct verdict *v, enum reason r, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;
	json_t *o;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	o = json_pack("{s:s, s:s, s:o, s:s}", "code", reasons[r].code, "severity",
		      reasons[r].warning ? "warning" : "error", "sentence", json_text(text), "hint",
		      reasons[r].hint);
	if (o && reasons[r].override)
		json_object_set_new(o, "override", json_string(reasons[r].override));
	json_array_append_new(v->found, o);
	v->possible = v->possible && reasons[r].warning;
}

static const char *text_of(const json_t *o, const char *key)
{
	return json_text_of(o, key);
}

static uint64_t number_of(const json_t *o, const char *key)
{
	json_int_t n = json_integer_of(o, key, 0);

	return n > 0 ? (uint64_t)n : 0;
}

static bool is_true(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
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
		add(v, r, "the %s %s cannot be read there: %s", what, text_of(lacking, "path"),
		    text_of(lacking, "why"));
}

static void config_check(struct verdict *v)
{
	const char *why = text_of(v->has, "config_why");

	if (*why)
		add(v, REASON_CONFIG, "the VM file cannot be read there: %s", why);
	lacking_check(v, "kernel_lacking", "kernel", REASON_KERNEL);
	lacking_check(v, "initrd_lacking", "initrd", REASON_INITRD);
}

static void names_join(const json_t *names, char *out, size_t room)
{
	size_t used = 0;

	out[0] = 0;
	for (size_t i = 0; i < json_array_size(names) && used < room; i++)
		used += (size_t)snprintf(out + used, room - used, "%s%s", i ? ", " : "",
					 json_string_value(json_array_get(names, i)));
}

static void features_check(struct verdict *v)
{
	const json_t *needed = json_object_get(v->needs, "cpuid");
	const json_t *there = json_object_get(v->has, "cpuid");
	json_t *missing = preflight_features_missing(needed, there);
	json_t *more = preflight_features_missing(there, needed);
	char names[TEXT_MAX - 64], other[96];

	preflight_leaves_differ(needed, there, other, sizeof(other));
	names_join(missing, names, sizeof(names));
	if (json_array_size(missing))
		add(v, REASON_CPU_FEATURES, "that host's CPU lacks %s", names);
	names_join(more, names, sizeof(names));
	if (json_array_size(more))
		add(v, REASON_CPU_DIFFERS, "that host's CPU also has %s, which the guest's has not",
		    names);
	else if (!json_array_size(missing) && other[0])
		add(v, REASON_CPU_DIFFERS, "that host's CPU is another one: %s", other);
	json_decref(missing);
	json_decref(more);
}

static void engine_check(struct verdict *v)
{
	const char *cpu = text_of(v->needs, "cpu"), *engine = text_of(v->has, "engine");
	bool sim = !strcmp(cpu, vm_cpu_name(VM_CPU_NONE));

	if (*text_of(v->has, "config_why"))
		return;
	if (!*engine)
		add(v, REASON_ENGINE, "engine %s cannot be used there: %s",
		    text_of(v->has, "engine_lacking"), text_of(v->has, "engine_why"));
	else if (sim != !strcmp(engine, "sim"))
		add(v, REASON_ENGINE, "the VM runs on engine %s, and that host would take %s",
		    text_of(v->needs, "engine"), engine);
	else if (*text_of(v->has, "cpuid_why"))
		add(v, REASON_CPU, "the CPU \"%s\" cannot be had there: %s", cpu,
		    text_of(v->has, "cpuid_why"));
	else
		features_check(v);
}

/* The twin gives way before the VM comes, and its memory is free then. */
static uint64_t twin_held(const struct verdict *v)
{
	const json_t *g = json_object_get(v->has, "guest");
	bool twin = !strcmp(text_of(g, "standing"), "twin") &&
		    !strcmp(text_of(g, "identity"), text_of(v->needs, "identity"));

	return twin ? number_of(v->has, "memory_held") : 0;
}

static void size_check(struct verdict *v)
{
	uint64_t needed = number_of(v->needs, "memory"), total = number_of(v->has, "memory_total");
	uint64_t vcpus = number_of(v->needs, "vcpus"), cpus = number_of(v->has, "cpus");
	uint64_t free = number_of(v->has, "memory_available") + twin_held(v);
	uint64_t huge_free = number_of(v->has, "hugepages_free") + twin_held(v);
	bool huge = json_is_true(json_object_get(v->needs, "hugepages"));

	if (needed > total)
		add(v, REASON_MEMORY_TOTAL, "the VM has %llu MiB of memory, that host %llu",
		    mib(needed), mib(total));
	else if (huge && needed > huge_free)
		add(v, REASON_HUGEPAGES,
		    "the VM has %llu MiB of memory in huge pages, free there are %llu", mib(needed),
		    mib(huge_free));
	else if (!huge && needed > free)
		add(v, REASON_MEMORY_FREE, "the VM has %llu MiB of memory, free there are %llu",
		    mib(needed), mib(free));
	if (vcpus > cpus)
		add(v, REASON_CPUS_FEW, "the VM has %llu vCPUs, that host %llu CPUs",
		    (unsigned long long)vcpus, (unsigned long long)cpus);
}

static void postcopy_check(struct verdict *v)
{
	const char *asked = text_of(v->needs, "postcopy"), *why = text_of(v->has, "postcopy_why");

	if (is_true(v->needs, "hugepages"))
		why = "memory in huge pages cannot come later";
	if (*asked && *why)
		add(v, strcmp(asked, "asked") ? REASON_POSTCOPY_STUCK : REASON_POSTCOPY,
		    "postcopy is not possible there: %s", why);
}

static const json_t *kind_find(const json_t *kinds, uint64_t id)
{
	for (size_t i = 0; i < json_array_size(kinds); i++)
		if (number_of(json_array_get(kinds, i), "id") == id)
			return json_array_get(kinds, i);
	return NULL;
}

static void sections_check(struct verdict *v)
{
	const json_t *sections = json_object_get(v->needs, "sections");

	for (size_t i = 0; i < json_array_size(sections); i++) {
		const json_t *s = json_array_get(sections, i);
		const json_t *k = kind_find(json_object_get(v->has, "kinds"), number_of(s, "id"));
		unsigned version = (unsigned)number_of(s, "version");

		if (!k)
			add(v, REASON_STATE, "that host does not know the state of \"%s\"",
			    text_of(s, "name"));
		else if (version < number_of(k, "oldest") || version > number_of(k, "newest"))
			add(v, REASON_STATE,
			    "the state of \"%s\" has version %u, that host reads %u to %u",
			    text_of(s, "name"), version, (unsigned)number_of(k, "oldest"),
			    (unsigned)number_of(k, "newest"));
	}
}

/* ---- disks ------------------------------------------------------------------------------- */

/* A file by its mark, a device by its name. */
static void same_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	const char *key = strcmp(text_of(needed, "kind"), "block") ? "same" : "wwid";
	const char *ours = text_of(needed, key), *theirs = text_of(there, key);
	const char *path = text_of(needed, "path");

	if (*ours && *theirs && !strcmp(ours, theirs))
		return;
	if (*ours && *theirs)
		add(v, REASON_DISK_OTHER, "the disk %s there is another one of the same name",
		    path);
	else if (!is_true(v->needs, "assume_same"))
		add(v, REASON_DISK_UNPROVEN,
		    "that the disk %s is the same one there cannot be proven", path);
}

static void shared_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	const char *path = text_of(needed, "path"), *kind = text_of(there, "kind");

	if (!strcmp(kind, "none"))
		add(v, REASON_DISK_MISSING, "the disk %s is not there", path);
	else if (*text_of(there, "why"))
		add(v, REASON_DISK_ACCESS, "the disk %s cannot be opened there: %s", path,
		    text_of(there, "why"));
	else if (strcmp(kind, text_of(needed, "kind")) != 0)
		add(v, REASON_DISK_KIND, "the disk %s is a %s here and a %s there", path,
		    text_of(needed, "kind"), kind);
	else if (number_of(needed, "size") != number_of(there, "size"))
		add(v, REASON_DISK_SIZE, "the disk %s has %llu bytes here and %llu there", path,
		    (unsigned long long)number_of(needed, "size"),
		    (unsigned long long)number_of(there, "size"));
	else
		same_check(v, needed, there);
}

/* Sparse as it is: what is allocated here is needed there, less what is allocated there. */
static uint64_t space_needed(const json_t *needed, const json_t *there)
{
	uint64_t want = number_of(needed, "allocated"), have = number_of(there, "allocated");

	return want > have ? want - have : 0;
}

static void new_copy_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	if (is_true(needed, "readonly"))
		add(v, REASON_DISK_MISSING, "the disk %s is only read, and is not there",
		    text_of(needed, "path"));
	else if (!is_true(there, "folder_writable"))
		add(v, REASON_DISK_ACCESS,
		    "the disk %s cannot be made there: the folder %s cannot "
		    "be written",
		    text_of(needed, "path"), text_of(there, "folder"));
}

static void old_copy_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	bool copy = is_true(json_object_get(v->has, "guest"), "copy");
	const char *path = text_of(needed, "path");

	if (*text_of(there, "why"))
		add(v, REASON_DISK_ACCESS, "the disk %s cannot be opened there: %s", path,
		    text_of(there, "why"));
	if (number_of(needed, "size") != number_of(there, "size"))
		add(v, REASON_DISK_SIZE, "the disk %s has %llu bytes here and %llu there", path,
		    (unsigned long long)number_of(needed, "size"),
		    (unsigned long long)number_of(there, "size"));
	if (!is_true(needed, "readonly") && !copy && !is_true(v->needs, "overwrite"))
		add(v, REASON_DISK_FOREIGN,
		    "the disk %s is there already, and is no earlier copy of this VM", path);
}

static void mirror_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	const char *kind = text_of(there, "kind");

	if (!strcmp(kind, "none"))
		new_copy_check(v, needed, there);
	else if (!strcmp(kind, "other"))
		add(v, REASON_DISK_KIND, "the disk %s is neither a file nor a block device there",
		    text_of(needed, "path"));
	else
		old_copy_check(v, needed, there);
}

/* Disks on one file system share its space. */
static void space_check(struct verdict *v, const json_t *disks, const json_t *there, size_t first)
{
	const json_t *here = json_array_get(there, first);
	uint64_t sum = 0, free = number_of(here, "free");

	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *d = json_array_get(there, i);

		if (number_of(d, "filesystem") != number_of(here, "filesystem") ||
		    !strcmp(text_of(d, "kind"), "block"))
			continue;
		if (i < first)
			return;
		sum += space_needed(json_array_get(disks, i), d);
	}
	if (sum > free)
		add(v, REASON_DISK_SPACE, "the disks in %s need %llu MiB there, free are %llu",
		    text_of(here, "folder"), mib(sum), mib(free));
}

static void disks_check(struct verdict *v)
{
	const json_t *disks = json_object_get(v->needs, "disks");
	const json_t *there = json_object_get(v->has, "disks");
	bool mirror = !strcmp(text_of(v->needs, "storage"), "mirror");

	if (*text_of(v->has, "config_why"))
		return;
	if (json_array_size(disks) != json_array_size(there)) {
		add(v, REASON_DISKS, "the VM has %zu disks here, and %zu by its file there",
		    json_array_size(disks), json_array_size(there));
		return;
	}
	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *d = json_array_get(disks, i), *t = json_array_get(there, i);

		(mirror ? mirror_check : shared_check)(v, d, t);
		if (mirror)
			space_check(v, disks, there, i);
	}
}

/* ---- network and ownership ------------------------------------------------------------------ */

static void nics_check(struct verdict *v)
{
	const json_t *nics = json_object_get(v->has, "nics");

	for (size_t i = 0; i < json_array_size(nics); i++) {
		const json_t *n = json_array_get(nics, i);

		if (*text_of(n, "tap") && !is_true(n, "tap_possible"))
			add(v, REASON_TAP, "the tap %s cannot be had there", text_of(n, "tap"));
		if (*text_of(n, "bridge") && !is_true(n, "bridge_there"))
			add(v, REASON_BRIDGE, "there is no bridge %s there", text_of(n, "bridge"));
		if (*text_of(n, "socket") && !is_true(n, "socket_there"))
			add(v, REASON_SOCKET, "there is no socket %s there", text_of(n, "socket"));
	}
}

static void owner_check(struct verdict *v)
{
	const json_t *g = json_object_get(v->has, "guest");
	const char *ours = text_of(v->needs, "identity"), *theirs = text_of(g, "identity");
	const char *name = text_of(v->needs, "vm"), *standing = text_of(g, "standing");

	if (*ours && *theirs && strcmp(ours, theirs) != 0) {
		add(v, REASON_NAME, "another VM is called %s there", name);
		return;
	}
	if (number_of(g, "term") > number_of(v->needs, "term"))
		add(v, REASON_TERM, "that host knows a newer term of %s: %llu, not %llu", name,
		    (unsigned long long)number_of(g, "term"),
		    (unsigned long long)number_of(v->needs, "term"));
	if (!strcmp(standing, "runs"))
		add(v, REASON_RUNS, "a copy of %s runs there", name);
	if (!strcmp(standing, "owned"))
		add(v, REASON_OWNED, "that host takes itself for the owner of %s", name);
	if (!strcmp(standing, "twin"))
		add(v, REASON_TWIN, "that host holds the twin of %s, which gives way", name);
}

/* What is protected now is to be so where it arrives. */
static void standby_check(struct verdict *v)
{
	const json_t *there = json_object_get(v->has, "standby");
	const char *name = text_of(v->needs, "protect_on");

	if (!*name || !there)
		return;
	if (is_true(v->needs, "protected") && !is_true(there, "known"))
		add(v, REASON_STANDBY,
		    "it is to be protected on %s again, and that host does not know %s as a peer",
		    name, name);
	else if (!is_true(there, "connected"))
		add(v, REASON_STANDBY_DOWN,
		    "it is to be protected on %s, and that host is not connected with %s now", name,
		    name);
}

static void (*const checks[])(struct verdict *v) = {
	owner_check,    config_check, engine_check, size_check,    postcopy_check,
	sections_check, disks_check,  nics_check,   standby_check,
};

/* The facts that a person would ask for; the long lists have been looked at. */
static json_t *host_json(const json_t *facts)
{
	json_t *out = json_copy((json_t *)facts);

	json_object_del(out, "cpuid");
	json_object_del(out, "kinds");
	return out;
}

json_t *preflight_judge(const json_t *offer, const json_t *facts)
{
	struct verdict v = {.needs = offer, .has = facts, .found = json_array(), .possible = true};

	for (size_t i = 0; i < ARRAY_LEN(checks); i++)
		checks[i](&v);
	return json_pack("{s:b, s:o, s:o}", "possible", v.possible, "reasons", v.found, "host",
			 host_json(facts));
}

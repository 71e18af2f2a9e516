// SPDX-License-Identifier: Apache-2.0
/* What a VM needs, on the host where it runs; and what of it there is on another. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/preflight.h"
#include "vm-process/vm-process.h"

#define ENGINES_MAX 8
#define KINDS_MAX   64
#define MEMORY_LINK "/memfd:guest-ram"

/* ---- where it runs --------------------------------------------------------------------- */

static const char *cpu_name(const struct vm_config *c, const char *engine)
{
	if (!strcmp(engine, "sim"))
		return vm_cpu_name(VM_CPU_NONE);
	if (c->cpu[0])
		return c->cpu;
	return vm_cpu_name(strcmp(engine, "kvm") ? VM_CPU_BASE : VM_CPU_HOST);
}

/* A file system without such attributes is no error here: the other host cannot prove it then. */
static void mark_put(struct marks *m, const char *path, json_t *disk)
{
	char mark[MARK_LEN + 1];
	struct stat st;

	if (!stat(path, &st) && !marks_of(m, st.st_dev, st.st_ino, clock_ns(), mark) &&
	    !preflight_mark_write(path, mark))
		json_object_set_new(disk, "same", json_string(mark));
}

static json_t *disk_needed(const struct disk_config *c, struct marks *m)
{
	json_t *d = preflight_disk(c->path);

	json_object_set_new(d, "path", json_text(c->path));
	json_object_set_new(d, "readonly", json_boolean(c->readonly));
	if (!strcmp(json_text_of(d, "kind"), "file"))
		mark_put(m, c->path, d);
	return d;
}

static json_t *disks_needed(const struct vm_config *c, struct marks *m)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < c->disk_count; i++)
		json_array_append_new(out, disk_needed(&c->disks[i], m));
	return out;
}

json_t *preflight_about(const struct guest *g)
{
	return json_pack("{s:s, s:s, s:I, s:o, s:o, s:s, s:O*}", "vm", g->name, "identity",
			 g->identity, "term", (json_int_t)g->own.record.term, "config",
			 json_text(g->config), "origin", json_text(g->origin), "engine",
			 g->program.engine, "sections", g->program.sections);
}

static json_t *needs_json(const json_t *about, const struct vm_config *c,
			  const struct preflight_options *o, json_t *cpuid)
{
	json_t *out = json_deep_copy(about);

	if (!out) {
		json_decref(cpuid);
		return NULL;
	}
	json_object_set_new(out, "cpu", json_string(cpu_name(c, json_text_of(about, "engine"))));
	json_object_set_new(out, "vcpus", json_integer(c->vcpus));
	json_object_set_new(out, "memory", json_integer((json_int_t)c->memory));
	json_object_set_new(out, "cpuid", cpuid);
	/* A process that does not say what it writes is of a build that is older, or as old. */
	if (!json_object_get(out, "sections"))
		json_object_set_new(out, "sections", control_sections());
	json_object_set_new(out, "hugepages", json_boolean(c->hugepages));
	json_object_set_new(out, "storage", json_string(o->with_disks ? "mirror" : "shared"));
	json_object_set_new(out, "per_disk", json_true());
	json_object_set_new(out, "overwrite", json_boolean(o->overwrite));
	json_object_set_new(out, "assume_same", json_boolean(o->assume_same));
	json_object_set_new(out, "disks", disks_needed(c, o->marks));
	if (o->postcopy)
		json_object_set_new(out, "postcopy", json_string(o->postcopy));
	if (o->protect_on) {
		json_object_set_new(out, "protect_on", json_text(o->protect_on));
		json_object_set_new(out, "protected", json_boolean(o->is_protected));
	}
	return out;
}

json_t *preflight_describe(const json_t *about, const struct preflight_options *o, struct error *e)
{
	const char *engine = json_text_of(about, "engine");
	struct vm_config *c;
	json_t *cpuid, *out;

	if (guest_config_parse(json_text_of(about, "config"), json_text_of(about, "origin"), &c, e))
		return NULL;
	cpuid = json_incref(json_object_get(about, "cpuid"));
	if (!cpuid)
		cpuid = preflight_cpuid(engine, cpu_name(c, engine), c->vcpus, e);
	out = cpuid ? needs_json(about, c, o, cpuid) : NULL;
	free(c);
	if (cpuid && !out)
		error_set(e, -ENOMEM, "out of memory");
	return out;
}

/* ---- where it shall go --------------------------------------------------------------------- */

static json_int_t hugepages_number(const char *name)
{
	char path[96];
	uint64_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", name);
	f = fopen(path, "re");
	if (f && fscanf(f, "%" SCNu64, &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return (json_int_t)n;
}

/* Bytes: what is reserved is free only for who has reserved it. */
static json_int_t hugepages_free(void)
{
	json_int_t free = hugepages_number("free_hugepages"),
		   reserved = hugepages_number("resv_hugepages");

	return free > reserved ? (free - reserved) * (json_int_t)VM_HUGE_PAGE_SIZE : 0;
}

static void memory_put(json_t *out)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	uint64_t kib;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemTotal: %" SCNu64, &kib) == 1)
			json_object_set_new(out, "memory_total",
					    json_integer((json_int_t)kib << 10));
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			json_object_set_new(out, "memory_available",
					    json_integer((json_int_t)kib << 10));
	}
	if (f)
		fclose(f);
	json_object_set_new(out, "hugepages_free", json_integer(hugepages_free()));
	json_object_set_new(out, "cpus", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
}

static bool engine_fits(const char *wanted, const struct engine_report *r)
{
	if (strcmp(wanted, "auto") != 0)
		return !strcmp(wanted, r->name);
	return strcmp(r->name, "sim") != 0 && r->usable && r->real_guests;
}

static void engine_take(const struct engine_report *r, json_t *out)
{
	json_object_set_new(out, r->usable ? "engine" : "engine_lacking", json_string(r->name));
	json_object_set_new(out, "engine_why", json_text(r->why));
}

/* As vm_create() would choose. */
static void engine_put(const char *wanted, json_t *out)
{
	struct engine_report reports[ENGINES_MAX];
	unsigned n = engine_probe_all(reports, ENGINES_MAX), i = 0;

	while (i < n && !engine_fits(wanted, &reports[i]))
		i++;
	if (i < n) {
		engine_take(&reports[i], out);
		return;
	}
	json_object_set_new(out, "engine_lacking", json_string(wanted));
	json_object_set_new(out, "engine_why", json_string("there is none such"));
}

static void cpu_put(const json_t *offer, const struct vm_config *c, json_t *out)
{
	const char *engine = json_text_of(out, "engine"), *cpu = json_text_of(offer, "cpu");
	json_t *cpuid, *limits;
	struct error e = {0};

	if (!*engine)
		return;
	cpuid = preflight_cpuid(engine, cpu, c->vcpus, &e);
	limits = cpuid ? preflight_cpu_limits(engine, cpu, &e) : NULL;
	if (!limits) {
		json_decref(cpuid);
		json_object_set_new(out, "cpuid_why", json_text(e.text));
		return;
	}
	json_object_set_new(out, "cpuid", cpuid);
	json_object_set_new(out, "cpu_limits", limits);
}

static json_t *kinds_json(void)
{
	struct vm_state_kind kinds[KINDS_MAX];
	unsigned n = vm_state_kinds(kinds, KINDS_MAX);
	json_t *out = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(out, json_pack("{s:i, s:i, s:i}", "id", kinds[i].id, "oldest",
						     kinds[i].oldest, "newest", kinds[i].newest));
	return out;
}

static void readable_put(const char *key, const char *path, json_t *out)
{
	if (*path && access(path, R_OK))
		json_object_set_new(
			out, key,
			json_pack("{s:o, s:s}", "path", json_text(path), "why", strerror(errno)));
}

static void folder_put(const char *path, json_t *disk)
{
	char copy[sizeof(((struct disk_config *)0)->path)];
	const char *folder;
	struct statvfs fs;

	snprintf(copy, sizeof(copy), "%s", path);
	folder = dirname(copy);
	json_object_set_new(disk, "folder", json_text(folder));
	json_object_set_new(disk, "folder_writable", json_boolean(!access(folder, W_OK | X_OK)));
	if (statvfs(folder, &fs))
		return;
	json_object_set_new(disk, "filesystem", json_integer((json_int_t)(fs.f_fsid >> 1)));
	json_object_set_new(disk, "free",
			    json_integer((json_int_t)fs.f_bavail * (json_int_t)fs.f_frsize));
}

static json_t *disk_found(const struct disk_config *c)
{
	json_t *d = preflight_disk(c->path);
	char mark[MARK_LEN + 1];
	int rc;

	if (access(c->path, c->readonly ? R_OK : R_OK | W_OK))
		json_object_set_new(d, "why", json_string(strerror(errno)));
	rc = preflight_mark_read(c->path, mark);
	if (!rc)
		json_object_set_new(d, "same", json_text(mark));
	else if (rc == -ENODATA && !strcmp(json_text_of(d, "kind"), "file"))
		json_object_set_new(d, "unmarked", json_true());
	folder_put(c->path, d);
	return d;
}

static bool path_exists(const char *fmt, const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), fmt, name);
	return !stat(path, &st);
}

static bool socket_there(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode);
}

static bool tap_possible(const char *tap)
{
	if (path_exists("/sys/class/net/%.15s", tap))
		return path_exists("/sys/class/net/%.15s/tun_flags", tap);
	return !access("/dev/net/tun", R_OK | W_OK);
}

static json_t *nic_found(const struct nic_config *c)
{
	json_t *n = json_object();

	if (c->kind == NIC_TAP) {
		json_object_set_new(n, "tap", json_text(c->tap));
		json_object_set_new(n, "tap_possible", json_boolean(tap_possible(c->tap)));
	}
	if (c->kind == NIC_TAP && c->bridge[0]) {
		json_object_set_new(n, "bridge", json_text(c->bridge));
		json_object_set_new(
			n, "bridge_there",
			json_boolean(path_exists("/sys/class/net/%.15s/bridge", c->bridge)));
	}
	if (c->kind == NIC_STREAM) {
		json_object_set_new(n, "socket", json_text(c->socket));
		json_object_set_new(n, "socket_there", json_boolean(socket_there(c->socket)));
	}
	return n;
}

static void config_put(const json_t *offer, json_t *out)
{
	json_t *disks = json_array(), *nics = json_array();
	struct error e = {0};
	struct vm_config *c;

	json_object_set_new(out, "disks", disks);
	json_object_set_new(out, "nics", nics);
	if (guest_config_parse(json_text_of(offer, "config"), json_text_of(offer, "origin"), &c,
			       &e)) {
		json_object_set_new(out, "config_why", json_text(e.text));
		return;
	}
	engine_put(c->engine, out);
	cpu_put(offer, c, out);
	readable_put("kernel_lacking", c->kernel, out);
	readable_put("initrd_lacking", c->initrd, out);
	for (unsigned i = 0; i < c->disk_count; i++)
		json_array_append_new(disks, disk_found(&c->disks[i]));
	for (unsigned i = 0; i < c->nic_count; i++)
		json_array_append_new(nics, nic_found(&c->nics[i]));
	free(c);
}

/* By this process, in place of the VM's, which it starts with what it may itself. */
static void postcopy_put(const json_t *offer, json_t *out)
{
	struct error e = {0};

	if (*json_text_of(offer, "postcopy") && vm_lazy_probe(&e))
		json_object_set_new(out, "postcopy_why", json_text(e.text));
}

/* ---- who has it ---------------------------------------------------------------------------- */

static const char *standing_of(enum ownership_state s)
{
	switch (s) {
	case OWN_ALONE:
	case OWN_PRIMARY:
	case OWN_ASKING:
	case OWN_PROMOTING:
		return "runs";
	case OWN_UNSURE:
	case OWN_IDLE:
	case OWN_FREEZING:
	case OWN_HANDED:
		return "owned";
	case OWN_STANDBY:
	case OWN_DECIDING:
	case OWN_LOADING:
		return "twin";
	default:
		return "none";
	}
}

static json_t *guest_facts(const struct guest *g)
{
	return json_pack("{s:s, s:I, s:s, s:i}", "identity", g->identity, "term",
			 (json_int_t)g->own.record.term, "standing", standing_of(g->own.state),
			 "copies", (int)g->copies);
}

static json_t *standby_facts(struct agent *a, const char *name)
{
	struct peer *p = peers_find(a->peers, name);

	return json_pack("{s:b, s:b}", "known", p != NULL, "connected", p && peer_is_up(p));
}

json_t *preflight_standing(struct agent *a, const json_t *offer)
{
	const struct guest *g = guest_find(a, json_text_of(offer, "vm"));
	json_t *out = json_pack("{s:s}", "host", a->config.name);

	if (out && g)
		json_object_set_new(out, "guest", guest_facts(g));
	if (out && *json_text_of(offer, "protect_on"))
		json_object_set_new(out, "standby",
				    standby_facts(a, json_text_of(offer, "protect_on")));
	if (out && g && g->child)
		json_object_set_new(out, "pid", json_integer(vm_child_pid(g->child)));
	return out;
}

/* Of guest memory, behind a descriptor: what is allocated, whoever has it mapped; huge pages are
 * reserved for all of it. */
static uint64_t link_held(const char *link)
{
	char target[64];
	struct statfs fs;
	struct stat st;
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	target[n < 0 ? 0 : n] = 0;
	if (strncmp(target, MEMORY_LINK, strlen(MEMORY_LINK)) != 0 || stat(link, &st) ||
	    statfs(link, &fs))
		return 0;
	return fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)st.st_size : (uint64_t)st.st_blocks * 512;
}

/* Of all that a process of ours has. */
static uint64_t memory_held(json_int_t pid)
{
	char path[64], link[PATH_MAX];
	const struct dirent *entry;
	uint64_t held = 0;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%lld/fd", (long long)pid);
	fds = pid > 0 ? opendir(path) : NULL;
	while (fds && (entry = readdir(fds))) {
		snprintf(link, sizeof(link), "%s/%s", path, entry->d_name);
		held += link_held(link);
	}
	if (fds)
		closedir(fds);
	return held;
}

json_t *preflight_facts(const json_t *standing, const json_t *offer)
{
	json_t *out = json_deep_copy(standing);

	if (!out)
		return NULL;
	json_object_set_new(
		out, "memory_held",
		json_integer((json_int_t)memory_held(json_integer_of(standing, "pid", 0))));
	json_object_del(out, "pid");
	memory_put(out);
	json_object_set_new(out, "kinds", kinds_json());
	config_put(offer, out);
	postcopy_put(offer, out);
	return out;
}

json_t *preflight_check(const json_t *standing, const json_t *offer)
{
	json_t *facts = preflight_facts(standing, offer);
	json_t *out = facts ? preflight_judge(offer, facts) : NULL;

	json_decref(facts);
	return out;
}

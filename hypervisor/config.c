// SPDX-License-Identifier: Apache-2.0
/*
 * The VM file (docs/vm-config.md). One table a group: what may stand there and who
 * reads it. What is not in the table is refused, with its line.
 */
#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

#define TEXT_MOST    (UINT64_C(1) << 20)
#define MEMORY_LEAST (UINT64_C(2) << 20)
#define MEMORY_MOST  (UINT64_C(1) << 42)
#define MEMORY_ALIGN (UINT64_C(2) << 20)
#define SIM_LEAST    (UINT64_C(256) << 10)
#define SIM_ALIGN    (UINT64_C(64) << 10)
#define DISK_MOST    (UINT64_C(1) << 50)

struct source {
	const char *origin;
	struct error *e;
};

struct key {
	const char *name;
	int (*read)(struct source *s, const struct key *k, config_setting_t *at, void *into);
	size_t offset, size;
	bool required;
};

static int PRINTF(3, 4) refuse(struct source *s, const config_setting_t *at, const char *fmt, ...)
{
	char text[320];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return error_set(s->e, -EINVAL, "%s:%u: %s", s->origin,
			 (unsigned)config_setting_source_line(at), text);
}

/* ---- kinds of values ------------------------------------------------------------ */

static int text_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	const char *text = config_setting_get_string(at);

	if (!text)
		return refuse(s, at, "%s must be a string in quotes", k->name);
	if (strlen(text) >= k->size)
		return refuse(s, at, "%s is longer than %zu characters", k->name, k->size - 1);
	for (const char *c = text; *c; c++)
		if (iscntrl((unsigned char)*c))
			return refuse(s, at, "%s has a control character in it", k->name);
	memset(into, 0, k->size);
	memcpy(into, text, strlen(text));
	return 0;
}

/* One that names something: not empty. */
static int path_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	int rc = text_read(s, k, at, into);

	return !rc && !*(char *)into ? refuse(s, at, "%s is empty", k->name) : rc;
}

/* A name becomes part of paths and of log lines. */
static int name_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	int rc = path_read(s, k, at, into);
	const char *name = into;

	if (rc)
		return rc;
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && (c == name || !strchr("._-", *c)))
			return refuse(s, at,
				      "%s \"%s\": letters, digits and, after the first, . _ - only",
				      k->name, name);
	return 0;
}

static int flag_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	if (config_setting_type(at) != CONFIG_TYPE_BOOL)
		return refuse(s, at, "%s must be true or false", k->name);
	*(bool *)into = config_setting_get_bool(at);
	return 0;
}

static int number_read(struct source *s, const struct key *k, config_setting_t *at, long long least,
		       long long most, long long *out)
{
	int type = config_setting_type(at);

	if (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64)
		return refuse(s, at, "%s must be a whole number", k->name);
	*out = config_setting_get_int64(at);
	if (*out < least || *out > most)
		return refuse(s, at, "%s is %lld; it must be %lld to %lld", k->name, *out, least,
			      most);
	return 0;
}

static int vcpus_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	long long v = 0;
	int rc = number_read(s, k, at, 1, VM_VCPUS_MAX, &v);

	*(unsigned *)into = (unsigned)v;
	return rc;
}

static int seed_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	long long v = 0;
	int rc = number_read(s, k, at, 0, INT64_MAX, &v);

	*(uint64_t *)into = (uint64_t)v;
	return rc;
}

/* "64M": digits and one of K, M, G, T, in powers of 1024. */
static bool bytes_parse(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*text))
		return false;
	for (; isdigit((unsigned char)*text); text++)
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return false;
	unit = *text ? strchr(units, *text) : NULL;
	if (!unit || text[1])
		return false;
	return !__builtin_mul_overflow(v, UINT64_C(1) << (10 * (unit - units + 1)), out);
}

static int bytes_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	const char *text = config_setting_get_string(at);

	if (!text || !bytes_parse(text, into))
		return refuse(s, at, "%s must be a size such as \"64M\" (K, M, G or T)", k->name);
	return 0;
}

static int disk_size_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	int rc = bytes_read(s, k, at, into);
	uint64_t size = *(uint64_t *)into;

	if (!rc && (!size || size > DISK_MOST))
		rc = refuse(s, at, "%s must be 1K to 1024T", k->name);
	return rc;
}

static int cache_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	const char *text = config_setting_get_string(at);

	if (!text || (strcmp(text, "writeback") && strcmp(text, "writethrough")))
		return refuse(s, at, "%s must be \"writeback\" or \"writethrough\"", k->name);
	*(bool *)into = !strcmp(text, "writethrough");
	return 0;
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Exactly "xx:xx:xx:xx:xx:xx". */
static bool mac_parse(const char *text, uint8_t mac[6])
{
	if (strlen(text) != 17)
		return false;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		int high = hex_digit(text[0]), low = hex_digit(text[1]);

		if (high < 0 || low < 0 || (i < 5 && text[2] != ':'))
			return false;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static int mac_read(struct source *s, const struct key *k, config_setting_t *at, void *into)
{
	static const uint8_t none[6];
	const char *text = config_setting_get_string(at);
	uint8_t *mac = into;

	if (!text || !mac_parse(text, mac))
		return refuse(s, at, "%s must be six octets as in \"52:54:00:12:34:56\"", k->name);
	if (mac[0] & 1 || !memcmp(mac, none, sizeof(none)))
		return refuse(s, at, "%s %s is no address of a single host", k->name, text);
	return 0;
}

/* ---- groups ------------------------------------------------------------------------ */

static const struct key *key_find(const struct key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (name && !strcmp(keys->name, name))
			return keys;
	return NULL;
}

static int group_read(struct source *s, const struct key *keys, config_setting_t *group,
		      const char *what, void *base)
{
	int rc = 0;

	for (int i = 0; !rc && i < config_setting_length(group); i++) {
		config_setting_t *at = config_setting_get_elem(group, (unsigned)i);
		const char *name = config_setting_name(at);
		const struct key *k = key_find(keys, name);

		rc = k ? k->read(s, k, at, (char *)base + k->offset)
		       : refuse(s, at, "there is no key \"%s\" in %s", name ? name : "?", what);
	}
	for (; !rc && keys->name; keys++)
		if (keys->required && !config_setting_get_member(group, keys->name))
			rc = refuse(s, group, "%s lacks %s", what, keys->name);
	return rc;
}

/* A list of groups: ( { ... }, { ... } ). */
static int list_check(struct source *s, const struct key *k, config_setting_t *list, int most)
{
	if (config_setting_type(list) != CONFIG_TYPE_LIST)
		return refuse(s, list, "%s must be a list of groups: ( { ... }, { ... } )",
			      k->name);
	if (config_setting_length(list) > most)
		return refuse(s, list, "%s has %d entries; at most %d are possible", k->name,
			      config_setting_length(list), most);
	for (int i = 0; i < config_setting_length(list); i++) {
		config_setting_t *at = config_setting_get_elem(list, (unsigned)i);

		if (config_setting_type(at) != CONFIG_TYPE_GROUP)
			return refuse(s, at, "each of %s must be a group: { key = value; }",
				      k->name);
	}
	return 0;
}

#define DISK(field) offsetof(struct disk_config, field), sizeof(((struct disk_config *)0)->field)
#define NIC(field)  offsetof(struct nic_config, field), sizeof(((struct nic_config *)0)->field)
#define VM(field)   offsetof(struct vm_config, field), sizeof(((struct vm_config *)0)->field)

static const struct key disk_keys[] = {
	{"path", path_read, DISK(path), true},
	{"readonly", flag_read, DISK(readonly), false},
	{"cache", cache_read, DISK(write_through), false},
	{"size", disk_size_read, DISK(create_size), false},
	{0},
};

static int disks_read(struct source *s, const struct key *k, config_setting_t *list, void *into)
{
	struct vm_config *c = into;
	int rc = list_check(s, k, list, VM_DISKS_MAX), count = config_setting_length(list);

	for (int i = 0; !rc && i < count; i++)
		rc = group_read(s, disk_keys, config_setting_get_elem(list, (unsigned)i), "a disk",
				&c->disks[i]);
	c->disk_count = rc ? 0 : (unsigned)count;
	return rc;
}

static const struct key nic_keys[] = {
	{"mac", mac_read, NIC(mac), false},
	{"tap", path_read, NIC(tap), false},
	{"bridge", path_read, NIC(bridge), false},
	{"socket", path_read, NIC(socket), false},
	{0},
};

static int nic_check(struct source *s, config_setting_t *at, struct nic_config *n)
{
	if (n->tap[0] && n->socket[0])
		return refuse(s, at, "a NIC has either a tap or a socket");
	if (n->bridge[0] && !n->tap[0])
		return refuse(s, at, "a NIC needs a tap to join a bridge");
	n->kind = n->tap[0] ? NIC_TAP : n->socket[0] ? NIC_STREAM : NIC_NONE;
	return 0;
}

static int nics_read(struct source *s, const struct key *k, config_setting_t *list, void *into)
{
	struct vm_config *c = into;
	int rc = list_check(s, k, list, VM_NICS_MAX), count = config_setting_length(list);

	for (int i = 0; !rc && i < count; i++) {
		config_setting_t *at = config_setting_get_elem(list, (unsigned)i);

		rc = group_read(s, nic_keys, at, "a NIC", &c->nics[i]);
		if (!rc)
			rc = nic_check(s, at, &c->nics[i]);
	}
	c->nic_count = rc ? 0 : (unsigned)count;
	return rc;
}

static const struct key vm_keys[] = {
	{"name", name_read, VM(name), true},
	{"memory", bytes_read, VM(memory), true},
	{"vcpus", vcpus_read, VM(vcpus), false},
	{"engine", name_read, VM(engine), false},
	{"cpu", name_read, VM(cpu), false},
	{"kernel", path_read, VM(kernel), false},
	{"initrd", path_read, VM(initrd), false},
	{"cmdline", text_read, VM(cmdline), false},
	{"disks", disks_read, 0, 0, false},
	{"nics", nics_read, 0, 0, false},
	{"seed", seed_read, VM(seed), false},
	{"hugepages", flag_read, VM(hugepages), false},
	{"crash_cores", path_read, VM(crash_cores), false},
	{0},
};

/* ---- the whole ------------------------------------------------------------------------ */

/* FNV-1a; only to spread default addresses. */
static uint32_t name_hash(const char *name)
{
	uint32_t h = UINT32_C(2166136261);

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * UINT32_C(16777619);
	return h;
}

/* From the name, so that both hosts of a pair derive the same. */
static void macs_default(struct vm_config *c)
{
	static const uint8_t none[6];
	uint32_t h = name_hash(c->name);

	for (unsigned i = 0; i < c->nic_count; i++) {
		const uint8_t mac[6] = {
			0x52, 0x54, 0x00, (uint8_t)(h >> 16), (uint8_t)(h >> 8), (uint8_t)(h + i)};

		if (!memcmp(c->nics[i].mac, none, sizeof(none)))
			memcpy(c->nics[i].mac, mac, sizeof(mac));
	}
}

static int macs_check(struct source *s, const config_setting_t *at, const struct vm_config *c)
{
	for (unsigned i = 0; i < c->nic_count; i++)
		for (unsigned k = 0; k < i; k++)
			if (!memcmp(c->nics[i].mac, c->nics[k].mac, sizeof(c->nics[i].mac)))
				return refuse(s, at, "NICs %u and %u have the same mac", k, i);
	return 0;
}

/* By name only: links and bind mounts are the administrator's business. */
static int disks_check(struct source *s, const config_setting_t *at, const struct vm_config *c)
{
	for (unsigned i = 0; i < c->disk_count; i++)
		for (unsigned k = 0; k < i; k++)
			if (!strcmp(c->disks[i].path, c->disks[k].path) &&
			    !(c->disks[i].readonly && c->disks[k].readonly))
				return refuse(s, at, "disks %u and %u have the same path", k, i);
	return 0;
}

static int memory_check(struct source *s, const config_setting_t *at, const struct vm_config *c)
{
	bool sim = !strcmp(c->engine, "sim");
	uint64_t least = sim ? SIM_LEAST : MEMORY_LEAST, align = sim ? SIM_ALIGN : MEMORY_ALIGN;

	if (c->memory < least || c->memory > MEMORY_MOST || c->memory % align)
		return refuse(s, at, "memory must be %lluK to 4T, in steps of %lluK",
			      (unsigned long long)least >> 10, (unsigned long long)align >> 10);
	if (sim && c->hugepages)
		return refuse(s, at, "engine sim takes no huge pages");
	return 0;
}

static int cpu_check(struct source *s, const config_setting_t *at, const struct vm_config *c)
{
	if (!at)
		return 0;
	if (strcmp(c->cpu, "host") && strcmp(c->cpu, "pollux-base"))
		return refuse(s, at, "cpu must be \"host\" or \"pollux-base\"");
	if (!strcmp(c->engine, "sim"))
		return refuse(s, at, "engine sim has no CPU");
	if (!strcmp(c->engine, "soft") && !strcmp(c->cpu, "host"))
		return refuse(s, at, "engine soft has the CPU \"pollux-base\"; \"host\" needs KVM");
	return 0;
}

static int whole_check(struct source *s, config_setting_t *root, struct vm_config *c)
{
	static const char *const engines[] = {"auto", "kvm", "soft", "sim"};
	config_setting_t *engine = config_setting_get_member(root, "engine");
	bool known = false;
	int rc;

	for (unsigned i = 0; i < ARRAY_LEN(engines); i++)
		known |= !strcmp(c->engine, engines[i]);
	if (!known)
		return refuse(s, engine ? engine : root,
			      "engine must be \"auto\", \"kvm\", \"soft\" or \"sim\"");
	rc = cpu_check(s, config_setting_get_member(root, "cpu"), c);
	if (!rc)
		rc = memory_check(s, config_setting_get_member(root, "memory"), c);
	if (!rc && !c->kernel[0] && strcmp(c->engine, "sim"))
		rc = refuse(s, root, "a vm lacks kernel");
	if (rc)
		return rc;
	macs_default(c);
	rc = macs_check(s, root, c);
	return rc ? rc : disks_check(s, root, c);
}

/* libconfig would open whatever file an @include names. */
static int includes_refuse(struct source *s, const char *text)
{
	unsigned line = 1;

	for (const char *at = text; *at; at++) {
		if (*at == '\n')
			line++;
		if (!strncmp(at, "@include", 8))
			return error_set(s->e, -EINVAL, "%s:%u: @include is not supported",
					 s->origin, line);
	}
	return 0;
}

static int text_parse(struct source *s, config_t *config, const char *text)
{
	if (config_read_string(config, text) == CONFIG_TRUE)
		return 0;
	return error_set(s->e, -EINVAL, "%s:%d: %s", s->origin, config_error_line(config),
			 config_error_text(config));
}

int vm_config_parse(const char *text, const char *origin, struct vm_config *out, struct error *e)
{
	struct source s = {.origin = origin, .e = e};
	struct vm_config c = {.vcpus = 1, .engine = "auto"};
	config_t config;
	int rc;

	if (strnlen(text, TEXT_MOST) == TEXT_MOST)
		return error_set(e, -EINVAL, "%s: a VM file has less than 1 MiB", origin);
	rc = includes_refuse(&s, text);
	if (rc)
		return rc;
	config_init(&config);
	rc = text_parse(&s, &config, text);
	if (!rc)
		rc = group_read(&s, vm_keys, config_root_setting(&config), "a vm", &c);
	if (!rc)
		rc = whole_check(&s, config_root_setting(&config), &c);
	config_destroy(&config);
	if (!rc)
		*out = c;
	return rc;
}

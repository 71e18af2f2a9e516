// SPDX-License-Identifier: Apache-2.0
#include "agent/agent.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a setting is being read, so that each message can say so. */
struct source {
	const char *origin;
	struct error *e;
};

typedef int setting_fn(struct source *s, config_setting_t *setting, void *target);

struct key {
	const char *name;
	size_t offset; /* in the struct that the group fills */
	size_t size;   /* of a string, with its final zero */
	long long least, most;
	setting_fn *read;
};

static int PRINTF(3, 4)
	refuse(struct source *s, const config_setting_t *setting, const char *fmt, ...)
{
	char text[384];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return error_set(s->e, -EINVAL, "%s:%u: %s", s->origin, config_setting_source_line(setting),
			 text);
}

static const char *setting_name(const config_setting_t *setting)
{
	const char *name = config_setting_name(setting);

	return name ? name : "(element)";
}

static int string_read(struct source *s, config_setting_t *setting, char *out, size_t size)
{
	const char *text = config_setting_get_string(setting);

	if (!text)
		return refuse(s, setting, "'%s' must be a string in quotes", setting_name(setting));
	if (strlen(text) >= size)
		return refuse(s, setting, "'%s' is longer than %zu bytes", setting_name(setting),
			      size - 1);
	for (const char *at = text; *at; at++)
		if (iscntrl((unsigned char)*at))
			return refuse(s, setting, "'%s' has a control character in it",
				      setting_name(setting));
	snprintf(out, size, "%s", text);
	return 0;
}

static int integer_read(struct source *s, config_setting_t *setting, long long least,
			long long most, long long *out)
{
	int type = config_setting_type(setting);
	long long v;

	if (type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64)
		return refuse(s, setting, "'%s' must be a whole number", setting_name(setting));
	v = config_setting_get_int64(setting);
	if (v < least || v > most)
		return refuse(s, setting, "'%s' is %lld; it must be %lld to %lld",
			      setting_name(setting), v, least, most);
	*out = v;
	return 0;
}

/* ---- kinds of values ------------------------------------------------------- */

static const struct key *key_find(const struct key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (name && !strcmp(keys->name, name))
			return keys;
	return NULL;
}

/* A key's reader gets the key itself by way of this pair. */
struct place {
	const struct key *key;
	void *base;
};

static void *place_target(const struct place *p)
{
	return (char *)p->base + p->key->offset;
}

static int text_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;

	return string_read(s, setting, place_target(p), p->key->size);
}

static int absolute_path_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;
	char *path = place_target(p);
	int rc = string_read(s, setting, path, p->key->size);

	if (!rc && path[0] != '/')
		rc = refuse(s, setting, "'%s' must be an absolute path, not '%s'",
			    setting_name(setting), path);
	return rc;
}

static bool name_ok(const char *name)
{
	if (!isalnum((unsigned char)name[0]))
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("-_.", *name))
			return false;
	return true;
}

static int name_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;
	char *name = place_target(p);
	int rc = string_read(s, setting, name, p->key->size);

	if (!rc && !name_ok(name))
		rc = refuse(s, setting,
			    "'%s' is not a host name: letters, digits, '-', '_' and '.' only",
			    name);
	return rc;
}

static int port_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;
	long long v = 0;
	int rc = integer_read(s, setting, 1, 65535, &v);

	if (!rc)
		*(uint16_t *)place_target(p) = (uint16_t)v;
	return rc;
}

static int milliseconds_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;
	long long v = 0;
	int rc = integer_read(s, setting, p->key->least, p->key->most, &v);

	if (!rc)
		*(uint64_t *)place_target(p) = (uint64_t)v * NS_PER_MS;
	return rc;
}

static int seconds_read(struct source *s, config_setting_t *setting, void *target)
{
	struct place *p = target;
	long long v = 0;
	int rc = integer_read(s, setting, p->key->least, p->key->most, &v);

	if (!rc)
		*(uint64_t *)place_target(p) = (uint64_t)v * NS_PER_SEC;
	return rc;
}

static int log_level_read(struct source *s, config_setting_t *setting, void *target)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {{"error", LOG_LEVEL_ERROR},
		      {"warning", LOG_LEVEL_WARN},
		      {"info", LOG_LEVEL_INFO},
		      {"debug", LOG_LEVEL_DEBUG}};
	char text[16];
	int rc = string_read(s, setting, text, sizeof(text));

	if (rc)
		return rc;
	for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
		if (strcmp(levels[i].name, text) != 0)
			continue;
		*(enum log_level *)place_target(target) = levels[i].level;
		return 0;
	}
	return refuse(s, setting, "log_level is '%s'; it must be error, warning, info or debug",
		      text);
}

/* ---- groups ---------------------------------------------------------------- */

static int group_read(struct source *s, config_setting_t *group, const struct key *keys, void *base)
{
	for (int i = 0; i < config_setting_length(group); i++) {
		config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
		const struct key *key = key_find(keys, config_setting_name(setting));
		struct place p = {.key = key, .base = base};
		int rc;

		if (!key)
			return refuse(s, setting, "unknown key '%s'", setting_name(setting));
		rc = key->read(s, setting, &p);
		if (rc)
			return rc;
	}
	return 0;
}

/* A value of the fence's options, as text: fence agents know no other type. */
static int option_value(struct source *s, config_setting_t *setting, char *out, size_t size)
{
	switch (config_setting_type(setting)) {
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		snprintf(out, size, "%lld", config_setting_get_int64(setting));
		return 0;
	case CONFIG_TYPE_BOOL:
		snprintf(out, size, "%d", config_setting_get_bool(setting));
		return 0;
	default:
		return string_read(s, setting, out, size);
	}
}

static int options_read(struct source *s, config_setting_t *setting, void *target)
{
	struct fence_config *f = ((struct place *)target)->base;

	if (!config_setting_is_group(setting))
		return refuse(s, setting, "'options' must be a group: { key = \"value\"; }");
	for (int i = 0; i < config_setting_length(setting); i++) {
		config_setting_t *option = config_setting_get_elem(setting, (unsigned)i);
		const char *key = config_setting_name(option);
		struct fence_option *o = &f->options[f->option_count];
		int rc;

		if (f->option_count == FENCE_OPTIONS_MAX)
			return refuse(s, option, "more than %d options", FENCE_OPTIONS_MAX);
		if (!strcmp(key, "action"))
			return refuse(s, option, "the option 'action' is set by polluxd itself");
		if (strlen(key) >= sizeof(o->key))
			return refuse(s, option, "the name of the option is too long");
		snprintf(o->key, sizeof(o->key), "%s", key);
		rc = option_value(s, option, o->value, sizeof(o->value));
		if (rc)
			return rc;
		f->option_count++;
	}
	return 0;
}

static const struct key fence_keys[] = {
	{"command", offsetof(struct fence_config, command),
	 sizeof(((struct fence_config *)0)->command), 0, 0, absolute_path_read},
	{"options", 0, 0, 0, 0, options_read},
	{"timeout_s", offsetof(struct fence_config, timeout_ns), 0, 1, 3600, seconds_read},
	{0},
};

static int fence_read(struct source *s, config_setting_t *setting, void *target)
{
	struct fence_config *f = place_target(target);
	int rc;

	if (!config_setting_is_group(setting))
		return refuse(s, setting, "'fence' must be a group: { command = \"/path\"; }");
	rc = group_read(s, setting, fence_keys, f);
	if (!rc && !f->command[0])
		rc = refuse(s, setting, "'fence' has no 'command'");
	return rc;
}

#define PEER_TEXT(field)                                                                           \
	offsetof(struct peer_config, field), sizeof(((struct peer_config *)0)->field), 0, 0
static const struct key peer_keys[] = {
	{"name", PEER_TEXT(name), name_read},
	{"address", PEER_TEXT(address), text_read},
	{"port", PEER_TEXT(port), port_read},
	{"fence", offsetof(struct peer_config, fence), 0, 0, 0, fence_read},
	{0},
};

static int peer_check(struct source *s, config_setting_t *setting, const struct agent_config *c,
		      const struct peer_config *p)
{
	if (!p->name[0])
		return refuse(s, setting, "a peer has no 'name'");
	if (!p->address[0])
		return refuse(s, setting, "the peer '%s' has no 'address'", p->name);
	for (unsigned i = 0; i < c->peer_count; i++)
		if (!strcmp(c->peers[i].name, p->name))
			return refuse(s, setting, "the peer '%s' is there twice", p->name);
	return 0;
}

static int peers_read(struct source *s, config_setting_t *setting, void *target)
{
	struct agent_config *c = ((struct place *)target)->base;

	if (!config_setting_is_list(setting))
		return refuse(s, setting, "'peers' must be a list: ( { name = \"...\"; }, ... )");
	for (int i = 0; i < config_setting_length(setting); i++) {
		config_setting_t *group = config_setting_get_elem(setting, (unsigned)i);
		struct peer_config *p = &c->peers[c->peer_count];
		int rc;

		if (c->peer_count == AGENT_PEERS_MAX)
			return refuse(s, group, "more than %d peers", AGENT_PEERS_MAX);
		if (!config_setting_is_group(group))
			return refuse(s, group, "a peer must be a group: { name = \"...\"; }");
		*p = (struct peer_config){.port = AGENT_PORT,
					  .fence = {.timeout_ns = 30 * NS_PER_SEC}};
		rc = group_read(s, group, peer_keys, p);
		if (!rc)
			rc = peer_check(s, group, c, p);
		if (rc)
			return rc;
		c->peer_count++;
	}
	return 0;
}

#define TOP_TEXT(field)                                                                            \
	offsetof(struct agent_config, field), sizeof(((struct agent_config *)0)->field), 0, 0
static const struct key top_keys[] = {
	{"name", TOP_TEXT(name), name_read},
	{"address", TOP_TEXT(address), text_read},
	{"port", TOP_TEXT(port), port_read},
	{"state_dir", TOP_TEXT(state_dir), absolute_path_read},
	{"run_dir", TOP_TEXT(run_dir), absolute_path_read},
	{"vm_program", TOP_TEXT(vm_program), absolute_path_read},
	{"ca", TOP_TEXT(ca), absolute_path_read},
	{"cert", TOP_TEXT(cert), absolute_path_read},
	{"key", TOP_TEXT(key), absolute_path_read},
	{"heartbeat_ms", offsetof(struct agent_config, heartbeat_ns), 0, 5, 10000,
	 milliseconds_read},
	{"loss_ms", offsetof(struct agent_config, loss_ns), 0, 20, 60000, milliseconds_read},
	{"fence_delay_ms", offsetof(struct agent_config, fence_delay_ns), 0, 0, 60000,
	 milliseconds_read},
	{"protect_again_s", offsetof(struct agent_config, protect_again_ns), 0, 0, 3600,
	 seconds_read},
	{"log_level", offsetof(struct agent_config, log_level), 0, 0, 0, log_level_read},
	{"peers", 0, 0, 0, 0, peers_read},
	{0},
};

static void defaults(struct agent_config *c)
{
	*c = (struct agent_config){
		.port = AGENT_PORT,
		.state_dir = "/var/lib/pollux",
		.run_dir = "/run/pollux",
		.heartbeat_ns = 25 * NS_PER_MS,
		.loss_ns = 150 * NS_PER_MS,
		.fence_delay_ns = 0,
		.protect_again_ns = 60 * NS_PER_SEC,
		.log_level = LOG_LEVEL_INFO,
	};
}

static int whole_check(const char *origin, const struct agent_config *c, struct error *e)
{
	if (!c->name[0])
		return error_set(e, -EINVAL, "%s: there is no 'name': the name of this host",
				 origin);
	if (c->loss_ns < 2 * c->heartbeat_ns)
		return error_set(e, -EINVAL,
				 "%s: loss_ms is less than twice heartbeat_ms: one late heartbeat "
				 "would be a loss",
				 origin);
	for (unsigned i = 0; i < c->peer_count; i++)
		if (!strcmp(c->peers[i].name, c->name))
			return error_set(e, -EINVAL, "%s: the peer '%s' is this host itself",
					 origin, c->name);
	if (c->peer_count && (!c->ca[0] || !c->cert[0] || !c->key[0]))
		return error_set(e, -EINVAL,
				 "%s: peers need certificates: set ca, cert and key (make them "
				 "with 'pollux pki')",
				 origin);
	return 0;
}

/* libconfig would open whatever file an @include names. */
static int includes_refuse(const char *text, const char *origin, struct error *e)
{
	unsigned line = 1;

	for (const char *at = text; *at; line++) {
		const char *word = at + strspn(at, " \t");

		if (!strncmp(word, "@include", 8))
			return error_set(e, -EINVAL, "%s:%u: @include is not supported", origin,
					 line);
		at += strcspn(at, "\n");
		at += *at == '\n';
	}
	return 0;
}

int agent_config_parse(const char *text, const char *origin, struct agent_config *out,
		       struct error *e)
{
	struct source s = {.origin = origin, .e = e};
	config_t config;
	int rc;

	rc = includes_refuse(text, origin, e);
	if (rc)
		return rc;
	defaults(out);
	config_init(&config);
	if (config_read_string(&config, text))
		rc = group_read(&s, config_root_setting(&config), top_keys, out);
	else
		rc = error_set(e, -EINVAL, "%s:%d: %s", origin, config_error_line(&config),
			       config_error_text(&config));
	config_destroy(&config);
	return rc ? rc : whole_check(origin, out, e);
}

int agent_config_load(const char *path, struct agent_config *out, struct error *e)
{
	struct buf text = {0};
	int rc;

	rc = file_read(path, AGENT_CONFIG_TEXT_MAX, &text, e);
	if (rc)
		goto out_text;
	if (memchr(text.data ? (char *)text.data : "", '\0', text.len)) {
		rc = error_set(e, -EINVAL, "%s: there is a zero byte in it", path);
		goto out_text;
	}
	buf_put_u8(&text, 0);
	rc = buf_check(&text);
	if (rc)
		goto out_text;
	rc = agent_config_parse((char *)text.data, path, out, e);
out_text:
	buf_free(&text);
	return rc;
}

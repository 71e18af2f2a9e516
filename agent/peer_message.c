// SPDX-License-Identifier: Apache-2.0
#include "agent/peer_message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/json_text.h"

#define TOOK_MOST_NS (UINT64_C(3600) * NS_PER_SEC)

/* ---- fields: a table says where each goes and what it may be ---------------------- */

enum field_type { FIELD_NAME, FIELD_NUMBER, FIELD_BOOL };
struct field {
	const char *key;
	enum field_type type;
	size_t offset, size;
	unsigned least, most;
	const char *const *values; /* FIELD_NAME: one of these */
};

static const char *const modes[] = {"interval", "event", NULL};
static const char *const policies[] = {"continue", "stall", NULL};
static const char *const compressions[] = {"auto", "none", "lz4", "zlib", NULL};

#define AT(s, f) offsetof(struct s, f), sizeof(((struct s *)0)->f)
static const struct field option_fields[] = {
	{"mode", FIELD_NAME, AT(protect_options, mode), 0, 0, modes},
	{"policy", FIELD_NAME, AT(protect_options, policy), 0, 0, policies},
	{"compression", FIELD_NAME, AT(protect_options, compression), 0, 0, compressions},
	{"interval_ms", FIELD_NUMBER, AT(protect_options, interval_ms), 1, 60000, NULL},
	{"streams", FIELD_NUMBER, AT(protect_options, streams), 1, CHANNEL_STREAMS_MAX - 1, NULL},
	{"window", FIELD_NUMBER, AT(protect_options, window), 1, 64, NULL},
	{"delta_mb", FIELD_NUMBER, AT(protect_options, delta_mb), 1, 1u << 20, NULL},
	{"overwrite", FIELD_BOOL, AT(protect_options, overwrite), 0, 0, NULL},
	{0},
};
static const char *const storages[] = {"mirror", "shared", NULL};
static const struct field session_fields[] = {
	{"handover", FIELD_BOOL, AT(protect_options, handover), 0, 0, NULL},
	{"storage", FIELD_NAME, AT(protect_options, storage), 0, 0, storages},
	{"shared_disks", FIELD_NUMBER, AT(protect_options, shared_disks), 1, VM_DISKS_ALL, NULL},
	{0},
};

static int name_take(const struct field *f, const json_t *v, char *out, struct error *e)
{
	char list[64] = "";
	size_t used = 0;

	for (const char *const *value = f->values; *value; value++) {
		if (!json_is_string(v) || strcmp(*value, json_string_value(v)) != 0)
			continue;
		snprintf(out, f->size, "%s", *value);
		return 0;
	}
	for (const char *const *value = f->values; *value && used < sizeof(list); value++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
					 *value);
	return error_set(e, -EINVAL, "\"%s\" must be one of: %s", f->key, list);
}

static int field_take(const struct field *f, const json_t *v, void *base, struct error *e)
{
	char *at = (char *)base + f->offset;
	json_int_t n = json_integer_value(v);

	if (f->type == FIELD_NAME)
		return name_take(f, v, at, e);
	if (f->type == FIELD_BOOL) {
		if (!json_is_boolean(v))
			return error_set(e, -EINVAL, "\"%s\" must be true or false", f->key);
		*(bool *)at = json_is_true(v);
		return 0;
	}
	if (!json_is_integer(v) || n < f->least || n > f->most)
		return error_set(e, -EINVAL, "\"%s\" must be a whole number from %u to %u", f->key,
				 f->least, f->most);
	*(unsigned *)at = (unsigned)n;
	return 0;
}

static const struct field *field_find(const struct field *fields, const char *key)
{
	for (; fields->key; fields++)
		if (!strcmp(fields->key, key))
			return fields;
	return NULL;
}

static int fields_take(const json_t *o, const struct field *fields, bool strict, void *base,
		       struct error *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)o, key, v)
	{
		const struct field *f = field_find(fields, key);
		int rc = 0;

		if (f)
			rc = field_take(f, v, base, e);
		else if (strict)
			rc = error_set(e, -EINVAL, "unknown key \"%.64s\"", key);
		if (rc)
			return rc;
	}
	return 0;
}

int protect_options_parse(const json_t *o, bool strict, struct protect_options *out,
			  struct error *e)
{
	int rc;

	*out = (struct protect_options){.mode = "event", .policy = "continue"};
	rc = fields_take(o, option_fields, strict, out, e);
	/* It is what is done when nothing is said, and older ones do not know the word. */
	if (!strcmp(out->compression, "auto"))
		out->compression[0] = '\0';
	return rc;
}

static void fields_put(json_t *json, const struct field *fields, const struct protect_options *p)
{
	for (const struct field *f = fields; f->key; f++) {
		const char *at = (const char *)p + f->offset;

		if (f->type == FIELD_NAME && *at)
			json_object_set_new(json, f->key, json_string(at));
		else if (f->type == FIELD_NUMBER && *(const unsigned *)at)
			json_object_set_new(json, f->key, json_integer(*(const unsigned *)at));
		else if (f->type == FIELD_BOOL)
			json_object_set_new(json, f->key, json_boolean(*(const bool *)at));
	}
}

static void options_put(json_t *json, const struct protect_options *p)
{
	fields_put(json, option_fields, p);
	fields_put(json, session_fields, p);
}

json_t *session_options_json(const struct protect_options *p)
{
	json_t *json = json_object();

	if (json)
		options_put(json, p);
	return json;
}

int session_options_parse(const json_t *o, struct protect_options *out, struct error *e)
{
	int rc = protect_options_parse(o, false, out, e);

	return rc ? rc : fields_take(o, session_fields, false, out, e);
}

unsigned session_disks_shared(const struct protect_options *p)
{
	return strcmp(p->storage, "shared") ? p->shared_disks : VM_DISKS_ALL;
}

unsigned session_disks_copied(const struct protect_options *p)
{
	return VM_DISKS_ALL & ~session_disks_shared(p);
}

void session_wipe(struct session *s)
{
	explicit_bzero(s, sizeof(*s));
}

void session_key_wipe(struct session *s)
{
	explicit_bzero(s->key, sizeof(s->key));
}

/* ---- offers ------------------------------------------------------------------------- */

void offer_free(struct offer *o)
{
	if (!o)
		return;
	session_wipe(&o->session);
	free(o->config);
	free(o->origin);
	free(o);
}

static json_t *disks_json(const struct offer *o)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < o->disk_count; i++) {
		const struct offered_disk *d = &o->disks[i];

		json_array_append_new(
			list, json_pack("{s:o, s:I, s:b, s:o*}", "path", json_text(d->path), "size",
					(json_int_t)d->size, "readonly", d->readonly, "wwid",
					*d->wwid ? json_text(d->wwid) : NULL));
	}
	return list;
}

static json_t *then_json(const struct offer *o)
{
	json_t *json = json_pack("{s:s}", "to", o->then_to);

	if (json)
		fields_put(json, option_fields, &o->then);
	return json;
}

json_t *offer_json(const struct offer *o)
{
	char id[2 * SESSION_ID_SIZE + 1], key[2 * SESSION_KEY_SIZE + 1];
	json_t *json;

	hex_encode(o->session.id, SESSION_ID_SIZE, id);
	hex_encode(o->session.key, SESSION_KEY_SIZE, key);
	json = json_pack("{s:s, s:s, s:i, s:i, s:o, s:o, s:o}", "session", id, "key", key,
			 "heartbeat_ms", (int)o->session.heartbeat_ms, "loss_ms",
			 (int)o->session.loss_ms, "config", json_text(o->config), "origin",
			 json_text(o->origin), "disks", disks_json(o));
	explicit_bzero(key, sizeof(key));
	if (json)
		options_put(json, &o->session.options);
	if (json && o->then_to[0])
		json_object_set_new(json, "then", then_json(o));
	return json;
}

static int text_take(const json_t *json, const char *key, size_t most, char **out, struct error *e)
{
	const json_t *v = json_object_get(json, key);

	if (!json_is_string(v) || json_string_length(v) > most ||
	    strlen(json_string_value(v)) != json_string_length(v))
		return error_set(e, -EBADMSG, "\"%s\" is not a text of at most %zu bytes", key,
				 most);
	*out = strdup(json_string_value(v));
	return *out ? 0 : error_set(e, -ENOMEM, "out of memory");
}

static int disk_take(const json_t *json, struct offered_disk *out, struct error *e)
{
	const char *path = json_text_of(json, "path"), *wwid = json_text_of(json, "wwid");
	json_int_t size = json_integer_of(json, "size", -1);

	if (path[0] != '/' || strlen(path) >= sizeof(out->path) || size < 0 || size % 512 ||
	    !json_is_boolean(json_object_get(json, "readonly")) ||
	    strlen(wwid) >= sizeof(out->wwid) || (json_object_get(json, "wwid") && !*wwid))
		return error_set(e, -EBADMSG, "an offered disk is not described as it should be");
	snprintf(out->wwid, sizeof(out->wwid), "%s", wwid);
	snprintf(out->path, sizeof(out->path), "%s", path);
	out->size = (uint64_t)size;
	out->readonly = json_is_true(json_object_get(json, "readonly"));
	return 0;
}

static int disks_take(const json_t *list, struct offer *out, struct error *e)
{
	if (!json_is_array(list) || json_array_size(list) > VM_DISKS_MAX)
		return error_set(e, -EBADMSG, "\"disks\" is not a list of at most %d",
				 VM_DISKS_MAX);
	for (size_t i = 0; i < json_array_size(list); i++) {
		int rc = disk_take(json_array_get(list, i), &out->disks[i], e);

		if (rc)
			return rc;
	}
	out->disk_count = (unsigned)json_array_size(list);
	return 0;
}

static int times_take(const json_t *json, struct session *out, struct error *e)
{
	json_int_t heartbeat = json_integer_of(json, "heartbeat_ms", 0);
	json_int_t loss = json_integer_of(json, "loss_ms", 0);

	if (heartbeat < 1 || loss < 10 || heartbeat > 60000 || loss > 600000 ||
	    loss < 2 * heartbeat)
		return error_set(e, -EBADMSG, "\"heartbeat_ms\" and \"loss_ms\" do not fit");
	out->heartbeat_ms = (unsigned)heartbeat;
	out->loss_ms = (unsigned)loss;
	return 0;
}

static int then_take(const json_t *json, struct offer *o, struct error *e)
{
	const char *to = json_text_of(json, "to");

	if (!json)
		return 0;
	if (!json_is_object(json) || !*to || strlen(to) > AGENT_NAME_MAX)
		return error_set(e, -EBADMSG, "what is to follow the migration is not understood");
	snprintf(o->then_to, sizeof(o->then_to), "%s", to);
	return protect_options_parse(json, false, &o->then, e);
}

static int offer_take(const json_t *json, struct offer *o, struct error *e)
{
	int rc;

	if (!json_is_object(json))
		return error_set(e, -EBADMSG, "the offer is not there");
	if (hex_decode(json_text_of(json, "session"), o->session.id, SESSION_ID_SIZE) ||
	    hex_decode(json_text_of(json, "key"), o->session.key, SESSION_KEY_SIZE))
		return error_set(e, -EBADMSG, "the offer has no session or no key");
	rc = session_options_parse(json, &o->session.options, e);
	if (!rc)
		rc = then_take(json_object_get(json, "then"), o, e);
	if (!rc)
		rc = times_take(json, &o->session, e);
	if (!rc)
		rc = disks_take(json_object_get(json, "disks"), o, e);
	if (!rc)
		rc = text_take(json, "config", OFFER_CONFIG_MAX, &o->config, e);
	if (!rc)
		rc = text_take(json, "origin", 4096, &o->origin, e);
	return rc;
}

int offer_parse(const json_t *json, struct offer **out, struct error *e)
{
	struct offer *o = calloc(1, sizeof(*o));
	int rc;

	if (!o)
		return error_set(e, -ENOMEM, "out of memory");
	rc = offer_take(json, o, e);
	if (rc)
		offer_free(o);
	else
		*out = o;
	return rc;
}

/* ---- words ----------------------------------------------------------------------------- */

static int word_find(const char *name, enum ownership_word *out)
{
	for (int i = 0; i < WORD_COUNT; i++) {
		if (strcmp(ownership_word_name((enum ownership_word)i), name) != 0)
			continue;
		*out = (enum ownership_word)i;
		return 0;
	}
	return -EBADMSG;
}

bool vm_identity_ok(const char *text)
{
	uint8_t bytes[VM_IDENTITY_LEN / 2];

	return !hex_decode(text, bytes, sizeof(bytes));
}

json_t *word_took_json(const struct word_took *t)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "all_ns", (json_int_t)t->all, "load_ns",
			 (json_int_t)t->load, "store_ns", (json_int_t)t->store, "start_ns",
			 (json_int_t)t->start);
}

static uint64_t took_parse(const json_t *o, const char *key)
{
	json_int_t n = json_integer_of(o, key, 0);

	return n > 0 && (uint64_t)n < TOOK_MOST_NS ? (uint64_t)n : 0;
}

int word_parse(const json_t *message, struct word *out, struct error *e)
{
	const char *vm = json_text_of(message, "vm");
	const json_t *took = json_object_get(message, "took");
	json_int_t term = json_integer_of(message, "term", 0);

	*out = (struct word){0};
	if (!*vm || strlen(vm) > VM_NAME_MAX)
		return error_set(e, -EBADMSG, "a word without the name of a VM");
	if (word_find(json_text_of(message, "word"), &out->word))
		return error_set(e, -EBADMSG, "unknown word \"%.32s\"",
				 json_text_of(message, "word"));
	if (term <= 0)
		return error_set(e, -EBADMSG, "a word without a term");
	if (json_object_get(message, "identity") &&
	    !vm_identity_ok(json_text_of(message, "identity")))
		return error_set(e, -EBADMSG, "a word with a faulty identity");
	snprintf(out->vm, sizeof(out->vm), "%s", vm);
	snprintf(out->identity, sizeof(out->identity), "%s", json_text_of(message, "identity"));
	snprintf(out->why, sizeof(out->why), "%.255s", json_text_of(message, "why"));
	out->term = (uint64_t)term;
	out->can_fence = json_is_true(json_object_get(message, "can_fence"));
	out->took = (struct word_took){took_parse(took, "all_ns"), took_parse(took, "load_ns"),
				       took_parse(took, "store_ns"), took_parse(took, "start_ns")};
	if (out->word != WORD_OFFER)
		return 0;
	return offer_parse(json_object_get(message, "offer"), &out->offer, e);
}

// SPDX-License-Identifier: Apache-2.0
/* What must outlive polluxd and the host: state_dir/vms/NAME.json, one for each VM
 * that this host has ever had a term for. It is never deleted: a forgotten term could
 * come back as a second owner. (It keeps the name that it had when it was nothing but JSON: an
 * older polluxd that finds it refuses to start, and forgets no term.) */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE     "store"
#define RECORD_OLDEST  1 /* read: this one and all up to */
#define RECORD_VERSION 1

static void record_path(const struct agent *a, const char *name, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%s/vms/%s.json", a->config.state_dir, name);
}

int guest_config_set(struct guest *g, const char *text, const char *origin)
{
	char *new_text = strdup(text), *new_origin = strdup(origin);

	if (!new_text || !new_origin) {
		free(new_text);
		free(new_origin);
		return -ENOMEM;
	}
	free(g->config);
	free(g->origin);
	g->config = new_text;
	g->origin = new_origin;
	return 0;
}

int guest_config_parse(const char *text, const char *origin, struct vm_config **out,
		       struct error *e)
{
	struct vm_config *c = malloc(sizeof(*c));
	int rc;

	*out = NULL;
	if (!c)
		return error_set(e, -ENOMEM, "out of memory");
	rc = vm_config_parse(text, origin, c, e);
	if (rc)
		free(c);
	else
		*out = c;
	return rc;
}

static json_t *protect_on_json(const struct protect_again *again)
{
	json_t *o = session_options_json(&again->options);

	if (o)
		json_object_set_new(o, "to", json_string(again->peer));
	return o;
}

static json_t *migration_json(const struct migration *m)
{
	return json_pack("{s:O*, s:I}", "wishes", m->wishes, "began_ns", (json_int_t)m->began_ns);
}

/* What is under way, for a polluxd that comes after this one to go on with. */
static int operation_put(const struct guest *g, const struct ownership_record *record, json_t *o)
{
	bool session = (record->role == ROLE_PRIMARY || record->role == ROLE_RELEASED) &&
		       g->session.term == record->term;
	bool moves = (session && g->session.options.handover) || g->serving;
	bool runs = record->role == ROLE_OWNER || record->role == ROLE_PRIMARY ||
		    record->role == ROLE_RELEASED;
	struct protect_again owed;

	if (session && json_object_set_new(o, "session", session_options_json(&g->session.options)))
		return -ENOMEM;
	if (moves && json_object_set_new(o, "migration", migration_json(&g->migration)))
		return -ENOMEM;
	if (runs && guest_again_owed(g, &owed) &&
	    json_object_set_new(o, "protect_on", protect_on_json(&owed)))
		return -ENOMEM;
	return 0;
}

static json_t *record_json(const struct guest *g, const struct ownership_record *record)
{
	/* "copy" is for an older polluxd: it may write over all of them, or none. */
	json_t *o =
		json_pack("{s:i, s:s, s:I, s:s, s:s, s:b, s:i, s:b, s:I}", "version",
			  RECORD_VERSION, "name", g->name, "term", (json_int_t)record->term, "role",
			  ownership_role_name(record->role), "peer", g->peer, "copy",
			  g->copies == VM_DISKS_ALL, "copies", (int)g->copies, "continue_alone",
			  g->own.config.continue_alone, "disks_term", (json_int_t)g->disks_term);

	if (o && g->config &&
	    (json_object_set_new(o, "config", json_text(g->config)) ||
	     json_object_set_new(o, "origin", json_text(g->origin)))) {
		json_decref(o);
		return NULL;
	}
	if (o && operation_put(g, record, o)) {
		json_decref(o);
		return NULL;
	}
	if (o && g->serving && json_object_set_new(o, "serving", json_true())) {
		json_decref(o);
		return NULL;
	}
	if (o && g->torn && json_object_set_new(o, "torn", json_text(g->torn))) {
		json_decref(o);
		return NULL;
	}
	if (o && g->saved && json_object_set_new(o, "saved", json_text(g->saved))) {
		json_decref(o);
		return NULL;
	}
	if (o && g->identity[0] && json_object_set_new(o, "identity", json_string(g->identity))) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static void store_time_note(struct guest *g, uint64_t ns)
{
	uint64_t *mean = &g->agent->store_ns;

	g->store_ns = ns;
	*mean = *mean ? (3 * *mean + ns) / 4 : ns;
}

int guest_store(struct guest *g, const struct ownership_record *record, struct error *e)
{
	uint64_t began = clock_ns();
	json_t *o = record_json(g, record);
	char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	char path[PATH_MAX];
	int rc = -ENOMEM;

	record_path(g->agent, g->name, path);
	if (text)
		rc = fault_point("guest.store");
	if (!rc)
		rc = record_file_store(&g->record_file, path, text, strlen(text), e);
	if (rc)
		error_set(e, rc, "cannot store %s: %s", path, strerror(-rc));
	else
		store_time_note(g, clock_ns() - began);
	free(text);
	json_decref(o);
	return rc;
}

/* ---- reading ---------------------------------------------------------------------- */

static int role_parse(const char *text, enum ownership_role *out)
{
	for (int i = 0; i < ROLE_COUNT; i++) {
		if (strcmp(ownership_role_name((enum ownership_role)i), text) != 0)
			continue;
		*out = (enum ownership_role)i;
		return 0;
	}
	return -EBADMSG;
}

static bool record_types_ok(const json_t *o)
{
	const json_t *config = json_object_get(o, "config");
	const json_t *origin = json_object_get(o, "origin");
	const char *identity = json_text_of(o, "identity");

	return json_is_string(json_object_get(o, "name")) && json_integer_of(o, "term", -1) >= 0 &&
	       json_is_string(json_object_get(o, "role")) &&
	       json_is_string(json_object_get(o, "peer")) &&
	       strlen(json_text_of(o, "peer")) <= AGENT_NAME_MAX &&
	       (!*identity || vm_identity_ok(identity)) &&
	       (!config || (json_is_string(config) && json_is_string(origin)));
}

/* An older or a newer polluxd may have written it otherwise: then it is not known. */
static void operation_take(const json_t *o, struct guest *g, uint64_t term)
{
	const json_t *session = json_object_get(o, "session");
	const json_t *migration = json_object_get(o, "migration");
	const json_t *protect_on = json_object_get(o, "protect_on");
	struct error e = {0};

	if (session && !session_options_parse(session, &g->session.options, &e))
		g->session.term = term;
	if (migration) {
		g->migration.wishes = json_incref(json_object_get(migration, "wishes"));
		g->migration.began_ns = (uint64_t)json_integer_of(migration, "began_ns", 0);
	}
	if (protect_on && !session_options_parse(protect_on, &g->again.options, &e)) {
		g->again.wanted = g->again.owed = true;
		snprintf(g->again.peer, sizeof(g->again.peer), "%s",
			 json_text_of(protect_on, "to"));
	}
	if (e.code)
		log_warn("%s: what was under way is not known: %s", g->name, e.text);
}

/* An older record tells of all disks at once. */
static unsigned copies_of(const json_t *o)
{
	bool all = json_is_true(json_object_get(o, "copy"));
	json_int_t bits = json_integer_of(o, "copies", all ? VM_DISKS_ALL : 0);

	return bits > 0 && bits <= VM_DISKS_ALL ? (unsigned)bits : 0;
}

static int record_take(const json_t *o, struct guest *g, struct ownership_record *record)
{
	int rc;

	if (!record_types_ok(o) || strcmp(json_text_of(o, "name"), g->name) != 0)
		return -EBADMSG;
	record->term = (uint64_t)json_integer_of(o, "term", 0);
	rc = role_parse(json_text_of(o, "role"), &record->role);
	if (rc || !ownership_record_valid(record))
		return -EBADMSG;
	if (json_object_get(o, "config"))
		rc = guest_config_set(g, json_text_of(o, "config"), json_text_of(o, "origin"));
	if (rc)
		return rc;
	if (*json_text_of(o, "saved") && !(g->saved = strdup(json_text_of(o, "saved"))))
		return -ENOMEM;
	if (*json_text_of(o, "torn") && !(g->torn = strdup(json_text_of(o, "torn"))))
		return -ENOMEM;
	g->disks_term = (uint64_t)json_integer_of(o, "disks_term", (json_int_t)record->term);
	snprintf(g->peer, sizeof(g->peer), "%s", json_text_of(o, "peer"));
	snprintf(g->identity, sizeof(g->identity), "%s", json_text_of(o, "identity"));
	g->copies = copies_of(o);
	/* Who has a role again has nothing of an older copy to serve. */
	g->serving = record->role == ROLE_NONE && json_is_true(json_object_get(o, "serving"));
	g->own.config.continue_alone = !json_is_false(json_object_get(o, "continue_alone"));
	operation_take(o, g, record->term);
	return 0;
}

static int record_version_check(const json_t *o, struct error *e)
{
	json_int_t version = json_integer_of(o, "version", 0);

	if (version_within((uint64_t)version, RECORD_OLDEST, RECORD_VERSION))
		return 0;
	return error_set(e, -EPROTONOSUPPORT,
			 "a VM's record of version %lld, this program reads %d to %d",
			 (long long)version, RECORD_OLDEST, RECORD_VERSION);
}

int guest_record_parse(const char *text, size_t n, struct guest *g, struct ownership_record *record,
		       struct error *e)
{
	json_error_t je;
	json_t *o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	int rc;

	if (!o)
		return error_set(e, -EBADMSG, "line %d: %s", je.line, je.text);
	rc = record_version_check(o, e);
	if (!rc)
		rc = record_take(o, g, record);
	json_decref(o);
	/* The first sentence stays. */
	return rc ? error_set(e, rc, "%s", rc == -ENOMEM ? "out of memory" : "not a VM's record")
		  : 0;
}

/* What was under way in a process that has ended since is over. */
static void operation_found(struct guest *g, bool alive)
{
	if (!alive) {
		g->again = (struct protect_again){0};
		session_wipe(&g->session);
	}
	/* It stores the record: with nothing in it that is over. */
	if (g->serving && !g->child)
		guest_serving_lost(g, "polluxd was away meanwhile");
	if (!alive && !g->serving)
		guest_migration_free(g);
	if (g->session.options.handover)
		guest_migration_found(g);
	guest_again_found(g);
}

static int record_load(struct agent *a, const char *name, struct error *e)
{
	struct ownership_record record = {0};
	struct buf text = {0};
	char path[PATH_MAX];
	struct guest *g;
	bool alive;
	int rc;

	record_path(a, name, path);
	rc = record_file_read(path, &text, e);
	if (!rc)
		rc = guest_create(a, name, &g, e);
	if (!rc) {
		rc = guest_record_parse((char *)text.data, text.len, g, &record, e);
		if (rc)
			error_context(e,
				      "%s is damaged, or of another version; restore it, for "
				      "without its term this host must not run the VM",
				      path);
	}
	buf_free(&text);
	if (rc)
		return rc;
	rc = guest_vm_attach(g, &alive, e);
	if (rc)
		return rc;
	guest_peer_set(g, g->peer);
	guest_feed(g, &(struct ownership_input){
			      .type = OWN_EV_START, .record = record, .alive = alive});
	operation_found(g, alive);
	if (g->saved)
		guest_image_finish(g);
	/* Nobody but this host has ever held this VM: there is nobody to ask. */
	if (!g->peer[0] && g->own.state == OWN_UNSURE)
		guest_feed(g, &(struct ownership_input){.type = OWN_EV_WORD,
							.word = WORD_DROPPED,
							.term = g->own.record.term});
	return 0;
}

int guests_load(struct agent *a, struct error *e)
{
	char folder[PATH_MAX], name[VM_NAME_MAX + 1];
	struct dirent *entry;
	DIR *dir;
	int rc = 0;

	snprintf(folder, sizeof(folder), "%s/vms", a->config.state_dir);
	dir = opendir(folder);
	if (!dir)
		return error_set(e, -errno, "cannot open %s: %s", folder, strerror(errno));
	while (!rc && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);

		if (len < 6 || len - 5 > VM_NAME_MAX || strcmp(entry->d_name + len - 5, ".json"))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 5), entry->d_name);
		rc = record_load(a, name, e);
	}
	closedir(dir);
	return rc;
}

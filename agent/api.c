// SPDX-License-Identifier: Apache-2.0
#include "agent/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/guest.h"

#define LOG_MODULE "api"
#define STOP_S     60
#define STOP_S_MAX 3600

/* ---- replies -------------------------------------------------------------------------- */

static void reply_json(struct http_reply *out, unsigned status, json_t *o)
{
	out->status = status;
	out->body = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	json_decref(o);
}

static json_t *error_json(const char *text, const char *hint)
{
	json_t *o = json_object();

	json_object_set_new(o, "error", json_text(text));
	json_object_set_new(o, "hint", json_text(hint ? hint : ""));
	return o;
}

static void reply_error(struct http_reply *out, unsigned status, const char *text, const char *hint)
{
	reply_json(out, status, error_json(text, hint));
}

static const struct {
	int rc;
	unsigned status;
} statuses[] = {
	{-EINVAL, 400},   {-EBADMSG, 400}, {-ENOENT, 404}, {-EPERM, 409},    {-EBUSY, 409},
	{-EALREADY, 409}, {-EAGAIN, 409},  {-EEXIST, 409}, {-ENOTCONN, 409}, {-ENOSPC, 507},
};

/* `reasons`: where there may be several; or NULL. */
static void reply_failure(struct http_reply *out, int rc, const struct error *e, const char *hint,
			  json_t *reasons)
{
	json_t *o = error_json(e->text[0] ? e->text : strerror(-rc), hint);
	unsigned status = 500;

	for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
		if (statuses[i].rc == rc)
			status = statuses[i].status;
	if (json_array_size(reasons))
		json_object_set(o, "reasons", reasons);
	json_decref(reasons);
	reply_json(out, status, o);
}

/* ---- request bodies: {} or the keys of a table, no others ---------------------------------- */

struct body_key {
	const char *key;
	json_type type; /* JSON_TRUE stands for either boolean */
	bool needed;
};

static bool type_fits(const json_t *v, json_type type)
{
	return type == JSON_TRUE ? json_is_boolean(v) : json_typeof(v) == type;
}

static int keys_check(const json_t *o, const struct body_key *keys, struct error *e)
{
	const char *key;
	json_t *v;

	for (const struct body_key *k = keys; k->key; k++) {
		v = json_object_get(o, k->key);
		if (!v && k->needed)
			return error_set(e, -EINVAL, "\"%s\" is missing", k->key);
		if (v && !type_fits(v, k->type))
			return error_set(e, -EINVAL, "\"%s\" is of the wrong type", k->key);
	}
	json_object_foreach((json_t *)o, key, v)
	{
		const struct body_key *k = keys;

		while (k->key && strcmp(k->key, key) != 0)
			k++;
		if (!k->key)
			return error_set(e, -EINVAL, "unknown key \"%.64s\"", key);
	}
	return 0;
}

static int body_parse(const struct http_request *q, json_t **out, struct error *e)
{
	json_error_t je;

	if (!q->body_len) {
		*out = json_object();
		return *out ? 0 : error_set(e, -ENOMEM, "out of memory");
	}
	*out = json_loadb(q->body, q->body_len, JSON_REJECT_DUPLICATES, &je);
	if (!*out)
		return error_set(e, -EINVAL, "the body is not JSON: line %d: %s", je.line, je.text);
	if (json_is_object(*out))
		return 0;
	json_decref(*out);
	*out = NULL;
	return error_set(e, -EINVAL, "the body is not a JSON object");
}

static int body_read(const struct http_request *q, const struct body_key *keys, json_t **out,
		     struct error *e)
{
	int rc = body_parse(q, out, e);

	if (rc)
		return rc;
	rc = keys_check(*out, keys, e);
	if (rc) {
		json_decref(*out);
		*out = NULL;
	}
	return rc;
}

/* ---- the host, peers, lists --------------------------------------------------------------------
 */

struct call {
	struct agent *agent;
	struct guest *guest; /* routes with NAME */
	const struct http_request *q;
	struct http_reply *out;
};

static void get_host(struct call *c)
{
	struct agent *a = c->agent;

	reply_json(c->out, 200,
		   json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:s, s:s}", "name",
			     a->config.name, "software", version_text, "build", version_build,
			     "pid", (int)getpid(), "uptime_ms",
			     (json_int_t)((clock_ns() - a->started_ns) / NS_PER_MS), "heartbeat_ms",
			     (json_int_t)(a->config.heartbeat_ns / NS_PER_MS), "loss_ms",
			     (json_int_t)(a->config.loss_ns / NS_PER_MS), "port",
			     (json_int_t)a->config.port, "state_dir", a->config.state_dir,
			     "run_dir", a->config.run_dir));
}

static void get_peers(struct call *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < peers_count(c->agent->peers); i++)
		json_array_append_new(list, peer_json(peers_at(c->agent->peers, i)));
	reply_json(c->out, 200, json_pack("{s:o}", "peers", list));
}

/* A VM of which only the term is kept is no longer of interest to people. */
static bool guest_shown(const struct guest *g)
{
	return g->child_role == CHILD_SERVING ||
	       (g->own.state != OWN_NONE && g->own.state != OWN_NEW);
}

static void get_vms(struct call *c)
{
	json_t *list = json_array();
	struct guest *g;

	LIST_FOREACH(g, &c->agent->guests, entry)
	{
		if (guest_shown(g))
			json_array_append_new(list, guest_json(g, false));
	}
	reply_json(c->out, 200, json_pack("{s:o}", "vms", list));
}

static void get_vm(struct call *c)
{
	guest_vm_stats(c->guest);
	reply_json(c->out, 200, guest_json(c->guest, true));
}

static void get_metrics(struct call *c)
{
	c->out->type = "text/plain; version=0.0.4";
	c->out->body = metrics_text(c->agent);
}

/* ---- operations
 * ------------------------------------------------------------------------------------ */

static void reply_operation(struct call *c, struct guest *g, int rc, const struct error *e,
			    const char *hint)
{
	if (rc)
		reply_failure(c->out, rc, e, hint, NULL);
	else
		reply_json(c->out, 202, guest_json(g, true));
}

/* What a request begins, by a body with these keys: 0, or why not. A VM that it is the first to
 * name becomes that of the call. */
typedef int begin_fn(struct call *c, const json_t *body, struct error *e, const char **hint);

static void post_body(struct call *c, const struct body_key *keys, begin_fn *begin)
{
	static const struct body_key none[] = {{0}};
	struct error e = {0};
	const char *hint = "";
	json_t *body;
	int rc = body_read(c->q, keys ? keys : none, &body, &e);

	if (!rc)
		rc = begin(c, body, &e, &hint);
	json_decref(body);
	reply_operation(c, c->guest, rc, &e, hint);
}

static const struct body_key start_keys[] = {{"config", JSON_STRING, true},
					     {"origin", JSON_STRING, false},
					     {"force", JSON_TRUE, false},
					     {0}};

static int start(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	const char *config = json_text_of(body, "config"), *origin = json_text_of(body, "origin");

	if (strlen(config) > GUEST_CONFIG_MAX)
		return error_set(e, -EINVAL, "the VM file is too long");
	return guest_start(c->agent, config, *origin ? origin : "(VM file)",
			   json_true_of(body, "force"), &c->guest, e, hint);
}

/* {"to": a peer, ...}: the rest are options. */
static int peer_body_read(const struct http_request *q, char to[AGENT_NAME_MAX + 2], json_t **out,
			  struct error *e)
{
	int rc = body_parse(q, out, e);

	if (rc)
		return rc;
	if (!json_is_string(json_object_get(*out, "to")))
		return error_set(e, -EINVAL, "\"to\" is missing: the name of a peer");
	snprintf(to, AGENT_NAME_MAX + 2, "%s", json_text_of(*out, "to"));
	json_object_del(*out, "to");
	return 0;
}

static void post_protect(struct call *c)
{
	struct protect_options options;
	char to[AGENT_NAME_MAX + 2];
	struct error e = {0};
	const char *hint = "";
	json_t *body = NULL;
	int rc = peer_body_read(c->q, to, &body, &e);

	if (!rc)
		rc = protect_options_parse(body, true, &options, &e);
	if (!rc)
		rc = guest_protect(c->guest, to, &options, &e, &hint);
	json_decref(body);
	reply_operation(c, c->guest, rc, &e, hint);
}

/* What was begun, which may be beside another one. */
static void reply_migrate(struct call *c, const struct guest *g)
{
	json_t *o = guest_json(g, true);

	if (g->beside.operation.id == c->agent->last_operation)
		json_object_set_new(o, "operation", guest_beside_json(g));
	reply_json(c->out, 202, o);
}

static void post_migrate(struct call *c)
{
	struct migrate_options options;
	char to[AGENT_NAME_MAX + 2] = "";
	struct error e = {0};
	const char *hint = "";
	json_t *body = NULL, *reasons = NULL;
	int rc = peer_body_read(c->q, to, &body, &e);

	if (!rc)
		rc = migrate_options_parse(body, &options, &e);
	if (!rc) {
		rc = guest_migrate(c->guest, to, &options, &e, &hint);
		reasons = rc ? guest_migrate_refusals(c->guest, to) : NULL;
	}
	json_decref(body);
	if (rc)
		reply_failure(c->out, rc, &e, hint, reasons);
	else
		reply_migrate(c, c->guest);
}

static int unprotect(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_unprotect(c->guest, e, hint);
}

static int migrate_cancel(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_migrate_cancel(c->guest, e, hint);
}

static int migrate_recover(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_migrate_recover(c->guest, e, hint);
}

static int image_cancel(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_image_cancel(c->guest, e, hint);
}

static const struct body_key upgrade_keys[] = {{"protect_again", JSON_TRUE, false}, {0}};

static int upgrade(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_upgrade(c->guest, json_true_of(body, "protect_again"), e, hint);
}

static const struct body_key failover_keys[] = {{"force", JSON_TRUE, false}, {0}};

static int failover(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_failover(c->guest, json_true_of(body, "force"), e, hint);
}

static const struct body_key stop_keys[] = {
	{"force", JSON_TRUE, false}, {"timeout_s", JSON_INTEGER, false}, {0}};

static int stop(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	json_int_t timeout = json_integer_of(body, "timeout_s", STOP_S);

	if (timeout < 1 || timeout > STOP_S_MAX)
		return error_set(e, -EINVAL, "\"timeout_s\" must be 1 to %d", STOP_S_MAX);
	return guest_stop(c->guest, json_true_of(body, "force"), (unsigned)timeout, e, hint);
}

static const struct body_key dump_core_keys[] = {
	{"paging", JSON_TRUE, false}, {"live", JSON_TRUE, false}, {0}};

static int dump_core(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_dump_core(c->guest, json_true_of(body, "paging"), json_true_of(body, "live"),
			       e, hint);
}

/* ---- saved images ---------------------------------------------------------------------------- */

static const char *text_or_null(const json_t *body, const char *key)
{
	return json_string_value(json_object_get(body, key));
}

static const struct body_key save_keys[] = {
	{"file", JSON_STRING, true},         {"key_file", JSON_STRING, false},
	{"compression", JSON_STRING, false}, {"keep_running", JSON_TRUE, false},
	{"overwrite", JSON_TRUE, false},     {0}};

static int save(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	const struct save_options o = {.file = text_or_null(body, "file"),
				       .key_file = text_or_null(body, "key_file"),
				       .compression = text_or_null(body, "compression"),
				       .keep = json_true_of(body, "keep_running"),
				       .overwrite = json_true_of(body, "overwrite")};

	return guest_save(c->guest, &o, e, hint);
}

static const struct body_key restore_keys[] = {{"file", JSON_STRING, true},
					       {"key_file", JSON_STRING, false},
					       {"force", JSON_TRUE, false},
					       {"lazy", JSON_TRUE, false},
					       {0}};

static int restore(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	const struct restore_options o = {.file = text_or_null(body, "file"),
					  .key_file = text_or_null(body, "key_file"),
					  .forced = json_true_of(body, "force"),
					  .lazy = json_true_of(body, "lazy")};

	return guest_restore(c->agent, &o, &c->guest, e, hint);
}

static void get_snapshots(struct call *c)
{
	reply_json(c->out, 200, guest_snapshots_json(c->guest));
}

static const struct body_key snapshot_keys[] = {{"snapshot", JSON_STRING, true}, {0}};

static int snapshot(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_snapshot(c->guest, text_or_null(body, "snapshot"), e, hint);
}

static int rollback(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_rollback(c->guest, text_or_null(body, "snapshot"), e, hint);
}

static int snapshot_delete(struct call *c, const json_t *body, struct error *e, const char **hint)
{
	return guest_snapshot_delete(c->guest, text_or_null(body, "snapshot"), e, hint);
}

/* ---- routes
 * -------------------------------------------------------------------------------------------- */

/* In a path, NAME stands for the name of a VM that this host knows. */
static const struct route {
	const char *method, *path;
	void (*handle)(struct call *c);
	begin_fn *begin; /* in place of that: post_body() */
	const struct body_key *keys;
} routes[] = {
	{"GET", "/v1/host", get_host, NULL, NULL},
	{"GET", "/v1/peers", get_peers, NULL, NULL},
	{"GET", "/v1/vms", get_vms, NULL, NULL},
	{"POST", "/v1/vms", NULL, start, start_keys},
	{"GET", "/v1/vms/NAME", get_vm, NULL, NULL},
	{"POST", "/v1/vms/NAME/protect", post_protect, NULL, NULL},
	{"POST", "/v1/vms/NAME/unprotect", NULL, unprotect, NULL},
	{"POST", "/v1/vms/NAME/failover", NULL, failover, failover_keys},
	{"POST", "/v1/vms/NAME/migrate", post_migrate, NULL, NULL},
	{"POST", "/v1/vms/NAME/migrate/cancel", NULL, migrate_cancel, NULL},
	{"POST", "/v1/vms/NAME/migrate/recover", NULL, migrate_recover, NULL},
	{"POST", "/v1/vms/NAME/stop", NULL, stop, stop_keys},
	{"POST", "/v1/vms/NAME/dump-core", NULL, dump_core, dump_core_keys},
	{"POST", "/v1/vms/NAME/save", NULL, save, save_keys},
	{"POST", "/v1/vms/NAME/image-cancel", NULL, image_cancel, NULL},
	{"POST", "/v1/restore", NULL, restore, restore_keys},
	{"GET", "/v1/vms/NAME/snapshots", get_snapshots, NULL, NULL},
	{"POST", "/v1/vms/NAME/snapshot", NULL, snapshot, snapshot_keys},
	{"POST", "/v1/vms/NAME/snapshot-delete", NULL, snapshot_delete, snapshot_keys},
	{"POST", "/v1/vms/NAME/rollback", NULL, rollback, snapshot_keys},
	{"POST", "/v1/vms/NAME/upgrade", NULL, upgrade, upgrade_keys},
	{"GET", "/metrics", get_metrics, NULL, NULL},
};

static bool path_matches(const char *pattern, const char *path, char name[VM_NAME_MAX + 1])
{
	const char *wild = strstr(pattern, "NAME");
	size_t before = wild ? (size_t)(wild - pattern) : 0, len;

	if (!wild)
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, before) != 0)
		return false;
	len = strcspn(path + before, "/");
	if (len < 1 || len > VM_NAME_MAX || strcmp(path + before + len, wild + 4) != 0)
		return false;
	memcpy(name, path + before, len);
	name[len] = '\0';
	return true;
}

static void route_run(const struct route *r, struct call *c, const char *name)
{
	char text[160];

	if (*name) {
		c->guest = guest_name_ok(name) ? guest_find(c->agent, name) : NULL;
		if (!c->guest) {
			snprintf(text, sizeof(text), "there is no VM '%s' on %s", name,
				 c->agent->config.name);
			reply_error(c->out, 404, text,
				    "`pollux list` shows the VMs of this host; start one with "
				    "`pollux start FILE`");
			return;
		}
	}
	if (r->begin)
		post_body(c, r->keys, r->begin);
	else
		r->handle(c);
}

void api_handle(void *agent, const struct http_request *q, struct http_reply *out)
{
	struct call c = {.agent = agent, .q = q, .out = out};
	bool path_known = false;

	c.agent->counters.requests++;
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		char name[VM_NAME_MAX + 1] = "";

		if (!path_matches(routes[i].path, q->path, name))
			continue;
		path_known = true;
		if (strcmp(routes[i].method, q->method) != 0)
			continue;
		route_run(&routes[i], &c, name);
		break;
	}
	if (!out->body && path_known)
		reply_error(out, 405, "this path knows no such method", "see docs/api.md");
	else if (!out->body)
		reply_error(out, 404, "there is no such path", "see docs/api.md");
	if (out->status >= 400)
		c.agent->counters.requests_refused++;
}

// SPDX-License-Identifier: Apache-2.0
/* list and status */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "hypervisor/hypervisor.h"

/* ---- tables ------------------------------------------------------------------------- */

struct column {
	const char *title, *key;
};

static void cell_text(const json_t *row, const char *key, char *out, size_t size)
{
	const json_t *v = json_object_get(row, key);

	if (json_is_integer(v))
		snprintf(out, size, "%lld", (long long)json_integer_value(v));
	else if (json_is_boolean(v))
		snprintf(out, size, "%s", json_is_true(v) ? "yes" : "no");
	else
		snprintf(out, size, "%s", *json_word(row, key) ? json_word(row, key) : "-");
}

static int column_width(const json_t *rows, const struct column *c)
{
	int width = (int)strlen(c->title);
	char text[256];
	json_t *row;
	size_t i;

	json_array_foreach((json_t *)rows, i, row)
	{
		cell_text(row, c->key, text, sizeof(text));
		width = (int)strlen(text) > width ? (int)strlen(text) : width;
	}
	return width;
}

static void row_print(const json_t *row, const struct column *columns, const int *widths)
{
	char text[256];

	for (size_t i = 0; columns[i].title; i++) {
		bool last = !columns[i + 1].title;

		snprintf(text, sizeof(text), "%s", columns[i].title);
		if (row)
			cell_text(row, columns[i].key, text, sizeof(text));
		printf("%-*s%s", last ? 0 : widths[i], text, last ? "\n" : "  ");
	}
}

static void table_print(const json_t *rows, const struct column *columns)
{
	int widths[16] = {0};
	json_t *row;
	size_t i;

	for (i = 0; columns[i].title; i++)
		widths[i] = column_width(rows, &columns[i]);
	row_print(NULL, columns, widths);
	json_array_foreach((json_t *)rows, i, row)
	{
		row_print(row, columns, widths);
	}
}

int command_list(const struct invocation *v)
{
	static const struct column vms[] = {
		{"NAME", "name"},     {"STATE", "state"}, {"PEER", "peer"},   {"TERM", "term"},
		{"ENGINE", "engine"}, {"PID", "pid"},     {"BUILD", "build"}, {0}};
	static const struct column peers[] = {{"NAME", "name"},
					      {"CONNECTED", "connected"},
					      {"FENCE", "fence"},
					      {"ADDRESS", "address"},
					      {"PORT", "port"},
					      {"WHY", "why"},
					      {0}};
	bool of_peers = invocation_flag(v, "peers");
	json_t *reply;
	int rc = api_call(v, "GET", of_peers ? "/v1/peers" : "/v1/vms", NULL, &reply);

	if (rc)
		return rc;
	if (invocation_flag(v, "json"))
		return json_print(reply);
	table_print(json_object_get(reply, of_peers ? "peers" : "vms"), of_peers ? peers : vms);
	json_decref(reply);
	return EXIT_OK;
}

/* ---- status ----------------------------------------------------------------------------- */

static void line(const char *name, const char *text)
{
	if (*text)
		printf("%-12s %s\n", name, text);
}

static void replication_print(const json_t *r)
{
	char a[64], b[64], c[64], text[256];

	if (!json_number(r, "epoch"))
		return;
	snprintf(text, sizeof(text), "%lld, acknowledged %lld", (long long)json_number(r, "epoch"),
		 (long long)json_number(r, "acknowledged"));
	line("epoch", text);
	nanoseconds_text((uint64_t)json_number(r, "pause_last_ns"), a, sizeof(a));
	nanoseconds_text((uint64_t)json_number(r, "pause_max_ns"), b, sizeof(b));
	nanoseconds_text((uint64_t)json_number(r, "ack_delay_last_ns"), c, sizeof(c));
	snprintf(text, sizeof(text), "pause %s (longest %s), acknowledged after %s, %lld pages", a,
		 b, c, (long long)json_number(r, "pages_last"));
	line("checkpoint", text);
	bytes_text((uint64_t)json_number(r, "bytes_raw"), a, sizeof(a));
	bytes_text((uint64_t)json_number(r, "bytes_sent"), b, sizeof(b));
	snprintf(text, sizeof(text), "%s of pages as %s on the wire", a, b);
	line("sent", text);
}

static void timeline_print(const json_t *timeline)
{
	uint64_t before = 0;
	json_t *event;
	size_t i;

	if (json_array_size(timeline))
		puts("timeline");
	json_array_foreach((json_t *)timeline, i, event)
	{
		uint64_t real = (uint64_t)json_number(event, "realtime_ns");
		uint64_t boot = (uint64_t)json_number(event, "boottime_ns");
		time_t seconds = (time_t)(real / NS_PER_SEC);
		char clock[32] = "";
		struct tm tm;

		if (localtime_r(&seconds, &tm))
			strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
		printf("  %s.%03llu %+10.1f ms  %-20s %s\n", clock,
		       (unsigned long long)(real / NS_PER_MS % 1000),
		       before ? (double)(boot - before) / 1e6 : 0.0, json_word(event, "what"),
		       json_word(event, "detail"));
		before = boot;
	}
}

static void session_print(const json_t *vm)
{
	const json_t *s = json_object_get(vm, "session"),
		     *lost = json_object_get(vm, "unprotected");
	char text[320];

	if (json_is_object(lost)) {
		snprintf(text, sizeof(text), "%s (%s)", json_word(lost, "text"),
			 json_word(lost, "on"));
		line("protection", text);
		return;
	}
	if (!s || json_is_true(json_object_get(s, "migration")))
		return;
	snprintf(text, sizeof(text), "mode %s, policy %s%s%s", json_word(s, "mode"),
		 json_word(s, "policy"), *json_word(s, "compression") ? ", compression " : "",
		 json_word(s, "compression"));
	line("protection", text);
}

/* While it is one: what was asked for, and since when. */
static void migration_print(const json_t *vm)
{
	const json_t *m = json_object_get(vm, "migration"), *limits = json_object_get(m, "limits");
	const char *state = json_word(vm, "state");
	char text[256], postcopy[48] = "";

	if (strcmp(state, "migrating") != 0 && strcmp(state, "handed-over") != 0)
		return;
	if (json_is_true(json_object_get(limits, "postcopy_only")))
		snprintf(postcopy, sizeof(postcopy), " at once");
	else if (json_number(limits, "postcopy_after"))
		snprintf(postcopy, sizeof(postcopy), " after %lld rounds",
			 (long long)json_number(limits, "postcopy_after"));
	snprintf(text, sizeof(text), "to %s since %.0f s, downtime within %lld ms, if stuck %s%s",
		 json_word(m, "to"), (double)json_number(m, "elapsed_ms") / 1e3,
		 (long long)json_number(limits, "downtime_ms"), json_word(limits, "stuck"),
		 postcopy);
	line("migration", text);
}

static void operation_print(const json_t *vm)
{
	const json_t *o = json_object_get(vm, "operation");
	char text[700];

	if (!strcmp(json_word(o, "state"), "none"))
		return;
	snprintf(text, sizeof(text), "%s: %s%s%s", json_word(o, "what"), json_word(o, "state"),
		 *json_word(o, "error") ? ": " : "", json_word(o, "error"));
	line("operation", text);
}

/* Of a lazy restore. */
static void image_print(const json_t *vm)
{
	const json_t *image = json_object_get(json_object_get(vm, "stats"), "image");
	char done[32], total[32], text[128];

	if (!json_number(vm, "pid") || strcmp(json_word(image, "what"), "memory") != 0)
		return;
	bytes_text((uint64_t)json_number(image, "pages") * VM_PAGE_SIZE, done, sizeof(done));
	bytes_text((uint64_t)json_number(image, "pages_total") * VM_PAGE_SIZE, total,
		   sizeof(total));
	snprintf(text, sizeof(text), "%s of %s has been read from the image", done, total);
	line("memory", text);
}

static void vm_print(const json_t *vm)
{
	char term[128];

	line("name", json_word(vm, "name"));
	line("state", json_word(vm, "state"));
	line("why", json_word(vm, "why"));
	snprintf(term, sizeof(term), "%s under term %lld", json_word(vm, "role"),
		 (long long)json_number(vm, "term"));
	line("ownership", term);
	line("other host", json_word(vm, "peer"));
	line("engine", json_word(vm, "engine"));
	line("build", json_word(vm, "build"));
	migration_print(vm);
	line("memory", json_word(json_object_get(vm, "postcopy"), "text"));
	image_print(vm);
	session_print(vm);
	replication_print(json_object_get(json_object_get(vm, "stats"), "replication"));
	operation_print(vm);
	timeline_print(json_object_get(vm, "timeline"));
}

static int vm_status(const struct invocation *v)
{
	json_t *vm;
	int rc = api_vm_call(v, "GET", v->arguments[0], "", NULL, &vm);

	/* The first request makes polluxd ask the VM process; the second has its answer. */
	if (!rc && json_number(vm, "pid") &&
	    (!json_object_get(vm, "stats") || json_number(vm, "stats_age_ms") > 200)) {
		nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
		json_decref(vm);
		rc = api_vm_call(v, "GET", v->arguments[0], "", NULL, &vm);
	}
	if (rc)
		return rc;
	if (invocation_flag(v, "json"))
		return json_print(vm);
	vm_print(vm);
	json_decref(vm);
	return EXIT_OK;
}

static int host_status(const struct invocation *v)
{
	json_t *host, *peers, *vms;
	int rc = api_call(v, "GET", "/v1/host", NULL, &host);

	if (rc)
		return rc;
	rc = api_call(v, "GET", "/v1/peers", NULL, &peers);
	if (rc)
		goto out_host;
	rc = api_call(v, "GET", "/v1/vms", NULL, &vms);
	if (rc)
		goto out_peers;
	if (invocation_flag(v, "json")) {
		rc = json_print(json_pack("{s:O, s:O, s:O}", "host", host, "peers",
					  json_object_get(peers, "peers"), "vms",
					  json_object_get(vms, "vms")));
	} else {
		printf("%s: polluxd %s, process %lld\n\n", json_word(host, "name"),
		       json_word(host, "software"), (long long)json_number(host, "pid"));
		table_print(json_object_get(peers, "peers"),
			    (const struct column[]){{"PEER", "name"},
						    {"CONNECTED", "connected"},
						    {"FENCE", "fence"},
						    {"WHY", "why"},
						    {0}});
		putchar('\n');
		table_print(json_object_get(vms, "vms"), (const struct column[]){{"VM", "name"},
										 {"STATE", "state"},
										 {"PEER", "peer"},
										 {"TERM", "term"},
										 {0}});
	}
	json_decref(vms);
out_peers:
	json_decref(peers);
out_host:
	json_decref(host);
	return rc;
}

int command_status(const struct invocation *v)
{
	return v->argument_count ? vm_status(v) : host_status(v);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * How long a migration will take, and how long the guest will stand still: from how fast it
 * writes, which its process measures, and from what the link carries, which a burst to the other
 * host tells. Whatever cannot be measured is said to be so; nothing fails for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/forecast.h"
#include "agent/guest.h"

#define LOG_MODULE "forecast"
#define ASK_NS     (5 * NS_PER_SEC)
#define MB         UINT64_C(1000000)
#define PER_BURST  4u /* a burst takes no more than so small a part of what a second may */

/* ---- the VM ------------------------------------------------------------------------- */

static void vm_unmeasured(struct guest *g, const char *why)
{
	snprintf(g->forecast.vm_why, sizeof(g->forecast.vm_why), "%.191s", why);
	g->forecast.vm_waits = false;
	guest_check_go_on(g);
}

/* Its event follows. A process of an older build does not know the question. */
static void measure_begun(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc && g->forecast.vm_waits)
		vm_unmeasured(g, text);
}

void guest_forecast_event(struct guest *g, const json_t *message)
{
	struct forecast *f = &g->forecast;

	if (!f->vm_waits)
		return;
	if (!json_is_true(json_object_get(message, "ok"))) {
		vm_unmeasured(g, json_text_of(message, "error"));
		return;
	}
	f->vm = json_deep_copy(message);
	f->vm_waits = false;
	guest_check_go_on(g);
}

void guest_forecast_begin(struct guest *g, const char *to, const struct migrate_options *o)
{
	struct forecast *f = &g->forecast;
	json_t *request;

	guest_forecast_free(g);
	f->options = *o;
	f->vm_waits = f->link_waits = true;
	snprintf(f->to, sizeof(f->to), "%s", to);
	request = json_pack("{s:s}", "do", "measure");
	if (request && o->compression[0])
		json_object_set_new(request, "compression", json_string(o->compression));
	guest_child_ask(g, request, ASK_NS, measure_begun);
}

/* ---- the link ------------------------------------------------------------------------ */

struct burst_job {
	struct job job;
	struct agent *agent;
	char vm[VM_NAME_MAX + 1];
	uint64_t number; /* of the check that it belongs to */
	char address[256];
	uint16_t port;
	struct burst_key key;
	uint64_t most;
	struct burst_result result;
	struct error error;
	int rc;
};

static void burst_free(struct job *j)
{
	struct burst_job *b = (struct burst_job *)j;

	explicit_bzero(&b->key, sizeof(b->key));
	free(b);
}

static void burst_run(struct job *j)
{
	struct burst_job *b = (struct burst_job *)j;

	b->rc = burst_send(b->address, b->port, &b->key, b->most, &b->result, &b->error);
}

static void link_over(struct guest *g, uint64_t rate, const char *why)
{
	g->forecast.link_rate = rate;
	g->forecast.link_waits = false;
	snprintf(g->forecast.link_why, sizeof(g->forecast.link_why), "%.191s", why);
	guest_check_go_on(g);
}

static void burst_done(struct job *j)
{
	struct burst_job *b = (struct burst_job *)j;
	struct guest *g = guest_find(b->agent, b->vm);

	if (guest_check_is(g, b->number) && g->forecast.link_waits)
		link_over(g, b->rc ? 0 : b->result.bytes_per_second,
			  b->rc ? b->error.text : "too little went over it to tell");
	burst_free(j);
}

static int burst_start(struct guest *g)
{
	const struct forecast *f = &g->forecast;
	struct peer *p = peers_find(g->agent->peers, f->to);
	struct burst_job *b = p ? calloc(1, sizeof(*b)) : NULL;
	uint64_t allowed = f->options.bandwidth_mb * MB / PER_BURST;
	int rc;

	if (!b)
		return -ENOMEM;
	*b = (struct burst_job){
		.job = {.run = burst_run, .done = burst_done, .drop = burst_free},
		.agent = g->agent,
		.number = g->check.q.number,
		.port = peer_config(p)->port,
		.key = f->burst,
		.most = allowed && allowed < BURST_BYTES_MAX ? allowed : BURST_BYTES_MAX,
	};
	snprintf(b->vm, sizeof(b->vm), "%s", g->name);
	snprintf(b->address, sizeof(b->address), "%s", peer_config(p)->address);
	rc = jobs_start(g->agent->jobs, &b->job);
	if (rc)
		burst_free(&b->job);
	return rc;
}

json_t *guest_forecast_burst(struct guest *g)
{
	char session[2 * SESSION_ID_SIZE + 1], key[2 * SESSION_KEY_SIZE + 1];
	struct burst_key *k = &g->forecast.burst;
	json_t *o;

	if (getrandom(k, sizeof(*k), 0) != (ssize_t)sizeof(*k))
		return NULL;
	hex_encode(k->session, sizeof(k->session), session);
	hex_encode(k->key, sizeof(k->key), key);
	o = json_pack("{s:s, s:s}", "session", session, "key", key);
	explicit_bzero(key, sizeof(key));
	return o;
}

void guest_forecast_link(struct guest *g, bool possible, const char *why)
{
	int rc;

	if (!possible) {
		link_over(g, 0,
			  *why ? why : "the other host's polluxd is too old to measure it with");
		return;
	}
	rc = burst_start(g);
	if (rc)
		link_over(g, 0, strerror(-rc));
}

/* ---- together ------------------------------------------------------------------------- */

bool guest_forecast_waits(const struct guest *g)
{
	return g->forecast.vm_waits || g->forecast.link_waits;
}

static struct migrate_config config_of(const struct guest *g)
{
	const struct migrate_options *o = &g->forecast.options;
	struct migrate_config c;

	migrate_config_defaults(&c);
	c.fixed_ns = guest_migrate_fixed_ns(g->agent);
	c.downtime_ns = o->downtime_ms * NS_PER_MS;
	c.throttle_max = o->throttle_max;
	c.most_ns = o->most_s * NS_PER_SEC;
	c.postcopy_after = o->postcopy_after;
	c.postcopy_only = o->postcopy_only;
	if (o->most_downtime_ms)
		c.most_downtime_ns = o->most_downtime_ms * NS_PER_MS;
	if (o->rounds_max)
		c.rounds_max = o->rounds_max;
	if (o->postcopy_after || !strcmp(o->stuck, "postcopy"))
		c.stuck = STUCK_POSTCOPY;
	else if (!strcmp(o->stuck, "stop"))
		c.stuck = STUCK_STOP;
	return c;
}

json_t *guest_forecast_json(const struct guest *g)
{
	const struct forecast *f = &g->forecast;
	const struct forecast_input in = {
		.config = config_of(g),
		.vm = f->vm,
		.vm_why = f->vm_why[0] ? f->vm_why : "it took too long",
		.link_why = f->link_why[0] ? f->link_why : "it took too long",
		.link_rate = f->link_rate,
		.bandwidth = f->options.bandwidth_mb * MB,
		.disk_bytes = f->disk_bytes,
		.streams = f->options.streams,
	};

	return forecast_json(&in);
}

json_t *guest_forecast_warning(const struct guest *g, const json_t *forecast)
{
	struct migrate_config c = config_of(g);

	return forecast_warning(forecast, &c);
}

void guest_forecast_free(struct guest *g)
{
	json_decref(g->forecast.vm);
	explicit_bzero(&g->forecast, sizeof(g->forecast));
}

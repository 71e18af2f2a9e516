// SPDX-License-Identifier: Apache-2.0
/* A session that is a migration: its terms, and how it goes. */
#include <errno.h>
#include <string.h>

#include "vm-process/process.h"

#define DELTA_SHARE 8u /* of the guest's memory, but: */
#define DELTA_LEAST (UINT64_C(64) << 20)
#define DELTA_MOST  (UINT64_C(512) << 20)

static int number_take(const json_t *o, const char *key, uint64_t most, uint64_t unit,
		       uint64_t *out, struct error *e)
{
	const json_t *v = json_object_get(o, key);
	json_int_t n = json_integer_value(v);

	if (!v)
		return 0;
	if (!json_is_integer(v) || n < 0 || (uint64_t)n > most)
		return error_set(e, -EINVAL, "\"%s\" must be a whole number up to %lu", key, most);
	*out = (uint64_t)n * unit;
	return 0;
}

static int small_take(const json_t *o, const char *key, unsigned most, unsigned *out,
		      struct error *e)
{
	uint64_t n = *out;
	int rc = number_take(o, key, most, 1, &n, e);

	*out = (unsigned)n;
	return rc;
}

static int stuck_take(const json_t *o, enum migrate_stuck *out, struct error *e)
{
	static const char *const names[] = {
		[STUCK_GIVE_UP] = "give-up", [STUCK_STOP] = "stop", [STUCK_POSTCOPY] = "postcopy"};
	const char *name = json_string_value(json_object_get(o, "stuck"));

	for (size_t i = 0; name && i < ARRAY_LEN(names); i++)
		if (!strcmp(names[i], name)) {
			*out = (enum migrate_stuck)i;
			return 0;
		}
	return name ? error_set(e, -EINVAL, "\"stuck\" is not a value that is known") : 0;
}

static int terms_agree(const struct migrate_config *c, struct error *e)
{
	if (!c->postcopy_only || (c->postcopy_after && c->stuck == STUCK_POSTCOPY))
		return 0;
	return error_set(
		e, -EINVAL,
		"\"postcopy_only\" needs \"postcopy_after\", and \"postcopy\" as \"stuck\": "
		"no memory goes before the guest");
}

int migrate_parse(const json_t *o, struct migrate_config *out, struct error *e)
{
	int rc;

	migrate_config_defaults(out);
	out->postcopy_only = json_is_true(json_object_get(o, "postcopy_only"));
	if ((rc = number_take(o, "downtime_ms", 600000, NS_PER_MS, &out->downtime_ns, e)) ||
	    (rc = number_take(o, "most_downtime_ms", 600000, NS_PER_MS, &out->most_downtime_ns,
			      e)) ||
	    (rc = number_take(o, "fixed_us", 60000000, NS_PER_US, &out->fixed_ns, e)) ||
	    (rc = number_take(o, "link_bytes_per_second", UINT64_C(1) << 50, 1,
			      &out->link_bytes_per_second, e)) ||
	    (rc = number_take(o, "most_s", 86400, NS_PER_SEC, &out->most_ns, e)) ||
	    (rc = small_take(o, "throttle_max", 99, &out->throttle_max, e)) ||
	    (rc = small_take(o, "rounds_max", 10000, &out->rounds_max, e)) ||
	    (rc = small_take(o, "postcopy_after", 10000, &out->postcopy_after, e)))
		return rc;
	rc = stuck_take(o, &out->stuck, e);
	return rc ? rc : terms_agree(out, e);
}

/* A guest that hardly converges writes a little to each of many pages: what was sent of them is
 * kept for as long as it lasts. What no round needs twice takes no memory. */
uint64_t migrate_delta_bytes(const struct process *p)
{
	uint64_t bytes = vm_ram_pages(p->vm) * VM_PAGE_SIZE / DELTA_SHARE;

	return bytes < DELTA_LEAST ? DELTA_LEAST : bytes > DELTA_MOST ? DELTA_MOST : bytes;
}

int migrate_forecast(struct process *p, const json_t *request, struct error *e)
{
	uint64_t fixed_ns = 0;
	int rc = number_take(request, "fixed_us", 60000000, NS_PER_US, &fixed_ns, e);

	if (!rc && fixed_ns && p->precopy)
		precopy_fixed(p->precopy, fixed_ns,
			      json_is_true(json_object_get(request, "rehearsed")));
	return rc;
}

static void number_put(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

/* All of it, but what follows the guest. A throttle is never loosened before the end. */
static json_t *sent_json(struct process *p, const struct replicate_stats *s,
			 const struct migrate_progress *m)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:i, s:i}", "bytes", (json_int_t)s->bytes_sent,
			 "disk_bytes", (json_int_t)members_bytes(p), "pages", (json_int_t)s->pages,
			 "delta_pages", (json_int_t)s->delta_pages, "rounds",
			 p->session.copy_none ? 0 : (int)m->round, "throttle_most",
			 (int)m->throttle);
}

/* Where the time went, for whoever reports it and forecasts the next one. */
void migrate_handed_put(struct process *p, json_t *event)
{
	uint64_t frozen_at = replicator_frozen_at(p->replicator);
	struct migrate_progress m = {0};
	struct replicate_stats s;

	replicator_stats(p->replicator, &s);
	if (p->precopy)
		precopy_progress(p->precopy, &m);
	number_put(event, "frozen_ns", clock_ns() - frozen_at);
	number_put(event, "frozen_at_ns", frozen_at);
	number_put(event, "pause_ns", s.pause_last_ns);
	number_put(event, "transfer_ns", s.ack_delay_last_ns);
	number_put(event, "forecast_ns", m.forecast_ns);
	number_put(event, "fixed_ns", m.fixed_ns);
	if (m.why)
		json_object_set_new(event, "end_why", json_string(m.why));
	json_object_set_new(event, "sent", sent_json(p, &s, &m));
}

json_t *migrate_json(struct process *p)
{
	struct migrate_progress m;

	if (!p->precopy)
		return json_null();
	precopy_progress(p->precopy, &m);
	return json_pack("{s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s*}", "round",
			 (int)m.round, "throttle", (int)m.throttle, "forecast_ns",
			 (json_int_t)m.forecast_ns, "dirty_pages", (json_int_t)m.dirty,
			 "dirty_pages_per_second", (json_int_t)m.dirty_rate, "bytes_per_second",
			 (json_int_t)m.rate, "memory_per_second", (json_int_t)m.memory_rate,
			 "elapsed_ns", (json_int_t)m.elapsed_ns, "gave_up", m.gave_up, "why",
			 m.why);
}

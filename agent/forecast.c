// SPDX-License-Identifier: Apache-2.0
#include "agent/forecast.h"

#include <stdio.h>
#include <string.h>

#include "agent/json_text.h"
#include "agent/preflight.h"

static void samples_take(const json_t *list, struct migrate_measured *m)
{
	for (size_t i = 0; i < json_array_size(list) && i < MIGRATE_SAMPLES; i++) {
		const json_t *s = json_array_get(list, i);

		m->dirty[i] =
			(struct migrate_sample){json_count_of(s, "ns"), json_count_of(s, "pages")};
	}
}

/* Of a page, by one way to encode it. */
static double page_ns(const json_t *way, const struct migrate_measured *m)
{
	double encode = (double)json_count_of(way, "encode_ns") / m->streams;
	double link = (double)json_count_of(way, "wire_bytes") * 1e9 / (double)m->bytes_per_second;

	return encode > link ? encode : link;
}

/* A stream chooses what takes least (replicate/pages.h), and so does this. */
static const json_t *way_choose(const json_t *ways, struct migrate_measured *m)
{
	const json_t *best = json_array_get(ways, 0);

	for (size_t i = 1; i < json_array_size(ways); i++)
		if (page_ns(json_array_get(ways, i), m) < page_ns(best, m))
			best = json_array_get(ways, i);
	m->encode_ns = json_count_of(best, "encode_ns");
	m->wire_bytes = json_count_of(best, "wire_bytes");
	return best;
}

static void outcome_put(const struct migrate_forecast *f, json_t *out)
{
	static const char *const ends[] = {[END_PRECOPY] = "precopy",
					   [END_PAUSE] = "pause",
					   [END_POSTCOPY] = "postcopy",
					   [END_GIVE_UP] = "give-up"};
	static const char *const late[] = {[LATE_MEMORY] = "memory", [LATE_DISKS] = "disks"};

	json_object_set_new(out, "end", json_string(ends[f->end]));
	json_object_set_new(out, "total_ns", json_integer((json_int_t)f->total_ns));
	json_object_set_new(out, "downtime_ns", json_integer((json_int_t)f->downtime_ns));
	json_object_set_new(out, "rounds", json_integer(f->rounds));
	json_object_set_new(out, "throttle", json_integer(f->throttle));
	if (f->late)
		json_object_set_new(out, "late", json_string(late[f->late]));
	if (f->why)
		json_object_set_new(out, "why", json_string(f->why));
}

static uint64_t per_second(const struct migrate_sample *s)
{
	return s->ns ? (uint64_t)((double)s->pages * 1e9 / (double)s->ns) : 0;
}

/* Over the longest time: nearest to what a round will see. */
static const struct migrate_sample *longest(const struct migrate_measured *m)
{
	unsigned i = MIGRATE_SAMPLES - 1;

	while (i && !m->dirty[i].ns)
		i--;
	return &m->dirty[i];
}

static void memory_put(const struct forecast_input *in, const struct migrate_measured *m,
		       json_t *out)
{
	json_object_set_new(out, "pages", json_integer((json_int_t)m->pages));
	json_object_set_new(out, "dirty_pages_per_second",
			    json_integer((json_int_t)per_second(longest(m))));
	json_object_set_new(out, "of_session",
			    json_boolean(json_is_true(json_object_get(in->vm, "session"))));
}

static json_t *unmeasured(const char *what, const char *why, json_t *out)
{
	char text[256];

	snprintf(text, sizeof(text), "%s: %s", what, why);
	json_object_set_new(out, "measured", json_false());
	json_object_set_new(out, "why", json_text(text));
	return out;
}

json_t *forecast_json(const struct forecast_input *in)
{
	struct migrate_measured m = {
		.ram_pages = json_count_of(in->vm, "ram_pages"),
		.pages = json_count_of(in->vm, "pages"),
		.bytes_per_second = in->link_rate,
		.bytes_per_second_allowed = in->bandwidth,
		.disk_bytes = in->disk_bytes,
		.streams = in->streams ? in->streams : 1,
	};
	json_t *out = json_object();
	struct migrate_forecast f;
	const json_t *way;

	samples_take(json_object_get(in->vm, "dirty"), &m);
	if (in->vm)
		memory_put(in, &m, out);
	if (in->link_rate)
		json_object_set_new(out, "link_bytes_per_second",
				    json_integer((json_int_t)in->link_rate));
	if (!in->vm)
		return unmeasured("the VM", in->vm_why, out);
	if (!in->link_rate)
		return unmeasured("the link", in->link_why, out);
	way = way_choose(json_object_get(in->vm, "encodings"), &m);
	migrate_foresee(&in->config, &m, &f);
	json_object_set_new(out, "measured", json_true());
	json_object_set_new(out, "compression", json_text(json_text_of(way, "compression")));
	json_object_set_new(out, "page_bytes", json_integer((json_int_t)m.wire_bytes));
	if (m.disk_bytes)
		json_object_set_new(out, "disk_bytes", json_integer((json_int_t)m.disk_bytes));
	outcome_put(&f, out);
	return out;
}

/* By what is late, if time is up. */
static const char *give_up_hint(const char *late, const struct migrate_config *c)
{
	bool pause = c->stuck == STUCK_STOP;

	if (!strcmp(late, "disks"))
		return "what helps: a larger --timeout, or more bandwidth; no --stuck does";
	if (*late)
		return pause ? "what helps: a larger --timeout or --most-downtime; --stuck "
			       "postcopy; more bandwidth"
			     : "what helps: a larger --timeout; --stuck postcopy, or --stuck stop "
			       "with a --most-downtime that may be as long; more bandwidth";
	return pause ? "what helps: a larger --most-downtime; --stuck postcopy; more bandwidth"
		     : "what helps: --stuck postcopy, or --stuck stop with a --most-downtime that "
		       "may be as long; a larger --downtime; more bandwidth";
}

json_t *forecast_warning(const json_t *forecast, const struct migrate_config *c)
{
	char text[256];

	if (strcmp(json_text_of(forecast, "end"), "give-up") != 0)
		return NULL;
	snprintf(text, sizeof(text), "it is foreseen to be given up, after about %.1f s: %s",
		 (double)json_count_of(forecast, "total_ns") / 1e9, json_text_of(forecast, "why"));
	return reason_json("give-up", true, text, give_up_hint(json_text_of(forecast, "late"), c));
}

// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/acceptor.h"
#include "agent/api.h"
#include "agent/guest.h"

static void PRINTF(2, 3) add(struct buf *b, const char *fmt, ...)
{
	char text[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (n > 0)
		buf_put(b, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
	add(b, "# HELP pollux_%s %s\n# TYPE pollux_%s %s\n", name, help, name, type);
}

static void host_metrics(struct buf *b, struct agent *a)
{
	const struct {
		const char *name, *help;
		uint64_t value;
	} counters[] = {
		{"failovers_total", "Standbys promoted on this host.", a->counters.failovers},
		{"fence_failures_total", "Fence commands that did not confirm.",
		 a->counters.fence_failures},
		{"protections_total", "Protections that became whole.", a->counters.protects},
		{"api_requests_total", "Requests to the API.", a->counters.requests},
		{"api_requests_refused_total", "Requests to the API that were refused.",
		 a->counters.requests_refused},
		{"connections_refused_total", "Connections without a good preamble.",
		 a->acceptor ? acceptor_refused(a->acceptor) : 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
		head(b, counters[i].name, "counter", counters[i].help);
		add(b, "pollux_%s %llu\n", counters[i].name, (unsigned long long)counters[i].value);
	}
}

static void peer_metrics(struct buf *b, struct agent *a)
{
	head(b, "peer_connected", "gauge", "1 when the polluxd of this peer is connected.");
	for (unsigned i = 0; i < peers_count(a->peers); i++) {
		const struct peer *p = peers_at(a->peers, i);

		add(b, "pollux_peer_connected{peer=\"%s\"} %d\n", peer_config(p)->name,
		    peer_is_up(p));
	}
}

static void vm_state_metrics(struct buf *b, struct agent *a)
{
	struct guest *g;

	head(b, "vm_state", "gauge", "1 for the state that the VM is in.");
	LIST_FOREACH(g, &a->guests, entry)
	{
		add(b, "pollux_vm_state{vm=\"%s\",state=\"%s\"} 1\n", g->name, guest_state_name(g));
	}
	head(b, "vm_term", "gauge", "Ownership term of the VM.");
	LIST_FOREACH(g, &a->guests, entry)
	{
		add(b, "pollux_vm_term{vm=\"%s\"} %llu\n", g->name,
		    (unsigned long long)g->own.record.term);
	}
}

/* From the last statistics of the VM processes; those of now follow by the next scrape. */
static void vm_stat_metrics(struct buf *b, struct agent *a)
{
	static const struct {
		const char *key, *name, *type, *help;
		double unit;
	} stats[] = {
		{"epoch", "vm_epoch", "counter", "Last epoch sealed or whole.", 1},
		{"pages", "vm_pages_total", "counter", "Pages sent in this session.", 1},
		{"bytes_sent", "vm_bytes_sent_total", "counter", "Bytes sent in this session.", 1},
		{"pause_last_ns", "vm_pause_seconds", "gauge", "The last checkpoint's pause.", 1e9},
		{"ack_delay_last_ns", "vm_ack_delay_seconds", "gauge",
		 "From the last seal to its acknowledgement.", 1e9},
	};
	struct guest *g;

	for (size_t i = 0; i < ARRAY_LEN(stats); i++) {
		head(b, stats[i].name, stats[i].type, stats[i].help);
		LIST_FOREACH(g, &a->guests, entry)
		{
			const json_t *r = json_object_get(g->stats, "replication");

			if (r)
				add(b, "pollux_%s{vm=\"%s\"} %.9g\n", stats[i].name, g->name,
				    (double)json_integer_of(r, stats[i].key, 0) / stats[i].unit);
		}
	}
}

char *metrics_text(struct agent *a)
{
	struct buf b = {0};
	struct guest *g;
	char *text = NULL;

	LIST_FOREACH(g, &a->guests, entry)
	{
		guest_vm_stats(g);
	}
	host_metrics(&b, a);
	peer_metrics(&b, a);
	vm_state_metrics(&b, a);
	vm_stat_metrics(&b, a);
	buf_put_u8(&b, 0);
	if (!buf_check(&b))
		text = strdup((char *)b.data);
	buf_free(&b);
	return text;
}

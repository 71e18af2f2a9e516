// SPDX-License-Identifier: Apache-2.0
/* The inside of struct agent: what the parts of polluxd share. Loop's thread only. */
#ifndef POLLUX_AGENT_HOST_H
#define POLLUX_AGENT_HOST_H

#include <sys/queue.h>

#include "agent/agent.h"
#include "agent/burst.h"
#include "agent/fence.h"
#include "agent/jobs.h"
#include "agent/marks.h"
#include "agent/peers.h"

#define GUESTS_MAX 1024
#define BURSTS_MAX 8 /* that are expected at a time */

struct guest;
struct acceptor;
struct http;
LIST_HEAD(guest_list, guest);

/* Several guests may ask for the same host to be fenced: the command runs once. */
struct fence_wait {
	struct guest *guest;
	unsigned id;
	LIST_ENTRY(fence_wait) entry;
};
struct peer_fence {
	struct agent *agent;
	struct fence_run *run; /* NULL: none is under way */
	LIST_HEAD(, fence_wait) waiting;
	uint64_t runs, confirmed;
};

struct agent_counters {
	uint64_t failovers, fence_failures, protects, requests, requests_refused;
};

struct agent {
	struct agent_config config;
	struct loop *loop;
	int lock_fd;
	struct channel_identity *identity;
	struct peers *peers;
	struct peer_fence fences[AGENT_PEERS_MAX]; /* as config.peers */
	struct guest_list guests;
	unsigned guest_count;
	struct acceptor *acceptor;
	struct jobs *jobs;
	struct marks *marks; /* which jobs use */
	struct burst_expected {
		struct burst_key key;
		uint64_t until; /* clock_ns() */
	} bursts[BURSTS_MAX];
	struct http *http;
	struct agent_counters counters;
	uint64_t last_operation, last_check, last_probe, started_ns;
	double handover_ratio;     /* guest_forecast.c; 0 = not known */
	uint64_t handover_work_ns; /* likewise */
	uint64_t
		store_ns; /* that a record takes here to be stored: a running mean; 0 = not known */
};

/* host_burst.c: measuring the link from another host. */
/* -EBUSY: so many are expected already that they would measure each other. */
int host_burst_expect(struct agent *a, const struct burst_key *k) MUST_CHECK;
/* A connection with a preamble of CHANNEL_BURST: takes over `fd`. */
void host_burst_take(struct agent *a, const uint8_t session[SESSION_ID_SIZE], int fd);

/* fence_host.c: the end is guest_fenced(). */
void host_fence(struct agent *a, struct guest *g, const char *peer, unsigned id);
void host_fence_forget(struct agent *a, const struct guest *g);
void host_fences_end(struct agent *a);

#endif

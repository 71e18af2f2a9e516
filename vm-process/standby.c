// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "standby"

struct posted_state {
	struct process *process;
	enum replica_state state;
	char why[200];
};

static void run_state(void *ctx)
{
	struct posted_state *s = ctx;
	struct process *p = s->process;

	p->replica_state = s->state;
	strcpy(p->state_why, s->why);
	process_event(p, json_pack("{s:s, s:s, s:s, s:I, s:b}", "event", "state", "state",
				   replica_state_name(s->state), "why", s->why, "term",
				   (json_int_t)p->session.term, "reset",
				   p->replica && replica_peer_closed(p->replica)));
	free(s);
}

static void on_state(void *ctx, enum replica_state state, const char *why)
{
	struct posted_state *s = calloc(1, sizeof *s);

	if (!s) {
		log_error("no memory to report a change of state");
		return;
	}
	s->process = ctx;
	s->state = state;
	text_copy(s->why, sizeof s->why, why);
	process_post(s->process, run_state, s);
}

int standby_prepare(struct process *p, const json_t *request, struct error *e)
{
	struct replica_events events = {.state = on_state, .ctx = p};
	struct replicate_config c;
	int rc = session_parse(request, &c, e);

	if (rc)
		return rc;
	if (p->replica)
		return error_set(e, -EBUSY, "this standby serves a session already");
	p->session = c;
	members_fill(p, request);
	/* Its own copies are written from now on; shared images are the primary's until the end. */
	rc = vm_disks_claim(p->vm, VM_DISKS_ALL & ~p->disks_shared, e);
	if (rc)
		return rc;
	rc = replica_create(p->vm, &c, p->members, p->member_count, &events, &p->replica, e);
	if (!rc && c.handover)
		rc = postcopy_expect(p, e);
	return rc;
}

int standby_stream(struct process *p, const json_t *request, int fd, struct error *e)
{
	json_int_t stream = json_integer_value(json_object_get(request, "stream"));
	int rc;

	if (stream >= POSTCOPY_STREAM && stream <= UINT16_MAX)
		return postcopy_stream(p, (uint16_t)stream, fd, e);

	if (!p->replica || stream < 0 || stream >= CHANNEL_STREAMS_MAX) {
		close(fd);
		return error_set(e, -EINVAL, "no session waits for that stream");
	}
	rc = replica_add_stream(p->replica, (uint16_t)stream, fd);
	if (rc)
		return error_set(e, rc, "stream %d was refused: %s", (int)stream, strerror(-rc));
	return 0;
}

/* The guest's flushed data was in two memories, the primary's disk and ours; now it
 * must be on stable storage again. Not before the guest goes on: that would make
 * every failover as slow as the disk. */
static void *flush_main(void *ctx)
{
	struct process *p = ctx;
	struct error e = {0};

	for (unsigned i = 0; i < p->config.disk_count; i++)
		if (p->disks[i].target && mirror_target_flush(p->disks[i].target, &e))
			log_error("%s", e.text);
	return NULL;
}

int standby_load(struct process *p, const json_t *request, struct error *e)
{
	json_int_t term = json_integer_value(json_object_get(request, "term"));
	int rc;

	if (!p->replica)
		return error_set(e, -EINVAL, "this process holds no twin");
	if (term < 1)
		return error_set(e, -EINVAL, "promote and load need a \"term\"");
	/* By force it is promoted under another term than it was loaded for. */
	if (p->loaded_term) {
		p->loaded_term = (uint64_t)term;
		return 0;
	}
	rc = replica_promote(p->replica, (uint64_t)term, e);
	if (!rc && p->session.handover)
		rc = postcopy_begin(p, e);
	if (!rc)
		p->loaded_term = (uint64_t)term;
	return rc;
}

int standby_promote(struct process *p, const json_t *request, json_t *reply, struct error *e)
{
	struct replicate_stats stats;
	uint64_t began = clock_ns();
	int rc = standby_load(p, request, e);

	if (rc)
		return rc;
	rc = p->postcopy ? postcopy_start(p, e) : vm_start(p->vm, e);
	if (rc)
		return error_context(e, "the twin's state is loaded but it does not start");
	p->vm_started = true;
	p->role = ROLE_PRIMARY;
	p->replicator_state = REPLICATOR_UNPROTECTED;
	process_announce(p);
	replica_stats(p->replica, &stats);
	json_object_set_new(reply, "epoch", json_integer((json_int_t)stats.acknowledged));
	json_object_set_new(reply, "postcopy", json_boolean(p->postcopy));
	json_object_set_new(reply, "ms", json_real((double)(clock_ns() - began) / 1e6));
	if (!p->flush_running && !thread_start(&p->flush_thread, "disk-flush", flush_main, p))
		p->flush_running = true;
	log_info("promoted under term %lu at epoch %lu", p->loaded_term, stats.acknowledged);
	return 0;
}

void standby_close(struct process *p)
{
	postcopy_close(p);
	if (p->flush_running)
		pthread_join(p->flush_thread, NULL);
	p->flush_running = false;
	if (p->replica)
		replica_destroy(p->replica);
	p->replica = NULL;
}

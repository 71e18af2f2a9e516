// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm-process/process.h"

#define LOG_MODULE     "primary"
#define STOP_PATIENCE  (10 * NS_PER_SEC)
#define CLAIM_AGAIN_NS (200 * NS_PER_MS)

/* ---- what replicate/ sees of a disk and of a NIC ---------------------------- */

/* Its part of the session's limit. */
static uint64_t copy_rate(const struct process_disk *d)
{
	const struct process *p = d->process;
	uint64_t memory = p->session.copy_none ? 0 : vm_ram_pages(p->vm) * VM_PAGE_SIZE, all = 0;

	for (unsigned i = 0; i < p->member_count; i++)
		all += p->members[i].size;
	return bandwidth_of_member(p->session.bytes_per_second, memory, all, d->file->size);
}

static int member_start(void *ctx, int (*emit)(void *emit_ctx, const struct iovec *iov, int n),
			void *emit_ctx, void (*on_synced)(void *emit_ctx, int rc))
{
	struct process_disk *d = ctx;

	return mirror_source_start(d->source, emit, emit_ctx, copy_rate(d), on_synced);
}

static void member_stop(void *ctx)
{
	mirror_source_stop(((struct process_disk *)ctx)->source);
}

static int member_receive(void *ctx, uint64_t epoch, bool direct, const uint8_t *payload,
			  size_t len, struct error *e)
{
	struct process_disk *d = ctx;

	return mirror_target_receive(d->target, epoch, direct, payload, len, e);
}

static int member_commit(void *ctx, uint64_t epoch, struct error *e)
{
	return mirror_target_commit(((struct process_disk *)ctx)->target, epoch, e);
}

static void member_discard(void *ctx)
{
	mirror_target_discard(((struct process_disk *)ctx)->target);
}

/* Of a request that session_parse() has checked. */
static unsigned disks_shared(const json_t *request)
{
	const char *storage = json_string_value(json_object_get(request, "storage"));

	if (storage && !strcmp(storage, "shared"))
		return VM_DISKS_ALL;
	return (unsigned)json_integer_value(json_object_get(request, "shared_disks"));
}

void members_fill(struct process *p, const json_t *request)
{
	p->member_count = 0;
	p->disks_shared = disks_shared(request);
	for (unsigned i = 0; i < p->config.disk_count; i++) {
		if (p->disks[i].file->readonly || p->disks_shared >> i & 1)
			continue;
		p->members[p->member_count++] = (struct epoch_member){
			.id = (uint16_t)(i + 1),
			.size = p->disks[i].file->size,
			.ctx = &p->disks[i],
			.start = member_start,
			.stop = member_stop,
			.receive = member_receive,
			.commit = member_commit,
			.discard = member_discard,
		};
	}
}

bool member_of(const struct process *p, const struct process_disk *d)
{
	for (unsigned i = 0; p->replicator && i < p->member_count; i++)
		if (p->members[i].ctx == d)
			return true;
	return false;
}

uint64_t members_bytes(const struct process *p)
{
	struct mirror_progress m;
	uint64_t sum = 0;

	for (unsigned i = 0; i < p->member_count; i++) {
		mirror_source_progress(((struct process_disk *)p->members[i].ctx)->source, &m);
		sum += m.emitted_bytes;
	}
	return sum;
}

static void output_hold(void *ctx, uint64_t open_epoch)
{
	netbuf_hold(ctx, open_epoch);
}

static void output_pass(void *ctx)
{
	netbuf_pass(ctx);
}

static void output_seal(void *ctx, uint64_t epoch)
{
	netbuf_seal(ctx, epoch);
}

static void output_release(void *ctx, uint64_t acknowledged_epoch)
{
	netbuf_release(ctx, acknowledged_epoch);
}

static unsigned outputs_fill(struct process *p, struct epoch_output out[EPOCH_OUTPUTS_MAX])
{
	for (unsigned i = 0; i < p->config.nic_count; i++)
		out[i] = (struct epoch_output){.ctx = p->nics[i].netbuf,
					       .hold = output_hold,
					       .pass = output_pass,
					       .seal = output_seal,
					       .release = output_release};
	return p->config.nic_count;
}

/* ---- events ------------------------------------------------------------------- */

struct posted_state {
	struct process *process;
	uint64_t session, term;
	enum replicator_state state;
	char why[200];
};

static void replicator_drop(struct process *p)
{
	struct replicator *r = p->replicator;

	pthread_mutex_lock(&p->lock);
	p->replicator = NULL;
	pthread_mutex_unlock(&p->lock);
	loop_timer_set(p->progress, 0);
	loop_timer_set(p->claim, 0);
	if (r)
		replicator_destroy(r);
	precopy_destroy(p->precopy);
	p->precopy = NULL;
	postcopy_withdraw(p);
}

/* Its disks may still be the other host's for a moment, and until they are had the guest stands
 * still: so it is tried again, also when nobody asks. */
static int go_on(struct process *p, enum ownership_answer answer, struct error *e)
{
	int rc = vm_disks_claim(p->vm, VM_DISKS_ALL, e);

	p->claim_answer = answer;
	loop_timer_set(p->claim, rc ? clock_ns() + CLAIM_AGAIN_NS : 0);
	if (rc)
		return error_context(e, "the guest stands still, and it is tried again");
	postcopy_withdraw(p);
	replicator_ownership(p->replicator, answer);
	return 0;
}

void primary_claim_again(void *ctx)
{
	struct process *p = ctx;
	struct error e = {0};

	if (!p->replicator)
		return;
	if (go_on(p, p->claim_answer, &e))
		log_debug("%s", e.text);
	else
		log_info("the disks are claimed: the guest goes on");
}

/* The guest stands still: before anybody hears that it may go on elsewhere, shared images are
 * that other host's. False: they cannot be, or what it lacks cannot be sent, and `why`. It goes on
 * here when that is stored: the standby has all that it takes to run, and would, should this
 * host die with a record that says that it may. */
static bool handed_take(struct process *p, char *why, size_t room)
{
	struct error e = {0};
	int rc = postcopy_serve(p, &e);

	if (!rc)
		rc = vm_disks_yield(p->vm, p->disks_shared, &e);
	if (!rc)
		return true;
	log_error("not handed over: %s", e.text);
	text_copy(p->not_handed, sizeof p->not_handed, e.text);
	snprintf(why, room, "it could not be handed over: %s", p->not_handed);
	return false;
}

/* The replicator ended it in good order, and knows no more. */
static void precopy_reason(struct process *p, char *why, size_t room)
{
	struct migrate_progress m = {0};

	if (p->precopy)
		precopy_progress(p->precopy, &m);
	if (p->not_handed[0])
		snprintf(why, room, "it could not be handed over: %s", p->not_handed);
	else if (m.gave_up)
		text_copy(why, room, m.why);
}

void primary_handed_put(struct process *p, json_t *o)
{
	if (p->replicator && p->replicator_state == REPLICATOR_HANDED)
		migrate_handed_put(p, o);
}

static json_t *state_json(struct process *p, const struct posted_state *s)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:b}", "event", "state", "state",
			      replicator_state_name(s->state), "why", s->why, "term",
			      (json_int_t)s->term, "handover", p->session.handover);

	primary_handed_put(p, o);
	json_object_set_new(
		o, "postcopy",
		json_boolean(s->state == REPLICATOR_HANDED && replicator_missing(p->replicator)));
	return o;
}

static void run_state(void *ctx)
{
	struct posted_state *s = ctx;
	struct process *p = s->process;

	/* An event of a session that has been replaced meanwhile says nothing now. */
	if (s->session != p->sessions || (s->state == REPLICATOR_HANDED && !p->replicator))
		goto out;
	if (s->state == REPLICATOR_HANDED && !handed_take(p, s->why, sizeof s->why))
		s->state = REPLICATOR_LOST;
	p->replicator_state = s->state;
	if (s->state == REPLICATOR_UNPROTECTED)
		precopy_reason(p, s->why, sizeof s->why);
	strcpy(p->state_why, s->why);
	if (s->state == REPLICATOR_UNPROTECTED)
		replicator_drop(p);
	else
		loop_timer_set(p->progress, s->state == REPLICATOR_SYNCING ? clock_ns() : 0);
	process_event(p, state_json(p, s));
out:
	free(s);
}

static void on_state(void *ctx, enum replicator_state state, const char *why)
{
	struct process *p = ctx;
	struct posted_state *s = calloc(1, sizeof *s);

	if (!s) {
		log_error("no memory to report a change of state");
		return;
	}
	s->process = p;
	s->session = p->sessions;
	s->term = p->session.term;
	s->state = state;
	text_copy(s->why, sizeof s->why, why);
	process_post(p, run_state, s);
}

void primary_output(struct process *p)
{
	pthread_mutex_lock(&p->lock);
	if (p->replicator)
		replicator_output(p->replicator);
	pthread_mutex_unlock(&p->lock);
}

/* ---- requests --------------------------------------------------------------- */

static void run_rehearse(void *ctx)
{
	process_event(ctx, json_pack("{s:s}", "event", "rehearse"));
}

static void on_rehearse(void *ctx)
{
	process_post(ctx, run_rehearse, ctx);
}

/* Who decides about rounds, when the session is a migration. */
static int precopy_begin(struct process *p, const json_t *request, struct replicate_config *c,
			 struct error *e)
{
	struct migrate_config m;
	int rc;

	if (!c->handover)
		return 0;
	if (!json_object_get(request, "delta_mb"))
		c->delta_bytes = migrate_delta_bytes(p);
	rc = migrate_parse(json_object_get(request, "migrate"), &m, e);
	if (!rc && m.stuck == STUCK_POSTCOPY)
		rc = postcopy_offer(p, c, e);
	if (!rc && precopy_create(p->vm, &m, p->postcopy_source, &p->precopy))
		rc = error_set(e, -ENOMEM, "no memory");
	if (!rc)
		precopy_rehearsal(p->precopy, on_rehearse, p);
	c->most_ns = m.most_ns;
	c->copy_none = m.postcopy_only;
	c->idle_ns = rc ? 0 : migrate_idle_ns(&m);
	c->next = precopy_next;
	c->next_ctx = p->precopy;
	return rc;
}

int primary_protect(struct process *p, const json_t *request, struct error *e)
{
	struct replicator_events events = {.state = on_state, .ctx = p};
	struct epoch_output outputs[EPOCH_OUTPUTS_MAX];
	struct replicate_config c;
	struct replicator *r = NULL;
	unsigned output_count;
	int rc = session_parse(request, &c, e);

	if (rc)
		return rc;
	if (!c.port)
		return error_set(e, -EINVAL, "protect needs the \"address\" of the standby");
	if (p->replicator && p->replicator_state != REPLICATOR_LOST)
		return error_set(e, -EBUSY,
				 "the vm has a replication session already: unprotect first");
	if (!p->vm_started || p->vm_ended || p->paused || p->image)
		return error_set(e, -EINVAL, "only a running vm can be protected");
	rc = process_whole(p, e);
	if (rc)
		return rc;
	/* After a loss without a verdict, what is held stays held into the new session. */
	c.held = p->replicator_state == REPLICATOR_LOST;
	replicator_drop(p);
	postcopy_forget(p);
	rc = precopy_begin(p, request, &c, e);
	if (rc) {
		replicator_drop(p);
		return rc;
	}
	p->sessions++;
	p->session = c;
	p->not_handed[0] = '\0';
	members_fill(p, request);
	output_count = outputs_fill(p, outputs);
	p->replicator_state = REPLICATOR_CONNECTING;
	rc = replicator_start(p->vm, &c, p->members, p->member_count, outputs, output_count,
			      &events, &r, e);
	if (rc) {
		p->replicator_state = c.held ? REPLICATOR_LOST : REPLICATOR_UNPROTECTED;
		replicator_drop(p);
		return rc;
	}
	pthread_mutex_lock(&p->lock);
	p->replicator = r;
	pthread_mutex_unlock(&p->lock);
	return 0;
}

int primary_unprotect(struct process *p, struct error *e)
{
	int rc;

	if (!p->replicator && p->replicator_state == REPLICATOR_LOST)
		return error_set(e, -ENOTCONN,
				 "the standby was lost and no session has begun since: protect it");
	if (!p->replicator)
		return 0;
	rc = replicator_stop(p->replicator, clock_ns() + STOP_PATIENCE, e);
	if (rc)
		return rc;
	replicator_drop(p);
	p->replicator_state = REPLICATOR_UNPROTECTED;
	return 0;
}

/* Otherwise the word is older than the session, or said twice: it changes nothing. Until it is
 * LOST or HANDED the session may link to what a postcopy would serve. */
static bool asks(const struct process *p)
{
	return p->replicator_state == REPLICATOR_LOST || p->replicator_state == REPLICATOR_HANDED;
}

int primary_ownership(struct process *p, const json_t *request, struct error *e)
{
	static const struct {
		const char *name;
		enum ownership_answer answer;
	} answers[] = {{"confirmed", OWNERSHIP_CONFIRMED},
		       {"forced", OWNERSHIP_FORCED},
		       {"denied", OWNERSHIP_DENIED}};
	const char *answer = json_string_value(json_object_get(request, "answer"));

	if (!p->replicator)
		return error_set(e, -EINVAL, "there is no session that asked");
	for (size_t i = 0; answer && i < ARRAY_LEN(answers); i++)
		if (!strcmp(answer, answers[i].name)) {
			if (answers[i].answer != OWNERSHIP_DENIED)
				return asks(p) ? go_on(p, answers[i].answer, e) : 0;
			loop_timer_set(p->claim, 0);
			replicator_ownership(p->replicator, OWNERSHIP_DENIED);
			/* At once: the next request may be older than its report. */
			p->replicator_state = REPLICATOR_FENCED;
			return 0;
		}
	if (!answer || strcmp(answer, "lost"))
		return error_set(e, -EINVAL,
				 "\"answer\" must be confirmed, forced, denied or lost");
	replicator_cut(p->replicator);
	return 0;
}

void primary_close(struct process *p)
{
	struct error e = {0};

	/* What it serves must not be written, and the end of the pause lets devices go on. */
	if (p->serving)
		postcopy_withdraw(p);

	if (primary_unprotect(p, &e))
		log_warn("the session did not end in good order: %s", e.text);
	replicator_drop(p);
}

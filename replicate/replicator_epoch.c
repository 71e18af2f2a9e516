// SPDX-License-Identifier: Apache-2.0
/* The epoch thread: the first copy, checkpoints, and whatever stops and starts the guest. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "replicate/core_util.h"
#include "replicate/replicator.h"
#include "replicate/waits.h"

#define LOG_MODULE     "replicator"
#define ROUNDS_MAX     30u
#define ROUND_SMALL    512u /* pages that one checkpoint may as well take */
#define ROUND_REST_NS  (50 * NS_PER_MS)
#define LINK_REST_NS   NS_PER_MS
#define AGAIN_NS       (300 * NS_PER_MS)
#define AGAIN_MOST_NS  (2 * NS_PER_SEC)
#define MARK_NS        (30 * NS_PER_SEC)
#define TIMER_SLACK_NS 1000ul
#define RESERVE_SPARE  64u

/* ---- members ------------------------------------------------------------------ */

static int member_emit(void *ctx, const struct iovec *iov, int n)
{
	struct member_link *m = ctx;
	int rc = fault_point("replicator.emit");

	if (!rc)
		rc = sender_emit(m->r->sender, m->member.id, iov, n);
	/* The member emits no more, so no later epoch would be whole. */
	if (rc)
		replicator_lost(m->r, rc, "keep a disk's write for the standby");
	return rc;
}

/* Memory shares the limit with members for as long as these are copied. */
static void limit_set(struct replicator *r, bool shared)
{
	uint64_t limit = r->config.bytes_per_second, members = 0;

	for (unsigned i = 0; shared && i < r->member_count; i++)
		members += r->members[i].member.size;
	sender_limit(r->sender,
		     bandwidth_of_memory(limit, vm_ram_pages(r->vm) * VM_PAGE_SIZE, members));
}

static void member_synced(void *ctx, int rc)
{
	struct member_link *m = ctx;

	if (rc)
		atomic_store(&m->r->member_error, rc);
	if (atomic_fetch_sub(&m->r->members_unsynced, 1) == 1)
		limit_set(m->r, false);
	replicator_wake(m->r);
}

static int members_start(struct replicator *r)
{
	int rc = 0;

	atomic_store(&r->members_unsynced, r->member_count);
	limit_set(r, true);
	for (unsigned i = 0; i < r->member_count && !rc; i++) {
		struct member_link *m = &r->members[i];

		rc = m->member.start(m->member.ctx, member_emit, m, member_synced);
		m->started = !rc;
	}
	return rc;
}

void members_stop(struct replicator *r)
{
	for (unsigned i = 0; i < r->member_count; i++) {
		if (r->members[i].started)
			r->members[i].member.stop(r->members[i].member.ctx);
		r->members[i].started = false;
	}
}

/* ---- the first copy --------------------------------------------------------------
 * Rounds, each of the pages written during the one before, until a round is small or
 * no longer shrinks. While disks are still being copied the rounds go on, slowly, so
 * that the first checkpoint has little left to do. What a disk has given waits in the
 * sender's queue: a last round goes behind it, lest output be held while that is sent. */

static uint64_t bytes_so_far(struct replicator *r)
{
	uint64_t bytes;

	pthread_mutex_lock(&r->lock);
	bytes = bytes_sent(r);
	pthread_mutex_unlock(&r->lock);
	return bytes;
}

static void round_begin(struct replicator *r)
{
	r->round_began = clock_ns();
	r->round_bytes = bytes_so_far(r);
	r->round_pages_begun = r->round_count;
	r->round.epoch = 1;
	r->round.remember = r->rounds > 0;
	r->rounds++;
	r->round.mark = r->config.handover && !r->marks_off ? r->rounds : 0;
	r->mark_until = 0;
	r->round_cut = false;
	atomic_store(&r->round_pages, r->round_count);
	atomic_store(&r->round_sent, false);
	r->sync = SYNC_ROUND;
	sender_post(r->sender, &r->round);
}

static void copy_begin(struct replicator *r)
{
	uint64_t pages = vm_ram_pages(r->vm);
	int rc = vm_log_dirty(r->vm, true);

	r->logging = !rc;
	if (!rc)
		rc = members_start(r);
	if (rc) {
		replicator_lost(r, rc, "begin the first copy");
		return;
	}
	epoch_pages_touched(r->vm, r->config.copy_none ? r->dirty : r->round.round);
	r->round_count = bitmap_count(r->round.round, pages);
	r->copy_began = clock_ns();
	round_begin(r);
}

/* A protection: until a round is small, or no longer shrinks. */
static enum replicate_next protect_next(void *ctx, const struct replicate_round *round)
{
	const struct replicator *r = ctx;
	bool suffices = round->dirty <= ROUND_SMALL || round->round >= ROUNDS_MAX ||
			(round->round >= 3 && round->dirty > round->pages - round->pages / 4);

	if (suffices && round->members_synced)
		return NEXT_SEAL;
	return suffices && atomic_load(&r->members_unsynced) && r->sync == SYNC_ROUND ? NEXT_WAIT
										      : NEXT_ROUND;
}

/* What the round took beyond the work of its busiest stream. */
static uint64_t paced_ns(struct replicator *r, uint64_t ns, uint64_t work_ns)
{
	return r->config.bytes_per_second && ns > work_ns ? ns - work_ns : 0;
}

static struct replicate_round round_tell(struct replicator *r, bool synced)
{
	uint64_t now = clock_ns(), ns = now - r->round_began;
	struct sender_stats s;

	sender_stats(r->sender, &s);
	return (struct replicate_round){
		.round = r->rounds,
		.pages = r->round_pages_begun,
		.ns = ns,
		.bytes = bytes_so_far(r) - r->round_bytes,
		.dirty = r->round_count,
		.elapsed_ns = now - r->copy_began,
		.members_synced = synced && (r->members_sent || !r->member_count),
		.members_copied = synced,
		.paced_ns = paced_ns(r, ns, s.round_work_ns),
		.queued = s.queued,
	};
}

/* Each try makes the guest stand still: none is begun when copying has had its time. But what is
 * done because that is over has more than one try, as a disk may be slow for a moment. */
static bool again_is_late(const struct replicator *r)
{
	uint64_t since = core_later(r->copy_began + r->config.most_ns, r->seal_first);

	return r->config.most_ns && clock_ns() >= since + AGAIN_MOST_NS;
}

static enum replicate_next round_decide(struct replicator *r)
{
	bool synced = !atomic_load(&r->members_unsynced);
	struct replicate_round round = round_tell(r, synced);
	enum replicate_next next;

	if (r->sync == SYNC_AGAIN && again_is_late(r))
		return NEXT_STOP;
	if (r->postcopy) /* its seal has failed; the link for the rest is there */
		return NEXT_POSTCOPY;
	if (r->sync == SYNC_AGAIN) { /* what has come since tells nothing of a round */
		r->members_sent = synced;
		return NEXT_ROUND;
	}
	next = r->config.next ? r->config.next(r->config.next_ctx, &round)
			      : protect_next(r, &round);
	/* There is nothing to wait for but what disks have given, which one more round flushes:
	 * it goes before the pages of the round that begins. */
	if (next == NEXT_WAIT && synced)
		next = NEXT_ROUND;
	if (next == NEXT_ROUND)
		r->members_sent = synced;
	return next;
}

static void sync_rest(struct replicator *r, enum sync_state state, uint64_t ns)
{
	r->sync = state;
	r->round_at = clock_ns() + ns;
}

/* What kept the last epoch from being sealed is then the reason. */
static void copy_stop(struct replicator *r)
{
	struct primary_input in = {.type = PRIMARY_EV_STOP,
				   .why = r->sync == SYNC_AGAIN ? r->seal_why : NULL};

	r->sync = SYNC_OFF;
	if (replicator_step(r, &in))
		log_debug("stopped, after the end");
}

static void round_decided(struct replicator *r)
{
	uint64_t bits = vm_ram_pages(r->vm);

	switch (round_decide(r)) {
	case NEXT_POSTCOPY:
		r->postcopy = true; /* fall through */
	case NEXT_SEAL:
		r->sync = SYNC_DONE;
		replicator_event(r, PRIMARY_EV_SYNCED, 0);
		return;
	case NEXT_STOP:
		copy_stop(r);
		return;
	case NEXT_WAIT:
		sync_rest(r, SYNC_REST, ROUND_REST_NS);
		return;
	case NEXT_LINK:
		sync_rest(r, SYNC_LINK, LINK_REST_NS);
		return;
	case NEXT_COUNT:
		sync_rest(r, SYNC_REST, 0);
		return;
	case NEXT_ROUND:
		break;
	}
	if (r->config.copy_none) {
		r->round_count = 0;
	} else {
		memcpy(r->round.round, r->dirty, bitmap_words(bits) * sizeof(*r->dirty));
		memset(r->dirty, 0, bitmap_words(bits) * sizeof(*r->dirty));
	}
	round_begin(r);
}

static void round_next(struct replicator *r)
{
	int rc = vm_dirty_harvest(r->vm, r->dirty);

	if (!r->marks_off && atomic_load(&r->round_done) < r->round.mark) {
		r->marks_off = true;
		r->round_began += MARK_NS; /* nothing was sent meanwhile */
	}
	if (rc) {
		replicator_lost(r, rc, "harvest dirty pages");
		r->sync = SYNC_OFF;
		return;
	}
	if (r->sync == SYNC_ROUND)
		r->round_pages_begun -= sender_left(r->sender, &r->round, r->dirty);
	r->round_count = bitmap_count(r->dirty, vm_ram_pages(r->vm));
	round_decided(r);
}

/* A round of a migration is over when the target has it, and not when it lies in buffers on the
 * way: there the last epoch would wait behind it, with the guest standing still. What fills them
 * takes long on a slow link; but of a standby that knows no marks there is no answer ever. */
static uint64_t round_due(struct replicator *r)
{
	uint64_t done = atomic_load(&r->round_done);

	if (!atomic_load(&r->round_sent))
		return UINT64_MAX;
	if (done >= r->round.mark)
		return 0;
	if (!r->mark_until)
		r->mark_until = done ? UINT64_MAX : clock_ns() + MARK_NS;
	return r->mark_until;
}

/* Rounds have their time, and it may be over in the middle of one. */
static uint64_t round_cut_due(const struct replicator *r)
{
	return r->config.most_ns && !r->round_cut ? r->copy_began + r->config.most_ns : UINT64_MAX;
}

static uint64_t round_step_due(struct replicator *r)
{
	uint64_t due = round_due(r), cut = round_cut_due(r);

	return due < cut ? due : cut;
}

/* When there is something to do for the first copy; 0 = now. */
static uint64_t sync_due(struct replicator *r)
{
	if (r->sync == SYNC_OFF || r->sync == SYNC_DONE)
		return UINT64_MAX;
	if (atomic_load(&r->member_error))
		return 0;
	if (r->sync == SYNC_ROUND)
		return round_step_due(r);
	if (r->sync == SYNC_REST)
		return atomic_load(&r->members_unsynced) ? r->round_at : 0;
	return r->round_at;
}

static void sync_step(struct replicator *r)
{
	int rc = atomic_load(&r->member_error);

	if (rc) {
		r->sync = SYNC_OFF;
		replicator_lost(r, rc, "the first copy of a disk");
		return;
	}
	if (r->sync == SYNC_ROUND && round_due(r) > clock_ns()) {
		r->round_cut = true;
		sender_cut(r->sender);
	} else if (r->sync == SYNC_LINK) {
		round_decided(r);
	} else {
		round_next(r);
	}
}

/* ---- a checkpoint ------------------------------------------------------------------ */

static void outputs_seal(struct replicator *r, uint64_t epoch, bool hold)
{
	for (unsigned i = 0; i < r->output_count; i++) {
		if (hold)
			r->outputs[i].hold(r->outputs[i].ctx, epoch + 1);
		else
			r->outputs[i].seal(r->outputs[i].ctx, epoch);
	}
}

static int pages_take(struct replicator *r, struct capture *c)
{
	uint64_t bits = vm_ram_pages(r->vm);

	if (r->postcopy)
		return capture_missing(c, r->dirty, bits);
	if (r->config.handover)
		return capture_list(c, r->dirty, bits);
	return capture_begin(c, &r->copier, vm_ram(r->vm), r->dirty, bits);
}

/* What is sealed of a handover leaves the guest standing still until the other side has answered:
 * who has cancelled it meanwhile shall not wait for that. */
static int checkpoint_wanted(const struct replicator *r, struct error *e)
{
	if (!r->config.handover || !atomic_load(&r->ending))
		return 0;
	return error_set(e, -ECANCELED, "the session ends");
}

/* In the pause. All that can fail comes first; then the border is drawn at once for
 * members (the post) and outputs. Saving the state changes no RAM: the copy goes on
 * beside it. */
static int checkpoint_take(struct replicator *r, struct capture *c, bool hold, struct error *e)
{
	uint64_t t[4];
	int rc;

	t[0] = clock_ns();
	rc = vm_dirty_harvest(r->vm, r->dirty);
	if (rc)
		return error_set(e, rc, "harvest dirty pages: %s", strerror(-rc));
	rc = pages_take(r, c);
	if (rc)
		return error_set(e, rc, "copy dirty pages: %s", strerror(-rc));
	t[1] = clock_ns();
	buf_reset(&c->state);
	rc = vm_state_save(r->vm, &c->state, e);
	t[2] = clock_ns();
	if (!c->in_place)
		copier_finish(&r->copier);
	if (!rc)
		rc = checkpoint_wanted(r, e);
	if (rc)
		return rc;
	t[3] = clock_ns();
	c->times.harvest = t[1] - t[0];
	c->times.state = t[2] - t[1];
	c->times.copy = t[3] - t[2];
	c->sealed_at = t[3];
	sender_post(r->sender, c);
	outputs_seal(r, c->epoch, hold);
	return 0;
}

/* Requests in flight are part of the state and are made again on the other side: in a handover
 * they must not write to shared storage after that. */
static int checkpoint_pause(struct replicator *r, struct error *e)
{
	uint64_t most = r->config.idle_ns ? r->config.idle_ns : VM_PAUSE_IDLE_NS;
	int rc = r->config.handover ? vm_pause_idle(r->vm, most, &r->ending) : vm_pause(r->vm);

	if (rc == -ETIMEDOUT)
		return error_set(e, rc, "the guest's disks take longer than the %u ms it may wait",
				 (unsigned)(most / NS_PER_MS));
	return rc ? error_set(e, rc, "pause the vm: %s", strerror(-rc)) : 0;
}

static int checkpoint_paused(struct replicator *r, struct capture *c, bool hold, struct error *e)
{
	uint64_t t[4];
	int rc, rc_resume;

	t[0] = clock_ns();
	rc = checkpoint_pause(r, e);
	if (rc)
		return rc;
	t[1] = clock_ns();
	/* Nobody could tell the other side any more that this guest is off. */
	if (r->config.handover && vm_has_ended(r->vm))
		rc = error_set(e, -ESHUTDOWN, "the guest has ended");
	else
		rc = checkpoint_take(r, c, hold, e);
	t[2] = clock_ns();
	r->frozen = !rc && r->config.handover;
	atomic_store(&r->frozen_at, t[0]);
	rc_resume = r->frozen ? 0 : vm_resume(r->vm);
	t[3] = clock_ns();
	if (rc_resume)
		log_error_rc(rc_resume, "the vm cannot go on after a checkpoint");
	c->times.stop = t[1] - t[0];
	c->times.resume = t[3] - t[2];
	return rc;
}

static void checkpoint_note(struct replicator *r, const struct capture *c)
{
	uint64_t pause = pause_total(&c->times);

	pthread_mutex_lock(&r->lock);
	r->times_last = c->times;
	r->pages_last = c->count;
	r->pause_last_ns = pause;
	if (pause > r->pause_max_ns)
		r->pause_max_ns = pause;
	pthread_mutex_unlock(&r->lock);
}

static int checkpoint(struct replicator *r, uint64_t epoch, bool hold, struct error *e)
{
	struct capture *c = &r->captures[epoch % r->capture_count];
	uint64_t expected = r->pages_last + r->pages_last / 4 + RESERVE_SPARE;
	uint64_t bits = vm_ram_pages(r->vm);
	int rc;

	rc = fault_point("replicator.seal");
	if (!rc)
		rc = sender_wait(r->sender, c);
	if (!rc && !r->config.handover)
		rc = capture_reserve(c, expected < bits ? expected : bits);
	if (rc)
		return error_set(e, rc, "get ready: %s", strerror(-rc));
	pthread_mutex_lock(&r->lock);
	c->epoch = epoch;
	pthread_mutex_unlock(&r->lock);
	c->remember = true;
	rc = checkpoint_paused(r, c, hold, e);
	if (rc)
		return rc;
	memset(r->dirty, 0, bitmap_words(bits) * sizeof(*r->dirty));
	checkpoint_note(r, c);
	return 0;
}

/* Its pages are left in r->dirty, for the next. */
static void seal_failed(struct replicator *r, uint64_t epoch, const struct error *e)
{
	struct primary_input in = {
		.type = PRIMARY_EV_SEAL_FAILED, .epoch = epoch, .why = r->seal_why};

	snprintf(r->seal_why, sizeof(r->seal_why), "no checkpoint can be taken: %s", e->text);
	if (e->code != -ESHUTDOWN && e->code != -ECANCELED)
		log_warn("no checkpoint: %s", e->text);
	if (replicator_step(r, &in))
		log_debug("%s, after the end", r->seal_why);
	if (r->config.handover && r->sync == SYNC_DONE && !atomic_load(&r->ending)) {
		r->sync = SYNC_AGAIN;
		r->round_at = clock_ns() + AGAIN_NS;
	}
}

static void seal(struct replicator *r, const struct core_action *a)
{
	struct error e = {0};
	int rc;

	log_context_epoch(a->epoch);
	r->seal_first = r->seal_first ? r->seal_first : clock_ns();
	atomic_store(&r->seal_began, clock_ns());
	rc = checkpoint(r, a->epoch, a->hold, &e);
	atomic_store(&r->seal_began, 0);
	if (rc)
		seal_failed(r, a->epoch, &e);
	else
		replicator_event(r, PRIMARY_EV_SEALED, a->epoch);
}

/* ---- actions ------------------------------------------------------------------------- */

static void do_connect(struct replicator *r, const struct core_action *a)
{
	link_connect(r);
}

static void do_copy(struct replicator *r, const struct core_action *a)
{
	copy_begin(r);
}

/* The pause of a handover ends, for the devices' sake or for good. */
static void unfreeze(struct replicator *r)
{
	int rc = r->frozen ? vm_resume(r->vm) : 0;

	r->frozen = false;
	if (rc)
		log_error_rc(rc, "the vm cannot go on after a migration that failed");
}

static void do_stall(struct replicator *r, const struct core_action *a)
{
	vm_stall(r->vm, STALL_OWNERSHIP);
	unfreeze(r);
}

/* For good. What is frozen stands still already, its devices too: nothing writes to memory that
 * may still be served to whoever owns the vm now. */
static void do_stop_vcpus(struct replicator *r, const struct core_action *a)
{
	if (!r->frozen)
		do_stall(r, a);
}

static void do_resume(struct replicator *r, const struct core_action *a)
{
	unfreeze(r);
	vm_unstall(r->vm, STALL_OWNERSHIP);
}

static void do_bye(struct replicator *r, const struct core_action *a)
{
	link_bye(r);
}

static void do_close(struct replicator *r, const struct core_action *a)
{
	r->sync = SYNC_OFF;
	members_stop(r);
	if (r->logging && vm_log_dirty(r->vm, false))
		log_warn("log-dirty stays on");
	r->logging = false;
}

static void do_report(struct replicator *r, const struct core_action *a)
{
	r->events.state(r->events.ctx, (enum replicator_state)a->state, a->why ? a->why : "");
}

static void (*const doers[PRIMARY_ACTIONS])(struct replicator *, const struct core_action *) = {
	[PRIMARY_CONNECT] = do_connect, [PRIMARY_COPY] = do_copy,
	[PRIMARY_SEAL] = seal,          [PRIMARY_STALL] = do_stall,
	[PRIMARY_RESUME] = do_resume,   [PRIMARY_STOP_VCPUS] = do_stop_vcpus,
	[PRIMARY_BYE] = do_bye,         [PRIMARY_CLOSE] = do_close,
	[PRIMARY_REPORT] = do_report,
};

/* ---- the thread --------------------------------------------------------------------------- */

static bool action_take(struct replicator *r, struct core_action *out, bool *quit,
			uint64_t *deadline)
{
	bool got;

	pthread_mutex_lock(&r->lock);
	got = r->queue_count > 0;
	if (got) {
		*out = r->queue[r->queue_first];
		r->queue_first = (r->queue_first + 1) % ACTION_QUEUE_MAX;
		r->queue_count--;
	}
	*quit = r->quit;
	*deadline = primary_core_deadline(&r->core);
	r->sleep_until = *deadline;
	pthread_mutex_unlock(&r->lock);
	return got;
}

static void epoch_sleep(struct replicator *r, uint64_t until)
{
	uint64_t wakes;

	if (readable_within(r->wake_fd, until) && read(r->wake_fd, &wakes, sizeof(wakes)) < 0)
		log_debug("woken for nothing");
}

void *epoch_main(void *arg)
{
	struct replicator *r = arg;
	struct core_action action;
	uint64_t deadline, due;
	bool quit;

	thread_hasten();
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
	for (;;) {
		if (action_take(r, &action, &quit, &deadline)) {
			doers[action.type](r, &action);
			continue;
		}
		if (quit)
			break;
		due = sync_due(r);
		if (atomic_exchange(&r->output, false))
			replicator_event(r, PRIMARY_EV_OUTPUT, 0);
		else if (deadline <= clock_ns())
			replicator_event(r, PRIMARY_EV_TICK, 0);
		else if (due <= clock_ns())
			sync_step(r);
		else
			epoch_sleep(r, due < deadline ? due : deadline);
	}
	members_stop(r);
	/* Without an answer: it stands still on. */
	if (r->frozen)
		do_stall(r, NULL);
	return NULL;
}

// SPDX-License-Identifier: Apache-2.0
#include "migrate/postcopy_target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "postcopy"

/* ---- what is said on the control stream ------------------------------------------------- */

/* Nothing comes over a link before it was asked for: the list is of one moment. */
static int list_send(struct postcopy_target *t)
{
	uint64_t words[1 + LINK_WORDS_MAX];
	size_t first = t->listed / 64, n = bitmap_words(t->wants.pages) - first;

	if (n > LINK_WORDS_MAX)
		n = LINK_WORDS_MAX;
	words[0] = t->listed;
	memcpy(words + 1, t->wants.missing + first, n * sizeof(*words));
	t->listed += 64 * n;
	return side_say(&t->side, LINK_MISSING, words, 1 + n);
}

static int need_send(struct postcopy_target *t)
{
	uint64_t pages[NEED_MAX];
	unsigned n = page_wants_take(&t->wants, pages, NEED_MAX);

	return n ? side_say(&t->side, LINK_NEED, pages, n) : 0;
}

static int go_send(struct postcopy_target *t)
{
	t->go_said = true;
	t->pushed_at = clock_ns();
	return side_say(&t->side, LINK_GO, NULL, 0);
}

static int all_send(struct postcopy_target *t)
{
	t->all_said = true;
	t->all_at = clock_ns();
	return side_say(&t->side, LINK_ALL, NULL, 0);
}

/* Lock held, dropped meanwhile. Says one thing, or waits until there is something to say. */
static int asks_next(struct postcopy_target *t, uint64_t *beat)
{
	struct side *s = &t->side;
	uint64_t now = clock_ns();

	if (now >= *beat) {
		*beat = now + s->config.heartbeat_ns;
		return side_say(&t->side, LINK_BEAT, &t->wants.left, 1);
	}
	if (t->started && t->listed < t->wants.pages)
		return list_send(t);
	if (t->started && t->wants.asked < t->wants.queued)
		return need_send(t);
	if (t->started && t->go && !t->go_said)
		return go_send(t);
	if (s->complete && !t->all_said)
		return all_send(t);
	(void)cond_wait_until(&s->talk, &s->lock, *beat);
	return 0;
}

/* The source need not hear that all is here; it is given a while to. */
static bool asks_end(const struct postcopy_target *t)
{
	return t->side.over || t->side.quit || t->all_heard ||
	       (t->all_said && clock_ns() >= t->all_at + t->side.config.loss_ns);
}

/* The path of one push stream may be dead while that of the control stream is not: what the
 * source gave to it does not come, and it does not send that again over this link. */
static bool push_is_stuck(const struct postcopy_target *t)
{
	return t->go_said && !t->side.complete &&
	       clock_ns() >= t->pushed_at + t->side.config.stuck_ns;
}

/* Lock held, dropped meanwhile. */
static void link_serve(struct postcopy_target *t)
{
	struct side *s = &t->side;
	uint64_t beat = 0;
	bool stuck = false;
	int rc = 0;

	s->users++;
	while (!rc && !stuck && !asks_end(t)) {
		rc = asks_next(t, &beat);
		stuck = push_is_stuck(t);
	}
	pthread_mutex_unlock(&s->lock);
	if (rc)
		side_cut(s, rc, "control stream");
	else if (stuck)
		side_cut(s, -ETIMEDOUT, "push streams");
	pthread_mutex_lock(&s->lock);
	if (!s->over)
		side_over(s, "");
	side_leave(s);
}

/* ---- the end ------------------------------------------------------------------------------- */

/* Lock held, dropped meanwhile. Nobody may be at the mapping when it ends. */
static void target_finish(struct postcopy_target *t)
{
	struct side *s = &t->side;
	struct vm_lazy *lazy;

	while (s->users) {
		if (!s->over)
			side_over(s, "");
		side_wait(s, UINT64_MAX);
	}
	lazy = t->lazy;
	t->lazy = NULL;
	t->finished = true;
	pthread_mutex_unlock(&s->lock);
	if (lazy)
		vm_lazy_end(lazy);
	pthread_mutex_lock(&s->lock);
	side_state(s, POSTCOPY_DONE, "");
}

void *target_asks_main(void *ctx)
{
	struct postcopy_target *t = ctx;
	struct side *s = &t->side;

	thread_urge();
	pthread_mutex_lock(&s->lock);
	while (!s->quit) {
		if (side_is_up(s))
			link_serve(t);
		else if (s->complete && !t->finished)
			target_finish(t);
		else
			side_wait(s, UINT64_MAX);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the vm ---------------------------------------------------------------------------------- */

static void on_fault(void *ctx, uint64_t page)
{
	struct postcopy_target *t = ctx;
	struct side *s = &t->side;

	pthread_mutex_lock(&s->lock);
	page_wants_fault(&t->wants, page, clock_ns());
	pthread_cond_signal(&s->talk);
	pthread_mutex_unlock(&s->lock);
}

/* vCPUs that wait for a page cannot stop, and are stopped as it is; the others need not run
 * into the same. */
static void target_apply(struct side *s, enum postcopy_state state)
{
	struct postcopy_target *t = (struct postcopy_target *)s;
	bool stall = state == POSTCOPY_CUT, started;

	pthread_mutex_lock(&s->lock);
	started = t->started;
	pthread_mutex_unlock(&s->lock);
	if (!started || stall == t->stalled)
		return;
	t->stalled = stall;
	if (stall)
		vm_stall_ask(s->vm, STALL_MEMORY);
	else
		vm_unstall(s->vm, STALL_MEMORY);
}

static const struct side_ops target_ops = {.apply = target_apply};

/* The list is there before the first fault can be told. */
int postcopy_target_start(struct postcopy_target *t, const uint64_t *missing, struct error *e)
{
	const struct vm_lazy_events events = {on_fault, t};
	struct side *s = &t->side;
	struct vm_lazy *lazy = NULL;
	bool any;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	page_wants_start(&t->wants, missing);
	any = t->wants.left;
	pthread_mutex_unlock(&s->lock);
	if (any)
		rc = vm_lazy_begin(s->vm, missing, &events, &lazy, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	t->lazy = lazy;
	t->started = true;
	s->complete = !any;
	if (any)
		side_state(s, side_is_up(s) ? POSTCOPY_RUNNING : POSTCOPY_CUT,
			   "there is no link yet");
	side_changed(s);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

void postcopy_target_go(struct postcopy_target *t)
{
	pthread_mutex_lock(&t->side.lock);
	t->go = true;
	side_changed(&t->side);
	pthread_mutex_unlock(&t->side.lock);
}

/* ---- streams ----------------------------------------------------------------------------------
 */

/* Lock held. A thread that is done has nothing left but to return. */
static struct target_thread *thread_slot(struct postcopy_target *t)
{
	for (unsigned i = 0; i < TARGET_THREADS_MAX; i++) {
		struct target_thread *a = &t->threads[i];

		if (a->used && a->done) {
			pthread_join(a->thread, NULL);
			*a = (struct target_thread){0};
		}
		if (!a->used)
			return a;
	}
	return NULL;
}

/* Lock held. */
static int attempt_start(struct postcopy_target *t, unsigned stream, int fd)
{
	struct target_thread *a;
	char name[16];
	int rc;

	if (t->side.quit || t->attempts == TARGET_ATTEMPTS_MAX)
		return t->side.quit ? -ESHUTDOWN : -EBUSY;
	a = thread_slot(t);
	if (!a)
		return -EBUSY;
	*a = (struct target_thread){.t = t, .stream = stream, .fd = fd};
	snprintf(name, sizeof(name), "stream-%u", stream % 100u);
	rc = thread_start(&a->thread, name, target_stream_main, a);
	if (rc)
		return rc;
	a->used = true;
	t->attempts++;
	return 0;
}

int postcopy_target_add_stream(struct postcopy_target *t, uint16_t stream, int fd)
{
	int rc = -EINVAL;

	pthread_mutex_lock(&t->side.lock);
	if (stream >= POSTCOPY_STREAM && stream <= POSTCOPY_STREAM + t->side.config.streams)
		rc = attempt_start(t, stream - POSTCOPY_STREAM, fd);
	pthread_mutex_unlock(&t->side.lock);
	if (rc)
		close(fd);
	return rc;
}

void postcopy_target_session(struct postcopy_target *t, const struct postcopy_config *c)
{
	pthread_mutex_lock(&t->side.lock);
	if (memcmp(t->side.config.session, c->session, SESSION_ID_SIZE) != 0)
		t->side.number = 0; /* its links are counted anew */
	side_session(&t->side, c);
	pthread_mutex_unlock(&t->side.lock);
}

/* ---- begin and end ----------------------------------------------------------------------------
 */

void postcopy_target_stats(struct postcopy_target *t, struct postcopy_stats *out)
{
	const struct page_wants *w = &t->wants;

	pthread_mutex_lock(&t->side.lock);
	*out = (struct postcopy_stats){
		.state = t->side.state,
		.missing = w->total,
		.left = w->left,
		.faults = w->faults,
		.pushed = w->pushed,
		.bytes = side_bytes(&t->side),
		.key_updates = side_key_updates(&t->side),
		.links = t->side.links,
		.wait_ns = w->wait_ns,
		.wait_max_ns = w->wait_max_ns,
	};
	pthread_mutex_unlock(&t->side.lock);
}

int postcopy_target_create(struct vm *vm, const struct postcopy_config *c,
			   const struct postcopy_events *events, struct postcopy_target **out,
			   struct error *e)
{
	struct postcopy_target *t = calloc(1, sizeof(*t));
	int rc;

	if (!t || page_wants_init(&t->wants, vm_ram_pages(vm))) {
		free(t);
		return error_set(e, -ENOMEM, "postcopy: out of memory");
	}
	rc = side_init(&t->side, vm, c, events, &target_ops, e);
	if (rc) {
		page_wants_free(&t->wants);
		free(t);
		return rc;
	}
	rc = thread_start(&t->asks, "asks", target_asks_main, t);
	t->asks_started = !rc;
	if (rc) {
		postcopy_target_destroy(t);
		return error_set(e, rc, "start a thread: %s", strerror(-rc));
	}
	*out = t;
	return 0;
}

/* First those who might wait for a page, then whoever brings pages, then the mapping. */
void postcopy_target_destroy(struct postcopy_target *t)
{
	struct side *s;

	if (!t)
		return;
	s = &t->side;
	pthread_mutex_lock(&s->lock);
	s->quit = s->complete = true;
	side_over(s, "");
	pthread_mutex_unlock(&s->lock);
	if (t->asks_started)
		pthread_join(t->asks, NULL);
	for (unsigned i = 0; i < TARGET_THREADS_MAX; i++)
		if (t->threads[i].used)
			pthread_join(t->threads[i].thread, NULL);
	if (t->lazy)
		vm_lazy_end(t->lazy);
	side_free(s);
	page_wants_free(&t->wants);
	free(t);
}

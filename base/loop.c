// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_A_ROUND 64

struct loop_watch {
	struct loop *loop;
	int fd;
	loop_fd_fn *fn; /* NULL once it is unwatched */
	void *ctx;
	LIST_ENTRY(loop_watch) dead;
};

struct loop_timer {
	struct loop *loop;
	uint64_t at_ns; /* 0 = in no list */
	loop_fn *fn;
	void *ctx;
	LIST_ENTRY(loop_timer) entry;
};

struct post {
	loop_fn *fn;
	void *ctx;
	STAILQ_ENTRY(post) entry;
};

LIST_HEAD(timer_list, loop_timer);
LIST_HEAD(watch_list, loop_watch);
STAILQ_HEAD(post_list, post);

/* An unwatched loop_watch may still be named by an event that epoll_wait() has
 * returned and that waits its turn in this round: it is freed when the round is over. */
struct loop {
	int epoll_fd;
	struct loop_watch wake;  /* an eventfd: something was posted, or a stop */
	struct loop_watch alarm; /* a timerfd: the soonest timer */
	uint64_t alarm_at;
	struct timer_list timers; /* soonest first */
	struct timer_list due;    /* of this round, not yet run */
	struct watch_list dead;
	unsigned depth; /* rounds under way: a callback may run a round of its own */
	pthread_mutex_t lock;
	struct post_list posts; /* under lock */
	atomic_bool stop;
};

static void wake_ready(void *ctx, uint32_t events)
{
	struct loop *l = ctx;
	uint64_t n;

	(void)!read(l->wake.fd, &n, sizeof(n));
}

static void alarm_ready(void *ctx, uint32_t events)
{
	struct loop *l = ctx;
	uint64_t n;

	(void)!read(l->alarm.fd, &n, sizeof(n));
	l->alarm_at = 0;
}

static int watch_add(struct loop *l, struct loop_watch *w, uint32_t epoll_events)
{
	struct epoll_event ev = {.events = epoll_events, .data.ptr = w};

	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) ? -errno : 0;
}

static int inner_watch(struct loop *l, struct loop_watch *w, int fd, loop_fd_fn *fn)
{
	if (fd < 0)
		return -errno;
	*w = (struct loop_watch){.loop = l, .fd = fd, .fn = fn, .ctx = l};
	return watch_add(l, w, EPOLLIN);
}

static void fd_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

int loop_create(struct loop **out)
{
	struct loop *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	l->wake.fd = l->alarm.fd = -1;
	LIST_INIT(&l->timers);
	LIST_INIT(&l->due);
	LIST_INIT(&l->dead);
	STAILQ_INIT(&l->posts);
	pthread_mutex_init(&l->lock, NULL);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	rc = l->epoll_fd < 0 ? -errno : 0;
	if (!rc)
		rc = inner_watch(l, &l->wake, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), wake_ready);
	if (!rc)
		rc = inner_watch(l, &l->alarm,
				 timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC),
				 alarm_ready);
	if (rc) {
		loop_destroy(l);
		return rc;
	}
	*out = l;
	return 0;
}

static void dead_free(struct loop *l)
{
	struct loop_watch *w;

	while ((w = LIST_FIRST(&l->dead))) {
		LIST_REMOVE(w, dead);
		free(w);
	}
}

void loop_destroy(struct loop *l)
{
	struct post *p;

	if (!l)
		return;
	while ((p = STAILQ_FIRST(&l->posts))) {
		STAILQ_REMOVE_HEAD(&l->posts, entry);
		free(p);
	}
	dead_free(l);
	fd_close(l->alarm.fd);
	fd_close(l->wake.fd);
	fd_close(l->epoll_fd);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* ---- watches ---------------------------------------------------------------- */

int loop_watch(struct loop *l, int fd, uint32_t epoll_events, loop_fd_fn *fn, void *ctx,
	       struct loop_watch **out)
{
	struct loop_watch *w = malloc(sizeof(*w));
	int rc;

	if (!w)
		return -ENOMEM;
	*w = (struct loop_watch){.loop = l, .fd = fd, .fn = fn, .ctx = ctx};
	rc = watch_add(l, w, epoll_events);
	if (rc) {
		free(w);
		return rc;
	}
	*out = w;
	return 0;
}

int loop_rewatch(struct loop_watch *w, uint32_t epoll_events)
{
	struct epoll_event ev = {.events = epoll_events, .data.ptr = w};

	return epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) ? -errno : 0;
}

void loop_unwatch(struct loop_watch *w)
{
	struct loop *l;

	if (!w)
		return;
	l = w->loop;
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fn = NULL;
	LIST_INSERT_HEAD(&l->dead, w, dead);
	if (!l->depth)
		dead_free(l);
}

/* ---- timers ----------------------------------------------------------------- */

int loop_timer(struct loop *l, loop_fn *fn, void *ctx, struct loop_timer **out)
{
	struct loop_timer *t = malloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	*t = (struct loop_timer){.loop = l, .fn = fn, .ctx = ctx};
	*out = t;
	return 0;
}

static void timer_remove(struct loop_timer *t)
{
	if (t->at_ns)
		LIST_REMOVE(t, entry);
	t->at_ns = 0;
}

/* Behind those of the same time, so that equal timers run in the order they were set. */
static void timer_insert(struct timer_list *list, struct loop_timer *t)
{
	struct loop_timer *other, *before = NULL;

	LIST_FOREACH(other, list, entry)
	{
		if (other->at_ns > t->at_ns)
			break;
		before = other;
	}
	if (before)
		LIST_INSERT_AFTER(before, t, entry);
	else
		LIST_INSERT_HEAD(list, t, entry);
}

void loop_timer_set(struct loop_timer *t, uint64_t at_ns)
{
	timer_remove(t);
	t->at_ns = at_ns;
	if (at_ns)
		timer_insert(&t->loop->timers, t);
}

void loop_timer_free(struct loop_timer *t)
{
	if (!t)
		return;
	timer_remove(t);
	free(t);
}

/* The due timers leave the list before any of them runs: one that sets itself
 * again, even into the past, waits for the next round. */
static void timers_run(struct loop *l)
{
	uint64_t now = clock_ns();
	struct loop_timer *t;

	while ((t = LIST_FIRST(&l->timers)) && t->at_ns <= now) {
		LIST_REMOVE(t, entry);
		timer_insert(&l->due, t);
	}
	while ((t = LIST_FIRST(&l->due))) {
		timer_remove(t);
		t->fn(t->ctx);
	}
}

static int alarm_set(struct loop *l, uint64_t at_ns)
{
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / NS_PER_SEC),
					       .tv_nsec = (long)(at_ns % NS_PER_SEC)}};

	if (timerfd_settime(l->alarm.fd, TFD_TIMER_ABSTIME, &when, NULL))
		return -errno;
	l->alarm_at = at_ns;
	return 0;
}

/* epoll_wait() counts milliseconds of CLOCK_MONOTONIC, which is too coarse for
 * checkpoints and stands still while the host is suspended: hence the timerfd. */
static int alarm_update(struct loop *l)
{
	struct loop_timer *soonest = LIST_FIRST(&l->timers);

	if (!soonest || soonest->at_ns == l->alarm_at)
		return 0;
	return alarm_set(l, soonest->at_ns);
}

/* ---- posted calls, from any thread ------------------------------------------ */

static void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	(void)!write(l->wake.fd, &one, sizeof(one));
}

int loop_post(struct loop *l, loop_fn *fn, void *ctx)
{
	struct post *p = malloc(sizeof(*p));
	bool first;

	if (!p)
		return -ENOMEM;
	*p = (struct post){.fn = fn, .ctx = ctx};
	pthread_mutex_lock(&l->lock);
	first = STAILQ_EMPTY(&l->posts);
	STAILQ_INSERT_TAIL(&l->posts, p, entry);
	if (first)
		loop_wake(l);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

/* Only those that are there now: a call that posts itself again must not starve the rest. */
static void posts_run(struct loop *l)
{
	struct post_list mine = STAILQ_HEAD_INITIALIZER(mine);
	struct post *p;

	pthread_mutex_lock(&l->lock);
	STAILQ_CONCAT(&mine, &l->posts);
	pthread_mutex_unlock(&l->lock);
	while ((p = STAILQ_FIRST(&mine))) {
		STAILQ_REMOVE_HEAD(&mine, entry);
		p->fn(p->ctx);
		free(p);
	}
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	loop_wake(l);
}

/* ---- rounds ----------------------------------------------------------------- */

int loop_step(struct loop *l, int timeout_ms)
{
	struct epoll_event events[EVENTS_A_ROUND];
	int n, rc;

	rc = alarm_update(l);
	if (rc)
		return rc;
	n = epoll_wait(l->epoll_fd, events, EVENTS_A_ROUND, timeout_ms);
	if (n < 0 && errno != EINTR)
		return -errno;
	l->depth++;
	for (int i = 0; i < n; i++) {
		struct loop_watch *w = events[i].data.ptr;

		if (w->fn)
			w->fn(w->ctx, events[i].events);
	}
	timers_run(l);
	posts_run(l);
	if (--l->depth == 0)
		dead_free(l);
	return 0;
}

int loop_run(struct loop *l)
{
	int rc = 0;

	while (!rc && !atomic_load(&l->stop))
		rc = loop_step(l, -1);
	atomic_store(&l->stop, false);
	return rc;
}

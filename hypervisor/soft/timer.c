// SPDX-License-Identifier: Apache-2.0
/* The chips' lock, and the thread that fires their timers. */
#include <errno.h>
#include <time.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/soft/chips.h"
#include "hypervisor/soft/machine.h"

uint64_t soft_now(const struct engine *en)
{
	return en->params.deterministic ? soft_virtual_now(en) : clock_ns();
}

uint64_t soft_wall_now(const struct engine *en)
{
	struct timespec t;

	if (en->params.deterministic)
		return DETERMINISTIC_WALL_NS + soft_virtual_now(en);
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

void soft_chips_enter(struct engine *en)
{
	pthread_mutex_lock(&en->chips_lock);
}

void soft_chips_leave(struct engine *en)
{
	if (soft_chips_deadline(en->chips) < en->timer_at) {
		if (en->params.deterministic)
			soft_turns_look(en);
		else
			pthread_cond_signal(&en->timer_moved);
	}
	pthread_mutex_unlock(&en->chips_lock);
}

/* clock_ns() is CLOCK_BOOTTIME, which a condition cannot wait on: the time that is left
 * counts from now on the monotonic clock. */
static void wait_until(struct engine *en, uint64_t at)
{
	struct timespec t;
	uint64_t now = clock_ns(), ns;

	if (at == UINT64_MAX) {
		pthread_cond_wait(&en->timer_moved, &en->chips_lock);
		return;
	}
	if (at <= now)
		return;
	clock_gettime(CLOCK_MONOTONIC, &t);
	ns = (uint64_t)t.tv_nsec + (at - now);
	t.tv_sec += (time_t)(ns / NS_PER_SEC);
	t.tv_nsec = (long)(ns % NS_PER_SEC);
	pthread_cond_timedwait(&en->timer_moved, &en->chips_lock, &t);
}

static void *timer_main(void *ctx)
{
	struct engine *en = ctx;

	pthread_mutex_lock(&en->chips_lock);
	while (!en->timer_quit) {
		en->timer_at = soft_chips_deadline(en->chips);
		if (en->timer_at <= soft_now(en))
			soft_chips_run(en->chips, soft_now(en));
		else
			wait_until(en, en->timer_at);
	}
	pthread_mutex_unlock(&en->chips_lock);
	return NULL;
}

static int cond_monotonic(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int rc = pthread_condattr_init(&attr);

	if (rc)
		return -rc;
	rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!rc)
		rc = pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return -rc;
}

int soft_timer_start(struct engine *en)
{
	int rc = cond_monotonic(&en->timer_moved);

	if (rc)
		return rc;
	en->timer_at = UINT64_MAX;
	rc = thread_start(&en->timer, "soft-timer", timer_main, en);
	if (rc)
		pthread_cond_destroy(&en->timer_moved);
	return rc;
}

void soft_timer_stop(struct engine *en)
{
	pthread_mutex_lock(&en->chips_lock);
	en->timer_quit = true;
	pthread_cond_signal(&en->timer_moved);
	pthread_mutex_unlock(&en->chips_lock);
	pthread_join(en->timer, NULL);
	pthread_cond_destroy(&en->timer_moved);
}

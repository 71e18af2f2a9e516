// SPDX-License-Identifier: Apache-2.0
/*
 * vCPUs that run a part of the time: a thread makes them park and lets them go, by a
 * request of its own (run.c), so that a pause neither waits for it nor ends it.
 * Lock order: throttle->lock, then run->lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "hypervisor/machine.h"

#define LOG_MODULE   "throttle"
#define PERIOD_NS    (10 * NS_PER_MS)
#define RUN_LEAST_NS NS_PER_MS /* for less, to park and to wake would be most of it */
#define PERCENT_MOST 99u

struct throttle {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* percent, quit */
	unsigned percent;
	bool quit, running;
	pthread_t thread;
};

static uint64_t period_of(unsigned percent)
{
	uint64_t least = RUN_LEAST_NS * 100 / (100 - percent);

	return least > PERIOD_NS ? least : PERIOD_NS;
}

/* Ends early when something has changed. How long it really took. */
static uint64_t throttle_sleep(struct throttle *t, unsigned percent, uint64_t ns)
{
	uint64_t from = clock_ns();

	while (!t->quit && t->percent == percent &&
	       !cond_wait_until(&t->changed, &t->lock, from + ns))
		;
	return clock_ns() - from;
}

/* On a busy host this thread wakes late, and they have run for longer than they should: so
 * they stand in proportion to what they had. */
static void throttle_at(struct throttle *t, unsigned percent)
{
	uint64_t run = period_of(percent) * (100 - percent) / 100, ran = run;

	while (!t->quit && t->percent == percent) {
		run_throttle(t->vm, true);
		(void)throttle_sleep(t, percent, ran * percent / (100 - percent));
		run_throttle(t->vm, false);
		ran = throttle_sleep(t, percent, run);
	}
}

static void *throttle_main(void *ctx)
{
	struct throttle *t = ctx;

	thread_hasten();
	pthread_mutex_lock(&t->lock);
	while (!t->quit) {
		if (t->percent)
			throttle_at(t, t->percent);
		else
			pthread_cond_wait(&t->changed, &t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int throttle_create(struct vm *vm)
{
	struct throttle *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->vm = vm;
	pthread_mutex_init(&t->lock, NULL);
	cond_setup(&t->changed);
	vm->throttle = t;
	return 0;
}

void throttle_destroy(struct vm *vm)
{
	struct throttle *t = vm->throttle;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->quit = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	if (t->running)
		pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
	vm->throttle = NULL;
}

void vm_throttle(struct vm *vm, unsigned percent)
{
	struct throttle *t = vm->throttle;
	int rc = 0;

	if (vm->engine_ops->stepped)
		return;
	pthread_mutex_lock(&t->lock);
	t->percent = percent < PERCENT_MOST ? percent : PERCENT_MOST;
	if (!t->running && t->percent)
		rc = thread_start(&t->thread, "throttle", throttle_main, t);
	if (!rc && t->percent)
		t->running = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	if (rc)
		log_warn_rc(rc, "the guest stays at full speed");
}

unsigned vm_throttle_now(const struct vm *vm)
{
	struct throttle *t = vm->throttle;
	unsigned percent;

	pthread_mutex_lock(&t->lock);
	percent = t->percent;
	pthread_mutex_unlock(&t->lock);
	return percent;
}

// SPDX-License-Identifier: Apache-2.0
#include "agent/jobs.h"

#include <errno.h>
#include <stdlib.h>

#define END_NS (3 * NS_PER_SEC)

/* `box` is NULL from the end on. Freed by whoever is the last: the end, or a job after it. */
struct jobs {
	pthread_mutex_t lock;
	pthread_cond_t idle;
	struct mailbox *box;
	unsigned running;
};

static void job_take(void *ctx, struct mail *m)
{
	struct job *j = (struct job *)m;

	j->done(j);
}

static void job_drop(struct mail *m)
{
	struct job *j = (struct job *)m;

	j->drop(j);
}

static void jobs_free(struct jobs *all)
{
	pthread_cond_destroy(&all->idle);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

int jobs_create(struct loop *l, struct jobs **out)
{
	struct jobs *all = calloc(1, sizeof(*all));
	int rc;

	if (!all)
		return -ENOMEM;
	pthread_mutex_init(&all->lock, NULL);
	cond_setup(&all->idle);
	rc = mailbox_create(l, job_take, job_drop, all, &all->box);
	if (rc)
		jobs_free(all);
	else
		*out = all;
	return rc;
}

static void *job_main(void *ctx)
{
	struct job *j = ctx;
	struct jobs *all = j->jobs;
	bool last, late;

	j->run(j);
	pthread_mutex_lock(&all->lock);
	late = !all->box;
	if (!late)
		mailbox_put(all->box, &j->mail);
	last = --all->running == 0;
	pthread_cond_signal(&all->idle);
	pthread_mutex_unlock(&all->lock);
	if (late)
		j->drop(j);
	if (late && last)
		jobs_free(all);
	return NULL;
}

int jobs_start(struct jobs *all, struct job *j)
{
	pthread_t thread;
	int rc = 0;

	j->jobs = all;
	pthread_mutex_lock(&all->lock);
	if (all->running >= JOBS_MAX)
		rc = -EBUSY;
	else
		rc = thread_start(&thread, "job", job_main, j);
	if (!rc)
		all->running++;
	pthread_mutex_unlock(&all->lock);
	if (!rc)
		pthread_detach(thread);
	return rc;
}

void jobs_destroy(struct jobs *all)
{
	uint64_t deadline = clock_ns() + END_NS;
	bool idle;

	if (!all)
		return;
	pthread_mutex_lock(&all->lock);
	while (all->running && !cond_wait_until(&all->idle, &all->lock, deadline))
		;
	mailbox_destroy(all->box);
	all->box = NULL;
	idle = !all->running;
	pthread_mutex_unlock(&all->lock);
	if (idle)
		jobs_free(all);
}

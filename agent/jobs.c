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
	STAILQ_HEAD(, mail) waiting; /* none while a thread more may run */
	unsigned running, waiting_count;
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
	STAILQ_INIT(&all->waiting);
	pthread_mutex_init(&all->lock, NULL);
	cond_setup(&all->idle);
	rc = mailbox_create(l, job_take, job_drop, all, &all->box);
	if (rc)
		jobs_free(all);
	else
		*out = all;
	return rc;
}

/* Lock held. NULL: none waits. */
static struct job *waiting_take(struct jobs *all)
{
	struct mail *m = STAILQ_FIRST(&all->waiting);

	if (!m)
		return NULL;
	STAILQ_REMOVE_HEAD(&all->waiting, entry);
	all->waiting_count--;
	return (struct job *)m;
}

/* The one that has waited longest; NULL: this thread is not needed any more. */
static struct job *job_end(struct jobs *all, struct job *j)
{
	struct job *next;
	bool last, late;

	pthread_mutex_lock(&all->lock);
	late = !all->box;
	if (!late)
		mailbox_put(all->box, &j->mail);
	next = waiting_take(all);
	all->running -= !next;
	last = !all->running;
	pthread_cond_signal(&all->idle);
	pthread_mutex_unlock(&all->lock);
	if (late)
		j->drop(j);
	if (late && last)
		jobs_free(all);
	return next;
}

static void *job_main(void *ctx)
{
	struct job *j = ctx;
	struct jobs *all = j->jobs;

	while (j) {
		j->run(j);
		j = job_end(all, j);
	}
	return NULL;
}

/* Lock held. */
static int job_wait(struct jobs *all, struct job *j)
{
	if (all->waiting_count == JOBS_WAITING_MAX)
		return -EBUSY;
	STAILQ_INSERT_TAIL(&all->waiting, &j->mail, entry);
	all->waiting_count++;
	return 0;
}

int jobs_start(struct jobs *all, struct job *j)
{
	pthread_t thread;
	int rc;

	j->jobs = all;
	pthread_mutex_lock(&all->lock);
	if (all->running >= JOBS_MAX) {
		rc = job_wait(all, j);
	} else {
		rc = thread_start(&thread, "job", job_main, j);
		if (!rc) {
			all->running++;
			pthread_detach(thread);
		}
	}
	pthread_mutex_unlock(&all->lock);
	return rc;
}

bool jobs_destroy(struct jobs *all)
{
	uint64_t deadline = clock_ns() + END_NS;
	struct job *j;
	bool idle;

	if (!all)
		return true;
	pthread_mutex_lock(&all->lock);
	while ((j = waiting_take(all)))
		j->drop(j);
	while (all->running && !cond_wait_until(&all->idle, &all->lock, deadline))
		;
	mailbox_destroy(all->box);
	all->box = NULL;
	idle = !all->running;
	pthread_mutex_unlock(&all->lock);
	if (idle)
		jobs_free(all);
	return idle;
}

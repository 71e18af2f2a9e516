// SPDX-License-Identifier: Apache-2.0
/*
 * What may wait for disks or for another host, on threads beside the loop: a file on a
 * server that hangs must hold up no other VM's decisions.
 */
#ifndef POLLUX_AGENT_JOBS_H
#define POLLUX_AGENT_JOBS_H

#include "agent/mailbox.h"

#define JOBS_MAX         16 /* run at a time; more of them wait for their turn */
#define JOBS_WAITING_MAX 1024

/* Embedded, as its first member, in what the job is about. From jobs_start() on it belongs to
 * the job; it goes to exactly one of done() and drop(), which frees it. */
struct jobs;
struct job {
	struct mail mail;
	struct jobs *jobs;
	void (*run)(struct job *j);  /* on a thread beside the loop: touches nothing but the job */
	void (*done)(struct job *j); /* on the loop */
	void (*drop)(struct job *j); /* any thread: polluxd is ending */
};

int jobs_create(struct loop *l, struct jobs **out) MUST_CHECK;
/* Waits for nothing. -EBUSY: too many wait for their turn. After an error the job is the caller's
 * still. */
int jobs_start(struct jobs *all, struct job *j) MUST_CHECK;
/* Drops those that wait. Waits for those that run, for a few seconds; whoever takes longer ends
 * alone: then false, and what it uses must stay. */
bool jobs_destroy(struct jobs *all);

#endif

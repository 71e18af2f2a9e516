// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS   (100 * NS_PER_US) /* the shortest that EEVDF grants */
#define URGENT_MAX 500000            /* microseconds without a wait: far from little */

/* Signals are for the main thread: a new thread starts with all of them blocked,
 * save those that report its own faults. */
static void signals_for_thread(sigset_t *set)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};

	sigfillset(set);
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		sigdelset(set, own[i]);
}

struct thread_begin {
	void *(*fn)(void *);
	void *ctx;
	char name[16]; /* the kernel's limit; pthread_setname_np() refuses more */
};

/* The thread names itself: its starter's handle is no longer good when it detaches and ends. */
static void *thread_main(void *ctx)
{
	struct thread_begin begin = *(struct thread_begin *)ctx;

	free(ctx);
	pthread_setname_np(pthread_self(), begin.name);
	return begin.fn(begin.ctx);
}

int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *ctx)
{
	struct thread_begin *begin = malloc(sizeof(*begin));
	sigset_t blocked, before;
	int rc;

	if (!begin)
		return -ENOMEM;
	*begin = (struct thread_begin){.fn = fn, .ctx = ctx};
	snprintf(begin->name, sizeof(begin->name), "%s", name);
	signals_for_thread(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	rc = -pthread_create(t, NULL, thread_main, begin);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		free(begin);
	return rc;
}

void cond_setup(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

/* A condition variable knows no clock that counts suspended time too. */
int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t until)
{
	uint64_t now = clock_ns(), left = until > now ? until - now : 0;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	left += (uint64_t)t.tv_nsec;
	t.tv_sec += (time_t)(left / NS_PER_SEC % INT32_MAX);
	t.tv_nsec = (long)(left % NS_PER_SEC);
	return -pthread_cond_timedwait(c, lock, &t);
}

/* The kernel's struct sched_attr, first version; its header and libc's exclude each other. */
struct scheduling {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};
_Static_assert(sizeof(struct scheduling) == 48, "SCHED_ATTR_SIZE_VER0");
#define RESET_ON_FORK UINT64_C(1) /* SCHED_FLAG_RESET_ON_FORK */

/* The kernel prefers the thread that has the CPU, if that takes the signal, and raises the limit by
 * a second. The flag stays, as only a privileged thread may take it off. */
static void on_too_long(int number)
{
	int before = errno;
	struct rlimit time;

	if (!getrlimit(RLIMIT_RTTIME, &time)) {
		time.rlim_cur = URGENT_MAX;
		(void)setrlimit(RLIMIT_RTTIME, &time);
	}
	(void)sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &(struct sched_param){0});
	errno = before;
}

void thread_urge_permit(void)
{
	struct sigaction a = {.sa_handler = on_too_long, .sa_flags = SA_RESTART};
	struct rlimit time, priority = {1, 1};

	if (sigaction(SIGXCPU, &a, NULL) || getrlimit(RLIMIT_RTTIME, &time))
		return;
	time.rlim_cur = URGENT_MAX;
	if (!setrlimit(RLIMIT_RTTIME, &time)) /* else one that ran on would end the process */
		(void)setrlimit(RLIMIT_RTPRIO, &priority);
}

void thread_urge(void)
{
	struct sched_param p = {.sched_priority = sched_get_priority_min(SCHED_RR)};
	sigset_t too_long;

	sigemptyset(&too_long);
	sigaddset(&too_long, SIGXCPU);
	pthread_sigmask(SIG_UNBLOCK, &too_long, NULL);
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &p))
		thread_hasten();
}

void thread_hasten(void)
{
	struct scheduling a = {.size = sizeof(a)};

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) || a.policy != SCHED_OTHER)
		return;
	a.runtime = SLICE_NS;
	a.flags |= RESET_ON_FORK;
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <signal.h>
#include <stdio.h>

/* Signals are for the main thread: a new thread starts with all of them blocked,
 * save those that report its own faults. */
static void signals_for_thread(sigset_t *set)
{
	static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};

	sigfillset(set);
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		sigdelset(set, own[i]);
}

int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *ctx)
{
	char short_name[16]; /* the kernel's limit, pthread_setname_np refuses more */
	sigset_t blocked, before;
	int rc;

	signals_for_thread(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	rc = pthread_create(t, NULL, fn, ctx);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return -rc;
	snprintf(short_name, sizeof(short_name), "%s", name);
	pthread_setname_np(*t, short_name);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "replicate/waits.h"

#include <poll.h>

static void timespec_of(uint64_t ns, struct timespec *out)
{
	out->tv_sec = (time_t)(ns / NS_PER_SEC % INT32_MAX);
	out->tv_nsec = (long)(ns % NS_PER_SEC);
}

static uint64_t time_left(uint64_t deadline)
{
	uint64_t now = clock_ns();

	return deadline > now ? deadline - now : 0;
}

void cond_setup(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

void deadline_monotonic(uint64_t deadline, struct timespec *out)
{
	struct timespec now;
	uint64_t left = time_left(deadline);

	clock_gettime(CLOCK_MONOTONIC, &now);
	timespec_of(left, out);
	out->tv_sec += now.tv_sec;
	out->tv_nsec += now.tv_nsec;
	if (out->tv_nsec >= (long)NS_PER_SEC) {
		out->tv_nsec -= (long)NS_PER_SEC;
		out->tv_sec++;
	}
}

bool readable_within(int fd, uint64_t until)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct timespec t;

	timespec_of(time_left(until), &t);
	return ppoll(&p, 1, &t, NULL) > 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "replicate/waits.h"

#include <poll.h>
#include <time.h>

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

bool readable_within(int fd, uint64_t until)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct timespec t;

	timespec_of(time_left(until), &t);
	return ppoll(&p, 1, &t, NULL) > 0;
}

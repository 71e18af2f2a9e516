// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

/* proc(5), /proc/stat: user, nice, system, idle, iowait. */
uint64_t cpus_idle_ns(unsigned *cpus)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN), ticks = sysconf(_SC_CLK_TCK);
	FILE *f = fopen("/proc/stat", "re");
	uint64_t idle = 0, waits = 0;

	*cpus = count > 0 ? (unsigned)count : 1;
	if (!f)
		return 0;
	if (fscanf(f, "cpu %*u %*u %*u %" SCNu64 " %" SCNu64, &idle, &waits) != 2)
		idle = waits = 0;
	fclose(f);
	return ticks > 0 ? (idle + waits) * (NS_PER_SEC / (uint64_t)ticks) : 0;
}

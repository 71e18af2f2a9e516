// SPDX-License-Identifier: Apache-2.0
/* Waiting until a clock_ns() time. Private to replicate/. */
#ifndef POLLUX_REPLICATE_WAITS_H
#define POLLUX_REPLICATE_WAITS_H

#include <time.h>

#include "base/base.h"

/* A condition variable that is waited on by deadline_monotonic(). */
void cond_setup(pthread_cond_t *c);
void deadline_monotonic(uint64_t deadline, struct timespec *out);
/* True as soon as `fd` is readable, false at `until`. */
bool readable_within(int fd, uint64_t until);

#endif

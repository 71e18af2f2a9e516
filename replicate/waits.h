// SPDX-License-Identifier: Apache-2.0
/* Waiting until a clock_ns() time. Private to replicate/. */
#ifndef POLLUX_REPLICATE_WAITS_H
#define POLLUX_REPLICATE_WAITS_H

#include "base/base.h"

/* True as soon as `fd` is readable, false at `until`. */
bool readable_within(int fd, uint64_t until);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Run a fence command for a peer: the fence-agents calling convention. The
 * command gets "action=off" and the configured options as key=value lines on
 * standard input; exit code 0, and nothing else, confirms that the host is off.
 */
#ifndef POLLUX_AGENT_FENCE_H
#define POLLUX_AGENT_FENCE_H

#include "agent/agent.h"

struct fence_run;

/* `text` explains a failure with what the command wrote last. The run is freed after this. */
typedef void fence_done_fn(void *ctx, bool confirmed, const char *text);

int fence_start(struct loop *l, const struct fence_config *c, fence_done_fn *done, void *ctx,
		struct fence_run **out, struct error *e) MUST_CHECK;
/* Kill the command and free the run, without done(). */
void fence_cancel(struct fence_run *f);

#endif

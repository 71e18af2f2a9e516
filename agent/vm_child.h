// SPDX-License-Identifier: Apache-2.0
/*
 * One pollux-vm process as polluxd sees it: started or found again, asked over
 * its control connection (vm-process/vm-process.h), watched by a pidfd.
 * All callbacks come on the loop; vm_child_free() is allowed inside any of them.
 */
#ifndef POLLUX_AGENT_VM_CHILD_H
#define POLLUX_AGENT_VM_CHILD_H

#include <sys/types.h>

#include "vm-process/vm-process.h"

struct vm_child;

struct vm_child_events {
	void (*event)(void *ctx, const json_t *message);
	/* The process is dead for certain and waited for; `how` says what ended it. Requests
	 * that were open have been answered with -EPIPE before. Only vm_child_free() is left. */
	void (*exited)(void *ctx, bool clean, const char *how);
	void *ctx;
};

int vm_child_start(struct loop *l, const char *program, const char *control_path,
		   const struct vm_child_events *events, struct vm_child **out,
		   struct error *e) MUST_CHECK;
/* A process that an earlier polluxd started. -ENOENT or -ECONNREFUSED: there is none. */
int vm_child_attach(struct loop *l, const char *control_path, const struct vm_child_events *events,
		    struct vm_child **out, struct error *e) MUST_CHECK;

/* rc 0: `reply` is {"ok": true, "term": that of the request, ...}; else -errno and a sentence. */
typedef void vm_child_reply_fn(void *ctx, int rc, const json_t *reply, const char *text);
/* Takes over `request` ({"do": ...}), also on failure. fn may be NULL. No answer within
 * `timeout_ns` is -ETIMEDOUT. On an error return fn is not called. */
int vm_child_ask(struct vm_child *c, json_t *request, const int *fds, unsigned fd_count,
		 uint64_t timeout_ns, vm_child_reply_fn *fn, void *ctx) MUST_CHECK;
/* Only in fn: the descriptors that came beside the reply become the caller's. Their number. */
unsigned vm_child_fds(struct vm_child *c, int out[CONTROL_FDS_MAX]);
/* Who is told from now on. */
void vm_child_tell(struct vm_child *c, const struct vm_child_events *events);
void vm_child_kill(struct vm_child *c); /* SIGKILL; exited() follows */
pid_t vm_child_pid(const struct vm_child *c);
/* Let go of it: the process is not touched, open requests are dropped unanswered. */
void vm_child_free(struct vm_child *c);

#endif

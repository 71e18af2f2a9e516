// SPDX-License-Identifier: Apache-2.0
#include "agent/vm_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/json_text.h"
#include "agent/spawn.h"

#define LOG_MODULE       "vm-child"
#define MESSAGES_A_ROUND 64
#define CONTROL_FD_IN_VM 3

struct request {
	struct vm_child *child;
	json_int_t id, term;
	vm_child_reply_fn *fn;
	void *ctx;
	struct loop_timer *timer;
	LIST_ENTRY(request) entry;
};
LIST_HEAD(request_list, request);

/* Callbacks may free the child: `busy` counts the functions that still look at it
 * afterwards, and the last of them frees what `dead` has marked. */
struct vm_child {
	struct loop *loop;
	struct vm_child_events events;
	pid_t pid;
	bool ours; /* our child: its exit code can be had */
	int control, pidfd;
	struct loop_watch *control_watch, *exit_watch;
	struct request_list requests;
	json_int_t last_id;
	int fds[CONTROL_FDS_MAX]; /* of the message that is being taken */
	unsigned fd_count;
	unsigned busy;
	bool dead;
};

static void child_enter(struct vm_child *c)
{
	c->busy++;
}

/* Returns whether the child is still there. */
static bool child_leave(struct vm_child *c)
{
	bool there = !c->dead;

	if (--c->busy == 0 && c->dead)
		free(c);
	return there;
}

static void request_free(struct request *r)
{
	LIST_REMOVE(r, entry);
	loop_timer_free(r->timer);
	free(r);
}

static void request_answer(struct request *r, int rc, const json_t *reply, const char *text)
{
	vm_child_reply_fn *fn = r->fn;
	void *ctx = r->ctx;

	request_free(r);
	if (fn)
		fn(ctx, rc, reply, text);
}

static void request_late(void *ctx)
{
	struct request *r = ctx;
	json_t *reply = json_pack("{s:I}", "term", r->term);

	request_answer(r, -ETIMEDOUT, reply, "the VM process does not answer");
	json_decref(reply);
}

static struct request *request_find(struct vm_child *c, json_int_t id)
{
	struct request *r;

	LIST_FOREACH(r, &c->requests, entry)
	{
		if (r->id == id)
			return r;
	}
	return NULL;
}

static void reply_take(struct vm_child *c, json_t *message)
{
	struct request *r = request_find(c, json_integer_of(message, "reply", -1));
	int code = (int)json_integer_of(message, "code", -EIO);
	const char *text = json_text_of(message, "error");

	if (!r)
		return;
	json_object_set_new(message, "term", json_integer(r->term));
	if (json_is_true(json_object_get(message, "ok")))
		request_answer(r, 0, message, "");
	else
		request_answer(r, code < 0 ? code : -EIO, message,
			       *text ? text : "the VM process refused");
}

static void control_close(struct vm_child *c)
{
	loop_unwatch(c->control_watch);
	c->control_watch = NULL;
	if (c->control >= 0)
		close(c->control);
	c->control = -1;
}

static void message_take(struct vm_child *c, json_t *message)
{
	if (json_object_get(message, "reply"))
		reply_take(c, message);
	else if (json_is_string(json_object_get(message, "event")))
		c->events.event(c->events.ctx, message);
}

/* One message; 1 when there may be more. */
static int control_take(struct vm_child *c)
{
	json_t *message = NULL;
	struct error e = {0};
	int rc;

	rc = control_receive(c->control, &message, c->fds, &c->fd_count, &e);
	if (rc == -EBADMSG) {
		log_warn("VM process %d: %s", (int)c->pid, e.text);
		return 1;
	}
	if (rc)
		return rc;
	message_take(c, message);
	while (c->fd_count)
		close(c->fds[--c->fd_count]);
	json_decref(message);
	return 1;
}

static void control_drain(struct vm_child *c)
{
	int rc = 1;

	for (int i = 0; rc > 0 && i < MESSAGES_A_ROUND && !c->dead && c->control >= 0; i++)
		rc = control_take(c);
	/* The process may go on without us, or is about to end: the pidfd will say. */
	if (rc < 0 && rc != -EAGAIN && !c->dead)
		control_close(c);
}

static void control_ready(void *ctx, uint32_t events)
{
	struct vm_child *c = ctx;

	child_enter(c);
	control_drain(c);
	(void)child_leave(c);
}

static void requests_fail(struct vm_child *c)
{
	struct request *r;

	while (!c->dead && (r = LIST_FIRST(&c->requests)))
		request_answer(r, -EPIPE, NULL, "the VM process has ended");
}

static bool exit_describe(struct vm_child *c, char *out, size_t size)
{
	siginfo_t info = {0};

	if (!c->ours || waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG)) {
		snprintf(out, size, "the VM process %d ended", (int)c->pid);
		return false;
	}
	if (info.si_code == CLD_EXITED)
		snprintf(out, size, "the VM process %d ended with exit code %d", (int)c->pid,
			 info.si_status);
	else
		snprintf(out, size, "the VM process %d was killed by signal %d (%s)", (int)c->pid,
			 info.si_status, strsignal(info.si_status));
	return info.si_code == CLD_EXITED && !info.si_status;
}

/* What it said last comes before the news of its end. */
static void child_exited(void *ctx, uint32_t events)
{
	struct vm_child *c = ctx;
	char how[128];
	bool clean;

	child_enter(c);
	loop_unwatch(c->exit_watch);
	c->exit_watch = NULL;
	control_drain(c);
	if (!c->dead) {
		control_close(c);
		clean = exit_describe(c, how, sizeof(how));
		requests_fail(c);
	}
	if (!c->dead)
		c->events.exited(c->events.ctx, clean, how);
	(void)child_leave(c);
}

/* ---- starting and finding ----------------------------------------------------- */

static struct vm_child *child_new(struct loop *l, const struct vm_child_events *events)
{
	struct vm_child *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->loop = l;
	c->events = *events;
	c->control = c->pidfd = -1;
	LIST_INIT(&c->requests);
	return c;
}

static int child_watch(struct vm_child *c)
{
	int rc;

	if (fcntl(c->control, F_SETFL, O_NONBLOCK))
		return -errno;
	rc = loop_watch(c->loop, c->control, EPOLLIN, control_ready, c, &c->control_watch);
	if (!rc)
		rc = loop_watch(c->loop, c->pidfd, EPOLLIN, child_exited, c, &c->exit_watch);
	return rc;
}

static int child_spawn(struct vm_child *c, const char *program, const char *control_path)
{
	char *argv[] = {(char *)program, "--control", (char *)control_path, NULL};
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	c->control = pair[0];
	rc = spawn_process(program, argv, &(struct spawn_fd){pair[1], CONTROL_FD_IN_VM}, 1, &c->pid,
			   &c->pidfd);
	close(pair[1]);
	c->ours = true;
	return rc;
}

int vm_child_start(struct loop *l, const char *program, const char *control_path,
		   const struct vm_child_events *events, struct vm_child **out, struct error *e)
{
	struct vm_child *c = child_new(l, events);
	int rc;

	if (!c)
		return error_set(e, -ENOMEM, "out of memory");
	rc = fault_point("vm_child.spawn");
	if (!rc)
		rc = child_spawn(c, program, control_path);
	if (!rc)
		rc = child_watch(c);
	if (rc) {
		if (c->pid > 0) {
			kill(c->pid, SIGKILL);
			waitpid(c->pid, NULL, 0);
		}
		vm_child_free(c);
		return error_set(e, rc, "cannot start the VM process %s: %s", program,
				 strerror(-rc));
	}
	*out = c;
	return 0;
}

static int control_connect(struct vm_child *c, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	c->control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->control < 0)
		return -errno;
	if (connect(c->control, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	return 0;
}

/* The socket is still connected after the pidfd was opened, so it names that process
 * and not a later one of the same number. */
static int peer_identify(struct vm_child *c)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	char byte;

	if (getsockopt(c->control, SOL_SOCKET, SO_PEERCRED, &credentials, &size))
		return -errno;
	c->pid = credentials.pid;
	c->pidfd = pidfd_open(c->pid, 0);
	if (c->pidfd < 0)
		return -errno;
	return recv(c->control, &byte, 1, MSG_PEEK) == 0 ? -EPIPE : 0;
}

int vm_child_attach(struct loop *l, const char *control_path, const struct vm_child_events *events,
		    struct vm_child **out, struct error *e)
{
	struct vm_child *c = child_new(l, events);
	int rc;

	if (!c)
		return error_set(e, -ENOMEM, "out of memory");
	rc = control_connect(c, control_path);
	if (!rc)
		rc = peer_identify(c);
	if (!rc)
		rc = child_watch(c);
	if (rc) {
		vm_child_free(c);
		return error_set(e, rc, "cannot reach a VM process at %s: %s", control_path,
				 strerror(-rc));
	}
	*out = c;
	return 0;
}

/* ---- asking ----------------------------------------------------------------------- */

static int request_new(struct vm_child *c, json_int_t term, uint64_t timeout_ns,
		       vm_child_reply_fn *fn, void *ctx, struct request **out)
{
	struct request *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	*r = (struct request){.child = c, .id = ++c->last_id, .term = term, .fn = fn, .ctx = ctx};
	rc = loop_timer(c->loop, request_late, r, &r->timer);
	if (rc) {
		free(r);
		return rc;
	}
	loop_timer_set(r->timer, clock_ns() + timeout_ns);
	LIST_INSERT_HEAD(&c->requests, r, entry);
	*out = r;
	return 0;
}

int vm_child_ask(struct vm_child *c, json_t *request, const int *fds, unsigned fd_count,
		 uint64_t timeout_ns, vm_child_reply_fn *fn, void *ctx)
{
	struct request *r = NULL;
	int rc;

	if (!request)
		return -ENOMEM;
	rc = c->control < 0
		     ? -EPIPE
		     : request_new(c, json_integer_of(request, "term", 0), timeout_ns, fn, ctx, &r);
	if (!rc && json_object_set_new(request, "id", json_integer(r->id)))
		rc = -ENOMEM;
	if (!rc)
		rc = control_send(c->control, request, fds, fd_count);
	if (rc && r)
		request_free(r);
	json_decref(request);
	return rc;
}

unsigned vm_child_fds(struct vm_child *c, int out[CONTROL_FDS_MAX])
{
	unsigned count = c->fd_count;

	memcpy(out, c->fds, count * sizeof(out[0]));
	c->fd_count = 0;
	return count;
}

void vm_child_tell(struct vm_child *c, const struct vm_child_events *events)
{
	c->events = *events;
}

void vm_child_kill(struct vm_child *c)
{
	if (pidfd_send_signal(c->pidfd, SIGKILL, NULL, 0))
		log_warn_rc(errno, "cannot kill the VM process %d", (int)c->pid);
}

pid_t vm_child_pid(const struct vm_child *c)
{
	return c->pid;
}

void vm_child_free(struct vm_child *c)
{
	struct request *r;

	if (!c)
		return;
	control_close(c);
	loop_unwatch(c->exit_watch);
	c->exit_watch = NULL;
	if (c->pidfd >= 0)
		close(c->pidfd);
	c->pidfd = -1;
	while ((r = LIST_FIRST(&c->requests)))
		request_free(r);
	c->dead = true;
	if (!c->busy)
		free(c);
}

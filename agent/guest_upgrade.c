// SPDX-License-Identifier: Apache-2.0
/*
 * A running VM goes on in a new process, of the program that is on disk now.
 *
 *   old process          new process
 *   lend                                    its memory
 *                        create successor   all is ready before the old one stands still
 *   yield                                   it stands still; its state
 *                        adopt              it has the VM and runs
 *   (killed)
 *
 * Until the new one has the VM any failure makes the old one go on ("unyield"). Which of
 * the two has it is decided between them (vm-process/upgrade.c), not here: polluxd may die
 * at any step.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/guest.h"

#define LOG_MODULE "guest"
#define SLOW_NS    (120 * NS_PER_SEC)
#define QUICK_NS   (10 * NS_PER_SEC)

enum upgrade_step {
	UPGRADE_MAKING,   /* the old one runs */
	UPGRADE_YIELDING, /* it may stand still */
	UPGRADE_ASKED,    /* the new one may have the VM, or not */
	UPGRADE_OVER,     /* g->child has it; the other one is being ended */
};

struct upgrade {
	struct guest *guest;
	enum upgrade_step step;
	struct vm_child *other; /* not g->child: first the new one, then the old one */
	char path[PATH_MAX];    /* control path of the new one, until it has the VM */
	bool waiting;           /* for an answer of the old one */
	struct program program; /* the new one's, until it has the VM */
	int code;               /* of the first failure */
	char why[400];
};

/* Where a test lets polluxd die. */
static void step_mark(const char *name)
{
	if (fault_point(name))
		abort();
}

static void upgrade_close(struct upgrade *u)
{
	struct guest *g = u->guest;

	vm_child_free(u->other);
	unlink(u->path);
	g->upgrade = NULL;
	program_forget(&u->program);
	free(u);
}

void guest_upgrade_free(struct guest *g)
{
	if (g->upgrade)
		upgrade_close(g->upgrade);
}

void guest_upgrade_kill(struct guest *g)
{
	if (g->upgrade && g->upgrade->other)
		vm_child_kill(g->upgrade->other);
}

/* The other one goes; what is said of it does not matter any more. */
static void upgrade_over(struct upgrade *u)
{
	struct guest *g = u->guest;

	u->step = UPGRADE_OVER;
	guest_console_serve(g, true);
	if (u->other)
		vm_child_kill(u->other);
	if (u->other || u->waiting)
		return;
	upgrade_close(u);
	if (g->operation.state == OPERATION_FAILED)
		guest_chain_undo(g);
	guest_operation_check(g);
}

static void upgrade_blame(struct upgrade *u, int code, const char *why)
{
	if (u->code)
		return;
	u->code = code;
	snprintf(u->why, sizeof(u->why), "%s", why);
}

static bool operation_is_ours(const struct guest *g)
{
	return !strcmp(g->operation.what, "upgrade");
}

static void upgrade_failed(struct upgrade *u, const char *hint)
{
	timeline_add(&u->guest->timeline, "upgrade failed", "%s", u->why);
	if (operation_is_ours(u->guest))
		guest_operation_fail(u->guest, u->code, u->why, hint);
	upgrade_over(u);
}

static void upgrade_failed_early(struct upgrade *u)
{
	upgrade_failed(u, "the VM runs on in its old process");
}

/* Whichever process has the VM is of no use. */
static void upgrade_lost(struct upgrade *u)
{
	struct guest *g = u->guest;

	upgrade_failed(u, "see the log of polluxd and pollux-vm");
	vm_child_kill(g->child);
}

/* The old one is asked one thing at a time. */
static void old_ask(struct upgrade *u, json_t *request, vm_child_reply_fn *fn)
{
	u->waiting = true;
	guest_child_ask(u->guest, request, QUICK_NS, fn);
}

/* An answer of the old one: what is under way, or NULL when nobody wants it any more. */
static struct upgrade *old_answered(struct guest *g)
{
	struct upgrade *u = g->upgrade;

	u->waiting = false;
	if (u->step != UPGRADE_OVER)
		return u;
	upgrade_over(u);
	return NULL;
}

/* ---- the new one has the VM ----------------------------------------------------------- */

static void old_event(void *ctx, const json_t *message)
{
}

static void other_exited(void *ctx, bool clean, const char *how);

static void upgrade_swap(struct upgrade *u)
{
	struct vm_child_events events;
	struct guest *g = u->guest;
	struct vm_child *old = g->child;

	g->child = u->other;
	u->other = old;
	vm_child_tell(g->child, guest_child_events(g, &events));
	if (old)
		vm_child_tell(old, &(struct vm_child_events){old_event, other_exited, g});
	program_move(&g->program, &u->program);
}

static void upgrade_done(struct upgrade *u, uint64_t downtime_ns)
{
	struct guest *g = u->guest;

	if (operation_is_ours(g))
		g->operation.downtime_ns = downtime_ns;
	timeline_add(&g->timeline, "upgraded",
		     "process %d runs it, build %s; it stood still %.2f ms",
		     (int)vm_child_pid(g->child), g->program.build, (double)downtime_ns / 1e6);
	upgrade_over(u);
}

/* ---- the old one is to go on ------------------------------------------------------------- */

static void unyielded(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct upgrade *u = old_answered(g);

	if (!u || rc == -EPIPE)
		return; /* its end says more */
	if (rc == -EALREADY && u->other) {
		upgrade_swap(u);
		upgrade_done(u, 0);
	} else if (rc == -EALREADY) {
		upgrade_lost(u);
	} else {
		if (rc)
			log_error("%s: the old process does not go on: %s", g->name, text);
		upgrade_failed_early(u);
	}
}

static void upgrade_withdraw(struct upgrade *u)
{
	old_ask(u, json_pack("{s:s}", "do", "unyield"), unyielded);
}

/* ---- step by step --------------------------------------------------------------------------- */

static void fds_close(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

static void adopted(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct upgrade *u = g->upgrade;

	if (!u || u->step != UPGRADE_ASKED)
		return;
	if (rc) {
		upgrade_blame(u, rc, text);
		if (u->other)
			upgrade_withdraw(u);
		else /* the old one is dead */
			upgrade_lost(u);
		return;
	}
	step_mark("polluxd.adopted");
	if (u->other)
		upgrade_swap(u);
	upgrade_done(u, (uint64_t)json_integer_of(reply, "downtime_ns", 0));
}

static void adopt_ask(struct upgrade *u, const json_t *handover, const int *fds, unsigned count)
{
	char control[PATH_MAX];
	int rc;

	guest_control_path(u->guest, control);
	rc = vm_child_ask(u->other,
			  json_pack("{s:s, s:O?, s:s}", "do", "adopt", "handover", handover,
				    "control", control),
			  fds, count, QUICK_NS, adopted, u->guest);
	step_mark("polluxd.adopt-asked");
	if (!rc)
		return;
	upgrade_blame(u, rc, "the new process cannot be asked");
	upgrade_withdraw(u);
}

static void yielded(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct upgrade *u = old_answered(g);
	int fds[CONTROL_FDS_MAX];
	unsigned count;

	if (!u || rc == -EPIPE)
		return;
	step_mark("polluxd.yielded");
	u->step = UPGRADE_ASKED;
	if (rc || !u->other) {
		upgrade_blame(u, rc, text);
		upgrade_withdraw(u); /* an answer may only have been late */
		return;
	}
	count = vm_child_fds(g->child, fds);
	adopt_ask(u, json_object_get(reply, "handover"), fds, count);
	fds_close(fds, count);
}

static void created(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct upgrade *u = g->upgrade;

	if (!u || u->step != UPGRADE_MAKING || rc == -EPIPE)
		return;
	if (rc) {
		upgrade_blame(u, rc, text);
		upgrade_failed_early(u);
		return;
	}
	step_mark("polluxd.created");
	program_take(&u->program, reply);
	guest_console_serve(g, false);
	u->step = UPGRADE_YIELDING;
	old_ask(u, json_pack("{s:s, s:s}", "do", "yield", "next", u->path), yielded);
	step_mark("polluxd.yield-asked");
}

static void lent(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	struct upgrade *u = old_answered(g);
	int fds[CONTROL_FDS_MAX];
	unsigned count;

	if (!u || rc == -EPIPE)
		return;
	count = vm_child_fds(g->child, fds);
	if (!rc)
		rc = vm_child_ask(u->other, guest_create_request(g, "successor"), fds, count,
				  SLOW_NS, created, g);
	fds_close(fds, count);
	if (!rc)
		return;
	upgrade_blame(u, rc, *text ? text : "the new process cannot be asked");
	upgrade_failed_early(u);
}

/* ---- ends of processes ---- */

/* The new one, or the old one when that is over. Its requests were answered before. */
static void other_exited(void *ctx, bool clean, const char *how)
{
	struct guest *g = ctx;
	struct upgrade *u = g->upgrade;

	vm_child_free(u->other);
	u->other = NULL;
	if (u->step == UPGRADE_OVER) {
		upgrade_over(u);
		return;
	}
	if (u->code == -EPIPE || !u->code) {
		u->code = -EPIPE;
		snprintf(u->why, sizeof(u->why), "the new process: %s", how);
	}
	/* Later the old one has been asked, and its answer is waited for. */
	if (u->step == UPGRADE_MAKING)
		upgrade_failed_early(u);
}

/* Before the new one was asked to adopt it, the VM ends with the old one. */
bool guest_upgrade_ended(struct guest *g)
{
	struct upgrade *u = g->upgrade;

	if (!u || u->step == UPGRADE_OVER)
		return false;
	if (u->step == UPGRADE_ASKED && u->other) {
		upgrade_swap(u);
		return true;
	}
	upgrade_over(u);
	return false;
}

/* ---- begin ---- */

/* A path of its own: of whatever is left of an earlier attempt, nothing can be taken for this. */
static void path_choose(struct upgrade *u)
{
	snprintf(u->path, sizeof(u->path), "%s/%s.%07llx", u->guest->agent->config.run_dir,
		 u->guest->name, (unsigned long long)(clock_ns() / NS_PER_MS) & 0xfffffff);
}

int guest_upgrade_begin(struct guest *g, struct error *e)
{
	const struct vm_child_events events = {old_event, other_exited, g};
	struct upgrade *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return error_set(e, -ENOMEM, "out of memory");
	u->guest = g;
	path_choose(u);
	rc = vm_child_start(g->agent->loop, g->agent->config.vm_program, u->path, &events,
			    &u->other, e);
	if (rc) {
		free(u);
		return rc;
	}
	g->upgrade = u;
	timeline_add(&g->timeline, "upgrade asked", "process %d is made",
		     (int)vm_child_pid(u->other));
	old_ask(u, json_pack("{s:s}", "do", "lend"), lent);
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A core of a VM. The file is opened by whoever wants it, with his own rights, and its descriptor
 * sent over run_dir/NAME.dump; polluxd opens no path that a client names. The connection stays
 * for as long as the core is written: when it closes, the core is cancelled, and the guest, which
 * is paused meanwhile, goes on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/guest.h"
#include "agent/unix_socket.h"

#define LOG_MODULE "dump"
#define QUICK_NS   (10 * NS_PER_SEC)
#define FILE_NS    (10 * NS_PER_SEC) /* so long for the file to come */

static void dump_path(const struct guest *g, char *out, size_t size)
{
	snprintf(out, size, "%s/%s.dump", g->agent->config.run_dir, g->name);
}

static void dump_watch_set(struct guest *g, int fd, struct loop_watch *watch)
{
	struct guest_dump *d = &g->dump;

	loop_unwatch(d->watch);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = fd;
	d->watch = watch;
}

static void listener_close(struct guest *g)
{
	char path[256];

	if (!g->dump.listening)
		return;
	g->dump.listening = false;
	dump_path(g, path, sizeof(path));
	unlink(path);
}

static void dump_close(struct guest *g)
{
	listener_close(g);
	dump_watch_set(g, -1, NULL);
	if (g->dump.timer)
		loop_timer_set(g->dump.timer, 0);
}

static void dump_over(struct guest *g, int code, const char *text)
{
	g->dump.over = true;
	g->dump.code = code;
	snprintf(g->dump.error, sizeof(g->dump.error), "%s", text);
	dump_close(g);
	guest_operation_check(g);
}

void guest_dump_end(struct guest *g)
{
	g->dump.over = true;
	g->dump.code = -EIO;
	snprintf(g->dump.error, sizeof(g->dump.error), "the VM ended before its core was written");
	dump_close(g);
}

/* ---- its end ----------------------------------------------------------------------------- */

void guest_dump_event(struct guest *g, const json_t *message)
{
	int code = (int)json_integer_of(message, "code", -EIO);

	g->dump.begun = false;
	if (json_is_true(json_object_get(message, "ok"))) {
		json_decref(g->dump.result);
		g->dump.result = json_deep_copy(message);
		json_object_del(g->dump.result, "event");
		json_object_del(g->dump.result, "ok");
		timeline_add(&g->timeline, "core dumped", "%lld bytes, paused for %lld ms",
			     (long long)json_integer_of(message, "bytes", 0),
			     (long long)json_integer_of(message, "pause_ns", 0) /
				     (long long)NS_PER_MS);
		dump_over(g, 0, "");
	} else {
		dump_over(g, code < 0 ? code : -EIO, json_text_of(message, "error"));
	}
}

static void dump_begun(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (rc) {
		g->dump.begun = false;
		dump_over(g, rc, text);
	}
}

/* Also of a core whose operation is over for other reasons. */
static void client_gone(struct guest *g)
{
	log_info("%s: who wanted its core has gone", g->name);
	if (g->dump.begun)
		guest_child_ask(g, json_pack("{s:s}", "do", "dump-cancel"), QUICK_NS, NULL);
	else
		dump_over(g, -ECANCELED, "no file came for the core");
	dump_watch_set(g, -1, NULL);
}

/* ---- the file, and its client --------------------------------------------------------------- */

static void file_take(struct guest *g, int fd)
{
	json_t *request = json_pack("{s:s, s:b, s:b}", "do", "dump-core", "paging", g->dump.paging,
				    "live", g->dump.live);
	int rc = -EPIPE;

	loop_timer_set(g->dump.timer, 0);
	g->dump.begun = true;
	if (g->child && g->child_role == CHILD_VM)
		rc = vm_child_ask(g->child, request, &fd, 1, QUICK_NS, dump_begun, g);
	else
		json_decref(request);
	if (rc)
		dump_begun(g, rc, NULL, "the VM process cannot be asked");
}

/* The one message is the file; the next thing is the end. */
static void client_ready(void *ctx, uint32_t events)
{
	struct guest *g = ctx;
	int fds[CONTROL_FDS_MAX];
	unsigned count = 0;
	json_t *message = NULL;
	struct error e = {0};
	int rc = control_receive(g->dump.fd, &message, fds, &count, &e);

	if (rc == -EAGAIN)
		return;
	if (rc || count != 1 || g->dump.begun)
		client_gone(g);
	else
		file_take(g, fds[0]);
	while (count)
		close(fds[--count]);
	json_decref(message);
}

static void client_connects(void *ctx, uint32_t events)
{
	struct guest *g = ctx;
	struct loop_watch *watch = NULL;
	int fd = accept4(g->dump.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), rc;

	if (fd < 0)
		return;
	rc = loop_watch(g->agent->loop, fd, EPOLLIN, client_ready, g, &watch);
	if (rc) {
		close(fd);
		dump_over(g, rc, "the client's connection cannot be watched");
		return;
	}
	listener_close(g);
	dump_watch_set(g, fd, watch);
}

static void file_late(void *ctx)
{
	dump_over(ctx, -ETIMEDOUT, "no file came for the core");
}

static int dump_open(struct guest *g, bool paging, bool live, struct error *e)
{
	struct guest_dump *d = &g->dump;
	struct loop_watch *watch = NULL;
	char path[256];
	int fd = -1, rc = 0;

	dump_close(g);
	if (!d->timer)
		rc = loop_timer(g->agent->loop, file_late, g, &d->timer);
	dump_path(g, path, sizeof(path));
	if (!rc)
		rc = unix_socket_listen(path, SOCK_SEQPACKET, &fd, e);
	if (!rc)
		rc = loop_watch(g->agent->loop, fd, EPOLLIN, client_connects, g, &watch);
	if (rc) {
		if (fd >= 0)
			close(fd);
		return error_set(e, rc, "no socket for the core's file: %s", strerror(-rc));
	}
	dump_watch_set(g, fd, watch);
	loop_timer_set(d->timer, clock_ns() + FILE_NS);
	d->listening = true;
	d->paging = paging;
	d->live = live;
	d->over = d->begun = false;
	json_decref(d->result);
	d->result = NULL;
	return 0;
}

/* ---- the operation --------------------------------------------------------------------------- */

int guest_dump_core(struct guest *g, bool paging, bool live, struct error *e, const char **hint)
{
	int rc = guest_busy(g, e, hint);

	if (rc)
		return rc;
	if (g->child_role != CHILD_VM || !g->child_state[0] || g->vm_ended)
		return guest_refuse(e, hint, -EPERM,
				    g->child_role == CHILD_REPLICA
					    ? "dump it on the host where it runs"
					    : "`pollux list` shows what runs",
				    "%s does not run on this host", g->name);
	/* Its standby would take the silence of a long pause for a death. */
	if (g->own.state != OWN_ALONE)
		return guest_refuse(e, hint, -EPERM, "unprotect it first",
				    "%s is protected, and must not be paused for long", g->name);
	rc = dump_open(g, paging, live, e);
	if (rc)
		return rc;
	guest_operation_begin(g, "dump-core");
	return 0;
}

void guest_dump_check(struct guest *g)
{
	if (!g->dump.over)
		return;
	if (g->dump.code)
		guest_operation_fail(g, g->dump.code, g->dump.error,
				     "the VM goes on as before; there is no core");
	else
		guest_operation_done(g);
}

void guest_dump_free(struct guest *g)
{
	dump_close(g);
	if (g->dump.timer)
		loop_timer_free(g->dump.timer);
	json_decref(g->dump.result);
}

/* ---- for guest_json() ------------------------------------------------------------------------ */

json_t *guest_dump_json(const struct guest *g)
{
	char path[256];
	json_t *o;

	if (!g->dump.listening)
		return g->dump.result ? json_deep_copy(g->dump.result) : json_null();
	o = json_object();
	dump_path(g, path, sizeof(path));
	json_object_set_new(o, "socket", json_text(path));
	return o;
}

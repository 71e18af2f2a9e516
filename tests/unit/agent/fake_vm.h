// SPDX-License-Identifier: Apache-2.0
/*
 * A pollux-vm without a VM, inside the test's own program: it speaks vm-process.h and
 * connects twins through polluxd's real port, but runs and copies nothing.
 *
 * The name of the VM in its file chooses what goes wrong:
 *   bad-create, bad-boot, bad-standby, bad-promote, bad-adopt   that request is refused
 *   slow-...    the first copy never ends
 *   stall-...   it has the policy stall
 *   deaf-...    the guest does not heed its power button
 *   hold-...    the copy of a migration waits
 *   late-...    that a session has ended is answered when it is next asked for its stats
 *   tail-...    a part of its memory follows it in a migration
 *   ripe-...    that the last epoch of one is whole over there waits to be told
 *   old-...     its program does not know of sessions in which some disks are not copied
 *   hold-ask... a SIGWINCH asks for the rehearsal, and the copy ends when its forecast has come
 * and anywhere in it:
 *   torpid      it is told to go on, and does so at SIGWINCH, whichever comes first
 *   claims      ...and says that it cannot
 *   early       a handover that is cut owes nobody an answer yet: it is over
 *   mute        a good end of its session is not answered, and it counts as lost
 * Signals: SIGUSR1 the guest powers off; SIGUSR2 the session's connection is cut, or that for its
 * memory; SIGWINCH the copy of a migration ends, or it is handed over, or all of its memory is
 * there.
 */
#ifndef TEST_FAKE_VM_H
#define TEST_FAKE_VM_H

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "channel/channel.h"
#include "hypervisor/hypervisor.h"
#include "vm-process/vm-process.h"

struct fake {
	struct loop *loop;
	int director, listener, session, signals;
	struct loop_watch *director_watch, *session_watch;
	char control_path[108], name[VM_NAME_MAX + 1], state[24];
	bool primary, created, running, ended, stalled, handover;
	bool told;   /* to go on, and has not */
	bool let_go; /* it may, and has not been told to */
	json_int_t term;
	json_t *late;         /* a request that waits for its answer */
	const char *postcopy; /* how that goes; NULL: there is none */
};

/* That polluxd is gone is seen where it is read from: the VM goes on. */
static void fake_say(struct fake *f, json_t *message)
{
	if (f->director >= 0)
		(void)!control_send(f->director, message, NULL, 0);
	json_decref(message);
}

static void fake_state(struct fake *f, const char *state, const char *why, bool reset)
{
	snprintf(f->state, sizeof(f->state), "%s", state);
	fake_say(f,
		 json_pack("{s:s, s:s, s:s, s:I, s:b, s:b}", "event", "state", "state", state,
			   "why", why, "term", f->term, "reset", reset, "handover", f->handover));
}

static bool fake_is(const struct fake *f, const char *prefix)
{
	return !strncmp(f->name, prefix, strlen(prefix));
}

/* As pollux-vm tells it in its stats. */
static json_t *fake_postcopy_json(const struct fake *f)
{
	bool done = f->postcopy && !strcmp(f->postcopy, "done");

	return f->postcopy ? json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "side",
				       f->handover ? "source" : "target", "state", f->postcopy,
				       "streams", 1, "missing", 9, "left", done ? 0 : 5, "bytes",
				       done ? 4000 : 1000)
			   : json_null();
}

static void fake_postcopy(struct fake *f, const char *state)
{
	json_t *event;

	f->postcopy = state;
	event = fake_postcopy_json(f);
	json_object_set_new(event, "event", json_string("postcopy"));
	json_object_set_new(event, "why", json_string("the test says so"));
	fake_say(f, event);
}

/* The source of a guest whose memory follows it. */
static void fake_serve(struct fake *f)
{
	snprintf(f->state, sizeof(f->state), "handed");
	f->postcopy = "running";
	fake_say(f, json_pack("{s:s, s:s, s:I, s:b, s:b, s:{s:i, s:i, s:i, s:i}}", "event", "state",
			      "state", "handed", "term", f->term, "handover", true, "postcopy",
			      true, "sent", "bytes", 100000, "disk_bytes", 300, "rounds", 2,
			      "throttle_most", 20));
}

static void fake_session_close(struct fake *f)
{
	loop_unwatch(f->session_watch);
	f->session_watch = NULL;
	if (f->session >= 0)
		close(f->session);
	f->session = -1;
}

/* By the connection's end or polluxd's word, whichever comes first. */
static void fake_lost(struct fake *f, const char *why, bool reset)
{
	if (!f->handover || !strstr(f->name, "early"))
		fake_state(f, "lost", why, reset);
	else if (strcmp(f->state, "unprotected") != 0)
		fake_state(f, "unprotected", "the standby's control stream: reset", true);
}

/* One byte: 'p' the primary has copied; 'r' the standby has it; 'b' a good end. */
static void fake_session_ready(void *ctx, uint32_t events)
{
	struct fake *f = ctx;
	char byte = 0;
	ssize_t n = read(f->session, &byte, 1);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		fake_session_close(f);
		if (!f->postcopy && strcmp(f->state, "handed") != 0)
			fake_lost(f, "the connection was reset", true);
	} else if (byte == 'p') {
		(void)!write(f->session, "r", 1);
		fake_state(f, "ready", "", false);
	} else if (byte == 'r' && f->handover) {
		fake_state(f, "freezing", "", false);
		if (fake_is(f, "tail-"))
			fake_serve(f);
		else if (!fake_is(f, "ripe-"))
			fake_state(f, "handed", "", false);
	} else if (byte == 'r') {
		fake_state(f, "protected", "", false);
	} else if (byte == 'b') {
		fake_session_close(f);
		fake_state(f, "released", "", false);
	}
}

static int fake_session_take(struct fake *f, int fd)
{
	f->session = fd;
	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		return -errno;
	return loop_watch(f->loop, fd, EPOLLIN, fake_session_ready, f, &f->session_watch);
}

static int fake_bytes(const json_t *q, const char *key, uint8_t *out, size_t n)
{
	const char *text = json_string_value(json_object_get(q, key));

	if (!text || strlen(text) != 2 * n)
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if (sscanf(text + 2 * i, "%2hhx", out + i) != 1)
			return -EINVAL;
	return 0;
}

/* ---- requests ------------------------------------------------------------------ */

static int fake_create(struct fake *f, const json_t *q)
{
	static struct vm_config c;
	struct error e = {0};

	if (vm_config_parse(json_string_value(json_object_get(q, "config")), "fake", &c, &e))
		return -EINVAL;
	snprintf(f->name, sizeof(f->name), "%s", c.name);
	f->primary = !strcmp(json_string_value(json_object_get(q, "role")), "primary");
	f->created = true;
	return fake_is(f, "bad-create") ? -ENODEV : 0;
}

static int fake_boot(struct fake *f, const json_t *q)
{
	if (!f->created || !f->primary || fake_is(f, "bad-boot"))
		return -ENOEXEC;
	f->running = true;
	return 0;
}

static int fake_protect(struct fake *f, const json_t *q)
{
	struct preamble p = {.kind = PREAMBLE_DATA};
	uint8_t key[SESSION_KEY_SIZE];
	struct error e = {0};
	int fd, rc;

	if (!f->running || fake_bytes(q, "session", p.session, sizeof(p.session)) ||
	    fake_bytes(q, "key", key, sizeof(key)))
		return -EINVAL;
	f->term = json_integer_value(json_object_get(q, "term"));
	f->handover = json_is_true(json_object_get(q, "handover"));
	rc = channel_dial(json_string_value(json_object_get(q, "address")),
			  (uint16_t)json_integer_value(json_object_get(q, "port")), &p,
			  clock_ns() + 2 * NS_PER_SEC, &fd, &e);
	if (rc)
		return rc;
	fake_state(f, "syncing", "", false);
	rc = fake_session_take(f, fd);
	if (!rc && !fake_is(f, "slow-") && !(fake_is(f, "hold-") && f->handover) &&
	    write(fd, "p", 1) != 1)
		rc = -errno;
	return rc;
}

static int fake_standby(struct fake *f, const json_t *q)
{
	uint8_t id[SESSION_ID_SIZE], key[SESSION_KEY_SIZE];

	if (f->primary || fake_bytes(q, "session", id, sizeof(id)) ||
	    fake_bytes(q, "key", key, sizeof(key)) || fake_is(f, "bad-standby"))
		return -EINVAL;
	f->term = json_integer_value(json_object_get(q, "term"));
	return 0;
}

static int fake_unprotect(struct fake *f, const json_t *q)
{
	if (!strcmp(f->state, "handed"))
		return -EALREADY;
	if (strstr(f->name, "mute")) {
		fake_session_close(f);
		fake_state(f, "lost", "the standby does not answer in time", false);
		return -ENOTCONN;
	}
	if (f->session >= 0)
		(void)!write(f->session, "b", 1);
	fake_session_close(f);
	snprintf(f->state, sizeof(f->state), "unprotected");
	return 0;
}

static bool fake_waits(const struct fake *f)
{
	return strstr(f->name, "torpid") || strstr(f->name, "claims");
}

static void fake_go_on(struct fake *f)
{
	if (!f->told || !f->let_go)
		return;
	f->told = f->let_go = false;
	fake_state(f, "unprotected", "it goes on here", false);
}

static int fake_ownership(struct fake *f, const json_t *q)
{
	const char *answer = json_string_value(json_object_get(q, "answer"));

	if (strcmp(answer, "lost") != 0 && fake_waits(f)) {
		f->told = true;
		fake_go_on(f);
		return strstr(f->name, "claims") ? -EBUSY : 0;
	}
	if (!strcmp(answer, "lost") && fake_is(f, "ripe-")) {
		/* The link means nothing any more. */
	} else if (!strcmp(answer, "lost")) {
		fake_session_close(f);
		fake_lost(f, "polluxd says so", false);
	} else if (!strcmp(answer, "confirmed") && fake_is(f, "stall-")) {
		if (!f->stalled)
			fake_state(f, "lost", "stalled", false);
		f->stalled = true;
	} else if (!strcmp(answer, "confirmed") || !strcmp(answer, "forced")) {
		fake_state(f, "unprotected", "", false);
	}
	return 0;
}

static int fake_promote(struct fake *f, const json_t *q)
{
	if (f->primary || fake_is(f, "bad-promote"))
		return -EIO;
	fake_session_close(f);
	f->primary = f->running = true;
	f->postcopy = fake_is(f, "tail-") ? "running" : NULL;
	snprintf(f->state, sizeof(f->state), "unprotected");
	return 0;
}

static int fake_load(struct fake *f, const json_t *q)
{
	return f->primary || fake_is(f, "bad-promote") ? -EIO : 0;
}

static void fake_power_off(struct fake *f)
{
	f->ended = true;
	(void)fake_unprotect(f, NULL);
	fake_say(f, json_pack("{s:s, s:s, s:s}", "event", "vm", "what", "poweroff", "detail", ""));
}

static int fake_shutdown(struct fake *f, const json_t *q)
{
	if (!fake_is(f, "deaf-"))
		fake_power_off(f);
	return 0;
}

/* The source's has made the link when it answers. */
static int fake_recover(struct fake *f, const json_t *q)
{
	if (f->postcopy && f->handover && !strcmp(f->postcopy, "running"))
		return -EBUSY;
	if (f->postcopy && f->handover)
		fake_postcopy(f, "running");
	return f->postcopy ? 0 : -EINVAL;
}

static int fake_forecast(struct fake *f, const json_t *q)
{
	if (!fake_is(f, "hold-ask") || !json_is_true(json_object_get(q, "rehearsed")))
		return 0;
	return write(f->session, "p", 1) == 1 ? 0 : -errno;
}

/* It has the VM of another one. */
static int fake_adopt(struct fake *f, const json_t *q)
{
	if (fake_is(f, "bad-adopt"))
		return -EIO;
	f->primary = f->running = true;
	snprintf(f->state, sizeof(f->state), "unprotected");
	return 0;
}

static int fake_nothing(struct fake *f, const json_t *q)
{
	return 0;
}

static const struct {
	const char *name;
	int (*handle)(struct fake *f, const json_t *q);
} fake_requests[] = {
	{"create", fake_create},       {"boot", fake_boot},       {"protect", fake_protect},
	{"standby", fake_standby},     {"stream", fake_nothing},  {"ownership", fake_ownership},
	{"unprotect", fake_unprotect}, {"promote", fake_promote}, {"shutdown", fake_shutdown},
	{"load", fake_load},           {"quit", fake_nothing},    {"stats", fake_nothing},
	{"console", fake_nothing},     {"recover", fake_recover}, {"echo", fake_nothing},
	{"forecast", fake_forecast},   {"lend", fake_nothing},    {"yield", fake_nothing},
	{"unyield", fake_nothing},     {"adopt", fake_adopt},
};

static int fake_handle(struct fake *f, const json_t *q, const char *what)
{
	for (size_t i = 0; i < ARRAY_LEN(fake_requests); i++)
		if (!strcmp(fake_requests[i].name, what))
			return fake_requests[i].handle(f, q);
	return -ENOSYS;
}

static json_t *fake_reply(struct fake *f, const json_t *q, int rc)
{
	json_t *o = json_pack(
		"{s:O, s:b, s:i, s:s, s:s, s:i, s:f, s:b, s:{s:s, s:s, s:b, s:s, s:I, s:b, s:o, "
		"s:{s:i, s:i}}}",
		"reply", json_object_get(q, "id"), "ok", !rc, "code", rc, "error",
		rc ? "the fake refuses" : "", "engine", "sim", "epoch", 1, "ms", 0.1, "postcopy",
		f->postcopy != NULL, "stats", "state", f->state, "engine", "sim", "ended", f->ended,
		"why", "", "term", f->term, "handover", f->handover, "postcopy",
		fake_postcopy_json(f), "replication", "sync_done", 1, "sync_total", 2);

	if (!fake_is(f, "old-")) {
		json_object_set_new(o, "shared_disks", json_true());
		json_object_set_new(json_object_get(o, "stats"), "shared_disks", json_true());
	}
	return o;
}

static void fake_director_lost(struct fake *f)
{
	loop_unwatch(f->director_watch);
	f->director_watch = NULL;
	close(f->director);
	f->director = -1;
	json_decref(f->late);
	f->late = NULL;
	if (!f->running || f->ended)
		exit(0);
}

/* Whether the answer is not due yet. */
static bool fake_late(struct fake *f, json_t *q, const char *what)
{
	if (!strcmp(what, "unprotect") && fake_is(f, "late-") && !f->late) {
		f->late = q;
		return true;
	}
	if (f->late && !strcmp(what, "stats")) {
		fake_say(f, fake_reply(f, f->late, 0));
		json_decref(f->late);
		f->late = NULL;
	}
	return false;
}

static void fake_director_ready(void *ctx, uint32_t events)
{
	struct fake *f = ctx;
	int fds[CONTROL_FDS_MAX], rc;
	unsigned fd_count;
	struct error e = {0};
	const char *what;
	json_t *q;

	rc = control_receive(f->director, &q, fds, &fd_count, &e);
	if (rc == -EAGAIN)
		return;
	if (rc) {
		fake_director_lost(f);
		return;
	}
	what = json_string_value(json_object_get(q, "do"));
	if (!strcmp(what, "stream") && fd_count)
		rc = fake_session_take(f, fds[0]);
	else
		rc = fake_handle(f, q, what);
	if (fake_late(f, q, what))
		return;
	fake_say(f, fake_reply(f, q, rc));
	if (!strcmp(what, "unprotect") && !rc)
		fake_state(f, "unprotected", "ended in good order", false);
	if (!strcmp(what, "quit"))
		exit(0);
	json_decref(q);
}

static void fake_listener_ready(void *ctx, uint32_t events)
{
	struct fake *f = ctx;

	f->director = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (f->director < 0 ||
	    loop_watch(f->loop, f->director, EPOLLIN, fake_director_ready, f, &f->director_watch))
		exit(1);
}

static void fake_signal(void *ctx, uint32_t events)
{
	struct fake *f = ctx;
	struct signalfd_siginfo info;

	if (read(f->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR1) {
		fake_power_off(f);
	} else if (f->postcopy) {
		fake_postcopy(f, info.ssi_signo == SIGWINCH ? "done" : "cut");
	} else if (info.ssi_signo == SIGWINCH && fake_waits(f)) {
		f->let_go = true;
		fake_go_on(f);
	} else if (info.ssi_signo == SIGWINCH && !strcmp(f->state, "freezing")) {
		fake_state(f, "handed", "", false);
	} else if (info.ssi_signo == SIGWINCH && fake_is(f, "hold-ask")) {
		fake_say(f, json_pack("{s:s}", "event", "rehearse"));
	} else if (info.ssi_signo == SIGWINCH) {
		(void)!write(f->session, "p", 1);
	} else if (f->session >= 0) {
		shutdown(f->session, SHUT_RDWR);
	}
}

static void fake_listen(struct fake *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct loop_watch *watch;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->control_path);
	unlink(a.sun_path);
	f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (f->listener < 0 || bind(f->listener, (struct sockaddr *)&a, sizeof(a)) ||
	    listen(f->listener, 1) ||
	    loop_watch(f->loop, f->listener, EPOLLIN, fake_listener_ready, f, &watch))
		exit(1);
}

static int fake_vm_main(int argc, char **argv)
{
	static struct fake f = {.director = 3, .session = -1, .state = "unprotected"};
	struct loop_watch *watch;
	sigset_t set;

	/* A test that is killed must leave nothing behind. */
	alarm(120);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	f.signals = signalfd(-1, &set, SFD_CLOEXEC);
	snprintf(f.control_path, sizeof(f.control_path), "%s", argv[2]);
	if (loop_create(&f.loop) || fcntl(3, F_SETFL, O_NONBLOCK) ||
	    loop_watch(f.loop, f.signals, EPOLLIN, fake_signal, &f, &watch) ||
	    loop_watch(f.loop, 3, EPOLLIN, fake_director_ready, &f, &f.director_watch))
		return 1;
	fake_listen(&f);
	return loop_run(f.loop) ? 1 : 0;
}

#endif

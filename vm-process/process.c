// SPDX-License-Identifier: Apache-2.0
/* The control side: requests in, replies and events out. */
#include "vm-process/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vm-process/vm-process.h"

#define LOG_MODULE    "process"
#define ANNOUNCEMENTS ARRAY_LEN(announce_after_ms)

/* ---- requests ----------------------------------------------------------------- */

int request_fd(struct request *q, unsigned i)
{
	int fd = i < q->fd_count ? q->fds[i] : -1;

	if (fd >= 0)
		q->fds[i] = -1;
	return fd;
}

/* False: there is none of that name, and the run is an ordinary one. */
static bool deterministic_parse(const json_t *request, struct vm_deterministic *out)
{
	const json_t *o = json_object_get(request, "deterministic");

	*out = (struct vm_deterministic){
		.seed = (uint64_t)json_integer_value(json_object_get(o, "seed")),
		.hash_every = (uint64_t)json_integer_value(json_object_get(o, "hash_every")),
		.record = json_string_value(json_object_get(o, "record")),
		.replay = json_string_value(json_object_get(o, "replay")),
	};
	return o;
}

/* Taps and disks are open: no privilege is needed now. Threads come after, for each thread
 * has capabilities of its own. */
static int parts_begin(struct process *p, const int console[2], const struct vm_deterministic *how,
		       struct error *e)
{
	int rc = parts_open(p, console[0], console[1], how, e);

	if (!rc)
		rc = sandbox_enter(e);
	if (!rc)
		rc = parts_run(p, e);
	if (!rc && p->successor)
		rc = upgrade_hold(p, e);
	if (rc) {
		parts_close(p);
		p->role = ROLE_NONE;
	}
	return rc;
}

static int create_parts(struct process *p, struct request *q, struct error *e)
{
	struct vm_deterministic how;
	bool deterministic = deterministic_parse(q->body, &how);
	int first = request_fd(q, 0), second = request_fd(q, 1), rc;
	int console[2] = {first, second < 0 ? first : second};

	if (!p->successor)
		return parts_begin(p, console, deterministic ? &how : NULL, e);
	if (first < 0 || deterministic)
		return error_set(e, -EINVAL, "a successor needs the memory of a running vm");
	console[0] = console[1] = -1;
	p->ram_fd = first;
	rc = fault_point("upgrade.create");
	if (!rc)
		rc = parts_begin(p, console, NULL, e);
	p->ram_fd = 0;
	close(first);
	return rc;
}

static int role_parse(const char *role, struct process *p)
{
	if (!role ||
	    (strcmp(role, "primary") && strcmp(role, "standby") && strcmp(role, "successor")))
		return -EINVAL;
	p->role = strcmp(role, "standby") ? ROLE_PRIMARY : ROLE_STANDBY;
	p->successor = !strcmp(role, "successor");
	return 0;
}

/* What this program is, beside its build. */
static void program_put(json_t *out)
{
	json_object_set_new(out, "sections", control_sections());
	json_object_set_new(out, "shared_disks", json_true());
}

static int do_create(struct process *p, struct request *q, struct error *e)
{
	const char *text = json_string_value(json_object_get(q->body, "config"));
	const char *origin = json_string_value(json_object_get(q->body, "origin"));
	const char *role = json_string_value(json_object_get(q->body, "role"));
	int rc;

	if (p->vm)
		return error_set(e, -EBUSY, "this process holds a vm already");
	if (!text || role_parse(role, p))
		return error_set(e, -EINVAL, "create needs \"config\" and \"role\"");
	rc = vm_config_parse(text, origin ? origin : "config", &p->config, e);
	if (rc)
		return rc;
	p->lazy_asked = json_is_true(json_object_get(q->body, "lazy"));
	log_context_vm(p->config.name);
	rc = create_parts(p, q, e);
	if (rc)
		return rc;
	json_object_set_new(q->reply, "engine", json_string(vm_engine_name(p->vm)));
	json_object_set_new(q->reply, "build", json_string(version_text));
	program_put(q->reply);
	return 0;
}

static int do_boot(struct process *p, struct request *q, struct error *e)
{
	int rc;

	(void)q;
	if (!p->vm || p->role != ROLE_PRIMARY || p->successor || p->vm_started || p->image ||
	    p->image_loaded)
		return error_set(e, -EINVAL, "only a new primary can boot");
	rc = vm_boot(p->vm, e);
	if (!rc)
		rc = vm_start(p->vm, e);
	p->vm_started = !rc;
	return rc;
}

/* The guest stands still, or is about to, and the device lock is not to be had. */
static int not_dumping(const struct process *p, struct error *e)
{
	return p->dump ? error_set(e, -EBUSY, "a core of the vm is being written") : 0;
}

static int do_protect(struct process *p, struct request *q, struct error *e)
{
	if (p->role != ROLE_PRIMARY)
		return error_set(e, -EINVAL, "only a primary can be protected");
	if (p->dump)
		return not_dumping(p, e);
	return primary_protect(p, q->body, e);
}

static int do_standby(struct process *p, struct request *q, struct error *e)
{
	if (p->role != ROLE_STANDBY)
		return error_set(e, -EINVAL, "this process is no standby");
	return standby_prepare(p, q->body, e);
}

static int do_stream(struct process *p, struct request *q, struct error *e)
{
	int fd = request_fd(q, 0);

	if (fd < 0)
		return error_set(e, -EINVAL, "stream needs the accepted socket");
	return standby_stream(p, q->body, fd, e);
}

static int do_ownership(struct process *p, struct request *q, struct error *e)
{
	return primary_ownership(p, q->body, e);
}

static int do_unprotect(struct process *p, struct request *q, struct error *e)
{
	(void)q;
	return primary_unprotect(p, e);
}

static int do_load(struct process *p, struct request *q, struct error *e)
{
	return standby_load(p, q->body, e);
}

static int do_recover(struct process *p, struct request *q, struct error *e)
{
	return postcopy_recover(p, q->body, e);
}

static int do_promote(struct process *p, struct request *q, struct error *e)
{
	return standby_promote(p, q->body, q->reply, e);
}

/* What takes the device lock runs beside the devices: while a migration hands the guest
 * over the lock is held until this thread brings the verdict. */
static void press_button(void *vm)
{
	vm_power_button(vm);
}

static int do_shutdown(struct process *p, struct request *q, struct error *e)
{
	int rc;

	(void)q;
	if (!p->vm_started)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->dump)
		return not_dumping(p, e);
	if (p->image || p->image_saved)
		return error_set(e, -EBUSY, "the vm is being saved, or its memory still read");
	rc = loop_post(p->io, press_button, p->vm);
	if (rc)
		return error_set(e, rc, "the power button: %s", strerror(-rc));
	return 0;
}

static int do_quit(struct process *p, struct request *q, struct error *e)
{
	(void)q;
	(void)e;
	p->quitting = true;
	return 0;
}

static int do_save(struct process *p, struct request *q, struct error *e)
{
	return image_save_begin(p, q->body, request_fd(q, 0), request_fd(q, 1), e);
}

static int do_restore(struct process *p, struct request *q, struct error *e)
{
	return image_restore_begin(p, q->body, request_fd(q, 0), request_fd(q, 1), e);
}

static int do_go(struct process *p, struct request *q, struct error *e)
{
	(void)q;
	return image_go(p, e);
}

static int do_image_cancel(struct process *p, struct request *q, struct error *e)
{
	(void)q;
	(void)e;
	image_cancel(p);
	return 0;
}

static int do_echo(struct process *p, struct request *q, struct error *e)
{
	(void)p;
	(void)q;
	(void)e;
	return 0;
}

static int do_forecast(struct process *p, struct request *q, struct error *e)
{
	return migrate_forecast(p, q->body, e);
}

static int do_stats(struct process *p, struct request *q, struct error *e)
{
	json_t *stats = stats_json(p);

	(void)e;
	if (json_is_true(json_object_get(q->body, "sections")))
		program_put(stats);
	/* Until it has started, a state may be loaded by another thread. */
	if (json_is_true(json_object_get(q->body, "cpuid")) && p->vm_started)
		cpu_put(p->vm, stats);
	json_object_set_new(q->reply, "stats", stats);
	return 0;
}

/* It may wait for memory, which comes only while this thread waits for nothing. */
int process_whole(const struct process *p, struct error *e)
{
	if (vm_ram_is_whole(p->vm))
		return 0;
	return error_set(e, -EBUSY, "some of the vm's memory is still to come: try again later");
}

static int may_pause(struct process *p, bool paused, struct error *e)
{
	if (!p->vm_started || p->vm_ended)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->replicator)
		return error_set(e, -EBUSY, "a protected vm cannot be paused: unprotect first");
	if (p->image)
		return error_set(e, -EBUSY, "the vm is being saved, or its memory still read");
	if (p->paused == paused)
		return error_set(e, -EALREADY, "the vm is %s already",
				 paused ? "paused" : "running");
	if (p->dump)
		return not_dumping(p, e);
	return process_whole(p, e);
}

static int do_pause(struct process *p, struct request *q, struct error *e)
{
	int rc = may_pause(p, true, e);

	(void)q;
	if (rc)
		return rc;
	vm_stall(p->vm, STALL_ORDER);
	p->paused = true;
	return 0;
}

static int do_resume(struct process *p, struct request *q, struct error *e)
{
	int rc = may_pause(p, false, e);

	(void)q;
	if (rc)
		return rc;
	vm_unstall(p->vm, STALL_ORDER);
	p->paused = p->image_saved = false;
	return 0;
}

static int do_console(struct process *p, struct request *q, struct error *e)
{
	int in = request_fd(q, 0), out = request_fd(q, 1), rc;

	if (!p->console || in < 0) {
		if (in >= 0)
			close(in);
		if (out >= 0)
			close(out);
		return error_set(e, -EINVAL, "console needs a vm and a descriptor");
	}
	rc = console_attach(p->console, in, out < 0 ? in : out);
	return rc ? error_set(e, rc, "cannot attach to the console: %s", strerror(-rc)) : 0;
}

static int do_dump_core(struct process *p, struct request *q, struct error *e)
{
	int fd = request_fd(q, 0);

	if (fd < 0)
		return error_set(e, -EINVAL, "dump-core needs the file's descriptor");
	return dump_begin(p, q->body, fd, e);
}

static int do_measure(struct process *p, struct request *q, struct error *e)
{
	return measure_begin(p, q->body, e);
}

static int do_dump_cancel(struct process *p, struct request *q, struct error *e)
{
	(void)q;
	(void)e;
	dump_cancel(p);
	return 0;
}

static const struct {
	const char *name;
	int (*handle)(struct process *p, struct request *q, struct error *e);
	bool yielded; /* also while another process may have the vm */
} requests[] = {
	{"create", do_create, false},
	{"boot", do_boot, false},
	{"protect", do_protect, false},
	{"standby", do_standby, false},
	{"stream", do_stream, false},
	{"ownership", do_ownership, false},
	{"unprotect", do_unprotect, false},
	{"load", do_load, false},
	{"recover", do_recover, false},
	{"promote", do_promote, false},
	{"shutdown", do_shutdown, false},
	{"quit", do_quit, true},
	{"stats", do_stats, true},
	{"echo", do_echo, true},
	{"forecast", do_forecast, false},
	{"measure", do_measure, false},
	{"pause", do_pause, false},
	{"resume", do_resume, false},
	{"console", do_console, false},
	{"dump-core", do_dump_core, false},
	{"dump-cancel", do_dump_cancel, false},
	{"save", do_save, false},
	{"restore", do_restore, false},
	{"go", do_go, false},
	{"image-cancel", do_image_cancel, false},
	{"lend", upgrade_lend, false},
	{"yield", upgrade_yield, false},
	{"adopt", upgrade_adopt, false},
	{"unyield", upgrade_unyield, true},
};

/* Everything else may need log-dirty, or the vm. */
static bool beside_measure(int (*handle)(struct process *p, struct request *q, struct error *e))
{
	return handle == do_stats || handle == do_echo || handle == do_measure;
}

static int request_handle(struct process *p, struct request *q, struct error *e)
{
	const char *name = json_string_value(json_object_get(q->body, "do"));

	for (size_t i = 0; name && i < ARRAY_LEN(requests); i++) {
		if (strcmp(name, requests[i].name) != 0)
			continue;
		if (p->yielded && !requests[i].yielded)
			return error_set(e, -EBUSY, "the vm is being handed to another process");
		if (!beside_measure(requests[i].handle))
			measure_end(p);
		return requests[i].handle(p, q, e);
	}
	return error_set(e, -EINVAL, "unknown request \"%s\"", name ? name : "");
}

static void director_lost(struct process *p);

/* Those that no handler has taken. */
static void request_fds_close(const struct request *q)
{
	for (unsigned i = 0; i < q->fd_count; i++)
		if (q->fds[i] >= 0)
			close(q->fds[i]);
}

static void request_reply(struct process *p, struct request *q)
{
	struct error e = {0};
	int rc, sent;

	q->reply = json_pack("{s:O?}", "reply", json_object_get(q->body, "id"));
	rc = request_handle(p, q, &e);
	request_fds_close(q); /* before the answer: who has it finds them closed */
	json_object_set_new(q->reply, "ok", json_boolean(!rc));
	if (rc) {
		json_object_set_new(q->reply, "code", json_integer(rc));
		json_object_set_new(q->reply, "error",
				    json_string(e.text[0] ? e.text : strerror(-rc)));
	}
	sent = p->director_fd >= 0
		       ? control_send(p->director_fd, q->reply, q->reply_fds, q->reply_fd_count)
		       : 0;
	if (q->reply_fd_close)
		close(q->reply_fds[0]);
	if (sent && sent != -EPIPE) /* a director that left is noticed by the next read */
		log_warn_rc(sent, "cannot answer the director");
	json_decref(q->reply);
}

static void on_director(void *ctx, uint32_t events)
{
	struct process *p = ctx;
	struct request q = {0};
	struct error e = {0};
	json_t *body;
	int rc = control_receive(p->director_fd, &body, q.fds, &q.fd_count, &e);

	(void)events;
	if (rc == -EAGAIN)
		return;
	if (rc == -EBADMSG) {
		log_warn("%s", e.text);
		return;
	}
	if (rc) {
		director_lost(p);
		return;
	}
	q.body = body;
	request_reply(p, &q);
	json_decref(body);
	if (p->quitting)
		loop_stop(p->control);
}

/* ---- the director ------------------------------------------------------------- */

static void director_close(struct process *p)
{
	if (p->director_watch)
		loop_unwatch(p->director_watch);
	p->director_watch = NULL;
	if (p->director_fd >= 0)
		close(p->director_fd);
	p->director_fd = -1;
}

/* An owner goes on without a director; a twin without one is nobody's. */
static void director_lost(struct process *p)
{
	director_close(p);
	dump_cancel(p);  /* who wanted it is gone, and the guest waits */
	image_cancel(p); /* nobody would take what comes of it */
	if (upgrade_orphaned(p) == -EALREADY) {
		loop_stop(p->control);
		return;
	}
	if (p->role == ROLE_PRIMARY && p->vm_started && !p->vm_ended && p->control_path) {
		log_warn("the director is gone; the vm goes on, listening on %s", p->control_path);
		return;
	}
	log_info("the director is gone; ending");
	loop_stop(p->control);
}

static int director_set(struct process *p, int fd)
{
	director_close(p);
	p->director_fd = fd;
	return loop_watch(p->control, fd, EPOLLIN, on_director, p, &p->director_watch);
}

static void on_listen(void *ctx, uint32_t events)
{
	struct process *p = ctx;
	int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int rc;

	(void)events;
	if (fd < 0)
		return;
	if (upgrade_orphaned(p) == -EALREADY) {
		close(fd);
		loop_stop(p->control);
		return;
	}
	rc = director_set(p, fd);
	if (rc)
		log_error_rc(rc, "cannot serve a new director");
	else
		log_info("a director has connected");
}

bool process_is_found(const struct process *p)
{
	struct stat st;

	return p->control_path && !stat(p->control_path, &st) && st.st_dev == p->control_dev &&
	       st.st_ino == p->control_ino;
}

/* A socket keeps its inode for as long as it is bound: no other one can have it meanwhile. */
static int path_note(struct process *p)
{
	struct stat st;

	if (stat(p->control_path, &st))
		return -errno;
	p->control_dev = st.st_dev;
	p->control_ino = st.st_ino;
	return 0;
}

static int listen_open(struct process *p, struct error *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int rc;

	if (!p->control_path)
		return 0;
	if (strlen(p->control_path) >= sizeof a.sun_path)
		return error_set(e, -ENAMETOOLONG, "--control %s: the path is too long",
				 p->control_path);
	strcpy(a.sun_path, p->control_path);
	unlink(p->control_path);
	p->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->listen_fd < 0 || bind(p->listen_fd, (struct sockaddr *)&a, sizeof a) ||
	    listen(p->listen_fd, 4))
		return error_set(e, -errno, "--control %s: %s", p->control_path, strerror(errno));
	rc = path_note(p);
	if (!rc)
		rc = loop_watch(p->control, p->listen_fd, EPOLLIN, on_listen, p, &p->listen_watch);
	return rc ? error_set(e, rc, "--control %s: %s", p->control_path, strerror(-rc)) : 0;
}

void process_event(struct process *p, json_t *event)
{
	int rc = p->director_fd >= 0 ? control_send(p->director_fd, event, NULL, 0) : 0;

	if (rc)
		log_warn_rc(rc, "an event did not reach the director");
	json_decref(event);
}

void process_post(struct process *p, loop_fn *fn, void *ctx)
{
	int rc = loop_post(p->control, fn, ctx);

	if (rc)
		log_error_rc(rc, "an event is lost");
}

void text_copy(char *to, size_t room, const char *from)
{
	size_t n = 0;

	for (; from && from[n] && n + 1 < room; n++)
		to[n] = from[n] >= ' ' && from[n] <= '~' ? from[n] : '?';
	to[n] = 0;
}

static const char *const vm_event_names[] = {"poweroff", "reboot", "crash"};

void process_vm_tell(struct process *p, enum vm_event event, const char *detail)
{
	process_event(p, json_pack("{s:s, s:s, s:s}", "event", "vm", "what", vm_event_names[event],
				   "detail", detail));
	if (p->vm_ended && p->director_fd < 0)
		loop_stop(p->control);
}

void process_vm_event(struct process *p, enum vm_event event, const char *detail)
{
	struct error e = {0};

	log_info("guest: %s%s%s", vm_event_names[event], *detail ? ": " : "", detail);
	if (event != VM_EVENT_REBOOT) {
		p->vm_ended = true;
		/* The standby must learn from us that this end is no failure (I6). */
		if (p->replicator && primary_unprotect(p, &e))
			log_warn("the standby could not be told of the end: %s", e.text);
	}
	if (event != VM_EVENT_CRASH || !dump_crash(p, detail))
		process_vm_tell(p, event, detail);
}

/* ---- timers --------------------------------------------------------------------- */

/* Switches learn the guest's new place from any frame; several, as any may be lost. */
static const unsigned announce_after_ms[] = {0, 50, 200, 500, 1000, 2000};

static void announce(void *vm)
{
	vm_announce(vm);
}

static void on_announce(void *ctx)
{
	struct process *p = ctx;
	int rc;

	if (p->vm_ended)
		return;
	rc = loop_post(p->io, announce, p->vm);
	if (rc)
		log_warn_rc(rc, "the guest's new place was not announced");
	if (++p->announced == ANNOUNCEMENTS)
		p->announced = 0;
	else
		loop_timer_set(p->announce,
			       clock_ns() + announce_after_ms[p->announced] * NS_PER_MS);
}

void process_announce(struct process *p)
{
	p->announced = 0;
	loop_timer_set(p->announce, clock_ns());
}

static void on_progress(void *ctx)
{
	struct process *p = ctx;
	json_t *event = stats_json(p);

	json_object_set_new(event, "event", json_string("progress"));
	process_event(p, event);
	loop_timer_set(p->progress, clock_ns() + (p->precopy ? NS_PER_SEC / 5 : NS_PER_SEC));
}

/* ---- life ----------------------------------------------------------------------- */

static void on_signal(void *ctx, uint32_t events)
{
	struct process *p = ctx;

	(void)events;
	log_info("asked to end by a signal");
	loop_stop(p->control);
}

/* The signals are blocked by main(), before there are threads. */
static int signals_watch(struct process *p)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p->signal_fd < 0)
		return -errno;
	return loop_watch(p->control, p->signal_fd, EPOLLIN, on_signal, p, &p->signal_watch);
}

static int process_open(struct process *p, int director_fd, struct error *e)
{
	int rc;

	if ((rc = loop_create(&p->control)) || (rc = loop_create(&p->io)) ||
	    (rc = loop_timer(p->control, on_announce, p, &p->announce)) ||
	    (rc = loop_timer(p->control, on_progress, p, &p->progress)) ||
	    (rc = loop_timer(p->control, primary_claim_again, p, &p->claim)) ||
	    (rc = signals_watch(p)))
		return error_set(e, rc, "cannot make the event loops: %s", strerror(-rc));
	rc = listen_open(p, e);
	if (rc || director_fd < 0)
		return rc;
	rc = director_set(p, director_fd);
	return rc ? error_set(e, rc, "fd %d is no control socket: %s", director_fd, strerror(-rc))
		  : 0;
}

/* What other threads have posted last: it frees itself when it runs. Nobody is left to be
 * told, and no timer may see what has been closed. */
static void posts_finish(struct process *p)
{
	int rc;

	if (!p->control || !p->announce || !p->progress || !p->claim)
		return;
	loop_timer_set(p->announce, 0);
	loop_timer_set(p->progress, 0);
	loop_timer_set(p->claim, 0);
	rc = loop_step(p->control, 0);
	if (rc)
		log_warn_rc(rc, "the last events are lost");
}

static void process_close(struct process *p)
{
	measure_end(p);
	dump_close(p);
	image_end(p);
	primary_close(p);
	standby_close(p);
	parts_close(p);
	director_close(p);
	if (p->listen_watch)
		loop_unwatch(p->listen_watch);
	if (p->listen_fd >= 0) {
		if (process_is_found(p))
			unlink(p->control_path);
		close(p->listen_fd);
	}
	if (p->signal_watch)
		loop_unwatch(p->signal_watch);
	if (p->signal_fd >= 0)
		close(p->signal_fd);
	posts_finish(p);
	if (p->announce)
		loop_timer_free(p->announce);
	if (p->progress)
		loop_timer_free(p->progress);
	if (p->claim)
		loop_timer_free(p->claim);
	if (p->io)
		loop_destroy(p->io);
	if (p->control)
		loop_destroy(p->control);
	pthread_cond_destroy(&p->hold_change);
	pthread_mutex_destroy(&p->hold_lock);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int process_run(int director_fd, const char *control_path, struct error *e)
{
	struct process *p = calloc(1, sizeof *p);
	int rc;

	if (!p)
		return error_set(e, -ENOMEM, "no memory");
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->hold_lock, NULL);
	pthread_cond_init(&p->hold_change, NULL);
	p->listen_fd = p->director_fd = p->signal_fd = -1;
	p->control_path = control_path;
	p->replicator_state = REPLICATOR_UNPROTECTED;
	rc = process_open(p, director_fd, e);
	thread_hasten();
	if (!rc) {
		rc = loop_run(p->control);
		if (rc)
			error_set(e, rc, "the control loop ended: %s", strerror(-rc));
	}
	process_close(p);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/* Operations go on in polluxd; here they are looked at, five times a second. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define POLL_NS   (200 * NS_PER_MS)
#define LINE_MOST 100 /* on a terminal, its end included */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	interrupted = 1;
}

void interrupt_catch(void)
{
	struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

	if (interrupted)
		return;
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

bool interrupt_came(void)
{
	return interrupted;
}

static void pause_briefly(void)
{
	nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
}

/* ---- progress ---------------------------------------------------------------------- */

struct progress {
	bool terminal;
	uint64_t began, printed;
	char phase[80];
	bool line_open, noted;
};

static void progress_line(struct progress *p, const char *text)
{
	if (p->terminal)
		fprintf(stderr, "\r\033[K%s", text);
	else
		fprintf(stderr, "%s\n", text);
	p->line_open = p->terminal;
	p->printed = clock_ns();
}

static double seconds_since(uint64_t began)
{
	return (double)(clock_ns() - began) / 1e9;
}

static void copy_text(const struct progress *p, const char *doing, uint64_t done, uint64_t total,
		      char *out, size_t size)
{
	double seconds = seconds_since(p->began);
	double rate = seconds > 0 ? (double)done / seconds : 0;
	char done_text[32], total_text[32], rate_text[32];

	bytes_text(done, done_text, sizeof(done_text));
	bytes_text(total, total_text, sizeof(total_text));
	bytes_text((uint64_t)rate, rate_text, sizeof(rate_text));
	snprintf(out, size, "%s: %3.0f %%  %s of %s  %s/s  %.0f s left", doing,
		 total ? 100.0 * (double)done / (double)total : 0.0, done_text, total_text,
		 rate_text, rate > 0 && total > done ? (double)(total - done) / rate : 0.0);
}

/* So that a line is no longer than the terminal is wide; a line that wraps is not replaced. */
static size_t line_room(const struct progress *p, size_t most)
{
	struct winsize w;

	if (!p->terminal)
		return most;
	if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &w) && w.ws_col && w.ws_col < LINE_MOST)
		return w.ws_col;
	return LINE_MOST;
}

/* What is being copied, if anything is: a core, or the memory of a VM to its standby. */
static bool copy_find(const json_t *vm, uint64_t *done, uint64_t *total)
{
	const json_t *stats = json_object_get(vm, "stats");
	const json_t *dump = json_object_get(stats, "dump");
	const json_t *replication = json_object_get(stats, "replication");

	*done = (uint64_t)json_number(dump ? dump : replication, dump ? "done" : "sync_done");
	*total = (uint64_t)json_number(dump ? dump : replication, dump ? "total" : "sync_total");
	return *total && (dump || !strcmp(json_word(vm, "state"), "syncing"));
}

static void progress_text(const struct progress *p, const struct wait *w, const json_t *vm,
			  char *out, size_t size)
{
	uint64_t done, total;

	if (w->line && w->line(w, vm, out, size))
		return;
	if (copy_find(vm, &done, &total))
		copy_text(p, w->doing, done, total, out, size);
	else
		snprintf(out, size, "%s: %s, %.0f s", w->doing, json_word(vm, "state"),
			 seconds_since(p->began));
}

/* A terminal sees it move; elsewhere a line comes when the state or the phase changes, and each
 * 5 s. It is made each time: some watch what changes. */
static void progress_show(struct progress *p, const struct wait *w, const json_t *vm)
{
	const char *step = json_word(json_object_get(vm, "operation"), "phase");
	char text[256], phase[sizeof(p->phase)];
	bool due;

	snprintf(phase, sizeof(phase), "%s %s", json_word(vm, "state"), step);
	due = strcmp(p->phase, phase) != 0 || clock_ns() - p->printed >= 5 * NS_PER_SEC;
	progress_text(p, w, vm, text, line_room(p, sizeof(text)));
	if (!p->terminal && (!due || (!p->printed && seconds_since(p->began) < 1)))
		return;
	snprintf(p->phase, sizeof(p->phase), "%s", phase);
	progress_line(p, text);
}

static void progress_end(struct progress *p)
{
	if (p->line_open)
		fputs("\r\033[K", stderr);
	p->line_open = false;
}

/* ---- waiting ------------------------------------------------------------------------- */

int operation_judge(const json_t *operation)
{
	const char *hint = json_word(operation, "hint");

	if (!strcmp(json_word(operation, "state"), "done"))
		return EXIT_OK;
	complain("%s failed: %s", json_word(operation, "what"), json_word(operation, "error"));
	if (*hint)
		complain("%s", hint);
	return EXIT_FAILED;
}

static json_int_t operation_id(const json_t *vm, const char *key)
{
	return json_number(json_object_get(vm, key), "id");
}

static bool operation_over(const json_t *vm, json_int_t id)
{
	const json_t *operation = json_object_get(vm, "operation");

	return json_number(operation, "id") != id ||
	       strcmp(json_word(operation, "state"), "running") != 0;
}

int wait_leave(const struct wait *w)
{
	complain("interrupted; polluxd goes on with it: `pollux status %s`", w->vm);
	return EXIT_FAILED;
}

int operation_begin(const struct invocation *v, const char *vm, const char *tail, json_t *body,
		    json_t **reply)
{
	interrupt_catch();
	if (interrupted) {
		json_decref(body);
		complain("interrupted before this was begun");
		return EXIT_FAILED;
	}
	return api_vm_call(v, "POST", vm, tail, body, reply);
}

int operation_ask(const struct invocation *v, const char *tail,
		  int (*fill)(const struct invocation *v, json_t *body), json_t **reply)
{
	json_t *body = json_object();
	int rc = fill(v, body);

	if (rc)
		json_decref(body);
	else if (invocation_flag(v, "detach")) /* nobody would take a Ctrl-C */
		rc = api_vm_call(v, "POST", v->arguments[0], tail, body, reply);
	else
		rc = operation_begin(v, v->arguments[0], tail, body, reply);
	return rc;
}

/* Asked beside another operation, it is told beside that; from here on it is the one. */
static void beside_take(json_t *vm, json_int_t id)
{
	json_t *beside = json_object_get(vm, "operation_beside");

	if (json_number(beside, "id") != id)
		return;
	json_object_set(vm, "operation", beside);
	json_object_set(vm, "check", json_object_get(beside, "check"));
}

/* Ctrl-C, once. */
static int interruption_take(const struct wait *w, struct progress *p)
{
	int rc;

	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	interrupted = 0;
	progress_end(p);
	rc = w->interrupted(w);
	return rc == WAIT_ON ? EXIT_OK : rc;
}

static void note(struct progress *p, const struct wait *w, const json_t *vm)
{
	if (!w->note || p->noted)
		return;
	progress_end(p);
	p->noted = w->note(w, vm);
}

int operation_end(const struct wait *w, json_t *reply, json_t **out)
{
	struct progress p = {.terminal = isatty(STDERR_FILENO), .began = clock_ns()};
	json_int_t id = json_number(json_object_get(reply, "operation"), "id");
	json_t *vm = reply;
	int rc = EXIT_OK;

	interrupt_catch();
	while (!rc && !operation_over(vm, id)) {
		note(&p, w, vm);
		if (w->event)
			w->event(w, vm);
		else
			progress_show(&p, w, vm);
		pause_briefly();
		json_decref(vm);
		rc = api_vm_call(w->invocation, "GET", w->vm, "", NULL, &vm);
		if (!rc)
			beside_take(vm, id);
		if (!rc && interrupted && !operation_over(vm, id))
			rc = interruption_take(w, &p);
	}
	progress_end(&p);
	if (!rc && operation_id(vm, "operation_before") == id)
		json_object_set(vm, "operation", json_object_get(vm, "operation_before"));
	if (!rc && operation_id(vm, "operation") != id) {
		complain("another operation took its place; see `pollux status %s`", w->vm);
		rc = EXIT_FAILED;
	}
	if (!rc)
		note(&p, w, vm);
	if (rc)
		json_decref(vm);
	else
		*out = vm;
	return rc;
}

int operation_wait(const struct wait *w, json_t *reply, json_t **out)
{
	json_t *vm;
	int rc = operation_end(w, reply, &vm);

	if (rc)
		return rc;
	rc = operation_judge(json_object_get(vm, "operation"));
	if (!rc && out)
		*out = vm;
	else
		json_decref(vm);
	return rc;
}

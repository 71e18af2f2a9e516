// SPDX-License-Identifier: Apache-2.0
/* Operations go on in polluxd; here they are looked at, five times a second. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define POLL_NS (200 * NS_PER_MS)

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	interrupted = 1;
}

/* Once: a second Ctrl-C ends the command as it always does. */
static void interrupt_catch(void)
{
	struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

	interrupted = 0;
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

static void pause_briefly(void)
{
	nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
}

/* ---- progress ---------------------------------------------------------------------- */

struct progress {
	bool terminal;
	uint64_t began, printed;
	char state[32];
	bool line_open;
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

static void copy_text(const struct progress *p, const char *doing, uint64_t done, uint64_t total,
		      char *out, size_t size)
{
	double seconds = (double)(clock_ns() - p->began) / 1e9;
	double rate = seconds > 0 ? (double)done / seconds : 0;
	char done_text[32], total_text[32], rate_text[32];

	bytes_text(done, done_text, sizeof(done_text));
	bytes_text(total, total_text, sizeof(total_text));
	bytes_text((uint64_t)rate, rate_text, sizeof(rate_text));
	snprintf(out, size, "%s: %3.0f %%  %s of %s  %s/s  %.0f s left", doing,
		 total ? 100.0 * (double)done / (double)total : 0.0, done_text, total_text,
		 rate_text, rate > 0 && total > done ? (double)(total - done) / rate : 0.0);
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

/* A terminal sees it move; elsewhere a line comes when the state changes, and each 5 s. */
static void progress_show(struct progress *p, const struct wait *w, const json_t *vm)
{
	const char *state = json_word(vm, "state");
	uint64_t done, total;
	char text[256];

	if (!p->terminal && !strcmp(p->state, state) && clock_ns() - p->printed < 5 * NS_PER_SEC)
		return;
	if (!p->terminal && !p->printed && clock_ns() - p->began < NS_PER_SEC)
		return;
	snprintf(p->state, sizeof(p->state), "%s", state);
	if (w->line && w->line(vm, text, sizeof(text)))
		;
	else if (copy_find(vm, &done, &total))
		copy_text(p, w->doing, done, total, text, sizeof(text));
	else
		snprintf(text, sizeof(text), "%s: %s, %.0f s", w->doing, state,
			 (double)(clock_ns() - p->began) / 1e9);
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

int operation_ask(const struct invocation *v, const char *tail,
		  int (*fill)(const struct invocation *v, json_t *body), json_t **reply)
{
	json_t *body = json_object();
	int rc = fill(v, body);

	if (rc)
		json_decref(body);
	return rc ? rc : api_vm_call(v, "POST", v->arguments[0], tail, body, reply);
}

/* Ctrl-C, once. */
static int interruption_take(const struct wait *w, struct progress *p)
{
	int rc;

	interrupted = 0;
	progress_end(p);
	rc = w->interrupted(w);
	return rc == WAIT_ON ? EXIT_OK : rc;
}

int operation_end(const struct wait *w, json_t *reply, json_t **out)
{
	struct progress p = {.terminal = isatty(STDERR_FILENO), .began = clock_ns()};
	json_int_t id = json_number(json_object_get(reply, "operation"), "id");
	json_t *vm = reply;
	int rc = EXIT_OK;

	interrupt_catch();
	while (!rc && !operation_over(vm, id)) {
		if (w->event)
			w->event(vm);
		else
			progress_show(&p, w, vm);
		pause_briefly();
		json_decref(vm);
		rc = api_vm_call(w->invocation, "GET", w->vm, "", NULL, &vm);
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

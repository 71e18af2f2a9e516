// SPDX-License-Identifier: Apache-2.0
/* Sessions one after the other on one primary, over a replicator that the test plays. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm-process/process.h"

/* ---- the replicator ---------------------------------------------------------- */

struct replicator {
	struct replicator_events events;
	bool held;
};

static struct {
	int start_rc, stop_rc;
	bool report_late; /* the last state is reported while it is destroyed */
	unsigned started, destroyed;
	bool held;
	enum ownership_answer answer;
	struct replicate_stats stats;
} fake;

int replicator_start(struct vm *vm, const struct replicate_config *c,
		     const struct epoch_member *members, unsigned member_count,
		     const struct epoch_output *outputs, unsigned output_count,
		     const struct replicator_events *events, struct replicator **out,
		     struct error *e)
{
	fake.held = c->held;
	if (fake.start_rc)
		return error_set(e, fake.start_rc, "told to fail");
	*out = calloc(1, sizeof(**out));
	(*out)->events = *events;
	fake.started++;
	return 0;
}

void replicator_output(struct replicator *r)
{
}

void replicator_ownership(struct replicator *r, enum ownership_answer a)
{
	fake.answer = a;
}

void replicator_cut(struct replicator *r)
{
}

int replicator_stop(struct replicator *r, uint64_t deadline, struct error *e)
{
	return fake.stop_rc ? error_set(e, fake.stop_rc, "told to fail") : 0;
}

const uint64_t *replicator_missing(struct replicator *r)
{
	return NULL;
}

uint64_t replicator_frozen_at(struct replicator *r)
{
	return 0;
}

void replicator_stats(struct replicator *r, struct replicate_stats *out)
{
	*out = fake.stats;
	fake.stats.pages += 3000; /* in so many more epochs */
	fake.stats.acknowledged += 30;
}

void replicator_destroy(struct replicator *r)
{
	if (!r)
		return;
	if (fake.report_late)
		r->events.state(r->events.ctx, REPLICATOR_UNPROTECTED, "ended in good order");
	fake.destroyed++;
	free(r);
}

/* ---- the process ---------------------------------------------------------------- */

static void on_progress(void *ctx)
{
}

static int setup(void **state)
{
	struct vm_config c = {.name = "played", .memory = 256 << 10, .vcpus = 1, .engine = "sim"};
	struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct process *p = calloc(1, sizeof(*p));
	struct error e = {0};

	memset(&fake, 0, sizeof(fake));
	pthread_mutex_init(&p->lock, NULL);
	assert_int_equal(loop_create(&p->control), 0);
	assert_int_equal(loop_timer(p->control, on_progress, p, &p->progress), 0);
	assert_int_equal(loop_timer(p->control, primary_claim_again, p, &p->claim), 0);
	p->director_fd = p->listen_fd = p->signal_fd = -1;
	p->role = ROLE_PRIMARY;
	parts.io = p->control;
	assert_int_equal(vm_create(&c, &parts, &p->vm, &e), 0);
	p->vm_started = true;
	p->replicator_state = REPLICATOR_UNPROTECTED;
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct process *p = *state;

	primary_close(p);
	vm_destroy(p->vm);
	loop_timer_free(p->progress);
	loop_timer_free(p->claim);
	loop_destroy(p->control);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return 0;
}

static int protect(struct process *p)
{
	char session[33] = {0}, key[65] = {0};
	struct error e = {0};
	json_t *request;
	int rc;

	memset(session, 'a', 32);
	memset(key, 'b', 64);
	request = json_pack("{s:s, s:s, s:i, s:s, s:i}", "session", session, "key", key, "term", 7,
			    "address", "127.0.0.1", "port", 1);
	rc = primary_protect(p, request, &e);
	json_decref(request);
	return rc;
}

static void say(struct process *p, enum replicator_state s)
{
	p->replicator->events.state(p->replicator->events.ctx, s, "because");
	assert_int_equal(loop_step(p->control, 0), 0);
}

/* ---- tests ------------------------------------------------------------------------- */

static void test_an_old_session_ends_no_new_one(void **state)
{
	struct process *p = *state;
	struct error e = {0};

	assert_int_equal(protect(p), 0);
	say(p, REPLICATOR_PROTECTED);
	fake.report_late = true;
	assert_int_equal(primary_unprotect(p, &e), 0);
	assert_int_equal(protect(p), 0);
	assert_int_equal(loop_step(p->control, 0), 0);
	assert_non_null(p->replicator);
	assert_int_equal(p->replicator_state, REPLICATOR_CONNECTING);
	assert_int_equal(fake.destroyed, 1);
	fake.report_late = false;
}

static void test_the_end_is_reported(void **state)
{
	struct process *p = *state;

	assert_int_equal(protect(p), 0);
	say(p, REPLICATOR_UNPROTECTED);
	assert_null(p->replicator);
	assert_int_equal(p->replicator_state, REPLICATOR_UNPROTECTED);
	assert_string_equal(p->state_why, "because");
}

/* An event that is no JSON is none: nobody would ever answer for the loss. */
static void test_a_reason_of_any_bytes(void **state)
{
	char room[5], why[300];
	struct process *p = *state;
	json_t *stats;

	assert_int_equal(protect(p), 0);
	memset(why, 0xc3, sizeof(why) - 1);
	why[sizeof(why) - 1] = 0;
	p->replicator->events.state(p->replicator->events.ctx, REPLICATOR_LOST, why);
	assert_int_equal(loop_step(p->control, 0), 0);
	stats = stats_json(p);
	assert_string_equal(json_string_value(json_object_get(stats, "state")), "lost");
	assert_int_equal(json_string_length(json_object_get(stats, "why")), 199);
	json_decref(stats);
	text_copy(room, sizeof(room), "k\xc3\xa4se");
	assert_string_equal(room, "k??s");
}

/* Of a VM that has arrived the session is over, and is not its own replication. */
static void test_an_arrived_vm_has_no_session(void **state)
{
	struct process *p = *state;
	json_t *stats;

	p->replica = (struct replica *)16; /* not to be asked */
	stats = stats_json(p);
	p->replica = NULL;
	assert_int_equal(json_integer_value(json_object_get(json_object_get(stats, "replication"),
							    "bytes_sent")),
			 0);
	json_decref(stats);
}

/* Output of the lost session is held, whatever becomes of those that follow. */
static void test_held_until_somebody_owns(void **state)
{
	struct process *p = *state;
	struct error e = {0};

	assert_int_equal(protect(p), 0);
	assert_false(fake.held);
	say(p, REPLICATOR_LOST);
	fake.start_rc = -ENOMEM;
	assert_int_equal(protect(p), -ENOMEM);
	assert_int_equal(p->replicator_state, REPLICATOR_LOST);
	assert_int_equal(primary_unprotect(p, &e), -ENOTCONN);
	fake.start_rc = 0;
	assert_int_equal(protect(p), 0);
	assert_true(fake.held);
	say(p, REPLICATOR_UNPROTECTED);
	assert_int_equal(protect(p), 0);
	assert_false(fake.held);
	assert_int_equal(primary_unprotect(p, &e), 0);
}

/* The request may come before the process has heard of the verdict it has passed on. */
static void test_fenced_at_once(void **state)
{
	json_t *denied = json_pack("{s:s}", "answer", "denied");
	struct process *p = *state;
	struct error e = {0};

	assert_int_equal(protect(p), 0);
	say(p, REPLICATOR_LOST);
	assert_int_equal(primary_ownership(p, denied, &e), 0);
	assert_int_equal(protect(p), -EBUSY);
	assert_int_equal(fake.started, 1);
	json_decref(denied);
}

/* A word that is older than the session: disks may not be claimed for it, and what a postcopy
 * would serve is linked to. It is no error, as the same word may come twice. */
static void test_owned_when_it_asks(void **state)
{
	json_t *confirmed = json_pack("{s:s}", "answer", "confirmed");
	struct process *p = *state;
	struct error e = {0};

	fake.answer = OWNERSHIP_DENIED;
	assert_int_equal(protect(p), 0);
	say(p, REPLICATOR_SYNCING);
	assert_int_equal(primary_ownership(p, confirmed, &e), 0);
	assert_int_equal(fake.answer, OWNERSHIP_DENIED);
	say(p, REPLICATOR_LOST);
	for (unsigned times = 0; times < 2; times++) {
		assert_int_equal(primary_ownership(p, confirmed, &e), 0);
		assert_int_equal(fake.answer, OWNERSHIP_CONFIRMED);
	}
	json_decref(confirmed);
}

/* ---- what is measured before a migration ------------------------------------------- */

static void director_connect(struct process *p, int *other)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	p->director_fd = fds[0];
	*other = fds[1];
}

static void director_leave(struct process *p, int other)
{
	close(p->director_fd);
	close(other);
	p->director_fd = -1;
}

static void measure(struct process *p)
{
	json_t *request = json_pack("{s:s}", "compression", "zlib");
	struct error e = {0};

	if (measure_begin(p, request, &e))
		fail_msg("%s", e.text);
	assert_int_equal(measure_begin(p, request, &e), -EBUSY);
	json_decref(request);
}

static json_t *measured(struct process *p, int director)
{
	int fds[CONTROL_FDS_MAX];
	unsigned fd_count = 0;
	struct error e = {0};
	json_t *event;

	while (p->measure)
		assert_int_equal(loop_step(p->control, -1), 0);
	assert_int_equal(control_receive(director, &event, fds, &fd_count, &e), 0);
	assert_string_equal(json_string_value(json_object_get(event, "event")), "measured");
	return event;
}

static json_int_t number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void logging_is_off(struct process *p)
{
	assert_int_equal(vm_log_dirty(p->vm, true), 0);
	assert_int_equal(vm_log_dirty(p->vm, false), 0);
}

static void test_measure(void **state)
{
	struct process *p = *state;
	uint64_t pages = vm_ram_pages(p->vm);
	const json_t *way, *dirty;
	json_t *event;
	int director;

	/* Two touched pages: one of zeros, and one that zlib makes small. */
	memset(vm_ram(p->vm), 0, VM_PAGE_SIZE);
	memset(vm_ram(p->vm) + VM_PAGE_SIZE, 7, VM_PAGE_SIZE);
	director_connect(p, &director);
	measure(p);
	event = measured(p, director);
	assert_true(json_is_true(json_object_get(event, "ok")));
	assert_int_equal(number(event, "ram_pages"), pages);
	assert_int_equal(number(event, "pages"), 1);
	way = json_array_get(json_object_get(event, "encodings"), 0);
	assert_string_equal(json_string_value(json_object_get(way, "compression")), "zlib");
	assert_in_range(number(way, "wire_bytes"), 1, 500);
	assert_true(number(way, "encode_ns") > 0);
	dirty = json_object_get(event, "dirty");
	assert_int_equal(json_array_size(dirty), MIGRATE_SAMPLES);
	assert_true(number(json_array_get(dirty, 0), "ns") >= 10 * (json_int_t)NS_PER_MS);
	assert_int_equal(number(json_array_get(dirty, 2), "pages"), 0);
	json_decref(event);
	logging_is_off(p);
	director_leave(p, director);
}

/* Who needs log-dirty next finds it free. */
static void test_measure_is_given_up(void **state)
{
	struct process *p = *state;
	json_t *event;
	int director;

	director_connect(p, &director);
	measure(p);
	measure_end(p);
	assert_null(p->measure);
	logging_is_off(p);
	event = measured(p, director);
	assert_false(json_is_true(json_object_get(event, "ok")));
	assert_int_equal(number(event, "code"), -ECANCELED);
	json_decref(event);
	assert_int_equal(loop_step(p->control, 0), 0); /* what the thread has posted */
	director_leave(p, director);
}

/* A session logs: it knows what was written. Without one, somebody else's logging is no rate. */
static void test_measure_in_a_session(void **state)
{
	struct process *p = *state;
	const json_t *dirty;
	json_t *event;
	int director;

	director_connect(p, &director);
	assert_int_equal(vm_log_dirty(p->vm, true), 0);
	measure(p);
	event = measured(p, director);
	assert_false(json_is_true(json_object_get(event, "ok")));
	json_decref(event);
	assert_int_equal(protect(p), 0);
	measure(p);
	event = measured(p, director);
	assert_true(json_is_true(json_object_get(event, "session")));
	dirty = json_object_get(event, "dirty");
	assert_int_equal(json_array_size(dirty), 2);
	assert_int_equal(number(json_array_get(dirty, 0), "pages"), 100);
	assert_int_equal(number(json_array_get(dirty, 1), "pages"), 3000);
	json_decref(event);
	assert_int_equal(vm_log_dirty(p->vm, false), 0);
	director_leave(p, director);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_an_old_session_ends_no_new_one, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_the_end_is_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reason_of_any_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_arrived_vm_has_no_session, setup, teardown),
		cmocka_unit_test_setup_teardown(test_held_until_somebody_owns, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fenced_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_owned_when_it_asks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_measure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_measure_is_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_measure_in_a_session, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

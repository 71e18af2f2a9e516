// SPDX-License-Identifier: Apache-2.0
/* What is asked before a migration, as two polluxds see it, when many ask at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <semaphore.h>

#include "tests/unit/agent/flows.h"

static void run_alone(const char *vm)
{
	WAIT_FOR(connected(0) && connected(1), vm);
	assert_int_equal(guest_run(0, vm, false), 202);
	WAIT_STATE(0, vm, "running");
}

static bool check_taken(const char *vm)
{
	return vm_call(0, vm, "migrate",
		       json_pack("{s:s, s:b}", "to", hosts[1].config.name, "check", true)) == 202;
}

static void check_ask(const char *vm)
{
	WAIT_FOR(check_taken(vm), vm);
}

static void check_ended(const char *vm)
{
	WAIT_FOR(guest_at(0, vm)->operation.state != OPERATION_RUNNING, vm);
	assert_int_equal(guest_at(0, vm)->operation.state, OPERATION_DONE);
}

/* ---- jobs that take long ------------------------------------------------------------------ */

struct slow {
	struct job job;
	sem_t *gate;
};

static void slow_run(struct job *j)
{
	while (sem_wait(((struct slow *)j)->gate))
		;
}

static void slow_end(struct job *j)
{
	free(j);
}

/* All threads are taken until the gate opens. */
static void jobs_fill(int host, sem_t *gate)
{
	for (unsigned i = 0; i < JOBS_MAX; i++) {
		struct slow *s = calloc(1, sizeof(*s));

		assert_non_null(s);
		*s = (struct slow){.job = {.run = slow_run, .done = slow_end, .drop = slow_end},
				   .gate = gate};
		assert_int_equal(jobs_start(hosts[host].agent->jobs, &s->job), 0);
	}
}

static void asked_while_busy(int host)
{
	sem_t gate;

	assert_int_equal(sem_init(&gate, 0, 0), 0);
	jobs_fill(host, &gate);
	check_ask("vm1");
	rounds(20);
	assert_int_equal(guest_at(0, "vm1")->operation.state, OPERATION_RUNNING);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	check_ended("vm1");
	sem_destroy(&gate);
}

static void test_source_is_busy(void **state)
{
	run_alone("vm1");
	asked_while_busy(0);
}

static void test_target_is_busy(void **state)
{
	run_alone("vm1");
	asked_while_busy(1);
}

/* More than a target can have waiting: it says so at once. */
static void test_target_is_full(void **state)
{
	sem_t gate;

	run_alone("vm1");
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	for (unsigned i = 0; i <= JOBS_WAITING_MAX / JOBS_MAX; i++)
		jobs_fill(1, &gate);
	check_ask("vm1");
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_FAILED, "vm1");
	assert_int_equal(guest_at(0, "vm1")->operation.code, -EBADMSG);
	assert_non_null(strstr(guest_at(0, "vm1")->operation.error, strerror(EBUSY)));
	for (unsigned i = 0; i < JOBS_WAITING_MAX + JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	host_down(&hosts[1]); /* waits for those that have begun */
	sem_destroy(&gate);
}

/* ---- what is in the way ------------------------------------------------------------------- */

static json_t *check_result(void)
{
	return guest_at(0, "vm1")->check.q.result;
}

/* For programs, beside the sentence for people. */
static void all_have_codes(const json_t *reasons)
{
	const json_t *r;
	size_t i;

	json_array_foreach(reasons, i, r) assert_true(*json_text_of(r, "code"));
}

static void name_is_taken_there(void)
{
	run_alone("vm1");
	assert_int_equal(guest_run(1, "vm1", false), 202);
	WAIT_STATE(1, "vm1", "running");
}

/* How long it would take is of use also to who has something to put right first. */
static void test_impossible_is_measured(void **state)
{
	const json_t *forecast;

	name_is_taken_there();
	check_ask("vm1");
	check_ended("vm1");
	assert_true(json_is_false(json_object_get(check_result(), "possible")));
	forecast = json_object_get(check_result(), "forecast");
	assert_true(json_is_object(forecast));
	/* The process of these tests measures nothing; the link was. */
	assert_non_null(strstr(json_text_of(forecast, "why"), "the VM"));
	assert_true(json_integer_of(forecast, "link_bytes_per_second", 0) > 0);
}

static void test_refused_at_once(void **state)
{
	struct guest *g;

	name_is_taken_there();
	g = guest_at(0, "vm1");
	assert_int_equal(
		vm_call(0, "vm1", "migrate", json_pack("{s:s}", "to", hosts[1].config.name)), 202);
	WAIT_FOR(g->operation.state != OPERATION_RUNNING, "vm1");
	assert_int_equal(g->operation.state, OPERATION_FAILED);
	assert_int_equal(g->operation.code, -EPERM);
	assert_non_null(strstr(g->operation.error, "another VM is called vm1 there"));
	assert_null(json_object_get(check_result(), "forecast"));
	assert_true(json_array_size(json_object_get(check_result(), "reasons")) > 0);
}

static void test_refused_to_itself(void **state)
{
	char body[128];
	struct http_request q = {.method = "POST", .path = "/v1/vms/vm1/migrate", .body = body};
	struct http_reply reply = {.status = 200};
	json_t *o;

	run_alone("vm1");
	q.body_len = (size_t)snprintf(body, sizeof(body), "{\"to\": \"%s\"}", hosts[0].config.name);
	api_handle(hosts[0].agent, &q, &reply);
	assert_int_equal(reply.status, 404);
	o = json_loads(reply.body, 0, NULL);
	assert_non_null(strstr(json_text_of(o, "error"), "is this host"));
	json_decref(o);
	free(reply.body);
}

/* All that this host has to say, in the answer to the request. */
static void test_refused_here(void **state)
{
	struct http_request q = {
		.method = "POST", .path = "/v1/vms/vm1/migrate", .body = "{\"to\": \"nowhere\"}"};
	struct http_reply reply = {.status = 200};
	json_t *o, *reasons;
	sem_t gate;

	run_alone("vm1");
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	jobs_fill(0, &gate);
	check_ask("vm1");
	q.body_len = strlen(q.body);
	api_handle(hosts[0].agent, &q, &reply);
	assert_int_equal(reply.status, 409);
	o = json_loads(reply.body, 0, NULL);
	reasons = json_object_get(o, "reasons");
	assert_int_equal(json_array_size(reasons), 2);
	all_have_codes(reasons);
	assert_string_equal(json_text_of(json_array_get(reasons, 0), "sentence"),
			    json_text_of(o, "error"));
	assert_non_null(strstr(json_text_of(json_array_get(reasons, 0), "sentence"), "under way"));
	assert_non_null(
		strstr(json_text_of(json_array_get(reasons, 1), "sentence"), "is not a peer"));
	assert_true(*json_text_of(json_array_get(reasons, 1), "hint"));
	json_decref(o);
	free(reply.body);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	check_ended("vm1");
	sem_destroy(&gate);
}

/* Of both hosts in one list, this one's first. */
static void refused_on_both(const char *there)
{
	const json_t *reasons = json_object_get(check_result(), "reasons");

	assert_true(json_is_false(json_object_get(check_result(), "possible")));
	assert_true(json_array_size(reasons) > 1);
	all_have_codes(reasons);
	assert_non_null(
		strstr(json_text_of(json_array_get(reasons, 0), "sentence"), "on its way still"));
	assert_non_null(strstr(json_text_of(json_array_get(reasons, 1), "sentence"), there));
	assert_string_equal(json_text_of(json_array_get(reasons, 1), "severity"), "error");
}

static void memory_is_on_its_way(void)
{
	snprintf(guest_at(0, "vm1")->postcopy, sizeof(guest_at(0, "vm1")->postcopy), "running");
}

static void test_refused_here_and_there(void **state)
{
	const char *there = "another VM is called vm1 there";
	struct guest *g;

	name_is_taken_there();
	g = guest_at(0, "vm1");
	memory_is_on_its_way();
	check_ask("vm1");
	check_ended("vm1");
	refused_on_both(there);
	assert_int_equal(
		vm_call(0, "vm1", "migrate", json_pack("{s:s}", "to", hosts[1].config.name)), 202);
	WAIT_FOR(g->operation.state != OPERATION_RUNNING, "vm1");
	assert_int_equal(g->operation.state, OPERATION_FAILED);
	assert_int_equal(g->operation.code, -EPERM);
	assert_non_null(strstr(g->operation.error, "on its way still; "));
	assert_non_null(strstr(g->operation.error, there));
	refused_on_both(there);
	g->postcopy[0] = '\0';
	check_ask("vm1");
	check_ended("vm1");
	assert_int_equal(json_array_size(json_object_get(check_result(), "reasons")), 1);
}

/* Beside the operation that is in the way, which goes on. */
static void test_asked_beside(void **state)
{
	const char *body = "{\"to\": \"hostb\", \"check\": true}";
	struct http_request q = {.method = "POST", .path = "/v1/vms/slow-1/migrate", .body = body};
	struct http_reply reply = {.status = 200};
	const json_t *reasons, *first;
	struct guest *g;
	uint64_t id;
	json_t *o;

	run_alone("slow-1");
	assert_int_equal(vm_protect(0, "slow-1", "continue"), 202);
	g = guest_at(0, "slow-1");
	id = g->operation.id;
	q.body_len = strlen(body);
	api_handle(hosts[0].agent, &q, &reply);
	assert_int_equal(reply.status, 202);
	o = json_loads(reply.body, 0, NULL);
	assert_int_equal(json_integer_of(json_object_get(o, "operation"), "id", 0), id + 1);
	json_decref(o);
	free(reply.body);
	assert_false(check_taken("slow-1")); /* one at a time */
	WAIT_FOR(g->beside.operation.state == OPERATION_DONE, "slow-1");
	reasons = json_object_get(g->beside.q.result, "reasons");
	first = json_array_get(reasons, 0);
	all_have_codes(reasons);
	assert_true(json_is_false(json_object_get(g->beside.q.result, "possible")));
	assert_non_null(strstr(json_text_of(first, "sentence"), "'protect' of slow-1"));
	assert_true(json_is_object(json_object_get(g->beside.q.result, "host"))); /* it was asked */
	assert_int_equal(g->operation.id, id);
	assert_int_equal(g->operation.state, OPERATION_RUNNING);
	assert_null(g->check.q.result);
	/* A migration is refused at once. */
	assert_int_equal(vm_call(0, "slow-1", "migrate", json_pack("{s:s}", "to", "hostb")), 409);
}

/* An answer without a result, whichever way it was asked for; nobody sends one without a reason
 * but another version. */
static void not_understood_by_the_other(const char *vm, uint64_t number)
{
	json_t *o = json_pack("{s:s, s:I, s:s}", "type", "checked", "number", (json_int_t)number,
			      "vm", vm);

	guest_check_message(hosts[0].agent, peers_at(hosts[0].agent->peers, 0), o);
	json_decref(o);
}

static void test_not_understood(void **state)
{
	const char *text = "the other host did not understand the question";
	const json_t *reason;
	struct guest *g;
	sem_t gate;

	run_alone("vm1");
	g = guest_at(0, "vm1");
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	jobs_fill(1, &gate);
	check_ask("vm1");
	assert_true(check_taken("vm1")); /* beside that one */
	not_understood_by_the_other("vm1", g->beside.q.number);
	assert_int_equal(g->beside.operation.state, OPERATION_DONE);
	reason = json_array_get(json_object_get(g->beside.q.result, "reasons"), 1);
	assert_string_equal(json_text_of(reason, "sentence"), text);
	snprintf(g->check.q.to, sizeof(g->check.q.to), "hostc");
	not_understood_by_the_other("vm1", g->check.q.number);
	assert_int_equal(g->operation.state, OPERATION_RUNNING); /* it was not asked */
	snprintf(g->check.q.to, sizeof(g->check.q.to), "hostb");
	not_understood_by_the_other("vm1", g->check.q.number);
	assert_int_equal(g->operation.state, OPERATION_FAILED);
	assert_string_equal(g->operation.error, text);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	host_down(&hosts[1]);
	sem_destroy(&gate);
}

/* What this host has to say is told also when the other one cannot answer. */
static void test_refused_here_unanswered_there(void **state)
{
	const char *there = "the other host could not find out what is in the way";
	sem_t gate;

	run_alone("vm1");
	memory_is_on_its_way();
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	for (unsigned i = 0; i <= JOBS_WAITING_MAX / JOBS_MAX; i++)
		jobs_fill(1, &gate);
	check_ask("vm1");
	check_ended("vm1");
	refused_on_both(there);
	for (unsigned i = 0; i < JOBS_WAITING_MAX + JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	host_down(&hosts[1]);
	sem_destroy(&gate);
}

/* Nor can this host describe it. */
static void test_refused_here_undescribed(void **state)
{
	const json_t *reasons;
	sem_t gate;

	run_alone("vm1");
	memory_is_on_its_way();
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	for (unsigned i = 0; i <= JOBS_WAITING_MAX / JOBS_MAX; i++)
		jobs_fill(0, &gate);
	check_ask("vm1");
	check_ended("vm1");
	refused_on_both(strerror(EBUSY));
	reasons = json_object_get(check_result(), "reasons");
	assert_true(*json_text_of(json_array_get(reasons, 1), "hint"));
	for (unsigned i = 0; i < JOBS_WAITING_MAX + JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	children_kill(&hosts[0]);
	sem_destroy(&gate);
}

/* Its end was another one than an answer: nothing of it is left behind. */
static void test_asked_anew_before_its_answer(void **state)
{
	sem_t gate;

	run_alone("vm1");
	memory_is_on_its_way();
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	jobs_fill(0, &gate);
	check_ask("vm1");
	guest_operation_fail(guest_at(0, "vm1"), -ECANCELED, "the test says so", NULL);
	check_ask("vm1");
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	check_ended("vm1");
	assert_int_equal(json_array_size(json_object_get(check_result(), "reasons")), 1);
	sem_destroy(&gate);
}

/* ---- a disk that both hosts see -------------------------------------------------------------- */

static void run_with_disk(const char *vm)
{
	char text[512];

	file_write("disk", "data", 0600);
	snprintf(text, sizeof(text),
		 "name = \"%s\"; memory = \"16M\"; vcpus = 1; engine = \"sim\"; seed = 1;"
		 "disks = ( { path = \"%s/disk\"; } );",
		 vm, folder);
	WAIT_FOR(connected(0) && connected(1), vm);
	assert_int_equal(call(0, "POST", "/v1/vms", json_pack("{s:s}", "config", text)), 202);
	WAIT_STATE(0, vm, "running");
}

static bool disks_taken(const char *vm, bool check)
{
	return vm_call(0, vm, "migrate",
		       json_pack("{s:s, s:b, s:b, s:b}", "to", hosts[1].config.name, "check", check,
				 "with_disks", true, "assume_same", true)) == 202;
}

static const json_t *reason_of(const json_t *result, const char *code)
{
	const json_t *reasons = json_object_get(result, "reasons");

	for (size_t i = 0; i < json_array_size(reasons); i++)
		if (!strcmp(json_text_of(json_array_get(reasons, i), "code"), code))
			return json_array_get(reasons, i);
	return NULL;
}

/* A process that is older than polluxd would copy it over itself. */
static void test_disk_and_old_process(void **state)
{
	struct guest *g;

	run_with_disk("old-1");
	g = guest_at(0, "old-1");
	WAIT_FOR(disks_taken("old-1", true), "old-1");
	check_ended("old-1");
	assert_true(json_is_false(json_object_get(g->check.q.result, "possible")));
	assert_non_null(strstr(json_text_of(reason_of(g->check.q.result, "process"), "hint"),
			       "pollux upgrade"));
	WAIT_FOR(disks_taken("old-1", false), "old-1");
	WAIT_FOR(g->operation.state != OPERATION_RUNNING, "old-1");
	assert_int_equal(g->operation.code, -EPERM);
	assert_string_equal(state_at(0, "old-1"), "running");
}

static void test_disk_and_process(void **state)
{
	struct guest *g;

	run_with_disk("vm1");
	WAIT_FOR(disks_taken("vm1", true), "vm1");
	check_ended("vm1");
	assert_true(json_is_true(json_object_get(check_result(), "possible")));
	assert_int_equal(json_integer_of(check_result(), "shared_disks", 0), 1);
	host_down(&hosts[0]); /* and it is said to a later polluxd */
	host_up(&hosts[0]);
	WAIT_FOR(connected(0) && connected(1), "vm1");
	WAIT_STATE(0, "vm1", "running");
	g = guest_at(0, "vm1");
	assert_true(g->program.takes_disks);
}

/* It would copy all of them, also when it was asked beside something else. */
static void test_disk_and_old_host(void **state)
{
	struct guest *g;
	json_t *hello;

	run_with_disk("vm1");
	g = guest_at(0, "vm1");
	WAIT_FOR(disks_taken("vm1", true), "vm1");
	check_ended("vm1");
	hello = (json_t *)peer_hello(peers_at(hosts[0].agent->peers, 0));
	json_object_set_new(hello, "can", json_pack("[s]", "migrate"));
	guest_operation_begin(g, "check");
	assert_true(disks_taken("vm1", true));
	WAIT_FOR(g->beside.operation.state == OPERATION_DONE, "vm1");
	if (*json_text_of(json_array_get(json_object_get(g->beside.q.copied, "disks"), 0),
			  "same")) /* xattrs are possible */
		assert_non_null(reason_of(g->beside.q.result, "disk-same"));
}

/* ---- bursts -------------------------------------------------------------------------------- */

/* The link is not measured then, and nothing fails for it; nor is one that was announced
 * forgotten for another. */
static void test_more_bursts_than_expected(void **state)
{
	struct burst_key k = {0};
	unsigned expected = 0;

	run_alone("vm1");
	while (!host_burst_expect(hosts[1].agent, &k))
		expected++;
	assert_int_equal(expected, BURSTS_MAX);
	check_ask("vm1");
	check_ended("vm1");
	assert_string_equal(guest_at(0, "vm1")->forecast.link_why,
			    "the other host is being asked by too many");
	for (unsigned i = 0; i < BURSTS_MAX; i++)
		assert_memory_equal(&hosts[1].agent->bursts[i].key, &k, sizeof(k));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_source_is_busy),
		FLOW(test_target_is_busy),
		FLOW(test_target_is_full),
		FLOW(test_impossible_is_measured),
		FLOW(test_refused_at_once),
		FLOW(test_refused_to_itself),
		FLOW(test_refused_here),
		FLOW(test_refused_here_and_there),
		FLOW(test_refused_here_unanswered_there),
		FLOW(test_refused_here_undescribed),
		FLOW(test_not_understood),
		FLOW(test_asked_anew_before_its_answer),
		FLOW(test_disk_and_old_process),
		FLOW(test_disk_and_process),
		FLOW(test_disk_and_old_host),
		FLOW(test_asked_beside),
		FLOW(test_more_bursts_than_expected),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}

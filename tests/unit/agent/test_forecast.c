// SPDX-License-Identifier: Apache-2.0
/* What is measured before a migration: bursts over loopback, jobs beside the loop, and what is
 * said of the result. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/burst.h"
#include "agent/forecast.h"
#include "agent/jobs.h"
#include "agent/json_text.h"

#define MIB (UINT64_C(1) << 20)

/* ---- a burst ---------------------------------------------------------------------- */

struct other {
	pthread_t thread;
	int listener;
	uint16_t port;
	struct burst_key key;
	int rc;
};

static void *other_main(void *ctx)
{
	struct other *o = ctx;
	uint8_t preamble[PREAMBLE_SIZE];
	struct error e = {0};
	struct preamble p;
	int fd = accept4(o->listener, NULL, NULL, SOCK_CLOEXEC);

	o->rc = -EBADMSG;
	if (fd >= 0 && !fd_read_all(fd, preamble, sizeof(preamble)) &&
	    !preamble_decode(preamble, &p, &e) && p.stream == CHANNEL_BURST &&
	    !memcmp(p.session, o->key.session, SESSION_ID_SIZE))
		o->rc = burst_receive(fd, &o->key, &e);
	else if (fd >= 0)
		close(fd);
	return NULL;
}

static void other_begin(struct other *o)
{
	struct sockaddr_in a = {0};
	socklen_t len = sizeof(a);
	struct error e = {0};

	memset(&o->key, 0x51, sizeof(o->key));
	assert_int_equal(channel_listen("127.0.0.1", 0, &o->listener, &e), 0);
	assert_int_equal(getsockname(o->listener, (struct sockaddr *)&a, &len), 0);
	o->port = ntohs(a.sin_port);
	/* It is for an event loop; here a thread waits. */
	assert_int_equal(fcntl(o->listener, F_SETFL, 0), 0);
	assert_int_equal(thread_start(&o->thread, "other", other_main, o), 0);
}

static int other_end(struct other *o)
{
	pthread_join(o->thread, NULL);
	close(o->listener);
	return o->rc;
}

static void a_burst_is_measured(void **state)
{
	struct burst_result r = {0};
	struct error e = {0};
	struct other o;

	other_begin(&o);
	if (burst_send("127.0.0.1", o.port, &o.key, 4 * MIB, &r, &e))
		fail_msg("%s", e.text);
	assert_int_equal(other_end(&o), 0);
	assert_in_range(r.bytes, 1, 4 * MIB); /* on a slow machine its time ends first */
	assert_true(r.ns > 0 && r.bytes_per_second > 0);
}

/* Who has not been told the key measures nothing. */
static void a_burst_needs_the_key(void **state)
{
	struct burst_result r = {0};
	struct burst_key wrong;
	struct error e = {0};
	struct other o;

	other_begin(&o);
	wrong = o.key;
	wrong.key[5] ^= 1;
	assert_true(burst_send("127.0.0.1", o.port, &wrong, 4 * MIB, &r, &e) < 0);
	assert_true(e.text[0]);
	assert_true(other_end(&o) < 0);
}

static int blocks_sent(const struct other *o, unsigned count, uint32_t len, uint16_t type)
{
	struct preamble p = {.kind = PREAMBLE_DATA, .stream = CHANNEL_BURST};
	struct channel_auth auth = {.stream = CHANNEL_BURST};
	uint64_t deadline = clock_ns() + 5 * NS_PER_SEC;
	void *block = calloc(1, len);
	struct error e = {0};
	struct channel *c;
	struct record r;
	int fd, rc = 0;

	memcpy(p.session, o->key.session, SESSION_ID_SIZE);
	memcpy(auth.session, o->key.session, SESSION_ID_SIZE);
	memcpy(auth.key, o->key.key, SESSION_KEY_SIZE);
	assert_int_equal(channel_dial("127.0.0.1", o->port, &p, deadline, &fd, &e), 0);
	assert_int_equal(channel_connect(fd, &auth, deadline, &c, &e), 0);
	for (unsigned i = 0; i < count && !rc; i++) {
		struct iovec iov = {block, len};

		rc = channel_send(c, type, RECORD_MANDATORY, &iov, 1, deadline);
	}
	if (!rc)
		rc = channel_receive(c, &r, deadline);
	channel_close(c);
	free(block);
	return rc;
}

/* What is too much, too long or unknown ends it. */
static void a_burst_is_bounded(void **state)
{
	static const struct {
		unsigned count;
		uint32_t len;
		uint16_t type;
	} cases[] = {{BURST_MARKS_MAX + 1, BURST_BLOCK, 48},
		     {BURST_MARKS_MAX + 1, 1, 48},
		     {1, BURST_BLOCK + 1, 48},
		     {1, 0, 48},
		     {1, 1, 49},
		     {1, 1, 7}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct other o;

		other_begin(&o);
		assert_true(blocks_sent(&o, cases[i].count, cases[i].len, cases[i].type) < 0);
		assert_int_equal(other_end(&o), -EBADMSG);
	}
}

static void the_second_half_tells(void **state)
{
	static const struct burst_mark slow_start[] = {
		{1000, 100}, {2000, 200}, {3000, 400}, {3500, 600}, {4000, 800}};
	struct burst_result r;

	burst_judge(slow_start, 5, &r);
	assert_int_equal(r.bytes, 800);
	assert_int_equal(r.ns, 3000);
	assert_int_equal(r.bytes_per_second, 400000000); /* 400 in 1000 ns */
	burst_judge(slow_start, 1, &r);
	assert_int_equal(r.bytes, 100);
	assert_int_equal(r.bytes_per_second, 0);
	burst_judge(slow_start, 0, &r);
	assert_int_equal(r.bytes, 0);
}

/* ---- jobs -------------------------------------------------------------------------- */

struct counting {
	struct job job;
	atomic_uint *ran;
	unsigned *done;
	atomic_uint *dropped;
};

static void count_run(struct job *j)
{
	atomic_fetch_add(((struct counting *)j)->ran, 1);
}

static void count_done(struct job *j)
{
	(*((struct counting *)j)->done)++;
	free(j);
}

static void count_drop(struct job *j)
{
	atomic_fetch_add(((struct counting *)j)->dropped, 1);
	free(j);
}

static int count_start(struct jobs *all, atomic_uint *ran, unsigned *done, atomic_uint *dropped)
{
	struct counting *c = calloc(1, sizeof(*c));
	int rc;

	*c = (struct counting){
		{.run = count_run, .done = count_done, .drop = count_drop}, ran, done, dropped};
	rc = jobs_start(all, &c->job);
	if (rc)
		free(c);
	return rc;
}

static void each_job_has_one_end(void **state)
{
	atomic_uint ran = 0, dropped = 0;
	unsigned done = 0, begun = 0;
	struct loop *loop;
	struct jobs *all;

	assert_int_equal(loop_create(&loop), 0);
	assert_int_equal(jobs_create(loop, &all), 0);
	while (done < 50) {
		if (begun < 50 && !count_start(all, &ran, &done, &dropped))
			begun++;
		assert_int_equal(loop_step(loop, 10), 0);
	}
	for (unsigned i = 0; i < 5; i++)
		if (!count_start(all, &ran, &done, &dropped))
			begun++;
	jobs_destroy(all);
	assert_int_equal(done, 50);
	assert_int_equal(atomic_load(&ran), begun);
	assert_int_equal(atomic_load(&dropped), begun - 50);
	loop_destroy(loop);
}

/* Held up until somebody opens the gate. */
struct gated {
	struct counting counting;
	sem_t *gate;
};

static void gated_run(struct job *j)
{
	while (sem_wait(((struct gated *)j)->gate))
		;
	count_run(j);
}

static void gated_start(struct jobs *all, const struct counting *c, sem_t *gate)
{
	struct gated *g = calloc(1, sizeof(*g));

	*g = (struct gated){*c, gate};
	g->counting.job.run = gated_run;
	assert_int_equal(jobs_start(all, &g->counting.job), 0);
}

static void gate_open(sem_t *gate, unsigned n)
{
	while (n--)
		assert_int_equal(sem_post(gate), 0);
}

/* However many there are: those beyond the threads run when one of these is free. */
static void a_job_too_many_waits(void **state)
{
	atomic_uint ran = 0, dropped = 0;
	unsigned done = 0;
	struct counting c = {{.done = count_done, .drop = count_drop}, &ran, &done, &dropped};
	struct loop *loop;
	struct jobs *all;
	sem_t gate;

	assert_int_equal(sem_init(&gate, 0, 0), 0);
	assert_int_equal(loop_create(&loop), 0);
	assert_int_equal(jobs_create(loop, &all), 0);
	for (unsigned i = 0; i < 3 * JOBS_MAX; i++)
		gated_start(all, &c, &gate);
	gate_open(&gate, 3 * JOBS_MAX);
	while (done < 3 * JOBS_MAX)
		assert_int_equal(loop_step(loop, 10), 0);
	assert_int_equal(atomic_load(&ran), 3 * JOBS_MAX);
	for (unsigned i = 0; i < JOBS_MAX + 5; i++)
		gated_start(all, &c, &gate);
	gate_open(&gate, JOBS_MAX + 5);
	jobs_destroy(all);
	assert_int_equal(done, 3 * JOBS_MAX);
	assert_int_equal(atomic_load(&dropped), JOBS_MAX + 5);
	loop_destroy(loop);
	sem_destroy(&gate);
}

/* ---- what is said -------------------------------------------------------------------- */

static const char measured_text[] =
	"{\"ok\": true, \"ram_pages\": 16384, \"pages\": 10000, \"session\": false,"
	" \"dirty\": [{\"ns\": 10000000, \"pages\": 10}, {\"ns\": 160000000, \"pages\": 160}],"
	" \"encodings\": [{\"compression\": \"none\", \"encode_ns\": 500, \"wire_bytes\": 4104},"
	"  {\"compression\": \"lz4\", \"encode_ns\": 4000, \"wire_bytes\": 1000}]}";

static struct forecast_input input(const json_t *vm, uint64_t link_rate)
{
	struct forecast_input in = {.vm = vm,
				    .vm_why = "no vm",
				    .link_why = "no link",
				    .link_rate = link_rate,
				    .streams = 2};

	migrate_config_defaults(&in.config);
	return in;
}

static void a_forecast_says_what_was_measured(void **state)
{
	json_t *vm = json_loads(measured_text, 0, NULL), *f;
	struct forecast_input in = input(vm, 2000000000);

	f = forecast_json(&in);
	assert_true(json_is_true(json_object_get(f, "measured")));
	assert_string_equal(json_text_of(f, "end"), "precopy");
	assert_string_equal(json_text_of(f, "compression"), "lz4"); /* 2000 ns against 2052 */
	assert_int_equal(json_integer_of(f, "pages", 0), 10000);
	assert_int_equal(json_integer_of(f, "dirty_pages_per_second", 0), 1000);
	assert_int_equal(json_integer_of(f, "link_bytes_per_second", 0), 2000000000);
	assert_in_range(json_integer_of(f, "total_ns", 0), 20000000, 30000000);
	assert_in_range(json_integer_of(f, "downtime_ns", 0), in.config.fixed_ns,
			in.config.downtime_ns);
	json_decref(f);
	in.streams = 1; /* now to pack takes longer than to send */
	f = forecast_json(&in);
	assert_string_equal(json_text_of(f, "compression"), "none");
	json_decref(f);
	json_decref(vm);
}

static void not_measured(const json_t *vm, uint64_t link_rate, const char *why)
{
	struct forecast_input in = input(vm, link_rate);
	json_t *f = forecast_json(&in);

	assert_true(json_is_false(json_object_get(f, "measured")));
	assert_string_equal(json_text_of(f, "why"), why);
	assert_null(json_object_get(f, "total_ns"));
	assert_int_equal(json_object_get(f, "pages") != NULL, vm != NULL);
	json_decref(f);
}

static void what_was_not_measured_is_said(void **state)
{
	json_t *vm = json_loads(measured_text, 0, NULL);

	not_measured(NULL, 1000, "the VM: no vm");
	not_measured(NULL, 0, "the VM: no vm");
	not_measured(vm, 0, "the link: no link");
	json_decref(vm);
}

static void warned(struct forecast_input *in, const char *hint)
{
	json_t *f = forecast_json(in), *w = forecast_warning(f, &in->config);

	assert_int_equal(w != NULL, hint != NULL);
	if (hint) {
		assert_string_equal(json_text_of(f, "end"), "give-up");
		assert_string_equal(json_text_of(w, "severity"), "warning");
		assert_string_equal(json_text_of(w, "code"), "give-up");
		assert_non_null(strstr(json_text_of(w, "sentence"), "given up"));
		assert_non_null(strstr(json_text_of(w, "sentence"), json_text_of(f, "why")));
		assert_non_null(strstr(json_text_of(w, "hint"), hint));
	}
	json_decref(w);
	json_decref(f);
}

/* A link that carries less than the guest writes; what is done then decides. */
static void giving_up_is_warned_of(void **state)
{
	json_t *vm = json_loads(measured_text, 0, NULL);
	struct forecast_input in = input(vm, 2000000000);

	warned(&in, NULL);
	in.link_rate = 100000;
	in.config.throttle_max = 0;
	warned(&in, "--stuck postcopy, or --stuck stop");
	in.config.stuck = STUCK_STOP;
	warned(&in, "larger --most-downtime");
	in.config.most_downtime_ns = 3600 * NS_PER_SEC;
	warned(&in, NULL);
	in.config.stuck = STUCK_POSTCOPY;
	warned(&in, NULL);
	in.link_rate = 0; /* not known */
	in.config.stuck = STUCK_GIVE_UP;
	warned(&in, NULL);
	json_decref(vm);
}

/* Time that was too short is not made up for by what is done with a guest that writes too fast,
 * and where disks are late by nothing else. */
static void a_timeout_is_to_be_larger(void **state)
{
	json_t *vm = json_loads(measured_text, 0, NULL), *f;
	struct forecast_input in = input(vm, 1000000);

	in.config.most_ns = NS_PER_SEC; /* 10 MB of memory */
	warned(&in, "larger --timeout; --stuck postcopy, or --stuck stop");
	in.config.stuck = STUCK_STOP;
	warned(&in, "larger --timeout or --most-downtime; --stuck postcopy");
	in.config.stuck = STUCK_POSTCOPY;
	warned(&in, NULL);
	in.disk_bytes = 10000000;
	warned(&in, "a larger --timeout, or more bandwidth; no --stuck");
	in.config.stuck = STUCK_GIVE_UP;
	warned(&in, "a larger --timeout, or more bandwidth; no --stuck");
	f = forecast_json(&in);
	assert_string_equal(json_text_of(f, "late"), "disks");
	json_decref(f);
	in.disk_bytes = 0;
	f = forecast_json(&in);
	assert_string_equal(json_text_of(f, "late"), "memory");
	json_decref(f);
	in.config.most_ns = 0;
	in.link_rate = 100000;
	in.config.throttle_max = 0;
	f = forecast_json(&in);
	assert_string_equal(json_text_of(f, "end"), "give-up");
	assert_null(json_object_get(f, "late"));
	json_decref(f);
	json_decref(vm);
}

/* Whatever a process says. */
static void nonsense_is_no_harm(void **state)
{
	static const char *const texts[] = {
		"{}",
		"{\"pages\": -1, \"ram_pages\": \"x\", \"dirty\": [3, {}], \"encodings\": 1}",
		"{\"dirty\": [{\"ns\": -4}], \"encodings\": [[], {\"encode_ns\": -1}]}",
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		json_t *vm = json_loads(texts[i], 0, NULL), *f;
		struct forecast_input in = input(vm, 1);

		assert_non_null(vm);
		f = forecast_json(&in);
		assert_non_null(f);
		json_decref(f);
		json_decref(vm);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_burst_is_measured),
		cmocka_unit_test(a_burst_needs_the_key),
		cmocka_unit_test(a_burst_is_bounded),
		cmocka_unit_test(the_second_half_tells),
		cmocka_unit_test(each_job_has_one_end),
		cmocka_unit_test(a_job_too_many_waits),
		cmocka_unit_test(a_forecast_says_what_was_measured),
		cmocka_unit_test(what_was_not_measured_is_said),
		cmocka_unit_test(giving_up_is_warned_of),
		cmocka_unit_test(a_timeout_is_to_be_larger),
		cmocka_unit_test(nonsense_is_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Before a migration begins the other host is asked what is in its way: all of it, not the
 * first; and how long it will take is measured. Nothing is begun before the answer, and with
 * --check nothing after it.
 *
 *   source  "check" (number, offer, burst, only)   ->  target
 *   source  <- "checked" (number, result, burst, why)
 *
 * What this host has against it is in the same list: the other one is asked all the same, for
 * whoever puts one thing right is to know of the next.
 *
 * "only": there is nothing to begin, and so how long it would take is measured also when
 * something is in the way. Else whoever has to wait for a refusal waits for nothing.
 *
 * What looks at files runs as a job: its end finds the guest by name, for meanwhile it may
 * have gone, or be asked something else.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/guest.h"
#include "agent/preflight.h"

#define LOG_MODULE "check"
#define ANSWER_NS  (20 * NS_PER_SEC)
#define MEASURE_NS (6 * NS_PER_SEC) /* after the answer */
#define CPU_NS     (5 * NS_PER_SEC)

static void timer_set(struct question *q, uint64_t at)
{
	if (q->timer)
		loop_timer_set(q->timer, at);
}

void guest_question_wait(struct question *q)
{
	timer_set(q, clock_ns() + ANSWER_NS);
}

void guest_answer_came(struct guest *g)
{
	g->check.q.number = 0;
	g->check.answered = false;
	json_decref(g->check.q.refusals);
	g->check.q.refusals = NULL;
	timer_set(&g->check.q, 0);
}

static void check_fail(struct guest *g, int rc, const char *text, const char *hint);

static void answer_late(void *ctx)
{
	struct guest *g = ctx;
	bool asked = g->check.q.number && g->check.operation == g->operation.id;

	if (asked && g->check.answered) { /* a forecast is not worth more waiting */
		g->forecast.vm_waits = g->forecast.link_waits = false;
		guest_check_go_on(g);
		return;
	}
	if (asked)
		check_fail(g, -ETIMEDOUT, "the other host has not answered",
			   "the VM runs on here; is the other polluxd well? see its log");
	else
		guest_answer_came(g);
}

void guest_answer_wait(struct guest *g)
{
	if (!g->check.q.timer && loop_timer(g->agent->loop, answer_late, g, &g->check.q.timer))
		log_warn("%s: the answer is waited for without a limit", g->name);
	g->check.operation = g->operation.id;
	if (!g->check.q.number)
		g->check.q.number = ++g->agent->last_check;
	guest_question_wait(&g->check.q);
}

bool guest_check_is(const struct guest *g, uint64_t number)
{
	return g && number && g->check.q.number == number && g->check.operation == g->operation.id;
}

/* ---- the question ------------------------------------------------------------------ */

struct describe {
	struct job job;
	struct agent *agent;
	char vm[VM_NAME_MAX + 1], to[AGENT_NAME_MAX + 1];
	char protect_on[AGENT_NAME_MAX + 1]; /* options.protect_on points to it */
	uint64_t number;
	struct describe *next; /* of those that wait until the process has said what CPU it has */
	struct preflight_options options;
	json_t *about, *offer; /* offer NULL: error */
	struct error error;
};

static void describe_free(struct job *j)
{
	struct describe *d = (struct describe *)j;

	json_decref(d->about);
	json_decref(d->offer);
	free(d);
}

static void describe_run(struct job *j)
{
	struct describe *d = (struct describe *)j;

	d->offer = preflight_describe(d->about, &d->options, &d->error);
}

/* Which of them has that number, and waits for its answer still. */
static struct question *question_find(struct guest *g, uint64_t number)
{
	if (guest_check_is(g, number))
		return g->check.answered ? NULL : &g->check.q;
	return guest_beside_is(g, number) ? &g->beside.q : NULL;
}

/* It cannot be put to the other host. */
static void question_fail(struct guest *g, struct question *q, int rc, const char *text)
{
	if (q == &g->check.q)
		check_fail(g, rc, text, "see the log of polluxd");
	else
		guest_beside_unanswered(g, text);
}

static void copied_note(struct question *q, json_t *offer)
{
	bool mirror = !strcmp(json_text_of(offer, "storage"), "mirror");

	json_decref(q->copied);
	q->copied = mirror ? json_incref(offer) : NULL;
}

static int check_send(struct describe *d, struct guest *g, struct question *q, struct error *e)
{
	struct peer *peer = peers_find(g->agent->peers, d->to);
	json_t *message;
	bool measured = q == &g->check.q;
	int rc;

	if (!d->offer)
		return error_set(e, d->error.code ? d->error.code : -ENOMEM, "%s", d->error.text);
	copied_note(q, d->offer);
	message = json_pack("{s:s, s:I, s:s, s:O, s:o?, s:b}", "type", "check", "number",
			    (json_int_t)d->number, "vm", g->name, "offer", d->offer, "burst",
			    measured ? guest_forecast_burst(g) : NULL, "only",
			    measured && guest_operation_is(g, "check"));
	rc = message && peer ? peer_send(peer, message) : -ENOTCONN;
	if (rc && !peer)
		json_decref(message);
	return rc ? error_set(e, rc, "%s cannot be asked: %s", d->to, strerror(-rc)) : 0;
}

static void describe_done(struct job *j)
{
	struct describe *d = (struct describe *)j;
	struct guest *g = guest_find(d->agent, d->vm);
	struct question *q = question_find(g, d->number);
	struct error e = {0};
	int rc = q ? check_send(d, g, q, &e) : 0;

	/* One without a link is asked when that is back. */
	if (rc && !(rc == -ENOTCONN && q == &g->check.q))
		question_fail(g, q, rc, e.text);
	describe_free(j);
}

static const char *postcopy_word(const struct migrate_options *o)
{
	if (o->postcopy_after)
		return "asked";
	return strcmp(o->stuck, "postcopy") ? NULL : "if-stuck";
}

static int describe_go(struct guest *g, struct describe *d)
{
	int rc = d->about ? jobs_start(g->agent->jobs, &d->job) : -ENOMEM;

	if (rc)
		describe_free(&d->job);
	return rc;
}

/* A guest that came from elsewhere may have less than this host offers. One that does not say is
 * of a build that took such guests nowhere. */
static void cpu_told(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;
	const json_t *stats = json_object_get(reply, "stats");
	const json_t *cpuid = json_object_get(stats, "cpuid");
	const json_t *limits = json_object_get(stats, "cpu_limits");
	struct describe *d;

	if (rc)
		log_warn("%s: its CPU is not known: %s", g->name, text);
	while ((d = g->describes)) {
		struct question *q = question_find(g, d->number);

		g->describes = d->next;
		if (json_array_size(cpuid))
			json_object_set_new(d->about, "cpuid", json_deep_copy(cpuid));
		if (limits)
			json_object_set_new(d->about, "cpu_limits", json_deep_copy(limits));
		rc = describe_go(g, d);
		if (rc && q)
			question_fail(g, q, rc, strerror(-rc));
	}
}

static void describes_drop(struct guest *g)
{
	struct describe *d;

	while ((d = g->describes)) {
		g->describes = d->next;
		describe_free(&d->job);
	}
}

int guest_describe(struct guest *g, const char *to, const struct migrate_options *o,
		   uint64_t number)
{
	struct describe *d = calloc(1, sizeof(*d));
	const char *protect_on = guest_chain_then_on(g, to);

	if (!d)
		return -ENOMEM;
	*d = (struct describe){
		.job = {.run = describe_run, .done = describe_done, .drop = describe_free},
		.agent = g->agent,
		.number = number,
		.options = {.with_disks = o->with_disks,
			    .overwrite = o->overwrite,
			    .assume_same = o->assume_same,
			    .postcopy = postcopy_word(o),
			    .protect_on = protect_on ? d->protect_on : NULL,
			    .is_protected = guest_is_protected(g),
			    .marks = g->agent->marks},
		.about = preflight_about(g),
	};
	snprintf(d->protect_on, sizeof(d->protect_on), "%s", protect_on ?: "");
	snprintf(d->vm, sizeof(d->vm), "%s", g->name);
	snprintf(d->to, sizeof(d->to), "%s", to);
	if (!g->child)
		return describe_go(g, d);
	d->next = g->describes;
	g->describes = d;
	guest_child_ask(g, json_pack("{s:s, s:b}", "do", "stats", "cpuid", true), CPU_NS, cpu_told);
	return 0;
}

bool guest_check_reaches(const struct guest *g, const char *to)
{
	struct peer *p = peers_find(g->agent->peers, to);

	return g->child_role == CHILD_VM && p && peer_is_up(p) && guest_peer_can(p, "migrate");
}

bool guest_check_can_ask(const struct guest *g, const char *to)
{
	return g->operation.state != OPERATION_RUNNING && !g->chain.cancelled &&
	       !guest_chain_owes(g) && guest_check_reaches(g, to);
}

int guest_check_begin(struct guest *g, const char *to, const struct migrate_options *o,
		      struct error *e)
{
	int rc;

	json_decref(g->check.q.result);
	g->check.q.result = NULL;
	json_decref(g->check.q.refusals); /* of one that ended without its answer */
	g->check.q.refusals = guest_migrate_refusals(g, to);
	g->check.answered = false;
	g->check.q.number = ++g->agent->last_check;
	snprintf(g->check.q.to, sizeof(g->check.q.to), "%s", to);
	rc = guest_describe(g, to, o, g->check.q.number);
	if (rc) {
		guest_answer_came(g);
		return error_set(e, rc, "what %s needs cannot be found out: %s", g->name,
				 strerror(-rc));
	}
	guest_answer_wait(g);
	guest_forecast_begin(g, to, o);
	return 0;
}

/* What an ended link took with it is not heard: asked once more, under the same number. */
void guest_check_peer_up(struct guest *g, struct peer *p)
{
	int rc = 0;

	if (!g->check.q.number || g->check.operation != g->operation.id || g->check.answered)
		return;
	if (g->child_role == CHILD_SERVING && !strcmp(g->peer, peer_config(p)->name))
		rc = guest_recover_send(g);
	else if (!strcmp(g->forecast.to, peer_config(p)->name))
		rc = guest_describe(g, g->forecast.to, &g->forecast.options, g->check.q.number);
	if (rc)
		log_warn_rc(rc, "%s: %s cannot be asked again", g->name, peer_config(p)->name);
}

/* ---- the other host ------------------------------------------------------------- */

struct answer {
	struct job job;
	struct agent *agent;
	char to[AGENT_NAME_MAX + 1];
	json_t *message, *standing, *result;
};

static void answer_free(struct job *j)
{
	struct answer *w = (struct answer *)j;

	json_decref(w->message);
	json_decref(w->standing);
	json_decref(w->result);
	free(w);
}

static void answer_run(struct job *j)
{
	struct answer *w = (struct answer *)j;
	const json_t *offer = json_object_get(w->message, "offer");

	if (json_is_object(offer))
		w->result = preflight_check(w->standing, offer);
}

/* NULL: it is ready to be measured with. Else why it is not. */
static const char *burst_expect(struct agent *a, const json_t *o)
{
	struct burst_key k;
	int rc;

	if (hex_decode(json_text_of(o, "session"), k.session, sizeof(k.session)) ||
	    hex_decode(json_text_of(o, "key"), k.key, sizeof(k.key)))
		return "its key could not be read";
	rc = host_burst_expect(a, &k);
	explicit_bzero(&k, sizeof(k));
	return rc ? "the other host is being asked by too many" : NULL;
}

/* "why" says why there is no result or, beside one, why no burst. */
static void answer_send(struct agent *a, const char *host, const json_t *question, json_t *result,
			const char *why)
{
	struct peer *to = peers_find(a->peers, host);
	bool burst = result && (json_is_true(json_object_get(result, "possible")) ||
				json_is_true(json_object_get(question, "only")));
	json_t *o;

	if (burst)
		why = burst_expect(a, json_object_get(question, "burst"));
	o = json_pack("{s:s, s:I, s:s, s:O?, s:b, s:s*}", "type", "checked", "number",
		      json_integer_of(question, "number", 0), "vm", json_text_of(question, "vm"),
		      "result", result, "burst", burst && !why, "why", why);
	if (!o || !to || peer_send(to, o))
		log_warn("%s could not be told about its migration", host);
}

static void answer_done(struct job *j)
{
	struct answer *w = (struct answer *)j;

	answer_send(w->agent, w->to, w->message, w->result, NULL);
	answer_free(j);
}

static int answer_start(struct agent *a, const char *to, const json_t *message)
{
	struct answer *w = calloc(1, sizeof(*w));
	int rc = -ENOMEM;

	if (!w)
		return rc;
	w->job = (struct job){.run = answer_run, .done = answer_done, .drop = answer_free};
	w->agent = a;
	snprintf(w->to, sizeof(w->to), "%s", to);
	w->message = json_deep_copy(message);
	w->standing = preflight_standing(a, json_object_get(message, "offer"));
	if (w->message && w->standing)
		rc = jobs_start(a->jobs, &w->job);
	if (rc)
		answer_free(&w->job);
	return rc;
}

static void check_answer(struct agent *a, struct peer *from, const json_t *message)
{
	const char *name = peer_config(from)->name;
	int rc = answer_start(a, name, message);

	if (!rc)
		return;
	log_warn_rc(rc, "%s is not answered about its migration", name);
	answer_send(a, name, message, NULL, strerror(-rc));
}

/* ---- the answer -------------------------------------------------------------------- */

/* What is in the way, in one line for people; all of it is in the result. */
static void reasons_text(const json_t *result, char *out, size_t room)
{
	const json_t *reasons = json_object_get(result, "reasons"), *r;
	json_t *sentences = json_array();
	size_t i;

	json_array_foreach(reasons, i, r)
	{
		if (!strcmp(json_text_of(r, "severity"), "error"))
			json_array_append(sentences, json_object_get(r, "sentence"));
	}
	json_texts_join(sentences, "; ", out, room);
	json_decref(sentences);
}

void guest_refusals_join(json_t *refusals, json_t *result)
{
	json_t *all = json_copy(refusals);

	if (json_array_size(all)) {
		json_array_extend(all, json_object_get(result, "reasons"));
		json_object_set(result, "reasons", all);
		json_object_set_new(result, "possible", json_false());
	}
	json_decref(all);
}

/* All that was waited for is there. */
static void check_over(struct guest *g)
{
	char text[sizeof(g->operation.error)];

	guest_answer_came(g);
	if (guest_operation_is(g, "check")) {
		guest_operation_done(g);
		return;
	}
	if (!json_is_true(json_object_get(g->check.q.result, "possible"))) {
		reasons_text(g->check.q.result, text, sizeof(text));
		guest_operation_fail(g, -EPERM, text,
				     "`pollux migrate --check` lists all of it, with hints");
		return;
	}
	guest_migrate_checked(g);
}

json_t *guest_unanswered_json(const char *text, const char *hint)
{
	return json_pack("{s:b, s:[o]}", "possible", false, "reasons",
			 reason_json("unasked", false, text, hint));
}

/* There is no answer. What this host has to say is told all the same. */
static void check_fail(struct guest *g, int rc, const char *text, const char *hint)
{
	if (!json_array_size(g->check.q.refusals)) {
		guest_answer_came(g);
		guest_operation_fail(g, rc, text, hint);
		return;
	}
	json_decref(g->check.q.result);
	g->check.q.result = guest_unanswered_json(text, hint);
	guest_refusals_join(g->check.q.refusals, g->check.q.result);
	check_over(g);
}

static bool is_measured(const struct guest *g)
{
	return json_is_true(json_object_get(g->check.q.result, "possible")) ||
	       guest_operation_is(g, "check");
}

static void forecast_join(struct guest *g)
{
	json_t *forecast = guest_forecast_json(g);
	json_t *warning = guest_forecast_warning(g, forecast);

	if (warning)
		json_array_append_new(json_object_get(g->check.q.result, "reasons"), warning);
	json_object_set_new(g->check.q.result, "forecast", forecast);
}

void guest_check_go_on(struct guest *g)
{
	bool measured = is_measured(g);

	if (!g->check.answered || (measured && guest_forecast_waits(g)))
		return;
	if (measured)
		forecast_join(g);
	check_over(g);
}

void guest_answer_lacks(const json_t *message, char *out, size_t room)
{
	const char *why = json_text_of(message, "why");

	snprintf(out, room, "the other host %s%.100s",
		 *why ? "could not find out what is in the way: "
		      : "did not understand the question",
		 why);
}

/* What a copy would take: holes are not read. */
static uint64_t disk_bytes(const struct guest *g)
{
	unsigned shared = preflight_shared_disks(g->check.q.result);
	uint64_t sum = 0;
	const json_t *d;
	size_t i;

	json_array_foreach(json_object_get(g->check.q.copied, "disks"), i, d)
	{
		if (!json_is_true(json_object_get(d, "readonly")) && !(shared >> i & 1))
			sum += (uint64_t)json_integer_of(d, "allocated", 0);
	}
	return sum;
}

void guest_answer_join(const struct guest *g, const struct peer *from, const json_t *copied,
		       json_t *result)
{
	/* The process may be of another program than polluxd's: started by an older one. */
	preflight_answer_judge(copied,
			       (struct disks_heeded){.target = guest_peer_can(from, "disks"),
						     .process = g->program.takes_disks},
			       result);
}

static void answer_take(struct guest *g, const struct peer *from, const json_t *message)
{
	const json_t *result = json_object_get(message, "result");
	char text[192];

	if (!json_is_object(result)) {
		guest_answer_lacks(message, text, sizeof(text));
		check_fail(g, -EBADMSG, text, "see its log");
		return;
	}
	g->check.q.result = json_deep_copy(result);
	guest_refusals_join(g->check.q.refusals, g->check.q.result);
	g->check.answered = true;
	guest_answer_join(g, from, g->check.q.copied, g->check.q.result);
	g->forecast.disk_bytes = disk_bytes(g);
	timer_set(&g->check.q, clock_ns() + MEASURE_NS);
	if (is_measured(g))
		guest_forecast_link(g, json_is_true(json_object_get(message, "burst")),
				    json_text_of(message, "why"));
	guest_check_go_on(g);
}

void guest_check_message(struct agent *a, struct peer *from, const json_t *message)
{
	struct guest *g = guest_find(a, json_text_of(message, "vm"));
	uint64_t number = (uint64_t)json_integer_of(message, "number", 0);
	const struct question *q = question_find(g, number);

	if (!strcmp(json_text_of(message, "type"), "check"))
		check_answer(a, from, message);
	else if (!q || strcmp(q->to, peer_config(from)->name) != 0)
		log_debug("an answer of %s to no question", peer_config(from)->name);
	else if (q == &g->check.q)
		answer_take(g, from, message);
	else
		guest_beside_answer(g, from, message);
}

void guest_question_free(struct question *q)
{
	loop_timer_free(q->timer);
	json_decref(q->copied);
	json_decref(q->refusals);
	json_decref(q->result);
	*q = (struct question){0};
}

void guest_check_free(struct guest *g)
{
	describes_drop(g);
	guest_question_free(&g->check.q);
	guest_question_free(&g->beside.q);
	guest_forecast_free(g);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Before a migration begins the other host is asked what is in its way: all of it, not the
 * first. Nothing is begun before the answer, and with --check nothing after it.
 *
 *   source  "check" (number, offer)   ->  target
 *   source  <- "checked" (number, result)
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"
#include "agent/preflight.h"

#define LOG_MODULE "check"
#define ANSWER_NS  (20 * NS_PER_SEC)

void guest_answer_came(struct guest *g)
{
	g->check.number = 0;
	if (g->check.timer)
		loop_timer_set(g->check.timer, 0);
}

static void answer_late(void *ctx)
{
	struct guest *g = ctx;
	bool asked = g->check.number && g->check.operation == g->operation.id;

	guest_answer_came(g);
	if (!asked)
		return;
	guest_operation_fail(g, -ETIMEDOUT, "the other host has not answered",
			     "is its polluxd well? see its log");
}

void guest_answer_wait(struct guest *g)
{
	if (!g->check.timer && loop_timer(g->agent->loop, answer_late, g, &g->check.timer)) {
		log_warn("%s: the answer is waited for without a limit", g->name);
		return;
	}
	g->check.operation = g->operation.id;
	if (!g->check.number)
		g->check.number = ++g->agent->last_check;
	loop_timer_set(g->check.timer, clock_ns() + ANSWER_NS);
}

static int check_send(struct guest *g, const char *to, const struct migrate_options *o,
		      struct error *e)
{
	struct preflight_options p = {.with_disks = o->with_disks,
				      .overwrite = o->overwrite,
				      .assume_same = o->assume_same,
				      .protect_on = guest_chain_then_on(g, to),
				      .is_protected = guest_is_protected(g)};
	struct peer *peer = peers_find(g->agent->peers, to);
	json_t *offer = preflight_describe(g, &p, e), *message;
	int rc;

	if (!offer)
		return e->code ? e->code : -ENOMEM;
	message = json_pack("{s:s, s:I, s:s, s:o}", "type", "check", "number",
			    (json_int_t)g->check.number, "vm", g->name, "offer", offer);
	rc = message && peer ? peer_send(peer, message) : -ENOTCONN;
	return rc ? error_set(e, rc, "%s cannot be asked: %s", to, strerror(-rc)) : 0;
}

int guest_check_begin(struct guest *g, const char *to, const struct migrate_options *o,
		      struct error *e)
{
	int rc;

	json_decref(g->check.result);
	g->check.result = NULL;
	g->check.number = ++g->agent->last_check;
	rc = check_send(g, to, o, e);
	if (rc)
		guest_answer_came(g);
	else
		guest_answer_wait(g);
	return rc;
}

/* What an ended link took with it is not heard: asked once more, under the same number. */
void guest_check_peer_up(struct guest *g, struct peer *p)
{
	struct error e = {0};
	int rc = 0;

	if (!g->check.number || g->check.operation != g->operation.id)
		return;
	if (g->child_role == CHILD_SERVING && !strcmp(g->peer, peer_config(p)->name))
		rc = guest_recover_send(g);
	else if (!strcmp(g->chain.to, peer_config(p)->name))
		rc = check_send(g, g->chain.to, &g->chain.migrate, &e);
	if (rc)
		log_warn_rc(rc, "%s: %s cannot be asked again", g->name, peer_config(p)->name);
}

/* ---- the other host ------------------------------------------------------------- */

static void check_answer(struct agent *a, struct peer *from, const json_t *message)
{
	const json_t *offer = json_object_get(message, "offer");
	json_t *result = json_is_object(offer) ? preflight_check(a, offer) : NULL;
	json_t *o = json_pack("{s:s, s:I, s:s, s:o?}", "type", "checked", "number",
			      json_integer_of(message, "number", 0), "vm",
			      json_text_of(message, "vm"), "result", result);

	if (!o || peer_send(from, o))
		log_warn("%s could not be told about its migration", peer_config(from)->name);
}

/* ---- the answer -------------------------------------------------------------------- */

/* All that is in the way, in one line for people; the rest is in the result. */
static void reasons_text(const json_t *result, char *out, size_t room)
{
	const json_t *reasons = json_object_get(result, "reasons"), *r;
	size_t i, used = 0, n = 0;

	out[0] = '\0';
	json_array_foreach(reasons, i, r)
	{
		if (strcmp(json_text_of(r, "severity"), "error") != 0 || used >= room)
			continue;
		used += (size_t)snprintf(out + used, room - used, "%s%s", n++ ? "; " : "",
					 json_text_of(r, "sentence"));
	}
}

static void answer_take(struct guest *g, const json_t *message)
{
	const json_t *result = json_object_get(message, "result");
	char text[sizeof(g->operation.error)];

	bool asked = g->check.number && g->check.operation == g->operation.id;

	if ((uint64_t)json_integer_of(message, "number", 0) != g->check.number || !asked)
		return;
	guest_answer_came(g);
	if (!json_is_object(result)) {
		guest_operation_fail(g, -EBADMSG, "the other host did not understand the question",
				     "see its log");
		return;
	}
	g->check.result = json_deep_copy(result);
	if (guest_operation_is(g, "check")) {
		guest_operation_done(g);
		return;
	}
	if (!json_is_true(json_object_get(result, "possible"))) {
		reasons_text(result, text, sizeof(text));
		guest_operation_fail(g, -EPERM, text,
				     "`pollux migrate --check` lists all of it, with hints");
		return;
	}
	guest_migrate_checked(g);
}

void guest_check_message(struct agent *a, struct peer *from, const json_t *message)
{
	struct guest *g = guest_find(a, json_text_of(message, "vm"));

	if (!strcmp(json_text_of(message, "type"), "check"))
		check_answer(a, from, message);
	else if (g)
		answer_take(g, message);
}

void guest_check_free(struct guest *g)
{
	loop_timer_free(g->check.timer);
	json_decref(g->check.result);
	g->check.timer = NULL;
	g->check.result = NULL;
}

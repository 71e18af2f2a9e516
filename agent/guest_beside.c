// SPDX-License-Identifier: Apache-2.0
/*
 * Whether it can be migrated is asked while another operation of the VM is under way: it cannot,
 * for that alone, and the answer has what else there is. It is an operation beside that one, with a
 * result of its own, touches nothing of it, and measures nothing.
 */
#include <errno.h>

#include "agent/guest.h"

#define LOG_MODULE "check"

static void beside_end(struct guest *g, json_t *result)
{
	guest_refusals_join(g->beside.q.refusals, result);
	json_decref(g->beside.q.result);
	g->beside.q.result = result;
	g->beside.q.number = 0;
	g->beside.operation.state = OPERATION_DONE;
	loop_timer_set(g->beside.q.timer, 0);
}

void guest_beside_unanswered(struct guest *g, const char *text)
{
	beside_end(g, guest_unanswered_json(text, "see the log of polluxd, there and here"));
}

static void answer_late(void *ctx)
{
	struct guest *g = ctx;

	if (g->beside.q.number)
		guest_beside_unanswered(g, "the other host has not answered");
}

bool guest_beside_is(const struct guest *g, uint64_t number)
{
	return g && number && g->beside.q.number == number;
}

int guest_beside_begin(struct guest *g, const char *to, const struct migrate_options *o)
{
	int rc = 0;

	if (g->beside.q.number || !guest_check_reaches(g, to))
		return -EBUSY;
	if (!g->beside.q.timer)
		rc = loop_timer(g->agent->loop, answer_late, g, &g->beside.q.timer);
	if (!rc)
		rc = guest_describe(g, to, o, ++g->agent->last_check);
	if (rc)
		return rc;
	json_decref(g->beside.q.refusals);
	g->beside.q.refusals = guest_migrate_refusals(g, to);
	g->beside.q.number = g->agent->last_check;
	snprintf(g->beside.q.to, sizeof(g->beside.q.to), "%s", to);
	g->beside.operation = (struct operation){
		.id = ++g->agent->last_operation, .what = "check", .state = OPERATION_RUNNING};
	guest_question_wait(&g->beside.q);
	return 0;
}

static void answer_take(struct guest *g, const struct peer *from, json_t *result)
{
	guest_answer_join(g, from, g->beside.q.copied, result);
	beside_end(g, result);
}

void guest_beside_answer(struct guest *g, const struct peer *from, const json_t *message)
{
	const json_t *result = json_object_get(message, "result");
	char text[192];

	if (json_is_object(result)) {
		answer_take(g, from, json_deep_copy(result));
		return;
	}
	guest_answer_lacks(message, text, sizeof(text));
	guest_beside_unanswered(g, text);
}

// SPDX-License-Identifier: Apache-2.0
#include "replicate/core_util.h"

static const char *const primary_states[] = {
	"idle",   "connecting", "syncing",     "protected", "stopping",
	"handed", "lost",       "unprotected", "fenced",
};
static const char *const primary_events[] = {
	"start",       "connected",    "refused",  "synced", "output",      "sealed",
	"seal-failed", "sent",         "ack",      "heard",  "link-lost",   "tick",
	"owned",       "owned-forced", "disowned", "stop",   "guest-ended", "bye-acked",
};
static const char *const primary_actions[] = {
	"connect", "copy",   "seal",       "send", "release", "hold",  "pass",   "ask",
	"stall",   "resume", "stop-vcpus", "bye",  "merge",   "close", "report",
};
static const char *const standby_states[] = {
	"waiting", "syncing", "ready", "lost", "promoting", "promoted", "released", "broken",
};
static const char *const standby_events[] = {
	"connected",     "begin",     "data",      "end",  "bye",     "heard",  "committed",
	"commit-failed", "bad-input", "link-lost", "tick", "promote", "loaded", "load-failed",
};
static const char *const standby_actions[] = {
	"ack", "commit", "discard", "load", "bye-ack", "close", "report",
};

_Static_assert(ARRAY_LEN(primary_states) == PRIMARY_STATES, "a name for each state");
_Static_assert(ARRAY_LEN(primary_events) == PRIMARY_EVENTS, "a name for each event");
_Static_assert(ARRAY_LEN(primary_actions) == PRIMARY_ACTIONS, "a name for each action");
_Static_assert(ARRAY_LEN(standby_states) == STANDBY_STATES, "a name for each state");
_Static_assert(ARRAY_LEN(standby_events) == STANDBY_EVENTS, "a name for each event");
_Static_assert(ARRAY_LEN(standby_actions) == STANDBY_ACTIONS, "a name for each action");

#define NAME_OF(table, i) ((size_t)(i) < ARRAY_LEN(table) ? (table)[i] : "?")

const char *primary_state_name(enum primary_state s)
{
	return NAME_OF(primary_states, s);
}

const char *primary_event_name(enum primary_event e)
{
	return NAME_OF(primary_events, e);
}

const char *primary_action_name(enum primary_action a)
{
	return NAME_OF(primary_actions, a);
}

const char *standby_state_name(enum standby_state s)
{
	return NAME_OF(standby_states, s);
}

const char *standby_event_name(enum standby_event e)
{
	return NAME_OF(standby_events, e);
}

const char *standby_action_name(enum standby_action a)
{
	return NAME_OF(standby_actions, a);
}

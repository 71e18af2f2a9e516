// SPDX-License-Identifier: Apache-2.0
#include "agent/ownership.h"

static const char *const states[] = {
	"new",      "none",   "unsure",   "idle",    "alone",    "primary", "asking",
	"freezing", "handed", "released", "standby", "deciding", "loading", "promoting",
};
static const char *const roles[] = {"none", "owner", "primary", "standby", "released"};
static const char *const words[] = {
	"ask", "alive", "released", "own", "drop", "dropped", "offer", "accept", "refuse",
};
static const char *const events[] = {
	"start",   "stored",        "store-failed", "tick",         "run",          "protect",
	"promote", "go-on",         "freezing",     "handed",       "session-lost", "session-over",
	"vm-dead", "replica-ready", "replica-lost", "replica-gone", "loaded",       "promoted",
	"fenced",  "peer-up",       "peer-down",    "word",
};
static const char *const acts[] = {
	"store",          "tell",         "fence",    "confirm",       "confirm-forced",
	"kill-vm",        "retire-vm",    "start-vm", "start-session", "end-session",
	"create-replica", "drop-replica", "load",     "promote",       "report",
};

_Static_assert(ARRAY_LEN(states) == OWN_STATES, "a name for each state");
_Static_assert(ARRAY_LEN(roles) == ROLE_COUNT, "a name for each role");
_Static_assert(ARRAY_LEN(words) == WORD_COUNT, "a name for each word");
_Static_assert(ARRAY_LEN(events) == OWN_EVENTS, "a name for each event");
_Static_assert(ARRAY_LEN(acts) == OWN_ACTS, "a name for each action");

#define NAME_OF(table, i) ((size_t)(i) < ARRAY_LEN(table) ? (table)[i] : "?")

const char *ownership_state_name(enum ownership_state s)
{
	return NAME_OF(states, s);
}

const char *ownership_role_name(enum ownership_role r)
{
	return NAME_OF(roles, r);
}

const char *ownership_word_name(enum ownership_word w)
{
	return NAME_OF(words, w);
}

const char *ownership_event_name(enum ownership_event e)
{
	return NAME_OF(events, e);
}

const char *ownership_act_name(enum ownership_act a)
{
	return NAME_OF(acts, a);
}

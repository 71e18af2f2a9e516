// SPDX-License-Identifier: Apache-2.0
#ifndef TEST_MIGRATION_FLOWS_H
#define TEST_MIGRATION_FLOWS_H
/*
 * How a migration between the two polluxds of flows.h is asked for, held and looked at.
 */
#include "tests/unit/agent/flows.h"

static inline json_t *vm_json(int host, const char *vm)
{
	struct guest *g = guest_at(host, vm);

	assert_non_null(g);
	return guest_json(g, true);
}

static inline bool vm_says(int host, const char *vm, const char *key, const char *part)
{
	json_t *o = vm_json(host, vm);
	char *text = json_dumps(json_object_get(o, key), JSON_ENCODE_ANY | JSON_COMPACT);
	bool says = text && strstr(text, part);

	free(text);
	json_decref(o);
	return says;
}

static inline void run_alone(const char *vm)
{
	WAIT_FOR(connected(0) && connected(1), vm);
	assert_int_equal(guest_run(0, vm, false), 202);
	WAIT_STATE(0, vm, "running");
}

static inline bool migrate_taken(int host, const char *vm)
{
	json_t *body = json_pack("{s:s, s:i}", "to", hosts[!host].config.name, "downtime_ms", 17);

	return vm_call(host, vm, "migrate", body) == 202;
}

static inline void migrate_ask(int host, const char *vm)
{
	WAIT_FOR(migrate_taken(host, vm), vm);
}

/* Its copy has begun, and does not end before that is wanted. */
static inline void migrate_held(const char *vm)
{
	migrate_ask(0, vm);
	WAIT_FOR(!strcmp(guest_at(0, vm)->child_state, "syncing"), vm);
	assert_string_equal(state_at(0, vm), "migrating");
}

static inline void copy_end(int host, const char *vm)
{
	kill(vm_pid(host, vm), SIGWINCH);
}

static inline void restart(int host)
{
	host_down(&hosts[host]);
	host_up(&hosts[host]);
	WAIT_FOR(connected(0) && connected(1), "");
}

static inline void operation_ended(int host, const char *vm, enum operation_state state, int code)
{
	WAIT_FOR(guest_at(host, vm)->operation.state != OPERATION_RUNNING, vm);
	assert_int_equal(guest_at(host, vm)->operation.state, state);
	assert_int_equal(guest_at(host, vm)->operation.code, code);
}

/* The guest stands still, RELEASED is stored and was said to nobody, and over there is all that
 * it takes to run. */
static inline void migrate_ripe(const char *vm)
{
	run_alone(vm);
	migrate_ask(0, vm);
	WAIT_FOR(!strcmp(guest_at(0, vm)->child_state, "freezing"), vm);
	WAIT_FOR(guest_at(0, vm)->own.state == OWN_FREEZING && !guest_at(0, vm)->own.storing, vm);
	WAIT_FOR(guest_at(1, vm)->own.replica_ready, vm);
}

static inline bool nobody_was_told(const char *vm)
{
	const struct ownership *source = &guest_at(0, vm)->own, *target = &guest_at(1, vm)->own;

	return source->state == OWN_HANDED && target->record.role == ROLE_STANDBY &&
	       target->released_term != target->record.term;
}

static inline void session_cut(const char *vm)
{
	kill(vm_pid(0, vm), SIGUSR2);
	WAIT_FOR(guest_at(0, vm)->own.state == OWN_ALONE, vm);
	rounds(20);
}

#endif

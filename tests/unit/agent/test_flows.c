// SPDX-License-Identifier: Apache-2.0
/*
 * Two agents on one loop, with real sockets, TLS, records and fence commands; the VM
 * processes are this program in another role (fake_vm.h), the fence command too. What
 * is waited for comes by events; the deadline only ends a test that has failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/agent/flows.h"

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_start_stop(void **state)
{
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_STATE(0, "vm1", "running");
	assert_int_equal(guest_run(0, "vm1", false), 409);
	assert_int_equal(vm_call(0, "vm1", "stop", NULL), 202);
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_DONE, "vm1");
	assert_string_equal(state_at(0, "vm1"), "stopped");
	assert_int_equal(vm_call(0, "vm1", "stop", NULL), 409);
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_STATE(0, "vm1", "running");
	assert_true(guest_at(0, "vm1")->own.record.term >= 2);
}

static void test_start_refused(void **state)
{
	static const char *const names[] = {"bad-create", "bad-boot"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		assert_int_equal(guest_run(0, names[i], false), 202);
		WAIT_FOR(!guest_at(0, names[i])->child, names[i]);
		assert_int_equal(guest_at(0, names[i])->operation.state, OPERATION_FAILED);
		assert_non_null(strstr(guest_at(0, names[i])->operation.error, "the fake refuses"));
		assert_string_equal(state_at(0, names[i]), "stopped");
	}
	assert_int_equal(call(0, "POST", "/v1/vms", json_pack("{s:s}", "config", "name = 3")), 400);
}

static void test_vm_program_missing(void **state)
{
	snprintf(hosts[0].agent->config.vm_program, 64, "/nonexistent/pollux-vm");
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_FAILED, "vm1");
	assert_string_equal(state_at(0, "vm1"), "stopped");
}

static void test_deaf_guest(void **state)
{
	assert_int_equal(guest_run(0, "deaf-1", false), 202);
	WAIT_STATE(0, "deaf-1", "running");
	assert_int_equal(vm_call(0, "deaf-1", "stop", json_pack("{s:i}", "timeout_s", 1)), 202);
	WAIT_FOR(guest_at(0, "deaf-1")->operation.state == OPERATION_FAILED, "deaf-1");
	assert_string_equal(state_at(0, "deaf-1"), "running");
	assert_int_equal(vm_call(0, "deaf-1", "stop", json_pack("{s:b}", "force", 1)), 202);
	WAIT_STATE(0, "deaf-1", "stopped");
}

static void test_protect_unprotect(void **state)
{
	protect_whole("vm1", "continue");
	assert_int_equal(vm_call(1, "vm1", "unprotect", NULL), 409);
	assert_int_equal(vm_call(1, "vm1", "stop", NULL), 409);
	assert_int_equal(vm_call(0, "vm1", "unprotect", NULL), 202);
	WAIT_STATE(0, "vm1", "running");
	WAIT_STATE(1, "vm1", "none");
	assert_int_equal(guest_at(0, "vm1")->operation.state, OPERATION_DONE);
	/* And once more: nothing of the first session is in the way. */
	assert_int_equal(vm_protect(0, "vm1", "continue"), 202);
	WAIT_STATE(0, "vm1", "protected");
	WAIT_STATE(1, "vm1", "standby");
	assert_false(fence_ran("hosta"));
}

static void test_protect_cancelled(void **state)
{
	WAIT_FOR(connected(0), "slow-1");
	assert_int_equal(guest_run(0, "slow-1", false), 202);
	WAIT_STATE(0, "slow-1", "running");
	assert_int_equal(vm_protect(0, "slow-1", "continue"), 202);
	WAIT_STATE(0, "slow-1", "syncing");
	WAIT_STATE(1, "slow-1", "standby-syncing");
	assert_int_equal(vm_protect(0, "slow-1", "continue"), 409);
	assert_int_equal(vm_call(0, "slow-1", "unprotect", NULL), 202);
	WAIT_STATE(0, "slow-1", "running");
	WAIT_STATE(1, "slow-1", "none");
}

/* The guest dies in its first full copy: there is nothing whole to be promoted. */
static void test_killed_in_first_copy(void **state)
{
	WAIT_FOR(connected(0), "slow-1");
	assert_int_equal(guest_run(0, "slow-1", false), 202);
	WAIT_STATE(0, "slow-1", "running");
	assert_int_equal(vm_protect(0, "slow-1", "continue"), 202);
	WAIT_STATE(1, "slow-1", "standby-syncing");
	kill(vm_pid(0, "slow-1"), SIGKILL);
	WAIT_STATE(1, "slow-1", "none");
	WAIT_STATE(0, "slow-1", "stopped");
	assert_int_equal(timeline_has(1, "slow-1", "running"), 0);
	assert_int_equal(vm_call(1, "slow-1", "failover", json_pack("{s:b}", "force", 1)), 409);
}

static void test_protect_refused(void **state)
{
	WAIT_FOR(connected(0), "bad-standby");
	assert_int_equal(guest_run(0, "bad-standby", false), 202);
	WAIT_STATE(0, "bad-standby", "running");
	assert_int_equal(vm_call(0, "bad-standby", "protect", json_pack("{s:s}", "to", "hostz")),
			 404);
	assert_int_equal(vm_call(0, "bad-standby", "protect", json_object()), 400);
	assert_int_equal(vm_call(0, "bad-standby", "protect",
				 json_pack("{s:s, s:s}", "to", "hostb", "mode", "sometimes")),
			 400);
	assert_int_equal(vm_protect(0, "bad-standby", "continue"), 202);
	WAIT_FOR(guest_at(0, "bad-standby")->operation.state == OPERATION_FAILED, "bad-standby");
	assert_non_null(strstr(guest_at(0, "bad-standby")->operation.error, "the fake refuses"));
	WAIT_STATE(0, "bad-standby", "running");
	WAIT_STATE(1, "bad-standby", "none");
}

static void test_vm_process_dies(void **state)
{
	protect_whole("vm1", "continue");
	kill(vm_pid(0, "vm1"), SIGKILL);
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
	assert_false(fence_ran("hosta"));
	assert_int_equal(timeline_has(1, "vm1", "running"), 1);
	/* Back again: what is left on the first host is old, and may be written over. */
	assert_int_equal(vm_protect(1, "vm1", "continue"), 202);
	WAIT_STATE(1, "vm1", "protected");
	WAIT_STATE(0, "vm1", "standby");
}

static void test_host_dies(void **state)
{
	protect_whole("vm1", "continue");
	host_kill(0, "vm1");
	WAIT_STATE(1, "vm1", "running");
	assert_true(fence_ran("hosta"));
	assert_int_equal(timeline_has(1, "vm1", "fenced"), 1);
	assert_int_equal(timeline_has(1, "vm1", "loss detected"), 1);
	/* It comes back with its old record, and must not run. */
	host_up(&hosts[0]);
	WAIT_STATE(0, "vm1", "none");
	assert_int_equal(guest_run(0, "vm1", false), 409);
	assert_int_equal(vm_protect(1, "vm1", "continue"), 202);
	WAIT_STATE(1, "vm1", "protected");
}

static void test_fence_fails_then_force(void **state)
{
	file_write("fence-result", "1", 0600);
	protect_whole("vm1", "continue");
	host_kill(0, "vm1");
	WAIT_FOR(timeline_has(1, "vm1", "fence failed") >= 2, "vm1");
	assert_string_equal(state_at(1, "vm1"), "deciding");
	assert_int_equal(timeline_has(1, "vm1", "running"), 0);
	assert_int_equal(vm_call(1, "vm1", "failover", NULL), 409);
	assert_int_equal(vm_call(1, "vm1", "failover", json_pack("{s:b}", "force", 1)), 202);
	WAIT_STATE(1, "vm1", "running");
	assert_int_equal(guest_at(1, "vm1")->operation.state, OPERATION_DONE);
	host_up(&hosts[0]);
	WAIT_STATE(0, "vm1", "none");
}

static void test_no_fence_waits(void **state)
{
	hosts[1].agent->config.peers[0].fence.command[0] = '\0';
	protect_whole("vm1", "continue");
	host_kill(0, "vm1");
	WAIT_STATE(1, "vm1", "deciding");
	rounds(100);
	assert_string_equal(state_at(1, "vm1"), "deciding");
	assert_non_null(strstr(guest_at(1, "vm1")->why, "no fence"));
	/* The host was only rebooted: its VM is dead, which it says itself. */
	host_up(&hosts[0]);
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
}

static void test_promotion_fails(void **state)
{
	protect_whole("bad-promote", "continue");
	host_kill(0, "bad-promote");
	WAIT_FOR(timeline_has(1, "bad-promote", "promotion failed") == 1, "bad-promote");
	WAIT_STATE(1, "bad-promote", "stopped");
}

static void test_session_cut(void **state)
{
	protect_whole("vm1", "continue");
	kill(vm_pid(0, "vm1"), SIGUSR2);
	WAIT_STATE(0, "vm1", "running");
	WAIT_STATE(1, "vm1", "none");
	assert_false(fence_ran("hosta"));
	assert_false(fence_ran("hostb"));
}

static void test_standby_dies(void **state)
{
	protect_whole("vm1", "continue");
	kill(vm_pid(1, "vm1"), SIGKILL);
	WAIT_STATE(0, "vm1", "running");
	assert_int_equal(timeline_has(0, "vm1", "loss detected"), 1);
	assert_false(fence_ran("hostb"));
	assert_int_equal(vm_protect(0, "vm1", "continue"), 202);
	WAIT_STATE(0, "vm1", "protected");
}

static void test_standby_host_dies(void **state)
{
	protect_whole("vm1", "continue");
	host_kill(1, "vm1");
	WAIT_STATE(0, "vm1", "running");
	assert_true(fence_ran("hostb"));
}

static void test_standby_host_dies_stall(void **state)
{
	protect_whole("vm1", "stall");
	host_kill(1, "vm1");
	WAIT_STATE(0, "vm1", "asking");
	rounds(200);
	assert_string_equal(state_at(0, "vm1"), "asking");
	assert_int_equal(vm_call(0, "vm1", "stop", json_pack("{s:b}", "force", 1)), 409);
	assert_int_equal(vm_call(0, "vm1", "failover", json_pack("{s:b}", "force", 1)), 202);
	WAIT_STATE(0, "vm1", "running");
}

/* The standby is gone for good, and nobody else can have the VM: one word lets it go on. */
static void test_stalled_goes_on(void **state)
{
	static const char *const verbs[] = {"failover", "unprotect"};

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		const char *vm = i ? "stall-2" : "stall-1";

		protect_whole(vm, "stall");
		kill(vm_pid(1, vm), SIGKILL);
		WAIT_STATE(0, vm, "stalled");
		assert_non_null(strstr(guest_at(0, vm)->why, "STANDS STILL"));
		assert_int_equal(
			vm_call(0, vm, verbs[i], i ? NULL : json_pack("{s:b}", "force", 1)), 202);
		WAIT_STATE(0, vm, "running");
		WAIT_FOR(guest_at(0, vm)->operation.state == OPERATION_DONE, vm);
	}
}

static void test_poweroff_while_protected(void **state)
{
	protect_whole("vm1", "continue");
	kill(vm_pid(0, "vm1"), SIGUSR1);
	WAIT_STATE(0, "vm1", "stopped");
	WAIT_STATE(1, "vm1", "none");
	assert_int_equal(timeline_has(1, "vm1", "running"), 0);
	assert_int_equal(timeline_has(0, "vm1", "vm process died"), 0);
}

static void test_stop_while_protected(void **state)
{
	protect_whole("deaf-1", "continue");
	assert_int_equal(vm_call(0, "deaf-1", "stop", json_pack("{s:b}", "force", 1)), 202);
	WAIT_STATE(0, "deaf-1", "stopped");
	WAIT_STATE(1, "deaf-1", "none");
	assert_int_equal(guest_at(0, "deaf-1")->operation.state, OPERATION_DONE);
	assert_int_equal(timeline_has(1, "deaf-1", "running"), 0);
}

static void test_agent_restart(void **state)
{
	pid_t pid;

	protect_whole("vm1", "continue");
	pid = vm_pid(0, "vm1");
	host_down(&hosts[0]);
	rounds(20);
	assert_string_equal(state_at(1, "vm1"), "standby");
	host_up(&hosts[0]);
	WAIT_STATE(0, "vm1", "protected");
	assert_int_equal(vm_pid(0, "vm1"), pid);
	WAIT_FOR(connected(0) && connected(1), "vm1");
	rounds(20);
	assert_string_equal(state_at(0, "vm1"), "protected");
	assert_string_equal(state_at(1, "vm1"), "standby");
	/* It is watched as before. */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
}

/* polluxd ended between the record of "goes on alone" and the word to the VM process. */
static void test_agent_restart_unconfirmed(void **state)
{
	struct guest *g;
	struct error e = {0};
	pid_t pid;

	file_write("fence-result", "1", 0600);
	protect_whole("vm1", "continue");
	pid = vm_pid(0, "vm1");
	g = guest_at(0, "vm1");
	assert_int_equal(guest_store(g,
				     &(struct ownership_record){.term = g->own.record.term + 1,
								.role = ROLE_OWNER},
				     &e),
			 0);
	host_down(&hosts[0]);
	kill(pid, SIGUSR2);
	WAIT_STATE(1, "vm1", "deciding");
	host_up(&hosts[0]);
	WAIT_STATE(0, "vm1", "running");
	assert_int_equal(vm_pid(0, "vm1"), pid);
	WAIT_STATE(1, "vm1", "none");
	WAIT_FOR(!strcmp(guest_at(0, "vm1")->child_state, "unprotected"), "vm1");
}

/* Something is there that may be the VM: to call it dead could make two of it. */
static void test_agent_restart_unreachable(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct agent *second = NULL;
	struct error e = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	protect_whole("vm1", "continue");
	host_kill(0, "vm1");
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/hosta/vm1.control", folder);
	unlink(a.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_not_equal(agent_create(&hosts[0].config, loop, &second, &e), 0);
	assert_non_null(strstr(e.text, "whether the VM runs is not known"));
	close(fd);
}

/* Two VMs that have nothing but the name in common: neither may end the other. */
static void test_same_name(void **state)
{
	pid_t first, second;

	WAIT_FOR(connected(0) && connected(1), "vm1");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(guest_run(i, "vm1", false), 202);
		WAIT_STATE(i, "vm1", "running");
	}
	first = vm_pid(0, "vm1");
	second = vm_pid(1, "vm1");
	for (int i = 0; i < 4; i++) {
		int host = i % 2;

		assert_int_equal(vm_protect(host, "vm1", "continue"), 202);
		WAIT_FOR(guest_at(host, "vm1")->operation.state == OPERATION_FAILED, "vm1");
		assert_non_null(strstr(guest_at(host, "vm1")->operation.error, "another VM"));
		WAIT_STATE(host, "vm1", "running");
	}
	host_down(&hosts[1]);
	host_up(&hosts[1]);
	WAIT_FOR(connected(0) && connected(1), "vm1");
	rounds(20);
	assert_int_equal(vm_pid(0, "vm1"), first);
	assert_int_equal(vm_pid(1, "vm1"), second);
}

/* The standby waits for as long as the primary's polluxd says that the VM lives. */
static void test_vm_process_hangs(void **state)
{
	protect_whole("vm1", "continue");
	kill(vm_pid(0, "vm1"), SIGSTOP);
	kill(vm_pid(1, "vm1"), SIGUSR2);
	WAIT_STATE(1, "vm1", "deciding");
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
	assert_false(fence_ran("hosta"));
	assert_int_equal(timeline_has(0, "vm1", "vm process hung"), 1);
}

static void test_start_store_fails(void **state)
{
	fault_arm("guest.store", 1, ENOSPC);
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_FAILED, "vm1");
	assert_non_null(strstr(guest_at(0, "vm1")->operation.error, strerror(ENOSPC)));
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_STATE(0, "vm1", "running");
}

static void test_start_spawn_fails(void **state)
{
	fault_arm("vm_child.spawn", 1, EAGAIN);
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_FAILED, "vm1");
	assert_non_null(strstr(guest_at(0, "vm1")->operation.error, strerror(EAGAIN)));
	assert_null(guest_at(0, "vm1")->child);
	assert_int_equal(guest_run(0, "vm1", false), 202);
	WAIT_STATE(0, "vm1", "running");
}

static void test_agent_restart_meanwhile_dead(void **state)
{
	pid_t pid;

	protect_whole("vm1", "continue");
	hosts[1].agent->config.peers[0].fence.command[0] = '\0';
	guest_at(1, "vm1")->own.config.can_fence = false;
	pid = vm_pid(0, "vm1");
	host_down(&hosts[0]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	host_up(&hosts[0]);
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
}

static void test_standby_agent_restart(void **state)
{
	protect_whole("vm1", "continue");
	host_down(&hosts[1]);
	host_up(&hosts[1]);
	WAIT_STATE(0, "vm1", "running");
	WAIT_STATE(1, "vm1", "none");
	WAIT_FOR(connected(0) && connected(1), "vm1");
	assert_int_equal(vm_protect(0, "vm1", "continue"), 202);
	WAIT_STATE(0, "vm1", "protected");
}

static void test_protected_again(void **state)
{
	hosts[0].agent->config.protect_again_ns = NS_PER_MS;
	protect_whole("vm1", "continue");
	host_down(&hosts[1]);
	host_up(&hosts[1]);
	WAIT_FOR(timeline_has(0, "vm1", "unprotected") == 1, "vm1");
	WAIT_FOR(timeline_has(0, "vm1", "protected") == 2, "vm1");
	WAIT_STATE(1, "vm1", "standby");
	assert_string_equal(guest_at(0, "vm1")->why, "");
	/* Not after an operator's unprotect, nor when the standby is lost after that. */
	assert_int_equal(vm_call(0, "vm1", "unprotect", NULL), 202);
	WAIT_STATE(1, "vm1", "none");
	rounds(50);
	assert_string_equal(state_at(0, "vm1"), "running");
	assert_int_equal(vm_call(0, "vm1", "unprotect", NULL), 409);
}

/* A record that cannot be written: nothing that rests on it is done before it is. */
static void test_store_fails(void **state)
{
	protect_whole("vm1", "continue");
	fault_arm("guest.store", 1, EIO);
	host_kill(0, "vm1");
	WAIT_STATE(1, "vm1", "running");
	assert_int_equal(timeline_has(1, "vm1", "running"), 1);
	assert_int_equal(timeline_has(1, "vm1", "promoting"), 1);
}

/* A name in the configuration is not enough: only hosts get certificates of that role. */
static void test_role_of_certificate(void **state)
{
	static const char *const roles[] = {"operator", "viewer"};
	struct error e = {0};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
		host_down(&hosts[1]);
		snprintf(path, sizeof(path), "%s/hostb.crt", folder);
		unlink(path);
		snprintf(path, sizeof(path), "%s/hostb.key", folder);
		unlink(path);
		assert_int_equal(pki_issue(folder, "hostb", roles[i], 1, &e), 0);
		host_up(&hosts[1]);
		WAIT_FOR(strcmp(peer_why(peers_at(hosts[1].agent->peers, 0)), PEER_NOT_YET) != 0,
			 "vm1");
		rounds(100);
		assert_false(connected(0));
	}
}

/* A fence command writes what it likes, and a sentence may be cut within a letter. */
static void test_timeline_of_odd_bytes(void **state)
{
	struct timeline t = {0};
	json_t *list;

	timeline_add(&t, "fence failed", "\xff\xc3");
	list = timeline_json(&t);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
}

static void test_single_lock(void **state)
{
	struct agent *second = NULL;
	struct agent_config *c = malloc(sizeof(*c));
	struct error e = {0};

	*c = hosts[0].config;
	assert_int_not_equal(agent_create(c, loop, &second, &e), 0);
	assert_non_null(strstr(e.text, "another polluxd"));
	free(c);
}

static void test_damaged_record(void **state)
{
	struct agent *second = NULL;
	struct error e = {0};

	host_down(&hosts[0]);
	file_write("state-hosta/vms/vm1.json", "{\"version\": 1, \"name\": \"vm1\"", 0600);
	assert_int_not_equal(agent_create(&hosts[0].config, loop, &second, &e), 0);
	assert_non_null(strstr(e.text, "vm1.json is damaged"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_start_stop),
		FLOW(test_start_refused),
		FLOW(test_vm_program_missing),
		FLOW(test_deaf_guest),
		FLOW(test_protect_unprotect),
		FLOW(test_protect_cancelled),
		FLOW(test_killed_in_first_copy),
		FLOW(test_protect_refused),
		FLOW(test_vm_process_dies),
		FLOW(test_host_dies),
		FLOW(test_fence_fails_then_force),
		FLOW(test_no_fence_waits),
		FLOW(test_promotion_fails),
		FLOW(test_session_cut),
		FLOW(test_standby_dies),
		FLOW(test_standby_host_dies),
		FLOW(test_standby_host_dies_stall),
		FLOW(test_stalled_goes_on),
		FLOW(test_poweroff_while_protected),
		FLOW(test_stop_while_protected),
		FLOW(test_agent_restart),
		FLOW(test_agent_restart_meanwhile_dead),
		FLOW(test_agent_restart_unconfirmed),
		FLOW(test_agent_restart_unreachable),
		FLOW(test_same_name),
		FLOW(test_vm_process_hangs),
		FLOW(test_start_store_fails),
		FLOW(test_start_spawn_fails),
		FLOW(test_standby_agent_restart),
		FLOW(test_protected_again),
		FLOW(test_store_fails),
		cmocka_unit_test(test_timeline_of_odd_bytes),
		FLOW(test_role_of_certificate),
		FLOW(test_single_lock),
		FLOW(test_damaged_record),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}

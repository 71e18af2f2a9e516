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

#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/api.h"
#include "agent/guest.h"
#include "tests/unit/agent/fake_vm.h"

#define PATIENCE_NS (30 * NS_PER_SEC)

struct host {
	struct agent_config config;
	struct agent *agent;
};
static struct host hosts[2];
static struct loop *loop;
static char folder[48], self[256];

/* ---- a world of two hosts ----------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void file_write(const char *name, const char *text, mode_t mode)
{
	char path[PATH_MAX];
	struct error e = {0};

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(file_replace(path, text, strlen(text), mode, &e), 0);
}

static uint16_t port_free(void)
{
	struct sockaddr_storage a;
	socklen_t size = sizeof(a);
	struct error e = {0};
	int fd;

	/* Port 0 lets the kernel choose; it stays free for the moment until it is used. */
	assert_int_equal(channel_listen("127.0.0.1", 0, &fd, &e), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
	close(fd);
	return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static void host_configure(struct host *h, const char *name, const char *other, uint16_t port,
			   uint16_t other_port)
{
	struct agent_config *c = &h->config;
	struct peer_config *p = &c->peers[0];

	*c = (struct agent_config){.port = port,
				   .heartbeat_ns = 50 * NS_PER_MS,
				   .loss_ns = 5 * NS_PER_SEC,
				   .fence_delay_ns = 100 * NS_PER_MS,
				   .log_level = LOG_LEVEL_ERROR,
				   .peer_count = 1};
	snprintf(c->name, sizeof(c->name), "%s", name);
	snprintf(c->address, sizeof(c->address), "127.0.0.1");
	snprintf(c->state_dir, sizeof(c->state_dir), "%s/state-%s", folder, name);
	snprintf(c->run_dir, sizeof(c->run_dir), "%s/%s", folder, name);
	snprintf(c->vm_program, sizeof(c->vm_program), "%s/vm", folder);
	snprintf(c->ca, sizeof(c->ca), "%s/ca.crt", folder);
	snprintf(c->cert, sizeof(c->cert), "%s/%s.crt", folder, name);
	snprintf(c->key, sizeof(c->key), "%s/%s.key", folder, name);
	snprintf(p->name, sizeof(p->name), "%s", other);
	snprintf(p->address, sizeof(p->address), "127.0.0.1");
	p->port = other_port;
	p->fence.timeout_ns = 20 * NS_PER_SEC;
	snprintf(p->fence.command, sizeof(p->fence.command), "%s/fence", folder);
	snprintf(p->fence.options[0].key, sizeof(p->fence.options[0].key), "plug");
	snprintf(p->fence.options[0].value, sizeof(p->fence.options[0].value), "%s", other);
	p->fence.option_count = 1;
}

static void host_up(struct host *h)
{
	struct error e = {0};

	if (agent_create(&h->config, loop, &h->agent, &e))
		fail_msg("%s: %s", h->config.name, e.text);
}

static void host_down(struct host *h)
{
	agent_destroy(h->agent);
	h->agent = NULL;
}

static struct guest *guest_at(int host, const char *vm)
{
	return hosts[host].agent ? guest_find(hosts[host].agent, vm) : NULL;
}

static const char *state_at(int host, const char *vm)
{
	struct guest *g = guest_at(host, vm);

	return g ? guest_state_name(g) : "unknown";
}

static void explain(const char *what, const char *vm)
{
	for (int i = 0; i < 2; i++) {
		struct guest *g = guest_at(i, vm);

		print_message("%s: %s, ownership %s, why: %s\n", hosts[i].config.name,
			      state_at(i, vm), g ? ownership_state_name(g->own.state) : "-",
			      g ? g->why : "");
	}
	fail_msg("waited in vain for: %s", what);
}

#define WAIT_FOR(condition, vm)                                                                    \
	do {                                                                                       \
		uint64_t until = clock_ns() + PATIENCE_NS;                                         \
		while (!(condition)) {                                                             \
			assert_int_equal(loop_step(loop, 20), 0);                                  \
			if (clock_ns() > until)                                                    \
				explain(#condition, vm);                                           \
		}                                                                                  \
	} while (0)
#define WAIT_STATE(host, vm, state) WAIT_FOR(!strcmp(state_at(host, vm), state), vm)

/* Some rounds in which something wrong would happen if it were going to. */
static void rounds(unsigned n)
{
	while (n--)
		assert_int_equal(loop_step(loop, 2), 0);
}

static pid_t vm_pid(int host, const char *vm)
{
	struct guest *g = guest_at(host, vm);

	assert_non_null(g);
	assert_non_null(g->child);
	return vm_child_pid(g->child);
}

static unsigned timeline_has(int host, const char *vm, const char *what)
{
	const struct timeline *t = &guest_at(host, vm)->timeline;
	unsigned n = 0;

	for (unsigned i = 0; i < t->count; i++)
		n += !strcmp(t->events[(t->first + i) % TIMELINE_MAX].what, what);
	return n;
}

static bool fence_ran(const char *host)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/fenced-%s", folder, host);
	return !access(path, F_OK);
}

/* ---- the API, without HTTP ------------------------------------------------------------- */

static unsigned call(int host, const char *method, const char *path, json_t *body)
{
	struct http_request q = {.method = method, .path = path};
	struct http_reply reply = {.status = 200};
	char *text = body ? json_dumps(body, 0) : strdup("");

	q.body = text;
	q.body_len = strlen(text);
	api_handle(hosts[host].agent, &q, &reply);
	if (reply.status >= 400)
		print_message("  %s %s: %u %s\n", method, path, reply.status, reply.body);
	assert_non_null(reply.body);
	free(reply.body);
	free(text);
	json_decref(body);
	return reply.status;
}

static unsigned vm_call(int host, const char *vm, const char *verb, json_t *body)
{
	char path[128];

	snprintf(path, sizeof(path), "/v1/vms/%s/%s", vm, verb);
	return call(host, "POST", path, body);
}

static unsigned guest_run(int host, const char *vm, bool force)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "name = \"%s\"; memory = \"16M\"; vcpus = 1; engine = \"sim\"; seed = 1;\n", vm);
	return call(host, "POST", "/v1/vms",
		    json_pack("{s:s, s:b}", "config", text, "force", force));
}

static unsigned vm_protect(int host, const char *vm, const char *policy)
{
	return vm_call(host, vm, "protect",
		       json_pack("{s:s, s:s}", "to", hosts[!host].config.name, "policy", policy));
}

static bool connected(int host)
{
	return peer_is_up(peers_at(hosts[host].agent->peers, 0));
}

static void protect_whole(const char *vm, const char *policy)
{
	WAIT_FOR(connected(0) && connected(1), vm);
	assert_int_equal(guest_run(0, vm, false), 202);
	WAIT_STATE(0, vm, "running");
	assert_int_equal(vm_protect(0, vm, policy), 202);
	WAIT_STATE(0, vm, "protected");
	WAIT_STATE(1, vm, "standby");
	assert_int_equal(guest_at(0, vm)->operation.state, OPERATION_DONE);
}

/* The whole host at once: polluxd and its VM processes. */
static void host_kill(int host, const char *vm)
{
	pid_t pid = vm_pid(host, vm);

	host_down(&hosts[host]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- setup --------------------------------------------------------------------------------- */

static void links_make(void)
{
	static const char *const names[] = {"vm", "fence"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		assert_int_equal(symlink(self, path), 0);
	}
}

static int world_make(void **state)
{
	uint16_t a, b;

	struct error e = {0};

	snprintf(folder, sizeof(folder), "/tmp/pollux-flows-XXXXXX");
	assert_non_null(mkdtemp(folder));
	links_make();
	if (pki_create_ca(folder, "test-ca", 1, &e) || pki_issue(folder, "hosta", "peer", 1, &e) ||
	    pki_issue(folder, "hostb", "peer", 1, &e))
		fail_msg("%s", e.text);
	file_write("fence-result", "0", 0600);
	assert_int_equal(loop_create(&loop), 0);
	a = port_free();
	b = port_free();
	host_configure(&hosts[0], "hosta", "hostb", a, b);
	host_configure(&hosts[1], "hostb", "hosta", b, a);
	host_up(&hosts[0]);
	host_up(&hosts[1]);
	return 0;
}

static void children_kill(struct host *h)
{
	struct guest *g;

	if (!h->agent)
		return;
	LIST_FOREACH(g, &h->agent->guests, entry)
	{
		if (!g->child)
			continue;
		kill(vm_child_pid(g->child), SIGKILL);
		waitpid(vm_child_pid(g->child), NULL, 0);
	}
	host_down(h);
}

static int world_end(void **state)
{
	fault_disarm_all();
	children_kill(&hosts[0]);
	children_kill(&hosts[1]);
	loop_destroy(loop);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

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
		WAIT_FOR(*peer_why(peers_at(hosts[1].agent->peers, 0)), "vm1");
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

/* ---- the program's other roles -------------------------------------------------------------- */

/* fence: exit code from a file; marks that it ran for the host in plug=. */
static int fence_main(char *path)
{
	char line[256], name[PATH_MAX], *dir = dirname(path), plug[64] = "";
	FILE *file;
	int result = 1;

	while (fgets(line, sizeof(line), stdin))
		(void)sscanf(line, "plug=%63s", plug);
	snprintf(name, sizeof(name), "%s/fenced-%s", dir, plug);
	file = fopen(name, "w");
	if (file)
		fclose(file);
	snprintf(name, sizeof(name), "%s/fence-result", dir);
	file = fopen(name, "r");
	if (file && fscanf(file, "%d", &result) != 1)
		result = 1;
	if (file)
		fclose(file);
	return result;
}

#define FLOW(name) cmocka_unit_test_setup_teardown(name, world_make, world_end)

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
		FLOW(test_standby_agent_restart),
		FLOW(test_protected_again),
		FLOW(test_store_fails),
		cmocka_unit_test(test_timeline_of_odd_bytes),
		FLOW(test_role_of_certificate),
		FLOW(test_single_lock),
		FLOW(test_damaged_record),
	};
	char copy[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = '\0';
	snprintf(copy, sizeof(copy), "%s", argv[0]);
	if (argc == 3 && !strcmp(argv[1], "--control"))
		return fake_vm_main(argc, argv);
	if (!strcmp(basename(copy), "fence"))
		return fence_main(argv[0]);
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR - 1);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
/* The world of these tests: two agents on one loop, with real sockets, TLS, records and fence
 * commands, and how they are looked at. VM processes are the test's program in another role
 * (fake_vm.h), and the fence command too. */
#ifndef TEST_FLOWS_H
#define TEST_FLOWS_H

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
#include "tests/unit/agent/ports.h"

#define PATIENCE_NS (30 * NS_PER_SEC)

struct host {
	struct agent_config config;
	struct agent *agent;
};
static struct host hosts[2];
static struct loop *loop;
static char folder[48], self[256];

/* ---- a world of two hosts ----------------------------------------------------------- */

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static inline void file_write(const char *name, const char *text, mode_t mode)
{
	char path[PATH_MAX];
	struct error e = {0};

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_int_equal(file_replace(path, text, strlen(text), mode, &e), 0);
}

static inline void host_configure(struct host *h, const char *name, const char *other,
				  uint16_t port, uint16_t other_port)
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

static inline void host_up(struct host *h)
{
	struct error e = {0};

	if (agent_create(&h->config, loop, &h->agent, &e))
		fail_msg("%s: %s", h->config.name, e.text);
}

static inline void host_down(struct host *h)
{
	agent_destroy(h->agent);
	h->agent = NULL;
}

static inline struct guest *guest_at(int host, const char *vm)
{
	return hosts[host].agent ? guest_find(hosts[host].agent, vm) : NULL;
}

static inline const char *state_at(int host, const char *vm)
{
	struct guest *g = guest_at(host, vm);

	return g ? guest_state_name(g) : "unknown";
}

static inline void explain(const char *what, const char *vm)
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
static inline void rounds(unsigned n)
{
	while (n--)
		assert_int_equal(loop_step(loop, 2), 0);
}

static inline pid_t vm_pid(int host, const char *vm)
{
	struct guest *g = guest_at(host, vm);

	assert_non_null(g);
	assert_non_null(g->child);
	return vm_child_pid(g->child);
}

static inline unsigned timeline_has(int host, const char *vm, const char *what)
{
	const struct timeline *t = &guest_at(host, vm)->timeline;
	unsigned n = 0;

	for (unsigned i = 0; i < t->count; i++)
		n += !strcmp(t->events[(t->first + i) % TIMELINE_MAX].what, what);
	return n;
}

static inline bool fence_ran(const char *host)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/fenced-%s", folder, host);
	return !access(path, F_OK);
}

/* ---- the API, without HTTP ------------------------------------------------------------- */

static inline unsigned call(int host, const char *method, const char *path, json_t *body)
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

static inline unsigned vm_call(int host, const char *vm, const char *verb, json_t *body)
{
	char path[128];

	snprintf(path, sizeof(path), "/v1/vms/%s/%s", vm, verb);
	return call(host, "POST", path, body);
}

static inline unsigned guest_run(int host, const char *vm, bool force)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "name = \"%s\"; memory = \"16M\"; vcpus = 1; engine = \"sim\"; seed = 1;\n", vm);
	return call(host, "POST", "/v1/vms",
		    json_pack("{s:s, s:b}", "config", text, "force", force));
}

static inline unsigned vm_protect(int host, const char *vm, const char *policy)
{
	return vm_call(host, vm, "protect",
		       json_pack("{s:s, s:s}", "to", hosts[!host].config.name, "policy", policy));
}

static inline bool connected(int host)
{
	return peer_is_up(peers_at(hosts[host].agent->peers, 0));
}

static inline void protect_whole(const char *vm, const char *policy)
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
static inline void host_kill(int host, const char *vm)
{
	pid_t pid = vm_pid(host, vm);

	host_down(&hosts[host]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- setup --------------------------------------------------------------------------------- */

static inline void links_make(void)
{
	static const char *const names[] = {"vm", "fence"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		assert_int_equal(symlink(self, path), 0);
	}
}

static inline int world_make(void **state)
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
	a = port_choose();
	b = port_choose();
	host_configure(&hosts[0], "hosta", "hostb", a, b);
	host_configure(&hosts[1], "hostb", "hosta", b, a);
	host_up(&hosts[0]);
	host_up(&hosts[1]);
	return 0;
}

static inline void children_kill(struct host *h)
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

static inline int world_end(void **state)
{
	fault_disarm_all();
	children_kill(&hosts[0]);
	children_kill(&hosts[1]);
	loop_destroy(loop);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- the program's other roles -------------------------------------------------------------- */

/* fence: exit code from a file; marks that it ran for the host in plug=. */
static inline int fence_main(char *path)
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

/* -1: the tests, or the one that is named; else an exit code. */
static inline int role_run(int argc, char **argv)
{
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
	return -1;
}

#define FLOW(name) cmocka_unit_test_setup_teardown(name, world_make, world_end)

#endif

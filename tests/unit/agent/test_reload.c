// SPDX-License-Identifier: Apache-2.0
/* Certificates that are replaced while polluxd runs, on two hosts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/agent/flows.h"

static const char *const hosts_files[][2] = {{"hosta.crt", "hosta.key"},
					     {"hostb.crt", "hostb.key"}};

static void pki_make(const char *sub)
{
	struct error e = {0};
	char dir[80];

	snprintf(dir, sizeof(dir), "%s/%s", folder, sub);
	assert_int_equal(mkdir(dir, 0700), 0);
	if (pki_create_ca(dir, "test-ca", 1, &e) || pki_issue(dir, "hosta", "peer", 1, &e) ||
	    pki_issue(dir, "hostb", "peer", 1, &e))
		fail_msg("%s", e.text);
}

/* In place of what the host has. */
static void file_place(const char *sub, const char *name)
{
	struct error e = {0};
	struct buf text = {0};
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s/%s", folder, sub, name);
	assert_int_equal(file_read(path, 1 << 20, &text, &e), 0);
	buf_put_u8(&text, 0);
	file_write(name, (char *)text.data, 0600);
	buf_free(&text);
}

static void host_place(const char *sub, int host)
{
	for (int i = 0; i < 2; i++)
		file_place(sub, hosts_files[host][i]);
}

static void all_place(const char *sub)
{
	file_place(sub, "ca.crt");
	host_place(sub, 0);
	host_place(sub, 1);
}

static int reload(int host)
{
	struct error e = {0};
	int rc = agent_identity_reload(hosts[host].agent, &e);

	assert_int_equal(rc != 0, e.text[0] != 0);
	return rc;
}

/* It dials, and is dialed, anew. */
static void again(int host)
{
	host_down(&hosts[host]);
	host_up(&hosts[host]);
}

static const char *why(int host)
{
	return peer_why(peers_at(hosts[host].agent->peers, 0));
}

static void test_all_replaced(void **state)
{
	pki_make("new");
	pki_make("newer");
	WAIT_FOR(connected(0) && connected(1), "-");
	all_place("new");
	for (int i = 0; i < 2; i++)
		assert_int_equal(reload(i), 0);
	rounds(20);
	assert_true(connected(0) && connected(1)); /* as before */
	again(1);
	WAIT_FOR(connected(0) && connected(1), "-");
	all_place("newer");
	for (int i = 0; i < 2; i++)
		assert_int_equal(reload(i), 0);
	again(0);
	WAIT_FOR(connected(0) && connected(1), "-");
}

static void test_old_one_refused(void **state)
{
	pki_make("new");
	WAIT_FOR(connected(0) && connected(1), "-");
	file_place("new", "ca.crt");
	host_place("new", 0);
	assert_int_equal(reload(0), 0);
	again(1); /* it knows the new authority, and has the old certificate */
	WAIT_FOR(strstr(why(0), "certificate"), "-");
	assert_false(connected(0) || connected(1));
	host_place("new", 1);
	assert_int_equal(reload(1), 0);
	WAIT_FOR(connected(0) && connected(1), "-");
}

static void test_bad_file(void **state)
{
	pki_make("new");
	WAIT_FOR(connected(0) && connected(1), "-");
	file_write("hosta.crt", "no certificate", 0600);
	assert_int_equal(reload(0), -EINVAL);
	file_place("new", "hosta.crt"); /* with the key of another */
	assert_int_equal(reload(0), -EINVAL);
	again(1);
	WAIT_FOR(connected(0) && connected(1), "-");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_all_replaced),
		FLOW(test_old_one_refused),
		FLOW(test_bad_file),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}

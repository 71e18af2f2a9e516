// SPDX-License-Identifier: Apache-2.0
/* Terms on disk: after a crash between any two steps it is the old one or the new one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/guest.h"

static struct agent agent;
static struct guest *guest;
static char folder[48];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int setup(void **state)
{
	char vms[128];
	struct error e = {0};
	const struct peers_events none = {0};

	agent = (struct agent){.lock_fd = -1};
	snprintf(folder, sizeof(folder), "/tmp/pollux-store-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(agent.config.state_dir, sizeof(agent.config.state_dir), "%s", folder);
	snprintf(agent.config.run_dir, sizeof(agent.config.run_dir), "%s", folder);
	snprintf(vms, sizeof(vms), "%s/vms", folder);
	assert_int_equal(mkdir(vms, 0700), 0);
	LIST_INIT(&agent.guests);
	assert_int_equal(loop_create(&agent.loop), 0);
	assert_int_equal(peers_create(&agent.config, NULL, agent.loop, &none, &agent.peers, &e), 0);
	assert_int_equal(guest_create(&agent, "vm1", &guest, &e), 0);
	assert_int_equal(guest_config_set(guest, "name = \"vm1\";", "/etc/vm1.cfg"), 0);
	return 0;
}

static void guests_free(void)
{
	struct guest *g;

	while ((g = LIST_FIRST(&agent.guests)))
		guest_free(g);
}

static int teardown(void **state)
{
	fault_disarm_all();
	guests_free();
	peers_destroy(agent.peers);
	loop_destroy(agent.loop);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static int store(uint64_t term, enum ownership_role role)
{
	const struct ownership_record r = {.term = term, .role = role};
	struct error e = {0};
	int rc = guest_store(guest, &r, &e);

	assert_true(!rc || e.text[0]);
	return rc;
}

/* As a polluxd that starts would see it. */
static struct guest *load(void)
{
	struct error e = {0};

	guests_free();
	if (guests_load(&agent, &e))
		fail_msg("%s", e.text);
	guest = guest_find(&agent, "vm1");
	assert_non_null(guest);
	return guest;
}

static void test_round_trip(void **state)
{
	snprintf(guest->peer, sizeof(guest->peer), "hostb");
	guest->copies = 5;
	guest_policy_set(guest, "stall");
	assert_int_equal(store((UINT64_C(5) << 32) + 7, ROLE_NONE), 0);
	load();
	assert_int_equal(guest->own.record.term, (UINT64_C(5) << 32) + 7);
	assert_int_equal(guest->own.record.role, ROLE_NONE);
	assert_string_equal(guest->peer, "hostb");
	assert_string_equal(guest->config, "name = \"vm1\";");
	assert_string_equal(guest->origin, "/etc/vm1.cfg");
	assert_int_equal(guest->copies, 5);
	assert_false(guest->own.config.continue_alone);
}

static void test_roles(void **state)
{
	/* Nothing runs after a restart: an owner without another host is the owner still, a
	 * primary gives its VM up for dead, a standby's twin is gone. */
	static const struct {
		enum ownership_role stored;
		enum ownership_state state;
	} cases[] = {
		{ROLE_NONE, OWN_NONE},         {ROLE_OWNER, OWN_IDLE},
		{ROLE_PRIMARY, OWN_RELEASED},  {ROLE_STANDBY, OWN_NONE},
		{ROLE_RELEASED, OWN_RELEASED},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(store(9 + i, cases[i].stored), 0);
		load();
		assert_int_equal(guest->own.state, cases[i].state);
	}
}

static void test_owner_with_peer_is_unsure(void **state)
{
	snprintf(guest->peer, sizeof(guest->peer), "hostb");
	assert_int_equal(store(4, ROLE_OWNER), 0);
	load();
	assert_int_equal(guest->own.state, OWN_UNSURE);
	assert_int_equal(guest_ask_ownership(guest, &(struct ownership_input){.type = OWN_EV_RUN}),
			 -EAGAIN);
}

static void test_crashes(void **state)
{
	static const char *const points[] = {"guest.store", "file.replace.fsync",
					     "file.replace.rename"};

	assert_int_equal(store(2, ROLE_NONE), 0);
	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		fault_arm(points[i], 1, EIO);
		assert_int_equal(store(100 + i, ROLE_NONE), -EIO);
		load();
		assert_int_equal(guest->own.record.term, 2);
	}
	assert_int_equal(store(200, ROLE_NONE), 0);
	load();
	assert_int_equal(guest->own.record.term, 200);
}

/* A temporary file that a crash left behind is no record. */
static void test_leftovers(void **state)
{
	struct error e = {0};
	char path[128];

	assert_int_equal(store(3, ROLE_NONE), 0);
	snprintf(path, sizeof(path), "%s/vms/vm1.json.abc123", folder);
	assert_int_equal(file_replace(path, "{\"term\": 99", 11, 0600, &e), 0);
	load();
	assert_int_equal(guest->own.record.term, 3);
	assert_int_equal(agent.guest_count, 1);
}

static const char *const damaged[] = {
	"",
	"{",
	"[]",
	"{\"version\":1}",
	"{\"version\":2,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm2\",\"term\":1,\"role\":\"none\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":-1,\"role\":\"none\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":\"1\",\"role\":\"none\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":1,\"role\":\"king\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":0,\"role\":\"owner\",\"peer\":\"\"}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":7}",
	"{\"version\":1,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":\"\",\"config\":7}",
	("{\"version\":1,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":\"\","
	 "\"config\":\"\"}"),
	"{\"version\":1,\"name\":\"vm1\",\"term\":1,\"term\":2,\"role\":\"none\",\"peer\":\"\"}",
};

static void test_damaged(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
		struct ownership_record r = {0};
		struct error e = {0};

		if (!guest_record_parse(damaged[i], strlen(damaged[i]), guest, &r, &e))
			fail_msg("taken: %s", damaged[i]);
		assert_true(e.text[0]);
	}
}

static void test_versions(void **state)
{
	static const char *const records[] = {
		"{\"version\":0,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":\"\"}",
		"{\"version\":2,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":\"\"}"};
	struct ownership_record r = {0};

	for (size_t i = 0; i < ARRAY_LEN(records); i++) {
		struct error e = {0};

		assert_int_equal(guest_record_parse(records[i], strlen(records[i]), guest, &r, &e),
				 -EPROTONOSUPPORT);
		assert_non_null(strstr(e.text, "this program reads 1 to 1"));
	}
}

/* Which disks may be written over; a record of before tells of all of them at once. */
static void test_copies(void **state)
{
	static const struct {
		const char *said;
		unsigned copies;
	} cases[] = {{"", 0},
		     {",\"copy\":false", 0},
		     {",\"copy\":true", VM_DISKS_ALL},
		     {",\"copy\":false,\"copies\":5", 5},
		     {",\"copy\":true,\"copies\":0", 0},
		     {",\"copies\":-1", 0}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct ownership_record r = {0};
		struct error e = {0};
		char text[160];

		snprintf(text, sizeof(text),
			 "{\"version\":1,\"name\":\"vm1\",\"term\":1,\"role\":\"none\",\"peer\":"
			 "\"\"%s}",
			 cases[i].said);
		assert_int_equal(guest_record_parse(text, strlen(text), guest, &r, &e), 0);
		assert_int_equal(guest->copies, cases[i].copies);
	}
}

static void test_names(void **state)
{
	static const char *const bad[] = {
		"",     ".",    "..",
		"../x", "a/b",  "-a",
		"a b",  "a\nb", "0123456789012345678901234567890123456789012345678901234567890123"};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(guest_name_ok(bad[i]));
	assert_true(guest_name_ok("web-1.example_x"));
}

#define STORE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STORE(test_round_trip),
		STORE(test_roles),
		STORE(test_owner_with_peer_is_unsure),
		STORE(test_crashes),
		STORE(test_leftovers),
		STORE(test_damaged),
		STORE(test_versions),
		STORE(test_copies),
		STORE(test_names),
	};

	log_setup("test", LOG_LEVEL_ERROR - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"

#define CERTIFICATES "ca = \"/c/ca.crt\"; cert = \"/c/a.crt\"; key = \"/c/a.key\";\n"
#define PEER(rest)   "peers = ( { name = \"b\"; address = \"10.0.0.2\"; " rest " } );\n"

static struct agent_config config;

static int parse(const char *text, struct error *e)
{
	*e = (struct error){0};
	return agent_config_parse(text, "test.conf", &config, e);
}

static void test_defaults(void **state)
{
	struct error e;

	assert_int_equal(parse("name = \"a\";", &e), 0);
	assert_string_equal(config.name, "a");
	assert_int_equal(config.port, AGENT_PORT);
	assert_string_equal(config.address, "");
	assert_string_equal(config.state_dir, "/var/lib/pollux");
	assert_string_equal(config.run_dir, "/run/pollux");
	assert_int_equal(config.peer_count, 0);
	assert_true(config.loss_ns >= 2 * config.heartbeat_ns);
}

static void test_everything(void **state)
{
	struct error e;

	if (parse("name = \"a\"; address = \"::1\"; port = 4100; state_dir = \"/s\";\n"
		  "run_dir = \"/r\"; vm_program = \"/bin/vm\"; heartbeat_ms = 10; loss_ms = 50;\n"
		  "fence_delay_ms = 700; log_level = \"debug\";\n" CERTIFICATES
		  "peers = ( { name = \"b\"; address = \"10.0.0.2\"; port = 5000;\n"
		  "  fence = { command = \"/sbin/fence\"; timeout_s = 7;\n"
		  "    options = { plug = \"b\"; port = 3; lanplus = true; }; }; },\n"
		  "  { name = \"c\"; address = \"c.example\"; } );",
		  &e))
		fail_msg("%s", e.text);
	assert_int_equal(config.port, 4100);
	assert_int_equal(config.heartbeat_ns, 10 * NS_PER_MS);
	assert_int_equal(config.loss_ns, 50 * NS_PER_MS);
	assert_int_equal(config.fence_delay_ns, 700 * NS_PER_MS);
	assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(config.peer_count, 2);
	assert_int_equal(config.peers[0].port, 5000);
	assert_int_equal(config.peers[0].fence.timeout_ns, 7 * NS_PER_SEC);
	assert_int_equal(config.peers[0].fence.option_count, 3);
	assert_string_equal(config.peers[0].fence.options[1].key, "port");
	assert_string_equal(config.peers[0].fence.options[1].value, "3");
	assert_string_equal(config.peers[0].fence.options[2].value, "1");
	assert_int_equal(config.peers[1].port, AGENT_PORT);
	assert_string_equal(config.peers[1].fence.command, "");
}

/* Each with the line, and what the message must name. */
static const struct {
	const char *text, *where, *what;
} mistakes[] = {
	{"", "test.conf: ", "name"},
	{"name = \"a\";\nnaem = 3;", "test.conf:2: ", "unknown key 'naem'"},
	{"name = \"a\";\n\nport = 70000;", "test.conf:3: ", "70000"},
	{"name = \"a\";\nport = 0;", "test.conf:2: ", "port"},
	{"name = \"a\";\nport = \"4077\";", "test.conf:2: ", "whole number"},
	{"name = \"a\";\nport = 4077.5;", "test.conf:2: ", "whole number"},
	{"name = 7;", "test.conf:1: ", "string"},
	{"name = \"\";", "test.conf:1: ", "host name"},
	{"name = \"../x\";", "test.conf:1: ", "host name"},
	{"name = \"a\";\nstate_dir = \"var\";", "test.conf:2: ", "absolute"},
	{"name = \"a\";\nlog_level = \"loud\";", "test.conf:2: ", "loud"},
	{"name = \"a\";\nheartbeat_ms = 1;", "test.conf:2: ", "heartbeat_ms"},
	{"name = \"a\"; heartbeat_ms = 100; loss_ms = 150;", "test.conf: ", "loss_ms"},
	{"name = \"a\";\nname = \"b\";", "test.conf:2: ", "duplicate"},
	{"name = \"a\";\npeers = 3;", "test.conf:2: ", "list"},
	{"name = \"a\";\npeers = ( 3 );", "test.conf:2: ", "group"},
	{"name = \"a\";\npeers = ( { address = \"x\"; } );", "test.conf:2: ", "'name'"},
	{"name = \"a\";\npeers = ( { name = \"b\"; } );", "test.conf:2: ", "'address'"},
	{"name = \"a\";\n" PEER("x = 1;"), "test.conf:2: ", "unknown key 'x'"},
	{"name = \"a\";\n" PEER(""), "test.conf: ", "certificates"},
	{"name = \"b\";\n" CERTIFICATES PEER(""), "test.conf: ", "itself"},
	{"name = \"a\";\n" PEER("fence = 1;"), "test.conf:2: ", "group"},
	{"name = \"a\";\n" PEER("fence = { };"), "test.conf:2: ", "command"},
	{"name = \"a\";\n" PEER("fence = { command = \"f\"; };"), "test.conf:2: ", "absolute"},
	{"name = \"a\";\n" PEER("fence = { command = \"/f\"; timeout_s = 0; };"),
	 "test.conf:2: ", "timeout_s"},
	{"name = \"a\";\n" PEER("fence = { command = \"/f\";\n options = { action = \"on\"; }; };"),
	 "test.conf:3: ", "action"},
	{"name = \"a\";\n" PEER("fence = { command = \"/f\";\n options = { x = \"a\\nb\"; }; };"),
	 "test.conf:3: ", "control character"},
	{"name = \"a\";\n@include \"/etc/passwd\"", "test.conf:2: ", "@include"},
	{"name = \"a\";\nport = ", "test.conf:2: ", "syntax"},
	{"name = \"a\"; }", "test.conf:1: ", "syntax"},
};

static void test_mistakes(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(mistakes); i++) {
		struct error e;

		if (!parse(mistakes[i].text, &e))
			fail_msg("taken: %s", mistakes[i].text);
		if (strncmp(e.text, mistakes[i].where, strlen(mistakes[i].where)) != 0 ||
		    !strstr(e.text, mistakes[i].what))
			fail_msg("'%s' does not begin with '%s' and name '%s'", e.text,
				 mistakes[i].where, mistakes[i].what);
	}
}

static void test_too_many_peers(void **state)
{
	struct buf text = {0};
	struct error e;
	char line[128];

	buf_put(&text, "name = \"a\"; peers = (", 21);
	for (int i = 0; i <= AGENT_PEERS_MAX; i++) {
		int n = snprintf(line, sizeof(line), "%s{ name = \"p%d\"; address = \"x\"; }",
				 i ? "," : "", i);

		buf_put(&text, line, (size_t)n);
	}
	buf_put(&text, ");", 3);
	assert_int_equal(parse((char *)text.data, &e), -EINVAL);
	assert_non_null(strstr(e.text, "more than 16 peers"));
	buf_free(&text);
}

static void test_long_values(void **state)
{
	char text[2048], value[1024];
	struct error e;

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	snprintf(text, sizeof(text), "name = \"a\";\nca = \"/%s\";", value);
	assert_int_equal(parse(text, &e), -EINVAL);
	assert_non_null(strstr(e.text, "test.conf:2: 'ca' is longer"));
}

static void test_files(void **state)
{
	char path[] = "/tmp/pollux-config-XXXXXX";
	int fd = mkstemp(path);
	struct error e = {0};

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, "name = \"a\";\0port = 3;", 21), 0);
	assert_int_not_equal(agent_config_load(path, &config, &e), 0);
	assert_non_null(strstr(e.text, "zero byte"));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	e = (struct error){0};
	assert_int_not_equal(agent_config_load(path, &config, &e), 0);
	close(fd);
	unlink(path);
	e = (struct error){0};
	assert_int_equal(agent_config_load(path, &config, &e), -ENOENT);
	assert_non_null(strstr(e.text, path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),    cmocka_unit_test(test_everything),
		cmocka_unit_test(test_mistakes),    cmocka_unit_test(test_too_many_peers),
		cmocka_unit_test(test_long_values), cmocka_unit_test(test_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

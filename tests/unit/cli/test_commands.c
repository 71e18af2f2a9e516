// SPDX-License-Identifier: Apache-2.0
/* What comes from the table of commands: dispatch, help, completion, the man page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int parse(struct invocation *v, ...)
{
	char *argv[16] = {"pollux"}, *word;
	va_list words;
	int argc = 1;

	va_start(words, v);
	while ((word = va_arg(words, char *)))
		argv[argc++] = word;
	va_end(words);
	return invocation_parse(argc, argv, v);
}

/* What a command writes to its standard output. */
static int output_of(const struct invocation *v, struct buf *out)
{
	char path[] = "/tmp/pollux-cli-XXXXXX";
	int file = mkstemp(path), before, rc;
	struct error e = {0};

	assert_true(file >= 0);
	fflush(stdout);
	before = dup(STDOUT_FILENO);
	dup2(file, STDOUT_FILENO);
	rc = v->command->run(v);
	fflush(stdout);
	dup2(before, STDOUT_FILENO);
	close(before);
	close(file);
	assert_int_equal(file_read(path, 1 << 20, out, &e), 0);
	buf_put_u8(out, 0);
	unlink(path);
	return rc;
}

static void test_table(void **state)
{
	for (const struct command *c = commands; c->name; c++) {
		assert_non_null(c->run);
		assert_true(*c->summary);
		assert_true(c->least <= c->most && c->most <= ARGUMENTS_MAX);
		assert_ptr_equal(command_find(c->name), c);
		/* An option must not hide one that all commands have. */
		for (unsigned i = 0; i < OPTIONS_MAX && c->options[i].name; i++)
			for (unsigned j = 0; globals[j].name; j++)
				assert_string_not_equal(c->options[i].name, globals[j].name);
	}
}

static void test_parse(void **state)
{
	struct invocation v;
	long n = 3;

	assert_int_equal(
		parse(&v, "protect", "vm1", "--to", "hostb", "--interval=20", "--json", NULL),
		EXIT_OK);
	assert_string_equal(v.command->name, "protect");
	assert_string_equal(v.arguments[0], "vm1");
	assert_string_equal(invocation_value(&v, "to"), "hostb");
	assert_true(invocation_flag(&v, "json"));
	assert_false(invocation_flag(&v, "overwrite"));
	assert_null(invocation_value(&v, "mode"));
	assert_int_equal(invocation_number(&v, "interval", 1, 100, &n), EXIT_OK);
	assert_int_equal(n, 20);
	assert_int_equal(invocation_number(&v, "interval", 1, 10, &n), EXIT_USAGE);
	assert_int_equal(invocation_number(&v, "streams", 1, 10, &n), EXIT_OK);
	assert_int_equal(n, 20);
	/* Options may come first. */
	assert_int_equal(parse(&v, "stop", "--force", "vm1", NULL), EXIT_OK);
	assert_string_equal(v.arguments[0], "vm1");
}

/* What the last complaint says. */
static const char *complained(void)
{
	static char text[256];
	json_t *o = complaint_take();

	snprintf(text, sizeof(text), "%s", json_word(o, "error"));
	json_decref(o);
	return text;
}

static void test_usage_errors(void **state)
{
	struct invocation v;

	assert_int_equal(parse(&v, "dance", NULL), EXIT_USAGE);
	(void)complained();
	assert_int_equal(parse(&v, "--config", "F", "list", NULL), EXIT_USAGE);
	assert_string_equal(complained(),
			    "options follow the command: pollux COMMAND --config ...; see "
			    "`pollux help`");
	assert_int_equal(parse(&v, "stop", NULL), EXIT_USAGE);
	assert_int_equal(parse(&v, "stop", "a", "b", NULL), EXIT_USAGE);
	assert_int_equal(parse(&v, "stop", "a", "--gently", NULL), EXIT_USAGE);
	assert_int_equal(parse(&v, "stop", "a", "--timeout", NULL), EXIT_USAGE);
	assert_int_equal(parse(&v, "list", "a", NULL), EXIT_USAGE);
	assert_int_equal(parse(&v, "stop", "a", "--force=1", NULL), EXIT_USAGE);
	assert_int_equal(
		parse(&v, "pki", "issue", "a", "--role", "foo", "--dir", "/nonexistent", NULL),
		EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
	assert_int_equal(parse(&v, "pki", "issue", "a", "--dir", "/nonexistent", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_FAILED);
}

/* Made once, and then in the way of itself. */
static void pki_once(const char *folder, const char *verb, const char *name, const char *advice)
{
	struct buf out = {0};
	struct invocation v;

	assert_int_equal(parse(&v, "pki", verb, name, "--dir", folder, NULL), EXIT_OK);
	assert_int_equal(output_of(&v, &out), EXIT_OK);
	(void)complained();
	assert_int_equal(v.command->run(&v), EXIT_FAILED);
	assert_non_null(strstr(complained(), advice));
	buf_free(&out);
}

static void test_pki_overwrites_nothing(void **state)
{
	static const char *const made[] = {"ca.crt", "ca.key", "hosta.crt", "hosta.key"};
	char folder[] = "/tmp/pollux-pki-XXXXXX";
	int at;

	assert_non_null(mkdtemp(folder));
	pki_once(folder, "init-ca", "the-ca", "File exists: a CA is there already");
	pki_once(folder, "issue", "hosta", "File exists: nothing is overwritten");
	at = open(folder, O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_LEN(made); i++)
		assert_int_equal(unlinkat(at, made[i], 0), 0);
	close(at);
	assert_int_equal(rmdir(folder), 0);
}

static void test_no_agent(void **state)
{
	static const char *const verbs[] = {"stop", "unprotect", "failover", "console", "status"};
	struct buf out = {0};
	struct invocation v;

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		assert_int_equal(parse(&v, verbs[i], "vm1", "--socket", "/nonexistent/sock", NULL),
				 EXIT_OK);
		assert_int_equal(output_of(&v, &out), EXIT_NO_AGENT);
		buf_reset(&out);
	}
	assert_int_equal(parse(&v, "stop", "../x", "--socket", "/nonexistent", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
	assert_int_equal(parse(&v, "protect", "vm1", "--socket", "/nonexistent", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
	assert_int_equal(parse(&v, "start", "/nonexistent/vm.cfg", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
	buf_free(&out);
}

static int failing_run(const struct invocation *v)
{
	complain("it is refused");
	failure_print(EXIT_REFUSED);
	return EXIT_REFUSED;
}

/* A script that asks for JSON gets it whatever happens. */
static void test_json_failure(void **state)
{
	struct buf out = {0};
	struct invocation v;
	json_t *o;

	assert_int_equal(parse(&v, "help", "dance", NULL), EXIT_OK);
	v.command = &(const struct command){.run = failing_run};
	assert_int_equal(output_of(&v, &out), EXIT_REFUSED);
	o = json_loads((char *)out.data, 0, NULL);
	assert_non_null(o);
	assert_true(*json_word(o, "error"));
	assert_int_equal(json_number(o, "exit_code"), EXIT_REFUSED);
	json_decref(o);
	buf_free(&out);
}

/* docs/man/pollux.1 is the output of `pollux man`. Run from the top folder. */
static void test_man_page(void **state)
{
	struct buf out = {0}, page = {0};
	struct error e = {0};
	struct invocation v;

	assert_int_equal(parse(&v, "man", NULL), EXIT_OK);
	assert_int_equal(output_of(&v, &out), EXIT_OK);
	if (file_read("docs/man/pollux.1", 1 << 20, &page, &e))
		fail_msg("%s", e.text);
	buf_put_u8(&page, 0);
	if (strcmp((char *)out.data, (char *)page.data) != 0)
		fail_msg("docs/man/pollux.1 is not what `pollux man` prints: write it anew");
	buf_free(&out);
	buf_free(&page);
}

static void test_help_and_completion(void **state)
{
	struct buf out = {0};
	struct invocation v;

	assert_int_equal(parse(&v, NULL), EXIT_OK);
	assert_int_equal(output_of(&v, &out), EXIT_OK);
	for (const struct command *c = commands; c->name; c++)
		assert_non_null(strstr((char *)out.data, c->summary));
	buf_reset(&out);
	assert_int_equal(parse(&v, "completion", "bash", NULL), EXIT_OK);
	assert_int_equal(output_of(&v, &out), EXIT_OK);
	for (const struct command *c = commands; c->name; c++)
		assert_non_null(strstr((char *)out.data, c->name));
	assert_non_null(strstr((char *)out.data, "event interval"));
	buf_free(&out);
	assert_int_equal(parse(&v, "completion", "tcsh", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
	assert_int_equal(parse(&v, "help", "dance", NULL), EXIT_OK);
	assert_int_equal(v.command->run(&v), EXIT_USAGE);
}

static void test_texts(void **state)
{
	char text[32];

	bytes_text(0, text, sizeof(text));
	assert_string_equal(text, "0 B");
	bytes_text(1536, text, sizeof(text));
	assert_string_equal(text, "1.5 KiB");
	bytes_text(UINT64_MAX, text, sizeof(text));
	assert_non_null(strstr(text, "TiB"));
	nanoseconds_text(1500000, text, sizeof(text));
	assert_string_equal(text, "1.5 ms");
	nanoseconds_text(25000000, text, sizeof(text));
	assert_string_equal(text, "25.0 ms");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),        cmocka_unit_test(test_parse),
		cmocka_unit_test(test_usage_errors), cmocka_unit_test(test_pki_overwrites_nothing),
		cmocka_unit_test(test_json_failure), cmocka_unit_test(test_no_agent),
		cmocka_unit_test(test_man_page),     cmocka_unit_test(test_help_and_completion),
		cmocka_unit_test(test_texts),
	};

	unsetenv("POLLUX_SOCKET");
	return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define OPTION_BASE 1000
#define GLOBAL_BASE 2000

const struct option_spec globals[] = {
	{"socket", "PATH", "polluxd's socket (or $POLLUX_SOCKET)", NULL},
	{"config", "PATH", "polluxd's configuration, which says where its socket is", NULL},
	{"json", NULL, "print JSON, also of what failed", NULL},
	{"help", NULL, "say how this command is used", NULL},
	{0},
};

const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static unsigned specs_add(struct option *out, const struct option_spec *specs, size_t most,
			  int base)
{
	unsigned n = 0;

	for (; n < most && specs[n].name; n++)
		out[n] =
			(struct option){.name = specs[n].name,
					.has_arg = specs[n].value ? required_argument : no_argument,
					.val = base + (int)n};
	return n;
}

static int options_take(int argc, char **argv, struct invocation *v)
{
	struct option names[OPTIONS_MAX + 8] = {0};
	unsigned n = specs_add(names, v->command->options, OPTIONS_MAX, OPTION_BASE);
	int option;

	specs_add(names + n, globals, 4, GLOBAL_BASE);
	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", names, NULL)) != -1) {
		if (option >= GLOBAL_BASE)
			v->global_values[option - GLOBAL_BASE] = optarg ? optarg : "";
		else if (option >= OPTION_BASE)
			v->values[option - OPTION_BASE] = optarg ? optarg : "";
		else {
			complain("%s: %s '%s'; see `pollux help %s`", v->command->name,
				 option == ':' ? "there is no value for" : "unknown option",
				 argv[optind - 1], v->command->name);
			return EXIT_USAGE;
		}
	}
	return EXIT_OK;
}

static int arguments_take(int argc, char **argv, struct invocation *v)
{
	const struct command *c = v->command;
	unsigned n = (unsigned)(argc - optind);

	if (n < c->least || n > c->most) {
		complain("usage: pollux %s%s%s; see `pollux help %s`", c->name,
			 *c->arguments ? " " : "", c->arguments, c->name);
		return EXIT_USAGE;
	}
	for (unsigned i = 0; i < n; i++)
		v->arguments[i] = argv[optind + (int)i];
	v->argument_count = n;
	return EXIT_OK;
}

int invocation_parse(int argc, char **argv, struct invocation *out)
{
	const char *name = argc > 1 ? argv[1] : "help";
	int rc;

	*out = (struct invocation){0};
	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	if (!strcmp(name, "--version"))
		name = "version";
	if (*name == '-') {
		complain("options follow the command: pollux COMMAND %s ...; see `pollux help`",
			 name);
		return EXIT_USAGE;
	}
	out->command = command_find(name);
	if (!out->command) {
		complain("there is no command '%s'; `pollux help` lists those that there are",
			 name);
		return EXIT_USAGE;
	}
	if (argc < 2)
		return EXIT_OK;
	rc = options_take(argc - 1, argv + 1, out);
	if (rc)
		return rc;
	if (invocation_flag(out, "help"))
		return EXIT_OK;
	return arguments_take(argc - 1, argv + 1, out);
}

const char *invocation_value(const struct invocation *v, const char *name)
{
	for (unsigned i = 0; i < OPTIONS_MAX && v->command->options[i].name; i++)
		if (!strcmp(v->command->options[i].name, name))
			return v->values[i];
	for (unsigned i = 0; globals[i].name; i++)
		if (!strcmp(globals[i].name, name))
			return v->global_values[i];
	return NULL;
}

bool invocation_flag(const struct invocation *v, const char *name)
{
	return invocation_value(v, name) != NULL;
}

int invocation_number(const struct invocation *v, const char *name, long least, long most,
		      long *out)
{
	const char *text = invocation_value(v, name);
	char *end;
	long n;

	if (!text)
		return EXIT_OK;
	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || !*text || *end || n < least || n > most) {
		complain("--%s must be a whole number from %ld to %ld, not '%s'", name, least, most,
			 text);
		return EXIT_USAGE;
	}
	*out = n;
	return EXIT_OK;
}

int invocation_numbers(const struct invocation *v, const struct number_option *numbers,
		       json_t *body)
{
	for (; numbers->option; numbers++) {
		long value = 0;
		int rc = invocation_number(v, numbers->option, numbers->least, numbers->most,
					   &value);

		if (rc)
			return rc;
		if (invocation_value(v, numbers->option))
			json_object_set_new(body, numbers->key, json_integer(value));
	}
	return EXIT_OK;
}

static void put(json_t *body, const char *name, json_t *value)
{
	char key[32];

	snprintf(key, sizeof(key), "%s", name);
	for (char *at = key; *at; at++)
		if (*at == '-')
			*at = '_';
	json_object_set_new(body, key, value);
}

void invocation_words(const struct invocation *v, const char *const *names, json_t *body)
{
	for (; *names; names++)
		if (invocation_value(v, *names))
			put(body, *names, json_string(invocation_value(v, *names)));
}

void invocation_flags(const struct invocation *v, const char *const *names, json_t *body)
{
	for (; *names; names++)
		if (invocation_flag(v, *names))
			put(body, *names, json_true());
}

// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define WIDTH 78

/* Words of `text` in lines of WIDTH, each behind `indent` spaces. */
static void text_fill(const char *text, int indent)
{
	int column = 0;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (column && column + 1 + (int)len > WIDTH) {
			putchar('\n');
			column = 0;
		}
		if (!column)
			column = printf("%*s", indent, "");
		else
			column += printf(" ");
		column += printf("%.*s", (int)len, text);
		text += len;
		text += strspn(text, " ");
	}
	if (column)
		putchar('\n');
}

void help_overview(void)
{
	puts("usage: pollux COMMAND ...\n\n"
	     "Pollux keeps a virtual machine alive when its host dies.\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-11s %s\n", c->name, c->summary);
	puts("\n`pollux help COMMAND` says more. Exit codes: 0 done, 1 failed, 2 usage,\n"
	     "3 not found or refused, 4 no polluxd.");
}

static void options_print(const struct option_spec *specs, size_t most)
{
	for (size_t i = 0; i < most && specs[i].name; i++) {
		char name[48];

		snprintf(name, sizeof(name), "--%s%s%s", specs[i].name, specs[i].value ? " " : "",
			 specs[i].value ? specs[i].value : "");
		printf("  %-22s %s\n", name, specs[i].help);
	}
}

void help_command(const struct command *c)
{
	printf("usage: pollux %s%s%s%s\n\n", c->name, *c->arguments ? " " : "", c->arguments,
	       c->options[0].name ? " [OPTIONS]" : "");
	text_fill(c->summary, 0);
	if (*c->details) {
		putchar('\n');
		text_fill(c->details, 0);
	}
	puts("\noptions:");
	options_print(c->options, OPTIONS_MAX);
	options_print(globals, 4);
}

int command_help(const struct invocation *v)
{
	const struct command *c;

	if (!v->argument_count) {
		help_overview();
		return EXIT_OK;
	}
	c = command_find(v->arguments[0]);
	if (!c) {
		complain("there is no command '%s'", v->arguments[0]);
		return EXIT_USAGE;
	}
	help_command(c);
	return EXIT_OK;
}

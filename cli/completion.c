// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static void words_of_options(const struct command *c)
{
	for (unsigned i = 0; i < OPTIONS_MAX && c->options[i].name; i++)
		printf(" --%s", c->options[i].name);
	for (unsigned i = 0; globals[i].name; i++)
		printf(" --%s", globals[i].name);
}

/* "command --option) words": values that are known beforehand. */
static void cases_of_values(const struct command *c)
{
	for (unsigned i = 0; i < OPTIONS_MAX && c->options[i].name; i++)
		if (c->options[i].words)
			printf("\t'%s --%s') COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return "
			       ";;\n",
			       c->name, c->options[i].name, c->options[i].words);
}

static void case_of_command(const struct command *c)
{
	printf("\t%s) words='", c->name);
	words_of_options(c);
	printf("'");
	if (c->takes_vm)
		printf("; [ \"$COMP_CWORD\" -eq 2 ] && words=\"$words $(pollux list --json "
		       "2>/dev/null | sed -n 's/.*\"name\": \"\\([^\"]*\\)\".*/\\1/p')\"");
	else if (!strcmp(c->arguments, "FILE"))
		printf("; COMPREPLY=($(compgen -f -- \"$cur\"))");
	else if (!strcmp(c->name, "pki"))
		printf("; words=\"$words init-ca issue\"");
	else if (!strcmp(c->name, "completion"))
		printf("; words=\"$words bash\"");
	puts(" ;;");
}

int command_completion(const struct invocation *v)
{
	if (strcmp(v->arguments[0], "bash") != 0) {
		complain("completion is there for bash only, not for '%s'", v->arguments[0]);
		return EXIT_USAGE;
	}
	puts("_pollux() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=''\n\tCOMPREPLY=()\n"
	     "\tif [ \"$COMP_CWORD\" -eq 1 ]; then");
	printf("\t\tCOMPREPLY=($(compgen -W '");
	for (const struct command *c = commands; c->name; c++)
		printf("%s ", c->name);
	puts("' -- \"$cur\"))\n\t\treturn\n\tfi\n"
	     "\tcase \"${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}\" in");
	for (const struct command *c = commands; c->name; c++)
		cases_of_values(c);
	puts("\tesac\n\tcase \"${COMP_WORDS[1]}\" in");
	for (const struct command *c = commands; c->name; c++)
		case_of_command(c);
	puts("\tesac\n\tCOMPREPLY+=($(compgen -W \"$words\" -- \"$cur\"))\n}\n"
	     "complete -F _pollux pollux");
	return EXIT_OK;
}

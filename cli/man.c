// SPDX-License-Identifier: Apache-2.0
/* The man page, from the same table as everything else. docs/man/pollux.1 is this
 * output; a test compares them. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

/* roff: a backslash and a hyphen are escaped, a full stop must not begin a line. */
static void roff_text(const char *text)
{
	bool line_start = true;

	for (; *text; text++) {
		if (line_start && (*text == '.' || *text == '\''))
			fputs("\\&", stdout);
		line_start = *text == '\n';
		if (*text == '\\')
			fputs("\\e", stdout);
		else if (*text == '-')
			fputs("\\-", stdout);
		else
			putchar(*text);
	}
	putchar('\n');
}

static void roff_option(const struct option_spec *o)
{
	printf(".TP\n\\fB\\-\\-");
	for (const char *at = o->name; *at; at++)
		fputs(*at == '-' ? "\\-" : (char[]){*at, '\0'}, stdout);
	printf("\\fR%s%s%s\n", o->value ? " \\fI" : "", o->value ? o->value : "",
	       o->value ? "\\fR" : "");
	roff_text(o->help);
}

static void roff_command(const struct command *c)
{
	printf(".SS \"pollux %s%s%s\"\n", c->name, *c->arguments ? " " : "", c->arguments);
	roff_text(c->summary);
	if (*c->details) {
		puts(".PP");
		roff_text(c->details);
	}
	for (unsigned i = 0; i < OPTIONS_MAX && c->options[i].name; i++)
		roff_option(&c->options[i]);
}

static void roff_exit_codes(void)
{
	static const struct {
		int code;
		const char *meaning;
	} codes[] = {
		{EXIT_OK, "It is done."},
		{EXIT_FAILED, "It was tried and failed; the message says why."},
		{EXIT_USAGE, "The command line, or a file that it names, is wrong."},
		{EXIT_REFUSED, "There is no such VM or host, or it is not allowed as things are."},
		{EXIT_NO_AGENT, "polluxd cannot be reached."},
	};

	puts(".SH EXIT STATUS");
	for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
		printf(".TP\n.B %d\n", codes[i].code);
		roff_text(codes[i].meaning);
	}
}

int command_man(const struct invocation *v)
{
	puts(".TH POLLUX 1 \"\" \"Pollux\" \"User Commands\"\n.SH NAME\n"
	     "pollux \\- keep virtual machines alive when their hosts die\n.SH SYNOPSIS\n"
	     ".B pollux\n.I COMMAND\n[\\fIARGUMENT\\fR ...] [\\fIOPTION\\fR ...]\n"
	     ".SH DESCRIPTION\n"
	     "Every protected virtual machine has a twin on a standby host, which follows it\n"
	     "checkpoint by checkpoint and becomes it when its host dies.\n"
	     "All commands but \\fBrun\\fR, \\fBpki\\fR, \\fBversion\\fR and those about the "
	     "command line itself\nare requests to the polluxd of this host.\n.SH COMMANDS");
	for (const struct command *c = commands; c->name; c++)
		roff_command(c);
	puts(".SH \"OPTIONS OF EVERY COMMAND\"");
	for (unsigned i = 0; globals[i].name; i++)
		roff_option(&globals[i]);
	roff_exit_codes();
	puts(".SH FILES\n.TP\n.I /etc/pollux/polluxd.conf\npolluxd's configuration\n.TP\n"
	     ".I /run/pollux/polluxd.sock\nits socket");
	return EXIT_OK;
}

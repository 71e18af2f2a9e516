// SPDX-License-Identifier: Apache-2.0
/*
 * pollux, the command line. One table of subcommands (commands.c) makes dispatch,
 * help, completion and the man page; each command is a function in a file of its
 * own or of a small group.
 */
#ifndef POLLUX_CLI_CLI_H
#define POLLUX_CLI_CLI_H

#include <jansson.h>
#include <signal.h>

#include "base/base.h"

/* Exit codes; docs/man/pollux.1 documents them. */
enum {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_REFUSED = 3, /* not found, or not allowed as things are */
	EXIT_NO_AGENT = 4,
};

#define OPTIONS_MAX   20
#define ARGUMENTS_MAX 4

struct invocation;

struct option_spec {
	const char *name;  /* without "--" */
	const char *value; /* what stands for its value in help; NULL: a flag */
	const char *help;
	const char *words; /* its values, for completion, separated by spaces; or NULL */
};

struct command {
	const char *name;
	const char *arguments; /* for help: "VM", "FILE" */
	unsigned least, most;  /* arguments */
	bool takes_vm;         /* the first argument is the name of a VM: for completion */
	const char *summary;   /* one line */
	const char *details;   /* paragraphs for help and the man page */
	struct option_spec options[OPTIONS_MAX];
	int (*run)(const struct invocation *v); /* an exit code */
};
extern const struct command commands[];    /* ends with a name of NULL */
extern const struct option_spec globals[]; /* of every command; ends likewise */
const struct command *command_find(const char *name);

struct invocation {
	const struct command *command;
	const char *arguments[ARGUMENTS_MAX];
	unsigned argument_count;
	const char *values[OPTIONS_MAX]; /* as command->options; "" for a flag that is there */
	const char *global_values[4];    /* as globals */
};
/* 0, or an exit code after a message on stderr. */
int invocation_parse(int argc, char **argv, struct invocation *out) MUST_CHECK;
const char *invocation_value(const struct invocation *v, const char *name); /* or NULL */
bool invocation_flag(const struct invocation *v, const char *name);
/* A whole number from an option; `out` is left alone without it. EXIT_OK or EXIT_USAGE. */
int invocation_number(const struct invocation *v, const char *name, long least, long most,
		      long *out) MUST_CHECK;

/* Options that are given, into a request: numbers as a table says that ends with a NULL, words and
 * flags under their names, with '_' for '-', and lists that end with a NULL. */
struct number_option {
	const char *option, *key;
	long least, most;
};
int invocation_numbers(const struct invocation *v, const struct number_option *numbers,
		       json_t *body) MUST_CHECK;
void invocation_words(const struct invocation *v, const char *const *names, json_t *body);
void invocation_flags(const struct invocation *v, const char *const *names, json_t *body);

/* ---- commands ----------------------------------------------------------- */
int command_run(const struct invocation *v);
int command_start(const struct invocation *v);
int command_stop(const struct invocation *v);
int command_list(const struct invocation *v);
int command_status(const struct invocation *v);
int command_protect(const struct invocation *v);
int command_migrate(const struct invocation *v);
int command_unprotect(const struct invocation *v);
int command_failover(const struct invocation *v);
int command_dump_core(const struct invocation *v);
int command_save(const struct invocation *v);
int command_snapshot(const struct invocation *v);
int command_snapshots(const struct invocation *v);
int command_rollback(const struct invocation *v);
int command_restore(const struct invocation *v);
int command_upgrade(const struct invocation *v);
int command_console(const struct invocation *v);
int command_pki(const struct invocation *v);
int command_version(const struct invocation *v);
int command_help(const struct invocation *v);
int command_completion(const struct invocation *v);
int command_man(const struct invocation *v);

/* ---- help.c ------------------------------------------------------------- */
void help_overview(void);
void help_command(const struct command *c);

/* ---- api_client.c: one request to polluxd ----------------------------------- */
/* EXIT_OK with *out, or an exit code after a message on stderr. `body` is taken over;
 * NULL = none. A text reply (metrics) is not for this. */
int api_call(const struct invocation *v, const char *method, const char *path, json_t *body,
	     json_t **out) MUST_CHECK;
/* The same for a path of a VM: "/v1/vms/NAME" + tail. The name is checked. */
int api_vm_call(const struct invocation *v, const char *method, const char *vm, const char *tail,
		json_t *body, json_t **out) MUST_CHECK;
const char *json_word(const json_t *o, const char *key); /* "" when it is not there */
json_int_t json_number(const json_t *o, const char *key);

/* ---- wait.c: until an operation has ended ------------------------------------- */
struct wait {
	const struct invocation *invocation;
	const char *vm;
	const char *doing; /* "protecting" */
	/* Ctrl-C: what to do, and say, about what was begun; an exit code, or WAIT_ON until the
	 * operation has ended (a second Ctrl-C ends the command). */
	int (*interrupted)(const struct wait *w);
	/* How it goes, in a line; false: nothing worth telling. NULL: as a first copy goes. */
	bool (*line)(const struct wait *w, const json_t *vm, char *out, size_t size);
	/* In place of lines; NULL: none. */
	void (*event)(const struct wait *w, const json_t *vm);
	/* Something to tell once, whenever it is known; true: it was told. NULL: nothing is. */
	bool (*note)(const struct wait *w, const json_t *vm);
	void *ctx; /* of line and event */
};
#define WAIT_ON (-1)
/* From here on a Ctrl-C, once, is for operation_end(): before the request that begins an operation,
 * or it would go on with nobody told. A second one ends the command as it always does. */
void interrupt_catch(void);
bool interrupt_came(void); /* and operation_end() has not taken it */
/* That, then POST to the VM's path what begins one; unless one has come. `body` is taken over. */
int operation_begin(const struct invocation *v, const char *vm, const char *tail, json_t *body,
		    json_t **reply) MUST_CHECK;
/* POST what `fill` makes of the invocation, for the VM that is its first argument. */
int operation_ask(const struct invocation *v, const char *tail,
		  int (*fill)(const struct invocation *v, json_t *body), json_t **reply) MUST_CHECK;
/* Takes over `reply`, that of the request which began it. EXIT_OK leaves the VM in *out if
 * that is not NULL. */
int operation_wait(const struct wait *w, json_t *reply, json_t **out) MUST_CHECK;
/* The same, but EXIT_OK also when the operation has failed: its end was all that was wanted. */
int operation_end(const struct wait *w, json_t *reply, json_t **out) MUST_CHECK;
int operation_judge(const json_t *operation) MUST_CHECK; /* complains of one that has failed */
int wait_leave(const struct wait *w); /* for `interrupted`: it goes on without us */

/* ---- output.c ------------------------------------------------------------------- */
void complain(const char *fmt, ...) PRINTF(1, 2); /* "pollux: ..." on stderr */
void remark(const char *fmt, ...) PRINTF(1, 2);   /* the same, but it is no failure */
void reasons_remark(const json_t *reasons);       /* all, each with its hint */
void reasons_print(const json_t *reasons);        /* the same on stdout, as the answer */
void failure_reasons(json_t *reasons);            /* "reasons" of the failure as JSON */
/* What was complained of, as JSON; or as the last event, and then not once more. */
void failure_print(int rc);
void failure_event(int rc);
/* What was complained of so far is of one of several: its error and hint, on their own; and that a
 * failure of all was printed. */
json_t *complaint_take(void);
void failure_told(void);
/* A sentence, or with --json the VM, which is freed; an exit code. */
int success_print(const struct invocation *v, json_t *vm, const char *fmt, ...) PRINTF(3, 4);
int json_print(json_t *o);       /* and frees it; an exit code */
void event_print(json_t *event); /* likewise, in one line */
void bytes_text(uint64_t bytes, char *out, size_t size);
void nanoseconds_text(uint64_t ns, char *out, size_t size);

/* ---- terminal.c: between a console and the terminal ------------------------------ */
#define CONSOLE_ESCAPE     0x1d /* Ctrl-] */
#define CONSOLE_ESCAPE_KEY "Ctrl-]"
enum console_end { CONSOLE_CLOSED, CONSOLE_LEFT, CONSOLE_SIGNAL };
/* A signal must not leave the terminal raw: while they are held, console_attach() ends by one, and
 * one that comes between two calls ends the second. Those that nobody took are forgotten. */
void console_signals_hold(sigset_t *before);
void console_signals_release(const sigset_t *before);
/* Until the console closes, the escape key, or a signal (*number). `also_fd` (or -1)
 * ends it too once it is readable and `also` says so. */
enum console_end console_attach(int console, int also_fd, bool (*also)(void *ctx), void *ctx,
				int *number);

#endif

// SPDX-License-Identifier: Apache-2.0
/* pollux-vm: one vm in one role. Started by polluxd or by `pollux run`, not by hand. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm-process/process.h"

#define DIRECTOR_FD 3

static const char usage[] =
	"usage: pollux-vm [--control PATH] [--debug]\n"
	"The process that holds one vm. It is started by polluxd or by `pollux run`, which\n"
	"direct it over a SOCK_SEQPACKET socket on descriptor 3; with --control it also\n"
	"listens on PATH, so that a restarted polluxd finds it again.\n";

static void signals_block(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"control", required_argument, NULL, 'c'},
						{"debug", no_argument, NULL, 'd'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	enum log_level level = LOG_LEVEL_INFO;
	const char *control_path = NULL;
	struct error e = {0};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h')
			return fputs(usage, stdout) < 0;
		if (option == '?') {
			fputs(usage, stderr);
			return 2;
		}
		if (option == 'c')
			control_path = optarg;
		if (option == 'd')
			level = LOG_LEVEL_DEBUG;
	}
	log_setup("pollux-vm", level);
	signals_block();
	if (fcntl(DIRECTOR_FD, F_SETFD, FD_CLOEXEC)) {
		fputs("pollux-vm: no control socket on descriptor 3\n", stderr);
		fputs(usage, stderr);
		return 2;
	}
	if (fault_setup(&e) || process_run(DIRECTOR_FD, control_path, &e)) {
		fprintf(stderr, "pollux-vm: %s\n", e.text);
		return 1;
	}
	return 0;
}

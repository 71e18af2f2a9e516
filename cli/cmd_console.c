// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"

static int console_connect(const char *path, int *out)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	*out = fd;
	return 0;
}

static int console_look(const char *vm, const char *path)
{
	int fd = -1, rc = console_connect(path, &fd);
	sigset_t before;
	int number;

	if (rc) {
		complain("the console of %s at %s: %s", vm, path, strerror(-rc));
		return EXIT_FAILED;
	}
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "console of %s; %s leaves it\n", vm, CONSOLE_ESCAPE_KEY);
	console_signals_hold(&before);
	rc = console_attach(fd, -1, NULL, NULL, &number);
	console_signals_release(&before);
	close(fd);
	if (rc == CONSOLE_CLOSED)
		complain("the console of %s has closed", vm);
	return EXIT_OK;
}

int command_console(const struct invocation *v)
{
	json_t *vm;
	int rc = api_vm_call(v, "GET", v->arguments[0], "", NULL, &vm);

	if (rc)
		return rc;
	if (*json_word(vm, "console"))
		rc = console_look(v->arguments[0], json_word(vm, "console"));
	else {
		complain("%s does not run on this host: it is %s", v->arguments[0],
			 json_word(vm, "state"));
		rc = EXIT_REFUSED;
	}
	json_decref(vm);
	return rc;
}

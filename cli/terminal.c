// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"

struct attachment {
	int console, signals;
	bool raw, input;
	struct termios before;
};

static void terminal_raw(struct attachment *a)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &a->before))
		return;
	raw = a->before;
	cfmakeraw(&raw);
	a->raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static sigset_t held_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGALRM);
	return set;
}

void console_signals_hold(sigset_t *before)
{
	sigset_t set = held_signals();

	sigprocmask(SIG_BLOCK, &set, before);
}

void console_signals_release(const sigset_t *before)
{
	sigset_t set = held_signals();

	while (sigtimedwait(&set, NULL, &(struct timespec){0}) > 0)
		;
	sigprocmask(SIG_SETMASK, before, NULL);
}

static void attachment_end(struct attachment *a)
{
	if (a->raw) {
		tcsetattr(STDIN_FILENO, TCSADRAIN, &a->before);
		fputs("\r\n", stderr);
	}
	if (a->signals >= 0)
		close(a->signals);
}

/* One: the next is for the next time. 0: there is none. */
static int signal_take(struct attachment *a)
{
	struct signalfd_siginfo info;

	return read(a->signals, &info, sizeof(info)) > 0 ? (int)info.ssi_signo : 0;
}

/* False: the console is closed. */
static bool output_copy(int console)
{
	char data[4096];
	ssize_t n = read(console, data, sizeof(data));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	return n > 0 && !fd_write_all(STDOUT_FILENO, data, (size_t)n);
}

/* False: the escape key. Input that ends (a pipe) just ends. */
static bool input_copy(struct attachment *a)
{
	char data[512], *escape;
	ssize_t n = read(STDIN_FILENO, data, sizeof(data));

	if (n <= 0) {
		a->input = n < 0 && (errno == EINTR || errno == EAGAIN);
		return true;
	}
	escape = a->raw ? memchr(data, CONSOLE_ESCAPE, (size_t)n) : NULL;
	if (escape)
		n = escape - data;
	if (n && fd_write_all(a->console, data, (size_t)n))
		a->input = false;
	return !escape;
}

static enum console_end attachment_run(struct attachment *a, int also_fd, bool (*also)(void *ctx),
				       void *ctx, int *number)
{
	for (;;) {
		struct pollfd fds[] = {
			{.fd = a->console, .events = POLLIN},
			{.fd = a->input ? STDIN_FILENO : -1, .events = POLLIN},
			{.fd = a->signals, .events = POLLIN},
			{.fd = also_fd, .events = POLLIN},
		};

		if (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno != EINTR)
			return CONSOLE_CLOSED;
		if (fds[0].revents && !output_copy(a->console))
			return CONSOLE_CLOSED;
		if (fds[1].revents && !input_copy(a))
			return CONSOLE_LEFT;
		*number = fds[2].revents ? signal_take(a) : 0;
		if (*number)
			return CONSOLE_SIGNAL;
		if (fds[3].revents && also(ctx))
			return CONSOLE_CLOSED;
	}
}

enum console_end console_attach(int console, int also_fd, bool (*also)(void *ctx), void *ctx,
				int *number)
{
	struct attachment a = {.console = console, .input = true};
	sigset_t set = held_signals();
	enum console_end end;

	a.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	terminal_raw(&a);
	end = attachment_run(&a, also_fd, also, ctx, number);
	attachment_end(&a);
	return end;
}

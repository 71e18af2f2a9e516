// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/guest.h"
#include "agent/unix_socket.h"

#define LOG_MODULE "console"
#define QUICK_NS   (10 * NS_PER_SEC)

static void console_path(const struct guest *g, char *out, size_t size)
{
	snprintf(out, size, "%s/%s.console", g->agent->config.run_dir, g->name);
}

static void console_ready(void *ctx, uint32_t events)
{
	struct guest *g = ctx;
	int fd = accept4(g->console_fd, NULL, NULL, SOCK_CLOEXEC);
	int rc = -ENOTCONN;

	if (fd < 0)
		return;
	if (g->child && g->child_role == CHILD_VM)
		rc = vm_child_ask(g->child, json_pack("{s:s}", "do", "console"), &fd, 1, QUICK_NS,
				  NULL, NULL);
	if (rc)
		log_warn_rc(rc, "%s: no console", g->name);
	close(fd);
}

void guest_console_serve(struct guest *g, bool on)
{
	int rc = 0;

	if (g->console_fd < 0 || on == !!g->console_watch)
		return;
	if (on)
		rc = loop_watch(g->agent->loop, g->console_fd, EPOLLIN, console_ready, g,
				&g->console_watch);
	else
		loop_unwatch(g->console_watch);
	if (rc || !on)
		g->console_watch = NULL;
	if (rc)
		log_warn_rc(rc, "%s: no console", g->name);
}

void guest_console_open(struct guest *g)
{
	char path[256];
	struct error e = {0};
	int rc;

	if (g->console_fd >= 0)
		return;
	console_path(g, path, sizeof(path));
	rc = unix_socket_listen(path, SOCK_STREAM, &g->console_fd, &e);
	if (!rc)
		rc = loop_watch(g->agent->loop, g->console_fd, EPOLLIN, console_ready, g,
				&g->console_watch);
	if (rc) {
		log_warn("%s: no console: %s", g->name, e.text[0] ? e.text : strerror(-rc));
		guest_console_close(g);
	}
}

void guest_console_close(struct guest *g)
{
	char path[256];

	if (g->console_fd < 0)
		return;
	loop_unwatch(g->console_watch);
	g->console_watch = NULL;
	close(g->console_fd);
	g->console_fd = -1;
	console_path(g, path, sizeof(path));
	unlink(path);
}

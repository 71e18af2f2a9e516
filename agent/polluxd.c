// SPDX-License-Identifier: Apache-2.0
/* polluxd: the agent of one host. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "agent/agent.h"
#include "channel/channel.h"

#define LOG_MODULE "polluxd"

static const char usage[] =
	"usage: polluxd [--config FILE] [--check] [--version]\n"
	"The agent of one host. FILE is " AGENT_CONFIG_PATH " unless it is given;\n"
	"--check reads it and the certificates, says what is wrong or that all is good, and ends.\n"
	"SIGHUP: the certificates are read again, for new connections.\n";

struct options {
	const char *config;
	bool check;
};

/* -1: go on; else the exit code. */
static int options_parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {{"config", required_argument, NULL, 'c'},
					      {"check", no_argument, NULL, 'k'},
					      {"version", no_argument, NULL, 'v'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (option == 'c')
			o->config = optarg;
		else if (option == 'k')
			o->check = true;
		else if (option == 'v')
			return printf("polluxd %s (%s)\n", version_text, version_build) < 0;
		else if (option == 'h')
			return fputs(usage, stdout) < 0;
		else
			return fputs(usage, stderr), 2;
	}
	if (optind < argc)
		return fputs(usage, stderr), 2;
	return -1;
}

/* Beside polluxd, where both were built or installed, or in ../libexec/pollux. */
static void vm_program_find(struct agent_config *c)
{
	static const char *const places[] = {"pollux-vm", "../libexec/pollux/pollux-vm"};
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *folder;

	if (c->vm_program[0] || n < 0)
		return;
	self[n] = '\0';
	folder = dirname(self);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, places[i]);
		if (access(path, X_OK) || strlen(path) >= sizeof(c->vm_program))
			continue;
		snprintf(c->vm_program, sizeof(c->vm_program), "%.255s", path);
		return;
	}
}

struct signals {
	int fd;
	struct loop *loop;
	struct agent *agent;
};

static void identity_reload(struct agent *a)
{
	struct error e = {0};

	if (agent_identity_reload(a, &e))
		log_error("the certificates stay as they were: %s", e.text);
	else
		log_info("new connections use the certificates as they are now");
}

static void signal_arrived(void *ctx, uint32_t events)
{
	struct signals *s = ctx;
	struct signalfd_siginfo info;

	if (read(s->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP) {
		identity_reload(s->agent);
		return;
	}
	log_info("ends on a signal; VMs go on");
	loop_stop(s->loop);
}

/* Before there is any thread, so that all of them leave these signals to the loop. */
static int signals_open(int *fd)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *fd < 0 ? -errno : 0;
}

/* Standard descriptors are open, so that no other gets their numbers. */
static void descriptors_open(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static int agent_run(const struct agent_config *c, struct error *e)
{
	struct loop_watch *watch = NULL;
	struct signals s = {.fd = -1};
	int rc;

	rc = signals_open(&s.fd);
	if (!rc)
		rc = loop_create(&s.loop);
	if (!rc)
		rc = loop_watch(s.loop, s.fd, EPOLLIN, signal_arrived, &s, &watch);
	if (rc)
		error_set(e, rc, "cannot make the event loop: %s", strerror(-rc));
	if (!rc)
		rc = agent_create(c, s.loop, &s.agent, e);
	thread_hasten();
	if (!rc)
		rc = loop_run(s.loop);
	agent_destroy(s.agent);
	loop_unwatch(watch);
	loop_destroy(s.loop);
	if (s.fd >= 0)
		close(s.fd);
	return rc;
}

/* What it would read when it starts, or is told to read again. */
static int identity_check(const struct agent_config *c, struct error *e)
{
	struct channel_identity *id = NULL;
	int rc = c->ca[0] ? channel_identity_load(c->ca, c->cert, c->key, &id, e) : 0;

	channel_identity_free(id);
	return rc;
}

int main(int argc, char **argv)
{
	struct options o = {.config = AGENT_CONFIG_PATH};
	struct agent_config *c = calloc(1, sizeof(*c));
	struct error e = {0};
	int rc = options_parse(argc, argv, &o);

	if (rc >= 0 || !c) {
		free(c);
		return rc;
	}
	descriptors_open();
	rc = fault_setup(&e);
	if (!rc)
		rc = agent_config_load(o.config, c, &e);
	if (!rc && o.check) {
		rc = identity_check(c, &e);
		if (!rc)
			printf("%s is good\n", o.config);
	}
	if (!rc && !o.check) {
		log_setup("polluxd", c->log_level);
		vm_program_find(c);
		rc = agent_run(c, &e);
	}
	free(c);
	if (rc)
		fprintf(stderr, "polluxd: %s\n", e.text[0] ? e.text : strerror(-rc));
	return rc ? 1 : 0;
}

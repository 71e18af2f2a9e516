// SPDX-License-Identifier: Apache-2.0
// The fence of the lab, as a host sees it, in the calling convention of the fence-agents package:
// options as key=value lines on standard input (action=off, plug=hostb, ...) or as -o/-n.
// It asks the lab's supervisor, outside of all hosts, through a virtio-serial port (a unix
// socket where hosts are namespaces). "off" is
// confirmed only after the emulator of the plug is gone.
//
// Exit code: 0 confirmed (status: on), 2 status: off, 1 anything else.
// Port: request "ID ACTION PLUG\n"; reply "ID ok|on|off|fail [reason]\n".
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PORT_DEFAULT "/dev/pollux-fence"

struct options {
	char action[16];
	char plug[64];
	long timeout_ms;
};

static long clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void option_set(struct options *o, const char *key, const char *value)
{
	if (!strcmp(key, "action") || !strcmp(key, "option"))
		snprintf(o->action, sizeof(o->action), "%s", value);
	else if (!strcmp(key, "plug") || !strcmp(key, "port") || !strcmp(key, "nodename"))
		snprintf(o->plug, sizeof(o->plug), "%s", value);
	else if (!strcmp(key, "power_timeout"))
		o->timeout_ms = atol(value) * 1000;
}

static void options_read_stdin(struct options *o)
{
	char line[256], *eq;

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\r\n")] = '\0';
		eq = strchr(line, '=');
		if (line[0] == '#' || !eq)
			continue;
		*eq = '\0';
		option_set(o, line, eq + 1);
	}
}

static int options_read_args(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "o:n:")) != -1) {
		if (c == '?')
			return -EINVAL;
		option_set(o, c == 'o' ? "action" : "plug", optarg);
	}
	return 0;
}

static int word_safe(const char *s)
{
	return *s &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
		       strlen(s);
}

static int socket_open(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return -errno;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

// A port has one opener at a time: another fencing that is under way is waited for.
static int port_open(long deadline)
{
	const char *path = getenv("POLLUX_FENCE_PORT") ?: PORT_DEFAULT;
	struct termios tio;
	struct stat st;
	int fd;

	if (!stat(path, &st) && S_ISSOCK(st.st_mode))
		return socket_open(path);
	while ((fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY)) < 0) {
		if (errno != EBUSY || clock_ms() >= deadline)
			return -errno;
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	if (!tcgetattr(fd, &tio)) {
		cfmakeraw(&tio);
		tcsetattr(fd, TCSANOW, &tio);
	}
	return fd;
}

static int line_read(int fd, char *line, size_t size, long deadline)
{
	size_t len = 0;

	while (len + 1 < size) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		long left = deadline - clock_ms();

		if (left <= 0 || poll(&p, 1, (int)left) == 0)
			return -ETIMEDOUT;
		if (read(fd, line + len, 1) != 1)
			return -EIO;
		if (line[len] == '\n') {
			line[len] = '\0';
			return 0;
		}
		len++;
	}
	return -EMSGSIZE;
}

// Answers to an earlier asker that gave up carry another id and are passed over.
static int request_ask(int fd, const struct options *o, char *reply, size_t size, long deadline)
{
	char id[17], request[128], line[256];
	unsigned long random = 0;
	int len, rc;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
		random = (unsigned long)getpid() << 32 ^ (unsigned long)clock_ms();
	snprintf(id, sizeof(id), "%016lx", random);
	len = snprintf(request, sizeof(request), "%s %s %s\n", id, o->action,
		       o->plug[0] ? o->plug : "-");
	if (write(fd, request, (size_t)len) != len)
		return -EIO;
	do {
		rc = line_read(fd, line, sizeof(line), deadline);
		if (rc)
			return rc;
	} while (strncmp(line, id, 16) || line[16] != ' ');
	snprintf(reply, size, "%s", line + 17);
	return 0;
}

static int reply_exit_code(const struct options *o, const char *reply)
{
	if (!strcmp(reply, "ok") || !strcmp(reply, "on"))
		return 0;
	if (!strcmp(reply, "off"))
		return 2;
	fprintf(stderr, "fence-lab: %s %s: %s\n", o->action, o->plug, reply);
	return 1;
}

int main(int argc, char **argv)
{
	struct options o = {.action = "off", .timeout_ms = 20000};
	char reply[256];
	long deadline;
	int fd, rc;

	if (argc > 1 && options_read_args(&o, argc, argv))
		return 1;
	if (argc == 1)
		options_read_stdin(&o);
	if (!word_safe(o.action) || (strcmp(o.action, "monitor") && !word_safe(o.plug))) {
		fprintf(stderr, "fence-lab: needs action= and plug=HOST\n");
		return 1;
	}
	deadline = clock_ms() + o.timeout_ms;
	fd = port_open(deadline);
	rc = fd < 0 ? fd : request_ask(fd, &o, reply, sizeof(reply), deadline);
	if (rc) {
		fprintf(stderr, "fence-lab: %s %s: no answer from the lab: %s\n", o.action, o.plug,
			strerror(-rc));
		return 1;
	}
	return reply_exit_code(&o, reply);
}

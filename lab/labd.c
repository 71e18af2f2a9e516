// SPDX-License-Identifier: Apache-2.0
// The exec agent of a lab host: one connection runs one command (see frame.h).
//   labd ADDRESS PORT TOKEN-FILE      an ADDRESS with a slash is a unix socket's path
// Returns to its caller once it listens, having printed its pid and port. A lost connection kills
// the command's process group.
#include "lab/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct job {
	int sock;
	pid_t pid;
	int pidfd;
	int in, out, err; // -1 once closed; with a terminal, in and out are the same file
	bool pty;
	uint8_t *pending; // stdin that the command has not taken yet
	size_t pending_len, pending_off;
	bool eof_pending;
};

static int bytes_write(int fd, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int bytes_read(int fd, void *data, size_t len)
{
	uint8_t *p = data;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int frame_send(int sock, char type, const void *data, uint32_t len)
{
	uint8_t head[FRAME_HEADER] = {(uint8_t)type};
	uint32_t wire = htonl(len);
	int rc;

	memcpy(head + 1, &wire, sizeof(wire));
	rc = bytes_write(sock, head, sizeof(head));
	return rc ? rc : bytes_write(sock, data, len);
}

// The payload is the caller's to free and carries a terminating NUL beyond its length.
static int frame_receive(int sock, char *type, uint8_t **data, uint32_t *len)
{
	uint8_t head[FRAME_HEADER];
	int rc = bytes_read(sock, head, sizeof(head));

	if (rc)
		return rc;
	memcpy(len, head + 1, sizeof(*len));
	*len = ntohl(*len);
	*type = (char)head[0];
	if (*len > FRAME_MAX)
		return -EMSGSIZE;
	*data = calloc(1, *len + 1);
	if (!*data)
		return -ENOMEM;
	rc = bytes_read(sock, *data, *len);
	if (rc)
		free(*data);
	return rc;
}

static struct winsize window_parse(const uint8_t *data)
{
	return (struct winsize){
		.ws_row = (unsigned short)(data[0] << 8 | data[1]),
		.ws_col = (unsigned short)(data[2] << 8 | data[3]),
	};
}

static void command_exec(const char *line)
{
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/sh", "sh", "-c", line, (char *)NULL);
	_exit(127);
}

static int job_spawn_pipes(struct job *job, const char *line)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return -errno;
	job->pid = fork();
	if (job->pid < 0)
		return -errno;
	if (!job->pid) {
		setpgid(0, 0);
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		command_exec(line);
	}
	setpgid(job->pid, job->pid);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	job->in = in[1];
	job->out = out[0];
	job->err = err[0];
	return 0;
}

static int job_spawn_pty(struct job *job, const uint8_t *data, uint32_t len)
{
	struct winsize window;

	if (len < 4)
		return -EBADMSG;
	window = window_parse(data);
	job->pty = true;
	job->err = -1;
	job->pid = forkpty(&job->out, NULL, NULL, &window);
	if (job->pid < 0)
		return -errno;
	if (!job->pid)
		command_exec((const char *)data + 4);
	fcntl(job->out, F_SETFD, FD_CLOEXEC);
	job->in = job->out;
	return 0;
}

static int job_start(struct job *job, char type, const uint8_t *data, uint32_t len)
{
	int rc = type == FRAME_COMMAND ? job_spawn_pipes(job, (const char *)data)
		 : type == FRAME_PTY   ? job_spawn_pty(job, data, len)
				       : -EBADMSG;

	if (rc)
		return rc;
	job->pidfd = pidfd_open(job->pid, 0);
	if (job->pidfd < 0)
		return -errno;
	fcntl(job->in, F_SETFL, O_NONBLOCK);
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	if (job->err >= 0)
		fcntl(job->err, F_SETFL, O_NONBLOCK);
	return 0;
}

static void job_stdin_close(struct job *job)
{
	if (job->in >= 0 && !job->pty)
		close(job->in);
	if (job->in >= 0 && job->pty && job->out >= 0)
		(void)!write(job->in, "\004", 1);
	job->in = -1;
	free(job->pending);
	job->pending = NULL;
}

static void job_stdin_flush(struct job *job)
{
	while (job->in >= 0 && job->pending) {
		ssize_t n = write(job->in, job->pending + job->pending_off,
				  job->pending_len - job->pending_off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			job_stdin_close(job);
			return;
		}
		job->pending_off += (size_t)n;
		if (job->pending_off == job->pending_len) {
			free(job->pending);
			job->pending = NULL;
		}
	}
}

static int job_control(struct job *job)
{
	uint8_t *data;
	uint32_t len;
	char type;
	int rc = frame_receive(job->sock, &type, &data, &len);

	if (rc)
		return rc;
	if (type == FRAME_STDIN && len && job->in >= 0) {
		job->pending = data;
		job->pending_len = len;
		job->pending_off = 0;
		job_stdin_flush(job);
		return 0;
	}
	if (type == FRAME_EOF)
		job_stdin_close(job);
	else if (type == FRAME_WINDOW && len == 4 && job->pty && job->out >= 0) {
		struct winsize window = window_parse(data);

		ioctl(job->out, TIOCSWINSZ, &window);
	} else if (type != FRAME_STDIN && type != FRAME_WINDOW) {
		rc = -EBADMSG;
	}
	free(data);
	return rc;
}

// Returns 1 while there may be more, 0 when nothing is there now or ever, -errno for a lost peer.
static int output_pump(struct job *job, int *fd, char type)
{
	static uint8_t buf[65536];
	ssize_t n = *fd < 0 ? 0 : read(*fd, buf, sizeof(buf));

	if (n > 0) {
		int rc = frame_send(job->sock, type, buf, (uint32_t)n);

		return rc ? rc : 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (*fd >= 0) {
		if (job->pty)
			job->in = -1;
		close(*fd);
		*fd = -1;
	}
	return 0;
}

// Closing a socket with unread input resets the connection, and the exit code with it.
static void input_discard(int sock)
{
	static uint8_t buf[65536];

	shutdown(sock, SHUT_WR);
	while (read(sock, buf, sizeof(buf)) > 0)
		;
}

static int job_finish(struct job *job)
{
	int status = 0, rc;
	uint32_t code;

	waitpid(job->pid, &status, 0);
	while ((rc = output_pump(job, &job->out, FRAME_STDOUT)) > 0)
		;
	while (!rc && (rc = output_pump(job, &job->err, FRAME_STDERR)) > 0)
		rc = 0;
	code = htonl(WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status)
				       : 128u + (uint32_t)WTERMSIG(status));
	if (!rc)
		rc = frame_send(job->sock, FRAME_EXIT, &code, sizeof(code));
	if (!rc)
		input_discard(job->sock);
	return rc;
}

// Reading from the peer stops while the command has not taken what was read: that is the flow
// control, and the reason that a command blocked on its output cannot block its own output.
static int job_run(struct job *job)
{
	for (;;) {
		struct pollfd fds[] = {
			{.fd = job->out, .events = POLLIN},
			{.fd = job->err, .events = POLLIN},
			{.fd = job->pidfd, .events = POLLIN},
			{.fd = job->pending ? -1 : job->sock, .events = POLLIN},
			{.fd = job->pending ? job->in : -1, .events = POLLOUT},
			{.fd = job->sock, .events = POLLRDHUP},
		};
		int rc = 0;

		if (poll(fds, 6, -1) < 0)
			continue;
		if (fds[0].revents)
			rc = output_pump(job, &job->out, FRAME_STDOUT);
		if (rc >= 0 && fds[1].revents)
			rc = output_pump(job, &job->err, FRAME_STDERR);
		if (rc >= 0 && fds[4].revents)
			job_stdin_flush(job);
		if (rc >= 0 && fds[2].revents)
			return job_finish(job);
		if (rc >= 0 && fds[5].revents & (POLLERR | POLLHUP | POLLRDHUP))
			rc = -ECONNRESET;
		else if (rc >= 0 && fds[3].revents)
			rc = job_control(job);
		if (rc < 0) {
			kill(-job->pid, SIGKILL);
			return rc;
		}
	}
}

static bool token_equal(const char *path, const uint8_t *data, uint32_t len)
{
	char want[128] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, want, sizeof(want));
	uint8_t diff = 0;

	if (fd >= 0)
		close(fd);
	if (n <= 0 || (uint32_t)n != len)
		return false;
	for (uint32_t i = 0; i < len; i++)
		diff |= (uint8_t)want[i] ^ data[i];
	return !diff;
}

static int connection_serve(int sock, const char *token)
{
	struct job job = {.sock = sock, .in = -1, .out = -1, .err = -1, .pidfd = -1};
	uint8_t *data;
	uint32_t len;
	char type;
	int rc = frame_receive(sock, &type, &data, &len);

	if (rc)
		return rc;
	rc = type == FRAME_TOKEN && token_equal(token, data, len) ? 0 : -EPERM;
	free(data);
	if (rc)
		return rc;
	rc = frame_receive(sock, &type, &data, &len);
	if (rc)
		return rc;
	rc = job_start(&job, type, data, len);
	free(data);
	return rc ? rc : job_run(&job);
}

static int path_listen(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	unlink(path);
	if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) || listen(sock, 64))
		return -errno;
	return sock;
}

// *port may be 0 and is then told.
static int port_listen(const char *address, uint16_t *port)
{
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(*port)};
	socklen_t len = sizeof(addr);

	if (sock < 0)
		return -errno;
	if (inet_pton(AF_INET, address, &addr.sin_addr) != 1)
		return -EINVAL;
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) || listen(sock, 64) ||
	    getsockname(sock, (struct sockaddr *)&addr, &len))
		return -errno;
	*port = ntohs(addr.sin_port);
	return sock;
}

static void connections_accept(int listener, const char *token)
{
	for (;;) {
		int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (sock < 0)
			continue;
		setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (!fork()) {
			close(listener);
			_exit(connection_serve(sock, token) ? 1 : 0);
		}
		close(sock);
	}
}

// Whoever started us may wait for the end of our output.
static void stdio_close(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
}

int main(int argc, char **argv)
{
	uint16_t port;
	int listener;
	pid_t pid;

	if (argc != 4) {
		fprintf(stderr, "usage: labd ADDRESS PORT TOKEN-FILE\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	port = (uint16_t)atoi(argv[2]);
	listener = strchr(argv[1], '/') ? path_listen(argv[1]) : port_listen(argv[1], &port);
	if (listener < 0) {
		fprintf(stderr, "labd: %s port %s: %s\n", argv[1], argv[2], strerror(-listener));
		return 1;
	}
	pid = fork();
	if (pid) {
		printf("%d %u\n", pid, port);
		return pid < 0;
	}
	setsid();
	stdio_close();
	connections_accept(listener, argv[3]);
}

// SPDX-License-Identifier: Apache-2.0
// The guest's service: a counter that is on disk before anybody is told of it.
//   counter-server PORT DISK
// A request is a line "REQ ID"; the reply is a line "COUNTER ID". "QUIT" ends the server.
// Between the two: the counter is raised and its record (see counter-disk.h) written and flushed.
// Of the guest itself tell: "TIME", a line of CLOCK_MONOTONIC and CLOCK_REALTIME in ns; "LOG", the
// kernel's log with its levels, then the end of the connection. "SAY TEXT" is written to that log;
// the reply is 0 or an errno.
#include "lab/guest/counter-disk.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 16
#define LINE_SIZE   128
#define KLOG_ALL    3 // syslog(2)
#define KLOG_SIZE   10

struct client {
	int fd;
	size_t len;
	char line[LINE_SIZE];
};

struct server {
	int disk, listener;
	uint64_t slots, counter;
	struct client clients[CLIENTS_MAX];
	int nclients;
	bool quit;
};

static int block_write(int fd, uint64_t block, const void *data)
{
	ssize_t n = pwrite(fd, data, COUNTER_BLOCK, (off_t)(block * COUNTER_BLOCK));

	if (n != COUNTER_BLOCK)
		return n < 0 ? -errno : -EIO;
	return fdatasync(fd) ? -errno : 0;
}

static int counter_raise(struct server *s, uint64_t request)
{
	static union counter_block block;
	int rc;

	memset(&block, 0, sizeof(block));
	block.record = (struct counter_record){
		.magic = COUNTER_RECORD_MAGIC, .counter = s->counter + 1, .request = request};
	block.record.checksum = counter_checksum(&block, COUNTER_CHECKED);
	rc = block_write(s->disk, 1 + (s->counter + 1) % s->slots, &block);
	if (!rc)
		s->counter++;
	return rc;
}

// The lower half of the disk is the server's: the upper is there for others to write (guest-load).
static int disk_format(struct server *s)
{
	static union counter_block block;
	off_t size = lseek(s->disk, 0, SEEK_END);

	if (size < 4 * COUNTER_BLOCK)
		return -ENOSPC;
	memset(&block, 0, sizeof(block));
	s->slots = (uint64_t)size / COUNTER_BLOCK / 2 - 1;
	block.header = (struct counter_header){.magic = COUNTER_HEADER_MAGIC, .slots = s->slots};
	block.header.checksum = counter_checksum(&block, COUNTER_CHECKED);
	return block_write(s->disk, 0, &block);
}

static uint64_t slot_counter(const struct server *s, uint64_t slot)
{
	static union counter_block block;

	if (pread(s->disk, &block, COUNTER_BLOCK, (off_t)((1 + slot) * COUNTER_BLOCK)) !=
	    COUNTER_BLOCK)
		return 0;
	return counter_record_valid(&block) && block.record.counter % s->slots == slot
		       ? block.record.counter
		       : 0;
}

// Slots fill in order, round after round: slot 1 tells the current round, and within it the filled
// slots are those that carry its number. Slot 0 belongs to the end of the previous round.
static uint64_t counter_last(const struct server *s)
{
	uint64_t first = slot_counter(s, 1 % s->slots), low = 1, high = s->slots;

	if (!first)
		return 0;
	while (high - low > 1) {
		uint64_t mid = low + (high - low) / 2;

		if (slot_counter(s, mid) == first + mid - 1)
			low = mid;
		else
			high = mid;
	}
	if (low == s->slots - 1 && slot_counter(s, 0) == first + s->slots - 1)
		return first + s->slots - 1;
	return first + low - 1;
}

static int disk_open(struct server *s, const char *path)
{
	static const char zeros[COUNTER_BLOCK];
	static union counter_block block;

	s->disk = open(path, O_RDWR | O_CLOEXEC);
	if (s->disk < 0)
		return -errno;
	if (pread(s->disk, &block, COUNTER_BLOCK, 0) != COUNTER_BLOCK)
		return -EIO;
	if (!memcmp(&block, zeros, COUNTER_BLOCK))
		return disk_format(s);
	if (!counter_header_valid(&block))
		return -EMEDIUMTYPE;
	s->slots = block.header.slots;
	s->counter = counter_last(s);
	return 0;
}

static int all_send(int fd, const char *data, int n)
{
	while (n > 0) {
		ssize_t done = send(fd, data, (size_t)n, MSG_NOSIGNAL);

		if (done < 0)
			return -errno;
		data += done;
		n -= (int)done;
	}
	return n;
}

static int time_tell(int fd)
{
	struct timespec up, day;
	char reply[64];

	clock_gettime(CLOCK_MONOTONIC, &up);
	clock_gettime(CLOCK_REALTIME, &day);
	return all_send(fd, reply,
			snprintf(reply, sizeof(reply), "%lld%09ld %lld%09ld\n",
				 (long long)up.tv_sec, up.tv_nsec, (long long)day.tv_sec,
				 day.tv_nsec));
}

static int log_tell(int fd)
{
	int size = klogctl(KLOG_SIZE, NULL, 0);
	char *text = size > 0 ? malloc((size_t)size) : NULL;

	if (text)
		all_send(fd, text, klogctl(KLOG_ALL, text, size));
	free(text);
	return -EPIPE;
}

static int log_say(int to, const char *text)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC), rc = 0;
	char reply[16], line[LINE_SIZE + 2];
	int len = snprintf(line, sizeof(line), "%s\n", text); // else a reader does not see it yet

	if (fd < 0 || write(fd, line, (size_t)len) < 0)
		rc = errno;
	if (fd >= 0)
		close(fd);
	return all_send(to, reply, snprintf(reply, sizeof(reply), "%d\n", rc));
}

static int request_run(struct server *s, struct client *c, const char *line)
{
	char reply[64];
	uint64_t request;
	char *end;
	int rc, len;

	if (!strcmp(line, "QUIT")) {
		s->quit = true;
		return 0;
	}
	if (!strcmp(line, "TIME"))
		return time_tell(c->fd);
	if (!strcmp(line, "LOG"))
		return log_tell(c->fd);
	if (!strncmp(line, "SAY ", 4))
		return log_say(c->fd, line + 4);
	if (strncmp(line, "REQ ", 4))
		return -EBADMSG;
	request = strtoull(line + 4, &end, 10);
	if (*end || end == line + 4)
		return -EBADMSG;
	rc = counter_raise(s, request);
	if (rc) {
		fprintf(stderr, "counter-server: disk: %s\n", strerror(-rc));
		return rc;
	}
	len = snprintf(reply, sizeof(reply), "%llu %llu\n", (unsigned long long)s->counter,
		       (unsigned long long)request);
	return send(c->fd, reply, (size_t)len, MSG_NOSIGNAL) == len ? 0 : -EPIPE;
}

static int client_read(struct server *s, struct client *c)
{
	ssize_t n = recv(c->fd, c->line + c->len, sizeof(c->line) - 1 - c->len, 0);
	char *end;
	int rc = 0;

	if (n <= 0)
		return -EPIPE;
	c->len += (size_t)n;
	while (!rc && !s->quit && (end = memchr(c->line, '\n', c->len))) {
		*end = '\0';
		rc = request_run(s, c, c->line);
		c->len -= (size_t)(end + 1 - c->line);
		memmove(c->line, end + 1, c->len);
	}
	return !rc && c->len == sizeof(c->line) - 1 ? -EMSGSIZE : rc;
}

static void client_accept(struct server *s)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	if (s->nclients == CLIENTS_MAX) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	s->clients[s->nclients++] = (struct client){.fd = fd};
}

static void server_run(struct server *s)
{
	while (!s->quit) {
		struct pollfd fds[1 + CLIENTS_MAX] = {{.fd = s->listener, .events = POLLIN}};

		for (int i = 0; i < s->nclients; i++)
			fds[1 + i] = (struct pollfd){.fd = s->clients[i].fd, .events = POLLIN};
		if (poll(fds, 1 + (nfds_t)s->nclients, -1) < 0)
			continue;
		// From the end: a client that goes is replaced by the last, already served.
		for (int i = s->nclients - 1; i >= 0; i--) {
			if (!fds[1 + i].revents || !client_read(s, &s->clients[i]))
				continue;
			close(s->clients[i].fd);
			s->clients[i] = s->clients[--s->nclients];
		}
		if (fds[0].revents)
			client_accept(s);
	}
}

static int port_listen(const char *port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	socklen_t len = sizeof(addr);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 16) ||
	    getsockname(fd, (struct sockaddr *)&addr, &len))
		return -errno;
	printf("counter-server: port %u", ntohs(addr.sin_port));
	return fd;
}

int main(int argc, char **argv)
{
	static struct server s;
	int rc;

	if (argc != 3) {
		fprintf(stderr, "usage: counter-server PORT DISK\n");
		return 2;
	}
	rc = disk_open(&s, argv[2]);
	if (rc) {
		fprintf(stderr, "counter-server: %s: %s\n", argv[2], strerror(-rc));
		return 1;
	}
	s.listener = port_listen(argv[1]);
	if (s.listener < 0) {
		fprintf(stderr, "counter-server: port %s: %s\n", argv[1], strerror(-s.listener));
		return 1;
	}
	printf(", counter %llu\n", (unsigned long long)s.counter);
	fflush(stdout);
	server_run(&s);
	return 0;
}

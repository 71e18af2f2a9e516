// SPDX-License-Identifier: Apache-2.0
// The outside observer: one TCP connection to counter-server, requests one after another, and a
// verdict on what came back.
//   counter-client [-n REQUESTS] [-p PACE-MS] [-t SILENCE-S] [-o LOG] ADDRESS[:PORT]
// Ends after REQUESTS (0: none is the last), on SIGTERM or SIGINT (then the reply under way is
// awaited still), or when no reply came for SILENCE-S. Times are CLOCK_MONOTONIC in ns; the log's
// first line and the verdict tell the offset to CLOCK_REALTIME.
// Log: "ID SENT REPLIED COUNTER" a line, "ID SENT - -" for a request without a reply.
// Exit code: 0 all as it should be, 1 not, 2 usage or no connection.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINE_SIZE 128

struct observer {
	int sock;
	FILE *log;
	uint64_t wanted;
	long pace_ms, silence_ms;
	char buf[LINE_SIZE];
	size_t len;

	uint64_t requests, replies, first, last;
	int64_t realtime_offset, reply_at, gap, gap_start, gap_end;
	const char *connection, *order;
};

static volatile sig_atomic_t stop;

static void stop_set(int number)
{
	(void)number;
	stop = 1;
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int address_parse(const char *text, struct sockaddr_in *addr)
{
	char host[64];
	const char *colon = strchr(text, ':');
	long port = colon ? strtol(colon + 1, NULL, 10) : 7;

	snprintf(host, sizeof(host), "%.*s", colon ? (int)(colon - text) : (int)strlen(text), text);
	*addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return port > 0 && port < 65536 && inet_pton(AF_INET, host, &addr->sin_addr) == 1 ? 0
											  : -EINVAL;
}

static int observer_connect(struct observer *o, const char *address)
{
	struct sockaddr_in addr;
	int rc = address_parse(address, &addr), one = 1;

	if (rc)
		return rc;
	o->sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (o->sock < 0)
		return -errno;
	setsockopt(o->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return connect(o->sock, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
}

static void gap_note(struct observer *o, int64_t now)
{
	if (now - o->reply_at > o->gap) {
		o->gap = now - o->reply_at;
		o->gap_start = o->reply_at;
		o->gap_end = now;
	}
}

static const char *connection_fault(int error)
{
	return error == ECONNRESET || error == EPIPE ? "reset"
	       : error == ETIMEDOUT                  ? "timeout"
						     : "lost";
}

// The next line into `line`; 0, or -errno with o->connection saying what ended it.
static int line_receive(struct observer *o, char line[LINE_SIZE])
{
	int64_t deadline = clock_ns(CLOCK_MONOTONIC) + o->silence_ms * INT64_C(1000000);
	char *end;

	while (!(end = memchr(o->buf, '\n', o->len))) {
		struct pollfd p = {.fd = o->sock, .events = POLLIN};
		int64_t left = deadline - clock_ns(CLOCK_MONOTONIC);
		ssize_t n;

		if (left <= 0 || o->len == sizeof(o->buf)) {
			o->connection = left <= 0 ? "silent" : "garbage";
			return -ETIMEDOUT;
		}
		if (poll(&p, 1, (int)(left / 1000000) + 1) <= 0)
			continue;
		n = recv(o->sock, o->buf + o->len, sizeof(o->buf) - o->len, 0);
		if (n <= 0) {
			o->connection = n ? connection_fault(errno) : "closed";
			return n ? -errno : -EPIPE;
		}
		o->len += (size_t)n;
	}
	*end = '\0';
	memcpy(line, o->buf, (size_t)(end + 1 - o->buf));
	o->len -= (size_t)(end + 1 - o->buf);
	memmove(o->buf, end + 1, o->len);
	return 0;
}

static const char *counter_fault(const struct observer *o, uint64_t counter)
{
	if (!o->replies || counter == o->last + 1)
		return NULL;
	return counter > o->last ? "skipped" : counter == o->last ? "repeated" : "rolled back";
}

static void reply_judge(struct observer *o, const char *line, uint64_t id, int64_t sent)
{
	int64_t now = clock_ns(CLOCK_MONOTONIC);
	unsigned long long counter, echoed;
	const char *fault;
	char rest;

	if (sscanf(line, "%llu %llu%c", &counter, &echoed, &rest) != 2) {
		o->order = "garbage";
		return;
	}
	fault = echoed != id ? "reply to another request" : counter_fault(o, counter);
	if (fault && !strcmp(o->order, "ok"))
		o->order = fault;
	if (!o->replies)
		o->first = counter;
	gap_note(o, now);
	o->reply_at = now;
	o->last = counter;
	o->replies++;
	if (o->log)
		fprintf(o->log, "%llu %lld %lld %llu\n", (unsigned long long)id, (long long)sent,
			(long long)now, counter);
}

static int request_make(struct observer *o)
{
	char line[LINE_SIZE];
	uint64_t id = o->requests + 1;
	int64_t sent = clock_ns(CLOCK_MONOTONIC);
	int len = snprintf(line, sizeof(line), "REQ %llu\n", (unsigned long long)id), rc = 0;

	o->requests++;
	if (send(o->sock, line, (size_t)len, MSG_NOSIGNAL) != len) {
		o->connection = connection_fault(errno);
		rc = -EPIPE;
	}
	if (!rc)
		rc = line_receive(o, line);
	if (!rc)
		reply_judge(o, line, id, sent);
	else if (o->log)
		fprintf(o->log, "%llu %lld - -\n", (unsigned long long)id, (long long)sent);
	if (o->log)
		fflush(o->log);
	return rc;
}

// A second answer to one request, or the end of the connection, may come while nothing is asked.
static void quiet_check(struct observer *o)
{
	char byte;
	ssize_t n = recv(o->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (o->len || n > 0)
		o->order = strcmp(o->order, "ok") ? o->order : "reply that nobody asked for";
	else if (!n || errno != EAGAIN)
		o->connection = n ? connection_fault(errno) : "closed";
}

static void observer_run(struct observer *o)
{
	o->reply_at = clock_ns(CLOCK_MONOTONIC);
	while (!stop && (!o->wanted || o->requests < o->wanted)) {
		if (request_make(o))
			break;
		quiet_check(o);
		if (strcmp(o->connection, "intact"))
			break;
		if (o->pace_ms)
			nanosleep(&(struct timespec){.tv_sec = o->pace_ms / 1000,
						     .tv_nsec = o->pace_ms % 1000 * 1000000},
				  NULL);
	}
	if (o->requests != o->replies)
		gap_note(o, clock_ns(CLOCK_MONOTONIC));
}

static bool verdict_print(const struct observer *o)
{
	bool good = o->replies && o->requests == o->replies && !strcmp(o->connection, "intact") &&
		    !strcmp(o->order, "ok");

	printf("{\"verdict\": \"%s\", \"requests\": %llu, \"replies\": %llu, "
	       "\"first_counter\": %llu, \"last_counter\": %llu, \"longest_gap_ms\": %.3f, "
	       "\"gap_start_ns\": %lld, \"gap_end_ns\": %lld, \"realtime_offset_ns\": %lld, "
	       "\"connection\": \"%s\", \"order\": \"%s\"}\n",
	       good ? "ok" : "bad", (unsigned long long)o->requests, (unsigned long long)o->replies,
	       (unsigned long long)o->first, (unsigned long long)o->last, (double)o->gap / 1e6,
	       (long long)o->gap_start, (long long)o->gap_end, (long long)o->realtime_offset,
	       o->connection, o->order);
	return good;
}

static int options_parse(struct observer *o, int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "n:p:t:o:")) != -1) {
		if (c == 'n')
			o->wanted = strtoull(optarg, NULL, 10);
		else if (c == 'p')
			o->pace_ms = strtol(optarg, NULL, 10);
		else if (c == 't')
			o->silence_ms = (long)(strtod(optarg, NULL) * 1000);
		else if (c != 'o' || !(o->log = fopen(optarg, "we")))
			return -EINVAL;
	}
	return optind + 1 == argc ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct observer o = {.silence_ms = 60000, .connection = "intact", .order = "ok"};
	struct sigaction act = {.sa_handler = stop_set};
	bool good;
	int rc;

	if (options_parse(&o, argc, argv)) {
		fprintf(stderr, "usage: counter-client [-n REQUESTS] [-p PACE-MS] [-t SILENCE-S] "
				"[-o LOG] ADDRESS[:PORT]\n");
		return 2;
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	o.realtime_offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
	rc = observer_connect(&o, argv[optind]);
	if (rc) {
		fprintf(stderr, "counter-client: %s: %s\n", argv[optind], strerror(-rc));
		return 2;
	}
	if (o.log)
		fprintf(o.log, "# counter-client realtime_offset_ns %lld\n",
			(long long)o.realtime_offset);
	observer_run(&o);
	good = verdict_print(&o);
	if (o.log && fclose(o.log)) {
		perror("counter-client: log");
		return 1;
	}
	return good ? 0 : 1;
}

// SPDX-License-Identifier: Apache-2.0
// How long an address is silent: one ICMP echo request after another, whether answered or not, so
// that what shows is the network's silence and not the patience of a TCP.
//   echo-probe [-i INTERVAL-MS] ADDRESS
// Ends on SIGTERM or SIGINT and prints the longest time between two replies. Times are
// CLOCK_MONOTONIC in ns; the offset to CLOCK_REALTIME is told. RFC 792.
// Exit code: 0 replies came, 1 none, 2 usage or no socket.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)

struct probe {
	int sock;
	struct sockaddr_in to;
	uint16_t id;
	uint64_t requests, replies;
	int64_t reply_at, gap, gap_start, gap_end;
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

static uint16_t checksum(const void *data, size_t n)
{
	const uint16_t *word = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < n / 2; i++)
		sum += word[i];
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint16_t) ~(sum + (sum >> 16));
}

/* A request that cannot be sent (nobody answers ARP) is a lost one. */
static void request_send(struct probe *p)
{
	struct icmphdr h = {
		.type = ICMP_ECHO,
		.un.echo = {.id = htons(p->id), .sequence = htons((uint16_t)p->requests)}};

	h.checksum = checksum(&h, sizeof(h));
	(void)!sendto(p->sock, &h, sizeof(h), MSG_DONTWAIT, (struct sockaddr *)&p->to,
		      sizeof(p->to));
	p->requests++;
}

static void reply_note(struct probe *p, int64_t now)
{
	if (p->replies && now - p->reply_at > p->gap) {
		p->gap = now - p->reply_at;
		p->gap_start = p->reply_at;
		p->gap_end = now;
	}
	p->reply_at = now;
	p->replies++;
}

static void packet_take(struct probe *p)
{
	struct {
		struct iphdr ip; /* options would make it someone else's */
		struct icmphdr icmp;
		uint8_t rest[512];
	} packet;
	ssize_t n = recv(p->sock, &packet, sizeof(packet), MSG_DONTWAIT);

	if (n >= (ssize_t)(sizeof(packet.ip) + sizeof(packet.icmp)) && packet.ip.ihl == 5 &&
	    packet.icmp.type == ICMP_ECHOREPLY && ntohs(packet.icmp.un.echo.id) == p->id &&
	    packet.ip.saddr == p->to.sin_addr.s_addr)
		reply_note(p, clock_ns(CLOCK_MONOTONIC));
}

static void probe_run(struct probe *p, int64_t interval)
{
	int64_t next = clock_ns(CLOCK_MONOTONIC);

	while (!stop) {
		struct pollfd in = {.fd = p->sock, .events = POLLIN};
		int64_t left = next - clock_ns(CLOCK_MONOTONIC);
		struct timespec wait = {.tv_nsec = left};

		if (left <= 0) {
			request_send(p);
			next += interval;
		} else if (ppoll(&in, 1, &wait, NULL) > 0) {
			packet_take(p);
		}
	}
}

static int options_parse(struct probe *p, int argc, char **argv, int64_t *interval)
{
	int c;

	while ((c = getopt(argc, argv, "i:")) != -1) {
		if (c != 'i')
			return -EINVAL;
		*interval = strtol(optarg, NULL, 10) * NS_PER_MS;
	}
	p->to.sin_family = AF_INET;
	return optind + 1 == argc && *interval > 0 && *interval < 1000 * NS_PER_MS &&
			       inet_pton(AF_INET, argv[optind], &p->to.sin_addr) == 1
		       ? 0
		       : -EINVAL;
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = stop_set};
	struct probe p = {.id = (uint16_t)getpid()};
	int64_t interval = 5 * NS_PER_MS;

	if (options_parse(&p, argc, argv, &interval)) {
		fprintf(stderr, "usage: echo-probe [-i INTERVAL-MS (1-999)] ADDRESS\n");
		return 2;
	}
	p.sock = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	if (p.sock < 0) {
		perror("echo-probe: ICMP socket");
		return 2;
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	probe_run(&p, interval);
	printf("{\"requests\": %llu, \"replies\": %llu, \"longest_gap_ms\": %.3f, "
	       "\"gap_start_ns\": %lld, \"gap_end_ns\": %lld, \"realtime_offset_ns\": %lld}\n",
	       (unsigned long long)p.requests, (unsigned long long)p.replies, (double)p.gap / 1e6,
	       (long long)p.gap_start, (long long)p.gap_end,
	       (long long)(clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC)));
	return p.replies ? 0 : 1;
}

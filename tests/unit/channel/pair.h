// SPDX-License-Identifier: Apache-2.0
/* Two ends of a channel, handshaken on two threads, for the tests of this folder. */
#ifndef TESTS_CHANNEL_PAIR_H
#define TESTS_CHANNEL_PAIR_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/tls.h"

#define SOON (clock_ns() + 20 * NS_PER_SEC)

struct pair_side {
	int fd;
	struct channel_auth auth;
	struct channel *channel;
	struct error error;
	int rc;
};

static inline void *pair_accept(void *arg)
{
	struct pair_side *s = arg;

	s->rc = channel_accept(s->fd, &s->auth, SOON, &s->channel, &s->error);
	return NULL;
}

/* Runs both handshakes; the caller looks at rc of both sides. */
static inline void pair_handshake(struct pair_side *client, struct pair_side *server)
{
	pthread_t t;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	client->fd = fds[0];
	server->fd = fds[1];
	assert_int_equal(thread_start(&t, "accept", pair_accept, server), 0);
	client->rc =
		channel_connect(client->fd, &client->auth, SOON, &client->channel, &client->error);
	pthread_join(t, NULL);
}

static inline struct channel_auth pair_psk(void)
{
	struct channel_auth a = {.stream = 3};

	memset(a.session, 7, sizeof(a.session));
	memset(a.key, 9, sizeof(a.key));
	return a;
}

static inline void pair_open(struct pair_side *client, struct pair_side *server)
{
	*client = (struct pair_side){.auth = pair_psk()};
	*server = (struct pair_side){.auth = pair_psk()};
	pair_handshake(client, server);
	assert_int_equal(client->rc, 0);
	assert_int_equal(server->rc, 0);
}

static inline void pair_close(struct pair_side *client, struct pair_side *server)
{
	channel_close(client->channel);
	channel_close(server->channel);
}

static inline int send_bytes(struct channel *c, uint16_t type, const void *data, size_t n)
{
	struct iovec v = {(void *)data, n};

	return channel_send(c, type, 0, &v, 1, SOON);
}

#endif

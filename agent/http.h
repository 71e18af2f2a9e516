// SPDX-License-Identifier: Apache-2.0
/* HTTP on a unix socket, on the loop's thread: libmicrohttpd's epoll inside ours. */
#ifndef POLLUX_AGENT_HTTP_H
#define POLLUX_AGENT_HTTP_H

#include "base/base.h"

#define HTTP_BODY_MAX (256u * 1024)

struct http;

struct http_request {
	const char *method, *path;
	const char *body; /* ends with a zero that body_len does not count */
	size_t body_len;
};
struct http_reply {
	unsigned status;
	const char *type; /* static */
	char *body;       /* from malloc(); taken over */
};
typedef void http_fn(void *ctx, const struct http_request *q, struct http_reply *out);

/* `fd` is a listening socket and is taken over, also on failure. */
int http_create(struct loop *l, int fd, http_fn *fn, void *ctx, struct http **out,
		struct error *e) MUST_CHECK;
void http_destroy(struct http *h);

#endif

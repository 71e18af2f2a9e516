// SPDX-License-Identifier: Apache-2.0
#include "agent/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LOG_MODULE      "http"
#define CONNECTIONS_MAX 64
#define IDLE_S          30

struct http {
	struct loop *loop;
	struct MHD_Daemon *daemon;
	struct loop_watch *watch;
	struct loop_timer *timer;
	http_fn *fn;
	void *ctx;
};

struct body {
	struct buf data;
	bool too_long;
};

static enum MHD_Result reply_send(struct MHD_Connection *c, struct http_reply *r)
{
	struct MHD_Response *response;
	enum MHD_Result sent;

	if (!r->body) {
		r->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
		r->body = strdup("{\"error\": \"out of memory\"}");
	}
	if (!r->body)
		return MHD_NO;
	response = MHD_create_response_from_buffer(strlen(r->body), r->body, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(r->body);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type", r->type);
	sent = MHD_queue_response(c, r->status, response);
	MHD_destroy_response(response);
	return sent;
}

static void body_add(struct body *b, const char *data, size_t n)
{
	if (b->data.len + n > HTTP_BODY_MAX)
		b->too_long = true;
	else
		buf_put(&b->data, data, n);
}

static enum MHD_Result request_end(struct http *h, struct MHD_Connection *c, const char *path,
				   const char *method, struct body *b)
{
	struct http_reply reply = {.status = MHD_HTTP_OK, .type = "application/json"};
	struct http_request q = {.method = method, .path = path};

	if (b->too_long) {
		reply.status = MHD_HTTP_CONTENT_TOO_LARGE;
		reply.body = strdup(
			"{\"error\": \"the request is longer than 256 KiB\", \"hint\": \"\"}");
		return reply_send(c, &reply);
	}
	buf_put_u8(&b->data, 0);
	if (!buf_check(&b->data)) {
		q.body = (const char *)b->data.data;
		q.body_len = b->data.len - 1;
		h->fn(h->ctx, &q, &reply);
	}
	return reply_send(c, &reply);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *path,
				  const char *method, const char *version, const char *data,
				  size_t *size, void **request)
{
	struct body *b = *request;

	if (!b) {
		b = calloc(1, sizeof(*b));
		*request = b;
		return b ? MHD_YES : MHD_NO;
	}
	if (*size) {
		body_add(b, data, *size);
		*size = 0;
		return MHD_YES;
	}
	return request_end(ctx, c, path, method, b);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **request,
			 enum MHD_RequestTerminationCode why)
{
	struct body *b = *request;

	if (!b)
		return;
	buf_free(&b->data);
	free(b);
	*request = NULL;
}

static void daemon_run(struct http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	if (MHD_run(h->daemon) == MHD_NO)
		log_error("libmicrohttpd cannot go on");
	if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
		loop_timer_set(h->timer, clock_ns() + (ms + 1) * NS_PER_MS);
	else
		loop_timer_set(h->timer, 0);
}

static void daemon_ready(void *ctx, uint32_t events)
{
	daemon_run(ctx);
}

static void daemon_timeout(void *ctx)
{
	daemon_run(ctx);
}

static int daemon_watch(struct http *h)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	int rc;

	if (!info)
		return -EOPNOTSUPP;
	rc = loop_timer(h->loop, daemon_timeout, h, &h->timer);
	if (!rc)
		rc = loop_watch(h->loop, info->epoll_fd, EPOLLIN, daemon_ready, h, &h->watch);
	return rc;
}

int http_create(struct loop *l, int fd, http_fn *fn, void *ctx, struct http **out, struct error *e)
{
	struct http *h = calloc(1, sizeof(*h));
	int rc;

	if (!h) {
		close(fd);
		return error_set(e, -ENOMEM, "out of memory");
	}
	*h = (struct http){.loop = l, .fn = fn, .ctx = ctx};
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, h,
				     MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
				     on_completed, h, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
				     MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_END);
	if (!h->daemon) {
		close(fd);
		free(h);
		return error_set(e, -EIO, "cannot start the HTTP server");
	}
	rc = daemon_watch(h);
	if (rc) {
		http_destroy(h);
		return error_set(e, rc, "cannot watch the API's socket: %s", strerror(-rc));
	}
	*out = h;
	return 0;
}

void http_destroy(struct http *h)
{
	if (!h)
		return;
	loop_unwatch(h->watch);
	loop_timer_free(h->timer);
	MHD_stop_daemon(h->daemon);
	free(h);
}

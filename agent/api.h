// SPDX-License-Identifier: Apache-2.0
/* The API of docs/api.md: from a request to a reply, by a table of routes. */
#ifndef POLLUX_AGENT_API_H
#define POLLUX_AGENT_API_H

#include "agent/host.h"
#include "agent/http.h"

void api_handle(void *agent, const struct http_request *q, struct http_reply *out);
/* Prometheus text format; from malloc(), or NULL. */
char *metrics_text(struct agent *a);

#endif

// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "cli/cli.h"

#define REPLY_MAX  (16u << 20)
#define TIMEOUT_MS 60000L /* a host may be very busy; a second Ctrl-C is faster */
#define CONNECT_MS 10000L

const char *json_word(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

json_int_t json_number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* --socket, $POLLUX_SOCKET, what the configuration says, or the default. */
static int socket_path(const struct invocation *v, char *out, size_t size)
{
	const char *given = invocation_value(v, "socket");
	const char *file = invocation_value(v, "config");
	struct agent_config *c;
	struct error e = {0};
	int rc = EXIT_OK;

	if (!given)
		given = getenv("POLLUX_SOCKET");
	snprintf(out, size, "%s", given && *given ? given : AGENT_SOCKET_PATH);
	if ((given && *given) || (!file && access(AGENT_CONFIG_PATH, R_OK)))
		return EXIT_OK;
	c = calloc(1, sizeof(*c));
	if (!c)
		return EXIT_FAILED;
	if (agent_config_load(file ? file : AGENT_CONFIG_PATH, c, &e)) {
		complain("%s", e.text);
		rc = EXIT_USAGE;
	} else {
		snprintf(out, size, "%s/polluxd.sock", c->run_dir);
	}
	free(c);
	return rc;
}

static size_t reply_take(char *data, size_t one, size_t n, void *ctx)
{
	struct buf *b = ctx;

	if (b->len + n > REPLY_MAX)
		return 0;
	buf_put(b, data, n);
	return n;
}

struct exchange {
	char socket[256];
	const char *method;
	char url[256];
	char *body;
	struct buf reply;
	long status;
};

static CURLcode exchange_run(struct exchange *x)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
	CURL *curl = curl_easy_init();
	CURLcode rc = CURLE_OUT_OF_MEMORY;

	if (!curl || !headers)
		goto out_curl;
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, x->socket);
	curl_easy_setopt(curl, CURLOPT_URL, x->url);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, x->method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, reply_take);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &x->reply);
	if (x->body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, x->body);
	rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &x->status);
out_curl:
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	return rc;
}

static int refusal_print(const struct exchange *x, const json_t *reply)
{
	const char *error = json_word(reply, "error"), *hint = json_word(reply, "hint");
	json_t *reasons = json_object_get(reply, "reasons");

	if (*error)
		complain("%s", error);
	else
		complain("polluxd answered with HTTP status %ld", x->status);
	if (*hint)
		complain("%s", hint);
	failure_reasons(reasons);
	if (json_array_size(reasons) > 1) /* one has been told */
		reasons_remark(reasons);
	if (x->status == 400)
		return EXIT_USAGE;
	return x->status < 500 ? EXIT_REFUSED : EXIT_FAILED;
}

static int exchange_judge(const struct exchange *x, CURLcode curl, json_t **out)
{
	json_error_t je;

	if (curl == CURLE_COULDNT_CONNECT || curl == CURLE_OPERATION_TIMEDOUT) {
		complain("polluxd cannot be reached on %s: %s", x->socket,
			 curl_easy_strerror(curl));
		complain("is it running (systemctl status polluxd), and may you use its socket?");
		return EXIT_NO_AGENT;
	}
	if (curl == CURLE_GOT_NOTHING || curl == CURLE_RECV_ERROR || curl == CURLE_SEND_ERROR) {
		complain("polluxd has ended the connection: %s", curl_easy_strerror(curl));
		complain("was it restarted? see its log");
		return EXIT_NO_AGENT;
	}
	if (curl != CURLE_OK) {
		complain("the request to polluxd failed: %s", curl_easy_strerror(curl));
		return EXIT_FAILED;
	}
	*out = json_loadb((const char *)x->reply.data, x->reply.len, 0, &je);
	if (!*out) {
		complain("polluxd's answer is not JSON: %s", je.text);
		return EXIT_FAILED;
	}
	if (x->status < 400)
		return EXIT_OK;
	return refusal_print(x, *out);
}

int api_call(const struct invocation *v, const char *method, const char *path, json_t *body,
	     json_t **out)
{
	struct exchange x = {.method = method};
	int rc = EXIT_FAILED;

	*out = NULL;
	x.body = body ? json_dumps(body, JSON_COMPACT) : NULL;
	if (body && !x.body)
		complain("out of memory");
	else
		rc = socket_path(v, x.socket, sizeof(x.socket));
	json_decref(body);
	snprintf(x.url, sizeof(x.url), "http://localhost%s", path);
	if (!rc)
		rc = exchange_judge(&x, exchange_run(&x), out);
	if (rc) {
		json_decref(*out);
		*out = NULL;
	}
	free(x.body);
	buf_free(&x.reply);
	return rc;
}

int api_vm_call(const struct invocation *v, const char *method, const char *vm, const char *tail,
		json_t *body, json_t **out)
{
	char path[192];

	*out = NULL;
	for (const char *at = vm; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("-_.", *at)) {
			complain("'%s' is not a VM's name: letters, digits, '-', '_' and '.' only",
				 vm);
			json_decref(body);
			return EXIT_USAGE;
		}
	snprintf(path, sizeof(path), "/v1/vms/%.63s%s", vm, tail);
	return api_call(v, method, path, body, out);
}

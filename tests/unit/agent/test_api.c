// SPDX-License-Identifier: Apache-2.0
/* The API over its real socket: a client that does not keep the rules is answered or
 * dropped, and the next one is served. The port, likewise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/acceptor.h"
#include "agent/guest.h"
#include "agent/host.h"
#include "agent/http.h"
#include "tests/unit/agent/ports.h"

static struct loop *loop;
static struct agent *agent;
static char folder[48];
static struct agent_config config;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int setup(void **state)
{
	struct error e = {0};

	snprintf(folder, sizeof(folder), "/tmp/pollux-api-XXXXXX");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(pki_create_ca(folder, "test-ca", 1, &e), 0);
	assert_int_equal(pki_issue(folder, "hosta", "peer", 1, &e), 0);
	config = (struct agent_config){.name = "hosta",
				       .port = port_choose(),
				       .heartbeat_ns = 50 * NS_PER_MS,
				       .loss_ns = NS_PER_SEC,
				       .address = "127.0.0.1"};
	snprintf(config.state_dir, sizeof(config.state_dir), "%s/state", folder);
	snprintf(config.run_dir, sizeof(config.run_dir), "%s/run", folder);
	snprintf(config.ca, sizeof(config.ca), "%s/ca.crt", folder);
	snprintf(config.cert, sizeof(config.cert), "%s/hosta.crt", folder);
	snprintf(config.key, sizeof(config.key), "%s/hosta.key", folder);
	assert_int_equal(loop_create(&loop), 0);
	if (agent_create(&config, loop, &agent, &e))
		fail_msg("%s", e.text);
	return 0;
}

static int teardown(void **state)
{
	agent_destroy(agent);
	loop_destroy(loop);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static int api_connect(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/run/polluxd.sock", folder);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* Until the other side closes, or `enough` has come. Returns bytes read. */
static size_t reply_read(int fd, char *out, size_t size, const char *enough)
{
	uint64_t until = clock_ns() + 10 * NS_PER_SEC;
	size_t got = 0;

	out[0] = '\0';
	while (got + 1 < size && clock_ns() < until && (!enough || !strstr(out, enough))) {
		ssize_t n = read(fd, out + got, size - 1 - got);

		if (!n || (n < 0 && errno != EAGAIN))
			break;
		got += n > 0 ? (size_t)n : 0;
		out[got] = '\0';
		assert_int_equal(loop_step(loop, 5), 0);
	}
	return got;
}

static void write_all(int fd, const void *data, size_t n)
{
	const char *at = data;

	while (n) {
		ssize_t put = send(fd, at, n, MSG_NOSIGNAL);

		if (put < 0 && errno != EAGAIN)
			return; /* it had enough of us */
		if (put > 0) {
			at += put;
			n -= (size_t)put;
		}
		assert_int_equal(loop_step(loop, 0), 0);
	}
}

static unsigned status_of(const char *reply)
{
	unsigned status = 0;

	return sscanf(reply, "HTTP/1.%*c %u", &status) == 1 ? status : 0;
}

static unsigned request(const char *method, const char *path, const char *body, char *out,
			size_t size)
{
	char head[1024];
	int fd = api_connect(), n;

	n = snprintf(head, sizeof(head),
		     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
		     "Content-Length: %zu\r\n\r\n",
		     method, path, strlen(body));
	write_all(fd, head, (size_t)n);
	write_all(fd, body, strlen(body));
	(void)reply_read(fd, out, size, NULL);
	close(fd);
	return status_of(out);
}

static void still_serves(void)
{
	char out[4096];

	assert_int_equal(request("GET", "/v1/host", "", out, sizeof(out)), 200);
	assert_non_null(strstr(out, "hosta"));
}

static void test_plain(void **state)
{
	static char out[65536];

	still_serves();
	assert_int_equal(request("GET", "/v1/vms", "", out, sizeof(out)), 200);
	assert_int_equal(request("GET", "/v1/peers", "", out, sizeof(out)), 200);
	assert_int_equal(request("GET", "/metrics", "", out, sizeof(out)), 200);
	assert_non_null(strstr(out, "# TYPE pollux_failovers_total counter"));
	assert_non_null(strstr(out, "text/plain"));
}

static const struct {
	const char *method, *path, *body;
	unsigned status;
} wrong[] = {
	{"GET", "/", "", 404},
	{"GET", "/v1/vms/", "", 404},
	{"GET", "/v1/vms/nobody", "", 404},
	{"GET", "/v1/vms/../../etc/passwd", "", 404},
	{"GET", "/v1/vms/a%2fb", "", 404},
	{"GET", "/v1/vms/a/b/c", "", 404},
	{"POST", "/v1/vms/nobody/protect", "{\"to\":\"x\"}", 404},
	{"POST", "/v1/host", "", 405},
	{"DELETE", "/v1/vms", "", 405},
	{"GET", "/v1/vms/nobody/stop", "", 405},
	{"POST", "/v1/vms", "", 400},
	{"POST", "/v1/vms", "{", 400},
	{"POST", "/v1/vms", "[]", 400},
	{"POST", "/v1/vms", "7", 400},
	{"POST", "/v1/vms", "{\"config\": 7}", 400},
	{"POST", "/v1/vms", "{\"config\": \"\"}", 400},
	{"POST", "/v1/vms", "{\"config\": \"name = \\\"x\\\";\", \"surprise\": 1}", 400},
	{"POST", "/v1/vms", "{\"config\": \"a\", \"config\": \"b\"}", 400},
	{"POST", "/v1/vms", "{\"config\": \"a\", \"force\": 1}", 400},
	{"POST", "/v1/vms", "{\"config\": \"a\\u0000b\"}", 400},
	{"POST", "/v1/vms", "\xff\xfe{}", 400},
};

static void test_wrong_requests(void **state)
{
	char out[4096];

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		unsigned status =
			request(wrong[i].method, wrong[i].path, wrong[i].body, out, sizeof(out));

		if (status != wrong[i].status)
			fail_msg("%s %s %s: %u instead of %u", wrong[i].method, wrong[i].path,
				 wrong[i].body, status, wrong[i].status);
		assert_non_null(strstr(out, "\"error\""));
		assert_non_null(strstr(out, "\"hint\""));
	}
	assert_int_equal(agent->guest_count, 0);
	still_serves();
}

static void test_deep_json(void **state)
{
	char body[20001], out[4096];

	memset(body, '[', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	assert_int_equal(request("POST", "/v1/vms", body, out, sizeof(out)), 400);
	still_serves();
}

static void test_long_body(void **state)
{
	size_t size = HTTP_BODY_MAX + 1000;
	char *body = malloc(size + 1), out[4096];

	memset(body, ' ', size);
	body[size] = '\0';
	assert_int_equal(request("POST", "/v1/vms", body, out, sizeof(out)), 413);
	free(body);
	still_serves();
}

static const char *const rubbish[] = {
	"\r\n\r\n",
	"GET\r\n\r\n",
	"GET /v1/host HTTP/9.9\r\n\r\n",
	"GET /v1/host HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
	"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
	"POST /v1/vms HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
};

static void test_rubbish(void **state)
{
	char out[4096], *line = malloc(100000);
	int fd;

	for (size_t i = 0; i < ARRAY_LEN(rubbish); i++) {
		fd = api_connect();
		write_all(fd, rubbish[i], strlen(rubbish[i]));
		shutdown(fd, SHUT_WR);
		(void)reply_read(fd, out, sizeof(out), NULL);
		assert_int_not_equal(status_of(out), 200);
		close(fd);
		still_serves();
	}
	memset(line, 'a', 100000);
	fd = api_connect();
	write_all(fd, "GET /", 5);
	write_all(fd, line, 100000);
	(void)reply_read(fd, out, sizeof(out), "\r\n\r\n");
	assert_int_not_equal(status_of(out), 200);
	close(fd);
	free(line);
	still_serves();
}

/* Half a request, held open, by as many as there may be: others are served as long as
 * there is room, and again when the slow ones have gone. */
static void test_slow_clients(void **state)
{
	int fds[40];

	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = api_connect();
		write_all(fds[i], "GET /v1/ho", 10);
	}
	still_serves();
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	still_serves();
}

/* ---- the port ---------------------------------------------------------------------------- */

static int port_connect(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(config.port),
				.sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

static bool closed_by_agent(int fd)
{
	uint64_t until = clock_ns() + 10 * NS_PER_SEC;
	char byte;

	while (clock_ns() < until) {
		ssize_t n = read(fd, &byte, 1);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return true;
		assert_int_equal(loop_step(loop, 5), 0);
	}
	return false;
}

static void test_bad_preambles(void **state)
{
	uint8_t bytes[PREAMBLE_SIZE];
	const struct preamble unknown = {.kind = PREAMBLE_DATA, .session = {1, 2, 3}};
	int fd;

	memset(bytes, 0xa5, sizeof(bytes));
	fd = port_connect();
	write_all(fd, bytes, sizeof(bytes));
	assert_true(closed_by_agent(fd));
	close(fd);
	assert_int_equal(acceptor_refused(agent->acceptor), 1);

	/* A session that nobody here waits for. */
	preamble_encode(&unknown, bytes);
	fd = port_connect();
	write_all(fd, bytes, sizeof(bytes));
	assert_true(closed_by_agent(fd));
	close(fd);

	/* The end before there is a whole preamble. */
	fd = port_connect();
	write_all(fd, bytes, 5);
	shutdown(fd, SHUT_WR);
	assert_true(closed_by_agent(fd));
	close(fd);
	assert_int_equal(acceptor_waiting(agent->acceptor), 0);
	still_serves();
}

static void test_silent_callers(void **state)
{
	static int fds[200];
	uint8_t bytes[PREAMBLE_SIZE] = {0};
	int last;

	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = port_connect();
		assert_int_equal(loop_step(loop, 0), 0);
	}
	/* All of them say nothing; one that speaks is heard at once. */
	last = port_connect();
	write_all(last, bytes, sizeof(bytes));
	assert_true(closed_by_agent(last));
	close(last);
	assert_true(acceptor_waiting(agent->acceptor) > 0);
	while (acceptor_waiting(agent->acceptor))
		assert_int_equal(loop_step(loop, 100), 0);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	still_serves();
}

/* A peer's preamble, and then no TLS. */
static void test_no_handshake(void **state)
{
	const struct preamble hello = {.kind = PREAMBLE_PEER};
	uint8_t bytes[PREAMBLE_SIZE];
	int fd = port_connect();

	preamble_encode(&hello, bytes);
	write_all(fd, bytes, sizeof(bytes));
	write_all(fd, "this is not TLS at all, is it?", 30);
	assert_true(closed_by_agent(fd));
	close(fd);
	still_serves();
}

#define API(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		API(test_plain),         API(test_wrong_requests), API(test_deep_json),
		API(test_long_body),     API(test_rubbish),        API(test_slow_clients),
		API(test_bad_preambles), API(test_silent_callers), API(test_no_handshake),
	};

	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

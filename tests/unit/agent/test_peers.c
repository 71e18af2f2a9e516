// SPDX-License-Identifier: Apache-2.0
/* Which of two links to a peer is kept. This host is a real one; what the other one does is
 * done here, link by link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/link.h"
#include "agent/peers.h"

#define FIRST  "hosta" /* its name sorts first: it chooses */
#define SECOND "hostb"

static struct loop *loop;
static struct mailbox *box;
static struct agent_config config;
static struct channel_identity *own, *other;
static struct peers *peers;
static unsigned ups, downs, messages;
static char folder[48];
static int own_listener, other_listener;
static uint16_t own_port;

/* What the other host's links have said. */
static struct said {
	const struct link *link;
	enum link_event_kind kind;
} said[32];
static unsigned said_count;

static void take(void *ctx, struct mail *m)
{
	struct link_event *e = CONTAINER_OF(m, struct link_event, mail);

	assert_true(said_count < ARRAY_LEN(said));
	said[said_count++] = (struct said){.link = e->link, .kind = e->kind};
	link_event_free(e);
}

static void drop(struct mail *m)
{
	link_event_free(CONTAINER_OF(m, struct link_event, mail));
}

static bool heard(const struct link *k, enum link_event_kind kind)
{
	for (unsigned i = 0; i < said_count; i++)
		if (said[i].link == k && said[i].kind == kind)
			return true;
	return false;
}

#define WAIT_FOR(condition)                                                                        \
	do {                                                                                       \
		uint64_t until = clock_ns() + 30 * NS_PER_SEC;                                     \
		while (!(condition)) {                                                             \
			assert_int_equal(loop_step(loop, 20), 0);                                  \
			if (clock_ns() > until)                                                    \
				fail_msg("waited in vain for: %s", #condition);                    \
		}                                                                                  \
	} while (0)

static void on_up(void *ctx, struct peer *p)
{
	ups++;
}

static void on_down(void *ctx, struct peer *p, const char *why)
{
	downs++;
}

static void on_message(void *ctx, struct peer *p, const json_t *message)
{
	messages++;
}

static json_t *on_hello(void *ctx)
{
	return json_object();
}

/* ---- the two hosts ------------------------------------------------------------------ */

static struct channel_identity *identity(const char *name)
{
	struct channel_identity *id = NULL;
	char ca[80], cert[80], key[80];
	struct error e = {0};

	snprintf(ca, sizeof(ca), "%s/ca.crt", folder);
	snprintf(cert, sizeof(cert), "%s/%s.crt", folder, name);
	snprintf(key, sizeof(key), "%s/%s.key", folder, name);
	if (pki_issue(folder, name, "peer", 1, &e) || channel_identity_load(ca, cert, key, &id, &e))
		fail_msg("%s", e.text);
	return id;
}

static int listen_somewhere(uint16_t *port)
{
	struct sockaddr_in a;
	socklen_t size = sizeof(a);
	struct error e = {0};
	int fd;

	assert_int_equal(channel_listen("127.0.0.1", 0, &fd, &e), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static void peers_make(const char *own_name, const char *other_name)
{
	const struct peers_events events = {
		.up = on_up, .down = on_down, .message = on_message, .hello = on_hello};
	struct error e = {0};

	own = identity(own_name);
	other = identity(other_name);
	config = (struct agent_config){
		.heartbeat_ns = 20 * NS_PER_MS, .loss_ns = 20 * NS_PER_SEC, .peer_count = 1};
	snprintf(config.name, sizeof(config.name), "%s", own_name);
	snprintf(config.peers[0].name, sizeof(config.peers[0].name), "%s", other_name);
	snprintf(config.peers[0].address, sizeof(config.peers[0].address), "127.0.0.1");
	own_listener = listen_somewhere(&own_port);
	other_listener = listen_somewhere(&config.peers[0].port);
	assert_int_equal(peers_create(&config, own, loop, &events, &peers, &e), 0);
}

static int setup(void **state)
{
	struct error e = {0};

	said_count = ups = downs = messages = 0;
	snprintf(folder, sizeof(folder), "/tmp/pollux-peers-XXXXXX");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(pki_create_ca(folder, "test-ca", 1, &e), 0);
	assert_int_equal(loop_create(&loop), 0);
	return mailbox_create(loop, take, drop, NULL, &box);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	peers_destroy(peers);
	mailbox_destroy(box);
	loop_destroy(loop);
	close(own_listener);
	close(other_listener);
	channel_identity_free(own);
	channel_identity_free(other);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- what the other host does ----------------------------------------------------------- */

static int accept_next(int listener)
{
	uint8_t preamble[PREAMBLE_SIZE];
	int fd;

	WAIT_FOR((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0);
	assert_int_equal(fd_read_all(fd, preamble, sizeof(preamble)), 0);
	return fd;
}

/* `verdict`: of a version whose hello is one. */
static struct link_config other_config(const char *instance, bool verdict)
{
	json_t *hello = json_pack("{s:s, s:s, s:s, s:i, s:i}", "type", "hello", "name",
				  config.peers[0].name, "instance", instance, "version",
				  (int)AGENT_PROTOCOL, "heartbeat_ms", 20);

	if (verdict)
		json_object_set_new(hello, "chosen", json_true());
	return (struct link_config){.box = box,
				    .identity = other,
				    .heartbeat_ns = 20 * NS_PER_MS,
				    .loss_ns = 20 * NS_PER_SEC,
				    .hello_ns = 20 * NS_PER_SEC,
				    .hello = hello};
}

static struct link *other_dials(const char *instance)
{
	struct link_config c = other_config(instance, true);
	struct link *k;

	assert_int_equal(link_dial(&c, "127.0.0.1", own_port, config.name, &k), 0);
	peers_accept(peers, accept_next(own_listener));
	return k;
}

/* This host has dialed, and is not answered yet. */
static int own_dials(void)
{
	peers_dial(peers);
	return accept_next(other_listener);
}

static struct link *other_answers(int fd, const char *instance, bool verdict)
{
	struct link_config c = other_config(instance, verdict);
	struct link *k;

	assert_int_equal(link_accept(&c, fd, &k), 0);
	return k;
}

static void is_kept(struct link *k)
{
	unsigned before = messages;

	link_send(k, json_pack("{s:s}", "type", "one"));
	WAIT_FOR(messages == before + 1);
	assert_true(peer_is_up(peers_at(peers, 0)));
	assert_false(heard(k, LINK_ENDED));
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* Both have dialed again after a cut: the one that came first is in use. */
static void test_what_is_in_use_stays(void **state)
{
	struct link *first, *second;
	int fd;

	peers_make(FIRST, SECOND);
	fd = own_dials();
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	is_kept(first);
	second = other_answers(fd, "one", true);
	WAIT_FOR(heard(second, LINK_ENDED));
	assert_false(heard(second, LINK_UP));
	is_kept(first);
	assert_int_equal(ups, 1);
	assert_int_equal(downs, 0);
	assert_string_equal(peer_why(peers_at(peers, 0)), "");
	link_free(first);
	link_free(second);
}

/* A dial of ours that fails says nothing of the link that is in use. */
static void test_a_dial_too_many_fails(void **state)
{
	struct link *first;
	int fd;

	peers_make(FIRST, SECOND);
	fd = own_dials();
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	close(fd);
	is_kept(first);
	link_shutdown(first, "enough");
	WAIT_FOR(downs == 1);
	/* It has been seen to fail by then, or is later. */
	assert_int_equal(ups, 1);
	link_free(first);
}

static void test_who_dials_again_has_lost_it(void **state)
{
	struct link *first, *second;

	peers_make(FIRST, SECOND);
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	second = other_dials("one");
	WAIT_FOR(heard(second, LINK_UP));
	WAIT_FOR(heard(first, LINK_ENDED));
	is_kept(second);
	assert_int_equal(downs, 1);
	link_free(first);
	link_free(second);
}

static void test_who_was_restarted_knows_of_none(void **state)
{
	struct link *first, *second;
	int fd;

	peers_make(FIRST, SECOND);
	fd = own_dials();
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	second = other_answers(fd, "two", true);
	WAIT_FOR(heard(second, LINK_UP));
	is_kept(second);
	assert_int_equal(ups, 2);
	link_free(first);
	link_free(second);
}

/* The other one chooses: its hello comes late, and over the link that it keeps. */
static void test_a_hello_is_a_verdict(void **state)
{
	struct link *first, *second;
	int fd;

	peers_make(SECOND, FIRST);
	fd = own_dials();
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	assert_int_equal(ups, 0);
	link_welcome(first);
	is_kept(first);
	second = other_answers(fd, "one", true);
	WAIT_FOR(heard(second, LINK_UP));
	assert_int_equal(downs, 0);
	link_welcome(second);
	WAIT_FOR(heard(first, LINK_ENDED));
	is_kept(second);
	assert_int_equal(ups, 2);
	assert_int_equal(downs, 1);
	link_free(first);
	link_free(second);
}

/* It says hello over both, and keeps the one that it has dialed. */
static void test_an_older_one_keeps_its_own(void **state)
{
	struct link *first, *second;
	int fd;

	peers_make(SECOND, FIRST);
	fd = own_dials();
	first = other_dials("one");
	WAIT_FOR(heard(first, LINK_UP));
	link_welcome(first);
	is_kept(first);
	second = other_answers(fd, "one", false);
	WAIT_FOR(heard(second, LINK_UP));
	link_welcome(second);
	WAIT_FOR(heard(second, LINK_ENDED));
	is_kept(first);
	assert_int_equal(downs, 0);
	link_free(first);
	link_free(second);
}

static void test_why_not_yet(void **state)
{
	struct peer *p;

	peers_make(FIRST, SECOND);
	p = peers_at(peers, 0);
	assert_string_equal(peer_why(p), PEER_NOT_YET);
	close(own_dials());
	WAIT_FOR(strcmp(peer_why(p), PEER_NOT_YET) != 0);
	assert_string_not_equal(peer_why(p), "");
}

#define PEERS(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PEERS(test_what_is_in_use_stays),
		PEERS(test_a_dial_too_many_fails),
		PEERS(test_who_dials_again_has_lost_it),
		PEERS(test_who_was_restarted_knows_of_none),
		PEERS(test_a_hello_is_a_verdict),
		PEERS(test_an_older_one_keeps_its_own),
		PEERS(test_why_not_yet),
	};

	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

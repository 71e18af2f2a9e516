// SPDX-License-Identifier: Apache-2.0
/* Links over loopback: who is let in, what is passed on, how an end is told. */
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
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/link.h"

#define LOSS_NS    (5 * NS_PER_SEC)
#define IDLE_TRIES 5u

static struct loop *loop;
static struct mailbox *box;
static struct channel_identity *alice, *bob, *stranger;
static char folder[48];
static int listener;
static uint16_t port;

/* What the links have said, in order. */
static struct said {
	const struct link *link;
	enum link_event_kind kind;
	char type[32], why[256];
} said[64];
static unsigned said_count;
static bool welcoming; /* whoever may choose takes every link */

static void take(void *ctx, struct mail *m)
{
	struct link_event *e = CONTAINER_OF(m, struct link_event, mail);
	struct said *s = &said[said_count++];

	assert_true(said_count < ARRAY_LEN(said));
	*s = (struct said){.link = e->link, .kind = e->kind};
	snprintf(s->type, sizeof(s->type), "%s", json_text_of(e->message, "type"));
	snprintf(s->why, sizeof(s->why), "%.255s", e->why);
	if (e->kind == LINK_UP && welcoming)
		link_welcome(e->link);
	link_event_free(e);
}

static void drop(struct mail *m)
{
	link_event_free(CONTAINER_OF(m, struct link_event, mail));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static struct channel_identity *identity(const char *sub, const char *name, const char *role)
{
	char dir[128], ca[160], cert[160], key[160];
	struct channel_identity *id = NULL;
	struct error e = {0};

	snprintf(dir, sizeof(dir), "%s/%s", folder, sub);
	snprintf(ca, sizeof(ca), "%s/ca.crt", dir);
	snprintf(cert, sizeof(cert), "%s/%s.crt", dir, name);
	snprintf(key, sizeof(key), "%s/%s.key", dir, name);
	if (access(ca, F_OK)) {
		assert_int_equal(mkdir(dir, 0700), 0);
		assert_int_equal(pki_create_ca(dir, "test-ca", 1, &e), 0);
	}
	if (pki_issue(dir, name, role, 1, &e) || channel_identity_load(ca, cert, key, &id, &e))
		fail_msg("%s", e.text);
	return id;
}

static int setup(void **state)
{
	struct sockaddr_in a;
	socklen_t size = sizeof(a);
	struct error e = {0};

	said_count = 0;
	welcoming = true;
	snprintf(folder, sizeof(folder), "/tmp/pollux-link-XXXXXX");
	assert_non_null(mkdtemp(folder));
	alice = identity("one", "alice", "peer");
	bob = identity("one", "bob", "peer");
	stranger = identity("other", "alice", "peer");
	assert_int_equal(channel_listen("127.0.0.1", 0, &listener, &e), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &size), 0);
	port = ntohs(a.sin_port);
	assert_int_equal(loop_create(&loop), 0);
	return mailbox_create(loop, take, drop, NULL, &box);
}

static int teardown(void **state)
{
	mailbox_destroy(box);
	loop_destroy(loop);
	close(listener);
	channel_identity_free(alice);
	channel_identity_free(bob);
	channel_identity_free(stranger);
	return nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static json_t *hello(const char *name, int version)
{
	return json_pack("{s:s, s:s, s:i, s:i}", "type", "hello", "name", name, "version", version,
			 "heartbeat_ms", 20);
}

static struct link_config config_of(struct channel_identity *id, json_t *first)
{
	return (struct link_config){.box = box,
				    .identity = id,
				    .heartbeat_ns = 20 * NS_PER_MS,
				    .loss_ns = LOSS_NS,
				    .hello_ns = 20 * NS_PER_SEC,
				    .hello = first};
}

static struct link *dial(struct channel_identity *id, const char *expect, json_t *first)
{
	struct link_config c = config_of(id, first);
	struct link *k;

	assert_int_equal(link_dial(&c, "127.0.0.1", port, expect, &k), 0);
	return k;
}

/* Takes the next connection, its preamble read. */
static int accept_next(void)
{
	uint8_t preamble[PREAMBLE_SIZE];
	int fd;

	do {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		assert_int_equal(loop_step(loop, 1), 0);
	} while (fd < 0);
	assert_int_equal(fd_read_all(fd, preamble, sizeof(preamble)), 0);
	return fd;
}

static struct link *accept_as(struct channel_identity *id, json_t *first)
{
	struct link_config c = config_of(id, first);
	struct link *k;

	assert_int_equal(link_accept(&c, accept_next(), &k), 0);
	return k;
}

/* bob dials alice. */
static struct link *accept_dialed(struct link **bobs)
{
	*bobs = dial(bob, "alice", hello("bob", AGENT_PROTOCOL));
	return accept_as(alice, hello("alice", AGENT_PROTOCOL));
}

static const struct said *heard(const struct link *k, enum link_event_kind kind, const char *type)
{
	for (unsigned i = 0; i < said_count; i++)
		if (said[i].link == k && said[i].kind == kind &&
		    (!type || !strcmp(said[i].type, type)))
			return &said[i];
	return NULL;
}

static const struct said *wait_for(const struct link *k, enum link_event_kind kind,
				   const char *type)
{
	uint64_t until = clock_ns() + 30 * NS_PER_SEC;

	while (!heard(k, kind, type)) {
		assert_int_equal(loop_step(loop, 50), 0);
		assert_true(clock_ns() < until);
	}
	return heard(k, kind, type);
}

static void test_good(void **state)
{
	struct link *a = dial(alice, "bob", hello("alice", AGENT_PROTOCOL));
	struct link *b = accept_as(bob, hello("bob", AGENT_PROTOCOL));

	wait_for(a, LINK_UP, "hello");
	wait_for(b, LINK_UP, "hello");
	assert_string_equal(link_peer_name(a), "bob");
	assert_string_equal(link_peer_name(b), "alice");
	assert_string_equal(link_peer_role(b), "peer");
	link_send(a, json_pack("{s:s}", "type", "one"));
	link_send(a, json_pack("{s:s}", "type", "two"));
	link_send(b, json_pack("{s:s}", "type", "three"));
	wait_for(b, LINK_MESSAGE, "two");
	assert_true(heard(b, LINK_MESSAGE, "one") < heard(b, LINK_MESSAGE, "two"));
	wait_for(a, LINK_MESSAGE, "three");
	link_shutdown(a, "enough");
	assert_string_equal(wait_for(a, LINK_ENDED, NULL)->why, "enough");
	wait_for(b, LINK_ENDED, NULL);
	link_free(a);
	link_free(b);
}

/* For three times the loss time. */
static bool idle_lives(void)
{
	struct link_config c = config_of(alice, hello("alice", AGENT_PROTOCOL));
	struct link *a, *b;
	uint64_t until;
	bool lives;

	said_count = 0;
	c.loss_ns = 400 * NS_PER_MS;
	assert_int_equal(link_dial(&c, "127.0.0.1", port, "bob", &a), 0);
	b = accept_as(bob, hello("bob", AGENT_PROTOCOL));
	while (!heard(a, LINK_UP, NULL) && !heard(a, LINK_ENDED, NULL))
		assert_int_equal(loop_step(loop, 50), 0);
	until = clock_ns() + 1200 * NS_PER_MS;
	while (clock_ns() < until && !heard(a, LINK_ENDED, NULL))
		assert_int_equal(loop_step(loop, 50), 0);
	lives = !heard(a, LINK_ENDED, NULL) && !heard(b, LINK_ENDED, NULL);
	link_shutdown(a, "enough");
	wait_for(a, LINK_ENDED, NULL);
	wait_for(b, LINK_ENDED, NULL);
	link_free(a);
	link_free(b);
	return lives;
}

/* Heartbeats alone keep it. A busy machine may be silent for longer than the loss time; without
 * heartbeats none of several lives. */
static void test_idle(void **state)
{
	unsigned tries = 1;

	while (!idle_lives())
		assert_true(tries++ < IDLE_TRIES);
}

/* Each is refused before anything but the hello was read. */
static void refused(struct channel_identity *dialing, const char *expect, json_t *first)
{
	struct link *a = dial(dialing, expect, first);
	struct link *b = accept_as(bob, hello("bob", AGENT_PROTOCOL));

	wait_for(a, LINK_ENDED, NULL);
	wait_for(b, LINK_ENDED, NULL);
	link_free(a);
	link_free(b);
}

static void test_other_authority(void **state)
{
	refused(stranger, "bob", hello("alice", AGENT_PROTOCOL));
	assert_int_equal(said_count, 2);
}

static void test_wrong_name_dialed(void **state)
{
	refused(alice, "carol", hello("alice", AGENT_PROTOCOL));
	assert_int_equal(said_count, 2);
}

static void test_wrong_hello(void **state)
{
	static const struct {
		const char *type, *name;
		int version;
		const char *why;
	} cases[] = {{"hello", "bob", 1, "certificate"},
		     {"hello", "alice", 9, "version 9"},
		     {"word", "alice", 1, "not a hello"}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		json_t *first = hello(cases[i].name, cases[i].version);
		bool told = false;

		said_count = 0;
		json_object_set_new(first, "type", json_string(cases[i].type));
		refused(alice, "bob", first);
		for (unsigned n = 0; n < said_count; n++)
			told |= strstr(said[n].why, cases[i].why) != NULL;
		assert_true(told);
	}
}

/* Ended from this side while nobody answers the handshake. */
static void test_abort(void **state)
{
	struct link *a = dial(alice, "bob", hello("alice", AGENT_PROTOCOL));
	int fd = accept_next();

	link_free(a);
	assert_null(heard(a, LINK_UP, NULL));
	close(fd);
}

static void test_nobody_listens(void **state)
{
	struct link *a;
	uint16_t before = port;

	close(listener);
	listener = open("/dev/null", O_RDONLY | O_CLOEXEC);
	port = before;
	a = dial(alice, "bob", hello("alice", AGENT_PROTOCOL));
	assert_non_null(strstr(wait_for(a, LINK_ENDED, NULL)->why, "refused"));
	link_free(a);
}

/* alice, whose name sorts first, hears of bob before he hears of her. */
static void test_chosen(void **state)
{
	struct link *a, *b;

	welcoming = false;
	a = accept_dialed(&b);
	wait_for(a, LINK_UP, "hello");
	link_shutdown(a, "another one");
	assert_string_equal(wait_for(a, LINK_ENDED, NULL)->why, "another one");
	assert_non_null(strstr(wait_for(b, LINK_ENDED, NULL)->why, "closed by the peer"));
	assert_null(heard(b, LINK_UP, NULL));
	link_free(a);
	link_free(b);
	a = accept_dialed(&b);
	wait_for(a, LINK_UP, "hello");
	link_welcome(a);
	link_send(a, json_pack("{s:s}", "type", "one"));
	wait_for(b, LINK_MESSAGE, "one");
	assert_non_null(heard(b, LINK_UP, "hello"));
	link_free(a);
	link_free(b);
}

/* Heartbeats come, and no verdict: that is not waited for for ever. */
static void test_never_chosen(void **state)
{
	struct link_config c = config_of(bob, hello("bob", AGENT_PROTOCOL));
	struct link *a, *b;

	welcoming = false;
	c.hello_ns = 300 * NS_PER_MS;
	assert_int_equal(link_dial(&c, "127.0.0.1", port, "alice", &b), 0);
	a = accept_as(alice, hello("alice", AGENT_PROTOCOL));
	assert_non_null(strstr(wait_for(b, LINK_ENDED, NULL)->why, "has not said"));
	assert_null(heard(b, LINK_UP, NULL));
	link_free(a);
	link_free(b);
}

/* A message that no link may carry ends it, and is not silently dropped. */
static void test_too_long(void **state)
{
	struct link *a = dial(alice, "bob", hello("alice", AGENT_PROTOCOL));
	struct link *b = accept_as(bob, hello("bob", AGENT_PROTOCOL));
	char *text = malloc(PEER_MESSAGE_MAX + 1);

	memset(text, 'x', PEER_MESSAGE_MAX);
	text[PEER_MESSAGE_MAX] = '\0';
	wait_for(a, LINK_UP, NULL);
	link_send(a, json_pack("{s:s, s:s}", "type", "long", "text", text));
	wait_for(a, LINK_ENDED, NULL);
	assert_null(heard(b, LINK_MESSAGE, NULL));
	free(text);
	link_free(a);
	link_free(b);
}

#define LINK(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LINK(test_good),
		LINK(test_idle),
		LINK(test_other_authority),
		LINK(test_wrong_name_dialed),
		LINK(test_wrong_hello),
		LINK(test_abort),
		LINK(test_nobody_listens),
		LINK(test_too_long),
		LINK(test_chosen),
		LINK(test_never_chosen),
	};

	signal(SIGPIPE, SIG_IGN);
	log_setup("test", LOG_LEVEL_ERROR - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

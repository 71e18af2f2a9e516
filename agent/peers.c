// SPDX-License-Identifier: Apache-2.0
#include "agent/peers.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/link.h"

#define LOG_MODULE       "peer"
#define BACKOFF_FIRST_NS (50 * NS_PER_MS)
#define BACKOFF_MOST_NS  (2 * NS_PER_SEC)
#define HELLO_NS         (8 * NS_PER_SEC)
#define STRANGERS_MAX    16 /* accepted links that have not yet said who they are */

struct peer {
	struct peers *all;
	const struct peer_config *config;
	struct link *link;    /* the one that is kept, or NULL */
	struct link *dialing; /* ours, under way, or NULL */
	json_t *hello;
	struct loop_timer *redial;
	uint64_t backoff_ns, up_since_ns, links;
	char why[256], logged[256];
};

/* Every link is in `links` until its LINK_ENDED has come. */
struct known_link {
	struct link *link;
	bool stranger; /* accepted, and has not yet said who it is */
	LIST_ENTRY(known_link) entry;
};
LIST_HEAD(known_list, known_link);

struct peers {
	const struct agent_config *config;
	struct channel_identity *identity;
	struct loop *loop;
	struct peers_events events;
	struct mailbox *box;
	struct known_list links;
	unsigned strangers;
	char instance[33]; /* of this process: tells a restart from a second link */
	struct peer peers[AGENT_PEERS_MAX];
};

static json_t *hello_make(struct peers *all)
{
	json_t *hello = all->events.hello(all->events.ctx);
	json_t *own =
		json_pack("{s:s, s:i, s:s, s:s, s:s, s:b, s:I}", "type", "hello", "version",
			  (int)AGENT_PROTOCOL, "name", all->config->name, "instance", all->instance,
			  "software", version_text, "chosen", true, "heartbeat_ms",
			  (json_int_t)(all->config->heartbeat_ns / NS_PER_MS));

	if (own && hello && json_object_update(own, hello)) {
		json_decref(own);
		own = NULL;
	}
	json_decref(hello);
	return own;
}

static struct link_config link_config_of(struct peers *all)
{
	return (struct link_config){.box = all->box,
				    .identity = all->identity,
				    .heartbeat_ns = all->config->heartbeat_ns,
				    .loss_ns = all->config->loss_ns,
				    .hello_ns = HELLO_NS,
				    .hello = hello_make(all)};
}

/* ---- dialing ------------------------------------------------------------------- */

/* Half to the whole of the back-off: two hosts that lost each other do not stay in step. */
static void redial_later(struct peer *p)
{
	uint16_t random = 0;

	(void)RAND_bytes((unsigned char *)&random, sizeof(random));
	loop_timer_set(p->redial,
		       clock_ns() + p->backoff_ns / 2 + p->backoff_ns / 2 * random / UINT16_MAX);
	p->backoff_ns = p->backoff_ns * 2 > BACKOFF_MOST_NS ? BACKOFF_MOST_NS : p->backoff_ns * 2;
}

static void link_remember(struct peers *all, struct known_link *known, struct link *link)
{
	known->link = link;
	known->stranger = !link_dialed(link);
	all->strangers += known->stranger;
	LIST_INSERT_HEAD(&all->links, known, entry);
}

static void peer_dial(void *ctx)
{
	struct peer *p = ctx;
	struct link_config c;
	struct known_link *known;
	int rc;

	if (p->link || p->dialing)
		return;
	known = calloc(1, sizeof(*known));
	c = link_config_of(p->all);
	if (known && c.hello)
		rc = link_dial(&c, p->config->address, p->config->port, p->config->name,
			       &p->dialing);
	else
		rc = -ENOMEM;
	if (!rc) {
		link_remember(p->all, known, p->dialing);
		return;
	}
	free(known);
	p->dialing = NULL;
	log_warn_rc(rc, "cannot dial %s", p->config->name);
	redial_later(p);
}

void peers_dial(struct peers *all)
{
	for (unsigned i = 0; i < all->config->peer_count; i++) {
		struct peer *p = &all->peers[i];
		/* Both dial; the one whose link would be dropped gives the other a start. */
		bool preferred = strcmp(all->config->name, p->config->name) < 0;

		loop_timer_set(p->redial, clock_ns() + (preferred ? 1 : 250 * NS_PER_MS));
	}
}

void peers_accept(struct peers *all, int fd)
{
	struct known_link *known = calloc(1, sizeof(*known));
	struct link_config c;
	struct link *link;
	int rc;

	if (!known || all->strangers >= STRANGERS_MAX) {
		log_warn("a connection is refused: %u others have not yet proved who they are",
			 all->strangers);
		free(known);
		close(fd);
		return;
	}
	c = link_config_of(all);
	rc = link_accept(&c, fd, &link);
	if (rc) {
		log_warn_rc(rc, "cannot take a connection");
		free(known);
		return;
	}
	link_remember(all, known, link);
}

static struct known_link *known_find(struct peers *all, const struct link *link)
{
	struct known_link *known;

	LIST_FOREACH(known, &all->links, entry)
	{
		if (known->link == link)
			break;
	}
	return known; /* a link is known until link_ended() */
}

static void stranger_introduce(struct peers *all, struct known_link *known)
{
	all->strangers -= known->stranger;
	known->stranger = false;
}

/* ---- which link is kept ----------------------------------------------------------- */

static void peer_keep(struct peer *p, struct link *link, const json_t *hello)
{
	link_welcome(link);
	p->link = link;
	p->hello = json_deep_copy(hello);
	p->up_since_ns = clock_ns();
	p->backoff_ns = BACKOFF_FIRST_NS;
	p->why[0] = p->logged[0] = '\0';
	p->links++;
	loop_timer_set(p->redial, 0);
	log_info("%s is connected (it runs Pollux %s)", p->config->name,
		 json_text_of(hello, "software"));
	p->all->events.up(p->all->events.ctx, p);
}

static void peer_lose(struct peer *p, const char *why)
{
	snprintf(p->why, sizeof(p->why), "%s", why);
	p->link = NULL;
	json_decref(p->hello);
	p->hello = NULL;
	log_warn("%s is disconnected: %s", p->config->name, why);
	p->all->events.down(p->all->events.ctx, p, why);
}

/* Both sides must keep the same one: the host with the smaller name chooses, and its hello comes
 * over no other (unless it is of a version that sends it over all, and keeps what it has dialed
 * itself). It keeps what is in use: the other one may have dialed before it knew of that. But who
 * dials again has lost what it had dialed before, and a process that was started anew knows of no
 * older link. */
static bool second_link_wins(const struct peer *p, const struct link *second, const json_t *hello)
{
	bool own_is_smaller = strcmp(p->all->config->name, p->config->name) < 0;

	if (strcmp(json_text_of(p->hello, "instance"), json_text_of(hello, "instance")) != 0)
		return true;
	if (link_dialed(p->link) == link_dialed(second))
		return true;
	if (own_is_smaller)
		return false;
	return json_is_true(json_object_get(hello, "chosen")) || !link_dialed(second);
}

static void link_up(struct peers *all, struct link *link, const json_t *hello)
{
	struct peer *p = peers_find(all, link_peer_name(link));

	stranger_introduce(all, known_find(all, link));
	if (!p || strcmp(link_peer_role(link), "peer") != 0) {
		log_warn("refused '%s' with role '%s': it is not a peer in the configuration",
			 link_peer_name(link), link_peer_role(link));
		link_shutdown(link, "not a peer");
		return;
	}
	if (p->dialing == link)
		p->dialing = NULL;
	if (p->link && !second_link_wins(p, link, hello)) {
		link_shutdown(link, "a second link to the same peer");
		return;
	}
	if (p->link) {
		struct link *first = p->link;

		peer_lose(p, "replaced by a newer link");
		link_shutdown(first, "replaced by a newer link");
	}
	peer_keep(p, link, hello);
}

static struct peer *peer_of_link(struct peers *all, const struct link *link)
{
	for (unsigned i = 0; i < all->config->peer_count; i++)
		if (all->peers[i].link == link || all->peers[i].dialing == link)
			return &all->peers[i];
	return NULL;
}

static void link_forget(struct peers *all, struct known_link *known)
{
	stranger_introduce(all, known);
	LIST_REMOVE(known, entry);
	link_free(known->link);
	free(known);
}

static void dial_failed(struct peer *p, const char *why)
{
	p->dialing = NULL;
	if (p->link)
		return;
	snprintf(p->why, sizeof(p->why), "%s", why);
	if (strcmp(p->why, p->logged) != 0)
		log_warn("cannot connect to %s: %s", p->config->name, why);
	snprintf(p->logged, sizeof(p->logged), "%s", why);
}

static void link_ended(struct peers *all, struct link *link, const char *why)
{
	struct peer *p = peer_of_link(all, link);

	if (known_find(all, link)->stranger)
		log_debug("a connection ended before it proved who it was: %s", why);
	if (p && p->dialing == link)
		dial_failed(p, why);
	else if (p)
		peer_lose(p, why);
	link_forget(all, known_find(all, link));
	if (p && !p->link)
		redial_later(p);
}

static void link_event_take(void *ctx, struct mail *m)
{
	struct link_event *event = CONTAINER_OF(m, struct link_event, mail);
	struct peers *all = ctx;
	struct peer *p;

	switch (event->kind) {
	case LINK_UP:
		link_up(all, event->link, event->message);
		break;
	case LINK_MESSAGE:
		p = peer_of_link(all, event->link);
		if (p && p->link == event->link)
			all->events.message(all->events.ctx, p, event->message);
		break;
	case LINK_ENDED:
		link_ended(all, event->link, event->why);
		break;
	}
	link_event_free(event);
}

static void link_event_drop(struct mail *m)
{
	link_event_free(CONTAINER_OF(m, struct link_event, mail));
}

/* ---- life ---------------------------------------------------------------------------- */

int peers_create(const struct agent_config *c, struct channel_identity *identity, struct loop *l,
		 const struct peers_events *events, struct peers **out, struct error *e)
{
	struct peers *all = calloc(1, sizeof(*all));
	uint8_t random[16];
	int rc = 0;

	if (!all)
		return error_set(e, -ENOMEM, "out of memory");
	*all = (struct peers){.config = c, .identity = identity, .loop = l, .events = *events};
	LIST_INIT(&all->links);
	if (RAND_bytes(random, sizeof(random)) != 1)
		rc = -EIO;
	hex_encode(random, sizeof(random), all->instance);
	if (!rc)
		rc = mailbox_create(l, link_event_take, link_event_drop, all, &all->box);
	for (unsigned i = 0; !rc && i < c->peer_count; i++) {
		struct peer *p = &all->peers[i];

		*p = (struct peer){
			.all = all, .config = &c->peers[i], .backoff_ns = BACKOFF_FIRST_NS};
		snprintf(p->why, sizeof(p->why), PEER_NOT_YET);
		rc = loop_timer(l, peer_dial, p, &p->redial);
	}
	if (rc) {
		peers_destroy(all);
		return error_set(e, rc, "cannot prepare for peers: %s", strerror(-rc));
	}
	*out = all;
	return 0;
}

void peers_destroy(struct peers *all)
{
	struct known_link *known;

	if (!all)
		return;
	LIST_FOREACH(known, &all->links, entry)
	{
		link_shutdown(known->link, "this host ends");
	}
	while ((known = LIST_FIRST(&all->links)))
		link_forget(all, known);
	mailbox_destroy(all->box);
	for (unsigned i = 0; i < AGENT_PEERS_MAX; i++) {
		loop_timer_free(all->peers[i].redial);
		json_decref(all->peers[i].hello);
	}
	free(all);
}

unsigned peers_count(const struct peers *all)
{
	return all->config->peer_count;
}

struct peer *peers_at(struct peers *all, unsigned index)
{
	return &all->peers[index];
}

struct peer *peers_find(struct peers *all, const char *name)
{
	for (unsigned i = 0; i < all->config->peer_count; i++)
		if (!strcmp(all->config->peers[i].name, name))
			return &all->peers[i];
	return NULL;
}

const struct peer_config *peer_config(const struct peer *p)
{
	return p->config;
}

bool peer_is_up(const struct peer *p)
{
	return p->link;
}

const json_t *peer_hello(const struct peer *p)
{
	return p->hello;
}

const char *peer_why(const struct peer *p)
{
	return p->why;
}

int peer_send(struct peer *p, json_t *message)
{
	if (!message)
		return -ENOMEM;
	if (!p->link) {
		json_decref(message);
		return -ENOTCONN;
	}
	link_send(p->link, message);
	return 0;
}

json_t *peer_json(const struct peer *p)
{
	json_t *o = json_pack("{s:s, s:s, s:i, s:b, s:b, s:I}", "name", p->config->name, "address",
			      p->config->address, "port", (int)p->config->port, "connected",
			      p->link != NULL, "fence", p->config->fence.command[0] != '\0',
			      "links", (json_int_t)p->links);

	if (!o)
		return NULL;
	json_object_set_new(o, "software", json_text(json_text_of(p->hello, "software")));
	json_object_set_new(o, "why", json_text(p->why));
	return o;
}

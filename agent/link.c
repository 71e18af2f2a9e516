// SPDX-License-Identifier: Apache-2.0
#include "agent/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"

#define LOG_MODULE         "link"
#define DIAL_NS            (2 * NS_PER_SEC)
#define HANDSHAKE_NS       (8 * NS_PER_SEC)
#define SEND_NS            (5 * NS_PER_SEC)
#define HEARTBEATS_TO_LOSE 3
#define QUEUE_MAX          (4u << 20)

struct parcel {
	char *text;
	size_t len;
	STAILQ_ENTRY(parcel) entry;
};
STAILQ_HEAD(parcel_list, parcel);

struct link {
	struct link_config config;
	char address[256], name[AGENT_NAME_MAX + 1];
	uint16_t port;
	bool dialed;
	char peer_name[256], peer_role[32];
	char own_name[AGENT_NAME_MAX + 1];
	struct parcel *hello; /* not sent yet: of the thread, and from LINK_UP on of the loop's */
	pthread_t thread;
	int fd; /* accepted: until the handshake takes it over */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* something queued, or ending */
	struct parcel_list queue;
	size_t queued;
	bool ending;
	char why[256];
	struct link_event *ended; /* made beforehand: a link always says that it has ended */
	struct channel *channel;  /* NULL until the handshake is done and after the end */
	int abort_fd;             /* the same socket, to end a handshake by shutdown() */
};

void link_event_free(struct link_event *event)
{
	json_decref(event->message);
	free(event);
}

static void event_put(struct link *k, enum link_event_kind kind, json_t *message, const char *why)
{
	struct link_event *event = calloc(1, sizeof(*event));

	if (!event) {
		json_decref(message);
		link_shutdown(k, "out of memory");
		return;
	}
	event->link = k;
	event->kind = kind;
	event->message = message;
	snprintf(event->why, sizeof(event->why), "%.255s", why);
	mailbox_put(k->config.box, &event->mail);
}

static void ended_put(struct link *k, const char *why)
{
	struct link_event *event = k->ended;

	k->ended = NULL;
	event->link = k;
	event->kind = LINK_ENDED;
	snprintf(event->why, sizeof(event->why), "%.255s", why);
	mailbox_put(k->config.box, &event->mail);
}

/* ---- queue ------------------------------------------------------------------- */

static void parcel_free(struct parcel *p)
{
	if (p)
		free(p->text);
	free(p);
}

static void queue_clear(struct link *k)
{
	struct parcel *p;

	while ((p = STAILQ_FIRST(&k->queue))) {
		STAILQ_REMOVE_HEAD(&k->queue, entry);
		parcel_free(p);
	}
	k->queued = 0;
}

/* Takes over `message`. NULL: it cannot be sent. */
static struct parcel *parcel_of(json_t *message)
{
	struct parcel *p = message ? calloc(1, sizeof(*p)) : NULL;

	if (p)
		p->text = json_dumps(message, JSON_COMPACT);
	json_decref(message);
	if (p && p->text)
		p->len = strlen(p->text);
	if (p && p->text && p->len <= PEER_MESSAGE_MAX)
		return p;
	parcel_free(p);
	return NULL;
}

static void parcel_put(struct link *k, struct parcel *p)
{
	bool full;

	if (!p) {
		link_shutdown(k, "a message could not be made");
		return;
	}
	pthread_mutex_lock(&k->lock);
	k->queued += p->len;
	full = k->queued > QUEUE_MAX;
	STAILQ_INSERT_TAIL(&k->queue, p, entry);
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
	if (full)
		link_shutdown(k, "the peer takes no messages: the queue is full");
}

void link_send(struct link *k, json_t *message)
{
	parcel_put(k, parcel_of(message));
}

static void hello_put(struct link *k)
{
	struct parcel *p = k->hello;

	k->hello = NULL;
	if (p)
		parcel_put(k, p);
}

/* The other one waits for it in vain, should it be of a name that is nobody's. */
static bool chooses(const struct link *k)
{
	return strcmp(k->own_name, k->peer_name) < 0;
}

void link_welcome(struct link *k)
{
	hello_put(k);
}

void link_shutdown(struct link *k, const char *why)
{
	pthread_mutex_lock(&k->lock);
	if (!k->ending)
		snprintf(k->why, sizeof(k->why), "%s", why);
	k->ending = true;
	if (k->channel)
		channel_shutdown(k->channel);
	else if (k->abort_fd >= 0)
		shutdown(k->abort_fd, SHUT_RDWR);
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
}

/* ---- the sending thread --------------------------------------------------------- */

static struct timespec monotonic_in(uint64_t ns)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	ns += (uint64_t)t.tv_nsec;
	t.tv_sec += (time_t)(ns / NS_PER_SEC);
	t.tv_nsec = (long)(ns % NS_PER_SEC);
	return t;
}

/* The next message; *out NULL: nothing came for the time of a heartbeat. */
static bool parcel_wait(struct link *k, struct parcel **out)
{
	struct timespec until = monotonic_in(k->config.heartbeat_ns);
	bool going;
	int rc = 0;

	pthread_mutex_lock(&k->lock);
	while (!k->ending && STAILQ_EMPTY(&k->queue) && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&k->wake, &k->lock, &until);
	going = !k->ending;
	*out = going ? STAILQ_FIRST(&k->queue) : NULL;
	if (*out) {
		STAILQ_REMOVE_HEAD(&k->queue, entry);
		k->queued -= (*out)->len;
	}
	pthread_mutex_unlock(&k->lock);
	return going;
}

static int parcel_send(struct link *k, struct parcel *p)
{
	struct iovec iov = {.iov_base = p ? p->text : NULL, .iov_len = p ? p->len : 0};
	int rc;

	if (!p)
		return channel_send(k->channel, PEER_RECORD_HEARTBEAT, 0, NULL, 0,
				    clock_ns() + SEND_NS);
	rc = channel_send(k->channel, PEER_RECORD_MESSAGE, RECORD_MANDATORY, &iov, 1,
			  clock_ns() + SEND_NS);
	parcel_free(p);
	return rc;
}

static void *sender_main(void *ctx)
{
	struct link *k = ctx;
	struct parcel *p;
	int rc = 0;

	thread_hasten();
	while (!rc && parcel_wait(k, &p))
		rc = parcel_send(k, p);
	if (rc)
		link_shutdown(k, strerror(-rc));
	return NULL;
}

/* ---- the receiving thread ------------------------------------------------------- */

int link_message_parse(const uint8_t *data, size_t n, json_t **out, struct error *e)
{
	json_error_t je;
	json_t *message;

	if (!n || n > PEER_MESSAGE_MAX)
		return error_set(e, -EBADMSG, "a peer's message of %zu bytes", n);
	message = json_loadb((const char *)data, n, JSON_REJECT_DUPLICATES, &je);
	if (!message)
		return error_set(e, -EBADMSG, "a peer's message is not JSON: %s", je.text);
	if (!json_is_string(json_object_get(message, "type"))) {
		json_decref(message);
		return error_set(e, -EBADMSG, "a peer's message has no type");
	}
	*out = message;
	return 0;
}

static int hello_check(const json_t *hello, const struct link *k, struct error *e)
{
	json_int_t version = json_integer_of(hello, "version", -1);

	if (strcmp(json_text_of(hello, "type"), "hello") != 0)
		return error_set(e, -EBADMSG, "the first message is not a hello");
	if (version != AGENT_PROTOCOL)
		return error_set(e, -EPROTO,
				 "the peer speaks version %lld of the protocol, this host %u: "
				 "install the same version of Pollux on both",
				 (long long)version, AGENT_PROTOCOL);
	if (strcmp(json_text_of(hello, "name"), k->peer_name) != 0)
		return error_set(e, -EBADMSG, "the peer says that it is '%s', its certificate '%s'",
				 json_text_of(hello, "name"), k->peer_name);
	return 0;
}

static const char *ended_text(int rc)
{
	if (rc == -EACCES)
		return "the peer refuses this host (TLS alert): is its certificate valid there?";
	return rc == -EPIPE ? "closed by the peer" : strerror(-rc);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* One message, heartbeats passed over; until `end` at the latest. */
static int message_receive(struct link *k, uint64_t loss_ns, uint64_t end, json_t **out,
			   struct error *e)
{
	struct record r;
	int rc;

	for (;;) {
		rc = channel_receive(k->channel, &r, sooner(clock_ns() + loss_ns, end));
		if (rc == -ETIMEDOUT && clock_ns() >= end)
			return error_set(e, rc, "it has not said that it wants this connection");
		if (rc == -ETIMEDOUT)
			return error_set(e, rc, "silent for %llu ms",
					 (unsigned long long)(loss_ns / NS_PER_MS));
		if (rc)
			return error_set(e, rc, "%s", ended_text(rc));
		if (r.type == PEER_RECORD_MESSAGE)
			return link_message_parse(r.payload, r.len, out, e);
		if (r.type != PEER_RECORD_HEARTBEAT && (r.flags & RECORD_MANDATORY))
			return error_set(e, -EBADMSG, "a record of unknown type %u", r.type);
	}
}

/* A peer with slower heartbeats than ours is not lost for that. */
static uint64_t loss_time(const struct link *k, const json_t *hello)
{
	json_int_t theirs = json_integer_of(hello, "heartbeat_ms", 0);
	uint64_t least;

	if (theirs < 0 || theirs > 60000)
		theirs = 0;
	least = HEARTBEATS_TO_LOSE * (uint64_t)theirs * NS_PER_MS;
	return least > k->config.loss_ns ? least : k->config.loss_ns;
}

/* The other one finds the same, and gives up first. */
static void version_tell(struct link *k)
{
	json_t *message = NULL;
	struct error e = {0};

	hello_put(k);
	if (!message_receive(k, k->config.hello_ns, clock_ns() + k->config.hello_ns, &message, &e))
		json_decref(message);
}

static int messages_run(struct link *k, struct error *e)
{
	json_t *message = NULL;
	uint64_t loss;
	int rc;

	if (!chooses(k))
		hello_put(k);
	rc = message_receive(k, k->config.hello_ns, clock_ns() + k->config.hello_ns, &message, e);
	if (rc)
		return rc;
	rc = hello_check(message, k, e);
	if (rc) {
		json_decref(message);
		if (rc == -EPROTO && chooses(k))
			version_tell(k);
		return rc;
	}
	loss = loss_time(k, message);
	event_put(k, LINK_UP, message, "");
	for (;;) {
		rc = message_receive(k, loss, UINT64_MAX, &message, e);
		if (rc)
			return rc;
		event_put(k, LINK_MESSAGE, message, "");
	}
}

static int socket_open(struct link *k, int *fd, struct error *e)
{
	const struct preamble hello = {.kind = PREAMBLE_PEER};
	int rc = 0;

	*fd = k->fd;
	k->fd = -1;
	if (k->dialed)
		rc = channel_dial(k->address, k->port, &hello, clock_ns() + DIAL_NS, fd, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&k->lock);
	k->abort_fd = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
	rc = k->ending ? -ECANCELED : k->abort_fd < 0 ? -errno : 0;
	pthread_mutex_unlock(&k->lock);
	if (rc) {
		close(*fd);
		return error_set(e, rc, "%s", strerror(-rc));
	}
	return 0;
}

static int channel_open(struct link *k, struct error *e)
{
	struct channel_auth auth = {.identity = k->config.identity,
				    .expect_peer = k->dialed ? k->name : NULL};
	struct channel *c;
	int fd, rc;

	rc = socket_open(k, &fd, e);
	if (rc)
		return rc;
	rc = (k->dialed ? channel_connect : channel_accept)(fd, &auth, clock_ns() + HANDSHAKE_NS,
							    &c, e);
	if (rc)
		return rc;
	snprintf(k->peer_name, sizeof(k->peer_name), "%s", channel_peer_name(c));
	snprintf(k->peer_role, sizeof(k->peer_role), "%s", channel_peer_role(c));
	pthread_mutex_lock(&k->lock);
	k->channel = c;
	if (k->ending)
		channel_shutdown(c);
	pthread_mutex_unlock(&k->lock);
	return 0;
}

static void channel_end(struct link *k)
{
	struct channel *c;

	pthread_mutex_lock(&k->lock);
	c = k->channel;
	k->channel = NULL;
	pthread_mutex_unlock(&k->lock);
	channel_close(c);
}

static void *link_main(void *ctx)
{
	struct link *k = ctx;
	struct error e = {0};
	pthread_t sender;
	int rc;

	thread_hasten();
	rc = channel_open(k, &e);
	if (rc)
		goto out_event;
	rc = thread_start(&sender, "link-send", sender_main, k);
	if (rc) {
		error_set(&e, rc, "cannot start a thread: %s", strerror(-rc));
		goto out_channel;
	}
	rc = messages_run(k, &e);
	link_shutdown(k, e.text);
	pthread_join(sender, NULL);
out_channel:
	channel_end(k);
out_event:
	/* From here on the reason stays what it is: whoever came first has given it. */
	link_shutdown(k, e.text);
	ended_put(k, k->why);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------ */

static int link_new(const struct link_config *c, struct link **out)
{
	struct link *k = calloc(1, sizeof(*k));
	struct link_event *ended = calloc(1, sizeof(*ended));
	pthread_condattr_t attr;

	if (!k || !ended) {
		json_decref(c->hello);
		free(ended);
		free(k);
		return -ENOMEM;
	}
	k->ended = ended;
	k->config = *c;
	k->config.hello = NULL;
	snprintf(k->own_name, sizeof(k->own_name), "%s", json_text_of(c->hello, "name"));
	k->hello = parcel_of(c->hello);
	k->fd = k->abort_fd = -1;
	STAILQ_INIT(&k->queue);
	pthread_mutex_init(&k->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->wake, &attr);
	pthread_condattr_destroy(&attr);
	if (!k->hello)
		link_shutdown(k, "a message could not be made");
	*out = k;
	return 0;
}

static void link_release(struct link *k)
{
	if (k->fd >= 0)
		close(k->fd);
	if (k->abort_fd >= 0)
		close(k->abort_fd);
	queue_clear(k);
	parcel_free(k->hello);
	free(k->ended);
	pthread_cond_destroy(&k->wake);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static int link_start(struct link *k, struct link **out)
{
	int rc = thread_start(&k->thread, "link", link_main, k);

	if (rc)
		link_release(k);
	else
		*out = k;
	return rc;
}

int link_dial(const struct link_config *c, const char *address, uint16_t port, const char *name,
	      struct link **out)
{
	struct link *k;
	int rc = link_new(c, &k);

	if (rc)
		return rc;
	k->dialed = true;
	snprintf(k->address, sizeof(k->address), "%s", address);
	snprintf(k->name, sizeof(k->name), "%s", name);
	k->port = port;
	return link_start(k, out);
}

int link_accept(const struct link_config *c, int fd, struct link **out)
{
	struct link *k;
	int rc = link_new(c, &k);

	if (rc) {
		close(fd);
		return rc;
	}
	k->fd = fd;
	return link_start(k, out);
}

void link_free(struct link *k)
{
	if (!k)
		return;
	link_shutdown(k, "ended by this host");
	pthread_join(k->thread, NULL);
	link_release(k);
}

const char *link_peer_name(const struct link *k)
{
	return k->peer_name;
}

const char *link_peer_role(const struct link *k)
{
	return k->peer_role;
}

bool link_dialed(const struct link *k)
{
	return k->dialed;
}

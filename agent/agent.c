// SPDX-License-Identifier: Apache-2.0
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/acceptor.h"
#include "agent/api.h"
#include "agent/guest.h"
#include "agent/host.h"
#include "agent/unix_socket.h"

#define LOG_MODULE "agent"

/* ---- folders ------------------------------------------------------------------- */

static int folder_make(const char *path, mode_t mode, struct error *e)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	for (size_t i = 1; i <= len; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)i, path);
		if (mkdir(part, path[i] ? 0755 : mode) && errno != EEXIST)
			return error_set(e, -errno, "cannot make the folder %s: %s", part,
					 strerror(errno));
	}
	return 0;
}

static int folders_make(const struct agent_config *c, struct error *e)
{
	char vms[PATH_MAX];
	int rc;

	snprintf(vms, sizeof(vms), "%s/vms", c->state_dir);
	rc = folder_make(c->state_dir, 0700, e);
	if (!rc)
		rc = folder_make(vms, 0700, e);
	if (!rc)
		rc = folder_make(c->run_dir, 0755, e);
	return rc;
}

/* Two polluxds with the same records would be two owners of every VM. */
static int state_lock(struct agent *a, struct error *e)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/lock", a->config.state_dir);
	a->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (a->lock_fd < 0)
		return error_set(e, -errno, "cannot open %s: %s", path, strerror(errno));
	if (flock(a->lock_fd, LOCK_EX | LOCK_NB))
		return error_set(e, -errno, "another polluxd uses %s", a->config.state_dir);
	return 0;
}

/* ---- connections and peers ------------------------------------------------------------ */

static struct guest *guest_of_session(struct agent *a, const uint8_t id[SESSION_ID_SIZE])
{
	struct guest *g;

	LIST_FOREACH(g, &a->guests, entry)
	{
		if ((g->replica_up || g->late) && !memcmp(g->session.id, id, SESSION_ID_SIZE))
			return g;
	}
	return NULL;
}

static void caller_arrived(void *ctx, const struct preamble *p, int fd)
{
	struct agent *a = ctx;
	struct guest *g;

	if (p->kind == PREAMBLE_PEER) {
		peers_accept(a->peers, fd);
		return;
	}
	if (p->stream == CHANNEL_BURST) {
		host_burst_take(a, p->session, fd);
		return;
	}
	g = guest_of_session(a, p->session);
	if (g) {
		guest_stream(g, p->stream, fd);
		return;
	}
	log_warn("a stream of an unknown session is refused");
	close(fd);
}

static void guests_feed(struct agent *a, const struct peer *p, enum ownership_event type)
{
	struct guest *g;

	LIST_FOREACH(g, &a->guests, entry)
	{
		if (!strcmp(g->peer, peer_config(p)->name))
			guest_feed_type(g, type);
	}
}

static void peer_up(void *ctx, struct peer *p)
{
	struct agent *a = ctx;
	struct guest *g;

	guests_feed(a, p, OWN_EV_PEER_UP);
	LIST_FOREACH(g, &a->guests, entry)
	{
		guest_check_peer_up(g, p);
	}
}

static void peer_down(void *ctx, struct peer *p, const char *why)
{
	guests_feed(ctx, p, OWN_EV_PEER_DOWN);
}

static void peer_message(void *ctx, struct peer *p, const json_t *message)
{
	guest_message(ctx, p, message);
}

static json_t *peer_hello_extra(void *ctx)
{
	return json_pack("{s:[s, s, s]}", "can", "migrate", "probe", "disks");
}

/* ---- life ------------------------------------------------------------------------------- */

static int peers_open(struct agent *a, struct error *e)
{
	const struct peers_events events = {.up = peer_up,
					    .down = peer_down,
					    .message = peer_message,
					    .hello = peer_hello_extra,
					    .ctx = a};
	int rc = 0;

	if (a->config.ca[0])
		rc = channel_identity_load(a->config.ca, a->config.cert, a->config.key,
					   &a->identity, e);
	if (!rc)
		rc = peers_create(&a->config, a->identity, a->loop, &events, &a->peers, e);
	return rc;
}

int agent_identity_reload(struct agent *a, struct error *e)
{
	if (!a->identity)
		return error_set(e, -ENOENT, "no certificates are configured");
	return channel_identity_reload(a->identity, a->config.ca, a->config.cert, a->config.key, e);
}

static int api_open(struct agent *a, struct error *e)
{
	char path[PATH_MAX];
	int fd, rc;

	snprintf(path, sizeof(path), "%s/polluxd.sock", a->config.run_dir);
	rc = unix_socket_listen(path, SOCK_STREAM, &fd, e);
	if (rc)
		return rc;
	return http_create(a->loop, fd, api_handle, a, &a->http, e);
}

/* Not from where a polluxd before this one began: its questions may still be answered. */
static int questions_open(struct agent *a, struct error *e)
{
	uint32_t first;

	if (getrandom(&first, sizeof(first), 0) != sizeof(first))
		return error_set(e, -EIO, "the kernel has no random numbers");
	a->last_check = first;
	return 0;
}

/* The port opens when the records are known, the peers are dialed when the port is open. */
static int agent_open(struct agent *a, struct error *e)
{
	int rc;

	rc = questions_open(a, e);
	if (!rc)
		rc = folders_make(&a->config, e);
	if (!rc && (rc = jobs_create(a->loop, &a->jobs)))
		error_set(e, rc, "cannot watch jobs: %s", strerror(-rc));
	if (!rc && (rc = marks_create(&a->marks)))
		error_set(e, rc, "out of memory");
	if (!rc)
		rc = state_lock(a, e);
	if (!rc)
		rc = peers_open(a, e);
	if (!rc)
		rc = guests_load(a, e);
	if (!rc && a->identity)
		rc = acceptor_create(a->loop, a->config.address, a->config.port, caller_arrived, a,
				     &a->acceptor, e);
	if (!rc)
		rc = api_open(a, e);
	return rc;
}

int agent_create(const struct agent_config *c, struct loop *loop, struct agent **out,
		 struct error *e)
{
	struct agent *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return error_set(e, -ENOMEM, "out of memory");
	*a = (struct agent){.config = *c, .loop = loop, .lock_fd = -1, .started_ns = clock_ns()};
	LIST_INIT(&a->guests);
	rc = agent_open(a, e);
	if (rc) {
		agent_destroy(a);
		return rc;
	}
	peers_dial(a->peers);
	log_info("%s is ready: %u VMs known, %u peers", c->name, a->guest_count, c->peer_count);
	*out = a;
	return 0;
}

void agent_destroy(struct agent *a)
{
	struct guest *g;

	if (!a)
		return;
	http_destroy(a->http);
	acceptor_destroy(a->acceptor);
	host_fences_end(a);
	if (jobs_destroy(a->jobs))
		marks_destroy(a->marks);
	explicit_bzero(a->bursts, sizeof(a->bursts));
	while ((g = LIST_FIRST(&a->guests)))
		guest_free(g);
	peers_destroy(a->peers);
	channel_identity_free(a->identity);
	if (a->lock_fd >= 0)
		close(a->lock_fd);
	free(a);
}

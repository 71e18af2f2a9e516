// SPDX-License-Identifier: Apache-2.0
/*
 * agent/: polluxd, the agent of one host. It starts and watches the VM processes,
 * talks to the polluxds of other hosts, decides with ownership.h who may run a
 * guest, fences, and serves the API (docs/api.md) on a unix socket. It never
 * touches guest memory.
 *
 * Threads. All of it runs on the loop that agent_create() was given, but for the
 *          two threads of each peer connection (one receives, one sends and keeps
 *          the heartbeat), which hand over by loop_post().
 * Restart. polluxd may be stopped and started again: VM processes go on, and it
 *          finds them by their control sockets in run_dir.
 */
#ifndef POLLUX_AGENT_H
#define POLLUX_AGENT_H

#include "base/base.h"

#define AGENT_CONFIG_PATH     "/etc/pollux/polluxd.conf"
#define AGENT_SOCKET_PATH     "/run/pollux/polluxd.sock"
#define AGENT_PORT            4077
#define AGENT_NAME_MAX        63
#define AGENT_PEERS_MAX       16
#define FENCE_OPTIONS_MAX     32
#define AGENT_PROTOCOL        1u /* of the messages between polluxds */
#define AGENT_REQUEST_MAX     (256u * 1024)
#define AGENT_CONFIG_TEXT_MAX (64u * 1024)

/* ---- configuration (docs/polluxd-config.md), libconfig syntax ------------- */

struct fence_config {
	char command[256]; /* "" = none */
	struct fence_option {
		char key[64], value[256];
	} options[FENCE_OPTIONS_MAX]; /* given on stdin as key=value lines */
	unsigned option_count;
	uint64_t timeout_ns;
};

struct peer_config {
	char name[AGENT_NAME_MAX + 1]; /* must be the name in the peer's certificate */
	char address[256];
	uint16_t port;
	struct fence_config fence;
};

struct agent_config {
	char name[AGENT_NAME_MAX + 1];
	char address[256]; /* where to listen; "" = any */
	uint16_t port;
	char state_dir[192], run_dir[64], vm_program[256];
	char ca[256], cert[256], key[256];
	uint64_t heartbeat_ns, loss_ns, fence_delay_ns;
	uint64_t protect_again_ns; /* after the standby was lost; 0 = never */
	enum log_level log_level;
	struct peer_config peers[AGENT_PEERS_MAX];
	unsigned peer_count;
};

/* Unknown keys are refused; messages begin with "origin:line: ". `out` is large: not for a stack.
 */
int agent_config_parse(const char *text, const char *origin, struct agent_config *out,
		       struct error *e) MUST_CHECK;
int agent_config_load(const char *path, struct agent_config *out, struct error *e) MUST_CHECK;

/* ---- the agent --------------------------------------------------------- */

struct agent;
/* Listens, finds the VM processes that are there, dials the peers. `c` is copied. */
int agent_create(const struct agent_config *c, struct loop *loop, struct agent **out,
		 struct error *e) MUST_CHECK;
/* Read the certificates again: connections that begin from now on use them. An error leaves all as
 * it was. */
int agent_identity_reload(struct agent *a, struct error *e) MUST_CHECK;
/* VM processes go on without it. */
void agent_destroy(struct agent *a);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * How much the link to another host carries: a burst of octets over a connection of its own, with
 * the encryption of a data stream (docs/protocol.md, "Bursts"). Few and short, for others
 * use the link too.
 *
 * Both ends may wait for the network: never on the loop.
 */
#ifndef POLLUX_AGENT_BURST_H
#define POLLUX_AGENT_BURST_H

#include "channel/channel.h"

#define BURST_BYTES_MAX (UINT64_C(16) << 20)
#define BURST_BLOCK     (256u << 10)
#define BURST_MARKS_MAX (BURST_BYTES_MAX / BURST_BLOCK)

struct burst_key {
	uint8_t session[SESSION_ID_SIZE], key[SESSION_KEY_SIZE];
};
struct burst_result {
	uint64_t bytes, ns;        /* that came; from the first block to the last */
	uint64_t bytes_per_second; /* of the second half; 0 = too little came to tell */
};

/* Up to `most` octets, for a part of a second. */
int burst_send(const char *address, uint16_t port, const struct burst_key *k, uint64_t most,
	       struct burst_result *out, struct error *e) MUST_CHECK;
/* The preamble of `fd` has been read; fd is taken over, also on failure. */
int burst_receive(int fd, const struct burst_key *k, struct error *e) MUST_CHECK;

/* By what time how much had come: oldest first. */
struct burst_mark {
	uint64_t ns, bytes;
};
void burst_judge(const struct burst_mark *marks, unsigned count, struct burst_result *out);

#endif

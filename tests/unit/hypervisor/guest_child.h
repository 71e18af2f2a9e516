// SPDX-License-Identifier: Apache-2.0
/*
 * One process in the life of a test guest (tests/guests/): load it, or boot it, let
 * it run for a moment, stop and save it for the next process.
 */
#ifndef POLLUX_TESTS_GUEST_CHILD_H
#define POLLUX_TESTS_GUEST_CHILD_H

#include "hypervisor/hypervisor.h"

#define GUEST_MEMORY    (UINT64_C(16) << 20)
#define GUEST_STATE_MAX (UINT64_C(1) << 20)

/* What the processes hand on; in shared memory. */
struct guest_image {
	uint64_t state_len; /* 0: boot */
	uint64_t moves, save_ns, load_ns;
	uint8_t state[GUEST_STATE_MAX];
	uint8_t ram[GUEST_MEMORY];
};

struct guest_plan {
	const char *guest;
	const char *engines[2]; /* taken in turn, with the CPU that both have; NULL: KVM */
	char cmdline[256];
	unsigned vcpus;
	bool lazy;       /* its memory comes while it runs */
	bool disk, net;  /* files "disk" and "net" (a unix socket) in... */
	char folder[64]; /* ...this folder */
	int console;     /* where it prints */
};

/* Exit codes: the guest is in the image; it ended itself; something failed. */
enum { CHILD_SAVED, CHILD_ENDED, CHILD_FAILED };
int guest_child(const struct guest_plan *p, struct guest_image *image, unsigned ms);

#endif

// SPDX-License-Identifier: Apache-2.0
/* The inside of a deterministic run. Private to deterministic*.c. */
#ifndef POLLUX_HYPERVISOR_DETERMINISTIC_PARTS_H
#define POLLUX_HYPERVISOR_DETERMINISTIC_PARTS_H

#include <sys/queue.h>

#include "hypervisor/deterministic.h"
#include "hypervisor/record.h"

#define SOURCES_MAX (VM_NICS_MAX + 4u)
#define LATER_MAX   64u
#define QUEUE_MAX   256u /* requests of a disk: as many as a ring has */

/* Nothing comes in; what comes in is recorded; what was recorded comes in. */
enum deterministic_mode { MODE_CLOSED, MODE_RECORD, MODE_REPLAY };

struct input {
	TAILQ_ENTRY(input) link;
	unsigned source;
	size_t len, at;
	uint8_t data[];
};
TAILQ_HEAD(inputs, input);

struct source {
	deterministic_input_fn *input;
	void *ctx;
	struct inputs waiting;
	size_t bytes; /* posted or waiting; under the lock of struct deterministic */
};

struct wrapped_disk {
	struct disk_backend base;
	struct disk_backend *below;
	struct vm *vm;
	unsigned index;
	struct disk_request *queue[QUEUE_MAX]; /* a ring, oldest first */
	unsigned first, count;
};

struct wrapped_nic {
	struct net_backend base;
	struct net_backend *below;
	struct vm *vm;
	unsigned source;
	uint64_t dropped; /* frames that the wire did not take, or the guest not in time */
};

struct deterministic {
	struct vm *vm;
	enum deterministic_mode mode;
	uint64_t schedule, entropy; /* random numbers */
	uint64_t hash_every, epochs, epoch_end;
	void (*on_epoch)(void *ctx, uint64_t epoch, uint64_t instructions, uint64_t hash);
	void *ctx;
	uint64_t (*clock)(const struct engine *en);
	const struct engine *engine;
	uint64_t turn;
	char failure[200];
	bool ended;
	struct record *record;
	char *record_path; /* of the one that is made */
	struct buf body;   /* of a frame in the making */

	struct source sources[SOURCES_MAX];
	unsigned source_count, button;
	pthread_mutex_t lock; /* a leaf: posted, woken, sources[].bytes */
	pthread_cond_t changed;
	struct inputs posted;
	bool woken;

	struct {
		loop_fn *fn;
		void *ctx;
	} later[LATER_MAX]; /* device lock */
	unsigned later_count;
	struct wrapped_disk *disks[VM_DISKS_MAX];
	struct wrapped_nic *nics[VM_NICS_MAX];
};

void deterministic_fail(struct deterministic *d, const char *fmt, ...) PRINTF(2, 3);
void deterministic_diverged(struct deterministic *d, const char *what);
/* d->body, to the recording. */
int deterministic_put(struct deterministic *d, enum record_kind kind);

/* deterministic_backends.c: around those of vm->parts; they do what they are asked at once
 * and in order. */
int deterministic_wrap(struct vm *vm) MUST_CHECK;
void deterministic_unwrap(struct vm *vm);
/* True: there was something to be done. */
bool deterministic_disks_run(struct vm *vm);

#endif

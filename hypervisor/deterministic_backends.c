// SPDX-License-Identifier: Apache-2.0
/*
 * Disks and NICs of a deterministic machine. A disk does one request after the other, on
 * the vCPUs' thread, before the guest goes on; a recording holds what was read, so that a
 * replay needs no disk and changes none. A NIC sends at once or not at all; what it
 * receives is an input.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/deterministic_parts.h"

#define LOG_MODULE "deterministic"

/* ---- disks -------------------------------------------------------------------------- */

static struct wrapped_disk *disk_of(struct disk_backend *b)
{
	return CONTAINER_OF(b, struct wrapped_disk, base);
}

static int disk_submit(struct disk_backend *b, struct disk_request *r)
{
	struct wrapped_disk *w = disk_of(b);

	if (w->count == QUEUE_MAX)
		return -EBUSY;
	w->queue[(w->first + w->count++) % QUEUE_MAX] = r;
	return 0;
}

struct one_request {
	struct disk_request request;
	int rc;
};

static void one_done(struct disk_request *r, int rc)
{
	CONTAINER_OF(r, struct one_request, request)->rc = rc;
}

static int disk_do(struct wrapped_disk *w, const struct disk_request *r)
{
	struct one_request one = {.request = *r};
	int rc;

	one.request.done = one_done;
	rc = w->below->ops->submit(w->below, &one.request);
	if (rc)
		return rc;
	w->below->ops->drain(w->below);
	return one.rc;
}

static void disk_record(struct wrapped_disk *w, const struct disk_request *r, int rc)
{
	struct deterministic *d = w->vm->deterministic;

	buf_put_u32(&d->body, w->index);
	buf_put_u32(&d->body, r->op);
	buf_put_u64(&d->body, r->offset);
	buf_put_u64(&d->body, r->length);
	buf_put_u32(&d->body, (uint32_t)rc);
	for (int i = 0; r->op == DISK_READ && i < r->iov_count; i++)
		buf_put(&d->body, r->iov[i].iov_base, r->iov[i].iov_len);
	(void)!deterministic_put(d, RECORD_DISK);
}

static int disk_replay(struct wrapped_disk *w, const struct disk_request *r)
{
	struct deterministic *d = w->vm->deterministic;
	const struct record_frame *f = record_peek(d->record);
	struct cursor c = f ? f->body : (struct cursor){0};
	bool same = f && f->kind == RECORD_DISK;
	int rc;

	same = same && cursor_u32(&c) == w->index && cursor_u32(&c) == r->op;
	same = same && cursor_u64(&c) == r->offset && cursor_u64(&c) == r->length;
	if (!same) {
		deterministic_diverged(d, "another disk request");
		return -EIO;
	}
	rc = (int)cursor_u32(&c);
	for (int i = 0; r->op == DISK_READ && i < r->iov_count; i++)
		cursor_copy(&c, r->iov[i].iov_base, r->iov[i].iov_len);
	if (cursor_finish(&c))
		deterministic_diverged(d, "a disk request of another length");
	record_next(d->record);
	return rc;
}

static void disk_run_one(struct wrapped_disk *w)
{
	struct disk_request *r = w->queue[w->first];
	enum deterministic_mode mode = w->vm->deterministic->mode;
	int rc;

	w->first = (w->first + 1) % QUEUE_MAX;
	w->count--;
	rc = mode == MODE_REPLAY ? disk_replay(w, r) : disk_do(w, r);
	if (mode == MODE_RECORD)
		disk_record(w, r, rc);
	r->done(r, rc);
}

bool deterministic_disks_run(struct vm *vm)
{
	bool any = false;

	for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
		struct wrapped_disk *w = vm->deterministic->disks[i];

		for (; w && w->count; any = true)
			disk_run_one(w);
	}
	return any;
}

static void disk_drain(struct disk_backend *b)
{
	while (disk_of(b)->count)
		disk_run_one(disk_of(b));
}

/* A replay reads and writes none. */
static int disk_claim(struct disk_backend *b, struct error *e)
{
	struct wrapped_disk *w = disk_of(b);

	return w->vm->deterministic->mode == MODE_REPLAY ? 0 : w->below->ops->claim(w->below, e);
}

static int disk_yield(struct disk_backend *b, struct error *e)
{
	return disk_of(b)->below->ops->yield(disk_of(b)->below, e);
}

static void disk_destroy(struct disk_backend *b)
{
	free(disk_of(b));
}

static const struct disk_backend_ops disk_ops = {disk_submit, disk_drain, disk_claim, disk_yield,
						 disk_destroy};

static int disk_wrap(struct vm *vm, unsigned i)
{
	struct disk_backend *below = vm->parts.disks[i];
	struct wrapped_disk *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->base = *below;
	w->base.ops = &disk_ops;
	w->below = below;
	w->vm = vm;
	w->index = i;
	vm->deterministic->disks[i] = w;
	vm->parts.disks[i] = &w->base;
	return 0;
}

/* ---- NICs --------------------------------------------------------------------------------- */

static struct wrapped_nic *nic_of(struct net_backend *b)
{
	return CONTAINER_OF(b, struct wrapped_nic, base);
}

/* The guest is told the same in each run, whatever becomes of the frame. */
static int nic_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct wrapped_nic *w = nic_of(b);

	if (w->vm->deterministic->mode == MODE_RECORD &&
	    w->below->ops->send(w->below, iov, iov_count))
		w->dropped++;
	return 0;
}

static void nic_set_receiving(struct net_backend *b, bool on)
{
}

static void nic_destroy(struct net_backend *b)
{
	struct wrapped_nic *w = nic_of(b);

	if (w->dropped)
		log_info("%llu frames were dropped", (unsigned long long)w->dropped);
	w->below->front = (struct net_front){0};
	free(w);
}

static const struct net_backend_ops nic_ops = {nic_send, nic_set_receiving, nic_destroy};

/* The loop's thread. */
static int below_receive(void *ctx, const void *frame, size_t len)
{
	struct wrapped_nic *w = ctx;

	if (deterministic_listens(w->vm) && deterministic_post(w->vm, w->source, frame, len))
		w->dropped++;
	return 0;
}

static void below_writable(void *ctx)
{
}

static size_t nic_input(void *ctx, const uint8_t *data, size_t n)
{
	struct wrapped_nic *w = ctx;
	const struct net_front *front = &w->base.front;

	return front->receive && front->receive(front->ctx, data, n) == -EAGAIN ? 0 : n;
}

static int nic_wrap(struct vm *vm, unsigned i)
{
	struct net_backend *below = vm->parts.nets[i];
	struct wrapped_nic *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->base.ops = &nic_ops;
	w->below = below;
	w->vm = vm;
	vm->deterministic->nics[i] = w;
	vm->parts.nets[i] = &w->base;
	below->front = (struct net_front){below_receive, below_writable, w};
	below->ops->set_receiving(below, true);
	return deterministic_source(vm, nic_input, w, &w->source);
}

/* ---- both ------------------------------------------------------------------------------------ */

int deterministic_wrap(struct vm *vm)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.nic_count; i++)
		rc = nic_wrap(vm, i);
	for (unsigned i = 0; !rc && i < vm->config.disk_count; i++)
		rc = disk_wrap(vm, i);
	return rc;
}

void deterministic_unwrap(struct vm *vm)
{
	struct deterministic *d = vm->deterministic;

	for (unsigned i = 0; i < VM_NICS_MAX; i++)
		if (d->nics[i]) {
			vm->parts.nets[i] = d->nics[i]->below;
			nic_destroy(&d->nics[i]->base);
		}
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		if (d->disks[i]) {
			vm->parts.disks[i] = d->disks[i]->below;
			disk_destroy(&d->disks[i]->base);
		}
}

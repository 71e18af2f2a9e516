// SPDX-License-Identifier: Apache-2.0
/*
 * A running vm moves to another process of this host, of a newer build as a rule: its
 * memory is a memfd that both map, so that nothing is copied, and all else is its state
 * and descriptors.
 *
 * Who has the vm. The old process stands still from "yield" on. The successor runs
 * nothing until it has renamed its own socket to the path of the old one: that rename
 * is the taking over, and it comes when all that can fail has succeeded. The old process
 * goes on only after it has unlinked the successor's socket: then there is nothing to
 * rename. Of the two calls one fails. So each side can decide for itself at any time,
 * also when polluxd has died: the old process ends if the other one is found at its
 * path, and otherwise it goes on.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE       "upgrade"
#define HANDOVER_OLDEST  1 /* read: this one and all up to */
#define HANDOVER_VERSION 1
#define HANDOVER_MOST    (UINT64_C(256) << 20)

/* What is handed over: a file of pieces (state, one for each NIC, console), and descriptors:
 * of that file, the viewer's two, the NICs', the disks'. */
enum { FD_IN, FD_OUT, FD_NICS, FD_DISKS = FD_NICS + VM_NICS_MAX, FDS = FD_DISKS + VM_DISKS_MAX };
#define PIECES_MAX (2u + VM_NICS_MAX)
_Static_assert(1 + FDS <= CONTROL_FDS_MAX, "the file and all descriptors fit in a message");

struct handover {
	struct buf file;
	size_t end[PIECES_MAX]; /* of each piece */
	unsigned pieces;
	int fds[FDS]; /* -1: there is none */
	uint64_t stopped_ns;
};

static void piece_end(struct handover *h)
{
	h->end[h->pieces++] = h->file.len;
}

/* ---- the old process: to stand still ------------------------------------------------ */

static int flush_finish(struct process *p, struct error *e)
{
	if (!p->flush_running)
		return 0;
	if (pthread_tryjoin_np(p->flush_thread, NULL))
		return error_set(e, -EBUSY, "its disks are still being flushed after a promotion");
	p->flush_running = false;
	return 0;
}

static int may_yield(struct process *p, struct error *e)
{
	if (p->role != ROLE_PRIMARY || !p->vm_started || p->vm_ended)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->replicator || p->replicator_state != REPLICATOR_UNPROTECTED)
		return error_set(e, -EBUSY, "a protected vm cannot be upgraded: unprotect first");
	if (!vm_ram_is_whole(p->vm)) /* a thread that waits for it would not stand still */
		return error_set(e, -EBUSY, "some of its memory is still to come");
	if (p->image || p->image_saved)
		return error_set(e, -EBUSY, "the vm is being saved");
	if (p->dump)
		return error_set(e, -EBUSY, "a core of the vm is being written");
	if (!p->control_path)
		return error_set(e, -EINVAL, "a vm without a control path has no successors");
	return flush_finish(p, e);
}

int upgrade_lend(struct process *p, struct request *q, struct error *e)
{
	int rc = may_yield(p, e);

	if (rc)
		return rc;
	q->reply_fds[0] = vm_ram_fd(p->vm);
	q->reply_fd_count = 1;
	return 0;
}

/* What the guest asked of the disks is done, or not in time. */
static int disks_settle(struct process *p, struct error *e)
{
	int rc = vm_pause_idle(p->vm, VM_PAUSE_IDLE_NS, NULL);

	if (!rc)
		rc = vm_resume(p->vm);
	return rc ? error_set(e, rc, "its disks do not come to rest: %s", strerror(-rc)) : 0;
}

static void disks_drain(struct process *p)
{
	for (unsigned i = 0; i < p->config.disk_count; i++) {
		struct disk_backend *b = mirror_source_backend(p->disks[i].source);

		b->ops->drain(b);
	}
}

static int frames_check(struct process *p, struct error *e)
{
	struct netbuf_stats s;

	for (unsigned i = 0; i < p->config.nic_count; i++) {
		netbuf_stats(p->nics[i].netbuf, &s);
		if (s.held_frames)
			return error_set(e, -EBUSY, "frames of the guest wait for the network");
	}
	return 0;
}

static void go_on(struct process *p)
{
	parts_release(p);
	if (!p->paused)
		vm_unstall(p->vm, STALL_ORDER);
}

/* vCPUs first: then nothing new is asked of the devices. Then the loop: then nobody else
 * touches them, and the little that a doorbell may have begun meanwhile is waited for here. */
static int stand_still(struct process *p, struct error *e)
{
	int rc;

	if (!p->paused)
		vm_stall(p->vm, STALL_ORDER);
	rc = disks_settle(p, e);
	if (!rc && (rc = parts_hold(p)))
		error_set(e, rc, "no memory");
	if (rc) {
		if (!p->paused)
			vm_unstall(p->vm, STALL_ORDER);
		return rc;
	}
	disks_drain(p);
	rc = vm_has_ended(p->vm) ? error_set(e, -ESHUTDOWN, "the guest has just ended")
				 : frames_check(p, e);
	if (rc)
		go_on(p);
	return rc;
}

/* ---- the old process: what it hands over ----------------------------------------------- */

static int state_put(struct process *p, struct handover *h, struct error *e)
{
	int rc = vm_pause(p->vm), resumed;

	if (rc)
		return error_set(e, rc, "the vm cannot be paused: %s", strerror(-rc));
	rc = vm_state_save(p->vm, &h->file, e);
	resumed = vm_resume(p->vm);
	if (resumed && !rc)
		rc = error_set(e, resumed, "the vm cannot be resumed: %s", strerror(-resumed));
	piece_end(h);
	return rc;
}

static int handover_fill(struct process *p, struct handover *h, struct error *e)
{
	int rc = state_put(p, h, e);

	if (rc)
		return rc;
	for (unsigned i = 0; i < p->config.nic_count; i++) {
		net_backend_yield(&p->config.nics[i], p->nics[i].wire, &h->fds[FD_NICS + i],
				  &h->file);
		piece_end(h);
	}
	for (unsigned i = 0; i < p->config.disk_count; i++)
		h->fds[FD_DISKS + i] = p->disks[i].file->fd;
	console_yield(p->console, p->vm, &h->file, h->fds);
	piece_end(h);
	rc = buf_check(&h->file);
	if (rc)
		console_unyield(p->console);
	return rc ? error_set(e, rc, "no memory for what is handed over") : 0;
}

static int file_make(const struct buf *b, int *out, struct error *e)
{
	int fd = memfd_create("handover", MFD_CLOEXEC);
	int rc = fd < 0 ? -errno : fd_write_all(fd, b->data, b->len);

	if (rc) {
		if (fd >= 0)
			close(fd);
		return error_set(e, rc, "no file for what is handed over: %s", strerror(-rc));
	}
	*out = fd;
	return 0;
}

/* The descriptors that there are, and where each of them is among those. */
static json_t *fds_put(struct process *p, const struct handover *h, struct request *q)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < FDS; i++) {
		int at = h->fds[i] < 0 ? -1 : (int)q->reply_fd_count;

		if (at >= 0)
			q->reply_fds[q->reply_fd_count++] = h->fds[i];
		json_array_append_new(list, json_integer(at));
	}
	return list;
}

static int handover_reply(struct process *p, const struct handover *h, struct request *q,
			  struct error *e)
{
	json_t *ends = json_array(), *o;
	int rc = file_make(&h->file, &q->reply_fds[0], e);

	for (unsigned i = 0; !rc && i < h->pieces; i++)
		json_array_append_new(ends, json_integer((json_int_t)h->end[i]));
	if (rc) {
		json_decref(ends);
		return rc;
	}
	q->reply_fd_count = 1;
	q->reply_fd_close = true;
	o = json_pack("{s:i, s:I, s:b, s:b, s:o, s:o}", "version", HANDOVER_VERSION, "stopped_ns",
		      (json_int_t)h->stopped_ns, "paused", p->paused, "announced", p->announced > 0,
		      "ends", ends, "fds", fds_put(p, h, q));
	return json_object_set_new(q->reply, "handover", o) ? error_set(e, -ENOMEM, "no memory")
							    : 0;
}

static int hand_over(struct process *p, struct handover *h, struct request *q, struct error *e)
{
	int rc = handover_fill(p, h, e);

	if (rc)
		return rc;
	rc = fault_point("upgrade.yield");
	if (!rc)
		rc = handover_reply(p, h, q, e);
	if (rc)
		console_unyield(p->console);
	return rc;
}

int upgrade_yield(struct process *p, struct request *q, struct error *e)
{
	const char *next = json_string_value(json_object_get(q->body, "next"));
	struct handover h = {.stopped_ns = clock_ns()};
	int rc = may_yield(p, e);

	if (rc)
		return rc;
	if (!next || strlen(next) >= sizeof p->next_path)
		return error_set(e, -EINVAL, "yield needs the path \"next\"");
	strcpy(p->next_path, next);
	memset(h.fds, -1, sizeof h.fds);
	rc = stand_still(p, e);
	if (rc)
		return rc;
	rc = hand_over(p, &h, q, e);
	buf_free(&h.file);
	if (rc) {
		go_on(p);
		return rc;
	}
	loop_timer_set(p->announce, 0);
	p->yielded = true;
	log_info("the vm stands still, to go on in another process");
	return 0;
}

/* ---- the old process: to go on, or not ---------------------------------------------- */

static int reclaim(struct process *p)
{
	int rc = unlink(p->next_path) ? -errno : 0;

	if (rc == -ENOENT)
		rc = process_is_found(p) ? 0 : -EALREADY;
	if (rc)
		return rc;
	p->yielded = false;
	console_unyield(p->console);
	go_on(p);
	if (p->announced)
		process_announce(p);
	log_info("the vm goes on here");
	return 0;
}

int upgrade_unyield(struct process *p, struct request *q, struct error *e)
{
	int rc = p->yielded ? reclaim(p) : 0;

	(void)q;
	if (rc == -EALREADY)
		return error_set(e, rc, "another process has the vm");
	return rc ? error_set(e, rc, "%s cannot be removed: %s", p->next_path, strerror(-rc)) : 0;
}

int upgrade_orphaned(struct process *p)
{
	int rc = p->yielded ? reclaim(p) : 0;

	if (rc == -EALREADY)
		log_info("another process has the vm; ending");
	else if (rc)
		log_error_rc(rc, "whose the vm is cannot be found out: it stands still");
	return rc;
}

/* ---- the new process ---------------------------------------------------------------- */

int upgrade_hold(struct process *p, struct error *e)
{
	int rc = parts_hold(p);

	return rc ? error_set(e, rc, "no memory") : 0;
}

static int file_take(int fd, struct buf *out)
{
	struct stat st;
	uint8_t *to;

	if (fd < 0 || fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size > HANDOVER_MOST)
		return -EBADMSG;
	to = buf_extend(out, (size_t)st.st_size);
	if (!to)
		return -ENOMEM;
	return pread(fd, to, (size_t)st.st_size, 0) == (ssize_t)st.st_size ? 0 : -EIO;
}

static int ends_parse(const json_t *o, const struct process *p, struct handover *h)
{
	const json_t *ends = json_object_get(o, "ends");
	size_t before = 0;

	if (json_array_size(ends) != 2 + p->config.nic_count)
		return -EBADMSG;
	for (size_t i = 0; i < json_array_size(ends); i++) {
		json_int_t end = json_integer_value(json_array_get(ends, i));

		if (end < 0 || (uint64_t)end < before || (uint64_t)end > h->file.len)
			return -EBADMSG;
		h->end[h->pieces++] = before = (size_t)end;
	}
	return 0;
}

/* They become the handover's. */
static int fds_parse(const json_t *o, const struct process *p, struct request *q,
		     struct handover *h)
{
	const json_t *list = json_object_get(o, "fds");

	if (json_array_size(list) != FDS)
		return -EBADMSG;
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_int_t at = json_integer_value(json_array_get(list, i));

		if (at < -1 || at == 0 || at >= CONTROL_FDS_MAX)
			return -EBADMSG;
		h->fds[i] = at < 0 ? -1 : request_fd(q, (unsigned)at);
		if (at >= 0 && h->fds[i] < 0)
			return -EBADMSG;
	}
	return 0;
}

static int handover_parse(const json_t *o, const struct process *p, struct request *q,
			  struct handover *h, struct error *e)
{
	json_int_t version = json_integer_value(json_object_get(o, "version"));
	int rc;

	if (!version_within((uint64_t)version, HANDOVER_OLDEST, HANDOVER_VERSION))
		return error_set(e, -EPROTONOSUPPORT,
				 "the handover has version %d, this program reads %d to %d",
				 (int)version, HANDOVER_OLDEST, HANDOVER_VERSION);
	h->stopped_ns = (uint64_t)json_integer_value(json_object_get(o, "stopped_ns"));
	rc = file_take(q->fd_count ? q->fds[0] : -1, &h->file);
	if (!rc)
		rc = ends_parse(o, p, h);
	if (!rc)
		rc = fds_parse(o, p, q, h);
	return rc ? error_set(e, rc, "what was handed over is damaged: %s", strerror(-rc)) : 0;
}

static const uint8_t *piece(const struct handover *h, unsigned i, size_t *n)
{
	size_t begin = i ? h->end[i - 1] : 0;

	*n = h->end[i] - begin;
	return h->file.data + begin;
}

static int nics_adopt(struct process *p, struct handover *h, struct error *e)
{
	const uint8_t *data;
	int rc = 0;
	size_t n;

	for (unsigned i = 0; !rc && i < p->config.nic_count; i++) {
		data = piece(h, 1 + i, &n);
		rc = net_backend_adopt(&p->config.nics[i], p->nics[i].wire, h->fds[FD_NICS + i],
				       data, n, e);
		if (!rc)
			h->fds[FD_NICS + i] = -1;
	}
	return rc;
}

/* With the images' locks: there is no moment at which another process could have them. */
static int disks_adopt(struct process *p, struct handover *h, struct error *e)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < p->config.disk_count; i++) {
		int fd = h->fds[FD_DISKS + i];

		h->fds[FD_DISKS + i] = -1;
		rc = disk_backend_adopt(p->disks[i].file, fd, e);
	}
	return rc;
}

static int parts_adopt(struct process *p, struct handover *h, struct error *e)
{
	const uint8_t *data;
	size_t n;
	int rc;

	data = piece(h, 0, &n);
	rc = vm_state_load(p->vm, data, n, e);
	if (!rc)
		rc = nics_adopt(p, h, e);
	if (!rc)
		rc = disks_adopt(p, h, e);
	if (rc)
		return rc;
	data = piece(h, h->pieces - 1, &n);
	rc = console_adopt(p->console, data, n, h->fds[FD_IN], h->fds[FD_OUT]);
	h->fds[FD_IN] = h->fds[FD_OUT] = -1;
	if (rc)
		return error_set(e, rc, "the console cannot be taken over: %s", strerror(-rc));
	return vm_prepare(p->vm, e);
}

/* From here on this process is the vm. */
static int take_over(struct process *p, const char *control, struct error *e)
{
	int rc = fault_point("upgrade.commit");

	if (!rc && rename(p->control_path, control))
		rc = -errno;
	if (rc)
		return error_set(e, rc, "the vm was not given up: %s", strerror(-rc));
	strcpy(p->own_path, control);
	p->control_path = p->own_path;
	return 0;
}

static int adopt_and_start(struct process *p, const json_t *o, const char *control,
			   struct handover *h, struct error *e)
{
	int rc = fault_point("upgrade.adopt");

	if (fault_point("upgrade.hang"))
		raise(SIGSTOP);
	if (!rc)
		rc = parts_adopt(p, h, e);
	p->paused = json_is_true(json_object_get(o, "paused"));
	if (!rc && p->paused)
		vm_stall(p->vm, STALL_ORDER);
	if (!rc)
		rc = take_over(p, control, e);
	if (rc)
		return rc;
	p->successor = false;
	p->vm_started = true;
	rc = vm_start(p->vm, e);
	parts_release(p);
	if (json_is_true(json_object_get(o, "announced")))
		process_announce(p);
	return rc;
}

static void handover_free(struct handover *h)
{
	buf_free(&h->file);
	for (unsigned i = 0; i < FDS; i++)
		if (h->fds[i] >= 0)
			close(h->fds[i]);
}

int upgrade_adopt(struct process *p, struct request *q, struct error *e)
{
	const char *control = json_string_value(json_object_get(q->body, "control"));
	const json_t *o = json_object_get(q->body, "handover");
	struct handover h = {0};
	uint64_t down;
	int rc;

	if (!p->successor || !p->vm || !p->control_path)
		return error_set(e, -EINVAL, "this process is no successor");
	if (!control || strlen(control) >= sizeof p->own_path)
		return error_set(e, -EINVAL, "adopt needs the \"control\" path");
	memset(h.fds, -1, sizeof h.fds);
	rc = handover_parse(o, p, q, &h, e);
	if (!rc)
		rc = adopt_and_start(p, o, control, &h, e);
	down = clock_ns() - h.stopped_ns;
	handover_free(&h);
	if (rc)
		return rc;
	json_object_set_new(q->reply, "downtime_ns", json_integer((json_int_t)down));
	log_info("the vm goes on here; it stood still for %.2f ms", (double)down / 1e6);
	return 0;
}

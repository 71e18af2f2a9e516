// SPDX-License-Identifier: Apache-2.0
/* Open what the vm stands on, each back end wrapped by what replication needs. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "parts"

static void nic_output(void *ctx)
{
	struct process_nic *n = ctx;

	primary_output(n->process);
}

static void nic_audit(void *ctx, uint64_t first, uint64_t last, uint64_t epoch,
		      uint64_t acknowledged)
{
	struct process_nic *n = ctx;

	log_debug("nic %u: frames %lu-%lu of epoch %lu released, acknowledged %lu",
		  (unsigned)(n - n->process->nics), first, last, epoch, acknowledged);
}

static int nic_open(struct process *p, unsigned i, struct error *e)
{
	struct process_nic *n = &p->nics[i];
	struct netbuf_config c = {.on_output = nic_output, .on_release = nic_audit, .ctx = n};
	int rc = p->successor ? net_backend_make(&p->config.nics[i], p->io, &n->wire, e)
			      : net_backend_open(&p->config.nics[i], p->io, &n->wire, e);

	n->process = p;
	if (rc)
		return error_context(e, "nic %u", i);
	rc = netbuf_create(n->wire, p->io, &c, &n->netbuf);
	if (rc)
		return error_set(e, rc, "nic %u: no buffer for held output: %s", i, strerror(-rc));
	return 0;
}

/* The standby writes the disk through the page cache: staged data has no alignment. */
static int target_open(struct process *p, unsigned i, struct error *e)
{
	struct process_disk *d = &p->disks[i];
	int rc;

	d->target_fd = open(p->config.disks[i].path, O_RDWR | O_CLOEXEC);
	if (d->target_fd < 0)
		return error_set(e, -errno, "disk %u: cannot open %s: %s", i,
				 p->config.disks[i].path, strerror(errno));
	rc = mirror_target_create(d->target_fd, d->file->size, (uint16_t)i, &d->target);
	if (rc)
		return error_set(e, rc, "disk %u: no mirror target: %s", i, strerror(-rc));
	return 0;
}

static int disk_open(struct process *p, unsigned i, struct error *e)
{
	struct process_disk *d = &p->disks[i];
	int rc = disk_backend_open(&p->config.disks[i], p->io, &d->file, e);

	d->process = p;
	if (rc)
		return error_context(e, "disk %u", i);
	rc = mirror_source_create(d->file, (uint16_t)i, p->io, &d->source);
	if (rc)
		return error_set(e, rc, "disk %u: no mirror: %s", i, strerror(-rc));
	if (p->role == ROLE_STANDBY && !d->file->readonly)
		return target_open(p, i, e);
	return 0;
}

struct posted_vm_event {
	struct process *process;
	enum vm_event event;
	char detail[200];
};

static void run_vm_event(void *ctx)
{
	struct posted_vm_event *v = ctx;

	process_vm_event(v->process, v->event, v->detail);
	free(v);
}

static void on_vm_event(void *ctx, enum vm_event event, const char *detail)
{
	struct process *p = ctx;
	struct posted_vm_event *v = calloc(1, sizeof *v);

	if (!v) {
		log_error("no memory to report that the guest has ended");
		return;
	}
	v->process = p;
	v->event = event;
	text_copy(v->detail, sizeof v->detail, detail);
	process_post(p, run_vm_event, v);
}

static void *io_main(void *ctx)
{
	struct process *p = ctx;
	int rc;

	log_context_vm(p->config.name);
	rc = loop_run(p->io);
	if (rc)
		log_error_rc(rc, "the device loop ended");
	return NULL;
}

/* Without it a migration to here can do all but postcopy. A lazy restore then says why not. */
static void lazy_prepare(struct process *p)
{
	struct error e = {0};

	p->lazy_ready = !vm_lazy_prepare(p->vm, &e);
	if (!p->lazy_ready)
		log_info("no memory can come later here: %s", e.text);
}

int parts_open(struct process *p, int console_in, int console_out,
	       const struct vm_deterministic *deterministic, struct error *e)
{
	struct vm_parts parts = {.io = p->io,
				 .ram_fd = p->ram_fd,
				 .deterministic = deterministic,
				 .on_event = on_vm_event,
				 .ctx = p};
	int rc = console_create(p->control, &p->console, e);

	for (unsigned i = 0; !rc && i < p->config.nic_count; i++) {
		/* Nothing would come of a wire. */
		if (deterministic && !deterministic->record)
			p->config.nics[i].kind = NIC_NONE;
		rc = nic_open(p, i, e);
		if (!rc)
			parts.nets[i] = netbuf_backend(p->nics[i].netbuf);
	}
	for (unsigned i = 0; !rc && i < p->config.disk_count; i++) {
		rc = disk_open(p, i, e);
		if (!rc)
			parts.disks[i] = mirror_source_backend(p->disks[i].source);
	}
	if (rc)
		return rc;
	parts.console_in = parts.console_out = console_vm_fd(p->console);
	rc = vm_create(&p->config, &parts, &p->vm, e);
	if (rc)
		return rc;
	if (p->role == ROLE_STANDBY || p->lazy_asked)
		lazy_prepare(p);
	if (console_out >= 0) {
		rc = console_attach(p->console, console_in, console_out);
		if (rc)
			return error_set(e, rc, "cannot use that console: %s", strerror(-rc));
	}
	return 0;
}

int parts_run(struct process *p, struct error *e)
{
	int rc = thread_start(&p->io_thread, "devices", io_main, p);

	if (rc)
		return error_set(e, rc, "cannot start the device thread: %s", strerror(-rc));
	p->io_running = true;
	return 0;
}

static void io_hold(void *ctx)
{
	struct process *p = ctx;

	pthread_mutex_lock(&p->hold_lock);
	p->io_held = true;
	pthread_cond_broadcast(&p->hold_change);
	while (p->io_hold)
		pthread_cond_wait(&p->hold_change, &p->hold_lock);
	p->io_held = false;
	pthread_mutex_unlock(&p->hold_lock);
}

/* Its callbacks may want the device lock: not for a caller that has it. */
int parts_hold(struct process *p)
{
	int rc;

	pthread_mutex_lock(&p->hold_lock);
	p->io_hold = true;
	pthread_mutex_unlock(&p->hold_lock);
	rc = loop_post(p->io, io_hold, p);
	if (rc) {
		p->io_hold = false;
		return rc;
	}
	pthread_mutex_lock(&p->hold_lock);
	while (!p->io_held)
		pthread_cond_wait(&p->hold_change, &p->hold_lock);
	pthread_mutex_unlock(&p->hold_lock);
	return 0;
}

void parts_release(struct process *p)
{
	pthread_mutex_lock(&p->hold_lock);
	p->io_hold = false;
	pthread_cond_broadcast(&p->hold_change);
	pthread_mutex_unlock(&p->hold_lock);
}

/* The reverse of parts_open(), from wherever that got to. */
void parts_close(struct process *p)
{
	if (p->io_running) {
		loop_stop(p->io);
		parts_release(p);
		pthread_join(p->io_thread, NULL);
		p->io_running = false;
	}
	if (p->vm)
		vm_destroy(p->vm);
	p->vm = NULL;
	for (unsigned i = 0; i < p->config.disk_count; i++) {
		struct process_disk *d = &p->disks[i];

		mirror_target_destroy(d->target);
		if (d->target_fd > 0)
			close(d->target_fd);
		mirror_source_destroy(d->source);
		if (d->file)
			d->file->ops->destroy(d->file);
		*d = (struct process_disk){0};
	}
	for (unsigned i = 0; i < p->config.nic_count; i++) {
		struct process_nic *n = &p->nics[i];

		netbuf_destroy(n->netbuf);
		if (n->wire)
			n->wire->ops->destroy(n->wire);
		*n = (struct process_nic){0};
	}
	console_destroy(p->console);
	p->console = NULL;
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "dump"

struct dump {
	struct process *process;
	pthread_t thread;
	int fd;
	struct vm_core_options options;
	atomic_bool cancelled;
	_Atomic uint64_t done, total;
	/* What became of it: of the main thread when the thread has ended. */
	int rc;
	struct error error;
	struct vm_core_result result;
};

static bool dump_goes_on(void *ctx, uint64_t done, uint64_t total)
{
	struct dump *d = ctx;

	atomic_store(&d->done, done);
	atomic_store(&d->total, total);
	return !atomic_load(&d->cancelled);
}

static void dump_free(struct dump *d)
{
	close(d->fd);
	free(d);
}

static json_t *end_json(const struct dump *d)
{
	const struct vm_core_result *r = &d->result;
	json_t *o = json_pack("{s:s, s:b, s:I, s:b}", "event", "dump", "ok", !d->rc, "pause_ns",
			      (json_int_t)r->pause_ns, "live", d->options.live);

	if (d->rc) {
		json_object_set_new(o, "code", json_integer(d->rc));
		json_object_set_new(o, "error", json_string(d->error.text));
		return o;
	}
	json_object_set_new(o, "bytes", json_integer((json_int_t)r->bytes));
	json_object_set_new(o, "size", json_integer((json_int_t)r->size));
	json_object_set_new(o, "segments", json_integer((json_int_t)r->segments));
	json_object_set_new(o, "vmcoreinfo", json_boolean(r->vmcoreinfo));
	if (d->options.paging)
		json_object_set_new(o, "paging_vcpu", json_integer(r->paging_vcpu));
	return o;
}

static void dump_ended(void *ctx)
{
	struct process *p = ctx;
	struct dump *d = p->dump;

	if (!d) /* dump_close() has waited for it */
		return;
	pthread_join(d->thread, NULL);
	p->dump = NULL;
	if (d->rc)
		log_warn("no core was written: %s", d->error.text);
	else
		log_info("a core was written: %lu bytes, the guest paused for %lu ms",
			 d->result.bytes, d->result.pause_ns / NS_PER_MS);
	process_event(p, end_json(d));
	dump_free(d);
}

static void *dump_main(void *ctx)
{
	struct dump *d = ctx;
	struct process *p = d->process;

	log_context_vm(p->config.name);
	d->rc = vm_dump_core(p->vm, d->fd, &d->options, &d->result, &d->error);
	process_post(p, dump_ended, p);
	return NULL;
}

static int may_dump(const struct process *p, struct error *e)
{
	if (!p->vm || p->role != ROLE_PRIMARY || !p->vm_started)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->dump)
		return error_set(e, -EBUSY, "a core of the vm is being written already");
	if (p->image || p->image_saved)
		return error_set(e, -EBUSY, "the vm is being saved");
	/* Its standby would take the silence of a long pause for a death. */
	if (p->replicator)
		return error_set(e, -EBUSY,
				 "a protected vm cannot be paused for a core: unprotect first");
	return process_whole(p, e);
}

static struct dump *dump_new(struct process *p, const json_t *request, int fd)
{
	struct dump *d = calloc(1, sizeof *d);

	if (!d) {
		close(fd);
		return NULL;
	}
	d->process = p;
	d->fd = fd;
	d->options = (struct vm_core_options){
		.paging = json_is_true(json_object_get(request, "paging")),
		.live = json_is_true(json_object_get(request, "live")),
		.go_on = dump_goes_on,
		.ctx = d,
	};
	return d;
}

int dump_begin(struct process *p, const json_t *request, int fd, struct error *e)
{
	int rc = may_dump(p, e);

	if (rc) {
		close(fd);
		return rc;
	}
	p->dump = dump_new(p, request, fd);
	if (!p->dump)
		return error_set(e, -ENOMEM, "no memory for a core dump");
	rc = thread_start(&p->dump->thread, "dump", dump_main, p->dump);
	if (!rc)
		return 0;
	dump_free(p->dump);
	p->dump = NULL;
	return error_set(e, rc, "cannot start a thread for a core dump: %s", strerror(-rc));
}

void dump_cancel(struct process *p)
{
	if (p->dump)
		atomic_store(&p->dump->cancelled, true);
}

void dump_close(struct process *p)
{
	struct dump *d = p->dump;

	if (!d)
		return;
	dump_cancel(p);
	pthread_join(d->thread, NULL);
	p->dump = NULL;
	dump_free(d);
}

json_t *dump_json(const struct process *p)
{
	return json_pack("{s:I, s:I, s:b}", "done", (json_int_t)atomic_load(&p->dump->done),
			 "total", (json_int_t)atomic_load(&p->dump->total), "live",
			 p->dump->options.live);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "dump"

#define PARTIAL    ".partial"

struct dump {
	struct process *process;
	pthread_t thread;
	int fd;
	char path[384]; /* of a guest that has crashed; else "": the director has named the file */
	char crash[200];
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

/* Its name without the end says that a core is whole. */
static void path_settle(struct dump *d)
{
	char path[sizeof d->path];

	snprintf(path, sizeof path, "%.*s", (int)(strlen(d->path) - strlen(PARTIAL)), d->path);
	if (d->rc)
		unlink(d->path);
	else if (rename(d->path, path))
		log_warn_rc(errno, "the core stays in %s", d->path);
	else
		log_info("the core of the guest that crashed is in %s", path);
}

static void dump_free(struct dump *d)
{
	if (*d->path)
		path_settle(d);
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

/* Now its end may be told: with that the process is no longer needed. */
static void crash_ended(struct process *p, struct dump *d)
{
	char crash[sizeof d->crash];

	text_copy(crash, sizeof crash, d->crash);
	dump_free(d);
	process_vm_tell(p, VM_EVENT_CRASH, crash);
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
	if (*d->path) {
		crash_ended(p, d);
		return;
	}
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

static int dump_start(struct process *p, struct dump *d, struct error *e)
{
	int rc;

	d->process = p;
	d->options.go_on = dump_goes_on;
	d->options.ctx = d;
	p->dump = d;
	rc = thread_start(&d->thread, "dump", dump_main, d);
	if (!rc)
		return 0;
	p->dump = NULL;
	d->rc = rc;
	dump_free(d);
	return error_set(e, rc, "cannot start a thread for a core dump: %s", strerror(-rc));
}

int dump_begin(struct process *p, const json_t *request, int fd, struct error *e)
{
	int rc = may_dump(p, e);
	struct dump *d = rc ? NULL : calloc(1, sizeof *d);

	if (!d) {
		close(fd);
		return rc ? rc : error_set(e, -ENOMEM, "no memory for a core dump");
	}
	d->fd = fd;
	d->options.paging = json_is_true(json_object_get(request, "paging"));
	d->options.live = json_is_true(json_object_get(request, "live"));
	return dump_start(p, d, e);
}

/* ---- guests that have crashed ------------------------------------------------------ */

static int crash_file(struct process *p, struct dump *d, struct error *e)
{
	char when[32] = "";
	time_t now = time(NULL);
	struct tm utc;

	if (gmtime_r(&now, &utc))
		strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &utc);
	snprintf(d->path, sizeof d->path, "%s/%s-%s.core" PARTIAL, p->config.crash_cores,
		 p->config.name, when);
	d->fd = open(d->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return d->fd < 0 ? error_set(e, -errno, "%s: %s", d->path, strerror(errno)) : 0;
}

/* All vCPUs are parked for good; the state that they crashed in is what is wanted. */
bool dump_crash(struct process *p, const char *detail)
{
	struct error e = {0};
	struct dump *d;
	int rc;

	if (!*p->config.crash_cores || p->dump || p->replicator || !vm_has_ended(p->vm) ||
	    !vm_ram_is_whole(p->vm))
		return false;
	d = calloc(1, sizeof *d);
	rc = d ? crash_file(p, d, &e) : error_set(&e, -ENOMEM, "no memory");
	if (rc) {
		free(d);
	} else {
		text_copy(d->crash, sizeof d->crash, detail);
		rc = dump_start(p, d, &e);
	}
	if (rc)
		log_error("there is no core of the guest that crashed: %s", e.text);
	return !rc;
}

void dump_cancel(struct process *p)
{
	if (p->dump && !*p->dump->path)
		atomic_store(&p->dump->cancelled, true);
}

void dump_close(struct process *p)
{
	struct dump *d = p->dump;

	if (!d)
		return;
	atomic_store(&d->cancelled, true);
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

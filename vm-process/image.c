// SPDX-License-Identifier: Apache-2.0
/* Saving the vm to a file, and making it from one; each on a thread of its own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm-process/process.h"

#define LOG_MODULE "image"

struct image_job {
	struct process *process;
	const char *what; /* "save", "restore", "memory" */
	int (*run)(struct image_job *j, struct error *e);
	int fd, folder; /* folder: of a snapshot, or -1 */
	bool disks_touched;
	pthread_t thread;
	bool keep, encrypted, lazy;
	struct image_key key;
	enum page_compression compression;
	struct image_info info;
	struct image_progress progress;
	uint64_t began, paused_at, resumed_at;
	int rc;
	struct error error;
};

static void job_free(struct image_job *j)
{
	explicit_bzero(&j->key, sizeof(j->key));
	image_info_free(&j->info);
	if (j->fd >= 0)
		close(j->fd);
	if (j->folder >= 0)
		close(j->folder);
	free(j);
}

static const struct image_key *job_key(const struct image_job *j)
{
	return j->encrypted ? &j->key : NULL;
}

/* ---- the threads --------------------------------------------------------------- */

/* The image stands for the disks as they are now. Their writes in flight are in it, and are
 * done again by whoever restores it. */
static int disks_sync(struct process *p, struct error *e)
{
	for (unsigned i = 0; i < p->config.disk_count; i++) {
		struct disk_backend *d = p->disks[i].file;

		if (!d->readonly && d->fd >= 0 && fdatasync(d->fd))
			return error_set(e, -errno, "cannot sync disk %u: %s", i, strerror(errno));
	}
	return 0;
}

static int on_paused(void *ctx, struct error *e)
{
	struct image_job *j = ctx;

	j->paused_at = clock_ns();
	if (j->folder >= 0)
		return image_disks_copy(j->process, j->folder, &j->progress.cancel, e);
	return disks_sync(j->process, e);
}

/* The stall begins before the pause and outlasts it: nothing runs between what is in the image
 * and the end of the vm. */
static int save_run(struct image_job *j, struct error *e)
{
	const struct image_save_options o = {.info = &j->info,
					     .key = job_key(j),
					     .compression = j->compression,
					     .live = j->keep,
					     .paused = on_paused,
					     .ctx = j,
					     .progress = &j->progress};
	struct vm *vm = j->process->vm;
	bool stalled = !j->keep && !j->process->paused;
	int rc;

	if (stalled)
		vm_stall(vm, STALL_ORDER);
	rc = image_save(vm, j->fd, &o, e);
	if (!rc) {
		rc = vm_resume(vm);
		if (rc)
			error_set(e, rc, "the vm cannot go on: %s", strerror(-rc));
	}
	if (rc && stalled)
		vm_unstall(vm, STALL_ORDER);
	return rc;
}

static int restore_run(struct image_job *j, struct error *e)
{
	struct image *image;
	int rc = image_open(j->fd, job_key(j), &image, e);

	if (rc)
		return rc;
	/* Nothing is put back for an image that cannot be used. */
	if (j->folder >= 0)
		rc = image_verify(image, &j->progress, e);
	if (!rc && j->folder >= 0) {
		j->disks_touched = true;
		atomic_store(&j->progress.pages, 0);
		rc = image_disks_put_back(j->process, j->folder, &j->progress.cancel, e);
	}
	if (!rc)
		rc = image_load(image, j->process->vm, &j->progress, e);
	image_close(image);
	return rc;
}

static void job_loaded(void *ctx);

/* From job_loaded() on the vm may run. */
static int lazy_run(struct image_job *j, struct error *e)
{
	struct image_lazy *l;
	int rc = vm_lazy_prepare(j->process->vm, e);

	if (rc) {
		error_context(e, "restore it without --lazy");
		return rc;
	}
	rc = image_lazy_begin(j->process->vm, j->fd, job_key(j), &j->progress, &l, e);
	if (rc)
		return rc;
	process_post(j->process, job_loaded, j);
	rc = image_lazy_run(l, e);
	image_lazy_end(l);
	return rc;
}

/* ---- its end, on the main thread ------------------------------------------------- */

static void job_report(struct process *p, const struct image_job *j, int rc)
{
	char text[400];
	json_t *event;

	event = json_pack("{s:s, s:s, s:b, s:I, s:I, s:f, s:f}", "event", "image", "what", j->what,
			  "ok", !rc, "pages", (json_int_t)j->progress.pages, "bytes",
			  (json_int_t)j->progress.bytes, "ms",
			  (double)(clock_ns() - j->began) / 1e6, "pause_ms",
			  j->paused_at ? (double)(j->resumed_at - j->paused_at) / 1e6 : 0.0);
	if (event && rc) {
		text_copy(text, sizeof(text), j->error.text[0] ? j->error.text : strerror(-rc));
		json_object_set_new(event, "code", json_integer(rc));
		json_object_set_new(event, "disks_touched", json_boolean(j->disks_touched));
		json_object_set_new(event, "error", json_string(text));
	}
	process_event(p, event);
}

/* Posted by a thread that then posts its end: the job is still there. */
static void job_loaded(void *ctx)
{
	struct image_job *j = ctx;

	j->process->image_loaded = true;
	job_report(j->process, j, 0);
	j->what = "memory";
}

static void job_settle(struct process *p, struct image_job *j)
{
	if (j->run == save_run)
		p->image_saved |= !j->rc && !j->keep;
	else if (j->run == restore_run)
		p->image_loaded = !j->rc;
	else if (j->rc)
		p->image_loaded = false;
	p->paused |= p->image_saved;
}

static void job_done(void *ctx)
{
	struct image_job *j = ctx;
	struct process *p = j->process;

	pthread_join(j->thread, NULL);
	p->image = NULL;
	loop_timer_set(p->progress, 0);
	/* Its last state is that of a guest that is off. */
	if (j->run == save_run && !j->rc && p->vm_ended)
		j->rc = error_set(&j->error, -ESHUTDOWN, "the guest has ended meanwhile");
	job_settle(p, j);
	if (j->rc)
		log_warn("%s failed: %s", j->what, j->error.text);
	else
		log_info("%s done: %lu pages, %lu bytes", j->what, (unsigned long)j->progress.pages,
			 (unsigned long)j->progress.bytes);
	job_report(p, j, j->rc);
	if (j->rc && j->lazy && p->vm_started)
		process_vm_event(p, VM_EVENT_CRASH, j->error.text);
	job_free(j);
}

static void *job_main(void *ctx)
{
	struct image_job *j = ctx;

	log_context_vm(j->process->config.name);
	j->rc = j->run(j, &j->error);
	j->resumed_at = clock_ns();
	process_post(j->process, job_done, j);
	return NULL;
}

/* ---- requests ----------------------------------------------------------------------- */

static void files_close(int fd, int folder)
{
	if (fd >= 0)
		close(fd);
	if (folder >= 0)
		close(folder);
}

static int job_new(struct process *p, const json_t *request, int fd, int folder,
		   struct image_job **out, struct error *e)
{
	struct image_job *j = calloc(1, sizeof(*j));
	int rc = 0;

	if (!j || fd < 0) {
		free(j);
		files_close(fd, folder);
		return error_set(e, -EINVAL, "a file must come with it");
	}
	j->process = p;
	j->fd = fd;
	j->folder = folder;
	j->began = clock_ns();
	j->encrypted = json_object_get(request, "key");
	if (j->encrypted)
		rc = hex_parse(request, "key", j->key.bytes, sizeof(j->key.bytes), e);
	if (rc)
		job_free(j);
	else
		*out = j;
	return rc;
}

static int job_start(struct process *p, struct image_job *j, struct error *e)
{
	int rc = thread_start(&j->thread, "image", job_main, j);

	if (rc) {
		job_free(j);
		return error_set(e, rc, "cannot start a thread: %s", strerror(-rc));
	}
	p->image = j;
	loop_timer_set(p->progress, clock_ns() + NS_PER_SEC / 4);
	return 0;
}

static void disks_describe(const struct process *p, bool copied, struct image_info *out)
{
	out->disk_count = p->config.disk_count;
	for (unsigned i = 0; i < out->disk_count; i++) {
		struct image_disk *d = &out->disks[i];

		strcpy(d->path, p->config.disks[i].path);
		d->size = p->disks[i].file->size;
		d->readonly = p->disks[i].file->readonly;
		d->copied = copied && !d->readonly;
	}
}

static int info_take(const struct process *p, const json_t *request, bool copied,
		     struct image_info *out, struct error *e)
{
	const char *config = json_string_value(json_object_get(request, "config"));
	const char *origin = json_string_value(json_object_get(request, "origin"));
	const char *identity = json_string_value(json_object_get(request, "identity"));

	if (!config || !origin || strlen(config) > IMAGE_CONFIG_MAX ||
	    (identity && strlen(identity) >= sizeof(out->identity)))
		return error_set(e, -EINVAL, "save needs \"config\" and \"origin\"");
	strcpy(out->name, p->config.name);
	strcpy(out->identity, identity ? identity : "");
	out->term = (uint64_t)json_integer_value(json_object_get(request, "term"));
	out->config = strdup(config);
	out->origin = strdup(origin);
	disks_describe(p, copied, out);
	return out->config && out->origin ? 0 : error_set(e, -ENOMEM, "out of memory");
}

/* `alone`: without its disks. */
static int may_save(const struct process *p, bool keep, bool alone, struct error *e)
{
	if (p->role != ROLE_PRIMARY || !p->vm_started || p->vm_ended)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->replicator || p->replicator_state == REPLICATOR_LOST)
		return error_set(e, -EBUSY, "a protected vm cannot be saved: unprotect first");
	if (p->image || p->image_saved || p->dump)
		return error_set(e, -EBUSY, "the vm is being saved already, or its core written");
	for (unsigned i = 0; keep && alone && i < p->config.disk_count; i++)
		if (!p->disks[i].file->readonly)
			return error_set(e, -EINVAL,
					 "a vm with a writable disk cannot run on: its disk would "
					 "no longer be that of the image");
	return process_whole(p, e);
}

int image_save_begin(struct process *p, const json_t *request, int fd, int folder, struct error *e)
{
	bool keep = json_is_true(json_object_get(request, "keep"));
	struct image_job *j;
	int compression = COMPRESS_LZ4, rc = may_save(p, keep, folder < 0, e);

	if (rc) {
		files_close(fd, folder);
		return rc;
	}
	rc = job_new(p, request, fd, folder, &j, e);
	if (rc)
		return rc;
	j->what = "save";
	j->run = save_run;
	j->keep = keep;
	rc = compression_parse(request, &compression, e);
	if (!rc && compression == COMPRESS_AUTO)
		rc = error_set(e, -EINVAL, "an image is compressed by none, lz4 or zlib");
	if (!rc)
		rc = info_take(p, request, folder >= 0, &j->info, e);
	if (rc) {
		job_free(j);
		return rc;
	}
	j->compression = (enum page_compression)compression;
	return job_start(p, j, e);
}

int image_restore_begin(struct process *p, const json_t *request, int fd, int folder,
			struct error *e)
{
	struct image_job *j;
	int rc;

	if (!p->vm || p->role != ROLE_PRIMARY || p->vm_started || p->image || p->image_loaded) {
		files_close(fd, folder);
		return error_set(e, -EINVAL, "only a new primary can be restored");
	}
	rc = job_new(p, request, fd, folder, &j, e);
	if (rc)
		return rc;
	j->what = "restore";
	j->lazy = json_is_true(json_object_get(request, "lazy"));
	j->run = j->lazy ? lazy_run : restore_run;
	return job_start(p, j, e);
}

int image_go(struct process *p, struct error *e)
{
	int rc;

	if (!p->image_loaded || p->vm_started)
		return error_set(e, -EINVAL, "no image has been restored here");
	rc = vm_start(p->vm, e);
	if (rc)
		return rc;
	p->vm_started = true;
	process_announce(p);
	return 0;
}

/* Not when the vm runs already: it would be its end. */
void image_cancel(struct process *p)
{
	if (p->image && !(p->image->lazy && p->vm_started))
		atomic_store(&p->image->progress.cancel, true);
}

json_t *image_json(const struct process *p)
{
	const struct image_progress *i = &p->image->progress;

	return json_pack("{s:s, s:I, s:I, s:I}", "what", p->image->what, "pages",
			 (json_int_t)i->pages, "pages_total", (json_int_t)i->pages_total, "bytes",
			 (json_int_t)i->bytes);
}

/* Its end has been posted, and will be dealt with by the last round of the loop. */
void image_end(struct process *p)
{
	struct timespec tick = {.tv_nsec = NS_PER_MS};
	int rc = 0;

	if (p->image)
		atomic_store(&p->image->progress.cancel, true);
	while (p->image && !rc) {
		nanosleep(&tick, NULL);
		rc = loop_step(p->control, 1);
	}
}

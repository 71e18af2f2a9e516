// SPDX-License-Identifier: Apache-2.0
/*
 * Saving a VM to a file and restoring it.
 *
 * A save is written to FILE.partial by the VM process. When all of it is there and synced the
 * decision is stored: the record names the file. Only then is the file given its name and the
 * process ended, and a polluxd that is restarted in between does what is left. The disks are
 * those of the image as long as the VM has not run since, which its terms tell.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/guest.h"
#include "migrate/migrate.h"

#define LOG_MODULE "image"
#define QUICK_NS   (10 * NS_PER_SEC)
#define PARTIAL    ".partial"

struct guest_image {
	char file[PATH_MAX];
	int fd, folder; /* folder: of a snapshot, or -1 */
	bool restoring, keep, encrypted, lazy;
	struct image_key key;
};

static struct guest_image *work_new(const char *file, bool restoring)
{
	struct guest_image *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	snprintf(w->file, sizeof(w->file), "%s", file);
	w->fd = w->folder = -1;
	w->restoring = restoring;
	return w;
}

static void work_free(struct guest_image *w)
{
	if (!w)
		return;
	if (w->fd >= 0)
		close(w->fd);
	if (w->folder >= 0)
		close(w->folder);
	explicit_bzero(&w->key, sizeof(w->key));
	free(w);
}

static void partial_path(const char *file, char out[PATH_MAX + 16])
{
	snprintf(out, PATH_MAX + 16, "%s" PARTIAL, file);
}

/* That in which the image of a snapshot is. */
static void folder_path(const struct guest_image *w, char out[PATH_MAX])
{
	snprintf(out, PATH_MAX, "%.*s", (int)(strrchr(w->file, '/') - w->file), w->file);
}

static int folder_open(struct guest_image *w, struct error *e)
{
	char folder[PATH_MAX];

	folder_path(w, folder);
	w->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return w->folder < 0 ? error_set(e, -errno, "cannot open %s: %s", folder, strerror(errno))
			     : 0;
}

static int work_ask(struct guest *g, json_t *request, vm_child_reply_fn *fn)
{
	const int fds[] = {g->image->fd, g->image->folder};

	return vm_child_ask(g->child, request, fds, g->image->folder < 0 ? 1 : 2, QUICK_NS, fn, g);
}

bool guest_image_restoring(const struct guest *g)
{
	return g->image && g->image->restoring;
}

bool guest_image_lazy(const struct guest *g)
{
	return guest_image_restoring(g) && g->image->lazy;
}

void guest_image_drop(struct guest *g)
{
	char partial[PATH_MAX + 16];

	if (g->image && !g->image->restoring && !g->saved) {
		partial_path(g->image->file, partial);
		unlink(partial);
		folder_path(g->image, partial);
		if (g->image->folder >= 0)
			snapshot_remove(partial);
	}
	work_free(g->image);
	g->image = NULL;
}

static int file_check(const char *file, struct error *e, const char **hint)
{
	if (file[0] == '/' && strlen(file) < PATH_MAX)
		return 0;
	return guest_refuse(e, hint, -EINVAL, "polluxd has another working folder than you",
			    "the path of an image must be absolute");
}

static int key_take(struct guest_image *w, const char *key_file, struct error *e, const char **hint)
{
	int rc;

	if (!key_file)
		return 0;
	*hint = "`openssl rand -hex 32 >FILE` makes one";
	rc = image_key_read(key_file, &w->key, e);
	w->encrypted = !rc;
	return rc == -EBADMSG || rc == -ENOENT ? -EINVAL : rc;
}

static json_t *key_put(const struct guest_image *w, json_t *request)
{
	char hex[2 * IMAGE_KEY_SIZE + 1];

	if (!w->encrypted)
		return request;
	hex_encode(w->key.bytes, sizeof(w->key.bytes), hex);
	json_object_set_new(request, "key", json_string(hex));
	explicit_bzero(hex, sizeof(hex));
	return request;
}

/* ---- save ------------------------------------------------------------------------------- */

static int folder_sync(const char *file)
{
	char folder[PATH_MAX];
	char *slash;
	int fd, rc;

	snprintf(folder, sizeof(folder), "%s", file);
	slash = strrchr(folder, '/');
	slash[slash == folder] = '\0';
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

static int file_name(const char *file)
{
	char partial[PATH_MAX + 16];
	int rc = fault_point("image.rename");

	partial_path(file, partial);
	if (!rc && rename(partial, file))
		rc = -errno;
	return rc ? rc : folder_sync(file);
}

static int saved_store(struct guest *g, const char *file, struct error *e)
{
	char *text = file ? strdup(file) : NULL;

	if (file && !text)
		return error_set(e, -ENOMEM, "out of memory");
	free(g->saved);
	g->saved = text;
	return guest_store(g, &g->own.record, e);
}

static void save_failed(struct guest *g, int code, const char *text)
{
	guest_image_drop(g);
	timeline_add(&g->timeline, "save failed", "%s", text);
	guest_operation_fail(g, code, text,
			     code == -ENOSPC ? "the VM runs on; make room and save it again"
					     : "the VM runs on");
}

static void save_undo(struct guest *g, int code, const char *text)
{
	struct error e = {0};

	if (g->saved && saved_store(g, NULL, &e))
		log_error("%s", e.text);
	save_failed(g, code, text);
	guest_child_ask(g, json_pack("{s:s}", "do", "resume"), QUICK_NS, NULL);
}

static void save_kept(struct guest *g)
{
	int rc = file_name(g->image->file);
	char folder[PATH_MAX];

	folder_path(g->image, folder);
	if (!rc && g->image->folder >= 0)
		rc = snapshot_name(folder);
	if (rc) {
		save_failed(g, rc, strerror(-rc));
		return;
	}
	work_free(g->image);
	g->image = NULL;
	guest_operation_done(g);
}

static void save_written(struct guest *g, const json_t *message)
{
	struct error e = {0};
	int rc;

	timeline_add(&g->timeline, "saved", "%s, %lld bytes, in %.0f ms", g->image->file,
		     (long long)json_integer_of(message, "bytes", 0),
		     json_real_value(json_object_get(message, "ms")));
	if (g->image->keep) {
		save_kept(g);
		return;
	}
	rc = saved_store(g, g->image->file, &e);
	if (!rc) {
		rc = file_name(g->image->file);
		if (rc)
			error_set(&e, rc, "cannot name the image: %s", strerror(-rc));
	}
	if (rc) {
		save_undo(g, rc, e.text);
		return;
	}
	guest_why(g, "the vm has ended: it is saved in %.160s: `pollux restore` goes on with it",
		  g->saved);
	guest_vm_end(g);
}

void guest_image_check(struct guest *g)
{
	if (!g->child && g->saved && g->own.state == OWN_IDLE)
		guest_operation_done(g);
	else if (!g->child)
		guest_operation_fail(g, -EIO, g->why, "see the log of polluxd");
}

void guest_image_finish(struct guest *g)
{
	char partial[PATH_MAX + 16];
	int rc = 0;

	partial_path(g->saved, partial);
	if (!access(partial, F_OK))
		rc = file_name(g->saved);
	if (rc)
		log_error_rc(rc, "%s: the image %s" PARTIAL " cannot be given its name", g->name,
			     g->saved);
	guest_why(g, "the vm has ended: it is saved in %.160s: `pollux restore` goes on with it",
		  g->saved);
	guest_vm_kill(g);
}

static void save_asked(void *ctx, int rc, const json_t *reply, const char *text)
{
	if (rc && rc != -EPIPE)
		save_failed(ctx, rc, text);
}

/* Nobody else may write it: the lock goes with the file, and to the VM process. */
static int partial_open(struct guest_image *w, struct error *e, const char **hint)
{
	char partial[PATH_MAX + 16];
	int rc = 0;

	partial_path(w->file, partial);
	w->fd = open(partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->fd < 0)
		return guest_refuse(e, hint, -errno, "", "cannot make %s: %s", partial,
				    strerror(errno));
	if (flock(w->fd, LOCK_EX | LOCK_NB))
		return guest_refuse(e, hint, -EBUSY, "choose another file",
				    "%s is being written by another save", partial);
	if (ftruncate(w->fd, 0))
		rc = guest_refuse(e, hint, -errno, "", "cannot empty %s: %s", partial,
				  strerror(errno));
	return rc;
}

static int may_save(struct guest *g, const struct save_options *o, struct error *e,
		    const char **hint)
{
	int rc = guest_busy(g, e, hint);

	if (!rc)
		rc = file_check(o->file, e, hint);
	if (rc)
		return rc;
	if (g->own.state == OWN_PRIMARY || g->own.state == OWN_ASKING || g->again.wanted)
		return guest_refuse(e, hint, -EPERM, "`pollux unprotect` it first",
				    "%s is protected", g->name);
	if (g->own.state != OWN_ALONE || g->child_role != CHILD_VM || !g->child_state[0] ||
	    g->vm_ended || g->stopping)
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    "%s does not run on this host", g->name);
	if (!o->overwrite && !access(o->file, F_OK))
		return guest_refuse(e, hint, -EEXIST, "choose another name, or use --overwrite",
				    "%s is there already", o->file);
	return 0;
}

static int save_ask(struct guest *g, const struct save_options *o, struct error *e)
{
	json_t *request = json_pack("{s:s, s:s, s:s, s:s, s:I, s:b}", "do", "save", "config",
				    g->config, "origin", g->origin, "identity", g->identity, "term",
				    (json_int_t)g->own.record.term, "keep", g->image->keep);
	int rc;

	if (request && o->compression)
		json_object_set_new(request, "compression", json_string(o->compression));
	if (request)
		key_put(g->image, request);
	rc = work_ask(g, request, save_asked);
	return rc ? error_set(e, rc, "the VM process cannot be asked: %s", strerror(-rc)) : 0;
}

int guest_save(struct guest *g, const struct save_options *o, struct error *e, const char **hint)
{
	int rc = may_save(g, o, e, hint);

	if (rc)
		return rc;
	g->image = work_new(o->file, false);
	if (!g->image)
		return error_set(e, -ENOMEM, "out of memory");
	g->image->keep = o->keep;
	rc = key_take(g->image, o->key_file, e, hint);
	if (!rc)
		rc = partial_open(g->image, e, hint);
	if (!rc && o->snapshot)
		rc = folder_open(g->image, e);
	if (rc) {
		work_free(g->image); /* a file that another save writes is not ours */
		g->image = NULL;
		return rc;
	}
	guest_operation_begin(g, o->snapshot ? "snapshot" : "save");
	timeline_add(&g->timeline, "save asked", "to %s", o->file);
	rc = save_ask(g, o, e);
	if (rc)
		save_failed(g, rc, e->text);
	else if (g->image) {
		close(g->image->fd); /* the process has it */
		g->image->fd = -1;
	}
	return rc;
}

/* ---- restore ------------------------------------------------------------------------------- */

static int disk_check(const struct image_disk *want, const struct offered_disk *is, struct error *e,
		      const char **hint)
{
	if (strcmp(want->path, is->path) != 0 || want->readonly != is->readonly)
		return error_set(e, -EBADMSG, "the image's disks are not those of its own VM file");
	if (want->size != is->size)
		return guest_refuse(e, hint, -EINVAL, "put the disk of that time back",
				    "the disk %s has %" PRIu64 " bytes here, and had %" PRIu64
				    " when the VM was saved",
				    is->path, is->size, want->size);
	return 0;
}

static int disks_check(struct guest *g, const struct image_info *about, bool forced, bool put_back,
		       struct error *e, const char **hint)
{
	struct offer *now = calloc(1, sizeof(*now));
	bool writable = false;
	int rc;

	if (!now)
		return error_set(e, -ENOMEM, "out of memory");
	*hint = "the disks of that time must be there";
	rc = guest_disks_describe(g, now, e);
	if (!rc && now->disk_count != about->disk_count)
		rc = error_set(e, -EBADMSG, "the image's disks are not those of its own VM file");
	for (unsigned i = 0; !rc && i < about->disk_count; i++) {
		rc = disk_check(&about->disks[i], &now->disks[i], e, hint);
		writable |= !about->disks[i].readonly;
	}
	free(now);
	if (rc || !writable || forced || put_back || !g->own.record.term ||
	    g->disks_term == about->term)
		return rc;
	return guest_refuse(e, hint, -EPERM,
			    "what the guest remembers of its disks would be wrong, and destroy "
			    "them: start it from its disks, or put those of that time back and "
			    "use --force",
			    "%s has run since it was saved: its disks are no longer those of the "
			    "image",
			    g->name);
}

static int identity_check(struct guest *g, const struct image_info *about, struct error *e,
			  const char **hint)
{
	if (!g->identity[0] || !about->identity[0] || !strcmp(g->identity, about->identity))
		return 0;
	return guest_refuse(e, hint, -EPERM, "rename one of the two",
			    "the image is of another VM that is called %s too", g->name);
}

/* The image's VM file; a refusal leaves that of before. */
static int config_try(struct guest *g, const struct image_info *about, bool forced, bool put_back,
		      struct error *e, const char **hint)
{
	char *config = g->config, *origin = g->origin;
	int rc;

	g->config = g->origin = NULL;
	rc = guest_config_set(g, about->config, about->origin);
	if (rc)
		error_set(e, rc, "out of memory");
	else
		rc = disks_check(g, about, forced, put_back, e, hint);
	if (rc) {
		free(g->config);
		free(g->origin);
		g->config = config;
		g->origin = origin;
	} else {
		free(config);
		free(origin);
	}
	return rc;
}

/* The VM of the image, ready to be started. */
static int restore_prepare(struct guest *g, const struct image_info *about, bool forced,
			   bool put_back, struct error *e, const char **hint)
{
	int rc = guest_busy(g, e, hint);

	if (rc)
		return rc;
	if (g->child)
		return guest_start_refused(g, -EBUSY, e, hint);
	rc = identity_check(g, about, e, hint);
	if (!rc && g->torn && !put_back && !forced)
		rc = guest_refuse(e, hint, -EPERM, "roll it back once more: `pollux rollback`",
				  "the disks of %s are half those of the snapshot '%s'", g->name,
				  g->torn);
	if (!rc)
		rc = config_try(g, about, forced, put_back, e, hint);
	if (rc)
		return rc;
	if (!g->own.record.term && g->own.state == OWN_NONE)
		snprintf(g->identity, sizeof(g->identity), "%s", about->identity);
	rc = guest_identity_draw(g);
	return rc ? error_set(e, rc, "OpenSSL has no random numbers") : 0;
}

/* From its start until all is back its disks may be neither what they were nor what they
 * shall be: stored with the new term. */
static void torn_set(struct guest *g, const struct guest_image *w)
{
	char folder[PATH_MAX] = "";

	free(g->torn);
	g->torn = NULL;
	if (!w)
		return;
	folder_path(w, folder);
	g->torn = strdup(strrchr(folder, '/') + 1);
}

static int restore_begin(struct guest *g, struct guest_image *w, bool forced, struct error *e,
			 const char **hint)
{
	int rc;

	if (w->folder >= 0)
		torn_set(g, w);
	g->image = w;
	guest_operation_begin(g, w->folder < 0 ? "restore" : "rollback");
	timeline_add(&g->timeline, "restore asked", "from %s", w->file);
	rc = guest_ask_ownership(g,
				 &(struct ownership_input){.type = OWN_EV_RUN, .forced = forced});
	if (!rc)
		return 0;
	g->image = NULL;
	torn_set(g, NULL);
	g->operation.state = OPERATION_NONE;
	return guest_start_refused(g, rc, e, hint);
}

static int image_begin(struct agent *a, struct guest_image *w, bool forced, struct guest **out,
		       struct error *e, const char **hint)
{
	const struct image_info *about;
	struct image *image;
	int rc;

	*hint = "";
	rc = image_open(w->fd, w->encrypted ? &w->key : NULL, &image, e);
	if (rc) {
		error_context(e, "%s", w->file);
		return rc == -ENOKEY || rc == -EKEYREJECTED ? -EPERM : -EINVAL;
	}
	about = image_about(image);
	rc = guest_of_config(a, about->config, about->origin, out, e);
	if (!rc && strcmp((*out)->name, about->name) != 0)
		rc = error_set(e, -EBADMSG, "%s: the VM file in it is that of '%s'", w->file,
			       (*out)->name);
	if (!rc)
		rc = restore_prepare(*out, about, forced, w->folder >= 0, e, hint);
	if (!rc)
		rc = restore_begin(*out, w, forced, e, hint);
	image_close(image);
	return rc;
}

int guest_restore(struct agent *a, const struct restore_options *o, struct guest **out,
		  struct error *e, const char **hint)
{
	const char *file = o->file;
	struct guest_image *w;
	int rc = file_check(file, e, hint);

	if (rc)
		return rc;
	w = work_new(file, true);
	if (!w)
		return error_set(e, -ENOMEM, "out of memory");
	w->lazy = o->lazy;
	rc = o->snapshot ? folder_open(w, e) : 0;
	if (rc) {
		work_free(w);
		return rc;
	}
	rc = key_take(w, o->key_file, e, hint);
	if (!rc) {
		w->fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (w->fd < 0)
			rc = guest_refuse(e, hint, errno == ENOENT ? -ENOENT : -EINVAL, "",
					  "cannot open %s: %s", file, strerror(errno));
	}
	if (!rc)
		rc = image_begin(a, w, o->forced, out, e, hint);
	if (rc)
		work_free(w);
	return rc;
}

static void restore_failed(struct guest *g, int code, const char *text)
{
	guest_start_failed(g, code, text, "nothing of it runs, and its disks are untouched");
}

static void load_asked(void *ctx, int rc, const json_t *reply, const char *text)
{
	if (rc && rc != -EPIPE)
		restore_failed(ctx, rc, text);
}

void guest_image_load(struct guest *g)
{
	json_t *request = json_pack("{s:s, s:b}", "do", "restore", "lazy", g->image->lazy);
	int rc;

	if (request)
		key_put(g->image, request);
	rc = work_ask(g, request, load_asked);
	if (rc)
		restore_failed(g, rc, strerror(-rc));
}

/* The disks are what they were: nothing was put back. */
static void torn_clear(struct guest *g)
{
	struct error e = {0};

	if (!g->torn || g->image->folder < 0)
		return;
	torn_set(g, NULL);
	if (guest_store(g, &g->own.record, &e))
		log_error("%s", e.text);
}

/* From here on the disks are this term's. */
static void restore_loaded(struct guest *g)
{
	struct error e = {0};
	int rc;

	work_free(g->image);
	g->image = NULL;
	torn_set(g, NULL);
	g->disks_term = g->own.record.term;
	rc = saved_store(g, NULL, &e);
	if (rc)
		restore_failed(g, rc, e.text);
	else
		guest_child_ask(g, json_pack("{s:s}", "do", "go"), QUICK_NS, guest_vm_booted);
}

/* ---- both -------------------------------------------------------------------------------------
 */

void guest_image_event(struct guest *g, const json_t *message)
{
	bool ok = json_is_true(json_object_get(message, "ok"));
	int code = (int)json_integer_of(message, "code", -EIO);
	const char *text = json_text_of(message, "error");

	if (!strcmp(json_text_of(message, "what"), "memory"))
		timeline_add(&g->timeline, ok ? "memory read" : "memory lost", "%s", text);
	if (!g->image)
		return;
	if (g->image->restoring && ok)
		restore_loaded(g);
	else if (g->image->restoring) {
		if (!json_is_true(json_object_get(message, "disks_touched")))
			torn_clear(g);
		restore_failed(g, code, text);
	} else if (ok)
		save_written(g, message);
	else
		save_failed(g, code, text);
}

int guest_image_cancel(struct guest *g, struct error *e, const char **hint)
{
	if (!g->image || !g->child)
		return guest_refuse(e, hint, -EPERM, "`pollux status` says how it is",
				    "%s is neither being saved nor restored", g->name);
	guest_child_ask(g, json_pack("{s:s}", "do", "image-cancel"), QUICK_NS, NULL);
	return 0;
}

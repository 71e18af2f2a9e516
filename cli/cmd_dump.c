// SPDX-License-Identifier: Apache-2.0
/*
 * dump-core. The file is made here, beside its name; it gets that name when the core is whole.
 * polluxd hands its descriptor to the VM process, and gives the core up when the connection over
 * which it came closes, so also when this process is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vm-process/vm-process.h"

struct core_file {
	const char *path;
	char partial[PATH_MAX];
	int fd, connection; /* -1: none */
	bool force;
};

/* ---- the file --------------------------------------------------------------------------- */

static int file_exists(const struct core_file *f)
{
	complain("%s exists", f->path);
	complain("choose another name, or use --force to replace it when the core is whole");
	return EXIT_REFUSED;
}

static int file_make(struct core_file *f)
{
	struct stat st;

	if (!f->force && !lstat(f->path, &st))
		return file_exists(f);
	if (snprintf(f->partial, sizeof(f->partial), "%s.XXXXXX", f->path) >=
	    (int)sizeof(f->partial)) {
		complain("%s: %s", f->path, strerror(ENAMETOOLONG));
		return EXIT_FAILED;
	}
	f->fd = mkostemp(f->partial, O_CLOEXEC);
	if (f->fd < 0) {
		complain("cannot make %s: %s", f->path, strerror(errno));
		return EXIT_FAILED;
	}
	return EXIT_OK;
}

/* Not over a file that somebody else has made meanwhile. Where the file system cannot promise
 * that, a look must do. */
static int file_rename(const struct core_file *f)
{
	struct stat st;

	if (f->force)
		return rename(f->partial, f->path) ? -errno : 0;
	if (!renameat2(AT_FDCWD, f->partial, AT_FDCWD, f->path, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (!lstat(f->path, &st))
		return -EEXIST;
	return rename(f->partial, f->path) ? -errno : 0;
}

static int file_name(const struct core_file *f)
{
	int rc = file_rename(f);

	if (rc == -EEXIST)
		return file_exists(f);
	if (rc)
		complain("cannot give the core its name %s: %s", f->path, strerror(-rc));
	return rc ? EXIT_FAILED : EXIT_OK;
}

static void file_close(struct core_file *f, bool keep)
{
	if (f->connection >= 0)
		close(f->connection);
	if (f->fd < 0)
		return;
	close(f->fd);
	if (!keep)
		unlink(f->partial);
}

/* ---- polluxd -------------------------------------------------------------------------------- */

static int file_send(struct core_file *f, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	json_t *message;
	int rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	f->connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (f->connection < 0 ||
	    connect(f->connection, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	message = json_pack("{s:s}", "file", f->path);
	rc = control_send(f->connection, message, &f->fd, 1);
	json_decref(message);
	return rc;
}

static int file_hand_over(struct core_file *f, const json_t *vm)
{
	const char *path = json_word(json_object_get(vm, "dump"), "socket");
	int rc = file_send(f, path);

	if (rc)
		complain("the core's file cannot be given to polluxd at %s: %s", path,
			 strerror(-rc));
	return rc ? EXIT_FAILED : EXIT_OK;
}

struct dump_wait {
	struct wait wait;
	struct core_file *file;
};

/* Ctrl-C: the guest goes on before this command ends. */
static int dump_interrupted(const struct wait *w)
{
	struct core_file *f = CONTAINER_OF(w, struct dump_wait, wait)->file;
	const struct wait until = {.invocation = w->invocation,
				   .vm = w->vm,
				   .doing = "cancelling",
				   .interrupted = wait_leave};
	json_t *vm;

	complain("interrupted; no core is kept");
	close(f->connection);
	f->connection = -1;
	interrupt_catch(); /* the next one is for `until` */
	if (!api_vm_call(w->invocation, "GET", w->vm, "", NULL, &vm))
		(void)!operation_wait(&until, vm, NULL);
	return EXIT_FAILED;
}

static int core_report(const struct invocation *v, const struct core_file *f, json_t *vm)
{
	const json_t *dump = json_object_get(vm, "dump");
	char bytes[32], pause[32];

	bytes_text((uint64_t)json_number(dump, "bytes"), bytes, sizeof(bytes));
	nanoseconds_text((uint64_t)json_number(dump, "pause_ns"), pause, sizeof(pause));
	return success_print(v, vm, "%s: %s of %s, which was paused for %s\n", f->path, bytes,
			     v->arguments[0], pause);
}

static int core_write(const struct invocation *v, struct core_file *f, json_t **vm)
{
	const struct dump_wait w = {.wait = {.invocation = v,
					     .vm = v->arguments[0],
					     .doing = "dumping",
					     .interrupted = dump_interrupted},
				    .file = f};
	json_t *body = json_pack("{s:b, s:b}", "paging", invocation_flag(v, "paging"), "live",
				 invocation_flag(v, "live"));
	json_t *reply;
	int rc = operation_begin(v, w.wait.vm, "/dump-core", body, &reply);

	if (rc)
		return rc;
	rc = file_hand_over(f, reply);
	if (rc) {
		json_decref(reply);
		return rc;
	}
	return operation_wait(&w.wait, reply, vm);
}

int command_dump_core(const struct invocation *v)
{
	struct core_file f = {.path = v->arguments[1],
			      .fd = -1,
			      .connection = -1,
			      .force = invocation_flag(v, "force")};
	json_t *vm = NULL;
	int rc;

	interrupt_catch(); /* or the file would be left behind */
	rc = file_make(&f);
	if (!rc)
		rc = core_write(v, &f, &vm);
	if (!rc)
		rc = file_name(&f);
	file_close(&f, !rc);
	if (rc)
		json_decref(vm);
	return rc ? rc : core_report(v, &f, vm);
}
